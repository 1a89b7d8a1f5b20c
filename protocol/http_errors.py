"""What goes wrong between a client's bytes and an HTTP request.

An `HttpError` ends the connection after its answer: where the next request would start is unknown, or
not to be trusted. `text` goes out as the reason phrase, too, so it is plain ASCII.
"""

from __future__ import annotations


class HttpError(Exception):
    """The client's bytes are no request, or more than it may send."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class TargetError(ValueError):
    """A part of a request's target cannot be decoded; the request as such is sound."""
