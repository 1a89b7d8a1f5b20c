"""Who is let in: tokens, users of the ACL, everybody on this machine while nothing is protected."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from kvd.commands import walks
from kvd.settings import Settings
from kvd.web import api_tokens
from kvd.web.tokens import ADMIN, READ, TOKENS_MAX, WRITE, Token, decode
from storage.errors import NoSpace, Unavailable
from storage.layout import CLUSTER
from storage.replica import StoreReplica
from storage.store import Keyspace
from tests.kvd.harness import Client, InProcessServer
from tests.kvd.web.web_harness import BASE, Answer, Web, encode, parse


@pytest.fixture
def web() -> Web:
    return Web()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def make(
    web: Web, right: int, namespaces: frozenset[bytes] | None = None, expires_ms: int | None = None
) -> str:
    _, text = web.front.gatekeeper.tokens.create("test", right, namespaces, expires_ms)
    web.server.store.commit()
    return text


def delayed(web: Web, target: str, **headers: str) -> bool:
    """Tell whether a request's answer is to come late. A session without a daemon cannot wait for it."""
    late: list[float] = []
    web.server.spawn = lambda function, exchange, answer: late.append(answer.seconds)
    session = web.connect()
    output = web.raw(encode("GET", target, headers={**headers}), session)
    session.end()
    assert bool(late) == (output == b"")
    return bool(late)


# ---------------------------------------------------------------- nothing is protected


def test_without_tokens_any_credential_will_do_on_this_machine(web: Web) -> None:
    assert web.get("/k?urlencoded=true", **bearer("whatever")).status == 404
    assert web.get("/client/v4/user", **{"x-auth-key": "x", "x-auth-email": "y"}).status == 200


def test_without_tokens_other_machines_are_refused() -> None:
    web = Web(address="192.0.2.7:5000")
    assert web.get("/k?urlencoded=true").status == 403
    assert web.get(f"{BASE}").error[0] == 10000
    assert web.get("/metrics").status == 403
    assert web.get("/livez").status == 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8379", "127.0.0.1:8379", "[::1]:8379", "fake-host", "a.localhost"]
)
def test_known_hosts(web: Web, host: str) -> None:
    assert web.get("/k?urlencoded=true", host=host).status == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8379", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost.evil"]
)
def test_strange_hosts_betray_a_rebound_name(web: Web, host: str) -> None:
    assert web.get("/k?urlencoded=true", host=host).status == 421
    assert web.get(f"http://{host or 'x.y'}/k?urlencoded=true").status == 421


def test_hosts_of_the_setting() -> None:
    web = Web(attrs.evolve(Settings(), http=attrs.evolve(Settings().http, hosts=("kv.example",))))
    assert web.get("/k?urlencoded=true", host="KV.example:80").status == 404


def test_pages_of_other_sites(web: Web) -> None:
    target = "/k?urlencoded=true"
    assert web.get(target, origin="http://localhost").status == 404
    assert web.get(target, origin="https://evil.example").status == 403
    assert web.get(target, origin="null").status == 403
    assert web.get(target, **{"sec-fetch-site": "cross-site"}).status == 403
    assert web.get(target, **{"sec-fetch-site": "same-origin"}).status == 404
    assert (
        web.post("/client/v4/accounts/x/storage/kv/namespaces", b'{"title":"x"}', origin="http://evil").status
        == 403
    )


def test_password_of_the_default_user_protects_http_too() -> None:
    web = Web()
    redis = Client(web.server)
    redis.send("CONFIG", "SET", "requirepass", "secret")
    assert web.get("/k?urlencoded=true").status == 401
    basic = base64.b64encode(b"default:secret").decode()
    assert web.get("/k?urlencoded=true", authorization=f"Basic {basic}").status == 404


# ---------------------------------------------------------------- tokens


