"""The model's own abilities: crashes, full disks, old images."""

from __future__ import annotations

import pytest

from storage.engine import Family
from storage.engine_memory import MemoryEngine
from storage.errors import NoSpace


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


def test_an_older_image_can_be_put_back() -> None:
    engine = MemoryEngine()
    write(engine, b"a")
    image = engine.image()
    write(engine, b"b")
    engine.restore(image)
    write(engine, b"c")
    assert keys(engine) == b"ac"
    assert sorted(image[Family.RECORDS]) == [b"a"]
