"""One HTTP connection: pipelining, expectations, jobs, failed commits, deadlines; hostile clients."""

from __future__ import annotations

import gc
import json
import random
import weakref
from typing import Any

import pytest

from kvd.dispatch import storage_refusal
from kvd.pause import Pause, end_pause
from storage.errors import Aborted, NoSpace
from tests.kvd.harness import Client
from tests.kvd.web.web_harness import BASE, Web, encode, parse


@pytest.fixture
def web() -> Web:
    return Web()


def test_pipelined_requests_are_answered_in_order(web: Web) -> None:
    data = b"".join(
        encode("PUT", f"/k{n}?urlencoded=true", b"%d" % n) + encode("GET", f"/k{n}?urlencoded=true")
        for n in range(200)
    )
    answers = parse(web.raw(data))
    assert [answer.body for answer in answers[1::2]] == [b"%d" % n for n in range(200)]


def test_requests_behind_a_job_wait(web: Web) -> None:
    namespace = web.create()
    entries = [{"key": f"k{n}", "value": "v"} for n in range(2000)]
    data = encode("PUT", f"{BASE}/{namespace}/bulk", json.dumps(entries).encode())
    data += encode("GET", "/k1999?urlencoded=true", headers={"X-KV-Namespace": namespace})
    first = web._tick(web.session, data)
    assert first == b""
    assert web.session.job is not None
    bulk, got = parse(web.raw(b""))
    assert bulk.result["successful_key_count"] == 2000
    assert got.body == b"v"


def test_expect_continue(web: Web) -> None:
    head = b"PUT /k?urlencoded=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    assert web.raw(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    (answer,) = parse(web.raw(b"abc"))
    assert answer.status == 200
    assert web.get("/k?urlencoded=true").body == b"abc"


def test_expectation_of_what_is_refused_gets_its_answer_at_once(web: Web) -> None:
    head = b"PUT /?urlencoded=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    (answer,) = parse(web.raw(head))
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert web.session.closing


def test_body_is_read_before_it_is_refused(web: Web) -> None:
    data = encode("PUT", "/?urlencoded=true", b"x" * 100_000)
    assert web.raw(data[:50_000]) == b""
    (answer,) = parse(web.raw(data[50_000:]))
    assert answer.status == 400
    assert not web.session.closing


def test_body_of_a_get_is_dropped(web: Web) -> None:
    answers = parse(
        web.raw(encode("GET", "/livez", b"body") + encode("GET", "/livez", b"more", chunked=True))
    )
    assert [answer.status for answer in answers] == [200, 200]


def test_connection_close(web: Web) -> None:
    answer = web.get("/livez", connection="close")
    assert answer.headers["connection"] == "close"
    assert web.session.closing


