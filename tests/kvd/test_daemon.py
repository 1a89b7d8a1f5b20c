"""The daemon as a process: how it stops."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tests.kvd.harness import encode
from tests.servers import kvd_server

VALUE = b"x" * 20_000_000
REPLY = b"$%d\r\n%b\r\n" % (len(VALUE), VALUE)


def test_who_reads_slowly_gets_the_reply_before_the_daemon_stops(tmp_path: Path) -> None:
    with (
        kvd_server(tmp_path) as server,
        server.connect(receive_buffer=4096) as slow,
        server.connect() as idle,
    ):
        slow.sendall(encode("SET", "big", VALUE))
        assert slow.recv(5) == b"+OK\r\n"
        slow.sendall(encode("GET", "big"))
        received = bytearray(slow.recv(10))
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(10) == b""  # it is stopping now
        while part := slow.recv(1 << 20):
            received += part
        assert received == REPLY
        assert server.process.wait(30) == 0, server.log_tail()


def test_who_does_not_read_does_not_keep_the_daemon_from_stopping(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server, server.connect(receive_buffer=4096) as stuck:
        stuck.sendall(encode("SET", "big", VALUE) + encode("GET", "big"))
        assert stuck.recv(10) == b"+OK\r\n$2000"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.log_tail()


def test_clients_leave_files_for_the_engine(tmp_path: Path) -> None:
    with (
        kvd_server(tmp_path, prefix=("prlimit", "--nofile=200")) as server,
        server.client() as client,
        contextlib.ExitStack() as stack,
    ):
        assert client.config_get("maxclients") == {"maxclients": "100"}
        crowd = [stack.enter_context(server.connect()) for _ in range(150)]
        assert crowd[-1].recv(100).startswith(b"-ERR max number of clients")
        assert client.set("key", "value")
        assert client.save()
