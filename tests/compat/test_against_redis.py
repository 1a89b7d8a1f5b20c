"""The same requests to kvd and to redis-server, and every reply compared.

Hypothesis draws sequences of steps from `tests.compat.grammar`, spoken by two clients. Most run against a
server in this process over the memory engine, a smaller share against a daemon on RocksDB. After each
sequence all keys, values and expiries of both servers are compared as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from kvd.commands.table import CommandTable
from tests.budget import examples
from tests.compat import grammar
from tests.compat.comparison import is_exact, same
from tests.compat.wire import Connection, InProcessConnection, SocketConnection, elements, is_message
from tests.kvd.harness import InProcessServer
from tests.servers import RunningServer, kvd_server, wait_until

pytestmark = pytest.mark.needs_redis

# What the comparison has to cover byte for byte at least.
COMMANDS_LEAST: Final = 95

_CLIENTS: Final = 2
_SENTINEL: Final = b"that was all"
_SUBSCRIBING: Final = (
    b"SUBSCRIBE",
    b"PSUBSCRIBE",
    b"SSUBSCRIBE",
    b"UNSUBSCRIBE",
    b"PUNSUBSCRIBE",
    b"SUNSUBSCRIBE",
)
# Redis 7.0 puts a message to oneself into the middle of EXEC's reply; 7.2 and kvd do not.
_PUBLISHING: Final = (b"PUBLISH", b"SPUBLISH")

Step = list[list[bytes]]
Script = list[tuple[int, Step]]


class _Stream:
    """One client's frames from one server, read up to the end of each answer."""

    def __init__(self, connect: Callable[[], Connection], proto: int) -> None:
        self._connect = connect
        self._proto = proto
        self.begin()

    def begin(self) -> None:
        """Open a connection."""
        self.connection = self._connect()
        self.ask([b"HELLO", b"%d" % self._proto])

    def end(self, request: list[bytes]) -> bytes:
        """Send a request after whose reply the server has to close the connection; return the reply."""
        reply = self.ask(request)
        assert self.connection.has_ended()
        self.connection.close()
        return reply

    def ask(self, request: list[bytes]) -> bytes:
        """Send a request that has one reply and return it."""
        self.connection.send(request)
        return self.connection.next_frame()

    def answer(self, request: list[bytes], *, is_queued: bool) -> list[bytes]:
        """Send a request; return what came before its reply, and its replies, however many.

        Whether they are complete is told by the reply to a PING behind it, which cannot be asked while
        a transaction is queueing: there, each request has exactly one reply.
        """
        self.connection.send(request)
        if not is_queued:
            self.connection.send([b"PING", _SENTINEL])
        frames = [self.connection.next_frame()]
        while is_message(frames[-1]) if is_queued else _SENTINEL not in frames[-1]:
            frames.append(self.connection.next_frame())
        return frames


def _replies_first(frames: list[bytes]) -> list[bytes]:
    """Return replies, then messages.

    Who publishes to itself gets the message before the reply from Redis 7.0, after it from Redis 7.2 and kvd.
    Messages for several matching patterns come in any order.
    """
    replies = [frame for frame in frames if not is_message(frame)]
    messages = [frame for frame in frames if is_message(frame)]
    patterns = {elements(frame)[1] for frame in messages}
    return replies + (sorted(messages) if len(patterns) > 1 else messages)


def _replies(stream: _Stream, request: list[bytes], reply: bytes) -> bool:
    return stream.ask(request) == reply


class _Pair:
    """One client of both servers, saying the same to each."""

    def __init__(self, redis: Callable[[], Connection], kvd: Callable[[], Connection], proto: int) -> None:
        self.redis = _Stream(redis, proto)
        self.kvd = _Stream(kvd, proto)
        self.queued: list[list[bytes]] | None = None  # the transaction's requests, while there is one
        self.subscribed = False

    def say(self, request: list[bytes]) -> None:
        """Send `request` to both servers and compare what they answer."""
        name = request[0].upper()
        if self.queued is not None and (name in _SUBSCRIBING or (self.subscribed and name in _PUBLISHING)):
            return
        if name == b"QUIT":
            self._quit(request)
            return
        self.subscribed = self.subscribed or name in _SUBSCRIBING
        is_queued = self._is_queueing_after(name)
        redis = self.redis.answer(request, is_queued=is_queued)
        kvd = self.kvd.answer(request, is_queued=is_queued)
        assert len(redis) == len(kvd), (request, redis, kvd)
        for left, right in zip(_replies_first(redis), _replies_first(kvd), strict=True):
            assert same(request, self.queued or [], left, right), (request, left, right)
        self._note_transaction(name, request, redis[-1])

    def _quit(self, request: list[bytes]) -> None:
        """Leave both servers and come back, with nothing that was before."""
        redis, kvd = self.redis.end(request), self.kvd.end(request)
        assert redis == kvd, (request, redis, kvd)
        self.queued, self.subscribed = None, False
        self.redis.begin()
        self.kvd.begin()

    def _is_queueing_after(self, name: bytes) -> bool:
        if name == b"MULTI":
            return True
        return self.queued is not None and name not in {b"EXEC", b"DISCARD", b"RESET"}

    def _note_transaction(self, name: bytes, request: list[bytes], reply: bytes) -> None:
        if name == b"MULTI" and reply == b"+OK\r\n":
            self.queued = []
        elif name in {b"EXEC", b"DISCARD", b"RESET"}:
            self.queued = None
        elif self.queued is not None and reply == b"+QUEUED\r\n":
            self.queued.append(request)

    def close(self) -> None:
        self.redis.connection.close()
        self.kvd.connection.close()


