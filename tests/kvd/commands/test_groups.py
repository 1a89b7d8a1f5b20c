"""Namespaces of groups on one node: those it carries are like any other, of the rest it knows the titles."""

from __future__ import annotations

from typing import Any

import pytest

from kvd.commands.spec import Flag
from kvd.dispatch import is_in_namespace
from storage.changes import GROUP_MAX, group_of
from tests.kvd.groups import NOT_CARRIED, SETTINGS, hear_of
from tests.kvd.harness import Client, InProcessServer, encode, error

WHY = "this node has begun to carry group 7 and catches up"


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer(SETTINGS)


@pytest.fixture
def client(server: InProcessServer) -> Client:
    """A client in a namespace of group 7."""
    client = Client(server)
    client.send("HELLO", "3")
    client.send("KV.NS", "CREATE", "ours", "REPLICATE", "GROUP", 7)
    assert client.send("KV.NS", "USE", "ours") == b"OK"
    return client


def listed(client: Client) -> dict[bytes, dict[bytes, Any]]:
    return {row[b"title"]: row for row in client.send("KV.NS", "LIST")}


# --- making and listing


def test_the_id_of_a_namespace_tells_its_group(client: Client) -> None:
    found = client.send(
        "KV.NS", "CREATE", "more", "MAXVALUE", 10, "REPLICATE", "GROUP", 7, "CONFLICTLOG", "NO"
    )
    assert group_of(bytes.fromhex(found.decode())) == 7
    row = listed(client)[b"more"]
    assert (row[b"replicate"], row[b"group"], row[b"carried"]) == (b"group", 7, 1)
    assert (row[b"maxvalue"], row[b"conflictlog"]) == (10, 0)


def test_other_namespaces_are_of_the_group_that_all_carry(client: Client) -> None:
    client.send("KV.NS", "CREATE", "common")
    client.send("KV.NS", "CREATE", "local", "REPLICATE", "NONE")
    rows = listed(client)
    assert (rows[b"common"][b"replicate"], rows[b"common"][b"group"]) == (b"all", 0)
    assert (rows[b"local"][b"replicate"], rows[b"local"][b"group"]) == (b"none", 0)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("REPLICATE", "GROUP"), "syntax error"),
        (("REPLICATE", "GROUP", "seven"), "not an integer"),
        (("REPLICATE", "GROUP", 0), "a group is a number"),
        (("REPLICATE", "GROUP", GROUP_MAX + 1), "a group is a number"),
        (("REPLICATE", "GROUP", 7, "REPLICATE", "ALL"), "syntax error"),
        (("REPLICATE", "NONE", "REPLICATE", "GROUP", 7), "syntax error"),
        (("REPLICATE", "GROUP", 7, "MAXVALUE"), "syntax error"),
        (("REPLICATE", "GROUP", 9), NOT_CARRIED),
    ],
)
def test_a_namespace_that_cannot_be_made_is_not_there(
    client: Client, words: tuple[object, ...], text: str
) -> None:
    assert text in error(client.send("KV.NS", "CREATE", "new", *words))
    assert b"new" not in listed(client)


def test_the_group_of_a_namespace_cannot_be_changed(client: Client) -> None:
    assert "syntax" in error(client.send("KV.NS", "POLICY", "ours", "REPLICATE", "GROUP", 7))


# --- what is not carried


def test_what_is_not_carried_is_known_by_its_title_and_nothing_else(
    server: InProcessServer, client: Client
) -> None:
    hear_of(server, "theirs", 9)
    row = listed(client)[b"theirs"]
    assert (row[b"replicate"], row[b"group"], row[b"carried"], row[b"keys"]) == (b"group", 9, 0, 0)
    assert NOT_CARRIED in error(client.send("KV.NS", "USE", "theirs"))
    client.send("SET", "still", "in ours")
    assert client.send("KV.NS", "RENAME", "theirs", "others") == b"OK"
    assert client.send("KV.NS", "POLICY", "others", "MAXVALUE", 5) == b"OK"
    assert listed(client)[b"others"][b"maxvalue"] == 5


def test_a_namespace_that_is_not_carried_is_not_deleted(server: InProcessServer, client: Client) -> None:
    hear_of(server, "theirs", 9)
    assert NOT_CARRIED in error(client.send("KV.NS", "DELETE", "theirs"))
    assert b"theirs" in listed(client)
    assert client.send("KV.NS", "DELETE", "ours") == b"OK"
    assert b"ours" not in listed(client)
    assert "does not exist" in error(client.send("GET", "key"))


def test_flushall_empties_what_is_carried(server: InProcessServer, client: Client) -> None:
    hear_of(server, "theirs", 9)
    client.send("SET", "key", "value")
    assert client.send("FLUSHALL") == b"OK"
    assert client.send("DBSIZE") == 0
    assert {b"ours", b"theirs"} <= set(listed(client))


def test_what_walks_over_all_namespaces_passes_those_by(server: InProcessServer, client: Client) -> None:
    hear_of(server, "theirs", 9)
    assert b"keyspace_hits" in client.send("INFO", "everything")
    assert client.send("CONFIG", "RESETSTAT") == b"OK"


# --- what is carried


