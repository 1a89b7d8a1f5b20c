"""What only RocksDB can do wrong: locks, damaged files, full disks, the binding's surprises."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from storage.engine import Family
from storage.engine_rocksdb import RocksEngine
from storage.errors import DamagedFiles, Locked, Missing, NoSpace, Parted, StorageError, Unavailable

DISK_BYTES = 192 * 1024 * 1024
BALLAST_BYTES = 160 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    target = tmp_path / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(target)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    yield target
    subprocess.run(["umount", "--lazy", str(target)], check=True)


def write(engine: RocksEngine, key: bytes, value: bytes = b"v", *, sync: bool = False) -> None:
    batch = engine.batch()
    batch.put(Family.RECORDS, key, value)
    engine.write(batch, sync=sync)


def fill(engine: RocksEngine) -> int:
    """Write until it fails; return how many writes succeeded."""
    for index in range(100_000):
        try:
            write(engine, b"%06d" % index, os.urandom(20_000))
        except (NoSpace, Unavailable):
            return index
    pytest.fail("the disk did not fill up")


def await_recovery(engine: RocksEngine, deadline_seconds: float = 20.0) -> None:
    """Call `recover` as the daemon does, until it succeeds."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        try:
            engine.recover()
        except StorageError:
            assert time.monotonic() < deadline, "the engine did not recover"
            time.sleep(0.1)  # RocksDB looks for space in a thread of its own, on the real clock
        else:
            return


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    with pytest.raises(Locked, match="in use by another process"):
        RocksEngine(tmp_path)
    code = (
        "import sys; from pathlib import Path; from storage.engine_rocksdb import RocksEngine\n"
        "from storage.errors import Locked\n"
        "try: RocksEngine(Path(sys.argv[1]))\n"
        "except Locked: sys.exit(7)\n"
    )
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert other.returncode == 7
    write(engine, b"a")
    engine.close()
    RocksEngine(tmp_path).close()


def test_a_missing_directory_is_only_made_on_request(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="there is no kvd data"):
        RocksEngine(tmp_path / "a" / "b", create=False)
    assert not (tmp_path / "a").exists()
    RocksEngine(tmp_path / "a" / "b").close()
    RocksEngine(tmp_path / "a" / "b", create=False).close()


def test_a_path_that_cannot_be_a_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="check the disk and its permissions"):
        RocksEngine(tmp_path / "file" / "data")


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("kind", ["*.sst", "*.log"])
def test_lost_current_file_does_not_make_the_data_vanish(tmp_path: Path, kind: str, create: bool) -> None:
    """Neither that of tables, nor that of a log, which is all that a young database has."""
    engine = RocksEngine(tmp_path / "data")
    write(engine, b"a")
    if kind == "*.sst":
        engine.close()
    left = tmp_path / "left"
    left.mkdir()
    for file in (tmp_path / "data").glob(kind):
        shutil.copy(file, left)
    files = sorted(left.iterdir())
    assert files
    with pytest.raises(DamagedFiles, match="CURRENT is missing"):
        RocksEngine(left, create=create)
    assert sorted(left.iterdir()) == files
    engine.close()


