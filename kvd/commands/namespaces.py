"""KV.NS: namespaces with titles, beside the sixteen numbered databases.

A namespace is known by its id, 32 hex digits given once and for ever, or by its title, which can change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd.commands.help import help_command
from kvd.commands.spec import Arg, Flag, Request, container, data_command, session_command
from protocol.replies import OK, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session
    from storage.store import Keyspace, Store

_NAMESPACE = Arg("namespace")
_KEYSPACE = frozenset({"keyspace"})

kv_ns = container(
    "KV.NS",
    arity=-2,
    group="kv",
    since="0.1.0",
    complexity="Depends on subcommand.",
    summary="Make, list, rename, delete and use namespaces.",
)


def _find(store: Store, name: bytes) -> Keyspace:
    found = store.keyspaces.find(name)
    if found is None:
        raise ErrorReply("ERR no namespace has this id or title")
    return found


def _title(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise ErrorReply("ERR the title of a namespace must be UTF-8 text") from None


@data_command(
    "KV.NS|CREATE",
    arity=3,
    flags=Flag.WRITE | Flag.DENYOOM,
    group="kv",
    since="0.1.0",
    complexity="O(N) where N is the number of namespaces.",
    summary="Make a namespace with a title that no other has, and return its id.",
    arguments=(Arg("title"),),
    categories=_KEYSPACE,
)
def create(keyspace: Keyspace, request: Request) -> Reply:
    made = keyspace.store.keyspaces.create(_title(request[2]))
    return made.id.hex().encode()


@data_command(
    "KV.NS|LIST",
    arity=2,
    flags=Flag.READONLY,
    group="kv",
    since="0.1.0",
    complexity="O(N*log(N)) where N is the number of namespaces.",
    summary="Return id, title and number of keys of every namespace, by title.",
    categories=_KEYSPACE,
)
def list_(keyspace: Keyspace, request: Request) -> Reply:
    return [
        {b"id": found.id.hex().encode(), b"title": (found.title or "").encode(), b"keys": found.count}
        for found in keyspace.store.keyspaces.all()
    ]


@data_command(
    "KV.NS|RENAME",
    arity=4,
    flags=Flag.WRITE,
    group="kv",
    since="0.1.0",
    complexity="O(N) where N is the number of namespaces.",
    summary="Give a namespace another title; its id stays.",
    arguments=(_NAMESPACE, Arg("title")),
    categories=_KEYSPACE,
)
def rename(keyspace: Keyspace, request: Request) -> Reply:
    store = keyspace.store
    store.keyspaces.rename(_find(store, request[2]).id, _title(request[3]))
    return OK


@data_command(
    "KV.NS|DELETE",
    arity=3,
    flags=Flag.WRITE,
    group="kv",
    since="0.1.0",
    complexity="O(N) where N is the number of namespaces.",
    summary="Delete a namespace and all keys in it.",
    arguments=(_NAMESPACE,),
    categories=frozenset({"keyspace", "dangerous"}),
)
def delete(keyspace: Keyspace, request: Request) -> Reply:
    store = keyspace.store
    with store.atomic():
        store.keyspaces.delete(_find(store, request[2]).id)
    return OK


@session_command(
    "KV.NS|USE",
    arity=3,
    flags=Flag.FAST,
    group="kv",
    since="0.1.0",
    complexity="O(N) where N is the number of namespaces.",
    summary="Let this connection work in a namespace, until it uses another or selects a database.",
    arguments=(_NAMESPACE,),
    categories=_KEYSPACE,
)
def use(session: Session, request: Request) -> Reply:
    session.keyspace = _find(session.server.store, request[2])
    return OK


COMMANDS = (
    kv_ns,
    create,
    list_,
    rename,
    delete,
    use,
    help_command("KV.NS", group="kv", since="0.1.0", categories=_KEYSPACE),
)
