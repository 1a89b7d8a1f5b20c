"""A server without sockets: sessions are driven in the test's own thread, a tick a request.

    server = InProcessServer()
    client = Client(server)
    assert client.send("SET", "key", "value") == b"OK"

`send` returns what hiredis makes of the reply; errors come back as `hiredis.ReplyError` values. `raw`
returns the bytes. Requests of one `raw` call share a tick; its commit comes before its output, as in the
hub. Time stands where `Clock` says.
"""

from __future__ import annotations

import itertools
from typing import Any

import hiredis

from kvd.dispatch import storage_refusal
from kvd.server import Server
from kvd.session import Endpoint, Session
from kvd.settings import Settings
from storage.engine_memory import MemoryEngine
from storage.errors import StorageError
from storage.store import Store, StoreOptions

START_MS = 1_700_000_000_000

_ports = itertools.count(40_000)


class Clock:
    """The wall clock of a test, in ms since the epoch."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds


class InProcessServer(Server):
    """A server over an empty memory engine, and the clock of its ticks."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.clock = Clock()
        self.engine = MemoryEngine()
        settings = settings or Settings()
        options = StoreOptions(groups=frozenset(settings.peers.groups))
        super().__init__(settings, Store(self.engine, options, now_ms=self.clock.now_ms))


def encode(*arguments: object) -> bytes:
    """Return one request as an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def tick(server: InProcessServer, *inputs: tuple[Session, bytes]) -> bytes:
    """Feed sessions, commit, and let events and invalidations go, in the hub's order.

    Return what was answered at once.
    """
    at_once = b""
    store = server.store
    store.begin(server.clock.now_ms)
    for session, data in inputs:
        session.active_at_ms = store.now_ms
        answer = session.answer(data)
        if answer is None:
            session.receive(data)
        else:
            at_once += answer
    changes = store.changes if server.tracking.active else []
    try:
        if store.dirty:
            store.commit()
    except StorageError as failure:
        server.notifications.discard()
        server.tracking.discard()
        for session, _ in inputs:
            session.refuse_uncommitted(storage_refusal(failure))
        return at_once
    if changes:
        server.tracking.invalidate(changes)
    server.notifications.deliver()
    return at_once


class _UntimedSession(Session):
    """A session that holds nothing back because of the time that it took, on a machine that is busy."""

    def spend(self, nanoseconds: int) -> None:
        pass


class Client:
    """A client of an in-process server. Hands over requests, takes replies and pushes in order."""

    def __init__(self, server: InProcessServer, address: str | None = None, *, is_unix: bool = False) -> None:
        self.server = server
        address = address or f"127.0.0.1:{next(_ports)}"
        self.session = _UntimedSession(server, Endpoint(address, "127.0.0.1:6379", is_unix=is_unix))
        server.sessions[self.session.id] = self.session
        self._reader = hiredis.Reader()

    def raw(self, *requests: bytes) -> bytes:
        """Run encoded requests in one tick and return the bytes that came back, pushes included."""
        at_once = tick(self.server, (self.session, b"".join(requests)))
        return at_once + self.session.take_output()

    def send(self, *arguments: object) -> Any:
        """Run one request and return its reply (or the first push before it)."""
        self._reader.feed(self.raw(encode(*arguments)))
        return self.next()

    def next(self) -> Any:
        """Return the next reply or push; False if there is none."""
        self._reader.feed(self.session.take_output())
        return self._reader.gets()

    def close(self) -> None:
        """End the session as a closed connection does."""
        self.session.end()


def error(reply: Any) -> str:
    """Return the text of an error reply; fail on any other."""
    assert isinstance(reply, hiredis.ReplyError), reply
    return str(reply)
