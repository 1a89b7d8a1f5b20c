"""Taking over what others wrote: who wins, what is dead, what is kept though it is not understood."""

from __future__ import annotations

import pytest

from storage.changes import Change, Conflict, Kind, Stamp, VersionVector
from storage.engine import Family
from storage.errors import Aborted
from storage.layout import database_id
from storage.policy import Policy
from storage.record import NEVER
from storage.version import hlc_at, register_hlc
from tests.storage.helpers import findings, keys_of, raw_put, stamp_of, value_of
from tests.storage.replicas import (
    DB,
    NOW_MS,
    Members,
    Nodes,
    X,
    all_changes,
    contents,
    digest_of,
    dot,
    key_place,
    run_of,
    walked_changes,
)

# Applying.


def test_an_applied_run_is_held_and_covered(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    a.put(b"k", b"1")
    a.put(b"t", b"2", NOW_MS + 1000, b"{}")
    runs = a.commit()
    assert b.replica.apply(runs[0]) == 3
    assert b.replica.covered(runs[0].origin) == 3
    assert b.replica.vector() == VersionVector()
    b.store.commit()
    assert b.replica.vector() == a.replica.vector()
    assert contents(a.store) == contents(b.store)
    assert (b.store.keyspace(0).count, b.store.keyspace(0).expires) == (2, 1)
    assert b.replica.take_fresh() == []
    assert all_changes(b.replica) == all_changes(a.replica)
    nodes.reopen(b, b"b")
    assert b.replica.vector() == a.replica.vector()
    assert findings(b.store) == []


def test_a_run_is_applied_once(nodes: Nodes) -> None:
    node = nodes()
    run = run_of(dot(1), dot(2, b"l"))
    assert node.receive([run, run]) == 2
    assert node.receive([run]) == 0
    assert not node.store.dirty


def test_a_gap_is_refused(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1))])
    with pytest.raises(ValueError, match="from 2 on"):
        node.replica.apply(run_of(dot(3)))
    assert not node.store.dirty


def test_a_run_that_overlaps_gives_what_is_beyond(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1), dot(2, b"l"))])
    node.store.keyspace(0).delete(b"k")
    node.receive([run_of(dot(1), dot(3, b"m"), after=0, upto=4)])
    assert [node.value(key) for key in (b"k", b"l", b"m")] == [None, b"v", b"v"]
    assert node.replica.vector()[X] == 4


def test_covered_dots_are_dropped_whatever_their_stamp(nodes: Nodes) -> None:
    node = nodes()
    node.replica.cover({X: 5}, {}, 0)
    assert node.receive([run_of(dot(3, hlc=2**60), dot(6, b"l"), after=2)]) == 1
    assert node.value(b"k") is None
    assert node.value(b"l") == b"v"


def test_an_empty_run_covers(nodes: Nodes) -> None:
    node = nodes()
    assert node.receive([run_of(after=0, upto=9)]) == 0
    assert node.replica.vector() == VersionVector({X: 9})
    assert all_changes(node.replica) == []
    assert findings(node.store) == []


def test_a_change_outside_of_its_run_is_refused(nodes: Nodes) -> None:
    node = nodes()
    for run in (run_of(dot(2), after=0, upto=1), run_of(dot(1), dot(5), upto=4)):
        with pytest.raises(ValueError, match="outside"):
            node.replica.apply(run)
    assert not node.store.dirty


