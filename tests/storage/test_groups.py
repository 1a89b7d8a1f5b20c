"""Groups of namespaces: each has origins, a vector, purge floors and a feed of its own in one store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.changes import (
    END_OF_PLACES,
    GROUP_MAX,
    Kind,
    Lane,
    Run,
    Stamp,
    VersionVector,
    draw_id,
    group_of,
    place_ranges,
)
from storage.engine import Family
from storage.errors import Aborted, GroupNotCarried
from storage.expiry import Apart
from storage.feed import SnapshotFeed
from storage.keyspace import Keyspace
from storage.store import StoreOptions
from tests.storage.helpers import findings, value_of
from tests.storage.replicas import (
    BIG,
    NOW_MS,
    Members,
    Nodes,
    all_changes,
    dot,
    entropy_of,
    run_of,
    unlisted,
    walked_changes,
)

GROUPS = StoreOptions(groups=frozenset({3, 4}))
PURGED_MS = 16_000_000


class Grouped:
    """A node that carries the groups 3 and 4, with a namespace in the first."""

    def __init__(self, nodes: Nodes, name: bytes = b"a") -> None:
        self.node = nodes(name, options=GROUPS)
        self.nodes, self.name = nodes, name
        self.attach()

    def attach(self) -> None:
        self.replica = self.node.replica.of_group(3)

    def reopen(self, now_ms: int = NOW_MS) -> None:
        self.nodes.reopen(self.node, self.name, now_ms)
        self.attach()

    def create(self, title: str = "three", group: int = 3) -> Keyspace:
        made = self.node.store.keyspaces.create(title, group=group)
        self.node.store.commit()
        return made

    @property
    def keyspace(self) -> Keyspace:
        found = self.node.store.keyspaces.find("three")
        assert found is not None
        return found


@pytest.fixture
def grouped(nodes: Nodes) -> Callable[..., Grouped]:
    return lambda name=b"a": Grouped(nodes, name)


# Ids.


@given(st.integers(0, GROUP_MAX), st.binary(min_size=1, max_size=9))
def test_an_id_tells_its_group_and_lies_in_its_range(group: int, seed: bytes) -> None:
    drawn = draw_id(group, entropy_of(seed))
    assert len(drawn) == 16
    assert group_of(drawn) == group_of(drawn + b"key") == group
    holders = [
        other
        for other in (0, 1, group, GROUP_MAX)
        for first, end in place_ranges(other)
        if first <= drawn < end
    ]
    assert set(holders) == {group}


def test_a_random_id_never_looks_like_another_group() -> None:
    drawn = iter([draw_id(7, entropy_of(b"x")), b"\x01" * 16])
    assert draw_id(0, lambda size: next(drawn)) == b"\x01" * 16


def test_the_ranges_of_all_groups_leave_nothing_out() -> None:
    ranges = sorted(found for group in range(GROUP_MAX + 1) for found in place_ranges(group))
    assert (ranges[0][0], ranges[-1][1]) == (b"", END_OF_PLACES)
    for (_, end), (first, _) in pairwise(ranges):
        assert end.ljust(6, b"\0") == first.ljust(6, b"\0")  # the last group ends where the mark does


# What is written.


def test_a_group_has_origins_and_a_vector_of_its_own(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    assert (made.group, group_of(made.id)) == (3, 3)
    common = a.node.replica.vector()
    made.put(b"k", b"v")
    made.put(b"k", b"w")
    made.put(b"big", BIG)
    a.node.store.commit()
    small, bulk = a.replica.origin(Lane.SMALL), a.replica.origin(Lane.BULK)
    assert small is not None
    assert bulk is not None
    assert a.replica.vector() == VersionVector({small: 2, bulk: 1})
    assert {group_of(origin) for origin in a.replica.vector()} == {3}
    assert a.node.replica.vector() == common
    assert a.replica.own_origins() == {small: Lane.SMALL, bulk: Lane.BULK}
    assert not set(a.node.replica.own_origins()) & {small, bulk}
    assert value_of(made, b"k") == b"w"
    assert findings(a.node.store) == []


def test_what_is_fresh_is_taken_group_by_group(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    a.node.replica.take_fresh()
    made.put(b"k", b"v")
    a.node.put(b"k", b"v")
    a.node.store.commit()
    assert [change.place for run in a.replica.take_fresh() for change in run.changes] == [made.id + b"k"]
    assert [change.place for run in a.node.replica.take_fresh() for change in run.changes] == [
        bytes(16) + b"k"
    ]
    assert not a.replica.has_fresh
    assert not a.node.replica.has_fresh


def test_a_group_that_nobody_exchanges_keeps_nothing_for_it(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    a.create("four", 4).put(b"k", b"v")
    a.node.store.commit()
    four = a.node.replica.of_group(4)
    assert not four.has_fresh
    assert [change.place[16:] for change in all_changes(four)] == [b"k"]


def test_a_transaction_over_two_groups_is_seen_together_in_each(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    with a.node.store.atomic():
        for number in range(3):
            made.put(b"%d" % number, b"v")
            a.node.put(b"%d" % number, b"v")
    a.node.store.commit()
    for replica in (a.replica, a.node.replica):
        changes = [one for one in all_changes(replica) if len(one.place) == 17]
        assert len({one.hlc for one in changes}) == 1
        assert {one.group_end for one in changes} == {changes[-1].seq}


def test_a_transaction_may_open_a_groups_first_namespace(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    with a.node.store.atomic():
        made = a.node.store.keyspaces.create("three", group=3)
        made.put(b"a", b"v")
        made.put(b"b", b"v")
    a.node.store.commit()
    assert [one.group_end for one in all_changes(a.replica)] == [2, 2]


def test_a_failed_commit_gives_every_group_a_fresh_origin(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    made.put(b"k", b"v")
    a.node.store.commit()
    before = a.replica.origin(Lane.SMALL)
    assert before is not None
    made.put(b"k", b"lost")
    a.node.store.poison("a test")
    with pytest.raises(Aborted):
        a.node.store.commit()
    assert value_of(made, b"k") == b"v"
    made.put(b"k", b"w")
    a.node.store.commit()
    assert a.replica.origin(Lane.SMALL) != before
    assert a.replica.vector()[before] == 1
    assert len(a.replica.vector()) == 2


# What is fed and taken in.


def test_each_feed_shows_its_group_alone(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    made.flush()
    made.put(b"k", b"v", NOW_MS + 1000)
    made.put(b"gone", b"v")
    made.delete(b"gone")
    a.node.put(b"k", b"v")
    a.node.store.keyspace(1).flush()
    a.node.store.commit()
    for replica in (a.replica, a.node.replica):
        by_dot = [one._replace(group_end=0) for one in all_changes(replica)]
        walked = walked_changes(replica)
        assert sorted(walked) == sorted(by_dot)
        assert {group_of(one.place) for one in walked} == {replica.group}
    assert {one.kind for one in all_changes(a.replica)} == {
        Kind.NAMESPACE_FLOOR,
        Kind.VALUE,
        Kind.EXPIRY,
        Kind.FLOOR,
    }


def test_a_group_arrives_whole_and_nothing_else_does(grouped: Callable[..., Grouped]) -> None:
    a, b = grouped(b"a"), grouped(b"b")
    made = a.create()
    for number in range(9):
        made.put(b"%d" % number, b"v%d" % number)
    made.delete(b"4")
    a.node.put(b"common", b"v")
    a.node.store.commit()
    for run in a.replica.take_fresh():
        b.replica.apply(run)
    b.node.store.commit()
    assert b.replica.vector() == a.replica.vector()
    assert not b.node.replica.vector()
    hidden = b.node.store.keyspaces.obtain(made.id)
    assert [hidden.get(b"%d" % number) is not None for number in (3, 4, 5)] == [True, False, True]
    assert b.node.value(b"common") is None
    b.node.sync_from(a.node)
    assert b.keyspace.count == 8
    b.reopen()
    assert b.replica.vector() == a.replica.vector()
    assert b.keyspace.count == 8
    assert findings(b.node.store) == []


def test_a_run_of_another_group_is_refused(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    made.put(b"k", b"v")
    a.node.store.commit()
    (run,) = a.replica.take_fresh()
    for take in (a.node.replica.apply, a.node.replica.merge, a.node.replica.repair):
        with pytest.raises(ValueError, match="another group"):
            take(run._replace(origin=draw_id(3, entropy_of(b"else"))))
    assert not a.node.store.dirty


@pytest.mark.parametrize("metadata", [None, b"{}"])
def test_a_place_of_another_group_is_counted_and_not_written(
    grouped: Callable[..., Grouped], metadata: bytes | None
) -> None:
    """A peer that errs must not be able to put what it sends where no exchange of its group would ever find it."""
    a, b = grouped(b"a"), grouped(b"b")
    made = a.create()
    made.put(b"k", b"v", metadata=metadata)
    a.node.store.commit()
    (run,) = a.replica.take_fresh()
    (one,) = run.changes
    places = [made.id + b"l", bytes(16) + b"k", bytes(16) + b"m", made.id + b"k"]
    mixed = [one._replace(seq=seq, place=place) for seq, place in enumerate(places, 1)]
    assert b.replica.apply(run_of(*mixed, origin=run.origin)) == 2
    b.node.store.commit()
    assert [b.node.value(key) for key in (b"k", b"l", b"m")] == [None] * 3
    hidden = b.node.store.keyspaces.obtain(made.id)
    assert [hidden.get(key) is not None for key in (b"k", b"l", b"m")] == [True, True, False]
    assert b.replica.stats()["undecodable"] == 2


def test_a_full_sync_of_a_group_drops_what_its_server_has_not_in_this_group_alone(
    grouped: Callable[..., Grouped],
) -> None:
    a, b = grouped(b"a"), grouped(b"b")
    made = a.create()
    made.put(b"k", b"v")
    made.put(b"dead", b"v")
    a.node.put(b"common", b"v")
    a.node.store.commit()
    b.node.sync_from(a.node)
    for run in a.replica.take_fresh():
        b.replica.apply(run)
    b.node.store.commit()
    feed = a.replica.feed()
    listed = [run for _, runs in feed.runs_by_place(b"") for run in runs]
    feed.close()
    kept = [
        run._replace(changes=[one for one in run.changes if one.place != made.id + b"dead"]) for run in listed
    ]
    gone = unlisted(b.replica, b"", END_OF_PLACES, kept)
    assert [one.place for run in gone for one in run.changes] == [made.id + b"dead"]
    assert b.replica.drop(gone) == 1
    b.node.store.commit()
    assert b.keyspace.get(b"dead") is None
    assert b.keyspace.get(b"k") is not None
    assert b.node.value(b"common") == b"v"
    other = [change for change in all_changes(b.node.replica) if change.place.endswith(b"common")]
    assert b.replica.drop([Run(next(iter(a.node.replica.vector())), 0, 0, other)]) == 0


def test_coverage_and_floors_are_granted_to_their_group(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    mine, strange = draw_id(3, entropy_of(b"mine")), draw_id(0, entropy_of(b"strange"))
    a.replica.cover({mine: 5, strange: 5}, {mine: 2, strange: 2}, 77)
    a.node.store.commit()
    for _ in range(2):
        assert a.replica.vector() == VersionVector({mine: 5})
        assert (a.replica.floors(), a.replica.horizon()) == (VersionVector({mine: 2}), 77)
        assert (a.node.replica.floors(), a.node.replica.horizon()) == (VersionVector(), 0)
        a.reopen()


def test_settings_of_the_data_directory_are_each_groups_own(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    a.replica.put_local("state", b"3")
    a.node.replica.put_local("state", b"0")
    a.node.store.commit()
    a.reopen()
    assert (a.replica.get_local("state"), a.node.replica.get_local("state")) == (b"3", b"0")


def test_a_deletion_with_a_chosen_stamp_is_the_groups_own(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    made.put(b"k", b"v")
    a.node.store.commit()
    (run,) = a.replica.take_fresh()
    (written,) = run.changes
    common = a.node.replica.vector()
    a.replica.void(made.id + b"k", Stamp(written.hlc, run.origin, written.seq))
    a.node.store.commit()
    assert made.get(b"k") is None
    assert a.node.replica.vector() == common
    assert [one.kind for one in all_changes(a.replica)] == [Kind.FLOOR]
    assert findings(a.node.store) == []


# Purging.


def test_each_group_purges_by_what_its_own_members_have(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    for keyspace in (made, a.node.store.keyspace(0)):
        keyspace.put(b"k", b"v")
        keyspace.delete(b"k")
    a.node.store.commit()
    a.node.replica.set_purging(Members(hold=False))
    a.replica.set_purging(Members(hold=True))
    a.node.store.begin(NOW_MS + PURGED_MS)
    a.node.store.sweep(100)
    assert (made.floors, a.node.store.keyspace(0).floors) == (0, 1)
    assert list(a.replica.floors().values()) == [2]
    assert a.replica.horizon() > 0
    assert (a.node.replica.floors(), a.node.replica.horizon()) == (VersionVector(), 0)
    a.reopen(NOW_MS + PURGED_MS)
    assert list(a.replica.floors().values()) == [2]
    assert a.node.replica.horizon() == 0
    assert a.node.store.state.txn.hlc >= a.replica.horizon()
    assert findings(a.node.store) == []


@pytest.mark.parametrize("common", [Members(hold=True), Apart()])
def test_a_group_whose_members_are_not_known_purges_nothing(
    grouped: Callable[..., Grouped], common: Members | Apart
) -> None:
    a = grouped()
    made = a.create()
    made.put(b"k", b"v")
    made.delete(b"k")
    a.node.store.commit()
    a.node.replica.set_purging(common)
    a.node.store.begin(NOW_MS + PURGED_MS)
    a.node.store.sweep(100)
    assert made.floors == 1
    assert a.replica.horizon() == 0


def test_a_node_without_members_purges_all_its_groups(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    made.put(b"k", b"v")
    made.delete(b"k")
    a.node.store.commit()
    a.node.store.begin(NOW_MS + PURGED_MS)
    a.node.store.sweep(100)
    assert made.floors == 0


def test_a_failed_sweep_raises_no_horizon_in_any_group(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    made.put(b"k", b"v")
    made.delete(b"k")
    a.node.store.commit()
    a.replica.set_purging(Members(hold=True))
    a.node.store.begin(NOW_MS + PURGED_MS)
    a.node.store.poison("a test")
    with pytest.raises(Aborted):
        a.node.store.sweep(100)
    assert (a.replica.floors(), a.replica.horizon()) == (VersionVector(), 0)


def test_a_value_that_is_wanted_back_is_asked_for_in_its_group(grouped: Callable[..., Grouped]) -> None:
    a = grouped()
    made = a.create()
    a.node.replica.set_purging(Members())
    a.replica.set_purging(Members())
    made.put(b"k", b"v", NOW_MS + 10)
    a.node.store.commit()
    (run,) = a.replica.take_fresh()
    a.node.store.begin(NOW_MS + 20)
    a.node.store.sweep(100)
    later = run.changes[1]._replace(seq=1, hlc=run.changes[1].hlc + 1, content=NOW_MS + PURGED_MS * 9)
    a.replica.apply(run_of(later, origin=draw_id(3, entropy_of(b"other"))))
    a.node.store.commit()
    assert [place for place, _ in a.replica.bodyless()] == [made.id + b"k"]
    assert a.node.replica.bodyless() == []


# Namespaces of groups that are elsewhere.


def test_a_namespace_that_is_not_carried_is_known_and_closed(nodes: Nodes) -> None:
    a, b = Grouped(nodes, b"a"), nodes(b"b", options=attrs.evolve(GROUPS, groups=frozenset()))
    made = a.create()
    made.put(b"k", b"v")
    a.node.store.commit()
    b.sync_from(a.node)
    found = b.store.keyspaces.find("three")
    assert found is not None
    assert (found.id, found.count) == (made.id, 0)
    tries: list[Callable[[], object]] = [
        lambda: found.get(b"k"),
        lambda: found.put(b"k", b"v"),
        lambda: found.delete(b"k"),
        found.flush,
        lambda: found.scan(b"", None, 10),
        found.random_key,
        lambda: b.store.keyspaces.delete(found.id),
        lambda: b.store.keyspaces.create("mine", group=3),
    ]
    for attempt in tries:
        with pytest.raises(GroupNotCarried):
            attempt()
        assert not b.store.dirty
    b.store.flush_all()
    b.store.commit()
    assert b.store.keyspaces.find("three") is found
    b.store.keyspaces.rename(found.id, "drei")
    b.store.commit()
    nodes.reopen(b, b"b")
    again = b.store.keyspaces.find("drei")
    assert again is not None
    with pytest.raises(GroupNotCarried):
        again.get(b"k")


def test_a_reverted_registry_leaves_what_is_not_carried_closed(nodes: Nodes) -> None:
    a, b = Grouped(nodes, b"a"), nodes(b"b")
    a.create()
    b.sync_from(a.node)
    b.store.keyspaces.create("else")
    b.store.poison("a test")
    with pytest.raises(Aborted):
        b.store.commit()
    found = b.store.keyspaces.find("three")
    assert found is not None
    with pytest.raises(GroupNotCarried):
        found.get(b"k")


def test_a_deleted_namespace_of_a_group_is_gone_where_it_is_carried(grouped: Callable[..., Grouped]) -> None:
    a, b = grouped(b"a"), grouped(b"b")
    made = a.create()
    made.put(b"k", b"v")
    a.node.store.commit()
    with a.node.store.atomic():
        a.node.store.keyspaces.delete(made.id)
    a.node.store.commit()
    for run in a.replica.take_fresh():
        b.replica.apply(run)
    b.node.sync_from(a.node)
    assert b.node.store.keyspaces.find("three") is None
    assert b.node.store.keyspaces.obtain(made.id).count == 0
    assert findings(b.node.store) == []


def test_an_index_of_members_does_not_show_other_groups(grouped: Callable[..., Grouped]) -> None:
    """Opaque kinds lie in a family of their own, which every walk goes through as well."""
    a = grouped()
    origin = draw_id(3, entropy_of(b"other"))
    made = a.create()
    cells = [dot(seq, kind=70, place=made.id + b"k", sub=b"%d" % seq, content=b"x") for seq in (1, 2)]
    a.replica.apply(run_of(*cells, origin=origin))
    a.node.store.commit()
    assert len(list(a.node.store.engine.iterate(Family.MEMBERS))) == 2
    for replica, count in ((a.replica, 2), (a.node.replica, 0)):
        assert len([one for one in walked_changes(replica) if one.kind == 70]) == count
        missing = [
            one for run in unlisted(replica, b"", END_OF_PLACES, []) for one in run.changes if one.kind == 70
        ]
        assert len(missing) == count


def test_a_walk_reads_the_rows_of_its_group_alone(
    grouped: Callable[..., Grouped], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small group beside a large one costs what is in it: a slice of a walk is one step, and clients wait for it."""
    a = grouped()
    made = a.create()
    a.replica.apply(run_of(dot(1, kind=70, place=made.id + b"k", content=b"x"), origin=draw_id(3, bytes)))
    for number in range(50):
        a.node.put(b"%d" % number, b"v")
    common = [dot(seq, kind=70, place=bytes(16) + b"%d" % seq, content=b"x") for seq in range(1, 51)]
    a.node.replica.apply(run_of(*common, origin=entropy_of(b"common")(16)))
    made.put(b"k", b"v")
    a.node.store.commit()
    read: list[bytes] = []

    def watch(reader: Any) -> None:
        iterate = reader.iterate

        def watched(family: Family, *bounds: bytes | None) -> Iterator[tuple[bytes, bytes]]:
            for key, row in iterate(family, *bounds):
                if family in {Family.RECORDS, Family.MEMBERS}:
                    read.append(key)
                yield key, row

        monkeypatch.setattr(reader, "iterate", watched)

    watch(a.node.store.engine)
    feed = a.replica.feed()
    assert isinstance(feed, SnapshotFeed)
    watch(feed._snapshot)
    assert [change.kind for _, runs in feed.runs_by_place(b"") for run in runs for change in run.changes]
    feed.close()
    assert unlisted(a.replica, b"", END_OF_PLACES, [])
    assert read
    assert {group_of(key) for key in read} == {3}


def test_a_vector_is_made_anew_when_its_group_has_changed_and_not_before(
    grouped: Callable[..., Grouped],
) -> None:
    """There may be many groups, each with many origins, and every commit is followed by a look at the vectors."""
    a = grouped()
    made = a.create()
    made.put(b"k", b"v")
    a.node.store.commit()
    three, common = a.replica.vector(), a.node.replica.vector()
    a.node.put(b"k", b"v")
    a.node.store.commit()
    assert a.replica.vector() is three
    assert a.node.replica.vector() != common
    common = a.node.replica.vector()
    made.put(b"k", b"w")
    a.node.store.commit()
    assert a.replica.vector() != three
    assert a.node.replica.vector() is common
    three = a.replica.vector()
    other = draw_id(3, entropy_of(b"other"))
    a.replica.apply(run_of(dot(1, place=made.id + b"l"), origin=other))
    a.node.store.commit()
    assert a.replica.vector() == three.merged({other: 1})
    a.replica.cover({other: 5}, {}, 0)
    a.node.store.commit()
    assert a.replica.vector() == three.merged({other: 5})
    assert a.node.replica.vector() is common
