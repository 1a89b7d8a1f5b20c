"""KEYS and SCAN: complete, once each, in slices, and gone when their client is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from kvd.commands import walks
from storage.changes import COMMON_GROUP
from tests.kvd.harness import Client, InProcessServer, encode, error, tick


def scan_all(client: Client, *options: object) -> list[bytes]:
    """Return the keys of a whole SCAN, page by page."""
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, keys = client.send("SCAN", cursor, *options)
        found += keys
        if cursor == b"0":
            return found


def fill(client: Client, keys: list[bytes]) -> None:
    client.send("MSET", *[word for key in keys for word in (key, b"")])


@settings(deadline=None)
@given(
    staying=st.sets(st.binary(max_size=3), min_size=1, max_size=40),
    passing=st.lists(st.tuples(st.booleans(), st.binary(max_size=3)), max_size=40),
    count=st.integers(1, 7),
)
def test_every_key_that_stays_is_returned_exactly_once(
    staying: set[bytes], passing: list[tuple[bool, bytes]], count: int
) -> None:
    """While other keys come and go between the pages."""
    client = Client(InProcessServer())
    fill(client, sorted(staying))
    changes = iter(passing)
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, keys = client.send("SCAN", cursor, "COUNT", count)
        found += keys
        if cursor == b"0":
            break
        comes, key = next(changes, (True, b"later"))
        if key not in staying:
            client.send(*(("SET", key, "") if comes else ("DEL", key)))
    assert sorted(key for key in found if key in staying) == sorted(staying)
    assert len(set(found)) == len(found)


def test_a_prefix_costs_what_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    server = InProcessServer()
    client = Client(server)
    fill(client, [b"a%d" % number for number in range(3000)] + [b"user:%d" % number for number in range(5)])
    examined = []
    keyspace_scan = type(server.store.keyspace(0)).scan

    def counting(*arguments: Any) -> Any:
        rows, after = keyspace_scan(*arguments)
        examined.append(len(rows))
        return rows, after

    monkeypatch.setattr(type(server.store.keyspace(0)), "scan", counting)
    assert len(client.send("KEYS", "user:*")) == 5
    assert client.send("SCAN", 0, "MATCH", "user:*")[1] == client.send("KEYS", "user:?")
    assert client.send("KEYS", "user:1") == [b"user:1"]
    assert sum(examined) <= 15


def test_a_page_asked_for_again_is_answered_again() -> None:
    client = Client(InProcessServer())
    fill(client, [b"%02d" % number for number in range(30)])
    first, _ = client.send("SCAN", 0)
    page = client.send("SCAN", first)
    assert client.send("SCAN", first) == page


@pytest.mark.parametrize("cursor", ["99", str((1 << 64) - 1), "-1", "+7", "0" * 9 + "7"])
def test_an_unknown_cursor_is_a_clear_error(cursor: str) -> None:
    assert "is not known (any more); start the scan again" in error(
        Client(InProcessServer()).send("SCAN", cursor)
    )


@pytest.mark.parametrize("cursor", ["x", "+", " 1", "1 ", "1.0", str(1 << 64), "-" + "9" * 20, "9" * 5000])
def test_what_is_no_number_is_no_cursor(cursor: str) -> None:
    assert error(Client(InProcessServer()).send("SCAN", cursor)) == "ERR invalid cursor"


def test_a_cursor_is_of_one_database_only() -> None:
    client = Client(InProcessServer())
    fill(client, [b"%02d" % number for number in range(30)])
    cursor, _ = client.send("SCAN", 0)
    client.send("SELECT", 1)
    assert "is not known" in error(client.send("SCAN", cursor))


def test_type_leaves_out_other_types_and_goes_on() -> None:
    client = Client(InProcessServer())
    fill(client, [b"%02d" % number for number in range(30)])
    assert len(scan_all(client, "TYPE", "STRING")) == 30
    assert scan_all(client, "TYPE", "list") == []


def test_expired_keys_are_not_returned() -> None:
    server = InProcessServer()
    client = Client(server)
    client.send("SET", "old", "v", "PX", "5")
    client.send("SET", "new", "v")
    server.clock.advance(5)
    assert client.send("KEYS", "*") == [b"new"]
    assert scan_all(client) == [b"new"]


def test_a_scan_of_a_large_count_ends_its_page_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)
    client = Client(InProcessServer())
    keys = [b"%04d" % number for number in range(1000)]
    fill(client, keys)
    cursor, page = client.send("SCAN", 0, "COUNT", 1000)
    assert cursor != b"0"
    assert len(page) == 256
    assert scan_all(client, "COUNT", 1000) == keys


def test_patterns_that_are_too_long_are_refused() -> None:
    client = Client(InProcessServer())
    assert error(client.send("KEYS", b"*a" * 5000)) == "ERR pattern has too many elements"
    assert error(client.send("SCAN", 0, "MATCH", b"x" * 200_000)) == "ERR pattern is too long"


class SlicingHub:
    """As much of the hub as a walk needs: ticks of its own."""

    def __init__(self, server: InProcessServer) -> None:
        self._server = server
        self.slices = 0

    def exclusively(self, work: Callable[[], object]) -> None:
        self.slices += 1
        self._server.store.begin(self._server.clock.now_ms)
        work()

    transact = exclusively


@pytest.fixture
def slicing(monkeypatch: pytest.MonkeyPatch) -> tuple[InProcessServer, SlicingHub]:
    """A server on which every slice of a walk is as short as can be, with 1,000 keys."""
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)
    server = InProcessServer()
    hub: Any = SlicingHub(server)
    fill(Client(server), [b"%04d" % number for number in range(1000)])
    server.hub = hub
    return server, hub


async def test_keys_of_a_large_keyspace_go_on_in_slices_and_lets_others_in(
    slicing: tuple[InProcessServer, SlicingHub],
) -> None:
    server, hub = slicing
    client, other = Client(server), Client(server)
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        assert client.send("KEYS", "*") is False
        assert client.session.suspended
        assert other.send("GET", "0500") == b""  # served while the walk is under way
        tick(server, (client.session, encode("PING")))  # waits behind the walk
    assert client.next() == [b"%04d" % number for number in range(1000)]
    assert hub.slices > 3
    assert not client.session.suspended


async def test_a_large_list_goes_on_in_slices_and_is_the_same(
    slicing: tuple[InProcessServer, SlicingHub],
) -> None:
    server, hub = slicing
    client, other = Client(server), Client(server)
    client.send("KV.PUT", "0700", "v", "META", "[1]")
    client.send("MULTI")
    client.send("KV.LIST", "LIMIT", "900")
    (in_one_go,) = client.send("EXEC")
    assert (len(in_one_go[1]), in_one_go[1][700], hub.slices) == (900, [b"0700", None, b"[1]"], 0)
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        assert client.send("KV.LIST", "LIMIT", "900") is False
        assert other.send("GET", "0500") == b""
    assert client.next() == in_one_go
    assert hub.slices > 3
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        assert client.send("KV.LIST", "CURSOR", in_one_go[0]) == [
            b"",
            [[b"%04d" % n, None, None] for n in range(900, 1000)],
        ]


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("left", [[b"0300"], []])
async def test_a_random_key_among_deleted_ones_is_looked_for_in_slices(
    slicing: tuple[InProcessServer, SlicingHub], left: list[bytes], proto: int
) -> None:
    server, hub = slicing
    client, other = Client(server), Client(server)
    client.send("HELLO", proto)
    client.send("DEL", *[b"%04d" % number for number in range(1000) if b"%04d" % number not in left])
    client.send("SET", "expired", "v", "PX", "1")  # counts until it is swept
    server.clock.advance(10)
    expected = left[0] if left else None
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        assert client.send("RANDOMKEY") is False
        assert other.send("SET", "0500", "v") == b"OK"
        assert other.send("DEL", "0500") == 1
    assert client.next() == expected
    assert hub.slices > 5
    slices = hub.slices
    client.send("MULTI")
    client.send("RANDOMKEY")
    assert client.send("EXEC") == [expected]
    assert client.send("EVAL", "return redis.call('RANDOMKEY')", 0) == expected
    assert hub.slices == slices


async def test_a_walk_ends_when_its_client_has_gone(
    slicing: tuple[InProcessServer, SlicingHub],
) -> None:
    server, hub = slicing
    client = Client(server)
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        client.send("KEYS", "*")
        client.close()
    assert hub.slices == 2  # the two that would have answered
    assert client.session.take_output() == b""


async def test_a_walk_whose_answer_nobody_wants_says_nothing(
    slicing: tuple[InProcessServer, SlicingHub],
) -> None:
    server, _ = slicing
    client = Client(server)
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        client.raw(encode("CLIENT", "REPLY", "SKIP"), encode("KEYS", "*"), encode("PING"))
    tick(server, (client.session, b""))
    client.session.run_backlog()
    assert client.session.take_output() == b"+PONG\r\n"


async def test_a_walk_that_fails_answers_with_the_error(
    slicing: tuple[InProcessServer, SlicingHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = slicing
    client = Client(server)
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        namespace = client.send("KV.NS", "CREATE", "short-lived")
        client.send("KV.NS", "USE", namespace)
        fill(client, [b"%04d" % number for number in range(1000)])
        client.send("KEYS", "*")
        Client(server).send("KV.NS", "DELETE", namespace)
    assert "does not exist" in error(client.next())
    assert client.send("SELECT", 0) == b"OK"


@pytest.mark.parametrize("command", [("KEYS", "*"), ("KV.LIST",)])
async def test_a_walk_through_what_is_not_all_here_any_more_is_refused(
    slicing: tuple[InProcessServer, SlicingHub], command: tuple[str, ...]
) -> None:
    server, _ = slicing
    client = Client(server)
    async with trio.open_nursery() as nursery:
        server.spawn = nursery.start_soon
        assert client.send(*command) is False
        server.close_groups({COMMON_GROUP: "this node catches up"})
    assert "this node catches up" in error(client.next())


async def test_in_a_transaction_keys_answers_in_one_go(
    slicing: tuple[InProcessServer, SlicingHub],
) -> None:
    server, hub = slicing
    client = Client(server)
    client.send("MULTI")
    client.send("KEYS", "*")
    client.send("DBSIZE")
    keys, size = client.send("EXEC")
    assert (len(keys), size, hub.slices) == (1000, 1000, 0)
