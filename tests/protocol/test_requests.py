"""The reader that sessions use: which of its readers takes what, limits that change, and its end."""

from __future__ import annotations

import pytest

from protocol import requests as readers
from protocol.lines import read_lines, read_one
from protocol.multibulk import Limits, MultibulkReader
from protocol.requests import RequestReader
from tests.protocol.streams import Outcome, cut, one_by_one, read, request

GET = request(b"GET", b"key")
SET = request(b"SET", b"key", b"value")
JSON = request(b"SET", b"key", b'{"query": "a=(b+c)|d>e~f%"}')
BINARY = request(b"SET", b"key", b"\r\n=\x00")
MIXED = (
    GET
    + SET
    + JSON
    + b"PING 'a b'\r\n"
    + BINARY
    + b"*0\r\n\r\n"
    + request(b"SET", b"key", b"x" * 20_000)
    + GET
)


class Shown:
    """How many bytes each of the readers was shown."""

    def __init__(self) -> None:
        self.exact = 0
        self.pipelines = 0
        self.lines = 0
        self.one = 0


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    counts = Shown()
    feed = MultibulkReader.feed
    read_pipelines = readers._pipelines.read

    def feed_exact(self: MultibulkReader, data: bytes) -> None:
        counts.exact += len(data)
        feed(self, data)

    class Pipelines:
        def read(self, data: bytes) -> list[list[bytes]] | None:
            counts.pipelines += len(data)
            return read_pipelines(data)

    def lines(data: bytes) -> tuple[list[list[bytes]], int]:
        counts.lines += len(data)
        return read_lines(data)

    def one(data: bytes) -> list[bytes] | None:
        counts.one += len(data)
        return read_one(data)

    monkeypatch.setattr(MultibulkReader, "feed", feed_exact)
    monkeypatch.setattr(readers, "_pipelines", Pipelines())
    monkeypatch.setattr(readers, "read_lines", lines)
    monkeypatch.setattr(readers, "read_one", one)
    return counts


def test_every_cut_gives_the_same_requests() -> None:
    expected = read([MIXED])
    assert expected == Outcome(
        [
            [b"GET", b"key"],
            [b"SET", b"key", b"value"],
            [b"SET", b"key", b'{"query": "a=(b+c)|d>e~f%"}'],
            [b"PING", b"a b"],
            [b"SET", b"key", b"\r\n=\x00"],
            [b"SET", b"key", b"x" * 20_000],
            [b"GET", b"key"],
        ],
        None,
        0,
    )
    assert read(one_by_one(MIXED)) == expected
    for place in [*range(250), *range(len(MIXED) - 100, len(MIXED))]:
        assert read(cut(MIXED, [place])) == expected


def test_single_request_needs_the_first_reader_only(shown: Shown) -> None:
    for data in (GET, SET, JSON):
        assert len(RequestReader().feed(data)) == 1
    assert (shown.pipelines, shown.lines, shown.exact) == (0, 0, 0)


@pytest.mark.parametrize("count", [2, 30, 1000])
def test_pipeline_goes_through_hiredis(shown: Shown, count: int) -> None:
    assert len(RequestReader().feed((GET + SET) * count)) == 2 * count
    assert (shown.lines, shown.exact) == (0, 0)


def test_pipeline_that_hiredis_may_not_see_is_read_by_lines(shown: Shown) -> None:
    assert len(RequestReader().feed((JSON + SET) * 1000)) == 2000
    assert shown.exact == 0


def test_large_values_are_not_searched(shown: Shown) -> None:
    data = request(b"SET", b"key", b"x" * 4096)
    assert len(RequestReader().feed(data * 16)) == 16
    assert (shown.one, shown.pipelines, shown.lines) == (0, 0, 0)


def test_request_across_two_feeds_does_not_slow_down_the_rest(shown: Shown) -> None:
    reader = RequestReader()
    data = SET * 1000
    pieces = cut(data, range(10_000, len(data), 10_000))
    assert sum(len(reader.feed(piece)) for piece in pieces) == 1000
    # Of each piece: what is left of one request, and what follows it, handed back.
    assert shown.exact <= len(data) + len(pieces) * len(SET)
    assert shown.lines <= len(pieces) * len(SET)


