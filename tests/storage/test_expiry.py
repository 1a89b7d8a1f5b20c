"""The sweep: what it removes, what it keeps, and what it must remember."""

from __future__ import annotations

import pytest

from storage.engine import Family
from storage.engine_memory import MemoryEngine
from storage.errors import NoSpace
from storage.expiry import Alone
from storage.layout import META_PURGED_HLC, database_id, purged_key
from storage.record import EXPIRES_AT, MISSING, NEVER, VALUE, loads
from storage.store import Keyspace, Store
from storage.version import HLC_MAX, hlc_at, register_dot, register_hlc
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import (
    expiry_of,
    findings,
    floor_of,
    keys_of,
    raw_put,
    stamp_of,
    value_of,
)

MINUTE_MS = 60_000
GC_MIN_AGE_MS = 3_600_000
PURGED_MS = GC_MIN_AGE_MS + 2 * MINUTE_MS  # after this long a deletion is certainly purged


class Members:
    """Other members who hold whatever the test says."""

    alone = False

    def __init__(self) -> None:
        self.covered: set[bytes] = set()  # registers
        self.settled_hlc = HLC_MAX

    def covers(self, origin: bytes, seq: int) -> bool:
        return seq in {register_dot(register)[1] for register in self.covered}


def rows(store: Store) -> list[bytes]:
    return [key[16:] for key in keys_of(store.engine, Family.RECORDS)]


def sweep_all(store: Store, now_ms: int, budget: int = 100) -> list[bytes]:
    """Sweep until nothing is due; return the keys reported as expired."""
    expired: list[tuple[Keyspace, bytes]] = []
    store.on_expired = lambda keyspace, key: expired.append((keyspace, key))
    store.begin(now_ms)
    while store.sweep(budget):
        assert findings(store) == []
    return [key for _, key in expired]


def test_an_expired_record_leaves_disk_and_counts_and_is_reported(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"short", b"v", NOW_MS + 1000)
    keyspace.put(b"long", b"v", NOW_MS + 9000)
    keyspace.put(b"for ever", b"v")
    store.commit()
    assert sweep_all(store, NOW_MS + 999) == []
    assert sweep_all(store, NOW_MS + 1000) == [b"short"]
    assert rows(store) == [b"for ever", b"long"]
    assert (keyspace.count, keyspace.expires) == (2, 1)
    assert keyspace.peek(b"short") is MISSING
    assert sweep_all(store, NOW_MS + 9000) == [b"long"]
    assert keys_of(store.engine, Family.DEADLINES) == []


def test_a_sweep_takes_no_dot(store: Store) -> None:
    store.keyspace(0).put(b"k", b"v", NOW_MS + 1000)
    store.commit()
    before = keys_of(store.engine, Family.CHANGES)
    assert sweep_all(store, NOW_MS + 1000) == [b"k"]
    assert keys_of(store.engine, Family.CHANGES) == before


@pytest.mark.parametrize("budget", [1, 2, 63, 64, 1000])
def test_a_sweep_does_no_more_than_it_is_given(store: Store, budget: int) -> None:
    keyspace = store.keyspace(0)
    for number in range(200):
        keyspace.put(b"%03d" % number, b"v", NOW_MS + number)
    store.commit()
    store.begin(NOW_MS + 200)
    handled = []
    while count := store.sweep(budget):
        handled.append(count)
    assert max(handled) <= budget
    assert sum(handled) == 200
    assert keyspace.count == 0
    assert keys_of(store.engine, Family.DEADLINES) == []


def test_the_sweep_finds_what_comes_due_before_its_position(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"a", b"v", NOW_MS + 5000)
    store.commit()
    assert sweep_all(store, NOW_MS + 5000) == [b"a"]
    store.begin(NOW_MS)  # the wall clock went back
    keyspace.put(b"b", b"v", NOW_MS + 1000)
    store.commit()
    assert sweep_all(store, NOW_MS + 1000) == [b"b"]


def test_an_early_deadline_is_put_off_to_the_true_time(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000)
    keyspace.expire(b"k", NOW_MS + 5000)
    store.commit()
    assert sweep_all(store, NOW_MS + 1000) == []
    assert value_of(keyspace, b"k") == b"v"
    assert sweep_all(store, NOW_MS + 4999) == []
    assert sweep_all(store, NOW_MS + 5000) == [b"k"]


