"""An engine in memory that models what disks do to a database.

It keeps three things: the image that a power cut cannot take (`synced`), the tail of batches
written since, and the live state that is both together. A test cuts the power at any write
boundary with `crash(keep=n)`, kills the process with `kill`, fills the disk with `fail_next`, lets an
fsync fail with `fail_next_sync`, or puts back an older `image`. The same suite runs over this engine and RocksDB, so the model stays true.

It is for tests and simulation: the tail grows until `sync`.

A snapshot copies nothing, and neither does an iterator, which is one: while it is there, whatever a write
changes is kept for it as it was before. So it costs what is written in its time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeAlias

from sortedcontainers import SortedDict  # type: ignore[import-untyped]

from storage.engine import Batch, Family, Snapshot
from storage.errors import Closed, StorageError, Unavailable
from storage.layout import META_PROBE

Table: TypeAlias = "SortedDict[bytes, bytes]"
# (family, key, value) puts; value None deletes; (family, start, end, _) of length four is a range.
Operation: TypeAlias = tuple[Family, bytes, bytes | None] | tuple[Family, bytes, bytes, None]
Image: TypeAlias = dict[Family, dict[bytes, bytes]]


class MemoryBatch:
    """A list of operations in the order in which they were given."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self.operations.append((family, key, value))

    def put_all(self, family: Family, items: Iterable[tuple[bytes, bytes]]) -> None:
        self.operations.extend((family, key, value) for key, value in items)

    def delete(self, family: Family, key: bytes) -> None:
        self.operations.append((family, key, None))

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        self.operations.append((family, start, end, None))


_FIRST_SLICE_KEYS = 4
_SLICE_KEYS_MAX = 256


class MemoryView:
    """One moment of some tables: reads them, and what they were where they have changed since."""

    def __init__(self, tables: dict[Family, Table]) -> None:
        self._tables = tables
        self._before: dict[Family, dict[bytes, bytes | None]] = {}

    def keep(self, family: Family, key: bytes, value: bytes | None) -> None:
        """Keep what is about to be changed; None: it is not there."""
        self._before.setdefault(family, {}).setdefault(key, value)

    def get(self, family: Family, key: bytes) -> bytes | None:
        before = self._before.get(family)
        if before and key in before:
            return before[key]
        value: bytes | None = self._tables[family].get(key)
        return value

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(family, key) for key in keys]

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        size = _FIRST_SLICE_KEYS
        low: bytes | None = start
        high = end
        bounds = (True, False)
        while True:
            live = list(islice(self._tables[family].irange(low, high, bounds, reverse), size))
            is_last = len(live) < size
            keys = self._with_changed(family, live, (low, high, bounds), reverse=reverse, is_last=is_last)
            for key in keys:
                value = self.get(family, key)
                if value is not None:
                    yield key, value
            if is_last:
                return
            if reverse:
                high = live[-1]
            else:
                low, bounds = live[-1], (False, False)
            size = min(2 * size, _SLICE_KEYS_MAX)

    def close(self) -> None:
        self._tables = {family: SortedDict() for family in Family}
        self._before = {}

    def _with_changed(
        self,
        family: Family,
        live: list[bytes],
        interval: tuple[bytes | None, bytes | None, tuple[bool, bool]],
        *,
        reverse: bool,
        is_last: bool,
    ) -> list[bytes]:
        """Return the keys of a slice together with those in its stretch that were there before."""
        before = self._before.get(family)
        if not before:
            return live
        low, high, (includes_low, _) = interval
        if not is_last and reverse:
            low, includes_low = live[-1], True
        last = live[-1] if not is_last and not reverse else None
        changed = [
            key
            for key in before
            if (low is None or low < key or (includes_low and low == key))
            and (high is None or key < high)
            and (last is None or key <= last)
        ]
        return sorted({*live, *changed}, reverse=reverse) if changed else live


