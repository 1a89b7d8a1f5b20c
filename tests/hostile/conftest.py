"""What every test of hostile input watches: the server's memory, and how the others are served.

Times are measured and printed (``pytest -rP`` shows them), never asserted: the machine that runs the
tests decides about them. Memory is asserted with wide margins, because it must not depend on the
machine.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.watch import MIB, Bounded, Neighbour, assert_serves
from tests.servers import RunningServer, target_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of this test's own; at the end it must still serve, and must not have met a bug."""
    with target_server(tmp_path) as server:
        yield server
        assert_serves(server)


@pytest.fixture
def bounded(server: RunningServer) -> Bounded:
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