def test_token_is_needed_once_there_is_one(web: Web) -> None:
    token = make(web, ADMIN)
    answer = web.get("/k?urlencoded=true")
    assert (answer.status, answer.reason) == (401, "Authentication error")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert web.get(BASE).error == (10000, "Authentication error")
    assert web.get(BASE, **bearer(token)).status == 200
    assert web.get(BASE, **{"x-auth-key": token, "x-auth-email": "me@example"}).status == 200
    assert web.get(BASE, **bearer(token), host="any.example").status == 200


def test_token_lets_other_machines_in() -> None:
    web = Web(address="192.0.2.7:5000")
    token = make(web, READ)
    assert web.get("/k?urlencoded=true", **bearer(token)).status == 404


def test_wrong_token_is_answered_late(web: Web) -> None:
    token = make(web, ADMIN)
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    for credential in (
        f"Bearer {wrong}",
        "Bearer x",
        "Bearer ",
        "Basic !",
        "Basic eDp5",
        "kvd",
        f"Bearer {token}x",
    ):
        assert delayed(web, "/k?urlencoded=true", Authorization=credential)
    assert not delayed(web, "/k?urlencoded=true", Authorization=f"Bearer {token}")
    assert web.server.stats.acl_denied_auth == 7


def test_too_many_late_answers_are_given_at_once_and_close(web: Web) -> None:
    make(web, ADMIN)
    web.front.failures = 10_000
    answer = web.get("/k?urlencoded=true", **bearer("kvd_000000000000_xxxxxxxxxxxxxxxxxxxxxxxxx"))
    assert (answer.status, answer.headers["connection"]) == (401, "close")


def test_revoked_and_expired_tokens_end_at_once_on_open_connections(web: Web) -> None:
    keeper = make(web, ADMIN)
    token = make(web, READ)
    short = make(web, READ, expires_ms=web.server.clock.now_ms + 500)
    for _ in range(4):
        assert web.get("/k?urlencoded=true", **bearer(token)).status == 404
    assert web.get("/k?urlencoded=true", **bearer(short)).status == 404
    web.server.clock.advance(500)
    assert delayed(web, "/k?urlencoded=true", Authorization=f"Bearer {short}")
    web.front.gatekeeper.tokens.revoke(token.split("_")[1])
    web.server.spawn = lambda *arguments: None
    assert web.raw(encode("GET", "/k?urlencoded=true", headers=bearer(token))) == b""  # type: ignore[arg-type]
    assert web.session.suspended
    web.session = web.connect()
    assert web.get("/k?urlencoded=true", **bearer(keeper)).status == 404


def test_kept_answers_end_with_their_token(web: Web) -> None:
    keeper, token = make(web, ADMIN), make(web, READ)
    web.put("/k?urlencoded=true", "v", **bearer(keeper))
    for _ in range(5):
        assert web.get("/k?urlencoded=true", **bearer(token)).body == b"v"
    assert web.front.traffic.known
    assert web.get("/k?urlencoded=true").status == 401
    web.front.gatekeeper.tokens.revoke(token.split("_")[1])
    web.server.spawn = lambda *arguments: None
    session = web.connect()
    assert web.raw(encode("GET", "/k?urlencoded=true", headers=bearer(token)), session) == b""  # type: ignore[arg-type]


def rights(web: Web, token: str, namespace: str) -> tuple[int, int, int, int]:
    """Return the status of a read, a write, a creation and a list of tokens."""
    base = f"{BASE}/{namespace}"
    return (
        web.get(f"{base}/keys", **bearer(token)).status,
        web.put(f"{base}/values/k", "v", **bearer(token)).status,
        web.post(BASE, b"{}", **bearer(token)).status,
        web.get("/api/tokens", **bearer(token)).status,
    )


def test_rights(web: Web) -> None:
    namespace = web.create("one")
    assert rights(web, make(web, READ), namespace) == (200, 403, 403, 403)
    assert rights(web, make(web, WRITE), namespace) == (200, 200, 403, 403)
    assert rights(web, make(web, ADMIN), namespace) == (200, 200, 400, 200)


