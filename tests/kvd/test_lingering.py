"""Waiting for the next request: awake while clients ask again at once, asleep in the selector otherwise."""

from __future__ import annotations

import sys

from kvd.lingering import (
    COUNT_NANOSECONDS,
    CROWDED_NANOSECONDS,
    DISPLACED_FACTOR,
    DISPLACED_NANOSECONDS,
    LINGER_SECONDS,
    SPIN_NANOSECONDS,
    Lingering,
)
from kvd.poller import SelectorPoller
from kvd.process import running_tasks

EVENTS = [(5, 1)]
POLL_NANOSECONDS = 1000


class Scripted(SelectorPoller):
    """A poller of a virtual clock. `at` is when the next events come; every look takes a microsecond."""

    def __init__(self) -> None:
        self.now = 0
        self.at = 0
        self.looks = 0  # that returned at once
        self.sleeps = 0
        self.given_way = 0
        self.taken_by_others = 0  # nanoseconds, whenever they may
        self.running = 1

    def give_way(self) -> None:
        self.given_way += 1
        self.now += self.taken_by_others

    def poll(self, timeout_seconds: float = 0) -> list[tuple[int, int]]:
        self.now += POLL_NANOSECONDS
        if self.at > self.now and timeout_seconds:
            self.sleeps += 1
            self.now = min(self.at, self.now + int(timeout_seconds * 1e9))
        else:
            self.looks += 1
        return EVENTS if self.at <= self.now else []


def lingering(poller: Scripted, *, processors: float = 2) -> Lingering:
    """Return one whose last request came soon."""
    one = Lingering(
        poller,
        processors=processors,
        running=lambda: poller.running,
        clock=lambda: poller.now,
        give_way=poller.give_way,
    )
    one.woken()
    return one


def wait_for(one: Lingering, poller: Scripted, nanoseconds: int) -> list[tuple[int, int]]:
    """Wait for events that come so much later; forget how that was done before."""
    poller.at = poller.now + nanoseconds
    poller.looks = poller.sleeps = poller.given_way = 0
    return one.wait()


def test_what_is_ready_is_returned_at_the_first_look() -> None:
    poller = Scripted()
    assert wait_for(lingering(poller), poller, 0) == EVENTS
    assert (poller.looks, poller.sleeps) == (1, 0)


def test_a_client_that_asks_again_at_once_is_waited_for_awake() -> None:
    poller = Scripted()
    one = lingering(poller)
    assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
    assert poller.sleeps == 1  # nothing was known of it yet
    for _ in range(3):
        assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
        assert poller.sleeps == 0
        assert poller.given_way == poller.looks - 1


def test_one_late_request_ends_the_spinning() -> None:
    poller = Scripted()
    one = lingering(poller)
    wait_for(one, poller, 0)
    assert wait_for(one, poller, 3 * SPIN_NANOSECONDS) == EVENTS
    assert poller.looks <= 1 + SPIN_NANOSECONDS // POLL_NANOSECONDS
    assert wait_for(one, poller, 3 * SPIN_NANOSECONDS) == EVENTS
    assert (poller.looks, poller.sleeps) == (1, 1)


def test_silence_ends_it_and_is_told_after_a_moment() -> None:
    poller = Scripted()
    one = lingering(poller)
    wait_for(one, poller, 0)
    began = poller.now
    assert wait_for(one, poller, 10**12) == []
    assert poller.now - began <= SPIN_NANOSECONDS + LINGER_SECONDS * 1e9 + 5 * POLL_NANOSECONDS
    assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
    assert (poller.looks, poller.sleeps) == (1, 1)


def test_who_asks_seldom_is_not_waited_for() -> None:
    poller = Scripted()
    one = lingering(poller)
    for _ in range(3):
        assert wait_for(one, poller, int(3e9 * LINGER_SECONDS)) == []
        poller.now = poller.at
        one.woken()
        assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == []
        assert (poller.looks, poller.sleeps) == (1, 0)
    poller.now = poller.at
    one.woken()
    assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
    assert poller.sleeps == 1


def test_one_processor_is_left_to_the_client() -> None:
    poller = Scripted()
    one = lingering(poller, processors=1.5)
    for _ in range(3):
        assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
        assert (poller.looks, poller.sleeps) == (1, 1)


def test_who_is_displaced_leaves_the_processor_to_others_for_as_long_as_they_want_it() -> None:
    poller = Scripted()
    one = lingering(poller)
    wait_for(one, poller, 0)
    poller.taken_by_others = 2 * DISPLACED_NANOSECONDS
    assert wait_for(one, poller, 2 * SPIN_NANOSECONDS) == EVENTS
    assert poller.given_way == 1
    displaced_at = poller.now
    rest = DISPLACED_FACTOR * poller.taken_by_others
    while poller.now < displaced_at + rest - SPIN_NANOSECONDS:
        assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
        assert poller.given_way == 0
    poller.taken_by_others = 0
    poller.now = displaced_at + 2 * rest
    wait_for(one, poller, SPIN_NANOSECONDS // 2)
    assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
    assert poller.sleeps == 0
    assert poller.given_way > 0


def test_a_crowded_machine_is_left_to_others_for_a_while() -> None:
    poller = Scripted()
    one = lingering(poller)
    wait_for(one, poller, 0)
    poller.running = 100_000
    poller.now += COUNT_NANOSECONDS
    wait_for(one, poller, SPIN_NANOSECONDS // 2)
    crowded_at = poller.now
    poller.running = 1
    while poller.now < crowded_at + CROWDED_NANOSECONDS - SPIN_NANOSECONDS:
        assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
        assert poller.given_way == 0
    poller.now = crowded_at + 2 * CROWDED_NANOSECONDS
    wait_for(one, poller, SPIN_NANOSECONDS // 2)
    assert wait_for(one, poller, SPIN_NANOSECONDS // 2) == EVENTS
    assert poller.sleeps == 0


def test_this_process_is_among_the_running_tasks() -> None:
    assert running_tasks() >= (sys.platform == "linux")
