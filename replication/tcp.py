"""The real network: TLS 1.3 over TCP (`security` has the two modes).

Nagle's algorithm is off, since frames are written whole. The kernel holds little that is not sent yet, so
that what is urgent does not queue behind a body. Keep-alive and the user timeout end connections whose
other end is gone without a word; probes above notice that sooner, these are for what nobody probes.

The end of the stream need not be announced by TLS: frames tell where they end, and nothing depends on how
many of them come.

Strangers are held off before they cost a TLS handshake (`doorman`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias

import structlog
import trio

from replication.certificates import node_in
from replication.doorman import Doorman
from replication.errors import ConnectFailed
from replication.security import ALPN, Credentials, TlsEnd, fingerprint_of
from replication.transport import Fingerprints, Handler, format_address, parse_address

log = structlog.get_logger()

CONNECT_SECONDS: Final = 10.0  # until TLS is up
CLOSE_SECONDS: Final = 1.0
RESOLVED_MAX: Final = 64  # addresses behind one name
_NOTSENT_BYTES: Final = 128 * 1024
_KEEPALIVE_IDLE_SECONDS: Final = 10
_KEEPALIVE_INTERVAL_SECONDS: Final = 5
_KEEPALIVE_COUNT: Final = 3
_USER_TIMEOUT_MS: Final = 60_000

IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Plaintext:
    """In place of `Credentials`: no TLS at all. For tests; no setting leads here."""


PLAINTEXT: Final = Plaintext()


class TcpStream:
    """A `PeerStream` over TCP, with TLS or without."""

    def __init__(
        self,
        stream: trio.SSLStream[trio.SocketStream] | trio.SocketStream,
        end: TlsEnd | None,
        on_report: Callable[[bool], None],
    ) -> None:
        """`end` is what the TLS of `stream`, whose handshake is done, was made with."""
        self._stream = stream
        self._on_report = on_report
        self.remote_address: Final = _remote_address(stream)
        self.fingerprints = Fingerprints()
        self.peer_node: bytes | None = None
        if end is not None and not isinstance(stream, trio.SocketStream):
            certificate: bytes | None = stream.getpeercert(binary_form=True)
            self.fingerprints = Fingerprints(end.fingerprint, fingerprint_of(certificate))
            # A certificate that nobody has checked vouches for nothing.
            if certificate is not None and end.context.verify_mode is ssl.CERT_REQUIRED:
                self.peer_node = node_in(certificate)

    def __repr__(self) -> str:
        return f"<TcpStream {self.remote_address}>"

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise trio.BrokenResourceError(describe(error)) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError as error:
            raise trio.BrokenResourceError(describe(error)) from error

    async def aclose(self) -> None:
        with trio.move_on_after(CLOSE_SECONDS):  # cancelled, it is closed all the same
            await self._stream.aclose()

    def report(self, *, is_authenticated: bool) -> None:
        self._on_report(is_authenticated)


class TcpNetwork:
    """The real network."""

    def __init__(
        self,
        security: Credentials | Plaintext,
        *,
        listen: str = ":0",
        allow: Sequence[IpNetwork] = (),
        doorman: Doorman | None = None,
    ) -> None:
        """`allow`: networks with which connections are made and accepted; all if empty.

        Raise ValueError if `listen` is no address.
        """
        self._security = security
        self._host, self._port = parse_address(listen, listens=True)
        self._allow = tuple(allow)
        self.doorman = Doorman() if doorman is None else doorman

    # --- dialling

    async def dial(self, address: str) -> TcpStream:
        """Connect to `address`: see `Network`. Of a name's addresses the first that answers is taken.

        That is for names of members, whose addresses lead all to the same node; those of a name to join are
        resolved before (`PeerNode`) and dialled one by one.
        """
        try:
            with trio.fail_after(CONNECT_SECONDS):
                stream = await self._connect(address)
                return await self._secure(stream, is_ours=True, on_report=_ignore_report)
        except trio.TooSlowError:
            raise ConnectFailed(f"{address}: no answer within {CONNECT_SECONDS:.0f} seconds") from None
        except _TLS_FAILURES as error:
            raise ConnectFailed(f"{address}: {describe(error)}") from error

    async def _connect(self, address: str) -> trio.SocketStream:
        host, port = _parse_to_dial(address)
        if not self._allow:
            return await _open(host, port, address)
        failures = []
        for resolved in await self.resolve(address):  # in turn, so that nothing else is ever touched
            host, port = parse_address(resolved)
            if not self._allows(host):
                failures.append(f"{resolved} is not in a network that is allowed here")
                continue
            try:
                return await _open(host, port, resolved)
            except ConnectFailed as error:
                failures.append(str(error))
        raise ConnectFailed("; ".join(failures))

    async def resolve(self, address: str) -> list[str]:
        """Return every address that the name in `address` stands for, in the resolver's order."""
        host, port = _parse_to_dial(address)
        try:
            with trio.fail_after(CONNECT_SECONDS):
                found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:  # and UnicodeError, of a name that no resolver would take
            raise ConnectFailed(f"{address}: {describe(error)}") from error
        except UnicodeError:
            raise ConnectFailed(f"{address}: that is no name of a host") from None
        except trio.TooSlowError:
            raise ConnectFailed(f"{address}: no answer of the resolver") from None
        addresses = [format_address(str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found]
        return list(dict.fromkeys(addresses))[:RESOLVED_MAX]

    def _allows(self, host: str) -> bool:
        if not self._allow:
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._allow)

    # --- listening

    async def listen(
        self, handler: Handler, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections until cancelled: see `Network`."""
        listeners = await trio.open_tcp_listeners(self._port, host=self._host or None)
        task_status.started(format_address(*listeners[0].socket.getsockname()[:2]))
        await trio.serve_listeners(partial(self._accept, handler), listeners)

    async def _accept(self, handler: Handler, stream: trio.SocketStream) -> None:
        """Serve one connection to its end, if it is a peer's."""
        try:
            host = parse_address(_remote_address(stream))[0]
        except OSError:  # gone already
            await trio.aclose_forcefully(stream)
            return
        if not self._allows(host) or not self.doorman.enter(host, trio.current_time()):
            await trio.aclose_forcefully(stream)
            return
        visit = _Visit(self.doorman, host)
        try:
            await self._serve(handler, stream, visit)
        finally:
            visit.end(is_authenticated=False)

    async def _serve(self, handler: Handler, stream: trio.SocketStream, visit: _Visit) -> None:
        try:
            with trio.fail_after(CONNECT_SECONDS):
                secured = await self._secure(stream, is_ours=False, on_report=visit.end)
        except (*_TLS_FAILURES, trio.TooSlowError) as error:
            log.debug("a connection that is no peer's", address=visit.host, error=describe(error))
            return
        try:
            await handler(secured)
        finally:
            with trio.CancelScope(shield=True):  # closing has its own deadline
                await secured.aclose()

    # --- both

    async def _secure(
        self, stream: trio.SocketStream, *, is_ours: bool, on_report: Callable[[bool], None]
    ) -> TcpStream:
        """Put TLS on a connection, or close it."""
        try:
            _tune(stream)
            if isinstance(self._security, Plaintext):
                return TcpStream(stream, None, on_report)
            end = self._security.dialing() if is_ours else self._security.accepting()
            secured = trio.SSLStream(stream, end.context, server_side=not is_ours, https_compatible=True)
            await _shake_hands(secured)
            if secured.selected_alpn_protocol() != ALPN:
                raise _NotAPeer
            return TcpStream(secured, end, on_report)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise


async def _shake_hands(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Do TLS's handshake; tell the peer why if it fails.

    OpenSSL has prepared an alert then, which Trio leaves where it is. In mode mtls it is all that a node with
    a wrong certificate learns.
    """
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError:
        prepared = getattr(stream, "_outgoing", None)
        alert = prepared.read() if isinstance(prepared, ssl.MemoryBIO) else b""
        if alert:
            with trio.move_on_after(CLOSE_SECONDS), contextlib.suppress(trio.BrokenResourceError):
                await stream.transport_stream.send_all(alert)
        raise


class _NotAPeer(Exception):
    """TLS is spoken there, but not by a kvd."""


_TLS_FAILURES: Final = (OSError, trio.BrokenResourceError, _NotAPeer)


class _Visit:
    """One connection's stay at the doorman's."""

    def __init__(self, doorman: Doorman, host: str) -> None:
        self.host = host
        self._doorman: Doorman | None = doorman

    def end(self, is_authenticated: bool) -> None:
        """Say how it ended; only the first time counts."""
        if self._doorman is not None:
            self._doorman.leave(self.host, trio.current_time(), failed=not is_authenticated)
            self._doorman = None


def _ignore_report(is_authenticated: bool) -> None:
    """Nobody keeps a record of those we dial; see `topology` for when they are dialled again."""


async def _open(host: str, port: int, address: str) -> trio.SocketStream:
    """Connect to the first of the host's addresses that answers. Source: RFC 8305, "Happy Eyeballs"."""
    try:
        return await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise ConnectFailed(f"{address}: {describe(error)}") from error
    except UnicodeError:
        raise ConnectFailed(f"{address}: that is no name of a host") from None


def _parse_to_dial(address: str) -> tuple[str, int]:
    try:
        return parse_address(address)
    except ValueError as error:
        raise ConnectFailed(str(error)) from None


def _remote_address(stream: trio.SSLStream[trio.SocketStream] | trio.SocketStream) -> str:
    tcp = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
    name = tcp.socket.getpeername()
    return format_address(str(name[0]), int(name[1]))


# (level, option, value); those that this system does not know are left out.
_OPTIONS: Final = tuple(
    (level, getattr(socket, option), value)
    for level, option, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _KEEPALIVE_IDLE_SECONDS),
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", _KEEPALIVE_IDLE_SECONDS),  # the same on macOS
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_SECONDS),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", _KEEPALIVE_COUNT),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),
        (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", _NOTSENT_BYTES),
    )
    if hasattr(socket, option)
)


