"""Random keys: all of them, about equally often, whatever they look like, without a walk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from storage.engine import Family
from storage.engine_memory import MemoryEngine
from storage.store import Keyspace, Store
from tests.storage.conftest import NOW_MS


def draw(keyspace: Keyspace, count: int) -> Counter[bytes]:
    drawn = [keyspace.random_key() for _ in range(count)]
    assert None not in drawn
    return Counter(key for key in drawn if key is not None)


def test_an_empty_keyspace_has_no_random_key(store: Store) -> None:
    assert store.keyspace(0).random_key() is None
    store.keyspace(0).put(b"k", b"v")
    store.keyspace(0).delete(b"k")
    store.commit()
    assert store.keyspace(0).random_key() is None


@pytest.mark.parametrize("committed", [False, True])
def test_few_keys_are_drawn_evenly(store: Store, committed: bool) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"", b"")
    keyspace.put(b"b", b"")
    if committed:
        store.commit()
        drawn = draw(keyspace, 600)
        assert set(drawn) == {b"", b"b"}
        assert min(drawn.values()) > 200  # 1 in 10**16 to fail
    else:
        assert set(draw(keyspace, 50)) <= {b"", b"b"}


def test_what_the_tick_has_written_may_be_drawn_and_what_it_deleted_not(store: Store) -> None:
    keyspace = store.keyspace(0)
    for number in range(100):
        keyspace.put(b"%d" % number, b"")
    store.commit()
    for number in range(99):
        keyspace.delete(b"%d" % number)
    assert set(draw(keyspace, 20)) == {b"99"}
    keyspace.flush()
    assert keyspace.random_key() is None
    keyspace.put(b"new", b"")
    assert keyspace.random_key() == b"new"


def test_a_lone_key_beside_a_crowd_is_drawn_rarely(store: Store) -> None:
    keyspace = store.keyspace(0)
    keyspace.put(b"config", b"")
    for number in range(2000):
        keyspace.put(b"user:%06d" % (number * 37), b"")
    store.commit()
    drawn = draw(keyspace, 300)
    assert drawn[b"config"] <= 20  # 5 are expected
    assert len(drawn) > 200


@pytest.mark.parametrize(
    "names",
    [
        [b"%06d" % number for number in range(1000)],
        [bytes((high, low)) for high in (0, 255) for low in range(0, 256, 2)],
    ],
    ids=["numbers", "bytes at the edges"],
)
def test_many_keys_are_drawn_from_everywhere(store: Store, names: list[bytes]) -> None:
    keyspace = store.keyspace(0)
    for name in names:
        keyspace.put(name, b"")
    store.commit()
    drawn = draw(keyspace, 400)
    assert set(drawn) <= set(names)
    ordered = sorted(names)
    for quarter in range(4):
        part = ordered[quarter * len(names) // 4 : (quarter + 1) * len(names) // 4]
        assert 50 <= sum(drawn[name] for name in part) <= 160  # 100 if it were exactly even


def test_a_chain_of_prefixes_ends_the_descent_early(store: Store) -> None:
    names = [b"k" * length for length in range(1000)]
    for name in names:
        store.keyspace(0).put(name, b"")
    store.commit()
    assert set(draw(store.keyspace(0), 20)) <= set(names)


def test_dead_rows_are_never_drawn(store: Store) -> None:
    keyspace = store.keyspace(0)
    for number in range(500):
        keyspace.put(b"%03d" % number, b"", NOW_MS + (1 if number % 100 else 1000))
    store.commit()
    store.begin(NOW_MS + 1)
    assert set(draw(keyspace, 30)) <= {b"000", b"100", b"200", b"300", b"400"}


def test_a_draw_does_not_walk() -> None:
    class Watched(MemoryEngine):
        read = 0

        def iterate(
            self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
        ) -> Iterator[tuple[bytes, bytes]]:
            for item in super().iterate(family, start, end, reverse=reverse):
                self.read += 1
                yield item

    engine = Watched()
    keyspace = Store(engine, now_ms=NOW_MS).keyspace(0)
    for number in range(5000):
        keyspace.put(b"%06d" % number, b"")
    keyspace.store.commit()
    engine.read = 0
    keyspace.random_key()
    assert engine.read < 2500
    assert list(islice(engine.iterate(Family.RECORDS), 1))


def test_among_deleted_keys_the_live_one_is_found_in_bounded_steps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyspace = store.keyspace(0)
    for number in range(3000):
        keyspace.put(b"%04d" % number, b"")
    store.commit()
    for number in range(3000):
        if number != 1000:
            keyspace.delete(b"%04d" % number)
    store.commit()
    limits = []
    scan = type(keyspace).scan

    def watched(keyspace: Keyspace, prefix: bytes, after: bytes | None, limit: int) -> object:
        limits.append(limit)
        return scan(keyspace, prefix, after, limit)

    monkeypatch.setattr(type(keyspace), "scan", watched)
    steps = list(keyspace.random_key_steps())
    assert steps[-1] == b"1000"
    assert set(steps[:-1]) == {None}
    assert set(limits) <= {256}
    assert len(limits) <= len(steps) <= 16 + 13 + 1
    assert set(draw(keyspace, 5)) == {b"1000"}


def test_the_search_ends_when_the_last_key_goes_meanwhile(store: Store) -> None:
    keyspace = store.keyspace(0)
    for number in range(3000):
        keyspace.put(b"%04d" % number, b"")
    store.commit()
    for number in range(1, 3000):
        keyspace.delete(b"%04d" % number)
    store.commit()
    steps = keyspace.random_key_steps()
    assert next(steps) is None
    keyspace.flush()
    store.commit()
    assert list(steps) == []


def test_a_walk_over_expired_keys_ends(store: Store) -> None:
    keyspace = store.keyspace(0)
    for number in range(1000):
        keyspace.put(b"%04d" % number, b"", NOW_MS + 1)
    store.commit()
    store.begin(NOW_MS + 1)
    assert keyspace.count == 1000, "not swept yet"
    assert keyspace.random_key() is None


def test_where_the_walk_begins_is_drawn(store: Store) -> None:
    keyspace = store.keyspace(0)
    names = [b"%05d" % number for number in range(4000)]
    for name in names:
        keyspace.put(name, b"")
    store.commit()
    live = names[::1000]
    for name in names:
        if name not in live:
            keyspace.delete(name)
    store.commit()
    assert set(draw(keyspace, 60)) == set(live)  # 1 in 10**7 to fail: a quarter of the draws each
