"""What clients ask about masters, replicas and clusters of Redis's kind, of which kvd has none.

ROLE answers as a master without replicas, also where there are peers: clients that find replicas in it read
from them, at the port that it names. WAIT counts peers as Redis counts replicas: those that carry the group
of the connection's namespace. The commands that would make a replica are refused; the cluster's say what an
instance without cluster support says, which clients understand.

Source: Redis 7.2 ROLE, WAIT, REPLICAOF, and the replies of an instance with ``cluster-enabled no``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.commands.arguments import parse_integer
from kvd.commands.client import parse_timeout_ms
from kvd.commands.peers import answer_when
from kvd.commands.spec import Arg, CommandSpec, Flag, Request, container, session_command
from kvd.waiting import Waiting
from protocol.replies import NO_REPLY, OK, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session

NO_REPLICAS: Final = (
    "ERR kvd has no masters and replicas: its nodes are equal, all take writes and exchange them by gossip. "
    "Start one with kvd serve --join HOST:PORT to make it a member; for a copy of the data use BGSAVE"
)
_NO_CLUSTER: Final = "ERR This instance has cluster support disabled"


@session_command(
    "ROLE",
    arity=1,
    flags=Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.FAST,
    group="server",
    since="2.8.12",
    complexity="O(1)",
    summary="Answer as a master without replicas.",
    categories=frozenset({"admin", "dangerous"}),
)
def role(session: Session, request: Request) -> Reply:
    peers = session.server.peers
    return [b"master", 0 if peers is None else peers.offset(), []]


@session_command(
    "WAIT",
    arity=3,
    flags=Flag.NOSCRIPT,
    group="generic",
    since="3.0.0",
    complexity="O(1)",
    summary="Wait until so many other members durably have what was written here; return how many have.",
    categories=frozenset({"connection"}),
    tips=("request_policy:all_shards", "response_policy:agg_min"),
    arguments=(Arg("numreplicas", "integer"), Arg("timeout", "integer")),
)
def wait(session: Session, request: Request) -> Reply:
    wanted = parse_integer(request[1])
    timeout_ms = parse_timeout_ms(request[2])
    peers = session.server.peers
    if peers is None:
        if wanted <= 0 or not session.may_suspend:
            return 0
        Waiting(session, lambda: 0).limit(timeout_ms)
        return NO_REPLY
    count = peers.having_written(session.keyspace.group)
    covering = count()
    if covering >= wanted or not session.may_suspend:
        return covering
    waiting = Waiting(session, count)
    waiting.limit(timeout_ms)
    answer_when(peers, waiting, lambda: count() >= wanted, count)
    peers.ask_for_claims()
    return NO_REPLY


# --- becoming a replica

_REPLICA_ARGUMENTS: Final = (
    Arg(
        "args",
        "oneof",
        arguments=(
            Arg("host-port", "block", arguments=(Arg("host"), Arg("port", "integer"))),
            Arg(
                "no-one",
                "block",
                arguments=(Arg("no", "pure-token", "NO"), Arg("one", "pure-token", "ONE")),
            ),
        ),
    ),
)


def _refuse_to_follow(session: Session, request: Request) -> Reply:
    if request[1].upper() == b"NO" and request[2].upper() == b"ONE":
        return OK  # it follows no one already
    raise ErrorReply(NO_REPLICAS)


replicaof = CommandSpec(
    name="REPLICAOF",
    arity=3,
    flags=Flag.ADMIN | Flag.NOSCRIPT | Flag.STALE | Flag.NO_ASYNC_LOADING,
    group="server",
    since="5.0.0",
    complexity="O(1)",
    summary="Refused, except NO ONE: kvd has no replicas that follow a master.",
    arguments=_REPLICA_ARGUMENTS,
    session_handler=_refuse_to_follow,
)

slaveof = CommandSpec(
    name="SLAVEOF",
    arity=3,
    flags=Flag.ADMIN | Flag.NOSCRIPT | Flag.STALE | Flag.NO_ASYNC_LOADING,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Refused, except NO ONE: kvd has no replicas that follow a master.",
    arguments=_REPLICA_ARGUMENTS,
    deprecated_since="5.0.0",
    replaced_by="`REPLICAOF`",
    session_handler=_refuse_to_follow,
)


# --- cluster


def _refuse_cluster(session: Session, request: Request) -> Reply:
    raise ErrorReply(_NO_CLUSTER)


def _cluster_query(
    name: str,
    *,
    arity: int = 2,
    since: str = "3.0.0",
    complexity: str = "O(1)",
    tips: tuple[str, ...] = ("nondeterministic_output",),
    arguments: tuple[Arg, ...] = (),
    flags: Flag = Flag.STALE,
    deprecated_since: str | None = None,
    replaced_by: str | None = None,
) -> CommandSpec:
    """Declare a question about a cluster that clients ask to find out whether there is one."""
    return CommandSpec(
        name=f"CLUSTER|{name}",
        arity=arity,
        flags=flags,
        group="cluster",
        since=since,
        complexity=complexity,
        summary="Refused: kvd is no Redis Cluster.",
        tips=tips,
        arguments=arguments,
        deprecated_since=deprecated_since,
        replaced_by=replaced_by,
        session_handler=_refuse_cluster,
    )


cluster = container(
    "CLUSTER",
    arity=-2,
    group="cluster",
    since="3.0.0",
    complexity="Depends on subcommand.",
    summary="Refused: kvd is no Redis Cluster.",
)

_PER_NODE: Final = "O(N) where N is the total number of Cluster nodes"

_CLUSTER_QUERIES: Final = (
    _cluster_query("HELP", since="5.0.0", tips=(), flags=Flag.LOADING | Flag.STALE),
    _cluster_query("INFO"),
    _cluster_query("LINKS", since="7.0.0", complexity=_PER_NODE),
    _cluster_query("MYID", tips=()),
    _cluster_query("MYSHARDID", since="7.2.0"),
    _cluster_query("NODES", complexity=_PER_NODE),
    _cluster_query("SHARDS", since="7.0.0", complexity="O(N) where N is the total number of cluster nodes"),
    _cluster_query("SLOTS", complexity=_PER_NODE, deprecated_since="7.0.0", replaced_by="`CLUSTER SHARDS`"),
    _cluster_query(
        "KEYSLOT",
        arity=3,
        complexity="O(N) where N is the number of bytes in the key",
        tips=(),
        arguments=(Arg("key"),),
    ),
    _cluster_query("COUNTKEYSINSLOT", arity=3, tips=(), arguments=(Arg("slot", "integer"),)),
    _cluster_query(
        "GETKEYSINSLOT",
        arity=4,
        complexity="O(log(N)) where N is the number of requested keys",
        arguments=(Arg("slot", "integer"), Arg("count", "integer")),
    ),
)


def _cluster_connection_command(name: str, flags: Flag, summary: str) -> CommandSpec:
    return CommandSpec(
        name=name,
        arity=1,
        flags=flags,
        group="cluster",
        since="3.0.0",
        complexity="O(1)",
        summary=summary,
        categories=frozenset({"connection"}),
        session_handler=_refuse_cluster,
    )


_LIGHT: Final = Flag.LOADING | Flag.STALE | Flag.FAST

asking = _cluster_connection_command("ASKING", Flag.FAST, "Refused: kvd is no Redis Cluster.")
readonly = _cluster_connection_command("READONLY", _LIGHT, "Refused: kvd is no Redis Cluster.")
readwrite = _cluster_connection_command("READWRITE", _LIGHT, "Refused: kvd is no Redis Cluster.")


COMMANDS: Final = (
    role,
    wait,
    replicaof,
    slaveof,
    cluster,
    *_CLUSTER_QUERIES,
    asking,
    readonly,
    readwrite,
)
