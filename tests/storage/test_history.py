"""What a namespace with a history remembers, for how long, and that nobody else sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rocksdict

from storage.changes import VersionVector
from storage.engine import Engine, Family
from storage.engine_memory import MemoryEngine
from storage.engine_rocksdb import RocksEngine
from storage.engine_sealed import SealedEngine
from storage.errors import Aborted, DamagedFiles, KeyspaceGone, NoSpace, RecordError
from storage.expiry import Apart
from storage.keyring import new_keyring, rotated
from storage.layout import HISTORY_PREFIX, SYSTEM, history_key, history_prefix, parse_history_key
from storage.policy import HISTORY_MAX, Policy
from storage.record import EXPIRES_AT, METADATA, MISSING, NEVER, VALUE, dumps, encode
from storage.resealing import Phase
from storage.store import Keyspace, Store, StoreOptions
from storage.verify import Verifier
from storage.version import NO_PREV, hlc_at, pack_register
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig, RocksRig
from tests.storage.helpers import findings, keys_of, raw_put, value_of
from tests.storage.replicas import BIG, Node, Nodes, all_changes, contents, digest_of
from tests.storage.test_engine_sealed import files_with

HOUR_MS = 3_600_000
SECRET = b"a value that nobody else may read"


def remembering(store: Store, versions: int = 3, **policy: Any) -> Keyspace:
    """Make a namespace with a history."""
    return store.keyspaces.create("past", Policy(history=versions, **policy))


def reopened(
    rig: EngineRig, now_ms: int = NOW_MS, options: StoreOptions | None = None
) -> tuple[Store, Keyspace]:
    store = Store(rig.open(), options, now_ms=now_ms)
    keyspace = store.keyspaces.find("past")
    assert keyspace is not None
    return store, keyspace


def past(keyspace: Keyspace, key: bytes = b"k", count: int = HISTORY_MAX) -> list[bytes | None]:
    """Return the values of the past versions, newest first."""
    return [version.record[VALUE] for version in keyspace.versions(key, count)]


def row_count(store: Store) -> int:
    return len(keys_of(store.engine, Family.HISTORY))


def change(store: Store, keyspace: Keyspace, versions: int) -> None:
    """Let the namespace keep so many versions from now on, and commit."""
    store.keyspaces.change(keyspace.id, value_bytes_max=None, conflict_log=True, history=versions)
    store.commit()


def tick(store: Store, ms: int) -> None:
    """Begin a tick `ms` later."""
    store.begin(store.now_ms + ms)


# What is a version.


def test_what_was_replaced_is_remembered_newest_first(store: Store) -> None:
    keyspace = remembering(store)
    for value in (b"one", b"two", b"three"):
        keyspace.put(b"k", value)
        store.commit()
    assert past(keyspace) == [b"two", b"one"]
    assert past(keyspace, count=1) == [b"two"]
    assert past(keyspace, b"other") == []
    assert findings(store) == []


def test_a_version_tells_when_and_by_whom_it_was_written_and_when_it_was_replaced(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one", NOW_MS + 9000, b'{"a":1}')
    stamp = keyspace.peek(b"k")[3]
    store.commit()
    tick(store, 5000)
    keyspace.put(b"k", b"two")
    store.commit()
    [version] = keyspace.versions(b"k", 9)
    assert version.replaced_at_ms == NOW_MS + 5000
    assert version.register == stamp
    assert store.describe(version.register).ms == NOW_MS
    assert version.record[EXPIRES_AT] == NOW_MS + 9000
    assert version.record[METADATA] == b'{"a":1}'


def test_each_write_of_one_tick_shows_up(store: Store) -> None:
    keyspace = remembering(store, 9)
    for value in (b"one", b"two"):
        keyspace.put(b"k", value)
    keyspace.delete(b"k")
    keyspace.put(b"k", b"three")
    with store.atomic():
        keyspace.put(b"k", b"four")
        keyspace.put(b"k", b"five")
    expected = [b"four", b"three", None, b"two", b"one"]
    assert past(keyspace) == expected  # before the commit, too
    store.commit()
    assert past(keyspace) == expected
    assert findings(store) == []


def test_a_deletion_is_what_a_key_is_until_it_is_written_again(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.delete(b"k")
    floor = keyspace.peek(b"k")[5]
    store.commit()
    assert past(keyspace) == [b"one"]
    tick(store, 7)
    keyspace.put(b"k", b"two")
    store.commit()
    assert past(keyspace) == [None, b"one"]
    deletion = keyspace.versions(b"k", 1)[0]
    assert (deletion.register, deletion.replaced_at_ms) == (floor, NOW_MS + 7)
    keyspace.put(b"k", b"three")  # the row still holds the floor, which was told of
    store.commit()
    assert past(keyspace) == [b"two", None, b"one"]


def test_an_expiry_alone_makes_no_version(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.expire(b"k", NOW_MS + 5000)
    keyspace.expire(b"k", NEVER)
    keyspace.expire(b"k", NOW_MS + 6000)
    assert past(keyspace) == []
    keyspace.update(b"k", b"two")
    store.commit()
    [version] = keyspace.versions(b"k", 9)
    assert (version.record[VALUE], version.record[EXPIRES_AT]) == (b"one", NOW_MS + 6000)
    assert findings(store) == []


def test_other_metadata_makes_a_version(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"same", NEVER, b"1")
    keyspace.put(b"k", b"same", NEVER, b"2")
    store.commit()
    assert [version.record[METADATA] for version in keyspace.versions(b"k", 9)] == [b"1"]


@pytest.mark.parametrize("replicate", ["all", "none"])
@pytest.mark.parametrize("size", [0, 70_000])
def test_values_of_any_size_are_remembered_replicated_or_not(
    store: Store, rig: EngineRig, replicate: str, size: int
) -> None:
    keyspace = remembering(store, replicate=replicate)
    values = [bytes([number]) * size + b"%d" % number for number in range(6)]
    for value in values:
        keyspace.put(b"k", value)
        store.commit()
    assert past(keyspace) == values[4:1:-1]
    assert findings(store) == []
    store.close()
    store, keyspace = reopened(rig)
    assert past(keyspace) == values[4:1:-1]


def test_keys_that_begin_alike_have_a_past_of_their_own(store: Store) -> None:
    keyspace = remembering(store, 2)
    keys = [
        b"",
        b"\x00",
        b"\x00\x01",
        b"\x00\xff",
        b"\x01",
        b"a",
        b"a\x00",
        b"a\x00\x01",
        b"ab",
        b"\xff",
        b"\xff\xff",
    ]
    for value in (b"1", b"2", b"3", b"4"):
        for key in keys:
            keyspace.put(key, key + value)
        store.commit()
    for key in keys:
        assert past(keyspace, key) == [key + b"3", key + b"2"]
    keyspace.delete(b"a")
    store.commit()
    store.begin(NOW_MS + 3 * HOUR_MS)
    while store.sweep(1):
        pass
    assert past(keyspace, b"a") == []
    for key in keys:
        if key != b"a":
            assert past(keyspace, key) == [key + b"3", key + b"2"]
    assert findings(store) == []


def test_databases_have_no_history(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two")
    keyspace.delete(b"k")
    store.commit()
    assert (keyspace.history, keyspace.versions(b"k", 9), row_count(store)) == (0, [], 0)


# The bound.


def test_a_key_has_no_more_versions_than_its_policy_asks_for(store: Store, rig: EngineRig) -> None:
    keyspace = remembering(store, 3)
    for number in range(50):
        keyspace.put(b"k", b"%d" % number)
        if number % 7 == 0:
            store.commit()
    store.commit()
    assert past(keyspace) == [b"48", b"47", b"46"]
    assert row_count(store) == 3
    store.close()
    store, keyspace = reopened(rig)
    for number in range(50, 54):
        keyspace.put(b"k", b"%d" % number)
    store.commit()
    assert past(keyspace) == [b"52", b"51", b"50"]
    assert row_count(store) == 3
    assert findings(store) == []


def test_more_keys_than_are_remembered_in_memory_keep_their_bound(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.history._NEWEST_MAX", 10)
    keyspace = remembering(store, 2)
    for round_number in range(5):
        for number in range(30):
            keyspace.put(b"%d" % number, b"%d" % round_number)
            if number % 4 == 0:
                store.commit()
    store.commit()
    for number in range(30):
        assert past(keyspace, b"%d" % number) == [b"3", b"2"]
    assert row_count(store) == 60
    assert findings(store) == []


def test_a_smaller_number_is_obeyed_at_once_and_the_rest_removed_in_slices(store: Store) -> None:
    keyspace = remembering(store, 10)
    for value in range(12):
        for key in range(20):
            keyspace.put(b"%d" % key, b"%d" % value)
    store.commit()
    assert row_count(store) == 200
    store.keyspaces.change(keyspace.id, value_bytes_max=None, conflict_log=True, history=2)
    assert past(keyspace, b"7") == [b"10", b"9"]
    store.commit()
    assert past(keyspace, b"7") == [b"10", b"9"]
    assert row_count(store) == 200  # nothing is removed in the step that asks for it
    keyspace.put(b"7", b"12")
    store.commit()
    assert past(keyspace, b"7") == [b"11", b"10"]
    before = row_count(store)
    slices = 0
    while store.sweep(25):
        removed, before = before - row_count(store), row_count(store)
        assert removed <= 25 + 10  # of whole keys
        assert findings(store) == []
        slices += 1
    assert slices >= 200 // 35
    assert row_count(store) == 40
    assert past(keyspace, b"7") == [b"11", b"10"]
    assert past(keyspace, b"19") == [b"10", b"9"]


@pytest.mark.parametrize("end", ["trimmed", "flushed"])
def test_a_second_trim_to_the_same_number_begins_at_the_beginning(store: Store, end: str) -> None:
    keyspace = remembering(store, 4)

    def fill() -> None:
        for value in range(6):
            for key in range(9):
                keyspace.put(b"%d" % key, b"%d" % value)
        store.commit()

    fill()
    change(store, keyspace, 1)
    if end == "flushed":
        store.sweep(10)  # it comes to the middle
        keyspace.flush()
        store.commit()
    while store.sweep(10):
        pass
    change(store, keyspace, 4)
    fill()
    assert row_count(store) == 36
    change(store, keyspace, 1)
    while store.sweep(10):
        pass
    assert row_count(store) == 9
    assert findings(store) == []


@pytest.mark.parametrize("reopens", [False, True])
def test_what_was_given_up_is_not_shown_again(store: Store, rig: EngineRig, reopens: bool) -> None:
    keyspace = remembering(store, 10)
    for value in range(8):
        keyspace.put(b"k", b"%d" % value)
        keyspace.put(b"other", b"%d" % value)
    store.commit()
    change(store, keyspace, 2)
    if reopens:
        store.close()
        store, keyspace = reopened(rig)
    change(store, keyspace, 10)
    assert past(keyspace) == [b"6", b"5"]
    keyspace.put(b"k", b"8")
    store.commit()
    assert past(keyspace) == [b"7", b"6"]
    while store.sweep(3):
        pass
    assert (past(keyspace), past(keyspace, b"other")) == ([b"7", b"6"], [b"6", b"5"])
    keyspace.put(b"k", b"9")
    store.commit()
    assert past(keyspace) == [b"8", b"7", b"6"]
    assert findings(store) == []


@pytest.mark.parametrize("is_swept", [False, True])
def test_switched_off_and_on_again_it_begins_anew(store: Store, rig: EngineRig, is_swept: bool) -> None:
    keyspace = remembering(store)
    for value in (b"one", b"two", b"three"):
        keyspace.put(b"k", value)
    store.commit()
    change(store, keyspace, 0)
    assert past(keyspace) == []
    keyspace.put(b"k", b"four")
    store.commit()
    if is_swept:
        assert store.sweep(10) == 1
        assert (row_count(store), store.sweep(10)) == (0, 0)
        assert store.stats()["history_namespaces"] == 0
    change(store, keyspace, 5)
    assert past(keyspace) == []
    keyspace.put(b"k", b"five")
    assert past(keyspace) == [b"four"]
    store.commit()
    assert past(keyspace) == [b"four"]
    assert row_count(store) == 1
    assert findings(store) == []
    store.close()
    store, keyspace = reopened(rig)
    assert past(keyspace) == [b"four"]
    assert store.sweep(10) == 0


def test_a_policy_that_was_not_committed_removes_nothing(store: Store) -> None:
    keyspace = remembering(store)
    for value in (b"one", b"two", b"three"):
        keyspace.put(b"k", value)
    store.commit()
    store.keyspaces.change(keyspace.id, value_bytes_max=None, conflict_log=True, history=0)
    store.poison("a test")
    with pytest.raises(Aborted):
        store.commit()
    assert store.sweep(10) == 0
    assert past(keyspace) == [b"two", b"one"]


# The end.


def test_a_flush_takes_the_past_along(store: Store, rig: EngineRig) -> None:
    keyspace = remembering(store)
    other = store.keyspaces.create("other", Policy(history=2))
    for space in (keyspace, other):
        space.put(b"k", b"one")
        space.put(b"k", b"two")
        store.commit()
        space.put(b"k", b"three")
    keyspace.flush()
    assert past(keyspace) == []
    keyspace.put(b"k", b"four")
    keyspace.put(b"k", b"five")
    assert past(keyspace) == [b"four"]
    store.commit()
    assert past(keyspace) == [b"four"]
    assert past(other) == [b"two", b"one"]
    assert findings(store) == []
    store.close()
    store, keyspace = reopened(rig)
    assert past(keyspace) == [b"four"]
    store.flush_all()
    store.commit()
    assert (row_count(store), past(keyspace)) == (0, [])
    assert findings(store) == []


def test_a_flush_that_fails_takes_nothing(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two")
    store.commit()
    keyspace.put(b"k", b"three")
    keyspace.flush()
    keyspace.put(b"k", b"four")
    store.poison("a test")
    with pytest.raises(Aborted):
        store.commit()
    assert past(keyspace) == [b"one"]
    keyspace.put(b"k", b"five")
    store.commit()
    assert past(keyspace) == [b"two", b"one"]
    assert findings(store) == []


def test_a_deleted_namespace_leaves_nothing(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two")
    store.commit()
    with store.atomic():
        store.keyspaces.delete(keyspace.id)
    store.commit()
    assert row_count(store) == 0
    assert list(store.engine.iterate(Family.META, HISTORY_PREFIX, HISTORY_PREFIX + b"\xff")) == []
    with pytest.raises(KeyspaceGone):
        keyspace.versions(b"k", 1)
    assert findings(store) == []


def test_the_past_of_a_deleted_key_goes_with_the_mark_of_its_deletion(store: Store) -> None:
    keyspace = remembering(store)
    for key in (b"k", b"kept"):
        keyspace.put(key, b"one")
        keyspace.put(key, b"two")
    keyspace.delete(b"k")
    store.commit()
    assert past(keyspace) == [b"two", b"one"]
    store.begin(NOW_MS + 2 * HOUR_MS)
    while store.sweep(10):
        pass
    assert (past(keyspace), past(keyspace, b"kept"), row_count(store)) == ([], [b"one"], 1)
    assert findings(store) == []
    keyspace.put(b"k", b"three")
    keyspace.put(b"k", b"four")
    store.commit()
    assert past(keyspace) == [b"three"]


def test_on_a_node_that_is_alone_an_expired_key_goes_with_its_past(store: Store) -> None:
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two", NOW_MS + 50)
    store.commit()
    tick(store, 50)
    assert past(keyspace) == [b"two", b"one"]  # it has ended, swept or not
    store.sweep(10)
    assert (past(keyspace), row_count(store)) == ([], 0)
    assert findings(store) == []


def test_among_members_a_value_has_ended_at_its_expiry_whenever_it_is_swept(store: Store) -> None:
    store.sweeper.purging = Apart()
    keyspace = remembering(store)
    keyspace.put(b"k", b"one")
    keyspace.put(b"k", b"two", NOW_MS + 50)
    keyspace.put(b"written over", b"one", NOW_MS + 50)
    store.commit()
    tick(store, 5000)
    expired = keyspace.versions(b"k", 9)
    keyspace.put(b"written over", b"two")
    store.commit()
    store.sweep(10)
    assert keyspace.versions(b"k", 9) == expired
    assert [(v.record[VALUE], v.replaced_at_ms) for v in expired] == [(b"two", NOW_MS + 50), (b"one", NOW_MS)]
    [version] = keyspace.versions(b"written over", 9)
    assert version.replaced_at_ms == NOW_MS + 50
    keyspace.put(b"k", b"three")
    store.commit()
    assert keyspace.versions(b"k", 9) == expired
    assert findings(store) == []


def test_a_deletion_below_what_has_expired_is_one_version(store: Store) -> None:
    keyspace = remembering(store, 9)
    keyspace.put(b"k", b"one")
    keyspace.delete(b"k")
    keyspace.put(b"k", b"two", NOW_MS + 50)
    store.commit()
    tick(store, 50)
    store.sweep(10)  # the node is alone: the mark of the deletion is all that stays
    expected = [(b"two", NOW_MS + 50), (None, NOW_MS), (b"one", NOW_MS)]
    assert [(v.record[VALUE], v.replaced_at_ms) for v in keyspace.versions(b"k", 9)] == expected
    keyspace.put(b"k", b"three")
    store.commit()
    assert [(v.record[VALUE], v.replaced_at_ms) for v in keyspace.versions(b"k", 9)] == expected
    assert findings(store) == []


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


# Other nodes.


def share(a: Node, b: Node, versions: int = 5) -> tuple[Keyspace, Keyspace]:
    """Make a namespace with a history on both."""
    made = remembering(a.store, versions)
    b.receive(a.commit())
    found = b.store.keyspaces.find("past")
    assert found is not None
    return made, found


def test_what_other_nodes_replace_is_remembered(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    assert found.history == 5
    made.put(b"k", b"one")
    b.receive(a.commit())
    a.store.begin(NOW_MS + 10)
    b.store.begin(NOW_MS + 90)
    made.put(b"k", b"two")
    b.receive(a.commit())
    for number in range(20):
        made.put(b"k%d" % number, b"v")
    made.put(b"k", b"three")
    made.put(b"k", BIG)
    made.delete(b"k")
    b.receive(a.commit(), a)
    assert past(made) == [BIG, b"three", b"two", b"one"]
    assert past(found)[-2:] == [b"two", b"one"]  # what a tick overwrites is not sent
    assert found.versions(b"k", 9)[-1].replaced_at_ms == NOW_MS + 90
    assert made.versions(b"k", 9)[-1].replaced_at_ms == NOW_MS + 10
    origin = a.replica.own_origins()
    assert b.store.describe(found.versions(b"k", 9)[-1].register).origin in origin
    assert (findings(a.store), findings(b.store)) == ([], [])


def test_runs_of_small_values_over_others_are_remembered_each(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    runs = []
    for value in (b"one", b"two", b"three"):
        for number in range(20):
            made.put(b"%d" % number, value)
        runs += a.commit()
    for run in runs:
        b.replica.merge(run)  # all in one tick
    b.replica.cover(a.replica.vector(), VersionVector(), 0)
    b.store.commit()
    for number in range(20):
        assert past(found, b"%d" % number) == past(made, b"%d" % number) == [b"two", b"one"]
    assert findings(b.store) == []


def test_a_sync_carries_no_history_and_equal_records_have_equal_digests(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = remembering(a.store)
    for value in (b"one", b"two", b"three"):
        made.put(b"k", value)
        a.commit()
    b.sync_from(a)
    found = b.store.keyspaces.find("past")
    assert found is not None
    assert (past(made), past(found)) == ([b"two", b"one"], [])
    assert contents(a.store) == contents(b.store)
    assert digest_of(a) == digest_of(b)
    assert b"one" not in [change.content for change in all_changes(a.replica)]
    found.put(b"k", b"four")
    a.receive(b.commit())
    assert (past(made), past(found)) == ([b"three", b"two", b"one"], [b"three"])
    assert (findings(a.store), findings(b.store)) == ([], [])


def test_another_nodes_policy_flush_and_deletion_are_obeyed(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    for value in (b"one", b"two", b"three", b"four"):
        made.put(b"k", value)
        b.receive(a.commit())
    a.store.keyspaces.change(made.id, value_bytes_max=None, conflict_log=True, history=1)
    b.receive(a.commit())
    assert past(found) == [b"three"]
    assert row_count(b.store) == 3
    while b.store.sweep(10):
        pass
    assert row_count(b.store) == 1
    made.flush()
    made.put(b"k", b"five")
    b.receive(a.commit())
    assert (past(found), row_count(b.store)) == ([], 0)
    made.put(b"k", b"six")
    b.receive(a.commit())
    assert past(found) == [b"five"]
    with a.store.atomic():
        a.store.keyspaces.delete(made.id)
    b.receive(a.commit())
    while b.store.sweep(10):
        pass
    assert row_count(b.store) == 0
    assert findings(b.store) == []


def test_a_namespace_that_is_not_replicated_is_forgotten_where_it_is_deleted_from_afar(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = remembering(a.store, replicate="none")
    b.receive(a.commit())
    found = b.store.keyspaces.find("past")
    assert found is not None
    for keyspace in (made, found):
        keyspace.put(b"k", b"one")
        keyspace.put(b"k", b"two")
    a.commit()
    b.commit()
    assert (past(made), past(found)) == ([b"one"], [b"one"])
    with a.store.atomic():
        a.store.keyspaces.delete(made.id)
    b.receive(a.commit())
    while b.store.sweep(10):
        pass
    assert (row_count(a.store), row_count(b.store)) == (0, 0)


def test_a_value_that_comes_back_is_no_past_version_until_it_is_replaced_again(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    b.store.sweeper.purging = Apart()
    made.put(b"k", b"one", NOW_MS + 1000)
    b.receive(a.commit())
    made.expire(b"k", NOW_MS + HOUR_MS)
    late = a.commit()
    b.store.begin(NOW_MS + 2000)
    b.store.sweep(10)
    assert past(found) == [b"one"]
    b.receive(late)
    [(place, stamp)] = b.replica.bodyless()
    assert b.replica.restore_body(place, stamp, b"one", None)
    b.store.commit()
    assert (value_of(found, b"k"), past(found)) == (b"one", [])
    b.store.begin(NOW_MS + 3000)
    found.put(b"k", b"two")
    b.commit()
    [version] = found.versions(b"k", 9)
    assert (version.record[VALUE], version.replaced_at_ms) == (b"one", NOW_MS + 3000)
    assert findings(b.store) == []


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


# The rows, and what `kvd verify` says of them.


def test_numbers_count_down_in_the_order_of_rows() -> None:
    prefix = history_prefix(bytes(16) + b"a\x00b")
    keys = [history_key(prefix, number) for number in (1, 2, 255, 256, 2**64 - 1)]
    assert keys == sorted(keys, reverse=True)
    assert [parse_history_key(key) for key in keys] == [(prefix, n) for n in (1, 2, 255, 256, 2**64 - 1)]


def planted(store: Store, row_key: bytes | None = None, **parts: Any) -> list[str]:
    """Write a past version behind the store's back and return what verification finds."""
    keyspace = store.keyspaces.find("past")
    assert keyspace is not None
    register = keyspace.peek(b"k")[3]
    record = {"value": b"v", "due": NEVER, "metadata": None, "stamp": register, "expiry": None, "floor": None}
    row = bytes(8) + encode(tuple((record | parts).values()))  # type: ignore[arg-type]
    raw_put(store.engine, Family.HISTORY, row_key or history_key(history_prefix(keyspace.id + b"k"), 1), row)
    return findings(store)


