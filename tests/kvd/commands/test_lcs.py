"""LCS: the bit-parallel rows against the textbook's table."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from kvd.commands.lcs import _rows, _walk_back
from tests.kvd.harness import Client, InProcessServer, error

_texts = st.text("abc", max_size=30).map(str.encode)


def _table(a: bytes, b: bytes) -> list[list[int]]:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a, 1):
        for j, right in enumerate(b, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if left == right else max(table[i - 1][j], table[i][j - 1])
    return table


@given(a=_texts, b=_texts)
def test_rows_hold_the_steps_of_the_table(a: bytes, b: bytes) -> None:
    for row, numbers in zip(_rows(a, b), _table(a, b), strict=True):
        steps = [numbers[j + 1] - numbers[j] for j in range(len(b))]
        assert [1 - (row >> j & 1) for j in range(len(b))] == steps


@given(a=_texts, b=_texts)
def test_the_way_back_is_a_common_subsequence_of_that_length(a: bytes, b: bytes) -> None:
    pairs = list(_walk_back(a, b, _rows(a, b)))
    assert len(pairs) == _table(a, b)[-1][-1]
    assert all(a[i] == b[j] for i, j in pairs)
    assert pairs == sorted(pairs, reverse=True)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


def test_ten_thousand_bytes_against_as_many_take_no_second() -> None:
    client = Client(InProcessServer())
    client.send("MSET", "a", b"abcdefgh" * 1250, "b", b"hgfedcba" * 1250)
    started = time.process_time()
    assert client.send("LCS", "a", "b", "LEN") > 1250
    assert time.process_time() - started < 1.0


def test_strings_whose_table_would_not_fit_are_refused() -> None:
    client = Client(InProcessServer())
    client.send("MSET", "long", b"a" * 2_000_000, "short", b"b", "half", b"c" * 30_000)
    for pair in (("long", "short"), ("half", "half"), ("half", "long")):
        assert "Insufficient memory" in error(client.send("LCS", *pair))
    assert client.send("LCS", "short", "long") == b""
