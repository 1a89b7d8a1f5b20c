"""The exact request reader: bytes in, one request at a time out, in pure Python.

A request is a RESP array of bulk strings, or a line of words (an *inline command*)::

    *2\\r\\n $3\\r\\n GET\\r\\n $5\\r\\n hello\\r\\n        GET "he\\x6clo"\\r\\n

This reader defines what kvd understands; `protocol.requests` puts a faster one before it that
must never differ. It follows Redis 7.2, which is as lenient as this:

* an array of no or of negative length, and a line without words, are skipped;
* the byte behind the ``\\r`` of a length, and the two bytes behind an argument, are not looked at;
* a length is a plain decimal: no ``+``, no leading zero, no space.

It is stricter in one point, so that the result depends on the bytes alone and never on how the
network cut them: a line is too long when its end lies beyond the limit, even if it came at once.
A zero byte is an ordinary byte (Redis's C strings end there, and the client would wait for ever).

Costs: linear in the bytes received, whatever the cuts; a byte costs O(1) even when it comes alone,
since a line is searched from where the last search ended and an argument is waited for by its
size. Memory is allocated for bytes received, never for lengths announced.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import attrs

from protocol.errors import (
    COUNT_LINE_TOO_BIG,
    INLINE_TOO_BIG,
    INVALID_COUNT,
    INVALID_SIZE,
    SIZE_LINE_TOO_BIG,
    UNAUTHENTICATED_COUNT,
    UNAUTHENTICATED_SIZE,
    UNBALANCED_QUOTES,
    ProtocolError,
    UnauthenticatedLimitError,
    expected_bulk,
)

Request: TypeAlias = list[bytes]

_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")

# From this size on an argument is copied out of a bytearray through a view: one copy, not two.
_VIEW_BYTES_MIN: Final = 64 * 1024

# So much of what was read may stay in the buffer until the next bytes come.
_KEPT_BYTES_MAX: Final = 64 * 1024


@attrs.define
class Limits:
    """What a request may be; changes take effect with the next length that is read."""

    bulk_bytes_max: int = 512 * 1024 * 1024  # the setting proto-max-bulk-len
    # Redis allowed this many until 7.0, and 2**31 - 1 since; no client needs more.
    argument_count_max: int = 1024 * 1024
    line_bytes_max: int = 64 * 1024  # of an inline command, and of a length's digits
    # Before authentication, as in Redis: enough for AUTH and HELLO.
    unauthenticated_argument_count_max: int = 10
    unauthenticated_bulk_bytes_max: int = 16384


class MultibulkReader:
    """Reads requests out of a stream: `feed` it bytes, then call `next` until it returns None.

    After a `ProtocolError` the reader has not moved: calling `next` again raises it again, except
    that an `UnauthenticatedLimitError` is gone once `authenticated` is set.
    """

    __slots__ = (
        "_arguments",
        "_buffer",
        "_missing",
        "_position",
        "_searched",
        "_size",
        "_taken_bytes",
        "authenticated",
        "limits",
    )

    def __init__(self, limits: Limits, *, authenticated: bool) -> None:
        self.limits = limits
        self.authenticated = authenticated
        self._buffer: bytes | bytearray = b""
        self._position = 0  # where in the buffer the next unread byte is
        self._searched = 0  # up to where a line's end has been looked for in vain
        self._arguments: Request = []  # of the request being read
        self._missing = 0  # arguments still to come; 0: at the start of a request
        self._size = -1  # of the argument being read; -1: its length line comes next
        self._taken_bytes = 0  # in the stream, of the request being read, before `_position`

    @property
    def pending_bytes(self) -> int:
        """Bytes received that belong to no request returned so far."""
        return self._taken_bytes + len(self._buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._position == len(self._buffer):
            self._buffer = data  # the usual case: nothing is copied
        else:
            if type(self._buffer) is bytes:
                self._buffer = bytearray(self._buffer[self._position :])
            else:
                del self._buffer[: self._position]  # type: ignore[union-attr]
            self._buffer += data
        self._searched -= self._position
        self._position = 0

    def take_rest(self) -> bytes:
        """Return, and forget, what follows the last request; only at the start of a request."""
        assert not self._missing, "inside a request"
        rest = bytes(self._buffer[self._position :])
        self._buffer = b""
        self._position = self._searched = self._taken_bytes = 0
        return rest

    def next(self) -> Request | None:
        """Return the next request, or None if it is not complete yet.

        Raises `ProtocolError`.
        """
        request = self._next_multibulk() if self._missing else self._start()
        if request is None:
            self._release()
        return request

    def _start(self) -> Request | None:
        """Read from the start of a request on, past all that is skipped."""
        while self._position < len(self._buffer):
            if self._buffer[self._position] == _STAR:
                if not self._read_count():
                    return None
                if self._missing:
                    return self._next_multibulk()
            else:
                words = self._next_inline()
                if words is None or words:
                    return words
        return None

    def _release(self) -> None:
        """Let go of what was read, so that an idle client does not hold a large request's bytes."""
        if self._position == len(self._buffer) or self._position > _KEPT_BYTES_MAX:
            self._buffer = self._buffer[self._position :]
            self._searched -= self._position
            self._position = 0

    def _read_count(self) -> bool:
        """Read ``*count``; False if the line is not complete. A count of 0 or less is skipped."""
        end = self._find_line_end(b"\r", COUNT_LINE_TOO_BIG)
        if end < 0:
            return False
        count = _parse_length(bytes(self._buffer[self._position + 1 : end]))
        if count is None or count > self.limits.argument_count_max:
            raise ProtocolError(INVALID_COUNT)
        if not self.authenticated and count > self.limits.unauthenticated_argument_count_max:
            raise UnauthenticatedLimitError(UNAUTHENTICATED_COUNT)
        if count > 0:
            self._missing = count
            self._taken_bytes = end + 2 - self._position
        self._position = end + 2
        return True

    def _next_multibulk(self) -> Request | None:
        """Go on with the arguments; return them all when the last one is there."""
        while self._missing:
            if self._size < 0 and not self._read_size():
                return None
            start, end = self._position, self._position + self._size
            if end + 2 > len(self._buffer):
                return None
            self._arguments.append(self._copy(start, end))
            self._position = end + 2
            self._taken_bytes += self._size + 2
            self._size = -1
            self._missing -= 1
        request, self._arguments = self._arguments, []
        self._taken_bytes = 0
        return request

    def _read_size(self) -> bool:
        """Read ``$size``; False if the line is not complete."""
        end = self._find_line_end(b"\r", SIZE_LINE_TOO_BIG)
        if end < 0:
            return False
        if self._buffer[self._position] != _DOLLAR:
            raise expected_bulk(self._buffer[self._position])
        size = _parse_length(bytes(self._buffer[self._position + 1 : end]))
        if size is None or not 0 <= size <= self.limits.bulk_bytes_max:
            raise ProtocolError(INVALID_SIZE)
        if not self.authenticated and size > self.limits.unauthenticated_bulk_bytes_max:
            raise UnauthenticatedLimitError(UNAUTHENTICATED_SIZE)
        self._taken_bytes += end + 2 - self._position
        self._position = end + 2
        self._size = size
        return True

    def _next_inline(self) -> Request | None:
        """Return the words of a line, none for an empty one; None if it is not complete."""
        end = self._find_line_end(b"\n", INLINE_TOO_BIG)
        if end < 0:
            return None
        words = split_words(bytes(self._buffer[self._position : end]).removesuffix(b"\r"))
        if words is None:
            raise ProtocolError(UNBALANCED_QUOTES)
        self._position = end + 1
        return words

    def _find_line_end(self, terminator: bytes, too_big: str) -> int:
        """Return the index of a line's terminator, or -1 if the line is not complete.

        A ``\\r`` counts only together with the byte that follows it, which the caller skips.
        """
        buffer, start = self._buffer, self._position
        end = buffer.find(terminator, max(start, self._searched))
        line_bytes = (end if end >= 0 else len(buffer)) - start
        if line_bytes > self.limits.line_bytes_max:
            raise ProtocolError(too_big)
        if end < 0:
            self._searched = len(buffer)
        elif terminator == b"\r" and end + 1 == len(buffer):
            self._searched = end
            return -1
        return end

    def _copy(self, start: int, end: int) -> bytes:
        """Return a part of the buffer as bytes of their own."""
        if type(self._buffer) is bytes or end - start < _VIEW_BYTES_MIN:
            return bytes(self._buffer[start:end])
        with memoryview(self._buffer) as view:
            return bytes(view[start:end])


