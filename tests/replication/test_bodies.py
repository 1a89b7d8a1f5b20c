"""Large values whose fetch breaks off, and the next that goes on from there."""

from __future__ import annotations

from random import Random
from typing import Final

import attrs
import pytest

from replication import begun
from replication import messages as m
from replication.begun import Begun, Name
from replication.bodies import Bodies
from replication.core import Link
from replication.options import Options
from storage.changes import Change, Kind, Lane, Run
from tests.replication.lab import FAST, Lab, Node, Wire, is_equal, place, ready

PIECE: Final = Options().body_piece_bytes
# Each byte says where it belongs.
LARGE: Final = Random("large").randbytes(40 * PIECE + 1)


def end(wire: Wire, node: Node) -> Link:
    return next(link for one, link in wire.ends if one is node)


def let_through(wire: Wire, count: int) -> None:
    """Lose what comes of bodies after `count` pieces."""
    left = [count]

    def drops(sender: Node, message: m.Message) -> bool:
        if isinstance(message, m.BodyData):
            left[0] -= 1
            return left[0] < 0
        return False

    wire.drops = drops


def let_all_through(wire: Wire) -> None:
    wire.drops = lambda sender, message: False


def first_offset(wire: Wire) -> int:
    """Return from where the first body on a wire was asked for."""
    return next(message.offset for _, message in wire.carried if isinstance(message, m.BodyGet))


def received(node: Node) -> float:
    return node.replicator.core.counters.get("body_bytes_total", 0)


def kept(node: Node) -> Begun:
    return node.replicator.bodies._begun


def dot(node: Node) -> tuple[bytes, int]:
    """Return the dot of what a node has written last."""
    origin = node.replica.origin(Lane.SMALL)
    assert origin is not None
    return origin, node.replica.covered(origin)


def broken_off(lab: Lab, left: str, right: str, *, pieces: int = 10) -> None:
    """Write a large value on `left`, and break the link with `right` when so many pieces have come there."""
    wire = lab.wire(left, right)
    let_through(wire, pieces)
    lab[left].put("large", LARGE)
    lab.run(0.2)
    lab.cut(wire)
    assert received(lab[right]) == pieces * PIECE


def test_a_fetch_goes_on_where_its_link_broke() -> None:
    lab = ready(Lab("a", "b"))
    broken_off(lab, "a", "b")
    wire = lab.link("a", "b")
    lab.run(2.0)
    assert lab["b"].get("large") == LARGE
    assert first_offset(wire) == 10 * PIECE
    assert received(lab["b"]) == len(LARGE)
    assert not kept(lab["b"])


def test_a_fetch_goes_on_with_another_peer() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab.cut(lab.wire("b", "c"))
    broken_off(lab, "a", "b")
    wire = lab.link("b", "c")
    lab.run(2.0)
    assert lab["b"].get("large") == LARGE
    assert first_offset(wire) == 10 * PIECE
    assert received(lab["b"]) == len(LARGE)


def test_a_value_arrives_that_no_link_lives_long_enough_for() -> None:
    lab = ready(Lab("a", "b"))
    broken_off(lab, "a", "b", pieces=3)
    for _ in range(13):  # there are 41 pieces
        assert lab["b"].get("large") is None
        wire = lab.link("a", "b")
        let_through(wire, 3)
        lab.run(1.0)
        lab.cut(wire)
    assert lab["b"].get("large") == LARGE
    assert received(lab["b"]) == len(LARGE)


def test_all_bodies_of_a_sync_that_breaks_go_on() -> None:
    lab = ready(Lab("a", "b"))
    lab.cut(lab.wire("a", "b"))
    values = {f"large{number}": LARGE[number:] for number in range(3)}
    for key, value in values.items():
        lab["a"].put(key, value)
    lab.run(0.1)
    wire = lab.link("a", "b")
    let_through(wire, 12)
    lab.run(0.5)
    lab.cut(wire)
    assert received(lab["b"]) == 12 * PIECE
    assert len(kept(lab["b"])) == 2
    lab.link("a", "b")
    lab.run(2.0)
    assert {key: lab["b"].get(key) for key in values} == values
    assert received(lab["b"]) == sum(len(value) for value in values.values())


def test_a_fetch_goes_on_after_a_stall() -> None:
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, sync_timeout=1.0)))
    wire = lab.wire("a", "b")
    let_through(wire, 10)
    lab["a"].put("large", LARGE)
    lab.run(0.5)
    let_all_through(wire)
    wire.carried.clear()
    lab.run(3.0)
    assert lab["b"].get("large") == LARGE
    assert first_offset(wire) == 10 * PIECE
    assert received(lab["b"]) == len(LARGE)


