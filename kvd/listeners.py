"""Where clients come in: TCP, unix socket and TLS listeners, and who is let in.

Plain listeners are accepted from inside the hub's tick; a TLS listener is a Trio task, and so is each
of its connections, because the handshake and the record layer need to wait.

Who is refused, and told why, before a session exists: the one above ``maxclients``, and in protected
mode a client from another machine while the default user has no password (as Redis does).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import trio

from kvd.session import Endpoint, Session

if TYPE_CHECKING:
    from kvd.driven import Driven
    from kvd.hub import Hub
    from kvd.server import Server
    from kvd.settings import ServerSettings

log = structlog.get_logger()

# Accepted at once before the connections that are there already get their turn again.
_ACCEPTS_A_TICK: Final = 200
# More than that Linux refuses (MAX_TCP_KEEPIDLE), and with it the client would be refused.
_KEEPALIVE_SECONDS_MAX: Final = 32767
# What the address of a unix socket has room for (sun_path), its end not counted.
_UNIX_PATH_BYTES_MAX: Final = 107 if sys.platform == "linux" else 103

# What OpenSSL calls mistakes that people make.
_KEY_REASONS: Final = {"KEY_VALUES_MISMATCH": "the key is that of another certificate"}

_FULL: Final = b"-ERR max number of clients reached\r\n"
_PROTECTED: Final = (
    b"-DENIED kvd runs in protected mode: the default user has no password, so only clients on this "
    b"machine are let in. Set a password (security.requirepass or an ACL), or, if the network is "
    b"closed to strangers, server.protected_mode = false.\r\n"
)


class Door(Protocol):
    """Who is let in at a port, and what is spoken there."""

    protocol: str  # as the ports file names it

    def refusal(self, endpoint: Endpoint) -> bytes | None:
        """Return what a client is told that may not come in, or None."""

    def open(self, endpoint: Endpoint) -> Driven:
        """Open a session and enter it in the server's register."""


class RespDoor:
    """The door of Redis clients."""

    protocol = "resp"

    def __init__(self, server: Server) -> None:
        self._server = server

    def refusal(self, endpoint: Endpoint) -> bytes | None:
        return refusal(self._server, endpoint)

    def open(self, endpoint: Endpoint) -> Session:
        return new_session(self._server, endpoint)


class PlainListener:
    """A listening socket in the hub's selector."""

    def __init__(self, sock: socket.socket, server: Server, door: Door | None = None) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.door = door or RespDoor(server)
        self._server = server

    @property
    def port(self) -> int:
        """Return the TCP port, 0 for a unix socket."""
        name = self.socket.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def accept_ready(self, hub: Hub) -> None:
        """Accept who is waiting, a bounded number at a time."""
        for _ in range(_ACCEPTS_A_TICK):
            try:
                sock, address = self.socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # gone while it waited
            except OSError as error:  # a firewall's veto, no file left: trying at once would spin
                log.error("cannot accept a client", error=str(error))
                hub.rest_listener(self)
                return
            try:
                self._admit(hub, sock, address)
            except OSError as error:
                log.error("cannot serve a client", error=str(error))
                sock.close()

    def _admit(self, hub: Hub, sock: socket.socket, address: object) -> None:
        sock.setblocking(False)
        endpoint = endpoint_of(sock, address)
        refused = self.door.refusal(endpoint)
        if refused is not None:
            with contextlib.suppress(OSError):  # the client may be gone; it was told what it can be told
                sock.send(refused)
            sock.close()
            return
        tune(sock, self._server.settings.server)
        session = self.door.open(endpoint)
        try:
            hub.adopt(sock, session)
        except OSError:
            session.end()
            raise

    def close(self) -> None:
        self.socket.close()


def new_session(server: Server, endpoint: Endpoint) -> Session:
    """Open a session and enter it in the server's register."""
    session = Session(server, endpoint)
    server.sessions[session.id] = session
    server.stats.connections_received += 1
    return session


def refusal(server: Server, endpoint: Endpoint) -> bytes | None:
    """Return what a client is told that may not come in, or None."""
    settings = server.settings.server
    if server.client_count >= settings.maxclients:
        server.stats.connections_rejected += 1
        return _FULL
    open_to_all = server.acl.user_without_password() is not None
    if settings.protected_mode and open_to_all and not endpoint.is_local:
        server.stats.connections_rejected += 1
        return _PROTECTED
    return None


def endpoint_of(sock: socket.socket, address: object, *, is_tls: bool = False) -> Endpoint:
    """Describe both ends of an accepted connection."""
    local = sock.getsockname()
    if sock.family == getattr(socket, "AF_UNIX", None):
        path = f"{local or ''}:0"
        return Endpoint(path, path, is_unix=True)
    assert isinstance(address, tuple)
    return Endpoint(_host_port(address), _host_port(local), is_tls=is_tls)


