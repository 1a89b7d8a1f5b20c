"""HTTP clients as Redis clients see them: CLIENT LIST and CLIENT KILL."""

from __future__ import annotations

import base64

import pytest

from kvd.web.session import HttpSession
from kvd.web.tokens import READ
from tests.kvd.harness import Client
from tests.kvd.web.web_harness import Web, encode


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def redis(web: Web) -> Client:
    return Client(web.server)


def line(redis: Client, session: HttpSession) -> dict[str, str]:
    found = redis.send("CLIENT", "LIST", "ID", session.id).decode()
    return dict(field.split("=", 1) for field in found.split())


def listed(redis: Client, *filters: str) -> list[int]:
    lines = redis.send("CLIENT", "LIST", *filters).decode().splitlines()
    return [int(one.split()[0].removeprefix("id=")) for one in lines]


def test_http_clients_are_listed_when_asked_for(web: Web, redis: Client) -> None:
    assert listed(redis) == [redis.session.id]
    assert listed(redis, "TYPE", "normal") == [redis.session.id]
    assert listed(redis, "TYPE", "HTTP") == [web.session.id]
    assert listed(redis, "ID", str(web.session.id), str(redis.session.id)) == [
        web.session.id,
        redis.session.id,
    ]


def test_the_line_has_the_fields_of_every_other_one(web: Web, redis: Client) -> None:
    own = redis.send("CLIENT", "INFO").decode()
    assert list(line(redis, web.session)) == [field.split("=")[0] for field in own.split()]


def test_the_line_tells_who_does_what(web: Web, redis: Client) -> None:
    assert line(redis, web.session)["cmd"] == "NULL"
    web.put("/k?urlencoded=true", "v")
    web.server.clock.advance(5000)
    found = line(redis, web.session)
    assert (found["cmd"], found["user"], found["flags"], found["idle"]) == ("http|put", "default", "N", "5")
    assert found["addr"] == "127.0.0.1:5000"
    web.raw(encode("PUT", "/k?urlencoded=true", b"x" * 5000)[:-1])
    assert int(line(redis, web.session)["qbuf"]) == 4999


def test_the_line_names_the_token_but_not_its_secret(web: Web, redis: Client) -> None:
    token, secret = web.front.gatekeeper.tokens.create("test", READ, None, None)
    web.server.store.commit()
    assert web.get("/k?urlencoded=true", authorization=f"Bearer {secret}").status == 404
    found = line(redis, web.session)
    assert found["user"] == f"token:{token.id}"
    assert secret not in str(found)


def test_a_stream_is_a_client_that_may_be_silent(web: Web, redis: Client) -> None:
    web.create()
    stream = web.connect()
    web._tick(stream, encode("GET", "/kvd/v1/namespaces/test/changes"))
    assert line(redis, stream)["flags"] == "P"


def test_kill_by_id_and_class(web: Web, redis: Client) -> None:
    assert redis.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == 0
    others = [web.connect(), web.connect()]
    assert redis.send("CLIENT", "KILL", "ID", web.session.id) == 1
    assert [one.closing for one in (web.session, *others)] == [True, False, False]
    assert redis.send("CLIENT", "KILL", "TYPE", "http", "ADDR", "127.0.0.1:5000") == 3
    assert [one.closing for one in others] == [True, True]


def test_kill_by_address(web: Web, redis: Client) -> None:
    assert redis.send("CLIENT", "KILL", web.address) == b"OK"
    assert web.session.closing


def test_kill_by_user_ends_who_has_shown_its_password(web: Web, redis: Client) -> None:
    redis.send("ACL", "SETUSER", "ada", "on", ">secret", "~*", "+@all")
    redis.send("ACL", "SETUSER", "default", ">needed")
    proof = base64.b64encode(b"ada:secret").decode()
    other = web.connect()
    assert web.get("/k?urlencoded=true", authorization=f"Basic {proof}").status == 404
    assert redis.send("CLIENT", "KILL", "USER", "ada") == 1
    assert web.session.closing
    assert not other.closing
