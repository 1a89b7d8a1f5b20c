"""The change feed: every live dot once, in order, with what it wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import feed as feed_module
from storage.changes import END_OF_PLACES, Change, Kind, Run, Stamp, VersionVector
from storage.engine import Family
from storage.layout import change_key, database_id
from storage.policy import Policy
from storage.record import NEVER
from storage.store import Store
from storage.version import hlc_at
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import raw_put
from tests.storage.replicas import key_place


def runs(store: Store, vector: VersionVector | None = None) -> list[Run]:
    feed = store.feed()
    try:
        return list(feed.runs_after(vector or VersionVector()))
    finally:
        feed.close()


def changes(store: Store, vector: VersionVector | None = None) -> list[Change]:
    return [change for run in runs(store, vector) for change in run.changes]


def slices(store: Store, start: bytes = b"") -> list[tuple[bytes, list[Run]]]:
    feed = store.feed()
    try:
        return list(feed.runs_by_place(start))
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
    (run,) = runs(store)
    value, expiry, floor, namespace_floor = run.changes
    assert (run.after, run.upto) == (0, 5)
    assert value == Change(
        seq=1,
        hlc=hlc_at(NOW_MS),
        kind=Kind.VALUE,
        place=key_place(b"a"),
        content=b"1",
        metadata=b"{}",
        group_end=2,
    )
    assert (expiry.kind, expiry.content, expiry.group_end) == (Kind.EXPIRY, NOW_MS + 1000, 2)
    assert (floor.kind, floor.place, floor.seq) == (Kind.FLOOR, key_place(b"b"), 4)
    assert (namespace_floor.kind, namespace_floor.place) == (Kind.NAMESPACE_FLOOR, database_id(1))
    assert vector(store) == VersionVector({run.origin: 5})


def test_a_change_names_what_it_replaced(store: Store) -> None:
    store.keyspace(0).put(b"a", b"1")
    store.commit()
    (first,) = changes(store)
    store.keyspace(0).put(b"a", b"2")
    store.commit()
    (second,) = changes(store)
    assert (second.prev_hlc, second.prev_origin) == (first.hlc, None)


def test_another_origin_is_named_as_the_one_that_was_replaced(rig: EngineRig) -> None:
    store = Store(rig.open(), now_ms=NOW_MS)
    store.keyspace(0).put(b"a", b"1")
    store.commit()
    (first,) = runs(store)
    store.close()
    store = Store(rig.open(), now_ms=NOW_MS)
    store.keyspace(0).put(b"a", b"2")
    store.commit()
    (second,) = changes(store)
    assert (second.prev_hlc, second.prev_origin) == (first.changes[0].hlc, first.origin)
    store.close()


def test_what_was_overwritten_is_not_sent(store: Store) -> None:
    for number in range(20):
        store.keyspace(0).put(b"a", b"%d" % number)
        store.commit()
    (only,) = changes(store)
    assert (only.content, only.seq) == (b"19", 20)


@pytest.mark.parametrize("tick", [1, 3, 100])
def test_the_feed_goes_on_behind_any_vector(store: Store, tick: int) -> None:
    for number in range(25):
        store.keyspace(0).put(b"%02d" % number, b"v")
        if number % tick == 0:
            store.commit()
    store.commit()
    everything = changes(store)
    origin = runs(store)[0].origin
    assert [change.seq for change in everything] == list(range(1, 26))
    for seq in range(27):
        found = runs(store, VersionVector({origin: seq}))
        assert [change for run in found for change in run.changes] == everything[seq:]
        assert [(run.after, run.upto) for run in found] == ([(seq, 25)] if seq < 25 else [])


def test_the_feed_holds_every_origin(rig: EngineRig) -> None:
    for number in range(3):
        store = Store(rig.open(), now_ms=NOW_MS + number)
        store.keyspace(0).put(b"%d" % number, b"v")
        store.commit()
        store.close()
    store = Store(rig.open(), now_ms=NOW_MS)
    assert [change.place for change in changes(store)] == [key_place(key) for key in (b"0", b"1", b"2")]
    assert len({run.origin for run in runs(store)}) == 3
    assert vector(store) == VersionVector({run.origin: 1 for run in runs(store)})
    assert changes(store, vector(store)) == []
    store.close()


def test_the_feed_shows_one_moment(store: Store) -> None:
    store.keyspace(0).put(b"a", b"1")
    store.commit()
    feed = store.feed()
    store.keyspace(0).put(b"a", b"2")
    store.keyspace(0).put(b"b", b"2")
    store.commit()
    shown = [change for run in feed.runs_after(VersionVector()) for change in run.changes]
    assert [(change.place, change.content) for change in shown] == [(key_place(b"a"), b"1")]
    assert sum(feed.vector().values()) == 1
    feed.close()


def test_a_swept_value_is_not_sent_and_a_header_is(store: Store) -> None:
    class Members:
        alone = False
        settled_hlc = 0

        def covers(self, origin: bytes, seq: int) -> bool:
            return False

    store.sweeper.purging = Members()
    store.keyspace(0).put(b"a", b"1", NOW_MS + 10)
    store.commit()
    store.begin(NOW_MS + 10)
    store.sweep(10)
    assert [(change.kind, change.content) for change in changes(store)] == [
        (Kind.VALUE, None),
        (Kind.EXPIRY, NOW_MS + 10),
    ]


def test_an_unreadable_row_is_passed_over(store: Store) -> None:
    for key in (b"a", b"b", b"c"):
        store.keyspace(0).put(key, b"v")
    store.commit()
    raw_put(store.engine, Family.RECORDS, key_place(b"b"), b"garbage")
    assert [change.place for change in changes(store)] == [key_place(b"a"), key_place(b"c")]
    ((_, (run,)),) = slices(store)
    assert [change.place for change in run.changes] == [key_place(b"a"), key_place(b"c")]


def test_a_hole_in_the_log_is_jumped_over(store: Store) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        store.keyspace(0).put(key, b"v")
        store.commit()
    everything = changes(store)
    origin = runs(store)[0].origin
    batch = store.engine.batch()
    batch.delete(Family.CHANGES, change_key(1, 2))
    store.engine.write(batch, sync=False)
    for after in (0, 1, 2):
        expected = [change for change in everything if change.seq > after and change.seq != 2]
        assert changes(store, VersionVector({origin: after})) == expected


def test_a_large_value_is_given_as_its_size_and_fetched_by_its_dot(store: Store) -> None:
    body = b"x" * 70_000
    store.keyspace(0).put(b"big", body, NOW_MS + 1000)
    store.commit()
    feed = store.feed()
    (run,) = feed.runs_after(VersionVector())
    assert [change.content for change in run.changes] == [70_000, NOW_MS + 1000]
    assert feed.body(run.origin, 1, key_place(b"big")) == body
    assert feed.body(run.origin, 2, key_place(b"big")) is None
    assert feed.body(b"?" * 16, 1, key_place(b"big")) is None
    assert feed.body(run.origin, 1, key_place(b"other")) is None
    feed.close()


def test_runs_have_a_size_and_do_not_cut_groups(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RUN_CHANGES_MAX", 4)
    keyspace = store.keyspace(0)
    for number in range(9):
        keyspace.put(b"%d" % number, b"v")
    with store.atomic():
        for number in range(6):
            keyspace.put(b"g%d" % number, b"v")
    keyspace.put(b"z", b"v")
    store.commit()
    found = runs(store)
    assert [(run.after, run.upto) for run in found] == [(0, 4), (4, 8), (8, 15), (15, 16)]
    assert [change.group_end for change in found[2].changes] == [0, 15, 15, 15, 15, 15, 15]


@pytest.mark.parametrize("looked_at_max", [1, 6])
def test_where_much_was_superseded_the_caller_has_its_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch, looked_at_max: int
) -> None:
    monkeypatch.setattr(feed_module, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(feed_module, "_LOOKED_AT_MAX", looked_at_max)
    keyspace = store.keyspace(0)
    for name in (b"again", b"once", b"again"):
        for _ in range(1 if name == b"once" else 12):
            keyspace.put(name, b"v")
            store.commit()
    with store.atomic():
        for number in range(6):
            keyspace.put(b"g%d" % number, b"v")
    store.commit()
    found = runs(store)
    assert sum(not run.changes for run in found) >= 10 // looked_at_max
    assert [change.seq for run in found for change in run.changes] == [13, 25, *range(26, 32)]
    assert [run.after for run in found] == [0, *(run.upto for run in found[:-1])]
    ends = [run.upto for run in found]
    assert not any(26 <= end < 31 for end in ends)  # what was written together stays together


def test_what_is_not_replicated_is_nowhere_in_the_feed(store: Store) -> None:
    local = store.keyspaces.create("here", Policy(replicate="none"))
    local.put(b"k", b"v")
    local.flush()
    local.put(b"k", b"w", NOW_MS + 5)
    local.put(b"big", b"v" * 70_000)
    store.commit()
    assert [change.place[16:] for change in changes(store)] == [local.id]
    found = [change.place[16:] for _, runs in slices(store) for run in runs for change in run.changes]
    assert found == [local.id]
    assert sum(vector(store).values()) == 1


# By place.


def test_a_walk_by_place_gives_everything_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_SLICE_ROWS", 7)
    for number in range(30):
        store.keyspace(number % 3).put(b"%02d" % number, b"v", NOW_MS + 1000 if number % 2 else NEVER)
    store.keyspace(4).flush()
    store.keyspace(1).delete(b"04")
    store.commit()
    found = slices(store)
    assert len(found) == 6  # the first is the flush
    assert found[0][0] == b""
    assert found[-1][0] == END_OF_PLACES
    assert all(run.after == run.upto == 0 for _, part in found for run in part)
    listed = [change for _, part in found for run in part for change in run.changes]
    expected = [change._replace(group_end=0) for change in changes(store)]
    assert sorted(listed) == sorted(expected)
    assert found[0][1][0].changes[-1].kind == Kind.EXPIRY or Kind.NAMESPACE_FLOOR in {
        change.kind for run in found[0][1] for change in run.changes
    }


def test_a_walk_cuts_flushes_of_many_namespaces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RUN_CHANGES_MAX", 3)
    for number in range(7):
        store.keyspace(number).flush()
    store.commit()
    found = [(following, [len(run.changes) for run in runs]) for following, runs in slices(store)]
    assert found == [(b"", [3]), (b"", [3]), (b"", [1]), (END_OF_PLACES, [])]


def test_a_walk_goes_on_where_another_ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_SLICE_ROWS", 3)
    for number in range(10):
        store.keyspace(0).put(b"%02d" % number, b"v")
    store.commit()
    whole = slices(store)
    for index in range(1, len(whole)):
        assert slices(store, whole[index - 1][0]) == whole[index:]
    assert slices(store, END_OF_PLACES) == []


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
