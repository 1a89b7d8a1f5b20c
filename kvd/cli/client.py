"""A small client for verbs that talk to a running daemon: one connection, one request after the other.

An address is ``redis://[user:password@]host:port``, ``rediss://`` with TLS, or ``unix:///path``. A password
is better given in the variable KVD_URL than on a command line that others can see.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from protocol.client import ReplyReader, encode_request
from protocol.replies import ErrorReply

DEFAULT_URL: Final = "redis://127.0.0.1:6379"
_PORT: Final = 6379
_CONNECT_SECONDS: Final = 5.0
_WITHOUT_LOGIN: Final = "a password is needed; write redis://[user]:password@host:port, best into a variable that others cannot see"


class CommandFailed(Exception):
    """The daemon could not be asked, or answered with an error; the text is for people."""


class Client:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = ReplyReader()
        self._was_answered = False

    def ask(self, *arguments: bytes | str, seconds: float = 30.0) -> Any:
        """Return the reply to one request. Raise `CommandFailed` for an error, or when it takes longer."""
        (reply,) = self.ask_many([arguments], seconds=seconds)
        if isinstance(reply, ErrorReply):
            needs_login = reply.text.startswith("NOAUTH ")
            raise CommandFailed(_WITHOUT_LOGIN if needs_login else reply.text.removeprefix("ERR "))
        return reply

    def ask_many(self, requests: Sequence[tuple[bytes | str, ...]], *, seconds: float = 30.0) -> list[Any]:
        """Return the replies to requests sent together; errors are among them, as `ErrorReply`."""
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(b"".join(encode_request(*request) for request in requests))
            return self._receive(len(requests))
        except TimeoutError:
            raise CommandFailed(f"no answer within {seconds:g} seconds") from None
        except OSError as error:
            raise CommandFailed(f"the connection was lost: {error.strerror or error}") from error

    def _receive(self, count: int) -> list[Any]:
        replies: list[Any] = []
        while len(replies) < count:
            data = self._socket.recv(64 * 1024)
            if not data and self._was_answered:
                raise CommandFailed("the daemon closed the connection")
            if not data:
                raise CommandFailed("the connection was closed at once; is that the port for Redis clients?")
            self._was_answered = True
            try:
                replies += self._reader.feed(data)
            except ValueError:
                raise CommandFailed("what answers there does not speak the Redis protocol") from None
        return replies


@contextlib.contextmanager
def connect(url: str, *, resp3: bool = True) -> Iterator[Client]:
    """Connect and log in, with RESP3 unless it may be a server too old for it. Raise `CommandFailed`."""
    parts = urlsplit(url)
    try:
        sock = _open(parts.scheme, parts.hostname, parts.port, parts.path)
    except OSError as error:
        raise CommandFailed(f"{_shown(url)}: {why_unreachable(error)}") from error
    except ValueError as error:
        raise CommandFailed(f"{_shown(url)}: {error}; write redis://host:port") from None
    with sock:
        client = Client(sock)
        user = (unquote(parts.username),) if parts.username else ()
        if resp3:
            login = ("AUTH", *(user or ("default",)), unquote(parts.password)) if parts.password else ()
            client.ask("HELLO", "3", *login)
        elif parts.password:
            client.ask("AUTH", *user, unquote(parts.password))
        yield client


def why_unreachable(error: Exception) -> str:
    """Return why a daemon cannot be asked at an address, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); name your authority in SSL_CERT_FILE"
        )
    if isinstance(error, ssl.SSLError):
        return f"no TLS can be spoken there ({error.reason}); see the scheme and the port of the address"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{reason}; is the daemon running there?"


def _open(scheme: str, host: str | None, port: int | None, path: str) -> socket.socket:
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_CONNECT_SECONDS)
        sock.connect(path)
        return sock
    if scheme not in {"redis", "rediss"}:
        raise ValueError(f"{scheme} is no scheme that is known here" if scheme else "it has no scheme")
    plain = socket.create_connection((host or "127.0.0.1", port or _PORT), timeout=_CONNECT_SECONDS)
    if scheme == "redis":
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _shown(url: str) -> str:
    """Return the address without what is secret in it."""
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@")
