"""What a command is: one declaration that everything else is derived from.

A `CommandSpec` holds the handler and all that is known about it. Dispatch, arity errors, ACL
categories, COMMAND, COMMAND DOCS, COMMAND GETKEYS, per-command statistics, the reference page
and the generated tests read it; nothing about a command is written anywhere else.

Two kinds of command, told apart by the decorator that declares them:

* `data_command`: ``handler(keyspace, request) -> Reply``. Synchronous, touches records of one
  store only, so it may run inside MULTI and scripts, and again when a commit has failed.
* `session_command`: ``handler(session, request) -> Reply``. Needs the connection or the server.

``request`` is a list of byte strings; ``request[0]`` is the name as the client wrote it. A handler
decides first and mutates last: one that raises `ErrorReply` has written nothing.

A subcommand is declared under its full name, ``"CONFIG|GET"``; its container (``"CONFIG"``) is
declared by `container`. Arity counts the name (and the subcommand's name); negative means
"at least". Source: Redis 7.2 `COMMAND` documentation for flags, arity, key specs and categories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Flag as EnumFlag
from enum import auto
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from protocol.replies import Reply

if TYPE_CHECKING:
    from kvd.session import Session
    from storage.store import Keyspace

Request: TypeAlias = list[bytes]
DataHandler: TypeAlias = "Callable[[Keyspace, Request], Reply]"
SessionHandler: TypeAlias = "Callable[[Session, Request], Reply]"


class Flag(EnumFlag):
    """What dispatch has to know; the lower-case names are those of Redis's COMMAND INFO."""

    NONE = 0
    WRITE = auto()
    READONLY = auto()
    DENYOOM = auto()
    ADMIN = auto()
    PUBSUB = auto()
    NOSCRIPT = auto()
    BLOCKING = auto()
    LOADING = auto()
    STALE = auto()
    SKIP_MONITOR = auto()
    SKIP_SLOWLOG = auto()
    FAST = auto()
    NO_AUTH = auto()
    MAY_REPLICATE = auto()
    SENTINEL = auto()
    ALLOW_BUSY = auto()
    MOVABLEKEYS = auto()
    NO_MULTI = auto()
    NO_ASYNC_LOADING = auto()
    NO_MANDATORY_KEYS = auto()
    # Ours: constant time and no look at the session, so a pipeline's run of it is timed as one.
    PLAIN = auto()
    # Ours: a session command that may write records (EXEC, EVAL), so its reply stands on the commit.
    MAY_WRITE = auto()
    # Ours: it writes records of the cluster, if there is one, so its reply stands on the commit as well.
    SHARED = auto()


# In the order in which COMMAND INFO and ACL CAT list them.
ACL_CATEGORIES: Final = (
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
)

_CATEGORIES_OF_FLAG: Final = (
    (Flag.WRITE, ("write",)),
    (Flag.READONLY, ("read",)),
    (Flag.ADMIN, ("admin", "dangerous")),
    (Flag.PUBSUB, ("pubsub",)),
    (Flag.FAST, ("fast",)),
    (Flag.BLOCKING, ("blocking",)),
)

# Commands of other groups say themselves what they belong to, or their flags do.
_CATEGORY_OF_GROUP: Final = {
    "string": "string",
    "bitmap": "bitmap",
    "connection": "connection",
    "transactions": "transaction",
    "scripting": "scripting",
}


@attrs.frozen
class KeyRange:
    """Where the keys stand: `first` .. `last` in steps of `step`; a negative `last` counts from the end.

    `access` is what the command does to them, in the words of Redis's key specs: one of
    ``RO RW OW RM`` and any of ``access update insert delete not_key``. Where it depends on the
    request's options it has ``variable_flags`` as well, and `vary` returns what one request does.
    """

    first: int = 1
    last: int = 0  # 0 means: only `first`
    step: int = 1
    access: tuple[str, ...] = ("RO", "access")
    vary: Callable[[Request], tuple[str, ...]] | None = None


@attrs.frozen
class KeyCount:
    """Keys whose number is an argument: request[count_index] tells how many follow at `first`."""

    count_index: int
    first: int
    access: tuple[str, ...] = ("RW", "access", "update")


@attrs.frozen
class Arg:
    """One argument of the command's grammar, as COMMAND DOCS describes it.

    `kind` is one of ``key string integer double unix-time pattern pure-token oneof block``.
    """

    name: str
    kind: str = "string"
    token: str | None = None
    optional: bool = False
    multiple: bool = False
    multiple_token: bool = False
    arguments: tuple[Arg, ...] = ()
    since: str | None = None
    deprecated_since: str | None = None


UNTIMED_MAX: Final = 63


class CommandStats:
    """What happened to one command since the start or CONFIG RESETSTAT. Times in nanoseconds.

    Calls that are answered at once (`Session.answer`) are counted and not timed, but for one of `UNTIMED_MAX` + 1, which
    stands for the others: so most of them do without two clock readings.
    """

    __slots__ = ("failed", "histogram", "nanoseconds", "rejected", "stands_for_others", "timed", "untimed")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.timed = 0
        self.untimed = 0  # calls for which a timed one is still to stand
        self.stands_for_others = False  # the next timed call is the one
        self.nanoseconds = 0
        self.rejected = 0
        self.failed = 0
        # Bucket i counts the calls that took less than 2**i nanoseconds (LATENCY HISTOGRAM).
        self.histogram = [0] * 48

    @property
    def calls(self) -> int:
        return self.timed + self.untimed

    def add(self, calls: int, average: int) -> None:
        """Count calls that took `average` nanoseconds each."""
        if self.stands_for_others:
            calls += self.untimed
            self.untimed = 0
            self.stands_for_others = False
        self.timed += calls
        self.nanoseconds += calls * average
        self.histogram[average.bit_length()] += calls


