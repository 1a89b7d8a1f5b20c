"""What the benchmarks share: filling a server with keys, and one run of redis-benchmark.

Keys are named as redis-benchmark names them (``key:`` and twelve digits), so that what `fill` writes
is what ``-r N`` reads.
"""

from __future__ import annotations

import csv
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

import attrs

from tests.servers import RunningServer, redis_executable, wait_until

VALUE_BYTES: Final = 64
_FILL_BATCH: Final = 1000
_RUN_SECONDS_MAX: Final = 900
_NOISE_BYTES: Final = 1 << 20
_NOISE_STEP: Final = 61  # prime: a million keys begin at different places
# A server that uses less than this share of a core for half a second is idle.
_IDLE_SECONDS: Final = 0.5
_IDLE_SHARE: Final = 0.1
_RECEIVE_BYTES: Final = 1 << 16


@attrs.frozen
class Load:
    """One workload: redis-benchmark's command, its concurrency, and how many requests make a run."""

    name: str
    command: str  # GET or SET
    clients: int
    pipeline: int
    requests: int
    keys: int = 100_000


@attrs.frozen
class Result:
    """One run: throughput, latencies as redis-benchmark saw them, the server's CPU time."""

    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float  # of the server process, user and system and all threads, for one request


def scaled(load: Load, factor: float) -> Load:
    """Return the load with so many times its requests: whole pipelines of every client, at least one."""
    unit = load.clients * load.pipeline
    return attrs.evolve(load, requests=max(1, round(load.requests * factor / unit)) * unit)


def median(results: Sequence[Result]) -> Result:
    """Return the median of each figure on its own."""
    columns = zip(*(attrs.astuple(result) for result in results), strict=True)
    return Result(*(statistics.median(column) for column in columns))


def run(server: RunningServer, load: Load) -> Result:
    """Run redis-benchmark once against `server`."""
    command = [
        *(redis_executable("redis-benchmark"), "-h", server.host, "-p", str(server.port), "--csv"),
        *("-t", load.command.lower(), "-c", str(load.clients), "-P", str(load.pipeline)),
        *("-n", str(load.requests), "-r", str(load.keys), "-d", str(VALUE_BYTES)),
    ]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_SECONDS_MAX, check=True)
    spent = server.cpu_seconds() - before
    row = next(row for row in csv.DictReader(done.stdout.splitlines()) if row["test"] == load.command)
    return Result(
        per_second=float(row["rps"]),
        p50_ms=float(row["p50_latency_ms"]),
        p99_ms=float(row["p99_latency_ms"]),
        max_ms=float(row["max_latency_ms"]),
        cpu_us=spent * 1e6 / load.requests,
    )


def fill(server: RunningServer, count: int, *, value_bytes: int = VALUE_BYTES) -> None:
    """Write keys 0 to `count` - 1 in pipelines, as fast as the server takes them.

    Every key has a value of its own that does not compress, or the disk would hold less than it was given.
    """
    noise = random.Random(count).randbytes(_NOISE_BYTES + value_bytes)
    template = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%%012d\r\n$%d\r\n%%s\r\n" % value_bytes

    def request(number: int) -> bytes:
        place = number * _NOISE_STEP % _NOISE_BYTES
        return template % (number, noise[place : place + value_bytes])

    with server.connect(timeout=_RUN_SECONDS_MAX) as sock:
        # Replies are counted beside the writing: a server may stop reading from who does not read.
        answered = threading.Thread(target=_expect_oks, args=(sock, count))
        answered.start()
        for start in range(0, count, _FILL_BATCH):
            sock.sendall(b"".join(map(request, range(start, min(start + _FILL_BATCH, count)))))
        answered.join()
    with server.client() as client:
        stored = client.dbsize()
    if stored < count:
        raise RuntimeError(f"{server.name} has {stored} keys after {count} were written")


def wait_until_idle(server: RunningServer) -> None:
    """Wait until the server has nothing to do in the background (compactions, sweeps)."""

    def is_idle() -> bool:
        before = server.cpu_seconds()
        time.sleep(_IDLE_SECONDS)
        return server.cpu_seconds() - before < _IDLE_SECONDS * _IDLE_SHARE

    wait_until(is_idle, f"{server.name} is idle", seconds=_RUN_SECONDS_MAX)


def _expect_oks(sock: socket.socket, count: int) -> None:
    left = count * len(b"+OK\r\n")
    while left > 0:
        data = sock.recv(_RECEIVE_BYTES)
        if not data:
            return
        left -= len(data)


def note(text: str) -> None:
    """Show progress on standard error, so that standard output stays the report."""
    print(text, file=sys.stderr, flush=True)
