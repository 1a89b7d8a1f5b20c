"""Who belongs to the cluster: records, the end of a membership, and removal after a long absence."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.messages import encode_record
from replication.options import Options
from replication.roster import GONE, MEMBER, Roster
from storage.changes import Stamp, VersionVector
from tests.replication.mesh import Mesh, MeshNode, node_id


class Liveness:
    """Who can be reached, as the test says."""

    def __init__(self, reachable: Iterable[bytes]) -> None:
        self.reachable = list(reachable)
        self.incarnations: dict[bytes, int] = {}

    def is_reachable(self, node: bytes) -> bool:
        return node in self.reachable

    def incarnation_of(self, node: bytes) -> int:
        return self.incarnations.get(node, 0)


def cluster(count: int, *, options: Options | None = None) -> MeshNode:
    """Return a node that is the oldest member of a cluster of `count`."""
    node = Mesh().add(options=options, join=())
    for number in range(1, count):
        node.roster.admit(node_id(number), 0.0)
    return node


def ids(*numbers: int) -> list[bytes]:
    return sorted(node_id(number) for number in numbers)


def watch(node: MeshNode, seconds: float) -> None:
    end = node.mesh.now + seconds
    while node.mesh.now < end:
        at = node.roster.tick(node.mesh.now)
        assert at > node.mesh.now
        node.mesh.now = min(at, end)
    node.roster.tick(node.mesh.now)


# --- records


def test_a_node_is_always_among_its_members() -> None:
    node = Mesh().add(admit=False)
    assert node.roster.members() == [node.id]


def test_members_are_those_let_in_by_anybody() -> None:
    node = cluster(3)
    assert node.roster.members() == ids(0, 1, 2)


def test_letting_in_twice_writes_one_record() -> None:
    node = cluster(2)
    before = node.records.seq
    assert node.roster.admit(node_id(1), 0.0)
    assert node.records.seq == before


def test_the_members_are_read_again_only_after_a_change() -> None:
    node = cluster(2)
    other = node_id(7)
    assert node.roster.members() == ids(0, 1)
    node.records.take(MEMBER + other, encode_record({}), Stamp(1, b"o" * 16, 1))
    assert node.roster.members() == ids(0, 1)
    node.roster.changed()
    assert node.roster.members() == ids(0, 1, 7)


def test_who_is_gone_is_not_let_in_again() -> None:
    node = cluster(2)
    assert node.roster.remove(node_id(1))
    assert not node.roster.admit(node_id(1), 0.0)
    assert not node.roster.remove(node_id(1))
    assert node.roster.is_removed(node_id(1))


def test_a_stranger_cannot_be_removed() -> None:
    assert not cluster(2).roster.remove(node_id(9))


def test_leaving_is_not_removal() -> None:
    node = cluster(2)
    node.roster.leave()
    assert node.roster.is_gone(node.id)
    assert not node.roster.is_removed(node.id)


@pytest.mark.parametrize("value", [b"", b"\xff", encode_record({"state": 7, "by": 3}), b"\x80"])
def test_a_departure_that_cannot_be_read_still_is_one(value: bytes) -> None:
    node = cluster(2)
    node.records.take(GONE + node_id(1), value, Stamp(1, b"o" * 16, 1))
    node.roster.changed()
    assert node.roster.is_removed(node_id(1))


def test_records_with_names_of_another_shape_are_passed_over() -> None:
    node = cluster(1)
    node.records.take(MEMBER + b"short", b"", Stamp(1, b"o" * 16, 1))
    node.records.take(GONE + b"x" * 17, b"", Stamp(1, b"o" * 16, 2))
    node.roster.changed()
    assert node.roster.members() == [node.id]


# --- when a departure takes effect


def test_a_removed_member_counts_until_all_that_remain_know() -> None:
    node = cluster(3)
    node.roster.remove(node_id(1))
    assert node.roster.members() == ids(0, 1, 2)
    assert not node.roster.removal_effective(node_id(1), {})
    dot = node.roster.departure(node_id(1))
    assert dot is not None
    stamp = dot.stamp
    behind = VersionVector({stamp.origin: stamp.seq - 1})
    assert not node.roster.removal_effective(node_id(1), {node_id(2): behind})
    covered = VersionVector({stamp.origin: stamp.seq})
    assert node.roster.removal_effective(node_id(1), {node_id(2): covered})
    assert node.roster.members() == ids(0, 2)


def test_an_effective_departure_stays_so_when_somebody_joins() -> None:
    node = cluster(2)
    node.roster.remove(node_id(1))
    node.roster.settle({})
    assert node.roster.members() == [node.id]
    node.roster.admit(node_id(5), 0.0)
    assert node.roster.members() == ids(0, 5)


def test_a_later_record_of_the_same_departure_has_to_be_known_anew() -> None:
    node = cluster(3)
    node.roster.remove(node_id(1))
    first = node.roster.departure(node_id(1))
    assert first is not None
    vectors = {node_id(2): VersionVector({first.stamp.origin: first.stamp.seq})}
    node.roster.settle(vectors)
    later = Stamp(first.stamp.hlc + 1, b"o" * 16, 1)
    node.records.take(GONE + node_id(1), encode_record({"state": "removed"}), later)
    node.roster.changed()
    assert node.roster.members() == ids(0, 1, 2)
    vectors[node_id(2)] = vectors[node_id(2)].merged({later.origin: later.seq})
    node.roster.settle(vectors)
    assert node.roster.members() == ids(0, 2)


def test_a_member_that_has_not_said_what_it_covers_is_waited_for() -> None:
    node = cluster(4)
    node.roster.remove(node_id(1))
    gone = node.roster.departure(node_id(1))
    assert gone is not None
    covered = VersionVector({gone.stamp.origin: gone.stamp.seq})
    node.roster.settle({node_id(2): covered})
    assert node_id(1) in node.roster.members()


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 4))
def test_nobody_is_left_out_before_all_that_remain_cover_the_record(seqs: list[int], removed: int) -> None:
    node = cluster(4)
    target = node_id(1)
    for _ in range(removed):
        node.roster.admit(node_id(50 + node.records.seq), 0.0)
    node.roster.remove(target)
    gone = node.roster.departure(target)
    assert gone is not None
    known = dict.fromkeys(node.roster.remaining(), 0)
    for step, seq in enumerate(seqs):
        member = node.roster.remaining()[step % len(known)]
        known[member] = max(known[member], gone.stamp.seq - 2 + seq)
        node.roster.settle({m: VersionVector({gone.stamp.origin: s}) for m, s in known.items()})
        others = [s for m, s in known.items() if m != node.id]
        assert (target not in node.roster.members()) == all(s >= gone.stamp.seq for s in others)


# --- removal after a long absence

QUICK = Options(max_offline=1000.0)


def test_a_member_that_stays_away_is_removed_by_the_oldest_reachable_one() -> None:
    node = cluster(3, options=QUICK)
    node.roster.liveness = Liveness([node_id(1)])
    removed: list[bytes] = []
    node.roster.on_removed = removed.append
    watch(node, 990)
    assert removed == []
    watch(node, 50)
    assert removed == [node_id(2)]
    assert node.roster.is_removed(node_id(2))


def test_without_a_strict_majority_nobody_is_removed() -> None:
    node = cluster(4, options=QUICK)
    node.roster.liveness = Liveness([node_id(1)])
    watch(node, 5000)
    assert node.roster.members() == ids(0, 1, 2, 3)


def test_of_two_members_none_removes_the_other() -> None:
    node = cluster(2, options=QUICK)
    node.roster.liveness = Liveness([])
    watch(node, 5000)
    assert node.roster.members() == ids(0, 1)


def test_a_younger_member_leaves_it_to_an_older_one() -> None:
    node = Mesh().add(admit=False, options=QUICK)
    for number in (1, 2, 0):
        node.roster.admit(node_id(number), 0.0)
    node.roster.liveness = Liveness([node_id(1)])
    watch(node, 5000)
    assert not node.roster.departed()
    node.roster.liveness = Liveness([node_id(2)])
    watch(node, 5000)
    assert not node.roster.departed()


def test_a_member_that_was_seen_in_between_begins_anew() -> None:
    node = cluster(3, options=QUICK)
    liveness = node.roster.liveness = Liveness([node_id(1)])
    watch(node, 900)
    liveness.reachable.append(node_id(2))
    watch(node, 20)
    liveness.reachable.remove(node_id(2))
    watch(node, 900)
    assert not node.roster.departed()


def test_a_member_that_others_saw_in_between_begins_anew() -> None:
    node = cluster(3, options=QUICK)
    liveness = node.roster.liveness = Liveness([node_id(1)])
    watch(node, 900)
    liveness.incarnations[node_id(2)] = 1
    watch(node, 900)
    assert not node.roster.departed()


def test_time_that_this_node_did_not_watch_does_not_count() -> None:
    node = cluster(3, options=QUICK)
    node.roster.liveness = Liveness([node_id(1)])
    watch(node, 100)
    node.mesh.now += 100_000  # the machine was suspended
    watch(node, 100)
    assert not node.roster.departed()
    assert node.roster.absence_seconds(node_id(2)) == pytest.approx(200, abs=30)


def test_absences_are_kept_over_a_restart() -> None:
    node = cluster(3, options=QUICK)
    node.roster.liveness = Liveness([node_id(1)])
    watch(node, 700)
    roster = node.roster = Roster(node.core)
    roster.liveness = Liveness([node_id(1)])
    watch(node, 250)
    assert not roster.departed()
    watch(node, 200)
    assert roster.is_removed(node_id(2))


@given(st.binary(max_size=40))
def test_kept_absences_that_cannot_be_read_are_none(stored: bytes) -> None:
    node = cluster(3, options=QUICK)
    node.records.local["absences"] = stored
    node.roster.liveness = Liveness([node_id(1)])
    watch(node, 20)
    assert node.roster.absence_seconds(node_id(2)) <= 20


def test_of_many_absent_members_only_so_many_are_removed_that_a_majority_judges() -> None:
    node = cluster(7, options=QUICK)
    node.roster.liveness = Liveness([node_id(1), node_id(2), node_id(3)])
    watch(node, 3000)
    assert node.roster.remaining() == ids(0, 1, 2, 3)


def test_in_a_cluster_a_dead_member_is_removed_once() -> None:
    mesh = Mesh()
    options = Options(max_offline=60.0)
    for _ in range(4):
        mesh.add(options=options)
    mesh.run(5)
    mesh.kill(mesh.nodes[3])
    mesh.run(90)
    assert [node.roster.is_removed(mesh.nodes[3].id) for node in mesh.running()] == [True] * 3
    assert sum(node.records.seq for node in mesh.nodes) == 5  # four members, one removal
