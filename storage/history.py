"""Past versions: what was replaced on this node, in namespaces whose policy asks for it.

A version is what a key was for some time: a value with its metadata, or a deletion. When another one takes its
place, whoever wrote that, the one before goes into the history family in the same batch. A change of the expiry
alone makes no version. A value that expires has ended at its expiry, whenever the sweep comes to it.

The history is this node's own. It has no dots, is in no change, digest or export, and two nodes may remember
different things: each what it has seen. What was replaced twice in one tick is two versions.

    key      its place as in the members family, then a number counted down (see `layout`)
    number   1, 2, 3 ... for each key: with the newest at n and a bound of b, those up to n - b are too many
    row      replaced_ms (8) ‖ the row of the version as a record (`record`), without what is not its own:
             a floor under a value, an expiry that does not count

So a write costs one row more and, once the key has as many versions as it may, one deletion, both blind; the
newest number is found with one seek and then remembered (`_newest`).

*Bounds.* The meta row of a namespace tells how many versions any of its keys may have on the disk. A policy that
asks for less is obeyed by readers and writers at once, and the rows beyond it are removed in slices, with the sweep
(`trim`); then the meta row follows. Until it does, a policy that asks for more again is obeyed up to the
smaller number, so that what was given up never shows again. All versions of a namespace go with one deletion of a
range, which takes constant time: when it is flushed or deleted, or its policy asks for none. Those of a
key go when its row does: after a deletion is purged, or an expired key dropped.

Nothing here is called for namespaces without a history, but `forget` and `clear`, which find no bound. Figures:
tests/bench/bench_store.py. A write costs 5 us without a past and 20 to 35 us with one of two versions, most of it the seek
for a key that was not written lately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from struct import Struct
from typing import Final

import attrs

from storage.engine import Batch, Engine, Family, Unopened
from storage.errors import DamagedFiles, RecordError
from storage.layout import (
    HISTORY_PREFIX,
    NAMESPACE_BYTES,
    after_prefix,
    history_key,
    parse_history_key,
    place_prefix,
)
from storage.record import (
    EXPIRES_AT,
    FLOOR,
    METADATA,
    NEVER,
    VALUE,
    VALUE_STAMP,
    Record,
    decode,
    dumps,
    encode,
    loads,
)
from storage.transaction import Transaction
from storage.version import STAMP_BYTES, is_newer, register_dot

_NEWEST_MAX: Final = 4096  # keys whose newest number is remembered: with the longest keys some 10 MB
_TIME: Final = Struct(">Q")
_NO_WALK: Final = (b"", 0, b"")


@attrs.frozen
class Past:
    """A past version: what the record was, and since when it is not. VALUE is None in one that was a deletion."""

    record: Record
    replaced_at_ms: int

    @property
    def register(self) -> bytes:
        """The register of what wrote it."""
        register = self.record[VALUE_STAMP] or self.record[FLOOR]
        assert register is not None
        return register


def encode_past(past: Past) -> bytes:
    return _TIME.pack(past.replaced_at_ms) + encode(past.record)


def decode_past(row: bytes, origins: list[bytes]) -> Past:
    """Return the version of a row. Raise `RecordError` if it is none."""
    if isinstance(row, Unopened):
        raise row.error
    if len(row) < _TIME.size:
        raise RecordError("a past version is too short")
    replaced_at_ms: int = _TIME.unpack_from(row)[0]
    record = decode(row[_TIME.size :], origins)
    if record[VALUE] is None and record[FLOOR] is None:
        raise RecordError("a past version is neither a value nor a deletion")
    return Past(record, replaced_at_ms)


@attrs.define
class _Tail:
    """One key's versions as the tick leaves them: those on the disk, and what was added."""

    number: int  # of the newest on the disk; 0: none
    register: bytes  # of the newest of all; empty: there is none, or it cannot be read
    erased: list[bytes] = attrs.field(factory=list)  # row keys of what is on the disk, if all of that goes
    limit: int = 0
    dropped: int = 0  # how many were added and are too many by now
    added: list[Past] = attrs.field(factory=list)  # the newest last

    @property
    def last(self) -> int:
        """The number of the newest."""
        return self.number + self.dropped + len(self.added)

    def push(self, past: Past, limit: int) -> None:
        """Add a version. One with the stamp of the newest takes its place: it had come back in between."""
        register = past.register
        if register[:STAMP_BYTES] == self.register[:STAMP_BYTES]:
            if self.added:
                self.added.pop()
            else:
                self.number -= 1
        self.register = register
        self.limit = limit
        self.added.append(past)
        surplus = len(self.added) - limit
        if surplus > 0:
            del self.added[:surplus]
            self.dropped += surplus


