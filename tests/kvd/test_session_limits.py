"""How long a request may be: the setting reaches the readers of sessions that are open already."""

from __future__ import annotations

from tests.kvd.harness import Client, InProcessServer, encode


def test_a_new_bulk_limit_holds_for_open_sessions() -> None:
    server = InProcessServer()
    client = Client(server)
    assert client.send("CONFIG", "SET", "proto-max-bulk-len", "1mb") == b"OK"
    assert client.send("SET", "a", b"x" * (1 << 20)) == b"OK"
    refused = client.raw(encode("SET", "a", b"x" * ((1 << 20) + 1)))
    assert refused == b"-ERR Protocol error: invalid bulk length\r\n"
    assert client.session.closing
