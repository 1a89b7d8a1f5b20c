"""Responses as bytes, and targets taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.http_errors import TargetError
from protocol.http_responses import DateLine, Response, header, status_line
from protocol.http_targets import decode_bytes, decode_text, parse_query, split_target

DATE = DateLine()
DATE.update(784_111_777_000)


def test_date_is_that_of_the_second() -> None:
    assert DATE.line == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_lengths() -> None:
    assert Response(200, b"A: b\r\n", b"xy").encode(DATE).endswith(b"Content-Length: 2\r\nA: b\r\n\r\nxy")
    head = Response(200, b"", b"xy").encode(DATE, head_only=True)
    assert head.endswith(b"Content-Length: 2\r\n\r\n")
    for status in (204, 304):
        assert b"Content-Length" not in Response(status, b"", b"xy").encode(DATE)
    assert b"Connection: close\r\n" in Response(200).encode(DATE, keep_alive=False)
    assert b"Connection: close\r\n" in Response(400, close=True).encode(DATE)


@given(st.text(max_size=600))
def test_reason_is_one_line_of_ascii(text: str) -> None:
    line = status_line(400, text)
    assert line.startswith(b"HTTP/1.1 400 ")
    assert line.endswith(b"\r\n")
    assert all(0x20 <= byte <= 0x7E for byte in line[:-2])


@pytest.mark.parametrize("value", [b"a\r\nB: c", b"a\nb", b"a\x00"])
def test_header_value_with_a_line_break_raises(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        header(b"A", value)


@pytest.mark.parametrize(
    ("target", "parts"),
    [(b"/", (b"/", b"", None)), (b"/a?b?c", (b"/a", b"b?c", None)), (b"http://h:1/a?b", (b"/a", b"b", b"h:1")),
     (b"HTTPS://h", (b"/", b"", b"h")), (b"http://h?q", (b"/", b"q", b"h")), (b"*", (b"*", b"", None)),
     (b"//a//b/../c", (b"//a//b/../c", b"", None)), (b"/a#b?c", (b"/a", b"", None))],
)  # fmt: skip
def test_targets(target: bytes, parts: tuple[bytes, bytes, bytes | None]) -> None:
    assert split_target(target) == parts


def test_decoding() -> None:
    assert decode_bytes(b"a%252Fb+c%00%FF") == b"a%2Fb+c\x00\xff"
    assert decode_text(b"%C5%BC") == "ż"
    for bad in (b"%", b"%z", b"%1", b"%gg"):
        with pytest.raises(TargetError):
            decode_bytes(bad)
    with pytest.raises(TargetError):
        decode_text(b"%ED%A0%80")


def test_queries() -> None:
    assert parse_query(b"a=1&b=x+y%2B&a=2&c&=z&d=%C5%BC%FF") == {
        "a": "1",
        "b": "x y+",
        "c": "",
        "d": "ż\ufffd",
    }
    with pytest.raises(TargetError):
        parse_query(b"a&" * 200)
