"""MULTI and its family: requests that are queued, and run in one go if nothing that was watched changed.

EXEC runs the queue inside one `Store.atomic`: its writes get one place in the change log, and one batch on
disk. An error of one of them does not stop the others, as in Redis; what cannot be queued makes EXEC refuse.

Watching compares tokens: WATCH notes for each key the version of its record, EXEC looks whether it is still
the same. Nothing has to be told to sessions when keys change.
"""

from __future__ import annotations

from typing import Final

from kvd import dispatch
from kvd.commands import lookup
from kvd.commands.spec import Arg, CommandSpec, Flag, KeyRange, Request, session_command
from kvd.session import Session, Transaction
from protocol.replies import NULL_ARRAY, OK, Encoded, ErrorReply, Reply
from storage.errors import KeyTooLong

_FLAGS: Final = Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.FAST | Flag.ALLOW_BUSY

# Keys that one session may watch at the same time; so many are a mistake of the client. Redis has no bound.
WATCHED_KEYS_MAX: Final = 100_000
# Replies up to this size are not bounded together: the queue is.
_SHORT_BYTES: Final = 1024


@session_command(
    "MULTI",
    arity=1,
    flags=_FLAGS,
    group="transactions",
    since="1.2.0",
    complexity="O(1)",
    summary="Queue the commands that follow, until EXEC or DISCARD.",
)
def multi(session: Session, request: Request) -> Reply:
    if session.transaction is not None:
        raise ErrorReply("ERR MULTI calls can not be nested")
    session.transaction = Transaction()
    session.refresh()
    return OK


@session_command(
    "EXEC",
    arity=1,
    flags=Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.SKIP_SLOWLOG | Flag.MAY_WRITE,
    group="transactions",
    since="1.2.0",
    complexity="Depends on commands in the transaction",
    summary="Run the queued commands, if no watched key has changed.",
)
def exec_(session: Session, request: Request) -> Reply:
    transaction = session.transaction
    if transaction is None:
        raise ErrorReply("ERR EXEC without MULTI")
    try:
        if transaction.refused:
            raise ErrorReply("EXECABORT Transaction discarded because of previous errors.")
        if _watched_keys_changed(session):
            return NULL_ARRAY
        transaction.executing = True
        with session.server.store.atomic():
            return _run_all(session, transaction.queued)
    finally:
        session.transaction = None
        session.watched.clear()
        session.refresh()


def _run_all(session: Session, queued: list[tuple[CommandSpec, Request]]) -> list[Reply]:
    """Run the requests in order, and return the replies, encoded.

    What would make all of them together larger than the values of one request may be becomes an error: nothing else bounds
    what a thousand reads of one large value are answered with.
    """
    replies: list[Reply] = []
    size = 0
    for spec, request in queued:
        reply = _run_queued(session, spec, request)
        encoded = session.encode(reply)  # as it is spoken by now: HELLO may have changed it
        if len(encoded) > _SHORT_BYTES and size + len(encoded) > lookup.TOTAL_BYTES_MAX:
            encoded = session.encode(_too_large(session))
        size += len(encoded)
        replies.append(Encoded(encoded))
    return replies


def _too_large(session: Session) -> ErrorReply:
    error = ErrorReply(
        f"ERR done, but the replies of the transaction are larger than {lookup.TOTAL_BYTES_MAX >> 20} MiB together"
    )
    session.server.stats.count_error(error.text)
    return error


def _run_queued(session: Session, spec: CommandSpec, request: Request) -> Reply:
    """Run one queued request, unless what the user may do has changed meanwhile, or where the session is."""
    refusal = dispatch.namespace_refusal(session, spec)
    if refusal is not None:
        session.server.stats.count_error(refusal.text)
        return refusal
    user = session.user
    if user is not None and not user.unrestricted:
        denied = session.server.acl.recheck(session, spec, request)
        if denied is not None:
            session.server.stats.count_error(denied.text)
            return denied
    return dispatch.call(session, spec, request)


def _watched_keys_changed(session: Session) -> bool:
    """Tell whether any key that the session watches was changed, deleted, made or has expired since."""
    return any(keyspace.version(key) != token for (keyspace, key), token in session.watched.items())


@session_command(
    "DISCARD",
    arity=1,
    flags=_FLAGS,
    group="transactions",
    since="2.0.0",
    complexity="O(N), when N is the number of queued commands",
    summary="Forget the queued commands and the watched keys.",
)
def discard(session: Session, request: Request) -> Reply:
    if session.transaction is None:
        raise ErrorReply("ERR DISCARD without MULTI")
    session.transaction = None
    session.watched.clear()
    session.refresh()
    return OK


@session_command(
    "WATCH",
    arity=-2,
    flags=_FLAGS,
    keys=(KeyRange(1, -1, access=("RO",)),),
    group="transactions",
    since="2.2.0",
    complexity="O(1) for every key.",
    summary="Let the next EXEC refuse if one of these keys changes before it.",
    arguments=(Arg("key", "key", multiple=True),),
)
def watch(session: Session, request: Request) -> Reply:
    if session.transaction is not None:
        raise ErrorReply("ERR WATCH inside MULTI is not allowed")
    keyspace = session.keyspace
    watched = session.watched
    if len(watched) + len(request) - 1 > WATCHED_KEYS_MAX:
        raise ErrorReply(f"ERR a client cannot watch more than {WATCHED_KEYS_MAX} keys")
    longest = max(map(len, request[1:]))
    if longest > keyspace.store.limits.key_bytes_max:
        raise KeyTooLong(longest, keyspace.store.limits.key_bytes_max)
    for key in request[1:]:
        if (keyspace, key) not in watched:
            watched[keyspace, key] = keyspace.version(key)
    return OK


@session_command(
    "UNWATCH",
    arity=1,
    flags=_FLAGS,
    group="transactions",
    since="2.2.0",
    complexity="O(1)",
    summary="Forget the watched keys.",
)
def unwatch(session: Session, request: Request) -> Reply:
    session.watched.clear()
    return OK


COMMANDS = (multi, exec_, discard, watch, unwatch)
