"""What replication costs and how fast it is, with real daemons on loopback.

    python -m tests.bench.cluster                            everything, some ten minutes
    python -m tests.bench.cluster --only propagation --nodes 3 8
    python -m tests.bench.cluster --only join --gigabytes 1

propagation   1,000 small writes a second in all, spread over the nodes. A sample of them is watched: the time from
              the writing client's acknowledgement to the moment every other node tells a client that
              it has committed the write (invalidation of client-side caches, in broadcast mode).
cpu           CPU time of the writing node per SET, alone and with two peers; of a peer per applied record.
wire          bytes between two nodes per value of 1 KiB.
catchup       a node that was away misses 100,000 writes of 1 KiB; time until it is equal again.
join          a new node joins a cluster that holds so many GiB; GET latency of the node that serves it, and of a
              bystander that has nothing to do with it: what both have in common is the machine's. The new one
              has one processor to itself, all others share the rest.
slow          a peer that takes 1 KiB/s; latency and memory of the others meanwhile.

All nodes, the generator and the proxies share the machine: with N nodes on two cores each write is applied N
times there, so the figures are bounds of what the code does, not of what N machines would do.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench.latency import Histogram
from tests.bench.load import Load, run
from tests.cluster_live.harness import Cluster, Node
from tests.servers import RunningServer, wait_until

RATE_PER_SECOND: Final = 1000
WATCHED_SHARE: Final = 0.05
SECONDS: Final = 20.0
VALUE: Final = b"x" * 64
_KEYS: Final = 10_000  # that are written over and over beside a slow peer


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def percentiles(histogram: Histogram) -> str:
    found = [histogram.percentile_ms(percent) for percent in (50, 99, 99.9)]
    return f"p50 {found[0]:.1f} ms, p99 {found[1]:.1f} ms, p99.9 {found[2]:.1f} ms, n={histogram.count}"


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


def propagation(count: int, seconds: float, report: dict[str, Any]) -> None:
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


def catchup(report: dict[str, Any]) -> None:
    count, size = 100_000, 1024
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), 3) as cluster:
        away = cluster[2]
        cluster.cut(cluster.nodes[:2], [away])
        _write_values(cluster[0], count, size)
        wait_until(
            lambda: cluster[1].status()["dots"] == cluster[0].status()["dots"], "two agree", seconds=300
        )
        cpu_before = [node.cpu_seconds() for node in cluster.nodes]
        cluster.heal()
        wait_until(lambda: any(m["linked"] for m in away.status()["members"]), "it is linked", seconds=60)
        took = _until_equal(cluster[0], away)
        spent = [node.cpu_seconds() - start for node, start in zip(cluster.nodes, cpu_before, strict=True)]
        cluster.verify(away)
    rate = count * size / took / 1e6
    note(f"catchup: {count:,} writes of {size} bytes in {took:.1f} s, {rate:.0f} MB/s; CPU seconds {spent}")
    report["catchup"] = {"seconds": took, "mb_per_second": rate}


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
        asked = {"serving node": cluster[0], "bystander": bystander[0]}
        idle = _get_latencies(asked, lambda: False, seconds=10)
        started = time.perf_counter()
        joining = Node(cluster, 1, Path(directory) / "n1")
        cluster.nodes.append(joining)
        with _on_processors(processors[-1:]):
            cluster.start(joining, wait=False)
        fractions: list[float] = []

        def is_done() -> bool:
            bootstrap = joining.status()["bootstrap"]
            if bootstrap is not None:
                fractions.append(float(bootstrap["percent"]))
            return bool(joining.status()["standing"] == "ready")

        busy = _get_latencies(asked, is_done, seconds=600)
        took = time.perf_counter() - started
    rate = count * size / took / 1e6
    assert fractions == sorted(fractions), "progress goes back"
    note(f"join: {gigabytes:g} GiB in {took:.1f} s, {rate:.0f} MB/s")
    report["join"] = {"seconds": took, "mb_per_second": rate}
    for name in asked:
        note(f"    GET of the {name}, usually:   {percentiles(idle[name])}")
        note(f"    GET of the {name}, meanwhile: {percentiles(busy[name])}")
        report["join"][name] = {
            "get_p99_idle_ms": idle[name].percentile_ms(99),
            "get_p99_busy_ms": busy[name].percentile_ms(99),
        }


@contextlib.contextmanager
def _on_processors(processors: Sequence[int]) -> Iterator[None]:
    """Keep this process, and those that it starts meanwhile, to these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _get_latencies(
    nodes: Mapping[str, Node], is_over: Callable[[], bool], *, seconds: float
) -> dict[str, Histogram]:
    """Measure GETs, 200 a second in all, until `is_over` or the time is."""
    found = {name: Histogram() for name in nodes}
    deadline = time.perf_counter() + seconds
    look_at = time.perf_counter() + 1.0
    with contextlib.ExitStack() as stack:
        sockets = {
            name: stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            for name, node in nodes.items()
        }
        while time.perf_counter() < deadline:
            for name, sock in sockets.items():
                started = time.perf_counter_ns()
                sock.sendall(b"GET missing\r\n")
                sock.recv(64)
                found[name].add(time.perf_counter_ns() - started)
                time.sleep(0.005)
            if time.perf_counter() > look_at:
                look_at = time.perf_counter() + 1.0
                if is_over():
                    break
    return found


