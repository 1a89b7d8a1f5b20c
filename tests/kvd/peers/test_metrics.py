"""Each metric that is listed is one that some code counts, and the lines of the log about what they count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from kvd.peering.alarms import Alarms
from kvd.peering.metrics import COUNTERS, STORE
from storage.changes import Kind
from storage.engine_memory import MemoryEngine
from storage.store import Store
from tests.servers import ROOT


def counted() -> Iterator[str]:
    """Yield the names that replication counts: those of all calls `….count("name", …)` in its source."""
    for path in (ROOT / "replication").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "count"
            ):
                name = call.args[0] if call.args else None
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value


def test_each_counter_that_is_listed_is_counted_and_each_that_is_counted_is_listed() -> None:
    assert sorted(COUNTERS) == sorted(set(counted()))


def test_each_figure_of_the_store_that_is_shown_is_one_that_it_has() -> None:
    figures = Store(MemoryEngine()).replication_stats()
    assert STORE.keys() == figures.keys() - {"conflicts"}  # the sum of those by kind


# --- the log


class Watched:
    """A store, the members of a group for whom its garbage collection waits, and what the log says of both."""

    def __init__(self) -> None:
        self.store = Store(MemoryEngine())
        self.stability = SimpleNamespace(blocked_by=[])
        exchanges: Any = {7: SimpleNamespace(stability=self.stability)}
        self.alarms = Alarms(self.store, exchanges)

    def look(self, now: float) -> list[Any]:
        with capture_logs() as lines:
            self.alarms.look(now)
        return lines

    def lose(self, count: int) -> None:
        told = self.store.losses.total
        self.store.losses.note({b"%d" % number: (Kind.VALUE, None) for number in range(told, told + count)})


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_lost_writes_take_a_line_a_second_at_most(watched: Watched) -> None:
    assert watched.look(1.0) == []
    lines = []
    for tenth in range(30):
        watched.lose(5)
        lines += watched.look(2.0 + tenth / 10)
    assert [line["count"] for line in lines] == [5, 50, 50]
    assert lines[-1] == {"event": "concurrent writes lost", "log_level": "info", "count": 50, "total": 105}


def test_a_fork_is_an_error(watched: Watched) -> None:
    watched.store.forks = 2
    (line,) = watched.look(1.0)
    assert line == {"event": "two contents under one dot", "log_level": "error", "count": 2, "total": 2}
    assert watched.look(2.0) == []


def test_a_member_for_whom_garbage_collection_waits_is_named_once(watched: Watched) -> None:
    node = bytes([0xAB]) * 16
    watched.stability.blocked_by = [node]
    assert watched.look(1.0) == watched.look(60.0) == []
    (line,) = watched.look(61.0)
    event = "garbage collection waits for a member"
    assert line == {"event": event, "log_level": "warning", "group": 7, "peer": "abababab"}
    assert watched.look(200.0) == []
    watched.stability.blocked_by = []
    (line,) = watched.look(201.0)
    assert line["event"] == "garbage collection waits no longer"
    watched.stability.blocked_by = [node]
    assert watched.look(202.0) == []
    assert len(watched.look(262.0)) == 1


def test_who_blocks_garbage_collection_for_a_moment_is_not_named(watched: Watched) -> None:
    watched.stability.blocked_by = [bytes(16)]
    assert watched.look(1.0) == []
    watched.stability.blocked_by = []
    assert watched.look(100.0) == []
