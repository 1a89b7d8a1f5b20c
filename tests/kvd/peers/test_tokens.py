"""Session tokens: any vector survives, and nothing else is taken for one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.peering import tokens

CLUSTER = b"c" * 16
VECTORS = st.dictionaries(
    st.binary(min_size=16, max_size=16), st.integers(min_value=1, max_value=2**63 - 1), max_size=20
)


@given(VECTORS)
def test_every_vector_survives(vector: dict[bytes, int]) -> None:
    assert tokens.decode(CLUSTER, tokens.encode(CLUSTER, vector)) == vector


@given(VECTORS)
def test_a_token_is_a_word_that_needs_no_quotes(vector: dict[bytes, int]) -> None:
    assert tokens.encode(CLUSTER, vector).replace(b"-", b"").replace(b"_", b"").isalnum()


def test_equal_vectors_give_equal_tokens() -> None:
    one, other = {b"a" * 16: 1, b"b" * 16: 2}, {b"b" * 16: 2, b"a" * 16: 1}
    assert tokens.encode(CLUSTER, one) == tokens.encode(CLUSTER, other)


def test_three_writers_make_a_token_of_a_hundred_bytes() -> None:
    assert len(tokens.encode(CLUSTER, {bytes([n]) * 16: 10**6 for n in range(3)})) < 100


def test_a_token_of_another_cluster_is_refused() -> None:
    with pytest.raises(tokens.BadToken, match="another cluster"):
        tokens.decode(b"d" * 16, tokens.encode(CLUSTER, {}))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_token_or_refused(raw: bytes) -> None:
    for text in (
        raw,
        base64.urlsafe_b64encode(raw),
        tokens.encode(CLUSTER, {}) + base64.urlsafe_b64encode(raw),
    ):
        try:
            found = tokens.decode(CLUSTER, text)
        except tokens.BadToken:
            continue
        assert all(isinstance(seq, int) for seq in found.values())


def test_a_token_cut_anywhere_is_refused_or_stands_for_less() -> None:
    whole = tokens.encode(CLUSTER, {b"a" * 16: 300, b"b" * 16: 2**40})
    for length in range(len(whole)):
        try:
            found = tokens.decode(CLUSTER, whole[:length])
        except tokens.BadToken:
            continue
        assert len(found) < 2 or whole[:length] == whole


def test_a_token_without_end_is_refused() -> None:
    with pytest.raises(tokens.BadToken, match="too long"):
        tokens.decode(CLUSTER, b"A" * (tokens.TOKEN_BYTES_MAX + 1))
