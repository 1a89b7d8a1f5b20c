"""What has changed, in terms that replication can carry: the seam between storage and replication.

Only value types and protocols; the implementations over the store are in `feed` and `replica`. This is
the one module of storage that replication imports: it sees origins, sequence numbers and contents,
never a row, a key encoding, or the engine.

A *dot* (origin, seq) names one write of one register for ever. A *change* is a dot that is still some
register's, with that register's content: what was overwritten in the meantime is not there any more,
and need not be, because what replaced it is a change itself. A *version vector* tells for each origin
up to which sequence everything is *covered*: held, or superseded by something held, or purged.

Changes travel in *runs*. The run (origin, after, upto, changes) holds every change of `origin` in
after < seq <= upto that was alive when the run was cut. A sequence that is missing in it was superseded
by a later one of the same run. So whoever has covered `after` and applies the run as a whole covers
`upto`, and nobody needs to send what is dead already.

Namespaces belong to *groups*, and each group replicates by itself, with origins, a vector and purge floors of its own,
among those nodes that carry it. Group 0 is carried by all. An origin and a namespace tell their group by their own
16 bytes (`group_of`), so that nobody has to look it up, or to know it before the first write of one comes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

# A value longer than this does not travel in its change; see `Change.content`.
INLINE_BYTES_MAX: Final = 64 * 1024
# The namespace of the cluster's own records: never deleted, so never undone either.
CLUSTER_NAMESPACE: Final = bytes(14) + b"\x01\x01"
# The group that every node carries.
COMMON_GROUP: Final = 0
GROUP_MAX: Final = 0xFFFF
# What the ids of the other groups begin with; the group follows, then what is random.
_GROUP_MARK: Final = b"\xf5grp"
_GROUP_END: Final = len(_GROUP_MARK) + 2


class Kind(enum.IntEnum):
    """Which register a change writes. Any other number is a kind of a later version: carried, not understood."""

    VALUE = 0
    EXPIRY = 1
    FLOOR = 2
    FIELD = 3
    COUNTER = 4
    NAMESPACE_FLOOR = 5


def group_of(name: bytes) -> int:
    """Return the group of an origin, of a namespace, or of a place in one."""
    if not name.startswith(_GROUP_MARK):
        return COMMON_GROUP
    return int.from_bytes(name[len(_GROUP_MARK) : _GROUP_END], "big")


def draw_id(group: int, entropy: Callable[[int], bytes]) -> bytes:
    """Return a fresh id of 16 bytes for an origin or a namespace of a group."""
    if group:
        return _mark_of(group) + entropy(16 - _GROUP_END)
    while group_of(drawn := entropy(16)):
        pass
    return drawn


def place_ranges(group: int) -> list[tuple[bytes, bytes]]:
    """Return where the places of a group lie: (first, end) each, in order, the end excluded."""
    if group:
        return [(_mark_of(group), _after(_mark_of(group)))]
    return [(b"", _mark_of(1)), (_after(_GROUP_MARK), END_OF_PLACES)]


def places_between(group: int, start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
    """Return where those places of a group lie that are in start <= place < end, as `place_ranges` does."""
    ranges = [(max(start, first), min(end, last)) for first, last in place_ranges(group)]
    return [(first, last) for first, last in ranges if first < last]


def _mark_of(group: int) -> bytes:
    return _GROUP_MARK + group.to_bytes(2, "big")


def _after(prefix: bytes) -> bytes:
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


class Lane(enum.IntEnum):
    """Writes of one lane share an origin, so that what is slow in one does not delay another."""

    SMALL = 0
    BULK = 1  # values that do not travel in their change
    LOCAL = 2  # namespaces that are not replicated: never in a vector, a run or a feed


class Stamp(NamedTuple):
    """A point in the order of all writes: compares as (hlc, origin's bytes, seq)."""

    hlc: int
    origin: bytes
    seq: int


class Change(NamedTuple):
    """One register as it stands, named by its dot. The origin is that of the run."""

    seq: int
    hlc: int  # 48 bits of ms, 16 of a counter
    kind: int
    place: bytes  # namespace (16) ‖ key; the namespace alone for NAMESPACE_FLOOR
    # VALUE: the value, None if it was dropped after its expiry, or its size if it must be fetched by its dot.
    # EXPIRY: ms since the epoch, None if it was taken away. Floors: None. Other kinds: bytes.
    content: bytes | int | None = None
    metadata: bytes | None = None  # VALUE
    sub: bytes = b""  # which member; only of kinds other than the registers
    prev_hlc: int = 0  # of the version that its writer replaced; 0 if there was none
    prev_origin: bytes | None = None  # None: the run's own origin
    group_end: int = 0  # last seq of the transaction that wrote it, if that has more dots; else 0


class Run(NamedTuple):
    """Changes of one origin, ascending by seq; see the module's text."""

    origin: bytes
    after: int
    upto: int
    changes: Sequence[Change]


# Fields of a change, for walks at the speed of C: a run from a busy peer holds hundreds.
_hlc = itemgetter(Change._fields.index("hlc"))
_content = itemgetter(Change._fields.index("content"))


def latest_hlc(changes: Sequence[Change]) -> int:
    """Return the greatest clock value of changes; 0 if there are none."""
    return max(map(_hlc, changes), default=0)


def earliest_hlc(changes: Sequence[Change]) -> int:
    """Return the least clock value of changes; 0 if there are none."""
    return min(map(_hlc, changes), default=0)


def has_numbers(changes: Sequence[Change]) -> bool:
    """Tell whether any change's content is a number: the size of a value that travels apart, or an expiry."""
    return int in set(map(type, map(_content, changes)))


class Conflict(NamedTuple):
    """A write that lost against one whose writer had not seen it."""

    at_ms: int
    place: bytes
    kind: int
    winner: Stamp
    loser: Stamp


class Voided(NamedTuple):
    """What readers saw of a dot that has been voided: a live value, when one expires, or that there is none."""

    stamp: Stamp
    change: Change  # VALUE, with its value, however large; EXPIRY; or FLOOR
    expires_at_ms: int | None


class VersionVector(Mapping[bytes, int]):
    """For each origin (16 bytes) the sequence up to which everything is covered; 0 for unknown ones."""

    __slots__ = ("_seqs",)

    def __init__(self, seqs: Mapping[bytes, int] | None = None) -> None:
        if isinstance(seqs, VersionVector):
            self._seqs: dict[bytes, int] = seqs._seqs  # nobody changes it
        else:
            self._seqs = {origin: seq for origin, seq in (seqs or {}).items() if seq > 0}

    def __getitem__(self, origin: bytes) -> int:
        return self._seqs.get(origin, 0)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._seqs)

    def __len__(self) -> int:
        return len(self._seqs)

    def __contains__(self, origin: object) -> bool:
        return origin in self._seqs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionVector) and self._seqs == other._seqs

    def __hash__(self) -> int:
        return hash(frozenset(self._seqs.items()))

    def __repr__(self) -> str:
        return "VersionVector({" + ", ".join(f"{o.hex()[:8]}: {s}" for o, s in self._seqs.items()) + "})"

    def covers(self, other: Mapping[bytes, int]) -> bool:
        """Tell whether everything that `other` covers is covered here."""
        seqs = self._seqs
        return all(seqs.get(origin, 0) >= seq for origin, seq in other.items())

    def merged(self, other: Mapping[bytes, int]) -> VersionVector:
        """Return the pointwise maximum, itself if that is the same. Its order depends on the operands alone."""
        seqs = self._seqs
        raised = {origin: seq for origin, seq in other.items() if seq > seqs.get(origin, 0)}
        if not raised:
            return self
        return _of(seqs | raised)

    def beyond(self, other: VersionVector) -> VersionVector:
        """Return the entries that are greater than in `other`."""
        seqs = other._seqs
        return _of({origin: seq for origin, seq in self._seqs.items() if seq > seqs.get(origin, 0)})

    def without(self, other: Mapping[bytes, int]) -> VersionVector:
        """Return the entries that are not the same in `other`."""
        return _of({origin: seq for origin, seq in self._seqs.items() if other.get(origin) != seq})

    def sharing(self, like: VersionVector) -> VersionVector:
        """Return this vector made of the objects of `like` where they are equal, `like` itself if all are.

        What came from a peer has origins of its own, and whoever keeps many such vectors keeps each origin many times.
        """
        if self == like:
            return like
        origins = {origin: origin for origin in like}
        return _of({origins.get(origin, origin): seq for origin, seq in self._seqs.items()})

    def common(self, other: Mapping[bytes, int]) -> VersionVector:
        """Return the pointwise minimum."""
        return VersionVector({origin: min(seq, other.get(origin, 0)) for origin, seq in self._seqs.items()})


