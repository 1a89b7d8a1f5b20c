"""Change streams of those who may not listen any more: they end at the next event, or sign of life."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio

from kvd.listeners import PlainListener, open_tcp
from kvd.web import front
from kvd.web.door import HttpDoor
from kvd.web.router import find_route
from kvd.web.session import HttpSession
from kvd.web.tokens import ADMIN, READ
from storage.errors import Unavailable
from tests.kvd.harness import Client
from tests.kvd.live import Running, receive_to_end, running
from tests.kvd.web.web_harness import Web, encode

TARGET = "/kvd/v1/namespaces/one/changes?prefix=a"
SIGN_OF_LIFE = b"3\r\n:\n\n\r\n"
Change = Callable[[Web], None]


@pytest.fixture
def web() -> Web:
    web = Web()
    web.create("one")
    web.create("other")
    return web


def make(web: Web, right: int = READ, namespace: str | None = None, expires_ms: int | None = None) -> str:
    named = None if namespace is None else frozenset({web.keyspace(namespace).id})
    _, text = web.front.gatekeeper.tokens.create("test", right, named, expires_ms)
    web.server.store.commit()
    return text


def listen(web: Web, credential: str | None = None) -> HttpSession:
    session = web.connect()
    headers: dict[str, str | bytes] = {} if credential is None else {"Authorization": credential}
    assert b"text/event-stream" in web.raw(encode("GET", TARGET, headers=headers), session)
    return session


def heard(stream: HttpSession) -> bytes:
    assert not stream.closing
    return stream.take_output()


def has_ended(stream: HttpSession) -> bool:
    """Tell whether a stream was ended, with not a word more."""
    return stream.close_reason == "may not listen any more" and not stream.take_output()


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


def happen(web: Web, name: str = "a") -> None:
    """Let a key change."""
    web.server.store.begin(web.server.clock.now_ms)
    web.keyspace("one").put(name.encode(), b"v")
    web._tick(web.connect(), b"")


def ping(web: Web) -> None:
    web.server.store.begin(web.server.clock.now_ms)
    web.front.feeds.ping()


def revoke(web: Web) -> None:
    tokens = web.front.gatekeeper.tokens
    for token in tokens.list():
        if token.right == READ:
            tokens.revoke(token.id)
    web.server.store.commit()


def narrow(web: Web) -> None:
    """Write the token's record anew, as it would be for another namespace."""
    records = web.server.store.keyspaces.cluster
    for token in web.front.gatekeeper.tokens.list():
        if token.right == READ:
            other = attrs.evolve(token, namespaces=frozenset({web.keyspace("other").id}))
            records.put(b"token:" + token.id.encode(), other.encode())
    web.server.store.commit()


def expire(web: Web) -> None:
    web.server.clock.advance(60_000)


def make_unreadable(web: Web) -> None:
    def fail(token_id: bytes) -> None:
        raise Unavailable("/nowhere", "the disk is ill")

    pytest.MonkeyPatch().setattr(web.front.gatekeeper.tokens, "record_of", fail)  # they live for one test


@pytest.mark.parametrize("sign", [happen, ping])
@pytest.mark.parametrize("change", [revoke, narrow, expire, make_unreadable])
def test_a_stream_ends_with_its_token(web: Web, change: Change, sign: Change) -> None:
    make(web, ADMIN)
    token = make(web, expires_ms=web.server.clock.now_ms + 60_000)
    stream = listen(web, f"Bearer {token}")
    sign(web)
    assert heard(stream)
    change(web)
    sign(web)
    assert has_ended(stream)
    assert not web.front.feeds.active


@pytest.mark.parametrize("sign", [happen, ping])
def test_the_streams_of_other_tokens_go_on(web: Web, sign: Change) -> None:
    streams = [listen(web, f"Bearer {make(web, ADMIN, 'one')}"), listen(web, f"Bearer {make(web, READ)}")]
    revoke(web)
    sign(web)
    assert [stream.closing for stream in streams] == [False, True]
    assert streams[0].take_output()


def test_an_event_of_the_commit_that_revokes_is_not_told(web: Web) -> None:
    stream = listen(web, f"Bearer {make(web)}")
    web.server.store.begin(web.server.clock.now_ms)
    for name in (b"a1", b"a2", b"a3"):
        web.keyspace("one").put(name, b"v")
    (token,) = web.front.gatekeeper.tokens.list()
    web.front.gatekeeper.tokens.revoke(token.id)
    web._tick(web.connect(), b"")
    assert has_ended(stream)


