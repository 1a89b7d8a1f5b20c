"""What the store costs: microseconds an operation, for both engines.

    python -m tests.bench.bench_store [--keys N] [--tick N] [--engine memory|rocksdb] [--encrypted]

Writes are committed every `--tick` operations, as the hub does; their figures hold the share of
the commit. "cpu" is the main thread's CPU time, which other load on the machine moves less than the
wall clock.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.engine_memory import MemoryEngine
from storage.keyring import new_keyring
from storage.policy import Policy
from storage.store import Keyspace, Store, StoreOptions

VALUE = b"v" * 64


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Bench:
    """One store, `keys` keys, ticks of `tick` operations."""

    def __init__(self, store: Store, keys: int, tick: int) -> None:
        self.store = store
        self.keyspace = store.keyspace(0)
        self.keys = [b"key:%012d" % index for index in range(keys)]
        self.tick = tick

    def measure(self, label: str, action: Callable[[Keyspace, list[bytes]], None], keys: list[bytes]) -> None:
        store, keyspace = self.store, self.keyspace
        ticks = [keys[index : index + self.tick] for index in range(0, len(keys), self.tick)]
        wall, cpu = time.perf_counter(), time.thread_time()
        for part in ticks:
            store.begin(wall_ms())
            action(keyspace, part)
            store.commit()
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        count = len(keys)
        print(f"  {label:24} {wall / count * 1e6:8.2f} us   cpu {cpu / count * 1e6:6.2f} us")

    def run(self) -> None:
        keys = self.keys
        shuffled = random.sample(keys, len(keys))
        missing = [key + b"?" for key in shuffled]
        self.measure("put new", put, keys)
        self.measure("put overwrite", put, shuffled)
        self.measure("put overwrite again", put, shuffled)
        self.measure("get hit", get, shuffled)
        self.measure("get missing, cold", get, missing)
        self.measure("get missing, cached", get, missing)
        self.measure("put with TTL, first", put_ttl, shuffled)
        self.measure("put with TTL, again", put_ttl, shuffled)
        self.measure("update (INCR) with TTL", update, shuffled)
        self.measure("put over a TTL", put, shuffled)
        self.measure("delete", delete, shuffled)
        self.measure("put after delete", put, shuffled)
        self.keyspace = self.store.keyspaces.create("past", Policy(history=2))
        self.measure("put new, history", put, keys)
        self.measure("put over 0 versions", put, shuffled)
        self.measure("put over 1 version", put, shuffled)
        self.measure("put over 2 versions", put, shuffled)
        self.measure("read 2 versions", versions, shuffled)


def put(keyspace: Keyspace, keys: list[bytes]) -> None:
    store_put = keyspace.put
    for key in keys:
        store_put(key, VALUE)


def put_ttl(keyspace: Keyspace, keys: list[bytes]) -> None:
    due = keyspace.store.now_ms + 3_600_000
    for key in keys:
        keyspace.put(key, VALUE, due)


def update(keyspace: Keyspace, keys: list[bytes]) -> None:
    for key in keys:
        keyspace.update(key, VALUE)


def get(keyspace: Keyspace, keys: list[bytes]) -> None:
    store_get = keyspace.get
    for key in keys:
        store_get(key)


def versions(keyspace: Keyspace, keys: list[bytes]) -> None:
    for key in keys:
        keyspace.versions(key, 2)


def delete(keyspace: Keyspace, keys: list[bytes]) -> None:
    for key in keys:
        keyspace.delete(key)


def stores(names: list[str], directory: Path, options: StoreOptions) -> Iterator[tuple[str, Store]]:
    if "memory" in names:
        yield "memory", Store(MemoryEngine(), options)
    if "rocksdb" in names:
        yield "rocksdb", Store.open(directory / "data", options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--tick", type=int, default=16)
    parser.add_argument("--engine", choices=("memory", "rocksdb", "both"), default="both")
    parser.add_argument("--encrypted", action="store_true")
    arguments = parser.parse_args()
    options = StoreOptions(keyring=new_keyring() if arguments.encrypted else None)
    names = ["memory", "rocksdb"] if arguments.engine == "both" else [arguments.engine]
    directory = Path(tempfile.mkdtemp(prefix="kvd-bench-"))
    try:
        for name, store in stores(names, directory, options):
            print(f"{name}, {arguments.keys} keys, ticks of {arguments.tick}")
            store.freeze()
            Bench(store, arguments.keys, arguments.tick).run()
            print("  cold reads: a new store over the same data" if name == "rocksdb" else "")
            store.close()
        if "rocksdb" in names:
            cold = Bench(Store.open(directory / "data", options), arguments.keys, arguments.tick)
            cold.measure("get, cold", get, random.sample(cold.keys, len(cold.keys)))
            cold.store.close()
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
