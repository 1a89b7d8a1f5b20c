"""Pub/sub: delivery, the order of messages and replies, and what remains of subscribers that go."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd import pubsub as pubsub_module
from kvd.commands import pubsub as pubsub_commands
from kvd.glob import Glob
from kvd.settings import Settings
from tests.kvd.harness import Client, InProcessServer, encode, error


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


def subscriber(server: InProcessServer, *request: object, proto: int = 2) -> Client:
    client = Client(server)
    client.send("HELLO", proto)
    client.send(*request)
    while client.next():
        pass
    return client


def everything(client: Client) -> list[Any]:
    found = []
    while message := client.next():
        found.append(message)
    return found


def test_a_message_is_encoded_once_for_each_protocol(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def counted(proto: int) -> Any:
        original = pubsub_module._ENCODERS[proto]

        def encode_push(push: Any) -> bytes:
            encoded.append(proto)
            return original(push)

        return encode_push

    monkeypatch.setattr(pubsub_module, "_ENCODERS", {proto: counted(proto) for proto in (2, 3)})
    clients = [subscriber(server, "SUBSCRIBE", "ch", proto=2 + number % 2) for number in range(20)]
    assert Client(server).send("PUBLISH", "ch", "hello") == 20
    assert sorted(encoded) == [2, 3]
    assert all(client.next() == [b"message", b"ch", b"hello"] for client in clients)


def test_a_session_hears_a_message_once_for_each_subscription_that_matches(server: InProcessServer) -> None:
    client = subscriber(server, "SUBSCRIBE", "news")
    client.send("PSUBSCRIBE", "n*")
    client.send("PSUBSCRIBE", "?ews")
    assert Client(server).send("PUBLISH", "news", "x") == 3
    assert everything(client) == [
        [b"message", b"news", b"x"],
        [b"pmessage", b"n*", b"news", b"x"],
        [b"pmessage", b"?ews", b"news", b"x"],
    ]


def test_the_publisher_hears_its_own_message_after_the_reply(server: InProcessServer) -> None:
    client = subscriber(server, "SUBSCRIBE", "ch", proto=3)
    raw = client.raw(encode("PUBLISH", "ch", "x"), encode("PING"))
    assert raw == b":1\r\n>3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\nx\r\n+PONG\r\n"


def test_messages_published_in_a_transaction_follow_its_reply(server: InProcessServer) -> None:
    client = subscriber(server, "SUBSCRIBE", "ch", proto=3)
    raw = client.raw(encode("MULTI"), encode("PUBLISH", "ch", "x"), encode("PING"), encode("EXEC"))
    assert raw.endswith(b"*2\r\n:1\r\n+PONG\r\n>3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\nx\r\n")


def test_confirmations_are_sent_even_when_replies_are_off(server: InProcessServer) -> None:
    client = subscriber(server, "PING", proto=3)
    client.raw(encode("CLIENT", "REPLY", "OFF"))
    assert client.raw(encode("PING"), encode("SUBSCRIBE", "ch")) == (
        b">3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n"
    )


def test_several_subscriptions_in_a_transaction_keep_the_reply_well_formed(server: InProcessServer) -> None:
    client = subscriber(server, "PING", proto=3)
    client.raw(encode("MULTI"), encode("SUBSCRIBE", "a", "b"), encode("GET", "k"))
    assert client.send("EXEC") == [[b"subscribe", b"b", 2], None]
    assert client.next() == [b"subscribe", b"a", 1]


def test_a_session_that_ends_is_forgotten_everywhere(server: InProcessServer) -> None:
    client = subscriber(server, "SUBSCRIBE", "a", "b")
    client.send("PSUBSCRIBE", "p*", "q*")
    client.send("SSUBSCRIBE", "s")
    client.close()
    assert not server.pubsub.channels
    assert not server.pubsub.shard_channels
    assert not server.pubsub.patterns
    assert not server.pubsub._patterns_by_prefix
    assert client.session.subscribed_bytes == 0
    assert Client(server).send("PUBLISH", "a", "x") == 0


def test_reset_ends_subscriptions_without_a_word(server: InProcessServer) -> None:
    client = subscriber(server, "SUBSCRIBE", "a", proto=3)
    assert client.send("RESET") == b"RESET"
    assert everything(client) == []
    assert client.session.proto == 2
    assert Client(server).send("PUBLISH", "a", "x") == 0


def test_too_many_subscriptions_are_refused_before_the_first(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub_commands, "SUBSCRIBED_BYTES_MAX", 1000)
    client = Client(server)
    assert "too many subscriptions" in error(client.send("SUBSCRIBE", "a", "b", "c", "d"))
    assert not server.pubsub.channels
    assert client.send("SUBSCRIBE", "a") == [b"subscribe", b"a", 1]
    assert "too many subscriptions" in error(client.send("PSUBSCRIBE", "x" * 400))


@pytest.mark.parametrize("pattern", ["a" * (1 << 20), "*a" * 50_000])
def test_a_pattern_that_is_too_large_is_refused_before_any_is_subscribed_to(
    server: InProcessServer, pattern: str
) -> None:
    client = Client(server)
    for request in (("PSUBSCRIBE", "fine*", pattern), ("PUBSUB", "CHANNELS", pattern)):
        assert error(client.send(*request)).startswith("ERR pattern ")
    assert not server.pubsub.patterns


@pytest.mark.parametrize(
    "request_", [("CONFIG", "GET"), ("COMMAND", "LIST", "FILTERBY", "PATTERN"), ("KEYS",)]
)
def test_other_patterns_that_are_too_large_are_refused_too(
    server: InProcessServer, request_: tuple[str, ...]
) -> None:
    assert error(Client(server).send(*request_, "*a" * 50_000)).startswith("ERR pattern ")


def test_subscribers_in_resp2_take_the_general_path_and_may_not_read(server: InProcessServer) -> None:
    client = subscriber(server, "SUBSCRIBE", "ch")
    assert "only (P|S)SUBSCRIBE" in error(client.send("GET", "k"))
    client.send("UNSUBSCRIBE")
    assert client.send("GET", "k") is None


def test_a_pipeline_of_messages_to_many_takes_several_ticks(server: InProcessServer) -> None:
    for _ in range(2000):
        subscriber(server, "SUBSCRIBE", "ch")
    client = Client(server)
    first = client.raw(*[encode("PUBLISH", "ch", "x")] * 10)
    assert 0 < first.count(b":2000\r\n") < 10
    replies = first
    while client.session.backlog:
        server.store.begin(server.clock.now_ms)
        client.session.run_backlog()
        replies += client.session.take_output()
    assert replies == b":2000\r\n" * 10


_PUBLISHING = "for i = 1, 40 do redis.call('PUBLISH', 'ch', ARGV[1]) end return 1"


@pytest.mark.parametrize("request_of", [("SUBSCRIBE", "ch"), ("PSUBSCRIBE", "c*"), ("MONITOR",)], ids=str)
def test_one_script_cannot_owe_a_listener_more_than_its_limit(request_of: tuple[str, ...]) -> None:
    clients = attrs.evolve(Settings().clients, output_pubsub_hard_bytes=4 << 20)
    server = InProcessServer(attrs.evolve(Settings(), clients=clients))
    listener = subscriber(server, *request_of)
    client = Client(server)
    assert client.send("EVAL", _PUBLISHING, 0, b"x" * (1 << 18)) == 1
    assert listener.session.close_reason == "output limit"
    assert 4 << 20 < sum(map(len, listener.session.out)) < 5 << 20
    heard = len(listener.session.out)
    quiet = subscriber(server, "SUBSCRIBE", "ch")
    client.send("PUBLISH", "ch", "y")
    assert len(quiet.session.out) == 1
    assert len(listener.session.out) == heard, "nothing after that"


def test_who_reads_between_two_scripts_hears_them_all(server: InProcessServer) -> None:
    listener = subscriber(server, "SUBSCRIBE", "ch")
    for _ in range(4):
        Client(server).send("EVAL", _PUBLISHING, 0, b"x" * (1 << 18))
        assert len(everything(listener)) == 40
    assert not listener.session.closing


_NAMES = st.text("ab.*?[]", max_size=5).map(str.encode)


@given(patterns=st.sets(_NAMES, max_size=20), channel=_NAMES)
def test_the_pattern_index_finds_what_trying_every_pattern_finds(
    patterns: set[bytes], channel: bytes
) -> None:
    server = InProcessServer()
    client = Client(server)
    for pattern in patterns:
        server.pubsub.subscribe_pattern(client.session, pattern)
    matching = {pattern for pattern in patterns if Glob(pattern).matches(channel)}
    assert server.pubsub.publish(channel, b"x") == len(matching)
    assert {message[1] for message in everything(client)} == matching
