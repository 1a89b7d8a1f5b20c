"""MULTI, EXEC and WATCH: what one transaction is, to other clients and to the store.

The conversation itself is compared with redis-server in test_sessions_against_redis.
"""

from __future__ import annotations

import pytest

from kvd.commands import lookup, transactions
from storage.errors import NoSpace
from tests.kvd.harness import Client, InProcessServer, encode, error, tick


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


def test_writes_of_a_transaction_share_one_clock_value(server: InProcessServer) -> None:
    client = Client(server)
    client.raw(encode("MULTI"), encode("SET", "a", "1"), encode("SET", "b", "2"), encode("INCR", "a"))
    assert client.send("EXEC") == [b"OK", b"OK", 2]
    keyspace = server.store.keyspace(0)
    stamps = []
    for key in (b"a", b"b"):
        record = keyspace.get(key)
        assert record is not None
        assert record[3] is not None
        version = server.store.describe(record[3])
        stamps.append((version.ms, version.counter))
    assert stamps[0] == stamps[1]


def test_a_failed_commit_fails_the_whole_transaction(server: InProcessServer) -> None:
    client = Client(server)
    client.send("SET", "a", "before")
    server.engine.fail_next(NoSpace("memory"))
    requests = [encode("MULTI"), encode("SET", "a", "1"), encode("SET", "b", "2"), encode("EXEC")]
    replies = client.raw(*requests).split(b"\r\n")
    assert replies[:3] == [b"+OK", b"+QUEUED", b"+QUEUED"]
    assert replies[3].startswith(b"-MISCONF")
    assert client.send("GET", "a") == b"before"
    assert client.send("EXISTS", "b") == 0


def test_exec_is_refused_while_nothing_can_be_written(server: InProcessServer) -> None:
    client = Client(server)
    client.raw(encode("MULTI"), encode("SET", "a", "1"))
    server.store.writable = NoSpace("memory")
    server.refresh_plain()
    text = error(client.send("EXEC"))
    assert text.startswith("EXECABORT Transaction discarded because of: MISCONF")
    assert client.session.transaction is None
    client.raw(encode("MULTI"), encode("GET", "a"))
    assert client.send("EXEC") == [None]


def test_a_watched_key_changed_by_another_in_the_same_tick_counts(server: InProcessServer) -> None:
    client, other = Client(server), Client(server)
    client.raw(encode("WATCH", "k"), encode("MULTI"), encode("GET", "k"))
    tick(server, (other.session, encode("SET", "k", "1")), (client.session, encode("EXEC")))
    assert client.next() is None


def test_a_watched_key_that_expires_counts(server: InProcessServer) -> None:
    client = Client(server)
    client.send("SET", "k", "1", "PX", "100")
    client.send("WATCH", "k")
    server.clock.advance(1000)
    client.raw(encode("MULTI"), encode("PING"))
    assert client.send("EXEC") is None


def test_an_expired_key_that_is_swept_while_watched_has_not_changed(server: InProcessServer) -> None:
    client = Client(server)
    client.send("SET", "k", "1", "PX", "100")
    server.clock.advance(1000)
    client.send("WATCH", "k")
    server.store.begin(server.clock.now_ms)
    server.store.sweep(100)
    client.raw(encode("MULTI"), encode("PING"))
    assert client.send("EXEC") == [b"PONG"]


def test_a_key_deleted_and_set_back_while_watched_has_changed(server: InProcessServer) -> None:
    client, other = Client(server), Client(server)
    client.send("SET", "k", "same")
    client.send("WATCH", "k")
    other.raw(encode("DEL", "k"), encode("SET", "k", "same"))
    client.raw(encode("MULTI"), encode("PING"))
    assert client.send("EXEC") is None


