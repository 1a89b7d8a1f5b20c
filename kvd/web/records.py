"""Reading and writing one record over HTTP, with the stamp as its ETag.

Keyspace events, invalidations and counters are the same as those of KV.GET, KV.PUT and DEL: what is written
here is written as a Redis client would. An ETag is the stamp of the value, so it is the same on every node, and
a put with If-Match is a compare-and-set on the node that gets it. A change of the expiry alone leaves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd import notify
from kvd.commands import lookup
from kvd.commands.strings import write_for
from kvd.web.errors import CONDITION_FAILED, Refused
from storage.record import EXPIRES_AT, NEVER, VALUE, VALUE_STAMP, Record

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from storage.store import Keyspace


def find(keyspace: Keyspace, key: bytes) -> Record | None:
    """Return the live record of `key`. Raise `Refused` if it is no string."""
    record = lookup.find(keyspace, key)
    if record is not None and type(record[VALUE]) is not bytes:
        raise Refused(400, "the value is not a string; only Redis clients can read it")
    return record


def etag(keyspace: Keyspace, record: Record) -> bytes:
    """Return the entity tag of a live record, with its quotes."""
    register = record[VALUE_STAMP]
    assert register is not None, "a live record has a value register"
    version = keyspace.store.describe(register)
    return b'"%x-%x-%b-%x"' % (version.ms, version.counter, version.origin[:6].hex().encode(), version.seq)


def put(
    keyspace: Keyspace, key: bytes, value: bytes, expires_at_ms: int = NEVER, metadata: bytes | None = None
) -> None:
    """Give a key value, expiry and metadata together; what is not given is cleared. Raises `KeyspaceError`."""
    keyspace.check_open()  # it may have closed since the request was routed
    is_new = keyspace.notifying and keyspace.get(key) is None
    if expires_at_ms == NEVER:
        keyspace.put(key, value, NEVER, metadata)
        lookup.announce(keyspace, key, b"set", notify.STRING, is_new=is_new)
    else:
        write_for(keyspace, key, value, expires_at_ms, metadata, is_new=is_new)


def delete(keyspace: Keyspace, key: bytes) -> bool:
    """Delete a key; True if it was there. Raises `KeyspaceError`."""
    keyspace.check_open()
    return lookup.delete(keyspace, key)


def check_conditions(exchange: Exchange, keyspace: Keyspace, key: bytes) -> None:
    """Refuse a write whose If-Match or If-None-Match does not hold. Source: RFC 9110 §13.1."""
    headers = exchange.request.headers
    wanted, unwanted = headers.get(b"if-match"), headers.get(b"if-none-match")
    if wanted is None and unwanted is None:
        return
    record = keyspace.get(key)
    found = None if record is None else etag(keyspace, record)
    if (wanted is not None and not matches(wanted, found)) or (
        unwanted is not None and matches(unwanted, found)
    ):
        headers_out = b"" if found is None else b"ETag: %b\r\n" % found
        raise Refused(412, _why_not(wanted, found), CONDITION_FAILED, headers_out)


def _why_not(wanted: bytes | None, found: bytes | None) -> str:
    if found is None:
        return "there is no such key"
    return "the key is there already" if wanted is None else "the key has another ETag"


def matches(header: bytes, found: bytes | None) -> bool:
    """Tell whether an If-Match or If-None-Match header names the entity tag `found` (None: there is no key)."""
    if found is None:
        return False
    return header.strip() == b"*" or found in {
        part.strip().removeprefix(b"W/") for part in header.split(b",")
    }


def expiry_of(record: Record) -> int | None:
    """Return the expiry in whole seconds, None if there is none."""
    expires_at: int = record[EXPIRES_AT]
    return None if expires_at == NEVER else -(-expires_at // 1000)
