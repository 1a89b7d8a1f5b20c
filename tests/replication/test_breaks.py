"""What must hold when things break in the middle: commits, links, runs that come in parts, slow ways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from random import Random
from typing import Any

import attrs
import pytest
import trio

from replication import messages as m
from replication.core import Link
from replication.frames import encode
from replication.node import PeerNode
from replication.options import Options
from replication.rejoin import Standing
from replication.vectors import seal_digest
from storage.changes import INLINE_BYTES_MAX, Change, Kind, Lane, Run
from tests.replication.lab import FAST, Lab, Node, Wire, is_equal, place, ready
from tests.replication.model_replica import ModelFeed, ModelReplica

LARGE = b"v" * (INLINE_BYTES_MAX * 3 + 1)


def end(wire: Wire, node: Node) -> Link:
    """Return a node's end of a wire."""
    return next(link for one, link in wire.ends if one is node)


class Unreadable(Exception):
    """The store cannot be read."""


def lab_messages(wire: Wire, kind: type) -> list[m.Message]:
    """Return what a wire has carried of one kind."""
    return [message for _, message in wire.carried if isinstance(message, kind)]


def standing(node: Node) -> Standing:
    return node.replicator.rejoin.standing


def fails(node: Node, link: Link, messages: Sequence[m.Message], now: float) -> None:
    """Handle messages in a tick whose commit fails: the store is what it was."""
    assert not node.replicator._staged
    before = copy.deepcopy(
        {name: value for name, value in vars(node.replica).items() if name not in {"purging", "_now_ms"}}
    )
    node.replicator.on_messages(link, messages, now)
    vars(node.replica).update(before)
    node.replicator.after_failure()


class Breaking:
    """Lets the first commit fail that takes in a message of one kind."""

    def __init__(self, lab: Lab, wire: Wire, node: Node, kind: type) -> None:
        self.is_done = False
        self._lab, self._wire, self._node, self._kind = lab, wire, node, kind
        wire.drops = self._drops

    def _drops(self, sender: Node, message: m.Message) -> bool:
        if sender is self._node or self.is_done:
            return self.is_done  # the link is as good as dead
        link, replicator = end(self._wire, self._node), self._node.replicator
        if isinstance(message, self._kind):
            self.is_done = True
            fails(self._node, link, [message], self._lab.now)
        else:
            replicator.on_messages(link, [message], self._lab.now)
            replicator.after_commit()
        return True


# --- runs in parts


def part(origin: bytes, after: int, upto: int, seqs: Sequence[int], hlc: int, *, more: bool) -> m.Push:
    changes = [Change(seq, hlc + seq, Kind.VALUE, place(f"{origin[:1].decode()}{seq}"), b"v") for seq in seqs]
    return m.Push(Run(origin, after, upto, changes), more=more)


def test_parts_of_a_run_whose_rest_was_dropped_do_not_mix_with_the_next() -> None:
    lab = ready(Lab("a", "b"))
    b, hlc = lab["b"], lab.wall_ms() << 16
    link = end(lab.wire("a", "b"), b)
    x, y = b"x" * 16, b"y" * 16
    b.replicator.on_messages(link, [part(x, 0, 9, [1, 2], hlc, more=True)], lab.now)
    b.replicator.on_messages(link, [part(y, 0, 9, [9], hlc, more=False)], lab.now)
    assert b.get("y9") == b"v"
    assert b.get("x1") is None
    assert b.replica.covered(x) == 0


def test_a_run_is_not_taken_from_its_last_part_alone() -> None:
    lab = ready(Lab("a", "b"))
    b, hlc = lab["b"], lab.wall_ms() << 16
    link = end(lab.wire("a", "b"), b)
    x = b"x" * 16
    flow = b.replicator.dissemination.flows[lab["a"].id]
    flow.ready = False
    b.replicator.on_messages(link, [part(x, 0, 4, [1, 2], hlc, more=True)], lab.now)
    flow.ready = True
    b.replicator.on_messages(link, [part(x, 0, 4, [3, 4], hlc, more=False)], lab.now)
    assert b.replica.covered(x) == 0 or b.get("x1") == b"v"


