"""What a node hands on of its own writes: fresh runs and lanes."""

from __future__ import annotations

import pytest

from storage.changes import Kind, Lane, VersionVector
from storage.engine_memory import MemoryEngine
from storage.errors import NoSpace
from storage.policy import Policy
from storage.version import register_hlc
from tests.storage.helpers import findings, stamp_of, value_of
from tests.storage.replicas import (
    BIG,
    NOW_MS,
    Node,
    Nodes,
    all_changes,
    digest_of,
    dot,
    run_of,
)

# What is written here.


def test_fresh_runs_hold_what_a_tick_left_alive(nodes: Nodes) -> None:
    node = nodes()
    assert not node.replica.has_fresh
    node.put(b"a", b"1")
    node.put(b"a", b"2", NOW_MS + 50)
    node.put(b"b", b"1")
    node.store.keyspace(0).delete(b"b")
    node.store.keyspace(1).put(b"gone", b"1")
    node.store.keyspace(1).flush()
    assert node.replica.take_fresh() == []
    (run,) = node.commit()
    origin = node.replica.origin(Lane.SMALL)
    assert (run.origin, run.after, run.upto) == (origin, 0, 7)
    assert [(change.seq, change.kind, change.content) for change in run.changes] == [
        (2, Kind.VALUE, b"2"),
        (3, Kind.EXPIRY, NOW_MS + 50),
        (5, Kind.FLOOR, None),
        (7, Kind.NAMESPACE_FLOOR, None),
    ]
    assert [change.group_end for change in run.changes] == [3, 3, 0, 0]
    assert run.changes == all_changes(node.replica)
    assert node.replica.take_fresh() == []


def test_several_commits_are_one_run_until_it_is_full(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.fresh._RUN_CHANGES_MAX", 3)
    node = nodes()
    for number in range(5):
        node.put(b"%d" % number, b"v")
        node.store.commit()
    assert node.replica.has_fresh
    with node.store.atomic():
        for number in range(5):
            node.put(b"g%d" % number, b"v")
    found = node.commit()
    assert [(run.after, run.upto, len(run.changes)) for run in found] == [(0, 3, 3), (3, 10, 7)]


def test_a_commit_that_failed_is_not_fresh() -> None:
    node = Node()
    engine = node.engine
    assert isinstance(engine, MemoryEngine)
    node.put(b"a", b"1")
    engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace):
        node.store.commit()
    assert node.replica.take_fresh() == []
    node.put(b"a", b"2")
    (run,) = node.commit()
    assert (run.after, run.upto) == (0, 1)


def test_nothing_is_collected_without_replication(nodes: Nodes) -> None:
    node = nodes()
    node.store.fresh = None
    node.put(b"a", b"1")
    assert node.commit() == []


# Lanes.


def test_large_values_take_their_dots_in_a_lane_of_their_own(nodes: Nodes) -> None:
    node = nodes()
    replica = node.replica
    assert replica.origin(Lane.SMALL) is replica.origin(Lane.BULK) is None
    node.put(b"small", b"v")
    node.put(b"big", BIG, NOW_MS + 1000)
    node.put(b"big two", BIG)
    small, bulk = node.commit()
    assert small.origin == replica.origin(Lane.SMALL)
    assert bulk.origin == replica.origin(Lane.BULK)
    assert [(change.seq, change.content, change.group_end) for change in bulk.changes] == [
        (1, len(BIG), 2),
        (2, NOW_MS + 1000, 2),
        (3, len(BIG), 0),
    ]
    assert replica.vector() == VersionVector({small.origin: 1, bulk.origin: 3})
    assert replica.own_origins() == {small.origin: Lane.SMALL, bulk.origin: Lane.BULK}
    assert findings(node.store) == []
    nodes.reopen(node)
    assert node.replica.own_origins() == {small.origin: Lane.SMALL, bulk.origin: Lane.BULK}
    assert node.replica.vector() == VersionVector({small.origin: 1, bulk.origin: 3})


def test_in_a_transaction_large_values_stay_with_the_others(nodes: Nodes) -> None:
    node = nodes()
    with node.store.atomic():
        node.put(b"a", b"v")
        node.put(b"big", BIG)
    (run,) = node.commit()
    assert [(change.content, change.group_end) for change in run.changes] == [(b"v", 2), (len(BIG), 2)]
    assert node.replica.origin(Lane.BULK) is None


def test_dots_of_all_lanes_share_one_clock(nodes: Nodes) -> None:
    node = nodes()
    local = node.store.keyspaces.create("here", Policy(replicate="none"))
    clocks = []
    for number in range(9):
        keyspace = local if number % 3 == 0 else node.store.keyspace(0)
        keyspace.put(b"k", BIG if number % 3 == 1 else b"v")
        clocks.append(register_hlc(stamp_of(keyspace, b"k")))
    assert clocks == sorted(set(clocks))
    node.store.commit()
    assert findings(node.store) == []


def test_what_is_not_replicated_is_in_no_vector_and_no_run(nodes: Nodes) -> None:
    node = nodes()
    local = node.store.keyspaces.create("here", Policy(replicate="none"))
    node.commit()
    vector = node.replica.vector()
    local.put(b"k", b"v", NOW_MS + 10)
    local.put(b"big", BIG)
    local.delete(b"big")
    assert node.commit() == []
    assert node.replica.vector() == vector
    assert len(node.replica.own_origins()) == 1
    assert digest_of(node).keys() == digest_of(node).keys()
    assert findings(node.store) == []
    nodes.reopen(node)
    assert node.replica.vector() == vector
    found = node.store.keyspaces.find("here")
    assert found is not None
    assert found.is_local
    assert value_of(found, b"k") == b"v"


def test_changes_are_shown_whatever_their_lane(nodes: Nodes) -> None:
    node = nodes()
    local = node.store.keyspaces.create("here", Policy(replicate="none"))
    db = node.store.keyspace(0)
    node.store.commit()
    node.put(b"a", b"1")
    node.put(b"big", BIG, NOW_MS + 5)
    local.put(b"b", b"1")
    node.put(b"c", b"1")
    node.replica.apply(run_of(dot(1, b"d"), dot(2, b"e", kind=Kind.FLOOR, content=None)))
    local.flush()
    node.put(b"f", b"1")
    assert [(keyspace, key) for _, keyspace, key in node.store.changes] == [
        (db, b"a"),
        (db, b"big"),
        (local, b"b"),
        (db, b"c"),
        (db, b"e"),
        (db, b"d"),
        (local, None),
        (db, b"f"),
    ]
    numbers = [number for number, _, _ in node.store.changes]
    assert numbers == list(range(8))
    assert node.store.change_count == 8
    assert [key for _, key in node.store.changed] == [b"a", b"big", b"b", b"c", b"e", b"d", b"f"]
    assert node.store.flushed == [local]
    node.store.commit()
    assert node.store.changes == []
