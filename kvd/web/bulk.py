"""Many writes in one request.

All entries are checked before the first is written, so one bad entry refuses the request. A small request is
one atomic commit. A large one is written in slices, a commit each, with the other clients' turns between. What
comes between, such as a disk that fails or a token that is revoked, can then leave it half done; doing it again is
harmless.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import attrs

from kvd import json_text
from kvd.web import records, rules
from kvd.web.errors import BAD_KEY, BAD_METADATA, BAD_VALUE, Refused
from kvd.web.jobs import Job, Slice, Steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvd.server import Server
    from kvd.web.exchange import Exchange
    from kvd.web.items import ItemsBody
    from protocol.http_responses import Response
    from storage.store import Keyspace

# Up to so many entries and bytes of its body a request is one commit.
ATOMIC_ENTRIES: Final = 256
ATOMIC_BYTES: Final = 1 << 20


@attrs.frozen
class Entry:
    """One write that was checked. `expiration` and `expiration_ttl` are texts, resolved when it is written."""

    key: bytes
    value: bytes
    expiration: str | None
    expiration_ttl: str | None
    metadata: bytes | None


def read_entry(server: Server, item: Any) -> Entry:
    """Return the write that an item of a bulk put asks for. Raise `Refused`."""
    if not isinstance(item, dict):
        raise Refused(400, "it is not an object")
    name, value = item.get("key"), item.get("value")
    if not isinstance(name, str):
        raise Refused(400, "its key is not a string", BAD_KEY)
    if not isinstance(value, str):
        raise Refused(400, "its value is not a string", BAD_VALUE)
    key = rules.check_key(name)
    is_base64 = item.get("base64") or False
    if not isinstance(is_base64, bool):
        raise Refused(400, "its base64 is neither true nor false")
    content = _content(value, is_base64=is_base64)
    rules.check_value_length(server, len(content))
    expiration, expiration_ttl = _number(item, "expiration"), _number(item, "expiration_ttl")
    rules.expiry_ms(server, expiration, expiration_ttl)
    return Entry(key, content, expiration, expiration_ttl, _metadata(server, item))


def _content(value: str, *, is_base64: bool) -> bytes:
    try:
        return base64.b64decode(value, validate=True) if is_base64 else value.encode()
    except (binascii.Error, ValueError):
        raise Refused(
            400, "its value is not valid base64" if is_base64 else "its value is not text"
        ) from None


def _number(item: dict[str, Any], name: str) -> str | None:
    """Return a number as text; null is as good as nothing."""
    found = item.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        raise Refused(400, f"its {name} is not a number")
    return str(int(found)) if isinstance(found, float) and abs(found) < 1e15 else str(found)


def _metadata(server: Server, item: dict[str, Any]) -> bytes | None:
    metadata = item.get("metadata")
    if metadata is None:
        return None
    try:
        text = json_text.dump(metadata)
    except ValueError:
        raise Refused(400, "its metadata is not valid JSON", BAD_METADATA) from None
    return rules.check_metadata(server, text)


def put_all(
    exchange: Exchange,
    keyspace: Keyspace,
    body: ItemsBody,
    entries: list[Entry],
    finish: Callable[[int], Response],
) -> Response | Job:
    """Write the entries that `body` fills in, and answer with what `finish` gives for their number."""
    server = exchange.server

    def write(entry: Entry) -> int:
        expires_at_ms = rules.expiry_ms(server, entry.expiration, entry.expiration_ttl)
        records.put(keyspace, entry.key, entry.value, expires_at_ms, entry.metadata)
        return len(entry.value)

    return _do_all(exchange, "bulk put", body, entries, write, finish)


def delete_all(
    exchange: Exchange,
    keyspace: Keyspace,
    body: ItemsBody,
    keys: list[bytes],
    finish: Callable[[int], Response],
) -> Response | Job:
    """Delete the keys that `body` fills in, and answer with what `finish` gives for their number."""

    def delete(key: bytes) -> int:
        records.delete(keyspace, key)
        return len(key)

    return _do_all(exchange, "bulk delete", body, keys, delete, finish)


def _do_all(
    exchange: Exchange,
    name: str,
    body: ItemsBody,
    items: list[Any],
    do: Callable[[Any], int],
    finish: Callable[[int], Response],
) -> Response | Job:
    if not body.is_behind:
        body.finish()
        if len(items) <= ATOMIC_ENTRIES and body.size <= ATOMIC_BYTES:
            return _at_once(exchange.server, items, do, finish)
    return Job(name, _steps(exchange, body, items, do, finish))


def _at_once(
    server: Server, items: list[Any], do: Callable[[Any], int], finish: Callable[[int], Response]
) -> Response:
    with server.store.atomic():
        for item in items:
            do(item)
    return finish(len(items))


def _steps(
    exchange: Exchange,
    body: ItemsBody,
    items: list[Any],
    do: Callable[[Any], int],
    finish: Callable[[int], Response],
) -> Steps:
    while body.is_behind:
        body.go_on()
        yield b""
    body.finish()
    count = len(items)
    if count <= ATOMIC_ENTRIES and body.size <= ATOMIC_BYTES:
        return _at_once(exchange.server, items, do, finish)
    items.reverse()  # taken from the end, so that each is let go of with its own write, not all with the last
    part = Slice(exchange.front.pace)
    while items:
        if part.is_full(do(items.pop())):
            yield b""
            part.renew()
    yield b""  # the answer comes after the last commit
    return finish(count)
