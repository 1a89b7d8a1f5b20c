"""SCAN cursors: never mistaken for one another, bounded, and good for a second try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.cursors import SCANS_MAX, CursorTable, UnknownCursor

HERE = b"\x00" * 16
THERE = b"\x01" * 16


def test_a_cursor_leads_to_where_its_page_ended() -> None:
    table = CursorTable()
    first = table.advance(0, HERE, b"k1")
    assert table.position(first, HERE) == b"k1"
    second = table.advance(first, HERE, b"k2")
    assert table.position(second, HERE) == b"k2"


def test_cursors_are_positive_and_exact_in_floating_point() -> None:
    table = CursorTable()
    cursors = [table.advance(0, HERE, b"%d" % number) for number in range(1000)]
    assert len(set(cursors)) == 1000
    assert all(0 < cursor < 1 << 52 and int(float(cursor)) == cursor for cursor in cursors)


def test_the_last_page_may_be_asked_for_again_and_older_ones_may_not() -> None:
    table = CursorTable()
    first = table.advance(0, HERE, b"k1")
    second = table.advance(first, HERE, b"k2")
    assert table.position(first, HERE) == b"k1"
    third = table.advance(second, HERE, b"k3")
    with pytest.raises(UnknownCursor):
        table.position(first, HERE)
    assert table.position(second, HERE) == b"k2"
    assert table.position(third, HERE) == b"k3"


@pytest.mark.parametrize("again", [b"k2", b"k5"])
def test_a_page_asked_for_again_never_makes_a_key_be_skipped(again: bytes) -> None:
    """Both answers of the page carry the same cursor; it leads to the end of the shorter one."""
    table = CursorTable()
    first = table.advance(0, HERE, b"k1")
    second = table.advance(first, HERE, b"k4")
    assert table.advance(first, HERE, again) == second
    assert table.position(second, HERE) == min(again, b"k4")


@given(cursor=st.integers(1, (1 << 64) - 1))
def test_made_up_cursors_are_unknown(cursor: int) -> None:
    table = CursorTable()
    known = table.advance(0, HERE, b"k")
    if cursor != known:
        with pytest.raises(UnknownCursor):
            table.position(cursor, HERE)


def test_a_cursor_belongs_to_its_keyspace() -> None:
    table = CursorTable()
    cursor = table.advance(0, HERE, b"k")
    with pytest.raises(UnknownCursor):
        table.position(cursor, THERE)


def test_the_scan_used_longest_ago_makes_room() -> None:
    table = CursorTable(scans_max=2)
    old = table.advance(0, HERE, b"old")
    kept = table.advance(0, HERE, b"kept")
    table.position(old, HERE)  # now `kept` is the older one
    table.advance(0, HERE, b"new")
    assert len(table) == 2
    assert table.position(old, HERE) == b"old"
    with pytest.raises(UnknownCursor):
        table.position(kept, HERE)


def test_an_ended_scan_makes_room_first_and_can_be_asked_again_until_then() -> None:
    table = CursorTable(scans_max=2)
    older = table.advance(0, HERE, b"older")
    ended = table.advance(0, HERE, b"ended")
    table.finish(ended)
    assert table.position(ended, HERE) == b"ended"
    table.finish(ended)
    table.advance(0, HERE, b"new")
    assert table.position(older, HERE) == b"older"
    with pytest.raises(UnknownCursor):
        table.position(ended, HERE)


def test_a_long_scan_goes_on_under_a_new_tag_when_its_pages_run_out() -> None:
    table = CursorTable()
    cursor = table.advance(0, HERE, b"first")
    cursor = cursor | ((1 << 20) - 1)  # as if a million pages had gone by
    following = table.advance(cursor, HERE, b"later")
    assert following >> 20 != cursor >> 20
    assert table.position(following, HERE) == b"later"


def test_a_million_scans_take_no_more_than_the_bound() -> None:
    table = CursorTable()
    for number in range(3 * SCANS_MAX):
        table.advance(0, HERE, b"%d" % number)
    assert len(table) == SCANS_MAX
