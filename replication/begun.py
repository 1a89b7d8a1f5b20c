"""What has come of large values whose fetch ended before they were whole.

A fetch ends with its link. On one that breaks often, a large value would begin anew each time and might never arrive.
So its beginning is kept under its name, and the next fetch of it goes on from there, whoever sends the rest: a dot's
value never changes, so all who hold it send the same bytes.

The size belongs to the name: two contents of one dot (`dot_fork_total`) are not joined unless they are of one size.
Then a verification finds what became of it, for that compares the contents themselves; and what it fetches to mend
them is neither kept here nor taken from here.

Bounds: what the caller grants in bytes, `_COUNT_MAX` beginnings, `_SECONDS` for each; the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

# Many times what is fetched at once, for links that break one after the other.
_COUNT_MAX: Final = 64
# Several times what it takes until a lost link is there again, or a stall is noticed and another peer asked.
_SECONDS: Final = 300.0

Name = tuple[bytes, int, bytes, int]  # origin, sequence, place, size


@attrs.define(eq=False)
class _Beginning:
    data: bytearray
    kept_at: float


class Begun:
    """The beginnings of bodies that nobody fetches at the moment, the oldest first."""

    def __init__(self) -> None:
        self._beginnings: OrderedDict[Name, _Beginning] = OrderedDict()

    def __len__(self) -> int:
        return len(self._beginnings)

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(len(one.data) for one in self._beginnings.values())

    def keep(self, name: Name, data: bytearray, now: float) -> None:
        """Keep the beginning of a body, or what is kept of it if that is longer. `trim` has to follow."""
        self._beginnings[name] = _Beginning(max(self.take(name), data, key=len), now)

    def take(self, name: Name) -> bytearray:
        """Hand over what is kept of a body."""
        kept = self._beginnings.pop(name, None)
        return bytearray() if kept is None else kept.data

    def trim(self, bytes_max: int) -> None:
        """Forget the oldest until the rest is within its bounds."""
        size = self.size
        while self._beginnings and (size > bytes_max or len(self) > _COUNT_MAX):
            _, oldest = self._beginnings.popitem(last=False)
            size -= len(oldest.data)

    def forget(self, now: float, is_void: Callable[[bytes, int], bool]) -> None:
        """Forget what nobody has gone on with for long, and dots that were voided."""
        for name, one in list(self._beginnings.items()):
            if now - one.kept_at > _SECONDS or is_void(name[0], name[1]):
                del self._beginnings[name]
