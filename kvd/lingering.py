"""Waiting for the next request for a moment, before the hub goes back to Trio's loop.

A client that asks one thing after another is answered without the way round by that loop, which costs as much
as the request: the hub waits in its own selector (`LINGER_SECONDS`). And a client that asks again *at once*
finds the hub awake: putting a processor to sleep and waking it up takes longer than serving a request
(tens of microseconds on a virtual machine), so while requests come within `SPIN_NANOSECONDS` of each other the
selector is asked again and again instead of being waited for. One request that comes later, or none, ends
that, so a hub without such clients costs nothing. Between two looks whoever else is ready to run on this
processor may do so: it may be the client. Where there is no second processor at all, nothing of this is done.

Source: adaptive busy polling, as in Linux's `net.core.busy_poll` and in KVM's `halt_poll_ns`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from kvd.poller import Poller
from kvd.process import usable_processors

# How long the hub waits by itself before it has Trio wait for it: many times the turn-around of a client on
# this machine, and too short to be noticed by a timer.
LINGER_SECONDS: Final = 0.001
# How soon a client has to ask again to be waited for awake: twice its turn-around on a virtual machine that
# has to wake up for every answer.
SPIN_NANOSECONDS: Final = 100_000


def _go_on() -> None:
    """Take the place of `sched_yield` where there is none."""


_GIVE_WAY: Final[Callable[[], None]] = getattr(os, "sched_yield", _go_on)


class Lingering:
    """Waits for a poller's next events. `clock` counts nanoseconds, `give_way` lets others run."""

    def __init__(
        self,
        poller: Poller,
        *,
        may_spin: bool | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
        give_way: Callable[[], None] = _GIVE_WAY,
    ) -> None:
        self._poll = poller.poll
        self._clock = clock
        self._give_way = give_way
        self._may_spin = usable_processors() >= 2 if may_spin is None else may_spin
        self._spins = False  # whether the last events came soon

    def wait(self) -> list[tuple[int, int]]:
        """Return what is ready now or becomes so in a moment; nothing if that is nothing."""
        poll, clock = self._poll, self._clock
        started = clock()
        found = poll(0)
        if self._spins:
            while not found and clock() - started < SPIN_NANOSECONDS:
                self._give_way()
                found = poll(0)
        if not found:
            found = poll(LINGER_SECONDS)
        self._spins = self._may_spin and bool(found) and clock() - started < SPIN_NANOSECONDS
        return found
