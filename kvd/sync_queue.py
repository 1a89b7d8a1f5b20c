"""Who waits until what is committed is on the disk itself (WAITAOF): one fsync serves all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.server import Server

# Called with None once the data is on the disk, or with why it is not.
Done = Callable[[StorageError | None], None]


class SyncQueue:
    """Waits for the next fsync. Those who come while one runs share the one after it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: list[Done] = []
        self._is_running = False

    def wait(self, done: Done) -> None:
        """Call `done` when everything that is committed at the end of this tick is on the disk."""
        self._waiting.append(done)
        if not self._is_running:
            self._is_running = True
            # The task starts after the running tick, and so after its commit.
            self._server.spawn(self._run)

    async def _run(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                error = await self._sync()
                for done in waiting:
                    done(error)
        finally:
            self._is_running = False

    async def _sync(self) -> StorageError | None:
        try:
            await trio.to_thread.run_sync(self._server.store.sync)
        except StorageError as error:
            return error
        return None
