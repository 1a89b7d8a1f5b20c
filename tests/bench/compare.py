"""kvd beside redis-server, on this machine, now: throughput and CPU time at equal durability.

    python -m tests.bench.compare                          everything: about seventeen minutes
    python -m tests.bench.compare --only P=1 --durability everysec --requests 0.2

Every round runs each workload against all servers one after another, so a slow minute of the machine
hits all alike; the figures are the medians of the rounds. redis-benchmark runs with ``-d 64
-r 100000`` over 100,000 keys that exist. CPU time is that of the server process for one request, from
``/proc``: it tells more about the server than throughput where the client is the bottleneck.

At the end stands what encryption at rest costs, kvd beside kvd (`tests.bench.encryption`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias, get_args

import attrs

from tests.bench import encryption
from tests.bench.load import Load, Result, fill, median, note, run, scaled, wait_until_idle
from tests.servers import Durability, RunningServer, kvd_server, redis_server

KEYS: Final = 100_000

LOADS: Final = (
    Load("GET P=1", "GET", clients=50, pipeline=1, requests=200_000),
    Load("SET P=1", "SET", clients=50, pipeline=1, requests=200_000),
    Load("GET P=16", "GET", clients=50, pipeline=16, requests=1_000_000),
    Load("SET P=16", "SET", clients=50, pipeline=16, requests=500_000),
    Load("GET P=64", "GET", clients=50, pipeline=64, requests=2_000_000),
    Load("SET P=64", "SET", clients=50, pipeline=64, requests=500_000),
    Load("GET one connection", "GET", clients=1, pipeline=1, requests=40_000),
    Load("SET one connection", "SET", clients=1, pipeline=1, requests=20_000),
    Load("GET 1,000 connections", "GET", clients=1000, pipeline=1, requests=200_000),
    Load("SET 1,000 connections", "SET", clients=1000, pipeline=1, requests=200_000),
)

# The ratio kvd : Redis that is to be reached at durability everysec.
TARGET_DURABILITY: Final[Durability] = "everysec"
TARGETS: Final = {
    "GET P=1": 0.9,
    "SET P=1": 0.7,
    "GET P=16": 0.5,
    "SET P=16": 0.25,
    "GET one connection": 0.9,
}

Measured: TypeAlias = "dict[tuple[str, Durability, str], list[Result]]"  # by load, durability, server


@attrs.frozen
class Row:
    """One line of the report: medians of both servers for one load at one durability."""

    load: str
    durability: Durability
    redis: Result
    kvd: Result

    @property
    def ratio(self) -> float:
        return self.kvd.per_second / self.redis.per_second

    @property
    def target(self) -> float | None:
        return TARGETS.get(self.load) if self.durability == TARGET_DURABILITY else None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    durabilities: Sequence[Durability] = options.durability or get_args(Durability)
    loads = [load for load in LOADS if any(_bears(load, words) for words in options.only or [""])]
    loads = [scaled(load, options.requests) for load in loads]
    with tempfile.TemporaryDirectory(prefix="kvd-bench-") as directory, contextlib.ExitStack() as stack:
        servers = _start(stack, Path(directory), durabilities)
        measured = _measure(servers, loads, options.rounds)
    rows = _rows(measured, loads, durabilities)
    print("\n".join(_report(rows)))
    if options.encryption:
        with tempfile.TemporaryDirectory(prefix="kvd-bench-") as directory:
            costs = encryption.measure(Path(directory), rounds=options.rounds, requests=options.requests)
        print("\n".join(encryption.report(costs)))
    if options.json:
        options.json.write_text(json.dumps([attrs.asdict(row) for row in rows], indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="WORDS",
        help="only workloads with these words in their name, such as 'SET' or 'GET P=1'; repeatable",
    )
    parser.add_argument(
        "--durability",
        action="append",
        choices=get_args(Durability),
        help="only at this durability; repeatable",
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the median counts (default 3)")
    parser.add_argument("--requests", type=float, default=1.0, help="factor on the number of requests")
    parser.add_argument(
        "--no-encryption",
        dest="encryption",
        action="store_false",
        help="leave out what encryption at rest costs (tests.bench.encryption)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def _bears(load: Load, words: str) -> bool:
    """Tell whether all of `words` stand in the name: whole words, so that P=1 is not P=16."""
    return set(words.split()) <= set(load.name.split())


def _start(
    stack: contextlib.ExitStack, directory: Path, durabilities: Sequence[Durability]
) -> dict[tuple[Durability, str], RunningServer]:
    servers: dict[tuple[Durability, str], RunningServer] = {}
    for durability in durabilities:
        for name, start in (("redis", redis_server), ("kvd", kvd_server)):
            place = directory / f"{name}-{durability}"
            place.mkdir()
            note(f"filling {name} ({durability}) with {KEYS:,} keys")
            servers[durability, name] = stack.enter_context(start(place, durability=durability))
            fill(servers[durability, name], KEYS)
            wait_until_idle(servers[durability, name])
    return servers


def _measure(
    servers: dict[tuple[Durability, str], RunningServer], loads: Sequence[Load], rounds: int
) -> Measured:
    measured: Measured = defaultdict(list)
    for number in range(1, rounds + 1):
        for load in loads:
            for (durability, name), server in servers.items():
                result = run(server, load)
                measured[load.name, durability, name].append(result)
                note(f"round {number}: {load.name}, {durability}, {name}: {result.per_second:,.0f}/s")
    return measured


def _rows(measured: Measured, loads: Sequence[Load], durabilities: Sequence[Durability]) -> list[Row]:
    return [
        Row(
            load.name,
            durability,
            redis=median(measured[load.name, durability, "redis"]),
            kvd=median(measured[load.name, durability, "kvd"]),
        )
        for durability in durabilities
        for load in loads
    ]


def _report(rows: Sequence[Row]) -> Iterator[str]:
    durability = ""
    for row in rows:
        if row.durability != durability:
            durability = row.durability
            yield f"\nDurability {durability} (redis-server: {_REDIS_WORDS[row.durability]})\n"
            yield (
                f"{'':22}{'redis/s':>10}{'kvd/s':>10}{'ratio':>7}{'target':>9}  "
                f"{'CPU us redis':>12}{'kvd':>7}   {'p99 ms redis':>12}{'kvd':>8}"
            )
        yield (
            f"{row.load:22}{row.redis.per_second:>10,.0f}{row.kvd.per_second:>10,.0f}{row.ratio:>7.2f}"
            f"{_verdict(row):>9}  {row.redis.cpu_us:>12.2f}{row.kvd.cpu_us:>7.2f}   "
            f"{row.redis.p99_ms:>12.2f}{row.kvd.p99_ms:>8.2f}"
        )
    judged = [row for row in rows if row.target is not None]
    missed = [row for row in judged if row.ratio < (row.target or 0)]
    if judged:
        yield f"\n{len(judged) - len(missed)} of {len(judged)} targets reached" + (
            ": not " + ", ".join(f"{row.load} ({row.ratio:.2f} of {row.target})" for row in missed)
            if missed
            else ""
        )


_REDIS_WORDS: Final[dict[Durability, str]] = {
    "no": "no persistence",
    "everysec": "AOF, fsync every second",
    "always": "AOF, fsync before the reply",
}


def _verdict(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{row.target:g} {'yes' if row.ratio >= row.target else 'NO'}"


if __name__ == "__main__":
    sys.exit(main())
