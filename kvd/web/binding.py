"""The binding protocol: what a Worker's ``env.NS.get``, ``put``, ``list`` and ``delete`` become on the wire.

    GET    /{key}?urlencoded=true[&cache_ttl=N]                     the value; 404 is null in the Worker
    PUT    /{key}?urlencoded=true[&expiration=N][&expiration_ttl=N] the value; metadata in CF-KV-Metadata
    DELETE /{key}?urlencoded=true
    GET    /?[key_count_limit=N][&prefix=P][&cursor=C]              a page of keys
    POST   /bulk/get                                                up to a hundred values as one JSON object

Which namespace is meant says the header X-KV-Namespace (id or title), which the runtime's configuration adds;
without it, it is the one of the setting `http.namespace`. A namespace that does not exist is a 400: a 404
would be a missing key to the Worker. An error's text is its reason phrase.

Source: workerd's ``kv.c++`` and miniflare's KV simulator; nothing of it is documented by its makers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from kvd import json_text
from kvd.web import records, rules
from kvd.web.access import READ, WRITE
from kvd.web.bodies import Body, BytesBody
from kvd.web.errors import BAD_KEY, JSON, KEY_NOT_FOUND, Refused, as_text
from kvd.web.front import Route
from kvd.web.hot import Found
from kvd.web.listing import Form, Page, list_keys, shown_name
from protocol.http_errors import TargetError
from protocol.http_responses import Response
from protocol.http_targets import decode_text
from storage.record import METADATA, NEVER, VALUE, Record

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from kvd.web.jobs import Job
    from storage.store import Keyspace

NAMESPACE_HEADER: Final = b"x-kv-namespace"
# A value may be anything, a page with scripts included, and a browser must not take it for one.
VALUE_HEADERS: Final = b"Content-Type: application/octet-stream\r\nX-Content-Type-Options: nosniff\r\n"
_BULK_BYTES_MAX: Final = 1 << 20
_BULK_ANSWER_BYTES_MAX: Final = 25 << 20
_OK: Final = Response(200)


@attrs.frozen
class Put:
    """What the head of a PUT says."""

    keyspace: Keyspace | None  # None: the default namespace, which is still to be made
    key: bytes
    metadata: bytes | None


# --- finding out what is meant


def find_keyspace(exchange: Exchange) -> Keyspace | None:
    """Return the namespace of the request; None for the default one while nothing was written to it."""
    keyspaces = exchange.server.store.keyspaces
    name = exchange.request.headers.get(NAMESPACE_HEADER)
    keyspace = keyspaces.find(exchange.server.settings.http.namespace if name is None else name)
    if keyspace is not None:
        keyspace.check_open()
    elif name is not None:
        raise Refused(400, "namespace not found")
    return keyspace


def _key(exchange: Exchange) -> bytes:
    part = exchange.request.path[1:]
    if b"urlencoded=true" not in exchange.request.query:
        # As miniflare: who does not say that the key is encoded has it taken as it stands.
        return rules.check_key(part.decode("utf-8", "replace"))
    return rules.check_key(decode_key(part))


def decode_key(part: bytes) -> str:
    """Percent-decode a key once. Raise `Refused`."""
    try:
        return decode_text(part)
    except TargetError:
        raise Refused(400, "Could not URL-decode key name", BAD_KEY) from None


def require(exchange: Exchange, right: int, keyspace: Keyspace | None, key: bytes | None = None) -> None:
    """Refuse who may not do this."""
    if not exchange.access.permits(right, keyspace, key):
        raise Refused(403, "Authentication error", 10000)


# --- get


def get(exchange: Exchange) -> Response:
    # Hot: this is what a store is for.
    key = _key(exchange)
    keyspace = find_keyspace(exchange)
    require(exchange, READ, keyspace, key)
    query = exchange.request.query
    if b"cache_ttl" in query:
        rules.check_cache_ttl(exchange.parameters.get("cache_ttl"))
    record = None if keyspace is None else records.find(keyspace, key)
    if record is None:
        raise Refused(404, "Not Found", KEY_NOT_FOUND)
    assert keyspace is not None
    exchange.state = Found(keyspace, _title_meant(exchange, keyspace), key, record)
    headers = _headers_of(keyspace, record)
    unwanted = exchange.request.headers.get(b"if-none-match")
    if unwanted is not None and records.matches(unwanted, records.etag(keyspace, record)):
        return Response(304, headers)
    return Response(200, headers, record[VALUE])


def _title_meant(exchange: Exchange, keyspace: Keyspace) -> str | None:
    """Return the title by which the request has named its namespace; None if by its id."""
    name = exchange.request.headers.get(NAMESPACE_HEADER)
    if name is None:
        return keyspace.title
    return None if name.lower() == keyspace.id.hex().encode() else keyspace.title


def _headers_of(keyspace: Keyspace, record: Record) -> bytes:
    headers = b"%bETag: %b\r\n" % (VALUE_HEADERS, records.etag(keyspace, record))
    metadata = record[METADATA]
    if metadata is not None:
        headers += b"CF-KV-Metadata: %b\r\n" % one_line(metadata)
    expiration = records.expiry_of(record)
    return headers if expiration is None else b"%bCF-Expiration: %d\r\n" % (headers, expiration)


def one_line(metadata: bytes) -> bytes:
    """Return metadata as it may stand in a header: a JSON text's line breaks are blanks between its tokens."""
    if b"\n" in metadata or b"\r" in metadata:
        return metadata.replace(b"\r", b" ").replace(b"\n", b" ")
    return metadata


