"""The dashboard's view of the daemon and its cluster. Endpoints and fields: see `dashboard_api`."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any, Final

import trio

import kvd
from kvd import process
from kvd.peering.report import MemberReport, member_reports
from kvd.web import envelope
from kvd.web.access import READ, greatest_right
from kvd.web.errors import AUTHENTICATION, Refused, as_envelope
from kvd.web.front import Route

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.web.exchange import Exchange
    from protocol.http_responses import Response


def _session(exchange: Exchange) -> Response:
    server = exchange.server
    return envelope.result(
        {
            "name": exchange.access.name,
            "right": greatest_right(exchange.access, None),  # null: in some namespaces only
            "is_open": exchange.front.gatekeeper.is_open,
            "version": kvd.__version__,
            "node": server.store.node_id.hex(),
        }
    )


def _require_read(exchange: Exchange) -> None:
    if not exchange.access.permits(READ, None):
        raise Refused(403, "Authentication error", AUTHENTICATION)


# --- members


def _members(exchange: Exchange) -> Response:
    _require_read(exchange)
    peers = exchange.server.peers
    if peers is None:
        alone = {"node": exchange.server.store.node_id.hex(), "is_self": True, "state": "alive"}
        return envelope.result({"standing": "ready", "is_alone": True, "members": [alone]})
    members = [_member(member) for member in member_reports(peers, trio.current_time())]
    return envelope.result({"standing": str(peers.standing), "is_alone": False, "members": members})


def _member(member: MemberReport) -> dict[str, Any]:
    return {
        "node": member.node.hex(),
        "is_self": member.is_self,
        "state": member.state,
        "addresses": list(member.addresses),
        "zone": member.zone,
        "software": member.software,
        "is_linked": member.is_linked,
        "rtt_ms": _milliseconds(member.rtt_seconds),
        "offset_ms": _milliseconds(member.offset_seconds),
        "lag_dots": member.lag_dots,
        "lag_seconds": member.lag_seconds,
        "queue_bytes": member.queue_bytes,
        "sent_bytes": member.sent_bytes,
        "received_bytes": member.received_bytes,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


# --- figures


def _figures(exchange: Exchange) -> Response:
    """Counters: commands, http_requests, hits, misses, input_bytes, output_bytes, commits, expired, and the
    histograms, whose item i counts what took 2**(i-1) to 2**i nanoseconds. The rest are gauges.
    """
    _require_read(exchange)
    return envelope.result(figures(exchange.server))


def figures(server: Server) -> dict[str, Any]:
    """Return what the live charts show. Times in seconds, sizes in bytes."""
    store, stats, web = server.store, server.stats, server.web
    requests = 0 if web is None else sum(web.traffic.totals().values())
    calls = _histogram(server)
    requests_by_time = [] if web is None else web.traffic.durations()
    disk = shutil.disk_usage(server.settings.storage.data_dir) if _has_disk(server) else None
    return {
        "at_ms": time.time_ns() // 1_000_000,
        "uptime_seconds": time.time() - server.started_at,
        "commands": server.table.calls(),
        "http_requests": requests,
        "hits": sum(keyspace.hits for keyspace in store.keyspaces),
        "misses": sum(keyspace.misses for keyspace in store.keyspaces),
        "input_bytes": stats.input_bytes,
        "output_bytes": stats.output_bytes,
        "expired": stats.expired_keys,
        "commits": store.commits,
        "ticks": stats.ticks,
        "resp_clients": len(server.sessions),
        "http_clients": len(server.http_sessions),
        "streams": 0 if web is None else len(web.feeds),
        "keys": sum(keyspace.count for keyspace in store.keyspaces),
        "memory_bytes": process.resident_bytes(),
        "cpu_seconds": sum(process.processor_seconds().values()),
        "disk_total_bytes": None if disk is None else disk.total,
        "disk_free_bytes": None if disk is None else disk.free,
        "is_writable": store.writable is None and server.refusal is None,
        "command_latency_seconds": _percentiles(calls),
        "http_latency_seconds": _percentiles(requests_by_time),
        "command_histogram": calls,
        "http_histogram": requests_by_time,
        "storage": store.stats(),
    }


def _has_disk(server: Server) -> bool:
    return server.hub is not None and bool(server.settings.storage.data_dir)


def _histogram(server: Server) -> list[int]:
    """Return how many calls took less than 2**index nanoseconds, and not less than half of that."""
    total = [0] * 64
    for spec in server.table.everything():
        for bucket, count in enumerate(spec.stats.histogram):
            total[bucket] += count
    return total


def _percentiles(histogram: list[int]) -> dict[str, float]:
    """Return the bounds below which half, 99 and 99.9 percent of the calls since the start were."""
    calls = sum(histogram)
    found: dict[str, float] = {}
    for name, part in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        seen = 0
        for bucket, count in enumerate(histogram):
            seen += count
            if count and seen >= calls * part:
                found[name] = 2.0**bucket / 1e9
                break
    return found


ROUTES: Final = {
    b"session": {b"GET": Route(_session, as_envelope, "dashboard")},
    b"members": {b"GET": Route(_members, as_envelope, "dashboard")},
    b"figures": {b"GET": Route(_figures, as_envelope, "dashboard")},
}