def test_token_for_some_namespaces(web: Web) -> None:
    mine, other = web.create("mine"), web.create("other")
    token = make(web, ADMIN, frozenset({bytes.fromhex(mine)}))
    assert rights(web, token, mine) == (200, 200, 403, 403)
    assert rights(web, token, other) == (403, 403, 403, 403)
    assert [one["title"] for one in web.get(BASE, **bearer(token)).result] == ["mine"]
    assert web.put(f"{BASE}/{mine}", '{"title":"renamed"}', **bearer(token)).status == 200
    assert web.get("/k?urlencoded=true", x_kv_namespace="other", **bearer(token)).status == 403
    assert web.get("/k?urlencoded=true", **bearer(token)).status == 403, "the default namespace"


def every_endpoint(namespace: str) -> Iterator[tuple[str, str]]:
    base = f"{BASE}/{namespace}"
    yield from (("GET", BASE), ("POST", BASE), ("POST", "/client/v4/accounts/x/workers/namespaces"))
    yield from (("GET", base), ("PUT", base), ("DELETE", base), ("GET", f"{base}/keys"))
    yield from ((method, f"{base}/values/k") for method in ("GET", "PUT", "DELETE", "HEAD"))
    yield from (("GET", f"{base}/metadata/k"), ("PUT", f"{base}/bulk"), ("DELETE", f"{base}/bulk"))
    yield from (("POST", f"{base}/bulk/get"), ("POST", f"{base}/bulk/delete"))
    yield from (
        ("GET", f"/client/v4/{name}") for name in ("memberships", "accounts", "user", "user/tokens/verify")
    )
    yield from ((method, "/k?urlencoded=true") for method in ("GET", "PUT", "DELETE", "HEAD"))
    yield from (("GET", "/?urlencoded=true"), ("POST", "/bulk/get"), ("GET", "/metrics"), ("GET", "/k"))
    own = f"/kvd/v1/namespaces/{namespace}"
    yield from (("GET", f"{own}/changes"), ("GET", f"{own}/export"), ("DELETE", f"{own}/keys?prefix=a"))
    api = f"/api/namespaces/{namespace}"
    yield from (
        ("GET", "/api/session"),
        ("GET", "/api/namespaces"),
        ("POST", "/api/namespaces"),
        ("GET", "/api/members"),
    )
    yield from ((method, api) for method in ("GET", "PUT", "DELETE"))
    yield from (("GET", f"{api}/keys"), ("GET", f"{api}/search"), ("GET", f"{api}/keys/k"))
    yield from ((method, f"{api}/values/k") for method in ("GET", "PUT", "DELETE"))
    yield from (
        ("GET", "/api/figures"),
        ("GET", "/api/tokens"),
        ("POST", "/api/tokens"),
        ("DELETE", "/api/tokens/x"),
    )


def ask(web: Web, method: str, target: str, headers: dict[str, str]) -> Answer:
    session = web.connect()
    body = None if method in {"GET", "HEAD"} else b"[]"
    (answer,) = parse(web.raw(encode(method, target, body, {**headers}), session), is_head=method == "HEAD")
    session.end()
    return answer


def test_nobody_gets_anywhere_without_a_credential(web: Web) -> None:
    namespace = web.create("one")
    make(web, ADMIN)
    for method, target in every_endpoint(namespace):
        assert ask(web, method, target, {}).status == 401, target


def test_readers_change_nothing(web: Web) -> None:
    namespace = web.create("one")
    web.put(f"{BASE}/{namespace}/values/k", "v")
    token = make(web, READ)
    commits = web.server.store.commits
    for method, target in every_endpoint(namespace):
        if target.endswith(("/changes", "/export")):
            continue  # these do not end with the tick
        answer = ask(web, method, target, bearer(token))
        is_read = method in {"GET", "HEAD"} or target.endswith("bulk/get")
        assert (answer.status == 403) == (not is_read or target == "/api/tokens"), (
            method,
            target,
            answer.status,
        )
    assert web.server.store.commits == commits


