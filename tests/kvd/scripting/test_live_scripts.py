"""Scripts in a running daemon: one that does not end, and what the others see of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvd.poller import ONCE, READ, Poller, open_poller
from kvd.scripting.engine import BUSY, NOT_BUSY, UNKILLABLE
from kvd.settings import ScriptingSettings, Settings
from tests.kvd.harness import encode
from tests.kvd.live import Interposed, plain_socket, running
from tests.kvd.live import ask as live_ask
from tests.kvd.redis_wire import ask
from tests.servers import RunningServer, kvd_server, wait_until

TIME_LIMIT = "scripting.time_limit_ms=50"
ENDLESS = "while true do end"
LONG = "local start = os.clock() while os.clock() < start + 30 do end"
ENDLESS_WRITER = "redis.call('SET', KEYS[1], 'written') while true do end"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningServer]:
    with kvd_server(tmp_path, "--set", TIME_LIMIT) as running:
        yield running


@contextmanager
def running_script(
    daemon: RunningServer, other: socket.socket, script: str, *keys: str
) -> Iterator[Callable[[], Any]]:
    """Have a script run until `other` is told BUSY. Yields a function that waits for its reply."""
    replies: list[Any] = []
    connection = daemon.connect()

    def run() -> None:
        try:
            replies.append(ask(connection, "EVAL", script, len(keys), *keys))
        except (OSError, AssertionError) as error:
            replies.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def finished() -> Any:
        thread.join(30)
        assert replies, "the script did not end"
        return replies[0]

    try:
        wait_until(lambda: str(ask(other, "PING")) == BUSY, "the script to be late")
        yield finished
    finally:
        thread.join(30)
        connection.close()


def test_others_are_told_busy_until_the_script_is_killed(daemon: RunningServer) -> None:
    with daemon.connect() as other:
        assert str(ask(other, "SCRIPT", "KILL")) == NOT_BUSY
        with running_script(daemon, other, ENDLESS) as finished:
            for request in (["GET", "a"], ["SET", "a", "1"], ["EVAL", "return 1", 0], ["INFO"]):
                assert str(ask(other, *request)) == BUSY
            with daemon.connect() as late_comer:
                # It is let in when the script has ended; its request waits in the socket.
                assert ask(other, "SCRIPT", "KILL") == b"OK"
                assert "Script killed by user" in str(finished())
                assert ask(late_comer, "PING") == b"PONG"
        assert ask(other, "SET", "a", "1") == b"OK"
        assert str(ask(other, "SCRIPT", "KILL")) == NOT_BUSY


def test_a_script_that_has_written_ends_with_shutdown_nosave(daemon: RunningServer) -> None:
    with daemon.connect() as other, running_script(daemon, other, ENDLESS_WRITER, "key"):
        assert str(ask(other, "SCRIPT", "KILL")) == UNKILLABLE
        assert str(ask(other, "SHUTDOWN")) == BUSY
        other.sendall(b"SHUTDOWN NOSAVE\r\n")
        wait_until(lambda: daemon.process.poll() is not None, "the daemon to end")
    assert daemon.process.returncode == 0


def test_a_memory_bomb_leaves_the_daemon_as_it_was(daemon: RunningServer) -> None:
    with daemon.connect() as client:
        ask(client, "CONFIG", "SET", "lua-time-limit", "60000")
        for _ in range(3):
            reply = ask(client, "EVAL", "local t = {} while true do t[#t + 1] = {{}, {}} end", 0)
            assert "memory" in str(reply)
            assert ask(client, "EVAL", "return redis.call('ECHO', 'fine')", 0) == b"fine"


def wait_for_readable(poller: Poller, count: int) -> None:
    """Return when `count` of the hub's sockets have something to be received; without a checkpoint."""
    deadline = time.monotonic() + 20
    seen: dict[int, int] = {}
    while len(seen) < count:
        seen.update(poller.poll(0.01))
        assert time.monotonic() < deadline
    for fd in seen:
        poller.modify(fd, READ | ONCE)  # it would not be told of again


async def test_a_client_of_the_same_tick_gets_its_reply_while_the_script_runs() -> None:
    """Its PING comes before the script in one tick; without the reply it would never send SCRIPT KILL."""
    late_at_once = Settings(scripting=ScriptingSettings(time_limit_ms=1))
    poller = Interposed(open_poller())
    async with (
        running(late_at_once, poller) as live,
        await live.connect() as first,
        await live.connect() as second,
    ):
        for stream in (first, second):
            await live_ask(stream, "PING", expect=b"+PONG\r\n")
        killer = plain_socket(first)

        def kill_when_answered() -> None:
            with contextlib.suppress(BlockingIOError):
                assert killer.recv(100) == b"+PONG\r\n"
                killer.send(encode("SCRIPT", "KILL"))
                poller.before = lambda: None

        # Without a checkpoint in between the hub has no tick. What is sent arrives some time later, so wait for
        # it: then both are there for the next tick, in the order of their arrival.
        killer.send(encode("PING"))
        wait_for_readable(poller, 1)
        plain_socket(second).send(encode("EVAL", LONG, 0))
        wait_for_readable(poller, 2)
        poller.before = kill_when_answered
        assert b"Script killed by user" in await second.receive_some()
        assert await first.receive_some() == b"+OK\r\n"
