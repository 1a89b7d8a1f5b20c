"""Clients in every state, who come and vanish while commits fail: when they are gone nothing of them is left.

Each seed draws what they send, and how they leave: closing, resetting, quitting, or killed by one another.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable
from typing import Final

import attrs
import pytest
import trio

from kvd.pause import end_pause
from kvd.settings import Settings
from storage.errors import NoSpace
from tests.kvd.harness import encode
from tests.kvd.live import Running, running, until

CLIENT_COUNT: Final = 30
IDS: Final = range(1, CLIENT_COUNT + 1)
RESET: Final = struct.pack("ii", 1, 0)
Draw = Callable[[random.Random], bytes]

REQUESTS: Final[tuple[Draw, ...]] = (
    *(
        lambda _, words=words: encode(*words.split())
        for words in (
            "MULTI|EXEC|DISCARD|WATCH a|GET a|KEYS *|SUBSCRIBE news|PSUBSCRIBE n*|UNSUBSCRIBE|HELLO 2|HELLO 3|RESET|QUIT|MONITOR|"
            "CLIENT TRACKING ON|CLIENT TRACKING ON BCAST|CLIENT TRACKING ON NOLOOP|CLIENT TRACKING OFF|CLIENT REPLY OFF|"
            "CLIENT REPLY SKIP|CLIENT REPLY ON|CLIENT PAUSE 20 ALL|CLIENT PAUSE 20 WRITE|CLIENT UNPAUSE|WAIT 1 1|WAIT 1 20|"
            "ACL SETUSER bob on nopass +@all ~* &news|AUTH bob x|ACL DELUSER bob"
        ).split("|")
    ),
    lambda rng: encode("SET", "a", "x" * rng.choice((1, 100_000))),
    lambda rng: encode("PUBLISH", "news", "x" * rng.choice((1, 50_000))),
    lambda rng: encode("CLIENT", "KILL", "ID", rng.choice(IDS)),
    lambda rng: encode("CLIENT", "UNBLOCK", rng.choice(IDS)),
    lambda rng: encode("CLIENT", "TRACKING", "ON", "REDIRECT", rng.choice(IDS)),
    lambda rng: encode("SET", "a", "x" * 50_000)[: rng.randrange(50_000)],
    lambda _: b"*1\r\n:5\r\n",
)


async def come_and_go(live: Running, rng: random.Random) -> None:
    async with await (live.connect_small() if rng.random() < 0.3 else live.connect()) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(rng.randrange(1, 10)):
                with trio.move_on_after(0.2):
                    requests = (rng.choice(REQUESTS)(rng) for _ in range(rng.randrange(1, 12)))
                    await stream.send_all(b"".join(requests))
                if rng.random() < 0.5:
                    with trio.move_on_after(0.003):
                        await stream.receive_some()
                if rng.random() < 0.05:
                    live.engine.fail_next(NoSpace("memory"))
            if rng.random() < 0.3:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


async def recover(live: Running) -> None:
    while True:
        await trio.sleep(0.01)
        if live.server.store.writable is not None and live.server.store.probe():
            live.server.refresh_plain()


def left_over(live: Running) -> dict[str, int]:
    """Return what is kept for clients, if it is anything."""
    server, hub = live.server, live.hub
    kept = {
        "input": server.input_bytes,
        "unsent": hub.unsent_bytes,
        "channels": len(server.pubsub.channels) + len(server.pubsub.patterns),
        "tracked": server.tracking.session_count + server.tracking.reader_count,
        "monitors": len(server.monitors),
        "pending": int(server.notifications.pending),
        "unexpected": server.stats.unexpected_errors,
    }
    return {name: count for name, count in kept.items() if count}


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_left_of_clients_that_are_gone(seed: int) -> None:
    rng = random.Random(seed)
    settings = Settings()
    settings = attrs.evolve(
        settings,
        events=attrs.evolve(settings.events, notify_keyspace_events="KEA", tracking_table_max_keys=3),
        clients=attrs.evolve(settings.clients, output_pubsub_hard_bytes=rng.choice((100_000, 1 << 25))),
    )
    with trio.fail_after(60):
        async with running(settings) as live, trio.open_nursery() as nursery:
            nursery.start_soon(recover, live)
            async with trio.open_nursery() as clients:
                for _ in range(CLIENT_COUNT):
                    clients.start_soon(come_and_go, live, rng)
                    await trio.sleep(0.002)
            end_pause(live.server)
            await until(lambda: not (live.server.sessions or live.hub.sockets), "all are gone")
            assert left_over(live) == {}
            nursery.cancel_scope.cancel()
