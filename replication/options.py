"""The constants of replication that an operator, or a simulation that is in a hurry, may choose.

Durations are seconds. The relations between them matter more than their values; `check` tells which.
"""

from __future__ import annotations

from typing import Literal

import attrs

StaleWrites = Literal["deadletter", "replay", "discard"]
SkewPolicy = Literal["refuse", "warn"]

KIB = 1024
MIB = 1024 * 1024


@attrs.frozen
class Options:
    """Defaults are those of the daemon's settings."""

    # Membership and probing (`membership`, `suspicion`).
    probe_interval: float = 1.0
    probe_timeout: float = 0.5
    indirect_probes: int = 3
    suspicion_factor: float = 4.0
    suspicion_factor_max: float = 6.0
    members_interval: float = 30.0
    health_max: int = 8
    zone: str = ""
    addresses: tuple[str, ...] = ()  # how others reach this node, "host:port"
    dialable: bool = True
    join: tuple[str, ...] = ()  # addresses to begin with
    groups: tuple[int, ...] = ()  # of namespaces that this node carries, beside the common one
    # Topology (`topology`).
    full_mesh_max: int = 32
    degree: int = 8
    degree_low: int = 6
    degree_high: int = 12
    nat_links: int = 3
    redial_min: float = 0.1
    redial_max: float = 30.0
    # Clock (`clock`).
    max_offset: float = 1.0
    hold: float = 60.0
    clock_jump: float = 5.0
    on_skew: SkewPolicy = "refuse"
    start_gate: float = 5.0
    built_at_ms: int = 0  # a wall clock behind this is wrong
    # Dissemination (`dissemination`).
    push_delay: float = 0.002
    queue_changes_max: int = 4096
    queue_bytes_max: int = 8 * MIB
    queue_age_max: float = 60.0
    parked_changes_max: int = 256
    parked_bytes_max: int = 4 * MIB
    history_bytes_max: int = 8 * MIB
    pull_delay: float = 0.05
    ihave_timeout: float = 0.5
    duplicates_max: int = 5
    vector_interval: float = 0.2
    relay_vectors_interval: float = 30.0
    transaction_bytes_max: int = 16 * MIB
    # Sync (`sync`).
    sync_interval: float = 15.0  # jittered by a third
    sync_serving_max: int = 3
    sync_asking_max: int = 2
    sync_timeout: float = 30.0  # without progress
    sync_batch_bytes: int = 32 * KIB
    sync_credit_bytes: int = 1 * MIB
    sync_look_places: int = 256  # that the asker of a full sync looks at in one turn
    sync_rate_max: int = 0  # bytes a second; 0: no limit
    # Bodies (`bodies`).
    bodies_max: int = 4
    body_bytes_max: int = 256 * MIB  # of all bodies under way
    body_piece_bytes: int = 64 * KIB
    # Stability and purge (`stability`), rejoin (`rejoin`).
    purge_interval: float = 10.0
    settle_interval: float = 30.0
    max_offline: float = 7 * 86400.0
    stale_writes: StaleWrites = "deadletter"
    # Verification (`verification`).
    verify_interval: float = 600.0
    verify_retry: float = 10.0

    def check(self) -> str | None:
        """Return what is wrong with the relations between the values, or None."""
        if self.hold < 10 * self.max_offset:
            return "the clock hold must be at least ten times the greatest clock offset that is allowed"
        if self.probe_timeout >= self.probe_interval:
            return "the probe timeout must be shorter than the probe interval"
        return None
