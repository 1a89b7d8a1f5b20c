"""Connections between nodes over real sockets of the loopback interface."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing

from replication import tcp
from replication.certificates import Issuer, new_ephemeral, new_issuer
from replication.doorman import FREE_FAILURES, Doorman
from replication.errors import ConnectFailed, ReplicationError
from replication.frames import FrameReader, encode
from replication.handshake import Handshake
from replication.messages import BodyData, Hello
from replication.proofs import new_secret_line, secret_line, write_new
from replication.security import BundleCredentials, Credentials, SecretCredentials, _load
from replication.tcp import PLAINTEXT, Plaintext, TcpNetwork, TcpStream
from replication.transport import Network, PeerStream, format_address, parse_address
from tests.replication.resolver import Resolver

CLUSTER: Final = b"c" * 16
HERE: Final = "127.0.0.1:0"
Handler = Callable[[PeerStream], Awaitable[None]]


def today() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@pytest.fixture
def secret(tmp_path: Path) -> SecretCredentials:
    write_new(tmp_path / "secret", secret_line(CLUSTER, b"s" * 32).encode())
    return SecretCredentials(tmp_path / "secret")


@pytest.fixture
def issuer() -> Issuer:
    return new_issuer(CLUSTER, now=today())


def bundle(tmp_path: Path, issuer: Issuer, name: str, **options: Any) -> BundleCredentials:
    write_new(tmp_path / name, issuer.issue(name, **{"now": today(), **options}).to_pem())
    return BundleCredentials(tmp_path / name)


@asynccontextmanager
async def listening(network: Network, handler: Handler) -> AsyncIterator[str]:
    """Listen for as long as the block takes; give the address."""
    async with trio.open_nursery() as nursery:
        address: str = await nursery.start(network.listen, handler)
        yield address
        nursery.cancel_scope.cancel()


async def echo(stream: PeerStream) -> None:
    stream.report(is_authenticated=True)
    while data := await stream.receive_some():
        await stream.send_all(data)


async def forget(stream: PeerStream) -> None:
    """Return at once, without a word."""


async def receive(stream: PeerStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = await stream.receive_some()
        assert data
        received += data
    return received


async def why_not(network: TcpNetwork, address: str) -> str:
    with pytest.raises(ConnectFailed) as caught:
        await network.dial(address)
    return str(caught.value)


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("host:7946", ("host", 7946)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:5", ("fe80::1%eth0", 5)),
        ("node-1.example.org:7946", ("node-1.example.org", 7946)),
    ],
)
def test_addresses_are_read_and_written(address: str, parsed: tuple[str, int]) -> None:
    assert parse_address(address) == parsed
    assert format_address(*parsed) == address


def test_ipv4_in_ipv6_is_shown_as_ipv4() -> None:
    assert format_address("::ffff:192.0.2.1", 5) == "192.0.2.1:5"


@pytest.mark.parametrize("address", [":7946", "[::]:7946", "0.0.0.0:0", ":0"])
def test_a_node_may_listen_at(address: str) -> None:
    parse_address(address, listens=True)


@pytest.mark.parametrize(
    "address",
    [
        *("", "host", "host:", ":7946", "host:0", "host:65536", "host:-1", "host:x", "host:\uff17"),
        *("::1:7946", "[::1]", "[::1]7946", "[host]:1", "[::1:1", "host:1:2", "host: 1", "host:1 "),
        *("a b:1", "a\n:1", "h" * 254 + ":1"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(address)


async def test_a_hint_that_is_no_address_cannot_be_dialled() -> None:
    network = TcpNetwork(PLAINTEXT)
    assert "brackets" in await why_not(network, "::1:7946")
    assert "name" in await why_not(network, "." + "a" * 70 + ":7946")
    with pytest.raises(ConnectFailed):
        await network.resolve("nothing")


# ---------------------------------------------------------------- both modes


@pytest.fixture(params=["plaintext", "secret", "mtls"])
def security(
    request: pytest.FixtureRequest, tmp_path: Path, secret: SecretCredentials, issuer: Issuer
) -> Credentials | Plaintext:
    if request.param == "mtls":
        return bundle(tmp_path, issuer, "node-1")
    return secret if request.param == "secret" else PLAINTEXT


async def test_bytes_go_both_ways(security: Credentials | Plaintext) -> None:
    network = TcpNetwork(security, listen=HERE)
    async with listening(network, echo) as address:
        stream = await network.dial(address)
        assert stream.remote_address == address
        assert address in repr(stream)
        data = bytes(range(256)) * 4096
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            assert await receive(stream, len(data)) == data
        await stream.aclose()


async def test_the_end_is_the_end(security: Credentials | Plaintext) -> None:
    network = TcpNetwork(security, listen=HERE)
    async with listening(network, forget) as address:
        stream = await network.dial(address)
        assert await stream.receive_some() == b""
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_closing_does_not_wait_for_the_peer(
    security: Credentials | Plaintext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer reads nothing, and all buffers are full."""
    monkeypatch.setattr(tcp, "CLOSE_SECONDS", 0.05)
    network = TcpNetwork(security, listen=HERE)
    closed = trio.Event()

    async def stuff(stream: PeerStream) -> None:
        with trio.move_on_after(0.3):
            while True:
                await stream.send_all(bytes(100_000))
        await stream.aclose()
        closed.set()

    async with listening(network, stuff) as address:
        stream = await network.dial(address)
        with trio.fail_after(20):
            await closed.wait()
        await stream.aclose()