def _of(seqs: dict[bytes, int]) -> VersionVector:
    """Return a vector of these entries, none of which is 0."""
    vector = VersionVector()
    vector._seqs = seqs
    return vector


class ChangeFeed(Protocol):
    """The changes of one store, of one unchanging moment. Holds a snapshot until `close`."""

    def vector(self) -> VersionVector:
        """Return what this moment covers."""
        ...

    def floors(self) -> VersionVector:
        """Return the greatest sequence of each origin that was purged by this moment."""
        ...

    def horizon(self) -> int:
        """Return the greatest clock value that was purged by this moment."""
        ...

    def runs_after(self, vector: Mapping[bytes, int]) -> Iterator[Run]:
        """Yield what is alive and `vector` does not cover, in runs of bounded size, origin by origin in order.

        Dots beyond `vector()` are included: cells of an unfinished sync, which may have superseded what `vector`
        claims. Each run's `after` is where the origin's run before it ended. Values over `INLINE_BYTES_MAX` are
        given as sizes. Rows that cannot be decoded are passed over. Where much was superseded a run may have few
        changes, or none: what one costs is bounded, so that others can have their turn behind it.
        """
        ...

    def runs_by_place(self, start: bytes) -> Iterator[tuple[bytes, list[Run]]]:
        """Yield everything alive in slices of the key order from the place `start` on.

        Each slice is (the place at which the next one starts, runs with after == upto == 0). The last slice's place
        is ``END_OF_PLACES``. Floors of namespaces come first, in slices of their own, at the beginning of a walk from
        b"", and after them it still stands at b"".
        """
        ...

    def body(self, origin: bytes, seq: int, place: bytes) -> bytes | None:
        """Return the value that carries this dot; None if it was superseded."""
        ...

    def close(self) -> None: ...


