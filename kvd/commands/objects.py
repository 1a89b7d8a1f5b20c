"""OBJECT and MEMORY: what Redis tells about its own objects, as far as kvd has an answer.

kvd keeps records, not objects: it counts no references and notes no accesses. What depends on the value
alone (ENCODING, USAGE) is answered as Redis would for a freshly set value; the rest has one fixed answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd.commands.arguments import SYNTAX_ERROR, is_integer, parse_integer
from kvd.commands.help import help_command
from kvd.commands.spec import Arg, Flag, KeyRange, Request, container, data_command
from protocol.replies import OK, ErrorReply, Reply, Verbatim
from storage.record import METADATA, VALUE, Record

if TYPE_CHECKING:
    from storage.store import Keyspace

_KEY = Arg("key", "key")
_KEYS = (KeyRange(2, access=("RO",)),)
_KEYSPACE = frozenset({"keyspace"})
_UNCERTAIN = ("nondeterministic_output",)
_EVERYWHERE = ("nondeterministic_output", "request_policy:all_shards", "response_policy:special")

# Up to this length Redis keeps a string in one piece with its object.
_EMBEDDED_BYTES_MAX: Final = 44
# Small integers are objects that Redis makes once for all keys, and does not count the references to.
_SHARED_INTEGERS: Final = 10_000
_SHARED_REFERENCES: Final = (1 << 31) - 1
_NO_FREQUENCIES: Final = (
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when "
    "switching between policies at runtime LRU and LFU data will take some time to adjust."
)
# What a record weighs on disk and in the cache beside key, value and metadata, about.
_RECORD_OVERHEAD_BYTES: Final = 64

object_ = container(
    "OBJECT",
    arity=-2,
    group="generic",
    since="2.2.3",
    complexity="Depends on subcommand.",
    summary="Tell something about the value at a key.",
)


@data_command(
    "OBJECT|ENCODING",
    arity=3,
    flags=Flag.READONLY,
    keys=_KEYS,
    group="generic",
    since="2.2.3",
    complexity="O(N) where N is the length of the value, 20 at most.",
    summary="Return the form that Redis would keep the value in: int, embstr or raw.",
    arguments=(_KEY,),
    tips=_UNCERTAIN,
    categories=_KEYSPACE,
)
def encoding(keyspace: Keyspace, request: Request) -> Reply:
    record = keyspace.get(request[2])
    return None if record is None else _encoding(record)


def _encoding(record: Record) -> bytes:
    value = record[VALUE]
    assert type(value) is bytes, "there are only strings so far"
    if is_integer(value):
        return b"int"
    return b"embstr" if len(value) <= _EMBEDDED_BYTES_MAX else b"raw"


@data_command(
    "OBJECT|FREQ",
    arity=3,
    flags=Flag.READONLY,
    keys=_KEYS,
    group="generic",
    since="4.0.0",
    complexity="O(1)",
    summary="Refused: how often keys are used is not counted, because none is evicted.",
    arguments=(_KEY,),
    tips=_UNCERTAIN,
    categories=_KEYSPACE,
)
def freq(keyspace: Keyspace, request: Request) -> Reply:
    if keyspace.get(request[2]) is None:
        return None
    raise ErrorReply(_NO_FREQUENCIES)


@data_command(
    "OBJECT|IDLETIME",
    arity=3,
    flags=Flag.READONLY,
    keys=_KEYS,
    group="generic",
    since="2.2.3",
    complexity="O(1)",
    summary="Return 0: when a key was used last is not noted.",
    arguments=(_KEY,),
    tips=_UNCERTAIN,
    categories=_KEYSPACE,
)
def idletime(keyspace: Keyspace, request: Request) -> Reply:
    return None if keyspace.get(request[2]) is None else 0


@data_command(
    "OBJECT|REFCOUNT",
    arity=3,
    flags=Flag.READONLY,
    keys=_KEYS,
    group="generic",
    since="2.2.3",
    complexity="O(1)",
    summary="Return how many keys Redis would let share the value: 1, or 2147483647 for 0 to 9999.",
    arguments=(_KEY,),
    tips=_UNCERTAIN,
    categories=_KEYSPACE,
)
def refcount(keyspace: Keyspace, request: Request) -> Reply:
    record = keyspace.get(request[2])
    return None if record is None else _references(record[VALUE])


def _references(value: bytes) -> int:
    is_shared = is_integer(value) and 0 <= int(value) < _SHARED_INTEGERS
    return _SHARED_REFERENCES if is_shared else 1


memory = container(
    "MEMORY",
    arity=-2,
    group="server",
    since="4.0.0",
    complexity="Depends on subcommand.",
    summary="Tell about the memory that keys and the daemon take.",
)


@data_command(
    "MEMORY|USAGE",
    arity=-3,
    flags=Flag.READONLY,
    keys=_KEYS,
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Estimate the bytes that a key takes with its value and metadata.",
    arguments=(_KEY, Arg("count", "integer", token="SAMPLES", optional=True)),
)
def usage(keyspace: Keyspace, request: Request) -> Reply:
    options = request[3:]
    while options:
        # Accepted for the sake of collections, whose members Redis samples; a string is measured whole.
        if options[0].upper() != b"SAMPLES" or len(options) < 2:
            raise ErrorReply(SYNTAX_ERROR)
        if parse_integer(options[1]) < 0:
            raise ErrorReply(SYNTAX_ERROR)
        options = options[2:]
    record = keyspace.get(request[2])
    if record is None:
        return None
    return _RECORD_OVERHEAD_BYTES + len(request[2]) + len(record[VALUE]) + len(record[METADATA] or b"")


@data_command(
    "MEMORY|STATS",
    arity=2,
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Return figures of the store: keys, and records and bytes in its cache.",
    tips=_EVERYWHERE,
)
def stats(keyspace: Keyspace, request: Request) -> Reply:
    return {name.replace("_", ".").encode(): figure for name, figure in keyspace.store.stats().items()}


@data_command(
    "MEMORY|DOCTOR",
    arity=2,
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Say what bounds the daemon's memory.",
    tips=_EVERYWHERE,
)
def doctor(keyspace: Keyspace, request: Request) -> Reply:
    return Verbatim(
        b"Records are on disk; memory holds the hot ones, as many as storage.cache_bytes allows, and RocksDB's "
        b"blocks, as many as storage.block_cache_bytes allows. MEMORY STATS and INFO memory have the figures."
    )


@data_command(
    "MEMORY|MALLOC-STATS",
    arity=2,
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Say that the allocator keeps no statistics.",
    tips=_EVERYWHERE,
)
def malloc_stats(keyspace: Keyspace, request: Request) -> Reply:
    return Verbatim(b"Stats not supported for the current allocator")


@data_command(
    "MEMORY|PURGE",
    arity=2,
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Accepted: memory goes back to the system by itself.",
    tips=("request_policy:all_shards", "response_policy:all_succeeded"),
)
def purge(keyspace: Keyspace, request: Request) -> Reply:
    return OK


COMMANDS = (
    object_,
    encoding,
    freq,
    idletime,
    refcount,
    help_command("OBJECT", group="generic", since="6.2.0", categories=_KEYSPACE),
    memory,
    doctor,
    malloc_stats,
    purge,
    stats,
    usage,
    help_command("MEMORY", group="server", since="4.0.0"),
)