async def test_a_connection_that_breaks_is_a_broken_resource(security: Credentials | Plaintext) -> None:
    done = trio.Event()

    async def notice(stream: PeerStream) -> None:
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await receive(stream, 2)
        done.set()

    async with listening(TcpNetwork(security, listen=HERE), notice) as address:
        stream = await TcpNetwork(security).dial(address)
        await stream.send_all(b"x")
        transport = socket_of(stream)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(transport)  # with a reset, by that option
        with trio.fail_after(20):
            await done.wait()


def socket_of(stream: TcpStream) -> trio.SocketStream:
    inner = stream._stream
    return inner.transport_stream if isinstance(inner, trio.SSLStream) else inner


async def test_a_connection_is_tuned(security: Credentials | Plaintext) -> None:
    network = TcpNetwork(security, listen=HERE)
    async with listening(network, echo) as address:
        stream = await network.dial(address)
        transport = socket_of(stream)
        assert transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            lowat = transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            assert lowat == 128 * 1024
        await stream.aclose()


async def test_many_peers_at_once(security: Credentials | Plaintext) -> None:
    network = TcpNetwork(security, listen=HERE)

    async def talk(address: str, number: int) -> None:
        stream = await network.dial(address)
        await stream.send_all(b"%d" % number)
        assert await receive(stream, len(b"%d" % number)) == b"%d" % number
        await stream.aclose()

    async with listening(network, echo) as address, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(talk, address, number)


# ---------------------------------------------------------------- what the certificates say


async def fingerprints_of(one: Credentials | Plaintext, other: Credentials | Plaintext) -> tuple[Any, Any]:
    """Return what (dialer, acceptor) see: fingerprints, and the node that the peer's certificate names."""
    seen: list[tuple[Any, bytes | None]] = []

    async def note(stream: PeerStream) -> None:
        seen.append((stream.fingerprints, stream.peer_node))

    async with listening(TcpNetwork(other, listen=HERE), note) as address:
        stream = await TcpNetwork(one).dial(address)
        await stream.receive_some()
        await stream.aclose()
    return (stream.fingerprints, stream.peer_node), seen[0]


async def test_plaintext_has_no_fingerprints() -> None:
    dialers, acceptors = await fingerprints_of(PLAINTEXT, PLAINTEXT)
    assert dialers == acceptors
    assert dialers[0].local == dialers[0].remote == b""
    assert dialers[1] is None


