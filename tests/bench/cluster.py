"""What replication costs and how fast it is, with real daemons on loopback.

    python -m tests.bench.cluster                            everything, some ten minutes
    python -m tests.bench.cluster --only propagation --nodes 3 8
    python -m tests.bench.cluster --only join --gigabytes 1
    python -m tests.bench.cluster --only slow --only stopped ten minutes of each

propagation   1,000 small writes a second in all, spread over the nodes. A sample of them is watched: the time from
              the writing client's acknowledgement to the moment every other node tells a client that
              it has committed the write (invalidation of client-side caches, in broadcast mode).
cpu           CPU time of the writing node per SET, alone and with two peers; of a peer per applied record.
wire          bytes between two nodes per value of 1 KiB.
catchup       a node that was away misses 100,000 writes of 1 KiB; time until it is equal again, and GET latency of the
              two others before and meanwhile. Three times: once it and the network (proxies) have one processor, all
              others the rest, and once each of the others has one, which tells what it feels on a machine of its own.
join          a new node joins a cluster that holds so many GiB; GET latency of the node that serves it, and of a
              bystander that has nothing to do with it: what both have in common is the machine's. It has one
              processor to itself.
slow          a peer that takes 1 KiB/s; SET latency and memory of another node before and meanwhile.
stopped       the same with a peer whose process is stopped (SIGSTOP).

All nodes, the generator and the proxies share the machine: with N nodes on two cores each write is applied N
times there, so the figures are bounds of what the code does, not of what N machines would do.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kvd.settings import StorageSettings
from replication.options import Options
from tests.bench.getter import ASKED, Getter
from tests.bench.latency import Histogram
from tests.bench.load import Load, note, run
from tests.cluster_live.harness import Cluster, Node
from tests.servers import RunningServer, wait_until

RATE_PER_SECOND: Final = 1000
WATCHED_SHARE: Final = 0.05
SECONDS: Final = 20.0
LONG_SECONDS: Final = 600.0  # of a slow or stopped peer that is asked for by name
RATIO_MAX: Final = 2.0  # what trouble with one peer may do to the p99 of others
VALUE: Final = b"x" * 64
_OTHERS: Final = ("node 0", "node 1")
_AWAY: Final = "who was away"
_KEYS: Final = 10_000  # that are written over and over beside a peer in trouble
_SET_SECONDS: Final = 0.005  # between two of one client


def percentiles(histogram: Histogram) -> str:
    found = [histogram.percentile_ms(percent) for percent in (50, 99, 99.9)]
    return f"p50 {found[0]:.1f} ms, p99 {found[1]:.1f} ms, p99.9 {found[2]:.1f} ms, n={histogram.count}"


def compare(what: str, before: Histogram, during: Histogram) -> dict[str, float]:
    """Print two latencies and how they compare; return the figures."""
    p99_before, p99_during = before.percentile_ms(99), during.percentile_ms(99)
    ratio = p99_during / p99_before
    note(f"    {what} before: {percentiles(before)}, longest {before.highest_ns / 1e6:.1f} ms")
    note(f"    {what} during: {percentiles(during)}, longest {during.highest_ns / 1e6:.1f} ms")
    note(f"    {what}: p99 {ratio:.2f} times of before (wanted: at most {RATIO_MAX:g})")
    return {"p99_before_ms": p99_before, "p99_during_ms": p99_during, "p99_ratio": ratio}


# ---------------------------------------------------------------- propagation


class Watcher(threading.Thread):
    """Hears from one connection to each node when it has committed a watched write."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(daemon=True)
        self.seen: dict[bytes, list[tuple[int, int]]] = collections.defaultdict(list)  # key -> (node, time)
        self._selector = selectors.DefaultSelector()
        self._buffers: dict[int, bytes] = {}
        self._sockets = []
        self.stopping = False
        for node in nodes:
            sock = socket.create_connection(("127.0.0.1", node.port))
            sock.sendall(b"HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX watched:\r\n")
            self._buffers[node.number] = b""
            self._selector.register(sock, selectors.EVENT_READ, node.number)
            self._sockets.append(sock)

    def run(self) -> None:
        while not self.stopping:
            for key, _ in self._selector.select(0.1):
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                now = time.perf_counter_ns()
                number = key.data
                whole, _, rest = (self._buffers[number] + data).rpartition(b"\r\n")
                self._buffers[number] = rest
                for line in whole.split(b"\r\n"):
                    if line.startswith(b"watched:"):
                        self.seen[line].append((number, now))

    def close(self) -> None:
        self.stopping = True
        self.join()
        for sock in self._sockets:
            sock.close()
        self._selector.close()


