"""Histories on disk: failures and damage, copies, directories of older versions, encryption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rocksdict

from storage.engine import Engine, Family
from storage.engine_memory import MemoryEngine
from storage.engine_rocksdb import RocksEngine
from storage.engine_sealed import SealedEngine
from storage.errors import Aborted, DamagedFiles, NoSpace, RecordError
from storage.keyring import new_keyring, rotated
from storage.layout import HISTORY_PREFIX, SYSTEM
from storage.record import MISSING, NEVER, dumps
from storage.resealing import Phase
from storage.store import Store, StoreOptions
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig, RocksRig
from tests.storage.helpers import findings, keys_of, raw_put, value_of
from tests.storage.histories import change, past, remembering, reopened, row_count
from tests.storage.test_engine_sealed import files_with

SECRET = b"a value that nobody else may read"


# Failures.


def test_a_commit_that_fails_leaves_no_version(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    store.commit()
    keyspace.put(b"k", b"two")
    keyspace.put(b"k", b"three")
    store.poison("a test")
    with pytest.raises(Aborted):
        store.commit()
    assert (past(keyspace), row_count(store), value_of(keyspace, b"k")) == ([], 0, b"one")
    keyspace.put(b"k", b"four")
    store.commit()
    assert past(keyspace) == [b"one"]


def test_a_store_that_is_closed_in_a_tick_writes_none_of_it(store: Store, rig: EngineRig) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    store.commit()
    keyspace.put(b"k", b"two")
    store.close()
    store, keyspace = reopened(rig)
    assert (past(keyspace), value_of(keyspace, b"k")) == ([], b"one")


@pytest.mark.parametrize("kept", range(6))
def test_after_a_power_cut_the_past_is_that_of_the_records(kept: int) -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    keyspace = remembering(store, 2)
    store.commit()
    store.sync()
    for number in range(5):
        keyspace.put(b"k", b"%d" % number)
        store.commit()
    engine.crash(keep=kept)
    store = Store(engine, now_ms=NOW_MS)
    found = store.keyspaces.find("past")
    assert found is not None
    numbers = list(range(5))[:kept]
    assert value_of(found, b"k") == (b"%d" % numbers[-1] if numbers else None)
    assert past(found) == [b"%d" % number for number in numbers[-2:-4:-1]]
    assert findings(store) == []


def test_a_full_disk_does_not_lose_the_place_of_a_trim() -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    keyspace = remembering(store, 5)
    for number in range(8):
        for key in range(10):
            keyspace.put(b"%d" % key, b"%d" % number)
    store.commit()
    change(store, keyspace, 1)
    store.sweep(5)
    engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace):
        store.sweep(5)
    while store.sweep(5):
        pass
    assert row_count(store) == 10
    assert findings(store) == []


def test_a_version_that_cannot_be_read_is_told_and_does_not_keep_a_key_from_being_written(
    store: Store, rig: EngineRig
) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two")
    store.commit()
    [row_key] = keys_of(store.engine, Family.HISTORY)
    for damaged in (b"", b"short", bytes(8), bytes(8) + b"\x80", bytes(8) + b"\xff" * 40):
        raw_put(store.engine, Family.HISTORY, row_key, damaged)
        with pytest.raises(RecordError):
            keyspace.versions(b"k", 9)
        assert len(findings(store)) == 1
    store.close()
    store, keyspace = reopened(rig)
    keyspace.put(b"k", b"three")
    store.commit()
    assert past(keyspace, count=1) == [b"two"]
    for value in (b"four", b"five", b"six"):
        keyspace.put(b"k", value)
    store.commit()
    assert past(keyspace) == [b"five", b"four", b"three"]
    assert findings(store) == []


class Damage:
    """An engine whose history cannot be read: a block of it is damaged, say."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_damaged = True

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.engine, name)
        if name not in {"iterate", "keys"}:
            return found

        def read(family: Family, *rest: Any, **options: Any) -> Any:
            if self.is_damaged and family is Family.HISTORY:
                raise DamagedFiles("here", "a test")
            return found(family, *rest, **options)

        return read


