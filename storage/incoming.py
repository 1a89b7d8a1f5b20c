"""What a tick has taken over from other nodes: which dots, how far they are covered, who lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from storage.changes import Conflict, Kind

if TYPE_CHECKING:
    from storage.keyspace import Keyspace

# A dot's place: a row key, None for "the same row as the dot before", [namespace] for a flush,
# [row key of a key, kind and sub] for a member.
Place: TypeAlias = bytes | list[bytes] | None


class Taken:
    """The dots of one origin: where each wrote, and the last seq of its group if it has one."""

    __slots__ = ("groups", "hlc", "places")

    def __init__(self) -> None:
        self.places: dict[int, bytes | list[bytes]] = {}
        self.groups: dict[int, int] = {}
        self.hlc = 0  # the greatest clock value of the dots


class Incoming:
    """Filled by `applying`, written by the commit."""

    __slots__ = (
        "applied",
        "covered",
        "forks",
        "headers",
        "lost",
        "mends",
        "taken",
        "uncovered",
        "undecodable",
    )

    def __init__(self) -> None:
        self.taken: dict[int, Taken] = {}  # by origin number
        self.covered: dict[int, int] = {}  # seq by origin number
        self.uncovered: dict[int, int] = {}  # the greatest seq merged without being covered
        self.mends = False  # whether dots may have been taken that the log has passed already
        # What clients can see, as `Store.applied` tells it; a tuple stands for several keys.
        self.applied: list[tuple[Keyspace, bytes | tuple[bytes, ...] | None, Kind]] = []
        self.headers: dict[bytes, None] = {}  # row keys that may want their value back
        # Writes that lost without having been seen, by register: kind, and the conflict if it is to be told of.
        self.lost: dict[bytes, tuple[int, Conflict | None]] = {}
        self.forks = 0
        self.undecodable = 0

    def take(self, number: int) -> Taken:
        """Return the dots of one origin, to be added to."""
        taken = self.taken.get(number)
        if taken is None:
            taken = self.taken[number] = Taken()
        return taken

    @property
    def dot_count(self) -> int:
        return sum(len(taken.places) for taken in self.taken.values())