def _tune(stream: trio.SocketStream) -> None:
    for level, option, value in _OPTIONS:
        with contextlib.suppress(OSError):  # none of them is needed for being right
            stream.setsockopt(level, option, value)


# ---------------------------------------------------------------- errors

_SSL_REASONS: Final = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate was not made by this cluster's authority",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not accept this node's certificate; was it made for another cluster?",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "this node's certificate has expired; make a new one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this node's certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate: its cluster is in mode mtls, this node is not",
    "WRONG_VERSION_NUMBER": "it does not speak TLS there; is it the port for peers?",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak TLS 1.3",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "it speaks TLS, but is no kvd's port for peers",
    "UNEXPECTED_EOF_WHILE_READING": "it ended the connection in the middle of the TLS handshake",
}


def describe(error: BaseException) -> str:
    """Return why a connection could not be made, or was lost, in a few words."""
    if isinstance(error, _NotAPeer):
        return "it speaks TLS, but is no kvd's port for peers"
    if isinstance(error, trio.TooSlowError):
        return "it did not answer in time"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{_SSL_REASONS['CERTIFICATE_VERIFY_FAILED']} ({cause.verify_message})"
        if isinstance(cause, ssl.SSLZeroReturnError):  # so early patch releases of Python 3.11 tell it
            return _SSL_REASONS["UNEXPECTED_EOF_WHILE_READING"]
        if isinstance(cause, ssl.SSLError):
            return _SSL_REASONS.get(cause.reason or "", f"TLS failed ({cause.reason or cause})")
    leaves = [cause.strerror or str(cause) for cause in _causes(error) if isinstance(cause, OSError)]
    leaves = [leaf for leaf in leaves if not leaf.startswith("all attempts")]
    return ", ".join(dict.fromkeys(leaves)) or "the connection was closed"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then what caused it: of a group all of its members."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    elif error.__cause__ is not None:
        yield from _causes(error.__cause__)
