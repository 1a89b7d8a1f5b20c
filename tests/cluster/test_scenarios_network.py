"""What links do. Partitions, cuts one way, slow and flapping links, noise (F1-F5, F22, F23, F32, F38, F40).

The numbers are those of the specification (section 16); durations are the scaled ones of `world`.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, Final

import cbor2
import trio

from replication.core import Link
from replication.frames import _HEAD, _checksum
from replication.messages import Push, State
from tests.cluster import faults
from tests.cluster.scenario import (
    counter,
    end,
    form,
    is_seen,
    join,
    look,
    part,
    play,
    put,
    seeds,
    value,
    watch,
    write_for,
)
from tests.cluster.world import Host, World


@seeds()
def test_f01_both_sides_of_a_partition_write_the_same_keys(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 5)
        part(world, hosts[:2], hosts[2:])
        for number in range(10):
            assert put(hosts[number % 2], f"k{number}", f"left{number}")
            await trio.sleep(0.3)
            assert put(hosts[2 + number % 3], f"k{number}", f"right{number}")
        await trio.sleep(5)
        look(world)
        await end(world)
        for host in hosts[:2]:  # they had the writes that lost; to the others those may never come
            assert host.replica.stats()["conflicts"] == 10, host
        for host in hosts[2:]:
            assert host.replica.stats()["conflicts"] <= 10, host
        assert is_seen(hosts, "k3", b"right3")

    play("F1", story, seeds)


@seeds()
def test_f02_one_way_partition_does_not_lose_the_member(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 3)
        lost: list[str] = []

        def watch_states(host: Host) -> None:
            def note(record: Any, previous: State | None) -> None:
                if record.node == hosts[1].member and record.state == State.UNREACHABLE:
                    lost.append(f"{host.name} {world.now()}")

            host.node.replicator.membership.on_state_changed = note

        for host in (hosts[0], hosts[2]):
            watch_states(host)
        world.network.block("n0", "n1")
        await write_for(world, hosts, 25, 4)
        look(world)
        assert len(lost) <= 1, lost
        assert await world.wait_until(world.is_converged, 20), "the third member does not relay"
        await end(world)

    play("F2", story, seeds)


@seeds()
def test_f03_two_halves_meet_through_one_slow_node(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 5)
        left, bridge, right = hosts[:2], hosts[2], hosts[3:]
        part(world, left, right)
        for host in [*left, *right]:
            for path in (world.network.path(host.name, "n2"), world.network.path("n2", host.name)):
                path.delay, path.bandwidth = 0.1, 20_000.0
        for number in range(8):
            assert put(left[0], f"near{number}", "x")
            await trio.sleep(0.4)
            assert is_seen(left, f"near{number}", b"x"), "the slow node delays its neighbours"
        await write_for(world, hosts, 10, 5, size=300)
        assert await world.wait_until(world.is_converged, 40), bridge
        await end(world)

    play("F3", story, seeds)


@seeds(quick=1)
def test_f04_ring_whose_links_come_and_go(seeds: Sequence[int]) -> None:
    """The specification lets a link carry each cell six times on average; once each way is the most that is needed."""

    async def story(world: World) -> None:
        size = 7
        carried: Counter[frozenset[bytes]] = Counter()  # cells pushed over each link, either way

        def watch_pushes(host: Host) -> None:
            dissemination = host.node.replicator.dissemination
            on_push = dissemination.on_push

            def counted(link: Link, push: Push) -> None:
                carried[frozenset((link.node, host.member))] += len(push.run.changes)
                on_push(link, push)

            dissemination.on_push = counted  # type: ignore[method-assign]

        watch(world)
        world.patches.append(watch_pushes)
        hosts = world.found(size)
        assert await world.wait_until(lambda: world.is_formed(size), 60)
        faults_rng = Random(f"{world.seed} ring")
        for index, host in enumerate(hosts):
            for other in hosts[index + 1 :]:
                if (hosts.index(other) - index) % size not in {1, size - 1}:
                    part(world, [host], [other])
        assert await world.wait_until(world.is_converged, 40)
        before = len(world.history.dots)
        carried.clear()
        for _ in range(8):
            index = faults_rng.randrange(size)
            pair = [hosts[index]], [hosts[(index + 1) % size]]
            part(world, *pair)
            await write_for(world, hosts, 2.5, 4)
            join(world, *pair)
        look(world)
        assert await world.wait_until(world.is_converged, 2 * world.options.sync_interval * (size // 2)), (
            "the ring itself does not come to rest"
        )
        cells = len(world.history.dots) - before
        for link, count in carried.items():
            assert count <= 1.5 * cells, f"{link} has carried {count} for {cells} cells"
        await end(world)

    play("F4", story, seeds)


@seeds(quick=1)
def test_f05_every_connection_breaks_after_some_bytes(seeds: Sequence[int]) -> None:
    """For 20 s, four sync intervals; the specification says five minutes, twenty of its intervals."""

    async def story(world: World) -> None:
        hosts = await form(world, 4)
        for one in hosts:
            for other in hosts:
                if one is not other:
                    faults.flaky(world, one.name, other.name, 1.0, 6000)
                    faults.cut(world, one.name, other.name)
        for _ in range(10):
            await write_for(world, hosts, 2, 6, size=200)
            look(world)
        for name in ("sync_failed_total", "sync_ended_total"):
            assert sum(counter(host, name) for host in hosts), name
        await end(world)

    play("F5", story, seeds)


_LOOK_SECONDS: Final = 0.01  # how exactly small writes are timed


async def _measure_small_writes(world: World, hosts: list[Host], *, large: int, seconds: float) -> float:
    """Return the 99th percentile of how long small writes of the first host take to the second."""
    waiting: dict[str, float] = {}
    took: list[float] = []
    number = 0
    next_large = world.now()
    until = world.now() + seconds
    while world.now() < until:
        number += 1
        if large and world.now() >= next_large:
            next_large += 1.0
            put(hosts[0], f"large{number % 3}", bytes(large))
        key = f"s{number}"
        if put(hosts[0], key, "x"):
            waiting[key] = world.now()
        for key, at in list(waiting.items()):
            if value(hosts[1], key) is not None:
                took.append(world.now() - at)
                del waiting[key]
        await trio.sleep(_LOOK_SECONDS)
    took.extend(world.now() - at for at in waiting.values())
    return sorted(took)[int(len(took) * 0.99)]


@seeds(quick=1)
def test_f22_large_values_beside_small_ones(seeds: Sequence[int]) -> None:
    """Values of 2 MiB over 20 Mbit/s and 100 ms; 25 MiB would say the same and take minutes.

    What small writes wait for is a piece of a body and what the connection holds already, 80 to 130 ms at this speed:
    over a shorter path that is more than the specification's factor of two, and here the step of looking more than it
    in three of a hundred seeds.
    """

    async def story(world: World) -> None:
        options = {"queue_bytes_max": 8 << 20, "sync_batch_bytes": 256 << 10, "sync_credit_bytes": 1 << 20}
        hosts = await form(world, 2, queue_age_max=10.0, **options)
        for path in (world.network.path("n0", "n1"), world.network.path("n1", "n0")):
            path.delay, path.bandwidth = 0.1, 2_500_000.0
        await trio.sleep(3)  # until round trips are measured anew
        without = await _measure_small_writes(world, hosts, large=0, seconds=5)
        beside = await _measure_small_writes(world, hosts, large=2 << 20, seconds=8)
        bodies = hosts[1].node.replicator.bodies
        assert bodies.in_flight <= hosts[1].options.body_bytes_max
        # Of looking one step more; the half is for sums of steps, which are not exact.
        bound = 2 * without + 1.5 * _LOOK_SECONDS
        assert beside <= bound, f"{without:.3f} s without, {beside:.3f} s beside large values"
        await end(world)

    play("F22", story, seeds)


@seeds(quick=1)
def test_f23_peer_that_reads_slowly(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 4, queue_bytes_max=16 * 1024)
        slow = hosts[3]
        world.network.reading[slow.name] = 1024.0
        for number in range(150):
            assert put(hosts[number % 3], f"k{number % 20}", f"v{number}".encode().ljust(4000, b"."))
            await trio.sleep(0.1)
            if number % 10 == 9:
                last = value(hosts[number % 3], f"k{number % 20}")
                assert last is not None
                assert await world.wait_until(
                    partial(is_seen, hosts[:3], f"k{number % 20}", last),
                    0.5,
                    step=0.05,
                ), "the slow peer delays the others"
        look(world)
        assert sum(counter(host, "link_behind_total") for host in hosts[:3]) > 0
        del world.network.reading[slow.name]
        world.network.resume(slow.name)
        await end(world)

    play("F23", story, seeds)


# Six strangers send some four megabytes; of each the network holds a window of 128 KiB at most.
NOISE_BYTES_MAX: Final = 1 << 20


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Yield what tells how many bytes more than at the beginning were in use at most."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@seeds()
def test_f32_noise_on_the_wire(seeds: Sequence[int]) -> None:
    """Strangers that send noise, and links whose bytes are changed on the way."""

    async def story(world: World) -> None:
        hosts = await form(world, 3)
        rng = Random(f"{world.seed} noise")
        before = [host.registers() for host in hosts]

        ended: list[str] = []

        async def stranger() -> None:
            with trio.move_on_after(20):
                stream = await world.network.endpoint("evil").dial(rng.choice(hosts).address)
                try:
                    for _ in range(50):
                        await stream.send_all(_noise(rng, rng.choice((1, 8, 100, 5000, 70_000))))
                        await trio.sleep(0.01)
                    while await stream.receive_some():
                        pass
                    ended.append("closed")
                except trio.BrokenResourceError:
                    ended.append("broken")

        with traced_memory() as memory:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(stranger)
            assert memory() < NOISE_BYTES_MAX, f"strangers have taken {memory()} bytes"
        assert len(ended) == 6, "a stranger was listened to"
        assert [host.registers() for host in hosts] == before
        for _ in range(10):
            one, other = rng.sample(hosts, 2)
            world.network.corrupt(one.name, other.name)
            await write_for(world, hosts, 1, 10)
        assert sum(counter(host, "protocol_errors_total") for host in hosts) > 0
        await end(world)

    play("F32", story, seeds)


def _noise(rng: Random, size: int) -> bytes:
    """Return bytes by chance, a frame with a wrong checksum, or a right one with CBOR that means nothing."""
    drawn = rng.random()
    if drawn < 0.3:
        return rng.randbytes(size)
    if drawn < 0.6:
        return size.to_bytes(4, "big") + rng.randbytes(4) + b"\x82\x01" + rng.randbytes(size)
    nested: object = 0
    for _ in range(rng.choice((3, 100))):
        nested = [nested]
    body = cbor2.dumps(
        rng.choice(([1, {0: nested}], [1, {1: bytes(size)}], [255, {}], {}, [1, [2**63] * 50], nested))
    )
    return _HEAD.pack(len(body), _checksum(body)) + body


@seeds(quick=1)
def test_f38_two_nodes_that_cannot_be_dialled(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        center = world.add("n0")
        hidden = [world.add(name, join=("n0:1",), dialable=False, addresses=()) for name in ("h1", "h2")]
        hosts = [center, *hidden]
        for name in ("h1", "h2"):
            world.network.unlisted[name] = None
        for host in hosts:
            host.start(founds=host is center)

        watch(world)
        assert await world.wait_until(lambda: all(host.is_whole for host in hosts), 40)
        await write_for(world, hidden, 10, 5)
        assert await world.wait_until(world.is_converged, 20)
        assert not world.network.refused, "somebody dials the hidden nodes"
        await end(world)

    play("F38", story, seeds)


@seeds(quick=1)
def test_f40_two_nodes_flap(seeds: Sequence[int]) -> None:
    """Thirty times 3 s up and 3 s down: as often as in the hour of the specification."""

    async def story(world: World) -> None:
        hosts = await form(world, 2)
        written = 0
        for _ in range(30):
            written += await write_for(world, hosts, 3, 4, size=500, keys=40, deletes=0.0)
            part(world, hosts[:1], hosts[1:])
            written += await write_for(world, hosts, 3, 4, size=500, keys=40, deletes=0.0)
            look(world)
            join(world, hosts[:1], hosts[1:])
        await end(world)
        synced = sum(counter(host, "sync_bytes_total") for host in hosts)
        assert 0 < synced <= 3 * written * 500, (synced, written)

    play("F40", story, seeds)
