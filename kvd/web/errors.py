"""A request that is refused: what its client is told, in whichever dialect it speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from kvd.json_text import quote
from protocol.http_responses import Response
from protocol.replies import ErrorReply
from storage.errors import (
    GroupNotCarried,
    KeyspaceGone,
    KeyTooLong,
    LimitError,
    MetadataTooLong,
    StorageError,
    TitleTaken,
    ValueTooLong,
)

# Codes of REST v4. Source: Cloudflare's API documentation and its clients; 10000, 10009, 10013 and
# 10014 are looked at by clients, the others only shown.
AUTHENTICATION: Final = 10000
VALIDATION: Final = 10001
KEY_NOT_FOUND: Final = 10009
BAD_TITLE: Final = 10011
NAMESPACE_NOT_FOUND: Final = 10013
TITLE_TAKEN: Final = 10014
BAD_KEY: Final = 10022
BAD_METADATA: Final = 10024
BAD_VALUE: Final = 10030
NO_ROUTE: Final = 7000
UNAVAILABLE: Final = 10050
CONDITION_FAILED: Final = 10051
NOT_HERE: Final = 10052

JSON: Final = b"Content-Type: application/json\r\n"
TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"


class Refused(Exception):
    """The request is not done. `text` is for people, `code` is REST's."""

    def __init__(self, status: int, text: str, code: int = VALIDATION, headers: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code
        self.headers = headers


Dialect: TypeAlias = Callable[[Refused], Response]


def as_text(refused: Refused) -> Response:
    """Answer in the reason phrase, which is all that a Worker shows, and in the body."""
    return Response(
        refused.status, TEXT + refused.headers, refused.text.encode("utf-8", "replace"), reason=refused.text
    )


def as_envelope(refused: Refused) -> Response:
    """Answer in the envelope of REST v4."""
    body = b'{"success":false,"errors":[{"code":%d,"message":%b}],"messages":[],"result":null}' % (
        refused.code,
        quote(refused.text),
    )
    return Response(refused.status, JSON + refused.headers, body)


_LIMIT_CODES: Final[tuple[tuple[type[LimitError], int, int], ...]] = (
    (KeyTooLong, 414, BAD_KEY),
    (ValueTooLong, 413, BAD_VALUE),
    (MetadataTooLong, 413, BAD_METADATA),
)


def from_storage(error: StorageError) -> Refused:
    """Translate what the store has refused."""
    for kind, status, code in _LIMIT_CODES:
        if isinstance(error, kind):
            return Refused(status, str(error), code)
    if isinstance(error, LimitError):
        return Refused(400, str(error), BAD_TITLE)
    if isinstance(error, TitleTaken):
        return Refused(400, "a namespace with this account ID and title already exists", TITLE_TAKEN)
    if isinstance(error, GroupNotCarried):  # 421: another node would answer. Source: RFC 9110 §15.5.20
        return Refused(421, str(error), NOT_HERE)
    if isinstance(error, KeyspaceGone):
        return Refused(400, "namespace not found", NAMESPACE_NOT_FOUND)
    return Refused(503, str(error), UNAVAILABLE, b"Retry-After: 1\r\n")


def from_reply(error: ErrorReply) -> Refused:
    """Translate a refusal that a Redis client would be told."""
    code, _, text = error.text.partition(" ")
    if code in {"ERR", "WRONGTYPE"}:
        return Refused(400, text)
    return Refused(503, error.text, UNAVAILABLE, b"Retry-After: 1\r\n")
