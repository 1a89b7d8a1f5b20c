"""The declarations of commands, against what a real redis-server says about its own.

Everything that clients act on must be the same: arity, flags, positions of keys, key specs, ACL
categories, tips, groups, versions, and the grammar of the arguments. Summaries are ours. Exceptions are
listed, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from kvd.commands.spec import CommandSpec, KeyCount, KeyRange
from kvd.commands.table import CommandTable
from kvd.grammar import syntax
from tests.kvd.harness import Client, InProcessServer
from tests.kvd.redis_wire import ask
from tests.servers import RunningServer

# The price of a command is kvd's own where it differs: records are read and written whole, keys are
# ordered on disk, deleting costs the same for any value.
OWN_COMPLEXITY: Final = frozenset(
    {
        "append",
        "copy",
        "del",
        "dump",
        "flushall",
        "flushdb",
        "getrange",
        "keys",
        "memory|malloc-stats",
        "memory|purge",
        "memory|usage",
        "migrate",
        "object|encoding",
        "randomkey",
        "restore",
        "scan",
        "setbit",
        "setrange",
        "sort",
        "sort_ro",
        "substr",
        "swapdb",
        "unlink",
    }
)

# Redis 7.2 says more than the 7.0 that Debian has: (command, part of its description).
NEWER_THAN_THE_REFERENCE: Final = {
    ("randomkey", "tips"): "7.2 adds a response policy",
    ("scan", "tips"): "7.2 adds a response policy",
    ("bitop", "arguments"): "7.2 lists the operations, 7.0 says a string",
    ("lcs", "arguments"): "7.2 tells two arguments called len apart",
}

OTHERWISE: Final = {
    ("sort", "key specs"): "refused until there are lists; patterns would name keys nobody can look up",
    ("sort_ro", "key specs"): "as sort",
    ("migrate", "key specs"): "refused: whatever keys it names stay where they are",
    ("migrate", "arguments"): "as its key specs, which arguments refer to",
    ("sort", "arguments"): "as its key specs, which arguments refer to",
    ("sort_ro", "arguments"): "as its key specs, which arguments refer to",
}


class Description:
    """What one server says about its commands, in plain values: name -> part -> value."""

    def __init__(self, ask: Any) -> None:
        self.parts: dict[str, dict[str, Any]] = {}
        for info in ask("COMMAND"):
            self._take_info(info)
        self._take_docs(ask("COMMAND", "DOCS"))

    def _take_info(self, info: list[Any]) -> None:
        name, arity, flags, first, last, step, categories, tips, key_specs, subcommands = info
        self.parts[name.decode()] = {
            "arity": arity,
            "flags": _words(flags),
            "key positions": (first, last, step),
            "categories": _words(categories),
            "tips": _words(tips),
            "key specs": [_key_spec(each) for each in key_specs],
        }
        for each in subcommands:
            self._take_info(each)

    def _take_docs(self, docs: list[Any]) -> None:
        for name, said in zip(docs[::2], docs[1::2], strict=True):
            fields = _fields(said)
            parts = self.parts[name.decode()]
            for field in ("since", "group", "complexity", "deprecated_since", "replaced_by"):
                parts[field] = fields.get(field)
            parts["doc_flags"] = _words(fields.get("doc_flags", []))
            parts["arguments"] = [_argument(each) for each in fields.get("arguments", [])]
            self._take_docs(fields.get("subcommands", []))


def _words(values: list[bytes]) -> frozenset[str]:
    return frozenset(value.decode() for value in values)


def _fields(flat: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _key_spec(flat: list[Any]) -> tuple[Any, ...]:
    fields = _fields(flat)  # Redis's notes are prose
    return _words(fields["flags"]), fields["begin_search"], fields["find_keys"]


def _argument(flat: list[Any]) -> dict[str, Any]:
    fields = _fields(flat)
    found = {
        field: fields.get(field) for field in ("type", "key_spec_index", "token", "since", "deprecated_since")
    }
    found["flags"] = _words(fields.get("flags", []))
    found["arguments"] = [_argument(each) for each in fields.get("arguments", [])]
    # Groups of arguments were renamed in 7.2, and their names are never written by anybody.
    if fields["type"] not in {b"oneof", b"block"}:
        found["name"] = fields["name"]
    return found


def _is_exempt(name: str, part: str) -> bool:
    if part == "complexity" and name in OWN_COMPLEXITY:
        return True
    return (name, part) in NEWER_THAN_THE_REFERENCE or (name, part) in OTHERWISE


@pytest.fixture(scope="module")
def ours() -> Description:
    return Description(Client(InProcessServer()).send)


@pytest.fixture(scope="module")
def redis_says(redis_server: RunningServer) -> Description:
    with redis_server.connect() as sock:
        return Description(lambda *request: ask(sock, *request))


@pytest.mark.needs_redis
def test_commands_are_declared_as_redis_declares_them(ours: Description, redis_says: Description) -> None:
    common = ours.parts.keys() & redis_says.parts.keys()
    assert len(common) > 150
    differing = [
        f"{name}, {part}: kvd says {value!r}, redis {redis_says.parts[name][part]!r}"
        for name in sorted(common)
        for part, value in ours.parts[name].items()
        if value != redis_says.parts[name][part] and not _is_exempt(name, part)
    ]
    assert not differing, "\n".join(differing)


@pytest.mark.needs_redis
def test_every_exception_is_still_one(ours: Description, redis_says: Description) -> None:
    exceptions = {(name, "complexity") for name in OWN_COMPLEXITY} | NEWER_THAN_THE_REFERENCE.keys()
    for name, part in exceptions | OTHERWISE.keys():
        assert ours.parts[name][part] != redis_says.parts[name][part], f"{name}, {part} is the same"


# --- what must hold for any table


def _all_specs() -> Iterator[CommandSpec]:
    return CommandTable.standard().everything()


def test_every_command_says_what_it_is_for() -> None:
    for spec in _all_specs():
        assert spec.summary.endswith("."), spec.name
        assert spec.since, spec.name
        assert spec.group, spec.name


def test_every_command_can_be_called_or_holds_subcommands() -> None:
    for spec in _all_specs():
        only_holds_subcommands = bool(spec.subcommands) and spec.name != "COMMAND"
        assert spec.is_container == only_holds_subcommands, spec.name


def test_every_key_argument_belongs_to_a_key_spec() -> None:
    for spec in _all_specs():
        has_key_arguments = "key" in {argument.kind for argument in _flat(spec)}
        assert not has_key_arguments or spec.keys or spec.find_keys, spec.name


def test_the_least_request_of_every_key_command_names_its_keys() -> None:
    for spec in _all_specs():
        if not spec.keys or spec.find_keys or any(isinstance(part, KeyCount) for part in spec.keys):
            continue
        if abs(spec.arity) <= spec.keys[0].first:
            continue  # it may be written without keys
        request = [b"x%d" % position for position in range(abs(spec.arity))]
        assert spec.key_arguments(request), spec.name


def test_no_key_range_begins_at_the_name() -> None:
    for spec in _all_specs():
        for part in spec.keys:
            assert part.first > 0
            assert not isinstance(part, KeyRange) or part.step > 0


def test_the_grammar_can_be_written_down() -> None:
    for spec in _all_specs():
        line = syntax(spec)
        assert line.startswith(spec.name.replace("|", " "))
        assert line.count("[") == line.count("]")
        assert line.count("<") == line.count(">")


def _flat(spec: CommandSpec) -> Iterator[Any]:
    waiting = list(spec.arguments)
    while waiting:
        argument = waiting.pop()
        yield argument
        waiting += argument.arguments
