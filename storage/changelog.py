"""The change log: which key each dot wrote, in the batch of the write itself.

One row for each commit, a *chunk* of consecutive dots of one origin:

    key    origin# (4) ‖ first seq (8)
    value  CBOR [last hlc, [place, place ...], [[index, count], ...]]

A place is a row key; null for "the same row as the dot before"; ``[namespace]`` for a flush; ``[row key,
kind (2) ‖ sub]`` for a member; the empty byte string for a dot that is dead: compaction found it so, or
it was when another node handed on its neighbours. The dot of place i is (origin, first seq + i). The
pairs name groups of dots that one transaction wrote and that must be applied together. No dot of the
chunk or of an earlier chunk of its origin has a clock value greater than the last one named.

The log names keys and holds no values: whoever reads it reads the live row and looks whether a
register still carries the dot. Hence overwriting removes nothing here; what is dead stays until
`compaction` comes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from storage.errors import RecordError
from storage.incoming import Place
from storage.layout import NAMESPACE_BYTES
from storage.record import SHORT_HEADS, array_head, bytes_head, loads, unsigned

DEAD: Final = b""

_SUFFIX_BYTES_MIN: Final = 2
_HEADS: Final = SHORT_HEADS
_NULL: Final = b"\xf6"
_ARRAY_2: Final = b"\x82"
_ARRAY_3: Final = b"\x83"
_join: Final = b"".join


@attrs.frozen
class Chunk:
    """A decoded chunk. `decode_chunk` resolves its places: null is replaced by what it stands for."""

    last_hlc: int
    places: list[Place]
    groups: list[tuple[int, int]]


def encode_chunk(last_hlc: int, places: Sequence[Place], groups: Sequence[tuple[int, int]]) -> bytes:
    """Return the value of a chunk's row."""
    # Hot: once for every commit.
    try:
        parts = [_NULL if place is None else _HEADS[len(place)] + place for place in places]  # type: ignore[operator]
    except (TypeError, IndexError):
        parts = [_encode_place(place) for place in places]
    pairs = [_ARRAY_2 + unsigned(index) + unsigned(count) for index, count in groups]
    return _join(
        (
            _ARRAY_3,
            unsigned(last_hlc),
            array_head(len(parts)),
            _join(parts),
            array_head(len(pairs)),
            _join(pairs),
        )
    )


def decode_chunk(encoded: bytes) -> Chunk:
    """Return the chunk of a row's value. Raise `RecordError` if it is not one."""
    try:
        last_hlc, places, groups = loads(encoded)
        chunk = Chunk(last_hlc, resolve(places), [(index, count) for index, count in groups])
    except (TypeError, ValueError) as error:
        raise RecordError(f"a chunk of the change log: {error}") from error
    if (
        type(last_hlc) is not int
        or type(places) is not list
        or not all(_fits(index, count, len(places)) for index, count in chunk.groups)
    ):
        raise RecordError("a chunk of the change log has a part of the wrong type")
    if not all(_is_place(place) for place in chunk.places):
        raise RecordError("a chunk of the change log names something that is not a row")
    return chunk


def read_chunk(encoded: bytes) -> Chunk:
    """Return the chunk as it is stored: places not checked, nulls not resolved. For compaction."""
    try:
        last_hlc, places, groups = loads(encoded)
    except (TypeError, ValueError) as error:
        raise RecordError(f"a chunk of the change log: {error}") from error
    return Chunk(last_hlc, places, groups)


def _encode_place(place: Place) -> bytes:
    if place is None:
        return _NULL
    if isinstance(place, list):
        return array_head(len(place)) + _join(bytes_head(len(part)) + part for part in place)
    return bytes_head(len(place)) + place


def resolve(places: list[Place]) -> list[Place]:
    """Return the places with every null replaced by the place it stands for."""
    if None not in places:
        return places
    resolved: list[Place] = []
    last: Place = DEAD
    for place in places:
        last = last if place is None else place
        resolved.append(last)
    return resolved


def _is_place(place: object) -> bool:
    if not isinstance(place, list):
        return isinstance(place, bytes) and (not place or len(place) >= NAMESPACE_BYTES)
    if not place or not all(isinstance(part, bytes) for part in place):
        return False
    if len(place) == 1:
        return len(place[0]) == NAMESPACE_BYTES
    return len(place) == 2 and len(place[0]) >= NAMESPACE_BYTES and len(place[1]) >= _SUFFIX_BYTES_MIN


def _fits(index: object, count: object, places_count: int) -> bool:
    return (
        type(index) is int
        and type(count) is int
        and index >= 0
        and count > 1
        and index + count <= places_count
    )
