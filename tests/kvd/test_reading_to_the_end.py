"""A socket is told of once (`kvd.poller.ONCE`): whatever came together, all of it is read, and the end is seen."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from kvd.connection import SMALL_RECEIVE_BYTES
from kvd.hub import RECEIVE_BYTES
from kvd.poller import Poller
from tests.kvd.harness import encode
from tests.kvd.live import (
    Open,
    Running,
    ask,
    both_pollers,
    plain_socket,
    receive_exactly,
    receive_to_end,
    running,
    until,
)

PONG = b"+PONG\r\n"
PING = encode("PING")

# Requests that end where a receive ends, and a byte before and after.
SIZES = [
    size + difference
    for size in (SMALL_RECEIVE_BYTES, RECEIVE_BYTES, RECEIVE_BYTES + SMALL_RECEIVE_BYTES)
    for difference in (-1, 0, 1)
]


@contextlib.asynccontextmanager
async def connected(poller: Poller) -> AsyncIterator[tuple[Running, trio.SocketStream, socket.socket]]:
    """Yield a hub, a client that it has seen, and the client's socket: what is sent by it comes without a tick between."""
    async with running(poller=poller) as live, await live.connect() as stream:
        await ask(stream, "PING", expect=PONG)
        sock = plain_socket(stream)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * RECEIVE_BYTES)
        yield live, stream, sock


def request_of(size: int) -> bytes:
    """Return a SET of `size` bytes."""
    rough = encode("SET", "k", b"x" * size)
    request = encode("SET", "k", b"x" * (2 * size - len(rough)))
    assert len(request) == size
    return request


@both_pollers
@pytest.mark.parametrize("size", SIZES)
async def test_what_follows_a_request_of_any_size_is_read(open_one: Open, size: int) -> None:
    async with connected(open_one()) as (_, stream, sock):
        sock.sendall(request_of(size))
        assert await receive_exactly(stream, 5) == b"+OK\r\n"
        sock.sendall(request_of(size) + PING)
        assert await receive_exactly(stream, 12) == b"+OK\r\n" + PONG


@both_pollers
@pytest.mark.parametrize("size", SIZES)
async def test_who_closes_behind_a_request_of_any_size_gets_the_reply(open_one: Open, size: int) -> None:
    async with connected(open_one()) as (live, stream, sock):
        sock.sendall(request_of(size))
        sock.shutdown(socket.SHUT_WR)
        assert await receive_to_end(stream) == b"+OK\r\n"
        await until(lambda: not live.server.sessions, "the session ends")


@both_pollers
async def test_who_closes_behind_a_get_of_a_hot_key_gets_the_value(open_one: Open) -> None:
    async with connected(open_one()) as (live, stream, sock):
        await ask(stream, "SET", "k", "v", expect=b"+OK\r\n")
        sock.sendall(encode("GET", "k"))
        sock.shutdown(socket.SHUT_WR)
        assert await receive_to_end(stream) == b"$1\r\nv\r\n"
        await until(lambda: not live.server.sessions, "the session ends")


@both_pollers
async def test_more_than_is_read_in_a_tick_is_answered_to_the_end(open_one: Open) -> None:
    count = 8 * RECEIVE_BYTES // len(PING)
    async with connected(open_one()) as (_, stream, _), trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, count * PING)
        assert await receive_exactly(stream, count * len(PONG)) == count * PONG


@both_pollers
async def test_what_stands_behind_urgent_data_is_read(open_one: Open) -> None:
    """A receive ends before it, though more is there; a telnet client sends it for an interrupt."""
    async with connected(open_one()) as (_, stream, sock):
        sock.sendall(PING[:5])
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(PING[5:])
        assert await receive_exactly(stream, len(PONG)) == PONG


@both_pollers
@pytest.mark.parametrize("size", [1, SMALL_RECEIVE_BYTES, RECEIVE_BYTES])
async def test_who_breaks_off_is_forgotten(open_one: Open, size: int) -> None:
    """Its reset is behind what it has sent, so the first receive does not tell of it."""
    async with connected(open_one()) as (live, _, sock):
        sock.sendall(b"x" * size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        await until(lambda: not live.server.sessions, "the session ends")
        assert not live.hub.sockets


@both_pollers
async def test_what_came_while_a_client_was_paused_is_read_when_it_goes_on(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It owes its reading; what it asks meanwhile waits in the socket, the end included."""
    monkeypatch.setattr("kvd.connection.PAUSE_BYTES", 0)
    async with connected(open_one()) as (live, stream, sock):
        (connection,) = live.hub.sockets.values()
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await stream.send_all(encode("SET", "k", "x" * 8_000_000) + encode("GET", "k"))
        await until(lambda: connection.unsent and not connection.is_read, "the client is paused")
        sock.sendall(PING)
        sock.shutdown(socket.SHUT_WR)
        ticks = live.server.stats.ticks
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert live.server.stats.ticks - ticks < 20  # nothing turns round meanwhile
        assert connection.unsent
        expected = b"+OK\r\n$8000000\r\n" + b"x" * 8_000_000 + b"\r\n" + PONG
        assert await receive_to_end(stream) == expected
