"""Storms of clients that come, ask for everything between a byte and a megabyte, and leave in every way there is.

Each checks all of its replies. When they are gone, none of their sessions is left, and the server rests.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import pytest
import trio

from tests.hostile.watch import assert_serves
from tests.kvd.harness import encode
from tests.servers import RunningServer, kvd_server, wait_until

CLIENT_COUNT: Final = 300
AT_ONCE: Final = 100
# Around what the hub reads at once.
SIZES: Final = [n + d for n in (100, 479, 65_536, 65_536 + 479, 300_000) for d in (-1, 0, 1)]
HOT: Final = b"h" * 100
GET: Final = encode("GET", "hot"), b"$100\r\n" + HOT + b"\r\n"
PING: Final = encode("PING"), b"+PONG\r\n"
RESET: Final = struct.pack("ii", 1, 0)

Exchange = tuple[bytes, bytes]  # what is sent, and what has to come back


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("storms")
    with kvd_server(directory, "--set", f"server.unix_socket={directory / 'resp.sock'}") as server:
        with server.client() as client:
            client.set("hot", HOT)
        url = f"http://127.0.0.1:{ports(server)['http']}/hot?urlencoded=true"
        with urllib.request.urlopen(urllib.request.Request(url, HOT, method="PUT"), timeout=60) as answer:
            assert answer.status == 200
        yield server
        assert_serves(server)


def resp_exchange(chance: random.Random) -> Exchange:
    """Return some requests, and their replies."""
    kind = chance.randrange(6)
    if kind < 2:
        return GET
    if kind == 2:
        return filled(chance.choice(SIZES)), b"+OK\r\n"
    if kind == 3:
        return joined([PING] * chance.choice([2, 34, 5000]))
    if kind == 4:
        return joined(chance.choices([GET, PING], k=chance.choice([2, 25, 26, 3000])))
    return joined([GET, (filled(chance.choice(SIZES)), b"+OK\r\n"), GET])


def filled(size: int) -> bytes:
    """Return a SET of `size` bytes."""
    rough = encode("SET", "filled", b"x" * size)
    return encode("SET", "filled", b"x" * (2 * size - len(rough)))


def http_exchange(chance: random.Random) -> Exchange:
    kind = chance.randrange(6)
    if kind < 2:
        return http_get(0)
    if kind == 2:
        return http_get(chance.choice(SIZES[:6]))
    if kind == 3:
        return joined([http_get(0)] * chance.choice([2, 600]))
    put = http_put(chance.choice([0, 100, 65_536, 300_000]))
    return put if kind == 4 else joined([http_get(0), put, http_get(479)])


def http_get(size: int) -> Exchange:
    """Return a read of the hot key whose head has `size` bytes, or as few as it takes."""
    head = b"GET /hot?urlencoded=true HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n"
    return head % (b"x" * (size - len(head) + 2)), HOT


def http_put(size: int) -> Exchange:
    head = b"PUT /filled?urlencoded=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    return head + b"x" * size, b""


def joined(exchanges: list[Exchange]) -> Exchange:
    return b"".join(sent for sent, _ in exchanges), b"".join(back for _, back in exchanges)


def bodies(data: bytes) -> bytes:
    """Return the bodies of as many whole HTTP answers as there are, each of which must be a success."""
    found: list[bytes] = []
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return b"".join(found)
        assert head.startswith(b"HTTP/1.1 200 "), head
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        if len(rest) < size:
            return b"".join(found)
        found.append(rest[:size])
        data = rest[size:]


def answer_count(request: bytes) -> int:
    return request.count(b" HTTP/1.1\r\n")


class Client:
    def __init__(self, stream: trio.SocketStream, chance: random.Random, *, is_http: bool) -> None:
        self.stream = stream
        self.chance = chance
        self.is_http = is_http

    def exchange(self) -> Exchange:
        return http_exchange(self.chance) if self.is_http else resp_exchange(self.chance)

    async def run(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await self.ask(*self.exchange(), ends=False)
        await self.chance.choice([self.close, self.half_close, self.break_off, self.leave, self.vanish])()

    async def ask(self, request: bytes, expected: bytes, *, ends: bool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.send, request, ends)
            received = await self.receive(request, expected, ends=ends)
        assert received == expected, (request[:200], len(received), len(expected), received[-200:])

    async def send(self, request: bytes, ends: bool = False) -> None:
        cut = self.chance.choice([len(request), self.chance.randrange(len(request)), 479, 65_536])
        await self.stream.send_all(request[:cut])
        await self.stream.send_all(request[cut:])
        if ends:
            await self.stream.send_eof()

    async def receive(self, request: bytes, expected: bytes, *, ends: bool) -> bytes:
        """Return what comes back: all of it until the end, or as much as is to come."""
        data = bytearray()
        heads = answer_count(request)

        def is_whole() -> bool:
            if not self.is_http:
                return len(data) >= len(expected)
            return (
                data.count(b"HTTP/1.1 ") >= heads
                and len(bodies(bytes(data))) >= len(expected)
                and data.endswith((b"\r\n\r\n", HOT))
            )

        while ends or not is_whole():
            part = await self.stream.receive_some()
            if not part:
                break
            data += part
        return bodies(bytes(data)) if self.is_http else bytes(data)

    # --- ways to leave

    async def close(self) -> None:
        """All is answered."""

    async def half_close(self) -> None:
        """Say that nothing more comes, behind requests whose answers are small: these come all the same.

        What the kernel does not take at once of large ones is lost with the end of the client, as in Redis.
        """
        request, expected = self.exchange()
        if len(expected) + 200 * answer_count(request) < 10_000:
            await self.ask(request, expected, ends=True)

    async def break_off(self) -> None:
        await self.send(self.exchange()[0])
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def leave(self) -> None:
        """Close without reading, which is a reset if there was something to be read."""
        await self.send(self.exchange()[0])

    async def vanish(self) -> None:
        """Leave in the middle of a request."""
        request, _ = self.exchange()
        with_end = self.chance.random() < 0.5
        await self.stream.send_all(request[: self.chance.randrange(len(request))])
        if with_end:
            await self.stream.send_eof()
            with contextlib.suppress(trio.BrokenResourceError):
                while await self.stream.receive_some():
                    pass


async def storm(connect: Callable[[], Awaitable[trio.SocketStream]], seed: int, *, is_http: bool) -> None:
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(number: int) -> None:
        async with limit, await connect() as stream:
            await Client(stream, random.Random(f"{seed} {number}"), is_http=is_http).run()

    async with trio.open_nursery() as nursery:
        for number in range(CLIENT_COUNT):
            nursery.start_soon(one, number)


def assert_rests(server: RunningServer) -> None:
    """Assert that nobody is left but who asks, and that the server does nothing when nobody asks."""
    with server.client() as client:
        wait_until(lambda: len(client.client_list()) == 1, "all are forgotten")
        wait_until(lambda: not client.execute_command("CLIENT", "LIST", "TYPE", "http"), "of HTTP as well")
    ticks = ticks_of(server)
    time.sleep(0.5)
    assert ticks_of(server) - ticks < 100


def ticks_of(server: RunningServer) -> int:
    """Return how many turns the hub has taken so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ports(server)['http']}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith("kvd_ticks_total ")]
    return int(line.split()[1])


def ports(server: RunningServer) -> dict[str, int]:
    found: dict[str, int] = json.loads((server.log_file.parent / "ports.json").read_text())
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 5))])
@pytest.mark.parametrize("way", ["tcp", "unix", "http"])
async def test_a_storm_leaves_nothing_behind(server: RunningServer, way: str, seed: int) -> None:
    if way == "unix":
        path = server.log_file.parent / "resp.sock"
        await storm(partial(trio.open_unix_socket, path), seed, is_http=False)
    else:
        port = ports(server)["resp" if way == "tcp" else "http"]
        await storm(partial(trio.open_tcp_stream, "127.0.0.1", port), seed, is_http=way == "http")
    assert_rests(server)
