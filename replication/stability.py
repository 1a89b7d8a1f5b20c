"""When a mark of deletion may be forgotten: the two-phase epoch of garbage collection.

    S = least of what every member claims      frozen together
    C = greatest of what any member claims
    wait until this node covers C, and the syncs that it has asked for until now are over
    then what has a dot in S may be purged
    and all that any member wrote up to the least `settled_hlc` of those claims is here

The waiting is not optional. "Everybody has the deletion" is not enough: this node may still lack an older
write of the same key that all others have replaced, and would let it in once the mark is gone. C does not tell of all
such writes: nobody covers what an unfinished sync had brought from a member that was removed since. Who held that drops
it with the deletion, but a sync from before may still show it.

The last line is for what expires. Its marks become useless by time, not by a write that all could have seen: a
member that was cut off may have extended the expiry. See `storage.expiry`.

In a group that not all nodes carry, all of that is about its carriers, and who these are this node knows from records
of the common group. So it waits until it knows all that any of them knew when it made its claim, and purges nothing before
all members of the cluster have the record of what it carries itself, and it all that they had then (`knows_members`).
Its records may be those of an old backup; and two that each took itself for the first, in halves of a cluster that let
others in, purge nothing that the other would then lack for ever.

A member counts until its removal is known to all that remain (9.5), whether it is reachable or not: time
alone never excludes anybody. `blocked_by` names those for whom everything waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from replication.core import Core
from replication.vectors import CLOSED, Vectors
from storage.changes import Lane, Stamp, VersionVector, group_of

if TYPE_CHECKING:
    from replication.carriers import Participants


_SETTLES_MISSED: Final = 4  # in a row, from which on a member holds up what expires


@attrs.frozen
class _Frozen:
    """What the members claim at the beginning of an epoch."""

    least: VersionVector
    greatest: VersionVector
    settled_hlc: int
    at: float


class ClosedOrigins:
    """The origins of each group that write no more by their records, cached until one changes.

    There are some for each start of each node, and every epoch of every group asks.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._version = -1
        self._closed: dict[int, list[tuple[bytes, Stamp]]] = {}

    def of(self, group: int) -> list[tuple[bytes, Stamp]]:
        """Return (origin, stamp of its record) each. The list is shared: do not change it."""
        replica = self._core.replica
        version = replica.system_version_of(CLOSED)
        if self._version != version:
            self._version = version
            self._closed = {}
            for name, _, stamp in replica.list_system(CLOSED):
                origin = name[len(CLOSED) :]
                self._closed.setdefault(group_of(origin), []).append((origin, stamp))
        return self._closed.get(group, [])


