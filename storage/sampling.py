"""Random keys from an ordered range, without walking it.

Stored keys cluster (``user:000001`` beside one ``config``), so a random position between the first
and the last key would nearly always hit the same few. Instead one draw descends the tree of
prefixes: at each level it takes a random byte between the first and the last that occur there and
goes to the nearest existing one above or below it, until at most `_EXACT_ROWS` rows are left, of which
it takes one at random. That reaches any key, with a chance p that differs from key to key, but that
the draw knows: the product of its choices. Taking one of several draws with weight 1/p evens that out
(sampling importance resampling, Rubin 1987; the estimate of a tree's size by random descent is
Knuth's, 1975). A lone key beside a million others comes up in half of the draws, with weight 2 against a
million, and so it is hardly ever taken.

Cost of a draw: five seeks a level, some five levels for a million keys, times `_PROBES`; about two milliseconds.
Keys that are long chains of prefixes of each other end the descent at `_LEVELS_MAX`.
"""

from __future__ import annotations

import random
from itertools import islice

from storage.engine import Engine, Family
from storage.layout import after_prefix

_EXACT_ROWS = 32
_PROBES = 6
_LEVELS_MAX = 40

_random = random.SystemRandom()


def draw_keys(engine: Engine, start: bytes, end: bytes | None) -> list[bytes]:
    """Return a random row key of the range; if there are few, all in random order; if it is empty, none."""
    few = _first_keys(engine, start, end)
    if len(few) <= _EXACT_ROWS:
        _random.shuffle(few)
        return few
    probes = [_descend(engine, start, end) for _ in range(_PROBES)]
    keys = [key for key, _ in probes]
    return _random.choices(keys, [weight for _, weight in probes])


def _descend(engine: Engine, start: bytes, end: bytes | None) -> tuple[bytes, float]:
    """Return a key of a range that is not empty, and the inverse of the chance of having got it."""
    weight = 1.0
    few = _first_keys(engine, start, end)
    for _ in range(_LEVELS_MAX):
        if len(few) <= _EXACT_ROWS:
            break
        last = next(engine.iterate(Family.RECORDS, start, end, reverse=True))[0]
        prefix = _common_prefix(few[0], last)
        symbol, chance = _choose_branch(engine, prefix, (_symbol(few[0], prefix), _symbol(last, prefix)), end)
        weight /= chance
        if symbol == 0:
            return prefix, weight
        start, end = _branch(prefix, symbol), after_prefix(_branch(prefix, symbol))
        few = _first_keys(engine, start, end)
    return _random.choice(few), weight * len(few)


def _choose_branch(
    engine: Engine, prefix: bytes, symbols: tuple[int, int], end: bytes | None
) -> tuple[int, float]:
    """Return one of the symbols that follow `prefix` in stored keys, and the chance that it had.

    `symbols` are the first and the last of them, which differ. A random point between two neighbours leads
    to either with the same chance, so a symbol's chance is half of the two gaps beside it.
    """
    low, high = symbols
    above = _symbol_from(engine, prefix, _random.randint(low + 1, high), end)
    below = _symbol_before(engine, prefix, above)
    if _random.random() < 0.5:
        gap_above = 0 if above == high else _symbol_from(engine, prefix, above + 1, end) - above
        return above, (above - below + gap_above) / (2 * (high - low))
    gap_below = 0 if below == low else below - _symbol_before(engine, prefix, below)
    return below, (above - below + gap_below) / (2 * (high - low))


def _symbol_from(engine: Engine, prefix: bytes, symbol: int, end: bytes | None) -> int:
    """Return the first symbol that follows `prefix` in stored keys, from `symbol` on. There is one."""
    found = next(engine.keys(Family.RECORDS, _branch(prefix, symbol), end))
    return _symbol(found, prefix)


def _symbol_before(engine: Engine, prefix: bytes, symbol: int) -> int:
    """Return the last symbol before `symbol` that follows `prefix` in stored keys. There is one."""
    found = next(engine.iterate(Family.RECORDS, prefix, _branch(prefix, symbol), reverse=True))[0]
    return _symbol(found, prefix)


def _first_keys(engine: Engine, start: bytes, end: bytes | None) -> list[bytes]:
    return list(islice(engine.keys(Family.RECORDS, start, end), _EXACT_ROWS + 1))


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
