"""A write-ahead log whose end a power cut has torn: the daemon starts, and loses the torn end alone."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.test_kill import verify
from tests.servers import Client, kvd_server

KEYS = 400
TORN_BYTES_MAX = 2000
# A row, its share of the change log and their frames take more than this of the log.
ROW_BYTES_MIN = 60


def truncated(tail: bytes, rng: random.Random) -> bytes:
    return tail[: rng.randrange(len(tail))]


def zeroed(tail: bytes, rng: random.Random) -> bytes:
    """As some file systems leave it: the size was written, the data was not."""
    kept = rng.randrange(len(tail))
    return tail[:kept] + bytes(len(tail) - kept)


def overwritten(tail: bytes, rng: random.Random) -> bytes:
    kept = rng.randrange(len(tail))
    return tail[:kept] + rng.randbytes(len(tail) - kept)


def extended(tail: bytes, rng: random.Random) -> bytes:
    return tail + rng.randbytes(rng.randrange(1, TORN_BYTES_MAX))


def flipped(tail: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(tail))
    return tail[:place] + bytes([tail[place] ^ (1 << rng.randrange(8))]) + tail[place + 1 :]


def write_in_order(client: Client) -> None:
    """Write numbered keys, each in a commit of its own; the last is of no use without those before it."""
    for number in range(KEYS):
        client.set(f"key:{number}", number)


def log_file(data: Path) -> Path:
    """Return the log that is written to: the one with the highest number."""
    logs = [path for path in data.rglob("*.log") if path.stem.isdigit() and path.stat().st_size]
    return max(logs, key=lambda path: int(path.stem))


def surviving(client: Client) -> int:
    """Return how many of the first keys are there; assert that none is there beyond a gap."""
    values = client.mget([f"key:{number}" for number in range(KEYS)])
    count = values.index(None) if None in values else KEYS
    assert values == [*map(str, range(count)), *[None] * (KEYS - count)]
    return count


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
@pytest.mark.parametrize("tear", [truncated, zeroed, overwritten, extended, flipped])
def test_torn_log_costs_what_was_torn(
    tmp_path: Path, tear: Callable[[bytes, random.Random], bytes], seed: int
) -> None:
    with kvd_server(tmp_path, durability="no") as server:
        with server.client(decode_responses=True) as client:
            write_in_order(client)
        server.kill()
    log = log_file(tmp_path / "data")
    size = log.stat().st_size
    with log.open("r+b") as file:
        file.seek(size - TORN_BYTES_MAX)
        torn = tear(file.read(), random.Random(seed))
        file.seek(size - TORN_BYTES_MAX)
        file.write(torn)
        file.truncate()
        os.fsync(file.fileno())
    with kvd_server(tmp_path) as server:
        with server.client(decode_responses=True) as client:
            count = surviving(client)
            assert count >= KEYS - TORN_BYTES_MAX // ROW_BYTES_MIN
            assert client.dbsize() == count
            client.set(f"key:{count}", count)
        assert server.stop() == 0
    verify(tmp_path)
    with kvd_server(tmp_path) as server, server.client(decode_responses=True) as client:
        assert client.get(f"key:{count}") == str(count)
