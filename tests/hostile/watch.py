"""What tests of hostile input watch: the server's health, and how the others are served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Self, TypeAlias

from tests.servers import RunningServer

MIB: Final = 1 << 20

# The fixture `bounded`: inside the context, the server's memory grows by no more than so many bytes.
Bounded: TypeAlias = Callable[[int], AbstractContextManager[None]]


def assert_serves(server: RunningServer) -> None:
    """Assert that new clients are served, and that nothing the server wrote is about a bug of its own."""
    with server.client() as client:
        client.set("still", "here")
        assert client.get("still") == b"here"
    assert "Traceback" not in server.log_file.read_text(errors="replace")


class Neighbour:
    """A client that behaves: one request at a time, each timed, from a thread of its own."""

    def __init__(self, server: RunningServer) -> None:
        self._socket = server.connect()
        self._stopping = threading.Event()
        self._seconds: list[float] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._round_trip()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stopping.wait(0.001):  # it behaves: a thousand requests a second at most
                self._round_trip()
        except (OSError, AssertionError) as error:
            self._failure = error

    def _round_trip(self) -> None:
        started = time.perf_counter()
        self._socket.sendall(b"SET neighbour x\r\nGET neighbour\r\n")
        received = b""
        while len(received) < len(b"+OK\r\n$1\r\nx\r\n"):
            received += self._socket.recv(64)
        assert received == b"+OK\r\n$1\r\nx\r\n", received
        self._seconds.append(time.perf_counter() - started)

    @property
    def round_trips(self) -> int:
        return len(self._seconds)

    def figures(self) -> str:
        times = sorted(self._seconds)
        shown = ", ".join(f"p{p:g} {times[int(len(times) * p / 100)] * 1e3:.2f} ms" for p in (50, 99))
        return f"{len(times)} round trips, {shown}, longest {times[-1] * 1e3:.2f} ms"
