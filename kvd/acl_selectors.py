"""Selectors: one set of permissions of a user, made by rules.

    +name -name   a command and its subcommands       ~glob %R~glob %W~glob  keys, all or read or write
    +name|sub     one subcommand, or (deprecated)     allkeys resetkeys      = ~*; forget them
                  one first argument                  &glob                  channels
    +@cat -@cat   the commands of a category          allchannels            = &*
    allcommands nocommands        = +@all, -@all      resetchannels          forget them

Rules are applied in order, each to the result of those before. What they allow is worked out once, as a
set of command names; asking about a request is a look-up in it. The rules about commands are kept as
well, since they, not the set, are shown and saved: they say what is meant for commands of later versions.

Source: Redis 7.2 documentation, "ACL"; `ACL SETUSER`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import attrs

from kvd.commands.spec import ACL_CATEGORIES, CommandSpec, Flag, Request
from kvd.commands.table import CommandTable
from kvd.glob import Glob

READ: Final = 1
WRITE: Final = 2

_RIGHT_FOR: Final = {"access": READ, "insert": WRITE, "update": WRITE, "delete": WRITE}
_PREFIX_OF_ACCESS: Final = {READ: b"%R~", WRITE: b"%W~", READ | WRITE: b"~"}
_KEY_RULE: Final = re.compile(rb"(?:~|%(R|W|RW|WR)~)(.*)", re.DOTALL | re.IGNORECASE)
BLANKS: Final = re.compile(rb"[\s\x00]")

SYNTAX: Final = "Syntax error"
UNKNOWN: Final = "Unknown command or category name in ACL"
_AFTER_ALL_KEYS: Final = (
    "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. "
    "Try 'resetkeys' to start with an empty list of patterns"
)
_AFTER_ALL_CHANNELS: Final = (
    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any "
    "effect. Try 'resetchannels' to start with an empty list of channels"
)
_FIRST_ARGUMENT_OF_SUBCOMMAND: Final = "Allowing first-arg of a subcommand is not supported"


class RuleError(Exception):
    """A rule cannot be applied; nothing was changed by it. The text is Redis's."""

    def __init__(self, text: str, rule: bytes = b"") -> None:
        super().__init__(text)
        self.text = text
        self.rule = rule


@attrs.frozen
class Denial:
    """Why a request is not allowed: ``command``, ``key`` or ``channel``, and which one."""

    reason: str
    object: bytes
    position: int = 0  # among the keys or channels of the request

    @property
    def weight(self) -> tuple[int, int]:
        """Tell which of the denials by several selectors says most: the one that got furthest."""
        return ("command", "key", "channel").index(self.reason), self.position


@attrs.frozen
class KeyPattern:
    """Keys, and what may be done to them: `READ`, `WRITE` or both."""

    glob: Glob
    access: int

    def __bytes__(self) -> bytes:
        return _PREFIX_OF_ACCESS[self.access] + self.glob.pattern


