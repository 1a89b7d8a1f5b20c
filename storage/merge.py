"""Which writes win: the merge of two versions of one row, as a pure function.

Each register is decided by itself: the greatest stamp wins, whoever brings it and in whatever order.
Then what is older than the floor is erased. So merging is commutative, associative and idempotent, and
nodes that have seen the same writes hold the same row; the laws are tests. `applying` merges one register at
a time into a stored row and is held equal to this.

Stamps are unique, so values are never compared, except where that promise was broken: two different
contents under one stamp. Then all nodes choose alike, the one with the greater SHA-256. A value that
was dropped after its expiry is no different content: the side that still has it gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from hashlib import sha256
from typing import Any, TypeAlias, TypeVar

from storage.record import EXPIRY, FLOOR, METADATA, VALUE, VALUE_STAMP, Record, build, dumps, erase_below
from storage.version import STAMP_BYTES, is_newer, unpack_full_register

_Value: TypeAlias = tuple[bytes, bytes | None, bytes | None]
_Expiry: TypeAlias = tuple[bytes, int | None]
_Content = TypeVar("_Content", bound=tuple[Any, ...])
_Origins: TypeAlias = Sequence[bytes]


def merge(left: Record, right: Record, origins: _Origins) -> Record:
    """Return the row that holds the newest of each register of both."""
    value = _newer(_value_of(left), _value_of(right), value_rank, origins)
    expiry = _newer(left[EXPIRY], right[EXPIRY], content_rank, origins)
    floor = _newer(_floor_of(left), _floor_of(right), content_rank, origins)
    stamp, content, metadata = value or (None, None, None)
    parts = (stamp, expiry, None if floor is None else floor[0])
    merged = build(content, metadata, parts, origins)
    return merged if floor is None else erase_below(merged, floor[0], origins)


def merge_all(records: Sequence[Record], origins: _Origins) -> Record:
    """Return the merge of one record or more."""
    return reduce(lambda left, right: merge(left, right, origins), records)


def value_outranks(left: Record, right: Record, origins: _Origins) -> bool:
    """Tell which of two different values under one stamp is kept: whether it is the left one."""
    left_value, right_value = _value_of(left), _value_of(right)
    assert left_value is not None
    assert right_value is not None
    return value_rank(left_value, origins) > value_rank(right_value, origins)


def expiry_outranks(left: _Expiry, right: _Expiry, origins: _Origins) -> bool:
    """Tell the same of two expiries."""
    return content_rank(left, origins) > content_rank(right, origins)


def member_outranks(left: tuple[bytes, Any, Any], right: tuple[bytes, Any, Any], origins: _Origins) -> bool:
    """Tell the same of two members."""
    return content_rank(left, origins) > content_rank(right, origins)


def value_rank(content: tuple[Any, ...], origins: _Origins) -> tuple[bool, bytes]:
    """Return what decides between two values under one stamp."""
    return content[1] is not None, content_rank(content, origins)


def content_rank(content: tuple[Any, ...], origins: _Origins) -> bytes:
    """Return a hash of a register and what belongs to it that is the same on every node."""
    _, _, _, prev_hlc, prev_number = unpack_full_register(content[0])
    prev_origin = origins[prev_number] if prev_number < len(origins) else b""
    return sha256(dumps([prev_hlc, prev_origin, *content[1:]])).digest()


def _value_of(record: Record) -> _Value | None:
    stamp = record[VALUE_STAMP]
    return None if stamp is None else (stamp, record[VALUE], record[METADATA])


def _floor_of(record: Record) -> tuple[bytes] | None:
    floor = record[FLOOR]
    return None if floor is None else (floor,)


def _newer(
    left: _Content | None,
    right: _Content | None,
    rank: Callable[[tuple[Any, ...], _Origins], Any],
    origins: _Origins,
) -> _Content | None:
    """Return the side with the greater stamp, which is the start of the content's first item."""
    if left is None or right is None:
        return left if right is None else right
    if left == right:
        return left
    if left[0][:STAMP_BYTES] != right[0][:STAMP_BYTES]:
        return left if is_newer(left[0], right[0], origins) else right
    return left if rank(left, origins) > rank(right, origins) else right
