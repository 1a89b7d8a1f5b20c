"""How long a write of a Worker on one node is on its way to a Worker on another, and to a Redis client on a third.

Three daemons and two workerds share the machine. Each write begins when the one before is seen everywhere, so what
is measured is the way of one write, not a queue. The clock starts when the writing Worker has its answer, so a
reader may see the write earlier: that counts as nothing. What is told includes the reader's own request.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench.latency import Histogram
from tests.cluster_live.harness import Cluster, Node
from tests.compat.web.runtime import Binding, Worker, worker
from tests.servers import Client, wait_until

WRITES: Final = 300
TITLE: Final = "measured"
SECONDS_MAX: Final = 30.0


def measure(directory: Path) -> dict[str, Histogram]:
    """Return the times by where the write was read."""
    worker_times, redis_times = Histogram(), Histogram()
    with Cluster(directory, 3, "--http-port", "0") as cluster, contextlib.ExitStack() as stack:
        _make_namespace(cluster)
        here, there = (stack.enter_context(_beside(node)) for node in cluster.nodes[:2])
        client = stack.enter_context(cluster[2].client())
        client.execute_command("KV.NS", "USE", TITLE)
        for number in range(WRITES):
            value = str(number)
            begun = threading.Event()
            seen: list[int] = []
            thread = threading.Thread(target=_watch, args=(there, value, begun, seen))
            thread.start()
            begun.wait()
            here.ask("put", "key", value)
            written = time.perf_counter_ns()
            _wait(partial(_has, client, value))
            redis_times.add(max(1, time.perf_counter_ns() - written))
            thread.join()
            worker_times.add(max(1, seen[0] - written))
    return {"a Worker on node B": worker_times, "a Redis client on node C": redis_times}


def _watch(there: Worker, value: str, begun: threading.Event, seen: list[int]) -> None:
    begun.set()
    _wait(lambda: there.ask("get", "key") == value)
    seen.append(time.perf_counter_ns())


def _has(client: Client, value: str) -> bool:
    return bool(client.get("key") == value)


def _wait(condition: Callable[[], object]) -> None:
    """Poll without a pause: at most a request late."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "a write did not arrive"


def _make_namespace(cluster: Cluster) -> None:
    with cluster[0].client() as client:
        client.execute_command("KV.NS", "CREATE", TITLE)
    for node in cluster.nodes:
        wait_until(partial(_has_namespace, node), f"{node} has the namespace")


def _has_namespace(node: Node) -> bool:
    with node.client() as client:
        return TITLE in str(client.execute_command("KV.NS", "LIST"))


def _beside(node: Node) -> contextlib.AbstractContextManager[Worker]:
    port = json.loads((node.directory / "ports.json").read_text())["http"]
    directory = node.directory / "workerd"
    directory.mkdir()
    return worker(directory, [Binding("CACHE", f"127.0.0.1:{port}", (("X-KV-Namespace", TITLE),))])


def report(found: dict[str, Histogram]) -> None:
    for name, times in found.items():
        p50, p99, most = (times.percentile_ms(percent) for percent in (50, 99, 100))
        print(
            f"from a Worker on node A to {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {most:.1f} ms "
            f"({times.count} writes)"
        )
