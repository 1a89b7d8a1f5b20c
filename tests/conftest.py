"""Fixtures and markers that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.processes import Daemon, RedisServer, has_redis

StartDaemon: TypeAlias = Callable[..., Daemon]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave soak tests out unless they are asked for by name or marker."""
    if "soak" in config.option.markexpr:
        return
    asked = [str(argument) for argument in config.args if "::" in str(argument)]
    kept = [item for item in items if "soak" not in item.keywords or item.nodeid.startswith(tuple(asked))]
    dropped = [item for item in items if item not in set(kept)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without redis-server, skip what compares with it; in CI such a skip is a failure."""
    if item.get_closest_marker("needs_redis") is None:
        return
    item.user_properties.append(("needs_redis", "yes"))  # counted in the JUnit report by .ci/run
    if has_redis():
        return
    reason = "redis-server, redis-cli or redis-benchmark is not installed"
    if os.environ.get("KVD_REQUIRE_REDIS") == "1":
        pytest.fail(f"KVD_REQUIRE_REDIS=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Return a function that starts a `kvd serve` with more arguments; all are stopped at the end.

    Each gets a data directory of its own unless `data_dir` names one.
    """
    started: list[Daemon] = []

    def start(
        *arguments: str, data_dir: Path | None = None, environment: dict[str, str] | None = None
    ) -> Daemon:
        directory = data_dir or tmp_path / f"data-{len(started)}"
        daemon = Daemon(directory, *arguments, environment=environment)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        if daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """Return a `kvd serve` with default settings, on a free port of 127.0.0.1."""
    return start_daemon()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a redis-server, one for all tests: flush it before use. Needs the marker needs_redis."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()