_LENGTH: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")


def _parse_length(digits: bytes) -> int | None:
    """Return the number that `digits` strictly are, or None; beyond 64 bits is None too."""
    if _LENGTH.fullmatch(digits) is None:
        return None
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else None


# One run of a word: bare bytes, then perhaps a quoted part, whose closing quote ends the word.
# What ends bare bytes is narrower than what is skipped between words: Redis's own rule. The
# loops inside the quotes are unrolled so that each byte can match in one way only: no backtracking.
_BLANK: Final = re.compile(rb"[ \t\n\v\f\r]*")
_WORD: Final = re.compile(
    rb"""([^ \n\r\t"']*)"""
    rb"""(?:"([^"\\]*(?:\\.[^"\\]*)*)"|'([^'\\]*(?:\\(?:'|(?!'))[^'\\]*)*)')?""",
    re.DOTALL,
)
_AFTER_QUOTE: Final = b" \t\n\v\f\r"
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_words(line: bytes) -> Request | None:
    """Split an inline command into its words; None if a quote is not closed, or not at a word's end.

    In double quotes ``\\xHH``, ``\\n \\r \\t \\b \\a`` and ``\\`` before any other byte are escapes; in
    single quotes only ``\\'`` is. Source: Redis, `sdssplitargs`.
    """
    words: Request = []
    position = _skip_blanks(line, 0)
    while position < len(line):
        match = _WORD.match(line, position)
        assert match is not None, "every part of it is optional"
        bare, double, single = match.groups()
        position = match.end()
        if double is None and single is None:
            if line[position : position + 1] in (b'"', b"'"):
                return None  # a quote that is never closed
            words.append(bare)
        else:
            if position < len(line) and line[position] not in _AFTER_QUOTE:
                return None
            quoted = _ESCAPE.sub(_unescape, double) if single is None else single.replace(b"\\'", b"'")
            words.append(bare + quoted)
        position = _skip_blanks(line, position)
    return words


def _skip_blanks(line: bytes, position: int) -> int:
    match = _BLANK.match(line, position)
    assert match is not None, "it may be empty"
    return match.end()


def _unescape(match: re.Match[bytes]) -> bytes:
    digits, other = match.groups()
    if digits is not None:
        return bytes((int(digits, 16),))
    assert isinstance(other, bytes)
    return _ESCAPED.get(other, other)
