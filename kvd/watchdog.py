"""Notices when the daemon's one thread stands still, and writes down where.

Everything happens in one thread, so a stop of it stops all clients, and peers begin to suspect the node. A task
gives a sign of life ten times a second; a thread looks whether it comes. What takes long on purpose (a
script, DEBUG SLEEP) shows here as well, which is right: it keeps everybody waiting. A process that was stopped as a
whole is no stall: then the thread was late itself.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final

import structlog
import trio

if TYPE_CHECKING:
    from kvd.server import Server

log = structlog.get_logger()

_BEAT_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.25
# Later than this, a stop is worth a line of log with the place where it happens.
_STALL_SECONDS: Final = 1.0


async def watch(server: Server) -> None:
    """Watch over the calling thread until cancelled."""
    beats = _Beats(threading.get_ident())
    thread = threading.Thread(target=beats.watch, args=(server,), name="watchdog", daemon=True)
    thread.start()
    try:
        while True:
            beats.at = time.monotonic()
            await trio.sleep(_BEAT_SECONDS)
    finally:
        beats.is_over.set()


class _Beats:
    def __init__(self, thread_id: int) -> None:
        self.at = time.monotonic()
        self.is_over = threading.Event()
        self._thread_id = thread_id

    def watch(self, server: Server) -> None:
        """Look for signs of life until told to stop; in a thread of its own."""
        looked_at = time.monotonic()
        told_of = 0.0
        while not self.is_over.wait(_LOOK_SECONDS):
            before, looked_at = looked_at, time.monotonic()
            if looked_at - before > 2 * _LOOK_SECONDS:
                continue  # this thread was late as well: it is the whole process that stood still
            beat = self.at
            late = looked_at - beat - _BEAT_SECONDS
            if late < _STALL_SECONDS:
                continue
            server.stats.loop_stall_seconds = max(server.stats.loop_stall_seconds, late)
            if told_of != beat:
                told_of = beat
                self._tell(late)

    def _tell(self, late: float) -> None:
        frame = sys._current_frames().get(self._thread_id)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "unknown"
        log.warning("the daemon stands still", seconds=round(late, 2), stack=stack)
