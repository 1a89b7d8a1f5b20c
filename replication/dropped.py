"""Values that were dropped when they expired, and are wanted after all.

A node drops the body of an expired value and keeps its header. An extension of the expiry that was written elsewhere
before that moment may arrive later: then the header is live again, and the body has to come from a member that had
the extension in time, its writer first of all. Until it is found, readers see no value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from replication.core import Core, Link
from replication.messages import Cells, CellsRequest
from storage.changes import Kind, Run, Stamp

if TYPE_CHECKING:
    from replication.bodies import Bodies

_INTERVAL: Final = 0.5
_PLACES_MAX: Final = 64


class DroppedValues:
    """Asks one peer after the other for the values that are missing here."""

    def __init__(self, core: Core, bodies: Bodies) -> None:
        self._core = core
        self._bodies = bodies
        self._next = 0.0

    def tick(self, now: float) -> float:
        """Ask a random peer, now and then, as long as something is missing."""
        if now < self._next:
            return self._next
        self._next = now + _INTERVAL
        missing = self._core.replica.bodyless()
        links = list(self._core.links.values())
        if missing and links:
            places = tuple(dict.fromkeys(place for place, _ in missing[:_PLACES_MAX]))
            self._core.rng.choice(links).send(CellsRequest(0, places))
        return self._next

    def on_cells(self, link: Link, cells: Cells) -> None:
        """Take in what a peer still has. Inside a tick."""
        for run in cells.runs:
            for change in run.changes:
                if change.kind != Kind.VALUE or change.content is None:
                    continue
                alone = Run(run.origin, 0, 0, [change])
                if isinstance(change.content, int):
                    self._bodies.fetch(link, alone, session=0, done=self._restore, waiting=[change])
                else:
                    self._restore(alone)

    def _restore(self, run: Run | None) -> None:
        if run is None:
            return  # asked for again, most likely elsewhere
        for change in run.changes:
            if isinstance(change.content, bytes):
                stamp = Stamp(change.hlc, run.origin, change.seq)
                self._core.replica.restore_body(change.place, stamp, change.content, change.metadata)
