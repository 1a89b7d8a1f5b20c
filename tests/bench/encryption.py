"""What encryption at rest costs: kvd with and without, on this machine, in the same rounds.

    python -m tests.bench.encryption              about two minutes; `make bench` runs it as well
    python -m tests.bench.encryption --requests 0.2 --rounds 1

The rounds are those of `compare`: every load runs against both daemons one after another, and the figures are
medians. What is encrypted are the values that go to the disk and come from it, so a GET whose record is in the
cache should cost the same; the last row reads records that are not. CPU time is that of the daemon's process for one
request; its difference is what encryption costs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from storage.keyring import format_keyring, new_keyring
from tests.bench.load import Load, Result, fill, median, note, run, scaled, wait_until_idle
from tests.servers import RunningServer, kvd_server

KEYS: Final = 100_000
COLD: Final = "GET P=16, not in the cache"
LOADS: Final = (
    Load("GET P=1", "GET", clients=50, pipeline=1, requests=200_000),
    Load("SET P=1", "SET", clients=50, pipeline=1, requests=200_000),
    Load("GET P=16", "GET", clients=50, pipeline=16, requests=1_000_000),
    Load("SET P=16", "SET", clients=50, pipeline=16, requests=500_000),
    Load(COLD, "GET", clients=50, pipeline=16, requests=200_000),
)
# The record cache where every read is to miss it: of 100,000 records it holds a few percent.
_SMALL_CACHE: Final = ("--set", "storage.cache_bytes=1MiB")


@attrs.frozen
class Row:
    """One line of the report: medians of both daemons for one load."""

    load: str
    plain: Result
    encrypted: Result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the median counts (default 3)")
    parser.add_argument("--requests", type=float, default=1.0, help="factor on the number of requests")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kvd-bench-") as directory:
        rows = measure(Path(directory), rounds=options.rounds, requests=options.requests)
    print("\n".join(report(rows)))
    return 0


def measure(directory: Path, *, rounds: int, requests: float) -> list[Row]:
    """Run every load against both daemons, `rounds` times."""
    measured: dict[tuple[str, str], list[Result]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        servers = {
            (name, is_cold): _start(stack, directory, name, is_cold=is_cold)
            for is_cold in (False, True)
            for name in ("plain", "encrypted")
        }
        for number in range(1, rounds + 1):
            for load in LOADS:
                for name in ("plain", "encrypted"):
                    result = run(servers[name, load.name == COLD], scaled(load, requests))
                    measured[load.name, name].append(result)
                    note(f"round {number}: {load.name}, {name}: {result.per_second:,.0f}/s")
    return [
        Row(load.name, median(measured[load.name, "plain"]), median(measured[load.name, "encrypted"]))
        for load in LOADS
    ]


def _start(stack: contextlib.ExitStack, directory: Path, name: str, *, is_cold: bool) -> RunningServer:
    place = directory / f"{name}-{'cold' if is_cold else 'hot'}"
    place.mkdir()
    options = list(_SMALL_CACHE if is_cold else ())
    if name == "encrypted":
        keys = place / "keys"
        keys.touch(mode=0o600)
        keys.write_bytes(format_keyring(new_keyring()))
        options += ["--encryption-key-file", str(keys)]
    note(f"filling kvd ({name}) with {KEYS:,} keys")
    server = stack.enter_context(kvd_server(place, *options, durability="everysec"))
    fill(server, KEYS)
    wait_until_idle(server)
    return server


def report(rows: Sequence[Row]) -> Iterator[str]:
    yield "\nEncryption at rest (AES-256-GCM), durability everysec\n"
    yield (
        f"{'':28}{'plain/s':>10}{'encrypted/s':>13}{'ratio':>7}   "
        f"{'CPU us plain':>12}{'encrypted':>11}{'more':>7}"
    )
    for row in rows:
        plain, encrypted = row.plain, row.encrypted
        yield (
            f"{row.load:28}{plain.per_second:>10,.0f}{encrypted.per_second:>13,.0f}"
            f"{encrypted.per_second / plain.per_second:>7.2f}   "
            f"{plain.cpu_us:>12.2f}{encrypted.cpu_us:>11.2f}{encrypted.cpu_us - plain.cpu_us:>+7.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
