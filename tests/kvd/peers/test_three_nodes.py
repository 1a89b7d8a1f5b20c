"""What clients of three daemons see: each test uses the same three, with keys of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster_live.harness import Client, Cluster, eventually, measure
from tests.servers import ROOT, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    options = ("--set", "peers.replicate_acl_users=true", "--set", "peers.publish_local_prefixes=here:")
    with Cluster(directory, 3, *options) as running:
        yield running


@pytest.fixture
def clients(cluster: Cluster) -> Iterator[list[Client]]:
    found = [node.client(protocol=3) for node in cluster.nodes]
    yield found
    for client in found:
        client.close()


def sees(client: Client, key: str, value: str | None) -> bool:
    return bool(client.get(key) == value)


def wait_to_see(client: Client, key: str, value: str | None) -> None:
    eventually(lambda: sees(client, key, value), f"{key} arrives")


# --- records


def test_what_is_written_on_any_node_is_read_on_all(clients: list[Client]) -> None:
    for number, writer in enumerate(clients):
        writer.set(f"from:{number}", "value", ex=1000)
        for reader in clients:
            wait_to_see(reader, f"from:{number}", "value")
            assert 990 < reader.ttl(f"from:{number}") <= 1000


def test_what_is_deleted_stays_deleted(clients: list[Client]) -> None:
    first, second, third = clients
    first.set("gone", "value")
    eventually(lambda: sees(second, "gone", "value"), "the write arrives")
    second.delete("gone")
    for reader in clients:
        wait_to_see(reader, "gone", None)
    assert third.exists("gone") == 0


def test_the_later_of_two_writes_wins_everywhere(clients: list[Client]) -> None:
    for number, writer in enumerate(clients):
        writer.set("contended", str(number))
        time.sleep(0.005)
    for reader in clients:
        wait_to_see(reader, "contended", "2")


def conflicts(clients: list[Client]) -> int:
    return sum(client.info("peers")["conflicts_total{kind=value}"] for client in clients)


def test_a_write_that_loses_is_counted_by_kind_and_told_of_in_the_log(
    cluster: Cluster, clients: list[Client]
) -> None:
    before = conflicts(clients)
    cluster.cut(cluster.nodes[:1], cluster.nodes[1:])
    for writer in clients[:2]:
        writer.set("lost", "value")
    cluster.heal()
    cluster.wait_linked()
    eventually(lambda: conflicts(clients) > before, "it counts")
    logs = [node.log_file for node in cluster.nodes]
    eventually(lambda: any("concurrent writes lost" in log.read_text() for log in logs), "it is told")


def test_a_transaction_arrives_whole(clients: list[Client]) -> None:
    first, second, _ = clients
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with first.pipeline() as pipeline:
                pipeline.mset({f"pair:{side}": number for side in "ab"}).execute()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            left, right = second.mget("pair:a", "pair:b")
            assert left == right
    finally:
        stop.set()
        writer.join()


def test_a_large_value_arrives(cluster: Cluster, clients: list[Client]) -> None:
    value = "x" * 3_000_000
    clients[0].set("large", value)
    for reader in clients[1:]:
        wait_to_see(reader, "large", value)


def test_metadata_and_bits_and_counters_arrive(clients: list[Client]) -> None:
    first, _, third = clients
    first.execute_command("KV.PUT", "meta", "v", "META", '{"a":1}')
    first.setbit("bits", 7, 1)
    first.incrby("count", 41)
    first.incr("count")
    eventually(lambda: third.get("count") == "42", "the counter arrives")
    assert third.execute_command("KV.GET", "meta") == ["v", '{"a":1}']
    assert third.getbit("bits", 7) == 1


def test_a_flush_empties_the_database_everywhere(clients: list[Client]) -> None:
    first, second, _ = (redis.Redis(port=client.get_connection_kwargs()["port"], db=9) for client in clients)
    first.set("a", "1")
    eventually(lambda: second.exists("a"), "the write arrives")
    second.flushdb()
    eventually(lambda: first.dbsize() == 0, "the flush arrives")


# --- waiting


def test_wait_counts_the_members_that_have_the_write_on_disk(clients: list[Client]) -> None:
    clients[0].set("waited", "1")
    assert clients[0].wait(2, 5000) == 2
    assert clients[1].get("waited") == clients[2].get("waited") == "1"


def test_wait_for_more_than_there_are_answers_when_its_time_is_over(clients: list[Client]) -> None:
    clients[0].set("waited", "2")
    assert measure(lambda: clients[0].wait(3, 300)) >= 0.29


def test_waiting_is_not_left_to_the_second_in_which_files_are_synced(clients: list[Client]) -> None:
    def write_and_wait() -> None:
        clients[1].set("waited", "3")
        assert clients[1].wait(2, 5000) == 2

    assert min(measure(write_and_wait) for _ in range(5)) < 0.2


def test_waitaof_counts_this_disk_and_those_of_the_others(clients: list[Client]) -> None:
    clients[0].set("waited", "4")
    assert clients[0].execute_command("WAITAOF", 1, 2, 5000) == [1, 2]


def test_waitall_waits_for_every_member(clients: list[Client]) -> None:
    clients[2].set("waited", "5")
    assert clients[2].execute_command("KV.WAITALL", 5000) == [2, 2]


def test_a_token_makes_another_node_wait_for_what_was_written(clients: list[Client]) -> None:
    first, second, third = clients
    for number in range(50):
        first.set("session", str(number))
        token = first.execute_command("KV.TOKEN")
        assert second.execute_command("KV.SYNCTO", token, 5000) == 1
        assert second.get("session") == str(number)
        token = second.execute_command("KV.TOKEN")  # of what was read there
        assert third.execute_command("KV.SYNCTO", token, 5000) == 1
        assert third.get("session") == str(number)


def test_a_token_from_the_same_pipeline_covers_the_write_before_it(clients: list[Client]) -> None:
    first, second, _ = clients
    for number in range(20):
        pipeline = first.pipeline(transaction=False)
        pipeline.set("piped", str(number))
        pipeline.execute_command("KV.TOKEN")
        token = pipeline.execute()[1]
        assert second.execute_command("KV.SYNCTO", token, 5000) == 1
        assert second.get("piped") == str(number)


def test_a_token_of_the_future_is_waited_for_in_vain(clients: list[Client]) -> None:
    from kvd.peering import tokens

    cluster_id = bytes.fromhex(clients[0].execute_command("KV.CLUSTER", "STATUS")["cluster"])
    token = tokens.encode(cluster_id, {b"?" * 16: 1})
    assert clients[0].execute_command("KV.SYNCTO", token, 100) == 0


def test_a_client_that_waits_can_be_unblocked(clients: list[Client]) -> None:
    first = clients[0]
    client_id = first.client_id()
    first.set("waited", "6")
    with redis.Redis(port=first.get_connection_kwargs()["port"]) as other:
        unblocker = threading.Timer(0.2, lambda: other.client_unblock(client_id, error=True))
        unblocker.start()
        with pytest.raises(redis.ResponseError, match="UNBLOCKED"):
            first.wait(9, 0)
        unblocker.join()


# --- what clients listen to


def test_a_message_reaches_the_subscribers_of_all_nodes(clients: list[Client]) -> None:
    listeners = [client.pubsub() for client in clients]
    for listener in listeners:
        listener.subscribe("news")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
    assert clients[1].publish("news", "hello") == 1  # those of its own node are counted
    for listener in listeners:
        assert listener.get_message(timeout=5)["data"] == "hello"
        assert listener.get_message(timeout=0.05) is None
        listener.close()


def test_a_message_on_a_local_channel_stays_on_its_node(clients: list[Client]) -> None:
    listener = clients[0].pubsub()
    listener.psubscribe("*:channel")
    listener.get_message(timeout=5)
    clients[1].publish("here:channel", "not for you")
    clients[1].publish("other:channel", "for you")
    assert listener.get_message(timeout=5)["data"] == "for you"
    listener.close()


def test_a_message_that_fits_into_no_frame_costs_no_link(clients: list[Client]) -> None:
    clients[1].publish("news", b"x" * 900 * 1024)
    clients[1].publish("x" * 70_000, "hello")
    clients[1].set("after:large", "1")
    wait_to_see(clients[0], "after:large", "1")
    assert clients[0].info("peers")["protocol_errors_total"] == 0


def test_shard_channels_reach_all_nodes_too(clients: list[Client]) -> None:
    listener = clients[0].pubsub()
    listener.ssubscribe("shard")
    listener.get_message(timeout=5)
    clients[1].spublish("shard", "hello")
    eventually(lambda: (listener.get_sharded_message(timeout=1) or {}).get("data") == "hello", "it arrives")
    listener.close()


def test_keyspace_events_are_told_of_replicated_writes(clients: list[Client]) -> None:
    first, second, _ = clients
    second.config_set("notify-keyspace-events", "KEA")
    listener = second.pubsub()
    listener.psubscribe("__keyevent@0__:*")
    listener.get_message(timeout=5)
    first.set("event", "1")
    assert _next_event(listener) == ("set", "event")
    first.expire("event", 1000)
    assert _next_event(listener) == ("expire", "event")
    first.delete("event")
    assert _next_event(listener) == ("del", "event")
    listener.close()
    second.config_set("notify-keyspace-events", "")


def _next_event(listener: Client) -> tuple[str, str]:
    message = listener.get_message(timeout=5)
    return message["channel"].rpartition(":")[2], message["data"]


def test_client_side_caches_hear_of_replicated_writes(cluster: Cluster, clients: list[Client]) -> None:
    first = clients[0]
    with cluster[1].client(protocol=3) as second:
        connection = second.connection_pool.get_connection()
        first.set("cached", "1")
        eventually(lambda: sees(second, "cached", "1"), "the write arrives")
        heard: list[object] = []
        connection._parser.set_invalidation_push_handler(heard.append)
        for command in (("CLIENT", "TRACKING", "ON"), ("GET", "cached")):
            connection.send_command(*command)
            connection.read_response()
        first.set("cached", "2")

        def is_told() -> bool:
            connection.send_command("PING")
            connection.read_response()
            return bool(heard)

        wait_until(is_told, "the invalidation arrives", seconds=5)
        assert heard in ([[b"invalidate", [b"cached"]]], [["invalidate", ["cached"]]])
        second.connection_pool.release(connection)


def test_a_watched_key_that_another_node_changes_stops_the_transaction(clients: list[Client]) -> None:
    first, second, _ = clients
    first.set("watched", "1")
    eventually(lambda: sees(second, "watched", "1"), "the write arrives")
    with second.pipeline() as pipeline:
        pipeline.watch("watched")
        first.set("watched", "2")
        eventually(lambda: pipeline.get("watched") == "2", "the write arrives")
        pipeline.multi()
        pipeline.set("watched", "3")
        with pytest.raises(redis.WatchError):
            pipeline.execute()


# --- namespaces and users


def test_namespaces_and_their_policies_are_the_same_everywhere(clients: list[Client]) -> None:
    first, second, _ = clients
    made = first.execute_command("KV.NS", "CREATE", "shared", "MAXVALUE", "5")
    eventually(lambda: made in _namespaces(second), "the namespace arrives")
    assert _namespaces(second)[made]["maxvalue"] == 5
    with second.client() as session, first.client() as other:
        session.execute_command("KV.NS", "USE", "shared")
        other.execute_command("KV.NS", "USE", made)
        session.set("key", "value")
        eventually(lambda: sees(other, "key", "value"), "the record arrives")
        with pytest.raises(redis.ResponseError, match="limit of 5"):
            session.set("key", "longer")
    second.execute_command("KV.NS", "DELETE", made)
    eventually(lambda: made not in _namespaces(first), "the deletion arrives")


def _namespaces(client: Client) -> dict[str, dict[str, object]]:
    return {entry["id"]: entry for entry in client.execute_command("KV.NS", "LIST")}


def test_a_namespace_may_stay_on_its_node(clients: list[Client]) -> None:
    first, second, _ = clients
    made = first.execute_command("KV.NS", "CREATE", "private", "REPLICATE", "NONE")
    eventually(lambda: made in _namespaces(second), "the namespace is known")
    with second.client() as session, first.client() as other:
        session.execute_command("KV.NS", "USE", made)
        other.execute_command("KV.NS", "USE", made)
        other.set("key", "mine")
        first.set("marker", "1")
        eventually(lambda: sees(second, "marker", "1"), "a later write arrives")
        assert session.get("key") is None
        session.set("key", "yours")
        assert other.get("key") == "mine"


def test_each_node_remembers_what_was_replaced_on_it(clients: list[Client]) -> None:
    first, second, _ = clients
    made = first.execute_command("KV.NS", "CREATE", "past", "HISTORY", "3")
    eventually(lambda: made in _namespaces(second), "the namespace arrives")
    assert _namespaces(second)[made]["history"] == 3
    with first.client() as session, second.client() as other:
        session.execute_command("KV.NS", "USE", made)
        other.execute_command("KV.NS", "USE", made)
        session.set("key", "one")
        eventually(lambda: sees(other, "key", "one"), "the record arrives")
        written = session.execute_command("KV.META", "key")
        other.set("key", "two")
        eventually(lambda: sees(session, "key", "two"), "its successor comes back")
        for client in (session, other):
            [version] = client.execute_command("KV.HISTORY", "key")
            assert version["value"] == "one"
            assert (version["stamp"], version["writer"]) == (written["stamp"], written["writer"])
    first.execute_command("KV.NS", "DELETE", made)
    eventually(lambda: made not in _namespaces(second), "the deletion arrives")


def test_users_are_made_changed_and_deleted_everywhere(cluster: Cluster, clients: list[Client]) -> None:
    first, second, _ = clients
    first.acl_setuser("alice", enabled=True, passwords=["+secret"], keys=["a:*"], commands=["+get", "+ping"])
    eventually(lambda: "alice" in second.acl_users(), "the user arrives")
    with cluster[1].client(username="alice", password="secret") as alice:
        assert alice.get("a:key") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            alice.set("a:key", "1")
        first.acl_setuser("alice", enabled=True, commands=["+set"])
        eventually(lambda: alice.set("a:key", "1"), "the permission arrives")
        first.acl_deluser("alice")
        eventually(lambda: "alice" not in second.acl_users(), "the deletion arrives")
        alice.connection_pool.disconnect()
        with pytest.raises(redis.RedisError):
            alice.get("a:key")


# --- looking


def test_every_node_knows_the_others(clients: list[Client]) -> None:
    ids = [client.execute_command("KV.CLUSTER", "STATUS")["node"] for client in clients]
    for client, own in zip(clients, ids, strict=True):
        found = client.execute_command("KV.MEMBERS")
        assert sorted(member["id"] for member in found) == sorted(ids)
        assert found[0]["id"] == own
        assert all(member["linked"] == 1 - member["self"] for member in found)
        assert {member["state"] for member in found} == {"alive"}


def test_info_tells_of_every_member(clients: list[Client]) -> None:
    clients[0].set("informed", "1")
    clients[0].execute_command("KV.WAITALL", 5000)
    found = clients[0].info("replication")
    assert (found["role"], found["connected_slaves"], found["members"]) == ("master", 2, 3)
    assert found["master_repl_offset"] > 0
    assert found["member0"]["state"] == "alive"
    eventually(lambda: clients[0].info("replication")["member1"]["lag_dots"] == 0, "there is no lag")
    metrics = clients[0].info("peers")
    for name in ("clock_ok", "push_sent_total", "propagation_seconds_count", "vector_entries{state=open}"):
        assert name in metrics
    assert metrics["divergence_total"] == 0
    assert clients[0].role()[0] == "master"


def test_a_record_knows_its_writer_and_who_has_it(clients: list[Client]) -> None:
    first, second, _ = clients
    own = first.execute_command("KV.CLUSTER", "STATUS")["node"]
    first.set("described", "1")
    first.execute_command("KV.WAITALL", 5000)
    eventually(lambda: (second.execute_command("KV.META", "described") or {}).get("writer") == own, "known")
    eventually(lambda: first.execute_command("KV.META", "described")["stable"] == 1, "it is stable")
    assert (
        first.execute_command("KV.META", "described")["stamp"]
        == second.execute_command("KV.META", "described")["stamp"]
    )


def test_the_nodes_are_equal(cluster: Cluster) -> None:
    cluster.wait_equal()


def test_a_member_cannot_be_removed_by_a_vague_name(clients: list[Client]) -> None:
    for wrong in ("ab", "ffffffff", clients[0].execute_command("KV.CLUSTER", "STATUS")["node"]):
        with pytest.raises(redis.ResponseError):
            clients[0].execute_command("KV.CLUSTER", "REMOVE", wrong)


def test_where_nothing_is_held_nothing_is_cut(cluster: Cluster, clients: list[Client]) -> None:
    assert clients[0].execute_command("KV.CLUSTER", "CUT") == []
    command = [
        sys.executable,
        "-m",
        "kvd",
        "cluster",
        "cut",
        "--yes",
        "--url",
        f"redis://127.0.0.1:{cluster[0].port}",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "this node holds nothing back. Ask one that does" in result.stderr


def test_the_ports_file_names_the_port_for_peers(cluster: Cluster) -> None:
    ports = json.loads((Path(cluster[0].directory) / "ports.json").read_text())
    assert set(ports) == {"resp", "peer"}


def test_no_session_and_no_tick_has_failed(clients: list[Client]) -> None:
    for client in clients:
        assert client.info("stats")["unexpected_error_replies"] == 0
        assert client.info("storage")["storage_ticks_failed"] == 0
