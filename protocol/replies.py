"""Reply values: what a command handler returns, before any encoding.

A handler returns plain Python values; `protocol.encode` turns them into RESP2 or RESP3
bytes by the session's protocol version. The plain values and what they become:

    ================  ==========================  ==========================
    value             RESP3                       RESP2
    ================  ==========================  ==========================
    None              null ``_``                  null bulk string ``$-1``
    bytes             bulk string                 bulk string
    int               integer                     integer
    float             double ``,``                bulk string
    bool              boolean ``#``               integer 1 or 0
    list, tuple       array                       array
    dict              map ``%``                   flat array
    Simple            simple string               simple string
    ErrorReply        simple error                simple error
    NULL_ARRAY        null ``_``                  null array ``*-1``
    Set               set ``~``                   array
    Push              push ``>``                  array
    Verbatim          verbatim string ``=``       bulk string
    BigNumber         big number ``(``            bulk string
    Attributed        attribute ``|``, reply      the reply
    Encoded           its bytes                   its bytes
    NO_REPLY          nothing                     nothing
    ================  ==========================  ==========================

Source: RESP3 specification (redis-specifications, protocol/RESP3.md) and Redis 7.2 behaviour.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias


class ErrorReply(Exception):
    """An error for the client: raised by a handler, or held as a value inside an array.

    `text` starts with the error's code word (``ERR``, ``WRONGTYPE`` ...), as on the wire
    without the leading ``-``. Line breaks in it are replaced by spaces when it is encoded.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Simple:
    """A simple string: a short status without line breaks."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Simple({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Simple) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class Verbatim:
    """Text for people; `format` is the three-letter kind, ``txt`` or ``mkd``."""

    __slots__ = ("format", "text")

    def __init__(self, text: bytes, format: bytes = b"txt") -> None:
        self.text = text
        self.format = format


class BigNumber:
    """An integer beyond 64 bits, as its decimal digits."""

    __slots__ = ("digits",)

    def __init__(self, digits: bytes) -> None:
        self.digits = digits


class Set(tuple[Any, ...]):
    """An unordered collection; the elements are sent in the order given."""

    __slots__ = ()


class Push(tuple[Any, ...]):
    """Out-of-band data: the first element is its kind (``message``, ``invalidate`` ...)."""

    __slots__ = ()


class Attributed:
    """A reply with attributes before it: what a client may want to know about it, and may ignore."""

    __slots__ = ("attributes", "reply")

    def __init__(self, attributes: dict[Any, Any], reply: Any) -> None:
        self.attributes = attributes
        self.reply = reply


class Encoded:
    """A reply that was encoded before, by the protocol of the session that it is for."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Marker:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


NULL_ARRAY: Final = _Marker("NULL_ARRAY")
NO_REPLY: Final = _Marker("NO_REPLY")
OK: Final = Simple(b"OK")
PONG: Final = Simple(b"PONG")
QUEUED: Final = Simple(b"QUEUED")

# What `Any` stands for is the table above; a recursive alias would only slow the type checker.
Reply: TypeAlias = Any
