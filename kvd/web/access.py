"""Who asks, and what they may do: API tokens, users of the ACL, and everybody while there is neither.

    Authorization: Bearer kvd_…        a token
    X-Auth-Key: kvd_… (X-Auth-Email)   the same, as old clients of the REST API send it
    Authorization: Basic …             a user of the ACL with a password

As long as there is no token and the default user needs no password, everybody on this machine may do
everything, with whatever credentials (some clients cannot do without). A page of a stranger in a browser of
this machine is not everybody: it betrays itself by the name it asks under, its Origin, or Sec-Fetch-Site.

A wrong credential is logged, and answered late. What was right stays so on a connection until the token's
record or the user's password changes: that costs a comparison instead of a hash.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from kvd.web.errors import AUTHENTICATION, Refused
from kvd.web.tokens import ADMIN, READ, RIGHTS, WRITE, Token, Tokens

if TYPE_CHECKING:
    from kvd.acl import User
    from kvd.server import Server
    from kvd.web.exchange import Exchange
    from kvd.web.session import HttpSession
    from storage.store import Keyspace

log = structlog.get_logger()

# Names by which nobody but this machine, or workerd, means us.
_LOCAL_NAMES: Final = frozenset({"localhost", "fake-host", socket.gethostname().lower()})
_CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="kvd"\r\n'
_SAFE_SITES: Final = frozenset({b"same-origin", b"none"})


class BadCredentials(Refused):
    """A credential was given, and is wrong: the answer is to come late."""

    def __init__(self) -> None:
        super().__init__(401, "Authentication error", AUTHENTICATION, _CHALLENGE)


class Access(Protocol):
    """What somebody may do."""

    name: str

    def permits(self, right: int, keyspace: Keyspace | None, key: bytes | None = None) -> bool:
        """Tell about READ, WRITE or ADMIN of a namespace (None: of all that there are), or of one key in it.

        Of a namespace: whether anything in it may be read, or written; each key is to be asked about then.
        """

    def key_filter(self) -> Callable[[bytes], bool] | None:
        """Return the test for the keys that a list may show to who may list; None if it is all of them."""


def greatest_right(access: Access, keyspace: Keyspace | None) -> str | None:
    """Return the word for the most that somebody may do in a namespace (None: in all that there are)."""
    found = max((right for right in (READ, WRITE, ADMIN) if access.permits(right, keyspace)), default=None)
    return None if found is None else RIGHTS[found]


class Everybody:
    """Whoever is on this machine while nothing is protected."""

    name = "everybody"

    def permits(self, right: int, keyspace: Keyspace | None, key: bytes | None = None) -> bool:
        return True

    def key_filter(self) -> Callable[[bytes], bool] | None:
        return None


class Nobody:
    """Who has shown no credential."""

    name = "nobody"

    def permits(self, right: int, keyspace: Keyspace | None, key: bytes | None = None) -> bool:
        return False

    def key_filter(self) -> Callable[[bytes], bool] | None:
        return None


class TokenAccess:
    """What a token's owner may do."""

    def __init__(self, token: Token) -> None:
        self.name = f"token {token.id}"
        self.token = token

    def permits(self, right: int, keyspace: Keyspace | None, key: bytes | None = None) -> bool:
        token = self.token
        if token.right < right:
            return False
        return token.namespaces is None or (keyspace is not None and keyspace.id in token.namespaces)

    def key_filter(self) -> Callable[[bytes], bool] | None:
        return None


class UserAccess:
    """What a user of the ACL may do: what its rules say of the commands that do the same."""

    def __init__(self, server: Server, user: User) -> None:
        self.name = f"user {user.name.decode('utf-8', 'replace')}"
        self.user = user
        self._table = server.table

    def permits(self, right: int, keyspace: Keyspace | None, key: bytes | None = None) -> bool:
        user = self.user
        if user.unrestricted:
            return True
        if right == ADMIN:
            return False
        if right == WRITE:
            request = [b"KV.PUT", b"" if key is None else key, b""]
        else:
            request = [b"KV.LIST"] if key is None else [b"KV.GET", key]
        denial = user.deny(self._table.find(request), request)
        return denial is None or (key is None and denial.reason == "key")

    def key_filter(self) -> Callable[[bytes], bool] | None:
        request = [b"KV.LIST"]
        return self.user.key_filter(self._table.find(request), request)


