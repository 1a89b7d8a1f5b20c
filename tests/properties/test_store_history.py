"""Histories against a model made of lists: any writes, policies, sweeps, failures, crashes and other nodes' writes.

The model keeps for each key what it is and what it was. It is told in a few lines (`Model`) and knows nothing of rows,
numbers, bounds or slices.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage.changes import Change, Run
from storage.engine import Family
from storage.engine_memory import MemoryEngine
from storage.errors import Aborted
from storage.expiry import Alone, Apart
from storage.policy import Policy
from storage.record import EXPIRES_AT, MISSING, NEVER, VALUE, VALUE_STAMP
from storage.replica import StoreReplica
from storage.store import Keyspace, Store, StoreOptions
from storage.verify import Verifier
from storage.version import hlc_at
from tests.budget import examples
from tests.storage.engines import EngineRig, MemoryRig, RocksRig

START_MS = 1_700_000_000_000
GC_MIN_AGE_MS = 120_000
FOREIGN = b"\xee" * 16

ALL_KEYS = [b"", b"a", b"a\x00", b"\x00\x01", b"b"]
KEYS = st.sampled_from(ALL_KEYS)
VALUES = st.binary(max_size=3) | st.sampled_from([5000, 70_000]).map(lambda size: b"x" * size)
TTLS = st.none() | st.none() | st.integers(1, 100_000)
BOUNDS = st.integers(0, 4)

# A value with its expiry, or None for a deletion; and when it was replaced.
State = tuple[bytes, int] | None
Version = tuple[State, int]


@attrs.define
class Key:
    """What a key is, and what it was, the newest first."""

    now: State = None
    past: list[Version] = attrs.field(factory=list)
    is_deleted: bool = False
    is_older: bool = False  # whether the deletion is older than the last value, of which nothing else is left


@attrs.define
class Model:
    """One namespace."""

    bound: int = 0
    keys: dict[bytes, Key] = attrs.field(factory=dict)

    def write(self, key: bytes, state: State, now_ms: int) -> None:
        found = self.keys.setdefault(key, Key())
        if found.now is not None:
            found.past.insert(0, (found.now, min(now_ms, found.now[1])))
        elif found.is_deleted and state is not None and not (found.is_older and found.past):
            found.past.insert(0, (None, now_ms))
        found.is_deleted, found.is_older = state is None, False
        found.now = state
        del found.past[self.bound :]

    def follow(self, bound: int) -> None:
        self.bound = bound
        for found in self.keys.values():
            del found.past[bound:]

    def versions(self, key: bytes, now_ms: int) -> list[Version]:
        found = self.keys.get(key, Key())
        ended = [] if found.now is None or found.now[1] > now_ms else [(found.now, found.now[1])]
        return [*ended, *found.past][: self.bound]


class HistoryMachine(RuleBasedStateMachine):
    """One store with one namespace, opened again and again."""

    def make_rig(self) -> EngineRig:
        raise NotImplementedError

    @initialize(bound=BOUNDS, replicate=st.sampled_from(["all", "none"]))
    def open_first(self, bound: int, replicate: str) -> None:
        self.rig = self.make_rig()
        self.now_ms = START_MS
        self.foreign_seq = 0
        self.open()
        self.store.keyspaces.create("past", Policy(history=bound, replicate=replicate))
        self.is_local = replicate == "none"
        self.store.commit()
        self.store.sync()
        self.pending = Model(bound)
        self.committed = copy.deepcopy(self.pending)
        self.images: list[tuple[Model, int]] = [(self.committed, 0)]  # after each unsynced commit

    def open(self) -> None:
        options = StoreOptions(cache_bytes=4000, gc_min_age_ms=GC_MIN_AGE_MS)
        self.store = Store(self.rig.open(), options, now_ms=self.now_ms)
        self.store.sweeper.purging = Apart()  # so that the time of a sweep changes nothing that can be seen
        self.replica = StoreReplica(self.store)

    @property
    def keyspace(self) -> Keyspace:
        found = self.store.keyspaces.find("past")
        assert found is not None
        return found

    def live(self, key: bytes) -> State:
        found = self.pending.keys.get(key, Key()).now
        return found if found is not None and found[1] > self.now_ms else None

    def written(self) -> None:
        self.committed = copy.deepcopy(self.pending)
        self.images.append((self.committed, self.writes()))
        assert list(Verifier(self.store.engine, now_ms=2**45).run()) == []

    def writes(self) -> int:
        engine = self.store.engine
        return len(engine.tail) if isinstance(engine, MemoryEngine) else 0

    # Writes.

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def put(self, key: bytes, value: bytes, ttl: int | None) -> None:
        due = NEVER if ttl is None else self.now_ms + ttl
        self.keyspace.put(key, value, due)
        self.pending.write(key, (value, due), self.now_ms)

    @rule(key=KEYS, count=st.integers(2, 8))
    def put_often(self, key: bytes, count: int) -> None:
        with self.store.atomic():
            for number in range(count):
                self.keyspace.put(key, b"%d" % number)
                self.pending.write(key, (b"%d" % number, NEVER), self.now_ms)

    @rule(key=KEYS, ttl=st.integers(1, 100_000))
    def expire(self, key: bytes, ttl: int) -> None:
        live = self.live(key)
        self.keyspace.expire(key, self.now_ms + ttl)
        if live is not None:
            self.pending.keys[key].now = (live[0], self.now_ms + ttl)

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        live = self.live(key)
        assert self.keyspace.delete(key) == (live is not None)
        if live is not None:
            self.pending.write(key, None, self.now_ms)

    @rule()
    def flush(self) -> None:
        self.keyspace.flush()
        self.pending.keys = {}

    @precondition(lambda self: not self.is_local)
    @rule(key=KEYS, values=st.lists(VALUES, min_size=1, max_size=12))
    def receive(self, key: bytes, values: list[bytes]) -> None:
        """Take over what another node has written just now, having seen everything."""
        first = self.foreign_seq + 1
        hlc = max(self.store.state.txn.hlc, hlc_at(self.now_ms))
        place = self.keyspace.id + key
        changes = [
            Change(first + n, hlc + 1 + n, 0, place, value, None, b"", 0, None, 0)
            for n, value in enumerate(values)
        ]
        self.foreign_seq += len(values)
        self.replica.merge(Run(FOREIGN, first - 1, self.foreign_seq, changes))
        for value in values:
            self.pending.write(key, (value, NEVER), self.now_ms)

    # Commits and policies. A policy is a commit of its own: what happens inside is not told by this model.

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.written()

    @rule()
    def fail(self) -> None:
        if not self.store.dirty:
            return
        self.store.poison("a test")
        with pytest.raises(Aborted):
            self.store.commit()
        self.pending = copy.deepcopy(self.committed)

    @rule(bound=BOUNDS)
    def change(self, bound: int) -> None:
        self.commit()
        if bound > self.pending.bound:  # else it might be obeyed later, when the sweep has come to its end
            while self.store.sweep(5):
                pass
            self.settle()
        self.store.keyspaces.change(self.keyspace.id, value_bytes_max=None, conflict_log=True, history=bound)
        self.pending.follow(bound)
        self.commit()

    # Time.

    @rule(ms=st.integers(0, 60_000))
    def tick(self, ms: int) -> None:
        self.commit()
        self.now_ms += ms
        self.store.begin(self.now_ms)

    @rule(rows=st.integers(1, 5), slices=st.integers(1, 20))
    def sweep(self, rows: int, slices: int) -> None:
        self.commit()
        for _ in range(slices):
            if not self.store.sweep(rows):
                break
        self.settle()

    @rule()
    def purge(self) -> None:
        """Let a node that is alone take away what is gone for good."""
        self.commit()
        self.now_ms += 2 * GC_MIN_AGE_MS
        self.store.begin(self.now_ms)
        self.store.sweeper.purging = Alone()
        while self.store.sweep(7):
            pass
        self.store.sweeper.purging = Apart()
        self.settle()
        assert self.row_count() <= len(self.pending.keys) * self.pending.bound

    def settle(self) -> None:
        """Take note of what the sweep has taken away: values, and on a node that is alone whole keys."""
        for key, found in list(self.pending.keys.items()):
            record = self.keyspace.peek(key)
            if found.now is not None and record[VALUE] is None:
                self.pending.write(key, None, self.now_ms)
                found.is_deleted = found.is_older = record[VALUE_STAMP] is None
            if record is MISSING:
                del self.pending.keys[key]
        self.written()

    def row_count(self) -> int:
        return sum(1 for _ in self.store.engine.keys(Family.HISTORY))

    @rule()
    def reopen(self) -> None:
        self.commit()
        self.store.close()
        self.open()
        self.images = [(self.committed, 0)]  # attaching replication has synced it

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()

    # What must hold.

    @invariant()
    def the_past_is_that_of_the_model(self) -> None:
        if not hasattr(self, "pending"):
            return
        for key in ALL_KEYS:
            assert self.shown(key, 9) == self.pending.versions(key, self.now_ms)
            assert self.shown(key, 2) == self.pending.versions(key, self.now_ms)[:2]

    def shown(self, key: bytes, count: int) -> list[Version]:
        return [
            (_state(version.record), version.replaced_at_ms) for version in self.keyspace.versions(key, count)
        ]


def _state(record: Any) -> State:
    return None if record[VALUE] is None else (record[VALUE], record[EXPIRES_AT])


class MemoryHistory(HistoryMachine):
    def make_rig(self) -> EngineRig:
        return MemoryRig()

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """Cut the power: what was committed up to some commit is there, records and past alike."""
        engine = self.store.engine
        assert isinstance(engine, MemoryEngine)
        model, kept = data.draw(st.sampled_from(self.images))
        engine.crash(keep=kept)
        self.open()
        self.store.sync()
        self.pending = copy.deepcopy(model)
        self.committed = copy.deepcopy(model)
        self.images = [(self.committed, 0)]

    @rule()
    def sync(self) -> None:
        self.commit()
        self.store.sync()
        self.images = [(self.committed, 0)]


class RocksHistory(HistoryMachine):
    def make_rig(self) -> EngineRig:
        self.directory = tempfile.mkdtemp(prefix="kvd-history-")
        return RocksRig(Path(self.directory) / "data")

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


@pytest.mark.parametrize(
    ("machine", "count", "steps"),
    [(MemoryHistory, 75, 50), (RocksHistory, 8, 40)],
    ids=["memory", "rocksdb"],
)
def test_the_past_is_what_was_replaced(machine: type[HistoryMachine], count: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(count),
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
