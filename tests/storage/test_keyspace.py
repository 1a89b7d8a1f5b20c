"""Reads and writes of one keyspace: what each does to the three registers, counts and deadlines."""

from __future__ import annotations

import pytest

from storage.engine import Engine, Family
from storage.engine_memory import MemoryEngine
from storage.layout import EXPIRY_KIND, PURGE_KIND, database_id, parse_deadline
from storage.record import EXPIRES_AT, EXPIRY, FLOOR, METADATA, MISSING, NEVER, VALUE, VALUE_STAMP
from storage.store import Keyspace, Store
from storage.version import NO_PREV, register_dot, register_hlc, register_ms
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import expiry_of, findings, floor_of, keys_of, raw_put, stamp_of, value_of


@pytest.fixture
def keyspace(store: Store) -> Keyspace:
    return store.keyspace(0)


def deadlines(engine: Engine) -> list[tuple[int, int, bytes]]:
    """Return (due_ms, kind, user key) of every deadline."""
    found = [parse_deadline(key) for key in keys_of(engine, Family.DEADLINES)]
    return [(due_ms, kind, row_key[16:]) for due_ms, kind, row_key in found]


# Registers.


def test_the_first_value_replaces_nothing(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"v")
    assert stamp_of(keyspace, b"k")[20:] == NO_PREV
    assert keyspace.peek(b"k")[EXPIRY] is None
    assert keyspace.peek(b"k")[FLOOR] is None


def test_a_register_names_the_stamp_that_it_replaced(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"1")
    first = stamp_of(keyspace, b"k")
    keyspace.put(b"k", b"2")
    second = stamp_of(keyspace, b"k")
    assert second[20:] == first[:12]
    keyspace.put(b"k", b"3", NOW_MS + 1000)
    assert stamp_of(keyspace, b"k")[20:] == second[:12]
    first_expiry = expiry_of(keyspace, b"k")[0]
    assert first_expiry[20:] == NO_PREV
    keyspace.expire(b"k", NOW_MS + 2000)
    assert expiry_of(keyspace, b"k")[0][20:] == first_expiry[:12]


def test_a_value_with_an_expiry_has_both_at_one_clock_value(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"v", NOW_MS + 1000)
    stamp, (expiry, due_ms) = stamp_of(keyspace, b"k"), expiry_of(keyspace, b"k")
    assert register_hlc(stamp) == register_hlc(expiry)
    assert register_dot(expiry) == (1, register_dot(stamp)[1] + 1)
    assert due_ms == NOW_MS + 1000


def test_a_plain_put_over_a_live_expiry_takes_it_away_with_a_register(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"1", NOW_MS + 1000)
    keyspace.put(b"k", b"2")
    record = keyspace.peek(b"k")
    assert record[EXPIRES_AT] == NEVER
    assert expiry_of(keyspace, b"k")[1] is None
    assert register_hlc(expiry_of(keyspace, b"k")[0]) == register_hlc(stamp_of(keyspace, b"k"))
    taken_away = expiry_of(keyspace, b"k")
    keyspace.put(b"k", b"3")
    assert expiry_of(keyspace, b"k") == taken_away


def test_a_plain_put_over_an_expired_value_leaves_its_expiry_register_alone(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"1", NOW_MS + 1000)
    old = expiry_of(keyspace, b"k")
    store.commit()
    store.begin(NOW_MS + 1000)
    keyspace.put(b"k", b"2")
    assert expiry_of(keyspace, b"k") == old
    assert keyspace.peek(b"k")[EXPIRES_AT] == NEVER
    assert value_of(keyspace, b"k") == b"2"


def test_expire_writes_the_expiry_register_alone(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"v", NEVER, b"{}")
    stamp = stamp_of(keyspace, b"k")
    keyspace.expire(b"k", NOW_MS + 1000)
    record = keyspace.peek(b"k")
    assert record[:4] == (b"v", NOW_MS + 1000, b"{}", stamp)
    keyspace.expire(b"k", NEVER)
    record = keyspace.peek(b"k")
    assert record[:4] == (b"v", NEVER, b"{}", stamp)
    assert expiry_of(keyspace, b"k")[1] is None


@pytest.mark.parametrize("later", [NOW_MS + 9000, NEVER])
def test_an_extension_that_others_may_take_for_too_late_writes_the_value_too(
    store: Store, later: int
) -> None:
    """The clock value is beyond the expiry that the wall clock has not reached."""
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000, b"{}")
    stamp = stamp_of(keyspace, b"k")
    store.commit()
    store.begin(NOW_MS + 1001)
    store.begin(NOW_MS + 999)
    keyspace.expire(b"k", later)
    assert keyspace.peek(b"k")[:3] == (b"v", later, b"{}")
    assert register_hlc(stamp_of(keyspace, b"k")) > register_hlc(stamp)
    assert register_hlc(expiry_of(keyspace, b"k")[0]) == register_hlc(stamp_of(keyspace, b"k"))


