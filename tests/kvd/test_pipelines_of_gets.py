"""A pipeline that is all GETs is answered together: as one after another would be, whatever its keys hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.session import TICK_OUTPUT_BYTES_MAX
from storage.errors import NoSpace
from tests.kvd.harness import Client, InProcessServer, encode, tick

_REPLIES = {
    "short": b"$5\r\nvalue\r\n",
    "empty": b"$0\r\n\r\n",
    "lasting": b"$1\r\nl\r\n",
    "at most": b"$1023\r\n" + b"m" * 1023 + b"\r\n",
    "long": b"$1024\r\n" + b"x" * 1024 + b"\r\n",
    "missing": b"$-1\r\n",
    "deleted": b"$-1\r\n",
    "expired": b"$-1\r\n",
}
_HITS = [key for key, reply in _REPLIES.items() if reply != b"$-1\r\n"]


@pytest.fixture
def server() -> InProcessServer:
    return _filled_server()


def _filled_server() -> InProcessServer:
    server = InProcessServer()
    client = Client(server)
    for key in ("short", "empty", "at most", "long"):
        client.send("SET", key, _REPLIES[key].split(b"\r\n")[1])
    client.send("SET", "lasting", "l", "EX", 100)
    client.send("SET", "expired", "e", "PX", 5)
    client.send("SET", "deleted", "d")
    client.send("DEL", "deleted")
    server.clock.advance(10)
    return server


@given(
    st.lists(
        st.sampled_from(sorted(_REPLIES)) | st.sampled_from(["short", "lasting"]), min_size=1, max_size=20
    ),
    st.sampled_from(["GET", "get", "gEt"]),
    st.lists(st.sampled_from(_HITS)),
)
def test_each_is_answered_and_counted(keys: list[str], command: str, cold: list[str]) -> None:
    server = _filled_server()
    client = Client(server)
    keyspace = client.session.keyspace
    for key in cold:
        keyspace.forget(key.encode())
    hits, misses = keyspace.hits, keyspace.misses
    assert client.raw(*(encode(command, key) for key in keys)) == b"".join(_REPLIES[key] for key in keys)
    assert keyspace.hits - hits == sum(key in _HITS for key in keys)
    assert keyspace.misses - misses == sum(key not in _HITS for key in keys)
    stats = server.table.specs[b"GET"].stats
    assert (stats.calls, stats.failed, stats.rejected) == (len(keys), 0, 0)
    assert sum(stats.histogram) == stats.timed
    assert client.session.last_command == "GET"


def test_what_stands_on_a_commit_that_fails_is_refused(server: InProcessServer) -> None:
    client, writer = Client(server), Client(server)
    server.engine.fail_next(NoSpace("memory"))
    tick(
        server, (writer.session, encode("SET", "short", "new")), (client.session, 3 * encode("GET", "short"))
    )
    answers = client.session.take_output()
    assert answers.count(b"-MISCONF") == 3
    assert b"new" not in answers
    assert client.raw(3 * encode("GET", "short")) == 3 * _REPLIES["short"]


def test_what_the_tick_has_written_is_read(server: InProcessServer) -> None:
    client, writer = Client(server), Client(server)
    tick(
        server, (writer.session, encode("SET", "short", "new")), (client.session, 3 * encode("GET", "short"))
    )
    assert client.session.take_output() == 3 * b"$3\r\nnew\r\n"


def test_requests_behind_large_replies_wait_for_the_next_tick(server: InProcessServer) -> None:
    client = Client(server)
    client.send("SET", "large", b"v" * (TICK_OUTPUT_BYTES_MAX // 2))
    reply = b"$%d\r\n%b\r\n" % (TICK_OUTPUT_BYTES_MAX // 2, b"v" * (TICK_OUTPUT_BYTES_MAX // 2))
    assert client.raw(5 * encode("GET", "large")) == 2 * reply
    client.session.run_backlog()
    assert client.session.take_output() == 2 * reply
    client.session.run_backlog()
    assert client.session.take_output() == reply


def test_a_monitor_sees_each_of_them(server: InProcessServer) -> None:
    client, monitor = Client(server), Client(server)
    monitor.send("MONITOR")
    client.raw(3 * encode("GET", "short"))
    assert monitor.session.take_output().count(b'"GET" "short"') == 3


def test_a_slow_pipeline_is_told_as_such(server: InProcessServer) -> None:
    client = Client(server)
    server.slowlog.threshold_ns = 1
    client.raw(3 * encode("GET", "short"))
    assert [b"GET", b"(3 calls, their average)"] in [entry[3] for entry in client.send("SLOWLOG", "GET", 10)]
