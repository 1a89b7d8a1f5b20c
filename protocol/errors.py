"""What goes wrong between a client's bytes and a request.

A `ProtocolError` ends the connection: after it the place where the next request starts is
unknown. Its `text` is what the client is told, behind the code word ``ERR``.

Source: Redis 7.2, the texts of its query buffer parser.
"""

from __future__ import annotations

from typing import Final


class ProtocolError(Exception):
    """The client's bytes are no request. `text` has no code word and no leading ``-``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class UnauthenticatedLimitError(ProtocolError):
    """The request is too large for a client that has not authenticated; later it would be legal."""


INVALID_COUNT: Final = "Protocol error: invalid multibulk length"
INVALID_SIZE: Final = "Protocol error: invalid bulk length"
COUNT_LINE_TOO_BIG: Final = "Protocol error: too big mbulk count string"
SIZE_LINE_TOO_BIG: Final = "Protocol error: too big bulk count string"
INLINE_TOO_BIG: Final = "Protocol error: too big inline request"
UNBALANCED_QUOTES: Final = "Protocol error: unbalanced quotes in request"
UNAUTHENTICATED_COUNT: Final = "Protocol error: unauthenticated multibulk length"
UNAUTHENTICATED_SIZE: Final = "Protocol error: unauthenticated bulk length"


def expected_bulk(got: int) -> ProtocolError:
    """Return the error for the byte `got` where the ``$`` of an argument should stand."""
    # A byte beyond ASCII travels through the text as a surrogate escape: out as it came in.
    shown = bytes((got,)).decode("utf-8", "surrogateescape")
    return ProtocolError(f"Protocol error: expected '$', got '{shown}'")
