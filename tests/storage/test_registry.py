"""Named namespaces: created, found, renamed, deleted, and there again after a restart."""

from __future__ import annotations

import pytest

from storage.engine import Family
from storage.errors import Aborted, KeyspaceGone, TitleTaken, TitleTooLong
from storage.layout import SYSTEM
from storage.policy import Policy
from storage.store import Store
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import findings, keys_of, raw_put, value_of
from tests.storage.replicas import Nodes, contents, dot, run_of


def titles(store: Store) -> list[str | None]:
    return [keyspace.title for keyspace in store.keyspaces.all()]


def test_a_namespace_is_there_after_opening_again(store: Store, rig: EngineRig) -> None:
    blue = store.keyspaces.create("blue")
    store.keyspaces.create("amber")
    blue.put(b"k", b"v")
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    assert titles(again) == ["amber", "blue"]
    found = again.keyspaces.find("blue")
    assert found is not None
    assert (found.id, found.index, found.count) == (blue.id, None, 1)
    assert value_of(found, b"k") == b"v"
    assert findings(again) == []


def test_a_namespace_is_found_by_id_hex_and_title(store: Store) -> None:
    blue = store.keyspaces.create("blue")
    find = store.keyspaces.find
    assert find(blue.id) is blue
    assert find(blue.id.hex()) is blue
    assert find(blue.id.hex().upper()) is blue
    assert find(blue.id.hex().encode()) is blue
    assert find("blue") is find(b"blue") is blue
    for unknown in ("Blue", "", "0" * 32, "g" * 32, b"\xff", b"x" * 16):
        assert find(unknown) is None
    assert find("00000000000000000000000000000000") is None  # SELECT's are not named


def test_a_title_that_looks_like_an_id_is_found_too(store: Store) -> None:
    odd = store.keyspaces.create("0" * 32)
    assert store.keyspaces.find("0" * 32) is odd


def test_titles_are_unique_and_bounded(store: Store) -> None:
    blue = store.keyspaces.create("blue")
    store.keyspaces.create("green")
    with pytest.raises(TitleTaken, match="'blue' exists already"):
        store.keyspaces.create("blue")
    with pytest.raises(TitleTaken):
        store.keyspaces.rename(blue.id, "green")
    for title in ("", "x" * 513, "\N{SNOWMAN}" * 171):
        with pytest.raises(TitleTooLong, match="between 1 and 512 bytes"):
            store.keyspaces.create(title)
    assert titles(store) == ["blue", "green"]
    store.keyspaces.create("\N{SNOWMAN}" * 170)


def test_renaming_keeps_id_and_records(store: Store, rig: EngineRig) -> None:
    blue = store.keyspaces.create("blue")
    blue.put(b"k", b"v")
    store.keyspaces.rename(blue.id, "navy")
    store.keyspaces.rename(blue.id, "navy")
    store.commit()
    assert blue.title == "navy"
    assert store.keyspaces.find("blue") is None
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS).keyspaces.find("navy")
    assert again is not None
    assert again.id == blue.id
    assert value_of(again, b"k") == b"v"


def test_a_deleted_namespace_is_gone_with_its_records(store: Store, rig: EngineRig) -> None:
    blue = store.keyspaces.create("blue")
    blue.put(b"k", b"v", NOW_MS + 1000)
    store.commit()
    store.keyspaces.delete(blue.id)
    store.commit()
    assert store.keyspaces.find("blue") is None
    assert [key for key in keys_of(store.engine, Family.RECORDS) if not key.startswith(SYSTEM)] == []
    assert findings(store) == []
    store.begin(NOW_MS + 1000)
    assert store.sweep(10) == 1  # its deadline is of nobody now
    store.close()
    assert titles(Store(rig.open(), now_ms=NOW_MS)) == []


def test_who_still_holds_a_deleted_namespace_is_told(store: Store) -> None:
    blue = store.keyspaces.create("blue")
    blue.put(b"k", b"v")
    store.keyspaces.delete(blue.id)
    message = f"the namespace {blue.id.hex()} does not exist"
    for use in (
        lambda: blue.get(b"k"),
        lambda: blue.put(b"k", b""),
        lambda: blue.update(b"k", b""),
        lambda: blue.expire(b"k", NOW_MS + 1),
        lambda: blue.delete(b"k"),
        lambda: blue.version(b"k"),
        lambda: blue.scan(b"", None, 1),
        lambda: blue.prefetch([b"k"]),
        blue.flush,
        blue.random_key,
    ):
        with pytest.raises(KeyspaceGone, match=message):
            use()
    with pytest.raises(KeyspaceGone):
        store.keyspaces.delete(blue.id)
    with pytest.raises(KeyspaceGone):
        store.keyspaces.rename(blue.id, "navy")


