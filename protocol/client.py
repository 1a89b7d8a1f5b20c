"""The other side of the protocol, for tools of our own: requests out, replies in. No socket, no waiting.

hiredis reads the replies. Errors come back as values (`ErrorReply`), not raised: the caller knows what it
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import hiredis

from protocol.replies import ErrorReply

_INCOMPLETE: Final = object()


def encode_request(*arguments: bytes | str | int) -> bytes:
    """Return one request as an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class ReplyReader:
    """Bytes of a server to replies: bytes, ints, None, lists, dicts (RESP3 maps) and `ErrorReply`."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(
            protocolError=_ProtocolError, replyError=_reply_error, notEnoughData=_INCOMPLETE
        )

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield the replies that are complete now. Raise `ValueError` for what is no reply."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not _INCOMPLETE:
            yield reply


class _ProtocolError(ValueError):
    """What the server sent is not the protocol."""


def _reply_error(text: str) -> ErrorReply:
    return ErrorReply(text)
