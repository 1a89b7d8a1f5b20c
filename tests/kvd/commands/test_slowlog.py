"""SLOWLOG: what is kept, how it is shortened, what stays secret."""

from __future__ import annotations

import itertools
import time

import pytest

from kvd.redaction import redacted
from kvd.settings import Settings
from kvd.slowlog import ARGUMENT_BYTES_MAX, ARGUMENTS_MAX
from tests.kvd.harness import START_MS, Client, InProcessServer, encode


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer(Settings().replaced({"log.slowlog_log_slower_than_us": 0}))


@pytest.fixture
def client(server: InProcessServer) -> Client:
    return Client(server, "10.0.0.1:5000")


def test_an_entry_says_what_when_how_long_and_who(client: Client) -> None:
    client.send("CLIENT", "SETNAME", "worker")
    client.send("SET", "key", "value")
    newest = client.send("SLOWLOG", "GET", 1)[0]
    number, at_seconds, microseconds, arguments, address, name = newest
    assert (number, at_seconds) == (1, START_MS // 1000)
    assert 0 <= microseconds < 1_000_000
    assert arguments == [b"SET", b"key", b"value"]
    assert (address, name) == (b"10.0.0.1:5000", b"worker")


def test_commands_of_a_pipeline_have_entries_of_their_own(client: Client) -> None:
    client.raw(encode("SET", "a", 1), encode("SET", "b", 2))
    entries = client.send("SLOWLOG", "GET")
    assert [entry[3] for entry in entries] == [[b"SET", b"b", b"2"], [b"SET", b"a", b"1"]]


def test_faster_commands_are_not_kept(client: Client) -> None:
    client.send("CONFIG", "SET", "slowlog-log-slower-than", 60_000_000)
    client.send("SLOWLOG", "RESET")
    client.send("GET", "key")
    assert client.send("SLOWLOG", "LEN") == 0


def test_a_negative_threshold_keeps_nothing(client: Client) -> None:
    client.send("CONFIG", "SET", "slowlog-log-slower-than", -1)
    client.send("SLOWLOG", "RESET")
    client.send("DEBUG", "SLEEP", "0.001")
    assert client.send("SLOWLOG", "LEN") == 0


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [b"GET", b"0"]), (3, [b"GET", b"(3 calls, their average)"])]
)
def test_a_run_of_plain_commands_is_kept_by_its_average(
    monkeypatch: pytest.MonkeyPatch, count: int, shown: list[bytes]
) -> None:
    client = Client(InProcessServer(Settings().replaced({"log.slowlog_log_slower_than_us": 5_000})))
    readings = itertools.count(0, 8_000_000 * count)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(readings))
    client.raw(*[encode("GET", number) for number in range(count)])
    assert client.send("SLOWLOG", "GET")[-1][2:4] == [8_000, shown]


def test_the_oldest_entries_make_room(client: Client) -> None:
    client.send("CONFIG", "SET", "slowlog-max-len", 3)
    for number in range(10):
        client.send("ECHO", number)
    entries = client.send("SLOWLOG", "GET", -1)
    assert [entry[3][1] for entry in entries] == [b"9", b"8", b"7"]
    client.send("CONFIG", "SET", "slowlog-max-len", 1)
    assert client.send("SLOWLOG", "LEN") == 1


def test_ten_entries_are_shown_by_default(client: Client) -> None:
    for _ in range(12):
        client.send("PING")
    assert len(client.send("SLOWLOG", "GET")) == 10
    assert len(client.send("SLOWLOG", "GET", 5)) == 5
    assert len(client.send("SLOWLOG", "GET", 0)) == 0
    assert len(client.send("SLOWLOG", "GET", -1)) == 15


def test_numbers_go_on_after_a_reset(client: Client) -> None:
    client.send("PING")
    client.send("SLOWLOG", "RESET")
    client.send("PING")
    assert client.send("SLOWLOG", "GET")[0][0] == 2


def test_long_requests_are_shortened(client: Client) -> None:
    client.send("DEL", *[f"key:{number}" for number in range(100)])
    arguments = client.send("SLOWLOG", "GET", 1)[0][3]
    assert len(arguments) == ARGUMENTS_MAX
    assert arguments[-1] == b"... (70 more arguments)"
    client.send("SET", "key", "x" * 200)
    arguments = client.send("SLOWLOG", "GET", 1)[0][3]
    assert arguments[2] == b"x" * ARGUMENT_BYTES_MAX + b"... (72 more bytes)"


def test_exec_is_not_kept_but_what_it_runs_is(client: Client) -> None:
    client.raw(encode("MULTI"), encode("GET", "key"), encode("EXEC"))
    kept = [entry[3][0] for entry in client.send("SLOWLOG", "GET")]
    assert kept == [b"GET", b"MULTI"]


@pytest.mark.parametrize(
    ("request_", "shown"),
    [
        (["auth", "pw"], ["auth", "(redacted)"]),
        (["AUTH", "user", "pw"], ["AUTH", "(redacted)", "(redacted)"]),
        (
            ["HELLO", "3", "auth", "user", "pw", "SETNAME", "x"],
            ["HELLO", "3", "auth", "(redacted)", "(redacted)", "SETNAME", "x"],
        ),
        (["HELLO", "3"], ["HELLO", "3"]),
        (["ACL", "setuser", "joe", ">pw"], ["ACL", "setuser", "(redacted)", "(redacted)"]),
        (["ACL", "WHOAMI"], ["ACL", "WHOAMI"]),
        (
            ["CONFIG", "SET", "timeout", "1", "RequirePass", "pw"],
            ["CONFIG", "SET", "timeout", "1", "RequirePass", "(redacted)"],
        ),
        (
            ["CONFIG", "SET", "security.requirepass", "pw"],
            ["CONFIG", "SET", "security.requirepass", "(redacted)"],
        ),
        (["SET", "auth", "pw"], ["SET", "auth", "pw"]),
    ],
)
def test_secrets_are_replaced(request_: list[str], shown: list[str]) -> None:
    result = redacted([word.encode() for word in request_])
    assert [word.decode() for word in result] == shown
