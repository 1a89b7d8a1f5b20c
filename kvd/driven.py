"""What the hub and a connection ask of a session, whichever protocol it speaks.

    receive(bytes) ─▶ requests run, answers gathered ─▶ one commit ─▶ take_output() ─▶ socket

`kvd.session.Session` speaks RESP, `kvd.web.session.HttpSession` HTTP. A session has no socket and never
waits; where it cannot go on at once it is *suspended* (until `resumed`), or has a *backlog* that the hub
lets it work off, a slice a tick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kvd.session import Endpoint, Transport
    from protocol.replies import ErrorReply


class Driven(Protocol):
    """One client, as its connection sees it."""

    id: int
    active_at_ms: int  # when it last sent something, took output that had waited, or had a backlog worked off
    endpoint: Endpoint
    out: list[bytes]  # what `take_output` will return, in pieces
    suspended: bool
    resumed: bool  # a suspension has ended, and `run_backlog` was not called since
    held_bytes: int  # received since it was suspended
    input_bytes: (
        int  # what is kept of the client's input until it can be run, as entered in `Server.input_bytes`
    )
    closing: bool  # close once `out` is sent; nothing more is run
    close_reason: str | None
    transport: Transport | None
    on_output: Any  # called with the session when `out` got something between two calls

    @property
    def backlog(self) -> object:
        """Something true if there is work that was held back."""

    @property
    def pause_bytes(self) -> int:
        """With more than this unsent nothing more is read from the client, nor is its backlog run.

        The connection has a bound of its own for all sessions; this one may be lower.
        """

    @property
    def subscription_count(self) -> int:
        """What it listens to: such a client may be silent, and has the output limits of subscribers."""

    def answer(self, data: bytes) -> bytes | None:
        """Return the answer to a request that needs no tick: it reads what is committed and at hand.

        None if it is any other, or not alone: `receive` has to be given it.
        """

    def receive(self, data: bytes) -> None:
        """Take bytes from the client and run what is complete. Never raises for what the client sent."""

    def run_backlog(self) -> None:
        """Go on with what was held back."""

    def take_output(self) -> bytes:
        """Return the bytes gathered since the last call. Only after the commit they depend on."""

    def refuse_uncommitted(self, error: ErrorReply) -> None:
        """Replace the answers that stood on a commit which failed."""

    def close_after_reply(self, reason: str | None = None) -> None:
        """Run nothing more, and close the connection once what is queued has been sent."""

    def end(self) -> None:
        """Forget the session everywhere; the connection is gone."""