def test_watching_is_of_the_database_that_was_selected(server: InProcessServer) -> None:
    client, other = Client(server), Client(server)
    client.raw(encode("SELECT", 2), encode("WATCH", "k"), encode("SELECT", 0))
    other.raw(encode("SET", "k", "in 0"))
    client.raw(encode("MULTI"), encode("PING"))
    assert client.send("EXEC") == [b"PONG"]
    client.raw(encode("SELECT", 2), encode("WATCH", "k"), encode("SELECT", 0))
    other.raw(encode("SELECT", 2), encode("SET", "k", "in 2"))
    client.raw(encode("MULTI"), encode("PING"))
    assert client.send("EXEC") is None


def test_a_namespace_deleted_while_watched_ends_the_transaction(server: InProcessServer) -> None:
    client, other = Client(server), Client(server)
    client.raw(encode("KV.NS", "CREATE", "books"), encode("KV.NS", "USE", "books"), encode("WATCH", "k"))
    other.send("KV.NS", "DELETE", "books")
    client.raw(encode("MULTI"), encode("PING"))
    client.send("EXEC")
    assert client.session.transaction is None
    assert not client.session.watched


def test_watched_keys_are_bounded(server: InProcessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "WATCHED_KEYS_MAX", 10)
    client = Client(server)
    for _ in range(20):
        assert client.send("WATCH", "a") == b"OK"
    assert "cannot watch more than 10 keys" in error(client.send("WATCH", *(f"k{n}" for n in range(10))))
    assert len(client.session.watched) == 1
    assert "exceeds the limit" in error(client.send("WATCH", "x" * 5000))


def test_the_replies_of_a_transaction_are_bounded(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "TOTAL_BYTES_MAX", 3 << 20)
    client = Client(server)
    value = b"x" * (1 << 20)
    client.send("MSET", "k", value, "other", value)
    client.raw(encode("MULTI"), *[encode("GET", "k")] * 4, encode("GETDEL", "other"), encode("INCR", "n"))
    first, second, *too_large, last = client.send("EXEC")
    assert first == second == value
    told = "ERR done, but the replies of the transaction are larger than 3 MiB together"
    assert [error(one) for one in too_large] == [told] * 3
    assert last == 1
    assert client.send("EXISTS", "other") == 0


def test_replies_of_a_transaction_are_of_the_protocol_that_is_spoken(server: InProcessServer) -> None:
    client = Client(server)
    client.raw(
        encode("MULTI"), encode("CONFIG", "GET", "port"), encode("GET", "missing"), encode("HELLO", "3")
    )
    replies = client.raw(encode("EXEC"))
    assert replies.startswith(b"*3\r\n*2\r\n$4\r\nport\r\n")
    assert b"$-1\r\n%" in replies


def test_an_error_of_one_request_does_not_stop_the_others(server: InProcessServer) -> None:
    client = Client(server)
    client.raw(encode("MULTI"), encode("SET", "a", "x"), encode("INCR", "a"), encode("SET", "b", "y"))
    first, second, third = client.send("EXEC")
    assert (first, third) == (b"OK", b"OK")
    assert error(second) == "ERR value is not an integer or out of range"


def test_a_session_that_ends_in_a_transaction_has_done_nothing(server: InProcessServer) -> None:
    client = Client(server)
    client.raw(encode("MULTI"), encode("SET", "a", "1"))
    client.close()
    assert Client(server).send("GET", "a") is None


def test_plain_commands_are_plain_again_after_a_transaction(server: InProcessServer) -> None:
    client = Client(server)
    for end in ("EXEC", "DISCARD"):
        client.send("MULTI")
        assert not client.session.plain
        client.send(end)
        assert client.session.plain
    client.raw(encode("MULTI"), encode("NOSUCH"))
    assert error(client.send("EXEC")).startswith("EXECABORT")
    assert client.session.plain


def test_what_would_wait_does_not_wait_in_a_transaction(server: InProcessServer) -> None:
    client = Client(server)
    client.raw(encode("MULTI"), encode("WAIT", 1, 0), encode("SET", "a", "1"))
    assert client.send("EXEC") == [0, b"OK"]
