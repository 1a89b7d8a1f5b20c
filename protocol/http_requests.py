"""A client's stream of bytes to HTTP/1.1 requests, sans-IO.

llhttp (by httptools) reads heads; where a body ends is decided here, from two headers that are read
strictly, because whoever reads a length differently than the proxy before us takes part of one client's
body for the next request (request smuggling). A head reaches llhttp whole and alone:

    bytes ─ find the empty line ─▶ head ─ llhttp ─▶ request ─ open_body(request) ─▶ sink
                                                       └─ body bytes, by length or chunks ──▶ sink.write

A body is never kept here: its pieces go to the sink that the owner chose when it saw the head, so what
becomes of a large one (a value, a form, items of a list, nothing) is decided before it is received.

Refused, with a connection that ends: a bare LF, folded lines, a blank before a colon, both lengths or
one twice, a length that is not digits, a coding other than chunked, HTTP/1.1 without or with two
Hosts, a repeated header of those that count once, what is beyond the limits.
Source: RFC 9112; llhttp in its strict mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol

import attrs
import httptools

from protocol.http_chunks import ChunkDecoder
from protocol.http_errors import HttpError
from protocol.http_targets import escape_high_bytes, split_target

# Headers of which a second one is an error: two readers might believe a different one each.
_SINGLE: Final = frozenset(
    b"host authorization content-length content-type transfer-encoding expect x-kv-namespace cf-kv-metadata "
    b"x-auth-key x-auth-email if-match if-none-match".split()
)
_HEAD_END: Final = b"\r\n\r\n"
_find_bare_lf: Final = re.compile(rb"(?<!\r)\n").search
_match_length: Final = re.compile(rb"[0-9]{1,15}").fullmatch
_match_host: Final = re.compile(rb"[A-Za-z0-9._~%:\[\]-]*").fullmatch


@attrs.frozen
class HttpLimits:
    """Bounds on a request's head. A key of 512 bytes with metadata of 1 KiB takes 5 KiB of it."""

    head_bytes_max: int = 32 << 10
    headers_max: int = 100


class BodySink(Protocol):
    """Where the bytes of a body go."""

    def write(self, data: bytes) -> None:
        """Take a piece. Raise `HttpError` to end the connection."""


class HttpRequest:
    """One request. `headers` are by lower-case name; repeated ones are joined with a comma."""

    __slots__ = (
        "authority",
        "body",
        "content_length",
        "expects_continue",
        "headers",
        "is_1_1",
        "is_chunked",
        "keep_alive",
        "method",
        "path",
        "query",
        "target",
    )

    def __init__(self, method: bytes, target: bytes, headers: dict[bytes, bytes]) -> None:
        self.method = method
        self.target = target
        self.path, self.query, self.authority = split_target(target)
        self.headers = headers
        self.is_1_1 = True  # older clients know no chunks
        self.keep_alive = True
        self.content_length = 0  # bytes that follow; -1 if only their end will tell
        self.is_chunked = False
        self.expects_continue = False
        self.body: BodySink | None = None

    def __repr__(self) -> str:
        return f"<HttpRequest {self.method!r} {self.target[:80]!r}>"


def _open_nothing(request: HttpRequest) -> BodySink:
    raise AssertionError("the reader is closed")


