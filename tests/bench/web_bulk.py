"""What large bulk writes over HTTP cost a Redis client that reads meanwhile."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Final

import attrs

from tests.bench.load import Load, Result, run
from tests.compat.web.runtime import ports
from tests.servers import RunningServer

PAIRS: Final = 10_000
SMALL_BYTES: Final = 64
# As base64 and with what stands around it, 10,000 of them are just below 100 MB.
LARGE_BYTES: Final = 7_400
BASE: Final = "/client/v4/accounts/a/storage/kv/namespaces"
# While bulk writes go on, p99 of others may be so many times what it is without.
TIMES_P99: Final = 2


@attrs.frozen
class Beside:
    """Reading alone and beside bulk writes, and what these achieved meanwhile."""

    alone: Result
    beside: Result
    pairs_a_second: float
    waited_share: float  # as in `wrk.Result`


def measure(server: RunningServer, seconds: int) -> dict[str, Beside]:
    """Return what happens to 32 clients' GET P=1, by the kind of bulk write beside them."""
    found: dict[str, Beside] = {}
    connection = http.client.HTTPConnection("127.0.0.1", ports(server)["http"], timeout=300)
    connection.request("POST", BASE, json.dumps({"title": "bulk"}))
    namespace = json.loads(connection.getresponse().read())["result"]["id"]
    for name, size in (("10,000 pairs", SMALL_BYTES), ("100 MB", LARGE_BYTES)):
        load = Load("GET P=1", "GET", 32, 1, 25_000 * seconds)
        alone = run(server, load)
        body = _body(size)
        with _putting(connection, f"{BASE}/{namespace}/bulk", body) as done:
            waited, started = server.waited_seconds(), time.perf_counter()
            beside = run(server, load)
            share = (server.waited_seconds() - waited) / (time.perf_counter() - started)
        # The last of them has ended a little after the reading.
        found[name] = Beside(alone, beside, sum(done) / (time.perf_counter() - started), share)
    connection.close()
    return found


def _body(size: int) -> bytes:
    """Return a bulk put of random values, which nothing on the way can compress."""
    rng = random.Random(size)
    values = (base64.b64encode(rng.randbytes(size)).decode() for _ in range(PAIRS))
    return json.dumps(
        [{"key": f"bulk{n}", "value": value, "base64": True} for n, value in enumerate(values)]
    ).encode()


@contextlib.contextmanager
def _putting(connection: http.client.HTTPConnection, path: str, body: bytes) -> Iterator[list[int]]:
    """Put `body` again and again while the block runs; gives the list of how many pairs each took."""
    done: list[int] = []
    failures: list[object] = []
    is_over = threading.Event()

    def put() -> None:
        # What is measured is how the daemon shares its time, not how the system shares two cores among three.
        thread_id = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread_id, os.getpriority(os.PRIO_PROCESS, thread_id) + 10)
        while not is_over.is_set():
            connection.request("PUT", path, body)
            answer = json.loads(connection.getresponse().read())
            if not answer["success"]:
                failures.append(answer)
                return
            done.append(answer["result"]["successful_key_count"])

    thread = threading.Thread(target=put)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join()
    assert not failures, failures
    assert done, "no bulk put ended in time"


def report(found: dict[str, Beside]) -> list[tuple[bool, str]]:
    """Print the table; return the targets."""
    targets: list[tuple[bool, str]] = []
    for name, one in found.items():
        print(
            f"GET P=1 alone and beside bulk puts of {name}: {one.alone.per_second:,.0f}/s and "
            f"{one.beside.per_second:,.0f}/s, p50 {one.alone.p50_ms:.3f} and {one.beside.p50_ms:.3f} ms, p99 "
            f"{one.alone.p99_ms:.3f} and {one.beside.p99_ms:.3f} ms; {one.pairs_a_second:,.0f} pairs/s, waited {100 * one.waited_share:.1f} %"
        )
        times = one.beside.p99_ms / one.alone.p99_ms
        text = f"p99 {times:.1f} times beside bulk puts of {name} (at most {TIMES_P99})"
        targets.append((times <= TIMES_P99, text))
    return targets
