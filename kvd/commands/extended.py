"""Sums of decimal texts in x87 extended precision: what INCRBYFLOAT computes with.

Redis on x86-64 reads both numbers with `strtold`, adds them as 80-bit floating-point numbers (a mantissa
of 64 bits, exponents to 16383) and writes the sum with 17 digits behind the point, less trailing zeros.
Clients see every digit of that, so kvd computes the same on any machine: in exact integers, rounded to the
extended format where the processor would round. A number is a pair (mantissa, exponent of two).

Source: Redis 7.2 INCRBYFLOAT; IEEE 754 double-extended format; C99 `strtold` and ``%.17Lf``.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, TypeAlias

_TEXT_BYTES_MAX: Final = 5 * 1024  # Redis's own bound
_MANTISSA_BITS: Final = 64
_EXPONENT_MAX: Final = 16383
_LEAST_QUANTUM: Final = -16445  # the exponent of the smallest subnormal number
_DIGITS: Final = 17
_SCALE: Final = 10**_DIGITS

# Beyond these powers of ten every number is infinite or zero, whatever its digits.
_DECIMAL_EXPONENT_MAX: Final = 4940
_DECIMAL_EXPONENT_MIN: Final = -4980

_DECIMAL: Final = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?")
_HEXADECIMAL: Final = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)\.?([0-9a-fA-F]*)(?:[pP]([+-]?[0-9]+))?")
_INFINITE: Final = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)


Number: TypeAlias = tuple[int, int]


class Infinite(Exception):
    """A number or a sum is beyond the largest finite one."""


def add(left: bytes, right: bytes) -> bytes:
    """Return the sum of two numbers as Redis writes it.

    Raise ValueError if one of them is no number, `Infinite` if one of them or the sum is infinite.
    """
    first, second = _parse(left), _parse(right)
    if first is None or second is None:
        raise Infinite
    exponent = min(first[1], second[1])
    total = sum(mantissa << (power - exponent) for mantissa, power in (first, second))
    return _format(_rounded(total, 1, exponent))


def _parse(text: bytes) -> Number | None:
    """Return the number nearest to `text`, None if it says infinity."""
    if len(text) >= _TEXT_BYTES_MAX:
        raise ValueError("too long")
    if match := _DECIMAL.fullmatch(text):
        exact = _decimal(text, match)
    elif match := _HEXADECIMAL.fullmatch(text):
        exact = _hexadecimal(match)
    elif _INFINITE.fullmatch(text):
        return None
    else:
        raise ValueError("not a number")
    try:
        number = _rounded(*exact)
    except Infinite:
        raise ValueError("out of range") from None
    if exact[0] and not number[0]:
        raise ValueError("out of range")
    return number


def _decimal(text: bytes, match: re.Match[bytes]) -> tuple[int, int, int]:
    """Return numerator, denominator and exponent of two of a decimal text."""
    exponent_text = match[1]
    mantissa = Decimal((text if exponent_text is None else text[: match.start(1) - 1]).decode())
    if not mantissa:
        return 0, 1, 0
    exponent = _bounded_exponent(exponent_text)
    if not _DECIMAL_EXPONENT_MIN <= mantissa.adjusted() + exponent <= _DECIMAL_EXPONENT_MAX:
        raise ValueError("out of range")
    numerator, denominator = mantissa.as_integer_ratio()
    power = 10 ** abs(exponent)
    return (numerator * power, denominator, 0) if exponent >= 0 else (numerator, denominator * power, 0)


def _hexadecimal(match: re.Match[bytes]) -> tuple[int, int, int]:
    """Return numerator, denominator and exponent of two of a hexadecimal text."""
    sign, whole, part, exponent_text = match.groups()
    if not whole + part:
        raise ValueError("not a number")
    mantissa = int(whole + part, 16)
    if not mantissa:
        return 0, 1, 0
    exponent = _bounded_exponent(exponent_text) - 4 * len(part)
    if abs(mantissa.bit_length() + exponent) > 2 * _EXPONENT_MAX:
        raise ValueError("out of range")
    return (-mantissa if sign == b"-" else mantissa), 1, exponent


def _bounded_exponent(text: bytes | None) -> int:
    """Return the exponent, or one that is out of every range where the digits are absurdly many."""
    if text is None:
        return 0
    digits = text.lstrip(b"+-").lstrip(b"0")
    size = int(digits or b"0") if len(digits) < 10 else 10**9
    return -size if text.startswith(b"-") else size


def _rounded(numerator: int, denominator: int, exponent: int) -> Number:
    """Return the number nearest to numerator / denominator * 2**exponent, the even one of two.

    Raise `Infinite` beyond the largest finite number.
    """
    if not numerator:
        return 0, 0
    # The quotient of two numbers that differ by n bits has n or n + 1 bits.
    bits = abs(numerator).bit_length() - denominator.bit_length()
    if abs(numerator) << max(-bits, 0) >= denominator << max(bits, 0):
        bits += 1
    power = max(bits + exponent - _MANTISSA_BITS, _LEAST_QUANTUM)
    shift = power - exponent
    mantissa = _divided(numerator << max(-shift, 0), denominator << max(shift, 0))
    if abs(mantissa).bit_length() + power > _EXPONENT_MAX + 1:
        raise Infinite
    return mantissa, power


def _divided(numerator: int, denominator: int) -> int:
    """Return the nearest integer to a quotient, the even one of two."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient


def _format(number: Number) -> bytes:
    """Return the digits of ``%.17Lf`` without trailing zeros."""
    mantissa, exponent = number
    size = abs(mantissa) * _SCALE
    scaled = size << exponent if exponent >= 0 else _divided(size, 1 << -exponent)
    # Decimal writes integers of any length; int refuses beyond 4,300 digits.
    digits = str(Decimal(scaled)).zfill(_DIGITS + 1)
    text = f"{digits[:-_DIGITS]}.{digits[-_DIGITS:]}".rstrip("0").rstrip(".")
    return (f"-{text}" if mantissa < 0 and text != "0" else text).encode()
