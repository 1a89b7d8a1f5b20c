"""Checkpoints: consistent copies of the whole store beside it, made by SAVE and BGSAVE.

    <data_dir>/checkpoints/20260131T120000.123456Z/    a data directory that `kvd serve` can be started on
    <data_dir>/checkpoints/.20260131T120000.123456Z/   one that is being written, or was when the process died

A checkpoint shares its files with the store by hard links as long as both need them, so making one is
quick and costs little space at first; it keeps what compaction would have removed. Only the newest
`KEPT` stay. It gets its name, by a rename, when it is whole and on the disk: one that has a name is
whole. Everything touches the disk in a thread.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from kvd.durable_files import sync_directory
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.server import Server

log = structlog.get_logger()

# The one before the newest is there for who finds that the newest holds a mistake of their own.
KEPT: Final = 2

# Called with None once the checkpoint is on the disk, or with why there is none.
Done = Callable[[Exception | None], None]


class Checkpoints:
    """Makes checkpoints, one at a time, and knows how the last went."""

    def __init__(self, server: Server) -> None:
        self.directory = Path(server.settings.storage.data_dir).absolute() / "checkpoints"
        self.saved_at_seconds = int(server.started_at)  # as Redis: the start counts as a save
        self.last_error: Exception | None = None
        self.last_duration_seconds: float | None = None
        self.count = 0
        self.commits_at_save = 0
        self._server = server
        self._started_at: float | None = None

    @property
    def running_seconds(self) -> float | None:
        """How long the checkpoint that is being made has been going on; None if there is none."""
        return None if self._started_at is None else time.monotonic() - self._started_at

    @property
    def commits_since_save(self) -> int:
        return self._server.store.commits - self.commits_at_save

    def start(self, done: Done) -> None:
        """Make a checkpoint of what is committed at the end of this tick, and call `done`.

        There must be none going on (`running_seconds`).
        """
        assert self._started_at is None
        self._started_at = time.monotonic()
        self._server.spawn(self._run, done)

    async def _run(self, done: Done) -> None:
        assert self._started_at is not None
        commits = self._server.store.commits
        self.last_error = await self._make()
        self.last_duration_seconds = time.monotonic() - self._started_at
        self._started_at = None
        if self.last_error is None:
            self.count += 1
            self.commits_at_save = commits
            self.saved_at_seconds = int(time.time())
        done(self.last_error)

    async def _make(self) -> Exception | None:
        try:
            path = await trio.to_thread.run_sync(self._write)
        except (StorageError, OSError) as error:
            log.error("checkpoint failed", directory=str(self.directory), error=str(error))
            return error
        log.info("checkpoint made", path=str(path))
        return None

    def _write(self) -> Path:
        """Write one checkpoint and remove old ones. Runs in a thread; returns its directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._remove(self.directory.glob(".*"))
        name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        partial, whole = self.directory / f".{name}", self.directory / name
        self._server.store.checkpoint(partial)
        partial.rename(whole)
        sync_directory(self.directory)
        named = sorted(self.directory.glob("[0-9]*Z"))
        self._remove(named[:-KEPT])
        return whole

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            shutil.rmtree(path)
