"""What is on the disk: copies of it (SAVE, BGSAVE), waiting for it (WAITAOF), and the way out (SHUTDOWN).

Every acknowledged write is with the operating system already, so nothing here saves data that would be
lost otherwise: SAVE and BGSAVE make a checkpoint (`kvd.checkpoints`), and BGREWRITEAOF has nothing to do.

Source: Redis 7.2 SAVE, BGSAVE, BGREWRITEAOF, LASTSAVE, WAITAOF, SHUTDOWN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.commands.arguments import SYNTAX_ERROR, parse_integer
from kvd.commands.client import parse_timeout_ms
from kvd.commands.spec import Arg, Flag, Request, session_command
from kvd.waiting import Waiting
from protocol.replies import NO_REPLY, OK, ErrorReply, Reply, Simple
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.peering.peers import Peers
    from kvd.session import Session

_SAVE: Final = Flag.ADMIN | Flag.NOSCRIPT | Flag.NO_ASYNC_LOADING
_IN_PROGRESS: Final = "ERR Background save already in progress"


@session_command(
    "SAVE",
    arity=1,
    flags=_SAVE | Flag.NO_MULTI,
    group="server",
    since="1.0.0",
    complexity="O(N) where N is the total number of keys in all databases",
    summary="Make a checkpoint of the store and answer when it is on the disk.",
)
def save(session: Session, request: Request) -> Reply:
    checkpoints = session.server.checkpoints
    if checkpoints.running_seconds is not None:
        raise ErrorReply(_IN_PROGRESS)
    waiting = Waiting(session)
    checkpoints.start(lambda error: waiting.answer(OK if error is None else ErrorReply(f"ERR {error}")))
    return NO_REPLY


@session_command(
    "BGSAVE",
    arity=-1,
    flags=_SAVE,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Make a checkpoint of the store; LASTSAVE and INFO tell when it is done.",
    history=(("3.2.2", "SCHEDULE is understood."),),
    arguments=(Arg("schedule", "pure-token", "SCHEDULE", optional=True, since="3.2.2"),),
)
def bgsave(session: Session, request: Request) -> Reply:
    if len(request) > 2 or (len(request) == 2 and request[1].upper() != b"SCHEDULE"):
        raise ErrorReply(SYNTAX_ERROR)
    checkpoints = session.server.checkpoints
    if checkpoints.running_seconds is not None:
        raise ErrorReply(_IN_PROGRESS)
    checkpoints.start(_ignore)
    return Simple(b"Background saving started")


def _ignore(error: Exception | None) -> None:
    """Leave it to INFO to tell how a background checkpoint went."""


@session_command(
    "LASTSAVE",
    arity=1,
    flags=Flag.LOADING | Flag.STALE | Flag.FAST,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Return when the last checkpoint was made, in seconds since the epoch.",
    categories=frozenset({"admin", "dangerous"}),
    tips=("nondeterministic_output",),
)
def lastsave(session: Session, request: Request) -> Reply:
    return session.server.checkpoints.saved_at_seconds


@session_command(
    "BGREWRITEAOF",
    arity=1,
    flags=_SAVE,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Accepted for compatibility: the store compacts its files by itself.",
)
def bgrewriteaof(session: Session, request: Request) -> Reply:
    return Simple(b"Background append only file rewriting started")


# --- WAITAOF


@session_command(
    "WAITAOF",
    arity=4,
    flags=Flag.BLOCKING,
    group="generic",
    since="7.2.0",
    complexity="O(1)",
    summary="Wait until what was written here is on the disk itself, and on those of so many other members.",
    categories=frozenset({"connection"}),
    tips=("request_policy:all_shards", "response_policy:agg_min"),
    arguments=(Arg("numlocal", "integer"), Arg("numreplicas", "integer"), Arg("timeout", "integer")),
)
def waitaof(session: Session, request: Request) -> Reply:
    wanted_local = parse_integer(request[1])
    if wanted_local not in (0, 1):
        raise ErrorReply("ERR value is out of range, value must between 0 and 1")
    wanted_replicas = parse_integer(request[2])
    if wanted_replicas < 0:
        raise ErrorReply("ERR value is out of range, must be positive")
    timeout_ms = parse_timeout_ms(request[3])
    state = _OnDisk(
        session.server.peers,
        session.keyspace.group,
        is_done=session.server.settings.storage.durability == "always",
    )
    if not session.may_suspend or state.is_met(wanted_local, wanted_replicas):
        return state.reply()
    waiting = Waiting(session, state.reply)
    waiting.limit(timeout_ms)

    def answer_if_met() -> bool:
        if state.is_met(wanted_local, wanted_replicas):
            waiting.answer(state.reply())
        return waiting.is_over

    def synced(error: StorageError | None) -> None:
        try:
            if error is not None:
                raise error
            state.local = 1
            answer_if_met()
        except StorageError as failure:
            waiting.answer(ErrorReply(f"ERR {failure}"))

    session.server.sync_queue.wait(synced)
    if state.peers is not None and wanted_replicas:
        state.peers.wait_for(lambda: waiting.is_over, answer_if_met)
        state.peers.ask_for_claims()
    return NO_REPLY


class _OnDisk:
    """Whether what was written here is on this node's disk, and on how many others', as WAITAOF counts."""

    def __init__(self, peers: Peers | None, group: int, *, is_done: bool) -> None:
        self.peers = peers
        self.local = int(is_done)
        self._replicas = _nobody if peers is None else peers.having_written(group)

    def is_met(self, local: int, replicas: int) -> bool:
        return local <= self.local and replicas <= self._replicas()

    def reply(self) -> Reply:
        return [self.local, self._replicas()]


def _nobody() -> int:
    return 0


# --- SHUTDOWN

_SHUTDOWN_WORDS: Final = frozenset({b"NOSAVE", b"SAVE", b"NOW", b"FORCE", b"ABORT"})


@session_command(
    "SHUTDOWN",
    arity=-1,
    flags=Flag.ADMIN | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.NO_MULTI | Flag.ALLOW_BUSY,
    group="server",
    since="1.0.0",
    complexity=(
        "O(N) when saving, where N is the total number of keys in all databases when saving data, "
        "otherwise O(1)"
    ),
    summary="Stop the daemon in order; with SAVE make a checkpoint first.",
    history=(("7.0.0", "NOW, FORCE and ABORT are understood."),),
    arguments=(
        Arg(
            "nosave_save",
            "oneof",
            optional=True,
            arguments=(Arg("nosave", "pure-token", "NOSAVE"), Arg("save", "pure-token", "SAVE")),
        ),
        Arg("now", "pure-token", "NOW", optional=True, since="7.0.0"),
        Arg("force", "pure-token", "FORCE", optional=True, since="7.0.0"),
        Arg("abort", "pure-token", "ABORT", optional=True, since="7.0.0"),
    ),
)
def shutdown(session: Session, request: Request) -> Reply:
    words = {word.upper() for word in request[1:]}
    if words - _SHUTDOWN_WORDS or {b"SAVE", b"NOSAVE"} <= words or (b"ABORT" in words and len(words) > 1):
        raise ErrorReply(SYNTAX_ERROR)
    if b"ABORT" in words:
        # A shutdown begins between two ticks and is not held up by anything, so it is never in progress.
        raise ErrorReply("ERR No shutdown in progress.")
    server = session.server
    if server.scripts.running is not None and b"NOSAVE" not in words:
        raise server.scripts.busy_error()
    if b"SAVE" not in words:
        server.scripts.abandon()  # one that never ends would hold the last tick open for ever
        server.stop()
        return NO_REPLY
    if server.checkpoints.running_seconds is not None:
        raise ErrorReply(_IN_PROGRESS)
    waiting = Waiting(session)

    def saved(error: Exception | None) -> None:
        if error is None or b"FORCE" in words:
            server.stop()
        else:
            waiting.answer(ErrorReply("ERR Errors trying to SHUTDOWN. Check logs."))

    server.checkpoints.start(saved)
    return NO_REPLY


COMMANDS: Final = (save, bgsave, lastsave, bgrewriteaof, waitaof, shutdown)
