"""The change feed over a snapshot of the engine: change log first, then the rows that it names.

The log and the rows come from the same moment, so a dot that no row carries any more was
superseded before that moment, and what superseded it is in the feed itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from storage.changelog import Chunk, decode_chunk
from storage.changes import Change, Kind, Stamp, VersionVector
from storage.engine import Family, Snapshot
from storage.errors import RecordError
from storage.layout import FLOOR_PREFIX, NAMESPACE_BYTES, change_key, parse_change_key
from storage.record import EXPIRY, FLOOR, METADATA, VALUE, VALUE_STAMP, Record, decode
from storage.version import dot_bytes, register_hlc, unpack_register

_NO_GROUP = (0, 1)


class LogFeed:
    """Implements `changes.ChangeFeed`. It holds a snapshot until `close`."""

    def __init__(self, snapshot: Snapshot, origins: Sequence[bytes]) -> None:
        self._snapshot = snapshot
        self._origins = origins
        self._ends = {number: self._end_of(number) for number in range(1, len(origins))}

    def vector(self) -> VersionVector:
        return VersionVector({self._origins[number]: seq for number, seq in self._ends.items()})

    def changes_after(self, vector: VersionVector) -> Iterator[Change]:
        for number in self._ends:
            yield from self._changes_of(number, vector[self._origins[number]])

    def close(self) -> None:
        self._snapshot.close()

    def _end_of(self, number: int) -> int:
        """Return the last sequence of an origin; 0 if it has no chunk."""
        rows = self._snapshot.iterate(
            Family.CHANGES, change_key(number, 0), change_key(number + 1, 0), reverse=True
        )
        last = next(rows, None)
        if last is None:
            return 0
        return parse_change_key(last[0])[1] + len(decode_chunk(last[1]).places) - 1

    def _changes_of(self, number: int, after: int) -> Iterator[Change]:
        for first_seq, chunk in self._chunks_after(number, after):
            groups = _groups_by_place(chunk)
            for index, place in enumerate(chunk.places):
                seq = first_seq + index
                if seq <= after or not place:
                    continue
                change = self._read(number, seq, place, groups.get(index, _NO_GROUP))
                if change is not None:
                    yield change

    def _chunks_after(self, number: int, after: int) -> Iterator[tuple[int, Chunk]]:
        """Yield (first seq, chunk) from the chunk on that holds the sequence `after` + 1."""
        before = self._snapshot.iterate(
            Family.CHANGES, change_key(number, 0), change_key(number, after + 2), reverse=True
        )
        holder = next(before, None)
        start = change_key(number, 0) if holder is None else holder[0]
        for key, value in self._snapshot.iterate(Family.CHANGES, start, change_key(number + 1, 0)):
            yield parse_change_key(key)[1], decode_chunk(value)

    def _read(
        self, number: int, seq: int, place: bytes | list[bytes], group: tuple[int, int]
    ) -> Change | None:
        dot = dot_bytes(number, seq)
        if isinstance(place, list):
            register = self._snapshot.get(Family.META, FLOOR_PREFIX + place[0])
            if register is None or register[8:20] != dot:
                return None
            return self._change(register, Kind.NAMESPACE_FLOOR, place[0], group)
        row = self._snapshot.get(Family.RECORDS, place)
        if row is None:
            return None
        try:
            record = decode(row, self._origins)
        except RecordError:
            return None
        return self._change_of(record, dot, place, group)

    def _change_of(self, record: Record, dot: bytes, place: bytes, group: tuple[int, int]) -> Change | None:
        """Return the change of the register of `record` that carries `dot`; None if none does."""
        value_stamp, expiry, floor = record[VALUE_STAMP], record[EXPIRY], record[FLOOR]
        if value_stamp is not None and value_stamp[8:20] == dot:
            return self._change(
                value_stamp, Kind.VALUE, place, group, value=record[VALUE], metadata=record[METADATA]
            )
        if expiry is not None and expiry[0][8:20] == dot:
            return self._change(expiry[0], Kind.EXPIRY, place, group, expires_at_ms=expiry[1])
        if floor is not None and floor[8:20] == dot:
            return self._change(floor, Kind.FLOOR, place, group)
        return None

    def _change(
        self,
        register: bytes,
        kind: Kind,
        place: bytes,
        group: tuple[int, int],
        *,
        value: bytes | None = None,
        metadata: bytes | None = None,
        expires_at_ms: int | None = None,
    ) -> Change:
        hlc, origin, seq, prev = unpack_register(register)
        prev_origin = int.from_bytes(prev[8:], "big")
        return Change(
            stamp=Stamp(hlc, self._origins[origin], seq),
            prev_hlc=register_hlc(prev),
            prev_origin=self._origins[prev_origin] if prev_origin else None,
            kind=kind,
            namespace=place[:NAMESPACE_BYTES],
            key=place[NAMESPACE_BYTES:],
            value=value,
            metadata=metadata,
            expires_at_ms=expires_at_ms,
            group=group,
        )


def _groups_by_place(chunk: Chunk) -> dict[int, tuple[int, int]]:
    """Return (index in the group, size of the group) by the place's index in the chunk."""
    return {first + index: (index, count) for first, count in chunk.groups for index in range(count)}
