"""REST v4, row by row. `tests/compat/web` runs the real clients against it."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest

from tests.kvd.harness import Client
from tests.kvd.web.web_harness import BASE, FORM, Web, encode, form, parse


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def ns(web: Web) -> str:
    """The path of a namespace."""
    return f"{BASE}/{web.create()}"


UNKNOWN = f"{BASE}/{'0' * 32}"

# ---------------------------------------------------------------- namespaces


def test_namespace_lifecycle(web: Web) -> None:
    made = web.post(BASE, {"title": "one", "jurisdiction": "eu"}).result
    assert set(made) == {"id", "title", "supports_url_encoding"}
    assert len(made["id"]) == 32
    assert made["supports_url_encoding"] is True
    assert web.get(f"{BASE}/{made['id']}").result == made
    renamed = web.put(f"{BASE}/{made['id']}", json.dumps({"title": "two"})).result
    assert renamed == {**made, "title": "two"}
    assert web.get(BASE).result == [renamed]
    assert web.delete(f"{BASE}/{made['id']}").result is None
    assert web.get(BASE).result == []
    assert web.get(f"{BASE}/{made['id']}").error == (10013, "get namespace: 'namespace not found'")


def test_registry_is_that_of_redis_clients(web: Web) -> None:
    redis = Client(web.server)
    made = redis.send("KV.NS", "CREATE", "mine").decode()
    assert [one["id"] for one in web.get(BASE).result] == [made]
    web.put(f"{BASE}/{made}", '{"title":"renamed"}')
    assert redis.send("KV.NS", "USE", "renamed") == b"OK"
    web.delete(f"{BASE}/{made}")
    assert redis.send("KV.NS", "LIST") == []


def test_taken_title(web: Web) -> None:
    web.create("one")
    other = web.create("two")
    answer = web.post(BASE, {"title": "one"})
    assert answer.status == 400
    assert answer.error == (10014, "a namespace with this account ID and title already exists")
    assert web.put(f"{BASE}/{other}", '{"title":"one"}').error[0] == 10014


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"title":""}', b'{"title":7}', b'{"title":"\\ud800"}',
                                  json.dumps({"title": "x" * 513}).encode()])  # fmt: skip
def test_bad_title(web: Web, body: bytes) -> None:
    answer = web.post(BASE, body)
    assert answer.status == 400
    assert 10001 <= answer.error[0] <= 10018


def test_a_bad_title_names_what_was_asked_for(web: Web) -> None:
    made = web.create("one")
    assert web.post(BASE, {}).error == (10011, "create namespace: 'title must not be empty'")
    assert web.put(f"{BASE}/{made}", "{}").error == (10011, "rename namespace: 'title must not be empty'")


def test_old_path_of_creation(web: Web) -> None:
    made = web.post("/client/v4/accounts/x/workers/namespaces", {"title": "old"}).result
    assert web.get(f"{BASE}/{made['id']}").result == made


def test_pages_of_namespaces(web: Web) -> None:
    for number in range(25):
        web.create(f"n{number:02}")
    first = web.get(BASE).json
    assert len(first["result"]) == 20
    assert first["result_info"] == {
        "page": 1,
        "per_page": 20,
        "count": 20,
        "total_count": 25,
        "total_pages": 2,
    }
    assert [one["title"] for one in web.get(f"{BASE}?page=2").result] == [f"n{n}" for n in range(20, 25)]
    past = web.get(f"{BASE}?page=3&per_page=20")
    assert (past.status, past.result) == (200, [])
    by_id = web.get(f"{BASE}?order=id&direction=desc&per_page=1000").result
    assert [one["id"] for one in by_id] == sorted((one["id"] for one in by_id), reverse=True)


@pytest.mark.parametrize(
    "query", ["page=0", "page=x", "per_page=0", "per_page=1001", "order=age", "direction=up"]
)
def test_bad_page_of_namespaces(web: Web, query: str) -> None:
    answer = web.get(f"{BASE}?{query}")
    assert (answer.status, answer.error[0]) == (400, 10001)
    assert query.partition("=")[0] in answer.error[1]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain;charset=UTF-8",
        "application/json",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "",
    ],
)
def test_value_is_stored_as_it_is(web: Web, ns: str, content_type: str) -> None:
    value = b'{"metadata":"{}","value":"x"}\r\n\x00\xff'
    assert web.put(f"{ns}/values/k", value, content_type=content_type).result in (None, {})
    answer = web.get(f"{ns}/values/k")
    assert answer.body == value
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "expiration" not in answer.headers


def test_value_in_a_form(web: Web, ns: str) -> None:
    value = b"\r\n--xyz-not\r\n----\xff\x00--xy\r\n"
    body = form(("value", value), ("metadata", b'{"a": "\\u017c"}'), types={"metadata": "application/json"})
    assert web.put(f"{ns}/values/k?expiration_ttl=100", body, content_type=FORM).status == 200
    answer = web.get(f"{ns}/values/k")
    assert answer.body == value
    assert answer.headers["expiration"] == str(web.now_seconds + 100)
    assert web.get(f"{ns}/metadata/k").result == {"a": "ż"}
    assert web.keyspace("test").get(b"k")[2] == b'{"a": "\\u017c"}'  # type: ignore[index]


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_form_cut_anywhere(web: Web, ns: str, size: int) -> None:
    value = b"\r\n--xy" * 300 + b"\r\n--xyz"[:-1]
    body = form(("metadata", b"1"), ("value", value))
    head = f"PUT {ns}/values/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
    data = head.encode() + body
    for start in range(0, len(data), size):
        web.raw(data[start : start + size])
    assert web.get(f"{ns}/values/k").body == value


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (form(("metadata", b"1")), FORM),
        (form(("value", b"v"), ("metadata", b"{")), FORM),
        (form(("value", b"v"))[:-10], FORM),
        (b"no form", FORM),
        (form(("value", b"v")), "multipart/form-data"),
        (form(("value", b"v")), "multipart/form-data; boundary=" + "x" * 71),
        (form(*((f"p{n}", b"") for n in range(100)), ("value", b"v")), FORM),
    ],
)
def test_bad_form(web: Web, ns: str, body: bytes, content_type: str) -> None:
    answer = web.put(f"{ns}/values/k", body, content_type=content_type)
    assert answer.status == 400
    assert web.get(f"{ns}/values/k").status == 404


def test_put_clears_what_was_there(web: Web, ns: str) -> None:
    web.put(f"{ns}/values/k?expiration_ttl=60", form(("value", b"v"), ("metadata", b"1")), content_type=FORM)
    web.put(f"{ns}/values/k", "w")
    assert web.get(f"{ns}/metadata/k").result is None
    assert "expiration" not in web.get(f"{ns}/values/k").headers


@pytest.mark.parametrize("path", ["a/b//c", "a%2Fb%2F%2Fc", "%61/b%2f/c"])
def test_key_may_hold_slashes(web: Web, ns: str, path: str) -> None:
    web.put(f"{ns}/values/{path}", "v")
    assert web.get(f"{ns}/values/a/b//c").body == b"v"
    assert web.get(f"{ns}/metadata/a/b//c").result is None


def test_missing_key(web: Web, ns: str) -> None:
    for kind in ("values", "metadata"):
        answer = web.get(f"{ns}/{kind}/nothing")
        assert answer.status == 404
        assert answer.error == (10009, "get: 'key not found'")
    assert web.delete(f"{ns}/values/nothing").result in (None, {})


def test_too_large_value_and_metadata(web: Web, ns: str) -> None:
    answer = web.put(f"{ns}/values/k", b"x" * 26_214_401)
    assert answer.status == 413
    big = form(("value", b"x" * 26_214_401))
    assert web.put(f"{ns}/values/k", big, content_type=FORM).status == 413
    text = form(("value", b"v"), ("metadata", json.dumps("x" * 2000).encode()))
    assert web.put(f"{ns}/values/k", text, content_type=FORM).status == 413
    assert web.get(f"{ns}/values/k").status == 404


@pytest.mark.parametrize(
    ("key", "query", "status"),
    [("%2E", "", 400), ("", "", 400), ("k" * 513, "", 414), ("%ff", "", 400), ("k", "?expiration_ttl=59", 400),
     ("k", "?expiration=7", 400), ("k", "?expiration_ttl=", 200)],
)  # fmt: skip
def test_rules_hold_here_too(web: Web, ns: str, key: str, query: str, status: int) -> None:
    answer = web.put(f"{ns}/values/{key}{query}", "v")
    assert answer.status == status
    if status != 200:
        assert answer.error[0] >= 1000


# ---------------------------------------------------------------- keys


def test_keys(web: Web, ns: str) -> None:
    web.put(
        f"{ns}/values/a?expiration_ttl=60", form(("value", b"v"), ("metadata", b'"m"')), content_type=FORM
    )
    web.put(f"{ns}/values/b", "v")
    found = web.get(f"{ns}/keys?prefix=").json
    assert found["result"] == [
        {"name": "a", "expiration": web.now_seconds + 60, "metadata": "m"},
        {"name": "b"},
    ]
    assert found["result_info"] == {"count": 2, "cursor": ""}


def test_pages_of_keys(web: Web, ns: str) -> None:
    web.put(f"{ns}/bulk", json.dumps([{"key": f"k{n:03}", "value": ""} for n in range(35)]))
    names: list[str] = []
    cursor = ""
    for _ in range(4):
        found = web.get(f"{ns}/keys?limit=10&prefix=k&cursor={cursor}").json
        names += [key["name"] for key in found["result"]]
        cursor = found["result_info"]["cursor"]
    assert names == [f"k{n:03}" for n in range(35)]
    assert cursor == ""


@pytest.mark.parametrize("limit", ["9", "1001", "x", "-1"])
def test_bad_limit(web: Web, ns: str, limit: str) -> None:
    assert web.get(f"{ns}/keys?limit={limit}").error[0] == 10001


def test_list_filtered_by_metadata(web: Web, ns: str) -> None:
    entries: list[dict[str, Any]] = [
        {"key": "a", "value": "", "metadata": {"kind": "x", "tags": ["p", "q"], "by": {"id": 7}}},
        {"key": "b", "value": "", "metadata": {"kind": "y", "tags": ["q"], "by": {"id": True}}},
        {"key": "c", "value": ""},
    ]
    web.put(f"{ns}/bulk", json.dumps(entries))

    def names(query: str) -> list[str]:
        return [key["name"] for key in web.get(f"{ns}/keys?{query}").result]

    assert names("metadata.kind=x") == ["a"]
    assert names("metadata.tags=q") == ["a", "b"]
    assert names("metadata.tags=q&metadata.kind=y") == ["b"]
    assert names("metadata.by.id=7") == ["a"]
    assert names("metadata.by.id=1") == []
    assert names("metadata.none=x") == []


# ---------------------------------------------------------------- bulk


def test_bulk_put(web: Web, ns: str) -> None:
    entries = [
        {"key": "text", "value": "żółw", "metadata": {"a": [1, None]}, "expiration_ttl": 60, "expiration": 5},
        {"key": "bytes", "value": base64.b64encode(b"\x00\xff").decode(), "base64": True},
        {"key": "later", "value": "", "expiration": web.now_seconds + 1000, "metadata": None},
    ]
    assert web.put(f"{ns}/bulk", json.dumps(entries)).result == {
        "successful_key_count": 3,
        "unsuccessful_keys": [],
    }
    assert web.get(f"{ns}/values/text").body == "żółw".encode()
    assert web.get(f"{ns}/values/text").headers["expiration"] == str(web.now_seconds + 60)
    assert web.get(f"{ns}/metadata/text").result == {"a": [1, None]}
    assert web.get(f"{ns}/values/bytes").body == b"\x00\xff"
    assert web.get(f"{ns}/values/later").headers["expiration"] == str(web.now_seconds + 1000)


@pytest.mark.parametrize(
    "bad",
    [{"key": "", "value": "v"}, {"key": "k"}, {"value": "v"}, {"key": 7, "value": "v"}, {"key": "k", "value": 7},
     {"key": "k", "value": "!", "base64": True}, {"key": "k", "value": "v", "expiration_ttl": 1},
     {"key": "k", "value": "dg==", "base64": "yes"}, {"key": "k", "value": "v", "expiration": "soon"}, {"key": "k", "value": "v", "metadata": "x" * 2000},
     {"key": "k" * 513, "value": "v"}, {"key": "\ud800", "value": "v"}, {"key": "k", "value": "\ud800"}, [], "k", None],
)  # fmt: skip
def test_one_bad_entry_refuses_the_request(web: Web, ns: str, bad: object) -> None:
    answer = web.put(f"{ns}/bulk", json.dumps([{"key": "good", "value": "v"}, bad]))
    assert 400 <= answer.status < 500
    assert answer.error[1].startswith("entry 1: ")
    assert web.get(f"{ns}/values/good").status == 404


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"[1", b'[{"key":"a","value":"b"},]', b"[] x", b"]", b'"x"', b"[}",
                                  b'[{"key":"a","value":"b"}', b"\xff[]", b"[[[" * 200])  # fmt: skip
def test_bulk_body_that_is_no_array(web: Web, ns: str, body: bytes) -> None:
    answer = web.put(f"{ns}/bulk", body)
    assert answer.status == 400
    assert web.get(f"{ns}/keys").result == []


def test_ten_thousand_entries_and_one_more(web: Web, ns: str) -> None:
    entries = [{"key": f"k{n}", "value": "v" * 100, "metadata": {"n": n}} for n in range(10_000)]
    answer = web.put(f"{ns}/bulk", json.dumps(entries))
    assert answer.result["successful_key_count"] == 10_000
    assert web.keyspace("test").count == 10_000
    assert web.put(f"{ns}/bulk", json.dumps([*entries, entries[0]])).status == 400
    names = [entry["key"] for entry in entries]
    assert web.delete(f"{ns}/bulk", names).result["successful_key_count"] == 10_000
    assert web.keyspace("test").count == 0


def test_bulk_cut_anywhere(web: Web, ns: str) -> None:
    entries = [{"key": f'k"\\{n}', "value": '\\"{}[],\\\\' * n + "\\"} for n in range(20)]
    body = json.dumps(entries, indent=1).encode()
    head = f"PUT {ns}/bulk HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    data = head + body
    output = b"".join(web.raw(data[start : start + 1]) for start in range(len(data)))
    assert b'"successful_key_count":20' in output
    for entry in entries:
        assert web.keyspace("test").get(entry["key"].encode())[0] == entry["value"].encode()  # type: ignore[index]


def brief(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every slice be over at once, so that each takes one item."""
    monkeypatch.setattr(web.front.pace, "limits", lambda now_ns: (0, 0))


