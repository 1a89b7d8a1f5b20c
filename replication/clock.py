"""Clocks: whether this node's may stamp writes, and how far ahead another's may be.

Stamps order all writes, so a wrong clock does harm that cannot be undone later: a fast one wins against
everything written elsewhere, a slow one writes beneath deletions that are forgotten already. Three guards:

* *The gate at the source.* Each answered ping gives the offset of a peer's clock, exact to half the round
  trip. If two or more peers are measured and the median offset is greater than `max_offset` plus its
  uncertainty, it is this node that is wrong, and it refuses writes (or only says so, by the policy). It opens again
  below `REOPEN_SHARE` of the limit, so that it does not flap. This node's own clock is one of those that the
  median is taken of, and of two in the middle the one nearer to zero counts: it takes more than half of
  all clocks to close a gate, so one that is wrong does not close those of two that are right. Two clocks that
  are both right may differ by twice `max_offset`; so as long as no more than half of the other members are
  measured, it takes that much.
* *The hold at the receiver.* What is stamped further than `hold` in this node's future waits, with all
  that its origin wrote later, until the clock arrives there (`held_seconds`).
* *The gate at the start.* A node that knows other members stamps nothing until one has answered, whose
  clock value it then adopts. If none answers within `start_gate`, it writes only if its clock is behind neither
  the greatest stamp on its disk nor the date of its build: small boards start in 1970.

A clock behind the build's date is wrong whoever answers, so it never stamps.

A jump of the wall clock against the monotonic one (a suspended machine, a step by hand) is reported, so that
origins are rotated. The measured offsets are moved by the jump: what was right stays right.

Source: Kulkarni et al. 2014, Logical Physical Clocks; RFC 5905 §8 for offset and delay.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from replication.core import Core, Link
from storage.changes import Run, latest_hlc

if TYPE_CHECKING:
    from replication.roster import Roster

PEERS_WANTED: Final = 2
SAMPLES_MAX: Final = 4  # of one peer
SAMPLE_AGE_MAX: Final = 300.0
# A sample's uncertainty grows with its age, so that fresh ones replace better ones in time. NTP uses 15 ppm.
DISPERSION: Final = 200e-6
REOPEN_SHARE: Final = 0.8
INTERVAL: Final = 1.0
# When many links come up, not every measurement of them is judged by itself.
JUDGE_GAP: Final = 0.1


@attrs.frozen
class Sample:
    """What one round trip told of a peer's clock. Seconds."""

    offset: float  # its clock minus ours
    uncertainty: float
    at: float

    def doubt(self, now: float) -> float:
        return self.uncertainty + (now - self.at) * DISPERSION


