"""A store as replication sees it, as small as it can be: cells in a dict, the greatest stamp wins.

It implements `storage.changes.Replica` for the tests of single machines, without rows, files or caches. Everything
committed is durable at once unless `power` is off, and everything applied is committed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256

from storage.changes import (
    COMMON_GROUP,
    END_OF_PLACES,
    INLINE_BYTES_MAX,
    Change,
    ChangeFeed,
    Conflict,
    Kind,
    Lane,
    Purging,
    Replica,
    Run,
    Stamp,
    VersionVector,
    Voided,
)

Cell = tuple[bytes, int, bytes]
Cells = dict[Cell, tuple[Stamp, Change]]


def _sized(change: Change) -> Change:
    content = change.content
    if isinstance(content, bytes) and len(content) > INLINE_BYTES_MAX:
        return change._replace(content=len(content))
    return change


def _runs(cells: Cells, vector: Mapping[bytes, int]) -> list[Run]:
    """Return one run for each origin with what `vector` does not cover."""
    by_origin: dict[bytes, list[Change]] = {}
    for stamp, change in cells.values():
        if stamp.seq > vector.get(stamp.origin, 0):
            by_origin.setdefault(stamp.origin, []).append(_sized(change))
    runs = []
    for origin, changes in sorted(by_origin.items()):
        changes.sort()
        runs.append(Run(origin, vector.get(origin, 0), changes[-1].seq, changes))
    return runs


class ModelFeed:
    """The cells of one moment."""

    def __init__(self, replica: ModelReplica) -> None:
        self._cells = dict(replica.cells)
        self._vector, self._floors, self._horizon = replica.vector(), replica.floors(), replica.horizon()
        self.closed = False

    def vector(self) -> VersionVector:
        return self._vector

    def floors(self) -> VersionVector:
        return self._floors

    def horizon(self) -> int:
        return self._horizon

    def runs_after(self, vector: Mapping[bytes, int]) -> Iterator[Run]:
        yield from _runs(self._cells, vector)

    def runs_by_place(self, start: bytes) -> Iterator[tuple[bytes, list[Run]]]:
        places = sorted({cell[0] for cell in self._cells if cell[0] >= start})
        for index, place in enumerate(places):
            cells = {cell: held for cell, held in self._cells.items() if cell[0] == place}
            following = places[index + 1] if index + 1 < len(places) else END_OF_PLACES
            yield following, [run._replace(after=0, upto=0) for run in _runs(cells, {})]

    def body(self, origin: bytes, seq: int, place: bytes) -> bytes | None:
        return _body(self._cells, origin, seq, place)

    def close(self) -> None:
        self.closed = True


def _body(cells: Cells, origin: bytes, seq: int, place: bytes) -> bytes | None:
    held = cells.get((place, Kind.VALUE, b""))
    if held is None or (held[0].origin, held[0].seq) != (origin, seq):
        return None
    return held[1].content if isinstance(held[1].content, bytes) else None


class ModelReplica:
    """See the module's text."""

    group = COMMON_GROUP

    def __init__(self, node_id: bytes, now_ms: Callable[[], int] = lambda: 1_000) -> None:
        self.node_id = node_id
        self.cells: Cells = {}
        self._origin = sha256(node_id).digest()[:16]
        self._own = {self._origin: int(Lane.SMALL)}
        self._vector: dict[bytes, int] = {}
        self._durable = VersionVector()
        self._floors: dict[bytes, int] = {}
        self._horizon = 0
        self._now_ms = now_ms
        self._seq = 0
        self._fresh: list[Run] = []
        self._local: dict[str, bytes] = {}
        self.hlc = 0
        self.power = True
        self.purging: Purging | None = None
        self._system_changed: list[bytes] = []  # the names of the cluster's records, at each change
        self.touched: list[bytes] = []

    # --- as a client writes

    def put(self, place: bytes, content: bytes) -> None:
        self._write(Change(0, 0, Kind.VALUE, place, content))

    def delete(self, place: bytes) -> None:
        self._write(Change(0, 0, Kind.FLOOR, place))

    def _write(self, change: Change) -> None:
        self._seq += 1
        self.hlc = max(self.hlc + 1, self._now_ms() << 16)
        held = self.cells.get((change.place, change.kind, change.sub))
        prev = held[0] if held else None
        change = change._replace(
            seq=self._seq,
            hlc=self.hlc,
            prev_hlc=prev.hlc if prev else 0,
            prev_origin=prev.origin if prev else None,
        )
        self._merge_one(self._origin, change)
        self._vector[self._origin] = self._seq
        self._fresh.append(Run(self._origin, self._seq - 1, self._seq, [_sized(change)]))
        self._settle()

    def _settle(self) -> None:
        if self.power:
            self._durable = VersionVector(self._vector)

    def purge(self) -> int:
        """Remove the deletions that may go; return how many there were."""
        assert self.purging is not None
        gone = [
            (cell, stamp)
            for cell, (stamp, change) in self.cells.items()
            if change.kind == Kind.FLOOR and self.purging.covers(stamp.origin, stamp.seq)
        ]
        for cell, stamp in gone:
            del self.cells[cell]
            self._floors[stamp.origin] = max(self._floors.get(stamp.origin, 0), stamp.seq)
            self._horizon = max(self._horizon, stamp.hlc)
        return len(gone)

    def value(self, place: bytes) -> bytes | None:
        held = self.cells.get((place, Kind.VALUE, b""))
        return held[1].content if held and isinstance(held[1].content, bytes) else None

    # --- Replica

    def of_group(self, group: int) -> ModelReplica:
        raise AssertionError("it knows one group")

    def uncovered(self) -> VersionVector:
        return VersionVector()

    def cut(self, limits: Mapping[bytes, int]) -> list[Voided]:
        raise AssertionError("nothing is cut here")

    def ahead(self, hlc: int) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for stamp, _ in self.cells.values():
            if stamp.origin in self._own and stamp.hlc > hlc:
                found[stamp.origin] = min(stamp.seq - 1, found.get(stamp.origin, stamp.seq))
        return found

    def lower_clock(self, hlc_max: int, hlc: int) -> None:
        raise AssertionError("nothing is cut here")

    def write_anew(self, voided: Sequence[Voided]) -> None:
        raise AssertionError("nothing is cut here")

    def origin(self, lane: Lane) -> bytes | None:
        return self._origin if lane == Lane.SMALL and self._seq else None

    def own_origins(self) -> dict[bytes, int]:
        return dict(self._own)

    def vector(self) -> VersionVector:
        return VersionVector(self._vector)

    def covered(self, origin: bytes) -> int:
        return self._vector.get(origin, 0)

    def durable(self) -> VersionVector:
        return self._durable

    def floors(self) -> VersionVector:
        return VersionVector(self._floors)

    def horizon(self) -> int:
        return self._horizon

    def observe(self, hlc: int) -> None:
        self.hlc = max(self.hlc, hlc)

    def is_partial(self) -> bool:
        return any(stamp.seq > self._vector.get(stamp.origin, 0) for stamp, _ in self.cells.values())

    @property
    def has_fresh(self) -> bool:
        return bool(self._fresh)

    def take_fresh(self) -> list[Run]:
        fresh, self._fresh = self._fresh, []
        return fresh

    def apply(self, run: Run) -> int:
        covered = self.covered(run.origin)
        assert run.after <= covered
        won = sum(self._merge_one(run.origin, change) for change in run.changes if change.seq > covered)
        self._vector[run.origin] = max(covered, run.upto)
        self._settle()
        return won

    def merge(self, run: Run) -> int:
        covered = self.covered(run.origin)
        return sum(self._merge_one(run.origin, change) for change in run.changes if change.seq > covered)

    def _merge_one(self, origin: bytes, change: Change) -> bool:
        stamp = Stamp(change.hlc, origin, change.seq)
        floor = self.cells.get((change.place, Kind.FLOOR, b""))
        if floor is not None and floor[0] > stamp:
            return False
        cell = (change.place, int(change.kind), change.sub)
        held = self.cells.get(cell)
        if held is not None and held[0] >= stamp:
            return False
        assert not (change.kind == Kind.VALUE and isinstance(change.content, int)), "it wants its body"
        self.cells[cell] = (stamp, change)
        if change.place.startswith(_CLUSTER):
            self._system_changed.append(change.place[len(_CLUSTER) :])
        if change.kind == Kind.FLOOR:
            for other in [one for one in self.cells if one[0] == change.place and one != cell]:
                if self.cells[other][0] < stamp:
                    del self.cells[other]
        return True

    def cover(self, vector: Mapping[bytes, int], floors: Mapping[bytes, int], horizon: int) -> None:
        for raised, target in ((vector, self._vector), (floors, self._floors)):
            for origin, seq in raised.items():
                target[origin] = max(target.get(origin, 0), seq)
        self._horizon = max(self._horizon, horizon)
        self.observe(horizon)
        self._settle()

    def forget_purges(self) -> None:
        self._floors, self._horizon = {}, 0

    def holds(self, place: bytes) -> bool:
        return any(cell[0] == place for cell in self.cells)

    def unlisted(
        self, start: bytes, end: bytes, listed: Sequence[Run], places: int
    ) -> tuple[list[Run], bytes]:
        named = {(run.origin, change.seq) for run in listed for change in run.changes}
        all_places = sorted({cell[0] for cell in self.cells if start <= cell[0] < end})
        upto = all_places[places] if places < len(all_places) else end
        found = [
            Run(stamp.origin, 0, 0, [change._replace(content=None)])
            for stamp, change in self.cells.values()
            if start <= change.place < upto and (stamp.origin, stamp.seq) not in named
        ]
        return found, upto

    def drop(self, runs: Sequence[Run]) -> int:
        dots = {(run.origin, change.seq) for run in runs for change in run.changes}
        gone = [cell for cell, (stamp, _) in self.cells.items() if (stamp.origin, stamp.seq) in dots]
        for cell in gone:
            del self.cells[cell]
        return len(gone)

    def void(self, place: bytes, stamp: Stamp) -> None:
        hlc = stamp.hlc if self._origin > stamp.origin else stamp.hlc + 1
        self._seq += 1
        change = Change(self._seq, hlc, Kind.FLOOR, place)
        self._merge_one(self._origin, change)
        self._vector[self._origin] = self._seq
        self._fresh.append(Run(self._origin, self._seq - 1, self._seq, [change]))
        self._settle()

    def feed(self) -> ChangeFeed:
        return ModelFeed(self)

    def body(self, origin: bytes, seq: int, place: bytes) -> bytes | None:
        return _body(self.cells, origin, seq, place)

    def needs_body(self, run: Run) -> list[Change]:
        found = []
        for change in run.changes:
            if change.kind == Kind.VALUE and isinstance(change.content, int):
                held = self.cells.get((change.place, Kind.VALUE, b""))
                if held is None or held[0] < Stamp(change.hlc, run.origin, change.seq):
                    found.append(change)
        return found

    def bodyless(self) -> list[tuple[bytes, Stamp]]:
        return []

    def restore_body(self, place: bytes, stamp: Stamp, value: bytes, metadata: bytes | None) -> bool:
        return False

    def put_system(self, name: bytes, value: bytes) -> None:
        self.put(_CLUSTER + name, value)

    def get_system(self, name: bytes) -> tuple[bytes, Stamp] | None:
        held = self.cells.get((_CLUSTER + name, Kind.VALUE, b""))
        if held is None or not isinstance(held[1].content, bytes):
            return None
        return held[1].content, held[0]

    @property
    def system_version(self) -> int:
        return len(self._system_changed)

    def system_version_of(self, prefix: bytes) -> int:
        return sum(name.startswith(prefix) for name in self._system_changed)

    def list_system(self, prefix: bytes) -> list[tuple[bytes, bytes, Stamp]]:
        found = []
        for place in sorted(cell[0] for cell in self.cells if cell[0].startswith(_CLUSTER + prefix)):
            name = place[len(_CLUSTER) :]
            record = self.get_system(name)
            if record is not None:
                found.append((name, *record))
        return found

    def get_local(self, name: str) -> bytes | None:
        return self._local.get(name)

    def put_local(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._local.pop(name, None)
        else:
            self._local[name] = value

    def rotate(self) -> None:
        self._origin = sha256(self._origin).digest()[:16]
        self._own[self._origin] = int(Lane.SMALL)
        self._seq = 0

    def renew_node(self) -> None:
        self.node_id = sha256(self.node_id).digest()[:16]

    def set_purging(self, purging: Purging) -> None:
        self.purging = purging

    def _hashes(self, cells: Cells) -> Iterator[tuple[int, int, Stamp, Change]]:
        for cell, (stamp, change) in sorted(cells.items()):
            if change.kind == Kind.VALUE:
                bucket = int.from_bytes(sha256(repr(cell).encode()).digest()[:2], "big")
                content = int.from_bytes(
                    sha256(repr((cell, stamp, change.content)).encode()).digest()[:16], "big"
                )
                yield bucket, content, stamp, change

    def digest(self, feed: ChangeFeed) -> Iterator[Mapping[int, int] | None]:
        assert isinstance(feed, ModelFeed)
        buckets: dict[int, int] = {}
        for bucket, content, _, _ in self._hashes(feed._cells):
            buckets[bucket] = buckets.get(bucket, 0) ^ content
        yield None
        yield buckets

    def bucket(self, feed: ChangeFeed, numbers: Sequence[int]) -> Iterator[list[Run] | None]:
        assert isinstance(feed, ModelFeed)
        yield None
        yield [
            Run(stamp.origin, 0, 0, [change._replace(content=content.to_bytes(16, "big"))])
            for bucket, content, stamp, change in self._hashes(feed._cells)
            if bucket in numbers
        ]

    def changes_at(self, places: Sequence[bytes]) -> list[Run]:
        cells = {cell: held for cell, held in self.cells.items() if cell[0] in places}
        return [run._replace(after=0, upto=0) for run in _runs(cells, {})]

    def repair(self, run: Run) -> int:
        return sum(self._merge_one(run.origin, change) for change in run.changes)

    def touch(self, places: Sequence[bytes]) -> None:
        self.touched.extend(places)
        for place in places:
            value = self.value(place)
            if value is not None:
                self.put(place, value)

    def conflicts(self, count: int) -> list[Conflict]:
        return []

    def on_conflict(self, callback: Callable[[Conflict], None]) -> None: ...

    def stats(self) -> Mapping[str, int]:
        return {}


_CLUSTER = b"\0" * 14 + b"\x01\x01"


def as_replica(replica: ModelReplica) -> Replica:
    """Let the type checker compare the model with the protocol."""
    return replica
