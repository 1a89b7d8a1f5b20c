"""Which interface a request speaks to.

The binding protocol owns the root: any path may be a key there. So what else is served has a path with a slash
in it (a Worker's keys have theirs escaped), or counts only without the marks of a Worker's request: the
header CF-KV-FLPROD-405 or X-KV-Namespace, or ``urlencoded=true``.

    /client/v4/…                     REST v4
    /kvd/v1/…                        what the original has not: streams, export, deletion by prefix
    /api/…                           what the dashboard asks
    /, /static/…                     the dashboard
    /livez /readyz /metrics          health and figures
    everything else                  a key
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kvd.web import binding, dashboard_api, extensions, health, rest, static
from kvd.web.errors import Refused, as_text

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from kvd.web.front import Route

_PREFIXES: Final[tuple[tuple[bytes, Callable[[Exchange], Route]], ...]] = (
    (b"/client/v4/", rest.route),
    (b"/kvd/v1/", extensions.route),
    (b"/api/", dashboard_api.route),
    (b"/static/", static.route),
)


def find_route(exchange: Exchange) -> Route:
    """Return the route of a request, with the arguments that its path holds. Raise `Refused`."""
    request = exchange.request
    exchange.dialect = as_text
    headers = request.headers
    if (
        b"urlencoded=true" in request.query
        or b"cf-kv-flprod-405" in headers
        or binding.NAMESPACE_HEADER in headers
    ):
        return binding.route(exchange)
    path = request.path
    for prefix, find in _PREFIXES:
        if path.startswith(prefix):
            return find(exchange)
    exact = health.ROUTES.get(path) or static.ROUTES.get(path)
    if exact is not None:
        exchange.kind = exact.kind
        if request.method not in {b"GET", b"HEAD"}:
            raise Refused(405, "Method Not Allowed", headers=b"Allow: GET, HEAD\r\n")
        return exact
    if request.method == b"OPTIONS":
        raise Refused(405, "Method Not Allowed", headers=b"Allow: GET, HEAD, PUT, POST, DELETE\r\n")
    return binding.route(exchange)
