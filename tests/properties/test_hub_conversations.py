"""Many clients at once, each with a conversation of its own: every reply comes, in order, and tells the truth.

The clients pipeline, cut their requests anywhere, read late and in small pieces, over sockets and streams.
Meanwhile commands are suspended, paused, unblocked and throttled, and commits fail. All bounds of the hub
and of its connections are set so low that they are met all the time. What a client is told of a write
(``OK`` or ``MISCONF``) decides what it must read from then on.

A seed decides what the clients say and where the bounds lie; how they meet is left to the machine.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis
import pytest
import trio
import trio.testing

from kvd import connection, housekeeping, hub, session
from kvd.commands import walks
from kvd.listeners import new_session
from kvd.session import Endpoint
from storage.errors import NoSpace
from tests.kvd.harness import encode
from tests.kvd.live import Running, ask, running

CLIENTS: Final = 12
REQUESTS: Final = 100
SOAK_SEEDS: Final = 60

# Looks at one reply; what it returns is ignored.
Check = Callable[[Any], object]


def is_refused(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MISCONF ", "EXECABORT "))


class Conversation:
    """One client: what it says next, and what it must hear."""

    def __init__(self, name: bytes, seed: int, large: bytes, *, commits_fail: bool) -> None:
        self.random = random.Random(seed)
        self.said = bytearray()
        self.checks: deque[Check] = deque()
        self._heard = trio.lowlevel.ParkingLot()
        self._name = name
        self._large = large
        self._commits_fail = commits_fail
        self._values: dict[bytes, bytes] = {}  # under keys that nobody else writes
        self._topics = (
            self._set,
            self._set,
            self._get,
            self._get,
            self._echo,
            self._wait,
            self._keys,
            self._get_large,
            self._skip,
            self._mistake,
            self._transaction,
            self._script,
        )

    def go_on(self) -> None:
        """Say something more."""
        self.random.choice(self._topics)()

    def _say(self, *arguments: object, check: Check | None = None) -> None:
        self.said += encode(*arguments)
        if check is not None:
            self.checks.append(check)

    def _expect(self, reply: object) -> Check:
        def check(heard: object) -> None:
            assert heard == reply

        return check

    def _unless_refused(self, check: Check) -> Check:
        return lambda heard: (self._commits_fail and is_refused(heard)) or check(heard)

    def _some_key(self) -> bytes:
        return b"%b:%d" % (self._name, self.random.randrange(5))

    def _some_value(self) -> bytes:
        return b"%d" % self.random.randrange(10**9)

    # --- topics

    def _set(self) -> None:
        key, value = self._some_key(), self._some_value()

        def check(heard: object) -> None:
            assert heard == b"OK"
            self._values[key] = value

        self._say("SET", key, value, check=self._unless_refused(check))

    def _get(self) -> None:
        key = self._some_key()

        def check(heard: object) -> None:
            assert heard == self._values.get(key)

        self._say("GET", key, check=self._unless_refused(check))

    def _echo(self) -> None:
        value = self._some_value()
        self._say("ECHO", value, check=self._expect(value))

    def _wait(self) -> None:
        self._say("WAIT", 1, self.random.randrange(1, 8), check=self._expect(0))

    def _keys(self) -> None:
        def check(heard: Any) -> None:
            assert sorted(heard) == sorted(self._values)

        self._say("KEYS", self._name + b":*", check=self._unless_refused(check))

    def _get_large(self) -> None:
        self._say("GET", "large", check=self._unless_refused(self._expect(self._large)))

    def _skip(self) -> None:
        self._say("CLIENT", "REPLY", "SKIP")
        self._say(*self.random.choice((("ECHO", "x"), ("WAIT", 1, 3), ("KEYS", self._name + b":*"))))

    def _mistake(self) -> None:
        def check(heard: object) -> None:
            assert isinstance(heard, hiredis.ReplyError)

        self._say("NOSUCH", check=check)

    def _transaction(self) -> None:
        key, value = self._some_key(), self._some_value()

        def check(heard: object) -> None:
            assert heard == [b"OK", value, b"x"]
            self._values[key] = value

        self._say("MULTI", check=self._expect(b"OK"))
        self._say("SET", key, value, check=self._unless_refused(self._expect(b"QUEUED")))
        self._say("GET", key, check=self._expect(b"QUEUED"))
        self._say("ECHO", "x", check=self._expect(b"QUEUED"))
        self._say("EXEC", check=self._unless_refused(check))

    def _script(self) -> None:
        value = self._some_value()
        check = self._unless_refused(self._expect(value))
        self._say("EVAL", "return ARGV[1]", 0, value, check=check)

    # --- over a stream

    async def run(self, stream: trio.abc.Stream) -> None:
        """Hold the conversation, and return when everything has been answered."""
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_all, stream)
            left = REQUESTS
            while left > 0:
                batch = self.random.choice((1, 1, 2, 5, 30))
                left -= batch
                for _ in range(batch):
                    self.go_on()
                await self._send(stream)
                if self.random.random() < 0.7:
                    await self._heard_all()
            self._say("ECHO", "the end", check=self._expect(b"the end"))
            await self._send(stream)
            await self._heard_all()
            nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.abc.Stream) -> None:
        while self.said:
            cut = self.random.randrange(1, len(self.said) + 1)
            data = bytes(self.said[:cut])
            del self.said[:cut]
            await stream.send_all(data)
            await self._dawdle()

    async def _heard_all(self) -> None:
        while self.checks:
            await self._heard.park()

    async def _hear_all(self, stream: trio.abc.Stream) -> None:
        reader = hiredis.Reader()
        while True:
            data = await stream.receive_some(self.random.choice((10, 1000, 65536)))
            assert data, f"closed, {len(self.checks)} replies are missing"
            reader.feed(bytes(data))
            while (reply := reader.gets()) is not False:
                self.checks.popleft()(reply)
            self._heard.unpark_all()
            await self._dawdle()

    async def _dawdle(self) -> None:
        if self.random.random() < 0.05:
            await trio.sleep(self.random.random() * 0.01)


async def disturb(live: Running, chance: random.Random, *, commits_fail: bool) -> None:
    """Pause and unblock the clients, and let commits fail, again and again."""
    async with await live.connect() as stream:
        while True:
            await trio.sleep(chance.random() * 0.02)
            waiting = [each.id for each in live.server.sessions.values() if each.on_unblock is not None]
            match chance.randrange(4):
                case 0:
                    mode = chance.choice(("ALL", "WRITE"))
                    await ask(stream, "CLIENT", "PAUSE", chance.randrange(1, 10), mode, expect=b"+OK\r\n")
                case 1:
                    await ask(stream, "CLIENT", "UNPAUSE", expect=b"+OK\r\n")
                case 2 if commits_fail:
                    live.engine.fail_next(NoSpace("disk"), chance.randrange(1, 3))
                case 3 if waiting:
                    await ask(stream, "CLIENT", "UNBLOCK", chance.choice(waiting), expect=b":")
                    await stream.receive_some()


async def stream_to(live: Running, number: int) -> trio.abc.Stream:
    """Connect in one of three ways."""
    if number % 3 == 0:
        return await live.connect_small()
    make = trio.testing.memory_stream_pair if number % 3 == 1 else trio.testing.lockstep_stream_pair
    client, server = make()
    opened = new_session(live.server, Endpoint("127.0.0.1:1", "127.0.0.1:2", is_tls=True))
    live.server.spawn(live.hub.serve_stream, server, opened)
    return client


def set_low_bounds(monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> None:
    choices: tuple[tuple[object, str, tuple[int, ...]], ...] = (
        (connection, "PAUSE_BYTES", (1000, 200_000, 32 << 20)),
        (connection, "CROWDED_BYTES", (100_000, 512 << 20)),
        (connection, "CROWDED_PAUSE_BYTES", (1000,)),
        (connection, "SUSPENDED_HELD_BYTES", (0, 100, 64 << 10)),
        (hub, "TICK_NANOSECONDS", (0, 5_000_000)),
        (hub, "RECEIVE_BYTES", (100, 64 << 10)),
        (session, "TICK_OUTPUT_BYTES_MAX", (1000, 1 << 20)),
        (session, "TICK_NANOSECONDS_MAX", (0, 10_000_000)),
        (walks, "SLICE_NANOSECONDS", (0,)),
        (walks, "ROWS", (3,)),
    )
    for module, name, values in choices:
        monkeypatch.setattr(module, name, chance.choice(values))
    monkeypatch.setattr(housekeeping, "_WATCH_SECONDS", 0.005)


async def converse(seed: int, monkeypatch: pytest.MonkeyPatch, *, commits_fail: bool) -> None:
    chance = random.Random(seed)
    set_low_bounds(monkeypatch, chance)
    large = b"x" * chance.choice((100, 50_000, 300_000))
    async with running() as live, contextlib.AsyncExitStack() as stack:
        live.server.spawn(housekeeping.watch, live.server, live.hub)
        async with await live.connect() as stream:
            await ask(stream, "SET", "large", large, expect=b"+OK\r\n")
        disturbance = await stack.enter_async_context(trio.open_nursery())
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    name = b"client%d" % number
                    client = Conversation(name, seed + number, large, commits_fail=commits_fail)
                    nursery.start_soon(client.run, await stream_to(live, number))
                disturbance.start_soon(lambda: disturb(live, chance, commits_fail=commits_fail))
        disturbance.cancel_scope.cancel()
        assert live.server.stats.unexpected_errors == 0
        assert bool(live.server.stats.ticks_failed) == commits_fail


@pytest.mark.parametrize("commits_fail", [False, True])
async def test_every_reply_comes_in_order_and_tells_the_truth(
    monkeypatch: pytest.MonkeyPatch, commits_fail: bool
) -> None:
    await converse(1, monkeypatch, commits_fail=commits_fail)


@pytest.mark.soak
@pytest.mark.parametrize("commits_fail", [False, True])
@pytest.mark.parametrize("seed", range(2, SOAK_SEEDS))
async def test_every_reply_comes_in_order_whatever_the_seed(
    monkeypatch: pytest.MonkeyPatch, seed: int, commits_fail: bool
) -> None:
    await converse(seed * 1000, monkeypatch, commits_fail=commits_fail)
