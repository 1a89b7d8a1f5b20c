"""KV.HISTORY and its policy, as clients see them: in one process, and in a real daemon through redis-py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvd.commands import lookup
from storage.policy import HISTORY_MAX
from tests.kvd.harness import START_MS, Client, InProcessServer, error
from tests.servers import kvd_server, wait_until


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Iterator[Client]:
    """A client in a namespace that keeps three versions."""
    client = Client(server)
    client.send("HELLO", "3")
    client.send("KV.NS", "CREATE", "past", "HISTORY", "3")
    client.send("KV.NS", "USE", "past")
    yield client
    client.close()


def values(client: Client, key: str = "key", *options: object) -> list[Any]:
    return [version[b"value"] for version in client.send("KV.HISTORY", key, *options)]


def test_the_policy_is_set_shown_and_changed(client: Client) -> None:
    [entry] = client.send("KV.NS", "LIST")
    assert entry[b"history"] == 3
    assert client.send("KV.NS", "POLICY", "past", "history", HISTORY_MAX) == b"OK"
    assert client.send("KV.NS", "POLICY", "past", "MAXVALUE", "100") == b"OK"
    [entry] = client.send("KV.NS", "LIST")
    assert (entry[b"history"], entry[b"maxvalue"]) == (HISTORY_MAX, 100)
    assert client.send("KV.NS", "POLICY", "past", "HISTORY", "0") == b"OK"
    assert client.send("KV.NS", "LIST")[0][b"history"] == 0
    for wrong in ("-1", HISTORY_MAX + 1, "many", "1.5", "", "99999999999999999999"):
        error(client.send("KV.NS", "POLICY", "past", "HISTORY", wrong))
        error(client.send("KV.NS", "CREATE", "other", "HISTORY", wrong))
    error(client.send("KV.NS", "CREATE", "other", "HISTORY"))
    assert len(client.send("KV.NS", "LIST")) == 1


def test_a_version_has_the_names_of_meta(server: InProcessServer, client: Client) -> None:
    client.send("KV.PUT", "key", "one", "META", '{"a":1}', "PX", "5000")
    meta = client.send("KV.META", "key")
    server.clock.advance(1500)
    client.send("SET", "key", "two")
    [version] = client.send("KV.HISTORY", "key")
    same = ("stamp", "origin", "sequence", "written_at_ms", "expires_at_ms", "metadata", "writer")
    assert {name: version[name.encode()] for name in same} == {name: meta[name.encode()] for name in same}
    assert version[b"value"] == b"one"
    assert version[b"replaced_at_ms"] == START_MS + 1500
    assert set(version) - set(meta) == {b"value", b"replaced_at_ms"}


def test_versions_come_newest_first_and_a_deletion_is_null(client: Client) -> None:
    assert values(client) == []
    client.send("SET", "key", "one")
    client.send("APPEND", "key", "!")
    client.send("DEL", "key")
    assert values(client) == [b"one!", b"one"]
    client.send("SET", "key", "two")
    assert values(client) == [None, b"one!", b"one"]
    deletion = client.send("KV.HISTORY", "key")[0]
    assert (deletion[b"metadata"], deletion[b"expires_at_ms"]) == (None, None)
    client.send("GETDEL", "key")
    assert values(client) == [b"two", None, b"one!"]
    assert values(client, "key", "COUNT", "2") == [b"two", None]
    assert values(client, "key", "count", "999999999999") == [b"two", None, b"one!"]
    assert values(client, "nothing") == []


def test_commands_of_all_kinds_leave_what_they_replace(client: Client) -> None:
    client.send("MSET", "key", "1", "other", "2")
    client.send("INCR", "key")
    client.send("SETRANGE", "key", "0", "x")
    client.send("RENAME", "other", "key")
    assert values(client) == [b"x", b"2", b"1"]
    assert values(client, "other") == [b"2"]
    client.send("COPY", "key", "other")
    assert values(client, "other") == [None, b"2"]


def test_transactions_and_scripts_leave_each_of_their_writes(client: Client) -> None:
    client.send("SET", "key", "0")
    client.send("MULTI")
    client.send("SET", "key", "1")
    client.send("KV.HISTORY", "key")
    client.send("SET", "key", "2")
    replies = client.send("EXEC")
    assert [version[b"value"] for version in replies[1]] == [b"0"]
    assert values(client) == [b"1", b"0"]
    script = "redis.call('SET', KEYS[1], '3'); redis.call('SET', KEYS[1], '4'); return 1"
    assert client.send("EVAL", script, "1", "key") == 1
    assert values(client) == [b"3", b"2", b"1"]


def test_a_flush_takes_the_past_along(client: Client) -> None:
    for value in "12":
        client.send("SET", "key", value)
    client.send("FLUSHDB")
    assert values(client) == []


def test_who_has_no_history_is_told_how_to_get_one(client: Client) -> None:
    client.send("KV.NS", "POLICY", "past", "HISTORY", "0")
    assert "KV.NS POLICY <namespace> HISTORY" in error(client.send("KV.HISTORY", "key"))
    client.send("SELECT", "0")
    assert "KV.NS CREATE <title> HISTORY" in error(client.send("KV.HISTORY", "key"))


@pytest.mark.parametrize(
    "options",
    [
        ("COUNT",),
        ("COUNT", "0"),
        ("COUNT", "-1"),
        ("COUNT", "x"),
        ("COUNT", "99999999999999999999"),
        ("COUNT", "1", "COUNT", "2"),
        ("LIMIT", "1"),
        ("key2",),
        (b"\xff\x00", b"\x00"),
    ],
)
def test_wrong_options_are_refused(client: Client, options: tuple[object, ...]) -> None:
    error(client.send("KV.HISTORY", "key", *options))


def test_a_reply_is_bounded_as_that_of_mget(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "TOTAL_BYTES_MAX", 2 << 20)
    for value in ("a", "b", "c"):
        client.send("SET", "key", value * (1 << 20))
    client.send("DEL", "key")
    told = "ERR the values are larger than 2 MiB together; give a smaller COUNT"
    assert error(client.send("KV.HISTORY", "key")) == told
    assert len(values(client, "key", "COUNT", "2")) == 2


def test_a_key_that_is_too_long_has_no_past(client: Client) -> None:
    assert client.send("KV.HISTORY", b"k" * 100_000) == []


def test_reading_the_past_needs_the_right_to_read_the_key(client: Client) -> None:
    client.send("SET", "own:key", "1")
    client.send("ACL", "SETUSER", "reader", "on", "nopass", "%R~own:*", "%W~*", "+@all")
    assert client.send("ACL", "DRYRUN", "reader", "KV.HISTORY", "own:key") == b"OK"
    assert b"no permissions" in client.send("ACL", "DRYRUN", "reader", "KV.HISTORY", "other")
    client.send("ACL", "SETUSER", "other", "on", "nopass", "~*", "+@all", "-@read")
    assert b"no permissions" in client.send("ACL", "DRYRUN", "other", "KV.HISTORY", "own:key")
    assert client.send("COMMAND", "GETKEYS", "KV.HISTORY", "own:key", "COUNT", "1") == [b"own:key"]


def test_with_resp2_a_version_is_a_flat_array(server: InProcessServer) -> None:
    client = Client(server)
    client.send("KV.NS", "CREATE", "flat", "HISTORY", "1")
    client.send("KV.NS", "USE", "flat")
    client.send("SET", "key", "1")
    client.send("SET", "key", "2")
    [version] = client.send("KV.HISTORY", "key")
    assert version[:4] == [b"value", b"1", b"metadata", None]
    client.close()


def test_a_real_daemon_keeps_and_trims_the_past(tmp_path: Path) -> None:
    with (
        kvd_server(tmp_path) as server,
        server.client(protocol=3, decode_responses=True) as client,
        client.client() as session,
    ):
        session.execute_command("KV.NS", "CREATE", "past", "HISTORY", "5")
        session.execute_command("KV.NS", "USE", "past")
        for number in range(9):
            session.set("key", number)
            session.set("large", b"%d" % number * 70_000)
        past = session.execute_command("KV.HISTORY", "key")
        assert [version["value"] for version in past] == ["7", "6", "5", "4", "3"]
        [large] = session.execute_command("KV.HISTORY", "large", "COUNT", "1")
        assert large["value"] == "7" * 70_000
        assert session.info("storage")["storage_history_namespaces"] == 1
        session.execute_command("KV.NS", "POLICY", "past", "HISTORY", "0")
        wait_until(lambda: session.info("storage")["storage_history_namespaces"] == 0, "it is removed")
        session.execute_command("KV.NS", "POLICY", "past", "HISTORY", "2")
        assert session.execute_command("KV.HISTORY", "key") == []
        session.set("key", "last")
    with (
        kvd_server(tmp_path) as server,
        server.client(protocol=3, decode_responses=True) as client,
        client.client() as session,
    ):
        session.execute_command("KV.NS", "USE", "past")
        assert [version["value"] for version in session.execute_command("KV.HISTORY", "key")] == ["8"]
