"""The store: records in keyspaces, one transaction a tick, one atomic batch a commit.

A tick of the daemon is: `begin(now_ms)`, any number of reads and writes on keyspaces, `commit()`.
Nothing is awaited in between and everything but `sync` and `checkpoint` runs in one thread, so a
tick is atomic without locks. The batch of a commit holds the rows written, a chunk of the change log for
each lane that names them in the order of their dots, deadlines for new expiries and deletions, and
the counts of keyspaces that changed. In namespaces that keep a history it also holds what was replaced
(`history`). What other nodes wrote goes the same way (`replica`, `applying`).

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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

from storage.applying import Applier
from storage.cache import Cache
from storage.changelog import encode_chunk
from storage.changes import COMMON_GROUP, Conflict, Kind
from storage.compaction import Compaction
from storage.engine import Batch, Engine, Family
from storage.engine_rocksdb import RocksEngine
from storage.engine_sealed import SealedEngine, protect
from storage.errors import Aborted, EncryptionError, StorageError
from storage.expiry import Sweeper
from storage.feed import Moment, SnapshotFeed
from storage.fresh import Fresh
from storage.history import History
from storage.incoming import Incoming, Place
from storage.indexing import add_chunks, overlaps
from storage.keyring import Keyring
from storage.keyspace import Keyspace
from storage.layout import (
    COUNT_PREFIX,
    FLOOR_PREFIX,
    LOCAL_PREFIX,
    META_NODE,
    NAMESPACE_BYTES,
    after_prefix,
    change_key,
)
from storage.ledger import Ledger
from storage.losses import Losses
from storage.members import Members
from storage.opening import NODE_BYTES, prepare, read_bodyless, read_count, read_floor, read_found
from storage.policy import Policy
from storage.record import MISSING, dumps, encode
from storage.registry import Keyspaces
from storage.resealing import Resealer
from storage.state import Limits, State
from storage.transaction import Atomic, EventCallback, ExpiredCallback, LaneLog, Transaction
from storage.version import Version, describe

__all__ = ["Keyspace", "Keyspaces", "Limits", "Policy", "Store", "StoreOptions"]


@attrs.frozen
class StoreOptions:
    """How to open a store. Defaults are those of the daemon's settings."""

    durability: str = "everysec"  # always | everysec | no
    cache_bytes: int = 256 * 1024 * 1024
    block_cache_bytes: int = 128 * 1024 * 1024
    gc_min_age_ms: int = 3_600_000
    limits: Limits = attrs.field(factory=Limits)
    keyring: Keyring | None = None  # to encrypt values with
    groups: frozenset[int] = frozenset()  # of namespaces, that this node carries beside the common one


