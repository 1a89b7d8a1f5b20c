"""What replication asks of a store beside applying: bodies, full syncs, records of the cluster, verification."""

from __future__ import annotations

import pytest

from storage.changes import Kind, Run, Stamp, VersionVector
from storage.engine import Family
from storage.errors import Aborted, StorageError
from storage.policy import Policy
from storage.record import NEVER, VALUE
from storage.version import hlc_at
from tests.storage.helpers import findings, keys_of, raw_put
from tests.storage.replicas import (
    BIG,
    DB,
    NOW_MS,
    Members,
    Node,
    Nodes,
    X,
    all_changes,
    contents,
    digest_of,
    dot,
    key_place,
    run_of,
    unlisted,
)

# Values that do not travel in their change.


def test_a_change_waits_for_its_body(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    a.put(b"big", BIG, NOW_MS + 1000, b"{}")
    runs = a.commit()
    assert b.replica.needs_body(runs[0]) == [runs[0].changes[0]]
    for method in (b.replica.apply, b.replica.merge):
        with pytest.raises(ValueError, match="fetched"):
            method(runs[0])
    assert not b.store.dirty
    assert a.replica.body(runs[0].origin, 1, key_place(b"big")) == BIG
    assert a.replica.body(runs[0].origin, 2, key_place(b"big")) is None
    assert a.replica.body(runs[0].origin, 1, key_place(b"small")) is None
    assert a.replica.body(X, 1, b"short") is None
    b.receive(runs, a)
    assert b.value(b"big") == BIG
    assert contents(a.store) == contents(b.store)
    a.put(b"big", b"small now")
    assert a.replica.body(runs[0].origin, 1, key_place(b"big")) is None


def test_a_body_is_not_wanted_for_what_would_lose(nodes: Nodes) -> None:
    node = nodes()
    size = dot(5, content=len(BIG))
    assert node.replica.needs_body(run_of(size)) == [size]
    node.replica.merge(run_of(dot(5, content=BIG)))
    assert node.replica.needs_body(run_of(size)) == []  # it is here
    node.receive([run_of(size, after=0)])
    assert node.value(b"k") == BIG
    assert node.replica.needs_body(run_of(size)) == []  # it is covered
    other = run_of(dot(1, content=len(BIG), hlc=hlc_at(NOW_MS)), origin=b"\xdd" * 16)
    assert node.replica.needs_body(other) == []  # it is older
    node.store.keyspace(0).delete(b"k")
    assert node.replica.needs_body(run_of(size._replace(seq=6))) == []  # it is deleted
    node.store.keyspace(0).flush()
    assert node.replica.needs_body(run_of(size._replace(seq=7, place=key_place(b"l")))) == []
    assert node.replica.needs_body(run_of(size._replace(seq=8, place=b"short"))) == []


# Values that were dropped.


def dropped(nodes: Nodes, name: bytes = b"a") -> tuple[Node, Run]:
    """Return a node that has dropped an expired value, and the run that wrote it."""
    node = nodes(name)
    node.replica.set_purging(Members(hold=True))
    run = run_of(dot(1, metadata=b"{}"), dot(2, kind=Kind.EXPIRY, content=NOW_MS + 100))
    node.receive([run])
    node.store.begin(NOW_MS + 200)
    assert node.store.sweep(10) == 1
    return node, run


def test_a_late_extension_wants_the_value_back(nodes: Nodes) -> None:
    node, run = dropped(nodes)
    assert node.replica.stats()["expired_headers"] == 1
    assert node.replica.bodyless() == []
    node.receive([run_of(dot(3, kind=Kind.EXPIRY, content=NOW_MS + 90_000_000))])
    assert node.value(b"k") is None
    stamp = Stamp(run.changes[0].hlc, X, 1)
    assert node.replica.bodyless() == [(key_place(b"k"), stamp)]
    assert node.replica.stats()["bodyless"] == 1
    nodes.reopen(node, now_ms=NOW_MS + 200)
    node.replica.set_purging(Members(hold=True))
    assert node.replica.bodyless() == [(key_place(b"k"), stamp)]
    node.store.begin(NOW_MS + 80_000_000)
    node.store.sweep(10)  # it is old enough to be purged, and kept
    assert node.replica.bodyless() == [(key_place(b"k"), stamp)]
    wrong = stamp._replace(seq=2)
    assert not node.replica.restore_body(key_place(b"k"), wrong, b"?", None)
    assert not node.replica.restore_body(key_place(b"k"), stamp._replace(origin=b"?" * 16), b"?", None)
    node.receive([run_of(dot(4, kind=Kind.EXPIRY, content=None))])
    assert node.replica.restore_body(key_place(b"k"), stamp, b"v", b"{}")
    node.store.commit()
    assert node.store.keyspace(0).count == 1
    assert node.value(b"k") == b"v"
    assert node.replica.bodyless() == []
    assert findings(node.store) == []
    nodes.reopen(node, now_ms=NOW_MS + 200)
    assert node.replica.stats()["bodyless"] == 0


def test_what_is_overwritten_or_over_is_not_wanted_back(nodes: Nodes) -> None:
    node, _ = dropped(nodes)
    node.receive([run_of(dot(3, kind=Kind.EXPIRY, content=NOW_MS + 5_000))])
    assert len(node.replica.bodyless()) == 1
    node.store.begin(NOW_MS + 6_000)
    assert node.replica.bodyless() == []
    node, _ = dropped(nodes, b"b")
    node.receive([run_of(dot(3, kind=Kind.EXPIRY, content=None))])
    assert len(node.replica.bodyless()) == 1
    node.put(b"k", b"new", NOW_MS + 250)
    assert node.replica.bodyless() == []
    assert node.value(b"k") == b"new"
    node.store.commit()
    node.store.begin(NOW_MS + 300)
    node.store.sweep(10)
    assert [key for key in keys_of(node.engine, Family.META) if key.startswith(b"bodyless:")] == []


def test_a_header_hides_an_older_value(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"old")
    node.store.commit()
    ahead = hlc_at(NOW_MS) + 500
    header = run_of(dot(1, content=None, hlc=ahead), dot(2, hlc=ahead, kind=Kind.EXPIRY, content=NOW_MS - 5))
    assert node.receive([header]) == 2
    assert node.store.applied == [(node.store.keyspace(0), b"k", Kind.FLOOR)]
    assert node.value(b"k") is None
    assert node.store.keyspace(0).count == 0
    assert node.replica.bodyless() == []
    assert findings(node.store) == []
    body = run_of(dot(1, content=b"old", hlc=ahead), origin=X, after=0)
    node.replica.repair(body)  # it has expired all the same
    assert node.value(b"k") is None


# Full sync: what the other does not have.


def test_what_a_server_does_not_list_is_dropped(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    for node in (a, b):
        node.receive(
            [run_of(dot(1, b"a"), dot(2, b"b"), dot(3, b"c", kind=Kind.FLOOR, content=None), dot(4, b"d"))]
        )
    b.receive([run_of(dot(5, b"b\x00", kind=64, sub=b"s"), dot(6, b"e", NOW_MS + 5, kind=Kind.EXPIRY))])
    a.replica.drop([run_of(dot(2, b"b"), dot(3, b"c", kind=Kind.FLOOR), dot(4, b"b"))])
    a.store.commit()
    assert a.value(b"b") is None
    feed = a.replica.feed()
    ((following, runs),) = feed.runs_by_place(b"")
    feed.close()
    (missing,) = unlisted(b.replica, b"", following, runs)
    assert missing.origin == X
    assert [(change.seq, change.kind, change.content) for change in missing.changes] == [
        (2, Kind.VALUE, None),
        (3, Kind.FLOOR, None),
        (5, 64, None),
        (6, Kind.EXPIRY, None),
    ]
    (part,) = unlisted(b.replica, key_place(b"b\x00"), key_place(b"d"), runs)
    assert [change.seq for change in part.changes] == [3, 5]
    assert b.replica.drop([missing]) == 4
    assert b.replica.drop([missing]) == 0
    b.store.commit()
    assert contents(a.store) == contents(b.store)
    assert b.store.keyspace(0).count == 2
    assert findings(b.store) == []


def test_so_many_places_are_looked_at_as_are_asked_for(nodes: Nodes) -> None:
    node = nodes()
    for key in (b"a", b"c", b"e"):
        node.put(key, b"v")
    node.commit()
    node.put(b"b", b"v")  # of the tick under way
    start, end = key_place(b"a"), key_place(b"z")
    for count, (keys, following) in enumerate(
        [(b"", b"a"), (b"a", b"b"), (b"ab", b"c"), (b"abc", b"e"), (b"abce", b"z")]
    ):
        runs, upto = node.replica.unlisted(start, end, [], count)
        assert b"".join(sorted(one.place[16:] for run in runs for one in run.changes)) == keys
        assert upto == key_place(following)
    assert node.replica.unlisted(key_place(b"b"), key_place(b"d"), [], 2)[1] == key_place(b"d")
    assert [node.replica.holds(key_place(key)) for key in (b"a", b"b", b"d")] == [True, True, False]


def test_what_the_tick_has_merged_is_not_unlisted(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"old")
    node.store.commit()
    newer = run_of(dot(1, content=b"new", hlc=node.replica.hlc + 1))
    node.replica.merge(newer)
    assert unlisted(node.replica, b"", key_place(b"z"), [newer]) == []
    (mine,) = unlisted(node.replica, b"", key_place(b"z"), [])
    assert mine.origin == X


def test_dropping_the_value_alone_leaves_the_rest(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1), dot(2, kind=Kind.EXPIRY, content=NOW_MS + 50))])
    assert node.replica.drop([run_of(dot(1))]) == 1
    node.store.commit()
    assert node.value(b"k") is None
    assert node.store.keyspace(0).count == 0
    assert findings(node.store) == []
    assert node.replica.drop([Run(b"?" * 16, 0, 0, [dot(1)]), run_of(dot(2, place=b"x"))]) == 0


