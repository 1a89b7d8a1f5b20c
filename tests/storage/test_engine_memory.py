"""The model's own abilities: crashes, full disks, old images."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.engine import Family
from storage.engine_memory import MemoryEngine
from storage.errors import NoSpace, Unavailable


def write(engine: MemoryEngine, key: bytes, *, sync: bool = False) -> None:
    batch = engine.batch()
    batch.put(Family.RECORDS, key, b"")
    engine.write(batch, sync=sync)


def keys(engine: MemoryEngine) -> bytes:
    return b"".join(key for key, _ in engine.iterate(Family.RECORDS))


@pytest.mark.parametrize(("keep", "wanted"), [(0, b"ab"), (1, b"abc"), (2, b"abcd"), (9, b"abcd")])
def test_a_power_cut_keeps_what_was_synced_and_a_prefix_of_the_rest(keep: int, wanted: bytes) -> None:
    engine = MemoryEngine()
    write(engine, b"a")
    write(engine, b"b", sync=True)
    write(engine, b"c")
    write(engine, b"d")
    engine.crash(keep)
    assert keys(engine) == wanted
    assert engine.tail == []


def test_what_survived_one_power_cut_survives_the_next() -> None:
    engine = MemoryEngine()
    write(engine, b"a")
    engine.crash(keep=1)
    engine.crash()
    assert keys(engine) == b"a"


def test_a_kill_keeps_all_that_was_written() -> None:
    engine = MemoryEngine()
    write(engine, b"a")
    engine.close()
    engine.kill()
    assert keys(engine) == b"a"


def test_a_failed_write_leaves_nothing_behind() -> None:
    engine = MemoryEngine()
    engine.fail_next(NoSpace("memory"), count=2)
    for _ in range(2):
        with pytest.raises(NoSpace):
            write(engine, b"a")
    write(engine, b"b")
    assert keys(engine) == b"b"


def test_recover_fails_while_writes_fail() -> None:
    engine = MemoryEngine()
    engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace):
        engine.recover()
    engine.recover()


def test_after_a_failed_sync_every_write_fails_until_it_has_recovered() -> None:
    engine = MemoryEngine()
    write(engine, b"a")
    engine.fail_next_sync(Unavailable("memory", "fsync failed"))
    with pytest.raises(Unavailable):
        write(engine, b"b", sync=True)
    with pytest.raises(Unavailable):
        write(engine, b"c")
    with pytest.raises(Unavailable):
        engine.sync()
    assert keys(engine) == b"a"
    engine.recover()
    write(engine, b"d")
    assert keys(engine) == b"ad"


def test_an_older_image_can_be_put_back() -> None:
    engine = MemoryEngine()
    write(engine, b"a")
    image = engine.image()
    write(engine, b"b")
    engine.restore(image)
    write(engine, b"c")
    assert keys(engine) == b"ac"
    assert sorted(image[Family.RECORDS]) == [b"a"]


def test_a_snapshot_copies_nothing_and_keeps_what_is_changed() -> None:
    engine = MemoryEngine()
    for number in range(1000):
        write(engine, b"%03d" % number)
    snapshot = engine.view()
    assert len(engine._views) == 1
    write(engine, b"000")
    assert sum(len(kept) for kept in snapshot._before.values()) == 1
    del snapshot
    assert engine._views == {}


KEYS = st.sampled_from([bytes([number]) for number in range(12)])
OPERATIONS = st.lists(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=1))
    | st.tuples(st.just("delete"), KEYS)
    | st.tuples(st.just("range"), KEYS, KEYS),
    max_size=6,
)


@given(OPERATIONS, st.lists(OPERATIONS, max_size=8), KEYS, st.none() | KEYS, st.booleans())
def test_an_iterator_shows_its_moment_whatever_is_written_meanwhile(
    before: list[tuple[Any, ...]],
    meanwhile: list[list[tuple[Any, ...]]],
    start: bytes,
    end: bytes | None,
    reverse: bool,
) -> None:
    engine = MemoryEngine()
    change(engine, before)
    wanted = {
        key: value
        for key, value in engine.image()[Family.RECORDS].items()
        if start <= key and (end is None or key < end)
    }
    rows = engine.iterate(Family.RECORDS, start, end, reverse=reverse)
    snapshot = engine.snapshot()
    found: list[tuple[bytes, bytes]] = []
    for operations in meanwhile:
        change(engine, operations)
        found.extend(islice(rows, 1))
    found.extend(rows)
    assert found == sorted(wanted.items(), reverse=reverse)
    assert list(snapshot.iterate(Family.RECORDS, start, end, reverse=reverse)) == found
    assert [snapshot.get(Family.RECORDS, key) for key, _ in found] == [value for _, value in found]


def change(engine: MemoryEngine, operations: list[tuple[Any, ...]]) -> None:
    batch = engine.batch()
    for name, *arguments in operations:
        if name == "put":
            batch.put(Family.RECORDS, *arguments)
        elif name == "delete":
            batch.delete(Family.RECORDS, *arguments)
        else:
            batch.delete_range(Family.RECORDS, *arguments)
    engine.write(batch, sync=False)
