"""The latency monitor: when, and for how long, something held up the clients.

Events are named by what caused them (``command``, ``fast-command``, ``commit`` ...). Each keeps
its last `SAMPLES_MAX` samples, at most one a second, the worst of that second; and the worst since
LATENCY RESET. Nothing is kept below the threshold, and nothing at all with a threshold of 0.

Source: Redis 7.2 "latency monitoring framework"; names of events and the number of samples are the same.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvd.server import Server

SAMPLES_MAX: Final = 160
# No event takes as long (292 years): the threshold of a monitor that is switched off.
_NEVER_NS: Final = 2**63


class EventHistory:
    """The samples of one event, oldest first, as (unix seconds, milliseconds)."""

    __slots__ = ("samples", "worst_ms")

    def __init__(self) -> None:
        self.samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)
        self.worst_ms = 0

    def add(self, at_seconds: int, milliseconds: int) -> None:
        """Take one sample; within a second only the worst is kept."""
        self.worst_ms = max(self.worst_ms, milliseconds)
        if self.samples and self.samples[-1][0] == at_seconds:
            milliseconds = max(self.samples.pop()[1], milliseconds)
        self.samples.append((at_seconds, milliseconds))


class LatencyMonitor:
    """All events by name. `threshold_ns` is what callers compare an elapsed time with."""

    def __init__(self, server: Server) -> None:
        self.events: dict[str, EventHistory] = {}
        self.threshold_ns = _NEVER_NS
        self._server = server
        self.configure()

    def configure(self) -> None:
        """Take the threshold from the settings that are in force now."""
        milliseconds = self._server.settings.log.latency_monitor_threshold_ms
        self.threshold_ns = milliseconds * 1_000_000 if milliseconds else _NEVER_NS

    def record(self, event: str, elapsed_ns: int) -> None:
        """Keep a sample of `event` if it took long enough to be worth it."""
        if elapsed_ns < self.threshold_ns:
            return
        history = self.events.get(event)
        if history is None:
            history = self.events[event] = EventHistory()
        history.add(self._server.store.now_ms // 1000, elapsed_ns // 1_000_000)

    def reset(self, names: list[str]) -> int:
        """Forget the named events, or all when none is named. Returns how many there were."""
        found = [name for name in names if name in self.events] if names else list(self.events)
        for name in found:
            self.events.pop(name, None)
        return len(set(found))
