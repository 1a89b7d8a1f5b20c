"""The shebang line, and functions that the bundled Lua must not compile."""

from __future__ import annotations

import pytest

from kvd.scripting.source import VARARG_PARAMETERS_MAX, parse, vararg_problem
from protocol.replies import ErrorReply


def test_a_script_without_shebang_may_do_anything() -> None:
    script = parse(b"return 1")
    assert script.code == b"return 1"
    assert script.flags is None
    assert not script.is_readonly


def test_the_shebang_line_is_cut_out_and_its_newline_kept() -> None:
    script = parse(b"#!lua flags=no-writes,allow-stale flags=allow-oom\nreturn 1")
    assert script.code == b"\nreturn 1"
    assert script.flags == frozenset({"no-writes", "allow-stale", "allow-oom"})
    assert script.is_readonly


def test_a_shebang_without_flags_declares_that_the_script_may_write() -> None:
    assert parse(b"#!lua\nreturn 1").flags == frozenset()
    assert parse(b"#!lua flags=\nreturn 1").flags == frozenset()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"#!lua", "ERR Invalid script shebang"),
        (b"#!", "ERR Invalid script shebang"),
        (b"#!python\nx", "ERR Unexpected engine in script shebang: #!python"),
        (b"#!\nx", "ERR Unexpected engine in script shebang: #!"),
        (b"#!lua flags=zz\nx", "ERR Unexpected flag in script shebang: zz"),
        (b"#!lua foo=bar\nx", "ERR Unknown lua shebang option: foo=bar"),
    ],
)
def test_a_wrong_shebang_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(ErrorReply) as refusal:
        parse(body)
    assert refusal.value.text == text


DANGEROUS = [
    b"local f = function(a,b,c,d,...) end",
    b"function f(a,b,c,d,...) end",
    b"function t.f(a , b\n, c --[[ x ) ]] , d --)\n, ...) end",
    b"function t:f(a,b,c,...) end",  # and self
    b"local s = '\\'' function f(a,b,c,d,...) end",
    b'local s = "\\\r\n" function f(a,b,c,d,...) end',
    b"local s = [==[ ]] ]=] ]==] function f(a,b,c,d,...) end",
    b"--[==[ ]] ]==] function f(a,b,c,d,...) end",
    b"--[=x\nfunction f(a,b,c,d,...) end",
    b"--[ [\nfunction f(a,b,c,d,...) end",
    b"f(function(...) end) f(function(a,b,c,d,...) end)",
]

HARMLESS = [
    b"return ...",
    b"function f(a,b,c,...) end",
    b"function f(a,b,c,d,e,f) return ... end",
    b"function t:f(a,b,...) end",
    b"local s = 'function f(a,b,c,d,...)'",
    b'local s = "function f(a,b,c,d,...)"',
    b"-- function f(a,b,c,d,...)",
    b"--[[ function f(a,b,c,d,...) ]]",
    b"local s = [[ function f(a,b,c,d,...) ]]",
    b"local myfunction = f(a,b,c,d,...)",
    b"return select(1,2,3,4,5,...)",
]


@pytest.mark.parametrize("code", DANGEROUS)
def test_a_variadic_function_with_many_parameters_is_found(code: bytes) -> None:
    assert vararg_problem(code) is not None


@pytest.mark.parametrize("code", HARMLESS)
def test_other_code_is_left_alone(code: bytes) -> None:
    assert vararg_problem(code) is None


def test_as_many_parameters_as_allowed_are_accepted() -> None:
    names = b"".join(b"p%d," % i for i in range(VARARG_PARAMETERS_MAX))
    assert vararg_problem(b"return function(" + names + b"...) end") is None
    assert vararg_problem(b"return function(" + names + b"last,...) end") is not None


@pytest.mark.parametrize(
    "piece", [b"[[", b"[=", b'"', b"'", b'"\\', b"--[[", b"function(", b"a,", b'\\"', b"--", b"["]
)
def test_the_look_at_the_code_takes_time_in_proportion_to_its_length(piece: bytes) -> None:
    """A second is a hundred times what a linear look takes; a quadratic one would take hours."""
    vararg_problem(b"... " + piece * 500_000)
