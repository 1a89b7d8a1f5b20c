"""The real command line of Cloudflare, versions 4 and 3, with the daemon as its API."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.web.runtime import MODULES, ports
from tests.servers import RunningServer, kvd_server

pytestmark = [pytest.mark.needs_node, pytest.mark.slow, pytest.mark.timeout(300)]


class Wrangler:
    """Runs wrangler in an empty directory, as a user whose account is the daemon."""

    def __init__(
        self, server: RunningServer, directory: Path, *, package: str = "wrangler", **environment: str
    ) -> None:
        self.directory = directory
        self._program = MODULES / package / "bin" / "wrangler.js"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "CI": "1",
            "NO_COLOR": "1",
            "FORCE_COLOR": "0",
            "WRANGLER_SEND_METRICS": "false",
            "WRANGLER_HIDE_BANNER": "true",
            "CLOUDFLARE_API_BASE_URL": f"http://127.0.0.1:{ports(server)['http']}/client/v4",
            "CLOUDFLARE_API_TOKEN": "anything",
            "CLOUDFLARE_ACCOUNT_ID": "0123456789abcdef0123456789abcdef",
            **environment,
        }

    def run(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            ["node", self._program, *arguments],
            cwd=self.directory,
            env={name: value for name, value in self._environment.items() if value},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + (done.stderr if status else "")

    def namespace(self, title: str) -> str:
        found = json.loads(self.run("kv", "namespace", "list"))
        return next(str(one["id"]) for one in found if one["title"] == title)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with kvd_server(tmp_path_factory.mktemp("kvd")) as running:
        yield running


@pytest.fixture
def wrangler(daemon: RunningServer, tmp_path: Path) -> Wrangler:
    return Wrangler(daemon, tmp_path)


def test_namespaces(wrangler: Wrangler) -> None:
    wrangler.run("kv", "namespace", "create", "MY_KV")
    wrangler.run("kv", "namespace", "create", "MY_KV", "--preview")
    titles = {one["title"] for one in json.loads(wrangler.run("kv", "namespace", "list"))}
    assert {"MY_KV", "MY_KV_preview"} <= titles
    assert "already exists" in wrangler.run("kv", "namespace", "create", "MY_KV", status=1)
    wrangler.run("kv", "namespace", "rename", "MY_KV", "--new-name", "OTHER")
    wrangler.run("kv", "namespace", "delete", "--namespace-id", wrangler.namespace("OTHER"), "-y")
    titles = {one["title"] for one in json.loads(wrangler.run("kv", "namespace", "list"))}
    assert "OTHER" not in titles


def test_keys(wrangler: Wrangler) -> None:
    wrangler.run("kv", "namespace", "create", "keys")
    there = ("--namespace-id", wrangler.namespace("keys"), "--remote")
    wrangler.run("kv", "key", "put", "a/b c", "value ż", *there)
    assert wrangler.run("kv", "key", "get", "a/b c", "--text", *there).strip() == "value ż"
    wrangler.run("kv", "key", "put", "m", "v", "--metadata", '{"a":"ż"}', "--ttl", "3600", *there)
    file = wrangler.directory / "file"
    file.write_bytes(bytes(range(256)))
    wrangler.run("kv", "key", "put", "file", "--path", str(file), *there)
    listed = {one["name"]: one for one in json.loads(wrangler.run("kv", "key", "list", *there))}
    assert set(listed) == {"a/b c", "m", "file"}
    assert listed["m"]["metadata"] == {"a": "ż"}
    assert "expiration" in listed["m"]
    assert [
        one["name"] for one in json.loads(wrangler.run("kv", "key", "list", "--prefix", "f", *there))
    ] == ["file"]
    wrangler.run("kv", "key", "delete", "m", *there)
    assert wrangler.run("kv", "key", "get", "m", *there, status=1)


def test_bulk(wrangler: Wrangler) -> None:
    wrangler.run("kv", "namespace", "create", "bulk")
    there = ("--namespace-id", wrangler.namespace("bulk"), "--remote")
    pairs: list[dict[str, Any]] = [
        {"key": f"k{n}", "value": f"v{n}", "metadata": {"n": n}} for n in range(2500)
    ]
    pairs.append({"key": "bytes", "value": "AP8=", "base64": True, "expiration_ttl": 3600})
    file = wrangler.directory / "data.json"
    file.write_text(json.dumps(pairs))
    wrangler.run("kv", "bulk", "put", str(file), *there)
    listed = json.loads(wrangler.run("kv", "key", "list", *there))
    assert len(listed) == 2501
    file.write_text(json.dumps(["k1", "k2", "missing"]))
    found = wrangler.run("kv", "bulk", "get", str(file), *there)
    assert '"v1"' in found
    file.write_text(json.dumps([f"k{n}" for n in range(2500)]))
    wrangler.run("kv", "bulk", "delete", str(file), "--force", *there)
    assert [one["name"] for one in json.loads(wrangler.run("kv", "key", "list", *there))] == ["bytes"]


def test_account_is_found_by_asking(daemon: RunningServer, tmp_path: Path) -> None:
    wrangler = Wrangler(daemon, tmp_path, CLOUDFLARE_ACCOUNT_ID="")
    wrangler.run("kv", "namespace", "list")
    assert "kvd" in wrangler.run("whoami")


def test_wrong_token(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        wrangler = Wrangler(server, tmp_path)
        wrangler.run("kv", "namespace", "create", "one")
        with server.client() as redis:
            redis.config_set("requirepass", "secret")
        assert "Authentication error" in wrangler.run("kv", "namespace", "list", status=1)


def test_version_3_with_its_colons_and_an_old_key(daemon: RunningServer, tmp_path: Path) -> None:
    old = {"CLOUDFLARE_API_TOKEN": "", "CLOUDFLARE_API_KEY": "key", "CLOUDFLARE_EMAIL": "me@example.com"}
    wrangler = Wrangler(daemon, tmp_path, package="wrangler3", **old)
    wrangler.run("kv:namespace", "create", "THREE")
    found = json.loads(wrangler.run("kv:namespace", "list"))
    there = "--namespace-id=" + next(str(one["id"]) for one in found if one["title"] == "worker-THREE")
    wrangler.run("kv:key", "put", there, "hello", "world", "--ttl", "3600", "--metadata", '{"a":1}')
    assert wrangler.run("kv:key", "get", there, "hello").strip() == "world"
    (listed,) = json.loads(wrangler.run("kv:key", "list", there))
    assert listed["metadata"] == {"a": 1}
    (tmp_path / "data.json").write_text('[{"key":"a","value":"1"},{"key":"b","value":"2"}]')
    wrangler.run("kv:bulk", "put", "data.json", there)
    wrangler.run("kv:key", "delete", there, "hello")
    (tmp_path / "names.json").write_text('["a"]')
    wrangler.run("kv:bulk", "delete", "names.json", there, "--force")
    assert [one["name"] for one in json.loads(wrangler.run("kv:key", "list", there))] == ["b"]
    wrangler.run("kv:namespace", "delete", there)
