"""What has changed, in terms that replication can carry: the seam between storage and replication.

Only value types and one protocol; the implementation over the change log is in `feed`. This is
the one module of storage that replication imports: it sees origins, sequence numbers and payloads,
never a row, a key encoding, or the engine.

A *dot* (origin, seq) names one write of one register for ever. A version vector tells for each
origin up to which sequence everything is held or superseded. A change is a dot that is still some
register's, with that register's content: what was overwritten in the meantime is not there any more,
and need not be, because what replaced it is a change itself.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Protocol

import attrs


class Kind(enum.IntEnum):
    """Which register a change writes."""

    VALUE = 0
    EXPIRY = 1
    FLOOR = 2
    NAMESPACE_FLOOR = 5


@attrs.frozen
class Stamp:
    """A point in the order of all writes: compares as (hlc, origin's bytes, seq)."""

    hlc: int
    origin: bytes
    seq: int

    def __lt__(self, other: Stamp) -> bool:
        return (self.hlc, self.origin, self.seq) < (other.hlc, other.origin, other.seq)


@attrs.frozen
class Change:
    """One register as it stands, named by its dot."""

    stamp: Stamp
    prev_hlc: int  # of the version that its writer replaced; 0 if there was none
    prev_origin: bytes | None
    kind: Kind
    namespace: bytes
    key: bytes  # empty for NAMESPACE_FLOOR
    value: bytes | None = None  # VALUE; None for one that expired and was swept
    metadata: bytes | None = None  # VALUE
    expires_at_ms: int | None = None  # EXPIRY; None: it was taken away
    group: tuple[int, int] = (0, 1)  # (index, count) in the transaction that wrote it


class VersionVector(Mapping[bytes, int]):
    """For each origin (16 bytes) the sequence up to which everything is covered; 0 for unknown ones."""

    __slots__ = ("_seqs",)

    def __init__(self, seqs: Mapping[bytes, int] | None = None) -> None:
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

    def covers(self, other: VersionVector) -> bool:
        """Tell whether everything that `other` covers is covered here."""
        return all(self[origin] >= seq for origin, seq in other.items())

    def merged(self, other: VersionVector) -> VersionVector:
        """Return the pointwise maximum."""
        return VersionVector({origin: max(self[origin], other[origin]) for origin in {*self, *other}})

    def common(self, other: VersionVector) -> VersionVector:
        """Return the pointwise minimum."""
        return VersionVector({origin: min(self[origin], other[origin]) for origin in {*self, *other}})


class ChangeFeed(Protocol):
    """The changes of one store, of one unchanging moment."""

    def vector(self) -> VersionVector:
        """Return what this feed covers."""
        ...

    def changes_after(self, vector: VersionVector) -> Iterator[Change]:
        """Yield what `vector` does not cover, origin by origin, in the order of sequences.

        Rows that cannot be decoded are passed over.
        """
        ...

    def close(self) -> None: ...
