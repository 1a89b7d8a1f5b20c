"""The simulated disk: the engine that models crashes, and the ways in which disks fail while they are used.

full         every write is refused until there is room again
failing      the next writes fail; such a batch may turn up whole after a restart (`ghosts`)
slow         a sync takes long; what was written meanwhile is not safe when it ends
power cut    the tail that was not synced is lost, all of it or from some batch on
kill         nothing is lost
restore      an earlier image is put back
"""

from __future__ import annotations

from random import Random

from storage.engine import Batch
from storage.engine_memory import Image, MemoryBatch, MemoryEngine
from storage.errors import NoSpace, Unavailable


class Disk(MemoryEngine):
    """One data directory."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.is_full = False
        self.sync_seconds = 0.004
        self.sync_fails = False
        self._failures = 0
        self._leaves_ghosts = False
        self._ghosts: list[MemoryBatch] = []
        self._safe_count: int | None = None

    def write(self, batch: Batch, *, sync: bool) -> None:
        assert isinstance(batch, MemoryBatch)
        if self.is_full:
            raise NoSpace(self.path)
        if self._failures or (sync and self.sync_fails):
            self._failures = max(0, self._failures - 1)
            if self._leaves_ghosts and not self._ghosts:  # after an error nothing more is even tried
                self._ghosts.append(batch)
            raise Unavailable(self.path, "a write failed")
        # A synced write makes all before it safe, whatever another sync has begun with.
        under_way = self._safe_count
        self._safe_count = None
        super().write(batch, sync=sync)
        if under_way is not None:
            self._safe_count = 0 if sync else under_way
        self._ghosts.clear()  # the engine does not go on before it knows what became of them

    def fail(self, count: int, *, ghosts: bool) -> None:
        """Let the next `count` writes fail."""
        self._failures = count
        self._leaves_ghosts = ghosts

    def begin_sync(self) -> None:
        """Note what a sync that begins now will make safe; `sync` then makes that safe and no more."""
        self._safe_count = len(self.tail)

    def sync(self) -> None:
        if self.sync_fails:
            raise Unavailable(self.path, "a sync failed")
        count, self._safe_count = self._safe_count, None
        if count is None or count >= len(self.tail):
            super().sync()
            return
        later = self.tail[count:]
        self.tail = self.tail[:count]
        super().sync()
        self.tail = later

    def cut_power(self, rng: Random) -> int:
        """Lose the tail, or what of it was not written yet by chance; return how many batches were lost."""
        count = len(self.tail)
        kept = 0 if rng.random() < 0.5 else rng.randrange(count + 1)
        self._begin_anew(rng)
        self.crash(kept)
        return count - kept

    def kill_process(self, rng: Random) -> None:
        """End the process: nothing is lost, and a batch whose write failed may turn up."""
        self._begin_anew(rng)
        self.kill()

    def put_back(self, image: Image) -> None:
        """Restore an image taken earlier."""
        self._ghosts.clear()
        self._failures = 0
        self.restore(image)

    def _begin_anew(self, rng: Random) -> None:
        self._failures = 0
        self._safe_count = None
        self.is_full = self.sync_fails = False
        ghosts, self._ghosts = self._ghosts, []
        for ghost in ghosts:
            if rng.random() < 0.5:
                self.apply(ghost.operations)
                self.tail.append(ghost.operations)
