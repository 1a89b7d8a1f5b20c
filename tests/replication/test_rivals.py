"""Two peers that both have what a node has missed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from replication import messages as m
from replication.asking import Asking
from replication.options import Options
from storage.changes import VersionVector
from tests.replication.lab import FAST, Lab, Node, Wire, is_equal, ready

MISSED = 300
# A full credit is a tenth of what was missed.
SMALL = attrs.evolve(FAST, sync_batch_bytes=1000, sync_credit_bytes=6000)


# No pull helps out, and what was missed takes half a minute.
PACED = attrs.evolve(SMALL, history_bytes_max=0, sync_rate_max=2000)


def missing(options: Options, names: str = "abc") -> Lab:
    """Return nodes of which "b" is cut off and has missed 300 writes that all others have."""
    lab = ready(Lab(*names, options=options))
    others = [name for name in names if name != "b"]
    for other in others:
        lab.cut(lab.wire("b", other))
    for number in range(MISSED):
        lab["a"].put(f"key{number:03}", "x" * 100)
    lab.run(1.0)
    assert is_equal([lab[other] for other in others])
    return lab


@pytest.fixture
def lab() -> Lab:
    return missing(SMALL)


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


def test_a_node_that_stalls_now_and_then_comes_to_an_end() -> None:
    lab = missing(attrs.evolve(PACED, sync_timeout=6.0))
    from_a, from_c = lab.link("b", "a"), lab.link("b", "c")
    for _ in range(4):
        lab.run(12.0, 0.05)
        lab.now += 3.0  # who leads seems to have become slow
    assert is_equal(list(lab.nodes.values()))
    assert sent(from_a, "a") == MISSED
    assert sent(from_c, "c") < MISSED


def test_nobody_waits_for_a_rival_that_was_much_faster_and_sends_nothing_more() -> None:
    lab = missing(attrs.evolve(PACED, sync_rate_max=1000))
    lab["a"].replicator.core.options = attrs.evolve(PACED, sync_rate_max=0)
    from_a, from_c = lab.link("b", "a"), lab.link("b", "c")
    hushed = silent_after("a", 20)
    from_a.drops = lambda sender, one: hushed(sender, one) and isinstance(one, m.SyncBatch | m.SyncEnd)
    lab.run(20.0)
    assert sent(from_c, "c") > 80, "more than its first credit"


def test_who_is_much_faster_leads_once_it_has_come_further() -> None:
    lab = missing(PACED)
    lab["c"].replicator.core.options = attrs.evolve(PACED, sync_rate_max=20_000)
    from_a, from_c = lab.link("b", "a"), lab.link("b", "c")
    lab.run(10.0)
    assert is_equal(list(lab.nodes.values()))
    assert sent(from_c, "c") == MISSED
    assert sent(from_a, "a") < MISSED / 4


def test_each_has_one_rival_at_most(lab: Lab) -> None:
    link = lab.link("b", "a").ends[0][1]
    first, second, both = (Asking(link, number, False, 0.0, 0.0, 0.0) for number in range(3))
    common, one, other = (origin * 16 for origin in (b"o", b"p", b"q"))
    for asking, vector in (
        (first, {common: 10, one: 100}),
        (second, {common: 10, other: 100}),
        (both, {common: 10, one: 100, other: 100}),
    ):
        asking.begin(m.SyncStart(asking.number, vector, {}, 0), VersionVector(), 0.0)
    for asking, met in ((second, first), (both, first), (both, second)):
        asking.meet(met, VersionVector())
    assert [first.rival, second.rival, both.rival] == [both, None, first]


def rivals(lab: Lab) -> tuple[Asking, Asking]:
    """Return the session that leads, and the one that waits."""
    link = lab.link("b", "a").ends[0][1]
    leading, waiting = (Asking(link, number, False, 0.0, 0.0, 0.0) for number in range(2))
    for asking in (leading, waiting):
        asking.begin(m.SyncStart(asking.number, {b"o" * 16: 10}, {}, 0), VersionVector(), 0.0)
    waiting.meet(leading, VersionVector())
    for asking in (leading, waiting):
        asking.take_in(1000, 1.0)
        asking.credit_due = 1000
    assert not leading.has_to_wait(1.0)
    leading.take_credit(1.0)
    assert waiting.has_to_wait(1.0)
    return leading, waiting


def test_who_had_to_wait_was_not_silent(lab: Lab) -> None:
    """Otherwise it would time out, or seem to be slow, before the first batch that it is asked for."""
    _, waiting = rivals(lab)
    assert not waiting.has_to_wait(20.0)
    waiting.take_credit(20.0)
    assert waiting.progress_at == 20.0


def test_nobody_waits_for_a_rival_that_sends_on_and_on(lab: Lab) -> None:
    leading, waiting = rivals(lab)
    leading.count = 30  # three times what it has offered
    assert waiting.has_to_wait(1.0)
    leading.count += 1
    assert not waiting.has_to_wait(1.0)


def test_a_sync_starts_once(lab: Lab) -> None:
    """Whoever started again and again would seem to be fast, though nothing comes."""
    from_a = lab.link("b", "a")
    syncs = lab["b"].replicator.syncs
    while not syncs.progress():
        lab.run(0.01)
    (session,) = syncs.asking.values()
    assert session.server is not None
    from_a.ends[1][1].send_data(session.server)
    lab.run(0.01)
    assert from_a.is_cut
