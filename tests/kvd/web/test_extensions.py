"""What Workers KV does not have: streams of changes, export, deletion by prefix, health, figures, the dashboard's files."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from kvd.web import jobs
from kvd.web.session import HttpSession
from tests.kvd.harness import Client
from tests.kvd.web.web_harness import BASE, FORM, Web, encode, form


@pytest.fixture
def web() -> Web:
    return Web()


def events(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return (event, data) of what came in chunks."""
    text = re.sub(rb"[0-9a-f]+\r\n|\r\n", b"", data.partition(b"\r\n\r\n")[2] or data).decode()
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.split("\n") if line and line != ":")
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def listen(web: Web, target: str) -> HttpSession:
    session = web.connect()
    head = web.raw(encode("GET", target), session)
    assert b"Content-Type: text/event-stream\r\n" in head
    return session


def heard(session: HttpSession) -> list[tuple[str, dict[str, Any]]]:
    return events(b"\r\n\r\n" + session.take_output())


def test_change_stream(web: Web) -> None:
    namespace = web.create("one")
    web.create("two")
    stream = listen(web, f"/kvd/v1/namespaces/{namespace}/changes?prefix=a")
    tag = web.put("/a1?urlencoded=true&expiration_ttl=60", "v", x_kv_namespace="one").headers["etag"]
    web.put("/b?urlencoded=true", "v", x_kv_namespace="one")
    web.put("/a?urlencoded=true", "v", x_kv_namespace="two")
    redis = Client(web.server)
    redis.send("KV.NS", "USE", "one")
    web.delete("/a1?urlencoded=true", x_kv_namespace="one")
    assert heard(stream) == [
        ("put", {"key": "a1", "etag": tag, "expiration": web.now_seconds + 60}),
        ("delete", {"key": "a1"}),
    ]
    stream.end()
    assert not web.front.feeds.active


def test_change_stream_tells_of_flushes_and_ends_with_its_namespace(web: Web) -> None:
    namespace = web.create("one")
    stream = listen(web, "/kvd/v1/namespaces/one/changes")
    web.delete(f"/kvd/v1/namespaces/{namespace}/keys?all=true")
    assert heard(stream) == [("flush", {})]
    web.delete(f"{BASE}/{namespace}")
    assert stream.closing


def test_change_stream_of_a_numbered_database(web: Web) -> None:
    stream = listen(web, "/kvd/v1/namespaces/db3/changes")
    web.server.store.keyspace(3).put(b"k", b"v")
    web.get("/livez")
    assert [event for event, _ in heard(stream)] == ["put"]


def test_stream_holds_what_its_client_sends_meanwhile(web: Web) -> None:
    web.create("one")
    stream = listen(web, "/kvd/v1/namespaces/one/changes")
    web.raw(encode("GET", "/livez"), stream)
    assert stream.take_output() == b""
    assert stream.backlog, "so that its connection is paused once enough waits"


# ---------------------------------------------------------------- export, deletion by prefix


def test_export_is_what_bulk_put_takes(web: Web) -> None:
    namespace = web.create("one")
    body = form(("value", b"v"), ("metadata", b'{ "a":\n1}'))
    web.put(f"{BASE}/{namespace}/values/a?expiration_ttl=100", body, content_type=FORM)
    web.put(f"{BASE}/{namespace}/values/b", b"\xff\x00")
    web.keyspace("one").put(b"\xfe", b"key that is no text")
    web.server.store.commit()
    answer = web.get("/kvd/v1/namespaces/one/export")
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[-1] == {"complete": True, "count": 3}
    assert lines[0] == {"key": "a", "value": "v", "expiration": web.now_seconds + 100, "metadata": {"a": 1}}
    assert lines[2]["key_base64"] == "/g=="
    other = web.create("two")
    web.put(f"{BASE}/{other}/bulk", json.dumps(lines[:2]))
    again = web.get("/kvd/v1/namespaces/two/export").body
    assert [json.loads(line) for line in again.splitlines()[:-1]] == lines[:2]
    assert web.get("/kvd/v1/namespaces/two/export?prefix=b").body.count(b"\n") == 2


