"""What Workers KV does not have, under paths of its own.

    GET    /kvd/v1/namespaces/{ns}/changes[?prefix=P]          what changes, as server-sent events
    GET    /kvd/v1/namespaces/{ns}/export[?prefix=P]           every key with its value, as JSON lines
                                                               (of both: what who asks may read)
    DELETE /kvd/v1/namespaces/{ns}/keys?prefix=P               all keys under a prefix that who asks may write
    DELETE /kvd/v1/namespaces/{ns}/keys?all=true               all keys

A line of an export is an entry of a bulk put: ``{"key","value"[,"base64":true][,"expiration"][,"metadata"]}``.
A key that is no UTF-8 has ``"key_base64"`` instead. The export is not a snapshot: each key is as it is when its
turn comes; a line ``{"complete":true,"count":N}`` at the end tells it from one that broke off.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from kvd import json_text
from kvd.web import envelope, records
from kvd.web.access import READ, WRITE
from kvd.web.anywhere import find_open
from kvd.web.errors import NO_ROUTE, Refused, as_envelope
from kvd.web.feeds import Feed
from kvd.web.front import Route
from kvd.web.jobs import Job, Slice, Steps, streamed
from kvd.web.listing import Row
from kvd.web.rest_namespaces import require
from storage.record import METADATA, VALUE, Record

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from protocol.http_responses import Response
    from storage.store import Keyspace

_BASE: Final = b"/kvd/v1/namespaces/"
_NDJSON: Final = b"Content-Type: application/x-ndjson\r\n"
_ROWS: Final = 32
# What a deletion counts for in a slice: a row and its mark in the log.
_DELETION_BYTES: Final = 256


def _prefix(exchange: Exchange) -> bytes:
    return (exchange.parameter("prefix") or "").encode("utf-8", "replace")


def _changes(exchange: Exchange) -> Feed | Response:
    keyspace = find_open(exchange, READ)
    _check_version(exchange)
    return Feed(exchange, keyspace, _prefix(exchange))


def _check_version(exchange: Exchange) -> None:
    if not exchange.request.is_1_1:
        raise Refused(505, "a stream needs HTTP/1.1", NO_ROUTE)


# --- export


def _export(exchange: Exchange) -> Job:
    keyspace = find_open(exchange, READ)
    _check_version(exchange)
    lines = export_lines(exchange, keyspace)
    return Job("export", streamed(exchange, _NDJSON, lines), writes_head=True)


def export_lines(exchange: Exchange, keyspace: Keyspace) -> Iterator[bytes]:
    """Yield the lines of an export in pieces; each is a slice's work."""
    count = 0
    part = Slice(exchange.front.pace)
    lines: list[bytes] = []
    for row in _readable_rows(exchange, keyspace):
        size = 0
        if row is not None:
            lines.append(export_line(*row))
            count += 1
            size = len(lines[-1])
        if part.is_full(size):
            yield b"".join(lines)
            lines.clear()
            part.renew()
    yield b"".join(lines) + b'{"complete":true,"count":%d}\n' % count


def _readable_rows(exchange: Exchange, keyspace: Keyspace) -> Iterator[Row | None]:
    """Yield what who asks may read, and None now and then: there may be much to pass over, deleted or not for them."""
    prefix = _prefix(exchange)
    permits = exchange.access.permits
    after: bytes | None = None
    while True:
        keyspace.check_open()  # it may have closed since the last slice: what is still here is not all
        require(exchange, READ, keyspace)
        # Few rows at a time: each may hold a value of any size.
        found, after = keyspace.scan(prefix, after, _ROWS)
        for key, record in found:
            if type(record[VALUE]) is bytes and permits(READ, keyspace, key):
                yield key, record
        if after is None:
            return
        yield None


def export_line(key: bytes, record: Record) -> bytes:
    """Return one key with all that belongs to it, as a line of JSON."""
    line = b"{" + _text_or_base64(b"key", b"key_base64", key) + b"," + _value_member(record[VALUE])
    expiration = records.expiry_of(record)
    if expiration is not None:
        line += b',"expiration":%d' % expiration
    if record[METADATA] is not None:
        line += b',"metadata":' + record[METADATA].replace(b"\n", b" ").replace(b"\r", b" ")
    return line + b"}\n"


def _text_or_base64(name: bytes, name_base64: bytes, data: bytes) -> bytes:
    try:
        return b'"%b":%b' % (name, json_text.quote(data.decode("utf-8")))
    except UnicodeDecodeError:
        return b'"%b":"%b"' % (name_base64, base64.b64encode(data))


def _value_member(value: bytes) -> bytes:
    try:
        return b'"value":' + json_text.quote(value.decode("utf-8"))
    except UnicodeDecodeError:
        return b'"value":"%b","base64":true' % base64.b64encode(value)


# --- deletion by prefix


def _delete_keys(exchange: Exchange) -> Job | Response:
    keyspace = find_open(exchange, WRITE)
    prefix = _prefix(exchange)
    if prefix:
        return Job("delete by prefix", _delete_steps(exchange, keyspace, prefix))
    if exchange.parameter("all") != "true":
        raise Refused(400, "name a prefix, or say all=true to delete every key")
    require(exchange, WRITE, keyspace, b"")
    return envelope.result({"deleted": keyspace.flush()})


def _delete_steps(exchange: Exchange, keyspace: Keyspace, prefix: bytes) -> Steps:
    after: bytes | None = None
    deleted = 0
    part = Slice(exchange.front.pace)
    permits = exchange.access.permits
    while True:
        require(exchange, WRITE, keyspace)  # rules may have changed since the last slice
        found, after = keyspace.scan(prefix, after, _ROWS)
        deleted += sum(records.delete(keyspace, key) for key, _ in found if permits(WRITE, keyspace, key))
        if after is None:
            break
        if part.is_full(len(found) * _DELETION_BYTES):
            yield b""
            part.renew()
    yield b""
    return envelope.result({"deleted": deleted})


_ROUTES: Final = {
    (b"GET", b"changes"): Route(_changes, as_envelope, "extension"),
    (b"GET", b"export"): Route(_export, as_envelope, "extension"),
    (b"DELETE", b"keys"): Route(_delete_keys, as_envelope, "extension", writes=True),
}


def route(exchange: Exchange) -> Route:
    """Return the route of a request under /kvd/v1."""
    exchange.dialect = as_envelope
    exchange.kind = "extension"
    request = exchange.request
    namespace, _, below = request.path[len(_BASE) :].partition(b"/")
    found = _ROUTES.get((request.method, below)) if request.path.startswith(_BASE) else None
    if found is None or not namespace:
        raise Refused(404, "No route for that URI", NO_ROUTE)
    exchange.arguments = (namespace,)
    return found