def test_damaged_files_are_told_at_open(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    write(engine, b"a")
    engine.close()
    (tmp_path / "CURRENT").write_text("garbage")
    with pytest.raises(DamagedFiles, match="restore a backup"):
        RocksEngine(tmp_path)


def test_a_damaged_block_is_an_error_and_not_an_early_end(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    for index in range(2000):
        write(engine, b"%04d" % index, os.urandom(100))
    engine.close()
    table = max(tmp_path.glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 0xFF
    table.write_bytes(content)
    engine = RocksEngine(tmp_path)
    with pytest.raises(DamagedFiles):
        list(engine.iterate(Family.RECORDS))
    with pytest.raises(DamagedFiles):
        list(engine.iterate(Family.RECORDS, reverse=True))
    with pytest.raises(DamagedFiles):
        list(engine.keys(Family.RECORDS))
    with pytest.raises(DamagedFiles):
        engine.multi_get(Family.RECORDS, [b"%04d" % index for index in range(2000)])
    with pytest.raises(DamagedFiles):
        [engine.get(Family.RECORDS, b"%04d" % index) for index in range(2000)]
    snapshot = engine.snapshot()
    with pytest.raises(DamagedFiles):
        list(snapshot.iterate(Family.RECORDS))
    with pytest.raises(Unavailable, match="could not be compacted"):
        engine.compact()
    engine.close()


def test_a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself(small_disk: Path) -> None:
    engine = RocksEngine(small_disk / "data")
    write(engine, b"first")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(BALLAST_BYTES))
    count = fill(engine)
    assert count > 10
    with pytest.raises(NoSpace, match="free at least 128 MiB"):
        engine.recover()
    assert engine.get(Family.RECORDS, b"first") == b"v"
    assert engine.get(Family.RECORDS, b"%06d" % (count - 1)) is not None
    assert engine.get(Family.RECORDS, b"%06d" % count) is None
    ballast.unlink()
    await_recovery(engine)
    write(engine, b"last", sync=True)
    engine.close()
    again = RocksEngine(small_disk / "data")
    assert again.get(Family.RECORDS, b"last") == b"v"
    assert len(list(again.iterate(Family.RECORDS))) == count + 2
    again.close()


def test_a_full_disk_at_open_is_told(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(DISK_BYTES - 8192))
    with pytest.raises(NoSpace):
        RocksEngine(small_disk / "data")


def test_another_failed_write_is_mended_by_opening_again(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    write(engine, b"first")
    snapshot = engine.snapshot()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        count = fill(engine)
        with pytest.raises(Unavailable):
            write(engine, b"refused")
        assert engine.get(Family.RECORDS, b"first") == b"v"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(Unavailable):
        write(engine, b"refused")
    engine.recover()
    del snapshot
    write(engine, b"last")
    assert engine.get(Family.RECORDS, b"%06d" % (count - 1)) is not None
    assert engine.get(Family.RECORDS, b"refused") is None
    engine.close()


class _IllDisk:
    """Stands before a database whose disk fails to sync."""

    def __init__(self, database: Any) -> None:
        self.database = database

    def flush_wal(self, sync: bool) -> None:
        raise OSError("IO error: fsync: Input/output error")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.database, name)


def test_a_failed_sync_is_followed_by_no_write_until_the_database_was_opened_anew(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    write(engine, b"before")
    healthy = engine._db
    engine._db = _IllDisk(healthy)
    with pytest.raises(Unavailable, match="Input/output error"):
        engine.sync()
    engine._db = healthy  # a second sync would succeed, and save nothing
    with pytest.raises(Unavailable):
        engine.sync()
    with pytest.raises(Unavailable):
        write(engine, b"refused")
    assert engine.get(Family.RECORDS, b"before") == b"v"
    del healthy
    engine.recover()
    assert engine.get(Family.RECORDS, b"before") == b"v"
    assert engine.get(Family.RECORDS, b"refused") is None
    write(engine, b"after", sync=True)
    engine.close()


class _HeldOpening:
    """An engine whose database is about to be opened anew, in a thread; a moment later it goes on."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[], object]) -> None:
        self.engine = engine = RocksEngine(path)
        write(engine, b"before")
        engine._poison = Unavailable(str(path), "fsync failed")
        self.error: StorageError | None = None
        opening, may_go_on, open_really = threading.Event(), threading.Event(), engine._open

        def open_later() -> None:
            opening.set()
            assert may_go_on.wait(60)
            spoil()
            open_really()

        monkeypatch.setattr(engine, "_open", open_later)
        self._thread = threading.Thread(target=self._recover)
        self._thread.start()
        assert opening.wait(60)
        threading.Timer(0.2, may_go_on.set).start()

    def _recover(self) -> None:
        try:
            self.engine.recover()
        except StorageError as error:
            self.error = error

    def close(self) -> None:
        self._thread.join()
        self.engine.close()


def test_while_the_database_is_opened_anew_reads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = _HeldOpening(tmp_path, monkeypatch, spoil=lambda: None)
    assert held.engine.get(Family.RECORDS, b"before") == b"v"
    assert [key for key, _ in held.engine.iterate(Family.RECORDS)] == [b"before"]
    held.close()
    assert held.error is None


def test_reads_that_wait_hear_why_the_database_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = _HeldOpening(tmp_path, monkeypatch, spoil=(tmp_path / "CURRENT").unlink)
    monkeypatch.setattr(held.engine, "_create", False)
    with pytest.raises(StorageError) as heard:
        held.engine.get(Family.RECORDS, b"before")
    held.close()
    assert held.error is not None
    assert str(heard.value) == str(held.error)


def test_a_disk_that_holds_other_writes_than_memory_is_told_and_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RocksEngine(tmp_path)
    write(engine, b"before", sync=True)
    counts = iter([7, 5])
    monkeypatch.setattr(engine, "_last_sequence", lambda: next(counts))
    engine._poison = Unavailable(str(tmp_path), "fsync failed")
    for _ in range(2):
        with pytest.raises(Parted, match="5 instead of 7"):
            engine.recover()
        with pytest.raises(Unavailable):
            write(engine, b"refused")
    assert engine.get(Family.RECORDS, b"before") == b"v"
    engine.close()


def test_while_the_disk_is_ill_the_database_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RocksEngine(tmp_path)
    write(engine, b"before")
    engine._poison = Unavailable(str(tmp_path), "fsync failed")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _fail_to_sync)
        with pytest.raises(Unavailable, match="Input/output error"):
            engine.recover()
    assert engine.get(Family.RECORDS, b"before") == b"v"
    engine.recover()
    write(engine, b"after", sync=True)
    engine.close()


def _fail_to_sync(fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_keeps_a_failed_batch_does_not_keep_the_database_open(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    engine._poison = Unavailable(str(tmp_path), "fsync failed")
    batch = engine.batch()
    batch.put(Family.META, b"a", b"")
    with pytest.raises(Unavailable):
        engine.write(batch, sync=False)
    engine.recover()
    engine.close()


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from storage.engine import Family\n"
        "from storage.engine_rocksdb import RocksEngine\n"
        "engine = RocksEngine(Path(sys.argv[1]))\n"
        "for index in range(10**9):\n"
        "    batch = engine.batch()\n"
        "    batch.put(Family.RECORDS, b'%09d' % index, b'v')\n"
        "    batch.put(Family.META, b'last', b'%09d' % index)\n"
        "    engine.write(batch, sync=False)\n"
        "    print(index, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) > 500:
            break
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split("\n")
    writer.wait()
    writer.stdout.close()
    acknowledged = [int(line) for line in rest[:-1] if line]
    last = max([501, *acknowledged])
    engine = RocksEngine(tmp_path)
    stored = [int(key) for key, _ in engine.iterate(Family.RECORDS)]
    assert stored == list(range(len(stored)))
    assert len(stored) > last
    assert engine.get(Family.META, b"last") == b"%09d" % stored[-1]
    engine.close()


def test_large_values_go_to_blob_files(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    write(engine, b"small", os.urandom(64 * 1024 - 1))
    write(engine, b"large", os.urandom(64 * 1024))
    engine.close()
    assert sum(path.stat().st_size for path in tmp_path.glob("*.blob")) >= 64 * 1024
    again = RocksEngine(tmp_path)
    assert again.stats()["engine_blob_bytes"] >= 64 * 1024
    again.close()


def test_a_snapshot_left_open_is_closed_with_the_engine(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    write(engine, b"a")
    snapshot = engine.snapshot()
    engine.close()
    with pytest.raises(StorageError):
        snapshot.get(Family.RECORDS, b"a")
    RocksEngine(tmp_path).close()


def test_a_checkpoint_in_a_thread_does_not_stop_the_others(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path / "data")
    for index in range(300):
        write(engine, b"%03d" % index, os.urandom(60_000))
    thread = threading.Thread(target=engine.checkpoint, args=[tmp_path / "copy"])
    turns = 0
    own, all_threads = time.thread_time(), time.process_time()
    thread.start()
    while thread.is_alive():
        turns += 1
    own, all_threads = time.thread_time() - own, time.process_time() - all_threads
    thread.join()
    # Flushing 18 MB takes tens of milliseconds of processor time; this loop has its share of it meanwhile.
    assert turns > 100
    assert own > 0.4 * all_threads
    engine.close()


def test_the_binding_still_needs_its_workarounds(tmp_path: Path) -> None:
    """If this fails, rocksdict has mended something: simplify `engine_rocksdb` and its text."""
    database = rocksdict.Rdict(str(tmp_path), rocksdict.Options(raw_mode=True))
    for key in (b"a", b"b", b"c"):
        database[key] = b"old"
    bounds = rocksdict.ReadOptions()
    bounds.set_iterate_lower_bound(b"b")
    assert [key for key, _ in database.items(read_opt=bounds)] == [b"a"]
    snapshot = database.snapshot()
    database[b"a"] = b"new"
    assert next(iter(snapshot.items())) == (b"a", b"new")
    del snapshot
    database.close()
