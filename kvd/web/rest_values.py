"""REST v4: the keys of a namespace, their values and their metadata. What a PUT's body holds: see `values`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kvd import json_text
from kvd.web import envelope, records, rules
from kvd.web.access import READ, WRITE
from kvd.web.binding import VALUE_HEADERS, decode_key
from kvd.web.bodies import Body
from kvd.web.errors import KEY_NOT_FOUND, Refused, as_envelope
from kvd.web.front import Route
from kvd.web.listing import Form, Page, list_keys, shown_name
from kvd.web.metadata_filter import filter_of
from kvd.web.rest_namespaces import find_open, require, whole_number
from kvd.web.values import content_of, expiry_ms, open_value
from protocol.http_responses import Response
from storage.record import METADATA as METADATA_AT
from storage.record import VALUE as VALUE_AT
from storage.record import Record

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from kvd.web.jobs import Job
    from storage.store import Keyspace

_LIST_LIMIT_MIN: Final = 10


@attrs.frozen
class Target:
    """Which key a request is about."""

    keyspace: Keyspace
    key: bytes


def find_target(exchange: Exchange, operation: str, right: int) -> Target:
    """Return the key that the path names, if who asks may do this to it. Raise `Refused`."""
    keyspace = find_open(exchange, operation)
    try:
        key = rules.check_key(decode_key(exchange.arguments[1]))
    except Refused as refused:
        raise Refused(refused.status, f"{operation}: '{refused.text}'", refused.code) from None
    require(exchange, right, keyspace, key)
    return Target(keyspace, key)


# --- keys


def _keys(exchange: Exchange) -> Job:
    keyspace = find_open(exchange, "list keys")
    require(exchange, READ, keyspace)
    limit = whole_number(
        exchange.parameter("limit"), "limit", rules.LIST_LIMIT_MAX, _LIST_LIMIT_MIN, rules.LIST_LIMIT_MAX
    )
    prefix = (exchange.parameter("prefix") or "").encode("utf-8", "replace")
    rules.check_length(prefix)
    return list_keys(exchange, keyspace, prefix, limit, _LISTED, filter_of(exchange.parameters))


def _encode_row(key: bytes, record: Record) -> bytes:
    """Return what a list tells of one key. Metadata is the JSON that it is."""
    item = b'{"name":' + json_text.quote(shown_name(key))
    expiration = records.expiry_of(record)
    if expiration is not None:
        item += b',"expiration":%d' % expiration
    if record[METADATA_AT] is not None:
        item += b',"metadata":' + record[METADATA_AT]
    return item + b"}"


def answer_page(page: Page) -> Response:
    """Answer with a page whose keys are JSON."""
    rows = b"[" + b",".join(page.rows) + b"]"
    return envelope.success(rows, {"count": len(page.rows), "cursor": page.cursor})


_LISTED: Final = Form(_encode_row, answer_page)


# --- values


def _existing(target: Target) -> Record:
    record = records.find(target.keyspace, target.key)
    if record is None:
        raise Refused(404, "get: 'key not found'", KEY_NOT_FOUND)
    return record


def _get(exchange: Exchange) -> Response:
    target = find_target(exchange, "get", READ)
    record = _existing(target)
    tag = records.etag(target.keyspace, record)
    headers = b"%bETag: %b\r\n" % (VALUE_HEADERS, tag)
    expiration = records.expiry_of(record)
    if expiration is not None:
        headers += b"expiration: %d\r\n" % expiration
    unwanted = exchange.header(b"if-none-match")
    if unwanted is not None and records.matches(unwanted, tag):
        return Response(304, headers)
    return Response(200, headers, record[VALUE_AT])


def _open_put(exchange: Exchange) -> Body:
    exchange.state = find_target(exchange, "put", WRITE)
    expiry_ms(exchange)
    return open_value(exchange)


def _put(exchange: Exchange) -> Response:
    target: Target = exchange.state
    value, metadata = content_of(exchange)
    records.check_conditions(exchange, target.keyspace, target.key)
    records.put(target.keyspace, target.key, value, expiry_ms(exchange), metadata)
    response = envelope.success(b"{}")
    record = target.keyspace.get(target.key)
    if record is not None:
        response.headers += b"ETag: %b\r\n" % records.etag(target.keyspace, record)
    return response


def _delete(exchange: Exchange) -> Response:
    target = find_target(exchange, "remove key", WRITE)
    records.check_conditions(exchange, target.keyspace, target.key)
    records.delete(target.keyspace, target.key)
    return envelope.success(b"{}")


def _metadata(exchange: Exchange) -> Response:
    target = find_target(exchange, "get", READ)
    metadata = _existing(target)[METADATA_AT]
    return envelope.success(metadata if metadata is not None else envelope.NULL)


KEYS: Final = {b"GET": Route(_keys, as_envelope, "rest")}
VALUE: Final = {
    b"GET": Route(_get, as_envelope, "rest"),
    b"PUT": Route(_put, as_envelope, "rest", open=_open_put, writes=True),
    b"DELETE": Route(_delete, as_envelope, "rest", writes=True),
}
METADATA: Final = {b"GET": Route(_metadata, as_envelope, "rest")}