class Selector:
    """One set of permissions. Made empty: it allows nothing."""

    def __init__(self, table: CommandTable) -> None:
        self._table = table
        self.starts_with_all = False  # commands that are not known yet are allowed
        self.allowed: set[str] = set()  # names of commands and subcommands
        self.command_rules: list[bytes] = []  # behind the first, which is +@all or -@all
        self.first_arguments: dict[str, set[bytes]] = {}
        self.all_keys = False
        self.key_patterns: dict[bytes, KeyPattern] = {}
        self.all_channels = False
        self.channel_patterns: dict[bytes, Glob] = {}

    def copy(self) -> Selector:
        """Return a selector that can be changed without changing this one."""
        twin = Selector(self._table)
        twin.starts_with_all = self.starts_with_all
        twin.allowed = set(self.allowed)
        twin.command_rules = list(self.command_rules)
        twin.first_arguments = {name: set(words) for name, words in self.first_arguments.items()}
        twin.all_keys = self.all_keys
        twin.key_patterns = dict(self.key_patterns)
        twin.all_channels = self.all_channels
        twin.channel_patterns = dict(self.channel_patterns)
        return twin

    @property
    def unrestricted(self) -> bool:
        """Tell whether every request is allowed."""
        everything = self.starts_with_all and not self.command_rules
        return everything and self.all_keys and self.all_channels

    # --- rules

    def apply(self, rule: bytes) -> None:
        """Change what is allowed by one rule. Raise `RuleError`."""
        word = _SELECTOR_WORDS.get(rule.lower())
        if word is not None:
            word(self)
        elif rule[:1] in {b"~", b"%"}:
            self._add_keys(rule)
        elif rule[:1] == b"&":
            self._add_channels(rule[1:])
        elif rule[:1] in {b"+", b"-"}:
            self._change_commands(rule[1:], allow=rule[:1] == b"+")
        else:
            raise RuleError(SYNTAX)

    def _allow_all_keys(self) -> None:
        self._forget_keys()
        self.all_keys = True

    def _forget_keys(self) -> None:
        self.all_keys = False
        self.key_patterns.clear()

    def _add_keys(self, rule: bytes) -> None:
        if self.all_keys:
            raise RuleError(_AFTER_ALL_KEYS)
        match = _KEY_RULE.fullmatch(rule)
        if match is None:
            raise RuleError(SYNTAX)
        letters = (match[1] or b"RW").upper()
        access = (READ if b"R" in letters else 0) | (WRITE if b"W" in letters else 0)
        known = self.key_patterns.get(match[2])
        if known is not None:
            access |= known.access
        self.key_patterns[match[2]] = KeyPattern(_glob(match[2]), access)

    def _allow_all_channels(self) -> None:
        self._forget_channels()
        self.all_channels = True

    def _forget_channels(self) -> None:
        self.all_channels = False
        self.channel_patterns.clear()

    def _add_channels(self, pattern: bytes) -> None:
        if self.all_channels:
            raise RuleError(_AFTER_ALL_CHANNELS)
        self.channel_patterns.setdefault(pattern, _glob(pattern))

    def _allow_all_commands(self) -> None:
        self._forget_commands()
        self.starts_with_all = True
        self.allowed.update(spec.name for spec in self._table.everything())

    def _forget_commands(self) -> None:
        self.starts_with_all = False
        self.allowed.clear()
        self.command_rules.clear()
        self.first_arguments.clear()

    def _change_commands(self, name: bytes, *, allow: bool) -> None:
        name = name.lower()
        if name.startswith(b"@"):
            self._change_category(name, allow=allow)
            return
        spec = self._table.named(name)
        if spec is not None:
            self._change_command(spec, allow=allow)
        elif allow and b"|" in name:
            self._allow_first_argument(name)
        else:
            raise RuleError(UNKNOWN)
        self._note_rule(name, allow=allow)

    def _change_category(self, name: bytes, *, allow: bool) -> None:
        category = name[1:].decode("utf-8", "replace")
        if category not in ACL_CATEGORIES:
            raise RuleError(UNKNOWN)
        for spec in self._table.everything():
            if category in spec.acl_categories:
                self._change_command(spec, allow=allow)
        self._note_rule(name, allow=allow)

    def _change_command(self, spec: CommandSpec, *, allow: bool) -> None:
        names = [spec.name, *(sub.name for sub in spec.subcommands.values())]
        if allow:
            self.allowed.update(names)
        else:
            self.allowed.difference_update(names)
        self.first_arguments.pop(spec.name, None)

    def _allow_first_argument(self, name: bytes) -> None:
        command, _, argument = name.rpartition(b"|")
        spec = self._table.named(command)
        if spec is None:
            raise RuleError(UNKNOWN)
        if "|" in spec.name:
            raise RuleError(_FIRST_ARGUMENT_OF_SUBCOMMAND)
        if not argument:
            raise RuleError(SYNTAX)
        if spec.subcommands:
            raise RuleError(UNKNOWN)
        self.first_arguments.setdefault(spec.name, set()).add(argument)

    def _note_rule(self, name: bytes, *, allow: bool) -> None:
        """Keep a rule about commands, in place of those that it makes void."""
        subcommand = name + b"|"
        kept = [
            rule for rule in self.command_rules if rule[1:] != name and not rule[1:].startswith(subcommand)
        ]
        self.command_rules = [*kept, (b"+" if allow else b"-") + name]

    # --- decisions

    def deny(self, spec: CommandSpec, request: Request) -> Denial | None:
        """Return why this selector does not allow a request, or None if it does."""
        if not self._allows_command(spec, request):
            return Denial("command", spec.name.lower().encode())
        if (spec.keys or spec.find_keys) and not self.all_keys:
            for position, (key, access) in enumerate(spec.key_accesses(request)):
                needed = _needed(access)
                if needed is not None and not self.allows_key(key, needed):
                    return Denial("key", key, position)
        if spec.channels is not None and not self.all_channels:
            for position, (channel, is_pattern) in enumerate(spec.channels(request)):
                if not self.allows_channel(channel, is_pattern=is_pattern):
                    return Denial("channel", channel, position)
        return None

    def _allows_command(self, spec: CommandSpec, request: Request) -> bool:
        if spec.name in self.allowed or Flag.NO_AUTH in spec.flags:
            return True
        words = self.first_arguments.get(spec.name)
        return words is not None and len(request) > 1 and request[1].lower() in words

    def allows_key(self, key: bytes, needed: int) -> bool:
        """Tell whether one of the patterns gives all the rights `needed` on a key."""
        # A plain loop: it runs for every key of every request of a user with key patterns.
        for pattern in self.key_patterns.values():
            if pattern.access & needed == needed and pattern.glob.matches(key):
                return True
        return False

    def allows_channel(self, channel: bytes, *, is_pattern: bool) -> bool:
        """Tell whether a channel may be used. A pattern must be one of the user's own, letter by letter."""
        if self.all_channels or is_pattern:
            return self.all_channels or channel in self.channel_patterns
        return any(glob.matches(channel) for glob in self.channel_patterns.values())

    # --- description

    @property
    def commands_text(self) -> bytes:
        first = b"+@all" if self.starts_with_all else b"-@all"
        return b" ".join((first, *self.command_rules))

    @property
    def keys_text(self) -> bytes:
        return b"~*" if self.all_keys else b" ".join(map(bytes, self.key_patterns.values()))

    @property
    def channels_text(self) -> bytes:
        return b"&*" if self.all_channels else b" ".join(b"&" + each for each in self.channel_patterns)

    def __bytes__(self) -> bytes:
        """Return the rules that make this selector out of an empty one."""
        channels = self.channels_text
        if not self.all_channels:
            channels = b"resetchannels " + channels
        return b" ".join(part.strip() for part in (self.keys_text, channels, self.commands_text) if part)


@lru_cache
def _needed(access: tuple[str, ...]) -> int | None:
    """Return the rights that an access (see `KeyRange`) needs: 0 for looking only; None if it is not a key."""
    if "not_key" in access:
        return None
    rights = 0
    for word in access:
        rights |= _RIGHT_FOR.get(word, 0)
    return rights


def _glob(pattern: bytes) -> Glob:
    if BLANKS.search(pattern):
        raise RuleError(SYNTAX)
    try:
        return Glob(pattern)
    except ValueError:
        raise RuleError(SYNTAX) from None


_SELECTOR_WORDS: Final[dict[bytes, Callable[[Selector], None]]] = {
    b"allkeys": Selector._allow_all_keys,
    b"~*": Selector._allow_all_keys,
    b"resetkeys": Selector._forget_keys,
    b"allchannels": Selector._allow_all_channels,
    b"&*": Selector._allow_all_channels,
    b"resetchannels": Selector._forget_channels,
    b"allcommands": Selector._allow_all_commands,
    b"+@all": Selector._allow_all_commands,
    b"nocommands": Selector._forget_commands,
    b"-@all": Selector._forget_commands,
}
