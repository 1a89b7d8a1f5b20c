"""Waiting for the next request for a moment, before the hub goes back to Trio's loop.

A client that asks one thing after another is answered without the way round by that loop, which costs as much
as the request: the hub waits in its own selector (`LINGER_SECONDS`), unless the last request came later than
that: it would wait for nothing, and hold up what else runs in Trio's loop, such as the links to peers. And a client
that asks again *at once* finds the hub awake: putting a processor to sleep and waking it up takes longer than serving a request
(tens of microseconds on a virtual machine), so while requests come within `SPIN_NANOSECONDS` of each other the
selector is asked again and again instead of being waited for. One request that comes later, or none, ends
that, so a hub without such clients costs nothing.

It is done only while there are processors to spare: a hub that keeps one busy for nothing makes its own client
wait for another's. Between two looks whoever else is ready to run on this processor may do so; if that
takes long, or if the machine has more tasks to run than processors, it sleeps for a while instead.

Source: adaptive busy polling, as in Linux's `net.core.busy_poll` and in KVM's `halt_poll_ns`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from kvd.poller import Poller
from kvd.process import running_tasks, usable_processors

# How long the hub waits by itself before it has Trio wait for it: many times the turn-around of a client on
# this machine, and too short to be noticed by a timer.
LINGER_SECONDS: Final = 0.001
LINGER_NANOSECONDS: Final = int(LINGER_SECONDS * 1e9)
# How soon a client has to ask again to be waited for awake: twice the turn-around of one whose processor has to
# wake up first.
SPIN_NANOSECONDS: Final = 100_000
# How often the tasks of the machine are counted meanwhile, which takes some ten microseconds.
COUNT_NANOSECONDS: Final = 20_000_000
# From one look to the next it takes a microsecond or two; so long only if somebody else has run meanwhile.
DISPLACED_NANOSECONDS: Final = 20_000
# The processor is then left to others for so many times what they took: a moment after an interrupt, some
# tenths of a second after a slice of another process.
DISPLACED_FACTOR: Final = 100
# And for so long where there are more tasks than processors.
CROWDED_NANOSECONDS: Final = 100_000_000


def _go_on() -> None:
    """Take the place of `sched_yield` where there is none."""


_PROCESSORS: Final = os.cpu_count() or 1  # of the machine, as are the tasks

_GIVE_WAY: Final[Callable[[], None]] = getattr(os, "sched_yield", _go_on)


class Lingering:
    """Waits for a poller's next events.

    `clock` counts nanoseconds, `give_way` lets others run, `running` counts the tasks that run or would like to.
    """

    def __init__(
        self,
        poller: Poller,
        *,
        processors: float | None = None,
        running: Callable[[], int] = running_tasks,
        clock: Callable[[], int] = time.perf_counter_ns,
        give_way: Callable[[], None] = _GIVE_WAY,
    ) -> None:
        self._poll = poller.poll
        self._clock = clock
        self._give_way = give_way
        self._processors = usable_processors() if processors is None else processors
        self._running = running
        self._counts_at = 0
        self._started = 0  # when it was last waited
        self._is_worth_it = False  # whether the last events came within `LINGER_SECONDS`, waited for or not
        self._spins = False  # whether the last events came soon
        self._rests_until = 0

    def wait(self) -> list[tuple[int, int]]:
        """Return what is ready now or becomes so in a moment; nothing if that is nothing."""
        self._started = started = self._clock()
        found = self._poll(0)
        if not found and self._spins:
            found = self._spin(started)
        if not found and self._is_worth_it:
            found = self._poll(LINGER_SECONDS)
        now = self._clock()
        self._spins = bool(found) and now - started < SPIN_NANOSECONDS and self._has_room(now)
        return found

    def woken(self) -> None:
        """Note that Trio has seen the events for which nobody lingered long enough."""
        self._is_worth_it = self._clock() - self._started < LINGER_NANOSECONDS

    def _has_room(self, now: int) -> bool:
        """Tell whether a processor may be kept busy by waiting."""
        if now < self._rests_until or self._processors < 2:
            return False
        if now >= self._counts_at:
            self._counts_at = now + COUNT_NANOSECONDS
            if self._running() > _PROCESSORS:
                self._rests_until = now + CROWDED_NANOSECONDS
                return False
        return True

    def _spin(self, started: int) -> list[tuple[int, int]]:
        """Look again and again until there is something, it is too late, or others need the processor."""
        poll, clock, give_way = self._poll, self._clock, self._give_way
        last = clock()
        while last - started < SPIN_NANOSECONDS:
            give_way()
            found = poll(0)
            now = clock()
            if now - last > DISPLACED_NANOSECONDS:
                self._rests_until = now + DISPLACED_FACTOR * (now - last)
                return found
            if found:
                return found
            last = now
        return []
