"""Two histories that have each purged what the other has never seen: one gives way, and nothing deleted comes back."""

from __future__ import annotations

import pytest

from replication.rejoin import Standing
from storage.changes import Change, Kind, Run
from tests.replication.lab import Lab, Node, contents, is_equal, place, ready
from tests.replication.test_breaks import standing
from tests.replication.test_past import forget


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


def restarted(lab: Lab, node: Node) -> Node:
    for wire in [wire for wire in lab.wires if node in {one for one, _ in wire.ends}]:
        lab.cut(wire)
    return lab.start(node.name, node.replica, founds=False)


def serve(lab: Lab, names: str, *, may: bool) -> None:
    for name in names:
        lab[name].replicator.syncs.may_serve = may


@pytest.mark.parametrize("order", ["ab bc", "bc ab", "ab"])
def test_what_was_deleted_in_either_history_stays_deleted(order: str) -> None:
    lab = parted()
    for pair in order.split():
        lab.link(pair[0], pair[1])
    lab.run(10.0)
    if order == "ab":  # "c" is met later
        lab.link("b", "c")
        lab.run(10.0)
    assert is_well(lab)
    assert sum(node.replicator.core.counters.get("given_way_total", 0) for node in lab.nodes.values()) >= 1


def test_who_is_below_the_floors_of_the_fewest_begins_if_all_wait() -> None:
    lab = parted()
    for name in "abc":
        with_all = lab[name].replicator
        with_all.rejoin.enter(Standing.REJOINING)
        with_all.after_commit()
    lab.link("a", "b")
    lab.link("b", "c")
    lab.run(10.0)
    assert is_well(lab)
    assert lab["b"].replicator.core.counters["given_way_total"] == 1


def test_a_restart_on_the_way_changes_nothing() -> None:
    lab = parted()
    b = lab["b"]
    b.replicator.rejoin.enter(Standing.REJOINING)
    b.replicator.after_commit()
    for other in "ac":
        lab.link("b", other)
    serve(lab, "ac", may=False)
    lab.run(3.0)
    assert b.replicator.core.counters["given_way_total"] == 1
    assert not b.replica.floors()
    b = restarted(lab, b)
    for other in "ac":
        lab.link("b", other)
    serve(lab, "ac", may=True)
    lab.run(10.0)
    assert is_well(lab)
    assert b.replica.get_local("given_way") is None


def test_a_member_that_may_have_seen_what_was_purged_is_waited_for() -> None:
    lab = parted()
    b = lab["b"]
    b.replicator.rejoin.enter(Standing.REJOINING)
    b.replicator.after_commit()
    del b.replicator.vectors.known[lab["c"].id]
    lab.link("a", "b")
    lab.run(5.0)
    assert standing(b) == Standing.REJOINING
    assert b.replica.floors()
    lab.link("b", "c")
    lab.run(10.0)
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
