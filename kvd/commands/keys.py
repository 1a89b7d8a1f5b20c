"""Commands on keys, whatever they hold: deleting, asking, renaming, copying, flushing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd import notify
from kvd.commands import walks
from kvd.commands.arguments import NO_SUCH_KEY, SYNTAX_ERROR, parse_int32
from kvd.commands.lookup import announce, delete, find
from kvd.commands.spec import Arg, CommandSpec, Flag, KeyRange, Request, data_command, session_command
from protocol.replies import OK, ErrorReply, Reply, Simple
from storage.record import EXPIRES_AT, METADATA, VALUE, Record

if TYPE_CHECKING:
    from kvd.session import Session
    from storage.store import Keyspace

_KEY = Arg("key", "key")
_KEYS = (Arg("key", "key", multiple=True),)
_KEYSPACE = frozenset({"keyspace"})
_DANGEROUS = frozenset({"keyspace", "dangerous"})
_SUMMED = ("request_policy:multi_shard", "response_policy:agg_sum")
_STRING = Simple(b"string")
_NONE = Simple(b"none")
_SAME_OBJECT = "ERR source and destination objects are the same"


# --- deleting and asking


def _delete_all(keyspace: Keyspace, keys: list[bytes]) -> int:
    if len(keys) == 1:
        return int(delete(keyspace, keys[0]))
    with keyspace.store.atomic():
        return sum(delete(keyspace, key) for key in keys)


@data_command(
    "DEL",
    arity=-2,
    flags=Flag.WRITE | Flag.PLAIN,
    keys=(KeyRange(1, -1, access=("RM", "delete")),),
    group="generic",
    since="1.0.0",
    complexity="O(N) where N is the number of keys that will be removed.",
    summary="Delete keys and return how many there were.",
    arguments=_KEYS,
    tips=_SUMMED,
    categories=_KEYSPACE,
)
def del_(keyspace: Keyspace, request: Request) -> Reply:
    return _delete_all(keyspace, request[1:])


@data_command(
    "UNLINK",
    arity=-2,
    flags=Flag.WRITE | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1, -1, access=("RM", "delete")),),
    group="generic",
    since="4.0.0",
    complexity="O(N) where N is the number of keys that will be removed.",
    summary="Delete keys and return how many there were: the same as DEL.",
    arguments=_KEYS,
    tips=_SUMMED,
    categories=_KEYSPACE,
)
def unlink(keyspace: Keyspace, request: Request) -> Reply:
    return _delete_all(keyspace, request[1:])


def _count(keyspace: Keyspace, keys: list[bytes]) -> int:
    count = 0
    for key in keys:
        if find(keyspace, key) is not None:
            count += 1
    return count


@data_command(
    "EXISTS",
    arity=-2,
    flags=Flag.READONLY | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1, -1, access=("RO",)),),
    group="generic",
    since="1.0.0",
    complexity="O(N) where N is the number of keys to check.",
    summary="Count the keys that exist; one that is named twice counts twice.",
    arguments=_KEYS,
    history=(("3.0.3", "Several keys."),),
    tips=_SUMMED,
    categories=_KEYSPACE,
)
def exists(keyspace: Keyspace, request: Request) -> Reply:
    return _count(keyspace, request[1:])


@data_command(
    "TOUCH",
    arity=-2,
    flags=Flag.READONLY | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1, -1, access=("RO",)),),
    group="generic",
    since="3.2.1",
    complexity="O(N) where N is the number of keys that will be touched.",
    summary="Count the keys that exist, bringing them into the cache.",
    arguments=_KEYS,
    tips=_SUMMED,
    categories=_KEYSPACE,
)
def touch(keyspace: Keyspace, request: Request) -> Reply:
    return _count(keyspace, request[1:])


def type_name(record: Record) -> Simple:
    """Return the name of a record's type, as TYPE and ``SCAN TYPE`` give it."""
    assert type(record[VALUE]) is bytes, "there are only strings so far"
    return _STRING


@data_command(
    "TYPE",
    arity=2,
    flags=Flag.READONLY | Flag.FAST | Flag.PLAIN,
    keys=(KeyRange(1, access=("RO",)),),
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Return the type of the value at a key.",
    arguments=(_KEY,),
    categories=_KEYSPACE,
)
def type_(keyspace: Keyspace, request: Request) -> Reply:
    record = find(keyspace, request[1])
    return _NONE if record is None else type_name(record)


@session_command(
    "RANDOMKEY",
    arity=1,
    flags=Flag.READONLY,
    group="generic",
    since="1.0.0",
    complexity="O(1), and O(N) with N marks of deletion where there is hardly anything else.",
    summary="Return some key of the keyspace.",
    tips=("request_policy:all_shards", "response_policy:special", "nondeterministic_output"),
    categories=_KEYSPACE,
)
def randomkey(session: Session, request: Request) -> Reply:
    keyspace = session.keyspace
    return walks.walk_through(session, lambda: walks.Search(keyspace.random_key_steps()))


