"""The swarm: each seed draws its own cluster, workloads, kinds of faults and their rates.

python -m tests.cluster.swarm 0:1000       run these seeds on all cores
python -m tests.cluster.swarm 17           replay one and print its events
python -m tests.cluster.swarm 17 --shrink  leave out what is not needed for its failure
python -m tests.cluster.swarm 0:3 --crowd  the same with 32 hosts each, which takes minutes
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from random import Random
from types import MappingProxyType
from typing import Final

import attrs
import trio

from replication.options import Options
from tests.cluster import faults, workloads
from tests.cluster.checkers import Watch, check_rest, wait_for_rest
from tests.cluster.history import Violation
from tests.cluster.plan import Event, play
from tests.cluster.world import GC_MIN_AGE, OPTIONS, SWEEP_INTERVAL, World, simulate, template

REST_SECONDS: Final = 60.0
PURGE_SECONDS: Final = 4.0
LOOK_EVERY: Final = 4.0
PURGING_EVERY: Final = 5
GROUPED_FROM: Final = 1_000_000  # from this seed on, some hosts carry a group that others do not
PARTIAL_FROM: Final = 2_000_000  # from this seed on, hosts are linked with two or three others each
WIDER_FROM: Final = (
    3_000_000  # from this seed on, plans are drawn from more faults, sizes and lengths of values
)
PURGING_FAULTS: Final = (
    "partition",
    "link",
    "cuts",
    "slow",
    "flaky",
    "stall",
    "kill",
    "power",
    "restore",
    "wipe",
    "die",
    "join",
    "past",
    "expelled",
    "halfway",
    "overtaken",
)
# Histories with a plot of their own, for clusters in which syncs take long.
STORIES: Final = ("past", "expelled", "halfway", "overtaken", "ahead")
SIZES: Final = MappingProxyType({3: 5, 4: 3, 5: 2})
WIDER_SIZES: Final = MappingProxyType({3: 4, 5: 3, 7: 3})
CPU_SECONDS: Final = 60.0  # ten times what the largest take, with the rest of the machine busy
CROWD: Final = 32
CROWD_CPU_SECONDS: Final = 600.0
# What a crowd suffers: each of these concerns few of its members.
CROWD_FAULTS: Final = ("link", "cuts", "slow", "stall", "kill", "power", "slow-reader", "corruption")


@attrs.frozen
class Plan:
    """Everything that a seed draws."""

    seed: int
    hosts: int
    durability: tuple[str, ...]
    skews_ms: tuple[float, ...]
    jitter: float
    gc_min_age: float
    sweep_interval: float
    options: Options
    events: tuple[Event, ...]
    kinds: tuple[str, ...]
    carriers: tuple[str, ...] = ()  # hosts that carry the group from the beginning

    def without(self, left_out: Sequence[Event]) -> Plan:
        gone = set(map(id, left_out))
        return attrs.evolve(self, events=tuple(event for event in self.events if id(event) not in gone))


def draw(seed: int) -> Plan:
    """Draw the plan of a seed.

    Every fifth is about nothing but purging, those from `GROUPED_FROM` on about groups as well, and those from
    `PARTIAL_FROM` on are in a partial view, half of them with groups. From `WIDER_FROM` on they are of all these sorts.
    """
    if seed >= WIDER_FROM:
        return draw_wider(seed)
    if seed >= PARTIAL_FROM:
        plan = with_partial_view(draw_mixed(seed, sizes={4: 3, 5: 4, 6: 3}))
        return with_carriers(plan) if seed % 2 else plan
    is_about_purging = seed % PURGING_EVERY == PURGING_EVERY - 1
    plan = draw_purging(seed) if is_about_purging else draw_mixed(seed)
    return with_carriers(plan) if seed >= GROUPED_FROM else plan


def draw_wider(seed: int) -> Plan:
    """Draw from all there is; every second plan in a partial view, every third with groups, every fifth about purging."""
    if seed % PURGING_EVERY == PURGING_EVERY - 1:
        plan = draw_purging(seed, sizes=(3, 4, 5), kinds=(*PURGING_FAULTS, "slow-reader", "corruption"))
    else:
        plan = draw_mixed(seed, WIDER_SIZES, kinds=faults.WIDER_FAULTS, clients=workloads.WIDER_WORKLOADS)
    if seed % 2:
        plan = with_partial_view(plan)
    return with_carriers(plan) if seed % 3 == 0 else plan


def draw_crowd(seed: int, hosts: int = CROWD) -> Plan:
    """Draw many hosts, each linked with a few others, that suffer little of what smaller clusters do."""
    kinds = {kind: faults.WIDER_FAULTS[kind] for kind in CROWD_FAULTS}
    plan = draw_mixed(seed, {hosts: 1}, kinds=kinds)
    options = attrs.evolve(plan.options, full_mesh_max=5, degree=5, degree_low=4, degree_high=7)
    return attrs.evolve(plan, options=options)


def with_carriers(plan: Plan) -> Plan:
    """Let most hosts of a plan carry a group, which most of what clients do there is about; some only later."""
    rng = Random(f"carriers {plan.seed}")
    names = [f"n{index}" for index in range(plan.hosts)]
    joining = [str(event.arguments[0]) for event in plan.events if event.kind == "join"]
    carrying = rng.sample(names, rng.randrange(2, plan.hosts + 1))
    late = [name for name in [*carrying[1:], *joining] if rng.random() < 0.3]
    end = max((event.at for event in plan.events), default=1.0)
    events = [Event(rng.uniform(0, end), "carry", (name,)) for name in late]
    kinds = plan.kinds
    if rng.random() < 0.25:
        events += faults.draw_ahead(rng, names, end)
        kinds += ("ahead",)
    return attrs.evolve(
        plan,
        carriers=tuple(name for name in carrying if name not in late),
        kinds=kinds,
        events=tuple(sorted([*plan.events, *events], key=lambda event: event.at)),
    )


def with_partial_view(plan: Plan) -> Plan:
    """Let hosts have two or three links, and hear of most others by what these pass on."""
    rng = Random(f"partial {plan.seed}")
    degree = rng.choice((2, 3))
    options = attrs.evolve(
        plan.options,
        full_mesh_max=3,
        degree=degree,
        degree_low=rng.randrange(2, degree + 1),
        degree_high=degree,
        relay_vectors_interval=rng.choice((0.5, 2.0)),
    )
    return attrs.evolve(plan, options=options)


def draw_purging(seed: int, sizes: Sequence[int] = (3, 3, 4), kinds: Sequence[str] = PURGING_FAULTS) -> Plan:
    """Draw many deletions of few keys that are purged at once, over links that are slow, silent or broken.

    The rarest failures need a sync that lasts longer than a deletion lives, and writes that are missing here and
    there meanwhile.
    """
    rng = Random(f"purging {seed}")
    count = rng.choice(sizes)
    names = [f"n{index}" for index in range(count)]
    end = rng.uniform(10, 25)
    weights = {"delete": 6.0, rng.choice(("register", "ttl", "flush", "txn")): 1.0}
    events = workloads.draw(rng, weights, names, rng.randrange(100, 220), end)
    chosen = rng.sample(kinds, rng.choice((1, 2, 3, 4)))
    for kind in chosen:
        drawn, most = faults.WIDER_FAULTS[kind]
        for _ in range(rng.randrange(1, 2 * most + 1)):
            events += drawn(rng, names, end)
    events.sort(key=lambda event: event.at)
    options = attrs.evolve(
        OPTIONS,
        purge_interval=0.2,
        vector_interval=0.15,
        ihave_timeout=rng.choice((0.5, 3.0, 6.0)),
        queue_bytes_max=rng.choice((600, 64 * 1024)),
        history_bytes_max=0,
        parked_changes_max=rng.choice((4, 32)),
        sync_batch_bytes=200,
        sync_credit_bytes=400,
        sync_interval=rng.choice((1.0, 3.0, 6.0)),
    )
    durability = tuple(rng.choices(("everysec", "always"), (2, 1), k=count))
    return Plan(
        seed, count, durability, (0.0,) * count, 0.01, 0.1, 0.2, options, tuple(events), tuple(chosen)
    )


def draw_mixed(
    seed: int,
    sizes: Mapping[int, int] = SIZES,
    *,
    kinds: Mapping[str, faults.Fault] = faults.FAULTS,
    clients: Mapping[str, workloads.Draw] = workloads.WORKLOADS,
) -> Plan:
    """Draw a little of everything, with clusters of these sizes, by their weights."""
    rng = Random(f"swarm {seed}")
    count = rng.choices(tuple(sizes), tuple(sizes.values()))[0]
    names = [f"n{index}" for index in range(count)]
    end = rng.uniform(15, 40)
    chosen = rng.sample(list(clients), rng.randrange(1, 5))
    weights = {name: rng.choice((0.1, 1.0) if name == "large" else (0.5, 1.0, 3.0)) for name in chosen}
    if rng.random() < 0.7:
        weights.setdefault("delete", 1.0)
    events = workloads.draw(rng, weights, names, rng.randrange(60, 180), end, workloads=clients)
    suffered = rng.sample(
        [name for name in kinds if name not in STORIES],
        rng.choice((0, 1, 2, 2, 3, 3, 4, 5, 6)),
    )
    for kind in suffered:
        drawn, most = kinds[kind]
        for _ in range(rng.randrange(1, most + 1)):
            events += drawn(rng, names, end)
    events.sort(key=lambda event: event.at)
    durability = rng.choices(("everysec", "always", "no"), (6, 2, 1), k=count)
    skew = rng.choice((0.0, 20.0, 90.0))
    skews = tuple(rng.uniform(-skew, skew) for _ in names)
    return Plan(
        seed,
        count,
        tuple(durability),
        skews,
        rng.choice((0.001, 0.01, 0.08)),
        *draw_options(rng),
        tuple(events),
        tuple(suffered),
    )


def draw_options(rng: Random) -> tuple[float, float, Options]:
    """Draw how soon deletions are purged, and how syncs are cut: long sessions in many small batches, or short ones.

    The protocol must hold whatever these are; that the least age of a purge is longer than all else only makes
    the rare cases rarer, so many runs have it shorter.
    """
    gc_min_age, purge_interval = rng.choice(((0.3, 0.2), (1.0, 0.3), (GC_MIN_AGE, OPTIONS.purge_interval)))
    batch = rng.choice((300, 2048))
    return (
        gc_min_age,
        SWEEP_INTERVAL,
        attrs.evolve(
            OPTIONS,
            purge_interval=purge_interval,
            sync_batch_bytes=batch,
            sync_credit_bytes=3 * batch,
            sync_look_places=batch // 150,
            sync_interval=rng.choice((2.0, 5.0)),
            history_bytes_max=rng.choice((0, 2048, 16 * 1024)),
        ),
    )


def run(plan: Plan, *, prepare: Callable[[World], None] | None = None) -> World:
    """Let a plan happen, heal, wait for rest, check; raise `Violation`."""

    async def scenario(world: World) -> None:
        def shape(path: object) -> None:
            path.delay, path.jitter, path.bandwidth = 0.001, plan.jitter, 1e9  # type: ignore[attr-defined]

        world.default_path = shape
        if prepare is not None:
            prepare(world)
        for host in world.resume(template(plan.hosts), plan.durability, plan.carriers):
            host.clock.offset_ms = plan.skews_ms[int(host.name[1:])]
        watch = Watch(world)
        watch.begin()
        world.watch = watch
        world.after_tick.append(workloads.look_at_transactions)
        world.sweep_interval = plan.sweep_interval
        await world.wait_until(lambda: world.is_formed(plan.hosts), 10)
        await play(world, list(plan.events), watch, look_every=LOOK_EVERY)
        watch.look()
        faults.heal(world)
        await wait_for_rest(world, REST_SECONDS)
        watch.look()
        check_rest(world)
        await trio.sleep(min(plan.gc_min_age, GC_MIN_AGE) + PURGE_SECONDS)
        # A clock that was set right late has made its node write its own records under a new origin meanwhile.
        await wait_for_rest(world, REST_SECONDS)
        check_rest(world)

    template(plan.hosts)  # a run of its own, so it cannot be made during this one
    return simulate(plan.seed, scenario, options=plan.options, gc_min_age=plan.gc_min_age)


def attempt(plan: Plan, prepare: Callable[[World], None] | None = None) -> str | None:
    """Run a plan; return what went wrong, or None."""
    try:
        with limited(CROWD_CPU_SECONDS if plan.hosts >= CROWD else CPU_SECONDS):
            run(plan, prepare=prepare)
    except Exception as error:  # noqa: BLE001 - whatever it is, the seed has found it
        return _first_line(error)
    return None


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    where = ""
    if not isinstance(error, Violation):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f" at {frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return f"{type(error).__name__}{where}: {str(error)[:600]}"


def digest(seed: int) -> str:
    """Return a hash of everything that was read from the network in a run, and when."""
    found: list[World] = []

    def prepare(world: World) -> None:
        world.watch_network()
        found.append(world)

    run(draw(seed), prepare=prepare)
    hexadecimal: str = found[0].digest.hexdigest()
    return hexadecimal


def shrink(
    plan: Plan,
    failure: str,
    *,
    seconds: float = 120.0,
    attempt: Callable[[Plan], str | None] = attempt,
) -> Plan:
    """Leave out events, in parts that become smaller, as long as the run fails in the same way."""
    until = time.monotonic() + seconds
    sort = failure[:30]
    size = max(1, len(plan.events) // 2)
    while size >= 1 and time.monotonic() < until:
        position, shorter = 0, False
        while position < len(plan.events) and time.monotonic() < until:
            thinner = plan.without(list(islice(plan.events, position, position + size)))
            found = attempt(thinner)
            if found is not None and found[: len(sort)] == sort:
                plan, shorter = thinner, True
            else:
                position += size
        if size > 1 or not shorter:
            size //= 2
    return plan


class Stuck(Exception):
    """A run goes on without end: some task is busy while virtual time stands still."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Stuck` after so many seconds of CPU, wherever the run is then."""

    def give_up(*_: object) -> None:
        raise Stuck(f"no end within {seconds:.0f} s")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt_seed(seed: int, draw: Callable[[int], Plan] = draw) -> tuple[int, str | None, float]:
    """Run a seed; return it with its failure and the CPU seconds that it took."""
    started = time.process_time()
    failure = attempt(draw(seed))
    return seed, failure, time.process_time() - started