# Greater than any place: where a walk of the key space ends.
END_OF_PLACES: Final = b"\xff" * 17


class Purging(Protocol):
    """What replication knows about other members, as far as the store's upkeep needs it."""

    @property
    def alone(self) -> bool:
        """Whether no other member can hold anything that this node does not."""
        ...

    def covers(self, origin: bytes, seq: int) -> bool:
        """Tell whether every member durably covers this dot, and this node all that they covered then."""
        ...

    @property
    def settled_hlc(self) -> int:
        """The clock value up to which this node covers all that any member wrote, or ever will write."""
        ...


class Replica(Protocol):
    """The namespaces of one group in one store, as replication sees them.

    The clock, the node's id, the cluster's records and what people ask about are the store's own, and the same for all
    groups. Changes of other groups are never shown, and must not be given.

    The methods that write (`apply`, `merge`, `cover`, `drop`, `put_system`, `void`) add to the tick under way and
    are on disk once that has been committed; if its commit fails, they never happened. The caller opens and
    commits the tick. The others may be called at any time.
    """

    @property
    def group(self) -> int: ...

    def of_group(self, group: int) -> Replica:
        """Return the same store as another group's. To be called once for each group."""
        ...

    @property
    def node_id(self) -> bytes:
        """Return the data directory's own 16 bytes."""
        ...

    def origin(self, lane: Lane) -> bytes | None:
        """Return the origin that stamps local writes of a lane; None as long as it has stamped none."""
        ...

    def own_origins(self) -> dict[bytes, int]:
        """Return the origins that ever stamped writes of this data directory, oldest first, with their lane.

        Without those of the local lane. The current ones are included once they have a dot on disk.
        """
        ...

    def vector(self) -> VersionVector:
        """Return what is covered and committed. Costs O(origins) after a commit, nothing otherwise."""
        ...

    def covered(self, origin: bytes) -> int:
        """Return the vector's entry as the tick under way sees it: applied runs of it count."""
        ...

    def durable(self) -> VersionVector:
        """Return the part of the vector that a power cut cannot take: the only one that may be claimed."""
        ...

    def floors(self) -> VersionVector: ...

    def horizon(self) -> int: ...

    @property
    def hlc(self) -> int:
        """Return the greatest clock value given or observed."""
        ...

    def observe(self, hlc: int) -> None:
        """Raise the clock, so that later stamps are greater than `hlc`."""
        ...

    def is_partial(self) -> bool:
        """Tell whether there are merged changes whose dots are not covered (an unfinished sync)."""
        ...

    @property
    def has_fresh(self) -> bool:
        """Tell whether `take_fresh` would return something."""
        ...

    def take_fresh(self) -> list[Run]:
        """Return the runs of what was committed locally since the last call, in order, without the local lane."""
        ...

    def apply(self, run: Run) -> int:
        """Merge what of `run` is not covered and cover its `upto`; return how many changes won.

        Needs run.after <= covered(run.origin). No change in it may still want its body. Raises nothing for
        changes whose content makes no sense here: they are kept and count as undecodable.
        """
        ...

    def merge(self, run: Run) -> int:
        """Merge the changes of `run` that are not covered, without covering anything; return how many won.

        What is merged is found by `runs_after` again. Covered dots are dropped without looking at their stamp.
        """
        ...

    def cover(self, vector: Mapping[bytes, int], floors: Mapping[bytes, int], horizon: int) -> None:
        """Raise vector, purge floors and horizon, pointwise, and the clock above the horizon."""
        ...

    def forget_purges(self) -> None:
        """Take back all purge floors, and the horizon. What was purged is not brought back by that."""
        ...

    def holds(self, place: bytes) -> bool:
        """Tell whether a row is stored at a place, be it one that cannot be read."""
        ...

    def unlisted(
        self, start: bytes, end: bytes, listed: Sequence[Run], places: int
    ) -> tuple[list[Run], bytes]:
        """Return the registers, dots only, of the first `places` that have a row in start <= place < end, and where to go on.

        Without those that `listed` names. For a full sync: the sender of all that it has in this range does not have these.
        Costs as much as there is up to where to go on, which is `end` if there is no more. What a place has of members alone
        does not count for `places`.
        """
        ...

    def drop(self, runs: Sequence[Run]) -> int:
        """Remove exactly the registers with these dots (as `unlisted` gave them); return how many there were."""
        ...

    def cut(self, limits: Mapping[bytes, int]) -> list[Voided]:
        """Remove all that carries a dot of these origins beyond their limits; return what readers saw of it.

        What it had replaced is gone, whoever wrote that, so nothing is covered any more but what the origins in use have
        written: a full sync has to follow. None of them may be cut. A tick of its own. Costs as much as there are such
        dots, in one go.
        """
        ...

    def uncovered(self) -> VersionVector:
        """Return the greatest sequence of each origin that was merged without being covered yet."""
        ...

    def ahead(self, hlc: int) -> dict[bytes, int]:
        """Return this data directory's origins whose log goes beyond a clock value, with the last sequence before that.

        What others gave back of such an origin may count as beyond, for its log tells the clock of its time.
        """
        ...

    def lower_clock(self, hlc_max: int, hlc: int) -> None:
        """Lower the clock to the wall's time, or `hlc`, or the greatest value up to `hlc_max` that logs tell, on disk as well.

        The caller knows that nothing which is left has a greater stamp than that. In the tick of `cut`, before anything
        is written in it.
        """
        ...

    def write_anew(self, voided: Sequence[Voided]) -> None:
        """Write values and expiries again, and delete what was deleted, all as one transaction with the current stamp.

        What was deleted gets its mark even if there is nothing here: an older value may be on its way.
        """
        ...

    def void(self, place: bytes, stamp: Stamp) -> None:
        """Write a deletion of `place` with the least stamp above `stamp`, under the current origin."""
        ...

    def feed(self) -> ChangeFeed:
        """Return the changes of this moment. Close it after use."""
        ...

    def body(self, origin: bytes, seq: int, place: bytes) -> bytes | None:
        """Return the value that carries this dot now; None if it was superseded."""
        ...

    def needs_body(self, run: Run) -> list[Change]:
        """Return those of the run's changes that would win and whose content is a size: to be fetched."""
        ...

    def bodyless(self) -> list[tuple[bytes, Stamp]]:
        """Return up to 256 values that an extension of their expiry brought back after they were dropped."""
        ...

    def restore_body(self, place: bytes, stamp: Stamp, value: bytes, metadata: bytes | None) -> bool:
        """Give a dropped value back; True if the register still carries that stamp."""
        ...

    # The reserved namespace of the cluster's own records.

    def put_system(self, name: bytes, value: bytes) -> None:
        """Write a record of the cluster, as an ordinary replicated write."""
        ...

    def get_system(self, name: bytes) -> tuple[bytes, Stamp] | None: ...

    @property
    def system_version(self) -> int:
        """Return a number that grows whenever records of the cluster change, here or by a peer."""
        ...

    def system_version_of(self, prefix: bytes) -> int:
        """Return a number that grows whenever a commit has changed records whose names begin with `prefix`.

        The prefix is what a name has up to its first colon, which it includes. It grows with a failed commit, too.
        """
        ...

    def list_system(self, prefix: bytes) -> list[tuple[bytes, bytes, Stamp]]:
        """Return (name, value, stamp) of the cluster's records whose name starts with `prefix`, by name."""
        ...

    # Settings of the data directory that do not replicate.

    def get_local(self, name: str) -> bytes | None:
        """Return a value stored with `put_local`: cluster id, rejoin state and the like. Each group has its own."""
        ...

    def put_local(self, name: str, value: bytes | None) -> None:
        """Store a value in the tick under way, or remove it."""
        ...

    # Upkeep.

    def rotate(self) -> None:
        """Stamp later writes with fresh origins, in all groups. Nothing may be pending."""
        ...

    def renew_node(self) -> None:
        """Draw a new node id, in the tick under way."""
        ...

    def set_purging(self, purging: Purging) -> None: ...

    def digest(self, feed: ChangeFeed) -> Iterator[Mapping[int, int] | None]:
        """Work out the buckets of everything durable in `feed`, slice by slice: None until the last, then the result.

        A bucket number (0..65535) maps to the XOR of 128-bit hashes of (place, kind, sub, stamp, content, metadata);
        zero ones are left out. Counted are cells that no clock and no purge will change: no deletion, nothing with
        an expiry.
        """
        ...

    def bucket(self, feed: ChangeFeed, numbers: Sequence[int]) -> Iterator[list[Run] | None]:
        """Find the changes in these buckets, slice by slice as `digest`.

        Their content is a 16-byte hash of content and metadata.
        """
        ...

    def changes_at(self, places: Sequence[bytes]) -> list[Run]:
        """Return all registers of these places, with content; large values as sizes. Runs as of `runs_by_place`."""
        ...

    def repair(self, run: Run) -> int:
        """Merge changes whether their dots are covered or not: the one way round the rule, for verification."""
        ...

    def touch(self, places: Sequence[bytes]) -> None:
        """Write the live records of these places anew under the current origin, so that they spread again."""
        ...

    # What people ask about.

    def conflicts(self, count: int) -> list[Conflict]:
        """Return the latest lost writes, newest first. At most 1,024 are remembered."""
        ...

    def on_conflict(self, callback: Callable[[Conflict], None]) -> None: ...

    def stats(self) -> Mapping[str, int]:
        """Return counts: conflicts, also by kind, forks, purged, undecodable, bodyless, tombstones, expired_headers."""
        ...
