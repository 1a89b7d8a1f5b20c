"""Commands on keys: metadata, databases and namespaces, atomicity, refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvd import rdb
from tests.kvd.harness import START_MS, Client, InProcessServer, error


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


@pytest.mark.parametrize("request_text", ["RENAME a b", "RENAMENX a b", "COPY a b", "COPY a b REPLACE"])
def test_a_copy_has_value_expiry_and_metadata(client: Client, request_text: str) -> None:
    client.send("KV.PUT", "a", "v", "META", '"m"', "PX", "5000")
    client.send(*request_text.split())
    assert client.send("KV.GET", "b") == [b"v", b'"m"']
    assert client.send("PTTL", "b") == 5000


def test_a_copy_over_a_key_with_an_expiry_does_not_inherit_it(client: Client) -> None:
    client.send("SET", "a", "v")
    client.send("SET", "b", "w", "EX", "100")
    client.send("RENAME", "a", "b")
    assert client.send("TTL", "b") == -1


def test_move_and_copy_reach_other_databases(client: Client) -> None:
    client.send("KV.PUT", "a", "v", "META", "1")
    assert client.send("COPY", "a", "c", "DB", "3") == 1
    assert client.send("MOVE", "a", "3") == 1
    assert client.send("DBSIZE") == 0
    client.send("SELECT", "3")
    assert client.send("KV.GET", "a") == client.send("KV.GET", "c") == [b"v", b"1"]


def test_rename_is_one_change_of_the_log(server: InProcessServer, client: Client) -> None:
    """Value, expiry and deletion share one clock value: no peer ever sees the key twice or not at all."""
    client.send("SET", "a", "v", "EX", "100")
    client.send("RENAME", "a", "b")
    keyspace = server.store.keyspace(0)
    moved, gone = keyspace.peek(b"b"), keyspace.peek(b"a")
    assert moved[3] is not None
    assert gone[5] is not None
    assert moved[3][:8] == gone[5][:8]


def test_deleting_several_keys_is_one_change_too(server: InProcessServer, client: Client) -> None:
    client.send("MSET", "a", "1", "b", "2")
    assert client.send("DEL", "a", "nothing", "b", "a") == 2
    floors = [server.store.keyspace(0).peek(key)[5] for key in (b"a", b"b")]
    assert floors[0] is not None
    assert floors[1] is not None
    assert floors[0][:8] == floors[1][:8]


@pytest.mark.parametrize("mode", [[], ["SYNC"], ["async"]])
def test_flushing_empties_one_database_or_all_and_namespaces(client: Client, mode: list[str]) -> None:
    namespace = client.send("KV.NS", "CREATE", "named")
    for select in (["SELECT", 0], ["SELECT", 1], ["KV.NS", "USE", namespace]):
        client.send(*select)
        client.send("SET", "a", "v")
    client.send("SELECT", 0)
    assert client.send("FLUSHDB", *mode) == b"OK"
    assert client.send("DBSIZE") == 0
    client.send("SELECT", 1)
    assert client.send("DBSIZE") == 1
    assert client.send("FLUSHALL", *mode) == b"OK"
    assert client.send("DBSIZE") == 0
    assert client.send("KV.NS", "LIST")[0][5] == 0


def test_what_is_refused_says_why_and_what_else_there_is(client: Client) -> None:
    assert "KV.NS USE" in error(client.send("SWAPDB", "0", "1"))
    for name in ("SORT", "SORT_RO"):
        assert "only strings so far" in error(client.send(name, "key"))


def test_randomkey_gives_a_key_that_is_there(client: Client) -> None:
    assert client.send("RANDOMKEY") is None
    client.send("MSET", "a", "1", "b", "2")
    client.send("SET", "expired", "v", "PXAT", "1")
    assert {client.send("RANDOMKEY") for _ in range(50)} == {b"a", b"b"}


def test_an_expired_key_can_be_replaced_by_copy_and_rename(server: InProcessServer, client: Client) -> None:
    client.send("SET", "a", "v")
    client.send("SET", "b", "old", "PX", "5")
    server.clock.advance(5)
    assert client.send("COPY", "a", "b") == 1
    client.send("PEXPIRE", "b", "5")
    server.clock.advance(5)
    assert client.send("RENAMENX", "a", "b") == 1


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b"123", b"int"),
        (b"-9223372036854775808", b"int"),
        (b"012", b"embstr"),
        (b"x" * 44, b"embstr"),
        (b"x" * 45, b"raw"),
    ],
)
def test_object_encoding_follows_from_the_value(client: Client, value: bytes, encoding: bytes) -> None:
    client.send("SET", "key", value)
    assert client.send("OBJECT", "ENCODING", "key") == encoding
    assert client.send("OBJECT", "ENCODING", "none") is None


@pytest.mark.parametrize(
    ("value", "references"),
    [("0", 2**31 - 1), ("9999", 2**31 - 1), ("10000", 1), ("-1", 1), ("01", 1), ("text", 1)],
)
def test_small_integers_are_shared(client: Client, value: str, references: int) -> None:
    client.send("SET", "key", value)
    assert client.send("OBJECT", "REFCOUNT", "key") == references


def test_objects_have_no_frequency_and_no_idle_time(client: Client) -> None:
    client.send("SET", "key", "1")
    assert error(client.send("OBJECT", "FREQ", "key")).endswith("will take some time to adjust.")
    assert client.send("OBJECT", "IDLETIME", "key") == 0
    for subcommand in ("FREQ", "IDLETIME", "REFCOUNT"):
        assert client.send("OBJECT", subcommand, "none") is None


def test_memory_usage_grows_with_key_value_and_metadata(client: Client) -> None:
    client.send("SET", "key", "v")
    plain = client.send("MEMORY", "USAGE", "key")
    client.send("KV.PUT", "key", "v" * 101, "META", '"1234567"')
    assert client.send("MEMORY", "USAGE", "key", "SAMPLES", "0") == plain + 100 + 9
    assert client.send("MEMORY", "USAGE", "none") is None
    assert error(client.send("MEMORY", "USAGE", "key", "SAMPLES")) == "ERR syntax error"


def test_memory_tells_what_bounds_it(client: Client) -> None:
    assert b"storage.cache_bytes" in client.send("MEMORY", "DOCTOR")
    assert client.send("MEMORY", "PURGE") == b"OK"
    assert b"not supported" in client.send("MEMORY", "MALLOC-STATS")
    figures = client.send("MEMORY", "STATS")
    assert dict(zip(figures[::2], figures[1::2], strict=True))[b"keys"] == 0


@pytest.mark.parametrize("container", ["OBJECT", "MEMORY", "KV.NS"])
def test_help_names_every_subcommand(server: InProcessServer, client: Client, container: str) -> None:
    lines = b"\n".join(client.send(container, "HELP"))
    for subcommand in server.table.specs[container.encode()].subcommands:
        assert b"\n" + subcommand in lines


def test_restore_takes_lifetimes_from_now_and_as_moments(client: Client) -> None:
    payload = rdb.dump_string(b"value")
    assert client.send("RESTORE", "a", "5000", payload) == b"OK"
    assert client.send("PTTL", "a") == 5000
    assert client.send("RESTORE", "b", START_MS + 7000, payload, "ABSTTL") == b"OK"
    assert client.send("PTTL", "b") == 7000
    assert client.send("RESTORE", "c", "0", payload, "IDLETIME", "5") == b"OK"
    assert client.send("TTL", "c") == -1


def test_restoring_what_has_expired_deletes_the_key(client: Client) -> None:
    client.send("SET", "a", "old")
    assert client.send("RESTORE", "a", "1", rdb.dump_string(b"new"), "ABSTTL", "REPLACE") == b"OK"
    assert client.send("EXISTS", "a") == 0


def test_restore_refuses_and_leaves_the_key_as_it_was(server: InProcessServer, client: Client) -> None:
    payload = rdb.dump_string(b"x" * 100)
    client.send("SET", "a", "old")
    assert error(client.send("RESTORE", "a", "0", payload)).startswith("BUSYKEY")
    server.store.limits.value_bytes_max = 99
    assert error(client.send("RESTORE", "a", "0", payload, "REPLACE")) == "ERR Bad data format"
    broken = error(client.send("RESTORE", "a", "0", payload[:-1] + b"!", "REPLACE"))
    assert broken == "ERR DUMP payload version or checksum are wrong"
    assert client.send("GET", "a") == b"old"
