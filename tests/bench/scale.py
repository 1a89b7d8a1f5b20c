"""What the number of keys costs: operations, disk, memory and start-up from 10^4 to 10^7 keys.

    python -m tests.bench.scale                    about ten minutes and 2 GB of disk
    python -m tests.bench.scale --most 6           up to 10^6 keys

Each size has a fresh database at durability everysec, filled in pipelines, stopped and started again;
then 50 connections with pipelines of 16 read and write hot keys (a thousand that the cache holds) and
uniform ones (all of them). Hot keys must not feel how many others there are: their cost may grow less
than three times from 10^5 to 10^7. Memory is bounded by the configured caches, and a start takes seconds.

At last, the largest database is emptied by FLUSHALL, and another client's GETs are timed, one after another:
for some seconds before, and from the moment on at which FLUSHALL was sent.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from kvd.settings import Settings
from tests.bench.latency import Histogram
from tests.bench.load import VALUE_BYTES, Load, fill, note, run, wait_until_idle
from tests.servers import RunningServer, kvd_server

HOT_KEYS: Final = 1000
REQUESTS: Final = 200_000
GROWTH_MAX: Final = 3.0
GROWTH_FROM: Final = 10**5
# Memory beside the caches: the interpreter with its libraries, and RocksDB's memtables.
OTHER_BYTES_MAX: Final = 192 << 20
START_SECONDS_MAX: Final = 10.0
FLUSH_SECONDS: Final = 5.0
FLUSH_WORST_MS_MAX: Final = 100.0
_BLOCK_BYTES: Final = 512  # the unit of st_blocks. Source: stat(2)


@attrs.frozen
class Cost:
    """Of one operation: elapsed time at full load, and CPU time of the server."""

    elapsed_us: float
    cpu_us: float


@attrs.frozen
class Flush:
    """Latencies of another client's GETs before a FLUSHALL, and during and after it."""

    before: Histogram
    during: Histogram


@attrs.frozen
class Size:
    """The figures for one number of keys."""

    keys: int
    fill_seconds: float
    start_seconds: float  # from the command to the first answer
    disk_bytes_a_key: float
    resident_bytes: int  # after all operations below
    costs: dict[str, Cost]
    flush: Flush | None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--least", type=int, default=4, metavar="N", help="begin with 10^N keys (default 4)")
    parser.add_argument("--most", type=int, default=7, metavar="N", help="end with 10^N keys (default 7)")
    options = parser.parse_args(arguments)
    exponents = range(options.least, options.most + 1)
    sizes = [_measure(10**exponent, is_last=exponent == exponents[-1]) for exponent in exponents]
    print("\n".join(_report(sizes)))
    return 0


def _measure(keys: int, *, is_last: bool) -> Size:
    with tempfile.TemporaryDirectory(prefix="kvd-scale-") as name:
        directory = Path(name)
        started = time.perf_counter()
        with kvd_server(directory) as server:
            note(f"filling {keys:,} keys of {VALUE_BYTES} bytes")
            fill(server, keys)
            fill_seconds = time.perf_counter() - started
            wait_until_idle(server)
            server.stop()
        disk_bytes = sum(file.stat().st_blocks * _BLOCK_BYTES for file in (directory / "data").rglob("*"))
        started = time.perf_counter()
        with kvd_server(directory) as server:
            start_seconds = time.perf_counter() - started
            wait_until_idle(server)
            costs = _costs(server, keys)
            resident_bytes = server.resident_bytes()
            flush = _flush(server) if is_last else None
    return Size(keys, fill_seconds, start_seconds, disk_bytes / keys, resident_bytes, costs, flush)


def _costs(server: RunningServer, keys: int) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    for among, range_of_keys in (("hot", HOT_KEYS), ("uniform", keys)):
        for command in ("GET", "SET"):
            load = Load(f"{command} {among}", command, 50, 16, REQUESTS, keys=range_of_keys)
            if among == "hot":
                run(server, load)  # the keys get hot
            result = run(server, load)
            costs[load.name] = Cost(1e6 / result.per_second, result.cpu_us)
            note(f"{keys:,} keys: {load.name}: {result.per_second:,.0f}/s")
    return costs


def _flush(server: RunningServer) -> Flush:
    wait_until_idle(server)
    note("FLUSHALL, with another client's GETs before and during it")
    with server.connect() as reader, server.connect() as writer:
        before = _timed_gets(reader)
        writer.sendall(b"FLUSHALL\r\n")
        during = _timed_gets(reader)
        if writer.recv(64) != b"+OK\r\n":
            raise RuntimeError("FLUSHALL was refused")
    return Flush(before, during)


