"""CONFIG: look at the settings, change them in the running daemon, write the changes to the file.

Source: Redis 7.2 CONFIG and its subcommands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from kvd.commands.arguments import SYNTAX_ERROR, parse_glob
from kvd.commands.help import help_command
from kvd.commands.spec import Arg, Flag, Request, container, session_command
from kvd.config_rewrite import RewriteError, rewrite
from kvd.parameters import PARAMETERS, Parameter, find
from kvd.process import room_for_clients
from kvd.reconfigure import change_settings
from kvd.settings import contradictions
from protocol.replies import OK, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session
    from kvd.setting_spec import Value
    from kvd.settings import Settings

log = structlog.get_logger()

_ADMIN: Final = Flag.ADMIN | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE

config = container(
    "CONFIG",
    arity=-2,
    group="server",
    since="2.0.0",
    complexity="Depends on subcommand.",
    summary="Look at the settings of the daemon and change them.",
)


@session_command(
    "CONFIG|GET",
    arity=-3,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    complexity="O(N) when N is the number of configuration parameters provided",
    summary="Return the parameters that match any of the patterns, with their values.",
    history=(("7.0.0", "Several patterns may be given."),),
    arguments=(Arg("parameter", "block", multiple=True, arguments=(Arg("parameter"),)),),
)
def config_get(session: Session, request: Request) -> Reply:
    settings = session.server.settings
    found: dict[str, Parameter] = {}
    for pattern in request[2:]:
        found |= _matching(pattern)
    return {_bytes(name): _bytes(parameter.show(settings)) for name, parameter in found.items()}


def _matching(pattern: bytes) -> dict[str, Parameter]:
    exact = find(_text(pattern))
    if exact is not None:
        return {_text(pattern): exact}  # under the name as it was asked for
    glob = parse_glob(pattern.lower())
    return {name: each for name, each in PARAMETERS.items() if glob.matches(name.encode())}


def _text(argument: bytes) -> str:
    return argument.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@session_command(
    "CONFIG|SET",
    arity=-4,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    complexity="O(N) when N is the number of configuration parameters provided",
    summary="Change parameters, all or none of them.",
    tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
    history=(("7.0.0", "Several parameters may be set at once."),),
    arguments=(Arg("parameter_value", "block", multiple=True, arguments=(Arg("parameter"), Arg("value"))),),
)
def config_set(session: Session, request: Request) -> Reply:
    if len(request) % 2:
        raise ErrorReply(SYNTAX_ERROR)
    server = session.server
    pairs = [(_text(name), _text(value)) for name, value in zip(request[2::2], request[3::2], strict=True)]
    values = _parse_pairs(pairs, server.settings)
    _check_together(values, server.settings)
    _check_room(values)
    changed = change_settings(server, values)
    if changed:
        log.info("settings changed", settings=changed, session_id=session.id)
    return OK


def _parse_pairs(pairs: list[tuple[str, str]], settings: Settings) -> dict[str, Value]:
    """Return the settings that the pairs stand for. Raise `ErrorReply` if one of them is wrong."""
    parameters: dict[str, Parameter] = {}
    for name, _ in pairs:
        parameter = find(name)
        if parameter is None:
            raise ErrorReply(f"ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
        if not parameter.runtime:
            raise _failed(name, "can't set immutable config")
        if parameter.name in parameters:
            raise _failed(name, "duplicate parameter")
        parameters[parameter.name] = parameter
    values: dict[str, Value] = {}
    for (name, text), parameter in zip(pairs, parameters.values(), strict=True):
        try:
            values |= parameter.parse(text, settings)
        except ValueError as error:
            raise _failed(name, str(error)) from None
    return values


def _check_together(values: dict[str, Value], settings: Settings) -> None:
    """Raise `ErrorReply` if settings would contradict each other that do not yet."""
    known = contradictions(settings)
    for name, sentence in contradictions(settings.replaced(values)):
        if (name, sentence) not in known:
            raise _failed(name, sentence)


def _check_room(values: dict[str, Value]) -> None:
    """Raise `ErrorReply` if the system does not allow for as many clients."""
    wanted = values.get("server.maxclients")
    if isinstance(wanted, int) and (room := room_for_clients(wanted)) < wanted:
        raise _failed("maxclients", f"the limit of open files allows for {room} clients")


def _failed(name: str, reason: str) -> ErrorReply:
    return ErrorReply(f"ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")


@session_command(
    "CONFIG|RESETSTAT",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    complexity="O(1)",
    summary="Count everything that INFO counts from zero again.",
)
def config_resetstat(session: Session, request: Request) -> Reply:
    server = session.server
    server.stats.reset()
    for keyspace in server.store.keyspaces:
        keyspace.hits = keyspace.misses = 0
    server.sampler.reset()
    for spec in server.table.everything():
        spec.stats.reset()
    return OK


@session_command(
    "CONFIG|REWRITE",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.8.0",
    complexity="O(1)",
    summary="Write what CONFIG SET has changed into the file that the daemon was started with.",
)
def config_rewrite(session: Session, request: Request) -> Reply:
    server = session.server
    if server.config_file is None:
        raise ErrorReply("ERR The server is running without a config file")
    try:
        rewrite(server.config_file, server.settings, server.changed_settings)
    except RewriteError as error:
        log.error("settings not written", file=str(server.config_file), error=str(error))
        raise ErrorReply(f"ERR Rewriting config file: {error}") from error
    log.info("settings written", file=str(server.config_file), settings=sorted(server.changed_settings))
    return OK


COMMANDS: Final = (
    config,
    config_get,
    config_set,
    config_resetstat,
    config_rewrite,
    help_command("CONFIG", group="server", since="5.0.0"),
)
