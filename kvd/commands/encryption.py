"""KV.ENCRYPTION: how encryption at rest stands, and changing its keys without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvd import encryption
from kvd.commands.help import help_command
from kvd.commands.spec import CommandSpec, Flag, Request, container, session_command
from protocol.replies import OK, ErrorReply, Reply

if TYPE_CHECKING:
    from kvd.session import Session

_ADMIN: Final = Flag.ADMIN | Flag.NOSCRIPT
_GROUP: Final = "kv"
_SINCE: Final = "0.1.0"

kv_encryption = container(
    "KV.ENCRYPTION",
    arity=-2,
    group=_GROUP,
    since=_SINCE,
    complexity="Depends on subcommand.",
    summary="Look after the encryption of what is on this node's disk.",
)


@session_command(
    "KV.ENCRYPTION|STATUS",
    arity=2,
    flags=_ADMIN,
    group=_GROUP,
    since=_SINCE,
    complexity="O(1)",
    summary="Return whether values are encrypted, with which key, which keys are needed, and how far a change has come.",
)
def status(session: Session, request: Request) -> Reply:
    found = encryption.fields(session.server.store)
    return {
        name.removeprefix("encryption_").encode(): value if isinstance(value, int) else str(value).encode()
        for name, value in found.items()
    }


@session_command(
    "KV.ENCRYPTION|RELOAD",
    arity=2,
    flags=_ADMIN,
    group=_GROUP,
    since=_SINCE,
    complexity="O(1), and O(N) in the background if the key has changed, where N is the number of records.",
    summary="Read the key file again; if its first key is another one, write with that and encrypt everything anew.",
)
def reload(session: Session, request: Request) -> Reply:
    if session.server.store.keyring is None:
        raise ErrorReply("ERR encryption is off: name storage.encryption_key_file and restart kvd")
    encryption.reload(session.server)  # its errors are answered as all of storage's
    return OK


COMMANDS: Final[tuple[CommandSpec, ...]] = (
    kv_encryption,
    status,
    reload,
    help_command("KV.ENCRYPTION", group=_GROUP, since=_SINCE),
)