def test_a_fetch_goes_on_after_its_snapshot_was_closed() -> None:
    lab = ready(Lab("a", "b"))
    lab.cut(lab.wire("a", "b"))
    lab["a"].put("large", LARGE)
    lab.run(0.1)
    wire = lab.link("a", "b")
    let_through(wire, 10)
    lab.run(0.5)
    let_all_through(wire)
    wire.carried.clear()
    lab["b"].replicator.on_messages(end(wire, lab["b"]), [m.BodyMiss(*dot(lab["a"]))], lab.now)
    lab.run(3.0)
    assert lab["b"].get("large") == LARGE
    assert first_offset(wire) == 10 * PIECE
    assert received(lab["b"]) == len(LARGE)


def test_what_was_begun_of_a_superseded_value_is_forgotten_after_a_while() -> None:
    lab = ready(Lab("a", "b"))
    broken_off(lab, "a", "b")
    lab["a"].put("large", LARGE[1:])
    lab.link("a", "b")
    lab.run(2.0)
    assert lab["b"].get("large") == LARGE[1:]
    assert kept(lab["b"]).size == 10 * PIECE
    lab.run(begun._SECONDS - 10, 1.0)
    assert kept(lab["b"]).size == 10 * PIECE
    lab.run(20.0, 1.0)
    assert not kept(lab["b"])


def test_what_was_begun_is_dropped_when_the_size_turns_out_to_be_another() -> None:
    lab = ready(Lab("a", "b"))
    broken_off(lab, "a", "b")
    wire = lab.link("a", "b")
    let_through(wire, 0)
    lab.run(0.2)
    assert first_offset(wire) == 10 * PIECE
    piece = m.BodyData(*dot(lab["a"]), 10 * PIECE, len(LARGE) + 1, bytes(PIECE))
    lab["b"].replicator.on_messages(end(wire, lab["b"]), [piece], lab.now)
    assert not kept(lab["b"])
    let_all_through(wire)
    wire.carried.clear()
    lab.run(3.0)
    assert first_offset(wire) == 0
    assert lab["b"].get("large") == LARGE


def test_what_was_begun_is_not_joined_with_a_body_of_another_size() -> None:
    """One dot with two contents: a bug elsewhere, but what is taken in then is one of them."""
    lab = ready(Lab("a", "b"))
    broken_off(lab, "a", "b")
    cell = place("large"), int(Kind.VALUE), b""
    stamp, change = lab["a"].replica.cells[cell]
    lab["a"].replica.cells[cell] = stamp, change._replace(content=b"x" + LARGE)
    lab.link("a", "b")
    lab.run(2.0)
    assert lab["b"].get("large") == b"x" + LARGE


def test_what_an_origin_was_cut_of_is_forgotten() -> None:
    lab = ready(Lab("a", "b"))
    broken_off(lab, "a", "b")
    origin, seq = dot(lab["a"])
    lab["b"].replicator.cuts.record(origin, seq)
    lab.run(10.0)
    assert kept(lab["b"])
    lab["b"].replicator.cuts.record(origin, seq - 1)
    lab.run(10.0)
    assert not kept(lab["b"])


# --- mending


def test_what_is_fetched_to_mend_a_value_is_one_peers() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab["a"].put("large", LARGE)
    lab.run(0.5)
    del lab["b"].replica.cells[place("large"), int(Kind.VALUE), b""]
    name: Name = (*dot(lab["a"]), place("large"), len(LARGE))
    kept(lab["b"]).keep(name, bytearray(PIECE), lab.now)
    outcomes: list[object] = []
    lab["b"].replicator.verification.verify(lab["a"].id, outcomes.append)
    lab.run(2.0)
    assert lab["b"].get("large") == LARGE


def test_what_came_to_mend_a_value_is_nobody_elses() -> None:
    lab = ready(Lab("a", "b"))
    lab["a"].put("large", LARGE)
    lab.run(0.5)
    del lab["b"].replica.cells[place("large"), int(Kind.VALUE), b""]
    wire = lab.wire("a", "b")
    let_through(wire, 10)
    before = received(lab["b"])
    outcomes: list[object] = []
    lab["b"].replicator.verification.verify(lab["a"].id, outcomes.append)
    lab.run(1.0)
    lab.cut(wire)
    assert received(lab["b"]) == before + 10 * PIECE
    assert not kept(lab["b"])