def test_the_same_title_may_come_back_as_another_namespace(store: Store) -> None:
    first = store.keyspaces.create("blue")
    store.keyspaces.delete(first.id)
    second = store.keyspaces.create("blue")
    assert second.id != first.id
    store.commit()
    assert store.keyspaces.find("blue") is second


def test_flush_all_empties_named_namespaces_and_keeps_them(store: Store) -> None:
    blue = store.keyspaces.create("blue")
    blue.put(b"k", b"v")
    store.keyspace(5).put(b"k", b"v")
    store.commit()
    store.flush_all()
    store.commit()
    assert titles(store) == ["blue"]
    assert blue.get(b"k") is None
    assert store.keyspace(5).count == blue.count == 0


def test_a_title_that_is_not_text_does_not_keep_the_store_from_opening(store: Store, rig: EngineRig) -> None:
    blue = store.keyspaces.create("blue")
    store.keyspaces.system.put(blue.id, b"\xffblue")
    raw_put(store.engine, Family.RECORDS, SYSTEM + b"n" * 16, b"garbage")
    store.commit()
    store.close()
    assert titles(Store(rig.open(), now_ms=NOW_MS)) == ["\N{REPLACEMENT CHARACTER}blue"]


# What other nodes do to it.


def test_namespaces_of_others_come_and_go(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = a.store.keyspaces.create("blue", Policy(value_bytes_max=5))
    made.put(b"k", b"v")
    b.receive(a.commit())
    found = b.store.keyspaces.find("blue")
    assert found is not None
    assert (found.id, found.count, found.policy.value_bytes_max) == (made.id, 1, 5)
    a.store.keyspaces.rename(made.id, "green")
    a.store.keyspaces.change(made.id, value_bytes_max=7, conflict_log=False, history=3)
    b.receive(a.commit())
    assert b.store.keyspaces.find("blue") is None
    assert b.store.keyspaces.find("green") is found
    assert found.policy == Policy(value_bytes_max=7, conflict_log=False, history=3)
    with a.store.atomic():
        a.store.keyspaces.delete(made.id)
    b.receive(a.commit())
    assert b.store.keyspaces.all() == []
    with pytest.raises(KeyspaceGone):
        found.get(b"k")
    assert contents(a.store) == contents(b.store)
    assert findings(b.store) == []
    nodes.reopen(b, b"b")
    assert b.store.keyspaces.all() == []
    assert findings(b.store) == []


def test_the_registry_of_others_takes_effect_with_the_commit(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    a.store.keyspaces.create("blue")
    runs = a.commit()
    b.replica.apply(runs[0])
    assert b.store.keyspaces.find("blue") is None
    b.store.poison("a test")
    with pytest.raises(Aborted):
        b.store.commit()
    assert b.store.keyspaces.find("blue") is None
    b.receive(runs)
    assert b.store.keyspaces.find("blue") is not None


def test_records_may_come_before_their_namespace(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = a.store.keyspaces.create("blue")
    made.put(b"k", b"v", NOW_MS + 1000)
    made.put(b"l", b"v")
    (run,) = a.commit()
    registry, *records = run.changes
    b.replica.merge(run._replace(changes=records))
    b.store.commit()
    assert b.store.applied == []
    assert b.store.keyspaces.all() == []
    assert b.store.keyspaces.by_id(made.id) is None
    hidden = b.store.keyspaces.obtain(made.id)
    assert (hidden.count, hidden.expires) == (2, 1)
    assert findings(b.store) == []
    nodes.reopen(b, b"b")
    b.replica.merge(run._replace(changes=[registry]))
    b.store.commit()
    found = b.store.keyspaces.find("blue")
    assert found is not None
    assert (found.count, found.expires) == (2, 1)
    assert value_of(found, b"k") == b"v"
    b.store.begin(NOW_MS + 2000)
    b.store.sweep(10)
    assert found.count == 1
    assert findings(b.store) == []


def test_a_hidden_namespace_is_swept_too(nodes: Nodes) -> None:
    node = nodes()
    unknown = b"\x77" * 16
    node.receive(
        [run_of(dot(1, place=unknown + b"k"), dot(2, place=unknown + b"k", kind=1, content=NOW_MS + 5))]
    )
    node.store.begin(NOW_MS + 10)
    assert node.store.sweep(10) == 1
    assert node.store.keyspaces.obtain(unknown).count == 0
    assert findings(node.store) == []


def test_what_is_written_while_another_deletes_the_namespace_is_kept_out_of_sight(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = a.store.keyspaces.create("blue")
    b.receive(a.commit())
    with a.store.atomic():
        a.store.keyspaces.delete(made.id)
    deleted = a.commit()
    b.store.begin(NOW_MS + 10)
    found = b.store.keyspaces.find("blue")
    assert found is not None
    found.put(b"k", b"v")
    written = b.commit()
    b.receive(deleted)
    a.receive(written)
    assert contents(a.store) == contents(b.store)
    for node in (a, b):
        assert node.store.keyspaces.all() == []
        assert node.store.keyspaces.obtain(made.id).count == 1
        assert findings(node.store) == []


def test_a_namespace_deleted_and_written_by_others_in_one_tick(nodes: Nodes) -> None:
    node = nodes()
    made = node.store.keyspaces.create("blue")
    made.put(b"k", b"v")
    node.store.commit()
    for fails in (True, False):
        node.store.keyspaces.delete(made.id)
        ahead = node.replica.hlc + 50
        node.replica.apply(run_of(dot(1, place=made.id + b"l", hlc=ahead)))
        if fails:
            node.store.poison("a test")
            with pytest.raises(Aborted):
                node.store.commit()
            assert value_of(made, b"k") == b"v"
            assert value_of(made, b"l") is None
            assert made.count == 1
            assert findings(node.store) == []
        else:
            node.store.commit()
    hidden = node.store.keyspaces.obtain(made.id)
    assert hidden.count == 1
    assert value_of(hidden, b"l") == b"v"
    assert value_of(hidden, b"k") is None
    assert findings(node.store) == []


def test_a_title_given_twice_finds_the_older_namespace(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    first = a.store.keyspaces.create("blue")
    b.store.begin(NOW_MS + 5)
    second = b.store.keyspaces.create("blue")
    runs = (a.commit(), b.commit())
    b.receive(runs[0])
    a.receive(runs[1])
    for node in (a, b):
        assert {keyspace.id for keyspace in node.store.keyspaces.all()} == {first.id, second.id}
        found = node.store.keyspaces.find("blue")
        assert found is not None
        assert found.id == first.id
        by_id = node.store.keyspaces.find(second.id.hex())
        assert by_id is not None
        assert by_id.id == second.id
        with pytest.raises(TitleTaken):
            node.store.keyspaces.create("blue")
    order = [[keyspace.id for keyspace in node.store.keyspaces.all()] for node in (a, b)]
    assert order[0] == order[1]


def test_what_is_not_replicated_is_deleted_with_its_namespace(nodes: Nodes) -> None:
    a, b = nodes(b"a"), nodes(b"b")
    made = a.store.keyspaces.create("here", Policy(replicate="none"))
    made.put(b"k", b"from a")
    b.receive(a.commit())
    found = b.store.keyspaces.find("here")
    assert found is not None
    assert found.is_local
    assert found.count == 0
    found.put(b"k", b"from b")
    assert b.commit() == []
    assert value_of(made, b"k") == b"from a"
    with a.store.atomic():
        a.store.keyspaces.delete(made.id)
    b.receive(a.commit())
    assert [key for key in keys_of(b.engine, Family.RECORDS) if key.startswith(made.id)] == []
    assert findings(a.store) == findings(b.store) == []


def test_a_flush_of_the_registry_by_another_is_followed(nodes: Nodes) -> None:
    node = nodes()
    node.store.keyspaces.create("blue")
    node.store.commit()
    ahead = node.replica.hlc + 5
    node.receive([run_of(dot(1, place=SYSTEM, kind=5, content=None, hlc=ahead))])
    assert node.store.keyspaces.all() == []


def test_a_registry_record_of_the_wrong_shape_is_no_namespace(nodes: Nodes) -> None:
    node = nodes()
    node.receive([run_of(dot(1, place=SYSTEM + b"short"), dot(2, place=SYSTEM + b"n" * 16, content=b"\xff"))])
    assert [keyspace.title for keyspace in node.store.keyspaces.all()] == ["\ufffd"]
    nodes.reopen(node)
    assert [keyspace.title for keyspace in node.store.keyspaces.all()] == ["\ufffd"]
