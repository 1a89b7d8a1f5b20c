"""How long an accused member may take to answer before it counts as unreachable.

One accuser may be wrong: its own network may be the one that fails. So a suspicion starts with a long
wait, and each further member that could not reach the accused either shortens it, logarithmically:

    shortest = factor * max(1, log10 N) * probe interval
    longest  = shortest * factor_max
    wait     = shortest + (longest - shortest) * (1 - log(c + 1) / log(wanted + 1))   after c confirmations

Where nobody can confirm (two members in all) the shortest wait holds from the start.

Source: Lifeguard (Dadgar, Phillips, Currey 2018) §IV.B; hashicorp/memberlist `suspicion.go`.
"""

from __future__ import annotations

import math
from typing import Final

from replication.options import Options

# Members beside the first accuser. A member that keeps three links can be confirmed by two others.
CONFIRMATIONS_WANTED: Final = 2


class Suspicion:
    """One accusation, from when this node learned of it."""

    __slots__ = ("_accusers", "_longest", "_shortest", "_wanted", "started_at")

    def __init__(self, accuser: bytes, now: float, options: Options, count: int) -> None:
        """Begin; `count` is the number of members that are not known to be unreachable."""
        self.started_at = now
        self._shortest = shortest_wait(options, count)
        self._longest = self._shortest * options.suspicion_factor_max
        # Neither the accused nor its first accuser can confirm.
        self._wanted = max(0, min(CONFIRMATIONS_WANTED, count - 2))
        self._accusers: dict[bytes, None] = {accuser: None}

    @property
    def deadline(self) -> float:
        if self._wanted == 0:
            return self.started_at + self._shortest
        confirmed = len(self._accusers) - 1
        share = min(1.0, math.log(confirmed + 1) / math.log(self._wanted + 1))
        return self.started_at + self._shortest + (self._longest - self._shortest) * (1.0 - share)

    def confirm(self, accuser: bytes) -> bool:
        """Count an accuser; True if it is a new one that still changes the wait."""
        if accuser in self._accusers or len(self._accusers) > self._wanted:
            return False
        self._accusers[accuser] = None
        return True

    def delay(self, seconds: float) -> None:
        """Wait longer, because this node itself stood still."""
        self.started_at += seconds


def shortest_wait(options: Options, count: int) -> float:
    """Return how long a suspicion lasts that enough members confirm."""
    return options.suspicion_factor * max(1.0, math.log10(max(1, count))) * options.probe_interval
