"""What is encoded, a client's parser reads back, in both protocols."""

from __future__ import annotations

import math
from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from protocol.encode import encode2, encode3, format_double
from protocol.multibulk import Request
from protocol.replies import NULL_ARRAY, BigNumber, ErrorReply, Push, Reply, Set, Simple, Verbatim
from tests.protocol.streams import read

_line = st.binary(max_size=20).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b""))
_error = _line.map(lambda text: ErrorReply("ERR " + text.decode("utf-8", "surrogateescape")))
_key = st.binary(max_size=20)
_scalar = st.one_of(
    st.none(),
    st.binary(max_size=100),
    st.binary(min_size=1020, max_size=1030),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    _line.map(Simple),
    _error,
    st.just(NULL_ARRAY),
    st.binary(max_size=20).map(Verbatim),
    st.integers(10**20, 10**25).map(lambda number: BigNumber(b"%d" % number)),
)


def _aggregates(items: st.SearchStrategy[Reply]) -> st.SearchStrategy[Reply]:
    several = st.lists(items, max_size=5)
    return st.one_of(several, several.map(tuple), several.map(Set), st.dictionaries(_key, items, max_size=5))


_replies = st.recursive(_scalar, _aggregates, max_leaves=20)


def decoded(encoded: bytes) -> Any:
    """Return what hiredis makes of exactly one reply."""
    reader = hiredis.Reader(notEnoughData=NULL_ARRAY)
    reader.feed(encoded)
    value = reader.gets()
    assert value is not NULL_ARRAY
    assert not reader.has_data()
    return value


def same(value: Any, expected: Any) -> bool:
    """Compare, with errors by their text and NaN equal to itself."""
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(expected, dict):
        return list(value) == list(expected) and all(same(value[key], expected[key]) for key in expected)
    if isinstance(expected, ErrorReply):
        text = expected.text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return isinstance(value, hiredis.ReplyError) and str(value) == text
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(value, float) and math.isnan(value)
    return type(value) is type(expected) and value == expected


def as_resp2(reply: Reply) -> Any:
    """Return what a RESP2 client should see."""
    match reply:
        case bool():
            return int(reply)
        case float():
            return format_double(reply)
        case dict():
            return [as_resp2(item) for pair in reply.items() for item in pair]
        case list() | tuple():
            return [as_resp2(item) for item in reply]
        case _:
            return as_text(reply)


def as_resp3(reply: Reply) -> Any:
    """Return what a RESP3 client should see; hiredis gives a set as a list, a big number as bytes."""
    match reply:
        case dict():
            return {key: as_resp3(item) for key, item in reply.items()}
        case list() | tuple():
            return [as_resp3(item) for item in reply]
        case _:
            return as_text(reply)


def as_text(reply: Reply) -> Any:
    match reply:
        case Simple() | Verbatim():
            return reply.text
        case BigNumber():
            return reply.digits
        case _:
            return None if reply is NULL_ARRAY else reply


@given(_replies)
def test_resp2_client_reads_what_was_said(reply: Reply) -> None:
    assert same(decoded(encode2(reply)), as_resp2(reply))


@given(_replies)
def test_resp3_client_reads_what_was_said(reply: Reply) -> None:
    assert same(decoded(encode3(reply)), as_resp3(reply))


@given(st.lists(_scalar, max_size=5))
def test_push_is_an_array_before_resp3_and_a_push_in_it(items: list[Reply]) -> None:
    push = Push([b"message", *items])
    assert same(decoded(encode2(push)), as_resp2(push))
    value = decoded(encode3(push))
    assert isinstance(value, hiredis.PushNotification)
    assert same(list(value), as_resp3(push))


@given(st.floats())
def test_doubles_lose_nothing(number: float) -> None:
    assert same(decoded(encode3(number)), number)
    assert same(float(decoded(encode2(number))), number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_have_no_more_digits_than_they_need(number: float) -> None:
    def digits(text: str) -> str:
        return text.partition("e")[0].replace(".", "").strip("-0")

    if not (number.is_integer() and abs(number) <= 1 << 62):
        assert digits(format_double(number).decode()) == digits(repr(number))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_array_of_bulk_strings_is_a_request(arguments: Request) -> None:
    assert read([encode2(arguments)]) == ([arguments], None, 0)