def test_older_clients(web: Web) -> None:
    kept = web.raw(b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"\r\nConnection: keep-alive\r\n" in kept
    (refused,) = parse(
        web.raw(
            b"GET /kvd/v1/namespaces/db0/export HTTP/1.0\r\nConnection: keep-alive\r\nHost: localhost\r\n\r\n"
        )
    )
    assert refused.status == 505
    (last,) = parse(web.raw(b"GET /livez HTTP/1.0\r\n\r\n"))
    assert last.headers["connection"] == "close"
    assert web.session.closing


def test_malformed_request_is_answered_and_ends(web: Web) -> None:
    good = encode("GET", "/livez")
    answers = parse(web.raw(good + b"GET / HTTP/1.1\nHost: x\n\n" + good))
    assert [answer.status for answer in answers] == [200, 400]
    assert answers[1].headers["connection"] == "close"
    assert web.session.closing
    assert web.front.traffic.malformed == 1


def test_failed_commit_takes_the_answers_with_it(web: Web) -> None:
    web.put("/k?urlencoded=true", "before")
    session = web.session
    web.server.store.begin(web.server.clock.now_ms)
    session.receive(encode("PUT", "/k?urlencoded=true", b"after") + encode("GET", "/livez"))
    web.server.engine.fail_next(NoSpace("here"))
    with pytest.raises(NoSpace):
        web.server.store.commit()
    session.refuse_uncommitted(storage_refusal(NoSpace("here")))
    written, alive = parse(session.take_output())
    assert written.status == 503
    assert "no space left" in written.reason
    assert alive.status == 200, "what does not depend on records is as it was"
    web.server.store.probe()
    assert web.get("/k?urlencoded=true").body == b"before"


def test_failed_commit_ends_a_job(web: Web) -> None:
    namespace = web.create()
    entries = [{"key": f"k{n}", "value": "v"} for n in range(2000)]
    data = encode("PUT", f"{BASE}/{namespace}/bulk", json.dumps(entries).encode())
    web.raw(data[:-100])
    web._tick(web.session, data[-100:])
    assert web.session.job is not None
    assert web.server.input_bytes > 0
    web.session.refuse_uncommitted(storage_refusal(NoSpace("here")))
    (answer,) = parse(web.session.take_output())
    assert answer.status == 503
    assert web.server.input_bytes == 0
    assert web.get("/livez").status == 200, "the job is over"


def test_bug_ends_the_request_and_its_writes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr("kvd.web.records.put", broken)
    with pytest.raises(Aborted):
        web.put("/k?urlencoded=true", "v")
    assert web.server.stats.unexpected_errors == 1


# ---------------------------------------------------------------- CLIENT PAUSE


def pause(web: Web, *, writes_only: bool) -> Pause:
    web.server.pause = Pause(web.server.clock.now_ms + 60_000, writes_only=writes_only)
    return web.server.pause


def test_a_paused_write_waits_and_what_is_behind_it(web: Web) -> None:
    web.put("/k?urlencoded=true", "old")
    waiting = pause(web, writes_only=True).waiting
    data = encode("PUT", "/k?urlencoded=true", b"new") + encode("GET", "/k?urlencoded=true")
    assert web.raw(data) == b""
    assert web.session.id in waiting
    assert web.session.overdue(web.server.clock.now_ms + 10**7) is None
    other = web.connect()
    (answer,) = parse(web.raw(encode("GET", "/k?urlencoded=true"), other))
    assert answer.body == b"old"
    end_pause(web.server)
    first, second = parse(web._tick(web.session, None))
    assert (first.status, second.body) == (200, b"new")


def test_what_may_not_be_written_any_more_when_its_body_is_there_is_not(web: Web) -> None:
    request = encode("PUT", "/k?urlencoded=true", b"new")
    assert web.raw(request[:-1]) == b""
    web.server.refuse("CLUSTERDOWN gone", reads=False)
    assert parse(web.raw(request[-1:]))[0].status == 503
    web.server.refuse(None, reads=False)
    assert web.get("/k?urlencoded=true").status == 404


def test_a_long_job_ends_when_nothing_may_be_written_any_more(web: Web) -> None:
    entries = [{"key": f"k{number}", "value": "x" * 4000} for number in range(500)]
    data = encode("PUT", f"{BASE}/{web.create()}/bulk", json.dumps(entries).encode())
    assert web._tick(web.session, data) == b""
    assert web.session.job is not None, "it was written in one slice"
    web.server.refuse("CLUSTERDOWN gone", reads=False)
    assert parse(web.raw(b""))[0].status == 503
    web.server.refuse(None, reads=False)
    assert web.keyspace("test").count < len(entries)


def test_a_pause_of_all_holds_reads_but_not_health(web: Web) -> None:
    pause(web, writes_only=False)
    other = web.connect()
    assert web.raw(encode("GET", "/k?urlencoded=true")) == b""
    assert parse(web.raw(encode("GET", "/livez"), other))[0].status == 200
    end_pause(web.server)
    assert parse(web._tick(web.session, None))[0].status == 404
    assert web.get("/livez").status == 200


def test_a_pause_that_follows_holds_again(web: Web) -> None:
    pause(web, writes_only=True)
    assert web.raw(encode("PUT", "/k?urlencoded=true", b"v") * 2) == b""
    end_pause(web.server)
    pause(web, writes_only=True)
    assert web._tick(web.session, None) == b""
    assert web.session.suspended
    end_pause(web.server)
    assert [answer.status for answer in parse(web._tick(web.session, None))] == [200, 200]


def test_a_pause_stops_a_bulk_write_between_two_slices(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = web.create()
    monkeypatch.setattr(web.front.pace, "limits", lambda now_ns: (0, 0))
    entries = [{"key": f"k{n}", "value": "v"} for n in range(1000)]
    web._tick(web.session, encode("PUT", f"{BASE}/{namespace}/bulk", json.dumps(entries).encode()))
    keyspace = web.keyspace("test")
    while keyspace.count < 10:
        web._tick(web.session, None)
    pause(web, writes_only=True)
    web._tick(web.session, None)
    assert web.session.suspended
    assert keyspace.count == 10
    end_pause(web.server)
    (answer,) = parse(web.raw(b""))
    assert answer.result["successful_key_count"] == 1000
    assert keyspace.count == 1000


def test_what_changed_during_a_pause_counts(web: Web) -> None:
    pause(web, writes_only=True)
    web.raw(encode("PUT", "/k?urlencoded=true", b"v"))
    web.server.refuse("NOQUORUM", reads=False)
    end_pause(web.server)
    assert parse(web._tick(web.session, None))[0].status == 503


def test_a_client_that_leaves_a_pause_is_forgotten(web: Web) -> None:
    waiting = pause(web, writes_only=True).waiting
    web.raw(encode("PUT", "/k?urlencoded=true", b"v"))
    web.session.end()
    assert not waiting
    end_pause(web.server)


def test_cluster_refusals(web: Web) -> None:
    web.put("/k?urlencoded=true", "v")
    for _ in range(3):
        web.get("/k?urlencoded=true")
    web.server.refuse("NOQUORUM", reads=False)
    assert web.put("/k?urlencoded=true", "w").status == 503
    assert web.get("/k?urlencoded=true").status == 200
    web.server.refuse("JOINING not yet", reads=True)
    assert web.get("/k?urlencoded=true").status == 503
    web.server.refuse(None, reads=False)
    assert web.get("/k?urlencoded=true").status == 200


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
FORM_BODY = b'--x\r\nContent-Disposition: form-data; name="value"\r\n\r\nvalue\r\n--x--\r\n'


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("bulk", {}, b'[{"key":"a","value":"value"}]'),
        ("bulk", {}, b'[{"key":"a","value":1}]'),
        ("bulk", {}, b"[" + b",".join(b'{"key":"%d","value":"value"}' % n for n in range(2000)) + b"]"),
        ("values/a", {}, b"value"),
        ("values/a", FORM, FORM_BODY),
        ("values/a", FORM, b"--x\r\n--x--\r\n"),
    ],
    ids=["bulk", "refused", "job", "value", "form", "empty form"],
)
def test_a_body_goes_with_its_request(
    web: Web, path: str, headers: dict[str, Any], body: bytes, *, is_whole: bool
) -> None:
    """Without the collector, which may come only after gigabytes of them."""
    data = encode("PUT", f"{BASE}/{web.create()}/{path}", body, headers=headers)
    session = web.connect()
    gc.collect()
    gc.disable()
    try:
        web.raw(data[:-5], session)
        assert session._exchange is not None
        body_left = weakref.ref(session._exchange.body)
        if is_whole:
            web.raw(data[-5:], session)
        else:
            session.end()
        assert body_left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "data",
    [
        b"BAD\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \x01\r\n\r\n",
        b"x" * 40_000,
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
    ids=["method", "header", "endless head", "chunk"],
)
def test_a_client_that_was_refused_goes_with_its_connection(web: Web, data: bytes) -> None:
    session = web.connect()
    gc.collect()
    gc.disable()
    try:
        web.raw(data, session)
        assert session.closing
        left = weakref.ref(session)
        session.end()
        del session
        assert left() is None
    finally:
        gc.enable()


