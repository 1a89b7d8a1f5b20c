"""The metrics of replication: one table of names, read from one report.

A metric is a name, a label or none, and a number. INFO shows them in its section Peers as
``name{label}:value``; names and meanings are in docs/replication.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from kvd.peering.report import ClusterReport, MemberReport, report

if TYPE_CHECKING:
    from kvd.peering.peers import Peers

# (name, labels in the order in which they are shown, value)
Metric: TypeAlias = "tuple[str, tuple[tuple[str, str], ...], float]"

# Counters that are there from the start, so that an alarm on them can be written before they first move.
COUNTERS: Final = (
    "push_sent_total",
    "push_received_total",
    "push_duplicate_total",
    "push_parked_total",
    "link_behind_total",
    "pull_total",
    "pull_served_total",
    "changes_applied_total",
    "sync_started_total",
    "sync_ended_total",
    "sync_failed_total",
    "sync_bytes_total",
    "origins_held_total",
    "voided_total",
    "clock_jumps_total",
    "stale_writes_total",
    "given_way_total",
    "deleted_again_total",
    "divergence_total",
    "rollbacks_total",
    "protocol_errors_total",
    "links_silent_total",
    "members_refused_total",
    "refutations_total",
    "body_bytes_total",
    "loop_late_total",
)
# Of the store's figures, those that are about replication, and what they are called here, with a label or none.
STORE: Final[dict[str, tuple[str, tuple[tuple[str, str], ...]]]] = {
    "conflicts_value": ("conflicts_total", (("kind", "value"),)),
    "conflicts_expiry": ("conflicts_total", (("kind", "expiry"),)),
    "conflicts_other": ("conflicts_total", (("kind", "other"),)),
    "forks": ("dot_fork_total", ()),
    "purged": ("gc_purged_total", ()),
    "undecodable": ("undecodable_cells", ()),
    "bodyless": ("bodyless_cells", ()),
    "tombstones": ("tombstones", ()),
    "expired_headers": ("expired_headers", ()),
}

# Of these, the samples are named with _bucket, _sum and _count.
HISTOGRAMS: Final = frozenset({"propagation_seconds"})


def metrics(peers: Peers) -> Iterator[Metric]:
    """Yield every metric of this moment."""
    found = report(peers, trio.current_time())
    yield from _of_node(found)
    for member in found.members:
        if not member.is_self:
            yield from _of_member(member)
    yield from _held(peers)
    yield from _propagation(peers)
    yield "health", (), float(peers.replicator.membership.health.score)
    expires_at = peers.credentials.expires_at()
    if expires_at is not None:
        yield "cert_expiry_seconds", (), expires_at - time.time()
    yield "loop_stall_seconds", (), peers.server.stats.loop_stall_seconds
    yield "duplicate_node", (), float(peers.replicator.membership.duplicate_node)
    in_flight = sum(exchange.bodies.in_flight for exchange in peers.replicator.exchanges.values())
    yield "blob_inflight", (), float(in_flight)


def _of_node(found: ClusterReport) -> Iterator[Metric]:
    yield "accepts_writes", (), float(found.refusal is None)
    yield "clock_ok", (), float(found.clock_ok)
    if found.clock_offset_seconds is not None:
        yield "clock_offset_seconds", (), found.clock_offset_seconds
    yield "vector_entries", (("state", "open"),), float(found.open_origins)
    yield "vector_entries", (("state", "sealed"),), float(found.sealed_origins)
    yield "origins_held", (), float(found.held_origins)
    yield "bootstrap_fraction", (), 1.0 if found.bootstrap is None else found.bootstrap.fraction
    yield "gc_blocked_by", (), float(sum(member.blocks_gc for member in found.members))
    for group in found.groups:
        label = (("group", str(group.group)),)
        yield "group_open", label, float(group.refusal is None)
        yield "group_members", label, float(group.members)
        yield "group_linked", label, float(group.linked)
        yield "group_lag_dots", label, float(group.lag_dots)
        yield "group_bootstrap_fraction", label, 1.0 if group.bootstrap is None else group.bootstrap.fraction
        yield "group_gc_blocked_by", label, float(len(group.blocked_by))
    for name in dict.fromkeys((*COUNTERS, *found.counters)):
        yield name, (), found.counters.get(name, 0.0)
    for field, (name, labels) in STORE.items():
        yield name, labels, float(found.store[field])


def _of_member(member: MemberReport) -> Iterator[Metric]:
    label = (("peer", member.node.hex()[:8]),)
    yield "peer_state", (*label, ("state", member.state)), 1.0
    yield "peer_linked", label, float(member.is_linked)
    if member.rtt_seconds is not None:
        yield "peer_rtt_seconds", label, member.rtt_seconds
    if member.offset_seconds is not None:
        yield "peer_clock_offset_seconds", label, member.offset_seconds
    yield "lag_dots", label, float(member.lag_dots)
    yield "lag_seconds", label, member.lag_seconds
    yield "queue_bytes", label, float(member.queue_bytes)
    yield "link_behind", label, float(member.is_behind)
    yield "gc_blocked_by", label, float(member.blocks_gc)


def _held(peers: Peers) -> Iterator[Metric]:
    """Yield for how long the writes of each origin whose clock is ahead have to wait yet."""
    replicator = peers.replicator
    held = [one for exchange in replicator.exchanges.values() for one in exchange.dissemination.held.items()]
    for origin, hlc in held:
        seconds = replicator.clock.held_seconds(hlc, peers.wall_ms())
        yield "origin_held_seconds", (("origin", origin.hex()[:8]),), seconds


def _propagation(peers: Peers) -> Iterator[Metric]:
    """Yield the histogram in Prometheus's way: each bucket counts what is not above its bound."""
    histogram = peers.replicator.core.propagation
    total = 0
    for bound, count in histogram.buckets():
        total += count
        shown = "+Inf" if math.isinf(bound) else f"{bound:g}"
        yield "propagation_seconds_bucket", (("le", shown),), float(total)
    yield "propagation_seconds_sum", (), histogram.sum
    yield "propagation_seconds_count", (), float(total)
