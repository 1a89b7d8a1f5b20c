"""Which writes win: the merge of two versions of one row, as a pure function.

Each register is decided by itself: the greatest stamp wins, whoever brings it and in whatever order.
Then what is older than the floor is erased. So merging is commutative, associative and idempotent, and
nodes that have seen the same writes hold the same row; the laws are tests.

Stamps are unique, so values are never compared, except where that promise was broken: two different
contents under one stamp. Then all nodes choose alike, the one with the greater SHA-256. A value that
was dropped after its expiry is no different content: the side that still has it gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from hashlib import sha256
from typing import TypeVar

from storage.record import EXPIRY, FLOOR, METADATA, VALUE, VALUE_STAMP, Record, build, dumps, erase_below
from storage.version import STAMP_BYTES, is_newer

_Content = TypeVar("_Content", tuple[bytes, bytes | None, bytes | None], tuple[bytes, int | None], bytes)


def merge(left: Record, right: Record, origins: Sequence[bytes]) -> Record:
    """Return the row that holds the newest of each register of both."""
    value = _newer(_value_of(left), _value_of(right), origins)
    expiry = _newer(left[EXPIRY], right[EXPIRY], origins)
    floor = _newer(left[FLOOR], right[FLOOR], origins)
    stamp, content, metadata = value or (None, None, None)
    merged = build(content, metadata, (stamp, expiry, floor), origins)
    return merged if floor is None else erase_below(merged, floor, origins)


def merge_all(records: Sequence[Record], origins: Sequence[bytes]) -> Record:
    """Return the merge of one record or more."""
    return reduce(lambda left, right: merge(left, right, origins), records)


def _value_of(record: Record) -> tuple[bytes, bytes | None, bytes | None] | None:
    stamp = record[VALUE_STAMP]
    return None if stamp is None else (stamp, record[VALUE], record[METADATA])


def _newer(left: _Content | None, right: _Content | None, origins: Sequence[bytes]) -> _Content | None:
    """Return the side with the greater stamp; the stamp is the start of the content's first register."""
    if left is None or right is None:
        return left if right is None else right
    if left == right:
        return left
    left_register, right_register = _register_of(left), _register_of(right)
    if left_register[:STAMP_BYTES] != right_register[:STAMP_BYTES]:
        return left if is_newer(left_register, right_register, origins) else right
    return left if _rank(left) > _rank(right) else right


def _register_of(
    content: tuple[bytes, bytes | None, bytes | None] | tuple[bytes, int | None] | bytes,
) -> bytes:
    return content if isinstance(content, bytes) else content[0]


def _rank(
    content: tuple[bytes, bytes | None, bytes | None] | tuple[bytes, int | None] | bytes,
) -> tuple[bool, bytes]:
    """Return what decides between two contents under one stamp."""
    has_body = not isinstance(content, bytes) and content[1] is not None
    return has_body, sha256(dumps(content)).digest()
