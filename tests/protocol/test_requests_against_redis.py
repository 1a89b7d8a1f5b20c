"""The same bytes to a real redis-server: it must find the same requests, and the same errors.

Redis does not tell what it parsed; but it answers a request, and answers the same whether the
request came as it did or in its plainest spelling. So for each stream: what our reader found, written
plainly, plus the error it found, must get the answers that the stream itself gets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.encode import encode2
from protocol.multibulk import LINE_BYTES_MAX
from protocol.replies import ErrorReply
from tests.protocol.streams import read, request
from tests.servers import RunningServer
from tests.servers import redis_server as start_redis_server

pytestmark = pytest.mark.needs_redis

# Answers with its arguments: what shows how they were parsed.
_MIRROR = request(b"EVAL", b"return ARGV", b"0")
_INLINE_MIRROR = b"EVAL 'return ARGV' 0 "


def answers(server: RunningServer, data: bytes) -> bytes:
    """Send `data`, then no more; return all that comes back until the server closes."""
    with server.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while part := sock.recv(65536):
            received += part
        return received


def assert_agrees(server: RunningServer, stream: bytes, *, authenticated: bool = True) -> None:
    outcome = read([stream], authenticated=authenticated)
    expected = answers(server, b"".join(request(*arguments) for arguments in outcome.requests))
    if outcome.error is not None:
        expected += encode2(ErrorReply(f"ERR {outcome.error}"))
    assert answers(server, stream) == expected


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A redis-server at which nobody is authenticated."""
    with start_redis_server(tmp_path_factory.mktemp("guarded")) as running:
        with running.client() as client:
            client.config_set("requirepass", "secret")
        yield running


@pytest.mark.parametrize(
    "stream",
    [
        b"*\r\n",
        b"*a\r\n",
        b"*+1\r\n",
        b"*01\r\n",
        b"*-0\r\n",
        b"* 1\r\n",
        b"*1 \r\n",
        b"*1\n$4\r\nPING\r\n",
        b"*3000000000\r\n",
        b"*9223372036854775808\r\n",
        b"*-9223372036854775808\r\n",
        b"*-9223372036854775809\r\n",
        b"*0\r\n",
        b"*-10\r\n",
        b"\r\n \t\r\n\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$a\r\n",
        b"*1\r\n$04\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$18446744073709551616\r\n",
        b"*1\r\n\r\n",
        b"*1\r\n\n\r\n",
        b"*1\r\n*1\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n\xff\r\n",
        b"*2\r\n$4\r\nECHO\r\nfoo\r\n",
        b"*1\rX$4\rXPINGXX*1\r\n$4\r\nPING\r\n",
        b'ECHO "x\r\n',
        b"ECHO 'x\r\n",
        b'ECHO "x"y\r\n',
        b"ECHO 'x'y\r\n",
        b'ECHO "\\x41\\x4\\xzz\\n\\r\\t\\b\\a\\q\\\\\\""\r\n',
        b"ECHO 'a\\x41\\n\\'b\\ '\r\n",
        b"ECHO a'b c'\r\n",
        b"ECHO a\vb\r\n",
        b"\vECHO\v\r\n",
        b"ECHO x\n",
        b"ECHO \rx\r\r\n",
        b"+OK\r\n",
        b"$4\r\nPING\r\n",
    ],
)
def test_stream_gets_the_answers_of_redis(redis_server: RunningServer, stream: bytes) -> None:
    assert_agrees(redis_server, request(b"PING") + stream)
    assert_agrees(redis_server, request(b"PING") + stream + request(b"ECHO", b"after") + b"ECHO inline\r\n")


@pytest.mark.parametrize("start", [b"*", b"*1\r\n$", b"*1\r\n?", b"ECHO "])
def test_line_is_too_long_where_it_is_for_redis(redis_server: RunningServer, start: bytes) -> None:
    line_start = start.rpartition(b"\n")[2]
    stream = start + b"1" * (LINE_BYTES_MAX - len(line_start))
    assert_agrees(redis_server, stream)
    assert_agrees(redis_server, stream + b"1")


@pytest.mark.parametrize(
    "stream",
    [
        b"*10\r\n",
        b"*11\r\n",
        b"*1\r\n$16384\r\n",
        b"*1\r\n$16385\r\n",
        request(b"GET", b"key") + b"*11\r\n",
        request(b"AUTH", b"secret") + request(*[b"ECHO"] * 11),
        request(b"AUTH", b"wrong") + request(*[b"ECHO"] * 11),
        b"ECHO 1 2 3 4 5 6 7 8 9 10 11\r\n",
    ],
)
def test_before_authentication_redis_limits_the_same(guarded_server: RunningServer, stream: bytes) -> None:
    authenticates = b"secret" in stream
    outcome = read([stream], authenticated=authenticates)
    received = answers(guarded_server, stream)
    if outcome.error is None:
        assert b"Protocol error" not in received
        assert received.count(b"\r\n") == len(outcome.requests)
    else:
        assert received.endswith(encode2(ErrorReply(f"ERR {outcome.error}")))
        assert received.count(b"\r\n") == len(outcome.requests) + 1


# Redis's own strings end at a zero byte, and it would wait for more.
_inline_bytes = st.sampled_from(
    [b"a", b" ", b'"', b"'", b"\\", b"x", b"4", b"1", b"n", b"\r", b"\v", b"\t", b"\xff"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(_inline_bytes, max_size=16).map(b"".join))
def test_words_of_inline_commands_are_those_of_redis(redis_server: RunningServer, words: bytes) -> None:
    assert_agrees(redis_server, _INLINE_MIRROR + words + b"\r\n")


_odd_bytes = st.sampled_from(
    [
        b"*",
        b"$",
        b"\r",
        b"\n",
        b"\r\n",
        b"-",
        b"0",
        b"1",
        b"2",
        b"9",
        b"a",
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(_odd_bytes, max_size=12).map(b"".join), st.integers(0, len(_MIRROR)))
def test_damaged_streams_get_the_answers_of_redis(
    redis_server: RunningServer, damage: bytes, place: int
) -> None:
    assert_agrees(redis_server, _MIRROR[:place] + damage + _MIRROR[place:] + request(b"ECHO", b"after"))
