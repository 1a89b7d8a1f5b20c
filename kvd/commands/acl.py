"""ACL: looking at users, making and changing them, and asking what they may do.

What is changed holds for the next request of every session: sessions look at their user, not at a copy.
Sessions of a deleted user are closed, and so are subscribers to what their user may no longer hear.

Source: Redis 7.2 ACL and its subcommands.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from kvd.acl import DEFAULT, AclFileError, explain
from kvd.acl_selectors import RuleError, Selector
from kvd.acl_users import UnmatchedParenthesis, is_valid_name, merge_selectors
from kvd.commands.arguments import parse_integer
from kvd.commands.help import help_command, subcommand_error
from kvd.commands.spec import ACL_CATEGORIES, Arg, Flag, Request, container, session_command
from kvd.commands.table import wrong_arity
from kvd.dispatch import write_refusal
from protocol.replies import OK, ErrorReply, Reply, Set

if TYPE_CHECKING:
    from kvd.session import Session

log = structlog.get_logger()

_ANYBODY: Final = Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.SENTINEL
_ADMIN: Final = _ANYBODY | Flag.ADMIN

_PASSWORD_BITS: Final = 256
_PASSWORD_BITS_MAX: Final = 4096
_LOG_ENTRIES_SHOWN: Final = 10

_NO_FILE: Final = (
    "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the "
    "ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) "
    "in order to store users in the Redis configuration."
)

acl = container(
    "ACL",
    arity=-2,
    group="server",
    since="6.0.0",
    complexity="Depends on subcommand.",
    summary="Manage users and what they may do.",
)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _apply_to_sessions(caller: Session) -> None:
    caller.server.acl.apply_to_sessions(caller.server, caller)


def _share(session: Session, names: Iterable[bytes]) -> None:
    """Let other nodes know of changed users, if users are shared."""
    peers = session.server.peers
    if peers is not None:
        peers.users.changed(names)


def _check_shareable(session: Session) -> None:
    """Refuse a change of shared users while this node may not write."""
    peers = session.server.peers
    refusal = write_refusal(session.server)
    if refusal is not None and peers is not None and peers.users.are_shared:
        raise refusal


# --- making users


@session_command(
    "ACL|SETUSER",
    arity=-3,
    flags=_ADMIN | Flag.SHARED,
    group="server",
    since="6.0.0",
    complexity="O(N). Where N is the number of rules provided.",
    summary="Make a user, or change one, by rules.",
    history=(
        ("6.2.0", "Added Pub/Sub channel patterns."),
        ("7.0.0", "Added selectors and key based permissions."),
    ),
    arguments=(Arg("username"), Arg("rule", optional=True, multiple=True)),
)
def acl_setuser(session: Session, request: Request) -> Reply:
    name = request[2]
    _check_shareable(session)
    if not is_valid_name(name):
        raise ErrorReply("ERR Usernames can't contain spaces or null characters")
    try:
        session.server.acl.set_user(name, merge_selectors(request[3:]))
    except UnmatchedParenthesis as error:
        raise ErrorReply(f"ERR Unmatched parenthesis in acl selector starting at '{error}'.") from None
    except RuleError as error:
        shown = _text(error.rule)
        raise ErrorReply(f"ERR Error in ACL SETUSER modifier '{shown}': {error.text}") from None
    _share(session, [name])
    _apply_to_sessions(session)
    return OK


@session_command(
    "ACL|DELUSER",
    arity=-3,
    flags=_ADMIN | Flag.SHARED,
    group="server",
    since="6.0.0",
    complexity="O(1) amortized time considering the typical user.",
    summary="Delete users and close their connections.",
    arguments=(Arg("username", multiple=True),),
)
def acl_deluser(session: Session, request: Request) -> Reply:
    if DEFAULT in request[2:]:
        raise ErrorReply("ERR The 'default' user cannot be removed")
    _check_shareable(session)
    deleted = [session.server.acl.delete_user(name) for name in request[2:]]
    _share(session, [user.name for user in deleted if user is not None])
    _apply_to_sessions(session)
    return sum(user is not None for user in deleted)


@session_command(
    "ACL|LOAD",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    complexity="O(N). Where N is the number of configured users.",
    summary="Replace all users by those of the ACL file.",
)
def acl_load(session: Session, request: Request) -> Reply:
    path = _acl_file(session)
    try:
        session.server.acl.load()
    except AclFileError as error:
        log.warning("ACL file not loaded", file=str(path), problems=error.problems)
        raise ErrorReply(
            f"ERR {error} WARNING: ACL errors detected, no change to the previously active ACL rules was "
            "performed"
        ) from None
    _apply_to_sessions(session)
    return OK


@session_command(
    "ACL|SAVE",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    complexity="O(N). Where N is the number of configured users.",
    summary="Write all users to the ACL file.",
)
def acl_save(session: Session, request: Request) -> Reply:
    path = _acl_file(session)
    try:
        session.server.acl.save()
    except OSError as error:
        log.exception("ACL file not saved", file=str(path))
        raise ErrorReply(
            "ERR There was an error trying to save the ACLs. Please check the server logs for more information"
        ) from error
    return OK


def _acl_file(session: Session) -> Path:
    path = session.server.acl.file
    if path is None:
        raise ErrorReply(_NO_FILE)
    return path


# --- looking at users


@session_command(
    "ACL|WHOAMI",
    arity=2,
    flags=_ANYBODY,
    group="server",
    since="6.0.0",
    complexity="O(1)",
    summary="Return the name of the user of this connection.",
)
def acl_whoami(session: Session, request: Request) -> Reply:
    return None if session.user is None else session.user.name


@session_command(
    "ACL|USERS",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    complexity="O(N). Where N is the number of configured users.",
    summary="Return the names of all users.",
)
def acl_users(session: Session, request: Request) -> Reply:
    return [user.name for user in session.server.acl.sorted_users()]


@session_command(
    "ACL|LIST",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    complexity="O(N). Where N is the number of configured users.",
    summary="Return all users as lines of an ACL file.",
)
def acl_list(session: Session, request: Request) -> Reply:
    return [bytes(user) for user in session.server.acl.sorted_users()]


@session_command(
    "ACL|GETUSER",
    arity=3,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    complexity="O(N). Where N is the number of password, command and pattern rules that the user has.",
    summary="Return the rules of one user.",
    history=(
        ("6.2.0", "Added Pub/Sub channel patterns."),
        (
            "7.0.0",
            (
                "Added selectors and changed the format of key and channel patterns from a list to their rule "
                "representation."
            ),
        ),
    ),
    arguments=(Arg("username"),),
)
def acl_getuser(session: Session, request: Request) -> Reply:
    user = session.server.acl.users.get(request[2])
    if user is None:
        return None
    root, *others = user.selectors
    return {
        b"flags": Set(user.flags),
        b"passwords": user.passwords,
        **_selector_fields(root),
        b"selectors": [_selector_fields(selector) for selector in others],
    }


def _selector_fields(selector: Selector) -> dict[bytes, bytes]:
    return {
        b"commands": selector.commands_text,
        b"keys": selector.keys_text,
        b"channels": selector.channels_text,
    }


# --- asking


@session_command(
    "ACL|CAT",
    arity=-2,
    flags=_ANYBODY,
    group="server",
    since="6.0.0",
    complexity="O(1) since the categories and commands are a fixed set.",
    summary="Return the categories, or the commands of one of them.",
    arguments=(Arg("categoryname", optional=True),),
)
def acl_cat(session: Session, request: Request) -> Reply:
    if len(request) > 3:
        raise subcommand_error(request)
    if len(request) == 2:
        return [category.encode() for category in ACL_CATEGORIES]
    category = request[2].lower().decode("utf-8", "surrogateescape")
    if category not in ACL_CATEGORIES:
        raise ErrorReply(f"ERR Unknown category '{_text(request[2][:128])}'")
    specs = session.server.table.everything()
    return [spec.name.lower().encode() for spec in specs if category in spec.acl_categories]


@session_command(
    "ACL|DRYRUN",
    arity=-4,
    flags=_ADMIN,
    group="server",
    since="7.0.0",
    complexity="O(1).",
    summary="Tell whether a user may run a command, without running it.",
    arguments=(Arg("username"), Arg("command"), Arg("arg", optional=True, multiple=True)),
)
def acl_dryrun(session: Session, request: Request) -> Reply:
    user = session.server.acl.users.get(request[2])
    if user is None:
        raise ErrorReply(f"ERR User '{_text(request[2])}' not found")
    asked = request[3:]
    try:
        spec = session.server.table.find(asked)
    except ErrorReply as error:
        if error.text.startswith("ERR unknown"):
            raise ErrorReply(f"ERR Command '{_text(asked[0])}' not found") from None
        raise
    if not spec.accepts(len(asked)):
        raise ErrorReply(wrong_arity(spec))
    denial = user.deny(spec, asked)
    if denial is None:
        return OK
    return explain(denial, user, verbose=True).encode("utf-8", "surrogateescape")


@session_command(
    "ACL|GENPASS",
    arity=-2,
    flags=_ANYBODY,
    group="server",
    since="6.0.0",
    complexity="O(1)",
    summary="Return a password that nobody can guess.",
    arguments=(Arg("bits", "integer", optional=True),),
)
def acl_genpass(session: Session, request: Request) -> Reply:
    if len(request) > 3:
        raise subcommand_error(request)
    bits = parse_integer(request[2]) if len(request) == 3 else _PASSWORD_BITS
    if not 0 < bits <= _PASSWORD_BITS_MAX:
        raise ErrorReply(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number "
            f"up to {_PASSWORD_BITS_MAX}"
        )
    digits = (bits + 3) // 4
    return secrets.token_hex((digits + 1) // 2)[:digits].encode()


@session_command(
    "ACL|LOG",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="6.0.0",
    complexity="O(N) with N being the number of entries shown.",
    summary="Return what was refused lately.",
    history=(("7.2.0", "Added entry ID, timestamp created, and timestamp last updated."),),
    arguments=(
        Arg(
            "operation",
            "oneof",
            optional=True,
            arguments=(Arg("count", "integer"), Arg("reset", "pure-token", token="RESET")),
        ),
    ),
)
def acl_log(session: Session, request: Request) -> Reply:
    if len(request) > 3:
        raise subcommand_error(request)
    entries = session.server.acl.log
    if len(request) == 3 and request[2].upper() == b"RESET":
        entries.reset()
        return OK
    count = parse_integer(request[2]) if len(request) == 3 else _LOG_ENTRIES_SHOWN
    return entries.newest(max(count, 0), now_ms=session.server.store.now_ms)


COMMANDS = (
    acl,
    acl_cat,
    acl_deluser,
    acl_dryrun,
    acl_getuser,
    acl_genpass,
    acl_list,
    acl_load,
    acl_log,
    acl_save,
    acl_setuser,
    acl_users,
    acl_whoami,
    help_command("ACL", group="server", since="6.0.0"),
)
