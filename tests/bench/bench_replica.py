"""What replication costs the store: microseconds of CPU a change, for runs of small values.

    python tests/bench/bench_replica.py [--keys N] [--run N] [--engine memory|rocksdb]

`put` is what a local write costs, with one commit for as many as a run holds; then the same with replication
attached, making the runs, and taking them over, with one commit for each.
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from storage.changes import Run, VersionVector
from storage.engine import Engine
from storage.engine_memory import MemoryEngine
from storage.engine_rocksdb import RocksEngine
from storage.replica import StoreReplica
from storage.store import Store

VALUE = b"v" * 64


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Bench:
    """A store that writes and one that takes over."""

    def __init__(self, engines: Callable[[str], Engine], keys: int, run: int) -> None:
        self.plain = Store(engines("plain"))
        self.source = Store(engines("source"))
        self.target = Store(engines("target"))
        self.replica = StoreReplica(self.source)
        self.receiver = StoreReplica(self.target)
        self.keys = [b"key:%012d" % index for index in range(keys)]
        self.size = run

    def run(self) -> None:
        for label in ("new keys", "overwrite", "overwrite again"):
            keys = random.sample(self.keys, len(self.keys))
            spent = [0.0, 0.0, 0.0, 0.0]
            for index in range(0, len(keys), self.size):
                part = keys[index : index + self.size]
                for column, cost in enumerate(self.exchange(part)):
                    spent[column] += cost
            put, collected, fresh, apply = (cost / len(keys) * 1e6 for cost in spent)
            print(
                f"  {label:16} put {put:6.2f}   put, attached {collected:6.2f}   "
                f"take_fresh {fresh:6.2f}   apply {apply:6.2f}"
            )
        walk = self.timed(self.walk)
        print(f"  walk of the feed {walk / len(self.keys) * 1e6:6.2f}")

    def exchange(self, part: list[bytes]) -> tuple[float, float, float, float]:
        """Write one run and take it over; return what each step has cost."""
        put = self.timed(lambda: self.put_all(self.plain, part))
        collected = self.timed(lambda: self.put_all(self.source, part))
        runs: list[Run] = []
        fresh = self.timed(lambda: runs.extend(self.replica.take_fresh()))
        return put, collected, fresh, self.timed(lambda: self.apply_all(runs))

    def timed(self, action: Callable[[], None]) -> float:
        started = time.thread_time()
        action()
        return time.thread_time() - started

    def put_all(self, store: Store, part: list[bytes]) -> None:
        put = store.keyspace(0).put
        store.begin(wall_ms())
        for key in part:
            put(key, VALUE)
        store.commit()

    def apply_all(self, runs: list[Run]) -> None:
        self.target.begin(wall_ms())
        for run in runs:
            self.receiver.apply(run)
        self.target.commit()

    def walk(self) -> None:
        feed = self.target.feed()
        assert sum(len(run.changes) for run in feed.runs_after(VersionVector())) == len(self.keys)
        feed.close()

    def close(self) -> None:
        for store in (self.plain, self.source, self.target):
            store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=50_000)
    parser.add_argument("--run", type=int, default=100)
    parser.add_argument("--engine", choices=("memory", "rocksdb", "both"), default="both")
    arguments = parser.parse_args()
    names = ["memory", "rocksdb"] if arguments.engine == "both" else [arguments.engine]
    directory = Path(tempfile.mkdtemp(prefix="kvd-bench-"))
    gc.disable()  # else what the model's tail has piled up is walked at the cost of whoever allocates
    try:
        for name in names:
            print(f"{name}, {arguments.keys} keys, runs of {arguments.run}; CPU us a change")
            bench = Bench(
                MemoryEngine if name == "memory" else lambda part: RocksEngine(directory / part),
                arguments.keys,
                arguments.run,
            )
            bench.run()
            bench.close()
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