def propagation(counts: Sequence[int], seconds: float, report: dict[str, Any]) -> None:
    for count in counts:
        _propagation_to(count, seconds, report)


def _propagation_to(count: int, seconds: float, report: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), count) as cluster:
        time.sleep(2)
        watcher = Watcher(cluster.nodes)
        watcher.start()
        before = [node.cpu_seconds() for node in cluster.nodes]
        acknowledged = _write_at_rate(cluster.nodes, seconds)
        spent = [node.cpu_seconds() - start for node, start in zip(cluster.nodes, before, strict=True)]
        time.sleep(1)
        watcher.close()
        everywhere, each = Histogram(), Histogram()
        missing = 0
        for key, (writer, at) in acknowledged.items():
            found = {number: seen for number, seen in watcher.seen[key] if number != writer}
            if len(found) < count - 1:
                missing += 1
                continue
            everywhere.add(max(1, max(found.values()) - at))
            for seen in found.values():
                each.add(max(1, seen - at))
        note(f"propagation, {count} nodes: to all: {percentiles(everywhere)}; to each: {percentiles(each)}")
        note(
            f"    CPU of a node {100 * sum(spent) / len(spent) / seconds:.0f} %, not seen everywhere: {missing}"
        )
        report[f"propagation_{count}"] = {
            f"p{percent}_ms": everywhere.percentile_ms(percent) for percent in (50, 99, 99.9)
        } | {"missing": missing}


def _write_at_rate(nodes: Sequence[Node], seconds: float) -> dict[bytes, tuple[int, int]]:
    """Write `RATE_PER_SECOND` small values in all; return when watched ones were acknowledged, and by whom."""
    sockets = [socket.create_connection(("127.0.0.1", node.port)) for node in nodes]
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    acknowledged: dict[bytes, tuple[int, int]] = {}
    rng = random.Random(1)
    started = time.perf_counter()
    total = int(seconds * RATE_PER_SECOND)
    for number in range(total):
        due = started + number / RATE_PER_SECOND
        pause = due - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        index = number % len(nodes)
        watched = rng.random() < WATCHED_SHARE
        key = b"watched:%d" % number if watched else b"other:%d" % rng.randrange(100_000)
        sock = sockets[index]
        sock.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(VALUE), VALUE))
        assert sock.recv(64) == b"+OK\r\n"
        if watched:
            acknowledged[key] = (nodes[index].number, time.perf_counter_ns())
    for sock in sockets:
        sock.close()
    return acknowledged


# ---------------------------------------------------------------- cost

_SETS: Final = 100_000
_CPU_ROUNDS: Final = 5


def cpu(report: dict[str, Any]) -> None:
    """Compare with 50 clients that send one SET at a time, and with pipelines of 16. The medians of some rounds."""
    for pipeline in (1, 16):
        load = Load(f"SET P={pipeline}", "SET", 50, pipeline, _SETS)
        rounds = [(_cpu_of(1, load)[0], *_cpu_of(3, load)) for _ in range(_CPU_ROUNDS)]
        alone, writer, peer = map(statistics.median, zip(*rounds, strict=True))
        note(
            f"cpu, {load.name}: {alone:.1f} us a SET alone, {writer:.1f} us with two peers "
            f"({writer / alone:.2f} times), {peer:.1f} us a record at a peer ({peer / alone:.2f} times)"
        )
        report[f"cpu_p{pipeline}"] = {"alone_us": alone, "writer_us": writer, "peer_us": peer}


