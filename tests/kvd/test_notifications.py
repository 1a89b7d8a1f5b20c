"""Keyspace events: told after the commit, and only then."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from kvd import housekeeping
from kvd.settings import Settings
from storage.errors import NoSpace
from tests.kvd.harness import Client, InProcessServer, encode, error
from tests.kvd.live import ask, receive_exactly, running


def notifying(letters: str) -> InProcessServer:
    settings = Settings()
    return InProcessServer(
        attrs.evolve(settings, events=attrs.evolve(settings.events, notify_keyspace_events=letters))
    )


def listener(server: InProcessServer, pattern: str = "*") -> Client:
    client = Client(server)
    client.send("PSUBSCRIBE", pattern)
    return client


def heard(client: Client) -> list[Any]:
    found = []
    while message := client.next():
        found.append((message[2], message[3]))
    return found


def test_an_event_is_told_on_both_channels() -> None:
    server = notifying("KEA")
    ears = listener(server)
    Client(server).send("SET", "k", "1")
    assert heard(ears) == [(b"__keyspace@0__:k", b"set"), (b"__keyevent@0__:set", b"k")]


def test_nothing_is_told_before_the_commit_nor_when_it_fails() -> None:
    server = notifying("KEA")
    ears = listener(server)
    server.engine.fail_next(NoSpace("memory"))
    assert error(Client(server).send("SET", "k", "1"))
    assert heard(ears) == []
    server.store.probe()
    Client(server).send("SET", "k", "2")
    assert heard(ears) == [(b"__keyspace@0__:k", b"set"), (b"__keyevent@0__:set", b"k")]


def test_events_of_a_tick_come_in_order() -> None:
    server = notifying("KA")
    ears = listener(server)
    Client(server).raw(encode("SET", "k", "1"), encode("DEL", "k"), encode("SET", "l", "1"))
    assert heard(ears) == [
        (b"__keyspace@0__:k", b"set"),
        (b"__keyspace@0__:k", b"del"),
        (b"__keyspace@0__:l", b"set"),
    ]


def test_a_key_that_expires_is_told_by_the_sweep() -> None:
    server = notifying("Ex")
    ears = listener(server)
    Client(server).send("SET", "k", "1", "PX", "100")
    server.clock.advance(1000)
    assert Client(server).send("GET", "k") is None
    assert heard(ears) == []
    server.store.begin(server.clock.now_ms)
    server.store.sweep(100)
    assert server.notifications.pending
    server.notifications.deliver()
    assert heard(ears) == [(b"__keyevent@0__:expired", b"k")]


async def test_of_a_sweep_that_does_not_get_to_disk_nothing_is_told() -> None:
    events = attrs.evolve(Settings().events, notify_keyspace_events="Ex")
    async with running(attrs.evolve(Settings(), events=events)) as live, await live.connect() as ears:
        server, hub = live.server, live.hub
        told = b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$22\r\n__keyevent@0__:expired\r\n$1\r\nk\r\n"
        await ask(ears, "PSUBSCRIBE", "*", expect=b"*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n")
        hub.exclusively(lambda: server.store.keyspace(0).put(b"k", b"1", server.store.now_ms + 1))
        await trio.sleep(0.01)
        live.engine.fail_next(NoSpace("memory"))
        assert not housekeeping._sweep_slice(server, hub, 100)
        assert server.stats.expired_keys == 0
        assert not server.notifications.pending
        assert server.store.probe()
        assert not housekeeping._sweep_slice(server, hub, 100)
        hub.exclusively(lambda: server.pubsub.publish(b"last", b"1"))
        last = b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$4\r\nlast\r\n$1\r\n1\r\n"
        assert await receive_exactly(ears, len(told + last)) == told + last
        assert server.stats.expired_keys == 1


def test_a_miss_is_told_although_nothing_is_committed() -> None:
    server = notifying("Em")
    ears = listener(server)
    client = Client(server)
    commits = server.store.commits
    client.send("GET", "k")
    client.send("PING")
    assert heard(ears) == [(b"__keyevent@0__:keymiss", b"k")]
    assert server.store.commits == commits


def test_named_namespaces_are_told_by_their_id() -> None:
    server = notifying("Kg$")
    client = Client(server)
    namespace = client.send("KV.NS", "CREATE", "books")
    client.send("KV.NS", "USE", "books")
    ears = listener(server)
    client.send("SET", "k", "1")
    assert heard(ears) == [(b"__keyspace@%b__:k" % namespace, b"set")]


def test_the_choice_can_be_changed_and_covers_namespaces_made_later() -> None:
    server = notifying("")
    client = Client(server)
    ears = listener(server, "__key*")
    client.send("SET", "k", "1")
    assert heard(ears) == []
    assert client.send("CONFIG", "SET", "notify-keyspace-events", "Eg") == b"OK"
    client.raw(encode("SET", "k", "2"), encode("DEL", "k"))
    assert heard(ears) == [(b"__keyevent@0__:del", b"k")]
    client.raw(encode("KV.NS", "CREATE", "later"), encode("KV.NS", "USE", "later"))
    client.raw(encode("SET", "k", "2"), encode("DEL", "k"))
    assert len(heard(ears)) == 1


@pytest.mark.parametrize("letters", ["", "KEA"])
def test_without_listeners_nothing_is_kept(letters: str) -> None:
    server = notifying(letters)
    assert server.store.keyspace(0).notifying == bool(letters)
    session = Client(server).session
    server.store.begin(server.clock.now_ms)
    session.receive(encode("SET", "k", "1"))
    assert not server.notifications.pending
    server.store.commit()
