"""Access control of one daemon: its users, logging in, and the check of every request.

What a user may do is decided in `kvd.acl_users`, where users come from in `kvd.acl_file`. This module puts
both together with the settings and keeps the accounts: refusals are counted and entered into the log.

There is always a user ``default``: who connects is that user until AUTH, if it needs no password.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvd import acl_file, client_list
from kvd.acl_file import AclFileError
from kvd.acl_log import AclLog, Refusal
from kvd.acl_selectors import Denial
from kvd.acl_users import User
from kvd.commands.spec import CommandSpec, Request
from kvd.commands.table import CommandTable
from kvd.config import ConfigError, Problem
from protocol.replies import ErrorReply

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.session import Session
    from kvd.settings import SecuritySettings, Settings

__all__ = ["Acl", "AclFileError", "User"]

DEFAULT: Final = b"default"

_EVERYTHING: Final = (b"+@all", b"~*", b"&*", b"on")
_CHANGED_SINCE_QUEUED: Final = (
    "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "
    "This command is no longer allowed for the following reason: {}"
)
_REASONS: Final = {
    "command": "no permission to execute the command or subcommand",
    "key": "no permission to touch the specified keys",
    "channel": "no permission to access one of the channels used as arguments",
}


class Acl:
    """All users by name, and what was refused to them.

    Raises `ConfigError` if the users of the settings, or of the ACL file that they name, cannot be used.
    """

    def __init__(self, settings: Settings, table: CommandTable) -> None:
        self.table = table
        self.log = AclLog()
        security = settings.security
        self.file = Path(security.acl_file).absolute() if security.acl_file else None
        self._default_password = security.requirepass.reveal()
        self.default = self._configured_default()
        self.users: dict[bytes, User] = {DEFAULT: self.default}
        try:
            self._take(self._read_users(security))
        except AclFileError as error:
            source = "access control" if self.file is None else "security.acl_file"
            raise ConfigError(Problem(source, text) for text in error.problems) from error

    def _read_users(self, security: SecuritySettings) -> dict[bytes, User]:
        if self.file is not None:
            return acl_file.load(self.file, self.table)
        lines = (
            (f"security.users, line {number}", b"user " + line.reveal().encode())
            for number, line in enumerate(security.users, 1)
        )
        return acl_file.parse(lines, self.table)

    def _configured_default(self) -> User:
        """Return the default user as it is when no ACL file says anything else."""
        rules = [*_EVERYTHING, *_password_rules(self._default_password)]
        return User(DEFAULT, self.table).changed(rules)

    # --- users

    def load(self) -> None:
        """Replace all users by those of the ACL file. Raise `AclFileError`, then nothing has changed.

        A user that was there before stays the same object with new rules, so its sessions follow. A default
        user that the file does not name becomes what the settings make of it.
        """
        assert self.file is not None
        self._take(acl_file.load(self.file, self.table))

    def _take(self, loaded: dict[bytes, User]) -> None:
        loaded.setdefault(DEFAULT, self._configured_default())
        users: dict[bytes, User] = {}
        for name, user in loaded.items():
            known = self.users.get(name)
            if known is not None:
                known.assume(user)
            users[name] = known or user
        self.users = users

    def save(self) -> None:
        """Write all users to the ACL file. Raises OSError, then the old file is in place."""
        assert self.file is not None
        acl_file.save(self.file, self.sorted_users())

    def sorted_users(self) -> list[User]:
        return [self.users[name] for name in sorted(self.users)]

    def set_user(self, name: bytes, rules: list[bytes]) -> User:
        """Make or change a user by rules, all or none. Raise `RuleError`."""
        user = self.users.get(name) or User(name, self.table)
        user.assume(user.changed(rules))
        self.users[name] = user
        return user

    def delete_user(self, name: bytes) -> User | None:
        """Remove a user and return it, or None if there is none of that name."""
        assert name != DEFAULT
        return self.users.pop(name, None)

    def set_default_password(self, password: str) -> None:
        """Give the default user this password and no other; an empty one means that it needs none."""
        self._default_password = password
        self.set_user(DEFAULT, _password_rules(password))

    def assume_user(self, user: User) -> None:
        """Let the user of that name be as `user` is, made if there is none."""
        known = self.users.setdefault(user.name, user)
        if known is not user:
            known.assume(user)

    def apply_to_sessions(self, server: Server, caller: Session | None = None) -> None:
        """Let changes of users take effect on the sessions that there are; `caller` is told before it is closed."""
        default = self.user_without_password()
        for session in list(server.sessions.values()):
            user = session.user
            if user is None:
                if default is not None:
                    session.become(default)
            elif self.users.get(user.name) is not user:
                _throw_out(session, caller, "user deleted")
            elif not _may_hear_all(session, user):
                _throw_out(session, caller, "channel permissions revoked")
            else:
                session.refresh()

    # --- logging in

    def user_without_password(self) -> User | None:
        """Return the default user if it needs no password."""
        default = self.default
        return default if default.enabled and default.no_password else None

    def check_password(self, name: bytes, password: bytes) -> User | None:
        """Return the user of that name if the password is right."""
        user = self.users.get(name)
        # An unknown name takes as long as a wrong password.
        known = user if user is not None else User(name, self.table)
        return user if known.accepts(password) else None

    def authenticate(self, session: Session, command: bytes, name: bytes, password: bytes) -> User | None:
        """Return the user of that name if the password is right; otherwise enter it into the log, with the command."""
        user = self.check_password(name, password)
        if user is not None:
            return user
        session.server.stats.acl_denied_auth += 1
        self._enter(session, Refusal("auth", _context(session), command, name))
        return None

    # --- requests

    def check(self, session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
        """Return why the session's user may not run a request, or None."""
        denial = self._deny(session, spec, request)
        if denial is None:
            return None
        assert session.user is not None
        return ErrorReply(f"NOPERM {explain(denial, session.user)}")

    def recheck(self, session: Session, spec: CommandSpec, request: Request) -> ErrorReply | None:
        """Return why a request that was queued by MULTI may no longer be run, or None."""
        denial = self._deny(session, spec, request)
        return None if denial is None else ErrorReply(_CHANGED_SINCE_QUEUED.format(_REASONS[denial.reason]))

    def _deny(self, session: Session, spec: CommandSpec, request: Request) -> Denial | None:
        user = session.user
        assert user is not None
        denial = user.deny(spec, request)
        if denial is not None:
            stats = session.server.stats
            if denial.reason == "command":
                stats.acl_denied_cmd += 1
            elif denial.reason == "key":
                stats.acl_denied_key += 1
            else:
                stats.acl_denied_channel += 1
            self._enter(session, Refusal(denial.reason, _context(session), denial.object, user.name))
        return denial

    def _enter(self, session: Session, refusal: Refusal) -> None:
        server = session.server
        max_len = server.settings.security.acl_log_max_len
        client = server.scripts.caller_of(session)
        self.log.add(refusal, client_list.describe(client), now_ms=server.store.now_ms, max_len=max_len)


