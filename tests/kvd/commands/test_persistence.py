"""SAVE, BGSAVE, LASTSAVE, BGREWRITEAOF, WAITAOF and SHUTDOWN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from kvd.checkpoints import KEPT
from kvd.scripting.engine import ScriptEngine
from kvd.settings import Settings
from storage.errors import NoSpace, StorageError
from storage.store import Store
from tests.kvd.harness import Client, InProcessServer, encode, error


class DiskServer(InProcessServer):
    """A server whose store can make checkpoints: it is on a disk."""

    def __init__(self, directory: Path) -> None:
        super().__init__(Settings().replaced({"storage.data_dir": str(directory)}))
        self.store.close()
        self.store = Store.open(directory)
        self.stopped = trio.Event()
        self.stop = self.stopped.set


@pytest.fixture
async def server(tmp_path: Path, nursery: trio.Nursery) -> DiskServer:
    server = DiskServer(tmp_path / "data")
    server.spawn = nursery.start_soon
    return server


@pytest.fixture
async def client(server: DiskServer) -> Client:
    return Client(server)


async def answer(client: Client) -> object:
    """Return the reply to the command that the client's session waits for."""
    arrived = trio.Event()
    client.session.on_output = lambda session: arrived.set()
    if client.session.suspended:
        with trio.fail_after(30):
            await arrived.wait()
    return client.next()


def checkpoints(server: InProcessServer) -> list[Path]:
    return sorted(server.checkpoints.directory.iterdir())


def failing_checkpoint(error: StorageError) -> Callable[[Path], None]:
    def checkpoint(target: Path) -> None:
        raise error

    return checkpoint


# --- SAVE and BGSAVE


async def test_save_makes_a_copy_that_a_daemon_can_be_started_on(server: DiskServer, client: Client) -> None:
    client.send("SET", "key", "value")
    assert client.send("SAVE") is False
    assert client.session.suspended
    assert await answer(client) == b"OK"
    client.send("SET", "key", "later")
    (checkpoint,) = checkpoints(server)
    copy = Store.open(checkpoint)
    try:
        record = copy.keyspace(0).get(b"key")
        assert record is not None
        assert record[0] == b"value"
    finally:
        copy.close()


async def test_save_of_a_pipeline_holds_what_was_written_before_it(
    server: DiskServer, client: Client
) -> None:
    client.raw(encode("SET", "key", "value"), encode("SAVE"))
    await answer(client)
    copy = Store.open(checkpoints(server)[0])
    try:
        assert copy.keyspace(0).get(b"key") is not None
    finally:
        copy.close()


async def test_only_the_newest_are_kept(server: DiskServer, client: Client) -> None:
    made = []
    for _ in range(KEPT + 2):
        client.send("SAVE")
        assert await answer(client) == b"OK"
        made.append(checkpoints(server)[-1])
    assert checkpoints(server) == made[-KEPT:]


async def test_what_a_crash_left_half_made_is_removed(server: DiskServer, client: Client) -> None:
    half = server.checkpoints.directory / ".20200101T000000.000000Z"
    half.mkdir(parents=True)
    (half / "CURRENT").touch()
    client.send("SAVE")
    await answer(client)
    assert not half.exists()
    assert len(checkpoints(server)) == 1


async def test_bgsave_answers_at_once(server: DiskServer, client: Client) -> None:
    assert client.send("BGSAVE") == b"Background saving started"
    assert error(client.send("BGSAVE", "SCHEDULE")) == "ERR Background save already in progress"
    assert error(client.send("SAVE")) == "ERR Background save already in progress"
    assert b"rdb_bgsave_in_progress:1" in client.send("INFO", "persistence")
    with trio.fail_after(30):
        while server.checkpoints.running_seconds is not None:
            await trio.lowlevel.checkpoint()
    info = client.send("INFO", "persistence")
    assert b"rdb_bgsave_in_progress:0" in info
    assert b"rdb_last_bgsave_status:ok" in info
    assert b"rdb_saves:1" in info
    assert client.send("LASTSAVE") >= int(server.started_at)


async def test_changes_since_the_save_are_counted(server: DiskServer, client: Client) -> None:
    client.send("SET", "a", 1)
    client.send("SAVE")
    await answer(client)
    client.send("SET", "a", 2)
    client.send("SET", "a", 3)
    assert b"rdb_changes_since_last_save:2\r\n" in client.send("INFO", "persistence")


