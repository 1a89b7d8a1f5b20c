"""Well-formed requests that ask for too much: memory, time, or a place in every table."""

from __future__ import annotations

import socket

import pytest
import redis

from tests.bench.load import fill
from tests.hostile.watch import MIB, Bounded
from tests.servers import RunningServer, wait_until

# Few bytes that name a large result. kvd refuses them at its limit for values, redis-server at 512 MiB.
REFUSED = {
    "SETRANGE": ["SETRANGE", "key", "536870912", "x"],
    "SETRANGE at the end of numbers": ["SETRANGE", "key", "9223372036854775807", "x"],
    "SETBIT": ["SETBIT", "key", "4294967296", "1"],
    "BITFIELD": ["BITFIELD", "key", "SET", "u8", "#536870912", "1"],
    "GETEX": ["GETEX", "key", "PX", "9223372036854775807"],
    "INCRBYFLOAT": ["INCRBYFLOAT", "text", "1" * 6000],
    "SCAN": ["SCAN", "0", "COUNT", "99999999999999999999"],
    "EVAL of many keys": ["EVAL", "return 1", "2147483648"],
    "EVAL that recurses": ["EVAL", "local function f() return 1 + f() end return f()", "0"],
    "DEBUG": ["DEBUG", "SEGFAULT"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_too_large_a_wish_is_refused(server: RunningServer, bounded: Bounded, name: str) -> None:
    if server.name == "redis" and name == "DEBUG":
        pytest.skip("redis-server does as it is told")
    with server.client() as client:
        client.mset({"key": "x", "text": "1"})
        with bounded(96 * MIB), pytest.raises(redis.ResponseError):
            client.execute_command(*REFUSED[name])


def test_nested_reply_of_a_script_ends_at_a_depth(server: RunningServer, bounded: Bounded) -> None:
    with server.connect() as sock, bounded(96 * MIB):
        sock.sendall(b"EVAL 'local t = {} for i = 1, 1e5 do t = {t} end return t' 0\r\nECHO over\r\n")
        received = b""
        while not received.endswith(b"over\r\n"):
            received += sock.recv(1 << 20)
    assert b"-ERR reached lua stack limit\r\n" in received
    assert len(received) < 100_000


def test_value_grows_to_its_limit_and_no_further(server: RunningServer, bounded: Bounded) -> None:
    if server.name == "redis":
        pytest.skip("redis-server's limit is 512 MiB")
    piece = b"x" * MIB
    with server.client() as client, bounded(400 * MIB):
        for size in range(1, 26):
            assert client.append("grown", piece) == size * MIB
        with pytest.raises(redis.ResponseError, match="exceeds"):
            client.append("grown", b"x")
        with pytest.raises(redis.ResponseError, match="exceeds"):
            client.setrange("grown", 25 * MIB, b"x")
        with pytest.raises(redis.ResponseError, match="exceeds"):
            client.set("too long", b"x" * (25 * MIB + 1))
        assert client.strlen("grown") == 25 * MIB
        assert client.exists("too long") == 0


def test_names_may_be_long_but_not_endless(server: RunningServer) -> None:
    if server.name == "redis":
        pytest.skip("redis-server's limit is 512 MiB")
    with server.client() as client:
        client.set("k" * 2048, "x")
        assert client.get("k" * 2048) == b"x"
        with pytest.raises(redis.ResponseError, match="exceeds"):
            client.set("k" * 2049, "x")
        assert client.get("k" * 100_000) is None


def test_patterns_that_branch_endlessly_end(server: RunningServer, bounded: Bounded) -> None:
    with server.client() as client, bounded(64 * MIB):
        client.set("a" * 2000, "x")
        assert client.keys("a*" * 500 + "b") == []
        assert client.keys("*a" * 20 + "*") != []
        assert client.scan(0, match="a*" * 500 + "b", count=1000)[1] == []
        assert client.acl_dryrun("default", "GET", "a" * 2000) == b"OK"


def test_longest_common_subsequence_of_long_values_is_bounded(
    server: RunningServer, bounded: Bounded
) -> None:
    with server.client() as client, bounded(256 * MIB):
        client.mset({"a": "ab" * 500_000, "b": "ba" * 500_000})
        with pytest.raises(redis.ResponseError):
            client.lcs("a", "b")


def test_queue_of_a_transaction_is_freed(server: RunningServer, bounded: Bounded) -> None:
    value = b"x" * 10_000
    with server.client() as client, bounded(512 * MIB):
        for ending in ("EXEC", "DISCARD", "closed"):
            with server.connect(timeout=60) as sock:
                sock.sendall(
                    b"MULTI\r\n" + b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$10000\r\n%s\r\n" % value * 10_000
                )
                if ending != "closed":
                    sock.sendall(ending.encode() + b"\r\nECHO over\r\n")
                    read_until(sock, b"over\r\n")
        wait_until(lambda: len(client.client_list()) <= 2, "the last one is forgotten")
        assert client.strlen("key") == len(value)


@pytest.mark.soak
def test_queue_of_tiny_requests_is_bounded_by_the_memory_it_takes(
    server: RunningServer, bounded: Bounded
) -> None:
    if server.name == "redis":
        pytest.skip("redis-server's queue has no bound")
    with server.connect(timeout=300) as sock, bounded(1600 * MIB):
        sock.sendall(b"MULTI\r\n")
        for _ in range(200):
            sock.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n" * 100_000)
            read_until(sock, b"\r\n")
        sock.sendall(b"DISCARD\r\nECHO over\r\n")
        read_until(sock, b"over\r\n")


def read_until(sock: socket.socket, mark: bytes) -> None:
    tail = b""
    while not tail.endswith(mark):
        data = sock.recv(1 << 20)
        assert data, "closed"
        tail = (tail + data)[-len(mark) :]


def test_names_of_channels_have_a_bound(server: RunningServer, bounded: Bounded) -> None:
    if server.name == "redis":
        pytest.skip("redis-server has no such bound")
    with server.client() as client, server.connect(timeout=60) as sock, bounded(700 * MIB):
        for number in range(300):
            name = b"%0999999d" % number
            sock.sendall(b"*2\r\n$9\r\nSUBSCRIBE\r\n$999999\r\n%s\r\n" % name)
            kind = sock.recv(4)
            if kind == b"-ERR":
                break
            read_until(sock, name + b"\r\n:%d\r\n" % (number + 1))
        else:
            raise AssertionError("300 MB of names were taken")
        assert len(client.pubsub_channels()) < 300


def test_watched_keys_have_a_bound(server: RunningServer, bounded: Bounded) -> None:
    if server.name == "redis":
        pytest.skip("redis-server has no such bound")
    with server.client() as client, client.pipeline() as pipeline, bounded(128 * MIB):
        with pytest.raises(redis.ResponseError, match="cannot watch more"):
            pipeline.watch(*(f"key:{number}" for number in range(100_001)))
        pipeline.reset()
        assert client.ping()


SCRIPTS_THAT_FILL_MEMORY = {
    "table": "local t = {} while true do t[#t + 1] = {} end",
    "strings": "local t = {} while true do t[#t + 1] = string.rep('x', 1e6) .. #t end",
    "one string": "return string.rep('x', 1e10)",
    "doubling": "local s = 'x' while true do s = s .. s end",
    "reply": "local r = {} for i = 1, 1e7 do r[i] = 'x' .. i end return r",
    "concat": "local t = {} for i = 1, 1e6 do t[i] = string.rep('x', 1000) end return table.concat(t)",
    "cjson": "local t = {} for i = 1, 1e7 do t[i] = i end return cjson.encode(t)",
}


@pytest.mark.parametrize("name", SCRIPTS_THAT_FILL_MEMORY)
def test_script_that_fills_memory_fails_alone(server: RunningServer, bounded: Bounded, name: str) -> None:
    if server.name == "redis":
        pytest.skip("redis-server does not bound a script's memory")
    with server.client(socket_timeout=60) as client:
        client.eval("return 1", 0)
        client.config_set("lua-time-limit", 60_000)  # on a busy machine filling takes longer than usual
        with bounded(512 * MIB):
            for _ in range(2):
                with pytest.raises(redis.ResponseError):
                    client.eval(SCRIPTS_THAT_FILL_MEMORY[name], 0)
        assert client.eval("return redis.call('SET', KEYS[1], 'x')", 1, "key") == b"OK"


def test_endless_script_makes_others_busy_until_it_is_killed(server: RunningServer) -> None:
    with server.client() as client:
        client.config_set("lua-time-limit", 50)
    with server.connect() as stuck:
        stuck.sendall(b"EVAL 'while true do end' 0\r\n")
        # Who comes now cannot be part of the tick that the script holds up.
        with server.connect() as other:
            other.sendall(b"PING\r\nSCRIPT KILL\r\n")
            received = b""
            while not received.endswith(b"\r\n+OK\r\n"):
                received += other.recv(1024)
        assert received.startswith(b"-BUSY ")
        assert stuck.recv(1024).startswith(b"-ERR")


def test_many_distinct_scripts_do_not_pile_up(server: RunningServer, bounded: Bounded) -> None:
    if server.name == "redis":
        pytest.skip("redis-server 7.0 keeps every script")
    with server.client() as client:
        client.eval("return 0", 0)
        with bounded(192 * MIB):
            for start in range(0, 20_000, 500):
                pipeline = client.pipeline(transaction=False)
                for number in range(start, start + 500):
                    pipeline.eval(f"return {number} -- {'x' * 1000}", 0)
                assert pipeline.execute()[-1] == start + 499


def test_walks_over_many_keys_let_the_others_through(server: RunningServer, bounded: Bounded) -> None:
    count = 300_000
    fill(server, count)
    with server.client(socket_timeout=100) as client:
        with bounded(1024 * MIB):
            assert len(client.keys("*")) == count + 1  # the neighbour's own
            assert client.keys("no:such:prefix*") == []
        with bounded(512 * MIB):
            assert client.flushall()
            wait_until(lambda: client.dbsize() <= 1, "all is gone")