@data_command(
    "DBSIZE",
    arity=1,
    flags=Flag.READONLY | Flag.FAST | Flag.PLAIN,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Return the number of keys in the keyspace.",
    tips=("request_policy:all_shards", "response_policy:agg_sum"),
    categories=_KEYSPACE,
)
def dbsize(keyspace: Keyspace, request: Request) -> Reply:
    return keyspace.count


# --- renaming and copying


def _put_copy(keyspace: Keyspace, key: bytes, record: Record) -> None:
    """Write value, expiry and metadata of `record` to `key`, in place of whatever was there."""
    keyspace.put(key, record[VALUE], record[EXPIRES_AT], record[METADATA])
    if keyspace.notifying:
        keyspace.notify(b"new", key, notify.NEW)


def _rename(keyspace: Keyspace, source: bytes, target: bytes, record: Record) -> None:
    with keyspace.store.atomic():
        _put_copy(keyspace, target, record)
        keyspace.delete(source)
    announce(keyspace, source, b"rename_from", notify.GENERIC)
    announce(keyspace, target, b"rename_to", notify.GENERIC)


def _existing(keyspace: Keyspace, key: bytes) -> Record:
    record = keyspace.get(key)
    if record is None:
        raise ErrorReply(NO_SUCH_KEY)
    return record


@data_command(
    "RENAME",
    arity=3,
    flags=Flag.WRITE,
    keys=(KeyRange(1, access=("RW", "access", "delete")), KeyRange(2, access=("OW", "update"))),
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Give a key another name, replacing the key that had it.",
    arguments=(_KEY, Arg("newkey", "key")),
    categories=_KEYSPACE,
)
def rename(keyspace: Keyspace, request: Request) -> Reply:
    source, target = request[1:]
    record = _existing(keyspace, source)
    if source != target:
        _rename(keyspace, source, target, record)
    return OK


@data_command(
    "RENAMENX",
    arity=3,
    flags=Flag.WRITE | Flag.FAST,
    keys=(KeyRange(1, access=("RW", "access", "delete")), KeyRange(2, access=("OW", "insert"))),
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Give a key another name, only if no key has it.",
    arguments=(_KEY, Arg("newkey", "key")),
    history=(("3.2.0", "No error any more when both names are the same."),),
    categories=_KEYSPACE,
)
def renamenx(keyspace: Keyspace, request: Request) -> Reply:
    source, target = request[1:]
    record = _existing(keyspace, source)
    if keyspace.get(target) is not None:
        return 0
    _rename(keyspace, source, target, record)
    return 1


def _database(keyspace: Keyspace, text: bytes) -> Keyspace:
    index = parse_int32(text)
    try:
        return keyspace.store.keyspace(index)
    except IndexError:
        raise ErrorReply("ERR DB index is out of range") from None


def _copy_options(keyspace: Keyspace, request: Request) -> tuple[Keyspace, bool]:
    """Return where to copy to, and whether to replace what is there."""
    target, replace = keyspace, False
    index = 3
    while index < len(request):
        word = request[index].upper()
        if word == b"REPLACE":
            replace = True
        elif word == b"DB" and index + 1 < len(request):
            index += 1
            target = _database(keyspace, request[index])
        else:
            raise ErrorReply(SYNTAX_ERROR)
        index += 1
    return target, replace


@data_command(
    "COPY",
    arity=-3,
    flags=Flag.WRITE | Flag.DENYOOM,
    keys=(KeyRange(1), KeyRange(2, access=("OW", "update"))),
    group="generic",
    since="6.2.0",
    complexity="O(1)",
    summary="Copy value, expiry and metadata of a key to another key, here or in another database.",
    arguments=(
        Arg("source", "key"),
        Arg("destination", "key"),
        Arg("destination-db", "integer", token="DB", optional=True),
        Arg("replace", "pure-token", token="REPLACE", optional=True),
    ),
    categories=_KEYSPACE,
)
def copy(keyspace: Keyspace, request: Request) -> Reply:
    target, replace = _copy_options(keyspace, request)
    source_key, target_key = request[1:3]
    if target is keyspace and source_key == target_key:
        raise ErrorReply(_SAME_OBJECT)
    record = find(keyspace, source_key)
    if record is None or (not replace and target.get(target_key) is not None):
        return 0
    _put_copy(target, target_key, record)
    announce(target, target_key, b"copy_to", notify.GENERIC)
    return 1


@data_command(
    "MOVE",
    arity=3,
    flags=Flag.WRITE | Flag.FAST,
    keys=(KeyRange(1, access=("RW", "access", "update")),),
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Move a key to another database, unless a key of that name is there.",
    arguments=(_KEY, Arg("db", "integer")),
    categories=_KEYSPACE,
)
def move(keyspace: Keyspace, request: Request) -> Reply:
    key = request[1]
    target = _database(keyspace, request[2])
    if target is keyspace:
        raise ErrorReply(_SAME_OBJECT)
    record = keyspace.get(key)
    if record is None or target.get(key) is not None:
        return 0
    with keyspace.store.atomic():
        _put_copy(target, key, record)
        keyspace.delete(key)
    announce(keyspace, key, b"move_from", notify.GENERIC)
    announce(target, key, b"move_to", notify.GENERIC)
    return 1


