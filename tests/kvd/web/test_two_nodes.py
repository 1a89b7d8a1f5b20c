"""HTTP on two nodes of one cluster: records, namespaces, tokens and change streams reach the other node."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kvd.web.web_harness import BASE
from tests.servers import ROOT, RunningServer, kvd_server, wait_until


class Node:
    """A daemon's HTTP side."""

    def __init__(self, server: RunningServer) -> None:
        self.ports: dict[str, int] = json.loads((server.log_file.parent / "ports.json").read_text())
        self.headers: dict[str, str] = {}

    def ask(self, method: str, target: str, body: str | None = None) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=30)
        try:
            connection.request(method, target, body, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    secret = tmp_path / "secret"
    subprocess.run(
        [sys.executable, "-m", "kvd", "cluster", "init", str(secret)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    options = ("--peer-port", "0", "--set", "peers.bind=127.0.0.1", "--cluster-secret-file", str(secret))
    with contextlib.ExitStack() as stack:
        found: list[Node] = []
        for name in ("a", "b"):
            directory = tmp_path / name
            directory.mkdir()
            join = ("--join", f"127.0.0.1:{found[0].ports['peer']}") if found else ()
            found.append(Node(stack.enter_context(kvd_server(directory, *options, *join))))
            wait_until(lambda: found[-1].ask("GET", "/readyz")[0] == 200, f"{name} is ready", seconds=60)
        yield found[0], found[1]


@pytest.mark.slow
def test_what_one_node_is_told_the_other_knows(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    made = json.loads(one.ask("POST", BASE, '{"title":"shared"}')[1])["result"]
    value = f"{BASE}/{made['id']}/values/k"
    tag = one.ask("PUT", value, "v")[2]["ETag"]
    wait_until(lambda: other.ask("GET", value)[0] == 200, "the value comes to the other node")
    status, body, headers = other.ask("GET", value)
    assert (status, body, headers["ETag"]) == (200, b"v", tag)

    with socket.create_connection(("127.0.0.1", other.ports["http"]), timeout=30) as stream:
        stream.sendall(b"GET /kvd/v1/namespaces/shared/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = stream.recv(65536)
        one.ask("DELETE", value)
        while b"event: delete" not in received:
            part = stream.recv(65536)
            assert part
            received += part

    token = json.loads(one.ask("POST", "/api/tokens", '{"right":"admin"}')[1])["result"]
    wait_until(lambda: other.ask("GET", BASE)[0] == 401, "the token protects the other node, too")
    for node in nodes:
        node.headers = {"Authorization": f"Bearer {token['token']}"}
    assert other.ask("GET", BASE)[0] == 200
    members = json.loads(other.ask("GET", "/api/members")[1])["result"]["members"]
    assert len(members) == 2
    one.ask("DELETE", f"/api/tokens/{token['id']}")
    wait_until(
        lambda: other.ask("GET", "/api/tokens")[1].find(token["id"].encode()) < 0, "it is revoked there"
    )
