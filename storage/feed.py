"""The change feed over a snapshot of the engine: change log first, then the rows that it names.

The log and the rows come from the same moment, so a dot that no row carries any more was
superseded before that moment, and what superseded it is in the feed itself. What the local lane wrote, or what is
another group's, is not shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs

from storage.cells import (
    Numbered,
    change_with,
    changes_of,
    floor_change,
    member_change,
    runs_of,
)
from storage.changelog import Chunk, decode_chunk
from storage.changes import END_OF_PLACES, Change, Run, VersionVector, places_between
from storage.engine import Family, Reader, Snapshot
from storage.errors import RecordError
from storage.incoming import Place
from storage.layout import (
    FLOOR_PREFIX,
    after_prefix,
    change_key,
    members_start,
    parse_change_key,
    parse_member,
    place_prefix,
)
from storage.ledger import Ledger
from storage.members import Member, decode_member
from storage.record import VALUE, VALUE_STAMP, Record, decode
from storage.version import dot_bytes

# What is read at a time. Clients wait meanwhile: a millisecond at most, as a rule, the greater part for decoding the rows.
# By dot, where each row is looked up, it costs twice as much as by place.
RUN_CHANGES_MAX: Final = 64
_RUN_BYTES_MAX: Final = 15 * 1024  # two runs of small values fit into one batch of a sync
_SLICE_ROWS: Final = 64
_SLICE_BYTES_MAX: Final = 64 * 1024
_SLICE_DOTS: Final = 128  # of the log alone
_ROWS_AT_ONCE: Final = 16  # that are looked up together
_LOOKED_AT_MAX: Final = 128  # dots, alive or superseded, until the caller has its turn
_SEQ_MAX: Final = 2**63
_CHANGE_BYTES: Final = 64  # of a change beside its place and content, roughly


def size_of(change: Change) -> int:
    """Estimate the bytes that a change takes on its way."""
    content = change.content
    return _CHANGE_BYTES + len(change.place) + (len(content) if type(content) is bytes else 0)


@attrs.frozen
class Moment:
    """What a snapshot's moment covers of a group, and has purged."""

    group: int
    vector: VersionVector
    floors: VersionVector
    horizon: int