async def test_a_failure_is_told(server: DiskServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.store, "checkpoint", failing_checkpoint(NoSpace("/data")))
    client.send("SAVE")
    reply = await answer(client)
    assert error(reply).startswith("ERR no space left on the disk")
    assert b"rdb_last_bgsave_status:err" in client.send("INFO", "persistence")
    assert client.send("PING") == b"PONG"


async def test_rewriting_the_log_is_accepted(client: Client) -> None:
    assert client.send("BGREWRITEAOF") == b"Background append only file rewriting started"


# --- WAITAOF


async def test_waitaof_answers_when_the_write_is_on_the_disk(server: DiskServer, client: Client) -> None:
    client.send("SET", "key", "value")
    assert client.send("WAITAOF", 1, 0, 0) is False
    assert await answer(client) == [1, 0]


async def test_waitaof_need_not_wait_under_always(server: DiskServer, client: Client) -> None:
    client.send("CONFIG", "SET", "appendfsync", "always")
    assert client.send("WAITAOF", 1, 0, 0) == [1, 0]


async def test_one_sync_serves_all_who_wait(
    server: DiskServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[bool] = []
    monkeypatch.setattr(server.store, "sync", lambda: syncs.append(True))
    others = [Client(server) for _ in range(5)]
    for each in others:
        each.send("WAITAOF", 1, 0, 0)
    for each in others:
        assert await answer(each) == [1, 0]
    assert len(syncs) == 1


async def test_waitaof_for_replicas_ends_with_its_time(
    client: Client, autojump_clock: trio.testing.MockClock
) -> None:
    client.send("CONFIG", "SET", "appendfsync", "always")
    assert client.send("WAITAOF", 1, 1, 500) is False
    await trio.sleep(0.4)
    assert client.session.suspended
    await trio.sleep(0.2)
    assert client.next() == [1, 0]


async def test_a_failed_sync_is_told(
    server: DiskServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync() -> None:
        raise NoSpace("/data")

    monkeypatch.setattr(server.store, "sync", sync)
    client.send("WAITAOF", 1, 0, 0)
    assert error(await answer(client)).startswith("ERR no space left")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("x", 0, 0), "ERR value is not an integer or out of range"),
        ((2, 0, 0), "ERR value is out of range, value must between 0 and 1"),
        ((-1, 0, 0), "ERR value is out of range, value must between 0 and 1"),
        ((1, -1, 0), "ERR value is out of range, must be positive"),
        ((1, 0, -1), "ERR timeout is negative"),
    ],
)
async def test_waitaof_checks_its_arguments(client: Client, arguments: tuple[object, ...], text: str) -> None:
    assert error(client.send("WAITAOF", *arguments)) == text


# --- SHUTDOWN


@pytest.mark.parametrize("words", [(), ("NOSAVE",), ("now", "force")])
async def test_shutdown_stops_the_daemon(server: DiskServer, client: Client, words: tuple[str, ...]) -> None:
    assert client.send("SHUTDOWN", *words) is False
    assert server.stopped.is_set()
    assert not server.checkpoints.directory.exists()


async def test_shutdown_save_makes_a_checkpoint_first(server: DiskServer, client: Client) -> None:
    client.send("SHUTDOWN", "SAVE")
    assert not server.stopped.is_set()
    with trio.fail_after(30):
        await server.stopped.wait()
    assert len(checkpoints(server)) == 1


async def test_shutdown_save_that_fails_does_not_stop_unless_forced(
    server: DiskServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.store, "checkpoint", failing_checkpoint(NoSpace("/data")))
    client.send("SHUTDOWN", "SAVE")
    assert error(await answer(client)) == "ERR Errors trying to SHUTDOWN. Check logs."
    assert not server.stopped.is_set()
    client.send("SHUTDOWN", "SAVE", "FORCE")
    with trio.fail_after(30):
        await server.stopped.wait()


async def test_beside_a_script_only_nosave_ends_the_daemon(
    server: DiskServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned: list[bool] = []
    monkeypatch.setattr(ScriptEngine, "running", object())
    monkeypatch.setattr(server.scripts, "abandon", lambda: abandoned.append(True))
    assert error(client.send("SHUTDOWN")).startswith("BUSY ")
    assert error(client.send("SHUTDOWN", "SAVE")).startswith("BUSY ")
    assert not server.stopped.is_set()
    client.send("SHUTDOWN", "NOSAVE")
    assert abandoned == [True]
    assert server.stopped.is_set()
