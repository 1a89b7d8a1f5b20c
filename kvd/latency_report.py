"""Texts about latency for people: the graph of one event, and the report over all of them.

Source: Redis 7.2 LATENCY GRAPH and LATENCY DOCTOR; the graph's frame is the same, so that tools which
show it need not know, the advice is kvd's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kvd.latency import EventHistory

if TYPE_CHECKING:
    from kvd.server import Server

_ROWS: Final = 4
_WIDTH: Final = 80
# How full the topmost cell of a column is, in thirds.
_TOPS: Final = "_o|"


def graph(name: str, history: EventHistory, now_seconds: int) -> str:
    """Draw an event's samples, oldest left, with the age of each written downwards under it."""
    samples = list(history.samples)[-_WIDTH:]
    values = [milliseconds for _, milliseconds in samples]
    high, low = max(values), min(values)
    heading = f"{name} - high {high} ms, low {low} ms (all time high {history.worst_ms} ms)"
    columns = [_column(value, high, low) for value in values]
    ages = [_age(now_seconds - at_seconds) for at_seconds, _ in samples]
    depth = max(map(len, ages))
    lines = [*_turned(columns), "", *_turned([age.rjust(depth) for age in ages])]
    return "\n".join([heading, "-" * _WIDTH, *lines]) + "\n"


def _column(value: int, high: int, low: int) -> str:
    """Return one sample as `_ROWS` characters from top to bottom."""
    steps = _ROWS * len(_TOPS) - 1
    filled = steps * (value - low) // max(high - low, 1)
    full, top = divmod(filled, len(_TOPS))
    bar = "|" * full + ("#" if value == high else _TOPS[top])
    return bar.ljust(_ROWS)[::-1]


def _turned(columns: Sequence[str]) -> list[str]:
    """Write equally long texts downwards beside each other."""
    return ["".join(row) for row in zip(*columns, strict=True)]


def _age(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def report(server: Server) -> str:
    """Say in words what the monitor has seen, and what may help."""
    if not server.settings.log.latency_monitor_threshold_ms:
        return (
            "Latency monitoring is off, so there is nothing to report. Switch it on with "
            "CONFIG SET latency-monitor-threshold <milliseconds>: everything that holds up clients for "
            "that long is then kept.\n"
        )
    events = server.latency.events
    if not events:
        return "No latency spike has been seen since the monitor was switched on or reset.\n"
    lines = [f"{len(events)} kind(s) of latency spikes have been seen:", ""]
    lines += [f"{n}. {_summary(name, events[name])}" for n, name in enumerate(sorted(events), 1)]
    advice = [text for applies, text in _ADVICE if applies(server)]
    if advice:
        lines += ["", "What may help:", "", *(f"- {text}" for text in advice)]
    return "\n".join(lines) + "\n"


def _summary(name: str, history: EventHistory) -> str:
    values = [milliseconds for _, milliseconds in history.samples]
    average = sum(values) / len(values)
    deviation = sum(abs(value - average) for value in values) / len(values)
    span = history.samples[-1][0] - history.samples[0][0]
    period = span / (len(values) - 1) if len(values) > 1 else 0.0
    return (
        f"{name}: {len(values)} latency spikes (average {average:.0f}ms, mean deviation "
        f"{deviation:.0f}ms, period {period:.2f} sec). Worst all time event {history.worst_ms}ms."
    )


def _has(*names: str) -> Callable[[Server], bool]:
    return lambda server: any(name in server.latency.events for name in names)


def _slowlog_sees_less(server: Server) -> bool:
    log = server.settings.log
    return not 0 <= log.slowlog_log_slower_than_us <= log.latency_monitor_threshold_ms * 1000


_ADVICE: Final[tuple[tuple[Callable[[Server], bool], str], ...]] = (
    (
        lambda server: _has("command", "fast-command")(server) and _slowlog_sees_less(server),
        (
            "The slow log leaves out commands that the latency monitor counts. Set "
            "slowlog-log-slower-than to the same time, in microseconds."
        ),
    ),
    (
        _has("command"),
        (
            "Look at SLOWLOG GET for the commands that take long: KEYS, large ranges and long scripts hold "
            "up everybody. SCAN, smaller values and shorter scripts do not."
        ),
    ),
    (
        _has("fast-command"),
        (
            "Commands of constant time were slow: the machine was short of processor time or memory, or "
            "reads went to a slow disk. A larger storage.cache_bytes keeps more records in memory."
        ),
    ),
    (
        _has("commit"),
        (
            "Commits were slow: under durability always each waits for the disk. A faster disk helps, or "
            "durability everysec, which may lose the last second in a power cut."
        ),
    ),
)
