"""The line that describes one client, as CLIENT LIST and CLIENT INFO show it.

Every field of Redis 7.2 is there, in its order, because tools take the line apart by position as well as
by name. Fields about buffers that kvd does not have (a query buffer's free part, a fixed reply buffer)
are 0; a session in a named namespace shows ``db=-1``.

HTTP clients have a class of their own, ``http``, and are in no list that did not ask for it: libraries take those that they
find in CLIENT LIST for Redis clients. Their line has the same fields, with the method of the last request as ``cmd``.

Source: Redis 7.2 CLIENT LIST.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from kvd.session import Session

if TYPE_CHECKING:
    from kvd.web.session import HttpSession

    AnySession: TypeAlias = Session | HttpSession


def describe(session: AnySession) -> bytes:
    """Return the session's line, without a line break."""
    fields = _fields(session) if isinstance(session, Session) else _http_fields(session)
    return b" ".join(b"%b=%b" % field for field in fields.items())


def _fields(session: Session) -> dict[bytes, bytes]:
    now_ms = session.server.store.now_ms
    transport = session.transport
    unsent_bytes = 0 if transport is None else transport.unsent_bytes
    transaction = session.transaction
    queued_bytes = 0 if transaction is None else transaction.queued_bytes
    waiting_bytes = sum(sum(map(len, request)) for request in session.backlog)
    buffered_bytes = session.buffered_bytes
    database = session.keyspace.index
    tracking = session.tracking
    return {
        b"id": b"%d" % session.id,
        b"addr": session.endpoint.address.encode(),
        b"laddr": session.endpoint.local_address.encode(),
        b"fd": b"%d" % (-1 if transport is None else transport.fd),
        b"name": session.name,
        b"age": _seconds(now_ms - session.connected_at_ms),
        b"idle": _seconds(now_ms - session.active_at_ms),
        b"flags": _flags(session),
        b"db": b"%d" % (-1 if database is None else database),
        b"sub": b"%d" % len(session.channels),
        b"psub": b"%d" % len(session.patterns),
        b"ssub": b"%d" % len(session.shard_channels),
        b"multi": b"%d" % (-1 if transaction is None else len(transaction.queued)),
        b"qbuf": b"%d" % buffered_bytes,
        b"qbuf-free": b"0",
        b"argv-mem": b"%d" % waiting_bytes,
        b"multi-mem": b"%d" % queued_bytes,
        b"rbs": b"0",
        b"rbp": b"0",
        b"obl": b"0",
        b"oll": b"%d" % (0 if transport is None else transport.unsent_count),
        b"omem": b"%d" % unsent_bytes,
        b"tot-mem": b"%d" % (buffered_bytes + waiting_bytes + queued_bytes + unsent_bytes),
        b"events": b"rw" if unsent_bytes else b"r",
        b"cmd": _command(session),
        b"user": _user(session),
        # Who hears this session's invalidations: -1 nobody, 0 itself, else another session's id.
        b"redir": b"%d" % (-1 if tracking is None else tracking.redirect),
        b"resp": b"%d" % session.proto,
        b"lib-name": session.library_name,
        b"lib-ver": session.library_version,
    }


def _http_fields(session: HttpSession) -> dict[bytes, bytes]:
    now_ms = session.server.store.now_ms
    transport = session.transport
    unsent_bytes = 0 if transport is None else transport.unsent_bytes
    held_bytes = session.input_bytes
    credential = session.credential
    method = session.last_method.lower()
    return {
        b"id": b"%d" % session.id,
        b"addr": session.endpoint.address.encode(),
        b"laddr": session.endpoint.local_address.encode(),
        b"fd": b"%d" % (-1 if transport is None else transport.fd),
        b"name": b"",
        b"age": _seconds(now_ms - session.connected_at_ms),
        b"idle": _seconds(now_ms - session.active_at_ms),
        b"flags": _http_flags(session),
        b"db": b"-1",
        **dict.fromkeys((b"sub", b"psub", b"ssub"), b"0"),
        b"multi": b"-1",
        b"qbuf": b"%d" % held_bytes,
        **dict.fromkeys((b"qbuf-free", b"argv-mem", b"multi-mem", b"rbs", b"rbp", b"obl"), b"0"),
        b"oll": b"%d" % (0 if transport is None else transport.unsent_count),
        b"omem": b"%d" % unsent_bytes,
        b"tot-mem": b"%d" % (held_bytes + unsent_bytes),
        b"events": b"rw" if unsent_bytes else b"r",
        b"cmd": b"http|" + method if method else b"NULL",
        b"user": b"default" if credential is None else credential.access.name.replace(" ", ":").encode(),
        b"redir": b"-1",
        b"resp": b"0",
        b"lib-name": b"",
        b"lib-ver": b"",
    }


def _http_flags(session: HttpSession) -> bytes:
    letters = {
        b"P": session.feed is not None,
        b"b": session.suspended and session.feed is None,
        b"c": session.closing,
        b"U": session.endpoint.is_unix,
    }
    return b"".join(letter for letter, applies in letters.items() if applies) or b"N"


def kind(session: AnySession) -> str:
    """Return the class of a client by which CLIENT LIST and CLIENT KILL select: normal, pubsub or http."""
    if not isinstance(session, Session):
        return "http"
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


def _command(session: Session) -> bytes:
    name = session.last_command
    return b"NULL" if name == "NULL" else name.lower().encode()


def _user(session: Session) -> bytes:
    # Who has not authenticated yet is listed as the default user, as in Redis.
    return b"default" if session.user is None else session.user.name


def _seconds(duration_ms: int) -> bytes:
    return b"%d" % max(duration_ms // 1000, 0)