@pytest.fixture
def kept(store: Store) -> Store:
    keyspace = remembering(store, 2)
    for value in (b"one", b"two", b"three", b"four"):
        keyspace.put(b"k", value)
    store.commit()
    assert findings(store) == []
    return store


def test_verification_counts_the_versions(kept: Store) -> None:
    verifier = Verifier(kept.engine, now_ms=NOW_MS)
    assert list(verifier.run()) == []
    assert verifier.summary.versions == 2


def test_verification_finds_one_too_many(kept: Store) -> None:
    [finding] = planted(kept)
    assert "more versions than the namespace may have" in finding


def test_verification_finds_versions_of_what_does_not_exist(kept: Store) -> None:
    keyspace = kept.keyspaces.find("past")
    assert keyspace is not None
    found = planted(kept, history_key(history_prefix(keyspace.id + b"other"), 1))
    assert [finding for finding in found if "no such record" in finding]
    found = planted(kept, history_key(history_prefix(b"n" * 16 + b"k"), 1))
    assert [finding for finding in found if "namespace does not exist" in finding]


def test_verification_finds_keys_that_make_no_sense(kept: Store) -> None:
    for row_key in (b"short", bytes(40), history_prefix(bytes(16) + b"k")):
        assert any("past version" in finding for finding in planted(kept, row_key))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"floor": pack_register(hlc_at(NOW_MS), 1, 1, NO_PREV)}, "canonical"),
        ({"expiry": (pack_register(1, 1, 1, NO_PREV), NOW_MS)}, "canonical"),
        ({"expiry": (pack_register(hlc_at(NOW_MS + 1), 1, 9, NO_PREV), None)}, "canonical"),
        ({"stamp": pack_register(hlc_at(NOW_MS), 99, 1, NO_PREV)}, "no known origin"),
        ({"stamp": pack_register(hlc_at(NOW_MS + 9), 1, 1, NO_PREV)}, "newer than the newest"),
        ({"value": None}, "neither a value nor a deletion"),
    ],
)
def test_verification_finds_versions_that_no_store_writes(
    kept: Store, parts: dict[str, Any], expected: str
) -> None:
    keyspace = kept.keyspaces.find("past")
    assert keyspace is not None
    change(kept, keyspace, 3)
    keyspace.put(b"k", b"five")  # so that there may be three
    kept.commit()
    assert expected in " ".join(planted(kept, **parts))
