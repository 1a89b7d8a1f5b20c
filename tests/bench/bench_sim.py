"""Propagation and idle traffic over a simulated wide-area network, in virtual time: `make bench-sim`.

    propagation    from the commit of a small write to its visibility on another node, for each pair of the two, and
                   until the last node has it; 32 nodes in a full mesh and 500 in a partial view, paths of 20 to
                   120 ms one way, drawn once for each pair. The target is of the former
    idle traffic   bytes that a node sends in a second when nobody writes, 32 nodes

Virtual time knows no CPU: the figures say what the protocol costs in round trips and bytes, not what Python
costs in seconds. Nodes run the daemon's default options.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final

import attrs
import trio

from replication.options import Options
from tests.cluster.network import Path
from tests.cluster.world import Host, World, simulate

OPTIONS: Final = attrs.evolve(Options(), start_gate=1.0)
TARGETS: Final = {32: 0.25, 500: 1.0}
IDLE_BYTES: Final = 2048


def wan_path(path: Path) -> None:
    ends = sorted((path.source, path.target))
    path.delay = Random(f"wan {ends}").uniform(0.02, 0.12)
    path.jitter = path.delay / 20


class Propagation:
    """Measures when a write has come to each node."""

    def __init__(self, world: World, hosts: Sequence[Host]) -> None:
        self.world = world
        self.hosts = hosts
        self.seconds: list[float] = []  # of each write on each other node
        self.last: list[float] = []  # of each write until the last node had it
        self._waiting: dict[tuple[bytes, int], tuple[float, int, Host]] = {}
        for host in hosts:
            dissemination = host.node.replicator.dissemination
            listener = self._listener(host)
            dissemination.on_advance = listener
            dissemination.advanced = partial(self._advanced, dissemination.advanced, listener, host)  # type: ignore[method-assign]

    @staticmethod
    def _advanced(
        original: Callable[[bytes], None], listener: Callable[[bytes, int], None], host: Host, origin: bytes
    ) -> None:
        """A sync has brought it."""
        original(origin)
        listener(origin, host.vector[origin])

    def _listener(self, host: Host) -> Callable[[bytes, int], None]:
        covered: dict[bytes, int] = {}

        def on_advance(origin: bytes, upto: int) -> None:
            for seq in range(covered.get(origin, 0) + 1, upto + 1):
                if (origin, seq) in self._waiting:
                    self._arrive(host, (origin, seq))
            covered[origin] = max(upto, covered.get(origin, 0))

        return on_advance

    def _arrive(self, host: Host, dot: tuple[bytes, int]) -> None:
        at, left, writer = self._waiting[dot]
        if host is writer:
            return
        self.seconds.append(trio.current_time() - at)
        if left > 1:
            self._waiting[dot] = (at, left - 1, writer)
        else:
            self.last.append(trio.current_time() - at)
            del self._waiting[dot]

    def write(self, host: Host, number: int) -> None:
        if host.write(lambda keyspace: keyspace.put(b"p%d" % (number % 1000), b"x" * 100)):
            txn = host.store._txn
            origin = host.store.state.origins[txn.origin]
            self._waiting[origin, txn.seq] = (trio.current_time(), len(self.hosts) - 1, host)

    async def write_for(self, seconds: float, *, rate: float) -> None:
        until = trio.current_time() + seconds
        number = len(self.seconds)
        rng = self.world.rng
        while trio.current_time() < until:
            number += 1
            self.write(rng.choice(self.hosts), number)
            await trio.sleep(rng.expovariate(rate))
        await trio.sleep(3)

    def percentile(self, share: float) -> float:
        return percentile(self.seconds, share)

    @property
    def missing(self) -> int:
        """How many pairs of a write and a node are still open."""
        return sum(left for _, left, _ in self._waiting.values())


def percentile(seconds: Sequence[float], share: float) -> float:
    found = sorted(seconds)
    return found[min(len(found) - 1, int(len(found) * share))] if found else float("inf")


def percentiles(seconds: Sequence[float]) -> str:
    return "  ".join(
        f"p{share * 100:g} {percentile(seconds, share) * 1000:.0f} ms" for share in (0.5, 0.99, 0.999)
    )


async def form_large(world: World, size: int) -> list[Host]:
    """Start a cluster, first a few and then the rest, and let its topology settle."""
    world.default_path = wan_path
    hosts = [world.add("n0")]
    hosts[0].start(founds=True)
    for index in range(1, size):
        hosts.append(world.add(f"n{index}", join=(f"n{world.rng.randrange(min(index, 8))}:1",)))
        hosts[-1].start()
        if index % 20 == 0:
            await trio.sleep(1)
    formed = await world.wait_until(lambda: all(host.is_whole for host in hosts), 600, step=1.0)
    assert formed, f"{sum(host.is_whole for host in hosts)} of {size} have joined"
    await trio.sleep(30)
    return hosts


def measure_propagation(size: int, seconds: float, rate: float) -> Propagation:
    found: list[Propagation] = []

    async def story(world: World) -> None:
        hosts = await form_large(world, size)
        propagation = Propagation(world, hosts)
        await propagation.write_for(seconds, rate=rate)
        found.append(propagation)

    simulate(f"propagation {size}", story, options=OPTIONS)
    return found[0]


def measure_idle(size: int, seconds: float) -> float:
    """Return bytes sent by one node in one second, on average."""
    found: list[float] = []

    async def story(world: World) -> None:
        hosts = await form_large(world, size)
        await world.wait_until(world.is_converged, 60)
        await trio.sleep(60)
        before = sum(path.bytes for path in world.network._paths.values())
        await trio.sleep(seconds)
        after = sum(path.bytes for path in world.network._paths.values())
        found.append((after - before) / seconds / len(hosts))

    simulate(f"idle {size}", story, options=OPTIONS)
    return found[0]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.bench_sim", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 500])
    parser.add_argument("--seconds", type=float, default=10.0, help="of writes, virtual")
    parser.add_argument("--rate", type=float, default=20.0, help="writes a second in all")
    parser.add_argument("--no-idle", action="store_true")
    options = parser.parse_args(arguments)
    missed = 0
    for size in options.sizes:
        started = time.process_time()
        found = measure_propagation(size, options.seconds, options.rate)
        print(
            f"{size:>4} nodes: to a node   {percentiles(found.seconds)}  ({len(found.seconds)} arrivals, "
            f"{found.missing} missing)\n"
            f"            to the last {percentiles(found.last)}  ({len(found.last)} writes, "
            f"{time.process_time() - started:.0f} s of CPU)",
            flush=True,
        )
        missed += found.percentile(0.99) > TARGETS.get(size, 1.0) or bool(found.missing)
    if not options.no_idle:
        idle = measure_idle(32, 60.0)
        print(f"  32 nodes idle: {idle:.0f} bytes a second sent by a node", flush=True)
        missed += idle > IDLE_BYTES
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
