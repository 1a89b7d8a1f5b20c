"""One client's transport as the hub sees it: where its output goes and what it has not taken yet.

`SocketConnection` is a plain non-blocking socket in the hub's selector; `StreamConnection` (TLS) is
driven by a Trio task of its own and only meets the hub in the tick. Both keep the same accounts of
unsent output, and the same two bounds apply:

* back-pressure: above `PAUSE_BYTES` unsent (or the session's own bound) nothing more is read from the client until it has taken some;
* the output limit of its class (normal or pubsub, as Redis's client-output-buffer-limit): beyond it
  the connection is closed. So is one that takes nothing for `STALLED_SECONDS` while it is paused, or
  while the last of its output is all that keeps it open.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog
import trio

from kvd.poller import ONCE, READ, WRITE

if TYPE_CHECKING:
    from kvd.driven import Driven
    from kvd.hub import Hub

log = structlog.get_logger()

# A client may send this much more than it reads before it is paused. Naive clients write a whole
# pipeline before they read the first reply, so it is generous: a million replies of 32 bytes.
PAUSE_BYTES: Final = 32 << 20
# When all clients together have this much unsent, each is paused at `CROWDED_PAUSE_BYTES`.
CROWDED_BYTES: Final = 512 << 20
CROWDED_PAUSE_BYTES: Final = 64 << 10
STALLED_SECONDS: Final = 60.0
# So much of a suspended client's further input is taken in.
SUSPENDED_HELD_BYTES: Final = 64 << 10
# What is read at once from a client that sends little: up to this size Python has memory ready for the bytes. To
# make room for 64 KiB and give it back costs 0.4 us, a fifteenth of a GET.
SMALL_RECEIVE_BYTES: Final = 479
# What is handed to the kernel at once; more than any socket buffer takes.
_SEND_BYTES: Final = 1 << 20
# The same for a stream, which tells of progress only when it has sent all of it.
_STREAM_SEND_BYTES: Final = 64 << 10
# Unsent pieces are put together up to this size: small ones would take more memory than they hold.
_PIECE_BYTES: Final = 4096


class Connection:
    """What both kinds have in common. `marked` means that the hub will flush it in this tick."""

    __slots__ = (
        "_progress_at",
        "_soft_since",
        "_stats",
        "closed",
        "fd",
        "hub",
        "marked",
        "session",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, hub: Hub, session: Driven) -> None:
        self.fd = -1  # of a plain socket; a stream has none that the hub may touch
        self.hub = hub
        self.session = session
        self.unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self.marked = False
        self.closed = False
        self._soft_since: float | None = None
        self._progress_at = 0.0
        self._stats = hub.server.stats
        session.on_output = self.mark
        session.transport = self

    def mark(self, session: Driven | None = None) -> None:
        """Have the hub look at this connection in this tick, or the next one."""
        if not self.marked and not self.closed:
            self.marked = True
            self.hub.mark(self)

    @property
    def unsent_count(self) -> int:
        """In how many pieces the unsent output waits."""
        return len(self.unsent)

    @property
    def is_full(self) -> bool:
        """Tell whether the client has to take output before it gets more to be sent."""
        crowded = self.hub.unsent_bytes > CROWDED_BYTES
        return self.unsent_bytes > (
            CROWDED_PAUSE_BYTES if crowded else min(PAUSE_BYTES, self.session.pause_bytes)
        )

    @property
    def is_paused(self) -> bool:
        """Tell whether nothing more is to be read from the client for now.

        Either it has to take output first, or requests of it are waiting already (its session is
        suspended or throttled): what a client may make us hold stays bounded. A suspended client is
        read from for a while all the same, because only that tells whether it is still there.
        """
        session = self.session
        if session.backlog and not (session.suspended and session.held_bytes < SUSPENDED_HELD_BYTES):
            return True
        return self.is_full

    @property
    def may_go_on(self) -> bool:
        """Tell whether requests that were held back are to be run."""
        session = self.session
        return (bool(session.backlog) or session.resumed) and not session.suspended and not self.is_full

    def flush(self) -> None:
        """Send, or queue, what the session has gathered. After the commit only."""
        raise NotImplementedError

    def close(self, reason: str) -> None:
        """Close the transport now and end the session. Idempotent."""
        raise NotImplementedError

    def _queue(self, data: memoryview) -> None:
        self.unsent_bytes += len(data)
        self.hub.unsent_bytes += len(data)
        if not self.unsent:
            self._progress_at = trio.current_time()
        elif len(self.unsent[-1]) + len(data) <= _PIECE_BYTES:
            data = memoryview(b"".join((self.unsent.pop(), data)))
        self.unsent.append(_compact(data))

    def _taken(self, count: int) -> None:
        """Drop `count` bytes from the front of the unsent output."""
        self.unsent_bytes -= count
        self.hub.unsent_bytes -= count
        self._progress_at = trio.current_time()
        self.session.active_at_ms = self.hub.server.store.now_ms
        while count:
            first = self.unsent[0]
            if len(first) > count:
                self.unsent[0] = _compact(first[count:])
                return
            count -= len(first)
            self.unsent.popleft()

    def check_limits(self, now: float) -> str | None:
        """Return why the connection must be closed for not reading, or None. `now` is Trio's clock."""
        hard_bytes, soft_bytes, soft_seconds = self._limit()
        size = self.unsent_bytes
        if hard_bytes and size > hard_bytes:
            return "output limit"
        is_waited_for = self.is_full or self.session.closing
        if size and is_waited_for and now - self._progress_at > STALLED_SECONDS:
            return "stalled"
        if not soft_bytes or size <= soft_bytes:
            self._soft_since = None
            return None
        if self._soft_since is None:
            self._soft_since = now
        return "output limit" if now - self._soft_since > soft_seconds else None

    def _limit(self) -> tuple[int, int, int]:
        """Return hard bytes, soft bytes and soft seconds; 0 is no limit."""
        clients = self.hub.server.settings.clients
        session = self.session
        if session.subscription_count or session in self.hub.server.monitors:
            return (
                clients.output_pubsub_hard_bytes,
                clients.output_pubsub_soft_bytes,
                clients.output_pubsub_soft_seconds,
            )
        return (
            clients.output_normal_hard_bytes,
            clients.output_normal_soft_bytes,
            clients.output_normal_soft_seconds,
        )

    def _end(self, reason: str) -> None:
        self.closed = True
        self.hub.unsent_bytes -= self.unsent_bytes
        self.unsent_bytes = 0
        self.unsent.clear()
        self.session.on_output = _ignore
        self.session.end()
        self.session.transport = None  # no cycle: what a client held goes with it, not at some collection
        self.hub.forget(self, reason)


