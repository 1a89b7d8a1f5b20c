"""Compaction of the change log: forgetting the dots that no row carries any more.

Overwriting a key leaves its old dot in the log. When the log holds more than `_GROWTH` times the dots that
can be live (and `_SLACK` more, so that a small hot store does not do it all the time), a pass walks it
from its beginning. It leaves out the latest dots of this node's own origin, as many as are live: most of
those still are, and they are cheaper to judge in a later pass. A chunk without live dots is removed, in
others the dead places are blanked. The last chunk of each origin stays: it holds the origin's last
sequence and clock value.

Cost: each dot is read about once, some of them again. For the dots of this run `deaddots` tells which are
dead. For older ones their rows are looked at: a dict look-up for a cached key, a read of the engine for
another one. Commits do slices in proportion to what was written, in their own batches; small ones
save up for a slice that is worth its walk. The number of dots is counted in memory and stored now and then; it
only decides when to start.

A log that cannot be read stops compaction until the store is opened again (`failure` tells why), never the
writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from storage.changelog import DEAD, encode_chunk, read_chunk, resolve
from storage.deaddots import DeadDots
from storage.engine import Family
from storage.errors import RecordError, StorageError
from storage.incoming import Place
from storage.layout import META_LOG, NAMESPACE_BYTES, change_key, parse_change_key, place_prefix
from storage.opening import read_floor
from storage.record import EXPIRY, FLOOR, VALUE_STAMP, Record, dumps, loads
from storage.registry import Keyspaces
from storage.state import State
from storage.version import dot_bytes, register_dot, register_hlc

_SLACK: Final = 100_000
_GROWTH: Final = 3
_DOTS_PER_WRITE: Final = 4
_DOTS_PER_COMMIT: Final = 32  # four times what the commit's own chunk takes once it is dead
_SLICE_DOTS: Final = 1024  # fewer at once are not worth the walk, which costs as much as two hundred
_DEAD_CHUNK_DOTS: Final = 8  # a chunk that is dead as a whole costs as much as this many dots
_COMMITS_PER_STORED_SIZE: Final = 4096
_RANGE_CHUNKS: Final = 16  # from this many on in a row, one range is cheaper than single keys
_HEAD_BYTES: Final = 64  # of a row: holds the value's register in every form
_TAIL_BYTES: Final = 160  # of a row: holds the other registers
_WORTH_WRITING: Final = 3  # a chunk is written again if at least a quarter of what it named is dead


class Compaction:
    """One store's compaction: its trigger, and the pass under way."""

    def __init__(self, state: State, keyspaces: Keyspaces) -> None:
        self._state = state
        self._keyspaces = keyspaces
        self._dead = DeadDots()
        self._dead.born(state.txn.origin)
        self._position: bytes | None = None  # where the pass goes on; None: no pass is under way
        self._following: bytes | None = None  # what `_position` will be after the commit
        self._latest_start = (0, 0)  # (origin number, seq) from which on that origin's dots are the latest
        self._kept = 0  # dots that the pass has left in the log
        self._slice_kept = 0  # those of the pending slice
        self._latest = 0  # dots that the pass leaves alone because they are the latest
        self._passed_by = 0  # these, and those written since the pass started
        self._floors: dict[bytes, bytes] | None = None  # registers of flushes, for one slice
        self._run: list[bytes] = []  # dead chunks of the slice without another one between them
        self._owed = 0  # dots to be examined for what was written since the last slice
        self._commits = 0
        self.dots, self._live = self._stored_size()
        self._threshold = _SLACK + _GROWTH * self._live
        self.failure: StorageError | None = None

    def collect(self, written: int) -> None:
        """Add what is to be done now to the transaction, given that it holds `written` dots."""
        if self._commits >= _COMMITS_PER_STORED_SIZE:
            self.store_size()
        if self._position is None and (self.dots <= self._threshold or not self._start()):
            return
        self._owed += _DOTS_PER_COMMIT + _DOTS_PER_WRITE * written
        if self._owed < _SLICE_DOTS:
            return
        owed, self._owed = self._owed, 0
        try:
            self._slice(owed)
        except StorageError as error:
            self.failure = error
            self._position = self._following = None
            self._threshold = sys.maxsize

    def committed(self, written: int) -> None:
        """Take note of a commit of `written` dots and of the slice that was collected for it."""
        self._dead.mark(self._state.txn.replaced)
        self.dots += written
        self._commits += 1
        if self._position is None:
            return
        self._passed_by += written
        self._kept += self._slice_kept
        self._slice_kept = 0
        self._position = self._following
        if self._position is None:
            self._live = self._kept + self._latest // 2  # of the latest dots, at least half are live
            self.dots = self._kept + self._passed_by

    def reverted(self) -> None:
        """Take note that the commit failed: the slice is to be done again."""
        self._slice_kept = 0
        self._following = self._position

    def revive(self, number: int, seqs: Iterable[int]) -> None:
        """Take note that registers carry these dots of an origin again."""
        self._dead.revive(number, seqs)

    def store_size(self) -> None:
        """Add the size of the log to the transaction."""
        self._commits = 0
        self._state.txn.puts.append((Family.META, META_LOG, dumps([self.dots, self._live])))

    def _stored_size(self) -> tuple[int, int]:
        stored = self._state.engine.get(Family.META, META_LOG)
        if stored is None:
            return 0, 0
        try:
            dots, live = loads(stored)
        except (RecordError, TypeError, ValueError):
            return 0, 0  # only a hint: the next pass finds the true size
        return dots, live

    def _start(self) -> bool:
        """Start a pass if the log is really long; a log of live dots grows with the keys."""
        live = max(self._live, sum(keyspace.count for keyspace in self._keyspaces))
        self._threshold = _GROWTH * live + _SLACK
        if self.dots <= self._threshold:
            return False
        txn = self._state.txn
        last_seq = txn.seq - len(txn.places)
        self._passed_by = self._latest = min(live, last_seq)
        self._latest_start = (txn.origin, last_seq - self._latest)
        self._position = self._following = b""
        self._kept = 0
        return True

    def _slice(self, dots: int) -> None:
        """Examine chunks with about `dots` dots from the position on."""
        self._floors = None
        self._run = []
        self._slice_kept = 0
        rows = self._state.engine.iterate(Family.CHANGES, self._position or b"")
        seen = 0
        following: bytes | None = None
        for (key, value), (next_key, _) in pairwise(rows):
            origin, first_seq = parse_change_key(key)
            if origin == self._latest_start[0] and first_seq >= self._latest_start[1]:
                following = change_key(origin + 1, 0)
                break
            if seen >= dots:
                following = key
                break
            next_origin, next_seq = parse_change_key(next_key)
            is_last = origin != next_origin
            if not is_last and self._dead.all_dead(origin, first_seq, next_seq - first_seq):
                self._run.append(key)
                seen += _DEAD_CHUNK_DOTS
            else:
                seen += self._examine(key, value, is_last=is_last)
        self._end_run()
        self._following = following

    def _examine(self, key: bytes, value: bytes, *, is_last: bool) -> int:
        """Remove the chunk, write it again or leave it; return how many dots it had."""
        chunk = read_chunk(value)
        before = len(chunk.places) - chunk.places.count(DEAD)
        places = self._blanked(key, resolve(chunk.places), chunk.last_hlc)
        live = len(places) - places.count(DEAD)
        if live == 0 and not is_last:
            self._run.append(key)
            return len(places)
        self._end_run()
        if (before - live) * _WORTH_WRITING > live:
            encoded = encode_chunk(chunk.last_hlc, places, chunk.groups)
            self._state.txn.puts.append((Family.CHANGES, key, encoded))
            self._slice_kept += live
        else:
            self._slice_kept += before
        return len(places)

    def _end_run(self) -> None:
        """Remove the dead chunks that lie side by side."""
        run, self._run = self._run, []
        txn = self._state.txn
        if len(run) >= _RANGE_CHUNKS:
            txn.ranges.append((Family.CHANGES, run[0], run[-1] + b"\x00"))
        else:
            txn.removed.extend((Family.CHANGES, key) for key in run)

    def _blanked(self, key: bytes, named: list[Place], last_hlc: int) -> list[Place]:
        """Return the places of a chunk with the dead ones blanked."""
        origin, first_seq = parse_change_key(key)
        if not self._dead.knows(origin, first_seq):
            places = list(named)
            self._blank_by_rows(origin, first_seq, places, range(len(places)))
            return places
        marks = self._dead.marks(origin, first_seq, len(named))
        places = [DEAD if mark else place for place, mark in zip(named, marks, strict=True)]
        self._blank_flushed(origin, first_seq, places, last_hlc)
        return places

    def _blank_flushed(self, origin: int, first_seq: int, places: list[Place], last_hlc: int) -> None:
        """Blank what a flush has killed: it marks no dots, it raises its keyspace's floor."""
        if self._floors is None:
            self._floors = {keyspace.id: keyspace.floor for keyspace in self._keyspaces if keyspace.floor}
        if not self._floors:
            return
        doubtful: list[int] = []
        for index, place in enumerate(places):
            row_key = place if isinstance(place, bytes) else place[0] if place and len(place) == 2 else b""
            floor = self._floors.get(row_key[:NAMESPACE_BYTES])
            if floor is None:
                continue
            floor_origin, floor_seq = register_dot(floor)
            if floor_origin == origin:
                if first_seq + index < floor_seq:
                    places[index] = DEAD
            elif last_hlc < register_hlc(floor):
                places[index] = DEAD
            else:
                doubtful.append(index)
        self._blank_by_rows(origin, first_seq, places, doubtful)

    def _blank_by_rows(
        self, origin: int, first_seq: int, places: list[Place], indices: Iterable[int]
    ) -> None:
        """Blank those of the places with these indices whose row does not carry their dot."""
        uncached: list[tuple[int, bytes]] = []
        for index in indices:
            place = places[index]
            dot = dot_bytes(origin, first_seq + index)
            if isinstance(place, list):
                if not (self._is_floor(place[0], dot) if len(place) == 1 else self._is_member(place, dot)):
                    places[index] = DEAD
            elif place:
                record = self._cached(place)
                if record is None:
                    uncached.append((index, place))
                elif not _carries(record, dot):
                    places[index] = DEAD
        rows = self._state.engine.multi_get(Family.RECORDS, [place for _, place in uncached])
        for (index, _), row in zip(uncached, rows, strict=True):
            if row is None or not _row_carries(row, dot_bytes(origin, first_seq + index)):
                places[index] = DEAD

    def _is_member(self, place: list[bytes], dot: bytes) -> bool:
        """Tell whether the member at `place` carries `dot`."""
        row = self._state.engine.get(Family.MEMBERS, place_prefix(place[0]) + place[1])
        return row is not None and _row_carries(row, dot)

    def _is_floor(self, namespace: bytes, dot: bytes) -> bool:
        """Tell whether `dot` is the one of the namespace's last flush."""
        keyspace = self._keyspaces.opened(namespace)
        floor = read_floor(self._state.engine, namespace) if keyspace is None else keyspace.floor
        return floor is not None and floor[8:20] == dot

    def _cached(self, row_key: bytes) -> Record | None:
        keyspace = self._keyspaces.opened(row_key[:NAMESPACE_BYTES])
        return None if keyspace is None else keyspace.cached(row_key[NAMESPACE_BYTES:])


def _carries(record: Record, dot: bytes) -> bool:
    """Tell whether a register of `record` carries `dot`."""
    register = record[VALUE_STAMP]
    if register is not None and register[8:20] == dot:
        return True
    expiry, floor = record[EXPIRY], record[FLOOR]
    if expiry is not None and expiry[0][8:20] == dot:
        return True
    return floor is not None and floor[8:20] == dot


def _row_carries(row: bytes, dot: bytes) -> bool:
    """Tell whether a register in `row` carries `dot`, without decoding the row.

    A value that happens to hold the same twelve bytes only keeps a dead dot a little longer.
    """
    return dot in row[:_HEAD_BYTES] or dot in row[-_TAIL_BYTES:]
