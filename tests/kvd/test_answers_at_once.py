"""`Session.answer`: what it says is what `receive` would have said, and it says nothing while anything is special."""

from __future__ import annotations

import socket

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.commands.spec import UNTIMED_MAX
from tests.kvd.harness import Client, InProcessServer, encode, error, tick
from tests.kvd.live import ask, receive_exactly, running, until

GET_K = encode("GET", "k")

_STEPS = (
    *(GET_K, encode("get", "k"), encode("Get", "k"), encode("GET", "l"), encode("GET", "")),
    *(GET_K + GET_K, encode("GET", "k", "l"), encode("GET"), b"GET k\r\n", encode("GET", "x" * 200)),
    # Lengths that are a lie, or written in another way; a line break that is none.
    *(b"*2\r\n$3\r\nGET\r\n$2\r\nk\r\n", b"*2\r\n$3\r\nGET\r\n$01\r\nk\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nkxx"),
    *(encode("SET", "k", "v"), encode("SET", "k", "w", "PX", 3), encode("SET", "k", "x" * 5000)),
    *(encode("SET", "k", GET_K), encode("DEL", "k"), encode("PEXPIRE", "k", 2), encode("APPEND", "k", "+")),
    *(
        encode("MULTI"),
        encode("EXEC"),
        encode("SUBSCRIBE", "c"),
        encode("UNSUBSCRIBE"),
        encode("PUBLISH", "c", "m"),
    ),
    *(encode("SELECT", 1), encode("SELECT", 0), encode("HELLO", 3), encode("CLIENT", "REPLY", "SKIP")),
    *(
        encode("CLIENT", "TRACKING", "ON"),
        encode("CLIENT", "TRACKING", "OFF"),
        encode("FLUSHALL"),
        encode("RESET"),
    ),
    *(encode("SWAPDB", 0, 1), encode("AUTH", "default", "wrong"), encode("INFO", "everything")[:-30]),
)


class _Slow(Client):
    """Its requests are all run by `receive`."""

    def __init__(self, server: InProcessServer) -> None:
        super().__init__(server)
        self.session.__class__ = type(
            "_Slow", (type(self.session),), {"answer": lambda self, data: None, "__slots__": ()}
        )


@given(
    st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 60), st.integers(0, 2)), max_size=25),
    st.booleans(),
)
def test_whatever_was_said_before_the_answer_is_that_of_receive(
    steps: list[tuple[bytes, int, int]], warm: bool
) -> None:
    quick, slow = Client(InProcessServer()), _Slow(InProcessServer())
    if warm:
        steps = [(encode("SET", "k", "v"), 0, 0), (GET_K, 0, 0), *steps]
    for data, cut, passed_ms in steps:
        pieces = (data[:cut], data[cut:]) if 0 < cut < len(data) else (data,)
        for piece in pieces:
            assert quick.raw(piece) == slow.raw(piece)
        assert quick.session.closing == slow.session.closing
        for client in (quick, slow):
            client.server.clock.advance(passed_ms)
    for name in (b"GET", b"SET"):
        one, other = (client.server.table.specs[name].stats for client in (quick, slow))
        assert (one.calls, one.failed, one.rejected) == (other.calls, other.failed, other.rejected)
    assert quick.session.keyspace.hits == slow.session.keyspace.hits


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Client:
    one = Client(server)
    one.send("SET", "k", "v")
    assert one.session.answer(GET_K) == b"$1\r\nv\r\n"
    return one


def test_a_value_that_is_not_committed_yet_waits_for_its_commit(
    server: InProcessServer, client: Client
) -> None:
    other = Client(server)
    assert tick(server, (other.session, encode("SET", "l", "w")), (client.session, GET_K)) == b""
    assert client.session.take_output() == b"$1\r\nv\r\n"
    assert tick(server, (client.session, GET_K)) == b"$1\r\nv\r\n"


def test_a_request_inside_of_a_value_is_none(client: Client) -> None:
    whole = encode("SET", "l", GET_K)
    start = whole.index(GET_K)
    assert client.raw(whole[:start]) == b""
    assert client.raw(GET_K) == b""
    assert client.raw(b"\r\n") == b"+OK\r\n"
    assert client.send("GET", "l") == GET_K


def test_a_monitor_sees_what_would_have_been_answered_at_once(
    server: InProcessServer, client: Client
) -> None:
    monitor = Client(server)
    monitor.send("MONITOR")
    client.send("GET", "k")
    assert b'"GET" "k"' in monitor.session.take_output()
    monitor.close()
    assert client.session.answer(GET_K) is not None


