"""Commands of Redis's replication that mean nothing among equal nodes: refused, with what there is instead.

Redis itself sends SYNC, PSYNC and REPLCONF, when somebody has told it to follow a kvd; what it is answered
stands in its log.

Source: Redis 7.2 FAILOVER, PSYNC, SYNC, REPLCONF, MIGRATE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.commands.replicas import NO_REPLICAS
from kvd.commands.spec import Arg, CommandSpec, Flag, KeyRange, Request, SessionHandler
from protocol.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session

_NO_FAILOVER: Final = (
    "ERR kvd has no master that could fail over: every node takes writes at all times, "
    "and clients may connect to any of them"
)
_NO_MIGRATION: Final = (
    "ERR MIGRATE is not supported: nodes exchange all keys by themselves. Copy keys to another server "
    "with DUMP and RESTORE, or with kvd export and kvd import"
)


def _refuse(text: str) -> SessionHandler:
    def refuse(session: Session, request: Request) -> Reply:
        raise ErrorReply(text)

    return refuse


def _internal(name: str, arity: int, flags: Flag, since: str, arguments: tuple[Arg, ...] = ()) -> CommandSpec:
    return CommandSpec(
        name=name,
        arity=arity,
        flags=Flag.ADMIN | Flag.NOSCRIPT | flags,
        group="server",
        since=since,
        complexity="",
        summary="Refused: kvd has no replicas that follow a master.",
        arguments=arguments,
        session_handler=_refuse(NO_REPLICAS),
    )


_TRANSFER: Final = Flag.NO_ASYNC_LOADING | Flag.NO_MULTI

sync = _internal("SYNC", 1, _TRANSFER, "1.0.0")
psync = _internal("PSYNC", -3, _TRANSFER, "2.8.0", (Arg("replicationid"), Arg("offset", "integer")))

replconf = CommandSpec(
    name="REPLCONF",
    arity=-1,
    flags=Flag.ADMIN | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.ALLOW_BUSY,
    group="server",
    since="3.0.0",
    complexity="O(1)",
    summary="Refused: kvd has no replicas that follow a master.",
    is_system=True,
    session_handler=_refuse(NO_REPLICAS),
)

failover = CommandSpec(
    name="FAILOVER",
    arity=-1,
    flags=Flag.ADMIN | Flag.NOSCRIPT | Flag.STALE,
    group="server",
    since="6.2.0",
    complexity="O(1)",
    summary="Refused: every node takes writes, so there is nothing to fail over.",
    arguments=(
        Arg(
            "target",
            "block",
            token="TO",
            optional=True,
            arguments=(
                Arg("host"),
                Arg("port", "integer"),
                Arg("force", "pure-token", token="FORCE", optional=True),
            ),
        ),
        Arg("abort", "pure-token", token="ABORT", optional=True),
        Arg("milliseconds", "integer", token="TIMEOUT", optional=True),
    ),
    session_handler=_refuse(_NO_FAILOVER),
)

_CREDENTIALS: Final = Arg(
    "authentication",
    "oneof",
    optional=True,
    arguments=(
        Arg("password", token="AUTH", optional=True, since="4.0.7"),
        Arg(
            "username_password",
            "block",
            token="AUTH2",
            optional=True,
            since="6.0.0",
            arguments=(Arg("username"), Arg("password")),
        ),
    ),
)

migrate = CommandSpec(
    name="MIGRATE",
    arity=-6,
    flags=Flag.WRITE | Flag.MOVABLEKEYS,
    keys=(KeyRange(3, access=("RW", "access", "delete")),),
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Refused: nodes exchange all keys by themselves.",
    categories=frozenset({"keyspace", "dangerous"}),
    tips=("nondeterministic_output",),
    history=(
        ("3.0.0", "The options `COPY` and `REPLACE`."),
        ("3.0.6", "The option `KEYS`."),
        ("4.0.7", "The option `AUTH`."),
        ("6.0.0", "The option `AUTH2`."),
    ),
    arguments=(
        Arg("host"),
        Arg("port", "integer"),
        Arg(
            "key_or_empty_string",
            "oneof",
            arguments=(Arg("key", "key"), Arg("empty_string", "pure-token", token="")),
        ),
        Arg("destination-db", "integer"),
        Arg("timeout", "integer"),
        Arg("copy", "pure-token", token="COPY", optional=True, since="3.0.0"),
        Arg("replace", "pure-token", token="REPLACE", optional=True, since="3.0.0"),
        _CREDENTIALS,
        Arg("key", "key", token="KEYS", optional=True, multiple=True, since="3.0.6"),
    ),
    session_handler=_refuse(_NO_MIGRATION),
)


COMMANDS: Final = (failover, migrate, psync, replconf, sync)
