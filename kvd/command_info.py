"""A command's declaration in the forms of COMMAND INFO and COMMAND DOCS.

Both are nested replies with many fields that clients (redis-cli's hints, cluster clients, proxies) read by
position or by name; the layout is Redis 7.2's. What is a set or a map there is one in RESP3 here too.

Source: Redis 7.2 documentation, "COMMAND", "COMMAND DOCS", "Key specifications".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kvd.commands.spec import Arg, CommandSpec, Flag, KeyCount, KeyRange
from protocol.replies import Reply, Set, Simple

# Flags that COMMAND INFO shows, in Redis's order, under Redis's names. The others are the server's own business.
_SHOWN_FLAGS: Final = {
    flag: Simple(flag.name.lower().encode())
    for flag in (
        Flag.WRITE,
        Flag.READONLY,
        Flag.DENYOOM,
        Flag.ADMIN,
        Flag.PUBSUB,
        Flag.NOSCRIPT,
        Flag.BLOCKING,
        Flag.LOADING,
        Flag.STALE,
        Flag.SKIP_MONITOR,
        Flag.SKIP_SLOWLOG,
        Flag.FAST,
        Flag.NO_AUTH,
        Flag.NO_MANDATORY_KEYS,
        Flag.NO_ASYNC_LOADING,
        Flag.NO_MULTI,
        Flag.MOVABLEKEYS,
        Flag.ALLOW_BUSY,
    )
    if flag.name is not None
}


# --- COMMAND INFO


def info(spec: CommandSpec) -> list[Reply]:
    """Return the ten elements that describe a command: name, arity, flags, keys, categories and so on."""
    return [
        spec.name.lower().encode(),
        spec.arity,
        Set(shown for flag, shown in _SHOWN_FLAGS.items() if flag in spec.flags),
        *_legacy_range(spec.keys),
        Set(Simple(b"@" + category.encode()) for category in spec.acl_categories),
        Set(tip.encode() for tip in spec.tips),
        Set(_key_spec(part) for part in spec.keys),
        _subcommands(spec),
    ]


def _subcommands(spec: CommandSpec) -> Reply:
    found = [info(each) for each in spec.subcommands.values()]
    # Redis answers an array where there are any and an empty set where there are none.
    return found or Set()


def _legacy_range(keys: Iterable[KeyRange | KeyCount]) -> tuple[int, int, int]:
    """Return first key, last key and step as clients before key specs understand them; 0 for no keys.

    Several ranges are joined into one from the first key to the last; keys that are counted by an
    argument cannot be said this way.
    """
    ranges = [part for part in keys if isinstance(part, KeyRange)]
    if not ranges:
        return 0, 0, 0
    if len(ranges) == 1:
        return ranges[0].first, ranges[0].last or ranges[0].first, ranges[0].step
    lasts = [part.last or part.first for part in ranges]
    # A last key counted from the end lies behind any that is counted from the start.
    last = min(lasts) if min(lasts) < 0 else max(lasts)
    return min(part.first for part in ranges), last, 1


def _key_spec(part: KeyRange | KeyCount) -> dict[bytes, Reply]:
    start = part.first if isinstance(part, KeyRange) else part.count_index
    return {
        b"flags": Set(Simple(word.encode()) for word in part.access),
        b"begin_search": {b"type": b"index", b"spec": {b"index": start}},
        b"find_keys": _range_spec(part) if isinstance(part, KeyRange) else _count_spec(part),
    }


def _range_spec(part: KeyRange) -> dict[bytes, Reply]:
    last = part.last - part.first if part.last > 0 else part.last
    return {b"type": b"range", b"spec": {b"lastkey": last, b"keystep": part.step, b"limit": 0}}


def _count_spec(part: KeyCount) -> dict[bytes, Reply]:
    first = part.first - part.count_index
    return {b"type": b"keynum", b"spec": {b"keynumidx": 0, b"firstkey": first, b"keystep": 1}}


# --- COMMAND DOCS


def docs(spec: CommandSpec) -> dict[bytes, Reply]:
    """Return what COMMAND DOCS says about a command; what does not apply is left out."""
    found: dict[bytes, Reply] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": spec.group.encode(),
        b"complexity": spec.complexity.encode(),
        b"doc_flags": _doc_flags(spec),
        b"deprecated_since": _text(spec.deprecated_since),
        b"replaced_by": _text(spec.replaced_by),
        b"history": Set([version.encode(), change.encode()] for version, change in spec.history),
        b"arguments": _Keys(spec).arguments(spec.arguments),
        b"subcommands": {each.name.lower().encode(): docs(each) for each in spec.subcommands.values()},
    }
    return {name: value for name, value in found.items() if value}


def _doc_flags(spec: CommandSpec) -> Set:
    flags = {b"deprecated": spec.deprecated_since is not None, b"syscmd": spec.is_system}
    return Set(Simple(flag) for flag, applies in flags.items() if applies)


def _text(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


class _Keys:
    """Describes arguments, and counts the keys among them: the n-th belongs to the n-th key spec."""

    def __init__(self, spec: CommandSpec) -> None:
        self._last = len(spec.keys) - 1
        self._next = 0

    def arguments(self, arguments: Iterable[Arg]) -> list[Reply]:
        return [self._argument(argument) for argument in arguments]

    def _argument(self, argument: Arg) -> dict[bytes, Reply]:
        found: dict[bytes, Reply] = {b"name": argument.name.encode(), b"type": argument.kind.encode()}
        if argument.kind not in {"oneof", "block"}:
            found[b"display_text"] = argument.name.encode()
        if argument.kind == "key":
            found[b"key_spec_index"] = self._key_spec_index()
        found |= {
            name: text.encode()
            for name, text in (
                (b"token", argument.token),
                (b"since", argument.since),
                (b"deprecated_since", argument.deprecated_since),
            )
            if text is not None
        }
        if flags := _argument_flags(argument):
            found[b"flags"] = flags
        if argument.arguments:
            found[b"arguments"] = self.arguments(argument.arguments)
        return found

    def _key_spec_index(self) -> int:
        # More keys than specs: they belong to one spec whose range holds them all.
        index = min(self._next, self._last)
        self._next += 1
        return index


def _argument_flags(argument: Arg) -> Set:
    flags = {
        b"optional": argument.optional,
        b"multiple": argument.multiple,
        b"multiple_token": argument.multiple_token,
    }
    return Set(Simple(flag) for flag, applies in flags.items() if applies)
