"""HTTP beside RESP and beside a web framework, on this machine, now: `make bench-http`.

    python -m tests.bench.web [--seconds 5] [--rounds 3]

wrk with 32 connections reads one hot key of 64 bytes, reads 10,000 keys in turn, and writes; redis-benchmark does the
first with GET P=1 on the same daemon; Starlette on Hypercorn serves the same from a dict. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.servers import ROOT, RunningServer, kvd_server, redis_executable

CONNECTIONS: Final = 32
VALUE: Final = "x" * 64
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


@attrs.frozen
class Result:
    requests_a_second: float
    p50_ms: float
    p99_ms: float


def wrk(url: str, seconds: int, script: Path | None = None) -> Result:
    """Load `url` from 32 connections. Raise AssertionError if an answer was no success."""
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--latency"]
    command += ["-s", str(script)] if script else []
    out = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in out, out
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert rate is not None, out
    return Result(float(rate[1]), _milliseconds(out, "50%"), _milliseconds(out, "99%"))


def _milliseconds(out: str, percent: str) -> float:
    match = re.search(rf"^\s+{percent}\s+([\d.]+)(us|ms|s)$", out, re.MULTILINE)
    assert match is not None, out
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


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


def measure(seconds: int, rounds: int, directory: Path) -> dict[str, Result]:
    """Return the medians by name. Rounds go through all loads, so that a slow minute hits all alike."""
    scripts = {"put": directory / "put.lua", "get": directory / "get.lua"}
    scripts["put"].write_text(_PUT)
    scripts["get"].write_text(_GET_MANY)
    found: dict[str, list[Result]] = {}
    with kvd_server(directory) as server, framework() as other:
        port = json.loads((directory / "ports.json").read_text())["http"]
        base = f"http://127.0.0.1:{port}"
        for url in (f"{base}/hot?urlencoded=true", f"{other}/hot"):
            put(url)
        with server.client() as redis:
            redis.set("key:__rand_int__", VALUE)
            redis.execute_command("KV.NS", "USE", "default")
            redis.mset({f"key{number}": VALUE for number in range(10_000)})
        loads: dict[str, Callable[[], Result]] = {
            "RESP GET P=1": lambda: resp_get(server, seconds),
            "HTTP GET, one hot key": lambda: wrk(f"{base}/hot?urlencoded=true", seconds),
            "HTTP PUT, 10,000 keys": lambda: wrk(base, seconds, scripts["put"]),
            "HTTP GET, 10,000 keys": lambda: wrk(base, seconds, scripts["get"]),
            "Starlette on Hypercorn, GET": lambda: wrk(f"{other}/hot", seconds),
        }
        for _ in range(rounds):
            for name, load in loads.items():
                found.setdefault(name, []).append(load())
    return {name: _median(results) for name, results in found.items()}


def _median(results: list[Result]) -> Result:
    columns = zip(*(attrs.astuple(result) for result in results), strict=True)
    return Result(*(statistics.median(column) for column in columns))


def report(found: dict[str, Result]) -> int:
    """Print the table; return 1 if a target is missed."""
    for name, result in found.items():
        print(
            f"{name:30} {result.requests_a_second:10,.0f}/s   p50 {result.p50_ms:7.3f} ms   p99 {result.p99_ms:7.3f} ms"
        )
    hot = found["HTTP GET, one hot key"]
    share = hot.requests_a_second / found["RESP GET P=1"].requests_a_second
    times = hot.requests_a_second / found["Starlette on Hypercorn, GET"].requests_a_second
    targets = (
        (share >= SHARE_OF_RESP, f"{share:.2f} of RESP GET P=1 (at least {SHARE_OF_RESP})"),
        (times >= TIMES_THE_FRAMEWORK, f"{times:.1f} times the framework (at least {TIMES_THE_FRAMEWORK})"),
        (hot.p99_ms < P99_MS, f"p99 {hot.p99_ms:.3f} ms (below {P99_MS:g})"),
    )
    for is_met, text in targets:
        print(f"{'met   ' if is_met else 'MISSED'}  {text}")
    return 0 if all(is_met for is_met, _ in targets) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="HTTP beside RESP and beside a web framework.")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt install wrk")
    with tempfile.TemporaryDirectory() as directory:
        return report(measure(options.seconds, options.rounds, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
