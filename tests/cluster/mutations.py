"""Does the simulation find what it is there to find? Each mutation breaks one mechanism; seeds run until one fails.

    python -m tests.cluster.mutations              all of them; the table goes into docs/architecture.md
    python -m tests.cluster.mutations no-floors    these only

A mutation replaces methods of the product while its seeds run, in a process of its own. The mechanisms back
each other up in places, so some mutations take two guards away at once; their text says so.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs

from replication.dissemination import Dissemination
from replication.exchange import Exchange
from replication.node import PeerNode
from replication.rejoin import Rejoin
from replication.replicator import Replicator
from replication.roster import Roster
from replication.stability import Stability
from replication.sync import Syncs
from replication.unlisted import Unlisted
from storage import applying
from storage.applying import Applier
from storage.changes import Lane, Run, VersionVector
from storage.feed import SnapshotFeed
from storage.ledger import Ledger
from storage.replica import StoreReplica
from storage.version import HLC_MAX, ORIGIN_BYTES
from tests.cluster import swarm, test_groups, test_late_duplicates, test_scenarios_members
from tests.cluster.history import Violation
from tests.cluster.world import template

SEEDS_MAX: Final = 600
_NOT_FOUND: Final = "not found"
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "architecture.md"
_BEGIN: Final = "<!-- written by make mutations -->"
_END: Final = "<!-- end -->"

Patch = tuple[type[Any] | Any, str, Any]

# Fresh writes beneath the purge horizon are taken as any other.
_TAKE_ALL: Final[Patch] = (Dissemination, "_is_beneath_horizon", lambda self, run, covered: False)


class Mutation(NamedTuple):
    name: str
    text: str
    patches: Callable[[], list[Patch]]
    purges: bool = False  # about purging: hunted with those seeds that are about nothing else
    events: str | None = None  # hunted with those seeds that have events of this kind
    grouped: bool = False  # about groups: hunted with those seeds in which some hosts carry one
    partial: bool = False  # about what is passed on: hunted with those seeds that have partial views
    scenario: Callable[[Sequence[int]], None] | None = None  # finds it where the seeds seldom or never do


def _judge_by_stamp() -> list[Patch]:
    """No dot is dropped because it is covered. The log takes in again what it has passed, as when a record is mended."""
    merge, wants_body, offer = Applier.merge, Applier.wants_body, Dissemination.offer

    def merge_all(self: Applier, run: Run, number: int, after: int) -> int:
        self._txn.accept().mends = True
        return merge(self, run, number, 0)

    def offer_again(self: Dissemination, run: Run, flow: Any) -> None:
        replica = self._core.replica
        is_duplicate = run.upto <= replica.covered(run.origin) and not self._is_own(run.origin)
        if is_duplicate and not replica.needs_body(run):
            replica.merge(run)
        offer(self, run, flow)

    return [
        (Applier, "merge", merge_all),
        (Applier, "wants_body", lambda self, run, after: wants_body(self, run, 0)),
        (Dissemination, "offer", offer_again),
    ]


def _reuse_origin() -> list[Patch]:
    """A restarted node goes on under the origin that it had, from where its disk ends."""

    def draw(self: Ledger, lane: Any) -> None:
        earlier = [
            number
            for number, kind in enumerate(self.lanes)
            if number and kind == int(lane.lane) and self._stored[number]
        ]
        if lane.lane is Lane.SMALL and earlier and lane.origin == 0:
            lane.origin = earlier[-1]
            lane.seq = self._covered.get(lane.origin, 0)
            return
        lane.origin = self._append(self._entropy(ORIGIN_BYTES), int(lane.lane))
        lane.seq = 0

    return [(Ledger, "draw", draw)]


def _cover_at_start() -> list[Patch]:
    """The vector of a sync is granted when the session begins."""
    original = Syncs.on_start

    def on_start(self: Syncs, link: Any, start: Any) -> None:
        original(self, link, start)
        session = self._asked(link, start.number)
        if session is not None and not session.full:
            self._core.replica.cover(start.vector, start.floors, start.horizon)

    return [(Syncs, "on_start", on_start)]


def _purge_on_minimum() -> list[Patch]:
    """What all members claim is purged without waiting until this node covers what any of them claims.

    And no horizon catches what comes late.
    """

    def end_epoch(self: Stability, now: float) -> None:
        if self._frozen is not None:
            self._purgeable = self._purgeable.merged(self._frozen.least)
            self._frozen = None

    return [(Stability, "_end_epoch", end_epoch), _TAKE_ALL]


def _purge_during_syncs() -> list[Patch]:
    """A sync that was asked for before the epoch began may go on beyond its end."""
    return [(Syncs, "awaits_since", lambda self, moment: False)]


def _purge_expired_by_age() -> list[Patch]:
    """The marks of what has expired are purged though a member may have extended the expiry."""
    return [(Stability, "_settled", lambda self, node: HLC_MAX)]


def _purge_by_age() -> list[Patch]:
    """Marks of deletion are purged when they are old, whoever has them."""
    return [(Stability, "covers", lambda self, origin, seq: self.may_purge)]


def _forget_absent() -> list[Patch]:
    """Members that are not linked at the moment are not waited for."""
    original = Stability._claims_by_node

    def claims(self: Stability) -> dict[bytes, VersionVector | None]:
        found = original(self)
        own = self._core.identity.node
        return {node: claim for node, claim in found.items() if node == own or node in self._core.links}

    return [(Stability, "_claims_by_node", claims)]


def _no_floors() -> list[Patch]:
    """Nobody tells what was purged, so nobody is sent back to a full sync."""
    return [
        (StoreReplica, "floors", lambda self: VersionVector()),
        (SnapshotFeed, "floors", lambda self: VersionVector()),
    ]


def _no_horizon() -> list[Patch]:
    """Fresh writes beneath the purge horizon are taken, and own stale ones are kept; without floors' help."""
    return [
        _TAKE_ALL,
        (Rejoin, "on_peer_horizon", lambda self, known: None),
        (StoreReplica, "horizon", lambda self: 0),
        (Rejoin, "_settle", lambda self, stale: None),
    ]


