"""Fresh writes on their way: pushed at once, relayed where asked for, pulled where one is missing.

What was written here goes to every usable link; what came from another goes on to those peers that have asked
for it (`LinkMode`). In a full mesh nobody has, since everybody hears the writer itself; in a partial view
everybody has until a link has brought five duplicates more than twice its latest news. So the eager links become few
by themselves, those by which news comes first, and the vectors of `vectors` show what a broken link has kept back
(Source: Plumtree, Leitao et al. 2007; there one duplicate ends it, for a tree has one sender. Of many, a link may
bring those on its side first: without it they would come by a detour, or not before they are missed).

A run is applied only where it joins what is covered (R5.1):

    upto <= covered            a duplicate, dropped without looking at a stamp: what is dead stays dead
    after <= covered < upto    applied, and passed on after the commit
    covered < after            parked until a PULL has closed the gap, or a sync has

Pushing is a convenience and may fail at any moment: a slow peer's queue is emptied and left so (`behind`),
parked runs are dropped when there are too many, and the sync brings what was lost.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import attrs

from replication.core import Core, Link
from replication.messages import LinkMode, Pull, Push, SyncFail, SyncFailure
from storage.changes import INLINE_BYTES_MAX, Change, Kind, Lane, Run, earliest_hlc, has_numbers, latest_hlc

if TYPE_CHECKING:
    from replication.bodies import Bodies
    from replication.clock import ClockGate

# Bytes of contents in one frame: well below the greatest frame, and a few milliseconds of applying.
PART_BYTES: Final = 256 * 1024
PART_CHANGES: Final = 2048
# Origins that are held at once: more than a cluster of a thousand members has in use.
_HELD_MAX: Final = 4096
# Duplicates that a run outweighs which no other link has brought before: a link that brings every third first stays.
_NEWS_WEIGHT: Final = 2
# What a change costs beside its content, about: for the bounds of queues and parts.
CHANGE_BYTES: Final = 64


def change_bytes(change: Change) -> int:
    """Estimate what a change takes on the wire and in memory."""
    content = change.content
    size = len(content) if isinstance(content, bytes) else 8
    return CHANGE_BYTES + len(change.place) + size + len(change.metadata or b"") + len(change.sub)


def run_bytes(run: Run) -> int:
    """Return the sum of `change_bytes` of a run's changes, and its own head."""
    size = CHANGE_BYTES * (1 + len(run.changes))
    for _, _, _, place, content, metadata, sub, _, _, _ in run.changes:  # hot: by fields, not by names
        size += len(place) + len(sub) + (len(content) if type(content) is bytes else 8)
        if metadata is not None:
            size += len(metadata)
    return size


def body_bytes(run: Run) -> int:
    """Return the bytes of the bodies that are still to be fetched for this run."""
    if not has_numbers(run.changes):
        return 0
    return sum(change.content for change in run.changes if is_bodied(change))  # type: ignore[misc]


def is_bodied(change: Change) -> bool:
    """Tell whether the change's content is a size, and the value is elsewhere."""
    return change.kind == Kind.VALUE and isinstance(change.content, int)


@attrs.define(eq=False)
class Flow:
    """What one link carries: whether it may, in which mode, and how the peer takes it."""

    link: Link
    ready: bool = False  # both sides know each other's vector and floors, and neither is below the other's
    relays: bool = False  # the peer wants what others wrote
    behind: bool = False  # its queue was full; a sync has to bring it back
    eager: bool = False  # what was asked of the peer
    duplicates: int = 0  # more than the news that it has brought outweighs
    have: dict[bytes, int] = attrs.field(factory=dict)  # the peer's, as it told
    parts: list[Change] = attrs.field(factory=list)  # of a run that comes in parts
    parts_of: tuple[bytes, int, int] = (b"", 0, 0)  # that run's (origin, after, upto)
    parts_bytes: int = 0
    # All data that had been queued at `data_since` is sent once so many bytes of it are.
    data_mark: int = 0
    data_since: float = 0.0


