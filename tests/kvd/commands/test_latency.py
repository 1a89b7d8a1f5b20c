"""LATENCY: what is kept of slow events, how it is shown, and the distribution of every command's time."""

from __future__ import annotations

import pytest

from kvd.latency import SAMPLES_MAX, EventHistory
from kvd.latency_report import graph
from tests.kvd.harness import START_MS, Client, InProcessServer, error

MS = 1_000_000
NOW = START_MS // 1000


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Client:
    client = Client(server)
    client.send("CONFIG", "SET", "latency-monitor-threshold", 10)
    return client


def test_slow_commands_are_events(client: Client) -> None:
    client.send("DEBUG", "SLEEP", "0.02")
    ((name, at_seconds, latest, worst),) = client.send("LATENCY", "LATEST")
    assert (name, at_seconds) == (b"command", NOW)
    assert 20 <= latest == worst < 2000


def test_nothing_is_kept_below_the_threshold_or_without_one(server: InProcessServer, client: Client) -> None:
    server.latency.record("command", 9 * MS)
    assert client.send("LATENCY", "LATEST") == []
    client.send("CONFIG", "SET", "latency-monitor-threshold", 0)
    server.latency.record("command", 10_000 * MS)
    assert client.send("LATENCY", "LATEST") == []


def test_the_worst_of_each_second_is_kept(server: InProcessServer, client: Client) -> None:
    for milliseconds in (20, 50, 30):
        server.latency.record("commit", milliseconds * MS)
    server.clock.advance(2_000)
    client.send("PING")
    server.latency.record("commit", 15 * MS)
    assert client.send("LATENCY", "HISTORY", "commit") == [[NOW, 50], [NOW + 2, 15]]
    assert client.send("LATENCY", "LATEST") == [[b"commit", NOW + 2, 15, 50]]


def test_old_samples_make_room(client: Client) -> None:
    history = EventHistory()
    for second in range(SAMPLES_MAX + 40):
        history.add(second, 1)
    assert len(history.samples) == SAMPLES_MAX
    assert history.samples[0][0] == 40


def test_reset_forgets_some_or_all(server: InProcessServer, client: Client) -> None:
    for name in ("command", "commit", "fast-command"):
        server.latency.record(name, 20 * MS)
    assert client.send("LATENCY", "RESET", "commit", "commit", "nothing") == 1
    assert client.send("LATENCY", "HISTORY", "commit") == []
    assert client.send("LATENCY", "RESET") == 2


def test_a_graph_has_a_column_for_each_sample(server: InProcessServer, client: Client) -> None:
    history = EventHistory()
    for second, milliseconds in ((NOW - 3700, 10), (NOW - 65, 20), (NOW - 4, 40), (NOW, 100)):
        history.add(second, milliseconds)
    lines = graph("command", history, NOW).split("\n")
    assert lines[0] == "command - high 100 ms, low 10 ms (all time high 100 ms)"
    assert lines[1] == "-" * 80
    assert lines[2:6] == ["   #", "   |", "  _|", "_o||"]
    assert lines[7:9] == ["1140", "hmss"]


def test_equal_samples_can_be_drawn(server: InProcessServer, client: Client) -> None:
    server.latency.record("command", 20 * MS)
    assert client.send("LATENCY", "GRAPH", "command").decode().startswith("command - high 20 ms, low 20 ms")


def test_there_is_no_graph_of_nothing(client: Client) -> None:
    assert error(client.send("LATENCY", "GRAPH", "x")) == "ERR No samples available for event 'x'"


def test_the_doctor_says_what_it_knows(server: InProcessServer, client: Client) -> None:
    assert b"No latency spike" in client.send("LATENCY", "DOCTOR")
    server.latency.record("command", 20 * MS)
    server.clock.advance(4_000)
    client.send("PING")
    server.latency.record("command", 40 * MS)
    report = client.send("LATENCY", "DOCTOR").decode()
    assert "command: 2 latency spikes (average 30ms, mean deviation 10ms, period 4.00 sec)" in report
    assert "SLOWLOG GET" in report
    assert "slowlog-log-slower-than" not in report  # it keeps all that the monitor counts
    client.send("CONFIG", "SET", "slowlog-log-slower-than", -1)
    assert b"slowlog-log-slower-than" in client.send("LATENCY", "DOCTOR")
    client.send("CONFIG", "SET", "latency-monitor-threshold", 0)
    assert b"monitoring is off" in client.send("LATENCY", "DOCTOR")


def test_a_histogram_counts_calls_up_to_each_time(server: InProcessServer, client: Client) -> None:
    stats = server.table.specs[b"ECHO"].stats
    stats.timed = 10
    stats.histogram[5] = 1  # 32 ns
    stats.histogram[10] = 2  # 1 us
    stats.histogram[14] = 3  # 16 us
    stats.histogram[21] = 4  # 2 ms
    client.send("HELLO", 3)
    assert client.send("LATENCY", "HISTOGRAM", "echo") == {
        b"echo": {b"calls": 10, b"histogram_usec": {1: 3, 16: 6, 2097: 10}}
    }


def test_a_container_stands_for_its_subcommands(client: Client) -> None:
    client.send("HELLO", 3)
    client.send("CLIENT", "ID")
    assert client.send("LATENCY", "HISTOGRAM", "client", "nothing").keys() == {b"client|id"}
    assert {b"client|id", b"hello"} <= client.send("LATENCY", "HISTOGRAM").keys()
