"""The binding protocol, row by row. `tests/compat/web` runs the real workerd against it."""

from __future__ import annotations

import json
from urllib.parse import quote

import attrs
import pytest

from kvd.settings import Settings
from tests.kvd.harness import Client
from tests.kvd.web.web_harness import Web, encode, parse


@pytest.fixture
def web() -> Web:
    return Web()


def path(key: str, more: str = "") -> str:
    return f"/{quote(key, safe='')}?urlencoded=true{more}"


# ---------------------------------------------------------------- get, put, delete


def test_put_get_delete(web: Web) -> None:
    assert web.put(path("k"), "value").status == 200
    answer = web.get(path("k"))
    assert (answer.status, answer.body) == (200, b"value")
    assert "content-encoding" not in answer.headers
    assert "cf-kv-metadata" not in answer.headers
    assert web.delete(path("k")).status == 200
    assert web.get(path("k")).status == 404


def test_missing_key_is_404_and_its_deletion_succeeds(web: Web) -> None:
    answer = web.get(path("nothing"))
    assert (answer.status, answer.reason) == (404, "Not Found")
    assert web.delete(path("nothing")).status == 200
    web.put(path("other"), "x")
    assert web.delete(path("nothing")).status == 200


def test_empty_value_is_a_value(web: Web) -> None:
    web.put(path("k"))
    answer = web.get(path("k"))
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


def test_chunked_value_and_all_bytes(web: Web) -> None:
    value = bytes(range(256)) * 50
    assert web.send("PUT", path("k"), value, chunked=True).status == 200
    assert web.get(path("k")).body == value


@pytest.mark.parametrize(
    "key",
    [
        "a/b",
        "bulk/get",
        "a b",
        "a+b",
        "a%2Fb",
        "%",
        "?",
        "#",
        "żółw🐢",
        "a\x00b",
        "\r\n",
        "..a",
        ".a",
        "//x",
        "../x",
        "k" * 512,
    ],
)
def test_every_key_comes_back(web: Web, key: str) -> None:
    assert web.put(path(key), key).status == 200
    assert web.get(path(key)).body == key.encode()
    (listed,) = web.get("/", x_kv_namespace="default").json["keys"]
    assert listed["name"] == key


def test_the_same_key_in_two_spellings(web: Web) -> None:
    web.put("/a:@&=b+c?urlencoded=true", "v")
    assert web.get("/a%3A%40%26%3Db%2Bc?urlencoded=true").body == b"v"
    assert web.delete("/a%3a%40%26%3db%2bc?urlencoded=true").status == 200
    assert web.get("/a:@&=b+c?urlencoded=true").status == 404


def test_without_urlencoded_the_key_is_taken_as_it_stands(web: Web) -> None:
    web.put("/a%20b", "v")
    assert web.get(path("a%20b")).body == b"v"
    assert web.get(path("a b")).status == 404


def test_absolute_target_is_taken_by_its_path(web: Web) -> None:
    web.put("http://fake-host/k?urlencoded=true", "v")
    assert web.get(path("k")).body == b"v"


def test_metadata_is_kept_byte_for_byte(web: Web) -> None:
    text = '{ "u" : "żółw 🐢", "b":1.0}'
    assert web.put(path("k"), "v", cf_kv_metadata=text).status == 200
    assert web.get(path("k")).headers["cf-kv-metadata"].encode("latin-1") == text.encode()


def test_metadata_of_redis_clients_with_line_breaks_stays_one_header(web: Web) -> None:
    web.put(path("k"), "v")
    redis = Client(web.server)
    redis.send("KV.NS", "USE", "default")
    assert redis.send("KV.PUT", "k", "v", "META", '{\r\n"a": 1}') == b"OK"
    assert json.loads(web.get(path("k")).headers["cf-kv-metadata"]) == {"a": 1}


def test_put_without_options_clears_expiration_and_metadata(web: Web) -> None:
    web.put(path("k", "&expiration_ttl=60"), "v", cf_kv_metadata="1")
    assert web.get(path("k")).headers["cf-expiration"] == str(web.now_seconds + 60)
    web.put(path("k"), "w")
    headers = web.get(path("k")).headers
    assert "cf-expiration" not in headers
    assert "cf-kv-metadata" not in headers


