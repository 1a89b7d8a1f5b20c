"""What every test of hostile input watches: the server's memory, and how the others are served.

Times are measured and printed (``pytest -rP`` shows them), never asserted: the machine that runs the
tests decides about them. Memory is asserted with wide margins, because it must not depend on the
machine.
"""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

import pytest

from tests.servers import RunningServer, target_server

MIB: Final = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of this test's own; at the end it must still serve, and must not have met a bug."""
    with target_server(tmp_path) as server:
        yield server
        assert_serves(server)


def assert_serves(server: RunningServer) -> None:
    """Assert that new clients are served, and that nothing the server wrote is about a bug of its own."""
    with server.client() as client:
        client.set("still", "here")
        assert client.get("still") == b"here"
    assert "Traceback" not in server.log_file.read_text(errors="replace")


@pytest.fixture
def bounded(server: RunningServer) -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """Give a context manager: inside it the server's memory grows by no more than so many bytes.

    A neighbour, who reads and writes one small key all the time, is served meanwhile; its latencies
    are printed.
    """

    @contextlib.contextmanager
    def bounded(bytes_max: int) -> Iterator[None]:
        with Neighbour(server) as neighbour:
            before = server.resident_bytes()
            server.forget_peak()
            yield
            growth = server.peak_bytes() - before
        print(
            f"memory: {before / MIB:.0f} MiB and up to {growth / MIB:.1f} more (bound {bytes_max / MIB:.0f})"
        )
        print(f"neighbour: {neighbour.figures()}")
        assert growth < bytes_max

    return bounded


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

    def figures(self) -> str:
        times = sorted(self._seconds)
        shown = ", ".join(f"p{p:g} {times[int(len(times) * p / 100)] * 1e3:.2f} ms" for p in (50, 99))
        return f"{len(times)} round trips, {shown}, longest {times[-1] * 1e3:.2f} ms"


@pytest.fixture
def many_files() -> Iterator[int]:
    """Raise this process's limit of open files, which servers inherit, as far as it goes; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for the tests of a module that need no figures of their own."""
    with target_server(tmp_path_factory.mktemp("server")) as server:
        yield server
        assert_serves(server)
