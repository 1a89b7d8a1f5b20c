"""Session tokens: what a connection may have seen and written, as a text that any node understands.

A token is a version vector: for each origin the sequence up to which its writes must be covered. KV.TOKEN
takes the entries of the node's own vector, which cover whatever the connection could have read there, with
this tick's own writes; origins that every member covers to their end are left out. KV.SYNCTO on any node waits
until that node's vector covers the token.

    version (1) ‖ mark of the cluster (4) ‖ { origin (16) ‖ seq (LEB128) } …     in base64url without padding
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final

_VERSION: Final = b"\x01"
_MARK_BYTES: Final = 4
_ORIGIN_BYTES: Final = 16
_SEQ_BYTES_MAX: Final = 9
# So many origins are more than a cluster of a thousand members has open at once.
TOKEN_BYTES_MAX: Final = 256 * 1024


class BadToken(ValueError):
    """The text is no token of this cluster; says why."""


def encode(cluster: bytes, vector: Mapping[bytes, int]) -> bytes:
    """Return the token for a vector."""
    parts = [_VERSION, _mark(cluster)]
    for origin in sorted(vector):
        if vector[origin] > 0:
            parts += [origin, _varint(vector[origin])]
    return base64.urlsafe_b64encode(b"".join(parts)).rstrip(b"=")


def decode(cluster: bytes, token: bytes) -> dict[bytes, int]:
    """Return the vector of a token. Raise `BadToken`."""
    if len(token) > TOKEN_BYTES_MAX:
        raise BadToken("the token is too long")
    try:
        raw = base64.b64decode(token + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise BadToken("this is no token of KV.TOKEN") from None
    head = len(_VERSION) + _MARK_BYTES
    if raw[: len(_VERSION)] != _VERSION or len(raw) < head:
        raise BadToken("this is no token of KV.TOKEN")
    if raw[len(_VERSION) : head] != _mark(cluster):
        raise BadToken("the token is of another cluster")
    return _entries(raw, head)


def _entries(raw: bytes, at: int) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    while at < len(raw):
        origin = raw[at : at + _ORIGIN_BYTES]
        seq, shift = 0, 0
        at += _ORIGIN_BYTES
        while True:
            if at >= len(raw) or shift >= 7 * _SEQ_BYTES_MAX:
                raise BadToken("the token is damaged")
            byte = raw[at]
            at += 1
            seq |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        found[origin] = seq
    return found


def _mark(cluster: bytes) -> bytes:
    return hashlib.sha256(b"kvd token" + cluster).digest()[:_MARK_BYTES]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
