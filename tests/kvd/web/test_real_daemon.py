"""A daemon of its own, with curl and Python's own client over TCP, a unix socket and TLS; many clients; the command line."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.kvd.web.web_harness import BASE
from tests.servers import ROOT, RunningServer, kvd_server, wait_until

CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with kvd_server(tmp_path_factory.mktemp("http")) as running:
        yield running


def ports(server: RunningServer) -> dict[str, int]:
    found: dict[str, int] = json.loads((server.log_file.parent / "ports.json").read_text())
    return found


def port(server: RunningServer) -> int:
    return ports(server)["http"]


_opened: list[http.client.HTTPConnection] = []


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def connect(server: RunningServer) -> http.client.HTTPConnection:
    """Return a connection, which is closed with the test."""
    connection = http.client.HTTPConnection("127.0.0.1", port(server), timeout=60)
    _opened.append(connection)
    return connection


def ask(
    connection: http.client.HTTPConnection, method: str, target: str, body: object = None, **headers: str
) -> tuple[int, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, target, body, names)  # type: ignore[arg-type]
    answer = connection.getresponse()
    return answer.status, answer.read()


def create(connection: http.client.HTTPConnection, title: str) -> str:
    _, text = ask(connection, "POST", BASE, json.dumps({"title": title}))
    return str(json.loads(text)["result"]["id"])


def curl(*arguments: str) -> str:
    if CURL is None:
        pytest.skip("not installed: curl")
    done = subprocess.run([CURL, "-sS", "-m", "60", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


# ---------------------------------------------------------------- curl


def test_curl_as_in_the_original_post(shared: RunningServer) -> None:
    base = f"http://127.0.0.1:{port(shared)}/client/v4/accounts/a"
    auth = ("-H", "X-Auth-Key: k", "-H", "X-Auth-Email: e@example")
    made = json.loads(curl(f"{base}/workers/namespaces", "-X", "POST", "--data", '{"title": "curl"}', *auth))
    values = f"{base}/storage/kv/namespaces/{made['result']['id']}/values"
    assert json.loads(curl(f"{values}/first-key", "-X", "PUT", "-d", "My first value!", *auth))["success"]
    assert curl(f"{values}/first-key", *auth) == "My first value!"
    curl(
        f"{values}/with-metadata", "-X", "PUT", "--form-string", "value=a;b", "-F", 'metadata={"a":1}', *auth
    )
    assert curl(f"{values}/with-metadata") == "a;b"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{values}/nothing") == "404"
    assert "HTTP/1.1 200 OK" in curl("-I", f"{values}/first-key")
    curl("-X", "PUT", "--path-as-is", f"{values}/żółw/../x", "-d", "odd")
    assert curl("--path-as-is", f"{values}/%C5%BC%C3%B3%C5%82w/../x") == "odd"


def test_curl_with_a_large_value_expects_and_chunks(shared: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(os.urandom(20 << 20))
    url = f"http://127.0.0.1:{port(shared)}/large?urlencoded=true"
    curl("-T", str(file), url)
    copy = tmp_path / "copy"
    curl("-o", str(copy), url)
    assert copy.read_bytes() == file.read_bytes()
    curl("-T", str(file), "-H", "Transfer-Encoding: chunked", url + "&expiration_ttl=60")
    curl("-o", str(copy), url)
    assert copy.read_bytes() == file.read_bytes()
    file.write_bytes(bytes(26_214_401))
    assert curl("-T", str(file), "-o", "/dev/null", "-w", "%{http_code}", url) == "413"
    assert "413" in curl("-T", str(file), "-H", "Expect:", "-i", url)


# ---------------------------------------------------------------- sockets


def test_redis_clients_and_http_share_records(shared: RunningServer) -> None:
    connection = connect(shared)
    create(connection, "both")
    with shared.client() as redis:
        redis.execute_command("KV.NS", "USE", "both")
        redis.set("k", b"\x00\xff", ex=100)
        assert ask(connection, "GET", "/k?urlencoded=true", X_KV_Namespace="both") == (200, b"\x00\xff")
        ask(connection, "PUT", "/k?urlencoded=true", b"new", X_KV_Namespace="both")
        assert redis.get("k") == b"new"
        assert redis.ttl("k") == -1


def put_in_bulk(connection: http.client.HTTPConnection, server: RunningServer, title: str) -> None:
    """Put 10,000 pairs while a Redis client reads; both come through, and all pairs are there."""
    namespace = create(connection, title)
    entries = [{"key": f"k{number}", "value": "v" * (number % 500)} for number in range(10_000)]
    is_over = threading.Event()
    reads: list[bytes] = []

    def read() -> None:
        with server.client() as redis:
            redis.set("read", "v")
            while not is_over.is_set():
                reads.append(redis.get("read"))

    reader = threading.Thread(target=read)
    reader.start()
    status, body = ask(connection, "PUT", f"{BASE}/{namespace}/bulk", json.dumps(entries).encode())
    is_over.set()
    reader.join()
    assert (status, json.loads(body)["result"]["successful_key_count"]) == (200, 10_000)
    assert set(reads) == {b"v"}
    with server.client() as redis:
        redis.execute_command("KV.NS", "USE", title)
        assert redis.dbsize() == 10_000
        assert redis.get("k499") == b"v" * 499


def test_bulk_beside_a_redis_client(shared: RunningServer) -> None:
    put_in_bulk(connect(shared), shared, "beside")


def test_a_paused_write_is_answered_when_the_pause_is_over(shared: RunningServer) -> None:
    connection, other = connect(shared), connect(shared)
    with shared.client() as redis:
        redis.client_pause(60_000, all=False)
        connection.request("PUT", "/paused?urlencoded=true", b"v")
        assert ask(other, "GET", "/paused?urlencoded=true")[0] == 404
        wait_until(
            lambda: b" flags=b " in redis.execute_command("CLIENT", "LIST", "TYPE", "http"), "it waits"
        )
        redis.client_unpause()
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert ask(other, "GET", "/paused?urlencoded=true") == (200, b"v")


def test_unix_socket_and_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    path = tmp_path / "http.sock"
    files = ("--set", f"server.tls_cert_file={chain}", "--set", f"server.tls_key_file={key}")
    with kvd_server(
        tmp_path, "--set", "http.tls_port=0", "--set", f"http.unix_socket={path}", *files
    ) as server:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        encrypted = http.client.HTTPSConnection(
            "localhost", ports(server)["http_tls"], context=context, timeout=60
        )
        _opened.append(encrypted)
        value = os.urandom(5 << 20)
        assert ask(encrypted, "PUT", "/k?urlencoded=true", value)[0] == 200
        assert ask(encrypted, "GET", "/k?urlencoded=true") == (200, value)
        assert ask(encrypted, "GET", "/metrics")[0] == 200
        put_in_bulk(encrypted, server, "bulk")
        if CURL is not None:
            assert curl("--unix-socket", str(path), "http://anything/livez") == "ok\n"
            assert curl("--unix-socket", str(path), "http://anything/?urlencoded=true").startswith(
                '{"keys":[{"name":"k"}]'
            )
        assert server.stop() == 0
        assert not path.exists()


def test_stop_answers_what_has_come(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        connection = connect(server)
        assert ask(connection, "PUT", "/k?urlencoded=true", b"v")[0] == 200
        assert server.stop() == 0
    with kvd_server(tmp_path) as server:
        assert ask(connect(server), "GET", "/k?urlencoded=true") == (200, b"v")


def test_change_stream_and_expiry(shared: RunningServer) -> None:
    connection = connect(shared)
    create(connection, "stream")
    with socket.create_connection(("127.0.0.1", port(shared)), timeout=30) as stream:
        stream.sendall(b"GET /kvd/v1/namespaces/stream/changes?prefix=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = stream.recv(65536)
        assert b"text/event-stream" in received
        with shared.client() as redis:
            redis.execute_command("KV.NS", "USE", "stream")
            redis.set("a", "1", px=50)
            redis.set("b", "1")
        while b"event: expire" not in received:
            received += stream.recv(65536)
    assert received.count(b"event: put") == 1


def test_a_change_stream_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        connection = connect(server)
        _, text = ask(connection, "POST", "/api/tokens", '{"right":"admin"}')
        admin = f"Bearer {json.loads(text)['result']['token']}"
        _, text = ask(connection, "POST", "/api/tokens", "{}", Authorization=admin)
        reader = json.loads(text)["result"]
        with socket.create_connection(("127.0.0.1", port(server)), timeout=30) as stream:
            stream.sendall(
                b"GET /kvd/v1/namespaces/db0/changes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
                + reader["token"].encode()
                + b"\r\n\r\n"
            )
            received = stream.recv(65536)
            assert b"text/event-stream" in received
            with server.client() as redis:
                redis.set("told", "1")
                while b'"told"' not in received:
                    received += stream.recv(65536)
                status, _ = ask(connection, "DELETE", f"/api/tokens/{reader['id']}", Authorization=admin)
                assert status == 200
                redis.set("secret", "1")
            rest = b"".join(iter(lambda: stream.recv(65536), b""))
            assert b"secret" not in rest


# ---------------------------------------------------------------- hostile and many


def test_slow_heads_are_closed_and_others_served(tmp_path: Path) -> None:
    with kvd_server(tmp_path, "--set", "http.head_seconds=1", "--set", "http.body_seconds=1") as server:
        slow = [socket.create_connection(("127.0.0.1", port(server)), timeout=30) for _ in range(50)]
        for number, sock in enumerate(slow):
            head = (
                b"GET / HTTP/1.1\r\nHost: localhost\r\n"
                if number % 2
                else b"PUT /k?urlencoded=true HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na"
            )
            sock.sendall(head)
        assert ask(connect(server), "GET", "/livez")[0] == 200
        for sock in slow:
            assert b" 408 " in sock.recv(65536) or not sock.recv(65536)
            sock.close()
        assert ask(connect(server), "GET", "/livez")[0] == 200


def test_bodies_cut_off_leave_nothing(shared: RunningServer) -> None:
    before = shared.resident_bytes()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port(shared)), timeout=30) as sock:
            sock.sendall(
                b"PUT /cut?urlencoded=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"
                + bytes(10_000_000)
            )
    connection = connect(shared)
    assert ask(connection, "GET", "/cut?urlencoded=true")[0] == 404
    assert shared.resident_bytes() - before < 100 << 20


def test_reader_that_does_not_read_is_not_served_without_end(shared: RunningServer) -> None:
    connection = connect(shared)
    ask(connection, "PUT", "/big?urlencoded=true", bytes(10 << 20))
    before = shared.resident_bytes()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port(shared)))
        sock.sendall(b"GET /big?urlencoded=true HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        for _ in range(50):
            assert ask(connection, "GET", "/livez")[0] == 200
        assert shared.resident_bytes() - before < 100 << 20


def test_large_bulk_lets_others_in(shared: RunningServer) -> None:
    connection = connect(shared)
    namespace = create(connection, "bulk")
    value = base64.b64encode(os.urandom(7_000)).decode()
    body = json.dumps(
        [{"key": f"k{n}", "value": value, "metadata": {"n": n}} for n in range(10_000)]
    ).encode()
    assert len(body) > 90_000_000
    with concurrent.futures.ThreadPoolExecutor() as pool, shared.client() as redis:
        done = pool.submit(ask, connect(shared), "PUT", f"{BASE}/{namespace}/bulk", body)
        times = []
        while not done.done():
            started = time.perf_counter()
            redis.set("probe", "x")
            times.append(time.perf_counter() - started)
        status, text = done.result()
    assert (status, json.loads(text)["result"]["successful_key_count"]) == (200, 10_000)
    times.sort()
    assert times[len(times) * 99 // 100] < 0.25, "the bulk put has stopped another client"
    _, text = ask(connection, "GET", f"{BASE}/{namespace}/values/k9999")
    assert text.decode() == value
    wait_until(lambda: ask(connection, "DELETE", f"{BASE}/{namespace}")[0] in {200, 404}, "it is deleted")


def test_many_connections_at_once(shared: RunningServer) -> None:
    def work(number: int) -> int:
        connection = connect(shared)
        for turn in range(20):
            key = f"/many-{number}-{turn}?urlencoded=true"
            assert ask(connection, "PUT", key, b"%d" % turn)[0] == 200
            assert ask(connection, "GET", key) == (200, b"%d" % turn)
        connection.close()
        return 1

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(work, range(64))) == 64


# ---------------------------------------------------------------- the command line


def kvd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvd", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_tokens_from_the_command_line(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        url = f"http://127.0.0.1:{port(server)}"
        admin = kvd("token", "create", "--url", url, "--name", "ops", "--right", "admin").stdout.strip()
        assert admin.startswith("kvd_")
        refused = kvd("token", "list", "--url", url)
        assert refused.returncode == 1
        assert "a token is needed" in refused.stderr
        file = tmp_path / "token"
        file.write_text(admin + "\n")
        made = kvd("token", "create", "--url", url, "--expires", "90d", "--json", KVD_TOKEN=admin)
        token_id = json.loads(made.stdout)["id"]
        listed = kvd("token", "list", "--url", url, "--token-file", str(file)).stdout
        assert len(listed.splitlines()) == 2
        assert "ops" in listed
        assert (
            kvd("token", "revoke", token_id, "--url", url, KVD_TOKEN=admin).stdout == f"revoked {token_id}\n"
        )
        assert kvd("token", "revoke", "zz", "--url", url, KVD_TOKEN=admin).returncode == 2
        started = time.monotonic()
        assert ask(connect(server), "GET", "/k?urlencoded=true", Authorization="Bearer wrong")[0] == 401
        assert time.monotonic() - started > 0.4
        server.stop()
    data_dir = str(tmp_path / "data")
    offline = kvd("token", "create", "--data-dir", data_dir, "--right", "admin").stdout.strip()
    assert len(json.loads(kvd("token", "list", "--data-dir", data_dir, "--json").stdout)) == 2
    with kvd_server(tmp_path) as server:
        assert ask(connect(server), "GET", BASE, Authorization=f"Bearer {offline}")[0] == 200
        assert kvd("token", "list", "--data-dir", data_dir).returncode == 1
    assert kvd("token", "list", "--url", "http://127.0.0.1:1").returncode == 1