def _no_snapshot() -> list[Patch]:
    """A sync walks the live index, and ends with the vector of its start."""

    class Live:
        def __init__(self, engine: Any) -> None:
            self.get, self.multi_get, self.iterate = engine.get, engine.multi_get, engine.iterate

        def close(self) -> None:
            """Nothing is held."""

    original = SnapshotFeed.__init__

    def init(self: SnapshotFeed, snapshot: Any, now: Any, *rest: Any) -> None:
        snapshot.close()
        original(self, Live(now), now, *rest)

    return [(SnapshotFeed, "__init__", init)]


def _claim_unsynced() -> list[Patch]:
    """What is committed is claimed, whether it is safe or not."""
    return [(StoreReplica, "durable", lambda self: self.vector())]


def _withhold_uncovered() -> list[Patch]:
    """A sync leaves out what the server's own vector does not cover."""
    original = SnapshotFeed.runs_after

    def runs_after(self: SnapshotFeed, vector: Mapping[bytes, int]) -> Iterator[Run]:
        own = self.vector()
        for run in original(self, vector):
            changes = [change for change in run.changes if change.seq <= own[run.origin]]
            if changes:
                yield run._replace(changes=changes, upto=changes[-1].seq)

    return [(SnapshotFeed, "runs_after", runs_after)]


def _ignore_count() -> list[Patch]:
    """A sync is granted whatever has arrived of it, and the server does not mind what was lost of its queue."""
    original = Syncs.on_end

    def on_end(self: Syncs, link: Any, end: Any) -> None:
        session = self._asked(link, end.number)
        if session is not None:
            end = attrs.evolve(end, count=session.count)
        original(self, link, end)

    def lose(self: Syncs, session: Any, run: Run) -> None:
        """Stand in for what a queue that overflows may lose: one run of twenty."""
        if (
            sha256(run.origin + session.number.to_bytes(4, "big") + run.upto.to_bytes(8, "big")).digest()[0]
            > 12
        ):
            merge(self, session, run)

    merge = Syncs._merge
    return [
        (Syncs, "on_end", on_end),
        (Syncs, "_merge", lose),
        (Syncs, "drop_serving", lambda self, link: None),
    ]


def _drop_expiry() -> list[Patch]:
    """Expiries that come from others are taken as covered and not looked at."""
    return [(Applier, "_merge_expiry", lambda self, change, register: (False, False))]


def _tie_by_arrival() -> list[Patch]:
    """Of two writes at the same clock value the one that comes last wins."""

    def is_newer(left: bytes, right: bytes, origins: Sequence[bytes]) -> bool:
        return left[:8] > right[:8]

    return [(applying, "is_newer", is_newer)]


