"""Which origins there are, and how far each is covered: the version vector's books.

An origin is known by its 16 bytes everywhere, which also tell its group, and by a small number in this data
directory, where it was met. The number of an own origin has its meta row from the first commit that uses it; one of
another node with the commit that first names it. Each group of namespaces has a vector of its own.

What is covered:

* of the origins in use, what was committed. No row tells so: the end of the change log does;
* of own origins of earlier runs, what the change log held when they were first found. That may be more
  than the run itself knew: an engine may find a failed batch again. A row holds it from the first commit on,
  since from then on other nodes may give back what a power cut took, as they do for any origin;
* of other nodes' origins, what their row says.

What a power cut cannot take is a vector of its own: a claim made to others must never need to be
taken back. `sync` runs in a thread; it copies the vector before and publishes it after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from storage.changes import Lane, Stamp, VersionVector, draw_id, group_of
from storage.engine import Batch, Family
from storage.layout import covered_key, origin_key
from storage.opening import FOREIGN, NOBODY, Found
from storage.record import dumps
from storage.transaction import LaneLog, Transaction
from storage.version import unpack_register

_LOCAL: Final = int(Lane.LOCAL)


class Ledger:
    """The origins of one store. `origins` and `lanes` are indexed by number; number 0 is nobody's."""

    def __init__(self, found: Found, txn: Transaction, entropy: Callable[[int], bytes]) -> None:
        self.origins = found.origins
        self.lanes = found.lanes
        self.groups = [group_of(origin) for origin in self.origins]
        self._numbers = {origin: number for number, origin in enumerate(self.origins) if origin != NOBODY}
        self._txn = txn
        self._entropy = entropy
        self._covered = dict(found.covered)  # by number, without those of the local lane
        self._uncovered = dict(found.uncovered)
        self._ended = dict(found.ended)  # own origins of earlier runs that have no row yet
        self._unstored: dict[int, int] = {}  # other nodes' origins without a row, with the first clock value
        self._stored = [origin != NOBODY for origin in self.origins]
        self._vectors: dict[int, VersionVector] = {}  # by group; made when asked for, dropped when it changes
        self._commits = 0
        self._lock = threading.Lock()
        self._durable: dict[int, int] = {}
        self._durable_commits = -1  # what `_durable` belongs to
        self._durable_vectors: dict[int, VersionVector] = {}
        self._all_durable = False  # whether everything committed is

    # Origins.

    def draw(self, lane: LaneLog) -> None:
        """Give the lane a fresh origin."""
        lane.origin = self._append(draw_id(lane.group, self._entropy), int(lane.lane))
        lane.seq = 0

    def rotate(self) -> None:
        """Stamp later writes with fresh origins. Nothing may be pending."""
        for lane in self._txn.lanes:
            self.retire(lane)

    def retire(self, lane: LaneLog) -> None:
        """Use the lane's origin no more."""
        assert not lane.places
        if lane is self._txn:  # the hot path expects one
            self.draw(lane)
        else:
            lane.origin = lane.seq = 0

    def number_of(self, origin: bytes, hlc: int) -> int:
        """Return the origin's number; a new one if it was never met, with a row in the coming commit."""
        number = self._numbers.get(origin)
        if number is None:
            number = self._append(origin, FOREIGN)
            self._unstored[number] = hlc
        return number

    def find(self, origin: bytes) -> int:
        """Return the origin's number; 0 if it was never met."""
        return self._numbers.get(origin, 0)

    def lane_of(self, number: int) -> LaneLog | None:
        """Return the lane that has this origin in use. Most origins are other nodes', and lanes may be many."""
        if self.lanes[number] == FOREIGN:
            return None
        for lane in self._txn.lanes:
            if number and lane.origin == number:
                return lane
        return None

    def is_local(self, number: int) -> bool:
        return self.lanes[number] == _LOCAL

    def belongs(self, number: int, group: int) -> bool:
        """Tell whether what an origin wrote replicates in a group."""
        return self.groups[number] == group and self.lanes[number] != _LOCAL

    def own(self, group: int) -> dict[bytes, int]:
        """Return own origins of a group on disk with their lane, oldest first, without those of the local lane."""
        return {
            origin: lane
            for number, (origin, lane) in enumerate(zip(self.origins, self.lanes, strict=True))
            if self._stored[number] and lane != FOREIGN and self.belongs(number, group)
        }

    def stamp(self, register: bytes) -> Stamp:
        """Return the stamp of a register."""
        hlc, number, seq, _ = unpack_register(register)
        return Stamp(hlc, self.origins[number], seq)

    def _append(self, origin: bytes, lane: int) -> int:
        number = len(self.origins)
        self._numbers[origin] = number
        # In this order: a reader that finds the origin finds its lane.
        self.groups.append(group_of(origin))
        self.lanes.append(lane)
        self._stored.append(False)
        self.origins.append(origin)
        return number

    # What is covered.

    def vector(self, group: int) -> VersionVector:
        """Return what is covered of a group and committed."""
        vector = self._vectors.get(group)
        if vector is None:
            vector = self._vectors[group] = self.named(self._covered, group)
        return vector

    def covered(self, number: int) -> int:
        """Return up to where an origin is covered, as the tick under way sees it."""
        lane = self.lane_of(number)
        if lane is not None:
            return lane.seq
        incoming = self._txn.incoming
        if incoming is not None and number in incoming.covered:
            return incoming.covered[number]
        return self._covered.get(number, 0)

    def uncovered(self, number: int) -> int:
        """Return the greatest seq that was merged and committed without being covered; 0 if there is none."""
        return self._uncovered.get(number, 0)

    def uncovered_vector(self, group: int) -> VersionVector:
        """Return what `uncovered` tells of every origin of a group."""
        return self.named(self._uncovered, group)

    def is_partial(self, group: int) -> bool:
        """Tell whether there may be merged dots of a group that are not covered."""
        incoming = self._txn.incoming
        pending = {} if incoming is None else incoming.uncovered
        return any(
            self.groups[number] == group and seq > self.covered(number)
            for found in (self._uncovered, pending)
            for number, seq in found.items()
        )

    def named(self, seqs: Mapping[int, int], group: int) -> VersionVector:
        """Return the entries of a group's origins, with their ids for their numbers."""
        origins, groups = self.origins, self.groups
        return VersionVector(
            {origins[number]: seq for number, seq in sorted(seqs.items()) if groups[number] == group}
        )

    # What is on disk.

    def add_rows(self, batch: Batch) -> None:
        """Add to a batch the rows of new origins and of what the tick covers."""
        txn = self._txn
        if self._is_plain():
            return
        for lane in txn.lanes:
            if lane.places and not self._stored[lane.origin]:
                self._add_origin(batch, lane.origin, txn.hlc)
        for number, hlc in self._unstored.items():
            self._add_origin(batch, number, hlc)
        for number, seq in self._ended.items():
            batch.put(Family.META, covered_key(number), dumps(seq))
        if txn.incoming is not None:
            for number, seq in txn.incoming.covered.items():
                batch.put(Family.META, covered_key(number), dumps(seq))

    def _add_origin(self, batch: Batch, number: int, hlc: int) -> None:
        row = dumps([self.origins[number], hlc, self.lanes[number]])
        batch.put(Family.META, origin_key(number), row)

    def committed(self, *, synced: bool) -> None:
        """Take note of a commit: what `add_rows` added, and what the lanes gave."""
        txn = self._txn
        if synced is not self._all_durable:
            self._change_durability(synced=synced)
        vectors = self._vectors
        self._commits += 1
        if self._is_plain():
            self._covered[txn.origin] = txn.seq
            vectors.pop(txn.group, None)
            return
        for lane in txn.lanes:
            if lane.places:
                self._stored[lane.origin] = True
                if lane.lane is not Lane.LOCAL:
                    self._covered[lane.origin] = lane.seq
                    vectors.pop(lane.group, None)
        if self._unstored or self._ended:
            for number in self._unstored:
                self._stored[number] = True
            self._unstored = {}
            self._ended = {}
        incoming = txn.incoming
        if incoming is not None:
            self._covered.update(incoming.covered)
            for number in incoming.covered:
                vectors.pop(self.groups[number], None)
            for number, seq in incoming.uncovered.items():
                self._uncovered[number] = max(seq, self._uncovered.get(number, 0))
            if self._uncovered:
                covered = self._covered
                self._uncovered = {n: seq for n, seq in self._uncovered.items() if seq > covered.get(n, 0)}

    def lowered(self, ends: Mapping[int, int]) -> None:
        """Take note of a commit that covers nothing any more of origins whose log goes on up to `ends`."""
        for number, end in ends.items():
            self._uncovered.pop(number, None)
            if end:
                self._uncovered[number] = end
        with self._lock:
            # What a sync under way has marked before is not to come back.
            self._durable_commits = self._commits
            self._durable = {**self._durable, **dict.fromkeys(ends, 0)}
            self._durable_vectors = {}

    def _is_plain(self) -> bool:
        """Tell whether the tick holds nothing but writes of the small lane, which is known on disk."""
        return self._stored[self._txn.origin] and not (
            self._txn.others or self._unstored or self._ended or self._txn.incoming
        )

    # What a power cut cannot take.

    def _change_durability(self, *, synced: bool) -> None:
        """Take note that commits are synced from this one on, or are not any more."""
        with self._lock:
            if not synced:
                self._durable = self._covered.copy()
                self._durable_commits = self._commits
                self._durable_vectors = {}
            self._all_durable = synced

    def mark(self) -> tuple[int, dict[int, int]]:
        """Return what is committed now, for `settle`. In any thread: copying a dict is one step."""
        return self._commits, self._covered.copy()

    def settle(self, mark: tuple[int, dict[int, int]]) -> None:
        """Take what `mark` held as safe from a power cut. In any thread."""
        commits, covered = mark
        with self._lock:
            if not self._all_durable and commits > self._durable_commits:
                self._durable_commits = commits
                self._durable = covered
                self._durable_vectors = {}

    def durable(self, group: int) -> VersionVector:
        """Return the part of a group's vector that a power cut cannot take."""
        if self._all_durable:
            return self.vector(group)
        with self._lock:
            vector = self._durable_vectors.get(group)
            if vector is None:
                vector = self._durable_vectors[group] = self.named(self._durable, group)
            return vector
