"""The dashboard's files, from the package: read once, sent with a policy that lets nothing in from outside.

The page asks only this daemon, and runs only the scripts that are files here; so what is stored in the
daemon, and shown on the page, cannot become part of it.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from kvd.web.errors import NO_ROUTE, Refused, as_text
from kvd.web.front import Route
from kvd.web.records import matches
from protocol.http_responses import Response

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "png": b"image/png",
    "ico": b"image/x-icon",
    "woff2": b"font/woff2",
    "json": b"application/json",
    "webmanifest": b"application/manifest+json",
}
_POLICY: Final = (
    b"Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Referrer-Policy: no-referrer\r\n"
    b"Cross-Origin-Opener-Policy: same-origin\r\n"
    b"Cross-Origin-Resource-Policy: same-origin\r\n"
    b"Cache-Control: no-cache\r\n"
)
_INDEX: Final = "index.html"


class _Files:
    """The files, read when the first is asked for. Plain names without directories only."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[bytes, bytes]] | None = None  # name -> (headers, content)

    def get(self, name: str) -> tuple[bytes, bytes] | None:
        if self._found is None:
            self._found = dict(self._read())
        return self._found.get(name)

    @staticmethod
    def _read() -> list[tuple[str, tuple[bytes, bytes]]]:
        found = []
        for file in resources.files("kvd.web").joinpath("static").iterdir():
            content_type = _TYPES.get(file.name.rpartition(".")[2])
            if content_type is not None and file.is_file():
                content = file.read_bytes()
                tag = hashlib.sha256(content).hexdigest()[:16].encode()
                headers = b'Content-Type: %b\r\nETag: "%b"\r\n%b' % (content_type, tag, _POLICY)
                found.append((file.name, (headers, content)))
        return found


_files: Final = _Files()


def _send(exchange: Exchange, name: str) -> Response:
    found = _files.get(name)
    if found is None:
        raise Refused(404, "Not Found", NO_ROUTE)
    headers, content = found
    unwanted = exchange.header(b"if-none-match")
    tag = headers.partition(b"ETag: ")[2].partition(b"\r\n")[0]
    if unwanted is not None and matches(unwanted, tag):
        return Response(304, headers, stands_on_commit=False)
    return Response(200, headers, content, stands_on_commit=False)


def _index(exchange: Exchange) -> Response:
    return _send(exchange, _INDEX)


def _file(exchange: Exchange) -> Response:
    return _send(exchange, exchange.arguments[0].decode("ascii", "replace"))


_FILE: Final = Route(_file, as_text, "dashboard", is_public=True)
ROUTES: Final = {b"/": Route(_index, as_text, "dashboard", is_public=True)}


def route(exchange: Exchange) -> Route:
    """Return the route of a file."""
    exchange.kind = "dashboard"
    if exchange.request.method not in {b"GET", b"HEAD"}:
        raise Refused(405, "Method Not Allowed", headers=b"Allow: GET, HEAD\r\n")
    exchange.arguments = (exchange.request.path[len(b"/static/") :],)
    return _FILE
