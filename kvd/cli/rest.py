"""A small HTTP client for verbs about data: one kept connection, one request after the other.

Namespaces and bulk writes go through REST v4, as wrangler's do. Single keys go through /api, which knows any
bytes as a key and the numbered databases (``db0`` …) too. A lost connection is opened anew once for a request: each of
them may be made twice without harm.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

import attrs

from kvd.cli.client import CommandFailed, why_unreachable

V4: Final = "/client/v4/accounts/kvd/storage/kv/namespaces"
_PORTS: Final = {"http": 80, "https": 443}
_SECONDS: Final = 300.0
_STATUS_UNAUTHORIZED: Final = 401
_NOT_ADMITTED: Final = (
    "a token is needed, or this one is wrong; see --token-file and KVD_TOKEN, or have a user and a password in "
    "KVD_HTTP_URL"
)


class Refused(CommandFailed):
    """The daemon answered with an error; `status` is that of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@attrs.frozen
class Space:
    """A namespace, or a numbered database."""

    id: str
    title: str
    is_database: bool
    is_carried: bool = True  # by the node that is asked: else it knows the title only

    @property
    def api(self) -> str:
        return f"/api/namespaces/{self.id}"

    @property
    def v4(self) -> str:
        return f"{V4}/{self.id}"


class Rest:
    """A daemon at an address. Every method raises `CommandFailed` with a text for people.

    Who has no token may be a user of the ACL, whose name and password stand in the address.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url.rstrip("/"))
        url = self._url = _without_credentials(parts)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise CommandFailed(f"{url} is no address of a daemon; write http://host:port")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            self._connection = kind(parts.hostname, parts.port or _PORTS[parts.scheme], timeout=_SECONDS)
        except ValueError:
            raise CommandFailed(f"{url} is no address of a daemon; write http://host:port") from None
        self._base = parts.path
        self._headers = _authorization(parts, token)

    def close(self) -> None:
        self._connection.close()

    # --- requests

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """Return the response to a request, not read yet. Parameters that are None are left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{self._base}{path}?{urlencode(given)}" if given else f"{self._base}{path}"
        response = self._exchange(method, target, body, {**self._headers, **(headers or {})})
        if response.status >= 400:
            raise Refused(response.status, self._reason(response))
        return response

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        is_kept = self._connection.sock is not None
        try:
            self._connection.request(method, target, body, dict(headers))
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if is_kept and not isinstance(error, TimeoutError):
                return self._exchange(method, target, body, headers)
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> CommandFailed:
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
            return CommandFailed(f"{self._url}: what answers there does not speak HTTP; is that http.port?")
        return CommandFailed(f"{self._url}: {why_unreachable(error)}")

    def _reason(self, response: http.client.HTTPResponse) -> str:
        body = self._read(response)
        if response.status == _STATUS_UNAUTHORIZED:
            return f"{self._url}: {_NOT_ADMITTED}"
        try:
            return str(json.loads(body)["errors"][0]["message"])
        except (ValueError, LookupError, TypeError):
            return f"{self._url} answered {response.status} {response.reason}"

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(error) from error

    def read(self, method: str, path: str, **options: Any) -> bytes:
        return self._read(self.send(method, path, **options))

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Return the whole envelope of an answer."""
        body = self.read(method, path, **options)
        try:
            return json.loads(body)
        except ValueError:
            raise CommandFailed(f"{self._url} does not answer as kvd does") from None

    def ask_json(self, method: str, path: str, value: Any, **options: Any) -> Any:
        """Send a value as JSON, None as no body; return the result."""
        body = (
            None if value is None else json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        )
        return self.ask(method, path, body=body, headers={"Content-Type": "application/json"}, **options)[
            "result"
        ]

    def lines(self, path: str, **options: Any) -> Iterator[bytes]:
        """Yield the lines of an answer while they arrive."""
        response = self.send("GET", path, **options)
        try:
            yield from response
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(error) from error

    # --- namespaces

    def spaces(self) -> list[Space]:
        """Return the namespaces, and those numbered databases that hold keys."""
        found = self.ask("GET", "/api/namespaces")["result"]
        return [_space(each) for each in found]

    def find_space(self, name: str) -> Space:
        """Return the namespace with this id or title, or the database ``db0`` …."""
        try:
            found = self.ask("GET", f"/api/namespaces/{quote(name, safe='')}")["result"]
        except Refused as refused:
            if refused.status == 404:
                raise CommandFailed(
                    f"there is no namespace {name!r}; `kvd namespace list` shows them, `create` makes one"
                ) from None
            raise
        return _space(found)

    def create_space(self, title: str) -> Space:
        made = self.ask_json("POST", V4, {"title": title})
        return Space(made["id"], made["title"], is_database=False)

    # --- keys

    def rows(self, space: Space, prefix: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield what a list tells of each key, page by page."""
        cursor, left = "", limit
        while left is None or left > 0:
            count = 1000 if left is None else min(left, 1000)
            query = {"prefix": prefix, "cursor": cursor, "limit": count}
            page = self.ask("GET", f"{space.api}/keys", query=query)
            yield from page["result"]
            left = None if left is None else left - len(page["result"])
            cursor = page["result_info"]["cursor"]
            if not cursor:
                return

    def put(
        self,
        space: Space,
        key: bytes,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration: int | None = None,
        ttl: int | None = None,
    ) -> None:
        """Write one key with all that belongs to it."""
        kind, body = ("application/octet-stream", value) if metadata is None else _form(value, metadata)
        query = {"expiration": expiration, "expiration_ttl": ttl}
        self.read("PUT", value_path(space, key), query=query, body=body, headers={"Content-Type": kind})

    def bulk(self, space: Space, method: str, path: str, items: Sequence[bytes]) -> None:
        """Send JSON texts as one array."""
        body = b"[" + b",".join(items) + b"]"
        self.read(method, f"{space.v4}/{path}", body=body, headers={"Content-Type": "application/json"})


def _without_credentials(parts: SplitResult) -> str:
    """Return an address as it may be shown."""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _authorization(parts: SplitResult, token: str) -> dict[str, str]:
    if token:
        return {"Authorization": f"Bearer {token}"}
    if parts.password is None:
        return {}
    pair = f"{unquote(parts.username or 'default')}:{unquote(parts.password)}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def value_path(space: Space, key: bytes) -> str:
    return f"{space.api}/values/{quote(key, safe='')}"


def details_path(space: Space, key: bytes) -> str:
    return f"{space.api}/keys/{quote(key, safe='')}"


def _form(value: bytes, metadata: str) -> tuple[str, bytes]:
    """Return a value and its metadata as multipart/form-data. Source: RFC 7578."""
    boundary = secrets.token_hex(16)  # never inside of the value, by its length
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
    mark = boundary.encode()
    parts = (
        *(head % (mark, b"metadata", b""), metadata.encode(), b"\r\n"),
        *(head % (mark, b"value", b'; filename="value"'), value, b"\r\n--%b--\r\n" % mark),
    )
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)


def _space(found: Mapping[str, Any]) -> Space:
    """Return what the daemon tells of a namespace; one of an older version carries all of them."""
    return Space(found["id"], found["title"], found["is_database"], found.get("is_carried", True))
