"""What clients hear of writes that came from other nodes: the same as of local ones.

Keyspace events, invalidations for client-side caches; WATCH needs nothing, it compares versions. An event has
the name of the plainest command that does the same: an incoming value is a ``set``, whichever command
wrote it, a deletion a ``del``. ``conflict`` is kvd's own: a write has lost against one whose writer had not seen it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from kvd import notify
from storage.changes import Conflict, Kind

if TYPE_CHECKING:
    from kvd.server import Server
    from storage.store import Keyspace

# As `Store.applied` gives them; a key of None stands for all keys of the keyspace.
Writes: TypeAlias = "Sequence[tuple[Keyspace, bytes | None, Kind]]"

_EVENTS: Final = {
    Kind.VALUE: (b"set", notify.STRING),
    Kind.EXPIRY: (b"expire", notify.GENERIC),
    Kind.FLOOR: (b"del", notify.GENERIC),
}


class Applied:
    """Tells of applied writes after their commit."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def tell(self, writes: Writes) -> None:
        """Tell of the writes of one committed tick."""
        server = self._server
        if server.store.notifying:
            for keyspace, key, kind in writes:
                event = _EVENTS.get(kind)
                if event is not None and key is not None and not _is_reserved(server, keyspace):
                    server.notifications.report(keyspace, event[0], key, event[1])
        if server.tracking.active:
            server.tracking.applied(key for keyspace, key, _ in writes if not _is_reserved(server, keyspace))

    def tell_conflict(self, conflict: Conflict) -> None:
        """Tell that a write has lost."""
        server = self._server
        if server.store.notifying:
            keyspace = server.store.keyspaces.by_id(conflict.place[:16])
            if keyspace is not None and not _is_reserved(server, keyspace):
                server.notifications.report(keyspace, b"conflict", conflict.place[16:], notify.GENERIC)


def _is_reserved(server: Server, keyspace: Keyspace) -> bool:
    keyspaces = server.store.keyspaces
    return keyspace is keyspaces.system or keyspace is keyspaces.cluster
