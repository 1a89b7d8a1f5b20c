"""Stamps: which write is newer, everywhere and for ever.

A stamp is 20 bytes:

    hlc (8)                          origin# (4)        seq (8)
    48 bits of ms, 16 of a counter   local number       1, 2, 3 ... per origin

``(origin, seq)`` is the write's dot, unique for ever: an origin is 16 random bytes drawn at every
open and after every failed commit, so no sequence number is ever used twice, not after a crash
and not by a copied data directory. The hybrid logical clock (Kulkarni et al. 2014) is one integer
here: taking the next stamp adds one, and the tick's wall time raises it. A full counter runs over
into the milliseconds, which is what the rule for overflow says.

A *register* is the 32 bytes ``stamp ‖ prev``: prev is hlc and origin# of the stamp that the writer
replaced, zeros if none. It tells a concurrent overwrite from an informed one.

Stamps compare as (hlc, origin's 16 bytes, seq). The number of an origin is only a local name for
its bytes and must not decide: two nodes number origins differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

import attrs

from storage.errors import RecordError

STAMP_BYTES: Final = 20
REGISTER_BYTES: Final = 32
ORIGIN_BYTES: Final = 16
DOT_BYTES: Final = 12
PREV_BYTES: Final = 12
NO_PREV: Final = bytes(PREV_BYTES)
HLC_MAX: Final = 2**64 - 1

_COUNTER_BITS: Final = 16
_REGISTER: Final = Struct(">QIQ12s")
_FULL_REGISTER: Final = Struct(">QIQQI")
_HLC: Final = Struct(">Q")
_DOT: Final = Struct(">IQ")

pack_register = _REGISTER.pack  # (hlc, origin number, seq, prev) -> 32 bytes
pack_full_register = (
    _FULL_REGISTER.pack
)  # (hlc, origin number, seq, prev's hlc, prev's origin number) -> 32 bytes
unpack_full_register = _FULL_REGISTER.unpack  # 32 bytes -> the same five


@attrs.frozen
class Version:
    """A stamp, unpacked for people and for replication."""

    ms: int
    counter: int
    origin: bytes  # the 16 bytes
    seq: int


def hlc_at(ms: int) -> int:
    """Return the least clock value in the millisecond `ms`."""
    return ms << _COUNTER_BITS


def hlc_ms(hlc: int) -> int:
    return hlc >> _COUNTER_BITS


def register_hlc(register: bytes) -> int:
    hlc: int = _HLC.unpack_from(register)[0]
    return hlc


def register_ms(register: bytes) -> int:
    """Return the milliseconds of a register's clock."""
    return register_hlc(register) >> _COUNTER_BITS


def register_dot(register: bytes) -> tuple[int, int]:
    """Return (origin number, seq)."""
    _, origin, seq, _ = _REGISTER.unpack(register)
    return origin, seq


def dot_bytes(origin: int, seq: int) -> bytes:
    """Return the twelve bytes of a dot, as they stand in a register from its ninth byte on."""
    return _DOT.pack(origin, seq)


def unpack_register(register: bytes) -> tuple[int, int, int, bytes]:
    """Return (hlc, origin number, seq, prev)."""
    hlc, origin, seq, prev = _REGISTER.unpack(register)
    return hlc, origin, seq, prev


def describe(register: bytes, origins: Sequence[bytes]) -> Version:
    """Unpack `register`; `origins` maps a number to the origin's 16 bytes."""
    hlc, origin, seq, _ = _REGISTER.unpack(register)
    return Version(hlc >> _COUNTER_BITS, hlc & 0xFFFF, origins[origin], seq)


def is_newer(left: bytes, right: bytes, origins: Sequence[bytes]) -> bool:
    """Tell whether `left`'s stamp is greater than `right`'s. Both are registers.

    Raise `RecordError` if that depends on an origin that is not known.

    Equal clocks of different origins are rare, so the bytes decide nearly always: hlc comes
    first in them, and with the same origin number the sequence follows.
    """
    if left[:8] != right[:8] or left[8:12] == right[8:12]:
        return left[:20] > right[:20]
    try:
        return origins[register_dot(left)[0]] > origins[register_dot(right)[0]]
    except IndexError as error:
        raise RecordError("a register has an unknown origin") from error
