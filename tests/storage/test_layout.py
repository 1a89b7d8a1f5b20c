"""Keys on disk sort as the numbers and names in them do."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.layout import (
    DATABASES,
    EXPIRY_KIND,
    PURGE_KIND,
    SYSTEM,
    after_prefix,
    change_key,
    database_id,
    deadline_prefix,
    due_before,
    history_key,
    member_suffix,
    members_start,
    number_of,
    origin_key,
    parse_change_key,
    parse_deadline,
    parse_history_key,
    parse_member,
    place_of,
    place_prefix,
)


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_a_prefix_is_a_range(prefix: bytes, key: bytes) -> None:
    end = after_prefix(prefix)
    in_range = prefix <= key and (end is None or key < end)
    assert in_range == key.startswith(prefix)


@given(st.binary(max_size=4), st.binary(max_size=8))
def test_everything_with_the_prefix_is_in_its_range(prefix: bytes, rest: bytes) -> None:
    end = after_prefix(prefix)
    assert prefix <= prefix + rest
    assert end is None or prefix + rest < end


@given(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)))
def test_change_keys_can_be_read_back(parts: tuple[int, int]) -> None:
    assert parse_change_key(change_key(*parts)) == parts


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))))
def test_change_keys_sort_by_origin_and_sequence(parts: list[tuple[int, int]]) -> None:
    assert sorted(change_key(*p) for p in parts) == [change_key(*p) for p in sorted(parts)]


@given(st.integers(0, 2**63), st.sampled_from([EXPIRY_KIND, PURGE_KIND]), st.binary(max_size=20))
def test_deadlines_can_be_read_back_and_end_before_the_next_millisecond(
    due_ms: int, kind: int, row_key: bytes
) -> None:
    key = deadline_prefix(due_ms, kind) + row_key
    assert parse_deadline(key) == (due_ms, kind, row_key)
    assert due_before(due_ms) <= key < due_before(due_ms + 1)


def test_due_before_takes_any_time() -> None:
    assert due_before(2**70) == due_before(2**64 - 1)


def test_origin_keys_end_in_their_number() -> None:
    assert number_of(origin_key(70_000)) == 70_000


def test_the_fixed_namespaces_are_distinct() -> None:
    fixed = {SYSTEM, *(database_id(index) for index in range(DATABASES))}
    assert len(fixed) == DATABASES + 1
    assert all(len(namespace) == 16 for namespace in fixed)


# Zero bytes and their neighbours, which the escaping of keys has to keep in order.
USER_KEYS = st.lists(st.sampled_from([b"\x00", b"\x01", b"\xff", b"a"]), max_size=5).map(b"".join)
NAMESPACES = st.sampled_from([database_id(0), database_id(1), b"\xff" * 16])
KINDS = st.integers(0, 0xFFFF)
SUBS = st.binary(max_size=4) | USER_KEYS


@given(NAMESPACES, USER_KEYS, KINDS, SUBS)
def test_a_member_comes_back_from_its_row_key(namespace: bytes, key: bytes, kind: int, sub: bytes) -> None:
    row_key = place_prefix(namespace + key) + member_suffix(kind, sub)
    assert parse_member(row_key) == (namespace + key, kind, sub)


@given(st.tuples(NAMESPACES, USER_KEYS, SUBS), st.tuples(NAMESPACES, USER_KEYS, SUBS))
def test_members_sort_as_their_keys_do(
    left: tuple[bytes, bytes, bytes], right: tuple[bytes, bytes, bytes]
) -> None:
    places = [namespace + key for namespace, key, _ in (left, right)]
    rows = [place_prefix(namespace + key) + member_suffix(3, sub) for namespace, key, sub in (left, right)]
    if places[0] != places[1]:
        assert (places[0] < places[1]) == (rows[0] < rows[1])
    assert (rows[0] >= members_start(places[1])) == (places[0] >= places[1])
    assert rows[0].startswith(place_prefix(places[1])) == (places[0] == places[1])


@pytest.mark.parametrize("row_key", [b"", b"n" * 16, b"n" * 16 + b"key", b"n" * 16 + b"key\x00\x01k"])
def test_a_row_key_that_is_no_members_is_refused(row_key: bytes) -> None:
    with pytest.raises(ValueError, match=r"subsection|kind"):
        parse_member(row_key)


@given(st.binary(max_size=40))
def test_no_bytes_crash_the_parser_of_members(row_key: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_member(row_key)


def test_numbers_count_down_in_the_order_of_rows() -> None:
    prefix = place_prefix(bytes(16) + b"a\x00b")
    keys = [history_key(prefix, number) for number in (1, 2, 255, 256, 2**64 - 1)]
    assert keys == sorted(keys, reverse=True)
    assert [parse_history_key(key) for key in keys] == [(prefix, n) for n in (1, 2, 255, 256, 2**64 - 1)]


@given(NAMESPACES, USER_KEYS)
def test_a_place_comes_back_from_its_prefix(namespace: bytes, key: bytes) -> None:
    assert place_of(place_prefix(namespace + key)) == namespace + key
