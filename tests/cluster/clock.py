"""Virtual time: Trio's clock jumps to the next deadline whenever nobody has anything to do.

`trio.testing.MockClock` with `autojump_threshold=0`, made faster: its time is a number here, and not worked out
from the real clock, since a simulation reads the time more often than anything else. `run` also makes Trio's
scheduler deterministic: tasks that are ready together run in an order drawn from the seed, whatever the
addresses of objects are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from trio import run as trio_run_function
from trio._core import _run as trio_run
from trio.testing import MockClock

Result = TypeVar("Result")


def virtual_clock() -> MockClock:
    """Return a clock at zero that moves only when every task waits."""
    clock = MockClock(autojump_threshold=0)
    now = 0.0

    def current_time() -> float:
        return now

    def deadline_to_sleep_time(deadline: float) -> float:
        return 0 if deadline <= now else 999_999_999

    def jump() -> None:
        """Jump; called by Trio's run loop when nothing can run."""
        nonlocal now
        following = trio_run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        if now < following < inf:
            now = following

    # The class is final; an instance may have methods of its own.
    clock.current_time = current_time  # type: ignore[method-assign]
    clock.deadline_to_sleep_time = deadline_to_sleep_time  # type: ignore[method-assign]
    clock._autojump = jump  # type: ignore[method-assign]
    return clock


def run(function: Callable[[], Awaitable[Result]], seed: int) -> Result:
    """Run `function` under a clock of its own, with a schedule that depends on `seed` alone."""
    was_deterministic = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    state = trio_run._r.getstate()
    setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010 - it is declared Final
    trio_run._r.seed(seed)
    try:
        return trio_run_function(function, clock=virtual_clock())
    finally:
        setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", was_deterministic)  # noqa: B010
        trio_run._r.setstate(state)