# After so many records written the cyclic garbage collector lets go of them. By itself it would not while a store is
# overwritten, since each record that comes frees one; and when it came at last, it would walk all of them at once: 70 ms
# for a hundred thousand.
_YOUNG_RECORDS_MAX: Final = 1000


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
        prepare(engine, entropy)
        self.engine = engine = protect(engine, options.keyring, entropy=entropy)
        self.resealer = Resealer(engine) if isinstance(engine, SealedEngine) else None
        self.durability = options.durability
        self.limits = attrs.evolve(options.limits)
        self.writable: StorageError | None = None
        self.on_expired: ExpiredCallback | None = None
        self.on_event: EventCallback | None = None
        self.on_conflicts: Callable[[list[Conflict]], None] | None = None  # after their commit
        self.fresh: Fresh | None = None  # collects what is committed, if replication is attached
        self._applied: list[tuple[Keyspace, bytes | tuple[bytes, ...] | None, Kind]] = []
        self._shown: list[tuple[Keyspace, bytes | None, Kind]] = []  # what `applied` has made of it
        self._notifying = False
        self._entropy = entropy
        self._txn = Transaction()
        self._atomic = Atomic(self._txn)
        self._poisoned: str | None = None
        self.commits = 0
        self._young_records = 0  # written since the collector has last let go of such
        self.forks = self._undecodable = 0
        self.losses = Losses()
        found = read_found(engine)
        self.node_id = found.node_id
        self._cache = Cache(options.cache_bytes)
        self._ledger = Ledger(found, self._txn, entropy)
        self.history = History(engine, self._txn, found.origins)
        self.state = State(
            engine,
            self._txn,
            self._cache,
            self.limits,
            options.gc_min_age_ms,
            self._ledger,
            Members(engine, self._txn, found.origins),
            self.history,
            found.origins,
        )
        self._txn.hlc = found.hlc
        self._ledger.rotate()
        self.keyspaces = Keyspaces(self._open_keyspace, self.limits, entropy, options.groups)
        self.sweeper = Sweeper(self.state, self.keyspaces, found.horizon, read_bodyless(engine))
        self.applier = Applier(self.state, self.keyspaces, self.sweeper)
        self.begin(_wall_ms() if now_ms is None else now_ms)
        self.keyspaces.load()
        self.history.settle(self.keyspaces.history_of)
        self._compaction = Compaction(self.state, self.keyspaces)

    @classmethod
    def open(cls, data_dir: Path | str, options: StoreOptions | None = None) -> Store:
        """Open the data directory on RocksDB; make it if it is missing.

        Raise `Locked`, `Corrupt`, `NewerFormat`, `EncryptionError`, `NoSpace` or `Unavailable`.
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
            if self._young_records > _YOUNG_RECORDS_MAX:
                self._young_records = 0
                gc.collect(1)

    @property
    def dirty(self) -> bool:
        """Whether `commit` has anything to do: writes since the last one, or giving them up."""
        return self._poisoned is not None or not self._txn.is_empty()

    @property
    def changed(self) -> list[tuple[Keyspace, bytes]]:
        """The keys written since the last commit, in order. A flush is in `flushed`, not here."""
        found: list[tuple[Keyspace, bytes]] = []
        for _, place in self._places():
            row_key = place if isinstance(place, bytes) else place[0] if place and len(place) == 2 else b""
            keyspace = self.keyspaces.by_id(row_key[:NAMESPACE_BYTES])
            if keyspace is not None:
                found.append((keyspace, row_key[NAMESPACE_BYTES:]))
        return found

    @property
    def change_count(self) -> int:
        """How many changes there are since the last commit; `changes` numbers them from 0."""
        return self._txn.change_count

    @property
    def changes(self) -> list[tuple[int, Keyspace, bytes | None]]:
        """The changes since the last commit, in order: (number, keyspace, key). Those of other nodes too.

        A key of None means that all keys of the keyspace may have changed: it was flushed. A change of the
        registry of namespaces is shown as one of the keyspace that holds it.
        """
        found: list[tuple[int, Keyspace, bytes | None]] = []
        for number, place in self._places():
            if place is None:
                continue  # the same key as the change before
            row_key = place if isinstance(place, bytes) else place[0]
            keyspace = self.keyspaces.by_id(row_key[:NAMESPACE_BYTES])
            if keyspace is not None and keyspace is not self.keyspaces.cluster:
                whole = keyspace is self.keyspaces.system or (isinstance(place, list) and len(place) == 1)
                found.append((number, keyspace, None if whole else row_key[NAMESPACE_BYTES:]))
        return found

    def _places(self) -> Iterator[tuple[int, Place]]:
        """Yield the places of all changes since the last commit with their number, in order."""
        txn = self._txn
        number = own = 0
        for before, place in txn.others:
            yield from enumerate(txn.places[own:before], number)
            number += before - own
            own = before
            for row_key in place if isinstance(place, tuple) else (place,):
                yield number, row_key
            number += 1
        yield from enumerate(txn.places[own:], number)

    @property
    def applied(self) -> list[tuple[Keyspace, bytes | None, Kind]]:
        """What the last commit has taken over from other nodes that clients can see: (keyspace, key, kind).

        A FLOOR stands for any end of a live key; a NAMESPACE_FLOOR, whose key is None, for the end of all.
        """
        if self._applied:
            found, self._applied = self._applied, []
            for keyspace, keys, kind in found:
                for key in keys if isinstance(keys, tuple) else (keys,):
                    self._shown.append((keyspace, key, kind))
        return self._shown

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
        if txn.is_empty() and not self.history.is_dirty:
            return
        if reason is not None:
            self._revert()
            raise Aborted(reason)
        written = len(txn.places)
        incoming = txn.incoming
        mends = False
        if txn.others:
            written += sum(len(lane.places) for lane in txn.lanes[1:])
        if incoming is not None:
            written += incoming.dot_count
            mends = overlaps(incoming, self._ledger)
        synced = self.durability == "always"
        try:
            if not mends:  # else the batch moves chunks that compaction might change
                self._compaction.collect(written)
            self.engine.write(self._build_batch(), sync=synced)
        except BaseException as error:
            self._revert()
            if isinstance(error, StorageError):
                self.writable = error
            raise
        self._ledger.committed(synced=synced)
        if self.fresh is not None:
            self.fresh.committed(txn)
        self.history.committed()
        if self.keyspaces.committed(txn.rows):
            self.history.settle(self.keyspaces.history_of)
        for keyspace in txn.recounted:
            keyspace.committed()
        for keyspace, _ in txn.flushed:
            keyspace.committed()
        self.sweeper.committed(txn.deadlines)
        self._compaction.committed(written)
        if self._applied or self._shown:
            self._applied, self._shown = [], []
        after = txn.after
        self._young_records += len(txn.rows)
        txn.lowered_from = 0
        txn.clear()
        self.commits += 1
        self.writable = None
        if incoming is not None:
            self._accepted(incoming)
        if after:
            for action in after:
                action()

    def poison(self, reason: str) -> None:
        """Have the coming commit fail: what is pending may be half of something. Reads go on."""
        self._poisoned = reason

    def sync(self) -> None:
        """Make all commits so far safe from a power cut: one fsync. May be called from any thread."""
        mark = self._ledger.mark()
        self.engine.sync()
        self._ledger.settle(mark)

    # Keyspaces.

    def keyspace(self, index: int) -> Keyspace:
        """Return the keyspace of ``SELECT index``; `IndexError` if there is none."""
        if index < 0:
            raise IndexError(index)
        return self.keyspaces.databases[index]

    def flush_all(self) -> None:
        """Flush every keyspace that this node carries, named ones too.

        The named namespaces themselves stay, and the cluster's records. Raise `GroupIncomplete` if one is not all
        here yet: then nothing is flushed.
        """
        for group in self.keyspaces.incomplete:
            self.keyspaces.check_open(group)
        for keyspace in self.keyspaces:
            if keyspace not in {self.keyspaces.system, self.keyspaces.cluster} and not keyspace.gone:
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

    def sweep(self, budget_rows: int) -> int:
        """Handle up to `budget_rows` due expiries, purges and rows of histories that are trimmed, and commit.

        Return how many there were; call it again soon if that is `budget_rows` or more.
        """
        handled = self.sweeper.collect(budget_rows)
        if handled:
            self.commit()
            if self.on_expired is not None:
                for keyspace, key in self.sweeper.expired:
                    self.on_expired(keyspace, key)
        if handled < budget_rows:
            trimmed = self.history.trim(budget_rows - handled)
            if trimmed:
                self.commit()
            handled += trimmed
        return handled

    def adopt_keys(self, keyring: Keyring) -> None:
        """Encrypt with other keys from the coming commit on. The store must have been opened with some.

        Raise `EncryptionError` if they do not fit, or the error of writing the new one down; then all is as
        before. Costs one fsync if the key that is written with is new.
        """
        assert isinstance(self.engine, SealedEngine)
        assert self.resealer is not None
        try:
            self.engine.adopt(keyring)
        except EncryptionError:
            raise
        except StorageError as error:
            self.writable = error
            raise
        self.resealer.restart()

    @property
    def keyring(self) -> Keyring | None:
        """The keys in force; None: the store was opened without."""
        return self.engine.keyring if isinstance(self.engine, SealedEngine) else None

    @property
    def keys_in_use(self) -> list[bytes | None]:
        """The ids of the keys that what is on the disk may need; None stands for what is not encrypted."""
        return list(self.engine.in_use) if isinstance(self.engine, SealedEngine) else [None]

    def reseal(self, budget_rows: int) -> bool:
        """Do a slice of `Resealer`'s walk, between two ticks; tell whether there is more."""
        assert self.resealer is not None
        try:
            return self.resealer.slice(budget_rows)
        except StorageError as error:
            self.writable = error
            raise

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
        self._ledger.rotate()

    def renew_node(self) -> None:
        """Draw a new node id, in the tick under way."""
        node_id = self._entropy(NODE_BYTES)
        self._txn.puts.append((Family.META, META_NODE, node_id))
        self._txn.after.append(lambda: setattr(self, "node_id", node_id))

    def describe(self, register: bytes) -> Version:
        """Unpack a register (a record's VALUE_STAMP, FLOOR ...) for people."""
        return describe(register, self.state.origins)

    def local_value(self, name: str) -> bytes | None:
        """Return what `name` was set to for this data directory alone, by the tick under way or before."""
        key = LOCAL_PREFIX + name.encode()
        pending = self.state.txn.local_values
        return pending[key] if key in pending else self.state.engine.get(Family.META, key)

    def local_names(self) -> list[str]:
        """Return the names of the settings of the data directory that are on disk, those of all groups."""
        rows = self.engine.iterate(Family.META, LOCAL_PREFIX, after_prefix(LOCAL_PREFIX))
        return [key[len(LOCAL_PREFIX) :].decode() for key, _ in rows]

    def feed(self, group: int = COMMON_GROUP) -> SnapshotFeed:
        """Return a group's changes of this moment, as replication sees them. Close it after use."""
        ledger, horizon = self._ledger, self.sweeper.horizon
        floors = ledger.named(horizon.seqs, group)
        moment = Moment(group, ledger.vector(group), floors, horizon.hlc_of(group))
        commits = self.commits
        return SnapshotFeed(
            self.engine.snapshot(), self.engine, lambda: self.commits == commits, ledger, moment
        )

    def revive(self, number: int, seqs: Iterable[int]) -> None:
        """Take note that registers carry these dots of an origin again."""
        self._compaction.revive(number, seqs)

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
        self.state.gc_min_age_ms = options.gc_min_age_ms
        for name, limit in attrs.asdict(options.limits).items():
            setattr(self.limits, name, limit)

    def stats(self) -> dict[str, int]:
        """Return figures for INFO and metrics."""
        walk = self.resealer
        encryption = {} if walk is None else walk.stats()
        return {
            **self._cache.stats(),
            **self.engine.stats(),
            "commits": self.commits,
            "changelog_dots": self._compaction.dots,
            "changelog_compaction_failed": int(self._compaction.failure is not None),
            "keys": sum(keyspace.count for keyspace in self.keyspaces),
            "namespaces": len(self.keyspaces.all()),
            "history_namespaces": self.history.namespace_count,
            "origins": len(self.state.origins) - 1,
            **encryption,
        }

    def replication_stats(self) -> dict[str, int]:
        """Return what `changes.Replica.stats` tells."""
        return {
            "conflicts": self.losses.total,
            **{f"conflicts_{kind}": count for kind, count in self.losses.totals.items()},
            "forks": self.forks,
            "purged": self.sweeper.purged_count,
            "undecodable": self._undecodable,
            "bodyless": len(self.sweeper.wanted),
            "tombstones": sum(keyspace.floors for keyspace in self.keyspaces),
            "expired_headers": sum(keyspace.headers for keyspace in self.keyspaces),
        }

    def close(self) -> None:
        """Close the engine. Pending writes are lost; everything committed was with the OS already."""
        self._txn.clear()
        self.history.reverted()
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
        if txn.members:
            self._add_members(batch)
        for lane in txn.lanes if txn.others else (txn,):
            self._add_chunk(batch, lane)
        if txn.incoming is not None:
            add_chunks(batch, self.engine, txn.incoming, self._ledger, txn.hlc)
        self._ledger.add_rows(batch)
        for family, key in txn.removed:
            batch.delete(family, key)
        for key in txn.deadlines:
            batch.put(Family.DEADLINES, key, b"")
        for keyspace in txn.recounted:
            batch.put(Family.META, COUNT_PREFIX + keyspace.id, dumps(keyspace.counts))
        for keyspace, _ in txn.flushed:
            self._add_floor(batch, keyspace)
        for family, key, value in txn.puts:
            batch.put(family, key, value)
        if txn.local_values:
            self._add_local_values(batch)
        if self.history.is_dirty:
            self.history.add_rows(batch)
        return batch

    def _add_chunk(self, batch: Batch, lane: LaneLog) -> None:
        places = lane.places
        if places:
            key = change_key(lane.origin, lane.seq - len(places) + 1)
            batch.put(Family.CHANGES, key, encode_chunk(self._txn.hlc, places, lane.groups))

    def _add_floor(self, batch: Batch, keyspace: Keyspace) -> None:
        key = FLOOR_PREFIX + keyspace.id
        if keyspace.floor is None:
            batch.delete(Family.META, key)
        else:
            batch.put(Family.META, key, keyspace.floor)

    def _add_members(self, batch: Batch) -> None:
        for key, row in self._txn.members.items():
            if row is None:
                batch.delete(Family.MEMBERS, key)
            else:
                batch.put(Family.MEMBERS, key, row)

    def _add_local_values(self, batch: Batch) -> None:
        for key, stored in self._txn.local_values.items():
            if stored is None:
                batch.delete(Family.META, key)
            else:
                batch.put(Family.META, key, stored)

    def _accepted(self, incoming: Incoming) -> None:
        """Take note that what came from other nodes was committed."""
        self._applied = incoming.applied
        self.forks += incoming.forks
        self._undecodable += incoming.undecodable
        conflicts = self.losses.note(incoming.lost) if incoming.lost else []
        if self.on_conflicts is not None and conflicts:
            self.on_conflicts(conflicts)

    def _revert(self) -> None:
        """Make memory what it was before the tick. Only the clock and the origin go on."""
        txn = self._txn
        for row_key in txn.rows:
            keyspace = self.keyspaces.opened(row_key[:NAMESPACE_BYTES])
            if keyspace is not None:
                keyspace.forget(row_key[NAMESPACE_BYTES:])
        for keyspace in txn.recounted:
            keyspace.revert_counts()
        for keyspace, floor in reversed(txn.flushed):
            keyspace.revert_flush(floor)
        self.sweeper.reverted()
        self._compaction.reverted()
        self.history.reverted()
        self.keyspaces.reverted()
        txn.hlc, txn.lowered_from = max(txn.hlc, txn.lowered_from), 0
        txn.clear()
        self._ledger.rotate()

    def _open_keyspace(self, namespace: bytes, index: int | None, title: str | None) -> Keyspace:
        keyspace = Keyspace(self, self.state, namespace, index=index, title=title)
        keyspace.floor = read_floor(self.engine, namespace)
        keyspace.load_counts(read_count(self.engine, namespace))
        keyspace.notifying = self._notifying
        return keyspace
