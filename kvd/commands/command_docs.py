"""COMMAND: what commands there are and how they are written, from the command table alone.

Source: Redis 7.2 COMMAND and its subcommands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from kvd import command_info
from kvd.commands.arguments import SYNTAX_ERROR, parse_glob
from kvd.commands.help import help_command
from kvd.commands.spec import Arg, CommandSpec, Flag, Request, session_command
from protocol.replies import Encoded, ErrorReply, Reply, Set, Simple

if TYPE_CHECKING:
    from kvd.commands.table import CommandTable
    from kvd.session import Session

_ANYTIME: Final = Flag.LOADING | Flag.STALE
_CONNECTION: Final = frozenset({"connection"})
_UNORDERED: Final = ("nondeterministic_output_order",)
_NAMES: Final = (Arg("command-name", optional=True, multiple=True),)


@session_command(
    "COMMAND",
    arity=-1,
    flags=_ANYTIME,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the total number of Redis commands",
    summary="Describe every command as COMMAND INFO does.",
    categories=_CONNECTION,
    tips=_UNORDERED,
)
def command(session: Session, request: Request) -> Reply:
    return _prepared(session, _info_of_all)


def _info_of_all(table: CommandTable) -> list[Reply]:
    return [command_info.info(spec) for spec in table.specs.values()]


def _prepared(session: Session, describe: Callable[[CommandTable], Reply]) -> Reply:
    """Return what `describe` says of the table, encoded once for each protocol and kept.

    It takes milliseconds, and redis-cli asks at each start. Scripts get the values themselves.
    """
    table = session.server.table
    if session.is_script:
        return describe(table)
    prepared = table.prepared.get((session.proto, describe))
    if prepared is None:
        prepared = table.prepared[session.proto, describe] = Encoded(session.encode(describe(table)))
    return prepared


@session_command(
    "COMMAND|COUNT",
    arity=2,
    flags=_ANYTIME,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Return how many commands there are, subcommands not counted.",
    categories=_CONNECTION,
)
def command_count(session: Session, request: Request) -> Reply:
    return len(session.server.table.specs)


@session_command(
    "COMMAND|INFO",
    arity=-2,
    flags=_ANYTIME,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of commands to look up",
    summary="Describe some commands, or all, for clients: arity, flags, keys, categories.",
    categories=_CONNECTION,
    tips=_UNORDERED,
    history=(("7.0.0", "Without names it describes all commands."),),
    arguments=_NAMES,
)
def command_info_(session: Session, request: Request) -> Reply:
    if len(request) == 2:
        return _prepared(session, _info_of_all)
    found = (session.server.table.named(name) for name in request[2:])
    return [None if spec is None else command_info.info(spec) for spec in found]


@session_command(
    "COMMAND|DOCS",
    arity=-2,
    flags=_ANYTIME,
    group="server",
    since="7.0.0",
    complexity="O(N) where N is the number of commands to look up",
    summary="Describe some commands, or all, for people: purpose, arguments, cost.",
    categories=_CONNECTION,
    tips=_UNORDERED,
    arguments=_NAMES,
)
def command_docs(session: Session, request: Request) -> Reply:
    if len(request) == 2:
        return _prepared(session, _docs_of_all)
    return _docs(session.server.table.named(name) for name in request[2:])


def _docs_of_all(table: CommandTable) -> Reply:
    return _docs(table.specs.values())


def _docs(chosen: Iterable[CommandSpec | None]) -> Reply:
    return {spec.name.lower().encode(): command_info.docs(spec) for spec in chosen if spec is not None}


# --- LIST


@session_command(
    "COMMAND|LIST",
    arity=-2,
    flags=_ANYTIME,
    group="server",
    since="7.0.0",
    complexity="O(N) where N is the total number of Redis commands",
    summary="Return the names of all commands, or of those in a category or that match a pattern.",
    categories=_CONNECTION,
    tips=_UNORDERED,
    arguments=(
        Arg(
            "filterby",
            "oneof",
            token="FILTERBY",
            optional=True,
            arguments=(
                Arg("module-name", "string", "MODULE"),
                Arg("category", "string", "ACLCAT"),
                Arg("pattern", "pattern", "PATTERN"),
            ),
        ),
    ),
)
def command_list(session: Session, request: Request) -> Reply:
    table = session.server.table
    if len(request) == 2:
        return [_shown_name(spec) for spec in table.specs.values()]
    if len(request) != 5 or request[2].upper() != b"FILTERBY":
        raise ErrorReply(SYNTAX_ERROR)
    make = _FILTERS.get(request[3].upper())
    if make is None:
        raise ErrorReply(SYNTAX_ERROR)
    chosen = make(request[4])
    return [_shown_name(spec) for spec in table.everything() if chosen(spec)]


def _shown_name(spec: CommandSpec) -> bytes:
    return spec.name.lower().encode()


def _of_module(name: bytes) -> Callable[[CommandSpec], bool]:
    return _is_of_a_module


def _is_of_a_module(spec: CommandSpec) -> bool:
    return False  # kvd loads no modules


def _of_category(name: bytes) -> Callable[[CommandSpec], bool]:
    category = name.decode("utf-8", "replace").lower()
    return lambda spec: category in spec.acl_categories


def _of_pattern(pattern: bytes) -> Callable[[CommandSpec], bool]:
    glob = parse_glob(pattern.lower())
    return lambda spec: glob.matches(_shown_name(spec))


_FILTERS: Final = {b"MODULE": _of_module, b"ACLCAT": _of_category, b"PATTERN": _of_pattern}


# --- GETKEYS


@session_command(
    "COMMAND|GETKEYS",
    arity=-4,
    flags=_ANYTIME,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of arguments to the command",
    summary="Return the keys that a whole command names.",
    categories=_CONNECTION,
)
def command_getkeys(session: Session, request: Request) -> Reply:
    return [key for key, _ in _keys_of(session, request[2:])]


@session_command(
    "COMMAND|GETKEYSANDFLAGS",
    arity=-4,
    flags=_ANYTIME,
    group="server",
    since="7.0.0",
    complexity="O(N) where N is the number of arguments to the command",
    summary="Return the keys that a whole command names, and what it does to each.",
    categories=_CONNECTION,
)
def command_getkeysandflags(session: Session, request: Request) -> Reply:
    return [
        [key, Set(Simple(word.encode()) for word in access)] for key, access in _keys_of(session, request[2:])
    ]


def _keys_of(session: Session, asked: Request) -> list[tuple[bytes, tuple[str, ...]]]:
    try:
        spec = session.server.table.find(asked)
    except ErrorReply:
        raise ErrorReply("ERR Invalid command specified") from None
    if not spec.names_keys:
        raise ErrorReply("ERR The command has no key arguments")
    if not spec.accepts(len(asked)):
        raise ErrorReply("ERR Invalid number of arguments specified for command")
    found = spec.key_accesses(asked)
    if not found and Flag.NO_MANDATORY_KEYS not in spec.flags:
        raise ErrorReply("ERR Invalid arguments specified for command")
    return found


COMMANDS: Final = (
    command,
    command_count,
    command_docs,
    command_getkeys,
    command_getkeysandflags,
    command_info_,
    command_list,
    help_command("COMMAND", group="server", since="5.0.0", categories=_CONNECTION),
)
