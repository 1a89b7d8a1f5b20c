"""Requests whose arguments hold no line break, read by splitting at line breaks.

    *2 CRLF $3 CRLF GET CRLF $3 CRLF key CRLF   ->   [*2, $3, GET, $3, key, nothing]

Splitting is one pass in C. What it yields is checked line by line to be a request in its only
canonical spelling: as many arguments as announced, each as long as announced. Whatever passes is
exactly what `protocol.multibulk` would read from the same bytes; whatever does not pass is left to
it. There is nothing to guard against: an announced length is compared, never believed.

The limits on requests do not come up here: see `ARGUMENTS_MAX`, and `protocol.requests` for sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protocol.multibulk import Request

# More arguments than this are left to the exact reader; every limit on their number is higher,
# but for that before authentication.
ARGUMENTS_MAX: Final = 999


class _SizeLines(dict[int, bytes]):
    """The line that announces an argument's size, by the size: the small ones ready-made."""

    __slots__ = ()

    def __missing__(self, size: int) -> bytes:
        return b"$%d" % size


_SIZE_LINES: Final = _SizeLines((size, b"$%d" % size) for size in range(1024))
# Longer keys are left to `read_one`: rare, and the table is to stay small.
_GET_KEY_BYTES_MAX: Final = 128
_size_line: Final = _SIZE_LINES.__getitem__
_LINE_COUNTS: Final = {b"*%d" % count: 1 + 2 * count for count in range(1, ARGUMENTS_MAX + 1)}


def _gets() -> Iterator[tuple[int, tuple[bytes, bytes], int]]:
    """Yield the entries of `GETS`."""
    for key_bytes in range(_GET_KEY_BYTES_MAX + 1):
        heads = (b"*2\r\n$3\r\nGET\r\n$%d\r\n" % key_bytes, b"*2\r\n$3\r\nget\r\n$%d\r\n" % key_bytes)
        start = len(heads[0])
        yield start + key_bytes + 2, heads, start


# What a request is compared with to see whether it is one GET of a key that is not long, in a spelling that clients
# use: by its size, which tells that of the key, all that may stand before the key, and where the key begins. The last
# two bytes have to be a line break.
GETS: Final = {size: (heads, start) for size, heads, start in _gets()}


def read_one(data: bytes) -> Request | None:
    """Return the request that `data` is, if it is a short one of two or three arguments.

    That is what one command without pipelining looks like, so this is unrolled: it costs half of
    `read_lines` (tests/bench/bench_protocol.py).
    """
    lines = data.split(b"\r\n")
    if len(lines) == 6:
        count, size_0, argument_0, size_1, argument_1, rest = lines
        if (
            count == b"*2"
            and size_0 == _SIZE_LINES[len(argument_0)]
            and size_1 == _SIZE_LINES[len(argument_1)]
            and not rest
        ):
            return [argument_0, argument_1]
    elif len(lines) == 8:
        count, size_0, argument_0, size_1, argument_1, size_2, argument_2, rest = lines
        if (
            count == b"*3"
            and size_0 == _SIZE_LINES[len(argument_0)]
            and size_1 == _SIZE_LINES[len(argument_1)]
            and size_2 == _SIZE_LINES[len(argument_2)]
            and not rest
        ):
            return [argument_0, argument_1, argument_2]
    return None


def read_lines(data: bytes) -> tuple[list[Request], int]:
    """Return the requests at the start of `data`, up to the first that is odd or not complete.

    The second value is how many bytes they took.
    """
    lines = data.split(b"\r\n")
    last = len(lines) - 1  # what follows the last line break is no line
    if not lines[last]:
        alike = _read_alike(lines)
        if alike is not None:
            return alike, len(data)
    requests: list[Request] = []
    start = 0
    while start < last:
        end = start + _LINE_COUNTS.get(lines[start], last + 1)
        if end > last:
            break
        arguments = lines[start + 2 : end : 2]
        for size_line, argument in zip(lines[start + 1 : end : 2], arguments, strict=True):
            if size_line != _SIZE_LINES[len(argument)]:
                break
        else:
            requests.append(arguments)
            start = end
            continue
        break
    if start == last and not lines[last]:
        return requests, len(data)
    return requests, sum(map(len, lines[:start])) + 2 * start


def _read_alike(lines: list[bytes]) -> list[Request] | None:
    """Return the requests that all of `lines` but the last, which is empty, are, if they have equally many arguments.

    None if they have not, or are too few for this to be faster than one after another: it goes by columns.
    """
    width = _LINE_COUNTS.get(lines[0])
    if width is None:
        return None
    count, rest = divmod(len(lines) - 1, width)
    if rest or count < width or lines[:-1:width].count(lines[0]) != count:
        return None
    columns = []
    for index in range(1, width, 2):
        column = lines[index + 1 :: width]
        if lines[index::width] != list(map(_size_line, map(len, column))):
            return None
        columns.append(column)
    return list(map(list, zip(*columns, strict=True)))
