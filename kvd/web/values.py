"""The body of a PUT of a value, which REST v4 and the dashboard share.

It is the value as it is, whatever its content type says, except for multipart/form-data, which holds the value
in one part and may hold metadata in another. (Some SDKs send JSON with both in it, which the original
stores as the value; so do we.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd.web import rules
from kvd.web.bodies import Body, BytesBody, FormBody

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange


def open_value(exchange: Exchange) -> Body:
    """Choose where the body goes."""
    limit = exchange.server.store.limits.value_bytes_max
    content_type = exchange.header(b"content-type") or b""
    if content_type.partition(b";")[0].strip().lower() == b"multipart/form-data":
        return FormBody(content_type, limit)
    return BytesBody(limit)


def content_of(exchange: Exchange) -> tuple[bytes, bytes | None]:
    """Return the value and the metadata that the body holds. Raise `Refused`."""
    server, body = exchange.server, exchange.body
    if isinstance(body, FormBody):
        value, size = body.value()
        rules.check_value_length(server, size)
        metadata = body.metadata()
        return value, None if metadata is None else rules.check_metadata(server, metadata)
    if isinstance(body, BytesBody):
        rules.check_value_length(server, body.size)
        return body.content(), None
    return b"", None


def expiry_ms(exchange: Exchange) -> int:
    """Return when the value expires, as the query says; an empty parameter is as good as none."""
    return rules.expiry_ms(
        exchange.server, exchange.parameter("expiration"), exchange.parameter("expiration_ttl")
    )
