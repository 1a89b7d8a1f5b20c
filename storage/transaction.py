"""The transaction: what the tick has written and not yet committed.

There is one for each store, used again tick after tick. Keyspaces write into it, the store turns
it into one batch. A key that is written several times in a tick is one row in the batch, while
each write has its own dot; the change log names the keys in the order of their dots.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from storage.engine import Family
from storage.record import Record
from storage.version import hlc_at

if TYPE_CHECKING:
    from storage.keyspace import Keyspace

# A dot's place: a row key, None for "the same row as the dot before", [namespace] for a flush.
Place: TypeAlias = bytes | list[bytes] | None


class Transaction:
    """Pending writes, and the clock and the dot that the next write takes.

    `hlc` is the clock value given last, `hlc_step` what the next write adds to it: 1, or 0 inside
    `Atomic`, where all writes share one clock value. `seq` is the last sequence number given.
    """

    __slots__ = (
        "deadlines",
        "flushed",
        "groups",
        "hlc",
        "hlc_step",
        "now_ms",
        "origin",
        "places",
        "purges_rows",
        "puts",
        "ranges",
        "recounted",
        "removed",
        "replaced",
        "rows",
        "seq",
    )

    def __init__(self) -> None:
        self.now_ms = 0
        self.hlc = 0
        self.hlc_step = 1
        self.origin = 0
        self.seq = 0
        self.clear()

    def clear(self) -> None:
        """Forget all pending writes."""
        self.rows: dict[bytes, Record] = {}  # by row key; `MISSING` removes the row for good
        self.purges_rows = False  # whether there is such a removal
        self.places: list[Place] = []  # one for each dot, the last belonging to `seq`
        self.replaced: list[bytes] = []  # registers that are no longer any record's
        self.groups: list[tuple[int, int]] = []  # (index of the first place, count) to be seen together
        self.deadlines: list[bytes] = []  # keys to be put
        self.removed: list[tuple[Family, bytes]] = []  # keys to be deleted
        self.ranges: list[tuple[Family, bytes, bytes]] = []  # applied before everything else
        self.puts: list[tuple[Family, bytes, bytes]] = []  # anything else
        self.recounted: list[Keyspace] = []  # whose counts have changed
        self.flushed: list[tuple[Keyspace, bytes | None]] = []  # with the floor before

    def begin(self, now_ms: int) -> None:
        """Start a tick: raise the clock to `now_ms`. A wall clock that went back does not lower it."""
        self.now_ms = now_ms
        self.hlc = max(self.hlc, hlc_at(now_ms) - 1)  # the first write adds one

    def is_empty(self) -> bool:
        return not (self.rows or self.places or self.removed or self.puts)

    def drop_rows(self, namespace: bytes) -> None:
        """Forget the pending rows of `namespace`: a flush has overtaken them."""
        self.rows = {key: row for key, row in self.rows.items() if not key.startswith(namespace)}


class Atomic:
    """The context of `Store.atomic`: the writes inside share one clock value and are one group."""

    __slots__ = ("_depth", "_first", "_txn")

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn
        self._depth = 0
        self._first = 0

    def __enter__(self) -> None:
        if self._depth == 0:
            txn = self._txn
            txn.hlc += 1
            txn.hlc_step = 0
            self._first = len(txn.places)
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        txn = self._txn
        txn.hlc_step = 1
        count = len(txn.places) - self._first
        if count > 1:
            txn.groups.append((self._first, count))


ExpiredCallback: TypeAlias = "Callable[[Keyspace, bytes], None]"
EventCallback: TypeAlias = "Callable[[Keyspace, bytes, bytes, int], None]"
