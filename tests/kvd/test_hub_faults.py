"""The hub when something goes wrong: clients that stall, vanish or flood, tasks that fail, sockets that lie."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from kvd import connection as connection_module
from kvd import housekeeping
from kvd import hub as hub_module
from kvd import session as session_module
from kvd.commands import walks
from kvd.hub import Hub
from kvd.listeners import new_session
from kvd.pause import begin_pause, end_pause
from kvd.peering.peers import Peers
from kvd.poller import SelectorPoller, open_poller
from kvd.session import Endpoint, Session
from kvd.settings import Settings
from kvd.waiting import Waiting
from protocol.replies import Push, Reply
from storage.errors import NoSpace, Unavailable
from tests.kvd.harness import Client, InProcessServer, encode, error
from tests.kvd.live import Running, ask, plain_socket, receive_exactly, receive_to_end, running, until

OK = b"+OK\r\n"
PONG = b"+PONG\r\n"


def serve_stream(live: Running, stream: trio.abc.Stream) -> Session:
    """Serve a client over any stream, as the TLS listener does after the handshake."""
    session = new_session(live.server, Endpoint("127.0.0.1:1", "127.0.0.1:2", is_tls=True))
    live.server.spawn(live.hub.serve_stream, stream, session)
    return session


async def settled() -> None:
    """Return once every task waits for something; fail if one never does."""
    with trio.fail_after(10):
        await trio.testing.wait_all_tasks_blocked(0.01)


# --- streams


async def test_a_stream_that_is_not_read_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "PAUSE_BYTES", 1000)
    one = b"$100000\r\n" + b"x" * 100_000 + b"\r\n"
    async with running() as live, trio.open_nursery() as nursery:
        client, server = trio.testing.lockstep_stream_pair()
        session = serve_stream(live, server)
        await client.send_all(encode("SET", "big", b"x" * 100_000))
        assert await receive_exactly(client, 5) == OK
        await client.send_all(encode("GET", "big") * 10)
        nursery.start_soon(client.send_all, encode("GET", "big") * 10)
        await until(lambda: session.transport and session.transport.unsent_bytes, "the client is behind")
        await settled()
        assert await receive_exactly(client, 20 * len(one)) == 20 * one


class _LateStream(trio.abc.Stream):
    """Takes what is sent to it once it is let, and does so without looking whether it was cancelled."""

    def __init__(self) -> None:
        self.sending = trio.Event()
        self.let = trio.Event()

    async def send_all(self, data: object) -> None:
        self.sending.set()
        await self.let.wait()

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_stream_may_be_closed_in_the_moment_in_which_it_has_sent() -> None:
    async with running() as live:
        stream = _LateStream()
        session = serve_stream(live, stream)
        await settled()
        session.push(Push((b"hello",)))
        await stream.sending.wait()
        stream.let.set()  # the sender goes on in its next turn, which has no checkpoint before its end
        session.kill("killed")
        await settled()
        assert live.hub.unsent_bytes == 0
        assert live.server.stats.unexpected_errors == 0


class _BrokenStream(_LateStream):
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a bug")


async def test_a_bug_in_a_stream_ends_its_session_only() -> None:
    async with running() as live, await live.connect() as other:
        session = new_session(live.server, Endpoint("127.0.0.1:1", "127.0.0.1:2"))
        await live.hub.serve_stream(_BrokenStream(), session)
        assert live.server.stats.unexpected_errors == 1
        await ask(other, "PING", expect=PONG)
        assert len(live.server.sessions) == 1


async def test_what_a_stream_sent_before_its_end_is_run_and_answered() -> None:
    async with running() as live:
        client, server = trio.testing.memory_stream_pair()
        await client.send_all(encode("SET", "a", "1") + encode("INCR", "a"))
        client.send_stream.close()
        serve_stream(live, server)
        assert await receive_to_end(client) == OK + b":2\r\n"
        await until(lambda: not live.server.sessions, "the session ends")


async def test_idle_and_stalled_streams_are_closed_as_sockets_are() -> None:
    clients = attrs.evolve(Settings().clients, output_pubsub_soft_bytes=1000)
    async with running(attrs.evolve(Settings(), clients=clients)) as live:
        idle, idle_server = trio.testing.memory_stream_pair()
        slow, slow_server = trio.testing.lockstep_stream_pair()
        serve_stream(live, idle_server)
        subscriber = serve_stream(live, slow_server)
        await ask(idle, "PING", expect=PONG)
        await slow.send_all(encode("SUBSCRIBE", "news"))
        await receive_exactly(slow, 10)
        await settled()
        live.server.pubsub.publish(b"news", b"x" * 10_000)
        await settled()
        for session in live.server.sessions.values():
            session.active_at_ms -= 10_000
        live.hub.close_idle(5)
        assert await receive_to_end(idle) == b""
        assert list(live.server.sessions.values()) == [subscriber]
        (connection,) = live.hub.streams
        assert connection._soft_since is not None
        connection._soft_since -= 1000
        live.hub.close_stalled()
        assert live.server.stats.output_limit_closed == 1
        await until(lambda: not live.server.sessions, "the session ends")


class _SlowStream(_LateStream):
    """Sends one request, and takes each piece of the answer when it is let."""

    def __init__(self, request: bytes) -> None:
        super().__init__()
        self._requests = [request]

    async def send_all(self, data: object) -> None:
        await super().send_all(data)
        self.let = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return self._requests.pop() if self._requests else await super().receive_some(max_bytes)


async def test_who_takes_a_long_answer_is_not_idle() -> None:
    async with running() as live:
        live.hub.exclusively(lambda: live.server.store.keyspace(0).put(b"big", b"x" * 1_000_000))
        stream = _SlowStream(encode("GET", "big"))
        session = serve_stream(live, stream)
        for _ in range(3):
            await stream.sending.wait()
            session.active_at_ms -= 60_000
            stream.let.set()
            await settled()
            live.hub.close_idle(50)
            assert session.id in live.server.sessions
        session.active_at_ms -= 60_000
        live.hub.close_idle(50)
        assert session.id not in live.server.sessions, "it has taken nothing since"


async def test_whose_requests_are_still_run_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Session.receive

    def receive_long_ago(self: Session, data: bytes) -> None:
        receive(self, data)
        self.active_at_ms -= 60_000

    monkeypatch.setattr(Session, "receive", receive_long_ago)
    monkeypatch.setattr(session_module, "TICK_OUTPUT_BYTES_MAX", 0)  # a request a tick
    async with running() as live, await live.connect() as stream:
        await stream.send_all(encode("ECHO", "x") * 2)
        assert await receive_exactly(stream, 14) == b"$1\r\nx\r\n" * 2
        live.hub.close_idle(50)
        assert live.server.sessions
        await ask(stream, "ECHO", "y", expect=b"$1\r\ny\r\n")
        live.hub.close_idle(50)
        assert not live.server.sessions


# --- suspended sessions


async def test_what_stands_behind_a_long_walk_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)
    monkeypatch.setattr(walks, "ROWS", 1)
    async with running() as live, await live.connect() as stream:
        await ask(stream, "MSET", "a", 1, "b", 2, "c", 3, expect=OK)
        await stream.send_all(encode("KEYS", "*") + encode("PING"))
        expected = b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n" + PONG
        with trio.fail_after(10):
            assert await receive_exactly(stream, len(expected)) == expected


async def test_a_bug_in_a_long_walk_ends_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(deadline: int) -> bool:
        if deadline:
            raise RuntimeError("a bug")
        return True

    monkeypatch.setattr(walks, "slice_end", iter([0, 1]).__next__)  # the second slice fails
    monkeypatch.setattr(walks, "is_past", broken)
    monkeypatch.setattr(walks, "ROWS", 1)
    async with running() as live, await live.connect() as stream:
        await ask(stream, "MSET", "a", 1, "b", 2, "c", 3, expect=OK)
        await stream.send_all(encode("KEYS", "*") + encode("PING"))
        with trio.fail_after(10):
            told = b"-ERR internal error; the server's log has the details\r\n" + PONG
            assert await receive_exactly(stream, len(told)) == told
        assert live.server.stats.unexpected_errors == 1


async def test_a_protocol_error_behind_a_suspended_command_is_told() -> None:
    async with running() as live, await live.connect() as stream:
        await stream.send_all(encode("WAIT", 1, 1) + b"*1\r\n:5\r\n")
        with trio.fail_after(10):
            assert await receive_to_end(stream) == b":0\r\n-ERR Protocol error: expected '$', got ':'\r\n"


def unreadable() -> Reply:
    raise Unavailable("memory", "the disk is ill")


async def test_who_leaves_while_the_disk_is_ill_harms_nobody() -> None:
    async with running() as live, await live.connect() as other:
        async with await live.connect() as stream:
            await ask(stream, "PING", expect=PONG)
            _, session = live.server.sessions.values()
            Waiting(session, unreadable)
        await until(lambda: session.id not in live.server.sessions, "the session ends")
        await ask(other, "PING", expect=PONG)


async def test_who_has_waited_long_enough_is_told_that_the_disk_is_ill() -> None:
    async with running() as live, await live.connect() as stream:
        await ask(stream, "PING", expect=PONG)
        (session,) = live.server.sessions.values()
        Waiting(session, unreadable).limit(1)
        with trio.fail_after(10):
            assert await receive_exactly(stream, 9) == b"-MISCONF "


def test_what_many_wait_for_is_looked_at_although_one_cannot_be_told() -> None:
    peers = Peers.__new__(Peers)  # nothing else of it is looked at
    peers._waiters = []
    answered = iter([False, True])
    peers.wait_for(lambda: False, unreadable)
    peers.wait_for(lambda: False, lambda: next(answered))
    for waiting in (2, 1):
        peers._look_at_waiters()
        assert len(peers._waiters) == waiting


def test_a_commit_is_not_undone_by_shared_users_that_cannot_be_read() -> None:
    outcomes: Iterator[Callable[[], object]] = iter([unreadable, unreadable, lambda: None])

    def load() -> None:
        next(outcomes)()

    peers = Peers.__new__(Peers)
    peers.server = InProcessServer()
    peers.users = cast(Any, SimpleNamespace(load=load))
    peers._replica = cast(Any, SimpleNamespace(system_version=1, has_fresh=False))
    peers._system_version, peers._carries_more = 0, False
    for version in (0, 0, 1, 1):
        peers.committed()
        assert peers._system_version == version


async def test_the_portable_selector_bears_clients_that_wait_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    async with running(poller=SelectorPoller()) as live, await live.connect() as stream:
        await stream.send_all(encode("WAIT", 1, 1) + encode("PING"))
        assert await receive_exactly(stream, 11) == b":0\r\n" + PONG
        await stream.send_all(encode("WAIT", 1, 0) + encode("PING"))
        (session,) = live.server.sessions.values()
        await until(lambda: session.backlog, "the client is suspended")
        session.kill("killed")
        assert await receive_to_end(stream) == b""


async def test_clients_that_leave_during_a_pause_are_forgotten() -> None:
    async with running() as live:
        begin_pause(live.server, time.time_ns() // 1_000_000 + 3_600_000, writes_only=False)
        pause = live.server.pause
        assert pause is not None
        async with await live.connect() as stream:
            await stream.send_all(encode("PING"))
            await until(lambda: pause.waiting, "the client waits")
        await until(lambda: not live.server.sessions, "the session ends")
        assert not pause.waiting
        end_pause(live.server)


# --- failed commits


async def test_a_failed_commit_answers_who_gets_no_replies_with_none() -> None:
    async with running() as live, await live.connect() as stream:
        await stream.send_all(encode("CLIENT", "REPLY", "OFF") + encode("SET", "a", 1))
        await until(lambda: live.server.store.keyspace(0).count, "the write")
        live.engine.fail_next(NoSpace("disk"))
        await stream.send_all(encode("SET", "a", 2) + encode("CLIENT", "REPLY", "ON") + encode("PING"))
        assert await receive_exactly(stream, 12) == OK + PONG


async def test_a_failed_commit_takes_the_names_of_its_keys_with_it() -> None:
    async with running() as live, await live.connect() as stream:
        live.engine.fail_next(NoSpace("disk"))
        await stream.send_all(
            encode("SET", "a", 2) + encode("SCAN", 0) + encode("KEYS", "*") + encode("PING")
        )
        lines = []
        data = b""
        while PONG not in data:
            data += await stream.receive_some()
        lines = data.split(b"\r\n")[:-1]
        assert [line.partition(b" ")[0] for line in lines] == [
            b"-MISCONF",
            b"-MISCONF",
            b"-MISCONF",
            b"+PONG",
        ]


async def test_a_long_walk_does_not_tell_of_keys_whose_commit_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)
    monkeypatch.setattr(walks, "ROWS", 1)
    async with running() as live, await live.connect() as stream:
        await ask(stream, "MSET", "b", 2, "c", 3, expect=OK)
        live.engine.fail_next(NoSpace("disk"))
        await stream.send_all(encode("SET", "a", 2) + encode("KEYS", "*"))
        expected = b"*2\r\n$1\r\nb\r\n$1\r\nc\r\n"
        data = b""
        while not data.endswith(expected[4:]):
            data += await stream.receive_some()
        assert data.startswith(b"-MISCONF")
        assert data.endswith(expected)


# --- listeners


@pytest.mark.parametrize("code", [errno.EPERM, errno.EPROTO, errno.ECONNABORTED, errno.EMFILE])
async def test_a_failed_accept_harms_nobody(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as live, await live.connect() as first:
        await ask(first, "PING", expect=PONG)
        (listener,) = live.hub.listeners.values()
        monkeypatch.setattr(listener, "socket", _Failing(listener.socket, OSError(code, "no")))
        async with await live.connect() as second:
            await ask(second, "PING", expect=PONG)
        await ask(first, "PING", expect=PONG)


class _Failing:
    """A listening socket whose first accept fails."""

    def __init__(self, sock: socket.socket, error: OSError) -> None:
        self._socket = sock
        self._errors: Iterator[OSError] = iter([error])

    def accept(self) -> tuple[socket.socket, object]:
        for failure in self._errors:
            raise failure
        return self._socket.accept()

    def close(self) -> None:
        self._socket.close()


async def test_a_client_that_cannot_be_served_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as live:
        register = live.hub.poller.register
        errors = iter([OSError(errno.ENOSPC, "too many watched files")])

        def fail_once(fd: int, mask: int) -> None:
            for error in errors:
                raise error
            register(fd, mask)

        monkeypatch.setattr(live.hub.poller, "register", fail_once)
        async with await live.connect() as refused:
            assert await receive_to_end(refused) == b""
        assert not live.server.sessions
        async with await live.connect() as stream:
            await ask(stream, "PING", expect=PONG)


# --- scripts that do not end


async def test_who_comes_while_a_script_runs_may_end_it() -> None:
    settings = attrs.evolve(Settings(), scripting=attrs.evolve(Settings().scripting, time_limit_ms=1))
    async with running(settings) as live, await live.connect() as caller:
        await ask(caller, "PING", expect=PONG)
        # No checkpoint in between, so all of this is there before the hub's next tick.
        with socket.socket() as newcomer:
            plain_socket(caller).send(encode("EVAL", "while true do end", 0))
            live.hub.wake()
            newcomer.connect(("127.0.0.1", live.port))
            newcomer.send(encode("PING") + encode("SCRIPT", "KILL"))
            assert b"Script killed" in await caller.receive_some()
            newcomer.settimeout(10)
            answer = newcomer.recv(1000)
            assert answer.startswith(b"-BUSY")
            assert answer.endswith(OK)


# --- bounds


def test_nothing_is_kept_of_what_comes_after_quit() -> None:
    client = Client(InProcessServer())
    assert client.raw(encode("QUIT"), b"*2\r\n$3\r\nGET\r\n$1000000\r\n") == OK
    client.raw(b"x" * 100_000)
    assert client.session.buffered_bytes < 1000


async def test_small_messages_that_wait_are_put_together() -> None:
    async with running() as live:
        client, server = trio.testing.lockstep_stream_pair()
        session = serve_stream(live, server)
        await client.send_all(encode("SUBSCRIBE", "news"))
        await receive_exactly(client, 10)
        for _ in range(1000):
            live.hub.exclusively(lambda: live.server.pubsub.publish(b"news", b"hello"))
        assert session.transport is not None
        assert session.transport.unsent_bytes > 30_000
        assert session.transport.unsent_count < 30
        message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"
        subscribed = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
        expected = subscribed[10:] + 1000 * message
        assert await receive_exactly(client, len(expected)) == expected


async def test_what_was_sent_of_a_reply_is_let_go() -> None:
    async with running() as live:
        client, server = trio.testing.lockstep_stream_pair()
        serve_stream(live, server)
        await client.send_all(encode("SET", "big", b"x" * 1_000_000) + encode("GET", "big"))
        await receive_exactly(client, 990_000)
        await settled()
        (connection,) = live.hub.streams
        assert 0 < connection.unsent_bytes < 100_000
        held = sum(memoryview(piece.obj).nbytes for piece in connection.unsent)
        assert held <= 4 * connection.unsent_bytes


async def test_backlogs_are_run_for_a_tick_s_time_and_none_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as live, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await live.connect()) for _ in range(3)]
        for stream in streams:
            await ask(stream, "PING", expect=PONG)
        monkeypatch.setattr(hub_module, "TICK_NANOSECONDS", 0)
        for connection in live.hub.connections():
            assert isinstance(connection.session, Session)
            connection.session.backlog.append([b"INCR", b"n"])
            live.hub.run_backlog_later(connection)
        live.hub.exclusively(live.hub._run_backlogs)
        assert [len(session.backlog) for session in live.server.sessions.values()] == [0, 1, 1]
        for number, stream in enumerate(streams):
            assert await receive_exactly(stream, 4) == b":%d\r\n" % (number + 1)


async def test_slow_commands_of_one_pipeline_let_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "TICK_NANOSECONDS_MAX", 0)
    async with running() as live, await live.connect() as stream:
        ticks = live.server.stats.ticks
        await stream.send_all(encode("PING") * 10)
        assert await receive_exactly(stream, 70) == PONG * 10
        assert live.server.stats.ticks >= ticks + 10


async def test_the_client_that_is_owed_most_is_closed_when_all_together_are_owed_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "UNSENT_BYTES_MAX", 300_000)
    async with running() as live:
        streams = [trio.testing.lockstep_stream_pair() for _ in range(2)]
        large, small = (serve_stream(live, server) for _, server in streams)
        await streams[1][0].send_all(encode("SET", "big", b"x" * 100_000))
        assert await receive_exactly(streams[1][0], 5) == OK
        await streams[0][0].send_all(encode("GET", "big") * 2)
        await until(lambda: live.hub.unsent_bytes > 200_000, "two are owed")
        await streams[1][0].send_all(encode("GET", "big"))
        await until(lambda: large.closing, "the largest is closed")
        assert live.server.stats.output_limit_closed == 1
        assert len(await receive_exactly(streams[1][0], 100_011)) == 100_011
        assert not small.closing


async def test_the_client_that_sends_most_is_closed_when_all_together_keep_too_much_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "INPUT_BYTES_MAX", 300_000)
    half = b"*2\r\n$4\r\nECHO\r\n$200000\r\n" + b"x" * 100_000
    async with running() as live, await live.connect() as first, await live.connect() as queueing:
        await ask(queueing, "MULTI", expect=OK)
        await queueing.send_all(encode("ECHO", b"x" * 20_000) * 2)
        await receive_exactly(queueing, len(b"+QUEUED\r\n") * 2)
        await first.send_all(half)
        await until(lambda: live.server.input_bytes > 140_000, "all of it is held")
        async with await live.connect() as largest:
            await largest.send_all(half + b"x" * 90_000)
            assert await receive_to_end(largest) == b""
        assert live.server.stats.query_limit_closed == 1
        await first.send_all(b"x" * 100_000 + b"\r\n")
        assert len(await receive_exactly(first, 200_011)) == 200_011
        await ask(queueing, "DISCARD", expect=OK)
        await until(lambda: live.server.input_bytes == 0, "nothing is held")


async def test_what_a_client_has_sent_is_out_of_the_books_when_it_goes() -> None:
    async with running() as live:
        async with await live.connect() as stream:
            await ask(stream, "MULTI", expect=OK)
            await ask(stream, "PING", expect=b"+QUEUED\r\n")
            await stream.send_all(b"*1\r\n$4\r\nPI")
            await until(lambda: live.server.input_bytes, "it is in the books")
        await until(lambda: not live.server.input_bytes, "it is not")


async def test_who_is_closing_and_does_not_read_is_closed_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as live:
        client, server = trio.testing.lockstep_stream_pair()
        serve_stream(live, server)
        await client.send_all(encode("PING") + encode("QUIT"))
        await settled()
        (connection,) = live.hub.streams
        live.hub.close_stalled()
        assert not connection.closed
        monkeypatch.setattr(connection_module, "STALLED_SECONDS", -1)
        live.hub.close_stalled()
        assert connection.closed


async def test_the_last_replies_are_sent_before_the_clients_are_closed() -> None:
    async with running() as live, trio.open_nursery() as nursery:
        client, server = trio.testing.lockstep_stream_pair()
        serve_stream(live, server)
        await client.send_all(encode("PING"))
        await settled()
        nursery.start_soon(live.hub.drain)
        await settled()
        assert live.hub.streams
        assert await receive_to_end(client) == PONG


async def test_nobody_is_let_in_any_more_once_the_clients_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_LISTENER_REST_SECONDS", 0)
    async with running() as live:
        (listener,) = live.hub.listeners.values()
        live.hub.rest_listener(listener)
        await live.hub.drain()
        await settled()
        assert not live.hub.listeners
        client, server = trio.testing.memory_stream_pair()
        serve_stream(live, server)
        await client.send_all(encode("PING"))
        assert await receive_to_end(client) == b""


@pytest.mark.parametrize("kind", ["socket", "stream"])
async def test_a_suspended_client_that_leaves_is_noticed(kind: str) -> None:
    async with running() as live:
        if kind == "socket":
            client: trio.abc.Stream = await live.connect()
        else:
            client, server = trio.testing.memory_stream_pair()
            serve_stream(live, server)
        await client.send_all(encode("WAIT", 1, 0) + encode("PING"))
        await until(lambda: [one for one in live.server.sessions.values() if one.suspended], "it waits")
        await client.aclose()
        await until(lambda: not live.server.sessions, "the session ends")


@pytest.mark.skipif(sys.platform != "linux", reason="nothing tells of it elsewhere")
async def test_a_suspended_client_that_leaves_when_it_is_not_read_any_more_is_noticed() -> None:
    async with running() as live, await live.connect() as staying, trio.open_nursery() as nursery:
        nursery.start_soon(housekeeping.watch, live.server, live.hub)
        much = encode("WAIT", 1, 0) + encode("ECHO", b"x" * 200_000)
        leaving = await live.connect()
        for stream in (staying, leaving):
            await stream.send_all(much)
        await until(lambda: len(live.server.sessions) == 2, "both are let in")
        sessions = list(live.server.sessions.values())
        await until(lambda: all(one.held_bytes > 65_536 for one in sessions), "neither is read any more")
        await leaving.aclose()
        await settled()
        live.hub.close_departed()
        assert len(live.server.sessions) == 2, "it may only have nothing more to say"
        for session in sessions:
            session.active_at_ms -= 60_001
        await until(lambda: len(live.server.sessions) == 1, "the session ends")
        (left,) = live.server.sessions.values()
        left.resume(0)
        await receive_exactly(staying, 200_000)
        nursery.cancel_scope.cancel()


async def test_a_suspended_client_is_not_read_without_bound() -> None:
    async with running() as live, await live.connect() as client:
        await client.send_all(encode("WAIT", 1, 1000))
        await until(lambda: live.server.sessions, "the client is let in")
        (session,) = live.server.sessions.values()
        with trio.move_on_after(0.2):
            while True:
                await client.send_all(encode("ECHO", b"x" * 1000) * 100)
        assert session.suspended
        assert sum(len(request[1]) for request in session.backlog) < 300_000
        assert (await receive_exactly(client, 100_000)).startswith(b":0\r\n$1000\r\nxxx")


# --- timers and tasks


async def test_work_that_fails_half_way_is_not_committed() -> None:
    async with running() as live:
        keyspace = live.server.store.keyspace(0)

        def work() -> None:
            keyspace.put(b"half", b"done")
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError):
            live.hub.exclusively(work)
        assert keyspace.get(b"half") is None


async def test_writes_are_refused_after_a_failed_sync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(housekeeping, "_SYNC_SECONDS", 0.01)
    server = InProcessServer()
    client = Client(server)
    attempts = 0

    def sync() -> None:
        nonlocal attempts
        attempts += 1
        raise Unavailable("disk", "input/output error")

    monkeypatch.setattr(server.engine, "sync", sync)
    assert client.send("SET", "a", 1) == b"OK"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(housekeeping.sync_every_second, server)
        await until(lambda: server.store.writable, "the failure is noted")
        assert error(client.send("SET", "a", 2)).startswith("MISCONF")
        assert client.send("GET", "a") == b"1"
        await until(lambda: attempts > 1, "it is tried again")
        nursery.cancel_scope.cancel()


async def test_a_sweep_that_is_behind_goes_on_at_once(autojump_clock: trio.testing.MockClock) -> None:
    settings = Settings()
    settings = attrs.evolve(settings, storage=attrs.evolve(settings.storage, sweep_rows_max=10))
    server = InProcessServer(settings)
    hub = Hub(server, open_poller())
    client = Client(server)
    for number in range(100):
        client.send("SET", number, "x", "PX", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(housekeeping.sweep, server, hub)
        await trio.sleep(1.5 * settings.storage.sweep_interval_ms / 1000)
        assert server.store.keyspace(0).count == 0
        assert server.stats.sweep_seconds > 0
        nursery.cancel_scope.cancel()
    hub.close()
