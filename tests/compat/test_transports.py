"""The same clients over a unix socket and over TLS, with and without a client certificate."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import Client, kvd_server, redis_executable


@attrs.frozen
class Transports:
    """One server that listens on everything, and the files that TLS clients need."""

    unix_socket: Path
    tls_port: int
    authority: Path
    certificate: Path  # of a client, with its key

    def options(self, kind: str) -> dict[str, Any]:
        """Return redis-py's options for a kind of transport."""
        if kind == "unix":
            return {"unix_socket_path": str(self.unix_socket)}
        return {
            "host": "127.0.0.1",
            "port": self.tls_port,
            "ssl": True,
            "ssl_ca_certs": str(self.authority),
            "ssl_certfile": str(self.certificate),
            "ssl_keyfile": str(self.certificate),
        }

    def flags(self, kind: str) -> list[str]:
        """Return the flags of redis-cli and redis-benchmark for a kind of transport."""
        if kind == "unix":
            return ["-s", str(self.unix_socket)]
        certificate = str(self.certificate)
        files = ["--cacert", str(self.authority), "--cert", certificate, "--key", certificate]
        return ["-p", str(self.tls_port), "--tls", *files]


@pytest.fixture(scope="module")
def transports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transports]:
    directory = tmp_path_factory.mktemp("transports")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for name, identity in (("server", "127.0.0.1"), ("client", "client@example.org")):
        authority.issue_cert(identity).private_key_and_cert_chain_pem.write_to_path(
            str(directory / f"{name}.pem")
        )
    settings = {
        "server.unix_socket": directory / "kvd.sock",
        "server.tls_port": 0,
        "server.tls_cert_file": directory / "server.pem",
        "server.tls_key_file": directory / "server.pem",
        "server.tls_ca_file": directory / "ca.pem",
        "server.tls_auth_clients": "yes",
    }
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with kvd_server(directory, *flags):
        ports = json.loads((directory / "ports.json").read_text())
        yield Transports(
            directory / "kvd.sock", ports["resp_tls"], directory / "ca.pem", directory / "client.pem"
        )


@pytest.fixture(params=["unix", "tls"])
def client(transports: Transports, request: pytest.FixtureRequest) -> Iterator[Client]:
    with redis.Redis(**transports.options(request.param), decode_responses=True) as client:
        client.flushall()
        yield client


def test_pipelines_come_back_in_order(client: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    for number in range(20_000):
        pipeline.set(f"key:{number}", number).get(f"key:{number}")
    assert pipeline.execute()[1::2] == [str(number) for number in range(20_000)]


def test_large_values_come_back_whole(client: Client) -> None:
    value = "".join(f"{number:010}" for number in range(1_000_000))
    client.set("large", value)
    assert client.get("large") == value


def test_messages_are_pushed(client: Client) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=10) is None  # the confirmation, which is not shown
        assert client.publish("news", "hello") == 1
        assert pubsub.get_message(timeout=10)["data"] == "hello"


@pytest.mark.needs_redis
@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_programs_of_redis_use_it(transports: Transports, kind: str) -> None:
    def run(program: str, *arguments: str) -> str:
        command = [redis_executable(program), *transports.flags(kind), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("redis-cli", "set", "greeting", "hello") == "OK\n"
    assert run("redis-cli", "-3", "get", "greeting") == "hello\n"
    assert "requests per second" in run("redis-benchmark", "-q", "-t", "get", "-n", "2000", "-P", "4")


def test_client_without_a_certificate_is_not_let_in(transports: Transports) -> None:
    options = {
        **transports.options("tls"),
        "ssl_certfile": None,
        "ssl_keyfile": None,
        "retry": Retry(NoBackoff(), 0),
    }
    with redis.Redis(**options) as client, pytest.raises(redis.ConnectionError):
        client.ping()