# --- put and delete


def open_put(exchange: Exchange) -> Body:
    """Check what the head of a PUT says, and take its body as it is."""
    key = _key(exchange)
    keyspace = find_keyspace(exchange)
    require(exchange, WRITE, keyspace, key)
    _expiry_ms(exchange)
    metadata = exchange.header(b"cf-kv-metadata")
    if metadata is not None:
        rules.check_metadata(exchange.server, metadata)
    exchange.state = Put(keyspace, key, metadata)
    return BytesBody(exchange.server.store.limits.value_bytes_max)


def put(exchange: Exchange) -> Response:
    found: Put = exchange.state
    body = exchange.body
    value = b""
    if body is not None:
        assert isinstance(body, BytesBody)
        rules.check_value_length(exchange.server, body.size)
        value = body.content()
    keyspace = found.keyspace if found.keyspace is not None else _make_default(exchange)
    records.check_conditions(exchange, keyspace, found.key)
    records.put(keyspace, found.key, value, _expiry_ms(exchange), found.metadata)
    return _written(keyspace, found.key)


def _written(keyspace: Keyspace, key: bytes) -> Response:
    record = keyspace.get(key)
    return _OK if record is None else Response(200, b"ETag: %b\r\n" % records.etag(keyspace, record))


def _expiry_ms(exchange: Exchange) -> int:
    if b"expiration" not in exchange.request.query:
        return NEVER
    parameters = exchange.parameters
    return rules.expiry_ms(exchange.server, parameters.get("expiration"), parameters.get("expiration_ttl"))


def _make_default(exchange: Exchange) -> Keyspace:
    keyspaces = exchange.server.store.keyspaces
    title = exchange.server.settings.http.namespace
    return keyspaces.find(title) or keyspaces.create(title)


def delete(exchange: Exchange) -> Response:
    key = _key(exchange)
    keyspace = find_keyspace(exchange)
    require(exchange, WRITE, keyspace, key)
    if keyspace is not None:
        records.check_conditions(exchange, keyspace, key)
        records.delete(keyspace, key)
    return _OK


# --- list


def list_(exchange: Exchange) -> Job:
    keyspace = find_keyspace(exchange)
    require(exchange, READ, keyspace)
    prefix = (exchange.parameter("prefix") or "").encode("utf-8", "replace")
    rules.check_length(prefix)
    limit = _list_limit(exchange.parameter("key_count_limit"))
    return list_keys(exchange, keyspace, prefix, limit, _LISTED)


def _list_limit(text: str | None) -> int:
    if text is None:
        return rules.LIST_LIMIT_MAX
    limit = rules.parse_int(text)
    if limit is None or limit < 1:
        raise Refused(400, f"Invalid key_count_limit of {text}. Please specify an integer greater than 0.")
    if limit > rules.LIST_LIMIT_MAX:
        raise Refused(400, f"Invalid key_count_limit of {text}. Please specify an integer less than 1000.")
    return limit