def test_http_on_the_port_of_redis_and_the_other_way_round(web: Web) -> None:
    (answer,) = parse(web.raw(b"*1\r\n$4\r\nPING\r\n\r\n"))
    assert answer.status == 400
    assert Client(web.server).raw(encode("POST", "/")) == b""


# ---------------------------------------------------------------- deadlines and bounds


def overdue(web: Web, seconds: float) -> str | None:
    return web.session.overdue(web.server.clock.now_ms + int(seconds * 1000))


def test_slow_head_is_timed_from_its_first_byte(web: Web) -> None:
    web.get("/livez")
    for byte in b"GET / HTT":
        web.raw(bytes((byte,)))
        web.server.clock.advance(1000)
    assert overdue(web, 0) is None
    web.raw(b"P")
    web.server.clock.advance(1001)
    assert overdue(web, 0.5) == "slow head"
    web.session.time_out("slow head")
    (answer,) = parse(web.session.take_output())
    assert (answer.status, answer.headers["connection"]) == (408, "close")


def test_slow_body_and_idle_connection(web: Web) -> None:
    web.get("/livez")
    assert overdue(web, 599) is None
    assert overdue(web, 601) == "idle"
    web.raw(encode("PUT", "/k?urlencoded=true", b"x" * 100)[:-1])
    assert overdue(web, 29) is None
    assert overdue(web, 31) == "slow body"


