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
from attrs.validators import ge

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

# Below these no limit can be set: the fast readers of `protocol.requests` rely on it.
BULK_BYTES_MAX_MIN: Final = 64 * 1024
ARGUMENT_COUNT_MAX_MIN: Final = 1024

# The length of an inline command, and of a length's digits.
LINE_BYTES_MAX: Final = 64 * 1024

# Before authentication: enough for AUTH and HELLO.
UNAUTHENTICATED_ARGUMENT_COUNT_MAX: Final = 10
UNAUTHENTICATED_BULK_BYTES_MAX: Final = 16384

_STAR: Final = ord("*")

# Lengths that nearly all requests have, within every limit: looked up, not parsed.
_COMMON_COUNTS: Final = {b"*%d" % count: count for count in range(1, 10)}
_COMMON_COUNT_BYTES: Final = len(b"*9\r")
_COMMON_SIZES: Final = {b"$%d" % size: size for size in range(1000)}
_COMMON_SIZE_BYTES: Final = len(b"$999\r")

# From this size on an argument is copied out of a bytearray through a view: one copy, not two.
_VIEW_BYTES_MIN: Final = 64 * 1024


@attrs.define
class Limits:
    """What a request may be; changes take effect with the next length that is read."""

    # The setting proto-max-bulk-len.
    bulk_bytes_max: int = attrs.field(default=512 * 1024 * 1024, validator=ge(BULK_BYTES_MAX_MIN))
    # Redis allowed this many until 7.0, and 2**31 - 1 since; no client needs more.
    argument_count_max: int = attrs.field(default=1024 * 1024, validator=ge(ARGUMENT_COUNT_MAX_MIN))


class MultibulkReader:
    """Reads requests out of a stream: `feed` it bytes, then call `next` until it returns None.

    After a `ProtocolError` the reader has not moved: calling `next` again raises it again, except
    that an `UnauthenticatedLimitError` is gone once `authenticated` is set.
    """

    __slots__ = (
        "_arguments",
        "_begin",
        "_buffer",
        "_count",
        "_position",
        "_searched",
        "_size",
        "authenticated",
        "limits",
    )

    def __init__(self, limits: Limits, *, authenticated: bool) -> None:
        self.limits = limits
        self.authenticated = authenticated
        self._buffer: bytes | bytearray = b""
        # Indexes into the buffer, which move when its front is dropped:
        self._position = 0  # of the next unread byte
        self._searched = 0  # up to where a line's end has been looked for in vain
        self._begin = 0  # of the request being read; below zero if that part was dropped
        # The request being read:
        self._count = 0  # of its arguments; 0: none is being read
        self._arguments: Request = []  # those that are complete
        self._size = -1  # of the next one; -1: its length line comes first

    @property
    def pending_bytes(self) -> int:
        """Bytes received that belong to no request returned so far."""
        return len(self._buffer) - self._begin

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if not self._buffer:
            self._buffer = data  # the usual case: nothing is copied
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def take_rest(self) -> bytes:
        """Return, and forget, what follows the last request; only if none is being read."""
        assert not self._count, "inside a request"
        rest = bytes(self._buffer[self._position :])
        self._buffer = b""
        self._position = self._searched = self._begin = 0
        return rest

    def next(self) -> Request | None:
        """Return the next request, or None if it is not complete yet.

        Raises `ProtocolError`.
        """
        request = self._next_multibulk() if self._count else self._start()
        if request is not None:
            self._begin = self._position
        else:
            self._drop_front()  # an idle client does not hold what was read
        return request

    def _drop_front(self) -> None:
        if self._position:
            self._buffer = self._buffer[self._position :]
            self._searched -= self._position
            self._begin -= self._position
            self._position = 0

    def _start(self) -> Request | None:
        """Read from the start of a request on, past all that is skipped."""
        while self._position < len(self._buffer):
            self._begin = self._position
            if self._buffer[self._position] == _STAR:
                if not self._read_count():
                    return None
                if self._count:
                    return self._next_multibulk()
            else:
                words = self._next_inline()
                if words is None or words:
                    return words
        self._begin = self._position
        return None

    def _read_count(self) -> bool:
        """Read ``*count``; False if the line is not complete. A count of 0 or less is skipped."""
        start = self._position
        end = self._buffer.find(b"\r", start, start + _COMMON_COUNT_BYTES)
        count = _COMMON_COUNTS.get(bytes(self._buffer[start:end]), 0) if end >= 0 else 0
        if not count or end + 1 == len(self._buffer):
            end = self._find_line_end(b"\r", COUNT_LINE_TOO_BIG)
            if end < 0:
                return False
            count = self._parse_count(bytes(self._buffer[start + 1 : end]))
        self._count = count
        self._position = end + 2
        return True

    def _parse_count(self, digits: bytes) -> int:
        count = _parse_length(digits)
        if count is None or count > self.limits.argument_count_max:
            raise ProtocolError(INVALID_COUNT)
        if not self.authenticated and count > UNAUTHENTICATED_ARGUMENT_COUNT_MAX:
            raise UnauthenticatedLimitError(UNAUTHENTICATED_COUNT)
        return max(0, count)

    def _next_multibulk(self) -> Request | None:
        """Go on with the arguments; return them all when the last one is there.

        Every odd length goes through `_read_size`; what stands here is its short way, which most
        lengths go, with everything in local variables: half the time.
        """
        buffer = self._buffer
        received = len(buffer)
        arguments = self._arguments
        position = self._position
        size = self._size
        while len(arguments) < self._count:
            if size < 0:
                end = buffer.find(b"\r", position, position + _COMMON_SIZE_BYTES)
                size = _COMMON_SIZES.get(bytes(buffer[position:end]), -1) if 0 <= end < received - 1 else -1
                if size >= 0:
                    position = end + 2
                else:
                    self._position = position
                    if not self._read_size():
                        return None
                    position = self._position
                    size = self._size
            end = position + size
            if end + 2 > received:
                self._position = position
                self._size = size
                return None
            arguments.append(
                _copy(buffer, position, end) if isinstance(buffer, bytearray) else buffer[position:end]
            )
            position = end + 2
            size = self._size = -1
        self._position = position
        self._count = 0
        self._arguments = []
        return arguments

    def _read_size(self) -> bool:
        """Read ``$size``; False if the line is not complete."""
        start = self._position
        end = self._find_line_end(b"\r", SIZE_LINE_TOO_BIG)
        if end < 0:
            return False
        self._size = self._parse_size(bytes(self._buffer[start:end]))
        self._position = end + 2
        return True

    def _parse_size(self, line: bytes) -> int:
        if not line.startswith(b"$"):
            raise expected_bulk(self._buffer[self._position])
        size = _parse_length(line[1:])
        if size is None or not 0 <= size <= self.limits.bulk_bytes_max:
            raise ProtocolError(INVALID_SIZE)
        if not self.authenticated and size > UNAUTHENTICATED_BULK_BYTES_MAX:
            raise UnauthenticatedLimitError(UNAUTHENTICATED_SIZE)
        return size

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
        start = self._position
        received = len(self._buffer)
        end = self._buffer.find(terminator, max(start, self._searched))
        if (received if end < 0 else end) - start > LINE_BYTES_MAX:
            raise ProtocolError(too_big)
        if end < 0:
            self._searched = received
        elif terminator == b"\r" and end + 1 == received:
            self._searched = end
            return -1
        return end


def _copy(buffer: bytearray, start: int, end: int) -> bytes:
    if end - start < _VIEW_BYTES_MIN:
        return bytes(buffer[start:end])
    with memoryview(buffer) as view:
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