def _cpu_of(count: int, load: Load) -> tuple[float, float]:
    """Return the CPU time in us per SET of the writing node, and of a peer per record."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), count) as cluster:
        writer = cluster[0]
        server = RunningServer("kvd", writer.process, writer.port, writer.log_file)  # type: ignore[arg-type]
        run(server, load)  # warm
        _wait_quiet(cluster)
        before = [node.cpu_seconds() for node in cluster.nodes]
        run(server, load)
        _wait_quiet(cluster)
        spent = [node.cpu_seconds() - start for node, start in zip(cluster.nodes, before, strict=True)]
        return spent[0] * 1e6 / load.requests, spent[-1] * 1e6 / load.requests


def _wait_quiet(cluster: Cluster) -> None:
    def have_the_same() -> bool:
        return len({node.status()["dots"] for node in cluster.nodes}) == 1

    wait_until(have_the_same, "all have the same writes", seconds=120)


def wire(report: dict[str, Any]) -> None:
    """Count what passes the proxies, both ways, with TLS and all."""
    count, size = 20_000, 1024
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), 2) as cluster:
        time.sleep(2)
        _wait_quiet(cluster)
        before = sum(node.proxy.forwarded_bytes for node in cluster.nodes)
        _write_values(cluster[0], count, size)
        _wait_quiet(cluster)
        passed = sum(node.proxy.forwarded_bytes for node in cluster.nodes) - before
    ratio = passed / (count * size)
    note(f"wire: {passed / count:.0f} bytes for a value of {size}, {ratio:.2f} times the payload")
    report["wire"] = {"bytes_per_value": passed / count, "ratio": ratio}


def _write_values(node: Node, count: int, size: int, *, prefix: str = "key", pause: float = 0.0) -> None:
    rng = random.Random(2)
    noise = rng.randbytes(1 << 20)
    with node.client() as client:
        for start in range(0, count, 500):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(start + 500, count)):
                at = number * 61 % (len(noise) - size)
                pipeline.set(f"{prefix}:{number}", noise[at : at + size])
            pipeline.execute()
            if pause:
                time.sleep(pause)


# ---------------------------------------------------------------- catching up


class Shares:
    """Who used how much of a core from here on. This process generates the load and passes the nodes' bytes."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._started = time.perf_counter()
        self._before = self._spent()

    def _spent(self) -> dict[str, float]:
        spent = {name: node.cpu_seconds() for name, node in self._nodes.items() if node.process is not None}
        return spent | {"generator and proxies": time.process_time()}

    def take(self) -> dict[str, float]:
        """Return the percentage of each; a node that was not there yet has begun with nothing."""
        took = time.perf_counter() - self._started
        return {name: 100 * (now - self._before.get(name, 0.0)) / took for name, now in self._spent().items()}


def note_shares(shares: Mapping[str, float]) -> None:
    note("    of a core: " + ", ".join(f"{name} {share:.0f} %" for name, share in shares.items()))
    busiest = max(shares, key=lambda name: shares[name])
    is_it = shares[busiest] > 85
    note(
        f"    what bounds the rate: {f'the processor of {busiest}' if is_it else 'waiting, for each other or a processor'}"
    )


def catchup(count: int, report: dict[str, Any]) -> None:
    """Measure three times, each with another node on a processor of its own: how long it takes, and what others feel."""
    report["catchup"] = {apart: _catch_up(count, apart) for apart in (_AWAY, *_OTHERS)}