# --- flushing

_FLUSH_TYPE = (
    Arg(
        "flush-type",
        "oneof",
        optional=True,
        arguments=(
            Arg("async", "pure-token", token="ASYNC", since="4.0.0"),
            Arg("sync", "pure-token", token="SYNC", since="6.2.0"),
        ),
    ),
)
_FLUSH_HISTORY = (("4.0.0", "The mode `ASYNC`."), ("6.2.0", "The mode `SYNC`."))
_FLUSH_TIPS = ("request_policy:all_shards", "response_policy:all_succeeded")


def _check_flush_mode(request: Request) -> None:
    """Refuse what is not SYNC or ASYNC. Both are the same: a flush takes constant time."""
    if len(request) > 2 or (len(request) == 2 and request[1].upper() not in {b"SYNC", b"ASYNC"}):
        raise ErrorReply(SYNTAX_ERROR)


@data_command(
    "FLUSHDB",
    arity=-1,
    flags=Flag.WRITE,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Delete all keys of the keyspace.",
    arguments=_FLUSH_TYPE,
    history=_FLUSH_HISTORY,
    tips=_FLUSH_TIPS,
    categories=_DANGEROUS,
)
def flushdb(keyspace: Keyspace, request: Request) -> Reply:
    _check_flush_mode(request)
    keyspace.flush()
    return OK


@data_command(
    "FLUSHALL",
    arity=-1,
    flags=Flag.WRITE,
    group="server",
    since="1.0.0",
    complexity="O(N) where N is the number of keyspaces",
    summary="Delete all keys of all databases and namespaces.",
    arguments=_FLUSH_TYPE,
    history=_FLUSH_HISTORY,
    tips=_FLUSH_TIPS,
    categories=_DANGEROUS,
)
def flushall(keyspace: Keyspace, request: Request) -> Reply:
    _check_flush_mode(request)
    keyspace.store.flush_all()
    return OK


# --- what kvd refuses


@data_command(
    "SWAPDB",
    arity=3,
    flags=Flag.WRITE | Flag.FAST,
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Refused: databases are namespaces with identities of their own and cannot change places.",
    arguments=(Arg("index1", "integer"), Arg("index2", "integer")),
    categories=_DANGEROUS,
)
def swapdb(keyspace: Keyspace, request: Request) -> Reply:
    raise ErrorReply(
        "ERR SWAPDB is not supported: a database is a namespace with an identity of its own. "
        "Fill a new namespace (KV.NS CREATE) and switch to it (KV.NS USE) instead"
    )


_SORT_CATEGORIES = frozenset({"set", "sortedset", "list", "dangerous"})
_LIMIT = Arg(
    "limit",
    "block",
    token="LIMIT",
    optional=True,
    arguments=(Arg("offset", "integer"), Arg("count", "integer")),
)
_SORT_ARGUMENTS = (
    _KEY,
    Arg("by-pattern", "pattern", token="BY", optional=True),
    _LIMIT,
    Arg("get-pattern", "pattern", token="GET", optional=True, multiple=True, multiple_token=True),
    Arg(
        "order",
        "oneof",
        optional=True,
        arguments=(Arg("asc", "pure-token", token="ASC"), Arg("desc", "pure-token", token="DESC")),
    ),
    Arg("sorting", "pure-token", token="ALPHA", optional=True),
)


def _refuse_sort(keyspace: Keyspace, request: Request) -> Reply:
    raise ErrorReply(
        "ERR SORT is not supported yet: it sorts lists, sets and sorted sets, and there are only strings so far"
    )


def _sort_command(name: str, flags: Flag, since: str, arguments: tuple[Arg, ...]) -> CommandSpec:
    return CommandSpec(
        name=name,
        arity=-2,
        flags=flags | Flag.MOVABLEKEYS,
        keys=(KeyRange(1),),
        group="generic",
        since=since,
        complexity="O(1)",
        summary="Refused until there are lists, sets and sorted sets to sort.",
        arguments=arguments,
        categories=_SORT_CATEGORIES,
        data_handler=_refuse_sort,
    )


sort = _sort_command(
    "SORT",
    Flag.WRITE | Flag.DENYOOM,
    "1.0.0",
    (*_SORT_ARGUMENTS, Arg("destination", "key", token="STORE", optional=True)),
)
sort_ro = _sort_command("SORT_RO", Flag.READONLY, "7.0.0", _SORT_ARGUMENTS)


COMMANDS = (
    del_,
    unlink,
    exists,
    touch,
    type_,
    randomkey,
    dbsize,
    rename,
    renamenx,
    copy,
    move,
    flushdb,
    flushall,
    swapdb,
    sort,
    sort_ro,
)
