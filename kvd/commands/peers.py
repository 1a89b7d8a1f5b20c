"""What clients ask about the other nodes: who has their writes, tokens for their next node, members, conflicts.

On a single node all of it answers as in a cluster of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from kvd.commands.arguments import parse_integer
from kvd.commands.client import parse_timeout_ms
from kvd.commands.help import help_command
from kvd.commands.spec import Arg, Flag, Request, container, session_command
from kvd.dispatch import write_refusal
from kvd.peering import tokens
from kvd.peering.report import Bootstrap, CatchUp, GroupReport, MemberReport, member_reports, report
from kvd.waiting import Waiting
from protocol.replies import NO_REPLY, OK, ErrorReply, Reply
from replication.node import StoreFailed
from replication.rejoin import Standing
from storage.changes import Conflict, Kind, Stamp

if TYPE_CHECKING:
    from kvd.peering.peers import Peers
    from kvd.server import Server
    from kvd.session import Session
    from replication.verification import Outcome

log = structlog.get_logger()

_GROUP: Final = "peers"
_SINCE: Final = "0.1.0"
_QUESTION: Final = Flag.LOADING | Flag.STALE | Flag.FAST
_ADMIN: Final = Flag.ADMIN | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.NO_MULTI
_CONFLICTS_SHOWN: Final = 10
_CONFLICTS_MAX: Final = 1024
_PREFIX_DIGITS_MIN: Final = 4
_DATABASES: Final = 16
_NO_PEERS: Final = "ERR this node has no peers; see peers.port in docs/configuration.md"
_VERIFY_SECONDS: Final = 120.0


def _peers(session: Session) -> Peers:
    peers = session.server.peers
    if peers is None:
        raise ErrorReply(_NO_PEERS)
    return peers


def answer_when(
    peers: Peers, waiting: Waiting, is_met: Callable[[], bool], reply: Callable[[], Reply]
) -> None:
    """Answer a suspended command as soon as `is_met` holds."""

    def try_to_answer() -> bool:
        if not is_met():
            return False
        waiting.answer(reply())
        return True

    peers.wait_for(lambda: waiting.is_over, try_to_answer)


@session_command(
    "KV.WAITALL",
    arity=2,
    flags=Flag.NOSCRIPT,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of members.",
    summary="Wait until all other members durably have what was written here; return how many do, and of how many.",
    categories=frozenset({"connection"}),
    arguments=(Arg("timeout", "integer"),),
)
def waitall(session: Session, request: Request) -> Reply:
    timeout_ms = parse_timeout_ms(request[1])
    peers = session.server.peers
    if peers is None:
        return [0, 0]
    needed = peers.written()

    def reply() -> Reply:
        return [peers.covering_theirs(needed), peers.others()]

    def is_met() -> bool:
        return peers.covering_theirs(needed) == peers.others()

    if is_met() or not session.may_suspend:
        return reply()
    waiting = Waiting(session, reply)
    waiting.limit(timeout_ms)
    answer_when(peers, waiting, is_met, reply)
    peers.ask_for_claims()
    return NO_REPLY


# --- sessions that move from node to node


@session_command(
    "KV.TOKEN",
    arity=1,
    flags=Flag.READONLY | Flag.FAST,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of origins that are not sealed, about one a member.",
    summary="Return a token for all that this connection has written or may have read here, for KV.SYNCTO elsewhere.",
    categories=frozenset({"connection"}),
)
def token(session: Session, request: Request) -> Reply:
    peers = session.server.peers
    return tokens.encode(b"", {}) if peers is None else tokens.encode(peers.cluster, peers.seen())


@session_command(
    "KV.SYNCTO",
    arity=3,
    flags=Flag.NOSCRIPT | Flag.READONLY,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of origins in the token.",
    summary="Wait until this node has all that a token stands for; return 1, or 0 when the time is over.",
    categories=frozenset({"connection"}),
    arguments=(Arg("token"), Arg("timeout", "integer")),
)
def syncto(session: Session, request: Request) -> Reply:
    timeout_ms = parse_timeout_ms(request[2])
    peers = session.server.peers
    try:
        wanted = tokens.decode(b"" if peers is None else peers.cluster, request[1])
    except tokens.BadToken as error:
        raise ErrorReply(f"ERR {error}") from None
    if peers is None:
        return 1

    def is_met() -> bool:
        return peers.covers(wanted)

    if is_met():
        return 1
    if not session.may_suspend:
        return 0
    waiting = Waiting(session, lambda: int(is_met()))
    waiting.limit(timeout_ms)
    answer_when(peers, waiting, is_met, lambda: 1)
    return NO_REPLY


# --- looking


@session_command(
    "KV.MEMBERS",
    arity=1,
    flags=_QUESTION,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of members.",
    summary="Return what this node knows of every member of its cluster, itself first.",
)
def members(session: Session, request: Request) -> Reply:
    return _members(session.server)


def _members(server: Server) -> Reply:
    peers = server.peers
    if peers is None:
        return []
    return [_shown(member) for member in member_reports(peers, trio.current_time())]


def _shown(member: MemberReport) -> dict[bytes, Reply]:
    return {
        b"id": member.node.hex().encode(),
        b"self": int(member.is_self),
        b"state": member.state.encode(),
        b"linked": int(member.is_linked),
        b"addresses": [address.encode() for address in member.addresses],
        b"zone": member.zone.encode(),
        b"software": member.software.encode(),
        b"rtt_us": _scaled(member.rtt_seconds, 1e6),
        b"clock_offset_ms": _scaled(member.offset_seconds, 1e3),
        b"heard_ms": _scaled(member.heard_seconds, 1e3),
        b"lag_dots": member.lag_dots,
        b"lag_ms": _scaled(member.lag_seconds, 1e3),
        b"queue_bytes": member.queue_bytes,
        b"behind": int(member.is_behind),
        b"synced_ms": _scaled(member.synced_seconds, 1e3),
        b"blocks_gc": int(member.blocks_gc),
        b"groups": list(member.groups),
    }


def _scaled(seconds: float | None, factor: float) -> int | None:
    return None if seconds is None else round(seconds * factor)


@session_command(
    "KV.CONFLICTS",
    arity=-1,
    flags=Flag.READONLY | Flag.FAST,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of conflicts shown.",
    summary="Return the last writes that lost against others whose writer had not seen them, newest first.",
    categories=frozenset({"dangerous"}),  # it shows keys of all namespaces
    arguments=(Arg("count", "integer", optional=True),),
)
def conflicts(session: Session, request: Request) -> Reply:
    if len(request) > 2:
        raise ErrorReply("ERR wrong number of arguments for 'kv.conflicts' command")
    count = parse_integer(request[1]) if len(request) == 2 else _CONFLICTS_SHOWN
    if not 1 <= count <= _CONFLICTS_MAX:
        raise ErrorReply(f"ERR the count must be between 1 and {_CONFLICTS_MAX}")
    peers = session.server.peers
    return [] if peers is None else [_conflict(one) for one in peers.replica.conflicts(count)]


def _conflict(conflict: Conflict) -> dict[bytes, Reply]:
    namespace, key = conflict.place[:16], conflict.place[16:]
    number = int.from_bytes(namespace, "big")
    return {
        b"at_ms": conflict.at_ms,
        b"namespace": b"%d" % number if number < _DATABASES else namespace.hex().encode(),
        b"key": key,
        b"register": _kind_name(conflict.kind),
        b"winner": _stamp(conflict.winner),
        b"loser": _stamp(conflict.loser),
    }


def _kind_name(kind: int) -> bytes:
    try:
        return Kind(kind).name.lower().encode()
    except ValueError:
        return b"%d" % kind


def _stamp(stamp: Stamp) -> dict[bytes, Reply]:
    return {
        b"stamp": b"%d.%d" % (stamp.hlc >> 16, stamp.hlc & 0xFFFF),
        b"origin": stamp.origin.hex().encode(),
        b"sequence": stamp.seq,
    }


# --- administration: what `kvd cluster` asks for

kv_cluster = container(
    "KV.CLUSTER",
    arity=-2,
    group=_GROUP,
    since=_SINCE,
    complexity="Depends on subcommand.",
    summary="Look after the cluster that this node belongs to.",
)


@session_command(
    "KV.CLUSTER|MEMBERS",
    arity=2,
    flags=_QUESTION,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of members.",
    summary="The same as KV.MEMBERS.",
)
def cluster_members(session: Session, request: Request) -> Reply:
    return _members(session.server)


@session_command(
    "KV.CLUSTER|STATUS",
    arity=2,
    flags=_QUESTION,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of members.",
    summary="Return the state of this node in its cluster, and of every other member.",
)
def cluster_status(session: Session, request: Request) -> Reply:
    peers = _peers(session)
    found = report(peers, trio.current_time())
    return {
        b"cluster": found.cluster.hex().encode(),
        b"node": found.node.hex().encode(),
        b"standing": found.standing.encode(),
        b"writable": int(write_refusal(session.server) is None),
        b"refusal": None if found.refusal is None else found.refusal.encode(),
        b"bootstrap": None if found.bootstrap is None else _progress(found.bootstrap),
        b"catching_up": [_catch_up(one) for one in found.catching_up],
        b"partial_view": int(found.is_partial_view),
        b"half_synced": int(found.is_partial),
        b"clock_ok": int(found.clock_ok),
        b"clock_offset_ms": _scaled(found.clock_offset_seconds, 1e3),
        b"held_origins": found.held_origins,
        b"open_origins": found.open_origins,
        b"sealed_origins": found.sealed_origins,
        b"dots": found.applied_dots,
        b"durable_dots": found.durable_dots,
        b"conflicts": int(found.store.get("conflicts", 0)),
        b"divergences": int(found.counters.get("divergence_total", 0)),
        b"gc_blocked_by": [member.node.hex().encode() for member in found.members if member.blocks_gc],
        b"groups": [_group(group) for group in found.groups],
        b"members": [_shown(member) for member in found.members],
    }


def _group(group: GroupReport) -> dict[bytes, Reply]:
    return {
        b"group": group.group,
        b"standing": group.standing.encode(),
        b"refusal": None if group.refusal is None else group.refusal.encode(),
        b"bootstrap": None if group.bootstrap is None else _progress(group.bootstrap),
        b"members": group.members,
        b"linked": group.linked,
        b"lag_dots": group.lag_dots,
        b"dots": group.applied_dots,
        b"gc_blocked_by": [node.hex().encode() for node in group.blocked_by],
    }


def _catch_up(found: CatchUp) -> dict[bytes, Reply]:
    return {b"group": found.group, b"from": found.node.hex().encode(), **_progress(found.progress)}


def _progress(bootstrap: Bootstrap) -> dict[bytes, Reply]:
    return {
        b"percent": round(100 * bootstrap.fraction, 1),
        b"changes": bootstrap.changes,
        b"bytes": bootstrap.bytes,
        b"elapsed_ms": _scaled(bootstrap.seconds, 1e3),
        b"eta_ms": _scaled(bootstrap.eta_seconds, 1e3),
    }


@session_command(
    "KV.CLUSTER|LEAVE",
    arity=2,
    flags=_ADMIN,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of members.",
    summary="Leave the cluster for good and stop; return whether another member has all that was written here.",
)
def cluster_leave(session: Session, request: Request) -> Reply:
    peers = _peers(session)
    waiting = Waiting(session)
    session.server.spawn(_leave, session.server, peers, waiting)
    return NO_REPLY


async def _leave(server: Server, peers: Peers, waiting: Waiting) -> None:
    try:
        handed_over = await peers.node.leave()
    except StoreFailed as error:
        waiting.answer(ErrorReply(f"ERR the departure could not be written down: {error}"))
        return
    waiting.answer(int(handed_over))
    server.stop()


@session_command(
    "KV.CLUSTER|REMOVE",
    arity=3,
    flags=_ADMIN | Flag.SHARED,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of members.",
    summary="Remove a member that will not come back; it is known by its id, or the first digits of it.",
    arguments=(Arg("node"),),
)
def cluster_remove(session: Session, request: Request) -> Reply:
    peers = _peers(session)
    _check_may_decide(session, peers)
    node = _find_member(peers, request[2])
    if not peers.replicator.roster.remove(node):
        raise ErrorReply("ERR that member is gone already")
    log.warning("member removed by a client", member=node.hex()[:8], session_id=session.id)
    return OK


@session_command(
    "KV.CLUSTER|CUT",
    arity=2,
    flags=_ADMIN | Flag.SHARED,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of held origins.",
    summary="Void what waits here and at most members because its stamps are far ahead; its node writes the values "
    "anew. KV.CLUSTER STATUS tells how many origins wait here: of others nothing is void, and the answer empty.",
)
def cluster_cut(session: Session, request: Request) -> Reply:
    peers = _peers(session)
    _check_may_decide(session, peers)
    cut = [(origin, upto) for origin in peers.held() if (upto := peers.replicator.cut(origin)) is not None]
    for origin, upto in cut:
        log.warning("origin cut by a client", origin=origin.hex()[:8], upto=upto, session_id=session.id)
    return [{b"origin": origin.hex().encode(), b"upto": upto} for origin, upto in cut]


def _check_may_decide(session: Session, peers: Peers) -> None:
    """Raise why nobody may write here, unless this node catches up: it may wait for just what is decided."""
    refusal = write_refusal(session.server)
    if refusal is not None and peers.standing is not Standing.REJOINING:
        raise refusal


def _find_member(peers: Peers, text: bytes) -> bytes:
    """Return the member whose id begins with these hex digits. Raise `ErrorReply` unless it is exactly one."""
    prefix = text.lower().decode("ascii", "replace")
    if len(prefix) < _PREFIX_DIGITS_MIN:
        raise ErrorReply(f"ERR give at least {_PREFIX_DIGITS_MIN} digits of the id; see KV.MEMBERS")
    own = peers.replicator.core.identity.node
    roster = peers.replicator.roster
    found = [node for node in (*roster.remaining(), *roster.departed()) if node.hex().startswith(prefix)]
    found = list(dict.fromkeys(found))
    if not found:
        raise ErrorReply("ERR no member's id begins like this; KV.MEMBERS, or `kvd cluster members`, has all")
    if len(found) > 1:
        raise ErrorReply("ERR several members' ids begin like this; give more digits")
    if found[0] == own:
        raise ErrorReply("ERR this is the node itself; use KV.CLUSTER LEAVE")
    return found[0]


@session_command(
    "KV.CLUSTER|VERIFY",
    arity=-2,
    flags=_ADMIN,
    group=_GROUP,
    since=_SINCE,
    complexity="O(N) where N is the number of records, in slices.",
    summary="Compare all records that both carry with every linked member, or with one, and mend what differs.",
    arguments=(Arg("node", optional=True),),
)
def cluster_verify(session: Session, request: Request) -> Reply:
    peers = _peers(session)
    if len(request) > 3:
        raise ErrorReply("ERR wrong number of arguments for 'kv.cluster|verify' command")
    nodes = [_find_member(peers, request[2])] if len(request) == 3 else sorted(peers.replicator.core.links)
    if not nodes:
        return []
    waiting = Waiting(session, lambda: ErrorReply("ERR not finished"))
    session.server.spawn(_verify, peers, nodes, waiting)
    return NO_REPLY


async def _verify(peers: Peers, nodes: list[bytes], waiting: Waiting) -> None:
    found: list[Reply] = []
    for node in nodes:
        outcomes: dict[int, Outcome | None] = {}
        for group in peers.groups_shared_with(node):
            outcomes[group] = await _compare(peers, node, group)
            if waiting.is_over:
                return
        found.append(_compared(node, outcomes))
    waiting.answer(found)


def _compared(node: bytes, outcomes: dict[int, Outcome | None]) -> dict[bytes, Reply]:
    """Return what is told of one member: `equal` is null if any group could not be compared."""
    equals = [None if outcome is None else outcome.equal for outcome in outcomes.values()]
    return {
        b"id": node.hex().encode(),
        b"equal": None if None in equals else int(all(equals)),
        b"differences": sum(outcome.differences for outcome in outcomes.values() if outcome is not None),
        b"groups": list(outcomes),
    }


async def _compare(peers: Peers, node: bytes, group: int) -> Outcome | None:
    """Return what a comparison of one group with one member found; None if it took too long."""
    outcomes: list[Outcome] = []
    done = trio.Event()

    def take(outcome: Outcome) -> None:
        outcomes.append(outcome)
        done.set()

    peers.node.verify(node, take, group=group)
    with trio.move_on_after(_VERIFY_SECONDS):
        await done.wait()
    return outcomes[0] if outcomes else None


_help = partial(help_command, group=_GROUP, since=_SINCE)

COMMANDS: Final = (
    waitall,
    token,
    syncto,
    members,
    conflicts,
    kv_cluster,
    cluster_members,
    cluster_status,
    cluster_leave,
    cluster_remove,
    cluster_cut,
    cluster_verify,
    _help("KV.CLUSTER"),
)