class _Tables:
    """Sorted tables, one a family, and who must be told before they change."""

    def __init__(self, image: Image | None = None) -> None:
        image = image or {}
        self._tables: dict[Family, Table] = {family: SortedDict(image.get(family, {})) for family in Family}
        self._views: dict[int, weakref.ref[MemoryView]] = {}

    def view(self) -> MemoryView:
        """Return what there is now."""
        made = MemoryView(self._tables)
        views, name = self._views, id(made)
        views[name] = weakref.ref(made, lambda _: views.pop(name, None))
        return made

    def get(self, family: Family, key: bytes) -> bytes | None:
        value: bytes | None = self._tables[family].get(key)
        return value

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        table = self._tables[family]
        return [table.get(key) for key in keys]

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.view().iterate(family, start, end, reverse=reverse)

    def apply(self, operations: list[Operation]) -> None:
        for operation in operations:
            family = operation[0]
            table = self._tables[family]
            if len(operation) == 4:
                for key in list(table.irange(operation[1], operation[2], inclusive=(True, False))):
                    self._keep(family, key)
                    del table[key]
                continue
            if self._views:
                self._keep(family, operation[1])
            if operation[2] is None:
                table.pop(operation[1], None)
            else:
                table[operation[1]] = operation[2]

    def image(self) -> Image:
        return {family: dict(table) for family, table in self._tables.items()}

    def _keep(self, family: Family, key: bytes) -> None:
        if self._views:
            value = self._tables[family].get(key)
            for reference in list(self._views.values()):
                view = reference()
                if view is not None:
                    view.keep(family, key, value)


class MemoryEngine(_Tables):
    """The model. `tail` is what a power cut may take, oldest first; `writes` counts batches written."""

    def __init__(self, path: str = "memory") -> None:
        super().__init__()
        self._path = path
        self._synced = _Tables()
        self._failure: StorageError | None = None
        self._failures_left = 0
        self._sync_failure: StorageError | None = None
        self._poison: StorageError | None = None  # a sync has failed
        self._open = True
        self.tail: list[list[Operation]] = []
        self.writes = 0
        self.checkpoints: dict[Path, Image] = {}

    @property
    def path(self) -> str:
        return self._path

    def batch(self) -> Batch:
        return MemoryBatch()

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._check_open()
        return super().get(family, key)

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check_open()
        return super().multi_get(family, keys)

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        return super().iterate(family, start, end, reverse=reverse)

    def keys(self, family: Family, start: bytes = b"", end: bytes | None = None) -> Iterator[bytes]:
        return (key for key, _ in self.iterate(family, start, end))

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._check_open()
        assert isinstance(batch, MemoryBatch)
        if self._poison is not None:
            raise self._poison
        if self._failures_left:
            self._failures_left -= 1
            assert self._failure is not None
            raise self._failure
        if sync and self._sync_failure is not None:
            self._fail_sync()
        self.apply(batch.operations)
        self.tail.append(batch.operations)
        self.writes += 1
        if sync:
            self.sync()

    def sync(self) -> None:
        self._check_open()
        if self._poison is not None:
            raise self._poison
        if self._sync_failure is not None:
            self._fail_sync()
        for operations in self.tail:
            self._synced.apply(operations)
        self.tail = []

    def recover(self) -> None:
        self._poison = None
        probe = MemoryBatch()
        probe.put(Family.META, META_PROBE, b"")
        self.write(probe, sync=True)

    def snapshot(self) -> Snapshot:
        self._check_open()
        return self.view()

    def checkpoint(self, target: Path) -> None:
        self._check_open()
        if target in self.checkpoints:
            raise Unavailable(str(target), "it exists already")
        self.checkpoints[target] = self.image()

    def compact(self) -> None:
        self._check_open()  # and nothing else: tables of a model hold nothing but what they show

    def stats(self) -> dict[str, int]:
        return {f"{family}_rows": len(table) for family, table in self._tables.items()}

    def close(self) -> None:
        self._open = False

    # What tests do to it.

    def crash(self, keep: int = 0) -> None:
        """Cut the power: the synced image and the first `keep` batches of the tail remain."""
        for operations in self.tail[:keep]:
            self._synced.apply(operations)
        self.restore(self._synced.image())

    def kill(self) -> None:
        """Kill the process: all that was written remains, and the engine may be opened again."""
        self._open = True

    def restore(self, image: Image) -> None:
        """Put back an image taken earlier, as an operator restores a backup."""
        self._tables = _Tables(image)._tables  # views of what was there before stay as they are
        self._views = {}
        self._synced = _Tables(image)
        self.tail = []
        self._open = True

    def fail_next(self, error: StorageError, count: int = 1) -> None:
        """Let the next `count` writes fail with `error`, leaving nothing behind."""
        self._failure = error
        self._failures_left = count

    def fail_next_sync(self, error: StorageError) -> None:
        """Let the next sync fail with `error`, that of a synced write included."""
        self._sync_failure = error

    def _fail_sync(self) -> NoReturn:
        assert self._sync_failure is not None
        self._poison, self._sync_failure = self._sync_failure, None
        raise self._poison

    def _check_open(self) -> None:
        if not self._open:
            raise Closed
