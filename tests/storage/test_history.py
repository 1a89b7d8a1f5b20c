"""What a namespace with a history remembers, and for how long."""

from __future__ import annotations

import pytest

from storage.engine import Family
from storage.errors import Aborted, KeyspaceGone
from storage.expiry import Apart
from storage.layout import HISTORY_PREFIX
from storage.policy import Policy
from storage.record import EXPIRES_AT, METADATA, NEVER, VALUE
from storage.store import Store
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import findings
from tests.storage.histories import HOUR_MS, change, past, remembering, reopened, row_count, tick

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
