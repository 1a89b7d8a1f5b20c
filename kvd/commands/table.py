"""The command table: every command there is, by name.

The modules are listed here by hand; nothing registers itself by being imported. The table also
holds the two views that sessions dispatch from: `specs` for every request, and `plain`, the
constant-time data commands that a session without special state may run at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias
from weakref import WeakSet

from kvd.commands.arguments import c_text
from kvd.commands.spec import CommandSpec, DataHandler, Flag, Request
from protocol.replies import Encoded, ErrorReply, Reply

# What the session's loop needs of a plain command: handler, least and greatest number of arguments, spec.
PlainEntry: TypeAlias = tuple[DataHandler, int, int, CommandSpec]

_ARGUMENTS_MAX = 1 << 20
_PREVIEW_BYTES_MAX = 128


class PlainPart(dict[bytes, PlainEntry]):
    """What of the fast path is open to users who may run some commands only."""

    __slots__ = ("__weakref__", "names")

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = frozenset(names)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)  # a part is itself, whatever it holds


class CommandTable:
    """All commands by upper-case name."""

    def __init__(self, specs: Iterable[CommandSpec]) -> None:
        self.specs: dict[bytes, CommandSpec] = {}
        self.plain: dict[bytes, PlainEntry] = {}
        self.prepared: dict[
            tuple[int, Callable[[CommandTable], Reply]], Encoded
        ] = {}  # what COMMAND says of all
        for spec in specs:
            self._add(spec)
        self._plain_parts: WeakSet[PlainPart] = WeakSet()
        self._plain_all = dict(self._plain_entries())
        self.allow_plain(reads=True, writes=True)

    @classmethod
    def standard(cls) -> CommandTable:
        """Return a table of every command that kvd has, with statistics of its own."""
        from kvd.commands.modules import all_commands  # noqa: PLC0415 -- the modules import this one

        return cls(all_commands())

    def _add(self, declared: CommandSpec) -> None:
        """Enter a spec of this table's own: two tables in one process share no statistics."""
        spec = declared.copy()
        parent, _, child = spec.name.partition("|")
        if child:
            self.specs[parent.encode()].subcommands[child.encode()] = spec
        elif spec.name.encode() in self.specs:
            raise ValueError(f"command {spec.name} is declared twice")
        else:
            self.specs[spec.name.encode()] = spec

    def everything(self) -> Iterator[CommandSpec]:
        """Yield every command, containers and their subcommands included."""
        for spec in self.specs.values():
            yield spec
            yield from spec.subcommands.values()

    def calls(self) -> int:
        """Return how many commands were run since the start or CONFIG RESETSTAT."""
        return sum(spec.stats.calls for spec in self.everything())

    def named(self, name: bytes) -> CommandSpec | None:
        """Return the command called ``get``, ``config`` or ``config|get``, in any case, or None."""
        parent, separator, child = name.upper().partition(b"|")
        spec = self.specs.get(parent)
        if spec is None or not separator:
            return spec
        return spec.subcommands.get(child)

    def find(self, request: Request) -> CommandSpec:
        """Return the command that `request` names, its subcommand resolved.

        Raise `ErrorReply` with Redis 7.2's text where there is none.
        """
        name = request[0].upper()
        spec = self.specs.get(name)
        if spec is None:
            raise ErrorReply(_unknown_command(request))
        if not spec.subcommands:
            return spec
        return self._find_subcommand(spec, request)

    def _find_subcommand(self, spec: CommandSpec, request: Request) -> CommandSpec:
        if len(request) == 1:
            if spec.session_handler is not None or spec.data_handler is not None:
                return spec
            raise ErrorReply(wrong_arity(spec))
        found = spec.subcommands.get(request[1].upper())
        if found is not None:
            return found
        shown = c_text(request[1][:_PREVIEW_BYTES_MAX])
        raise ErrorReply(f"ERR unknown subcommand '{shown}'. Try {spec.name} HELP.")

    def allow_plain(self, *, reads: bool, writes: bool) -> None:
        """Open or close the fast path. The dicts stay the same objects: sessions hold them."""
        self.plain.clear()
        for name, entry in self._plain_all.items():
            if writes if entry[3].is_write else reads:
                self.plain[name] = entry
        for part in self._plain_parts:
            self._fill(part)

    def plain_part(self, names: Iterable[str]) -> PlainPart:
        """Return the entries of `plain` for the commands in `names`; it opens and closes as `plain` does."""
        part = PlainPart(names)
        self._plain_parts.add(part)
        self._fill(part)
        return part

    def _fill(self, part: PlainPart) -> None:
        part.clear()
        part.update({name: entry for name, entry in self.plain.items() if entry[3].name in part.names})

    def _plain_entries(self) -> Iterable[tuple[bytes, PlainEntry]]:
        for name, spec in self.specs.items():
            if Flag.PLAIN not in spec.flags or spec.data_handler is None:
                continue
            high = spec.arity if spec.arity > 0 else _ARGUMENTS_MAX
            entry = (spec.data_handler, abs(spec.arity), high, spec)
            # Clients send names in one of these; any other spelling takes the general path.
            for spelling in (name, name.lower(), name.capitalize()):
                yield spelling, entry


def wrong_arity(spec: CommandSpec) -> str:
    """Return the error text for a request of the wrong length. Source: Redis 7.2."""
    return f"ERR wrong number of arguments for '{spec.name.lower()}' command"


def _unknown_command(request: Request) -> str:
    name = c_text(request[0][:_PREVIEW_BYTES_MAX])
    preview = ""
    for argument in request[1:]:
        if len(preview) >= _PREVIEW_BYTES_MAX:
            break
        room = _PREVIEW_BYTES_MAX - len(preview)
        preview += f"'{c_text(argument[:room])}' "
    return f"ERR unknown command '{name}', with args beginning with: {preview}"
