"""Replies as bytes: the table of `protocol.replies`, line by line, and what must not break it."""

from __future__ import annotations

import math

import pytest

from protocol.encode import NESTING_MAX, encode2, encode3, encoder, format_double
from protocol.replies import (
    NO_REPLY,
    NULL_ARRAY,
    OK,
    PONG,
    QUEUED,
    Attributed,
    BigNumber,
    Encoded,
    ErrorReply,
    Push,
    Reply,
    Set,
    Simple,
    Verbatim,
)

TABLE: list[tuple[Reply, bytes, bytes]] = [
    (None, b"$-1\r\n", b"_\r\n"),
    (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
    (b"x" * 1023, b"$1023\r\n%b\r\n" % (b"x" * 1023), b"$1023\r\n%b\r\n" % (b"x" * 1023)),
    (b"x" * 1024, b"$1024\r\n%b\r\n" % (b"x" * 1024), b"$1024\r\n%b\r\n" % (b"x" * 1024)),
    (0, b":0\r\n", b":0\r\n"),
    (-1, b":-1\r\n", b":-1\r\n"),
    (1023, b":1023\r\n", b":1023\r\n"),
    (1024, b":1024\r\n", b":1024\r\n"),
    (2**63 - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
    (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
    (3.0, b"$1\r\n3\r\n", b",3\r\n"),
    (-0.0, b"$2\r\n-0\r\n", b",-0\r\n"),
    (3.1, b"$3\r\n3.1\r\n", b",3.1\r\n"),
    (1e23, b"$5\r\n1e+23\r\n", b",1e+23\r\n"),
    (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
    (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
    (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
    (-math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
    (True, b":1\r\n", b"#t\r\n"),
    (False, b":0\r\n", b"#f\r\n"),
    ([], b"*0\r\n", b"*0\r\n"),
    ([1, b"a"], b"*2\r\n:1\r\n$1\r\na\r\n", b"*2\r\n:1\r\n$1\r\na\r\n"),
    ((1, None), b"*2\r\n:1\r\n$-1\r\n", b"*2\r\n:1\r\n_\r\n"),
    ([[], [[]]], b"*2\r\n*0\r\n*1\r\n*0\r\n", b"*2\r\n*0\r\n*1\r\n*0\r\n"),
    ({}, b"*0\r\n", b"%0\r\n"),
    (
        {b"a": 1, b"b": [2]},
        b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n:2\r\n",
        b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n:2\r\n",
    ),
    (OK, b"+OK\r\n", b"+OK\r\n"),
    (PONG, b"+PONG\r\n", b"+PONG\r\n"),
    (QUEUED, b"+QUEUED\r\n", b"+QUEUED\r\n"),
    (ErrorReply("ERR no"), b"-ERR no\r\n", b"-ERR no\r\n"),
    ([ErrorReply("WRONGTYPE no"), 1], b"*2\r\n-WRONGTYPE no\r\n:1\r\n", b"*2\r\n-WRONGTYPE no\r\n:1\r\n"),
    (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
    (Set([1, 2]), b"*2\r\n:1\r\n:2\r\n", b"~2\r\n:1\r\n:2\r\n"),
    (Push([b"message", b"a"]), b"*2\r\n$7\r\nmessage\r\n$1\r\na\r\n", b">2\r\n$7\r\nmessage\r\n$1\r\na\r\n"),
    (Verbatim(b"text"), b"$4\r\ntext\r\n", b"=8\r\ntxt:text\r\n"),
    (Verbatim(b"text", b"mkd"), b"$4\r\ntext\r\n", b"=8\r\nmkd:text\r\n"),
    (Verbatim(b"text", b"x"), b"$4\r\ntext\r\n", b"=8\r\nx  :text\r\n"),
    (Verbatim(b"text", b"html"), b"$4\r\ntext\r\n", b"=8\r\nhtm:text\r\n"),
    (BigNumber(b"1" * 30), b"$30\r\n%b\r\n" % (b"1" * 30), b"(%b\r\n" % (b"1" * 30)),
    (Attributed({b"a": 1}, [2, None]), b"*2\r\n:2\r\n$-1\r\n", b"|1\r\n$1\r\na\r\n:1\r\n*2\r\n:2\r\n_\r\n"),
    ([Attributed({}, b"b")], b"*1\r\n$1\r\nb\r\n", b"*1\r\n|0\r\n$1\r\nb\r\n"),
    ([1, Encoded(b"+as it is\r\n")], b"*2\r\n:1\r\n+as it is\r\n", b"*2\r\n:1\r\n+as it is\r\n"),
    (NO_REPLY, b"", b""),
]


@pytest.mark.parametrize(("reply", "resp2", "resp3"), TABLE, ids=lambda value: repr(value)[:40])
def test_reply_is_encoded_by_the_table(reply: Reply, resp2: bytes, resp3: bytes) -> None:
    assert encode2(reply) == resp2
    assert encode3(reply) == resp3
    if reply is not NO_REPLY:
        assert encode2([reply, 7]) == b"*2\r\n" + resp2 + b":7\r\n"
        assert encode3([reply, 7]) == b"*2\r\n" + resp3 + b":7\r\n"


def test_encoder_is_chosen_by_the_protocol_version() -> None:
    assert encoder(2)(None) == b"$-1\r\n"
    assert encoder(3)(None) == b"_\r\n"
    with pytest.raises(KeyError):
        encoder(1)


@pytest.mark.parametrize(
    ("reply", "encoded"),
    [
        (ErrorReply("ERR a\r\nb\nc\r\n"), b"-ERR a  b c\r\n"),
        (ErrorReply("\r\n+OK"), b"-  +OK\r\n"),
        (Simple(b"a\r\n+OK\r\nb"), b"+a  +OK  b\r\n"),
        (BigNumber(b"1\r\n+OK"), b"(1  +OK\r\n"),
    ],
)
def test_line_breaks_do_not_make_one_reply_two(reply: Reply, encoded: bytes) -> None:
    assert encode3(reply) == encoded


def test_bytes_in_an_error_come_out_as_they_came_in() -> None:
    text = "ERR unknown command '" + b"\xff\xc3\xa9\x00".decode("utf-8", "surrogateescape") + "'"
    assert encode2(ErrorReply(text)) == b"-ERR unknown command '\xff\xc3\xa9\x00'\r\n"


def test_derived_types_are_encoded_as_what_they_derive_from() -> None:
    class Derived(ErrorReply):
        pass

    class Names(list[bytes]):
        pass

    class Number(int):
        pass

    assert encode2(Derived("ERR no")) == b"-ERR no\r\n"
    assert (
        encode3([Names([b"a"]), Number(5), Derived("ERR no")]) == b"*3\r\n*1\r\n$1\r\na\r\n:5\r\n-ERR no\r\n"
    )


@pytest.mark.parametrize("reply", ["text", bytearray(b"a"), object(), {1, 2}])
def test_what_is_no_reply_is_a_bug(reply: object) -> None:
    for encode in (encode2, encode3):
        with pytest.raises(TypeError, match="is not a reply"):
            encode(reply)
        with pytest.raises(TypeError, match="is not a reply"):
            encode([1, [reply]])


def nested(depth: int) -> Reply:
    reply: Reply = 1
    for _ in range(depth):
        reply = [reply]
    return reply


def test_nesting_is_deep_but_bounded() -> None:
    for encode in (encode2, encode3):
        assert encode(nested(NESTING_MAX)) == b"*1\r\n" * NESTING_MAX + b":1\r\n"
        for depth in (NESTING_MAX + 1, 100_000):
            assert encode(nested(depth)) == b"-ERR reply is nested deeper than 1024 levels\r\n"


def test_list_that_holds_itself_is_an_error_and_not_the_end() -> None:
    reply: list[Reply] = [1]
    reply.append(reply)
    assert encode3(reply) == b"-ERR reply is nested deeper than 1024 levels\r\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, b"3"),
        (-0.0, b"-0"),
        (0.0, b"0"),
        (0.1, b"0.1"),
        (-2.5, b"-2.5"),
        (0.1 + 0.2, b"0.30000000000000004"),
        (123456.789, b"123456.789"),
        (0.00001, b"0.00001"),
        (0.0000001, b"1e-7"),
        (0.0123456789, b"0.0123456789"),
        (0.00000123456789, b"1.23456789e-6"),
        (12345678.12345678, b"1.234567812345678e+7"),
        (2.0**62, b"4611686018427387904"),
        (2.0**63, b"9223372036854776000"),
        (1e22, b"1e+22"),
        (-1.2345e30, b"-1.2345e+30"),
        (5e-324, b"5e-324"),
        (1.7976931348623157e308, b"1.7976931348623157e+308"),
        (-math.nan, b"nan"),
    ],
)
def test_doubles_are_spelt_as_by_redis_7_2(number: float, text: bytes) -> None:
    assert format_double(number) == text
    assert encode3(number) == b",%b\r\n" % text
    assert encode2(number) == b"$%d\r\n%b\r\n" % (len(text), text)