def test_expired_key_is_missing_from_its_second_on(web: Web) -> None:
    web.put(path("k", f"&expiration={web.now_seconds + 100}"), "v")
    web.server.clock.advance(99_999)
    assert web.get(path("k")).status == 200
    web.server.clock.advance(1)
    assert web.get(path("k")).status == 404
    assert web.post("/bulk/get", {"keys": ["k"]}).json == {"k": None}
    assert web.get("/", x_kv_namespace="default").json == {"keys": [], "list_complete": True}


def test_ttl_wins_over_expiration(web: Web) -> None:
    web.put(path("k", "&expiration=1&expiration_ttl=90"), "v")
    assert web.get(path("k")).headers["cf-expiration"] == str(web.now_seconds + 90)


def test_head_is_get_without_body(web: Web) -> None:
    web.put(path("k"), "value")
    answer = web.send("HEAD", path("k"))
    assert (answer.status, answer.headers["content-length"]) == (200, "5")


def test_large_value_and_one_byte_more(web: Web) -> None:
    limit = 26_214_400
    assert web.put(path("k"), b"x" * limit).status == 200
    assert len(web.get(path("k")).body) == limit
    answer = web.put(path("k"), b"x" * (limit + 1))
    assert (answer.status, answer.reason) == (413, f"Value length of {limit + 1} exceeds limit of {limit}.")
    assert web.get(path("k")).status == 200, "the connection goes on after the refused body"


# ---------------------------------------------------------------- errors, in the reason phrase


