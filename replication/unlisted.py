"""What the asker of a full sync holds though its server, which covers it, did not list it: that was superseded.

It is dropped at the end of the walk, when all is there that it gave way to. Beyond a bound, after a long absence with
many deletions, it is dropped at once: nobody counts on what a node that is not whole says it covers.

A slice of what a server holds may reach over any number of places of the asker's, whose server has purged them all. So
a slice is looked at piece by piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from storage.changes import Replica, Run, VersionVector

# What a walk remembers to drop at its end, some 300 bytes each.
_UNLISTED_MAX: Final = 65_536


@attrs.define
class _Slice:
    """A range of places, and what a server that covers `vector` holds in it."""

    start: bytes
    end: bytes
    listed: Sequence[Run]
    vector: Mapping[bytes, int]


@attrs.define
class Unlisted:
    """What one walk has shown to be superseded."""

    slices: deque[_Slice] = attrs.field(factory=deque)  # not looked at yet, or not to their end, in order
    runs: list[Run] = attrs.field(factory=list)
    changes: int = 0

    def add(self, start: bytes, end: bytes, listed: Sequence[Run], vector: Mapping[bytes, int]) -> None:
        """Look at what is here in a slice, once that is merged. It goes on where the one before has ended."""
        last = self.slices[-1] if self.slices else None
        if last is not None and not listed and not last.listed:
            last.end = end  # of one server: with another one all is looked at anew
        else:
            self.slices.append(_Slice(start, end, listed, vector))

    def look_on(self, replica: Replica, places_max: int) -> None:
        """Look at up to so many places more. Inside a tick."""
        if not self.slices:
            return
        one = self.slices[0]
        unlisted, one.start = replica.unlisted(one.start, one.end, one.listed, places_max)
        for run in unlisted:
            known = [change for change in run.changes if change.seq <= one.vector.get(run.origin, 0)]
            if known:
                self._note(replica, run._replace(changes=known))
        if one.start >= one.end:
            self.slices.popleft()

    def _note(self, replica: Replica, run: Run) -> None:
        if self.changes < _UNLISTED_MAX:
            self.runs.append(run)
            self.changes += len(run.changes)
        else:
            replica.drop([run])

    def is_undecided(self, vector: VersionVector) -> bool:
        """Tell whether something was noted that the vector which is to be granted does not cover."""
        return any(change.seq > vector[run.origin] for run in self.runs for change in run.changes)

    def drop(self, replica: Replica) -> None:
        """Remove what was noted. Inside a tick."""
        replica.drop(self.runs)
