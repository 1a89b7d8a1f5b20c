"""Stores that exchange what they wrote, in any order, cut anywhere, with crashes, failures, sweeps and purges.

Whatever happened: once all have covered the same, they hold the same, and it is what the greatest stamps of all
that is covered say, worked out by a model that knows no rows, no log and no batches. Every store verifies.
"""

from __future__ import annotations

import contextlib
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage import compaction, deaddots, feed, indexing
from storage.changes import Change, Kind, Run, Stamp, VersionVector
from storage.errors import NoSpace, TitleTaken
from storage.layout import NAMESPACE_BYTES, parse_member
from storage.policy import Policy
from storage.record import NEVER
from storage.store import StoreOptions
from storage.version import hlc_at
from tests.budget import examples
from tests.storage.helpers import findings
from tests.storage.replicas import Node, contents, digest_of, unlisted, with_bodies

START_MS = 1_700_000_000_000
GC_MIN_AGE_MS = 60_000
FUTURE = b"\xee" * 16  # the origin of a node with a later version

Cells: TypeAlias = dict[tuple[bytes, int, bytes], tuple[Stamp, Change]]

WHO = st.integers(0, 2)
KEYS = st.sampled_from([b"a", b"a\x00", b"a\x00\xff", b"b", b"c"])
SPACES = st.sampled_from([0, 0, 0, 1])
TTLS = st.none() | st.integers(1, 200_000)
VALUES = st.sampled_from([1, 2, 70_000]).map(lambda size: b"x" * size) | st.binary(max_size=3)


class Members:
    """What one node knows about the others: that a dot is held durably by all, and that it holds all that they do."""

    def __init__(self, cluster: Exchange, node: Node) -> None:
        self._cluster = cluster
        self._node = node

    @property
    def alone(self) -> bool:
        return False

    @property
    def settled_hlc(self) -> int:
        replicas = [member.replica for member in self._cluster.members]
        own = self._node.replica.vector()
        return min(
            replica.hlc if own.covers(replica.durable()) and replica.durable() == replica.vector() else 0
            for replica in replicas
        )

    def covers(self, origin: bytes, seq: int) -> bool:
        claims = [member.replica.durable() for member in self._cluster.members]
        greatest = VersionVector()
        for claim in claims:
            greatest = greatest.merged(claim)
        return self._node.replica.vector().covers(greatest) and all(claim[origin] >= seq for claim in claims)