@pytest.mark.parametrize(
    ("method", "target", "status", "reason"),
    [
        ("PUT", "/?urlencoded=true", 400, "Key names must not be empty"),
        ("GET", "/.?urlencoded=true", 400, 'Illegal key name ".". Please use a different name.'),
        ("PUT", "/%2e%2e?urlencoded=true", 400, 'Illegal key name "..". Please use a different name.'),
        ("GET", f"/{'k' * 513}?urlencoded=true", 414, "UTF-8 encoded length of 513 exceeds key length limit of 512."),
        ("GET", "/%ED%A0%80?urlencoded=true", 400, "Could not URL-decode key name"),
        ("GET", "/%zz?urlencoded=true", 400, "Could not URL-decode key name"),
        ("GET", "/k?urlencoded=true&cache_ttl=29", 400, "Invalid cache_ttl of 29. Cache TTL must be at least 30."),
        ("PUT", "/k?urlencoded=true&expiration_ttl=x", 400, "Invalid expiration_ttl of x. Please specify integer greater than 0."),
        ("PUT", "/k?urlencoded=true&expiration_ttl=0", 400, "Invalid expiration_ttl of 0. Please specify integer greater than 0."),
        ("PUT", "/k?urlencoded=true&expiration_ttl=-5", 400, "Invalid expiration_ttl of -5. Please specify integer greater than 0."),
        ("PUT", "/k?urlencoded=true&expiration_ttl=59", 400, "Invalid expiration_ttl of 59. Expiration TTL must be at least 60."),
        ("PUT", "/k?urlencoded=true&expiration=1", 400, "Invalid expiration of 1. Please specify integer greater than the current number of seconds since the UNIX epoch."),
        ("PUT", "/k?urlencoded=true&expiration=1700000059", 400, "Invalid expiration of 1700000059. Expiration times must be at least 60 seconds in the future."),
        ("GET", "/?key_count_limit=0&urlencoded=true", 400, "Invalid key_count_limit of 0. Please specify an integer greater than 0."),
        ("GET", "/?key_count_limit=1001&urlencoded=true", 400, "Invalid key_count_limit of 1001. Please specify an integer less than 1000."),
        ("GET", f"/?prefix={'p' * 513}&urlencoded=true", 414, "UTF-8 encoded length of 513 exceeds key length limit of 512."),
        ("PATCH", "/k?urlencoded=true", 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_refusal(web: Web, method: str, target: str, status: int, reason: str) -> None:
    answer = web.send(method, target, b"v" if method in {"PUT", "PATCH"} else None)
    assert (answer.status, answer.reason) == (status, reason)
    assert answer.body.decode() == reason


def test_numbers_are_read_as_parse_int_does(web: Web) -> None:
    assert web.put(path("k", "&expiration_ttl=60.9"), "v").status == 200
    assert web.get(path("k")).headers["cf-expiration"] == str(web.now_seconds + 60)


def test_metadata_too_long_and_no_json(web: Web) -> None:
    text = json.dumps("x" * 1023)
    answer = web.put(path("k"), "v", cf_kv_metadata=text)
    assert (answer.status, answer.reason) == (413, "Metadata length of 1025 exceeds limit of 1024.")
    assert web.put(path("k"), "v", cf_kv_metadata=json.dumps("x" * 1022)).status == 200
    for text in ("{", "[-1e999]", '{"a":' * 100 + "1" + "}" * 100):
        assert web.put(path("k"), "v", cf_kv_metadata=text).status == 400


def test_reason_is_ascii_whatever_the_client_says(web: Web) -> None:
    answer = web.put("/k?urlencoded=true&expiration_ttl=%C5%BC%0d%0aX", "v")
    assert (answer.status, answer.reason) == (
        400,
        "Invalid expiration_ttl of ???X. Please specify integer greater than 0.",
    )


# ---------------------------------------------------------------- namespaces


def test_namespace_by_id_and_by_title(web: Web) -> None:
    namespace = web.create("sessions")
    web.put(path("k"), "v", x_kv_namespace=namespace)
    assert web.get(path("k"), x_kv_namespace="sessions").body == b"v"
    assert web.get(path("k")).status == 404, "the default is another"


def test_unknown_namespace_is_400_never_404(web: Web) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = web.send(method, path("k"), headers={"X-KV-Namespace": "nothing"})
        assert (answer.status, answer.reason) == (400, "namespace not found")


def test_default_namespace_is_made_by_the_first_write(web: Web) -> None:
    assert web.get(path("k")).status == 404
    assert web.get("/?urlencoded=true").json == {"keys": [], "list_complete": True}
    assert web.server.store.keyspaces.all() == []
    web.put(path("k"), "v")
    assert [one.title for one in web.server.store.keyspaces.all()] == ["default"]


def test_values_are_the_same_for_redis_clients(web: Web) -> None:
    namespace = web.create("shared")
    redis = Client(web.server)
    redis.send("KV.NS", "USE", "shared")
    redis.send("SET", "k", "from redis", "EX", "100")
    answer = web.get(path("k"), x_kv_namespace=namespace)
    assert (answer.body, answer.headers["cf-expiration"]) == (b"from redis", str(web.now_seconds + 100))
    web.put(path("k"), "from http", x_kv_namespace=namespace, cf_kv_metadata='{"a":1}')
    assert redis.send("KV.GET", "k") == [b"from http", b'{"a":1}']
    assert namespace.encode() in redis.send("KV.NS", "LIST")[0]


# ---------------------------------------------------------------- list


def listed(web: Web, query: str = "") -> tuple[list[str], str | None]:
    found = web.get(f"/?{query}", CF_KV_FLPROD_405="https://fake-host/").json
    assert ("cursor" in found) == (not found["list_complete"])
    return [key["name"] for key in found["keys"]], found.get("cursor")


def test_list_is_sorted_by_utf8_bytes(web: Web) -> None:
    names = ["🐢", "\uff5e", "b", "a", "A", "é", "e\u0301"]
    for name in names:
        web.put(path(name), "v")
    assert listed(web)[0] == sorted(names, key=str.encode)


def test_list_pages(web: Web) -> None:
    for number in range(25):
        web.put(path(f"k{number:02}"), "v")
    web.put(path("other"), "v")
    first, cursor = listed(web, "key_count_limit=10&prefix=k")
    assert len(first) == 10
    web.put(path("k005"), "added behind the cursor")
    web.delete(path(first[-1]))
    second, cursor2 = listed(web, f"key_count_limit=10&prefix=k&cursor={cursor}")
    third, end = listed(web, f"key_count_limit=10&prefix=k&cursor={cursor2}")
    assert second[0] == "k10"
    assert len(third) == 5
    assert end is None
    assert listed(web, f"key_count_limit=10&prefix=k&cursor={cursor}")[0] == second


def test_page_that_ends_exactly_is_complete(web: Web) -> None:
    for number in range(10):
        web.put(path(f"k{number}"), "v")
    assert listed(web, "key_count_limit=10") == ([f"k{number}" for number in range(10)], None)


def test_prefix_is_a_plain_string(web: Web) -> None:
    for name in ("a%b", "a*b", "a?b", "a[b", "a\\b", "a_b", "axb"):
        web.put(path(name), "v")
    for prefix in ("a%", "a*", "a?", "a[", "a\\", "a_"):
        assert listed(web, f"prefix={quote(prefix)}")[0] == [prefix + "b"]
    assert listed(web, "prefix=axb")[0] == ["axb"]
    assert len(listed(web, "prefix=&cursor=")[0]) == 7


def test_plus_in_a_query_is_a_blank(web: Web) -> None:
    web.put(path("a b"), "v")
    assert listed(web, "prefix=a+b")[0] == ["a b"]
    assert listed(web, "prefix=a%2Bb")[0] == []


def test_metadata_in_a_list_is_a_string_with_json(web: Web) -> None:
    web.put(path("a", "&expiration_ttl=100"), "v", cf_kv_metadata='"abc"')
    web.put(path("b"), "v")
    found = web.get("/?urlencoded=true").json["keys"]
    assert found == [
        {"name": "a", "expiration": web.now_seconds + 100, "metadata": '"abc"'},
        {"name": "b"},
    ]


@pytest.mark.parametrize("cursor", ["!", "AAAA", "%00", "żółw", "x" * 2000])
def test_garbage_cursor_is_400_or_a_page(web: Web, cursor: str) -> None:
    assert web.get(f"/?urlencoded=true&cursor={quote(cursor)}").status in {200, 400}


# ---------------------------------------------------------------- bulk get


def test_bulk_get(web: Web) -> None:
    web.put(path("a"), b"te\xffxt", cf_kv_metadata='{"m": 1}')
    web.put(path("0"), '{"x":[1,2]}')
    keys = ["a", "0", "missing", "a"]
    assert web.post("/bulk/get", {"keys": keys}).json == {
        "a": "te\ufffdxt",
        "0": '{"x":[1,2]}',
        "missing": None,
    }
    found = web.post("/bulk/get", {"keys": keys, "type": "text", "withMetadata": True, "cacheTtl": "60"}).json
    assert found["a"] == {"value": "te\ufffdxt", "metadata": {"m": 1}}
    assert found["0"] == {"value": '{"x":[1,2]}', "metadata": None}
    assert found["missing"] is None
    assert web.post("/bulk/get", {"keys": ["0"], "type": "json"}).json == {"0": {"x": [1, 2]}}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"keys": ["a"], "type": "stream"}, 400, '"stream" is not a valid type. Use "json" or "text"'),
        ({"keys": [f"k{n}" for n in range(101)]}, 400, "You can request a maximum of 100 keys"),
        ({"keys": []}, 400, "You must request a minimum of 1 key"),
        ({"keys": ["a"], "type": "json"}, 400, "At least one of the requested keys corresponds to a non-json value"),
        ({"keys": [""]}, 400, "Key names must not be empty"),
        ({"keys": ["big1", "big2"]}, 413, "Total size of request exceeds the limit of 25MB"),
        ({"keys": [7]}, 400, "a key is not a string"),
        ({}, 400, "the body has no list of keys"),
    ],
)  # fmt: skip
def test_bulk_get_refusal(web: Web, body: object, status: int, reason: str) -> None:
    web.put(path("a"), "not json")
    web.put(path("big1"), b"x" * (14 << 20))
    web.put(path("big2"), b"x" * (14 << 20))
    answer = web.post("/bulk/get", body)
    assert (answer.status, answer.reason) == (status, reason)


