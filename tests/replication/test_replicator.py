"""Whole replicators over models of a store: writes spread, gaps close, nothing comes back."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from replication import messages as m
from replication.options import Options
from replication.rejoin import HasOwnData, Standing, WrongCluster
from replication.replicator import Replicator
from replication.shapes import SEQ_MAX
from replication.vectors import CLOSED
from replication.verification import Outcome, differ
from replication.writers import RUN
from storage.changes import INLINE_BYTES_MAX, Change, Kind, Lane, Run, Stamp
from tests.replication.lab import FAST, Lab, Node, contents, is_equal, place, ready
from tests.replication.model_replica import ModelReplica


@pytest.fixture
def three() -> Lab:
    return ready(Lab("a", "b", "c"))


def test_a_write_reaches_all(three: Lab) -> None:
    three["a"].put("key", "1")
    three.run(0.05)
    assert three["b"].get("key") == three["c"].get("key") == b"1"


def test_in_a_full_mesh_nobody_relays(three: Lab) -> None:
    three["a"].put("key", "1")
    three.run(0.1)
    pushed = [push for push in three.messages("b", "c", m.Push) if push.run.changes[0].place == place("key")]
    assert not pushed


def test_the_newer_write_wins_whoever_hears_it_last(three: Lab) -> None:
    three["a"].put("key", "old")
    three.run(0.01)
    three["b"].put("key", "new")
    three.run(0.1)
    assert [three[name].get("key") for name in "abc"] == [b"new"] * 3
    assert is_equal([three[name] for name in "abc"])


def test_what_crosses_a_cut_link_arrives_by_the_third(three: Lab) -> None:
    three.cut(three.wire("a", "c"))
    three["a"].put("key", "1")
    three.run(3.0)
    assert three["c"].get("key") == b"1"


def test_after_a_repair_the_third_relays_no_more(three: Lab) -> None:
    three.cut(three.wire("a", "c"))
    three["a"].put("key", "1")
    three.run(3.0)
    assert any(mode.eager for mode in three.messages("c", "b", m.LinkMode))
    three.wires.insert(0, three.link("a", "c"))
    three.wires.pop()
    three.run(1.0)
    for number in range(8):
        three["a"].put(f"key{number}", "1")
        three.run(0.1)
    assert not three.messages("c", "b", m.LinkMode)[-1].eager


def test_a_lost_push_is_pulled(three: Lab) -> None:
    lost: list[m.Message] = []

    def drops(sender: Node, message: m.Message) -> bool:
        is_first = isinstance(message, m.Push) and not lost and sender.name == "a"
        if is_first:
            lost.append(message)
        return is_first

    three.wire("a", "b").drops = drops
    three["a"].put("first", "1")
    three.run(0.02)
    three["a"].put("second", "2")
    three.run(1.0)
    assert lost
    assert three["b"].get("first") == b"1"
    assert three["b"].get("second") == b"2"
    assert three.messages("b", "a", m.Pull)


def test_a_covered_dot_is_dropped_without_looking_at_its_stamp(three: Lab) -> None:
    a, b = three["a"], three["b"]
    a.put("key", "1")
    three.run(0.1)
    origin = a.replica.origin(Lane.SMALL)
    assert origin is not None
    forged = Change(1, a.replica.hlc + 1, Kind.VALUE, place("key"), b"again")
    flow = b.replicator.dissemination.flows[a.id]
    b.replicator.dissemination.offer(Run(origin, 0, 1, [forged]), flow)
    assert b.get("key") == b"1"


def test_runs_out_of_order_are_parked_until_they_join(three: Lab) -> None:
    a, b = three["a"], three["b"]
    flow = b.replicator.dissemination.flows[a.id]
    origin = b"o" * 16

    def run(seq: int) -> Run:
        return Run(
            origin,
            seq - 1,
            seq,
            [Change(seq, (three.wall_ms() << 16) + seq, Kind.VALUE, place(f"k{seq}"), b"v")],
        )

    b.replicator.dissemination.offer(run(3), flow)
    b.replicator.dissemination.offer(run(2), flow)
    assert b.replica.covered(origin) == 0
    b.replicator.dissemination.offer(run(1), flow)
    assert b.replica.covered(origin) == 3


def test_an_origin_from_the_future_waits_and_goes_on_by_itself(three: Lab) -> None:
    a, b = three["a"], three["b"]
    a.replica.observe((three.wall_ms() + 70_000) << 16)
    a.put("key", "future")
    three["c"].put("other", "now")
    three.run(1.0)
    assert b.get("key") is None
    assert b.get("other") == b"now"
    assert b.replicator.dissemination.held
    three.run(30.0, 0.1)
    assert b.get("key") == b"future"
    assert not b.replicator.dissemination.held


def test_a_slow_peer_is_left_behind_and_comes_back_by_a_sync() -> None:
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, queue_bytes_max=10_000)))
    wire = lab.wire("a", "b")
    lab.wires.remove(wire)  # nothing is read any more
    for number in range(30):
        lab["a"].put(f"key{number}", "x" * 1000)
        lab.run(0.01)
    flow = lab["a"].replicator.dissemination.flows[lab["b"].id]
    assert flow.behind
    assert flow.link.data_bytes <= 20_000
    lab.wires.append(wire)
    lab.run(3.0)
    assert is_equal([lab["a"], lab["b"]])
    assert not flow.behind


def test_a_peer_whose_data_others_have_dropped_is_pushed_to_again_soon() -> None:
    """Groups share a queue. One that lost nothing by it has nothing that its peer would miss, and ask a sync for."""
    lab = ready(Lab("a", "b"))
    a, b = lab["a"], lab["b"]
    a.replicator.common.data_cleared(b.id)
    flow = a.replicator.dissemination.flows[b.id]
    assert flow.behind
    lab.run(2.0)
    assert not flow.behind


# --- syncs


def test_a_node_that_was_away_gets_what_it_missed_and_only_that(three: Lab) -> None:
    for wire in [three.wire("a", "b"), three.wire("b", "c")]:
        three.cut(wire)
    for number in range(50):
        three["a"].put("same", f"{number}")
    three["a"].put("other", "x")
    three.run(0.5)
    three.link("a", "b")
    three.run(1.0)
    assert three["b"].get("same") == b"49"
    sent = [
        change
        for batch in three.messages("a", "b", m.SyncBatch)
        for run in batch.runs
        for change in run.changes
    ]
    assert sum(change.place == place("same") for change in sent) <= 1


def test_a_sync_that_breaks_grants_nothing(three: Lab) -> None:
    for wire in [three.wire("a", "b"), three.wire("b", "c")]:
        three.cut(wire)
    three["a"].put("key", "1")
    three.run(0.2)
    before = three["b"].replica.vector()
    wire = three.link("a", "b")
    wire.drops = lambda sender, message: isinstance(message, m.SyncEnd | m.Push)
    three.run(1.0)
    assert three["b"].get("key") == b"1"
    assert three["b"].replica.vector() == before
    assert three["b"].replica.is_partial()


def test_a_sync_that_lost_a_batch_grants_nothing(three: Lab) -> None:
    for wire in [three.wire("a", "b"), three.wire("b", "c")]:
        three.cut(wire)
    three["a"].put("key", "1")
    three.run(0.2)
    before = three["b"].replica.vector()
    wire = three.link("a", "b")
    wire.drops = lambda sender, message: isinstance(message, m.SyncBatch | m.Push)
    three.run(0.3)
    assert three["b"].replica.vector() == before


def test_large_values_follow_their_change(three: Lab) -> None:
    value = bytes(range(256)) * (INLINE_BYTES_MAX // 64)
    three["a"].put("large", value)
    three.run(1.0)
    assert three["b"].get("large") == three["c"].get("large") == value
    pushed = [change for push in three.messages("a", "b", m.Push) for change in push.run.changes]
    assert [change.content for change in pushed if change.place == place("large")] == [len(value)]


def test_large_values_come_by_a_sync_as_well(three: Lab) -> None:
    for wire in [three.wire("a", "b"), three.wire("b", "c")]:
        three.cut(wire)
    value = b"v" * (INLINE_BYTES_MAX * 3 + 1)
    three["a"].put("large", value)
    three["a"].put("small", "1")
    three.run(0.5)
    three.link("a", "b")
    three.run(1.0)
    assert three["b"].get("large") == value
    assert three["b"].get("small") == b"1"
    assert is_equal([three["a"], three["b"]])


# --- stability


def test_time_settles_on_all_members_while_nobody_writes(three: Lab) -> None:
    three.run(2 * FAST.settle_interval, 0.05)
    moment = three.wall_ms() << 16
    assert three["a"].replicator.stability.settled_hlc < moment
    three.run(2 * FAST.settle_interval + FAST.purge_interval, 0.05)
    assert [three[name].replicator.stability.settled_hlc >= moment for name in "abc"] == [True] * 3


def test_what_a_member_may_have_written_while_it_was_away_is_not_settled(three: Lab) -> None:
    for wire in [three.wire("a", "c"), three.wire("b", "c")]:
        three.cut(wire)
    moment = three.wall_ms() << 16
    three["c"].put("key", "1")
    three.run(3 * FAST.settle_interval, 0.05)
    assert three["a"].replicator.stability.settled_hlc < moment
    three.link("a", "c")
    three.run(3 * FAST.settle_interval, 0.05)
    assert three["a"].replicator.stability.settled_hlc >= moment
    assert three["a"].get("key") == b"1"


def test_a_settled_clock_value_survives_a_restart_with_a_clock_that_is_behind(three: Lab) -> None:
    three.run(2 * FAST.settle_interval, 0.05)
    a = three["a"]
    settled = a.replicator.vectors.settled_hlc
    assert settled
    for wire in [three.wire("a", "b"), three.wire("a", "c")]:
        three.cut(wire)
    a.replica.hlc = 0
    three.now -= 3 * FAST.settle_interval
    again = three.start("a", a.replica, founds=False)
    again.put("key", "1")
    assert again.replica.hlc > settled


def test_a_member_that_does_not_settle_is_named(three: Lab) -> None:
    c = three["c"]
    three.run(2 * FAST.settle_interval, 0.05)
    c.replicator.core.make_durable = lambda then: None
    three.run(2 * FAST.settle_interval, 0.05)
    assert three["a"].replicator.stability.blocked_by == []
    three.run(3 * FAST.settle_interval, 0.05)
    assert three["a"].replicator.stability.blocked_by == [c.id]


def test_nothing_is_settled_before_it_is_durable(three: Lab) -> None:
    a = three["a"]
    three.run(2 * FAST.settle_interval, 0.05)
    waiting: list[Any] = []
    a.replicator.core.make_durable = waiting.append
    before = a.replicator.vectors.settled_hlc
    three.run(2 * FAST.settle_interval, 0.05)
    assert a.replicator.vectors.settled_hlc == before
    for then in waiting:
        then()
    assert a.replicator.vectors.settled_hlc > before


def test_deletions_are_purged_once_all_members_have_them(three: Lab) -> None:
    three["a"].put("key", "1")
    three["a"].delete("key")
    three.run(5.0)
    assert [three[name].replica.purge() for name in "abc"] == [1, 1, 1]


def test_a_member_that_is_away_keeps_deletions_from_being_purged(three: Lab) -> None:
    for wire in [three.wire("a", "b"), three.wire("b", "c")]:
        three.cut(wire)
    three["a"].put("key", "1")
    three["a"].delete("key")
    three.run(5.0)
    assert three["a"].replica.purge() == 0
    three.link("a", "b")
    three.run(5.0)
    assert three["a"].replica.purge() == 1


def test_nothing_is_purged_before_this_node_has_all_that_others_had(three: Lab) -> None:
    a, b = three["a"], three["b"]
    a.delete("key")
    three.run(0.5)
    older = b"o" * 16
    b.replica.apply(Run(older, 0, 1, [Change(1, 5, Kind.VALUE, place("other"), b"old")]))
    three.wire("a", "b").drops = lambda sender, message: isinstance(message, m.SyncBatch | m.SyncEnd | m.Push)
    three.wire("a", "c").drops = three.wire("a", "b").drops
    b.replicator.dissemination.advanced(older)
    three.run(10.0, 0.05)
    floor = a.replica.cells[place("key"), Kind.FLOOR, b""][0]
    assert not a.replicator.stability.covers(floor.origin, floor.seq + 1)


def test_closed_origins_are_sealed_and_left_out_of_vectors() -> None:
    lab = ready(Lab("a", "b"))
    lab["b"].put("key", "1")
    lab.run(0.5)
    former = lab["b"].replica.origin(Lane.SMALL)
    assert former is not None
    lab.cut(lab.wire("a", "b"))
    replica = lab["b"].replica
    replica.rotate()
    lab.start("b", replica, founds=False)
    lab.link("a", "b")
    lab.run(6.0)
    assert former in lab["a"].replicator.vectors.sealed
    assert former in lab["b"].replicator.vectors.sealed
    lab.cut(lab.wire("a", "b"))
    lab.link("a", "b")
    lab.run(2.0)
    full = lab.messages("a", "b", m.Vector)[0]
    assert former not in full.vector
    assert full.sealed_count == 1
    assert lab["b"].replicator.vectors.known[lab["a"].id].vector[former]


def test_the_records_of_closed_origins_are_read_when_one_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They grow in number with every start of a node, and every epoch of every group looks at them."""
    lab = ready(Lab("a", "b"))
    lab.run(5.0)
    replica = lab["a"].replica
    read: list[bytes] = []
    list_system = replica.list_system

    def watched(prefix: bytes) -> list[tuple[bytes, bytes, Stamp]]:
        read.append(prefix)
        return list_system(prefix)

    monkeypatch.setattr(replica, "list_system", watched)
    lab.run(10.0)
    assert CLOSED not in read
    replica.put_system(CLOSED + bytes(16), b"")
    lab["a"].replicator.after_commit()
    lab.run(5.0)
    assert read.count(CLOSED) == 1


