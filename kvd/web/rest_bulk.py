"""REST v4: many keys in one request. The bodies are read while they are received (`items`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvd import json_text
from kvd.web import bulk, envelope, records, rules
from kvd.web.access import READ, WRITE
from kvd.web.binding import encode_value, find_many
from kvd.web.bodies import Body, BytesBody
from kvd.web.errors import BAD_KEY, Refused, as_envelope
from kvd.web.front import Route
from kvd.web.items import ItemsBody
from kvd.web.rest_namespaces import find_open, require
from protocol.http_responses import Response
from storage.record import METADATA, VALUE

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from kvd.web.jobs import Job

_GET_BODY_BYTES_MAX: Final = 1 << 20


def _open_put(exchange: Exchange) -> Body:
    keyspace = find_open(exchange, "put")
    require(exchange, WRITE, keyspace)
    entries: list[bulk.Entry] = []
    exchange.state = keyspace, entries

    def accept(number: int, item: Any) -> None:
        try:
            entry = bulk.read_entry(exchange.server, item)
        except Refused as refused:
            raise _of_entry(number, refused) from None
        require(exchange, WRITE, keyspace, entry.key)
        entries.append(entry)

    limit = exchange.server.settings.http.body_bytes_max
    return ItemsBody(exchange.front.pace, limit, rules.BULK_ENTRIES_MAX, accept)


def _put(exchange: Exchange) -> Response | Job:
    keyspace, entries = exchange.state
    return bulk.put_all(exchange, keyspace, exchange.body_of(ItemsBody), entries, _done)


def _of_entry(number: int, refused: Refused) -> Refused:
    """Return a refusal that says of which entry it is."""
    return Refused(refused.status, f"entry {number}: {refused.text}", refused.code)


def _open_delete(exchange: Exchange) -> Body:
    keyspace = find_open(exchange, "remove key")
    require(exchange, WRITE, keyspace)
    keys: list[bytes] = []
    exchange.state = keyspace, keys

    def accept(number: int, item: Any) -> None:
        name = item.get("name") if isinstance(item, dict) else item  # wrangler's list gives objects
        if not isinstance(name, str):
            raise Refused(400, f"entry {number}: it is not a key", BAD_KEY)
        try:
            key = rules.check_key(name)
        except Refused as refused:
            raise _of_entry(number, refused) from None
        require(exchange, WRITE, keyspace, key)
        keys.append(key)

    limit = exchange.server.settings.http.body_bytes_max
    return ItemsBody(exchange.front.pace, limit, rules.BULK_ENTRIES_MAX, accept)


def _delete(exchange: Exchange) -> Response | Job:
    keyspace, keys = exchange.state
    return bulk.delete_all(exchange, keyspace, exchange.body_of(ItemsBody), keys, _done)


def _done(count: int) -> Response:
    return envelope.result({"successful_key_count": count, "unsuccessful_keys": []})


def _open_get(exchange: Exchange) -> Body:
    require(exchange, READ, find_open(exchange, "bulk get keys"))
    return BytesBody(_GET_BODY_BYTES_MAX)


def _get(exchange: Exchange) -> Response:
    keyspace = find_open(exchange, "bulk get keys")
    found = exchange.body_of(BytesBody).json()
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise Refused(400, "the body has no list of keys")
    kind = found.get("type")
    if kind not in {None, "text", "json"}:
        raise Refused(400, f'"{kind}" is not a valid type. Use "json" or "text"')
    parts = []
    for name, record in find_many(exchange, keyspace, found["keys"]):
        value = b"null"
        if record is not None:
            value = encode_value(record[VALUE], is_json=kind == "json")
            if found.get("withMetadata"):
                expiration = records.expiry_of(record)
                end = b"" if expiration is None else b',"expiration":%d' % expiration
                value = b'{"value":%b,"metadata":%b%b}' % (value, record[METADATA] or b"null", end)
        parts.append(json_text.quote(name) + b":" + value)
    return envelope.success(b'{"values":{' + b",".join(parts) + b"}}")


_DELETE: Final = Route(_delete, as_envelope, "rest", open=_open_delete, writes=True)
BULK: Final = {b"PUT": Route(_put, as_envelope, "rest", open=_open_put, writes=True), b"DELETE": _DELETE}
DELETE: Final = {b"POST": _DELETE}
GET: Final = {b"POST": Route(_get, as_envelope, "rest", open=_open_get)}
