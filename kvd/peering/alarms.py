"""Lines of the log about what should be heard of without anybody's looking at metrics.

Of lost writes and forks, of which there may be many, a line a second tells how many there were; of their keys and values
it says nothing, these are the clients' own. A member for whom garbage collection waits is named once, when that has
lasted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs
import structlog

from replication.exchange import Exchange

if TYPE_CHECKING:
    from storage.store import Store

log = structlog.get_logger()

_LOOK_SECONDS: Final = 1.0
_BLOCKED_SECONDS: Final = 60.0  # who restarts, or is behind for a moment, is not worth a line


@attrs.define
class _Blocker:
    since: float
    is_told: bool = False


class Alarms:
    """Compares what is counted with what was told."""

    def __init__(self, store: Store, exchanges: Mapping[int, Exchange]) -> None:
        self._store = store
        self._exchanges = exchanges
        self._next = 0.0
        self._conflicts = self._forks = 0  # as told
        self._blockers: dict[tuple[int, bytes], _Blocker] = {}  # by group and member

    def look(self, now: float) -> None:
        """Tell what is new, once a second."""
        if now < self._next:
            return
        self._next = now + _LOOK_SECONDS
        conflicts, forks = self._store.losses.total, self._store.forks
        if conflicts > self._conflicts:
            log.info("concurrent writes lost", count=conflicts - self._conflicts, total=conflicts)
        if forks > self._forks:
            log.error("two contents under one dot", count=forks - self._forks, total=forks)
        self._conflicts, self._forks = conflicts, forks
        self._look_at_blockers(now)

    def _look_at_blockers(self, now: float) -> None:
        found = {
            (group, node): None
            for group, exchange in self._exchanges.items()
            for node in exchange.stability.blocked_by
        }
        for group, node in [key for key in self._blockers if key not in found]:
            if self._blockers.pop((group, node)).is_told:
                log.info("garbage collection waits no longer", group=group, peer=node.hex()[:8])
        for group, node in found:
            blocker = self._blockers.setdefault((group, node), _Blocker(now))
            if not blocker.is_told and now - blocker.since >= _BLOCKED_SECONDS:
                blocker.is_told = True
                log.warning("garbage collection waits for a member", group=group, peer=node.hex()[:8])