# --- joining and coming back


def test_a_new_node_takes_over_everything_and_becomes_a_member() -> None:
    lab = Lab("a")
    for number in range(100):
        lab["a"].put(f"key{number}", f"{number}")
    lab["a"].delete("key7")
    lab.run(3.0)
    lab["a"].replica.purge()
    lab.add("b")
    assert lab["b"].replicator.refusal(lab.now) is not None
    lab.link("a", "b")
    lab.run(2.0)
    assert lab["b"].replicator.rejoin.standing == Standing.READY
    assert contents(lab["b"]) == contents(lab["a"])
    assert lab["b"].get("key7") is None
    assert lab["a"].replicator.roster.members() == sorted([lab["a"].id, lab["b"].id])


def test_a_full_sync_goes_on_at_another_server() -> None:
    options = attrs.evolve(FAST, sync_batch_bytes=20_000)
    lab = ready(Lab("a", "b", options=options))
    for number in range(300):
        lab["a"].put(f"key{number:03}", "x" * 2000)
    lab.run(1.0)
    lab.add("c", options=attrs.evolve(FAST, sync_credit_bytes=20_000, sync_batch_bytes=20_000))
    wire = lab.link("a", "c")
    wire.drops = lambda sender, message: isinstance(message, m.Credit)  # one batch, and no more
    lab.run(1.0)
    lab.cut(wire)
    walk = lab["c"].replicator.syncs.walk
    assert walk is not None
    reached = walk.cursor
    assert reached > b""
    lab.link("b", "c")
    lab.run(5.0)
    first = lab.messages("c", "b", m.SyncRequest)[0]
    assert first.full
    assert first.cursor == reached
    assert is_equal([lab[name] for name in "abc"])


