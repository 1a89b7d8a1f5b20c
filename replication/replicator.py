"""One node's whole peer logic, without a socket and without a clock of its own.

    frames in ──▶ on_messages ──▶ membership, clock     liveness and time
                                  dissemination         fresh writes
                                  sync, bodies          catching up
                                  vectors, stability    who covers what, what may be purged
                                  rejoin, verification
    messages out ◀── the queues of each `Link`

The driver (`node`) calls `on_messages` inside a tick of the store and `after_commit` once that tick is on disk, or
`after_failure` if it is not; what must not leave before the commit (relays, credits) is held until then.
`tick` is called outside of one, when it asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

from replication import messages as m
from replication.bodies import Bodies
from replication.clock import ClockGate
from replication.core import Core, Identity, Link
from replication.dissemination import Dissemination
from replication.dropped import DroppedValues
from replication.membership import Membership
from replication.options import Options
from replication.rejoin import Rejoin, Standing
from replication.roster import GONE, MEMBER, Roster
from replication.stability import Stability
from replication.sync import Syncs, is_below
from replication.topology import Network, Topology
from replication.vectors import Known, Vectors
from replication.verification import Verification
from replication.writers import Writers
from storage.changes import Kind, Lane, Replica, VersionVector

# Kinds of changes that this version understands; others are carried.
KINDS: Final = (Kind.VALUE, Kind.EXPIRY, Kind.FLOOR, Kind.NAMESPACE_FLOOR)

_MEMBERS: Final = "members"  # the name under which their addresses are kept
MEMBERS_KEPT_INTERVAL: Final = 1.0  # between two writes, of up to 60 KB
REMOVED_TEXT: Final = "this node was removed from the cluster; to come back it needs an empty data directory"


class Replicator:
    """The machines of one node, put together."""

    def __init__(
        self,
        identity: Identity,
        options: Options,
        replica: Replica,
        *,
        rng: Random,
        wall_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
        software: str = "",
        allowed: Sequence[Network] = (),
    ) -> None:
        self.core = core = Core(
            identity, options, replica, rng=rng, wall_ms=wall_ms, entropy=entropy, software=software
        )
        self._staged: list[Callable[[], None]] = []
        self.deferred: list[Callable[[], None]] = []  # to be done in the next tick of the store
        self.roster = Roster(core)
        self.clock = ClockGate(core, self.roster)
        self.membership = Membership(core, self.roster, self.clock)
        self.topology = Topology(core, self.roster, self.membership, allowed=allowed)
        self.bodies = Bodies(core)
        self.dissemination = Dissemination(
            core, self.clock, self.bodies, want_sync=self._want_sync, after_commit=self._staged.append
        )
        self.syncs = Syncs(core, self.clock, self.bodies, after_commit=self._staged.append)
        self.vectors = Vectors(core, self.dissemination)
        self.stability = Stability(core, self.roster, self.vectors)
        self.rejoin = Rejoin(core, self.roster, self.vectors, self.syncs)
        self.verification = Verification(core, self.clock, self.bodies, after_commit=self._staged.append)
        self.dropped = DroppedValues(core, self.bodies)
        self.writers = Writers(core)
        self._link_numbers = 0
        self._fresh_link: Link | None = None  # came up in the tick under way
        self._system_version = 0
        self._roster_versions = (0, 0)
        self._roster_due = 0.0
        self._members_kept_at = -math.inf
        self._kept_version = 0  # of the addresses, as they are kept
        self._settle_at = 0.0
        self.on_publish: Callable[[m.Publish], None] = _ignore_publish
        self._published = 0
        self._heard: dict[tuple[bytes, bytes], int] = {}  # (node, boot) -> last message number
        self._handlers: dict[type, Callable[[Link, Any], None]] = {
            m.Members: self._with_time(self.membership.on_members),
            m.Ping: self._with_time(self.membership.on_ping),
            m.Pong: self._with_time(self.membership.on_pong),
            m.PingRequest: self._with_time(self.membership.on_ping_request),
            m.PingResult: self._with_time(self.membership.on_ping_result),
            m.Bye: self._on_bye,
            m.Reject: self._on_reject,
            m.Vector: self.vectors.on_vector,
            m.Sealed: self.vectors.on_sealed,
            m.Push: self.dissemination.on_push,
            m.Pull: self.dissemination.on_pull,
            m.LinkMode: self.dissemination.on_link_mode,
            m.SyncRequest: self.syncs.on_request,
            m.SyncStart: self.syncs.on_start,
            m.SyncBatch: self.syncs.on_batch,
            m.SyncEnd: self.syncs.on_end,
            m.SyncFail: self.syncs.on_fail,
            m.Credit: self.syncs.on_credit,
            m.BodyGet: self.bodies.on_get,
            m.BodyData: self.bodies.on_data,
            m.BodyMiss: self.bodies.on_miss,
            m.DigestRequest: self.verification.on_digest_request,
            m.Digest: self.verification.on_digest,
            m.BucketRequest: self.verification.on_bucket_request,
            m.Bucket: self.verification.on_bucket,
            m.CellsRequest: self.verification.on_cells_request,
            m.Cells: self._on_cells,
            m.Publish: self._on_publish,
        }
        self._wire()

    def _with_time(self, handler: Callable[[Link, Any, float], None]) -> Callable[[Link, Any], None]:
        return lambda link, message: handler(link, message, self.core.now)

    def _wire(self) -> None:
        core = self.core
        core.on_data_cleared = self.syncs.drop_serving
        self.syncs.is_usable = self._is_usable
        self.syncs.on_served = self.dissemination.caught_up
        self.syncs.on_covered = self._on_covered
        self.syncs.on_need_full = self._on_need_full
        self.vectors.on_known = self._on_known
        self.vectors.on_rollback = self._on_rollback
        self.vectors.is_current = self._is_current
        self.roster.liveness = self.membership
        self.clock.on_jump = self._on_jump
        self.membership.on_duplicate = self._on_duplicate
        self.rejoin.on_change = self._on_standing
        self.rejoin.is_own_address = self.topology.is_own_address

    # --- the start

    def open(self, now: float, *, founds: bool) -> None:
        """Find out what this node is in its cluster. Inside a tick, before the first link.

        Raise `WrongCluster` or `HasOwnData` if the data directory does not fit.
        """
        self.core.now = now
        self.core.replica.set_purging(self.stability)
        self.vectors.recall()
        self.rejoin.open(founds=founds)
        self.membership.restore(self.core.replica.get_local(_MEMBERS) or b"")
        self.roster.changed()
        if self.rejoin.standing == Standing.READY:
            self.stability.close_origins()
        self.rejoin.begin()

    def hello(self, nonce: bytes) -> m.Hello:
        """Return what this node says first on a new connection."""
        core, options = self.core, self.core.options
        return m.Hello(
            version=m.PROTOCOL_VERSION,
            cluster=core.identity.cluster,
            node=core.identity.node,
            boot=core.identity.boot,
            nonce=nonce,
            wall_ms=core.wall_ms(),
            hlc=core.replica.hlc,
            incarnation=self.membership.incarnation,
            dialable=options.dialable,
            addresses=options.addresses,
            zone=options.zone,
            software=core.software,
            joining=self.rejoin.standing == Standing.JOINING,
            kinds=KINDS,
        )

    # --- links

    def admit(self, peer: m.Hello) -> m.Reject | None:
        """Decide about an authenticated peer; None lets it in."""
        if peer.node == self.core.identity.node:
            self.membership.on_own_id(peer)
            return m.Reject(
                m.Refusal.DUPLICATE_NODE, "this is the node itself, or a copy of its data directory"
            )
        if self.roster.is_gone(peer.node):
            return m.Reject(m.Refusal.REMOVED, REMOVED_TEXT)
        if self.rejoin.standing == Standing.REMOVED:
            return m.Reject(m.Refusal.CLOSING, "this node was removed from the cluster")
        return None

    def on_rejected(self, reject: m.Reject, now: float) -> None:
        """A peer refuses this node. Inside a tick."""
        self.core.now = now
        if reject.code == m.Refusal.REMOVED and self.rejoin.standing != Standing.REMOVED:
            self.core.log.error("this node was removed from the cluster")
            self.rejoin.enter(Standing.REMOVED)

    def link_up(
        self, peer: m.Hello, *, outgoing: bool, now: float, encode: Callable[[m.Message], bytes]
    ) -> Link | None:
        """Open a link with an authenticated and admitted peer; None if another one is the better. In a tick."""
        core = self.core
        core.now = now
        self._link_numbers += 1
        link = Link(peer, outgoing=outgoing, number=self._link_numbers, encode=encode)
        existing = core.links.get(peer.node)
        if existing is not None:
            if existing.boot == peer.boot and self.topology.choose(existing, link) is existing:
                return None
            existing.drop("replaced by a newer link")
            self.link_down(existing, now)
        core.links[peer.node] = self._fresh_link = link
        self._admit_linked()
        self.dissemination.on_link_up(link, eager=self.topology.is_partial)
        self.membership.on_link_up(link, now)
        self.topology.on_link_up(link, now)
        self.clock.on_link_up(link, now)
        self._staged.append(lambda: self.vectors.on_link_up(link))
        return link

    def link_down(self, link: Link, now: float) -> None:
        """Forget a link, with all that was under way on it. Inside a tick."""
        core = self.core
        core.now = now
        if core.links.get(link.node) is not link:
            return
        del core.links[link.node]
        self.dissemination.on_link_down(link)
        self.bodies.on_link_down(link)
        self.syncs.on_link_down(link)
        self.verification.on_link_down(link)
        self.vectors.on_link_down(link)
        self.membership.on_link_down(link, now)
        self.topology.on_link_down(link, now)
        self.clock.on_link_down(link, now)

    def _admit_linked(self) -> None:
        """Write down the linked nodes that are no members yet: they count from now on. Inside a tick."""
        if self.rejoin.standing != Standing.READY:
            return
        for link in self.core.links.values():
            if not self.roster.is_member(link.node) and self.roster.admit(link.node, self.core.now):
                self.stability.reset()

    def _is_usable(self, link: Link) -> bool:
        """Tell whether a peer may serve this node: it is whole, and not from a past that was purged here."""
        known = self.vectors.known.get(link.node)
        return (
            known is not None
            and known.boot == link.boot
            and known.ready
            and not is_below(known.vector, self.core.replica.floors())
        )

    def _on_known(self, link: Link, known: Known) -> None:
        """A peer has told its vector: see whether the two may push to each other, and who lacks what."""
        if not known.is_complete:
            return
        if self._is_absurd(known):
            self.dissemination.set_ready(link, ready=False)
            return
        replica = self.core.replica
        self.rejoin.on_peer_horizon(known)
        standing = self.rejoin.standing
        whole = standing in {Standing.READY, Standing.LEAVING} and known.ready
        ready = whole and self._is_usable(link) and not is_below(replica.vector(), known.floors)
        flow = self.dissemination.flows.get(link.node)
        was_ready = flow is not None and flow.ready
        self.dissemination.set_ready(link, ready=ready)
        if standing == Standing.READY and known.ready and is_below(replica.vector(), known.floors):
            self.rejoin.on_need_full(link)
        elif ready and not was_ready:
            self.syncs.want(link)  # on connect
        self._check_clone(known)

    def _on_need_full(self, link: Link) -> None:
        """A peer says that this node lacks what was purged: believe it if that still holds.

        The request may have been old when it came: this node has covered more since, others know that and have
        purged. Then the next request will do.
        """
        known = self.vectors.known.get(link.node)
        if known is not None and is_below(self.core.replica.vector(), known.floors):
            self.rejoin.on_need_full(link)

    def _is_absurd(self, known: Known) -> bool:
        """Tell whether a peer claims to have purged what it does not cover, or what is still to be written.

        Following such a claim would take this node out of service, or move its clock for good.
        """
        ahead = self.clock.held_seconds(known.horizon, self.core.wall_ms())
        return ahead > 0 or is_below(known.vector, known.floors)

    def _check_clone(self, known: Known) -> None:
        """Rotate if a peer has more of this node's own writes than this node has made (R1.3 a)."""
        replica = self.core.replica
        for lane in (Lane.SMALL, Lane.BULK):
            origin = replica.origin(lane)
            if origin is not None and known.vector[origin] > replica.covered(origin):
                self.core.rotate_soon("a peer has more of this node's own writes than this node")

    def _is_current(self, node: bytes, boot: bytes) -> bool:
        """Tell whether a vector that is passed on is worth to be kept: a member's, and of its latest boot if known."""
        record = self.membership.get(node)
        return self.roster.is_member(node) and (record is None or record.boot == boot)

    def _on_jump(self, seconds: float) -> None:
        self.core.rotate_soon(f"the clock has jumped by {seconds:.1f} s")

    def _on_duplicate(self, other: m.MemberRecord) -> None:
        self.core.rotate_soon("this node runs twice")

    def _on_rollback(self, node: bytes) -> None:
        self.stability.reset()

    def _want_sync(self, link: Link) -> None:
        self.syncs.want(link)

    def _on_covered(self, raised: list[bytes], granted: VersionVector | None) -> None:
        """A sync session is about to grant what it has brought; a full one `granted`. Inside its tick."""
        if granted is not None:
            self.rejoin.on_covered(granted)
        self.dissemination.unpark_all()
        self._staged.append(lambda: self._after_covered(raised))

    def _after_covered(self, raised: list[bytes]) -> None:
        for origin in raised:
            self.dissemination.advanced(origin)
        self.vectors.tell_all()
        self.deferred.append(self._reconsider)

    def _reconsider(self) -> None:
        """Look again at what each peer may do: this node's own vector or standing has changed. Inside a tick."""
        for link in list(self.core.links.values()):
            known = self.vectors.known.get(link.node)
            if known is not None and known.boot == link.boot:
                self._on_known(link, known)

    def _on_standing(self, standing: Standing) -> None:
        whole = standing in {Standing.READY, Standing.LEAVING}
        self.stability.may_purge = whole
        self.verification.enabled = whole
        if standing == Standing.REMOVED:
            for link in list(self.core.links.values()):
                link.close("this node was removed from the cluster")
        self.deferred.append(self._admit_linked)
        self.deferred.append(self._reconsider)
        self._staged.append(self.vectors.tell_all)

    # --- messages

    def on_messages(self, link: Link, messages: Sequence[m.Message], now: float) -> None:
        """Handle what a peer has sent. Inside a tick; then `after_commit`, or `after_failure`."""
        self.core.now = now
        for message in messages:
            if self.core.links.get(link.node) is not link or link.dropped is not None:
                return
            handler = self._handlers.get(type(message))
            if handler is None:
                link.drop(f"a message out of place: {type(message).__name__}")
                return
            handler(link, message)

    def after_commit(self) -> None:
        """Do what had to wait for the tick's commit."""
        self._fresh_link = None
        self.rejoin.committed()
        if self.core.replica.system_version != self._system_version:
            self._cluster_changed()
        if self.core.replica.has_fresh:
            self.dissemination.committed(self.core.now)
        while self._staged:
            staged, self._staged[:] = list(self._staged), []
            for action in staged:
                action()

    def after_failure(self) -> None:
        """The tick's commit has failed: nothing of it happened, so nothing of it leaves."""
        self._staged.clear()
        self.roster.changed()
        self.rejoin.reverted()
        self._kept_version = -1
        for link in list(self.core.links.values()):
            link.drop("the store takes no writes")
        fresh, self._fresh_link = self._fresh_link, None
        if fresh is not None:  # nobody serves it, so nobody sees that it ends
            self.link_down(fresh, self.core.now)

    def _on_bye(self, link: Link, message: m.Bye) -> None:
        self.membership.on_bye(link, message, self.core.now)
        self.topology.on_bye(link, message, self.core.now)
        link.close(f"the peer says goodbye: {message.reason}")

    def _on_reject(self, link: Link, message: m.Reject) -> None:
        self.on_rejected(message, self.core.now)
        link.close(f"the peer refuses: {message.text}")

    def _on_cells(self, link: Link, cells: m.Cells) -> None:
        """Take values in that were asked for: by a verification, or by number 0 for those that lost their body."""
        if cells.number:
            self.verification.on_cells(link, cells)
        else:
            self.dropped.on_cells(link, cells)

    # --- local writes, and time

    def committed(self, now: float) -> None:
        """Take note that a tick of clients has been committed."""
        self.dissemination.committed(now)

    def _cluster_changed(self) -> None:
        """Take note that records of the cluster have changed, here or by a peer.

        Most are about runs and origins: then the members, of whom there may be hundreds, need not be read again.
        """
        replica = self.core.replica
        self._system_version = replica.system_version
        versions = (replica.system_version_of(MEMBER), replica.system_version_of(GONE))
        if versions == self._roster_versions:
            return
        self._roster_versions = versions
        self.roster.changed()
        for link in list(self.core.links.values()):
            if self.roster.is_removed(link.node):  # who leaves hands over what it has, and goes by itself
                link.send(m.Reject(m.Refusal.REMOVED, REMOVED_TEXT))
                link.close("the peer was removed from the cluster")

    def tick(self, now: float) -> float:
        """Do what is due in all machines, outside a tick of the store; return when to be called again."""
        core = self.core
        core.now = now
        dues = (
            self.clock.tick(now),
            self.membership.tick(now),
            self.topology.tick(now),
            self.dissemination.tick(now),
            self.syncs.tick(now),
            self.vectors.tick(now),
            self.stability.tick(now),
            self.verification.tick(now),
            self.bodies.tick(now),
            self.dropped.tick(now),
        )
        return min(dues)

    def needs_tick_of_store(self, now: float) -> bool:
        """Tell whether `tick_in_store` has something to do: most of the time it has not."""
        return bool(
            self.deferred
            or self.dissemination.held
            or self.bodies.stalled(now)
            or self.rejoin.standing in {Standing.JOINING, Standing.REJOINING}
            or now >= self._roster_due
            or (self.rejoin.standing == Standing.READY and self.writers.is_due())
            or self._may_keep_members(now)
            or self._may_settle(now)
        )

    def tick_in_store(self, now: float) -> None:
        """Do what may write. Inside a tick of the store."""
        self.core.now = now
        if self._may_keep_members(now):
            self._keep_members(now)
        if self.rejoin.standing == Standing.READY:
            self.writers.record()
        deferred, self.deferred = self.deferred, []
        for action in deferred:
            action()
        self.dissemination.release_held()
        if self._may_settle(now):
            self._settle(now)
        self.bodies.tick_in_store(now)
        self.rejoin.tick(now)
        self._roster_due = self.roster.tick(now)

    def _may_settle(self, now: float) -> bool:
        """Tell whether it is time to settle the clock value, and somebody hears of it; not with a clock that is wrong."""
        return (
            now >= self._settle_at
            and bool(self.core.links)
            and self.rejoin.standing in {Standing.READY, Standing.LEAVING}
            and self.clock.refusal(now, self.core.wall_ms()) is None
        )

    def _settle(self, now: float) -> None:
        """Promise to write nothing more up to the present clock value. It also syncs the disk now and then."""
        self._settle_at = now + self.core.options.settle_interval
        self.core.replica.observe(self.core.wall_ms() << 16)
        hlc = self.vectors.settle()
        self._staged.append(lambda: self.vectors.settling(hlc))
        self._staged.append(lambda: self.core.make_durable(self.vectors.settled))

    def _may_keep_members(self, now: float) -> bool:
        """Tell whether addresses of members have changed, and the last write of them is not too recent."""
        is_changed = self._kept_version != self.membership.addresses_version
        return is_changed and now >= self._members_kept_at + MEMBERS_KEPT_INTERVAL

    def _keep_members(self, now: float) -> None:
        """Remember the members' addresses for the next start.

        Soon after they have changed: the addresses to join may be dead by then, and two members that each forgot where
        the other is never meet again.
        """
        self._members_kept_at = now
        self._kept_version = self.membership.addresses_version
        stored = self.membership.export()
        if stored != self.core.replica.get_local(_MEMBERS):
            self.core.replica.put_local(_MEMBERS, stored)

    def on_dial_failed(self, address: str, node: bytes | None, now: float) -> None:
        """A connection could not be made."""
        self.core.now = now
        self.topology.on_dial_failed(address, node, now)
        self.membership.on_dial_failed(node, now)

    # --- publishing

    def publish(self, channel: bytes, payload: bytes, *, sharded: bool) -> None:
        """Send a message to the subscribers of all linked nodes; best effort."""
        self._published += 1
        identity = self.core.identity
        message = m.Publish(identity.node, identity.boot, self._published, channel, payload, sharded)
        self._spread(message, None)

    def _spread(self, message: m.Publish, source: Link | None) -> None:
        frame: bytes | None = None
        for flow in self.dissemination.flows.values():
            link = flow.link
            if (
                link is source
                or link.node == message.node
                or link.data_bytes > self.core.options.queue_bytes_max
            ):
                continue
            if frame is None:
                frame = link.encode(message)
            link.send_frame(frame)

    def _on_publish(self, link: Link, message: m.Publish) -> None:
        sender = (message.node, message.boot)
        if message.number <= self._heard.get(sender, 0):
            return
        if sender not in self._heard and len(self._heard) > 4096:
            self._heard.pop(next(iter(self._heard)))
        self._heard[sender] = message.number
        self.on_publish(message)
        if self.topology.is_partial:
            self._spread(message, link)

    # --- questions

    def covering(self, vector: Mapping[bytes, int]) -> int:
        """Return how many other members claim to cover `vector`."""
        members = self.roster.members()
        return sum(node in members for node in self.vectors.covering(vector))

    def is_covered_by_all(self, vector: Mapping[bytes, int]) -> bool:
        """Tell whether every other member claims to cover `vector`."""
        covering = self.vectors.covering(vector)
        return all(node in covering for node in self.roster.members() if node != self.core.identity.node)

    def refusal(self, now: float) -> str | None:
        """Return why clients may not write now, as an error text; None if they may."""
        standing = self.rejoin.standing
        if standing in {Standing.JOINING, Standing.REJOINING}:
            return "LOADING this node is joining the cluster and catches up"
        if standing == Standing.REMOVED:
            return "READONLY this node was removed from the cluster"
        if standing == Standing.LEAVING:
            return "READONLY this node leaves the cluster"
        return self.membership.refusal() or self.clock.refusal(now, self.core.wall_ms())


def _ignore_publish(message: m.Publish) -> None:
    """Stand in for the daemon's subscribers."""