def test_what_is_held_is_entered_and_bounded(web: Web) -> None:
    data = encode("PUT", "/k?urlencoded=true", b"x" * 1_000_000)
    web.raw(data[:600_000])
    assert 590_000 < web.server.input_bytes < 610_000
    web.raw(data[600_000:])
    assert web.server.input_bytes == 0
    web.raw(encode("PUT", f"{BASE}/{'0' * 32}/values/k", b"x" * 1_000_000)[:-1])
    assert web.server.input_bytes == 0, "a refused body is not held"
    web.session.end()
    assert web.server.input_bytes == 0
    assert web.server.http_sessions == {}


def test_every_byte_in_paths_and_headers(web: Web) -> None:
    for byte in range(256):
        for data in (
            b"GET /%b?urlencoded=true HTTP/1.1\r\nHost: localhost\r\n\r\n" % bytes((byte,)),
            b"GET /%%%02x?urlencoded=true HTTP/1.1\r\nHost: localhost\r\n\r\n" % byte,
            b"PUT /k?urlencoded=true HTTP/1.1\r\nHost: localhost\r\nCF-KV-Metadata: %b\r\nContent-Length: 0\r\n\r\n" % bytes((byte,)),
            b"GET /k HTTP/1.1\r\nHost: %b\r\n\r\n" % bytes((byte,)),
            b"GET /client/v4/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % bytes((byte,)),
        ):  # fmt: skip
            session = web.connect()
            answers = parse(web.raw(data, session)) if byte not in b"\r\n" else []
            assert all(answer.status in {200, 400, 404, 405, 421} for answer in answers)
            session.end()
    assert web.server.stats.unexpected_errors == 0


def test_fuzzed_requests_never_break_the_daemon(web: Web) -> None:
    rng = random.Random(7)
    namespace = web.create()
    seeds = [
        encode("PUT", f"{BASE}/{namespace}/values/k?expiration_ttl=60", b"value"),
        encode("PUT", f"{BASE}/{namespace}/bulk", b'[{"key":"a","value":"b","metadata":{"x":[1]}}]'),
        encode("GET", f"{BASE}/{namespace}/keys?limit=10&cursor=PWs&prefix=k&metadata.a=1"),
        encode("POST", f"{BASE}/{namespace}/bulk/get", b'{"keys":["k"],"type":"json","withMetadata":true}'),
        encode("PUT", f"{BASE}/{namespace}/values/k", b'--x\r\nContent-Disposition: form-data; name="value"\r\n\r\nv\r\n--x--\r\n',
               {"Content-Type": "multipart/form-data; boundary=x"}),
        encode("POST", "/api/tokens", b'{"name":"x","right":"read","namespaces":["test"],"expires_in_seconds":60}'),
        encode("GET", f"/api/namespaces/{namespace}/search?text=a&cursor=PWs"),
        encode("POST", "/bulk/get", b'{"keys":["k"],"cacheTtl":"60"}', {"X-KV-Namespace": "test"}),
    ]  # fmt: skip
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        session = web.connect()
        web.raw(bytes(data), session)
        session.end()
        for token in web.front.gatekeeper.tokens.list():
            web.front.gatekeeper.tokens.revoke(token.id)
    assert web.server.stats.unexpected_errors == 0
    assert web.server.input_bytes == 0