def _catch_up(count: int, apart: str) -> dict[str, Any]:
    size = 1024
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), 3) as cluster:
        nodes = dict(zip((*_OTHERS, _AWAY), cluster.nodes, strict=True))
        away = nodes[_AWAY]
        cluster.cut(cluster.nodes[:2], [away])
        _write_values(cluster[0], count, size)
        wait_until(
            lambda: cluster[1].status()["dots"] == cluster[0].status()["dots"], "two agree", seconds=300
        )
        asked = {name: nodes[name] for name in (_OTHERS if apart == _AWAY else [apart])}
        with _getting(asked) as getters, _apart(apart, nodes, getters):
            before = _measured_for(getters, 5.0)
            cluster.heal()
            wait_until(lambda: any(m["linked"] for m in away.status()["members"]), "it is linked", seconds=60)
            for getter in getters.values():
                getter.take()
            shares = Shares(nodes)
            took = _until_equal(cluster[0], away)
            spent = shares.take()
            during = {name: getter.take() for name, getter in getters.items()}
        cluster.verify(away)
    rate = count * size / took / 1e6
    note(f"catchup: {count:,} writes of {size} bytes in {took:.1f} s, {rate:.0f} MB/s")
    note_shares(spent)
    return {"seconds": took, "mb_per_second": rate, "core_percent": spent} | {
        name: compare(f"GET of {name}", before[name], during[name]) for name in asked
    }


@contextlib.contextmanager
def _apart(name: str, nodes: Mapping[str, Node], getters: Mapping[str, Getter]) -> Iterator[None]:
    """Give one node the last processor, as if it were a machine of its own, and all others the rest.

    With a node goes its client; with the node that was away go the proxies.
    """
    processors = sorted(os.sched_getaffinity(0))
    own, rest = processors[-1:], processors[:-1] or processors
    note(_placing(processors, name))
    with _on_processors(own if name == _AWAY else rest) as here:
        _move_threads(os.getpid(), here)
        for other, node in nodes.items():
            _move_threads(node.pid, own if other == name else rest)
        for other, getter in getters.items():
            _move_threads(getter.pid, own if other == name else rest)
        yield


@contextlib.contextmanager
def _getting(nodes: Mapping[str, Node]) -> Iterator[dict[str, Getter]]:
    with contextlib.ExitStack() as stack:
        for node in nodes.values():
            _write_values(node, len(ASKED), 64, prefix="asked")
        yield {
            name: stack.enter_context(contextlib.closing(Getter(node.port))) for name, node in nodes.items()
        }


def _measured_for(getters: Mapping[str, Getter], seconds: float) -> dict[str, Histogram]:
    for getter in getters.values():
        getter.take()
    time.sleep(seconds)
    return {name: getter.take() for name, getter in getters.items()}


def _until_equal(source: Node, behind: Node) -> float:
    started = time.perf_counter()
    wait_until(lambda: behind.status()["dots"] >= source.status()["dots"], "it has caught up", seconds=600)
    return time.perf_counter() - started


def join(gigabytes: float, report: dict[str, Any]) -> None:
    size = 4096
    count = int(gigabytes * (1 << 30) / size)
    processors = sorted(os.sched_getaffinity(0))
    with (
        _on_processors(processors[:-1] or processors),
        tempfile.TemporaryDirectory() as directory,
        tempfile.TemporaryDirectory() as apart,
        Cluster(Path(directory), 1) as cluster,
        Cluster(Path(apart), 1) as bystander,
    ):
        _write_values(cluster[0], count, size)
        note(f"join: {count:,} values of {size} bytes are there")
        note(_placing(processors, "new node"))
        asked = {"serving node": cluster[0], "bystander": bystander[0]}
        with _getting(asked) as getters:
            before = _measured_for(getters, 10.0)
            joining = Node(cluster, 1, Path(directory) / "n1")
            cluster.nodes.append(joining)
            shares = Shares({**asked, "new node": joining})
            started = time.perf_counter()
            with _on_processors(processors[-1:]):
                cluster.start(joining, wait=False)
            _wait_ready(joining)
            took = time.perf_counter() - started
            spent = shares.take()
            during = {name: getter.take() for name, getter in getters.items()}
    rate = count * size / took / 1e6
    note(f"join: {gigabytes:g} GiB in {took:.1f} s with the start of the process, {rate:.0f} MB/s")
    note_shares(spent)
    report["join"] = {"seconds": took, "mb_per_second": rate, "core_percent": spent} | {
        name: compare(f"GET of the {name}", before[name], during[name]) for name in asked
    }


