"""Everything that was ever written, in a place that no fault can reach: what the nodes are judged by.

`note` is called with the rows of every tick before its commit. A register whose dot is new must be this
node's own write and becomes a `Write`; any other must be equal to the one that history holds (I5). So
no node can hold what nobody wrote.

`expected` tells what the merge of all writes that a vector covers is, register by register, from the
writes alone: the greatest stamp of each kind, less what a floor kills.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from storage.changes import Kind

# (hlc, origin, seq): compares as stamps do.
Stamp = tuple[int, bytes, int]
Content = tuple[bytes | int | None, bytes | None]  # value or ms, metadata


class Write(NamedTuple):
    """One register as it was written. Sorts by stamp."""

    stamp: Stamp
    kind: int
    place: bytes
    content: Content
    host: str
    at: float


class Violation(AssertionError):
    """An invariant does not hold."""


class Expected(NamedTuple):
    """What a place must hold; None: no such register, or one that is dead."""

    value: Write | None
    expiry: Write | None
    floor: Write | None  # of the key or the namespace, whichever is greater
    expires_at_ms: int | None  # when the value expires, if it does


@attrs.define(eq=False)
class History:
    """All writes, by dot and by place."""

    dots: dict[tuple[bytes, int], Write] = attrs.field(factory=dict)
    places: dict[bytes, dict[int, list[Write]]] = attrs.field(factory=dict)
    floors: dict[bytes, list[Write]] = attrs.field(factory=dict)  # by namespace

    def copy(self) -> History:
        """Return a history that begins with what this one holds."""
        copied = History()
        for write in self.dots.values():
            copied.note(write)
        return copied

    def note(self, write: Write) -> Write | None:
        """Take a register in that is to be committed; return it if it was new."""
        dot = write.stamp[1:]
        known = self.dots.get(dot)
        if known is None:
            self.dots[dot] = write
            if write.kind == Kind.NAMESPACE_FLOOR:
                insort(self.floors.setdefault(write.place, []), write)
            else:
                kinds = self.places.setdefault(write.place, {})
                insort(kinds.setdefault(write.kind, []), write)
            return write
        if known.stamp != write.stamp or known.kind != write.kind or known.place != write.place:
            raise Violation(f"I5: two writes under one dot: {known} and {write}")
        if known.content != write.content and write.content[0] is not None:
            raise Violation(f"I5: two contents under one dot: {known} and {write}")
        return None

    def expected(self, place: bytes, vector: Mapping[bytes, int]) -> Expected:
        """Return the merge of all writes of `place` that `vector` covers."""
        kinds = self.places.get(place, {})
        value = _last(kinds.get(Kind.VALUE), vector)
        expiry = _last(kinds.get(Kind.EXPIRY), vector)
        floor = _last(kinds.get(Kind.FLOOR), vector)
        sweeping = _last(self.floors.get(place[:16]), vector)
        if sweeping is not None and (floor is None or sweeping.stamp > floor.stamp):
            floor = sweeping
        if floor is not None:
            if value is not None and value.stamp < floor.stamp:
                value = None
            if expiry is not None and expiry.stamp < floor.stamp:
                expiry = None
        return Expected(value, expiry, floor, _due(value, kinds.get(Kind.EXPIRY), vector))

    def covered_beyond(self, vector: Mapping[bytes, int], other: Mapping[bytes, int]) -> list[Write]:
        """Return the writes that `vector` covers and `other` does not."""
        return [
            write
            for (origin, seq), write in self.dots.items()
            if other.get(origin, 0) < seq <= vector.get(origin, 0)
        ]


def _due(value: Write | None, expiries: list[Write] | None, vector: Mapping[bytes, int]) -> int | None:
    """Return when a value expires by the expiries that `vector` covers.

    One whose clock value lies beyond the expiry before it is about another value, a later one that is not covered, or an
    earlier one that its writer still saw: an expired value cannot be extended (`storage.expiry`).
    """
    due: int | None = None
    for write in expiries or ():
        is_covered = vector.get(write.stamp[1], 0) >= write.stamp[2]
        if value is None or not is_covered or write.stamp < value.stamp:
            continue
        if due is not None and write.stamp[0] >> 16 > due:
            break
        at_ms = write.content[0]
        due = at_ms if isinstance(at_ms, int) else None
    return due


def _last(writes: list[Write] | None, vector: Mapping[bytes, int]) -> Write | None:
    for write in reversed(writes or ()):
        if vector.get(write.stamp[1], 0) >= write.stamp[2]:
            return write
    return None