def test_a_key_called_bulk_get_is_a_key(web: Web) -> None:
    web.put("/bulk%2Fget?urlencoded=true", "v")
    assert web.get("/bulk%2Fget?urlencoded=true").body == b"v"


# ---------------------------------------------------------------- extensions


def test_compare_and_set_by_etag(web: Web) -> None:
    tag = web.put(path("k"), "1", if_none_match="*").headers["etag"]
    assert web.get(path("k")).headers["etag"] == tag
    existing = web.put(path("k"), "x", if_none_match="*")
    assert (existing.status, existing.reason) == (412, "the key is there already")
    second = web.put(path("k"), "2", if_match=tag)
    assert second.status == 200
    refused = web.put(path("k"), "3", if_match=tag)
    assert (refused.status, refused.headers["etag"]) == (412, second.headers["etag"])
    assert refused.reason == "the key has another ETag"
    assert web.delete(path("k"), if_match=tag).status == 412
    assert web.get(path("k")).body == b"2"
    assert web.delete(path("k"), if_match=f'"other", {second.headers["etag"]}').status == 200
    missing = web.put(path("k"), "4", if_match="*")
    assert (missing.status, missing.reason) == (412, "there is no such key")


def test_conditional_get(web: Web) -> None:
    tag = web.put(path("k"), "v").headers["etag"]
    answer = web.get(path("k"), if_none_match=tag)
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    web.put(path("k"), "w")
    assert web.get(path("k"), if_none_match=tag).body == b"w"


