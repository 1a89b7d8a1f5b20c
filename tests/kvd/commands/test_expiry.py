"""Expiry commands on a clock that the test holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.record import NEVER
from tests.kvd.harness import START_MS, Client, InProcessServer, error


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(InProcessServer())
    client.send("SET", "key", "v")
    yield client
    client.close()


@pytest.mark.parametrize(
    ("request_text", "moment_ms"),
    [
        ("EXPIRE key 10", START_MS + 10_000),
        ("PEXPIRE key 10", START_MS + 10),
        (f"EXPIREAT key {START_MS // 1000 + 10}", START_MS + 10_000),
        (f"PEXPIREAT key {START_MS + 10}", START_MS + 10),
        (f"PEXPIREAT key {NEVER}", NEVER - 1),
    ],
)
def test_every_form_comes_down_to_a_moment(client: Client, request_text: str, moment_ms: int) -> None:
    assert client.send(*request_text.split()) == 1
    assert client.send("PEXPIRETIME", "key") == moment_ms
    assert client.send("EXPIRETIME", "key") == (moment_ms + 500) // 1000
    assert client.send("PTTL", "key") == moment_ms - START_MS
    assert client.send("TTL", "key") == (moment_ms - START_MS + 500) // 1000


@pytest.mark.parametrize(
    ("held_ms", "condition", "moment_ms", "changes"),
    [
        (None, "NX", 10, True),
        (10, "NX", 20, False),
        (None, "XX", 10, False),
        (10, "XX", 20, True),
        (None, "GT", 10, False),
        (10, "GT", 10, False),
        (10, "GT", 11, True),
        (None, "LT", 10, True),
        (10, "LT", 10, False),
        (10, "LT", 9, True),
        (None, "XX LT", 10, False),
        (None, "LT", NEVER - START_MS, True),
    ],
)
def test_conditions_take_no_expiry_for_eternity(
    client: Client, held_ms: int | None, condition: str, moment_ms: int, changes: bool
) -> None:
    if held_ms is not None:
        client.send("PEXPIREAT", "key", START_MS + held_ms)
    before = client.send("PEXPIRETIME", "key")
    assert client.send("PEXPIREAT", "key", START_MS + moment_ms, *condition.split()) == int(changes)
    assert client.send("PEXPIRETIME", "key") == (min(START_MS + moment_ms, NEVER - 1) if changes else before)


@pytest.mark.parametrize(
    "request_text", ["EXPIRE key 0", "PEXPIRE key -5", f"PEXPIREAT key {START_MS}", "EXPIREAT key 1"]
)
def test_a_moment_that_has_passed_deletes_the_key(client: Client, request_text: str) -> None:
    assert client.send(*request_text.split()) == 1
    assert client.send("EXISTS", "key") == 0
    assert client.send(*request_text.split()) == 0


def test_persist_makes_the_key_stay(client: Client) -> None:
    server = client.server
    client.send("PEXPIRE", "key", "5")
    assert client.send("PERSIST", "key") == 1
    assert client.send("PERSIST", "key") == 0
    server.clock.advance(10)
    assert client.send("TTL", "key") == -1


def test_an_expired_key_can_get_no_new_life(client: Client) -> None:
    client.send("PEXPIRE", "key", "5")
    client.server.clock.advance(5)
    for request in (["EXPIRE", "key", "10"], ["PERSIST", "key"]):
        assert client.send(*request) == 0
    assert client.send("TTL", "key") == client.send("PEXPIRETIME", "key") == -2


@pytest.mark.parametrize("amount", [str(NEVER), str(-NEVER), "9223372036854775"])
def test_moments_beyond_the_range_are_refused(client: Client, amount: str) -> None:
    assert error(client.send("EXPIRE", "key", amount)) == "ERR invalid expire time in 'expire' command"
    assert client.send("TTL", "key") == -1
