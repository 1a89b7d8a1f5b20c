"""The daemon's side of a running script: its commands, its time, its permissions.

A script acts as the client that called it: same user, same keyspace to begin with, same address in the slow
log. It has a session of its own all the same, because SELECT and redis.setresp in a script do not outlive it.

Source: Redis 7.2 scripting, for what is refused and in which words.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from kvd import dispatch
from kvd.commands.spec import CommandSpec, Flag, Request
from kvd.scripting.lua_state import NOT_RUN
from kvd.session import Session
from protocol.replies import NO_REPLY, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.server import Server

log = structlog.get_logger()

UNKNOWN_COMMAND: Final = ErrorReply("ERR Unknown Redis command called from script")
WRONG_ARITY: Final = ErrorReply("ERR Wrong number of args calling Redis command from script")
NOT_ALLOWED: Final = ErrorReply("ERR This Redis command is not allowed from script")
READ_ONLY: Final = ErrorReply("ERR Write commands are not allowed from read-only scripts.")
UNKNOWN_TO_ACL: Final = ErrorReply("ERR Invalid command passed to redis.acl_check_cmd()")

# Between two looks at the other clients once a script is over its time limit.
_LOOK_NANOSECONDS: Final = 5_000_000
_NEVER: Final = 1 << 63
# The levels of redis.log: debug, verbose, notice, warning.
_LOG_METHODS: Final = ("debug", "debug", "info", "warning")


class ScriptHost:
    """What the script that runs now may ask for. There is one script at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session: Session | None = None
        self.caller: Session | None = None  # the client that runs it
        self._was_clean = False  # nothing had been written in the tick before the script
        self.is_running = False
        self.is_over_time = False
        self.has_written = False
        self.kill_requested = False
        self._read_only = False
        self._digest = b""
        self._look_at_ns = _NEVER
        self._started_ns = 0

    def begin(self, caller: Session, digest: bytes, *, read_only: bool) -> None:
        """Start the account of a script that `caller` runs."""
        assert not self.is_running
        self.is_running = True
        self.has_written = False
        self.kill_requested = False
        self._read_only = read_only
        self._digest = digest
        self._started_ns = time.monotonic_ns()
        limit_ms = self._server.settings.scripting.time_limit_ms
        self._look_at_ns = self._started_ns + limit_ms * 1_000_000 if limit_ms else _NEVER
        self.caller = caller
        self._was_clean = not self._server.store.dirty
        self._act_as(caller)

    def _act_as(self, caller: Session) -> None:
        session = self._session
        if session is None:
            session = self._session = Session(self._server, caller.endpoint)
            session.is_script = True
        session.id = caller.id
        session.name = caller.name
        session.endpoint = caller.endpoint
        session.keyspace = caller.keyspace
        session.user = caller.user
        session.tracking = caller.tracking

    def end(self) -> None:
        """Close the account; the other clients are served again."""
        self.is_running = False
        self.caller = None
        session = self._session
        assert session is not None
        session.tracking = None
        session.out.clear()
        if session.proto != 2:
            session.use_protocol(2)
        if self.is_over_time:
            self.is_over_time = False
            self._server.refresh_plain()
            log.warning("long script ended", script=self._digest.decode(), seconds=self._seconds())

    def set_protocol(self, proto: int) -> None:
        """Let the replies of the commands that follow be those of RESP2 or RESP3."""
        assert self._session is not None
        self._session.use_protocol(proto)

    # --- commands

    def command(self, request: Request) -> Reply:
        """Run a command of the script. An error is returned; `NOT_RUN` if the script must end first."""
        if time.monotonic_ns() >= self._look_at_ns and self.look():
            return NOT_RUN
        session = self._session
        assert session is not None
        server = self._server
        spec = server.table.specs.get(request[0].upper())
        if spec is not None and spec.subcommands:
            spec = _find_subcommand(spec, request)
        if spec is None:
            return self._refuse(UNKNOWN_COMMAND)
        if not spec.accepts(len(request)):
            return self._refuse(WRONG_ARITY, spec)
        refusal = self._check(session, spec, request)
        if refusal is not None:
            return self._refuse(refusal, spec)
        if spec.is_write:
            self.has_written = True
        reply = dispatch.call(session, spec, request)
        return None if reply is NO_REPLY else reply

    def _check(self, session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
        """Return why the script may not run a command, in the order in which Redis asks."""
        flags = spec.flags
        if Flag.NOSCRIPT in flags:
            return NOT_ALLOWED
        user = session.user
        if user is not None and not user.unrestricted:
            denied = self._server.acl.check(session, spec, request)
            if denied is not None:
                return ErrorReply(f"ERR ACL failure in script: {denied.text.partition(' ')[2]}")
        if self._read_only and (Flag.WRITE in flags or Flag.MAY_REPLICATE in flags):
            return READ_ONLY
        return dispatch.write_refusal(self._server) if Flag.WRITE in flags else None

    def _refuse(self, error: ErrorReply, spec: CommandSpec | None = None) -> ErrorReply:
        if spec is not None:
            spec.stats.rejected += 1
        self._server.stats.count_error(error.text)
        return error

    def may_run(self, request: Request) -> bool | ErrorReply:
        """Tell whether the caller may run a command with these arguments; run nothing."""
        session = self._session
        assert session is not None
        try:
            spec = self._server.table.find(request)
        except ErrorReply:
            return UNKNOWN_TO_ACL
        if not spec.accepts(len(request)):
            return UNKNOWN_TO_ACL
        user = session.user
        return user is None or user.unrestricted or user.deny(spec, request) is None

    # --- time

    def look(self) -> bool:
        """Serve the other clients if the script is over its time limit; tell whether it must end."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._look_at_ns and not self.kill_requested:
            self._look_at_ns = now_ns + _LOOK_NANOSECONDS
            if not self.is_over_time:
                self.is_over_time = True
                self._server.refresh_plain()
                log.warning("script runs long", script=self._digest.decode(), seconds=self._seconds())
            if self._server.hub is not None and self.caller is not None:
                self._server.hub.pump(self.caller, was_clean=self._was_clean)
        return self.kill_requested

    def _seconds(self) -> float:
        return round((time.monotonic_ns() - self._started_ns) / 1e9, 3)

    # --- the log

    def log(self, level: int, text: bytes) -> None:
        """Write a line that the script asked for."""
        write = getattr(log, _LOG_METHODS[level])
        write("script says", text=text.decode("utf-8", "replace"), script=self._digest.decode())


def _find_subcommand(spec: CommandSpec, request: Request) -> CommandSpec | None:
    if len(request) > 1:
        return spec.subcommands.get(request[1].upper())
    return None if spec.is_container else spec
