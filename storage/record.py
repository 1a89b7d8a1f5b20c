"""The record: what is known of one key, in memory and as its row on disk.

In memory a record is a plain tuple of six (plain, so that the garbage collector lets go of it):

    VALUE         the value; bytes is a string. None: there is no value (deleted, or swept after expiry)
    EXPIRES_AT    the effective expiry, ms since the epoch; NEVER if none; 0 where VALUE is None, so
                  that one comparison with the clock tells whether a record is live
    METADATA      one JSON text in UTF-8, kept byte for byte, or None
    VALUE_STAMP   the value's register, or None
    EXPIRY        the raw expiry register: (register, ms or None for "persists"), or None
    FLOOR         the register of the key's last deletion, or None

Three registers with a stamp each (see `version`), because an EXPIRE on one side of a partition must
not undo a SET on the other. The expiry register counts only if its stamp is not older than the
value's: a plain SET ends the expiry that was there, ``SET ... EX`` writes both at one clock value.
What is older than the floor is dead and is erased from the row, so that nodes that have seen the
same writes hold the same bytes.

On disk a row is a CBOR array; its length tells the form:

    2   [value register, value]                                 the common case
    4   [value register, value, expiry register, ms | null]
    7   [type, value register | null, value | null, metadata | null,
         expiry register | null, ms | null, floor register | null]

Registers, values and metadata are byte strings. ``type`` is 0 for a string; other types come
later. A record has exactly one form: the shortest that holds it. The forms are put together by
concatenation, which is five times as fast as an encoder; a property test holds the result equal to
cbor2's. A row that cannot be read raises `RecordError`, whoever wrote it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, TypeAlias

import cbor2

from storage.engine import Unopened
from storage.errors import RecordError
from storage.version import REGISTER_BYTES, is_newer

Record: TypeAlias = tuple[Any, int, bytes | None, bytes | None, tuple[bytes, int | None] | None, bytes | None]

# (value register, expiry register with its ms, floor register)
Registers: TypeAlias = tuple[bytes | None, tuple[bytes, int | None] | None, bytes | None]

VALUE: Final = 0
EXPIRES_AT: Final = 1
METADATA: Final = 2
VALUE_STAMP: Final = 3
EXPIRY: Final = 4
FLOOR: Final = 5

NEVER: Final = 2**63 - 1

# What a look-up of a key without a row finds.
MISSING: Final[Record] = (None, 0, None, None, None, None)

STRING_TYPE: Final = 0

_ARRAY_2_REGISTER: Final = b"\x82\x58\x20"  # array of two, then a byte string of 32
_ARRAY_4_REGISTER: Final = b"\x84\x58\x20"
_ARRAY_7_STRING: Final = b"\x87\x00"
_REGISTER_HEAD: Final = b"\x58\x20"
_NULL: Final = b"\xf6"
_join: Final = b"".join


def _head(major: int, count: int) -> bytes:
    """Return the CBOR head of `major` type with argument `count`. Source: RFC 8949 §3."""
    if count < 24:
        return bytes((major << 5 | count,))
    for info, size in ((24, 1), (25, 2), (26, 4)):
        if count < 1 << 8 * size:
            return bytes((major << 5 | info,)) + count.to_bytes(size, "big")
    return bytes((major << 5 | 27,)) + count.to_bytes(8, "big")


# Heads of byte strings by length; nearly every key and value is shorter than this.
SHORT_HEADS: Final = tuple(_head(2, length) for length in range(4096))
_SHORT_NUMBERS: Final = tuple(_head(0, number) for number in range(4096))
_LONG_NUMBER: Final = Struct(">BQ").pack  # with the initial byte of an unsigned integer of eight bytes


def bytes_head(length: int) -> bytes:
    """Return the CBOR head of a byte string of `length`."""
    return SHORT_HEADS[length] if length < 4096 else _head(2, length)


def array_head(count: int) -> bytes:
    """Return the CBOR head of an array of `count` items."""
    return _head(4, count)


def unsigned(number: int) -> bytes:
    """Return the CBOR item of a number from 0 to 2**64 - 1."""
    if number < 4096:
        return _SHORT_NUMBERS[number]
    return _LONG_NUMBER(0x1B, number) if number > 0xFFFFFFFF else _head(0, number)


def encode(record: Record) -> bytes:
    """Return the row of `record`, which must hold at least one register."""
    # Hot: once for every row of a commit.
    value, _, metadata, value_stamp, expiry, floor = record
    if value is None or metadata is not None or floor is not None:
        return _encode_general(record)
    length = len(value)
    head = SHORT_HEADS[length] if length < 4096 else _head(2, length)
    if expiry is None:
        return _join((_ARRAY_2_REGISTER, value_stamp, head, value))  # type: ignore[arg-type]
    expiry_stamp, expires_at_ms = expiry
    due = _NULL if expires_at_ms is None else unsigned(expires_at_ms)
    return _join((_ARRAY_4_REGISTER, value_stamp, head, value, _REGISTER_HEAD, expiry_stamp, due))  # type: ignore[arg-type]


def _encode_general(record: Record) -> bytes:
    value, _, metadata, value_stamp, expiry, floor = record
    expiry_stamp, expires_at_ms = expiry or (None, None)
    return _join(
        (
            _ARRAY_7_STRING,
            _optional(value_stamp),
            _optional(value),
            _optional(metadata),
            _optional(expiry_stamp),
            _NULL if expires_at_ms is None else unsigned(expires_at_ms),
            _optional(floor),
        )
    )


def _optional(part: bytes | None) -> bytes:
    return _NULL if part is None else bytes_head(len(part)) + part


def decode(row: bytes, origins: Sequence[bytes]) -> Record:
    """Return the record of `row`. Raise `RecordError` if it is not a row that this version can read.

    `origins` maps origin numbers to their 16 bytes, for the comparison of stamps.
    """
    try:
        items = cbor2.loads(row)
        count = len(items)
        if count == 2:
            value_stamp, value = items
            expiry_stamp = expires_at_ms = metadata = floor = None
        elif count == 4:
            value_stamp, value, expiry_stamp, expires_at_ms = items
            metadata = floor = None
        else:
            kind, value_stamp, value, metadata, expiry_stamp, expires_at_ms, floor = items
            if kind != STRING_TYPE:
                raise RecordError(f"its type {kind!r} is unknown to this version")
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise _unreadable(row, error) from error
    expiry = None if expiry_stamp is None else (expiry_stamp, expires_at_ms)
    _check(value, metadata, (value_stamp, expiry_stamp, floor))
    _check_expiry(expiry_stamp, expires_at_ms)
    return build(value, metadata, (value_stamp, expiry, floor), origins)


def build(value: Any, metadata: bytes | None, parts: Registers, origins: Sequence[bytes]) -> Record:
    """Return the record of these registers, its effective expiry worked out."""
    value_stamp, expiry, floor = parts
    if value is None:
        return (None, 0, metadata, value_stamp, expiry, floor)
    if (
        expiry is None
        or expiry[1] is None
        or value_stamp is None
        or is_newer(value_stamp, expiry[0], origins)
    ):
        return (value, NEVER, metadata, value_stamp, expiry, floor)
    return (value, expiry[1], metadata, value_stamp, expiry, floor)


def _check(value: Any, metadata: Any, parts: tuple[Any, Any, Any]) -> None:
    """Raise `RecordError` unless the parts of a row have the right types and belong together."""
    for register in parts:
        if register is not None and (type(register) is not bytes or len(register) != REGISTER_BYTES):
            raise RecordError("a register is not 32 bytes")
    if parts == (None, None, None):
        raise RecordError("it has no register")
    if value is not None and (type(value) is not bytes or parts[0] is None):
        raise RecordError("the value is not a byte string with a stamp")
    if metadata is not None and (type(metadata) is not bytes or value is None):
        raise RecordError("the metadata is not a byte string beside a value")


def _check_expiry(register: Any, expires_at_ms: Any) -> None:
    if expires_at_ms is None:
        return
    if type(expires_at_ms) is not int or register is None or not 0 <= expires_at_ms < NEVER:
        raise RecordError("the expiry is not a time with a stamp")


def erase_below(record: Record, floor: bytes, origins: Sequence[bytes]) -> Record:
    """Return `record` without the registers that are older than `floor`; `MISSING` if none is left."""
    value, _, metadata, value_stamp, expiry, own_floor = record
    if value_stamp is not None and is_newer(floor, value_stamp, origins):
        value = metadata = value_stamp = None
    if expiry is not None and is_newer(floor, expiry[0], origins):
        expiry = None
    if own_floor is not None and is_newer(floor, own_floor, origins):
        own_floor = None
    if value_stamp is None and expiry is None and own_floor is None:
        return MISSING
    return build(value, metadata, (value_stamp, expiry, own_floor), origins)


def registers(record: Record) -> list[bytes]:
    """Return the registers that `record` holds."""
    expiry = record[EXPIRY]
    found = (record[VALUE_STAMP], expiry[0] if expiry else None, record[FLOOR])
    return [register for register in found if register is not None]


def dumps(value: Any) -> bytes:
    """Encode what is not a row (the meta family); CBOR has this one door."""
    return cbor2.dumps(value)


def loads(encoded: bytes) -> Any:
    """Decode exactly one CBOR item. Raise `RecordError` on anything else."""
    stream = io.BytesIO(encoded)
    try:
        value = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise _unreadable(encoded, error) from error
    if stream.read(1):
        raise RecordError("there are bytes after its end")
    return value


def _unreadable(row: bytes, error: Exception) -> RecordError:
    return row.error if isinstance(row, Unopened) else RecordError(str(error) or type(error).__name__)
