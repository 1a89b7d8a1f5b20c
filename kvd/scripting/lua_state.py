"""One Lua 5.1 state with the sandbox of `lua/*.lua` in it: the only door to lupa.

Scripts reach nothing of Python: the functions they call are Lua functions, which hold the daemon's
functions in upvalues, and Lua 5.1 without its debug library has no way to an upvalue.

**Memory.** lupa's limit makes Lua's allocator refuse, which raises a Lua error: a jump to the innermost
protected call. In Lua code that is an ordinary, catchable error. In the binding's own code there may be no
protected call, and Lua then ends the process; or there is one, but the jump leaps over the release of the
GIL, and the process hangs. So the limit is in force only while Lua's own code runs:

* a run begins without it; the first thing in Lua is `host.limit_memory()`;
* the binding allocates nothing for what goes to the daemon's functions: strings and numbers only;
* what comes back is a number, a boolean or nil, which need no memory; or it is small and there is
  `_roomy` space; or the limit is lifted, and Lua is told to set it again (the third value of a reply);
* a run ends without it, also by an error.

Growing its string table or its stack may take Lua up to twice what it has in use, so there is room enough
for a small value while no more than a third of the limit is in use.

**Errors.** A function of the daemon that raised would hand its exception to Lua as an object, and allocate
for it. None does: what they raise is kept, ends the script as a kill does, and is raised when the run is over.
Should an exception get through after all, its attributes cannot be read.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final, Protocol, TypeAlias

import attrs
from lupa import lua51  # type: ignore[import-untyped]

from kvd.scripting import conversion
from kvd.scripting.bytecode import without_outer_tail_calls
from kvd.scripting.source import vararg_problem
from protocol.replies import ErrorReply, Reply, Simple

_CHUNKS: Final = ("guard", "base", "random", "bit", "struct", "cmsgpack", "cjson", "redis", "run")

# What a reply's second value says about the first; see lua/redis.lua.
PLAIN: Final = 0
STATUS: Final = 1
ERROR: Final = 2
KILLED: Final = 3

# Replies up to here count as small against any limit that can be set (its least is a MiB).
_SMALL_BYTES: Final = 64 << 10
# More keys and arguments than these go over as two tables.
_DIRECT_ARGUMENTS_MAX: Final = 32

_NO_MEMORY: Final = b"ERR the reply does not fit into the memory that the script may use"

ToLua: TypeAlias = Any  # what lupa turns into Lua values: one value, or a tuple of several


class Host(Protocol):
    """What a running script may ask of the daemon. An exception ends the script and comes out of `run`."""

    def command(self, request: list[bytes]) -> Reply:
        """Run a command; an error is returned. Return `NOT_RUN` if the script was asked to end."""

    def may_run(self, request: list[bytes]) -> bool | ErrorReply:
        """Tell whether the user of the script may run a command."""

    def set_protocol(self, proto: int) -> None:
        """Let commands answer in RESP2 or RESP3 from now on, until the run ends."""

    def look(self) -> bool:
        """Look at the wall clock and at the other clients; tell whether the script must end."""

    def log(self, level: int, text: bytes) -> None:
        """Write a line to the daemon's log."""


class _NotRun:
    """Stands for the reply of a command that was not run because its script is to end."""


NOT_RUN: Final = _NotRun()


class CompileError(Exception):
    """A script is not Lua; the text says where."""


class OutOfMemory(Exception):
    """A script needed more memory than it may use."""


@attrs.frozen
class ScriptFailure:
    """An error that ended a script, or that it returns: its text with code word, and the place if there is one.

    `counted` tells that it is the error of a command, which statistics have counted already.
    """

    text: bytes
    counted: bool
    source: bytes | None = None
    line: int | None = None