def slow(seconds: float, report: dict[str, Any]) -> None:
    """Write 1 KiB 200 times a second: as usual, while one peer takes 1 KiB/s, and as usual again."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), 3) as cluster:
        _set_latency(cluster[0], b"warm", 5.0)
        normal, grown_normal = _set_latency(cluster[0], b"normal", min(seconds, 120.0))
        cluster[2].bytes_a_second = 1024
        hindered, grown_slow = _set_latency(cluster[0], b"slow", seconds)
        missing = cluster[0].status()["dots"] - cluster[2].status()["dots"]
        cluster[2].bytes_a_second = None
        took = _until_equal(cluster[0], cluster[2])
        again, _ = _set_latency(cluster[0], b"again", min(seconds, 120.0))
    note(f"slow: SET usually {percentiles(normal)}; memory grew by {grown_normal / 1e6:.0f} MB")
    note(f"    with a slow peer {percentiles(hindered)}; memory grew by {grown_slow / 1e6:.0f} MB")
    note(f"    and afterwards {percentiles(again)}")
    note(f"    the slow peer lacked {missing:,} writes; equal after {took:.1f} s")
    report["slow"] = {
        "p99_normal_ms": normal.percentile_ms(99),
        "p99_slow_ms": hindered.percentile_ms(99),
        "p99_again_ms": again.percentile_ms(99),
        "grown_normal_bytes": grown_normal,
        "grown_slow_bytes": grown_slow,
        "missing_writes": missing,
        "equal_seconds": took,
    }


def _set_latency(node: Node, prefix: bytes, seconds: float) -> tuple[Histogram, int]:
    """Measure SETs, and by how many bytes the node's memory grows meanwhile."""
    found = Histogram()
    value = random.Random(3).randbytes(1024)
    before = node.resident_bytes()
    deadline = time.perf_counter() + seconds
    number = 0
    with socket.create_connection(("127.0.0.1", node.port)) as sock:
        while time.perf_counter() < deadline:
            number += 1
            key = b"%b:%d" % (prefix, number % _KEYS)
            started = time.perf_counter_ns()
            sock.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$1024\r\n%b\r\n" % (len(key), key, value))
            sock.recv(64)
            found.add(time.perf_counter_ns() - started)
            time.sleep(0.005)
    return found, node.resident_bytes() - before


# ---------------------------------------------------------------- the command

_NAMES: Final = ("propagation", "cpu", "wire", "catchup", "join", "slow")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.cluster", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--only", action="append", choices=_NAMES, help="measure this; may be repeated")
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 8, 16], help="sizes for propagation")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of propagation and of a slow peer")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="what a new node has to fetch")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    wanted = options.only or _NAMES
    report: dict[str, Any] = {}
    if "propagation" in wanted:
        for count in options.nodes:
            propagation(count, options.seconds, report)
    for name, measure in (("cpu", cpu), ("wire", wire), ("catchup", catchup)):
        if name in wanted:
            measure(report)
    if "join" in wanted:
        join(options.gigabytes, report)
    if "slow" in wanted:
        slow(options.seconds, report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
