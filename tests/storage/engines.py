"""The two engines behind one way of opening, closing and killing them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from storage.engine import Engine
from storage.engine_memory import MemoryEngine
from storage.engine_rocksdb import RocksEngine


class EngineRig(Protocol):
    """Makes one engine and opens it again over the same data."""

    def open(self) -> Engine: ...

    def close(self) -> None: ...


class MemoryRig:
    """The model: closing and opening again is `kill`."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()

    def open(self) -> MemoryEngine:
        self.engine.kill()
        return self.engine

    def close(self) -> None:
        self.engine.close()


class RocksRig:
    """RocksDB in a directory of the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine: RocksEngine | None = None

    def open(self) -> RocksEngine:
        self.close()
        self.engine = RocksEngine(self.directory)
        return self.engine

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


def make_rig(name: str, directory: Path) -> EngineRig:
    """Return the rig called "memory" or "rocksdb"."""
    return MemoryRig() if name == "memory" else RocksRig(directory)