def _placing(processors: Sequence[int], apart: str) -> str:
    """Say what the latencies beside a node that fetches much can be compared with."""
    if len(processors) == 1:
        return "    all share one processor: the latencies are what the machine does, not what is measured"
    rest = ", ".join(map(str, processors[:-1]))
    return (
        f"    {apart} has processor {processors[-1]}, as if it were another machine. All others share {rest}:\n"
        "    worse for the nodes among them than a machine each."
    )


def _wait_ready(joining: Node) -> None:
    """Wait until a new node has all; look ten times a second, which costs it little, that its progress goes on."""
    fractions: list[float] = []

    def is_ready() -> bool:
        time.sleep(0.1)
        found = joining.status()
        if found["bootstrap"] is not None:
            fractions.append(float(found["bootstrap"]["percent"]))
        return bool(found["standing"] == "ready")

    wait_until(is_ready, "it has joined", seconds=600)
    assert fractions == sorted(fractions), "progress goes back"


def _move_threads(pid: int, processors: Sequence[int]) -> None:
    """Let the threads that a process has by now, and those that they will start, go on there."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), processors)


@contextlib.contextmanager
def _on_processors(processors: Sequence[int]) -> Iterator[Sequence[int]]:
    """Keep this process, and those that it starts meanwhile, to these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield processors
    finally:
        os.sched_setaffinity(0, before)


# ---------------------------------------------------------------- a peer in trouble


def slow(seconds: float, report: dict[str, Any]) -> None:
    def hinder(node: Node) -> None:
        node.bytes_a_second = 1024

    def relieve(node: Node) -> None:
        node.bytes_a_second = None

    report["slow"] = _beside("slow", "a peer that takes 1 KiB/s", hinder, relieve, seconds)


def stopped(seconds: float, report: dict[str, Any]) -> None:
    report["stopped"] = _beside("stopped", "a stopped peer (SIGSTOP)", Node.freeze, Node.thaw, seconds)


