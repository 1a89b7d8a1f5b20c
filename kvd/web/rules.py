"""The rules of Workers KV for keys, expiry and metadata, with its sentences.

Numbers in a query are read as JavaScript's parseInt reads them: ``60.9`` is 60, ``12abc`` is 12.
Source: miniflare's KV simulator, whose texts these are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kvd import json_text
from kvd.web.errors import BAD_KEY, BAD_METADATA, BAD_VALUE, Refused
from storage.record import NEVER

if TYPE_CHECKING:
    from kvd.server import Server

KEY_BYTES_MAX: Final = 512
LIST_LIMIT_MAX: Final = 1000
BULK_GET_KEYS_MAX: Final = 100
BULK_ENTRIES_MAX: Final = 10_000
# The least `cacheTtl`. It is checked and means nothing more: what is here is never stale.
CACHE_TTL_MIN: Final = 30
# The year 9999 in seconds; more makes no sense to anybody and must not overflow.
_SECONDS_MAX: Final = 253_402_300_799

_match_integer: Final = re.compile(r"\s*([+-]?[0-9]{1,15})").match


def parse_int(text: str) -> int | None:
    """Return the integer at the start of `text`, None if there is none."""
    match = _match_integer(text)
    return None if match is None else int(match[1])


def check_key(name: str) -> bytes:
    """Return the bytes of a key that Workers KV allows. Raise `Refused`."""
    if not name:
        raise Refused(400, "Key names must not be empty", BAD_KEY)
    if name in {".", ".."}:
        raise Refused(400, f'Illegal key name "{name}". Please use a different name.', BAD_KEY)
    try:
        key = name.encode()
    except UnicodeEncodeError:
        raise Refused(400, "Could not URL-decode key name", BAD_KEY) from None
    check_length(key)
    return key


def check_length(key: bytes) -> None:
    """Refuse a key or a prefix that is too long."""
    if len(key) > KEY_BYTES_MAX:
        text = f"UTF-8 encoded length of {len(key)} exceeds key length limit of {KEY_BYTES_MAX}."
        raise Refused(414, text, BAD_KEY)


def check_value_length(server: Server, size: int) -> None:
    limit = server.store.limits.value_bytes_max
    if size > limit:
        raise Refused(413, f"Value length of {size} exceeds limit of {limit}.", BAD_VALUE)


def check_metadata(server: Server, text: bytes) -> bytes:
    """Return metadata that may be stored: one JSON text of bounded size. Raise `Refused`."""
    limit = server.store.limits.metadata_bytes_max
    if len(text) > limit:
        raise Refused(413, f"Metadata length of {len(text)} exceeds limit of {limit}.", BAD_METADATA)
    try:
        json_text.check_metadata(text)
    except ValueError:
        raise Refused(400, "metadata must be valid JSON", BAD_METADATA) from None
    return text


def check_cache_ttl(text: str | None) -> None:
    if text is None:
        return
    seconds = parse_int(text)
    if seconds is None or seconds < CACHE_TTL_MIN:
        raise Refused(400, f"Invalid cache_ttl of {text}. Cache TTL must be at least {CACHE_TTL_MIN}.")


def expiry_ms(server: Server, expiration: str | None, expiration_ttl: str | None) -> int:
    """Return when a value expires, ms since the epoch; `NEVER` if neither is given. The TTL wins."""
    now_seconds = server.store.now_ms // 1000
    least = server.settings.http.min_ttl_seconds
    if expiration_ttl is not None:
        ttl = parse_int(expiration_ttl)
        if ttl is None or ttl <= 0:
            raise Refused(
                400, f"Invalid expiration_ttl of {expiration_ttl}. Please specify integer greater than 0."
            )
        if ttl < least:
            raise Refused(
                400, f"Invalid expiration_ttl of {expiration_ttl}. Expiration TTL must be at least {least}."
            )
        return min(now_seconds + ttl, _SECONDS_MAX) * 1000
    if expiration is None:
        return NEVER
    moment = parse_int(expiration)
    if moment is None or moment <= now_seconds:
        raise Refused(
            400,
            f"Invalid expiration of {expiration}. Please specify integer greater than the current number of "
            "seconds since the UNIX epoch.",
        )
    if moment < now_seconds + least:
        raise Refused(
            400,
            f"Invalid expiration of {expiration}. Expiration times must be at least {least} seconds in the "
            "future.",
        )
    return min(moment, _SECONDS_MAX) * 1000


def whole_seconds(expires_at_ms: int) -> int:
    """Return an expiry in whole seconds: from this second on the key is missing."""
    return -(-expires_at_ms // 1000)
