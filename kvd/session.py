"""One RESP client: bytes in, replies out, no socket and no await.

The hub, a TLS connection's task, a unix socket and a test all drive the same object:

    session.receive(data)      parse, run every complete request, gather the replies in `out`
    ... one commit of the store ...
    session.take_output()      what may now be sent

Three things can hold requests back, which then wait in order in `backlog`: the session is
*suspended* (a command whose answer comes later), it is *throttled* (this tick's replies are large
enough for now, or took long enough), or it is closing. `resume` and `run_backlog` go on from there.

Plain commands (constant-time data commands in a session without special state) run in the loop of
`run`, everything else goes through `kvd.dispatch`. The loop is the daemon's hottest code: local
names, no calls that it can do without; `make bench` has its figures.
"""

from __future__ import annotations

import ipaddress
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from kvd import dispatch
from kvd.commands.spec import UNTIMED_MAX, CommandSpec, Request
from protocol.encode import BULK_HEADERS, encode_bulk, encoder
from protocol.lines import GETS
from protocol.replies import NO_REPLY, OK, ErrorReply, Push, Reply
from protocol.requests import RequestReader

if TYPE_CHECKING:
    from kvd.acl import User
    from kvd.commands.table import PlainEntry
    from kvd.server import Server
    from kvd.tracking import TrackingState
    from storage.store import Keyspace

# Replies of one session in one tick, in bytes, after which its further requests wait for the next.
# One MiB fills a socket's send buffer several times over, and ten thousand clients cannot take
# more than ten GiB together even if each asks for its largest values at once.
TICK_OUTPUT_BYTES_MAX = 1 << 20
# The same in time: so long the slow commands of one pipeline may keep the others waiting.
TICK_NANOSECONDS_MAX = 10_000_000
# Replies smaller than this are not counted: the input that asks for them is bounded already.
_COUNTED_REPLY_BYTES = 1024

_OK_BYTES = b"+OK\r\n"
_NOTHING_PLAIN: dict[bytes, PlainEntry] = {}


@attrs.define
class Transaction:
    """What MULTI has queued. `refused` is set by the first request that could not be queued."""

    queued: list[tuple[CommandSpec, Request]] = attrs.field(factory=list)
    refused: bool = False
    queued_bytes: int = 0
    executing: bool = False  # EXEC is running the queue; what it runs must not suspend the session


@attrs.frozen
class Endpoint:
    """Where a connection comes from and arrives: ``ip:port``, or a socket's path with ``:0``."""

    address: str
    local_address: str
    is_unix: bool = False
    is_tls: bool = False

    @property
    def is_local(self) -> bool:
        """Tell whether the client runs on this machine."""
        if self.is_unix:
            return True
        host = self.address.rsplit(":", 1)[0].strip("[]")
        address = ipaddress.ip_address(host.partition("%")[0])
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class Transport(Protocol):
    """What a session may ask of the connection that drives it."""

    fd: int  # the socket's file descriptor, -1 if it has none of its own
    unsent_bytes: int  # output that the client has not taken yet

    @property
    def unsent_count(self) -> int:
        """In how many pieces the unsent output waits."""

    def close(self, reason: str) -> None:
        """Close the connection now, and with it the session."""


