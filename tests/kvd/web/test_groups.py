"""HTTP and groups of namespaces: what is not here is said to be elsewhere, what is not all here to come later."""

from __future__ import annotations

import pytest

from kvd.pause import Pause, end_pause
from tests.kvd.groups import NOT_CARRIED, SETTINGS, hear_of
from tests.kvd.web.web_harness import BASE, Answer, Web, encode, parse

WHY = "this node has begun to carry group 7 and catches up"


@pytest.fixture
def web() -> Web:
    return Web(SETTINGS)


@pytest.fixture
def elsewhere(web: Web) -> str:
    """The id of a namespace that is not carried."""
    return hear_of(web.server, "theirs", 9).hex()


@pytest.fixture
def here(web: Web) -> str:
    """The id of a namespace that is, with a key."""
    store = web.server.store
    keyspace = store.keyspaces.create("ours", group=7)
    keyspace.put(b"k", b"v")
    store.commit()
    return keyspace.id.hex()


READS = ("/values/k", "/metadata/k", "/keys")


@pytest.mark.parametrize("path", READS)
def test_reading_what_is_elsewhere_is_misdirected(web: Web, elsewhere: str, path: str) -> None:
    answer = web.get(f"{BASE}/{elsewhere}{path}")
    assert answer.status == 421
    assert answer.error[0] == 10052
    assert NOT_CARRIED in answer.error[1]


def test_so_is_writing(web: Web, elsewhere: str) -> None:
    assert web.put(f"{BASE}/{elsewhere}/values/k", b"v").status == 421
    assert web.delete(f"{BASE}/{elsewhere}/values/k").status == 421
    assert web.delete(f"{BASE}/{elsewhere}").status == 421
    assert web.get(f"{BASE}/{elsewhere}").result["title"] == "theirs"
    assert web.delete(f"/kvd/v1/namespaces/{elsewhere}/keys?all=true").status == 421


def test_a_worker_is_told_in_the_reason(web: Web, elsewhere: str) -> None:
    answer = web.get("/k?urlencoded=true", x_kv_namespace=elsewhere)
    assert answer.status == 421
    assert NOT_CARRIED in answer.reason


@pytest.mark.parametrize("path", READS)
def test_what_is_carried_is_read_once_it_is_all_here(web: Web, here: str, path: str) -> None:
    web.server.close_groups({7: WHY})
    answer = web.get(f"{BASE}/{here}{path}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert WHY in answer.error[1]
    assert web.put(f"{BASE}/{here}/values/k", b"w").status == 503
    assert web.delete(f"{BASE}/{here}").status == 503
    web.server.close_groups({})
    assert web.get(f"{BASE}/{here}/values/k").body == b"v"


def test_what_closes_while_a_body_is_on_its_way_is_not_written(web: Web, here: str) -> None:
    request = encode("PUT", f"{BASE}/{here}/values/k", b"new")
    assert web.raw(request[:-1]) == b""
    web.server.close_groups({7: WHY})
    (answer,) = parse(web.raw(request[-1:]))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    web.server.close_groups({})
    assert web.get(f"{BASE}/{here}/values/k").body == b"v"


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_closes_during_a_pause_is_not_written(web: Web, here: str, method: str) -> None:
    web.server.pause = Pause(web.server.clock.now_ms + 60_000, writes_only=True)
    assert web.raw(encode(method, f"{BASE}/{here}/values/k", b"new" if method == "PUT" else None)) == b""
    web.server.close_groups({7: WHY})
    end_pause(web.server)
    (answer,) = parse(web._tick(web.session, None))
    assert answer.status == 503
    web.server.close_groups({})
    assert web.get(f"{BASE}/{here}/values/k").body == b"v"


def test_an_answer_that_is_kept_is_not_given_from_what_is_not_all_here(web: Web, here: str) -> None:
    def get() -> Answer:
        return web.get("/k?urlencoded=true", x_kv_namespace=here)

    assert [get().body for _ in range(4)] == [b"v"] * 4
    assert web.front.traffic.known  # the last of them by an answer that was kept
    web.server.close_groups({7: WHY})
    assert get().status == 503


def test_the_dashboard_lists_what_is_elsewhere_and_says_so(web: Web, elsewhere: str, here: str) -> None:
    rows = {row["title"]: row for row in web.get("/api/namespaces").result}
    assert (rows["theirs"]["group"], rows["theirs"]["is_carried"], rows["theirs"]["keys"]) == (9, False, 0)
    assert (rows["ours"]["group"], rows["ours"]["is_carried"], rows["ours"]["keys"]) == (7, True, 1)
    assert web.get("/api/figures").status == 200
    assert web.get("/metrics").status == 200
    assert web.get(f"/api/namespaces/{elsewhere}/keys").status == 421
    assert web.get(f"/api/namespaces/{elsewhere}/keys/k").status == 421
    assert web.get(f"/api/namespaces/{elsewhere}").result["title"] == "theirs"
