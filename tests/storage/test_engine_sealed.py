"""A store over encrypted values: what it shows, what lies on the disk, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.changes import Kind
from storage.engine import Engine, Family
from storage.engine_memory import MemoryEngine
from storage.engine_rocksdb import RocksEngine
from storage.engine_sealed import SEALED, SealedEngine, keys_in_use
from storage.errors import DamagedFiles, KeyMissing, NewerFormat, NoSpace, Unopenable, WrongKey
from storage.keyring import Key, Keyring, disused, new_keyring, rotated, without
from storage.layout import META_FORMAT, META_KEYS, database_id
from storage.policy import Policy
from storage.record import NEVER, dumps
from storage.replica import StoreReplica
from storage.sealing import MARK, key_id_of
from storage.store import Store, StoreOptions
from storage.verify import Verifier, open_verifier
from tests.storage.engines import EngineRig
from tests.storage.helpers import findings, raw_put, value_of
from tests.storage.replicas import Node, all_changes, with_bodies

NOW_MS = 1_700_000_000_000
KEYRING = Keyring((Key(b"\xaa" * 4, bytes(range(32))),), b"\xaa" * 4)
OTHER = Keyring((Key(b"\xbb" * 4, bytes(range(1, 33))),), b"\xbb" * 4)
WITH = StoreOptions(keyring=KEYRING)
SECRET = b"the quick brown fox"
NOTE = b'{"jumps":"over the lazy dog"}'


def opened(rig: EngineRig, keyring: Keyring | None = KEYRING) -> Store:
    return Store(rig.open(), StoreOptions(keyring=keyring), now_ms=NOW_MS)


def image(engine: Engine) -> dict[Family, list[tuple[bytes, bytes]]]:
    return {family: list(engine.iterate(family)) for family in Family}


def inner_of(store: Store) -> Engine:
    assert isinstance(store.engine, SealedEngine)
    return store.engine.inner


def files_with(directory: Path, *texts: bytes) -> list[str]:
    """Return the names of the files that hold one of the texts."""
    return [
        path.name
        for path in sorted(directory.rglob("*"))
        if path.is_file() and any(text in path.read_bytes() for text in texts)
    ]


def test_a_store_with_keys_shows_what_one_without_does(rig: EngineRig) -> None:
    store = opened(rig)
    keyspace = store.keyspace(0)
    keyspace.put(b"k", SECRET, NOW_MS + 5000, NOTE)
    keyspace.put(b"large", SECRET * 20_000)
    store.commit()
    again = opened(rig)
    record = again.keyspace(0).get(b"k")
    assert record is not None
    assert record[:3] == (SECRET, NOW_MS + 5000, NOTE)
    assert value_of(again.keyspace(0), b"large") == SECRET * 20_000
    assert [key for key, _ in again.keyspace(0).scan(b"", None, 10)[0]] == [b"k", b"large"]
    assert findings(again) == []
    for family in SEALED:
        assert all(key_id_of(value) == b"\xaa" * 4 for _, value in inner_of(again).iterate(family))


def test_without_keys_the_engine_is_used_as_it_is(rig: EngineRig) -> None:
    engine = rig.open()
    store = Store(engine, now_ms=NOW_MS)
    assert store.engine is engine
    assert store.resealer is None


def fill(store: Store) -> None:
    """Write values, metadata, members, past versions and titles in every way that there is."""
    keyspace = store.keyspace(0)
    keyspace.put(b"small", SECRET)
    keyspace.put(b"noted", b"", NEVER, NOTE)
    keyspace.put(b"blob", SECRET * 20_000)  # beside the tables, in a blob file
    keyspace.put(b"gone", SECRET)
    keyspace.delete(b"gone")
    keyspace.put(b"expired", SECRET, NOW_MS + 1)
    if store.keyspaces.find(SECRET.decode()) is None:
        store.keyspaces.create(SECRET.decode(), Policy(history=2))
    named = store.keyspaces.find(SECRET.decode())
    assert named is not None
    for value in (SECRET, SECRET * 20_000, NOTE):  # the first two are past versions then
        named.put(b"past", value)
    replica = StoreReplica(store)
    replica.put_system(b"member:x", NOTE)
    source = Node(b"source")
    source.put(b"replicated", SECRET, NEVER, NOTE)
    source.put(b"replicated blob", SECRET * 20_000)
    runs = source.commit()
    # Kinds that only a later version understands are carried as they are.
    later = runs[0].changes[0]._replace(kind=700, sub=b"field", content=SECRET, metadata=NOTE)
    runs[0] = runs[0]._replace(changes=[later, *runs[0].changes[1:]])
    for run in runs:
        replica.apply(with_bodies(run, source))
    store.commit()


def test_the_files_hold_neither_values_nor_metadata(tmp_path: Path) -> None:
    path = tmp_path / "data"
    store = Store.open(path, WITH)
    fill(store)
    assert store.engine.get(Family.MEMBERS, next(iter(store.engine.iterate(Family.MEMBERS)))[0]) is not None
    assert files_with(path, SECRET, NOTE) == [], "in the log"
    assert files_with(path, b"small"), "keys are readable, and the test would find what is"
    store.sync()
    store.checkpoint(tmp_path / "copy")  # flushes
    assert files_with(tmp_path, SECRET, NOTE) == [], "in tables and copies"
    fill(store)
    store.engine.compact()
    assert files_with(tmp_path, SECRET, NOTE) == [], "after compaction"
    store.close()
    assert files_with(tmp_path, SECRET, NOTE) == []


def test_the_same_without_keys_leaves_them_in_the_files(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    fill(store)
    assert files_with(tmp_path, SECRET)
    assert files_with(tmp_path, NOTE)
    store.close()


@pytest.mark.parametrize("keyring", [None, OTHER, rotated(OTHER)])
def test_a_missing_key_is_named_and_nothing_is_changed(rig: EngineRig, keyring: Keyring | None) -> None:
    store = opened(rig)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    engine = rig.open()
    before = image(engine)
    with pytest.raises(KeyMissing, match=r"encrypted with the key aaaaaaaa.*Nothing was changed"):
        Store(engine, StoreOptions(keyring=keyring), now_ms=NOW_MS)
    assert image(engine) == before
    assert value_of(opened(rig).keyspace(0), b"k") == SECRET


def test_a_wrong_key_is_named_and_nothing_is_changed(rig: EngineRig) -> None:
    store = opened(rig)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    engine = rig.open()
    before = image(engine)
    wrong = Keyring((Key(b"\xaa" * 4, bytes(32)),), b"\xaa" * 4)
    with pytest.raises(WrongKey, match="the key aaaaaaaa is not the one"):
        Store(engine, StoreOptions(keyring=wrong), now_ms=NOW_MS)
    assert image(engine) == before
    assert value_of(opened(rig).keyspace(0), b"k") == SECRET


def test_a_wrong_key_is_told_even_before_anything_was_written(rig: EngineRig) -> None:
    opened(rig)
    with pytest.raises(KeyMissing):
        opened(rig, None)
    with pytest.raises(KeyMissing):
        opened(rig, OTHER)


def test_a_newer_format_is_told_before_the_keys_are_looked_at() -> None:
    engine = MemoryEngine()
    Store(engine, now_ms=NOW_MS)
    raw_put(engine, Family.META, META_FORMAT, dumps(99))
    before = image(engine)
    with pytest.raises(NewerFormat):
        Store(engine, WITH, now_ms=NOW_MS)
    assert image(engine) == before


@pytest.mark.parametrize(
    "stored", [b"", b"\xff", dumps(7), dumps([]), dumps([[b"abc", bytes(16)]]), dumps([[b"abcd", b""]])]
)
def test_a_damaged_row_of_the_keys_is_told(stored: bytes) -> None:
    engine = MemoryEngine()
    Store(engine, WITH, now_ms=NOW_MS)
    raw_put(engine, Family.META, META_KEYS, stored)
    with pytest.raises(DamagedFiles, match="the row of the keys in use"):
        Store(engine, WITH, now_ms=NOW_MS)


def test_a_value_that_was_changed_stops_nothing_else(rig: EngineRig) -> None:
    store = opened(rig)
    for key in (b"a", b"bad", b"c"):
        store.keyspace(0).put(key, SECRET)
    store.commit()
    inner = inner_of(store)
    place = database_id(0) + b"bad"
    stored = inner.get(Family.RECORDS, place)
    assert stored is not None
    raw_put(inner, Family.RECORDS, place, stored[:-1] + bytes([stored[-1] ^ 1]))
    again = opened(rig)
    keyspace = again.keyspace(0)
    with pytest.raises(Unopenable, match=r"b'bad' of namespace 0{32} does not open with its key aaaaaaaa"):
        keyspace.get(b"bad")
    assert value_of(keyspace, b"a") == SECRET
    assert [key for key, _ in keyspace.scan(b"", None, 10)[0]] == [b"a", b"c"]
    keyspace.prefetch([b"a", b"bad", b"c"])
    assert {change.place for change in all_changes(StoreReplica(again))} == {
        database_id(0) + b"a",
        database_id(0) + b"c",
    }
    assert any("b'bad'" in found and "does not open" in found for found in findings(again))
    keyspace.put(b"new", SECRET)
    again.commit()
    assert keyspace.delete(b"bad") is False or keyspace.get(b"bad") is None
    again.commit()


def test_values_that_changed_places_do_not_open(rig: EngineRig) -> None:
    store = opened(rig)
    store.keyspace(0).put(b"poor", b"1")
    store.keyspace(0).put(b"rich", b"1000000")
    store.commit()
    inner = inner_of(store)
    poor, rich = (database_id(0) + key for key in (b"poor", b"rich"))
    taken = inner.get(Family.RECORDS, rich)
    assert taken is not None
    raw_put(inner, Family.RECORDS, poor, taken)
    with pytest.raises(Unopenable):
        opened(rig).keyspace(0).get(b"poor")


def test_a_plain_value_put_among_encrypted_ones_does_not_count(rig: EngineRig) -> None:
    plain = Store(MemoryEngine(), now_ms=NOW_MS)
    plain.keyspace(0).put(b"k", b"forged")
    plain.commit()
    place = database_id(0) + b"k"
    forged = plain.engine.get(Family.RECORDS, place)
    assert forged is not None
    store = opened(rig)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    raw_put(inner_of(store), Family.RECORDS, place, forged)
    with pytest.raises(Unopenable, match="is not encrypted, as it has to be"):
        opened(rig).keyspace(0).get(b"k")


def test_a_snapshot_shows_its_moment(rig: EngineRig) -> None:
    store = opened(rig)
    place = database_id(0) + b"k"
    store.keyspace(0).put(b"k", b"before")
    store.commit()
    snapshot = store.engine.snapshot()
    row = store.engine.get(Family.RECORDS, place)
    store.keyspace(0).put(b"k", b"after")
    store.commit()
    assert snapshot.get(Family.RECORDS, place) == row
    assert snapshot.multi_get(Family.RECORDS, [place, b"none"]) == [row, None]
    assert dict(snapshot.iterate(Family.RECORDS))[place] == row
    assert next(snapshot.iterate(Family.RECORDS, database_id(0), reverse=False))[1] == row
    snapshot.close()


@pytest.fixture(params=["keys", "no keys"])
def pair(request: pytest.FixtureRequest) -> tuple[Node, Node]:
    """Two nodes, one with keys of its own, the other with others or none."""
    other = StoreOptions(keyring=OTHER if request.param == "keys" else None)
    return Node(b"a", options=WITH), Node(b"b", options=other)


def digest_of(node: Node) -> Any:
    feed = node.replica.feed()
    try:
        return list(node.replica.digest(feed))[-1]
    finally:
        feed.close()


def test_nodes_with_different_keys_hold_equal_cells(pair: tuple[Node, Node]) -> None:
    one, two = pair
    for number in range(50):
        one.put(b"one %d" % number, SECRET, NEVER, NOTE)
        two.put(b"two %d" % number, SECRET * 5000)
    two.receive(one.commit(), one)
    one.receive(two.commit(), two)
    assert digest_of(one) == digest_of(two) != {}
    assert one.value(b"two 7") == two.value(b"two 7") == SECRET * 5000
    third = Node(b"c")
    third.sync_from(one)
    assert digest_of(third) == digest_of(one)
    assert {change.kind for change in all_changes(third.replica)} == {Kind.VALUE}


def test_a_value_that_does_not_open_is_mended_by_a_peer(pair: tuple[Node, Node]) -> None:
    one, two = pair
    for number in range(20):
        one.put(b"%d" % number, SECRET, NEVER, NOTE)
    two.receive(one.commit(), two)
    place = database_id(0) + b"7"
    inner = inner_of(one.store)
    stored = inner.get(Family.RECORDS, place)
    assert stored is not None
    raw_put(inner, Family.RECORDS, place, stored[:-1] + bytes([stored[-1] ^ 1]))
    one.open(NOW_MS)
    assert digest_of(one) != digest_of(two), "verification finds it"
    for run in two.replica.changes_at([place]):
        one.replica.repair(run)
    one.store.commit()
    assert digest_of(one) == digest_of(two)
    assert one.value(b"7") == SECRET
    assert findings(one.store) == []


def test_a_directory_is_verified_with_its_keys_only(tmp_path: Path) -> None:
    path = tmp_path / "data"
    store = Store.open(path, WITH)
    fill(store)
    store.close()
    with open_verifier(path, now_ms=2**45, keyring=KEYRING) as verifier:
        assert list(verifier.run()) == []
    with pytest.raises(KeyMissing), open_verifier(path, now_ms=2**45):
        pytest.fail("it was opened")
    engine = RocksEngine(path, create=False)
    assert isinstance(next(iter(SealedEngine(engine, KEYRING, {}).iterate(Family.RECORDS)))[1], bytes)
    place = database_id(0) + b"small"
    raw_put(engine, Family.RECORDS, place, MARK + bytes(80))
    engine.close()
    with open_verifier(path, now_ms=2**45, keyring=KEYRING) as verifier:
        found = [str(finding) for finding in verifier.run()]
    assert any("b'small'" in line and "the key 00000000, which is not there" in line for line in found)


def test_a_key_that_is_not_told_to_be_in_use_is_found(rig: EngineRig) -> None:
    store = opened(rig)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    both = rotated(KEYRING)
    store.adopt_keys(both)
    assert isinstance(store.engine, SealedEngine)
    check = store.engine.in_use[both.current]
    raw_put(inner_of(store), Family.META, META_KEYS, dumps([[both.current, check]]))
    engine = rig.open()
    reader = SealedEngine(engine, both, keys_in_use(engine))
    found = [str(finding) for finding in Verifier(reader, now_ms=2**45).run()]
    assert found == ["keys: values need the key aaaaaaaa, which is not told to be in use"]


def test_a_key_that_cannot_be_written_down_is_not_used() -> None:
    engine = MemoryEngine()
    store = Store(engine, WITH, now_ms=NOW_MS)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    both = rotated(KEYRING)
    for fail in (engine.fail_next, engine.fail_next_sync):
        fail(NoSpace("memory"))
        with pytest.raises(NoSpace):
            store.adopt_keys(both)
        assert isinstance(store.writable, NoSpace)
        assert store.keyring is KEYRING
        assert store.keys_in_use == [KEYRING.current]
        assert store.probe()
        store.keyspace(0).put(b"k", SECRET)
        store.commit()
        assert {key_id_of(value) for _, value in engine.iterate(Family.RECORDS)} == {KEYRING.current}
    store.adopt_keys(both)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    assert {key_id_of(value) for _, value in engine.iterate(Family.RECORDS)} == {both.current}


def test_verifying_writes_nothing_even_with_a_new_key(rig: EngineRig) -> None:
    store = opened(rig)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    engine = rig.open()
    before = image(engine)
    reader = SealedEngine(engine, rotated(KEYRING), keys_in_use(engine))
    assert list(Verifier(reader, now_ms=2**45).run()) == []
    assert image(engine) == before


def test_a_checkpoint_opens_with_the_same_keys(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data", WITH)
    store.keyspace(0).put(b"k", SECRET, NEVER, NOTE)
    store.commit()
    store.checkpoint(tmp_path / "copy")
    store.close()
    with pytest.raises(KeyMissing):
        Store.open(tmp_path / "copy")
    copy = Store.open(tmp_path / "copy", WITH)
    assert value_of(copy.keyspace(0), b"k") == SECRET
    copy.close()


def test_other_keys_are_adopted_only_if_they_fit(rig: EngineRig) -> None:
    store = opened(rig)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    before = image(inner_of(store))
    with pytest.raises(KeyMissing):
        store.adopt_keys(OTHER)
    with pytest.raises(WrongKey):
        store.adopt_keys(Keyring((Key(b"\xaa" * 4, bytes(32)),), b"\xaa" * 4))
    assert image(inner_of(store)) == before
    store.keyspace(0).put(b"l", SECRET)
    store.commit()
    assert value_of(opened(rig).keyspace(0), b"l") == SECRET


def test_a_key_that_was_removed_too_early_is_missed_at_the_start(rig: EngineRig) -> None:
    store = opened(rig)
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    both = rotated(KEYRING)
    store.adopt_keys(both)
    early = without(both, b"\xaa" * 4)
    with pytest.raises(KeyMissing, match="aaaaaaaa"):
        store.adopt_keys(early)
    with pytest.raises(KeyMissing, match="aaaaaaaa"):
        opened(rig, early)
    assert value_of(opened(rig, both).keyspace(0), b"k") == SECRET


def test_a_keyring_that_says_plain_starts_a_plain_store(rig: EngineRig) -> None:
    store = opened(rig, disused(new_keyring()))
    store.keyspace(0).put(b"k", SECRET)
    store.commit()
    assert value_of(opened(rig, None).keyspace(0), b"k") == SECRET