class ClockGate:
    """This node's clock, as it compares with others'."""

    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster
        self._samples: dict[bytes, deque[Sample]] = {}
        self._best: dict[bytes, Sample] = {}  # of those; which one it is does not change as they age together
        self.clock_ok = True
        self.median: Sample | None = None  # None: too few peers
        self.on_jump: Callable[[float], None] = _ignore_jump
        self._last: tuple[float, int] | None = None  # (monotonic, wall ms) of the tick before
        self._started_at: float | None = None
        self._next = -math.inf
        self._judged_at = -math.inf
        self._has_answered = False

    # --- inputs

    def tick(self, now: float) -> float:
        """Look for a jump and judge the clock anew."""
        if self._started_at is None:
            self._started_at = now
        if now < self._next:
            return self._next
        self._next = now + INTERVAL
        self._look_for_jump(now, self._core.wall_ms())
        self._judge(now)
        return self._next

    def on_link_up(self, link: Link, now: float) -> None:
        """A member has answered: adopt its clock value."""
        self.observe(link.peer.hlc)
        if not self._has_answered:
            self._has_answered = True
            self._core.log.debug("a member has answered", peer=link.node.hex()[:8])

    def on_link_down(self, link: Link, now: float) -> None:
        """Keep the samples: they age."""

    def on_round_trip(
        self, node: bytes, *, sent_ms: int, received_ms: int, replied_ms: int, rtt: float, now: float
    ) -> None:
        """Take a measurement: our wall clock when the ping left, theirs when it came and when the answer left."""
        wall_ms = self._core.wall_ms()
        self._look_for_jump(now, wall_ms)  # before the sample, or it would be moved as well
        if abs((wall_ms - sent_ms) / 1000 - rtt) > self._core.options.clock_jump:
            return  # the clock has jumped while the ping was under way
        there = max(0.0, (replied_ms - received_ms) / 1000)
        uncertainty = max(0.0, rtt - there) / 2 + 0.001  # both clocks are read in whole ms
        offset = (received_ms + replied_ms) / 2000 - (sent_ms / 1000 + rtt / 2)
        samples = self._samples.setdefault(node, deque(maxlen=SAMPLES_MAX))
        samples.append(Sample(offset, uncertainty, now))
        self._choose_best(node, now)
        if now - self._judged_at > JUDGE_GAP:
            self._judge(now)

    def observe(self, hlc: int) -> None:
        """Raise this node's clock value to a peer's, unless that is too far ahead."""
        if self.held_seconds(hlc, self._core.wall_ms()) <= 0:
            self._core.replica.observe(hlc)

    def observe_run(self, run: Run) -> None:
        """Raise this node's clock value to those of changes that were taken in."""
        if run.changes:
            self._core.replica.observe(latest_hlc(run.changes))

    # --- questions

    def held_seconds(self, hlc: int, wall_ms: int) -> float:
        """Return for how long a change with this clock value has to wait; 0 if it may be applied."""
        ahead = ((hlc >> 16) - wall_ms) / 1000
        return max(0.0, ahead - self._core.options.hold)

    def offset(self, node: bytes) -> float | None:
        """Return how many seconds a peer's clock is ahead of this node's."""
        best = self._best.get(node)
        return None if best is None else best.offset

    def may_write(self, now: float, wall_ms: int) -> bool:
        """Tell whether the start gate is open."""
        return self._start_refusal(now, wall_ms) is None

    def may_promise(self, now: float, wall_ms: int) -> bool:
        """Tell whether what this node stamps now counts for the others: neither its clock nor its clock value is wrong."""
        return self.refusal(now, wall_ms) is None and not self.held_seconds(self._core.replica.hlc, wall_ms)

    def refusal(self, now: float, wall_ms: int) -> str | None:
        """Return the error for a client that wants to write, or None if it may."""
        text = self._start_refusal(now, wall_ms)
        if text is None and not self.clock_ok and self._core.options.on_skew == "refuse":
            text = self._skew_text()
        return text

    # --- the gate at the start

    def _start_refusal(self, now: float, wall_ms: int) -> str | None:
        built_at_ms = self._core.options.built_at_ms
        if wall_ms < built_at_ms:
            return (
                "CLOCKSKEW this node's clock is behind the date of its own software; "
                "set the clock, writes resume by themselves"
            )
        if self._has_answered or self._roster.members() == [self._core.identity.node]:
            return None
        if self._started_at is None or now - self._started_at < self._core.options.start_gate:
            return "LOADING this node has just started and waits for another member to answer; try again soon"
        behind = (self._core.replica.hlc >> 16) - wall_ms
        if behind > 0:
            return (
                f"CLOCKSKEW no other member answers, and this node's clock is {behind / 1000:.1f} s behind "
                "what it has stored; set the clock or restore the connection, writes resume by themselves"
            )
        self._has_answered = True  # once open it stays open: the clock value only grows from here
        return None

    # --- the gate at the source

    def _skew_text(self) -> str:
        offset = 0.0 if self.median is None else self.median.offset
        side = "behind" if offset > 0 else "ahead of"
        return (
            f"CLOCKSKEW this node's clock is {abs(offset):.1f} s {side} those of its peers; "
            "set the clock (NTP), writes resume by themselves"
        )

    def _judge(self, now: float) -> None:
        self._judged_at = now
        for node in [node for node, best in self._best.items() if now - best.at > SAMPLE_AGE_MAX]:
            self._choose_best(node, now)
        estimates = list(self._best.values())
        if len(estimates) < PEERS_WANTED:
            self.median = None
            self.clock_ok = True
            return
        self.median = median([*estimates, Sample(0.0, 0.0, now)])
        limit = self._core.options.max_offset
        if 2 * len(estimates) <= len(self._roster.members()) - 1:
            limit *= 2
        excess = abs(self.median.offset) - self.median.uncertainty
        if self.clock_ok and excess > limit:
            self.clock_ok = False
            self._core.log.error("this node's clock is wrong", offset_seconds=round(self.median.offset, 3))
        elif not self.clock_ok and abs(self.median.offset) < limit * REOPEN_SHARE:
            self.clock_ok = True
            self._core.log.info("this node's clock is right again")

    def _choose_best(self, node: bytes, now: float) -> None:
        samples = self._samples[node]
        while samples and now - samples[0].at > SAMPLE_AGE_MAX:
            samples.popleft()
        if samples:
            self._best[node] = min(samples, key=lambda sample: sample.doubt(now))
        else:
            del self._samples[node]
            self._best.pop(node, None)

    # --- jumps

    def _look_for_jump(self, now: float, wall_ms: int) -> None:
        if self._last is not None:
            jump = (wall_ms - self._last[1]) / 1000 - (now - self._last[0])
            if abs(jump) > self._core.options.clock_jump:
                self._on_jump(jump)
        self._last = (now, wall_ms)

    def _on_jump(self, seconds: float) -> None:
        self._core.log.warning("this node's clock has jumped", seconds=round(seconds, 3))
        self._core.count("clock_jumps_total")
        for node, samples in list(self._samples.items()):
            moved = [attrs.evolve(sample, offset=sample.offset - seconds) for sample in samples]
            self._samples[node] = deque(moved, maxlen=SAMPLES_MAX)
            self._choose_best(node, self._core.now)
        self.on_jump(seconds)


def median(samples: Sequence[Sample]) -> Sample:
    """Return the sample in the middle; of two, the one whose offset is nearer to zero."""
    ordered = sorted(samples, key=lambda sample: sample.offset)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    return min(middle, key=lambda sample: abs(sample.offset))


def _ignore_jump(_seconds: float) -> None:
    """Stand in for the callback."""
