"""Connections between nodes: what the driver needs of a network.

`Network` and `PeerStream` are the seam; a simulation implements them without sockets. A stream is bytes
in order, nothing more: frames, authentication and liveness belong to others. Whoever reads from it and
whoever writes to it may be two tasks. It raises trio.BrokenResourceError once the connection is lost and
trio.ClosedResourceError after `aclose`, like Trio's own.
"""

from __future__ import annotations

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
        """Tell how the peer's proof turned out. Failures delay the next connection from its address."""
        ...


Handler: TypeAlias = Callable[[PeerStream], Awaitable[None]]


class Network(Protocol):
    async def dial(self, address: str) -> PeerStream:
        """Connect to `address`. Raise `ConnectFailed`, with every reason, after some ten seconds at most."""
        ...

    async def listen(
        self,
        address: str,
        handler: Handler,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections at `address` until cancelled, each in a task of its own; start with nursery.start.

        The value of `started` is the real address, a port of 0 replaced. The stream is closed when the
        handler returns, and what the handler raises is the listener's end: it has to deal with its
        peer's failures itself.
        """
        ...

    async def resolve(self, address: str) -> list[str]:
        """Return every address that the name in `address` stands for. Raise `ConnectFailed` if there is none."""
        ...
