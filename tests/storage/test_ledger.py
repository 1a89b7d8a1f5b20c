"""What is covered, what is only merged, and what may be claimed."""

from __future__ import annotations

import pytest

from storage.changes import Lane, VersionVector
from storage.engine import Family
from storage.engine_memory import MemoryEngine
from storage.errors import NoSpace
from storage.layout import change_key
from storage.version import hlc_at, register_hlc
from tests.storage.helpers import findings, raw_put, stamp_of
from tests.storage.replicas import (
    BIG,
    NOW_MS,
    Node,
    Nodes,
    X,
    all_changes,
    dot,
    run_of,
)

# Merging without coverage.


def test_merged_changes_are_found_and_not_covered(nodes: Nodes) -> None:
    node = nodes()
    assert node.replica.merge(run_of(dot(4), dot(7, b"l"), after=3)) == 2
    assert node.replica.is_partial()
    node.store.commit()
    assert node.replica.is_partial()
    assert node.replica.vector() == VersionVector()
    assert [change.seq for change in all_changes(node.replica)] == [4, 7]
    nodes.reopen(node)
    assert node.replica.is_partial()
    node.replica.cover({X: 6}, {}, 0)
    assert node.replica.is_partial()
    node.replica.cover({X: 7}, {}, 0)
    assert not node.replica.is_partial()
    node.store.commit()
    assert not node.replica.is_partial()
    nodes.reopen(node)
    assert not node.replica.is_partial()
    assert node.replica.vector() == VersionVector({X: 7})
    assert findings(node.store) == []


@pytest.mark.parametrize("same_tick", [False, True])
def test_what_was_merged_before_its_turn_is_applied_in_its_turn(nodes: Nodes, same_tick: bool) -> None:
    node = nodes()
    ahead = [dot(seq, b"%03d" % seq, group_end=90 if seq > 85 else 0) for seq in range(80, 91, 2)]
    node.replica.merge(run_of(*ahead))
    if not same_tick:
        node.store.commit()
    node.replica.merge(run_of(dot(200, b"far")))
    if not same_tick:
        node.store.commit()
    in_turn = [dot(seq, b"%03d" % seq) for seq in range(1, 100, 3)]
    node.receive([run_of(*in_turn, upto=100)])
    expected = sorted({*range(80, 91, 2), *range(1, 100, 3), 200})
    assert [change.seq for change in all_changes(node.replica)] == expected
    assert node.replica.is_partial()
    assert findings(node.store) == []
    node.receive([run_of(dot(150, b"x"), after=100, upto=200)])
    assert not node.replica.is_partial()
    assert [change.seq for change in all_changes(node.replica, VersionVector({X: 149}))] == [150, 200]
    assert findings(node.store) == []


def test_a_dot_that_is_there_already_is_named_again(nodes: Nodes) -> None:
    node = nodes()
    node.replica.merge(run_of(dot(5)))
    node.store.commit()
    batch = node.engine.batch()
    batch.delete(Family.CHANGES, change_key(node.store.state.ledger.find(X), 5))
    node.engine.write(batch, sync=False)
    assert findings(node.store) != []
    node.replica.merge(run_of(dot(5)))
    node.store.commit()
    assert findings(node.store) == []


def test_an_unfinished_sync_hands_on_what_it_has(nodes: Nodes) -> None:
    """It may have superseded what the vector claims."""
    a, b, c = nodes(b"a"), nodes(b"b"), nodes(b"c")
    a.put(b"k", b"1")
    first = a.commit()
    b.receive(first)
    a.put(b"k", b"2")
    (second,) = a.commit()
    b.replica.merge(second)
    b.store.commit()
    c.sync_from(b)
    assert c.value(b"k") == b"2"
    assert c.replica.vector() == VersionVector({second.origin: 1})
    assert c.replica.is_partial()


# Coverage, floors, horizon.


def test_coverage_only_grows(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"v")
    (run,) = node.commit()
    node.replica.cover({X: 5, run.origin: 1}, {X: 3}, 77)
    node.replica.cover({X: 4}, {X: 2, b"\xdd" * 16: 1}, 76)
    node.store.commit()
    for _ in range(2):
        assert node.replica.vector() == VersionVector({X: 5, run.origin: 1})
        assert node.replica.floors() == VersionVector({X: 3, b"\xdd" * 16: 1})
        assert node.replica.horizon() == 77
        nodes.reopen(node)


def test_covering_a_horizon_raises_the_clock(nodes: Nodes) -> None:
    node = nodes()
    ahead = hlc_at(NOW_MS + 9000)
    node.replica.cover({}, {}, ahead)
    node.put(b"k", b"v")
    assert register_hlc(stamp_of(node.store.keyspace(0), b"k")) > ahead


def test_a_feed_tells_vector_floors_and_horizon_of_its_moment(nodes: Nodes) -> None:
    node = nodes()
    node.replica.cover({X: 5}, {X: 3}, 77)
    node.store.commit()
    feed = node.replica.feed()
    node.replica.cover({X: 6}, {X: 4}, 78)
    node.store.commit()
    assert (feed.vector(), feed.floors(), feed.horizon()) == (
        VersionVector({X: 5}),
        VersionVector({X: 3}),
        77,
    )
    feed.close()


# Durable claims.


