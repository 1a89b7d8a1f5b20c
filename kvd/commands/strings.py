"""Commands on whole strings and parts of them: GET, SET and their relatives.

GET and SET without options are what most requests are; they do nothing here that they can do without
(`tests/bench` has the figures). All variants of SET end in `_write` or `write_for`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd import notify
from kvd.commands.arguments import (
    WRONG_TYPE,
    SetOptions,
    parse_getex_options,
    parse_integer,
    parse_moment,
    parse_set_options,
)
from kvd.commands.lookup import (
    announce,
    check_length,
    check_total,
    delete,
    find,
    peek_string,
    read_string,
    string_of,
    update_string,
)
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command
from protocol.replies import OK, ErrorReply, Reply
from storage.errors import KeyTooLong, ValueTooLong
from storage.record import EXPIRES_AT, NEVER, VALUE

if TYPE_CHECKING:
    from storage.store import Keyspace

_KEY = Arg("key", "key")
_VALUE = Arg("value")
_LIFETIMES = (
    Arg("seconds", "integer", token="EX"),
    Arg("milliseconds", "integer", token="PX"),
    Arg("unix-time-seconds", "unix-time", token="EXAT"),
    Arg("unix-time-milliseconds", "unix-time", token="PXAT"),
)
_PAIRS = (Arg("data", "block", multiple=True, arguments=(_KEY, _VALUE)),)
_RANGE = (_KEY, Arg("start", "integer"), Arg("end", "integer"))

_FAST_READ = Flag.READONLY | Flag.FAST | Flag.PLAIN
_WRITE = Flag.WRITE | Flag.DENYOOM | Flag.PLAIN
# Not plain, since these copy the value: of a large one each takes milliseconds, so each is timed.
_COPYING_WRITE = Flag.WRITE | Flag.DENYOOM

# ``SET key value EX seconds`` and its like are read without the option parser: caches say little else.
_RELATIVE_UNITS = {b"EX": 1000, b"ex": 1000, b"PX": 1, b"px": 1}

_RW = ("RW", "access", "update")
_OW = ("OW", "update")
_INSERT = ("OW", "insert")


def _access_of_set(request: Request) -> tuple[str, ...]:
    """SET reads its key only with the option GET."""
    return _RW if any(option.upper() == b"GET" for option in request[3:]) else _OW


@data_command(
    "GET",
    arity=2,
    flags=_FAST_READ,
    keys=(KeyRange(1),),
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Return the value of a key.",
    arguments=(_KEY,),
)
def get(keyspace: Keyspace, request: Request) -> Reply:
    record = keyspace.get(request[1])
    if record is None:
        keyspace.misses += 1
        if keyspace.notifying:
            keyspace.notify(b"keymiss", request[1], notify.KEYMISS)
        return None
    keyspace.hits += 1
    value = record[0]
    if type(value) is not bytes:
        raise ErrorReply(WRONG_TYPE)
    return value


@data_command(
    "SET",
    arity=-3,
    flags=_WRITE,
    keys=(KeyRange(1, access=(*_RW, "variable_flags"), vary=_access_of_set),),
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Give a key a value, whatever it held, with conditions and an expiry if wanted.",
    arguments=(
        _KEY,
        _VALUE,
        Arg(
            "condition",
            "oneof",
            optional=True,
            since="2.6.12",
            arguments=(Arg("nx", "pure-token", token="NX"), Arg("xx", "pure-token", token="XX")),
        ),
        Arg("get", "pure-token", token="GET", optional=True, since="6.2.0"),
        Arg(
            "expiration",
            "oneof",
            optional=True,
            arguments=(
                Arg("seconds", "integer", token="EX", since="2.6.12"),
                Arg("milliseconds", "integer", token="PX", since="2.6.12"),
                Arg("unix-time-seconds", "unix-time", token="EXAT", since="6.2.0"),
                Arg("unix-time-milliseconds", "unix-time", token="PXAT", since="6.2.0"),
                Arg("keepttl", "pure-token", token="KEEPTTL", since="6.0.0"),
            ),
        ),
    ),
    history=(
        ("2.6.12", "The options `EX`, `PX`, `NX` and `XX`."),
        ("6.0.0", "The option `KEEPTTL`."),
        ("6.2.0", "The options `GET`, `EXAT` and `PXAT`."),
        ("7.0.0", "`NX` and `GET` together."),
    ),
)
def set_(keyspace: Keyspace, request: Request) -> Reply:
    if len(request) == 3 and not keyspace.notifying:
        keyspace.put(request[1], request[2])
        return OK
    if len(request) == 5 and request[3] in _RELATIVE_UNITS:
        return _set_for(keyspace, request[1], request[2], request[4], _RELATIVE_UNITS[request[3]], "set")
    return _set_with_options(keyspace, request[1], request[2], parse_set_options(request))


def _set_with_options(keyspace: Keyspace, key: bytes, value: bytes, options: SetOptions) -> Reply:
    expires_at_ms = NEVER
    if options.lifetime is not None:
        expires_at_ms = options.lifetime.expires_at_ms(keyspace.store.now_ms, "set")
    record = find(keyspace, key) if options.get else keyspace.get(key)
    held = None if record is None or not options.get else string_of(record)
    if (options.nx and record is not None) or (options.xx and record is None):
        return held
    is_new = record is None
    if options.lifetime is not None:
        write_for(keyspace, key, value, expires_at_ms, is_new=is_new)
    else:
        kept = record[EXPIRES_AT] if options.keep_ttl and record is not None else NEVER
        _write(keyspace, key, value, kept, is_new=is_new)
    return held if options.get else OK


def _write(keyspace: Keyspace, key: bytes, value: bytes, expires_at_ms: int = NEVER, *, is_new: bool) -> None:
    """Put a value in place of whatever was there."""
    keyspace.put(key, value, expires_at_ms)
    announce(keyspace, key, b"set", notify.STRING, is_new=is_new)


def write_for(
    keyspace: Keyspace,
    key: bytes,
    value: bytes,
    expires_at_ms: int,
    metadata: bytes | None = None,
    *,
    is_new: bool,
) -> None:
    """Put a value that expires. A moment that has passed leaves no key behind."""
    is_over = expires_at_ms <= keyspace.store.now_ms
    if is_over:
        keyspace.delete(key)
    else:
        keyspace.put(key, value, expires_at_ms, metadata)
    if keyspace.notifying:
        announce(keyspace, key, b"set", notify.STRING, is_new=is_new)
        keyspace.notify(b"expire", key, notify.GENERIC)
        if is_over:
            keyspace.notify(b"expired", key, notify.EXPIRED)


@data_command(
    "SETNX",
    arity=3,
    flags=_WRITE | Flag.FAST,
    keys=(KeyRange(1, access=_INSERT),),
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Give a key a value, only if the key does not exist.",
    arguments=(_KEY, _VALUE),
)
def setnx(keyspace: Keyspace, request: Request) -> Reply:
    if keyspace.get(request[1]) is not None:
        return 0
    _write(keyspace, request[1], request[2], is_new=True)
    return 1


@data_command(
    "SETEX",
    arity=4,
    flags=_WRITE,
    keys=(KeyRange(1, access=_OW),),
    group="string",
    since="2.0.0",
    complexity="O(1)",
    summary="Give a key a value and an expiry in seconds.",
    arguments=(_KEY, Arg("seconds", "integer"), _VALUE),
)
def setex(keyspace: Keyspace, request: Request) -> Reply:
    return _set_for(keyspace, request[1], request[3], request[2], 1000, "setex")


@data_command(
    "PSETEX",
    arity=4,
    flags=_WRITE,
    keys=(KeyRange(1, access=_OW),),
    group="string",
    since="2.6.0",
    complexity="O(1)",
    summary="Give a key a value and an expiry in milliseconds.",
    arguments=(_KEY, Arg("milliseconds", "integer"), _VALUE),
)
def psetex(keyspace: Keyspace, request: Request) -> Reply:
    return _set_for(keyspace, request[1], request[3], request[2], 1, "psetex")


def _set_for(
    keyspace: Keyspace, key: bytes, value: bytes, amount: bytes, unit_ms: int, command: str
) -> Reply:
    expires_at_ms = parse_moment(amount, unit_ms, keyspace.store.now_ms, command)
    is_new = keyspace.notifying and keyspace.get(key) is None
    write_for(keyspace, key, value, expires_at_ms, is_new=is_new)
    return OK


@data_command(
    "GETSET",
    arity=3,
    flags=_WRITE | Flag.FAST,
    keys=(KeyRange(1, access=_RW),),
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Give a key a value and return the one it had.",
    arguments=(_KEY, _VALUE),
    replaced_by="`SET` with the `!GET` argument",
    deprecated_since="6.2.0",
)
def getset(keyspace: Keyspace, request: Request) -> Reply:
    held = read_string(keyspace, request[1])
    _write(keyspace, request[1], request[2], is_new=held is None)
    return held


@data_command(
    "GETDEL",
    arity=2,
    flags=Flag.WRITE | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1, access=("RW", "access", "delete")),),
    group="string",
    since="6.2.0",
    complexity="O(1)",
    summary="Return the value of a key and delete the key.",
    arguments=(_KEY,),
)
def getdel(keyspace: Keyspace, request: Request) -> Reply:
    held = read_string(keyspace, request[1])
    if held is not None:
        delete(keyspace, request[1])
    return held


@data_command(
    "GETEX",
    arity=-2,
    flags=Flag.WRITE | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1, access=_RW),),
    group="string",
    since="6.2.0",
    complexity="O(1)",
    summary="Return the value of a key and give it another expiry, or none.",
    arguments=(
        _KEY,
        Arg(
            "expiration",
            "oneof",
            optional=True,
            arguments=(*_LIFETIMES, Arg("persist", "pure-token", token="PERSIST")),
        ),
    ),
)
def getex(keyspace: Keyspace, request: Request) -> Reply:
    options = parse_getex_options(request)
    key = request[1]
    record = find(keyspace, key)
    if record is None:
        return None
    held = string_of(record)
    if options.lifetime is not None:
        expires_at_ms = options.lifetime.expires_at_ms(keyspace.store.now_ms, "getex")
        if expires_at_ms <= keyspace.store.now_ms:
            delete(keyspace, key)
        else:
            keyspace.expire(key, expires_at_ms)
            announce(keyspace, key, b"expire", notify.GENERIC)
    elif options.persist and record[EXPIRES_AT] != NEVER:
        keyspace.expire(key, NEVER)
        announce(keyspace, key, b"persist", notify.GENERIC)
    return held


@data_command(
    "MGET",
    arity=-2,
    flags=_FAST_READ,
    keys=(KeyRange(1, -1),),
    group="string",
    since="1.0.0",
    complexity="O(N) where N is the number of keys to retrieve.",
    summary="Return the values of several keys; null for each that is missing or holds no string.",
    arguments=(Arg("key", "key", multiple=True),),
    tips=("request_policy:multi_shard",),
)
def mget(keyspace: Keyspace, request: Request) -> Reply:
    values: list[bytes | None] = []
    for key in request[1:]:
        record = find(keyspace, key)
        value = None if record is None else record[VALUE]
        values.append(value if type(value) is bytes else None)
    check_total(values)
    return values


@data_command(
    "MSET",
    arity=-3,
    flags=_WRITE,
    keys=(KeyRange(1, -1, 2, access=_OW),),
    group="string",
    since="1.0.1",
    complexity="O(N) where N is the number of keys to set.",
    summary="Give several keys their values at once: all of them or, after a failure, none.",
    arguments=_PAIRS,
    tips=("request_policy:multi_shard", "response_policy:all_succeeded"),
)
def mset(keyspace: Keyspace, request: Request) -> Reply:
    _check_pairs(request, "mset")
    _write_pairs(keyspace, request)
    return OK


@data_command(
    "MSETNX",
    arity=-3,
    flags=_WRITE,
    keys=(KeyRange(1, -1, 2, access=_INSERT),),
    group="string",
    since="1.0.1",
    complexity="O(N) where N is the number of keys to set.",
    summary="Give several keys their values at once, only if none of them exists.",
    arguments=_PAIRS,
    tips=("request_policy:multi_shard", "response_policy:agg_min"),
)
def msetnx(keyspace: Keyspace, request: Request) -> Reply:
    _check_pairs(request, "msetnx")
    if any(keyspace.get(key) is not None for key in request[1::2]):
        return 0
    _write_pairs(keyspace, request)
    return 1


def _check_pairs(request: Request, command: str) -> None:
    if len(request) % 2 == 0:
        raise ErrorReply(f"ERR wrong number of arguments for '{command}' command")


def _write_pairs(keyspace: Keyspace, request: Request) -> None:
    """Write all pairs. Whatever could refuse one of them is found out before the first is written."""
    keys, values = request[1::2], request[2::2]
    limits = keyspace.store.limits
    longest_key, longest_value = max(map(len, keys)), max(map(len, values))
    if longest_key > limits.key_bytes_max:
        raise KeyTooLong(longest_key, limits.key_bytes_max)
    if longest_value > limits.value_bytes_max:
        raise ValueTooLong(longest_value, limits.value_bytes_max)
    absent = {key for key in keys if keyspace.get(key) is None}
    with keyspace.store.atomic():
        for key, value in zip(keys, values, strict=True):
            _write(keyspace, key, value, is_new=key in absent)
            absent.discard(key)


@data_command(
    "APPEND",
    arity=3,
    flags=_COPYING_WRITE | Flag.FAST,
    keys=(KeyRange(1, access=("RW", "insert")),),
    group="string",
    since="2.0.0",
    complexity="O(N) where N is the length of the resulting string: values are stored whole.",
    summary="Add bytes to the end of a string; a missing key is made with just these.",
    arguments=(_KEY, _VALUE),
)
def append(keyspace: Keyspace, request: Request) -> Reply:
    key, tail = request[1], request[2]
    held = peek_string(keyspace, key)
    value = tail
    if held is not None:
        check_length(keyspace, len(held) + len(tail))
        value = held + tail
    update_string(keyspace, key, value, b"append", is_new=held is None)
    return len(value)


@data_command(
    "STRLEN",
    arity=2,
    flags=_FAST_READ,
    keys=(KeyRange(1, access=("RO",)),),
    group="string",
    since="2.2.0",
    complexity="O(1)",
    summary="Return the length of a string in bytes; 0 for a missing key.",
    arguments=(_KEY,),
)
def strlen(keyspace: Keyspace, request: Request) -> Reply:
    return len(read_string(keyspace, request[1]) or b"")


@data_command(
    "GETRANGE",
    arity=4,
    flags=Flag.READONLY | Flag.PLAIN,
    keys=(KeyRange(1),),
    group="string",
    since="2.4.0",
    complexity="O(N) where N is the length of the returned string.",
    summary="Return the bytes of a string from one index to another; negative ones count from the end.",
    arguments=_RANGE,
)
def getrange(keyspace: Keyspace, request: Request) -> Reply:
    return _part(keyspace, request)


def _part(keyspace: Keyspace, request: Request) -> bytes:
    start = parse_integer(request[2])
    end = parse_integer(request[3])
    value = read_string(keyspace, request[1]) or b""
    if start < 0 and end < 0 and start > end:
        return b""
    start = max(start + len(value), 0) if start < 0 else start
    end = max(end + len(value), 0) if end < 0 else end
    return value[start : end + 1]


@data_command(
    "SUBSTR",
    arity=4,
    flags=Flag.READONLY | Flag.PLAIN,
    keys=(KeyRange(1),),
    group="string",
    since="1.0.0",
    complexity="O(N) where N is the length of the returned string.",
    summary="Return a part of a string: the former name of GETRANGE.",
    arguments=_RANGE,
    replaced_by="`GETRANGE`",
    deprecated_since="2.0.0",
)
def substr(keyspace: Keyspace, request: Request) -> Reply:
    return _part(keyspace, request)


@data_command(
    "SETRANGE",
    arity=4,
    flags=_COPYING_WRITE,
    keys=(KeyRange(1, access=("RW", "update")),),
    group="string",
    since="2.2.0",
    complexity="O(N) where N is the length of the resulting string: values are stored whole.",
    summary="Overwrite a part of a string from an offset on, after zero bytes where it was shorter.",
    arguments=(_KEY, Arg("offset", "integer"), _VALUE),
)
def setrange(keyspace: Keyspace, request: Request) -> Reply:
    key, part = request[1], request[3]
    offset = parse_integer(request[2])
    if offset < 0:
        raise ErrorReply("ERR offset is out of range")
    held = peek_string(keyspace, key)
    value = held or b""
    if not part:
        return len(value)
    check_length(keyspace, offset + len(part))
    value = value[:offset].ljust(offset, b"\0") + part + value[offset + len(part) :]
    update_string(keyspace, key, value, b"setrange", is_new=held is None)
    return len(value)


COMMANDS = (
    get,
    set_,
    setnx,
    setex,
    psetex,
    getset,
    getdel,
    getex,
    mget,
    mset,
    msetnx,
    append,
    strlen,
    getrange,
    substr,
    setrange,
)