class LuaState:
    """A sandbox, the scripts compiled into it, and one run at a time."""

    def __init__(self, host: Host, *, memory_bytes_max: int, version: str) -> None:
        self._host = host
        self._lua = lua51.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_handlers=(_refuse_attribute, _refuse_attribute),
            max_memory=0,
        )
        self.proto = 2
        self._memory_bytes_max = memory_bytes_max
        self._limit = memory_bytes_max
        self._roomy = memory_bytes_max // 3 - _SMALL_BYTES
        self._used: Any = self._lua.get_memory_used
        self._set_limit: Any = self._lua.set_max_memory
        self._arguments: list[bytes] = []
        self._pieces: list[Any] = []
        self._failure: BaseException | None = None
        self._is_running = False
        self._is_killed = False
        self._install, self._remove, self._start, self._start_with, self._reset_watch = self._open(version)
        self._base_bytes = self._used()
        self.allow_resident(0)

    def _open(self, version: str) -> tuple[Any, ...]:
        """Run the sandbox's chunks; the last one returns what a state is used through."""
        host = self._lua.table_from(self._functions(version))
        kit = self._lua.table()
        result: Any = None
        for name in _CHUNKS:
            code = resources.files("kvd.scripting").joinpath("lua", f"{name}.lua").read_bytes()
            result = self._lua.execute(code, host, kit, name=b"=kvd." + name.encode())
        assert isinstance(result, tuple)
        return result

    def _functions(self, version: str) -> dict[bytes, Any]:
        major, minor, patch = (int(part) for part in version.split("."))
        shield = self._shield
        return {
            b"add_arguments": shield(self._add_arguments),
            b"bits": shield(_bits),
            b"command": self._command,
            b"emit": shield(self._emit),
            b"examine": shield(self._examine),
            b"keep_frame": shield(self._keep_frame),
            b"limit_memory": shield(self._limit_memory),
            b"log": shield(self._log),
            b"look": self._look,
            b"may_run": shield(self._may_run),
            b"pack_float": shield(self._pack_float),
            b"set_protocol": shield(self._set_protocol),
            b"sha1": shield(self._sha1),
            b"unpack_float": shield(_unpack_float),
            b"memory_bytes_max": self._memory_bytes_max,
            b"version": version.encode(),
            b"version_number": major << 16 | minor << 8 | patch,
            b"STATUS": STATUS,
            b"ERROR": ERROR,
            b"KILLED": KILLED,
        }

    def _shield(self, function: Callable[..., ToLua]) -> Callable[..., ToLua]:
        """Keep what `function` raises from Lua."""

        def shielded(*arguments: Any) -> ToLua:
            try:
                return function(*arguments)
            except BaseException as error:  # noqa: BLE001 -- kept, and raised by `run`
                return self._kill(error)

        return shielded

    # --- use

    def allow_resident(self, size: int) -> None:
        """Let the compiled scripts take `size` bytes beside what a running script may use."""
        self._limit = self._base_bytes + self._memory_bytes_max + size
        self._roomy = self._limit // 3 - _SMALL_BYTES

    def install(self, name: bytes, code: bytes) -> None:
        """Compile a script under a name. Raise `CompileError` or `OutOfMemory`."""
        problem = self._guarded(self._install, name, code)
        if problem is None:
            return
        if problem == b"not enough memory":  # as Lua's allocator says it
            raise OutOfMemory
        # A tuple tells of an error outside of the compiler: none is known.
        raise CompileError(conversion.error_text(problem if isinstance(problem, bytes) else problem[1]))

    def remove(self, name: bytes) -> None:
        """Forget a compiled script."""
        self._remove(name)

    def run(self, name: bytes, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Reply | ScriptFailure:
        """Run an installed script to its end. Raise `OutOfMemory`, or what a function of the host raised."""
        self.proto = 2
        self._pieces = []
        self._is_running = True
        try:
            if len(keys) + len(arguments) <= _DIRECT_ARGUMENTS_MAX:
                result = self._guarded(self._start_with, name, len(keys), *keys, *arguments)
            else:
                tables = self._lua.table_from(keys), self._lua.table_from(arguments)
                result = self._guarded(self._start, name, *tables)
        finally:
            self._is_running = False
            if self._is_killed:
                self._forget_kill()
        return self._result(result)

    def _forget_kill(self) -> None:
        """Let Lua run again. Its hook may still raise the kill, but not twice in so few instructions."""
        self._is_killed = False
        try:
            self._reset_watch()
        except lua51.LuaError:
            self._reset_watch()

    def _guarded(self, function: Any, *arguments: Any) -> Any:
        """Call into Lua; whatever happens there, come back without a memory limit."""
        try:
            return function(*arguments)
        except lua51.LuaMemoryError:
            raise OutOfMemory from None
        except lua51.LuaError as error:
            # From outside of the script's own protected call: it was killed while its result was read.
            return b"failed", b"ERR " + str(error).encode("latin-1", "replace"), False
        finally:
            self._set_limit(0)
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure

    def _result(self, result: Any) -> Reply | ScriptFailure:
        if result is None or isinstance(result, bytes):
            return result
        if isinstance(result, bool):
            return conversion.from_boolean(result, self.proto)
        if not isinstance(result, tuple):
            return conversion.from_number(result)
        if result[0] == b"sent":
            pieces, self._pieces = self._pieces, []
            return conversion.from_pieces(pieces, self.proto)
        if result[0] == b"failed" and result[1] == b"ERR not enough memory":  # as Lua's allocator says it
            raise OutOfMemory
        return ScriptFailure(*result[1:])

    def close(self) -> None:
        """Free the state. It must not be running."""
        # The state holds this object's methods, and this object the state: no count would drop by itself.
        self._install = self._remove = self._start = self._start_with = self._reset_watch = None
        self._used = self._set_limit = self._lua = None

    def collect(self) -> int:
        """Run a full collection; return the bytes that are still in use beside the sandbox itself."""
        self._lua.gccollect()
        return self.used_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes in use beside the sandbox itself, garbage included."""
        used: int = self._used() - self._base_bytes
        return used

    # --- what Lua calls; must not raise, see the module's text

    def _command(self, *arguments: bytes) -> ToLua:
        try:
            reply = self._host.command(self._request(arguments))
            kind = type(reply)
            if kind is bytes:
                if len(reply) <= _SMALL_BYTES and self._used() < self._roomy:
                    return reply
            elif kind is int:
                return reply
            elif reply is None:
                return False if self.proto == 2 else None
            return self._hand_back(reply)
        except BaseException as error:  # noqa: BLE001 -- kept, and raised by `run`
            return self._kill(error)

    def _hand_back(self, reply: Reply) -> ToLua:
        """Return a reply that may need memory."""
        if reply is NOT_RUN:
            return False, KILLED
        kind, value = PLAIN, reply
        if isinstance(reply, Simple):
            kind, value = STATUS, reply.text
        elif isinstance(reply, ErrorReply):
            kind, value = ERROR, reply.text.encode("utf-8", "surrogateescape")
        size = conversion.size_in_lua(value)
        used = self._used()
        if isinstance(value, bytes) and size <= _SMALL_BYTES and used < self._roomy:
            return value, kind
        self._set_limit(0)
        if used + size > self._limit:
            return _NO_MEMORY, ERROR, True
        return conversion.to_lua(value, self._lua.table_from, self.proto), kind, True

    def _kill(self, error: BaseException) -> ToLua:
        if self._failure is None:
            self._failure = error
        return False, KILLED

    def _may_run(self, *arguments: bytes) -> ToLua:
        answer = self._host.may_run(self._request(arguments))
        return answer if isinstance(answer, bool) else self._hand_back(answer)

    def _request(self, arguments: tuple[bytes, ...]) -> list[bytes]:
        """Return the arguments of a call; without any, those that came before it in pieces."""
        if arguments:
            return list(arguments)
        request, self._arguments = self._arguments, []
        return request

    def _add_arguments(self, first: int, *arguments: bytes) -> None:
        if first == 1:
            self._arguments = []
        self._arguments += arguments

    def _emit(self, *values: Any) -> None:
        self._pieces += values

    def _limit_memory(self) -> None:
        self._set_limit(self._limit)

    def _look(self) -> bool:
        if not self._is_running:
            return False
        try:
            if self._failure is None and not self._host.look():
                return False
        except BaseException as error:  # noqa: BLE001 -- kept, and raised by `run`
            self._kill(error)
        self._is_killed = True
        return True

    def _log(self, level: float, text: bytes) -> None:
        self._host.log(int(level), text)

    def _set_protocol(self, proto: float) -> None:
        self.proto = int(proto)
        self._host.set_protocol(self.proto)

    def _examine(self, code: bytes) -> ToLua:
        problem = vararg_problem(code)
        return None if problem is None else self._hand_back(problem.encode())

    def _keep_frame(self, compiled: bytes) -> ToLua:
        return self._hand_back(without_outer_tail_calls(compiled))

    def _sha1(self, text: bytes) -> ToLua:
        return self._hand_back(hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())

    def _pack_float(self, number: float, form: bytes) -> ToLua:
        """Return `number` as `form` of the struct module says: ``<f``, ``>f``, ``<d`` or ``>d``."""
        try:
            packed = struct.pack(form, number)
        except OverflowError:  # beyond a float: what a C cast makes of it
            packed = struct.pack(form, float("inf") if number > 0 else float("-inf"))
        return self._hand_back(packed)


def _unpack_float(packed: bytes, form: bytes) -> float:
    number: float = struct.unpack(form, packed)[0]
    return number


# --- bit operations: Lua 5.1 has none

_TO_32_BITS: Final = 6755399441055744.0  # 2**52 + 2**51: brings a double's whole part into its low bits


def _low_32_bits(number: float) -> int:
    """Return the low 32 bits of a number as Lua BitOp does: rounded to even, any size."""
    low: int = struct.unpack_from("<I", struct.pack("<d", number + _TO_32_BITS))[0]
    return low


def _shift_left(number: int, count: int) -> int:
    return number << (count & 31)


def _shift_right(number: int, count: int) -> int:
    return number >> (count & 31)


def _shift_arithmetic(number: int, count: int) -> int:
    return _signed(number) >> (count & 31)


def _rotate_left(number: int, count: int) -> int:
    count &= 31
    return number << count | number >> (32 - count)


def _rotate_right(number: int, count: int) -> int:
    return _rotate_left(number, -count)


def _swap_bytes(number: int, _: int) -> int:
    return int.from_bytes(number.to_bytes(4, "little"), "big")


def _signed(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number & 0x80000000 else number


_BIT_OPERATIONS: Final[dict[bytes, Callable[[int, int], int]]] = {
    b"tobit": lambda number, _: number,
    b"bnot": lambda number, _: ~number,
    b"band": lambda left, right: left & right,
    b"bor": lambda left, right: left | right,
    b"bxor": lambda left, right: left ^ right,
    b"lshift": _shift_left,
    b"rshift": _shift_right,
    b"arshift": _shift_arithmetic,
    b"rol": _rotate_left,
    b"ror": _rotate_right,
    b"bswap": _swap_bytes,
}


def _bits(operation: bytes, left: float, right: float) -> int:
    """Return the result of one operation of the `bit` library, as a signed 32-bit integer."""
    return _signed(_BIT_OPERATIONS[operation](_low_32_bits(left), _low_32_bits(right)))


def _refuse_attribute(*_: Any) -> Any:
    raise AttributeError("scripts cannot look into the daemon")
