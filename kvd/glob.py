"""Glob patterns over byte strings, as Redis matches them (KEYS, SCAN, PSUBSCRIBE, ACL rules).

    ``*``      any bytes, also none             ``[abc]``  one byte of the set
    ``?``      one byte                         ``[a-z]``  one byte of the range, ends in any order
    ``\\x``     the byte x itself                ``[^abc]`` one byte that is not in the set

A pattern is compiled once: it becomes the literal bytes that every match starts with, and a regular
expression for what comes after them. The literal prefix turns a walk over a keyspace into a walk over
one range of it.

Cost: between two stars stands a run of single-byte tests of fixed length, so the leftmost place where a
run fits is always as good as any later one. Each run is therefore an atomic group: what has been matched
is never tried again, and a hostile pattern such as ``a*a*a*a*b`` costs at most O(pattern x subject).

Odd corners are Redis's own: a set that is not closed ends with the pattern, ``[]`` matches nothing, ``[^]``
anything, ranges compare bytes as signed numbers, a star alone matches no empty subject (KEYS and SCAN treat
a pattern of just ``*`` as everything before they ask: `is_everything`).

Source: Redis 7.2 `util.c`, behaviour of `stringmatchlen`; compared with a live server by the tests.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

# A key is at most 64 KiB; no useful pattern is longer than its longest subject with every byte escaped.
PATTERN_BYTES_MAX: Final = 128 * 1024
# What follows the literal prefix is compiled at about 7 us an element: 60 ms at most.
_ELEMENTS_MAX: Final = 8192
# Longer patterns are compiled at every use: the cache must not become a place to hoard memory.
_CACHED_PATTERN_BYTES_MAX: Final = 256

_SPECIAL: Final = frozenset(b"*?[\\")
_STAR: Final = -1
_ALL_BYTES: Final = frozenset(range(256))

# One element of a pattern: a star, or the set of bytes that may stand in one place.
_Element = int | frozenset[int]


class Glob:
    """A compiled pattern. Raise ValueError if it is too long to be compiled in reasonable time."""

    __slots__ = ("_length_min", "_matches_rest", "is_everything", "is_literal", "pattern", "prefix")

    def __init__(self, pattern: bytes) -> None:
        if len(pattern) > PATTERN_BYTES_MAX:
            raise ValueError("pattern is too long")
        self.pattern = pattern
        elements = _parse(pattern)
        literal = _literal_length(elements)
        self.prefix = bytes(_only_byte(element) for element in elements[:literal])
        rest = elements[literal:]
        if len(rest) > _ELEMENTS_MAX:
            raise ValueError("pattern has too many elements")
        self._length_min = sum(element != _STAR for element in elements)
        self.is_literal = not rest
        self.is_everything = pattern == b"*"
        # None: the prefix alone decides.
        ends_open = rest == [_STAR] and bool(self.prefix)
        self._matches_rest = None if self.is_literal or ends_open else _compile(rest).fullmatch

    def matches(self, subject: bytes) -> bool:
        """Tell whether the whole of `subject` matches."""
        if not subject.startswith(self.prefix):
            return False
        if self._matches_rest is None:
            return not self.is_literal or len(subject) == len(self.prefix)
        if len(subject) < max(self._length_min, 1):
            return False
        return self._matches_rest(subject, len(self.prefix)) is not None

    def __repr__(self) -> str:
        return f"Glob({self.pattern!r})"


def compile_glob(pattern: bytes) -> Glob:
    """Return the compiled pattern, from a small cache where it is short."""
    if len(pattern) > _CACHED_PATTERN_BYTES_MAX:
        return Glob(pattern)
    return _cached_glob(pattern)


@lru_cache(maxsize=256)
def _cached_glob(pattern: bytes) -> Glob:
    return Glob(pattern)


def _parse(pattern: bytes) -> list[_Element]:
    elements: list[_Element] = []
    at = 0
    end = len(pattern)
    while at < end:
        byte = pattern[at]
        if byte == 0x2A:  # *
            if not elements or elements[-1] != _STAR:
                elements.append(_STAR)
        elif byte == 0x3F:  # ?
            elements.append(_ALL_BYTES)
        elif byte == 0x5B:  # [
            allowed, at = _parse_set(pattern, at + 1)
            elements.append(allowed)
        else:
            if byte == 0x5C and at + 1 < end:  # a backslash at the very end stands for itself
                at += 1
                byte = pattern[at]
            elements.append(_SINGLE[byte])
        at += 1
    return elements


def _parse_set(pattern: bytes, at: int) -> tuple[frozenset[int], int]:
    """Return the bytes of the set whose first character is at `at`, and where its last character stands."""
    end = len(pattern)
    negated = at < end and pattern[at] == 0x5E
    if negated:
        at += 1
    allowed: set[int] = set()
    while at < end and pattern[at] != 0x5D:
        if pattern[at] == 0x5C and at + 1 < end:
            at += 1
            allowed.add(pattern[at])
        elif at + 2 < end and pattern[at + 1] == 0x2D:
            allowed |= _byte_range(pattern[at], pattern[at + 2])
            at += 2
        else:
            allowed.add(pattern[at])
        at += 1
    return (_ALL_BYTES - allowed if negated else frozenset(allowed)), min(at, end - 1)


def _byte_range(start: int, stop: int) -> set[int]:
    low, high = sorted((_signed(start), _signed(stop)))
    return {value & 0xFF for value in range(low, high + 1)}


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


_SINGLE: Final = tuple(frozenset((byte,)) for byte in range(256))


def _literal_length(elements: list[_Element]) -> int:
    for index, element in enumerate(elements):
        if isinstance(element, int) or len(element) != 1:
            return index
    return len(elements)


def _only_byte(element: _Element) -> int:
    assert isinstance(element, frozenset)
    (byte,) = element
    return byte


def _compile(elements: list[_Element]) -> re.Pattern[bytes]:
    """Return a regular expression in which only the last run, of fixed length, can be tried twice."""
    runs: list[list[_Element]] = [[]]
    for element in elements:
        if element == _STAR:
            runs.append([])
        else:
            runs[-1].append(element)
    first, *others = (b"".join(map(_byte_class, run)) for run in runs)
    if not others:
        return re.compile(first, re.DOTALL)
    *middle, last = others
    atomic = b"".join(b"(?>.*?%b)" % run for run in middle)
    return re.compile(b"%b%b.*%b" % (first, atomic, last), re.DOTALL)


def _byte_class(element: _Element) -> bytes:
    assert isinstance(element, frozenset)
    if len(element) == 256:
        return b"."
    if len(element) == 1:
        return b"\\x%02x" % _only_byte(element)
    if not element:
        return b"(?!)"
    return b"[%b]" % b"".join(b"\\x%02x" % byte for byte in sorted(element))
