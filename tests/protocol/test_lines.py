"""Requests read by splitting at line breaks: taken if canonical, left alone if not."""

from __future__ import annotations

import pytest

from protocol.lines import ARGUMENTS_MAX, read_lines, read_one
from tests.protocol.streams import request

GET = request(b"GET", b"key")
SET = request(b"SET", b"key", b"value")


@pytest.mark.parametrize("arguments", [[b"GET", b"key"], [b"SET", b"", b"*1=%"], [b"SET", b"k", b"v" * 5000]])
def test_one_request_of_two_or_three_arguments_is_taken(arguments: list[bytes]) -> None:
    assert read_one(request(*arguments)) == arguments


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PING\r\n",
        request(b"PING"),
        request(b"SET", b"key", b"value", b"NX"),
        GET + GET,
        GET + b"*",
        GET[:-1],
        GET[:-2] + b"XX",
        SET[:-2],
        request(b"SET", b"key", b"a\r\nb"),
        b"*2\r\n$3\r\nGET\r\n$4\r\nkey\r\n",
        b"*2\r\n$03\r\nGET\r\n$3\r\nkey\r\n",
        b"*3\r\n$3\r\nGET\r\n$3\r\nkey\r\n",
        b"*2\r\n:3\r\nGET\r\n$3\r\nkey\r\n",
    ],
)
def test_anything_else_is_not_one_request(data: bytes) -> None:
    assert read_one(data) is None


def test_requests_are_taken_up_to_the_first_that_is_odd() -> None:
    wide = request(b"MGET", *(b"k%d" % number for number in range(ARGUMENTS_MAX - 1)))
    good = request(b"PING") + wide + request(b"SET", b"%~>|", b"*1") + SET
    expected = [
        [b"PING"],
        [b"MGET", *(b"k%d" % number for number in range(ARGUMENTS_MAX - 1))],
        [b"SET", b"%~>|", b"*1"],
        [b"SET", b"key", b"value"],
    ]
    for odd in (
        b"",
        b"\r\n",
        b"PING\r\n",
        b"*0\r\n",
        b"*",
        GET[:-1],
        GET[:-2],
        b"*2\r\n$3\r\nGET\r\n$4\r\nkey\r\n",
        b"*1\r\n*1\r\n$1\r\na\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$2147483647\r\n",
        request(b"SET", b"key", b"\r\n"),
        request(b"MGET", *[b"k"] * ARGUMENTS_MAX),
    ):
        assert read_lines(good + odd) == (expected, len(good))
        assert read_lines(odd) == ([], 0)
