"""Which arguments of a request are secrets, so that no log and no monitor shows them.

Source: Redis 7.2 `redactClientCommandArgument` and its callers: passwords of AUTH, HELLO and MIGRATE (refused,
and shown to monitors all the same), the rules of ACL SETUSER (they may hold a password), values that CONFIG SET
gives to secret parameters.
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

# Option -> (how many arguments follow it, whether they are secret).
_HELLO_OPTIONS: Final = {b"AUTH": (2, True), b"SETNAME": (1, False)}
_MIGRATE_OPTIONS: Final = {b"AUTH": (1, True), b"AUTH2": (2, True)}


def redacted(request: Request) -> Request:
    """Return `request` with its secrets replaced; the same list when it holds none."""
    name = request[0].upper()
    if name == b"AUTH":
        return [request[0], *([REDACTED] * (len(request) - 1))]
    if name == b"HELLO":
        return _redacted_options(request, 1, _HELLO_OPTIONS)
    if name == b"MIGRATE":
        return _redacted_options(request, 6, _MIGRATE_OPTIONS)
    if name == b"ACL" and len(request) > 2 and request[1].upper() == b"SETUSER":
        return [*request[:2], *([REDACTED] * (len(request) - 2))]
    if name == b"CONFIG" and len(request) > 3 and request[1].upper() == b"SET":
        return _redacted_config_set(request)
    return request


def _redacted_options(request: Request, first: int, options: dict[bytes, tuple[int, bool]]) -> Request:
    """Read the options from `first` on as their command does: what stands behind a name is no option itself."""
    hidden = list(request)
    index = first
    while index < len(request):
        count, is_secret = options.get(request[index].upper(), (0, False))
        if is_secret:
            secrets = slice(index + 1, index + 1 + count)
            hidden[secrets] = [REDACTED] * len(request[secrets])
        index += 1 + count
    return hidden


def _redacted_config_set(request: Request) -> Request:
    hidden = list(request)
    for index in range(2, len(request) - 1, 2):
        if request[index].lower() in _SECRET_PARAMETERS:
            hidden[index + 1] = REDACTED
    return hidden