@pytest.mark.parametrize("state", ["missing", "deleted", "expired", "permanent"])
def test_expire_and_persist_of_what_has_none_write_nothing(store: Store, state: str) -> None:
    keyspace = store.keyspace(0)
    if state != "missing":
        keyspace.put(b"k", b"v", NOW_MS + 10 if state == "expired" else NEVER)
    if state == "deleted":
        keyspace.delete(b"k")
    store.commit()
    store.begin(NOW_MS + 10)
    keyspace.expire(b"k", NEVER)
    if state != "permanent":
        keyspace.expire(b"k", NOW_MS + 5000)
    assert not store.dirty


@pytest.mark.parametrize("due_ms", [-1, NEVER + 1])
def test_a_time_that_cannot_be_stored_is_refused_at_once(store: Store, due_ms: int) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v")
    store.commit()
    with pytest.raises(ValueError, match="is not between 0 and NEVER"):
        keyspace.put(b"k", b"v", due_ms)
    with pytest.raises(ValueError, match="is not between 0 and NEVER"):
        keyspace.expire(b"k", due_ms)
    assert not store.dirty


def test_update_keeps_expiry_and_metadata(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"1", NOW_MS + 1000, b"{}")
    keyspace.update(b"k", b"2")
    assert keyspace.peek(b"k")[:3] == (b"2", NOW_MS + 1000, b"{}")
    assert register_hlc(expiry_of(keyspace, b"k")[0]) == register_hlc(stamp_of(keyspace, b"k"))
    keyspace.put(b"l", b"1", NEVER, b"[]")
    keyspace.update(b"l", b"2")
    assert keyspace.peek(b"l")[:3] == (b"2", NEVER, b"[]")
    assert keyspace.peek(b"l")[EXPIRY] is None


def test_update_of_what_is_not_live_is_a_plain_put(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"expired", b"1", NOW_MS + 10, b"{}")
    store.commit()
    store.begin(NOW_MS + 10)
    for key in (b"missing", b"expired"):
        keyspace.update(key, b"2")
        record = keyspace.get(key)
        assert record is not None
        assert record[:3] == (b"2", NEVER, None)


def test_put_replaces_metadata_as_well(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"1", NEVER, b"{}")
    keyspace.put(b"k", b"2")
    assert keyspace.peek(b"k")[METADATA] is None


def test_a_deletion_leaves_a_floor_and_nothing_else(keyspace: Keyspace) -> None:
    keyspace.put(b"k", b"v", NOW_MS + 1000, b"{}")
    stamp = stamp_of(keyspace, b"k")
    assert keyspace.delete(b"k")
    floor = floor_of(keyspace, b"k")
    assert keyspace.peek(b"k") == (None, 0, None, None, None, floor)
    assert floor[:20] > stamp[:20]
    assert floor[20:] == NO_PREV
    assert not keyspace.delete(b"k")


def test_a_value_over_a_deletion_keeps_the_floor(store: Store, rig: EngineRig) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"1")
    keyspace.delete(b"k")
    floor = floor_of(keyspace, b"k")
    keyspace.put(b"k", b"2")
    assert floor_of(keyspace, b"k") == floor
    assert stamp_of(keyspace, b"k")[20:] == NO_PREV
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS).keyspace(0)
    assert value_of(again, b"k") == b"2"
    assert floor_of(again, b"k") == floor
    again.delete(b"k")
    assert floor_of(again, b"k")[20:] == floor[:12]


def test_deleting_what_is_missing_or_expired_writes_nothing(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"expired", b"1", NOW_MS + 10)
    store.commit()
    store.begin(NOW_MS + 10)
    assert not keyspace.delete(b"missing")
    assert not keyspace.delete(b"expired")
    assert not store.dirty


# Expiry as readers see it.


@pytest.mark.parametrize(("wait_ms", "live"), [(0, True), (999, True), (1000, False), (5000, False)])
def test_a_record_is_readable_until_its_expiry_and_no_longer(store: Store, wait_ms: int, live: bool) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000)
    store.commit()
    store.begin(NOW_MS + wait_ms)
    assert (keyspace.get(b"k") is not None) == live
    assert bool(keyspace.scan(b"", None, 10)[0]) == live
    assert (keyspace.random_key() is not None) == live
    assert (keyspace.version(b"k") is not None) == live


