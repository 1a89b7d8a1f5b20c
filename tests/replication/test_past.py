"""What must not come back, or be undone, when nodes return from the past."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from replication import messages as m
from replication.asking import Walk
from replication.rejoin import Standing
from replication.unlisted import Unlisted
from storage.changes import INLINE_BYTES_MAX, Change, Kind, Run, Stamp
from tests.replication.lab import FAST, Lab, Node, Wire, contents, place, ready
from tests.replication.test_breaks import end, standing

LARGE = b"v" * (INLINE_BYTES_MAX * 3 + 1)


def forget(node: Node, key: str) -> None:
    """Let a node forget a deletion, as if all others had told that they have it."""
    floor, _ = node.replica.cells.pop((place(key), int(Kind.FLOOR), b""))
    node.replica.cover({}, {floor.origin: floor.seq}, floor.hlc)


def purge(lab: Lab, key: str) -> None:
    """Let "a" delete a key and forget that."""
    lab["a"].delete(key)
    lab.run(0.2)
    forget(lab["a"], key)


def kept_back(wire: Wire, name: str, *kinds: type) -> list[m.Message]:
    """Keep back what a node sends of some kinds; return where it is collected."""
    late: list[m.Message] = []
    before = wire.drops

    def holds(sender: Node, message: m.Message) -> bool:
        is_late = sender.name == name and isinstance(message, kinds)
        if is_late:
            late.append(message)
        return is_late or before(sender, message)

    wire.drops = holds
    return late


def deliver(lab: Lab, wire: Wire, node: Node, late: list[m.Message]) -> None:
    """Hand a node what was kept back."""
    wire.drops = lambda sender, message: False
    node.replicator.on_messages(end(wire, node), late, lab.now)
    node.replicator.after_commit()


def comes_back(lab: Lab, from_c: Wire, late: list[m.Message]) -> None:
    """Let "b" find out from "a" that it is from the past, and what "c" has sent come when the walk is past its place."""
    b = lab["b"]
    lab["c"].replicator.syncs.may_serve = False  # it is busy: the walk is "a"'s
    from_a = lab.link("a", "b")
    ends = kept_back(from_a, "a", m.SyncEnd)
    lab.run(0.5)
    assert standing(b) == Standing.REJOINING
    assert ends
    deliver(lab, from_c, b, late)
    deliver(lab, from_a, b, ends)
    lab.link("a", "c")
    lab.run(10.0)
    assert {standing(node) for node in lab.nodes.values()} == {Standing.READY}


def of_many_batches(*names: str) -> Lab:
    """Return a lab in which all have twenty long values: a full sync shows them in as many batches."""
    lab = ready(Lab(*names, options=attrs.evolve(FAST, sync_credit_bytes=2000, sync_batch_bytes=2000)))
    for number in range(20):
        lab[names[0]].put(f"more{number:02}", "x" * 1000)
    lab.run(1.0)
    return lab


def walking_past(lab: Lab, server: str, node: Node, key: str) -> Wire:
    """Link a node with a server of which it gets a part of all, to beyond a key, and no more."""
    wire = lab.link(node.name, server)
    wire.drops = lambda sender, message: isinstance(message, m.Credit)
    lab.run(0.5)
    walk = node.replicator.syncs.walk
    assert walk is not None
    assert walk.cursor > place(key)
    return wire


def test_what_was_purged_does_not_come_back_by_a_sync_from_before() -> None:
    lab = ready(Lab("a", "b", "c"))
    for other in "ac":
        lab.cut(lab.wire("b", other))
    lab["a"].put("key", "1")
    lab.run(1.0)
    assert lab["c"].get("key") == b"1"
    lab.cut(lab.wire("a", "c"))
    purge(lab, "key")
    from_c = lab.link("b", "c")
    late = kept_back(from_c, "c", m.SyncBatch, m.SyncEnd)
    lab.run(0.2)
    assert late
    comes_back(lab, from_c, late)
    assert [node.get("key") for node in lab.nodes.values()] == [None] * 3


def test_what_was_purged_does_not_come_back_by_a_push_from_before() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab.cut(lab.wire("a", "b"))
    from_c = lab.wire("b", "c")
    late = kept_back(from_c, "c", m.BodyData)
    lab["c"].put("key", LARGE)
    lab.run(1.0)
    assert lab["a"].get("key") == LARGE
    assert lab["b"].get("key") is None
    assert late
    lab.cut(lab.wire("a", "c"))
    purge(lab, "key")
    comes_back(lab, from_c, late)
    assert [node.get("key") for node in lab.nodes.values()] == [None] * 3


def test_what_was_purged_does_not_stay_because_a_second_server_has_never_heard_of_it() -> None:
    lab = of_many_batches("a", "b", "c")
    a, b = lab["a"], lab["b"]
    for other in "ab":
        lab.cut(lab.wire(other, "c"))
    b.put("key", "1")
    lab.run(0.3)
    assert a.get("key") == b"1"
    lab.cut(lab.wire("a", "b"))
    to_c = lab.link("a", "c")
    kept_back(to_c, "a", m.SyncStart, m.SyncBatch, m.SyncEnd)
    kept_back(to_c, "c", m.Pull)
    lab.run(0.1)
    purge(lab, "key")  # "c" has got the deletion, and nothing that "b" wrote
    lab.cut(to_c)
    b.replica.rotate()
    from_a = walking_past(lab, "a", b, "key")
    assert standing(b) == Standing.REJOINING
    lab.cut(from_a)
    lab.link("b", "c")
    lab.run(1.0)
    lab.link("a", "b")
    lab.link("a", "c")
    lab.run(10.0)
    assert {standing(node) for node in lab.nodes.values()} == {Standing.READY}
    assert [node.get("key") for node in lab.nodes.values()] == [None] * 3


def test_what_a_server_has_never_seen_does_not_stay_because_another_one_knows_of_it() -> None:
    lab = of_many_batches("a", "b", "c", "w")
    a, b, c, w = (lab[name] for name in "abcw")
    a.put("key", "1")
    lab.run(0.5)
    for pair in ("ab", "bc", "aw", "cw"):
        lab.cut(lab.wire(*pair))
    w.put("key", "of the past")  # for "b" and "w" are backups
    lab.run(0.3)
    assert b.get("key") == b"of the past"
    lab.cut(lab.wire("b", "w"))
    a.delete("key")
    lab.run(0.3)
    forget(c, "key")
    lab.cut(lab.wire("a", "c"))
    lab.link("a", "w")
    lab.run(2.0)
    assert w.get("key") is None
    lab.cut(lab.wire("a", "w"))
    forget(a, "key")
    b.replica.rotate()
    from_c = walking_past(lab, "c", b, "key")
    lab.cut(from_c)
    lab.link("a", "b")
    lab.run(3.0)
    for pair in ("ac", "bc", "aw"):
        lab.link(*pair)
    lab.run(5.0)
    assert {standing(node) for node in lab.nodes.values()} == {Standing.READY}
    assert [node.get("key") for node in lab.nodes.values()] == [None] * 4


def test_an_own_write_that_the_server_covers_is_not_stale_though_it_has_not_told_so_yet() -> None:
    lab = ready(Lab("a", "b", "c"))
    a, b, c = (lab[name] for name in "abc")
    a.put("key", "1")
    lab.run(0.5)
    lab.cut(lab.wire("a", "b"))
    from_c = lab.wire("b", "c")
    kept_back(from_c, "c", m.Push, m.Vector, m.SyncStart, m.SyncBatch, m.SyncEnd)
    purge(lab, "key")
    b.put("own", "1")
    lab.run(0.05)
    assert c.get("own") == b"1"
    lab.cut(from_c)
    from_a = lab.link("a", "b")
    asked = kept_back(from_a, "b", m.SyncRequest)
    lab.run(0.05)
    told = kept_back(from_a, "a", m.Vector)
    a.replicator.syncs.want(end(lab.wire("a", "c"), a))
    lab.run(0.2)
    assert a.get("own") == b"1"
    assert standing(b) == Standing.REJOINING
    assert told
    a.replicator.on_messages(end(from_a, a), asked, lab.now)
    a.replicator.after_commit()
    lab.run(0.1)
    assert standing(b) == Standing.READY
    deliver(lab, from_a, b, told)
    lab.run(2.0)
    assert not b.dead_letters
    assert [node.get("own") for node in lab.nodes.values()] == [b"1"] * 3


def test_what_waits_for_a_vector_that_was_voided_meanwhile_waits_no_more() -> None:
    """It would be for ever: this node would settle nothing any more, nor tell what it has purged."""
    lab = ready(Lab("a", "b"))
    b = lab["b"]
    vectors = b.replicator.vectors
    lab.run(FAST.settle_interval)
    before = vectors.settled_hlc
    b.replica.power = False
    b.replica.cover({b"x" * 16: 1, b"y" * 16: 1}, {b"y" * 16: 1}, 1)
    vectors.tell_all()
    vectors.settling(vectors.settle())
    b.replica.power = True
    del b.replica._vector[b"x" * 16]  # as `Replica.cut` does
    b.put("later", "1")
    vectors.claim_less()
    lab.run(3 * FAST.settle_interval)
    assert vectors.settled_hlc > before
    assert lab["a"].replicator.vectors.known[b.id].floors[b"y" * 16] == 1


def test_of_each_place_its_own_server_judges_and_many_servers_count_as_one_in_the_end() -> None:
    walk, origin, hlc = Walk(), b"o" * 16, 100
    for number in range(200):
        walk.go_on(b"", m.SyncStart(1, {origin: 1}, {}, hlc + 1))  # it breaks at once
        walk.go_on(b"", m.SyncStart(1, {origin: number % 2}, {}, hlc * (1 - number % 2)))
        walk.cursor = number.to_bytes(2, "big")
    found = [
        walk.is_strange(Stamp(hlc, origin, 1), Change(1, hlc, Kind.VALUE, number.to_bytes(2, "big"), b""))
        for number in range(200)
    ]
    assert found == [number % 2 == 1 for number in range(63)] + [False] * 137


def test_what_a_member_wrote_is_not_undone_by_who_catches_up_from_a_node_that_had_two_servers() -> None:
    options = attrs.evolve(FAST, sync_credit_bytes=2000, sync_batch_bytes=2000)
    lab = ready(Lab("a", "b", "c", "w", options=options))
    for number in range(20):
        lab["a"].put(f"fill{number:02}", "x" * 1000)
    lab["a"].put("gone", "1")
    lab.run(1.0)
    for pair in ("aw", "bc", "ab", "cw"):
        lab.cut(lab.wire(*pair))
    lab["w"].put("key", "1")
    lab.run(0.3)
    lab.cut(lab.wire("b", "w"))  # what "b" has is a backup from now on
    lab.cut(lab.wire("a", "c"))
    lab.link("a", "w")
    lab.run(1.0)
    assert lab["a"].get("key") == b"1"
    lab.cut(lab.wire("a", "w"))
    to_c = lab.link("a", "c")
    kept_back(to_c, "a", m.SyncStart, m.SyncBatch, m.SyncEnd)
    kept_back(to_c, "c", m.Pull)
    lab.run(0.3)
    purge(lab, "gone")  # "c" has the deletion; "key", which is older, has not come to it yet
    assert lab["c"].get("gone") is None
    assert lab["c"].get("key") is None
    lab.cut(to_c)
    new = lab.add("n")
    from_a = walking_past(lab, "a", new, "fill00")
    lab.cut(from_a)
    from_c = lab.link("c", "n")
    lab.run(5.0)
    assert standing(new) == Standing.READY
    lab.cut(from_c)
    new = lab.start("n", new.replica, founds=False)  # it has not forgotten that
    lab.link("n", "b")
    lab.run(5.0)
    assert standing(lab["b"]) == Standing.REJOINING, '"n" does not cover all up to its horizon'
    lab.link("a", "n")
    lab.run(5.0)
    assert standing(lab["b"]) == Standing.READY
    assert [node.get("key") for node in (lab["a"], lab["b"], new)] == [b"1"] * 3


def test_who_waits_for_what_a_removed_member_covered_waits_no_more() -> None:
    lab = ready(Lab("a", "b", "c"))
    rejoin = lab["c"].replicator.rejoin
    walk = Walk()
    walk.go_on(lab["a"].id, m.SyncStart(1, {b"x" * 16: 7}, {}, 5, 0))
    walk.cursor = b"m"
    walk.go_on(lab["b"].id, m.SyncStart(2, {}, {}, 4, 0))
    rejoin._ahead = walk.ahead()
    new = lab.add("n")
    lab.link("c", "n")
    lab.run(3.0)
    assert standing(new) == Standing.JOINING
    lab["b"].replicator.roster.remove(lab["a"].id)
    lab.run(10.0)
    assert standing(new) == Standing.READY


def test_a_server_that_has_sent_nothing_counts_with_what_it_has_purged() -> None:
    walk, origin = Walk(), b"o" * 16
    walk.go_on(b"first", m.SyncStart(1, {origin: 7}, {}, 9))
    walk.go_on(b"second", m.SyncStart(2, {origin: 3}, {}, 5))
    ahead = walk.ahead()
    assert ahead is not None
    assert (ahead.node, ahead.horizon) == (b"first", walk.horizon)
    walk.go_on(b"first", m.SyncStart(3, {origin: 3}, {}, 9))
    assert walk.ahead() is None


def all_but_two_purged(places_at_once: int) -> Lab:
    """Return a lab in which "a" has purged 38 of 40 keys that "b" still has; they are not linked."""
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, sync_look_places=places_at_once)))
    a = lab["a"]
    for number in range(40):
        a.put(f"key{number:02}", "1")
    lab.run(0.5)
    lab.cut(lab.wire("a", "b"))
    for number in range(1, 39):
        a.delete(f"key{number:02}")
        forget(a, f"key{number:02}")
    return lab


def test_a_long_slice_is_looked_at_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = all_but_two_purged(3)
    b = lab["b"].replica
    asked: list[int] = []
    unlisted = b.unlisted

    def watched(start: bytes, end: bytes, listed: Sequence[Run], places: int) -> tuple[list[Run], bytes]:
        found, upto = unlisted(start, end, listed, places)
        asked.append(len({cell[0] for cell in b.cells if start <= cell[0] < upto}))
        return found, upto

    monkeypatch.setattr(b, "unlisted", watched)
    becomes_equal(lab)
    assert len(contents(lab["b"])) == 2
    assert max(asked) == 3
    assert len(asked) > 12


def looking() -> tuple[Lab, Wire, Walk]:
    """Return a lab in which "b" looks at what "a" has purged, and has not come to its end."""
    lab = all_but_two_purged(1)
    wire = lab.link("a", "b")
    syncs = lab["b"].replicator.syncs
    while not (walk := syncs.walk) or not walk.unlisted.slices:
        lab.run(0.01)
    return lab, wire, walk


def becomes_equal(lab: Lab) -> None:
    if not lab.wires:
        lab.link("a", "b")
    lab.run(3.0)
    assert standing(lab["b"]) == Standing.READY
    assert contents(lab["a"]) == contents(lab["b"])


def test_a_server_that_is_lost_meanwhile_is_not_the_end() -> None:
    lab, wire, walk = looking()
    lab.cut(wire)
    assert not walk.unlisted.slices
    assert walk.cursor == walk.safe < place("key39")
    becomes_equal(lab)


def test_after_a_long_stop_meanwhile_it_goes_on_from_where_all_is_safe() -> None:
    lab, _, walk = looking()
    lab.now += FAST.sync_timeout + 1
    syncs = lab["b"].replicator.syncs
    syncs.tick(lab.now)
    assert not syncs.asking
    assert not walk.unlisted.slices
    assert walk.cursor == walk.safe < place("key39")
    becomes_equal(lab)


def test_who_sends_on_though_nothing_is_looked_at_loses_the_link() -> None:
    lab, wire, walk = looking()
    (session,) = lab["b"].replicator.syncs.asking.values()
    session.credit_due = 1 << 30
    batch = m.SyncBatch(session.number, (), walk.cursor, walk.cursor)
    node, link = next(one for one in wire.ends if one[0] is lab["b"])
    node.replicator.on_messages(link, [batch], lab.now)
    assert link.dropped
    node.replicator.after_commit()
    lab.run(0.1)
    becomes_equal(lab)


def test_slices_of_nothing_are_one() -> None:
    unlisted = Unlisted()
    run = Run(b"o" * 16, 0, 0, [Change(1, 1, Kind.VALUE, b"c", b"")])
    for first, last, listed in ((b"a", b"b", ()), (b"b", b"c", ()), (b"c", b"d", (run,)), (b"d", b"e", ())):
        unlisted.add(first, last, listed, {})
    assert [(one.start, one.end) for one in unlisted.slices] == [(b"a", b"c"), (b"c", b"d"), (b"d", b"e")]
