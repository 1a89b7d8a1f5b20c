"""The on-disk contract: what lies in which family under which key.

All integers are big-endian, so that byte order is number order.

    family     key                                     value
    ---------  --------------------------------------  --------------------------------------------
    records    ns (16) ‖ user key                      the row (`record`)
    members    ns (16) ‖ escaped key ‖ 00 01 ‖         CBOR [register, payload(, metadata)] (`members`)
               kind (2) ‖ sub
    changes    origin# (4) ‖ first seq (8)             a chunk of consecutive dots (`changelog`)
    deadlines  due_ms (8) ‖ kind (1) ‖ ns ‖ user key   empty; kind 0: expiry, 1: purge (`expiry`)
    history    ns (16) ‖ escaped key ‖ 00 01 ‖         replaced_ms (8) ‖ row: a past version (`history`)
               2**64 - 1 - number (8)
    meta       see below                               CBOR, unless told otherwise

    meta key                 value
    -----------------------  -----------------------------------------------------------
    "format"                 unsigned: `FORMAT`; written first, checked before anything is read
    "node"                   16 random bytes, the data directory's own id
    "origin:" origin# (4)    [origin id (16), first hlc, lane]; lane 255: another node's origin
    "covered:" origin# (4)   the seq up to which everything of that origin is covered; for origins of other
                             nodes, and own ones from the first commit of a later run on
    "purged:" origin# (4)    the greatest seq of that origin that was ever purged
    "purged_hlc"             the greatest hlc that was ever purged in group 0
    "purged_hlc:" group (2)  the same of another group
    "count:" ns (16)         [keys, keys with an expiry, rows with a floor, rows with a stamp and no value]
    "floor:" ns (16)         the register (32 bytes, plain) of the namespace's last flush
    "history:" ns (16)       how many past versions a key of the namespace may have at most; no row: none has any
    "bodyless:" ns ‖ key     the stamp (20 bytes, plain) of a value that was dropped and is wanted back
    "local:" name            settings of the data directory that do not replicate, plain; those of another group
                             than 0 begin with "group" number ":"
    "log"                    [dots in the change log, live ones after the last compaction], now and then
    "keys"                   [[key id (4) | null, check (16)] ...]: the keys that rows may be encrypted with, null
                             for rows that are not; no row: nothing is encrypted (`engine_sealed`)
    "resealed"               [key id (4) | null, family, position, rows]: how far the values are encrypted anew
                             with that key (`resealing`)
    "probe"                  empty; written by `Store.probe`

The values of records, members and past versions may be encrypted, each by itself (`sealing`). What stands in this table
is then inside. Keys never are: they are searched, walked, and named by the other families.

A namespace is 16 bytes. `SELECT 0..15` are fixed ids. `SYSTEM` holds the registry of the named ones as
ordinary records (key: namespace id, value: title, metadata: its policy), so that it replicates like
all records; `CLUSTER` holds the cluster's own records, about members and the like. A namespace's rows are
one range: ns .. ns + 1, and a prefix of user keys is a range in it.

In the members family a zero byte of the key is written as 00 FF and 00 01 ends it, so that rows come in
the order of their keys there too, and one walk of both families goes through the places in order. So it is in
the history family, where the versions of a key come newest first: their numbers count from 1 on and stand inverted.
A key has a past only for as long as it has a row, if only of its deletion.

A deadline may come earlier than what it stands for: extending an expiry writes no new entry. When
one comes due the row decides, and a row that is not due yet gets an entry at its true time. Hence:
every row with an effective expiry T has an expiry entry at or before T, and every row with a floor or
without a value has a purge entry. An entry without such a row is stale and vanishes when it comes due.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

FORMAT: Final = 1

NAMESPACE_BYTES: Final = 16
DATABASES: Final = 16
SYSTEM: Final = b"\x00" * 14 + b"\x01\x00"
CLUSTER: Final = b"\x00" * 14 + b"\x01\x01"

EXPIRY_KIND: Final = 0
PURGE_KIND: Final = 1

META_FORMAT: Final = b"format"
META_NODE: Final = b"node"
META_LOG: Final = b"log"
META_PROBE: Final = b"probe"
META_KEYS: Final = b"keys"
META_RESEALED: Final = b"resealed"
META_PURGED_HLC: Final = b"purged_hlc"
ORIGIN_PREFIX: Final = b"origin:"
COVERED_PREFIX: Final = b"covered:"
BODYLESS_PREFIX: Final = b"bodyless:"
HISTORY_PREFIX: Final = b"history:"
LOCAL_PREFIX: Final = b"local:"
PURGED_PREFIX: Final = b"purged:"
COUNT_PREFIX: Final = b"count:"
FLOOR_PREFIX: Final = b"floor:"

_CHANGE: Final = Struct(">IQ")
_DEADLINE: Final = Struct(">QB")
_NUMBER: Final = Struct(">I")
_KIND: Final = Struct(">H")
_GROUP: Final = Struct(">H")
_KEY_END: Final = b"\x00\x01"
_DUE_MAX: Final = 2**64 - 1
_VERSION: Final = Struct(">Q")
_VERSION_MAX: Final = 2**64 - 1

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


def covered_key(number: int) -> bytes:
    return COVERED_PREFIX + _NUMBER.pack(number)


def purged_key(number: int) -> bytes:
    return PURGED_PREFIX + _NUMBER.pack(number)


def purged_hlc_key(group: int) -> bytes:
    """Return the key of the row that tells the greatest purged clock value of a group."""
    return META_PURGED_HLC + (b":" + _GROUP.pack(group) if group else b"")


def group_of_purged_hlc(meta_key: bytes) -> int:
    """Return the group at the end of a key that `purged_hlc_key` gave."""
    suffix = meta_key[len(META_PURGED_HLC) + 1 :]
    return int(_GROUP.unpack(suffix)[0]) if suffix else 0


def number_of(meta_key: bytes) -> int:
    """Return the origin number at the end of a meta key."""
    number: int = _NUMBER.unpack(meta_key[-_NUMBER.size :])[0]
    return number


def members_start(place: bytes) -> bytes:
    """Return where the members of the place `place` (a namespace ‖ key, or less) and of all later ones start."""
    return place[:NAMESPACE_BYTES] + place[NAMESPACE_BYTES:].replace(b"\x00", b"\x00\xff")


def place_prefix(place: bytes) -> bytes:
    """Return what the rows of `place` in the members and in the history family start with, and no others."""
    return members_start(place) + _KEY_END


def place_of(prefix: bytes) -> bytes:
    """Return the place that a `place_prefix` is of."""
    return prefix[:NAMESPACE_BYTES] + prefix[NAMESPACE_BYTES : -len(_KEY_END)].replace(b"\x00\xff", b"\x00")


def parse_member(row_key: bytes) -> tuple[bytes, int, bytes]:
    """Return (place, kind, sub) of a row in `members`. Raise `ValueError` if it is none."""
    end = row_key.index(_KEY_END, NAMESPACE_BYTES) + len(_KEY_END)
    rest = row_key[end:]
    if len(rest) < _KIND.size:
        raise ValueError("a member without a kind")
    kind: int = _KIND.unpack_from(rest)[0]
    return place_of(row_key[:end]), kind, rest[_KIND.size :]


def member_suffix(kind: int, sub: bytes) -> bytes:
    """Return what follows `place_prefix` in the key of a member's row."""
    return _KIND.pack(kind) + sub


def history_key(prefix: bytes, number: int) -> bytes:
    """Return the key of a past version's row, given its place's `place_prefix`."""
    return prefix + _VERSION.pack(_VERSION_MAX - number)


def parse_history_key(row_key: bytes) -> tuple[bytes, int]:
    """Return (its place's `place_prefix`, number) of a past version's row. Raise `ValueError` if it is none."""
    prefix = row_key[: -_VERSION.size]
    if len(prefix) < NAMESPACE_BYTES or not prefix.endswith(_KEY_END):
        raise ValueError("a past version without a key")
    inverted: int = _VERSION.unpack_from(row_key, len(prefix))[0]
    return prefix, _VERSION_MAX - inverted


def after_prefix(prefix: bytes) -> bytes | None:
    """Return the least key greater than all keys that start with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))
