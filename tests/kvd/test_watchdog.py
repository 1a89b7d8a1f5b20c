"""The watchdog tells of a thread that stands still, and where."""

from __future__ import annotations

import time

import trio
from structlog.testing import capture_logs

from kvd import watchdog
from tests.kvd.harness import InProcessServer


async def test_a_stop_is_measured_and_its_place_is_logged() -> None:
    server = InProcessServer()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchdog.watch, server)
            await trio.sleep(0.05)
            stand_still()
            nursery.cancel_scope.cancel()
    assert 0.9 < server.stats.loop_stall_seconds < 5
    [entry] = [one for one in logs if one["event"] == "the daemon stands still"]
    assert "stand_still" in entry["stack"]


def stand_still() -> None:
    time.sleep(1.8)


async def test_a_thread_that_moves_is_left_alone() -> None:
    server = InProcessServer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.watch, server)
        await trio.sleep(0.6)
        nursery.cancel_scope.cancel()
    assert server.stats.loop_stall_seconds == 0
