"""Rotation, switching on, switching off: the walk that leaves everything sealed with the current key."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from storage.engine import Engine, Family
from storage.engine_memory import MemoryEngine
from storage.engine_rocksdb import RocksEngine
from storage.engine_sealed import SEALED, SealedEngine, keys_in_use
from storage.errors import Closed, KeyMissing, NoSpace, PlainValues, StorageError
from storage.keyring import Keyring, disused, new_keyring, rotated, without, without_plain
from storage.layout import META_KEYS, META_RESEALED, database_id
from storage.record import NEVER, dumps, loads
from storage.resealing import Phase, Resealer
from storage.sealing import key_id_of
from storage.store import Store, StoreOptions
from tests.servers import wait_until
from tests.storage.engines import EngineRig
from tests.storage.helpers import findings, raw_delete, raw_put, value_of
from tests.storage.test_engine_sealed import NOTE, SECRET, files_with, fill

NOW_MS = 1_700_000_000_000


def opened(rig: EngineRig, keyring: Keyring | None) -> Store:
    return Store(rig.open(), StoreOptions(keyring=keyring), now_ms=NOW_MS)


def walk_of(store: Store) -> Resealer:
    assert store.resealer is not None
    return store.resealer


def finish(store: Store, rows: int = 7) -> None:
    """Do the whole walk."""
    while store.reseal(rows):
        pass
    walk_of(store).compact()
    assert walk_of(store).finish()


def inner_of(store: Store) -> Engine:
    assert isinstance(store.engine, SealedEngine)
    return store.engine.inner


def keyring_of(store: Store) -> Keyring:
    assert isinstance(store.engine, SealedEngine)
    return store.engine.keyring


def ids_of(engine: Engine) -> set[bytes | None]:
    """Return the ids of the keys that values are sealed with."""
    return {key_id_of(value) for family in SEALED for _, value in engine.iterate(family)}


def content(store: Store) -> dict[bytes, object]:
    return dict(store.keyspace(0).scan(b"", None, 10_000)[0])


def test_a_store_with_one_key_has_nothing_to_do(rig: EngineRig) -> None:
    keyring = new_keyring()
    for _ in range(2):
        store = opened(rig, keyring)
        fill(store)
        assert walk_of(store).phase is Phase.IDLE
        assert not store.reseal(10)


def test_after_a_rotation_the_old_key_can_go(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    fill(store)
    before = content(store)
    both = rotated(first)
    store.adopt_keys(both)
    store.keyspace(0).put(b"later", SECRET)
    store.commit()
    assert ids_of(inner_of(store)) == {both.current, first.current}
    assert walk_of(store).phase is Phase.WALKING
    finish(store)
    assert walk_of(store).phase is Phase.IDLE
    assert walk_of(store).resealed < walk_of(store).examined, "what was new was left alone"
    assert ids_of(inner_of(store)) == {both.current}
    alone = without(both, first.keys[0].id)
    again = opened(rig, alone)
    after = content(again)
    del after[b"later"]
    assert after == before
    assert findings(again) == []
    with pytest.raises(KeyMissing):
        opened(rig, first)


def test_writes_in_the_middle_of_the_walk_stay(rig: EngineRig) -> None:
    store = opened(rig, new_keyring())
    keys = [b"%03d" % number for number in range(100)]
    for key in keys:
        store.keyspace(0).put(key, b"old")
    store.commit()
    store.adopt_keys(rotated(keyring_of(store)))
    for number in range(0, 100, 10):
        store.keyspace(0).put(keys[number], b"new")
        store.keyspace(0).delete(keys[99 - number])
        store.commit()
        store.reseal(10)
    finish(store)
    live = {keys[number]: b"new" if number % 10 == 0 else b"old" for number in range(100)}
    for number in range(0, 100, 10):
        del live[keys[99 - number]]
    assert {key: value_of(store.keyspace(0), key) for key in live} == live
    assert len(content(store)) == len(live)


def test_a_plain_store_becomes_an_encrypted_one(rig: EngineRig) -> None:
    plain = opened(rig, None)
    fill(plain)
    before = content(plain)
    keyring = new_keyring(plain=True)
    store = opened(rig, keyring)
    assert content(store) == before
    assert ids_of(inner_of(store)) == {None}
    with pytest.raises(PlainValues):
        store.adopt_keys(without_plain(keyring))
    finish(store)
    assert ids_of(inner_of(store)) == {keyring.current}
    store.adopt_keys(without_plain(keyring))
    assert content(opened(rig, without_plain(keyring))) == before
    with pytest.raises(KeyMissing):
        opened(rig, None)


def test_plain_values_are_taken_only_if_the_keyring_says_so(rig: EngineRig) -> None:
    plain = opened(rig, None)
    fill(plain)
    engine = rig.open()
    before = {family: list(engine.iterate(family)) for family in Family}
    with pytest.raises(PlainValues, match="kvd encryption-key plain"):
        Store(engine, StoreOptions(keyring=new_keyring()), now_ms=NOW_MS)
    assert {family: list(engine.iterate(family)) for family in Family} == before


def test_a_store_that_was_flushed_still_has_plain_text_to_be_removed(tmp_path: Path) -> None:
    plain = Store.open(tmp_path)
    fill(plain)
    plain.engine.compact()  # what is in memory would be dropped before it comes to a file
    plain.flush_all()
    plain.keyspaces.delete(plain.keyspaces.all()[0].id)
    plain.commit()
    plain.close()
    assert files_with(tmp_path, SECRET)
    with pytest.raises(PlainValues):
        Store.open(tmp_path, StoreOptions(keyring=new_keyring()))
    store = Store.open(tmp_path, StoreOptions(keyring=new_keyring(plain=True)))
    finish(store)
    assert files_with(tmp_path, SECRET, NOTE) == []
    store.close()


def test_nobody_with_the_disk_can_make_plain_values_count(rig: EngineRig) -> None:
    keyring = new_keyring()
    store = opened(rig, keyring)
    fill(store)
    engine = inner_of(store)
    listed = engine.get(Family.META, META_KEYS)
    assert listed is not None
    raw_delete(engine, Family.META, META_KEYS)  # as if it had never been encrypted
    with pytest.raises(PlainValues):
        opened(rig, keyring)
    engine = rig.open()
    raw_put(engine, Family.META, META_KEYS, dumps([*loads(listed), [None, b""]]))
    with pytest.raises(PlainValues):
        opened(rig, keyring)
    raw_put(rig.open(), Family.META, META_KEYS, listed)
    assert content(opened(rig, keyring))


def test_an_encrypted_store_becomes_a_plain_one(rig: EngineRig) -> None:
    keyring = new_keyring()
    store = opened(rig, keyring)
    fill(store)
    before = content(store)
    with pytest.raises(KeyMissing):
        opened(rig, None)
    store = opened(rig, disused(keyring))
    assert content(store) == before
    finish(store)
    assert ids_of(inner_of(store)) == {None}
    plain = opened(rig, None)
    assert content(plain) == before
    assert findings(plain) == []


def test_after_the_walk_the_files_hold_no_plain_text(tmp_path: Path) -> None:
    plain = Store.open(tmp_path)
    for _ in range(3):
        fill(plain)
        plain.engine.compact()  # flushes, so that there are several tables
    plain.keyspace(0).put(b"deleted", SECRET)
    plain.commit()
    plain.keyspace(0).delete(b"deleted")
    plain.commit()
    plain.close()
    assert files_with(tmp_path, SECRET)
    assert files_with(tmp_path, NOTE)
    keyring = new_keyring(plain=True)
    store = Store.open(tmp_path, StoreOptions(keyring=keyring))
    finish(store)
    assert files_with(tmp_path, SECRET, NOTE) == []
    assert value_of(store.keyspace(0), b"blob") == SECRET * 20_000
    store.close()


def test_a_later_process_goes_on_where_the_walk_was(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    for number in range(100):
        store.keyspace(0).put(b"%03d" % number, SECRET)
    store.commit()
    both = rotated(first)
    store.adopt_keys(both)
    for _ in range(3):
        store.reseal(20)
    again = opened(rig, both)
    finish(again)
    assert walk_of(again).resealed == 40
    assert ids_of(inner_of(again)) == {both.current}


def test_another_key_in_the_middle_begins_the_walk_anew(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    for number in range(50):
        store.keyspace(0).put(b"%03d" % number, SECRET)
    store.commit()
    second = rotated(first)
    store.adopt_keys(second)
    store.reseal(20)
    third = rotated(second)
    store.adopt_keys(third)
    assert set(keys_in_use(inner_of(store))) == {first.current, second.current, third.current}
    finish(store)
    assert ids_of(inner_of(store)) == {third.current}
    assert value_of(opened(rig, Keyring(third.keys[:1], third.current)).keyspace(0), b"007") == SECRET


def test_keys_that_change_during_the_compaction_are_not_let_go(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    fill(store)
    second = rotated(first)
    store.adopt_keys(second)
    while store.reseal(100):
        pass
    assert walk_of(store).phase is Phase.COMPACTING
    walk_of(store).compact()
    store.adopt_keys(rotated(second))
    assert not walk_of(store).finish()
    assert first.current in keys_in_use(inner_of(store))


def test_going_back_to_the_key_before_is_a_rotation_too(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    fill(store)
    both = rotated(first)
    store.adopt_keys(both)
    store.reseal(3)
    store.adopt_keys(Keyring(both.keys, first.current))
    finish(store)
    assert ids_of(inner_of(store)) == {first.current}
    opened(rig, first)


def test_a_value_that_does_not_open_keeps_all_keys(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    for number in range(30):
        store.keyspace(0).put(b"%03d" % number, SECRET)
    store.commit()
    place = database_id(0) + b"007"
    stored = inner_of(store).get(Family.RECORDS, place)
    assert stored is not None
    raw_put(inner_of(store), Family.RECORDS, place, stored[:-1] + bytes([stored[-1] ^ 1]))
    both = rotated(first)
    store = opened(rig, both)
    while store.reseal(5):
        pass
    walk = walk_of(store)
    assert (walk.phase, walk.unopened, walk.unopened_count) == (Phase.BLOCKED, [place], 1)
    assert not walk.finish()
    with pytest.raises(KeyMissing):
        opened(rig, without(both, first.keys[0].id))
    store = opened(rig, both)
    while store.reseal(5):
        pass
    assert walk_of(store).unopened == [place], "a later process finds it as well"
    store.keyspace(0).delete(b"007")
    store.keyspace(0).put(b"007", b"restored")
    store.commit()
    walk_of(store).restart()
    finish(store)
    assert ids_of(inner_of(store)) == {both.current}


def test_large_values_make_short_slices(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    for number in range(5):
        store.keyspace(0).put(b"%d" % number, bytes(800_000))
    store.commit()
    store.adopt_keys(rotated(first))
    assert store.reseal(1000)
    assert walk_of(store).examined == 2
    finish(store, 1000)


def test_a_full_disk_stops_the_walk_for_a_while() -> None:
    engine = MemoryEngine()
    first = new_keyring()
    store = Store(engine, StoreOptions(keyring=first), now_ms=NOW_MS)
    fill(store)
    before = content(store)
    store.adopt_keys(rotated(first))
    engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace):
        store.reseal(3)
    assert isinstance(store.writable, NoSpace)
    assert walk_of(store).examined == 0
    assert store.probe()
    finish(store)
    assert content(store) == before


def test_a_position_that_makes_no_sense_is_not_believed(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    fill(store)
    both = rotated(first)
    store.adopt_keys(both)
    store.reseal(2)
    stored = inner_of(store).get(Family.META, META_RESEALED)
    assert stored is not None
    assert loads(stored)[0] == both.current
    raw_put(inner_of(store), Family.META, META_RESEALED, b"\xff")
    again = opened(rig, both)
    finish(again)
    assert ids_of(inner_of(again)) == {both.current}


def test_compaction_can_be_cut_short_by_closing(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path)
    for part in range(40):
        batch = engine.batch()
        rows = [(b"%d %d" % (number, part), bytes([part]) * 20_000) for number in range(100)]
        batch.put_all(Family.RECORDS, rows)
        engine.write(batch, sync=False)
    ended: list[StorageError | None] = []

    def compact() -> None:
        try:
            for _ in range(50):
                engine.compact()
            ended.append(None)
        except StorageError as error:
            ended.append(error)

    thread = threading.Thread(target=compact)
    thread.start()
    wait_until(engine._compacting.locked, "the compaction begins")
    engine.close()
    thread.join()
    assert isinstance(ended[0], StorageError), "it was not done yet"
    again = RocksEngine(tmp_path, create=False)  # nothing holds the directory any more
    assert sum(1 for _ in again.iterate(Family.RECORDS)) == 4000
    again.compact()
    again.close()
    with pytest.raises(Closed):
        again.compact()


def test_expiry_and_metadata_survive_the_walk(rig: EngineRig) -> None:
    first = new_keyring()
    store = opened(rig, first)
    store.keyspace(0).put(b"k", SECRET, NOW_MS + 1000, NOTE)
    store.keyspace(0).put(b"l", SECRET, NEVER, NOTE)
    store.commit()
    row = store.keyspace(0).get(b"k")
    store.adopt_keys(rotated(first))
    finish(store)
    again = opened(rig, keyring_of(store))
    assert again.keyspace(0).get(b"k") == row
