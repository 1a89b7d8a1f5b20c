"""Verification finds every kind of planted fault, says where, and finds nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.changelog import encode_chunk
from storage.changes import Kind
from storage.engine import Engine, Family
from storage.errors import Locked, Missing, NewerFormat
from storage.layout import (
    BODYLESS_PREFIX,
    EXPIRY_KIND,
    META_FORMAT,
    META_NODE,
    PURGE_KIND,
    SYSTEM,
    change_key,
    covered_key,
    database_id,
    deadline_prefix,
    history_key,
    member_suffix,
    origin_key,
    parse_deadline,
    place_prefix,
)
from storage.record import NEVER, dumps, encode
from storage.store import Store
from storage.verify import Verifier, open_verifier
from storage.version import NO_PREV, hlc_at, pack_register
from tests.storage.conftest import NOW_MS
from tests.storage.helpers import findings, keys_of, raw_delete, raw_put, stamp_of
from tests.storage.histories import change, remembering
from tests.storage.replicas import Node, Nodes, dot, run_of

DB = database_id(0)
OLD = pack_register(hlc_at(NOW_MS - 5000), 1, 1, NO_PREV)


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with every kind of row."""
    keyspace = store.keyspace(0)
    for number in range(30):
        keyspace.put(b"plain %d" % number, b"v")
    keyspace.put(b"ttl", b"v", NOW_MS + 60_000)
    keyspace.put(b"full", b"v", NOW_MS + 60_000, b"{}")
    keyspace.put(b"deleted", b"v")
    keyspace.delete(b"deleted")
    keyspace.put(b"again", b"v")
    keyspace.delete(b"again")
    keyspace.put(b"again", b"v")
    store.keyspace(1).put(b"k", b"v")
    store.keyspace(2).put(b"k", b"v")
    store.keyspace(2).flush()
    store.keyspaces.create("blue").put(b"k", b"v")
    store.commit()
    return store


@pytest.mark.parametrize("pass_rows", [1, 5, 1_000_000])
def test_nothing_is_wrong_with_what_the_store_wrote(filled: Store, pass_rows: int) -> None:
    verifier = Verifier(filled.engine, now_ms=NOW_MS, pass_rows=pass_rows)
    assert list(verifier.run()) == []
    summary = verifier.summary
    assert (summary.keys, summary.dead_rows, summary.namespaces) == (36, 1, 1)
    assert (summary.chunks, summary.findings) == (1, 0)
    assert summary.deadlines == len(keys_of(filled.engine, Family.DEADLINES))
    assert summary.dots == 44


def deadline_of(engine: Engine, key: bytes, kind: int) -> bytes:
    for entry in keys_of(engine, Family.DEADLINES):
        _, found, row_key = parse_deadline(entry)
        if (found, row_key) == (kind, DB + key):
            return entry
    raise AssertionError(key)


def put_row(key: bytes, row: bytes) -> Callable[[Engine], None]:
    return lambda engine: raw_put(engine, Family.RECORDS, DB + key, row)


def drop_deadline(key: bytes, kind: int) -> Callable[[Engine], None]:
    return lambda engine: raw_delete(engine, Family.DEADLINES, deadline_of(engine, key, kind))


def late_deadline(engine: Engine) -> None:
    drop_deadline(b"ttl", EXPIRY_KIND)(engine)
    raw_put(engine, Family.DEADLINES, deadline_prefix(NOW_MS + 60_001, EXPIRY_KIND) + DB + b"ttl", b"")


def swap_rows(engine: Engine) -> None:
    first, second = DB + b"plain 1", DB + b"plain 2"
    row, other = engine.get(Family.RECORDS, first), engine.get(Family.RECORDS, second)
    assert row is not None
    assert other is not None
    raw_put(engine, Family.RECORDS, first, other)
    raw_put(engine, Family.RECORDS, second, row)


def garbage_chunk(engine: Engine) -> None:
    raw_put(engine, Family.CHANGES, change_key(1, 1000), b"garbage")
    raw_put(engine, Family.CHANGES, change_key(1, 2000), encode_chunk(2**62, [], []))


