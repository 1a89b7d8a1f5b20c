"""DEBUG: who may use it, and the few words of it."""

from __future__ import annotations

import time

import pytest

from kvd.commands import debug, walks
from storage.errors import NoSpace
from tests.kvd.harness import Client, InProcessServer, encode, error
from tests.kvd.live import ask, receive_exactly, running


@pytest.fixture
def client() -> Client:
    return Client(InProcessServer())


@pytest.mark.parametrize(
    ("address", "is_unix", "is_allowed"),
    [
        ("127.0.0.1:5", False, True),
        ("[::1]:5", False, True),
        ("[::ffff:127.0.0.1]:5", False, True),
        ("/run/kvd.sock:0", True, True),
        ("10.0.0.1:5", False, False),
        ("[fe80::1%eth0]:5", False, False),
    ],
)
def test_it_is_for_clients_on_this_machine(address: str, is_unix: bool, is_allowed: bool) -> None:
    reply = Client(InProcessServer(), address, is_unix=is_unix).send("DEBUG", "SLEEP", "0")
    if is_allowed:
        assert reply == b"OK"
    else:
        assert error(reply).startswith("ERR DEBUG command not allowed.")


def test_sleep_stops_the_whole_daemon(client: Client) -> None:
    before = time.monotonic()
    client.send("DEBUG", "SLEEP", "0.05")
    assert time.monotonic() - before >= 0.05


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_sleep_returns_at_once_for_what_is_no_time(client: Client, seconds: str) -> None:
    assert client.send("DEBUG", "SLEEP", seconds) == b"OK"


def test_sleep_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    client.send("DEBUG", "SLEEP", "1e9")
    assert slept == [debug.SLEEP_SECONDS_MAX]


def test_object_tells_how_a_value_is_held(client: Client) -> None:
    client.send("SET", "key", "hello")
    reply = client.send("DEBUG", "OBJECT", "key").decode()
    assert " encoding:embstr serializedlength:6 " in reply
    client.send("SET", "key", "12345")
    assert " encoding:int serializedlength:3 " in client.send("DEBUG", "OBJECT", "key").decode()


def test_the_sweep_can_be_stopped(client: Client) -> None:
    client.send("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    assert not client.server.sweeping
    client.send("DEBUG", "SET-ACTIVE-EXPIRE", 1)
    assert client.server.sweeping


def test_a_push_comes_before_its_reply(client: Client) -> None:
    client.send("HELLO", 3)
    assert client.raw(encode("DEBUG", "PROTOCOL", "push")) == (
        b">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n$40\r\nSome real reply following the push reply\r\n"
    )


def test_an_attribute_comes_before_its_reply(client: Client) -> None:
    assert error(client.send("DEBUG", "PROTOCOL", "attrib")) == "ERR RESP2 is not supported by this command"
    client.send("HELLO", 3)
    assert client.raw(encode("DEBUG", "PROTOCOL", "attrib")) == (
        b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n"
        b"$39\r\nSome real reply following the attribute\r\n"
    )


def test_help_lists_every_word(client: Client) -> None:
    lines = client.send("DEBUG", "HELP")
    assert b"SLEEP <seconds>" in lines
    assert len(lines) == 1 + 2 * 14


def test_what_cannot_be_written_is_refused_before_the_first_key(client: Client) -> None:
    limits = client.server.store.limits
    assert "storage.key_bytes_max" in error(client.send("DEBUG", "POPULATE", 5, b"x" * limits.key_bytes_max))
    assert "storage.value_bytes_max" in error(
        client.send("DEBUG", "POPULATE", 5, "k", limits.value_bytes_max + 1)
    )
    client.send("MULTI")
    client.send("DEBUG", "POPULATE", 5)
    assert "cannot be part of a transaction" in error(client.send("EXEC")[0])
    assert client.send("DBSIZE") == 0


async def test_keys_are_made_and_digested_in_slices_each_a_commit_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)
    async with running() as live, await live.connect() as stream, await live.connect() as other:
        commits = live.server.store.commits
        await stream.send_all(encode("DEBUG", "POPULATE", 5000))
        await ask(other, "SET", "key:4000", "mine", expect=b"+OK\r\n")
        await ask(other, "GET", "key:4999", expect=b"$-1\r\n")
        assert await receive_exactly(stream, 5) == b"+OK\r\n"
        assert live.server.store.commits > commits + 10
        await ask(other, "MGET", "key:4000", "key:4999", expect=b"*2\r\n$4\r\nmine\r\n$10\r\nvalue:4999\r\n")
        await ask(other, "DBSIZE", expect=b":5000\r\n")
        await stream.send_all(encode("DEBUG", "DIGEST"))
        await ask(other, "PING", expect=b"+PONG\r\n")
        assert len(await receive_exactly(stream, 43)) == 43


async def test_a_commit_that_fails_ends_the_making_of_keys() -> None:
    async with running() as live, await live.connect() as stream:
        live.engine.fail_next(NoSpace("disk"))
        await ask(stream, "DEBUG", "POPULATE", 5, expect=b"-MISCONF ")
