"""The script cache: bounded in number and bytes; what was loaded stays."""

from __future__ import annotations

import pytest

from kvd.scripting.cache import EVAL_SCRIPTS_MAX, CachedScript, ScriptCache
from kvd.scripting.source import Script
from protocol.replies import ErrorReply


def entry(number: int, *, is_loaded: bool = False, size: int = 100) -> CachedScript:
    return CachedScript(b"%040x" % number, Script(b"x" * size, None), is_loaded)


def cache(bytes_max: int = 1 << 30) -> tuple[ScriptCache, list[CachedScript]]:
    dropped: list[CachedScript] = []
    return ScriptCache(bytes_max, dropped.append), dropped


def test_the_least_recently_used_script_of_eval_is_dropped_first() -> None:
    scripts, dropped = cache()
    entries = [entry(number) for number in range(EVAL_SCRIPTS_MAX)]
    for each in entries:
        scripts.add(each)
    assert scripts.get(entries[0].digest) is entries[0]
    scripts.add(entry(EVAL_SCRIPTS_MAX))
    assert dropped == [entries[1]]
    assert entries[0].digest in scripts
    assert len(scripts) == EVAL_SCRIPTS_MAX


def test_loaded_scripts_stay_whatever_eval_brings() -> None:
    scripts, dropped = cache()
    loaded = [entry(number, is_loaded=True) for number in range(10)]
    for each in loaded:
        scripts.add(each)
    for number in range(10, 10 + 2 * EVAL_SCRIPTS_MAX):
        scripts.add(entry(number))
    assert not set(loaded) & set(dropped)
    assert all(each.digest in scripts for each in loaded)


def test_scripts_of_eval_are_dropped_for_bytes_as_well() -> None:
    scripts, dropped = cache(10 * entry(0).size)
    for number in range(25):
        scripts.add(entry(number))
    assert len(scripts) == 10
    assert len(dropped) == 15
    assert scripts.bytes == 10 * entry(0).size


def test_loaded_scripts_end_at_half_of_the_bytes() -> None:
    scripts, _ = cache(10 * entry(0).size)
    for number in range(5):
        scripts.check_room(entry(number, is_loaded=True))
        scripts.add(entry(number, is_loaded=True))
    with pytest.raises(ErrorReply, match="cache is full"):
        scripts.check_room(entry(5, is_loaded=True))
    scripts.check_room(entry(5))


def test_a_script_that_is_too_large_is_refused() -> None:
    scripts, _ = cache(10_000)
    with pytest.raises(ErrorReply, match="larger than a script may be"):
        scripts.check_room(entry(0, size=5_000))


def test_keeping_a_script_of_eval_makes_it_a_loaded_one() -> None:
    scripts, _ = cache()
    first = entry(0)
    scripts.add(first)
    scripts.keep(first)
    scripts.keep(first)
    for number in range(1, 2 * EVAL_SCRIPTS_MAX):
        scripts.add(entry(number))
    assert scripts.get(first.digest) is first
    assert scripts.bytes == (EVAL_SCRIPTS_MAX + 1) * first.size


def test_keeping_needs_room_too() -> None:
    scripts, _ = cache(4 * entry(0).size)
    for number in range(3):
        scripts.add(entry(number))
    for number in range(2):
        found = scripts.get(b"%040x" % number)
        assert found is not None
        scripts.keep(found)
    found = scripts.get(b"%040x" % 2)
    assert found is not None
    with pytest.raises(ErrorReply, match="cache is full"):
        scripts.keep(found)


def test_clearing_forgets_all() -> None:
    scripts, dropped = cache()
    scripts.add(entry(0))
    scripts.add(entry(1, is_loaded=True))
    scripts.clear()
    assert len(scripts) == 0
    assert scripts.bytes == 0
    assert not dropped
    assert scripts.get(entry(0).digest) is None
