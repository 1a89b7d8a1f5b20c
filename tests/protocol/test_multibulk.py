"""The exact reader: what is a request, what is not, and at which byte that is known."""

from __future__ import annotations

import pytest

from protocol.errors import ProtocolError, UnauthenticatedLimitError
from protocol.multibulk import LINE_BYTES_MAX, Limits, MultibulkReader, split_words
from tests.protocol.streams import Outcome, cut, one_by_one, read_exactly, request

INVALID_COUNT = "Protocol error: invalid multibulk length"
INVALID_SIZE = "Protocol error: invalid bulk length"


def complete(*requests: list[bytes]) -> Outcome:
    return Outcome(list(requests), None, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        [b"PING"],
        [b"GET", b"key"],
        [b"SET", b"", b""],
        [b"SET", b"\r\n", b"*1\r\n$4\r\nPING\r\n"],
        [b"SET", b"key", bytes(range(256))],
        [b"SET", b"key", b"x" * 999],
        [b"SET", b"key", b"x" * 1000],
        [b"SET", b"key", b"x" * 70_000],
        [b"MGET", *(b"%d" % number for number in range(2000))],
    ],
    ids=lambda arguments: f"{arguments[0].decode()}-{len(arguments)}-{sum(map(len, arguments))}",
)
def test_array_of_bulk_strings_is_a_request(arguments: list[bytes]) -> None:
    assert read_exactly([request(*arguments)]) == complete(arguments)


def test_requests_come_out_in_order_whatever_the_cuts() -> None:
    data = request(b"SET", b"key", b"a\r\nb") + b"  PING  'x y'\r\n\r\n*0\r\n" + request(b"GET", b"key")
    whole = read_exactly([data])
    assert whole == complete([b"SET", b"key", b"a\r\nb"], [b"PING", b"x y"], [b"GET", b"key"])
    assert read_exactly(one_by_one(data)) == whole
    for first in range(len(data)):
        for second in range(first, len(data)):
            assert read_exactly(cut(data, [first, second])) == whole


def test_request_is_returned_with_its_last_byte_and_not_before() -> None:
    data = request(b"SET", b"key", b"value")
    reader = MultibulkReader(Limits(), authenticated=True)
    for index, byte in enumerate(one_by_one(data)):
        assert reader.pending_bytes == index
        reader.feed(byte)
        assert reader.next() == ([b"SET", b"key", b"value"] if index == len(data) - 1 else None)
    assert reader.pending_bytes == 0


@pytest.mark.parametrize(
    "skipped", [b"*0\r\n", b"*-1\r\n", b"*-9223372036854775808\r\n", b"\r\n", b"\n", b" \t\r\n"]
)
def test_what_holds_no_words_is_skipped(skipped: bytes) -> None:
    assert read_exactly([skipped * 3 + request(b"PING") + skipped]) == complete([b"PING"])


@pytest.mark.parametrize(
    "stream",
    [
        b"*1\rX$4\r\nPING\r\n",  # the byte behind a length's \r
        b"*1\r\n$4\rXPING\r\n",
        b"*1\r\n$4\r\nPINGXX",  # the two behind an argument
    ],
)
def test_terminators_are_counted_and_not_compared(stream: bytes) -> None:
    assert read_exactly([stream]) == complete([b"PING"])
    assert read_exactly(one_by_one(stream)) == complete([b"PING"])


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"*\r\n", INVALID_COUNT),
        (b"*a\r\n", INVALID_COUNT),
        (b"*+1\r\n", INVALID_COUNT),
        (b"*01\r\n", INVALID_COUNT),
        (b"*-0\r\n", INVALID_COUNT),
        (b"* 1\r\n", INVALID_COUNT),
        (b"*1 \r\n", INVALID_COUNT),
        (b"*1\n$4\r\nPING\r\n", INVALID_COUNT),
        (b"*1.0\r\n", INVALID_COUNT),
        (b"*1048577\r\n", INVALID_COUNT),
        (b"*2147483647\r\n", INVALID_COUNT),
        (b"*9223372036854775808\r\n", INVALID_COUNT),
        (b"*-9223372036854775809\r\n", INVALID_COUNT),
        (b"*" + b"1" * 5000 + b"\r\n", INVALID_COUNT),
        (b"*1\r\n$\r\n", INVALID_SIZE),
        (b"*1\r\n$-1\r\n", INVALID_SIZE),
        (b"*1\r\n$a\r\n", INVALID_SIZE),
        (b"*1\r\n$04\r\n", INVALID_SIZE),
        (b"*1\r\n$536870913\r\n", INVALID_SIZE),
        (b"*1\r\n$18446744073709551616\r\n", INVALID_SIZE),
        (b"*1\r\n\r\n", "Protocol error: expected '$', got '\r'"),
        (b"*1\r\n*1\r\n", "Protocol error: expected '$', got '*'"),
        (b"*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
        (b"*2\r\n$4\r\nECHO\r\nfoo\r\n", "Protocol error: expected '$', got 'f'"),
        (b"*1\r\n\xff\r\n", "Protocol error: expected '$', got '\udcff'"),
        (b'PING "x\r\n', "Protocol error: unbalanced quotes in request"),
    ],
)
def test_error_comes_after_the_requests_before_it(stream: bytes, text: str) -> None:
    expected = Outcome([[b"GET", b"key"]], text, None)
    assert read_exactly([request(b"GET", b"key") + stream]) == expected
    assert read_exactly(one_by_one(request(b"GET", b"key") + stream)) == expected


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (b"*", "Protocol error: too big mbulk count string"),
        (b"*1\r\n$", "Protocol error: too big bulk count string"),
        (b"*1\r\n?", "Protocol error: too big bulk count string"),
        (b"PING ", "Protocol error: too big inline request"),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["open", "ended"])
