"""Named namespaces: created, found, renamed, deleted, and there again after a restart."""

from __future__ import annotations

import pytest

from storage.engine import Family
from storage.errors import KeyspaceGone, TitleTaken, TitleTooLong
from storage.layout import SYSTEM
from storage.store import Store
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import findings, keys_of, raw_put, value_of


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