def _beside(
    name: str, what: str, hinder: Callable[[Node], None], relieve: Callable[[Node], None], seconds: float
) -> dict[str, Any]:
    """Write 1 KiB 200 times a second: as usual, while one peer is in trouble, and as usual again."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), 3) as cluster:
        writer, _, victim = cluster.nodes
        _Stretch(writer, victim, 5.0)  # warm
        before = _Stretch(writer, victim, min(seconds, 120.0))
        hinder(victim)
        during = _Stretch(writer, victim, seconds)
        relieve(victim)
        missing = writer.status()["dots"] - victim.status()["dots"]
        took = _until_equal(writer, victim)
        after = _Stretch(writer, victim, min(seconds, 120.0))
    note(f"{name}: {what} for {seconds:g} s{_how_to_measure_longer(name, seconds)}")
    figures = compare("SET of another node", before.latency, during.latency)
    note(f"    SET of another node afterwards: {percentiles(after.latency)}")
    _note_memory(before, during)
    note(f"    it lacked {missing:,} writes; equal after {took:.1f} s")
    return figures | {
        "seconds": seconds,
        "p99_after_ms": after.latency.percentile_ms(99),
        "resident_before_bytes": before.resident_bytes,
        "resident_during_bytes": during.resident_bytes,
        "queue_bytes": during.queue_bytes,
        "missing_writes": missing,
        "equal_seconds": took,
    }


def _how_to_measure_longer(name: str, seconds: float) -> str:
    if seconds >= LONG_SECONDS:
        return ""
    return f"; ten minutes are asked for: --only {name}, or --seconds {LONG_SECONDS:g}"


class _Stretch:
    """SETs for some time: their latency, and the most memory that the node had meanwhile."""

    def __init__(self, node: Node, peer: Node, seconds: float) -> None:
        self.latency = Histogram()
        self.resident_bytes = 0
        self.queue_bytes = 0  # what waited to be sent to `peer`
        self._node = node
        self._peer_address = peer.address
        self._over = threading.Event()
        watching = threading.Thread(target=self._watch)
        watching.start()
        try:
            self._write(time.perf_counter() + seconds)
        finally:
            self._over.set()
            watching.join()

    def _write(self, deadline: float) -> None:
        value = random.Random(3).randbytes(1024)
        with socket.create_connection(("127.0.0.1", self._node.port)) as sock:
            for number in itertools.count():
                if time.perf_counter() > deadline:
                    return
                key = b"key:%d" % (number % _KEYS)
                started = time.perf_counter_ns()
                sock.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$1024\r\n%b\r\n" % (len(key), key, value))
                sock.recv(64)
                self.latency.add_felt(time.perf_counter_ns() - started, _SET_SECONDS)
                time.sleep(_SET_SECONDS)

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.resident_bytes = max(self.resident_bytes, self._node.resident_bytes())
            for member in self._node.status()["members"]:
                if self._peer_address in member["addresses"]:
                    self.queue_bytes = max(self.queue_bytes, member["queue_bytes"])


def _note_memory(before: _Stretch, during: _Stretch) -> None:
    """Print memory beside what the settings and limits allow it to become."""
    storage, limits = StorageSettings(), Options()
    replication = limits.queue_bytes_max + limits.history_bytes_max + limits.parked_bytes_max
    grown = during.resident_bytes - before.resident_bytes
    note(f"    its queue for the peer: at most {_mib(during.queue_bytes)} of {_mib(limits.queue_bytes_max)}")
    note(
        f"    its memory: at most {_mib(before.resident_bytes)} before, {_mib(during.resident_bytes)} during, "
        f"{_mib(grown)} more"
    )
    note(
        f"    the caps: {_mib(replication)} more for a peer in trouble (queue {_mib(limits.queue_bytes_max)}, history "
        f"{_mib(limits.history_bytes_max)}, parked {_mib(limits.parked_bytes_max)});\n"
        f"    with or without one {_mib(storage.cache_bytes)} of records, {_mib(storage.block_cache_bytes)} of blocks, "
        f"and what is not flushed to files yet"
    )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


# ---------------------------------------------------------------- the command

_NAMES: Final = ("propagation", "cpu", "wire", "catchup", "join", "slow", "stopped")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.cluster", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--only", action="append", choices=_NAMES, help="measure this; may be repeated")
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 8, 16], help="sizes for propagation")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"of propagation ({SECONDS:g}), and of a slow or stopped peer ({SECONDS:g}; with --only, {LONG_SECONDS:g})",
    )
    parser.add_argument("--writes", type=int, default=100_000, help="what catchup has to catch up with")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="what a new node has to fetch")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {}
    seconds = options.seconds or SECONDS
    trouble_seconds = options.seconds or (LONG_SECONDS if options.only else SECONDS)
    parts: dict[str, Callable[[], None]] = {
        "propagation": lambda: propagation(options.nodes, seconds, report),
        "cpu": lambda: cpu(report),
        "wire": lambda: wire(report),
        "catchup": lambda: catchup(options.writes, report),
        "join": lambda: join(options.gigabytes, report),
        "slow": lambda: slow(trouble_seconds, report),
        "stopped": lambda: stopped(trouble_seconds, report),
    }
    for name in options.only or parts:
        parts[name]()
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