def run_seeds(
    seeds: Sequence[int],
    *,
    processes: int | None = None,
    stop_after: int = 20,
    draw: Callable[[int], Plan] = draw,
) -> list[tuple[int, str]]:
    """Run seeds on all cores; return the failures."""
    failures: list[tuple[int, str]] = []
    spent = 0.0
    done = 0
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        chunk = 1 if draw is draw_crowd else 8
        for seed, failure, seconds in pool.map(partial(attempt_seed, draw=draw), seeds, chunksize=chunk):
            done += 1
            spent += seconds
            if done % 500 == 0:
                print(f"{done} seeds", flush=True)
            if failure is not None:
                failures.append((seed, failure))
                print(f"seed {seed}: {failure}", flush=True)
                if len(failures) >= stop_after:
                    pool.shutdown(cancel_futures=True)
                    break
    print(f"{done} seeds, {len(failures)} failed, {spent / max(done, 1):.3f} s of CPU each", flush=True)
    return failures


def replay(seed: int, *, shrinks: bool, draw: Callable[[int], Plan] = draw) -> bool:
    """Run one seed and print its events and its failure; True if there was none."""
    plan = draw(seed)
    failure = attempt(plan)
    if failure is not None and shrinks:
        plan = shrink(plan, failure)
    log: list[str] = []

    def prepare(world: World) -> None:
        world.log = log

    failure = attempt(plan, prepare)
    carriers = f", group: {', '.join(plan.carriers)}" if plan.carriers else ""
    print(
        f"seed {seed}: {plan.hosts} hosts, {plan.durability}, faults: {', '.join(plan.kinds) or 'none'}{carriers}"
    )
    print("\n".join(log))
    print(failure or "all well")
    return failure is None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.cluster.swarm", description=__doc__)
    parser.add_argument("seeds", help="one seed, or FIRST:END")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--digest", action="store_true", help="print a hash of the run, and nothing else")
    parser.add_argument("--crowd", action="store_true", help=f"clusters of {CROWD} hosts")
    parser.add_argument("--stop-after", type=int, default=20)
    parser.add_argument("--processes", type=int, help="as many as there are cores, if not given")
    options = parser.parse_args(arguments)
    drawn = draw_crowd if options.crowd else draw
    if options.digest:
        print(digest(int(options.seeds)))
        return 0
    if ":" not in options.seeds:
        return 0 if replay(int(options.seeds), shrinks=options.shrink, draw=drawn) else 1
    first, end = map(int, options.seeds.split(":"))
    failures = run_seeds(
        range(first, end), processes=options.processes, stop_after=options.stop_after, draw=drawn
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
