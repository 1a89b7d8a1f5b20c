"""The cache: generations, the bound in bytes, and staying out of the collector's way."""

from __future__ import annotations

import gc
import os
import tracemalloc

import pytest

from storage.cache import Cache, Hot, cost
from storage.engine_memory import MemoryEngine
from storage.record import MISSING, NEVER, Record
from storage.store import Store, StoreOptions
from storage.version import NO_PREV, pack_register
from tests.storage.conftest import NOW_MS
from tests.storage.helpers import value_of


def record(size: int = 10) -> Record:
    return (b"v" * size, NEVER, None, b"s" * 32, None, None)


def put(cache: Cache, hot: Hot, key: bytes, entry: Record | None = None) -> None:
    entry = entry or record()
    hot.young[key] = entry
    cache.young_bytes += cost(key, entry)


def true_bytes(cache: Cache, hots: list[Hot]) -> int:
    entries = [item for hot in hots for item in (*hot.young.items(), *hot.old.items())]
    return sum(cost(key, entry) for key, entry in entries)


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    cache = Cache(bytes_max=100 * cost(b"0000", record()))
    hot = cache.open()
    put(cache, hot, b"used")
    for number in range(1000):
        put(cache, hot, b"%04d" % number)
        assert b"used" in hot.young or cache.promote(hot, b"used") is not None
        cache.maintain()
    assert len(hot.young) + len(hot.old) <= 102
    assert b"0999" in hot.young or b"0999" in hot.old
    assert b"0000" not in hot.young
    assert b"0000" not in hot.old


def test_the_bound_holds_for_all_keyspaces_together() -> None:
    cache = Cache(bytes_max=50_000)
    hots = [cache.open() for _ in range(10)]
    for number in range(20_000):
        put(cache, hots[number * 7 % 10], b"%d" % number, record(number % 50))
        cache.maintain()
        if number % 100 == 0:
            assert cache.stats()["cache_bytes"] == true_bytes(cache, hots)
            assert cache.stats()["cache_bytes"] <= 50_000 + 500


def test_what_is_discarded_is_let_go_in_slices() -> None:
    cache = Cache(bytes_max=2_000_000)
    hot = cache.open()
    number = 0
    largest = 0
    for _ in range(3000):
        for _ in range(10):
            put(cache, hot, b"%08d" % number)
            number += 1
        before = cache.discarded_entries
        cache.maintain()
        largest = max(largest, before - cache.discarded_entries)
    assert 0 < largest <= 256 + 2 * 10 + 2


def test_dropping_a_keyspace_takes_constant_time_and_leaves_it_usable() -> None:
    cache = Cache(bytes_max=10_000_000)
    hot = cache.open()
    for number in range(5000):
        put(cache, hot, b"%04d" % number)
    cache.drop(hot)
    assert hot.young == hot.old == {}
    assert cache.discarded_entries == 5000
    put(cache, hot, b"k")
    while cache.discarded_entries:
        cache.maintain()
    assert cache.stats()["cache_entries"] == 1
    assert cache.stats()["cache_bytes"] == cost(b"k", record())


def test_what_was_dropped_is_in_the_books_until_it_is_let_go() -> None:
    cache = Cache(bytes_max=1_000_000)
    first, second = cache.open(), cache.open()
    for number in range(2500):
        put(cache, first, b"%04d" % number)
        cache.maintain()
    assert first.old
    cache.drop(first)
    for number in range(4000):
        put(cache, second, b"%04d" % number)
        cache.maintain()
        if number == 5:
            assert cache.stats()["cache_bytes"] > true_bytes(cache, [first, second])
    assert cache.discarded_entries == 0
    assert cache.stats()["cache_bytes"] == true_bytes(cache, [first, second])


def test_forgetting_and_promoting_keep_the_books() -> None:
    cache = Cache(bytes_max=4 * cost(b"k", record()))
    hot = cache.open()
    put(cache, hot, b"a")
    put(cache, hot, b"b")
    put(cache, hot, b"c")
    cache.maintain()
    assert sorted(hot.old) == [b"a", b"b", b"c"]
    assert cache.promote(hot, b"a") == record()
    assert cache.promote(hot, b"missing") is None
    cache.forget(hot, b"a")
    cache.forget(hot, b"b")
    cache.forget(hot, b"missing")
    assert cache.stats()["cache_bytes"] == true_bytes(cache, [hot]) == cost(b"c", record())


