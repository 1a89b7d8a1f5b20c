"""CLIENT: describing, naming, closing, pausing and unblocking connections."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import hiredis
import pytest
import trio
import trio.testing

from tests.kvd.harness import Client, InProcessServer, encode, error

REDIS_FIELDS = (
    "id addr laddr fd name age idle flags db sub psub ssub multi qbuf qbuf-free argv-mem multi-mem rbs rbp "
    "obl oll omem tot-mem events cmd user redir resp lib-name lib-ver"
).split()


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Client:
    return Client(server)


class FakeTransport:
    """A connection that notes how it was closed."""

    fd = 17
    unsent_bytes = 0
    unsent_count = 0

    def __init__(self, client: Client) -> None:
        self.closed_because: str | None = None
        self._session = client.session
        client.session.transport = self

    def close(self, reason: str) -> None:
        self.closed_because = reason
        self._session.end()


def described(client: Client) -> dict[str, str]:
    line = client.send("CLIENT", "INFO").decode()
    assert line.endswith("\n")
    return dict(field.split("=", 1) for field in line.rstrip("\n").split(" "))


# --- describing


def test_a_line_has_the_fields_of_redis_in_its_order(client: Client) -> None:
    assert list(described(client)) == REDIS_FIELDS


def test_a_line_says_who_and_where(server: InProcessServer) -> None:
    client = Client(server, "10.0.0.7:5555")
    FakeTransport(client)
    client.send("SELECT", 3)
    client.send("CLIENT", "SETNAME", "worker")
    client.send("CLIENT", "SETINFO", "lib-name", "redis-py")
    client.send("CLIENT", "SETINFO", "LIB-VER", "8.1.0")
    line = described(client)
    assert line["addr"] == "10.0.0.7:5555"
    assert line["laddr"] == "127.0.0.1:6379"
    assert (line["fd"], line["db"], line["name"], line["user"]) == ("17", "3", "worker", "default")
    assert (line["lib-name"], line["lib-ver"]) == ("redis-py", "8.1.0")
    assert (line["resp"], line["cmd"], line["redir"]) == ("2", "client|info", "-1")


def test_age_and_idle_are_seconds_of_the_tick_s_clock(server: InProcessServer, client: Client) -> None:
    other = Client(server)
    other.session.connected_at_ms = server.clock.now_ms
    server.clock.advance(30_000)
    other.send("PING")
    server.clock.advance(90_000)
    line = client.send("CLIENT", "LIST", "ID", other.session.id)
    assert b" age=120 idle=90 " in line


@pytest.mark.parametrize(
    ("requests", "letters"),
    [
        ((), "N"),
        ((("MULTI",),), "x"),
        ((("HELLO", 3), ("SUBSCRIBE", "channel")), "P"),
        ((("HELLO", 3), ("CLIENT", "TRACKING", "ON", "BCAST")), "tB"),
        ((("CLIENT", "NO-EVICT", "ON"), ("CLIENT", "NO-TOUCH", "ON")), "eT"),
        ((("MONITOR",),), "O"),
    ],
)
def test_flags_say_what_is_special(
    server: InProcessServer, requests: tuple[tuple[object, ...], ...], letters: str
) -> None:
    watched, watcher = Client(server), Client(server)
    for request in requests:
        watched.send(*request)
    line = watcher.send("CLIENT", "LIST", "ID", watched.session.id).decode()
    assert f" flags={letters} " in line


def test_queued_commands_are_counted(server: InProcessServer, client: Client) -> None:
    client.send("MULTI")
    client.send("SET", "key", "x" * 100)
    line = Client(server).send("CLIENT", "LIST", "ID", client.session.id)
    assert b" multi=1 " in line
    assert b" multi-mem=354 " in line  # 106 bytes of arguments, and the objects that hold them


def test_list_selects_by_id_and_by_type(server: InProcessServer, client: Client) -> None:
    subscriber = Client(server)
    subscriber.send("SUBSCRIBE", "channel")
    ids = (client.session.id, subscriber.session.id)
    everybody = client.send("CLIENT", "LIST").decode()
    assert [f"id={each} " in everybody for each in ids] == [True, True]
    by_type = client.send("CLIENT", "LIST", "TYPE", "PubSub").decode()
    assert by_type.startswith(f"id={subscriber.session.id} ")
    assert by_type.count("\n") == 1
    by_id = client.send("CLIENT", "LIST", "ID", *ids, 99999).decode()
    assert by_id.count("\n") == 2


def test_who_has_not_logged_in_is_listed_as_the_default_user(server: InProcessServer) -> None:
    admin, stranger = Client(server), Client(server)
    stranger.session.become(None)
    assert b" user=default " in admin.send("CLIENT", "LIST", "ID", stranger.session.id)


def test_ids_are_never_used_twice(server: InProcessServer) -> None:
    first = Client(server)
    first_id = first.send("CLIENT", "ID")
    first.close()
    assert Client(server).send("CLIENT", "ID") > first_id


# --- names


def test_a_name_is_kept_until_it_is_taken_away(client: Client) -> None:
    assert client.send("CLIENT", "GETNAME") is None
    client.send("CLIENT", "SETNAME", "one")
    assert client.send("CLIENT", "GETNAME") == b"one"
    client.send("CLIENT", "SETNAME", "")
    assert client.send("CLIENT", "GETNAME") is None


@pytest.mark.parametrize("name", ["a b", "a\n", "a\x7f", "é", "\x00", "x" * 2000])
def test_a_name_that_would_break_the_list_is_refused(client: Client, name: str) -> None:
    assert "Client names cannot contain spaces" in error(client.send("CLIENT", "SETNAME", name))


def test_setinfo_takes_name_and_version_and_nothing_else(client: Client) -> None:
    assert client.send("CLIENT", "SETINFO", "LIB-NAME", "lib") == b"OK"
    assert error(client.send("CLIENT", "SETINFO", "FOO", "x")) == "ERR Unrecognized option 'FOO'"
    expected = "ERR lib-ver cannot contain spaces, newlines or special characters."
    assert error(client.send("CLIENT", "SETINFO", "lib-ver", "a b")) == expected
    assert error(client.send("CLIENT", "SETINFO", "lib-ver", "x" * 2000)) == expected


# --- KILL


def test_killing_by_address_closes_that_one_at_once(server: InProcessServer, client: Client) -> None:
    victim, bystander = Client(server, "10.0.0.1:1000"), Client(server, "10.0.0.2:1000")
    transports = FakeTransport(victim), FakeTransport(bystander)
    assert client.send("CLIENT", "KILL", "10.0.0.1:1000") == b"OK"
    assert [each.closed_because for each in transports] == ["killed", None]
    assert victim.session.id not in server.sessions


def test_filters_must_all_apply(server: InProcessServer, client: Client) -> None:
    subscriber = Client(server, "10.0.0.1:1000")
    subscriber.send("SUBSCRIBE", "channel")
    FakeTransport(subscriber)
    kill = ("CLIENT", "KILL", "TYPE", "pubsub", "ADDR")
    assert client.send(*kill, "10.0.0.9:1") == 0
    assert client.send(*kill, "10.0.0.1:1000") == 1


@pytest.mark.parametrize(
    "filters",
    [
        lambda victim: ("ID", victim.session.id),
        lambda victim: ("USER", "default"),
        lambda victim: ("TYPE", "normal"),
        lambda victim: ("LADDR", "127.0.0.1:6379"),
    ],
)
def test_the_caller_is_spared_unless_it_says_otherwise(
    server: InProcessServer, client: Client, filters: Callable[[Client], tuple[object, ...]]
) -> None:
    victim = Client(server)
    FakeTransport(victim)
    assert client.send("CLIENT", "KILL", *filters(victim)) == 1
    assert not client.session.closing


def test_killing_oneself_answers_first(client: Client) -> None:
    transport = FakeTransport(client)
    assert client.send("CLIENT", "KILL", "ID", client.session.id, "SKIPME", "no") == 1
    assert client.session.closing
    assert transport.closed_because is None  # its driver closes it when the answer is out


def test_killing_a_waiting_client_ends_its_wait(server: InProcessServer, client: Client) -> None:
    waiter = Client(server)
    FakeTransport(waiter)
    waiter.send("WAIT", 1, 0)
    assert waiter.session.suspended
    assert client.send("CLIENT", "KILL", "ID", waiter.session.id) == 1
    assert not waiter.session.suspended


# --- REPLY


def test_replies_can_be_switched_off_and_on(client: Client) -> None:
    assert client.raw(encode("CLIENT", "REPLY", "OFF"), encode("SET", "a", 1), encode("PING")) == b""
    assert client.raw(encode("CLIENT", "REPLY", "SKIP"), encode("PING")) == b""
    assert client.raw(encode("CLIENT", "REPLY", "ON")) == b"+OK\r\n"
    assert client.send("GET", "a") == b"1"


def test_one_reply_can_be_skipped(client: Client) -> None:
    output = client.raw(encode("CLIENT", "REPLY", "SKIP"), encode("SET", "a", 1), encode("GET", "a"))
    assert output == b"$1\r\n1\r\n"


# --- PAUSE


def is_waiting(client: Client) -> bool:
    return client.session.suspended


async def test_a_pause_holds_everybody_until_it_ends(
    server: InProcessServer, client: Client, nursery: trio.Nursery
) -> None:
    server.spawn = nursery.start_soon
    other = Client(server)
    assert client.send("CLIENT", "PAUSE", 100_000_000_000_000) == b"OK"
    assert other.send("GET", "key") is False
    assert is_waiting(other)
    assert client.send("CLIENT", "UNPAUSE") == b"OK"
    assert not is_waiting(other)
    other.session.run_backlog()
    assert other.next() is None


async def test_a_pause_of_writes_lets_reads_through(
    server: InProcessServer, client: Client, nursery: trio.Nursery
) -> None:
    server.spawn = nursery.start_soon
    client.send("CLIENT", "PAUSE", 100_000, "write")
    assert client.send("GET", "key") is None
    assert client.send("SET", "key", 1) is False
    assert client.session.suspended
    Client(server).send("CLIENT", "UNPAUSE")
    client.session.run_backlog()
    assert client.next() == b"OK"


@pytest.mark.parametrize(
    ("queued", "waits"),
    [
        (("GET", "key"), False),
        (("SET", "key", 1), True),
        (("PUBLISH", "ch", "x"), True),
        (("EVAL", "return 1", 0), True),
        (("EVAL_RO", "return 1", 0), False),
    ],
    ids=str,
)
async def test_a_transaction_waits_for_a_pause_of_writes_if_one_of_its_commands_would(
    server: InProcessServer, client: Client, nursery: trio.Nursery, queued: tuple[object, ...], waits: bool
) -> None:
    server.spawn = nursery.start_soon
    client.send("CLIENT", "PAUSE", 100_000, "WRITE")
    assert "EXEC without MULTI" in error(client.send("EXEC"))
    client.raw(encode("MULTI"), encode("GET", "key"), encode(*queued))
    replies = client.send("EXEC")
    assert is_waiting(client) is waits
    Client(server).send("CLIENT", "UNPAUSE")
    client.session.run_backlog()
    assert len(client.next() if waits else replies) == 2


_WRITES_NOTHING = "#!lua flags=no-writes\nreturn redis.call('GET', 'key')"


async def test_a_pause_of_writes_lets_transactions_and_scripts_through_that_only_read(
    server: InProcessServer, client: Client, nursery: trio.Nursery
) -> None:
    server.spawn = nursery.start_soon
    digest = client.send("SCRIPT", "LOAD", _WRITES_NOTHING)
    client.send("CLIENT", "PAUSE", 100_000, "WRITE")
    assert client.send("EVAL", _WRITES_NOTHING, 0) is None
    assert client.send("EVALSHA", digest, 0) is None
    for request in (["MULTI"], ["GET", "key"], ["EVALSHA", digest, 0]):
        client.send(*request)
    assert client.send("EXEC") == [None, None]
    assert error(client.send("EXEC")) == "ERR EXEC without MULTI"
    client.send("CLIENT", "UNPAUSE")


@pytest.mark.parametrize(
    "request_",
    [
        ("EVAL", "return 1", 0),
        ("EVAL", "#!lua\nreturn 1", 0),
        ("EVAL", "#!lua flags=nonsense\nreturn 1", 0),
        ("EVALSHA", "0" * 40, 0),
    ],
)
async def test_a_pause_of_writes_holds_scripts_and_transactions_that_may_write(
    server: InProcessServer, client: Client, nursery: trio.Nursery, request_: tuple[str | int, ...]
) -> None:
    server.spawn = nursery.start_soon
    client.send("CLIENT", "PAUSE", 100_000, "WRITE")
    assert client.send(*request_) is False
    assert is_waiting(client)
    other = Client(server)
    other.send("MULTI")
    assert other.send(*request_) == b"QUEUED"
    assert other.send("EXEC") is False
    assert is_waiting(other)
    Client(server).send("CLIENT", "UNPAUSE")


async def test_a_reply_that_is_to_be_skipped_is_skipped_after_the_pause(
    server: InProcessServer, client: Client, nursery: trio.Nursery
) -> None:
    server.spawn = nursery.start_soon
    other = Client(server)
    other.send("CLIENT", "REPLY", "SKIP")
    client.send("CLIENT", "PAUSE", 100_000)
    other.raw(encode("SET", "key", 1), encode("GET", "key"))
    client.send("CLIENT", "UNPAUSE")
    other.session.run_backlog()
    assert other.session.take_output() == b"$1\r\n1\r\n"


async def test_a_client_that_leaves_during_a_pause_is_forgotten(
    server: InProcessServer, client: Client, nursery: trio.Nursery
) -> None:
    server.spawn = nursery.start_soon
    client.send("CLIENT", "PAUSE", 100_000)
    other = Client(server)
    other.send("SET", "key", 1)
    gone = weakref.ref(other.session)
    other.close()
    del other
    gc.collect()
    assert gone() is None
    client.send("CLIENT", "UNPAUSE")
    assert client.send("GET", "key") is None


async def test_pausing_again_only_widens(
    server: InProcessServer, client: Client, nursery: trio.Nursery
) -> None:
    server.spawn = nursery.start_soon
    client.send("CLIENT", "PAUSE", 100_000, "WRITE")
    client.send("CLIENT", "PAUSE", 1, "ALL")
    pause = server.pause
    assert pause is not None
    assert pause.until_ms == server.clock.now_ms + 100_000
    assert not pause.writes_only
    client.send("CLIENT", "UNPAUSE")
    assert pause.ended.is_set()


async def test_a_pause_ends_by_itself(server: InProcessServer, client: Client, nursery: trio.Nursery) -> None:
    """The wall clock of this test's server stands in the past, so every pause is over already."""
    server.spawn = nursery.start_soon
    client.send("CLIENT", "PAUSE", 1)
    other = Client(server)
    other.send("PING")
    assert other.session.suspended
    await trio.testing.wait_all_tasks_blocked()
    assert server.pause is None
    other.session.run_backlog()
    assert other.next() == b"PONG"


# --- UNBLOCK


@pytest.mark.parametrize(("reason", "expected"), [((), 0), (("TIMEOUT",), 0), (("ERROR",), "UNBLOCKED")])
def test_a_waiting_client_can_be_unblocked(
    server: InProcessServer, client: Client, reason: tuple[str, ...], expected: object
) -> None:
    waiter = Client(server)
    assert waiter.send("WAIT", 1, 0) is False
    assert client.send("CLIENT", "UNBLOCK", waiter.session.id, *reason) == 1
    reply = waiter.next()
    if isinstance(reply, hiredis.ReplyError):
        assert error(reply) == "UNBLOCKED client unblocked via CLIENT UNBLOCK"
    else:
        assert reply == expected
    assert client.send("CLIENT", "UNBLOCK", waiter.session.id, *reason) == 0


def test_help_lists_every_subcommand(server: InProcessServer, client: Client) -> None:
    lines = client.send("CLIENT", "HELP")
    assert lines[0].startswith(b"CLIENT <subcommand>")
    named = {line.split()[0] for line in lines[1:] if not line.startswith(b" ")}
    assert named == set(server.table.specs[b"CLIENT"].subcommands)