@attrs.define(eq=False)
class CommandSpec:
    """One command: its handler, and everything that is derived from its declaration."""

    name: str  # upper case; "CONFIG|GET" for a subcommand
    arity: int
    summary: str
    group: str  # string, generic, bitmap, connection, server, pubsub, transactions, scripting, kv
    since: str
    complexity: str
    flags: Flag = Flag.NONE
    keys: tuple[KeyRange | KeyCount, ...] = ()
    find_keys: Callable[[Request], Sequence[bytes]] | None = None  # where positions depend on options
    channels: Callable[[Request], Sequence[tuple[bytes, bool]]] | None = None  # (channel, is_pattern)
    categories: frozenset[str] = frozenset()  # beyond those that flags and group give
    arguments: tuple[Arg, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    replaced_by: str | None = None
    deprecated_since: str | None = None
    is_system: bool = False  # for debugging and the like, not for applications
    tips: tuple[str, ...] = ()
    data_handler: DataHandler | None = None
    session_handler: SessionHandler | None = None
    subcommands: dict[bytes, CommandSpec] = attrs.field(factory=dict)
    stats: CommandStats = attrs.field(factory=CommandStats)

    def copy(self) -> CommandSpec:
        """Return a spec with statistics and subcommands of its own."""
        return attrs.evolve(self, stats=CommandStats(), subcommands={})

    @property
    def is_write(self) -> bool:
        return Flag.WRITE in self.flags

    @property
    def names_keys(self) -> bool:
        """Tell whether the command's arguments may be keys; shard channels are routed like keys and are none."""
        return self.find_keys is not None or any("not_key" not in part.access for part in self.keys)

    @property
    def is_container(self) -> bool:
        """Tell whether the command is nothing but a place for its subcommands."""
        return self.data_handler is None and self.session_handler is None

    @property
    def acl_categories(self) -> tuple[str, ...]:
        """All ACL categories of the command, in Redis's order."""
        found = set(self.categories)
        if not self.is_container and self.group in _CATEGORY_OF_GROUP:
            found.add(_CATEGORY_OF_GROUP[self.group])
        for flag, categories in _CATEGORIES_OF_FLAG:
            if flag in self.flags:
                found.update(categories)
        # A script may read or not; that it may be run on its own is the whole category.
        if "scripting" in found:
            found.discard("read")
        if "fast" not in found:
            found.add("slow")
        return tuple(category for category in ACL_CATEGORIES if category in found)

    def accepts(self, count: int) -> bool:
        """Tell whether a request of `count` arguments, the name included, has the right length."""
        return count == self.arity if self.arity >= 0 else count >= -self.arity

    def key_arguments(self, request: Request) -> Sequence[bytes]:
        """Return the keys that `request` names. The request must have passed `accepts`."""
        if self.find_keys is not None:
            return self.find_keys(request)
        found: list[bytes] = []
        for part in self.keys:
            found.extend(_keys_of(part, request))
        return found

    def key_accesses(self, request: Request) -> list[tuple[bytes, tuple[str, ...]]]:
        """Return each key that `request` names with what is done to it, as in `KeyRange.access`."""
        if self.find_keys is not None:
            access = _access_of(self.keys[0], request)
            return [(key, access) for key in self.find_keys(request)]
        found: list[tuple[bytes, tuple[str, ...]]] = []
        for part in self.keys:
            access = _access_of(part, request)
            found.extend((key, access) for key in _keys_of(part, request))
        return found


def _access_of(part: KeyRange | KeyCount, request: Request) -> tuple[str, ...]:
    if isinstance(part, KeyCount) or part.vary is None:
        return part.access
    return part.vary(request)


def _keys_of(part: KeyRange | KeyCount, request: Request) -> list[bytes]:
    if isinstance(part, KeyCount):
        return _counted_keys(part, request)
    if part.last == 0:
        return request[part.first : part.first + 1]
    last = part.last if part.last > 0 else len(request) + part.last
    return request[part.first : last + 1 : part.step]


def _counted_keys(part: KeyCount, request: Request) -> list[bytes]:
    """Return the counted keys; none where the count is no number or more than there are arguments."""
    try:
        count = int(request[part.count_index])
    except (ValueError, IndexError):
        return []
    return request[part.first : part.first + count] if 0 < count <= len(request) - part.first else []


def data_command(name: str, **declaration: Any) -> Callable[[DataHandler], CommandSpec]:
    """Declare a data command; the decorated name becomes its `CommandSpec`."""

    def declare(handler: DataHandler) -> CommandSpec:
        return CommandSpec(name=name, data_handler=handler, **declaration)

    return declare


def session_command(name: str, **declaration: Any) -> Callable[[SessionHandler], CommandSpec]:
    """Declare a session command; the decorated name becomes its `CommandSpec`."""

    def declare(handler: SessionHandler) -> CommandSpec:
        return CommandSpec(name=name, session_handler=handler, **declaration)

    return declare


def container(name: str, **declaration: Any) -> CommandSpec:
    """Declare a command that only holds subcommands (``CONFIG``, ``CLIENT`` ...)."""
    return CommandSpec(name=name, **declaration)
