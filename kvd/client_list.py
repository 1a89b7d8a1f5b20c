"""The line that describes one client, as CLIENT LIST and CLIENT INFO show it.

Every field of Redis 7.2 is there, in its order, because tools take the line apart by position as well as
by name. Fields about buffers that kvd does not have (a query buffer's free part, a fixed reply buffer)
are 0; a session in a named namespace shows ``db=-1``.

Source: Redis 7.2 CLIENT LIST.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvd.session import Session


def describe(session: Session) -> bytes:
    """Return the session's line, without a line break."""
    return b" ".join(b"%b=%b" % (name, field(session)) for name, field in _FIELDS.items())


def kind(session: Session) -> str:
    """Return the class of a client by which CLIENT LIST and CLIENT KILL select: normal or pubsub."""
    return "pubsub" if session.subscription_count else "normal"


def _flags(session: Session) -> bytes:
    """Return one letter for everything that is special about the session, ``N`` if nothing is."""
    tracking = session.tracking
    letters = {
        b"O": session in session.server.monitors,
        b"P": session.subscription_count > 0,
        b"x": session.transaction is not None,
        b"b": session.suspended,
        b"t": tracking is not None,
        b"R": tracking is not None and tracking.broken_redirect,
        b"B": tracking is not None and tracking.broadcast,
        b"c": session.closing,
        b"U": session.endpoint.is_unix,
        b"e": session.no_evict,
        b"T": session.no_touch,
    }
    return b"".join(letter for letter, applies in letters.items() if applies) or b"N"


def _transaction_size(session: Session) -> int:
    return -1 if session.transaction is None else len(session.transaction.queued)


def _transaction_bytes(session: Session) -> int:
    return 0 if session.transaction is None else session.transaction.queued_bytes


def _waiting_bytes(session: Session) -> int:
    """Bytes of complete requests that wait for their turn."""
    return sum(sum(map(len, request)) for request in session.backlog)


def _unsent_bytes(session: Session) -> int:
    return 0 if session.transport is None else session.transport.unsent_bytes


def _total_bytes(session: Session) -> int:
    held = (session.buffered_bytes, _waiting_bytes(session), _transaction_bytes(session))
    return sum(held) + _unsent_bytes(session)


def _redirection(session: Session) -> int:
    """Return who hears this session's invalidations: -1 nobody, 0 itself, else another session's id."""
    return -1 if session.tracking is None else session.tracking.redirect


def _command(session: Session) -> bytes:
    name = session.last_command
    return b"NULL" if name == "NULL" else name.lower().encode()


def _user(session: Session) -> bytes:
    # Who has not authenticated yet is listed as the default user, as in Redis.
    return b"default" if session.user is None else session.user.name


def _number(value: Callable[[Session], int]) -> Callable[[Session], bytes]:
    return lambda session: b"%d" % value(session)


def _seconds_since(moment_ms: Callable[[Session], int]) -> Callable[[Session], bytes]:
    return lambda session: b"%d" % max((session.server.store.now_ms - moment_ms(session)) // 1000, 0)


def _nothing(session: Session) -> bytes:
    return b"0"


_FIELDS: Final[dict[bytes, Callable[[Session], bytes]]] = {
    b"id": _number(lambda session: session.id),
    b"addr": lambda session: session.endpoint.address.encode(),
    b"laddr": lambda session: session.endpoint.local_address.encode(),
    b"fd": _number(lambda session: -1 if session.transport is None else session.transport.fd),
    b"name": lambda session: session.name,
    b"age": _seconds_since(lambda session: session.connected_at_ms),
    b"idle": _seconds_since(lambda session: session.active_at_ms),
    b"flags": _flags,
    b"db": _number(lambda session: -1 if session.keyspace.index is None else session.keyspace.index),
    b"sub": _number(lambda session: len(session.channels)),
    b"psub": _number(lambda session: len(session.patterns)),
    b"ssub": _number(lambda session: len(session.shard_channels)),
    b"multi": _number(_transaction_size),
    b"qbuf": _number(lambda session: session.buffered_bytes),
    b"qbuf-free": _nothing,
    b"argv-mem": _number(_waiting_bytes),
    b"multi-mem": _number(_transaction_bytes),
    b"rbs": _nothing,
    b"rbp": _nothing,
    b"obl": _nothing,
    b"oll": _number(lambda session: 0 if session.transport is None else session.transport.unsent_count),
    b"omem": _number(_unsent_bytes),
    b"tot-mem": _number(_total_bytes),
    b"events": lambda session: b"rw" if _unsent_bytes(session) else b"r",
    b"cmd": _command,
    b"user": _user,
    b"redir": _number(_redirection),
    b"resp": _number(lambda session: session.proto),
    b"lib-name": lambda session: session.library_name,
    b"lib-ver": lambda session: session.library_version,
}