def test_commands_work_as_in_any_other_namespace(client: Client) -> None:
    assert client.send("SET", "a", "1", "EX", 100) == b"OK"
    assert client.send("INCR", "a") == 2
    assert client.send("COPY", "a", "b") == 1
    assert client.send("RENAME", "b", "c") == b"OK"
    assert client.send("DBSIZE") == 2
    assert client.send("RANDOMKEY") in {b"a", b"c"}
    assert sorted(client.send("KEYS", "*")) == sorted(client.send("SCAN", 0)[1]) == [b"a", b"c"]
    assert [row[0] for row in client.send("KV.LIST")[1]] == [b"a", b"c"]
    assert client.send("KV.META", "a")[b"writer"] == client.server.store.node_id.hex().encode()
    assert client.send("EVAL", "return redis.call('get', KEYS[1])", 1, "a") == b"2"
    assert client.send("DEL", "a", "c") == 2
    client.send("SELECT", 0)
    assert client.send("DBSIZE") == 0


def test_a_transaction_holds_over_two_groups(client: Client) -> None:
    client.send("WATCH", "a")
    client.send("MULTI")
    client.send("SET", "a", "1")
    client.send("SELECT", 3)
    client.send("SET", "b", "2")
    assert client.send("EXEC") == [b"OK"] * 3
    assert client.send("GET", "b") == b"2"
    client.send("KV.NS", "USE", "ours")
    assert client.send("GET", "a") == b"1"


def test_watch_sees_a_change(client: Client) -> None:
    client.send("WATCH", "a")
    other = Client(client.server)
    other.send("KV.NS", "USE", "ours")
    other.send("SET", "a", "theirs")
    client.send("MULTI")
    client.send("SET", "a", "ours")
    assert client.send("EXEC") is None
    assert client.send("GET", "a") == b"theirs"


def test_a_client_that_tracks_is_told_of_changes(client: Client) -> None:
    client.send("CLIENT", "TRACKING", "ON")
    client.send("GET", "a")
    other = Client(client.server)
    other.send("KV.NS", "USE", "ours")
    other.send("SET", "a", "1")
    assert client.next() == [b"invalidate", [b"a"]]


# --- what is not all here yet


def closed(client: Client, *request: object) -> bool:
    return error(client.send(*request)).startswith(f"LOADING {WHY}; ")


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "a"),
        ("SET", "a", "2"),
        ("DEL", "a"),
        ("KEYS", "*"),
        ("SCAN", 0),
        ("DBSIZE",),
        ("RANDOMKEY",),
        ("FLUSHDB",),
        ("FLUSHALL",),
        ("KV.LIST",),
        ("KV.META", "a"),
        ("WATCH", "a"),
        ("EVAL", "return redis.call('get', KEYS[1])", 1, "a"),
        ("EVAL", "return redis.call('get', 'a')", 0),
        ("KV.NS", "DELETE", "ours"),
    ],
)
def test_a_group_that_is_not_all_here_is_neither_read_nor_written(
    server: InProcessServer, client: Client, request_: tuple[object, ...]
) -> None:
    client.send("SET", "a", "1")
    assert client.raw(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n") == b"$1\r\n1\r\n"  # it is cached now
    server.close_groups({7: WHY})
    assert WHY in error(client.send(*request_))
    server.close_groups({})
    assert client.send("GET", "a") == b"1"


def test_other_namespaces_work_meanwhile(server: InProcessServer, client: Client) -> None:
    server.close_groups({7: WHY})
    assert client.send("PING") == b"PONG"
    assert client.send("SELECT", 0) == b"OK"
    assert client.send("SET", "a", "common") == b"OK"
    assert client.send("GET", "a") == b"common"
    assert closed(client, "KV.NS", "USE", "ours")
    assert client.send("GET", "a") == b"common"
    assert b"ours" in listed(client)
    client.send("RESET")
    assert client.send("GET", "a") == b"common"


def test_a_session_that_was_there_before_leaves_its_fast_path_and_finds_it_again(
    server: InProcessServer, client: Client
) -> None:
    client.send("SET", "a", "1")
    assert b"GET" in client.session.plain
    server.close_groups({7: WHY})
    assert b"GET" not in client.session.plain
    assert client.raw(encode("GET", "a"), encode("SELECT", "0"), encode("GET", "a")) == (
        b"-LOADING %b; try again later, or use another node that carries it\r\n+OK\r\n_\r\n" % WHY.encode()
    )
    assert b"GET" in client.session.plain  # in database 0
    server.close_groups({})
    client.send("KV.NS", "USE", "ours")
    assert b"GET" in client.session.plain


def test_a_transaction_that_was_queued_before_is_refused(server: InProcessServer, client: Client) -> None:
    client.send("MULTI")
    client.send("SET", "a", "1")
    client.send("SELECT", 0)
    client.send("SET", "a", "1")
    server.close_groups({7: WHY})
    first, second, third = client.send("EXEC")
    assert WHY in error(first)
    assert (second, third) == (b"OK", b"OK")


def test_a_transaction_begun_there_is_discarded(server: InProcessServer, client: Client) -> None:
    server.close_groups({7: WHY})
    client.send("MULTI")
    assert closed(client, "SET", "a", "1")
    assert error(client.send("EXEC")).startswith("EXECABORT")


def test_every_command_that_touches_a_namespace_is_known_to_do_so(server: InProcessServer) -> None:
    """Of the commands that read or write without naming keys, these are about no namespace, or about all."""
    elsewhere = {
        spec.name
        for spec in server.table.everything()
        if spec.flags & (Flag.READONLY | Flag.WRITE) and not is_in_namespace(spec)
    }
    assert elsewhere == {
        "FLUSHALL",
        "SWAPDB",
        "KV.NS|CREATE",
        "KV.NS|LIST",
        "KV.NS|RENAME",
        "KV.NS|POLICY",
        "KV.NS|DELETE",
        "KV.TOKEN",
        "KV.SYNCTO",
        "KV.CONFLICTS",
        "LOLWUT",
    }
