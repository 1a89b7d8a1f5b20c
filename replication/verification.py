"""Do two members that cover the same really hold the same? A check that does not trust the vectors.

    asker                                server
    DigestRequest(vector) ─────────────▶ only if both vectors are equal, and nothing is half synced:
                 ◀─────────────────────  Digest(65,536 buckets, those with something in them)
    different? BucketRequest ──────────▶
                 ◀─────────────────────  Bucket(headers of what is in them)
    different? CellsRequest ───────────▶
                 ◀─────────────────────  Cells
    merge whether covered or not, write the winner anew, so that it spreads

A difference at equal vectors is a bug or a rotten disk, so it is counted (`divergence_total`), logged with
both dots, and mended. Digests are worked out in slices from a snapshot; the write path pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import attrs

from replication.core import Core, Link
from replication.dissemination import PART_BYTES, change_bytes
from replication.messages import (
    Bucket,
    BucketRequest,
    Cells,
    CellsRequest,
    Digest,
    DigestRequest,
)
from storage.changes import Change, ChangeFeed, Kind, Run, Stamp, VersionVector

if TYPE_CHECKING:
    from replication.bodies import Bodies
    from replication.clock import ClockGate

_BUCKET: Final = Struct(">H16s")
_DIGEST_PART: Final = 2048  # buckets in one message, which is packed in one turn
_BUCKETS_MAX: Final = 64  # repaired in one go; more differences come with the next verification
_PLACES_MAX: Final = 256
_ANSWERS_MAX: Final = 2
# The asker waits for a peer's digest for as many times as its own has taken, if that is more than the usual timeout.
_PATIENCE: Final = 4

# (origin, seq, clock value, hash of the content; None for a value that was dropped)
Dot = tuple[bytes, int, int, object]
Dots = dict[tuple[bytes, int, bytes], Dot]  # by (place, kind, sub)


@attrs.define(eq=False)
class _Check:
    """One verification under way at the asker."""

    link: Link
    number: int
    vector: VersionVector
    feed: ChangeFeed
    started_at: float
    expires_at: float  # while no walk of this node's own is under way
    theirs: dict[int, int] | None = None
    parts: dict[int, int] = attrs.field(factory=dict)
    ours: Mapping[int, int] | None = None
    numbers: tuple[int, ...] = ()  # of the buckets that were asked for, until all are there
    runs: list[Run] = attrs.field(factory=list)
    differences: int = 0  # places, whether they can be mended from here or not


@attrs.define(eq=False)
class _Walk:
    """A snapshot that is read slice by slice, one a turn; `then` is told what was found."""

    link: Link
    slices: Iterator[Any]  # None, until the last is what was found
    then: Callable[[Any], None]
    feed: ChangeFeed | None  # to be closed at the end


@attrs.define
class Outcome:
    """What a verification found; `equal` is None if the vectors would not meet."""

    node: bytes
    equal: bool | None
    differences: int = 0


class Verification:
    """Compares this node with others, one at a time, and answers their questions."""

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
        self._check: _Check | None = None
        self._walks: list[_Walk] = []
        self._numbers = 0
        self._next = 0.0
        self._wanted: list[tuple[bytes, float, Callable[[Outcome], None]]] = []  # (peer, until, then)
        self._then: Callable[[Outcome], None] = _ignore
        self._retry_at = 0.0
        self.enabled = False  # once this node is a whole member
        self.last: dict[bytes, Outcome] = {}

    def verify(self, node: bytes, then: Callable[[Outcome], None]) -> None:
        """Compare with the member `node` as soon as both cover the same; `then` is told the outcome."""
        self._wanted.append((node, self._core.now + self._core.options.verify_retry, then))

    # --- asking

    def _start(self, now: float) -> None:
        if self._check is not None or not self._wanted or now < self._retry_at:
            return
        node, until, then = self._wanted[0]
        link = self._core.links.get(node)
        if link is None or now > until:
            self._wanted.pop(0)
            self._report(Outcome(node, None), then)
            return
        self._retry_at = now + 0.2
        if self._core.replica.is_partial():
            return
        self._numbers += 1
        feed = self._core.replica.feed()
        check = _Check(link, self._numbers, feed.vector(), feed, now, now)
        self._check = check
        self._then = then
        self._walk(link, self._core.replica.digest(feed), partial(self._on_own_digest, check))
        link.send(DigestRequest(self._numbers, dict(feed.vector())))

    def _on_own_digest(self, check: _Check, found: Mapping[int, int]) -> None:
        check.ours = found
        now = self._core.now
        check.expires_at = now + max(self._core.options.sync_timeout, _PATIENCE * (now - check.started_at))
        self._compare(check)

    def on_digest(self, link: Link, digest: Digest) -> None:
        check = self._checking(link, digest.number)
        if check is None or check.theirs is not None:
            return
        if not digest.is_comparable:
            self._end(None)
            return
        for bucket, value in _BUCKET.iter_unpack(digest.buckets[: len(digest.buckets) // 18 * 18]):
            check.parts[bucket] = int.from_bytes(value, "big")
        if not digest.more:
            check.theirs = check.parts
            self._compare(check)

    def _compare(self, check: _Check) -> None:
        if check.ours is None or check.theirs is None:
            return
        if check.ours == check.theirs:  # a look at each bucket takes ten times as long
            self._finish(0)
            return
        different = sorted({number for number, _ in check.ours.items() ^ check.theirs.items()})
        check.numbers = tuple(different[:_BUCKETS_MAX])
        check.link.send(BucketRequest(check.number, check.numbers))

    def on_bucket(self, link: Link, bucket: Bucket) -> None:
        check = self._checking(link, bucket.number)
        if check is None or not check.numbers:
            return
        check.runs.extend(bucket.runs)
        if not bucket.more:
            numbers, check.numbers = check.numbers, ()
            slices = self._core.replica.bucket(check.feed, numbers)
            self._walk(link, slices, partial(self._compare_buckets, check))

    def _compare_buckets(self, check: _Check, runs: list[Run]) -> None:
        link, ours = check.link, dots_of(runs)
        theirs = dots_of(check.runs)
        places: dict[bytes, bool] = {}  # whether all of it can be mended from here
        for cell in dict.fromkeys([*ours, *theirs]):
            own, other = ours.get(cell), theirs.get(cell)
            if differ(own, other):
                places[cell[0]] = places.get(cell[0], True) and self._takes_clock_of(own)
                self._takes_clock_of(other)
                self._tell_difference(link, cell, own, other)
        check.differences = len(places)
        mendable = [place for place, is_mendable in places.items() if is_mendable]
        if not mendable:
            # None at all: a digest was worked out of rotten rows and read well now. Or one side has dropped a value
            # that had expired, and asks for it by itself (`dropped`).
            self._finish(check.differences)
            return
        link.send(CellsRequest(check.number, tuple(mendable[:_PLACES_MAX])))

    def _takes_clock_of(self, dot: Dot | None) -> bool:
        """Raise this node's clock to a register's, which the winner has to be beyond; False if that is too far ahead.

        Then it is rotten, and what is written over it here would be as far ahead.
        """
        if dot is None:
            return True
        self._clock.observe(dot[2])
        return self._clock.held_seconds(dot[2], self._core.wall_ms()) <= 0

    def _tell_difference(
        self,
        link: Link,
        cell: tuple[bytes, int, bytes],
        ours: Dot | None,
        theirs: Dot | None,
    ) -> None:
        self._core.count("divergence_total")
        self._core.log.error(
            "members differ at equal vectors",
            peer=link.node.hex()[:8],
            kind=cell[1],
            own_dot=_dot_name(ours),
            peer_dot=_dot_name(theirs),
        )

    def on_cells(self, link: Link, cells: Cells) -> None:
        """Merge what the peer holds and write the winners anew. Inside a tick.

        A large value follows when its body is there. What is stamped too far ahead is rotten itself, and what the peer
        cannot read is not among what it sends: that is mended when the peer asks.
        """
        check = self._checking(link, cells.number)
        if check is None:
            return
        wall_ms = self._core.wall_ms()
        places: dict[bytes, bool] = {}  # whether all of it can be merged now
        for run in cells.runs:
            small: list[Change] = []
            for change in run.changes:
                is_held = self._clock.held_seconds(change.hlc, wall_ms) > 0
                is_large = type(change.content) is int and change.kind != Kind.EXPIRY
                places[change.place] = places.get(change.place, True) and not (is_held or is_large)
                if is_large and not is_held:
                    alone = run._replace(changes=[change])
                    self._bodies.fetch(
                        link, alone, session=0, done=self._mend, waiting=[change], resumes=False
                    )
                elif not is_held:
                    small.append(change)
            self._core.replica.repair(run._replace(changes=small))
        self._core.replica.touch([place for place, is_whole in places.items() if is_whole])
        self._after_commit(lambda: self._finish(check.differences))

    def _mend(self, run: Run | None) -> None:
        """Take in a large value that differs; without its body it is left to the next verification. Inside a tick."""
        if run is not None:
            self._core.replica.repair(run)
            self._core.replica.touch([change.place for change in run.changes])

    def _checking(self, link: Link, number: int) -> _Check | None:
        check = self._check
        return check if check is not None and check.link is link and check.number == number else None

    def _finish(self, differences: int) -> None:
        if self._check is None:
            return
        outcome = Outcome(self._check.link.node, differences == 0, differences)
        self._forget_check()
        if self._wanted:
            self._wanted.pop(0)
        self._report(outcome, self._then)

    def _end(self, outcome: Outcome | None) -> None:
        """Give the check up; it is tried again while its time lasts."""
        self._forget_check()

    def _forget_check(self) -> None:
        if self._check is not None:
            self._walks = [walk for walk in self._walks if walk.feed is not None]
            self._check.feed.close()
            self._check = None

    def _report(self, outcome: Outcome, then: Callable[[Outcome], None]) -> None:
        self.last[outcome.node] = outcome
        then(outcome)

    # --- answering

    def on_digest_request(self, link: Link, request: DigestRequest) -> None:
        if self._asks_too_much(link):
            return
        replica = self._core.replica
        vector = VersionVector(request.vector)
        if replica.is_partial() or replica.vector() != vector or self._is_answering():
            link.send(Digest(request.number, is_comparable=False))
            return
        feed = replica.feed()
        self._walk(link, _digest_sent(link, request.number, replica.digest(feed)), _ignore_end, feed)

    def _is_answering(self) -> bool:
        """Tell whether as many snapshots are read for others as may be at a time."""
        return sum(walk.feed is not None for walk in self._walks) >= _ANSWERS_MAX

    def on_bucket_request(self, link: Link, request: BucketRequest) -> None:
        if self._asks_too_much(link) or self._is_answering():
            return
        feed = self._core.replica.feed()
        slices = self._core.replica.bucket(feed, request.buckets[:_BUCKETS_MAX])
        self._walk(link, slices, partial(_send_buckets, link, request.number), feed)

    def on_cells_request(self, link: Link, request: CellsRequest) -> None:
        if self._asks_too_much(link):
            return
        runs = self._core.replica.changes_at(request.places[:_PLACES_MAX])
        first = next(_slices(runs))  # what does not fit into a frame is asked for another time
        link.send_data(Cells(request.number, tuple(first)))

    def _asks_too_much(self, link: Link) -> bool:
        """Tell whether a peer asks without taking the answers; then its link ends."""
        if link.data_bytes <= self._core.options.queue_bytes_max:
            return False
        link.drop("it asks for more than it takes")
        return True

    # --- links and time

    def drop_answers(self, link: Link) -> None:
        """End what is answered on a link: frames of it were lost, and the peer would take the rest for all."""
        for walk in [walk for walk in self._walks if walk.link is link and walk.feed is not None]:
            self._end_walk(walk)

    def on_link_down(self, link: Link) -> None:
        if self._check is not None and self._check.link is link:
            self._end(None)
        for walk in [walk for walk in self._walks if walk.link is link]:
            self._end_walk(walk)

    def close(self) -> None:
        """Give back all snapshots."""
        self._forget_check()
        for walk in list(self._walks):
            self._end_walk(walk)

    def tick(self, now: float) -> float:
        """Work on digests, and begin one when it is time; return when to be called again."""
        self._schedule(now)
        self._start(now)
        self._expire(now)
        for walk in list(self._walks):
            if walk in self._walks:  # not ended with the one before, of the same check
                self._step(walk)
        if self._walks:
            return now
        return min(self._next, now + 0.2) if self._wanted or self._check else self._next

    def _schedule(self, now: float) -> None:
        if now < self._next:
            return
        interval = self._core.options.verify_interval
        first = self._next == 0.0
        self._next = now + interval * self._core.rng.uniform(2 / 3, 4 / 3)
        if self.enabled and not first and self._core.links:
            self.verify(self._core.rng.choice(list(self._core.links)), _ignore)

    def _expire(self, now: float) -> None:
        check = self._check
        if check is not None and now > check.expires_at and not self._is_walking():
            self._end(None)

    # --- reading snapshots

    def _walk(
        self,
        link: Link,
        slices: Iterator[Any],
        then: Callable[[Any], None],
        feed: ChangeFeed | None = None,
    ) -> None:
        self._walks.append(_Walk(link, slices, then, feed))
        self._core.hurry()

    def _is_walking(self) -> bool:
        """Tell whether the check's own snapshot is being read."""
        return any(walk.feed is None for walk in self._walks)

    def _step(self, walk: _Walk) -> None:
        """Read one slice. If that fails, whoever waits for the walk gives up by time, and asks again."""
        try:
            found = next(walk.slices)
        except Exception:
            self._end_walk(walk)
            raise
        if found is not None:
            self._end_walk(walk)
            walk.then(found)

    def _end_walk(self, walk: _Walk) -> None:
        self._walks.remove(walk)
        if walk.feed is not None:
            walk.feed.close()


