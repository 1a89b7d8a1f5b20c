"""DEBUG: what test suites of clients need to provoke a server, for connections from this machine only.

Redis keeps DEBUG behind ``enable-debug-command``, off by default; here it is always "local", which lets test
suites run as they are. What would crash the server, or shows insides that kvd does not have, is missing.

Source: Redis 7.2 DEBUG; it has no declared subcommands, so this is one command with a table of words.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs
import structlog

from kvd.commands import debug_data, objects, walks
from kvd.commands.arguments import NO_SUCH_KEY, parse_integer
from kvd.commands.help import subcommand_error
from kvd.commands.lookup import check_length, string_of
from kvd.commands.spec import Flag, Request, session_command
from kvd.rdb import dump_string
from protocol.replies import OK, Attributed, BigNumber, ErrorReply, Push, Reply, Set, Simple, Verbatim
from storage.errors import KeyTooLong

if TYPE_CHECKING:
    from kvd.session import Session

log = structlog.get_logger()

# Longest time that DEBUG SLEEP may stop the whole daemon for.
SLEEP_SECONDS_MAX: Final = 60.0

# What stands around a string in DUMP's form: the type before it, version and checksum behind it.
_DUMP_FRAME_BYTES: Final = 11

_ARGUMENTS_MAX: Final = 1 << 20
_NOT_POSITIVE: Final = "ERR value is out of range, must be positive"

_NOT_ALLOWED: Final = (
    'ERR DEBUG command not allowed. If the enable-debug-command option is set to "local", you can run it '
    "from a local connection, otherwise you need to set this option in the configuration file, and then "
    "restart the server."
)


def _sleep(session: Session, request: Request) -> Reply:
    try:
        seconds = float(request[2])
    except ValueError:
        seconds = 0.0  # as Redis, which reads what it can
    if math.isfinite(seconds) and seconds > 0:
        time.sleep(min(seconds, SLEEP_SECONDS_MAX))
    return OK


def _object(session: Session, request: Request) -> Reply:
    record = session.keyspace.get(request[2])
    if record is None:
        raise ErrorReply(NO_SUCH_KEY)
    size = len(dump_string(string_of(record))) - _DUMP_FRAME_BYTES
    encoding = objects.encoding.data_handler
    assert encoding is not None
    return Simple(
        b"Value at:0x%x refcount:1 encoding:%b serializedlength:%d lru:0 lru_seconds_idle:0"
        % (id(record), encoding(session.keyspace, request), size)
    )


def _digest(session: Session, request: Request) -> Reply:
    server = session.server
    databases = [server.store.keyspace(number) for number in range(server.settings.compat.databases)]
    return walks.walk_aside(session, walks.Search(debug_data.digest_steps(databases)))


def _digest_value(session: Session, request: Request) -> Reply:
    keyspace = session.keyspace
    return [debug_data.shown(debug_data.digest_of_value(keyspace.get(key))) for key in request[2:]]


def _populate(session: Session, request: Request) -> Reply:
    count = _parse_positive(request[2])
    prefix = request[3] if len(request) > 3 else b"key"
    size = _parse_positive(request[4]) if len(request) > 4 else 0
    keyspace, server = session.keyspace, session.server
    limits = server.store.limits
    if len(prefix) + 1 + len(str(count)) > limits.key_bytes_max:
        raise KeyTooLong(len(prefix) + 1 + len(str(count)), limits.key_bytes_max)
    check_length(keyspace, size)
    keyspace.check_open()
    if session.transaction is not None:
        raise ErrorReply("ERR DEBUG POPULATE writes in slices, so it cannot be part of a transaction")
    return walks.walk_aside(
        session, walks.Search(debug_data.populate_steps(server, keyspace, count, prefix, size))
    )


def _parse_positive(text: bytes) -> int:
    number = parse_integer(text, _NOT_POSITIVE)
    if number < 0:
        raise ErrorReply(_NOT_POSITIVE)
    return number


def _set_active_expire(session: Session, request: Request) -> Reply:
    session.server.sweeping = request[2] != b"0"
    return OK


def _error(session: Session, request: Request) -> Reply:
    raise ErrorReply(request[2].decode("utf-8", "surrogateescape"))


def _log(session: Session, request: Request) -> Reply:
    log.warning("DEBUG LOG", message=request[2].decode("utf-8", "replace"))
    return OK


def _accept(session: Session, request: Request) -> Reply:
    return OK


def _protocol(session: Session, request: Request) -> Reply:
    kind = request[2].decode("utf-8", "replace").lower()
    if kind not in _EXAMPLES:
        names = "|".join(_EXAMPLES)
        raise ErrorReply(f"ERR Wrong protocol type name. Please use one of the following: {names}")
    if session.proto == 2 and kind in _RESP3_ONLY:
        raise ErrorReply("ERR RESP2 is not supported by this command")
    return _push(session) if kind == "push" else _EXAMPLES[kind]


def _push(session: Session) -> Reply:
    session.push(Push((b"server-cpu-usage", 42)))
    return b"Some real reply following the push reply"


# The values are Redis's: suites of client libraries compare with them.
_EXAMPLES: Final[dict[str, Reply]] = {
    "string": b"Hello World",
    "integer": 12345,
    "double": 3.141,
    "bignum": BigNumber(b"1234567999999999999999999999999999999"),
    "null": None,
    "array": [0, 1, 2],
    "set": Set((0, 1, 2)),
    "map": {0: False, 1: True, 2: False},
    "attrib": Attributed({b"key-popularity": [b"key:123", 90]}, b"Some real reply following the attribute"),
    "push": None,  # is sent beside its reply
    "verbatim": Verbatim(b"This is a verbatim\nstring"),
    "true": True,
    "false": False,
}


_RESP3_ONLY: Final = frozenset({"attrib", "push"})


@attrs.frozen
class _Word:
    """One subcommand: how many arguments stand behind its name, how they are written, and what it does."""

    handler: Callable[[Session, Request], Reply]
    count: int
    syntax: str
    summary: str
    optional_count: int = 0


def _help(session: Session, request: Request) -> Reply:
    lines = ["DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for name, word in _WORDS.items():
        lines += [f"{name.decode()} {word.syntax}".rstrip(), f"    {word.summary}"]
    return [Simple(line.encode()) for line in lines]


_WORDS: Final = {
    b"CHANGE-REPL-ID": _Word(_accept, 0, "", "Accepted: there is no replication stream."),
    b"DIGEST": _Word(
        _digest, 0, "", "Return a digest of all keys of the numbered databases, as Redis has it."
    ),
    b"DIGEST-VALUE": _Word(
        _digest_value, 0, "[<key> ...]", "Return a digest of the value of each key.", _ARGUMENTS_MAX
    ),
    b"ERROR": _Word(_error, 1, "<string>", "Answer with an error of this text."),
    b"LOG": _Word(_log, 1, "<message>", "Write a line to the daemon's log."),
    b"LOADAOF": _Word(_accept, 0, "", "Accepted: all data is on disk, nothing is loaded."),
    b"OBJECT": _Word(_object, 1, "<key>", "Tell how the value of a key is held."),
    b"POPULATE": _Word(
        _populate,
        1,
        "<count> [<prefix>] [<size>]",
        "Write <count> keys <prefix>:<number>, with values of <size> bytes, where there are none.",
        2,
    ),
    b"PROTOCOL": _Word(_protocol, 1, "<type>", "Answer with an example of a type of RESP."),
    b"QUICKLIST-PACKED-THRESHOLD": _Word(_accept, 1, "<size>", "Accepted: there are no lists."),
    b"RELOAD": _Word(_accept, 0, "", "Accepted: all data is on disk, nothing is loaded."),
    b"SET-ACTIVE-EXPIRE": _Word(_set_active_expire, 1, "<0|1>", "Stop or start the sweep of expired keys."),
    b"SLEEP": _Word(_sleep, 1, "<seconds>", "Stop the whole daemon for a while, a minute at most."),
    b"HELP": _Word(_help, 0, "", "Print this help."),
}


@session_command(
    "DEBUG",
    arity=-2,
    flags=Flag.ADMIN | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE,
    group="server",
    since="1.0.0",
    complexity="Depends on subcommand.",
    summary="Provoke the server, for tests of client libraries.",
    is_system=True,
)
def debug(session: Session, request: Request) -> Reply:
    if not session.endpoint.is_local:
        raise ErrorReply(_NOT_ALLOWED)
    word = _WORDS.get(request[1].upper())
    if word is None or not word.count <= len(request) - 2 <= word.count + word.optional_count:
        raise subcommand_error(request)
    return word.handler(session, request)


COMMANDS: Final = (debug,)
