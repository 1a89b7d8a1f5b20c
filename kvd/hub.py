"""The hub: one Trio task that owns the selector and every plain client socket.

When it wakes it handles every ready socket in one synchronous pass, a *tick*:

    receive -> sessions run their commands -> one storage commit -> events -> send

then lets every other Trio task have its turn. No reply leaves before the commit it depends on; one
that depends on none is sent at once where the session knows it already (`Driven.answer`). A
commit that fails takes its tick's replies with it (`Session.refuse_uncommitted`). TLS connections
have tasks of their own and put what they received into the same tick.

Deliberately not here: what a command means (`kvd.dispatch`), how bytes are framed (`protocol`).

Why one task and not one a connection: measured on one machine with redis-benchmark, 50 clients, a
task a connection served 50,000 GETs a second, the hub 82,000, redis-server 91,000.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from kvd.connection import (
    SMALL_RECEIVE_BYTES,
    STALLED_SECONDS,
    Connection,
    SocketConnection,
    StreamConnection,
)
from kvd.dispatch import storage_refusal
from kvd.lingering import Lingering
from kvd.poller import ONCE, READ, WRITE, Poller, departed
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.driven import Driven
    from kvd.listeners import PlainListener
    from kvd.server import Server

log = structlog.get_logger()

Result = TypeVar("Result")

# What is read from one socket in one tick: several pipelines' worth, small enough to be fair.
RECEIVE_BYTES: Final = 64 << 10
# A tick commits and answers when sockets, or streams, or backlogs have taken this long, before it goes
# on with the others of them.
TICK_NANOSECONDS: Final = 5_000_000
# What all clients together may be owed; above it those that are owed most are closed. It is four times
# what makes them be paused early (`kvd.connection`), so it is met only by large replies to many.
UNSENT_BYTES_MAX: Final = 2 << 30
# What all clients together may have sent of requests that cannot be run yet: halves of them, queues of MULTI.
# Above it those that have sent most are closed. Room for eighty of the largest requests.
INPUT_BYTES_MAX: Final = 2 << 30
# How long a listener rests that could not accept: other clients get this much time to leave.
_LISTENER_REST_SECONDS: Final = 0.1
# After this long without a turn for the other tasks, they get one even under full load.
_TURN_NANOSECONDS: Final = 2_000_000


class Hub:
    """Owns the selector, the plain connections and the ticks."""

    receive_bytes = RECEIVE_BYTES

    def __init__(self, server: Server, poller: Poller) -> None:
        self.server = server
        self.poller = poller
        self._lingering = Lingering(poller)
        self.sockets: dict[int, SocketConnection] = {}
        self.streams: set[StreamConnection] = set()
        self.listeners: dict[int, PlainListener] = {}
        self.unsent_bytes = 0
        self._marked: list[Connection] = []
        self._answered_count = 0  # clients of this tick that were answered at once
        self._behind: deque[Connection] = deque()  # connections whose backlog goes on next tick
        self._delivered: deque[tuple[StreamConnection, bytes]] = deque()
        self._leftover: list[tuple[int, int]] = []
        self._pending: Iterator[tuple[int, int]] = iter(())  # what the tick under way has still to see to
        self._unread: dict[int, int] = {}  # events of connections that may have more to be read
        self._in_tick = False
        self._failure: StorageError | None = None  # of the last commit, for `transact`
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        poller.register(self._woken.fileno(), READ)
        self._is_awake = False
        self._is_draining = False
        self._leaving = trio.lowlevel.ParkingLot()  # who waits for a connection to end
        server.hub = self

    @property
    def is_draining(self) -> bool:
        """Whether nobody is let in any more: the daemon stops."""
        return self._is_draining

    @property
    def served_count(self) -> int:
        """How many clients this tick has something for so far."""
        return len(self._marked) + self._answered_count

    # --- connections

    def adopt(self, sock: socket.socket, session: Driven) -> SocketConnection:
        """Serve `session` over a connected, non-blocking socket from the next tick on."""
        connection = SocketConnection(self, session, sock)
        self.poller.register(connection.fd, READ | ONCE)
        self.sockets[connection.fd] = connection
        return connection

    async def serve_stream(self, stream: trio.abc.Stream, session: Driven) -> None:
        """Serve `session` over a stream until either side closes. The stream is closed on return."""
        connection = StreamConnection(self, session, stream)
        self.streams.add(connection)
        if self._is_draining:
            session.close_after_reply("shutdown")
        await connection.run()

    def connections(self) -> list[Connection]:
        """Return all connections of this moment."""
        return [*self.sockets.values(), *self.streams]

    def add_listener(self, listener: PlainListener) -> None:
        self.listeners[listener.fd] = listener
        self.poller.register(listener.fd, READ)

    def remove_listener(self, listener: PlainListener) -> None:
        del self.listeners[listener.fd]
        self.poller.unregister(listener.fd)

    def rest_listener(self, listener: PlainListener) -> None:
        """Stop accepting for a moment: it fails, most likely for want of a file descriptor."""
        self.remove_listener(listener)
        self.server.spawn(self._resume_listener, listener)

    async def _resume_listener(self, listener: PlainListener) -> None:
        await trio.sleep(_LISTENER_REST_SECONDS)
        if not self._is_draining:
            self.add_listener(listener)

    def forget(self, connection: Connection, reason: str) -> None:
        """Note that a connection is closed; called by the connection itself."""
        self._leaving.unpark_all()
        if isinstance(connection, StreamConnection):
            self.streams.discard(connection)
        else:
            self.sockets.pop(connection.fd, None)
            self._unread.pop(connection.fd, None)
        log.debug("client disconnected", session_id=connection.session.id, reason=reason)
        if reason == "output limit":
            self.server.stats.output_limit_closed += 1

    def mark(self, connection: Connection) -> None:
        """Flush a connection at the end of this tick, or of one that is started for it."""
        self._marked.append(connection)
        self.wake()

    def run_backlog_later(self, connection: Connection) -> None:
        self._behind.append(connection)
        self.wake()

    def deliver(self, connection: StreamConnection, data: bytes) -> None:
        """Take input that a stream's own task has read into the next tick; nothing is its end."""
        self._delivered.append((connection, data))
        self.wake()

    def wake(self) -> None:
        """Make sure that a tick follows. From this thread only."""
        if not self._in_tick and not self._is_awake:
            self._is_awake = True
            self._waker.send(b"!")

    # --- the task

    async def run(self) -> None:
        """Tick for as long as the daemon lives. Cancelled between ticks only."""
        clock = time.perf_counter_ns
        turn_ends = 0
        while True:
            if clock() > turn_ends:
                await trio.lowlevel.checkpoint()
                turn_ends = clock() + _TURN_NANOSECONDS
            if not (self._has_work() or self._linger()):
                await self.poller.wait()
                self._lingering.woken()
                turn_ends = clock() + _TURN_NANOSECONDS
            self.tick()

    def _has_work(self) -> bool:
        return bool(self._leftover or self._unread or self._behind or self._delivered or self._marked)

    def _linger(self) -> bool:
        """Wait for the next request in the selector itself, for a moment; tell whether one came.

        Only while nothing else is in a hurry in Trio's loop: no stream of ours, no task that a command
        has started. Timers are at most this moment late.
        """
        if self.streams or self.server.spawned:
            return False
        self._leftover = self._lingering.wait()
        return bool(self._leftover)

    def tick(self) -> None:
        """Serve everything that is ready, commit once, answer."""
        self._in_tick = True
        now_ms = time.time_ns() // 1_000_000
        store = self.server.store
        if now_ms != store.now_ms:
            store.begin(now_ms)
        self.server.stats.ticks += 1
        self._receive_ready(now_ms)
        if self._delivered:
            self._receive_delivered()
        if self._behind:
            self._run_backlogs()
        self.finish()
        self._in_tick = False
        self._is_awake = False

    def _receive_ready(self, now_ms: int) -> None:  # noqa: PLR0915 -- hot: one flat loop
        """Read every ready socket and run its session, for about `TICK_NANOSECONDS`."""
        events = self._leftover or self._look()
        self._leftover = []
        self._pending = pending = iter(events)
        sockets = self.sockets
        answers: list[tuple[SocketConnection, bytes]] = []
        self._answered_count = 0
        received = run = reads = 0
        deadline = time.perf_counter_ns() + TICK_NANOSECONDS
        for fd, mask in pending:
            if run > 3:
                run = 0
                if time.perf_counter_ns() > deadline:
                    # What is left over comes first in the next tick, so that nobody starves.
                    self._leftover = [(fd, mask), *pending]
                    break
            connection = sockets.get(fd)
            if connection is None:
                run += 1
                self._other_ready(fd)
                continue
            if mask != READ and mask & WRITE:
                run += 1
                connection.send_more()
                if mask == WRITE or connection.closed:
                    continue
            try:
                data = connection.recv(connection.receive_bytes)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                run += 1
                connection.close("client closed")
                continue
            received += len(data)
            reads += 1
            if len(data) == connection.receive_bytes or mask & ~(READ | WRITE):
                self._unread[fd] = mask
            session = connection.session
            session.active_at_ms = now_ms
            try:
                answer = session.answer(data)
                if answer is not None:
                    answers.append((connection, answer))
                    continue
                if answers:
                    self._send_answers(answers)
                run += 1
                self._receive(connection, data)
            except Exception as error:  # noqa: BLE001 -- a bug ends its session, not the daemon
                self._end_broken(connection, error)
        if answers:
            self._send_answers(answers)
        stats = self.server.stats
        stats.input_bytes += received
        stats.reads += reads

    def _look(self) -> list[tuple[int, int]]:
        """Return what is ready now, and what is to be read on.

        Not before nothing is left over: who sends without end would keep that from ever being so, and all others from
        being seen.
        """
        events = self.poller.poll()
        return events + self._take_unread(events) if self._unread else events

    def _take_unread(self, events: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what has to be seen to again beside `events`, but for connections that are paused.

        Those that are among `events` stay: one at a time, so that who closes after his request gets his reply.
        """
        unread, self._unread = self._unread, {}
        taken = []
        known = dict(events)
        for fd, mask in unread.items():
            if fd in known:
                self._unread[fd] = mask
            elif self.sockets[fd].is_read:
                taken.append((fd, mask))
        return taken

    def _send_answers(self, answers: list[tuple[SocketConnection, bytes]]) -> None:
        """Send what was answered at once, and empty the list.

        Together, because a client that is woken by its answer takes a processor from those whose requests are still
        to be read. But before anything else is run: that may take long.
        """
        size = 0
        for connection, answer in answers:
            size += len(answer)
            try:
                sent = 0 if connection.unsent else connection.send(answer)
            except OSError:
                sent = 0  # if the client is gone, the next attempt tells
            if sent != len(answer):
                connection.send_later(answer[sent:])
        stats = self.server.stats
        stats.output_bytes += size
        stats.writes += len(answers)
        self._answered_count += len(answers)
        answers.clear()

    def _receive(self, connection: SocketConnection, data: bytes) -> None:
        """Have a session run what may need the tick's commit, and flush it at the end."""
        if not connection.marked:
            connection.marked = True
            self._marked.append(connection)
        # At half of it, so that a pipeline whose parts vary does not change it each time.
        if len(data) < SMALL_RECEIVE_BYTES // 2:
            connection.receive_bytes = SMALL_RECEIVE_BYTES
        elif len(data) == connection.receive_bytes == SMALL_RECEIVE_BYTES:
            connection.receive_bytes = RECEIVE_BYTES
            rest = self._receive_rest(connection, RECEIVE_BYTES - len(data))
            data += rest
            if rest and len(data) < RECEIVE_BYTES and self._unread.get(connection.fd) == READ:
                del self._unread[connection.fd]  # that was all
        connection.session.receive(data)

    def _receive_rest(self, connection: SocketConnection, count: int) -> bytes:
        """Return what else the client has sent; nothing if it is gone, which the next attempt tells."""
        try:
            data = connection.recv(count)
        except OSError:
            return b""
        stats = self.server.stats
        stats.input_bytes += len(data)
        stats.reads += 1
        return data

    def _other_ready(self, fd: int) -> None:
        listener = self.listeners.get(fd)
        if listener is not None:
            listener.accept_ready(self)
        elif fd == self._woken.fileno():
            with contextlib.suppress(BlockingIOError):  # `pump` has read it in the middle of the tick
                self._woken.recv(64)

    def _receive_delivered(self) -> None:
        deadline = time.perf_counter_ns() + TICK_NANOSECONDS
        while self._delivered:
            connection, data = self._delivered.popleft()
            connection.handed_over = False
            if connection.closed:
                continue
            connection.mark()
            session = connection.session
            if data:
                session.active_at_ms = self.server.store.now_ms
                self._guard(connection, session.receive, data)
            else:
                session.close_after_reply("client closed")
            if time.perf_counter_ns() > deadline:
                return

    def _run_backlogs(self) -> None:
        deadline = time.perf_counter_ns() + TICK_NANOSECONDS
        for _ in range(len(self._behind)):
            connection = self._behind.popleft()
            if connection.closed or not connection.may_go_on:
                continue  # it comes back when its client has taken what it is owed
            connection.mark()
            connection.session.active_at_ms = self.server.store.now_ms  # who is being answered is not idle
            self._guard(connection, connection.session.run_backlog)
            if time.perf_counter_ns() > deadline:
                return

    def _guard(self, connection: Connection, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 -- a bug ends its session, not the daemon
            self._end_broken(connection, error)

    def _end_broken(self, connection: Connection, error: Exception) -> None:
        session = connection.session
        log.error("session failed unexpectedly", session_id=session.id, exc_info=error)
        self.server.stats.unexpected_errors += 1
        self.server.store.poison("a session failed unexpectedly")
        connection.close("internal error")

    def finish(self) -> None:
        """Commit what was written since the last time, and let the replies go."""
        store = self.server.store
        if store.dirty:
            self._commit()
        if self.server.notifications.pending:
            self.server.notifications.deliver()
        marked = self._marked
        now = 0.0
        # Flushing may mark further connections (a closed subscriber, a woken client): the list grows.
        for connection in marked:
            if connection.closed:
                continue
            connection.flush()
            if connection.unsent_bytes:
                now = now or trio.current_time()
                self._close_if_over_limit(connection, now)
        marked.clear()
        if self.unsent_bytes > UNSENT_BYTES_MAX:
            self._close_largest()
        if self.server.input_bytes > INPUT_BYTES_MAX:
            self._close_greediest()

    def _commit(self) -> None:
        server = self.server
        feeds = server.web.feeds if server.web is not None and server.web.feeds.active else None
        changes = server.store.changes if server.tracking.active or feeds is not None else []
        started = time.perf_counter_ns()
        try:
            server.store.commit()
        except StorageError as error:
            self._commit_failed(error)
            return
        elapsed = time.perf_counter_ns() - started
        if elapsed >= server.latency.threshold_ns:
            server.latency.record("commit", elapsed)
        if changes and server.tracking.active:
            server.tracking.invalidate(changes)
        if server.peers is not None:
            server.peers.committed()
        if feeds is not None:
            feeds.committed(changes, server.store.applied)

    def _commit_failed(self, error: StorageError) -> None:
        server = self.server
        self._failure = error
        server.stats.ticks_failed += 1
        log.error("commit failed, the tick's writes are undone", error=str(error))
        server.notifications.discard()
        server.tracking.discard()
        server.refresh_plain()
        refusal = storage_refusal(error)
        for connection in self._marked:
            connection.session.refuse_uncommitted(refusal)

    def _close_largest(self) -> None:
        """Close those that are owed most, until all together are owed no more than they may."""
        for connection in sorted(self.connections(), key=attrgetter("unsent_bytes"), reverse=True):
            if self.unsent_bytes <= UNSENT_BYTES_MAX:
                return
            self._close_slow(connection, "output limit")

    def _close_greediest(self) -> None:
        """Close those that have sent most of what cannot be run yet, until all together keep within the bound."""
        for connection in sorted(self.connections(), key=attrgetter("session.input_bytes"), reverse=True):
            if self.server.input_bytes <= INPUT_BYTES_MAX:
                return
            session = connection.session
            log.warning(
                "client closed: all clients together have sent too much that cannot be run yet",
                session_id=session.id,
                address=session.endpoint.address,
                input_bytes=session.input_bytes,
            )
            self.server.stats.query_limit_closed += 1
            connection.close("query buffer limit")

    def _close_if_over_limit(self, connection: Connection, now: float) -> None:
        reason = connection.check_limits(now)
        if reason is not None:
            self._close_slow(connection, reason)

    def _close_slow(self, connection: Connection, reason: str) -> None:
        log.warning(
            "client closed: it does not read its replies",
            session_id=connection.session.id,
            address=connection.session.endpoint.address,
            unsent_bytes=connection.unsent_bytes,
            reason=reason,
        )
        connection.close(reason)

    # --- other uses of the store between ticks

    def exclusively(self, work: Callable[[], Result]) -> Result:
        """Run `work()` as a tick of its own: with one clock reading, one commit, its output sent.

        What it wrote before it raised is given up.
        """
        self._in_tick = True
        self.server.store.begin(time.time_ns() // 1_000_000)
        try:
            return work()
        except BaseException:
            self.server.store.poison("work between two ticks failed")
            raise
        finally:
            self.finish()
            self._in_tick = False
            if self._has_work():
                self.wake()  # a session goes on that was suspended until now

    def transact(self, work: Callable[[], Result]) -> Result:
        """Run `work()` as `exclusively` does. Raise the StorageError of its commit, if that failed."""
        self._failure = None
        result = self.exclusively(work)
        if self._failure is not None:
            raise self._failure
        return result

    def pump(self, caller: Driven, *, was_clean: bool) -> None:
        """Look at the other clients, and who comes, from inside a script of `caller` that takes long.

        They are read and answered (dispatch tells them BUSY), but nothing is committed: the running
        script's tick is still open. Sessions that have replies of that tick already are left alone, for
        these may stand on its commit; unless nothing had been written before the script (`was_clean`).
        """
        held, self._marked = self._marked, []
        if was_clean:
            held[:] = self._flush_all_but(held, caller)  # in place: the tick goes on with this list
        leftover, self._leftover = self._leftover, []
        events = [*leftover, *self._pending, *self.poller.poll()]
        for fd, mask in events + self._take_unread(events):
            connection = self.sockets.get(fd)
            if connection is None:
                self._other_ready(fd)
            elif connection.marked or mask == WRITE:
                self._unread[fd] = mask
            else:
                self._pump_one(connection, mask)
        for marked in self._marked:
            if not marked.closed:
                marked.flush()
        self._marked = held
        if self.server.input_bytes > INPUT_BYTES_MAX:
            self._close_greediest()

    @staticmethod
    def _flush_all_but(connections: list[Connection], caller: Driven) -> list[Connection]:
        """Flush connections, and return those that are `caller`'s: it is in the middle of its requests."""
        kept = []
        for connection in connections:
            if connection.session is caller:
                kept.append(connection)
            elif not connection.closed:
                connection.flush()
        return kept

    def _pump_one(self, connection: SocketConnection, mask: int) -> None:
        try:
            data = connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            if mask & WRITE:
                self._unread[connection.fd] = WRITE  # the next tick goes on sending
            return
        except OSError:
            data = b""
        if not data:
            connection.close("client closed")
            return
        if len(data) == RECEIVE_BYTES or mask != READ:
            self._unread[connection.fd] = mask
        stats = self.server.stats
        stats.input_bytes += len(data)
        stats.reads += 1
        connection.mark()
        connection.session.active_at_ms = self.server.store.now_ms
        self._guard(connection, connection.session.receive, data)

    # --- timers

    def close_idle(self, idle_seconds: float) -> None:
        """Close the clients that were not active for so long (see `Driven`); subscribers and monitors may be silent."""
        oldest = time.time() * 1000 - idle_seconds * 1000
        for connection in self.connections():
            session = connection.session
            exempt = session.subscription_count or session.suspended or session in self.server.monitors
            if not exempt and session.active_at_ms < oldest:
                connection.close("idle timeout")

    def close_stalled(self) -> None:
        """Close the clients that are over their output limits for too long."""
        now = trio.current_time()
        for connection in self.connections():
            if connection.unsent_bytes:
                self._close_if_over_limit(connection, now)

    def close_departed(self) -> None:
        """Close the clients that have left while a command of theirs waits, and what they sent behind it is not read.

        Others are read up to their end. Not at once: who only sends no more may still want the answer.
        """
        oldest = time.time() * 1000 - STALLED_SECONDS * 1000
        unread = [
            fd
            for fd, connection in self.sockets.items()
            if connection.session.suspended
            and not connection.is_read
            and connection.session.active_at_ms < oldest
        ]
        for fd in departed(unread) if unread else ():
            self.sockets[fd].close("client closed")

    async def drain(self) -> None:
        """Let nobody in, run no more requests; return when every client has got its replies and is closed."""
        self._is_draining = True
        for listener in list(self.listeners.values()):
            self.remove_listener(listener)
        self.exclusively(self._say_goodbye)
        while self.sockets or self.streams:
            await self._leaving.park()

    def _say_goodbye(self) -> None:
        for connection in self.connections():
            connection.session.close_after_reply("shutdown")

    def close(self) -> None:
        """Close every connection and the selector; what is committed has been sent before."""
        for connection in self.connections():
            connection.close("shutdown")
        self.poller.close()
        self._waker.close()
        self._woken.close()
