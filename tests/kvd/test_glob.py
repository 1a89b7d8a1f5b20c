"""Glob patterns: the same matches as redis-server, and hostile patterns in bounded time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvd.glob import PATTERN_BYTES_MAX, Glob, compile_glob
from tests.servers import RunningServer


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (b"h?llo", [b"hello", b"h\nllo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeello"], [b"hell"]),
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"h[ae]llo"]),
        (b"h[^e]llo", [b"hallo", b"h\xffllo"], [b"hello", b"hllo"]),
        (b"h[b-a]llo", [b"hallo", b"hbllo"], [b"hcllo"]),
        (rb"h\*llo", [b"h*llo"], [b"hello"]),
        (rb"[\]]", [b"]"], [b"\\"]),
        (b"[abc", [b"a", b"c"], [b"[abc", b""]),
        (b"[]", [], [b"", b"]", b"[]"]),
        (b"[^]", [b"a"], [b"", b"ab"]),
        (b"[", [], [b"["]),
        (b"[a-", [b"a", b"-"], [b"b"]),
        (b"[a-]", [b"]", b"^", b"a"], [b"-"]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b"[\x01-\xff]", [b"\x01", b"\xff", b"\x00"], [b"\x02", b"\x80"]),
        (b"*", [b"x"], [b""]),
        (b"**", [b"x"], [b""]),
        (b"", [b""], [b"x"]),
        (b"a*", [b"a", b"ab"], [b"b"]),
        (b"*a*b", [b"aab", b"xaxbxb"], [b"ba", b"b"]),
    ],
)
def test_a_pattern_matches_the_whole_subject(
    pattern: bytes, matching: list[bytes], other: list[bytes]
) -> None:
    glob = Glob(pattern)
    assert [subject for subject in matching + other if glob.matches(subject)] == matching


@pytest.mark.parametrize(
    ("pattern", "prefix", "is_literal"),
    [
        (b"user:*", b"user:", False),
        (rb"us\*r:[ab]", b"us*r:", False),
        (rb"us\*r", b"us*r", True),
        (b"[u]ser:?", b"user:", False),
        (b"*", b"", False),
        (b"", b"", True),
    ],
)
def test_the_literal_beginning_is_known(pattern: bytes, prefix: bytes, is_literal: bool) -> None:
    glob = Glob(pattern)
    assert (glob.prefix, glob.is_literal) == (prefix, is_literal)


_symbols = st.lists(st.sampled_from(list(b"ab*?[]^-\\\xfe")), max_size=10).map(bytes)
_subjects = st.lists(st.sampled_from(list(b"abc-]^\\\xfe\xff")), max_size=8).map(bytes)


@pytest.mark.needs_redis
@settings(max_examples=400, deadline=None)
@given(pattern=_symbols, subjects=st.sets(_subjects, min_size=1, max_size=12))
def test_matches_are_those_of_redis(
    redis_server: RunningServer, pattern: bytes, subjects: set[bytes]
) -> None:
    with redis_server.client() as redis:
        redis.flushdb()
        redis.mset(dict.fromkeys(subjects, b""))
        expected = set(redis.keys(pattern))
        redis.flushdb()
    glob = compile_glob(pattern)
    assert {subject for subject in subjects if glob.is_everything or glob.matches(subject)} == expected


def _reference(pattern: list[int], subject: bytes) -> bool:
    """Match elements by dynamic programming: no way of going back, so no way to do it wrong."""
    reachable = {0}
    for element in pattern:
        if element == ord("*"):
            reachable = set(range(min(reachable, default=len(subject) + 1), len(subject) + 1))
        else:
            reachable = {
                at + 1 for at in reachable if at < len(subject) and element in {subject[at], ord("?")}
            }
    return len(subject) in reachable


@given(
    pattern=st.lists(st.sampled_from(list(b"ab*?")), max_size=12),
    subject=st.text("ab", min_size=1, max_size=14),
)
def test_stars_find_a_match_wherever_there_is_one(pattern: list[int], subject: str) -> None:
    assert Glob(bytes(pattern)).matches(subject.encode()) == _reference(pattern, subject.encode())


@pytest.mark.parametrize(
    "pattern", [b"a*" * 30 + b"b", b"*a" * 30 + b"*b", b"*" * 1000 + b"?" * 60, b"*[ab]" * 30 + b"c"]
)
def test_hostile_patterns_cost_no_more_than_their_length_times_the_subjects(pattern: bytes) -> None:
    glob = Glob(pattern)
    started = time.process_time()
    assert not glob.matches(b"a" * 59) or b"?" in pattern
    assert glob.matches(b"a" * 4000) == (b"b" not in pattern.replace(b"[ab]", b"") and b"c" not in pattern)
    assert time.process_time() - started < 1.0


def test_patterns_that_would_take_long_to_compile_are_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        compile_glob(b"a" * (PATTERN_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="too many elements"):
        compile_glob(b"*a" * 5000)
    assert Glob(b"a" * PATTERN_BYTES_MAX).is_literal


def test_a_short_pattern_is_compiled_once() -> None:
    assert compile_glob(b"once:*") is compile_glob(b"once:*")
    assert compile_glob(b"o" * 300 + b"*") is not compile_glob(b"o" * 300 + b"*")


def test_representation_shows_the_pattern() -> None:
    assert re.search(r"b'a\*'", repr(Glob(b"a*")))