def test_only_what_was_synced_is_claimed(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"v")
    node.store.commit()
    assert node.replica.durable() == VersionVector()
    mark = node.store.state.ledger.mark()
    node.put(b"k", b"w")
    node.receive([run_of(dot(1, b"x"))])
    node.store.state.ledger.settle(mark)
    assert sum(node.replica.durable().values()) == 1
    node.store.sync()
    assert node.replica.durable() == node.replica.vector()
    node.store.state.ledger.settle(mark)  # a sync that ends late takes nothing back
    assert node.replica.durable() == node.replica.vector()


def test_with_durability_always_every_commit_is_claimed(nodes: Nodes) -> None:
    node = nodes(durability="always")
    node.put(b"k", b"v")
    mark = node.store.state.ledger.mark()
    node.store.commit()
    assert node.replica.durable() == node.replica.vector() != VersionVector()
    node.store.state.ledger.settle(mark)
    assert node.replica.durable() == node.replica.vector()
    claimed = node.replica.durable()
    node.store.durability = "no"
    node.put(b"k", b"w")
    node.store.commit()
    assert node.replica.durable() == claimed
    node.store.durability = "always"
    node.put(b"k", b"x")
    node.store.commit()
    assert node.replica.durable() == node.replica.vector()


def test_what_is_found_at_the_opening_is_synced_and_claimed(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"v")
    node.store.commit()
    nodes.reopen(node)
    assert node.replica.durable() == node.replica.vector() != VersionVector()


def test_a_store_that_cannot_be_synced_claims_nothing() -> None:
    class Broken(MemoryEngine):
        def sync(self) -> None:
            raise NoSpace("memory")

    engine = Broken()
    engine.write(engine.batch(), sync=False)
    with pytest.raises(NoSpace):
        Node(b"a", engine)  # an empty directory must be written first
    engine = Broken()
    MemoryEngine.write(engine, engine.batch(), sync=False)
    raw_put(engine, Family.META, b"format", b"\x01")
    raw_put(engine, Family.META, b"node", b"n" * 16)
    node = Node(b"a", engine)
    node.put(b"k", b"v")
    node.store.commit()
    assert node.replica.durable() == VersionVector()


# Own origins of earlier runs.


def test_what_a_power_cut_took_comes_back_from_others() -> None:
    a, b = Node(b"a"), Node(b"b")
    engine = a.engine
    assert isinstance(engine, MemoryEngine)
    a.put(b"k", b"1")
    first = a.commit()
    a.store.sync()
    a.put(b"k", b"2")
    second = a.commit()
    b.receive(first + second)
    engine.crash()
    a.open(NOW_MS)
    assert a.replica.vector() == VersionVector({first[0].origin: 1})
    a.put(b"other", b"v")
    a.store.commit()
    engine.kill()
    a.open(NOW_MS)
    a.sync_from(b)
    assert a.value(b"k") == b"2"
    assert a.replica.vector()[first[0].origin] == 2
    assert next(iter(a.replica.own_origins())) == first[0].origin
    assert findings(a.store) == []
    engine.kill()
    a.open(NOW_MS)
    assert a.replica.vector()[first[0].origin] == 2


def test_merged_dots_do_not_lengthen_an_origin_of_an_earlier_run() -> None:
    node = Node()
    node.put(b"k", b"1")
    (run,) = node.commit()
    for _ in range(2):
        node.store.close()
        node.engine.kill()  # type: ignore[attr-defined]
        node.open(NOW_MS)
        node.replica.merge(run_of(dot(9, b"lost"), origin=run.origin))
        node.store.commit()
        assert node.replica.vector()[run.origin] == 1
        assert node.replica.is_partial()
    assert findings(node.store) == []


def test_an_origin_in_use_that_others_use_too_is_given_up(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"1")
    (run,) = node.commit()
    node.put(b"l", b"1")
    with pytest.raises(ValueError, match="rotate"):
        node.replica.apply(run_of(dot(3, b"m"), origin=run.origin, after=1))
    node.store.commit()
    assert node.receive([run_of(dot(3, b"m"), origin=run.origin, after=2)]) == 1
    assert node.value(b"m") == b"v"
    node.put(b"n", b"1")
    node.store.commit()
    assert node.replica.origin(Lane.SMALL) != run.origin
    assert node.replica.vector()[run.origin] == 3
    assert findings(node.store) == []


def test_duplicates_of_own_runs_are_dropped(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"1")
    (run,) = node.commit()
    assert node.receive([run]) == 0
    assert node.replica.merge(run) == 0
    node.store.commit()
    assert node.replica.origin(Lane.SMALL) == run.origin


def test_rotating_draws_new_origins_for_all_lanes(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"1")
    node.put(b"big", BIG)
    before = node.commit()
    node.replica.rotate()
    assert node.replica.origin(Lane.SMALL) is node.replica.origin(Lane.BULK) is None
    node.put(b"k", b"2")
    node.put(b"big", BIG)
    after = node.commit()
    assert {run.origin for run in before}.isdisjoint(run.origin for run in after)
    assert list(node.replica.own_origins()) == [run.origin for run in (*before, *after)]
    assert sum(node.replica.vector().values()) == 4


def test_a_new_node_id_counts_once_it_is_committed(nodes: Nodes) -> None:
    node = nodes()
    before = node.replica.node_id
    node.replica.renew_node()
    assert node.replica.node_id == before
    node.store.commit()
    after = node.replica.node_id
    assert after != before
    nodes.reopen(node)
    assert node.replica.node_id == after
