"""Writers on every node, and what must be true of their writes when all is quiet again.

Each writer has keys of its own, which nobody else writes: of each the last acknowledged write must be there,
or a later one that was tried (its answer may have been lost). All writers share some keys, too. These they write in
transactions that ask for the write's stamp as well, so that who must have won is known: the acknowledged write with the
greatest stamp, a deletion or a value, unless one won whose answer was lost. That all nodes have the same,
`Cluster.wait_equal` sees.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

import attrs
import redis

from tests.cluster_live.harness import Client, Cluster, Node, dump

_OWN_KEYS = 50
_SHARED_KEYS = 20

Stamp: TypeAlias = tuple[int, int]  # milliseconds and counter of the clock
T = TypeVar("T")


@attrs.define
class _Written:
    """The tries on one key, and which of them was acknowledged last. None is a deletion."""

    tries: list[str | None] = attrs.field(factory=list)
    acknowledged: int = -1


@attrs.define
class Shared:
    """What was done to a key that many write. A value that is None is a deletion."""

    acknowledged: list[tuple[Stamp, str | None]] = attrs.field(factory=list)
    unsure: list[str | None] = attrs.field(factory=list)  # tried, and no answer came

    def add(self, other: Shared) -> None:
        self.acknowledged += other.acknowledged
        self.unsure += other.unsure

    def check(self, key: str, value: str | None, stamp: Stamp | None) -> None:
        """Check what is there; its stamp is None if nothing is."""
        if not self.acknowledged:
            return  # nothing was promised
        greatest = max(found for found, _ in self.acknowledged)
        # With equal clocks the origin decides, which the writers do not know.
        last = [written for found, written in self.acknowledged if found == greatest]
        assert value in (*last, *self.unsure), f"{key} is {value}, acknowledged last: {last} at {greatest}"
        assert stamp is None or stamp >= greatest, f"{key} is of {stamp}, acknowledged last at {greatest}"


class Writer(threading.Thread):
    """Writes through one node until stopped; what fails is tried no more."""

    def __init__(self, node: Node, number: int, pause: float, patience: float) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.name = f"writer{number}"
        self.pause = pause
        self.own: dict[str, _Written] = {}
        self.shared: dict[str, Shared] = {}
        self.acknowledged_count = 0
        self.failed_count = 0
        self.slowest_seconds = 0.0
        self.errors: dict[str, int] = {}
        self._patience = patience
        self._run_id = secrets.token_hex(4)  # no value is written twice, not by another load either
        self._rng = random.Random(number)
        self._stopping = threading.Event()

    def run(self) -> None:
        client = None
        while not self._stopping.is_set():
            try:
                if client is None:
                    client = self._connect()
                self._write(client)
            except redis.RedisError as error:
                self.failed_count += 1
                word = str(error).split(" ", 1)[0]
                self.errors[word] = self.errors.get(word, 0) + 1
                if client is not None:
                    client.close()
                client = None
                self._stopping.wait(0.05)
            self._stopping.wait(self.pause)
        if client is not None:
            client.close()

    def _connect(self) -> Client:
        """Return a client of a node that takes writes: what it refuses counts as tried nowhere."""
        client = self.node.client(socket_timeout=self._patience, retry=None, protocol=3)
        client.set(self._mark, "")
        return client

    @property
    def _mark(self) -> str:
        return f"mark:{self.name}"

    def _write(self, client: Client) -> None:
        text = f"{self.name}:{self._run_id}:{self.acknowledged_count + self.failed_count}"
        value = None if self._rng.random() < 0.2 else text
        if self._rng.random() < 0.3:
            self._write_shared(client, f"shared:{self._rng.randrange(_SHARED_KEYS)}", value)
        else:
            self._write_own(client, f"{self.name}:{self._rng.randrange(_OWN_KEYS)}", value)
        self.acknowledged_count += 1

    def _write_own(self, client: Client, key: str, value: str | None) -> None:
        written = self.own.setdefault(key, _Written())
        written.tries.append(value)
        self._timed(lambda: client.delete(key) if value is None else client.set(key, value))
        written.acknowledged = len(written.tries) - 1

    def _write_shared(self, client: Client, key: str, value: str | None) -> None:
        """Write in a transaction, all of which has one clock value: so the mark tells that of a deletion."""
        pipeline = client.pipeline()
        if value is None:
            pipeline.delete(key).set(self._mark, "").execute_command("KV.META", self._mark)
        else:
            pipeline.set(key, value).execute_command("KV.META", key)
        shared = self.shared.setdefault(key, Shared())
        shared.unsure.append(value)
        replies = self._timed(pipeline.execute)
        shared.unsure.remove(value)
        if replies[0]:  # where there was nothing to delete, nothing was written
            shared.acknowledged.append((parse_stamp(replies[-1]["stamp"]), value))

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - started)
        return result

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)
        assert not self.is_alive(), f"{self.name} still waits for an answer of {self.node}"

    def check(self, found: dict[str, tuple[str | None, int]]) -> None:
        """Check what is there against what was acknowledged."""
        for key, written in self.own.items():
            value = found.get(key, (None, 0))[0]
            allowed = written.tries[max(written.acknowledged, 0) :]
            if written.acknowledged < 0:
                allowed = [None, *written.tries]
            assert value in allowed, f"{key} is {value}, acknowledged last: {allowed[0]}"


class Load:
    """One writer or more for each of some nodes, in a `with` block.

    They wait `patience` seconds for each answer, which must be longer than any node is stopped: one that wakes up carries
    out what its clients have given up, perhaps after what they have sent since.
    """

    def __init__(
        self, nodes: Sequence[Node], *, writers: int = 1, pause: float = 0.002, patience: float = 30.0
    ) -> None:
        self.writers = [
            Writer(node, 1000 * node.number + number, pause, patience)
            for node in nodes
            for number in range(writers)
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
        shared: dict[str, Shared] = {}
        for writer in self.writers:
            writer.check(found)
            for key, written in writer.shared.items():
                shared.setdefault(key, Shared()).add(written)
        with cluster.running[0].client(protocol=3) as client:
            for key, written in shared.items():
                written.check(key, found.get(key, (None, 0))[0], stamp_of(client, key))

    @property
    def acknowledged_count(self) -> int:
        return sum(writer.acknowledged_count for writer in self.writers)

    def of(self, *nodes: Node) -> list[Writer]:
        return [writer for writer in self.writers if writer.node in nodes]


def stamp_of(client: Client, key: str) -> Stamp | None:
    """Return the stamp of a record, None if there is none. The client speaks RESP3."""
    meta = client.execute_command("KV.META", key)
    return None if meta is None else parse_stamp(meta["stamp"])


def parse_stamp(text: str) -> Stamp:
    ms, _, counter = text.partition(".")
    return int(ms), int(counter)
