"""Long requests of those who are not admitted any more: they end in their middle."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest

from kvd.pause import begin_pause, end_pause
from kvd.web.tokens import ADMIN, READ, WRITE
from storage.errors import Unavailable
from tests.kvd.harness import Client
from tests.kvd.web.web_harness import BASE, Web, encode, parse

COUNT = 1000
BASIC = "Basic " + base64.b64encode(b"alice:pw").decode()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    """A server with a namespace full of keys, where a slice is as short as it can be."""
    web = Web()
    web.create("one")
    for number in range(COUNT):
        web.keyspace("one").put(b"k%04d" % number, b"v")
    web.server.store.commit()
    monkeypatch.setattr(web.front.pace, "limits", lambda now_ns: (0, 0))
    return web


def make(web: Web, right: int) -> str:
    _, text = web.front.gatekeeper.tokens.create("test", right)
    web.server.store.commit()
    return f"Bearer {text}"


def with_token(web: Web) -> str:
    make(web, ADMIN)
    return make(web, WRITE)


def with_password(web: Web) -> str:
    make(web, ADMIN)
    Client(web.server).send("ACL", "SETUSER", "alice", "on", ">pw", "~*", "+@all")
    return BASIC


def with_nothing(web: Web) -> str:
    return "whatever"


def revoke(web: Web) -> None:
    tokens = web.front.gatekeeper.tokens
    for token in tokens.list():
        if token.right == WRITE:
            tokens.revoke(token.id)
    web.server.store.commit()


def delete_user(web: Web) -> None:
    Client(web.server).send("ACL", "DELUSER", "alice")


def protect(web: Web) -> None:
    make(web, READ)


Begin = Callable[[Web], str]
Change = Callable[[Web], None]
whoever = pytest.mark.parametrize(
    ("begin", "change"),
    [(with_token, revoke), (with_password, delete_user), (with_nothing, protect)],
    ids=["token", "user", "everybody"],
)


def bulk(web: Web, credential: str) -> bytes:
    entries = json.dumps([{"key": f"new{number}", "value": "v"} for number in range(COUNT)]).encode()
    target = f"{BASE}/{web.keyspace('one').id.hex()}/bulk"
    return encode("PUT", target, entries, {"Authorization": credential})


def deletion(web: Web, credential: str) -> bytes:
    return encode("DELETE", "/kvd/v1/namespaces/one/keys?prefix=k", headers={"Authorization": credential})


@whoever
def test_an_export_breaks_off(web: Web, begin: Begin, change: Change) -> None:
    session = web.connect()
    target = "/kvd/v1/namespaces/one/export"
    begun = web._tick(session, encode("GET", target, headers={"Authorization": begin(web)}))
    begun += web._tick(session, None)
    assert begun.startswith(b"HTTP/1.1 200")
    assert session.job is not None
    change(web)
    assert web.raw(b"", session) == b"", "neither a row nor an end"
    assert session.closing


@whoever
@pytest.mark.parametrize("request_of", [bulk, deletion])
def test_writes_end(web: Web, begin: Begin, change: Change, request_of: Callable[[Web, str], bytes]) -> None:
    session = web.connect()
    web._tick(session, request_of(web, begin(web)))
    while web.keyspace("one").count == COUNT:
        assert web._tick(session, None) == b""
    done = web.keyspace("one").count
    change(web)
    (answer,) = parse(web.raw(b"", session))
    assert answer.status == 401
    assert answer.error[0] == 10000
    assert web.keyspace("one").count == done


@pytest.mark.parametrize("rules", [["-kv.put"], ["resetkeys", "~x*"]], ids=str)
def test_a_deletion_goes_no_further_than_the_rules_of_its_user(web: Web, rules: list[str]) -> None:
    session = web.connect()
    web._tick(session, deletion(web, with_password(web)))
    while web.keyspace("one").count == COUNT:
        web._tick(session, None)
    done = COUNT - web.keyspace("one").count
    Client(web.server).send("ACL", "SETUSER", "alice", *rules)
    (answer,) = parse(web.raw(b"", session))
    assert web.keyspace("one").count == COUNT - done
    if rules == ["-kv.put"]:
        assert answer.status == 403
    else:
        assert answer.result == {"deleted": done}


def test_an_export_ends_when_its_user_may_not_list_any_more(web: Web) -> None:
    session = web.connect()
    target = "/kvd/v1/namespaces/one/export"
    web._tick(session, encode("GET", target, headers={"Authorization": with_password(web)}))
    web._tick(session, None)
    Client(web.server).send("ACL", "SETUSER", "alice", "-kv.list")
    web.raw(b"", session)
    assert session.close_reason == "failed in the middle of an answer"


@whoever
def test_what_is_received_meanwhile_is_not_written(web: Web, begin: Begin, change: Change) -> None:
    session = web.connect()
    target = f"{BASE}/{web.keyspace('one').id.hex()}/values/new"
    data = encode("PUT", target, b"value", {"Authorization": begin(web)})
    assert web.raw(data[:-1], session) == b""
    change(web)
    (answer,) = parse(web.raw(data[-1:], session))
    assert answer.status == 401
    assert web.keyspace("one").get(b"new") is None


@whoever
def test_what_was_held_by_a_pause_is_not_written(web: Web, begin: Begin, change: Change) -> None:
    web.server.spawn = lambda *_: None
    session = web.connect()
    credential = begin(web)
    begin_pause(web.server, time.time_ns() // 1_000_000 + 60_000, writes_only=True)
    assert web.raw(deletion(web, credential), session) == b""
    change(web)
    end_pause(web.server)
    (answer,) = parse(web.raw(b"", session))
    assert answer.status == 401
    assert web.keyspace("one").count == COUNT


@pytest.mark.parametrize("is_paused", [False, True])
def test_who_asks_cannot_be_found_out_any_more(
    web: Web, monkeypatch: pytest.MonkeyPatch, *, is_paused: bool
) -> None:
    def fail(token_id: bytes) -> None:
        raise Unavailable("/nowhere", "the disk is ill")

    web.server.spawn = lambda *_: None
    session = web.connect()
    credential = with_token(web)
    if is_paused:
        begin_pause(web.server, time.time_ns() // 1_000_000 + 60_000, writes_only=True)
    web._tick(session, deletion(web, credential))
    monkeypatch.setattr(web.front.gatekeeper.tokens, "record_of", fail)
    end_pause(web.server)
    (answer,) = parse(web.raw(b"", session))
    assert answer.status == 503
    assert web.keyspace("one").count > 0


def test_the_jobs_of_others_go_on(web: Web) -> None:
    session = web.connect()
    credential = make(web, ADMIN)
    make(web, WRITE)
    web._tick(session, deletion(web, credential))
    revoke(web)
    (answer,) = parse(web.raw(b"", session))
    assert answer.result == {"deleted": COUNT}