def test_a_tick_has_one_time(store: Store) -> None:
    assert store.now_ms == NOW_MS
    store.begin(NOW_MS + 1)
    assert store.now_ms == NOW_MS + 1


# Counts.


def test_counts_follow_every_write(store: Store) -> None:
    keyspace = store.keyspace(0)

    def counts() -> tuple[int, int]:
        return keyspace.count, keyspace.expires

    keyspace.put(b"a", b"")
    assert counts() == (1, 0)
    keyspace.put(b"b", b"", NOW_MS + 10)
    assert counts() == (2, 1)
    keyspace.put(b"a", b"", NOW_MS + 10)
    assert counts() == (2, 2)
    keyspace.expire(b"a", NEVER)
    assert counts() == (2, 1)
    keyspace.put(b"b", b"")
    assert counts() == (2, 0)
    keyspace.expire(b"b", NOW_MS + 10)
    keyspace.expire(b"b", NOW_MS + 20)
    assert counts() == (2, 1)
    keyspace.delete(b"b")
    assert counts() == (1, 0)
    keyspace.delete(b"b")
    assert counts() == (1, 0)
    keyspace.put(b"b", b"", NOW_MS + 10)
    store.commit()
    store.begin(NOW_MS + 10)
    assert counts() == (2, 1)  # expired, not swept yet
    keyspace.put(b"b", b"")
    assert counts() == (2, 0)
    assert keyspace.flush() == 2
    assert counts() == (0, 0)
    store.commit()
    assert findings(store) == []


# Deadlines.


def test_an_expiry_has_a_deadline(store: Store) -> None:
    store.keyspace(0).put(b"k", b"v", NOW_MS + 1000)
    store.commit()
    assert deadlines(store.engine) == [(NOW_MS + 1000, EXPIRY_KIND, b"k")]


def test_extending_an_expiry_needs_no_deadline_and_shortening_does(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000)
    store.commit()
    keyspace.put(b"k", b"v", NOW_MS + 2000)
    keyspace.expire(b"k", NOW_MS + 3000)
    keyspace.update(b"k", b"w")
    store.commit()
    assert [due for due, _, _ in deadlines(store.engine)] == [NOW_MS + 1000]
    keyspace.expire(b"k", NOW_MS + 500)
    store.commit()
    assert [due for due, _, _ in deadlines(store.engine)] == [NOW_MS + 500, NOW_MS + 1000]
    assert findings(store) == []


def test_a_new_expiry_after_none_has_a_deadline(store: Store) -> None:
    keyspace = store.keyspace(0)
    for due_ms in (NOW_MS + 1000, NOW_MS + 2000):
        keyspace.put(b"k", b"v", due_ms)
        keyspace.put(b"k", b"v")
    keyspace.put(b"k", b"v", NOW_MS + 3000)
    keyspace.delete(b"k")
    keyspace.put(b"k", b"v", NOW_MS + 4000)
    store.commit()
    found = [due for due, kind, _ in deadlines(store.engine) if kind == EXPIRY_KIND]
    assert found == [NOW_MS + step for step in (1000, 2000, 3000, 4000)]


def test_a_key_deleted_again_and_again_has_one_purge_deadline_a_minute(store: Store) -> None:
    keyspace = store.keyspace(0)
    for second in range(0, 120, 7):
        store.begin(NOW_MS + second * 1000)
        keyspace.put(b"k", b"v")
        keyspace.delete(b"k")
        store.commit()
    purges = [due for due, kind, _ in deadlines(store.engine) if kind == PURGE_KIND]
    assert 2 <= len(purges) <= 3
    assert all(due % 60_000 == 0 and due > NOW_MS + 3_600_000 for due in purges)
    assert findings(store) == []


# Scans.


def fill(keyspace: Keyspace, *keys: bytes) -> None:
    for key in keys:
        keyspace.put(key, b"v:" + key)


def all_keys(keyspace: Keyspace, prefix: bytes = b"", limit: int = 3) -> list[bytes]:
    found: list[bytes] = []
    after: bytes | None = None
    while True:
        rows, after = keyspace.scan(prefix, after, limit)
        assert len(rows) <= limit
        found.extend(key for key, _ in rows)
        if after is None:
            return found


@pytest.mark.parametrize("when", ["pending", "committed", "mixed"])
def test_a_scan_returns_every_key_once_in_order(store: Store, when: str) -> None:
    keyspace = store.keyspace(0)
    names = [b"%03d" % number for number in range(40)]
    fill(keyspace, *names[::2])
    if when == "mixed":
        store.commit()
    fill(keyspace, *names[1::2])
    if when == "committed":
        store.commit()
    for limit in (1, 2, 7, 40, 100):
        assert all_keys(keyspace, limit=limit) == names


