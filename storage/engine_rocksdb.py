"""RocksDB behind the engine interface, by way of rocksdict in raw mode.

The only module that imports rocksdict, and the place where its bare exceptions become typed errors.

What rocksdict 0.3.29 does differently from what one would expect, each with a test in
tests/storage/test_engine_rocksdb.py:

* its iterables over items end silently at an unreadable block, so `_walk` steps a raw iterator and
  asks for its status at the end;
* `set_iterate_lower_bound` sets the upper bound, so the start is sought and never set as a bound;
* iterating a snapshot shows the present, so a snapshot here is a pair of iterators for each family,
  made at the same moment (an iterator shows the state at its creation);
* `compact_range` tells of no error, so `compact` looks whether all tables are others afterwards;
* there is no `Resume`. RocksDB itself comes back from a full disk, some seconds after there is space.
  After any other failed write only closing and opening again helps, and that is what `recover` does. So
  it does after any failed sync: the system may have dropped the pages that it could not write and calls
  them clean, so that a later sync succeeds and saves nothing (Source: "fsyncgate", PostgreSQL, 2018);
* a directory whose CURRENT file is lost would be taken for an empty one and its files deleted.

Options, in the order of what they buy. Writes: one writer, so no concurrent memtable insertion; the log
of all families together is bounded (`_WAL_BYTES_MAX`), because one idle family would pin all logs
and a restart replays them; memtables of the records, whose keys come in any order, are small (8 MiB) and
flushed four at a time: an insertion costs what its walk through the memtable misses in the processor's
caches (1.7 us an entry with 32 MiB, 1.1 us with 8 MiB), while the files stay as large, and as free of
overwritten rows, as those of one large memtable. A bloom filter for each of these memtables costs an insertion
nothing measurable and halves a look-up (3.8 us without, 2.2 with it; of a missing key 2.5 and 0.5). Reads: 10 bits of bloom filter a
key, so that a look-up of a missing key costs no disk; index and filter blocks live in the block
cache, so memory is bounded whatever is stored. Space: LZ4, which costs nothing measurable, and zstd where
nobody waits. Values of 64 KiB and more go to blob files, so that compaction does not copy them. Two
background threads, for two cores.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakSet

import rocksdict

from storage.engine import Batch, Family, Snapshot
from storage.errors import (
    Closed,
    DamagedFiles,
    Locked,
    Missing,
    NoSpace,
    Parted,
    StorageError,
    Unavailable,
)
from storage.layout import META_PROBE

_MIB = 1024 * 1024
_BLOB_BYTES_MIN = 64 * 1024
_WAL_BYTES_MAX = 128 * _MIB
_OPEN_FILES_MAX = 1024
_BACKGROUND_THREADS = 2
_INFO_LOG_BYTES_MAX = 4 * _MIB
_INFO_LOGS_MAX = 3
_BLOOM_BITS = 10
_BLOCK_BYTES = 8 * 1024
_PROBE_NAME = "probe"
# In the text of an error: the log has not got the batch, or half of it, which counts as nothing.
_APPENDING = "While append"

# RocksDB goes on by itself once there is room for all memtables (84 MiB). With this much space free, a
# database that still reports a full disk needs more than that.
_AMPLE_BYTES = 256 * _MIB
_PATIENCE_PROBES = 10

_MEMTABLE_BYTES = {
    Family.RECORDS: 8 * _MIB,
    Family.MEMBERS: 16 * _MIB,
    Family.CHANGES: 16 * _MIB,
    Family.DEADLINES: 8 * _MIB,
    Family.HISTORY: 8 * _MIB,
    Family.META: 4 * _MIB,
}

_MEMTABLES_MAX = 3
_RECORDS_MERGED = 4  # so many memtables of the records make one file
_MEMTABLE_BLOOM_SHARE = 0.02  # of a memtable: about twenty bits for each of its rows

# RocksDB insists on a family called "default"; the hottest one takes its place.
_NAMES = {family: "default" if family is Family.RECORDS else str(family) for family in Family}

_STATS = {
    "engine_memtable_bytes": "rocksdb.cur-size-all-mem-tables",
    "engine_sst_bytes": "rocksdb.live-sst-files-size",
    "engine_blob_bytes": "rocksdb.live-blob-file-size",
    "engine_pending_compaction_bytes": "rocksdb.estimate-pending-compaction-bytes",
}


class RocksBatch:
    """A RocksDB write batch with the families' handles at hand. It can be written once."""

    __slots__ = ("_handles", "_put", "raw")

    def __init__(self, handles: Any) -> None:
        self.raw = rocksdict.WriteBatch(raw_mode=True)
        self._put = self.raw.put
        self._handles = handles

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self._put(key, value, self._handles[family])

    def put_all(self, family: Family, items: Iterable[tuple[bytes, bytes]]) -> None:
        # Hot: once for every row of a commit.
        put = self._put
        if family is Family.RECORDS:  # the default family of a batch needs no handle
            for key, value in items:
                put(key, value)
            return
        handle = self._handles[family]
        for key, value in items:
            put(key, value, handle)

    def spend(self) -> Any:
        """Return the RocksDB batch, and let go of the handles.

        Each keeps the database from being closed, and a batch lives on in the frames of an error.
        """
        self._handles = None
        return self.raw

    def delete(self, family: Family, key: bytes) -> None:
        self.raw.delete(key, self._handles[family])

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        self.raw.delete_range(start, end, self._handles[family])


