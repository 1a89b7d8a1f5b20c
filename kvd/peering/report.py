"""What this node knows of its cluster at one moment: for INFO, KV.MEMBERS, KV.CLUSTER STATUS and the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from replication.asking import Progress, Walk
from replication.exchange import Exchange
from replication.messages import State
from replication.rejoin import Standing
from replication.replicator import Replicator
from storage.changes import VersionVector

if TYPE_CHECKING:
    from kvd.peering.peers import Peers

_STATES: Final = {state: state.name.lower() for state in State}


@attrs.frozen
class MemberReport:
    """One member as this node sees it. Times in seconds; None where nothing was measured."""

    node: bytes
    is_self: bool
    state: str  # alive, suspect, unreachable, left, removed; the standing where it is this node; unknown
    addresses: tuple[str, ...] = ()
    zone: str = ""
    software: str = ""
    is_dialable: bool = True
    is_linked: bool = False
    rtt_seconds: float | None = None
    offset_seconds: float | None = None  # its clock minus ours
    heard_seconds: float | None = None  # since its last sign of life
    lag_dots: int = 0  # of what this node has, as far as the member told
    lag_seconds: float = 0.0
    queue_bytes: int = 0
    is_behind: bool = False
    sent_bytes: int = 0
    received_bytes: int = 0
    synced_seconds: float | None = None  # since the last sync from it ended well
    blocks_gc: bool = False
    groups: tuple[int, ...] = ()  # that it carries beside the common one


@attrs.frozen
class Bootstrap:
    """How far a sync has come."""

    fraction: float
    changes: int
    bytes: int
    seconds: float
    eta_seconds: float | None


@attrs.frozen
class CatchUp:
    """A sync under way that brings what this node has missed in a group, and from whom. Not a full one."""

    group: int
    node: bytes
    progress: Bootstrap


@attrs.frozen
class GroupReport:
    """One further group that this node carries, or is about to. `members` and `linked` count others."""

    group: int
    standing: str  # waiting, as long as this node is no whole member of the cluster itself
    refusal: str | None
    bootstrap: Bootstrap | None = None
    members: int = 0
    linked: int = 0
    lag_dots: int = 0  # the most that another member lacks of it
    applied_dots: int = 0
    blocked_by: tuple[bytes, ...] = ()


@attrs.frozen
class ClusterReport:
    """The whole. Dots and origins are sums over all groups that this node carries."""

    cluster: bytes
    node: bytes
    standing: str
    refusal: str | None
    is_partial_view: bool
    members: tuple[MemberReport, ...]
    bootstrap: Bootstrap | None  # of the common group
    catching_up: tuple[CatchUp, ...]
    groups: tuple[GroupReport, ...]
    open_origins: int
    sealed_origins: int
    applied_dots: int
    durable_dots: int
    is_partial: bool
    clock_ok: bool
    clock_offset_seconds: float | None
    held_origins: int
    counters: Mapping[str, float]
    store: Mapping[str, int]


def report(peers: Peers, now: float) -> ClusterReport:
    """Look at everything once. `now` is Trio's time."""
    replicator = peers.replicator
    clock = replicator.clock
    exchanges, replicas = replicator.exchanges.values(), peers.replicas()
    origins = sum(len(replica.vector()) for replica in replicas)
    sealed = sum(len(exchange.vectors.sealed) for exchange in exchanges)
    refusal = peers.server.refusal
    return ClusterReport(
        cluster=replicator.core.identity.cluster,
        node=replicator.core.identity.node,
        standing=str(replicator.rejoin.standing),
        refusal=None if refusal is None else refusal.text,
        is_partial_view=replicator.topology.is_partial,
        members=tuple(member_reports(peers, now)),
        bootstrap=_bootstrap(replicator.common, now),
        catching_up=tuple(_catching_up(replicator, now)),
        groups=tuple(group_reports(peers, now)),
        open_origins=origins - sealed,
        sealed_origins=sealed,
        applied_dots=peers.offset(),
        durable_dots=sum(sum(replica.durable().values()) for replica in replicas),
        is_partial=any(replica.is_partial() for replica in replicas),
        clock_ok=clock.clock_ok,
        clock_offset_seconds=None if clock.median is None else clock.median.offset,
        held_origins=sum(len(exchange.dissemination.held) for exchange in exchanges),
        counters=dict(replicator.core.counters),
        store=dict(peers.replica.stats()),
    )


def group_reports(peers: Peers, now: float) -> list[GroupReport]:
    """Return the further groups that this node carries, by number."""
    return [_group(peers, group, now) for group in sorted(peers.replicator.core.options.groups)]


def _group(peers: Peers, group: int, now: float) -> GroupReport:
    replicator = peers.replicator
    refusal = replicator.refusal_in(group)
    exchange = replicator.exchanges.get(group)
    if exchange is None:
        return GroupReport(group, "waiting", refusal)
    others = [node for node in exchange.participants.members() if node != replicator.core.identity.node]
    return GroupReport(
        group=group,
        standing=str(exchange.rejoin.standing),
        refusal=refusal,
        bootstrap=_bootstrap(exchange, now),
        members=len(others),
        linked=len(exchange.core.links),
        lag_dots=max((_lag_in(peers, exchange, node)[0] for node in others), default=0),
        applied_dots=sum(exchange.core.replica.vector().values()),
        blocked_by=tuple(exchange.stability.blocked_by),
    )