def test_a_scan_sees_what_the_tick_has_changed(store: Store) -> None:
    keyspace = store.keyspace(0)
    fill(keyspace, b"a", b"b", b"c", b"d")
    store.commit()
    keyspace.put(b"b", b"new")
    keyspace.delete(b"c")
    fill(keyspace, b"bb", b"e")
    rows, _ = keyspace.scan(b"", None, 10)
    assert [(key, record[VALUE]) for key, record in rows] == [
        (b"a", b"v:a"),
        (b"b", b"new"),
        (b"bb", b"v:bb"),
        (b"d", b"v:d"),
        (b"e", b"v:e"),
    ]
    keyspace.flush()
    fill(keyspace, b"z")
    assert all_keys(keyspace) == [b"z"]


def test_a_scan_stays_inside_its_prefix_and_keyspace(store: Store) -> None:
    fill(store.keyspace(0), b"", b"a", b"ab", b"ac", b"b", b"\xff", b"\xff\xff")
    fill(store.keyspace(1), b"ab", b"zz")
    store.commit()
    keyspace = store.keyspace(0)
    assert all_keys(keyspace, b"a") == [b"a", b"ab", b"ac"]
    assert all_keys(keyspace, b"\xff") == [b"\xff", b"\xff\xff"]
    assert all_keys(keyspace, b"zz") == []
    assert all_keys(keyspace) == [b"", b"a", b"ab", b"ac", b"b", b"\xff", b"\xff\xff"]
    assert all_keys(store.keyspace(1)) == [b"ab", b"zz"]


def test_a_scan_goes_on_behind_any_position(store: Store) -> None:
    keyspace = store.keyspace(0)
    fill(keyspace, b"a", b"b", b"c")
    store.commit()
    assert [key for key, _ in keyspace.scan(b"", b"a", 10)[0]] == [b"b", b"c"]
    assert [key for key, _ in keyspace.scan(b"", b"aa", 10)[0]] == [b"b", b"c"]
    assert [key for key, _ in keyspace.scan(b"b", b"a", 10)[0]] == [b"b"]
    assert keyspace.scan(b"", b"c", 10) == ([], None)
    assert keyspace.scan(b"a", b"z", 10) == ([], None)


def test_a_scan_examines_no_more_rows_than_asked_dead_or_live(store: Store) -> None:
    keyspace = store.keyspace(0)
    fill(keyspace, *(b"%02d" % number for number in range(20)))
    for number in range(10):
        keyspace.delete(b"%02d" % number)
    store.commit()
    rows, position = keyspace.scan(b"", None, 5)
    assert (rows, position) == ([], b"04")
    assert len(all_keys(keyspace)) == 10


def test_a_scan_does_not_fill_the_cache(store: Store, rig: EngineRig) -> None:
    fill(store.keyspace(0), *(b"%02d" % number for number in range(50)))
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    all_keys(again.keyspace(0))
    assert again.stats()["cache_entries"] == 0


def test_prefetch_loads_many_with_one_look_up(store: Store, rig: EngineRig) -> None:
    names = [b"%02d" % number for number in range(50)]
    fill(store.keyspace(0), *names)
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    again.keyspace(0).prefetch([*names, *names, b"missing"])
    loads = again.stats()["cache_loads"]
    assert loads == 51
    assert [value_of(again.keyspace(0), key) for key in names] == [b"v:" + key for key in names]
    assert again.keyspace(0).get(b"missing") is None
    assert again.stats()["cache_loads"] == loads


# Versions, for WATCH.


def test_a_version_changes_with_every_write_of_the_key(keyspace: Keyspace) -> None:
    seen = [keyspace.version(b"k")]
    assert seen == [None]
    keyspace.put(b"k", b"v")
    seen.append(keyspace.version(b"k"))
    keyspace.put(b"k", b"v")
    seen.append(keyspace.version(b"k"))
    keyspace.expire(b"k", NOW_MS + 1000)
    seen.append(keyspace.version(b"k"))
    keyspace.expire(b"k", NEVER)
    seen.append(keyspace.version(b"k"))
    keyspace.update(b"k", b"v")
    seen.append(keyspace.version(b"k"))
    keyspace.delete(b"k")
    seen.append(keyspace.version(b"k"))
    keyspace.put(b"k", b"v")
    seen.append(keyspace.version(b"k"))
    assert len(set(seen)) == len(seen)
    keyspace.put(b"other", b"v")
    assert keyspace.version(b"k") == seen[-1]