def test_a_closed_keyspace_is_let_go() -> None:
    cache = Cache(bytes_max=1_000_000)
    hot = cache.open()
    put(cache, hot, b"k")
    cache.close(hot)
    assert cache.stats()["cache_entries"] == 0
    cache.maintain()
    assert cache.stats()["cache_bytes"] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda number: (b"v" * 64, NEVER, None, pack_register(number, 1, number, NO_PREV), None, None),
        lambda number: (b"v" * 1000, NEVER, None, pack_register(number, 1, number, NO_PREV), None, None),
        lambda number: (
            b"v" * 64,
            NOW_MS + number,
            b"{}" * 20,
            pack_register(number, 1, number, NO_PREV),
            (pack_register(number, 1, number, NO_PREV), NOW_MS + number),
            pack_register(number, 1, number, NO_PREV),
        ),
        lambda number: MISSING,
    ],
    ids=["short", "long", "full", "missing"],
)
def test_the_estimate_is_near_the_truth(make: object) -> None:
    """The bound is in bytes of memory, so the estimate must be: within a quarter, and rather above."""
    count = 20_000
    tracemalloc.start()
    try:
        cache = Cache(bytes_max=1 << 40)
        hot = cache.open()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            entry = make(number)  # type: ignore[operator]
            value = entry[0] if entry[0] is None else bytes(bytearray(entry[0]))
            put(cache, hot, b"key:%012d" % number, entry if entry is MISSING else (value, *entry[1:]))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.85 * used <= cache.young_bytes <= 1.3 * used


def test_the_collector_never_walks_the_cache() -> None:
    store = Store(MemoryEngine(), StoreOptions(cache_bytes=2_000_000), now_ms=NOW_MS)
    try:
        store.freeze()
        keyspace = store.keyspace(0)
        for number in range(30_000):  # several generations
            keyspace.put(b"%d" % number, os.urandom(20))
            if number % 50 == 0:
                store.commit()
                store.begin(NOW_MS)
        hot = keyspace._hot
        assert len(hot.young) + len(hot.old) > 1000
        seen = {id(thing) for thing in gc.get_objects()}
        assert id(hot.young) not in seen
        assert id(hot.old) not in seen
        gc.collect()
        assert not any(gc.is_tracked(entry) for entry in hot.young.values())
    finally:
        gc.unfreeze()


def test_a_small_cache_changes_no_answer() -> None:
    store = Store(MemoryEngine(), StoreOptions(cache_bytes=3000), now_ms=NOW_MS)
    keyspace = store.keyspace(0)
    for round_number in range(3):
        for number in range(100):
            keyspace.put(b"%d" % number, b"%d" % round_number)
        store.commit()
        store.begin(NOW_MS)
        assert all(value_of(keyspace, b"%d" % number) == b"%d" % round_number for number in range(100))
        store.begin(NOW_MS)
    assert store.stats()["cache_entries"] < 30


def test_the_books_balance_after_any_kind_of_write() -> None:
    store = Store(MemoryEngine(), now_ms=NOW_MS)
    keyspace = store.keyspace(0)
    keyspace.get(b"missing")
    keyspace.put(b"a", b"v" * 100)
    keyspace.put(b"a", b"v" * 5)
    keyspace.put(b"a", b"v" * 500, NOW_MS + 1000, b"{}")
    keyspace.update(b"a", b"v" * 7)
    keyspace.expire(b"a", NEVER)
    keyspace.put(b"b", b"")
    keyspace.delete(b"b")
    keyspace.put(b"c", b"v", NOW_MS + 10)
    keyspace.prefetch([b"a", b"d"])
    keyspace.put(b"long" * 10, b"v")
    store.commit()
    keyspace.forget(b"long" * 10)
    store.limits.key_bytes_max = 10
    keyspace.get(b"longer" * 10)
    keyspace.delete(b"long" * 10)
    store.commit()
    store.begin(NOW_MS + 10)
    store.sweep(10)
    state = store.state
    assert state.cache.young_bytes == true_bytes(state.cache, [keyspace._hot])


def test_the_collector_lets_go_of_records_while_a_store_is_overwritten() -> None:
    """Else it would walk all of them at once, some day, and no client would be served meanwhile."""
    store = Store(MemoryEngine(), now_ms=NOW_MS)
    keyspace = store.keyspace(0)
    thresholds = gc.get_threshold()
    gc.set_threshold(1_000_000)  # only the store itself collects here
    try:
        for number in range(40_000):
            keyspace.put(b"%d" % (number % 20_000), os.urandom(20))
            if number % 50 == 0:
                store.commit()
                store.begin(NOW_MS)
        assert sum(map(gc.is_tracked, keyspace._hot.young.values())) < 2000
    finally:
        gc.set_threshold(*thresholds)
