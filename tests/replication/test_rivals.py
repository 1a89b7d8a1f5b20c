"""Two peers that both have what a node has missed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from replication import messages as m
from tests.replication.lab import FAST, Lab, Node, Wire, is_equal, ready

MISSED = 300
# A full credit is a tenth of what was missed.
SMALL = attrs.evolve(FAST, sync_batch_bytes=1000, sync_credit_bytes=6000)


@pytest.fixture
def lab() -> Lab:
    """Return three nodes, of which "b" is cut off and has missed 300 writes that both others have."""
    lab = ready(Lab("a", "b", "c", options=SMALL))
    for other in ("a", "c"):
        lab.cut(lab.wire("b", other))
    for number in range(MISSED):
        lab["a"].put(f"key{number:03}", "x" * 100)
    lab.run(1.0)
    assert is_equal([lab["a"], lab["c"]])
    return lab


def sent(wire: Wire, name: str) -> int:
    """Return how many changes a node has sent on a wire in batches of syncs."""
    batches = [one for sender, one in wire.carried if sender == name and isinstance(one, m.SyncBatch)]
    return sum(len(run.changes) for batch in batches for run in batch.runs)


def silent_after(name: str, batches: int) -> Callable[[Node, m.Message], bool]:
    """Return what drops all that a node sends once it has sent so many batches."""
    seen = 0

    def drops(sender: Node, message: m.Message) -> bool:
        nonlocal seen
        seen += sender.name == name and isinstance(message, m.SyncBatch)
        return sender.name == name and seen > batches

    return drops


def test_what_two_peers_have_is_not_sent_twice(lab: Lab) -> None:
    from_a, from_c = lab.link("b", "a"), lab.link("b", "c")
    lab.run(5.0)
    assert is_equal(list(lab.nodes.values()))
    assert min(sent(from_a, "a"), sent(from_c, "c")) > 0, "both were asked"
    assert sent(from_a, "a") + sent(from_c, "c") < 1.25 * MISSED


def test_the_other_goes_on_as_soon_as_nothing_comes_from_the_faster_one(lab: Lab) -> None:
    from_a, from_c = lab.link("b", "a"), lab.link("b", "c")
    from_a.drops = silent_after("a", 8)
    lab.run(SMALL.sync_timeout / 6)
    assert sent(from_c, "c") == MISSED
    assert is_equal(list(lab.nodes.values()))


def test_the_other_goes_on_if_the_link_of_the_faster_one_breaks(lab: Lab) -> None:
    from_a, from_c = lab.link("b", "a"), lab.link("b", "c")
    while not sent(from_a, "a") > 60:
        lab.run(0.01)
    assert sent(from_c, "c") < 60, "it waits"
    lab.cut(from_a)
    lab.run(2.0)
    assert sent(from_c, "c") == MISSED
    assert is_equal(list(lab.nodes.values()))


def test_peers_that_bring_different_things_do_not_wait_for_each_other(lab: Lab) -> None:
    lab.cut(lab.wire("a", "c"))
    for number in range(2 * MISSED):
        lab["c"].put(f"other{number:03}", "x" * 100)
    lab.run(0.1)
    for other in ("a", "c"):
        lab.link("b", other)
    lab.run(0.3)
    syncs = lab["b"].replicator.syncs
    assert len(syncs.asking) == 2
    assert [session.rival for session in syncs.asking.values()] == [None, None]
    lab.run(5.0)
    assert all(lab["b"].replica.vector().covers(lab[other].replica.vector()) for other in "ac")


def test_what_the_slower_one_alone_has_comes_after_the_faster_one_has_ended(lab: Lab) -> None:
    lab.cut(lab.wire("a", "c"))
    for number in range(20):
        lab["c"].put(f"own{number:02}", "x" * 100)
    lab.run(0.1)
    from_a, from_c = lab.link("b", "a"), lab.link("b", "c")
    lab.run(5.0)
    assert all(lab["b"].replica.vector().covers(lab[other].replica.vector()) for other in "ac")
    assert sent(from_a, "a") + sent(from_c, "c") < 1.25 * MISSED + 20


def test_one_that_has_waited_long_is_asked_anew_and_has_not_failed(lab: Lab) -> None:
    core = lab["b"].replicator.core
    core.options = attrs.evolve(core.options, sync_timeout=0.1)
    lab.link("b", "a")
    from_c = lab.link("b", "c")
    before = core.counters.get("sync_failed_total", 0)
    lab.run(5.0)
    assert is_equal(list(lab.nodes.values()))
    assert (
        len([one for sender, one in from_c.carried if sender == "b" and isinstance(one, m.SyncRequest)]) > 2
    )
    assert core.counters.get("sync_failed_total", 0) == before