class Session:
    """The state of one client. Public attributes are read and written by session commands."""

    pause_bytes = sys.maxsize  # the connection's own bound is enough

    # More attributes than Python keeps inside of an object, so each look-up would go through a dict of its own.
    __slots__ = (
        "_out_bytes",
        "_pushes_after_reply",
        "_reader",
        "_run_nanoseconds",
        "active_at_ms",
        "at_rest",
        "backlog",
        "channels",
        "close_reason",
        "closing",
        "connected_at_ms",
        "encode",
        "endpoint",
        "executed",
        "held_bytes",
        "id",
        "input_bytes",
        "is_script",
        "keyspace",
        "last_command",
        "library_name",
        "library_version",
        "name",
        "no_evict",
        "no_touch",
        "on_output",
        "on_unblock",
        "out",
        "patterns",
        "plain",
        "proto",
        "push_positions",
        "reply_mode",
        "resumed",
        "server",
        "shard_channels",
        "subscribed_bytes",
        "suspended",
        "throttled",
        "tracking",
        "transaction",
        "transport",
        "user",
        "watched",
    )

    def __init__(self, server: Server, endpoint: Endpoint) -> None:
        self.server = server
        self.endpoint = endpoint
        self.id = server.next_session_id()
        self.name = b""
        self.library_name: bytes = b""
        self.library_version: bytes = b""
        self.connected_at_ms = time.time_ns() // 1_000_000
        self.active_at_ms: int = self.connected_at_ms
        self.last_command = "NULL"
        self.no_evict = False
        self.no_touch = False

        self.keyspace: Keyspace = server.store.keyspace(0)
        self.user: User | None = None
        self.proto: int = 2
        self.encode = encoder(2)
        self.reply_mode = "on"  # on, off, skip (the next reply), skipping
        self.transaction: Transaction | None = None
        self.watched: dict[tuple[Keyspace, bytes], bytes | None] = {}
        self.channels: set[bytes] = set()
        self.patterns: set[bytes] = set()
        self.shard_channels: set[bytes] = set()
        self.subscribed_bytes = 0  # what those names take, by `kvd.pubsub`'s reckoning
        self.tracking: TrackingState | None = None
        self.is_script = False  # a script's own session: replies are values, not bytes

        self.out: list[bytes] = []  # one element a request run this tick, and one a push
        self.executed: list[Request] = []  # the requests of those elements, until the commit
        self.push_positions: list[int] = []  # which elements of `out` are pushes
        self.backlog: deque[Request] = deque()
        self.held_bytes = 0  # received since the session was suspended
        self.suspended = False
        self.resumed = False  # a suspension has ended, and `run_backlog` was not called since
        self.on_unblock: Any = None  # how CLIENT UNBLOCK ends the suspension, if it may
        self.throttled = False
        self.at_rest = True  # nothing is suspended, held back or half there: the next byte begins a request
        self.closing = False  # close once `out` is sent; nothing more is run
        self.close_reason: str | None = None
        self.transport: Transport | None = None  # a test drives a session without one
        self.on_output: Any = _ignore  # tells the driver that `out` got something between its calls
        self._out_bytes = 0
        self._run_nanoseconds = 0
        self._pushes_after_reply: list[bytes] = []
        self.input_bytes = 0  # what `charge_input` has entered for this session
        self._reader = RequestReader(server.request_limits)
        self.plain = _NOTHING_PLAIN
        self._begin_authentication()

    # --- state

    def _begin_authentication(self) -> None:
        user = self.server.acl.user_without_password()
        self.become(user)

    def become(self, user: User | None) -> None:
        """Act as `user` from now on; None is nobody: only AUTH, HELLO, QUIT and RESET are allowed."""
        self.user = user
        self._reader.authenticated = user is not None
        self.refresh()

    def use_keyspace(self, keyspace: Keyspace) -> None:
        """Work in another keyspace from now on."""
        self.keyspace = keyspace
        if self.server.store.keyspaces.incomplete:
            self.refresh()

    def use_protocol(self, proto: int) -> None:
        """Encode all that follows as RESP2 or RESP3."""
        self.proto = proto
        self.encode = encoder(proto)
        self.refresh()

    @property
    def subscription_count(self) -> int:
        return len(self.channels) + len(self.patterns) + len(self.shard_channels)

    @property
    def may_suspend(self) -> bool:
        """Tell whether a command may leave its answer for later: not in a script, not inside EXEC."""
        return not (self.is_script or (self.transaction is not None and self.transaction.executing))

    @property
    def buffered_bytes(self) -> int:
        """Bytes of input that are not yet a whole request."""
        return self._reader.pending_bytes

    def refresh(self) -> None:
        """Decide anew whether plain commands may skip the dispatcher. Call after any change of state."""
        special = (
            self.transaction is not None
            or self.tracking is not None
            or self.reply_mode != "on"
            or (self.proto == 2 and self.subscription_count > 0)
            or self.keyspace.group in self.server.store.keyspaces.incomplete
        )
        self.plain = _NOTHING_PLAIN if special or self.user is None else self.user.plain
        if self.input_bytes:
            self.charge_input()  # a transaction may be over

    # --- input

    def answer(self, data: bytes) -> bytes | None:
        """Return the answer to one GET of a short value that is at hand, if nothing else is going on here.

        See `Driven.answer`. It is what `receive` would answer: whatever is special about the session or the server
        closes `plain` to both.
        """
        # Hot: one flat function. It is what most clients ask most of the time.
        found = GETS.get(len(data))
        if found is None or not data.startswith(found[0]) or not data.endswith(b"\r\n"):
            return None
        entry = self.plain.get(b"GET")
        if entry is None or self.out or not self.at_rest:
            return None
        keyspace = self.keyspace
        value = keyspace.hot_value(data[found[1] : -2])
        if value is None or len(value) >= len(BULK_HEADERS):
            return None
        stats = entry[3].stats
        if stats.untimed >= UNTIMED_MAX:
            stats.stands_for_others = True
            return None
        stats.untimed += 1
        keyspace.hits += 1
        self.last_command = "GET"
        return BULK_HEADERS[len(value)] + value + b"\r\n"

    def receive(self, data: bytes) -> None:
        """Take bytes from the client and run what is complete. Never raises for what the client sent."""
        if self.closing:
            return  # what comes after a client's last word is not even kept
        reader = self._reader
        requests = reader.feed(data)
        if requests and not (self.suspended or self.backlog):
            self.run(requests)
            if reader.held or reader.error is not None:
                self._go_on_reading()
            if self.input_bytes:
                self.charge_input()
        else:
            self._hold(requests, len(data))
        self.at_rest = reader.is_empty and not (self.suspended or self.backlog or self.closing)

    def _hold(self, requests: list[Request], size: int) -> None:
        """Keep requests behind those that wait already; look after input that is not complete."""
        self.held_bytes += size
        self.backlog.extend(requests)
        if self._reader.pending_bytes > self.server.settings.clients.query_buffer_bytes_max:
            self.server.stats.query_limit_closed += 1
            self.close_after_reply("query buffer limit")
        self._go_on_reading()
        self.charge_input()

    def charge_input(self) -> None:
        """Enter in the books of all sessions what this one keeps: half a request, a transaction's queue.

        What came with a whole request is not entered until more comes: at most what is read at once.
        """
        held = self._reader.pending_bytes
        if self.transaction is not None:
            held += self.transaction.queued_bytes
        self.server.input_bytes += held - self.input_bytes
        self.input_bytes = held

    def _go_on_reading(self) -> None:
        """Read what the reader has held back until the requests before it were run (AUTH lifts limits)."""
        reader = self._reader
        while reader.held and not (self.suspended or self.backlog or self.closing):
            self.run(reader.feed(b""))
        if reader.error is not None:
            self._end_after_protocol_error()

    def _end_after_protocol_error(self) -> None:
        if self.closing or self.suspended or self.backlog:
            return  # its turn comes after what was complete before it
        assert self._reader.error is not None
        self.server.stats.count_error("ERR")
        self.push_encoded(self.encode(ErrorReply(f"ERR {self._reader.error.text}")))
        self.close_after_reply("protocol error: " + self._reader.error.text)

    def run(self, requests: list[Request]) -> None:  # noqa: PLR0915 -- hot: one flat loop, no calls
        """Run requests in order until they end or the session is held back."""
        if len(requests) > 1 and self._answer_gets(requests):
            return
        append = self.out.append
        plain = self.plain
        keyspace = self.keyspace
        # The run under way: requests of one plain command and one length, from the index `begun` on. It is
        # timed as a whole: two clock readings a run, not a request.
        current: PlainEntry | None = None
        width = -1
        begun = started = 0
        taken = len(requests)
        for index, request in enumerate(requests):
            entry = plain.get(request[0])
            size = len(request)
            if entry is None or entry is not current or size != width:
                if current is not None:
                    dispatch.account(self, current[3], index - begun, started, requests[index - 1])
                if entry is None or not entry[1] <= size <= entry[2]:
                    current = None
                    width = -1
                    self._run_general(request)
                    if self.suspended or self.throttled or self.closing:
                        taken = index + 1
                        break
                    plain = self.plain
                    keyspace = self.keyspace
                    continue
                current = entry
                width = size
                begun = index
                started = time.perf_counter_ns()
            try:
                reply = entry[0](keyspace, request)
            except Exception as error:  # noqa: BLE001 -- `failure` tells refusals from bugs
                append(self.encode(dispatch.failure(self, entry[3], error)))
                continue
            if reply is OK:
                append(_OK_BYTES)
                continue
            encoded = encode_bulk(reply) if reply.__class__ is bytes else self.encode(reply)
            append(encoded)
            if len(encoded) > _COUNTED_REPLY_BYTES:
                self._out_bytes += len(encoded)
                if self._out_bytes > TICK_OUTPUT_BYTES_MAX:
                    self.throttled = True
                    taken = index + 1
                    break
        if current is not None:
            dispatch.account(self, current[3], taken - begun, started, requests[taken - 1])
            self.last_command = current[3].name
        if taken == len(requests):
            self.executed += requests
        else:
            self.executed += requests[:taken]
            if not self.closing:
                self.backlog.extend(requests[taken:])

    def _answer_gets(self, requests: list[Request]) -> bool:
        """Answer a pipeline that is all GETs of short values that are at hand, as `run` would; tell whether it was.

        What the loop of `run` does for each request is done here for all of them together.
        """
        name = requests[0][0]
        entry = self.plain.get(name)
        if entry is None or entry[3].name != "GET":
            return False
        started = time.perf_counter_ns()
        try:
            keys = [key for command, key in requests if command == name]
        except ValueError:  # some have other arguments than a key
            return False
        keyspace = self.keyspace
        values = keyspace.hot_values(keys) if len(keys) == len(requests) else None
        if values is None:
            return False
        try:
            self.out += [BULK_HEADERS[len(value)] + value + b"\r\n" for value in values]
        except IndexError:  # a value is long
            return False
        keyspace.hits += len(values)
        self.executed += requests
        self.last_command = "GET"
        dispatch.account(self, entry[3], len(values), started, requests[-1])
        return True

    def _run_general(self, request: Request) -> None:
        reply = dispatch.execute(self, request)
        if self.reply_mode != "on" and not self.suspended:  # a suspended command's reply is still to come
            reply = self._silenced(reply)
        self._append_reply(reply)

    def _append_reply(self, reply: Reply) -> None:
        encoded = self.encode(reply)
        self.out.append(encoded)
        if self._pushes_after_reply:
            self._append_late_pushes()
        self._out_bytes += len(encoded)
        if self._out_bytes > TICK_OUTPUT_BYTES_MAX:
            self.throttled = True

    def _append_late_pushes(self) -> None:
        for encoded in self._pushes_after_reply:
            self.push_encoded(encoded)
        self._pushes_after_reply.clear()

    def _silenced(self, reply: Reply) -> Reply:
        """Apply CLIENT REPLY: SKIP drops the reply of the one command after it, OFF all of them."""
        if self.reply_mode == "skip":
            self.reply_mode = "skipping"
            return reply
        if self.reply_mode == "skipping":
            self.reply_mode = "on"
            self.refresh()
        return NO_REPLY

    def run_backlog(self) -> None:
        """Go on with requests that were held back, after the output of the last tick was sent."""
        if self.suspended or self.closing or self.throttled:
            return
        self.resumed = False
        if self.backlog:
            requests = list(self.backlog)
            self.backlog.clear()
            self.run(requests)
        self._go_on_reading()

    # --- suspension

    def suspend(self, on_unblock: Any = None) -> None:
        """Hold all further requests until `resume`. The command then returns NO_REPLY.

        `on_unblock(error: bool)` is called by CLIENT UNBLOCK; without it the client cannot be unblocked.
        """
        self.suspended = True
        self.at_rest = False
        self.held_bytes = 0
        self.on_unblock = on_unblock

    def resume(self, reply: Reply) -> None:
        """Answer the command that suspended the session, and let its driver run the backlog."""
        if not self.suspended:
            return  # the client has gone meanwhile
        if self.reply_mode != "on":
            reply = self._silenced(reply)
        if reply is not NO_REPLY:
            self.push_encoded(self.encode(reply))
        self.release()

    def release(self) -> None:
        """End the suspension without an answer: the request that waits is the first of the backlog."""
        if self.suspended:
            self.suspended = False
            self.resumed = True
            self.on_unblock = None
            self.on_output(self)

    # --- output

    def push(self, message: Push) -> None:
        """Queue an out-of-band message; it goes out with the next tick's replies."""
        self.push_encoded(self.encode(message))
        self.on_output(self)

    def hear(self, encoded: bytes) -> None:
        """Queue what another client has caused: a message, or a line for a monitor.

        Whom it brings above the limit of subscribers hears nothing more and is closed. Not only when the tick is over,
        as others are: one script may publish without end.
        """
        # Hot: once for each receiver of a message.
        if self.closing:
            return
        self.push_positions.append(len(self.out))
        self.out.append(encoded)
        self._out_bytes += len(encoded)
        if self._out_bytes > TICK_OUTPUT_BYTES_MAX:
            self._limit_heard()
        self.on_output(self)

    def _limit_heard(self) -> None:
        limit = self.server.settings.clients.output_pubsub_hard_bytes
        unsent = 0 if self.transport is None else self.transport.unsent_bytes
        if limit and unsent + self._out_bytes > limit:
            self.close_after_reply("output limit")

    def charge(self, output_bytes: int) -> None:
        """Count output that the running command made for others as this session's own."""
        self._out_bytes += output_bytes

    def spend(self, nanoseconds: int) -> None:
        """Count the time that a command took."""
        self._run_nanoseconds += nanoseconds
        if self._run_nanoseconds > TICK_NANOSECONDS_MAX:
            self.throttled = True

    def push_after_reply(self, encoded: bytes) -> None:
        """Queue an out-of-band message of the running command behind the reply to it."""
        self._pushes_after_reply.append(encoded)

    def push_encoded(self, encoded: bytes) -> None:
        self.push_positions.append(len(self.out))
        self.out.append(encoded)

    def take_output(self) -> bytes:
        """Return the bytes gathered since the last call. Only after the commit they depend on."""
        out = self.out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.executed.clear()
        self.push_positions.clear()
        self._out_bytes = 0
        self._run_nanoseconds = 0
        self.throttled = False
        return data

    def refuse_uncommitted(self, error: ErrorReply) -> None:
        """Replace the replies that stood on a commit which failed."""
        pushes = set(self.push_positions)
        replies = (i for i in range(len(self.out)) if i not in pushes)
        encoded = self.encode(error)
        for position, request in zip(replies, self.executed, strict=False):
            if dispatch.stands_on_commit(self, request, self.out[position]):
                self.out[position] = encoded

    def close_after_reply(self, reason: str | None = None) -> None:
        """Run nothing more, and close the connection once what is queued has been sent."""
        self.closing = True
        self.at_rest = False
        self.close_reason = self.close_reason or reason
        self.backlog.clear()
        self.on_output(self)

    def kill(self, reason: str) -> None:
        """Close the connection at once, whatever it still waits for or has not read."""
        self.close_after_reply(reason)
        if self.transport is not None:
            self.transport.close(reason)

    def end(self) -> None:
        """Forget the session everywhere; the connection is gone."""
        self.closing = True
        self.server.input_bytes -= self.input_bytes
        self.input_bytes = 0
        self.suspended = False
        self.backlog.clear()
        if self.on_unblock is not None:
            self.on_unblock(False)  # whoever works for it need not go on
        self.server.pubsub.forget(self)
        self.server.tracking.forget(self)
        if self.server.pause is not None:
            self.server.pause.forget(self)
        if self in self.server.monitors:
            self.server.monitors.discard(self)
            self.server.refresh_plain()
        self.server.sessions.pop(self.id, None)


def _ignore(session: Session) -> None:
    """Stand in for a driver that looks at `out` by itself."""
