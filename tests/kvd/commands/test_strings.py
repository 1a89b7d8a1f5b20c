"""String commands: what the comparison with Redis cannot see (metadata, limits, other types, time)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from storage.engine import Family
from storage.record import NEVER
from tests.kvd.harness import Client, InProcessServer, error

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


def put_foreign(server: InProcessServer, key: bytes) -> None:
    """Give a key a value of a type that no command makes yet, in the cache alone."""
    foreign: Any = ({b"field": b"value"}, NEVER, None, bytes(32), None, None)
    server.store.keyspace(0)._hot.young[key] = foreign


@pytest.mark.parametrize(
    "request_text",
    [
        "GET key", "GETSET key v", "GETDEL key", "GETEX key", "SET key v GET", "APPEND key v", "STRLEN key",
        "GETRANGE key 0 1", "SUBSTR key 0 1", "SETRANGE key 0 v", "INCR key", "DECR key", "INCRBY key 1",
        "DECRBY key 1", "INCRBYFLOAT key 1", "SETBIT key 0 1", "GETBIT key 0", "BITCOUNT key", "BITPOS key 1",
        "BITOP NOT other key", "BITFIELD key GET u8 0", "BITFIELD key SET u8 0 1", "BITFIELD_RO key GET u8 0",
        "DUMP key", "KV.GET key",
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(
    server: InProcessServer, client: Client, request_text: str
) -> None:
    put_foreign(server, b"key")
    assert error(client.send(*request_text.split())) == WRONG_TYPE
    assert not server.store.dirty


def test_lcs_says_it_in_its_own_words(server: InProcessServer, client: Client) -> None:
    put_foreign(server, b"key")
    assert error(client.send("LCS", "key", "other")) == "ERR The specified keys must contain string values"


def test_mget_gives_null_for_another_type(server: InProcessServer, client: Client) -> None:
    put_foreign(server, b"key")
    client.send("SET", "a", "1")
    assert client.send("MGET", "a", "key", "none") == [b"1", None, None]


def test_changing_a_value_in_place_keeps_expiry_and_metadata(client: Client) -> None:
    client.send("KV.PUT", "key", "1", "META", '{"a":1}', "EX", "100")
    for request in (["INCR", "key"], ["APPEND", "key", "0"], ["SETRANGE", "key", "1", "5"], ["INCRBYFLOAT", "key", "1"],
                    ["SETBIT", "key", "0", "1"], ["BITFIELD", "key", "SET", "u8", "0", "49"]):  # fmt: skip
        client.send(*request)
        assert client.send("KV.GET", "key")[1] == b'{"a":1}'
        assert client.send("TTL", "key") == 100


@pytest.mark.parametrize(
    "request_text", ["SET key 2", "GETSET key 2", "SETEX key 10 2", "MSET key 2", "SET key 2 KEEPTTL"]
)
def test_a_new_value_takes_the_metadata_away(client: Client, request_text: str) -> None:
    client.send("KV.PUT", "key", "1", "META", "1")
    client.send(*request_text.split())
    assert client.send("KV.GET", "key") == [b"2", None]


def test_a_lifetime_ends_at_its_millisecond(server: InProcessServer, client: Client) -> None:
    client.send("SET", "key", "v", "PX", "10")
    server.clock.advance(9)
    assert client.send("GET", "key") == b"v"
    assert client.send("PTTL", "key") == 1
    server.clock.advance(1)
    assert client.send("GET", "key") is None
    assert client.send("SET", "key", "new", "XX") is None
    assert client.send("SET", "key", "new", "NX") == b"OK"
    assert client.send("TTL", "key") == -1


def test_a_moment_that_has_passed_leaves_no_key(client: Client) -> None:
    client.send("SET", "key", "v")
    assert client.send("SET", "key", "w", "PXAT", "1") == b"OK"
    assert client.send("EXISTS", "key") == 0
    assert client.send("DBSIZE") == 0
    client.send("SET", "key", "v")
    assert client.send("GETEX", "key", "EXAT", "1") == b"v"
    assert client.send("EXISTS", "key") == 0


def small_server() -> InProcessServer:
    server = InProcessServer()
    server.store.limits.value_bytes_max = 1000
    server.store.limits.key_bytes_max = 100
    return server


@pytest.mark.parametrize(
    "request_text",
    [
        "APPEND key xxxxx",
        "SETRANGE key 996 xxxxx",
        "SETBIT key 8000 1",
        "BITFIELD key SET u8 7993 1",
        "SETRANGE key 1000 x",
    ],
)
def test_growing_a_value_beyond_the_limit_is_refused_before_it_is_built(request_text: str) -> None:
    client = Client(small_server())
    client.send("SET", "key", b"x" * 996)
    refusal = error(client.send(*request_text.split()))
    assert refusal.endswith(
        "exceeds the limit of 1000 bytes (storage.value_bytes_max, or MAXVALUE of its namespace)"
    )
    assert client.send("STRLEN", "key") == 996


def test_what_redis_would_not_make_either_is_refused_in_its_words() -> None:
    client = Client(small_server())
    words = "string exceeds maximum allowed size (proto-max-bulk-len)"
    assert words in error(client.send("SETRANGE", "key", 9999999999999, "x"))


def test_values_and_keys_beyond_the_limit_are_refused() -> None:
    client = Client(small_server())
    assert client.send("SET", "key", b"x" * 1000) == b"OK"
    assert "exceeds the limit of 1000 bytes" in error(client.send("SET", "key", b"x" * 1001))
    assert "exceeds the limit of 100 bytes" in error(client.send("SET", b"k" * 101, "v"))
    assert client.send("GET", b"k" * 101) is None


def test_msetnx_refuses_without_writing_anything(client: Client) -> None:
    client.send("SET", "b", "old")
    assert client.send("MSETNX", "a", "1", "b", "2") == 0
    assert client.send("MGET", "a", "b") == [None, b"old"]


def test_an_mset_that_fails_in_the_middle_has_written_nothing() -> None:
    client = Client(small_server())
    assert "exceeds the limit" in error(client.send("MSET", "a", "1", "b", b"x" * 1001, "c", "3"))
    assert client.send("EXISTS", "a", "b", "c") == 0


def test_an_mset_over_a_record_that_cannot_be_read_has_written_nothing(
    server: InProcessServer, client: Client
) -> None:
    batch = server.store.engine.batch()
    batch.put(Family.RECORDS, server.store.keyspace(0).id + b"b", b"not a record")
    server.store.engine.write(batch, sync=False)
    assert "cannot be read" in error(client.send("MSET", "a", "1", "b", "2", "c", "3"))
    assert client.send("EXISTS", "a", "c") == 0


def test_a_few_bytes_cannot_ask_for_endless_work(client: Client) -> None:
    """One value of a mebibyte, named six hundred times."""
    client.send("SET", "key", b"x" * (1 << 20))
    for request in (["MGET"], ["BITOP", "AND", "result"]):
        assert "larger than 512 MiB together" in error(client.send(*request, *["key"] * 600))
    assert client.send("EXISTS", "result") == 0
