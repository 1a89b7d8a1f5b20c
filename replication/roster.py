"""Who belongs to the cluster as far as its data is concerned.

`membership` guesses who is alive; this knows who must be waited for. Both kinds of facts are records of
the cluster's reserved namespace, so they are stamped, durable and replicated like any other:

    member:<node>   {"by", "at"}            it was let in
    gone:<node>     {"state", "by", "at"}   it left, or was removed; for good

A node id that is gone never comes back: whoever was removed and returns draws a new one. That is what makes
the order of the two records irrelevant.

A member stops to count for garbage collection only when every remaining member durably covers the dot of
its `gone` record. Before that, some member might still take part in an exchange in which the gone one brings
old writes back. Once that is so for a record it stays so.

Time alone removes nobody. A member that was unreachable for `max_offline` is removed by itself only while a
strict majority of the members is reachable, by the oldest of those, so that two halves of a cluster
never remove each other. The time counts only while this node watched: it is summed up in short steps,
kept over restarts, and begins anew when the member turns out to have lived in between. No wall clock can
shorten it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

import attrs

from replication.core import Core
from replication.messages import decode_record, encode_record
from storage.changes import Stamp

MEMBER: Final = b"member:"
GONE: Final = b"gone:"
NODE_BYTES: Final = 16
_ABSENCES: Final = "absences"
# The longest step that counts as watched: after a longer one this node itself had stopped.
STEP_MAX: Final = 60.0
STEPS_PER_OFFLINE: Final = 100
# Absences are written down this often, in parts of `max_offline`.
KEEPS_PER_OFFLINE: Final = 20

Departure = Literal["left", "removed"]


class Liveness(Protocol):
    """What `membership` tells about who can be reached."""

    def is_reachable(self, node: bytes) -> bool: ...

    def incarnation_of(self, node: bytes) -> int:
        """Return the greatest incarnation known; 0 for an unknown node."""
        ...


@attrs.frozen
class Gone:
    """The departure of a member."""

    state: Departure
    by: bytes
    stamp: Stamp


@attrs.define
class _Absence:
    seconds: float
    incarnation: int


class Roster:
    """The members by their records, cached until `changed`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.liveness: Liveness | None = None
        self.version = 0  # grows with each change
        self.on_removed: Callable[[bytes], None] = _ignore_removal  # automatically, by this node
        self._joined: dict[bytes, Stamp] | None = None
        self._members: list[bytes] | None = None
        self._gone: dict[bytes, Gone] = {}
        self._effective: dict[bytes, Stamp] = {}
        self._absences: dict[bytes, _Absence] | None = None
        self._next = 0.0
        self._counted_at: float | None = None
        self._kept_at = 0.0

    # --- questions

    def members(self) -> list[bytes]:
        """Return all whose claims must be waited for, this node included, in the order of their ids.

        The list is shared: do not change it.
        """
        joined, gone = self._read()
        if self._members is None:
            counted = {node: None for node in joined if node not in gone or not self._is_effective(node)}
            counted[self._core.identity.node] = None
            self._members = sorted(counted)
        return self._members

    def remaining(self) -> list[bytes]:
        """Return the members that are not gone, whether or not all know that others are."""
        joined, gone = self._read()
        return sorted(node for node in joined if node not in gone)

    def is_member(self, node: bytes) -> bool:
        joined, gone = self._read()
        return node in joined and node not in gone

    def is_removed(self, node: bytes) -> bool:
        departure = self.departure(node)
        return departure is not None and departure.state == "removed"

    def is_gone(self, node: bytes) -> bool:
        """Tell whether the node left or was removed."""
        return self.departure(node) is not None

    def departure(self, node: bytes) -> Gone | None:
        return self._read()[1].get(node)

    def departed(self) -> list[bytes]:
        """Return all that left or were removed."""
        return list(self._read()[1])

    def joined_at(self, node: bytes) -> Stamp | None:
        """Return the stamp of the record that let a node in."""
        return self._read()[0].get(node)

    def removal_effective(self, node: bytes, vectors: Mapping[bytes, Mapping[bytes, int]]) -> bool:
        """Tell whether a gone member need not be waited for, by the durable vectors of all members.

        This node's own vector is taken from its store. What was found once holds for the same record.
        """
        gone = self._read()[1].get(node)
        if gone is None:
            return False
        if self._is_effective(node):
            return True
        origin, seq = gone.stamp.origin, gone.stamp.seq
        own = self._core.identity.node
        for member in self.remaining():
            vector = self._core.replica.durable() if member == own else vectors.get(member)
            if vector is None or vector.get(origin, 0) < seq:
                return False
        self._effective[node] = gone.stamp
        self._members = None
        return True

    def settle(self, vectors: Mapping[bytes, Mapping[bytes, int]]) -> None:
        """Find out which departures have become effective, so that `members` leaves them out."""
        for node in self.departed():
            self.removal_effective(node, vectors)

    # --- writing; inside a tick

    def admit(self, node: bytes, now: float) -> bool:
        """Let a node in unless it is; False if it is gone, which is for good."""
        joined, gone = self._read()
        if node in gone:
            return False
        if node not in joined:
            self._put(MEMBER + node, {})
        return True

    def remove(self, node: bytes) -> bool:
        """Remove a member; False if it is none."""
        return self._depart(node, "removed")

    def leave(self) -> None:
        """Write down that this node leaves."""
        self._depart(self._core.identity.node, "left")

    def _depart(self, node: bytes, state: Departure) -> bool:
        joined, gone = self._read()
        if node not in joined or node in gone:
            return False
        self._put(GONE + node, {"state": state})
        return True

    def _put(self, name: bytes, record: dict[str, object]) -> None:
        record |= {"by": self._core.identity.node, "at": self._core.wall_ms()}
        self._core.replica.put_system(name, encode_record(record))
        self.changed()

    # --- the cache

    def changed(self) -> None:
        """Read the records again when they are wanted: some were written, here or elsewhere, or a tick failed."""
        self._joined = self._members = None
        self.version += 1

    def _read(self) -> tuple[dict[bytes, Stamp], dict[bytes, Gone]]:
        if self._joined is None:
            replica = self._core.replica
            self._joined = {
                name[len(MEMBER) :]: stamp
                for name, _, stamp in replica.list_system(MEMBER)
                if len(name) == len(MEMBER) + NODE_BYTES
            }
            self._gone = {
                name[len(GONE) :]: _gone(value, stamp)
                for name, value, stamp in replica.list_system(GONE)
                if len(name) == len(GONE) + NODE_BYTES
            }
        return self._joined, self._gone

    def _is_effective(self, node: bytes) -> bool:
        # By its stamp: a later record of the same departure has to be covered anew.
        return node in self._effective and self._effective[node] == self._gone[node].stamp

    # --- removal after a long absence

    def tick(self, now: float) -> float:
        """Count absences and remove who was away for too long. Inside a tick."""
        if now < self._next:
            return self._next
        step = min(STEP_MAX, self._core.options.max_offline / STEPS_PER_OFFLINE)
        self._next = now + step
        elapsed = 0.0 if self._counted_at is None else min(now - self._counted_at, 2 * step)
        self._counted_at = now
        if self.liveness is not None:
            self._count_absences(elapsed, self.liveness)
            self._remove_absent(now, self.liveness)
            self._keep_absences(now)
        return self._next

    def absence_seconds(self, node: bytes) -> float:
        """Return for how long this node has seen a member unreachable."""
        absence = (self._absences or {}).get(node)
        return 0.0 if absence is None else absence.seconds

    def _count_absences(self, elapsed: float, liveness: Liveness) -> None:
        before = self._load_absences() if self._absences is None else self._absences
        counted: dict[bytes, _Absence] = {}
        for node in self.remaining():
            if node == self._core.identity.node or liveness.is_reachable(node):
                continue
            incarnation = liveness.incarnation_of(node)
            known = before.get(node)
            if known is None or incarnation > known.incarnation:
                counted[node] = _Absence(0.0, incarnation)
            else:
                counted[node] = _Absence(known.seconds + elapsed, known.incarnation)
        self._absences = counted

    def _remove_absent(self, now: float, liveness: Liveness) -> None:
        own = self._core.identity.node
        remaining = self.remaining()
        reachable = [node for node in remaining if node == own or liveness.is_reachable(node)]
        if 2 * len(reachable) <= len(remaining) or own not in reachable:
            return
        if min(reachable, key=self._age) != own:
            return
        for node, absence in (self._absences or {}).items():
            if absence.seconds > self._core.options.max_offline:
                self._core.log.warning("member removed: it was away too long", member=node.hex()[:8])
                self.remove(node)
                self.on_removed(node)
                return  # the next step judges the majority anew

    def _age(self, node: bytes) -> Stamp:
        stamp = self.joined_at(node)
        assert stamp is not None
        return stamp

    def _keep_absences(self, now: float) -> None:
        if now - self._kept_at < self._core.options.max_offline / KEEPS_PER_OFFLINE or self._absences is None:
            return
        self._kept_at = now
        rows = [[node, int(a.seconds * 1000), a.incarnation] for node, a in self._absences.items()]
        stored = encode_record({"absent": rows}) if rows else None
        if stored != self._core.replica.get_local(_ABSENCES):
            self._core.replica.put_local(_ABSENCES, stored)

    def _load_absences(self) -> dict[bytes, _Absence]:
        stored = self._core.replica.get_local(_ABSENCES)
        loaded: dict[bytes, _Absence] = {}
        try:
            rows = [] if stored is None else decode_record(stored).get("absent")
        except ValueError:
            rows = []
        for row in rows if isinstance(rows, list) else []:
            match row:
                case [bytes(node), int(ms), int(incarnation)]:
                    loaded[node] = _Absence(ms / 1000, incarnation)
        return loaded


def _gone(value: bytes, stamp: Stamp) -> Gone:
    """Read a departure. One that cannot be read still is one."""
    try:
        record = decode_record(value)
    except ValueError:
        record = {}
    by = record.get("by")
    state: Departure = "left" if record.get("state") == "left" else "removed"
    return Gone(state, by if isinstance(by, bytes) else b"", stamp)


def _ignore_removal(_node: bytes) -> None:
    """Stand in for the callback."""
