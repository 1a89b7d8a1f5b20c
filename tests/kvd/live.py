"""A hub over real sockets in the test's own nursery: what the tests of the hub and its connections share."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from kvd.daemon import spawner
from kvd.hub import Hub
from kvd.listeners import PlainListener, open_tcp
from kvd.poller import Poller, SelectorPoller, open_poller
from kvd.server import Server
from kvd.settings import Settings
from storage.engine_memory import MemoryEngine
from storage.store import Store
from tests.kvd.harness import encode

Open = Callable[[], Poller]
both_pollers = pytest.mark.parametrize(
    "open_one",
    [pytest.param(open_poller, id="platform"), pytest.param(SelectorPoller, id="portable")],
)


@attrs.define
class Running:
    """A hub that runs in the test's own nursery, with a listener on a free port."""

    server: Server
    hub: Hub
    engine: MemoryEngine
    port: int

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def connect_small(self) -> trio.SocketStream:
        """Connect with a small receive buffer, so that what is not read backs up at once."""
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(("127.0.0.1", self.port))
        return trio.SocketStream(sock)


def settings_with(**server: Any) -> Settings:
    return attrs.evolve(Settings(), server=attrs.evolve(Settings().server, **server))


@contextlib.asynccontextmanager
async def running(settings: Settings | None = None, poller: Poller | None = None) -> AsyncIterator[Running]:
    settings = settings or Settings()
    engine = MemoryEngine()
    server = Server(settings, Store(engine))
    hub = Hub(server, poller or open_poller())
    (sock,) = open_tcp(attrs.evolve(settings.server, bind=("127.0.0.1",)), 0)
    listener = PlainListener(sock, server)
    hub.add_listener(listener)
    # Closed by the stack, so that a test that fails leaves no socket to the collector, and so to another test.
    with contextlib.ExitStack() as resources:
        resources.callback(hub.close)
        resources.callback(listener.close)
        async with trio.open_nursery() as nursery:
            server.spawn = spawner(server, nursery)
            nursery.start_soon(hub.run)
            try:
                yield Running(server, hub, engine, listener.port)
            finally:
                nursery.cancel_scope.cancel()


class Interposed:
    """A poller that lets a client act before and after each look of the hub, without a checkpoint in between.

    The client could be a thread; but a thread of this process would need the interpreter's lock, which a
    script lets go of too briefly for it on a busy machine.
    """

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.register = poller.register
        self.modify = poller.modify
        self.unregister = poller.unregister
        self.wait = poller.wait
        self.close = poller.close
        self.before: Callable[[], None] = lambda: None
        self.act: Callable[[list[tuple[int, int]]], None] = lambda _events: None

    def poll(self, timeout_seconds: float = 0) -> list[tuple[int, int]]:
        self.before()
        events = self.poller.poll(timeout_seconds)
        self.act(events)
        return events


def plain_socket(stream: trio.SocketStream) -> socket.socket:
    """Return the socket beneath a stream: what is done with it is done without a checkpoint, so without a tick."""
    sock: socket.socket = stream.socket._sock  # type: ignore[attr-defined]
    return sock


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        assert part, f"closed after {bytes(data[-200:])!r}"
        data += part
    return bytes(data)


async def ask(stream: trio.abc.Stream, *arguments: object, expect: bytes) -> None:
    await stream.send_all(encode(*arguments))
    assert await receive_exactly(stream, len(expect)) == expect


async def receive_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    data = bytearray()
    with contextlib.suppress(trio.BrokenResourceError):
        while part := await stream.receive_some():
            data += part
    return bytes(data)


async def until(condition: Callable[[], object], what: str) -> None:
    with trio.move_on_after(20) as scope:
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.002)
    assert not scope.cancelled_caught, f"waited in vain: {what}"
