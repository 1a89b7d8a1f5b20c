"""What the named scenarios share: how they run over their seeds, and how each of them ends."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from random import Random
from typing import Any, Final

import attrs
import pytest
import trio

from kvd.peering.metrics import COUNTERS
from replication.options import Options
from storage.record import NEVER
from tests.cluster import faults
from tests.cluster.checkers import Watch, check_rest, wait_for_rest
from tests.cluster.workloads import look_at_transactions
from tests.cluster.world import Host, World, simulate, template

Story = Callable[[World], Awaitable[None]]

SEED: Final = "SCENARIO_SEED"

# The durations that users have, but for the time before a node may write: for what is about many nodes.
PRODUCTION: Final = attrs.evolve(Options(), start_gate=1.0)


def seeds(quick: int = 2, many: int = 200) -> pytest.MarkDecorator:
    """Parametrize a scenario: `quick` seeds with every run of the tests, `many` with the soak tests.

    Only the one that the environment names as `SCENARIO_SEED`, if it does: to replay a failure.
    """
    if (seed := os.environ.get(SEED)) is not None:
        return pytest.mark.parametrize("seeds", [pytest.param([int(seed)], id=f"seed-{seed}")])
    few = pytest.param(range(quick), id=f"{quick}-seeds")
    all_of_them = pytest.param(range(many), id=f"{many}-seeds", marks=pytest.mark.soak)
    return pytest.mark.parametrize("seeds", [few, all_of_them])


def play(name: str, story: Story, seeds: Sequence[int], **arguments: Any) -> None:
    """Run a story once for each seed; a failure tells how to replay it."""
    for size in range(2, 6):
        template(size)  # each is a run of its own, so it cannot be made during another
    for seed in seeds:
        try:
            simulate(f"{name} {seed}", story, **arguments)
        except BaseException as error:
            error.add_note(f"scenario {name}, seed {seed}; to replay it: {replay(seed)}")
            raise


def replay(seed: int) -> str:
    """Return the command that runs the test under way with one seed."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("[")[0]
    return f"{SEED}={seed} python -m pytest {test}"


async def form(world: World, size: int, **changes: Any) -> list[Host]:
    """Start a cluster of `size` that was formed before, and wait until all are linked."""
    if changes:
        world.options = attrs.evolve(world.options, **changes)
    watch(world)
    hosts = world.resume(template(size))
    assert await world.wait_until(lambda: world.is_formed(size), 20)
    return hosts


def watch(world: World) -> None:
    """Look at the invariants from now on, at each commit and whenever the scenario calls `look`."""
    world.watch = Watch(world)
    world.watch.begin()
    world.after_tick.append(look_at_transactions)


async def end(
    world: World, *, diameter: int = 1, heals: bool = True, divergences: int = 0, leaves_half: bool = False
) -> None:
    """Heal, wait for rest (I12), and check what every scenario has to show.

    `diameter` is how many links lie between the two members that are furthest apart; `leaves_half`, whether a member
    that is gone for good has sent half of a sync, whose changes are held and never covered.
    """
    if heals:
        faults.heal(world)
    await wait_for_rest(world, 2 * world.options.sync_interval * diameter)
    assert leaves_half or not world.counts.get("partial at rest"), "something is held that nobody covers"
    look(world)
    check_rest(world, divergences=divergences)


def look(world: World) -> None:
    assert isinstance(world.watch, Watch)
    world.watch.look()


def part(world: World, one: Sequence[Host], other: Sequence[Host]) -> None:
    """Let nothing pass between two groups."""
    for left in one:
        for right in other:
            world.network.block(left.name, right.name)
            world.network.block(right.name, left.name)


def join(world: World, one: Sequence[Host], other: Sequence[Host]) -> None:
    for left in one:
        for right in other:
            world.network.unblock(left.name, right.name)
            world.network.unblock(right.name, left.name)


_numbers = count(1)


def put(host: Host, key: str, value: str | bytes, *, expires_at_ms: int = NEVER, database: int = 0) -> bool:
    body = value if isinstance(value, bytes) else value.encode()
    return host.write(
        lambda keyspace: keyspace.put(key.encode(), body, expires_at_ms=expires_at_ms), database=database
    )


def expire(host: Host, key: str, at_ms: int) -> bool:
    return host.write(lambda keyspace: keyspace.expire(key.encode(), at_ms))


def delete(host: Host, *keys: str) -> bool:
    def work(keyspace: Any) -> None:
        for key in keys:
            keyspace.delete(key.encode())

    return host.write(work)


def value(host: Host, key: str, *, database: int = 0) -> bytes | None:
    return host.read(key.encode(), database=database)[0]


async def write_for(
    world: World,
    hosts: Sequence[Host],
    seconds: float,
    rate: float,
    *,
    keys: int = 8,
    deletes: float = 0.2,
    prefix: str = "k",
    size: int = 0,
) -> int:
    """Write `rate` times a second on hosts in turn; return how many writes were taken."""
    rng = Random(f"{world.seed} {prefix} {world.now()}")
    until = world.now() + seconds
    taken = 0
    number = 0
    while world.now() < until:
        number += 1
        host = rng.choice(hosts)
        key = f"{prefix}{rng.randrange(keys)}"
        if rng.random() < deletes:
            taken += delete(host, key)
        else:
            taken += put(host, key, f"{prefix}{number}@{world.now():.3f}".encode().ljust(size, b"."))
        await trio.sleep(rng.expovariate(rate))
    return taken


def is_seen(hosts: Sequence[Host], key: str, wanted: bytes | None) -> bool:
    return all(host.is_up and value(host, key) == wanted for host in hosts)


def links(host: Host) -> list[bytes]:
    return list(host.node.replicator.core.links)


def counter(host: Host, name: str) -> float:
    """Return what the host's process has counted under this name of a metric."""
    if name not in COUNTERS:
        raise LookupError(f"no metric is called {name}")
    return host.node.replicator.core.counters.get(name, 0)


def tombstones(hosts: Sequence[Host]) -> int:
    """Return how many registers of deletions and of expired values are not purged yet, on all hosts together."""
    return sum(
        held.floor is not None or held.value is None for host in hosts for held in host.registers().values()
    )
