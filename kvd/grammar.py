"""How a command is written, as one line of text: ``SET key value [NX | XX] [EX seconds | ...]``.

Made from the argument grammar of the command's declaration, so that HELP replies, the command
reference and COMMAND DOCS cannot disagree. The notation is that of Redis's documentation: brackets
for what may be left out, bars between alternatives, dots for what may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvd.commands.spec import Arg, CommandSpec


def syntax(spec: CommandSpec) -> str:
    """Return the whole line for a command: ``CLIENT KILL ip:port | ...``."""
    return " ".join([spec.name.replace("|", " "), *_arguments(spec.arguments)])


def subcommand_syntax(spec: CommandSpec) -> str:
    """Return the line for a subcommand without the name of its container."""
    return syntax(spec).partition(" ")[2]


def _arguments(arguments: Iterable[Arg]) -> list[str]:
    return [_argument(argument) for argument in arguments]


def _argument(argument: Arg) -> str:
    text = _repeated(argument)
    return f"[{text}]" if argument.optional else text


def _repeated(argument: Arg) -> str:
    text = _once(argument)
    if not argument.multiple:
        return text
    again = text if argument.multiple_token or not argument.token else _inner(argument)
    return f"{text} [{again} ...]"


def _once(argument: Arg) -> str:
    if argument.kind == "pure-token":
        return argument.token or argument.name
    inner = _inner(argument)
    if argument.token is None:
        return inner
    # An empty token is written as a pair of quotes, as Redis's own documentation does.
    return f"{argument.token or chr(34) * 2} {inner}"


def _inner(argument: Arg) -> str:
    if argument.kind == "oneof":
        alternatives = " | ".join(map(_repeated, argument.arguments))
        enclosed = argument.token is not None or argument.multiple or not argument.optional
        return f"<{alternatives}>" if enclosed else alternatives
    if argument.kind == "block":
        return " ".join(_arguments(argument.arguments))
    return argument.name
