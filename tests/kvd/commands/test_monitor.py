"""MONITOR: which commands are shown, in which order, and how they are written."""

from __future__ import annotations

import re

import pytest

from kvd.monitor_feed import quoted
from tests.kvd.harness import Client, InProcessServer, encode, error

LINE = re.compile(r"\+(\d{10}\.\d{6}) \[(\d+) (.*?)\] (.*)")


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def monitor(server: InProcessServer) -> Client:
    monitor = Client(server)
    assert monitor.send("MONITOR") == b"OK"
    return monitor


def seen(monitor: Client) -> list[tuple[str, str, str]]:
    """Return (database, client, command) of each line that the monitor got."""
    lines = monitor.session.take_output().decode("ascii").split("\r\n")[:-1]
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), lines
    return [(match[2], match[3], match[4]) for match in matches if match]


def commands(monitor: Client) -> list[str]:
    return [command for _, _, command in seen(monitor)]


def test_a_line_says_where_who_and_what(server: InProcessServer, monitor: Client) -> None:
    client = Client(server, "10.0.0.1:5000")
    client.send("SELECT", 3)
    client.send("SET", "key", "value")
    assert seen(monitor) == [
        ("3", "10.0.0.1:5000", '"SELECT" "3"'),
        ("3", "10.0.0.1:5000", '"SET" "key" "value"'),
    ]


def test_a_unix_socket_is_named_by_its_path(server: InProcessServer, monitor: Client) -> None:
    Client(server, "/run/kvd.sock:0", is_unix=True).send("PING")
    assert seen(monitor)[0][1] == "unix:/run/kvd.sock"


def test_every_command_of_a_pipeline_is_shown(server: InProcessServer, monitor: Client) -> None:
    Client(server).raw(*[encode("GET", number) for number in range(3)])
    assert commands(monitor) == ['"GET" "0"', '"GET" "1"', '"GET" "2"']


def test_a_transaction_is_shown_as_it_runs(server: InProcessServer, monitor: Client) -> None:
    Client(server).raw(encode("MULTI"), encode("GET", "a"), encode("EXEC"))
    assert commands(monitor) == ['"MULTI"', '"GET" "a"', '"EXEC"']


def test_administration_and_unknown_commands_are_not_shown(server: InProcessServer, monitor: Client) -> None:
    client = Client(server)
    for request in (["CONFIG", "GET", "x"], ["NOPE"], ["GET"], ["SLOWLOG", "LEN"]):
        client.send(*request)
    assert commands(monitor) == []


def test_passwords_are_not_shown(server: InProcessServer, monitor: Client) -> None:
    client = Client(server)
    client.send("AUTH", "hunter2")
    client.send("HELLO", 3, "AUTH", "default", "hunter2")
    client.send("HELLO", "AUTH", "default", "hunter2")
    assert commands(monitor) == [
        '"AUTH" "(redacted)"',
        '"HELLO" "3" "AUTH" "(redacted)" "(redacted)"',
        '"HELLO" "AUTH" "(redacted)" "(redacted)"',
    ]


def test_a_client_that_is_named_as_an_option_does_not_give_its_password_away(
    server: InProcessServer, monitor: Client
) -> None:
    Client(server).send("HELLO", 3, "SETNAME", "auth", "AUTH", "default", "hunter2")
    assert commands(monitor) == ['"HELLO" "3" "SETNAME" "auth" "AUTH" "(redacted)" "(redacted)"']


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (("AUTH", "hunter2", "KEYS", "a"), '"AUTH" "(redacted)" "KEYS" "a"'),
        (("COPY", "auth2", "me", "hunter2"), '"COPY" "auth2" "(redacted)" "(redacted)"'),
        (("AUTH",), '"AUTH"'),
    ],
)
def test_passwords_for_other_servers_are_not_shown(
    server: InProcessServer, monitor: Client, said: tuple[str, ...], shown: str
) -> None:
    Client(server).send("MIGRATE", "host", 6379, "", 0, 1000, *said)
    assert commands(monitor) == [f'"MIGRATE" "host" "6379" "" "0" "1000" {shown}']


def test_bytes_are_escaped_so_that_a_line_stays_a_line() -> None:
    assert quoted(b'a"b\\c\r\n\t\a\b\x00\xff') == rb'"a\"b\\c\r\n\t\a\b\x00\xff"'


def test_a_monitor_that_has_gone_is_forgotten(server: InProcessServer, monitor: Client) -> None:
    plain = Client(server)
    monitor.close()
    assert plain.send("GET", "key") is None
    assert not server.monitors
    assert b"GET" in server.table.plain


def test_reset_ends_it(server: InProcessServer, monitor: Client) -> None:
    monitor.send("RESET")
    Client(server).send("PING")
    assert monitor.next() is False


def test_it_cannot_begin_inside_a_transaction(server: InProcessServer) -> None:
    client = Client(server)
    client.send("MULTI")
    client.send("MONITOR")
    (reply,) = client.send("EXEC")
    assert error(reply) == "ERR MONITOR isn't allowed for DENY BLOCKING client"


def test_its_own_commands_are_shown_behind_their_replies(monitor: Client) -> None:
    lines = monitor.raw(encode("PING"), encode("ECHO", "a")).split(b"\r\n")
    assert [line for line in lines if not LINE.fullmatch(line.decode())] == [b"+PONG", b"$1", b"a", b""]
    assert lines[1].endswith(b'] "PING"')
    assert lines[4].endswith(b'] "ECHO" "a"')


@pytest.mark.parametrize(
    "request_", [["GET", "a"], ["SET", "a", 1], ["PUBLISH", "a", 1], ["EVAL", "return 1", 0]]
)
def test_a_monitor_touches_no_keys(monitor: Client, request_: list[object]) -> None:
    assert error(monitor.send(*request_)) == "ERR Replica can't interact with the keyspace"
    monitor.send("RESET")
    assert not isinstance(monitor.send(*request_), Exception)
