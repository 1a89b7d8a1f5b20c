"""What a single node answers to questions about peers, and how it refuses for the sake of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from kvd.peering.start import open_peers
from replication.rejoin import CLUSTER_SETTING
from storage.layout import LOCAL_PREFIX
from tests.kvd.harness import Client, InProcessServer, encode, error

if TYPE_CHECKING:
    from kvd.hub import Hub

LOADING = "LOADING this node is joining"


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Client:
    return Client(server)


def test_a_token_of_a_single_node_is_waited_for_at_once(client: Client) -> None:
    client.send("SET", "key", "value")
    token = client.send("KV.TOKEN")
    assert client.send("KV.SYNCTO", token, 0) == 1
    assert "no token" in error(client.send("KV.SYNCTO", "rubbish", 0))


def test_there_is_nobody_to_wait_for(client: Client) -> None:
    assert client.send("KV.WAITALL", 0) == [0, 0]
    assert client.send("KV.MEMBERS") == []
    assert client.send("KV.CONFLICTS") == []
    assert "no peers" in error(client.send("KV.CLUSTER", "STATUS"))
    assert "no peers" in error(client.send("KV.CLUSTER", "CUT"))


def test_a_record_is_stable_where_its_writer_is_alone(client: Client) -> None:
    client.send("HELLO", "3")
    client.send("SET", "key", "value")
    found = client.send("KV.META", "key")
    assert (found[b"stable"], found[b"conflicts"]) == (1, 0)
    assert found[b"writer"] == client.server.store.node_id.hex().encode()


@pytest.mark.parametrize("count", [0, 1025, "many"])
def test_a_count_of_conflicts_that_makes_no_sense_is_refused(client: Client, count: object) -> None:
    error(client.send("KV.CONFLICTS", count))


def test_writes_are_refused_with_the_clusters_reason(server: InProcessServer, client: Client) -> None:
    client.send("SET", "key", "value")
    server.refuse("CLOCKSKEW this node's clock is wrong", reads=False)
    assert error(client.send("SET", "key", "other")).startswith("CLOCKSKEW")
    assert error(client.send("EVAL", "return redis.call('set', 'a', 'b')", 0)).startswith("CLOCKSKEW")
    assert client.send("GET", "key") == b"value"
    server.refuse(None, reads=False)
    assert client.send("SET", "key", "other") == b"OK"


def test_a_transaction_that_would_write_is_refused(server: InProcessServer, client: Client) -> None:
    client.send("MULTI")
    client.send("SET", "key", "value")
    server.refuse("READONLY removed", reads=False)
    assert error(client.send("EXEC")) == "EXECABORT Transaction discarded because of: READONLY removed"


def test_a_node_that_catches_up_serves_no_reads_but_says_how_it_is(
    server: InProcessServer, client: Client
) -> None:
    client.send("SET", "key", "value")
    server.refuse(LOADING, reads=True)
    for request in (("GET", "key"), ("SET", "key", "1"), ("PING",), ("KV.TOKEN",)):
        assert error(client.send(*request)) == LOADING
    assert b"role:master" in client.send("INFO", "replication")
    assert client.send("KV.MEMBERS") == []
    client.send("HELLO", "3")
    server.refuse(None, reads=True)
    assert client.send("GET", "key") == b"value"


def test_requests_of_one_pipeline_meet_the_refusal_in_order(server: InProcessServer, client: Client) -> None:
    server.refuse("CLOCKSKEW wrong", reads=False)
    assert client.raw(encode("GET", "a"), encode("SET", "a", "1"), encode("GET", "a")) == (
        b"$-1\r\n-CLOCKSKEW wrong\r\n$-1\r\n"
    )


@pytest.mark.parametrize("is_member", [False, True])
def test_a_member_that_runs_without_its_peers_keeps_its_deletions(
    server: InProcessServer, client: Client, is_member: bool
) -> None:
    if is_member:
        server.store.state.txn.local_values[LOCAL_PREFIX + CLUSTER_SETTING.encode()] = b"c" * 16
        server.store.commit()
    assert open_peers(server.settings, server, cast("Hub", None)) is None
    client.send("SET", "key", "value")
    client.send("DEL", "key")
    server.clock.advance(30 * 86_400_000)
    client.send("PING")
    while server.store.sweep(100) == 100:
        pass
    assert server.store.replication_stats()["tombstones"] == is_member
