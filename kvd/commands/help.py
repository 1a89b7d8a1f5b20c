"""HELP of every container: one line for each subcommand's form, one for what it does.

The lines come from the command table, so a subcommand cannot be missing from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd.commands.spec import CommandSpec, Flag, Request
from kvd.grammar import subcommand_syntax
from protocol.replies import ErrorReply, Reply, Simple

if TYPE_CHECKING:
    from kvd.session import Session

_INDENT = "    "


def help_command(
    container: str, *, group: str, since: str, categories: frozenset[str] = frozenset()
) -> CommandSpec:
    """Declare ``<container>|HELP``."""

    def handler(session: Session, request: Request) -> Reply:
        return help_lines(session.server.table.specs[container.encode()])

    return CommandSpec(
        name=f"{container}|HELP",
        arity=2,
        flags=Flag.LOADING | Flag.STALE,
        group=group,
        since=since,
        complexity="O(1)",
        summary="List the subcommands and what each does.",
        categories=categories,
        session_handler=handler,
    )


def help_lines(container: CommandSpec) -> list[Simple]:
    """Return what HELP answers for a container, as simple strings, as Redis does."""
    lines = [f"{container.name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for spec in container.subcommands.values():
        lines += [subcommand_syntax(spec), _INDENT + spec.summary]
    return [Simple(line.encode()) for line in lines]


def subcommand_error(request: Request) -> ErrorReply:
    """Return Redis's refusal of a subcommand that has too many arguments or ones that do not go together."""
    shown = request[1][:128].decode("utf-8", "surrogateescape")
    container = request[0].decode("utf-8", "surrogateescape").upper()
    return ErrorReply(
        f"ERR unknown subcommand or wrong number of arguments for '{shown}'. Try {container} HELP."
    )
