"""The shapes of what travels in messages: how a field is written as CBOR's own types, and how it is read back.

A shape reads untrusted values, so it accepts exactly the type it names (no bool for an int, no list for
a tuple) and exactly the range, and raises `RemoteProtocolError` with what it wanted. It never raises
anything else. What it cannot check alone, relations between fields, is for `messages`.

Decoded CBOR has immutable containers: tuples, and a mapping that is not a dict. Numbers are 64 bits,
negative or not, because the tags of larger ones are refused.

Changes are the hot path, thousands a second: one function for a whole run, with flat comparisons. A
change travels as an array of its fields with the trailing defaults left off.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from replication.errors import RemoteProtocolError
from storage.changes import INLINE_BYTES_MAX, Change, Run, VersionVector

ID_BYTES: Final = 16
SEQ_MAX: Final = 2**63 - 1
HLC_MAX: Final = 2**64 - 1
PLACE_BYTES_MIN: Final = 16  # a namespace
PLACE_BYTES_MAX: Final = PLACE_BYTES_MIN + 64 * 1024  # the hard limit of a key
PART_BYTES_MAX: Final = 64 * 1024  # metadata, or what names a member of a key
# Three maps of this many entries, the most that one message has, are less than `frames.MESSAGE_BYTES_MAX`.
VECTOR_ENTRIES_MAX: Final = 100_000

Read: TypeAlias = Callable[[Any], Any]
EnumT = TypeVar("EnumT", bound=IntEnum)


class Shape(NamedTuple):
    """Two ways between a field's value and CBOR's types; `write` is None where they are the same."""

    read: Read
    write: Callable[[Any], Any] | None = None


# ---------------------------------------------------------------- plain values


def number(low: int, high: int) -> Shape:
    """Return the shape of an integer in `low`..`high`."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise RemoteProtocolError(f"is not a number from {low} to {high}")
        return value

    return Shape(read)


def enumeration(members: type[EnumT]) -> Shape:
    """Return the shape of a member of `members`; others are refused."""

    def read(value: Any) -> EnumT:
        if type(value) is not int or value not in members._value2member_map_:
            raise RemoteProtocolError(f"is not one of {members.__name__}")
        return members(value)

    return Shape(read, int)


def _read_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise RemoteProtocolError("is neither true nor false")
    return value


def octets(low: int, high: int) -> Shape:
    """Return the shape of a byte string of `low`..`high` bytes."""

    def read(value: Any) -> bytes:
        if type(value) is not bytes or not low <= len(value) <= high:
            raise RemoteProtocolError(f"is not a byte string of {low} to {high} bytes")
        return value

    return Shape(read)


def text(chars_max: int) -> Shape:
    """Return the shape of a text, which is cut at `chars_max` when it is written."""

    def read(value: Any) -> str:
        if type(value) is not str or len(value) > chars_max:
            raise RemoteProtocolError(f"is not a text of up to {chars_max} characters")
        return value

    def write(value: str) -> str:
        # A lone surrogate, as in a file's name, has no UTF-8.
        return value[:chars_max].encode("utf-8", "replace").decode()

    return Shape(read, write)


def several(shape: Shape, count_max: int) -> Shape:
    """Return the shape of a tuple of up to `count_max` items of `shape`."""
    read_item, write_item = shape

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple or len(value) > count_max:
            raise RemoteProtocolError(f"is not an array of up to {count_max} items")
        return tuple([read_item(item) for item in value])

    if write_item is None:
        return Shape(read)
    return Shape(read, lambda value: [write_item(item) for item in value])


FLAG: Final = Shape(_read_flag)
ID: Final = octets(ID_BYTES, ID_BYTES)
SEQ: Final = number(0, SEQ_MAX)
DOT_SEQ: Final = number(1, SEQ_MAX)
HLC: Final = number(0, HLC_MAX)
COUNT: Final = number(0, SEQ_MAX)
MS: Final = number(0, SEQ_MAX)
PLACE: Final = octets(PLACE_BYTES_MIN, PLACE_BYTES_MAX)
CURSOR: Final = octets(0, PLACE_BYTES_MAX)


# ---------------------------------------------------------------- vectors


def vector(entries_max: int) -> Shape:
    """Return the shape of a map from origins to sequences, of up to `entries_max` entries."""

    def read(value: Any) -> VersionVector:
        items = entries(value)
        if len(items) > entries_max:
            raise RemoteProtocolError(f"has more than {entries_max} entries")
        for origin, seq in items:
            if type(origin) is not bytes or len(origin) != ID_BYTES:
                raise RemoteProtocolError("has an origin that is not 16 bytes")
            if type(seq) is not int or not 0 <= seq <= SEQ_MAX:
                raise RemoteProtocolError("has a sequence that is out of range")
        return VersionVector(dict(items))

    return Shape(read, dict)


def entries(value: Any) -> list[tuple[Any, Any]]:
    """Return the entries of a decoded map, in the order in which they came."""
    if type(value) is not dict and not hasattr(value, "items"):
        raise RemoteProtocolError("is not a map")
    return list(value.items())


