"""Which members carry which groups of namespaces.

All members carry the common group. A node that carries others keeps one record of the cluster about it:

    carries:<node>   {"groups": [number, ...]}

So that is stamped, durable and replicated like the records of members (`roster`), and nobody speaks with a node about a
group before he has its record: from then on it is waited for in that group's garbage collection.

A node never gives a group up. What it holds of it would come back out of date one day, and nobody would wait for it
meanwhile. It can leave, and join anew with an empty data directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from replication.core import Core
from replication.messages import decode_record, encode_record
from replication.roster import NODE_BYTES, Roster
from storage.changes import Stamp

CARRIES: Final = b"carries:"


class Participants(Protocol):
    """Who takes part in the exchange of one group: `Roster` for the common one, else `Carriers`."""

    def members(self) -> list[bytes]:
        """Return all whose claims must be waited for, this node included, in the order of their ids."""
        ...

    def remaining(self) -> list[bytes]: ...

    def is_member(self, node: bytes) -> bool: ...

    def departed(self) -> list[bytes]: ...

    def admit(self, node: bytes, now: float) -> bool: ...

    def settle(self, vectors: Mapping[bytes, Mapping[bytes, int]]) -> None: ...


class CarriedGroups:
    """Every member's groups by their records, cached until one changes."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._version = -1
        self._groups: dict[bytes, tuple[int, ...]] = {}

    @property
    def version(self) -> int:
        """Return a number that grows when a record changes."""
        return self._core.replica.system_version_of(CARRIES)

    def of(self, node: bytes) -> tuple[int, ...]:
        """Return the groups that a node carries beside the common one."""
        if self._version != self.version:
            self._version = self.version
            self._groups = self._read()
        return self._groups.get(node, ())

    def recorded_at(self, node: bytes) -> Stamp | None:
        """Return the stamp of a node's record; None if it has none."""
        found = self._core.replica.get_system(CARRIES + node)
        return None if found is None else found[1]

    def check(self, groups: Sequence[int]) -> None:
        """Raise `GroupGivenUp` if this node carried others than `groups` until now."""
        given_up = [group for group in self.of(self._core.identity.node) if group not in groups]
        if given_up:
            raise GroupGivenUp(given_up)

    def record(self, groups: Sequence[int]) -> None:
        """Write down what this node carries, if that is more than its record says. Inside a tick."""
        own = self._core.identity.node
        known = self.of(own)
        if any(group not in known for group in groups):
            encoded = encode_record({"groups": sorted({*known, *groups})})
            self._core.replica.put_system(CARRIES + own, encoded)

    def _read(self) -> dict[bytes, tuple[int, ...]]:
        return {
            name[len(CARRIES) :]: _groups_in(value)
            for name, value, _ in self._core.replica.list_system(CARRIES)
            if len(name) == len(CARRIES) + NODE_BYTES
        }


class Carriers:
    """The members that carry one group: what `Roster` is to the common one."""

    def __init__(self, group: int, own: bytes, roster: Roster, carried: CarriedGroups) -> None:
        self._group = group
        self._own = own
        self._roster = roster
        self._carried = carried
        self._members: list[bytes] = []
        self._members_of: tuple[list[bytes], int] | None = None

    def members(self) -> list[bytes]:
        """Return the carriers that must be waited for, this node included. The list is shared: do not change it."""
        everybody, version = self._roster.members(), self._carried.version
        if self._members_of is None or self._members_of[0] is not everybody or self._members_of[1] != version:
            self._members = [node for node in everybody if self._carries(node)]
            self._members_of = (everybody, version)
        return self._members

    def remaining(self) -> list[bytes]:
        return [node for node in self._roster.remaining() if self._carries(node)]

    def is_member(self, node: bytes) -> bool:
        return self._roster.is_member(node) and self._carries(node)

    def departed(self) -> list[bytes]:
        return self._roster.departed()

    def admit(self, node: bytes, now: float) -> bool:
        """Take note of nothing: each node writes its own record."""
        return self.is_member(node)

    def settle(self, vectors: Mapping[bytes, Mapping[bytes, int]]) -> None:
        """Find nothing out: departures are records of the common group."""

    def _carries(self, node: bytes) -> bool:
        return node == self._own or self._group in self._carried.of(node)


class GroupGivenUp(Exception):
    """A member was started without a group that it carries."""

    def __init__(self, groups: Sequence[int]) -> None:
        named = ", ".join(map(str, groups))
        super().__init__(
            f"this node carries group {named} and cannot give it up; add it to peers.groups again, or let the node leave "
            "(`kvd cluster leave`) and join anew with an empty data directory"
        )


def _groups_in(value: bytes) -> tuple[int, ...]:
    """Read a record. What makes no sense names no group."""
    try:
        groups = decode_record(value).get("groups")
    except ValueError:
        return ()
    return tuple(group for group in groups if type(group) is int) if isinstance(groups, list) else ()
