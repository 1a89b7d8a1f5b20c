"""Connections between nodes: what the driver needs of a network.

`Network` and `PeerStream` are the seam. `tcp` is the real one; a simulation implements them without sockets. A
stream is bytes in order, nothing more: frames, authentication and liveness belong to others. Whoever
reads from it and whoever writes to it may be two tasks. It raises trio.BrokenResourceError once the
connection is lost and trio.ClosedResourceError after `aclose`, like Trio's own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import attrs
import trio


@attrs.frozen
class Fingerprints:
    """SHA-256 of the certificates at both ends; b"" where there is none, as always without TLS."""

    local: bytes = b""
    remote: bytes = b""


class PeerStream(Protocol):
    """One connection with a peer, not authenticated beyond what TLS itself does."""

    @property
    def fingerprints(self) -> Fingerprints: ...

    @property
    def remote_address(self) -> str:
        """Return "host:port" of the other end, "[host]:port" for IPv6."""
        ...

    @property
    def peer_node(self) -> bytes | None:
        """Return the node id that the peer's certificate vouches for; None if it names none."""
        ...

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, at least one byte; b"" when the peer has ended the stream."""
        ...

    async def aclose(self) -> None:
        """Close the connection; takes a second at most, whatever the peer does."""
        ...

    def report(self, *, is_authenticated: bool) -> None:
        """Tell how the peer's proof turned out, once. Failures delay the next connection from its address."""
        ...


Handler: TypeAlias = Callable[[PeerStream], Awaitable[None]]


class Network(Protocol):
    async def dial(self, address: str) -> PeerStream:
        """Connect to `address`. Raise `ConnectFailed`, with every reason, after some ten seconds at most."""
        ...

    async def listen(
        self, handler: Handler, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections until cancelled, each in a task of its own; start it with nursery.start.

        The value of `started` is the real address, a port of 0 replaced. The stream is closed when the
        handler returns, and what the handler raises is the listener's end: it has to deal with its
        peer's failures itself. Raise OSError if it cannot listen.
        """
        ...

    async def resolve(self, address: str) -> list[str]:
        """Return every address that the name in `address` stands for. Raise `ConnectFailed` if there is none."""
        ...


# ---------------------------------------------------------------- addresses


def parse_address(address: str, *, listens: bool = False) -> tuple[str, int]:
    """Return (host, port) of "host:port" or "[IPv6]:port". Raise ValueError with what is wrong.

    Where a node listens the host may be empty (every interface) and the port 0 (a free one).
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{address!r} has no port; write host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ipv6(host):
            raise ValueError(f"{address!r} has no IPv6 address between its brackets")
    elif ":" in host:
        raise ValueError(f"{address!r} is not host:port; an IPv6 address stands in brackets: [::1]:7946")
    if not (port.isascii() and port.isdigit() and (0 if listens else 1) <= int(port) <= 65535):
        raise ValueError(f"{address!r} has no port from 1 to 65535")
    if not host and not listens:
        raise ValueError(f"{address!r} has no host; write host:port")
    if len(host) > 253 or any(character.isspace() or not character.isprintable() for character in host):
        raise ValueError(f"{address!r} has no host that could exist")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """Return "host:port", an IPv6 address in brackets; one that stands for IPv4 as that."""
    if _is_ipv6(host):
        mapped = ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped
        return f"[{host}]:{port}" if mapped is None else f"{mapped}:{port}"
    return f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
