"""Users and what they may do: a pure decision function over the command table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kvd.commands.spec import CommandSpec, Request
from kvd.commands.table import CommandTable
from protocol.replies import ErrorReply

if TYPE_CHECKING:
    from kvd.session import Session
    from kvd.settings import Settings


@attrs.define(eq=False)
class User:
    """One user."""

    name: bytes
    enabled: bool = True
    unrestricted: bool = True


class Acl:
    """All users by name."""

    def __init__(self, settings: Settings, table: CommandTable) -> None:
        self.default = User(b"default")
        self.users = {b"default": self.default}

    def user_without_password(self) -> User | None:
        """Return the default user if it needs no password."""
        return self.default

    def check(self, session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
        """Return why the session's user may not run a request, or None."""
        return None

    def authenticate(self, session: Session, name: bytes, password: bytes) -> User | None:
        """Return the user of that name if the password is right."""
        return None