def test_a_node_from_the_past_syncs_anew_and_its_unseen_writes_are_set_aside() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab["a"].put("key", "1")
    lab.run(0.5)
    for wire in [lab.wire("a", "c"), lab.wire("b", "c")]:
        lab.cut(wire)
    lab["c"].put("unseen", "c alone")
    # The others forget c, delete, and purge; c is told nothing.
    a, b = lab["a"], lab["b"]
    a.delete("key")
    lab.run(0.5)
    for node in (a, b):
        floor, _ = node.replica.cells.pop((place("key"), int(Kind.FLOOR), b""))
        node.replica.cover({}, {floor.origin: floor.seq}, floor.hlc)
    lab.link("a", "c")
    lab.run(5.0)
    c = lab["c"]
    assert c.get("key") is None
    assert [change.place for _, change in c.dead_letters] == [place("unseen")]
    assert c.get("unseen") is None
    assert c.rotations
    assert c.replicator.rejoin.standing == Standing.READY
    assert a.get("key") is None


def test_what_another_node_from_the_past_wrote_is_set_aside_as_well() -> None:
    lab = ready(Lab("a", "b", "c", "d"))
    lab["a"].put("key", "1")
    lab.run(0.5)
    for pair in ("ac", "ad", "bc", "bd"):
        lab.cut(lab.wire(*pair))
    lab["d"].put("strange", "of d")
    lab.run(0.5)
    assert lab["c"].get("strange") == b"of d"
    a, b, c = lab["a"], lab["b"], lab["c"]
    a.delete("key")
    lab.run(0.5)
    for node in (a, b):
        floor, _ = node.replica.cells.pop((place("key"), int(Kind.FLOOR), b""))
        node.replica.cover({}, {floor.origin: floor.seq}, floor.hlc)
    lab["d"].put("later", "of d")  # above the horizon: it hides nothing
    lab.run(0.5)
    lab.cut(lab.wire("c", "d"))
    lab.link("a", "c")
    lab.run(5.0)
    assert c.replicator.rejoin.standing == Standing.READY
    assert [change.place for _, change in c.dead_letters] == [place("strange")]
    assert [node.get("strange") for node in (a, b, c)] == [None] * 3
    assert [node.get("later") for node in (a, b, c)] == [b"of d"] * 3


