"""The on-disk contract: what lies in which family under which key.

All integers are big-endian, so that byte order is number order.

    family     key                                     value
    ---------  --------------------------------------  --------------------------------------------
    records    ns (16) ‖ user key                      the row (`record`)
    members    ns (16) ‖ len(key) (4) ‖ key ‖          reserved for rows of collection members
               kind (1) ‖ sub
    changes    origin# (4) ‖ first seq (8)             a chunk of consecutive dots (`changelog`)
    deadlines  due_ms (8) ‖ kind (1) ‖ ns ‖ user key   empty; kind 0: expiry, 1: purge (`expiry`)
    meta       see below                               CBOR, unless told otherwise

    meta key                 value
    -----------------------  -----------------------------------------------------------
    "format"                 unsigned: `FORMAT`; written first, checked before anything is read
    "node"                   16 random bytes, the data directory's own id
    "origin:" origin# (4)    [origin id (16), first hlc]
    "purged:" origin# (4)    the greatest seq of that origin that was ever purged
    "purged_hlc"             the greatest hlc that was ever purged
    "count:" ns (16)         [keys, keys with an expiry]
    "floor:" ns (16)         the register (32 bytes, plain) of the namespace's last flush
    "log"                    [dots in the change log, live ones after the last compaction], now and then
    "probe"                  empty; written by `Store.probe`

A namespace is 16 bytes. `SELECT 0..15` are fixed ids, `SYSTEM` holds the registry of the named
ones as ordinary records (key: namespace id, value: title), so that it will replicate like all
records. A namespace's rows are one range: ns .. ns + 1, and a prefix of user keys is a range in it.

A deadline may come earlier than what it stands for: extending an expiry writes no new entry. When
one comes due the row decides, and a row that is not due yet gets an entry at its true time. Hence:
every row with an effective expiry T has an expiry entry at or before T, and every row with a floor
has a purge entry. An entry without such a row is stale and vanishes when it comes due.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

FORMAT: Final = 1

NAMESPACE_BYTES: Final = 16
DATABASES: Final = 16
SYSTEM: Final = b"\x00" * 14 + b"\x01\x00"

EXPIRY_KIND: Final = 0
PURGE_KIND: Final = 1

META_FORMAT: Final = b"format"
META_NODE: Final = b"node"
META_LOG: Final = b"log"
META_PROBE: Final = b"probe"
META_PURGED_HLC: Final = b"purged_hlc"
ORIGIN_PREFIX: Final = b"origin:"
PURGED_PREFIX: Final = b"purged:"
COUNT_PREFIX: Final = b"count:"
FLOOR_PREFIX: Final = b"floor:"

_CHANGE: Final = Struct(">IQ")
_DEADLINE: Final = Struct(">QB")
_NUMBER: Final = Struct(">I")
_DUE_MAX: Final = 2**64 - 1

change_key = _CHANGE.pack  # (origin number, first seq) -> key in `changes`
deadline_prefix = _DEADLINE.pack  # (due_ms, kind) -> the first nine bytes of a key in `deadlines`


def database_id(index: int) -> bytes:
    """Return the namespace of ``SELECT index``."""
    return index.to_bytes(NAMESPACE_BYTES, "big")


def parse_change_key(key: bytes) -> tuple[int, int]:
    """Return (origin number, first seq)."""
    origin, seq = _CHANGE.unpack(key)
    return origin, seq


def parse_deadline(key: bytes) -> tuple[int, int, bytes]:
    """Return (due_ms, kind, row key)."""
    due_ms, kind = _DEADLINE.unpack_from(key)
    return due_ms, kind, key[_DEADLINE.size :]


def due_before(due_ms: int) -> bytes:
    """Return the end of the range of deadlines with a due time before `due_ms`."""
    return _DEADLINE.pack(min(due_ms, _DUE_MAX), 0)


def origin_key(number: int) -> bytes:
    return ORIGIN_PREFIX + _NUMBER.pack(number)


def purged_key(number: int) -> bytes:
    return PURGED_PREFIX + _NUMBER.pack(number)


def number_of(meta_key: bytes) -> int:
    """Return the origin number at the end of a meta key."""
    number: int = _NUMBER.unpack(meta_key[-_NUMBER.size :])[0]
    return number


def after_prefix(prefix: bytes) -> bytes | None:
    """Return the least key greater than all keys that start with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))
