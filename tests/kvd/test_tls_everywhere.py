"""Encryption in transit: a daemon whose every port is TLS, and that has no other."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import redis
import trustme
from click.testing import CliRunner

from kvd.cli.main import main
from tests.servers import ROOT, launch_kvd, wait_until

_LISTEN = "0A"  # the state, as /proc/net/tcp writes it


@attrs.frozen
class Node:
    """A daemon without plain ports: where its TLS ports are, and whom its clients have to trust."""

    process: subprocess.Popen[bytes]
    home: Path
    authority: trustme.CA
    ca_file: Path

    @property
    def ports(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.home / "ports.json").read_text())
        return found

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    def client(self, **options: Any) -> Any:
        options = {"ssl": True, "ssl_ca_certs": str(self.ca_file), **options}
        return redis.Redis("127.0.0.1", self.ports["resp_tls"], **options)

    def listening(self) -> set[int]:
        """Return the TCP ports that the process listens on, as the kernel tells."""
        own = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(str(entry.readlink()))
        found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.process.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in own:
                    found.add(int(fields[1].rpartition(":")[2], 16))
        return found


@pytest.fixture
def ca(tmp_path: Path) -> tuple[trustme.CA, Path]:
    authority = trustme.CA()
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, path


@contextlib.contextmanager
def node(home: Path, ca: tuple[trustme.CA, Path], secret: Path, *options: str) -> Iterator[Node]:
    home.mkdir()
    authority, ca_file = ca
    _issue(authority, home / "server.pem")
    settings = {
        "server.port": -1,
        "server.tls_port": 0,
        "server.tls_cert_file": home / "server.pem",
        "server.tls_key_file": home / "server.pem",
        "http.port": -1,
        "http.tls_port": 0,
        "peers.bind": "127.0.0.1",
        "peers.secret_file": secret,
    }
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    # The flags that `launch_kvd` gives come first, and the last one wins.
    with launch_kvd(
        home, "--port", "-1", "--http-port", "-1", "--peer-port", "0", *flags, *options
    ) as process:
        made = Node(process, home, authority, ca_file)
        wait_until((home / "ports.json").exists, "the ports are open")
        yield made


def _issue(authority: trustme.CA, path: Path) -> None:
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(path))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.secret"
    assert CliRunner().invoke(main, ["cluster", "init", str(path)]).exit_code == 0
    return path


@pytest.fixture
def alone(tmp_path: Path, ca: tuple[trustme.CA, Path], secret: Path) -> Iterator[Node]:
    with node(tmp_path / "alone", ca, secret) as made:
        yield made


def test_there_is_no_port_without_tls(alone: Node) -> None:
    ports = alone.ports
    assert set(ports) == {"resp_tls", "http_tls", "peer"}
    assert alone.listening() == set(ports.values())
    for name, port in ports.items():
        for words in (b"PING\r\n", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            assert not _answer_in_plain(port, words), name
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as sock,
            trusting.wrap_socket(sock) as secured,
        ):
            assert secured.version() == "TLSv1.3", name


def _answer_in_plain(port: int, words: bytes) -> bytes:
    """Return what a client without TLS is answered, apart from TLS's own alert."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(4096):
                found += data
    if len(found) >= 5 and found[0] == 21:  # a record of type alert. Source: RFC 8446 §5.1
        (size,) = struct.unpack(">H", found[3:5])
        found = found[5 + size :]
    return found


def test_clients_of_both_protocols_are_served_over_tls(alone: Node) -> None:
    with alone.client() as client:
        assert client.set("k", b"value")
    connection = http.client.HTTPSConnection(
        "127.0.0.1", alone.ports["http_tls"], context=alone.context, timeout=60
    )
    connection.request("PUT", "/k?urlencoded=true", b"value")
    assert connection.getresponse().read() == b""
    connection.request("GET", "/k?urlencoded=true")
    assert connection.getresponse().read() == b"value"
    connection.close()
    with pytest.raises(redis.ConnectionError), alone.client(ssl_ca_certs=None) as stranger:
        stranger.ping()


def test_versions_that_are_too_old_are_refused(
    tmp_path: Path, ca: tuple[trustme.CA, Path], secret: Path
) -> None:
    with node(tmp_path / "strict", ca, secret, "--set", "server.tls_min_version=1.3") as strict:
        for port in strict.ports.values():
            older = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            older.check_hostname, older.verify_mode = False, ssl.CERT_NONE
            older.maximum_version = ssl.TLSVersion.TLSv1_2
            with (
                socket.create_connection(("127.0.0.1", port), timeout=30) as sock,
                pytest.raises((ssl.SSLError, ConnectionResetError)),
            ):
                older.wrap_socket(sock)


def test_the_command_line_speaks_tls(alone: Node) -> None:
    ports = alone.ports
    environment = {**os.environ, "SSL_CERT_FILE": str(alone.ca_file)}

    def kvd(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "kvd", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    web = f"https://127.0.0.1:{ports['http_tls']}"
    kvd("namespace", "create", "shop", "--url", web)
    kvd("key", "put", "-n", "shop", "k", "value", "--url", web)
    assert kvd("key", "get", "-n", "shop", "k", "--url", web).strip() == "value"
    assert "alive" in kvd("cluster", "status", "--url", f"rediss://127.0.0.1:{ports['resp_tls']}")


def test_certificates_are_read_again_by_sighup(alone: Node) -> None:
    before = {name: _certificate_of(alone, name) for name in ("resp_tls", "http_tls")}
    with alone.client() as client:
        client.ping()
        _issue(alone.authority, alone.home / "server.pem")
        alone.process.send_signal(signal.SIGHUP)
        for name, old in before.items():
            wait_until(partial(_shows_another, alone, name, old), f"{name} shows another certificate")
        assert client.ping(), "who was there stays"


def _shows_another(alone: Node, name: str, old: bytes | None) -> bool:
    return _certificate_of(alone, name) != old


def _certificate_of(alone: Node, name: str) -> bytes | None:
    with (
        socket.create_connection(("127.0.0.1", alone.ports[name]), timeout=30) as sock,
        alone.context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
    ):
        return secured.getpeercert(binary_form=True)


def test_nodes_without_plain_ports_make_a_cluster(
    tmp_path: Path, ca: tuple[trustme.CA, Path], secret: Path
) -> None:
    with node(tmp_path / "one", ca, secret) as one:
        join = ("--join", f"127.0.0.1:{one.ports['peer']}")
        with node(tmp_path / "two", ca, secret, *join) as two, one.client() as here, two.client() as there:
            here.set("k", b"value")
            wait_until(lambda: _get(there, "k") == b"value", "the write has come")


def _get(client: Any, key: str) -> Any:
    try:
        return client.get(key)
    except redis.RedisError:
        return None  # it is still joining
