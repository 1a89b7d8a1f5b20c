"""The server that the client programs and frameworks talk to: kvd, or redis-server to test the tests.

``KVD_COMPAT_TARGET=redis`` runs everything here against redis-server. What fails there is a mistake of
the test, not of kvd.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers import Client, RunningServer, kvd_server, redis_server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("server")
    start = redis_server if os.environ.get("KVD_COMPAT_TARGET") == "redis" else kvd_server
    with start(directory) as running:
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