@attrs.define(eq=False)
class _Parked:
    """Runs of one origin that do not join what is covered yet."""

    runs: list[tuple[Run, Flow]] = attrs.field(factory=list)
    changes: int = 0
    bytes: int = 0
    pull_at: float = 0.0
    pulled: bool = False


class Dissemination:
    """Pushes, relays, parks and pulls for one node."""

    def __init__(
        self,
        core: Core,
        clock: ClockGate,
        bodies: Bodies,
        *,
        want_sync: Callable[[Link], None],
        after_commit: Callable[[Callable[[], None]], None],
    ) -> None:
        self._core = core
        self._clock = clock
        self._bodies = bodies
        self._want_sync = want_sync
        self._after_commit = after_commit
        self.flows: dict[bytes, Flow] = {}  # by the peer's node id
        self._parked: dict[bytes, _Parked] = {}
        self._fetching: set[bytes] = set()  # origins whose next run waits for a body
        self._wanted: dict[bytes, tuple[float, Link, bool]] = {}  # origin -> (since, who has it, was pulled)
        self.held: dict[bytes, int] = {}  # origin -> clock value that is too far ahead
        self._history: deque[tuple[Run, int]] = deque()
        self._history_bytes = 0
        self.touched: OrderedDict[bytes, int] = OrderedDict()  # origin -> number of its last advance
        self.advances = 0
        self.ack_wanted = False  # somebody waits for a claim of what was pushed
        self.flush_at: float | None = None
        self.limit: Callable[[bytes], int | None] = _is_nowhere  # beyond which an origin was voided
        self.on_advance: Callable[[bytes, int], None] = _ignore_advance

    # --- links

    def on_link_up(self, link: Link, *, eager: bool) -> None:
        """Open the flow of a link. Nothing is pushed before `set_ready`."""
        self.flows[link.node] = Flow(link, relays=eager, eager=eager, data_since=self._core.now)

    def on_link_down(self, link: Link) -> None:
        flow = self.flows.get(link.node)
        if flow is None or flow.link is not link:
            return
        del self.flows[link.node]
        for origin, (_, other, _) in list(self._wanted.items()):
            if other is link:
                del self._wanted[origin]
        for origin in list(self._parked):
            self._forget_parked(origin, flow)

    def set_ready(self, link: Link, *, ready: bool) -> None:
        flow = self.flows.get(link.node)
        if flow is not None:
            flow.ready = ready

    def on_link_mode(self, link: Link, message: LinkMode) -> None:
        flow = self.flows.get(link.node)
        if flow is not None:
            flow.relays = message.eager

    def caught_up(self, link: Link) -> None:
        """Push on a link again: its peer has just been served a sync."""
        flow = self.flows.get(link.node)
        if flow is not None:
            flow.behind = False

    # --- what was written here

    def committed(self, now: float) -> None:
        """Take note that there may be fresh writes; they leave within `push_delay`."""
        if self.flush_at is None:
            self.flush_at = now + self._core.options.push_delay

    def flush(self) -> None:
        """Push what was committed here since the last time."""
        self.flush_at = None
        runs = self._core.replica.take_fresh()
        if not runs:
            return
        ack, self.ack_wanted = self.ack_wanted, False
        for run in joined(runs):
            self._advance(run)
            self._send(run, [flow for flow in self.flows.values() if flow.ready], wants_ack=ack)

    def ask_for_claims(self) -> None:
        """Have all peers make durable what they have, and tell: somebody waits for it."""
        self.ack_wanted = True
        self.flush()
        if self.ack_wanted:  # nothing was pushed that could carry the question
            self.ack_wanted = False
            question = Push(Run(self._core.identity.node, 0, 0, ()), wants_ack=True)
            for flow in self.flows.values():
                if flow.ready and not flow.behind:
                    flow.link.send_data(question)

    def _advance(self, run: Run) -> None:
        """Remember a run that is covered now, for vectors and pulls."""
        self.advances += 1
        self.touched[run.origin] = self.advances
        self.touched.move_to_end(run.origin)
        size = run_bytes(run)
        self._history.append((run, size))
        self._history_bytes += size
        while self._history_bytes > self._core.options.history_bytes_max:
            self._history_bytes -= self._history.popleft()[1]
        self.on_advance(run.origin, run.upto)

    def advanced(self, origin: bytes) -> None:
        """Take note that a sync has raised an origin's entry in the vector."""
        self.advances += 1
        self.touched[origin] = self.advances
        self.touched.move_to_end(origin)

    def _send(self, run: Run, flows: list[Flow], *, wants_ack: bool = False) -> None:
        """Queue `run` on those of `flows` whose peer lacks it; encode it once."""
        frames: list[bytes] | None = None
        for flow in flows:
            if flow.behind or flow.have.get(run.origin, 0) >= run.upto:
                continue
            if frames is None:
                frames = [flow.link.encode(push) for push in parts_of(run, wants_ack=wants_ack)]
            for frame in frames:
                flow.link.send_frame(frame)
            self._core.count("push_sent_total")
            if flow.link.data_bytes > self._core.options.queue_bytes_max:
                self._fall_behind(flow, "its queue is full")

    def _fall_behind(self, flow: Flow, why: str) -> None:
        """Stop pushing to a peer that is too slow; a sync brings it what it misses."""
        flow.behind = True
        flow.link.clear_data()
        self._core.count("link_behind_total")
        self._core.log.warning("peer falls behind", peer=flow.link.node.hex()[:8], why=why)
        self._core.on_data_cleared(flow.link)

    def fallen_behind(self, link: Link) -> None:
        """Take note that data for a peer was dropped; it may have been another group that filled the queue."""
        flow = self.flows.get(link.node)
        if flow is not None:
            flow.behind = True

    # --- what comes in

    def on_push(self, link: Link, push: Push) -> None:
        """Take a run, or a part of one, from a peer. Inside a tick."""
        flow = self.flows.get(link.node)
        if flow is None:
            return
        self._core.count("push_received_total")
        # Parts are put together in any case: the last one alone looks like a whole run.
        run = self._assembled(flow, push)
        if run is None or not flow.ready:
            return  # if not ready: what its peer may push is not known yet; a sync follows
        if push.wants_ack:
            self._after_commit(self._core.claim_soon)
        if run.upto > run.after:
            self.offer(run, flow)

    def _assembled(self, flow: Flow, push: Push) -> Run | None:
        """Return the whole run once its last part is there.

        The sender may drop what it has queued (`_fall_behind`): then other runs follow the first parts of one.
        """
        changes = push.run.changes
        named = (push.run.origin, push.run.after, push.run.upto)
        if flow.parts and (
            flow.parts_of != named or (changes and changes[0].seq <= flow.parts[-1].seq)  # sent again
        ):
            flow.parts, flow.parts_bytes = [], 0
        if not push.more and not flow.parts:
            return push.run
        flow.parts_of = named
        flow.parts.extend(changes)
        flow.parts_bytes += run_bytes(push.run)
        if flow.parts_bytes > 2 * self._core.options.transaction_bytes_max:
            flow.link.drop("a run without end")
            return None
        if push.more:
            return None
        run = push.run._replace(changes=flow.parts)
        flow.parts, flow.parts_bytes = [], 0
        return run

    def offer(self, run: Run, flow: Flow) -> None:
        """Apply, park or drop a run. Inside a tick."""
        if not flow.ready:
            return  # it has waited for a body, and what its peer may push is not known any more; a sync follows
        replica = self._core.replica
        covered = replica.covered(run.origin)
        flow.have[run.origin] = max(flow.have.get(run.origin, 0), run.upto)
        if run.upto <= covered:
            self._duplicate(flow)
            return
        if self._is_own(run.origin):
            # Only a copy of this data directory can have written that.
            self._core.rotate_soon("a peer has more of this node's own writes than this node")
            return
        limit = self.limit(run.origin)
        if limit is not None and run.upto > limit:
            return
        if self.must_hold(run):
            return
        if run.after > covered or run.origin in self._fetching:
            self._park(run, flow)
            return
        if self._is_beneath_horizon(run, covered) or body_bytes(run) > self._core.options.body_bytes_max:
            self._want_sync(flow.link)
            return
        if replica.needs_body(run):
            self._fetch(run, flow)
            return
        self._apply(run, flow)

    def _apply(self, run: Run, flow: Flow) -> None:
        replica = self._core.replica
        flow.duplicates = max(flow.duplicates - _NEWS_WEIGHT, -self._core.options.duplicates_max)
        replica.apply(run)
        self._clock.observe_run(run)
        if run.changes:
            written_ms = run.changes[-1].hlc >> 16
            self._core.propagation.add((self._core.wall_ms() - written_ms) / 1000)
        self._core.count("changes_applied_total", len(run.changes))
        self._after_commit(lambda: self._pass_on(run, flow))
        self._unpark(run.origin)

    def _pass_on(self, run: Run, source: Flow) -> None:
        """Relay a run that has been committed; large values as their sizes, as they came."""
        run = _sized(run)
        self._advance(run)
        self._wanted.pop(run.origin, None)
        self._send(
            run, [flow for flow in self.flows.values() if flow.ready and flow.relays and flow is not source]
        )

    def _duplicate(self, flow: Flow) -> None:
        self._core.count("push_duplicate_total")
        flow.duplicates += 1
        if flow.eager and flow.duplicates >= self._core.options.duplicates_max:
            flow.eager = False
            flow.duplicates = 0
            flow.link.send(LinkMode(eager=False))

    def _is_own(self, origin: bytes) -> bool:
        replica = self._core.replica
        return origin in {replica.origin(Lane.SMALL), replica.origin(Lane.BULK)}

    def must_hold(self, run: Run) -> bool:
        """Tell whether the origin has to wait until this node's clock has come near to it (R3.2)."""
        if run.origin in self.held:
            return True
        latest = latest_hlc(run.changes)
        if self._clock.held_seconds(latest, self._core.wall_ms()) <= 0:
            return False
        if len(self.held) >= _HELD_MAX:
            return True  # not remembered: what follows parks, or is held itself
        self.held[run.origin] = latest
        self._core.count("origins_held_total")
        self._core.log.warning("origin held: its clock is ahead", origin=run.origin.hex()[:8])
        self._after_commit(lambda: self._show_latest(run))
        return True

    def _show_latest(self, run: Run) -> None:
        """Pass on what an origin is held for: whoever has no link with its writer would never judge it.

        A peer that does not hold it may apply it. So it is a write that was alone, or the last of its transaction, which
        joins nothing that a peer covers.
        """
        whole = [change for change in run.changes if change.group_end in {0, change.seq}]
        if not whole:
            return
        latest = max(whole, key=lambda change: change.hlc)
        shown = _sized(Run(run.origin, latest.seq - 1, latest.seq, [latest]))
        self._send(shown, [flow for flow in self.flows.values() if flow.ready and flow.relays])

    def release_held(self) -> None:
        """Let those origins go on whose time has come; a sync brings what they wrote."""
        wall_ms = self._core.wall_ms()
        for origin, hlc in list(self.held.items()):
            if self._clock.held_seconds(hlc, wall_ms) <= 0 or self.limit(origin) is not None:
                del self.held[origin]
                self._core.log.info("origin goes on", origin=origin.hex()[:8])
                self._sync_with_any()

    def _is_beneath_horizon(self, run: Run, covered: int) -> bool:
        """Tell whether a fresh dot is older than something purged: only a node that judged it may vouch for it."""
        horizon = self._core.replica.horizon()
        if earliest_hlc(run.changes) > horizon:
            return False
        return any(change.hlc <= horizon and change.seq > covered for change in run.changes)

    # --- bodies

    def _fetch(self, run: Run, flow: Flow) -> None:
        self._fetching.add(run.origin)
        self._bodies.fetch(
            flow.link, run, session=0, done=lambda whole: self._fetched(run.origin, whole, flow)
        )

    def _fetched(self, origin: bytes, run: Run | None, flow: Flow) -> None:
        """Go on with a run whose bodies are there; None: one was superseded or its link is gone. Inside a tick."""
        self._fetching.discard(origin)
        if run is not None:
            self.offer(run, flow)
        elif self.flows.get(flow.link.node) is flow:
            self._want_sync(flow.link)
        else:
            self._sync_with_any()
        self._unpark(origin)

    def _sync_with_any(self) -> None:
        ready = [flow.link for flow in self.flows.values() if flow.ready]
        if ready:
            self._want_sync(self._core.rng.choice(ready))

    # --- gaps

    def _park(self, run: Run, flow: Flow) -> None:
        options = self._core.options
        parked = self._parked.get(run.origin)
        if parked is None:
            parked = self._parked[run.origin] = _Parked(pull_at=self._core.now + options.pull_delay)
        parked.runs.append((run, flow))
        parked.changes += len(run.changes)
        parked.bytes += run_bytes(run)
        self._core.count("push_parked_total")
        if parked.changes > options.parked_changes_max or parked.bytes > options.parked_bytes_max:
            # Whoever parks so much is far behind: a sync is the better way.
            del self._parked[run.origin]
            self._want_sync(flow.link)

    def _forget_parked(self, origin: bytes, flow: Flow) -> None:
        """Drop what a link that is gone has brought."""
        parked = self._parked[origin]
        parked.runs = [one for one in parked.runs if one[1] is not flow]
        if not parked.runs:
            del self._parked[origin]

    def _unpark(self, origin: bytes) -> None:
        """Offer again what was parked of an origin."""
        parked = self._parked.get(origin)
        if parked is None:
            return
        covered = self._core.replica.covered(origin)
        if all(run.after > covered for run, _ in parked.runs):
            return
        del self._parked[origin]
        for run, flow in sorted(parked.runs, key=lambda one: (one[0].after, one[0].upto)):
            if run.upto > self._core.replica.covered(origin):
                self.offer(run, flow)

    def unpark_all(self) -> None:
        """Look at everything parked again: a sync has raised the vector. Inside a tick."""
        for origin in list(self._parked):
            self._unpark(origin)

    def on_have(self, link: Link, have: Mapping[bytes, int]) -> None:
        """Compare what a peer has with what is here; what is missing is asked for if it does not come."""
        flow = self.flows.get(link.node)
        if flow is None:
            return
        flow.have.update(have)
        for origin, seq in have.items():
            if seq > self._core.replica.covered(origin) and origin not in self.held:
                self._wanted.setdefault(origin, (self._core.now, link, False))

    def on_pull(self, link: Link, pull: Pull) -> None:
        """Answer from the runs that are remembered, or say that a sync is needed."""
        flow = self.flows.get(link.node)
        if flow is None or not flow.ready:
            return
        self._core.count("pull_served_total")
        found = [run for run, _ in self._history if run.origin == pull.origin and run.upto > pull.after]
        if not found or found[0].after > pull.after or not _are_joined(found):
            link.send(SyncFail(0, SyncFailure.NEED_SYNC))
            return
        for run in found:
            if run.after >= pull.upto:
                break
            for push in parts_of(run):
                link.send_data(push)
        if link.data_bytes > self._core.options.queue_bytes_max:
            self._fall_behind(flow, "its queue is full")

    # --- time

    def tick(self, now: float) -> float:
        """Do what is due; return when to be called again. Outside a tick of the store."""
        if self.flush_at is not None and self.flush_at <= now:
            self.flush()
        self._drop_old(now)
        due = self._pull_parked(now)
        due = min(due, self._ask_for_wanted(now))
        if self.held:
            due = min(due, now + 1.0)
        return min(due, self.flush_at if self.flush_at is not None else due)

    def _drop_old(self, now: float) -> None:
        for flow in self.flows.values():
            link = flow.link
            if not link.data_bytes or link.data_sent >= flow.data_mark:
                flow.data_mark, flow.data_since = link.data_sent + link.data_bytes, now
            elif now - flow.data_since > self._core.options.queue_age_max and not flow.behind:
                self._fall_behind(flow, "it does not take what was sent")

    def _pull_parked(self, now: float) -> float:
        due = now + 1.0
        for origin, parked in list(self._parked.items()):
            if now < parked.pull_at:
                due = min(due, parked.pull_at)
                continue
            if origin in self._fetching:
                continue
            run, flow = parked.runs[0]
            parked.pull_at = now + self._core.options.ihave_timeout
            if parked.pulled:
                del self._parked[origin]
                self._want_sync(flow.link)
                continue
            parked.pulled = True
            self._pull(flow.link, origin, run.after)
            due = min(due, parked.pull_at)
        return due

    def _ask_for_wanted(self, now: float) -> float:
        """Ask for what a peer has had for longer than a push should take."""
        timeout = self._core.options.ihave_timeout
        due = now + 1.0
        for origin, (since, link, pulled) in list(self._wanted.items()):
            flow = self.flows.get(link.node)
            if flow is None or flow.have.get(origin, 0) <= self._core.replica.covered(origin):
                del self._wanted[origin]
            elif (
                now < since + timeout
            ):  # the same sum as the due time, so that it is never due and too early at once
                due = min(due, since + timeout)
            elif pulled:
                del self._wanted[origin]
                self._want_sync(link)
            elif origin not in self._fetching:
                self._ask(flow, origin)
                self._wanted[origin] = (now, link, True)
                due = min(due, now + timeout)
        return due

    def _ask(self, flow: Flow, origin: bytes) -> None:
        if not flow.eager:
            flow.eager = True
            flow.duplicates = 0
            flow.link.send(LinkMode(eager=True))
        self._pull(flow.link, origin, flow.have[origin])

    def _pull(self, link: Link, origin: bytes, upto: int) -> None:
        self._core.count("pull_total")
        link.send(Pull(origin, self._core.replica.covered(origin), upto))


