"""The script engine: EVAL and its family, the script cache, and what ends a script that runs too long.

A script runs to its end inside one tick and one `Store.atomic`: nobody sees half of it, and its writes get
one place in the change log and one batch on disk. What it wrote before an error stays, as in Redis. What is
logged and replicated are these writes, never the script.

The Lua state is made when the first script comes, and made anew after SCRIPT FLUSH and when scripts have left
too much behind in it. Scripts keep nothing in it: globals and libraries are readonly.

Source: Redis 7.2 EVAL, EVALSHA, SCRIPT; the error texts are part of the protocol.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import structlog

from kvd import dispatch
from kvd.commands.spec import Request
from kvd.scripting.cache import CachedScript, ScriptCache
from kvd.scripting.conversion import error_text
from kvd.scripting.host import ScriptHost
from kvd.scripting.lua_state import CompileError, LuaState, OutOfMemory, ScriptFailure
from kvd.scripting.source import parse
from protocol.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.session import Session

log = structlog.get_logger()

BUSY: Final = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
NO_SCRIPT: Final = "NOSCRIPT No matching script. Please use EVAL."
NOT_BUSY: Final = "NOTBUSY No scripts in execution right now."
UNKILLABLE: Final = (
    "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the "
    "script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command."
)
_FLAGGED_AS_WRITING: Final = "ERR Can not execute a script with write flag using *_ro command."

# The texts of all cached scripts together, as a part of the memory that a script may use.
_CACHE_PART: Final = 8
# What a byte of text may take once it is compiled (dense code measured up to 12, usual code 3 to 5).
_COMPILED_BYTES: Final = 12
# A collection is due when so large a part of the memory limit is in use after a script. Lua 5.1 does not
# collect when an allocation fails, so the garbage of one script would be the failure of the next.
_COLLECT_PART: Final = 4


class ScriptEngine:
    """Compiles, caches and runs scripts. One script runs at a time, in one Lua state."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._memory_bytes_max = server.settings.scripting.memory_bytes_max
        self._host = ScriptHost(server)
        self._state: LuaState | None = None
        self._cache = ScriptCache(self._memory_bytes_max // _CACHE_PART, self._dropped)

    # --- what the rest of the daemon asks

    @property
    def running(self) -> ScriptHost | None:
        """The script that has run longer than its time limit, or None."""
        return self._host if self._host.is_over_time else None

    def caller_of(self, session: Session) -> Session:
        """Return the client whose script acts by `session`; the session itself if it is a client's own."""
        if not session.is_script:
            return session
        assert self._host.caller is not None, "a script runs"
        return self._host.caller

    @property
    def count(self) -> int:
        """How many scripts are cached."""
        return len(self._cache)

    @property
    def cached_bytes(self) -> int:
        """What the texts of the cached scripts take."""
        return self._cache.bytes

    @property
    def used_bytes(self) -> int:
        """What Lua has in use, garbage included."""
        return 0 if self._state is None else self._state.used_bytes

    def busy_error(self) -> ErrorReply:
        """Return what every other client is told while a script runs for too long."""
        return ErrorReply(BUSY)

    # --- scripts

    def evaluate(
        self, caller: Session, body: bytes, keys: Request, arguments: Request, *, read_only: bool
    ) -> Reply:
        """Run a script given as text, and keep it in the cache. Raise `ErrorReply`."""
        digest = _digest(body)
        entry = self._cache.get(digest) or self._add(digest, body, is_loaded=False)
        return self._run(caller, entry, keys, arguments, read_only=read_only)

    def evaluate_cached(
        self, caller: Session, digest: bytes, keys: Request, arguments: Request, *, read_only: bool
    ) -> Reply:
        """Run a script of the cache. Raise `ErrorReply`."""
        entry = self._cache.get(digest) or self._cache.get(digest.lower())
        if entry is None:
            raise ErrorReply(NO_SCRIPT)
        return self._run(caller, entry, keys, arguments, read_only=read_only)

    def load(self, body: bytes) -> bytes:
        """Keep a script until the cache is flushed; return its digest. Raise `ErrorReply`."""
        digest = _digest(body)
        entry = self._cache.get(digest)
        if entry is None:
            self._add(digest, body, is_loaded=True)
        else:
            self._cache.keep(entry)
        return digest

    def is_cached(self, digest: bytes) -> bool:
        return digest.lower() in self._cache

    def promises_no_writes(self, request: Request) -> bool:
        """Tell whether an EVAL or EVALSHA means a script whose shebang line says that it writes nothing."""
        if request[0].upper() == b"EVALSHA":
            entry = self._cache.get(request[1].lower())
            return entry is not None and entry.script.is_readonly
        try:
            return parse(request[1]).is_readonly
        except ErrorReply:
            return False

    def flush(self) -> None:
        """Forget all scripts and the Lua state."""
        self._cache.clear()
        self._close_state()

    # --- ending a script

    def kill(self) -> None:
        """Let the script that runs for too long end with an error, if it has written nothing."""
        host = self._host
        if not host.is_over_time:
            raise ErrorReply(NOT_BUSY)
        if host.has_written:
            raise ErrorReply(UNKILLABLE)
        host.kill_requested = True

    def abandon(self) -> None:
        """End a running script whatever it has written: the daemon stops. Its tick is not committed."""
        host = self._host
        if host.is_running:
            host.kill_requested = True
            self.server.store.poison("the daemon was stopped while a script ran")

    # --- inside

    def _add(self, digest: bytes, body: bytes, *, is_loaded: bool) -> CachedScript:
        """Compile a new script and cache it."""
        entry = CachedScript(digest, parse(body), is_loaded)
        self._cache.check_room(entry)
        self._compiled(entry)
        self._cache.add(entry)
        return entry

    def _compiled(self, entry: CachedScript) -> LuaState:
        """Return the Lua state with `entry` compiled in it."""
        state = self._state
        if state is None:
            state = self._state = LuaState(
                self._host,
                memory_bytes_max=self._memory_bytes_max,
                version=self.server.settings.compat.redis_version,
            )
        if not entry.is_compiled:
            state.allow_resident((self._cache.bytes + entry.size) * _COMPILED_BYTES)
            try:
                state.install(entry.digest, entry.script.code)
            except CompileError as error:
                raise ErrorReply(f"ERR Error compiling script (new function): {error}") from None
            except OutOfMemory:
                raise ErrorReply("ERR Error compiling script (new function): not enough memory") from None
            entry.is_compiled = True
        return state

    def _run(
        self, caller: Session, entry: CachedScript, keys: Request, arguments: Request, *, read_only: bool
    ) -> Reply:
        self._check_flags(entry, read_only=read_only)
        state = self._compiled(entry)
        host = self._host
        host.begin(caller, entry.digest, read_only=read_only or entry.script.is_readonly)
        try:
            with self.server.store.atomic():
                outcome = state.run(entry.digest, keys, arguments)
        except OutOfMemory:
            raise ErrorReply(self._out_of_memory(entry)) from None
        finally:
            host.end()
            self._tidy(state)
        if isinstance(outcome, ScriptFailure):
            return _error_of(outcome, entry)
        return outcome

    def _check_flags(self, entry: CachedScript, *, read_only: bool) -> None:
        """Refuse what a script's shebang line says it cannot be."""
        if entry.script.flags is None or entry.script.is_readonly:
            return
        if read_only:
            raise ErrorReply(_FLAGGED_AS_WRITING)
        refusal = dispatch.write_refusal(self.server)
        if refusal is not None:
            raise refusal

    def _out_of_memory(self, entry: CachedScript) -> str:
        return (
            f"ERR the script needs more than the {self._memory_bytes_max} bytes of memory that it may use "
            f"(scripting.memory_bytes_max) script: {entry.digest.decode()}"
        )

    def _tidy(self, state: LuaState) -> None:
        """Leave a Lua state behind in which the next script finds its memory."""
        allowed = self._memory_bytes_max // _COLLECT_PART + self._cache.bytes * _COMPILED_BYTES
        if state.used_bytes > allowed and state.collect() > allowed:
            log.warning("Lua state renewed: scripts have left too much in it", bytes=state.used_bytes)
            self._close_state()

    def _close_state(self) -> None:
        if self._state is not None:
            self._state.close()
            self._state = None
        for entry in self._cache.entries():
            entry.is_compiled = False

    def _dropped(self, entry: CachedScript) -> None:
        if entry.is_compiled and self._state is not None:
            self._state.remove(entry.digest)


def _digest(body: bytes) -> bytes:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest().encode()


def _error_of(failure: ScriptFailure, entry: CachedScript) -> ErrorReply:
    """Return the error that ends a script. It is raised, and so counted, unless a command's error was."""
    text = error_text(failure.text)
    if failure.source is not None and failure.line is not None:
        place = error_text(failure.source)
        text = f"{text} script: {entry.digest.decode()}, on {place}:{failure.line}."
    error = ErrorReply(text)
    if not failure.counted:
        raise error
    return error
