"""KEYS and SCAN: names of keys by pattern, in key order.

What every match starts with is a range of the key order, so ``user:*`` costs what it returns, not what is
stored. KEYS goes through its whole range, in slices if it is long (`kvd.commands.walks`).

SCAN does one slice of at most COUNT rows for each call. Its cursors are in `kvd.cursors`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kvd.commands import walks
from kvd.commands.arguments import SYNTAX_ERROR, parse_glob, parse_integer
from kvd.commands.keys import type_name
from kvd.commands.spec import Arg, Flag, Request, session_command
from kvd.cursors import UnknownCursor
from kvd.glob import Glob
from protocol.encode import array_head
from protocol.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session
    from storage.store import Keyspace

_SCAN_COUNT: Final = 10
# Redis reads cursors with `strtoul`: nothing is 0, a minus counts down from 2**64.
_CURSOR: Final = re.compile(rb"(?:[+-]?0*([0-9]{1,20}))?")
_CURSORS: Final = 1 << 64
_KEYSPACE = frozenset({"keyspace"})


def _matcher(glob: Glob) -> Callable[[bytes], bool]:
    """Return the test for keys: a pattern of just ``*`` means every key, the empty one too."""
    return _every if glob.is_everything else glob.matches


def _every(key: bytes) -> bool:
    return True


class _KeysWalk:
    """Through the keys that match a pattern."""

    def __init__(self, keyspace: Keyspace, glob: Glob) -> None:
        self.finished = False
        self._keyspace = keyspace
        self._glob = glob
        self._after: bytes | None = None

    def slice(self) -> list[Reply]:
        self._keyspace.check_open()  # it may have closed since the last slice: what is still here is not all
        deadline = walks.slice_end()
        matches = _matcher(self._glob)
        found: list[Reply] = []
        while True:
            rows, self._after = self._keyspace.scan(self._glob.prefix, self._after, walks.ROWS)
            found += [key for key, _ in rows if matches(key)]
            self.finished = self._after is None
            if self.finished or walks.is_past(deadline):
                return found

    def reply(self, found: list[Reply]) -> Reply:
        return found

    def head(self, count: int) -> bytes:
        return array_head(count)


@session_command(
    "KEYS",
    arity=2,
    flags=Flag.READONLY,
    group="generic",
    since="1.0.0",
    complexity="O(N) where N is the number of keys that start with the literal beginning of the pattern.",
    summary="Return the keys that match a pattern.",
    arguments=(Arg("pattern", "pattern"),),
    tips=("request_policy:all_shards", "nondeterministic_output_order"),
    categories=frozenset({"keyspace", "dangerous"}),
)
def keys(session: Session, request: Request) -> Reply:
    glob = parse_glob(request[1])
    keyspace = session.keyspace
    if glob.is_literal:
        return [glob.prefix] if keyspace.get(glob.prefix) is not None else []
    return walks.walk_through(session, lambda: _KeysWalk(keyspace, glob))


class _ScanOptions:
    """What stands behind ``SCAN cursor``."""

    __slots__ = ("count", "glob", "type_name")

    def __init__(self) -> None:
        self.glob: Glob = parse_glob(b"*")
        self.count = _SCAN_COUNT
        self.type_name: bytes | None = None


@session_command(
    "SCAN",
    arity=-2,
    flags=Flag.READONLY,
    group="generic",
    since="2.8.0",
    complexity="O(N) for every call where N is the COUNT.",
    summary="Return some keys and a cursor to go on from: each key once, in key order.",
    arguments=(
        Arg("cursor", "integer"),
        Arg("pattern", "pattern", token="MATCH", optional=True),
        Arg("count", "integer", token="COUNT", optional=True),
        Arg("type", token="TYPE", optional=True, since="6.0.0"),
    ),
    history=(("6.0.0", "The option `TYPE`."),),
    tips=("nondeterministic_output", "request_policy:special", "response_policy:special"),
    categories=_KEYSPACE,
)
def scan(session: Session, request: Request) -> Reply:
    cursor = _parse_cursor(request[1])
    options = _parse_scan_options(request)
    keyspace = session.keyspace
    cursors = session.server.cursors
    try:
        after = cursors.position(cursor, keyspace.id) if cursor else None
    except UnknownCursor:
        raise ErrorReply(
            f"ERR cursor {cursor} is not known (any more); start the scan again from cursor 0"
        ) from None
    found, position = _scan_page(keyspace, options, after)
    if position is None:
        cursors.finish(cursor)
        return [b"0", found]
    return [b"%d" % cursors.advance(cursor, keyspace.id, position), found]


def _parse_cursor(text: bytes) -> int:
    match = _CURSOR.fullmatch(text)
    number = _CURSORS if match is None else int(match[1] or 0)
    if number >= _CURSORS:
        raise ErrorReply("ERR invalid cursor")
    return -number % _CURSORS if text.startswith(b"-") else number


def _parse_scan_options(request: Request) -> _ScanOptions:
    options = _ScanOptions()
    for index in range(2, len(request), 2):
        word = request[index].upper()
        if word not in {b"MATCH", b"COUNT", b"TYPE"} or index + 1 == len(request):
            raise ErrorReply(SYNTAX_ERROR)
        argument = request[index + 1]
        if word == b"MATCH":
            options.glob = parse_glob(argument)
        elif word == b"TYPE":
            options.type_name = argument.lower()
        else:
            options.count = parse_integer(argument)
            if options.count < 1:
                raise ErrorReply(SYNTAX_ERROR)
    return options


def _scan_page(
    keyspace: Keyspace, options: _ScanOptions, after: bytes | None
) -> tuple[list[bytes], bytes | None]:
    """Return the keys of one page and where it ended; None at the end.

    Ends after COUNT rows, or sooner if that takes too long: COUNT is a hint about work, not a promise.
    """
    deadline = walks.slice_end()
    matches = _matcher(options.glob)
    wanted = options.type_name
    found: list[bytes] = []
    left = options.count
    while True:
        rows, after = keyspace.scan(options.glob.prefix, after, min(left, walks.ROWS))
        found += [key for key, record in rows if matches(key) and wanted in {None, type_name(record).text}]
        left -= walks.ROWS
        if after is None or left <= 0 or walks.is_past(deadline):
            return found, after


COMMANDS = (keys, scan)