class Stability:
    """Implements `storage.changes.Purging` for a node that has peers."""

    def __init__(self, core: Core, participants: Participants, vectors: Vectors) -> None:
        self._core = core
        self._participants = participants
        self._vectors = vectors
        self._frozen: _Frozen | None = None
        self._purgeable = VersionVector()
        self.settled_hlc = 0
        self._purgeable_for: tuple[bytes, ...] = ()
        self._next = 0.0
        self._due = VersionVector()  # what everybody should cover by now
        self.may_purge = False  # not before this node is a whole member
        self.blocked_by: list[bytes] = []
        self.closed = ClosedOrigins(core)
        # Whether a sync goes on that was asked for at a moment or before.
        self.awaits_since: Callable[[float], bool] = _is_never
        # What all members have of the cluster's own records: that is this, in the common group.
        self.stable_records: Callable[[], VersionVector] = self.stable
        # Whether all know this node for one of them, and it all whom they knew then.
        self.knows_members: Callable[[], bool] = _always

    @property
    def alone(self) -> bool:
        """Tell whether there is no other member, and nobody is about to become one."""
        is_only = self._participants.members() == [self._core.identity.node]
        return self.may_purge and is_only and self.knows_members()

    def covers(self, origin: bytes, seq: int) -> bool:
        return self.alone or (self.may_purge and seq <= self._purgeable[origin])

    def reset(self) -> None:
        """Forget what was found: a member came back with less than it had, or one has joined."""
        self._frozen = None
        self._purgeable = VersionVector()
        self.settled_hlc = 0

    def stable(self) -> VersionVector:
        """Return what all members claim at this moment; nothing if one has said nothing yet."""
        vectors = self._claims()
        if vectors is None:
            return VersionVector()
        least = vectors[0]
        for vector in vectors[1:]:
            least = least.common(vector)
        return least

    def _claims(self) -> list[VersionVector] | None:
        """Return every member's claim, this node's own first; None if one is missing."""
        return _whole(self._claims_by_node())

    def _claims_by_node(self) -> dict[bytes, VersionVector | None]:
        claims: dict[bytes, VersionVector | None] = {self._core.identity.node: self._core.replica.durable()}
        for node in self._participants.members():
            known = self._vectors.known.get(node)
            if known is not None and known.is_complete and known.ready:
                claims[node] = known.vector
            else:
                claims.setdefault(node, None)
        return claims

    def _find_blockers(self) -> None:
        """Name those who say nothing, still lack what this node had before, do not settle, or know carriers unknown here."""
        core = self._core
        better_informed = self._better_informed()
        late_hlc = int(core.wall_ms() - _SETTLES_MISSED * 1000 * core.options.settle_interval) << 16
        self.blocked_by = [
            node
            for node, claim in self._claims_by_node().items()
            if claim is None
            or node in better_informed
            or not claim.covers(self._due)
            or (node != core.identity.node and self._settled(node) < late_hlc)
        ]
        self._due = core.replica.durable()

    def tick(self, now: float) -> float:
        """Go on with the epoch, or begin the next."""
        if now < self._next:
            return self._next
        self._next = now + self._core.options.purge_interval
        if not self.may_purge or not self.knows_members():
            return self._next
        self._find_blockers()
        self._participants.settle({node: known.vector for node, known in self._vectors.known.items()})
        members = tuple(self._participants.members())
        for node in self._participants.departed():
            if node not in members and node not in self._core.links:
                self._vectors.forget(node)
        if members != self._purgeable_for:
            self.reset()
            self._purgeable_for = members
        if self._frozen is not None:
            self._end_epoch(now)
        if self._frozen is None:
            self._begin_epoch(now)
            self._end_epoch(now)
        return self._next

    def _begin_epoch(self, now: float) -> None:
        by_node = self._claims_by_node()
        claims = _whole(by_node)
        if claims is None or not self._knows_carriers():
            return
        least = greatest = claims[0]
        for claim in claims[1:]:
            least, greatest = least.common(claim), greatest.merged(claim)
        self._frozen = _Frozen(least, greatest, min(map(self._settled, by_node)), now)

    def _knows_carriers(self) -> bool:
        """Tell whether this node waits for all that any member knew to carry the group when it made its claim."""
        return not self._better_informed()

    def _better_informed(self) -> list[bytes]:
        """Return the members that knew others to carry the group whom this node does not know."""
        members = self._participants.members()
        expected = {*members, *self._participants.departed()}
        known = self._vectors.known
        return [node for node in members if node in known and not expected.issuperset(known[node].carriers)]

    def _settled(self, node: bytes) -> int:
        """Return the clock value up to which a member says that it has written all that it will."""
        if node == self._core.identity.node:
            return self._vectors.settled_hlc
        return self._vectors.known[node].settled_hlc

    def _end_epoch(self, now: float) -> None:
        if self._frozen is None:
            return
        frozen = self._frozen
        if self._core.replica.vector().covers(frozen.greatest) and not self.awaits_since(frozen.at):
            self._purgeable = self._purgeable.merged(frozen.least)
            self.settled_hlc = max(self.settled_hlc, frozen.settled_hlc)
            self._frozen = None
            self._core.counters["gc_epoch_seconds"] = now - frozen.at
            self._seal()

    # --- sealing

    def close_origins(self) -> None:
        """Say of each earlier origin of this node that it writes no more. Inside a tick."""
        replica = self._core.replica
        vector = replica.vector()  # as it is before the records, which give the current origin its first dots
        for origin in former_origins(replica.own_origins(), self._current_origins()):
            if vector[origin] and replica.get_system(CLOSED + origin) is None:
                replica.put_system(CLOSED + origin, self._core.identity.node)

    def _current_origins(self) -> list[bytes]:
        found = [self._core.replica.origin(lane) for lane in (Lane.SMALL, Lane.BULK)]
        return [origin for origin in found if origin is not None]

    def _seal(self) -> None:
        """Seal the closed origins whose closing is stable and whose end every member has."""
        claims = self._claims()
        if claims is None:
            return
        sealed = self._vectors.sealed
        ended = [
            (origin, stamp)
            for origin, stamp in self.closed.of(self._core.replica.group)
            if (seq := claims[0][origin])
            and sealed.get(origin) != seq
            and all(c[origin] == seq for c in claims)
        ]
        stable = self.stable_records() if ended else VersionVector()
        for origin, stamp in ended:
            if stamp.seq <= stable[stamp.origin]:
                sealed[origin] = claims[0][origin]


def _always() -> bool:
    return True


def _is_never(moment: float) -> bool:
    return False


def _whole(claims: Mapping[bytes, VersionVector | None]) -> list[VersionVector] | None:
    """Return the claims; None if one is missing."""
    found = [claim for claim in claims.values() if claim is not None]
    return found if len(found) == len(claims) else None


def former_origins(own: dict[bytes, int], current: list[bytes]) -> list[bytes]:
    """Return the origins of earlier runs among a node's own."""
    return [origin for origin in own if origin not in current]
