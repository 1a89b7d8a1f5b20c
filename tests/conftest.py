"""Fixtures and markers that all tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.budget import examples
from tests.servers import RunningServer, kvd_server
from tests.servers import redis_server as start_redis_server

# An example's time says more about what else the machine is doing than about the code.
settings.register_profile("kvd", deadline=None, max_examples=examples(50))
settings.load_profile("kvd")

_REDIS_PROGRAMS = ("redis-server", "redis-cli", "redis-benchmark")


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
    missing = [program for program in _REDIS_PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get("KVD_REQUIRE_REDIS") == "1":
        pytest.fail(f"KVD_REQUIRE_REDIS=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningServer]:
    """A `kvd serve` with default settings on a free port; its data goes with the test."""
    with kvd_server(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A redis-server, one for all tests: flush it before use. Needs the marker needs_redis."""
    with start_redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running
