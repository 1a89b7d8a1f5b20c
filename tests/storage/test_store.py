"""Ticks, commits and what a failed one leaves behind; opening, limits, atomic groups."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.changelog import decode_chunk
from storage.engine import Batch, Engine, Family
from storage.engine_memory import MemoryEngine
from storage.errors import (
    Aborted,
    Closed,
    DamagedFiles,
    KeyspaceGone,
    KeyTooLong,
    LimitError,
    Locked,
    MetadataTooLong,
    NewerFormat,
    NoSpace,
    RecordError,
    Unavailable,
    ValueTooLong,
)
from storage.layout import META_FORMAT, META_NODE, META_PURGED_HLC, database_id, origin_key, parse_change_key
from storage.record import METADATA, NEVER, dumps, loads
from storage.store import Store, StoreOptions
from storage.version import hlc_at, hlc_ms, register_dot, register_hlc
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import expiry_of, findings, floor_of, raw_put, stamp_of, value_of


def counting_entropy() -> Callable[[int], bytes]:
    counter = itertools.count(1)
    return lambda size: next(counter).to_bytes(size, "big")


def chunks(engine: Engine) -> list[tuple[int, int, list[bytes | None], list[tuple[int, int]]]]:
    """Return (origin number, first seq, user keys, groups) of each chunk; None for a flush."""
    found: list[tuple[int, int, list[bytes | None], list[tuple[int, int]]]] = []
    for key, encoded in engine.iterate(Family.CHANGES):
        origin, first_seq = parse_change_key(key)
        chunk = decode_chunk(encoded)
        names = [place[16:] if isinstance(place, bytes) else None for place in chunk.places]
        found.append((origin, first_seq, names, chunk.groups))
    return found


def test_a_tick_sees_its_own_writes_before_they_are_committed(store: Store) -> None:
    keyspace = store.keyspace(0)
    dirty = [store.dirty]
    keyspace.put(b"k", b"v")
    dirty.append(store.dirty)
    assert value_of(keyspace, b"k") == b"v"
    assert store.engine.get(Family.RECORDS, database_id(0) + b"k") is None
    store.commit()
    assert [*dirty, store.dirty] == [False, True, False]
    assert store.engine.get(Family.RECORDS, database_id(0) + b"k") is not None


def test_what_was_committed_is_there_after_opening_again(store: Store, rig: EngineRig) -> None:
    store.keyspace(0).put(b"k", b"v", NOW_MS + 5000, b'{"a": 1}')
    store.keyspace(15).put(b"other", b"w")
    store.commit()
    store.keyspace(0).put(b"never committed", b"x")
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    record = again.keyspace(0).get(b"k")
    assert record is not None
    assert record[:3] == (b"v", NOW_MS + 5000, b'{"a": 1}')
    assert value_of(again.keyspace(15), b"other") == b"w"
    assert again.keyspace(0).get(b"never committed") is None
    assert (again.keyspace(0).count, again.keyspace(0).expires) == (1, 1)


def test_a_commit_of_nothing_writes_nothing() -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    written = engine.writes
    store.commit()
    store.begin(NOW_MS + 1)
    store.commit()
    assert engine.writes == written
    assert store.commits == 0


@pytest.mark.parametrize(("durability", "unsynced"), [("always", 0), ("everysec", 1), ("no", 1)])
def test_durability_decides_whether_a_commit_is_synced(durability: str, unsynced: int) -> None:
    engine = MemoryEngine()
    store = Store(engine, StoreOptions(durability=durability), now_ms=NOW_MS)
    store.keyspace(0).put(b"k", b"v")
    store.commit()
    assert len(engine.tail) == unsynced
    store.sync()
    assert engine.tail == []


def test_many_writes_of_a_key_in_a_tick_are_one_row_and_many_dots() -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    for number in range(5):
        store.keyspace(0).put(b"k", b"%d" % number)
    store.keyspace(0).put(b"l", b"")
    store.commit()
    puts = [operation for operation in engine.tail[-1] if operation[0] is Family.RECORDS]
    assert len(puts) == 2
    assert chunks(engine) == [(1, 1, [b"k"] * 5 + [b"l"], [])]


def test_writes_take_growing_stamps_and_consecutive_sequences(store: Store) -> None:
    keyspace = store.keyspace(0)
    registers = []
    for tick in range(3):
        store.begin(NOW_MS + tick * 10)
        for key in (b"a", b"b"):
            keyspace.put(key, b"")
            registers.append(stamp_of(keyspace, key))
        store.commit()
    assert registers == sorted(registers)
    assert [register_dot(register) for register in registers] == [(1, seq) for seq in range(1, 7)]
    assert hlc_ms(register_hlc(registers[0])) == NOW_MS
    assert hlc_ms(register_hlc(registers[-1])) == NOW_MS + 20


def test_the_clock_never_goes_back_with_the_wall(store: Store, rig: EngineRig) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"1")
    before = stamp_of(keyspace, b"k")
    store.commit()
    store.begin(NOW_MS - 3_600_000)
    keyspace.put(b"k", b"2")
    between = stamp_of(keyspace, b"k")
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS - 7_200_000)
    again.keyspace(0).put(b"k", b"3")
    after = stamp_of(again.keyspace(0), b"k")
    assert register_hlc(before) < register_hlc(between) < register_hlc(after)


def test_the_clock_starts_above_everything_that_was_purged(engine: Engine) -> None:
    Store(engine, now_ms=NOW_MS)
    raw_put(engine, Family.META, META_PURGED_HLC, dumps(hlc_at(NOW_MS + 999)))
    store = Store(engine, now_ms=NOW_MS)
    store.keyspace(0).put(b"k", b"v")
    assert register_hlc(stamp_of(store.keyspace(0), b"k")) > hlc_at(NOW_MS + 999)


def test_every_opening_writes_under_a_fresh_origin(rig: EngineRig) -> None:
    origins = []
    for _ in range(3):
        store = Store(rig.open(), now_ms=NOW_MS)
        store.keyspace(0).put(b"k", b"v")
        store.commit()
        version = store.describe(stamp_of(store.keyspace(0), b"k"))
        assert version.seq == 1
        origins.append(version.origin)
        store.close()
    assert len(set(origins)) == 3


def test_an_opening_without_writes_leaves_no_origin_behind(rig: EngineRig) -> None:
    for _ in range(3):
        engine = rig.open()
        Store(engine, now_ms=NOW_MS).close()
    store = Store(rig.open(), now_ms=NOW_MS)
    assert store.stats()["origins"] == 1


def test_atomic_writes_share_a_clock_value_and_form_a_group(engine: Engine) -> None:
    store = Store(engine, now_ms=NOW_MS)
    keyspace = store.keyspace(0)
    keyspace.put(b"before", b"")
    with store.atomic():
        keyspace.put(b"a", b"")
        with store.atomic():
            keyspace.put(b"b", b"", NOW_MS + 1000)
        keyspace.delete(b"a")
    keyspace.put(b"after", b"")
    floor = floor_of(keyspace, b"a")
    shared = {register_hlc(register) for register in (stamp_of(keyspace, b"b"), floor)}
    assert shared == {register_hlc(expiry_of(keyspace, b"b")[0])}
    before, after = stamp_of(keyspace, b"before"), stamp_of(keyspace, b"after")
    assert register_hlc(before) < register_hlc(floor) < register_hlc(after)
    store.commit()
    assert chunks(engine) == [(1, 1, [b"before", b"a", b"b", b"b", b"a", b"after"], [(1, 4)])]


def test_one_write_in_atomic_is_no_group(engine: Engine) -> None:
    store = Store(engine, now_ms=NOW_MS)
    with store.atomic():
        store.keyspace(0).put(b"a", b"")
    store.commit()
    assert chunks(engine) == [(1, 1, [b"a"], [])]


def test_a_value_with_an_expiry_is_a_group_of_two_dots(engine: Engine) -> None:
    store = Store(engine, now_ms=NOW_MS)
    store.keyspace(0).put(b"a", b"", NOW_MS + 1)
    store.commit()
    assert chunks(engine) == [(1, 1, [b"a", b"a"], [(0, 2)])]


def test_an_error_inside_atomic_does_not_leave_it_open(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.atomic():
        raise ZeroDivisionError
    keyspace = store.keyspace(0)
    keyspace.put(b"a", b"")
    keyspace.put(b"b", b"")
    assert register_hlc(stamp_of(keyspace, b"a")) < register_hlc(stamp_of(keyspace, b"b"))


# A commit that fails.


@pytest.fixture
def failing() -> tuple[MemoryEngine, Store]:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS, entropy=counting_entropy())
    keyspace = store.keyspace(0)
    keyspace.put(b"old", b"1", NOW_MS + 60_000)
    keyspace.put(b"gone", b"1")
    store.keyspaces.create("kept")
    store.commit()
    return engine, store


def fail(engine: MemoryEngine, store: Store) -> NoSpace:
    engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace) as caught:
        store.commit()
    return caught.value


def test_a_failed_commit_takes_back_every_pending_write(failing: tuple[MemoryEngine, Store]) -> None:
    engine, store = failing
    keyspace = store.keyspace(0)
    keyspace.put(b"new", b"2")
    keyspace.put(b"old", b"2")
    keyspace.delete(b"gone")
    assert (keyspace.count, keyspace.expires) == (2, 0)
    error = fail(engine, store)
    assert store.writable is error
    assert not store.dirty
    assert value_of(keyspace, b"new") is None
    assert value_of(keyspace, b"old") == b"1"
    assert value_of(keyspace, b"gone") == b"1"
    assert (keyspace.count, keyspace.expires) == (2, 1)


def test_a_failed_commit_takes_back_a_flush(failing: tuple[MemoryEngine, Store]) -> None:
    engine, store = failing
    keyspace = store.keyspace(0)
    store.flush_all()
    keyspace.put(b"new", b"2")
    fail(engine, store)
    assert [key for key, _ in keyspace.scan(b"", None, 10)[0]] == [b"gone", b"old"]
    assert keyspace.count == 2
    keyspace.flush()
    store.commit()
    assert keyspace.scan(b"", None, 10) == ([], None)
    assert list(engine.iterate(Family.RECORDS, database_id(0), database_id(1))) == []


def test_a_failed_commit_takes_back_changes_of_the_registry(failing: tuple[MemoryEngine, Store]) -> None:
    engine, store = failing
    kept = store.keyspaces.find("kept")
    assert kept is not None
    fresh = store.keyspaces.create("fresh")
    fresh.put(b"k", b"v")
    store.keyspaces.rename(kept.id, "renamed")
    fail(engine, store)
    assert [keyspace.title for keyspace in store.keyspaces.all()] == ["kept"]
    with pytest.raises(KeyspaceGone):
        fresh.get(b"k")


def test_a_failed_commit_brings_a_deleted_namespace_back(failing: tuple[MemoryEngine, Store]) -> None:
    engine, store = failing
    kept = store.keyspaces.find("kept")
    assert kept is not None
    kept.put(b"k", b"v")
    store.commit()
    store.keyspaces.delete(kept.id)
    fail(engine, store)
    again = store.keyspaces.find("kept")
    assert again is not None
    assert value_of(again, b"k") == b"v"
    assert again.count == 1


def test_a_failed_commit_never_uses_a_dot_twice(failing: tuple[MemoryEngine, Store]) -> None:
    engine, store = failing
    keyspace = store.keyspace(0)
    used = []
    for attempt in range(3):
        keyspace.put(b"k", b"%d" % attempt)
        version = store.describe(stamp_of(keyspace, b"k"))
        used.append((version.origin, version.seq))
        if attempt < 2:
            fail(engine, store)
    store.commit()
    assert len(set(used)) == 3
    again = Store(engine, now_ms=NOW_MS)
    stamp = stamp_of(again.keyspace(0), b"k")
    assert again.describe(stamp) == store.describe(stamp)


def test_a_batch_that_failed_may_still_be_there_after_a_restart(failing: tuple[MemoryEngine, Store]) -> None:
    """The engine promises no more, so the dots of such a batch must not have been given again."""
    engine, store = failing
    lost = engine.batch
    batches = []

    def remember() -> object:
        batches.append(lost())
        return batches[-1]

    engine.batch = remember  # type: ignore[method-assign, assignment]
    store.keyspace(0).put(b"k", b"lost")
    fail(engine, store)
    engine.batch = lost  # type: ignore[method-assign]
    store.keyspace(0).put(b"other", b"kept")
    store.commit()
    engine.write(batches[0], sync=False)
    again = Store(engine, now_ms=NOW_MS)
    versions = [again.describe(stamp_of(again.keyspace(0), key)) for key in (b"k", b"other")]
    assert len({(version.origin, version.seq) for version in versions}) == 2


def test_taking_back_needs_no_reads() -> None:
    """The engine may be gone altogether when a commit fails."""
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    kept = store.keyspaces.create("kept")
    kept.put(b"k", b"v")
    store.commit()
    store.keyspaces.rename(kept.id, "renamed")
    store.keyspaces.delete(kept.id)
    store.flush_all()
    store.flush_all()
    store.keyspace(0).put(b"k", b"v")
    engine.close()
    with pytest.raises(Closed):
        store.commit()
    engine.kill()
    assert [keyspace.title for keyspace in store.keyspaces.all()] == ["kept"]
    assert value_of(kept, b"k") == b"v"
    kept.put(b"k", b"w")
    store.commit()
    assert findings(store) == []


def test_an_unexpected_error_in_a_commit_takes_everything_back_too(
    failing: tuple[MemoryEngine, Store],
) -> None:
    engine, store = failing

    def broken() -> Batch:
        raise ZeroDivisionError

    batch, engine.batch = engine.batch, broken  # type: ignore[method-assign]
    store.keyspace(0).put(b"k", b"v")
    with pytest.raises(ZeroDivisionError):
        store.commit()
    engine.batch = batch  # type: ignore[method-assign]
    assert not store.dirty
    assert store.writable is None
    assert store.keyspace(0).get(b"k") is None


def test_writes_are_accepted_again_after_a_probe(failing: tuple[MemoryEngine, Store]) -> None:
    engine, store = failing
    store.keyspace(0).put(b"k", b"v")
    fail(engine, store)
    engine.fail_next(NoSpace("memory"))
    assert not store.probe()
    assert isinstance(store.writable, NoSpace)
    assert store.probe()
    assert store.writable is None


def test_no_commit_succeeds_after_a_failed_sync_until_a_probe_has(
    failing: tuple[MemoryEngine, Store],
) -> None:
    engine, store = failing
    keyspace = store.keyspace(0)
    engine.fail_next_sync(Unavailable("memory", "fsync failed"))
    with pytest.raises(Unavailable):
        store.sync()
    keyspace.put(b"k", b"refused")
    with pytest.raises(Unavailable):
        store.commit()
    assert store.probe()
    assert keyspace.get(b"k") is None
    keyspace.put(b"k", b"v")
    store.commit()
    assert findings(store) == []


def test_a_successful_commit_clears_the_error_too(failing: tuple[MemoryEngine, Store]) -> None:
    engine, store = failing
    store.keyspace(0).put(b"k", b"v")
    fail(engine, store)
    store.keyspace(0).put(b"k", b"v")
    store.commit()
    assert store.writable is None


def test_a_poisoned_tick_is_given_up_and_the_next_is_not(failing: tuple[MemoryEngine, Store]) -> None:
    _, store = failing
    keyspace = store.keyspace(0)
    keyspace.put(b"k", b"half")
    store.poison("a script was stopped")
    with pytest.raises(Aborted, match="a script was stopped"):
        store.commit()
    assert value_of(keyspace, b"k") is None
    assert store.writable is None
    store.poison("nothing was pending")
    store.commit()
    keyspace.put(b"k", b"whole")
    store.commit()
    assert value_of(keyspace, b"k") == b"whole"


# Limits.


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_too_long_is_refused_and_nothing_is_written(store: Store, durable: bool) -> None:
    keyspace = store.keyspace(0)
    limits = store.limits
    limits.key_bytes_max, limits.value_bytes_max, limits.metadata_bytes_max = 4, 8, 2
    if durable:
        keyspace.put(b"k", b"v", NOW_MS + 1000)
        store.commit()
    refused: list[tuple[type[LimitError], Callable[[], None]]] = [
        (KeyTooLong, lambda: keyspace.put(b"k" * 5, b"")),
        (KeyTooLong, lambda: keyspace.update(b"k" * 5, b"")),
        (ValueTooLong, lambda: keyspace.put(b"k", b"v" * 9)),
        (ValueTooLong, lambda: keyspace.update(b"k", b"v" * 9)),
        (MetadataTooLong, lambda: keyspace.put(b"k", b"", NEVER, b"{ }")),
    ]
    for error, write in refused:
        with pytest.raises(error, match=r"exceeds the limit of \d bytes"):
            write()
        assert not store.dirty
    keyspace.put(b"k" * 4, b"v" * 8, NEVER, b"{}")
    assert keyspace.get(b"k" * 5) is None
    assert not keyspace.delete(b"k" * 5)


def test_a_key_stored_under_a_larger_limit_stays_readable(store: Store, rig: EngineRig) -> None:
    store.keyspace(0).put(b"k" * 100, b"v")
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    again.limits.key_bytes_max = 10
    assert value_of(again.keyspace(0), b"k" * 100) == b"v"
    assert again.keyspace(0).delete(b"k" * 100)
    again.commit()
    assert value_of(again.keyspace(0), b"k" * 100) is None


def test_a_stores_limits_are_its_own() -> None:
    options = StoreOptions()
    first, second = Store(MemoryEngine(), options), Store(MemoryEngine(), options)
    first.limits.key_bytes_max = 1
    assert second.limits.key_bytes_max == 2048


# Rows that cannot be read.


def test_an_unreadable_row_is_an_error_for_its_key_alone(engine: Engine) -> None:
    store = Store(engine, now_ms=NOW_MS)
    keyspace = store.keyspace(0)
    keyspace.put(b"a", b"1")
    keyspace.put(b"c", b"1")
    store.commit()
    raw_put(engine, Family.RECORDS, database_id(0) + b"b", b"garbage")
    for use in (keyspace.get, keyspace.peek, keyspace.version):
        with pytest.raises(RecordError, match="cannot be read"):
            use(b"b")
    with pytest.raises(RecordError):
        keyspace.put(b"b", b"2")
    assert not store.dirty
    assert [key for key, _ in keyspace.scan(b"", None, 10)[0]] == [b"a", b"c"]
    keyspace.prefetch([b"a", b"b", b"c"])
    assert value_of(keyspace, b"c") == b"1"


def test_deleting_is_the_way_out_of_an_unreadable_row(engine: Engine) -> None:
    store = Store(engine, now_ms=NOW_MS)
    keyspace = store.keyspace(0)
    keyspace.put(b"b", b"1")
    store.commit()
    raw_put(engine, Family.RECORDS, database_id(0) + b"b", b"garbage")
    keyspace.forget(b"b")
    assert keyspace.delete(b"b")
    store.commit()
    assert keyspace.count == 0
    keyspace.put(b"b", b"2")
    store.commit()
    assert value_of(keyspace, b"b") == b"2"
    assert keyspace.count == 1


# Opening.


def test_a_newer_format_is_refused(engine: Engine) -> None:
    Store(engine, now_ms=NOW_MS)
    raw_put(engine, Family.META, META_FORMAT, dumps(2))
    with pytest.raises(
        NewerFormat, match=r"has format 2, this kvd knows formats up to 1; use the kvd version"
    ):
        Store(engine, now_ms=NOW_MS)


@pytest.mark.parametrize("value", [b"", b"\xff", dumps("1"), dumps(0), dumps(-1)])
def test_a_format_that_is_no_number_is_damage(engine: Engine, value: bytes) -> None:
    Store(engine, now_ms=NOW_MS)
    raw_put(engine, Family.META, META_FORMAT, value)
    with pytest.raises(DamagedFiles, match="format row"):
        Store(engine, now_ms=NOW_MS)


def test_records_without_a_format_are_not_taken_for_an_empty_store(engine: Engine) -> None:
    raw_put(engine, Family.RECORDS, database_id(0) + b"k", b"v")
    with pytest.raises(DamagedFiles, match="no format row"):
        Store(engine, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (META_NODE, b"short"),
        (META_PURGED_HLC, b"\xff"),
        (origin_key(1), dumps([b"short", 1])),
        (origin_key(1), dumps(7)),
        (origin_key(1_500_000), dumps([bytes(16), 1])),
        (b"count:" + database_id(3), dumps([1])),
    ],
)
def test_damaged_meta_rows_are_told(engine: Engine, key: bytes, value: bytes) -> None:
    Store(engine, now_ms=NOW_MS)
    raw_put(engine, Family.META, key, value)
    with pytest.raises(DamagedFiles, match="restore a backup"):
        Store(engine, now_ms=NOW_MS)


def test_opening_reads_no_record() -> None:
    """Ten million keys start as fast as ten: what is read is the same."""

    class Watched(MemoryEngine):
        reads = 0

        def get(self, family: Family, key: bytes) -> bytes | None:
            self.reads += family is Family.RECORDS
            return super().get(family, key)

        def iterate(
            self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
        ) -> Iterator[tuple[bytes, bytes]]:
            found = list(super().iterate(family, start, end, reverse=reverse))
            self.reads += len(found) if family is Family.RECORDS else 0
            return iter(found)

    engine = Watched()
    store = Store(engine, now_ms=NOW_MS)
    for number in range(1000):
        store.keyspace(number % 16).put(b"%d" % number, b"v")
    store.commit()
    engine.reads = 0
    assert Store(engine, now_ms=NOW_MS).stats()["keys"] == 1000
    assert engine.reads == 0


def test_a_data_directory_is_opened_and_locked(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    store.keyspace(0).put(b"k", b"v")
    store.commit()
    with pytest.raises(Locked):
        Store.open(tmp_path / "data")
    store.close()
    store.close()
    again = Store.open(tmp_path / "data")
    assert value_of(again.keyspace(0), b"k") == b"v"
    again.close()


def test_a_store_that_cannot_be_opened_lets_go_of_the_directory(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    raw_put(store.engine, Family.META, META_FORMAT, dumps(2))
    store.close()
    for _ in range(2):
        with pytest.raises(NewerFormat):
            Store.open(tmp_path)


def test_a_checkpoint_is_a_data_directory_of_its_own(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    store.keyspace(0).put(b"k", b"1")
    store.commit()
    thread = threading.Thread(target=store.checkpoint, args=[tmp_path / "copy"])
    thread.start()
    thread.join()
    store.keyspace(0).put(b"k", b"2")
    store.commit()
    copy = Store.open(tmp_path / "copy")
    assert value_of(copy.keyspace(0), b"k") == b"1"
    copy.keyspace(0).put(b"k", b"3")
    copy.commit()
    copied, original = stamp_of(copy.keyspace(0), b"k"), stamp_of(store.keyspace(0), b"k")
    assert copy.describe(copied).origin != store.describe(original).origin
    copy.close()
    store.close()


# What the daemon asks for.


def test_changed_names_the_keys_of_the_tick_in_order(store: Store) -> None:
    first, second = store.keyspace(0), store.keyspace(1)
    first.put(b"a", b"")
    second.put(b"b", b"", NOW_MS + 1)
    first.delete(b"a")
    first.flush()
    assert store.changed == [(first, b"a"), (second, b"b"), (first, b"a")]
    assert store.flushed == [first]
    assert [(keyspace, key) for _, keyspace, key in store.changes] == [
        (first, b"a"),
        (second, b"b"),
        (first, b"a"),
        (first, None),
    ]
    store.commit()
    assert store.changed == []
    assert store.flushed == []


def test_notify_reaches_the_daemon(store: Store) -> None:
    heard: list[tuple[int | None, bytes, bytes, int]] = []
    store.on_event = lambda keyspace, event, key, kind: heard.append((keyspace.index, event, key, kind))
    assert not store.keyspace(3).notifying
    store.notifying = True
    named = store.keyspaces.create("named")
    assert store.keyspace(3).notifying
    assert named.notifying
    store.keyspace(3).notify(b"set", b"k", 5)
    assert heard == [(3, b"set", b"k", 5)]


def test_a_database_that_does_not_exist_is_an_index_error(store: Store) -> None:
    for index in (-1, 16):
        with pytest.raises(IndexError):
            store.keyspace(index)


def test_stats_count_what_is_there(store: Store) -> None:
    store.keyspace(0).put(b"a", b"1")
    store.keyspaces.create("named").put(b"b", b"1")
    store.commit()
    stats = store.stats()
    assert stats["keys"] == 3  # the registry's record among them
    assert stats["namespaces"] == 1
    assert stats["commits"] == 1
    assert stats["changelog_dots"] == 3
    assert all(type(value) is int for value in stats.values())


def test_the_size_of_the_log_is_remembered(store: Store, rig: EngineRig) -> None:
    for _ in range(3):
        store.keyspace(0).put(b"a", b"1")
        store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    assert again.stats()["changelog_dots"] == 3
    stored = again.engine.get(Family.META, b"log")
    assert stored is not None
    assert loads(stored) == [3, 0]


def test_metadata_is_kept_byte_for_byte(store: Store, rig: EngineRig) -> None:
    odd = b' {"\xc3\xa9" :\t1e2}\n'
    store.keyspace(0).put(b"k", b"v", NEVER, odd)
    store.commit()
    store.close()
    record = Store(rig.open(), now_ms=NOW_MS).keyspace(0).get(b"k")
    assert record is not None
    assert record[METADATA] == odd
