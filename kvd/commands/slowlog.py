"""SLOWLOG: the commands that took longest, see `kvd.slowlog`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.commands.arguments import parse_integer
from kvd.commands.help import help_command, subcommand_error
from kvd.commands.spec import Arg, Flag, Request, container, session_command
from protocol.replies import OK, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session

_ADMIN: Final = Flag.ADMIN | Flag.LOADING | Flag.STALE
_ENTRIES_BY_DEFAULT: Final = 10

slowlog = container(
    "SLOWLOG",
    arity=-2,
    group="server",
    since="2.2.12",
    complexity="Depends on subcommand.",
    summary="Look at the log of slow commands.",
)


@session_command(
    "SLOWLOG|GET",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="2.2.12",
    complexity="O(N) where N is the number of entries returned",
    summary="Return the newest entries: id, time, microseconds, arguments, address and name of the client.",
    tips=("request_policy:all_nodes", "nondeterministic_output"),
    history=(("4.0.0", "Entries have the client's address, port and name."),),
    arguments=(Arg("count", "integer", optional=True),),
)
def slowlog_get(session: Session, request: Request) -> Reply:
    if len(request) > 3:
        raise subcommand_error(request)
    entries = list(session.server.slowlog.entries)
    count = _parse_count(request[2]) if len(request) == 3 else _ENTRIES_BY_DEFAULT
    if count >= 0:
        entries = entries[:count]
    return [
        [
            entry.id,
            entry.at_seconds,
            entry.microseconds,
            entry.arguments,
            entry.address,
            entry.client_name,
        ]
        for entry in entries
    ]


def _parse_count(text: bytes) -> int:
    refusal = "ERR count should be greater than or equal to -1"
    count = parse_integer(text, refusal)
    if count < -1:
        raise ErrorReply(refusal)
    return count


@session_command(
    "SLOWLOG|LEN",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.2.12",
    complexity="O(1)",
    summary="Return how many entries the log holds.",
    tips=("request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"),
)
def slowlog_len(session: Session, request: Request) -> Reply:
    return len(session.server.slowlog.entries)


@session_command(
    "SLOWLOG|RESET",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.2.12",
    complexity="O(N) where N is the number of entries in the slowlog",
    summary="Forget all entries.",
    tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
)
def slowlog_reset(session: Session, request: Request) -> Reply:
    session.server.slowlog.reset()
    return OK


COMMANDS: Final = (
    slowlog,
    slowlog_get,
    slowlog_len,
    slowlog_reset,
    help_command("SLOWLOG", group="server", since="6.2.0"),
)
