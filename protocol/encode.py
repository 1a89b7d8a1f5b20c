"""Replies to bytes: `encode2` for RESP2, `encode3` for RESP3.

What becomes what is the table in `protocol.replies`. Each protocol has one table of scalars, type
to function; aggregates (arrays, maps, sets, pushes) are walked with a stack of our own, so depth
costs no Python frames and is bounded by `NESTING_MAX`. A subclass is encoded as what it derives from.

Text in errors is UTF-8; a byte that is not travels as a surrogate escape and comes out as it was.
Line breaks in what is sent as one line become spaces, whatever the caller promised.

Source: RESP3 specification; Redis 7.2 for the spelling of doubles and of null in RESP2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, Final, TypeAlias

from protocol.replies import (
    NO_REPLY,
    NULL_ARRAY,
    Attributed,
    BigNumber,
    Encoded,
    ErrorReply,
    Push,
    Reply,
    Set,
    Simple,
    Verbatim,
)

# Deeper than any command nests; only a Lua table could be, or a list that holds itself. It is
# also the depth at which hiredis, the parser of most clients, gives up.
NESTING_MAX: Final = 1024

Encoder: TypeAlias = Callable[[Reply], bytes]
_Scalars: TypeAlias = dict[type, Callable[[Any], bytes]]
_Open: TypeAlias = Callable[[Any], tuple[bytes, Iterable[Any]]]

_SMALL: Final = 1024
# Whole doubles up to this are written as integers.
_INTEGRAL_DOUBLE_MAX: Final = float(1 << 62)
# What stands before a short bulk string, by its length.
BULK_HEADERS: Final = tuple(b"$%d\r\n" % size for size in range(_SMALL))
_INTEGERS: Final = tuple(b":%d\r\n" % number for number in range(_SMALL))


def encode2(reply: Reply) -> bytes:
    """Return `reply` in RESP2."""
    scalar = _SCALARS2.get(type(reply))
    return _encode_other(reply, _SCALARS2, _AGGREGATES2) if scalar is None else scalar(reply)


def encode3(reply: Reply) -> bytes:
    """Return `reply` in RESP3."""
    scalar = _SCALARS3.get(type(reply))
    return _encode_other(reply, _SCALARS3, _AGGREGATES3) if scalar is None else scalar(reply)


def encoder(proto: int) -> Encoder:
    """Return the encoder of protocol version 2 or 3."""
    return {2: encode2, 3: encode3}[proto]


def array_head(count: int) -> bytes:
    """Return what stands before the elements of an array: for a reply that is put together in pieces."""
    return b"*%d\r\n" % count


def _encode_other(reply: Reply, scalars: _Scalars, aggregates: dict[type, _Open]) -> bytes:
    """Encode an aggregate, depth first; or a scalar of a derived type."""
    parts: list[bytes] = []
    opened: list[Iterator[Any]] = [iter((reply,))]
    while opened:
        for item in opened[-1]:
            kind = type(item)
            if kind is bytes:  # most items are: no call and no copy for each
                size = len(item)
                parts += (BULK_HEADERS[size] if size < _SMALL else b"$%d\r\n" % size, item, b"\r\n")
                continue
            scalar = scalars.get(kind)
            if scalar is None:
                kind = _known_type(kind, scalars, aggregates)
                scalar = scalars.get(kind)
            if scalar is not None:
                parts.append(scalar(item))
                continue
            if len(opened) > NESTING_MAX:
                return _encode_error(ErrorReply(f"ERR reply is nested deeper than {NESTING_MAX} levels"))
            header, items = aggregates[kind](item)
            parts.append(header)
            opened.append(iter(items))
            break
        else:
            opened.pop()
    return b"".join(parts)


def _known_type(kind: type, scalars: _Scalars, aggregates: dict[type, _Open]) -> type:
    """Return the type by which values of `kind` are encoded: itself, or the nearest it derives from."""
    for known in kind.__mro__:
        if known in aggregates or known in scalars:
            return known
    raise TypeError(f"{kind.__name__} is not a reply")


# A line break inside of a line would be a reply of its own, put there by whoever chose the text.
_LINE_BREAKS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


def encode_bulk(value: bytes) -> bytes:
    """Return a bulk string, in either protocol."""
    # Hot: once for nearly every read. Formatting a short one would take three times as long.
    size = len(value)
    if size < _SMALL:
        return BULK_HEADERS[size] + value + b"\r\n"
    return b"$%d\r\n%b\r\n" % (size, value)


def _encode_integer(number: int) -> bytes:
    return _INTEGERS[number] if 0 <= number < _SMALL else b":%d\r\n" % number


def _encode_simple(reply: Simple) -> bytes:
    return b"+%b\r\n" % reply.text.translate(_LINE_BREAKS_TO_SPACES)


def _encode_error(reply: ErrorReply) -> bytes:
    text = reply.text.rstrip("\r\n").encode("utf-8", "surrogateescape")
    return b"-%b\r\n" % text.translate(_LINE_BREAKS_TO_SPACES)


def _encode_verbatim(reply: Verbatim) -> bytes:
    kind = reply.format[:3].ljust(3)  # always three bytes, or the text would be cut wrongly
    return b"=%d\r\n%b:%b\r\n" % (len(reply.text) + 4, kind, reply.text)


def format_double(number: float) -> bytes:
    """Return a double as Redis 7.2 writes it in replies: the fewest digits that read back as the same number.

    Source: Redis 7.2 `d2string`, fpconv. Its Grisu2 misses the fewest digits in one number of a thousand.
    """
    if math.isnan(number):
        return b"nan"  # whatever its sign
    if math.isinf(number) or number == 0:
        return b"%g" % number
    if abs(number) <= _INTEGRAL_DOUBLE_MAX and number.is_integer():
        return b"%d" % number
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    assert type(exponent) is int, "it is finite"
    return b"-"[:sign] + _laid_out("".join(map(str, digits)), exponent).encode()


def _laid_out(digits: str, exponent: int) -> str:
    """Return the number ``digits * 10**exponent``, with an exponent only if it would be long without."""
    magnitude = exponent + len(digits) - 1
    if exponent >= 0 and magnitude < len(digits) + 7:
        return digits + "0" * exponent
    if exponent < 0 and (exponent > -7 or abs(magnitude) < 4):
        digits = digits.rjust(1 - exponent, "0")
        return f"{digits[:exponent]}.{digits[exponent:]}"
    point = "." if len(digits) > 1 else ""
    return f"{digits[0]}{point}{digits[1:]}e{magnitude:+d}"


def _open_array(items: Any) -> tuple[bytes, Iterable[Any]]:
    return b"*%d\r\n" % len(items), items


def _open_flat_map(items: dict[Any, Any]) -> tuple[bytes, Iterable[Any]]:
    return b"*%d\r\n" % (2 * len(items)), chain.from_iterable(items.items())


def _open_map(items: dict[Any, Any]) -> tuple[bytes, Iterable[Any]]:
    return b"%%%d\r\n" % len(items), chain.from_iterable(items.items())


def _open_set(items: Set) -> tuple[bytes, Iterable[Any]]:
    return b"~%d\r\n" % len(items), items


def _open_push(items: Push) -> tuple[bytes, Iterable[Any]]:
    return b">%d\r\n" % len(items), items


def _open_attributed(item: Attributed) -> tuple[bytes, Iterable[Any]]:
    attributes = chain.from_iterable(item.attributes.items())
    return b"|%d\r\n" % len(item.attributes), chain(attributes, (item.reply,))


_MARKERS2: Final = {NULL_ARRAY: b"*-1\r\n", NO_REPLY: b""}
_MARKERS3: Final = {NULL_ARRAY: b"_\r\n", NO_REPLY: b""}

_SCALARS2: Final[_Scalars] = {
    bytes: encode_bulk,
    int: _encode_integer,
    type(None): lambda _: b"$-1\r\n",
    Simple: _encode_simple,
    ErrorReply: _encode_error,
    bool: lambda truth: b":1\r\n" if truth else b":0\r\n",
    float: lambda number: encode_bulk(format_double(number)),
    Verbatim: lambda reply: encode_bulk(reply.text),
    BigNumber: lambda reply: encode_bulk(reply.digits),
    Encoded: lambda reply: reply.data,
    type(NULL_ARRAY): _MARKERS2.__getitem__,
}
_SCALARS3: Final[_Scalars] = {
    **_SCALARS2,
    type(None): lambda _: b"_\r\n",
    bool: lambda truth: b"#t\r\n" if truth else b"#f\r\n",
    float: lambda number: b",%b\r\n" % format_double(number),
    Verbatim: _encode_verbatim,
    BigNumber: lambda reply: b"(%b\r\n" % reply.digits.translate(_LINE_BREAKS_TO_SPACES),
    type(NULL_ARRAY): _MARKERS3.__getitem__,
}
_AGGREGATES2: Final[dict[type, _Open]] = {
    list: _open_array,
    tuple: _open_array,
    dict: _open_flat_map,
    Set: _open_array,
    Push: _open_array,
    Attributed: lambda item: (b"", (item.reply,)),
}
_AGGREGATES3: Final[dict[type, _Open]] = {
    list: _open_array,
    tuple: _open_array,
    dict: _open_map,
    Set: _open_set,
    Push: _open_push,
    Attributed: _open_attributed,
}