async def test_with_secrets_both_ends_see_the_acceptors_certificate(
    secret: SecretCredentials, tmp_path: Path
) -> None:
    other = SecretCredentials(tmp_path / "secret")
    dialers, acceptors = await fingerprints_of(secret, other)
    assert (dialers[0].local, dialers[0].remote) == (b"", other.accepting().fingerprint)
    assert (acceptors[0].local, acceptors[0].remote) == (other.accepting().fingerprint, b"")
    assert dialers[1] is None
    assert acceptors[1] is None


async def test_with_certificates_both_ends_see_both(tmp_path: Path, issuer: Issuer) -> None:
    one = bundle(tmp_path, issuer, "one", node=b"1" * 16)
    other = bundle(tmp_path, issuer, "other")
    dialers, acceptors = await fingerprints_of(one, other)
    prints = (one.dialing().fingerprint, other.accepting().fingerprint)
    assert (dialers[0].local, dialers[0].remote) == prints
    assert (acceptors[0].remote, acceptors[0].local) == prints
    assert dialers[1] is None
    assert acceptors[1] == b"1" * 16


async def test_a_certificate_that_nobody_checks_vouches_for_nobody(
    secret: SecretCredentials, issuer: Issuer
) -> None:
    """In mode secret an acceptor may show what it likes, a certificate that names a node included."""
    pair = issuer.issue("liar", now=today(), node=b"v" * 16).own
    _load(secret.accepting().context, pair)
    async with listening(TcpNetwork(secret, listen=HERE), forget) as address:
        stream = await TcpNetwork(secret).dial(address)
        assert stream.peer_node is None
        await stream.aclose()


# ---------------------------------------------------------------- who is not let in


async def test_another_authoritys_certificate_is_refused_by_the_dialer(
    tmp_path: Path, issuer: Issuer
) -> None:
    stranger = bundle(tmp_path, new_issuer(CLUSTER, now=today()), "stranger")
    member = bundle(tmp_path, issuer, "member")
    async with listening(TcpNetwork(stranger, listen=HERE), echo) as address:
        assert "was not made by this cluster's authority" in await why_not(TcpNetwork(member), address)


async def test_another_authoritys_certificate_is_refused_by_the_acceptor(
    tmp_path: Path, issuer: Issuer
) -> None:
    """In TLS 1.3 the dialer learns of it with the first bytes that it wants to read."""
    stranger_bundle = new_issuer(CLUSTER, now=today()).issue("stranger", now=today())
    trusting = attrs.evolve(stranger_bundle, authorities=(issuer.own.certificate,))
    write_new(tmp_path / "stranger", trusting.to_pem())
    reached = []

    async def note(stream: PeerStream) -> None:
        reached.append(stream)

    member = bundle(tmp_path, issuer, "member")
    async with listening(TcpNetwork(member, listen=HERE), note) as address:
        stream = await TcpNetwork(BundleCredentials(tmp_path / "stranger")).dial(address)
        with pytest.raises(trio.BrokenResourceError, match="does not accept this node's certificate"):
            await stream.receive_some()
        await stream.aclose()
    assert reached == []


async def test_an_expired_certificate_is_refused(tmp_path: Path, issuer: Issuer) -> None:
    old = issuer.issue("old", now=today() - dt.timedelta(days=100), days=50)
    write_new(tmp_path / "old", old.to_pem())
    member = bundle(tmp_path, issuer, "member")
    async with listening(TcpNetwork(BundleCredentials(tmp_path / "old"), listen=HERE), echo) as address:
        assert "expired" in await why_not(TcpNetwork(member), address)


async def test_a_member_without_a_certificate_is_told_so(
    tmp_path: Path, issuer: Issuer, secret: SecretCredentials
) -> None:
    member = bundle(tmp_path, issuer, "member")
    async with listening(TcpNetwork(member, listen=HERE), echo) as address:
        stream = await TcpNetwork(secret).dial(address)
        with pytest.raises(trio.BrokenResourceError, match="mode mtls"):
            await stream.receive_some()
        await stream.aclose()


