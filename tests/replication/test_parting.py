"""Two histories that have each purged what the other has never seen: one gives way, and nothing deleted comes back."""

from __future__ import annotations

import pytest

from replication import messages as m
from replication.rejoin import Standing
from replication.voiding import VOIDED
from storage.changes import Change, Kind, Run
from tests.replication.lab import Lab, Node, contents, is_equal, place, ready
from tests.replication.test_breaks import standing
from tests.replication.test_past import forget, kept_back, of_many_batches, walking_past


def parted() -> Lab:
    """Return a lab in which "b" has deleted "here" and purged that, and "a" and "c" have "there", while they were cut off."""
    lab = ready(Lab("a", "b", "c"))
    a, b, c = lab.nodes.values()
    for key in ("here", "there", "newer"):
        a.put(key, "1")
    lab.run(0.5)
    for other in "ac":
        lab.cut(lab.wire("b", other))
    a.delete("there")
    lab.run(0.2)
    for node in (a, c):
        forget(node, "there")
    for key in ("here", "newer"):
        b.delete(key)
        forget(b, key)
    b.put("newer", "2")
    b.put("own", "3")
    return lab


def is_well(lab: Lab) -> bool:
    nodes = list(lab.nodes.values())
    is_ready = {standing(node) for node in nodes} == {Standing.READY}
    gone = all(node.get(key) is None for node in nodes for key in ("here", "there"))
    return is_ready and gone and is_equal(nodes)


def meet(lab: Lab, *pairs: str, seconds: float = 10.0) -> None:
    """Let time pass, in which the nodes of these pairs are linked, and linked anew where a link ends."""
    for _ in range(round(seconds * 10)):
        linked = {"".join(sorted(node.name for node, _ in wire.ends)) for wire in lab.wires}
        for pair in set(pairs) - linked:
            lab.link(pair[0], pair[1])
        lab.run(0.1)


def restarted(lab: Lab, node: Node) -> Node:
    for wire in [wire for wire in lab.wires if node in {one for one, _ in wire.ends}]:
        lab.cut(wire)
    return lab.start(node.name, node.replica, founds=False)


def serve(lab: Lab, names: str, *, may: bool) -> None:
    for name in names:
        lab[name].replicator.syncs.may_serve = may


def rejoining(node: Node) -> None:
    """Let a node have found out that it is in the past."""
    node.replicator.rejoin.enter(Standing.REJOINING)
    node.replicator.after_commit()


def given_way(node: Node) -> float:
    return node.replicator.core.counters.get("given_way_total", 0)


@pytest.mark.parametrize("first", ["ab", "bc"])
def test_what_was_deleted_in_either_history_stays_deleted(first: str) -> None:
    lab = parted()
    meet(lab, "ac", first)
    meet(lab, "ab", "ac", "bc")
    assert is_well(lab)
    assert sum(map(given_way, lab.nodes.values())) >= 1


def test_the_others_stay_whole() -> None:
    lab = parted()
    rejoining(lab["b"])
    stood: list[Standing] = []
    for name in "ac":
        lab[name].replicator.rejoin.on_change = stood.append
    meet(lab, "ab", "ac", "bc")
    assert is_well(lab)
    assert stood == []
    assert given_way(lab["b"]) == 1


def test_who_is_below_the_floors_of_the_fewest_begins_if_all_wait() -> None:
    lab = parted()
    for node in lab.nodes.values():
        rejoining(node)
    meet(lab, "ab", "ac", "bc")
    assert is_well(lab)
    assert [given_way(node) for node in lab.nodes.values()] == [0, 1, 0]


def test_what_the_server_has_not_got_yet_does_not_come_back_by_another_member() -> None:
    lab = ready(Lab("a", "b", "c"))
    a, b, c = lab.nodes.values()
    for pair in ("ab", "ac"):
        lab.cut(lab.wire(*pair))
    c.put("key", "1")
    lab.run(0.2)
    assert b.get("key") == b"1"
    lab.cut(lab.wire("b", "c"))
    b.delete("key")
    forget(b, "key")
    to_a = lab.link("a", "c")
    kept_back(to_a, "c", m.Push, m.SyncStart, m.SyncBatch, m.SyncEnd)
    a.delete("other")
    lab.run(0.5)
    assert a.get("key") is None
    for node in (a, c):
        forget(node, "other")
    lab.cut(to_a)
    rejoining(b)
    serve(lab, "c", may=False)
    meet(lab, "ab", "bc", seconds=5.0)
    assert given_way(b) == 1
    serve(lab, "c", may=True)
    meet(lab, "ab", "ac", "bc")
    assert {standing(node) for node in lab.nodes.values()} == {Standing.READY}
    assert [node.get("key") for node in lab.nodes.values()] == [None] * 3
    assert is_equal(list(lab.nodes.values()))


def test_a_restart_on_the_way_changes_nothing() -> None:
    lab = parted()
    rejoining(lab["b"])
    serve(lab, "ac", may=False)
    meet(lab, "ab", "ac", "bc", seconds=3.0)
    assert given_way(lab["b"]) == 1
    assert not lab["b"].replica.floors()
    b = restarted(lab, lab["b"])
    serve(lab, "ac", may=True)
    meet(lab, "ab", "ac", "bc")
    assert is_well(lab)
    assert given_way(b) == 0
    assert b.replica.get_local("given_way") is None


