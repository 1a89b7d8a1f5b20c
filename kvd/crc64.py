"""CRC-64/Jones, the checksum at the end of RDB files and DUMP payloads.

The polynomial is 0xad93d23594c935a9, bits are taken from the least significant one on, nothing is inverted;
the check value of ``123456789`` is 0xe9c6d914c4b8d9ca. Bit i of the message, read as one little-endian
integer of n bits, is the coefficient of x**(n - 1 - i).

A loop over the bytes costs 100 ns for each, which is too much for values of megabytes. So long messages
are folded first: if H are the bits of the front and t is the number of bits behind it, then H * x**t may be
replaced by H * (x**t mod P), which is only as long as H and 63 bits more. The product of a long and a 64-bit
polynomial is a handful of shifts and exclusive-ors of one long integer. Each fold halves the message, and
leading zeros do not change a checksum that starts with 0. About 20 ns a byte.

Source: Redis 7.2 `crc64.c` for the parameters; the folding is the usual one for carry-less multiplication.
"""

from __future__ import annotations

from functools import cache
from typing import Final

_REFLECTED: Final = 0x95AC9329AC4BC9B5
_WIDTH: Final = 64
# Below this the loop over the bytes is as fast.
_FOLD_BITS_MIN: Final = 256 * 8


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ _REFLECTED if value & 1 else value >> 1
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _table()


def crc64(data: bytes) -> int:
    """Return the checksum of `data`."""
    bits = len(data) * 8
    if bits < _FOLD_BITS_MIN:
        return _checksum(data)
    message = int.from_bytes(data, "little")
    while bits >= _FOLD_BITS_MIN:
        message, bits = _folded(message, bits)
    # Whole bytes again, by zero bits in front of the message.
    padding = -bits % 8
    return _checksum((message << padding).to_bytes((bits + padding) // 8, "little"))


def _checksum(data: bytes) -> int:
    checksum = 0
    table = _TABLE
    for byte in data:
        checksum = table[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    return checksum


def _folded(message: int, bits: int) -> tuple[int, int]:
    """Return a message of about half as many bits with the same checksum, and their number."""
    tail_bits = 1 << (bits - 1).bit_length() - 1
    head_bits = bits - tail_bits
    head = message & (1 << head_bits) - 1
    tail = message >> head_bits
    product = _carryless(head, _power(tail_bits))
    product_bits = head_bits + _WIDTH - 1
    length = max(product_bits, tail_bits)
    return product << length - product_bits ^ tail << length - tail_bits, length


def _carryless(polynomial: int, factor: int) -> int:
    product = 0
    for place in range(factor.bit_length()):
        if factor >> place & 1:
            product ^= polynomial << place
    return product


@cache
def _power(exponent: int) -> int:
    """Return x**exponent mod P with x**63 in bit 0, for an exponent that is a power of two, 64 or more."""
    if exponent == _WIDTH:
        return _checksum_of_one()
    root = _power(exponent // 2)
    square = _carryless(root, root)
    # The square has 127 bits; its checksum as a message would be it times x**64.
    return _reduced(square)


def _checksum_of_one() -> int:
    """Return x**64 mod P: the checksum of the message 1, whose only bit is the last of its byte."""
    return _checksum(b"\x80")


def _reduced(polynomial: int) -> int:
    """Return a polynomial of 127 bits mod P. Bit i is the coefficient of x**(126 - i)."""
    low = polynomial >> _WIDTH - 1  # the 64 coefficients below x**64
    high = polynomial & (1 << _WIDTH - 1) - 1
    # What stands at x**64 and above, divided by x**64, is a message whose checksum is what it leaves.
    return low ^ _checksum((high << 1).to_bytes(8, "little"))
