"""Workers on two nodes of a cluster, and redis-cli on a third: what one writes, the others read."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster_live.harness import Cluster, Node
from tests.compat.web.runtime import Binding, Worker, worker
from tests.servers import redis_executable, wait_until

pytestmark = [pytest.mark.needs_node, pytest.mark.needs_redis, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), 3, "--http-port", "0") as running:
        yield running


@pytest.fixture(scope="module")
def workers(cluster: Cluster) -> Iterator[tuple[Worker, Worker]]:
    """A Worker beside node 0 and one beside node 1, with the same namespace."""
    with cluster[0].client() as client:
        client.execute_command("KV.NS", "CREATE", "cache")
    for node in cluster.nodes:
        wait_until(partial(has_namespace, node), f"{node} has the namespace")
    with beside(cluster[0]) as one, beside(cluster[1]) as other:
        yield one, other


def beside(node: Node) -> contextlib.AbstractContextManager[Worker]:
    port = json.loads((node.directory / "ports.json").read_text())["http"]
    binding = Binding("CACHE", f"127.0.0.1:{port}", (("X-KV-Namespace", "cache"),))
    directory: Path = node.directory / "workerd"
    directory.mkdir()
    return worker(directory, [binding])


def has_namespace(node: Node) -> bool:
    return "cache" in redis_cli(node, "KV.NS LIST")


def redis_cli(node: Node, *lines: str) -> str:
    done = subprocess.run(
        [redis_executable("redis-cli"), "-p", str(node.port)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_write_of_a_worker_is_read_everywhere(cluster: Cluster, workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    here.ask("put", "greeting", "hello ż", {"metadata": {"lang": "en"}, "expirationTtl": 600})
    wait_until(lambda: there.ask("get", "greeting") == "hello ż", "the other Worker reads it")
    assert there.ask("getWithMetadata", "greeting")["metadata"] == {"lang": "en"}
    assert [key["name"] for key in there.ask("list")["keys"]] == ["greeting"]
    wait_until(
        lambda: "hello ż" in redis_cli(cluster[2], "KV.NS USE cache", "GET greeting"), "redis-cli reads it"
    )
    assert 0 < int(redis_cli(cluster[2], "KV.NS USE cache", "TTL greeting").split()[-1]) <= 600

    there.ask("put", "greeting", "changed")
    wait_until(
        lambda: here.ask("get", "greeting") == "changed", "the first Worker reads what the other wrote"
    )
    assert here.ask("getWithMetadata", "greeting")["metadata"] is None
    here.ask("delete", "greeting")
    wait_until(lambda: there.ask("get", "greeting") is None, "the other Worker misses what was deleted")


def test_a_write_of_redis_cli_is_read_by_workers(cluster: Cluster, workers: tuple[Worker, Worker]) -> None:
    redis_cli(cluster[2], "KV.NS USE cache", "SET from-redis yes EX 600")
    here, there = workers
    wait_until(lambda: here.ask("get", "from-redis") == "yes", "the first Worker reads it")
    wait_until(lambda: there.ask("get", "from-redis") == "yes", "and the other")


def test_a_worker_writes_while_its_node_is_cut_off(cluster: Cluster, workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    cluster.cut([cluster[0]], [cluster[1], cluster[2]])
    here.ask("put", "lonely", "written")
    assert here.ask("get", "lonely") == "written"
    there.ask("put", "elsewhere", "written")
    cluster.heal()
    wait_until(lambda: there.ask("get", "lonely") == "written", "the cut is healed, one way")
    wait_until(lambda: here.ask("get", "elsewhere") == "written", "and the other")
