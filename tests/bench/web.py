"""HTTP beside RESP, a web framework and another KV, on this machine, now: `make bench-http`.

    python -m tests.bench.web [--seconds 5] [--rounds 3] [--only http|worker|bulk|cluster]

http     wrk with 32 connections reads one hot key of 64 bytes, reads 10,000 keys in turn, and writes; redis-benchmark
         does the first with GET P=1 on the same daemon; Starlette on Hypercorn serves the same from a dict.
worker   a Worker in workerd reads the hot key: with kvd as its KV, and with miniflare's own.
bulk     32 Redis clients read while bulk puts of 10,000 pairs, and of 100 MB, go on and on.
cluster  a Worker writes on one node, a Worker on a second and a Redis client on a third wait for it.

Medians of the rounds. Where what loads and what is loaded have to share the cores, the latencies are also those of
the queue before the processor, so the last column tells in which share of the time the daemon stood there. A percent
of it is one hundredth of all requests: with more, p99 is the scheduler's.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from tests.bench import web_bulk, web_cluster, web_workers
from tests.bench.wrk import CONNECTIONS, Result, wrk
from tests.compat.web.runtime import ports
from tests.servers import ROOT, RunningServer, kvd_server, redis_executable

VALUE: Final = "x" * 64
SECTIONS: Final = ("http", "worker", "bulk", "cluster")
RESP: Final = "RESP GET P=1"
HOT: Final = "HTTP GET, one hot key"
FRAMEWORK: Final = "Starlette on Hypercorn, GET"
# Reading one hot key: so much of the daemon's own GET P=1, so many times the framework; p99 in milliseconds.
SHARE_OF_RESP: Final = 0.5
TIMES_THE_FRAMEWORK: Final = 20
P99_MS: Final = 1.0

_PUT: Final = f"""
wrk.method = "PUT"
wrk.body = "{VALUE}"
local count = 0
request = function()
  count = count + 1
  return wrk.format(nil, "/key" .. (count % 10000) .. "?urlencoded=true")
end
"""
_GET_MANY: Final = """
local count = 0
request = function()
  count = count + 1
  return wrk.format(nil, "/key" .. (count % 10000) .. "?urlencoded=true")
