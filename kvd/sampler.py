"""Rates for INFO: commands and bytes a second, as an average over the last `SAMPLES` tenths of a second.

Source: Redis 7.2 `instantaneous_ops_per_sec` and its kin; period and number of samples are the same.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from kvd.server import Server

PERIOD_SECONDS: Final = 0.1
SAMPLES: Final = 16


class Sampler:
    """Keeps the last readings of the counters that INFO shows as rates, and the peak of memory."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # (seconds of a monotonic clock, commands, bytes received, bytes sent), oldest first
        self._readings: deque[tuple[float, int, int, int]] = deque(maxlen=SAMPLES + 1)

    def reset(self) -> None:
        """Forget all readings: the counters have started again from zero."""
        self._readings.clear()

    def sample(self, now_seconds: float) -> None:
        """Take a reading. `now_seconds` is a monotonic clock's."""
        server = self._server
        stats = server.stats
        self._readings.append((now_seconds, server.table.calls(), stats.input_bytes, stats.output_bytes))

    def rates(self) -> tuple[float, float, float]:
        """Return commands, bytes received and bytes sent, each per second; zeros before two readings."""
        if len(self._readings) < 2:
            return 0.0, 0.0, 0.0
        first, last = self._readings[0], self._readings[-1]
        elapsed = last[0] - first[0]
        commands, received, sent = (
            (after - before) / elapsed for before, after in zip(first[1:], last[1:], strict=True)
        )
        return commands, received, sent


async def sample_periodically(server: Server) -> None:
    """Take readings for as long as the daemon lives."""
    while True:
        await trio.sleep(PERIOD_SECONDS)
        server.sampler.sample(time.monotonic())