@pytest.mark.parametrize("first", ["a", "b"])
def test_members_that_all_come_back_from_the_past_do_not_wait_for_each_other(first: str) -> None:
    lab = ready(Lab("a", "b"))
    other = lab["b" if first == "a" else "a"]
    lab.cut(lab.wire("a", "b"))
    lab[first].put("key", "1")
    if first == "b":  # it has purged what the other lacks
        replica = lab["b"].replica
        replica.cover({}, replica.vector(), 0)
    for node in lab.nodes.values():
        node.replicator.rejoin.enter(Standing.REJOINING)
        node.replicator.after_commit()
    lab.link("a", "b")
    lab.run(2 * FAST.start_gate)
    assert {node.replicator.rejoin.standing for node in lab.nodes.values()} == {Standing.REJOINING}
    lab.run(FAST.start_gate)
    assert lab[first].replicator.rejoin.standing == Standing.READY
    lab.run(2.0)
    assert other.replicator.rejoin.standing == Standing.READY
    assert contents(lab["a"]) == contents(lab["b"])


def test_nobody_goes_first_while_a_member_is_not_heard() -> None:
    lab = ready(Lab("a", "b", "c"))
    for wire in [lab.wire("a", "c"), lab.wire("b", "c")]:
        lab.cut(wire)
    for name in "ab":
        lab[name].replicator.rejoin.enter(Standing.REJOINING)
        lab[name].replicator.after_commit()
    lab.run(10 * FAST.start_gate, 0.05)
    assert lab["a"].replicator.rejoin.standing == Standing.REJOINING
    lab.link("b", "c")
    lab.run(1.0)
    assert lab["b"].replicator.rejoin.standing == Standing.READY


