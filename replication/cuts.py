"""Voiding what a node wrote while its clock was wrong (R3.5).

A member whose clock is far ahead is held: the others take nothing of its origin until their clocks arrive there. An
operator may cut the origin instead, while a majority holds it:

    cut:<origin><sequence, 8 bytes>   {}        everything beyond that sequence is void; of several the least counts

Nobody takes a void dot in any more. Who holds some, the node that wrote them above all, removes them once its own clock
is right: it keeps the values as dead letters, forgets the coverage, lowers its clock, and catches up by a full sync, for
what they had replaced is gone. Then the writer writes its values anew (`Exchange`).

Departs from the spec in that nothing else has to be told apart: a cut is a record for ever, so that it also holds for a
backup of that node which is put back years later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from replication.core import Core
from replication.messages import encode_record
from storage.changes import Run

CUT: Final = b"cut:"
_ORIGIN_BYTES: Final = 16
_SEQ_BYTES: Final = 8


class Cuts:
    """The cuts of all origins by their records, cached until there are more."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._version = -1
        self._upto: dict[bytes, int] = {}

    def all(self) -> Mapping[bytes, int]:
        """Return up to where each origin that was cut counts."""
        version = self._core.replica.system_version_of(CUT)
        if version != self._version:
            self._version = version
            self._upto = self._read()
        return self._upto

    def record(self, origin: bytes, upto: int) -> None:
        """Void what an origin wrote beyond `upto`. Inside a tick."""
        name = CUT + origin + upto.to_bytes(_SEQ_BYTES, "big")
        record = {"by": self._core.identity.node, "at": self._core.wall_ms()}
        self._core.replica.put_system(name, encode_record(record))

    def limit(self, origin: bytes) -> int | None:
        """Return up to where an origin counts; None if it was not cut."""
        return self.all().get(origin)

    def trimmed(self, run: Run) -> Run:
        """Return a run without its void changes."""
        upto = self.limit(run.origin)
        if upto is None:
            return run
        return run._replace(changes=[change for change in run.changes if change.seq <= upto])

    def clamped(self, vector: Mapping[bytes, int]) -> Mapping[bytes, int]:
        """Return a vector that claims nothing void."""
        cuts = self.all()
        if not cuts:
            return vector
        return {origin: min(seq, cuts.get(origin, seq)) for origin, seq in vector.items()}

    def _read(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for name, _, _ in self._core.replica.list_system(CUT):
            origin, seq = name[len(CUT) : -_SEQ_BYTES], int.from_bytes(name[-_SEQ_BYTES:], "big")
            if len(origin) == _ORIGIN_BYTES:
                found[origin] = min(seq, found.get(origin, seq))
        return found