def test_a_user_who_may_no_longer_read_is_refused(server: InProcessServer, client: Client) -> None:
    Client(server).send("ACL", "SETUSER", "default", "-get")
    assert error(client.send("GET", "k")).startswith("NOPERM")
    Client(server).send("ACL", "SETUSER", "default", "+get", "resetkeys", "~other")
    assert error(client.send("GET", "k")).startswith("NOPERM")


def test_a_pause_holds_reads(server: InProcessServer, client: Client) -> None:
    Client(server).send("CLIENT", "PAUSE", 1000, "ALL")
    assert client.raw(GET_K) == b""


def test_a_session_that_is_about_to_close_says_no_more(client: Client) -> None:
    client.session.close_after_reply("shutdown")
    assert client.session.answer(GET_K) is None


def test_what_waits_to_be_sent_comes_first(server: InProcessServer, client: Client) -> None:
    client.send("HELLO", 3)
    client.send("SUBSCRIBE", "c")
    assert tick(server, (Client(server).session, encode("PUBLISH", "c", "m")), (client.session, GET_K)) == b""
    reader = hiredis.Reader()
    reader.feed(client.session.take_output())
    assert [reader.gets(), reader.gets()] == [[b"message", b"c", b"m"], b"v"]


def test_one_of_many_is_timed_and_stands_for_the_others(server: InProcessServer, client: Client) -> None:
    stats = server.table.specs[b"GET"].stats
    stats.reset()
    for number in range(1, 3 * (UNTIMED_MAX + 1) + 1):
        assert client.send("GET", "k") == b"v"
        assert stats.calls == number
    assert stats.timed == sum(stats.histogram) == 3 * (UNTIMED_MAX + 1)
    assert stats.nanoseconds > 0


def test_a_slow_call_stands_for_no_other(server: InProcessServer, client: Client) -> None:
    stats = server.table.specs[b"GET"].stats
    stats.reset()
    for _ in range(UNTIMED_MAX):
        client.send("GET", "k")
    client.send("GET", "missing")
    assert (stats.timed, stats.untimed) == (1, UNTIMED_MAX)
    client.send("GET", "k")
    assert (stats.timed, stats.untimed) == (UNTIMED_MAX + 2, 0)


def test_percentiles_and_averages_are_those_of_the_calls_that_were_timed(client: Client) -> None:
    client.send("GET", "missing")
    client.send("GET", "k")
    told = client.send("INFO", "latencystats") + client.send("INFO", "commandstats")
    figures = dict(line.split(b":", 1) for line in told.splitlines() if b":" in line)
    assert b"p99.9=0.000" not in figures[b"latency_percentiles_usec_get"]
    assert b"usec_per_call=0.00" not in figures[b"cmdstat_get"]


async def test_what_is_received_is_counted_whether_a_client_sends_little_or_much() -> None:
    async with running() as live, await live.connect() as stream:
        sent = 0
        for size in (1, 478, 479, 480, 10_000, 1, 100_000):
            request = encode("SET", "k", "x" * size)
            await stream.send_all(request)
            assert await receive_exactly(stream, 5) == b"+OK\r\n"
            sent += len(request)
            await ask(stream, "GET", "k", expect=b"$%d\r\n%b\r\n" % (size, b"x" * size))
            sent += len(GET_K)
        assert live.server.stats.input_bytes == sent


async def test_clients_that_are_answered_at_once_count_as_served() -> None:
    async with running() as live, await live.connect() as stream:
        await ask(stream, "SET", "k", "v", expect=b"+OK\r\n")
        await ask(stream, "GET", "k", expect=b"$1\r\nv\r\n")
        assert live.hub.served_count == 1


async def test_a_client_that_does_not_read_gets_all_answers_in_order_when_it_does() -> None:
    async with running() as live, await live.connect_small() as stream:
        await ask(stream, "SET", "k", "x" * 1000, expect=b"+OK\r\n")
        (connection,) = live.hub.sockets.values()
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stats = live.server.table.specs[b"GET"].stats
        asked = 0

        def is_run() -> bool:
            return stats.calls == asked

        while not connection.unsent or asked % 10:
            await stream.send_all(GET_K)
            asked += 1
            await until(is_run, "the request is run")
        expected = b"$1000\r\n" + b"x" * 1000 + b"\r\n"
        assert await receive_exactly(stream, asked * len(expected)) == asked * expected
        assert connection.unsent_bytes == 0
        await ask(stream, "GET", "k", expect=expected)
