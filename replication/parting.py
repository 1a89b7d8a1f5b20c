"""Two histories of one cluster that have parted: each has purged deletions that the other has never seen.

    a restored node is cut off, and told that all whom it knows are gone for good: alone, it purges what it deletes
    it meets those that have taken their places, and is rejoining, since it has not seen what they purged
    none of them covers its own purge floors: it cannot tell what they still hold of what has died here
                        │ all have told what they cover, and that for long
    gives way: it has purged nothing any more ──▶ full sync, deleting again what has died here ──▶ READY

What a server lists though this node covers that dot and holds nothing in its place has died here, or the dot would not be
covered. Its mark is purged; so it is deleted with the least stamp above its own, which spreads as any
write does. So nothing that was deleted comes back, in neither history. Two things cannot be told any more, and live: a value
that this node had never seen when it deleted its key, and one that has expired here, which the others have extended.

What the server has not got yet, but another member has, this node would never be sent. So the walk ends only if it has shown
all that any member holds of what this node covers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Final

from replication.core import Core
from replication.lasting import Lasting
from replication.sync import is_below
from storage.changes import Kind, Run, Stamp, VersionVector

if TYPE_CHECKING:
    from replication.asking import Walk
    from replication.carriers import Participants
    from replication.vectors import Vectors

# The local setting of a node that has given way and is not whole yet: the clock value up to which it had purged.
_GIVEN_WAY: Final = "given_way"
_HLC_BYTES: Final = 8


class Parting:
    """Lets a node that is rejoining give way to a history that has parted from its own."""

    def __init__(self, core: Core, participants: Participants, vectors: Vectors) -> None:
        self._core = core
        self._participants = participants
        self._vectors = vectors
        self._shut_out = Lasting()
        # What peers know of this node's floors only grows, so they are to be told of them all anew; and a walk begins anew.
        # Set by the exchange.
        self.on_given_way: Callable[[], None] = _nothing

    def tick(self, now: float) -> None:
        """Give way if nobody can be synced from otherwise. While this node is rejoining; inside a tick."""
        if self._shut_out.lasts(self._is_shut_out(), now, 2 * self._core.options.start_gate):
            self._give_way()

    def is_under_way(self) -> bool:
        """Tell whether this node is giving way, or will if that lasts."""
        return bool(self._purged_hlc()) or self._is_shut_out()

    def _is_shut_out(self) -> bool:
        """Tell whether no member that is whole covers what this node has purged, and all members have told.

        Who is missing may have seen it. It is waited for, until an operator says that it is gone.
        """
        floors = self._core.replica.floors()
        whole = self._whole()
        return bool(whole) and all(is_below(vector, floors) for vector in whole)

    def _whole(self) -> list[VersionVector]:
        """Return what each of the members that are whole covers; nothing as long as any member has not told."""
        own = self._core.identity.node
        known = [self._vectors.known.get(node) for node in self._participants.remaining() if node != own]
        told = [one for one in known if one is not None and one.is_complete]
        return [one.vector for one in told if one.ready] if len(told) == len(known) else []

    def may_end(self, walk: Walk) -> bool:
        """Tell whether a walk has shown all that anybody holds of what has died here."""
        return walk.vector is not None and self.is_enough(walk.vector)

    def is_enough(self, vector: VersionVector) -> bool:
        """Tell whether who covers so much can show all that anybody holds of what has died here.

        A server may not have got yet what another member has. This node would never be sent that, for it covers it.
        """
        if not self._purged_hlc():
            return True
        whole = self._whole()
        if not whole:
            return False
        anybody = reduce(VersionVector.merged, whole)
        return vector.covers(anybody.common(self._core.replica.vector()))

    def _give_way(self) -> None:
        replica = self._core.replica
        self._core.log.warning(
            "no member has seen what was purged here: this node gives way to what they hold"
        )
        self._core.count("given_way_total")
        hlc = max(replica.horizon(), self._purged_hlc())
        replica.put_local(_GIVEN_WAY, hlc.to_bytes(_HLC_BYTES))
        replica.forget_purges()
        self.on_given_way()

    def _purged_hlc(self) -> int:
        """Return the clock value up to which this node had purged when it gave way; 0 if it has not."""
        return int.from_bytes(self._core.replica.get_local(_GIVEN_WAY) or b"")

    def delete_again(self, runs: Sequence[Run]) -> None:
        """Delete what a server holds of a slice and has died here, once the slice was merged. Inside a tick."""
        purged_hlc = self._purged_hlc()
        if not purged_hlc:
            return
        seen, extended = self._seen_in(runs, purged_hlc)
        for place, stamp in seen.items():
            # A row that cannot be read any more is no sign of a death.
            if place not in extended and not self._core.replica.holds(place):
                self._core.replica.void(place, stamp)
                self._core.count("deleted_again_total")

    def _seen_in(self, runs: Sequence[Run], purged_hlc: int) -> tuple[dict[bytes, Stamp], set[bytes]]:
        """Return the values that this node has seen, by place, and the places where others have set a new expiry."""
        seen: dict[bytes, Stamp] = {}
        extended: set[bytes] = set()
        for run in runs:
            covered = self._core.replica.covered(run.origin)
            for change in run.changes:
                is_seen = change.seq <= covered
                if change.kind == Kind.EXPIRY and not is_seen:
                    extended.add(change.place)
                elif change.kind == Kind.VALUE and is_seen and change.hlc <= purged_hlc:
                    seen[change.place] = Stamp(change.hlc, run.origin, change.seq)
        return seen, extended

    def end(self) -> None:
        """Take note that this node is whole. Inside a tick."""
        self._shut_out = Lasting()
        if self._purged_hlc():
            self._core.replica.put_local(_GIVEN_WAY, None)


def _nothing() -> None:
    """Stand in for a callback that the exchange sets."""
