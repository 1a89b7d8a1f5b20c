"""The store: records in keyspaces, one transaction a tick, one atomic batch a commit.

A tick of the daemon is: `begin(now_ms)`, any number of reads and writes on keyspaces, `commit()`.
Nothing is awaited in between and everything but `sync` and `checkpoint` runs in one thread, so a
tick is atomic without locks. The batch of a commit holds the rows written, one chunk of the change
log that names them in the order of their dots, deadlines for new expiries and deletions, and the
counts of keyspaces that changed.

A failed commit leaves no trace: pending writes are dropped, touched records leave the cache, counts,
flushes and namespaces are what they were on disk. The origin is rotated, because the engine may
find the failed batch again after a restart and a dot must never be used twice. From then on
`writable` holds the error until `probe`, or any commit, succeeds.

Opening reads the meta rows, the last chunk of each origin and the registry of namespaces, so it
takes as long for ten million keys as for ten.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from storage.cache import Cache
from storage.changelog import encode_chunk
from storage.compaction import Compaction
from storage.engine import Batch, Engine, Family
from storage.engine_rocksdb import RocksEngine
from storage.errors import Aborted, StorageError
from storage.expiry import Alone, Stability, Sweeper
from storage.feed import LogFeed
from storage.keyspace import Keyspace
from storage.layout import COUNT_PREFIX, FLOOR_PREFIX, NAMESPACE_BYTES, change_key, origin_key
from storage.opening import prepare, read_count, read_floor, read_found
from storage.record import MISSING, dumps, encode
from storage.registry import Keyspaces
from storage.state import Limits, State
from storage.transaction import Atomic, EventCallback, ExpiredCallback, Transaction
from storage.version import ORIGIN_BYTES, Version, describe

__all__ = ["Keyspace", "Keyspaces", "Limits", "Store", "StoreOptions"]


@attrs.frozen
class StoreOptions:
    """How to open a store. Defaults are those of the daemon's settings."""

    durability: str = "everysec"  # always | everysec | no
    cache_bytes: int = 256 * 1024 * 1024
    block_cache_bytes: int = 128 * 1024 * 1024
    gc_min_age_ms: int = 3_600_000
    limits: Limits = attrs.field(factory=Limits)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """An open store. `entropy` and `now_ms` are the outside world, given so that a test can choose them."""

    def __init__(
        self,
        engine: Engine,
        options: StoreOptions | None = None,
        *,
        now_ms: int | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        options = options or StoreOptions()
        self.engine = engine
        self.durability = options.durability
        self.limits = attrs.evolve(options.limits)
        self.writable: StorageError | None = None
        self.on_expired: ExpiredCallback | None = None
        self.on_event: EventCallback | None = None
        self._notifying = False
        self._entropy = entropy
        self._txn = Transaction()
        self._atomic = Atomic(self._txn)
        self._origin_stored = False  # whether the origin in use has its meta row
        self._poisoned: str | None = None
        self.commits = 0
        prepare(engine, entropy)
        found = read_found(engine)
        self.node_id = found.node_id
        self._cache = Cache(options.cache_bytes)
        self._state = State(engine, self._txn, self._cache, self.limits, options.gc_min_age_ms, found.origins)
        self._txn.hlc = found.hlc
        self._rotate_origin()
        self.keyspaces = Keyspaces(self._open_keyspace, self.limits, entropy)
        self._sweeper = Sweeper(self._state, self.keyspaces, found.horizon, Alone())
        self.begin(_wall_ms() if now_ms is None else now_ms)
        self.keyspaces.load()
        self._compaction = Compaction(self._state, self.keyspaces)

    @classmethod
    def open(cls, data_dir: Path | str, options: StoreOptions | None = None) -> Store:
        """Open the data directory on RocksDB; make it if it is missing.

        Raise `Locked`, `Corrupt`, `NewerFormat`, `NoSpace` or `Unavailable`.
        """
        options = options or StoreOptions()
        engine = RocksEngine(Path(data_dir), block_cache_bytes=options.block_cache_bytes)
        try:
            return cls(engine, options)
        except BaseException:
            engine.close()
            raise

    # The tick.

    @property
    def now_ms(self) -> int:
        """The tick's one reading of the wall clock, ms since the epoch."""
        return self._txn.now_ms

    def begin(self, now_ms: int) -> None:
        """Start a tick at wall time `now_ms`."""
        self._txn.begin(now_ms)
        if not self._txn.rows:
            self._cache.maintain()

    @property
    def dirty(self) -> bool:
        """Whether `commit` has anything to do: writes since the last one, or giving them up."""
        return self._poisoned is not None or not self._txn.is_empty()

    @property
    def changed(self) -> list[tuple[Keyspace, bytes]]:
        """The keys written since the last commit, in order. A flush is in `flushed`, not here."""
        found: list[tuple[Keyspace, bytes]] = []
        for place in self._txn.places:
            if isinstance(place, bytes):
                keyspace = self.keyspaces.by_id(place[:NAMESPACE_BYTES])
                if keyspace is not None:
                    found.append((keyspace, place[NAMESPACE_BYTES:]))
        return found

    @property
    def change_count(self) -> int:
        """How many changes there are since the last commit; `changes` numbers them from 0."""
        return len(self._txn.places)

    @property
    def changes(self) -> list[tuple[int, Keyspace, bytes | None]]:
        """The changes since the last commit, in order: (number, keyspace, key).

        A key of None means that all keys of the keyspace may have changed: it was flushed. A change of the
        registry of namespaces is shown as one of the keyspace that holds it.
        """
        found: list[tuple[int, Keyspace, bytes | None]] = []
        for number, place in enumerate(self._txn.places):
            if place is None:
                continue  # the same key as the change before
            row_key = place if isinstance(place, bytes) else place[0]
            keyspace = self.keyspaces.by_id(row_key[:NAMESPACE_BYTES])
            if keyspace is not None:
                whole = keyspace is self.keyspaces.system or not isinstance(place, bytes)
                found.append((number, keyspace, None if whole else row_key[NAMESPACE_BYTES:]))
        return found

    @property
    def flushed(self) -> list[Keyspace]:
        """The keyspaces flushed since the last commit."""
        return [keyspace for keyspace, _ in self._txn.flushed]

    def atomic(self) -> Atomic:
        """Return the context in which writes share one clock value and form one group. May be nested."""
        return self._atomic

    def commit(self) -> None:
        """Write everything pending as one atomic batch.

        On an error everything pending is reverted and the error raised; see the module's text.
        """
        txn = self._txn
        reason, self._poisoned = self._poisoned, None
        if txn.is_empty():
            return
        if reason is not None:
            self._revert()
            raise Aborted(reason)
        written = len(txn.places)
        try:
            self._compaction.collect(written)
            self.engine.write(self._build_batch(), sync=self.durability == "always")
        except BaseException as error:
            self._revert()
            if isinstance(error, StorageError):
                self.writable = error
            raise
        self.keyspaces.committed()
        for keyspace in txn.recounted:
            keyspace.committed()
        for keyspace, _ in txn.flushed:
            keyspace.committed()
        self._sweeper.committed(txn.deadlines)
        self._compaction.committed(written)
        self._origin_stored = self._origin_stored or bool(txn.places)
        txn.clear()
        self.commits += 1
        self.writable = None

    def poison(self, reason: str) -> None:
        """Have the coming commit fail: what is pending may be half of something. Reads go on."""
        self._poisoned = reason

    def sync(self) -> None:
        """Make all commits so far safe from a power cut: one fsync. May be called from any thread."""
        self.engine.sync()

    # Keyspaces.

    def keyspace(self, index: int) -> Keyspace:
        """Return the keyspace of ``SELECT index``; `IndexError` if there is none."""
        if index < 0:
            raise IndexError(index)
        return self.keyspaces.databases[index]

    def flush_all(self) -> None:
        """Flush every keyspace, named ones too; the named namespaces themselves stay."""
        for keyspace in self.keyspaces:
            if keyspace is not self.keyspaces.system:
                keyspace.flush()

    @property
    def notifying(self) -> bool:
        """Whether handlers report keyspace events, to `on_event`."""
        return self._notifying

    @notifying.setter
    def notifying(self, value: bool) -> None:
        self._notifying = value
        for keyspace in self.keyspaces:
            keyspace.notifying = value

    # Upkeep.

    @property
    def stability(self) -> Stability:
        """What may be purged. Replication puts its own knowledge here; a node is alone until then."""
        return self._sweeper.stability

    @stability.setter
    def stability(self, stability: Stability) -> None:
        self._sweeper.stability = stability

    def sweep(self, budget_rows: int) -> int:
        """Handle up to `budget_rows` due expiries and purges, commit, and return how many were due.

        Call it again soon if it returns `budget_rows`.
        """
        handled = self._sweeper.collect(budget_rows)
        if handled:
            self.commit()
            if self.on_expired is not None:
                for keyspace, key in self._sweeper.expired:
                    self.on_expired(keyspace, key)
        return handled

    def probe(self) -> bool:
        """Try whether writing works (again); True if so. Costs one fsync."""
        try:
            self.engine.recover()
        except StorageError as error:
            self.writable = error
            return False
        self.writable = None
        return True

    def rotate_origin(self) -> None:
        """Stamp later writes with a fresh origin. Nothing may be pending."""
        assert not self.dirty
        self._rotate_origin()

    def describe(self, register: bytes) -> Version:
        """Unpack a register (a record's VALUE_STAMP, FLOOR ...) for people."""
        return describe(register, self._state.origins)

    def feed(self) -> LogFeed:
        """Return the changes of this moment, as replication sees them. Close it after use."""
        return LogFeed(self.engine.snapshot(), self._state.origins)

    def checkpoint(self, target: Path | str) -> None:
        """Write a consistent copy to the new directory `target`. May be called from any thread."""
        self.engine.checkpoint(Path(target))

    def freeze(self) -> None:
        """Hide everything built so far, the cache's dicts above all, from the garbage collector.

        To be called once, when the daemon is built. See `Cache.track`.
        """
        gc.collect()
        self._cache.track()
        gc.freeze()

    def configure(self, options: StoreOptions) -> None:
        """Take over what may change in an open store: all of the options but the block cache."""
        self.durability = options.durability
        self._cache.bytes_max = options.cache_bytes
        self._state.gc_min_age_ms = options.gc_min_age_ms
        for name, limit in attrs.asdict(options.limits).items():
            setattr(self.limits, name, limit)

    def stats(self) -> dict[str, int]:
        """Return figures for INFO and metrics."""
        return {
            **self._cache.stats(),
            **self.engine.stats(),
            "commits": self.commits,
            "changelog_dots": self._compaction.dots,
            "changelog_compaction_failed": int(self._compaction.failure is not None),
            "keys": sum(keyspace.count for keyspace in self.keyspaces),
            "namespaces": len(self.keyspaces.all()),
            "origins": len(self._state.origins) - 1,
        }

    def close(self) -> None:
        """Close the engine. Pending writes are lost; everything committed was with the OS already."""
        self._txn.clear()
        if self.commits:
            self._compaction.store_size()
            # The size is a hint: a disk that takes nothing more must not keep the store from closing.
            with contextlib.suppress(StorageError):
                self.engine.write(self._build_batch(), sync=False)
        self.engine.close()

    # Below: not for others.

    def _build_batch(self) -> Batch:
        txn = self._txn
        batch = self.engine.batch()
        for family, start, end in txn.ranges:
            batch.delete_range(family, start, end)
        rows = txn.rows
        if txn.purges_rows:
            for key in [key for key, record in rows.items() if record is MISSING]:
                batch.delete(Family.RECORDS, key)
            rows = {key: record for key, record in rows.items() if record is not MISSING}
        batch.put_all(Family.RECORDS, [(key, encode(record)) for key, record in rows.items()])
        if txn.places:
            self._add_chunk(batch)
        for family, key in txn.removed:
            batch.delete(family, key)
        for key in txn.deadlines:
            batch.put(Family.DEADLINES, key, b"")
        for keyspace in txn.recounted:
            batch.put(Family.META, COUNT_PREFIX + keyspace.id, dumps([keyspace.count, keyspace.expires]))
        for keyspace, _ in txn.flushed:
            batch.put(Family.META, FLOOR_PREFIX + keyspace.id, keyspace.floor or b"")
        for family, key, value in txn.puts:
            batch.put(family, key, value)
        return batch

    def _add_chunk(self, batch: Batch) -> None:
        txn = self._txn
        if not self._origin_stored:
            origin_id = self._state.origins[txn.origin]
            batch.put(Family.META, origin_key(txn.origin), dumps([origin_id, txn.hlc]))
        key = change_key(txn.origin, txn.seq - len(txn.places) + 1)
        batch.put(Family.CHANGES, key, encode_chunk(txn.hlc, txn.places, txn.groups))

    def _revert(self) -> None:
        """Make memory what it was before the tick. Only the clock and the origin go on."""
        txn = self._txn
        for row_key in txn.rows:
            keyspace = self.keyspaces.by_id(row_key[:NAMESPACE_BYTES])
            if keyspace is not None:
                keyspace.forget(row_key[NAMESPACE_BYTES:])
        for keyspace in txn.recounted:
            keyspace.revert_counts()
        for keyspace, floor in reversed(txn.flushed):
            keyspace.revert_flush(floor)
        self._sweeper.reverted()
        self._compaction.reverted()
        self.keyspaces.reverted()
        txn.clear()
        self._rotate_origin()

    def _rotate_origin(self) -> None:
        origins = self._state.origins
        origins.append(self._entropy(ORIGIN_BYTES))
        self._txn.origin = len(origins) - 1
        self._txn.seq = 0
        self._origin_stored = False

    def _open_keyspace(self, namespace: bytes, index: int | None, title: str | None) -> Keyspace:
        keyspace = Keyspace(self, self._state, namespace, index=index, title=title)
        keyspace.floor = read_floor(self.engine, namespace)
        keyspace.load_counts(read_count(self.engine, namespace))
        keyspace.notifying = self._notifying
        return keyspace