class History:
    """The past versions of one store, as the tick under way leaves them."""

    def __init__(self, engine: Engine, txn: Transaction, origins: list[bytes]) -> None:
        self._engine = engine
        self._txn = txn
        self._origins = origins
        self._bounds = read_bounds(engine)
        self._trims: dict[bytes, int] = {}  # namespaces with too many: how many a key may keep
        self._walk = _NO_WALK  # namespace and limit of the trim under way, and where it goes on
        self._newest: dict[bytes, tuple[int, bytes]] = {}  # by place: number and register, on the disk
        self.is_dirty = False  # whether the tick has changed anything here
        self._tails: dict[bytes, _Tail] = {}  # by place
        self._cleared: set[bytes] = set()  # namespaces that have nothing on the disk any more
        self._rebound: set[bytes] = set()  # namespaces whose meta row changes
        self._before: tuple[dict[bytes, int], dict[bytes, int]] | None = None  # bounds and trims

    @property
    def namespace_count(self) -> int:
        """How many namespaces may have past versions."""
        return len(self._bounds)

    # Writes, in the tick under way.

    def remember(self, place: bytes, old: Record, record: Record, versions: int) -> None:
        """Keep `old` if the `record` that takes its place is another version; `versions` are kept of each key.

        To be called before anything else is changed: it may have to read, and raise the engine's error.
        """
        past = _ended(old, record, self._txn.now_ms)
        if past is None:
            return
        limit = self._limit(place[:NAMESPACE_BYTES], versions)
        tail = self._tails.get(place)
        if tail is None:
            tail = self._tails[place] = _Tail(*self._newest_of(place))
            self.is_dirty = True
        is_deletion = past.record[VALUE] is None
        if is_deletion and tail.register and not is_newer(past.register, tail.register, self._origins):
            return  # it had been replaced by what has expired since, and was kept then
        tail.push(past, limit)

    def forget(self, place: bytes) -> None:
        """Remove the past of a key whose row goes. Costs one seek, in a namespace that has a history."""
        namespace = place[:NAMESPACE_BYTES]
        if namespace not in self._bounds:
            return
        prefix = place_prefix(place)
        erased: list[bytes] = []
        if namespace not in self._cleared:
            erased = list(self._engine.keys(Family.HISTORY, prefix, after_prefix(prefix)))
        if erased or place in self._tails:
            self._tails[place] = _Tail(0, b"", erased)
            self.is_dirty = True

    def clear(self, namespace: bytes) -> None:
        """Remove all past versions in a namespace. Constant time."""
        if namespace not in self._bounds:
            return
        self._rebind(namespace, 0)
        self._tails = {place: tail for place, tail in self._tails.items() if not place.startswith(namespace)}
        if namespace not in self._cleared:
            self._cleared.add(namespace)
            end = after_prefix(namespace)
            assert end is not None
            self._txn.ranges.append((Family.HISTORY, namespace, end))

    # Reads.

    def read(self, place: bytes, record: Record, count: int) -> list[Past]:
        """Return up to `count` past versions, newest first, of a key that is `record` now.

        Raise `RecordError` if one of them cannot be read.
        """
        count = min(count, self._trims.get(place[:NAMESPACE_BYTES], count))
        return list(islice(self._read(place, record), count))

    def _read(self, place: bytes, record: Record) -> Iterator[Past]:
        if record[VALUE] is not None and 0 < record[EXPIRES_AT] <= self._txn.now_ms:
            past = _value(record, self._txn.now_ms)
            if past is not None:
                yield past  # not swept yet
        current = record[VALUE_STAMP] if record[VALUE] is not None else None
        for past in self._kept(place):
            # A value that was dropped, and that another node gave back, is no past version for now.
            if current is None or past.register[:STAMP_BYTES] != current[:STAMP_BYTES]:
                yield past

    def _kept(self, place: bytes) -> Iterator[Past]:
        tail = self._tails.get(place)
        prefix = start = place_prefix(place)
        if tail is not None:
            yield from reversed(tail.added)
            if tail.number == 0:
                return
            start = history_key(prefix, tail.number)
        if place[:NAMESPACE_BYTES] not in self._cleared:
            for _, row in self._engine.iterate(Family.HISTORY, start, after_prefix(prefix)):
                yield decode_past(row, self._origins)

    # What the policies ask for.

    def settle(self, history_of: Callable[[bytes], int | None]) -> None:
        """Take note of how many versions each namespace keeps by now; None: that cannot be told.

        What is too many is to be removed by `trim`. Nothing may be pending.
        """
        for namespace, bound in self._bounds.items():
            versions = history_of(namespace)
            if versions is not None and versions < bound:
                self._trims[namespace] = min(versions, self._trims.get(namespace, versions))

    def trim(self, rows_max: int) -> int:
        """Remove in the tick what is too many among the next `rows_max` rows, and those of one key; return how many."""
        if not self._trims:
            return 0
        namespace, limit = next(iter(self._trims.items()))
        if limit == 0:
            self.clear(namespace)
            return 1
        if self._walk[:2] != (namespace, limit):
            self._walk = (namespace, limit, namespace)
        examined, newest, prefix = 0, 0, b""
        for row_key in self._engine.keys(Family.HISTORY, self._walk[2], after_prefix(namespace)):
            try:
                found, number = parse_history_key(row_key)
            except ValueError:
                continue  # `kvd verify` names it
            if found != prefix:
                if examined >= rows_max:
                    self._walk = (namespace, limit, row_key)
                    return examined
                prefix, newest = found, number
            examined += 1
            if number <= newest - limit:
                self._txn.removed.append((Family.HISTORY, row_key))
        self._rebind(namespace, limit)
        return max(examined, 1)

    # The commit.

    def add_rows(self, batch: Batch) -> None:
        """Add to the batch what the tick has changed."""
        rows: list[tuple[bytes, bytes]] = []
        for place, tail in self._tails.items():
            prefix = place_prefix(place)
            for row_key in tail.erased:
                batch.delete(Family.HISTORY, row_key)
            last = tail.last
            surplus = range(max(tail.number - tail.limit, 0) + 1, min(tail.number, last - tail.limit) + 1)
            for number in surplus:
                batch.delete(Family.HISTORY, history_key(prefix, number))
            first = tail.number + tail.dropped + 1
            for number, past in enumerate(tail.added, first):
                rows.append((history_key(prefix, number), encode_past(past)))
        batch.put_all(Family.HISTORY, rows)
        for namespace in sorted(self._rebound):
            bound = self._bounds.get(namespace)
            if bound is None:
                batch.delete(Family.META, HISTORY_PREFIX + namespace)
            else:
                batch.put(Family.META, HISTORY_PREFIX + namespace, dumps(bound))

    def committed(self) -> None:
        """Take what the tick has changed as being on the disk."""
        if not self.is_dirty:
            return
        newest = self._newest
        if len(newest) + len(self._tails) > _NEWEST_MAX:
            newest.clear()
        for namespace in self._cleared:
            for place in [place for place in newest if place.startswith(namespace)]:
                del newest[place]
        for place, tail in islice(self._tails.items(), _NEWEST_MAX):
            newest[place] = (tail.last, tail.register)
        self._end()

    def reverted(self) -> None:
        """Forget what the tick has changed."""
        if self._before is not None:
            self._bounds, self._trims = self._before
        self._walk = _NO_WALK
        self._end()

    # Below: not for others.

    def _end(self) -> None:
        self.is_dirty = False
        self._tails = {}
        self._cleared = set()
        self._rebound = set()
        self._before = None

    def _limit(self, namespace: bytes, versions: int) -> int:
        """Return how many versions a key may have now, and let the namespace's bound be no less."""
        due = self._trims.get(namespace)
        if due == 0:
            self.clear(namespace)  # it was switched off and on again
        elif due is not None:
            return min(versions, due)
        if self._bounds.get(namespace, 0) < versions:
            self._rebind(namespace, versions)
        return versions

    def _rebind(self, namespace: bytes, bound: int) -> None:
        """Let the namespace's keys have up to `bound` versions on the disk, and nothing more be due."""
        if self._before is None:
            self._before = (dict(self._bounds), dict(self._trims))
        if self._trims.pop(namespace, None) is not None and self._walk[0] == namespace:
            self._walk = _NO_WALK  # a later one, perhaps to the same limit, begins at the beginning
        if bound:
            self._bounds[namespace] = bound
        else:
            del self._bounds[namespace]
        self._rebound.add(namespace)
        self.is_dirty = True

    def _newest_of(self, place: bytes) -> tuple[int, bytes]:
        """Return number and register of the newest version on the disk, 0 if there is none."""
        if place[:NAMESPACE_BYTES] in self._cleared:
            return 0, b""
        known = self._newest.get(place)
        if known is not None:
            return known
        prefix = place_prefix(place)
        for row_key, row in self._engine.iterate(Family.HISTORY, prefix, after_prefix(prefix)):
            number = parse_history_key(row_key)[1]
            try:
                register = decode_past(row, self._origins).register
            except RecordError:
                return number, b""  # who reads it is told
            return number, register if register_dot(register)[0] < len(self._origins) else b""
        return 0, b""