def test_short_ttl_by_setting() -> None:
    settings = attrs.evolve(Settings(), http=attrs.evolve(Settings().http, min_ttl_seconds=5))
    web = Web(settings)
    assert web.put(path("k", "&expiration_ttl=5"), "v").status == 200
    answer = web.put(path("k", "&expiration_ttl=4"), "v")
    assert answer.reason == "Invalid expiration_ttl of 4. Expiration TTL must be at least 5."


# ---------------------------------------------------------------- answers that are kept


def test_hot_read_sees_every_change(web: Web) -> None:
    web.put(path("k"), "0")
    for number in range(50):
        assert [web.get(path("k")).body for _ in range(4)] == [str(number).encode()] * 4
        web.put(path("k", "&expiration_ttl=60"), str(number + 1))
    web.server.clock.advance(60_000)
    assert [web.get(path("k")).status for _ in range(3)] == [404] * 3


def test_a_body_that_reads_like_a_hot_request_is_a_body(web: Web) -> None:
    web.put(path("k"), "hello")
    read = encode("GET", path("k"))
    for _ in range(4):
        assert parse(web.raw(read))[0].body == b"hello"
    write = encode("PUT", path("l"), read)
    head = write[: -len(read)]
    assert [answer.body for answer in parse(web.raw(read + head))] == [b"hello"]
    assert parse(web.raw(read))[0].status == 200
    assert web.get(path("l")).body == read
    assert web.get(path("k")).body == b"hello"


def test_hot_read_sees_deletion_renaming_and_passing_seconds(web: Web) -> None:
    namespace = web.create("one")
    web.put(path("k"), "v", x_kv_namespace="one")
    for _ in range(4):
        assert web.get(path("k"), x_kv_namespace="one").body == b"v"
    assert web.front.traffic.known > 0
    web.server.store.keyspaces.rename(bytes.fromhex(namespace), "two")
    assert web.get(path("k"), x_kv_namespace="one").status == 400
    for _ in range(4):
        assert web.get(path("k"), x_kv_namespace="two").body == b"v"
    before = web.get(path("k"), x_kv_namespace="two").headers["date"]
    web.server.clock.advance(1000)
    assert web.get(path("k"), x_kv_namespace="two").headers["date"] != before
    for _ in range(4):
        web.get(path("k"), x_kv_namespace="two")
    web.server.store.keyspaces.delete(bytes.fromhex(namespace))
    assert web.get(path("k"), x_kv_namespace="two").status == 400