class Exchange(RuleBasedStateMachine):
    """Three nodes; the third joins at some time."""

    @initialize()
    def start(self) -> None:
        self.now_ms = START_MS
        options = StoreOptions(cache_bytes=4000, gc_min_age_ms=GC_MIN_AGE_MS)
        self.nodes = [Node(name, now_ms=START_MS, options=options) for name in (b"a", b"b", b"c")]
        self.members = self.nodes[:2]
        self.sent: list[Run] = []  # every run ever written, with large values in place
        self.future_seq = 0
        self.seen = [VersionVector()] * 3
        for node in self.nodes:
            node.replica.set_purging(Members(self, node))

    def member(self, who: int) -> Node:
        node = self.members[who % len(self.members)]
        node.store.begin(self.now_ms)
        return node

    def finish(self, node: Node) -> None:
        """Commit what a node has written and keep its runs."""
        self.sent.extend(with_bodies(run, node) for run in node.commit())

    # Local writes.

    @rule(who=WHO, space=SPACES, key=KEYS, value=VALUES, ttl=TTLS)
    def put(self, who: int, space: int, key: bytes, value: bytes, ttl: int | None) -> None:
        node = self.member(who)
        due = NEVER if ttl is None else self.now_ms + ttl
        node.store.keyspace(space).put(key, value, due, None if len(value) != 1 else b"{}")
        self.finish(node)

    @rule(who=WHO, key=KEYS, values=st.lists(VALUES, min_size=2, max_size=3), flush=st.booleans())
    def put_often(self, who: int, key: bytes, values: list[bytes], flush: bool) -> None:
        node = self.member(who)
        for index, value in enumerate(values):
            node.store.keyspace(0).put(key, value)
            if flush and index == 0:
                node.store.keyspace(0).flush()
        self.finish(node)

    @rule(who=WHO, space=SPACES, key=KEYS, ttl=TTLS)
    def expire(self, who: int, space: int, key: bytes, ttl: int | None) -> None:
        node = self.member(who)
        node.store.keyspace(space).expire(key, NEVER if ttl is None else self.now_ms + ttl)
        self.finish(node)

    @rule(who=WHO, space=SPACES, key=KEYS)
    def delete(self, who: int, space: int, key: bytes) -> None:
        node = self.member(who)
        node.store.keyspace(space).delete(key)
        self.finish(node)

    @rule(who=WHO, space=SPACES)
    def flush(self, who: int, space: int) -> None:
        node = self.member(who)
        node.store.keyspace(space).flush()
        self.finish(node)

    @rule(who=WHO, keys=st.lists(KEYS, min_size=2, max_size=4), value=VALUES)
    def write_atomically(self, who: int, keys: list[bytes], value: bytes) -> None:
        node = self.member(who)
        with node.store.atomic():
            for key in keys:
                node.store.keyspace(0).put(key, value)
            node.store.keyspace(0).delete(keys[0])
        self.finish(node)

    @rule(who=WHO, title=st.sampled_from(["x", "y"]), local=st.booleans())
    def create(self, who: int, title: str, local: bool) -> None:
        node = self.member(who)
        with contextlib.suppress(TitleTaken):
            made = node.store.keyspaces.create(title, Policy(replicate="none") if local else Policy())
            made.put(b"k", title.encode())
        self.finish(node)

    @rule(who=WHO, delete=st.booleans(), number=st.integers(0, 3))
    def write_named(self, who: int, delete: bool, number: int) -> None:
        node = self.member(who)
        named = node.store.keyspaces.all()
        if named:
            chosen = named[number % len(named)]
            if delete:
                with node.store.atomic():
                    node.store.keyspaces.delete(chosen.id)
            else:
                chosen.put(b"k%d" % number, b"v" * (number * 30_000))
        self.finish(node)

    @rule(who=WHO, key=KEYS, value=VALUES)
    def fail_to_write(self, who: int, key: bytes, value: bytes) -> None:
        node = self.member(who)
        before, vector = contents(node.store), node.replica.vector()
        node.put(key, value)
        node.store.keyspace(1).flush()
        node.engine.fail_next(NoSpace("memory"))  # type: ignore[attr-defined]
        with pytest.raises(NoSpace):
            node.store.commit()
        assert node.replica.take_fresh() == []
        assert (contents(node.store), node.replica.vector()) == (before, vector)

    @rule(
        space=SPACES,
        key=KEYS,
        kind=st.sampled_from([3, 4, 64, 300]),
        sub=st.sampled_from([b"", b"\x00\x01"]),
    )
    def write_of_the_future(self, space: int, key: bytes, kind: int, sub: bytes) -> None:
        self.future_seq += 1
        place = space.to_bytes(16, "big") + key
        hlc = hlc_at(self.now_ms) + self.future_seq
        change = Change(self.future_seq, hlc, kind, place, b"%d" % self.future_seq, None, sub)
        self.sent.append(Run(FUTURE, self.future_seq - 1, self.future_seq, [change]))

    # Exchange.

    @precondition(lambda self: self.sent)
    @rule(
        who=WHO,
        picks=st.lists(st.integers(0, 1000), min_size=1, max_size=4),
        last=st.integers(1, 30),
        fails=st.booleans(),
    )
    def deliver(self, who: int, picks: list[int], last: int, fails: bool) -> None:
        """Push some of the latest runs: new ones, duplicates, and such that leave a gap.

        The third node gets some before it is a member, and so has what was purged elsewhere.
        """
        node = self.nodes[who]
        node.store.begin(self.now_ms)
        latest = self.sent[-last:]
        vector = node.replica.vector()
        for pick in picks:
            run = latest[pick % len(latest)]
            covered = node.replica.covered(run.origin)
            if run.after > covered:
                continue
            wanted = node.replica.needs_body(sized(run))
            assert {change.seq for change in wanted} <= {change.seq for change in run.changes}
            if not wanted:
                run = sized(run)
            node.replica.apply(run)
            assert node.replica.covered(run.origin) == max(covered, run.upto)
        if fails and node.store.dirty:
            node.engine.fail_next(NoSpace("memory"))  # type: ignore[attr-defined]
            with pytest.raises(NoSpace):
                node.store.commit()
            assert node.replica.vector() == vector
        self.finish(node)

    @rule(who=WHO, other=WHO, cut=st.none() | st.integers(0, 4), tick=st.integers(1, 3))
    def sync(self, who: int, other: int, cut: int | None, tick: int) -> None:
        """Take over what another node has; with `cut`, the session breaks after as many runs."""
        node, source = self.member(who), self.member(other)
        if node is not source:
            self.take_from(node, source, cut, tick)

    def take_from(self, node: Node, source: Node, cut: int | None, tick: int) -> None:
        shown = source.replica.feed()
        assert node.replica.vector().covers(shown.floors())
        for number, run in enumerate(shown.runs_after(node.replica.vector())):
            if number == cut:
                break
            node.replica.merge(with_bodies(run, source))
            if number % tick == 0:
                self.finish(node)
        if cut is None:
            node.replica.cover(shown.vector(), shown.floors(), shown.horizon())
        shown.close()
        self.finish(node)

    @precondition(lambda self: len(self.members) == 2)
    @rule(source=WHO)
    def join(self, source: int) -> None:
        self.take_all(self.nodes[2], self.member(source))
        self.members = self.nodes

    @rule(who=WHO, other=WHO)
    def take_all_again(self, who: int, other: int) -> None:
        node, source = self.member(who), self.member(other)
        if node is not source:
            self.take_all(node, source)

    def take_all(self, node: Node, source: Node) -> None:
        """Take over everything in the order of places, and drop what the other must have purged."""
        node.store.begin(self.now_ms)
        shown = source.replica.feed()
        start, dropped = b"", []
        for following, runs in shown.runs_by_place(b""):
            for run in runs:
                node.replica.merge(with_bodies(run, source))
            dropped.extend(unlisted(node.replica, start, following, runs))
            start = following
            self.finish(node)
        vector = shown.vector()
        node.replica.cover(vector, shown.floors(), shown.horizon())
        for run in dropped:
            known = [change for change in run.changes if change.seq <= vector[run.origin]]
            node.replica.drop([run._replace(changes=known)])
        shown.close()
        self.finish(node)

    # What happens to nodes.

    @rule(who=WHO)
    def sync_disk(self, who: int) -> None:
        node = self.member(who)
        node.store.sync()
        assert node.replica.durable() == node.replica.vector()

    @rule(who=WHO, keep=st.none() | st.integers(0, 3))
    def crash(self, who: int, keep: int | None) -> None:
        """Cut the power, or kill the process if nothing is lost."""
        node = self.member(who)
        claimed = node.replica.durable()
        if keep is None:
            node.engine.kill()  # type: ignore[attr-defined]
        else:
            node.engine.crash(keep)  # type: ignore[attr-defined]
        node.open(self.now_ms)
        node.replica.set_purging(Members(self, node))
        assert node.replica.vector().covers(claimed)
        assert node.replica.durable() == node.replica.vector()
        self.seen[self.nodes.index(node)] = node.replica.vector()
        assert findings(node.store) == []

    @rule(who=WHO)
    def rotate(self, who: int) -> None:
        self.member(who).replica.rotate()

    @rule(ms=st.sampled_from([1, 1000, 50_000, 130_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(who=WHO, budget=st.integers(1, 50))
    def sweep(self, who: int, budget: int) -> None:
        self.member(who).store.sweep(budget)

    @rule(purges=st.booleans(), who=WHO)
    def settle(self, purges: bool, who: int) -> None:
        """Let all members hold the same, durably, and let time go by; then one purges."""
        for _ in range(2):
            for node in self.members:
                for source in self.members:
                    if node is not source:
                        node.store.begin(self.now_ms)
                        self.take_from(node, source, None, 5)
        for node in self.members:
            node.store.sync()
        if purges:
            self.now_ms += 130_000
            for _ in range(2):  # what has expired is dropped first
                self.member(who).store.sweep(100)
                self.now_ms += 130_000

    @rule(who=WHO, other=WHO, key=KEYS, forever=st.booleans(), swept=st.booleans())
    def extend_late(self, who: int, other: int, key: bytes, forever: bool, swept: bool) -> None:
        """Extend an expiry that others do not hear of before it is over and the value dropped."""
        node, writer = self.member(who), self.member(other)
        node.store.keyspace(0).put(key, b"short", self.now_ms + 100)
        self.finish(node)
        if node is not writer:
            self.take_from(writer, node, None, 5)
        writer.store.keyspace(0).expire(key, NEVER if forever else self.now_ms + 500_000)
        self.finish(writer)
        self.now_ms += 200
        for member in self.members:
            if swept or member is not writer:
                member.store.begin(self.now_ms)
                member.store.sweep(100)

    def check_vectors(self) -> None:
        for index, node in enumerate(self.nodes):
            vector = node.replica.vector()
            assert vector.covers(self.seen[index])
            assert vector.covers(node.replica.durable())
            self.seen[index] = vector

    # The end.

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        self.check_vectors()
        for node in self.nodes:
            node.store.begin(self.now_ms)
            assert findings(node.store) == []
        if len(self.members) == 2:
            self.take_all(self.nodes[2], self.nodes[0])
        for _ in range(2):
            for node in self.nodes:
                for source in self.nodes:
                    if node is not source:
                        self.take_from(node, source, None, 2)
        self.bring_back()
        for node in self.nodes:
            assert node.store.sweep(10_000) < 10_000
            assert findings(node.store) == []
        first, *others = self.nodes
        whole = not any(node.replica.horizon() for node in self.nodes)
        for node in others:
            assert node.replica.vector() == first.replica.vector()
            assert self.shown(node) == self.shown(first)
            assert digest_of(node) == digest_of(first)
            if whole:
                assert contents(node.store) == contents(first.store)
        if not any(node.replica.is_partial() for node in self.nodes):
            assert self.shown(first) == self.expected(first)

    def bring_back(self) -> None:
        """Fetch values again that were dropped and then extended, from whoever has them."""
        for node in self.nodes:
            for place, stamp in node.replica.bodyless():
                for source in self.nodes:
                    for run in source.replica.changes_at([place]):
                        for change in with_bodies(run, source).changes:
                            is_it = (run.origin, change.seq, change.kind) == (
                                stamp.origin,
                                stamp.seq,
                                Kind.VALUE,
                            )
                            if is_it and isinstance(change.content, bytes):
                                assert node.replica.restore_body(
                                    place, stamp, change.content, change.metadata
                                )
            node.store.commit()

    def shown(self, node: Node) -> dict[Any, Any]:
        """Return live records by place and members by cell."""
        found: dict[Any, Any] = {}
        for key, row in contents(node.store, live=True).items():
            if key[0] == "floor":
                continue
            if isinstance(key, bytes):
                value, metadata, (hlc, origin, seq, *_), due = row
                found[key] = [value, metadata, Stamp(hlc, origin, seq), due]
            else:
                place, kind, sub = parse_member(key[1])
                found["member", place, kind, sub] = row[1]
        return found

    def expected(self, node: Node) -> dict[Any, Any]:
        """Return the live records and members that all changes covered by now make."""
        cells: Cells = {}
        vector = node.replica.vector()
        for run in self.sent:
            for change in run.changes:
                if change.seq <= vector[run.origin]:
                    stamp = Stamp(change.hlc, run.origin, change.seq)
                    cell = (change.place, int(change.kind), change.sub)
                    if cell not in cells or cells[cell][0] < stamp:
                        cells[cell] = (stamp, change)
        found: dict[Any, Any] = {}
        bodyless = {place for place, _ in node.replica.bodyless()}
        for (place, kind, _), (stamp, change) in cells.items():
            if kind in {Kind.EXPIRY, Kind.FLOOR, Kind.NAMESPACE_FLOOR}:
                continue
            floors = [
                cells.get((place, int(Kind.FLOOR), b"")),
                cells.get((place[:NAMESPACE_BYTES], int(Kind.NAMESPACE_FLOOR), b"")),
            ]
            if any(floor is not None and floor[0] > stamp for floor in floors):
                continue
            if kind != Kind.VALUE:
                found["member", place, kind, change.sub] = change.content
                continue
            expiry = cells.get((place, int(Kind.EXPIRY), b""))
            due = NEVER
            if expiry is not None and expiry[0] > stamp and expiry[1].content is not None:
                due = int(expiry[1].content)
            if due > self.now_ms and place not in bodyless:
                found[place] = [change.content, change.metadata, stamp, due]
        return found


def sized(run: Run) -> Run:
    """Return the run as it travels: with the sizes of large values."""
    return run._replace(
        changes=[
            change._replace(content=len(change.content))
            if isinstance(change.content, bytes) and len(change.content) > 65536
            else change
            for change in run.changes
        ]
    )


@pytest.fixture(params=["usual", "eager"])
def _small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small runs and chunks; eager: the change log is compacted all the time."""
    monkeypatch.setattr(feed, "RUN_CHANGES_MAX", 3)
    monkeypatch.setattr(feed, "_SLICE_ROWS", 2)
    monkeypatch.setattr(feed, "_SLICE_DOTS", 3)
    monkeypatch.setattr(indexing, "_HOLE_MAX", 2)
    monkeypatch.setattr(indexing, "_CHUNK_DOTS_MAX", 4)
    monkeypatch.setattr(indexing, "_MENDED_DOTS_MAX", 3)
    if request.param == "eager":
        monkeypatch.setattr(compaction, "_SLACK", 2)
        monkeypatch.setattr(compaction, "_GROWTH", 1)
        monkeypatch.setattr(compaction, "_SLICE_DOTS", 3)
        monkeypatch.setattr(compaction, "_RANGE_CHUNKS", 2)
        monkeypatch.setattr(deaddots, "_SEGMENT_BITS", 2)
        monkeypatch.setattr(deaddots, "_SEGMENT_DOTS", 4)
        monkeypatch.setattr(deaddots, "_SEGMENTS_MAX", 3)


@pytest.mark.usefixtures("_small")
def test_stores_that_have_covered_the_same_hold_the_same() -> None:
    run_state_machine_as_test(
        Exchange,
        settings=settings(
            max_examples=examples(50),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