def test_a_run_that_is_sent_again_after_a_part_of_it_is_taken_once() -> None:
    lab = ready(Lab("a", "b"))
    b, hlc = lab["b"], lab.wall_ms() << 16
    link = end(lab.wire("a", "b"), b)
    x = b"x" * 16
    first, last = part(x, 0, 4, [1, 2], hlc, more=True), part(x, 0, 4, [3, 4], hlc, more=False)
    b.replicator.on_messages(link, [first, first, last], lab.now)
    assert b.replica.covered(x) == 4
    b.replicator.after_commit()
    run = b.replicator.dissemination._history[-1][0]
    assert [change.seq for change in run.changes] == [1, 2, 3, 4]


# --- large values


def test_a_relay_passes_a_large_value_on_as_its_size() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab.cut(lab.wire("a", "c"))
    lab["b"].replicator.dissemination.flows[lab["c"].id].relays = True
    lab["a"].put("large", LARGE)
    lab.run(3.0)
    assert lab["c"].get("large") == LARGE


@pytest.mark.parametrize("data", [b"", LARGE + b"more"])
def test_a_body_of_another_size_is_not_taken(data: bytes) -> None:
    lab = ready(Lab("a", "b"))
    a, b = lab["a"], lab["b"]
    wire = lab.wire("a", "b")
    wire.drops = lambda sender, message: isinstance(message, m.BodyGet)
    a.put("large", LARGE)
    lab.run(0.1)
    origin = a.replica.origin(Lane.SMALL)
    assert origin is not None
    seq = a.replica.covered(origin)
    b.replicator.on_messages(end(wire, b), [m.BodyData(origin, seq, 0, len(LARGE), data)], lab.now)
    assert b.get("large") is None


def test_a_large_value_that_comes_slowly_does_not_end_its_sync() -> None:
    options = attrs.evolve(FAST, sync_timeout=3.0)
    lab = ready(Lab("a", "b", options=options))
    lab.cut(lab.wire("a", "b"))
    value = b"v" * (64 * 1024 * 40)
    lab["a"].put("large", value)
    wire = lab.link("a", "b")
    sending, sent_at = end(wire, lab["a"]), [0.0]
    original = sending.outbox.take

    def take(bytes_max: int) -> bytes:
        """Let one piece of the body through every fifth of a second: eight seconds for all."""
        if not sending.outbox._control and not sending.outbox._data and sending.outbox._bulk:
            if lab.now < sent_at[0] + 0.2:
                return b""
            sent_at[0] = lab.now
        return original(1)

    sending.outbox.take = take  # type: ignore[method-assign]
    lab.run(20.0, 0.05)
    assert lab["b"].get("large") == value
    assert is_equal([lab["a"], lab["b"]])


def test_a_large_value_is_read_once_for_all_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = ready(Lab("a", "b"))
    a, b = lab["a"], lab["b"]
    reads: list[int] = []
    body = ModelReplica.body

    def counted(replica: ModelReplica, origin: bytes, seq: int, at: bytes) -> bytes | None:
        reads.append(seq)
        return body(replica, origin, seq, at)

    monkeypatch.setattr(ModelReplica, "body", counted)
    a.put("large", b"v" * (64 * 1024 * 40))
    a.put("second", b"w" * (64 * 1024 * 40))
    lab.run(2.0)
    assert is_equal([a, b])
    assert len(reads) == 2
    assert not a.replicator.bodies._kept


def test_no_more_bodies_are_kept_than_may_be() -> None:
    options = attrs.evolve(FAST, bodies_max=3, body_bytes_max=500_000)
    lab = ready(Lab("a", "b", options=options))
    a = lab["a"]
    link = end(lab.wire("a", "b"), a)
    for number in range(9):
        a.put(f"large{number}", b"v" * 200_000)
        origin = a.replica.origin(Lane.SMALL)
        assert origin is not None
        seq = a.replica.covered(origin)
        a.replicator.bodies.on_get(link, m.BodyGet(origin, seq, place(f"large{number}"), 0))
        kept = [one.body for one in a.replicator.bodies._kept.values()]
        assert len(kept) == min(number + 1, 2)
    lab.run(7.0)
    assert not a.replicator.bodies._kept


