"""Which arguments of a request are secrets, so that no log and no monitor shows them.

Source: Redis 7.2 `redactClientCommandArgument` and its callers: passwords of AUTH and HELLO, the
rules of ACL SETUSER (they may hold a password), values that CONFIG SET gives to secret parameters.
"""

from __future__ import annotations

from typing import Final

from kvd.commands.spec import Request
from kvd.settings import SETTINGS

REDACTED: Final = b"(redacted)"

# What CONFIG SET would take as a secret, and what Redis takes as one and kvd refuses.
_SECRET_PARAMETERS: Final = {b"masterauth", b"masteruser", b"tls-key-file-pass"} | {
    name.encode()
    for setting in SETTINGS.values()
    if setting.kind.is_secret
    for name in (setting.name, *setting.parameters)
}


def redacted(request: Request) -> Request:
    """Return `request` with its secrets replaced; the same list when it holds none."""
    name = request[0].upper()
    if name == b"AUTH":
        return [request[0], *([REDACTED] * (len(request) - 1))]
    if name == b"HELLO":
        return _redacted_hello(request)
    if name == b"ACL" and len(request) > 2 and request[1].upper() == b"SETUSER":
        return [*request[:2], *([REDACTED] * (len(request) - 2))]
    if name == b"CONFIG" and len(request) > 3 and request[1].upper() == b"SET":
        return _redacted_config_set(request)
    return request


def _redacted_hello(request: Request) -> Request:
    for index, argument in enumerate(request):
        if argument.upper() == b"AUTH":
            secrets = request[index + 1 : index + 3]
            return [*request[: index + 1], *([REDACTED] * len(secrets)), *request[index + 3 :]]
    return request


def _redacted_config_set(request: Request) -> Request:
    hidden = list(request)
    for index in range(2, len(request) - 1, 2):
        if request[index].lower() in _SECRET_PARAMETERS:
            hidden[index + 1] = REDACTED
    return hidden
