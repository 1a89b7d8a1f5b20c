"""Voiding what an origin wrote beyond a sequence: everything of it goes, and nothing is claimed that may have gone with it."""

from __future__ import annotations

import pytest

from storage.changes import END_OF_PLACES, Kind, Lane, VersionVector
from storage.engine import Family
from storage.errors import Aborted
from storage.layout import change_key, parse_change_key
from storage.record import EXPIRES_AT, NEVER
from storage.version import hlc_at
from tests.storage.helpers import findings, keys_of, raw_put
from tests.storage.replicas import (
    BIG,
    NOW_MS,
    Node,
    Nodes,
    X,
    all_changes,
    contents,
    dot,
    key_place,
    run_of,
    unlisted,
)

DAY_MS = 86_400_000
HLC = hlc_at(NOW_MS + 1)  # of the others


def bad(node: Node) -> tuple[bytes, int]:
    """Let a node write with a clock that is a day ahead, and use the origin no more; return it and what counts of it."""
    node.put(b"good", b"1")
    node.put(b"both", b"before")
    node.put(b"gone", b"before")
    node.store.keyspace(1).put(b"flushed", b"before")
    node.commit()
    origin = node.replica.origin(Lane.SMALL)
    assert origin is not None
    upto = node.replica.vector()[origin]
    node.store.begin(NOW_MS + DAY_MS)
    node.put(b"new", b"v", NOW_MS + 2 * DAY_MS, b"{}")
    node.put(b"both", b"after")
    node.put(b"dead", b"v", NOW_MS + DAY_MS + 1)
    node.store.keyspace(0).delete(b"gone")
    node.store.keyspace(0).expire(b"good", NOW_MS + 2 * DAY_MS)
    node.store.keyspace(1).flush()
    node.commit()
    node.replica.rotate()
    node.store.begin(NOW_MS)
    return origin, upto


def test_what_is_void_goes_and_is_returned_if_a_reader_could_see_it(nodes: Nodes) -> None:
    node = nodes()
    origin, upto = bad(node)
    node.store.begin(NOW_MS + DAY_MS + 2)
    voided = node.replica.cut({origin: upto})
    node.store.commit()
    node.store.begin(NOW_MS)
    found = {(one.change.place[16:], one.change.kind): one for one in voided}
    assert sorted(found) == [
        (b"both", Kind.VALUE),
        (b"dead", Kind.FLOOR),  # it had expired
        (b"gone", Kind.FLOOR),
        (b"good", Kind.EXPIRY),
        (b"new", Kind.VALUE),
        (b"new", Kind.EXPIRY),
    ]
    new = found[b"new", Kind.VALUE]
    assert found[b"good", Kind.EXPIRY].expires_at_ms == NOW_MS + 2 * DAY_MS
    assert (new.change.content, new.change.metadata, new.expires_at_ms) == (b"v", b"{}", NOW_MS + 2 * DAY_MS)
    assert (new.stamp.origin, new.stamp.seq) == (origin, new.change.seq)
    assert found[b"both", Kind.VALUE].expires_at_ms is None
    assert [node.value(key) for key in (b"good", b"both", b"new", b"gone", b"dead")] == [
        b"1",
        None,
        None,
        None,
        None,
    ]
    assert node.store.keyspace(1).floor is None
    assert {one.kind for one in all_changes(node.replica)} == {Kind.VALUE}
    assert findings(node.store) == []


def test_nothing_is_covered_any_more_and_what_is_left_is_found(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1, b"theirs"))])
    origin, upto = bad(node)
    node.replica.cut({origin: upto})
    node.store.commit()
    for _ in range(2):
        assert node.replica.vector() == VersionVector()
        assert node.replica.durable() == VersionVector()
        assert node.replica.is_partial()
        assert set(node.replica.uncovered()) == {X, origin}
        assert node.replica.uncovered()[origin] <= upto
        left = {one.place[16:] for one in all_changes(node.replica)}
        assert left == {b"good", b"theirs"}
        nodes.reopen(node)
    assert findings(node.store) == []


def test_nothing_void_is_left_of_what_an_unfinished_sync_has_brought(nodes: Nodes) -> None:
    node = nodes()
    node.replica.merge(run_of(dot(3)))
    node.store.commit()
    assert node.replica.uncovered() == VersionVector({X: 3})
    node.replica.cut({X: 0})
    node.store.commit()
    assert node.replica.uncovered() == VersionVector()
    assert not node.replica.is_partial()


