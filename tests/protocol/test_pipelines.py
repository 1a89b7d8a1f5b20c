"""hiredis under guard: what it is never shown, and what it is not believed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.pipelines import PIPELINE_BYTES_MAX, PipelineReader
from tests.protocol.streams import request

PIPELINE = request(b"SET", b"key:1", b"value") + request(b"GET", b"key:1") + request(b"PING")
REQUESTS = [[b"SET", b"key:1", b"value"], [b"GET", b"key:1"], [b"PING"]]


@pytest.fixture
def reader() -> Iterator[PipelineReader]:
    """A reader which is held to have kept nothing after the test."""
    reader = PipelineReader()
    yield reader
    assert reader.read(PIPELINE) == REQUESTS


@pytest.mark.parametrize(
    "arguments",
    [
        [b"SET", b"key", b"*1\r\n$4\r\nPING\r\n"],
        [b"SET", b"*", b"****"],
        [b"SET", b"key", b":1\r\n_\r\n#t\r\n,1.5\r\n-ERR\r\n$-1\r\n"],
        [b"SET", b"", b"\r\n"],
        [b"SET", b"key", b"\x00\xff" * 1000],
        [b"MGET", *[b"key"] * 600],
        [b""],
    ],
    ids=repr,
)
def test_whole_requests_are_taken(reader: PipelineReader, arguments: list[bytes]) -> None:
    assert reader.read(request(*arguments)) == [arguments]
    assert reader.read(PIPELINE + request(*arguments) + PIPELINE) == [*REQUESTS, arguments, *REQUESTS]


def test_full_piece_is_taken(reader: PipelineReader) -> None:
    count = PIPELINE_BYTES_MAX // len(PIPELINE)
    for _ in range(3):
        assert reader.read(PIPELINE * count) == REQUESTS * count


@pytest.mark.parametrize("mark", [b"%", b"~", b">", b"|", b"+", b"(", b"="])
def test_types_that_no_request_has_are_never_shown_to_hiredis(reader: PipelineReader, mark: bytes) -> None:
    """Not even inside of a value: before parsing nobody knows that it is inside."""
    shown = watch(reader)
    assert reader.read(request(b"SET", b"key", mark)) is None
    assert reader.read(b"*1\r\n" + mark + b"1\r\n") is None
    assert reader.read(mark + b"2147483647\r\n") is None
    assert shown == []


@pytest.mark.parametrize("stream", [b"*1000\r\n", b"*2147483647\r\n", request(b"SET", b"key", b"*1234")])
def test_large_arrays_are_never_shown_to_hiredis(reader: PipelineReader, stream: bytes) -> None:
    shown = watch(reader)
    assert reader.read(PIPELINE + stream) is None
    assert shown == []


def watch(reader: PipelineReader) -> list[bytes]:
    """Return the list in which all that hiredis is fed from now on will appear."""
    shown: list[bytes] = []
    feed = reader._feed

    def feed_and_tell(data: str | bytes, offset: int = 0, size: int = -1) -> None:
        assert isinstance(data, bytes)
        shown.append(data)
        feed(data, offset, size)

    reader._feed = feed_and_tell
    return shown


@pytest.mark.parametrize(
    "odd",
    [
        b"\r\n",
        b"PING\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b":1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"-ERR x\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$1\r\na\r\n",
        b"$9\r\na\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n_\r\n",
        b"*1\r\n#t\r\n",
        b"*1\r\n,1.5\r\n",
        b"*1\r\n-ERR x\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n*-1\r\n",
        b"*1\r\n*0\r\n",
        b"*1\r\n*1\r\n$1\r\na\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n",
        b"*1\r\n$1\r\na",
        b"*1\r\n$1\r\n",
        b"*2\r\n$1\r\na\r\n",  # an open array of which hiredis has consumed all there is
        b"*1\r\n",
        b"*a\r\n",
        b"*1\r\n$a\r\n",
        b"*1\r\n$01\r\na\r\n",
        b"*1\r\n$1000000000\r\na\r\n",
    ],
)
def test_anything_but_whole_requests_is_refused(reader: PipelineReader, odd: bytes) -> None:
    assert odd.endswith((b"\r\n", b"a"))
    assert reader.read(odd) is None
    assert reader.read(PIPELINE + odd) is None
    assert reader.read(PIPELINE) == REQUESTS
    assert reader.read(odd + PIPELINE) is None


def test_stars_that_cancel_out_do_not_hide_an_open_array(reader: PipelineReader) -> None:
    """As many ``*`` as items returned, but one item is none, and one array is open."""
    assert reader.read(b"$0\r\n\r\n*2\r\n$1\r\na\r\n") is None
    assert reader.read(b"*1\r\n$1\r\naXX*2\r\n$3\r\nGET\r\n") is None


def test_interrupt_leaves_nothing_for_the_next_client(
    reader: PipelineReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(requests: list[list[bytes]]) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("protocol.pipelines._join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reader.read(PIPELINE + b"*2\r\n$4\r\nAUTH\r\n")
    assert reader.read(request(b"secret")) == [[b"secret"]]