@pytest.mark.parametrize("unreadable", ["record", "token"])
def test_a_kept_answer_is_not_given_when_what_it_stands_on_cannot_be_read(
    web: Web, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    token = make(web, WRITE)
    web.put("/k?urlencoded=true", "v", **bearer(token))
    for _ in range(3):
        assert web.get("/k?urlencoded=true", **bearer(token)).body == b"v"
    assert web.front.traffic.known

    def fail(*_: object) -> None:
        raise Unavailable("/nowhere", "the disk is ill")

    if unreadable == "record":
        monkeypatch.setattr(Keyspace, "get", fail)
    else:
        monkeypatch.setattr(web.front.gatekeeper.tokens, "record_of", fail)
    assert web.get("/k?urlencoded=true", **bearer(token)).status == 503


# ---------------------------------------------------------------- users of the ACL


def test_user_of_the_acl(web: Web) -> None:
    make(web, ADMIN)
    redis = Client(web.server)
    redis.send("ACL", "SETUSER", "alice", "on", ">pw", "~a:*", "+@read", "+kv.put")
    basic = {"authorization": "Basic " + base64.b64encode(b"alice:pw").decode()}
    assert web.put("/a%3Ak?urlencoded=true", "v", **basic).status == 200
    assert web.put("/b?urlencoded=true", "v", **basic).status == 403
    assert web.get("/b?urlencoded=true", **basic).status == 403
    assert web.get("/a%3Ak?urlencoded=true", **basic).body == b"v"
    assert web.get("/api/tokens", **basic).status == 403
    redis.send("ACL", "SETUSER", "alice", ">new", "<pw")
    assert delayed(web, "/a%3Ak?urlencoded=true", **basic)
    redis.send("ACL", "SETUSER", "open", "on", "nopass", "+@all", "~*")
    assert delayed(web, "/k?urlencoded=true", authorization="Basic " + base64.b64encode(b"open:x").decode())


def test_a_user_of_the_acl_is_shown_the_keys_that_it_may_read(web: Web) -> None:
    make(web, ADMIN)
    namespace = Client(web.server).send("KV.NS", "CREATE", "default").decode()
    redis = Client(web.server)
    redis.send("KV.NS", "USE", "default")
    redis.send("ACL", "SETUSER", "alice", "on", ">pw", "~a*", "%W~w", "+@read", "+kv.put")
    for name in ("a1", "a2", "secret", "w"):
        redis.send("KV.PUT", name, "v", "META", '{"x":"y"}')
    web.headers = {"authorization": "Basic " + base64.b64encode(b"alice:pw").decode()}
    own = f"/api/namespaces/{namespace}"
    assert [row["name"] for row in web.get(f"{BASE}/{namespace}/keys").result] == ["a1", "a2"]
    assert [row["name"] for row in web.get(f"{BASE}/{namespace}/keys?metadata.x=y").result] == ["a1", "a2"]
    assert [
        row["name"] for row in web.get("/?key_count_limit=100", x_kv_namespace="default").json["keys"]
    ] == ["a1", "a2"]
    assert [row["name"] for row in web.get(f"{own}/keys?limit=2").result] == ["a1", "a2"]
    assert web.get(f"{own}/search?text=s").result == []
    lines = [json.loads(line) for line in web.get("/kvd/v1/namespaces/default/export").body.splitlines()]
    assert [line.get("key") for line in lines] == ["a1", "a2", None]
    stream = web.connect()
    web.raw(encode("GET", "/kvd/v1/namespaces/default/changes", headers={**web.headers}), stream)
    assert web.put("/w?urlencoded=true", "v").status == 200
    assert web.put("/a3?urlencoded=true", "v").status == 200
    heard = stream.take_output()
    assert b'"a3"' in heard
    assert b'"w"' not in heard


def test_a_user_of_the_acl_writes_many_of_the_keys_that_it_may_write(web: Web) -> None:
    namespace = web.create("one")
    make(web, ADMIN)
    redis = Client(web.server)
    redis.send("ACL", "SETUSER", "alice", "on", ">pw", "~a*", "%R~r*", "+@read", "+kv.put")
    redis.send("KV.NS", "USE", "one")
    redis.send("MSET", "a1", "", "a2", "", "b", "", "r1", "")
    alice = {"authorization": "Basic " + base64.b64encode(b"alice:pw").decode()}
    bulk = f"{BASE}/{namespace}/bulk"
    assert web.put(bulk, '[{"key":"a3","value":""}]', **alice).status == 200
    for refused in ("b2", "r2"):
        assert (
            web.put(
                bulk, json.dumps([{"key": "a4", "value": ""}, {"key": refused, "value": ""}]), **alice
            ).status
            == 403
        )
    assert web.delete(bulk, ["a3"], **alice).status == 200
    assert redis.send("KEYS", "*") == [b"a1", b"a2", b"b", b"r1"]
    own = "/kvd/v1/namespaces/one/keys?"
    assert web.send("DELETE", own + "prefix=r", headers={**alice}).result == {"deleted": 0}
    assert web.send("DELETE", own + "prefix=a", headers={**alice}).result == {"deleted": 2}
    assert web.send("DELETE", own + "all=true", headers={**alice}).status == 403
    redis.send("ACL", "SETUSER", "alice", "-kv.put")
    assert web.send("DELETE", own + "prefix=a", headers={**alice}).status == 403
    assert web.put(bulk, '[{"key":"a3","value":""}]', **alice).status == 403
    assert redis.send("KEYS", "*") == [b"b", b"r1"]


# ---------------------------------------------------------------- records


def test_secret_is_stored_as_a_hash_only(web: Web) -> None:
    token = make(web, ADMIN)
    secret = token.split("_", 2)[2]
    stored = b"".join(
        key + record[0] for key, record in web.server.store.keyspaces.cluster.scan(b"token:", None, 10)[0]
    )
    assert secret.encode() not in stored
    assert b"token:" + token.split("_")[1].encode() in stored


def test_tokens_by_http(web: Web) -> None:
    namespace = web.create("one")
    body = {"name": "mine", "right": "write", "namespaces": ["one"], "expires_in_seconds": 60}
    made = web.post("/api/tokens", body).result
    assert made["namespaces"] == [namespace]
    assert made["expires_ms"] == web.server.clock.now_ms + 60_000
    token = made.pop("token")
    admin = make(web, ADMIN)
    assert made in web.get("/api/tokens", **bearer(admin)).result
    assert web.get(f"{BASE}/{namespace}/keys", **bearer(token)).status == 200
    assert web.delete(f"/api/tokens/{made['id']}", **bearer(admin)).result is None
    assert web.delete(f"/api/tokens/{made['id']}", **bearer(admin)).status == 404


@pytest.mark.parametrize(
    "body",
    [{"name": 7}, {"name": "x" * 129}, {"name": "a\nb"}, {"right": "root"}, {"namespaces": []}, {"namespaces": ["none"]},
     {"namespaces": "one"}, {"expires_in_seconds": 0}, {"expires_in_seconds": True}, {"expires_in_seconds": "1"}, []],
)  # fmt: skip
def test_bad_token_request(web: Web, body: object) -> None:
    assert web.post("/api/tokens", body).status == 400
    assert not web.front.gatekeeper.tokens.exist


def test_damaged_record_lets_nobody_in() -> None:
    for text in (b"", b"{}", b"[]", b'{"name":"x","digest":"y","right":"root","namespaces":null}', b"\xff"):
        assert decode("0" * 12, text) is None


def test_tokens_survive_flushall() -> None:
    server = InProcessServer()
    web = Web(server=server)
    token = make(web, ADMIN)
    assert Client(server).send("FLUSHALL") == b"OK"
    assert web.get("/k?urlencoded=true").status == 401
    assert web.get("/k?urlencoded=true", **bearer(token)).status == 404


# ---------------------------------------------------------------- many tokens


def hide(web: Web, count: int) -> None:
    """Leave the marks of so many revoked tokens, before all others in the order of ids."""
    records = web.server.store.keyspaces.cluster
    names = [b"token:%012x" % number for number in range(count)]
    for name in names:
        records.put(name, b"{}")
    for name in names:
        records.delete(name)
    web.server.store.commit()


def test_revoked_tokens_hide_no_other(web: Web) -> None:
    hide(web, TOKENS_MAX + 1)
    token = make(web, ADMIN)
    assert [one["id"] for one in web.get("/api/tokens", **bearer(token)).result] == [token.split("_")[1]]
    assert [one.id for one in web.front.gatekeeper.tokens.list()] == [token.split("_")[1]]
    assert web.get("/k?urlencoded=true").status == 401


def test_tokens_are_gone_through_with_turns_for_others(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)
    hide(web, 1000)
    token = make(web, ADMIN)
    web.server.clock.advance(10)
    for method, body, rights_made in (("POST", b"{}", "read"), ("GET", None, ["admin", "read"])):
        session = web.connect()
        assert web._tick(session, encode(method, "/api/tokens", body, {**bearer(token)})) == b""
        for _ in range(9):
            assert web._tick(session, None) == b""
            assert session.backlog
        (answer,) = parse(web.raw(b"", session))
        result = answer.result
        assert (result["right"] if body else [one["right"] for one in result]) == rights_made


def scans_of(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the list in which each look through some rows leaves its prefix from now on."""
    scans: list[bytes] = []
    scan = Keyspace.scan

    def counting(self: Keyspace, prefix: bytes, after: bytes | None, limit: int) -> Any:
        scans.append(prefix)
        return scan(self, prefix, after, limit)

    monkeypatch.setattr(Keyspace, "scan", counting)
    return scans


def test_what_is_left_of_revoked_tokens_is_not_gone_through_again(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(web, 1000)
    assert web.get("/k?urlencoded=true").status == 404
    scans = scans_of(monkeypatch)
    for _ in range(3):
        web.server.clock.advance(60_000)
        assert web.put("/k?urlencoded=true", "v").status == 200
    assert not scans
    tokens = web.front.gatekeeper.tokens
    token = make(web, ADMIN)
    assert web.get("/k?urlencoded=true").status == 401
    assert len(scans) > 5  # behind all the others
    scans.clear()
    make(web, READ)
    for _ in range(3):
        web.server.clock.advance(60_000)
        assert web.get("/k?urlencoded=true", **bearer(token)).status == 200
    assert not scans
    for one in tokens.list():
        assert web.get("/k?urlencoded=true").status == 401
        tokens.revoke(one.id)
    assert web.get("/k?urlencoded=true").status == 200


def test_tokens_of_other_nodes_count_once_they_have_come(web: Web) -> None:
    replica = StoreReplica(web.server.store)
    assert web.get("/k?urlencoded=true").status == 404
    token = Token("0" * 12, "theirs", "0" * 64, READ, None, 0, None)
    replica.put_system(b"token:" + token.id.encode(), token.encode())
    web.server.store.commit()
    assert web.get("/k?urlencoded=true").status == 401
    web.server.store.keyspaces.obtain(CLUSTER).delete(b"token:" + token.id.encode())
    web.server.store.commit()
    assert web.get("/k?urlencoded=true").status == 404


def test_a_token_that_did_not_get_to_disk_locks_nobody_out(web: Web) -> None:
    tokens = web.front.gatekeeper.tokens
    tokens.create("test", ADMIN)
    assert tokens.exist
    web.server.engine.fail_next(NoSpace("memory"))
    with pytest.raises(NoSpace):
        web.server.store.commit()
    assert not tokens.exist


def test_there_are_not_more_tokens_than_may_be(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_tokens, "TOKENS_MAX", 2)
    token = make(web, ADMIN)
    assert web.post("/api/tokens", {}, **bearer(token)).status == 200
    assert web.post("/api/tokens", {}, **bearer(token)).status == 400