def test_the_greatest_stamp_wins_whoever_comes_first(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    a.put(b"k", b"older")
    b.put(b"k", b"newer")
    b.put(b"k", b"newest")
    from_a, from_b = a.commit(), b.commit()
    assert a.receive(from_b) == 1
    assert b.receive(from_a) == 0
    assert a.value(b"k") == b.value(b"k") == b"newest"
    assert contents(a.store) == contents(b.store)
    assert all_changes(b.replica) == all_changes(a.replica)


def test_equal_clocks_are_decided_by_the_origins_bytes(nodes: Nodes) -> None:
    node = nodes()
    hlc = hlc_at(NOW_MS)
    node.receive([run_of(dot(1, content=b"e", hlc=hlc))])
    node.receive([run_of(dot(1, content=b"1", hlc=hlc), origin=b"\x11" * 16)])
    assert node.value(b"k") == b"e"
    node.receive([run_of(dot(1, content=b"f", hlc=hlc), origin=b"\xff" * 16)])
    assert node.value(b"k") == b"f"


def test_what_is_written_later_is_newer_than_what_was_applied(nodes: Nodes) -> None:
    node = nodes()
    ahead = hlc_at(NOW_MS + 50_000)
    node.replica.apply(run_of(dot(1, hlc=ahead)))
    assert node.replica.hlc == ahead
    node.put(b"k", b"mine")
    assert register_hlc(stamp_of(node.store.keyspace(0), b"k")) > ahead
    node.store.commit()
    nodes.reopen(node)
    assert node.replica.hlc > ahead
    node.replica.observe(ahead + 7)
    node.replica.observe(5)
    assert node.replica.hlc == ahead + 7


def test_a_write_over_a_hidden_header_is_newer_than_it(nodes: Nodes) -> None:
    node = nodes()
    node.replica.set_purging(Members())
    ahead = hlc_at(NOW_MS + 50_000)
    node.receive([run_of(dot(1, hlc=ahead), dot(2, hlc=ahead, kind=Kind.EXPIRY, content=NOW_MS + 10))])
    node.store.begin(NOW_MS + 20)
    node.store.sweep(10)
    node.put(b"k", b"again")
    assert register_hlc(stamp_of(node.store.keyspace(0), b"k")) > ahead
    node.store.commit()
    assert node.value(b"k") == b"again"


def test_a_failed_commit_takes_everything_back(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"mine")
    node.store.commit()
    before, vector, count = contents(node.store), node.replica.vector(), node.store.keyspace(0).count
    floor = dot(3, kind=Kind.NAMESPACE_FLOOR, place=database_id(1), content=None)
    node.store.keyspace(1).put(b"x", b"v")
    node.store.commit()
    before, vector = contents(node.store), node.replica.vector()
    node.replica.apply(run_of(dot(1), dot(2, b"l"), floor))
    node.replica.merge(run_of(dot(9, b"m"), origin=b"\xdd" * 16))
    node.replica.cover({b"\xcc" * 16: 4}, {b"\xcc" * 16: 2}, hlc_at(NOW_MS))
    node.store.poison("a test")
    with pytest.raises(Aborted):
        node.store.commit()
    assert (contents(node.store), node.replica.vector()) == (before, vector)
    assert node.store.keyspace(0).count == count
    assert value_of(node.store.keyspace(1), b"x") == b"v"
    assert node.replica.covered(X) == 0
    assert not node.replica.is_partial()
    assert (node.replica.floors(), node.replica.horizon()) == (VersionVector(), 0)
    assert node.store.applied == []
    assert findings(node.store) == []
    assert node.receive([run_of(dot(1), dot(2, b"l"), floor)]) == 3
    assert findings(node.store) == []


def test_prev_names_the_origin_that_was_replaced(nodes: Nodes) -> None:
    a, b, c = nodes(b"a"), nodes(b"b"), nodes(b"c")
    a.put(b"k", b"1")
    from_a = a.commit()
    b.receive(from_a)
    b.put(b"k", b"2")
    from_b = b.commit()
    assert from_b[0].changes[0].prev_origin == from_a[0].origin
    c.receive(from_b)  # has never heard of a
    assert all_changes(c.replica) == [*from_b[0].changes]
    nodes.reopen(c, b"c")
    assert all_changes(c.replica) == [*from_b[0].changes]


def test_holes_are_remembered_and_wide_ones_end_the_chunk(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1, b"a"), dot(5, b"b"), dot(100, b"c"), dot(101, b"d"), upto=200)])
    chunks = keys_of(node.engine, Family.CHANGES)
    assert len(chunks) == 2
    assert chunks[1] == chunks[0][:4] + (100).to_bytes(8, "big")
    assert [change.seq for change in all_changes(node.replica)] == [1, 5, 100, 101]
    assert [change.seq for change in all_changes(node.replica, VersionVector({X: 5}))] == [100, 101]
    assert findings(node.store) == []