async def serve_tcp(answer: bytes, task_status: trio.TaskStatus[str]) -> None:
    """Answer everybody with these bytes, and close."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    task_status.started(f"127.0.0.1:{port}")
    await trio.serve_listeners(handler, [listener])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"-ERR unknown command\r\n", "does not speak TLS there"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS there"),
        (b"", "ended the connection"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "TLS 1.3"),
    ],
)
async def test_other_servers_are_recognized(secret: SecretCredentials, answer: bytes, words: str) -> None:
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_tcp, answer))
        message = await why_not(TcpNetwork(secret), address)
        nursery.cancel_scope.cancel()
    assert words in message
    assert address in message


async def test_tls_of_something_else_is_recognized(secret: SecretCredentials) -> None:
    """Such as kvd's own port for clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, new_ephemeral())

    async def handler(stream: trio.SocketStream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=True) as secured:
            await secured.do_handshake()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        assert "no kvd's port for peers" in await why_not(TcpNetwork(secret), address)
        nursery.cancel_scope.cancel()


async def test_older_tls_is_refused(secret: SecretCredentials) -> None:
    async with listening(TcpNetwork(secret, listen=HERE), echo) as address:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        host, port = parse_address(address)
        stream = trio.SSLStream(await trio.open_tcp_stream(host, port), context)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)


async def test_nobody_listens(secret: SecretCredentials) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{sock.getsockname()[1]}"
    sock.close()
    assert "refused" in await why_not(TcpNetwork(secret), address)


async def test_a_name_that_does_not_exist(secret: SecretCredentials) -> None:
    message = await why_not(TcpNetwork(secret), "nobody.invalid:7946")
    assert message.startswith("nobody.invalid:7946: ")


