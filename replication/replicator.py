"""One node's whole peer logic, without a socket and without a clock of its own.

    frames in ──▶ on_messages ──▶ membership, clock     liveness and time
                                  roster, topology      who belongs to the cluster, who is linked
                                  exchange              the records, of each group
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
from replication.carriers import CarriedGroups, Carriers, Participants
from replication.clock import ClockGate
from replication.core import Core, Identity, Link
from replication.cuts import Cuts
from replication.dissemination import Dissemination
from replication.exchange import Exchange
from replication.membership import Membership
from replication.options import Options
from replication.rejoin import Rejoin, Standing
from replication.roster import GONE, MEMBER, Roster
from replication.stability import Stability
from replication.sync import Syncs
from replication.topology import Network, Topology
from replication.vectors import Vectors
from replication.verification import Verification
from replication.voiding import Voiding
from replication.writers import Writers
from storage.changes import COMMON_GROUP, Kind, Replica, group_of

# Kinds of changes that this version understands; others are carried.
KINDS: Final = (Kind.VALUE, Kind.EXPIRY, Kind.FLOOR, Kind.NAMESPACE_FLOOR)

_MEMBERS: Final = "members"  # the name under which their addresses are kept
MEMBERS_KEPT_INTERVAL: Final = 1.0  # between two writes, of up to 60 KB
REMOVED_TEXT: Final = "this node was removed from the cluster; to come back it needs an empty data directory"


class Replicator:
    """The machines of one node, put together: those about nodes here, those about records in an `Exchange` a group."""

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
        self.carried = CarriedGroups(core)
        self.clock = ClockGate(core, self.roster)
        self.membership = Membership(core, self.roster, self.clock)
        self.topology = Topology(core, self.roster, self.membership, allowed=allowed)
        self.writers = Writers(core)
        self.cuts = Cuts(core)
        self.exchanges: dict[int, Exchange] = {}
        self.voiding = Voiding(core, self.cuts, self.clock, self.exchanges)
        self.common = self.exchanges[COMMON_GROUP] = self._exchange(core, self.roster)
        self._fresh_exchanges: list[int] = []  # opened in the tick under way
        self._link_numbers = 0
        self._fresh_link: Link | None = None  # came up in the tick under way
        self._offered: dict[tuple[int, int], None] = {}  # (link number, group): this node has sent GroupOpen
        self._opened: dict[tuple[int, int], None] = {}  # the peer has
        self._system_version = 0
        self._roster_versions = (0, 0, 0)
        self._roster_due = 0.0
        self._members_kept_at = -math.inf
        self._kept_version = 0  # of the addresses, as they are kept
        self.on_publish: Callable[[m.Publish], None] = _ignore_publish
        self._published = 0
        self._heard: dict[tuple[bytes, bytes], int] = {}  # (node, boot) -> last message number
        self._handlers: dict[type, Callable[[Link, Any], None]] = {
            **self.common.handlers,
            m.Members: self._with_time(self.membership.on_members),
            m.Ping: self._with_time(self.membership.on_ping),
            m.Pong: self._with_time(self.membership.on_pong),
            m.PingRequest: self._with_time(self.membership.on_ping_request),
            m.PingResult: self._with_time(self.membership.on_ping_result),
            m.Bye: self._on_bye,
            m.Reject: self._on_reject,
            m.Grouped: self._on_grouped,
            m.Publish: self._on_publish,
        }
        self._wire()

    def _exchange(self, core: Core, participants: Participants) -> Exchange:
        return Exchange(
            core,
            participants,
            self.clock,
            self.cuts,
            self.voiding,
            staged=self._staged,
            deferred=self.deferred,
        )

    def _with_time(self, handler: Callable[[Link, Any, float], None]) -> Callable[[Link, Any], None]:
        return lambda link, message: handler(link, message, self.core.now)

    def _wire(self) -> None:
        self.core.on_data_cleared = self._on_data_cleared
        self.common.is_partial_view = lambda: self.topology.is_partial
        self.common.boot_of = self._boot_of
        self.common.on_standing = self._on_standing
        self.common.vectors.cuts = self.cuts.told
        self.common.vectors.on_cuts = self.cuts.on_told
        self.common.rejoin.is_own_address = self.topology.is_own_address
        self.roster.liveness = self.membership
        self.clock.on_jump = self._on_jump
        self.membership.on_duplicate = self._on_duplicate
        self.topology.carriers = self._other_carriers
        self.writers.others = lambda: [exchange.core.replica for exchange in self.others()]

    # The machines of the common group.

    @property
    def dissemination(self) -> Dissemination:
        return self.common.dissemination

    @property
    def syncs(self) -> Syncs:
        return self.common.syncs

    @property
    def vectors(self) -> Vectors:
        return self.common.vectors

    @property
    def stability(self) -> Stability:
        return self.common.stability

    @property
    def rejoin(self) -> Rejoin:
        return self.common.rejoin

    @property
    def verification(self) -> Verification:
        return self.common.verification

    @property
    def bodies(self) -> Bodies:
        return self.common.bodies

    # --- the start

    def open(self, now: float, *, founds: bool) -> None:
        """Find out what this node is in its cluster. Inside a tick, before the first link.

        Raise `WrongCluster`, `HasOwnData` or `GroupGivenUp` if the data directory does not fit.
        """
        self.core.now = now
        self.carried.check(self.core.options.groups)
        self.common.open(founds=founds)
        self.membership.restore(self.core.replica.get_local(_MEMBERS) or b"")
        self.roster.changed()
        self.common.begin()
        if self._may_open_groups(now):
            self._open_groups()

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
            groups=options.groups,
        )

    # --- groups

    def _may_open_groups(self, now: float) -> bool:
        """Tell whether there are groups that this node carries and does not exchange yet: it has to be a member first.

        One that was about to leave when it stopped still has to hand them over.
        """
        groups = self.core.options.groups
        if len(self.exchanges) > len(groups) or not self.rejoin.standing.is_whole:
            return False
        known = self.carried.of(self.core.identity.node)
        return self._may_record(now) or all(group in known for group in groups)

    def _open_groups(self) -> None:
        """Begin to exchange the other groups that this node carries. Inside a tick."""
        groups = [group for group in self.core.options.groups if group not in self.exchanges]
        self.carried.record(groups)
        for group in groups:
            self._open_group(group)
        self._staged.append(self._offer_groups)

    def _open_group(self, group: int) -> None:
        exchange = self._exchange(self.core.of_group(group), self._carriers(group))
        exchange.is_partial_view = lambda: (
            self.topology.is_partial
            and len(exchange.participants.remaining()) > self.core.options.full_mesh_max
        )
        exchange.boot_of = self._boot_of
        exchange.rejoin.dead_letter = self.rejoin.dead_letter
        exchange.rejoin.is_first = lambda: self._is_first(exchange)
        exchange.stability.stable_records = self.stability.stable
        exchange.stability.closed = self.stability.closed
        exchange.stability.knows_members = self._is_known_to_carry
        exchange.vectors.carriers = lambda: tuple(exchange.participants.members())
        self.exchanges[group] = exchange
        self._fresh_exchanges.append(group)
        exchange.open(founds=False)
        exchange.begin()

    def _is_first(self, exchange: Exchange) -> bool:
        """Tell whether no other member carries a group, nor ever did.

        A majority of the members has on disk that this node does, and this node has all that they had then. Of two nodes
        that find this out, there is a member in both majorities, so that one of the two hears of the other. Unless their
        members are not the same, because halves of the cluster let others in, or one of them is from an old backup: then
        both are whole, and are of one mind as soon as they meet, for none has purged anything (`_is_known_to_carry`).
        """
        own = self.core.identity.node
        stamp = self.carried.recorded_at(own)
        members = self.roster.remaining()
        if stamp is None or exchange.participants.remaining() != [own]:
            return False
        known = self.vectors.known
        claims = [known[node].vector for node in members if node in known and known[node].is_complete]
        having = [
            claim for claim in (self.core.replica.durable(), *claims) if claim[stamp.origin] >= stamp.seq
        ]
        vector = self.core.replica.vector()
        return 2 * len(having) > len(members) and all(vector.covers(claim) for claim in having)

    def _is_known_to_carry(self) -> bool:
        """Tell whether all members have the record of what this node carries, and this node all that they had then.

        Then whoever is let in later hears of it before it can be the first that carries a group.
        """
        stamp = self.carried.recorded_at(self.core.identity.node)
        return stamp is not None and self.stability.covers(stamp.origin, stamp.seq)

    def _carriers(self, group: int) -> Carriers:
        return Carriers(group, self.core.identity.node, self.roster, self.carried)

    def _other_carriers(self) -> list[list[bytes]]:
        """Return the others that carry each of this node's groups, beside the common one."""
        own = self.core.identity.node
        groups = [exchange.participants.remaining() for exchange in self.others()]
        return [[node for node in nodes if node != own] for nodes in groups]

    def others(self) -> list[Exchange]:
        """Return the exchanges of the groups that not all nodes carry."""
        return [exchange for group, exchange in self.exchanges.items() if group != COMMON_GROUP]

    def _offer_groups(self) -> None:
        """Say on each link of which groups this node speaks there: those that the peer carries, too."""
        for link in self.core.links.values():
            for exchange in self.others():
                key = (link.number, exchange.group)
                if key not in self._offered and self._may_speak(link, exchange.group):
                    self._offered[key] = None
                    link.send(m.Grouped(exchange.group, m.GroupOpen()))
                    self._open_link(link, exchange)

    def _may_speak(self, link: Link, group: int) -> bool:
        """Tell whether a peer carries a group, and is waited for in it from now on."""
        return group in link.peer.groups and group in self.carried.of(link.node)

    def _open_link(self, link: Link, exchange: Exchange) -> None:
        """Speak about a group, if both sides have offered it."""
        key = (link.number, exchange.group)
        if key in self._offered and key in self._opened and link.node not in exchange.core.links:
            exchange.link_up(link.of_group(exchange.group), self.core.now)

    def _on_grouped(self, link: Link, grouped: m.Grouped) -> None:
        """Handle a message about a group that not all nodes carry."""
        message, exchange = grouped.message, self.exchanges.get(grouped.group)
        if message is None:
            return
        if isinstance(message, m.GroupOpen):
            if grouped.group in self.core.options.groups:
                self._opened[link.number, grouped.group] = None
            if exchange is not None:
                self._open_link(link, exchange)
            return
        handler = None if exchange is None else exchange.handlers.get(type(message))
        own = None if exchange is None else exchange.core.links.get(link.node)
        if exchange is None or handler is None or own is None:
            link.drop(f"a message about group {grouped.group} out of place: {type(message).__name__}")
            return
        exchange.core.now = self.core.now
        handler(own, message)

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
        self.common.link_up(link, now)
        self.membership.on_link_up(link, now)
        self.topology.on_link_up(link, now)
        self.clock.on_link_up(link, now)
        self._staged.append(self._offer_groups)
        return link

    def link_down(self, link: Link, now: float) -> None:
        """Forget a link, with all that was under way on it. Inside a tick."""
        core = self.core
        core.now = now
        if core.links.get(link.node) is not link:
            return
        for exchange in self.exchanges.values():
            own = exchange.core.links.get(link.node)
            if own is not None:
                exchange.link_down(own, now)
        for group in core.options.groups:
            self._offered.pop((link.number, group), None)
            self._opened.pop((link.number, group), None)
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

    def _on_data_cleared(self, link: Link) -> None:
        for exchange in self.exchanges.values():
            exchange.data_cleared(link.node)

    def _boot_of(self, node: bytes) -> bytes | None:
        record = self.membership.get(node)
        return None if record is None else record.boot

    def _on_jump(self, seconds: float) -> None:
        self.core.rotate_soon(f"the clock has jumped by {seconds:.1f} s")

    def _on_duplicate(self, other: m.MemberRecord) -> None:
        self.core.rotate_soon("this node runs twice")

    def _on_standing(self, standing: Standing) -> None:
        if standing == Standing.REMOVED:
            for link in list(self.core.links.values()):
                link.close("this node was removed from the cluster")
        self.deferred.append(self._admit_linked)

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
        self._fresh_exchanges.clear()
        for exchange in self.exchanges.values():
            exchange.rejoin.committed()
        if self.core.replica.system_version != self._system_version:
            self._cluster_changed()
        self.committed(self.core.now)
        while self._staged:
            staged, self._staged[:] = list(self._staged), []
            for action in staged:
                action()

    def after_failure(self) -> None:
        """The tick's commit has failed: nothing of it happened, so nothing of it leaves."""
        self._staged.clear()
        self.roster.changed()
        for group in self._fresh_exchanges:
            del self.exchanges[group]
        self._fresh_exchanges.clear()
        for exchange in self.exchanges.values():
            exchange.rejoin.reverted()
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

    # --- local writes, and time

    def committed(self, now: float) -> bool:
        """Take note that a tick has been committed; tell whether that makes something due."""
        is_due = False
        for exchange in self.exchanges.values():
            if exchange.core.replica.has_fresh and exchange.dissemination.flush_at is None:
                exchange.dissemination.committed(now)
                is_due = True
        return is_due

    def flush(self) -> None:
        """Push what is fresh now."""
        for exchange in self.exchanges.values():
            exchange.dissemination.flush()

    def ask_for_claims(self) -> None:
        """Have all peers make durable what they have, and tell: somebody waits for it."""
        for exchange in self.exchanges.values():
            exchange.dissemination.ask_for_claims()

    def tell_all(self) -> None:
        """Tell every peer now what this node covers."""
        for exchange in self.exchanges.values():
            exchange.vectors.tell_all()

    def _cluster_changed(self) -> None:
        """Take note that records of the cluster have changed, here or by a peer.

        Most are about runs and origins: then the members, of whom there may be hundreds, need not be read again.
        """
        replica = self.core.replica
        self._system_version = replica.system_version
        versions = (
            replica.system_version_of(MEMBER),
            replica.system_version_of(GONE),
            self.carried.version,
        )
        if versions == self._roster_versions:
            return
        self._roster_versions = versions
        self.roster.changed()
        self._staged.append(self._offer_groups)
        for link in list(self.core.links.values()):
            if self.roster.is_removed(link.node):  # who leaves hands over what it has, and goes by itself
                link.send(m.Reject(m.Refusal.REMOVED, REMOVED_TEXT))
                link.close("the peer was removed from the cluster")

    def tick(self, now: float) -> float:
        """Do what is due in all machines, outside a tick of the store; return when to be called again."""
        core = self.core
        core.now = now
        due = min(self.clock.tick(now), self.membership.tick(now), self.topology.tick(now))
        for exchange in self.exchanges.values():
            due = min(due, exchange.tick(now))
        return due

    def needs_tick_of_store(self, now: float) -> bool:
        """Tell whether `tick_in_store` has something to do: most of the time it has not."""
        return bool(
            self.deferred
            or any(exchange.needs_tick_of_store(now) for exchange in self.exchanges.values())
            or now >= self._roster_due
            or (self._may_record(now) and self.writers.is_due())
            or self.voiding.is_due(now)
            or self._may_open_groups(now)
            or self._may_keep_members(now)
        )

    def tick_in_store(self, now: float) -> None:
        """Do what may write. Inside a tick of the store."""
        self.core.now = now
        if self.voiding.is_due(now) and self.voiding.tick():
            return
        if self._may_keep_members(now):
            self._keep_members(now)
        if self._may_record(now):
            self.writers.record()
            self.carried.record([group for group in self.exchanges if group != COMMON_GROUP])
        if self._may_open_groups(now):
            self._open_groups()
        deferred, self.deferred[:] = list(self.deferred), []
        for action in deferred:
            action()
        for exchange in self.exchanges.values():
            exchange.tick_in_store(now)
        self._roster_due = self.roster.tick(now)

    def _may_record(self, now: float) -> bool:
        """Tell whether this node may write about itself: with a wrong clock the record would wait everywhere."""
        is_ready = self.rejoin.standing == Standing.READY and not self.voiding.is_pending()
        return is_ready and self.clock.may_promise(now, self.core.wall_ms())

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

    def close(self) -> None:
        """Give back all snapshots."""
        for exchange in self.exchanges.values():
            exchange.close()

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

    def covering(self, vector: Mapping[bytes, int], group: int = COMMON_GROUP) -> int:
        """Return how many other members carry a group and claim to cover `vector`, which may be of several."""
        parts = {COMMON_GROUP: {}, group: {}, **_by_group(vector)}
        others = [node for node in self.roster.members() if node != self.core.identity.node]
        return sum(all(self._claims(node, group, part) for group, part in parts.items()) for node in others)

    def covering_theirs(self, vector: Mapping[bytes, int]) -> int:
        """Return how many other members claim to cover that part of `vector` that is of groups which they carry."""
        parts = {COMMON_GROUP: {}, **_by_group(vector)}
        others = [node for node in self.roster.members() if node != self.core.identity.node]
        return sum(
            all(
                self._claims(node, group, part)
                for group, part in parts.items()
                if group == COMMON_GROUP or group in self.carried.of(node)
            )
            for node in others
        )

    def _claims(self, node: bytes, group: int, vector: Mapping[bytes, int]) -> bool:
        exchange = self.exchanges.get(group)
        return exchange is not None and exchange.claims(node, vector)

    def holders(self, origin: bytes) -> int:
        """Return at how many members an origin waits, this node counted."""
        exchange = self.exchanges.get(group_of(origin))
        if exchange is None:
            return 0
        return (origin in exchange.dissemination.held) + len(exchange.vectors.holding(origin))

    def cut(self, origin: bytes) -> int | None:
        """Void what a held origin wrote beyond what this node has; return up to where it counts. Inside a tick.

        None: it is held neither by a majority of the members that exchange it, nor by all but one of them, who wrote it.
        """
        exchange = self.exchanges.get(group_of(origin))
        if exchange is None:
            return None
        members, holders = len(exchange.participants.remaining()), self.holders(origin)
        if 2 * holders <= members and not (holders and holders == members - 1):
            return None
        upto = exchange.core.replica.covered(origin)
        self.cuts.record(origin, upto)
        return upto

    def is_handed_over(self) -> bool:
        """Tell whether each group's records are all at another member that carries it."""
        return all(exchange.is_handed_over() for exchange in self.exchanges.values())

    def refusal(self, now: float) -> str | None:
        """Return why clients may not write now, as an error text; None if they may."""
        standing = self.rejoin.standing
        if standing.is_catching_up:
            return "LOADING this node is joining the cluster and catches up"
        if standing == Standing.REMOVED:
            return "READONLY this node was removed from the cluster"
        if standing == Standing.LEAVING:
            return "READONLY this node leaves the cluster"
        return self.membership.refusal() or self.clock.refusal(now, self.core.wall_ms())

    def refusal_in(self, group: int) -> str | None:
        """Return why clients may neither read nor write a further group, as an error text; None if they may."""
        exchange = self.exchanges.get(group)
        if exchange is None or exchange.is_catching_up:
            return f"LOADING this node has begun to carry group {group} and catches up"
        return None


def _by_group(vector: Mapping[bytes, int]) -> dict[int, dict[bytes, int]]:
    """Return the entries of each group's origins."""
    parts: dict[int, dict[bytes, int]] = {}
    for origin, seq in vector.items():
        parts.setdefault(group_of(origin), {})[origin] = seq
    return parts


def _ignore_publish(message: m.Publish) -> None:
    """Stand in for the daemon's subscribers."""
