"""One store as replication sees it: implements `storage.changes.Replica`.

Nothing here decides who wins (`applying`, `merge`) or what is covered (`ledger`). It keeps the contract's
order: what is covered is dropped unseen, what is applied is covered in the same batch, what was only merged is
still found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import chain, groupby, islice
from typing import Final

from storage.cells import Numbered, changes_of, member_change, runs_of
from storage.changes import (
    COMMON_GROUP,
    END_OF_PLACES,
    Change,
    ChangeFeed,
    Conflict,
    Kind,
    Lane,
    Purging,
    Run,
    Stamp,
    VersionVector,
    Voided,
    group_of,
    places_between,
)
from storage.digests import bucket, digest
from storage.engine import Family
from storage.errors import RecordError, StorageError
from storage.expiry import is_bodyless
from storage.feed import SnapshotFeed, find_body
from storage.fresh import Fresh
from storage.indexing import last_before, lower_ends, truncate
from storage.keyspace import Keyspace
from storage.layout import (
    BODYLESS_PREFIX,
    CLUSTER,
    LOCAL_PREFIX,
    NAMESPACE_BYTES,
    members_start,
)
from storage.members import parse_place
from storage.record import (
    EXPIRES_AT,
    EXPIRY,
    FLOOR,
    METADATA,
    NEVER,
    VALUE,
    VALUE_STAMP,
    Record,
    build,
    decode,
    erase_below,
)
from storage.store import Store
from storage.transaction import LaneLog
from storage.version import (
    HLC_MAX,
    NO_PREV,
    ORIGIN_BYTES,
    PREV_BYTES,
    STAMP_BYTES,
    dot_bytes,
    hlc_at,
    is_newer,
    pack_register,
)

_BODYLESS_MAX: Final = 256
_SCAN_ROWS: Final = 1024


class StoreReplica:
    """See `storage.changes.Replica` for what each method promises."""

    def __init__(self, store: Store, group: int = COMMON_GROUP) -> None:
        """Attach replication to the store: from now on a group's commits are collected for `take_fresh`.

        For the common group it syncs the store, so that what it holds may be claimed; a store that cannot be synced
        claims nothing yet.
        """
        self._store = store
        self.group = group
        self._state = store.state
        self._txn = store.state.txn
        self._ledger = store.state.ledger
        self._origins = store.state.origins
        self._applier = store.applier
        self._sweeper = store.sweeper
        self._on_conflict: list[Callable[[Conflict], None]] = []
        if group == COMMON_GROUP:
            self._attach()
        assert store.fresh is not None
        self._fresh = store.fresh
        self._fresh.attach(group)

    def _attach(self) -> None:
        store = self._store
        store.fresh = Fresh(self._ledger)
        store.on_conflicts = self._tell_conflicts
        try:
            store.sync()
        except StorageError as error:
            store.writable = error

    def of_group(self, group: int) -> StoreReplica:
        return StoreReplica(self._store, group)

    # Who this is, and what it covers.

    @property
    def node_id(self) -> bytes:
        return self._store.node_id

    def origin(self, lane: Lane) -> bytes | None:
        log: LaneLog | None = self._txn.lane_for(self.group)
        if lane is Lane.BULK:
            log = log and log.bulk
        return self._origins[log.origin] if log and log.seq else None

    def own_origins(self) -> dict[bytes, int]:
        return self._ledger.own(self.group)

    def vector(self) -> VersionVector:
        return self._ledger.vector(self.group)

    def covered(self, origin: bytes) -> int:
        return self._ledger.covered(self._ledger.find(origin))

    def durable(self) -> VersionVector:
        return self._ledger.durable(self.group)

    def floors(self) -> VersionVector:
        return self._ledger.named(self._sweeper.horizon.seqs, self.group)

    def horizon(self) -> int:
        return self._sweeper.horizon.hlc_of(self.group)

    @property
    def hlc(self) -> int:
        return self._txn.hlc

    def observe(self, hlc: int) -> None:
        self._txn.hlc = max(self._txn.hlc, hlc)

    def is_partial(self) -> bool:
        return self._ledger.is_partial(self.group)

    def uncovered(self) -> VersionVector:
        return self._ledger.uncovered_vector(self.group)

    @property
    def has_fresh(self) -> bool:
        return self._fresh.has_any(self.group)

    def take_fresh(self) -> list[Run]:
        return self._fresh.take(self.group)

    # What comes from others.

    def apply(self, run: Run) -> int:
        number = self._number_for(run)
        covered = self._ledger.covered(number)
        if run.upto <= covered:
            return 0
        if run.after > covered:
            raise ValueError(
                f"a run from {run.after} on cannot be applied to what is covered up to {covered}"
            )
        if run.changes and not (run.after < run.changes[0].seq and run.changes[-1].seq <= run.upto):
            raise ValueError("a run holds a change that lies outside of it")
        self._check_bodies(run, covered)
        won = self._applier.merge(run, number, covered)
        self._applier.finish()
        self._txn.accept().covered[number] = run.upto
        return won

    def merge(self, run: Run) -> int:
        number = self._number_for(run)
        covered = self._ledger.covered(number)
        self._check_bodies(run, covered)
        won = self._applier.merge(run, number, covered)
        self._applier.finish()
        incoming = self._txn.accept()
        seqs = incoming.take(number).places
        if seqs:
            incoming.uncovered[number] = max(*seqs, incoming.uncovered.get(number, 0), 0)
        return won

    def cover(self, vector: Mapping[bytes, int], floors: Mapping[bytes, int], horizon: int) -> None:
        hlc = self._txn.hlc
        for origin, seq in vector.items():
            if not self._is_ours(origin) or seq <= 0:
                continue
            number = self._ledger.number_of(origin, hlc)
            if self._ledger.lane_of(number) is None and seq > self._ledger.covered(number):
                self._txn.accept().covered[number] = seq
        known = self._sweeper.horizon.seqs
        numbered = {
            self._ledger.number_of(origin, hlc): seq
            for origin, seq in floors.items()
            if self._is_ours(origin)
        }
        raised = {number: seq for number, seq in numbered.items() if seq > known.get(number, 0)}
        self._sweeper.raise_horizon(self.group, raised, horizon)
        self.observe(horizon)

    def forget_purges(self) -> None:
        self._sweeper.forget_horizon(self.group)

    def _is_ours(self, origin: bytes) -> bool:
        return len(origin) == ORIGIN_BYTES and group_of(origin) == self.group

    def needs_body(self, run: Run) -> list[Change]:
        return self._applier.wants_body(run, self._ledger.covered(self._ledger.find(run.origin)))

    def repair(self, run: Run) -> int:
        number = self._number_for(run, mends=True)
        self._check_bodies(run, 0)
        incoming = self._txn.accept()
        incoming.mends = True
        won = self._applier.merge(run, number, 0)
        self._applier.finish()
        covered = self._ledger.covered(number)
        seqs = incoming.take(number).places
        if seqs and max(seqs) > covered:
            incoming.uncovered[number] = max(*seqs, incoming.uncovered.get(number, 0), 0)
        self._store.revive(number, seqs)
        return won

    def drop(self, runs: Sequence[Run]) -> int:
        dropped = 0
        for run in runs:
            number = self._ledger.find(run.origin) if self._is_ours(run.origin) else 0
            for change in run.changes:
                if number and len(change.place) >= NAMESPACE_BYTES:
                    dropped += self._applier.remove(number, change)
        return dropped

    def cut(self, limits: Mapping[bytes, int]) -> list[Voided]:
        voided: list[Voided] = []
        for origin, upto in limits.items():
            number = self._ledger.find(origin) if self._is_ours(origin) else 0
            if self._ledger.lane_of(number) is not None:
                raise ValueError("an origin in use cannot be cut; rotate first")
            if number:
                found = self._alive_after(origin, upto)
                voided += [one for change in found if (one := self._seen(origin, change)) is not None]
                for change in found:
                    self._applier.remove(number, change)
                truncate(self._state.engine, self._txn, number, upto)
                self._sweeper.lower_horizon({number: upto}, HLC_MAX)
        self._forget_coverage(limits)
        return voided

    def ahead(self, hlc: int) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for origin in self.own_origins():
            upto = last_before(self._state.engine, self._ledger.find(origin), hlc)
            if upto is not None:
                found[origin] = upto
        return found

    def lower_clock(self, hlc_max: int, hlc: int) -> None:
        txn = self._txn
        lowered = lower_ends(self._state.engine, txn, hlc_max, max(hlc, hlc_at(txn.now_ms)))
        self._sweeper.lower_horizon({}, lowered)
        txn.lower(lowered)

    def _forget_coverage(self, limits: Mapping[bytes, int]) -> None:
        """Cover nothing of the group any more, but what the origins in use have written."""
        incoming = self._txn.accept()
        incoming.mends = True  # compaction must not write back what is removed here
        ends: dict[int, int] = {}
        for origin, seq in self.vector().merged(self.uncovered()).items():
            number = self._ledger.find(origin)
            if self._ledger.lane_of(number) is None:
                ends[number] = min(seq, limits.get(origin, seq))
        incoming.covered.update(dict.fromkeys(ends, 0))
        self._txn.after.append(lambda: self._ledger.lowered(ends))

    def _alive_after(self, origin: bytes, upto: int) -> list[Change]:
        feed = self.feed()
        try:
            runs = list(feed.runs_after({**self.vector(), **self.uncovered(), origin: upto}))
        finally:
            feed.close()
        return [change for run in runs if run.origin == origin for change in run.changes]

    def _seen(self, origin: bytes, change: Change) -> Voided | None:
        """Return what a reader sees of a change, if anything."""
        stamp = Stamp(change.hlc, origin, change.seq)
        record = self._read(change.place)
        value, expires_at_ms = record[VALUE], record[EXPIRES_AT]
        expiry = None if expires_at_ms == NEVER else expires_at_ms
        if value is None or expires_at_ms <= self._txn.now_ms:
            is_known = change.kind in {Kind.VALUE, Kind.EXPIRY, Kind.FLOOR}
            return Voided(stamp, change._replace(kind=Kind.FLOOR, content=None), None) if is_known else None
        if change.kind == Kind.EXPIRY:
            return Voided(stamp, change, expiry)
        return Voided(stamp, change._replace(content=value), expiry) if change.kind == Kind.VALUE else None

    def write_anew(self, voided: Sequence[Voided]) -> None:
        with self._store.atomic():
            for _, change, expires_at_ms in voided:
                keyspace, key = self._place(change.place)
                expiry = NEVER if expires_at_ms is None else expires_at_ms
                if change.kind == Kind.EXPIRY:
                    keyspace.expire(key, expiry)
                elif isinstance(change.content, bytes):
                    self._rewrite(keyspace, key, change.content, expiry, change.metadata)
                else:
                    self.void(change.place, Stamp(self._txn.hlc, b"", 0))

    def holds(self, place: bytes) -> bool:
        return place in self._txn.rows or self._state.engine.get(Family.RECORDS, place) is not None

    def unlisted(
        self, start: bytes, end: bytes, listed: Sequence[Run], places: int
    ) -> tuple[list[Run], bytes]:
        dots = {
            dot_bytes(number, change.seq)
            for run in listed
            if (number := self._ledger.find(run.origin))
            for change in run.changes
        }
        ranges = places_between(self.group, start, end)
        all_places = chain.from_iterable(self._places_within(first, last) for first, last in ranges)
        looked_at = list(islice(all_places, places))
        upto = next(all_places, end)
        found = [
            (number, change._replace(content=None, metadata=None))
            for number, change in chain(self._changes_at(looked_at), self._members_between(start, upto))
            if dot_bytes(number, change.seq) not in dots
        ]
        return runs_of(found, self._origins), upto

    def restore_body(self, place: bytes, stamp: Stamp, value: bytes, metadata: bytes | None) -> bool:
        number = self._ledger.find(stamp.origin)
        if not number or len(place) < NAMESPACE_BYTES:
            return False
        packed = pack_register(stamp.hlc, number, stamp.seq, NO_PREV)[:STAMP_BYTES]
        restored = self._applier.restore(place, packed, value, metadata)
        if restored and place in self._sweeper.wanted:
            self._txn.removed.append((Family.META, BODYLESS_PREFIX + place))
            self._txn.after.append(lambda: self._forget_wanted(place))
        return restored

    def _forget_wanted(self, place: bytes) -> None:
        self._sweeper.wanted.pop(place, None)

    def bodyless(self) -> list[tuple[bytes, Stamp]]:
        return list(islice(self._bodyless(), _BODYLESS_MAX))

    def _bodyless(self) -> Iterator[tuple[bytes, Stamp]]:
        wanted, now_ms = self._sweeper.wanted, self._txn.now_ms
        for place, stamp in list(wanted.items()):
            if group_of(place) != self.group:
                continue
            record = self._read(place)
            register = record[VALUE_STAMP]
            if register is None or register[:STAMP_BYTES] != stamp:
                self._sweeper.unwant(place)
            elif is_bodyless(record, now_ms, self._origins):
                yield place, self._ledger.stamp(register)
            else:
                self._sweeper.unwant(place)

    # What this node writes for replication's sake.

    def void(self, place: bytes, stamp: Stamp) -> None:
        keyspace, key = self._place(place)
        old = keyspace.peek_readable(key)
        txn = self._txn
        lane = txn.lane_for(self.group)
        if not lane.origin:
            self._ledger.draw(lane)
        own = self._origins[lane.origin]
        hlc = stamp.hlc if own >= stamp.origin else stamp.hlc + 1
        old_floor = old[FLOOR]
        prev = NO_PREV if old_floor is None else old_floor[:PREV_BYTES]
        floor = pack_register(hlc, lane.origin, lane.seq + 1, prev)
        for newer in (old_floor, keyspace.floor):
            if newer is not None and is_newer(newer, floor, self._origins):
                return
        lane.seq += 1
        txn.hlc = max(txn.hlc, hlc)
        txn.note(lane, place)
        record = build(old[VALUE], old[METADATA], (old[VALUE_STAMP], old[EXPIRY], floor), self._origins)
        keyspace.install(key, old, erase_below(record, floor, self._origins))
        self._state.members.erase_below(place, floor)
        if keyspace is self._store.keyspaces.system:
            self._store.keyspaces.accept(key)

    def touch(self, places: Sequence[bytes]) -> None:
        now_ms = self._txn.now_ms
        for place in places:
            keyspace, key = self._place(place)
            record = keyspace.peek_readable(key)
            if record[EXPIRES_AT] > now_ms and record[VALUE_STAMP] is not None and not keyspace.is_local:
                self._rewrite(keyspace, key, record[VALUE], record[EXPIRES_AT], record[METADATA])

    def _rewrite(
        self, keyspace: Keyspace, key: bytes, value: bytes, expires_at_ms: int, metadata: bytes | None
    ) -> None:
        keyspace.write_anew(key, value, expires_at_ms, metadata)
        if keyspace is self._store.keyspaces.system:
            self._store.keyspaces.accept(key)

    @property
    def system_version(self) -> int:
        return self._store.keyspaces.cluster_version

    def system_version_of(self, prefix: bytes) -> int:
        return self._store.keyspaces.cluster_version_of(prefix)

    def put_system(self, name: bytes, value: bytes) -> None:
        self._store.keyspaces.obtain(CLUSTER).write_anew(name, value, NEVER, None)

    def get_system(self, name: bytes) -> tuple[bytes, Stamp] | None:
        record = self._store.keyspaces.cluster.get(name)
        if record is None or record[VALUE_STAMP] is None:
            return None
        return record[VALUE], self._ledger.stamp(record[VALUE_STAMP])

    def list_system(self, prefix: bytes) -> list[tuple[bytes, bytes, Stamp]]:
        found: list[tuple[bytes, bytes, Stamp]] = []
        after: bytes | None = None
        while True:
            records, after = self._store.keyspaces.cluster.scan(prefix, after, _SCAN_ROWS)
            for name, record in records:
                if record[VALUE_STAMP] is not None:
                    found.append((name, record[VALUE], self._ledger.stamp(record[VALUE_STAMP])))
            if after is None:
                return found

    def get_local(self, name: str) -> bytes | None:
        return self._store.local_value(self._local_name(name))

    def put_local(self, name: str, value: bytes | None) -> None:
        self._txn.local_values[LOCAL_PREFIX + self._local_name(name).encode()] = value

    def _local_name(self, name: str) -> str:
        return name if self.group == COMMON_GROUP else f"group{self.group}:{name}"

    def rotate(self) -> None:
        self._store.rotate_origin()

    def renew_node(self) -> None:
        self._store.renew_node()

    def set_purging(self, purging: Purging) -> None:
        if self.group == COMMON_GROUP:
            self._sweeper.purging = purging
        else:
            self._sweeper.purging_of[self.group] = purging

    # What is there.

    def feed(self) -> ChangeFeed:
        return self._store.feed(self.group)

    def body(self, origin: bytes, seq: int, place: bytes) -> bytes | None:
        if len(place) < NAMESPACE_BYTES:
            return None
        dot = dot_bytes(self._ledger.find(origin), seq)
        members = (member for _, member in self._state.members.of(place))
        return find_body(dot, self._read(place), members)

    def changes_at(self, places: Sequence[bytes]) -> list[Run]:
        found: list[Numbered] = []
        for place in dict.fromkeys(places):
            if len(place) >= NAMESPACE_BYTES and group_of(place) == self.group:
                found.extend(self._changes_of(place, self._read(place)))
                found.extend(
                    member_change(*parse_place(row_key), member, self._origins)
                    for row_key, member in self._state.members.of(place)
                )
        return runs_of(found, self._origins)

    def digest(self, feed: ChangeFeed) -> Iterator[Mapping[int, int] | None]:
        assert isinstance(feed, SnapshotFeed)
        return digest(feed, self._origins)

    def bucket(self, feed: ChangeFeed, numbers: Sequence[int]) -> Iterator[list[Run] | None]:
        assert isinstance(feed, SnapshotFeed)
        return bucket(feed, self._origins, numbers)

    # What people ask about.

    def conflicts(self, count: int) -> list[Conflict]:
        return self._store.losses.last(count)

    def on_conflict(self, callback: Callable[[Conflict], None]) -> None:
        self._on_conflict.append(callback)

    def stats(self) -> Mapping[str, int]:
        return self._store.replication_stats()

    # Below: not for others.

    def _tell_conflicts(self, conflicts: list[Conflict]) -> None:
        for conflict in conflicts:
            for callback in self._on_conflict:
                callback(conflict)

    def _number_for(self, run: Run, *, mends: bool = False) -> int:
        """Return the number of the run's origin. An origin in use here takes nothing new from elsewhere."""
        if not self._is_ours(run.origin):
            raise ValueError("a run of another group")
        first_hlc = run.changes[0].hlc if run.changes else self._txn.hlc
        number = self._ledger.number_of(run.origin, first_hlc)
        lane = self._ledger.lane_of(number)
        if lane is not None:
            last = max((change.seq for change in run.changes), default=0)
            if max(last, run.upto) > lane.seq:
                # Someone else writes under this name: a copy of this data directory. It is theirs from now on.
                if lane.places:
                    raise ValueError("dots of an origin in use came from elsewhere; rotate first")
                self._ledger.retire(lane)
        return number

    def _check_bodies(self, run: Run, after: int) -> None:
        if self._applier.wants_body(run, after):
            raise ValueError("a change was to be applied before its value was fetched")

    def _place(self, place: bytes) -> tuple[Keyspace, bytes]:
        return self._store.keyspaces.obtain(place[:NAMESPACE_BYTES]), place[NAMESPACE_BYTES:]

    def _read(self, place: bytes) -> Record:
        """Return what is stored at a place, without making a keyspace for it."""
        pending = self._txn.rows.get(place)
        if pending is not None:
            return pending
        row = self._state.engine.get(Family.RECORDS, place)
        try:
            return _NOTHING if row is None else decode(row, self._origins)
        except RecordError:
            return _NOTHING

    def _changes_of(self, place: bytes, record: Record) -> Iterator[Numbered]:
        for found in changes_of(place, record, self._origins):
            if self._ledger.belongs(found[0], self.group):
                yield found

    def _places_within(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the places that have a row, as the tick under way sees them, in order."""
        stored = self._state.engine.keys(Family.RECORDS, start, _stop(end))  # there may be millions
        pending = sorted(key for key in self._txn.rows if start <= key < end)
        for place, _ in groupby(merge(stored, pending)):
            yield place

    def _changes_at(self, places: Sequence[bytes]) -> Iterator[Numbered]:
        for place in places:
            yield from self._changes_of(place, self._read(place))

    def _members_between(self, start: bytes, end: bytes) -> Iterator[Numbered]:
        """Yield the registers of members in a range of the group's places."""
        for first, last in places_between(self.group, start, end):
            stop = _stop(last)
            rows = self._state.members.rows(
                members_start(first), None if stop is None else members_start(stop)
            )
            for row_key, member in rows:
                try:
                    found = member_change(*parse_place(row_key), member, self._origins)
                except RecordError:
                    continue
                if self._ledger.belongs(found[0], self.group):
                    yield found


def _stop(end: bytes) -> bytes | None:
    """Return the end of a range of places for the engine."""
    return None if end >= END_OF_PLACES else end


_NOTHING: Final[Record] = (None, 0, None, None, None, None)
