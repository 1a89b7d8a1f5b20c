"""The small interface between the store and an ordered key-value engine.

Two engines implement it: RocksDB (`engine_rocksdb`) and a model in memory (`engine_memory`) that
can crash, fill up and be restored. The same tests run over both. Keys and values are byte
strings; keys are ordered as unsigned bytes, within one family.

Atomicity: a batch is applied whole or not at all, also across a crash. Order: a crash keeps a
prefix of the batches written, never a later one without an earlier one. Durability: a batch
written is safe from a kill of the process; it is safe from a power cut once it was written with
``sync=True`` or a later `sync` has returned.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from storage.errors import Unopenable


class Family(enum.StrEnum):
    """The engine's separate key ranges. What is in each is told in `layout`."""

    RECORDS = "records"
    MEMBERS = "members"
    CHANGES = "changes"
    DEADLINES = "deadlines"
    HISTORY = "history"
    META = "meta"


class Unopened(bytes):
    """Stands for a value that could not be decrypted: a byte that no decoder takes, and `error`, which says why."""

    error: Unopenable


class Batch(Protocol):
    """Changes to be written together; later ones win over earlier ones on the same key."""

    def put(self, family: Family, key: bytes, value: bytes) -> None: ...

    def put_all(self, family: Family, items: Iterable[tuple[bytes, bytes]]) -> None: ...

    def delete(self, family: Family, key: bytes) -> None: ...

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        """Remove all keys with start <= key < end. O(1) now, paid by later reads and compaction."""
        ...


class Reader(Protocol):
    """Reads of one state of the engine: the current one, or a snapshot's."""

    def get(self, family: Family, key: bytes) -> bytes | None: ...

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield what lies in start <= key < end, in key order, or from the end with `reverse`.

        An iterator shows the state at its creation. It holds engine resources until it is dropped.
        """
        ...


class Snapshot(Reader, Protocol):
    """One unchanging state, all families at the same moment."""

    def close(self) -> None: ...


class Engine(Reader, Protocol):
    """One open database. Used by one thread, except `sync`, `recover`, `checkpoint` and `compact`."""

    @property
    def path(self) -> str:
        """Where the data is, for messages."""
        ...

    def keys(self, family: Family, start: bytes = b"", end: bytes | None = None) -> Iterator[bytes]:
        """Yield the keys of start <= key < end, in order, as `iterate` does: no value is read or decrypted."""
        ...

    def batch(self) -> Batch: ...

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply `batch`. On an error none of it is readable; after a restart it may be there whole.

        After a sync that failed, here or in `sync`, every write fails until `recover` has succeeded.
        """
        ...

    def sync(self) -> None:
        """Make all that was written so far safe from a power cut. May be called from any thread."""
        ...

    def recover(self) -> None:
        """Write a probe with sync; if it fails, or a sync has failed before, open the database anew.

        Raise the error if writing still fails. To be called after a failed write, until it succeeds; from any
        thread. While the database is opened, everything else raises `Unavailable`.
        """
        ...

    def snapshot(self) -> Snapshot: ...

    def checkpoint(self, target: Path) -> None:
        """Write a consistent copy to the new directory `target`. May be called from any thread."""
        ...

    def compact(self) -> None:
        """Write all files anew, so that none holds what was overwritten or deleted before the call.

        Reads and writes everything once. May be called from any thread; raises if it was not done to the end,
        because the engine is closed or opened anew meanwhile, for example.
        """
        ...

    def stats(self) -> dict[str, int]: ...

    def close(self) -> None:
        """Release everything. Harmless when repeated."""
        ...