# Writes for replication's sake.


@pytest.mark.parametrize("origin", [b"\x00" * 15 + b"\x01", b"\xff" * 16])
def test_a_void_is_the_least_deletion_above_a_stamp(nodes: Nodes, origin: bytes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    old = dot(1, hlc=hlc_at(NOW_MS - 50_000))
    b.receive([run_of(old, origin=origin), run_of(dot(1, b"l", hlc=old.hlc), origin=X)])
    a.put(b"later", b"v")
    a.replica.void(key_place(b"k"), Stamp(old.hlc, origin, 1))
    a.replica.void(key_place(b"k"), Stamp(old.hlc - 5, origin, 1))  # is dead already
    (run,) = a.commit()
    (_, void) = run.changes
    assert (void.kind, void.seq) == (Kind.FLOOR, 2)
    assert Stamp(void.hlc, run.origin, 2) > Stamp(old.hlc, origin, 1)
    assert void.hlc == old.hlc + (origin == b"\xff" * 16)
    b.receive([run])
    assert b.value(b"k") is None
    assert b.value(b"l") == b"v"
    newer = run_of(dot(2, hlc=old.hlc + 2), origin=origin)
    assert b.receive([newer]) == 1
    assert a.receive([run_of(old, newer.changes[0], after=0, origin=origin)]) == 1
    assert a.value(b"k") == b"v"
    assert findings(a.store) == findings(b.store) == []


def test_a_void_of_what_is_newer_deletes_it_here(nodes: Nodes) -> None:
    node = nodes()
    ahead = hlc_at(NOW_MS) + 900
    node.receive([run_of(dot(1, hlc=ahead), dot(2, hlc=ahead, kind=64))])
    node.replica.void(key_place(b"k"), Stamp(ahead, X, 2))
    node.store.commit()
    assert node.value(b"k") is None
    assert keys_of(node.engine, Family.MEMBERS) == []
    assert node.replica.hlc >= ahead
    assert findings(node.store) == []


def test_touching_writes_live_records_anew(nodes: Nodes) -> None:
    node = nodes()
    node.store.limits.value_bytes_max = 10
    node.receive([run_of(dot(1, content=b"long " * 10), dot(2, kind=Kind.EXPIRY, content=NOW_MS + 50))])
    node.receive([run_of(dot(3, b"dead", kind=Kind.FLOOR, content=None))])
    node.replica.touch([key_place(key) for key in (b"k", b"dead", b"missing")])
    (run,) = node.commit()
    assert [(change.kind, change.content) for change in run.changes] == [
        (Kind.VALUE, b"long " * 10),
        (Kind.EXPIRY, NOW_MS + 50),
    ]
    assert run.changes[0].hlc > run_of(dot(1)).changes[0].hlc


# The cluster's own records.


def test_system_records_replicate_and_no_client_sees_them(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    version = a.replica.system_version
    a.replica.put_system(b"member:1", b"one")
    a.replica.put_system(b"member:2", b"x" * 2000)
    a.replica.put_system(b"gone:1", b"")
    assert a.replica.system_version > version
    assert a.store.changes == []
    found = a.replica.get_system(b"member:1")
    assert found is not None
    assert found[0] == b"one"
    version = b.replica.system_version
    b.receive(a.commit())
    assert b.replica.system_version > version
    assert b.store.applied == []
    assert b.replica.get_system(b"member:1") == found
    assert b.replica.get_system(b"member:3") is None
    listed = b.replica.list_system(b"member:")
    assert [(name, value[:3]) for name, value, _ in listed] == [(b"member:1", b"one"), (b"member:2", b"xxx")]
    assert listed == a.replica.list_system(b"member:")
    b.store.flush_all()
    b.store.commit()
    assert len(b.replica.list_system(b"")) == 3
    nodes.reopen(b, b"b")
    assert b.replica.list_system(b"member:") == listed
    assert findings(b.store) == []


def test_versions_of_system_records_tell_what_has_changed(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")

    def versions(node: Node) -> list[int]:
        return [node.replica.system_version_of(prefix) for prefix in (b"member:", b"gone:", b"other")]

    for name, grown in ((b"member:1", 0), (b"gone:1", 1), (b"other", 2), (b"member:1", 0)):
        before = versions(a), versions(b)
        a.replica.put_system(name, b"v")
        assert versions(a) == before[0]
        b.receive(a.commit())
        for node, old in zip((a, b), before, strict=True):
            assert [new > one for new, one in zip(versions(node), old, strict=True)] == [
                index == grown for index in range(3)
            ]
    before = versions(a), versions(b)
    a.put(b"k", b"member:")
    b.receive(a.commit())
    assert (versions(a), versions(b)) == before
    a.replica.put_system(b"member:2", b"v")
    a.store.poison("a test")
    with pytest.raises(Aborted):
        a.store.commit()
    assert all(new > old for new, old in zip(versions(a), before[0], strict=True))


def test_a_system_record_of_a_failed_tick_never_was(nodes: Nodes) -> None:
    node = nodes()
    node.replica.put_system(b"member:1", b"one")
    version = node.replica.system_version
    node.store.poison("a test")
    with pytest.raises(Aborted):
        node.store.commit()
    assert node.replica.list_system(b"") == []
    assert node.replica.system_version > version


def test_local_settings_stay_here(nodes: Nodes) -> None:
    node = nodes()
    node.replica.put_local("cluster", b"one")
    assert node.replica.get_local("cluster") == b"one"
    assert node.commit() == []
    node.replica.put_local("cluster", b"two")
    node.replica.put_local("other", b"x")
    node.store.poison("a test")
    with pytest.raises(Aborted):
        node.store.commit()
    assert node.replica.get_local("cluster") == b"one"
    assert node.replica.get_local("other") is None
    nodes.reopen(node)
    assert node.replica.get_local("cluster") == b"one"
    node.replica.put_local("cluster", b"three")
    node.replica.put_local("cluster", None)
    assert node.replica.get_local("cluster") is None
    node.store.commit()
    assert node.replica.get_local("cluster") is None


# Verification between nodes.


def test_equal_stores_have_equal_digests_and_others_not(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    for number in range(50):
        a.put(b"%d" % number, b"v")
    a.put(b"expires", b"v", NOW_MS + 1000)
    a.put(b"was to expire", b"v", NOW_MS + 1000)
    a.put(b"was to expire", b"v")
    a.put(b"big", BIG)
    a.store.keyspace(0).delete(b"7")
    runs = a.commit()
    b.receive([run_of(dot(1, b"future", kind=64)), *runs], a)
    a.receive([run_of(dot(1, b"future", kind=64))])
    found = digest_of(a)
    assert found == digest_of(b)
    assert len(found) == 52
    assert all(0 <= number < 65536 and 0 < value < 2**128 for number, value in found.items())
    b.store.keyspace(0).expire(b"expires", NOW_MS + 9000)
    b.store.commit()
    assert found == digest_of(b)
    b.put(b"3", b"w")
    b.store.commit()
    different = {
        number for number in {*found, *digest_of(b)} if found.get(number) != digest_of(b).get(number)
    }
    assert len(different) == 1
    feed = b.replica.feed()
    *_, found_runs = b.replica.bucket(feed, sorted(different))
    assert found_runs is not None
    (run,) = found_runs
    feed.close()
    (change,) = run.changes
    assert change.place == key_place(b"3")
    assert isinstance(change.content, bytes)
    assert len(change.content) == 16


def test_a_value_that_was_dropped_is_told_from_one_that_differs(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    b.replica.set_purging(Members())
    a.put(b"k", b"v", NOW_MS + 1000)
    b.receive(a.commit())
    b.store.begin(NOW_MS + 1000)
    assert b.store.sweep(10) == 1
    a.store.keyspace(0).expire(b"k", NEVER)
    b.receive(a.commit())
    different = sorted({*digest_of(a), *digest_of(b)})
    contents = []
    for node in (a, b):
        feed = node.replica.feed()
        *_, runs = node.replica.bucket(feed, different)
        contents += [change.content for run in runs or () for change in run.changes]
        feed.close()
    assert len(contents) == 2
    assert isinstance(contents[0], bytes)
    assert contents[1] is None


def test_a_damaged_record_is_found_and_mended(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    for number in range(20):
        a.put(b"%02d" % number, b"v")
        b.receive(a.commit())
    for node in (a, b):
        node.receive([run_of(dot(1, b"future", b"v", kind=64))])
    raw_put(b.engine, Family.RECORDS, key_place(b"07"), b"\xff")
    batch = b.engine.batch()
    batch.delete(Family.RECORDS, key_place(b"08"))
    for key in keys_of(b.engine, Family.MEMBERS):
        batch.delete(Family.MEMBERS, key)
    b.engine.write(batch, sync=False)
    nodes.reopen(b, b"b")
    assert a.replica.vector() == b.replica.vector()
    assert digest_of(a) != digest_of(b)
    places = [key_place(b"07"), key_place(b"08"), key_place(b"future"), key_place(b"missing"), b"short"]
    mended = sum(b.replica.repair(run) for run in a.replica.changes_at(places))
    assert mended == 3
    b.store.commit()
    assert contents(a.store) == contents(b.store)
    assert digest_of(a) == digest_of(b)
    assert all_changes(a.replica) == all_changes(b.replica)
    assert not b.replica.is_partial()
    found = findings(b.store)
    assert [line for line in found if "counts" not in line] == []


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_chunk_does_not_hinder_a_full_sync(nodes: Nodes, damaged: int) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    for number in range(4):
        a.put(b"%d" % number, b"v")
        b.receive(a.commit())
    raw_put(b.engine, Family.CHANGES, keys_of(b.engine, Family.CHANGES)[damaged - 1], b"garbage")
    feed = a.replica.feed()
    for _, runs in feed.runs_by_place(b""):
        for run in runs:
            b.replica.repair(run)
    feed.close()
    b.store.commit()
    assert contents(a.store) == contents(b.store)
    assert all_changes(b.replica) == all_changes(a.replica)
    assert findings(b.store) == []


def test_all_registers_of_a_place_are_shown(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"v")
    node.store.keyspace(0).delete(b"k")
    node.put(b"k", BIG, NOW_MS + 10)
    node.receive([run_of(dot(1, kind=64, sub=b"s", hlc=node.replica.hlc + 9))])
    found = node.replica.changes_at([key_place(b"k"), key_place(b"k")])
    assert all(run.after == run.upto == 0 for run in found)
    assert sorted((change.kind, change.content) for run in found for change in run.changes) == [
        (Kind.VALUE, len(BIG)),
        (Kind.EXPIRY, NOW_MS + 10),
        (Kind.FLOOR, None),
        (64, b"v"),
    ]


# Purging.


def test_purging_asks_by_origin_and_sequence(nodes: Nodes) -> None:
    asked: list[tuple[bytes, int]] = []

    class Asked(Members):
        def covers(self, origin: bytes, seq: int) -> bool:
            asked.append((origin, seq))
            return self.hold

    node = nodes()
    members = Asked()
    node.replica.set_purging(members)
    node.receive([run_of(dot(1))])
    node.receive([run_of(dot(2, content=None, kind=Kind.FLOOR), upto=3)])
    node.store.begin(NOW_MS + 8_000_000)
    node.store.sweep(10)
    assert asked == [(X, 2)]
    assert node.replica.stats()["tombstones"] == 1
    members.hold = True
    node.store.begin(NOW_MS + 16_000_000)
    node.store.sweep(10)
    assert node.replica.stats()["tombstones"] == 0
    assert node.replica.floors() == VersionVector({X: 2})
    assert node.replica.horizon() == dot(2).hlc
    nodes.reopen(node, now_ms=NOW_MS + 16_000_000)
    assert node.replica.floors() == VersionVector({X: 2})
    assert node.replica.horizon() == dot(2).hlc
    assert findings(node.store) == []


def test_what_is_purged_without_being_covered_is_no_floor(nodes: Nodes) -> None:
    node = nodes()
    node.replica.merge(run_of(dot(5, content=None, kind=Kind.FLOOR)))
    node.store.commit()
    node.store.begin(NOW_MS + 8_000_000)
    node.store.sweep(10)
    assert node.replica.stats()["tombstones"] == 0
    assert node.replica.floors() == VersionVector()
    assert node.replica.horizon() == dot(5).hlc


def test_a_failed_purge_raises_no_floor(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1, content=None, kind=Kind.FLOOR))])
    node.store.begin(NOW_MS + 8_000_000)
    node.store.poison("a test")
    with pytest.raises(StorageError):
        node.store.sweep(10)
    assert (node.replica.floors(), node.replica.horizon()) == (VersionVector(), 0)
    node.store.sweep(10)
    assert node.replica.floors() == VersionVector({X: 1})


def test_deletions_of_namespaces_wait_as_long_as_there_are_members(nodes: Nodes) -> None:
    node = nodes()
    node.replica.set_purging(Members(hold=True))
    made = node.store.keyspaces.create("blue")
    node.store.keyspaces.delete(made.id)
    node.store.commit()
    node.store.begin(NOW_MS + 8_000_000)
    node.store.sweep(10)
    assert node.replica.stats()["tombstones"] == 1


def test_what_is_not_replicated_is_purged_at_once_and_not_remembered(nodes: Nodes) -> None:
    node = nodes()
    node.replica.set_purging(Members())
    local = node.store.keyspaces.create("here", Policy(replicate="none"))
    local.put(b"k", b"v", NOW_MS + 10)
    local.put(b"l", b"v")
    local.delete(b"l")
    node.store.commit()
    node.store.begin(NOW_MS + 8_000_000)
    node.store.sweep(10)
    assert (local.headers, local.floors) == (0, 0)
    assert node.replica.floors() == VersionVector()
    assert node.replica.horizon() == 0
    assert findings(node.store) == []


def test_counts_of_deletions_and_headers_come_back(nodes: Nodes) -> None:
    node = nodes()
    node.replica.set_purging(Members())
    for number in range(6):
        node.put(b"%d" % number, b"v", NOW_MS + 10 if number > 3 else NEVER)
    node.store.keyspace(0).delete(b"1")
    node.store.commit()
    node.store.begin(NOW_MS + 20)
    node.store.sweep(10)
    wanted = {"tombstones": 1, "expired_headers": 2}
    assert {name: node.replica.stats()[name] for name in wanted} == wanted
    nodes.reopen(node)
    assert {name: node.replica.stats()[name] for name in wanted} == wanted
    node.store.keyspace(0).flush()
    assert node.replica.stats()["tombstones"] == 0


@pytest.mark.parametrize("step", [1, 3])
def test_compaction_keeps_what_others_wrote_findable(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from storage import compaction

    monkeypatch.setattr(compaction, "_SLACK", 20)
    monkeypatch.setattr(compaction, "_GROWTH", 1)
    monkeypatch.setattr(compaction, "_SLICE_DOTS", 5)
    node = nodes()
    hlc = hlc_at(NOW_MS)
    seq = 0
    for number in range(120):
        changes = []
        for _ in range(step):
            seq += 1
            kind = (0, 0, 64, Kind.EXPIRY)[seq % 4]
            content = NOW_MS + seq if kind == Kind.EXPIRY else b"v"
            changes.append(dot(seq, b"%d" % (seq % 5), content, kind=kind, hlc=hlc + seq))
        node.receive([run_of(*changes)])
        if number == 60:
            seq += 1
            node.receive(
                [run_of(dot(seq, place=DB, content=None, kind=Kind.NAMESPACE_FLOOR, hlc=hlc + seq - 3))]
            )
        node.put(b"own %d" % (number % 3), b"v")
        node.store.commit()
    assert findings(node.store) == []
    named = sum(key != b"" for key in keys_of(node.engine, Family.CHANGES))
    assert named < 120
    found = all_changes(node.replica)
    nodes.reopen(node)
    assert all_changes(node.replica) == found


def test_reading_every_record_back(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    for number in range(600):
        a.put(b"%04d" % number, b"v" * (number % 7), NOW_MS + 99 if number % 5 == 0 else NEVER)
    runs = a.commit()
    assert len(runs) == 2
    b.receive(runs)
    for number in range(600):
        record = b.store.keyspace(0).peek(b"%04d" % number)
        assert record[VALUE] == b"v" * (number % 7)
