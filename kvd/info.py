"""INFO: what the daemon can tell about itself, in sections of ``field:value`` lines.

Each section is one function from the server to its fields, read at one moment between two commands, so
the numbers of a reply belong together. Fields have Redis's names where they mean the same; a field of
Redis's that means nothing here is left out, unless clients or exporters need it to be there. What only kvd
knows is in the section Storage, and in ``kvd_version``.

`used_memory` is the memory that the process holds: a Python process cannot tell how much of it is in use.

Source: Redis 7.2 INFO.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import trio

import kvd
from kvd import encryption, process
from kvd.commands.spec import CommandSpec, CommandStats
from kvd.peering.metrics import metrics
from kvd.peering.report import GroupReport, MemberReport, report

if TYPE_CHECKING:
    from kvd.peering.peers import Peers
    from kvd.server import Server

Fields = dict[str, Any]

_NO_ID: Final = "0" * 40
_PERCENTILES: Final = (50.0, 99.0, 99.9)


def render(server: Server, wanted: Iterable[str]) -> str:
    """Return the text of INFO for the named sections, in Redis's order.

    A name is a section's or one of ``default``, ``all``, ``everything``; unknown ones mean nothing.
    """
    parts = []
    for name in _chosen(wanted):
        if name == "peers" and server.peers is None:
            continue
        title, fields = _SECTIONS[name]
        lines = [f"# {title}", *(f"{field}:{value}" for field, value in fields(server).items())]
        parts.append("\r\n".join(lines) + "\r\n")
    return "\r\n".join(parts)


def _chosen(wanted: Iterable[str]) -> list[str]:
    names: set[str] = set()
    for word in wanted:
        names.update(_GROUPS.get(word.lower(), {word.lower()}))
    return [name for name in _SECTIONS if name in names]


# --- sections


def _server(server: Server) -> Fields:
    now_seconds = time.time()
    uptime_seconds = int(now_seconds - server.started_at)
    return {
        "redis_version": server.settings.compat.redis_version,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": 0,
        "redis_mode": "standalone",
        "kvd_version": kvd.__version__,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64 if sys.maxsize > 2**32 else 32,
        "multiplexing_api": "epoll" if sys.platform == "linux" else "selectors",
        "monotonic_clock": time.get_clock_info("monotonic").implementation,
        "python_version": platform.python_version(),
        "process_id": os.getpid(),
        "process_supervised": "no",
        "run_id": server.run_id,
        "tcp_port": _tcp_port(server),
        "server_time_usec": int(now_seconds * 1_000_000),
        "uptime_in_seconds": uptime_seconds,
        "uptime_in_days": uptime_seconds // 86400,
        "hz": 10,
        "configured_hz": 10,
        "lru_clock": int(now_seconds) & 0xFFFFFF,
        "executable": sys.executable,
        "config_file": server.config_file or "",
        "io_threads_active": 0,
    }


def _tcp_port(server: Server) -> int:
    """Return the port that is listened on, which the setting does not tell when it is 0."""
    listeners = () if server.hub is None else server.hub.listeners.values()
    ports = (each.port for each in listeners if each.port and each.door.protocol == "resp")
    return next(ports, max(server.settings.server.port, 0))


def _clients(server: Server) -> Fields:
    sessions = server.sessions.values()
    inputs = [session.buffered_bytes for session in sessions]
    outputs = [session.transport.unsent_bytes for session in sessions if session.transport is not None]
    return {
        "connected_clients": len(server.sessions),
        "cluster_connections": 0,
        "maxclients": server.settings.server.maxclients,
        "client_recent_max_input_buffer": max(inputs, default=0),
        "client_recent_max_output_buffer": max(outputs, default=0),
        "blocked_clients": sum(session.suspended for session in sessions),
        "tracking_clients": server.tracking.session_count,
        "pubsub_clients": sum(session.subscription_count > 0 for session in sessions),
        "watching_clients": sum(bool(session.watched) for session in sessions),
        "clients_in_timeout_table": 0,
        "total_watched_keys": sum(len(session.watched) for session in sessions),
        "total_blocking_keys": 0,
        "total_blocking_keys_on_nokey": 0,
    }


def _memory(server: Server) -> Fields:
    resident = process.resident_bytes()
    peak = max(process.peak_resident_bytes(), resident)
    dataset = min(server.store.stats()["cache_bytes"], resident)
    total = process.system_bytes()
    scripts = server.scripts
    clients = sum(session.buffered_bytes for session in server.sessions.values())
    return {
        "used_memory": resident,
        "used_memory_human": human(resident),
        "used_memory_rss": resident,
        "used_memory_rss_human": human(resident),
        "used_memory_peak": peak,
        "used_memory_peak_human": human(peak),
        "used_memory_peak_perc": f"{100 * resident / max(peak, 1):.2f}%",
        "used_memory_overhead": resident - dataset,
        "used_memory_startup": server.startup_bytes,
        "used_memory_dataset": dataset,
        "used_memory_dataset_perc": f"{100 * dataset / max(resident, 1):.2f}%",
        "total_system_memory": total,
        "total_system_memory_human": human(total),
        "used_memory_lua": scripts.used_bytes,
        "used_memory_lua_human": human(scripts.used_bytes),
        "used_memory_vm_eval": scripts.used_bytes,
        "used_memory_vm_functions": 0,
        "used_memory_vm_total": scripts.used_bytes,
        "used_memory_vm_total_human": human(scripts.used_bytes),
        "used_memory_scripts_eval": scripts.cached_bytes,
        "used_memory_functions": 0,
        "used_memory_scripts": scripts.cached_bytes,
        "used_memory_scripts_human": human(scripts.cached_bytes),
        "number_of_cached_scripts": scripts.count,
        "number_of_functions": 0,
        "number_of_libraries": 0,
        "maxmemory": 0,
        "maxmemory_human": "0B",
        "maxmemory_policy": "noeviction",
        "mem_fragmentation_ratio": "1.00",
        "mem_fragmentation_bytes": 0,
        "mem_not_counted_for_evict": 0,
        "mem_replication_backlog": 0,
        "mem_cluster_links": 0,
        "mem_aof_buffer": 0,
        "mem_clients_slaves": 0,
        "mem_clients_normal": clients + (0 if server.hub is None else server.hub.unsent_bytes),
        "mem_allocator": "libc",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
    }


def _persistence(server: Server) -> Fields:
    checkpoints = server.checkpoints
    running = checkpoints.running_seconds
    last = checkpoints.last_duration_seconds
    return {
        "loading": 0,
        "async_loading": 0,
        "current_cow_peak": 0,
        "current_cow_size": 0,
        "current_cow_size_age": 0,
        "current_fork_perc": "0.00",
        "current_save_keys_processed": 0,
        "current_save_keys_total": 0,
        "rdb_changes_since_last_save": checkpoints.commits_since_save,
        "rdb_bgsave_in_progress": int(running is not None),
        "rdb_last_save_time": checkpoints.saved_at_seconds,
        "rdb_last_bgsave_status": "ok" if checkpoints.last_error is None else "err",
        "rdb_last_bgsave_time_sec": -1 if last is None else int(last),
        "rdb_current_bgsave_time_sec": -1 if running is None else int(running),
        "rdb_saves": checkpoints.count,
        "rdb_last_cow_size": 0,
        "rdb_last_load_keys_expired": 0,
        "rdb_last_load_keys_loaded": 0,
        "aof_enabled": 1,
        "aof_rewrites": 0,
        "aof_rewrites_consecutive_failures": 0,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "ok" if server.store.writable is None else "err",
        "aof_last_cow_size": 0,
        "module_fork_in_progress": 0,
        "module_fork_last_cow_size": 0,
    }


def _stats(server: Server) -> Fields:
    stats = server.stats
    commands, received, sent = server.sampler.rates()
    return {
        "total_connections_received": stats.connections_received,
        "total_commands_processed": server.table.calls(),
        "instantaneous_ops_per_sec": round(commands),
        "total_net_input_bytes": stats.input_bytes,
        "total_net_output_bytes": stats.output_bytes,
        "instantaneous_input_kbps": f"{received / 1024:.2f}",
        "instantaneous_output_kbps": f"{sent / 1024:.2f}",
        "rejected_connections": stats.connections_rejected,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": stats.expired_keys,
        "expired_stale_perc": "0.00",
        "expired_time_cap_reached_count": 0,
        "expire_cycle_cpu_milliseconds": int(stats.sweep_seconds * 1000),
        "evicted_keys": 0,
        "evicted_clients": stats.evicted_clients,
        "total_eviction_exceeded_time": 0,
        "current_eviction_exceeded_time": 0,
        "keyspace_hits": sum(keyspace.hits for keyspace in server.store.keyspaces),
        "keyspace_misses": sum(keyspace.misses for keyspace in server.store.keyspaces),
        "pubsub_channels": len(server.pubsub.channels),
        "pubsub_patterns": len(server.pubsub.patterns),
        "pubsubshard_channels": len(server.pubsub.shard_channels),
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "slave_expires_tracked_keys": 0,
        "active_defrag_hits": 0,
        "active_defrag_misses": 0,
        "active_defrag_key_hits": 0,
        "active_defrag_key_misses": 0,
        "total_active_defrag_time": 0,
        "current_active_defrag_time": 0,
        "tracking_total_keys": server.tracking.key_count,
        "tracking_total_items": server.tracking.reader_count,
        "tracking_total_prefixes": sum(
            len(session.tracking.prefixes) for session in server.sessions.values() if session.tracking
        ),
        "unexpected_error_replies": stats.unexpected_errors,
        "total_error_replies": stats.errors,
        "total_reads_processed": stats.reads,
        "total_writes_processed": stats.writes,
        "io_threaded_reads_processed": 0,
        "io_threaded_writes_processed": 0,
        "client_query_buffer_limit_disconnections": stats.query_limit_closed,
        "client_output_buffer_limit_disconnections": stats.output_limit_closed,
        "acl_access_denied_auth": stats.acl_denied_auth,
        "acl_access_denied_cmd": stats.acl_denied_cmd,
        "acl_access_denied_key": stats.acl_denied_key,
        "acl_access_denied_channel": stats.acl_denied_channel,
    }


def _replication(server: Server) -> Fields:
    peers = server.peers
    own: Fields = {} if peers is None else _peer_fields(peers)
    return {
        "role": "master",
        "connected_slaves": 0 if peers is None else len(peers.replicator.core.links),
        **own,
        "master_failover_state": "no-failover",
        "master_replid": server.run_id,
        "master_replid2": _NO_ID,
        "master_repl_offset": 0 if peers is None else peers.offset(),
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def _peer_fields(peers: Peers) -> Fields:
    """Return what is known of this node in its cluster, and one line for each other member.

    Not called slave0, slave1 ...: clients that find replicas by such lines would read from the peers' ports.
    """
    found = report(peers, trio.current_time())
    fields: Fields = {
        "cluster_id": found.cluster.hex(),
        "node_id": found.node.hex(),
        "node_standing": found.standing,
        "node_clock_ok": int(found.clock_ok),
        "members": len(found.members),
        "members_linked": sum(member.is_linked for member in found.members),
    }
    if found.bootstrap is not None:
        fields["bootstrap_percent"] = f"{100 * found.bootstrap.fraction:.1f}"
        fields["bootstrap_bytes"] = found.bootstrap.bytes
    for group in found.groups:
        fields[f"group{group.group}"] = _group_line(group)
    others = [member for member in found.members if not member.is_self]
    return fields | {f"member{number}": _member_line(member) for number, member in enumerate(others)}


def _group_line(group: GroupReport) -> str:
    fields: Fields = {"standing": group.standing, "members": group.members, "linked": group.linked}
    if group.bootstrap is not None:
        fields["bootstrap_percent"] = f"{100 * group.bootstrap.fraction:.1f}"
    fields |= {"lag_dots": group.lag_dots, "dots": group.applied_dots}
    return ",".join(f"{name}={value}" for name, value in fields.items())


def _member_line(member: MemberReport) -> str:
    fields = {
        "id": member.node.hex(),
        "address": member.addresses[0] if member.addresses else "",
        "state": member.state,
        "linked": int(member.is_linked),
        "zone": member.zone,
        "rtt_us": _or_nothing(member.rtt_seconds, 1e6),
        "offset_ms": _or_nothing(member.offset_seconds, 1e3),
        "lag_dots": member.lag_dots,
        "lag_seconds": f"{member.lag_seconds:.3f}",
        "queue_bytes": member.queue_bytes,
        "behind": int(member.is_behind),
        "synced_seconds": _or_nothing(member.synced_seconds, 1),
        "blocks_gc": int(member.blocks_gc),
        "groups": " ".join(map(str, member.groups)),
    }
    return ",".join(f"{name}={value}" for name, value in fields.items())


def _or_nothing(seconds: float | None, factor: float) -> str:
    return "" if seconds is None else f"{seconds * factor:.0f}"


def _peers(server: Server) -> Fields:
    assert server.peers is not None
    return {
        f"{name}{_labels(labels)}": f"{value:.6f}".rstrip("0").rstrip(".")
        for name, labels, value in metrics(server.peers)
    }


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f"{name}={value}" for name, value in labels) + "}" if labels else ""


def _cpu(server: Server) -> Fields:
    return {f"used_cpu_{name}": f"{seconds:.6f}" for name, seconds in process.processor_seconds().items()}


def _modules(server: Server) -> Fields:
    return {}


def _commandstats(server: Server) -> Fields:
    return {f"cmdstat_{_name(spec)}": _calls(spec.stats) for spec in _used(server)}


def _used(server: Server) -> Iterator[CommandSpec]:
    """Yield the commands that were called, refused or failed since the counters started."""
    for spec in server.table.everything():
        if spec.stats.calls or spec.stats.rejected or spec.stats.failed:
            yield spec


def _name(spec: CommandSpec) -> str:
    return spec.name.lower()


def _calls(stats: CommandStats) -> str:
    microseconds = stats.nanoseconds // 1000
    average = stats.nanoseconds / 1000 / max(stats.timed, 1)
    return (
        f"calls={stats.calls},usec={microseconds},usec_per_call={average:.2f},"
        f"rejected_calls={stats.rejected},failed_calls={stats.failed}"
    )


def _errorstats(server: Server) -> Fields:
    return {f"errorstat_{code}": f"count={count}" for code, count in server.stats.error_codes.items()}


def _latencystats(server: Server) -> Fields:
    return {
        f"latency_percentiles_usec_{_name(spec)}": _percentiles(spec.stats)
        for spec in _used(server)
        if spec.stats.timed
    }


def _percentiles(stats: CommandStats) -> str:
    return ",".join(
        f"p{percent:g}={percentile_nanoseconds(stats, percent) / 1000:.3f}" for percent in _PERCENTILES
    )


def percentile_nanoseconds(stats: CommandStats, percent: float) -> float:
    """Return the time that `percent` of the calls took at most, spread evenly within its bucket.

    A bucket reaches from a power of two to the next, so this is an estimate, at most a factor of two off.
    """
    rank = math.ceil(stats.timed * percent / 100)
    for exponent, count in enumerate(stats.histogram):
        if count and rank <= count:
            low = (1 << exponent) // 2
            return low + ((1 << exponent) - low) * rank / count
        rank -= count
    return 0.0


def _cluster(server: Server) -> Fields:
    return {"cluster_enabled": 0}


def _keyspace(server: Server) -> Fields:
    found: Fields = {}
    for index in range(server.settings.compat.databases):
        keyspace = server.store.keyspace(index)
        if keyspace.count:
            found[f"db{index}"] = f"keys={keyspace.count},expires={keyspace.expires},avg_ttl=0"
    return found


def _storage(server: Server) -> Fields:
    store = server.store
    return {
        "storage_durability": server.settings.storage.durability,
        "storage_writable": int(store.writable is None),
        **encryption.fields(store),
        "storage_ticks": server.stats.ticks,
        "storage_ticks_failed": server.stats.ticks_failed,
        **{f"storage_{name}": value for name, value in store.stats().items()},
    }


_SECTIONS: Final[dict[str, tuple[str, Callable[[Server], Fields]]]] = {
    "server": ("Server", _server),
    "clients": ("Clients", _clients),
    "memory": ("Memory", _memory),
    "persistence": ("Persistence", _persistence),
    "stats": ("Stats", _stats),
    "replication": ("Replication", _replication),
    "peers": ("Peers", _peers),
    "cpu": ("CPU", _cpu),
    "modules": ("Modules", _modules),
    "commandstats": ("Commandstats", _commandstats),
    "errorstats": ("Errorstats", _errorstats),
    "latencystats": ("Latencystats", _latencystats),
    "cluster": ("Cluster", _cluster),
    "keyspace": ("Keyspace", _keyspace),
    "storage": ("Storage", _storage),
}

# Redis's words for several sections at once. Statistics of single commands are long, so not by default.
_GROUPS: Final = {
    "everything": frozenset(_SECTIONS),
    "all": frozenset(_SECTIONS) - {"modules"},
    "default": frozenset(_SECTIONS) - {"commandstats", "latencystats", "peers"},
}


def human(size_bytes: int) -> str:
    """Return a size as Redis writes it for people: ``1.40M``."""
    if size_bytes < 1024:
        return f"{size_bytes}B"
    amount = float(size_bytes)
    for unit in "KMGTP":
        amount /= 1024
        if amount < 1024 or unit == "P":
            return f"{amount:.2f}{unit}"
    raise AssertionError("the loop returns at its last unit")