def _timed_gets(sock: socket.socket) -> Histogram:
    """Ask for one key after another, for `FLUSH_SECONDS`."""
    histogram = Histogram()
    ends = time.perf_counter() + FLUSH_SECONDS
    number = 0
    while (started := time.perf_counter_ns()) / 1e9 < ends:
        sock.sendall(b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n" % (number % HOT_KEYS))
        sock.recv(1024)
        histogram.add(time.perf_counter_ns() - started)
        number += 1
    return histogram


def _report(sizes: Sequence[Size]) -> Iterator[str]:
    names = list(sizes[0].costs)
    yield f"\n{'keys':>12}" + "".join(f"{name:>20}" for name in names)
    yield f"{'':>12}" + f"{'us (CPU us)':>20}" * len(names)
    for size in sizes:
        cells = (size.costs[name] for name in names)
        yield f"{size.keys:>12,}" + "".join(f"{f'{c.elapsed_us:.2f} ({c.cpu_us:.2f})':>20}" for c in cells)
    yield f"\n{'keys':>12}{'fill s':>10}{'start s':>10}{'disk B/key':>12}{'resident MiB':>14}"
    for size in sizes:
        yield (
            f"{size.keys:>12,}{size.fill_seconds:>10.1f}{size.start_seconds:>10.2f}"
            f"{size.disk_bytes_a_key:>12.1f}{size.resident_bytes / 2**20:>14.0f}"
        )
    yield from _growth(sizes)
    yield from _bounds(sizes[-1])
    if sizes[-1].flush is not None:
        yield from _flushed(sizes[-1].keys, sizes[-1].flush)


def _bounds(size: Size) -> Iterator[str]:
    storage = Settings().storage
    resident_max = storage.cache_bytes + storage.block_cache_bytes + OTHER_BYTES_MAX
    resident = f"{size.resident_bytes / 2**20:.0f} MiB resident"
    yield f"\n{size.keys:,} keys"
    yield (
        f"  {resident}, target under {resident_max / 2**20:.0f} (the caches and {OTHER_BYTES_MAX >> 20}): "
        f"{_reached(size.resident_bytes < resident_max)}"
    )
    yield (
        f"  started in {size.start_seconds:.2f} s, target under {START_SECONDS_MAX:g}: "
        f"{_reached(size.start_seconds < START_SECONDS_MAX)}"
    )


def _flushed(keys: int, flush: Flush) -> Iterator[str]:
    yield f"\nFLUSHALL of {keys:,} keys: another client's GETs, {FLUSH_SECONDS:g} s each"
    for when, gets in (("before", flush.before), ("during and after", flush.during)):
        worst = gets.highest_ns / 1e6
        yield f"  {when}: {gets.count:,}, p99 {gets.percentile_ms(99):.2f} ms, worst {worst:.2f} ms"
    within = flush.during.highest_ns / 1e6 < FLUSH_WORST_MS_MAX
    yield f"  target: worst under {FLUSH_WORST_MS_MAX:g} ms: {_reached(within)}"


def _reached(within: bool) -> str:
    return "reached" if within else "NOT reached"


def _growth(sizes: Sequence[Size]) -> Iterator[str]:
    """Compare the largest size with 10^5 keys, if both were measured."""
    base = next((size for size in sizes if size.keys == GROWTH_FROM), None)
    last = sizes[-1]
    if base is None or last.keys <= GROWTH_FROM:
        return
    yield f"\nGrowth from {base.keys:,} to {last.keys:,} keys"
    for name, cost in last.costs.items():
        yield f"  {name}: {_factors(base.costs[name], cost)}{_verdict(name, base.costs[name], cost)}"


def _factors(base: Cost, cost: Cost) -> str:
    cpu = (
        f" (CPU {cost.cpu_us / base.cpu_us:.2f})" if base.cpu_us else ""
    )  # it is counted in hundredths of a second
    return f"{cost.elapsed_us / base.elapsed_us:.2f} times{cpu}"


def _verdict(name: str, base: Cost, cost: Cost) -> str:
    if "hot" not in name:
        return ""
    within = cost.elapsed_us / base.elapsed_us < GROWTH_MAX
    return f", target under {GROWTH_MAX:g}: {_reached(within)}"


if __name__ == "__main__":
    sys.exit(main())
