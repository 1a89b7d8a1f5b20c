"""Compaction of the change log: dead dots go, live ones never, and writes never wait for it."""

from __future__ import annotations

import pytest

from storage import compaction, deaddots
from storage.changelog import DEAD, decode_chunk
from storage.deaddots import DeadDots
from storage.engine import Engine, Family
from storage.engine_memory import MemoryEngine
from storage.errors import NoSpace
from storage.layout import change_key
from storage.store import Store
from storage.version import NO_PREV, pack_register
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import findings, raw_put, stamp_of


@pytest.fixture(autouse=True)
def _small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_SLACK", 100)
    monkeypatch.setattr(compaction, "_SLICE_DOTS", 8)
    monkeypatch.setattr(compaction, "_DEAD_CHUNK_DOTS", 1)


def named_dots(engine: Engine) -> int:
    """Return how many dots the log names, blanked ones left out."""
    return sum(
        place != DEAD
        for _, encoded in engine.iterate(Family.CHANGES)
        for place in decode_chunk(encoded).places
    )


def overwrite(store: Store, keys: int, times: int, tick: int = 4) -> None:
    keyspace = store.keyspace(0)
    for number in range(keys * times):
        keyspace.put(b"%d" % (number * 7 % keys), b"%d" % number)
        if number % tick == 0:
            store.commit()
            store.begin(NOW_MS + number)
    store.commit()


@pytest.mark.parametrize("tick", [1, 4, 50])
def test_the_log_does_not_grow_with_the_number_of_writes(store: Store, tick: int) -> None:
    overwrite(store, keys=50, times=40, tick=tick)
    assert named_dots(store.engine) <= 100 + 2 * 3 * 50 + 4 * tick
    assert findings(store) == []
    assert store.stats()["changelog_dots"] <= 100 + 2 * 3 * 50 + 4 * tick


def test_a_log_of_live_dots_is_left_alone() -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    for number in range(1000):
        store.keyspace(0).put(b"%d" % number, b"v")
        store.commit()
    assert named_dots(engine) == 1000
    deletions = [op for batch in engine.tail for op in batch if op[0] is Family.CHANGES and op[2] is None]
    assert deletions == []


def test_the_last_chunk_of_an_origin_stays(store: Store, rig: EngineRig) -> None:
    """It holds the origin's last sequence and clock value."""
    overwrite(store, keys=1, times=3)
    stamp = stamp_of(store.keyspace(0), b"0")
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    overwrite(again, keys=3, times=200)
    assert findings(again) == []
    last = [key for key, _ in again.engine.iterate(Family.CHANGES, change_key(1, 0), change_key(2, 0))]
    assert len(last) == 1
    places = decode_chunk(again.engine.get(Family.CHANGES, last[0]) or b"").places
    assert places[-1] == DEAD
    assert last[0] == change_key(1, int.from_bytes(stamp[12:20], "big") - len(places) + 1)
    again.close()


def test_dots_of_earlier_runs_are_judged_by_their_rows(store: Store, rig: EngineRig) -> None:
    keyspace = store.keyspace(0)
    for number in range(60):
        keyspace.put(b"kept %d" % number, b"v", NOW_MS + 10_000)
        keyspace.put(b"%d" % (number % 3), b"v")
        store.commit()
    keyspace.delete(b"kept 7")
    store.keyspace(1).put(b"flushed", b"v")
    store.keyspace(1).flush()
    named = store.keyspaces.create("blue")
    named.put(b"k", b"v")
    store.commit()
    store.keyspaces.delete(named.id)
    store.commit()
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    overwrite(again, keys=3, times=300)
    assert findings(again) == []
    assert named_dots(again.engine) < 900
    again.close()


def test_a_flush_kills_the_dots_of_its_keyspace(store: Store) -> None:
    for number in range(300):
        store.keyspace(1).put(b"%d" % number, b"v")
        store.commit()
    store.keyspace(1).flush()
    store.commit()
    overwrite(store, keys=3, times=200)
    assert findings(store) == []
    assert named_dots(store.engine) < 300


