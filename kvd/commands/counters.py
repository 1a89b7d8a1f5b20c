"""Numbers in strings: INCR, DECR and their relatives, INCRBYFLOAT.

A counter is an ordinary string that holds a number. It keeps its expiry and metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd import notify
from kvd.commands import extended
from kvd.commands.arguments import INTEGER_MAX, INTEGER_MIN, WRONG_TYPE, parse_integer
from kvd.commands.lookup import announce, peek_string, update_string
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command
from protocol.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from storage.store import Keyspace

_KEY = Arg("key", "key")
_FLAGS = Flag.WRITE | Flag.DENYOOM | Flag.FAST | Flag.PLAIN
_KEYS = (KeyRange(1, access=("RW", "access", "update")),)


def _add(keyspace: Keyspace, key: bytes, amount: int) -> int:
    record = keyspace.get(key)
    total = amount
    if record is not None:
        value = record[0]
        if type(value) is not bytes:
            raise ErrorReply(WRONG_TYPE)
        total += parse_integer(value)
        if not INTEGER_MIN <= total <= INTEGER_MAX:
            raise ErrorReply("ERR increment or decrement would overflow")
    keyspace.update(key, b"%d" % total)
    if keyspace.notifying:
        announce(keyspace, key, b"incrby", notify.STRING, is_new=record is None)
    return total


@data_command(
    "INCR",
    arity=2,
    flags=_FLAGS,
    keys=_KEYS,
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Add one to the integer at a key; a missing key counts as 0.",
    arguments=(_KEY,),
)
def incr(keyspace: Keyspace, request: Request) -> Reply:
    return _add(keyspace, request[1], 1)


@data_command(
    "INCRBY",
    arity=3,
    flags=_FLAGS,
    keys=_KEYS,
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Add a number to the integer at a key; a missing key counts as 0.",
    arguments=(_KEY, Arg("increment", "integer")),
)
def incrby(keyspace: Keyspace, request: Request) -> Reply:
    return _add(keyspace, request[1], parse_integer(request[2]))


@data_command(
    "DECR",
    arity=2,
    flags=_FLAGS,
    keys=_KEYS,
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Take one from the integer at a key; a missing key counts as 0.",
    arguments=(_KEY,),
)
def decr(keyspace: Keyspace, request: Request) -> Reply:
    return _add(keyspace, request[1], -1)


@data_command(
    "DECRBY",
    arity=3,
    flags=_FLAGS,
    keys=_KEYS,
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Take a number from the integer at a key; a missing key counts as 0.",
    arguments=(_KEY, Arg("decrement", "integer")),
)
def decrby(keyspace: Keyspace, request: Request) -> Reply:
    amount = parse_integer(request[2])
    if amount == INTEGER_MIN:
        raise ErrorReply("ERR decrement would overflow")
    return _add(keyspace, request[1], -amount)


@data_command(
    "INCRBYFLOAT",
    arity=3,
    flags=_FLAGS,
    keys=_KEYS,
    group="string",
    since="2.6.0",
    complexity="O(1)",
    summary="Add a decimal number to the one at a key; a missing key counts as 0.",
    arguments=(_KEY, Arg("increment", "double")),
)
def incrbyfloat(keyspace: Keyspace, request: Request) -> Reply:
    key = request[1]
    held = peek_string(keyspace, key)
    try:
        total = extended.add(b"0" if held is None else held, request[2])
    except ValueError:
        raise ErrorReply("ERR value is not a valid float") from None
    except extended.Infinite:
        raise ErrorReply("ERR increment would produce NaN or Infinity") from None
    update_string(keyspace, key, total, b"incrbyfloat", is_new=held is None)
    return total


COMMANDS = (incr, incrby, decr, decrby, incrbyfloat)
