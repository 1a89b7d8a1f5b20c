"""The change feed: every live dot once, in order, with what it wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.changes import Change, Kind, Stamp, VersionVector
from storage.engine import Family
from storage.layout import change_key, database_id
from storage.record import NEVER
from storage.store import Store
from storage.version import hlc_at
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import raw_put


def changes(store: Store, vector: VersionVector | None = None) -> list[Change]:
    feed = store.feed()
    try:
        return list(feed.changes_after(vector or VersionVector()))
    finally:
        feed.close()


def vector(store: Store) -> VersionVector:
    feed = store.feed()
    try:
        return feed.vector()
    finally:
        feed.close()


def test_each_kind_of_write_is_a_change(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"a", b"1", NOW_MS + 1000, b"{}")
    keyspace.put(b"b", b"2")
    keyspace.expire(b"b", NEVER)
    keyspace.delete(b"b")
    store.keyspace(1).flush()
    store.commit()
    value, expiry, floor, namespace_floor = changes(store)
    origin = value.stamp.origin
    assert value == Change(
        stamp=Stamp(hlc_at(NOW_MS), origin, 1),
        prev_hlc=0,
        prev_origin=None,
        kind=Kind.VALUE,
        namespace=database_id(0),
        key=b"a",
        value=b"1",
        metadata=b"{}",
        group=(0, 2),
    )
    assert (expiry.kind, expiry.expires_at_ms, expiry.group) == (Kind.EXPIRY, NOW_MS + 1000, (1, 2))
    assert (floor.kind, floor.key, floor.stamp.seq) == (Kind.FLOOR, b"b", 4)
    assert (namespace_floor.kind, namespace_floor.namespace) == (Kind.NAMESPACE_FLOOR, database_id(1))
    assert namespace_floor.key == b""
    assert vector(store) == VersionVector({origin: 5})


def test_a_change_names_what_it_replaced(store: Store) -> None:
    store.keyspace(0).put(b"a", b"1")
    store.commit()
    (first,) = changes(store)
    store.keyspace(0).put(b"a", b"2")
    store.commit()
    (second,) = changes(store)
    assert (second.prev_hlc, second.prev_origin) == (first.stamp.hlc, first.stamp.origin)


def test_what_was_overwritten_is_not_sent(store: Store) -> None:
    for number in range(20):
        store.keyspace(0).put(b"a", b"%d" % number)
        store.commit()
    (only,) = changes(store)
    assert (only.value, only.stamp.seq) == (b"19", 20)


@pytest.mark.parametrize("tick", [1, 3, 100])
def test_the_feed_goes_on_behind_any_vector(store: Store, tick: int) -> None:
    for number in range(25):
        store.keyspace(0).put(b"%02d" % number, b"v")
        if number % tick == 0:
            store.commit()
    store.commit()
    everything = changes(store)
    origin = everything[0].stamp.origin
    assert [change.stamp.seq for change in everything] == list(range(1, 26))
    for seq in range(27):
        assert changes(store, VersionVector({origin: seq})) == everything[seq:]


def test_the_feed_holds_every_origin(rig: EngineRig) -> None:
    for run in range(3):
        store = Store(rig.open(), now_ms=NOW_MS + run)
        store.keyspace(0).put(b"%d" % run, b"v")
        store.commit()
        store.close()
    store = Store(rig.open(), now_ms=NOW_MS)
    found = changes(store)
    assert [change.key for change in found] == [b"0", b"1", b"2"]
    assert len({change.stamp.origin for change in found}) == 3
    assert vector(store) == VersionVector({change.stamp.origin: 1 for change in found})
    assert changes(store, vector(store)) == []
    store.close()


def test_the_feed_shows_one_moment(store: Store) -> None:
    store.keyspace(0).put(b"a", b"1")
    store.commit()
    feed = store.feed()
    store.keyspace(0).put(b"a", b"2")
    store.keyspace(0).put(b"b", b"2")
    store.commit()
    assert [(change.key, change.value) for change in feed.changes_after(VersionVector())] == [(b"a", b"1")]
    assert sum(feed.vector().values()) == 1
    feed.close()


def test_a_swept_value_is_not_sent_and_a_header_is(store: Store) -> None:
    class Members:
        alone = False

        def covers(self, register: bytes) -> bool:
            return False

    store.stability = Members()
    store.keyspace(0).put(b"a", b"1", NOW_MS + 10)
    store.commit()
    store.begin(NOW_MS + 10)
    store.sweep(10)
    assert [(change.kind, change.value) for change in changes(store)] == [
        (Kind.VALUE, None),
        (Kind.EXPIRY, None),
    ]


def test_an_unreadable_row_is_passed_over(store: Store) -> None:
    for key in (b"a", b"b", b"c"):
        store.keyspace(0).put(key, b"v")
    store.commit()
    raw_put(store.engine, Family.RECORDS, database_id(0) + b"b", b"garbage")
    assert [change.key for change in changes(store)] == [b"a", b"c"]


def test_a_hole_in_the_log_is_jumped_over(store: Store) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        store.keyspace(0).put(key, b"v")
        store.commit()
    everything = changes(store)
    origin = everything[0].stamp.origin
    batch = store.engine.batch()
    batch.delete(Family.CHANGES, change_key(1, 2))
    store.engine.write(batch, sync=False)
    for after in (0, 1, 2):
        expected = [change for change in everything if change.stamp.seq > after and change.stamp.seq != 2]
        assert changes(store, VersionVector({origin: after})) == expected


# Vectors and stamps.

VECTORS = st.dictionaries(st.sampled_from([b"a" * 16, b"b" * 16, b"c" * 16]), st.integers(0, 5)).map(
    VersionVector
)


@given(VECTORS, VECTORS)
def test_vectors_are_a_lattice(left: VersionVector, right: VersionVector) -> None:
    joined, common = left.merged(right), left.common(right)
    assert joined == right.merged(left)
    assert joined.covers(left)
    assert joined.covers(right)
    assert left.covers(common)
    assert right.covers(common)
    assert left.covers(right) == (left.merged(right) == left) == (left.common(right) == right)


def test_a_vector_knows_nothing_of_unknown_origins() -> None:
    empty = VersionVector({b"a" * 16: 0})
    assert empty[b"z" * 16] == 0
    assert empty == VersionVector()
    assert len(empty) == 0
    assert b"a" * 16 not in empty
    assert hash(empty) == hash(VersionVector())
    assert "61616161: 7" in repr(VersionVector({b"a" * 16: 7}))


def test_stamps_order_by_clock_origin_and_sequence() -> None:
    disordered = [Stamp(2, b"b", 1), Stamp(2, b"a", 2), Stamp(1, b"b", 9), Stamp(2, b"a", 1)]
    assert sorted(disordered) == [
        Stamp(1, b"b", 9),
        Stamp(2, b"a", 1),
        Stamp(2, b"a", 2),
        Stamp(2, b"b", 1),
    ]