def _skip_gap() -> list[Patch]:
    """A run is applied though something before it is missing."""
    original = Dissemination.offer

    def offer(self: Dissemination, run: Run, flow: Any) -> None:
        covered = self._core.replica.covered(run.origin)
        original(self, run._replace(after=covered) if run.after > covered else run, flow)

    return [(Dissemination, "offer", offer)]


def _keep_unlisted() -> list[Patch]:
    """A full sync only adds: what the server no longer has stays."""
    return [(Unlisted, "drop", lambda self, replica: None)]


def _sweep_nothing_below() -> list[Patch]:
    """A flush that comes from another node does not hold back what comes later and is older."""
    original = Applier._is_dead

    def is_dead(self: Applier, keyspace: Any, old: Any, register: bytes) -> bool:
        floor, keyspace.floor = keyspace.floor, None
        try:
            return bool(original(self, keyspace, old, register))
        finally:
            keyspace.floor = floor

    return [(Applier, "_is_dead", is_dead)]


def _split_transactions() -> list[Patch]:
    """Every change leaves in a run of its own."""
    original = StoreReplica.take_fresh

    def take_fresh(self: StoreReplica) -> list[Run]:
        found = []
        for run in original(self):
            after = run.after
            for change in run.changes:
                found.append(Run(run.origin, after, change.seq, [change]))
                after = change.seq
            if after < run.upto:
                found.append(Run(run.origin, after, run.upto, []))
        return found

    def joined(runs: list[Run]) -> list[Run]:
        return runs

    from replication import dissemination

    return [(StoreReplica, "take_fresh", take_fresh), (dissemination, "joined", joined)]


def _no_rotation_after_failure() -> list[Patch]:
    """After a failed commit the origin is used on, its last sequences once more."""
    from storage.store import Store

    original = Store._revert

    def revert(self: Store) -> None:
        written = {lane: len(lane.places) for lane in self._txn.lanes}
        rotate = self._ledger.rotate
        self._ledger.rotate = lambda: None  # type: ignore[method-assign]
        try:
            original(self)
        finally:
            self._ledger.rotate = rotate  # type: ignore[method-assign]
        for lane, number in written.items():
            lane.seq -= number

    return [(Store, "_revert", revert)]


def _removal_at_once() -> list[Patch]:
    """A removed member is not waited for once its removal is known here; and no horizon catches what it sends."""
    return [(Roster, "_is_effective", lambda self, node: True), _TAKE_ALL]


def _ignore_deletion() -> list[Patch]:
    """A deletion that is older than what it meets is forgotten, instead of being kept for what is older still."""
    original = Applier._merge_floor

    def merge_floor(self: Applier, change: Any, register: bytes) -> tuple[bool, bool]:
        _, _, old = self._open(change.place)
        if old[3] is not None and old[3][:8] > register[:8]:
            return False, False
        return original(self, change, register)

    return [(Applier, "_merge_floor", merge_floor)]


def _observe_nothing() -> list[Patch]:
    """The clock does not follow what is taken in from others."""
    original = Applier.merge

    def merge(self: Applier, run: Run, number: int, after: int) -> int:
        before = self._txn.hlc
        won = original(self, run, number, after)
        self._txn.hlc = before
        return won

    return [
        (StoreReplica, "observe", lambda self, hlc: None),
        (Applier, "merge", merge),
    ]


def _relay_uncommitted() -> list[Patch]:
    """What a failed commit took back stays in the vector."""
    from storage.store import Store

    original = Store._revert

    def revert(self: Store) -> None:
        incoming = self._txn.incoming
        covered = {} if incoming is None else dict(incoming.covered)
        original(self)
        self._ledger._covered.update(covered)
        self._ledger._vectors = {}

    return [(Store, "_revert", revert)]


def _be_first_at_once() -> list[Patch]:
    """A node that knows of no other carrier begins a group without asking anybody, and purges like that."""

    def is_first(self: Replicator, exchange: Exchange) -> bool:
        return exchange.participants.remaining() == [self.core.identity.node]

    return [(Replicator, "_is_first", is_first), (Replicator, "_is_known_to_carry", lambda self: True)]


def _purge_from_the_past() -> list[Patch]:
    """A group is purged by the records of its carriers as they were on disk."""
    original = Replicator._open_group

    def open_group(self: Replicator, group: int) -> None:
        original(self, group)
        self.exchanges[group].stability.knows_members = lambda: True

    return [(Replicator, "_open_group", open_group), (Stability, "_knows_carriers", lambda self: True)]


