"""Writers on every node, and what must be true of their writes when all is quiet again.

Each writer has keys of its own, which nobody else writes: of each the last acknowledged write must be there,
or a later one that was tried (its answer may have been lost). All writers share some keys, too: of these
one of the values tried must be there, the same on all nodes, which `Cluster.wait_equal` sees.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import attrs
import redis

from tests.cluster_live.harness import Cluster, Node, dump

_OWN_KEYS = 50
_SHARED_KEYS = 20


@attrs.define
class _Written:
    """The tries on one key, and which of them was acknowledged last. None is a deletion."""

    tries: list[str | None] = attrs.field(factory=list)
    acknowledged: int = -1


class Writer(threading.Thread):
    """Writes through one node until stopped; what fails is tried no more."""

    def __init__(self, node: Node, number: int, pause: float) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.name = f"writer{number}"
        self.pause = pause
        self.own: dict[str, _Written] = {}
        self.shared: dict[str, set[str | None]] = {}
        self.acknowledged_count = 0
        self.failed_count = 0
        self.slowest_seconds = 0.0
        self.errors: dict[str, int] = {}
        self._rng = random.Random(number)
        self._stopping = threading.Event()

    def run(self) -> None:
        client = None
        while not self._stopping.is_set():
            if client is None:
                client = self.node.client(socket_timeout=30, retry=None)
            try:
                self._write(client)
            except redis.RedisError as error:
                self.failed_count += 1
                word = str(error).split(" ", 1)[0]
                self.errors[word] = self.errors.get(word, 0) + 1
                client.close()
                client = None
                self._stopping.wait(0.05)
            self._stopping.wait(self.pause)
        if client is not None:
            client.close()

    def _write(self, client: redis.Redis) -> None:
        value = f"{self.name}:{self.acknowledged_count + self.failed_count}"
        deletes = self._rng.random() < 0.2
        if self._rng.random() < 0.3:
            key = f"shared:{self._rng.randrange(_SHARED_KEYS)}"
            self.shared.setdefault(key, set()).add(None if deletes else value)
            self._run(client, key, value, deletes=deletes)
            return
        key = f"{self.name}:{self._rng.randrange(_OWN_KEYS)}"
        written = self.own.setdefault(key, _Written())
        written.tries.append(None if deletes else value)
        self._run(client, key, value, deletes=deletes)
        written.acknowledged = len(written.tries) - 1

    def _run(self, client: redis.Redis, key: str, value: str, *, deletes: bool) -> None:
        started = time.perf_counter()
        if deletes:
            client.delete(key)
        else:
            client.set(key, value)
        self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - started)
        self.acknowledged_count += 1

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)

    def check(self, found: dict[str, tuple[str | None, int]]) -> None:
        """Check what is there against what was acknowledged."""
        for key, written in self.own.items():
            value = found.get(key, (None, 0))[0]
            allowed = written.tries[max(written.acknowledged, 0) :]
            if written.acknowledged < 0:
                allowed = [None, *written.tries]
            assert value in allowed, f"{key} is {value}, acknowledged last: {allowed[0]}"


class Load:
    """One writer or more for each of some nodes, in a `with` block."""

    def __init__(self, nodes: Sequence[Node], *, writers: int = 1, pause: float = 0.002) -> None:
        self.writers = [
            Writer(node, 1000 * node.number + number, pause) for node in nodes for number in range(writers)
        ]

    def __enter__(self) -> Self:
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self.writers:
            writer.stop()

    def check(self, cluster: Cluster, *, seconds: float = 60.0) -> None:
        """Wait until all nodes are equal; check that nothing acknowledged is lost, on the first of them."""
        cluster.wait_equal(seconds=seconds)
        found = dump(cluster.running[0])
        tried: dict[str, set[str | None]] = {}
        for writer in self.writers:
            writer.check(found)
            for key, values in writer.shared.items():
                tried.setdefault(key, set()).update(values)
        for key, values in tried.items():
            value = found.get(key, (None, 0))[0]
            assert value is None or value in values, key

    @property
    def acknowledged_count(self) -> int:
        return sum(writer.acknowledged_count for writer in self.writers)

    def of(self, node: Node) -> list[Writer]:
        return [writer for writer in self.writers if writer.node is node]
