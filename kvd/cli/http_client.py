"""A small HTTP client for verbs that talk to a running daemon's REST interface.

The address comes from ``--url`` or KVD_HTTP_URL, the token from ``--token-file`` or KVD_TOKEN; a token on the command
line could be seen by others.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import attrs
import click

DEFAULT_URL: Final = "http://127.0.0.1:8379"
_SECONDS: Final = 30.0

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class RequestFailed(Exception):
    """The daemon could not be asked, or has refused; the text is for people."""


@attrs.frozen
class HttpClient:
    """Asks one daemon, a connection each time."""

    url: str
    token: str = attrs.field(default="", repr=False)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the result of an answer in the envelope. Raise `RequestFailed`."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = self._open()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return _result(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(f"cannot ask {self.url}: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()

    def _open(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RequestFailed(f"{self.url!r} is no address; write {DEFAULT_URL}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, parts.port, timeout=_SECONDS)


def _result(status: int, text: bytes) -> Any:
    try:
        found = json.loads(text)
        if found["success"]:
            return found["result"]
        reason = found["errors"][0]["message"]
    except (ValueError, KeyError, IndexError, TypeError):
        reason = text.decode("utf-8", "replace").strip() or "no reason given"
    if status == 401:
        reason = "a token is needed, or this one is wrong; see --token-file and KVD_TOKEN"
    raise RequestFailed(f"{reason} (status {status})")


def client_options(function: FunctionT) -> FunctionT:
    """Add --url and --token-file; the function gets them as `url` and `token_file`."""
    function = click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        help="File with an API token; KVD_TOKEN holds one as well.",
    )(function)
    return click.option(
        "--url",
        envvar="KVD_HTTP_URL",
        default=DEFAULT_URL,
        show_default=True,
        metavar="URL",
        help="HTTP address of the daemon. Also from KVD_HTTP_URL.",
    )(function)


def open_client(url: str, token_file: Path | None) -> HttpClient:
    """Return a client with the token that was given."""
    token = os.environ.get("KVD_TOKEN", "") if token_file is None else token_file.read_text()
    return HttpClient(url, token.strip())
