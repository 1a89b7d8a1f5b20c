"""CLIENT: what connections there are, what this one is called, and how to stop others.

CLIENT TRACKING and its kin are declared in `kvd.commands.tracking`, under the container of this module.

Source: Redis 7.2 CLIENT and its subcommands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from kvd import client_list
from kvd.commands.arguments import INTEGER_MAX, SYNTAX_ERROR, parse_integer
from kvd.commands.auth import check_client_name, is_showable
from kvd.commands.help import help_command, subcommand_error
from kvd.commands.spec import Arg, Flag, Request, container, session_command
from kvd.pause import begin_pause, end_pause
from protocol.replies import NO_REPLY, OK, ErrorReply, Reply, Verbatim

if TYPE_CHECKING:
    from kvd.client_list import AnySession
    from kvd.server import Server
    from kvd.session import Session

_CONNECTION: Final = frozenset({"connection"})
_ANYTIME: Final = Flag.NOSCRIPT | Flag.LOADING | Flag.STALE
_ADMIN: Final = Flag.ADMIN | _ANYTIME
# Redis's own, and that of HTTP clients, which the declared grammar does not name: it is Redis's, word for word.
_KINDS: Final = frozenset({b"normal", b"master", b"replica", b"slave", b"pubsub", b"http"})

_ON_OFF: Final = (
    Arg("enabled", "oneof", arguments=(Arg("on", "pure-token", "ON"), Arg("off", "pure-token", "OFF"))),
)

client = container(
    "CLIENT",
    arity=-2,
    group="connection",
    since="2.4.0",
    complexity="Depends on subcommand.",
    summary="Look at client connections and change them.",
)


@session_command(
    "CLIENT|ID",
    arity=2,
    flags=_ANYTIME,
    group="connection",
    since="5.0.0",
    complexity="O(1)",
    summary="Return the number of this connection; it is never used again.",
    categories=_CONNECTION,
)
def client_id(session: Session, request: Request) -> Reply:
    return session.id


@session_command(
    "CLIENT|INFO",
    arity=2,
    flags=_ANYTIME,
    group="connection",
    since="6.2.0",
    complexity="O(1)",
    summary="Describe this connection in one line.",
    categories=_CONNECTION,
    tips=("nondeterministic_output",),
)
def client_info(session: Session, request: Request) -> Reply:
    return Verbatim(client_list.describe(session) + b"\n")


@session_command(
    "CLIENT|LIST",
    arity=-2,
    flags=_ADMIN,
    group="connection",
    since="2.4.0",
    complexity="O(N) where N is the number of client connections",
    summary="Describe all connections, or those of a type or with given ids, one a line.",
    categories=_CONNECTION,
    tips=("nondeterministic_output",),
    history=(
        ("2.8.12", "Each line has an id."),
        ("5.0.0", "TYPE selects by type."),
        ("6.0.0", "Each line has the user."),
        ("6.2.0", "Lines have argv-mem, tot-mem, laddr and redir; ID selects by id."),
        ("7.0.0", "Lines have resp, multi-mem, rbs and rbp."),
        ("7.0.3", "Lines have ssub."),
    ),
    arguments=(
        Arg(
            "normal_master_replica_pubsub",
            "oneof",
            "TYPE",
            optional=True,
            since="5.0.0",
            arguments=(
                Arg("normal", "pure-token", "NORMAL"),
                Arg("master", "pure-token", "MASTER"),
                Arg("replica", "pure-token", "REPLICA"),
                Arg("pubsub", "pure-token", "PUBSUB"),
            ),
        ),
        Arg(
            "id",
            "block",
            "ID",
            optional=True,
            since="6.2.0",
            arguments=(Arg("client-id", "integer", multiple=True),),
        ),
    ),
)
def client_list_(session: Session, request: Request) -> Reply:
    lines = [client_list.describe(each) for each in _selected(session, request[2:])]
    return Verbatim(b"".join(line + b"\n" for line in lines))


def _selected(session: Session, filters: Request) -> Iterable[AnySession]:
    """Return whom to list: all Redis clients, or those of a class or with ids, HTTP clients among them."""
    server = session.server
    if not filters:
        return list(server.sessions.values())
    word = filters[0].upper()
    if word == b"TYPE" and len(filters) == 2:
        wanted = _parse_kind(filters[1])
        return [each for each in _everybody(server) if client_list.kind(each) == wanted]
    if word == b"ID" and len(filters) > 1:
        ids = [parse_integer(text, "ERR Invalid client ID") for text in filters[1:]]
        found = (server.sessions.get(each) or server.http_sessions.get(each) for each in ids)
        return [each for each in found if each is not None]
    raise ErrorReply(SYNTAX_ERROR)


def _everybody(server: Server) -> list[AnySession]:
    return [*server.sessions.values(), *server.http_sessions.values()]


def _parse_kind(text: bytes) -> str:
    if text.lower() not in _KINDS:
        raise ErrorReply(f"ERR Unknown client type '{text.decode('utf-8', 'replace')}'")
    return text.lower().decode()


# --- KILL


@session_command(
    "CLIENT|KILL",
    arity=-3,
    flags=_ADMIN,
    group="connection",
    since="2.4.0",
    complexity="O(N) where N is the number of client connections",
    summary="Close connections, by address or by what all filters say.",
    categories=_CONNECTION,
    history=(
        ("2.8.12", "Filters in pairs, ID among them."),
        ("3.2.0", "TYPE knows master."),
        ("5.0.0", "TYPE says replica; slave is still understood."),
        ("6.2.0", "LADDR selects by the server's address."),
    ),
    arguments=(
        Arg(
            "filter",
            "oneof",
            arguments=(
                Arg("ip:port", deprecated_since="2.8.12"),
                Arg(
                    "new-format",
                    "oneof",
                    multiple=True,
                    arguments=(
                        Arg("client-id", "integer", "ID", optional=True, since="2.8.12"),
                        Arg(
                            "normal_master_slave_pubsub",
                            "oneof",
                            "TYPE",
                            optional=True,
                            since="2.8.12",
                            arguments=(
                                Arg("normal", "pure-token", "NORMAL"),
                                Arg("master", "pure-token", "MASTER", since="3.2.0"),
                                Arg("slave", "pure-token", "SLAVE"),
                                Arg("replica", "pure-token", "REPLICA", since="5.0.0"),
                                Arg("pubsub", "pure-token", "PUBSUB"),
                            ),
                        ),
                        Arg("username", "string", "USER", optional=True),
                        Arg("ip:port", "string", "ADDR", optional=True),
                        Arg("ip:port", "string", "LADDR", optional=True, since="6.2.0"),
                        Arg("yes/no", "string", "SKIPME", optional=True),
                    ),
                ),
            ),
        ),
    ),
)
def client_kill(session: Session, request: Request) -> Reply:
    if len(request) == 3:
        return _kill_by_address(session, request[2])
    tests, skip_me = _parse_filters(session, request)
    victims = [
        each
        for each in _everybody(session.server)
        if not (skip_me and each is session) and all(test(each) for test in tests)
    ]
    for victim in victims:
        _close(session, victim)
    return len(victims)


def _kill_by_address(session: Session, address: bytes) -> Reply:
    for each in _everybody(session.server):
        if each.endpoint.address.encode() == address:
            _close(session, each)
            return OK
    raise ErrorReply("ERR No such client")


def _close(session: Session, victim: AnySession) -> None:
    if victim is session:
        session.close_after_reply("killed")
    else:
        victim.kill("killed")


def _parse_filters(session: Session, request: Request) -> tuple[list[Callable[[AnySession], bool]], bool]:
    """Return the tests that a connection must pass to be closed, and whether the caller is spared."""
    if len(request) % 2:
        raise ErrorReply(SYNTAX_ERROR)
    tests: list[Callable[[AnySession], bool]] = []
    skip_me = True
    for word, value in zip(request[2::2], request[3::2], strict=True):
        if word.upper() == b"SKIPME":
            skip_me = _parse_word(value, yes=b"YES", no=b"NO")
            continue
        make = _KILL_FILTERS.get(word.upper())
        if make is None:
            raise ErrorReply(SYNTAX_ERROR)
        tests.append(make(session, value))
    return tests, skip_me


def _by_id(session: Session, value: bytes) -> Callable[[AnySession], bool]:
    refusal = "ERR client-id should be greater than 0"
    number = parse_integer(value, refusal)
    if number < 1:
        raise ErrorReply(refusal)
    return lambda each: each.id == number


def _by_kind(session: Session, value: bytes) -> Callable[[AnySession], bool]:
    wanted = _parse_kind(value)
    return lambda each: client_list.kind(each) == wanted


def _by_user(session: Session, value: bytes) -> Callable[[AnySession], bool]:
    user = session.server.acl.users.get(value)
    if user is None:
        raise ErrorReply(f"ERR No such user '{value.decode('utf-8', 'replace')}'")
    return lambda each: each.user is user


def _by_address(session: Session, value: bytes) -> Callable[[AnySession], bool]:
    return lambda each: each.endpoint.address.encode() == value


def _by_local_address(session: Session, value: bytes) -> Callable[[AnySession], bool]:
    return lambda each: each.endpoint.local_address.encode() == value


_KILL_FILTERS: Final = {
    b"ID": _by_id,
    b"TYPE": _by_kind,
    b"USER": _by_user,
    b"ADDR": _by_address,
    b"LADDR": _by_local_address,
}


def _parse_word(value: bytes, *, yes: bytes, no: bytes) -> bool:
    word = value.upper()
    if word not in {yes, no}:
        raise ErrorReply(SYNTAX_ERROR)
    return word == yes


# --- names


@session_command(
    "CLIENT|SETNAME",
    arity=3,
    flags=_ANYTIME,
    group="connection",
    since="2.6.9",
    complexity="O(1)",
    summary="Name this connection; an empty name takes it away.",
    categories=_CONNECTION,
    arguments=(Arg("connection-name"),),
)
def client_setname(session: Session, request: Request) -> Reply:
    check_client_name(request[2])
    session.name = request[2]
    return OK


@session_command(
    "CLIENT|GETNAME",
    arity=2,
    flags=_ANYTIME,
    group="connection",
    since="2.6.9",
    complexity="O(1)",
    summary="Return the name of this connection, null if it has none.",
    categories=_CONNECTION,
)
def client_getname(session: Session, request: Request) -> Reply:
    return session.name or None


@session_command(
    "CLIENT|SETINFO",
    arity=4,
    flags=_ANYTIME,
    group="connection",
    since="7.2.0",
    complexity="O(1)",
    summary="Tell which client library uses this connection, and its version.",
    categories=_CONNECTION,
    tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
    arguments=(
        Arg(
            "attr",
            "oneof",
            arguments=(Arg("libname", "string", "LIB-NAME"), Arg("libver", "string", "LIB-VER")),
        ),
    ),
)
def client_setinfo(session: Session, request: Request) -> Reply:
    attribute, value = request[2].lower(), request[3]
    shown = request[2].decode("utf-8", "replace")
    if attribute not in {b"lib-name", b"lib-ver"}:
        raise ErrorReply(f"ERR Unrecognized option '{shown}'")
    if not is_showable(value):
        raise ErrorReply(f"ERR {shown} cannot contain spaces, newlines or special characters.")
    if attribute == b"lib-name":
        session.library_name = value
    else:
        session.library_version = value
    return OK


# --- how this connection is treated


@session_command(
    "CLIENT|NO-EVICT",
    arity=3,
    flags=_ADMIN,
    group="connection",
    since="7.0.0",
    complexity="O(1)",
    summary="Mark this connection as one that must not be closed to save memory.",
    categories=_CONNECTION,
    arguments=_ON_OFF,
)
def client_no_evict(session: Session, request: Request) -> Reply:
    session.no_evict = _parse_word(request[2], yes=b"ON", no=b"OFF")
    return OK


@session_command(
    "CLIENT|NO-TOUCH",
    arity=3,
    flags=_ANYTIME,
    group="connection",
    since="7.2.0",
    complexity="O(1)",
    summary="Accepted for compatibility: kvd keeps no time of last use that a read could change.",
    categories=_CONNECTION,
    arguments=_ON_OFF,
)
def client_no_touch(session: Session, request: Request) -> Reply:
    session.no_touch = _parse_word(request[2], yes=b"ON", no=b"OFF")
    return OK


@session_command(
    "CLIENT|REPLY",
    arity=3,
    flags=_ANYTIME,
    group="connection",
    since="3.2.0",
    complexity="O(1)",
    summary="Send replies, none, or none to the next command.",
    categories=_CONNECTION,
    arguments=(
        Arg(
            "on_off_skip",
            "oneof",
            arguments=(
                Arg("on", "pure-token", "ON"),
                Arg("off", "pure-token", "OFF"),
                Arg("skip", "pure-token", "SKIP"),
            ),
        ),
    ),
)
def client_reply(session: Session, request: Request) -> Reply:
    mode = request[2].lower()
    if mode not in {b"on", b"off", b"skip"}:
        raise ErrorReply(SYNTAX_ERROR)
    # With replies off there is no reply to skip; the session stays silent until ON.
    if not (mode == b"skip" and session.reply_mode == "off"):
        session.reply_mode = mode.decode()
    session.refresh()
    return OK if mode == b"on" else NO_REPLY


# --- holding clients back


@session_command(
    "CLIENT|PAUSE",
    arity=-3,
    flags=_ADMIN,
    group="connection",
    since="2.9.50",
    complexity="O(1)",
    summary="Hold all clients, or those that write, for so many milliseconds.",
    categories=_CONNECTION,
    history=(("6.2.0", "WRITE holds only what writes."),),
    arguments=(
        Arg("timeout", "integer"),
        Arg(
            "mode",
            "oneof",
            optional=True,
            since="6.2.0",
            arguments=(Arg("write", "pure-token", "WRITE"), Arg("all", "pure-token", "ALL")),
        ),
    ),
)
def client_pause(session: Session, request: Request) -> Reply:
    if len(request) > 4:
        raise subcommand_error(request)
    mode = request[3].upper() if len(request) == 4 else b"ALL"
    if mode not in {b"WRITE", b"ALL"}:
        raise ErrorReply("ERR CLIENT PAUSE mode must be WRITE or ALL")
    duration_ms = parse_timeout_ms(request[2])
    until_ms = min(session.server.store.now_ms + duration_ms, INTEGER_MAX)
    begin_pause(session.server, until_ms, writes_only=mode == b"WRITE")
    return OK


def parse_timeout_ms(text: bytes) -> int:
    """Return a duration in milliseconds, 0 or more, with Redis's texts for what is none."""
    duration_ms = parse_integer(text, "ERR timeout is not an integer or out of range")
    if duration_ms < 0:
        raise ErrorReply("ERR timeout is negative")
    return duration_ms


