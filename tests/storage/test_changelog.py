"""Chunks: what cbor2 makes, and back."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.changelog import DEAD, decode_chunk, encode_chunk, read_chunk, resolve
from storage.errors import RecordError
from storage.transaction import Place

ROW_KEYS = st.binary(min_size=16, max_size=60) | st.integers(4000, 4200).map(bytes)
FLUSHES = st.binary(min_size=16, max_size=16).map(lambda namespace: [namespace])
PLACES = st.lists(ROW_KEYS | FLUSHES | st.none() | st.just(DEAD), max_size=40)


@given(st.integers(0, 2**64 - 1), PLACES, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300))))
def test_a_chunk_is_what_cbor2_makes_of_it(
    last_hlc: int, places: list[Place], groups: list[tuple[int, int]]
) -> None:
    assert encode_chunk(last_hlc, places, groups) == cbor2.dumps([last_hlc, places, groups])


@given(st.integers(0, 2**64 - 1), PLACES)
def test_decoding_resolves_what_null_stands_for(last_hlc: int, places: list[Place]) -> None:
    chunk = decode_chunk(encode_chunk(last_hlc, places, []))
    assert chunk.last_hlc == last_hlc
    assert chunk.places == resolve(places)
    assert None not in chunk.places
    assert resolve(read_chunk(encode_chunk(last_hlc, places, [])).places) == chunk.places


def test_null_is_the_row_of_the_dot_before() -> None:
    row_key = b"n" * 16 + b"key"
    assert resolve([row_key, None, None, DEAD, None]) == [row_key, row_key, row_key, DEAD, DEAD]


def test_groups_come_back_as_pairs() -> None:
    assert decode_chunk(encode_chunk(1, [b"n" * 16] * 5, [(0, 2), (3, 2)])).groups == [(0, 2), (3, 2)]


@given(st.binary(max_size=100))
def test_no_bytes_crash_the_decoder(encoded: bytes) -> None:
    for decoder in (decode_chunk, read_chunk):
        try:
            decoder(encoded)
        except RecordError:
            continue


@pytest.mark.parametrize(
    "items",
    [
        7,
        [1, []],
        ["1", [], []],
        [1, "abc", []],
        [1, [b"short"], []],
        [1, [[b"short"]], []],
        [1, [[b"n" * 16, b"x"]], []],
        [1, [[b"n" * 15, b"xx"]], []],
        [1, [[b"n" * 16, b"xx", b"xx"]], []],
        [1, [[]], []],
        [1, [5], []],
        [1, [b"n" * 16], [[0, 2]]],
        [1, [b"n" * 16], [[-1, 2]]],
        [1, [b"n" * 16] * 2, [[0, 1]]],
        [1, [b"n" * 16] * 2, [[0]]],
        [1, [b"n" * 16] * 2, ["ab"]],
    ],
)
def test_a_chunk_of_the_wrong_shape_is_refused(items: Any) -> None:
    with pytest.raises(RecordError):
        decode_chunk(cbor2.dumps(items))
