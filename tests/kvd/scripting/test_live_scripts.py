"""Scripts in a running daemon: one that does not end, and what the others see of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kvd.scripting.engine import BUSY, NOT_BUSY, UNKILLABLE
from kvd.settings import ScriptingSettings, Settings
from tests.kvd.harness import encode
from tests.kvd.live import ask as live_ask
from tests.kvd.live import running
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


async def test_a_client_of_the_same_tick_gets_its_reply_while_the_script_runs() -> None:
    """Its PING comes before the script in one tick; without the reply it would never send SCRIPT KILL."""
    late_at_once = Settings(scripting=ScriptingSettings(time_limit_ms=1))
    async with running(late_at_once) as live, await live.connect() as first, await live.connect() as second:
        for stream in (first, second):
            await live_ask(stream, "PING", expect=b"+PONG\r\n")
        killer = first.socket._sock  # type: ignore[attr-defined]
        # Without a checkpoint in between, both are in the sockets before the hub's next tick.
        killer.send(encode("PING"))
        second.socket._sock.send(encode("EVAL", LONG, 0))  # type: ignore[attr-defined]

        def kill_when_answered() -> bytes:
            killer.setblocking(True)
            killer.settimeout(20)
            assert killer.recv(7) == b"+PONG\r\n"
            killer.sendall(encode("SCRIPT", "KILL"))
            answer: bytes = killer.recv(100)
            killer.setblocking(False)
            return answer

        assert await trio.to_thread.run_sync(kill_when_answered) == b"+OK\r\n"
        assert b"Script killed by user" in await second.receive_some()
