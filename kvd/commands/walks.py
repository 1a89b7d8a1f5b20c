"""Commands that go through many keys: in slices, so that the others have their turn between them.

A command describes its way as a `Walk` and hands it to `walk_through`. After `SLICE_NANOSECONDS` its session is
suspended and the walk goes on in slices, each a tick of its own between those of the others; the answer is
encoded as it grows. What other clients change meanwhile may or may not be in it; every key that stays is. Inside
a transaction or a script a walk is done in one go, because nothing may come between.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

import trio

from kvd.dispatch import storage_refusal, unexpected
from protocol.encode import array_head
from protocol.replies import NO_REPLY, Reply
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.session import Session

# How long one slice may hold up everybody else, and after how many rows the clock is read again.
SLICE_NANOSECONDS: Final = 2_000_000
ROWS: Final = 256


class Walk(Protocol):
    """A way through the keys of a keyspace, slice by slice."""

    finished: bool

    def slice(self) -> list[Reply]:
        """Return more elements of the answer, after about `SLICE_NANOSECONDS` or when there are no more."""

    def reply(self, found: list[Reply]) -> Reply:
        """Return the answer with all its elements."""

    def head(self, count: int) -> bytes:
        """Return what stands before `count` encoded elements. With them it is what `reply` is encoded to."""


class Search:
    """A walk to one answer: `steps` yields None after each step on the way there, and the answer at the end.

    Without one, the answer is null.
    """

    def __init__(self, steps: Iterator[Reply]) -> None:
        self.finished = False
        self._steps = steps

    def slice(self) -> list[Reply]:
        deadline = slice_end()
        for answer in self._steps:
            if answer is not None:
                self.finished = True
                return [answer]
            if is_past(deadline):
                return []
        self.finished = True
        return [None]

    def reply(self, found: list[Reply]) -> Reply:
        return found[0]

    def head(self, count: int) -> bytes:
        return b""


def slice_end() -> int:
    """Return when a slice that begins now is to end, by the clock of `is_past`."""
    return time.perf_counter_ns() + SLICE_NANOSECONDS


def is_past(deadline: int) -> bool:
    return time.perf_counter_ns() > deadline


def walk_through(session: Session, start: Callable[[], Walk]) -> Reply:
    """Answer a command by the walk that `start` begins: at once if it is short."""
    walk = start()
    found = walk.slice()
    if not walk.finished and _can_go_aside(session):
        if session.server.store.dirty:  # what this tick has written may not get to disk: begin again after it
            walk, found = start(), []
        return _go_aside(session, walk, found)
    return _in_one_go(walk, found)


def walk_aside(session: Session, walk: Walk) -> Reply:
    """Answer a command by a walk that begins after this tick's commit, and sees to its own."""
    return _go_aside(session, walk, []) if _can_go_aside(session) else _in_one_go(walk, [])


def _in_one_go(walk: Walk, found: list[Reply]) -> Reply:
    while not walk.finished:
        found += walk.slice()
    return walk.reply(found)


def _can_go_aside(session: Session) -> bool:
    """Tell whether a walk may go on between the hub's ticks."""
    return session.server.hub is not None and session.may_suspend


def _go_aside(session: Session, walk: Walk, found: list[Reply]) -> Reply:
    """Suspend the session and let a walk go on between the hub's ticks."""
    session.suspend()
    session.server.spawn(_finish, session, walk, found)
    return NO_REPLY


async def _finish(session: Session, walk: Walk, found: list[Reply]) -> None:
    """Go on with a walk, as long as its client waits for the answer."""
    hub = session.server.hub
    assert hub is not None
    answer = _LongAnswer(session, walk, found)
    try:
        while session.suspended and not walk.finished:
            hub.transact(answer.grow)
            await trio.lowlevel.checkpoint()
    except Exception as error:  # noqa: BLE001 -- a bug ends the request
        if isinstance(error, StorageError):
            refusal = storage_refusal(error)
        else:
            refusal = unexpected(session, session.last_command, error)
        session.server.stats.count_error(refusal.text)
        hub.exclusively(lambda: session.resume(refusal))
    else:
        # Two ticks with nothing between them: head and elements are not joined, which would be a copy.
        hub.exclusively(answer.begin)
        hub.exclusively(answer.finish)


class _LongAnswer:
    """An answer that is encoded while it is gathered.

    Encoding ten million keys at once would stop everybody for seconds, joining what is encoded for
    another tenth of one. So the pieces are written into one buffer, which becomes the output as it is.
    """

    def __init__(self, session: Session, walk: Walk, found: list[Reply]) -> None:
        self._session = session
        self._walk = walk
        self._count = 0
        self._elements = io.BytesIO()
        self._add(found)

    def grow(self) -> None:
        """Do one slice of the walk."""
        self._add(self._walk.slice())

    def _add(self, found: list[Reply]) -> None:
        self._count += len(found)
        self._elements.write(self._session.encode(found)[len(array_head(len(found))) :])

    def begin(self) -> None:
        """Let the head go out."""
        if self._is_wanted():
            self._session.push_encoded(self._walk.head(self._count))
            self._session.on_output(self._session)

    def finish(self) -> None:
        """Let the elements go out, and the session's next requests run."""
        if self._is_wanted():
            self._session.push_encoded(self._elements.getvalue())
        self._session.resume(NO_REPLY)

    def _is_wanted(self) -> bool:
        """Tell whether there is still somebody, and CLIENT REPLY does not keep answers back."""
        return self._session.suspended and self._session.reply_mode == "on"