def _digest_sent(
    link: Link, number: int, slices: Iterator[Mapping[int, int] | None]
) -> Iterator[bool | None]:
    """Work a digest out and send it, message by message: None after each step but the last."""
    while (found := next(slices)) is None:
        yield None
    buckets, left = iter(found.items()), len(found)
    while True:
        part = list(islice(buckets, _DIGEST_PART))
        left -= len(part)
        packed = b"".join([_BUCKET.pack(bucket, value.to_bytes(16, "big")) for bucket, value in part])
        link.send_data(Digest(number, True, packed, more=left > 0))
        if not left:
            break
        yield None
    yield True


def _send_buckets(link: Link, number: int, runs: list[Run]) -> None:
    slices = list(_slices(runs))
    for index, part in enumerate(slices):
        link.send_data(Bucket(number, tuple(part), more=index + 1 < len(slices)))


def _slices(runs: list[Run]) -> Iterator[list[Run]]:
    """Cut runs that cover nothing into lists that fit into a frame; one at least."""
    part: list[Run] = []
    size = 0
    for run in runs:
        for change in run.changes:
            more = change_bytes(change)
            if part and size + more > PART_BYTES:
                yield part
                part, size = [], 0
            if part and part[-1].origin == run.origin:
                part[-1] = part[-1]._replace(changes=[*part[-1].changes, change])
            else:
                part.append(Run(run.origin, 0, 0, [change]))
            size += more
    yield part


def dots_of(runs: list[Run]) -> Dots:
    """Return the dot of each cell that runs name; the newest if there are two."""
    newest: dict[tuple[bytes, int, bytes], Stamp] = {}
    found: Dots = {}
    for run in runs:
        for change in run.changes:
            cell = (change.place, change.kind, change.sub)
            stamp = Stamp(change.hlc, run.origin, change.seq)
            if cell not in newest or newest[cell] < stamp:
                newest[cell] = stamp
                found[cell] = (stamp.origin, stamp.seq, stamp.hlc, change.content)
    return found


def differ(ours: Dot | None, theirs: Dot | None) -> bool:
    """Tell whether two members hold different things in one cell."""
    if ours is None or theirs is None or ours[:3] != theirs[:3]:
        return ours != theirs
    return None not in {ours[3], theirs[3]} and ours[3] != theirs[3]


def _dot_name(dot: Dot | None) -> str:
    return "none" if dot is None else f"{dot[0].hex()[:8]}:{dot[1]}"


def _ignore(outcome: Outcome) -> None:
    """Stand in for whoever asked."""


def _ignore_end(is_sent: bool) -> None:
    """Take note of nothing: all that was to be done has been done step by step."""
