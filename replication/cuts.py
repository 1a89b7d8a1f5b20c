"""Voiding what a node wrote while its clock was wrong (R3.5).

A member whose clock is far ahead is held: the others take nothing of its origin until their clocks arrive there. An
operator may cut the origin instead, while a majority holds it:

    cut:<origin><sequence, 8 bytes>   {}        everything beyond that sequence is void; of several the least counts

Nobody takes a void dot in any more. Who holds some, the node that wrote them above all, removes them once its own clock
is right, and catches up (`voiding`). That needs the record first, and a node that catches up from nobody may not get it:
so cuts are told with the vectors, too.

A cut is never taken back, so that it also holds for a backup of that node which is put back years later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from replication.core import Core
from replication.messages import encode_record
from storage.changes import Run, VersionVector, group_of

CUT: Final = b"cut:"
_ORIGIN_BYTES: Final = 16
_SEQ_BYTES: Final = 8
# Of so many origins a node keeps what it was told before the records have come. A cut is an operator's act; more come
# from a member that makes them up.
_HEARD_MAX: Final = 1000


class Cuts:
    """The cuts of all origins by their records, cached until there are more."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._version = -1
        self._recorded: dict[bytes, int] = {}
        self._heard: dict[bytes, int] = {}
        self._upto: dict[bytes, int] = {}  # the least of both
        self._told = VersionVector()

    def all(self) -> Mapping[bytes, int]:
        """Return up to where each origin that was cut counts."""
        version = self._core.replica.system_version_of(CUT)
        if version != self._version:
            self._version = version
            self._read()
        return self._upto

    def told(self) -> VersionVector:
        """Return the first void sequence of each origin that was cut: the same object until there are more cuts."""
        self.all()
        return self._told

    def on_told(self, cuts: Mapping[bytes, int]) -> None:
        """Take in what a member has told."""
        upto = self.all()
        heard = {origin: first - 1 for origin, first in cuts.items() if 0 < first <= upto.get(origin, first)}
        if heard and len(self._heard.keys() | heard.keys()) <= _HEARD_MAX:
            self._heard |= heard
            self._version = -1

    def unwritten(self) -> Mapping[bytes, int]:
        """Return the cuts that this node has only heard of."""
        upto = self.all()
        return {origin: upto[origin] for origin in self._heard if self._recorded.get(origin) != upto[origin]}

    def of_group(self, group: int) -> Mapping[bytes, int]:
        """Return the same of a group's origins."""
        return {origin: upto for origin, upto in self.all().items() if group_of(origin) == group}

    def record(self, origin: bytes, upto: int) -> None:
        """Void what an origin wrote beyond `upto`. Inside a tick."""
        name = CUT + origin + upto.to_bytes(_SEQ_BYTES, "big")
        record = {"by": self._core.identity.node, "at": self._core.wall_ms()}
        self._core.replica.put_system(name, encode_record(record))

    def limit(self, origin: bytes) -> int | None:
        """Return up to where an origin counts; None if it was not cut."""
        return self.all().get(origin)

    def voids(self, run: Run) -> bool:
        """Tell whether any change of a run is void."""
        upto = self.limit(run.origin)
        return upto is not None and any(change.seq > upto for change in run.changes)

    def is_beyond(self, vector: Mapping[bytes, int]) -> bool:
        """Tell whether whoever has `vector` holds what is void, and may lack what that has replaced."""
        return any(vector.get(origin, 0) > upto for origin, upto in self.all().items())

    def _read(self) -> None:
        self._recorded = {}
        for name, _, _ in self._core.replica.list_system(CUT):
            origin, seq = name[len(CUT) : -_SEQ_BYTES], int.from_bytes(name[-_SEQ_BYTES:], "big")
            if len(origin) == _ORIGIN_BYTES:
                self._recorded[origin] = min(seq, self._recorded.get(origin, seq))
        self._upto = dict(self._recorded)
        for origin, seq in self._heard.items():
            self._upto[origin] = min(seq, self._upto.get(origin, seq))
        self._told = VersionVector({origin: seq + 1 for origin, seq in self._upto.items()})
