"""Becoming a whole member: the first time, and again after too long a time away.

    NEW ──────▶ JOINING ──full sync──▶ READY
                                        │  a peer says that this node is below its purge floors
                REJOINING ◀─────────────┘
                    └──full sync, stale writes──▶ READY

If all that remain of the cluster are rejoining, restored from backups, say, nobody is whole to sync from. Then one that
is below the floors of the fewest, nobody's as a rule, takes what it has for the whole.

If those that are whole have never seen what this node has purged, it cannot sync from them before it gives way (`parting`).

A node that is not ready neither pushes nor serves, and takes no writes of clients. The state is kept in the data
directory, so a restart in the middle goes on.

A node has a standing in each group that it carries. It is new in one that it has begun to carry, whatever it is in the
common group. The first that carries a group has nobody to sync from; that it is the first is what `is_first` finds out. Of
members that begin at once, and know of each other, one is whole first, as of those that rejoin. What a node wrote there
before it had peers is in namespaces of its own, which nobody else has ever seen.

*Stale writes* are dots of this node's earlier origins that no member covers, found on the way back: they were
made beside a history that has gone on without them, and marks of deletion that should have met them may be
purged. `stale_writes` decides: written to a file and undone (the default), written anew as they stand, or undone.
Undone means a deletion with the least stamp above the write's own, so that whoever has the old write drops
exactly that and nothing newer.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from replication.asking import Stretch
from replication.core import Core, Link
from replication.lasting import Lasting
from replication.parting import Parting
from replication.stability import former_origins
from replication.sync import is_below
from replication.vectors import Known, Vectors
from storage.changes import (
    CLUSTER_NAMESPACE,
    COMMON_GROUP,
    Change,
    Kind,
    Stamp,
    VersionVector,
)

if TYPE_CHECKING:
    from replication.asking import Walk
    from replication.carriers import Participants
    from replication.sync import Syncs

_STATE: Final = "member_state"
_AHEAD: Final = "ahead"  # the stretch that a node which is whole has still to catch up with
# The local setting that makes a data directory a member of a cluster: the cluster's 16 bytes.
CLUSTER_SETTING: Final = "cluster_id"


class Standing(enum.StrEnum):
    """What this node is in its cluster."""

    JOINING = "joining"
    REJOINING = "rejoining"
    READY = "ready"
    LEAVING = "leaving"
    REMOVED = "removed"

    @property
    def is_whole(self) -> bool:
        """Whether all records are here, as far as they count on other members."""
        return self in {Standing.READY, Standing.LEAVING}

    @property
    def is_catching_up(self) -> bool:
        """Whether the node does not know what the cluster knows: it serves no reads either."""
        return self in {Standing.JOINING, Standing.REJOINING}


class Settled(enum.Enum):
    """What a node that has caught up undoes of the writes that the others have not got."""

    ALL = enum.auto()  # own ones that nobody has seen, and strange ones
    STRANGE = enum.auto()  # those beneath the purge horizon, whoever wrote them
    NOTHING = enum.auto()


class Rejoin:
    """The standing of this node, and the way to `READY`."""

    def __init__(self, core: Core, participants: Participants, vectors: Vectors, syncs: Syncs) -> None:
        self._core = core
        self._participants = participants
        self._vectors = vectors
        self._syncs = syncs
        self.standing = Standing.READY
        self._before: Standing | None = None  # what it was when the tick under way began, if it has changed
        self.is_own_address: Callable[[str], bool] = _is_none  # set by the replicator
        self.on_begin: Callable[[], None] = _nothing  # this node takes what it has for the whole
        self.is_first: Callable[[], bool] = _is_not  # whether nobody else can ever have held anything
        self.on_change: Callable[[Standing], None] = _ignore
        # Keeps writes that are about to be undone: (stamp, change) each, oldest first.
        self.dead_letter: Callable[[list[tuple[Stamp, Change]]], None] = _no_dead_letters
        self._alone = Lasting()
        self.parting = Parting(core, participants, vectors)
        syncs.on_walked, syncs.may_end = self.parting.delete_again, self.parting.may_end
        self._ahead: Stretch | None = None  # who covers more, at the horizon of this node
        syncs.may_serve_all = self._bears_horizon

    def open(self, *, founds: bool) -> None:
        """Find out what this node is. Inside a tick, before anything else; `founds`: nobody to join."""
        replica = self._core.replica
        stored = replica.get_local(_STATE)
        cluster = replica.get_local(CLUSTER_SETTING)
        if cluster is not None and cluster != self._core.identity.cluster:
            raise WrongCluster(cluster.hex(), self._core.identity.cluster.hex())
        if stored is not None:
            self.standing = Standing(stored.decode())
            ahead = replica.get_local(_AHEAD)
            self._ahead = None if ahead is None else Stretch.decode(ahead)
            return
        is_common = replica.group == COMMON_GROUP
        if is_common and not founds and len(replica.vector()):
            raise HasOwnData
        self._set(Standing.READY if founds else Standing.JOINING)
        replica.put_local(CLUSTER_SETTING, self._core.identity.cluster)
        if founds:
            self._participants.admit(self._core.identity.node, self._core.now)

    def _set(self, standing: Standing) -> None:
        if self._before is None:
            self._before = self.standing
        self.standing = standing
        self._core.replica.put_local(_STATE, standing.encode())

    def begin(self) -> None:
        """Apply the standing to the other machines, at the start and after each change."""
        self._vectors.ready = self._syncs.may_serve = self.standing.is_whole
        if self.standing.is_catching_up:
            self._syncs.want_full()
        self.on_change(self.standing)

    def enter(self, standing: Standing) -> None:
        """Change the standing. Inside a tick."""
        if standing == self.standing:
            return
        self._core.log.info("standing changes", before=str(self.standing), now=str(standing))
        self._set(standing)
        self.begin()

    def committed(self) -> None:
        """Take note that the tick is on disk, and the standing with it."""
        self._before = None

    def reverted(self) -> None:
        """Be what the data directory says: a tick that may have changed the standing was not committed."""
        before, self._before = self._before, None
        if before is not None:
            self.standing = before
        if before is not None or self.standing.is_catching_up:
            self.begin()  # the end of a full sync may have been in that tick

    def on_need_full(self, link: Link) -> None:
        """A peer has purged what this node lacks. Inside a tick."""
        if self.standing == Standing.READY:
            self._core.log.warning("this node was away too long: it syncs anew", peer=link.node.hex()[:8])
            self._core.rotate_soon("this node comes back from the past")
            self.enter(Standing.REJOINING)

    def on_covered(self, walk: Walk, settled: Settled) -> None:
        """A full sync has ended well and granted a vector. Inside its tick."""
        if self.standing == Standing.REJOINING:
            stale = dict(self._stale(None, walk.seen)) if settled is Settled.ALL else {}
            strange = {} if settled is Settled.NOTHING else dict(self._strange(walk))
            self._settle(list({**stale, **strange}.items()))
        if self.standing.is_catching_up:
            self._ahead = walk.ahead()
            self._core.replica.put_local(_AHEAD, None if self._ahead is None else self._ahead.encode())
            self.parting.end()
            self.enter(Standing.READY)

    def _bears_horizon(self) -> bool:
        """Tell whether this node covers all that was written up to its purge horizon.

        After a walk over two servers, one far behind, it does so only when it has caught up with the other. Who synced
        fully from it before would take an older write of a member for one from the past.
        """
        ahead = self._ahead
        if ahead is not None and (
            self._core.replica.vector().covers(ahead.vector) or not self._participants.is_member(ahead.node)
        ):
            self._ahead = None
        return self._ahead is None

    def on_peer_horizon(self, known: Known) -> None:
        """Settle own unsent writes that are beneath a horizon just learned, before anything is pushed (9.4 c)."""
        is_news = known.horizon > self._core.replica.horizon()
        if is_news and self.standing == Standing.READY and self._has_heard_all():
            self._settle(self._stale(known.horizon, VersionVector()))

    def _has_heard_all(self) -> bool:
        own = self._core.identity.node
        return all(node in self._vectors.known for node in self._participants.members() if node != own)

    def tick(self, now: float) -> None:
        """Be whole without a sync if all others wait as well, and this node is the one to end that. In a tick."""
        if self.standing == Standing.JOINING and self.is_first():
            self._be_whole(now)
            return
        if self.standing == Standing.REJOINING:
            self.parting.tick(now)
        may_end = {Standing.JOINING: self._may_found, Standing.REJOINING: self._may_stay}.get(self.standing)
        if self._alone.lasts(may_end is not None and may_end(), now, 2 * self._core.options.start_gate):
            self._core.log.warning("all wait for each other: this node begins", standing=str(self.standing))
            self._be_whole(now)

    def _be_whole(self, now: float) -> None:
        """Take what is here for all that there is."""
        self._syncs.walk = None
        self.parting.end()
        self.on_begin()
        self._participants.admit(self._core.identity.node, now)
        self.enter(Standing.READY)

    def _may_stay(self) -> bool:
        """Tell whether every other member is linked and waits, and this node is the least of those that have seen most die."""
        own = self._core.identity.node
        others = [node for node in self._participants.remaining() if node != own]
        known = [self._vectors.known.get(node) for node in others if node in self._core.links]
        waiting = [one for one in known if one is not None and one.is_complete and not one.ready]
        if len(waiting) < len(others):
            return False
        replica = self._core.replica
        held = replica.vector().merged(replica.uncovered())  # more than is covered, after a cut
        vectors = {own: held, **{one.node: one.vector.merged(one.have) for one in waiting}}
        floors = [replica.floors(), *(one.floors for one in waiting)]
        lacking = {node: sum(is_below(vector, one) for one in floors) for node, vector in vectors.items()}
        return min(lacking, key=lambda node: (lacking[node], node)) == own

    def _may_found(self) -> bool:
        """Tell whether every address to join was reached, none of them is ready, and this node is the least.

        A group of namespaces has no addresses to join: there it is as with those that rejoin, if there are others.
        """
        if self._core.replica.group != COMMON_GROUP:
            return len(self._participants.remaining()) > 1 and self._may_stay()
        links = list(self._core.links.values())
        others = [address for address in self._core.options.join if not self.is_own_address(address)]
        if len(self._core.replica.vector()) or len(links) < len(others) or not links:
            return False
        known = [self._vectors.known.get(link.node) for link in links]
        return all(one is not None and not one.ready for one in known) and all(
            link.peer.joining and self._core.identity.node < link.node for link in links
        )

    # --- stale writes

    def _settle(self, stale: list[tuple[Stamp, Change]]) -> None:
        """Treat writes that must not be taken as they are by the policy."""
        if not stale:
            return
        policy = self._core.options.stale_writes
        self._core.log.warning("writes that nobody has seen are settled", count=len(stale), policy=policy)
        self._core.count("stale_writes_total", len(stale))
        if policy == "deadletter":
            self.dead_letter(stale)
        replica = self._core.replica
        if policy == "replay":  # undone by being written over
            replica.touch([change.place for _, change in stale])
            return
        for stamp, change in stale:
            replica.void(change.place, stamp)

    def _stale(self, horizon: int | None, seen: VersionVector) -> list[tuple[Stamp, Change]]:
        """Return own writes that no member covers, up to `horizon` or all. `seen`: what a server did, which tells that later."""
        replica = self._core.replica
        for known in self._vectors.known.values():
            seen = seen.merged(known.vector)
        own = {
            origin: seen[origin]
            for origin in former_origins(replica.own_origins(), [])
            if seen[origin] < replica.vector()[origin]
        }
        if not own:
            return []
        return [
            found
            for found in self._written_after({**replica.vector(), **own}, horizon)
            if found[0].origin in own
        ]

    def _strange(self, walk: Walk) -> list[tuple[Stamp, Change]]:
        """Return what the server has not covered though it lies beneath its purge horizon, whoever wrote it.

        Another node that came back from the past has written it, and has met this one before either met the others.
        Of each place its own server alone counts: who has purged up to a clock value covers what all wrote before that. This
        node may have learned a greater one from a member that covers more, and another server may have heard of the
        write since, and seen it die.
        """
        assert walk.vector is not None
        return [found for found in self._written_after(walk.vector, walk.horizon) if walk.is_strange(*found)]

    def _written_after(self, vector: Mapping[bytes, int], horizon: int | None) -> list[tuple[Stamp, Change]]:
        """Return the values beyond `vector`, up to `horizon` or all."""
        feed = self._core.replica.feed()
        try:
            return [
                (Stamp(change.hlc, run.origin, change.seq), change)
                for run in feed.runs_after(vector)
                for change in run.changes
                if (horizon is None or change.hlc <= horizon) and _is_settled(change)
            ]
        finally:
            feed.close()


def _is_settled(change: Change) -> bool:
    """Tell whether a stale change is undone: a value is.

    A deletion or an expiry brings nothing back; undoing an expiry with a deletion would take the value with it,
    which others may hold for good. Records of the cluster are never deleted, so nothing can have been purged
    that should have met them.
    """
    return change.kind == Kind.VALUE and not change.place.startswith(CLUSTER_NAMESPACE)


class WrongCluster(Exception):
    """The data directory belongs to another cluster than the credential."""

    def __init__(self, stored: str, wanted: str) -> None:
        super().__init__(
            f"the data belongs to cluster {stored}, the credential is for {wanted}; use that cluster's credential, "
            "an empty data directory, or make it a new cluster's with `kvd cluster reseed`"
        )


class HasOwnData(Exception):
    """A data directory that was never a member's cannot join with what it holds."""

    def __init__(self) -> None:
        super().__init__(
            "the data directory holds data that no member of the cluster knows; join with an empty one and import "
            "the data afterwards, or start this node without --join and let the others join it"
        )


def _is_none(address: str) -> bool:
    return False


def _nothing() -> None:
    """Stand in for a callback that the exchange sets."""


def _is_not() -> bool:
    return False


def _ignore(standing: Standing) -> None:
    """Stand in for a callback that the replicator sets."""


def _no_dead_letters(stale: list[tuple[Stamp, Change]]) -> None:
    raise RuntimeError("nobody keeps dead letters")