# --- bounds


def fetch(bodies: Bodies, link: Link, seq: int, *, session: int = 0) -> None:
    change = Change(seq, 1, Kind.VALUE, place(f"large{seq}"), len(LARGE))
    bodies.fetch(link, Run(bytes(16), seq - 1, seq, [change]), session=session, done=lambda run: None)


def break_off(bodies: Bodies, link: Link, seq: int, *, pieces: int) -> None:
    """Fetch a value, and give it up after so many pieces."""
    fetch(bodies, link, seq)
    for offset in range(0, pieces * PIECE, PIECE):
        data = LARGE[offset : offset + PIECE]
        bodies.on_data(link, m.BodyData(bytes(16), seq, offset, len(LARGE), data))
    bodies.cancel(link, 0)


def test_what_was_begun_gives_way_to_what_is_under_way() -> None:
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, body_bytes_max=130 * PIECE)))
    bodies, link = lab["b"].replicator.bodies, end(lab.wire("a", "b"), lab["b"])
    for seq in (1, 2, 3):
        break_off(bodies, link, seq, pieces=30)
    assert kept(lab["b"]).size == 90 * PIECE
    fetch(bodies, link, 3)
    assert kept(lab["b"]).size == 60 * PIECE
    fetch(bodies, link, 4)  # two of 41 pieces are under way
    assert kept(lab["b"]).size == 30 * PIECE
    bodies.cancel(link, 0)
    assert kept(lab["b"]).size == 60 * PIECE
    assert not kept(lab["b"]).take((bytes(16), 1, place("large1"), len(LARGE)))


def test_nothing_is_kept_of_what_is_larger_than_all_that_may_be() -> None:
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, body_bytes_max=20 * PIECE)))
    bodies, link = lab["b"].replicator.bodies, end(lab.wire("a", "b"), lab["b"])
    break_off(bodies, link, 1, pieces=20)
    assert kept(lab["b"]).size == 20 * PIECE
    break_off(bodies, link, 1, pieces=30)
    assert not kept(lab["b"])


@pytest.fixture
def beginnings() -> Begun:
    found = Begun()
    for number in range(3):
        found.keep(named(number), bytearray(b"x" * 10), float(number))
    return found


def named(number: int) -> Name:
    return (b"o" * 16, number, b"place", 100)


def test_the_oldest_beginning_goes_first(beginnings: Begun) -> None:
    beginnings.keep(named(0), bytearray(b"y" * 11), 3.0)
    beginnings.trim(25)
    assert [bytes(beginnings.take(named(number))) for number in range(3)] == [b"y" * 11, b"", b"x" * 10]


def test_not_more_beginnings_are_kept_than_may_be(beginnings: Begun) -> None:
    for number in range(3, 200):
        beginnings.keep(named(number), bytearray(b"x"), 3.0)
        beginnings.trim(10_000)
    assert len(beginnings) == begun._COUNT_MAX
    assert not beginnings.take(named(199 - begun._COUNT_MAX))
    assert beginnings.take(named(200 - begun._COUNT_MAX))


def test_the_longer_of_two_beginnings_is_kept(beginnings: Begun) -> None:
    beginnings.keep(named(0), bytearray(b"y" * 9), 3.0)
    beginnings.keep(named(1), bytearray(b"y" * 11), 3.0)
    assert bytes(beginnings.take(named(0))) == b"x" * 10
    assert bytes(beginnings.take(named(1))) == b"y" * 11


# --- what waits


def bodied(key: str, *seqs: int) -> Run:
    changes = [
        Change(seq, 1, Kind.VALUE, place(f"{key}{seq}"), len(LARGE), group_end=seqs[-1]) for seq in seqs
    ]
    return Run(bytes(16), 0, seqs[-1], changes)


def test_what_a_push_and_a_sync_wait_for_is_fetched_once() -> None:
    lab = ready(Lab("a", "b"))
    lab.cut(lab.wire("a", "b"))
    counters = lab["b"].replicator.core.counters
    synced = counters["sync_ended_total"]
    lab["a"].put("large", LARGE)
    wire = lab.link("a", "b")  # that is pushed, and the sync that a link begins with brings it
    lab.run(1.0)
    gets = [message for _, message in wire.carried if isinstance(message, m.BodyGet)]
    assert len(gets) == 41
    assert lab["b"].get("large") == LARGE
    assert not lab["b"].replicator.bodies._queue
    assert is_equal([lab["a"], lab["b"]])
    assert counters["sync_ended_total"] == synced + 1


