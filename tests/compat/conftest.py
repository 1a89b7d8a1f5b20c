"""The server that the client programs and frameworks talk to: kvd, or redis-server to test the tests.

``KVD_TEST_TARGET=redis`` runs everything here against redis-server. What fails there is a mistake of
the test, not of kvd.

Programs of Node.js and frameworks of Python are installed by ``make compat``; without them their tests
are skipped, and under ``KVD_REQUIRE_COMPAT=1`` they fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Client, RunningServer, target_server

NODE_MODULES = Path(__file__).parent / "node" / "node_modules"


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = _missing(item)
    if not missing:
        return
    reason = f"not installed (make compat does it): {', '.join(missing)}"
    if os.environ.get("KVD_REQUIRE_COMPAT") == "1":
        pytest.fail(f"KVD_REQUIRE_COMPAT=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def _missing(item: pytest.Item) -> list[str]:
    missing: list[str] = []
    if item.get_closest_marker("needs_node") is not None:
        missing += ["node"] if shutil.which("node") is None else []
        missing += [] if NODE_MODULES.is_dir() else [NODE_MODULES.name]
    for marker in item.iter_markers("needs_frameworks"):
        missing += [name for name in marker.args if importlib.util.find_spec(name) is None]
    return missing


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with target_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(shared_server: RunningServer) -> Iterator[RunningServer]:
    """A server without keys, and with the configuration that it started with."""
    yield shared_server
    with shared_server.client() as client:
        client.flushall()
        client.config_set("notify-keyspace-events", "")


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(server: RunningServer, request: pytest.FixtureRequest) -> Iterator[Client]:
    with server.client(protocol=request.param, decode_responses=True) as client:
        yield client
