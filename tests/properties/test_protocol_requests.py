"""All request readers are one: on any bytes, cut at any places, with any of them in front."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import requests as readers
from protocol.lines import read_lines, read_one
from protocol.pipelines import PIPELINE_BYTES_MAX, PipelineReader
from tests.protocol.streams import cut, one_by_one, read, read_exactly, request

# Bytes that mean something to one of the readers are much more likely than others.
_MEANINGFUL = [b"*", b"$", b"\r", b"\n", b"\r\n", b"0", b"1", b"2", b"9", b"-", b"a", b'"', b"'", b"\\", b" "]
_TYPES = [b"%", b"~", b">", b"|", b"+", b"(", b"=", b":", b"_", b"#", b",", b"!", b"-1", b"\x00", b"\xff"]
_fragment = st.sampled_from(_MEANINGFUL + _TYPES)

_argument = st.one_of(
    st.binary(max_size=4),
    st.lists(_fragment, max_size=8).map(b"".join),
    st.sampled_from([b"GET", b"key", b"*1\r\n$1\r\na\r\n", b"$1\r\na", b"a*12", b"x" * 300, b"x" * 1100]),
)
_arguments = st.lists(_argument, min_size=1, max_size=6)
_request = _arguments.map(lambda arguments: request(*arguments))

_length = st.one_of(
    st.integers(-2, 12).map(lambda number: b"%d" % number),
    st.sampled_from(
        [b"", b"+1", b"01", b"-0", b"1x", b"1000", b"9999", b"1048577", b"536870913", b"2147483648"]
    ),
)
_odd = st.one_of(
    st.sampled_from([b"\r\n", b"\n", b"PING\r\n", b"SET a 'b c'\r\n", b'"\r\n', b"*0\r\n", b"*-1\r\n"]),
    _length.map(lambda length: b"*%b\r\n" % length),
    _length.map(lambda length: b"*1\r\n$%b\r\na\r\n" % length),
    st.sampled_from(_TYPES).map(lambda kind: b"*1\r\n%b1\r\na\r\n" % kind),
    st.sampled_from([*_TYPES, b"$"]).map(lambda kind: b"%b1\r\n" % kind),
    _length.map(lambda length: b"$%b\r\na\r\n" % length),
    st.sampled_from([*_TYPES, b"$", b"*"]),
    st.lists(_fragment, max_size=12).map(b"".join),
)
_run = st.tuples(_request, st.integers(1, 40)).map(lambda run: run[0] * run[1])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Requests, runs of them, oddities; then perhaps a few bytes changed, dropped, put in or doubled."""
    stream = b"".join(draw(st.lists(st.one_of(_request, _request, _run, _odd), max_size=8)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3]))):
        start = draw(st.integers(0, len(stream)))
        end = min(len(stream), start + draw(st.integers(0, 6)))
        middle = draw(st.one_of(_fragment, st.just(b""), st.just(stream[start:end] * 2)))
        stream = stream[:start] + middle + stream[end:]
    return stream


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """A stream, cut at a few places."""
    stream = draw(streams())
    return cut(stream, draw(st.lists(st.integers(0, len(stream)), max_size=5)))


_PIPELINE = request(b"GET", b"key") * 20


@given(pieces())
@example([_PIPELINE + b"$", b"1\r\na\r\n"])  # a byte that hiredis takes without a trace
@example([_PIPELINE + b"*1\r\n$4\r\n", b"PING\r\n"])
@example([_PIPELINE * 30 + b"*", b"1\r\n$4\r\nPING\r\n"])
def test_readers_agree_on_any_stream_cut_anywhere(pieces: list[bytes]) -> None:
    assert read(pieces) == read_exactly(one_by_one(b"".join(pieces)))


@given(pieces())
def test_readers_agree_before_authentication(pieces: list[bytes]) -> None:
    expected = read_exactly(one_by_one(b"".join(pieces)), authenticated=False)
    assert read(pieces, authenticated=False) == expected


@pytest.fixture(scope="module")
def _small_pieces() -> Iterator[None]:
    with (
        mock.patch.object(readers, "PIPELINE_BYTES_MAX", 64),
        mock.patch.object(readers, "_ONE_BYTES_MAX", 24),
        mock.patch.object(readers, "_LARGE_FROM", 48),
        mock.patch.object(readers, "_LARGE_TO", 80),
    ):
        yield


@pytest.mark.usefixtures("_small_pieces")
@given(pieces())
def test_readers_agree_when_every_stream_is_many_pieces(pieces: list[bytes]) -> None:
    assert read(pieces) == read_exactly(one_by_one(b"".join(pieces)))


@given(st.binary(max_size=200))
def test_readers_agree_on_noise(stream: bytes) -> None:
    assert read([stream]) == read_exactly(one_by_one(stream))


@given(streams())
@example(b"$0\r\n\r\n*2\r\n$1\r\na\r\n")  # an item too many, an array left open
@example(b"*1\r\n$1\r\naXX*2\r\n$3\r\nGET\r\n")
@example(b"*1\r\n$4\r\nPINGX*1\r\n")
@example(b"*1\r\n$4\r\nPING\r\n$9\r\na\r\n")  # left in the buffer
@example(b"*2\r\n$3\r\na*1\r\n*1\r\n$1\r\na\r\n")
def test_what_hiredis_is_believed_is_exact(stream: bytes) -> None:
    data = stream[: PIPELINE_BYTES_MAX - 2].removesuffix(b"\r") + b"\r\n"
    requests = _pipelines.read(data)
    if requests is not None:
        assert read_exactly(one_by_one(data)) == (requests, None, 0)


_pipelines = PipelineReader()


@given(streams())
def test_what_is_read_by_lines_is_exact(stream: bytes) -> None:
    requests, taken = read_lines(stream)
    assert read_exactly([stream[:taken]]) == (requests, None, 0)
    one = read_one(stream)
    assert one is None or read_exactly([stream]) == ([one], None, 0)


@given(st.lists(_arguments, max_size=40), st.lists(st.integers(0, 2000), max_size=5))
def test_requests_survive_the_wire(requests: list[list[bytes]], places: list[int]) -> None:
    stream = b"".join(request(*arguments) for arguments in requests)
    assert read(cut(stream, places)) == (requests, None, 0)
