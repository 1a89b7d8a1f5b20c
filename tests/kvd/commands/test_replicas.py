"""WAIT, ROLE, REPLICAOF and the commands of a cluster."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.kvd.harness import Client, InProcessServer, encode, error


@pytest.fixture
def client() -> Client:
    return Client(InProcessServer())


def test_the_role_is_that_of_a_master_without_replicas(client: Client) -> None:
    assert client.send("ROLE") == [b"master", 0, []]


async def test_wait_answers_when_its_time_is_over(
    client: Client, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client.server.spawn = nursery.start_soon
    assert client.send("WAIT", 1, 1000) is False
    await trio.sleep(0.9)
    assert client.session.suspended
    await trio.sleep(0.2)
    assert client.next() == 0


async def test_commands_behind_a_wait_come_after_it(
    client: Client, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client.server.spawn = nursery.start_soon
    assert client.raw(encode("WAIT", 1, 10), encode("PING")) == b""
    await trio.sleep(1)
    client.session.run_backlog()
    assert client.session.take_output() == b":0\r\n+PONG\r\n"


async def test_a_client_that_leaves_does_not_leave_its_timer_behind(
    client: Client, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            client.server.spawn = nursery.start_soon
            client.send("WAIT", 1, 10**12)
            client.close()


def test_wait_for_nobody_answers_at_once(client: Client) -> None:
    assert client.send("WAIT", 0, 0) == 0


def test_wait_does_not_block_a_transaction(client: Client) -> None:
    client.send("MULTI")
    client.send("WAIT", 1, 0)
    assert client.send("EXEC") == [0]
    assert not client.session.suspended


@pytest.mark.parametrize("name", ["REPLICAOF", "SLAVEOF"])
def test_following_a_master_is_refused_with_what_there_is_instead(client: Client, name: str) -> None:
    text = error(client.send(name, "10.0.0.1", "6379"))
    assert text.startswith("ERR kvd has no masters and replicas")
    assert "gossip" in text
    assert "kvd serve --join" in text
    assert client.send(name, "no", "one") == b"OK"


@pytest.mark.parametrize(
    ("request_", "instead"),
    [
        (["SYNC"], "kvd serve --join"),
        (["PSYNC", "?", "-1"], "kvd serve --join"),
        (["REPLCONF", "listening-port", "6380"], "kvd serve --join"),
        (["FAILOVER"], "every node takes writes"),
        (["MIGRATE", "10.0.0.1", "6379", "key", "0", "1000"], "DUMP and RESTORE"),
    ],
)
def test_what_masters_and_replicas_do_is_refused_with_what_there_is_instead(
    client: Client, request_: list[str], instead: str
) -> None:
    text = error(client.send(*request_))
    assert text.startswith("ERR ")
    assert instead in text


@pytest.mark.parametrize(
    "request_",
    [
        ["CLUSTER", "INFO"],
        ["CLUSTER", "SHARDS"],
        ["CLUSTER", "MYSHARDID"],
        ["CLUSTER", "HELP"],  # to which the refusal of an unknown subcommand points
        ["READONLY"],
        ["READWRITE"],
        ["ASKING"],
    ],
)
def test_there_is_no_cluster(client: Client, request_: list[str]) -> None:
    assert error(client.send(*request_)) == "ERR This instance has cluster support disabled"