def _encode_row(key: bytes, record: Record) -> bytes:
    """Return a key as JSON. Metadata is a JSON string that holds JSON, as workerd expects it."""
    item = b'{"name":' + json_text.quote(shown_name(key))
    expiration = records.expiry_of(record)
    if expiration is not None:
        item += b',"expiration":%d' % expiration
    if record[METADATA] is not None:
        item += b',"metadata":' + json_text.quote(record[METADATA].decode("utf-8", "replace"))
    return item + b"}"


def _answer_page(page: Page) -> Response:
    end = b'"list_complete":true}' if not page.cursor else b'"list_complete":false,"cursor":"%b"}'
    if page.cursor:
        end %= page.cursor.encode()
    return Response(200, JSON, b'{"keys":[' + b",".join(page.rows) + b"]," + end)


_LISTED: Final = Form(_encode_row, _answer_page)


# --- bulk get


def open_bulk_get(exchange: Exchange) -> Body:
    require(exchange, READ, find_keyspace(exchange))
    return BytesBody(_BULK_BYTES_MAX)


def bulk_get(exchange: Exchange) -> Response:
    found = exchange.body_of(BytesBody).json()
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise Refused(400, "the body has no list of keys")
    kind = found.get("type")
    if kind not in {None, "text", "json"}:
        raise Refused(400, f'"{kind}" is not a valid type. Use "json" or "text"')
    cache_ttl = found.get("cacheTtl")
    rules.check_cache_ttl(None if cache_ttl is None else str(cache_ttl))
    keyspace = find_keyspace(exchange)
    parts = []
    for name, record in find_many(exchange, keyspace, found["keys"]):
        value = b"null"
        if record is not None:
            value = encode_value(record[VALUE], is_json=kind == "json")
            if found.get("withMetadata"):
                value = b'{"value":%b,"metadata":%b}' % (value, record[METADATA] or b"null")
        parts.append(json_text.quote(name) + b":" + value)
    return Response(200, JSON, b"{" + b",".join(parts) + b"}")


def find_many(
    exchange: Exchange, keyspace: Keyspace | None, names: list[Any]
) -> list[tuple[str, Record | None]]:
    """Return each of the keys once, with its record. Raise `Refused` for what a bulk read may not ask."""
    if len(names) > rules.BULK_GET_KEYS_MAX:
        raise Refused(400, f"You can request a maximum of {rules.BULK_GET_KEYS_MAX} keys")
    if not names:
        raise Refused(400, "You must request a minimum of 1 key")
    wanted: dict[str, bytes] = {}
    for name in names:
        if not isinstance(name, str):
            raise Refused(400, "a key is not a string", BAD_KEY)
        wanted[name] = rules.check_key(name)
    found: list[tuple[str, Record | None]] = []
    size = 0
    for name, key in wanted.items():
        require(exchange, READ, keyspace, key)
        record = None if keyspace is None else records.find(keyspace, key)
        size += 0 if record is None else len(record[VALUE])
        if size > _BULK_ANSWER_BYTES_MAX:
            raise Refused(413, "Total size of request exceeds the limit of 25MB")
        found.append((name, record))
    return found


def encode_value(value: bytes, *, is_json: bool) -> bytes:
    """Return a value as JSON: its text as a string, or as the JSON that it is."""
    if not is_json:
        return json_text.quote(value.decode("utf-8", "replace"))
    try:
        json_text.load(value)
    except ValueError:
        raise Refused(400, "At least one of the requested keys corresponds to a non-json value") from None
    return value


# --- routes

GET: Final = Route(get, as_text, "binding")
PUT: Final = Route(put, as_text, "binding", open=open_put, writes=True)
DELETE: Final = Route(delete, as_text, "binding", writes=True)
LIST: Final = Route(list_, as_text, "binding")
BULK_GET: Final = Route(bulk_get, as_text, "binding", open=open_bulk_get)
_BY_METHOD: Final = {b"GET": GET, b"HEAD": GET, b"PUT": PUT, b"DELETE": DELETE}


def route(exchange: Exchange) -> Route:
    """Return the route of a request of the binding protocol."""
    exchange.kind = "binding"
    request = exchange.request
    method, path = request.method, request.path
    if path == b"/bulk/get" and method == b"POST":
        return BULK_GET
    found = _BY_METHOD.get(method)
    if found is None:
        raise Refused(405, "Method Not Allowed", headers=b"Allow: GET, HEAD, PUT, DELETE\r\n")
    return LIST if found is GET and path == b"/" else found