def test_what_was_purged_is_dropped_at_once_if_there_is_much_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from replication import unlisted

    monkeypatch.setattr(unlisted, "_UNLISTED_MAX", 3)
    lab = ready(Lab("a", "b"))
    for number in range(20):
        lab["a"].put(f"key{number:02}", "1")
    lab.run(0.5)
    lab.cut(lab.wire("a", "b"))
    for number in range(10):
        lab["a"].delete(f"key{number:02}")
    for number in range(10):
        lab["a"].replica.cells.pop((place(f"key{number:02}"), int(Kind.FLOOR), b""))
    lab["b"].replicator.rejoin.enter(Standing.REJOINING)
    lab["b"].replicator.after_commit()
    lab.link("a", "b")
    lab.run(2.0)
    assert lab["b"].replicator.rejoin.standing == Standing.READY
    assert contents(lab["b"]) == contents(lab["a"])
    assert len(contents(lab["b"])) == 10


def test_stale_writes_are_written_anew_if_so_told() -> None:
    options = attrs.evolve(FAST, stale_writes="replay")
    lab = ready(Lab("a", "b", options=options))
    lab["a"].put("key", "1")
    lab.run(0.5)
    lab.cut(lab.wire("a", "b"))
    lab["b"].put("unseen", "b alone")
    lab["a"].delete("key")
    floor, _ = lab["a"].replica.cells.pop((place("key"), int(Kind.FLOOR), b""))
    lab["a"].replica.cover({}, {floor.origin: floor.seq}, floor.hlc)
    lab.link("a", "b")
    lab.run(5.0)
    assert lab["a"].get("unseen") == b"b alone"
    assert not lab["b"].dead_letters


