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


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 11, 12])
def test_requests_of_one_length_are_taken_up_to_the_first_that_is_odd(width: int, count: int) -> None:
    requests = [[b"%d=%b" % (number, b"x" * place) for place in range(width)] for number in range(count)]
    streams = [request(*arguments) for arguments in requests]
    whole = b"".join(streams)
    assert read_lines(whole) == (requests, len(whole))
    for place in range(count):
        before = b"".join(streams[:place])
        for odd in (
            streams[place].replace(b"*%d" % width, b"*0%d" % width, 1),
            streams[place].replace(b"$2", b"$3", 1)
            if place < 10
            else streams[place].replace(b"$3", b"$2", 1),
            streams[place].replace(b"=", b"\r\n", 1),
            streams[place][:-1],
        ):
            data = before + odd + b"".join(streams[place + 1 :])
            assert read_lines(data) == (requests[:place], len(before))
    shorter = request(b"PING") if width > 1 else request(b"ECHO", b"1")
    assert read_lines(whole + shorter)[0] == [*requests, read_lines(shorter)[0][0]]
