"""redis-py, synchronous: every facility of the client that is more than one command and its reply."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.exceptions import LockNotOwnedError, NoScriptError, ResponseError, WatchError
from redis.retry import Retry

from tests.servers import Client, RunningServer, kvd_server, wait_until

ADD_SCRIPT = """
local total = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {total, KEYS[1], redis.call('PTTL', KEYS[1]) > 0}
"""


def next_message(pubsub: Client, *, seconds: float = 10.0) -> dict[str, object]:
    """Return the next message that is not a confirmation of ours."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        message: dict[str, object] | None = pubsub.get_message(timeout=1.0)
        if message is not None and message["type"] in {"message", "pmessage", "smessage"}:
            return message
    raise AssertionError("no message came")


def test_handshake_names_the_library_and_the_connection(server: RunningServer) -> None:
    with server.client(protocol=3, client_name="till-7", decode_responses=True) as client:
        ours = next(entry for entry in client.client_list() if entry["name"] == "till-7")
    if server.name == "redis":
        pytest.skip("redis-server before 7.2 keeps no library names")
    assert ours["lib-name"].startswith("redis-py")
    assert ours["resp"] == "3"


def test_values_come_back_as_they_were(client: Client, server: RunningServer) -> None:
    everything = bytes(range(256)) * 5
    with server.client() as raw:
        raw.set(b"\x00\r\n key", everything)
        assert raw.get(b"\x00\r\n key") == everything
    assert client.set("name", "Zoë", ex=100)
    assert client.get("name") == "Zoë"
    assert 0 < client.ttl("name") <= 100
    assert client.set("name", "other", nx=True) is None
    assert client.set("name", "new", get=True) == "Zoë"
    assert client.mset({"a": "1", "b": "2"})
    assert client.mget("a", "missing", "b") == ["1", None, "2"]
    assert client.incrbyfloat("a", 0.5) == 1.5
    assert client.delete("a", "b", "missing") == 2


def test_databases_are_separate(server: RunningServer) -> None:
    with server.client(db=1) as first, server.client(db=15) as last:
        first.set("key", "1")
        last.set("key", "15")
        assert (first.get("key"), last.get("key")) == (b"1", b"15")
        first.flushdb()
        assert (first.get("key"), last.get("key")) == (None, b"15")


def test_scan_iter_returns_every_key_once(client: Client) -> None:
    names = {f"user:{number}" for number in range(1000)}
    client.mset(dict.fromkeys(names, "x"))
    client.set("other", "x")
    assert sorted(client.scan_iter("user:*", count=37)) == sorted(names)


