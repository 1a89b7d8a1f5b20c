"""Large values over links that break long before one of them is through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from random import Random
from typing import Final

from replication.options import KIB, MIB
from tests.cluster import faults
from tests.cluster.scenario import counter, end, form, is_seen, part, play, put, seeds
from tests.cluster.world import Host, World

SIZE: Final = 4 * MIB
BREAK_BYTES: Final = 600 * KIB  # at most, on each connection


def content(world: World) -> bytes:
    """Return a value in which each byte says where it belongs."""
    return Random(f"{world.seed} large").randbytes(SIZE)


def received(host: Host) -> float:
    return counter(host, "body_bytes_total")


@seeds()
def test_a_large_value_arrives_over_links_that_break_all_the_time(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 3)
        for source, target in permutations(["n0", "n1", "n2"], 2):
            faults.flaky(world, source, target, 1.0, BREAK_BYTES)
            world.network.cut(source, target)
        dials, large = world.network.dials, content(world)
        assert put(hosts[0], "large", large)
        assert await world.wait_until(lambda: is_seen(hosts, "large", large), 120), "it begins anew each time"
        breaks = world.network.dials - dials
        for host in hosts[1:]:
            # A push and syncs from two peers may fetch it at once for as long as their links live.
            assert received(host) <= SIZE + breaks * host.options.body_piece_bytes, (received(host), breaks)
        await end(world)

    play("large values over links that break", story, seeds)


@seeds()
def test_what_one_peer_has_sent_of_a_large_value_another_goes_on_with(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 3)
        path, large = world.network.path("n0", "n2"), content(world)
        path.bandwidth = 1e6
        assert put(hosts[0], "large", large)
        assert await world.wait_until(lambda: received(hosts[2]) >= SIZE // 2, 10)
        part(world, hosts[:1], hosts[2:])
        world.network.cut("n0", "n2")
        assert await world.wait_until(lambda: is_seen(hosts, "large", large), 20)
        assert received(hosts[2]) == SIZE
        await end(world)

    play("large values from two peers", story, seeds)