FAULTS: dict[str, tuple[Callable[[Engine], None], list[str]]] = {
    "garbage row": (put_row(b"plain 3", b"garbage"), ["record b'plain 3'", "cannot be read", "there are 32"]),
    "row lost": (
        lambda engine: raw_delete(engine, Family.RECORDS, DB + b"plain 3"),
        ["counts", "stored are 33 keys"],
    ),
    "row of an unknown origin": (
        put_row(b"plain 3", encode((b"v", NEVER, None, pack_register(1, 77, 1, NO_PREV), None, None))),
        ["record b'plain 3'", "(77, 1) has no known origin"],
    ),
    "row from the future": (
        put_row(b"plain 3", encode((b"v", NEVER, None, pack_register(2**63, 1, 4, NO_PREV), None, None))),
        ["record b'plain 3'", "newer than the newest one in the change log"],
    ),
    "row with a dot that the log gives to another": (swap_rows, ["does not name it for its dot (1, 2)"]),
    "row in a long form": (
        put_row(b"plain 3", dumps([0, pack_register(hlc_at(NOW_MS), 1, 4, NO_PREV), b"v", *[None] * 4])),
        ["record b'plain 3'", "canonical form"],
    ),
    "row that its own floor kills": (
        put_row(
            b"deleted",
            encode((None, 0, None, OLD, None, pack_register(hlc_at(NOW_MS), 1, 2, NO_PREV))),
        ),
        ["record b'deleted'", "what its own deletion should have removed"],
    ),
    "row that the flush kills": (
        lambda engine: raw_put(
            engine, Family.RECORDS, database_id(2) + b"k", encode((b"v", NEVER, None, OLD, None, None))
        ),
        [f"record b'k' of namespace {database_id(2).hex()}", "older than the last flush"],
    ),
    "row of no namespace": (
        lambda engine: raw_put(
            engine, Family.RECORDS, b"?" * 16 + b"k", encode((b"v", NEVER, None, OLD, None, None))
        ),
        ["record b'k'", "its namespace does not exist"],
    ),
    "wrong count": (
        lambda engine: raw_put(engine, Family.META, b"count:" + DB, dumps([35, 2, 1, 0])),
        [
            "counts of namespace",
            "stored are 35 keys, 2 with an expiry, 1 deletions",
            "there are 33 keys, 2 with",
        ],
    ),
    "wrong count of expiries": (
        lambda engine: raw_put(engine, Family.META, b"count:" + DB, dumps([33, 0, 1, 0])),
        ["counts of namespace", "33 keys, 0 with"],
    ),
    "damaged count": (
        lambda engine: raw_put(engine, Family.META, b"count:" + DB, dumps(7)),
        ["counts", "damaged"],
    ),
    "count of nothing": (
        lambda engine: raw_put(engine, Family.META, b"count:" + database_id(9), dumps([1, 0, 0, 0])),
        [f"counts of namespace {database_id(9).hex()}", "stored are 1 keys"],
    ),
    "expiry without deadline": (
        drop_deadline(b"ttl", EXPIRY_KIND),
        ["record b'ttl'", "its expiry has no deadline"],
    ),
    "expiry with a late deadline": (late_deadline, ["record b'ttl'", "its expiry has no deadline"]),
    "tombstone without deadline": (
        drop_deadline(b"deleted", PURGE_KIND),
        ["record b'deleted'", "its deletion has no deadline"],
    ),
    "floor of a live row without deadline": (
        drop_deadline(b"again", PURGE_KIND),
        ["record b'again'", "its deletion has no deadline"],
    ),
    "log lost": (
        lambda engine: raw_delete(engine, Family.CHANGES, change_key(1, 1)),
        ["record b'plain 0'", "newer than the newest", "does not name it for its dot (1, 1)"],
    ),
    "garbage chunk": (
        lambda engine: raw_put(engine, Family.CHANGES, change_key(1, 1000), b"garbage"),
        ["meta row cannot be read"],
    ),
    "garbage chunk in the middle": (
        garbage_chunk,
        ["chunk of origin 1 from 1000 on", "cannot be read"],
    ),
    "overlapping chunk": (
        lambda engine: raw_put(
            engine, Family.CHANGES, change_key(1, 10), encode_chunk(2**63, [DB + b"x"], [])
        ),
        ["chunk of origin 1 from 10 on", "does not follow the chunk before it"],
    ),
    "chunk of an unknown origin": (
        lambda engine: raw_put(engine, Family.CHANGES, change_key(9, 1), encode_chunk(1, [DB + b"x"], [])),
        ["chunk of origin 9 from 1 on", "its origin is unknown"],
    ),
    "damaged floor": (
        lambda engine: raw_put(engine, Family.META, b"floor:" + database_id(2), b"short"),
        [f"floor of namespace {database_id(2).hex()}", "5 bytes instead of 32"],
    ),
    "floor that the log does not name": (
        lambda engine: raw_put(engine, Family.META, b"floor:" + database_id(5), OLD),
        ["(1, 1)"],
    ),
    "damaged origin": (
        lambda engine: raw_put(engine, Family.META, origin_key(1), dumps([b"short", 1])),
        ["meta", "damaged"],
    ),
    "damaged node id": (
        lambda engine: raw_put(engine, Family.META, META_NODE, b""),
        ["the node id is missing"],
    ),
    "damaged format": (lambda engine: raw_put(engine, Family.META, META_FORMAT, b"\xff"), ["format row"]),
    "no format": (lambda engine: raw_delete(engine, Family.META, META_FORMAT), ["there is no format row"]),
    "garbage in the registry": (
        lambda engine: raw_put(engine, Family.RECORDS, SYSTEM + b"n" * 16, b"garbage"),
        ["record b'nnnnnnnnnnnnnnnn'", "cannot be read"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(filled: Store, fault: str) -> None:
    plant, wanted = FAULTS[fault]
    plant(filled.engine)
    for pass_rows in (3, 1_000_000):
        found = findings(filled, pass_rows=pass_rows)
        assert found
        text = "\n".join(found)
        for part in wanted:
            assert part in text


def test_a_clock_far_ahead_is_told(filled: Store) -> None:
    assert findings(filled, now_ms=NOW_MS - 59_000) == []
    (found,) = findings(filled, now_ms=NOW_MS - 61_000)
    assert found.startswith("clock: the newest stamp is 61")


def test_a_newer_format_is_not_judged(filled: Store) -> None:
    raw_put(filled.engine, Family.META, META_FORMAT, dumps(2))
    with pytest.raises(NewerFormat):
        findings(filled)


def test_verification_writes_nothing(filled: Store) -> None:
    before = {family: list(filled.engine.iterate(family)) for family in Family}
    assert findings(filled) == []
    assert {family: list(filled.engine.iterate(family)) for family in Family} == before


def test_a_directory_is_verified_offline(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.keyspace(0).put(b"k", b"v")
    store.commit()
    with pytest.raises(Locked), open_verifier(tmp_path, now_ms=NOW_MS):
        pass
    store.close()
    with open_verifier(tmp_path, now_ms=2**45) as verifier:
        assert list(verifier.run()) == []
        assert verifier.summary.keys == 1
    with pytest.raises(Missing), open_verifier(tmp_path / "nowhere", now_ms=NOW_MS):
        pass


def test_a_damaged_table_is_a_finding(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for number in range(2000):
        store.keyspace(0).put(b"%d" % number, b"%d" % number * 20)
    store.commit()
    store.close()
    table = max(tmp_path.glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[1000] ^= 0xFF
    table.write_bytes(content)
    with open_verifier(tmp_path, now_ms=2**45) as verifier:
        found = [str(finding) for finding in verifier.run()]
    assert any("checksum" in finding for finding in found)


# What others have written.


@pytest.fixture
def shared(nodes: Nodes) -> Node:
    """A node with rows of another one: with holes, members, a flush, a dropped value that is wanted back."""
    node = nodes()
    node.put(b"mine", b"v")
    hlc = hlc_at(NOW_MS)
    node.receive(
        [
            run_of(
                dot(1, b"theirs"),
                dot(4, b"theirs", kind=64, sub=b"s"),
                dot(5, b"deleted", None, kind=Kind.FLOOR, hlc=hlc + 5),
                dot(6, b"deleted", kind=64, hlc=hlc + 6),
                dot(7, place=database_id(3), content=None, kind=Kind.NAMESPACE_FLOOR),
                dot(8, b"dropped", None),
                dot(200, place=b"?" * 16 + b"hidden"),
            )
        ]
    )
    node.replica.merge(run_of(dot(300, b"merged")))
    node.store.commit()
    return node


def test_nothing_is_wrong_with_what_was_taken_over(shared: Node) -> None:
    verifier = Verifier(shared.engine, now_ms=NOW_MS, pass_rows=2)
    assert list(verifier.run()) == []
    summary = verifier.summary
    assert (summary.keys, summary.dead_rows, summary.members) == (4, 2, 2)
    assert summary.chunks == 4


def member_key(key: bytes, sub: bytes = b"") -> bytes:
    return place_prefix(DB + key) + member_suffix(64, sub)


def put_member(key: bytes, row: bytes, sub: bytes = b"") -> Callable[[Engine], None]:
    return lambda engine: raw_put(engine, Family.MEMBERS, member_key(key, sub), row)


def register(seq: int, hlc: int = hlc_at(NOW_MS), number: int = 2) -> bytes:
    return pack_register(hlc, number, seq, NO_PREV)


SHARED_FAULTS: dict[str, tuple[Callable[[Engine], None], list[str]]] = {
    "garbage member": (put_member(b"theirs", b"garbage", b"s"), ["member b'", "cannot be read"]),
    "member of the wrong shape": (put_member(b"theirs", dumps([1])), ["not an array of two or three"]),
    "member without a register": (put_member(b"theirs", dumps([b"x", 1])), ["not 32 bytes"]),
    "member with a key that is none": (
        lambda engine: raw_put(engine, Family.MEMBERS, DB + b"k", dumps([register(4), b""])),
        ["the key of a member makes no sense"],
    ),
    "member of an unknown origin": (
        put_member(b"theirs", dumps([register(4, number=9), b"v"])),
        ["member of record b'theirs'", "(9, 4) has no known origin"],
    ),
    "member that a deletion kills": (
        put_member(b"deleted", dumps([register(4, hlc_at(NOW_MS)), b"v"])),
        ["member of record b'deleted'", "older than what deleted it"],
    ),
    "member that a flush kills": (
        lambda engine: raw_put(
            engine,
            Family.MEMBERS,
            place_prefix(database_id(3) + b"k") + member_suffix(64, b""),
            dumps([register(4), b"v"]),
        ),
        [f"namespace {database_id(3).hex()}", "older than what deleted it"],
    ),
    "member that the log does not name": (
        put_member(b"theirs", dumps([register(4), b"v"]), b"other"),
        ["does not name it for its dot (2, 4)"],
    ),
    "chunk lost": (
        lambda engine: raw_delete(engine, Family.CHANGES, change_key(2, 300)),
        ["record b'merged'", "does not name it for its dot (2, 300)"],
    ),
    "chunks that overlap": (
        lambda engine: raw_put(
            engine, Family.CHANGES, change_key(2, 4), encode_chunk(hlc_at(NOW_MS), [DB + b"x"] * 9, [])
        ),
        ["chunk of origin 2 from 4 on", "does not follow"],
    ),
    "coverage that is no number": (
        lambda engine: raw_put(engine, Family.META, covered_key(2), b"garbage"),
        ["meta", "cannot be read"],
    ),
    "origin without a lane": (
        lambda engine: raw_put(engine, Family.META, origin_key(2), dumps([b"x" * 16, 1])),
        ["meta", "cannot be read"],
    ),
    "stamp of a dropped value": (
        lambda engine: raw_put(engine, Family.META, BODYLESS_PREFIX + DB + b"dropped", b"short"),
        ["record b'dropped'", "stamp of its dropped value has 5 bytes"],
    ),
    "wrong count of deletions": (
        lambda engine: raw_put(engine, Family.META, b"count:" + DB, dumps([3, 0, 2, 1])),
        ["counts of namespace", "2 deletions and 1 dropped", "1 deletions and 1 dropped"],
    ),
}


@pytest.mark.parametrize("fault", SHARED_FAULTS)
def test_a_fault_planted_in_what_was_taken_over_is_found(shared: Node, fault: str) -> None:
    plant, wanted = SHARED_FAULTS[fault]
    plant(shared.engine)
    found = findings(shared.store)
    assert found
    text = "\n".join(found)
    for part in wanted:
        assert part in text


# Past versions.


def planted(
    store: Store,
    row_key: bytes | None = None,
    *,
    value: bytes | None = b"v",
    stamp: bytes | None = None,
    expiry: tuple[bytes, int | None] | None = None,
    floor: bytes | None = None,
) -> list[str]:
    """Write a past version behind the store's back and return what verification finds."""
    keyspace = store.keyspaces.find("past")
    assert keyspace is not None
    row_key = row_key or history_key(place_prefix(keyspace.id + b"k"), 1)
    record = (value, NEVER, None, stamp or stamp_of(keyspace, b"k"), expiry, floor)
    raw_put(store.engine, Family.HISTORY, row_key, bytes(8) + encode(record))
    return findings(store)


@pytest.fixture
def kept(store: Store) -> Store:
    keyspace = remembering(store, 2)
    for value in (b"one", b"two", b"three", b"four"):
        keyspace.put(b"k", value)
    store.commit()
    assert findings(store) == []
    return store


def test_verification_counts_the_versions(kept: Store) -> None:
    verifier = Verifier(kept.engine, now_ms=NOW_MS)
    assert list(verifier.run()) == []
    assert verifier.summary.versions == 2


def test_verification_finds_one_too_many(kept: Store) -> None:
    [finding] = planted(kept)
    assert "more versions than the namespace may have" in finding


def test_verification_finds_versions_of_what_does_not_exist(kept: Store) -> None:
    keyspace = kept.keyspaces.find("past")
    assert keyspace is not None
    found = planted(kept, history_key(place_prefix(keyspace.id + b"other"), 1))
    assert [finding for finding in found if "no such record" in finding]
    found = planted(kept, history_key(place_prefix(b"n" * 16 + b"k"), 1))
    assert [finding for finding in found if "namespace does not exist" in finding]


def test_verification_finds_keys_that_make_no_sense(kept: Store) -> None:
    for row_key in (b"short", bytes(40), place_prefix(bytes(16) + b"k")):
        assert any("past version" in finding for finding in planted(kept, row_key))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"floor": pack_register(hlc_at(NOW_MS), 1, 1, NO_PREV)}, "canonical"),
        ({"expiry": (pack_register(1, 1, 1, NO_PREV), NOW_MS)}, "canonical"),
        ({"expiry": (pack_register(hlc_at(NOW_MS + 1), 1, 9, NO_PREV), None)}, "canonical"),
        ({"stamp": pack_register(hlc_at(NOW_MS), 99, 1, NO_PREV)}, "no known origin"),
        ({"stamp": pack_register(hlc_at(NOW_MS + 9), 1, 1, NO_PREV)}, "newer than the newest"),
        ({"value": None}, "neither a value nor a deletion"),
    ],
)
def test_verification_finds_versions_that_no_store_writes(
    kept: Store, parts: dict[str, Any], expected: str
) -> None:
    keyspace = kept.keyspaces.find("past")
    assert keyspace is not None
    change(kept, keyspace, 3)
    keyspace.put(b"k", b"five")  # so that there may be three
    kept.commit()
    assert expected in " ".join(planted(kept, **parts))