def test_an_expired_key_is_an_event_too(web: Web) -> None:
    stream = listen(web, f"Bearer {make(web, expires_ms=web.server.clock.now_ms + 10)}")
    web.keyspace("one").put(b"a", b"v", web.server.clock.now_ms + 5)
    web.server.store.commit()
    web.server.clock.advance(10)
    web.server.store.begin(web.server.clock.now_ms)
    web.server.store.sweep(10)
    web.server.store.commit()
    assert has_ended(stream)


@pytest.mark.parametrize("sign", [happen, ping, lambda web: happen(web, "a-hidden")])
@pytest.mark.parametrize("rules", [["off"], [">new", "<pw"], ["-kv.list"], ["nopass"], None], ids=str)
def test_a_stream_ends_with_its_user(web: Web, rules: list[str] | None, sign: Change) -> None:
    make(web, ADMIN)
    redis = Client(web.server)
    redis.send("ACL", "SETUSER", "alice", "on", ">pw", "~a*", "+@read")
    stream = listen(web, basic("alice:pw"))
    redis.send("ACL", "SETUSER", "alice", "~b*", "resetkeys", "~a")  # what it may see changes: it goes on
    sign(web)
    heard(stream)
    redis.send(*(["ACL", "DELUSER", "alice"] if rules is None else ["ACL", "SETUSER", "alice", *rules]))
    sign(web)
    assert has_ended(stream)


@pytest.mark.parametrize("sign", [happen, ping])
def test_a_stream_of_everybody_ends_when_a_token_is_needed(web: Web, sign: Change) -> None:
    stream = listen(web)
    sign(web)
    heard(stream)
    make(web, ADMIN)
    sign(web)
    assert has_ended(stream)


# ---------------------------------------------------------------- over sockets


@contextlib.asynccontextmanager
async def http_running() -> AsyncIterator[tuple[Running, front.Front, int]]:
    """Run a hub with an HTTP port, its clock looked at a hundred times a second."""
    async with running() as live, trio.open_nursery() as nursery:
        server = live.server
        server.web = web = front.Front(server, find_route)
        (sock,) = open_tcp(attrs.evolve(server.settings.server, bind=("127.0.0.1",)), 0)
        listener = PlainListener(sock, server, HttpDoor(server, web))
        live.hub.add_listener(listener)
        nursery.start_soon(web.watch)
        try:
            yield live, web, listener.port
        finally:
            listener.close()
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def listening(port: int, token: str) -> AsyncIterator[trio.SocketStream]:
    """Give a stream that has begun."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        target = "/kvd/v1/namespaces/db0/changes"
        await stream.send_all(encode("GET", target, headers={"Authorization": f"Bearer {token}"}))
        await receive_until(stream, SIGN_OF_LIFE)
        yield stream


async def receive_until(stream: trio.SocketStream, expected: bytes) -> None:
    data = b""
    while expected not in data:
        part = await stream.receive_some()
        assert part, data
        data += part


async def test_a_stream_ends_at_the_event_after_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "PING_SECONDS", 3600.0)
    with trio.fail_after(30):
        async with http_running() as (live, web, port):
            hub, keyspace, tokens = live.hub, live.server.store.keyspace(0), web.gatekeeper.tokens
            token, text = hub.exclusively(lambda: tokens.create("test", READ))
            async with listening(port, text) as stream:
                hub.exclusively(lambda: keyspace.put(b"told", b"v"))
                await receive_until(stream, b'"told"')
                hub.exclusively(lambda: tokens.revoke(token.id))
                hub.exclusively(lambda: keyspace.put(b"secret", b"v"))
                assert b"secret" not in await receive_to_end(stream)


async def test_a_stream_without_events_ends_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "PING_SECONDS", 0.0)
    monkeypatch.setattr(front, "_WATCH_SECONDS", 0.01)
    with trio.fail_after(30):
        async with http_running() as (live, web, port):
            hub, tokens = live.hub, web.gatekeeper.tokens
            token, text = hub.exclusively(lambda: tokens.create("lasting", READ))
            in_a_moment_ms = live.server.store.now_ms + 300
            _, brief = hub.exclusively(lambda: tokens.create("brief", READ, None, in_a_moment_ms))
            async with listening(port, text) as lasting, listening(port, brief) as stream:
                await receive_to_end(stream)
                await receive_until(lasting, SIGN_OF_LIFE * 20)
                hub.exclusively(lambda: tokens.revoke(token.id))
                await receive_to_end(lasting)
