"""The text of a script, before Lua sees it: its shebang line, and what the bundled Lua 5.1 must not get.

A script may begin with a line that says what it does, ``#!lua flags=no-writes,allow-stale``. Source: Redis 7.0
``#!lua``; the flags are checked, and the line is taken out, so that line numbers stay right.

The Lua 5.1 that lupa brings has two faults which its later releases repaired, and no bounds check would
catch: bytecode can be made to do anything (refused in `lua/base.lua`), and a function with many named
parameters and ``...`` writes past the end of the stack when it is called with fewer arguments
(CVE-2014-5461). There are six spare slots behind the end; three named parameters are sure to stay inside
them, so functions with more are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import attrs

from protocol.replies import ErrorReply

VARARG_PARAMETERS_MAX: Final = 3

_KNOWN_FLAGS: Final = frozenset(
    {"no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"}
)

# What matters of Lua 5.1's tokens: names, the marks of a parameter list, and where strings and comments begin.
_TOKEN: Final = re.compile(
    rb"(?P<long>(?:--)?\[=*\[)|(?P<comment>--)|(?P<quote>[\"'])|[A-Za-z_][A-Za-z_0-9]*|\.\.\.|[(),:]"
)
_LINE_REST: Final = re.compile(rb"[^\r\n]*")
_STRING_REST: Final = {
    quote: re.compile(rb"(?:\\(?:\r\n|\n\r|.)|[^%b\\\r\n])*+%b" % (quote, quote), re.DOTALL)
    for quote in (b'"', b"'")
}


@attrs.frozen
class Script:
    """A script as it is compiled: its text without the shebang line, and the flags of that line."""

    code: bytes
    flags: frozenset[str] | None  # None without a shebang line: the script may do anything

    @property
    def is_readonly(self) -> bool:
        return self.flags is not None and "no-writes" in self.flags


def parse(body: bytes) -> Script:
    """Return the script that `body` is. Raise `ErrorReply` if its shebang line is wrong."""
    if not body.startswith(b"#!"):
        return Script(body, None)
    line, newline, rest = body.partition(b"\n")
    if not newline:
        raise ErrorReply("ERR Invalid script shebang")
    words = line.decode("utf-8", "replace").split()
    if words[0] != "#!lua":
        raise ErrorReply(f"ERR Unexpected engine in script shebang: {words[0]}")
    return Script(newline + rest, _parse_flags(words[1:]))


def _parse_flags(options: list[str]) -> frozenset[str]:
    flags: list[str] = []
    for option in options:
        if not option.startswith("flags="):
            raise ErrorReply(f"ERR Unknown lua shebang option: {option}")
        flags += filter(None, option.removeprefix("flags=").split(","))
    for flag in flags:
        if flag not in _KNOWN_FLAGS:
            raise ErrorReply(f"ERR Unexpected flag in script shebang: {flag}")
    return frozenset(flags)


def vararg_problem(code: bytes) -> str | None:
    """Return why Lua must not compile `code`: a function with too many named parameters before ``...``.

    O(length), and nothing at all for text without three dots in a row.
    """
    if b"..." not in code:
        return None
    tokens = _tokens(code)
    for token in tokens:
        if token == b"function" and _named_before_dots(tokens) > VARARG_PARAMETERS_MAX:
            return (
                "functions with a variable number of arguments may have at most "
                f"{VARARG_PARAMETERS_MAX} named parameters before '...'"
            )
    return None


def _tokens(code: bytes) -> Iterator[bytes]:
    """Yield names and marks outside of strings and comments; stop where Lua would stop with an error."""
    position = 0
    while (found := _TOKEN.search(code, position)) is not None:
        position = found.end()
        if found["long"]:
            closing = found["long"].removeprefix(b"--").replace(b"[", b"]")
            position = code.find(closing, position) + len(closing)
            if position < len(closing):
                return
        elif found["comment"]:
            position = _end(_LINE_REST.match(code, position))
        elif found["quote"]:
            position = _end(_STRING_REST[found["quote"]].match(code, position))
            if position < 0:
                return
        else:
            yield found[0]


def _end(found: re.Match[bytes] | None) -> int:
    return -1 if found is None else found.end()


def _named_before_dots(tokens: Iterator[bytes]) -> int:
    """Read a function's head; return how many parameters it has before ``...``, 0 if it has no ``...``."""
    named = 0
    for token in tokens:
        if token == b":":
            named += 1  # a method has `self`
        elif token == b",":
            named += 1
        elif token == b"...":
            return named
        elif token == b")":
            break
    return 0