class _Servers:
    """A redis-server and a kvd, and how to open a connection to each."""

    def __init__(
        self,
        redis: RunningServer,
        connect_kvd: Callable[[], Connection],
        set_clock: Callable[[int], None] | None = None,
    ) -> None:
        self._redis = redis
        self._connect_kvd = connect_kvd
        self._set_clock = set_clock

    def compare(self, proto: int, script: Script, before: Step | None = None) -> None:
        """Run a script of (client, step) on fresh connections to emptied servers."""
        pairs = [self._pair(proto) for _ in range(_CLIENTS)]
        try:
            for request in [[b"FLUSHALL"], *(before or [])]:
                pairs[0].say(request)
            for client, step in script:
                for request in step:
                    note(f"client {client}: {b' '.join(request)!r}")
                    self._wait_for_next_millisecond(request)
                    pairs[client].say(request)
            self._compare_contents(pairs)
        finally:
            for pair in pairs:
                pair.close()

    def compare_expiry(self, requests: Step) -> None:
        """Run requests that give keys a short life, that of `a` the last to end; wait for its end in both; compare."""
        pair = self._pair(2)
        try:
            for request in [[b"FLUSHALL"], *requests]:
                pair.say(request)
            for stream in (pair.redis, pair.kvd):
                wait_until(partial(_replies, stream, [b"GET", b"a"], b"$-1\r\n"), "the key expires")
            for key in grammar.KEYS:
                for name in (b"EXISTS", b"TTL", b"PEXPIRETIME", b"TYPE", b"GET"):
                    pair.say([name, key])
            for request in ([b"KEYS", b"*"], [b"SCAN", b"0"]):
                pair.say(request)
            # Counted until someone asks for them (Redis) or the sweep comes by (kvd).
            for stream in (pair.redis, pair.kvd):
                wait_until(partial(_replies, stream, [b"DBSIZE"], b":2\r\n"), "the expired keys are swept")
        finally:
            pair.close()

    def _pair(self, proto: int) -> _Pair:
        return _Pair(lambda: SocketConnection(self._redis.connect()), self._connect_kvd, proto)

    def _wait_for_next_millisecond(self, request: list[bytes]) -> None:
        """Keep both clocks together. Where expiries are compared, no two requests share a millisecond."""
        now_ms = time.time_ns() // 1_000_000
        if b"EXPIRE" in request[0].upper() and len(request) > 3:
            started = now_ms
            while now_ms == started:
                now_ms = time.time_ns() // 1_000_000
        if self._set_clock is not None:
            self._set_clock(now_ms)

    def _compare_contents(self, pairs: list[_Pair]) -> None:
        """Compare every key of both databases, on a connection without any state left."""
        for pair in pairs:
            pair.say([b"RESET"])
        pair = self._pair(2)
        try:
            for database in (b"0", b"1"):
                pair.say([b"SELECT", database])
                pair.say([b"KEYS", b"*"])
                for key in grammar.KEYS:
                    pair.say([b"GET", key])
                    pair.say([b"PEXPIRETIME", key])
        finally:
            pair.close()


@pytest.fixture(scope="module")
def in_process(redis_server: RunningServer) -> _Servers:
    server = InProcessServer()

    def set_clock(now_ms: int) -> None:
        server.clock.now_ms = now_ms

    return _Servers(redis_server, lambda: InProcessConnection(server), set_clock)


@pytest.fixture(scope="module")
def over_tcp(redis_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Servers]:
    with kvd_server(tmp_path_factory.mktemp("kvd")) as daemon:
        yield _Servers(redis_server, lambda: SocketConnection(daemon.connect()))


