"""REST v4: namespaces. They are those of KV.NS, made and renamed by either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvd.web import envelope, rules
from kvd.web.access import ADMIN, READ
from kvd.web.bodies import Body, BytesBody
from kvd.web.errors import (
    AUTHENTICATION,
    BAD_TITLE,
    NAMESPACE_NOT_FOUND,
    VALIDATION,
    Refused,
    as_envelope,
)
from kvd.web.front import Route
from protocol.http_responses import Response

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from storage.store import Keyspace

TITLE_CHARACTERS_MAX: Final = 512
_BODY_BYTES_MAX: Final = 64 << 10
_PER_PAGE: Final = 20
_PER_PAGE_MAX: Final = 1000


def find_keyspace(exchange: Exchange, operation: str) -> Keyspace:
    """Return the namespace whose id is the first argument. Raise `Refused`, with the operation's name."""
    name = exchange.arguments[0]
    keyspace = exchange.server.store.keyspaces.find(name)
    if keyspace is None or keyspace.id.hex().encode() != name.lower():  # by its id only, not by a title
        raise Refused(404, f"{operation}: 'namespace not found'", NAMESPACE_NOT_FOUND)
    return keyspace


def find_open(exchange: Exchange, operation: str) -> Keyspace:
    """Do the same for who wants to read or write records. Raise `KeyspaceError` if they are not here, or not all."""
    keyspace = find_keyspace(exchange, operation)
    keyspace.check_open()
    return keyspace


def require(exchange: Exchange, right: int, keyspace: Keyspace | None, key: bytes | None = None) -> None:
    if not exchange.access.permits(right, keyspace, key):
        raise Refused(403, "Authentication error", AUTHENTICATION)


def describe(keyspace: Keyspace) -> dict[str, Any]:
    return {"id": keyspace.id.hex(), "title": keyspace.title or "", "supports_url_encoding": True}


def whole_number(text: str | None, name: str, default: int, low: int, high: int) -> int:
    """Return a parameter's number. Raise `Refused` that names it."""
    if text is None:
        return default
    number = rules.parse_int(text)
    if number is None or not low <= number <= high:
        raise Refused(400, f"{name} must be a whole number between {low} and {high}", VALIDATION)
    return number


def _choice(text: str | None, name: str, *words: str) -> str:
    if text is None:
        return words[0]
    if text not in words:
        raise Refused(400, f"{name} must be one of {', '.join(words)}", VALIDATION)
    return text


# --- all namespaces


def _list(exchange: Exchange) -> Response:
    page = whole_number(exchange.parameter("page"), "page", 1, 1, 1 << 31)
    per_page = whole_number(exchange.parameter("per_page"), "per_page", _PER_PAGE, 1, _PER_PAGE_MAX)
    order = _choice(exchange.parameter("order"), "order", "title", "id")
    direction = _choice(exchange.parameter("direction"), "direction", "asc", "desc")
    found = visible(exchange)
    if order == "id":
        found.sort(key=lambda keyspace: keyspace.id)
    if direction == "desc":
        found.reverse()
    shown = found[(page - 1) * per_page : page * per_page]
    info = {
        "page": page,
        "per_page": per_page,
        "count": len(shown),
        "total_count": len(found),
        "total_pages": -(-len(found) // per_page),
    }
    return envelope.result([describe(keyspace) for keyspace in shown], info)


def visible(exchange: Exchange) -> list[Keyspace]:
    """Return the namespaces that who asks may read, by title."""
    permits = exchange.access.permits
    found = [keyspace for keyspace in exchange.server.store.keyspaces.all() if permits(READ, keyspace)]
    if not found and not permits(READ, None) and exchange.server.store.keyspaces.all():
        raise Refused(403, "Authentication error", AUTHENTICATION)
    return found


def _open_create(exchange: Exchange) -> Body:
    require(exchange, ADMIN, None)
    return BytesBody(_BODY_BYTES_MAX)


def _create(exchange: Exchange) -> Response:
    title = title_of(exchange.body_of(BytesBody).json(), "create namespace")
    made = exchange.server.store.keyspaces.create(title)
    return envelope.result(describe(made))


def title_of(found: Any, operation: str) -> str:
    """Return the title that a body asks for. Raise `Refused`, with the operation's name."""
    title = found.get("title") if isinstance(found, dict) else None
    if not isinstance(title, str) or not title:
        raise Refused(400, f"{operation}: 'title must not be empty'", BAD_TITLE)
    if len(title) > TITLE_CHARACTERS_MAX:
        text = f"{operation}: 'title is longer than {TITLE_CHARACTERS_MAX} characters'"
        raise Refused(400, text, BAD_TITLE)
    try:
        title.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"{operation}: 'title is not valid text'", BAD_TITLE) from None
    return title


# --- one namespace


def _get(exchange: Exchange) -> Response:
    keyspace = find_keyspace(exchange, "get namespace")
    require(exchange, READ, keyspace)
    return envelope.result(describe(keyspace))


def _open_rename(exchange: Exchange) -> Body:
    require(exchange, ADMIN, find_keyspace(exchange, "rename namespace"))
    return BytesBody(_BODY_BYTES_MAX)


def _rename(exchange: Exchange) -> Response:
    keyspace = find_keyspace(exchange, "rename namespace")
    title = title_of(exchange.body_of(BytesBody).json(), "rename namespace")
    exchange.server.store.keyspaces.rename(keyspace.id, title)
    return envelope.result(describe(keyspace))


def _delete(exchange: Exchange) -> Response:
    keyspace = find_keyspace(exchange, "remove namespace")
    require(exchange, ADMIN, keyspace)
    store = exchange.server.store
    with store.atomic():
        store.keyspaces.delete(keyspace.id)
    return envelope.success(envelope.NULL)


ALL: Final = {
    b"GET": Route(_list, as_envelope, "rest"),
    b"POST": Route(_create, as_envelope, "rest", open=_open_create, writes=True),
}
ONE: Final = {
    b"GET": Route(_get, as_envelope, "rest"),
    b"PUT": Route(_rename, as_envelope, "rest", open=_open_rename, writes=True),
    b"DELETE": Route(_delete, as_envelope, "rest", writes=True),
}