def test_what_is_void_goes_when_the_node_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what it covers tells what has died there, and who voids covers nothing any more."""
    lab = parted()
    a, b = lab["a"], lab["b"]
    rejoining(b)
    serve(lab, "ac", may=False)
    stood: list[Standing] = []
    voiding = b.replicator.voiding

    def tick() -> bool:
        stood.append(standing(b))
        return False

    monkeypatch.setattr(voiding, "tick", tick)
    origin = next(one for one, seq in b.replica.vector().items() if seq > a.replica.covered(one))
    a.replicator.cuts.record(origin, a.replica.covered(origin))
    for node in (a, b):
        node.replicator.after_commit()
    meet(lab, "ab", "ac", "bc", seconds=3.0)
    assert voiding.is_pending()
    assert given_way(b) == 1
    assert stood == []
    serve(lab, "ac", may=True)
    meet(lab, "ab", "ac", "bc")
    assert set(stood) == {Standing.READY}


def test_who_cannot_be_whole_yet_does_not_sync_over_and_over() -> None:
    lab = parted()
    rejoining(lab["b"])
    serve(lab, "ac", may=False)
    meet(lab, "ab", "ac", "bc", seconds=3.0)
    b = restarted(lab, lab["b"])
    lab.cut(lab.wire("a", "c"))
    serve(lab, "ac", may=True)
    meet(lab, "ab", seconds=10.0)
    assert standing(b) == Standing.REJOINING, '"c" has not told what it has'
    assert b.replicator.core.counters.get("sync_started_total", 0) == 0
    meet(lab, "ab", "ac", "bc")
    assert is_well(lab)


def test_a_member_that_may_have_seen_what_was_purged_is_waited_for() -> None:
    lab = parted()
    b = lab["b"]
    rejoining(b)
    del b.replicator.vectors.known[lab["c"].id]
    meet(lab, "ab", seconds=5.0)
    assert standing(b) == Standing.REJOINING
    assert given_way(b) == 0
    meet(lab, "ab", "ac", "bc")
    assert is_well(lab)


def test_what_others_have_extended_lives_and_what_is_newer_stays() -> None:
    lab = parted()
    a, b = lab["a"], lab["b"]
    b.replica.put_local("given_way", (1 << 63).to_bytes(8))
    cells = {
        cell: held for cell, held in a.replica.cells.items() if cell[0] in {place("here"), place("newer")}
    }
    runs = [Run(stamp.origin, 0, 0, [change]) for stamp, change in cells.values()]
    here, _ = a.replica.cells[place("here"), int(Kind.VALUE), b""]
    extension = Change(b.replica.covered(here.origin) + 1, here.hlc + 1, Kind.EXPIRY, place("here"), b"x")
    before = contents(b)
    b.replicator.syncs.on_walked([*runs, Run(here.origin, 0, 0, [extension])])
    assert contents(b) == before
    b.replicator.syncs.on_walked(runs)
    assert set(contents(b)) - set(before) == {(place("here"), int(Kind.FLOOR), b"")}


def test_what_was_shown_before_is_looked_at_again() -> None:
    """A server of its own history has sent a part, and is gone for good: the others still hold what has died there."""
    lab = of_many_batches("a", "b", "c", "d")
    a, b, c, d = lab.nodes.values()
    a.put("here", "1")
    lab.run(0.5)
    for pair in ("ab", "bc", "ad", "cd"):
        lab.cut(lab.wire(*pair))
    b.delete("here")
    lab.run(0.2)
    assert d.get("here") is None
    forget(b, "here")
    lab.cut(lab.wire("b", "d"))
    rejoining(b)
    from_d = walking_past(lab, "d", b, "here")
    lab.cut(from_d)
    for node in (a, b, c):
        node.replicator.roster.remove(d.id)
        node.replicator.after_commit()
    meet(lab, "ab", "ac", "bc")
    assert given_way(b) == 1
    assert [node.get("here") for node in (a, b, c)] == [None] * 3
    assert is_equal([a, b, c])


def test_who_waits_once_more_waits_as_long_as_the_first_time() -> None:
    lab = parted()
    b = lab["b"]
    rejoining(b)
    serve(lab, "ac", may=False)
    meet(lab, "ab", "ac", "bc", seconds=0.8)
    assert given_way(b) == 0
    b.replicator.rejoin.parting.end()
    meet(lab, "ab", "ac", "bc", seconds=0.8)
    assert given_way(b) == 0
    meet(lab, "ab", "ac", "bc", seconds=0.8)
    assert given_way(b) == 1


def test_who_takes_what_it_has_for_the_whole_covers_what_it_has_purged() -> None:
    """After a cut it covered nothing, and what it had purged is in no log."""
    lab = ready(Lab("a"))
    a = lab["a"]
    a.replica.cover({}, {b"o" * 16: 5}, 0)
    a.replica.put_local(VOIDED, b"behind")
    rejoining(a)
    lab.run(3.0)
    assert standing(a) == Standing.READY
    assert a.replica.covered(b"o" * 16) == 5
