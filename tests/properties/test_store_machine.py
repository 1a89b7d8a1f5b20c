"""The store against a model made of dicts: any writes, failures, crashes and sweeps, in any order.

The model keeps an image of what must be readable after each write of the engine. A crash puts the store
back to one of these images; everything that was committed before the last sync must be in it.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

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

from storage import compaction, deaddots
from storage.errors import NoSpace
from storage.record import EXPIRES_AT, METADATA, NEVER, VALUE
from storage.store import Keyspace, Store, StoreOptions
from storage.verify import Verifier
from tests.budget import examples
from tests.storage.engines import EngineRig, MemoryRig, RocksRig

START_MS = 1_700_000_000_000
GC_MIN_AGE_MS = 120_000

# (value, expires_at_ms, metadata) by key, by keyspace: an index, or the title of a named namespace.
Content: TypeAlias = dict[bytes, tuple[bytes, int, bytes | None]]
Model: TypeAlias = dict[int | str, Content]

KEYS = st.sampled_from([b"", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff", b"user:1", b"user:2"])
VALUES = st.binary(max_size=40) | st.integers(0, 3).map(lambda size: b"x" * (size * 5000))
SPACES = st.sampled_from([0, 1, "blue", "green"])
TTLS = st.none() | st.integers(1, 300_000)
METADATA_TEXTS = st.none() | st.sampled_from([b"{}", b'{"a":1}'])


class StoreMachine(RuleBasedStateMachine):
    """One store, opened again and again over one engine."""

    def make_rig(self) -> EngineRig:
        raise NotImplementedError

    @initialize()
    def open_first(self) -> None:
        self.rig = self.make_rig()
        self.now_ms = START_MS
        self.pending: Model = {0: {}, 1: {}}
        self.committed: Model = copy.deepcopy(self.pending)
        self.images: list[Model] = [self.committed]  # after each unsynced write; the first is synced
        self.open()

    def open(self) -> None:
        options = StoreOptions(cache_bytes=4000, gc_min_age_ms=GC_MIN_AGE_MS)
        self.store = Store(self.rig.open(), options, now_ms=self.now_ms)

    def space(self, name: int | str) -> Keyspace | None:
        if isinstance(name, int):
            return self.store.keyspace(name)
        return self.store.keyspaces.find(name)

    def live(self, name: int | str) -> Content:
        found = self.pending.get(name, {})
        return {key: item for key, item in found.items() if item[1] > self.now_ms}

    def written(self) -> None:
        """Take note of a successful write of the engine."""
        self.committed = copy.deepcopy(self.pending)
        self.images.append(self.committed)

    # Writes.

    @rule(name=SPACES, key=KEYS, value=VALUES, ttl=TTLS, metadata=METADATA_TEXTS)
    def put(self, name: int | str, key: bytes, value: bytes, ttl: int | None, metadata: bytes | None) -> None:
        keyspace = self.space(name)
        if keyspace is None:
            return
        before = keyspace.version(key)
        due = NEVER if ttl is None else self.now_ms + ttl
        keyspace.put(key, value, due, metadata)
        self.pending[name][key] = (value, due, metadata)
        assert keyspace.version(key) not in {before, None}

    @rule(name=SPACES, key=KEYS, value=VALUES)
    def update(self, name: int | str, key: bytes, value: bytes) -> None:
        keyspace = self.space(name)
        if keyspace is None:
            return
        before = keyspace.version(key)
        keyspace.update(key, value)
        _, due, metadata = self.live(name).get(key, (b"", NEVER, None))
        self.pending[name][key] = (value, due, metadata)
        assert keyspace.version(key) not in {before, None}

    @rule(name=SPACES, key=KEYS, ttl=TTLS)
    def expire(self, name: int | str, key: bytes, ttl: int | None) -> None:
        keyspace = self.space(name)
        if keyspace is None:
            return
        before = keyspace.version(key)
        due = NEVER if ttl is None else self.now_ms + ttl
        keyspace.expire(key, due)
        item = self.live(name).get(key)
        if item is None:
            assert keyspace.version(key) == before
            return
        self.pending[name][key] = (item[0], due, item[2])
        assert (keyspace.version(key) == before) == (item[1] == due == NEVER)

    @rule(name=SPACES, key=KEYS)
    def delete(self, name: int | str, key: bytes) -> None:
        keyspace = self.space(name)
        if keyspace is None:
            return
        before = keyspace.version(key)
        was_live = key in self.live(name)
        assert keyspace.delete(key) == was_live
        if was_live:
            del self.pending[name][key]
            assert keyspace.version(key) != before

    @rule(name=SPACES)
    def flush(self, name: int | str) -> None:
        keyspace = self.space(name)
        if keyspace is None:
            return
        assert keyspace.flush() >= len(self.live(name))
        self.pending[name] = {}

    @rule()
    def flush_all(self) -> None:
        self.store.flush_all()
        self.pending = {name: {} for name in self.pending}

    @rule(name=SPACES, keys=st.lists(KEYS, min_size=1, max_size=4), value=VALUES)
    def put_together(self, name: int | str, keys: list[bytes], value: bytes) -> None:
        keyspace = self.space(name)
        if keyspace is None:
            return
        with self.store.atomic():
            for key in keys:
                keyspace.put(key, value)
                self.pending[name][key] = (value, NEVER, None)

    @rule(title=st.sampled_from(["blue", "green"]))
    def create_namespace(self, title: str) -> None:
        if title not in self.pending:
            self.store.keyspaces.create(title)
            self.pending[title] = {}

    @rule(title=st.sampled_from(["blue", "green"]))
    def delete_namespace(self, title: str) -> None:
        if title in self.pending:
            keyspace = self.store.keyspaces.find(title)
            assert keyspace is not None
            self.store.keyspaces.delete(keyspace.id)
            assert keyspace.gone
            del self.pending[title]

    # The tick, and what may happen to it.

    @rule()
    def commit(self) -> None:
        was_dirty = self.store.dirty
        self.store.commit()
        if was_dirty:
            self.written()
            self.check_disk()
        assert not self.store.dirty
        self.store.begin(self.now_ms)

    @rule(step_ms=st.sampled_from([0, 1, 1000, 60_000, 300_000]))
    def pass_time(self, step_ms: int) -> None:
        self.commit()
        self.now_ms += step_ms
        self.store.begin(self.now_ms)

    @rule(budget=st.sampled_from([1, 3, 1000]))
    def sweep(self, budget: int) -> None:
        expired: list[tuple[Keyspace, bytes]] = []
        self.store.on_expired = lambda keyspace, key: expired.append((keyspace, key))
        self.commit()
        commits = self.store.commits
        handled = self.store.sweep(budget)
        assert handled <= budget
        if self.store.commits != commits:
            self.written()
            self.check_disk()
        for keyspace, key in expired:
            assert keyspace.get(key) is None
        if handled < budget:
            for name in self.pending:
                swept = self.space(name)
                assert swept is not None
                live = self.live(name)
                assert swept.count == len(live)
                assert swept.expires == sum(item[1] != NEVER for item in live.values())

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.images = [self.committed]

    @rule()
    def close_and_open(self) -> None:
        if self.store.commits:
            self.images.append(self.committed)  # closing stores the size of the change log
        self.store.close()
        self.pending = copy.deepcopy(self.committed)
        self.open()

    # What must always hold.

    @invariant()
    def reads_are_the_models(self) -> None:
        if not hasattr(self, "store"):
            return
        for name in self.pending:
            keyspace = self.space(name)
            assert keyspace is not None, f"namespace {name} is missing"
            live = self.live(name)
            for key in [b"", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff", b"user:1", b"user:2"]:
                assert shown(keyspace.get(key)) == live.get(key), key
            assert keyspace.count >= len(live)
            assert (keyspace.random_key() in live) if live else (keyspace.random_key() is None)
        assert {keyspace.title for keyspace in self.store.keyspaces.all()} == {
            name for name in self.pending if isinstance(name, str)
        }

    @rule(name=SPACES, prefix=st.sampled_from([b"", b"a", b"\xff", b"user:", b"zz"]), limit=st.integers(1, 4))
    def scan(self, name: int | str, prefix: bytes, limit: int) -> None:
        keyspace = self.space(name)
        if keyspace is None:
            return
        found: list[tuple[bytes, Any]] = []
        after: bytes | None = None
        for _ in range(100):
            rows, after = keyspace.scan(prefix, after, limit)
            assert len(rows) <= limit
            found.extend((key, shown(record)) for key, record in rows)
            if after is None:
                break
        assert found == sorted((k, v) for k, v in self.live(name).items() if k.startswith(prefix))

    def check_disk(self) -> None:
        assert self.store.stats()["changelog_compaction_failed"] == 0
        verifier = Verifier(self.store.engine, now_ms=self.now_ms + 10_000_000, pass_rows=3)
        assert [str(finding) for finding in verifier.run()] == []


def shown(record: Any) -> tuple[bytes, int, bytes | None] | None:
    return None if record is None else (record[VALUE], record[EXPIRES_AT], record[METADATA])


class MemoryStoreMachine(StoreMachine):
    """With the crash model: power cuts at any write boundary, full disks, aborted ticks."""

    def make_rig(self) -> MemoryRig:
        return MemoryRig()

    @property
    def engine(self) -> Any:
        return self.store.engine

    @rule()
    def fail_to_commit(self) -> None:
        if not self.store.dirty:
            return
        self.engine.fail_next(NoSpace("memory"))
        with pytest.raises(NoSpace):
            self.store.commit()
        self.pending = copy.deepcopy(self.committed)
        assert isinstance(self.store.writable, NoSpace)
        assert self.store.probe()
        self.images = [self.committed]  # a probe syncs
        assert self.store.writable is None

    @precondition(lambda self: hasattr(self, "store"))
    @rule(keep=st.integers(0, 5))
    def cut_the_power(self, keep: int) -> None:
        self.engine.crash(keep)
        self.committed = self.images[min(keep, len(self.images) - 1)]
        self.images = [self.committed]
        self.pending = copy.deepcopy(self.committed)
        self.open()
        self.check_disk()


class RocksStoreMachine(StoreMachine):
    def make_rig(self) -> RocksRig:
        self.directory = Path(tempfile.mkdtemp(prefix="kvd-test-"))
        return RocksRig(self.directory / "data")

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()
            shutil.rmtree(self.directory)


@pytest.fixture(params=["usual", "eager"])
def _compaction(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager: the change log is compacted all the time, and marks of dead dots are given up soon."""
    if request.param == "eager":
        monkeypatch.setattr(compaction, "_SLACK", 2)
        monkeypatch.setattr(compaction, "_GROWTH", 1)
        monkeypatch.setattr(compaction, "_SLICE_DOTS", 3)
        monkeypatch.setattr(compaction, "_COMMITS_PER_STORED_SIZE", 2)
        monkeypatch.setattr(compaction, "_RANGE_CHUNKS", 2)
        monkeypatch.setattr(deaddots, "_SEGMENT_BITS", 2)
        monkeypatch.setattr(deaddots, "_SEGMENT_DOTS", 4)
        monkeypatch.setattr(deaddots, "_SEGMENTS_MAX", 3)


@pytest.mark.usefixtures("_compaction")
def test_the_store_equals_the_model_with_crashes_at_any_write() -> None:
    run_state_machine_as_test(
        MemoryStoreMachine,
        settings=settings(
            max_examples=examples(75),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.usefixtures("_compaction")
def test_the_store_equals_the_model_on_rocksdb() -> None:
    run_state_machine_as_test(
        RocksStoreMachine,
        settings=settings(
            max_examples=examples(5),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