def _bootstrap(exchange: Exchange, now: float) -> Bootstrap | None:
    walk = exchange.syncs.walk
    return None if walk is None else _progress(walk, now)


def _catching_up(replicator: Replicator, now: float) -> Iterator[CatchUp]:
    for group, exchange in replicator.exchanges.items():
        for found in exchange.syncs.progress():
            if not found.full:
                yield CatchUp(group, found.node, _progress(found, now))


def _progress(sync: Walk | Progress, now: float) -> Bootstrap:
    seconds = max(0.0, now - sync.started_at) if sync.started_at else 0.0
    fraction = sync.fraction
    eta = seconds / fraction - seconds if fraction > 0.01 else None
    return Bootstrap(fraction, sync.changes, sync.bytes, seconds, eta)


def member_reports(peers: Peers, now: float) -> list[MemberReport]:
    """Return this node first, then the others by id; those that left or were removed last."""
    replicator = peers.replicator
    core = replicator.core
    own = replicator.membership.own
    known = {record.node: record for record in replicator.membership.records()}
    nodes = sorted({*replicator.roster.remaining(), *known, *replicator.roster.departed()})
    others = [_member(peers, node, now) for node in nodes if node != core.identity.node]
    others.sort(key=lambda member: member.state in {"left", "removed"})
    me = MemberReport(
        node=own.node,
        is_self=True,
        state=_own_state(replicator),
        addresses=own.addresses,
        zone=own.zone,
        software=own.software,
        is_dialable=own.dialable,
        groups=tuple(sorted(core.options.groups)),
    )
    return [me, *others]


def _own_state(replicator: Replicator) -> str:
    standing = replicator.rejoin.standing
    return "alive" if standing is Standing.READY else str(standing)


def _member(peers: Peers, node: bytes, now: float) -> MemberReport:
    replicator = peers.replicator
    core = replicator.core
    link = core.links.get(node)
    exchanges = [replicator.exchanges[group] for group in peers.groups_shared_with(node)]
    flows = [exchange.dissemination.flows.get(node) for exchange in exchanges]
    is_gone = replicator.roster.is_gone(node)
    dots, seconds = (0, 0.0) if is_gone else lag(peers, node)
    synced_at = replicator.syncs.ended_at.get(node)
    found = replicator.membership.get(node)
    return MemberReport(
        node=node,
        is_self=False,
        state=_state(replicator, node),
        addresses=found.addresses if found else replicator.membership.hints().get(node, ()),
        zone=found.zone if found else "",
        software=found.software if found else "",
        is_dialable=found.dialable if found else True,
        is_linked=link is not None,
        rtt_seconds=replicator.membership.rtt(node),
        offset_seconds=replicator.clock.offset(node),
        heard_seconds=0.0 if link is not None else replicator.membership.heard_seconds(node, now),
        lag_dots=dots,
        lag_seconds=seconds,
        queue_bytes=0 if link is None else link.queued_bytes,
        is_behind=any(flow is not None and flow.behind for flow in flows),
        sent_bytes=0 if link is None else link.outbox.sent_bytes,
        received_bytes=0 if link is None else link.received_bytes,
        synced_seconds=None if synced_at is None else now - synced_at,
        blocks_gc=any(node in exchange.stability.blocked_by for exchange in exchanges),
        groups=replicator.carried.of(node),
    )


def _state(replicator: Replicator, node: bytes) -> str:
    departure = replicator.roster.departure(node)
    if departure is not None:
        return departure.state
    if node in replicator.core.links:
        link = replicator.core.links[node]
        known = replicator.vectors.known.get(node)
        if known is not None and known.boot == link.boot and not known.ready:
            return "joining"
    state = replicator.membership.state(node)
    return "unknown" if state is None else _STATES[state]


def lag(peers: Peers, node: bytes) -> tuple[int, float]:
    """Return how many dots of this node's a member lacks, in all groups that both carry, and how old the oldest may be."""
    exchanges = [peers.replicator.exchanges[group] for group in peers.groups_shared_with(node)]
    found = [_lag_in(peers, exchange, node) for exchange in exchanges]
    return sum(dots for dots, _ in found), max(seconds for _, seconds in found)


def _lag_in(peers: Peers, exchange: Exchange, node: bytes) -> tuple[int, float]:
    known = exchange.vectors.known.get(node)
    flow = exchange.dissemination.flows.get(node)
    claimed: Mapping[bytes, int] = VersionVector() if known is None else known.vector
    has = {} if flow is None else flow.have
    dots = sum(
        max(0, seq - max(claimed.get(origin, 0), has.get(origin, 0)))
        for origin, seq in exchange.core.replica.vector().items()
    )
    if not dots or known is None or not known.head_hlc:
        return dots, 0.0
    return dots, max(0.0, (peers.wall_ms() - (known.head_hlc >> 16)) / 1000)