def test_a_write_that_cannot_be_remembered_is_refused_whole(store: Store, rig: EngineRig) -> None:
    keyspace = remembering(store)
    for key in (b"k", b"deleted"):
        keyspace.put(key, b"one")
        keyspace.put(key, b"two", NOW_MS + 9000)
    keyspace.delete(b"deleted")
    store.commit()
    store.close()
    damage = Damage(rig.open())
    store = Store(damage, now_ms=NOW_MS)
    found = store.keyspaces.find("past")
    assert found is not None
    before = found.counts, found.peek(b"k"), found.peek(b"deleted")
    for action in (
        lambda: found.put(b"k", b"three"),
        lambda: found.delete(b"k"),
        lambda: found.put(b"deleted", b"three", NOW_MS + 9),
        lambda: found.rewrite(b"deleted", MISSING),
    ):
        with pytest.raises(DamagedFiles):
            action()
        assert (found.counts, found.peek(b"k"), found.peek(b"deleted")) == before
    store.keyspace(0).put(b"other", b"v")
    store.commit()
    damage.is_damaged = False
    store = Store(damage.engine, now_ms=NOW_MS)
    found = store.keyspaces.find("past")
    assert found is not None
    assert (found.counts, found.peek(b"k"), found.peek(b"deleted")) == before
    assert value_of(store.keyspace(0), b"other") == b"v"
    assert (past(found), past(found, b"deleted")) == ([b"one"], [b"two", b"one"])
    assert findings(store) == []


def test_a_history_that_cannot_be_trimmed_stops_no_sweep(store: Store, rig: EngineRig) -> None:
    keyspace = remembering(store)
    for value in (b"one", b"two", b"three"):
        keyspace.put(b"k", value)
    store.commit()
    change(store, keyspace, 1)
    store.keyspace(0).put(b"other", b"v", NOW_MS + 5)
    store.commit()
    store.close()
    store = Store(Damage(rig.open()), now_ms=NOW_MS + 5)
    expired: list[bytes] = []
    store.on_expired = lambda _, key: expired.append(key)
    with pytest.raises(DamagedFiles):
        store.sweep(10)
    assert (expired, store.dirty) == ([b"other"], False)


def test_a_damaged_record_has_a_past(store: Store, rig: EngineRig) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two")
    store.commit()
    raw_put(store.engine, Family.RECORDS, keyspace.id + b"k", b"\xff")
    store.close()
    store, keyspace = reopened(rig)
    assert past(keyspace) == [b"one"]
    keyspace.delete(b"k")
    keyspace.put(b"k", b"three")
    store.commit()
    assert past(keyspace) == [None, b"one"]


def test_a_damaged_registry_takes_no_past_along(store: Store, rig: EngineRig) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two")
    store.commit()
    raw_put(store.engine, Family.RECORDS, SYSTEM + keyspace.id, b"\xff")
    store.close()
    store = Store(rig.open(), now_ms=NOW_MS)
    assert store.keyspaces.find("past") is None
    assert store.sweep(10) == 0
    assert row_count(store) == 1


@pytest.mark.parametrize("bound", [b"", b"\xff", dumps(0), dumps(-1), dumps("3"), dumps(None)])
def test_a_damaged_bound_is_told_when_the_store_is_opened(store: Store, rig: EngineRig, bound: bytes) -> None:
    keyspace = remembering(store)
    store.commit()
    raw_put(store.engine, Family.META, HISTORY_PREFIX + keyspace.id, bound)
    assert any("history" in finding for finding in findings(store))
    store.close()
    with pytest.raises(DamagedFiles, match="history"):
        Store(rig.open(), now_ms=NOW_MS)


# Copies, older directories, encryption.


