"""KV.NS: namespaces with titles, beside the sixteen numbered databases.

A namespace is known by its id, 32 hex digits given once and for ever, or by its title, which can change. One of a group
that this node does not carry is listed, without its keys, and can be renamed; only nodes that carry it can use or
delete it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kvd.commands.arguments import SYNTAX_ERROR, parse_integer
from kvd.commands.help import help_command
from kvd.commands.spec import Arg, Flag, Request, container, data_command, session_command
from protocol.replies import OK, ErrorReply, Reply
from storage.changes import COMMON_GROUP, GROUP_MAX
from storage.policy import HISTORY_MAX, Policy

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
    summary="Make, list, rename, change, delete and use namespaces.",
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


_POLICY: Final = (
    Arg(
        "replicate",
        "oneof",
        token="REPLICATE",
        optional=True,
        arguments=(
            Arg("all", "pure-token", "ALL"),
            Arg("none", "pure-token", "NONE"),
            Arg("group", "integer", "GROUP"),
        ),
    ),
    Arg("bytes", "integer", token="MAXVALUE", optional=True),
    Arg("versions", "integer", token="HISTORY", optional=True),
    Arg(
        "conflictlog",
        "oneof",
        token="CONFLICTLOG",
        optional=True,
        arguments=(Arg("yes", "pure-token", "YES"), Arg("no", "pure-token", "NO")),
    ),
)
_CHANGEABLE: Final = _POLICY[1:]  # whether a namespace replicates is decided once


@data_command(
    "KV.NS|CREATE",
    arity=-3,
    flags=Flag.WRITE | Flag.DENYOOM,
    group="kv",
    since="0.1.0",
    complexity="O(N) where N is the number of namespaces.",
    summary="Make a namespace with a title that no other has, and return its id.",
    arguments=(Arg("title"), *_POLICY),
    categories=_KEYSPACE,
)
def create(keyspace: Keyspace, request: Request) -> Reply:
    group, words = _split_group(request[3:])
    policy = _parse_policy(Policy(), words)
    made = keyspace.store.keyspaces.create(_title(request[2]), policy, group=group)
    return made.id.hex().encode()


def _split_group(words: Request) -> tuple[int, Request]:
    """Return the number in REPLICATE GROUP number, and the other words. Raise `ErrorReply`."""
    for at in range(0, len(words) - 1, 2):
        if words[at].upper() == b"REPLICATE" and words[at + 1].upper() == b"GROUP":
            if len(words) < at + 3:
                raise ErrorReply(SYNTAX_ERROR)
            group = parse_integer(words[at + 2])
            if not 1 <= group <= GROUP_MAX:
                raise ErrorReply(f"ERR a group is a number between 1 and {GROUP_MAX}")
            others = [*words[:at], *words[at + 3 :]]
            if any(word.upper() == b"REPLICATE" for word in others[::2]):
                raise ErrorReply(SYNTAX_ERROR)  # one namespace, one way to replicate
            return group, others
    return COMMON_GROUP, words


def _parse_policy(policy: Policy, words: Request) -> Policy:
    """Return `policy` changed by pairs of words. Raise `ErrorReply`."""
    if len(words) % 2:
        raise ErrorReply(SYNTAX_ERROR)
    for option, value in zip(words[::2], words[1::2], strict=True):
        match option.upper(), value.upper():
            case b"REPLICATE", (b"ALL" | b"NONE") as word:
                policy = attrs.evolve(policy, replicate=word.lower().decode())
            case b"MAXVALUE", _:
                policy = attrs.evolve(policy, value_bytes_max=_parse_size(value))
            case b"HISTORY", _:
                policy = attrs.evolve(policy, history=_parse_history(value))
            case b"CONFLICTLOG", (b"YES" | b"NO") as word:
                policy = attrs.evolve(policy, conflict_log=word == b"YES")
            case _:
                raise ErrorReply(SYNTAX_ERROR)
    return policy


def _parse_size(text: bytes) -> int | None:
    """Return a size in bytes; None for 0, which sets no limit of its own."""
    size = parse_integer(text)
    if size < 0:
        raise ErrorReply("ERR MAXVALUE must be a number of bytes, or 0 for the server's own limit")
    return size or None


def _parse_history(text: bytes) -> int:
    versions = parse_integer(text)
    if not 0 <= versions <= HISTORY_MAX:
        raise ErrorReply(f"ERR HISTORY must be a number of versions from 0 to {HISTORY_MAX}")
    return versions


@data_command(
    "KV.NS|LIST",
    arity=2,
    flags=Flag.READONLY,
    group="kv",
    since="0.1.0",
    complexity="O(N*log(N)) where N is the number of namespaces.",
    summary="Return id, title, number of keys and policy of every namespace, by title.",
    categories=_KEYSPACE,
)
def list_(keyspace: Keyspace, request: Request) -> Reply:
    return [
        {
            b"id": found.id.hex().encode(),
            b"title": (found.title or "").encode(),
            b"keys": found.count,
            b"replicate": b"group" if found.group else found.policy.replicate.encode(),
            b"maxvalue": found.policy.value_bytes_max or 0,
            b"conflictlog": int(found.policy.conflict_log),
            b"group": found.group,
            b"carried": int(keyspace.store.keyspaces.carries(found.group)),
            b"history": found.policy.history,
        }
        for found in keyspace.store.keyspaces.all()
    ]


@data_command(
    "KV.NS|POLICY",
    arity=-3,
    flags=Flag.WRITE,
    group="kv",
    since="0.1.0",
    complexity="O(N) where N is the number of namespaces.",
    summary="Change what a namespace asks for; whether it replicates stays as it was made.",
    arguments=(_NAMESPACE, *_CHANGEABLE),
    categories=_KEYSPACE,
)
def policy_(keyspace: Keyspace, request: Request) -> Reply:
    store = keyspace.store
    found = _find(store, request[2])
    policy = _parse_policy(found.policy, request[3:])
    if policy.replicate != found.policy.replicate:
        raise ErrorReply("ERR whether a namespace replicates is decided when it is made")
    store.keyspaces.change(
        found.id,
        value_bytes_max=policy.value_bytes_max,
        conflict_log=policy.conflict_log,
        history=policy.history,
    )
    return OK


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
    found = _find(session.server.store, request[2])
    # Refused at once also while its group is not all here: many clients open a new connection when they hear LOADING,
    # and would be in database 0 then.
    found.check_open()
    session.use_keyspace(found)
    return OK


COMMANDS = (
    kv_ns,
    create,
    list_,
    rename,
    policy_,
    delete,
    use,
    help_command("KV.NS", group="kv", since="0.1.0", categories=_KEYSPACE),
)