class Gatekeeper:
    """Decides for each request who asks."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.tokens = Tokens(server.store)
        self.nobody = Nobody()
        self._everybody = Everybody()

    @property
    def is_open(self) -> bool:
        """Whether nothing is protected: no token, and a default user without a password."""
        return not self.tokens.exist and self._server.acl.user_without_password() is not None

    def admit(self, exchange: Exchange) -> Access:
        """Return who asks. Raise `Refused`; `BadCredentials` if the answer is to come late."""
        session = exchange.session
        if self.is_open:
            self._check_neighbour(exchange)
            return self._everybody
        headers = exchange.request.headers
        credential = headers.get(b"authorization") or headers.get(b"x-auth-key")
        if credential is None:
            raise Refused(401, "Authentication error", AUTHENTICATION, _CHALLENGE)
        known = session.credential
        if known is not None and known.text == credential and known.holds(self._server):
            return known.access
        found = self._find(session, credential)
        if found is None:
            session.credential = None
            raise BadCredentials
        session.credential = found
        return found.access

    def still_admits(self, exchange: Exchange) -> bool:
        """Tell whether who was admitted would be so again; for a request that lasts."""
        access = exchange.access
        if access is self._everybody:
            return self.is_open
        known = exchange.session.credential
        return known is not None and known.access is access and known.holds(self._server)

    def check_again(self, exchange: Exchange) -> None:
        """Refuse who would not be admitted any more, in the middle of a request."""
        if not (exchange.is_public or self.still_admits(exchange)):
            raise Refused(401, "Authentication error", AUTHENTICATION, _CHALLENGE)

    def _find(self, session: HttpSession, credential: bytes) -> Credential | None:
        scheme, _, rest = credential.partition(b" ")
        if scheme.lower() == b"basic" and rest:
            return self._find_user(session, credential, rest.strip())
        secret = rest.strip() if scheme.lower() == b"bearer" and rest else credential
        token = self.tokens.check(secret)
        if token is None:
            log.warning("HTTP credential refused", address=session.endpoint.address, kind="token")
            self._server.stats.acl_denied_auth += 1
            return None
        return TokenCredential(credential, token, self.tokens)

    def _find_user(self, session: HttpSession, credential: bytes, encoded: bytes) -> Credential | None:
        try:
            name, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        except binascii.Error:
            name = password = b""
        acl = self._server.acl
        user = acl.check_password(name or b"default", password)
        if user is None or user.no_password:  # whoever needs no password has proved nothing
            log.warning("HTTP credential refused", address=session.endpoint.address, kind="user")
            self._server.stats.acl_denied_auth += 1
            return None
        return UserCredential(credential, self._server, user)

    def _check_neighbour(self, exchange: Exchange) -> None:
        """Refuse who is not on this machine, and pages of strangers in a browser that is."""
        session, request = exchange.session, exchange.request
        if not session.is_local:
            text = (
                "without any API token kvd answers on its own machine only; make one there: kvd token create"
            )
            raise Refused(403, text, AUTHENTICATION)
        headers = request.headers
        host = headers.get(b"host", b"") if request.authority is None else request.authority
        if host != session.known_host:
            self._check_host(session, host)
        origin = headers.get(b"origin")
        site = headers.get(b"sec-fetch-site")
        is_foreign = (origin is not None and origin.partition(b"://")[2] != host) or (
            site is not None and site not in _SAFE_SITES
        )
        if is_foreign:
            raise Refused(403, "a page of another site may not use kvd without a token", AUTHENTICATION)

    def _check_host(self, session: HttpSession, host: bytes) -> None:
        name = _name_of(host)
        is_ours = (
            session.endpoint.is_unix
            or name in _LOCAL_NAMES
            or name.endswith(".localhost")
            or name in self._server.settings.http.hosts
            or _is_loopback(name)
        )
        if not is_ours:
            raise Refused(
                421, "this host name is not known here; add it to http.hosts, or use a token", AUTHENTICATION
            )
        session.known_host = host


class Credential(Protocol):
    """A credential that was found right on a connection."""

    text: bytes
    access: Access
    user: User | None  # None of a token

    def holds(self, server: Server) -> bool:
        """Tell whether it is still right."""


class TokenCredential:
    def __init__(self, text: bytes, token: Token, tokens: Tokens) -> None:
        self.text = text
        self.access: Access = TokenAccess(token)
        self.user: User | None = None
        self._token = token
        self._tokens = tokens
        self._id = token.id.encode()
        self._record = tokens.record_of(self._id)

    def holds(self, server: Server) -> bool:
        record = self._tokens.record_of(self._id)
        if record is None or self._token.has_expired(server.store.now_ms):
            return False
        return record is self._record or record == self._record


class UserCredential:
    def __init__(self, text: bytes, server: Server, user: User) -> None:
        self.text = text
        self.access: Access = UserAccess(server, user)
        self.user: User | None = user
        self._passwords = list(user.passwords)

    def holds(self, server: Server) -> bool:
        user = self.user
        assert user is not None
        return server.acl.users.get(user.name) is user and user.enabled and user.passwords == self._passwords


def _name_of(host: bytes) -> str:
    """Return the name in a Host header, without the port and in lower case."""
    text = host.decode("ascii", "replace").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


__all__ = ["ADMIN", "READ", "WRITE", "Access", "BadCredentials", "Credential", "Gatekeeper"]