def test_large_export_is_sent_in_slices(web: Web) -> None:
    keyspace = web.server.store.keyspace(0)
    for number in range(3000):
        keyspace.put(b"k%05d" % number, b"x" * 1000)
    web.server.store.commit()
    session = web.connect()
    first = web._tick(session, encode("GET", "/kvd/v1/namespaces/db0/export"))
    assert len(first) < 1 << 20
    assert session.backlog
    rest = web.raw(b"", session)
    assert rest.endswith(b"0\r\n\r\n")
    assert b'{"complete":true,"count":3000}' in rest


def test_an_export_passes_over_what_is_deleted_in_slices(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SLICE_NANOSECONDS", 0)
    redis = Client(web.server)
    names = [b"%04d" % number for number in range(1000)]
    redis.send("MSET", *[word for name in names for word in (name, b"v")])
    redis.send("DEL", *names)
    redis.send("SET", "last", "v")
    session = web.connect()
    first = web._tick(session, encode("GET", "/kvd/v1/namespaces/db0/export"))
    ticks = 0
    while session.backlog or session.resumed:
        first += web._tick(session, None)
        ticks += 1
    assert b'{"complete":true,"count":1}' in first
    assert ticks > 10, "others have their turn meanwhile"


def test_delete_by_prefix(web: Web) -> None:
    namespace = web.create("one")
    web.put(f"{BASE}/{namespace}/bulk", json.dumps([{"key": f"a{n}", "value": ""} for n in range(3000)]))
    web.put(f"{BASE}/{namespace}/values/b", "v")
    assert web.delete(f"/kvd/v1/namespaces/{namespace}/keys").status == 400
    assert web.delete(f"/kvd/v1/namespaces/{namespace}/keys?prefix=a").result == {"deleted": 3000}
    assert web.keyspace("one").count == 1
    assert web.delete("/kvd/v1/namespaces/one/keys?all=true").result == {"deleted": 1}


# ---------------------------------------------------------------- health, figures, files


def test_health(web: Web) -> None:
    assert web.get("/livez").body == b"ok\n"
    assert web.get("/readyz").status == 200
    web.server.refuse("CLOCKSKEW this node's clock is wrong", reads=False)
    answer = web.get("/readyz")
    assert (answer.status, answer.body) == (503, b"CLOCKSKEW this node's clock is wrong\n")
    assert web.get("/livez").status == 200


def test_names_of_our_pages_are_keys_for_a_worker(web: Web) -> None:
    for name in ("livez", "metrics"):
        assert web.get(f"/{name}?urlencoded=true").status == 404
        web.put(f"/{name}?urlencoded=true", "value")
        assert web.get(f"/{name}?urlencoded=true").body == b"value"


SAMPLE = re.compile(
    r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-zA-Z_]+="(\\.|[^"\\])*"(,[a-zA-Z_]+="(\\.|[^"\\])*")*\})? -?[0-9.e+-]+(inf)?'
)


def test_metrics_are_prometheus_text(web: Web) -> None:
    web.create('ti"t\\le\n')
    web.put("/k?urlencoded=true", "v")
    for _ in range(5):
        web.get("/k?urlencoded=true")
    answer = web.get("/metrics")
    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in text.splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line
    assert 'kvd_http_requests_total{interface="binding",method="GET",status="200"} 5' in text
    assert web.front.traffic.known > 0, "some were answered without being timed"
    total = sum(web.front.traffic.totals().values()) - 1  # this one was counted after it was answered
    assert f"kvd_http_request_duration_seconds_count {total}\n" in text
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names))
    assert "redis_connected_clients" in names


def test_dashboard_files(web: Web) -> None:
    answer = web.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert web.get("/static/index.html").body == answer.body
    assert web.get("/", if_none_match=answer.headers["etag"]).status == 304
    for name in ("../binding.py", "..%2Fbinding.py", "nothing.js", "", ".", "index.html%00"):
        assert web.get(f"/static/{name}").status == 404
    assert web.put("/static/index.html", "x").status == 405
