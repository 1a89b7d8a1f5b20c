"""Arguments of requests: from bytes to numbers and options, with Redis's error texts.

Integers are read strictly: only the form in which they would be written is accepted, so ``+1``, ``01``,
``-0``, blanks and underscores are errors, and every number is a signed 64-bit one.

Source: Redis 7.2, behaviour of `string2ll` and of the option parsers of SET, GETEX and EXPIRE.
"""

from __future__ import annotations

from typing import Final

from kvd.glob import Glob, compile_glob
from protocol.replies import ErrorReply
from storage.record import NEVER

INTEGER_MIN: Final = -(1 << 63)
INTEGER_MAX: Final = (1 << 63) - 1

NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
SYNTAX_ERROR: Final = "ERR syntax error"
WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"
NO_SUCH_KEY: Final = "ERR no such key"

# The longest integer is 20 characters; longer text is refused before it is read.
_INTEGER_BYTES_MAX: Final = 20


def parse_integer(text: bytes, refusal: str = NOT_AN_INTEGER) -> int:
    """Return the signed 64-bit integer that `text` is. Raise `ErrorReply` with `refusal`."""
    if len(text) <= _INTEGER_BYTES_MAX:
        try:
            number = int(text)
        except ValueError:
            raise ErrorReply(refusal) from None
        # int() accepts more than Redis does; only the canonical form comes out as it went in.
        if b"%d" % number == text and INTEGER_MIN <= number <= INTEGER_MAX:
            return number
    raise ErrorReply(refusal)


def is_integer(text: bytes) -> bool:
    """Tell whether `text` is an integer that `parse_integer` accepts."""
    try:
        parse_integer(text)
    except ErrorReply:
        return False
    return True


def c_text(argument: bytes) -> str:
    """Return `argument` as an error quotes it: a text of C's, which ends at a zero byte."""
    return argument.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def parse_int32(text: bytes) -> int:
    """Return the signed 32-bit integer that `text` is. Raise `ErrorReply`."""
    number = parse_integer(text)
    if not -(1 << 31) <= number < 1 << 31:
        raise ErrorReply("ERR value is out of range, value must between -2147483648 and 2147483647")
    return number


def parse_moment(text: bytes, unit_ms: int, base_ms: int, command: str) -> int:
    """Return the moment `text` units after `base_ms`, in ms since the epoch, at most `NEVER` - 1.

    The number must be positive. Raise `ErrorReply`, which names `command`.
    """
    amount = parse_integer(text)
    moment = amount * unit_ms + base_ms
    if amount <= 0 or moment > INTEGER_MAX:
        raise ErrorReply(f"ERR invalid expire time in '{command}' command")
    return moment if moment < NEVER else NEVER - 1


def parse_glob(pattern: bytes) -> Glob:
    """Return the compiled pattern. Raise `ErrorReply` if it is larger than patterns may be."""
    try:
        return compile_glob(pattern)
    except ValueError as error:
        raise ErrorReply(f"ERR {error}") from None


class Lifetime:
    """An expiry as an option gives it: a number, its unit, and whether it counts from now."""

    __slots__ = ("absolute", "amount", "unit_ms")

    def __init__(self, amount: bytes, unit_ms: int, *, absolute: bool) -> None:
        self.amount = amount
        self.unit_ms = unit_ms
        self.absolute = absolute

    def expires_at_ms(self, now_ms: int, command: str) -> int:
        """Return the moment it ends, as `parse_moment` does."""
        return parse_moment(self.amount, self.unit_ms, 0 if self.absolute else now_ms, command)


# Option word -> (milliseconds in its unit, whether the number is a point in time).
LIFETIME_OPTIONS: Final = {
    b"EX": (1000, False),
    b"PX": (1, False),
    b"EXAT": (1000, True),
    b"PXAT": (1, True),
}


class SetOptions:
    """What stands behind ``SET key value`` or ``GETEX key``."""

    __slots__ = ("get", "keep_ttl", "lifetime", "lifetime_word", "nx", "persist", "xx")

    def __init__(self) -> None:
        self.nx = False
        self.xx = False
        self.get = False
        self.keep_ttl = False
        self.persist = False
        self.lifetime: Lifetime | None = None
        self.lifetime_word = b""

    def take_lifetime(self, word: bytes, amount: bytes) -> bool:
        """Take EX, PX, EXAT or PXAT, unless a different one of them or KEEPTTL or PERSIST was there."""
        if self.keep_ttl or self.persist or self.lifetime_word not in {b"", word}:
            return False
        unit_ms, absolute = LIFETIME_OPTIONS[word]
        self.lifetime = Lifetime(amount, unit_ms, absolute=absolute)
        self.lifetime_word = word
        return True


def parse_set_options(request: list[bytes]) -> SetOptions:
    """Read the options of SET from its fourth argument on. Raise `ErrorReply` for a conflict."""
    options = SetOptions()
    index = 3
    while index < len(request):
        word = request[index].upper()
        if word in LIFETIME_OPTIONS and index + 1 < len(request):
            index += 1
            accepted = options.take_lifetime(word, request[index])
        else:
            accepted = _take_set_word(options, word)
        if not accepted:
            raise ErrorReply(SYNTAX_ERROR)
        index += 1
    return options


def _take_set_word(options: SetOptions, word: bytes) -> bool:
    if word == b"NX" and not options.xx:
        options.nx = True
    elif word == b"XX" and not options.nx:
        options.xx = True
    elif word == b"GET":
        options.get = True
    elif word == b"KEEPTTL" and options.lifetime is None:
        options.keep_ttl = True
    else:
        return False
    return True


def parse_getex_options(request: list[bytes]) -> SetOptions:
    """Read the options of GETEX from its third argument on. Raise `ErrorReply` for a conflict."""
    options = SetOptions()
    index = 2
    while index < len(request):
        word = request[index].upper()
        if word in LIFETIME_OPTIONS and index + 1 < len(request):
            index += 1
            accepted = options.take_lifetime(word, request[index])
        else:
            accepted = word == b"PERSIST" and options.lifetime is None
            options.persist = accepted
        if not accepted:
            raise ErrorReply(SYNTAX_ERROR)
        index += 1
    return options
