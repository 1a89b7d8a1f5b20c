"""Users: passwords, and a list of selectors.

The first selector, the *root*, is what rules outside of parentheses change. A request is allowed if one
selector allows all of it: the command, each key it names, and each channel.

    on off                 may log in or not       nopass resetpass   no password needed; forget all
    >pw <pw #hash !hash    add, remove passwords   (rules)            one more selector
    reset                  as it was made          clearselectors     forget all but the root

Every other rule is the root selector's (`kvd.acl_selectors`). Nothing here knows sessions, sockets or
files. Source: Redis 7.2 documentation, "ACL"; `ACL SETUSER`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from typing import Final

from kvd.acl_selectors import BLANKS, READ, Denial, RuleError, Selector
from kvd.commands.spec import CommandSpec, Request
from kvd.commands.table import CommandTable, PlainEntry

_HASH: Final = re.compile(rb"[0-9a-f]{64}")

_BAD_HASH: Final = (
    "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
)
_NO_SUCH_PASSWORD: Final = "The password you are trying to remove from the user does not exist"  # noqa: S105


class UnmatchedParenthesis(Exception):
    """A selector is opened and never closed; the text is the rule that opens it."""


class User:
    """A user. Made disabled, without a password and without any permission."""

    def __init__(self, name: bytes, table: CommandTable) -> None:
        self.name = name
        self._table = table
        self.enabled = False
        self.no_password = False
        self.sanitizes = True  # kept for tools; RESTORE checks every payload here
        self.passwords: list[bytes] = []  # SHA-256 in hex
        self.selectors = [Selector(table)]
        self.unrestricted = False
        self.plain: dict[bytes, PlainEntry] = {}  # the part of the fast path that needs no check

    def changed(self, rules: Iterable[bytes]) -> User:
        """Return a copy with rules applied, selectors in one piece (see `merge_selectors`).

        Raise `RuleError` that names the rule at fault.
        """
        twin = User(self.name, self._table)
        twin.assume(self)
        for rule in rules:
            try:
                twin._apply(rule)
            except RuleError as error:
                raise RuleError(error.text, rule) from None
        twin._find_out_what_needs_no_check()
        return twin

    def _find_out_what_needs_no_check(self) -> None:
        self.unrestricted = any(selector.unrestricted for selector in self.selectors)
        if self.unrestricted:
            self.plain = self._table.plain
            return
        open_selectors = [one for one in self.selectors if one.all_keys and one.all_channels]
        self.plain = self._table.plain_part(name for one in open_selectors for name in one.allowed)

    def assume(self, other: User) -> None:
        """Take over all that `other` is but its name."""
        self.enabled = other.enabled
        self.no_password = other.no_password
        self.sanitizes = other.sanitizes
        self.passwords = list(other.passwords)
        self.selectors = [selector.copy() for selector in other.selectors]
        self.unrestricted = other.unrestricted
        self.plain = other.plain

    # --- rules

    def _apply(self, rule: bytes) -> None:
        if not rule:
            return
        word = _USER_WORDS.get(rule.lower())
        if word is not None:
            word(self)
        elif rule[:1] in {b">", b"#"}:
            self._add_password(_hashed(rule))
        elif rule[:1] in {b"<", b"!"}:
            self._remove_password(_hashed(rule))
        elif rule.startswith(b"(") and rule.endswith(b")"):
            self._add_selector(rule[1:-1])
        else:
            self.selectors[0].apply(rule)

    def _enable(self) -> None:
        self.enabled = True

    def _disable(self) -> None:
        self.enabled = False

    def _sanitize(self) -> None:
        self.sanitizes = True

    def _skip_sanitize(self) -> None:
        self.sanitizes = False

    def _need_no_password(self) -> None:
        self.no_password = True
        self.passwords.clear()

    def _forget_passwords(self) -> None:
        self.no_password = False
        self.passwords.clear()

    def _add_password(self, hashed: bytes) -> None:
        if hashed not in self.passwords:
            self.passwords.append(hashed)
        self.no_password = False

    def _remove_password(self, hashed: bytes) -> None:
        if hashed not in self.passwords:
            raise RuleError(_NO_SUCH_PASSWORD)
        self.passwords.remove(hashed)

    def _add_selector(self, rules: bytes) -> None:
        selector = Selector(self._table)
        for rule in rules.split():
            selector.apply(rule)
        self.selectors.append(selector)

    def _clear_selectors(self) -> None:
        del self.selectors[1:]

    def _reset(self) -> None:
        self.assume(User(self.name, self._table))

    # --- decisions

    def accepts(self, password: bytes) -> bool:
        """Tell whether one may log in with `password`. Takes equally long for every wrong one."""
        hashed = hash_password(password)
        matches = [hmac.compare_digest(hashed, known) for known in self.passwords]
        return self.enabled and (self.no_password or any(matches))

    def deny(self, spec: CommandSpec, request: Request) -> Denial | None:
        """Return why the user may not run a request, or None. The request has the right length."""
        denials = []
        for selector in self.selectors:
            denial = selector.deny(spec, request)
            if denial is None:
                return None
            denials.append(denial)
        return max(denials, key=lambda denial: denial.weight)

    def key_filter(self, spec: CommandSpec, request: Request) -> Callable[[bytes], bool] | None:
        """Return the test for the keys whose records a request that names none may show; None if it may all.

        As for any request, one selector has to allow all of it: the command, and reading the key.
        """
        selectors = [each for each in self.selectors if each.deny(spec, request) is None]
        if any(each.all_keys for each in selectors):
            return None
        return lambda key: any(each.allows_key(key, READ) for each in selectors)

    def allows_channel(self, channel: bytes, *, is_pattern: bool) -> bool:
        """Tell whether any selector lets the user hear a channel."""
        return any(selector.allows_channel(channel, is_pattern=is_pattern) for selector in self.selectors)

    # --- description

    @property
    def flags(self) -> list[bytes]:
        words = [b"on" if self.enabled else b"off"]
        if self.no_password:
            words.append(b"nopass")
        words.append(b"sanitize-payload" if self.sanitizes else b"skip-sanitize-payload")
        return words

    def __bytes__(self) -> bytes:
        """Return the user as a line of ACL LIST and of an ACL file, without a line break."""
        root, *others = self.selectors
        parts = [b"user", self.name, *self.flags, *(b"#" + each for each in self.passwords), bytes(root)]
        parts += [b"(%b)" % bytes(selector) for selector in others]
        return b" ".join(parts)


def hash_password(password: bytes) -> bytes:
    """Return how a password is kept: SHA-256 in hex, without salt, so that it can be given by hash."""
    return hashlib.sha256(password).hexdigest().encode()


def _hashed(rule: bytes) -> bytes:
    """Return the hash of the password in a rule that starts with one of ``> < # !``."""
    if rule[:1] in {b">", b"<"}:
        return hash_password(rule[1:])
    if not _HASH.fullmatch(rule[1:]):
        raise RuleError(_BAD_HASH)
    return rule[1:]


_USER_WORDS: Final[dict[bytes, Callable[[User], None]]] = {
    b"on": User._enable,
    b"off": User._disable,
    b"sanitize-payload": User._sanitize,
    b"skip-sanitize-payload": User._skip_sanitize,
    b"nopass": User._need_no_password,
    b"resetpass": User._forget_passwords,
    b"clearselectors": User._clear_selectors,
    b"reset": User._reset,
}


def is_valid_name(name: bytes) -> bool:
    """Tell whether `name` can stand in a line of an ACL file."""
    return not BLANKS.search(name)


def merge_selectors(rules: Iterable[bytes]) -> list[bytes]:
    """Put selectors that were split at their blanks together again. Raise `UnmatchedParenthesis`."""
    merged: list[bytes] = []
    opened: list[bytes] = []
    for rule in rules:
        if opened or (rule.startswith(b"(") and not rule.endswith(b")")):
            opened.append(rule)
            if rule.endswith(b")"):
                merged.append(b" ".join(opened))
                opened = []
        else:
            merged.append(rule)
    if opened:
        raise UnmatchedParenthesis(opened[0].decode("utf-8", "replace"))
    return merged
