"""What the asker of a sync keeps in mind: a session, how far it has come, and how fast it is beside another.

Two peers that both have what this node lacks are *rivals* if it asks both: all would be sent, read and merged twice. So
one of them is given no credit while the other one leads, and is asked anew when that has ended, for whatever is left.
Who was asked first leads. The other goes on while it is much faster: in its first credit, or, since its pace is remembered
while it waits, when little or nothing comes from the one that leads. Once it has come further it leads itself, so that what
has come furthest is never given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from replication.core import Link
from replication.messages import SyncEnd, SyncStart
from replication.unlisted import Unlisted
from storage.changes import END_OF_PLACES, Change, Stamp, VersionVector

# How much faster than the one that leads a rival has to be to go on. Paces differ from batch to batch, and each change
# sends some twice.
_FASTER: Final = 2
# Seconds that a pace is about; what was before counts less and less.
_PACE_SECONDS: Final = 2.0
# Who is silent for so long has no pace, however fast it was. Even a slow line brings a batch in that time.
_SILENT_SECONDS: Final = 5.0
# How many times what it has offered a rival may send until nobody waits for it any more. What it has merged itself
# without covering it comes on top of what it offers; whoever sends on and on is broken, or worse.
_OFFERS_MAX: Final = 3
# Servers, one after the other, that a walk tells apart: a vector is kept for each. Those beyond count as one.
_STRETCHES_MAX: Final = 64

_ID_BYTES: Final = 16  # of a node, and of an origin
_SEQ_BYTES: Final = 8

NodeId: TypeAlias = bytes


@attrs.frozen
class Stretch:
    """The part of a walk that one server has sent: where it begins, and what that server covered and had purged up to."""

    start: bytes
    node: bytes
    vector: VersionVector
    horizon: int

    def encode(self) -> bytes:
        """Return who the server is, and what it covered: its 16 bytes, then 16 of the origin and 8 of the seq of each entry."""
        entries = (origin + seq.to_bytes(_SEQ_BYTES) for origin, seq in self.vector.items())
        return self.node + b"".join(entries)

    @classmethod
    def decode(cls, encoded: bytes) -> Stretch:
        """Return the server of what `encode` gave, without its place and horizon."""
        ends = range(_ID_BYTES, len(encoded), _ID_BYTES + _SEQ_BYTES)
        entries = [encoded[at : at + _ID_BYTES + _SEQ_BYTES] for at in ends]
        vector = {one[:_ID_BYTES]: int.from_bytes(one[_ID_BYTES:]) for one in entries}
        return cls(b"", encoded[:_ID_BYTES], VersionVector(vector), 0)


@attrs.define
class Walk:
    """How far a full sync has come, over all servers that it used."""

    cursor: bytes = b""  # where the next batch begins
    safe: bytes = (
        b""  # all before this is on disk here, large values too: where to go on if the session breaks
    )
    vector: VersionVector | None = None  # the least of the starts
    seen: VersionVector = attrs.field(factory=VersionVector)  # the greatest: what any of the servers covered
    stretches: list[Stretch] = attrs.field(factory=list)  # in the order of places
    # Of the server that had purged furthest, whether it has sent anything or not.
    furthest: Stretch | None = None
    floors: VersionVector = attrs.field(factory=VersionVector)
    horizon: int = 0
    unlisted: Unlisted = attrs.field(factory=Unlisted)
    changes: int = 0
    bytes: int = 0
    total: int = 0
    started_at: float = 0.0

    def go_on(self, node: NodeId, start: SyncStart) -> None:
        """Take note of a server that sends what comes next."""
        vector, horizon = VersionVector(start.vector), start.horizon
        self.vector = vector if self.vector is None else self.vector.common(vector)
        self.seen = self.seen.merged(vector)
        self.floors = self.floors.merged(start.floors)
        self.horizon = max(self.horizon, horizon)
        self.total = max(self.total, start.total)
        stretch = Stretch(self.cursor, node, vector, horizon)
        if self.furthest is None or horizon >= self.furthest.horizon:
            self.furthest = stretch
        last = self.stretches[-1] if self.stretches else None
        if last is not None and last.start == stretch.start:
            self.stretches.pop()  # that server has sent nothing
        elif last is not None and len(self.stretches) == _STRETCHES_MAX:
            self.stretches.pop()
            stretch = Stretch(last.start, node, last.vector.merged(vector), max(last.horizon, horizon))
        self.stretches.append(stretch)

    def ahead(self) -> Stretch | None:
        """Return the server that had purged furthest, if it covered what others of the walk did not."""
        assert self.vector is not None
        assert self.furthest is not None
        return None if self.vector.covers(self.furthest.vector) else self.furthest

    def is_strange(self, stamp: Stamp, change: Change) -> bool:
        """Tell whether the server of a place did not cover a change of it, though it had purged up to a greater clock value."""
        server = next(one for one in reversed(self.stretches) if one.start <= change.place)
        return stamp.seq > server.vector[stamp.origin] and stamp.hlc <= server.horizon

    @property
    def fraction(self) -> float:
        """Return the share of the key space that was walked, from 0 to 1, by its first eight differing bytes."""
        if self.cursor >= END_OF_PLACES:
            return 1.0
        if self.total:
            return min(self.changes / self.total, 0.999)
        return int.from_bytes(self.cursor[16:24].ljust(8, b"\0"), "big") / 2**64


@attrs.frozen
class Progress:
    """How far a session has come; a full one counts what those before it have brought."""

    node: bytes  # that serves
    full: bool
    fraction: float
    changes: int
    bytes: int
    started_at: float


@attrs.define(eq=False)
class Asking:
    """A session in which this node is the asker."""

    link: Link
    number: int
    full: bool
    asked_at: float
    progress_at: float
    told_at: float  # that it goes on
    server: SyncStart | None = None
    total: int = 0  # dots that the server covered and this node did not when it began
    passed: int = 0  # dots of these up to where the session is, whether they are still alive or not
    count: int = 0
    bodies: int = 0  # runs whose bodies are fetched
    end: SyncEnd | None = None
    bytes: int = 0
    credit_due: int = 0  # bytes that were merged and not given back as credit yet
    paced_from: float = 0.0
    paced_bytes: float = 0.0  # that came since then
    rival: Asking | None = None
    leads: bool = False  # its rival waits for it

    def begin(self, start: SyncStart, covered: VersionVector, now: float) -> None:
        """Take note of what the server has that this node, which covers so much, has not."""
        self.server = start
        self.progress_at = self.paced_from = now
        self.total = _beyond(start.vector, covered)

    def meet(self, other: Asking, covered: VersionVector) -> None:
        """Become rivals if most of what either brings is what the other brings as well."""
        if self.server is None or other.server is None or self.full or other.full:
            return
        if self.rival is not None or other.rival is not None:
            return
        theirs = other.server.vector
        both = {origin: min(seq, theirs.get(origin, 0)) for origin, seq in self.server.vector.items()}
        if 2 * _beyond(both, covered) > max(self.total, _beyond(theirs, covered)):
            self.rival, other.rival = other, self
            self.leads, other.leads = False, True

    def part(self) -> Asking | None:
        """Be nobody's rival any more; return whose it was."""
        rival, self.rival = self.rival, None
        if rival is not None:
            rival.rival = None
        return rival

    def take_in(self, size: int, now: float) -> None:
        """Take note that a batch of so many bytes has come."""
        self.progress_at = now
        self.bytes += size
        self.paced_bytes += size
        elapsed = now - self.paced_from
        if elapsed > _PACE_SECONDS:
            self.paced_from += elapsed / 2
            self.paced_bytes /= 2

    def _pace(self, now: float) -> float:
        """Return bytes a second: up to what came last if the server waits for credit, otherwise up to now."""
        if self.credit_due:
            now = self.progress_at
        if now - self.progress_at > _SILENT_SECONDS:
            return 0.0
        return self.paced_bytes / max(now - self.paced_from, 0.001)

    def has_to_wait(self, now: float) -> bool:
        """Tell whether a rival leads, and this one is not much faster now. Once it has come further, it leads itself.

        What has come further goes on in any case: if it had to wait for long it would begin anew, and a node that stalls
        now and then would come to no end.
        """
        rival = self.rival
        if rival is None or self.leads or rival.count > _OFFERS_MAX * rival.total:
            return False
        if self._pace(now) <= _FASTER * rival._pace(now):
            return True
        if self.bytes > rival.bytes:
            self.leads, rival.leads = True, False
        return False

    def take_credit(self, now: float) -> int:
        """Return the credit that is due, to be given now. If the server has waited for it, that does not count for its pace."""
        waited = now - self.progress_at
        if waited > _PACE_SECONDS:  # otherwise it may have been sending what it had credit for
            self.paced_from += waited
            self.progress_at = now  # it is not the server that was silent
        due, self.credit_due = self.credit_due, 0
        return due


def _beyond(vector: Mapping[bytes, int], covered: VersionVector) -> int:
    """Return how many dots of a vector are not covered."""
    return sum(max(seq - covered[origin], 0) for origin, seq in vector.items())
