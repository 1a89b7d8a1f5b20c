"""JSON texts as bytes, put together without an object in between.

Metadata is one JSON text that is kept byte for byte; inside an answer it stands as it is. Names and values
are quoted by the C encoder of the standard library.
"""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring
from typing import Any, Final

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
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