@pytest.mark.parametrize("step", [7, 100, 1 << 20])
@pytest.mark.parametrize("chunked", [False, True])
def test_bulk_in_slices_of_one_entry(
    web: Web, ns: str, monkeypatch: pytest.MonkeyPatch, step: int, chunked: bool
) -> None:
    brief(web, monkeypatch)
    entries = [{"key": f"k{n}", "value": "v" * n} for n in range(300)]
    data = encode("PUT", f"{ns}/bulk", json.dumps(entries).encode(), {}, chunked=chunked)
    data += encode("GET", f"{ns}/values/k7", None, {}, chunked=False)
    output = b"".join(web.raw(data[start : start + step]) for start in range(0, len(data), step))
    first, second = parse(output)
    assert first.result["successful_key_count"] == 300
    assert second.body == b"v" * 7
    assert web.keyspace("test").count == 300


def test_a_bad_entry_behind_others_refuses_them_all(
    web: Web, ns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief(web, monkeypatch)
    entries = [{"key": f"k{n}", "value": "v"} for n in range(300)]
    answer = web.put(f"{ns}/bulk", json.dumps([*entries, {"key": ""}, *entries]))
    assert answer.error[1].startswith("entry 300: ")
    assert web.keyspace("test").count == 0


def test_a_piece_of_many_entries_is_read_in_several_ticks(
    web: Web, ns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief(web, monkeypatch)
    data = encode(
        "PUT", f"{ns}/bulk", json.dumps([{"key": "k", "value": "v"}] * 50).encode(), {}, chunked=False
    )
    web.session.receive(data)
    for _ in range(
        49
    ):  # a tick an entry: the hub serves others after each, and reads nothing more from this one
        assert web.session.backlog
        web.session.run_backlog()
    assert web.session.take_output().startswith(b"HTTP/1.1 200")
    assert not web.session.backlog


@pytest.mark.parametrize("way", ["delete", "post"])
def test_bulk_delete(web: Web, ns: str, way: str) -> None:
    for name in ("a", "b", "c"):
        web.put(f"{ns}/values/{name}", "v")
    names = ["a", "b", "missing"]
    answer = web.delete(f"{ns}/bulk", names) if way == "delete" else web.post(f"{ns}/bulk/delete", names)
    assert answer.result == {"successful_key_count": 3, "unsuccessful_keys": []}
    assert [key["name"] for key in web.get(f"{ns}/keys").result] == ["c"]


@pytest.mark.parametrize("name", ["", "..", "k" * 513, 7])
def test_a_wrong_key_of_a_bulk_delete_goes_by_its_number(web: Web, ns: str, name: object) -> None:
    web.put(f"{ns}/values/a", "v")
    answer = web.post(f"{ns}/bulk/delete", ["a", name])
    assert answer.error[0] == 10022
    assert answer.error[1].startswith("entry 1: ")
    assert web.get(f"{ns}/values/a").body == b"v", "nothing is deleted then"


def test_bulk_get(web: Web, ns: str) -> None:
    web.put(f"{ns}/values/a?expiration_ttl=60", form(("value", b"1"), ("metadata", b"{}")), content_type=FORM)
    keys = {"keys": ["a", "b"]}
    assert web.post(f"{ns}/bulk/get", keys).result == {"values": {"a": "1", "b": None}}
    found = web.post(f"{ns}/bulk/get", {**keys, "type": "json", "withMetadata": True}).result["values"]
    assert found == {"a": {"value": 1, "metadata": {}, "expiration": web.now_seconds + 60}, "b": None}
    web.put(f"{ns}/values/a", "no json")
    assert web.post(f"{ns}/bulk/get", {**keys, "type": "json"}).status == 400
    assert web.post(f"{ns}/bulk/get", {"keys": ["k"] * 101}).status == 400
    assert web.post(f"{ns}/bulk/get", {"keys": []}).status == 400


# ---------------------------------------------------------------- errors and stubs


def test_a_malformed_form_writes_nothing_around_the_log(
    web: Web, ns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in the daemon; those of the test runner hide it
    assert web.put(f"{ns}/values/a", b"--another", content_type=FORM).status == 400
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("method", "below", "message"),
    [
        ("GET", "/values/k", "get: 'namespace not found'"),
        ("GET", "/metadata/k", "get: 'namespace not found'"),
        ("GET", "/keys", "list keys: 'namespace not found'"),
        ("PUT", "/values/k", "put: 'namespace not found'"),
        ("PUT", "/bulk", "put: 'namespace not found'"),
        ("DELETE", "/values/k", "remove key: 'namespace not found'"),
        ("DELETE", "/bulk", "remove key: 'namespace not found'"),
        ("POST", "/bulk/delete", "remove key: 'namespace not found'"),
        ("POST", "/bulk/get", "bulk get keys: 'namespace not found'"),
        ("PUT", "", "rename namespace: 'namespace not found'"),
        ("DELETE", "", "remove namespace: 'namespace not found'"),
    ],
)
def test_unknown_namespace(web: Web, method: str, below: str, message: str) -> None:
    answer = web.send(method, UNKNOWN + below, b"[]" if method != "GET" else None)
    assert (answer.status, answer.error) == (404, (10013, message))


def test_namespace_is_not_found_by_its_title_here(web: Web) -> None:
    web.create("title")
    assert web.get(f"{BASE}/title/keys").error[0] == 10013


def test_unknown_path_and_method(web: Web, ns: str) -> None:
    assert web.get("/client/v4/zones").error == (7000, "No route for that URI")
    assert web.get(f"{ns}/nothing").error[0] == 7000
    answer = web.send("PATCH", f"{ns}/values/k", b"x")
    assert (answer.status, answer.error) == (405, (10000, "Method not allowed"))
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"
    assert web.send("OPTIONS", f"{ns}/bulk/delete", b"").headers["allow"] == "POST"


def test_stubs_for_wrangler(web: Web) -> None:
    (membership,) = web.get("/client/v4/memberships").result
    assert set(membership["account"]) == {"id", "name"}
    assert web.get("/client/v4/accounts").result[0]["id"] == membership["account"]["id"]
    assert web.get("/client/v4/user/tokens/verify").result["status"] == "active"
    assert "email" in web.get("/client/v4/user").result


def test_etag_guards_writes(web: Web, ns: str) -> None:
    tag = web.put(f"{ns}/values/k", "1").headers["etag"]
    assert web.get(f"{ns}/values/k", if_none_match=tag).status == 304
    assert web.put(f"{ns}/values/k", "2", if_match=tag).status == 200
    assert web.put(f"{ns}/values/k", "3", if_match=tag).status == 412
    assert web.delete(f"{ns}/values/k", if_match=tag).status == 412
