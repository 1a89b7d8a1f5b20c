"""HTTP heads and bodies: what is read, at any cut, and what is refused."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.http_errors import HttpError
from protocol.http_requests import HttpLimits, HttpReader, HttpRequest

H = b"Host: x\r\n"


class Sink:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.data += data


def read(
    *pieces: bytes, limits: HttpLimits | None = None
) -> tuple[list[tuple[object, ...]], HttpError | None]:
    """Return (method, path, query, body) of what was read, and the error."""
    reader = HttpReader(limits or HttpLimits(), lambda request: Sink())
    found: list[tuple[object, ...]] = []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next()) is not None:
            body = request.body.data if isinstance(request.body, Sink) else None
            found.append((request.method, request.path, request.query, body))
    return found, reader.error


def one(data: bytes) -> HttpRequest:
    reader = HttpReader(HttpLimits(), lambda request: Sink())
    reader.feed(data)
    request = reader.next()
    assert reader.error is None
    assert request is not None
    return request


PIPELINE = (
    b"GET /a?b=c HTTP/1.1\r\n" + H + b"\r\n"
    b"PUT /%61 HTTP/1.1\r\n" + H + b"Content-Length: 3\r\n\r\nabc"
    b"PUT /c HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    b"\r\nDELETE /d HTTP/1.1\r\n" + H + b"Content-Length: 0\r\n\r\n"
    b"GET /\xc5\xbc HTTP/1.1\r\n" + H + b"CF-KV-Metadata: \xc5\xbc\r\n\r\n"
    b"GET http://other/x?y HTTP/1.1\r\n" + H + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"GET /last HTTP/1.1\r\n" + H + b"\r\n"
)  # fmt: skip
READ = [
    (b"GET", b"/a", b"b=c", None),
    (b"PUT", b"/%61", b"", b"abc"),
    (b"PUT", b"/c", b"", b"abcde"),
    (b"DELETE", b"/d", b"", None),
    (b"GET", b"/%C5%BC", b"", None),
    (b"GET", b"/x", b"y", None),
    (b"GET", b"/last", b"", None),
]


def test_pipeline() -> None:
    assert read(PIPELINE) == (READ, None)


def test_pipeline_byte_by_byte() -> None:
    assert read(*(bytes((byte,)) for byte in PIPELINE)) == (READ, None)


@given(st.lists(st.integers(0, len(PIPELINE)), max_size=8))
def test_pipeline_cut_anywhere(cuts: list[int]) -> None:
    places = sorted({0, len(PIPELINE), *cuts})
    assert read(*(PIPELINE[a:b] for a, b in itertools.pairwise(places))) == (READ, None)


def test_metadata_header_is_bytes() -> None:
    request = one(b"PUT /k HTTP/1.1\r\n" + H + b'CF-KV-Metadata: {"u":"\xc5\xbc"}\r\n\r\n')
    assert request.headers[b"cf-kv-metadata"] == b'{"u":"\xc5\xbc"}'


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [(b"1.1", b"", True), (b"1.1", b"Connection: close\r\n", False), (b"1.0", b"", False),
     (b"1.0", b"Connection: keep-alive\r\n", True), (b"1.1", b"Connection: x, Close\r\n", False)],
)  # fmt: skip
def test_keep_alive(version: bytes, connection: bytes, keep_alive: bool) -> None:
    assert one(b"GET / HTTP/" + version + b"\r\n" + H + connection + b"\r\n").keep_alive is keep_alive


def test_absolute_target_may_stand_for_the_host() -> None:
    request = one(b"GET https://fake-host/k?x HTTP/1.1\r\n\r\n")
    assert (request.authority, request.path, request.query) == (b"fake-host", b"/k", b"x")


# What another reader might understand differently, or what is no HTTP at all.
SMUGGLING = {
    "both lengths": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
    "length twice": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "length list": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 1, 1\r\n\r\na",
    "length with a sign": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: +1\r\n\r\na",
    "negative length": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\na",
    "hexadecimal length": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 0x1\r\n\r\na",
    "empty length": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: \r\n\r\na",
    "length with a blank": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 1 1\r\n\r\na",
    "huge length": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999\r\n\r\na",
    "other coding": b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip\r\n\r\n",
    "two codings": b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": b"PUT / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "misspelt coding": b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "vertical tab": b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "blank before colon": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length : 1\r\n\r\na",
    "folded line": b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n c\r\n\r\n",
    "leading blank": b"GET / HTTP/1.1\r\n" + b" A: b\r\n" + H + b"\r\n",
    "bare LF": b"GET / HTTP/1.1\n" + b"Host: x\n\n",
    "bare LF in a header": b"GET / HTTP/1.1\r\n" + b"Host: x\nA: b\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\n" + H + b"A: b\rc\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\n" + H + b"A: b\x00c\r\n\r\n",
    "NUL in the target": b"GET /\x00 HTTP/1.1\r\n" + H + b"\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\n" + H + b"\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\n" + H + b"\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n",
    "blank after the version": b"GET / HTTP/1.1 \r\n" + H + b"\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 1.2": b"GET / HTTP/1.2\r\n" + H + b"\r\n",
    "lower case method": b"get / HTTP/1.1\r\n" + H + b"\r\n",
    "no method": b"/ HTTP/1.1\r\n" + H + b"\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\n" + H + H + b"\r\n",
    "Host with a path": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "Host with a user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "two tokens": b"GET / HTTP/1.1\r\n" + H + b"Authorization: a\r\nAuthorization: b\r\n\r\n",
    "two namespaces": b"GET / HTTP/1.1\r\n" + H + b"X-KV-Namespace: a\r\nx-kv-namespace: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\n" + H + b"A\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n" + H + b": x\r\n\r\n",
    "absolute target without a sound authority": b"GET http://a@b/ HTTP/1.1\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\n" + H + b"\r\n",
    "expectation": b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nExpect: magic\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "RESP": b"*1\r\n$4\r\nPING\r\n\r\n",
    "empty lines": b"\r\n\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLING)
def test_refused(name: str) -> None:
    trailing = b"GET /smuggled HTTP/1.1\r\n" + H + b"\r\n"
    for pieces in ([SMUGGLING[name] + trailing], [bytes((byte,)) for byte in SMUGGLING[name] + trailing]):
        found, error = read(*pieces)
        assert found == []
        assert error is not None
        assert error.status in {400, 405, 417, 505}
        assert error.text.isascii()


@pytest.mark.parametrize(
    "chunks",
    [b"g\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"\r\n", b"1\na\r\n", b"1\r\naa\r\n",
     b"1\r\na\n0\r\n\r\n", b"123456789\r\n", b"1;\x00\r\na\r\n", b"1" + b";x" * 200 + b"\r\n", b"1\r\na\r\r\n", b"1_0\r\n",
     b"0\r\nbad trailer\r\n\r\n", b"0\r\n" + b"A: " + b"x" * 9000 + b"\r\n\r\n", b"0\r\n" + b"A: x\r\n" * 2000 + b"\r\n",
     b"1\r\na\r\n0\r\n \r\n"],
)  # fmt: skip
def test_bad_chunks(chunks: bytes) -> None:
    head = b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n"
    for pieces in ([head + chunks], [bytes((byte,)) for byte in head + chunks]):
        found, error = read(*pieces)
        assert found == []
        assert error is not None
        assert error.status == 400


def test_large_heads() -> None:
    limits = HttpLimits(head_bytes_max=1000, headers_max=5)
    assert read(b"GET /" + b"a" * 2000, limits=limits)[1].status == 431  # type: ignore[union-attr]
    assert read(b"GET /" + b"a" * 980 + b" HTTP/1.1\r\n" + H + b"\r\n", limits=limits)[1].status == 431  # type: ignore[union-attr]
    many = b"".join(b"A%d: x\r\n" % number for number in range(5))
    assert read(b"GET / HTTP/1.1\r\n" + H + many + b"\r\n", limits=limits)[1].status == 431  # type: ignore[union-attr]


def test_key_and_metadata_of_a_worker_fit() -> None:
    key = b"%C5%BC" * 256
    head = b"PUT /" + key + b"?urlencoded=true HTTP/1.1\r\n" + H + b"CF-KV-Metadata: " + b"x" * 1024
    assert read(head + b"\r\nCF-KV-FLPROD-405: https://fake-host/" + key + b"\r\n\r\n")[1] is None


def test_nothing_is_read_after_an_error() -> None:
    reader = HttpReader(HttpLimits(), lambda request: Sink())
    reader.feed(b"nonsense\r\n\r\n")
    assert reader.next() is None
    reader.feed(PIPELINE)
    assert reader.next() is None
    assert reader.pending_bytes == 0


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"*1\r\n$4\r\nPING\r\n", b"\r\n\x16", b"\x00", b" GET"],
)
def test_what_cannot_become_a_request_is_refused_at_once(data: bytes) -> None:
    _, error = read(data)
    assert error is not None
    assert (error.status, error.text) == (400, "Bad Request: this is no HTTP")


def test_slow_head_costs_linear_time() -> None:
    head = b"GET / HTTP/1.1\r\n" + H + b"A: " + b"x" * 20_000
    started = time.process_time()
    assert read(*(bytes((byte,)) for byte in head)) == ([], None)
    assert time.process_time() - started < 2


# ---------------------------------------------------------------- fuzzing

WORDS = st.sampled_from(
    [b"GET", b"PUT", b" ", b"/", b"/k?x", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b":", b"Host: x",
     b"Content-Length: 3", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"abc", b"3", b"0",
     b"Connection: close", b";", b"\x00", b"\xff", b"%", b"Upgrade: x", b"Connection: upgrade"]
)  # fmt: skip


@given(st.lists(WORDS | st.binary(max_size=20), max_size=40), st.integers(1, 50))
def test_any_bytes_end_in_requests_or_an_error(words: list[bytes], size: int) -> None:
    data = b"".join(words)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    whole, error = read(data)
    assert read(*pieces)[0] == whole or error is not None
    reader = HttpReader(HttpLimits(), lambda request: Sink())
    for piece in pieces:
        reader.feed(piece)
        while reader.next() is not None:
            pass
        assert reader.pending_bytes <= HttpLimits().head_bytes_max + size


@given(st.binary(max_size=300), st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 40))
def test_chunked_bodies_come_back(body: bytes, sizes: list[int], cut: int) -> None:
    coded, rest = b"", body
    for size in sizes:
        part, rest = rest[:size], rest[size:]
        if part:
            coded += b"%X\r\n%b\r\n" % (len(part), part)
    if rest:
        coded += b"%x\r\n%b\r\n" % (len(rest), rest)
    data = b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
    pieces = [data[start : start + cut] for start in range(0, len(data), cut)]
    assert read(*pieces) == ([(b"PUT", b"/", b"", body)], None)