def test_the_members_are_read_again_only_if_their_records_have_changed(three: Lab) -> None:
    a, b, c = (three[name] for name in "abc")
    version, system_version = b.replicator.roster.version, b.replica.system_version
    bulk = b"o" * 16
    a.replica.put_system(RUN + a.id, m.encode_record({"bulk": bulk}))
    a.put("key", "1")
    three.run(1.0)
    assert b.replicator.writers.writer_of(bulk) == a.id
    assert b.replica.system_version > system_version
    assert b.replicator.roster.version == version
    a.replicator.roster.remove(c.id)
    a.replicator.after_commit()
    a.replicator.committed(three.now)
    a.due = 0.0
    three.run(1.0)
    assert b.replicator.roster.version > version
    assert b.replicator.roster.is_removed(c.id)


def test_a_cut_is_told_with_the_vectors_and_written_down_by_who_hears_it(three: Lab) -> None:
    """Its record may be among what everybody has to catch up with first, and then nobody would begin."""
    origin = bytes(16)
    three["a"].replicator.cuts.on_told({origin: 5, b"\1" * 16: 0})
    three["a"].replicator.cuts.on_told({origin: 6})
    three.run(3.0)
    cuts = [three[name].replicator.cuts for name in "abc"]
    assert [dict(one.all()) for one in cuts] == [{origin: 4}] * 3
    assert not any(one.unwritten() for one in cuts)


def test_a_member_that_makes_cuts_up_is_not_remembered_without_end(three: Lab) -> None:
    cuts = three["a"].replicator.cuts
    cuts.on_told({bytes(16): 5})
    for first in range(1, 4000, 500):
        cuts.on_told({(first + index).to_bytes(16, "big"): 7 for index in range(500)})
    assert len(cuts.all()) == 501
    assert cuts.limit(bytes(16)) == 4


def test_a_removed_node_is_told_so_and_reaches_nobody() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab["a"].replicator.roster.remove(lab["c"].id)
    lab["a"].replicator.after_commit()
    lab["a"].replicator.committed(lab.now)
    lab["a"].due = 0.0
    lab.run(1.0)
    assert lab["c"].replicator.rejoin.standing == Standing.REMOVED
    assert "removed" in (lab["c"].replicator.refusal(lab.now) or "")
    reject = lab["b"].replicator.admit(lab["c"].replicator.hello(bytes(32)))
    assert reject is not None
    assert reject.code == m.Refusal.REMOVED


def test_nodes_that_all_wait_for_each_other_found_a_cluster() -> None:
    options = attrs.evolve(FAST, join=("x:1", "y:1", "z:1"))
    lab = Lab(options=options)
    for name, address in zip("abc", options.join, strict=True):
        lab.add(name, founds=False, options=attrs.evolve(options, addresses=(address,)))
    lab.link_all()
    lab.run(5.0)
    assert all(lab[name].replicator.rejoin.standing == Standing.READY for name in "abc")
    lab["b"].put("key", "1")
    lab.run(1.0)
    assert lab["c"].get("key") == b"1"


def test_a_new_node_does_not_found_a_cluster_while_one_to_be_joined_is_silent() -> None:
    options = attrs.evolve(FAST, join=("seed:1", "y:1"))
    lab = Lab(options=options)
    for name in "ab":
        lab.add(name, founds=False)
    lab.link_all()
    lab.run(10.0, 0.05)
    assert [lab[name].replicator.rejoin.standing for name in "ab"] == [Standing.JOINING] * 2


def test_a_sync_keeps_to_its_rate() -> None:
    options = attrs.evolve(FAST, sync_rate_max=50_000, sync_batch_bytes=10_000)
    lab = Lab("a", options=options)
    for number in range(100):
        lab["a"].put(f"key{number:03}", "x" * 1000)
    lab.add("b")
    lab.link("a", "b")
    lab.run(1.0)
    walk = lab["b"].replicator.syncs.walk
    assert walk is not None
    assert 30_000 <= walk.bytes <= 80_000
    lab.run(3.0)
    assert is_equal([lab["a"], lab["b"]])


def test_data_of_another_cluster_or_of_none_is_not_mixed_in() -> None:
    lab = Lab("a")
    lab["a"].put("key", "1")
    replica = lab["a"].replica
    replica.put_local("cluster_id", b"another cluster!")
    with pytest.raises(WrongCluster, match="reseed"):
        lab.start("a", replica, founds=True)
    alone = ModelReplica(b"n" * 16)
    alone.put(place("key"), b"own")
    with pytest.raises(HasOwnData, match="empty"):
        lab.start("n", alone, founds=False)


