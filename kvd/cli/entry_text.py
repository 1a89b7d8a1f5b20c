"""Bytes in entries, which are JSON: as text where they are UTF-8, else in base64 under the names that a bulk put reads."""

from __future__ import annotations

import base64
from typing import Any


def key_as_text(key: bytes) -> dict[str, Any]:
    """Return the part of an entry that names its key."""
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key_base64": base64.b64encode(key).decode()}


def value_as_text(value: bytes) -> dict[str, Any]:
    """Return the part of an entry that holds its value."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(value).decode(), "base64": True}
