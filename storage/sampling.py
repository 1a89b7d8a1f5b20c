"""Random keys from an ordered range, without walking it.

Stored keys cluster (``user:000001`` beside one ``config``), so a random position between the first
and the last key would nearly always hit the same few. Instead one draw descends the tree of
prefixes: at each level it takes a random byte between the first and the last that occur there and
goes to the next one that exists, until at most `_EXACT_ROWS` rows are left, of which it takes one
at random. That reaches any key, with a chance p that differs from key to key, but that the draw
knows: the product of its choices. Taking one of several draws with weight 1/p evens that out
(sampling importance resampling, Rubin 1987; the estimate of a tree's size by random descent is
Knuth's, 1975). A lone key beside a million others is drawn half the time, with weight 2 against a
million, and so it is hardly ever taken.

Cost: three seeks a level, some ten levels for a million keys, times `_PROBES`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from storage.engine import Engine, Family
from storage.layout import after_prefix

_EXACT_ROWS = 32
_PROBES = 8

_random = random.SystemRandom()


def draw_keys(engine: Engine, start: bytes, end: bytes | None, count: int) -> Iterator[bytes]:
    """Yield up to `count` random row keys of the range, none if it is empty."""
    few = _first_keys(engine, start, end)
    if len(few) <= _EXACT_ROWS:
        _random.shuffle(few)
        yield from few
        return
    for _ in range(count):
        probes = [_descend(engine, start, end) for _ in range(_PROBES)]
        keys = [key for key, _ in probes]
        yield _random.choices(keys, [weight for _, weight in probes])[0]


def _descend(engine: Engine, start: bytes, end: bytes | None) -> tuple[bytes, float]:
    """Return a key of a range that is not empty, and the inverse of the chance of having got it."""
    weight = 1.0
    while True:
        few = _first_keys(engine, start, end)
        if len(few) <= _EXACT_ROWS:
            return _random.choice(few), weight * len(few)
        first = few[0]
        last = next(engine.iterate(Family.RECORDS, start, end, reverse=True))[0]
        prefix = _common_prefix(first, last)
        low, high = _symbol(first, prefix), _symbol(last, prefix)
        drawn = _random.randint(low, high)
        found = next(engine.iterate(Family.RECORDS, _branch(prefix, drawn), end))[0]
        symbol = _symbol(found, prefix)
        before = next(engine.iterate(Family.RECORDS, start, _branch(prefix, symbol), reverse=True), None)
        gap = symbol - (low - 1 if before is None else _symbol(before[0], prefix))
        weight *= (high - low + 1) / gap
        if symbol == 0:
            return found, weight
        start, end = _branch(prefix, symbol), after_prefix(_branch(prefix, symbol))


def _first_keys(engine: Engine, start: bytes, end: bytes | None) -> list[bytes]:
    return [key for key, _ in islice(engine.iterate(Family.RECORDS, start, end), _EXACT_ROWS + 1)]


def _common_prefix(first: bytes, last: bytes) -> bytes:
    length = 0
    for left, right in zip(first, last, strict=False):
        if left != right:
            break
        length += 1
    return first[:length]


def _symbol(key: bytes, prefix: bytes) -> int:
    """Return what follows `prefix` in `key`: 0 for its end, else the byte plus one."""
    return 0 if len(key) == len(prefix) else key[len(prefix)] + 1


def _branch(prefix: bytes, symbol: int) -> bytes:
    """Return the least key whose symbol after `prefix` is `symbol` or more."""
    return prefix if symbol == 0 else prefix + bytes((symbol - 1,))
