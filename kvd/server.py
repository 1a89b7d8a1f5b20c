"""What commands may reach beyond their own session: the parts of one running daemon.

`Server` holds the parts and nothing else; it is put together in `kvd.daemon` and lives as long as
the process. Everything runs in one thread, between or inside the hub's ticks, so nothing here
needs a lock.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from kvd import process
from kvd.acl import Acl
from kvd.checkpoints import Checkpoints
from kvd.commands.table import CommandTable
from kvd.cursors import CursorTable
from kvd.latency import LatencyMonitor
from kvd.notifications import Notifications
from kvd.pubsub import PubSub
from kvd.sampler import Sampler
from kvd.scripting.engine import ScriptEngine
from kvd.slowlog import Slowlog
from kvd.stats import ServerStats
from kvd.sync_queue import SyncQueue
from kvd.tracking import Tracking
from protocol.multibulk import Limits
from protocol.replies import ErrorReply

if TYPE_CHECKING:
    from kvd.hub import Hub
    from kvd.pause import Pause
    from kvd.peering.peers import Peers
    from kvd.session import Session
    from kvd.settings import Settings
    from kvd.web.front import Front
    from kvd.web.session import HttpSession
    from storage.store import Store

log = structlog.get_logger()


class Server:
    """The daemon's parts, reachable from every session as `session.server`."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.run_id = secrets.token_hex(20)
        self.started_at = time.time()
        self.startup_bytes = process.resident_bytes()  # of memory, before anything was served
        self.stats = ServerStats()
        self.request_limits = Limits(bulk_bytes_max=settings.clients.bulk_bytes_max)  # every reader's
        self.table = CommandTable.standard()
        self.acl = Acl(settings, self.table)
        self.sessions: dict[int, Session] = {}
        self.http_sessions: dict[int, HttpSession] = {}
        self.input_bytes = 0  # what all sessions keep of their clients' input, see `Session.charge_input`
        self.monitors: set[Session] = set()
        self.pubsub = PubSub(self)
        self.tracking = Tracking(self)
        self.notifications = Notifications(self)
        self.slowlog = Slowlog(self)
        self.latency = LatencyMonitor(self)
        self.scripts = ScriptEngine(self)
        self.cursors = CursorTable()
        self.checkpoints = Checkpoints(self)
        self.sync_queue = SyncQueue(self)
        self.sampler = Sampler(self)
        self.sweeping = True  # DEBUG SET-ACTIVE-EXPIRE switches the sweep off
        self.pause: Pause | None = None
        self.config_file: Path | None = None  # what CONFIG REWRITE writes
        self.changed_settings: set[str] = set()  # by CONFIG SET, so what it has to write
        self.peers: Peers | None = None  # other nodes; None on a single node
        self.refusal: ErrorReply | None = None  # why clients may not write, for the sake of the cluster
        self.refuses_reads = False  # whether that holds for reads, too
        self.web: Front | None = None  # what HTTP clients share; None without HTTP
        self.hub: Hub | None = None  # set while the daemon runs; a test drives sessions without one
        self.spawned = 0  # how many of the tasks that `spawn` started are running
        self.spawn: Callable[..., None] = _nowhere_to_run  # start a Trio task that ends with the daemon
        self.stop: Callable[[], None] = _nowhere_to_run  # begin the orderly shutdown
        self._last_session_id = 0
        self.refresh_plain()

    @property
    def client_count(self) -> int:
        """How many clients are connected, whichever protocol they speak."""
        return len(self.sessions) + len(self.http_sessions)

    def next_session_id(self) -> int:
        self._last_session_id += 1
        return self._last_session_id

    def refresh_plain(self) -> None:
        """Choose again which commands a session may run on its fast path.

        To be called whenever something begins or ends that every command has to be checked
        against: a monitor, a pause, a busy script, a slow log that wants all arguments, a store that
        refuses writes, a cluster that this node is not a sound member of.
        """
        watched = (
            bool(self.monitors)
            or self.pause is not None
            or self.scripts.running is not None
            or self.slowlog.wants_every_command
            or self.refuses_reads
        )
        writes = not watched and self.store.writable is None and self.refusal is None
        self.table.allow_plain(reads=not watched, writes=writes)

    def refuse(self, text: str | None, *, reads: bool) -> None:
        """Let clients write no more, or nothing at all, with this error; None lets them again."""
        before = None if self.refusal is None else self.refusal.text
        reads = reads and text is not None
        if text == before and reads == self.refuses_reads:
            return
        if (text is None) != (before is None):
            log.warning("clients may not write", why=text) if text else log.info("clients may write")
        self.refusal = None if text is None else ErrorReply(text)
        self.refuses_reads = reads
        self.refresh_plain()

    def close_groups(self, reasons: Mapping[int, str]) -> None:
        """Let clients neither read nor write the namespaces of these groups: they are not all here yet.

        What answers at once, without a look at this, is told: sessions in such a namespace leave their fast path, and
        answers over HTTP that are kept are forgotten.
        """
        keyspaces = self.store.keyspaces
        if reasons == keyspaces.incomplete:
            return
        for group in sorted({*reasons, *keyspaces.incomplete}):
            if group not in reasons:
                log.info("clients may use the group", group=group)
            elif group not in keyspaces.incomplete:
                log.info("clients may not use the group", group=group, why=reasons[group])
        keyspaces.incomplete = dict(reasons)
        for session in self.sessions.values():
            session.refresh()
        if self.web is not None:
            self.web.hot.forget()


def _nowhere_to_run(*args: Any) -> None:
    raise RuntimeError("the server has no running hub")
