"""A keyspace: the records of one namespace, as command handlers see them.

Reads see what the tick has written. Writes are pending until `Store.commit`; each takes a dot and
a clock value of its own, unless it is inside `Store.atomic`. The methods refuse first and write
last: one that raises has changed nothing.

`get` and `put` are the hottest functions of the daemon. They are flat on purpose: a hit in the
cache is one dict look-up and one comparison; a put of a known key packs one register and fills
three containers. Figures: tests/bench/bench_store.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from storage.cache import Hot, cost, weight
from storage.changes import INLINE_BYTES_MAX, group_of
from storage.engine import Family
from storage.errors import KeyspaceGone, KeyTooLong, MetadataTooLong, RecordError, ValueTooLong
from storage.history import Past
from storage.layout import EXPIRY_KIND, PURGE_KIND, after_prefix, deadline_prefix
from storage.policy import DEFAULT_POLICY, Policy
from storage.record import (
    EXPIRES_AT,
    EXPIRY,
    FLOOR,
    METADATA,
    MISSING,
    NEVER,
    VALUE,
    VALUE_STAMP,
    Record,
    build,
    decode,
    erase_below,
    registers,
)
from storage.sampling import draw_keys
from storage.state import Limits, NarrowedLimits, State
from storage.transaction import LaneLog
from storage.version import NO_PREV, PREV_BYTES, hlc_ms, pack_register, register_ms

if TYPE_CHECKING:
    from storage.store import Store

_RANDOM_DRAWS = 16
_SCAN_ROWS = 256


class Keyspace:
    """The records of the namespace `id`. Made by the store only; one object a namespace."""

    __slots__ = (
        "_committed",
        "_empty",
        "_engine",
        "_flushed",
        "_hot",
        "_lane",
        "_limits",
        "_recounted",
        "_state",
        "_txn",
        "count",
        "expires",
        "floor",
        "floors",
        "gone",
        "group",
        "headers",
        "history",
        "hits",
        "id",
        "index",
        "misses",
        "notifying",
        "policy",
        "store",
        "title",
    )

    def __init__(
        self, store: Store, state: State, namespace: bytes, *, index: int | None, title: str | None
    ) -> None:
        self.store = store
        self.id = namespace
        self.index = index
        self.title = title
        self.count = 0  # keys with a value, expired ones too until they are swept
        self.expires = 0  # how many of them have an expiry
        self.floors = 0  # rows that hold a deletion
        self.headers = 0  # rows that hold the stamp of a value that is gone
        self.floor: bytes | None = None  # the register of the last flush
        self.policy = DEFAULT_POLICY
        self.history = 0  # how many past versions of a key are kept
        self.notifying = False  # whether handlers should call `notify`
        self.hits = 0  # look-ups of commands that read, counted by them
        self.misses = 0
        self.gone = False  # a named namespace that was deleted, or whose group this node does not carry
        self._committed = (0, 0, 0, 0)
        self._empty = False  # whether it is known that there is no row, not even a dead one
        self._flushed = False  # whether the tick has flushed it, so that all rows of the engine are dead
        self._recounted = False
        self._state = state
        self._txn = state.txn
        self._engine = state.engine
        self.group = group_of(namespace)  # which replicates it
        self._limits: Limits | NarrowedLimits
        self._lane: LaneLog  # of small values, and of everything if this is not replicated
        self._hot: Hot = state.cache.open()
        self.follow(DEFAULT_POLICY)

    def __repr__(self) -> str:
        return f"<Keyspace {self.id.hex()} {self.title or self.index}: {self.count} keys>"

    # Reads.

    def get(self, key: bytes) -> Record | None:
        """Return the live record of `key`, or None if it is missing, deleted or expired."""
        # Hot.
        try:
            record = self._hot.young[key]
        except KeyError:
            record = self._find(key)
        if record[EXPIRES_AT] > self._txn.now_ms:
            return record
        return None

    def hot_value(self, key: bytes) -> bytes | None:
        """Return the value of a live record that is at hand: cached, and no commit is due.

        None says nothing about the key: `get` has to be asked. What is returned can be told at once: no commit that
        may still fail stands between.
        """
        # Hot.
        try:
            record = self._hot.young[key]
        except KeyError:
            return None
        value = record[0]
        if record[1] > self._txn.now_ms and value.__class__ is bytes and not self._txn.rows:
            return value
        return None

    def hot_values(self, keys: Sequence[bytes]) -> list[bytes] | None:
        """Return the values of two keys or more that all have live records in the cache, committed or not.

        None says nothing about the keys: `get` has to be asked for each.
        """
        # Hot. Most of the time goes into waiting for memory: looked up by one call without Python between them, the
        # processor waits for several keys at once.
        try:
            records = itemgetter(*keys)(self._hot.young)
        except KeyError:
            return None
        now_ms = self._txn.now_ms
        values = [record[0] for record in records if record[1] > now_ms and record[0].__class__ is bytes]
        return values if len(values) == len(keys) else None

    def version(self, key: bytes) -> bytes | None:
        """Return a token that changes whenever a register of `key` does, or with its expiry; None if it has none.

        A deleted key has a token too, so that a key deleted and written back while it is watched,
        or written and deleted, is seen to have changed.
        """
        record = self._find(key)
        if record[VALUE_STAMP] is not None and record[EXPIRES_AT] <= self._txn.now_ms:
            return None  # expired, swept or not
        expiry = record[EXPIRY]
        parts = (record[VALUE_STAMP], expiry[0] if expiry else None, record[FLOOR])
        return b"".join(part for part in parts if part is not None) or None

    def scan(
        self, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """Return live records whose key starts with `prefix`, in key order, and where to go on.

        Starts behind the key `after`, or at the first with None. At most `limit` rows are examined, live or
        not, so the cost is bounded whatever is stored; the position returned is None at the end. Rows that
        cannot be decoded are passed over (`kvd verify` names them). Does not fill the cache.
        """
        self._check_gone()
        start = self.id + (prefix if after is None or after < prefix else after + b"\x00")
        end = after_prefix(self.id + prefix)
        rows, boundary = self._merged_rows(start, end, limit)
        now_ms = self._txn.now_ms
        skip = len(self.id)
        live = [(key[skip:], record) for key, record in rows if record[EXPIRES_AT] > now_ms]
        return live, None if boundary is None else boundary[skip:]

    def versions(self, key: bytes, count: int) -> list[Past]:
        """Return the last past versions of `key`, at most `count`, newest first; what it is now is not among them.

        Costs a walk over that many rows, and the memory for their values.
        """
        self._check_gone()
        return self._state.history.read(self.id + key, self.peek_readable(key), min(count, self.history))

    def random_key(self) -> bytes | None:
        """Return a live key, each with about the same chance; None if there is none.

        Costs some milliseconds, and a walk where nearly all rows are dead: see `random_key_steps`.
        """
        for key in self.random_key_steps():
            if key is not None:
                return key
        return None

    def random_key_steps(self) -> Iterator[bytes | None]:
        """Look for a random live key: yield it at the end, and None after each step of some milliseconds before it.

        Up to 32 rows the draw is exactly uniform; above, see `sampling`. What the tick has added is not drawn, unless
        there is nothing else. If the draws meet dead rows only, the next live key behind the last of them is taken:
        what follows a long stretch of dead rows has a greater chance then. Others may write between two steps.
        """
        self._check_gone()
        place: bytes | None = None
        for _ in range(_RANDOM_DRAWS):
            if self._flushed or self.count <= 0:
                break
            for row_key in draw_keys(self._engine, self.id, after_prefix(self.id)):
                place = row_key[len(self.id) :]
                if self.get(place) is not None:
                    yield place
                    return
            yield None
        yield from self._next_live_key(place)

    def _next_live_key(self, place: bytes | None) -> Iterator[bytes | None]:
        """Yield the first live key behind `place`, or else from the beginning up to it; None after each step."""
        after = place
        is_second_part = place is None
        while self.count > 0:
            found, after = self.scan(b"", after, _SCAN_ROWS)
            if found:
                yield found[0][0]
                return
            yield None
            if is_second_part and (after is None or (place is not None and after >= place)):
                return
            is_second_part = is_second_part or after is None

    # Writes.

    def put(
        self, key: bytes, value: bytes, expires_at_ms: int = NEVER, metadata: bytes | None = None
    ) -> None:
        """Set value, expiry and metadata together. Raise `LimitError` for what is too long."""
        # Hot: the common case is written out here, everything else is in `_replace`.
        try:
            old = self._hot.young[key]
        except KeyError:
            old = self._find_for_write(key)
        size = len(value)
        if size > self._limits.plain_bytes_max:
            self._put_special(key, old, value, expires_at_ms, metadata)
            return
        old_value, _, old_metadata, old_stamp, old_expiry, old_floor = old
        if (
            expires_at_ms != NEVER
            or old_value is None
            or old_expiry is not None
            or old_floor is not None
            or metadata is not None
            or old_metadata is not None
        ):
            self._replace(key, old, value, expires_at_ms, metadata)
            return
        txn = self._txn
        txn.hlc = hlc = txn.hlc + txn.hlc_step
        txn.seq = seq = txn.seq + 1
        record = (value, NEVER, None, pack_register(hlc, txn.origin, seq, old_stamp[:PREV_BYTES]), None, None)  # type: ignore[index]
        row_key = self.id + key
        txn.rows[row_key] = record
        txn.places.append(row_key)
        txn.replaced.append(old_stamp)  # type: ignore[arg-type]
        self._hot.young[key] = record
        self._state.cache.young_bytes += size - len(old_value)

    def update(self, key: bytes, value: bytes) -> None:
        """Set the value and keep expiry and metadata. For a key without a live record this is `put`."""
        try:
            old = self._hot.young[key]
        except KeyError:
            old = self._find_for_write(key)
        if old[EXPIRES_AT] <= self._txn.now_ms:
            self.put(key, value)
        elif old[EXPIRES_AT] == NEVER:
            self.put(key, value, NEVER, old[METADATA])
        else:
            self._put_special(key, old, value, old[EXPIRES_AT], old[METADATA])

    def expire(self, key: bytes, expires_at_ms: int) -> None:
        """Set when a live key expires; `NEVER` takes its expiry away. A missing key stays missing.

        It writes an expiry register alone, which can undo no concurrent write. But if this node's clock value is
        beyond the old expiry already, which its wall clock is not, others may have purged the value: then the value
        is written anew as well (see `expiry`).
        """
        _check_time(expires_at_ms)
        old = self._find(key)
        if old[EXPIRES_AT] <= self._txn.now_ms or (expires_at_ms == NEVER and old[EXPIRES_AT] == NEVER):
            return
        if hlc_ms(self._txn.hlc + self._txn.hlc_step) > old[EXPIRES_AT]:
            self.write_anew(key, old[VALUE], expires_at_ms, old[METADATA])
            return
        lane = self._lane
        hlc, seq = self._next_dot(lane)
        register = pack_register(hlc, lane.origin, seq, _prev_of(old[EXPIRY]))
        expiry = (register, None if expires_at_ms == NEVER else expires_at_ms)
        self._txn.note(lane, self.id + key)
        record = (old[VALUE], expires_at_ms, old[METADATA], old[VALUE_STAMP], expiry, old[FLOOR])
        self._set(key, old, record)

    def delete(self, key: bytes) -> bool:
        """Delete `key`; True if it was live. A record that cannot be read is deleted too."""
        try:
            old = self._find(key)
        except RecordError:
            old = self._unreadable(key)
        if old[EXPIRES_AT] <= self._txn.now_ms:
            return False
        lane = self._lane
        hlc, seq = self._next_dot(lane)
        old_floor = old[FLOOR]
        prev = NO_PREV if old_floor is None else old_floor[:PREV_BYTES]
        floor = pack_register(hlc, lane.origin, seq, prev)
        row_key = self.id + key
        self._txn.note(lane, row_key)
        self._add_purge_deadline(key, old_floor, hlc)
        self._set(key, old, (None, 0, None, None, None, floor))
        if self._state.members.present.get(self.id, True):
            self._state.members.erase_below(row_key, floor)
        return True

    def flush(self) -> int:
        """Delete all records and return how many there were. Constant time, whatever is stored."""
        self._check_gone()
        lane = self._lane
        hlc, seq = self._next_dot(lane)
        prev = NO_PREV if self.floor is None else self.floor[:PREV_BYTES]
        self._txn.note(lane, [self.id])
        count = self.count
        self._drop_all(pack_register(hlc, lane.origin, seq, prev))
        return count

    def flush_below(self, floor: bytes, newer: Iterable[bytes]) -> None:
        """Take over another node's flush: delete what is older than `floor`.

        `newer` are keys, each of which may have something newer; no other key has.
        """
        kept: list[tuple[bytes, Record]] = []
        for key in newer:
            try:
                old = self._find(key)
            except RecordError:
                continue
            record = erase_below(old, floor, self._state.origins)
            if record is not MISSING:
                kept.append((key, record))
        self._drop_all(floor)
        for key, record in kept:
            self.install(key, MISSING, record)

    def notify(self, event: bytes, key: bytes, kind: int) -> None:
        """Report a keyspace event to the daemon. Call it only if `notifying`."""
        if self.store.on_event is not None:
            self.store.on_event(self, event, key, kind)

    def prefetch(self, keys: Sequence[bytes]) -> None:
        """Load those of `keys` that are not cached with one look-up in the engine, for reads that follow."""
        self._check_gone()
        hot = self._hot
        missing = list(dict.fromkeys(key for key in keys if key not in hot.young and key not in hot.old))
        if self._flushed:
            return
        rows = self._engine.multi_get(Family.RECORDS, [self.id + key for key in missing])
        cache = self._state.cache
        cache.loads += len(missing)
        for key, row in zip(missing, rows, strict=True):
            try:
                record = MISSING if row is None else self._decode(row)
            except RecordError:
                continue  # whoever reads the key is told
            hot.young[key] = record
            cache.young_bytes += cost(key, record)

    # For the store, the sweeper and what comes from other nodes.

    @property
    def is_local(self) -> bool:
        """Whether what is written here stays here."""
        return self._lane is self._txn.local

    @property
    def hot(self) -> Hot:
        """The decoded records, for `applying`, which is as hot as `put`."""
        return self._hot

    def follow(self, policy: Policy) -> None:
        """Do from now on what `policy` asks for."""
        self.policy = policy
        is_local = policy.replicate == "none"
        self.history = policy.history
        self._lane = self._txn.local if is_local else self._txn.lane_for(self.group)
        # Else no write takes the short way of `put`.
        is_plain = self._lane is self._txn and not policy.history
        if policy.value_bytes_max is None and is_plain:
            self._limits = self._state.limits
        else:
            self._limits = NarrowedLimits(self._state.limits, policy.value_bytes_max, plain=is_plain)

    def peek(self, key: bytes) -> Record:
        """Return what is stored under `key`, live or not: `MISSING` if nothing. May raise `RecordError`."""
        return self._find(key)

    def peek_readable(self, key: bytes) -> Record:
        """Do the same; if it cannot be read, return a stand-in that can be replaced."""
        try:
            return self._find(key)
        except RecordError:
            return build(b"", None, (None, None, None), self._state.origins)

    def cached(self, key: bytes) -> Record | None:
        """Return what is stored under `key` if the cache has it. Does not count as a use."""
        return self._hot.young.get(key) or self._hot.old.get(key)

    def rewrite(self, key: bytes, record: Record) -> None:
        """Replace what is stored under `key` without a dot: for expiry and purging, which are not writes."""
        self._set(key, self._find(key), record)

    def install(self, key: bytes, old: Record, record: Record) -> None:
        """Replace `old`, which is stored under `key`, by a record whose registers have their dots already."""
        if needs_purge(record) and not needs_purge(old):
            due = self._state.purge_due(purgeable_ms(record))
            self._txn.deadlines.append(deadline_prefix(due, PURGE_KIND) + self.id + key)
        if key not in self._hot.young:
            self._state.cache.young_bytes += cost(key, old)
        self._set(key, old, record)

    def write_anew(self, key: bytes, value: bytes, expires_at_ms: int, metadata: bytes | None) -> None:
        """Put, whatever the limits say: for what was accepted once."""
        old = self.peek_readable(key)
        if key not in self._hot.young:
            self._state.cache.young_bytes += cost(key, old)
        self._replace(key, old, value, expires_at_ms, metadata, limited=False)

    def load_counts(self, counts: tuple[int, int, int, int] | None) -> None:
        """Set the counts as they are on disk; None: the keyspace was never written to."""
        self._committed = counts or (0, 0, 0, 0)
        self.count, self.expires, self.floors, self.headers = self._committed
        self._empty = counts is None
        self._recounted = False

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """The four counts, as they are stored."""
        return self.count, self.expires, self.floors, self.headers

    def committed(self) -> None:
        """Take the counts, and a flush, as being on disk now."""
        self._committed = self.counts
        self._recounted = False
        self._flushed = False

    def revert_counts(self) -> None:
        """Put the counts back to what is on disk."""
        self.count, self.expires, self.floors, self.headers = self._committed
        self._empty = False
        self._recounted = False

    def lift_flush(self) -> None:
        """Forget the last flush, as if there had never been one. What it has deleted stays deleted."""
        self._txn.flushed.append((self, self.floor))
        self.floor = None

    def revert_flush(self, floor: bytes | None) -> None:
        """Take back a flush that was not committed; `floor` is the one before."""
        self.floor = floor
        self._empty = False
        self._flushed = False
        self._state.cache.drop(self._hot)

    def check_open(self) -> None:
        """Raise `KeyspaceError` unless clients may read and write here: their door's to ask, replication does not."""
        if self.gone or self.group in self.store.keyspaces.incomplete:
            self._check_gone()
            self.store.keyspaces.check_open(self.group)

    def forget(self, key: bytes) -> None:
        """Drop `key` from the cache."""
        self._state.cache.forget(self._hot, key)

    def close(self) -> None:
        """Mark the namespace as deleted: whoever still holds this object is told so."""
        self.gone = True
        self._state.cache.close(self._hot)

    def succeed(self, closed: Keyspace) -> None:
        """Go on where the object of this namespace that the tick has closed left off."""
        self.floor = closed.floor
        self._empty = self._flushed = True
        self.count, self.expires, self.floors, self.headers = closed.counts
        self._txn.flushed.append((self, closed.floor))

    def reopen(self) -> None:
        """Take back a deletion that was not committed."""
        self.gone = False
        self._hot = self._state.cache.open()

    # Below: not for others.

    def _find(self, key: bytes) -> Record:
        """Return what is stored under `key`, from the cache or the engine, and cache it."""
        record = self._hot.young.get(key)
        if record is not None:
            return record
        cache = self._state.cache
        record = cache.promote(self._hot, key)
        if record is not None:
            return record
        self._check_gone()
        record = self._load(key)
        if record is MISSING and len(key) > self._limits.key_bytes_max:
            return record  # it cannot be written, so it is not worth a place in the cache
        self._hot.young[key] = record
        cache.young_bytes += cost(key, record)
        return record

    def _find_for_write(self, key: bytes) -> Record:
        if len(key) > self._limits.key_bytes_max:
            raise KeyTooLong(len(key), self._limits.key_bytes_max)
        return self._find(key)

    def _load(self, key: bytes) -> Record:
        if self._flushed:
            return MISSING
        self._state.cache.loads += 1
        row = self._engine.get(Family.RECORDS, self.id + key)
        return MISSING if row is None else self._decode(row)

    def _decode(self, row: bytes) -> Record:
        record = decode(row, self._state.origins)
        if self.floor is not None:
            return erase_below(record, self.floor, self._state.origins)
        return record

    def _replace(
        self,
        key: bytes,
        old: Record,
        value: bytes,
        expires_at_ms: int,
        metadata: bytes | None,
        *,
        limited: bool = True,
    ) -> None:
        """Put in all its generality: with an expiry register, metadata or a floor, or over no value."""
        _check_time(expires_at_ms)
        if metadata is not None and limited and len(metadata) > self._limits.metadata_bytes_max:
            raise MetadataTooLong(len(metadata), self._limits.metadata_bytes_max)
        txn = self._txn
        lane = self._lane
        if len(value) > INLINE_BYTES_MAX and lane.bulk is not None and txn.hlc_step:
            lane = lane.bulk
        hlc, seq = self._next_dot(lane)
        lane.places.append(self.id + key)
        if lane is not txn:
            txn.others.append((len(txn.places), self.id + key))
        prev = NO_PREV if old[VALUE_STAMP] is None else old[VALUE_STAMP][:PREV_BYTES]
        register = pack_register(hlc, lane.origin, seq, prev)
        expiry = old[EXPIRY]
        had_ttl = txn.now_ms < old[EXPIRES_AT] < NEVER
        # What is hidden here was observed when it came, so the clock is beyond it.
        assert old[FLOOR] is None or old[FLOOR][:8] <= register[:8]
        assert old[VALUE_STAMP] is None or old[VALUE_STAMP][:8] <= register[:8]
        if expires_at_ms != NEVER or had_ttl:
            # The expiry register is written with the value, at the same clock value: two dots of one group.
            expiry_register = pack_register(hlc, lane.origin, seq + 1, _prev_of(expiry))
            expiry = (expiry_register, None if expires_at_ms == NEVER else expires_at_ms)
            lane.seq = seq + 1
            lane.places.append(None)
            if txn.hlc_step:
                lane.groups.append((len(lane.places) - 2, 2))
        self._set(key, old, (value, expires_at_ms, metadata, register, expiry, old[FLOOR]))

    def _put_special(
        self, key: bytes, old: Record, value: bytes, expires_at_ms: int, metadata: bytes | None
    ) -> None:
        """Put what `put` does not do itself: a large value, or any in a keyspace with limits of its own."""
        if len(value) > self._limits.value_bytes_max:
            raise ValueTooLong(len(value), self._limits.value_bytes_max)
        self._replace(key, old, value, expires_at_ms, metadata)

    def _next_dot(self, lane: LaneLog) -> tuple[int, int]:
        if not lane.origin:
            self._state.ledger.draw(lane)
        txn = self._txn
        txn.hlc += txn.hlc_step
        lane.seq += 1
        return txn.hlc, lane.seq

    def _drop_all(self, floor: bytes) -> None:
        """Delete all rows and take `floor` as the last flush."""
        txn = self._txn
        if self.floor is not None:
            txn.replaced.append(self.floor)
        txn.flushed.append((self, self.floor))
        self.floor = floor
        txn.drop_rows(self.id)
        if not self._empty:
            # Only then: flushing empty keyspaces again and again must not pile up range deletions.
            end = after_prefix(self.id)
            assert end is not None
            txn.ranges.append((Family.RECORDS, self.id, end))
        self._state.members.erase_all(self.id)
        self._state.history.clear(self.id)
        self._state.cache.drop(self._hot)
        if any(self.counts):
            self._recount(-self.count, -self.expires, -self.floors, -self.headers)
        self._empty = True
        self._flushed = True

    def _set(self, key: bytes, old: Record, record: Record) -> None:
        """Make `record` what is stored under `key`: pending row, deadline, cache, counts; `old` becomes past."""
        row_key = self.id + key
        if record is MISSING:
            self._state.history.forget(row_key)
        elif self.history:
            self._state.history.remember(row_key, old, record, self.history)
        if record[VALUE] is not None and record[EXPIRES_AT] != NEVER:
            # An entry at or before the old expiry is there already; it does for a later one too (`layout`).
            covered = old[VALUE] is not None and old[EXPIRES_AT] <= record[EXPIRES_AT]
            if not covered:
                self._txn.deadlines.append(deadline_prefix(record[EXPIRES_AT], EXPIRY_KIND) + row_key)
        txn = self._txn
        value, expires_at_ms, _, stamp, expiry, floor = record
        old_value, old_expires_at_ms, _, old_stamp, old_expiry, old_floor = old
        if old_stamp is not None and old_stamp is not stamp:
            txn.replaced.append(old_stamp)
        if old_expiry is not None and (expiry is None or old_expiry[0] is not expiry[0]):
            txn.replaced.append(old_expiry[0])
        if old_floor is not None and old_floor is not floor:
            txn.replaced.append(old_floor)
        txn.rows[row_key] = record
        if record is MISSING:
            txn.purges_rows = True
        self._hot.young[key] = record
        self._state.cache.young_bytes += weight(record) - weight(old)
        self._empty = False
        keys = (value is not None) - (old_value is not None)
        expires = (value is not None and expires_at_ms != NEVER) - (
            old_value is not None and old_expires_at_ms != NEVER
        )
        floors = (floor is not None) - (old_floor is not None)
        headers = 0
        if value is None or old_value is None:
            headers = (value is None and stamp is not None) - (old_value is None and old_stamp is not None)
        if keys or expires or floors or headers:
            self._recount(keys, expires, floors, headers)

    def _recount(self, keys: int, expires: int, floors: int, headers: int) -> None:
        self.count += keys
        self.expires += expires
        self.floors += floors
        self.headers += headers
        if not self._recounted:
            self._recounted = True
            self._txn.recounted.append(self)

    def _add_purge_deadline(self, key: bytes, old_floor: bytes | None, hlc: int) -> None:
        due = self._state.purge_due(hlc_ms(hlc))
        if old_floor is None or self._state.purge_due(register_ms(old_floor)) != due:
            self._txn.deadlines.append(deadline_prefix(due, PURGE_KIND) + self.id + key)

    def _unreadable(self, key: bytes) -> Record:
        """Return a stand-in for a record that cannot be read, and hold it as what is stored."""
        record = build(b"", None, (None, None, None), self._state.origins)
        self._hot.young[key] = record
        self._state.cache.young_bytes += cost(key, record)
        return record

    def _check_gone(self) -> None:
        if self.gone:
            self.store.keyspaces.check_carried(self.group)
            raise KeyspaceGone(self.id.hex())

    def _merged_rows(
        self, start: bytes, end: bytes | None, limit: int
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """Return up to `limit` stored rows of a range with the pending ones merged in, and the last row key.

        The last row key is None if the range ends here.
        """
        stored = (
            [] if self._flushed else list(islice(self._engine.iterate(Family.RECORDS, start, end), limit))
        )
        boundary = stored[-1][0] if len(stored) == limit else None
        pending = self._pending_rows(start, end if boundary is None else boundary + b"\x00")
        if pending:
            merged = sorted(set(pending).union(key for key, _ in stored))
            if len(merged) > limit:
                del merged[limit:]
                boundary = merged[-1]
            rows = dict(stored)
            return [(key, self._row_record(key, rows.get(key))) for key in merged], boundary
        return [(key, self._row_record(key, row)) for key, row in stored], boundary

    def _pending_rows(self, start: bytes, end: bytes | None) -> list[bytes]:
        return [key for key in self._txn.rows if start <= key and (end is None or key < end)]

    def _row_record(self, row_key: bytes, row: bytes | None) -> Record:
        """Return what is stored under a row key as this tick sees it; `MISSING` for what cannot be read."""
        pending = self._txn.rows.get(row_key)
        if pending is not None:
            return pending
        try:
            return MISSING if row is None else self._decode(row)
        except RecordError:
            return MISSING


def _check_time(expires_at_ms: int) -> None:
    """Refuse here what could not be encoded: a commit must not fail for one bad argument."""
    if not 0 <= expires_at_ms <= NEVER:
        raise ValueError(f"an expiry of {expires_at_ms} is not between 0 and NEVER")


def _prev_of(expiry: tuple[bytes, int | None] | None) -> bytes:
    return NO_PREV if expiry is None else expiry[0][:PREV_BYTES]


def needs_purge(record: Record) -> bool:
    """Tell whether the row must have a purge deadline: it holds something that only hides older writes."""
    return record[FLOOR] is not None or (record[VALUE] is None and record is not MISSING)


def purgeable_ms(record: Record) -> int:
    """Return the time from which on nothing about what is to be purged changes by itself any more."""
    latest_ms = max(register_ms(register) for register in registers(record))
    expiry = record[EXPIRY]
    if record[VALUE] is None and expiry is not None and expiry[1] is not None:
        return max(latest_ms, expiry[1])
    return latest_ms
