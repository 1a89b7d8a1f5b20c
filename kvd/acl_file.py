"""The ACL file: one user a line, as ACL LIST shows it, empty lines between them if you like.

    user alice on #5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8 ~cache:* -@all +@read
    user default off resetchannels -@all

Reading is all or nothing, and names every mistake with its line. Comments are mistakes: ACL SAVE would
lose them. Writing replaces the file in one step, so that a crash leaves the old one or the new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kvd.acl_selectors import UNKNOWN, RuleError
from kvd.acl_users import UnmatchedParenthesis, User, is_valid_name, merge_selectors
from kvd.commands.table import CommandTable
from kvd.durable_files import replace_file


class AclFileError(Exception):
    """The users cannot be loaded; `problems` has a sentence for each mistake."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(" ".join(self.problems))


def load(path: Path, table: CommandTable) -> dict[bytes, User]:
    """Return the users of a file by name. Raise `AclFileError` with everything that is wrong."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise AclFileError([f"Error loading ACLs, opening file '{path}': {error.strerror}"]) from error
    lines = [(f"{path}:{number}", line) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]
    return parse(lines, table)


def parse(lines: Iterable[tuple[str, bytes]], table: CommandTable) -> dict[bytes, User]:
    """Return the users of (where it stands, line) pairs by name. Raise `AclFileError`."""
    users: dict[bytes, User] = {}
    problems: list[str] = []
    for place, line in lines:
        keyword, _, rest = line.strip().partition(b" ")
        name, *rules = rest.split(b" ")
        if keyword != b"user" or not name:
            problems.append(f"{place} should start with user keyword followed by the username.")
        elif not is_valid_name(name):
            problems.append(f"{place}: username {_text(name)!r} contains invalid characters.")
        elif name in users:
            problems.append(f"{place}: Duplicate user '{_text(name)}' found.")
        else:
            try:
                users[name] = _make(User(name, table), rules)
            except RuleError as error:
                problems.append(f"{place}: {_sentence(error)}")
            except UnmatchedParenthesis:
                problems.append(f"{place}: Unmatched parenthesis in selector definition.")
    if problems:
        raise AclFileError(problems)
    return users


def _make(user: User, rules: list[bytes]) -> User:
    return user.changed(merge_selectors(rule.strip() for rule in rules))


def _sentence(error: RuleError) -> str:
    """Say what is wrong with a rule, and show it where it cannot hold a password."""
    if error.text == UNKNOWN:
        return f"Error in applying operation '{_text(error.rule)}': {error.text}."
    return f"{error.text}."


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def save(path: Path, users: Iterable[User]) -> None:
    """Replace the file by one with these users, durably. Raises OSError with the old file in place."""
    replace_file(path, b"".join(bytes(user) + b"\n" for user in users), mode=0o600)
