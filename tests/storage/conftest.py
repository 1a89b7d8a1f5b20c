from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.engine import Engine
from storage.store import Store
from tests.storage.engines import EngineRig, make_rig
from tests.storage.replicas import Nodes

NOW_MS = 1_700_000_000_000


@pytest.fixture(params=["memory", "rocksdb"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineRig]:
    """One of the two engines, closed at the end."""
    made = make_rig(request.param, tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def engine(rig: EngineRig) -> Engine:
    return rig.open()


@pytest.fixture
def store(engine: Engine) -> Store:
    """An empty store whose clock stands at `NOW_MS` until the test begins another tick."""
    return Store(engine, now_ms=NOW_MS)


@pytest.fixture(params=["memory", "rocksdb"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(request.param, tmp_path)
    yield made
    made.close()
