"""The transaction: what the tick has written and not yet committed.

There is one for each store, used again tick after tick. Keyspaces write into it, the store turns
it into one batch. A key that is written several times in a tick is one row in the batch, while
each write has its own dot; the change log names the keys in the order of their dots.

Writes take their dots in *lanes*, each with an origin of its own, because replication hands on the dots
of an origin in order: what is slow must not delay the rest. The transaction itself is the lane of nearly all
writes. Values that do not travel in their change go into the bulk lane, what is not replicated at all
into the local one. Each further group of namespaces has a small and a bulk lane, from its first namespace on. All
lanes share one clock.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from storage.changes import COMMON_GROUP, Lane
from storage.engine import Family
from storage.incoming import Incoming, Place
from storage.record import Record
from storage.version import hlc_at

if TYPE_CHECKING:
    from storage.keyspace import Keyspace

__all__ = ["Atomic", "EventCallback", "ExpiredCallback", "LaneLog", "Place", "Transaction"]


class LaneLog:
    """The dots of one lane: its origin (0: not drawn yet), the last `seq` given, and what the tick has written.

    `places` has one place for each dot, the last belonging to `seq`. `groups` are pairs (index of the first
    place, count) of dots to be seen together. `group` is the replication group that takes its dots, `bulk` the lane
    of its values that do not travel in their change; None: they stay in this one.
    """

    __slots__ = ("bulk", "group", "groups", "lane", "origin", "places", "seq")

    def __init__(self, lane: Lane, group: int = COMMON_GROUP) -> None:
        self.lane = lane
        self.group = group
        self.bulk = LaneLog(Lane.BULK, group) if lane is Lane.SMALL else None
        self.origin = 0
        self.seq = 0
        self.places: list[Place] = []
        self.groups: list[tuple[int, int]] = []

    def forget(self) -> None:
        """Forget what the tick has written."""
        if self.places:
            self.places = []
            self.groups = []


class Transaction(LaneLog):
    """Pending writes, and the clock and the dot that the next write takes.

    `hlc` is the clock value given last, `hlc_step` what the next write adds to it: 1, or 0 inside
    `Atomic`, where all writes share one clock value.
    """

    __slots__ = (
        "after",
        "deadlines",
        "flushed",
        "grouped",
        "hlc",
        "hlc_step",
        "incoming",
        "lanes",
        "local",
        "local_values",
        "lowered_from",
        "members",
        "now_ms",
        "others",
        "purges_rows",
        "puts",
        "ranges",
        "recounted",
        "removed",
        "replaced",
        "rows",
    )

    def __init__(self) -> None:
        super().__init__(Lane.SMALL)
        self.now_ms = 0
        self.hlc = 0
        self.hlc_step = 1
        assert self.bulk is not None
        self.local = LaneLog(Lane.LOCAL)
        self.lanes: tuple[LaneLog, ...] = (self, self.bulk, self.local)  # this one first
        self.grouped: tuple[LaneLog, ...] = ()  # the small lanes of the other groups
        self.purges_rows = False  # whether `rows` has a removal
        # What is not in `places`, with how many were there before it. A tuple stands for several row keys.
        self.others: list[tuple[int, Place | tuple[bytes, ...]]] = []
        self.flushed: list[tuple[Keyspace, bytes | None]] = []  # with the floor before
        self.ranges: list[tuple[Family, bytes, bytes]] = []  # applied before everything else
        self.removed: list[tuple[Family, bytes]] = []  # keys to be deleted
        self.puts: list[tuple[Family, bytes, bytes]] = []  # anything else
        self.members: dict[bytes, bytes | None] = {}  # rows of that family; None removes one
        self.local_values: dict[bytes, bytes | None] = {}  # meta rows of `put_local`; None removes one
        self.after: list[Callable[[], None]] = []  # to be done once it is committed
        self.lowered_from = 0  # the clock value before this tick has lowered it
        self.incoming: Incoming | None = None  # what was taken over from other nodes
        self.clear()

    def clear(self) -> None:
        """Forget all pending writes."""
        # Hot: once for every commit. What is rarely used is only renewed if it was.
        self.rows: dict[bytes, Record] = {}  # by row key; `MISSING` removes the row for good
        self.places = []
        self.groups = []
        self.replaced: list[bytes] = []  # registers that are no longer any record's
        self.deadlines: list[bytes] = []  # keys to be put
        self.recounted: list[Keyspace] = []  # whose counts have changed
        if self.others:
            self.others = []
            for lane in self.lanes[1:]:
                lane.forget()
        if self.flushed:
            self.flushed = []
        if self.ranges:
            self.ranges = []
        if self.removed:
            self.removed = []
        if self.puts:
            self.puts = []
        if self.members:
            self.members = {}
        if self.local_values:
            self.local_values = {}
        if self.after:
            self.after = []
        self.incoming = None
        self.purges_rows = False

    def begin(self, now_ms: int) -> None:
        """Start a tick: raise the clock to `now_ms`. A wall clock that went back does not lower it."""
        self.now_ms = now_ms
        self.hlc = max(self.hlc, hlc_at(now_ms) - 1)  # the first write adds one

    def lower(self, hlc: int) -> None:
        """Lower the clock; if there is something to commit and that fails, it is what it was."""
        self.lowered_from = 0 if self.is_empty() else self.hlc
        self.hlc = hlc

    def lane_for(self, group: int) -> LaneLog:
        """Return the small lane of a group, a new one if it has none yet."""
        if group == COMMON_GROUP:
            return self
        for lane in self.grouped:
            if lane.group == group:
                return lane
        made = LaneLog(Lane.SMALL, group)
        assert made.bulk is not None
        self.grouped += (made,)
        self.lanes += (made, made.bulk)
        return made

    def is_empty(self) -> bool:
        return not (
            self.rows
            or self.places
            or self.others
            or self.removed
            or self.puts
            or self.members
            or self.local_values
            or self.incoming is not None
        )

    @property
    def change_count(self) -> int:
        """How many changes there are; see `Store.changes`."""
        return len(self.places) + len(self.others)

    def note(self, lane: LaneLog, place: Place) -> None:
        """Name the place of the dot that `lane` has just given."""
        lane.places.append(place)
        if lane is not self and place is not None:
            self.others.append((len(self.places), place))

    def accept(self) -> Incoming:
        """Return what was taken over from other nodes, to be added to."""
        if self.incoming is None:
            self.incoming = Incoming()
        return self.incoming

    def drop_rows(self, namespace: bytes) -> None:
        """Forget the pending rows of `namespace`: a flush has overtaken them."""
        self.rows = {key: row for key, row in self.rows.items() if not key.startswith(namespace)}
        if self.members:
            self.members = {key: row for key, row in self.members.items() if not key.startswith(namespace)}


class Atomic:
    """The context of `Store.atomic`: the writes inside share one clock value, those of a lane are to be seen together."""

    __slots__ = ("_depth", "_firsts", "_txn")

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self._depth = 0
        self._firsts: list[int] = []

    def __enter__(self) -> None:
        if self._depth == 0:
            txn = self._txn
            txn.hlc += 1
            txn.hlc_step = 0
            self._firsts = [len(lane.places) for lane in (txn, *txn.grouped)]
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        txn = self._txn
        txn.hlc_step = 1
        firsts = self._firsts
        for index, lane in enumerate((txn, *txn.grouped)):
            first = firsts[index] if index < len(firsts) else 0  # a lane may be new
            count = len(lane.places) - first
            if count > 1:
                lane.groups.append((first, count))


ExpiredCallback: TypeAlias = "Callable[[Keyspace, bytes], None]"
EventCallback: TypeAlias = "Callable[[Keyspace, bytes, bytes, int], None]"
