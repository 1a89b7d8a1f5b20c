"""HTTP responses as bytes.

The reason phrase carries the text of an error (clients of the binding protocol show nothing else), so
it is cut to printable ASCII: one byte beyond that, and they show nothing at all. Header values that come
from data (metadata) may be UTF-8, but never hold a line break.
Source: RFC 9112 §4, RFC 9110 §15.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

REASONS: Final = {status.value: status.phrase for status in HTTPStatus}

# One response of this size fits a packet or two; longer reasons are cut.
REASON_CHARACTERS_MAX: Final = 512

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_drop_unprintable: Final = re.compile(r"[^ -~]").sub


class DateLine:
    """The Date header of the present second, and the start of the response that is most frequent."""

    __slots__ = ("_second", "line", "ok")

    def __init__(self) -> None:
        self._second = -1
        self.line = b""
        self.ok = b""  # the status line of 200 with the date

    def update(self, now_ms: int) -> None:
        """Set the lines for this moment; costs one comparison within a second."""
        second = now_ms // 1000
        if second != self._second:
            self._second = second
            self.line = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode()
            self.ok = b"HTTP/1.1 200 OK\r\n" + self.line


class Response:
    """An answer. `headers` are whole lines, each with its CRLF; lengths and dates are added by `encode`."""

    __slots__ = ("body", "close", "headers", "reason", "stands_on_commit", "status")

    def __init__(
        self,
        status: int,
        headers: bytes = b"",
        body: bytes = b"",
        *,
        reason: str = "",
        close: bool = False,
        stands_on_commit: bool = True,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.reason = reason
        self.close = close
        self.stands_on_commit = stands_on_commit

    def encode(
        self, date: DateLine, *, head_only: bool = False, keep_alive: bool = True, is_1_1: bool = True
    ) -> bytes:
        """Return the whole response. Of a HEAD request's the length is that of the body it leaves out."""
        if self.status == 200 and keep_alive and is_1_1 and not head_only:
            return b"%bContent-Length: %d\r\n%b\r\n%b" % (date.ok, len(self.body), self.headers, self.body)
        parts = [status_line(self.status, self.reason), date.line]
        if self.status not in {204, 304}:
            parts.append(b"Content-Length: %d\r\n" % len(self.body))
        if not keep_alive or self.close:
            parts.append(b"Connection: close\r\n")
        elif not is_1_1:
            parts.append(b"Connection: keep-alive\r\n")
        parts += [self.headers, b"\r\n"]
        if not head_only and self.status not in {204, 304}:
            parts.append(self.body)
        return b"".join(parts)


def status_line(status: int, reason: str = "") -> bytes:
    """Return the status line with its CRLF."""
    text = _drop_unprintable("?", reason[:REASON_CHARACTERS_MAX]) if reason else REASONS.get(status, "")
    return b"HTTP/1.1 %d %b\r\n" % (status, text.encode("ascii"))


def stream_head(date: DateLine, headers: bytes, *, keep_alive: bool) -> bytes:
    """Return the head of a 200 response whose body follows in chunks."""
    end = b"\r\n" if keep_alive else b"Connection: close\r\n\r\n"
    return b"%bTransfer-Encoding: chunked\r\n%b%b" % (date.ok, headers, end)


def chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def header(name: bytes, value: bytes) -> bytes:
    """Return a header line. A line break in the value, which no caller should let through, raises."""
    if b"\r" in value or b"\n" in value or b"\x00" in value:
        raise ValueError("a header value holds a line break")
    return b"%b: %b\r\n" % (name, value)
