"""Catching up: one node asks, another sends what it lacks, and only the end of it grants coverage.

    asker                               server
    SyncRequest(vector, floors) ──────▶ snapshot; make it durable
                 ◀────────────────────  SyncStart(vector of the snapshot)
                 ◀────────────────────  SyncBatch …           (while there is credit)
    merge, commit, Credit ────────────▶
                 ◀────────────────────  SyncEnd(vector, floors, horizon, count)
    cover: vector and floors at once

A batch is merged by stamps and covers nothing, so a session may break anywhere and has only saved the
next one work. Coverage at the start, or origin by origin, would claim what is still to come: what replaced
a change may lie under another origin, later in the session (R5.2).

The server sends what its snapshot holds beyond the asker's vector, also dots that its own vector does not
cover yet: they may have replaced what it claims.

A *full* sync walks the whole key space instead, for a node that holds nothing, or too little to be told the
difference (below the purge floors). It goes on at another server where it broke; then the vector granted
is the least of those at the starts, and the floors the greatest. At its end the asker drops what it
holds of the walked range, though its server, which covers that dot, did not list it: that was superseded,
and the evidence has been purged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from replication.asking import Asking, Progress, Walk
from replication.batches import full_batches, incremental_batches
from replication.core import Core, Link
from replication.dissemination import is_bodied, run_bytes
from replication.messages import (
    Credit,
    SyncBatch,
    SyncEnd,
    SyncFail,
    SyncFailure,
    SyncRequest,
    SyncStart,
)
from storage.changes import END_OF_PLACES, Change, ChangeFeed, Run, VersionVector, has_numbers

if TYPE_CHECKING:
    from replication.bodies import Bodies
    from replication.clock import ClockGate

# Snapshots that one link may keep open: a session, and one that has ended without the asker's having said so.
_SESSIONS_A_LINK: Final = 2
_RETRY_SECONDS: Final = 0.5
# Until it is looked again whether a link whose queue others have filled has room for a batch.
_ROOM_SECONDS: Final = 0.05
# Between two lines of the log about a session that takes long.
_TELL_SECONDS: Final = 5.0
# What a batch may have beyond its credit, and more: what has come and is not looked at yet is kept.
_BEYOND_CREDIT_MAX: Final = 16 * 1024 * 1024


@attrs.define(eq=False)
class _Serving:
    """A session in which this node is the server."""

    link: Link
    number: int
    full: bool
    feed: ChangeFeed
    batches: Iterator[SyncBatch | None]
    credit: int
    progress_at: float
    started: bool = False
    count: int = 0
    resume_at: float = 0.0  # not before: what was sent last has used up `sync_rate_max`
    ended_at: float | None = None  # everything is sent; the snapshot stays a while for bodies


class Syncs:
    """All sync sessions of one node."""

    def __init__(
        self,
        core: Core,
        clock: ClockGate,
        bodies: Bodies,
        *,
        after_commit: Callable[[Callable[[], None]], None],
    ) -> None:
        self._core = core
        self._clock = clock
        self._bodies = bodies
        self._after_commit = after_commit
        self._numbers = 0
        self.asking: dict[int, Asking] = {}
        self.serving: dict[tuple[int, int], _Serving] = {}  # (link number, session number)
        self.ended_at: dict[bytes, float] = {}  # by peer: when a sync from it last ended well
        self.walk: Walk | None = None  # a full sync is under way or to be gone on with
        self._wanted: dict[int, Link] = {}  # by link number: to be asked as soon as there is room
        self._not_before: dict[bytes, float] = {}  # by peer: it was busy
        self._next_random = 0.0
        self.is_void: Callable[[Run], bool] = _is_never  # whether any of its changes has been voided
        self.on_ahead: Callable[[Run], object] = _is_never  # a run of a batch that has to wait
        self.may_serve = True  # False while this node itself is joining or rejoining
        self.may_serve_all: Callable[[], bool] = _certainly  # to who syncs fully
        self.is_usable: Callable[[Link], bool] = _always  # whether a peer may serve this node
        # A session has ended well, in its tick: with the origins whose entries it has raised, and the walk that a
        # full one has ended.
        self.on_covered: Callable[[list[bytes], Walk | None], None] = _ignore_raised
        self.on_served: Callable[[Link], None] = _ignore  # a peer has got all
        self.may_end: Callable[[Walk], bool] = _has_all  # whether a walk that is at its end has shown enough
        # All that a server holds of a slice was merged.
        self.on_walked: Callable[[Sequence[Run]], None] = _ignore_runs
        self.on_need_full: Callable[[Link], None] = _ignore
        bodies.read_session = self._read_body

    # --- asking

    def want(self, link: Link) -> None:
        """Sync from this link's peer soon."""
        self._wanted[link.number] = link

    def want_full(self) -> None:
        """Start a full sync, or go on with the one that broke, at whichever peer is usable.

        What was asked for before is given up: behind the walk it could bring in what that has shown to be dead.
        """
        if self.walk is None:
            for session in list(self.asking.values()):
                self._ask_anew(session)
            self.walk = Walk(started_at=self._core.now)
            self._core.log.info("full sync wanted")

    def progress(self) -> list[Progress]:
        """Return how far the sessions are in which this node is sent something."""
        return [self._progress(session) for session in self.asking.values() if session.server is not None]

    def _progress(self, session: Asking) -> Progress:
        node, walk = session.link.node, self.walk
        if session.full and walk is not None:
            return Progress(node, True, walk.fraction, walk.changes, walk.bytes, walk.started_at)
        fraction = min(session.passed / session.total, 0.999) if session.total else 0.0
        return Progress(node, False, fraction, session.count, session.bytes, session.asked_at)

    def _tell_progress(self, session: Asking, now: float) -> None:
        """Let the log tell now and then how far a session is that takes long."""
        if session.server is None or now - session.told_at < _TELL_SECONDS:
            return
        session.told_at = now
        if self._is_looking(session):
            session.link.send(Credit(session.number, 0))  # the server waits no longer than for so long
        found = self._progress(session)
        self._core.log.info(
            "sync goes on",
            peer=found.node.hex()[:8],
            full=found.full,
            percent=round(100 * found.fraction, 1),
            changes=found.changes,
            bytes=found.bytes,
        )

    def is_asking(self, link: Link) -> bool:
        return any(session.link is link for session in self.asking.values())

    def awaits_since(self, moment: float) -> bool:
        """Tell whether a session goes on that was asked for at a moment or before: it may show what peers held then."""
        return any(session.asked_at <= moment for session in self.asking.values())

    def _start_wanted(self, now: float) -> None:
        if self.walk is not None:
            self._start_full(now)
            return
        for number, link in list(self._wanted.items()):
            if len(self.asking) >= self._core.options.sync_asking_max:
                return
            if not link.is_open or self._core.links.get(link.node) is not link:
                del self._wanted[number]
            elif (
                not self.is_asking(link)
                and self.is_usable(link)
                and now >= self._not_before.get(link.node, 0)
            ):
                del self._wanted[number]
                self._ask(link, full=False, cursor=b"")

    def _start_full(self, now: float) -> None:
        assert self.walk is not None
        if any(session.full for session in self.asking.values()):
            return
        usable = [
            link
            for link in self._core.links.values()
            if link.is_open and self.is_usable(link) and now >= self._not_before.get(link.node, 0)
        ]
        if usable:
            self._ask(self._core.rng.choice(usable), full=True, cursor=self.walk.cursor)

    def _ask(self, link: Link, *, full: bool, cursor: bytes) -> None:
        self._numbers += 1
        now = self._core.now
        self.asking[self._numbers] = Asking(link, self._numbers, full, now, now, now)
        replica = self._core.replica
        self._core.count("sync_started_total")
        link.send(
            SyncRequest(
                self._numbers,
                full,
                replica.vector(),
                replica.floors(),
                replica.horizon(),
                cursor,
                self._core.options.sync_credit_bytes,
            )
        )

    def on_start(self, link: Link, start: SyncStart) -> None:
        session = self._asked(link, start.number)
        if session is None:
            return
        if session.server is not None:
            link.drop("a sync that starts twice")
            return
        if self._is_absurd(start):
            self._fail(session, SyncFailure.HELD)
            return
        covered = self._core.replica.vector()
        session.begin(start, covered, self._core.now)
        for other in self.asking.values():
            if other is not session:
                session.meet(other, covered)
        walk = self.walk
        if session.full and walk is not None:
            walk.go_on(link.node, start)

    def on_batch(self, link: Link, batch: SyncBatch) -> None:
        """Merge a batch. Inside a tick."""
        session = self._asked(link, batch.number)
        if session is None:
            return
        if session.server is None:
            link.drop("a sync without a start")
            return
        session.progress_at = self._core.now
        runs = batch.runs
        if any(self.is_void(run) for run in runs):
            # What that has replaced is not sent, and would be missing.
            self._fail(session, SyncFailure.HELD)
            return
        held = self._seconds_ahead(max((change.hlc for run in runs for change in run.changes), default=0))
        if held > 0:
            for run in runs:
                self.on_ahead(run)
            # What is sent again before that time is refused again.
            self._fail(session, SyncFailure.HELD, retry=min(held, self._core.options.sync_interval))
            return
        if session.full and not self._is_next(batch):
            self._fail(session, SyncFailure.CANCEL)
            return
        if session.credit_due > self._core.options.sync_credit_bytes + _BEYOND_CREDIT_MAX:
            link.drop("a sync that does not wait for credit")
            return
        size = 0
        session.count += sum(len(run.changes) for run in batch.runs)
        for run in runs:
            size += run_bytes(run)
            session.passed += run.upto - run.after
            self._merge(session, run)
        session.take_in(size, self._core.now)
        self._core.count("sync_bytes_total", size)
        if session.full and self.walk is not None:
            self.on_walked(runs)
            unlisted = self.walk.unlisted
            unlisted.add(batch.start, batch.cursor, runs, session.server.vector)
            unlisted.look_on(self._core.replica, self._core.options.sync_look_places)
            self.walk.cursor = batch.cursor
            self.walk.changes += sum(len(run.changes) for run in batch.runs)
            self.walk.bytes += size
        self._after_commit(lambda: self._owe_credit(session, size))
        self._after_commit(lambda: self._note_safe(session))

    def _owe_credit(self, session: Asking, size: int) -> None:
        session.credit_due += size
        self._give_credit(self._core.now)

    def _give_credit(self, now: float) -> None:
        """Let the servers send more that do not have to wait for a rival."""
        for session in self.asking.values():
            if session.credit_due and not self._is_looking(session) and not session.has_to_wait(now):
                session.link.send(Credit(session.number, session.take_credit(now)))

    def _note_safe(self, session: Asking) -> None:
        """Take note that what a full sync has brought so far is committed, unless something of it is still to be done."""
        is_current = self.asking.get(session.number) is session
        is_done = not session.bodies and not self._is_looking(session)
        if session.full and is_current and is_done and self.walk is not None:
            self.walk.safe = self.walk.cursor

    def _is_absurd(self, claim: SyncStart | SyncEnd) -> bool:
        """Tell whether a server says that it purged what it does not cover, or what is still to be written.

        Nobody would ever be usable to a node that took such floors over, nor its clock right.
        """
        return self._seconds_ahead(claim.horizon) > 0 or is_below(claim.vector, claim.floors)

    def _seconds_ahead(self, hlc: int) -> float:
        """Return how long a clock value has to wait, as `ClockGate.held_seconds`."""
        return self._clock.held_seconds(hlc, self._core.wall_ms())

    def _merge(self, session: Asking, run: Run) -> None:
        """Merge a run; large values one by one, when their bodies are there."""
        for part in _cut_at_bodies(run):
            if self._core.replica.needs_body(part):
                session.bodies += 1
                self._bodies.fetch(
                    session.link,
                    part,
                    session=session.number,
                    done=lambda whole: self._fetched(session, whole),
                )
            else:
                self._core.replica.merge(part)
                self._clock.observe_run(part)

    def _fetched(self, session: Asking, run: Run | None) -> None:
        """Take a large value in. Inside a tick."""
        if self.asking.get(session.number) is not session:
            return
        session.bodies -= 1
        session.progress_at = self._core.now
        if run is None:
            self._fail(session, SyncFailure.IO)
            return
        self._core.replica.merge(run)
        self._clock.observe_run(run)
        self._after_commit(lambda: self._note_safe(session))
        if session.end is not None:
            self._finish(session)

    def _is_next(self, batch: SyncBatch) -> bool:
        """Tell whether a batch of a full sync goes on where the one before has ended."""
        walk = self.walk
        return walk is not None and batch.start == walk.cursor and batch.cursor >= batch.start

    def tick_in_store(self, now: float) -> None:
        """Look on at what a full sync has shown to be superseded. Inside a tick."""
        walk = self.walk
        if walk is None or not walk.unlisted.slices:
            return
        walk.unlisted.look_on(self._core.replica, self._core.options.sync_look_places)
        session = next((one for one in self.asking.values() if one.full), None)
        if session is not None:
            session.progress_at = now
            self._after_commit(lambda: self._looked(session))
            self._finish(session)

    def _looked(self, session: Asking) -> None:
        self._note_safe(session)
        self._give_credit(self._core.now)

    def _is_looking(self, session: Asking) -> bool:
        """Tell whether what a full sync has brought is more than could be looked at up to now."""
        return session.full and self.walk is not None and bool(self.walk.unlisted.slices)

    def on_end(self, link: Link, end: SyncEnd) -> None:
        """Grant what the session has brought. Inside a tick."""
        session = self._asked(link, end.number)
        if session is None:
            return
        if session.server is None or end.count != session.count:
            self._fail(session, SyncFailure.IO)
            return
        if self._is_absurd(end):
            self._fail(session, SyncFailure.HELD)
            return
        session.end = end
        session.progress_at = self._core.now
        self._finish(session)

    def _finish(self, session: Asking) -> None:
        if session.bodies or session.end is None or self._is_looking(session):
            return
        end = session.end
        if session.full:
            walk = self.walk
            if walk is None or walk.vector is None or walk.cursor < END_OF_PLACES:
                self._fail(session, SyncFailure.CANCEL)
                return
            if not self._is_sound(walk, walk.vector):
                self.walk = Walk(started_at=self._core.now)
                self._fail(session, SyncFailure.CANCEL)
                return
            walk.unlisted.drop(self._core.replica)
            ended: Walk | None = walk
            raised = self._cover(walk.vector, walk.floors, walk.horizon)
            self.walk = None
        else:
            ended = None
            raised = self._cover(end.vector, end.floors, end.horizon)
        del self.asking[session.number]
        session.link.send(SyncFail(session.number, SyncFailure.DONE))
        rival = session.part()
        if rival is not None and rival.end is None:
            self._ask_anew(rival)
        self._core.count("sync_ended_total")
        self.ended_at[session.link.node] = self._core.now
        if session.count:
            self._core.log.info(
                "synced",
                peer=session.link.node.hex()[:8],
                full=session.full,
                changes=session.count,
                bytes=session.bytes,
            )
        self.on_covered(raised, ended)

    def _is_sound(self, walk: Walk, vector: VersionVector) -> bool:
        """Tell whether a walk may end, and grant its vector.

        Not if one server had purged what another, itself from the past, had never heard of: the part that the first has sent
        lacks what the vector of the second claims. Nor if the second has never heard of what the first has seen die: that can
        neither be dropped, for nobody would bring it again, nor stay.
        """
        is_mixed = is_below(vector, walk.floors) or walk.unlisted.is_undecided(vector)
        return not is_mixed and self.may_end(walk)

    def _ask_anew(self, session: Asking) -> None:
        """Give up what would bring again what another has brought, or is bringing, and ask for the rest."""
        session.link.send(SyncFail(session.number, SyncFailure.GIVEN_UP))
        self._forget(session)
        self.want(session.link)

    def _forget(self, session: Asking) -> None:
        self.asking.pop(session.number, None)
        if session.part() is not None:
            self._core.hurry()  # who has waited may go on
        self._bodies.cancel(session.link, session.number)

    def _cover(self, vector: Mapping[bytes, int], floors: Mapping[bytes, int], horizon: int) -> list[bytes]:
        """Grant coverage; return the origins whose entries it has raised."""
        replica = self._core.replica
        raised = [origin for origin, seq in vector.items() if seq > replica.covered(origin)]
        replica.cover(vector, floors, horizon)
        return raised

    def on_fail(self, link: Link, failure: SyncFail) -> None:
        """Take note that a session is over, at either end, or that a PULL could not be answered. Inside a tick."""
        if failure.number == 0:
            self.want(link)
            return
        if failure.code in {SyncFailure.DONE, SyncFailure.GIVEN_UP}:
            self._close_serving((link.number, failure.number))
            return
        session = self.asking.get(failure.number)
        if session is None or session.link is not link:
            return
        self._end_asking(session, failure.code)
        wait = failure.retry_ms / 1000 or _RETRY_SECONDS
        self._not_before[link.node] = self._core.now + wait
        if failure.code == SyncFailure.NEED_FULL:
            self.on_need_full(link)
        if not session.full:
            self.want(link)

    def _asked(self, link: Link, number: int) -> Asking | None:
        session = self.asking.get(number)
        return session if session is not None and session.link is link else None

    def _fail(self, session: Asking, code: SyncFailure, *, retry: float = _RETRY_SECONDS) -> None:
        """Give a session up; what was merged stays, nothing is granted."""
        session.link.send(SyncFail(session.number, SyncFailure.GIVEN_UP))
        self._not_before[session.link.node] = self._core.now + retry
        self._end_asking(session, code)
        if not session.full:
            self.want(session.link)

    def _end_asking(self, session: Asking, code: int) -> None:
        self._forget(session)
        if session.full and self.walk is not None:
            self.walk.cursor = self.walk.safe
            self.walk.unlisted.slices.clear()  # these come again
        self._core.count("sync_failed_total")
        self._core.log.debug("sync failed", peer=session.link.node.hex()[:8], code=code, full=session.full)

    def start_over(self) -> None:
        """Give up what was asked before this node has come to cover less: what it brings is more than was asked for.

        A full sync begins anew. Inside a tick.
        """
        for session in list(self.asking.values()):
            self._fail(session, SyncFailure.CANCEL)
        if self.walk is not None:
            self.walk = Walk(started_at=self._core.now)

    # --- serving

    def on_request(self, link: Link, request: SyncRequest) -> None:
        """Open a session for a peer: take the snapshot, make it durable, then send."""
        key = (link.number, request.number)
        sessions = self.serving.values()
        is_busy = (
            sum(session.ended_at is None for session in sessions) >= self._core.options.sync_serving_max
            or sum(session.link is link for session in sessions) >= _SESSIONS_A_LINK
        )
        may_serve = self.may_serve and (not request.full or self.may_serve_all())
        if not may_serve or is_busy or key in self.serving:
            link.send(SyncFail(request.number, SyncFailure.BUSY, retry_ms=500))
            return
        feed = self._core.replica.feed()
        if not request.full and is_below(request.vector, feed.floors()):
            feed.close()
            link.send(SyncFail(request.number, SyncFailure.NEED_FULL))
            return
        batches = (
            full_batches(feed, request, self._core.options.sync_batch_bytes)
            if request.full
            else incremental_batches(feed, request, self._core.options.sync_batch_bytes)
        )
        credit = min(request.credit, 4 * self._core.options.sync_credit_bytes)
        self.serving[key] = _Serving(
            link, request.number, request.full, feed, batches, credit, self._core.now
        )
        self._core.make_durable(lambda: self._open(key))

    def _open(self, key: tuple[int, int]) -> None:
        session = self.serving.get(key)
        if session is None:
            return
        feed = session.feed
        session.started = True
        session.progress_at = self._core.now
        session.link.send_data(SyncStart(session.number, feed.vector(), feed.floors(), feed.horizon(), 0))
        self._core.hurry()

    def on_credit(self, link: Link, credit: Credit) -> None:
        session = self.serving.get((link.number, credit.number))
        if session is not None:
            session.credit = min(session.credit + credit.bytes, 4 * self._core.options.sync_credit_bytes)
            session.progress_at = self._core.now
            self._core.hurry()

    def _pump(self, key: tuple[int, int], session: _Serving) -> None:
        """Read on, if there is credit, and send the batch that this completes.

        Clients wait for as long as it takes: never two steps in one turn.
        """
        if session.ended_at is not None or session.credit <= 0 or self._core.now < session.resume_at:
            return
        if session.link.data_bytes > self._core.options.queue_bytes_max // 2:
            # Of other groups: no credit bounds what all together send. More, and the next push would clear the queue.
            session.resume_at = self._core.now + _ROOM_SECONDS
            session.progress_at = self._core.now
            return
        try:
            batch = next(session.batches)
        except StopIteration:
            self._send_end(session)
            return
        except Exception:
            # An iterator that has failed only seems to be at its end: nothing may be granted for it.
            self._cancel_serving(key)
            raise
        session.progress_at = self._core.now
        if batch is None:
            return
        session.count += sum(len(run.changes) for run in batch.runs)
        size = sum(run_bytes(run) for run in batch.runs)
        session.credit -= size  # no more than the asker gives back, or it would be used up by and by
        sent = max(session.link.send_data(batch), size)
        if self._core.options.sync_rate_max:
            session.resume_at = self._core.now + sent / self._core.options.sync_rate_max

    def _send_end(self, session: _Serving) -> None:
        feed = session.feed
        session.link.send_data(
            SyncEnd(session.number, feed.vector(), feed.floors(), feed.horizon(), session.count)
        )
        session.ended_at = self._core.now
        self.on_served(session.link)

    def _read_body(self, link: Link, number: int, origin: bytes, seq: int, place: bytes) -> bytes | None:
        session = self.serving.get((link.number, number))
        if session is None:
            return None
        session.progress_at = self._core.now
        return session.feed.body(origin, seq, place)

    def _close_serving(self, key: tuple[int, int]) -> None:
        session = self.serving.pop(key, None)
        if session is not None:
            session.feed.close()

    # --- links and time

    def on_link_down(self, link: Link) -> None:
        """Forget the sessions of a link. Merged changes stay."""
        self._wanted.pop(link.number, None)
        for session in list(self.asking.values()):
            if session.link is link:
                self._end_asking(session, SyncFailure.IO)
        self.drop_serving(link)

    def drop_serving(self, link: Link) -> None:
        """End what is served on a link: frames of it were lost. Its peer finds out by the count, or by time."""
        for key in [key for key, session in self.serving.items() if session.link is link]:
            self._cancel_serving(key)

    def _cancel_serving(self, key: tuple[int, int]) -> None:
        session = self.serving[key]
        session.link.send(SyncFail(session.number, SyncFailure.CANCEL, retry_ms=500))
        self._close_serving(key)

    def close(self) -> None:
        """Give back all snapshots."""
        for key in list(self.serving):
            self._close_serving(key)

    def tick(self, now: float) -> float:
        """Do what is due; return when to be called again."""
        self._start_random(now)
        self._start_wanted(now)
        timeout = self._core.options.sync_timeout
        for session in list(self.asking.values()):
            # While large values are on their way, `Bodies` sees whether they make progress.
            if not session.bodies and now - session.progress_at > timeout:
                self._time_out(session)
            else:
                self._tell_progress(session, now)
        self._give_credit(now)
        due = now + 1.0 if not (self._wanted or self.walk) else now + 0.1
        if self.walk is not None and self.walk.unlisted.slices:
            due = now
        for key, serving in list(self.serving.items()):
            if now - serving.progress_at > timeout:
                self._close_serving(key)
            elif serving.started and serving.ended_at is None and serving.credit > 0:
                self._pump(key, serving)
                due = min(due, max(now, serving.resume_at))
        return due

    def _time_out(self, session: Asking) -> None:
        """End a session in which nothing has come for long. Its server has given it up by itself.

        One that waits for a rival has not failed: asked anew, it shows once more who is faster.
        """
        if session.credit_due and not session.full:
            self._ask_anew(session)
        else:
            self._fail(session, SyncFailure.CANCEL)

    def _start_random(self, now: float) -> None:
        """Sync with a random peer now and then, whatever the vectors say."""
        if now < self._next_random:
            return
        interval = self._core.options.sync_interval
        first = self._next_random == 0.0
        self._next_random = now + interval * self._core.rng.uniform(2 / 3, 4 / 3)
        links = [link for link in self._core.links.values() if link.is_open]
        if links and not first and self.walk is None:
            self.want(self._core.rng.choice(links))