def _depart_at_once() -> list[Patch]:
    """A departure is told before what other groups hold is handed over."""
    original = PeerNode._hand_over

    async def hand_over(self: PeerNode, exchanges: Sequence[Exchange]) -> None:
        if self.replicator.common in exchanges:
            await original(self, exchanges)

    return [(PeerNode, "_hand_over", hand_over)]


def _walk_all_groups() -> list[Patch]:
    """A full sync of a group drops what other groups hold."""
    return [(Ledger, "belongs", lambda self, number, group: not self.is_local(number))]


def _show_nothing_on() -> list[Patch]:
    """What an origin is held for stays with those that its node is linked with."""
    return [(Dissemination, "_show_latest", lambda self, *_: None)]


MUTATIONS: Final = (
    Mutation(
        "judge-by-stamp",
        "covered dots are judged by their stamp",
        _judge_by_stamp,
        purges=True,
        scenario=test_late_duplicates.test_what_comes_again_after_its_deletion_was_purged_stays_dead,
    ),
    Mutation("reuse-origin", "an origin is used on after a restart", _reuse_origin),
    Mutation("cover-at-start", "a sync's vector is granted at its start", _cover_at_start),
    Mutation("purge-on-minimum", "purge does not wait for what others have", _purge_on_minimum, purges=True),
    Mutation("purge-by-age", "purge asks nobody", _purge_by_age, purges=True),
    Mutation(
        "expired-by-age", "expired keys' marks are purged by age", _purge_expired_by_age, events="expire"
    ),
    Mutation("forget-absent", "purge waits only for linked members", _forget_absent, purges=True),
    Mutation(
        "purge-during-sync",
        "purge does not wait for syncs",
        _purge_during_syncs,
        events="expel",
        scenario=test_scenarios_members.test_a_sync_from_before_a_deletion_brings_nothing_back_of_who_was_removed,
    ),
    Mutation("removal-at-once", "a removal counts before all know of it", _removal_at_once, purges=True),
    Mutation("no-floors", "no purge floors, so no NEED_FULL", _no_floors, purges=True),
    Mutation("no-horizon", "no purge horizon, and stale writes stay", _no_horizon, purges=True),
    Mutation("no-snapshot", "a sync walks the live index", _no_snapshot, purges=True),
    Mutation("claim-unsynced", "claims before the sync of the disk", _claim_unsynced),
    Mutation("withhold-uncovered", "a sync leaves uncovered dots out", _withhold_uncovered, purges=True),
    Mutation("ignore-count", "a run of twenty is lost, and the sync granted all the same", _ignore_count),
    Mutation("drop-expiry", "expiries of others are dropped", _drop_expiry),
    Mutation("tie-by-arrival", "equal clock values are decided by arrival", _tie_by_arrival),
    Mutation("skip-gap", "a run is applied over a gap", _skip_gap),
    Mutation("keep-unlisted", "a full sync only adds", _keep_unlisted, purges=True),
    Mutation("flush-kills-once", "a flush does not stay", _sweep_nothing_below),
    Mutation("split-transactions", "transactions travel change by change", _split_transactions),
    Mutation("no-rotation", "an origin is used on after a failed commit", _no_rotation_after_failure),
    Mutation("cover-failed", "a failed commit stays covered", _relay_uncommitted),
    Mutation(
        "ignore-deletion", "a late deletion beneath a newer value is forgotten", _ignore_deletion, purges=True
    ),
    Mutation("observe-nothing", "the clock ignores what comes in", _observe_nothing),
    Mutation(
        "first-at-once",
        "a group's first carrier asks nobody, nor when it purges",
        _be_first_at_once,
        True,
        grouped=True,
        scenario=test_groups.test_two_that_were_first_in_halves_that_grew_apart_purge_nothing_of_each_other,
    ),
    Mutation(
        "purge-from-past",
        "a group's carriers are those on disk",
        _purge_from_the_past,
        True,
        grouped=True,
        scenario=test_groups.test_a_carrier_from_the_past_does_not_purge_as_if_it_were_alone,
    ),
    Mutation(
        "depart-at-once",
        "who leaves tells before it hands over",
        _depart_at_once,
        True,
        grouped=True,
        scenario=test_groups.test_a_carrier_hands_a_group_over_before_it_is_known_to_leave,
    ),
    Mutation("mix-groups", "walks show all groups", _walk_all_groups, grouped=True),
    Mutation(
        "show-nothing-on",
        "what an origin is held for is not shown on",
        _show_nothing_on,
        events="keep-cutting",
        partial=True,
    ),
)


