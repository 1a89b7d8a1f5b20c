"""What the dashboard asks, as JSON under /api. Everything is in the envelope of REST v4 unless it says raw.

{ns} is the id of a namespace or ``db0`` ... ``db15``; {key} is any bytes, percent-encoded, and may hold slashes;
it may be empty, as Redis' may.
A login is a token (or ``Basic`` with a user of the ACL) in the header Authorization of each request; there are no
cookies. While nothing is protected, and on this machine, no header is needed.

    GET    /api/session                      {name, right, is_open, version, node}; 401 asks for a login
    GET    /api/namespaces                   [{id, title, keys, expires, hits, misses, right,
                                             is_database, group, is_carried}]
    POST   /api/namespaces                   {title} → namespace                                    (admin)
    PUT    /api/namespaces/{ns}              {title} → namespace                                    (admin)
    DELETE /api/namespaces/{ns}              null                                                   (admin)
    GET    /api/namespaces/{ns}/keys         ?prefix= &cursor= &limit=100 (1..1000) &metadata.x=
                                             [{name, path, size, expiration?, metadata?}], result_info {count, cursor};
                                             `path` is the key percent-encoded, for {key} below; `name` is for people
    GET    /api/namespaces/{ns}/search       ?text= &prefix= &cursor= &limit=: the same, keys or metadata holding the
                                             text; a page may be empty and have a cursor: go on with it
    GET    /api/namespaces/{ns}/keys/{key}   {name, path, size, is_text, value (text, or base64), is_cut, etag, origin,
                                             written_at_ms, expiration, expires_at_ms, metadata, metadata_text};
                                             a value above 1 MiB is cut to that
    GET    /api/namespaces/{ns}/values/{key} raw: the value; ?download=1 names it as a file
    PUT    /api/namespaces/{ns}/values/{key} ?expiration= &expiration_ttl=; body: the value, or multipart/form-data with
                                             `value` and `metadata`; If-Match: "etag" or If-None-Match: * for safe
                                             edits (412 otherwise) → {etag}
    DELETE /api/namespaces/{ns}/values/{key} null; If-Match as above
    GET    /api/members                      {standing, is_alone, members: [{node, is_self, state, addresses, zone,
                                             software, is_linked, rtt_ms, offset_ms, lag_dots, lag_seconds, queue_bytes,
                                             sent_bytes, received_bytes}]}
    GET    /api/figures                      live figures, to be asked once a second: counters since the start (take
                                             differences) and gauges: see `_figures`
    GET    /api/tokens                       [{id, name, right, namespaces, created_ms, expires_ms}]  (admin)
    POST   /api/tokens                       {name, right, namespaces?: [id or title], expires_in_seconds?} → the same and
                                             `token`, which is shown this once                        (admin)
    DELETE /api/tokens/{id}                  null                                                     (admin)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.web import api_keys, api_server, api_tokens
from kvd.web.errors import as_envelope
from kvd.web.front import route_of

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from kvd.web.front import Route

_BASE: Final = b"/api/"


def route(exchange: Exchange) -> Route:
    """Return the route of a request under /api."""
    exchange.dialect = as_envelope
    exchange.kind = "dashboard"
    return route_of(_find(exchange, exchange.request.path[len(_BASE) :]), exchange.request.method)


def _find(exchange: Exchange, path: bytes) -> dict[bytes, Route] | None:
    exact = api_server.ROUTES.get(path)
    if exact is not None:
        return exact
    collection, _, rest = path.partition(b"/")
    if collection == b"tokens":
        exchange.arguments = (rest,)
        return api_tokens.ONE if rest else api_tokens.ALL
    if collection != b"namespaces":
        return None
    namespace, _, below = rest.partition(b"/")
    kind, slash, key = below.partition(b"/")
    exchange.arguments = (namespace, key)
    if not below:
        return api_keys.ONE if namespace else api_keys.ALL
    return api_keys.WITH_KEY.get(kind) if slash else api_keys.BELOW.get(kind)
