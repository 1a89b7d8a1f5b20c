"""From a request to its reply: the ordered refusals, the queue of MULTI, the call, the accounts.

`CHECKS` is the whole policy, in the order in which Redis 7.2 asks (server.c, processCommand): what a
client is told first when several things are wrong is part of the protocol. Each check is a function
``(session, spec, request) -> ErrorReply | None``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from kvd.commands.spec import CommandSpec, Flag, Request
from kvd.commands.table import wrong_arity
from kvd.monitor_feed import feed_monitors
from protocol.replies import NO_REPLY, QUEUED, ErrorReply, Reply
from storage.errors import Aborted, GroupIncomplete, KeyspaceError, NoSpace, StorageError, Unavailable

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.session import Session

log = structlog.get_logger()

# A transaction's queue may hold as much as a client may have in its input buffer.
QUEUED_BYTES_MAX = 1 << 30
# What a queued request takes besides its bytes: a list and a pair, and one object for each argument.
# Without it a queue of tiny requests would take fifty times what it is charged for.
_QUEUED_REQUEST_BYTES: Final = 128
_QUEUED_ARGUMENT_BYTES: Final = 40
# What a request that is refused or queued takes, by measurement: its time is not taken, but it counts,
# for a pipeline may have thousands of them.
_REFUSAL_NANOSECONDS: Final = 8_000
_QUEUEING_NANOSECONDS: Final = 2_000
# The words by which a line of HTTP betrays itself: any page may make a browser send POST to a port of
# its own machine, with a body that is full of commands.
_WEB_WORDS: Final = frozenset({b"POST", b"HOST:"})

_PUBSUB_CONTEXT: Final = frozenset(
    "SUBSCRIBE UNSUBSCRIBE PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE PING QUIT RESET".split()
)
_TOUCHES_DATA: Final = Flag.READONLY | Flag.WRITE | Flag.MAY_WRITE
# Redis counts a monitor among the replicas, and says so.
_NOT_FOR_MONITORS: Final = Flag.READONLY | Flag.WRITE | Flag.MAY_REPLICATE
# They are about a namespace and name no key of it.
_WITHOUT_KEYS: Final = frozenset("DBSIZE FLUSHDB KEYS KV.LIST RANDOMKEY SCAN".split())
_UNQUEUED: Final = frozenset("EXEC DISCARD MULTI WATCH QUIT RESET".split())


def execute(session: Session, request: Request) -> Reply:
    """Run one request in full and return its reply; an error is returned, not raised."""
    server = session.server
    try:
        spec = server.table.find(request)
    except ErrorReply as unknown:
        if request[0].upper() in _WEB_WORDS:
            return _end_web_request(session)
        if session.transaction is not None:
            session.transaction.refused = True
        if session.tracking is not None:
            session.tracking.command_ended(session, "")
        server.stats.count_error(unknown.text)
        session.spend(_REFUSAL_NANOSECONDS)
        unknown.__traceback__ = None  # see `failure`
        return unknown
    session.last_command = spec.name
    for check in CHECKS:
        error = check(session, spec, request)
        if error is not None:
            spec.stats.rejected += 1
            error = _refuse_transaction(session, spec, error)
            if session.tracking is not None:
                session.tracking.command_ended(session, spec.name)
            server.stats.count_error(error.text)
            session.spend(_REFUSAL_NANOSECONDS)
            return error
    if session.transaction is not None and spec.name not in _UNQUEUED:
        return _queue(session, spec, request)
    if _must_wait(session, spec, request):
        return _wait_for_pause(session, request)
    return call(session, spec, request)


def _end_web_request(session: Session) -> Reply:
    """Run nothing of what follows, as Redis does: it may be the body of a browser's request."""
    log.warning("HTTP on the port of Redis clients: closed", address=session.endpoint.address)
    session.close_after_reply("HTTP request")
    return NO_REPLY


def call(session: Session, spec: CommandSpec, request: Request) -> Reply:
    """Run a request that passed the checks (from a client, EXEC or a script) and keep the accounts."""
    server = session.server
    # A script is shown before the commands that it calls, everything else once it has run.
    if server.monitors and Flag.SKIP_MONITOR in spec.flags:
        feed_monitors(session, spec, request)
    tracking = session.tracking
    changes_before = 0 if tracking is None else server.store.change_count
    started = time.perf_counter_ns()
    reply: Reply
    try:
        if spec.data_handler is not None:
            reply = spec.data_handler(session.keyspace, request)
        elif spec.session_handler is not None:
            reply = spec.session_handler(session, request)
            if isinstance(reply, ErrorReply):  # of a script, whose command's error is counted already
                spec.stats.failed += 1
        else:
            reply = ErrorReply(wrong_arity(spec))
    except Exception as error:  # noqa: BLE001 -- `failure` tells refusals from bugs
        reply = failure(session, spec, error)
    _settle(session, spec, time.perf_counter_ns() - started, request)
    if tracking is not None:
        server.tracking.executed(session, tracking, spec, request, changes_before)
    if server.monitors and Flag.SKIP_MONITOR not in spec.flags:
        feed_monitors(session, spec, request)
    return reply