def test_a_copy_has_the_past(store: Store, rig: EngineRig, tmp_path: Path) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two")
    store.commit()
    target = tmp_path / "copy"
    store.checkpoint(target)
    engine = store.engine
    if isinstance(engine, MemoryEngine):
        copied: MemoryEngine | RocksEngine = MemoryEngine()
        assert isinstance(copied, MemoryEngine)
        copied.restore(engine.checkpoints[target])
    else:
        copied = RocksEngine(target)
    copy = Store(copied, now_ms=NOW_MS)
    found = copy.keyspaces.find("past")
    assert found is not None
    assert past(found) == [b"one"]
    assert findings(copy) == []
    copy.close()


@pytest.mark.parametrize("create", [False, True])
def test_a_directory_of_a_version_without_histories_opens(tmp_path: Path, create: bool) -> None:
    rig = RocksRig(tmp_path / "data")
    store = Store(rig.open(), now_ms=NOW_MS)
    store.keyspaces.create("past").put(b"k", b"one")
    store.commit()
    store.close()
    drop_family(tmp_path / "data")
    RocksEngine(tmp_path / "data", create=create).close()
    store, keyspace = reopened(rig)
    assert findings(store) == []
    change(store, keyspace, 3)
    keyspace.put(b"k", b"two")
    store.commit()
    assert past(keyspace) == [b"one"]
    assert findings(store) == []
    store.close()


def drop_family(directory: Path) -> None:
    """Make of a database one that has never had the family."""
    options = rocksdict.Options(raw_mode=True)
    names = rocksdict.Rdict.list_cf(str(directory), options)
    others = {name: rocksdict.Options(raw_mode=True) for name in names if name != "default"}
    database = rocksdict.Rdict(str(directory), options, column_families=others)
    database.drop_column_family(str(Family.HISTORY))
    database.close()
    assert str(Family.HISTORY) not in rocksdict.Rdict.list_cf(str(directory), options)


def test_past_values_are_encrypted_and_encrypted_anew(tmp_path: Path) -> None:
    rig = RocksRig(tmp_path / "data")
    store = Store(rig.open(), now_ms=NOW_MS)
    keyspace = remembering(store)
    keyspace.put(b"k", SECRET, NEVER, b'"one"')
    keyspace.put(b"k", b"two")
    store.commit()
    store.close()
    assert files_with(tmp_path / "data", SECRET)
    keyring = new_keyring(plain=True)
    store, keyspace = reopened(rig, options=StoreOptions(keyring=keyring))
    assert past(keyspace) == [SECRET]
    assert store.resealer is not None
    while store.reseal(1):
        keyspace.put(b"k", SECRET)
        store.commit()
    store.resealer.compact()
    assert store.resealer.finish()
    assert store.resealer.phase is Phase.IDLE
    assert past(keyspace)[0] == SECRET
    assert findings(store) == []
    store.close()
    assert not files_with(tmp_path / "data", SECRET)
    turned = rotated(keyring)
    store, keyspace = reopened(rig, options=StoreOptions(keyring=turned))
    assert past(keyspace)[0] == SECRET
    store.close()


def test_a_past_value_that_was_moved_does_not_open(rig: EngineRig) -> None:
    store = Store(rig.open(), StoreOptions(keyring=new_keyring()), now_ms=NOW_MS)
    keyspace = remembering(store)
    for key in (b"a", b"b"):
        keyspace.put(key, key)
        keyspace.put(key, b"two")
    store.commit()
    assert isinstance(store.engine, SealedEngine)
    inner = store.engine.inner
    first, second = keys_of(inner, Family.HISTORY)
    raw_put(inner, Family.HISTORY, first, inner.get(Family.HISTORY, second) or b"")
    with pytest.raises(RecordError, match="moved"):
        keyspace.versions(b"a", 9)
    assert past(keyspace, b"b") == [b"b"]
    assert [finding for finding in findings(store) if "moved" in finding]
