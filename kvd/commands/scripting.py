"""EVAL, EVALSHA and SCRIPT: scripts in Lua, see `kvd.scripting`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvd.commands.arguments import parse_integer
from kvd.commands.help import help_command
from kvd.commands.spec import Arg, CommandSpec, Flag, KeyCount, Request, container, session_command
from kvd.scripting.engine import NO_SCRIPT
from protocol.replies import OK, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session

_EVAL: Final = (
    Flag.NOSCRIPT
    | Flag.STALE
    | Flag.SKIP_MONITOR
    | Flag.MAY_REPLICATE
    | Flag.NO_MANDATORY_KEYS
    | Flag.MOVABLEKEYS
    | Flag.MAY_WRITE
)
_EVAL_RO: Final = (
    Flag.NOSCRIPT | Flag.STALE | Flag.SKIP_MONITOR | Flag.NO_MANDATORY_KEYS | Flag.MOVABLEKEYS | Flag.READONLY
)
# What a script does to its keys cannot be told, so the most is taken.
_KEYS: Final = (KeyCount(2, 3, ("RW", "access", "update")),)
_KEYS_RO: Final = (KeyCount(2, 3, ("RO", "access")),)
_SHA1_DIGITS: Final = 40
_COMPLEXITY: Final = "Depends on the script that is executed."


def _arguments(first: str) -> tuple[Arg, ...]:
    return (
        Arg(first),
        Arg("numkeys", "integer"),
        Arg("key", "key", optional=True, multiple=True),
        Arg("arg", optional=True, multiple=True),
    )


def _declaration(since: str, first: str, *, read_only: bool) -> dict[str, Any]:
    return {
        "arity": -3,
        "flags": _EVAL_RO if read_only else _EVAL,
        "keys": _KEYS_RO if read_only else _KEYS,
        "group": "scripting",
        "since": since,
        "complexity": _COMPLEXITY,
        "arguments": _arguments(first),
    }


@session_command("EVAL", summary="Run a script in Lua.", **_declaration("2.6.0", "script", read_only=False))
def eval_(session: Session, request: Request) -> Reply:
    keys, arguments = _split(request)
    return session.server.scripts.evaluate(session, request[1], keys, arguments, read_only=False)


@session_command(
    "EVALSHA",
    summary="Run a script of the cache, named by the SHA-1 of its text.",
    **_declaration("2.6.0", "sha1", read_only=False),
)
def evalsha(session: Session, request: Request) -> Reply:
    keys, arguments = _split_cached(request)
    return session.server.scripts.evaluate_cached(session, request[1], keys, arguments, read_only=False)


@session_command(
    "EVAL_RO",
    summary="Run a script in Lua that may not write.",
    **_declaration("7.0.0", "script", read_only=True),
)
def eval_ro(session: Session, request: Request) -> Reply:
    keys, arguments = _split(request)
    return session.server.scripts.evaluate(session, request[1], keys, arguments, read_only=True)


@session_command(
    "EVALSHA_RO",
    summary="Run a script of the cache that may not write.",
    **_declaration("7.0.0", "sha1", read_only=True),
)
def evalsha_ro(session: Session, request: Request) -> Reply:
    keys, arguments = _split_cached(request)
    return session.server.scripts.evaluate_cached(session, request[1], keys, arguments, read_only=True)


def _split(request: Request) -> tuple[Request, Request]:
    """Return the keys and the other arguments of a script."""
    count = parse_integer(request[2])
    if count > len(request) - 3:
        raise ErrorReply("ERR Number of keys can't be greater than number of args")
    if count < 0:
        raise ErrorReply("ERR Number of keys can't be negative")
    return request[3 : 3 + count], request[3 + count :]


def _split_cached(request: Request) -> tuple[Request, Request]:
    """Do as `_split`; what cannot be the SHA-1 of a script is refused first, as Redis does."""
    if len(request[1]) != _SHA1_DIGITS:
        raise ErrorReply(NO_SCRIPT)
    return _split(request)


# --- SCRIPT

script = container(
    "SCRIPT",
    arity=-2,
    group="scripting",
    since="2.6.0",
    complexity="Depends on subcommand.",
    summary="Manage the script cache and the script that runs.",
)


@session_command(
    "SCRIPT|LOAD",
    arity=3,
    flags=Flag.NOSCRIPT | Flag.STALE,
    group="scripting",
    since="2.6.0",
    complexity="O(N) with N being the length in bytes of the script body.",
    summary="Keep a script in the cache and return the SHA-1 of its text.",
    tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
    arguments=(Arg("script"),),
)
def script_load(session: Session, request: Request) -> Reply:
    return session.server.scripts.load(request[2])


@session_command(
    "SCRIPT|EXISTS",
    arity=-3,
    flags=Flag.NOSCRIPT,
    group="scripting",
    since="2.6.0",
    complexity=(
        "O(N) with N being the number of scripts to check (so checking a single script is an O(1) operation)."
    ),
    summary="Tell for each digest whether its script is in the cache.",
    tips=("request_policy:all_shards", "response_policy:agg_logical_and"),
    arguments=(Arg("sha1", multiple=True),),
)
def script_exists(session: Session, request: Request) -> Reply:
    scripts = session.server.scripts
    return [int(scripts.is_cached(digest)) for digest in request[2:]]


@session_command(
    "SCRIPT|FLUSH",
    arity=-2,
    flags=Flag.NOSCRIPT,
    group="scripting",
    since="2.6.0",
    complexity="O(N) with N being the number of scripts in cache",
    summary="Forget all scripts. Both modes are done at once.",
    tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
    history=(("6.2.0", "Added the `ASYNC` and `SYNC` flushing mode modifiers."),),
    arguments=(
        Arg(
            "async",
            "oneof",
            optional=True,
            since="6.2.0",
            arguments=(Arg("async", "pure-token", "ASYNC"), Arg("sync", "pure-token", "SYNC")),
        ),
    ),
)
def script_flush(session: Session, request: Request) -> Reply:
    if len(request) > 3 or (len(request) == 3 and request[2].upper() not in {b"ASYNC", b"SYNC"}):
        raise ErrorReply("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
    session.server.scripts.flush()
    return OK


@session_command(
    "SCRIPT|KILL",
    arity=2,
    flags=Flag.NOSCRIPT | Flag.ALLOW_BUSY,
    group="scripting",
    since="2.6.0",
    complexity="O(1)",
    summary="End the script that runs for too long, if it has written nothing.",
    tips=("request_policy:all_shards", "response_policy:one_succeeded"),
)
def script_kill(session: Session, request: Request) -> Reply:
    session.server.scripts.kill()
    return OK


@session_command(
    "SCRIPT|DEBUG",
    arity=3,
    flags=Flag.NOSCRIPT,
    group="scripting",
    since="3.2.0",
    complexity="O(1)",
    summary="Refused: there is no debugger for scripts.",
    arguments=(
        Arg(
            "mode",
            "oneof",
            arguments=(
                Arg("yes", "pure-token", "YES"),
                Arg("sync", "pure-token", "SYNC"),
                Arg("no", "pure-token", "NO"),
            ),
        ),
    ),
)
def script_debug(session: Session, request: Request) -> Reply:
    mode = request[2].upper()
    if mode == b"NO":
        return OK
    if mode in {b"YES", b"SYNC"}:
        raise ErrorReply("ERR kvd has no debugger for scripts")
    raise ErrorReply("ERR Use SCRIPT DEBUG YES/SYNC/NO")


COMMANDS: Final[tuple[CommandSpec, ...]] = (
    eval_,
    evalsha,
    eval_ro,
    evalsha_ro,
    script,
    script_load,
    script_exists,
    script_flush,
    script_kill,
    script_debug,
    help_command("SCRIPT", group="scripting", since="5.0.0"),
)
