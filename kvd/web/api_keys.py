"""The dashboard's namespaces, keys and values. Endpoints and fields: see `dashboard_api`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import attrs

from kvd import json_text
from kvd.web import anywhere, envelope, records, rules
from kvd.web.access import ADMIN, READ, WRITE, greatest_right
from kvd.web.binding import VALUE_HEADERS
from kvd.web.bodies import Body, BytesBody
from kvd.web.errors import AUTHENTICATION, KEY_NOT_FOUND, Refused, as_envelope
from kvd.web.front import Route
from kvd.web.listing import Filter, Form, list_keys, shown_name
from kvd.web.metadata_filter import filter_of
from kvd.web.rest_namespaces import title_of, whole_number
from kvd.web.rest_values import answer_page
from kvd.web.values import content_of, expiry_ms, open_value
from protocol.http_responses import Response
from storage.record import EXPIRES_AT, METADATA, NEVER, VALUE, VALUE_STAMP, Record

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from kvd.web.jobs import Job
    from storage.store import Keyspace

_PAGE: Final = 100
_BODY_BYTES_MAX: Final = 64 << 10
# More of a value than this no page can show.
_SHOWN_BYTES_MAX: Final = 1 << 20


@attrs.frozen
class _Target:
    keyspace: Keyspace
    key: bytes


# --- namespaces


def _namespaces(exchange: Exchange) -> Response:
    store = exchange.server.store
    databases = [store.keyspace(index) for index in range(exchange.server.settings.compat.databases)]
    shown = [*store.keyspaces.all(), *(one for one in databases if one.count)]
    permits = exchange.access.permits
    return envelope.result([_describe(exchange, one) for one in shown if permits(READ, one)])


def _describe(exchange: Exchange, keyspace: Keyspace) -> dict[str, Any]:
    return {
        "id": anywhere.name_of(keyspace),
        "title": anywhere.title_of(keyspace),
        "keys": keyspace.count,
        "expires": keyspace.expires,
        "hits": keyspace.hits,
        "misses": keyspace.misses,
        "right": greatest_right(exchange.access, keyspace),
        "is_database": keyspace.index is not None,
        "group": keyspace.group,
        "is_carried": exchange.server.store.keyspaces.carries(keyspace.group),
    }


def _open_create(exchange: Exchange) -> Body:
    if not exchange.access.permits(ADMIN, None):
        raise Refused(403, "Authentication error", AUTHENTICATION)
    return BytesBody(_BODY_BYTES_MAX)


def _create(exchange: Exchange) -> Response:
    made = exchange.server.store.keyspaces.create(
        title_of(exchange.body_of(BytesBody).json(), "create namespace")
    )
    return envelope.result(_describe(exchange, made))


def _named(exchange: Exchange) -> Keyspace:
    keyspace = anywhere.find_keyspace(exchange, ADMIN)
    if keyspace.index is not None:
        raise Refused(400, "a numbered database can be neither renamed nor deleted")
    return keyspace


def _one(exchange: Exchange) -> Response:
    return envelope.result(_describe(exchange, anywhere.find_keyspace(exchange, READ)))


def _open_rename(exchange: Exchange) -> Body:
    _named(exchange)
    return BytesBody(_BODY_BYTES_MAX)


def _rename(exchange: Exchange) -> Response:
    keyspace = _named(exchange)
    title = title_of(exchange.body_of(BytesBody).json(), "rename namespace")
    exchange.server.store.keyspaces.rename(keyspace.id, title)
    return envelope.result(_describe(exchange, keyspace))


def _drop(exchange: Exchange) -> Response:
    keyspace = _named(exchange)
    store = exchange.server.store
    with store.atomic():
        store.keyspaces.delete(keyspace.id)
    return envelope.success(envelope.NULL)


# --- keys


def _keys(exchange: Exchange) -> Job:
    return _page(exchange, filter_of(exchange.parameters))


def _search(exchange: Exchange) -> Job:
    text = (exchange.parameter("text") or "").lower()

    def holds(key: bytes, record: Record) -> bool:
        return text in shown_name(key).lower() or text in shown_name(record[METADATA] or b"").lower()

    return _page(exchange, holds if text else None)


def _page(exchange: Exchange, wanted: Filter | None) -> Job:
    keyspace = anywhere.find_open(exchange, READ)
    limit = whole_number(exchange.parameter("limit"), "limit", _PAGE, 1, rules.LIST_LIMIT_MAX)
    prefix = (exchange.parameter("prefix") or "").encode("utf-8", "replace")
    return list_keys(exchange, keyspace, prefix, limit, _LISTED, wanted)


def _row(key: bytes, record: Record) -> bytes:
    size = len(record[VALUE]) if type(record[VALUE]) is bytes else 0
    row = b'{"name":%b,"path":"%b","size":%d' % (json_text.quote(shown_name(key)), _path(key), size)
    expiration = records.expiry_of(record)
    if expiration is not None:
        row += b',"expiration":%d' % expiration
    if record[METADATA] is not None:
        row += b',"metadata":' + record[METADATA]
    return row + b"}"


_LISTED: Final = Form(_row, answer_page)


def _path(key: bytes) -> bytes:
    return quote(key, safe="").encode()


# --- one key


def _target(exchange: Exchange, right: int) -> _Target:
    key = anywhere.raw_key(exchange.arguments[1])
    return _Target(anywhere.find_open(exchange, right, key), key)


def _existing(target: _Target) -> Record:
    record = records.find(target.keyspace, target.key)
    if record is None:
        raise Refused(404, "key not found", KEY_NOT_FOUND)
    return record


def _details(exchange: Exchange) -> Response:
    target = _target(exchange, READ)
    record = _existing(target)
    keyspace, register = target.keyspace, record[VALUE_STAMP]
    assert register is not None, "a live record has a value register"
    version = keyspace.store.describe(register)
    shown, is_text = _shown(record[VALUE])
    metadata = record[METADATA]
    fields = {
        "name": shown_name(target.key),
        "path": _path(target.key).decode(),
        "size": len(record[VALUE]),
        "is_text": is_text,
        "value": shown,
        "is_cut": len(record[VALUE]) > _SHOWN_BYTES_MAX,
        "etag": records.etag(keyspace, record).decode(),
        "origin": version.origin.hex(),
        "written_at_ms": version.ms,
        "expiration": records.expiry_of(record),
        "expires_at_ms": None if record[EXPIRES_AT] == NEVER else record[EXPIRES_AT],
        "metadata_text": None if metadata is None else metadata.decode("utf-8", "replace"),
    }
    body = json_text.dump(fields)
    return envelope.success(body[:-1] + b',"metadata":' + (metadata or b"null") + b"}")


def _shown(value: bytes) -> tuple[str, bool]:
    """Return a value as a page can show it, and whether that is its text (else base64)."""
    part = value[:_SHOWN_BYTES_MAX]
    for cut in range(4):  # the cut may have gone through a character
        try:
            return part[: len(part) - cut].decode("utf-8"), True
        except UnicodeDecodeError:
            if len(part) == len(value):
                break
    return base64.b64encode(part).decode(), False


def _value(exchange: Exchange) -> Response:
    target = _target(exchange, READ)
    record = _existing(target)
    headers = b"%bETag: %b\r\n" % (VALUE_HEADERS, records.etag(target.keyspace, record))
    if exchange.parameter("download") is not None:
        headers += b"Content-Disposition: attachment; filename*=UTF-8''%b\r\n" % _path(target.key)
    return Response(200, headers, record[VALUE])


def _open_put(exchange: Exchange) -> Body:
    exchange.state = _target(exchange, WRITE)
    expiry_ms(exchange)
    return open_value(exchange)


def _put(exchange: Exchange) -> Response:
    target: _Target = exchange.state
    value, metadata = content_of(exchange)
    records.check_conditions(exchange, target.keyspace, target.key)
    records.put(target.keyspace, target.key, value, expiry_ms(exchange), metadata)
    record = target.keyspace.get(target.key)
    tag = None if record is None else records.etag(target.keyspace, record).decode()
    return envelope.result({"etag": tag})


def _delete(exchange: Exchange) -> Response:
    target = _target(exchange, WRITE)
    records.check_conditions(exchange, target.keyspace, target.key)
    records.delete(target.keyspace, target.key)
    return envelope.success(envelope.NULL)


ALL: Final = {
    b"GET": Route(_namespaces, as_envelope, "dashboard"),
    b"POST": Route(_create, as_envelope, "dashboard", open=_open_create, writes=True),
}
ONE: Final = {
    b"GET": Route(_one, as_envelope, "dashboard"),
    b"PUT": Route(_rename, as_envelope, "dashboard", open=_open_rename, writes=True),
    b"DELETE": Route(_drop, as_envelope, "dashboard", writes=True),
}
BELOW: Final = {
    b"keys": {b"GET": Route(_keys, as_envelope, "dashboard")},
    b"search": {b"GET": Route(_search, as_envelope, "dashboard")},
}
WITH_KEY: Final = {
    b"keys": {b"GET": Route(_details, as_envelope, "dashboard")},
    b"values": {
        b"GET": Route(_value, as_envelope, "dashboard"),
        b"PUT": Route(_put, as_envelope, "dashboard", open=_open_put, writes=True),
        b"DELETE": Route(_delete, as_envelope, "dashboard", writes=True),
    },
}
