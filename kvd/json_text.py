"""JSON texts as bytes, put together without an object in between.

Metadata is one JSON text that is kept byte for byte; inside an answer it stands as it is. Names and values
are quoted by the C encoder of the standard library.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import Any, Final

# How deep metadata may be nested, a plain value being 1. An item of a bulk put may be deeper than this (`kvd.web.items`).
METADATA_DEPTH_MAX: Final = 100

_replace_halves: Final = re.compile("[\ud800-\udfff]").sub


def quote(text: str) -> bytes:
    """Return a text as a JSON string in UTF-8; half a surrogate pair becomes a question mark."""
    return encode_basestring(text).encode("utf-8", "replace")


def dump(value: Any) -> bytes:
    """Return a value as a JSON text, halves of surrogate pairs escaped. Raise ValueError for what JSON cannot say (NaN)."""
    return as_utf8(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def as_utf8(text: str) -> bytes:
    """Return a JSON text in UTF-8; half of a surrogate pair, which has no form there, is escaped."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _replace_halves(lambda half: f"\\u{ord(half[0]):04x}", text).encode()


def load(text: bytes | str) -> Any:
    """Read a JSON text strictly. Raise ValueError."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_metadata(text: bytes) -> None:
    """Raise ValueError unless the text is JSON that any reader takes: a bulk put reads again what an export has written."""
    level, depth = [load(text)], 0
    while level:
        depth += 1
        if depth > METADATA_DEPTH_MAX:
            raise ValueError("nested too deeply")
        level = [inner for value in level for inner in _inside(value)]


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(digits: str) -> float:
    """Read a number; one that is too large for a double would become an infinity, which cannot be written again."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
