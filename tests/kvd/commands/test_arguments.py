"""Arguments: numbers are read as strictly as Redis reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.commands.arguments import (
    INTEGER_MAX,
    INTEGER_MIN,
    Lifetime,
    is_integer,
    parse_getex_options,
    parse_int32,
    parse_integer,
    parse_set_options,
)
from protocol.replies import ErrorReply
from storage.record import NEVER


@given(number=st.integers(INTEGER_MIN, INTEGER_MAX))
def test_every_64_bit_integer_is_read(number: int) -> None:
    assert parse_integer(b"%d" % number) == number


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"+1", b"-", b"01", b"-0", b"00", b"1 ", b" 1", b"1\n", b"1_000", b"1.0", b"1e3", b"0x1", b"1\0",
        b"\xd9\xa3", b"%d" % (INTEGER_MAX + 1), b"%d" % (INTEGER_MIN - 1), b"9" * 5000, b"0" * 100,
    ],
)  # fmt: skip
def test_nothing_else_is(text: bytes) -> None:
    assert not is_integer(text)
    with pytest.raises(ErrorReply, match="value is not an integer or out of range"):
        parse_integer(text)
    with pytest.raises(ErrorReply, match="mine"):
        parse_integer(text, "ERR mine")


@pytest.mark.parametrize(
    ("text", "fits"), [(b"2147483647", True), (b"2147483648", False), (b"-2147483649", False)]
)
def test_small_integers_are_bounded(text: bytes, fits: bool) -> None:
    if fits:
        assert parse_int32(text) == int(text)
    else:
        with pytest.raises(ErrorReply, match="value is out of range, value must between"):
            parse_int32(text)


@pytest.mark.parametrize(
    ("amount", "unit_ms", "absolute", "moment"),
    [
        (b"1", 1, False, 1001),
        (b"1", 1000, False, 2000),
        (b"1", 1000, True, 1000),
        (b"%d" % INTEGER_MAX, 1, True, NEVER - 1),
        (b"0", 1, False, None),
        (b"-5", 1, True, None),
        (b"%d" % INTEGER_MAX, 1, False, None),
        (b"%d" % (INTEGER_MAX // 1000 + 1), 1000, True, None),
    ],
)
def test_a_lifetime_becomes_a_moment(amount: bytes, unit_ms: int, absolute: bool, moment: int | None) -> None:
    lifetime = Lifetime(amount, unit_ms, absolute=absolute)
    if moment is not None:
        assert lifetime.expires_at_ms(1000, "set") == moment
        return
    with pytest.raises(ErrorReply, match="invalid expire time in 'set' command"):
        lifetime.expires_at_ms(1000, "set")


@pytest.mark.parametrize(
    "options",
    [b"NX XX", b"EX 1 PX 1", b"EX 1 KEEPTTL", b"KEEPTTL EXAT 1", b"EX", b"PERSIST", b"FOO", b"NX GET XX"],
)
def test_options_that_exclude_each_other_are_a_syntax_error(options: bytes) -> None:
    with pytest.raises(ErrorReply, match="syntax error"):
        parse_set_options([b"SET", b"key", b"value", *options.split()])


def test_options_of_set_are_read_in_any_order_and_case() -> None:
    options = parse_set_options([b"SET", b"key", b"value", b"get", b"pX", b"5", b"nx", b"PX", b"7"])
    assert (options.get, options.nx, options.xx, options.keep_ttl) == (True, True, False, False)
    assert options.lifetime is not None
    assert options.lifetime.expires_at_ms(0, "set") == 7  # the same unit twice: the last one counts


@pytest.mark.parametrize("options", [b"PERSIST EX 1", b"EX 1 PERSIST", b"KEEPTTL", b"NX", b"PXAT"])
def test_getex_takes_one_expiry_or_persist(options: bytes) -> None:
    with pytest.raises(ErrorReply, match="syntax error"):
        parse_getex_options([b"GETEX", b"key", *options.split()])
