"""What the number of keys costs: operations, disk, memory and start-up from 10^4 to 10^7 keys.

    python -m tests.bench.scale                    about ten minutes and 2 GB of disk
    python -m tests.bench.scale --most 6           up to 10^6 keys

Each size has a fresh database at durability everysec, filled in pipelines, stopped and started again;
then 50 connections with pipelines of 16 read and write hot keys (a thousand that the cache holds) and
uniform ones (all of them). Hot keys must not feel how many others there are: their cost may grow less
than three times from 10^5 to 10^7.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.bench.load import VALUE_BYTES, Load, fill, note, run, wait_until_idle
from tests.servers import RunningServer, kvd_server

HOT_KEYS: Final = 1000
REQUESTS: Final = 200_000
GROWTH_MAX: Final = 3.0
GROWTH_FROM: Final = 10**5
_BLOCK_BYTES: Final = 512  # the unit of st_blocks. Source: stat(2)


@attrs.frozen
class Cost:
    """Of one operation: elapsed time at full load, and CPU time of the server."""

    elapsed_us: float
    cpu_us: float


@attrs.frozen
class Size:
    """The figures for one number of keys."""

    keys: int
    fill_seconds: float
    start_seconds: float  # from the command to the first answer
    disk_bytes_a_key: float
    resident_bytes: int  # after all operations below
    costs: dict[str, Cost]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--least", type=int, default=4, metavar="N", help="begin with 10^N keys (default 4)")
    parser.add_argument("--most", type=int, default=7, metavar="N", help="end with 10^N keys (default 7)")
    options = parser.parse_args(arguments)
    sizes = [_measure(10**exponent) for exponent in range(options.least, options.most + 1)]
    print("\n".join(_report(sizes)))
    return 0


def _measure(keys: int) -> Size:
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
    return Size(keys, fill_seconds, start_seconds, disk_bytes / keys, resident_bytes, costs)


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
    return f", target under {GROWTH_MAX:g}: {'reached' if within else 'NOT reached'}"


if __name__ == "__main__":
    sys.exit(main())