class RocksSnapshot:
    """Two iterators for each family: one for look-ups, one for `iterate`."""

    def __init__(self, families: dict[Family, Any], path: str) -> None:
        self._path = path
        self._lookups: dict[Family, Any] = {family: rows.iter() for family, rows in families.items()}
        self._walks: dict[Family, Any] = {family: rows.iter() for family, rows in families.items()}
        self._walking: WeakSet[Generator[tuple[bytes, bytes], None, None]] = WeakSet()
        self.is_closed = False

    def get(self, family: Family, key: bytes) -> bytes | None:
        with _translated(self._path):
            cursor = self._lookups[family]
            cursor.seek(key)
            if cursor.valid() and cursor.key() == key:
                value: bytes = cursor.value()
                return value
            cursor.status()
            return None

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(family, key) for key in keys]

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        walk = (_walk_back if reverse else _walk)(self._walks[family], self._path, start, end)
        self._walking.add(walk)
        return _SnapshotWalk(self, walk)

    def close(self) -> None:
        """Let go of the database. A walk under way raises `Closed` at its next step: it has not come to its end."""
        self.is_closed = True
        self._lookups.clear()
        self._walks.clear()
        for walk in list(self._walking):
            # Its frame would hold the database open; one that is at a step in another thread does so for now.
            with contextlib.suppress(ValueError):
                walk.close()


class _SnapshotWalk:
    """A walk over a snapshot that can be closed in the middle."""

    __slots__ = ("_snapshot", "_walk")

    def __init__(self, snapshot: RocksSnapshot, walk: Iterator[tuple[bytes, bytes]]) -> None:
        self._snapshot = snapshot
        self._walk = walk

    def __iter__(self) -> _SnapshotWalk:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        try:
            return next(self._walk)
        except StopIteration:
            if self._snapshot.is_closed:
                raise Closed from None
            raise


