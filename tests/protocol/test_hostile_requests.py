"""Input that wants to hurt: memory and time are bounded by what was sent, never by what was announced.

Memory is Python's own, by tracemalloc; the buffer inside of hiredis is bounded by the size of a
piece. Times are far above what is needed, and far below what a quadratic reader would take.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest

from protocol.multibulk import LINE_BYTES_MAX, Limits
from protocol.pipelines import PIPELINE_BYTES_MAX, PipelineReader
from protocol.requests import RequestReader
from tests.protocol.streams import request

KIB = 1024
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak_bytes(pieces: Iterable[bytes], reader: RequestReader) -> int:
    """Feed all pieces; return how much memory that took at its highest beyond what there was."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for piece in pieces:
        reader.feed(piece)
    return tracemalloc.get_traced_memory()[1] - before


@pytest.mark.parametrize(
    "announcement",
    [
        b"*2147483647\r\n",
        b"*1048576\r\n",
        b"*1\r\n$2147483647\r\n",
        b"*1\r\n$536870912\r\n",
        b"*9223372036854775807\r\n",
        b"*1\r\n$9223372036854775807\r\n",
        b"%2147483647\r\n",
        b"~2147483647\r\n",
        b">2147483647\r\n",
        b"*1\r\n*2147483647\r\n",
        b"*1\r\n~2147483647\r\n",
        b"*2\r\n$1\r\na\r\n*2147483647\r\n",
        b"*2\r\n$1\r\na\r\n*100000000\r\n$1\r\na\r\n",
    ],
)
@pytest.mark.parametrize("before", [b"", request(b"GET", b"key") * 20], ids=["alone", "behind others"])
def test_announcing_costs_nothing(announcement: bytes, before: bytes) -> None:
    for authenticated in (True, False):
        reader = RequestReader(authenticated=authenticated)
        assert peak_bytes([before + announcement], reader) < 20 * KIB
        assert peak_bytes([b"$"], reader) < 4 * KIB


def test_nested_arrays_end_at_the_second() -> None:
    for unit in (b"*1\r\n", b"*2\r\n$1\r\na\r\n"):
        reader = RequestReader()
        assert peak_bytes([unit * 10_000], reader) < MIB
        assert reader.error is not None
        assert reader.error.text == "Protocol error: expected '$', got '*'"


@pytest.mark.parametrize("unit", [b"*999\r\n", b"*999\r\n$0\r\n\r\n", b"*999\r\n_\r\n"])
def test_arrays_nested_in_what_hiredis_is_shown_stay_small(unit: bytes) -> None:
    data = unit * (PIPELINE_BYTES_MAX // len(unit))
    tracemalloc.reset_peak()
    assert PipelineReader().read(data) is None
    assert tracemalloc.get_traced_memory()[1] < 12 * MIB


@pytest.mark.parametrize("argument", [b"", b"a", b"ab", b"abcdefgh"])
def test_arguments_cost_a_small_multiple_of_their_bytes(argument: bytes) -> None:
    data = b"*1048576\r\n" + b"$%d\r\n%b\r\n" % (len(argument), argument) * 100_000
    reader = RequestReader()
    pieces = [data[start : start + 16 * KIB] for start in range(0, len(data), 16 * KIB)]
    assert peak_bytes(pieces, reader) < 8 * len(data)
    assert reader.pending_bytes == len(data)


def test_large_value_costs_twice_its_size_and_linear_time() -> None:
    size = 64 * MIB
    piece = b"x" * (16 * KIB)
    reader = RequestReader()
    reader.feed(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n" % size)
    started = time.process_time()
    assert peak_bytes((piece for _ in range(size // len(piece))), reader) < 1.5 * size
    assert peak_bytes([b"\r"], reader) < size
    tracemalloc.reset_peak()
    requests = reader.feed(b"\n")
    assert tracemalloc.get_traced_memory()[1] < 2.5 * size
    assert time.process_time() - started < 20
    assert requests == [[b"SET", b"key", b"x" * size]]
    del requests
    assert tracemalloc.get_traced_memory()[0] < MIB, "the reader holds on to the value"


def test_large_value_is_let_go_even_if_the_next_request_has_begun() -> None:
    reader = RequestReader()
    reader.feed(request(b"SET", b"key", b"x" * 10 * MIB) + b"*1\r\n$4\r\nPI")
    assert tracemalloc.get_traced_memory()[0] < MIB
    assert reader.feed(b"NG\r\n") == [[b"PING"]]


@pytest.mark.parametrize(
    "stream",
    [
        b"x" * LINE_BYTES_MAX,
        b"*1" + b"1" * (LINE_BYTES_MAX - 2),
        b"*1\r\n$" + b"1" * (LINE_BYTES_MAX - 1),
        b"*1\r\n$65536\r\n" + b"\r\n*1" * (LINE_BYTES_MAX // 4),
        b"\r\n" * (LINE_BYTES_MAX // 2),
        b"*1\r\n$0\r\n\r\n" * (LINE_BYTES_MAX // 10),
    ],
    ids=lambda stream: repr(stream[:12]),
)
def test_byte_at_a_time_is_linear(stream: bytes) -> None:
    reader = RequestReader()
    started = time.process_time()
    assert peak_bytes((stream[index : index + 1] for index in range(len(stream))), reader) < 3 * len(stream)
    assert time.process_time() - started < 5
    assert reader.error is None


@pytest.mark.parametrize(
    "line",
    [
        b'"' * LINE_BYTES_MAX,
        b"'" * (LINE_BYTES_MAX - 1),
        b'"' + b"\\" * (LINE_BYTES_MAX - 1),
        b"'" + b"\\'" * (LINE_BYTES_MAX // 2 - 1),
        b'"' + b"\\x" * (LINE_BYTES_MAX // 2 - 1),
        b"a " * (LINE_BYTES_MAX // 2),
        b"a" * (LINE_BYTES_MAX - 1) + b'"',
    ],
    ids=lambda line: repr(line[:6]),
)
def test_inline_command_of_any_shape_is_split_in_linear_time(line: bytes) -> None:
    started = time.process_time()
    RequestReader().feed(line + b"\r\n")
    assert time.process_time() - started < 2


def test_idle_client_costs_less_than_a_kilobyte() -> None:
    limits = Limits()
    before = tracemalloc.get_traced_memory()[0]
    readers = [RequestReader(limits) for _ in range(10_000)]
    for reader in readers:
        reader.feed(request(b"GET", b"key"))
        reader.feed(request(b"GET", b"key") * 10)
        reader.feed(b"*1\r\n$4\r\nPI")
    assert (tracemalloc.get_traced_memory()[0] - before) / len(readers) < KIB
