"""Who is there: a table of members that all nodes agree on sooner or later. Sans-IO SWIM over links.

Each member owns its incarnation; others can only accuse it. The greatest (incarnation, state) wins:

                  a probe fails                    nobody refutes in time
        ALIVE ───────────────────────▶ SUSPECT ───────────────────────────▶ UNREACHABLE
          ▲                               │                                      │
          └───────────────────────────────┴──────────────────────────────────────┘
             the accused hears of it and raises its incarnation (or starts anew)

LEFT and REMOVED are for good. They come from the roster, whose records are replicated like data;
gossip about them is only believed when the roster agrees, so that a record which a power cut took away
cannot leave a member half removed.

*Liveness never decides data.* An unreachable member is waited for as much as any other; nothing is sent to
it, that is all.

An incarnation begins with the clock value at the start of the process, in milliseconds, so that a restarted
member is greater than what is said of its earlier boots without having to refute it first. It still
refutes when its clock went back: a record worse than one that is held is answered with the held one, to
whoever told it, and so reaches the member itself. That is what keeps mass restarts from wedging.

News are flooded over the links (`gossip`). Whole tables are exchanged when a link comes up, and now and then
with a random peer, more rarely the more members there are. Every `HEARTBEAT_FACTOR` such intervals a
member raises its incarnation without being accused: in a partial view, members that die at once
with all their neighbours have nobody left who would notice, and so are missed after a while.

A node sees that it runs twice (a cloned disk) by a foreign boot under its own id that keeps outbidding its
incarnation: a dead boot cannot do that. The copy that started later then refuses writes. Third parties
see it by a boot that comes back after it was replaced.

Source: SWIM (Das, Gupta, Motivala 2002); Lifeguard (Dadgar, Phillips, Currey 2018); hashicorp/memberlist.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from replication.clock import ClockGate
from replication.core import Core, Link
from replication.gossip import Gossip
from replication.health import Health
from replication.messages import (
    Bye,
    Hello,
    MemberRecord,
    Members,
    Ping,
    PingRequest,
    PingResult,
    Pong,
    State,
    decode_record,
    encode_record,
)
from replication.probing import Prober
from replication.roster import Roster
from replication.suspicion import Suspicion

MEMBERS_MAX: Final = 1000
# What a record's addresses may take in all; a thousand such records still fit into a frame.
ADDRESS_CHARS_MAX: Final = 512
INCARNATION_MAX: Final = 2**60
GOSSIP_INTERVAL: Final = 0.2  # memberlist's
SCALE_FROM: Final = 32  # members; with more, full exchanges become rarer
HEARTBEAT_FACTOR: Final = 10  # intervals of full exchange
MISSED_HEARTBEATS: Final = 3
# Intervals of full exchange after which an unreachable node that was never let in is forgotten.
FORGET_FACTOR: Final = 20
# Foreign incarnations that outbid this node's, one after the other. What is left of dead boots are one or two.
OUTBID_MAX: Final = 4
BOOTS_REMEMBERED: Final = 8
# The reason in a Bye when a live peer closes a link that it has too many of.
EXCESS: Final = "excess"

OnStateChanged = Callable[[MemberRecord, State | None], None]


@attrs.define(eq=False)
class _Member:
    record: MemberRecord
    heard_at: float  # the last sign of life, seen or told


class Membership:
    """The table, and how it follows what is seen and heard."""

    def __init__(self, core: Core, roster: Roster, clock: ClockGate) -> None:
        self._core = core
        self._roster = roster
        self._clock = clock
        self._table: dict[bytes, _Member] = {}
        self._suspicions: dict[bytes, Suspicion] = {}  # of those that are SUSPECT
        self._gossip = Gossip(core.rng)
        self.health = Health(core.options.health_max)
        self.prober = Prober(core, self.health, self)
        self.prober.on_round_trip = self._on_round_trip
        self._since_hlc = max(core.replica.hlc, core.wall_ms() << 16)
        self._incarnation = self._since_hlc >> 16
        self._hints: dict[bytes, tuple[str, ...]] = {}
        self.version = 0  # grows with each change of a record
        self.addresses_version = 0  # grows whenever `export` may give something else
        self.on_state_changed: OnStateChanged = _ignore_change
        self.wants: Callable[[bytes], bool] = _never  # set by the topology, as the next two
        self.missing: Callable[[], list[bytes]] = list
        self.dial_member: Callable[[bytes], bool] = _never
        # Set once this node has found that it runs twice: what is known of the other one.
        self.duplicate: MemberRecord | None = None
        self.on_duplicate: Callable[[MemberRecord], None] = _ignore_duplicate
        self.duplicates: dict[bytes, None] = {}  # other nodes that run twice
        self._outbid: list[int] = []
        self._boots: dict[bytes, list[bytes]] = {}
        self._harmless: dict[int, None] = {}  # links whose end says nothing about their peer
        self.count = 1  # members that are not known to be unreachable, this node included
        self._roster_version = -1
        self._wanted_at: float | None = None
        self._gossip_at = math.inf
        self._gossiped_at = -math.inf
        self._exchange_at: float | None = None
        self._heartbeat_at: float | None = None
        self._review_at = 0.0
        self._refuted_at = -math.inf
        self._refute_above: int | None = None

    # --- questions

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def own(self) -> MemberRecord:
        """Return what this node says of itself."""
        options = self._core.options
        identity = self._core.identity
        return MemberRecord(
            node=identity.node,
            incarnation=self._incarnation,
            state=State.ALIVE,
            boot=identity.boot,
            addresses=_bounded(options.addresses),
            dialable=options.dialable,
            zone=options.zone,
            software=self._core.software,
            since_hlc=self._since_hlc,
        )

    def records(self) -> list[MemberRecord]:
        """Return what is known of the others, in the order in which they were met."""
        return [member.record for member in self._table.values()]

    def get(self, node: bytes) -> MemberRecord | None:
        member = self._table.get(node)
        return None if member is None else member.record

    def state(self, node: bytes) -> State | None:
        member = self._table.get(node)
        return None if member is None else member.record.state

    def is_reachable(self, node: bytes) -> bool:
        """Tell whether a member is alive, as far as anybody knows."""
        return node in self._core.links or self.state(node) in {State.ALIVE, State.SUSPECT}

    def incarnation_of(self, node: bytes) -> int:
        member = self._table.get(node)
        return 0 if member is None else member.record.incarnation

    def heard_seconds(self, node: bytes, now: float) -> float | None:
        """Return the time since the last sign of life; None for an unknown node."""
        member = self._table.get(node)
        return None if member is None else now - member.heard_at

    def rtt(self, node: bytes) -> float | None:
        """Return the mean round trip in seconds, if it was ever measured."""
        return self.prober.rtt(node)

    def hints(self) -> dict[bytes, tuple[str, ...]]:
        """Return addresses remembered from before the start, of nodes that were not heard of since."""
        return self._hints

    # --- this node twice

    @property
    def duplicate_node(self) -> bool:
        return self.duplicate is not None or bool(self.duplicates)

    def refusal(self) -> str | None:
        """Return the error for a client that wants to write on the copy that started later; else None."""
        other = self.duplicate
        if other is None or (self._since_hlc, self._core.identity.boot) < (other.since_hlc, other.boot):
            return None
        return (
            "DUPLICATENODE another process runs with a copy of this node's data directory; "
            "stop one of them and give it a data directory of its own"
        )

    def on_own_id(self, peer: Hello) -> None:
        """A live, authenticated peer says that it is this node: see whether it is a copy."""
        if peer.boot != self._core.identity.boot:
            self.note_duplicate(_first_hand(peer))

    def note_duplicate(self, other: MemberRecord) -> None:
        """Take note that this node runs twice."""
        if self.duplicate is None:
            self._core.log.error("this node runs twice", other_boot=other.boot.hex()[:8])
            self.duplicate = other
            self.on_duplicate(other)

    # --- kept over a restart

    def export(self) -> bytes:
        """Return the addresses of the members, to be given to `restore` after the next start."""
        known = dict(self._hints)
        known.update(
            (node, addresses)
            for node, member in self._table.items()
            if (addresses := _addresses_kept(member.record))
        )
        rows: list[list[object]] = []
        size = 0
        for node, addresses in known.items():
            size += 24 + sum(3 + len(address) for address in addresses[:2])
            if size > 60_000:  # of a record's 64 KiB
                break
            rows.append([node, list(addresses[:2])])
        return encode_record({"members": rows})

    def restore(self, stored: bytes) -> None:
        """Take up what `export` gave; anything else is passed over."""
        try:
            rows = decode_record(stored).get("members")
        except ValueError:
            return
        for row in rows if isinstance(rows, list) else []:
            match row:
                case [bytes(node), list(addresses)] if node != self._core.identity.node:
                    texts = tuple(address for address in addresses if isinstance(address, str))
                    self._hints[node] = texts

    # --- time

    def tick(self, now: float) -> float:
        """Do what is due."""
        self._look_at_own_delay(now)
        self._follow_roster(now)
        self._refute_if_due(now)
        self._review(now)
        suspicions_at = self._end_suspicions(now)
        self.prober.per_interval = 1 if self.count <= self._core.options.full_mesh_max else 2
        probes_at = self.prober.tick(now)
        self._exchange(now)
        self._flush_gossip(now)
        assert self._exchange_at is not None
        assert self._heartbeat_at is not None
        self._wanted_at = min(
            probes_at,
            suspicions_at,
            self._gossip_at,
            self._exchange_at,
            self._review_at,
            self._heartbeat_at,
            math.inf if self._refute_above is None else self._refuted_at + self._refute_gap,
        )
        return self._wanted_at

    def _look_at_own_delay(self, now: float) -> None:
        """Doubt oneself, not others, if this node stood still; called by whatever comes first afterwards."""
        if self._wanted_at is None:
            return
        late = now - self._wanted_at
        if late <= self._core.options.probe_timeout / 2:
            return
        self._wanted_at = now
        self.health.worsen(1 + int(late / self._core.options.probe_interval))
        self._core.count("loop_late_total")
        self.prober.delay(late)
        for suspicion in self._suspicions.values():
            suspicion.delay(late)

    def _follow_roster(self, now: float) -> None:
        """Mark those as gone who left or were removed."""
        if self._roster.version == self._roster_version:
            return
        self._roster_version = self._roster.version
        for node in self._roster.departed():
            member = self._table.get(node)
            if member is not None and member.record.state <= State.UNREACHABLE:
                state = State.REMOVED if self._roster.is_removed(node) else State.LEFT
                self._set(attrs.evolve(member.record, state=state, accuser=b""), now)
            if self._hints.pop(node, None) is not None:
                self.addresses_version += 1

    def _review(self, now: float) -> None:
        """Look for members that nobody has heard of for long, and raise this node's own sign of life."""
        interval = self._core.options.members_interval
        heartbeat = HEARTBEAT_FACTOR * interval
        if self._heartbeat_at is None:
            self._heartbeat_at = now + heartbeat * (0.5 + self._core.rng.random())
        elif now >= self._heartbeat_at:
            self._heartbeat_at = now + heartbeat
            self._raise_incarnation(self._incarnation, now)
        if now < self._review_at:
            return
        self._review_at = now + interval
        for node, member in list(self._table.items()):
            silent = now - member.heard_at
            if node in self._core.links:
                member.heard_at = now
            elif member.record.state == State.ALIVE and silent > MISSED_HEARTBEATS * heartbeat:
                self.accuse(node, now)
            elif member.record.state >= State.UNREACHABLE and silent > FORGET_FACTOR * interval:
                self._forget_stranger(node)

    def _forget_stranger(self, node: bytes) -> None:
        if not self._roster.is_member(node):
            del self._table[node]
            self._gossip.forget(node)
            self.prober.forget(node)
            self._boots.pop(node, None)
            self.version += 1
            self.addresses_version += 1

    def _end_suspicions(self, now: float) -> float:
        earliest = math.inf
        for node, suspicion in list(self._suspicions.items()):
            deadline = suspicion.deadline
            if now >= deadline:
                record = self._table[node].record
                self._set(attrs.evolve(record, state=State.UNREACHABLE, accuser=b""), now)
            else:
                earliest = min(earliest, deadline)
        return earliest

    # --- links

    def on_link_up(self, link: Link, now: float) -> None:
        """Take the peer's word for itself, and exchange tables."""
        self._look_at_own_delay(now)
        self._hints.pop(link.node, None)
        self._note_boot(link)
        better = self._on_record(_first_hand(link.peer), link, now)
        member = self._table.get(link.node)
        if member is not None:
            member.heard_at = now
        self.prober.on_link_up(link, now)
        if link.outgoing:
            link.send(Members(self._all(), is_full=True, wants_reply=True))
        elif better is not None:
            link.send(Members((better,)))

    def on_link_down(self, link: Link, now: float) -> None:
        """See at once whether the peer is still there, unless the link was only one too many."""
        self._look_at_own_delay(now)
        is_accident = link.closing != EXCESS and link.number not in self._harmless
        self._harmless.pop(link.number, None)
        self.prober.on_link_down(link, now, is_accident=is_accident)
        if self._core.links.get(link.node) not in {None, link}:
            return  # another link has replaced it
        member = self._table.get(link.node)
        if member is None:
            return
        member.heard_at = now
        if is_accident and member.record.state <= State.SUSPECT:
            self.prober.probe(link.node, now)

    def on_bye(self, link: Link, message: Bye, now: float) -> None:
        if message.reason == EXCESS:
            self._harmless[link.number] = None

    def on_replaced(self, link: Link) -> None:
        """Take note that a link will end because there is another one with its peer."""
        self._harmless[link.number] = None

    def on_dial_failed(self, node: bytes | None, now: float) -> None:
        if node is not None:
            self.prober.on_dial_failed(node, now)

    # --- probes

    def on_ping(self, link: Link, message: Ping, now: float) -> None:
        self._look_at_own_delay(now)
        self._clock.observe(message.hlc)
        self.prober.on_ping(link, message, now)

    def on_pong(self, link: Link, message: Pong, now: float) -> None:
        self._look_at_own_delay(now)
        self._clock.observe(message.hlc)
        self._look_for_revenant(link)
        self.prober.on_pong(link, message, now)

    def on_ping_request(self, link: Link, message: PingRequest, now: float) -> None:
        self._look_at_own_delay(now)
        self.prober.on_ping_request(link, message, now)

    def on_ping_result(self, link: Link, message: PingResult, now: float) -> None:
        self._look_at_own_delay(now)
        self.prober.on_ping_result(link, message, now)

    def _on_round_trip(self, link: Link, ping: Ping, pong: Pong, rtt: float, now: float) -> None:
        self._clock.on_round_trip(
            link.node,
            sent_ms=ping.wall_ms,
            received_ms=pong.wall_received_ms,
            replied_ms=pong.wall_sent_ms,
            rtt=rtt,
            now=now,
        )

    def targets(self) -> list[bytes]:
        linked = [node for node in self._core.links if self.is_target(node)]
        return linked + [node for node in self.missing() if self.is_target(node)]

    def is_target(self, node: bytes) -> bool:
        state = self.state(node)
        if state is None or state > State.UNREACHABLE:
            return False
        return node in self._core.links or (state <= State.SUSPECT and self.wants(node))

    def dial(self, node: bytes) -> bool:
        return self.dial_member(node)

    def accuse(self, node: bytes, now: float) -> None:
        member = self._table.get(node)
        if member is not None and member.record.state <= State.SUSPECT:
            own = self._core.identity.node
            accusation = attrs.evolve(member.record, state=State.SUSPECT, accuser=own)
            self._on_record(accusation, None, now)

    # --- what is told

    def on_members(self, link: Link, message: Members, now: float) -> None:
        """Take records in; answer with those that are known better here."""
        self._look_at_own_delay(now)
        better: list[MemberRecord] = []
        for record in message.members:
            held = self._on_record(record, link, now)
            if held is not None:
                better.append(held)
        if message.is_full and message.wants_reply:
            told = {record.node for record in message.members}
            better += [record for record in self._all() if record.node not in told]
        if better:
            link.send(Members(tuple(better)))

    def _all(self) -> tuple[MemberRecord, ...]:
        kept = [m.record for m in self._table.values() if m.record.state <= State.UNREACHABLE]
        return (self.own, *kept)

    def _on_record(self, record: MemberRecord, source: Link | None, now: float) -> MemberRecord | None:
        """Follow a record if it is greater than the one that is held; else return the held one if that is."""
        member = self._table.get(record.node)
        if member is not None and record == member.record and record.state != State.SUSPECT:
            return None  # most of what is heard
        if not _is_sane(record) or record.state > State.UNREACHABLE or self._roster.is_gone(record.node):
            return None
        if record.node == self._core.identity.node:
            return self._on_own_record(record, now)
        if member is None:
            if record.state == State.ALIVE or self._roster.is_member(record.node):
                self._set(record, now, source)
            return None
        order = compare(record, member.record)
        if order > 0:
            self._set(record, now, source)
        elif order < 0:
            return member.record
        elif record.state == State.SUSPECT:
            suspicion = self._suspicions.get(record.node)
            if suspicion is not None and suspicion.confirm(record.accuser):
                self._spread(record, source, now)
        return None

    def _set(self, record: MemberRecord, now: float, source: Link | None = None) -> None:
        """Hold a record, pass it on, and tell whoever wants to know."""
        member = self._table.get(record.node)
        previous = None if member is None else member.record.state
        kept = () if member is None else _addresses_kept(member.record)
        if member is None:
            if not self._make_room():
                self._core.count("members_refused_total")
                return
            member = self._table[record.node] = _Member(record, now)
        elif record.incarnation > member.record.incarnation:
            member.heard_at = now
        member.record = record
        self._suspicions.pop(record.node, None)
        self._hints.pop(record.node, None)
        was_alive = previous is not None and previous <= State.SUSPECT
        self.count += (record.state <= State.SUSPECT) - was_alive
        self.version += 1
        self.addresses_version += _addresses_kept(record) != kept
        if record.state == State.SUSPECT:
            self._suspicions[record.node] = Suspicion(record.accuser, now, self._core.options, self.count)
        if record.state <= State.UNREACHABLE:
            self._spread(record, source, now)
        else:
            self._gossip.forget(record.node)
        if previous != record.state:
            self._core.log.info(
                "member changes",
                member=record.node.hex()[:8],
                state=record.state.name.lower(),
                accuser=record.accuser.hex()[:8] or None,
            )
            self.on_state_changed(record, previous)

    def _spread(self, record: MemberRecord, source: Link | None, now: float) -> None:
        told = [] if source is None else [source.node]
        self._gossip.put(record, count=self.count, told=told)
        self._gossip_soon(now)
        link = self._core.links.get(record.node)
        if link is None or not link.is_open:
            return
        if record.state > State.ALIVE or record.boot != link.boot:
            link.send(Members((record,)))  # so that it can refute
            if record.state == State.SUSPECT and source is not None:
                self.prober.probe(record.node, now)

    def _make_room(self) -> bool:
        """Tell whether the table has room for one more; who is gone, or a dead stranger, makes way."""
        if len(self._table) < MEMBERS_MAX - 1:
            return True
        for node, member in self._table.items():
            state = member.record.state
            if state >= State.LEFT or (state == State.UNREACHABLE and not self._roster.is_member(node)):
                del self._table[node]
                self._gossip.forget(node)
                self.addresses_version += 1
                return True
        return False

    # --- this node's own record

    def _on_own_record(self, record: MemberRecord, now: float) -> MemberRecord | None:
        if record.incarnation < self._incarnation:
            return self.own
        if record.boot == self._core.identity.boot:
            if record.state == State.ALIVE and record.incarnation == self._incarnation:
                return None
        else:
            self._look_for_twin(record)
        above = record.incarnation
        self._refute_above = above if self._refute_above is None else max(above, self._refute_above)
        self._refute_if_due(now)
        return None

    @property
    def _refute_gap(self) -> float:
        return self._core.options.probe_interval / 2

    def _refute_if_due(self, now: float) -> None:
        """Answer accusations, but not more often than they can matter: two copies of a node outbid each other."""
        if self._refute_above is None or now < self._refuted_at + self._refute_gap:
            return
        self._refuted_at = now
        above = max(self._refute_above, self._incarnation)
        self._refute_above = None
        self._core.count("refutations_total")
        self._raise_incarnation(above, now)

    def _raise_incarnation(self, above: int, now: float) -> None:
        self._incarnation = above + 1
        self._gossip.put(self.own, count=self.count)
        self._gossip_soon(now)

    def _look_for_twin(self, record: MemberRecord) -> None:
        if self._outbid and record.incarnation <= self._outbid[-1]:
            return
        self._outbid.append(record.incarnation)
        if len(self._outbid) >= OUTBID_MAX:
            self._outbid.clear()
            self.note_duplicate(record)

    # --- other nodes that run twice

    def _note_boot(self, link: Link) -> None:
        boots = self._boots.setdefault(link.node, [])
        if link.boot not in boots:
            boots.append(link.boot)
            del boots[:-BOOTS_REMEMBERED]

    def _look_for_revenant(self, link: Link) -> None:
        """Answering now: a boot that another had replaced when this link came up."""
        boots = self._boots.get(link.node, [])
        replaced = link.boot in boots and boots[-1] != link.boot
        if replaced and self._core.links.get(link.node) is link and link.node not in self.duplicates:
            self.duplicates[link.node] = None
            self._core.log.error("a node runs twice", member=link.node.hex()[:8])

    # --- sending

    def _exchange(self, now: float) -> None:
        """Exchange the whole table with one peer now and then."""
        if self._exchange_at is not None and now < self._exchange_at:
            return
        is_first = self._exchange_at is None
        scale = 1 + max(0, math.ceil(math.log2(max(1, self.count) / SCALE_FROM)))
        interval = self._core.options.members_interval * scale
        self._exchange_at = now + interval * (0.5 + self._core.rng.random() if is_first else 1)
        links = [link for link in self._core.links.values() if link.is_open]
        if links and not is_first:
            self._core.rng.choice(links).send(Members(self._all(), is_full=True, wants_reply=True))

    def _gossip_soon(self, now: float) -> None:
        """Pass news on at once, but together with what comes in the next moments after the last time."""
        at = max(now, self._gossiped_at + GOSSIP_INTERVAL)
        if at < self._gossip_at:
            self._gossip_at = at
            self._core.hurry()

    def _flush_gossip(self, now: float) -> None:
        if now < self._gossip_at:
            return
        self._gossiped_at = now
        self._gossip.flush([link for link in self._core.links.values() if link.is_open])
        self._gossip_at = now + GOSSIP_INTERVAL if len(self._gossip) and self._core.links else math.inf