def test_swept_and_purged_dots_are_forgotten(store: Store) -> None:
    keyspace = store.keyspace(0)
    for number in range(300):
        keyspace.put(b"%d" % number, b"v", NOW_MS + 1)
        if number % 2:
            keyspace.delete(b"%d" % number)
        store.commit()
    store.begin(NOW_MS + 10_000_000)
    while store.sweep(50):
        pass
    overwrite(store, keys=3, times=500)
    assert findings(store) == []
    assert named_dots(store.engine) < 300


def test_marks_that_were_given_up_are_replaced_by_looks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaddots, "_SEGMENT_BITS", 3)
    monkeypatch.setattr(deaddots, "_SEGMENT_DOTS", 8)
    monkeypatch.setattr(deaddots, "_SEGMENTS_MAX", 2)
    overwrite(store, keys=50, times=20)
    assert findings(store) == []
    assert named_dots(store.engine) <= 100 + 2 * 3 * 50 + 16


def test_a_failed_commit_does_its_slice_again() -> None:
    engine = MemoryEngine()
    store = Store(engine, now_ms=NOW_MS)
    for number in range(2000):
        store.keyspace(0).put(b"%d" % (number % 5), b"%d" % number)
        if number % 7 == 0:
            engine.fail_next(NoSpace("memory"))
            with pytest.raises(NoSpace):
                store.commit()
        else:
            store.commit()
        store.begin(NOW_MS + number)
    assert findings(store) == []
    assert named_dots(engine) < 400


def test_a_damaged_log_stops_compaction_and_not_the_writes(store: Store) -> None:
    for number in range(50):
        store.keyspace(0).put(b"k", b"%d" % number)
        store.commit()
    raw_put(store.engine, Family.CHANGES, change_key(0, 1), b"garbage")
    overwrite(store, keys=3, times=200)
    assert store.stats()["changelog_compaction_failed"] == 1
    assert store.keyspace(0).count == 4


def test_a_damaged_size_is_only_a_hint(store: Store, rig: EngineRig) -> None:
    raw_put(store.engine, Family.META, b"log", b"\xff")
    store.close()
    again = Store(rig.open(), now_ms=NOW_MS)
    overwrite(again, keys=3, times=200)
    assert findings(again) == []
    again.close()


# The marks themselves.


def marked(*dots: tuple[int, int]) -> DeadDots:
    dead = DeadDots()
    dead.born(2)
    dead.mark([pack_register(1, origin, seq, NO_PREV) for origin, seq in dots])
    return dead


def test_marks_are_by_origin_and_sequence() -> None:
    dead = marked((2, 1), (2, 3), (3, 2))
    assert dead.marks(2, 1, 4) == b"\x01\x00\x01\x00"
    assert dead.marks(3, 1, 4) == b"\x00\x01\x00\x00"
    assert dead.all_dead(2, 1, 1)
    assert not dead.all_dead(2, 1, 2)
    assert not dead.all_dead(4, 1, 1)


def test_marks_go_over_the_ends_of_segments() -> None:
    edge = 1 << 16
    dead = marked(*((2, edge + step) for step in (-2, -1, 0, 1)))
    assert dead.all_dead(2, edge - 2, 4)
    assert dead.marks(2, edge - 3, 6) == b"\x00\x01\x01\x01\x01\x00"


def test_earlier_origins_are_not_known() -> None:
    dead = marked((1, 5))
    assert not dead.knows(1, 5)
    assert not dead.all_dead(1, 5, 1)
    assert dead.knows(2, 1)
    assert dead.knows(3, 1)


def test_the_oldest_segments_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaddots, "_SEGMENTS_MAX", 2)
    dead = marked((2, 1), (2, 1 << 16), (2, 2 << 16), (3, 1))
    assert not dead.knows(2, 1)
    assert not dead.knows(2, 1 << 16)
    assert dead.knows(2, 2 << 16)
    assert dead.all_dead(3, 1, 1)