async def test_who_does_not_answer_is_given_up(
    secret: SecretCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "CONNECT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        message = await why_not(TcpNetwork(secret), f"127.0.0.1:{sock.getsockname()[1]}")
    assert "no answer within" in message


# ---------------------------------------------------------------- names with several addresses


async def test_all_addresses_of_a_name_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(["192.0.2.1", "2001:db8::1", "192.0.2.1", "192.0.2.2"])
    trio.socket.set_custom_hostname_resolver(resolver)
    network = TcpNetwork(PLAINTEXT)
    found = await network.resolve("seeds.example.org:7946")
    assert found == ["192.0.2.1:7946", "[2001:db8::1]:7946", "192.0.2.2:7946"]
    assert await network.resolve("192.0.2.7:5") == ["192.0.2.7:5"]


async def test_of_several_addresses_one_that_answers_is_taken(secret: SecretCredentials) -> None:
    network = TcpNetwork(secret, listen="127.0.0.2:0")
    async with listening(network, echo) as address:
        port = parse_address(address)[1]
        trio.socket.set_custom_hostname_resolver(Resolver(["127.0.0.3", "127.0.0.2"]))
        stream = await network.dial(f"seeds.example.org:{port}")
        assert stream.remote_address == address
        await stream.aclose()


# ---------------------------------------------------------------- networks that are allowed

ELSEWHERE: Final = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"),)


async def test_only_allowed_networks_are_dialled(secret: SecretCredentials) -> None:
    async with listening(TcpNetwork(secret, listen=HERE), echo) as address:
        assert "allowed" in await why_not(TcpNetwork(secret, allow=ELSEWHERE), address)
        stream = await TcpNetwork(secret, allow=LOOPBACK).dial(address)
        await stream.aclose()


async def test_a_name_is_dialled_only_where_it_is_allowed(secret: SecretCredentials) -> None:
    async with listening(TcpNetwork(secret, listen="127.0.0.2:0"), echo) as address:
        port = parse_address(address)[1]
        trio.socket.set_custom_hostname_resolver(Resolver(["192.0.2.1", "127.0.0.3", "127.0.0.2"]))
        stream = await TcpNetwork(secret, allow=LOOPBACK).dial(f"seeds.example.org:{port}")
        assert stream.remote_address == address
        await stream.aclose()
        message = await why_not(TcpNetwork(secret, allow=ELSEWHERE[1:]), f"seeds.example.org:{port}")
        assert message.count("allowed") == 3


async def test_only_allowed_networks_are_accepted(secret: SecretCredentials) -> None:
    network = TcpNetwork(secret, listen=HERE, allow=ELSEWHERE)
    async with listening(network, echo) as address:
        await why_not(TcpNetwork(secret), address)
    assert network.doorman.refused_count == 0


# ---------------------------------------------------------------- strangers


async def test_who_never_authenticates_is_kept_waiting(secret: SecretCredentials) -> None:
    network = TcpNetwork(secret, listen=HERE)
    async with listening(network, forget) as address:
        for _ in range(FREE_FAILURES + 1):
            stream = await TcpNetwork(secret).dial(address)
            assert await stream.receive_some() == b""
            await stream.aclose()
        await why_not(TcpNetwork(secret), address)
    assert network.doorman.refused_count == 1
    assert network.doorman.half_open_count == 0


async def test_who_authenticates_is_not(secret: SecretCredentials) -> None:
    network = TcpNetwork(secret, listen=HERE)
    async with listening(network, echo) as address:
        for _ in range(3 * FREE_FAILURES):
            stream = await TcpNetwork(secret).dial(address)
            await stream.aclose()
    assert network.doorman.refused_count == 0


async def test_an_authenticated_connection_is_no_longer_half_open(secret: SecretCredentials) -> None:
    network = TcpNetwork(secret, listen=HERE, doorman=Doorman(half_open_max=1))
    async with listening(network, echo) as address:
        streams = []
        for _ in range(4):
            stream = await TcpNetwork(secret).dial(address)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            streams.append(stream)
        for stream in streams:
            await stream.aclose()


async def test_silent_strangers_are_bounded_and_do_not_stay(
    secret: SecretCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "CONNECT_SECONDS", 0.3)
    network = TcpNetwork(secret, listen=HERE, doorman=Doorman(per_address_max=4))
    async with listening(network, echo) as address:
        host, port = parse_address(address)
        strangers = [await trio.open_tcp_stream(host, port) for _ in range(10)]
        with trio.fail_after(20):
            for stranger in strangers:
                assert await stranger.receive_some() == b""
                await stranger.aclose()
    assert network.doorman.half_open_count == 0
    assert network.doorman.refused_count >= 6


@pytest.mark.parametrize("garbage", [b"PING\r\n", bytes(1000), b"\x16\x03\x01\x02\x00" + b"\xff" * 512])
async def test_garbage_ends_at_its_connection(secret: SecretCredentials, garbage: bytes) -> None:
    network = TcpNetwork(secret, listen=HERE)
    async with listening(network, echo) as address:
        host, port = parse_address(address)
        stranger = await trio.open_tcp_stream(host, port)
        await stranger.send_all(garbage)
        with trio.fail_after(20):
            while await stranger.receive_some():
                pass
        await stranger.aclose()
        stream = await TcpNetwork(secret).dial(address)
        await stream.send_all(b"still there?")
        assert await stream.receive_some() == b"still there?"
        await stream.aclose()


# ---------------------------------------------------------------- all together


async def shake_hands(
    stream: PeerStream, credentials: Credentials, name: bytes, *, outgoing: bool
) -> Handshake:
    """Do what the driver does until the handshake is over."""
    own = Hello(1, credentials.cluster, name * 16, name.upper() * 16, name * 32, 1, 2)
    machine = Handshake(own, credentials.authenticator, stream, outgoing=outgoing)
    reader = FrameReader()
    for message in machine.start():
        await stream.send_all(encode(message))
    while not machine.is_over and (data := await stream.receive_some()):
        replies = []
        for message in reader.feed(data):
            replies += machine.on_message(message)
            if machine.is_authenticated:
                reader.authenticated()
        await stream.send_all(b"".join(map(encode, replies)))
    return machine


async def meet(one: Credentials, other: Credentials) -> tuple[Handshake, Handshake]:
    """Let two nodes shake hands over TLS; return (dialer's, acceptor's)."""
    done: list[Handshake] = []
    is_done = trio.Event()

    async def accept(stream: PeerStream) -> None:
        done.append(await shake_hands(stream, other, b"a", outgoing=False))
        stream.report(is_authenticated=done[0].is_authenticated)
        is_done.set()

    async with listening(TcpNetwork(other, listen=HERE), accept) as address:
        stream = await TcpNetwork(one).dial(address)
        with trio.fail_after(20):
            machine = await shake_hands(stream, one, b"d", outgoing=True)
            await is_done.wait()
        await stream.aclose()
    return machine, done[0]


async def test_two_nodes_with_the_secret_meet(secret: SecretCredentials, tmp_path: Path) -> None:
    dialer, acceptor = await meet(secret, SecretCredentials(tmp_path / "secret"))
    assert dialer.peer is not None
    assert acceptor.peer is not None
    assert dialer.your_address.startswith("127.0.0.1:")


async def test_two_nodes_with_certificates_meet(tmp_path: Path, issuer: Issuer) -> None:
    one, other = bundle(tmp_path, issuer, "one"), bundle(tmp_path, issuer, "other", node=b"a" * 16)
    dialer, acceptor = await meet(one, other)
    assert dialer.peer is not None
    assert acceptor.peer is not None


async def test_a_certificate_for_another_node_is_found_out(tmp_path: Path, issuer: Issuer) -> None:
    one, other = bundle(tmp_path, issuer, "one", node=b"?" * 16), bundle(tmp_path, issuer, "other")
    dialer, acceptor = await meet(one, other)
    assert dialer.rejected is not None
    assert acceptor.refused == dialer.rejected


async def test_nodes_of_two_clusters_do_not_meet(secret: SecretCredentials, tmp_path: Path) -> None:
    write_new(tmp_path / "other", new_secret_line().encode())
    dialer, acceptor = await meet(secret, SecretCredentials(tmp_path / "other"))
    assert dialer.peer is None
    assert acceptor.peer is None
    assert dialer.rejected is not None
    assert "another cluster" in dialer.rejected.text


async def test_somebody_in_between_is_found_out(secret: SecretCredentials, tmp_path: Path) -> None:
    """He terminates TLS on both sides and passes every byte on."""
    victim = SecretCredentials(tmp_path / "secret")
    between = SecretCredentials(tmp_path / "secret")  # its TLS; the secret itself it does not use
    done: list[Handshake] = []

    async def accept(stream: PeerStream) -> None:
        done.append(await shake_hands(stream, victim, b"a", outgoing=False))

    async with listening(TcpNetwork(victim, listen=HERE), accept) as address:

        async def pass_on(stream: PeerStream) -> None:
            onwards = await TcpNetwork(between).dial(address)
            async with aclosing(onwards), trio.open_nursery() as nursery:
                nursery.start_soon(pump, stream, onwards)
                nursery.start_soon(pump, onwards, stream)

        async with listening(TcpNetwork(between, listen=HERE), pass_on) as middle:
            stream = await TcpNetwork(secret).dial(middle)
            with trio.fail_after(20):
                machine = await shake_hands(stream, secret, b"d", outgoing=True)
            await stream.aclose()
    assert machine.peer is None
    assert not machine.is_authenticated
    assert not done[0].is_authenticated


async def pump(source: PeerStream, target: PeerStream) -> None:
    try:
        while data := await source.receive_some():
            await target.send_all(data)
        await target.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def test_a_megabyte_a_frame_crosses_tls(secret: SecretCredentials) -> None:
    frames = [encode(BodyData(b"o" * 16, 1, 0, 2**29, bytes([n]) * 256 * 1024)) for n in range(12)]
    received: list[Any] = []
    ended = trio.Event()

    async def collect(stream: PeerStream) -> None:
        reader = FrameReader(is_authenticated=True)
        while data := await stream.receive_some():
            received.extend(reader.feed(data))
        ended.set()

    async with listening(TcpNetwork(secret, listen=HERE), collect) as address:
        stream: TcpStream = await TcpNetwork(secret).dial(address)
        for frame in frames:
            await stream.send_all(frame)
        await stream.aclose()
        with trio.fail_after(20):
            await ended.wait()
    assert [encode(message) for message in received] == frames


def test_what_goes_wrong_is_one_family() -> None:
    assert issubclass(ConnectFailed, ReplicationError)
