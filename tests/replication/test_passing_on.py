"""Vectors that are passed on in a partial view: what is new in them, to whoever can add it."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from replication import messages as m
from replication.core import Link
from storage.changes import Lane, VersionVector
from tests.replication.lab import Lab, ready

BUSY, QUIET, LATER = (bytes([number]) * 16 for number in (201, 202, 203))


def test_where_only_time_passes_no_vectors_are_passed_on() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab.cut(lab.wire("a", "c"))
    lab["b"].replicator.common.is_partial_view = lambda: True
    lab["a"].put("key", "1")
    relay = lab.options.relay_vectors_interval
    lab.run(2 * relay, 0.1)
    before = lab["c"].replicator.vectors.known[lab["a"].id]
    told = len(lab.messages("b", "c", m.Vector))
    lab.run(2 * relay, 0.1)
    known = lab["c"].replicator.vectors.known[lab["a"].id]
    assert known.vector == before.vector == lab["a"].replica.vector()
    assert known.settled_hlc > before.settled_hlc
    passed_on = [one for one in lab.messages("b", "c", m.Vector)[told:] if one.node == lab["a"].id]
    assert passed_on
    assert {(one.is_full, len(one.vector)) for one in passed_on} == {(False, 0)}
    lab["a"].put("key", "2")
    lab.run(2 * relay, 0.1)
    assert lab["c"].replicator.vectors.known[lab["a"].id].vector == lab["a"].replica.vector()


def passing_on() -> tuple[Lab, Callable[[], list[m.Vector]]]:
    """Return a cluster in which only b tells c of a, and what gives all that it has told."""
    lab = ready(Lab("a", "b", "c"))
    lab.cut(lab.wire("a", "c"))
    lab["b"].replicator.common.is_partial_view = lambda: True
    for name in "abc":
        lab[name].put(name, "1")
    lab.run(2 * lab.options.relay_vectors_interval, 0.1)
    return lab, lambda: [one for one in lab.messages("b", "c", m.Vector) if one.node == lab["a"].id]


def test_only_what_is_new_of_a_vector_is_passed_on() -> None:
    lab, passed_on = passing_on()
    told = len(passed_on())
    lab["a"].put("key", "2")
    lab.run(2 * lab.options.relay_vectors_interval, 0.1)
    replica = lab["a"].replica
    origin = replica.origin(Lane.SMALL)
    assert origin is not None
    assert VersionVector({origin: replica.covered(origin)}) in [one.vector for one in passed_on()[told:]]
    assert not any(one.is_full for one in passed_on()[told:])
    assert lab["c"].replicator.vectors.known[lab["a"].id].vector == lab["a"].replica.vector()


def test_who_has_nothing_to_add_to_is_told_a_whole_vector_again() -> None:
    lab, passed_on = passing_on()
    told = len(passed_on())
    del lab["c"].replicator.vectors.known[lab["a"].id]
    lab["a"].put("key", "2")
    lab.run(3 * lab.options.relay_vectors_interval, 0.1)
    assert [one.is_full for one in passed_on()[told:]].count(True) == 1
    assert lab["c"].replicator.vectors.known[lab["a"].id].vector == lab["a"].replica.vector()


def test_who_claims_less_is_passed_on_whole() -> None:
    lab, _ = passing_on()
    vectors, a = lab["b"].replicator.vectors, lab["a"].id
    known = vectors.known[a]
    less = m.Vector(a, known.boot, known.number + 1, True, {bytes(16): 1}, {}, {}, 0)
    vectors.on_vector(lab.wire("a", "b").ends[1][1], less)
    lab.run(0.05, 0.05)
    vectors._pass_on(vectors.known[a])
    lab.run(0.1, 0.05)
    assert lab["c"].replicator.vectors.known[a].vector == VersionVector({bytes(16): 1})


def test_what_adds_to_a_vector_that_was_not_heard_is_not_taken() -> None:
    three = ready(Lab("a", "b", "c"))
    three.cut(three.wire("a", "c"))
    vectors, link = three["c"].replicator.vectors, three.wire("b", "c").ends[1][1]
    known = vectors.known[three["a"].id]
    later = known.number + 10
    message = m.Vector(
        known.node, known.boot, later, False, {}, {}, {}, 0, settled_hlc=7 << 60, base=later - 1
    )
    vectors.on_vector(link, message)
    assert vectors.known[three["a"].id] is known
    vectors.on_vector(link, attrs.evolve(message, boot=bytes(16), base=0))
    assert vectors.known[three["a"].id] is known
    vectors.on_vector(link, attrs.evolve(message, base=known.number))
    assert vectors.known[three["a"].id].settled_hlc == 7 << 60


class Teller:
    """Speaks for "m", which is linked with "r" and "s"; "q" hears of it from these only. No round runs by itself."""

    def __init__(self) -> None:
        self.lab = ready(Lab("m", "r", "s", "q"))
        self.lab.cut(self.lab.wire("m", "q"))
        self.id = self.lab["m"].id
        self.boot = self.lab["r"].replicator.vectors.known[self.id].boot
        self.number = 1000

    def tell(self, names: str, entries: dict[bytes, int], *, full: bool = False) -> None:
        """Each link gets a number of its own, as from a node."""
        for name in names:
            self.number += 1
            message = m.Vector(self.id, self.boot, self.number, full, entries, {}, {}, 0)
            self.lab[name].replicator.vectors.on_vector(self.link(name), message)

    def link(self, name: str) -> Link:
        return self.lab[name].replicator.core.links[self.id]

    def claim_less(self, names: str, entries: dict[bytes, int]) -> None:
        self.number += 1 << 32
        self.tell(names, entries, full=True)

    def pass_on(self, names: str) -> None:
        for name in names:
            vectors = self.lab[name].replicator.vectors
            vectors._pass_on(vectors.known[self.id])
            while self.lab.step():
                pass

    def at(self, name: str) -> VersionVector:
        return self.lab[name].replicator.vectors.known[self.id].vector


@pytest.fixture
def teller() -> Teller:
    teller = Teller()
    teller.tell("rs", {BUSY: 100, QUIET: 7}, full=True)
    teller.pass_on("sr")
    assert teller.at("q") == VersionVector({BUSY: 100, QUIET: 7})
    return teller


def test_a_claim_that_fell_and_rose_between_two_rounds_is_passed_on_whole(teller: Teller) -> None:
    teller.claim_less("rs", {LATER: 1})
    teller.pass_on("s")
    assert teller.at("q") == VersionVector({LATER: 1})
    teller.tell("sr", {BUSY: 101, QUIET: 7, LATER: 2})
    teller.pass_on("rs")  # what r has told before is no more what q has
    teller.pass_on("rs")
    assert teller.at("q") == teller.at("r") == VersionVector({BUSY: 101, QUIET: 7, LATER: 2})


def test_what_was_claimed_before_a_fall_is_not_added_to(teller: Teller) -> None:
    teller.tell("rs", {BUSY: 110})
    teller.pass_on("s")
    assert teller.at("q")[BUSY] == 110
    teller.claim_less("rs", {LATER: 1})
    teller.tell("sr", {BUSY: 105, QUIET: 7, LATER: 2})
    teller.pass_on("rs")
    teller.pass_on("rs")
    assert teller.at("q") == teller.at("r") == VersionVector({BUSY: 105, QUIET: 7, LATER: 2})


def test_a_node_that_covers_less_says_so_by_its_numbers() -> None:
    lab = ready(Lab("a", "b"))
    vectors, known = lab["a"].replicator.vectors, lab["b"].replicator.vectors.known
    before = known[lab["a"].id]
    vectors.claim_less()
    lab["a"].put("key", "1")
    lab.run(1.0)
    after = known[lab["a"].id]
    assert after.vector.covers(before.vector)
    assert after.number > before.number
    assert not after.follows(before)


def test_a_member_that_claims_more_origins_than_there_can_be_loses_its_link(teller: Teller) -> None:
    for part in range(2):
        start = part * 60_000
        teller.tell("r", {number.to_bytes(16, "big"): 1 for number in range(start, start + 60_000)})
    assert "100000 origins" in str(teller.link("r").dropped)
    assert len(teller.at("r")) < 70_000


def test_sealed_origins_are_not_claimed_by_who_covers_them_no_more() -> None:
    lab = ready(Lab("a", "b"))
    for name in "ab":
        lab[name].replicator.vectors.sealed = {QUIET: 7}
    wire = lab.wire("a", "b")
    lab.cut(wire)
    lab.link("a", "b")
    lab.run(1.0)
    known = lab["b"].replicator.vectors.known[lab["a"].id]
    assert known.is_complete
    assert QUIET not in known.vector
