"""Lists of keys: the same in slices as in one go, with turns for others between them."""

from __future__ import annotations

from typing import Any

import pytest

from kvd.commands import walks
from kvd.commands.kv import decode_cursor
from kvd.web import jobs
from kvd.web.listing import ROWS_MAX
from kvd.web.session import HttpSession
from storage.store import Keyspace
from tests.kvd.groups import SETTINGS
from tests.kvd.web.web_harness import BASE, Answer, Web, encode, parse

LISTS = (
    "/?urlencoded=true",
    BASE + "/{id}/keys?",
    BASE + "/{id}/keys?metadata.kind=a",
    "/api/namespaces/{id}/keys?limit=1000",
    "/api/namespaces/{id}/search?limit=1000&text=9",
)


@pytest.fixture
def web() -> Web:
    web = Web(SETTINGS)
    web.server.store.keyspaces.create("one", group=7)
    web.server.store.commit()
    return web


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every slice be as short as can be."""
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)


def fill(web: Web, *names: str, expires_in_ms: int | None = None) -> None:
    keyspace = web.keyspace("one")
    expiry = () if expires_in_ms is None else (web.server.clock.now_ms + expires_in_ms,)
    for name in names:
        keyspace.put(name.encode(), b"v", *expiry)
    web.server.store.commit()


def delete(web: Web, *names: str) -> None:
    for name in names:
        web.keyspace("one").delete(name.encode())
    web.server.store.commit()


def bury(web: Web, count: int) -> None:
    """Make a region of rows that nobody is shown: marks of deletion, and a fourth of it expired."""
    names = [f"{number:05}" for number in range(count)]
    fill(web, *names, expires_in_ms=1)
    delete(web, *names[: -count // 4])
    web.server.clock.advance(1)


def request_of(web: Web, target: str) -> bytes:
    headers: dict[str, str | bytes] = {"X-KV-Namespace": "one"} if target.startswith("/?") else {}
    return encode("GET", target.replace("{id}", web.keyspace("one").id.hex()), headers=headers)


def page_of(answer: Answer) -> tuple[list[str], str]:
    """Return the names on a page, of whichever interface, and the cursor."""
    found: dict[str, Any] = answer.json
    if "keys" in found:
        assert found["list_complete"] == ("cursor" not in found)
        return [row["name"] for row in found["keys"]], found.get("cursor", "")
    assert found["result_info"]["count"] == len(found["result"])
    return [row["name"] for row in found["result"]], found["result_info"]["cursor"]


def ticks_until_answered(web: Web, session: HttpSession) -> int:
    """Serve another client in each tick of a list's, and return how many there were."""
    other = web.connect()
    ticks = 0
    while not session.out:
        assert session.backlog
        assert not session.suspended
        name = f"/other{ticks}?urlencoded=true"
        (answer,) = parse(web.raw(encode("PUT", name, b"v", {"X-KV-Namespace": "two"}), other))
        assert answer.status == 200
        web.server.store.begin(web.server.clock.now_ms)
        session.run_backlog()
        ticks += 1
    return ticks


@pytest.mark.usefixtures("sliced")
@pytest.mark.parametrize("target", LISTS)
def test_a_list_passes_over_what_is_deleted_with_turns_for_others(web: Web, target: str) -> None:
    web.create("two")
    bury(web, 2000)
    web.put("/last9?urlencoded=true", "v", x_kv_namespace="one", cf_kv_metadata='{"kind":"a"}')
    session = web.connect()
    assert web._tick(session, request_of(web, target) + encode("GET", "/livez")) == b""
    assert ticks_until_answered(web, session) > 2000 // 100
    listed, live = parse(web.raw(b"", session))
    assert page_of(listed) == (["last9"], "")
    assert live.body == b"ok\n", "what came behind it is answered behind it"


