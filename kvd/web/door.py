"""The HTTP ports: who is let in, and the sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.http_responses import Response

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.session import Endpoint
    from kvd.web.front import Front
    from kvd.web.session import HttpSession

_FULL: Final = "max number of clients reached"
_TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"


class HttpDoor:
    """The door of HTTP clients. Implements `kvd.listeners.Door`."""

    protocol = "http"

    def __init__(self, server: Server, front: Front) -> None:
        self._server = server
        self._front = front

    def refusal(self, endpoint: Endpoint) -> bytes | None:
        server = self._server
        if server.client_count < server.settings.server.maxclients:
            return None
        server.stats.connections_rejected += 1
        self._front.date.update(server.store.now_ms)
        response = Response(503, _TEXT, _FULL.encode() + b"\n", reason=_FULL, close=True)
        return response.encode(self._front.date, keep_alive=False)

    def open(self, endpoint: Endpoint) -> HttpSession:
        return self._front.open(endpoint)