def read_bounds(engine: Engine) -> dict[bytes, int]:
    """Return the bound of each namespace that may have past versions. Raise `DamagedFiles`."""
    found: dict[bytes, int] = {}
    for key, stored in engine.iterate(Family.META, HISTORY_PREFIX, after_prefix(HISTORY_PREFIX)):
        namespace = key[len(HISTORY_PREFIX) :]
        try:
            bound = loads(stored)
        except RecordError as error:
            raise DamagedFiles(engine.path, f"the history of namespace {namespace.hex()}: {error}") from error
        if type(bound) is not int or bound < 1:
            raise DamagedFiles(engine.path, f"the history of namespace {namespace.hex()} has no bound")
        found[namespace] = bound
    return found


def _ended(old: Record, record: Record, now_ms: int) -> Past | None:
    """Return the version that ends when `record` takes the place of `old`; None if none does."""
    if old[VALUE] is not None:
        return None if _is_same(old, record) else _value(old, now_ms)
    floor = old[FLOOR]
    if floor is None or old[VALUE_STAMP] is not None or record[VALUE] is None:
        return None
    return Past((None, 0, None, None, None, floor), now_ms)


def _is_same(old: Record, record: Record) -> bool:
    """Tell whether two records with a value are one version."""
    stamp, other = old[VALUE_STAMP], record[VALUE_STAMP]
    if stamp is None or other is None or stamp[:STAMP_BYTES] != other[:STAMP_BYTES]:
        return False
    return bool(old[VALUE] == record[VALUE]) and old[METADATA] == record[METADATA]


def _value(record: Record, now_ms: int) -> Past | None:
    """Return a value as a past version; None for the stand-in of one that cannot be read."""
    value, expires_at_ms, metadata, stamp, expiry, _ = record
    if stamp is None:
        return None
    if expires_at_ms == NEVER:
        expiry = None
    return Past((value, expires_at_ms, metadata, stamp, expiry, None), min(now_ms, expires_at_ms))