def test_a_full_sync_brings_back_what_had_been_replaced(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    a.put(b"both", b"before")
    a.put(b"gone", b"before")
    a.store.keyspace(1).put(b"flushed", b"before")
    a.commit()
    b.sync_from(a)
    b.store.begin(NOW_MS + DAY_MS)
    b.put(b"both", b"after")
    b.store.keyspace(0).delete(b"gone")
    b.store.keyspace(1).flush()
    b.commit()
    origin = b.replica.origin(Lane.SMALL)
    assert origin is not None
    b.replica.rotate()
    b.store.begin(NOW_MS)
    voided = b.replica.cut({origin: 0})
    b.replica.lower_clock(HLC, a.replica.hlc)
    b.store.commit()
    feed = a.replica.feed()
    for _, runs in feed.runs_by_place(b""):
        for run in runs:
            b.replica.merge(run)
    assert b.replica.drop(unlisted(b.replica, b"", END_OF_PLACES, list(feed.runs_after({})))) == 0
    b.replica.cover(feed.vector(), feed.floors(), feed.horizon())
    feed.close()
    b.store.commit()
    assert contents(b.store) == contents(a.store)
    assert b.replica.vector() == a.replica.vector()
    assert not b.replica.is_partial()
    b.replica.take_fresh()
    b.replica.write_anew(voided)
    b.store.commit()
    a.receive(b.replica.take_fresh())
    assert [a.value(b"both"), a.value(b"gone")] == [b.value(b"both"), b.value(b"gone")] == [b"after", None]
    assert findings(a.store) == findings(b.store) == []


def test_the_clock_is_lowered_for_good(nodes: Nodes) -> None:
    node = nodes()
    origin, upto = bad(node)
    node.store.begin(NOW_MS + DAY_MS)
    node.receive([run_of(dot(1, b"theirs"))])  # its chunk of the log tells this node's clock
    node.store.begin(NOW_MS)
    node.replica.cut({origin: upto})
    node.replica.lower_clock(hlc_at(NOW_MS + 60_000), hlc_at(NOW_MS + 5))
    node.store.commit()
    assert node.replica.hlc == hlc_at(NOW_MS + 5)
    nodes.reopen(node)
    assert node.replica.hlc >> 16 <= NOW_MS + 5
    node.put(b"later", b"v")
    (run,) = node.commit()
    assert run.changes[0].hlc >> 16 <= NOW_MS + 5
    assert findings(node.store) == []


def test_a_clock_that_nothing_was_stamped_with_is_lowered_at_once(nodes: Nodes) -> None:
    node = nodes()
    node.replica.observe(hlc_at(NOW_MS + DAY_MS))
    node.replica.lower_clock(HLC, 0)
    node.store.commit()
    assert node.replica.hlc == hlc_at(NOW_MS)


def test_what_was_purged_of_what_is_void_does_not_count(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1))])
    node.store.begin(NOW_MS + DAY_MS)
    node.receive([run_of(dot(2, content=None, kind=Kind.FLOOR, hlc=hlc_at(NOW_MS + DAY_MS)))])
    node.store.begin(NOW_MS + 2 * DAY_MS)
    node.store.sweep(10)
    assert node.replica.floors() == VersionVector({X: 2})
    assert node.replica.horizon() == hlc_at(NOW_MS + DAY_MS)
    node.store.begin(NOW_MS)
    node.replica.cut({X: 1})
    node.replica.lower_clock(HLC, 0)
    node.store.commit()
    for _ in range(2):
        assert node.replica.floors() == VersionVector({X: 1})
        assert node.replica.horizon() <= HLC
        nodes.reopen(node)


def test_nothing_counts_as_purged_once_that_is_forgotten(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1, content=None, kind=Kind.FLOOR))])
    node.store.begin(NOW_MS + DAY_MS)
    node.store.sweep(10)
    assert node.replica.floors()
    vector = node.replica.vector()
    node.replica.forget_purges()
    node.store.commit()
    for _ in range(2):
        assert node.replica.floors() == VersionVector()
        assert node.replica.horizon() == 0
        assert node.replica.vector() == vector
        nodes.reopen(node)
    assert findings(node.store) == []


def test_own_logs_that_go_beyond_a_clock_value_are_found(nodes: Nodes) -> None:
    node = nodes()
    origin, upto = bad(node)
    assert node.replica.ahead(hlc_at(NOW_MS + 60_000)) == {origin: upto}
    assert node.replica.ahead(hlc_at(NOW_MS + 2 * DAY_MS)) == {}
    node.store.begin(NOW_MS + DAY_MS)
    node.put(b"in use", b"v")
    (run,) = node.commit()
    node.store.begin(NOW_MS)
    assert node.replica.ahead(hlc_at(NOW_MS + 60_000)) == {origin: upto, run.origin: 0}


def test_a_chunk_that_is_cut_in_the_middle_is_lowered_as_it_is_then(nodes: Nodes) -> None:
    node = nodes()
    node.store.begin(NOW_MS + DAY_MS)
    for number in range(4):
        node.put(b"%d" % number, b"v")
    (run,) = node.commit()
    node.replica.rotate()
    node.store.begin(NOW_MS)
    node.replica.cut({run.origin: 2})
    node.replica.lower_clock(HLC, HLC)
    node.store.commit()
    assert [one.seq for one in all_changes(node.replica)] == [1, 2]
    assert node.replica.hlc == HLC