VECTOR: Final = vector(VECTOR_ENTRIES_MAX)


# ---------------------------------------------------------------- runs

_FULL_SIZE: Final = len(Change._fields)
_DEFAULTS: Final = tuple(Change._field_defaults.values())
_SHORT_SIZE: Final = _FULL_SIZE - len(_DEFAULTS)
# What a change of that many fields lacks.
_TAILS: Final = {size: _DEFAULTS[size - _SHORT_SIZE :] for size in range(_SHORT_SIZE, _FULL_SIZE + 1)}


def write_run(run: Run) -> tuple[Any, ...]:
    """Return (origin, after, upto, short changes)."""
    return (run.origin, run.after, run.upto, [_shorten(change) for change in run.changes])


def _shorten(change: Change) -> tuple[Any, ...]:
    # Hot. The commonest: a value without metadata, of a new key, or of one whose version before is known.
    _, _, _, _, content, metadata, sub, prev_hlc, prev_origin, group_end = change
    if group_end:
        return change[:]
    if prev_origin is not None:
        return change[:9]
    if prev_hlc:
        return change[:8]
    if sub:
        return change[:7]
    if metadata is not None:
        return change[:6]
    return change[:4] if content is None else change[:5]


def read_run(value: Any) -> Run:
    """Return a run whose changes ascend in (after, upto]."""
    origin, after, upto, changes = _read_header(value)
    return Run(origin, after, upto, _read_changes(changes, after, upto, is_ascending=True))


def read_any_run(value: Any) -> Run:
    """Return a run as of a sync: as `read_run`, or with after == upto == 0 and changes in any order."""
    origin, after, upto, changes = _read_header(value)
    if upto == 0:
        return Run(origin, 0, 0, _read_changes(changes, 0, SEQ_MAX, is_ascending=False))
    return Run(origin, after, upto, _read_changes(changes, after, upto, is_ascending=True))


def _read_header(value: Any) -> tuple[bytes, int, int, Any]:
    if type(value) is not tuple or len(value) != 4:
        raise RemoteProtocolError("is not a run")
    origin, after, upto, changes = value
    if type(origin) is not bytes or len(origin) != ID_BYTES:
        raise RemoteProtocolError("has an origin that is not 16 bytes")
    if type(after) is not int or type(upto) is not int or not 0 <= after <= upto <= SEQ_MAX:
        raise RemoteProtocolError("has bounds that are out of range")
    if type(changes) is not tuple:
        raise RemoteProtocolError("has changes that are not an array")
    return origin, after, upto, changes


def _read_changes(items: tuple[Any, ...], after: int, upto: int, *, is_ascending: bool) -> list[Change]:
    # Hot: about 1 us per change. `tests/bench` has the figures.
    changes: list[Change] = []
    append = changes.append
    new = tuple.__new__
    last = after
    for item in items:
        tail = _TAILS.get(len(item)) if type(item) is tuple else None
        if tail is None:
            raise RemoteProtocolError("has a change with a wrong number of fields")
        full = item + tail
        seq, hlc, kind, place, content, metadata, sub, prev_hlc, prev_origin, group_end = full
        if (
            type(seq) is not int
            or not last < seq <= upto
            or type(hlc) is not int
            or hlc < 0
            or type(kind) is not int
            or not 0 <= kind <= 65535
            or type(place) is not bytes
            or not PLACE_BYTES_MIN <= len(place) <= PLACE_BYTES_MAX
            or not (
                len(content) <= INLINE_BYTES_MAX
                if type(content) is bytes
                else content is None or (type(content) is int and 0 <= content <= SEQ_MAX)
            )
            or not (metadata is None or (type(metadata) is bytes and len(metadata) <= PART_BYTES_MAX))
            or type(sub) is not bytes
            or len(sub) > PART_BYTES_MAX
            or type(prev_hlc) is not int
            or prev_hlc < 0
            or not (prev_origin is None or (type(prev_origin) is bytes and len(prev_origin) == ID_BYTES))
            or type(group_end) is not int
            or not (group_end == 0 or seq <= group_end <= SEQ_MAX)
        ):
            raise RemoteProtocolError(f"has a change with a wrong field (after sequence {last} of {upto})")
        if is_ascending:
            last = seq
        append(new(Change, full))
    return changes


def change_bytes_max(change: Change) -> int:
    """Return at least how many bytes `change` takes in a frame, and at most some 80 more than that."""
    content, metadata = change.content, change.metadata
    size = _CHANGE_HEADS_BYTES + len(change.place) + len(change.sub)
    if type(content) is bytes:
        size += len(content)
    return size if metadata is None else size + len(metadata)


# The array's head, four numbers of nine bytes, a kind of three, five bytes before each of four strings,
# nine for a number as content, and an origin.
_CHANGE_HEADS_BYTES: Final = 1 + 4 * 9 + 3 + 4 * 5 + 9 + 17

RUN: Final = Shape(read_run, write_run)
ANY_RUN: Final = Shape(read_any_run, write_run)
# An empty run is nine bytes; the frame's size is the real limit.
RUNS: Final = several(ANY_RUN, 65536)
