"""KV.*: metadata, record descriptions, lists with cursors, namespaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.commands.kv import decode_cursor, encode_cursor
from protocol.replies import ErrorReply
from tests.kvd.harness import START_MS, Client, InProcessServer, error


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(metadata=_json, spaces=st.booleans())
def test_metadata_comes_back_byte_for_byte(metadata: Any, spaces: bool) -> None:
    client = Client(InProcessServer())
    text = json.dumps(metadata, ensure_ascii=False, indent=1 if spaces else None).encode(
        "utf-8", "surrogatepass"
    )
    reply = client.send("KV.PUT", "key", "value", "META", text)
    if reply == b"OK":
        assert client.send("KV.GET", "key") == [b"value", text]
    else:
        assert b"\xed" in text  # half of a surrogate pair is no UTF-8


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"nope",
        b"NaN",
        b"[1,]",
        b"'a'",
        b'"a" "b"',
        b"\xff",
        b'{"a":-Infinity}',
        b'{"a":[1e400]}',
        b"[" * 100 + b"1" + b"]" * 100,
        b"\xef\xbb\xbf1",
        b"1\x00",
        "1".encode("utf-16"),
    ],
)
def test_what_is_no_json_text_is_refused(client: Client, text: bytes) -> None:
    assert (
        error(client.send("KV.PUT", "key", "value", "META", text)) == "ERR metadata is not a valid JSON text"
    )
    assert client.send("EXISTS", "key") == 0


def test_metadata_is_bounded_in_size_and_depth(server: InProcessServer, client: Client) -> None:
    limit = server.store.limits.metadata_bytes_max
    assert client.send("KV.PUT", "key", "v", "META", b'"' + b"x" * (limit - 2) + b'"') == b"OK"
    too_long = client.send("KV.PUT", "key", "w", "META", b'"' + b"x" * (limit - 1) + b'"')
    assert f"exceeds the limit of {limit} bytes" in error(too_long)
    server.store.limits.metadata_bytes_max = 1 << 20
    assert "not a valid JSON" in error(
        client.send("KV.PUT", "key", "w", "META", b"[" * 500_000 + b"]" * 500_000)
    )
    assert client.send("KV.PUT", "key", "v", "META", b"[" * 99 + b"1" + b"]" * 99) == b"OK"
    assert client.send("GET", "key") == b"v"


@pytest.mark.parametrize(
    ("option", "ttl_ms"),
    [
        ("EX 7", 7000),
        ("px 7", 7),
        (f"EXAT {START_MS // 1000 + 7}", 7000),
        (f"PXAT {START_MS + 7}", 7),
        ("", -1),
    ],
)
def test_put_takes_an_expiry_in_four_forms(client: Client, option: str, ttl_ms: int) -> None:
    client.send("SET", "key", "old", "EX", "100")
    assert client.send("KV.PUT", "key", "v", *option.split()) == b"OK"
    assert client.send("PTTL", "key") == ttl_ms


@pytest.mark.parametrize(
    "options", ["META", "EX", "META 1 META 2", "EX 1 PX 1", "NX", "META 1 extra", "EX 1 EX 1"]
)
def test_put_refuses_options_that_it_does_not_know_or_has_already(client: Client, options: str) -> None:
    assert error(client.send("KV.PUT", "key", "v", *options.split())) == "ERR syntax error"


def test_put_clears_what_is_not_given(client: Client) -> None:
    client.send("KV.PUT", "key", "v", "META", "1", "EX", "10")
    client.send("KV.PUT", "key", "w")
    assert client.send("KV.GET", "key") == [b"w", None]
    assert client.send("TTL", "key") == -1
    assert client.send("KV.PUT", "key", "w", "EX", "10", "META", "2") == b"OK"
    assert client.send("KV.PUT", "key", "x", "PXAT", "1") == b"OK"
    assert client.send("KV.GET", "key") is None


def test_meta_describes_the_record(server: InProcessServer, client: Client) -> None:
    client.send("HELLO", "3")
    client.send("KV.PUT", "key", "value", "META", '{"a":1}', "PX", "5000")
    server.clock.advance(1500)
    found = client.send("KV.META", "key")
    assert found[b"written_at_ms"] == START_MS
    assert found[b"age_ms"] == 1500
    assert found[b"stamp"].startswith(b"%d." % START_MS)
    assert len(bytes.fromhex(found[b"origin"].decode())) == 16
    assert (found[b"expires_at_ms"], found[b"ttl_ms"]) == (START_MS + 5000, 3500)
    assert (found[b"key_bytes"], found[b"value_bytes"], found[b"metadata_bytes"]) == (3, 5, 7)
    assert found[b"metadata"] == b'{"a":1}'
    client.send("SET", "key", "newer")
    later = client.send("KV.META", "key")
    assert later[b"sequence"] > found[b"sequence"]
    assert later[b"expires_at_ms"] is None
    assert client.send("KV.META", "none") is None


def test_list_gives_pages_in_key_order_with_expiry_and_metadata(client: Client) -> None:
    client.send("KV.PUT", "user:2", "v", "META", '"two"')
    client.send("KV.PUT", "user:1", "v", "PX", "5000")
    client.send("MSET", "user:3", "v", "other", "v", "user:", "v")
    first = client.send("KV.LIST", "PREFIX", "user:", "LIMIT", "2")
    assert first[1] == [[b"user:", None, None], [b"user:1", START_MS + 5000, None]]
    second = client.send("KV.LIST", "PREFIX", "user:", "LIMIT", "2", "CURSOR", first[0])
    assert second[1] == [[b"user:2", None, b'"two"'], [b"user:3", None, None]]
    rest = client.send("KV.LIST", "PREFIX", "user:", "CURSOR", second[0])
    assert (rest[0], rest[1]) == (b"", [])
    assert client.send("KV.LIST", "PREFIX", "user:", "LIMIT", "2", "CURSOR", first[0]) == second


@given(keys=st.sets(st.binary(max_size=3), min_size=1, max_size=30), limit=st.integers(1, 7))
def test_pages_together_are_all_keys_once(keys: set[bytes], limit: int) -> None:
    client = Client(InProcessServer())
    client.send("MSET", *[word for key in keys for word in (key, b"")])
    found: list[bytes] = []
    cursor = b""
    while True:
        cursor, page = client.send("KV.LIST", "LIMIT", limit, "CURSOR", cursor)
        found += [entry[0] for entry in page]
        if not cursor:
            break
    assert found == sorted(keys)


def test_a_page_goes_on_behind_deleted_keys_until_it_is_full(client: Client) -> None:
    names = [b"%05d" % number for number in range(3000)]
    client.send("MSET", *[word for name in names for word in (name, b"v")])
    client.send("DEL", *names[5:2990])
    cursor, page = client.send("KV.LIST", "LIMIT", "10")
    assert [entry[0] for entry in page] == names[:5] + names[2990:2995]
    cursor, page = client.send("KV.LIST", "LIMIT", "10", "CURSOR", cursor)
    assert (cursor, [entry[0] for entry in page]) == (b"", names[2995:])


def logged_in(server: InProcessServer, *rules: str) -> Client:
    Client(server).send("ACL", "SETUSER", "lim", "on", "nopass", *rules)
    client = Client(server)
    assert client.send("AUTH", "lim", "") == b"OK"
    return client


def names_of(reply: Any) -> list[bytes]:
    return [entry[0] for entry in reply[1]]


def test_a_list_shows_a_user_the_keys_that_it_may_read(server: InProcessServer, client: Client) -> None:
    for name in ("a1", "a2", "b", "c", "w", "z:1", "z:2"):
        client.send("KV.PUT", name, "v", "META", '"secret"')
    limited = logged_in(server, "+@all", "~a*", "%R~z:*", "%W~w")
    assert names_of(limited.send("KV.LIST")) == [b"a1", b"a2", b"z:1", b"z:2"]
    assert names_of(limited.send("KV.LIST", "PREFIX", "b")) == []
    first = limited.send("KV.LIST", "LIMIT", "3")
    assert names_of(first) == [b"a1", b"a2", b"z:1"], "the limit is one of what is shown"
    assert names_of(limited.send("KV.LIST", "CURSOR", first[0])) == [b"z:2"]
    limited.send("MULTI")
    limited.send("KV.LIST")
    assert names_of(limited.send("EXEC")[0]) == [b"a1", b"a2", b"z:1", b"z:2"]
    assert names_of(limited.send("EVAL", "return redis.call('KV.LIST')", 0)) == [b"a1", b"a2", b"z:1", b"z:2"]
    assert len(names_of(client.send("KV.LIST"))) == 7


def test_the_selector_that_allows_a_list_says_what_it_shows(server: InProcessServer, client: Client) -> None:
    client.send("MSET", "a", "v", "b", "v")
    assert names_of(logged_in(server, "+get", "~*", "(+kv.list ~b*)").send("KV.LIST")) == [b"b"]
    assert names_of(logged_in(server, "(+kv.list ~*)").send("KV.LIST")) == [b"a", b"b"]


def test_metadata_is_read_with_the_right_to_read(server: InProcessServer, client: Client) -> None:
    client.send("KV.PUT", "w", "v", "META", '"secret"')
    limited = logged_in(server, "+@all", "%W~w")
    for command in ("KV.GET", "KV.META", "KV.HISTORY"):
        assert error(limited.send(command, "w")).startswith("NOPERM")


@given(position=st.binary(max_size=20))
def test_a_cursor_holds_its_position(position: bytes) -> None:
    assert decode_cursor(encode_cursor(position)) == position


def test_the_end_is_an_empty_cursor() -> None:
    assert encode_cursor(None) == b""
    assert decode_cursor(b"") is None


@pytest.mark.parametrize("text", [b"!!", b"a", b"YQ", b"\xff", b"PQ PQ"])
def test_a_text_that_is_no_cursor_is_refused(text: bytes) -> None:
    with pytest.raises(ErrorReply, match="invalid cursor"):
        decode_cursor(text)


@pytest.mark.parametrize("options", ["LIMIT 0", "LIMIT 10001", "LIMIT x", "PREFIX", "CURSOR !!", "FOO 1"])
def test_list_refuses_wrong_options(client: Client, options: str) -> None:
    error(client.send("KV.LIST", *options.split()))


def test_namespaces_are_made_listed_renamed_and_deleted(client: Client) -> None:
    client.send("HELLO", "3")
    first = client.send("KV.NS", "CREATE", "sessions")
    second = client.send("KV.NS", "create", "z\u0142oto".encode())
    assert len(bytes.fromhex(first.decode())) == 16
    default = {
        b"keys": 0,
        b"replicate": b"all",
        b"maxvalue": 0,
        b"conflictlog": 1,
        b"group": 0,
        b"carried": 1,
        b"history": 0,
    }
    assert client.send("KV.NS", "LIST") == [
        {b"id": first, b"title": b"sessions", **default},
        {b"id": second, b"title": "z\u0142oto".encode(), **default},
    ]
    assert "exists already" in error(client.send("KV.NS", "CREATE", "sessions"))
    assert client.send("KV.NS", "RENAME", "sessions", "carts") == b"OK"
    assert client.send("KV.NS", "RENAME", first, "baskets") == b"OK"
    assert "exists already" in error(client.send("KV.NS", "RENAME", second, "baskets"))
    assert client.send("KV.NS", "DELETE", "baskets") == b"OK"
    assert "no namespace has this id or title" in error(client.send("KV.NS", "DELETE", first))
    assert [entry[b"id"] for entry in client.send("KV.NS", "LIST")] == [second]


def test_a_namespace_has_a_policy(client: Client) -> None:
    client.send("HELLO", "3")
    made = client.send("KV.NS", "CREATE", "cache", "REPLICATE", "none", "maxvalue", "3", "CONFLICTLOG", "NO")
    [entry] = client.send("KV.NS", "LIST")
    assert (entry[b"replicate"], entry[b"maxvalue"], entry[b"conflictlog"]) == (b"none", 3, 0)
    client.send("KV.NS", "USE", made)
    assert client.send("SET", "key", "abc") == b"OK"
    assert "exceeds the limit of 3 bytes" in error(client.send("SET", "key", "abcd"))
    assert client.send("KV.NS", "POLICY", made, "MAXVALUE", "0", "CONFLICTLOG", "YES") == b"OK"
    assert client.send("SET", "key", "abcd") == b"OK"
    assert "when it is made" in error(client.send("KV.NS", "POLICY", made, "REPLICATE", "ALL"))
    for wrong in (("REPLICATE",), ("REPLICATE", "some"), ("MAXVALUE", "-1"), ("COLOUR", "red")):
        error(client.send("KV.NS", "CREATE", "other", *wrong))


def test_a_namespace_has_keys_of_its_own(server: InProcessServer, client: Client) -> None:
    namespace = client.send("KV.NS", "CREATE", "mine")
    client.send("SET", "key", "database")
    assert client.send("KV.NS", "USE", "mine") == b"OK"
    assert client.send("GET", "key") is None
    client.send("SET", "key", "namespace")
    assert client.send("KEYS", "*") == [b"key"]
    assert client.send("SCAN", 0) == [b"0", [b"key"]]
    assert client.send("MOVE", "key", "5") == 1
    client.send("MULTI")
    client.send("INCR", "counter")
    assert client.send("EXEC") == [1]
    other = Client(server)
    assert other.send("GET", "key") == b"database"
    other.send("KV.NS", "USE", namespace)
    assert other.send("GET", "counter") == b"1"
    client.send("SELECT", 0)
    assert client.send("GET", "key") == b"database"


def test_who_uses_a_deleted_namespace_is_told_so(server: InProcessServer, client: Client) -> None:
    client.send("KV.NS", "CREATE", "gone")
    client.send("KV.NS", "USE", "gone")
    client.send("SET", "key", "v")
    Client(server).send("KV.NS", "DELETE", "gone")
    for request in (["GET", "key"], ["SET", "key", "v"], ["KEYS", "*"], ["SCAN", "0"], ["DEL", "key"]):
        assert "does not exist" in error(client.send(*request))
    assert client.send("SELECT", 0) == b"OK"
    assert client.send("GET", "key") is None


@pytest.mark.parametrize("title", [b"", b"x" * 600, b"\xff"])
def test_titles_are_bounded_text(client: Client, title: bytes) -> None:
    error(client.send("KV.NS", "CREATE", title))
    assert client.send("KV.NS", "LIST") == []
