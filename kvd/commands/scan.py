"""KEYS and SCAN: names of keys by pattern, in key order.

What every match starts with is a range of the key order, so ``user:*`` costs what it returns, not what is
stored. KEYS goes through its whole range, which may be long: after `SLICE_NANOSECONDS` it suspends its
session and goes on in slices, each a tick of its own between those of the others; its answer is encoded as
it grows. What other clients change
meanwhile may or may not be in its answer; every key that stays is. Inside a transaction or a script it runs
in one go, because nothing may come between.

SCAN does one slice of at most COUNT rows for each call. Its cursors are in `kvd.cursors`.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from kvd.commands.arguments import SYNTAX_ERROR, parse_glob, parse_integer
from kvd.commands.keys import type_name
from kvd.commands.spec import Arg, Flag, Request, session_command
from kvd.cursors import UnknownCursor
from kvd.dispatch import storage_refusal
from kvd.glob import Glob
from protocol.encode import array_head
from protocol.replies import NO_REPLY, ErrorReply, Reply
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.session import Session
    from storage.store import Keyspace

# How long one slice may hold up everybody else, and after how many rows the clock is read again.
SLICE_NANOSECONDS: Final = 2_000_000
_ROWS: Final = 256

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


class _Walk:
    """A way through the keys of a keyspace that match a pattern, slice by slice."""

    def __init__(self, keyspace: Keyspace, glob: Glob) -> None:
        self.finished = False
        self._keyspace = keyspace
        self._glob = glob
        self._after: bytes | None = None

    def slice(self) -> list[bytes]:
        """Return more keys, for about `SLICE_NANOSECONDS` and from one batch of rows at least."""
        deadline = time.perf_counter_ns() + SLICE_NANOSECONDS
        matches = _matcher(self._glob)
        found: list[bytes] = []
        while True:
            rows, self._after = self._keyspace.scan(self._glob.prefix, self._after, _ROWS)
            found += [key for key, _ in rows if matches(key)]
            self.finished = self._after is None
            if self.finished or time.perf_counter_ns() > deadline:
                return found


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
    if glob.is_literal:
        return [glob.prefix] if session.keyspace.get(glob.prefix) is not None else []
    walk = _Walk(session.keyspace, glob)
    found = walk.slice()
    if not walk.finished and _may_suspend(session):
        session.suspend()
        if session.server.store.dirty:  # what this tick has written may not get to disk: begin again after it
            walk, found = _Walk(session.keyspace, glob), []
        session.server.spawn(_finish_walk, session, walk, found)
        return NO_REPLY
    while not walk.finished:
        found += walk.slice()
    return found


def _may_suspend(session: Session) -> bool:
    in_one_go = session.transaction is not None or session.is_script
    return session.server.hub is not None and not in_one_go


async def _finish_walk(session: Session, walk: _Walk, found: list[bytes]) -> None:
    """Go on with a walk between the hub's ticks, as long as its client waits for the answer."""
    hub = session.server.hub
    assert hub is not None
    answer = _LongAnswer(session, found)
    try:
        while session.suspended and not walk.finished:
            hub.exclusively(lambda: answer.add(walk.slice()))
            await trio.lowlevel.checkpoint()
    except StorageError as error:
        refusal = storage_refusal(error)
        session.server.stats.count_error(refusal.text)
        hub.exclusively(lambda: session.resume(refusal))
    else:
        # Two ticks with nothing between them: head and elements are not joined, which would be a copy.
        hub.exclusively(answer.begin)
        hub.exclusively(answer.finish)


class _LongAnswer:
    """An array of keys that is encoded while it is gathered.

    Encoding ten million keys at once would stop everybody for seconds, joining what is encoded for
    another tenth of one. So the pieces are written into one buffer, which becomes the output as it is.
    """

    def __init__(self, session: Session, found: list[bytes]) -> None:
        self._session = session
        self._count = 0
        self._elements = io.BytesIO()
        self.add(found)

    def add(self, found: list[bytes]) -> None:
        self._count += len(found)
        self._elements.write(self._session.encode(found)[len(array_head(len(found))) :])

    def begin(self) -> None:
        """Let the head of the array go out."""
        if self._is_wanted():
            self._session.push_encoded(array_head(self._count))
            self._session.on_output(self._session)

    def finish(self) -> None:
        """Let the elements go out, and the session's next requests run."""
        if self._is_wanted():
            self._session.push_encoded(self._elements.getvalue())
        self._session.resume(NO_REPLY)

    def _is_wanted(self) -> bool:
        """Tell whether there is still somebody, and CLIENT REPLY does not keep answers back."""
        return self._session.suspended and self._session.reply_mode == "on"


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
    deadline = time.perf_counter_ns() + SLICE_NANOSECONDS
    matches = _matcher(options.glob)
    wanted = options.type_name
    found: list[bytes] = []
    left = options.count
    while True:
        rows, after = keyspace.scan(options.glob.prefix, after, min(left, _ROWS))
        found += [key for key, record in rows if matches(key) and wanted in {None, type_name(record).text}]
        left -= _ROWS
        if after is None or left <= 0 or time.perf_counter_ns() > deadline:
            return found, after


COMMANDS = (keys, scan)
