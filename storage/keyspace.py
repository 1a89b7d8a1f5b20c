"""A keyspace: the records of one namespace, as command handlers see them.

Reads see what the tick has written. Writes are pending until `Store.commit`; each takes a dot and
a clock value of its own, unless it is inside `Store.atomic`. The methods refuse first and write
last: one that raises has changed nothing.

`get` and `put` are the hottest functions of the daemon. They are flat on purpose: a hit in the
cache is one dict look-up and one comparison; a put of a known key packs one register and fills
three containers. Figures: tests/bench/bench_store.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from storage.cache import Hot, cost, weight
from storage.engine import Family
from storage.errors import KeyspaceGone, KeyTooLong, MetadataTooLong, RecordError, ValueTooLong
from storage.layout import EXPIRY_KIND, PURGE_KIND, after_prefix, deadline_prefix
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
)
from storage.sampling import draw_keys
from storage.state import State
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
        "_limits",
        "_recounted",
        "_state",
        "_txn",
        "count",
        "expires",
        "floor",
        "gone",
        "hits",
        "id",
        "index",
        "misses",
        "notifying",
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
        self.floor: bytes | None = None  # the register of the last flush
        self.notifying = False  # whether handlers should call `notify`
        self.hits = 0  # look-ups of commands that read, counted by them
        self.misses = 0
        self.gone = False  # a named namespace that was deleted
        self._committed = (0, 0)
        self._empty = False  # whether it is known that there is no row, not even a dead one
        self._flushed = False  # whether the tick has flushed it, so that all rows of the engine are dead
        self._recounted = False
        self._state = state
        self._txn = state.txn
        self._engine = state.engine
        self._limits = state.limits
        self._hot: Hot = state.cache.open()

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

    def random_key(self) -> bytes | None:
        """Return a live key, each with about the same chance; None if there is none.

        Up to 32 rows the draw is exactly uniform; above, see `sampling`: a few milliseconds at most. What the
        tick has added is not drawn, unless there is nothing else.
        """
        self._check_gone()
        if self.count <= 0:
            return None
        if not self._flushed:
            end = after_prefix(self.id)
            for row_key in draw_keys(self._engine, self.id, end, _RANDOM_DRAWS):
                key = row_key[len(self.id) :]
                if self.get(key) is not None:
                    return key
        return self._first_live_key()

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
        if size > self._limits.value_bytes_max:
            raise ValueTooLong(size, self._limits.value_bytes_max)
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
            if len(value) > self._limits.value_bytes_max:
                raise ValueTooLong(len(value), self._limits.value_bytes_max)
            self._replace(key, old, value, old[EXPIRES_AT], old[METADATA])

    def expire(self, key: bytes, expires_at_ms: int) -> None:
        """Set when a live key expires; `NEVER` takes its expiry away. A missing key stays missing."""
        _check_time(expires_at_ms)
        old = self._find(key)
        if old[EXPIRES_AT] <= self._txn.now_ms or (expires_at_ms == NEVER and old[EXPIRES_AT] == NEVER):
            return
        hlc, seq = self._next_dot()
        register = pack_register(hlc, self._txn.origin, seq, _prev_of(old[EXPIRY]))
        expiry = (register, None if expires_at_ms == NEVER else expires_at_ms)
        self._txn.places.append(self.id + key)
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
        hlc, seq = self._next_dot()
        old_floor = old[FLOOR]
        prev = NO_PREV if old_floor is None else old_floor[:PREV_BYTES]
        floor = pack_register(hlc, self._txn.origin, seq, prev)
        self._txn.places.append(self.id + key)
        self._add_purge_deadline(key, old_floor, hlc)
        self._set(key, old, (None, 0, None, None, None, floor))
        return True

    def flush(self) -> int:
        """Delete all records and return how many there were. Constant time, whatever is stored."""
        self._check_gone()
        txn = self._txn
        hlc, seq = self._next_dot()
        old_floor = self.floor
        prev = NO_PREV
        if old_floor is not None:
            prev = old_floor[:PREV_BYTES]
            txn.replaced.append(old_floor)
        self.floor = pack_register(hlc, txn.origin, seq, prev)
        txn.places.append([self.id])
        txn.flushed.append((self, old_floor))
        txn.drop_rows(self.id)
        count = self.count
        if not self._empty:
            # Only then: flushing empty keyspaces again and again must not pile up range deletions.
            end = after_prefix(self.id)
            assert end is not None
            txn.ranges.append((Family.RECORDS, self.id, end))
        self._state.cache.drop(self._hot)
        if count:
            self._recount(-self.count, -self.expires)
        self._empty = True
        self._flushed = True
        return count

    def notify(self, event: bytes, key: bytes, kind: int) -> None:
        """Report a keyspace event to the daemon. Call it only if `notifying`."""
        if self.store.on_event is not None:
            self.store.on_event(self, event, key, kind)

    def prefetch(self, keys: Sequence[bytes]) -> None:
        """Load those of `keys` that are not cached with one look-up in the engine, for reads that follow."""
        self._check_gone()
        hot = self._hot
        missing = list({key for key in keys if key not in hot.young and key not in hot.old})
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

    # For the store and the sweeper.

    def peek(self, key: bytes) -> Record:
        """Return what is stored under `key`, live or not: `MISSING` if nothing. May raise `RecordError`."""
        return self._find(key)

    def cached(self, key: bytes) -> Record | None:
        """Return what is stored under `key` if the cache has it. Does not count as a use."""
        return self._hot.young.get(key) or self._hot.old.get(key)

    def rewrite(self, key: bytes, record: Record) -> None:
        """Replace what is stored under `key` without a dot: for expiry and purging, which are not writes."""
        self._set(key, self._find(key), record)

    def load_counts(self, counts: tuple[int, int] | None) -> None:
        """Set the counts as they are on disk; None: the keyspace was never written to."""
        self.count, self.expires = self._committed = counts or (0, 0)
        self._empty = counts is None
        self._recounted = False

    def committed(self) -> None:
        """Take the counts, and a flush, as being on disk now."""
        self._committed = (self.count, self.expires)
        self._recounted = False
        self._flushed = False

    def revert_counts(self) -> None:
        """Put the counts back to what is on disk."""
        self.count, self.expires = self._committed
        self._empty = False
        self._recounted = False

    def revert_flush(self, floor: bytes | None) -> None:
        """Take back a flush that was not committed; `floor` is the one before."""
        self.floor = floor
        self._empty = False
        self._flushed = False
        self._state.cache.drop(self._hot)

    def forget(self, key: bytes) -> None:
        """Drop `key` from the cache."""
        self._state.cache.forget(self._hot, key)

    def close(self) -> None:
        """Mark the namespace as deleted: whoever still holds this object is told so."""
        self.gone = True
        self._state.cache.close(self._hot)

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
        self, key: bytes, old: Record, value: bytes, expires_at_ms: int, metadata: bytes | None
    ) -> None:
        """Put in all its generality: with an expiry register, metadata or a floor, or over no value."""
        _check_time(expires_at_ms)
        if metadata is not None and len(metadata) > self._limits.metadata_bytes_max:
            raise MetadataTooLong(len(metadata), self._limits.metadata_bytes_max)
        txn = self._txn
        hlc, seq = self._next_dot()
        row_key = self.id + key
        txn.places.append(row_key)
        prev = NO_PREV if old[VALUE_STAMP] is None else old[VALUE_STAMP][:PREV_BYTES]
        register = pack_register(hlc, txn.origin, seq, prev)
        expiry = old[EXPIRY]
        had_ttl = txn.now_ms < old[EXPIRES_AT] < NEVER
        if expires_at_ms != NEVER or had_ttl:
            # The expiry register is written with the value, at the same clock value: two dots of one group.
            expiry_register = pack_register(hlc, txn.origin, seq + 1, _prev_of(expiry))
            expiry = (expiry_register, None if expires_at_ms == NEVER else expires_at_ms)
            txn.seq = seq + 1
            txn.places.append(None)
            if txn.hlc_step:
                txn.groups.append((len(txn.places) - 2, 2))
        self._set(key, old, (value, expires_at_ms, metadata, register, expiry, old[FLOOR]))

    def _next_dot(self) -> tuple[int, int]:
        txn = self._txn
        txn.hlc += txn.hlc_step
        txn.seq += 1
        return txn.hlc, txn.seq

    def _set(self, key: bytes, old: Record, record: Record) -> None:
        """Make `record` what is stored under `key`: pending row, deadline, cache, counts."""
        row_key = self.id + key
        if record[VALUE] is not None and record[EXPIRES_AT] != NEVER:
            # An entry at or before the old expiry is there already; it does for a later one too (`layout`).
            covered = old[VALUE] is not None and old[EXPIRES_AT] <= record[EXPIRES_AT]
            if not covered:
                self._txn.deadlines.append(deadline_prefix(record[EXPIRES_AT], EXPIRY_KIND) + row_key)
        txn = self._txn
        txn.replaced.extend(_replaced(old, record))
        txn.rows[row_key] = record
        if record is MISSING:
            txn.purges_rows = True
        self._hot.young[key] = record
        self._state.cache.young_bytes += weight(record) - weight(old)
        keys = (record[VALUE] is not None) - (old[VALUE] is not None)
        expires = _has_expiry(record) - _has_expiry(old)
        if keys or expires:
            self._recount(keys, expires)

    def _recount(self, keys: int, expires: int) -> None:
        self.count += keys
        self.expires += expires
        self._empty = False
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

    def _first_live_key(self) -> bytes | None:
        for key in self._live_keys():
            return key
        return None

    def _live_keys(self) -> Iterator[bytes]:
        after: bytes | None = None
        while True:
            found, after = self.scan(b"", after, _SCAN_ROWS)
            for key, _ in found:
                yield key
            if after is None:
                return


def _check_time(expires_at_ms: int) -> None:
    """Refuse here what could not be encoded: a commit must not fail for one bad argument."""
    if not 0 <= expires_at_ms <= NEVER:
        raise ValueError(f"an expiry of {expires_at_ms} is not between 0 and NEVER")


def _prev_of(expiry: tuple[bytes, int | None] | None) -> bytes:
    return NO_PREV if expiry is None else expiry[0][:PREV_BYTES]


def _replaced(old: Record, record: Record) -> list[bytes]:
    """Return the registers of `old` that `record` has no more."""
    found: list[bytes] = []
    _, _, _, stamp, expiry, floor = record
    _, _, _, old_stamp, old_expiry, old_floor = old
    if old_stamp is not None and old_stamp is not stamp:
        found.append(old_stamp)
    if old_expiry is not None and (expiry is None or old_expiry[0] is not expiry[0]):
        found.append(old_expiry[0])
    if old_floor is not None and old_floor is not floor:
        found.append(old_floor)
    return found


def _has_expiry(record: Record) -> bool:
    return record[VALUE] is not None and record[EXPIRES_AT] != NEVER
