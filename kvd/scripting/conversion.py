"""Values between Lua and commands: replies on their way into a script, and a script's result on its way out.

What a reply becomes depends on the protocol that the script has chosen with redis.setresp:

    ================  ===========================  ====================================
    reply             protocol 2                   protocol 3
    ================  ===========================  ====================================
    bytes, int        string, number               string, number
    None              false                        nil
    Simple            {ok = text}                  {ok = text}
    ErrorReply        {err = text}                 {err = text}
    list, tuple       a table from 1               a table from 1
    dict              a flat table                 {map = {key = value}}
    Set               a table from 1               {set = {member = true}}
    float             string                       {double = number}
    bool              1 or 0                       true or false
    Verbatim          string                       {verbatim_string = {string=, format=}}
    BigNumber         string                       {big_number = digits}
    ================  ===========================  ====================================

Source: Redis 7.2, "Data type conversion" of the scripting documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from protocol.encode import format_double
from protocol.replies import BigNumber, ErrorReply, Reply, Set, Simple, Verbatim

# What a table of Lua takes for one element, and a string beside its bytes.
_ELEMENT_BYTES: Final = 40
_STRING_BYTES: Final = 32

# What most lists of replies consist of; for them the way into Lua is short.
_FLAT: Final = frozenset({bytes, int, type(None)})

# Makes a Lua table from a list or dict of what Lua understands.
TableMaker: TypeAlias = Callable[[Any], Any]


def size_in_lua(reply: Reply) -> int:
    """Return about how many bytes `reply` takes as a Lua value; never much less."""
    if isinstance(reply, bytes):
        return len(reply) + _STRING_BYTES
    if isinstance(reply, dict):
        return _ELEMENT_BYTES + sum(
            _ELEMENT_BYTES + size_in_lua(k) + size_in_lua(v) for k, v in reply.items()
        )
    if isinstance(reply, list | tuple):
        if _is_flat(reply):
            texts = sum(len(item) + _STRING_BYTES for item in reply if type(item) is bytes)
            return _ELEMENT_BYTES * (len(reply) + 1) + texts
        return _ELEMENT_BYTES + sum(_ELEMENT_BYTES + size_in_lua(item) for item in reply)
    if isinstance(reply, Simple | Verbatim):
        return len(reply.text) + 2 * _ELEMENT_BYTES
    if isinstance(reply, BigNumber):
        return len(reply.digits) + 2 * _ELEMENT_BYTES
    if isinstance(reply, ErrorReply):
        return len(reply.text) + 2 * _ELEMENT_BYTES
    return _ELEMENT_BYTES


def _is_flat(reply: list[Any] | tuple[Any, ...]) -> bool:
    return _FLAT.issuperset(map(type, reply))


def to_lua(reply: Reply, table: TableMaker, proto: int) -> Any:
    """Return what a script gets for `reply`. Makes tables, so the memory limit must be off."""
    if reply is None:
        return False if proto == 2 else None
    if isinstance(reply, bytes) or type(reply) is int:
        return reply
    if isinstance(reply, Simple):
        return table({b"ok": reply.text})
    if isinstance(reply, ErrorReply):
        return table({b"err": reply.text.encode("utf-8", "surrogateescape")})
    if isinstance(reply, dict | list | tuple):
        return _aggregate_to_lua(reply, table, proto)
    return _scalar_to_lua2(reply) if proto == 2 else _scalar_to_lua3(reply, table)


def _aggregate_to_lua(
    reply: dict[Any, Any] | list[Any] | tuple[Any, ...], table: TableMaker, proto: int
) -> Any:
    if isinstance(reply, dict):
        if proto == 2:
            return table([to_lua(item, table, 2) for pair in reply.items() for item in pair])
        return table({b"map": table({to_lua(k, table, 3): to_lua(v, table, 3) for k, v in reply.items()})})
    if isinstance(reply, Set) and proto == 3:
        return table({b"set": table({to_lua(item, table, 3): True for item in reply})})
    if _is_flat(reply):
        null = False if proto == 2 else None
        return table([null if item is None else item for item in reply])
    return table([to_lua(item, table, proto) for item in reply])


def _scalar_to_lua2(reply: Reply) -> Any:
    if isinstance(reply, bool):
        return int(reply)
    if isinstance(reply, float):
        return format_double(reply)
    if isinstance(reply, Verbatim):
        return reply.text
    if isinstance(reply, BigNumber):
        return reply.digits
    return False  # the markers of "nothing"


def _scalar_to_lua3(reply: Reply, table: TableMaker) -> Any:
    if isinstance(reply, bool):
        return reply
    if isinstance(reply, float):
        return table({b"double": reply})
    if isinstance(reply, Verbatim):
        return table({b"verbatim_string": table({b"string": reply.text, b"format": reply.format})})
    if isinstance(reply, BigNumber):
        return table({b"big_number": reply.digits})
    return None


# --- from a script

_INTEGER_MIN: Final = -(1 << 63)
_LINE_BREAKS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


def from_number(number: float) -> int:
    """Return the integer that a number of a script is for a client: cut towards zero.

    What does not fit into 64 bits becomes the least integer, as a C cast makes it.
    """
    try:
        whole = int(number)
    except (OverflowError, ValueError):
        return _INTEGER_MIN
    return whole if -_INTEGER_MIN > whole >= _INTEGER_MIN else _INTEGER_MIN


def from_boolean(value: bool, proto: int) -> Reply:
    """Return the reply for true or false: protocol 2 knows only 1 and null."""
    if proto == 3:
        return value
    return 1 if value else None


def from_pieces(values: Iterable[Any], proto: int) -> Reply:
    """Return the reply that `lua/run.lua` has sent as a flat sequence; see there for its form.

    Recursion is bounded by the sender's limit on nesting.
    """
    return _read(iter(values), proto)


def _read(values: Iterator[Any], proto: int) -> Reply:
    value = next(values)
    if isinstance(value, bytes):
        return value
    if value is not None:
        return from_number(value)
    kind, argument = next(values), next(values)
    scalar = _SCALARS.get(kind)
    return scalar(argument) if scalar is not None else _read_compound(kind, argument, values, proto)


_SCALARS: Final[dict[bytes, Callable[[Any], Reply]]] = {
    b"null": lambda _: None,
    b"double": float,
    b"number": lambda digits: BigNumber(digits.translate(_LINE_BREAKS_TO_SPACES)),
    b"status": Simple,
    b"error": lambda text: ErrorReply(error_text(text)),
}


def _read_compound(kind: bytes, argument: Any, values: Iterator[Any], proto: int) -> Reply:
    match kind:
        case b"boolean":
            return from_boolean(argument, proto)
        case b"verbatim":
            return Verbatim(next(values), argument)
        case b"list":
            return [_read(values, proto) for _ in range(argument)]
        case b"set":
            return Set([_read(values, proto) for _ in range(argument)])
        case b"map":
            pairs = [(_read(values, proto), _read(values, proto)) for _ in range(argument)]
            return {_hashable(key): value for key, value in pairs}
    raise AssertionError(f"no such kind of value: {kind!r}")


def _hashable(key: Reply) -> Reply:
    """Let a list or a map be a map's key."""
    if isinstance(key, dict):
        return tuple((_hashable(k), _hashable(v)) for k, v in key.items())
    if isinstance(key, list):
        return tuple(_hashable(item) for item in key)
    return key


def error_text(text: bytes) -> str:
    """Return the text of an error of a script; bytes that are not UTF-8 travel as surrogate escapes."""
    return text.decode("utf-8", "surrogateescape")
