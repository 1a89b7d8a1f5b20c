"""A client's bytes to requests."""

from __future__ import annotations

from protocol.errors import ProtocolError, UnauthenticatedLimitError
from protocol.multibulk import Limits, MultibulkReader, Request


class RequestReader:
    """Reads a client's stream; after a protocol error it is poisoned and reads no more."""

    __slots__ = ("_exact", "error", "held")

    def __init__(self, limits: Limits | None = None, *, authenticated: bool = True) -> None:
        self._exact = MultibulkReader(limits or Limits(), authenticated=authenticated)
        self.error: ProtocolError | None = None
        self.held = False

    @property
    def limits(self) -> Limits:
        return self._exact.limits

    @property
    def authenticated(self) -> bool:
        return self._exact.authenticated

    @authenticated.setter
    def authenticated(self, value: bool) -> None:
        self._exact.authenticated = value

    @property
    def pending_bytes(self) -> int:
        """Bytes received that belong to no request returned so far."""
        return self._exact.pending_bytes

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that `data` completes, in order."""
        if self.error is not None:
            return []
        self.held = False
        requests: list[Request] = []
        self._exact.feed(data)
        try:
            while (request := self._exact.next()) is not None:
                requests.append(request)
        except UnauthenticatedLimitError as error:
            if requests:
                self.held = True
            else:
                self.error = error
        except ProtocolError as error:
            self.error = error
        return requests