def test_pipeline_without_transaction_returns_replies_in_order(client: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.set(f"key:{number}", number)
        pipeline.get(f"key:{number}")
    replies = pipeline.execute()
    assert replies[1::2] == [str(number) for number in range(10_000)]


def test_error_in_a_pipeline_leaves_the_others(client: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.set("text", "abc").incr("text").get("text")
    stored, error, text = pipeline.execute(raise_on_error=False)
    assert stored is True
    assert isinstance(error, ResponseError)
    assert str(error) == "value is not an integer or out of range"
    assert text == "abc"


def test_transaction_is_all_or_nothing(client: Client) -> None:
    with client.pipeline() as pipeline:
        pipeline.set("a", 1).incr("a").incr("a").expire("a", 100)
        assert pipeline.execute() == [True, 2, 3, True]
    with client.pipeline() as pipeline:
        pipeline.set("a", 10).execute_command("GET")
        with pytest.raises(ResponseError, match="wrong number of arguments"):
            pipeline.execute()
    assert client.get("a") == "3"


def test_watch_notices_a_foreign_write(client: Client, server: RunningServer) -> None:
    client.set("balance", 1)
    with server.client() as other, client.pipeline() as pipeline:
        pipeline.watch("balance")
        seen = int(pipeline.get("balance"))
        other.incr("balance")
        pipeline.multi()
        pipeline.set("balance", seen + 1)
        with pytest.raises(WatchError):
            pipeline.execute()
    assert client.get("balance") == "2"


def test_transaction_helper_retries_until_nobody_interferes(client: Client, server: RunningServer) -> None:
    client.set("counter", 0)
    attempts = itertools.count(1)

    def double_and_add(pipeline: Client) -> None:
        value = int(pipeline.get("counter"))
        if next(attempts) <= 2:
            with server.client() as other:
                other.incr("counter")
        pipeline.multi()
        pipeline.set("counter", value * 2 + 1)

    client.transaction(double_and_add, "counter")
    assert client.get("counter") == "5"
    assert next(attempts) == 4


def test_messages_reach_channel_and_pattern_subscribers(client: Client) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        pubsub.psubscribe("new*")
        wait_until(
            lambda: client.pubsub_numpat() == 1 and client.pubsub_numsub("news") == [("news", 1)], "both"
        )
        assert client.publish("news", "hello") == 2
        received = [next_message(pubsub), next_message(pubsub)]
        assert sorted(str(message["type"]) for message in received) == ["message", "pmessage"]
        assert {message["data"] for message in received} == {"hello"}
        pubsub.unsubscribe()
        pubsub.punsubscribe()
        wait_until(lambda: client.publish("news", "nobody") == 0, "the subscriptions end")


def test_a_subscriber_of_resp2_may_ping(server: RunningServer) -> None:
    # In RESP3 the reply is a plain one, which redis-py's PubSub does not look for.
    with server.client(protocol=2, decode_responses=True) as client, client.pubsub() as pubsub:
        pubsub.subscribe("quiet")
        pubsub.ping()
        assert [pubsub.get_message(timeout=10)["type"] for _ in range(2)] == ["subscribe", "pong"]


def test_a_subscriber_thread_is_called_back(client: Client) -> None:
    received: list[str] = []
    pubsub = client.pubsub()
    pubsub.subscribe(jobs=lambda message: received.append(message["data"]))
    thread = pubsub.run_in_thread(sleep_time=0.01, daemon=True)
    try:
        wait_until(lambda: client.publish("jobs", "one") == 1, "the thread subscribes")
        wait_until(lambda: received == ["one"], "the callback is called")
    finally:
        thread.stop()
        thread.join(10)


def test_keyspace_notifications_name_event_and_key(client: Client) -> None:
    client.config_set("notify-keyspace-events", "KEA")
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.psubscribe("__key*@0__:*")
        wait_until(lambda: client.pubsub_numpat() == 1, "the subscription is made")
        client.set("lamp", "on")
        client.delete("lamp")
        seen = [next_message(pubsub) for _ in range(4)]
    assert [(message["channel"], message["data"]) for message in seen] == [
        ("__keyspace@0__:lamp", "set"),
        ("__keyevent@0__:set", "lamp"),
        ("__keyspace@0__:lamp", "del"),
        ("__keyevent@0__:del", "lamp"),
    ]


def test_expiry_is_announced_without_a_read(client: Client) -> None:
    client.config_set("notify-keyspace-events", "Ex")
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.psubscribe("__keyevent@*__:expired")
        wait_until(lambda: client.pubsub_numpat() == 1, "the subscription is made")
        client.set("short", "x", px=20)
        assert next_message(pubsub)["data"] == "short"


def test_lock_excludes_extends_and_knows_its_owner(client: Client) -> None:
    lock = client.lock("door", timeout=30)
    assert lock.acquire(blocking=False)
    assert lock.owned()
    assert not client.lock("door", timeout=30).acquire(blocking=False)
    assert lock.extend(60)
    assert 30_000 < client.pttl("door") <= 90_000
    assert lock.reacquire()
    assert client.pttl("door") <= 30_000
    client.set("door", "someone else")
    with pytest.raises(LockNotOwnedError):
        lock.release()
    assert client.get("door") == "someone else"


def test_lock_waits_for_its_turn(client: Client, server: RunningServer) -> None:
    first = client.lock("door", timeout=30)
    assert first.acquire()
    with server.client() as other:
        second = other.lock("door", timeout=30, sleep=0.01)
        assert not second.acquire(blocking_timeout=0.05)
        first.release()
        assert second.acquire(blocking_timeout=10)
        second.release()


def test_script_is_loaded_when_the_server_does_not_know_it(client: Client) -> None:
    client.script_flush()
    script = client.register_script(ADD_SCRIPT)
    with pytest.raises(NoScriptError):
        client.evalsha(script.sha, 1, "total", 1, 1000)
    assert script(keys=["total"], args=[5, 60_000]) == [5, "total", 1]
    assert client.script_exists(script.sha) == [True]
    pipeline = client.pipeline()
    script(keys=["total"], args=[2, 60_000], client=pipeline)
    assert pipeline.execute() == [[7, "total", 1]]


def test_monitor_shows_what_others_do(client: Client, server: RunningServer) -> None:
    with client.monitor() as monitor, server.client() as other:
        other.set("watched", "value")
        commands = (entry["command"] for entry in monitor.listen())
        assert next(command for command in commands if command.startswith("SET")) == "SET watched value"


@pytest.fixture
def caching_server(tmp_path: Path) -> Iterator[RunningServer]:
    """redis-py keeps a cache only with servers that call themselves 7.4 or later."""
    with kvd_server(tmp_path, "--set", "compat.redis_version=7.4.0") as server:
        yield server


def test_client_side_cache_is_told_of_foreign_writes(caching_server: RunningServer) -> None:
    server = caching_server
    with (
        server.client(protocol=3, cache_config=CacheConfig(max_size=100)) as cached,
        server.client() as other,
    ):
        other.set("price", "1")
        assert cached.get("price") == b"1"
        assert cached.get("price") == b"1"
        assert len(cached.get_cache().collection) == 1
        other.set("price", "2")
        # The invalidation is pushed on the cached client's own connection; a later read sees it.
        wait_until(lambda: cached.get("price") == b"2", "the cached value is dropped")
        other.delete("price")
        wait_until(lambda: cached.get("price") is None, "the deletion is noticed")


@pytest.fixture
def guest(server: RunningServer) -> Iterator[None]:
    with server.client() as client:
        client.acl_setuser(
            "guest", enabled=True, passwords=["+secret"], keys=["guest:*"], commands=["+get", "+set"]
        )
        yield
        client.acl_deluser("guest")


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_user_with_a_password_does_what_it_may(server: RunningServer, protocol: int) -> None:
    with server.client(username="guest", password="secret", protocol=protocol) as client:
        assert client.set("guest:1", "x")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("other", "x")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.flushall()
    once = Retry(NoBackoff(), 0)
    with (
        server.client(username="guest", password="wrong", protocol=protocol, retry=once) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.ping()


def test_connection_survives_unknown_commands_in_a_pipeline(client: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("NO.SUCH", "x").execute_command("CLIENT", "NOSUCH").execute_command("PING")
    unknown, subcommand, pong = pipeline.execute(raise_on_error=False)
    assert str(unknown).startswith("unknown command 'NO.SUCH'")
    assert str(subcommand).startswith("unknown subcommand 'NOSUCH'")
    assert pong in {True, "PONG"}