def apply(mutation: Mutation) -> None:
    """Break this process for good."""
    for target, name, replacement in mutation.patches():
        assert hasattr(target, name), f"{mutation.name}: {target} has no {name} any more"
        setattr(target, name, replacement)


def hunt(name: str, seeds_max: int = SEEDS_MAX) -> tuple[str, int | None, str, float]:
    """Run seeds under a mutation until one fails; return (name, seeds needed, failure, CPU seconds)."""
    mutation = next(one for one in MUTATIONS if one.name == name)
    started = time.process_time()
    for number in range(2, 6):
        template(number)
    apply(mutation)
    for number, plan in enumerate(islice(_plans(mutation), seeds_max)):
        failure = swarm.attempt(plan)
        if failure is not None:
            return name, number + 1, failure, time.process_time() - started
    return name, None, _scene(mutation), time.process_time() - started


def _scene(mutation: Mutation) -> str:
    """Return whether the scenario finds what the seeds have not."""
    failure = _NOT_FOUND
    if mutation.scenario is not None:
        try:
            mutation.scenario(range(2))
        except* (AssertionError, Violation):
            failure = f"a scenario: {mutation.scenario.__name__}"
    return failure


def _plans(mutation: Mutation) -> Iterator[swarm.Plan]:
    """Yield the plans of those seeds that have to do with a mutation."""
    step = swarm.PURGING_EVERY if mutation.purges else 1
    first = swarm.PARTIAL_FROM if mutation.partial else swarm.GROUPED_FROM if mutation.grouped else 0
    for seed in count(first + step - 1, step):
        plan = swarm.draw(seed)
        if mutation.events is None or any(event.kind == mutation.events for event in plan.events):
            yield plan


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.cluster.mutations", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX)
    parser.add_argument("--processes", type=int, help="as many as there are cores, if not given")
    options = parser.parse_args(arguments)
    names = options.names or [mutation.name for mutation in MUTATIONS]
    found: dict[str, tuple[int | None, str]] = {}
    with ProcessPoolExecutor(options.processes, max_tasks_per_child=1) as pool:
        for job in as_completed([pool.submit(hunt, name, options.seeds) for name in names]):
            name, seeds, failure, seconds = job.result()
            found[name] = seeds, failure
            print(f"{name:<20} {seeds or '-':>6} {seconds:>6.1f} s  {failure[:90]}", flush=True)
    table = _table(found, options.seeds)
    print(table)
    if not options.names:
        _write(table)
    return 1 if any(failure == _NOT_FOUND for _, failure in found.values()) else 0


def _table(found: Mapping[str, tuple[int | None, str]], seeds_max: int) -> str:
    """Return what was found as a table of Markdown."""
    lines = ["| mutation | what is broken | seeds needed | found by |", "| --- | --- | --- | --- |"]
    for mutation in MUTATIONS:
        if mutation.name in found:
            seeds, failure = found[mutation.name]
            needed = f"not in {seeds_max}" if seeds is None else str(seeds)
            lines.append(f"| {mutation.name} | {mutation.text} | {needed} | {_finder(failure)} |")
    return "\n".join(lines)


def _finder(failure: str) -> str:
    """Return which check has failed: an invariant by its number, or by what it guards."""
    text = failure.removeprefix("Violation: ")
    number = re.match(r"I\d+", text)
    if number is not None:
        return number[0]
    for words, name in _FINDERS.items():
        if words in text:
            return name
    return text.partition(":")[0][:60]


# What failures say that name no invariant, and what they are found by.
_FINDERS: Final = {
    "has lost nothing and": "no node undoes writes that were never lost",
    "session ": "sessions (reads never go back)",
    "chunk of origin": "the verifier of the store",
    "record ": "the verifier of the store",
    "a scenario": "a scenario of its own",
    _NOT_FOUND: "-",
}


def _write(table: str) -> None:
    """Put the table into the documentation."""
    text = DOCUMENT.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{DOCUMENT} has no place for the table")
    DOCUMENT.write_text(f"{before}{begin}\n{table}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
