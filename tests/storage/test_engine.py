"""What every engine has to do: the same tests over the memory engine and RocksDB."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path

import pytest

from storage.engine import Engine, Family
from storage.errors import Closed, Unavailable
from tests.storage.engines import EngineRig


def put(engine: Engine, family: Family, **items: bytes) -> None:
    batch = engine.batch()
    for key, value in items.items():
        batch.put(family, key.encode(), value)
    engine.write(batch, sync=False)


def keys(engine: Engine, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False) -> bytes:
    found = engine.iterate(Family.RECORDS, start, end, reverse=reverse)
    return b"".join(key for key, _ in found)


def test_a_written_key_is_read_back(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"1", b=b"")
    assert engine.get(Family.RECORDS, b"a") == b"1"
    assert engine.get(Family.RECORDS, b"b") == b""
    assert engine.get(Family.RECORDS, b"c") is None


def test_families_do_not_mix(engine: Engine) -> None:
    for family in Family:
        put(engine, family, key=str(family).encode())
    for family in Family:
        assert engine.get(family, b"key") == str(family).encode()
        assert list(engine.iterate(family)) == [(b"key", str(family).encode())]


def test_many_keys_are_read_at_once_in_the_order_asked(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"1", b=b"2")
    assert engine.multi_get(Family.RECORDS, [b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
    assert engine.multi_get(Family.RECORDS, []) == []


def test_put_all_is_many_puts(engine: Engine) -> None:
    batch = engine.batch()
    batch.put_all(Family.RECORDS, [(b"a", b"1"), (b"b", b"2")])
    batch.put_all(Family.CHANGES, [(b"c", b"3")])
    engine.write(batch, sync=False)
    assert keys(engine) == b"ab"
    assert engine.get(Family.CHANGES, b"c") == b"3"


def test_keys_iterate_in_the_order_of_unsigned_bytes(engine: Engine) -> None:
    wanted = [b"", b"\x00", b"\x00\x00", b"a", b"aa", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\xff"]
    batch = engine.batch()
    for key in reversed(wanted):
        batch.put(Family.RECORDS, key, b"v")
    engine.write(batch, sync=False)
    assert [key for key, _ in engine.iterate(Family.RECORDS)] == wanted
    assert [key for key, _ in engine.iterate(Family.RECORDS, reverse=True)] == wanted[::-1]


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (b"", None, b"bdfh"),
        (b"b", b"h", b"bdf"),
        (b"c", b"g", b"df"),
        (b"c", b"d", b""),
        (b"d", b"d", b""),
        (b"i", None, b""),
        (b"", b"a", b""),
        (b"g", b"zz", b"h"),
    ],
)
def test_a_range_holds_its_start_and_not_its_end(
    engine: Engine, start: bytes, end: bytes | None, wanted: bytes
) -> None:
    put(engine, Family.RECORDS, b=b"", d=b"", f=b"", h=b"")
    assert keys(engine, start, end) == wanted
    assert keys(engine, start, end, reverse=True) == wanted[::-1]


def test_an_iterator_shows_the_state_at_its_creation(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"1", b=b"1")
    forward = engine.iterate(Family.RECORDS)
    backward = engine.iterate(Family.RECORDS, reverse=True)
    put(engine, Family.RECORDS, a=b"2", b=b"2", c=b"2")
    assert list(forward) == [(b"a", b"1"), (b"b", b"1")]
    assert list(backward) == [(b"b", b"1"), (b"a", b"1")]


def test_an_iterator_may_be_left_half_way(engine: Engine, rig: EngineRig) -> None:
    put(engine, Family.RECORDS, a=b"1", b=b"2", c=b"3")
    assert list(islice(engine.iterate(Family.RECORDS), 1)) == [(b"a", b"1")]
    assert keys(rig.open()) == b"abc"


def test_later_changes_of_a_batch_win(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"old", b=b"old")
    batch = engine.batch()
    batch.put(Family.RECORDS, b"a", b"1")
    batch.delete(Family.RECORDS, b"a")
    batch.delete(Family.RECORDS, b"b")
    batch.put(Family.RECORDS, b"b", b"2")
    engine.write(batch, sync=False)
    assert list(engine.iterate(Family.RECORDS)) == [(b"b", b"2")]


def test_a_deleted_range_is_gone_and_can_be_written_again(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"", b=b"", c=b"", d=b"")
    put(engine, Family.META, b=b"kept")
    batch = engine.batch()
    batch.delete_range(Family.RECORDS, b"b", b"d")
    batch.put(Family.RECORDS, b"c", b"new")
    engine.write(batch, sync=False)
    assert list(engine.iterate(Family.RECORDS)) == [(b"a", b""), (b"c", b"new"), (b"d", b"")]
    assert engine.get(Family.RECORDS, b"b") is None
    assert engine.get(Family.META, b"b") == b"kept"


def test_deleting_what_is_missing_is_no_error(engine: Engine) -> None:
    batch = engine.batch()
    batch.delete(Family.RECORDS, b"a")
    batch.delete_range(Family.RECORDS, b"a", b"b")
    engine.write(batch, sync=True)
    assert keys(engine) == b""


def test_what_was_written_is_there_after_opening_again(engine: Engine, rig: EngineRig) -> None:
    put(engine, Family.RECORDS, a=b"1")
    put(engine, Family.MEMBERS, m=b"2")
    engine.close()
    again = rig.open()
    assert again.get(Family.RECORDS, b"a") == b"1"
    assert again.get(Family.MEMBERS, b"m") == b"2"


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 3_000_000])
def test_values_of_any_size_are_kept(engine: Engine, rig: EngineRig, size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    put(engine, Family.RECORDS, big=value)
    assert engine.get(Family.RECORDS, b"big") == value
    engine.close()
    again = rig.open()
    assert again.get(Family.RECORDS, b"big") == value
    assert list(again.iterate(Family.RECORDS)) == [(b"big", value)]


def test_a_snapshot_does_not_change(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"1", b=b"1")
    put(engine, Family.CHANGES, c=b"1")
    snapshot = engine.snapshot()
    put(engine, Family.RECORDS, a=b"2", z=b"2")
    put(engine, Family.CHANGES, c=b"2")
    batch = engine.batch()
    batch.delete_range(Family.RECORDS, b"b", b"c")
    engine.write(batch, sync=False)
    assert snapshot.get(Family.RECORDS, b"a") == b"1"
    assert snapshot.get(Family.RECORDS, b"z") is None
    assert snapshot.multi_get(Family.RECORDS, [b"b", b"z", b"a"]) == [b"1", None, b"1"]
    assert snapshot.get(Family.CHANGES, b"c") == b"1"
    assert list(snapshot.iterate(Family.RECORDS)) == [(b"a", b"1"), (b"b", b"1")]
    assert list(snapshot.iterate(Family.RECORDS, b"b", b"c")) == [(b"b", b"1")]
    assert list(snapshot.iterate(Family.RECORDS, reverse=True)) == [(b"b", b"1"), (b"a", b"1")]
    assert list(snapshot.iterate(Family.RECORDS, b"", b"b", reverse=True)) == [(b"a", b"1")]
    snapshot.close()
    assert keys(engine) == b"az"


def test_a_look_up_does_not_disturb_the_iteration_of_a_snapshot(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"1", b=b"2", c=b"3")
    snapshot = engine.snapshot()
    seen = [(key, snapshot.get(Family.RECORDS, b"a")) for key, _ in snapshot.iterate(Family.RECORDS)]
    assert seen == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]
    snapshot.close()


def test_sync_and_checkpoint_may_come_from_another_thread(engine: Engine, tmp_path: Path) -> None:
    put(engine, Family.RECORDS, a=b"1")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            engine.sync()
            engine.checkpoint(tmp_path / "copy")
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_a_checkpoint_is_not_written_over_something(engine: Engine, tmp_path: Path) -> None:
    engine.checkpoint(tmp_path / "copy")
    with pytest.raises(Unavailable, match="exists already"):
        engine.checkpoint(tmp_path / "copy")


def test_recover_does_no_harm_to_a_healthy_engine(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"1")
    engine.recover()
    assert keys(engine) == b"a"


def test_a_closed_engine_says_so(engine: Engine) -> None:
    batch = engine.batch()
    engine.close()
    engine.close()
    with pytest.raises(Closed, match="closed"):
        engine.get(Family.RECORDS, b"a")
    with pytest.raises(Closed):
        engine.multi_get(Family.RECORDS, [b"a"])
    with pytest.raises(Closed):
        next(engine.iterate(Family.RECORDS), None)
    with pytest.raises(Closed):
        engine.write(batch, sync=False)
    with pytest.raises(Closed):
        engine.sync()
    with pytest.raises(Closed):
        engine.recover()
    with pytest.raises(Closed):
        engine.snapshot()


def test_stats_are_numbers(engine: Engine) -> None:
    put(engine, Family.RECORDS, a=b"1")
    stats = engine.stats()
    assert stats
    assert all(type(value) is int and value >= 0 for value in stats.values())


def test_keys_are_those_of_a_walk(engine: Engine) -> None:
    batch = engine.batch()
    for key in (b"a", b"ab", b"b", b"c\xff", b"d"):
        batch.put(Family.RECORDS, key, b"value of " + key)
    engine.write(batch, sync=False)
    for start, end in ((b"", None), (b"ab", b"d"), (b"x", None), (b"", b"a"), (b"a", b"a\x00")):
        walked = [key for key, _ in engine.iterate(Family.RECORDS, start, end)]
        assert list(engine.keys(Family.RECORDS, start, end)) == walked


def test_a_walk_of_keys_shows_the_moment_at_which_it_began(engine: Engine) -> None:
    batch = engine.batch()
    batch.put(Family.RECORDS, b"a", b"")
    batch.put(Family.RECORDS, b"b", b"")
    engine.write(batch, sync=False)
    keys = engine.keys(Family.RECORDS)
    assert next(keys) == b"a"
    batch = engine.batch()
    batch.delete(Family.RECORDS, b"b")
    batch.put(Family.RECORDS, b"c", b"")
    engine.write(batch, sync=False)
    assert list(keys) == [b"b"]
