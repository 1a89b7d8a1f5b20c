"""Stores that exchange what they wrote, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from storage.changes import Change, Kind, Replica, Run, VersionVector
from storage.engine import Engine, Family
from storage.engine_memory import MemoryEngine
from storage.layout import database_id
from storage.members import decode_member
from storage.record import EXPIRES_AT, EXPIRY, FLOOR, METADATA, VALUE, VALUE_STAMP, decode, registers
from storage.replica import StoreReplica
from storage.store import Store, StoreOptions
from storage.version import HLC_MAX, hlc_at, register_dot, unpack_full_register
from tests.storage.engines import EngineRig, make_rig

NOW_MS = 1_700_000_000_000
DB = database_id(0)


def entropy_of(seed: bytes) -> Callable[[int], bytes]:
    """Return a source of bytes that differs from seed to seed and is the same each time."""
    counter = 0

    def entropy(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return blake2b(seed + b"%d" % counter, digest_size=size).digest()

    return entropy


def unlisted(replica: Replica, start: bytes, end: bytes, listed: Sequence[Run]) -> list[Run]:
    """Return what is unlisted in all of a range."""
    found, upto = replica.unlisted(start, end, listed, 1 << 30)
    assert upto == end
    return found


class Node:
    """One store with replication attached, over an engine that may be opened again."""

    def __init__(
        self,
        name: bytes = b"a",
        engine: Engine | None = None,
        *,
        now_ms: int = NOW_MS,
        options: StoreOptions | None = None,
    ) -> None:
        self.engine = engine or MemoryEngine(name.decode())
        self.entropy = entropy_of(name)
        self.options = options or StoreOptions()
        self.open(now_ms)

    def open(self, now_ms: int) -> None:
        self.store = Store(self.engine, self.options, now_ms=now_ms, entropy=self.entropy)
        self.replica = StoreReplica(self.store)

    def put(self, key: bytes, value: bytes, *rest: Any) -> None:
        self.store.keyspace(0).put(key, value, *rest)

    def value(self, key: bytes) -> bytes | None:
        record = self.store.keyspace(0).get(key)
        found: bytes | None = None if record is None else record[VALUE]
        return found

    def commit(self) -> list[Run]:
        """Commit and return the fresh runs."""
        self.store.commit()
        return self.replica.take_fresh()

    def receive(self, runs: list[Run], source: Node | None = None) -> int:
        """Apply runs and commit; fetch large values from `source`."""
        won = 0
        for run in runs:
            won += self.replica.apply(run if source is None else with_bodies(run, source))
        self.store.commit()
        return won

    def sync_from(self, source: Node) -> None:
        """Take over everything that the other has, as an incremental sync does."""
        feed = source.replica.feed()
        for run in feed.runs_after(self.replica.vector()):
            self.replica.merge(with_bodies(run, source))
        self.replica.cover(feed.vector(), feed.floors(), feed.horizon())
        feed.close()
        self.store.commit()


def with_bodies(run: Run, source: Node) -> Run:
    """Put large values in the place of their sizes."""
    changes = [
        change
        if type(change.content) is not int or change.kind == Kind.EXPIRY
        else change._replace(content=source.replica.body(run.origin, change.seq, change.place))
        for change in run.changes
    ]
    return run._replace(changes=changes)


def key_place(key: bytes, index: int = 0) -> bytes:
    return database_id(index) + key


def all_changes(replica: Replica, vector: VersionVector | None = None) -> list[Change]:
    """Return the changes of a feed, origin by origin."""
    feed = replica.feed()
    try:
        return [change for run in feed.runs_after(vector or VersionVector()) for change in run.changes]
    finally:
        feed.close()


def walked_changes(replica: Replica) -> list[Change]:
    """Return the changes of a feed, place by place."""
    feed = replica.feed()
    try:
        return [change for _, runs in feed.runs_by_place(b"") for run in runs for change in run.changes]
    finally:
        feed.close()


def contents(store: Store, *, live: bool = False) -> dict[Any, Any]:
    """Return every row of a store with origins in place of their numbers, without what is not replicated.

    With `live`, only what a reader sees: no header, no deletion, no register that hides nothing.
    """
    origins, is_local = store.state.origins, store.state.ledger.is_local

    def named(register: bytes | None) -> Any:
        if register is None:
            return None
        hlc, number, seq, prev_hlc, prev_number = unpack_full_register(register)
        return hlc, origins[number], seq, prev_hlc, origins[prev_number]

    found: dict[Any, Any] = {}
    for key, row in store.engine.iterate(Family.RECORDS):
        record = decode(row, origins)
        if any(is_local(register_dot(register)[0]) for register in registers(record)):
            continue
        expiry = record[EXPIRY]
        shown = [record[VALUE], record[METADATA], named(record[VALUE_STAMP])]
        if live:
            if record[EXPIRES_AT] <= store.now_ms:
                continue
            found[key] = [*shown, record[EXPIRES_AT]]
        else:
            found[key] = [*shown, expiry and (named(expiry[0]), expiry[1]), named(record[FLOOR])]
    for key, row in store.engine.iterate(Family.MEMBERS):
        register, payload, metadata = decode_member(row)
        found["member", key] = [named(register), payload, metadata]
    for key, register in store.engine.iterate(Family.META, b"floor:", b"floor;"):
        if not is_local(register_dot(register)[0]):
            found["floor", key] = named(register)
    return found


def digest_of(node: Node) -> dict[int, int]:
    feed = node.replica.feed()
    found: dict[int, int] = {}
    for result in _results(node, feed):
        found = result
    feed.close()
    return found


def _results(node: Node, feed: Any) -> Iterator[dict[int, int]]:
    for result in node.replica.digest(feed):
        if result is not None:
            yield dict(result)


BIG = b"x" * 70_000
X = b"\xee" * 16  # the origin of some other node


class Nodes:
    """Makes nodes over one kind of engine."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.rigs: dict[bytes, EngineRig] = {}

    def __call__(
        self,
        name: bytes = b"a",
        *,
        now_ms: int = NOW_MS,
        durability: str = "everysec",
        options: StoreOptions | None = None,
    ) -> Node:
        rig = self.rigs[name] = make_rig(self.kind, self.directory / name.decode())
        return Node(name, rig.open(), now_ms=now_ms, options=options or StoreOptions(durability=durability))

    def reopen(self, node: Node, name: bytes = b"a", now_ms: int = NOW_MS) -> None:
        node.store.close()
        node.engine = self.rigs[name].open()
        node.open(now_ms)

    def close(self) -> None:
        for rig in self.rigs.values():
            rig.close()


def dot(seq: int, key: bytes = b"k", content: bytes | int | None = b"v", **fields: object) -> Change:
    """Return a change of another node: a value, unless told otherwise."""
    defaults: dict[str, object] = {
        "seq": seq,
        "hlc": hlc_at(NOW_MS) + seq,
        "kind": 0,
        "place": key_place(key),
    }
    return Change(**{**defaults, "content": content, **fields})  # type: ignore[arg-type]


def run_of(*changes: Change, after: int | None = None, upto: int | None = None, origin: bytes = X) -> Run:
    first = changes[0].seq if changes else 1
    last = changes[-1].seq if changes else 0
    return Run(origin, first - 1 if after is None else after, last if upto is None else upto, changes)


class Members:
    """Members who hold whatever the test says."""

    alone = False

    def __init__(self, *, hold: bool = False) -> None:
        self.hold = hold

    @property
    def settled_hlc(self) -> int:
        return HLC_MAX if self.hold else 0

    def covers(self, origin: bytes, seq: int) -> bool:
        return self.hold
