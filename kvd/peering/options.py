"""From the settings of a daemon to the constants of its replicator."""

from __future__ import annotations

import socket
from typing import Final

from kvd.settings import PeersSettings, Settings
from replication.options import Options
from replication.transport import format_address

# 2025-01-01: a clock that is behind this is wrong, whoever else is there to compare it with.
BUILT_AT_MS: Final = 1_735_689_600_000
_WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 -- looked for, not bound


def peer_options(settings: Settings, port: int) -> Options:
    """Return the replicator's constants for a node that peers reach at `port`."""
    peers = settings.peers
    return Options(
        zone=peers.zone,
        addresses=advertised(peers, port) if peers.dialable else (),
        dialable=peers.dialable,
        join=peers.join,
        groups=peers.groups,
        full_mesh_max=peers.full_mesh_max,
        max_offset=peers.clock_max_offset_ms / 1000,
        hold=float(peers.clock_hold_seconds),
        on_skew=peers.clock_on_skew,
        built_at_ms=BUILT_AT_MS,
        purge_interval=float(peers.purge_interval_seconds),
        max_offline=float(peers.max_offline_seconds),
        stale_writes=peers.stale_writes,
        sync_interval=float(peers.sync_interval_seconds),
        sync_rate_max=peers.sync_bytes_a_second_max,
        verify_interval=float(peers.verify_interval_seconds),
    )


def advertised(peers: PeersSettings, port: int) -> tuple[str, ...]:
    """Return how others reach this node: as it was told, or as far as it can know."""
    if peers.advertise:
        return peers.advertise
    if peers.bind not in _WILDCARDS:
        return (format_address(peers.bind, port),)
    found = (_outgoing_address(peers.join), socket.gethostname())
    return tuple(dict.fromkeys(format_address(host, port) for host in found if host))


def _outgoing_address(join: tuple[str, ...]) -> str | None:
    """Return this machine's own address on the way to the first node that can be reached; nothing is sent."""
    for address in join:
        host, _, port = address.rpartition(":")
        try:
            family, kind, _, _, target = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_DGRAM
            )[0]
            with socket.socket(family, kind) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None
