"""When two replies count as the same: byte for byte, but for what cannot be.

`rule_for` gives each request its rule. Where redis-server of an older version differs from Redis 7.2 on
purpose, or kvd from both, `DIFFERENCES` lists it, with the reason; nothing else is let through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from kvd import rdb
from tests.compat.wire import elements

Rule: TypeAlias = Callable[[bytes, bytes], bool]
Request: TypeAlias = list[bytes]

# How far apart two servers may be in what they say of time, in seconds: they are asked one after the other.
_SECONDS: Final = 3


def exact(redis: bytes, kvd: bytes) -> bool:
    return redis == kvd


def near(tolerance: int) -> Rule:
    """Integers that differ by at most `tolerance`; negative ones are codes and must be equal."""

    def rule(redis: bytes, kvd: bytes) -> bool:
        if redis[:1] != b":" or kvd[:1] != b":" or b"-" in redis + kvd:
            return redis == kvd
        return abs(int(redis[1:]) - int(kvd[1:])) <= tolerance

    return rule


def unordered(redis: bytes, kvd: bytes) -> bool:
    """Arrays with the same elements in any order."""
    if redis[:1] != b"*" or kvd[:1] != b"*":
        return redis == kvd
    return sorted(elements(redis)) == sorted(elements(kvd))


def page(redis: bytes, kvd: bytes) -> bool:
    """The answer of a SCAN that goes through everything at once."""
    if redis[:1] != b"*" or kvd[:1] != b"*":
        return redis == kvd
    (redis_cursor, redis_keys), (kvd_cursor, kvd_keys) = elements(redis), elements(kvd)
    return redis_cursor == kvd_cursor and unordered(redis_keys, kvd_keys)


def same_kind(redis: bytes, kvd: bytes) -> bool:
    """Both null, both errors with the same code word, or both of the same type."""
    if redis[:1] == b"-" or kvd[:1] == b"-":
        return redis.split(b" ")[0] == kvd.split(b" ")[0]
    nulls = {b"_\r\n", b"$-1\r\n", b"*-1\r\n"}
    return redis[:1] == kvd[:1] and (redis in nulls) == (kvd in nulls)


def same_dump(redis: bytes, kvd: bytes) -> bool:
    """Payloads of the same value: Redis may compress, and writes the version of its format."""
    if redis[:2] == b"$-" or redis[:1] != b"$":
        return redis == kvd
    return _dumped(redis) == _dumped(kvd)


def _dumped(frame: bytes) -> bytes:
    return rdb.load_string(frame[frame.index(b"\r\n") + 2 : -2], 1 << 20)


_RULES: Final[dict[bytes, Rule]] = {
    b"KEYS": unordered,
    b"SCAN": page,
    b"RANDOMKEY": same_kind,
    b"DUMP": same_dump,
    b"TTL": near(_SECONDS),
    b"EXPIRETIME": near(_SECONDS),
    b"PTTL": near(_SECONDS * 1000),
    b"PEXPIRETIME": near(_SECONDS * 1000),
    b"TIME": same_kind,
    b"LASTSAVE": same_kind,
    b"PUBSUB CHANNELS": unordered,
    b"PUBSUB SHARDCHANNELS": unordered,
    b"MEMORY USAGE": same_kind,
    b"OBJECT HELP": same_kind,
    b"OBJECT IDLETIME": same_kind,
    b"CLIENT ID": same_kind,
    b"CLIENT INFO": same_kind,
    b"CLIENT LIST": same_kind,
    b"COMMAND COUNT": same_kind,
    b"SLOWLOG LEN": same_kind,
}


def rule_for(request: Request) -> Rule:
    """Return the rule by which the replies to `request` are compared."""
    name = request[0].upper()
    whole = b" ".join([name, *(word.upper() for word in request[1:2])])
    return _RULES.get(whole) or _RULES.get(name, exact)


def is_exact(name: str) -> bool:
    """Tell whether all replies to a command are compared byte for byte."""
    return rule_for(name.encode().split()) is exact


def same(request: Request, queued: list[Request], redis: bytes, kvd: bytes) -> bool:
    """Tell whether both replies to `request` are the same; `queued` are the requests that EXEC runs."""
    if redis == kvd or rule_for(request)(redis, kvd):
        return True
    if any(accepts(request, redis, kvd) for accepts in DIFFERENCES):
        return True
    if request[0].upper() != b"EXEC" or redis[:1] != b"*" or kvd[:1] != b"*":
        return False
    redis_replies, kvd_replies = elements(redis), elements(kvd)
    return len(redis_replies) == len(kvd_replies) == len(queued) and all(
        same(inner, [], left, right)
        for inner, left, right in zip(queued, redis_replies, kvd_replies, strict=True)
    )


def _checks_arguments_first(request: Request, redis: bytes, kvd: bytes) -> bool:
    """Since 7.2, BITCOUNT and BITPOS refuse wrong arguments even if there is no such key."""
    return request[0].upper() in {b"BITCOUNT", b"BITPOS"} and redis[:1] == b":" and kvd[:1] == b"-"


DIFFERENCES: Final[tuple[Callable[[Request, bytes, bytes], bool], ...]] = (_checks_arguments_first,)
