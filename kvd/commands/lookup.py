"""How handlers read and announce records: the type check, keyspace events, the bound on values.

Handlers on the hot path (GET, SET, INCR) repeat the few lines they need of this instead of calling it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from kvd import notify
from kvd.commands.arguments import WRONG_TYPE
from protocol.replies import ErrorReply
from storage.errors import ValueTooLong
from storage.record import VALUE, Record

if TYPE_CHECKING:
    from storage.store import Keyspace

# The longest string that Redis makes.
STRING_BYTES_MAX: Final = 512 << 20
# What one request may have in hand.
TOTAL_BYTES_MAX: Final = STRING_BYTES_MAX


def find(keyspace: Keyspace, key: bytes) -> Record | None:
    """Return the live record of `key`, as a command that reads does: a miss is an event."""
    record = keyspace.get(key)
    if record is not None:
        keyspace.hits += 1
        return record
    keyspace.misses += 1
    if keyspace.notifying:
        keyspace.notify(b"keymiss", key, notify.KEYMISS)
    return None


def string_of(record: Record) -> bytes:
    """Return the value of a live record. Raise `ErrorReply` if it is no string."""
    value = record[VALUE]
    if type(value) is not bytes:
        raise ErrorReply(WRONG_TYPE)
    return value


def read_string(keyspace: Keyspace, key: bytes) -> bytes | None:
    """Return the string at `key` for a command that reads; None if there is no key."""
    record = find(keyspace, key)
    return None if record is None else string_of(record)


def peek_string(keyspace: Keyspace, key: bytes) -> bytes | None:
    """Return the string at `key` for a command that writes: a miss is no event."""
    record = keyspace.get(key)
    return None if record is None else string_of(record)


def announce(keyspace: Keyspace, key: bytes, event: bytes, kind: int, *, is_new: bool = False) -> None:
    """Report that `key` was written; first that it is new, where it is."""
    if keyspace.notifying:
        if is_new:
            keyspace.notify(b"new", key, notify.NEW)
        keyspace.notify(event, key, kind)


def update_string(keyspace: Keyspace, key: bytes, value: bytes, event: bytes, *, is_new: bool) -> None:
    """Change the string at `key`, keeping its expiry and metadata, and report it."""
    keyspace.update(key, value)
    announce(keyspace, key, event, notify.STRING, is_new=is_new)


def delete(keyspace: Keyspace, key: bytes) -> bool:
    """Delete `key` and report it; tell whether it was there."""
    if not keyspace.delete(key):
        return False
    if keyspace.notifying:
        keyspace.notify(b"del", key, notify.GENERIC)
    return True


def check_length(keyspace: Keyspace, length: int) -> None:
    """Refuse a value of `length` bytes before it is built, if the store would refuse it.

    What Redis would refuse as well is refused in its words.
    """
    if length > STRING_BYTES_MAX:
        raise ErrorReply("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    limit = keyspace.store.limits.value_bytes_max
    if length > limit:
        raise ValueTooLong(length, limit)


def check_total(values: Iterable[bytes | None], instead: str = "name fewer keys") -> None:
    """Refuse to work on more than `TOTAL_BYTES_MAX` at once, however often one key is named; say what to do instead."""
    if sum(len(value) for value in values if value is not None) > TOTAL_BYTES_MAX:
        raise ErrorReply(f"ERR the values are larger than {TOTAL_BYTES_MAX >> 20} MiB together; {instead}")
