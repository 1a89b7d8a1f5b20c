"""Clients that send and do not read: what waits for them is bounded, and comes whole when they read."""

from __future__ import annotations

import selectors
import socket
import threading
from pathlib import Path

import pytest

from tests.hostile.watch import MIB, Bounded
from tests.servers import Client, RunningServer, kvd_server, wait_until

MILLION = 1_000_000


def send_without_reading(sock: socket.socket, data: bytes, *, patience_seconds: float = 2.0) -> int:
    """Send until all is sent or the server has taken nothing for a while; return how much it took."""
    view = memoryview(data)
    sent = 0
    sock.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while sent < len(view) and selector.select(patience_seconds):
            sent += sock.send(view[sent : sent + MIB])
    sock.setblocking(True)
    return sent


def test_a_million_requests_are_answered_to_who_reads_later(server: RunningServer, bounded: Bounded) -> None:
    with server.connect(timeout=120) as sock, bounded(192 * MIB):
        pipeline = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n" * MILLION
        assert send_without_reading(sock, pipeline, patience_seconds=60) == len(pipeline)
        expected = sum(len(b":%d\r\n" % number) for number in range(1, MILLION + 1))
        received, tail = read_exactly(sock, expected)
        assert received == expected
        assert tail.endswith(b":999999\r\n:1000000\r\n")


def read_exactly(sock: socket.socket, count: int) -> tuple[int, bytes]:
    """Read `count` bytes; return how many came and the last few of them."""
    received, tail = 0, b""
    while received < count:
        data = sock.recv(min(MIB, count - received))
        if not data:
            break
        received += len(data)
        tail = (tail + data)[-64:]
    return received, tail


AMPLIFIERS = {
    "large values": (b"GET large\r\n", 20_000),
    "documentation": (b"COMMAND DOCS\r\n", 300),
    "command table": (b"COMMAND\r\n", 1_000),
    "information": (b"INFO everything\r\n", 10_000),
    "several large values": (b"MGET large large large large large large large large\r\n", 2_000),
    "values in a transaction": (b"MULTI\r\n" + b"GET large\r\n" * 100 + b"EXEC\r\n", 100),
    "values from a script": (
        b"EVAL \"local r = {} for i = 1, 50 do r[i] = redis.call('GET', 'large') end return r\" 0\r\n",
        200,
    ),
}


@pytest.mark.parametrize("name", AMPLIFIERS)
def test_small_requests_for_large_replies_wait_for_the_reader(
    server: RunningServer, bounded: Bounded, name: str
) -> None:
    if server.name == "redis":
        pytest.skip("redis-server keeps every reply, however many")
    request, count = AMPLIFIERS[name]
    with server.client() as client:
        client.set("large", b"x" * 100_000)
    with server.connect(timeout=120, receive_buffer=65536) as sock:
        sock.sendall(request)
        sock.sendall(b"ECHO first-is-over\r\n")
        first = read_until(sock, b"$13\r\nfirst-is-over\r\n")
        with bounded(160 * MIB):
            pipeline = request * count
            sent = send_without_reading(sock, pipeline)
            let_ticks_pass(server)
            whole = sent // len(request)
            assert whole > 10
        if sent < len(pipeline):
            # The rest of the last request, sent only now that replies are read.
            threading.Thread(target=sock.sendall, args=(request[sent % len(request) :],)).start()
            whole += 1
        read_replies(sock, first, whole)


def let_ticks_pass(server: RunningServer) -> None:
    """Come back once the server has turned to all its clients many times."""
    with server.client() as client:
        for _ in range(200):
            client.ping()


def read_until(sock: socket.socket, mark: bytes) -> int:
    """Read up to `mark` and return how many bytes came before it."""
    received = b""
    while not received.endswith(mark):
        data = sock.recv(MIB)
        assert data, "closed"
        received += data
    return len(received) - len(mark)


def read_replies(sock: socket.socket, size: int, count: int) -> None:
    """Read `count` replies of about `size` bytes (figures in them may change) and find the end of the last."""
    read_exactly(sock, max(0, size * count - 64 * count))
    sock.sendall(b"ECHO all-is-over\r\n")
    read_until(sock, b"$11\r\nall-is-over\r\n")


def wait_until_gone(client: Client, name: str) -> None:
    def gone() -> bool:
        return all(entry["name"] != name for entry in client.client_list())

    wait_until(gone, f"{name} is closed", seconds=90)


def publish_until_closed(client: Client) -> None:
    message = b"x" * MIB
    for _ in range(1000):
        if client.publish("news", message) == 0:
            return
    raise AssertionError("the subscriber was never closed")


@pytest.mark.parametrize("proto", [2, 3])
def test_a_subscriber_that_does_not_read_is_closed_at_its_limit(
    server: RunningServer, bounded: Bounded, proto: int
) -> None:
    with server.connect(receive_buffer=65536) as sock, server.client(decode_responses=True) as client:
        sock.sendall(b"HELLO %d SETNAME deaf\r\nSUBSCRIBE news\r\n" % proto)
        wait_until(lambda: client.pubsub_numsub("news") == [("news", 1)], "the subscription is made")
        with bounded(128 * MIB):
            publish_until_closed(client)
            wait_until_gone(client, "deaf")


def test_a_monitor_that_does_not_read_is_closed_at_its_limit(server: RunningServer, bounded: Bounded) -> None:
    with server.connect(receive_buffer=65536) as sock, server.client(decode_responses=True) as client:
        sock.sendall(b"CLIENT SETNAME deaf\r\nMONITOR\r\n")
        assert sock.recv(64).startswith(b"+OK")
        large = "x" * 100_000
        with bounded(192 * MIB):
            for _ in range(4000):
                client.echo(large)
                if server.name == "redis":
                    break  # its monitors are ordinary clients, without a limit
            else:
                wait_until_gone(client, "deaf")


def test_a_tracking_client_that_does_not_read_is_closed_at_its_limit(tmp_path: Path) -> None:
    limit = "clients.output_normal_hard_bytes=1mb"
    with (
        kvd_server(tmp_path, "--set", limit) as server,
        server.connect(receive_buffer=65536) as sock,
        server.client(decode_responses=True) as client,
    ):
        sock.sendall(b"HELLO 3 SETNAME deaf\r\nCLIENT TRACKING ON BCAST\r\n")
        wait_until(lambda: int(client.info("clients")["tracking_clients"]) == 1, "tracking is on")
        for start in range(0, 300_000, 1000):
            client.mset({f"a-key-of-some-length-{number}": "x" for number in range(start, start + 1000)})
        wait_until_gone(client, "deaf")


def test_many_clients_that_do_not_read_share_a_bound(server: RunningServer, bounded: Bounded) -> None:
    if server.name == "redis":
        pytest.skip("redis-server keeps every reply, however many")
    with server.client() as client:
        client.set("large", b"x" * MIB)
    sockets = [server.connect(receive_buffer=65536) for _ in range(60)]
    try:
        with bounded(1024 * MIB):
            for sock in sockets:
                sock.sendall(b"GET large\r\n" * 200)
            let_ticks_pass(server)
            for sock in sockets:
                assert sock.recv(64).startswith(b"$1048576\r\n")
    finally:
        for sock in sockets:
            sock.close()
