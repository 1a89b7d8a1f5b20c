"""TLS clients that begin and do not go on: each has a task of its own, which must end and cost little."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trustme

from tests.hostile.watch import MIB, Neighbour, assert_serves
from tests.servers import RunningServer, kvd_server, wait_until

HALF_OPEN = 500


@attrs.frozen
class TlsServer:
    """A server with a plain and a TLS port, and what a TLS client needs to trust it."""

    server: RunningServer
    port: int
    context: ssl.SSLContext

    def connect(self) -> socket.socket:
        """Return a TCP connection to the TLS port, without a word said."""
        return socket.create_connection((self.server.host, self.port), timeout=60)

    def secured(self) -> ssl.SSLSocket:
        """Return a connection after its handshake."""
        return self.context.wrap_socket(self.connect(), server_hostname=self.server.host)


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[TlsServer]:
    authority = trustme.CA()
    files = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(files))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = ("tls_port=0", "tls_handshake_seconds=2", f"tls_cert_file={files}", f"tls_key_file={files}")
    flags = [word for setting in settings for word in ("--set", f"server.{setting}")]
    with kvd_server(tmp_path, *flags) as server:
        yield TlsServer(server, json.loads((tmp_path / "ports.json").read_text())["resp_tls"], context)
        assert_serves(server)


def assert_answers(sock: ssl.SSLSocket) -> None:
    sock.sendall(b"PING\r\n")
    assert sock.recv(64) == b"+PONG\r\n"


@pytest.mark.parametrize(
    "sent", [b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(5000), b"\x16\x03\x01\xff\xff" + bytes(70_000)]
)
def test_what_is_no_handshake_ends_that_connection_alone(tls: TlsServer, sent: bytes) -> None:
    with tls.secured() as good, tls.connect() as bad:
        try:
            bad.sendall(sent)
            while bad.recv(4096):
                continue
        except (BrokenPipeError, ConnectionResetError):
            assert_answers(good)  # closed by a reset: bytes of ours were unread
        assert_answers(good)


def test_half_open_handshakes_are_given_up(tls: TlsServer) -> None:
    before = tls.server.resident_bytes()
    with Neighbour(tls.server) as neighbour, tls.secured() as good:
        sockets = [tls.connect() for _ in range(HALF_OPEN)]
        for sock in sockets[::2]:
            sock.sendall(b"\x16\x03\x01")  # the first bytes of a handshake record
        assert_answers(good)
        growth = tls.server.resident_bytes() - before
        for sock in sockets:
            assert sock.recv(64) == b""
            sock.close()
        assert_answers(good)
    print(f"{growth / HALF_OPEN:.0f} bytes for a half-open handshake; neighbour: {neighbour.figures()}")
    assert growth < 64 * MIB


def test_replies_wait_for_a_reader_of_tls_too(tls: TlsServer) -> None:
    with tls.server.client() as client:
        client.set("large", b"x" * MIB)
        before = tls.server.resident_bytes()
        tls.server.forget_peak()
        with tls.secured() as sock:
            sock.sendall(b"GET large\r\n" * 500)
            for _ in range(200):
                client.ping()
            growth = tls.server.peak_bytes() - before
            left = 500 * (MIB + len(b"$1048576\r\n\r\n"))
            while left:
                data = sock.recv(min(left, MIB))
                assert data
                left -= len(data)
        wait_until(lambda: len(client.client_list()) == 1, "the client is forgotten")
    print(f"up to {growth / MIB:.1f} MiB more")
    assert growth < 256 * MIB