def _first_hand(hello: Hello) -> MemberRecord:
    """Return what a peer says of itself. When its boot began it does not say; its incarnation comes close."""
    return MemberRecord(
        node=hello.node,
        incarnation=hello.incarnation,
        state=State.ALIVE,
        boot=hello.boot,
        addresses=_bounded(hello.addresses),
        dialable=hello.dialable,
        zone=hello.zone,
        software=hello.software,
        since_hlc=min(hello.hlc, hello.incarnation << 16),
    )


def _bounded(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many of the addresses, from the first, as a record may carry."""
    while sum(map(len, addresses)) > ADDRESS_CHARS_MAX:
        addresses = addresses[:-1]
    return addresses


def _addresses_kept(record: MemberRecord) -> tuple[str, ...]:
    """Return where a member may be dialled after a restart."""
    return record.addresses if record.dialable and record.state <= State.UNREACHABLE else ()


def compare(one: MemberRecord, other: MemberRecord) -> int:
    """Return which of two records about a node is greater: positive, negative, or 0 if neither is.

    The boots decide between records that are otherwise equal, so that all nodes choose alike.
    """
    left = (one.incarnation, one.state, one.boot)
    right = (other.incarnation, other.state, other.boot)
    return (left > right) - (left < right)


def _is_sane(record: MemberRecord) -> bool:
    return record.incarnation < INCARNATION_MAX and sum(map(len, record.addresses)) <= ADDRESS_CHARS_MAX


def _never(_node: bytes) -> bool:
    return False


def _ignore_change(_record: MemberRecord, _previous: State | None) -> None:
    """Stand in for the callback."""


def _ignore_duplicate(_other: MemberRecord) -> None:
    """Stand in for the callback."""
