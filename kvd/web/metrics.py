"""Prometheus metrics, from one table.

Where the meaning is that of a metric of redis_exporter, so is the name, and dashboards made for Redis work. What
only kvd has begins with ``kvd_``; what replication measures comes from `kvd.peering.metrics`.

Source: oliver006/redis_exporter; the text exposition format of Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

import kvd
from kvd import process
from kvd.peering import metrics as peering

if TYPE_CHECKING:
    from kvd.server import Server

CONTENT_TYPE: Final = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"

Labels: TypeAlias = "tuple[tuple[str, str], ...]"
Sample: TypeAlias = "tuple[Labels, float]"

# Bounds of the histogram of HTTP requests, as powers of two of nanoseconds: 16 us to 1 s.
_BOUNDS: Final = range(14, 31)


@attrs.frozen
class Metric:
    """One metric: its samples are read when asked for."""

    name: str
    kind: str  # counter | gauge | histogram
    help: str
    read: Callable[[Server], Iterable[Sample]]


def _one(read: Callable[[Server], float]) -> Callable[[Server], Iterable[Sample]]:
    return lambda server: (((), read(server)),)


def _databases(read: Callable[[Server, int], float]) -> Callable[[Server], Iterable[Sample]]:
    def samples(server: Server) -> Iterator[Sample]:
        for index in range(server.settings.compat.databases):
            yield (("db", f"db{index}"),), read(server, index)

    return samples


def _instance(server: Server) -> Iterator[Sample]:
    yield (
        (
            ("redis_version", server.settings.compat.redis_version),
            ("kvd_version", kvd.__version__),
            ("role", "master"),
        ),
        1.0,
    )


def _commands(read: Callable[[int, int], float]) -> Callable[[Server], Iterable[Sample]]:
    def samples(server: Server) -> Iterator[Sample]:
        for spec in server.table.everything():
            if spec.stats.calls:
                yield (("cmd", spec.name.lower()),), read(spec.stats.calls, spec.stats.nanoseconds)

    return samples


def _errors(server: Server) -> Iterator[Sample]:
    for code, count in server.stats.error_codes.items():
        yield (("err", code),), count


def _namespaces(read: Callable[..., float]) -> Callable[[Server], Iterable[Sample]]:
    def samples(server: Server) -> Iterator[Sample]:
        for keyspace in server.store.keyspaces.all():
            yield (("namespace", keyspace.id.hex()), ("title", keyspace.title or "")), read(keyspace)

    return samples


def _http_requests(server: Server) -> Iterator[Sample]:
    if server.web is not None:
        for (kind, method, status), count in sorted(server.web.traffic.totals().items()):
            labels = (("interface", kind), ("method", method.decode()), ("status", str(status)))
            yield labels, count


def _http_seconds(server: Server) -> Iterator[Sample]:
    if server.web is not None:
        for kind, nanoseconds in sorted(server.web.traffic.nanoseconds.items()):
            yield (("interface", kind),), nanoseconds / 1e9


def _engine(server: Server) -> Iterator[Sample]:
    for name, value in server.store.stats().items():
        yield (("figure", name),), value


_TABLE: Final = (
    Metric("redis_up", "gauge", "1: the daemon answers.", _one(lambda _: 1.0)),
    Metric("redis_instance_info", "gauge", "Versions, as labels.", _instance),
    Metric("redis_start_time_seconds", "gauge", "Start, Unix time.", _one(lambda server: server.started_at)),
    Metric("redis_connected_clients", "gauge", "Redis clients.", _one(lambda server: len(server.sessions))),
    Metric(
        "redis_config_maxclients",
        "gauge",
        "Connections that are let in.",
        _one(lambda server: server.settings.server.maxclients),
    ),
    Metric(
        "redis_blocked_clients",
        "gauge",
        "Redis clients that wait for something.",
        _one(lambda server: sum(session.suspended for session in server.sessions.values())),
    ),
    Metric(
        "redis_memory_used_bytes", "gauge", "Memory of the process.", _one(lambda _: process.resident_bytes())
    ),
    Metric(
        "redis_memory_used_rss_bytes",
        "gauge",
        "Memory of the process.",
        _one(lambda _: process.resident_bytes()),
    ),
    Metric(
        "redis_memory_used_peak_bytes", "gauge", "Its peak.", _one(lambda _: process.peak_resident_bytes())
    ),
    Metric(
        "redis_connections_received_total",
        "counter",
        "Connections of every protocol.",
        _one(lambda server: server.stats.connections_received),
    ),
    Metric(
        "redis_rejected_connections_total",
        "counter",
        "Connections that were not let in.",
        _one(lambda server: server.stats.connections_rejected),
    ),
    Metric(
        "redis_commands_processed_total",
        "counter",
        "Commands of Redis clients.",
        _one(lambda server: server.table.calls()),
    ),
    Metric(
        "redis_net_input_bytes_total",
        "counter",
        "Bytes received.",
        _one(lambda server: server.stats.input_bytes),
    ),
    Metric(
        "redis_net_output_bytes_total",
        "counter",
        "Bytes sent.",
        _one(lambda server: server.stats.output_bytes),
    ),
    Metric(
        "redis_expired_keys_total",
        "counter",
        "Expired keys that were removed.",
        _one(lambda server: server.stats.expired_keys),
    ),
    Metric(
        "redis_keyspace_hits_total",
        "counter",
        "Look-ups that found a key.",
        _one(lambda server: sum(keyspace.hits for keyspace in server.store.keyspaces)),
    ),
    Metric(
        "redis_keyspace_misses_total",
        "counter",
        "Look-ups that found none.",
        _one(lambda server: sum(keyspace.misses for keyspace in server.store.keyspaces)),
    ),
    Metric(
        "redis_unexpected_error_replies",
        "gauge",
        "Errors of ours since the start.",
        _one(lambda server: server.stats.unexpected_errors),
    ),
    Metric("redis_errors_total", "counter", "Error replies by code.", _errors),
    Metric(
        "redis_slowlog_length", "gauge", "Entries of the slow log.", _one(lambda s: len(s.slowlog.entries))
    ),
    Metric(
        "redis_db_keys", "gauge", "Keys of a database.", _databases(lambda s, i: s.store.keyspace(i).count)
    ),
    Metric(
        "redis_db_keys_expiring",
        "gauge",
        "Keys of a database that expire.",
        _databases(lambda s, i: s.store.keyspace(i).expires),
    ),
    Metric("redis_commands_total", "counter", "Calls by command.", _commands(lambda calls, _: calls)),
    Metric(
        "redis_commands_duration_seconds_total",
        "counter",
        "Time by command.",
        _commands(lambda _, nanoseconds: nanoseconds / 1e9),
    ),
    Metric(
        "redis_cpu_user_seconds_total",
        "counter",
        "Processor time.",
        _one(lambda _: process.processor_seconds()["user"]),
    ),
    Metric(
        "redis_cpu_sys_seconds_total",
        "counter",
        "Processor time in the system.",
        _one(lambda _: process.processor_seconds()["sys"]),
    ),
    Metric(
        "kvd_writable",
        "gauge",
        "Whether the disk takes writes.",
        _one(lambda server: float(server.store.writable is None)),
    ),
    Metric("kvd_ticks_total", "counter", "Turns of the hub.", _one(lambda server: server.stats.ticks)),
    Metric(
        "kvd_ticks_failed_total",
        "counter",
        "Turns whose commit failed.",
        _one(lambda server: server.stats.ticks_failed),
    ),
    Metric("kvd_namespace_keys", "gauge", "Keys of a namespace.", _namespaces(lambda one: one.count)),
    Metric(
        "kvd_namespace_keys_expiring",
        "gauge",
        "Keys of a namespace that expire.",
        _namespaces(lambda one: one.expires),
    ),
    Metric("kvd_storage", "gauge", "Figures of the store and its engine.", _engine),
    Metric("kvd_http_connections", "gauge", "HTTP clients.", _one(lambda server: len(server.http_sessions))),
    Metric("kvd_http_requests_total", "counter", "HTTP requests that were answered.", _http_requests),
    Metric("kvd_http_request_seconds_total", "counter", "Time that they took.", _http_seconds),
    Metric(
        "kvd_http_malformed_total",
        "counter",
        "Connections closed for what was no HTTP request.",
        _one(lambda server: 0 if server.web is None else server.web.traffic.malformed),
    ),
    Metric(
        "kvd_http_streams",
        "gauge",
        "Change streams that are open.",
        _one(lambda server: 0 if server.web is None else len(server.web.feeds)),
    ),
)


def render(server: Server) -> str:
    """Return everything in Prometheus's text format."""
    lines: list[str] = []
    for metric in _TABLE:
        lines += (f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}")
        lines += (_line(metric.name, labels, value) for labels, value in metric.read(server))
    lines += _histogram(server)
    if server.peers is not None:
        lines += _peering(server)
    return "\n".join(lines) + "\n"