def test_a_stale_deadline_vanishes(store: Store) -> None:
    keyspace = store.keyspace(0)
    for key in (b"persisted", b"replaced", b"flushed"):
        keyspace.put(key, b"v", NOW_MS + 1000)
    store.keyspace(1).put(b"flushed", b"v", NOW_MS + 1000)
    store.commit()
    keyspace.expire(b"persisted", NEVER)
    keyspace.put(b"replaced", b"w")
    store.keyspace(1).flush()
    store.commit()
    assert sweep_all(store, NOW_MS + 1000) == [b"flushed"]
    assert rows(store) == [b"persisted", b"replaced"]
    assert keys_of(store.engine, Family.DEADLINES) == []


def test_a_key_written_again_after_its_expiry_is_not_swept(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"1", NOW_MS + 1000)
    store.commit()
    store.begin(NOW_MS + 1000)
    keyspace.put(b"k", b"2", NOW_MS + 2000)
    store.commit()
    assert sweep_all(store, NOW_MS + 1000) == []
    assert value_of(keyspace, b"k") == b"2"
    assert sweep_all(store, NOW_MS + 2000) == [b"k"]


def test_a_tombstone_is_purged_after_its_time_and_not_before(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v")
    keyspace.delete(b"k")
    floor = floor_of(keyspace, b"k")
    store.commit()
    assert sweep_all(store, NOW_MS + GC_MIN_AGE_MS - 1) == []
    assert rows(store) == [b"k"]
    assert store.replication_stats()["purged"] == 0
    assert sweep_all(store, NOW_MS + PURGED_MS) == []
    assert rows(store) == []
    assert store.replication_stats()["purged"] == 1
    assert keyspace.peek(b"k") is MISSING
    origin, seq = register_dot(floor)
    stored = store.engine.get(Family.META, purged_key(origin))
    assert stored is not None
    assert loads(stored) == seq
    stored = store.engine.get(Family.META, META_PURGED_HLC)
    assert stored is not None
    assert loads(stored) == register_hlc(floor)


def test_the_floor_under_a_live_value_is_purged_too(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"1")
    keyspace.delete(b"k")
    keyspace.put(b"k", b"2", NEVER, b"{}")
    version = stamp_of(keyspace, b"k")
    store.commit()
    sweep_all(store, NOW_MS + PURGED_MS)
    assert keyspace.peek(b"k") == (b"2", NEVER, b"{}", version, None, None)
    assert keyspace.count == 1


def test_a_tombstone_renewed_in_the_meantime_waits_again(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"1")
    keyspace.delete(b"k")
    store.commit()
    store.begin(NOW_MS + GC_MIN_AGE_MS - MINUTE_MS)
    keyspace.put(b"k", b"2")
    keyspace.delete(b"k")
    store.commit()
    sweep_all(store, NOW_MS + PURGED_MS)
    assert rows(store) == [b"k"]
    sweep_all(store, NOW_MS + PURGED_MS + GC_MIN_AGE_MS)
    assert rows(store) == []


def test_what_was_purged_is_remembered_over_a_restart(store: Store, rig: EngineRig) -> None:
    keyspace = store.keyspace(0)
    store.begin(NOW_MS + 50_000)
    keyspace.put(b"k", b"v", NOW_MS + 60_000)
    purged = expiry_of(keyspace, b"k")[0]
    store.commit()
    sweep_all(store, NOW_MS + 60_000)
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    again.keyspace(0).put(b"k", b"v")
    assert register_hlc(stamp_of(again.keyspace(0), b"k")) > register_hlc(purged)


def test_an_expired_value_over_a_tombstone_leaves_the_tombstone(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"1")
    keyspace.delete(b"k")
    floor = floor_of(keyspace, b"k")
    keyspace.put(b"k", b"2", NOW_MS + 1000)
    store.commit()
    assert sweep_all(store, NOW_MS + 1000) == [b"k"]
    assert keyspace.peek(b"k") == (None, 0, None, None, None, floor)
    assert keyspace.count == 0
    sweep_all(store, NOW_MS + PURGED_MS)
    assert rows(store) == []


def test_a_failed_sweep_is_done_again() -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    keyspace = store.keyspace(0)
    for number in range(100):
        keyspace.put(b"%02d" % number, b"v", NOW_MS + 1000)
    store.commit()
    expired: list[bytes] = []
    store.on_expired = lambda _, key: expired.append(key)
    store.begin(NOW_MS + 1000)
    engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace):
        store.sweep(50)
    assert expired == []
    assert (keyspace.count, keyspace.expires) == (100, 100)
    assert findings(store) == []
    assert store.sweep(1000) == 100
    assert len(expired) == 100
    assert keyspace.count == 0


