"""The real runtime: Workers in workerd, with the daemon as their KV."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.web.runtime import Binding, KvError, Worker, ports, worker
from tests.servers import RunningServer, kvd_server

pytestmark = [pytest.mark.needs_node, pytest.mark.slow]

BASE = "/client/v4/accounts/a/storage/kv/namespaces"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with kvd_server(tmp_path_factory.mktemp("kvd")) as running:
        yield running


@pytest.fixture(scope="module")
def kv(daemon: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    rest(daemon, "POST", BASE, {"title": "cache"})
    address = f"127.0.0.1:{ports(daemon)['http']}"
    bindings = [
        Binding("CACHE", address, (("X-KV-Namespace", "cache"), ("Authorization", "Bearer whatever"))),
        Binding("DEFAULT", address),
        Binding("PROXY", address, (("X-KV-Namespace", "cache"),), style="proxy"),
        Binding("MISSING", address, (("X-KV-Namespace", "no such namespace"),)),
        Binding("NOWHERE", "127.0.0.1:1"),
    ]
    with worker(tmp_path_factory.mktemp("workerd"), bindings) as running:
        yield running


def rest(daemon: RunningServer, method: str, path: str, body: Any = None, **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", ports(daemon)["http"], timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return json.loads(connection.getresponse().read())["result"]
    finally:
        connection.close()


def test_get_put_delete(kv: Worker) -> None:
    assert kv.ask("get", "nothing") is None
    assert kv.ask("getWithMetadata", "nothing") == {"value": None, "metadata": None, "cacheStatus": None}
    assert kv.ask("put", "k", "value") == {"undefined": True}
    assert kv.ask("get", "k") == "value"
    assert kv.ask("get", "k", {"cacheTtl": 60}) == "value"
    assert kv.ask("delete", "k") == {"undefined": True}
    assert kv.ask("delete", "k") == {"undefined": True}
    assert kv.ask("get", "k") is None


def test_every_type(kv: Worker) -> None:
    kv.ask("put", "k", '{"a":[1,"ż"]}')
    assert kv.ask("get", "k", "json") == {"a": [1, "ż"]}
    assert kv.ask("get", "k", "arrayBuffer") == {"bytes": list('{"a":[1,"ż"]}'.encode())}
    assert kv.ask("get", "k", "stream") == {"stream": '{"a":[1,"ż"]}'}
    kv.ask("putBytes", "b", [0, 255, 13, 10])
    assert kv.ask("get", "b", "arrayBuffer") == {"bytes": [0, 255, 13, 10]}
    kv.ask("put", "e", "")
    assert kv.ask("get", "e") == ""
    kv.ask("putStream", "s", 3_000_000)
    assert kv.ask("get", "s") == "x" * 3_000_000


@pytest.mark.parametrize(
    "key",
    [
        "a/b",
        "bulk/get",
        "a b+c",
        "a%2Fb",
        "?q=1&r",
        "#",
        "żółw🐢",
        ":@&=+$,;!*'()~[]^|",
        "//",
        "/../x",
        "\x01",
        "k" * 512,
    ],
)
def test_every_key_is_the_same_for_get_put_delete_and_list(kv: Worker, key: str) -> None:
    kv.ask("put", key, "v")
    assert kv.ask("get", key) == "v"
    assert [found["name"] for found in kv.ask("list", {"prefix": key})["keys"]] == [key]
    kv.ask("delete", key)
    assert kv.ask("get", key) is None


def test_metadata_and_expiration(kv: Worker) -> None:
    metadata = {"u": "żółw 🐢", "n": [1, None, 1.5]}
    kv.ask("put", "m", "v", {"metadata": metadata, "expirationTtl": 3600})
    found = kv.ask("getWithMetadata", "m")
    assert (found["value"], found["metadata"]) == ("v", metadata)
    (listed,) = kv.ask("list", {"prefix": "m"})["keys"]
    assert listed["metadata"] == metadata
    assert abs(listed["expiration"] - time.time() - 3600) < 60
    kv.ask("put", "m", "v", {"metadata": "text", "expiration": time.time() + 1000.7})
    assert kv.ask("getWithMetadata", "m")["metadata"] == "text"
    assert kv.ask("list", {"prefix": "m"})["keys"][0]["metadata"] == "text"
    kv.ask("put", "m", "v")
    assert kv.ask("getWithMetadata", "m")["metadata"] is None


def test_list_pages(kv: Worker) -> None:
    for number in range(25):
        kv.ask("put", f"page{number:02}", "v")
    page = kv.ask("list", {"prefix": "page", "limit": 10})
    assert (len(page["keys"]), page["list_complete"], page["cacheStatus"]) == (10, False, None)
    assert kv.ask("all", {"prefix": "page", "limit": 10}) == [f"page{n:02}" for n in range(25)]


def test_bulk_get(kv: Worker) -> None:
    kv.ask("put", "b1", '{"x":1}', {"metadata": {"m": 1}})
    assert kv.ask("get", ["b1", "b2"]) == {"map": {"b1": '{"x":1}', "b2": None}}
    assert kv.ask("get", ["b1", "b2"], "json") == {"map": {"b1": {"x": 1}, "b2": None}}
    found = kv.ask("getWithMetadata", ["b1", "b2"], {"type": "json", "cacheTtl": 60})["map"]
    assert (found["b1"]["value"], found["b1"]["metadata"]) == ({"x": 1}, {"m": 1})


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        ("put", ["k", "v", {"expirationTtl": 59}], "KV PUT failed: 400 Invalid expiration_ttl of 59. Expiration TTL must be at least 60."),
        ("put", ["k", "v", {"expiration": 1}], "KV PUT failed: 400 Invalid expiration of 1. Please specify integer greater than the current number of seconds since the UNIX epoch."),
        ("put", ["k", "v", {"metadata": "x" * 1100}], "KV PUT failed: 413 Metadata length of 1102 exceeds limit of 1024."),
        ("putLarge", ["k", 26_214_401], "KV PUT failed: 413 Value length of 26214401 exceeds limit of 26214400."),
        ("get", ["k", {"cacheTtl": 1}], "KV GET failed: 400 Invalid cache_ttl of 1. Cache TTL must be at least 30."),
        ("list", [{"limit": 1001}], "KV GET failed: 400 Invalid key_count_limit of 1001. Please specify an integer less than 1000."),
        ("list", [{"prefix": "p" * 513}], "KV GET failed: 414 UTF-8 encoded length of 513 exceeds key length limit of 512."),
        ("get", [[f"k{n}" for n in range(101)]], "KV GET_BULK failed: 400 You can request a maximum of 100 keys"),
        ("get", [["no json"], "json"], "KV GET_BULK failed: 400 At least one of the requested keys corresponds to a non-json value"),
    ],
)  # fmt: skip
def test_error_texts_reach_the_worker(kv: Worker, call: str, args: list[Any], message: str) -> None:
    kv.ask("put", "no json", "{")
    with pytest.raises(KvError) as raised:
        kv.ask(call, *args)
    assert message in str(raised.value)


def test_a_worker_goes_on_after_an_error(kv: Worker) -> None:
    for _ in range(5):
        with pytest.raises(KvError):
            kv.ask("putLarge", "k", 26_214_401)
        kv.ask("put", "k", "fine")
        assert kv.ask("get", "k") == "fine"


def test_many_at_once(kv: Worker) -> None:
    assert kv.ask("many", 200) == [str(number) for number in range(200)]


def test_bindings(kv: Worker) -> None:
    kv.ask("put", "k", "of cache")
    kv.ask("put", "k", "of default", binding="DEFAULT")
    assert kv.ask("get", "k", binding="PROXY") == "of cache"
    assert kv.ask("get", "k", binding="DEFAULT") == "of default"
    with pytest.raises(KvError, match="KV GET failed: 400 namespace not found"):
        kv.ask("get", "k", binding="MISSING")
    with pytest.raises(KvError, match="Network connection lost"):
        kv.ask("get", "k", binding="NOWHERE")


def test_redis_clients_see_the_same(kv: Worker, daemon: RunningServer) -> None:
    with daemon.client() as redis:
        redis.execute_command("KV.NS", "USE", "cache")
        redis.set("shared", "from redis")
        assert kv.ask("get", "shared") == "from redis"
        kv.ask("put", "shared", "from a Worker", {"metadata": {"a": 1}})
        assert redis.execute_command("KV.GET", "shared") == [b"from a Worker", b'{"a":1}']


def test_service_worker_over_a_unix_socket_with_a_token(tmp_path: Path) -> None:
    path = tmp_path / "kv.sock"
    with kvd_server(tmp_path, "--set", f"http.unix_socket={path}") as server:
        token = rest(server, "POST", "/api/tokens", {"right": "write"})["token"]
        connection = http.client.HTTPConnection("127.0.0.1", ports(server)["http"], timeout=60)
        connection.request("PUT", "/k?urlencoded=true", b"v", {"Authorization": f"Bearer {token}"})
        assert connection.getresponse().status == 200
        connection.close()
        good = Binding("CACHE", f"unix:{path}", (("Authorization", f"Bearer {token}"),))
        with worker(tmp_path, [good], script="service_worker.js") as running:
            assert running.get("/k") == "v"
        bad = Binding("CACHE", f"unix:{path}", (("Authorization", "Bearer wrong"),))
        with worker(tmp_path, [bad]) as running, pytest.raises(KvError, match="401 Authentication error"):
            running.ask("get", "k")
