"""DEBUG's words about all data: digests of records, and many keys made at once.

A digest mixes SHA-1 of the parts so that equal data gives equal digests, in whatever order it is read:

    mix(d, part) = SHA-1(d xor SHA-1(part))
    value        = mix(mix(0, type), bytes), xor SHA-1("!!expire!!") if it has an expiry
    record       = the same, but from mix(0, key) on instead of 0
    data         = for each numbered database that has keys: mix with its number, xor SHA-1(record) of each

Source: Redis 7.2 DEBUG DIGEST, DIGEST-VALUE, POPULATE. Digests are those of Redis for the same data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from operator import xor
from typing import TYPE_CHECKING, Final

from kvd import notify
from kvd.commands import walks
from kvd.commands.lookup import string_of
from kvd.dispatch import write_refusal
from protocol.replies import OK, Reply, Simple
from storage.record import EXPIRES_AT, NEVER, Record

if TYPE_CHECKING:
    from kvd.server import Server
    from storage.store import Keyspace

_NOTHING: Final = bytes(20)
_STRING_TYPE: Final = bytes(4)
# After so many bytes, written keys counted with what each takes besides, the clock is looked at.
_STEP_BYTES: Final = 64 << 10
_KEY_BYTES: Final = 256


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _xor(digest: bytes, data: bytes) -> bytes:
    return bytes(map(xor, digest, _sha1(data)))


def _mix(digest: bytes, data: bytes) -> bytes:
    return _sha1(_xor(digest, data))


def digest_of_value(record: Record | None, start: bytes = _NOTHING) -> bytes:
    """Return the digest of a value and whether it expires, mixed into `start`; of no value it is `start`."""
    if record is None:
        return start
    digest = _mix(_mix(start, _STRING_TYPE), string_of(record))
    return digest if record[EXPIRES_AT] == NEVER else _xor(digest, b"!!expire!!")


def shown(digest: bytes) -> Simple:
    return Simple(digest.hex().encode())


def digest_steps(databases: Iterable[Keyspace]) -> Iterator[Reply]:
    """Yield the digest of all records at the end, None after each page of rows before."""
    digest = _NOTHING
    for number, keyspace in enumerate(databases):
        after: bytes | None = None
        is_empty = True
        while True:
            rows, after = keyspace.scan(b"", after, walks.ROWS)
            if rows and is_empty:
                is_empty = False
                digest = _mix(digest, number.to_bytes(4, "big"))
            for key, record in rows:
                digest = _xor(digest, digest_of_value(record, _mix(_NOTHING, key)))
            if after is None:
                break
            yield None
    yield shown(digest)


def populate_steps(
    server: Server, keyspace: Keyspace, count: int, prefix: bytes, size: int
) -> Iterator[Reply]:
    """Write the keys ``prefix:0`` ... that are not there; yield None now and then, and at the end the answer."""
    left = _STEP_BYTES
    for number in range(count):
        if left == _STEP_BYTES:
            refusal = write_refusal(server)
            if refusal is not None:
                yield refusal
                return
        value = b"value:%d" % number
        if size:
            value = value[:size].ljust(size, b"\0")
        _add(keyspace, b"%b:%d" % (prefix, number), value)
        left -= _KEY_BYTES + len(value)
        if left <= 0:
            left = _STEP_BYTES
            yield None
    yield OK


def _add(keyspace: Keyspace, key: bytes, value: bytes) -> None:
    if keyspace.get(key) is not None:
        return
    keyspace.put(key, value)
    if keyspace.notifying:
        keyspace.notify(b"new", key, notify.NEW)
