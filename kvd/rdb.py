"""One value in Redis's RDB form, as DUMP gives it and RESTORE takes it.

    payload   = type (1 byte) ‖ value ‖ RDB version (2 bytes, little-endian) ‖ CRC-64 of all before it (8)
    string    = length ‖ bytes  |  integer  |  LZF-compressed bytes

The first byte of a string tells which by its two upper bits:

    00      length in the lower 6 bits          10 (0x80)  length in 4 bytes, big-endian
    01      length in 14 bits, big-endian       10 (0x81)  length in 8 bytes, big-endian
    11      0xC0, 0xC1, 0xC2: an integer of 1, 2 or 4 bytes, little-endian; 0xC3: LZF, whose form is
            compressed length ‖ length ‖ compressed bytes

Written are integers where they fit and plain strings otherwise; compression is optional in the format, and
only read. All other types are refused by name: kvd holds only strings so far. Lengths are those of an
untrusted sender: nothing is allocated before it is known to fit what is there and the limit given.

The version written is that of Redis 5: a server takes what is no newer than itself, and the form of strings is older
still. Source: Redis 7.2, behaviour of DUMP and RESTORE; RDB format versions up to 12 (of Redis 7.4) are read.
"""

from __future__ import annotations

from typing import Final

from kvd.commands.arguments import is_integer
from kvd.crc64 import crc64

VERSION: Final = 9
VERSION_MAX: Final = 12

_FOOTER_BYTES: Final = 10
_STRING_TYPE: Final = 0
_INTEGER_FORMS: Final = ((0xC0, 1), (0xC1, 2), (0xC2, 4))
_LZF: Final = 0xC3
# Redis looks for an integer in strings up to this long.
_INTEGER_TEXT_BYTES_MAX: Final = 11

_TYPE_NAMES: Final = {
    **dict.fromkeys((1, 10, 14, 18), "list"),
    **dict.fromkeys((2, 11, 20), "set"),
    **dict.fromkeys((3, 5, 12, 17), "sorted set"),
    **dict.fromkeys((4, 9, 13, 16), "hash"),
    **dict.fromkeys((6, 7), "module value"),
    **dict.fromkeys((15, 19, 21), "stream"),
}


class BadFooter(Exception):
    """The payload is of a later version, or its checksum is wrong."""


class BadPayload(Exception):
    """The payload is whole, but not the form of a value."""


class UnsupportedType(Exception):
    """The payload holds a value of a type that kvd does not have; the message names it."""


def dump_string(value: bytes) -> bytes:
    """Return the payload that DUMP gives for a string."""
    body = bytes((_STRING_TYPE,)) + _encoded(value) + VERSION.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


def load_string(payload: bytes, length_max: int) -> bytes:
    """Return the string in a payload. Raise `BadFooter`, `BadPayload` or `UnsupportedType`.

    A string longer than `length_max` is a `BadPayload`.
    """
    _check_footer(payload)
    body = memoryview(payload)[:-_FOOTER_BYTES]
    if not body:
        raise BadPayload("no value")
    if body[0] != _STRING_TYPE:
        if body[0] not in _TYPE_NAMES:
            raise BadPayload("unknown type")
        raise UnsupportedType(_TYPE_NAMES[body[0]])
    reader = _Reader(body[1:])
    value = reader.string(length_max)
    if reader.left:
        raise BadPayload("bytes after the value")
    return value


def _check_footer(payload: bytes) -> None:
    if len(payload) < _FOOTER_BYTES:
        raise BadFooter
    version = int.from_bytes(payload[-10:-8], "little")
    if version > VERSION_MAX or int.from_bytes(payload[-8:], "little") != crc64(payload[:-8]):
        raise BadFooter


def _encoded(value: bytes) -> bytes:
    if len(value) <= _INTEGER_TEXT_BYTES_MAX and is_integer(value):
        number = int(value)
        for form, size in _INTEGER_FORMS:
            if -(1 << 8 * size - 1) <= number < 1 << 8 * size - 1:
                return bytes((form,)) + number.to_bytes(size, "little", signed=True)
    return _length(len(value)) + value


def _length(length: int) -> bytes:
    if length < 1 << 6:
        return bytes((length,))
    if length < 1 << 14:
        return (length | 1 << 14).to_bytes(2, "big")
    if length < 1 << 32:
        return b"\x80" + length.to_bytes(4, "big")
    return b"\x81" + length.to_bytes(8, "big")


class _Reader:
    """Reads one string from untrusted bytes."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def string(self, length_max: int) -> bytes:
        first = self._take(1)[0]
        for form, size in _INTEGER_FORMS:
            if first == form:
                return b"%d" % int.from_bytes(self._take(size), "little", signed=True)
        if first == _LZF:
            compressed_length = self._length(self._take(1)[0])
            length = self._length(self._take(1)[0])
            if length > length_max:
                raise BadPayload("string too long")
            return _decompressed(bytes(self._take(compressed_length)), length)
        length = self._length(first)
        if length > length_max:
            raise BadPayload("string too long")
        return bytes(self._take(length))

    def _take(self, count: int) -> memoryview:
        if count > self.left:
            raise BadPayload("cut off")
        self._at += count
        return self._body[self._at - count : self._at]

    def _length(self, first: int) -> int:
        form = first >> 6
        if form == 0:
            return first
        if form == 1:
            return (first & 0x3F) << 8 | self._take(1)[0]
        if first in {0x80, 0x81}:
            return int.from_bytes(self._take(4 if first == 0x80 else 8), "big")
        raise BadPayload("bad length")


def _decompressed(compressed: bytes, length: int) -> bytes:
    """Return the `length` bytes that LZF `compressed` stands for. Raise `BadPayload`.

    A control byte below 32 says how many literal bytes follow, less one; any other is a copy of earlier
    output: its upper 3 bits and, if those are 7, the next byte are the length less 2, the lower 5 bits and
    the next byte the distance less 1. A copy may overlap what it writes.
    """
    output = bytearray()
    at = 0
    try:
        while at < len(compressed):
            control = compressed[at]
            at += 1
            if control < 32:
                count = control + 1
                literal = compressed[at : at + count]
                at += count
            else:
                count = (control >> 5) + 2
                if count == 9:
                    count += compressed[at]
                    at += 1
                distance = ((control & 0x1F) << 8 | compressed[at]) + 1
                at += 1
                literal = _repeated(output, distance, count)
            output += literal
            if len(literal) < count or len(output) > length:
                raise BadPayload("bad compression")
    except IndexError:
        raise BadPayload("bad compression") from None
    if len(output) != length:
        raise BadPayload("bad compression")
    return bytes(output)


def _repeated(output: bytearray, distance: int, count: int) -> bytes:
    """Return the `count` bytes that stand `distance` before the end, going on into what they make."""
    if distance > len(output):
        raise BadPayload("bad compression")
    start = len(output) - distance
    period = bytes(output[start : start + count])
    return (period * (count // len(period) + 1))[:count]
