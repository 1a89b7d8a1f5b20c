"""KV.*: records with metadata, which Redis's commands cannot say.

Metadata is one JSON text of bounded size beside the value. It is checked once, when it comes in, and kept
byte for byte. A SET takes it away together with the old value; commands that change a value in place
(INCR, APPEND ...) keep it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kvd import json_text, notify
from kvd.commands import walks
from kvd.commands.arguments import LIFETIME_OPTIONS, SYNTAX_ERROR, Lifetime, parse_integer
from kvd.commands.lookup import announce, check_total, find, string_of
from kvd.commands.spec import Arg, Flag, KeyRange, Request, data_command, session_command
from kvd.commands.strings import write_for
from protocol.encode import array_head, encode_bulk
from protocol.replies import OK, ErrorReply, Reply
from storage.errors import MetadataTooLong
from storage.policy import HISTORY_MAX
from storage.record import EXPIRES_AT, METADATA, NEVER, VALUE, VALUE_STAMP, Record

if TYPE_CHECKING:
    from kvd.session import Session
    from storage.history import Past
    from storage.store import Keyspace
    from storage.version import Version

LIST_LIMIT: Final = 1000
# As many keys as one page of the Workers KV API may have, and ten times that for our own clients.
_LIST_LIMIT_MAX: Final = 10_000
_KEY = Arg("key", "key")


@data_command(
    "KV.PUT",
    arity=-3,
    flags=Flag.WRITE | Flag.DENYOOM | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1, access=("OW", "update")),),
    group="kv",
    since="0.1.0",
    complexity="O(1)",
    summary="Give a key its value, metadata and expiry together; what is not given is cleared.",
    arguments=(
        _KEY,
        Arg("value"),
        Arg("metadata", token="META", optional=True),
        Arg(
            "expiration",
            "oneof",
            optional=True,
            arguments=(
                Arg("seconds", "integer", token="EX"),
                Arg("milliseconds", "integer", token="PX"),
                Arg("unix-time-seconds", "unix-time", token="EXAT"),
                Arg("unix-time-milliseconds", "unix-time", token="PXAT"),
            ),
        ),
    ),
)
def put(keyspace: Keyspace, request: Request) -> Reply:
    metadata: bytes | None = None
    lifetime: Lifetime | None = None
    for index in range(3, len(request), 2):
        word = request[index].upper()
        if index + 1 == len(request):
            raise ErrorReply(SYNTAX_ERROR)
        if word == b"META" and metadata is None:
            metadata = check_metadata(keyspace, request[index + 1])
        elif word in LIFETIME_OPTIONS and lifetime is None:
            unit_ms, is_absolute = LIFETIME_OPTIONS[word]
            lifetime = Lifetime(request[index + 1], unit_ms, absolute=is_absolute)
        else:
            raise ErrorReply(SYNTAX_ERROR)
    key, value = request[1:3]
    is_new = keyspace.notifying and keyspace.get(key) is None
    if lifetime is None:
        keyspace.put(key, value, NEVER, metadata)
        announce(keyspace, key, b"set", notify.STRING, is_new=is_new)
    else:
        expires_at_ms = lifetime.expires_at_ms(keyspace.store.now_ms, "kv.put")
        write_for(keyspace, key, value, expires_at_ms, metadata, is_new=is_new)
    return OK


def check_metadata(keyspace: Keyspace, text: bytes) -> bytes:
    """Return `text` if it is one JSON text of a size that may be stored. Raise `ErrorReply` otherwise."""
    limit = keyspace.store.limits.metadata_bytes_max
    if len(text) > limit:
        raise MetadataTooLong(len(text), limit)
    try:
        json_text.check_metadata(text)
    except ValueError:
        raise ErrorReply("ERR metadata is not a valid JSON text") from None
    return text


@data_command(
    "KV.GET",
    arity=2,
    flags=Flag.READONLY | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1),),
    group="kv",
    since="0.1.0",
    complexity="O(1)",
    summary="Return the value of a key and its metadata (null if it has none).",
    arguments=(_KEY,),
)
def get(keyspace: Keyspace, request: Request) -> Reply:
    record = find(keyspace, request[1])
    return None if record is None else [string_of(record), record[METADATA]]


@session_command(
    "KV.META",
    arity=2,
    flags=Flag.READONLY | Flag.FAST,
    keys=(KeyRange(1),),  # to be read, as the value: metadata is what somebody has written
    group="kv",
    since="0.1.0",
    complexity="O(1), and O(N) with N members.",
    summary="Return what is known of a key's record: its stamp, writer, age, expiry, sizes, and who has it.",
    arguments=(_KEY,),
)
def meta(session: Session, request: Request) -> Reply:
    keyspace, key = session.keyspace, request[1]
    record = find(keyspace, key)
    if record is None:
        return None
    return {**_describe(keyspace, key, record), **_shared(session, keyspace, key, record)}


def _describe(keyspace: Keyspace, key: bytes, record: Record) -> dict[bytes, Reply]:
    """Return the map of KV.META. Times are ms; `stamp` orders writes of all nodes, as text."""
    version = _version(keyspace, record)
    now_ms = keyspace.store.now_ms
    expires_at_ms = expiry_of(record)
    return {
        **_written(version),
        b"age_ms": max(now_ms - version.ms, 0),
        b"expires_at_ms": expires_at_ms,
        b"ttl_ms": None if expires_at_ms is None else expires_at_ms - now_ms,
        b"key_bytes": len(key),
        b"value_bytes": len(record[VALUE]),
        b"metadata_bytes": len(record[METADATA] or b""),
        b"metadata": record[METADATA],
    }


def _written(version: Version) -> dict[bytes, Reply]:
    return {
        b"stamp": b"%d.%d" % (version.ms, version.counter),
        b"origin": version.origin.hex().encode(),
        b"sequence": version.seq,
        b"written_at_ms": version.ms,
    }


def _version(keyspace: Keyspace, record: Record) -> Version:
    register = record[VALUE_STAMP]
    assert register is not None, "a live record has a value register"
    return keyspace.store.describe(register)


def _shared(session: Session, keyspace: Keyspace, key: bytes, record: Record) -> dict[bytes, Reply]:
    """Return the part that is about other nodes. `stable`: every member durably has this write."""
    peers = session.server.peers
    version = _version(keyspace, record)
    if peers is None:
        return {b"writer": _writer(session, version), b"stable": 1, b"conflicts": 0}
    return {
        b"writer": _writer(session, version),
        b"stable": int(peers.is_stable(version.origin, version.seq)),
        b"conflicts": peers.conflict_count(keyspace.id + key),
    }


def _writer(session: Session, version: Version) -> bytes | None:
    """Return the id of the node that has written; None if that is not known any more."""
    peers = session.server.peers
    writer = session.server.store.node_id if peers is None else peers.writer_of(version.origin)
    return None if writer is None else writer.hex().encode()


@session_command(
    "KV.HISTORY",
    arity=-2,
    flags=Flag.READONLY,
    keys=(KeyRange(1),),
    group="kv",
    since="0.1.0",
    complexity="O(N) where N is the number of versions returned.",
    summary="Return the past versions of a key that this node has kept, newest first.",
    arguments=(_KEY, Arg("count", "integer", token="COUNT", optional=True)),
)
def history(session: Session, request: Request) -> Reply:
    keyspace, key = session.keyspace, request[1]
    count = _parse_count(request[2:])
    _check_history(keyspace)
    found = keyspace.versions(key, count)
    check_total((past.record[VALUE] for past in found), "give a smaller COUNT")
    return [_describe_past(session, keyspace, past) for past in found]


def _parse_count(words: Request) -> int:
    if not words:
        return HISTORY_MAX
    if len(words) != 2 or words[0].upper() != b"COUNT":
        raise ErrorReply(SYNTAX_ERROR)
    count = parse_integer(words[1])
    if count < 1:
        raise ErrorReply("ERR COUNT must be greater than 0")
    return count


def _check_history(keyspace: Keyspace) -> None:
    if keyspace.history:
        return
    if keyspace.index is None:
        raise ErrorReply(
            "ERR this namespace keeps no history; KV.NS POLICY <namespace> HISTORY <versions> switches it on"
        )
    raise ErrorReply(
        "ERR a numbered database keeps no history; KV.NS CREATE <title> HISTORY <versions> makes a namespace that does"
    )


def _describe_past(session: Session, keyspace: Keyspace, past: Past) -> dict[bytes, Reply]:
    """Return one map of KV.HISTORY, with the names of KV.META. `value` is null for a deletion."""
    record = past.record
    version = keyspace.store.describe(past.register)
    return {
        b"value": record[VALUE],
        b"metadata": record[METADATA],
        **_written(version),
        b"replaced_at_ms": past.replaced_at_ms,
        b"expires_at_ms": None if record[VALUE] is None else expiry_of(record),
        b"writer": _writer(session, version),
    }


def expiry_of(record: Record) -> int | None:
    """Return when a record expires in ms since the epoch, None if it does not."""
    return None if record[EXPIRES_AT] == NEVER else record[EXPIRES_AT]


@session_command(
    "KV.LIST",
    arity=-1,
    flags=Flag.READONLY,
    group="kv",
    since="0.1.0",
    complexity="O(N+M) where N is the number of keys returned and M that of marks of deletion, and of keys that the "
    "user may not read, on the way.",
    summary="Return a page of the keys that the user may read, in key order with expiry and metadata, and a cursor "
    "for the next page; an empty one at the end.",
    arguments=(
        Arg("prefix", token="PREFIX", optional=True),
        Arg("limit", "integer", token="LIMIT", optional=True),
        Arg("cursor", token="CURSOR", optional=True),
    ),
    categories=frozenset({"keyspace"}),
)
def list_(session: Session, request: Request) -> Reply:
    prefix, limit, after = b"", LIST_LIMIT, None
    for index in range(1, len(request), 2):
        word = request[index].upper()
        if word not in {b"PREFIX", b"LIMIT", b"CURSOR"} or index + 1 == len(request):
            raise ErrorReply(SYNTAX_ERROR)
        argument = request[index + 1]
        if word == b"PREFIX":
            prefix = argument
        elif word == b"LIMIT":
            limit = _parse_limit(argument)
        else:
            after = decode_cursor(argument)
    keyspace = session.keyspace
    user = session.user
    assert user is not None, "dispatch asks for it"
    readable = user.key_filter(session.server.table.find(request), request)
    return walks.walk_through(session, lambda: _ListWalk(keyspace, prefix, after, limit, readable))


class _ListWalk:
    """Through the keys behind `after` until there are `limit`; only those that are `readable`, if that is given."""

    def __init__(
        self,
        keyspace: Keyspace,
        prefix: bytes,
        after: bytes | None,
        limit: int,
        readable: Callable[[bytes], bool] | None,
    ) -> None:
        self.finished = False
        self._keyspace = keyspace
        self._prefix = prefix
        self._after = after
        self._left = limit
        self._readable = readable
        self._rows = min(limit, walks.ROWS)  # then as many as pay, for most are marks of deletion

    def slice(self) -> list[Reply]:
        self._keyspace.check_open()  # it may have closed since the last slice: what is still here is not all
        deadline = walks.slice_end()
        found: list[Reply] = []
        while True:
            found += [[key, expiry_of(record), record[METADATA]] for key, record in self._next_rows()]
            self.finished = self._after is None or not self._left
            if self.finished or walks.is_past(deadline):
                return found

    def _next_rows(self) -> list[tuple[bytes, Record]]:
        rows, self._after = self._keyspace.scan(self._prefix, self._after, self._rows)
        self._rows = walks.ROWS
        readable = self._readable
        if readable is not None:
            rows = [row for row in rows if readable(row[0])]
        if len(rows) > self._left:
            del rows[self._left :]
            self._after = rows[-1][0]
        self._left -= len(rows)
        return rows

    def reply(self, found: list[Reply]) -> Reply:
        return [encode_cursor(self._after), found]

    def head(self, count: int) -> bytes:
        return array_head(2) + encode_bulk(encode_cursor(self._after)) + array_head(count)


def _parse_limit(text: bytes) -> int:
    limit = parse_integer(text)
    if not 1 <= limit <= _LIST_LIMIT_MAX:
        raise ErrorReply(f"ERR LIMIT must be between 1 and {_LIST_LIMIT_MAX}")
    return limit


def encode_cursor(position: bytes | None) -> bytes:
    """Return the opaque text for a position in the key order; empty at the end.

    It holds the position itself, so it never goes stale and costs the daemon nothing.
    """
    # A mark in front, so that the position of an empty key is no empty text.
    return b"" if position is None else base64.urlsafe_b64encode(b"=" + position).rstrip(b"=")


def decode_cursor(text: bytes) -> bytes | None:
    """Return the position that `encode_cursor` made into `text`. Raise `ErrorReply`."""
    if not text:
        return None
    try:
        position = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        position = b""
    if not position.startswith(b"="):
        raise ErrorReply("ERR invalid cursor")
    return position[1:]


COMMANDS = (put, get, meta, history, list_)