def test_damaged_chunks_hinder_neither_a_cut_nor_a_lowered_clock(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"before", b"v")
    node.commit()
    origin, upto = bad(node)
    first, *_, last = keys_of(node.engine, Family.CHANGES)
    number, seq = parse_change_key(last)
    raw_put(node.engine, Family.CHANGES, first, b"garbage")
    raw_put(node.engine, Family.CHANGES, change_key(number, seq + 1000), b"garbage")
    assert node.replica.ahead(HLC) == {origin: upto}
    voided = node.replica.cut({origin: 1})
    node.replica.lower_clock(HLC, HLC)
    node.store.commit()
    assert {one.change.place[16:] for one in voided} >= {b"both", b"gone", b"new"}
    assert node.replica.hlc == HLC
    assert node.value(b"before") == b"v"
    told = [line for line in findings(node.store) if "cannot be read" in line]
    assert len(told) == 1, told  # the one beyond the cut went with it


def test_large_values_and_opaque_kinds_are_voided_as_well(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"big", BIG)
    node.commit()
    bulk = node.replica.origin(Lane.BULK)
    assert bulk is not None
    node.receive([run_of(dot(1, kind=70, sub=b"s"), dot(2, b"kept"), dot(3, kind=70, sub=b"t"))])
    node.replica.rotate()
    node.store.begin(NOW_MS)
    (voided,) = node.replica.cut({bulk: 0, X: 2})
    node.store.commit()
    assert (voided.change.place, voided.change.content) == (key_place(b"big"), BIG)
    assert [(one.seq, one.kind) for one in all_changes(node.replica)] == [(1, 70), (2, Kind.VALUE)]
    assert findings(node.store) == []


def test_an_origin_in_use_is_not_cut(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"v")
    node.commit()
    origin = node.replica.origin(Lane.SMALL)
    assert origin is not None
    with pytest.raises(ValueError, match="in use"):
        node.replica.cut({origin: 0})


def test_an_unknown_origin_has_nothing_to_void(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"v")
    node.commit()
    assert node.replica.cut({X: 3}) == []
    node.store.commit()
    assert node.value(b"k") == b"v"
    assert list(node.replica.vector().items()) == [(node.replica.origin(Lane.SMALL), 1)]


def test_a_failed_cut_leaves_everything_as_it_was(nodes: Nodes) -> None:
    node = nodes()
    origin, upto = bad(node)
    before, vector = contents(node.store), node.replica.vector()
    floor = node.store.keyspace(1).floor
    node.replica.cut({origin: upto})
    node.store.poison("a test")
    with pytest.raises(Aborted):
        node.store.commit()
    assert contents(node.store) == before
    assert node.replica.vector() == vector
    assert node.store.keyspace(1).floor == floor
    assert node.replica.hlc >> 16 >= NOW_MS + DAY_MS
    assert findings(node.store) == []
    node.replica.cut({origin: upto})
    node.replica.lower_clock(HLC, HLC)
    assert node.replica.hlc == HLC
    node.store.poison("a test")
    with pytest.raises(Aborted):
        node.store.commit()
    assert node.replica.hlc >> 16 >= NOW_MS + DAY_MS, "what is left has greater stamps"
    node.replica.cut({origin: upto})
    node.replica.lower_clock(HLC, HLC)
    node.store.commit()
    node.store.begin(NOW_MS)
    assert node.replica.hlc == HLC


def test_what_readers_saw_is_written_anew_in_the_same_tick(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    a.put(b"gone", b"elsewhere")
    a.commit()
    origin, upto = bad(b)
    voided = b.replica.cut({origin: upto})
    b.replica.lower_clock(HLC, HLC)
    b.replica.write_anew(voided)
    b.store.commit()
    b.store.begin(NOW_MS)
    assert [b.value(key) for key in (b"new", b"both", b"good")] == [b"v", b"after", b"1"]
    assert b.store.keyspace(0).peek(b"good")[EXPIRES_AT] == NOW_MS + 2 * DAY_MS
    b.sync_from(a)
    assert b.value(b"gone") is None, "an older value was on its way"
    assert max(change.hlc for change in all_changes(b.replica)) == b.replica.hlc < HLC + 10
    assert findings(b.store) == []


def test_a_sync_under_way_does_not_bring_a_claim_back(nodes: Nodes) -> None:
    node = nodes()
    origin, upto = bad(node)
    ledger = node.store.state.ledger
    mark = ledger.mark()
    node.replica.cut({origin: upto})
    node.store.commit()
    ledger.settle(mark)
    assert node.replica.durable() == VersionVector()


@pytest.mark.parametrize("cut_in", [1, 2, 5])
def test_a_chunk_is_cut_in_the_middle(nodes: Nodes, cut_in: int) -> None:
    node = nodes()
    with node.store.atomic():
        for number in range(3):
            node.put(b"%d" % number, b"v")
    for number in range(3, 6):
        node.put(b"%d" % number, b"v", NEVER)
    (run,) = node.commit()
    node.replica.rotate()
    node.store.begin(NOW_MS)
    assert len(node.replica.cut({run.origin: cut_in})) == 6 - cut_in
    node.store.commit()
    assert [one.seq for one in all_changes(node.replica)] == list(range(1, cut_in + 1))
    assert {one.group_end for one in all_changes(node.replica)[:3]} == {min(cut_in, 3) if cut_in > 1 else 0}
    assert findings(node.store) == []
