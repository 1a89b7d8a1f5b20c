"""DUMP and RESTORE: a value in Redis's own serialisation, for tools that move keys between servers.

A payload has neither the key's expiry nor its metadata: RESTORE takes the first as an argument, the
second is lost on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kvd import notify, rdb
from kvd.commands.arguments import INTEGER_MAX, SYNTAX_ERROR, parse_integer
from kvd.commands.lookup import announce, delete, read_string
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command
from protocol.replies import OK, ErrorReply, Reply
from storage.record import NEVER

if TYPE_CHECKING:
    from storage.store import Keyspace


@data_command(
    "DUMP",
    arity=2,
    flags=Flag.READONLY,
    keys=(KeyRange(1),),
    group="generic",
    since="2.6.0",
    complexity="O(N) where N is the length of the value.",
    summary="Return the value of a key in Redis's serialisation.",
    arguments=(Arg("key", "key"),),
    tips=("nondeterministic_output",),
    categories=frozenset({"keyspace"}),
)
def dump(keyspace: Keyspace, request: Request) -> Reply:
    value = read_string(keyspace, request[1])
    return None if value is None else rdb.dump_string(value)


@attrs.define
class _Options:
    replace: bool = False
    is_absolute: bool = False


@data_command(
    "RESTORE",
    arity=-4,
    flags=Flag.WRITE | Flag.DENYOOM,
    keys=(KeyRange(1, access=("OW", "update")),),
    group="generic",
    since="2.6.0",
    complexity="O(N) where N is the length of the value.",
    summary="Make a key from a value in Redis's serialisation.",
    arguments=(
        Arg("key", "key"),
        Arg("ttl", "integer"),
        Arg("serialized-value"),
        Arg("replace", "pure-token", token="REPLACE", optional=True, since="3.0.0"),
        Arg("absttl", "pure-token", token="ABSTTL", optional=True, since="5.0.0"),
        Arg("seconds", "integer", token="IDLETIME", optional=True, since="5.0.0"),
        Arg("frequency", "integer", token="FREQ", optional=True, since="5.0.0"),
    ),
    history=(
        ("3.0.0", "The option `REPLACE`."),
        ("5.0.0", "The option `ABSTTL`."),
        ("5.0.0", "The options `IDLETIME` and `FREQ`."),
    ),
    categories=frozenset({"keyspace", "dangerous"}),
)
def restore(keyspace: Keyspace, request: Request) -> Reply:
    options = _parse_options(request)
    key = request[1]
    if not options.replace and keyspace.get(key) is not None:
        raise ErrorReply("BUSYKEY Target key name already exists.")
    expires_at_ms = _expires_at_ms(keyspace, request[2], options)
    value = _load(keyspace, request[3])
    if expires_at_ms <= keyspace.store.now_ms:
        delete(keyspace, key)
        return OK
    keyspace.put(key, value, expires_at_ms)
    announce(keyspace, key, b"restore", notify.GENERIC, is_new=True)
    return OK


def _parse_options(request: Request) -> _Options:
    options = _Options()
    index = 4
    has_idle_time = has_frequency = False
    while index < len(request):
        word = request[index].upper()
        if word == b"REPLACE":
            options.replace = True
        elif word == b"ABSTTL":
            options.is_absolute = True
        elif word == b"IDLETIME" and index + 1 < len(request) and not has_frequency:
            index += 1
            has_idle_time = True
            _check_access_figure(request[index], INTEGER_MAX, "IDLETIME", "must be >= 0")
        elif word == b"FREQ" and index + 1 < len(request) and not has_idle_time:
            index += 1
            has_frequency = True
            _check_access_figure(request[index], 255, "FREQ", "must be >= 0 and <= 255")
        else:
            raise ErrorReply(SYNTAX_ERROR)
        index += 1
    return options


def _check_access_figure(text: bytes, greatest: int, name: str, rule: str) -> None:
    """Check what Redis would seed its eviction with; kvd does not evict, so the figure has no use."""
    if not 0 <= parse_integer(text) <= greatest:
        raise ErrorReply(f"ERR Invalid {name} value, {rule}")


def _expires_at_ms(keyspace: Keyspace, text: bytes, options: _Options) -> int:
    ttl = parse_integer(text)
    if ttl < 0:
        raise ErrorReply("ERR Invalid TTL value, must be >= 0")
    if ttl == 0:
        return NEVER
    return min(ttl if options.is_absolute else ttl + keyspace.store.now_ms, NEVER - 1)


def _load(keyspace: Keyspace, payload: bytes) -> bytes:
    try:
        return rdb.load_string(payload, keyspace.store.limits.value_bytes_max)
    except rdb.BadFooter:
        raise ErrorReply("ERR DUMP payload version or checksum are wrong") from None
    except rdb.BadPayload:
        raise ErrorReply("ERR Bad data format") from None
    except rdb.UnsupportedType as error:
        raise ErrorReply(f"ERR the payload is a {error}, and kvd holds only strings so far") from None


COMMANDS = (dump, restore)
