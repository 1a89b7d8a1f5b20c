"""Writes that lost against one whose writer had not seen them: how many there were, and the last of them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from storage.changes import Kind

if TYPE_CHECKING:
    from storage.changes import Conflict

_REMEMBERED_MAX: Final = 1024
_KINDS: Final[dict[int, str]] = {Kind.VALUE: "value", Kind.EXPIRY: "expiry"}
_OTHER: Final = "other"  # of a later version


class Losses:
    """The losers of this node, each counted once, also if several syncs bring it at the same time.

    A loser leaves nothing in the store, and its dot is covered only when its session ends, so what tells that it
    came before is `_recent`: the last `_REMEMBERED_MAX` of them, by their registers. One that comes again later than
    that is counted again.
    """

    def __init__(self) -> None:
        self.totals = dict.fromkeys((*_KINDS.values(), _OTHER), 0)  # by kind
        self._recent: dict[bytes, Conflict | None] = {}  # None: the namespace keeps no log of conflicts

    @property
    def total(self) -> int:
        return sum(self.totals.values())

    def note(self, lost: dict[bytes, tuple[int, Conflict | None]]) -> list[Conflict]:
        """Count the losers of a commit, by register; return the conflicts to tell of: those that are new."""
        recent = self._recent
        found: dict[bytes, Conflict | None] = {}
        for register, (kind, conflict) in lost.items():
            if register not in recent:
                found[register] = conflict
                self.totals[_KINDS.get(kind, _OTHER)] += 1
        recent.update(found)
        for register in list(islice(recent, max(len(recent) - _REMEMBERED_MAX, 0))):
            del recent[register]
        return [conflict for conflict in found.values() if conflict is not None]

    def last(self, count: int) -> list[Conflict]:
        """Return up to `count` conflicts, the latest first."""
        told = (conflict for conflict in reversed(self._recent.values()) if conflict is not None)
        return list(islice(told, max(count, 0)))