def explain(denial: Denial, user: User, *, verbose: bool = False) -> str:
    """Return the sentence for a denial; `verbose` names the key or channel too (for ACL DRYRUN).

    A byte that is not UTF-8 travels as a surrogate escape.
    """
    name = user.name.decode("utf-8", "surrogateescape")
    if denial.reason == "command":
        command = denial.object.decode("ascii")
        return f"User {name} has no permissions to run the '{command}' command"
    if verbose:
        shown = denial.object.decode("utf-8", "surrogateescape")
        return f"User {name} has no permissions to access the '{shown}' {denial.reason}"
    return f"No permissions to access a {denial.reason}"


def _throw_out(session: Session, caller: Session | None, reason: str) -> None:
    """Close a session at once; the one that asked for it gets its answer first."""
    session.become(None)
    if session is caller:
        session.close_after_reply(reason)
    else:
        session.kill(reason)


def _may_hear_all(session: Session, user: User) -> bool:
    if not session.subscription_count:
        return True
    channels = session.channels | session.shard_channels
    return all(user.allows_channel(channel, is_pattern=False) for channel in channels) and all(
        user.allows_channel(pattern, is_pattern=True) for pattern in session.patterns
    )


def _context(session: Session) -> str:
    if session.is_script:
        return "lua"
    return "toplevel" if session.transaction is None else "multi"


def _password_rules(password: str) -> list[bytes]:
    # What is not UTF-8 came as surrogate escapes, from CONFIG SET or the environment.
    return [b"resetpass", b">" + password.encode("utf-8", "surrogateescape")] if password else [b"nopass"]
