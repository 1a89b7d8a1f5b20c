"""Bytes that are no requests: each ends its own connection with an error, and costs nothing."""

from __future__ import annotations

import random
import socket

import pytest

from tests.hostile.watch import MIB, Bounded
from tests.servers import RunningServer

# What is sent, and how the error begins that is sent back before the connection is closed.
# Source: the replies of redis-server 7.0, which however takes arrays of up to 2^31 - 1.
ENDED_BY_AN_ERROR = {
    "array of 2 billion": (b"*2147483647\r\n", b"-ERR Protocol error: invalid multibulk length"),
    "array of 2^20 and one": (b"*1048577\r\n", b"-ERR Protocol error: invalid multibulk length"),
    "array of 2^63": (b"*9223372036854775808\r\n", b"-ERR Protocol error: invalid multibulk length"),
    "array of no number": (b"*x\r\n", b"-ERR Protocol error: invalid multibulk length"),
    "array of a fraction": (b"*1.5\r\n", b"-ERR Protocol error: invalid multibulk length"),
    "bulk of 2 billion": (b"*1\r\n$2147483647\r\n", b"-ERR Protocol error: invalid bulk length"),
    "bulk of less than nothing": (b"*1\r\n$-2\r\n", b"-ERR Protocol error: invalid bulk length"),
    "bulk that is null": (b"*1\r\n$-1\r\n", b"-ERR Protocol error: invalid bulk length"),
    "bulk of no number": (b"*1\r\n$abc\r\n", b"-ERR Protocol error: invalid bulk length"),
    "bulk of 512 MiB and one": (b"*1\r\n$536870913\r\n", b"-ERR Protocol error: invalid bulk length"),
    "array in an array": (b"*1\r\n*1\r\n$4\r\nPING\r\n", b"-ERR Protocol error: expected '$', got '*'"),
    "map in an array": (b"*1\r\n%1\r\n+a\r\n+b\r\n", b"-ERR Protocol error: expected '$', got '%'"),
    "integer in an array": (b"*1\r\n:1\r\n", b"-ERR Protocol error: expected '$', got ':'"),
    "endless count": (b"*" + b"1" * 70_000, b"-ERR Protocol error: too big mbulk count string"),
    "endless length": (b"*1\r\n$" + b"1" * 70_000, b"-ERR Protocol error: too big bulk count string"),
    "endless line": (b"x" * 70_000, b"-ERR Protocol error: too big inline request"),
    "open quotes": (b'SET a "b\r\n', b"-ERR Protocol error: unbalanced quotes in request"),
}

# What looks dangerous and is a request all the same, or nothing at all: PING behind it is answered.
HARMLESS = {
    "empty lines": b"\r\n\r\n\n",
    "empty arrays": b"*0\r\n*-1\r\n*-2147483648\r\n",
    "an array that never comes whole": b"PING\r\n",
    "blanks": b"   \r\n",
}


def received_until_closed(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def send_to_the_end(sock: socket.socket, data: bytes) -> None:
    """Send `data` and read until the server closes, which it may do long before all is sent."""
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        received_until_closed(sock)
    except TimeoutError:
        raise
    except OSError:
        return  # broken pipe, reset, not connected: closed by the server with bytes of ours unread


@pytest.mark.parametrize("name", ENDED_BY_AN_ERROR)
def test_protocol_error_is_answered_and_ends_the_connection(shared_server: RunningServer, name: str) -> None:
    if shared_server.name == "redis" and name in {"array of 2 billion", "array of 2^20 and one"}:
        pytest.skip("redis-server waits for as many arguments as an int counts")
    sent, answer = ENDED_BY_AN_ERROR[name]
    with shared_server.connect() as sock:
        sock.sendall(b"PING\r\n" + sent)
        assert received_until_closed(sock).startswith(b"+PONG\r\n" + answer)


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_but_harmless_input_is_passed_over(shared_server: RunningServer, name: str) -> None:
    with shared_server.connect() as sock:
        sock.sendall(HARMLESS[name] + b"ECHO over\r\n")
        received = b""
        while b"over" not in received:
            received += sock.recv(4096)
        assert b"-ERR" not in received


def test_requests_of_a_web_browser_run_nothing(shared_server: RunningServer) -> None:
    # A page may make a browser send this to a server on the same machine ("cross-protocol scripting").
    with shared_server.connect() as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost:6379\r\nContent-Length: 20\r\n\r\nSET planted 1\r\n"
        )
        received_until_closed(sock)
    with shared_server.client() as client:
        assert client.get("planted") is None


def test_huge_counts_allocate_nothing(server: RunningServer, bounded: Bounded) -> None:
    openings = [b"*1048576\r\n", b"*1048576\r\n$536870912\r\n", b"*2\r\n$3\r\nGET\r\n$536870912\r\nx"]
    with bounded(64 * MIB):
        sockets = [server.connect() for _ in range(300)]
        for number, sock in enumerate(sockets):
            sock.sendall(openings[number % len(openings)])
        with server.client() as client:
            assert len(client.client_list()) > len(sockets)
        for sock in sockets:
            sock.close()


def test_nesting_costs_nothing(server: RunningServer, bounded: Bounded) -> None:
    with bounded(96 * MIB):
        for opening in (b"*1\r\n", b"*1048576\r\n", b"%1\r\n", b"|1\r\n", b"~1\r\n", b">1\r\n"):
            # The last four begin lines of their own, with a command that does not exist.
            with server.connect() as sock:
                send_to_the_end(sock, opening * 100_000)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_pipelines_never_stop_the_server(server: RunningServer, bounded: Bounded, seed: int) -> None:
    rng = random.Random(seed)
    pipeline = b"".join(
        b"*%d\r\n" % len(request) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in request)
        for request in (
            [b"SET", b"key", b"value"],
            [b"GET", b"key"],
            [b"MULTI"],
            [b"INCR", b"n"],
            [b"EXEC"],
            [b"SUBSCRIBE", b"news"],
            [b"UNSUBSCRIBE"],
            [b"HELLO", b"3"],
            [b"CLIENT", b"TRACKING", b"ON"],
            [b"RESET"],
            [b"SCAN", b"0", b"MATCH", b"k*"],
            [b"CLIENT", b"REPLY", b"SKIP"],
            [b"KV.PUT", b"key", b"value", b"META", b'{"a": 1}'],
        )
    )
    with bounded(64 * MIB):
        for _ in range(300):
            with server.connect() as sock:
                send_to_the_end(sock, mutated(pipeline, rng))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with a few bytes changed, taken away, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[place] = rng.randrange(256)
        elif kind == 1:
            del changed[place : place + rng.randrange(1, 20)]
        elif kind == 2:
            changed[place:place] = changed[place : place + rng.randrange(1, 50)]
        else:
            changed[place:place] = rng.choice([b"\r\n", b"*", b"$", b"\x00", b"-1", b"9" * 30, b"*3\r\n"])
    return bytes(changed)