def account(session: Session, spec: CommandSpec, calls: int, started: int, last: Request) -> None:
    """Book a run of plain calls that began at `started` (perf_counter_ns) and ended with `last`."""
    # Hot: once for every client and tick.
    average = time.perf_counter_ns() - started
    if calls > 1:
        average //= calls
    spec.stats.add(calls, average)
    server = session.server
    if average >= server.slowlog.threshold_ns:
        # Which of several was slow is not known: the entry says so instead of naming one.
        shown = last if calls == 1 else [last[0], b"(%d calls, their average)" % calls]
        server.slowlog.add(session, shown, average)
    if average >= server.latency.threshold_ns:
        server.latency.record("fast-command", average)


def _settle(session: Session, spec: CommandSpec, elapsed: int, request: Request) -> None:
    spec.stats.add(1, elapsed)
    session.spend(elapsed)
    server = session.server
    if elapsed >= server.slowlog.threshold_ns and Flag.SKIP_SLOWLOG not in spec.flags:
        server.slowlog.add(session, request, elapsed)
    if elapsed >= server.latency.threshold_ns:
        server.latency.record("fast-command" if Flag.FAST in spec.flags else "command", elapsed)


def failure(session: Session, spec: CommandSpec, error: Exception) -> ErrorReply:
    """Count what a handler raised, and return what the client is told.

    A bug of ours ends the request, not the daemon. What it may have written half-way stays inside the
    tick's one batch, so the whole tick is given up.

    The error is rid of the frames it came through: they know it, and the request, which may be large, so all of them
    would wait for the garbage collector.
    """
    spec.stats.failed += 1
    server = session.server
    if isinstance(error, ErrorReply):
        reply = error
    elif isinstance(error, StorageError):
        reply = storage_refusal(error)
    else:
        server.store.poison(f"{spec.name} failed unexpectedly")
        reply = unexpected(session, spec.name, error)
    server.stats.count_error(reply.text)
    reply.__traceback__ = reply.__context__ = reply.__cause__ = None
    return reply


def unexpected(session: Session, command: str, error: Exception) -> ErrorReply:
    """Write down what only a bug of ours can raise, and return what the client is told."""
    log.error("command failed unexpectedly", command=command, session_id=session.id, exc_info=error)
    session.server.stats.unexpected_errors += 1
    return ErrorReply("ERR internal error; the server's log has the details")


def storage_refusal(error: StorageError) -> ErrorReply:
    """Return what a client is told when the store cannot do what it asked."""
    if isinstance(error, NoSpace | Unavailable | Aborted):
        return ErrorReply(f"MISCONF {error}")
    return ErrorReply(f"LOADING {error}" if isinstance(error, GroupIncomplete) else f"ERR {error}")


def write_refusal(server: Server) -> ErrorReply | None:
    """Return why nobody may write at this moment, for the store's or the cluster's sake; None if they may."""
    error = server.store.writable
    return server.refusal if error is None else storage_refusal(error)


def is_in_namespace(spec: CommandSpec) -> bool:
    """Tell whether a command reads or writes keys of the namespace that its session works in.

    A script may, whatever keys it names.
    """
    return spec.name in _WITHOUT_KEYS or (bool(spec.keys) and spec.group != "pubsub")


def namespace_refusal(session: Session, spec: CommandSpec) -> ErrorReply | None:
    """Return why a command may not touch the session's namespace, whose group is not all here; None if it may."""
    keyspace = session.keyspace
    if keyspace.group not in keyspace.store.keyspaces.incomplete or not is_in_namespace(spec):
        return None
    try:
        keyspace.check_open()
    except KeyspaceError as error:
        return storage_refusal(error)
    return None


def stands_on_commit(session: Session, request: Request, encoded: bytes) -> bool:
    """Tell whether a reply given this tick may say something about data that did not get to disk.

    An empty one is none: CLIENT REPLY keeps it back, or its command is suspended.
    """
    if not encoded or encoded.startswith((b"+QUEUED", b"-")):
        return False
    try:
        spec = session.server.table.find(request)
    except ErrorReply:
        return False
    is_shared = Flag.SHARED in spec.flags and session.server.peers is not None
    return is_shared or spec.data_handler is not None or bool(spec.flags & _TOUCHES_DATA)


