"""What the dashboard asks: the endpoints that are written down in `kvd.web.dashboard_api`."""

from __future__ import annotations

import base64

import pytest

from tests.kvd.web.web_harness import BASE, FORM, Web, form


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def ns(web: Web) -> str:
    return f"/api/namespaces/{web.create('one')}"


def test_session(web: Web) -> None:
    found = web.get("/api/session").result
    assert (found["name"], found["right"], found["is_open"]) == ("everybody", "admin", True)


def test_namespaces(web: Web, ns: str) -> None:
    web.server.store.keyspace(2).put(b"k", b"v")
    web.put(f"{ns}/values/k?expiration_ttl=60", "v")
    shown = web.get("/api/namespaces").result
    assert [(one["title"], one["keys"], one["expires"], one["is_database"]) for one in shown] == [
        ("one", 1, 1, False),
        ("database 2", 1, 0, True),
    ]
    made = web.post("/api/namespaces", {"title": "two"}).result
    assert web.put(f"/api/namespaces/{made['id']}", b'{"title":"three"}').result["title"] == "three"
    assert web.delete(f"/api/namespaces/{made['id']}").result is None
    assert web.delete("/api/namespaces/db2").status == 400
    assert web.get("/api/namespaces/db16").status == 404


def test_keys_of_any_bytes(web: Web, ns: str) -> None:
    key = b"a/\xff\x00?"
    path = "a%2F%FF%00%3F"
    assert web.put(f"{ns}/values/{path}", b"v").status == 200
    (row,) = web.get(f"{ns}/keys").result
    assert row == {"name": "a/\ufffd\x00?", "path": path, "size": 1}
    assert web.keyspace("one").get(key) is not None
    assert web.get(f"{ns}/keys/{row['path']}").result["value"] == "v"
    assert web.delete(f"{ns}/values/{row['path']}").result is None
    assert web.get(f"{ns}/keys/{row['path']}").status == 404


def test_details(web: Web, ns: str) -> None:
    body = form(("value", "żółw".encode()), ("metadata", b'{ "a": 1}'))
    tag = web.put(f"{ns}/values/k?expiration_ttl=90", body, content_type=FORM).result["etag"]
    found = web.get(f"{ns}/keys/k").result
    assert found["value"] == "żółw"
    assert found["is_text"] is True
    assert (found["metadata"], found["metadata_text"]) == ({"a": 1}, '{ "a": 1}')
    assert (found["etag"], found["expiration"]) == (tag, web.now_seconds + 90)
    web.put(f"{ns}/values/k", b"\xff\xfe")
    found = web.get(f"{ns}/keys/k").result
    assert (found["is_text"], base64.b64decode(found["value"])) == (False, b"\xff\xfe")
    web.put(f"{ns}/values/k", "ż".encode() * 600_000)
    found = web.get(f"{ns}/keys/k").result
    assert (found["is_cut"], found["is_text"], found["size"]) == (True, True, 1_200_000)
    answer = web.get(f"{ns}/values/k?download=1")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''k"
    assert len(answer.body) == 1_200_000


def test_safe_edit(web: Web, ns: str) -> None:
    tag = web.put(f"{ns}/values/k", "1", if_none_match="*").result["etag"]
    assert web.put(f"{ns}/values/k", "2", if_none_match="*").status == 412
    assert web.put(f"{ns}/values/k", "2", if_match=tag).status == 200
    assert web.delete(f"{ns}/values/k", if_match=tag).status == 412


def test_pages_and_search(web: Web, ns: str) -> None:
    for number in range(30):
        web.put(f"{ns}/values/Key{number:02}", "v")
    web.put(f"{ns}/values/other", form(("value", b""), ("metadata", b'"Key in metadata"')), content_type=FORM)
    page = web.get(f"{ns}/keys?limit=20&prefix=Key").json
    assert (page["result_info"]["count"], page["result"][0]["name"]) == (20, "Key00")
    rest = web.get(f"{ns}/keys?limit=20&prefix=Key&cursor={page['result_info']['cursor']}").json
    assert (rest["result_info"]["count"], rest["result_info"]["cursor"]) == (10, "")
    found = web.get(f"{ns}/search?text=kEY2&limit=100").result
    assert [row["name"] for row in found] == [f"Key{n}" for n in range(20, 30)]
    assert [row["name"] for row in web.get(f"{ns}/search?text=key+in").result] == ["other"]


def test_search_of_many_keys_goes_on_by_cursor(web: Web) -> None:
    keyspace = web.server.store.keyspace(0)
    for number in range(6000):
        keyspace.put(b"k%05d" % number, b"")
    web.server.store.commit()
    pages, found, cursor = 0, [], ""
    while True:
        page = web.get(f"/api/namespaces/db0/search?text=5999&cursor={cursor}").json
        pages += 1
        found += page["result"]
        cursor = page["result_info"]["cursor"]
        if not cursor:
            break
    assert [row["name"] for row in found] == ["k05999"]
    assert pages == 2


def test_members_and_figures(web: Web) -> None:
    found = web.get("/api/members").result
    assert (found["is_alone"], len(found["members"])) == (True, 1)
    web.get("/livez")
    web.get("/api/figures")
    figures = web.get("/api/figures").result
    assert figures["http_requests"] == 3
    assert set(figures["http_latency_seconds"]) == {"p50", "p99", "p999"}
    assert figures["is_writable"] is True


@pytest.mark.parametrize(
    "target",
    ["/api/", "/api/nothing", "/api/namespaces/x/nothing", "/api/namespaces//keys", "/api/session/x"],
)
def test_unknown_paths(web: Web, target: str) -> None:
    assert web.get(target).status == 404


def test_same_registry_as_rest(web: Web, ns: str) -> None:
    assert [one["id"] for one in web.get(BASE).result] == [ns.rpartition("/")[2]]