# --- verification, publishing


def test_more_origins_than_a_frame_holds_do_not_stop_replication() -> None:
    lab = Lab("a")
    many = {b"old" + number.to_bytes(13, "big"): SEQ_MAX for number in range(45_000)}
    lab["a"].replica.cover(many, {}, 0)
    lab.add("b")
    lab.link("a", "b")
    lab.run(1.0, 0.1)
    assert lab["b"].replicator.rejoin.standing == Standing.READY
    assert lab["b"].replica.vector().covers(many)
    lab["a"].put("key", "1")
    lab.run(0.3, 0.1)
    assert lab["b"].get("key") == b"1"
    assert lab["a"].replicator.vectors.known[lab["b"].id].vector.covers(many)


def test_members_that_hold_the_same_verify_as_equal(three: Lab) -> None:
    three["a"].put("key", "1")
    three.run(0.5)
    outcomes: list[object] = []
    three["a"].replicator.verification.verify(three["b"].id, outcomes.append)
    three.run(1.0)
    assert [getattr(outcome, "equal", None) for outcome in outcomes] == [True]


def test_a_digest_comes_in_parts_one_a_turn(three: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replication.verification._DIGEST_PART", 4)
    for number in range(10):
        three["a"].put(f"key{number}", "1")
    three.run(0.5)
    del three["b"].replica.cells[place("key7"), int(Kind.VALUE), b""]
    outcomes: list[Outcome] = []
    three["b"].replicator.verification.verify(three["a"].id, outcomes.append)
    three.run(2.0)
    parts = three.messages("a", "b", m.Digest)
    assert len(parts) >= 3
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert max(len(part.buckets) for part in parts) == 4 * 18
    assert [(outcome.equal, outcome.differences) for outcome in outcomes] == [(False, 1)]
    assert three["b"].get("key7") == b"1"


def test_a_digest_that_has_lost_parts_is_not_taken_for_whole(
    three: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the buckets that seem to differ only the first are looked at: what differs may be among the others."""
    monkeypatch.setattr("replication.verification._DIGEST_PART", 4)
    monkeypatch.setattr("replication.verification._BUCKETS_MAX", 4)
    a, b, wire = three["a"], three["b"], three.wire("a", "b")
    for number in range(40):
        a.put(f"key{number}", "1")
    three.run(0.5)
    for cell in [cell for cell in b.replica.cells if cell[0] == place("key30")]:
        del b.replica.cells[cell]
    outcomes: list[Outcome] = []
    b.replicator.verification.verify(a.id, outcomes.append)
    while not three.messages("b", "a", m.DigestRequest):
        three.run(0.01)
    three.wires.remove(wire)
    three.run(0.05)
    link = a.replicator.dissemination.flows[b.id].link
    assert link.data_bytes
    link.clear_data()
    a.replicator.common.data_cleared(b.id)
    three.wires.append(wire)
    three.run(FAST.sync_timeout + 5.0, 0.05)
    assert [outcome.equal for outcome in outcomes] == [None]


def test_an_answer_that_comes_twice_does_no_harm(three: Lab) -> None:
    three["a"].put("key", "1")
    three.run(0.5)
    outcomes: list[Outcome] = []
    verification = three["b"].replicator.verification
    verification.verify(three["a"].id, outcomes.append)
    while not three.messages("b", "a", m.DigestRequest):
        three.run(0.01)
    (request,) = three.messages("b", "a", m.DigestRequest)
    for _ in range(2):
        three["a"].replicator.dissemination.flows[three["b"].id].link.send(m.Bucket(request.number, ()))
    three.run(1.0)
    assert len(outcomes) == 1


def test_answers_that_nobody_has_asked_for_do_not_make_this_node_read_on_and_on(three: Lab) -> None:
    wire = three.wire("a", "b")
    b = three["b"].replicator
    b.verification.verify(three["a"].id, lambda outcome: None)
    wire.drops = lambda sender, message: isinstance(message, m.Digest)
    while not three.messages("b", "a", m.DigestRequest):
        three.run(0.01)
    (request,) = three.messages("b", "a", m.DigestRequest)
    three.run(0.1)
    link = next(link for node, link in wire.ends if node is three["b"])
    empty = m.Bucket(request.number, ())
    b.on_messages(link, [empty] * 3, three.now)
    assert not b.verification._walks
    for _ in range(2):
        b.on_messages(link, [m.Digest(request.number, True, bytes(18)), empty, empty], three.now)
    assert len(b.verification._walks) == 1


def test_a_value_that_was_dropped_is_no_difference_and_any_other_is() -> None:
    have, dropped, other = (b"o", 1, 5, b"hash"), (b"o", 1, 5, None), (b"o", 1, 5, b"other")
    assert [
        differ(have, one) for one in (have, dropped, other, (b"o", 2, 5, None), (b"o", 1, 6, b"hash"), None)
    ] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_a_rotten_value_is_found_and_mended_everywhere(three: Lab) -> None:
    three["a"].put("key", "right")
    three.run(0.5)
    rotten = three["b"].replica
    del rotten.cells[place("key"), int(Kind.VALUE), b""]
    outcomes: list[object] = []
    three["b"].replicator.verification.verify(three["a"].id, outcomes.append)
    three.run(2.0)
    assert three["b"].get("key") == b"right"
    assert three["b"].replicator.core.counters["divergence_total"] == 1
    assert is_equal([three[name] for name in "abc"])


def test_published_messages_reach_each_node_once(three: Lab) -> None:
    three["a"].replicator.publish(b"news", b"hello", sharded=False)
    three.run(0.1)
    assert [len(three[name].published) for name in "abc"] == [0, 1, 1]


def test_claims_come_early_if_somebody_waits(three: Lab) -> None:
    three["a"].put("key", "1")
    three["a"].replicator.dissemination.ask_for_claims()
    three.step()
    three.step()
    three.step()
    assert three["a"].replicator.covering(three["a"].replica.vector()) == 2


def test_nothing_leaves_if_its_commit_failed(three: Lab) -> None:
    b: Replicator = three["b"].replicator
    link = three.wire("a", "b").ends[1][1] if three.wire("a", "b").ends[1][0] is three["b"] else None
    assert link is not None
    b.on_messages(link, [m.SyncRequest(1, False, {}, {}, 0)], three.now)
    before = list(three.wire("a", "b").carried)
    b.after_failure()
    assert link.dropped
    assert three.wire("a", "b").carried == before


# --- addresses for the next start


def with_address(name: str) -> Options:
    return attrs.evolve(FAST, addresses=(f"{name}:1",))


@pytest.fixture
def dialable() -> Lab:
    lab = Lab()
    for name in "abc":
        lab.add(name, options=with_address(name))
    return ready(lab)


def kept(lab: Lab) -> dict[bytes, tuple[str, ...]]:
    """Return the addresses that node a would begin with if its process ended now."""
    again = lab.start("a", lab["a"].replica, founds=False)
    return again.replicator.membership.hints()


def test_addresses_are_kept_soon_after_a_member_was_met(dialable: Lab) -> None:
    dialable.add("d", options=with_address("d"))
    dialable.link("a", "d")
    dialable.run(1.5)
    assert kept(dialable) == {dialable[name].id: (f"{name}:1",) for name in "bcd"}


def test_addresses_that_a_failed_commit_took_away_are_kept_by_the_next_one(dialable: Lab) -> None:
    a = dialable["a"]
    dialable.run(1.0)
    a.replica.put_local("members", None)
    a.replicator.after_failure()
    dialable.run(1.5)
    assert set(kept(dialable)) == {dialable["b"].id, dialable["c"].id}


def test_addresses_are_written_again_only_if_they_have_changed(
    dialable: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = dialable["a"]
    dialable.run(1.0)
    written: list[bytes | None] = []
    put = a.replica.put_local

    def note(name: str, value: bytes | None) -> None:
        written.extend([value] * (name == "members"))
        put(name, value)

    monkeypatch.setattr(a.replica, "put_local", note)
    version = a.replicator.membership.version
    for name in "ab":
        dialable.cut(dialable.wire(name, "c"))
    dialable.run(20.0, 0.05)  # it is found to be unreachable
    assert a.replicator.membership.version > version
    assert not written
    dialable.add("d", options=with_address("d"))
    dialable.link("a", "d")
    dialable.run(1.5)
    assert len(written) == 1
    a.replicator.roster.remove(dialable["b"].id)
    dialable.run(1.5)
    assert len(written) == 2
    assert dialable["b"].id not in kept(dialable)