def test_groups_are_handed_on(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    a.put(b"z", b"v")
    with a.store.atomic():
        a.put(b"k", b"1")
        a.put(b"l", b"1")
        a.put(b"k", b"2")
    runs = a.commit()
    b.receive(runs)
    assert [(change.seq, change.group_end) for change in all_changes(b.replica)] == [(1, 0), (3, 4), (4, 4)]
    assert all_changes(b.replica) == list(runs[0].changes)


def test_limits_are_for_clients(nodes: Nodes) -> None:
    node = nodes()
    node.store.limits.key_bytes_max = 10
    node.store.limits.value_bytes_max = 10
    node.receive([run_of(dot(1, b"k" * 50, b"v" * 50, metadata=b"{}" * 2000))])
    assert node.value(b"k" * 50) == b"v" * 50


# Deletions and flushes of others.


def test_a_deletion_kills_what_is_older_and_nothing_newer(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1, b"a"), dot(2, b"b", hlc=hlc_at(NOW_MS) + 99))])
    deletions = [
        dot(seq, key, None, kind=Kind.FLOOR, hlc=hlc_at(NOW_MS) + 50)
        for seq, key in ((3, b"a"), (4, b"b"), (5, b"c"))
    ]
    node.receive([run_of(*deletions)])
    assert [node.value(key) for key in (b"a", b"b", b"c")] == [None, b"v", None]
    assert node.receive([run_of(dot(6, b"a", hlc=hlc_at(NOW_MS) + 40))]) == 0
    assert node.receive([run_of(dot(7, b"a", hlc=hlc_at(NOW_MS) + 60))]) == 1
    assert findings(node.store) == []
    assert node.replica.stats()["tombstones"] == 3


def test_a_flush_from_afar_leaves_what_is_newer(nodes: Nodes) -> None:
    node = nodes()
    keyspace = node.store.keyspace(0)
    for number in range(30):
        node.put(b"old %d" % number, b"v", NOW_MS + 10_000 if number % 2 else NEVER)
    node.store.commit()
    flush = dot(1, place=DB, content=None, kind=Kind.NAMESPACE_FLOOR, hlc=node.replica.hlc + 1)
    node.replica.observe(node.replica.hlc + 5)
    node.put(b"new", b"v", NOW_MS + 10_000)
    node.put(b"old 3", b"v")
    node.store.commit()
    nodes.reopen(node)
    keyspace = node.store.keyspace(0)
    node.put(b"pending", b"v")
    node.replica.apply(run_of(flush))
    live = {key for key, _ in keyspace.scan(b"", None, 100)[0]}
    assert live == {b"new", b"old 3", b"pending"}
    assert (keyspace.count, keyspace.expires) == (3, 1)
    node.store.commit()
    assert node.store.applied == [(keyspace, None, Kind.NAMESPACE_FLOOR)]
    assert {key for key, _ in keyspace.scan(b"", None, 100)[0]} == live
    assert findings(node.store) == []
    assert node.receive([run_of(dot(2, b"late", hlc=flush.hlc - 1))]) == 0
    assert node.receive([run_of(flush._replace(seq=3, hlc=flush.hlc - 1))]) == 0
    nodes.reopen(node)
    assert {key for key, _ in node.store.keyspace(0).scan(b"", None, 100)[0]} == live
    assert findings(node.store) == []


def test_a_flush_erases_half_of_a_row(nodes: Nodes) -> None:
    node = nodes()
    hlc = hlc_at(NOW_MS)
    expiry = dot(2, content=NOW_MS + 900, kind=Kind.EXPIRY, hlc=hlc + 10)
    node.receive([run_of(dot(1, hlc=hlc + 1), expiry)])
    node.receive([run_of(dot(3, place=DB, content=None, kind=Kind.NAMESPACE_FLOOR, hlc=hlc + 5))])
    assert node.store.keyspace(0).count == 0
    assert node.store.keyspace(0).peek(b"k")[4] is not None
    assert findings(node.store) == []


