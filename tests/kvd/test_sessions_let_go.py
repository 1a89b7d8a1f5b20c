"""A client leaves nothing behind that waits for the garbage collector, whatever it was refused."""

from __future__ import annotations

import gc
import weakref

import pytest

from tests.kvd.harness import Client, InProcessServer, encode

SENT = {
    "nothing wrong": encode("SET", "key", "value"),
    "unknown command": encode("FOO", "value"),
    "unknown subcommand": encode("CLIENT", "FOO"),
    "wrong arity": encode("GET"),
    "wrong type of number": encode("SET", "key", "value") + encode("INCR", "key"),
    "wrong password": encode("AUTH", "value"),
    "error in a script": encode("EVAL", "return redis.call('nope', 1)", 0),
    "error in a transaction": encode("MULTI") + encode("INCRBY", "key", "x") + encode("EXEC"),
    "unbalanced quotes": b'SET "a\r\n',
    "no bulk string": b"*1\r\nX\r\n",
    "count too large": b"*99999999999\r\n",
    "endless line": b"x" * 70_000,
    "half a request": b"*2\r\n$3\r\nGET\r\n$100\r\nx",
}


@pytest.mark.parametrize("data", SENT.values(), ids=SENT)
def test_a_client_goes_with_its_connection(data: bytes) -> None:
    client = Client(InProcessServer())
    gc.collect()
    gc.disable()
    try:
        client.raw(data)
        left = weakref.ref(client.session)
        client.close()
        del client
        assert left() is None
    finally:
        gc.enable()
