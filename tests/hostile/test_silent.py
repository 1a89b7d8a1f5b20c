"""Clients that do next to nothing, by the thousand, and clients that go away in the middle."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hostile.watch import MIB, Bounded
from tests.servers import Client, RunningServer, kvd_server, target_server, wait_until

CONNECTIONS = 10_000
# Files besides the connections that a server, or this process, has open.
OTHER_FILES = 500
CONNECTION_BYTES_MAX = 40_000


def reset(sock: socket.socket) -> None:
    """Close with a reset: the server learns of it as of a client that crashed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def count_of_clients(client: Client) -> int:
    return int(client.info("clients")["connected_clients"])


def connect_many(server: RunningServer, count: int) -> list[socket.socket]:
    """Open connections, so many at once that they fit into the queue of those not yet accepted.

    What does not fit is tried again by the kernel a second later.
    """
    sockets: list[socket.socket] = []
    for start in range(0, count, 250):
        sockets += [server.connect() for _ in range(min(250, count - start))]
        assert_answers(sockets[-1])
    return sockets


def assert_answers(sock: socket.socket) -> None:
    sock.sendall(b"PING\r\n")
    assert sock.recv(64) == b"+PONG\r\n"


def test_requests_that_arrive_byte_by_byte_are_served(server: RunningServer, bounded: Bounded) -> None:
    request = b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$5\r\nvalue\r\n"
    with ExitStack() as stack, bounded(32 * MIB):
        sockets = [stack.enter_context(server.connect()) for _ in range(500)]
        for place in range(len(request)):
            for sock in sockets:
                sock.sendall(request[place : place + 1])
        for sock in sockets:
            assert sock.recv(64) == b"+OK\r\n"


def test_requests_at_a_byte_a_second_are_served(server: RunningServer, bounded: Bounded) -> None:
    with ExitStack() as stack, bounded(32 * MIB):
        sockets = [stack.enter_context(server.connect()) for _ in range(500)]
        for byte in b"PING\r\n":
            time.sleep(1)
            for sock in sockets:
                sock.sendall(bytes([byte]))
        for sock in sockets:
            assert sock.recv(64) == b"+PONG\r\n"


@pytest.fixture
def roomy_server(tmp_path: Path, many_files: int) -> Iterator[tuple[RunningServer, int]]:
    """A server that takes ten thousand clients, or as many as the limit of open files allows."""
    count = min(CONNECTIONS, many_files - OTHER_FILES)
    assert count >= 1000, "the hard limit of open files leaves no room for this test"
    if count < CONNECTIONS:
        print(f"{count} connections instead of {CONNECTIONS}: the hard limit of open files is {many_files}")
    with target_server(tmp_path, "--set", f"server.maxclients={count}") as server:
        yield server, count


def test_ten_thousand_connections_are_served(roomy_server: tuple[RunningServer, int]) -> None:
    server, count = roomy_server
    before = server.resident_bytes()
    with ExitStack() as stack:
        started = time.perf_counter()
        sockets = [stack.enter_context(sock) for sock in connect_many(server, count)]
        for sock in sockets:
            assert_answers(sock)
        print(f"{count} clients connected and answered in {time.perf_counter() - started:.2f} s")
        for number, sock in enumerate(sockets):
            sock.sendall(b"INCR everyone\r\nGET own:%d\r\n" % number)
        answers = {sock.recv(64) for sock in sockets}
        assert len(answers) == count  # each got a number of its own
        a_client = (server.resident_bytes() - before) / count
        print(f"{a_client:.0f} bytes of the server's memory for each client")
        assert a_client < CONNECTION_BYTES_MAX
        if server.name == "kvd":
            with server.connect() as one_more:
                assert one_more.recv(64) == b"-ERR max number of clients reached\r\n"
                assert one_more.recv(64) == b""
    with server.client() as client:
        wait_until(lambda: count_of_clients(client) == 1, "all of them are forgotten", seconds=60)


