"""Which members to be linked with, and how to get there. Sans-IO.

*Full mesh* up to `full_mesh_max` members: a link with everybody. Above, a *partial view*: about `degree` links,
half of them near (by round trip, else by zone) so that most traffic is cheap, half of them random so that the
whole stays connected and its diameter small. Whatever the view, those that carry a group of namespaces are linked among
themselves alike, for nobody else passes on what is in it: up to `full_mesh_max` of them each with each, above in a
ring with shortcuts. These links come on top. Below `degree_low` links are added, above `degree_high` taken
away. The table of members is the passive list to choose from. If there are other zones, one link leads to one.

A member that cannot be dialled keeps `nat_links` links that it opened itself, wherever there are enough others.

Who dials. Of two members the one with the smaller id dials first, the other a second later if
it has to; so most pairs meet once. When both dial at the same moment, the link that the smaller id opened
survives (`choose`). A link that is older than `SIMULTANEOUS` is no such case: its peer has lost it, and the new
one survives. Of a link too many, the greater id lets go first, so that not both sides do.

Failed dials are repeated after a time drawn from 0 .. min(`redial_max`, `redial_min` * 2^n): full jitter, so
that an outage does not end in a storm. Unreachable members are dialled on and on: that is how a partition heals. In a
partial view each node does it for one of them at a time, the more rarely the more nodes do it.

The addresses to join are dialled while there is no link. With links, one that no member is known at is dialled on
and on like an unreachable member: who was removed may have been replaced there by a node that has only this node to
be found by. Any other is dialled now and then if its member is not known to be alive: two halves that never met must
find each other. A partial view does both only now and then, for there are many to do it.

An address to join may be a name that stands for many nodes, this one among them. The driver resolves it anew for each
dial and tries what it stands for in random order (`to_try`), until one is linked; then the name is as good as an address
of that member. What turned out to be this node itself is left out, and the name is not given up for it.

Addresses that peers tell are hints. They are dialled only inside the allowed networks, if such are given,
and always with this cluster's credentials (`handshake`).

Source: HyParView (Leitão, Pereira, Rodrigues 2007) for active and passive views; Brooker, "Exponential
Backoff And Jitter" (AWS Architecture Blog 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

import attrs

from replication.core import Core, Link
from replication.membership import EXCESS, Membership
from replication.messages import Bye, Refusal, Reject, State
from replication.roster import Roster

Network = IPv4Network | IPv6Network

SIMULTANEOUS: Final = 10.0
YIELD: Final = 1.0  # what the greater id leaves to the smaller one
STABLE: Final = 10.0  # a link that lasted so long ends the back-off
DIALS_MAX: Final = 32  # under way at once
DIAL_TIMEOUT: Final = 20.0  # the driver tells earlier: 10 s to connect, 5 s to authenticate
# The mesh is full again when this share of `full_mesh_max` is left, so that it does not flap.
FULL_AGAIN_SHARE: Final = 0.75
JOIN_INTERVAL: Final = 60.0
JOIN_MEMORY: Final = 600.0  # how long it is remembered whom an address to join led to
IMPROVE_INTERVAL: Final = 60.0
# Links above `degree_high` at which the smaller id lets go, too.
EXCESS_SLACK: Final = 4
# Times `degree_high` at which also links are let go that are not STABLE: whoever joins has no other yet.
CROWD: Final = 8
POLL: Final = 1.0
IDLE_POLL: Final = 5.0
SETTLE: Final = 0.1  # between two looks at the table of members, which may change many times in a row


@attrs.define(eq=False)
class _Redial:
    attempts: int = 0
    next_at: float = 0.0
    rests_until: float = -math.inf  # one of both had too many links: only a probe may dial before
    until: float = -math.inf  # a dial is under way until then at most


@attrs.define(eq=False)
class _Join:
    redial: _Redial
    checked_at: float = -math.inf  # when it was last seen whether it leads to anybody new
    node: bytes | None = None  # whom it led to last
    led_at: float = -math.inf
    found: Sequence[str] = ()  # the addresses that it stood for when it was last resolved


class Topology:
    """The links of one node: those it has, wants, and lets go."""

    def __init__(
        self, core: Core, roster: Roster, membership: Membership, *, allowed: Sequence[Network] = ()
    ) -> None:
        self._core = core
        self._roster = roster
        self._membership = membership
        self._allowed = tuple(allowed)
        self._redials: dict[bytes, _Redial] = {}
        self._requested: dict[bytes, None] = {}  # by probes: to be dialled though the view does not need it
        self._joins = {address: _Join(_Redial()) for address in core.options.join}
        self._up_at: dict[int, float] = {}  # by the link's number
        self._own_addresses: dict[str, None] = dict.fromkeys(core.options.addresses)
        self._improve_at: float | None = None
        self._revive_at = 0.0
        self._next = self._looked_at = -math.inf
        self._seen_version = (-1, -1)
        self._has_other_zones = False  # with members that could be dialled
        self.is_partial = False
        self.carriers: Callable[[], list[list[bytes]]] = list  # each group's of this node, but for itself
        self._kin: dict[bytes, None] = {}  # to be linked for the sake of a group, and not counted
        membership.wants = self.wants
        membership.missing = self.missing
        membership.dial_member = self.dial_member

    # --- questions

    def wants(self, node: bytes) -> bool:
        """Tell whether there should be a link with a member that this node can open."""
        return not self.is_partial and self._core.options.dialable and bool(self._addresses(node))

    def missing(self) -> list[bytes]:
        """Return those that `wants` is true for and that have no link."""
        if self.is_partial or not self._core.options.dialable:
            return []
        return self._candidates(State.SUSPECT)

    def choose(self, existing: Link, new: Link) -> Link:
        """Return which of two links with one peer survives. Both ends choose alike.

        To be called before the new link is up and before the loser is closed.
        """
        self._note_dialled(new)
        survivor = self._choose(existing, new)
        if survivor is new:
            self._membership.on_replaced(existing)
        return survivor

    def _choose(self, existing: Link, new: Link) -> Link:
        age = self._core.now - self._up_at.get(existing.number, -math.inf)
        if existing.boot != new.boot or not existing.is_open or age > SIMULTANEOUS:
            return new
        if existing.outgoing == new.outgoing:
            return new
        is_smaller = self._core.identity.node < new.node
        return existing if existing.outgoing == is_smaller else new

    def is_own_address(self, address: str) -> bool:
        """Tell whether an address is known to lead to this node itself, and to no other."""
        join = self._joins.get(address)
        found = () if join is None else join.found
        return address in self._own_addresses or (
            bool(found) and all(one in self._own_addresses for one in found)
        )

    def to_try(self, address: str, found: Sequence[str]) -> list[str]:
        """Return in which order to dial the addresses that one to join stands for at this moment."""
        if address in self._joins:
            self._joins[address].found = tuple(found)
        others = [one for one in found if one not in self._own_addresses]
        self._core.rng.shuffle(others)
        return others

    # --- inputs

    def tick(self, now: float) -> float:
        """Dial whom a link is missing with, and let links go that are too many."""
        version = (self._membership.version, self._roster.version)
        if version != self._seen_version:
            self._next = min(self._next, self._looked_at + SETTLE)
        if now < self._next:
            return self._next
        self._looked_at = now
        if version != self._seen_version:
            self._seen_version = version
            self._study()
        wanted = self._wanted(now)
        wanted += [node for node in self._requested if node not in wanted]
        for node in wanted:
            if node in self._requested or now >= self._redial(node).rests_until:
                self._dial_if_due(node, now)
        self._dial_to_join(now)
        if self.is_partial:
            self._revive(now)
            self._improve(now)
            self._let_go(now)
        self._next = self._next_at(wanted, now)
        return self._next

    def on_link_up(self, link: Link, now: float) -> None:
        self._look_at(now)
        self._up_at[link.number] = now
        self._note_dialled(link)
        self._requested.pop(link.node, None)

    def on_link_down(self, link: Link, now: float) -> None:
        self._look_at(now)
        up_at = self._up_at.pop(link.number, now)
        redial = self._redial(link.node)
        if now - up_at >= STABLE:
            redial.attempts = 0
        else:
            redial.attempts += 1
        # Both sides have lost it, and one of them is enough.
        redial.next_at = max(redial.next_at, now + self._jitter(redial) + self._yield_to(link.node))
        for join in self._joins.values():
            if join.node == link.node:
                join.redial.next_at = max(join.redial.next_at, redial.next_at)
        if not self._core.links:
            for join in self._joins.values():
                join.redial.next_at = min(join.redial.next_at, now + self._jitter(join.redial))

    def on_dial_failed(self, address: str, node: bytes | None, now: float) -> None:
        self._look_at(now)
        if node is not None:
            self._put_off(self._redial(node), now)
        elif address in self._joins:
            self._put_off(self._joins[address].redial, now)

    def on_bye(self, link: Link, message: Bye, now: float) -> None:
        """Leave a peer alone for a while that has too many links."""
        is_last = len(self._core.links) <= 1
        if message.reason == EXCESS and not is_last:
            self._rest(link.node, now)

    def on_self(self, address: str) -> None:
        """Dial an address no more that turned out to be this node's own."""
        self._own_addresses[address] = None

    def dial_member(self, node: bytes) -> bool:
        """Dial a member now or very soon; False if it has no address, or was found not to answer lately.

        Very soon: when a link breaks both sides want it back, and one of them leaves it to the other.
        """
        if node in self._core.links or self._roster.is_gone(node) or not self._addresses(node):
            return False
        now = self._core.now
        redial = self._redial(node)
        if now < redial.until:
            return True
        if redial.next_at > now + 2 * YIELD:
            return False
        self._requested[node] = None
        self._look_at(max(now, redial.next_at))
        return True

    def _look_at(self, at: float) -> None:
        """Look at the links again at `at`, if that is earlier than planned."""
        if at < self._next:
            self._next = at
            self._core.hurry()

    # --- whom to dial

    def _study(self) -> None:
        """Work out what depends on the whole table of members, after it has changed."""
        options = self._core.options
        records = [record for record in self._membership.records() if record.state <= State.UNREACHABLE]
        count = max(1 + len(records), len(self._roster.remaining()))
        if count > options.full_mesh_max:
            self.is_partial = True
        elif count <= options.full_mesh_max * FULL_AGAIN_SHARE:
            self.is_partial = False
        self._has_other_zones = any(
            record.state <= State.SUSPECT and record.zone != options.zone and record.dialable
            for record in records
        )
        for node in list(self._redials):
            if self._membership.get(node) is None and node not in self._membership.hints():
                del self._redials[node]
        self._kin = dict.fromkeys(self._find_kin()) if self.is_partial else {}
        self._close_removed()

    def _find_kin(self) -> Iterator[bytes]:
        """Yield the members to be linked because they carry a group that this node carries, too.

        Of a large group those that follow this node in a ring of all of them, at distances of 1, 2, 4, ...: so each
        has as many that it precedes, and the whole is connected, with a small diameter.
        """
        own = self._core.identity.node
        for others in self.carriers():
            if len(others) < self._core.options.full_mesh_max:
                yield from others
                continue
            ring = sorted([own, *others])
            place = ring.index(own)
            for step in (2**exponent for exponent in range(len(ring).bit_length())):
                yield ring[(place + step) % len(ring)]
                yield ring[(place - step) % len(ring)]

    def _wanted(self, now: float) -> list[bytes]:
        """Return the members to be dialled, those first that matter most."""
        if not self._core.options.dialable:
            missing = self._core.options.nat_links - self._outgoing_count()
            return self._pick(missing, now)
        if not self.is_partial:
            return self._candidates(State.UNREACHABLE)
        wanted = [
            node
            for node in self._candidates(State.SUSPECT)
            if node in self._kin and self._may_pick(node, now)
        ]
        links = sum(node not in self._kin for node in self._core.links)
        if links >= self._core.options.degree_low and not self._lacks_other_zone():
            return wanted
        picked = self._pick(max(1, self._core.options.degree - links), now)
        return wanted + [node for node in picked if node not in wanted]

    def _candidates(self, worst: State) -> list[bytes]:
        """Return the members without a link that have an address, in the order in which they were met."""
        hinted = [node for node in self._membership.hints() if self._roster.is_member(node)]
        met = [record.node for record in self._membership.records() if record.state <= worst]
        links = self._core.links
        return [node for node in met + hinted if node not in links and self._addresses(node)]

    def _pick(self, missing: int, now: float) -> list[bytes]:
        """Choose members to fill up a partial view, those that are being dialled first."""
        candidates = self._candidates(State.SUSPECT)
        if not candidates and not self._core.links:
            candidates = self._candidates(State.UNREACHABLE)  # it is this node that is cut off
        under_way = [node for node in candidates if now < self._redial(node).until]
        chosen = under_way[: max(0, missing)]
        # Rarely are so many backed off that only they are left; then those that may be dialled next come first.
        free = [node for node in candidates if node not in chosen and self._may_pick(node, now)]
        if self._lacks_other_zone() and missing > len(chosen):
            others = [node for node in free if self._is_other_zone(node)]
            if others and not any(self._is_other_zone(node) for node in chosen):
                chosen.append(self._core.rng.choice(others))
        while len(chosen) < missing:
            left = [node for node in free if node not in chosen]
            if not left:
                break
            is_near = self._core.rng.random() < 0.5
            chosen.append(self._nearest(left) if is_near else self._core.rng.choice(left))
        return chosen

    def _nearest(self, nodes: Sequence[bytes]) -> bytes:
        """Return the member with the least known round trip, else one of the own zone, else any."""
        ranks = [self._distance(node) for node in nodes]
        least = min(ranks)
        return self._core.rng.choice([node for node, rank in zip(nodes, ranks, strict=True) if rank == least])

    def _distance(self, node: bytes) -> tuple[bool, float]:
        rtt = self._membership.rtt(node)
        return (self._is_other_zone(node), math.inf if rtt is None else rtt)

    def _is_other_zone(self, node: bytes) -> bool:
        record = self._membership.get(node)
        return record is not None and record.zone != self._core.options.zone

    def _lacks_other_zone(self) -> bool:
        own = self._core.options.zone
        return self._has_other_zones and not any(link.peer.zone != own for link in self._core.links.values())

    def _outgoing_count(self) -> int:
        return sum(link.outgoing for link in self._core.links.values())

    # --- dialling

    def _redial(self, node: bytes) -> _Redial:
        redial = self._redials.get(node)
        if redial is None:
            # In a partial view the other side does not dial just because this one exists.
            wait = 0.0 if self.is_partial else self._yield_to(node)
            redial = self._redials[node] = _Redial(next_at=self._core.now + wait)
        return redial

    def _yield_to(self, node: bytes) -> float:
        """Return how long the other side is given to dial."""
        if self._core.identity.node < node or not self._core.options.dialable:
            return 0.0
        return YIELD * (0.5 + self._core.rng.random())

    def _jitter(self, redial: _Redial) -> float:
        options = self._core.options
        ceiling = min(options.redial_max, math.ldexp(options.redial_min, min(redial.attempts, 30)))
        return self._core.rng.random() * ceiling

    def _rest(self, node: bytes, now: float) -> None:
        rest = self._core.options.redial_max * (1 + self._core.rng.random())
        self._redial(node).rests_until = now + rest

    def _may_pick(self, node: bytes, now: float) -> bool:
        redial = self._redial(node)
        return now >= redial.next_at and now >= redial.rests_until

    def _put_off(self, redial: _Redial, now: float) -> None:
        redial.until = -math.inf
        redial.next_at = max(redial.next_at, now + self._jitter(redial))
        redial.attempts += 1

    def _dials_count(self, now: float) -> int:
        return sum(now < redial.until for redial in self._redials.values())

    def _dial_if_due(self, node: bytes, now: float) -> None:
        redial = self._redial(node)
        addresses = self._addresses(node)
        if not addresses or now < redial.next_at or now < redial.until or node in self._core.links:
            return
        if self._dials_count(now) < DIALS_MAX:
            self._requested.pop(node, None)
            redial.until = now + DIAL_TIMEOUT
            self._core.dial(addresses[redial.attempts % len(addresses)], node)

    def _addresses(self, node: bytes) -> Sequence[str]:
        """Return where a member may be dialled."""
        record = self._membership.get(node)
        if record is None:
            addresses = self._membership.hints().get(node, ())
        elif record.dialable and record.state <= State.UNREACHABLE:
            addresses = record.addresses
        else:
            return ()
        return [address for address in addresses if self._may_dial(address)]

    def _may_dial(self, address: str) -> bool:
        if address in self._own_addresses:
            return False
        if not self._allowed or address in self._joins:
            return True
        try:
            host = ip_address(address.rpartition(":")[0].strip("[]"))
        except ValueError:
            return False  # a name could stand for any host
        return any(host in network for network in self._allowed)

    # --- the addresses to join

    def _dial_to_join(self, now: float) -> None:
        for address, join in self._joins.items():
            redial = join.redial
            if address in self._own_addresses or now < redial.next_at or now < redial.until:
                continue
            if self._core.links and not self._is_vacant(address, join):
                if now < join.checked_at + JOIN_INTERVAL:
                    continue
                join.checked_at = now + JOIN_INTERVAL * self._core.rng.random()
                if self._is_known(address, join, now):
                    continue
            redial.until = now + DIAL_TIMEOUT
            self._core.dial(address, None)

    def _is_vacant(self, address: str, join: _Join) -> bool:
        """Tell whether nobody is known at an address that this node alone may have to try.

        Who leaves is there as long as it is linked: it hands over, and a new dial would only be refused.
        """
        links = self._core.links
        if self.is_partial or self._led_to_member(join):
            return False
        return join.node not in links and not any(
            address in record.addresses and (record.state <= State.UNREACHABLE or record.node in links)
            for record in self._membership.records()
        )

    def _is_known(self, address: str, join: _Join, now: float) -> bool:
        """Tell whether an address leads to a member that is alive as far as this node knows."""
        if join.node is not None and self._led_to_member(join) and now - join.led_at < JOIN_MEMORY:
            return self._membership.is_reachable(join.node)
        return any(
            address in record.addresses and record.state <= State.SUSPECT
            for record in self._membership.records()
        )

    def _led_to_member(self, join: _Join) -> bool:
        """Tell whether an address led to somebody who is not gone since."""
        return join.node is not None and not self._roster.is_gone(join.node)

    def _note_dialled(self, link: Link) -> None:
        """Take note that a dial has ended well; if it was to an address to join, whom that leads to."""
        if not link.outgoing:
            return
        now = self._core.now
        redial = self._redial(link.node)
        was_dialled = now < redial.until
        redial.until = -math.inf
        under_way = [(address, join) for address, join in self._joins.items() if now < join.redial.until]
        named = [(address, join) for address, join in under_way if address in link.peer.addresses]
        if not under_way or (was_dialled and not named):
            return
        _, join = (named or under_way)[0]
        join.node, join.led_at = link.node, now
        join.redial.until = -math.inf
        join.redial.attempts = 0
        join.checked_at = now + JOIN_INTERVAL * self._core.rng.random()

    # --- the partial view

    def _revive(self, now: float) -> None:
        """Dial one of the unreachable members now and then: all nodes together do it about once a second."""
        if now < self._revive_at:
            return
        scale = max(1.0, self._membership.count / self._core.options.full_mesh_max)
        self._revive_at = now + self._core.options.redial_max * scale * (0.5 + self._core.rng.random())
        lost = [
            record.node
            for record in self._membership.records()
            if record.state == State.UNREACHABLE
            and record.node not in self._core.links
            and self._addresses(record.node)
        ]
        if lost:
            self._dial_if_due(self._core.rng.choice(lost), now)

    def _improve(self, now: float) -> None:
        """Look for a nearer member than those that are linked, if fewer than half of the links are near."""
        if self._improve_at is None or now < self._improve_at:
            if self._improve_at is None:
                self._improve_at = now + IMPROVE_INTERVAL * (0.5 + self._core.rng.random())
            return
        self._improve_at = now + IMPROVE_INTERVAL * (0.5 + self._core.rng.random())
        links = list(self._core.links.values())
        half = self._core.options.degree // 2
        candidates = [
            node
            for node in self._candidates(State.ALIVE)
            if self._may_pick(node, now) and not self._is_other_zone(node)
        ]
        near = sorted(self._distance(link.node) for link in links)[:half]
        if not candidates or len(links) > self._core.options.degree_high:
            return
        best = self._nearest(candidates)
        if len(near) < half or self._distance(best) < near[-1]:
            self.dial_member(best)

    def _let_go(self, now: float) -> None:
        """Close one link if there are too many."""
        links = [link for link in self._core.links.values() if link.is_open and link.node not in self._kin]
        options = self._core.options
        if len(links) <= options.degree_high:
            return
        own = self._core.identity.node
        may_all = len(links) > options.degree_high + EXCESS_SLACK
        ranked = sorted(links, key=lambda link: self._distance(link.node))
        spared = {link.number: None for link in ranked[: options.degree // 2]}
        others = [link for link in links if link.peer.zone != options.zone]
        if len(others) == 1:
            spared[others[0].number] = None
        is_crowded = len(links) > CROWD * options.degree_high
        free = [
            link
            for link in links
            if link.number not in spared
            and (may_all or own > link.node)
            and (is_crowded or not (link.peer.joining or now < self._up_at.get(link.number, now) + STABLE))
        ]
        if free:
            link = self._core.rng.choice(free)
            self._rest(link.node, now)
            link.send(Bye(EXCESS))
            link.close(EXCESS)

    # --- removed members

    def _close_removed(self) -> None:
        for link in list(self._core.links.values()):
            if link.is_open and self._roster.is_removed(link.node):
                link.send(Reject(Refusal.REMOVED, "this node was removed from the cluster"))
                link.close("it was removed")

    # --- time

    def _next_at(self, wanted: Sequence[bytes], now: float) -> float:
        is_busy = bool(wanted) or len(self._core.links) > self._core.options.degree_high
        times = [now + (POLL if is_busy else IDLE_POLL)]
        for node in wanted:
            redial = self._redial(node)
            rest = redial.rests_until if node not in self._requested else -math.inf
            times.append(max(redial.next_at, redial.until, rest))
        times += [
            max(join.redial.next_at, join.redial.until)
            for address, join in self._joins.items()
            if not self._core.links or self._is_vacant(address, join)
        ]
        # What is overdue waits for a dial under way to end, or for the next poll.
        return min(at for at in times if at > now)
