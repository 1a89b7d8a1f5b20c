"""CLIENT PAUSE: clients wait, all of them or those that write, until a moment or CLIENT UNPAUSE.

A paused session is suspended with the request that has to wait at the front of its backlog
(`kvd.dispatch`). Pausing again only ever widens: the later end and the wider kind win. HTTP clients wait like all others,
with a request whose body is there, or in the middle of a job (`kvd.web.session`).

Source: Redis 7.2 CLIENT PAUSE.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from kvd.server import Server


class Holdable(Protocol):
    """A session, of whichever protocol, as a pause sees it."""

    id: int

    def suspend(self) -> None:
        """Run nothing until `release`."""

    def release(self) -> None:
        """Go on."""


class Pause:
    """A pause that is in force: until when, whether only writes wait, and who does."""

    def __init__(self, until_ms: int, *, writes_only: bool) -> None:
        self.until_ms = until_ms
        self.writes_only = writes_only
        self.ended = trio.Event()
        self.waiting: dict[int, Holdable] = {}

    def hold(self, session: Holdable) -> None:
        """Suspend a session until the end; what has to wait is the first that it will do then."""
        session.suspend()
        self.waiting[session.id] = session

    def forget(self, session: Holdable) -> None:
        """Let go of a session whose connection is gone."""
        self.waiting.pop(session.id, None)

    def end(self) -> None:
        """Let everybody go on, in the order in which they came."""
        self.ended.set()
        for session in self.waiting.values():
            session.release()


def begin_pause(server: Server, until_ms: int, *, writes_only: bool) -> None:
    """Hold clients until `until_ms` (Unix time), or widen the pause that is in force."""
    if server.pause is not None:
        server.pause.until_ms = max(server.pause.until_ms, until_ms)
        server.pause.writes_only &= writes_only
        return
    server.pause = Pause(until_ms, writes_only=writes_only)
    server.refresh_plain()
    server.spawn(_end_in_time, server, server.pause)


def end_pause(server: Server) -> None:
    """Let the clients go on. Does nothing if there is no pause."""
    pause = server.pause
    if pause is None:
        return
    server.pause = None
    server.refresh_plain()
    pause.end()


async def _end_in_time(server: Server, pause: Pause) -> None:
    """End `pause` at its end, which may move while this waits."""
    while server.pause is pause:
        remaining_ms = pause.until_ms - time.time_ns() // 1_000_000
        if remaining_ms <= 0:
            end_pause(server)
            return
        with trio.move_on_after(remaining_ms / 1000):
            await pause.ended.wait()