def _scripts(*tables: dict[str, st.SearchStrategy[Step]], size: int = 50) -> st.SearchStrategy[Script]:
    """Scripts of `size` steps at most, over some keys. Short ones find little: requests have to meet."""
    steps = st.one_of([strategy for table in tables for strategy in table.values()])
    said = st.lists(st.tuples(st.integers(0, _CLIENTS - 1), steps), min_size=min(size, 15), max_size=size)
    return st.tuples(grammar.seeds, said).map(lambda parts: [(0, parts[0]), *parts[1]])


_SETTINGS: Final = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
    print_blob=True,
)
_protocols = st.sampled_from([2, 3])


@settings(_SETTINGS, max_examples=examples(100))
@given(proto=_protocols, script=_scripts(grammar.STRINGS))
def test_strings_answer_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(75))
@given(proto=_protocols, script=_scripts(grammar.EXPIRY, grammar.EXPIRY, grammar.EXPIRING))
def test_expiry_answers_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(100))
@given(proto=_protocols, script=_scripts(grammar.GENERIC, grammar.EXPIRING))
def test_commands_on_keys_answer_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(125))
@given(proto=_protocols, script=_scripts(grammar.BITMAPS, grammar.BITMAPS, {"SET": grammar.STRINGS["SET"]}))
def test_bitmaps_answer_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(100))
@given(proto=_protocols, script=_scripts(grammar.DATA, grammar.WRONG_REQUESTS))
def test_all_data_commands_answer_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(75))
@given(proto=_protocols, script=_scripts(grammar.TRANSACTIONS, grammar.TRANSACTIONS, grammar.EXPIRING))
def test_transactions_answer_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(50))
@given(proto=_protocols, script=_scripts(grammar.PUBSUB, grammar.TRANSACTIONS))
def test_pubsub_answers_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(50))
@given(proto=_protocols, script=_scripts(grammar.CONNECTION, grammar.SERVER))
def test_connection_and_server_commands_answer_as_redis_does(
    in_process: _Servers, proto: int, script: Script
) -> None:
    in_process.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(50))
@given(proto=_protocols, script=_scripts(grammar.SCRIPTING, grammar.STRINGS, grammar.TRANSACTIONS))
def test_scripts_answer_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script, before=[[b"SCRIPT", b"FLUSH"]])


@settings(_SETTINGS, max_examples=examples(20))
@given(proto=_protocols, script=_scripts(*grammar.TABLES))
def test_everything_at_once_answers_as_redis_does(in_process: _Servers, proto: int, script: Script) -> None:
    in_process.compare(proto, script, before=[[b"SCRIPT", b"FLUSH"]])


@settings(_SETTINGS, max_examples=examples(20))
@given(proto=_protocols, script=_scripts(grammar.DATA, grammar.TRANSACTIONS))
def test_a_daemon_on_rocksdb_answers_as_redis_does(over_tcp: _Servers, proto: int, script: Script) -> None:
    over_tcp.compare(proto, script)


@settings(_SETTINGS, max_examples=examples(50))
@given(script=_scripts(grammar.EVENTFUL))
def test_keyspace_events_are_those_of_redis(in_process: _Servers, script: Script) -> None:
    """The second client listens to all events and says nothing; the first says everything."""
    listen = [[b"CONFIG", b"SET", b"notify-keyspace-events", b"KEAmn"], [b"PSUBSCRIBE", b"__key*__:*"]]
    silent = [step for _, requests in script for step in ((0, requests), (1, [[b"PING"]]))]
    in_process.compare(3, [(1, listen), *silent, (1, [[b"CONFIG", b"SET", b"notify-keyspace-events", b""]])])


def test_keys_expire_as_in_redis(over_tcp: _Servers) -> None:
    """Times that really pass, on a running daemon: the sweep takes part."""
    over_tcp.compare_expiry(
        [
            [b"PSETEX", b"b", b"40", b"1"],
            [b"MSET", b"c", b"1", b"user:1", b"1", b"user:2", b"1"],
            [b"PEXPIRE", b"c", b"40"],
            [b"GETEX", b"user:1", b"PX", b"40"],
            [b"RESTORE", b"user:10", b"40", b"\x00\x03foo\x09\x00\xa6\x0e\x05\x1f\xc9\x9b\x9e\x0f"],
            [b"SET", b"us*r", b"1", b"PX", b"60000"],
            [b"SET", b"a", b"1", b"PX", b"40"],
        ]
    )


def test_enough_commands_take_part() -> None:
    names = sorted({name for table in grammar.TABLES for name in table})
    exact = [name for name in names if is_exact(name)]
    print(f"{len(names)} commands are compared with redis-server, {len(exact)} of them byte for byte")
    assert len(exact) >= COMMANDS_LEAST
    for name in names:
        CommandTable.standard().find([word.encode() for word in name.split()])