@pytest.mark.parametrize("target", LISTS)
def test_a_list_is_the_same_in_slices(web: Web, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(web, *(f"{number:05}" for number in range(300)))
    for number in range(900, 2000):
        web.keyspace("one").put(b"%05d" % number, b"v", metadata=b'{"kind":"a","text":"9"}')
    delete(web, *(f"{number:05}" for number in range(0, 2000, 3)))
    (in_one_go,) = parse(web.raw(request_of(web, target)))
    monkeypatch.setattr(walks, "SLICE_NANOSECONDS", 0)
    session = web.connect()
    assert web._tick(session, request_of(web, target)) == b""
    (in_slices,) = parse(web.raw(b"", session))
    assert in_slices == in_one_go
    assert len(page_of(in_slices)[0]) > 600


@pytest.mark.usefixtures("sliced")
@pytest.mark.parametrize("limit", [1, 2, 30, 31, 32, 33, 63, 99, 100, 101])
def test_pages_together_are_all_keys_once(web: Web, limit: int) -> None:
    fill(web, *(f"{number:05}" for number in range(200)))
    delete(web, *(f"{number:05}" for number in range(200) if 40 < number < 120 or number % 4 == 0))
    expected = [f"{number:05}" for number in range(200) if not (40 < number < 120 or number % 4 == 0)]
    names: list[str] = []
    cursor = ""
    while True:
        page, cursor = page_of(web.get(f"/?key_count_limit={limit}&cursor={cursor}", x_kv_namespace="one"))
        names += page
        if not cursor:
            break
        assert len(page) == limit
    assert names == expected


@pytest.mark.parametrize("target", LISTS)
def test_a_page_ends_when_so_many_rows_were_looked_at(web: Web, target: str) -> None:
    bury(web, ROWS_MAX + 500)
    web.put("/last9?urlencoded=true", "v", x_kv_namespace="one", cf_kv_metadata='{"kind":"a"}')
    (answer,) = parse(web.raw(request_of(web, target)))
    names, cursor = page_of(answer)
    assert (names, decode_cursor(cursor.encode())) == ([], b"%05d" % (ROWS_MAX - 1))
    (answer,) = parse(web.raw(request_of(web, f"{target}&cursor={cursor}")))
    assert page_of(answer) == (["last9"], "")


@pytest.mark.usefixtures("sliced")
def test_a_head_of_a_list_has_no_body(web: Web) -> None:
    fill(web, *(f"{number:05}" for number in range(100)))
    target = f"{BASE}/{web.keyspace('one').id.hex()}/keys"
    size = web.get(target).headers["content-length"]
    answer = web.send("HEAD", target)
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, size, b"")


# ---------------------------------------------------------------- what happens between two slices


def begin_list(web: Web) -> tuple[HttpSession, Keyspace]:
    fill(web, *(f"{number:05}" for number in range(500)))
    session = web.connect()
    assert web._tick(session, request_of(web, LISTS[1])) == b""
    return session, web.keyspace("one")


@pytest.mark.usefixtures("sliced")
def test_what_is_written_behind_the_place_is_in_the_list(web: Web) -> None:
    session, keyspace = begin_list(web)
    keyspace.put(b"00000", b"v")
    keyspace.put(b"zz", b"v")
    keyspace.delete(b"00400")
    (answer,) = parse(web.raw(b"", session))
    expected = [f"{number:05}" for number in range(500) if number != 400]
    assert page_of(answer) == ([*expected, "zz"], "")


@pytest.mark.usefixtures("sliced")
def test_a_list_ends_with_its_namespace(web: Web) -> None:
    session, keyspace = begin_list(web)
    web.server.store.keyspaces.delete(keyspace.id)
    (answer,) = parse(web.raw(b"", session))
    assert (answer.status, answer.error[0]) == (400, 10013)


@pytest.mark.usefixtures("sliced")
def test_a_list_of_what_is_not_all_here_any_more_is_no_list(web: Web) -> None:
    session, _ = begin_list(web)
    web.server.close_groups({7: "this node catches up"})
    (answer,) = parse(web.raw(b"", session))
    assert answer.status == 503


def test_an_export_of_what_is_not_all_here_any_more_breaks_off(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SLICE_NANOSECONDS", 0)
    fill(web, *(f"{number:05}" for number in range(500)))
    session = web.connect()
    web._tick(session, request_of(web, "/kvd/v1/namespaces/{id}/export"))
    assert web._tick(session, None)
    web.server.close_groups({7: "this node catches up"})
    assert b"complete" not in web.raw(b"", session)
    assert session.closing


@pytest.mark.usefixtures("sliced")
def test_a_list_ends_when_its_client_has_gone(web: Web) -> None:
    session, _ = begin_list(web)
    job = session.job
    assert job is not None
    session.end()
    assert session.job is None
    assert next(job.steps, None) is None
