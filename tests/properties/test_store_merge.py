"""The laws of merging rows."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from storage.merge import merge, merge_all
from storage.record import (
    EXPIRES_AT,
    EXPIRY,
    FLOOR,
    MISSING,
    NEVER,
    VALUE,
    VALUE_STAMP,
    Record,
    build,
    decode,
    encode,
    erase_below,
    registers,
)
from storage.version import NO_PREV, is_newer, pack_register

# Numbers against the order of the bytes, so that comparing numbers would be seen.
ORIGINS = [bytes(16), b"\x09" * 16, b"\x01" * 16, b"\x05" * 16]

# Few stamps, so that equal clocks and broken promises (two contents under one stamp) come up.
REGISTERS = st.builds(
    pack_register,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([NO_PREV, b"\x01" * 12]),
)


@st.composite
def rows(draw: st.DrawFn) -> Record:
    """Any row that is in its canonical form."""
    value = draw(st.none() | st.sampled_from([b"", b"a", b"b"]))
    stamp = draw(REGISTERS if value is not None else st.none() | REGISTERS)
    metadata = None if value is None else draw(st.sampled_from([None, b"{}"]))
    expiry = draw(st.none() | st.tuples(REGISTERS, st.sampled_from([None, 5, 6])))
    floor = draw(st.none() | REGISTERS)
    record = build(value, metadata, (stamp, expiry, floor), ORIGINS)
    return record if floor is None else erase_below(record, floor, ORIGINS)


@given(rows(), rows())
def test_merging_is_commutative(left: Record, right: Record) -> None:
    assert merge(left, right, ORIGINS) == merge(right, left, ORIGINS)


@given(rows(), rows(), rows())
def test_merging_is_associative(first: Record, second: Record, third: Record) -> None:
    left = merge(merge(first, second, ORIGINS), third, ORIGINS)
    right = merge(first, merge(second, third, ORIGINS), ORIGINS)
    assert left == right


@given(rows(), rows())
def test_merging_is_idempotent(left: Record, right: Record) -> None:
    assert merge(left, left, ORIGINS) == left
    merged = merge(left, right, ORIGINS)
    assert merge(merged, left, ORIGINS) == merged
    assert merge(merged, MISSING, ORIGINS) == merged


@given(st.lists(rows(), min_size=1, max_size=4))
def test_the_order_of_arrival_does_not_matter_to_the_bytes_on_disk(received: list[Record]) -> None:
    merged = {merge_all(order, ORIGINS) for order in itertools.permutations(received)}
    assert len(merged) == 1
    (record,) = merged
    if record != MISSING:
        assert decode(encode(record), ORIGINS) == record


@given(rows(), rows())
def test_no_newer_register_is_lost_and_no_older_one_survives(left: Record, right: Record) -> None:
    merged = merge(left, right, ORIGINS)
    floor = merged[FLOOR]
    for side in (left, right):
        stamp, merged_stamp = side[VALUE_STAMP], merged[VALUE_STAMP]
        if stamp is not None:
            newest = [other for other in (merged_stamp, floor) if other is not None]
            assert newest
            assert any(other[:20] == stamp[:20] or is_newer(other, stamp, ORIGINS) for other in newest)
    if floor is not None:
        others = [register for register in registers(merged) if register is not floor]
        assert not any(is_newer(floor, register, ORIGINS) for register in others)


def test_an_expire_does_not_undo_a_concurrent_set() -> None:
    base = build(b"old", None, (pack_register(1, 1, 1, NO_PREV), None, None), ORIGINS)
    set_here = build(b"new", None, (pack_register(2, 1, 2, NO_PREV), None, None), ORIGINS)
    expired_there = build(
        b"old", None, (base[VALUE_STAMP], (pack_register(3, 2, 1, NO_PREV), 777), None), ORIGINS
    )
    merged = merge(set_here, expired_there, ORIGINS)
    assert (merged[VALUE], merged[EXPIRES_AT]) == (b"new", 777)
    later_set = build(b"new", None, (pack_register(4, 1, 2, NO_PREV), None, None), ORIGINS)
    merged = merge(later_set, expired_there, ORIGINS)
    assert (merged[VALUE], merged[EXPIRES_AT]) == (b"new", NEVER)
    assert merged[EXPIRY] == expired_there[EXPIRY]


def test_a_deletion_wins_over_everything_older_and_nothing_newer() -> None:
    deleted = (None, 0, None, None, None, pack_register(5, 1, 5, NO_PREV))
    older = build(b"v", None, (pack_register(4, 2, 1, NO_PREV), None, None), ORIGINS)
    newer = build(b"v", None, (pack_register(6, 2, 2, NO_PREV), None, None), ORIGINS)
    assert merge(deleted, older, ORIGINS) == deleted
    assert merge(deleted, newer, ORIGINS) == (*newer[:5], deleted[FLOOR])


def test_a_value_dropped_after_expiry_comes_back_from_who_has_it() -> None:
    stamp = pack_register(1, 1, 1, NO_PREV)
    expiry = (pack_register(1, 1, 2, NO_PREV), 777)
    extended = (pack_register(2, 2, 1, NO_PREV), 999)
    header = build(None, None, (stamp, expiry, None), ORIGINS)
    whole = build(b"v", b"{}", (stamp, extended, None), ORIGINS)
    assert merge(header, whole, ORIGINS) == whole