class _Shut:
    """Stands where the database was: any use of it raises `error`."""

    def __init__(self, error: StorageError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        self._raise()

    def __getitem__(self, family: Family) -> NoReturn:
        self._raise()

    def _raise(self) -> NoReturn:
        # Without the frames of those who met it before: they may hold iterators, and these the database.
        raise self._error.with_traceback(None)


class _Opening:
    """Stands where a family was: whoever reads waits until the database is open again, or cannot be opened."""

    def __init__(self, engine: RocksEngine, family: Family) -> None:
        self._engine = engine
        self._family = family

    def __getattr__(self, name: str) -> Any:
        self._engine._decided.wait()
        return getattr(self._engine._families[self._family], name)


class RocksEngine:
    """One open RocksDB database in the directory `path`."""

    _db: Any
    _families: dict[Family, Any]
    _handles: Any  # by family

    def __init__(self, path: Path, *, block_cache_bytes: int = 128 * _MIB, create: bool = True) -> None:
        """Open `path`; with `create`, make it if it is missing. Raise a `StorageError` if that fails."""
        self._path = str(path)
        self._create = create
        self._cache = rocksdict.Cache(block_cache_bytes)
        self._lock = threading.Lock()  # sync and checkpoint in threads against close and recover
        self._compacting = threading.Lock()  # held for minutes, so nothing but closing waits for it
        self._closing = False
        self._snapshots: WeakSet[RocksSnapshot] = WeakSet()
        self._plain_write = rocksdict.WriteOptions()
        self._synced_write = rocksdict.WriteOptions()
        self._synced_write.sync = True
        self._full_probes = 0
        self._poison: StorageError | None = None  # a sync has failed: what the disk has is not known
        self._expected: int | None = None  # how many entries it has to hold when it is opened again
        self._parted: Parted | None = None
        self._decided = threading.Event()  # whether the database is open, or cannot be opened
        self._closed = False
        self._shut(Closed())
        self._check_directory(path)
        self._open()

    @property
    def path(self) -> str:
        return self._path

    def batch(self) -> Batch:
        return RocksBatch(self._handles)

    def get(self, family: Family, key: bytes) -> bytes | None:
        # Hot: once for every read that misses the cache.
        try:
            value: bytes | None = self._families[family].get(key)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more precise
            _fail(self._path, error)
        return value

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with _translated(self._path):
            values: list[bytes | None] = self._families[family].get(list(keys))
        return values

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        walk = _walk_back if reverse else _walk
        return walk(self._cursor(family, end), self._path, start, end)

    def keys(self, family: Family, start: bytes = b"", end: bytes | None = None) -> Iterator[bytes]:
        return _walk_keys(self._cursor(family, end), self._path, start, end)

    def _cursor(self, family: Family, end: bytes | None) -> Any:
        options = rocksdict.ReadOptions()
        if end is not None:
            options.set_iterate_upper_bound(end)
        with _translated(self._path):
            return self._families[family].iter(options)

    def write(self, batch: Batch, *, sync: bool) -> None:
        assert isinstance(batch, RocksBatch)
        raw = batch.spend()
        if self._poison is not None:
            raise self._poison.with_traceback(None)
        self._write(raw, sync=sync)

    def _write(self, raw: Any, *, sync: bool) -> None:
        try:
            self._db.write(raw, self._synced_write if sync else self._plain_write)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more precise
            del raw  # its handles would hold the database open for as long as the error is kept
            if sync and _APPENDING not in str(error):  # what was not even appended is not in doubt
                self._poison = _typed(self._path, error)
            _fail(self._path, error)

    def sync(self) -> None:
        with self._lock:
            if self._poison is not None:
                raise self._poison.with_traceback(None)
            try:
                self._db.flush_wal(True)
            except Exception as error:
                self._poison = _typed(self._path, error)
                raise _typed(self._path, error) from error

    def recover(self) -> None:
        with self._lock:
            if self._closed:
                raise Closed
            if self._parted is not None:
                raise self._parted.with_traceback(None)
            if self._poison is not None:
                self._probe_disk()  # not the database: a probe in its log would be in doubt as well
                self._reopen()
                return
            try:
                self._write_probe()
            except NoSpace:
                if not self._is_stuck():
                    raise
            except StorageError as error:
                # Reopening is the answer, and raises what is still wrong; but on a full disk it would take the
                # reads away as well. (A log that could not be written to says something else when it is synced.)
                if not self._has_ample_space():
                    raise NoSpace(self._path) from error
            else:
                self._full_probes = 0
                return
            self._close_database()
            self._open_again()
            self._write_probe()

    def snapshot(self) -> Snapshot:
        with _translated(self._path):
            snapshot = RocksSnapshot(self._families, self._path)
        self._snapshots.add(snapshot)
        return snapshot

    def checkpoint(self, target: Path) -> None:
        with self._lock, _translated(str(target)):
            if target.exists():
                raise Unavailable(str(target), "it exists already")
            # The copy flushes what is in memory, and holds the interpreter while it does (measured: half
            # a second for 60 MB); a flush of its own lets the other threads run, and leaves little to do.
            for rows in self._families.values():
                rows.flush(True)
            rocksdict.Checkpoint(self._db).create_checkpoint(str(target))

    def compact(self) -> None:
        options = rocksdict.CompactOptions()
        options.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
        options.set_exclusive_manual_compaction(False)
        with self._compacting, _translated(self._path):
            if self._closing:
                raise Closed
            for rows in self._families.values():
                rows.flush(True)  # the log goes, too, once no family needs it
            before = self._tables()
            for rows in self._families.values():
                rows.compact_range(None, None, options)
            if self._closing:
                raise Closed
            kept = before & self._tables()
            if kept:
                raise Unavailable(self._path, f"{len(kept)} of {len(before)} tables could not be compacted")

    def stats(self) -> dict[str, int]:
        with _translated(self._path):
            found = {
                name: sum(rows.property_int_value(source) or 0 for rows in self._families.values())
                for name, source in _STATS.items()
            }
            history = self._families[Family.HISTORY]
            found["engine_history_bytes"] = sum(
                history.property_int_value(_STATS[name]) or 0
                for name in ("engine_sst_bytes", "engine_blob_bytes")
            )
        found["engine_block_cache_bytes"] = self._cache.get_usage()
        return found

    def close(self) -> None:
        with self._lock:
            self._close_database()
            self._shut(Closed())
            self._closed = True

    # Below: not for others.

    def _check_directory(self, path: Path) -> None:
        """Refuse a directory that RocksDB would misunderstand; make a missing one if that is wanted."""
        try:
            is_there = (path / "CURRENT").exists()
            # A new database has CURRENT before any of these: who was killed while making one has neither.
            is_lost = not is_there and any(found.suffix in {".sst", ".log"} for found in path.glob("[0-9]*"))
            if is_lost:
                raise DamagedFiles(self._path, "the file CURRENT is missing")
            if not is_there and not self._create:
                raise Missing(self._path)
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(self._path, error.strerror or str(error)) from error

    def _reopen(self) -> None:
        """Close and open, so that everything lies in files that were synced anew.

        Closing writes what is in memory into such files. Where it cannot, opening reads the log again: two
        seconds for the longest, and rocksdict holds the interpreter while it does. So reads from elsewhere wait.
        """
        if self._expected is None:
            self._expected = self._last_sequence()
        self._close_database()
        self._open_again()
        found = self._last_sequence()
        if self._expected is not None and found is not None and found != self._expected:
            self._parted = Parted(self._path, self._expected, found)
            raise self._parted
        self._expected = self._poison = None

    def _open_again(self) -> None:
        try:
            self._open()
        except Locked as error:  # something of ours has not let go of it yet; the next probe tries again
            raise Unavailable(self._path, "it could not be opened again yet") from error

    def _probe_disk(self) -> None:
        """Write a file and sync it; raise the error if that fails."""
        probe = Path(self._path) / _PROBE_NAME
        try:
            with probe.open("wb") as file:
                file.write(bytes(_BLOCK_BYTES))
                file.flush()
                os.fsync(file.fileno())
            probe.unlink()
        except OSError as error:
            raise _typed(self._path, error) from error

    def _last_sequence(self) -> int | None:
        """Return how many entries were written in the life of the database; None if it is not open."""
        try:
            with _translated(self._path):
                count: int = self._db.latest_sequence_number()
        except StorageError:
            return None
        return count

    def _open(self) -> None:
        options = _database_options(_family_options(Family.RECORDS, self._cache))
        options.create_if_missing(self._create)
        options.create_missing_column_families(True)  # of a database that an earlier version has made
        others = {
            name: _family_options(family, self._cache)
            for family, name in _NAMES.items()
            if family is not Family.RECORDS
        }
        try:
            with _translated(self._path):
                self._db = rocksdict.Rdict(self._path, options, column_families=others)
                self._families = {f: self._db.get_column_family(name) for f, name in _NAMES.items()}
                self._handles = {f: self._db.get_column_family_handle(name) for f, name in _NAMES.items()}
        except StorageError as error:
            self._shut(error)
            raise
        self._decided.set()

    def _shut(self, error: StorageError) -> None:
        """Let every use raise `error` from now on."""
        self._db = _Shut(error)
        self._families = dict.fromkeys(Family, self._db)
        self._handles = self._db
        self._decided.set()

    def _close_database(self) -> None:
        """Close, whatever state the database is in: all that was written is in its log anyway."""
        for snapshot in list(self._snapshots):
            snapshot.close()
        self._closing = True
        if self._compacting.locked():
            self._db.cancel_all_background(True)
        with self._compacting:
            opened = [*self._families.values(), self._db]
            self._decided.clear()
            self._families = {family: _Opening(self, family) for family in Family}
            self._db = self._handles = _Shut(Unavailable(self._path, "it is being opened again"))
            for rows in opened:
                # A database in its error state cannot flush, says so, and is closed all the same.
                with contextlib.suppress(StorageError), _translated(self._path):
                    rows.close()
            self._closing = False

    def _tables(self) -> set[str]:
        return {file["name"] for file in self._db.live_files()}

    def _write_probe(self) -> None:
        self._write(self._probe(), sync=True)

    def _probe(self) -> Any:
        with _translated(self._path):
            batch = RocksBatch(self._handles)
            batch.put(Family.META, META_PROBE, b"")
        return batch.spend()

    def _is_stuck(self) -> bool:
        """Tell whether RocksDB stays in its error state although there is space again.

        While the disk is full, reopening might fail and reads would fail with it. RocksDB looks every five
        seconds for space and goes on by itself, so it is given some probes' time.
        """
        self._full_probes = self._full_probes + 1 if self._has_ample_space() else 0
        return self._full_probes > _PATIENCE_PROBES

    def _has_ample_space(self) -> bool:
        return shutil.disk_usage(self._path).free >= _AMPLE_BYTES


def _database_options(options: Any) -> Any:
    """Add to the options of the default family those of the database as a whole."""
    options.set_allow_concurrent_memtable_write(False)
    options.set_max_background_jobs(_BACKGROUND_THREADS)
    options.set_max_total_wal_size(_WAL_BYTES_MAX)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_bytes_per_sync(_MIB)
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_keep_log_file_num(_INFO_LOGS_MAX)
    options.set_max_log_file_size(_INFO_LOG_BYTES_MAX)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _family_options(family: Family, cache: Any) -> Any:
    options = rocksdict.Options(raw_mode=True)
    options.set_write_buffer_size(_MEMTABLE_BYTES[family])
    options.set_max_write_buffer_number(_MEMTABLES_MAX)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_block_size(_BLOCK_BYTES)
    blocks.set_format_version(6)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    if family in {Family.RECORDS, Family.MEMBERS}:
        blocks.set_bloom_filter(_BLOOM_BITS, False)
    if family in {Family.RECORDS, Family.MEMBERS, Family.HISTORY}:
        options.set_enable_blob_files(True)
        options.set_min_blob_size(_BLOB_BYTES_MIN)
        options.set_blob_compression_type(rocksdict.DBCompressionType.lz4())
        options.set_enable_blob_gc(True)
        options.set_blob_gc_age_cutoff(0.5)
        options.set_blob_gc_force_threshold(0.5)
    else:
        options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())
    if family is Family.RECORDS:
        options.set_min_write_buffer_number_to_merge(_RECORDS_MERGED)
        options.set_max_write_buffer_number(_MEMTABLES_MAX * _RECORDS_MERGED)
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(_MEMTABLE_BLOOM_SHARE)
    if family is Family.DEADLINES:
        # Its head is deleted all the time: files that are mostly deletions are compacted early.
        options.add_compact_on_deletion_collector_factory(1024, 512, 0.5)
    options.set_block_based_table_factory(blocks)
    return options