# Conflicts and broken promises.


def test_a_lost_write_that_its_winner_did_not_see_is_a_conflict(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    told: list[Conflict] = []
    a.replica.on_conflict(told.append)
    a.put(b"k", b"1")
    b.receive(a.commit())
    a.put(b"k", b"2")
    from_a = a.commit()
    b.store.begin(NOW_MS + 5)
    b.put(b"k", b"3")  # has seen 1 and not 2
    from_b = b.commit()
    a.receive(from_b)
    b.receive(from_a)
    (found,) = a.replica.conflicts(10)
    assert told == [found]
    assert found.place == key_place(b"k")
    assert found.winner == Stamp(from_b[0].changes[0].hlc, from_b[0].origin, 1)
    assert found.loser == Stamp(from_a[0].changes[0].hlc, from_a[0].origin, 2)
    assert b.replica.conflicts(10) == [found._replace(at_ms=NOW_MS + 5)]
    assert a.replica.stats()["conflicts"] == b.replica.stats()["conflicts"] == 1
    assert a.replica.stats()["conflicts_value"] == 1
    assert a.value(b"k") == b.value(b"k") == b"3"


def test_conflicts_are_counted_by_kind(nodes: Nodes) -> None:
    node = nodes()
    first, second = (
        dot(seq, kind=Kind.EXPIRY, content=NOW_MS + seq * 1000, hlc=hlc_at(NOW_MS) + seq) for seq in (2, 3)
    )
    node.receive([run_of(dot(1), first)])
    node.receive([run_of(second, after=2)])
    stats = node.replica.stats()
    kinds = ("conflicts_value", "conflicts_expiry", "conflicts_other")
    assert [stats[kind] for kind in kinds] == [0, 1, 0]


def test_an_informed_overwrite_is_no_conflict_in_any_order(nodes: Nodes) -> None:
    a, b, c = nodes(b"a"), nodes(b"b"), nodes(b"c")
    a.put(b"k", b"1")
    first = a.commit()
    b.receive(first)
    b.put(b"k", b"2")
    b.put(b"k", b"3", NOW_MS + 50)
    second = b.commit()
    c.receive(second)
    c.receive(first)
    a.receive(second)
    assert [node.replica.stats()["conflicts"] for node in (a, b, c)] == [0, 0, 0]


def test_conflicts_are_remembered_up_to_a_bound(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    node = nodes()
    changes = [dot(seq, b"%d" % (seq % 7), hlc=hlc_at(NOW_MS) + seq) for seq in range(1, 1500)]
    node.receive([run_of(*changes)])
    assert node.replica.stats()["conflicts"] == 1499 - 7
    assert len(node.replica.conflicts(5000)) == 1024
    assert [found.winner.seq for found in node.replica.conflicts(2)] == [1499, 1498]
    assert node.replica.conflicts(0) == []


def test_a_loser_that_several_syncs_bring_counts_once(nodes: Nodes) -> None:
    node = nodes()
    told: list[Conflict] = []
    node.replica.on_conflict(told.append)
    other = bytes([9] * 16)
    node.receive([run_of(dot(1, content=b"winner", hlc=hlc_at(NOW_MS) + 9))])
    for _ in range(2):  # covered only when the session ends
        node.replica.merge(run_of(dot(5, content=b"loser", hlc=hlc_at(NOW_MS) + 1), origin=other))
        node.commit()
    assert node.value(b"k") == b"winner"
    assert node.replica.stats()["conflicts"] == len(node.replica.conflicts(10)) == len(told) == 1


def test_a_namespace_may_not_want_its_conflicts_remembered(nodes: Nodes) -> None:
    node = nodes()
    made = node.store.keyspaces.create("blue", Policy(conflict_log=False))
    node.store.commit()
    changes = [dot(seq, place=made.id + b"k") for seq in (1, 2)]
    node.receive([run_of(*changes)])
    assert node.replica.conflicts(10) == []
    assert node.replica.stats()["conflicts"] == 1


def test_two_contents_under_one_dot_are_told_and_decided_alike(nodes: Nodes) -> None:
    values = [dot(1, content=content) for content in (b"1", b"2", b"3")]
    expiries = [dot(2, kind=Kind.EXPIRY, content=NOW_MS + ms) for ms in (1000, 2000)]
    futures = [dot(3, kind=64, content=content) for content in (b"1", b"2")]
    found = []
    for name, order in ((b"a", (0, 1, 2)), (b"b", (2, 0, 1)), (b"c", (1, 2, 0))):
        node = nodes(name)
        for index in order:
            node.replica.merge(run_of(values[index], expiries[index % 2], futures[index % 2]))
        assert node.replica.merge(run_of(values[0])) == 0
        node.store.commit()
        assert node.replica.stats()["forks"] >= 4
        found.append((contents(node.store), node.replica.conflicts(10)))
        assert findings(node.store) == []
    assert found[0] == found[1] == found[2]


# Kinds that are not understood.


def test_unknown_kinds_are_kept_and_handed_on(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    changes = [
        dot(1, kind=Kind.FIELD, sub=b"field", content=b"1"),
        dot(2, kind=Kind.COUNTER, sub=b"\x00\x01\xff", content=b"\x00"),
        dot(3, b"k\x00\x01", kind=64, content=b"2"),
        dot(4, b"k\x00\xff", kind=65535, content=b"3", metadata=b"m"),
        dot(5, b"", kind=300, sub=b"x", content=None),
        dot(7, kind=Kind.FIELD, sub=b"field", content=b"4", prev_hlc=hlc_at(NOW_MS) + 1),
    ]
    assert a.receive([run_of(*changes, upto=7)]) == 6
    assert all_changes(a.replica) == changes[1:]
    assert a.store.keyspace(0).count == 0
    assert a.value(b"k") is None
    b.sync_from(a)
    assert contents(a.store) == contents(b.store)
    assert all_changes(b.replica) == changes[1:]
    assert sorted(walked_changes(a.replica)) == sorted(changes[1:])
    nodes.reopen(b, b"b")
    assert all_changes(b.replica) == changes[1:]
    assert findings(b.store) == []
    assert digest_of(a) == digest_of(b)
    assert a.receive([run_of(dot(8, kind=Kind.FIELD, sub=b"field", hlc=hlc_at(NOW_MS) + 3))]) == 0
    assert a.replica.stats()["conflicts"] == a.replica.stats()["conflicts_other"] == 1


def test_deletions_and_flushes_erase_members(nodes: Nodes) -> None:
    node = nodes()
    hlc = hlc_at(NOW_MS)
    changes = [dot(seq, b"%d" % (seq % 2), kind=64, sub=b"%d" % seq, hlc=hlc + seq) for seq in range(1, 9)]
    node.receive([run_of(*changes)])
    node.receive([run_of(dot(9, b"1", None, kind=Kind.FLOOR, hlc=hlc + 5))])
    assert [change.seq for change in all_changes(node.replica)] == [2, 4, 6, 7, 8, 9]
    assert node.receive([run_of(dot(10, b"1", kind=64, sub=b"new", hlc=hlc + 4))]) == 0
    node.put(b"0", b"v")
    node.store.keyspace(0).delete(b"0")
    node.store.commit()
    assert [change.seq for change in all_changes(node.replica) if change.kind == 64] == [7]
    node.receive([run_of(dot(11, b"2", kind=64, hlc=node.replica.hlc + 10))])
    flush = dot(12, place=DB, content=None, kind=Kind.NAMESPACE_FLOOR, hlc=node.replica.hlc - 5)
    node.receive([run_of(flush)])
    assert [change.seq for change in all_changes(node.replica) if change.kind == 64] == [11]
    assert findings(node.store) == []
    node.store.keyspace(0).flush()
    node.store.commit()
    assert [change for change in all_changes(node.replica) if change.kind == 64] == []
    assert keys_of(node.engine, Family.MEMBERS) == []
    assert findings(node.store) == []


@pytest.mark.parametrize(
    "change",
    [
        dot(1, kind=Kind.EXPIRY, content=b"soon"),
        dot(1, kind=Kind.EXPIRY, content=-5),
        dot(1, kind=Kind.EXPIRY, content=NEVER),
        dot(1, kind=Kind.FLOOR, content=b"why"),
        dot(1, kind=Kind.VALUE, content=None, metadata=b"{}"),
        dot(1, kind=Kind.VALUE, sub=b"sub"),
        dot(1, kind=Kind.NAMESPACE_FLOOR, content=None),
    ],
)
def test_what_makes_no_sense_is_kept_and_counted(nodes: Nodes, change: Change) -> None:
    node = nodes()
    node.receive([run_of(change, dot(2, b"after"))])
    assert node.value(b"after") == b"v"
    assert node.replica.stats()["undecodable"] == 1
    assert node.replica.vector()[X] == 2
    assert all_changes(node.replica)[0] == change
    assert findings(node.store) == []


@pytest.mark.parametrize(
    "change",
    [
        dot(1, place=b"short"),
        dot(1, place=b"short", kind=64),
        dot(1, hlc=-1),
        dot(1, hlc=2**64),
        dot(1, prev_hlc=2**64),
        dot(1, kind=-1),
        dot(1, kind=2**16),
    ],
)
def test_what_cannot_be_kept_is_counted_and_covered(nodes: Nodes, change: Change) -> None:
    node = nodes()
    node.receive([run_of(change, dot(2, b"after"))])
    assert node.value(b"after") == b"v"
    assert node.replica.stats()["undecodable"] == 1
    assert node.replica.vector()[X] == 2
    assert findings(node.store) == []


def test_an_unreadable_row_gives_way(nodes: Nodes) -> None:
    node = nodes()
    node.put(b"k", b"v")
    node.store.commit()
    raw_put(node.engine, Family.RECORDS, key_place(b"k"), b"\xff")
    nodes.reopen(node)
    assert node.receive([run_of(dot(1, hlc=5))]) == 1
    assert node.value(b"k") == b"v"
    assert node.store.keyspace(0).count == 1


# What clients are told.


def test_what_won_is_told_once(nodes: Nodes) -> None:
    node = nodes()
    db = node.store.keyspace(0)
    node.put(b"mine", b"v", NOW_MS + 100)
    node.put(b"same", b"v")
    node.store.commit()
    ahead = hlc_at(NOW_MS) + 500
    changes = [
        dot(1, b"new", hlc=ahead),
        dot(2, b"same", hlc=5),
        dot(3, b"mine", NOW_MS + 700, kind=Kind.EXPIRY, hlc=ahead),
        dot(4, b"gone", None, kind=Kind.FLOOR, hlc=ahead),
        dot(5, b"over", hlc=ahead),
        dot(6, b"over", NOW_MS - 5, kind=Kind.EXPIRY, hlc=ahead),
        dot(7, b"same", None, kind=Kind.FLOOR, hlc=ahead),
        dot(8, place=database_id(3), content=None, kind=Kind.NAMESPACE_FLOOR, hlc=ahead),
        dot(9, b"another", hlc=ahead),
    ]
    node.replica.apply(run_of(*changes))
    assert node.store.applied == []
    node.store.commit()
    assert node.store.applied == [
        (db, b"new", Kind.VALUE),
        (db, b"mine", Kind.EXPIRY),
        (db, b"over", Kind.VALUE),
        (db, b"over", Kind.FLOOR),
        (db, b"same", Kind.FLOOR),
        (db, b"another", Kind.VALUE),
    ]
    node.put(b"x", b"v")
    node.store.commit()
    assert node.store.applied == []


def test_a_watched_key_is_seen_to_change(nodes: Nodes) -> None:
    node = nodes()
    db = node.store.keyspace(0)
    before = db.version(b"k")
    node.receive([run_of(dot(1))])
    written = db.version(b"k")
    assert written != before
    node.receive([run_of(dot(2, content=None, kind=Kind.FLOOR))])
    assert db.version(b"k") not in {before, written}
