"""REST v4 as Cloudflare's clients speak it: namespaces, keys, values, metadata, bulk, and stubs for wrangler.

    /client/v4/accounts/{account}/storage/kv/namespaces[/{id}[/keys | /values/{key} | /metadata/{key} |
                                                              /bulk | /bulk/get | /bulk/delete]]

The account may be anything: there is one. The handlers are in `rest_namespaces`, `rest_values` and
`rest_bulk`; this module only finds them.

Source: Cloudflare's OpenAPI schema; wrangler and the official SDKs, which are right where they differ from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.web import envelope, rest_bulk, rest_namespaces, rest_values
from kvd.web.errors import as_envelope
from kvd.web.front import Route, route_of

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange, Handler
    from protocol.http_responses import Response

_BASE: Final = b"/client/v4"
# wrangler asks who it is; there is one account, whatever its id.
ACCOUNT: Final = {"id": "0" * 31 + "1", "name": "kvd"}


def _memberships(exchange: Exchange) -> Response:
    return envelope.result(
        [{"id": ACCOUNT["id"], "status": "accepted", "account": ACCOUNT, "roles": []}], _ONE
    )


def _accounts(exchange: Exchange) -> Response:
    return envelope.result([ACCOUNT], _ONE)


def _account(exchange: Exchange) -> Response:
    account_id = exchange.arguments[0].decode("ascii", "replace")
    return envelope.result({**ACCOUNT, "id": account_id})


def _user(exchange: Exchange) -> Response:
    return envelope.result({"id": ACCOUNT["id"], "email": "kvd@localhost", "username": exchange.access.name})


def _verify(exchange: Exchange) -> Response:
    return envelope.result({"id": exchange.access.name, "status": "active"})


_ONE: Final = {"page": 1, "per_page": 20, "count": 1, "total_count": 1, "total_pages": 1}


def _stub(handler: Handler) -> dict[bytes, Route]:
    return {b"GET": Route(handler, as_envelope, "rest")}


_EXACT: Final = {
    b"/memberships": _stub(_memberships),
    b"/accounts": _stub(_accounts),
    b"/user": _stub(_user),
    b"/user/tokens/verify": _stub(_verify),
}
# What follows the id of a namespace; {key} is everything after these two.
_WITH_KEY: Final = {b"values": rest_values.VALUE, b"metadata": rest_values.METADATA}
_BELOW: Final = {
    b"": rest_namespaces.ONE,
    b"keys": rest_values.KEYS,
    b"bulk": rest_bulk.BULK,
    b"bulk/get": rest_bulk.GET,
    b"bulk/delete": rest_bulk.DELETE,
}


def route(exchange: Exchange) -> Route:
    """Return the route of a request under /client/v4."""
    exchange.dialect = as_envelope
    exchange.kind = "rest"
    return route_of(_find(exchange, exchange.request.path[len(_BASE) :]), exchange.request.method)


def _find(exchange: Exchange, path: bytes) -> dict[bytes, Route] | None:
    """Return the routes of a path by method, and note its arguments."""
    exact = _EXACT.get(path)
    if exact is not None:
        return exact
    parts = path.split(b"/", 3)
    if len(parts) < 3 or parts[1] != b"accounts" or not parts[2]:
        return None
    if len(parts) == 3:
        exchange.arguments = (parts[2],)
        return _stub(_account)
    rest = parts[3]
    if rest in {b"storage/kv/namespaces", b"workers/namespaces"}:
        return rest_namespaces.ALL
    if not rest.startswith(b"storage/kv/namespaces/"):
        return None
    return _find_below(exchange, rest[len(b"storage/kv/namespaces/") :])


def _find_below(exchange: Exchange, rest: bytes) -> dict[bytes, Route] | None:
    namespace, _, below = rest.partition(b"/")
    kind, slash, key = below.partition(b"/")
    if slash and kind in _WITH_KEY:
        exchange.arguments = (namespace, key)
        return _WITH_KEY[kind]
    exchange.arguments = (namespace,)
    return _BELOW.get(below)