@pytest.mark.parametrize("groups", [(), (3, 4, 5, 6)])
def test_as_many_pieces_may_wait_as_all_groups_together_ask_for(groups: tuple[int, ...]) -> None:
    """Each group asks by itself for several bodies, and they share a connection that may be slow."""
    lab = ready(Lab("a", "b"))
    a = lab["a"]
    link = end(lab.wire("a", "b"), a)
    a.put("large", LARGE)
    origin = a.replica.origin(Lane.SMALL)
    assert origin is not None
    a.replicator.core.options = options = attrs.evolve(FAST, groups=groups, body_piece_bytes=100_000)
    get = m.BodyGet(origin, a.replica.covered(origin), place("large"), 0)
    at_once = options.bodies_max * 8 * (1 + len(groups))
    for _ in range(at_once):
        a.replicator.bodies.on_get(link, get)
    assert link.dropped is None
    for _ in range(at_once):
        a.replicator.bodies.on_get(link, get)
    assert link.dropped == "it asks for more pieces than it takes"


def test_a_large_value_that_differs_is_mended() -> None:
    lab = ready(Lab("a", "b", "c"))
    lab["a"].put("large", LARGE)
    lab.run(0.5)
    del lab["b"].replica.cells[place("large"), int(Kind.VALUE), b""]
    outcomes: list[object] = []
    lab["b"].replicator.verification.verify(lab["a"].id, outcomes.append)
    lab.run(2.0)
    assert lab["b"].get("large") == LARGE
    assert is_equal([lab[name] for name in "abc"])


# --- syncs


def test_what_is_more_than_a_frame_comes_by_a_sync() -> None:
    lab = ready(Lab("a", "b"))
    lab.cut(lab.wire("a", "b"))
    for number in range(60):
        lab["a"].put(f"key{number}", b"v" * 50_000)  # the model gives all of an origin in one run
    lab.run(0.1)
    lab.link("a", "b")
    lab.run(2.0)
    assert is_equal([lab["a"], lab["b"]])


def test_a_sync_that_keeps_its_link_busy_is_not_taken_for_a_stall() -> None:
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, queue_age_max=1.0)))
    a = lab["a"]
    link = end(lab.wire("a", "b"), a)
    flow = a.replicator.dissemination.flows[lab["b"].id]
    lab.wires.clear()
    link.outbox.take(1 << 20)
    link.send_frame(b"x" * 100)
    for _ in range(40):  # something waits at any time, nothing for long
        link.send_frame(b"x" * 100)
        lab.run(0.1)
        link.outbox.take(100)
        assert link.data_bytes
    assert not flow.behind
    lab.run(3.0)
    assert flow.behind


def test_a_full_sync_that_breaks_goes_on_before_the_large_value_it_lacks() -> None:
    options = attrs.evolve(FAST, sync_batch_bytes=20_000)
    lab = ready(Lab("a", "b", options=options))
    lab["a"].put("a-large", LARGE)
    for number in range(100):
        lab["a"].put(f"key{number:03}", "x" * 2000)
    lab.run(1.0)
    lab.add("c", options=options)
    wire = lab.link("a", "c")
    wire.drops = lambda sender, message: isinstance(message, m.BodyData)
    lab.run(1.0)
    lab.cut(wire)
    lab.link("b", "c")
    lab.run(5.0)
    assert standing(lab["c"]) == Standing.READY
    assert lab["c"].get("a-large") == LARGE
    assert is_equal([lab[name] for name in "abc"])


