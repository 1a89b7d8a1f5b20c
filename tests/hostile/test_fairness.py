"""One client with much to do: the others get their turn between its requests, not after them."""

from __future__ import annotations

import pytest

from tests.hostile.watch import MIB, Neighbour
from tests.servers import RunningServer

# Requests that take milliseconds each, on a value of 24 MiB; what a client may send at once of each.
SLOW_REQUESTS = {
    "reading all of a value": (b"BITCOUNT large\r\n", 15),
    "copying a value": (b"SETRANGE large 0 x\r\n", 20),
    "one value into another": (b"BITOP NOT other large\r\n", 15),
    "two plain commands in turn": (b"APPEND large x\r\nSTRLEN large\r\n", 25),
    "documentation": (b"COMMAND DOCS\r\n", 300),
    "a script": (b"EVAL 'for i = 1, 1e6 do end' 0\r\n", 50),
    "many unknown commands": (b"%1\r\n", 16_000),
    "many queued commands": (b"MULTI\r\n" + b"GET a\r\n" * 40_000 + b"EXEC\r\n", 1),
}
TURNS_MIN = 3

# One request each that passes many keys, what was done with these before, and how its answer begins.
WALKS = {
    "a random key among deleted ones": ("DEL", 30_000, b"RANDOMKEY\r\n", b"$-1"),
    "a list behind deleted keys": ("DEL", 30_000, b"KV.LIST LIMIT 10\r\n", b"*2\r\n$0\r\n\r\n*0"),
    "a long list": ("TOUCH", 10_000, b"KV.LIST LIMIT 10000\r\n", b"*2\r\n$"),
    "all keys": ("TOUCH", 30_000, b"KEYS *\r\n", b"*30000"),
}


@pytest.mark.parametrize("name", WALKS)
def test_others_are_served_while_one_request_passes_many_keys(server: RunningServer, name: str) -> None:
    if server.name == "redis":
        pytest.skip("redis-server answers each request in one go")
    then, count, request, start = WALKS[name]
    with server.client(db=1) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            pipeline.set(f"key:{number}", b"")
        pipeline.execute()
        client.execute_command(then, *[f"key:{number}" for number in range(count)])
        # One that has expired and is not swept, so that the namespace does not count as empty.
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        client.set("expired", b"", px=1)
        while client.exists("expired"):
            pass
    with server.connect(timeout=100) as sock, Neighbour(server) as neighbour:
        sock.sendall(b"SELECT 1\r\n")
        assert sock.recv(64) == b"+OK\r\n"
        before = neighbour.round_trips
        sock.sendall(request)
        answer = sock.recv(64)
        turns = neighbour.round_trips - before
    print(f"{turns} round trips meanwhile: {neighbour.figures()}")
    assert answer.startswith(start), answer
    assert turns >= TURNS_MIN


@pytest.mark.parametrize("name", SLOW_REQUESTS)
def test_others_are_served_between_the_requests_of_a_pipeline(server: RunningServer, name: str) -> None:
    if server.name == "redis":
        pytest.skip("redis-server runs all that it has read from a client before it turns to the next")
    request, count = SLOW_REQUESTS[name]
    with server.client() as client:
        client.set("large", b"x" * (24 * MIB))
    with server.connect(timeout=100) as sock, Neighbour(server) as neighbour:
        before = neighbour.round_trips
        sock.sendall(request * count + b"ECHO over\r\n")
        tail = b""
        while not tail.endswith(b"over\r\n"):
            data = sock.recv(MIB)
            assert data, "closed"
            tail = (tail + data)[-16:]
        turns = neighbour.round_trips - before
    print(f"{turns} round trips meanwhile: {neighbour.figures()}")
    assert turns >= TURNS_MIN
