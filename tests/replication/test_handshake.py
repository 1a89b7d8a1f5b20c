"""The handshake: two machines against each other, and against everybody in between."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication import messages as m
from replication.errors import RemoteProtocolError
from replication.frames import FrameReader, encode
from replication.handshake import Authenticator, Handshake, Role, State, Transcript
from replication.messages import Auth, Bye, Hello, Message, Ping, Refusal, Reject, Welcome
from replication.proofs import ClusterSecrets
from replication.transport import Fingerprints
from tests.replication.strategies import any_message

CLUSTER: Final = b"c" * 16
SECRET: Final = b"s" * 32
CERTIFICATE: Final = b"f" * 32


@attrs.frozen
class Channel:
    """One end of a connection, as a handshake sees it."""

    fingerprints: Fingerprints
    remote_address: str = "192.0.2.1:7946"
    peer_node: bytes | None = None


NO_TLS: Final = Channel(Fingerprints())
DIALERS_END: Final = Channel(Fingerprints(b"", CERTIFICATE))
ACCEPTORS_END: Final = Channel(Fingerprints(CERTIFICATE, b""), "192.0.2.9:50000")


def authenticator(*secrets: bytes, cluster: bytes = CLUSTER) -> Authenticator:
    return ClusterSecrets(cluster, secrets or (SECRET,)).authenticator()


def hello(name: bytes, **changes: Any) -> Hello:
    """Return the hello of a node called by one letter, with a nonce of its own."""
    nonce = random.Random(name).randbytes(32)
    return attrs.evolve(Hello(1, CLUSTER, name * 16, name.upper() * 16, nonce, 1, 2), **changes)


DIALER: Final = hello(b"d")
ACCEPTOR: Final = hello(b"a")


def dialer(own: Hello = DIALER, channel: Channel = DIALERS_END, *secrets: bytes, **options: Any) -> Handshake:
    return Handshake(own, authenticator(*secrets), channel, outgoing=True, **options)


def acceptor(
    own: Hello = ACCEPTOR, channel: Channel = ACCEPTORS_END, *secrets: bytes, **options: Any
) -> Handshake:
    return Handshake(own, authenticator(*secrets), channel, outgoing=False, **options)


Tamper = Callable[[Message], Message]


def converse(one: Handshake, other: Handshake, tamper: Tamper = lambda message: message) -> list[Message]:
    """Carry messages between two machines until both are silent; return all of them."""
    said: list[Message] = []
    waiting: list[tuple[Handshake, Message]] = [(other, message) for message in one.start()]
    waiting += [(one, message) for message in other.start()]
    while waiting:
        receiver, message = waiting.pop(0)
        message = tamper(message)
        said.append(message)
        if not receiver.is_over:
            sender = one if receiver is other else other
            waiting += [(sender, reply) for reply in receiver.on_message(message)]
    return said


def kinds(said: list[Message]) -> list[str]:
    return [type(message).__name__ for message in said]


# ---------------------------------------------------------------- what should work


def test_two_members_meet() -> None:
    one, other = dialer(), acceptor()
    said = converse(one, other)
    assert kinds(said) == ["Hello", "Hello", "Auth", "Auth", "Welcome", "Welcome"]
    assert (one.state, other.state) == (State.DONE, State.DONE)
    assert one.peer == hello(b"a")
    assert other.peer == hello(b"d")
    assert one.is_authenticated
    assert other.is_authenticated
    assert (one.rejected, one.refused, other.rejected, other.refused) == (None, None, None, None)
    assert one.version == other.version == 1
    assert one.your_address == "192.0.2.9:50000"
    assert other.your_address == "192.0.2.1:7946"


def test_they_meet_over_frames_cut_anywhere() -> None:
    """All that one side says may come in one packet: the limits change in the middle of it."""
    one, other = dialer(), acceptor()
    readers = {id(one): FrameReader(), id(other): FrameReader()}
    stream = {id(one): b"", id(other): b"".join(map(encode, one.start()))}
    for _ in range(3):
        for machine, peer in ((other, one), (one, other)):
            data, stream[id(machine)] = stream[id(machine)], b""
            for message in readers[id(machine)].feed(data):
                stream[id(peer)] += b"".join(map(encode, machine.on_message(message)))
                if machine.is_authenticated:
                    readers[id(machine)].authenticated()
    assert (one.state, other.state) == (State.DONE, State.DONE)


def test_the_acceptor_waits_to_be_spoken_to() -> None:
    assert acceptor().start() == []


def test_members_without_certificates_meet_in_tests() -> None:
    one, other = dialer(channel=NO_TLS), acceptor(channel=NO_TLS)
    converse(one, other)
    assert one.peer is not None
    assert other.peer is not None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((b"1" * 32,), (b"1" * 32, b"2" * 32)),  # the new one is accepted everywhere first
        ((b"1" * 32, b"2" * 32), (b"2" * 32, b"1" * 32)),  # then used, node by node
        ((b"2" * 32, b"1" * 32), (b"2" * 32,)),  # then the old one goes
    ],
)
def test_secrets_change_without_a_moment_of_disagreement(
    ours: tuple[bytes, ...], theirs: tuple[bytes, ...]
) -> None:
    for one_has, other_has in ((ours, theirs), (theirs, ours)):
        one = dialer(hello(b"d"), DIALERS_END, *one_has)
        other = acceptor(hello(b"a"), ACCEPTORS_END, *other_has)
        converse(one, other)
        assert one.peer is not None
        assert other.peer is not None


@pytest.mark.parametrize(("ours", "theirs", "spoken"), [(1, 1, 1), (1, 2, 1), (7, 1, 1), (3, 2, 2)])
def test_the_older_version_is_spoken(ours: int, theirs: int, spoken: int) -> None:
    one, other = dialer(hello(b"d", version=ours)), acceptor(hello(b"a", version=theirs))
    converse(one, other)
    assert one.peer is not None
    assert one.version == other.version == spoken


def test_a_certificate_for_this_node_id_is_accepted() -> None:
    one = dialer(channel=attrs.evolve(DIALERS_END, peer_node=b"a" * 16))
    other = acceptor(channel=attrs.evolve(ACCEPTORS_END, peer_node=b"d" * 16))
    converse(one, other)
    assert one.peer is not None
    assert other.peer is not None


# ---------------------------------------------------------------- refusals


def test_another_cluster_learns_nothing() -> None:
    one, other = dialer(hello(b"d", cluster=b"x" * 16)), acceptor()
    said = converse(one, other)
    assert kinds(said) == ["Hello", "Reject"]
    assert other.refused is not None
    assert other.refused.code == Refusal.WRONG_CLUSTER
    assert one.rejected == other.refused
    assert not other.is_authenticated


def test_nothing_is_proved_to_another_cluster() -> None:
    one = dialer()
    (reply,) = one.on_message(hello(b"a", cluster=b"x" * 16))
    assert isinstance(reply, Reject)
    assert reply.code == Refusal.WRONG_CLUSTER


def test_a_version_that_nobody_speaks_any_more_is_refused() -> None:
    other = acceptor()
    (reply,) = other.on_message(hello(b"d", version=0))
    assert isinstance(reply, Reject)
    assert reply.code == Refusal.VERSION
    assert other.state is State.OVER


@pytest.mark.parametrize("which", ["dialer", "acceptor"])
def test_a_certificate_for_another_node_id_is_refused(which: str) -> None:
    wrong = b"x" * 16
    one = dialer(channel=attrs.evolve(DIALERS_END, peer_node=wrong if which == "acceptor" else None))
    other = acceptor(channel=attrs.evolve(ACCEPTORS_END, peer_node=wrong if which == "dialer" else None))
    converse(one, other)
    assert one.peer is None
    assert other.peer is None
    refused = other.refused or one.refused
    assert refused is not None
    assert refused.code == Refusal.AUTH
    assert wrong.hex() in refused.text


def test_who_is_removed_is_told_so_by_a_member() -> None:
    removed = Reject(Refusal.REMOVED, "you were removed")
    one, other = dialer(), acceptor(admit=lambda peer: removed)
    said = converse(one, other)
    assert kinds(said) == ["Hello", "Hello", "Auth", "Auth", "Reject", "Welcome"]
    assert one.rejected == removed
    assert one.is_authenticated
    assert other.refused == removed
    assert one.peer is None
    assert other.peer is None


def test_the_dialer_may_refuse_too() -> None:
    stale = Reject(Refusal.STALE, "come anew", retry_ms=100)
    one, other = dialer(admit=lambda peer: stale if peer.node == b"a" * 16 else None), acceptor()
    converse(one, other)
    assert other.rejected == stale
    assert one.refused == stale
    assert one.rejected is None
    assert other.peer is None


@pytest.mark.parametrize("code", [Refusal.REMOVED, Refusal.STALE, Refusal.DUPLICATE_NODE, Refusal.CLOCK, 77])
@pytest.mark.parametrize("after_hello", [False, True])
def test_a_stranger_cannot_declare_a_node_removed(code: int, after_hello: bool) -> None:
    one = dialer()
    if after_hello:
        one.on_message(hello(b"a"))
    with pytest.raises(RemoteProtocolError, match="stranger"):
        one.on_message(Reject(code, "go away"))
    assert one.rejected is None
    assert one.state is State.OVER


@pytest.mark.parametrize(
    "code",
    [Refusal.WRONG_CLUSTER, Refusal.AUTH, Refusal.VERSION, Refusal.BUSY, Refusal.LIMIT, Refusal.CLOSING],
)
def test_a_stranger_may_decline(code: int) -> None:
    one = dialer()
    assert one.on_message(Reject(code, "not now")) == []
    assert one.rejected == Reject(code, "not now")
    assert one.is_over
    assert one.peer is None


def test_a_goodbye_is_a_refusal() -> None:
    other = acceptor()
    other.on_message(hello(b"d"))
    assert other.on_message(Bye("stopping")) == []
    assert other.rejected == Reject(Refusal.CLOSING, "stopping")


def test_a_node_that_dials_itself_finds_out() -> None:
    own = hello(b"d")
    one, other = dialer(own), acceptor(attrs.evolve(own, nonce=b"2" * 32))
    said = converse(one, other)
    assert kinds(said) == ["Hello", "Hello", "Bye"]
    assert one.is_self
    assert other.is_self
    assert one.peer is None
    assert other.peer is None


def test_a_copy_of_a_node_is_not_the_node_itself() -> None:
    """It has the same node id and another boot: the caller decides, about an authenticated peer."""
    seen: list[Hello] = []
    one, other = (
        dialer(hello(b"d")),
        acceptor(hello(b"a", node=b"d" * 16), admit=seen.append),
    )
    converse(one, other)
    assert not one.is_self
    assert seen == [hello(b"d")]


def test_admission_is_asked_once_and_only_about_authenticated_peers() -> None:
    asked: list[Hello] = []
    other = acceptor(hello(b"a"), ACCEPTORS_END, b"x" * 32, admit=asked.append)
    converse(dialer(), other)
    assert asked == []
    other = acceptor(admit=asked.append)
    converse(dialer(), other)
    assert asked == [hello(b"d")]


# ---------------------------------------------------------------- who does not belong


def test_another_secret_is_refused_by_the_first_who_sees_it() -> None:
    one, other = dialer(hello(b"d"), DIALERS_END, b"x" * 32), acceptor()
    said = converse(one, other)
    assert kinds(said) == ["Hello", "Hello", "Auth", "Reject"]
    assert one.rejected is not None
    assert one.rejected.code == Refusal.AUTH
    assert not one.is_authenticated
    assert not other.is_authenticated


def test_a_secret_that_is_no_longer_accepted_is_refused() -> None:
    one = dialer(hello(b"d"), DIALERS_END, b"old!" * 8)
    other = acceptor(hello(b"a"), ACCEPTORS_END, b"new!" * 8)
    converse(one, other)
    assert other.peer is None


def test_an_acceptor_without_the_secret_is_found_out() -> None:
    one = dialer()
    one.on_message(hello(b"a"))
    (reply,) = one.on_message(Auth(b"?" * 32))
    assert isinstance(reply, Reject)
    assert reply.code == Refusal.AUTH
    assert one.peer is None
    assert not one.is_authenticated


def test_a_proof_is_not_good_for_sending_back() -> None:
    """An acceptor without the secret returns the dialer's own proof, and even its hello."""
    one = dialer()
    (first,) = one.start()
    assert isinstance(first, Hello)
    (proof,) = one.on_message(attrs.evolve(first, node=b"e" * 16))
    (reply,) = one.on_message(proof)
    assert isinstance(reply, Reject)
    assert not one.is_authenticated