class SocketConnection(Connection):
    """A plain TCP or unix socket, registered in the hub's selector."""

    __slots__ = ("_mask", "receive_bytes", "recv", "send", "socket")

    def __init__(self, hub: Hub, session: Driven, sock: socket.socket) -> None:
        super().__init__(hub, session)
        self.socket = sock
        self.fd = sock.fileno()
        self.recv = sock.recv
        self.receive_bytes = SMALL_RECEIVE_BYTES
        self.send = sock.send
        self._mask = READ

    @property
    def is_read(self) -> bool:
        """Tell whether the selector is asked for input. If not, it tells of what is there when it is asked again."""
        return bool(self._mask & READ)

    def flush(self) -> None:
        self.marked = False
        data = self.session.take_output()
        self._stats.output_bytes += len(data)
        if self.unsent:
            if data:
                self._queue(memoryview(data))
        elif data:
            self._stats.writes += 1
            try:
                sent = self.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close("connection lost")
                return
            if sent != len(data):
                self._queue(memoryview(data)[sent:])
        self._after_output()

    def send_later(self, data: bytes) -> None:
        """Send what the kernel has not taken at once, in its turn."""
        self._queue(memoryview(data))
        self.mark()

    def send_more(self) -> None:
        """Send unsent output as far as the kernel takes it."""
        try:
            while self.unsent:
                chunk = self.unsent[0][:_SEND_BYTES]
                self._stats.writes += 1
                sent = self.send(chunk)
                self._taken(sent)
                if sent < len(chunk):
                    break
        except BlockingIOError:
            pass
        except OSError:
            self.close("connection lost")
            return
        self._after_output()

    def _after_output(self) -> None:
        session = self.session
        if session.closing and not self.unsent and not session.out:
            self.close(session.close_reason or "closed")
            return
        if self.unsent or session.backlog or session.resumed or self._mask != READ:
            wanted = (WRITE if self.unsent else 0) | (0 if self.is_paused else READ)
            if wanted != self._mask:
                self._mask = wanted
                self.hub.poller.modify(self.fd, wanted | ONCE if wanted & READ else wanted)
            if self.may_go_on:
                self.hub.run_backlog_later(self)

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self.hub.poller.unregister(self.fd)
        self.socket.close()
        self._end(reason)


class StreamConnection(Connection):
    """A TLS stream: one task reads and hands over, one sends what the hub flushed."""

    __slots__ = ("_scope", "_stream", "_turns", "handed_over")

    def __init__(self, hub: Hub, session: Driven, stream: trio.abc.Stream) -> None:
        super().__init__(hub, session)
        self._stream = stream
        self.handed_over = False  # whether the hub has input of this stream that it has not run yet
        self._turns = trio.lowlevel.ParkingLot()  # where both tasks wait until something has changed
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve the client until either side closes. The stream is closed on return."""
        reason = "closed"
        try:
            async with self._stream, trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._receive_all)
                await self._send_all()
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            reason = "connection lost"
        except* Exception as error:  # a bug ends its session, not the daemon
            reason = "internal error"
            log.error("session failed unexpectedly", session_id=self.session.id, exc_info=error)
            self.hub.server.stats.unexpected_errors += 1
        finally:
            if not self.closed:
                self._end(self.session.close_reason or reason)

    async def _receive_all(self) -> None:
        """Hand over what comes piece by piece, the end last, so that all that came before it is run."""
        while not self.session.closing:
            data = await self._receive()
            self.handed_over = True
            self.hub.deliver(self, data)
            while self.handed_over or self.is_paused:
                await self._turns.park()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(self.hub.receive_bytes))
        except trio.BrokenResourceError:
            return b""

    async def _send_all(self) -> None:
        """Send what is flushed, and return when the session is closing and all is sent."""
        session = self.session
        while not (session.closing and not self.unsent and not session.out):
            if self.unsent:
                chunk = self.unsent[0][:_STREAM_SEND_BYTES]
                self._stats.writes += 1
                await self._stream.send_all(chunk)
                if not self.closed:
                    self._taken(len(chunk))
                continue
            if self.may_go_on:
                self.hub.run_backlog_later(self)
            self._turns.unpark_all()
            await self._turns.park()

    def flush(self) -> None:
        self.marked = False
        data = self.session.take_output()
        self._stats.output_bytes += len(data)
        if data:
            self._queue(memoryview(data))
        self._turns.unpark_all()

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self._end(reason)
        self._scope.cancel()


def _compact(data: memoryview) -> memoryview:
    """Return a view of the same bytes that does not keep much more than these in memory.

    Not earlier: a message to many is one object, of which each of them would have its own copy.
    """
    return memoryview(bytes(data)) if 4 * len(data) < len(data.obj) else data  # type: ignore[arg-type]


def _ignore(session: Driven) -> None:
    """Take the place of `mark` once the connection is closed."""
