"""The order of stamps and the bytes of a register."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import RecordError
from storage.version import (
    NO_PREV,
    REGISTER_BYTES,
    Version,
    describe,
    dot_bytes,
    hlc_at,
    hlc_ms,
    is_newer,
    pack_register,
    register_dot,
    register_hlc,
    register_ms,
    unpack_register,
)

ORIGINS = [bytes(16), b"\x09" * 16, b"\x01" * 16, b"\x05" * 16]
STAMPS = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3))


def pack(stamp: tuple[int, int, int]) -> bytes:
    return pack_register(*stamp, NO_PREV)


def key(stamp: tuple[int, int, int]) -> tuple[int, bytes, int]:
    """The order as the specification has it."""
    hlc, origin, seq = stamp
    return hlc, ORIGINS[origin], seq


@given(STAMPS, STAMPS)
def test_stamps_compare_as_clock_then_origins_bytes_then_sequence(
    left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    assert is_newer(pack(left), pack(right), ORIGINS) == (key(left) > key(right))


@given(st.lists(STAMPS, unique=True, max_size=12))
def test_the_order_is_total(stamps: list[tuple[int, int, int]]) -> None:
    def compare(left: bytes, right: bytes) -> int:
        return is_newer(left, right, ORIGINS) - is_newer(right, left, ORIGINS)

    ordered = sorted(map(pack, stamps), key=functools.cmp_to_key(compare))
    assert ordered == [pack(stamp) for stamp in sorted(stamps, key=key)]


def test_an_unknown_origin_is_an_error_where_it_decides() -> None:
    with pytest.raises(RecordError, match="unknown origin"):
        is_newer(pack((1, 1, 1)), pack((1, 77, 1)), ORIGINS)
    assert is_newer(pack((2, 1, 1)), pack((1, 77, 1)), ORIGINS)


def test_prev_does_not_take_part_in_the_order() -> None:
    newer_prev = pack_register(1, 1, 1, b"\xff" * 12)
    assert not is_newer(newer_prev, pack((1, 1, 1)), ORIGINS)


def test_a_register_has_its_parts_where_the_layout_says() -> None:
    register = pack_register(hlc_at(1_700_000_000_000) + 7, 3, 99, b"p" * 12)
    assert len(register) == REGISTER_BYTES
    assert register_ms(register) == 1_700_000_000_000
    assert register_hlc(register) & 0xFFFF == 7
    assert register_dot(register) == (3, 99)
    assert register[8:20] == dot_bytes(3, 99)
    assert register[20:] == b"p" * 12
    assert unpack_register(register) == (register_hlc(register), 3, 99, b"p" * 12)
    assert describe(register, ORIGINS) == Version(1_700_000_000_000, 7, ORIGINS[3], 99)


def test_a_full_counter_runs_over_into_the_milliseconds() -> None:
    assert hlc_ms(hlc_at(5) + 0xFFFF) == 5
    assert hlc_at(5) + 0xFFFF + 1 == hlc_at(6)
