"""Strings as arrays of bits: SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP.

Bit 0 is the most significant bit of the first byte. Beyond its end a string reads as zero bits.
"""

from __future__ import annotations

from functools import reduce
from operator import and_, or_, xor
from typing import TYPE_CHECKING, Final

from kvd import notify
from kvd.commands.arguments import SYNTAX_ERROR, parse_integer
from kvd.commands.lookup import (
    announce,
    check_length,
    check_total,
    delete,
    peek_string,
    read_string,
    update_string,
)
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command
from protocol.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from storage.store import Keyspace

BAD_OFFSET: Final = "ERR bit offset is not an integer or out of range"

# Redis's bound on bit offsets: the last bit of a string of 512 MiB.
_OFFSET_MAX: Final = (512 << 23) - 1
_INVERTED: Final = bytes(255 - byte for byte in range(256))
_OPERATIONS: Final = {b"AND": and_, b"OR": or_, b"XOR": xor}

_KEY = Arg("key", "key")
_UNIT = Arg(
    "unit",
    "oneof",
    optional=True,
    since="7.0.0",
    arguments=(Arg("byte", "pure-token", token="BYTE"), Arg("bit", "pure-token", token="BIT")),
)
_UNIT_HISTORY = (("7.0.0", "The option `BYTE|BIT`."),)


def check_bit_offset(offset: int) -> int:
    """Return `offset`. Raise `ErrorReply` unless it is a bit of a string that could be."""
    if not 0 <= offset <= _OFFSET_MAX:
        raise ErrorReply(BAD_OFFSET)
    return offset


@data_command(
    "SETBIT",
    arity=4,
    flags=Flag.WRITE | Flag.DENYOOM,
    keys=(KeyRange(1, access=("RW", "access", "update")),),
    group="bitmap",
    since="2.2.0",
    complexity="O(N) where N is the length of the string: values are stored whole.",
    summary="Set or clear one bit of a string, making it longer if need be, and return what the bit was.",
    arguments=(_KEY, Arg("offset", "integer"), Arg("value", "integer")),
)
def setbit(keyspace: Keyspace, request: Request) -> Reply:
    key = request[1]
    offset = check_bit_offset(parse_integer(request[2], BAD_OFFSET))
    bit = parse_integer(request[3], "ERR bit is not an integer or out of range")
    if bit not in {0, 1}:
        raise ErrorReply("ERR bit is not an integer or out of range")
    held = peek_string(keyspace, key)
    position, mask = offset >> 3, 0x80 >> (offset & 7)
    check_length(keyspace, position + 1)
    value = (held or b"").ljust(position + 1, b"\0")
    byte = value[position]
    was = int(byte & mask != 0)
    if was != bit:
        value = value[:position] + bytes((byte ^ mask,)) + value[position + 1 :]
    if value != held:
        update_string(keyspace, key, value, b"setbit", is_new=held is None)
    return was


@data_command(
    "GETBIT",
    arity=3,
    flags=Flag.READONLY | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1),),
    group="bitmap",
    since="2.2.0",
    complexity="O(1)",
    summary="Return one bit of a string.",
    arguments=(_KEY, Arg("offset", "integer")),
)
def getbit(keyspace: Keyspace, request: Request) -> Reply:
    offset = check_bit_offset(parse_integer(request[2], BAD_OFFSET))
    byte = (read_string(keyspace, request[1]) or b"")[offset >> 3 : (offset >> 3) + 1]
    return int(bool(byte) and byte[0] & 0x80 >> (offset & 7) != 0)


class _BitRange:
    """The bits that BITCOUNT and BITPOS look at, as their arguments say."""

    __slots__ = ("end", "is_bits", "start")

    def __init__(self, start: int, end: int | None, *, is_bits: bool) -> None:
        self.start = start
        self.end = end
        self.is_bits = is_bits

    def bounds(self, length: int) -> tuple[int, int]:
        """Return the first bit and the one behind the last, for a string of `length` bytes.

        The first is not less than the other if there are none.
        """
        total = length * 8 if self.is_bits else length
        start, end = self.start, total - 1 if self.end is None else self.end
        start = max(start + total, 0) if start < 0 else start
        end = max(end + total, 0) if end < 0 else end
        end = min(end, total - 1) + 1
        return (start, end) if self.is_bits else (start * 8, end * 8)


def _is_bit_unit(word: bytes) -> bool:
    unit = word.upper()
    if unit not in {b"BIT", b"BYTE"}:
        raise ErrorReply(SYNTAX_ERROR)
    return unit == b"BIT"


@data_command(
    "BITCOUNT",
    arity=-2,
    flags=Flag.READONLY,
    keys=(KeyRange(1),),
    group="bitmap",
    since="2.6.0",
    complexity="O(N)",
    summary="Count the bits that are set in a string or a part of it.",
    arguments=(
        _KEY,
        Arg(
            "range",
            "block",
            optional=True,
            arguments=(Arg("start", "integer"), Arg("end", "integer"), _UNIT),
        ),
    ),
    history=_UNIT_HISTORY,
)
def bitcount(keyspace: Keyspace, request: Request) -> Reply:
    wanted = _bitcount_range(request)
    value = read_string(keyspace, request[1]) or b""
    if wanted.end is not None and wanted.end < wanted.start < 0:
        return 0
    first, behind = wanted.bounds(len(value))
    if first >= behind:
        return 0
    part = int.from_bytes(value[first >> 3 : (behind + 7) >> 3], "big")
    part >>= -behind % 8
    return (part & (1 << (behind - first)) - 1).bit_count()


