"""Histories of nodes that exchange what they write: each remembers what it has seen replaced, and tells nobody."""

from __future__ import annotations

from storage.changes import VersionVector
from storage.expiry import Apart
from storage.record import VALUE
from storage.store import Keyspace
from tests.storage.conftest import NOW_MS
from tests.storage.helpers import findings, value_of
from tests.storage.histories import HOUR_MS, past, remembering, row_count
from tests.storage.replicas import BIG, Node, Nodes, all_changes, contents, digest_of


def share(a: Node, b: Node, versions: int = 5) -> tuple[Keyspace, Keyspace]:
    """Make a namespace with a history on both."""
    made = remembering(a.store, versions)
    b.receive(a.commit())
    found = b.store.keyspaces.find("past")
    assert found is not None
    return made, found


def test_what_other_nodes_replace_is_remembered(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    assert found.history == 5
    made.put(b"k", b"one")
    b.receive(a.commit())
    a.store.begin(NOW_MS + 10)
    b.store.begin(NOW_MS + 90)
    made.put(b"k", b"two")
    b.receive(a.commit())
    for number in range(20):
        made.put(b"k%d" % number, b"v")
    made.put(b"k", b"three")
    made.put(b"k", BIG)
    made.delete(b"k")
    b.receive(a.commit(), a)
    assert past(made) == [BIG, b"three", b"two", b"one"]
    assert past(found)[-2:] == [b"two", b"one"]  # what a tick overwrites is not sent
    assert found.versions(b"k", 9)[-1].replaced_at_ms == NOW_MS + 90
    assert made.versions(b"k", 9)[-1].replaced_at_ms == NOW_MS + 10
    origin = a.replica.own_origins()
    assert b.store.describe(found.versions(b"k", 9)[-1].register).origin in origin
    assert (findings(a.store), findings(b.store)) == ([], [])


def test_runs_of_small_values_over_others_are_remembered_each(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    runs = []
    for value in (b"one", b"two", b"three"):
        for number in range(20):
            made.put(b"%d" % number, value)
        runs += a.commit()
    for run in runs:
        b.replica.merge(run)  # all in one tick
    b.replica.cover(a.replica.vector(), VersionVector(), 0)
    b.store.commit()
    for number in range(20):
        assert past(found, b"%d" % number) == past(made, b"%d" % number) == [b"two", b"one"]
    assert findings(b.store) == []


def test_a_sync_carries_no_history_and_equal_records_have_equal_digests(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = remembering(a.store)
    for value in (b"one", b"two", b"three"):
        made.put(b"k", value)
        a.commit()
    b.sync_from(a)
    found = b.store.keyspaces.find("past")
    assert found is not None
    assert (past(made), past(found)) == ([b"two", b"one"], [])
    assert contents(a.store) == contents(b.store)
    assert digest_of(a) == digest_of(b)
    assert b"one" not in [change.content for change in all_changes(a.replica)]
    found.put(b"k", b"four")
    a.receive(b.commit())
    assert (past(made), past(found)) == ([b"three", b"two", b"one"], [b"three"])
    assert (findings(a.store), findings(b.store)) == ([], [])


def test_another_nodes_policy_flush_and_deletion_are_obeyed(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    for value in (b"one", b"two", b"three", b"four"):
        made.put(b"k", value)
        b.receive(a.commit())
    a.store.keyspaces.change(made.id, value_bytes_max=None, conflict_log=True, history=1)
    b.receive(a.commit())
    assert past(found) == [b"three"]
    assert row_count(b.store) == 3
    while b.store.sweep(10):
        pass
    assert row_count(b.store) == 1
    made.flush()
    made.put(b"k", b"five")
    b.receive(a.commit())
    assert (past(found), row_count(b.store)) == ([], 0)
    made.put(b"k", b"six")
    b.receive(a.commit())
    assert past(found) == [b"five"]
    with a.store.atomic():
        a.store.keyspaces.delete(made.id)
    b.receive(a.commit())
    while b.store.sweep(10):
        pass
    assert row_count(b.store) == 0
    assert findings(b.store) == []


def test_a_namespace_that_is_not_replicated_is_forgotten_where_it_is_deleted_from_afar(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = remembering(a.store, replicate="none")
    b.receive(a.commit())
    found = b.store.keyspaces.find("past")
    assert found is not None
    for keyspace in (made, found):
        keyspace.put(b"k", b"one")
        keyspace.put(b"k", b"two")
    a.commit()
    b.commit()
    assert (past(made), past(found)) == ([b"one"], [b"one"])
    with a.store.atomic():
        a.store.keyspaces.delete(made.id)
    b.receive(a.commit())
    while b.store.sweep(10):
        pass
    assert (row_count(a.store), row_count(b.store)) == (0, 0)


def test_a_value_that_comes_back_is_no_past_version_until_it_is_replaced_again(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made, found = share(a, b)
    b.store.sweeper.purging = Apart()
    made.put(b"k", b"one", NOW_MS + 1000)
    b.receive(a.commit())
    made.expire(b"k", NOW_MS + HOUR_MS)
    late = a.commit()
    b.store.begin(NOW_MS + 2000)
    b.store.sweep(10)
    assert past(found) == [b"one"]
    b.receive(late)
    [(place, stamp)] = b.replica.bodyless()
    assert b.replica.restore_body(place, stamp, b"one", None)
    b.store.commit()
    assert (value_of(found, b"k"), past(found)) == (b"one", [])
    b.store.begin(NOW_MS + 3000)
    found.put(b"k", b"two")
    b.commit()
    [version] = found.versions(b"k", 9)
    assert (version.record[VALUE], version.replaced_at_ms) == (b"one", NOW_MS + 3000)
    assert findings(b.store) == []