def test_a_proof_is_not_good_for_another_conversation() -> None:
    recorded = converse(dialer(), acceptor())
    hello_then, auth_then = recorded[0], recorded[2]
    other = acceptor(hello(b"a", nonce=b"fresh nonce of another connection"[:32]))
    other.on_message(hello_then)
    (reply,) = other.on_message(auth_then)
    assert isinstance(reply, Reject)
    assert not other.is_authenticated


def test_somebody_in_between_is_found_out() -> None:
    """He shows the dialer a certificate of his own and passes everything on."""
    one = dialer(channel=Channel(Fingerprints(b"", b"m" * 32)))
    other = acceptor()
    said = converse(one, other)
    assert kinds(said) == ["Hello", "Hello", "Auth", "Reject"]
    assert not one.is_authenticated
    assert not other.is_authenticated


CHANGED: Final[list[dict[str, Any]]] = [
    {"version": 2},
    {"node": b"x" * 16},
    {"boot": b"x" * 16},
    {"nonce": b"x" * 32},
]


@pytest.mark.parametrize("changes", CHANGED, ids=lambda changes: next(iter(changes)))
@pytest.mark.parametrize("whose", [b"d", b"a"])
def test_nobody_can_change_what_is_proved(changes: dict[str, Any], whose: bytes) -> None:
    def tamper(message: Message) -> Message:
        is_victim = isinstance(message, Hello) and message.node == whose * 16
        return attrs.evolve(message, **changes) if is_victim else message

    one, other = dialer(), acceptor()
    converse(one, other, tamper)
    assert one.peer is None
    assert other.peer is None


