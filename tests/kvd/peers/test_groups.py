"""Three daemons, of which the first two carry group 7: its records are there, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from storage.engine import Family
from storage.engine_rocksdb import RocksEngine
from tests.cluster_live.harness import Client, Cluster, Node, eventually, make_secret
from tests.servers import ROOT, wait_until

NOT_CARRIED = "this node does not carry group 7"
CARRIES = ("--peer-groups", "7")


def make_cluster(directory: Path) -> Cluster:
    """Start three nodes, the first two with group 7 and a namespace of it."""
    cluster = Cluster(directory, 3, start=False)
    for node in cluster.nodes[:2]:
        node.options += CARRIES
    for node in cluster.nodes:
        cluster.start(node)
    cluster.wait_linked()
    with cluster[0].client() as client:
        client.execute_command("KV.NS", "CREATE", "ours", "REPLICATE", "GROUP", "7")
    for node in cluster.nodes:
        wait_for_namespace(node)
    for node in cluster.nodes[:2]:
        wait_until_whole(node)
    return cluster


def wait_for_namespace(node: Node) -> None:
    with node.client(protocol=3) as client:
        eventually(lambda: "ours" in [row["title"] for row in listed(client)], "the namespace is known")


def wait_until_whole(node: Node) -> None:
    wait_until(lambda: not is_loading(node), f"{node} has all of the group")


def listed(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.execute_command("KV.NS", "LIST")
    return found


def inside(node: Node) -> Client:
    """Return a client that works in the namespace, whatever its pool does."""
    client = node.client(protocol=3, single_connection_client=True)
    client.execute_command("KV.NS", "USE", "ours")
    return client


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with make_cluster(tmp_path_factory.mktemp("groups")) as running:
        yield running


@pytest.fixture
def first(cluster: Cluster) -> Iterator[Client]:
    with inside(cluster[0]) as client:
        yield client


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Client]:
    with inside(cluster[1]) as client:
        yield client


@pytest.fixture
def third(cluster: Cluster) -> Iterator[Client]:
    with cluster[2].client(protocol=3, single_connection_client=True) as client:
        yield client


# --- records


def test_a_write_comes_to_those_that_carry_its_group(first: Client, second: Client) -> None:
    first.set("a", "1", ex=1000)
    eventually(lambda: second.get("a") == "1", "the write arrives")
    assert 990 < second.ttl("a") <= 1000
    second.delete("a")
    eventually(lambda: first.get("a") is None, "the deletion arrives")


def test_the_others_know_the_title_and_refuse(first: Client, third: Client) -> None:
    first.set("b", "1")
    (row,) = listed(third)
    assert (row["replicate"], row["group"], row["carried"], row["keys"]) == ("group", 7, 0, 0)
    for request in (("KV.NS", "USE", "ours"), ("KV.NS", "DELETE", "ours")):
        with pytest.raises(redis.ResponseError, match=NOT_CARRIED):
            third.execute_command(*request)
    with pytest.raises(redis.ResponseError, match=NOT_CARRIED):
        third.execute_command("KV.NS", "CREATE", "more", "REPLICATE", "GROUP", "7")
    assert first.get("b") == "1"


def test_titles_and_deletions_are_known_to_all(first: Client, second: Client, third: Client) -> None:
    def titles(client: Client) -> set[str]:
        return {row["title"] for row in listed(client)}

    first.execute_command("KV.NS", "CREATE", "passing", "REPLICATE", "GROUP", "7")
    eventually(lambda: "passing" in titles(third), "the namespace is known")
    third.execute_command("KV.NS", "RENAME", "passing", "gone")
    eventually(lambda: "gone" in titles(second), "its title is known")
    second.execute_command("KV.NS", "DELETE", "gone")
    eventually(lambda: not {"passing", "gone"} & (titles(first) | titles(third)), "that it is gone is known")


def test_a_large_value_and_metadata_arrive(first: Client, second: Client) -> None:
    first.set("large", "x" * 3_000_000)
    first.execute_command("KV.PUT", "meta", "v", "META", '{"a":1}')
    eventually(lambda: second.strlen("large") == 3_000_000, "the value arrives")
    eventually(lambda: second.execute_command("KV.GET", "meta") == ["v", '{"a":1}'], "metadata arrives")


def test_flushall_elsewhere_leaves_what_is_not_carried_there(first: Client, third: Client) -> None:
    first.set("kept", "1")
    third.flushall()
    assert third.execute_command("KV.WAITALL", 0) == [2, 2]
    assert first.get("kept") == "1"


def test_a_member_that_does_not_carry_it_has_none_of_it_on_its_disk(tmp_path: Path) -> None:
    with make_cluster(tmp_path) as cluster:
        with inside(cluster[0]) as client:
            namespace = bytes.fromhex(next(row["id"] for row in listed(client)))
            client.mset({f"key:{number}": "value" for number in range(1000)})
            client.set("last", "1")
            assert client.wait(1, 0) == 1
        for node in cluster.nodes:
            node.stop()
        assert [rows_of(node, namespace) for node in cluster.nodes] == [1001, 1001, 0]
        for node in cluster.nodes:
            command = (sys.executable, "-m", "kvd", "verify", "--data-dir", str(node.data_dir))
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr


def rows_of(node: Node, namespace: bytes) -> int:
    """Count the rows of a namespace in a data directory."""
    engine = RocksEngine(node.data_dir)
    try:
        return sum(1 for _ in engine.iterate(Family.RECORDS, namespace, namespace + b"\xff"))
    finally:
        engine.close()


# --- what clients hear


def test_events_and_invalidations_are_told_of_writes_from_elsewhere(cluster: Cluster, first: Client) -> None:
    with inside(cluster[1]) as listener:
        listener.config_set("notify-keyspace-events", "KEA")
        (namespace,) = [row["id"] for row in listed(listener) if row["title"] == "ours"]
        pubsub = cluster[1].client().pubsub()
        pubsub.psubscribe("__key*__:*")
        assert pubsub.get_message(timeout=30)["type"] == "psubscribe"
        first.set("told", "1")
        found = [pubsub.get_message(timeout=30) for _ in range(2)]
        pubsub.close()
    assert {message["channel"].partition(":")[2] for message in found} == {"told", "set"}
    assert all(namespace in message["channel"] for message in found)


# --- waiting


def test_wait_counts_those_that_carry_the_group(first: Client) -> None:
    first.set("waited", "1")
    assert first.wait(1, 0) == 1
    assert first.wait(2, 100) == 1  # the third member will never have it
    assert first.execute_command("WAITAOF", 1, 1, 0) == [1, 1]
    assert first.execute_command("WAITAOF", 1, 2, 100) == [1, 1]
    first.select(0)
    first.set("waited", "1")
    assert first.wait(2, 0) == 2


def test_waitall_waits_for_all_to_have_what_is_theirs(first: Client, second: Client) -> None:
    first.set("waited", "all")
    assert first.execute_command("KV.WAITALL", 0) == [2, 2]
    assert second.get("waited") == "all"


def test_a_token_is_of_all_groups_and_waited_for_in_those_that_are_carried(
    first: Client, second: Client, third: Client
) -> None:
    for number in range(20):
        first.set("session", str(number))
        token = first.execute_command("KV.TOKEN")
        assert second.execute_command("KV.SYNCTO", token, 0) == 1
        assert second.get("session") == str(number)
        assert third.execute_command("KV.SYNCTO", token, 0) == 1


# --- looking


def test_a_record_has_a_writer_and_becomes_stable(cluster: Cluster, first: Client, second: Client) -> None:
    first.set("meta", "1")
    writer = cluster[0].id

    def is_known() -> bool:
        found = second.execute_command("KV.META", "meta")
        return bool(found and found["writer"] == writer and found["stable"] == 1)

    eventually(is_known, "the writer is known, and that all have it")
    assert first.execute_command("KV.META", "meta")["writer"] == writer


def test_the_reports_show_who_carries_what(cluster: Cluster, first: Client) -> None:
    first.set("reported", "1")
    ids = [node.id for node in cluster.nodes]

    def groups(number: int) -> dict[str, list[int]]:
        return {member["id"]: member["groups"] for member in cluster[number].status()["members"]}

    for number in range(3):
        eventually(
            lambda number=number: groups(number) == dict(zip(ids, ([7], [7], []), strict=True)), "all know"
        )
    (group,) = cluster[0].status()["groups"]
    assert (group["group"], group["standing"], group["refusal"]) == (7, "ready", None)
    assert (group["members"], group["linked"]) == (1, 1)
    assert group["dots"] > 0
    assert cluster[2].status()["groups"] == []
    assert cluster[0].metrics()["group_open{group=7}"] == 1
    with cluster[0].client() as client:
        assert client.info("replication")["group7"]["standing"] == "ready"
    eventually(
        lambda: all(member["lag_dots"] == 0 for node in cluster.nodes for member in node.status()["members"]),
        "nobody lacks anything that is his",
    )


def test_verification_compares_what_both_carry(cluster: Cluster, first: Client) -> None:
    first.set("verified", "1")
    assert first.execute_command("KV.WAITALL", 0) == [2, 2]
    with cluster[0].client(protocol=3, socket_timeout=None) as client:
        rows = {row["id"]: row for row in client.execute_command("KV.CLUSTER", "VERIFY")}
    assert {node_id: (row["equal"], row["groups"]) for node_id, row in rows.items()} == {
        cluster[1].id: (1, [0, 7]),
        cluster[2].id: (1, [0]),
    }
    for node in cluster.nodes:
        cluster.verify(node)


# --- carrying more, and less


def test_a_member_that_begins_to_carry_a_group_gets_it_and_never_gives_it_up(tmp_path: Path) -> None:
    with make_cluster(tmp_path) as cluster:
        with inside(cluster[0]) as client:
            client.mset({f"key:{number}": "value" for number in range(2000)})
        fourth = cluster.add()
        wait_for_namespace(fourth)
        with fourth.client() as client, pytest.raises(redis.ResponseError, match=NOT_CARRIED):
            client.execute_command("KV.NS", "USE", "ours")

        fourth.stop()
        fourth.options += CARRIES
        fourth.start()
        wait_until_whole(fourth)
        with inside(fourth) as client:
            assert client.dbsize() == 2000
            client.set("from", "the fourth")
        with inside(cluster[1]) as client:
            eventually(lambda: client.get("from") == "the fourth", "it takes part")
        cluster.verify(fourth)

        fourth.stop()
        del fourth.options[-len(CARRIES) :]
        status, text = start_in_vain(fourth)
        assert status != 0
        assert "carries group 7 and cannot give it up" in text


def test_a_group_is_closed_until_a_member_that_has_it_is_there(tmp_path: Path) -> None:
    with make_cluster(tmp_path) as cluster:
        with inside(cluster[0]) as client:
            client.set("a", "1")
        third = cluster[2]
        wait_until(lambda: carriers_known_to(third) == 2, "it knows who carries the group")
        for node in cluster.nodes:
            node.stop()
        third.options += CARRIES
        third.start()
        with third.client(protocol=3) as client:
            client.set("common", "1")
            assert is_loading(third)
            with pytest.raises(redis.BusyLoadingError, match="catches up"):
                client.flushall()
            assert client.get("common") == "1"
        (group,) = third.status()["groups"]
        assert group["standing"] == "joining"
        assert "LOADING" in group["refusal"]

        cluster[1].start()
        wait_until_whole(third)
        with inside(third) as client:
            assert client.get("a") == "1"


def carriers_known_to(node: Node) -> int:
    return sum(member["groups"] == [7] for member in node.status()["members"])


def test_a_backup_with_groups_becomes_a_new_cluster(tmp_path: Path) -> None:
    with make_cluster(tmp_path) as cluster:
        with inside(cluster[0]) as client:
            client.set("kept", "1")
            assert client.wait(1, 0) == 1
        for node in cluster.nodes:
            node.stop()
        make_secret(tmp_path / "cluster.secret")
        command = (sys.executable, "-m", "kvd", "cluster", "reseed", "--data-dir", str(cluster[0].data_dir))
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        cluster[1].erase()
        for node in cluster.nodes[:2]:
            node.start()
        wait_until_whole(cluster[1])
        with inside(cluster[1]) as client:
            assert client.get("kept") == "1"


def is_loading(node: Node) -> bool:
    try:
        inside(node).close()
    except redis.BusyLoadingError:
        return True
    return False


def start_in_vain(node: Node) -> tuple[int, str]:
    """Start a node that ends by itself; return its status and what it has said."""
    before = node.log_file.stat().st_size
    with pytest.raises(AssertionError, match="ended"):
        node.start()
    assert node.process is not None
    status = node.process.wait()
    node.process = None
    return status, node.log_file.read_bytes()[before:].decode()
