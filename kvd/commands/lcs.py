"""LCS: the longest common subsequence of two strings.

The table of the textbook algorithm has a number for each pair of positions. Neighbours in a row differ by
0 or 1, so a row is kept as the bits of one integer, and the next row comes out of one addition over the
whole row: rows cost len(b) / 64 steps of the processor instead of len(b).

    bit j of row i is 0  <=>  LCS(a[:i], b[:j+1]) = LCS(a[:i], b[:j]) + 1

Walking back from the end, Redis goes up in the table where that cell is greater than the one to the left,
which is exactly where the row's bit is 0. So the rows alone give the very subsequence that Redis gives.

Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited"; Redis 7.2 LCS for ties and ranges.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import attrs

from kvd.commands.arguments import SYNTAX_ERROR, WRONG_TYPE, parse_integer
from kvd.commands.lookup import read_string
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command
from protocol.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from storage.store import Keyspace

# What all rows may take together. Two strings of 22,000 bytes fit, which takes a quarter of a second.
_ROWS_BYTES_MAX: Final = 64 << 20
_ROW_OVERHEAD_BYTES: Final = 40
# Finding a byte's places in b costs as much as this many rows.
_ROWS_PER_PLACES: Final = 8
_TOO_LARGE: Final = "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"


@attrs.define
class _Options:
    wants_length: bool = False
    wants_ranges: bool = False
    range_length_min: int = 0
    with_range_lengths: bool = False


@attrs.frozen
class _Range:
    """A run that both strings have in common: first and last index in each."""

    a_first: int
    a_last: int
    b_first: int
    b_last: int

    @property
    def length(self) -> int:
        return self.a_last - self.a_first + 1


@data_command(
    "LCS",
    arity=-3,
    flags=Flag.READONLY,
    keys=(KeyRange(1, 2),),
    group="string",
    since="7.0.0",
    complexity="O(N*M) where N and M are the lengths of s1 and s2, respectively",
    summary="Find the longest common subsequence of two strings.",
    arguments=(
        Arg("key1", "key"),
        Arg("key2", "key"),
        Arg("len", "pure-token", token="LEN", optional=True),
        Arg("idx", "pure-token", token="IDX", optional=True),
        Arg("min-match-len", "integer", token="MINMATCHLEN", optional=True),
        Arg("withmatchlen", "pure-token", token="WITHMATCHLEN", optional=True),
    ),
)
def lcs(keyspace: Keyspace, request: Request) -> Reply:
    a, b = (_operand(keyspace, key) for key in request[1:3])
    options = _parse_options(request)
    row_count = len(a) + 1 + _ROWS_PER_PLACES * len(set(a))
    if row_count * (len(b) // 8 + _ROW_OVERHEAD_BYTES) > _ROWS_BYTES_MAX:
        raise ErrorReply(_TOO_LARGE)
    rows = _rows(a, b)
    length = len(b) - rows[-1].bit_count()
    if options.wants_length:
        return length
    pairs = list(_walk_back(a, b, rows))
    if options.wants_ranges:
        return {
            b"matches": [_range_reply(found, options) for found in _ranges(pairs, options)],
            b"len": length,
        }
    return bytes(a[index] for index, _ in reversed(pairs))


def _operand(keyspace: Keyspace, key: bytes) -> bytes:
    try:
        return read_string(keyspace, key) or b""
    except ErrorReply as error:
        if error.text != WRONG_TYPE:
            raise
        raise ErrorReply("ERR The specified keys must contain string values") from None


def _parse_options(request: Request) -> _Options:
    options = _Options()
    index = 3
    while index < len(request):
        word = request[index].upper()
        if word == b"LEN":
            options.wants_length = True
        elif word == b"IDX":
            options.wants_ranges = True
        elif word == b"WITHMATCHLEN":
            options.with_range_lengths = True
        elif word == b"MINMATCHLEN" and index + 1 < len(request):
            index += 1
            options.range_length_min = max(parse_integer(request[index]), 0)
        else:
            raise ErrorReply(SYNTAX_ERROR)
        index += 1
    if options.wants_length and options.wants_ranges:
        raise ErrorReply("ERR If you want both the length and indexes, please just use IDX.")
    return options


def _rows(a: bytes, b: bytes) -> list[int]:
    """Return the rows of the table for a[:0], a[:1] ... a, each as the bits described above."""
    full = (1 << len(b)) - 1
    places = {byte: _places(b, byte) for byte in set(a)}
    row = full
    rows = [row]
    for byte in a:
        matching = row & places[byte]
        row = (row + matching | row - matching) & full
        rows.append(row)
    return rows


def _places(text: bytes, byte: int) -> int:
    """Return an integer whose bit j is set where text[j] is `byte`."""
    digits = bytes(0x31 if other == byte else 0x30 for other in range(256))
    return int(text[::-1].translate(digits) or b"0", 2)


def _walk_back(a: bytes, b: bytes, rows: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of positions that the subsequence consists of, last pair first."""
    i, j = len(a), len(b)
    size = (len(b) + 7) // 8
    row = rows[i].to_bytes(size, "little")  # looking at a bit of a long integer would cost its length
    while i and j:
        if a[i - 1] == b[j - 1]:
            i -= 1
            j -= 1
            row = rows[i].to_bytes(size, "little")
            yield i, j
        elif row[j - 1 >> 3] >> (j - 1 & 7) & 1:
            j -= 1
        else:
            i -= 1
            row = rows[i].to_bytes(size, "little")


def _ranges(pairs: list[tuple[int, int]], options: _Options) -> Iterator[_Range]:
    """Join neighbouring pairs into ranges, last range first, and drop those that are too short."""
    start = 0
    for index in range(1, len(pairs) + 1):
        a_index, b_index = pairs[index - 1]
        if index < len(pairs) and pairs[index] == (a_index - 1, b_index - 1):
            continue
        found = _Range(a_index, pairs[start][0], b_index, pairs[start][1])
        start = index
        if found.length >= options.range_length_min:
            yield found


def _range_reply(found: _Range, options: _Options) -> Reply:
    reply: list[Reply] = [[found.a_first, found.a_last], [found.b_first, found.b_last]]
    if options.with_range_lengths:
        reply.append(found.length)
    return reply


COMMANDS = (lcs,)
