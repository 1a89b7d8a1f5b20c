"""INCRBYFLOAT's arithmetic: every digit as redis-server on x86-64 gives it."""

from __future__ import annotations

import time

import pytest
import redis as redis_py
from hypothesis import given, settings
from hypothesis import strategies as st

from kvd.commands import extended
from tests.servers import RunningServer


@pytest.mark.parametrize(
    ("left", "right", "total"),
    [
        (b"10.50", b"0.1", b"10.6"),
        (b"5.0e3", b"2.0e2", b"5200"),
        (b"3", b"-3.00", b"0"),
        (b"-1e-20", b"0", b"0"),  # rounds to a negative zero, which is written without its sign
        (b"0.1", b"0.2", b"0.3"),
        (b"1", b"1e-17", b"1.00000000000000001"),
        (b"1e17", b"1e-17", b"100000000000000000"),  # beyond 64 bits of mantissa
        (b"0x10", b"0x.8p1", b"17"),
        (b"1e20", b"1", b"100000000000000000000"),
        (b"18446744073709551615", b"1", b"18446744073709551616"),
        (b".5", b"5.", b"5.5"),
    ],
)  # fmt: skip
def test_sums_are_rounded_and_written_like_long_doubles(left: bytes, right: bytes, total: bytes) -> None:
    assert extended.add(left, right) == total


@pytest.mark.parametrize(
    "text",
    [b"", b" 1", b"1 ", b"abc", b"1e", b"e1", b".", b"-", b"+", b"0x", b"0x.p1", b"1_0", b"nan", b"1e5000", b"1e-5000",
     b"0x1p99999999999", b"1" * 5120, b"1e" + b"9" * 4000, b"\xd9\xa3", b"1,5"],
)  # fmt: skip
def test_what_is_no_number_is_refused(text: bytes) -> None:
    for pair in ((text, b"1"), (b"1", text)):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is not part of it
            extended.add(*pair)


@pytest.mark.parametrize(
    "pair", [(b"inf", b"1"), (b"1", b"-Infinity"), (b"inf", b"-inf"), (b"1.18e4932", b"1.18e4932")]
)
def test_infinite_sums_are_told_apart(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(extended.Infinite):
        extended.add(*pair)


def test_the_longest_numbers_take_bounded_time() -> None:
    started = time.process_time()
    assert len(extended.add(b"1." + b"7" * 5000, b"1e4931")) == 4932
    assert extended.add(b"0" * 5000 + b"1", b"1e-4950") == b"1"
    assert time.process_time() - started < 1.0


_numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**25), 10**25).map(str),
    st.decimals(-(10**6), 10**6, places=20).map(str),
    st.tuples(st.integers(-999, 999), st.integers(-4960, 4960)).map(lambda parts: f"{parts[0]}e{parts[1]}"),
    st.tuples(st.integers(0, 1 << 80), st.integers(-16500, 16500)).map(
        lambda parts: f"{parts[0]:#x}p{parts[1]}"
    ),
    st.text("0123456789.eE+-xXpPinfa ", max_size=10),
)


@pytest.mark.needs_redis
@settings(max_examples=500, deadline=None)
@given(left=_numbers, right=_numbers)
def test_every_digit_is_that_of_redis(redis_server: RunningServer, left: str, right: str) -> None:
    with redis_server.client() as redis:
        redis.set("float", left)
        try:
            redis.execute_command("INCRBYFLOAT", "float", right)
            expected = redis.get("float")
        except redis_py.ResponseError as error:
            expected = str(error).encode()
    try:
        total = extended.add(left.encode(), right.encode())
    except ValueError:
        total = b"value is not a valid float"
    except extended.Infinite:
        total = b"increment would produce NaN or Infinity"
    assert total == expected