def transcripts() -> list[Transcript]:
    """Return transcripts that all differ from the first one in one part."""
    base = Transcript(hello(b"d"), hello(b"a"), b"1" * 32, b"2" * 32)
    changed = [
        attrs.evolve(base, **{side: attrs.evolve(getattr(base, side), **changes)})
        for side in ("dialer", "acceptor")
        for changes in (*CHANGED, {"cluster": b"x" * 16})
    ]
    return [
        base,
        *changed,
        attrs.evolve(base, dialer_fingerprint=b""),
        attrs.evolve(base, acceptor_fingerprint=b"3" * 32),
        Transcript(base.acceptor, base.dialer, b"2" * 32, b"1" * 32),
        Transcript(base.dialer, base.acceptor, b"2" * 32, b"1" * 32),
    ]


def test_no_two_transcripts_and_roles_share_a_proof() -> None:
    keys = authenticator()
    proofs = {
        (index, role): keys.prove(role, transcript)
        for (index, transcript), role in itertools.product(enumerate(transcripts()), Role)
    }
    assert len(set(proofs.values())) == len(proofs)
    for (index, role), proof in proofs.items():
        for (other, transcript), other_role in itertools.product(enumerate(transcripts()), Role):
            assert keys.verify(other_role, transcript, proof) == ((index, role) == (other, other_role))