end
"""


def resp_get(server: RunningServer, seconds: int) -> Result:
    """Return what redis-benchmark measures for GET P=1 on the daemon's RESP port."""
    command = [
        redis_executable("redis-benchmark"),
        "-p",
        str(server.port),
        "-c",
        str(CONNECTIONS),
        "-d",
        "64",
    ]
    command += ["-t", "get", "-n", str(30_000 * seconds), "--csv"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fields = [field.strip('"') for field in out.strip().splitlines()[-1].split(",")]
    return Result(float(fields[1]), float(fields[4]), float(fields[6]))


@contextlib.contextmanager
def framework() -> Iterator[str]:
    """Run the framework's server; give its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "tests.bench.web_peer", str(port)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, "the framework does not start"
                    assert time.monotonic() < deadline, "the framework does not answer"
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def put(url: str) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    subprocess.run([curl, "-sf", "-X", "PUT", "-d", VALUE, "-o", "/dev/null", url], check=True)


def measure_http(server: RunningServer, seconds: int, rounds: int, directory: Path) -> dict[str, Result]:
    scripts = {"put": directory / "put.lua", "get": directory / "get.lua"}
    scripts["put"].write_text(_PUT)
    scripts["get"].write_text(_GET_MANY)
    with framework() as other:
        base = f"http://127.0.0.1:{ports(server)['http']}"
        put(f"{other}/hot")
        loads: dict[str, Callable[[], Result]] = {
            RESP: lambda: resp_get(server, seconds),
            HOT: lambda: wrk(f"{base}/hot?urlencoded=true", seconds),
            "HTTP PUT, 10,000 keys": lambda: wrk(base, seconds, scripts["put"]),
            "HTTP GET, 10,000 keys": lambda: wrk(base, seconds, scripts["get"]),
            FRAMEWORK: lambda: wrk(f"{other}/hot", seconds),
        }
        return _in_turn(server, loads, rounds)


def measure_workers(server: RunningServer, seconds: int, rounds: int, directory: Path) -> dict[str, Result]:
    with web_workers.workers(server, directory, VALUE) as addresses:
        loads = {name: partial(wrk, url, seconds) for name, url in addresses.items()}
        return _in_turn(server, loads, rounds)


def _in_turn(
    server: RunningServer, loads: Mapping[str, Callable[[], Result]], rounds: int
) -> dict[str, Result]:
    """Return the medians by name. Rounds go through all loads, so that a slow minute hits all alike."""
    found: dict[str, list[Result]] = {}
    for _ in range(rounds):
        for name, load in loads.items():
            waited, started = server.waited_seconds(), time.perf_counter()
            result = load()
            share = (server.waited_seconds() - waited) / (time.perf_counter() - started)
            found.setdefault(name, []).append(attrs.evolve(result, waited_share=share))
    return {name: _median(results) for name, results in found.items()}


def _median(results: list[Result]) -> Result:
    columns = zip(*(attrs.astuple(result) for result in results), strict=True)
    return Result(*(statistics.median(column) for column in columns))


def fill(server: RunningServer) -> None:
    """Write the keys that are read: of the namespace "default", and redis-benchmark's own."""
    with server.client() as redis:
        redis.set("key:__rand_int__", VALUE)
        redis.execute_command("KV.NS", "CREATE", "default")
        redis.execute_command("KV.NS", "USE", "default")
        redis.mset({"hot": VALUE, **{f"key{number}": VALUE for number in range(10_000)}})


def show(found: dict[str, Result]) -> None:
    for name, result in found.items():
        print(
            f"{name:32} {result.requests_a_second:10,.0f}/s   p50 {result.p50_ms:7.3f} ms   p99 {result.p99_ms:7.3f} ms"
            f"   waited {100 * result.waited_share:4.1f} %"
        )


def targets_of_http(found: dict[str, Result]) -> list[tuple[bool, str]]:
    hot = found[HOT]
    share = hot.requests_a_second / found[RESP].requests_a_second
    times = hot.requests_a_second / found[FRAMEWORK].requests_a_second
    return [
        (share >= SHARE_OF_RESP, f"{share:.2f} of RESP GET P=1 (at least {SHARE_OF_RESP})"),
        (times >= TIMES_THE_FRAMEWORK, f"{times:.1f} times the framework (at least {TIMES_THE_FRAMEWORK})"),
        (hot.p99_ms < P99_MS, f"p99 {hot.p99_ms:.3f} ms (below {P99_MS:g})"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="HTTP beside RESP, a web framework and another KV.")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=SECTIONS)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt install wrk")
    chosen = {options.only} if options.only else set(SECTIONS)
    targets: list[tuple[bool, str]] = []
    with tempfile.TemporaryDirectory() as name, kvd_server(Path(name)) as server:
        fill(server)
        if "http" in chosen:
            found = measure_http(server, options.seconds, options.rounds, Path(name))
            show(found)
            targets += targets_of_http(found)
        if "worker" in chosen:
            found = measure_workers(server, options.seconds, options.rounds, Path(name))
            show(found)
            ratio = (
                found[web_workers.WITH_KVD].requests_a_second
                / found[web_workers.WITH_MINIFLARE].requests_a_second
            )
            print(f"the Worker reads {ratio:.2f} times as often from kvd as from miniflare's own KV")
        if "bulk" in chosen:
            targets += web_bulk.report(web_bulk.measure(server, options.seconds))
    if "cluster" in chosen:
        with tempfile.TemporaryDirectory() as name:
            web_cluster.report(web_cluster.measure(Path(name)))
    for is_met, text in targets:
        print(f"{'met   ' if is_met else 'MISSED'}  {text}")
    return 0 if all(is_met for is_met, _ in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