def test_a_fetch_goes_on_for_whoever_waited_for_it() -> None:
    """A push is superseded at its peer; the snapshot of the sync beside it still has the value."""
    lab = ready(Lab("a", "b"))
    link, bodies = end(lab.wire("a", "b"), lab["b"]), lab["b"].replicator.bodies
    fetch(bodies, link, 1)
    fetch(bodies, link, 1, session=7)
    bodies.on_data(link, m.BodyData(bytes(16), 1, 0, len(LARGE), LARGE[:PIECE]))
    bodies.on_miss(link, m.BodyMiss(bytes(16), 1))
    assert [(one.session, len(one.buffer)) for one in bodies._active] == [(7, PIECE)]


def test_what_waits_for_several_bodies_asks_only_for_those_that_nobody_fetches() -> None:
    lab = ready(Lab("a", "b"))
    wire = lab.wire("a", "b")
    link, bodies = end(wire, lab["b"]), lab["b"].replicator.bodies
    found: list[Run | None] = []
    bodies.fetch(link, bodied("k", 1), session=7, done=found.append)
    bodies.fetch(link, bodied("k", 1, 2), session=0, done=found.append)
    assert len(bodies._active) == 1
    data = [LARGE[at : at + PIECE] for at in range(0, len(LARGE), PIECE)]
    for seq in (1, 2):
        for number, piece in enumerate(data):
            bodies.on_data(link, m.BodyData(bytes(16), seq, number * PIECE, len(LARGE), piece))
    assert [run and [change.content for change in run.changes] for run in found] == [[LARGE], [LARGE, LARGE]]
    lab.step()
    gets = [message.seq for _, message in wire.carried if isinstance(message, m.BodyGet)]
    assert gets == [1] * 41 + [2] * 41


def test_who_gets_a_body_may_give_up_the_fetch_that_brought_it() -> None:
    lab = ready(Lab("a", "b"))
    node, link = lab["b"], end(lab.wire("a", "b"), lab["b"])
    bodies, found = node.replicator.bodies, list[Run | None]()
    bodies.fetch(link, bodied("k", 1), session=7, done=found.append)
    bodies.fetch(link, bodied("k", 1), session=0, done=lambda run: bodies.cancel(link, 7))
    for at in range(0, len(LARGE), PIECE):
        bodies.on_data(link, m.BodyData(bytes(16), 1, at, len(LARGE), LARGE[at : at + PIECE]))
    assert not found
    assert not bodies._active
    assert not len(kept(node))


def test_a_value_larger_than_any_may_be_ends_the_link() -> None:
    lab = ready(Lab("a", "b"))
    wire = lab.wire("a", "b")
    link, bodies = end(wire, lab["b"]), lab["b"].replicator.bodies
    run = bodied("k", 1)
    found: list[Run | None] = []
    for size in (m.BODY_BYTES_MAX, m.BODY_BYTES_MAX + 1):
        changes = [run.changes[0]._replace(content=size)]
        bodies.fetch(link, run._replace(changes=changes), session=0, done=found.append)
    assert found == [None]
    assert len(bodies._active) == 1
    assert link.dropped == "a value that is larger than any may be"


def test_another_peer_is_asked_for_the_same_at_once() -> None:
    lab = ready(Lab("a", "b", "c"))
    bodies = lab["b"].replicator.bodies
    for name in "ac":
        fetch(bodies, end(lab.wire(name, "b"), lab["b"]), 1)
    assert len(bodies._active) == 2


def test_what_mends_a_value_does_not_wait_for_what_else_fetches_it() -> None:
    lab = ready(Lab("a", "b"))
    link, bodies = end(lab.wire("a", "b"), lab["b"]), lab["b"].replicator.bodies
    fetch(bodies, link, 1)
    bodies.fetch(link, bodied("large", 1), session=0, done=lambda run: None, resumes=False)
    assert len(bodies._active) == 2


def test_a_fetch_that_waits_begins_when_a_sync_is_given_up() -> None:
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, bodies_max=1)))
    bodies, link = lab["b"].replicator.bodies, end(lab.wire("a", "b"), lab["b"])
    fetch(bodies, link, 1, session=7)
    fetch(bodies, link, 2)
    bodies.cancel(link, 7)
    assert [one.change.seq for one in bodies._active] == [2]
