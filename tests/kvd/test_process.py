"""What the operating system allows: the limit of open files, of which every client takes one."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from kvd import process
from tests.kvd.harness import Client, InProcessServer, error


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[int]]:
    """Give a function that sets soft and hard limit, and returns a list of what the soft one is raised to."""

    def set_limits(soft: int, hard: int) -> list[int]:
        raised: list[int] = []

        def setrlimit(which: int, limits: tuple[int, int]) -> None:
            assert limits[0] <= hard
            raised.append(limits[0])

        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        return raised

    return set_limits


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "room"),
    [
        (1024, 524_288, [11_200], 10_000),
        (1024, 1024, [1024], 922),
        (1024, 4096, [4096], 3687),
        (200, 200, [200], 100),
        (20_000, 20_000, [], 10_000),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(
    limits: Callable[[int, int], list[int]], soft: int, hard: int, raised: list[int], room: int
) -> None:
    raises = limits(soft, hard)
    assert process.room_for_clients(10_000) == room
    assert raises == raised


def test_more_clients_than_the_system_allows_for_are_refused(
    limits: Callable[[int, int], list[int]],
) -> None:
    limits(1024, 4096)
    client = Client(InProcessServer())
    refused = error(client.send("CONFIG", "SET", "maxclients", 20_000))
    assert refused.endswith("the limit of open files allows for 3687 clients")
    assert client.send("CONFIG", "SET", "maxclients", 3000) == b"OK"


@pytest.mark.parametrize(
    ("cpu_max", "processors"),
    [("max 100000", 4), ("50000 100000", 0.5), ("200000 100000", 2), ("900000 100000", 4), (None, 4)],
)
def test_a_container_may_have_less_than_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpu_max: str | None, processors: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    limit = tmp_path / "cpu.max"
    if cpu_max is not None:
        limit.write_text(cpu_max + "\n")
    monkeypatch.setattr(process, "_CPU_MAX", limit)
    assert process.usable_processors() == processors
