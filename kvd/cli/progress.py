"""A bar with rate and time left, on a terminal only."""

from __future__ import annotations

import sys
import time
from typing import Final

_WIDTH: Final = 28
_PERIOD_SECONDS: Final = 0.2
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Draws how far something is: `position` of `total` in any unit (0: not known), `count` things done."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._start = time.monotonic()
        self._last = 0.0
        self._is_shown = sys.stderr.isatty()

    def show(self, position: int, count: int) -> None:
        now = time.monotonic()
        if not self._is_shown or now - self._last < _PERIOD_SECONDS:
            return
        self._last = now
        sys.stderr.write(_CLEAR + line(self._what, position, self._total, count, now - self._start))
        sys.stderr.flush()

    def clear(self) -> None:
        if self._is_shown and self._last:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


def line(what: str, position: int, total: int, count: int, seconds: float) -> str:
    """Return one state of the bar."""
    rate = count / seconds if seconds > 0 else 0.0
    words = f"{count:,} {what}  {rate:,.0f}/s"
    if not total:
        return words
    part = min(position / total, 1.0)
    full = round(part * _WIDTH)
    left = f"  {_span(seconds * (1 - part) / part)} left" if part > 0 else ""
    return f"[{'#' * full}{'-' * (_WIDTH - full)}] {part:4.0%}  {words}{left}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
