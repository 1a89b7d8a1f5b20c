"""Compaction of the change log: forgetting the dots that no row carries any more.

Overwriting a key leaves its old dot in the log. When the log holds more than `_GROWTH` times the dots
that can be live (and `_SLACK` more, so that a small hot store does not do it all the time), a pass walks
it from its beginning to the end it has at that moment. A chunk without live dots is removed, in
others the dead places are blanked. The last chunk of each origin stays, blanked or not: it holds the
origin's last sequence and clock value.

Cost: a pass looks once at every dot, and two thirds of them were written since the pass before, so a
write pays for one and a half looks. A look is a dict look-up for a cached key and a read of the
engine for another one. Each commit does a slice in proportion to what it wrote, in its own batch.
The number of dots is counted in memory and stored now and then; it only decides when to start.

A log that cannot be read stops compaction until the store is opened again (`failure` tells why), never the
writes.
"""

from __future__ import annotations

import sys
from itertools import pairwise

from storage.changelog import DEAD, Chunk, decode_chunk, encode_chunk
from storage.engine import Family
from storage.errors import RecordError, StorageError
from storage.layout import META_LOG, NAMESPACE_BYTES, parse_change_key
from storage.opening import read_floor
from storage.record import dumps, loads, registers
from storage.registry import Keyspaces
from storage.state import State
from storage.transaction import Place
from storage.version import dot_bytes

_SLACK = 100_000
_GROWTH = 3
_DOTS_PER_WRITE = 4
_SLICE_DOTS = 64
_COMMITS_PER_STORED_SIZE = 4096
_RANGE_CHUNKS = 16  # from this many on in a row, one range is cheaper than single keys
_HEAD_BYTES = 64  # of a row: holds the value's register in every form
_TAIL_BYTES = 160  # of a row: holds the other registers

# (key, chunk, whether it is the origin's last)
Examined = tuple[bytes, Chunk, bool]


class Compaction:
    """One store's compaction: its trigger, and the pass under way."""

    def __init__(self, state: State, keyspaces: Keyspaces) -> None:
        self._state = state
        self._keyspaces = keyspaces
        self._position: bytes | None = None  # where the pass goes on; None: no pass is under way
        self._following: bytes | None = None  # what it will be after the commit
        self._end = b""
        self._dropped = 0  # dots that the pending slice removes
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
        try:
            self._slice(_SLICE_DOTS + _DOTS_PER_WRITE * written)
        except StorageError as error:
            self.failure = error
            self._position = self._following = None
            self._threshold = sys.maxsize

    def committed(self, written: int) -> None:
        """Take note of a commit of `written` dots and of the slice that was collected for it."""
        self.dots += written - self._dropped
        self._dropped = 0
        if self._position is not None and self._following is None:
            self._live = self.dots
        self._position = self._following
        self._commits += 1

    def reverted(self) -> None:
        """Take note that the commit failed: the slice is to be done again."""
        self._dropped = 0
        self._following = self._position

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
        last = next(self._state.engine.iterate(Family.CHANGES, reverse=True), None)
        if last is None:
            self.dots = 0  # the stored size was wrong
            return False
        self._end = last[0]
        self._position = self._following = b""
        return True

    def _slice(self, dots: int) -> None:
        """Examine chunks with about `dots` dots from the position on, and collect what becomes of them."""
        examined = self._read(dots)
        rows = self._uncached_rows(examined)
        run: list[bytes] = []  # dead chunks without another one between them
        for key, chunk, is_last in examined:
            places = [
                place if self._is_live(place, dot, rows) else DEAD for place, dot in _places(key, chunk)
            ]
            blanked = sum(place != DEAD for place in chunk.places) - sum(place != DEAD for place in places)
            self._dropped += blanked
            if not is_last and all(place == DEAD for place in places):
                run.append(key)
                continue
            self._remove(run)
            run = []
            if blanked:
                encoded = encode_chunk(chunk.last_hlc, places, chunk.groups)
                self._state.txn.puts.append((Family.CHANGES, key, encoded))
        self._remove(run)

    def _read(self, dots: int) -> list[Examined]:
        """Return the chunks of the slice and set where the next one starts."""
        rows = self._state.engine.iterate(Family.CHANGES, self._position or b"", self._end + b"\x00")
        examined: list[Examined] = []
        seen = 0
        for (key, value), (next_key, _) in pairwise(rows):
            if seen >= dots:
                self._following = key
                return examined
            chunk = decode_chunk(value)
            is_last = parse_change_key(key)[0] != parse_change_key(next_key)[0]
            examined.append((key, chunk, is_last))
            seen += len(chunk.places)
        self._following = None
        return examined

    def _uncached_rows(self, examined: list[Examined]) -> dict[bytes, bytes | None]:
        """Read the rows that the chunks name and the cache does not have."""
        wanted: set[bytes] = set()
        for _, chunk, _ in examined:
            for place in chunk.places:
                if isinstance(place, bytes) and place and self._cached_registers(place) is None:
                    wanted.add(place)
        keys = list(wanted)
        return dict(zip(keys, self._state.engine.multi_get(Family.RECORDS, keys), strict=True))

    def _cached_registers(self, row_key: bytes) -> list[bytes] | None:
        keyspace = self._keyspaces.by_id(row_key[:NAMESPACE_BYTES])
        record = None if keyspace is None else keyspace.cached(row_key[NAMESPACE_BYTES:])
        return None if record is None else registers(record)

    def _is_live(self, place: Place, dot: bytes, rows: dict[bytes, bytes | None]) -> bool:
        """Tell whether a register still carries `dot`."""
        if not place:
            return False
        if isinstance(place, list):
            keyspace = self._keyspaces.by_id(place[0])
            floor = read_floor(self._state.engine, place[0]) if keyspace is None else keyspace.floor
            return floor is not None and floor[8:20] == dot
        cached = self._cached_registers(place)
        if cached is not None:
            return any(register[8:20] == dot for register in cached)
        row = rows[place]
        # A register is found without decoding. A value that happens to hold the same twelve bytes only
        # keeps a dead dot a little longer.
        return row is not None and (dot in row[:_HEAD_BYTES] or dot in row[-_TAIL_BYTES:])

    def _remove(self, run: list[bytes]) -> None:
        """Remove chunks that lie side by side."""
        txn = self._state.txn
        if len(run) >= _RANGE_CHUNKS:
            txn.ranges.append((Family.CHANGES, run[0], run[-1] + b"\x00"))
        else:
            txn.removed.extend((Family.CHANGES, key) for key in run)


def _places(key: bytes, chunk: Chunk) -> list[tuple[Place, bytes]]:
    """Return each place of a chunk with the bytes of its dot."""
    origin, first_seq = parse_change_key(key)
    return [(place, dot_bytes(origin, first_seq + index)) for index, place in enumerate(chunk.places)]
