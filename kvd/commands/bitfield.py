"""BITFIELD: integers of any width up to 64 bits at any place in a string.

All operations of one request are read first, then run in order on one copy of the string, which is
stored once. A field that reaches beyond the end reads as zero bits there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import attrs

from kvd.commands.arguments import SYNTAX_ERROR, parse_integer
from kvd.commands.bitmaps import BAD_OFFSET, check_bit_offset
from kvd.commands.lookup import check_length, peek_string, read_string, update_string
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command
from protocol.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from storage.store import Keyspace

_BAD_TYPE: Final = (
    "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
)
_UINT64: Final = (1 << 64) - 1

_KEY = Arg("key", "key")
_FIELD = (Arg("encoding"), Arg("offset", "integer"))
_RW = ("RW", "access", "update")
_OVERFLOWS = tuple(Arg(word.lower(), "pure-token", token=word) for word in ("WRAP", "SAT", "FAIL"))


def _access_of_bitfield(request: Request) -> tuple[str, ...]:
    """BITFIELD writes only with SET or INCRBY."""
    index = 2
    while index < len(request):
        word = request[index].upper()
        if word in {b"SET", b"INCRBY"}:
            return _RW
        index += 2 if word == b"OVERFLOW" else 3
    return ("RO", "access")


@attrs.frozen
class _Field:
    """Where an integer stands and how it is read."""

    is_signed: bool
    bits: int
    offset: int

    @property
    def least(self) -> int:
        return -(1 << self.bits - 1) if self.is_signed else 0

    @property
    def greatest(self) -> int:
        return (1 << self.bits - self.is_signed) - 1

    @property
    def end_byte(self) -> int:
        return (self.offset + self.bits + 7) // 8

    def read(self, value: bytes | bytearray) -> int:
        start, end = self.offset // 8, self.end_byte
        whole = int.from_bytes(value[start:end].ljust(end - start, b"\0"), "big")
        number = whole >> self._shift & (1 << self.bits) - 1
        return number - (1 << self.bits) if number > self.greatest else number

    def write(self, value: bytearray, number: int) -> None:
        start, end = self.offset // 8, self.end_byte
        mask = (1 << self.bits) - 1
        whole = int.from_bytes(value[start:end], "big") & ~(mask << self._shift)
        whole |= (number & mask) << self._shift
        value[start:end] = whole.to_bytes(end - start, "big")

    @property
    def _shift(self) -> int:
        return -(self.offset + self.bits) % 8

    def fitted(self, number: int, overflow: bytes) -> int | None:
        """Return `number` as the field can hold it; None if it does not fit and `overflow` is FAIL."""
        if self.least <= number <= self.greatest:
            return number
        if overflow == b"FAIL":
            return None
        if overflow == b"SAT":
            return self.greatest if number > self.greatest else self.least
        number &= (1 << self.bits) - 1
        return number - (1 << self.bits) if number > self.greatest else number


@attrs.frozen
class _Operation:
    """One GET, SET or INCRBY, with the OVERFLOW in force where it stands."""

    name: bytes
    field: _Field
    number: int = 0
    overflow: bytes = b"WRAP"

    @property
    def writes(self) -> bool:
        return self.name != b"GET"

    def apply(self, value: bytearray) -> int | None:
        """Run on `value` and return the reply. None: the number did not fit, nothing was changed."""
        held = self.field.read(value)
        if not self.writes:
            return held
        wanted = held + self.number if self.name == b"INCRBY" else self._set_number()
        number = self.field.fitted(wanted, self.overflow)
        if number is None:
            return None
        self.field.write(value, number)
        return number if self.name == b"INCRBY" else held

    def _set_number(self) -> int:
        # As Redis does: for an unsigned field the bits of a negative number are a large one.
        return self.number if self.field.is_signed else self.number & _UINT64


def _operations(request: Request) -> Iterator[_Operation]:
    overflow = b"WRAP"
    index = 2
    while index < len(request):
        name = request[index].upper()
        following = len(request) - index - 1
        if name == b"OVERFLOW" and following >= 1:
            overflow = request[index + 1].upper()
            if overflow not in {b"WRAP", b"SAT", b"FAIL"}:
                raise ErrorReply("ERR Invalid OVERFLOW type specified")
            index += 2
        elif name == b"GET" and following >= 2:
            yield _Operation(name, _parse_field(request[index + 1], request[index + 2]))
            index += 3
        elif name in {b"SET", b"INCRBY"} and following >= 3:
            field = _parse_field(request[index + 1], request[index + 2])
            yield _Operation(name, field, parse_integer(request[index + 3]), overflow)
            index += 4
        else:
            raise ErrorReply(SYNTAX_ERROR)


def _parse_field(encoding: bytes, offset_text: bytes) -> _Field:
    is_signed = encoding.startswith(b"i")
    bits = parse_integer(encoding[1:], _BAD_TYPE)
    if encoding[:1] not in {b"i", b"u"} or not 1 <= bits <= 63 + is_signed:
        raise ErrorReply(_BAD_TYPE)
    if offset_text.startswith(b"#"):
        offset = parse_integer(offset_text[1:], BAD_OFFSET) * bits
    else:
        offset = parse_integer(offset_text, BAD_OFFSET)
    return _Field(is_signed, bits, check_bit_offset(offset))


@data_command(
    "BITFIELD",
    arity=-2,
    flags=Flag.WRITE | Flag.DENYOOM,
    keys=(KeyRange(1, access=(*_RW, "variable_flags"), vary=_access_of_bitfield),),
    group="bitmap",
    since="3.2.0",
    complexity="O(1) for each subcommand specified",
    summary="Read, set and add to integers of any width inside a string.",
    arguments=(
        _KEY,
        Arg(
            "operation",
            "oneof",
            optional=True,
            multiple=True,
            arguments=(
                Arg("get-block", "block", token="GET", arguments=_FIELD),
                Arg(
                    "write",
                    "block",
                    arguments=(
                        Arg("overflow-block", "oneof", token="OVERFLOW", optional=True, arguments=_OVERFLOWS),
                        Arg(
                            "write-operation",
                            "oneof",
                            arguments=(
                                Arg(
                                    "set-block",
                                    "block",
                                    token="SET",
                                    arguments=(*_FIELD, Arg("value", "integer")),
                                ),
                                Arg(
                                    "incrby-block",
                                    "block",
                                    token="INCRBY",
                                    arguments=(*_FIELD, Arg("increment", "integer")),
                                ),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    ),
)
def bitfield(keyspace: Keyspace, request: Request) -> Reply:
    operations = list(_operations(request))
    ends = [operation.field.end_byte for operation in operations if operation.writes]
    if not ends:
        return _read_fields(keyspace, request[1], operations)
    held = peek_string(keyspace, request[1])
    check_length(keyspace, max(ends))
    value = bytearray((held or b"").ljust(max(ends), b"\0"))
    replies = [operation.apply(value) for operation in operations]
    if held is None or value != held:
        update_string(keyspace, request[1], bytes(value), b"setbit", is_new=held is None)
    return replies


@data_command(
    "BITFIELD_RO",
    arity=-2,
    flags=Flag.READONLY | Flag.FAST,
    keys=(KeyRange(1),),
    group="bitmap",
    since="6.0.0",
    complexity="O(1) for each subcommand specified",
    summary="Read integers of any width inside a string.",
    arguments=(
        _KEY,
        Arg(
            "get-block",
            "block",
            token="GET",
            optional=True,
            multiple=True,
            multiple_token=True,
            arguments=_FIELD,
        ),
    ),
)
def bitfield_ro(keyspace: Keyspace, request: Request) -> Reply:
    operations = list(_operations(request))
    if any(operation.writes for operation in operations):
        raise ErrorReply("ERR BITFIELD_RO only supports the GET subcommand")
    return _read_fields(keyspace, request[1], operations)


def _read_fields(keyspace: Keyspace, key: bytes, operations: list[_Operation]) -> list[int]:
    value = read_string(keyspace, key) or b""
    return [operation.field.read(value) for operation in operations]


COMMANDS = (bitfield, bitfield_ro)