# --- the ordered checks


def _check_arity(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    return None if spec.accepts(len(request)) else ErrorReply(wrong_arity(spec))


def _check_authenticated(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    if session.user is not None or Flag.NO_AUTH in spec.flags:
        return None
    return ErrorReply("NOAUTH Authentication required.")


def _check_transaction_may_hold(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    if session.transaction is None or Flag.NO_MULTI not in spec.flags:
        return None
    return ErrorReply("ERR Command not allowed inside a transaction")


def _check_permission(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    user = session.user
    if user is None or user.unrestricted:
        return None
    return session.server.acl.check(session, spec, request)


def _check_busy_script(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    if session.server.scripts.running is None or session.is_script or Flag.ALLOW_BUSY in spec.flags:
        return None
    return session.server.scripts.busy_error()


def _check_cluster_reads(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    if not session.server.refuses_reads or Flag.LOADING in spec.flags:
        return None
    return session.server.refusal


def _check_namespace(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    return namespace_refusal(session, spec)


def _check_writable(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    refusal = write_refusal(session.server)
    if refusal is None or not (spec.is_write or (spec.name == "EXEC" and _queued_writes(session))):
        return None
    return refusal


def _check_subscriber(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    if session.proto != 2 or not session.subscription_count or spec.name in _PUBSUB_CONTEXT:
        return None
    return ErrorReply(
        f"ERR Can't execute '{spec.name.lower()}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / "
        "PING / QUIT / RESET are allowed in this context"
    )


def _check_monitor(session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
    if session not in session.server.monitors or not spec.flags & _NOT_FOR_MONITORS:
        return None
    return ErrorReply("ERR Replica can't interact with the keyspace")


CHECKS: Final[tuple[Callable[[Session, CommandSpec, Request], ErrorReply | None], ...]] = (
    _check_arity,
    _check_authenticated,
    _check_transaction_may_hold,
    _check_permission,
    _check_busy_script,
    _check_cluster_reads,
    _check_namespace,
    _check_writable,
    _check_subscriber,
    _check_monitor,
)


def _queued_writes(session: Session) -> bool:
    transaction = session.transaction
    return transaction is not None and any(spec.is_write for spec, _ in transaction.queued)


# --- MULTI's queue and CLIENT PAUSE


def _queue(session: Session, spec: CommandSpec, request: Request) -> Reply:
    transaction = session.transaction
    assert transaction is not None
    transaction.queued_bytes += _QUEUED_REQUEST_BYTES + _QUEUED_ARGUMENT_BYTES * len(request)
    transaction.queued_bytes += sum(map(len, request))
    if transaction.queued_bytes > QUEUED_BYTES_MAX:
        transaction.refused = True
        return ErrorReply("ERR the transaction's queued commands are larger than 1 GiB")
    transaction.queued.append((spec, request))
    session.charge_input()
    session.spend(_QUEUEING_NANOSECONDS)
    return QUEUED


def _refuse_transaction(session: Session, spec: CommandSpec, error: ErrorReply) -> ErrorReply:
    """Let a refused request spoil its transaction; a refused EXEC ends it. Return what the client is told."""
    if session.transaction is not None:
        session.transaction.refused = True
    if spec.name != "EXEC":
        return error
    # Also without a transaction: Redis words every refusal of EXEC as the end of one.
    session.transaction = None
    session.watched.clear()
    session.refresh()
    return ErrorReply(f"EXECABORT Transaction discarded because of: {error.text.removeprefix('ERR ')}")


def _must_wait(session: Session, spec: CommandSpec, request: Request) -> bool:
    pause = session.server.pause
    if pause is None or session.is_script:
        return False
    if not pause.writes_only:
        return not (spec.name.startswith("CLIENT|") or Flag.NO_AUTH in spec.flags)
    if spec.name == "EXEC":
        transaction = session.transaction
        return transaction is not None and any(_may_write(session, *queued) for queued in transaction.queued)
    return _may_write(session, spec, request)


def _may_write(session: Session, spec: CommandSpec, request: Request) -> bool:
    if Flag.MAY_WRITE in spec.flags:
        return not session.server.scripts.promises_no_writes(request)
    return spec.is_write or Flag.MAY_REPLICATE in spec.flags


def _wait_for_pause(session: Session, request: Request) -> Reply:
    pause = session.server.pause
    assert pause is not None
    session.backlog.appendleft(request)
    pause.hold(session)
    return NO_REPLY