def _line(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{label}="{_escape(text)}"' for label, text in labels)
    number = str(int(value)) if float(value).is_integer() else repr(float(value))
    return f"{name}{{{shown}}} {number}" if shown else f"{name} {number}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(server: Server) -> Iterator[str]:
    name = "kvd_http_request_duration_seconds"
    yield (
        f"# HELP {name} How long HTTP requests took, the body's arrival not counted. "
        "Answers out of the cache of hot reads are not timed: they count as 2 us, and nothing in the sum."
    )
    yield f"# TYPE {name} histogram"
    counts = [0] if server.web is None else server.web.traffic.durations()
    for bound in _BOUNDS:
        yield _line(f"{name}_bucket", (("le", f"{2**bound / 1e9:g}"),), sum(counts[: bound + 1]))
    yield _line(f"{name}_bucket", (("le", "+Inf"),), sum(counts))
    total = 0 if server.web is None else sum(server.web.traffic.nanoseconds.values())
    yield _line(f"{name}_sum", (), total / 1e9)
    yield _line(f"{name}_count", (), sum(counts))


def _peering(server: Server) -> Iterator[str]:
    assert server.peers is not None
    samples: dict[str, list[str]] = {}
    for name, labels, value in peering.metrics(server.peers):
        samples.setdefault(_family(name), []).append(_line(f"kvd_peers_{name}", labels, value))
    for name, lines in samples.items():
        kind = (
            "histogram" if name in peering.HISTOGRAMS else "counter" if name.endswith("_total") else "gauge"
        )
        yield f"# TYPE kvd_peers_{name} {kind}"
        yield from lines


def _family(name: str) -> str:
    """Return the name under which Prometheus knows a sample: a histogram's have a suffix."""
    family = name.rpartition("_")[0]
    return family if family in peering.HISTOGRAMS else name
