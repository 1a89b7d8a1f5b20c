"""How two nodes come to trust a connection. Sans-IO: messages in, messages out.

    dialer                     acceptor
      HELLO  ───────────────▶    who I am, with a nonce            cluster and version are checked
             ◀───────────────  HELLO
      AUTH   ───────────────▶    proof that I hold the secret      bound to this very TLS connection
             ◀───────────────  AUTH
    WELCOME  ◀─────────────▶  WELCOME                              either may REJECT instead

The acceptor says nothing about itself to a stranger of another cluster, and nothing is proved to one: the
dialer proves first. Each proof covers the role, so that it cannot be sent back; both nonces, so that it
cannot be kept for later; both certificates, so that nobody can sit in between; both node and boot ids.

    state            HELLO             AUTH              WELCOME   REJECT, BYE   anything else
    ---------------  ----------------  ----------------  --------  ------------  -------------
    EXPECTS_HELLO    EXPECTS_AUTH      error             error     OVER          error
    EXPECTS_AUTH     error             EXPECTS_WELCOME   error     OVER          error
    EXPECTS_WELCOME  error             error             DONE      OVER          error
    DONE, OVER       error             error             error     error         error

An error is a `RemoteProtocolError`, and the state is OVER. So it is after a refusal by either side.

A refusal is only believed as far as its sender is known. Before the peer has proved itself it may say that
the connection is not to be (another cluster, another version, busy); that this node was removed, or that
there are two of it, takes a member. Therefore the acceptor sends its AUTH before such a REJECT.

Whether an authenticated peer is let in is the caller's decision (`admit`). Deadlines are the driver's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from replication.errors import RemoteProtocolError
from replication.messages import (
    OLDEST_VERSION,
    Auth,
    Bye,
    Hello,
    Message,
    Refusal,
    Reject,
    Welcome,
)

# What somebody may say who has not proved that he is of this cluster.
STRANGERS_REFUSALS: Final = frozenset(
    {Refusal.WRONG_CLUSTER, Refusal.AUTH, Refusal.VERSION, Refusal.BUSY, Refusal.LIMIT, Refusal.CLOSING}
)


class Role(enum.Enum):
    """Whose proof it is."""

    DIALER = b"dialer"
    ACCEPTOR = b"acceptor"


@attrs.frozen
class Transcript:
    """What both ends of one connection must agree on; the proofs cover all of it."""

    dialer: Hello
    acceptor: Hello
    dialer_fingerprint: bytes  # b"": it showed no certificate
    acceptor_fingerprint: bytes


class Authenticator(Protocol):
    """Makes proofs for `Auth` and checks those of peers. May read its secrets anew each time."""

    def prove(self, role: Role, transcript: Transcript) -> bytes:
        """Return the 32 bytes that prove that this node, in this role, belongs to the cluster."""
        ...

    def verify(self, role: Role, transcript: Transcript, proof: bytes) -> bool:
        """Tell whether `proof` is the peer's, in that role; in constant time."""
        ...


class Fingerprints(Protocol):
    @property
    def local(self) -> bytes: ...

    @property
    def remote(self) -> bytes: ...


class Channel(Protocol):
    """The part of a `transport.PeerStream` that a handshake looks at."""

    @property
    def fingerprints(self) -> Fingerprints: ...

    @property
    def remote_address(self) -> str: ...

    @property
    def peer_node(self) -> bytes | None: ...


class State(enum.Enum):
    EXPECTS_HELLO = enum.auto()
    EXPECTS_AUTH = enum.auto()
    EXPECTS_WELCOME = enum.auto()
    DONE = enum.auto()
    OVER = enum.auto()


def admit_all(peer: Hello) -> Reject | None:
    """Let every authenticated peer in."""
    return None


