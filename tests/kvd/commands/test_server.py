"""TIME, MODULE and LOLWUT."""

from __future__ import annotations

import time

import pytest

import kvd
from tests.kvd.harness import Client, InProcessServer, error


@pytest.fixture
def client() -> Client:
    return Client(InProcessServer())


def test_time_is_the_wall_clock_to_the_microsecond(client: Client) -> None:
    before = time.time_ns() // 1000
    seconds, microseconds = map(int, client.send("TIME"))
    assert before <= seconds * 1_000_000 + microseconds <= time.time_ns() // 1000
    assert 0 <= microseconds < 1_000_000


def test_there_are_no_modules(client: Client) -> None:
    assert client.send("MODULE", "LIST") == []


def test_art_ends_with_the_version(client: Client) -> None:
    drawn = client.send("LOLWUT").decode()
    assert drawn.endswith(f"Redis ver. 7.2.5, as kvd {kvd.__version__} speaks it\n")
    assert "\u2571" in drawn


def test_art_has_the_size_that_is_asked_for_within_bounds(client: Client) -> None:
    lines = client.send("LOLWUT", "VERSION", 5, 10, 3).decode().split("\n")
    assert [len(line) for line in lines[:4]] == [10, 10, 10, 0]
    huge = client.send("LOLWUT", "VERSION", 6, 10**9, 10**9)
    assert len(huge) < 100_000
    assert "not an integer" in error(client.send("LOLWUT", "VERSION", 5, "wide"))


def test_art_of_a_version_without_sizes_takes_any_arguments(client: Client) -> None:
    height = client.send("LOLWUT").count(b"\n")
    for arguments in (["foo"], ["VERSION"], ["VERSION", 7, "x"], [1, 1]):
        assert client.send("LOLWUT", *arguments).count(b"\n") == height
