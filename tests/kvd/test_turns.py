"""Whose turn it is: who sends without end does not keep the others from being seen, not even during a script."""

from __future__ import annotations

import contextlib
import socket

import pytest

from kvd.poller import ONCE, READ, WRITE
from kvd.settings import ScriptingSettings, Settings
from tests.kvd.harness import encode
from tests.kvd.live import (
    Interposed,
    Open,
    ask,
    both_pollers,
    plain_socket,
    receive_exactly,
    running,
    until,
)

PING = encode("PING")
PONG = b"+PONG\r\n"
FLOODING_COUNT = 16


def fill(sock: socket.socket) -> int:
    """Send the beginning of a large request as far as the kernel takes it; return how much that was."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sent = sock.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$99999999\r\n")
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(1 << 20))
    return sent


@both_pollers
async def test_who_comes_while_many_send_without_end_has_his_turn(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is more of them than is served in a tick, and more to be read from each whenever its turn comes."""
    monkeypatch.setattr("kvd.hub.TICK_NANOSECONDS", 0)
    poller = Interposed(open_one())
    async with contextlib.AsyncExitStack() as stack:
        live = await stack.enter_async_context(running(poller=poller))
        flooding = [await stack.enter_async_context(await live.connect()) for _ in range(FLOODING_COUNT)]
        late = await stack.enter_async_context(await live.connect())
        for stream in (*flooding, late):
            await ask(stream, "PING", expect=PONG)
        late_sock = plain_socket(late)
        read_before: list[int] = []  # what was read of all clients when the late one had his answer

        def look_for_answer(_events: list[tuple[int, int]]) -> None:
            with contextlib.suppress(BlockingIOError):
                assert late_sock.recv(100) == PONG
                read_before.append(live.server.stats.input_bytes)
                poller.act = lambda _: None

        def come_late(events: list[tuple[int, int]]) -> None:
            if len(events) >= FLOODING_COUNT:
                late_sock.send(PING)
                poller.act = look_for_answer

        poller.act = come_late
        before = live.server.stats.input_bytes
        sent = sum(fill(plain_socket(stream)) for stream in flooding)
        await until(lambda: read_before, "the late one is answered")
        assert read_before[0] - before < sent


@both_pollers
async def test_who_closes_together_does_not_hold_a_tick_for_longer_than_others(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To forget a client takes longer than to serve it."""
    monkeypatch.setattr("kvd.hub.TICK_NANOSECONDS", 0)
    async with contextlib.AsyncExitStack() as stack:
        live = await stack.enter_async_context(running(poller=open_one()))
        streams = [await stack.enter_async_context(await live.connect()) for _ in range(FLOODING_COUNT)]
        for stream in streams:
            await ask(stream, "PING", expect=PONG)
        for stream in streams:
            stream.socket.close()
        for left in range(FLOODING_COUNT - 4, -1, -4):
            live.hub.tick()
            assert len(live.hub.sockets) == left


# --- during a script that takes long

LATE_AT_ONCE = Settings(scripting=ScriptingSettings(time_limit_ms=1))
BRIEF = "local start = os.clock() while os.clock() < start + 0.3 do end return 7"
LONG = "local start = os.clock() while os.clock() < start + 10 do end return 7"


@both_pollers
async def test_who_takes_output_and_asks_during_a_script_is_sent_the_rest(open_one: Open) -> None:
    """Of both he is told at once, and there is no more to be received when the script looks for input again."""
    poller = Interposed(open_one())
    async with (
        running(LATE_AT_ONCE, poller) as live,
        await live.connect() as caller,
        await live.connect_small() as reader,
    ):
        await ask(caller, "SET", "k", "x" * 8_000_000, expect=b"+OK\r\n")
        await ask(reader, "PING", expect=PONG)
        caller_fd, reader_fd = live.hub.sockets
        sock = plain_socket(reader)
        received = bytearray()

        def receive() -> None:
            with contextlib.suppress(BlockingIOError):
                while part := sock.recv(1 << 20):
                    received.extend(part)

        def take_and_ask(events: list[tuple[int, int]]) -> None:
            if caller_fd not in dict(events):
                return
            poller.act = lambda _: None  # the caller's script is about to run
            sock.send(PING)
            mask = 0
            while mask != READ | WRITE:  # what is sent and taken arrives some time later
                receive()
                mask |= dict(poller.poller.poll(0.01)).get(reader_fd, 0)
            poller.modify(reader_fd, READ | WRITE | ONCE)  # it would not be told of again

        await reader.send_all(encode("GET", "k"))
        await until(lambda: live.hub.unsent_bytes, "the reader is owed something")
        poller.act = take_and_ask
        await ask(caller, "EVAL", BRIEF, 0, expect=b":7\r\n")

        def has_all() -> bool:
            receive()
            return bytes(received[-200:]).endswith(b"\r\n") and len(received) > 8_000_000

        await until(has_all, "the reader has got everything")
        head, value, answer = bytes(received).split(b"\r\n", 2)
        assert (head, len(value)) == (b"$8000000", 8_000_000)
        assert answer.startswith(b"-BUSY")


@both_pollers
async def test_who_is_left_over_when_a_script_begins_may_end_it(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick's time for sockets is over, and the script stands in another client's backlog."""
    monkeypatch.setattr("kvd.hub.TICK_NANOSECONDS", 0)
    poller = Interposed(open_one())
    async with contextlib.AsyncExitStack() as stack:
        live = await stack.enter_async_context(running(LATE_AT_ONCE, poller))
        caller, *others = [await stack.enter_async_context(await live.connect()) for _ in range(7)]
        for stream in (caller, *others):
            await ask(stream, "PING", expect=PONG)
        await ask(caller, "SET", "k", "x" * (2 << 20), expect=b"+OK\r\n")
        requests = encode("GET", "k") + encode("EVAL", LONG, 0)
        kill = encode("SCRIPT", "KILL")
        sent = live.server.stats.input_bytes + len(requests) + len(others) * len(kill)

        def come(events: list[tuple[int, int]]) -> None:
            if events:  # the caller's: its large reply has the script wait for the next tick
                for stream in others:
                    plain_socket(stream).send(kill)
                poller.act = lambda _: None

        poller.act = come
        plain_socket(caller).send(requests)
        reply = await receive_exactly(caller, len(b"$2097152\r\n") + (2 << 20) + 2)
        assert reply.startswith(b"$2097152\r\n")
        assert b"Script killed" in await caller.receive_some()
        replies = [await stream.receive_some() for stream in others]
        assert b"+OK\r\n" in replies
        assert live.server.stats.input_bytes == sent