@pytest.mark.parametrize("kind", [m.SyncBatch, m.SyncEnd])
def test_a_full_sync_whose_commit_failed_goes_on_where_the_store_is(kind: type) -> None:
    options = attrs.evolve(FAST, sync_batch_bytes=20_000)
    lab = ready(Lab("a", "b", options=options))
    for number in range(100):
        lab["a"].put(f"key{number:03}", "x" * 2000)
    lab.run(1.0)
    c = lab.add("c", options=options)
    wire = lab.link("a", "c")
    breaking = Breaking(lab, wire, c, kind)
    lab.run(0.8)
    assert breaking.is_done
    assert standing(c) == Standing.JOINING
    assert not c.replicator.vectors.ready
    lab.link("b", "c")
    lab.run(5.0)
    assert standing(c) == Standing.READY
    assert is_equal([lab[name] for name in "abc"])


def test_a_sync_whose_reading_fails_grants_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = ready(Lab("a", "b", options=attrs.evolve(FAST, sync_batch_bytes=2_000, sync_credit_bytes=2_000)))
    a, b = lab["a"], lab["b"]
    lab.cut(lab.wire("a", "b"))
    for number in range(20):
        a.put(f"key{number:02}", "x" * 1000)
    lab.run(0.1)
    feed = a.replica.feed

    def failing_feed() -> ModelFeed:
        found = feed()
        assert isinstance(found, ModelFeed)
        runs = iter(list(found.runs_after({})))

        def runs_after(vector: Mapping[bytes, int]) -> Iterator[Run]:
            run = next(runs)
            yield run._replace(changes=run.changes[:10], upto=run.changes[9].seq)
            raise Unreadable

        monkeypatch.setattr(found, "runs_after", runs_after)
        return found

    monkeypatch.setattr(a.replica, "feed", failing_feed)
    wire = lab.link("a", "b")
    with pytest.raises(Unreadable):
        lab.run(2.0)
    monkeypatch.setattr(a.replica, "feed", feed)
    lab.run(0.2)
    assert lab_messages(wire, m.SyncBatch)
    assert not b.replica.vector().covers(a.replica.vector())
    lab.run(3.0)
    assert is_equal([a, b])