def test_a_version_survives_the_cache(store: Store, rig: EngineRig) -> None:
    store.keyspace(0).put(b"k", b"v", NOW_MS + 1000)
    before = store.keyspace(0).version(b"k")
    store.commit()
    store.keyspace(0).forget(b"k")
    assert store.keyspace(0).version(b"k") == before
    store.close()
    assert Store(rig.open(), now_ms=NOW_MS).keyspace(0).version(b"k") == before


# Flushes.


def test_a_flush_deletes_one_keyspace(store: Store, rig: EngineRig) -> None:
    for index in range(3):
        fill(store.keyspace(index), b"a", b"b")
    store.commit()
    assert store.keyspace(1).flush() == 2
    assert value_of(store.keyspace(1), b"a") is None
    store.keyspace(1).put(b"b", b"new")
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    assert [again.keyspace(index).count for index in range(3)] == [2, 1, 2]
    assert value_of(again.keyspace(1), b"a") is None
    assert value_of(again.keyspace(1), b"b") == b"new"
    assert stamp_of(again.keyspace(1), b"b")[20:] == NO_PREV
    assert findings(again) == []


def test_flushing_an_empty_keyspace_again_deletes_no_range() -> None:
    engine = MemoryEngine()
    keyspace = Store(engine, now_ms=NOW_MS).keyspace(0)

    def flush_thrice() -> int:
        """Return how many range deletions that took."""
        before = len(engine.tail)
        for _ in range(3):
            keyspace.flush()
            keyspace.store.commit()
        return sum(len(operation) == 4 for batch in engine.tail[before:] for operation in batch)

    assert flush_thrice() == 0
    keyspace.put(b"a", b"")
    keyspace.delete(b"a")
    keyspace.store.commit()
    assert flush_thrice() == 1
    assert keys_of(engine, Family.RECORDS) == []


def test_a_flush_hides_the_rows_it_has_not_removed_yet(store: Store) -> None:
    keyspace = store.keyspace(0)
    fill(keyspace, *(b"%03d" % number for number in range(200)))
    store.commit()
    keyspace.flush()
    loads = store.stats()["cache_loads"]
    keyspace.prefetch([b"001", b"002"])
    assert keyspace.get(b"001") is None
    assert keyspace.random_key() is None
    assert keyspace.scan(b"", None, 1) == ([], None)
    keyspace.put(b"new", b"v")
    assert keyspace.random_key() == b"new"
    assert all_keys(keyspace) == [b"new"]
    assert store.stats()["cache_loads"] == loads
    store.commit()
    assert keyspace.random_key() == b"new"
    assert all_keys(keyspace) == [b"new"]


def test_what_is_older_than_the_flush_is_dead_wherever_it_comes_from(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000)
    store.commit()
    row_key = database_id(0) + b"k"
    row = store.engine.get(Family.RECORDS, row_key)
    assert row is not None
    keyspace.flush()
    store.commit()
    raw_put(store.engine, Family.RECORDS, row_key, row)
    assert keyspace.peek(b"k") is MISSING
    assert keyspace.scan(b"", None, 10) == ([], None)


def test_a_flush_is_stamped_like_a_write(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v")
    before = stamp_of(keyspace, b"k")
    keyspace.flush()
    first = keyspace.floor
    assert first is not None
    assert register_hlc(first) > register_hlc(before)
    assert register_ms(first) == NOW_MS
    assert register_dot(first) == (1, 2)
    keyspace.flush()
    assert keyspace.floor is not None
    assert keyspace.floor[20:] == first[:12]
    keyspace.put(b"k", b"v")
    assert keyspace.peek(b"k")[VALUE_STAMP] is not None
    assert stamp_of(keyspace, b"k")[:20] > keyspace.floor[:20]


def test_the_repr_names_the_keyspace(store: Store) -> None:
    assert "0 keys" in repr(store.keyspace(3))
    assert "blue" in repr(store.keyspaces.create("blue"))


def test_values_at_hand_are_returned_if_all_of_them_are_live(store: Store, keyspace: Keyspace) -> None:
    keyspace.put(b"a", b"1")
    keyspace.put(b"b", b"2", NOW_MS + 50)
    keyspace.put(b"gone", b"3")
    keyspace.delete(b"gone")
    assert keyspace.hot_values([b"b", b"a", b"b"]) == [b"2", b"1", b"2"]  # before the commit, too
    store.commit()
    assert keyspace.hot_values([b"a", b"b"]) == [b"1", b"2"]
    for other in (b"missing", b"gone"):
        assert keyspace.hot_values([b"a", other]) is None
    store.begin(NOW_MS + 50)
    assert keyspace.hot_values([b"a", b"b"]) is None
