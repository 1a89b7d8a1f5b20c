"""Expiry of keys: setting it, asking for it, taking it away.

Every form of EXPIRE comes down to a moment in milliseconds since the epoch; a moment that has passed
deletes the key. The conditions compare moments, a key without expiry counting as one that lasts for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd import notify
from kvd.commands.arguments import INTEGER_MAX, INTEGER_MIN, c_text, parse_integer
from kvd.commands.lookup import announce, delete, find
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command
from protocol.replies import ErrorReply, Reply
from storage.record import EXPIRES_AT, NEVER

if TYPE_CHECKING:
    from storage.store import Keyspace

_KEY = Arg("key", "key")
_CONDITION = Arg(
    "condition",
    "oneof",
    optional=True,
    since="7.0.0",
    arguments=tuple(Arg(word.lower(), "pure-token", token=word) for word in ("NX", "XX", "GT", "LT")),
)
_HISTORY = (("7.0.0", "The options `NX`, `XX`, `GT` and `LT`."),)
_WRITE = Flag.WRITE | Flag.FAST | Flag.PLAIN
_READ = Flag.READONLY | Flag.FAST | Flag.PLAIN
_UPDATE = (KeyRange(1, access=("RW", "update")),)
_KEYSPACE = frozenset({"keyspace"})


def _expire(keyspace: Keyspace, request: Request, command: str, unit_ms: int, base_ms: int) -> int:
    conditions = _conditions(request)
    moment = _moment(request[2], command, unit_ms, base_ms)
    key = request[1]
    record = keyspace.get(key)
    if record is None or (conditions and not _allowed(conditions, record[EXPIRES_AT], moment)):
        return 0
    if moment <= keyspace.store.now_ms:
        delete(keyspace, key)
        return 1
    keyspace.expire(key, moment)
    announce(keyspace, key, b"expire", notify.GENERIC)
    return 1


def _conditions(request: Request) -> set[bytes]:
    conditions: set[bytes] = set()
    for option in request[3:]:
        word = option.upper()
        if word not in {b"NX", b"XX", b"GT", b"LT"}:
            raise ErrorReply(f"ERR Unsupported option {c_text(option)}")
        conditions.add(word)
    if b"NX" in conditions and len(conditions) > 1:
        raise ErrorReply("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= conditions:
        raise ErrorReply("ERR GT and LT options at the same time are not compatible")
    return conditions


def _moment(text: bytes, command: str, unit_ms: int, base_ms: int) -> int:
    moment = parse_integer(text) * unit_ms
    if INTEGER_MIN <= moment <= INTEGER_MAX and moment + base_ms <= INTEGER_MAX:
        return min(moment + base_ms, NEVER - 1)  # the greatest number stands for no expiry
    raise ErrorReply(f"ERR invalid expire time in '{command}' command")


def _allowed(conditions: set[bytes], held: int, moment: int) -> bool:
    if b"NX" in conditions and held != NEVER:
        return False
    if b"XX" in conditions and held == NEVER:
        return False
    if b"GT" in conditions and moment <= held:
        return False
    return not (b"LT" in conditions and moment >= held)


@data_command(
    "EXPIRE",
    arity=-3,
    flags=_WRITE,
    keys=_UPDATE,
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Let a key expire after a number of seconds.",
    arguments=(_KEY, Arg("seconds", "integer"), _CONDITION),
    history=_HISTORY,
    categories=_KEYSPACE,
)
def expire(keyspace: Keyspace, request: Request) -> Reply:
    return _expire(keyspace, request, "expire", 1000, keyspace.store.now_ms)


@data_command(
    "PEXPIRE",
    arity=-3,
    flags=_WRITE,
    keys=_UPDATE,
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Let a key expire after a number of milliseconds.",
    arguments=(_KEY, Arg("milliseconds", "integer"), _CONDITION),
    history=_HISTORY,
    categories=_KEYSPACE,
)
def pexpire(keyspace: Keyspace, request: Request) -> Reply:
    return _expire(keyspace, request, "pexpire", 1, keyspace.store.now_ms)


@data_command(
    "EXPIREAT",
    arity=-3,
    flags=_WRITE,
    keys=_UPDATE,
    group="generic",
    since="1.2.0",
    complexity="O(1)",
    summary="Let a key expire at a Unix time in seconds.",
    arguments=(_KEY, Arg("unix-time-seconds", "unix-time"), _CONDITION),
    history=_HISTORY,
    categories=_KEYSPACE,
)
def expireat(keyspace: Keyspace, request: Request) -> Reply:
    return _expire(keyspace, request, "expireat", 1000, 0)


@data_command(
    "PEXPIREAT",
    arity=-3,
    flags=_WRITE,
    keys=_UPDATE,
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Let a key expire at a Unix time in milliseconds.",
    arguments=(_KEY, Arg("unix-time-milliseconds", "unix-time"), _CONDITION),
    history=_HISTORY,
    categories=_KEYSPACE,
)
def pexpireat(keyspace: Keyspace, request: Request) -> Reply:
    return _expire(keyspace, request, "pexpireat", 1, 0)


def _expires_at_ms(keyspace: Keyspace, key: bytes) -> int:
    """Return when `key` expires, -1 if it does not, -2 if there is no such key."""
    record = find(keyspace, key)
    if record is None:
        return -2
    moment = record[EXPIRES_AT]
    return -1 if moment == NEVER else moment


@data_command(
    "TTL",
    arity=2,
    flags=_READ,
    keys=(KeyRange(1),),
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Return how many seconds a key has left; -1 without an expiry, -2 without the key.",
    arguments=(_KEY,),
    history=(("2.8.0", "The answer -2."),),
    tips=("nondeterministic_output",),
    categories=_KEYSPACE,
)
def ttl(keyspace: Keyspace, request: Request) -> Reply:
    moment = _expires_at_ms(keyspace, request[1])
    return moment if moment < 0 else (moment - keyspace.store.now_ms + 500) // 1000


@data_command(
    "PTTL",
    arity=2,
    flags=_READ,
    keys=(KeyRange(1),),
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Return how many milliseconds a key has left; -1 without an expiry, -2 without the key.",
    arguments=(_KEY,),
    history=(("2.8.0", "The answer -2."),),
    tips=("nondeterministic_output",),
    categories=_KEYSPACE,
)
def pttl(keyspace: Keyspace, request: Request) -> Reply:
    moment = _expires_at_ms(keyspace, request[1])
    return moment if moment < 0 else moment - keyspace.store.now_ms


@data_command(
    "EXPIRETIME",
    arity=2,
    flags=_READ,
    keys=(KeyRange(1),),
    group="generic",
    since="7.0.0",
    complexity="O(1)",
    summary="Return the Unix time in seconds at which a key expires; -1 and -2 as for TTL.",
    arguments=(_KEY,),
    categories=_KEYSPACE,
)
def expiretime(keyspace: Keyspace, request: Request) -> Reply:
    moment = _expires_at_ms(keyspace, request[1])
    return moment if moment < 0 else (moment + 500) // 1000


@data_command(
    "PEXPIRETIME",
    arity=2,
    flags=_READ,
    keys=(KeyRange(1),),
    group="generic",
    since="7.0.0",
    complexity="O(1)",
    summary="Return the Unix time in milliseconds at which a key expires; -1 and -2 as for TTL.",
    arguments=(_KEY,),
    categories=_KEYSPACE,
)
def pexpiretime(keyspace: Keyspace, request: Request) -> Reply:
    return _expires_at_ms(keyspace, request[1])


@data_command(
    "PERSIST",
    arity=2,
    flags=_WRITE,
    keys=_UPDATE,
    group="generic",
    since="2.2.0",
    complexity="O(1)",
    summary="Take the expiry from a key.",
    arguments=(_KEY,),
    categories=_KEYSPACE,
)
def persist(keyspace: Keyspace, request: Request) -> Reply:
    record = keyspace.get(request[1])
    if record is None or record[EXPIRES_AT] == NEVER:
        return 0
    keyspace.expire(request[1], NEVER)
    announce(keyspace, request[1], b"persist", notify.GENERIC)
    return 1


COMMANDS = (
    expire,
    pexpire,
    expireat,
    pexpireat,
    ttl,
    pttl,
    expiretime,
    pexpiretime,
    persist,
)