class HttpReader:
    """Reads one client's stream; `feed` takes bytes, `next` gives requests whose body has been received.

    `open_body` is called once for each head that announces a body. After an `HttpError` the reader is
    poisoned: `error` is set for good.
    """

    def __init__(self, limits: HttpLimits, open_body: Callable[[HttpRequest], BodySink]) -> None:
        self._limits = limits
        self._open_body = open_body
        self.head = b""  # of the last request, as it came
        self._data = b""
        self._skipped_empty_line = False
        self._searched = 0  # so much of `_data` is known to hold no end of a head
        self._request: HttpRequest | None = None  # whose body is being read
        self._chunks: ChunkDecoder | None = None
        self._remaining = 0
        self._parser: httptools.HttpRequestParser | None = None
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_count = 0
        self._is_head_complete = False
        self.error: HttpError | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes that belong to no request and no body so far."""
        return len(self._data)

    @property
    def in_head(self) -> bool:
        """Whether part of a head has come, and the rest has not."""
        return self._request is None and bool(self._data)

    @property
    def in_body(self) -> bool:
        return self._request is not None

    def feed(self, data: bytes) -> None:
        """Take bytes; `next` reads them."""
        if self.error is None:
            self._data = self._data + data if self._data else data

    def next(self) -> HttpRequest | None:
        """Return the next request that is complete, None if more bytes are needed, or after an error."""
        if self.error is not None:
            return None
        try:
            request = self._request
            if request is None:
                request = self._read_head()
                if request is None:
                    return None
            return request if request.body is None else self._read_body(request)
        except HttpError as error:
            error.__traceback__ = error.__cause__ = error.__context__ = None  # frames that know this reader
            self.error = error
            self._data = b""
            self._request = None
            return None

    def close(self) -> None:
        """Let go of everything now; without this it would wait for the garbage collector."""
        self.error = self.error or HttpError(400, "closed")
        self._data = self.head = b""
        self._request = None
        self._parser = None
        self._open_body = _open_nothing

    # --- heads

    def _read_head(self) -> HttpRequest | None:
        data = self._data
        if not data:
            return None
        if data.startswith(b"\r\n"):
            data = self._skip_empty_line(data)
        end = data.find(_HEAD_END, self._searched)
        if end < 0:
            self._check_incomplete(data)
            return None
        end += 4
        if end > self._limits.head_bytes_max:
            raise HttpError(431, "Request Header Fields Too Large")
        self._searched = 0
        self._skipped_empty_line = False
        if end == len(data):
            self._data = b""
            head = data
        else:
            self._data = data[end:]
            head = data[:end]
        self.head = head
        request = self._parse(head)
        self._frame(request)
        return request

    def _skip_empty_line(self, data: bytes) -> bytes:
        """Pass over one empty line before a request. Source: RFC 9112 §2.2."""
        if self._skipped_empty_line or data.startswith(_HEAD_END):
            raise HttpError(400, "Bad Request")
        self._skipped_empty_line = True
        self._searched = 0
        self._data = data[2:]
        return self._data

    def _check_incomplete(self, data: bytes) -> None:
        if data and not data[:1].isalpha() and data != b"\r":  # a client of TLS or Redis would wait for long
            raise HttpError(400, "Bad Request: this is no HTTP")
        if len(data) > self._limits.head_bytes_max:
            raise HttpError(431, "Request Header Fields Too Large")
        if _find_bare_lf(data, self._searched) is not None:
            raise HttpError(400, "Bad Request: a line does not end with CRLF")
        self._searched = max(len(data) - 3, 0)

    def _parse(self, head: bytes) -> HttpRequest:
        try:
            self._run_parser(head)
        except httptools.HttpParserInvalidURLError:
            line_end = head.index(b"\r\n")
            line = escape_high_bytes(head[:line_end])
            if len(line) == line_end:
                raise HttpError(400, "Bad Request: invalid target") from None
            self._run_parser_again(line + head[line_end:])
        parser = self._parser
        assert parser is not None, "the parser is dropped after the request is built"
        if not self._is_head_complete or head.count(b" ", 0, head.index(b"\r\n")) != 2:
            raise HttpError(400, "Bad Request")
        version = parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise HttpError(505, "HTTP Version Not Supported")
        request = HttpRequest(parser.get_method(), self._target, self._headers)
        request.is_1_1 = version == "1.1"
        self._settle_connection(request)
        return request

    def _run_parser(self, head: bytes) -> None:
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers = {}
        self._header_count = 0
        self._is_head_complete = False
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            if self._parser.get_method() == b"CONNECT":
                raise HttpError(405, "Method Not Allowed") from None
        except httptools.HttpParserInvalidURLError:
            self._parser = None
            raise
        except httptools.HttpParserCallbackError as error:
            self._parser = None
            if isinstance(error.__context__, HttpError):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            self._parser = None
            raise HttpError(400, f"Bad Request: {error}") from None

    def _run_parser_again(self, head: bytes) -> None:
        try:
            self._run_parser(head)
        except httptools.HttpParserInvalidURLError:
            raise HttpError(400, "Bad Request: invalid target") from None

    # Called by httptools.

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        name = name.lower()
        self._header_count += 1
        if self._header_count > self._limits.headers_max:
            raise HttpError(431, "Request Header Fields Too Large")
        if name in headers:
            if name in _SINGLE:
                raise HttpError(400, "Bad Request: a header is repeated")
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        self._is_head_complete = True

    # --- framing

    @staticmethod
    def _settle_connection(request: HttpRequest) -> None:
        is_1_1 = request.is_1_1
        headers = request.headers
        host = headers.get(b"host")
        if host is None and request.authority is not None:
            host = request.authority  # workerd's proxy style sends no Host
        if (host is None and is_1_1) or (host is not None and _match_host(host) is None):
            raise HttpError(400, "Bad Request: invalid Host")
        words = headers.get(b"connection")
        if words is None:
            request.keep_alive = is_1_1
        else:
            options = {word.strip().lower() for word in words.split(b",")}
            request.keep_alive = b"close" not in options and (is_1_1 or b"keep-alive" in options)

    def _frame(self, request: HttpRequest) -> None:
        """Find out how long the body is, and open it if there is one."""
        headers = request.headers
        coding = headers.get(b"transfer-encoding")
        length = headers.get(b"content-length")
        if coding is None and (length is None or length == b"0"):
            if length is not None:
                self._parser = None
            return
        self._parser = None  # it waits for a body that it will not see
        if coding is not None:
            if coding.strip().lower() != b"chunked" or length is not None or not request.is_1_1:
                raise HttpError(400, "Bad Request: invalid Transfer-Encoding")
            request.is_chunked = True
            request.content_length = -1
            self._chunks = ChunkDecoder()
        else:
            assert length is not None
            if _match_length(length) is None:
                raise HttpError(400, "Bad Request: invalid Content-Length")
            self._remaining = request.content_length = int(length)
            if not self._remaining:
                return
        self._check_expectation(request)
        request.body = self._open_body(request)
        self._request = request

    @staticmethod
    def _check_expectation(request: HttpRequest) -> None:
        expectation = request.headers.get(b"expect")
        if expectation is not None and request.is_1_1:
            if expectation.lower() != b"100-continue":
                raise HttpError(417, "Expectation Failed")
            request.expects_continue = True

    # --- bodies

    def _read_body(self, request: HttpRequest) -> HttpRequest | None:
        data, self._data = self._data, b""
        assert request.body is not None
        write = request.body.write
        if self._chunks is not None:
            position = self._chunks.feed(data, 0, write)
            if not self._chunks.done:
                return None
            self._chunks = None
            self._data = data[position:]
        elif len(data) < self._remaining:
            if data:
                self._remaining -= len(data)
                write(data)
            return None
        else:
            write(data if len(data) == self._remaining else data[: self._remaining])
            self._data = data[self._remaining :]
            self._remaining = 0
        self._request = None
        return request