class Handshake:
    """One side of one handshake. Send what `start` and `on_message` return, also at the end."""

    def __init__(
        self,
        hello: Hello,
        authenticator: Authenticator,
        channel: Channel,
        *,
        outgoing: bool,
        admit: Callable[[Hello], Reject | None] = admit_all,
    ) -> None:
        """`hello` is this node's own, with a nonce that is used for this connection alone."""
        self.state = State.EXPECTS_HELLO
        self.peer: Hello | None = None  # once everything is done
        self.version = 0  # that both speak
        self.your_address = ""  # how the peer sees this node
        self.rejected: Reject | None = None  # the peer refuses this node
        self.refused: Reject | None = None  # this node refuses the peer
        self.is_self = False  # this node has reached itself
        self.is_authenticated = False  # the peer has proved itself: its frames may be large now
        self._hello = hello
        self._their_hello: Hello | None = None
        self._authenticator = authenticator
        self._channel = channel
        self._outgoing = outgoing
        self._admit = admit

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come: it is done, or one side has refused."""
        return self.state in {State.DONE, State.OVER}

    def start(self) -> list[Message]:
        return [self._hello] if self._outgoing else []

    def on_message(self, message: Message) -> list[Message]:
        """Take the peer's next message; return what to send. Raise `RemoteProtocolError` if it breaks the order."""
        try:
            return self._dispatch(message)
        except RemoteProtocolError:
            self.state = State.OVER
            raise

    def _dispatch(self, message: Message) -> list[Message]:
        if not self.is_over:
            if isinstance(message, Reject):
                return self._on_reject(message)
            if isinstance(message, Bye):
                return self._on_reject(Reject(Refusal.CLOSING, message.reason))
        if isinstance(message, Hello) and self.state is State.EXPECTS_HELLO:
            return self._on_hello(message)
        if isinstance(message, Auth) and self.state is State.EXPECTS_AUTH:
            return self._on_auth(message)
        if isinstance(message, Welcome) and self.state is State.EXPECTS_WELCOME:
            return self._on_welcome(message)
        raise RemoteProtocolError(f"{type(message).__name__} came out of place, in {self.state.name}")

    def _on_hello(self, theirs: Hello) -> list[Message]:
        wrong = self._find_wrong(theirs)
        if wrong is not None:
            return self._refuse(wrong)
        self._their_hello = theirs
        self.version = min(theirs.version, self._hello.version)
        self.is_self = (theirs.node, theirs.boot) == (self._hello.node, self._hello.boot)
        self.state = State.EXPECTS_AUTH
        if not self._outgoing:
            return [self._hello]
        if self.is_self:
            self.state = State.OVER
            return [Bye("this is the node itself")]
        return [self._prove()]

    def _find_wrong(self, theirs: Hello) -> Reject | None:
        """Return the refusal of a peer that cannot be one, whatever it could prove."""
        ours = self._hello
        if theirs.cluster != ours.cluster:
            return Reject(Refusal.WRONG_CLUSTER, "this node belongs to another cluster")
        if min(theirs.version, ours.version) < OLDEST_VERSION:
            return Reject(
                Refusal.VERSION,
                f"protocol version {theirs.version} is not spoken here, only {OLDEST_VERSION} to {ours.version}",
            )
        vouched = self._channel.peer_node
        if vouched is not None and vouched != theirs.node:
            return Reject(
                Refusal.AUTH, f"the certificate is that of node {vouched.hex()}, not of {theirs.node.hex()}"
            )
        return None

    def _on_auth(self, auth: Auth) -> list[Message]:
        theirs = self._their_hello
        assert theirs is not None
        if not self._authenticator.verify(self._their_role, self._transcript(theirs), auth.proof):
            return self._refuse(
                Reject(Refusal.AUTH, "the proof is wrong: the two nodes do not hold the same cluster secret")
            )
        self.is_authenticated = True
        replies: list[Message] = [] if self._outgoing else [self._prove()]
        refusal = self._admit(theirs)
        if refusal is not None:
            return replies + self._refuse(refusal)
        self.state = State.EXPECTS_WELCOME
        return [*replies, Welcome(your_address=self._channel.remote_address)]

    def _on_welcome(self, welcome: Welcome) -> list[Message]:
        self.your_address = welcome.your_address
        self.peer = self._their_hello
        self.state = State.DONE
        return []

    def _on_reject(self, reject: Reject) -> list[Message]:
        if not self.is_authenticated and reject.code not in STRANGERS_REFUSALS:
            raise RemoteProtocolError(f"a stranger refuses with code {reject.code}, which takes a member")
        self.rejected = reject
        self.state = State.OVER
        return []

    def _refuse(self, reject: Reject) -> list[Message]:
        self.refused = reject
        self.state = State.OVER
        return [reject]

    @property
    def _our_role(self) -> Role:
        return Role.DIALER if self._outgoing else Role.ACCEPTOR

    @property
    def _their_role(self) -> Role:
        return Role.ACCEPTOR if self._outgoing else Role.DIALER

    def _prove(self) -> Auth:
        assert self._their_hello is not None
        return Auth(self._authenticator.prove(self._our_role, self._transcript(self._their_hello)))

    def _transcript(self, theirs: Hello) -> Transcript:
        ours, fingerprints = self._hello, self._channel.fingerprints
        if self._outgoing:
            return Transcript(ours, theirs, fingerprints.local, fingerprints.remote)
        return Transcript(theirs, ours, fingerprints.remote, fingerprints.local)