def test_line_is_too_long_at_one_byte_beyond_the_limit(start: bytes, text: str, end: bytes) -> None:
    line_start = start.rpartition(b"\n")[2]
    stream = start + b"1" * (LINE_BYTES_MAX - len(line_start) + 1)
    assert read_exactly([stream[:-1]]).error is None
    assert read_exactly([stream + end]) == Outcome([], text, None)
    assert read_exactly(cut(stream + end, range(0, len(stream), 1000))) == Outcome([], text, None)


def test_longest_inline_command_is_read() -> None:
    word = b"x" * (LINE_BYTES_MAX - 1)
    assert read_exactly([word + b"\r\n"]) == complete([word])
    assert read_exactly([word + b"xx\r\n"]).error == "Protocol error: too big inline request"


def test_setting_limits_the_size_of_an_argument_from_the_next_length_on() -> None:
    limits = Limits(bulk_bytes_max=100_000)
    assert read_exactly([request(b"SET", b"key", b"x" * 100_000)], limits=limits).error is None
    assert read_exactly([request(b"SET", b"key", b"x" * 100_001)], limits=limits).error == INVALID_SIZE
    reader = MultibulkReader(limits, authenticated=True)
    limits.bulk_bytes_max = 200_000
    reader.feed(b"*1\r\n$150000\r\n")
    assert reader.next() is None


def test_limits_lower_than_the_fast_readers_assume_are_refused() -> None:
    with pytest.raises(ValueError, match="bulk_bytes_max"):
        Limits(bulk_bytes_max=1)
    limits = Limits()
    with pytest.raises(ValueError, match="argument_count_max"):
        limits.argument_count_max = 1


@pytest.mark.parametrize(
    ("small", "large", "text"),
    [
        (b"*10\r\n", b"*11\r\n", "Protocol error: unauthenticated multibulk length"),
        (b"*1\r\n$16384\r\n", b"*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length"),
    ],
)
def test_before_authentication_requests_are_small(small: bytes, large: bytes, text: str) -> None:
    assert read_exactly([small], authenticated=False) == Outcome([], None, len(small))
    assert read_exactly([large], authenticated=False) == Outcome([], text, None)
    assert read_exactly([large]) == Outcome([], None, len(large))


def test_length_that_was_too_large_is_legal_once_authenticated() -> None:
    data = request(b"SET", b"key", b"x" * 20_000)
    reader = MultibulkReader(Limits(), authenticated=False)
    reader.feed(data)
    for _ in range(2):
        with pytest.raises(UnauthenticatedLimitError):
            reader.next()
        assert reader.pending_bytes == len(data)
    reader.authenticated = True
    assert reader.next() == [b"SET", b"key", b"x" * 20_000]


@pytest.mark.parametrize("line", [b"PING" + b" " * 1000, b"*" + b"1" * 1000, b"*1\r\n$" + b"1" * 1000])
def test_line_is_searched_for_its_end_only_once(line: bytes) -> None:
    reader = MultibulkReader(Limits(), authenticated=True)
    for byte in one_by_one(line):
        reader.feed(byte)
        assert reader.next() is None
        assert reader._searched >= len(reader._buffer) - 1
    assert reader._searched >= 1000


def test_error_repeats_itself() -> None:
    reader = MultibulkReader(Limits(), authenticated=True)
    reader.feed(b"*1\r\n$x\r\n" + request(b"PING"))
    for _ in range(2):
        with pytest.raises(ProtocolError, match="invalid bulk length"):
            reader.next()


def test_rest_is_what_follows_the_last_request() -> None:
    reader = MultibulkReader(Limits(), authenticated=True)
    for piece in one_by_one(request(b"PING"))[:-1]:
        reader.feed(piece)
    assert reader.next() is None
    reader.feed(b"\n*1\r\n$4\r\nQU")
    assert reader.next() == [b"PING"]
    assert reader.take_rest() == b"*1\r\n$4\r\nQU"
    assert reader.pending_bytes == 0
    reader.feed(request(b"PING"))
    assert reader.next() == [b"PING"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b" \t\n\v\f\r", []),
        (b"PING", [b"PING"]),
        (b"  SET  key\tvalue ", [b"SET", b"key", b"value"]),
        (b"\vSET\x0bkey", [b"SET\x0bkey"]),  # skipped between words, but it ends none
        (b'""', [b""]),
        (b"'' \"\"", [b"", b""]),
        (rb'"a\x41\n\r\t\b\a\\\"\q"', [b'aA\n\r\t\b\a\\"q']),
        (rb'"\x4 \xzz \X41"', [b"x4 xzz X41"]),
        (rb"'a\x41\n\'b\ '", [rb"a\x41\n'b\ "]),
        (rb"'\\''", [b"\\'"]),
        (rb"'\\'", None),
        (b'key"quo ted"', [b"keyquo ted"]),
        (b"key'quo ted'\x0bnext", [b"keyquo ted", b"next"]),
        (b"a\x00b", [b"a\x00b"]),
        (b'"a"b', None),
        (b"'a'b", None),
        (b"'a'\"b\"", None),
        (b'"a', None),
        (b'"a\\', None),
        (b'"a\\"', None),
        (b"'a", None),
        (b"'a\\'", None),
        (b"a'", None),
        (b'word "', None),
    ],
)
def test_words_of_an_inline_command(line: bytes, words: list[bytes] | None) -> None:
    assert split_words(line) == words