@pytest.mark.parametrize(
    "unit",
    [
        GET + BINARY,
        JSON + BINARY,
        GET * 2 + b"PING\r\n",
        request(b"SET", b"key", b"*1\r\n" * 3),
        GET + request(b"SET", b"key", b"x" * 8000),
        request(b"SET", b"key", b"=" * 4000 + b"\r\n*"),
        b"*1\r\n$1\r\naXX",
        b"*999\r\n$1\r\na\r\n",
    ],
    ids=lambda unit: repr(unit[:24]),
)
def test_each_reader_sees_each_byte_a_bounded_number_of_times(shown: Shown, unit: bytes) -> None:
    data = unit * (65536 // len(unit))
    RequestReader().feed(data)
    assert shown.pipelines <= 3 * len(data)
    assert shown.lines <= 3 * len(data)
    assert shown.exact <= len(data)


@pytest.mark.parametrize("first", [b"$", b":", b"*", b"*1", b"*1\r\n", b"*1\r\n$", b"*1\r\n$4\r\n"])
@pytest.mark.parametrize("count", [2, 20, 1000])
def test_start_of_a_request_behind_a_pipeline_is_not_lost(first: bytes, count: int) -> None:
    reader = RequestReader()
    assert len(reader.feed(GET * count + first)) == count
    assert reader.pending_bytes == len(first)


def test_what_is_pending_is_counted() -> None:
    reader = RequestReader()
    assert reader.pending_bytes == 0
    reader.feed(GET * 20 + SET[:-1])
    assert reader.pending_bytes == len(SET) - 1
    reader.feed(SET[-1:] + b"PI")
    assert reader.pending_bytes == 2
    reader.feed(b"NG\r\n")
    assert reader.pending_bytes == 0


def test_after_an_error_nothing_is_read() -> None:
    reader = RequestReader()
    assert reader.feed(GET + b"*x\r\n" + GET) == [[b"GET", b"key"]]
    error = reader.error
    assert error is not None
    assert error.text == "Protocol error: invalid multibulk length"
    assert reader.feed(GET) == []
    assert reader.error is error


def test_readers_may_share_limits_that_change() -> None:
    limits = Limits()
    first, second = RequestReader(limits), RequestReader(limits)
    limits.bulk_bytes_max = 100_000
    for reader in (first, second):
        assert reader.limits is limits
        assert reader.feed(b"*1\r\n$100001\r\n") == []
        assert reader.error is not None


def test_large_request_behind_one_that_may_authenticate_is_held() -> None:
    auth = request(b"AUTH", b"secret")
    large = request(b"SET", b"key", b"x" * 20_000)
    reader = RequestReader(authenticated=False)
    assert reader.feed(auth + large + GET) == [[b"AUTH", b"secret"]]
    assert (reader.held, reader.error) == (True, None)
    assert reader.pending_bytes == len(large + GET)
    reader.authenticated = True
    assert reader.feed(b"") == [[b"SET", b"key", b"x" * 20_000], [b"GET", b"key"]]
    assert (reader.held, reader.error, reader.pending_bytes) == (False, None, 0)


def test_held_request_is_an_error_if_nobody_authenticated() -> None:
    reader = RequestReader(authenticated=False)
    assert reader.feed(GET + request(*[b"x"] * 11)) == [[b"GET", b"key"]]
    assert (reader.held, reader.error) == (True, None)
    assert reader.feed(b"") == []
    assert (reader.held, reader.error is None) == (False, False)
    assert reader.error is not None
    assert reader.error.text == "Protocol error: unauthenticated multibulk length"


def test_small_requests_are_read_before_authentication_whatever_their_number() -> None:
    outcome = read([(GET + SET) * 1000], authenticated=False)
    assert outcome == Outcome([[b"GET", b"key"], [b"SET", b"key", b"value"]] * 1000, None, 0)


def test_one_client_does_not_see_what_another_left_open() -> None:
    first, second = RequestReader(), RequestReader()
    assert first.feed(GET * 30 + SET[:-8]) == [[b"GET", b"key"]] * 30
    assert second.feed(GET * 30) == [[b"GET", b"key"]] * 30
    assert first.feed(SET[-8:]) == [[b"SET", b"key", b"value"]]
