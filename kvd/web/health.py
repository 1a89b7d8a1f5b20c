"""Health and figures: /livez, /readyz and /metrics.

The first two are answered to everybody who may connect, as what starts and watches daemons has no
credentials; they tell nothing but yes or no and why not. /metrics needs the right to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.dispatch import write_refusal
from kvd.web import metrics
from kvd.web.access import READ
from kvd.web.errors import AUTHENTICATION, TEXT, Refused, as_text
from kvd.web.front import Route
from protocol.http_responses import Response

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange

_NO_STORE: Final = TEXT + b"Cache-Control: no-store\r\n"


def _livez(exchange: Exchange) -> Response:
    """Answer: who gets this answer has talked to a daemon whose hub turns."""
    return Response(200, _NO_STORE, b"ok\n", stands_on_commit=False)


def _readyz(exchange: Exchange) -> Response:
    """Tell whether clients can read and write here."""
    server = exchange.server
    if server.hub is not None and server.hub.is_draining:
        return _not_ready("stopping")
    refusal = write_refusal(server)
    if refusal is not None:
        return _not_ready(refusal.text)
    return Response(200, _NO_STORE, b"ok\n", stands_on_commit=False)


def _not_ready(why: str) -> Response:
    return Response(503, _NO_STORE, why.encode() + b"\n", stands_on_commit=False)


def _metrics(exchange: Exchange) -> Response:
    if not exchange.access.permits(READ, None):
        raise Refused(403, "Authentication error", AUTHENTICATION)
    body = metrics.render(exchange.server).encode()
    return Response(200, metrics.CONTENT_TYPE, body, stands_on_commit=False)


ROUTES: Final = {
    b"/livez": Route(_livez, as_text, "health", is_public=True),
    b"/readyz": Route(_readyz, as_text, "health", is_public=True),
    b"/metrics": Route(_metrics, as_text, "health"),
}
