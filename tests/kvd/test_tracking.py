"""Client-side caching: who is told of what, in which order, and that the table stays bounded.

What a client sees in each mode is compared with redis-server in test_sessions_against_redis.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from kvd.settings import Settings
from storage.errors import NoSpace
from tests.kvd.harness import Client, InProcessServer, encode, error, tick


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


def tracked(server: InProcessServer, *options: object) -> Client:
    client = Client(server)
    client.send("HELLO", 3)
    assert client.send("CLIENT", "TRACKING", "ON", *options) == b"OK"
    return client


def heard(client: Client) -> list[Any]:
    found = []
    while message := client.next():
        found.append(message)
    return found


def test_an_invalidation_follows_the_writers_own_reply(server: InProcessServer) -> None:
    client = tracked(server)
    raw = client.raw(encode("GET", "k"), encode("SET", "k", "1"), encode("PING"))
    assert raw == b"_\r\n+OK\r\n+PONG\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"


def test_a_commit_that_fails_invalidates_nothing(server: InProcessServer) -> None:
    client = tracked(server)
    client.send("GET", "k")
    server.engine.fail_next(NoSpace("memory"))
    assert error(Client(server).send("SET", "k", "1"))
    assert heard(client) == []
    server.store.probe()
    Client(server).send("SET", "k", "1")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_own_writes_of_a_failed_tick_do_not_hide_those_of_others(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    client.send("GET", "k")
    server.engine.fail_next(NoSpace("memory"))
    client.send("SET", "other", "1")
    server.store.probe()
    Client(server).send("SET", "k", "1")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_who_wrote_is_told_apart_within_one_tick(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    other = Client(server)
    client.send("MGET", "mine", "theirs")
    requests = [(client, "SET", "mine"), (other, "SET", "theirs"), (client, "SET", "mine")]
    tick(server, *((one.session, encode(name, key, "1")) for one, name, key in requests))
    assert heard(client) == [b"OK", b"OK", [b"invalidate", [b"theirs"]]]


def test_what_is_read_behind_ones_own_write_is_told_of_later(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    client.raw(encode("SET", "k", "1"), encode("GET", "k"), encode("SET", "gone", "1"))
    assert heard(client) == []
    Client(server).send("MSET", "k", "2", "gone", "2")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_what_is_read_behind_a_write_is_not_void_with_it(server: InProcessServer) -> None:
    client, other = tracked(server), Client(server)
    write = encode("SET", "k", "1")
    tick(server, (other.session, write), (client.session, encode("GET", "k") + write + encode("PING")))
    assert heard(client) == [b"1", b"OK", b"PONG", [b"invalidate", [b"k"]]]
    client.raw(encode("MULTI"), encode("SET", "k", "2"), encode("GET", "k"), encode("EXEC"))
    assert heard(client) == []
    other.send("SET", "k", "3")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_what_was_read_before_a_write_is_void_though_read_again_behind_it(server: InProcessServer) -> None:
    for options in ((), ("NOLOOP",)):
        client = tracked(server, *options)
        client.send("GET", "k")
        tick(
            server, (Client(server).session, encode("SET", "k", "1")), (client.session, encode("STRLEN", "k"))
        )
        assert heard(client) == [1, [b"invalidate", [b"k"]]]


def test_what_is_read_between_two_own_writes_is_not_held_any_more(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    client.raw(encode("SET", "k", "1"), encode("GET", "k"), encode("SET", "k", "2"))
    Client(server).send("SET", "k", "3")
    assert heard(client) == []


def test_what_is_read_in_a_transaction_that_has_written_it_is_told_of_later(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    client.raw(encode("MULTI"), encode("SET", "k", "1"), encode("GET", "k"), encode("EXEC"))
    Client(server).send("SET", "k", "2")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_reads_of_a_failed_tick_say_nothing_about_the_next(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    server.engine.fail_next(NoSpace("memory"))
    client.raw(encode("SET", "a", "1"), encode("SET", "b", "1"), encode("GET", "k"))
    server.store.probe()
    client.send("SET", "k", "1")
    Client(server).send("SET", "k", "2")
    assert heard(client) == []


def test_a_broadcast_names_every_key_of_the_tick_once(server: InProcessServer) -> None:
    client = tracked(server, "BCAST", "PREFIX", "a", "PREFIX", "b")
    other = Client(server)
    other.raw(*(encode("SET", key, "1") for key in ("a1", "b1", "a2", "a1", "c")))
    messages = heard(client)
    assert sorted(messages, key=lambda message: message[1]) == [
        [b"invalidate", [b"a1", b"a2"]],
        [b"invalidate", [b"b1"]],
    ]


def test_the_last_writer_of_a_key_counts_in_a_broadcast(server: InProcessServer) -> None:
    client = tracked(server, "BCAST", "NOLOOP")
    other = Client(server)
    for writers, expected in (
        ((client, other), [[b"invalidate", [b"k"]]]),
        ((other, client), []),
    ):
        tick(server, *((writer.session, encode("SET", "k", "1")) for writer in writers))
        assert [message for message in heard(client) if message != b"OK"] == expected


def test_flushing_is_told_once_however_many_keyspaces_it_covers(server: InProcessServer) -> None:
    client = tracked(server)
    client.send("GET", "k")
    Client(server).send("FLUSHALL")
    assert heard(client) == [[b"invalidate", None]]
    assert server.tracking.key_count == 0


def test_deleting_a_namespace_voids_every_cache(server: InProcessServer) -> None:
    client = tracked(server)
    other = Client(server)
    other.send("KV.NS", "CREATE", "books")
    heard(client)
    other.send("KV.NS", "DELETE", "books")
    assert heard(client) == [[b"invalidate", None]]


def test_a_key_that_expires_is_told_by_the_sweep(server: InProcessServer) -> None:
    client = tracked(server)
    broadcast = tracked(server, "BCAST", "PREFIX", "k")
    Client(server).send("SET", "k", "1", "PX", "100")
    client.send("GET", "k")
    heard(broadcast)
    server.clock.advance(1000)
    server.store.begin(server.clock.now_ms)
    server.store.sweep(100)
    server.notifications.deliver()
    assert heard(client) == [[b"invalidate", [b"k"]]]
    assert heard(broadcast) == [[b"invalidate", [b"k"]]]


def _with_table_of(keys: int) -> InProcessServer:
    settings = Settings()
    events = attrs.evolve(settings.events, tracking_table_max_keys=keys)
    return InProcessServer(attrs.evolve(settings, events=events))


def test_a_full_table_invalidates_what_was_read_first() -> None:
    server = _with_table_of(10)
    client = tracked(server)
    client.send("MGET", *(f"k{number}" for number in range(10)))
    assert heard(client) == []
    tracked(server).send("MGET", "k10", "k11")
    assert server.tracking.key_count == 10
    assert heard(client) == [[b"invalidate", [b"k0"]], [b"invalidate", [b"k1"]]]


def test_readers_that_have_gone_do_not_fill_the_table() -> None:
    server = _with_table_of(10)
    keeper = tracked(server)
    for _ in range(200):
        client = tracked(server)
        client.send("MGET", *(f"k{number}" for number in range(10)))
        client.close()
    assert server.tracking.reader_count <= 40
    assert server.tracking.session_count == 1
    keeper.close()
    assert server.tracking.key_count == server.tracking.reader_count == 0
    assert not server.tracking.active


def test_the_count_of_readers_is_kept_right(server: InProcessServer) -> None:
    clients = [tracked(server) for _ in range(3)]
    for client in clients:
        client.send("MGET", "a", "b")
        client.send("GET", "a")
    assert (server.tracking.key_count, server.tracking.reader_count) == (2, 6)
    Client(server).send("DEL", "a", "b")
    assert (server.tracking.key_count, server.tracking.reader_count) == (2, 6)  # neither was there
    Client(server).send("MSET", "a", "1", "b", "2")
    assert (server.tracking.key_count, server.tracking.reader_count) == (0, 0)


def test_prefixes_of_a_session_that_ends_are_forgotten(server: InProcessServer) -> None:
    first = tracked(server, "BCAST", "PREFIX", "a")
    second = tracked(server, "BCAST", "PREFIX", "a")
    first.close()
    Client(server).send("SET", "a", "1")
    assert heard(second) == [[b"invalidate", [b"a"]]]
    second.send("CLIENT", "TRACKING", "OFF")
    assert not server.tracking._prefixes


def test_switching_to_other_options_replaces_the_ones_before(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    client.send("CLIENT", "TRACKING", "ON")
    client.send("GET", "k")
    client.send("SET", "k", "1")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_switching_options_forgets_no_key_that_was_read(server: InProcessServer) -> None:
    client = tracked(server)
    client.send("GET", "k")
    client.send("CLIENT", "TRACKING", "ON")
    Client(server).send("SET", "k", "1")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_keys_that_are_too_long_to_exist_are_not_remembered(server: InProcessServer) -> None:
    client = tracked(server)
    assert client.send("GET", "x" * 100_000) is None
    assert server.tracking.key_count == 0


def test_too_many_prefixes_are_refused(server: InProcessServer) -> None:
    client = Client(server)
    prefixes = [word for number in range(1001) for word in ("PREFIX", f"p{number}:")]
    assert "cannot track more than" in error(client.send("CLIENT", "TRACKING", "ON", "BCAST", *prefixes))


def test_a_prefix_that_no_key_can_have_is_refused(server: InProcessServer) -> None:
    client = Client(server)
    longest = server.store.limits.key_bytes_max
    refused = error(client.send("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", b"x" * (longest + 1)))
    assert "longer than a key may be" in refused
    assert client.send("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", b"x" * longest) == b"OK"


def test_reset_and_resp2_tracking_stop_the_messages(server: InProcessServer) -> None:
    client = tracked(server)
    client.send("GET", "k")
    client.send("HELLO", 2)
    Client(server).send("SET", "k", "1")
    assert heard(client) == []
    client.send("RESET")
    assert not server.tracking.active
    assert client.session.tracking is None


def test_keys_that_scripts_read_belong_to_the_caller(server: InProcessServer) -> None:
    client = tracked(server)
    client.send("EVAL", "return redis.call('get', KEYS[1])", 1, "k")
    Client(server).send("SET", "k", "1")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_writes_of_ones_own_script_are_ones_own(server: InProcessServer) -> None:
    client = tracked(server, "NOLOOP")
    client.send("GET", "k")
    assert client.send("EVAL", "return redis.call('incr', KEYS[1])", 1, "k") == 1
    assert heard(client) == []


def test_what_caching_said_covers_a_whole_script(server: InProcessServer) -> None:
    client = tracked(server, "OPTIN")
    read_both = encode("EVAL", "return {redis.call('get', KEYS[1]), redis.call('get', KEYS[2])}", 2, "k", "l")
    client.raw(encode("CLIENT", "CACHING", "YES"), read_both)
    client.raw(encode("GET", "m"))
    Client(server).send("MSET", "k", "1", "l", "1", "m", "1")
    assert heard(client) == [[b"invalidate", [b"k"]], [b"invalidate", [b"l"]]]


@pytest.mark.parametrize("refused", [("NOSUCH",), ("GET",), ("EXEC", "x"), ("SET", "k", "1", "NX", "XX")])
def test_what_caching_said_is_over_with_a_refused_command(
    server: InProcessServer, refused: tuple[str, ...]
) -> None:
    """Otherwise a client that has cached the next key would never hear of it."""
    client = tracked(server, "OPTOUT")
    client.raw(encode("CLIENT", "CACHING", "NO"), encode(*refused), encode("GET", "k"))
    Client(server).send("SET", "k", "1")
    assert heard(client) == [[b"invalidate", [b"k"]]]


def test_what_caching_said_covers_a_transaction(server: InProcessServer) -> None:
    client = tracked(server, "OPTOUT")
    client.raw(encode("CLIENT", "CACHING", "NO"), encode("MULTI"), encode("GET", "k"), encode("EXEC"))
    client.raw(encode("CLIENT", "CACHING", "NO"), encode("MULTI"), encode("NOSUCH"), encode("EXEC"))
    client.send("GET", "l")
    Client(server).send("MSET", "k", "1", "l", "1")
    assert heard(client) == [[b"invalidate", [b"l"]]]
