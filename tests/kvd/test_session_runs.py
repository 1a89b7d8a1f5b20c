"""Runs of plain commands in a pipeline: every call is counted once, whatever stands beside it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvd.session import Session
from tests.kvd.harness import Client, InProcessServer, encode

_REQUESTS = {
    "GET": (encode("GET", "k"), b"$1\r\nv\r\n"),
    "SET": (encode("SET", "k", "v"), b"+OK\r\n"),
    "SET with an expiry": (encode("SET", "k", "v", "EX", "100"), b"+OK\r\n"),
    "MSET of one": (encode("MSET", "k", "v"), b"+OK\r\n"),
    "MSET of two": (encode("MSET", "k", "v", "l", "w"), b"+OK\r\n"),
    "too few arguments": (encode("GET"), b"-ERR wrong number of arguments for 'get' command\r\n"),
    "no such option": (encode("SET", "k", "v", "XY"), b"-ERR syntax error\r\n"),
    "general": (encode("PING"), b"+PONG\r\n"),
}


@given(st.lists(st.sampled_from(sorted(_REQUESTS)), max_size=12))
def test_a_pipeline_is_answered_and_counted_request_by_request(names: list[str]) -> None:
    server = InProcessServer()
    client = Client(server)
    client.send("SET", "k", "v")
    server.table.specs[b"SET"].stats.reset()
    assert client.raw(*(_REQUESTS[name][0] for name in names)) == b"".join(
        _REQUESTS[name][1] for name in names
    )
    stats = {command: server.table.specs[command].stats for command in (b"GET", b"SET", b"MSET", b"PING")}
    assert {command: entry.calls for command, entry in stats.items()} == {
        b"GET": names.count("GET"),
        b"SET": sum(name.startswith("SET") or name == "no such option" for name in names),
        b"MSET": sum(name.startswith("MSET") for name in names),
        b"PING": names.count("general"),
    }
    assert stats[b"GET"].rejected == names.count("too few arguments")
    assert stats[b"SET"].failed == names.count("no such option")
    for entry in stats.values():
        assert sum(entry.histogram) == entry.timed


def test_a_session_keeps_its_attributes_in_itself() -> None:
    """A dict beside the object would cost each look-up of the hot path a second one."""
    server = InProcessServer()
    assert not hasattr(Session(server, Client(server).session.endpoint), "__dict__")
