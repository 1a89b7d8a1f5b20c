"""Namespaces as our own interfaces name them: by id, by title, or ``db0`` to ``db15`` for the numbered databases.

Keys are any bytes here, as Redis clients write them: what the path holds is percent-decoded and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.web.errors import AUTHENTICATION, BAD_KEY, NAMESPACE_NOT_FOUND, Refused
from protocol.http_errors import TargetError
from protocol.http_targets import decode_bytes, decode_text

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from storage.store import Keyspace

_DATABASE: Final = "db"


def find_keyspace(exchange: Exchange, right: int, key: bytes | None = None) -> Keyspace:
    """Return the keyspace that the first argument names, if who asks may do this there. Raise `Refused`."""
    keyspaces = exchange.server.store.keyspaces
    try:
        name = decode_text(exchange.arguments[0])
    except TargetError as error:
        raise Refused(400, str(error)) from None
    keyspace = keyspaces.find(name)
    if keyspace is None:
        keyspace = _database(exchange, name)
    if not exchange.access.permits(right, keyspace, key):
        raise Refused(403, "Authentication error", AUTHENTICATION)
    return keyspace


def find_open(exchange: Exchange, right: int, key: bytes | None = None) -> Keyspace:
    """Do the same for who wants to read or write records. Raise `KeyspaceError` if they are not here, or not all."""
    keyspace = find_keyspace(exchange, right, key)
    keyspace.check_open()
    return keyspace


def _database(exchange: Exchange, name: str) -> Keyspace:
    number = name.removeprefix(_DATABASE)
    is_number = name.startswith(_DATABASE) and number.isascii() and number.isdecimal() and len(number) <= 2
    if is_number and int(number) < exchange.server.settings.compat.databases:
        return exchange.server.store.keyspace(int(number))
    raise Refused(404, "namespace not found", NAMESPACE_NOT_FOUND)


def raw_key(part: bytes) -> bytes:
    """Return the key that a path holds. Raise `Refused`."""
    try:
        return decode_bytes(part)
    except TargetError as error:
        raise Refused(400, str(error), BAD_KEY) from None


def name_of(keyspace: Keyspace) -> str:
    """Return the name by which `find_keyspace` finds a keyspace again."""
    return keyspace.id.hex() if keyspace.index is None else f"{_DATABASE}{keyspace.index}"


def title_of(keyspace: Keyspace) -> str:
    return f"database {keyspace.index}" if keyspace.index is not None else keyspace.title or ""