class SnapshotFeed:
    """Implements `changes.ChangeFeed`. It holds a snapshot until `close`.

    `now` reads what there is by now, `is_now` tells whether that is still what the snapshot shows.
    """

    def __init__(
        self, snapshot: Snapshot, now: Reader, is_now: Callable[[], bool], ledger: Ledger, moment: Moment
    ) -> None:
        self._snapshot = snapshot
        self._now = now
        self._is_now = is_now
        self._ledger = ledger
        self._origins = ledger.origins
        self._count = len(ledger.origins)
        self._moment = moment

    def vector(self) -> VersionVector:
        return self._moment.vector

    def floors(self) -> VersionVector:
        return self._moment.floors

    def horizon(self) -> int:
        return self._moment.horizon

    def close(self) -> None:
        self._snapshot.close()

    # By dot.

    def runs_after(self, vector: Mapping[bytes, int]) -> Iterator[Run]:
        for number in range(1, self._count):
            if self._ledger.belongs(number, self._moment.group):
                origin = self._origins[number]
                yield from self._runs_of(number, vector.get(origin, 0))

    def _runs_of(self, number: int, after: int) -> Iterator[Run]:
        """Yield the runs of one origin. A group of dots stays in one run; one that has nothing alive may be empty."""
        origin = self._origins[number]
        changes: list[Change] = []
        size = looked_at = 0
        for last, found in self._changes_of(number, after):
            for change in found:
                full = size > _RUN_BYTES_MAX or len(changes) >= RUN_CHANGES_MAX
                if full and change.seq > changes[-1].group_end:
                    upto = changes[-1].seq
                    yield Run(origin, after, upto, changes)
                    changes, size, looked_at, after = [], 0, 0, upto
                changes.append(change)
                size += size_of(change)
            looked_at += _ROWS_AT_ONCE
            if looked_at >= _LOOKED_AT_MAX and (not changes or changes[-1].group_end <= last):
                upto = changes[-1].seq if changes else after
                yield Run(origin, after, upto, changes)
                changes, size, looked_at, after = [], 0, 0, upto
        if changes:
            yield Run(origin, after, changes[-1].seq, changes)

    def _changes_of(self, number: int, after: int) -> Iterator[tuple[int, list[Change]]]:
        """Yield (the last dot that was looked at, what is alive of those since the one before)."""
        for dots in self._slices_of(number, min(after, _SEQ_MAX)):
            for first in range(0, len(dots), _ROWS_AT_ONCE):
                part = dots[first : first + _ROWS_AT_ONCE]
                yield part[-1][0], list(self._alive(number, part))

    def _slices_of(self, number: int, after: int) -> Iterator[list[tuple[int, Place, int]]]:
        """Yield (seq, place, last seq of the group) of what the log names, in slices: each is a walk of its own."""
        start: bytes | None = self._holder(number, after + 1)
        end = change_key(number + 1, 0)
        while start is not None:
            dots: list[tuple[int, Place, int]] = []
            position, start = start, None
            for key, value in self._snapshot.iterate(Family.CHANGES, position, end):
                if len(dots) >= _SLICE_DOTS:
                    start = key
                    break
                with contextlib.suppress(RecordError):  # `kvd verify` names it
                    dots.extend(_dots_of(parse_change_key(key)[1], decode_chunk(value), after))
            yield dots

    def _holder(self, number: int, seq: int) -> bytes:
        """Return the key of the chunk that holds a sequence, or where it would be."""
        before = self._snapshot.iterate(
            Family.CHANGES, change_key(number, 0), change_key(number, seq + 1), reverse=True
        )
        holder = next(before, None)
        return change_key(number, 0) if holder is None else holder[0]

    def _alive(self, number: int, dots: list[tuple[int, Place, int]]) -> Iterator[Change]:
        origins, is_now = self._origins, self._is_now()
        records = self._records([place for _, place, _ in dots if isinstance(place, bytes)])
        for seq, place, group_end in dots:
            dot = dot_bytes(number, seq)
            found: Numbered | None = None
            if isinstance(place, list):
                found = self._other(dot, place, group_end)
            elif place is not None:
                record = records.get(place)
                if record is not None:
                    found = change_with(dot, place, record, origins, group_end)
                if found is None and not is_now:
                    record = self._record(place)  # it may have been overwritten since
                    if record is not None:
                        found = change_with(dot, place, record, origins, group_end)
            if found is not None:
                yield found[1]

    def _records(self, places: list[bytes]) -> dict[bytes, Record]:
        """Return the rows as they are now: several at a time cost a fraction of a look-up in the snapshot.

        A register that carries a dot is the same now and then, so that whatever is found here is true.
        """
        unique = list(dict.fromkeys(places))
        found: dict[bytes, Record] = {}
        for place, row in zip(unique, self._now.multi_get(Family.RECORDS, unique), strict=True):
            if row is not None:
                with contextlib.suppress(RecordError):
                    found[place] = decode(row, self._origins)
        return found

    def _other(self, dot: bytes, place: list[bytes], group_end: int) -> Numbered | None:
        """Return the change of a flush or a member, if `dot` is still its."""
        if len(place) == 1:
            register = self._snapshot.get(Family.META, FLOOR_PREFIX + place[0])
            if register is None or register[8:20] != dot:
                return None
            return floor_change(place[0], register, self._origins, group_end)
        row_key = place_prefix(place[0]) + place[1]
        member = self._member(row_key)
        if member is None or member[0][8:20] != dot:
            return None
        _, kind, sub = parse_member(row_key)
        return member_change(place[0], kind, sub, member, self._origins, group_end)

    def _record(self, place: bytes) -> Record | None:
        row = self._snapshot.get(Family.RECORDS, place)
        try:
            return None if row is None else decode(row, self._origins)
        except RecordError:
            return None

    def _member(self, row_key: bytes) -> Member | None:
        row = self._snapshot.get(Family.MEMBERS, row_key)
        try:
            return None if row is None else decode_member(row)
        except RecordError:
            return None

    # By place.

    def runs_by_place(self, start: bytes) -> Iterator[tuple[bytes, list[Run]]]:
        floors = self._namespace_floors() if not start else []
        for first in range(0, len(floors), RUN_CHANGES_MAX):  # there may be more than fit into one slice
            yield b"", runs_of(floors[first : first + RUN_CHANGES_MAX], self._origins)
        for following, found in self.slices(start):
            yield following, runs_of(found, self._origins)

    def slices(self, start: bytes) -> Iterator[tuple[bytes, list[Numbered]]]:
        """Yield (the place where the next slice starts, changes) in the order of places, without flushes."""
        while start != END_OF_PLACES:
            rows: list[tuple[bytes, bytes]] = []
            size, following = 0, END_OF_PLACES
            for key, value in self._rows_from(start):
                if len(rows) >= _SLICE_ROWS or size > _SLICE_BYTES_MAX:
                    following = key
                    break
                rows.append((key, value))
                size += len(key) + min(len(value), _SLICE_BYTES_MAX)
            changes = [found for key, row in rows for found in self._changes_in(key, row)]
            limit, members = self._members_between(start, following)
            if limit != following:
                changes = [found for found in changes if found[1].place < limit]
            yield limit, changes + members
            start = limit

    def _rows_from(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of the group's places from `start` on."""
        for first, end in places_between(self._moment.group, start, END_OF_PLACES):
            stop = None if end == END_OF_PLACES else end
            yield from self._snapshot.iterate(Family.RECORDS, first, stop)

    def _changes_in(self, place: bytes, row: bytes) -> list[Numbered]:
        try:
            record = decode(row, self._origins)
        except RecordError:
            return []
        belongs, group = self._ledger.belongs, self._moment.group
        return [found for found in changes_of(place, record, self._origins) if belongs(found[0], group)]

    def _members_between(self, start: bytes, end: bytes) -> tuple[bytes, list[Numbered]]:
        """Return the members of start <= place < end and `end`; if they are many, of fewer places and the first left out."""
        found: list[Numbered] = []
        size, last = 0, b""
        for row_key, row in self._member_rows(start, end):
            try:
                place, kind, sub = parse_member(row_key)
                member = decode_member(row)
            except (RecordError, ValueError):
                continue
            if place != last and (len(found) >= _SLICE_ROWS or size > _SLICE_BYTES_MAX):
                return place, found
            numbered = member_change(place, kind, sub, member, self._origins)
            if not self._ledger.belongs(numbered[0], self._moment.group):
                continue
            last = place
            found.append(numbered)
            size += size_of(numbered[1])
        return end, found

    def _member_rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of the members of the group's places in start <= place < end."""
        for first, last in places_between(self._moment.group, start, end):
            stop = None if last == END_OF_PLACES else members_start(last)
            yield from self._snapshot.iterate(Family.MEMBERS, members_start(first), stop)

    def _namespace_floors(self) -> list[Numbered]:
        rows = self._snapshot.iterate(Family.META, FLOOR_PREFIX, after_prefix(FLOOR_PREFIX))
        floors = [floor_change(key[len(FLOOR_PREFIX) :], register, self._origins) for key, register in rows]
        return [found for found in floors if self._ledger.belongs(found[0], self._moment.group)]

    # By name.

    def body(self, origin: bytes, seq: int, place: bytes) -> bytes | None:
        return find_body(
            dot_bytes(self._ledger.find(origin), seq), self._record(place), self._members_of(place)
        )

    def _members_of(self, place: bytes) -> Iterator[Member]:
        prefix = place_prefix(place)
        for _, row in self._snapshot.iterate(Family.MEMBERS, prefix, after_prefix(prefix)):
            try:
                yield decode_member(row)
            except RecordError:
                continue


def _dots_of(first_seq: int, chunk: Chunk, after: int) -> Iterator[tuple[int, Place, int]]:
    ends = {
        index: first_seq + first + count - 1
        for first, count in chunk.groups
        for index in range(first, first + count)
    }
    for index, place in enumerate(chunk.places):
        if place and first_seq + index > after:
            yield first_seq + index, place, ends.get(index, 0)


def find_body(dot: bytes, record: Record | None, members: Iterator[Member]) -> bytes | None:
    """Return the value that carries `dot` (12 bytes), in the row of a key or among its members."""
    if record is not None:
        stamp, value = record[VALUE_STAMP], record[VALUE]
        if stamp is not None and stamp[8:20] == dot:
            return value if type(value) is bytes else None
    for register, payload, _ in members:
        if register[8:20] == dot:
            return payload if type(payload) is bytes else None
    return None