def test_waves_of_connections_do_not_add_up(roomy_server: tuple[RunningServer, int]) -> None:
    server, count = roomy_server
    resident: list[int] = []
    with server.client() as client:
        for _ in range(3):
            for sock in connect_many(server, count // 2):
                assert_answers(sock)
                reset(sock)
            wait_until(lambda: count_of_clients(client) == 1, "the wave is forgotten", seconds=60)
            resident.append(server.resident_bytes())
    print("after each wave:", ", ".join(f"{size / MIB:.1f} MiB" for size in resident))
    assert resident[-1] - resident[0] < 24 * MIB


def come_and_go(server: RunningServer, client: Client, count: int) -> None:
    """Open `count` connections, a hundred at a time, say a part of something, and go without a word.

    `client` is a connection that stays: it tells when the server has had a tick for each hundred.
    """
    openings = itertools.cycle(
        [
            b"",
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\nhalf",
            b"*1\r\n$4\r\nPI",
            b"MULTI\r\nSET half 1\r\n",
            b"SUBSCRIBE news\r\nPSUBSCRIBE n*\r\n",
            b"HELLO 3\r\nCLIENT TRACKING ON BCAST\r\n",
            b"WATCH half\r\nCLIENT SETNAME leaver\r\n",
            b"GET k\r\n" * 100,
        ]
    )
    for _ in range(0, count, 100):
        sockets = [server.connect() for _ in range(100)]
        for sock in sockets:
            sock.sendall(next(openings))
        for number, sock in enumerate(sockets):
            if number % 20:
                reset(sock)  # and the port is free again at once
            else:
                sock.close()
        client.ping()


def sessions_leave_nothing_behind(server: RunningServer, sessions: int) -> None:
    with server.client() as client:
        # The first ones fill what is kept for good: allocator arenas, caches, tables.
        come_and_go(server, client, 4_000)
        wait_until(lambda: count_of_clients(client) == 1, "the first sessions are forgotten")
        before = server.resident_bytes()
        come_and_go(server, client, sessions)
        wait_until(lambda: count_of_clients(client) == 1, "all sessions are forgotten")
        growth = server.resident_bytes() - before
        print(f"{sessions} sessions left {growth / MIB:.2f} MiB behind")
        assert growth < 4 * MIB
        assert client.pubsub_numsub("news") == [(b"news", 0)]
        assert client.pubsub_numpat() == 0
        assert client.get("half") is None
        assert client.publish("news", "x") == 0


def test_sessions_that_vanish_leave_nothing_behind(server: RunningServer) -> None:
    sessions_leave_nothing_behind(server, 4_000)


@pytest.mark.soak
def test_a_million_sessions_leave_nothing_behind(server: RunningServer) -> None:
    sessions_leave_nothing_behind(server, 1_000_000)


def test_vanishing_while_large_replies_are_sent_frees_them(server: RunningServer, bounded: Bounded) -> None:
    with server.client() as client:
        client.set("large", b"x" * MIB)
        with bounded(256 * MIB):
            for _ in range(50):
                sock = server.connect(receive_buffer=4096)
                sock.sendall(b"GET large\r\n" * 100)
                sock.recv(10)
                reset(sock)
        wait_until(lambda: count_of_clients(client) == 1, "all of them are forgotten")


def test_idle_clients_are_closed_when_the_setting_says_so(tmp_path: Path) -> None:
    with (
        kvd_server(tmp_path, "--set", "server.idle_timeout_seconds=1") as server,
        server.connect() as idle,
        server.connect() as subscriber,
    ):
        subscriber.sendall(b"SUBSCRIBE news\r\n")
        assert subscriber.recv(1024).startswith(b"*3")
        idle.sendall(b"PING\r\nGET half")
        assert idle.recv(64) == b"+PONG\r\n"
        assert idle.recv(64) == b""
        with server.client() as client:
            assert client.publish("news", "still there") == 1
