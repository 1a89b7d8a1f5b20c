"""Which dots of this run are dead: noted when they are overwritten, so that nobody has to look.

Compaction of the change log must know which dots are still some register's. Looking at the row of
each dot costs more than writing it did, while the write that kills a dot has its register at hand. So
every commit marks the registers it replaced here: one byte a dot, in segments, for the origins that were
born or first met in this process (of earlier ones not every death is known). The oldest segments are given up
when there are too many; compaction looks at rows for those, as for earlier origins.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

_SEGMENT_BITS: Final = 16
_SEGMENT_DOTS: Final = 1 << _SEGMENT_BITS
_SEGMENTS_MAX: Final = 256  # 16 MiB
_REGISTER: Final = Struct(">8xIQ12x")


class DeadDots:
    """Marks by (origin number, segment). A missing segment of a known origin has no mark or was given up."""

    def __init__(self) -> None:
        self._segments: dict[tuple[int, int], bytearray] = {}
        self._first_origin: int | None = None  # the first one born in this process
        self._given_up: tuple[int, int] = (0, -1)  # segments up to this one are not known

    def born(self, origin: int) -> None:
        """Take note of an origin that has given no dot yet."""
        if self._first_origin is None:
            self._first_origin = origin

    def mark(self, registers: list[bytes]) -> None:
        """Mark the dots of `registers`, which a commit has replaced."""
        # Hot: once for every overwrite.
        segments = self._segments
        first_origin = self._first_origin or 0
        for origin, seq in _REGISTER.iter_unpack(b"".join(registers)):
            if origin < first_origin:
                continue
            try:
                segments[origin, seq >> _SEGMENT_BITS][seq & _SEGMENT_DOTS - 1] = 1
            except KeyError:
                self._open(origin, seq >> _SEGMENT_BITS)[seq & _SEGMENT_DOTS - 1] = 1

    def revive(self, origin: int, seqs: Iterable[int]) -> None:
        """Take back what was noted about these dots: a register carries them again."""
        for seq in seqs:
            segment = self._segments.get((origin, seq >> _SEGMENT_BITS))
            if segment is not None:
                segment[seq & _SEGMENT_DOTS - 1] = 0

    def knows(self, origin: int, first_seq: int) -> bool:
        """Tell whether every death among the dots from this one on is marked."""
        if self._first_origin is None or origin < self._first_origin:
            return False
        return (origin, first_seq >> _SEGMENT_BITS) > self._given_up

    def all_dead(self, origin: int, first_seq: int, count: int) -> bool:
        """Tell whether it is known that all of `count` dots are dead."""
        return (
            count <= _SEGMENT_DOTS
            and self.knows(origin, first_seq)
            and self.marks(origin, first_seq, count).count(1) == count
        )

    def marks(self, origin: int, first_seq: int, count: int) -> bytes:
        """Return one byte for each of `count` dots: 1 if it is dead."""
        parts: list[bytes] = []
        seq, end = first_seq, first_seq + count
        while seq < end:
            offset = seq & _SEGMENT_DOTS - 1
            size = min(end - seq, _SEGMENT_DOTS - offset)
            segment = self._segments.get((origin, seq >> _SEGMENT_BITS))
            parts.append(bytes(size) if segment is None else bytes(segment[offset : offset + size]))
            seq += size
        return b"".join(parts)

    def _open(self, origin: int, number: int) -> bytearray:
        """Make the segment; give up the oldest if there are too many."""
        segment = self._segments[origin, number] = bytearray(_SEGMENT_DOTS)
        if len(self._segments) > _SEGMENTS_MAX:
            oldest = min(self._segments)
            del self._segments[oldest]
            self._given_up = max(self._given_up, oldest)
        return segment