def _bitcount_range(request: Request) -> _BitRange:
    if len(request) == 2:
        return _BitRange(0, None, is_bits=False)
    if len(request) not in {4, 5}:
        raise ErrorReply(SYNTAX_ERROR)
    start, end = parse_integer(request[2]), parse_integer(request[3])
    return _BitRange(start, end, is_bits=len(request) == 5 and _is_bit_unit(request[4]))


@data_command(
    "BITPOS",
    arity=-3,
    flags=Flag.READONLY,
    keys=(KeyRange(1),),
    group="bitmap",
    since="2.8.7",
    complexity="O(N)",
    summary="Find the first set or clear bit of a string or a part of it.",
    arguments=(
        _KEY,
        Arg("bit", "integer"),
        Arg(
            "range",
            "block",
            optional=True,
            arguments=(
                Arg("start", "integer"),
                Arg("end-unit-block", "block", optional=True, arguments=(Arg("end", "integer"), _UNIT)),
            ),
        ),
    ),
    history=_UNIT_HISTORY,
)
def bitpos(keyspace: Keyspace, request: Request) -> Reply:
    bit = parse_integer(request[2])
    if bit not in {0, 1}:
        raise ErrorReply("ERR The bit argument must be 1 or 0.")
    wanted = _bitpos_range(request)
    value = read_string(keyspace, request[1])
    if value is None:
        return -1 if bit else 0
    first, behind = wanted.bounds(len(value))
    if first >= behind:
        return -1
    found = _find_bit(value, bit, first, behind)
    # Without an explicit end the string goes on in zero bits for ever.
    if found == -1 and bit == 0 and wanted.end is None:
        return len(value) * 8
    return found


def _bitpos_range(request: Request) -> _BitRange:
    if len(request) == 3:
        return _BitRange(0, None, is_bits=False)
    if len(request) > 6:
        raise ErrorReply(SYNTAX_ERROR)
    start = parse_integer(request[3])
    is_bits = len(request) == 6 and _is_bit_unit(request[5])
    end = parse_integer(request[4]) if len(request) > 4 else None
    return _BitRange(start, end, is_bits=is_bits)


def _find_bit(value: bytes, bit: int, first: int, behind: int) -> int:
    """Return the position of the first `bit` in bits `first` to `behind` - 1, or -1. O(N) at C speed."""
    skipped = b"\0" if bit else b"\xff"
    head = first >> 3
    # Bits before `first` in its byte must not be found: make them the other kind.
    lead = value[head] & 0xFF >> (first & 7) if bit else value[head] | ~(0xFF >> (first & 7)) & 0xFF
    part = bytes((lead,)) + value[head + 1 : (behind + 7) >> 3]
    rest = part.lstrip(skipped)
    if not rest:
        return -1
    byte = rest[0] if bit else 255 - rest[0]
    found = (head + len(part) - len(rest)) * 8 + 8 - byte.bit_length()
    return found if found < behind else -1


@data_command(
    "BITOP",
    arity=-4,
    flags=Flag.WRITE | Flag.DENYOOM,
    keys=(KeyRange(2, access=("OW", "update")), KeyRange(3, -1)),
    group="bitmap",
    since="2.6.0",
    complexity="O(N)",
    summary="Combine strings bit by bit and store the result; shorter ones go on in zero bits.",
    arguments=(
        Arg(
            "operation",
            "oneof",
            arguments=tuple(
                Arg(word.lower(), "pure-token", token=word) for word in ("AND", "OR", "XOR", "NOT")
            ),
        ),
        Arg("destkey", "key"),
        Arg("key", "key", multiple=True),
    ),
)
def bitop(keyspace: Keyspace, request: Request) -> Reply:
    operation = request[1].upper()
    if operation != b"NOT" and operation not in _OPERATIONS:
        raise ErrorReply(SYNTAX_ERROR)
    if operation == b"NOT" and len(request) != 4:
        raise ErrorReply("ERR BITOP NOT must be called with a single source key.")
    sources = [read_string(keyspace, key) or b"" for key in request[3:]]
    check_total(sources)
    result = _combined(operation, sources)
    if result:
        is_new = keyspace.notifying and keyspace.get(request[2]) is None
        keyspace.put(request[2], result)
        announce(keyspace, request[2], b"set", notify.STRING, is_new=is_new)
    else:
        delete(keyspace, request[2])
    return len(result)


def _combined(operation: bytes, sources: list[bytes]) -> bytes:
    if operation == b"NOT":
        return sources[0].translate(_INVERTED)
    numbers = (int.from_bytes(source, "little") for source in sources)
    return reduce(_OPERATIONS[operation], numbers).to_bytes(max(map(len, sources)), "little")


COMMANDS = (setbit, getbit, bitcount, bitpos, bitop)