def _walk(
    cursor: Any, path: str, start: bytes, end: bytes | None
) -> Generator[tuple[bytes, bytes], None, None]:
    """Yield the items from `start` on, before `end`."""
    with _translated(path):
        cursor.seek(start)
        valid, key, value, following = cursor.valid, cursor.key, cursor.value, cursor.next
        while valid():
            found: bytes = key()
            if end is not None and found >= end:
                return
            yield found, value()
            following()
        cursor.status()


def _walk_keys(cursor: Any, path: str, start: bytes, end: bytes | None) -> Iterator[bytes]:
    """Yield the keys of what `_walk` yields."""
    with _translated(path):
        cursor.seek(start)
        while cursor.valid():
            found: bytes = cursor.key()
            if end is not None and found >= end:
                return
            yield found
            cursor.next()
        cursor.status()


def _walk_back(
    cursor: Any, path: str, start: bytes, end: bytes | None
) -> Generator[tuple[bytes, bytes], None, None]:
    """Yield the items before `end`, the last one first, down to `start`."""
    with _translated(path):
        if end is None:
            cursor.seek_to_last()
        else:
            cursor.seek_for_prev(end)
            if cursor.valid() and cursor.key() == end:
                cursor.prev()
        while cursor.valid():
            found: bytes = cursor.key()
            if found < start:
                return
            yield found, cursor.value()
            cursor.prev()
        cursor.status()


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn rocksdict's exceptions into ours."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more precise
        _fail(path, error)


def _fail(path: str, error: Exception) -> NoReturn:
    """Raise the typed error that `error` stands for."""
    if isinstance(error, StorageError):
        raise error
    raise _typed(path, error) from error


def _typed(path: str, error: Exception) -> StorageError:
    """Return the typed error that `error` stands for. Its text is all that rocksdict gives."""
    text = str(error)
    if isinstance(error, StorageError):
        return error
    if isinstance(error, rocksdict.DbClosedError):
        return Closed()
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return NoSpace(path)
    if f"{os.sep}LOCK:" in text:
        return Locked(path)
    if text.startswith("Corruption:"):
        return DamagedFiles(path, text)
    return Unavailable(path, text)
