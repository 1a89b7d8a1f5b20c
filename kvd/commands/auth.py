"""The connection itself: who is at the other end, which protocol and which database."""

from __future__ import annotations

from typing import Final

import attrs

from kvd.commands.arguments import parse_integer
from kvd.commands.spec import Arg, Flag, Request, session_command
from kvd.commands.table import wrong_arity
from kvd.session import Session
from protocol.replies import OK, PONG, ErrorReply, Reply, Simple

_ALWAYS: Final = (
    Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.FAST | Flag.NO_AUTH | Flag.SENTINEL | Flag.ALLOW_BUSY
)
_NEUTRAL: Final = Flag.LOADING | Flag.STALE | Flag.FAST

# What a client calls itself is shown in every CLIENT LIST, so it must not be used to store things.
SHOWN_BYTES_MAX: Final = 1024

_WRONG_PASSWORD: Final = "WRONGPASS invalid username-password pair or user is disabled."  # noqa: S105
_NOTHING_TO_CHECK: Final = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
_HELLO_NEEDS_AUTH: Final = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the "
    "HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and "
    "select the RESP protocol version at the same time"
)
_BAD_CLIENT_NAME: Final = "ERR Client names cannot contain spaces, newlines or special characters."


def is_showable(text: bytes) -> bool:
    """Tell whether CLIENT LIST can show `text`: printable ASCII without blanks, and not too long."""
    return len(text) <= SHOWN_BYTES_MAX and all(0x21 <= byte <= 0x7E for byte in text)


def check_client_name(name: bytes) -> None:
    """Raise `ErrorReply` unless `name` can be shown; empty is allowed."""
    if not is_showable(name):
        raise ErrorReply(_BAD_CLIENT_NAME)


def _log_in(session: Session, command: bytes, name: bytes, password: bytes) -> None:
    user = session.server.acl.authenticate(session, command, name, password)
    if user is None:
        raise ErrorReply(_WRONG_PASSWORD)
    session.become(user)


@session_command(
    "AUTH",
    arity=-2,
    flags=_ALWAYS,
    group="connection",
    since="1.0.0",
    complexity="O(N) where N is the number of passwords defined for the user",
    summary="Log in as a user, or with one argument as the default user.",
    history=(("6.0.0", "Added ACL style (username and password)."),),
    arguments=(Arg("username", optional=True, since="6.0.0"), Arg("password")),
)
def auth(session: Session, request: Request) -> Reply:
    if len(request) > 3:
        raise ErrorReply("ERR syntax error")
    if len(request) == 3:
        _log_in(session, request[0], request[1], request[2])
    elif session.server.acl.default.no_password:
        raise ErrorReply(_NOTHING_TO_CHECK)
    else:
        _log_in(session, request[0], b"default", request[1])
    return OK


@attrs.frozen
class _HelloOptions:
    proto: int | None
    credentials: tuple[bytes, bytes] | None
    client_name: bytes | None


@session_command(
    "HELLO",
    arity=-1,
    flags=_ALWAYS,
    group="connection",
    since="6.0.0",
    complexity="O(1)",
    summary="Choose the protocol version, and log in and name the connection on the way.",
    history=(
        (
            "6.2.0",
            (
                "`protover` made optional; when called without arguments the command reports the "
                "current connection's context."
            ),
        ),
    ),
    arguments=(
        Arg(
            "arguments",
            "block",
            optional=True,
            arguments=(
                Arg("protover", "integer"),
                Arg(
                    "username_password",
                    "block",
                    token="AUTH",
                    optional=True,
                    arguments=(Arg("username"), Arg("password")),
                ),
                Arg("clientname", token="SETNAME", optional=True),
            ),
        ),
    ),
)
def hello(session: Session, request: Request) -> Reply:
    options = _parse_hello(request)
    if options.credentials is not None:
        _log_in(session, request[0], *options.credentials)
    if session.user is None:
        raise ErrorReply(_HELLO_NEEDS_AUTH)
    if options.client_name is not None:
        session.name = options.client_name
    if options.proto is not None:
        session.use_protocol(options.proto)
    return {
        b"server": b"redis",
        b"version": session.server.settings.compat.redis_version.encode(),
        b"proto": session.proto,
        b"id": session.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def _parse_hello(request: Request) -> _HelloOptions:
    proto = _parse_proto(request[1]) if len(request) > 1 else None
    credentials = None
    client_name = None
    rest = iter(range(2, len(request)))
    for index in rest:
        option = request[index].upper()
        following = len(request) - 1 - index
        if option == b"AUTH" and following >= 2:
            credentials = (request[index + 1], request[index + 2])
            next(rest), next(rest)
        elif option == b"SETNAME" and following >= 1:
            client_name = request[index + 1]
            check_client_name(client_name)
            next(rest)
        else:
            shown = request[index].decode("utf-8", "surrogateescape")
            raise ErrorReply(f"ERR Syntax error in HELLO option '{shown}'")
    return _HelloOptions(proto, credentials, client_name)


def _parse_proto(argument: bytes) -> int:
    proto = parse_integer(argument, "ERR Protocol version is not an integer or out of range")
    if proto not in (2, 3):
        raise ErrorReply("NOPROTO unsupported protocol version")
    return proto


@session_command(
    "SELECT",
    arity=2,
    flags=_NEUTRAL,
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Work on another of the numbered databases from now on.",
    arguments=(Arg("index", "integer"),),
)
def select(session: Session, request: Request) -> Reply:
    index = parse_integer(request[1])
    if not 0 <= index < session.server.settings.compat.databases:
        raise ErrorReply("ERR DB index is out of range")
    session.use_keyspace(session.server.store.keyspace(index))
    return OK


@session_command(
    "PING",
    arity=-1,
    flags=Flag.FAST | Flag.SENTINEL,
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Answer PONG, or what was sent along.",
    tips=("request_policy:all_shards", "response_policy:all_succeeded"),
    arguments=(Arg("message", optional=True),),
)
def ping(session: Session, request: Request) -> Reply:
    if len(request) > 2:
        raise ErrorReply(wrong_arity(ping))
    if session.proto == 2 and session.subscription_count:
        return [b"pong", request[1] if len(request) == 2 else b""]
    return request[1] if len(request) == 2 else PONG


@session_command(
    "ECHO",
    arity=2,
    flags=_NEUTRAL,
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Answer what was sent along.",
    arguments=(Arg("message"),),
)
def echo(session: Session, request: Request) -> Reply:
    return request[1]


@session_command(
    "QUIT",
    arity=-1,
    flags=_ALWAYS,
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Close the connection once the replies are out.",
)
def quit_(session: Session, request: Request) -> Reply:
    session.close_after_reply()
    return OK


@session_command(
    "RESET",
    arity=1,
    flags=_ALWAYS,
    group="connection",
    since="6.2.0",
    complexity="O(1)",
    summary="Put the connection back into the state in which it was opened.",
)
def reset(session: Session, request: Request) -> Reply:
    server = session.server
    session.transaction = None
    session.watched.clear()
    server.pubsub.forget(session)
    server.tracking.disable(session)
    if session in server.monitors:
        server.monitors.discard(session)
        server.refresh_plain()
    session.use_keyspace(server.store.keyspace(0))
    session.name = b""
    session.reply_mode = "on"
    session.no_evict = False
    session.no_touch = False
    session.use_protocol(2)
    session.become(server.acl.user_without_password())
    return Simple(b"RESET")


COMMANDS = (auth, hello, select, ping, echo, quit_, reset)