@session_command(
    "CLIENT|UNPAUSE",
    arity=2,
    flags=_ADMIN,
    group="connection",
    since="6.2.0",
    complexity="O(N) Where N is the number of paused clients",
    summary="Let paused clients go on.",
    categories=_CONNECTION,
)
def client_unpause(session: Session, request: Request) -> Reply:
    end_pause(session.server)
    return OK


@session_command(
    "CLIENT|UNBLOCK",
    arity=-3,
    flags=_ADMIN,
    group="connection",
    since="5.0.0",
    complexity="O(log N) where N is the number of client connections",
    summary="End another connection's wait, as if its time was over or with an error.",
    categories=_CONNECTION,
    arguments=(
        Arg("client-id", "integer"),
        Arg(
            "timeout_error",
            "oneof",
            optional=True,
            arguments=(Arg("timeout", "pure-token", "TIMEOUT"), Arg("error", "pure-token", "ERROR")),
        ),
    ),
)
def client_unblock(session: Session, request: Request) -> Reply:
    if len(request) > 4:
        raise subcommand_error(request)
    reason = request[3].upper() if len(request) == 4 else b"TIMEOUT"
    if reason not in {b"TIMEOUT", b"ERROR"}:
        raise ErrorReply("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    target = session.server.sessions.get(parse_integer(request[2]))
    if target is None or not target.suspended or target.on_unblock is None:
        return 0
    target.on_unblock(reason == b"ERROR")
    return 1


COMMANDS: Final = (
    client,
    client_id,
    client_info,
    client_list_,
    client_kill,
    client_setname,
    client_getname,
    client_setinfo,
    client_no_evict,
    client_no_touch,
    client_reply,
    client_pause,
    client_unpause,
    client_unblock,
    help_command("CLIENT", group="connection", since="5.0.0", categories=_CONNECTION),
)