@pytest.mark.parametrize("full", [False, True])
def test_a_server_reads_on_in_steps_where_it_finds_nothing(
    monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Much was superseded, or a full sync passes over what is not for the asker."""
    lab = Lab("a") if full else ready(Lab("a", "b"))
    a = lab["a"]
    if not full:
        lab.cut(lab.wire("a", "b"))
    a.put("key", "x")
    lab.run(0.1)
    feed, tick, reads = a.replica.feed, a.replicator.syncs.tick, [0]

    def nothing(found: Any) -> Iterator[Any]:
        for _ in range(200):
            reads[-1] += 1
            yield found

    def long_feed() -> ModelFeed:
        found = feed()
        assert isinstance(found, ModelFeed)
        by_dot, by_place = found.runs_after, found.runs_by_place
        monkeypatch.setattr(
            found, "runs_after", lambda vector: chain(nothing(Run(b"o" * 16, 0, 0, [])), by_dot(vector))
        )
        monkeypatch.setattr(
            found, "runs_by_place", lambda start: chain(nothing((start, [])), by_place(start))
        )
        return found

    def counted_tick(now: float) -> float:
        reads.append(0)
        return tick(now)

    monkeypatch.setattr(a.replica, "feed", long_feed)
    monkeypatch.setattr(a.replicator.syncs, "tick", counted_tick)
    b = lab.add("b") if full else lab["b"]
    wire = lab.link("a", "b")
    lab.run(5.0)
    assert is_equal([a, b])
    assert sum(reads) >= 200
    assert max(reads) <= 2  # clients have their turn between two
    batches = [message for message in lab_messages(wire, m.SyncBatch) if isinstance(message, m.SyncBatch)]
    assert sum(not batch.runs for batch in batches) >= 3  # so the asker does not give it up


def be_asked(options: Options) -> tuple[Lab, Link]:
    """Return two nodes of which the first holds 50 kB, and is asked for all as session 77 on a link that takes nothing."""
    lab = ready(Lab("a", "b", options=options))
    a = lab["a"]
    lab.cut(lab.wire("a", "b"))
    for number in range(50):
        a.put(f"key{number:02}", "x" * 1000)
    lab.run(0.1)
    link = end(lab.link("a", "b"), a)
    lab.wires.clear()
    a.replicator.on_messages(link, [m.SyncRequest(77, True, {}, {}, 0, b"", 1 << 20)], lab.now)
    for then in a.durables:
        then()
    return lab, link


def test_a_server_reads_one_batch_in_one_turn() -> None:
    lab, link = be_asked(attrs.evolve(FAST, sync_batch_bytes=2_000))
    a = lab["a"]
    a.replicator.on_messages(link, [m.Credit(77, 10_000)] * 5, lab.now)
    a.replicator.after_commit()
    counts = []
    for _ in range(3):
        before = a.replicator.syncs.serving[link.number, 77].count
        assert a.replicator.tick(lab.now) <= lab.now
        counts.append(a.replicator.syncs.serving[link.number, 77].count - before)
    assert max(counts) <= 2
    assert sum(counts) >= 3


def test_a_sync_waits_while_others_fill_the_queue() -> None:
    """Syncs of many groups share a queue. If they filled it, each push would clear it, and all begin anew for ever."""
    lab, link = be_asked(attrs.evolve(FAST, sync_batch_bytes=2_000, queue_bytes_max=20_000))
    a = lab["a"]
    a.replicator.after_commit()
    link.send_frame(bytes(8_000))
    session = a.replicator.syncs.serving[link.number, 77]
    for _ in range(100):
        lab.now += 0.1
        a.replicator.tick(lab.now)
    assert 8_000 < link.data_bytes < 20_000
    assert 0 < session.count < 50
    while session.ended_at is None:
        link.clear_data()
        lab.now += 0.1
        assert a.replicator.tick(lab.now) > lab.now - 0.1
    assert session.count >= 50


def test_all_credit_of_a_sync_is_given_back() -> None:
    """A batch of a full sync names two places beside its changes: with long keys that is much, and more than is merged."""
    options = attrs.evolve(FAST, sync_batch_bytes=4_000, sync_credit_bytes=20_000)
    lab = ready(Lab("a", options=options))
    for number in range(40):
        lab["a"].put(f"key{number:02}" + "x" * 2_000, "1")
    lab.add("b")
    lab.link("a", "b")
    lab.run(5.0)
    assert lab["b"].replicator.rejoin.standing == Standing.READY


def test_a_peer_does_not_make_this_node_keep_more_and_more_snapshots() -> None:
    lab = ready(Lab("a", "b"))
    a = lab["a"]
    link = end(lab.wire("a", "b"), a)
    for number in range(1000, 1050):
        a.replicator.on_messages(link, [m.SyncRequest(number, False, {}, {}, 0)], lab.now)
        durables, a.durables[:] = list(a.durables), []
        for then in durables:
            then()
        a.replicator.after_commit()
    assert len(a.replicator.syncs.serving) <= 4


# --- coming back


def beneath(lab: Lab, *, value: bytes = b"alone") -> tuple[Node, Node]:
    """Let b write something unseen, and come back to an a that has purged what b lacks."""
    ready(lab)
    lab["a"].put("key", "1")
    lab.run(0.5)
    lab.cut(lab.wire("a", "b"))
    lab["a"].delete("key")
    lab.run(0.1)
    lab["b"].put("unseen", value)
    floor, _ = lab["a"].replica.cells.pop((place("key"), int(Kind.FLOOR), b""))
    lab["a"].replica.cover({}, {floor.origin: floor.seq}, floor.hlc)
    return lab["a"], lab["b"]


def test_a_large_stale_write_is_written_anew_too() -> None:
    a, b = beneath(lab := Lab("a", "b", options=attrs.evolve(FAST, stale_writes="replay")), value=LARGE)
    lab.link("a", "b")
    lab.run(5.0)
    assert a.get("unseen") == b.get("unseen") == LARGE


def test_dead_letters_that_cannot_be_kept_keep_the_node_out_until_they_can() -> None:
    a, b = beneath(lab := Lab("a", "b"))
    wire = lab.link("a", "b")
    is_full = [True]
    kept: list[object] = []

    def keep(stale: list[object]) -> None:
        if is_full[0]:
            raise OSError
        kept.extend(stale)

    b.replicator.rejoin.dead_letter = keep  # type: ignore[assignment]
    with pytest.raises(OSError):  # noqa: PT011 - its own
        lab.run(5.0)
    b.replicator.after_failure()
    lab.cut(wire)
    assert standing(b) == Standing.REJOINING
    is_full[0] = False
    lab.link("a", "b")
    lab.run(5.0)
    assert standing(b) == Standing.READY
    assert len(kept) == 1
    assert is_equal([a, b])


def test_an_incremental_sync_does_not_end_a_rejoining() -> None:
    lab = ready(Lab("a", "b", "c"))
    b = lab["b"]
    for wire in [lab.wire("a", "b"), lab.wire("b", "c")]:
        lab.cut(wire)
    lab["c"].put("key", "1")
    wire = lab.link("b", "c")
    wire.drops = lambda sender, message: isinstance(message, m.SyncEnd)
    lab.run(0.2)
    session = next(iter(b.replicator.syncs.asking.values()))
    b.replicator.rejoin.enter(Standing.REJOINING)
    b.replicator.after_commit()
    end_of = m.SyncEnd(session.number, lab["c"].replica.vector(), {}, 0, session.count)
    b.replicator.on_messages(end(wire, b), [end_of], lab.now)
    assert standing(b) == Standing.REJOINING


def test_a_node_that_leaves_sees_that_others_have_what_it_wrote() -> None:
    lab = ready(Lab("a", "b", "c"))
    a = lab["a"]
    a.put("last", "1")
    a.put("large", LARGE)
    a.replicator.roster.leave()
    a.replicator.rejoin.enter(Standing.LEAVING)
    a.replicator.after_commit()
    a.replicator.committed(lab.now)
    a.due = 0.0
    assert a.replicator.refusal(lab.now)
    lab.run(2.0)
    assert a.replicator.covering(a.replica.durable())
    assert lab["b"].get("large") == LARGE


def test_a_link_whose_first_commit_failed_is_none() -> None:
    lab = ready(Lab("a", "b"))
    a = lab["a"]
    hello = Lab("c")["c"].replicator.hello(bytes(32))
    assert a.replicator.link_up(hello, outgoing=False, now=lab.now, encode=encode) is not None
    a.replicator.after_failure()
    assert hello.node not in a.replicator.core.links
    assert hello.node not in a.replicator.dissemination.flows


def test_a_member_that_comes_back_with_less_is_noticed_though_origins_are_sealed() -> None:
    lab = ready(Lab("a", "b"))
    lab["b"].put("key", "1")
    lab.run(0.5)
    lab.cut(lab.wire("a", "b"))
    b = lab["b"].replica
    b.rotate()
    lab.start("b", b, founds=False)
    lab.link("a", "b")
    lab.run(6.0)
    assert lab["b"].replicator.vectors.sealed
    older = copy.deepcopy(b._vector)
    lab["b"].put("key", "2")
    lab.run(3.0)
    wire = lab.wire("a", "b")
    sealed = lab["b"].replicator.vectors.sealed
    count, xor = seal_digest(sealed)
    lab.cut(wire)
    wire = lab.link("a", "b")
    link = end(wire, lab["a"])
    lab.wires.clear()
    vector = {origin: seq for origin, seq in older.items() if origin not in sealed}
    link.boot = b"another boot...!"
    told = m.Vector(lab["b"].id, link.boot, 1, True, vector, {}, {}, 0, count, xor)
    lab["a"].replicator.vectors.is_current = lambda node, boot: True
    lab["a"].replicator.on_messages(link, [told], lab.now)
    assert lab["a"].replicator.core.counters["rollbacks_total"] == 1


def test_the_host_hears_at_once_what_the_node_is() -> None:
    heard: list[Standing] = []

    class Host:
        replica = ModelReplica(b"n" * 16)

        def transact(self, work: Callable[[], object]) -> object:
            return work()

        def wall_ms(self) -> int:
            return 1_700_000_000_000

        def stood(self, standing: Standing) -> None:
            heard.append(standing)

        def __getattr__(self, name: str) -> Any:
            return None

    host: Any = Host()
    nothing: Any = None

    async def run() -> None:
        node = PeerNode(
            host, nothing, nothing, FAST, cluster=b"c" * 16, rng=Random(1), entropy=Random(1).randbytes
        )
        node.open(founds=True)
        node._in_tick(lambda: node.replicator.rejoin.enter(Standing.REJOINING))

    trio.run(run)
    assert heard == [Standing.READY, Standing.REJOINING]


def test_what_no_frame_can_hold_ends_its_link_alone() -> None:
    lab = ready(Lab("a", "b", "c"))
    a = lab["a"]
    link = end(lab.wire("a", "b"), a)
    link.send(m.BodyData(bytes(16), 1, 0, 2**21, bytes(2**21)))
    assert link.dropped
    lab.run(0.1)
    a.put("key", "1")
    lab.run(0.1)
    assert lab["c"].get("key") == b"1"


def test_who_is_gone_is_forgotten_and_strangers_are_not_remembered() -> None:
    lab = ready(Lab("a", "b", "c"))
    a = lab["a"]
    a.replicator.roster.remove(lab["c"].id)
    a.replicator.after_commit()
    a.replicator.committed(lab.now)
    a.due = 0.0
    lab.run(5.0)
    assert list(a.replicator.vectors.known) == [lab["b"].id]
    link = end(lab.wire("a", "b"), a)
    told = [m.Vector(bytes([n]) * 16, b"x" * 16, 1, True, {}, {}, {}, 0) for n in (1, 2)]  # passed on by b
    a.replicator.on_messages(link, told, lab.now)
    assert list(a.replicator.vectors.known) == [lab["b"].id]


def test_the_origins_that_are_held_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replication.dissemination._HELD_MAX", 10)
    lab = ready(Lab("a", "b"))
    b = lab["b"]
    hlc = (lab.wall_ms() + 100_000) << 16
    runs = [part(bytes([65 + n]) * 16, 0, 1, [1], hlc, more=False) for n in range(20)]
    b.replicator.on_messages(end(lab.wire("a", "b"), b), runs, lab.now)
    assert len(b.replicator.dissemination.held) == 10
    assert all(b.replica.covered(run.run.origin) == 0 for run in runs)


def test_who_has_no_link_with_a_writer_whose_clock_is_ahead_is_shown_what_it_wrote() -> None:
    lab = ready(Lab("a", "b", "c", "d"))
    for pair in (("a", "c"), ("a", "d"), ("b", "d")):
        lab.cut(lab.wire(*pair))
    b, c, d = (lab[name] for name in "bcd")
    for node in (b, c):
        node.replicator.common.is_partial_view = lambda: True
    b.replicator.dissemination.flows[c.id].relays = True
    c.replicator.dissemination.flows[d.id].relays = True
    origin, hlc = b"A" * 16, (lab.wall_ms() + 86_400_000) << 16
    wire = lab.wire("a", "b")
    b.replicator.on_messages(end(wire, b), [part(origin, 0, 3, [1, 2, 3], hlc, more=False)], lab.now)
    b.replicator.after_commit()
    lab.run(2 * lab.options.relay_vectors_interval, 0.1)
    assert [origin in node.replicator.dissemination.held for node in (b, c, d)] == [True] * 3
    assert [node.replica.covered(origin) for node in (b, c, d)] == [0, 0, 0]
    assert b.replicator.holders(origin) == 3
    assert d.replicator.holders(origin) == 3


# --- absurd claims


ABSURD = 2**63


def test_a_horizon_in_the_far_future_does_not_move_the_clock() -> None:
    lab = ready(Lab("a", "b"))
    b = lab["b"]
    wire = lab.wire("a", "b")
    wire.drops = lambda sender, message: isinstance(message, m.SyncEnd)
    b.replicator.syncs.want(end(wire, b))
    lab.run(0.2)
    session = next(iter(b.replicator.syncs.asking.values()))
    b.put("unseen", "1")
    end_of = m.SyncEnd(session.number, {}, {}, ABSURD, session.count)
    b.replicator.on_messages(end(wire, b), [end_of], lab.now)
    assert b.replica.hlc < ABSURD
    assert b.replica.horizon() < ABSURD
    b.replicator.after_commit()
    told = m.Vector(lab["a"].id, end(wire, b).boot, 10**6, False, {}, {}, {}, ABSURD)
    b.replica.rotate()
    b.replicator.on_messages(end(wire, b), [told], lab.now)
    assert b.get("unseen") == b"1"
    assert not b.dead_letters


def test_floors_beyond_what_their_teller_covers_are_not_taken_over() -> None:
    lab = ready(Lab("a", "b"))
    a, b = lab["a"], lab["b"]
    wire = lab.wire("a", "b")
    wire.drops = lambda sender, message: isinstance(message, m.SyncEnd)
    b.replicator.syncs.want(end(wire, b))
    lab.run(0.2)
    session = next(iter(b.replicator.syncs.asking.values()))
    origin = a.replica.origin(Lane.SMALL)
    assert origin is not None
    end_of = m.SyncEnd(session.number, a.replica.vector(), {origin: ABSURD - 1}, 0, session.count)
    b.replicator.on_messages(end(wire, b), [end_of], lab.now)
    assert not b.replica.floors()
    told = m.Vector(a.id, end(wire, b).boot, 10**6, False, {}, {}, {origin: ABSURD - 1}, 0)
    b.replicator.on_messages(end(wire, b), [told], lab.now)
    b.replicator.after_commit()
    assert standing(b) == Standing.READY


# --- what others wrote is not undone


def test_a_vector_beside_the_end_of_a_sync_is_compared_with_what_that_grants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab("a")
    a = lab["a"]
    a.put("key", "1")
    lab.run(1.0)
    origin = a.replica.origin(Lane.SMALL)
    assert origin is not None
    a.replica.cover({}, {origin: 1}, 0)
    c = lab.add("c")
    wire = lab.link("a", "c")
    wire.drops = lambda sender, message: isinstance(message, m.SyncEnd)
    lab.run(0.5)
    (end_of,) = lab.messages("a", "c", m.SyncEnd)
    told = [one for one in lab.messages("a", "c", m.Vector) if one.floors]
    assert standing(c) == Standing.JOINING
    committed = c.replica.vector()
    monkeypatch.setattr(c.replica, "vector", lambda: committed)  # until the tick is, as with a real store
    c.replicator.on_messages(end(wire, c), [end_of, attrs.evolve(told[-1], number=10**6)], lab.now)
    assert standing(c) == Standing.READY


def test_what_a_server_does_not_cover_is_not_from_the_past_because_another_has_purged() -> None:
    lab = ready(Lab("a", "b", "c"))
    a, b = lab["a"], lab["b"]
    for other in "ab":
        lab.cut(lab.wire(other, "c"))
    a.put("key", "1")
    lab.run(0.2)
    assert b.get("key") == b"1"
    b.replica.cover({}, {}, a.replica.hlc)  # a has purged up to there, and told
    lab.cut(lab.wire("a", "b"))
    b.replicator.rejoin.enter(Standing.REJOINING)
    b.replicator.after_commit()
    lab.link("b", "c")
    lab.run(3.0)
    assert standing(b) == Standing.READY
    assert not b.dead_letters
    assert b.get("key") == b"1"
