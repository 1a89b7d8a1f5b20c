"""Keyspace events: their kinds, the setting that selects them, and the two messages each becomes.

An event has a name (``set``, ``expired`` ...), a key and a kind. The setting `notify-keyspace-events`
is a word of letters: one letter for each kind, ``K`` and ``E`` for the channels to publish on, and ``A``
for the common kinds together. A kind is a bit, so that a handler's report costs one test.

    K  ``__keyspace@<db>__:<key>``    message: the event's name
    E  ``__keyevent@<db>__:<event>``  message: the key

``<db>`` is the number of the database, or the id of a namespace in 32 hex digits.

Source: Redis 7.2 documentation, "Redis keyspace notifications".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

KEYSPACE: Final = 1 << 0
KEYEVENT: Final = 1 << 1
GENERIC: Final = 1 << 2
STRING: Final = 1 << 3
LIST: Final = 1 << 4
SET: Final = 1 << 5
HASH: Final = 1 << 6
ZSET: Final = 1 << 7
EXPIRED: Final = 1 << 8
EVICTED: Final = 1 << 9
STREAM: Final = 1 << 10
KEYMISS: Final = 1 << 11
MODULE: Final = 1 << 12
NEW: Final = 1 << 13

# What `A` stands for: everything but the two that are said of nearly every request.
ALL: Final = GENERIC | STRING | LIST | SET | HASH | ZSET | EXPIRED | EVICTED | STREAM | MODULE

# In the order in which CONFIG GET writes them.
_LETTERS: Final = {
    "g": GENERIC,
    "$": STRING,
    "l": LIST,
    "s": SET,
    "h": HASH,
    "z": ZSET,
    "x": EXPIRED,
    "e": EVICTED,
    "t": STREAM,
    "d": MODULE,
    "n": NEW,
    "K": KEYSPACE,
    "E": KEYEVENT,
    "m": KEYMISS,
}


def parse_kinds(letters: str) -> int:
    """Return the kinds that a setting such as ``KEA`` selects. Raise ValueError for an unknown letter."""
    kinds = 0
    for letter in letters:
        if letter == "A":
            kinds |= ALL
        elif letter in _LETTERS:
            kinds |= _LETTERS[letter]
        else:
            raise ValueError(f"unknown kind of keyspace event: {letter!r}")
    return kinds


def format_kinds(kinds: int) -> str:
    """Return the letters that select `kinds`, in Redis's order, with ``A`` where it fits."""
    whole = kinds & ALL == ALL
    letters = "A" if whole else ""
    for letter, bit in _LETTERS.items():
        if kinds & bit and not (whole and bit & ALL):
            letters += letter
    return letters


def messages(
    kinds: int, kind: int, event: bytes, key: bytes, database: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (channel, message) for one event, as far as `kinds`, the setting, selects it."""
    if not kinds & kind:
        return
    if kinds & KEYSPACE:
        yield b"__keyspace@%b__:%b" % (database, key), event
    if kinds & KEYEVENT:
        yield b"__keyevent@%b__:%b" % (database, event), key
