"""What was committed here lately, as runs for replication: no row is read again.

A commit leaves what it wrote, by reference; the runs are made of it when they are asked for. Only what was
alive at the end of its tick becomes a change. What was not has never been on a disk, so nobody needs it.
"""

from __future__ import annotations

from typing import Final

from storage.cells import change_with, floor_change
from storage.changes import INLINE_BYTES_MAX, Change, Kind, Run
from storage.incoming import Place
from storage.ledger import Ledger
from storage.record import Record
from storage.transaction import LaneLog, Transaction
from storage.version import dot_bytes, unpack_full_register

# A run is closed above either, unless a transaction goes on.
_RUN_CHANGES_MAX: Final = 512
_RUN_BYTES_MAX: Final = 256 * 1024
_CHANGE_BYTES: Final = 64
_new: Final = tuple.__new__


class _Tick:
    """What one commit wrote in one lane."""

    __slots__ = ("first_seq", "floors", "groups", "number", "places", "rows")

    def __init__(self, txn: Transaction, lane: LaneLog) -> None:
        self.number = lane.origin
        self.first_seq = lane.seq - len(lane.places) + 1
        self.places = lane.places
        self.groups = lane.groups
        self.rows = txn.rows
        self.floors = {keyspace.id: keyspace.floor for keyspace, _ in txn.flushed} if txn.flushed else {}


class Fresh:
    """Collects from the moment on that it is there. Whoever attaches it takes what it holds."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ticks: dict[int, list[_Tick]] = {}  # by group

    def attach(self, group: int) -> None:
        """Collect what is committed in a group, too."""
        self._ticks.setdefault(group, [])

    def has_any(self, group: int) -> bool:
        """Tell whether `take` would return something."""
        return bool(self._ticks[group])

    def committed(self, txn: Transaction) -> None:
        """Keep what the transaction has committed. Called before it is cleared."""
        if txn.places:
            self._keep(txn, txn)
        if txn.others:
            for lane in txn.lanes[1:]:
                if lane.places and lane is not txn.local:
                    self._keep(txn, lane)

    def _keep(self, txn: Transaction, lane: LaneLog) -> None:
        ticks = self._ticks.get(lane.group)
        if ticks is not None:
            ticks.append(_Tick(txn, lane))

    def take(self, group: int) -> list[Run]:
        """Return the runs of what was committed in a group since the last call, of each lane in order."""
        ticks, self._ticks[group] = self._ticks[group], []
        runs: list[Run] = []
        open_runs: dict[int, _Open] = {}
        for tick in ticks:
            building = open_runs.get(tick.number)
            if building is None:
                origin = self._ledger.origins[tick.number]
                building = open_runs[tick.number] = _Open(origin, tick.first_seq - 1)
            self._add(tick, building, runs)
        for building in open_runs.values():
            building.close(runs, building.upto)
        return runs

    def _add(self, tick: _Tick, building: _Open, runs: list[Run]) -> None:
        # Hot: once for every write of a node with peers.
        number, rows, origins = tick.number, tick.rows, self._ledger.origins
        seq = tick.first_seq - 1
        ends = _ends(tick) if tick.groups else {}
        group_end = 0
        last: Place = None
        changes, size = building.changes, building.size
        for place in tick.places:
            seq += 1
            if place is None:
                place = last
            else:
                last = place
            if (size > _RUN_BYTES_MAX or len(changes) >= _RUN_CHANGES_MAX) and seq > group_end:
                building.close(runs, seq - 1)
                changes, size = building.changes, 0
            if ends:
                group_end = max(group_end, ends.get(seq, 0))
            if type(place) is not bytes:
                change = self._flush_of(tick, place, seq, ends)
                if change is not None:
                    changes.append(change)
                continue
            record = rows.get(place)
            if record is None:
                continue
            stamp = record[3]
            if stamp is not None:
                hlc, origin, dot_seq, prev_hlc, prev_number = unpack_full_register(stamp)
                if dot_seq == seq and origin == number:
                    value = record[0]
                    length = 0 if value is None else len(value)
                    if length > INLINE_BYTES_MAX:
                        value, length = length, 0
                    prev_origin = None
                    if prev_number != number and prev_number:
                        prev_origin = origins[prev_number]
                    changes.append(
                        _new(
                            Change,
                            (
                                seq,
                                hlc,
                                0,
                                place,
                                value,
                                record[2],
                                b"",
                                prev_hlc,
                                prev_origin,
                                ends.get(seq, 0) if ends else 0,
                            ),
                        )
                    )
                    size += length + len(place) + _CHANGE_BYTES
                    continue
            change = self._other(number, seq, place, record, ends)
            if change is not None:
                changes.append(change)
                size += len(place) + _CHANGE_BYTES
        building.size = size
        building.upto = seq

    def _other(
        self, number: int, seq: int, place: bytes, record: Record, ends: dict[int, int]
    ) -> Change | None:
        found = change_with(dot_bytes(number, seq), place, record, self._ledger.origins, ends.get(seq, 0))
        return None if found is None else found[1]

    def _flush_of(self, tick: _Tick, place: Place, seq: int, ends: dict[int, int]) -> Change | None:
        assert isinstance(place, list)
        floor = tick.floors.get(place[0])
        if floor is None or floor[8:20] != dot_bytes(tick.number, seq):
            return None
        change = floor_change(place[0], floor, self._ledger.origins, ends.get(seq, 0))[1]
        assert change.kind == Kind.NAMESPACE_FLOOR
        return change


class _Open:
    """The run of one origin that is being made."""

    __slots__ = ("after", "changes", "origin", "size", "upto")

    def __init__(self, origin: bytes, after: int) -> None:
        self.origin = origin
        self.after = after
        self.upto = after
        self.changes: list[Change] = []
        self.size = 0

    def close(self, runs: list[Run], upto: int) -> None:
        """End the run at `upto` and go on with the next."""
        if upto > self.after:
            runs.append(Run(self.origin, self.after, upto, self.changes))
        self.after, self.changes, self.size = upto, [], 0


def _ends(tick: _Tick) -> dict[int, int]:
    """Return the last sequence of each dot's group."""
    first_seq = tick.first_seq
    return {
        first_seq + index: first_seq + first + count - 1
        for first, count in tick.groups
        for index in range(first, first + count)
    }