def test_a_proof_in_front_of_which_bytes_moved_is_another() -> None:
    """Parts are behind their lengths: 32 bytes of one cannot become those of the next."""
    base = transcripts()[0]
    keys = authenticator()
    moved = attrs.evolve(base, dialer_fingerprint=b"", acceptor_fingerprint=b"1" * 32 + b"2" * 32)
    assert keys.prove(Role.DIALER, base) != keys.prove(Role.DIALER, moved)


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("machine", [dialer, acceptor])
@pytest.mark.parametrize("message", [Auth(b"p" * 32), Welcome("a:1"), Ping(1, 2, 3)], ids=repr)
def test_before_the_hello_nothing_else_is_taken(machine: Callable[[], Handshake], message: Message) -> None:
    subject = machine()
    with pytest.raises(RemoteProtocolError, match="out of place"):
        subject.on_message(message)
    assert subject.state is State.OVER


@pytest.mark.parametrize("message", [hello(b"d"), Welcome("a:1"), Ping(1, 2, 3)], ids=repr)
def test_before_the_proof_nothing_else_is_taken(message: Message) -> None:
    other = acceptor()
    other.on_message(hello(b"d"))
    with pytest.raises(RemoteProtocolError, match="out of place"):
        other.on_message(message)
    assert not other.is_authenticated


def test_a_second_proof_is_not_taken() -> None:
    one, other = dialer(), acceptor()
    other.on_message(one.start()[0])
    (proof,) = one.on_message(hello(b"a"))
    assert kinds(other.on_message(proof)) == ["Auth", "Welcome"]
    with pytest.raises(RemoteProtocolError, match="out of place"):
        other.on_message(proof)


def test_after_a_refusal_nothing_is_taken() -> None:
    other = acceptor()
    other.on_message(hello(b"d", cluster=b"x" * 16))
    for message in (hello(b"d"), Auth(b"p" * 32), Bye("sorry")):
        with pytest.raises(RemoteProtocolError, match="out of place"):
            other.on_message(message)


@given(st.lists(any_message, max_size=6), st.booleans())
def test_no_conversation_without_the_secret_ever_ends_well(said: list[Message], outgoing: bool) -> None:
    subject = dialer() if outgoing else acceptor()
    subject.start()
    try:
        for message in said:
            subject.on_message(message)
    except RemoteProtocolError:
        assert subject.state is State.OVER
    assert subject.peer is None
    assert not subject.is_authenticated


@given(st.permutations([hello(b"d"), Auth(b"p" * 32), Welcome("a:1")]), st.data())
def test_in_any_order_strangers_stay_strangers(said: list[Message], data: st.DataObject) -> None:
    other = acceptor()
    for message in said[: data.draw(st.integers(0, 3))]:
        try:
            other.on_message(message)
        except RemoteProtocolError:
            break
    assert not other.is_authenticated
    assert other.peer is None


def test_every_message_of_a_handshake_fits_before_authentication() -> None:
    largest = hello(b"d", addresses=("h" * 300,) * 16, zone="z" * 64, software="s" * 64, kinds=(65535,) * 256)
    reader = FrameReader()
    assert list(reader.feed(encode(largest))) == [largest]
    assert m.ADDRESSES_MAX == 16
