"""CLIENT TRACKING and its kin: how a client that caches by itself hears of changes (`kvd.tracking`).

Source: Redis 7.2 CLIENT TRACKING, CLIENT CACHING, CLIENT GETREDIR, CLIENT TRACKINGINFO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kvd.commands.arguments import SYNTAX_ERROR, parse_integer
from kvd.commands.spec import Arg, Flag, Request, session_command
from kvd.tracking import TrackingState
from protocol.replies import OK, ErrorReply, Reply, Set

if TYPE_CHECKING:
    from kvd.session import Session

_FLAGS: Final = Flag.NOSCRIPT | Flag.LOADING | Flag.STALE

# Prefixes of one client: they are compared pair by pair, and each may cost every writer a look-up.
PREFIXES_MAX: Final = 1_000

_OTHER_BROADCAST_MODE: Final = (
    "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling "
    "it with a different mode."
)
_OTHER_OPT_MODE: Final = (
    "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling "
    "it with a different mode."
)
_NOT_TRACKED: Final = (
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode "
    "enabled"
)


@attrs.define
class _Options:
    broadcast: bool = False
    opt_in: bool = False
    opt_out: bool = False
    no_loop: bool = False
    redirect: int = 0
    prefixes: list[bytes] = attrs.field(factory=list)


_SWITCHES: Final = {b"BCAST": "broadcast", b"OPTIN": "opt_in", b"OPTOUT": "opt_out", b"NOLOOP": "no_loop"}


@session_command(
    "CLIENT|TRACKING",
    arity=-3,
    flags=_FLAGS,
    group="connection",
    since="6.0.0",
    complexity="O(1). Some options may introduce additional complexity.",
    summary="Tell this connection, or another, of changes of the keys that it may have cached.",
    arguments=(
        Arg(
            "status",
            "oneof",
            arguments=(Arg("on", "pure-token", token="ON"), Arg("off", "pure-token", token="OFF")),
        ),
        Arg("client-id", "integer", token="REDIRECT", optional=True),
        Arg("prefix", token="PREFIX", optional=True, multiple=True, multiple_token=True),
        Arg("bcast", "pure-token", token="BCAST", optional=True),
        Arg("optin", "pure-token", token="OPTIN", optional=True),
        Arg("optout", "pure-token", token="OPTOUT", optional=True),
        Arg("noloop", "pure-token", token="NOLOOP", optional=True),
    ),
)
def client_tracking(session: Session, request: Request) -> Reply:
    options = _parse(session, request)
    status = request[2].upper()
    if status == b"ON":
        _refuse_contradictions(session, options)
        _enable(session, options)
    elif status == b"OFF":
        session.server.tracking.disable(session)
    else:
        raise ErrorReply(SYNTAX_ERROR)
    return OK


def _parse(session: Session, request: Request) -> _Options:
    options = _Options()
    words = iter(request[3:])
    for word in words:
        option = word.upper()
        if option in _SWITCHES:
            setattr(options, _SWITCHES[option], True)
            continue
        value = next(words, None)
        if option == b"REDIRECT" and value is not None:
            options.redirect = _parse_redirect(session, options, value)
        elif option == b"PREFIX" and value is not None:
            options.prefixes.append(_possible(session, value))
        else:
            raise ErrorReply(SYNTAX_ERROR)
    return options


def _possible(session: Session, prefix: bytes) -> bytes:
    """Return a prefix that a key may have; the others would be kept for nothing."""
    longest = session.server.store.limits.key_bytes_max
    if len(prefix) > longest:
        raise ErrorReply(f"ERR a prefix of {len(prefix)} bytes is longer than a key may be ({longest} bytes)")
    return prefix


def _parse_redirect(session: Session, options: _Options, value: bytes) -> int:
    if options.redirect:
        raise ErrorReply("ERR A client can only redirect to a single other client")
    redirect = parse_integer(value)
    if redirect not in session.server.sessions:
        raise ErrorReply("ERR The client ID you want redirect to does not exist")
    return redirect


def _refuse_contradictions(session: Session, options: _Options) -> None:
    """Raise `ErrorReply` if the options do not go together, or with how the session is tracked already."""
    if options.prefixes and not options.broadcast:
        raise ErrorReply("ERR PREFIX option requires BCAST mode to be enabled")
    known = session.tracking
    if known is not None and known.broadcast != options.broadcast:
        raise ErrorReply(_OTHER_BROADCAST_MODE)
    if options.broadcast and (options.opt_in or options.opt_out):
        raise ErrorReply("ERR OPTIN and OPTOUT are not compatible with BCAST")
    if options.opt_in and options.opt_out:
        raise ErrorReply("ERR You can't specify both OPTIN mode and OPTOUT mode")
    if known is not None and ((options.opt_in and known.opt_out) or (options.opt_out and known.opt_in)):
        raise ErrorReply(_OTHER_OPT_MODE)
    _refuse_overlaps(options.prefixes, known.prefixes if known is not None else ())


def _refuse_overlaps(wanted: list[bytes], known: tuple[bytes, ...]) -> None:
    if len(wanted) + len(known) > PREFIXES_MAX:
        raise ErrorReply(f"ERR a client cannot track more than {PREFIXES_MAX} prefixes")
    for index, prefix in enumerate(wanted):
        for other in known:
            _refuse_overlap(prefix, other, "an existing prefix")
        for other in wanted[index + 1 :]:
            _refuse_overlap(prefix, other, "another provided prefix")


def _refuse_overlap(prefix: bytes, other: bytes, kind: str) -> None:
    if not prefix.startswith(other) and not other.startswith(prefix):
        return
    shown, other_shown = (each.decode("utf-8", "surrogateescape") for each in (prefix, other))
    raise ErrorReply(
        f"ERR Prefix '{shown}' overlaps with {kind} '{other_shown}'. "
        "Prefixes for a single client must not overlap."
    )


def _enable(session: Session, options: _Options) -> None:
    known = session.tracking
    prefixes = known.prefixes if known is not None else ()
    if options.broadcast:
        # Without a prefix, the empty one: every key starts with it.
        prefixes = (*prefixes, *(options.prefixes or [b""]))
    session.server.tracking.enable(
        TrackingState(
            session,
            broadcast=options.broadcast,
            opt_in=options.opt_in,
            opt_out=options.opt_out,
            no_loop=options.no_loop,
            redirect=options.redirect,
            prefixes=tuple(dict.fromkeys(prefixes)),
        )
    )


@session_command(
    "CLIENT|CACHING",
    arity=3,
    flags=_FLAGS,
    group="connection",
    since="6.0.0",
    complexity="O(1)",
    summary="Say whether the keys of the next command are to be tracked.",
    arguments=(
        Arg(
            "mode",
            "oneof",
            arguments=(Arg("yes", "pure-token", token="YES"), Arg("no", "pure-token", token="NO")),
        ),
    ),
)
def client_caching(session: Session, request: Request) -> Reply:
    state = session.tracking
    if state is None:
        raise ErrorReply(_NOT_TRACKED)
    mode = request[2].upper()
    if mode not in {b"YES", b"NO"}:
        raise ErrorReply(SYNTAX_ERROR)
    if mode == b"YES" and not state.opt_in:
        raise ErrorReply("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
    if mode == b"NO" and not state.opt_out:
        raise ErrorReply("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
    state.caching = True
    return OK


@session_command(
    "CLIENT|GETREDIR",
    arity=2,
    flags=_FLAGS,
    group="connection",
    since="6.0.0",
    complexity="O(1)",
    summary="Return the id of the connection that hears of changes instead of this one.",
)
def client_getredir(session: Session, request: Request) -> Reply:
    return -1 if session.tracking is None else session.tracking.redirect


@session_command(
    "CLIENT|TRACKINGINFO",
    arity=2,
    flags=_FLAGS,
    group="connection",
    since="6.2.0",
    complexity="O(1)",
    summary="Return how this connection is tracked.",
)
def client_trackinginfo(session: Session, request: Request) -> Reply:
    state = session.tracking
    return {
        b"flags": Set(_flags(state)),
        b"redirect": -1 if state is None else state.redirect,
        b"prefixes": [] if state is None else sorted(state.prefixes),
    }


def _flags(state: TrackingState | None) -> list[bytes]:
    if state is None:
        return [b"off"]
    words = {
        b"bcast": state.broadcast,
        b"optin": state.opt_in,
        b"caching-yes": state.opt_in and state.caching,
        b"optout": state.opt_out,
        b"caching-no": state.opt_out and state.caching,
        b"noloop": state.no_loop,
        b"broken_redirect": state.broken_redirect,
    }
    return [b"on", *(word for word, applies in words.items() if applies)]


COMMANDS = (client_tracking, client_caching, client_getredir, client_trackinginfo)
