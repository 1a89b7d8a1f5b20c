"""RocksDB behind the engine interface, by way of rocksdict in raw mode.

The only module that imports rocksdict, and the place where its bare exceptions become typed errors.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import rocksdict

from storage.engine import Batch, Family, Snapshot
from storage.errors import Closed, DamagedFiles, Locked, NoSpace, StorageError, Unavailable

_MIB = 1024 * 1024
_BLOB_BYTES_MIN = 64 * 1024

# RocksDB insists on a family called "default"; the hottest one takes its place.
_NAMES = {family: "default" if family is Family.RECORDS else str(family) for family in Family}


class RocksBatch:
    """A RocksDB write batch, the families' handles at hand."""

    __slots__ = ("_handles", "_put", "raw")

    def __init__(self, handles: dict[Family, Any]) -> None:
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

    def delete(self, family: Family, key: bytes) -> None:
        self.raw.delete(key, self._handles[family])

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        self.raw.delete_range(start, end, self._handles[family])


class RocksSnapshot:
    """Snapshots of every family, taken while nobody writes, so they show one moment."""

    def __init__(self, families: dict[Family, Any], path: str) -> None:
        self._path = path
        self._snapshots: dict[Family, Any] = {family: rows.snapshot() for family, rows in families.items()}

    def get(self, family: Family, key: bytes) -> bytes | None:
        with _translated(self._path):
            try:
                value: bytes = self._snapshots[family][key]
            except KeyError:
                return None
            return value

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(family, key) for key in keys]

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return _iterate(self._snapshots[family], self._path, start, end, reverse)

    def close(self) -> None:
        self._snapshots.clear()


class RocksEngine:
    """One open RocksDB database in the directory `path`, made if it is missing."""

    def __init__(self, path: Path, *, block_cache_bytes: int = 128 * _MIB) -> None:
        self._path = str(path)
        self._block_cache_bytes = block_cache_bytes
        self._lock = threading.Lock()  # sync and checkpoint in threads against close and recover
        self._write_fast = rocksdict.WriteOptions()
        self._write_sync = rocksdict.WriteOptions()
        self._write_sync.sync = True
        self._db: Any = None
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(self._path, error.strerror or str(error)) from error
        self._open()

    @property
    def path(self) -> str:
        return self._path

    def batch(self) -> Batch:
        return RocksBatch(self._handles)

    def get(self, family: Family, key: bytes) -> bytes | None:
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
        return _iterate(self._families[family], self._path, start, end, reverse)

    def write(self, batch: Batch, *, sync: bool) -> None:
        assert isinstance(batch, RocksBatch)
        try:
            self._db.write(batch.raw, self._write_sync if sync else self._write_fast)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more precise
            _fail(self._path, error)

    def sync(self) -> None:
        with self._lock, _translated(self._path):
            self._check_open()
            self._db.flush_wal(True)

    def recover(self) -> None:
        """Close and open the database: rocksdict has no other way out of RocksDB's error state."""
        with self._lock:
            self._check_open()
            self._close()
            self._open()

    def snapshot(self) -> Snapshot:
        with _translated(self._path):
            self._check_open()
            return RocksSnapshot(self._families, self._path)

    def checkpoint(self, target: Path) -> None:
        with self._lock, _translated(str(target)):
            self._check_open()
            rocksdict.Checkpoint(self._db).create_checkpoint(str(target))

    def stats(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._close()

    def _open(self) -> None:
        options = self._options()
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        families = {name: self._options() for name in _NAMES.values() if name != "default"}
        with _translated(self._path):
            self._db = rocksdict.Rdict(self._path, options, column_families=families)
            self._families: dict[Family, Any] = {
                family: self._db if name == "default" else self._db.get_column_family(name)
                for family, name in _NAMES.items()
            }
            self._handles: dict[Family, Any] = {
                family: self._db.get_column_family_handle(name) for family, name in _NAMES.items()
            }

    def _close(self) -> None:
        database, self._db = self._db, None
        for family in list(self._families):
            rows = self._families.pop(family)
            if rows is not database:
                rows.close()
        self._handles.clear()
        with _translated(self._path):
            database.close()

    def _options(self) -> Any:
        return rocksdict.Options(raw_mode=True)

    def _check_open(self) -> None:
        if self._db is None:
            raise Closed


def _iterate(
    rows: Any, path: str, start: bytes, end: bytes | None, reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Iterate one family or snapshot.

    The start is sought, not set as a bound: rocksdict 0.3.29's lower bound sets the upper one.
    """
    bounds = rocksdict.ReadOptions()
    if end is not None:
        bounds.set_iterate_upper_bound(end)
    with _translated(path):
        if reverse:
            return _guarded_reverse(rows.items(backwards=True, read_opt=bounds), path, start)
        return _guarded(rows.items(from_key=start, read_opt=bounds), path)


def _guarded(items: Iterator[tuple[bytes, bytes]], path: str) -> Iterator[tuple[bytes, bytes]]:
    with _translated(path):
        yield from items


def _guarded_reverse(
    items: Iterator[tuple[bytes, bytes]], path: str, start: bytes
) -> Iterator[tuple[bytes, bytes]]:
    with _translated(path):
        for item in items:
            if item[0] < start:
                return
            yield item


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn rocksdict's exceptions into ours."""
    try:
        yield
    except (StorageError, GeneratorExit):
        raise
    except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more precise
        _fail(path, error)


def _fail(path: str, error: Exception) -> NoReturn:
    text = str(error)
    if isinstance(error, rocksdict.DbClosedError):
        raise Closed from error
    if "No space left on device" in text or "Disk quota exceeded" in text:
        raise NoSpace(path) from error
    if "lock" in text.lower() and ("LOCK" in text or "lock file" in text):
        raise Locked(path) from error
    if text.startswith("Corruption") or "Corruption:" in text:
        raise DamagedFiles(path, text) from error
    raise Unavailable(path, text) from error