def is_below(vector: Mapping[bytes, int], floors: Mapping[bytes, int]) -> bool:
    """Tell whether whoever has `vector` lacks something that was purged under `floors`."""
    return any(vector.get(origin, 0) < seq for origin, seq in floors.items())


def _cut_at_bodies(run: Run) -> list[Run]:
    """Cut a run so that each large value is alone: what is merged without coverage may be cut anywhere."""
    if not has_numbers(run.changes):
        return [run]
    parts: list[list[Change]] = [[]]
    for change in run.changes:
        if is_bodied(change):
            parts.extend([[change], []])
        else:
            parts[-1].append(change)
    found: list[Run] = []
    after = run.after
    for part in parts:
        if part:
            upto = part[-1].seq if run.upto else 0
            found.append(Run(run.origin, after, upto, part))
            after = upto
    return found


def _is_never(run: Run) -> bool:
    return False


def _ignore_raised(raised: list[bytes], ended: Walk | None) -> None:
    """Stand in for a callback that the replicator sets."""


def _has_all(walk: Walk) -> bool:
    return True


def _ignore_runs(runs: Sequence[Run]) -> None:
    """Stand in for a callback that `Rejoin` sets."""


def _always(link: Link) -> bool:
    return True


def _certainly() -> bool:
    return True


def _ignore(link: Link) -> None:
    """Stand in for a callback that the replicator sets."""
