"""The target of an HTTP request: its path and query, taken apart and decoded.

Nothing is normalised: no dots are resolved, no slashes merged, nothing is decoded twice. A path is
percent-decoded, in which a plus is a plus; a query is form-encoded, in which it is a blank.
Source: RFC 9112 §3.2; WHATWG URL, "application/x-www-form-urlencoded parsing".
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from protocol.http_errors import TargetError

# More parameters than this no interface of ours has by far.
PARAMETERS_MAX: Final = 100

_match_absolute: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)").match
_find_bad_escape: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_find_high: Final = re.compile(rb"[\x80-\xff]")


def split_target(target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Return path, query (without the question mark, may be empty) and the authority of an absolute target."""
    authority: bytes | None = None
    if not target.startswith(b"/"):
        match = _match_absolute(target)
        if match is not None:
            authority = match[1]
            target = target[match.end() :]
            if not target.startswith(b"/"):
                target = b"/" + target
    if b"#" in target:
        target = target[: target.index(b"#")]  # no client sends one; browsers keep it to themselves
    path, _, query = target.partition(b"?")
    return path, query, authority


def escape_high_bytes(line: bytes) -> bytes:
    """Percent-encode what is beyond ASCII in a request line: some clients send UTF-8 as it is."""
    return _find_high.sub(lambda match: b"%%%02X" % match[0][0], line)


def decode_bytes(part: bytes) -> bytes:
    """Percent-decode once. Raise `TargetError` for an escape that is none."""
    if b"%" not in part:
        return part
    if _find_bad_escape(part) is not None:
        raise TargetError("a percent sign is not followed by two hex digits")
    return unquote_to_bytes(part)


def decode_text(part: bytes) -> str:
    """Percent-decode once; the result has to be UTF-8. Raise `TargetError`."""
    try:
        return decode_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise TargetError("what is percent-encoded is not UTF-8") from None


def parse_query(query: bytes) -> dict[str, str]:
    """Return the parameters of a form-encoded query; of several with one name the first counts.

    What cannot be decoded is taken as it stands, as browsers do. Raise `TargetError` for too many.
    """
    if not query:
        return {}
    parts = query.split(b"&")
    if len(parts) > PARAMETERS_MAX:
        raise TargetError(f"more than {PARAMETERS_MAX} parameters")
    found: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition(b"=")
        if name:
            found.setdefault(_form_text(name), _form_text(value))
    return found


def _form_text(part: bytes) -> str:
    return unquote_to_bytes(part.replace(b"+", b" ")).decode("utf-8", "replace")
