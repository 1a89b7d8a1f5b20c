"""The dashboard's and the command line's tokens: make, list, revoke. Fields: see `dashboard_api`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from kvd import json_text
from kvd.commands import walks
from kvd.web import envelope
from kvd.web.access import ADMIN
from kvd.web.bodies import Body, BytesBody
from kvd.web.errors import AUTHENTICATION, Refused, as_envelope
from kvd.web.front import Route
from kvd.web.jobs import Job, Steps
from kvd.web.tokens import NAME_CHARACTERS_MAX, RIGHTS, TOKENS_MAX, Token

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from protocol.http_responses import Response

log = structlog.get_logger()

_BODY_BYTES_MAX: Final = 64 << 10
_SECONDS_MAX: Final = 100 * 366 * 86_400

ItemT = TypeVar("ItemT")


def _require_admin(exchange: Exchange) -> None:
    if not exchange.access.permits(ADMIN, None):
        raise Refused(403, "Authentication error", AUTHENTICATION)


def describe(token: Token) -> dict[str, Any]:
    """Return what may be told of a token."""
    named = None if token.namespaces is None else sorted(each.hex() for each in token.namespaces)
    return {
        "id": token.id,
        "name": token.name,
        "right": RIGHTS[token.right],
        "namespaces": named,
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
    }


def _gather(exchange: Exchange, take: Callable[[Token], ItemT]) -> Generator[bytes, None, list[ItemT]]:
    """Return what `take` makes of each token, in slices: there may be many, and more that were revoked."""
    found: list[ItemT] = []
    deadline = walks.slice_end()
    for page in exchange.front.gatekeeper.tokens.pages():
        found += map(take, page)
        if walks.is_past(deadline):
            yield b""
            deadline = walks.slice_end()
    return found


def _list(exchange: Exchange) -> Job:
    _require_admin(exchange)
    return Job("list of tokens", _list_steps(exchange))


def _list_steps(exchange: Exchange) -> Steps:
    rows = yield from _gather(exchange, lambda token: (token.created_ms, json_text.dump(describe(token))))
    return envelope.success(b"[%b]" % b",".join(row for _, row in sorted(rows)))


def _open_create(exchange: Exchange) -> Body:
    _require_admin(exchange)
    return BytesBody(_BODY_BYTES_MAX)


def _create(exchange: Exchange) -> Job:
    found = exchange.body_of(BytesBody).json()
    if not isinstance(found, dict):
        raise Refused(400, "the body is not an object")
    return Job("new token", _create_steps(exchange, found))


def _create_steps(exchange: Exchange, found: dict[str, Any]) -> Steps:
    others = yield from _gather(exchange, lambda token: token.id)
    if len(others) >= TOKENS_MAX:
        raise Refused(400, f"there are {TOKENS_MAX} tokens already")
    token, text = exchange.front.gatekeeper.tokens.create(
        _name(found), _right(found), _namespaces(exchange, found), _expires_ms(exchange, found)
    )
    log.info("API token made", token=token.id, right=RIGHTS[token.right], by=exchange.access.name)
    return envelope.result({**describe(token), "token": text})


def _name(found: dict[str, Any]) -> str:
    name = found.get("name", "")
    if not isinstance(name, str) or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise Refused(400, f"name must be up to {NAME_CHARACTERS_MAX} printable characters")
    return name


def _right(found: dict[str, Any]) -> int:
    right = found.get("right", "read")
    if right not in RIGHTS:
        raise Refused(400, f"right must be one of {', '.join(RIGHTS)}")
    return RIGHTS.index(right)


def _namespaces(exchange: Exchange, found: dict[str, Any]) -> frozenset[bytes] | None:
    names = found.get("namespaces")
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise Refused(400, "namespaces must be a list of ids or titles")
    keyspaces = [exchange.server.store.keyspaces.find(name) for name in names]
    if None in keyspaces:
        raise Refused(400, f"there is no namespace {names[keyspaces.index(None)]!r}")
    return frozenset(keyspace.id for keyspace in keyspaces if keyspace is not None)


def _expires_ms(exchange: Exchange, found: dict[str, Any]) -> int | None:
    seconds = found.get("expires_in_seconds")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= _SECONDS_MAX:
        raise Refused(400, "expires_in_seconds must be a whole number above 0")
    return exchange.server.store.now_ms + seconds * 1000


def _revoke(exchange: Exchange) -> Response:
    _require_admin(exchange)
    token_id = exchange.arguments[0].decode("ascii", "replace")
    if not exchange.front.gatekeeper.tokens.revoke(token_id):
        raise Refused(404, "there is no such token")
    log.info("API token revoked", token=token_id, by=exchange.access.name)
    return envelope.success(envelope.NULL)


ALL: Final = {
    b"GET": Route(_list, as_envelope, "dashboard"),
    b"POST": Route(_create, as_envelope, "dashboard", open=_open_create, writes=True),
}
ONE: Final = {b"DELETE": Route(_revoke, as_envelope, "dashboard", writes=True)}