def test_what_a_failed_sweep_did_not_purge_does_not_count() -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    store.keyspace(0).put(b"k", b"v")
    store.keyspace(0).delete(b"k")
    store.commit()
    store.begin(NOW_MS + PURGED_MS)
    engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace):
        store.sweep(50)
    assert store.replication_stats()["purged"] == 0
    assert store.sweep(50) == 1
    assert store.replication_stats()["purged"] == 1


def test_an_unreadable_row_does_not_stop_the_sweep(store: Store) -> None:
    keyspace = store.keyspace(0)
    for key in (b"a", b"b", b"c"):
        keyspace.put(key, b"v", NOW_MS + 1000)
    store.commit()
    raw_put(store.engine, Family.RECORDS, database_id(0) + b"b", b"garbage")
    keyspace.forget(b"b")
    store.begin(NOW_MS + 1000)
    assert store.sweep(10) == 3
    assert rows(store) == [b"b"]


# With other members.


@pytest.fixture
def members(store: Store) -> Members:
    found = Members()
    store.sweeper.purging = found
    return found


def test_with_members_an_expired_record_becomes_a_header(store: Store, members: Members) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000, b"{}")
    stamp, expiry = stamp_of(keyspace, b"k"), expiry_of(keyspace, b"k")
    store.commit()
    assert sweep_all(store, NOW_MS + 1000) == [b"k"]
    assert keyspace.peek(b"k") == (None, 0, None, stamp, expiry, None)
    assert keyspace.count == 0
    assert keyspace.version(b"k") is None
    assert sweep_all(store, NOW_MS + 2 * PURGED_MS) == []
    assert rows(store) == [b"k"]
    assert store.replication_stats()["purged"] == 0
    members.covered = {stamp, expiry[0]}
    sweep_all(store, NOW_MS + 4 * PURGED_MS)
    assert rows(store) == []
    assert store.replication_stats()["purged"] == 1


def test_a_header_waits_until_nobody_can_have_extended_its_expiry(store: Store, members: Members) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000)
    members.covered = {stamp_of(keyspace, b"k"), expiry_of(keyspace, b"k")[0]}
    members.settled_hlc = hlc_at(NOW_MS + 1001) - 2
    store.commit()
    sweep_all(store, NOW_MS + PURGED_MS)
    assert rows(store) == [b"k"]
    members.settled_hlc += 1
    sweep_all(store, NOW_MS + 2 * PURGED_MS)
    assert rows(store) == []
    assert store.sweeper.horizon.hlc_of(0) == members.settled_hlc


def test_with_members_a_write_over_a_header_is_newer_and_counts_again(store: Store, members: Members) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v", NOW_MS + 1000)
    hidden = expiry_of(keyspace, b"k")[0]
    store.commit()
    sweep_all(store, NOW_MS + 1000)
    keyspace.put(b"k", b"w")
    store.commit()
    assert register_hlc(stamp_of(keyspace, b"k")) > register_hlc(hidden)
    assert keyspace.count == 1
    assert keyspace.peek(b"k")[EXPIRES_AT] == NEVER
    assert findings(store) == []
    sweep_all(store, NOW_MS + 2 * PURGED_MS)
    assert keyspace.peek(b"k")[VALUE] == b"w"


def test_with_members_a_tombstone_waits_until_all_have_it(store: Store, members: Members) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"v")
    keyspace.delete(b"k")
    floor = floor_of(keyspace, b"k")
    store.commit()
    sweep_all(store, NOW_MS + PURGED_MS)
    assert rows(store) == [b"k"]
    members.covered = {floor}
    sweep_all(store, NOW_MS + 2 * PURGED_MS)
    assert rows(store) == []


def test_a_node_alone_covers_everything() -> None:
    assert Alone().alone
    assert Alone().covers(b"anything", 7)
