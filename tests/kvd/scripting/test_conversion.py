"""Replies on their way into Lua and results on their way out."""

from __future__ import annotations

from typing import Any

import pytest

from kvd.scripting.conversion import from_boolean, from_number, from_pieces, size_in_lua, to_lua
from protocol.replies import NO_REPLY, BigNumber, ErrorReply, Set, Simple, Verbatim


def table(content: Any) -> Any:
    """Stand for lupa's table: a list or dict, recognisable."""
    return ("table", content)


@pytest.mark.parametrize(
    ("reply", "proto_2", "proto_3"),
    [
        (b"x", b"x", b"x"),
        (7, 7, 7),
        (None, False, None),
        (True, 1, True),
        (False, 0, False),
        (1.5, b"1.5", table({b"double": 1.5})),
        (Simple(b"OK"), table({b"ok": b"OK"}), table({b"ok": b"OK"})),
        (ErrorReply("ERR \udcff"), table({b"err": b"ERR \xff"}), table({b"err": b"ERR \xff"})),
        ([b"a", None, (1,)], table([b"a", False, table([1])]), table([b"a", None, table([1])])),
        ({b"a": True}, table([b"a", 1]), table({b"map": table({b"a": True})})),
        (Set([b"a"]), table([b"a"]), table({b"set": table({b"a": True})})),
        (
            Verbatim(b"text", b"mkd"),
            b"text",
            table({b"verbatim_string": table({b"string": b"text", b"format": b"mkd"})}),
        ),
        (BigNumber(b"123"), b"123", table({b"big_number": b"123"})),
        (NO_REPLY, False, None),
    ],
)
def test_replies_become_lua_values(reply: Any, proto_2: Any, proto_3: Any) -> None:
    assert to_lua(reply, table, 2) == proto_2
    assert to_lua(reply, table, 3) == proto_3


def test_the_size_counts_every_byte() -> None:
    text = b"x" * 1000
    for reply in (text, [text], {text: 1}, Set([text]), Simple(text), Verbatim(text), BigNumber(text)):
        assert 1000 < size_in_lua(reply) < 1300
    assert size_in_lua(ErrorReply("x" * 1000)) > 1000
    assert size_in_lua([1] * 1000) > 16_000


@pytest.mark.parametrize(
    ("number", "integer"),
    [
        (3, 3),
        (3.99, 3),
        (-3.99, -3),
        (-0.5, 0),
        (2.0**62, 2**62),
        (2.0**63, -(2**63)),
        (-(2.0**63), -(2**63)),
        (1e300, -(2**63)),
        (float("inf"), -(2**63)),
        (float("nan"), -(2**63)),
    ],
)
def test_numbers_are_cut_to_integers_as_a_c_cast_does(number: float, integer: int) -> None:
    assert from_number(number) == integer


def test_booleans_depend_on_the_protocol() -> None:
    assert [from_boolean(value, 2) for value in (True, False)] == [1, None]
    assert [from_boolean(value, 3) for value in (True, False)] == [True, False]


@pytest.mark.parametrize(
    ("pieces", "reply"),
    [
        ([b"x"], b"x"),
        ([1.5], 1),
        ([None, b"null", None], None),
        ([None, b"boolean", True], 1),
        ([None, b"list", 2, b"a", None, b"list", 1, 7], [b"a", [7]]),
        ([None, b"map", 2, b"a", 1, b"b", None, b"null", None], {b"a": 1, b"b": None}),
        ([None, b"map", 1, None, b"list", 1, 1, 2], {(1,): 2}),
        ([None, b"map", 1, None, b"map", 1, 1, 2, 3], {((1, 2),): 3}),
        ([None, b"set", 1, b"a"], Set([b"a"])),
        ([None, b"double", 2], 2.0),
        ([None, b"status", b"fine"], Simple(b"fine")),
    ],
)
def test_pieces_are_put_together(pieces: list[Any], reply: Any) -> None:
    result = from_pieces(pieces, 2)
    assert result == reply
    assert type(result) is type(reply)


def test_line_breaks_in_a_big_number_become_spaces() -> None:
    result = from_pieces([None, b"number", b"1\r\n2"], 3)
    assert isinstance(result, BigNumber)
    assert result.digits == b"1  2"


def test_errors_and_texts_keep_every_byte() -> None:
    result = from_pieces([None, b"error", b"ERR \xff"], 3)
    assert isinstance(result, ErrorReply)
    assert result.text == "ERR \udcff"
    result = from_pieces([None, b"verbatim", b"mkd", b"\xff"], 3)
    assert isinstance(result, Verbatim)
    assert (result.format, result.text) == (b"mkd", b"\xff")