def _host_port(address: tuple[object, ...]) -> str:
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tune(sock: socket.socket, settings: ServerSettings) -> None:
    """Set what every TCP client socket gets: no Nagle delay, keep-alive probes."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _keep_alive(sock, settings.tcp_keepalive_seconds)


def _keep_alive(sock: socket.socket | trio.SocketStream, seconds: int) -> None:
    if not seconds:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        # As Redis: first probe after the interval, then thirds of it, three unanswered ones end it.
        seconds = min(seconds, _KEEPALIVE_SECONDS_MAX)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(seconds // 3, 1))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def open_tcp(settings: ServerSettings, port: int, name: str = "server.port") -> list[socket.socket]:
    """Listen on `port` at every configured address; 0 takes one free port for all of them.

    An address written with a leading ``-`` may be missing on this machine. Any other failure raises
    OSError whose message names the address and the setting, and leaves nothing open.
    """
    opened: list[socket.socket] = []
    try:
        for written in settings.bind:
            address = written.removeprefix("-")
            try:
                sock = _listen(address, port, settings.tcp_backlog, optional=written.startswith("-"))
            except OSError as error:
                text = f"cannot listen on {address} port {port} ({name}): {error.strerror}"
                raise OSError(error.errno, text) from error
            if sock is not None:
                opened.append(sock)
                port = port or sock.getsockname()[1]
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened


def _listen(address: str, port: int, backlog: int, *, optional: bool) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    missing = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if optional and error.errno in missing:
            return None
        raise
    try:
        sock.setblocking(False)
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        if optional and error.errno in missing:
            return None
        raise
    return sock


def open_unix(path: str, permissions: int, backlog: int) -> socket.socket:
    """Listen on a unix socket, taking the place of one that a dead process left behind."""
    _check_length(path)
    _remove_dead_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        before = os.umask(0o177)  # nobody may connect before the mode is set
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        Path(path).chmod(permissions)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on unix socket {path}: {error.strerror}") from error
    return sock


def _check_length(path: str) -> None:
    """Refuse a path that is too long with a sentence: the socket's own error has none."""
    size = len(os.fsencode(path))
    if size > _UNIX_PATH_BYTES_MAX:
        raise OSError(
            errno.ENAMETOOLONG,
            f"cannot listen on unix socket {path}: the path has {size} bytes, the system allows "
            f"{_UNIX_PATH_BYTES_MAX}",
        )


def _remove_dead_socket(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"cannot listen on unix socket {path}: a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, f"cannot listen on unix socket {path}: another process answers there")


def tls_context(settings: ServerSettings) -> ssl.SSLContext:
    """Build the server's TLS context. Raise OSError (ssl.SSLError included) with a file's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[settings.tls_min_version]
    _load_certificate(context, settings.tls_cert_file, settings.tls_key_file)
    needed = {"no": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "yes": ssl.CERT_REQUIRED}
    context.verify_mode = needed[settings.tls_auth_clients]
    if settings.tls_ca_file:
        try:
            context.load_verify_locations(settings.tls_ca_file)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot use the authorities in {settings.tls_ca_file}: {error}"
            ) from error
    return context


def _load_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    for file in (cert_file, key_file):  # OpenSSL does not say which of them cannot be read
        try:
            Path(file).open("rb").close()
        except OSError as error:
            raise OSError(error.errno, f"cannot read the TLS file {file}: {error.strerror}") from error
    try:
        context.load_cert_chain(cert_file, key_file)
    except ssl.SSLError as error:
        reason = _KEY_REASONS.get(error.reason, "they have to be PEM, the key without a password")
        text = f"cannot use the certificate in {cert_file} with the key in {key_file}: {reason} ({error})"
        raise OSError(text) from error


class TlsListener:
    """TLS listeners: each connection is a Trio task around the same sans-IO session."""

    def __init__(
        self, hub: Hub, server: Server, sockets: list[socket.socket], door: Door | None = None
    ) -> None:
        self._hub = hub
        self._server = server
        self.door = door or RespDoor(server)
        self._sockets = sockets
        self._context = tls_context(server.settings.server)
        self._accepting = trio.CancelScope()
        self._handshakes = 0  # that are going on

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    def reload(self) -> None:
        """Read certificate files again; connections that are up keep theirs."""
        self._context = tls_context(self._server.settings.server)

    async def run(self) -> None:
        """Accept until cancelled; then every TLS connection has ended."""
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(s)) for s in self._sockets]
        async with trio.open_nursery() as connections:
            with self._accepting:
                await trio.serve_listeners(self._serve, listeners, handler_nursery=connections)

    def stop_accepting(self) -> None:
        """Close the sockets; connections that are up go on."""
        self._accepting.cancel()

    async def _serve(self, transport: trio.SocketStream) -> None:
        sock = transport.socket
        try:
            endpoint = Endpoint(_host_port(sock.getpeername()), _host_port(sock.getsockname()), is_tls=True)
            tune_trio(transport, self._server.settings.server)
        except OSError:
            await transport.aclose()  # gone before we looked
            return
        stream = trio.SSLStream(transport, self._context, server_side=True, https_compatible=True)
        if await self._is_let_in(stream, endpoint):
            await self._hub.serve_stream(stream, self.door.open(endpoint))
        else:
            await trio.aclose_forcefully(stream)

    async def _is_let_in(self, stream: trio.SSLStream[trio.SocketStream], endpoint: Endpoint) -> bool:
        """Shake hands, if there is room for one more; who is refused then is told so."""
        server = self._server
        if server.client_count + self._handshakes >= server.settings.server.maxclients:
            server.stats.connections_rejected += 1
            return False
        self._handshakes += 1
        try:
            with trio.move_on_after(server.settings.server.tls_handshake_seconds):
                await stream.do_handshake()
                refused = self.door.refusal(endpoint)
                if refused is None:
                    return True
                await stream.send_all(refused)
        except trio.BrokenResourceError as error:
            log.info("TLS handshake failed", address=endpoint.address, error=str(error.__cause__ or error))
        finally:
            self._handshakes -= 1
        return False


def tune_trio(stream: trio.SocketStream, settings: ServerSettings) -> None:
    """Set keep-alive on a Trio stream's socket (it sets TCP_NODELAY by itself)."""
    _keep_alive(stream, settings.tcp_keepalive_seconds)