def joined(runs: list[Run]) -> list[Run]:
    """Join neighbouring runs of one origin, as far as one frame holds them."""
    found: list[Run] = []
    size = 0
    for run in runs:
        last = found[-1] if found else None
        more = run_bytes(run)
        if (
            last is not None
            and last.origin == run.origin
            and last.upto == run.after
            and size + more <= PART_BYTES
            and len(last.changes) + len(run.changes) <= PART_CHANGES
        ):
            found[-1] = Run(last.origin, last.after, run.upto, [*last.changes, *run.changes])
            size += more
        else:
            found.append(run)
            size = more
    return found


def parts_of(run: Run, *, wants_ack: bool = False) -> list[Push]:
    """Cut a run into messages of at most about `PART_BYTES`."""
    parts: list[list[Change]] = [[]]
    size = 0
    for change in run.changes:
        more = change_bytes(change)
        if parts[-1] and (size + more > PART_BYTES or len(parts[-1]) >= PART_CHANGES):
            parts.append([])
            size = 0
        parts[-1].append(change)
        size += more
    last = len(parts) - 1
    return [
        Push(run._replace(changes=part), more=index < last, wants_ack=wants_ack)
        for index, part in enumerate(parts)
    ]


def _sized(run: Run) -> Run:
    """Return the run with large values as their sizes."""
    large = {
        index: len(content)
        for index, content in enumerate([change.content for change in run.changes])
        if type(content) is bytes and len(content) > INLINE_BYTES_MAX
    }
    if not large:
        return run
    changes = list(run.changes)
    for index, size in large.items():
        changes[index] = changes[index]._replace(content=size)
    return run._replace(changes=changes)


def _are_joined(runs: list[Run]) -> bool:
    return all(left.upto == right.after for left, right in pairwise(runs))


def _is_nowhere(origin: bytes) -> int | None:
    return None


def _ignore_advance(origin: bytes, upto: int) -> None:
    """Stand in for whoever waits for the vector to grow."""
