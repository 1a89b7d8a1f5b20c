"""The envelope of REST v4, in which everything is answered but a value itself."""

from __future__ import annotations

from typing import Any, Final

from kvd import json_text
from kvd.web.errors import JSON
from protocol.http_responses import Response

NULL: Final = b"null"


def success(result: bytes, info: dict[str, Any] | None = None) -> Response:
    """Answer with a result, which is JSON text already."""
    extra = b"" if info is None else b',"result_info":' + json_text.dump(info)
    return Response(200, JSON, b'{"success":true,"errors":[],"messages":[],"result":%b%b}' % (result, extra))


def result(value: Any, info: dict[str, Any] | None = None) -> Response:
    """Answer with a result that is a value."""
    return success(json_text.dump(value), info)
