"""What clocks do. Ahead, behind, drifting, and how an origin from a wrong time is cut (F14-F18, F39).

The numbers are those of the specification (section 16); durations are the scaled ones of `world`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import trio

from storage.changes import Lane, VersionVector
from tests.cluster import faults
from tests.cluster.checkers import kill
from tests.cluster.history import Stamp
from tests.cluster.scenario import (
    counter,
    delete,
    end,
    form,
    is_seen,
    join,
    links,
    part,
    play,
    put,
    seeds,
    value,
    write_for,
)
from tests.cluster.world import Host, World

DAY_MS = 86_400_000


@seeds()
def test_f14_clock_ahead_at_the_start(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 4)
        fast = hosts[3]
        await kill(world, fast)
        fast.clock.offset_ms = 10_000
        faults.start(world, fast)
        assert await world.wait_until(lambda: len(links(fast)) == 3, 20)
        await trio.sleep(5)
        assert not put(fast, "fast", "x")
        assert "CLOCKSKEW" in str(fast.node.replicator.refusal(world.now()))
        for host in hosts[:3]:
            latest = max(
                (held.value[0] for held in host.registers().values() if held.value is not None), default=0
            )
            assert (latest >> 16) <= host.wall_ms() + world.options.hold * 1000
        fast.clock.offset_ms = 0
        assert await world.wait_until(lambda: put(fast, "fast", "y"), 400, step=1.0), (
            fast.node.replicator.refusal(world.now())
        )
        # Its clock value is ahead yet, of what it wrote by itself: the others hold it until theirs have come near.
        hold_ms = world.options.hold * 1000
        assert await world.wait_until(lambda: (fast.replica.hlc >> 16) - hosts[0].wall_ms() <= hold_ms, 10)
        await end(world)

    play("F14", story, seeds)


@seeds()
def test_f15_a_day_ahead_in_isolation(seeds: Sequence[int]) -> None:
    """The others hold its origin and go on. Once it is cut and the clock is right, the node writes its values anew."""

    async def story(world: World) -> None:
        hosts = await form(world, 4)
        fast, others = hosts[3], hosts[:3]
        assert put(hosts[0], "both", "before")
        assert await world.wait_until(world.is_converged, 20)
        part(world, [fast], others)
        await kill(world, fast)
        fast.clock.offset_ms = DAY_MS
        faults.start(world, fast)
        await trio.sleep(3)
        assert put(fast, "tomorrow", "x"), fast.node.replicator.refusal(world.now())
        assert put(fast, "both", "after")
        assert put(fast, "large", b"l" * 70_000)
        assert fast.write(lambda keyspace: keyspace.put(b"due", b"x", fast.wall_ms() + DAY_MS))
        assert delete(fast, "both")
        assert put(fast, "flushed", "x", database=1)
        assert fast.write(lambda keyspace: keyspace.flush(), database=1)
        held = [
            origin for lane in (Lane.SMALL, Lane.BULK) if (origin := fast.replica.origin(lane)) is not None
        ]
        join(world, [fast], others)
        assert await world.wait_until(
            lambda: all(
                origin in host.node.replicator.dissemination.held for host in others for origin in held
            ),
            30,
        ), "the origin is not held"

        async def goes_on(key: str, database: int) -> bool:
            assert put(others[0], key, "y", database=database)
            return await world.wait_until(
                lambda: value(others[1], key, database=database) == b"y", 3, step=0.05
            )

        for number in range(5):
            assert await goes_on(f"today{number}", number % 2)
        assert all(value(host, "tomorrow") is None for host in others)
        before = await _cut(world, others[0], fast, held)
        assert all(
            origin not in host.node.replicator.dissemination.held for host in others for origin in held
        )
        assert all(counter(host, "origins_held_total") for host in others)
        await end(world)
        for host in hosts:
            assert value(host, "tomorrow") == b"x"
            assert value(host, "large") == b"l" * 70_000
            assert value(host, "due") == b"x"
            assert value(host, "both") is None, "what was deleted is not deleted"
            assert value(host, "today1", database=1) == b"y", "the flush is void, too"
        assert len(fast.dead_letters) == before + 3
        assert (fast.replica.hlc >> 16) <= world.base_ms() + 60_000
        assert put(fast, "now", "z")
        await end(world)
        assert value(others[0], "now") == b"z"
        await kill(world, fast)
        faults.start(world, fast)
        await end(world)

    play("F15", story, seeds)


@pytest.mark.parametrize("seed", [21, 65])
def test_f15_seed_that_once_failed(seed: int) -> None:
    test_f15_a_day_ahead_in_isolation([seed])


async def _cut(world: World, host: Host, fast: Host, held: Sequence[bytes]) -> int:
    """Set a clock right and void what it was wrong for; return how many dead letters there were."""
    before = len(fast.dead_letters)
    fast.clock.offset_ms = 0.0
    fast.rolled_back = True  # what it once claimed of itself is void
    replicator = host.node.replicator
    assert await world.wait_until(lambda: all(replicator.holders(origin) == 3 for origin in held), 10)
    assert None not in host.node._in_tick(lambda: [replicator.cut(origin) for origin in held])

    def is_void() -> bool:
        fast.seen_vector = VersionVector()
        return fast.is_whole and all(fast.vector[origin] <= host.vector[origin] for origin in held)

    assert await world.wait_until(is_void, 60), "it does not void what it wrote"
    return before


async def _write_ahead(world: World, fast: Host, others: list[Host]) -> list[bytes]:
    """Let a host that is cut off write with a clock that is a day ahead; return its origin once the others hold it."""
    await kill(world, fast)
    fast.clock.offset_ms = DAY_MS
    faults.start(world, fast)
    await trio.sleep(3)
    assert put(fast, "tomorrow", "x"), fast.node.replicator.refusal(world.now())
    origin = fast.replica.origin(Lane.SMALL)
    assert origin is not None
    join(world, [fast], others)

    def is_held() -> bool:
        return all(origin in host.node.replicator.dissemination.held for host in others)

    assert await world.wait_until(is_held, 30), "the origin is not held"
    return [origin]


@seeds()
def test_what_was_written_before_a_clock_was_wrong_survives_the_cut(seeds: Sequence[int]) -> None:
    """Nobody else covers it, and its writer has purged since what was written later."""

    async def story(world: World) -> None:
        hosts = await form(world, 4)
        fast, others = hosts[3], hosts[:3]
        assert await world.wait_until(world.is_converged, 20)
        part(world, [fast], others)
        assert put(fast, "kept", "x")
        written = fast.registers()[bytes(16) + b"kept"].value
        assert written is not None
        held = await _write_ahead(world, fast, others)
        assert others[0].write(
            lambda keyspace: keyspace.put(b"brief", b"x", others[0].wall_ms() + 100),
        )
        assert await world.wait_until(lambda: fast.replica.horizon() > written[0], 60), "nothing is purged"
        await _cut(world, others[0], fast, held)
        await end(world)
        assert is_seen(hosts, "kept", b"x")
        assert is_seen(hosts, "tomorrow", b"x")

    play("written before a wrong clock", story, seeds)


@seeds()
def test_who_was_cut_claims_less_though_a_sync_of_its_disk_fails(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 4)
        fast, others = hosts[3], hosts[:3]
        assert await world.wait_until(world.is_converged, 20)
        part(world, [fast], others)
        held = await _write_ahead(world, fast, others)
        faults.sync(world, fast.name, 0.01, fails=True)
        await _cut(world, others[0], fast, held)
        await trio.sleep(3)
        faults.sync(world, fast.name, 0.004, fails=False)
        await end(world)
        assert is_seen(hosts, "tomorrow", b"x")

    play("cut while syncs fail", story, seeds)


@seeds(quick=1)
def test_an_origin_is_not_cut_without_a_majority_that_holds_it(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 4)
        assert await world.wait_until(world.is_converged, 20)
        replicator = hosts[0].node.replicator
        origin = bytes(15) + b"x"
        assert replicator.cut(origin) is None
        replicator.dissemination.held[origin] = 1 << 63
        hosts[1].node.replicator.dissemination.held[origin] = 1 << 63
        assert await world.wait_until(lambda: replicator.holders(origin) == 2, 10)
        assert replicator.cut(origin) is None
        hosts[2].node.replicator.dissemination.held[origin] = 1 << 63
        assert await world.wait_until(lambda: replicator.holders(origin) == 3, 10)
        assert hosts[0].node._in_tick(lambda: replicator.cut(origin)) == 0
        await end(world)
        assert all(host.node.replicator.cuts.limit(origin) == 0 for host in hosts)

    play("cut without a majority", story, seeds)


@seeds()
def test_f16_clock_goes_back_an_hour(seeds: Sequence[int]) -> None:
    """While it runs and over a restart: what it writes is newer than what it has written, or is refused.

    It refuses as soon as it has seen the step. Started anew it refuses alone, for its clock is behind what it has stored;
    with one peer it writes, for one is not enough to tell whose clock is wrong; with two it refuses.
    """

    async def story(world: World) -> None:
        hosts = await form(world, 3)
        victim = hosts[1]
        stamps: list[Stamp] = []

        def put_on(text: str) -> None:
            assert put(victim, "k", text), victim.node.replicator.refusal(world.now())
            held = victim.registers()[bytes(16) + b"k"].value
            assert held is not None
            assert not stamps or stamps[-1] < held, f"{text} is older than what was there"
            stamps.append(held)

        def is_refused() -> bool:
            return "CLOCKSKEW" in str(victim.node.replicator.refusal(world.now()))

        part(world, [victim], [hosts[0], hosts[2]])
        put_on("before")
        await trio.sleep(world.options.sync_timeout)
        victim.clock.offset_ms = -3_600_000
        put_on("after the step")
        await trio.sleep(3)
        assert counter(victim, "clock_jumps_total") == 1
        assert is_refused(), "it has measured its peers' clocks a moment ago"
        await kill(world, victim)
        faults.start(world, victim)
        await trio.sleep(2 * world.options.start_gate)
        assert is_refused()
        assert not put(victim, "k", "alone")
        join(world, [victim], hosts[:1])
        assert await world.wait_until(lambda: len(links(victim)) == 1, 20)
        put_on("after the restart")
        assert await world.wait_until(lambda: value(hosts[0], "k") == b"after the restart", 5)
        join(world, [victim], hosts[2:])
        assert await world.wait_until(is_refused, 20)
        victim.clock.offset_ms = 0
        assert await world.wait_until(lambda: not is_refused(), 60)
        put_on("with the right clock")
        await end(world)
        assert is_seen(hosts, "k", b"with the right clock")

    play("F16", story, seeds)


@seeds(quick=1)
def test_f17_clocks_drift_within_bounds(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 5)
        bound = 0.9 * world.options.max_offset * 1000
        rng = Random(f"{world.seed} drift")
        for _ in range(6):
            for host in hosts:
                target = rng.uniform(-bound / 2, bound / 2)
                rate = (target - (host.wall_ms() - hosts[0].world.base_ms())) / 5_000
                host.clock.set_drift(rate, world.now())
            taken = await write_for(world, hosts, 5, 8)
            assert taken
            for host in hosts:
                host.clock.set_drift(0.0, world.now())
                assert not host.refusals, host.node.replicator.refusal(world.now())
                assert not counter(host, "origins_held_total")
        await end(world)

    play("F17", story, seeds)


@seeds()
def test_f18_expiries_while_clocks_differ(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 3, max_offset=1.0, hold=10.0)
        for host, skew in zip(hosts, (-400.0, 0.0, 400.0), strict=True):
            host.clock.offset_ms = skew
        rng = Random(f"{world.seed} ttl")
        gone: dict[tuple[str, str], None] = {}
        for number in range(30):
            host = rng.choice(hosts)
            due = host.wall_ms() + rng.choice((300, 900, 2000))
            key = f"e{number}"
            assert put(host, key, "x", expires_at_ms=due)
            await trio.sleep(0.4)
            for one in hosts:
                for other in range(number + 1):
                    seen = value(one, f"e{other}") is not None
                    was_gone = (one.name, f"e{other}") in gone
                    assert not (seen and was_gone), f"e{other} has come back on {one.name}"
                    held = one.registers().get(bytes(16) + f"e{other}".encode())
                    if not seen and held is not None:
                        gone[one.name, f"e{other}"] = None
        await trio.sleep(3)
        await end(world)

    play("F18", story, seeds)


@seeds()
def test_f39_booted_in_1970(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 3)
        await write_for(world, hosts, 2, 10)
        assert await world.wait_until(world.is_converged, 20)
        victim = hosts[2]
        await kill(world, victim)
        part(world, [victim], hosts[:2])
        victim.clock.offset_ms = -float(hosts[0].wall_ms()) + 1000
        faults.start(world, victim)
        for _ in range(10):
            await trio.sleep(0.5)
            assert not put(victim, "k", "from 1970")
        assert bytes(16) + b"k" not in world.history.places
        join(world, [victim], hosts[:2])
        assert await world.wait_until(lambda: len(links(victim)) == 2, 30)
        await trio.sleep(3)
        assert not put(victim, "k", "from 1970"), "its clock is measured by now"
        victim.clock.offset_ms = 0.0
        assert await world.wait_until(lambda: put(victim, "k", "now"), 400, step=1.0)
        await end(world)

    play("F39", story, seeds)
