"""Expiry and purging: taking away what no reader can see any more.

Expiry is a function of the record alone, so nothing here is needed for reads to be right. The sweep
gives back the room and keeps the counts true. It walks the deadlines that have come due; the row
decides what happens (see `layout` for why an entry may be early or stale):

* an expired row loses its value. While other members may hold older versions of it, its registers
  stay as a header, as a tombstone does; a node that is alone removes the row at once;
* a floor (tombstone) or header that is older than `gc_min_age_ms`, and that every member holds, is
  purged. What was purged is remembered as the greatest sequence per origin and the greatest clock
  value, in the same batch: a stamp at or below that can only come from a disk that was rolled back.

Expiring is not a write: it takes no dot, and other nodes come to the same by themselves.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol

from storage.engine import Family
from storage.errors import RecordError
from storage.layout import (
    EXPIRY_KIND,
    META_PURGED_HLC,
    NAMESPACE_BYTES,
    PURGE_KIND,
    deadline_prefix,
    due_before,
    parse_deadline,
    purged_key,
)
from storage.record import (
    EXPIRES_AT,
    EXPIRY,
    FLOOR,
    MISSING,
    NEVER,
    VALUE,
    VALUE_STAMP,
    Record,
    dumps,
    registers,
)
from storage.state import State
from storage.version import register_dot, register_hlc, register_ms

if TYPE_CHECKING:
    from storage.keyspace import Keyspace
    from storage.registry import Keyspaces

# From this many entries on, one range is cheaper to delete and to skip than single keys.
_RANGE_ENTRIES = 64


class Stability(Protocol):
    """What replication knows about other members, as far as purging needs it."""

    @property
    def alone(self) -> bool:
        """Whether no other member can hold anything that this node does not."""
        ...

    def covers(self, register: bytes) -> bool:
        """Tell whether every member durably holds this register or a newer one."""
        ...


class Alone:
    """The stability of a node without members."""

    alone = True

    def covers(self, register: bytes) -> bool:
        return True


class Horizon:
    """The greatest stamps ever purged: a sequence for each origin number, and a clock value."""

    def __init__(self, seqs: dict[int, int], hlc: int) -> None:
        self.seqs = seqs
        self.hlc = hlc

    def raise_to(self, register: bytes) -> None:
        origin, seq = register_dot(register)
        self.seqs[origin] = max(self.seqs.get(origin, 0), seq)
        self.hlc = max(self.hlc, register_hlc(register))


class Sweeper:
    """Turns due deadlines into pending changes, a slice at a time. The store commits them."""

    def __init__(self, state: State, keyspaces: Keyspaces, horizon: Horizon, stability: Stability) -> None:
        self._state = state
        self._keyspaces = keyspaces
        self._position = b""  # no deadline lies before it, so the range of those removed is not walked again
        self._swept_to = b""
        self.horizon = horizon
        self.stability = stability
        self.expired: list[tuple[Keyspace, bytes]] = []

    def collect(self, budget_rows: int) -> int:
        """Handle up to `budget_rows` due deadlines as pending changes of the transaction."""
        txn = self._state.txn
        end = due_before(txn.now_ms + 1)
        due = self._state.engine.iterate(Family.DEADLINES, self._position, end)
        entries = [key for key, _ in islice(due, budget_rows)]
        self.expired = []
        if not entries:
            return 0
        self._prefetch(entries)
        purged: list[bytes] = []
        for entry in entries:
            self._handle(entry, purged)
        self._remember(purged)
        self._remove(entries)
        return len(entries)

    def committed(self, added: list[bytes]) -> None:
        """Take note of a commit that put the deadlines `added`."""
        if self._swept_to:
            self._position = self._swept_to
            self._swept_to = b""
        if added:
            self._position = min(self._position, *added)

    def reverted(self) -> None:
        self._swept_to = b""
        self.expired = []

    def _prefetch(self, entries: list[bytes]) -> None:
        """Load the rows of `entries` with one look-up for each keyspace."""
        wanted: dict[bytes, list[bytes]] = {}
        for entry in entries:
            row_key = parse_deadline(entry)[2]
            wanted.setdefault(row_key[:NAMESPACE_BYTES], []).append(row_key[NAMESPACE_BYTES:])
        for namespace, keys in wanted.items():
            keyspace = self._keyspaces.by_id(namespace)
            if keyspace is not None:
                keyspace.prefetch(keys)

    def _handle(self, entry: bytes, purged: list[bytes]) -> None:
        _, kind, row_key = parse_deadline(entry)
        keyspace = self._keyspaces.by_id(row_key[:NAMESPACE_BYTES])
        if keyspace is None:
            return  # the namespace was deleted, its rows with it
        key = row_key[NAMESPACE_BYTES:]
        try:
            record = keyspace.peek(key)
        except RecordError:
            return  # `kvd verify` names it; without a readable row there is nothing to decide
        if kind == EXPIRY_KIND:
            self._expire(keyspace, key, record, purged)
        else:
            self._purge(keyspace, key, record, purged)

    def _expire(self, keyspace: Keyspace, key: bytes, record: Record, purged: list[bytes]) -> None:
        if record[VALUE] is None or record[EXPIRES_AT] == NEVER:
            return  # deleted, swept or made permanent since
        if record[EXPIRES_AT] > self._state.txn.now_ms:
            self._postpone(record[EXPIRES_AT], EXPIRY_KIND, keyspace, key)
            return
        self.expired.append((keyspace, key))
        floor = record[FLOOR]
        if self.stability.alone:
            purged.extend(register for register in registers(record) if register is not floor)
            keyspace.rewrite(key, _only_floor(floor))
        else:
            keyspace.rewrite(key, (None, 0, None, record[VALUE_STAMP], record[EXPIRY], floor))
            self._postpone(self._state.purge_due(record[EXPIRES_AT]), PURGE_KIND, keyspace, key)

    def _purge(self, keyspace: Keyspace, key: bytes, record: Record, purged: list[bytes]) -> None:
        collectable = _collectable(record)
        if not collectable:
            return  # written back and purged since
        due_ms = self._state.purge_due(_settled_ms(record, collectable))
        if due_ms > self._state.txn.now_ms:
            self._postpone(due_ms, PURGE_KIND, keyspace, key)
        elif not all(self.stability.covers(register) for register in collectable):
            self._postpone(self._state.purge_due(self._state.txn.now_ms), PURGE_KIND, keyspace, key)
        else:
            purged.extend(collectable)
            keyspace.rewrite(key, MISSING if record[VALUE] is None else _without_floor(record))

    def _postpone(self, due_ms: int, kind: int, keyspace: Keyspace, key: bytes) -> None:
        self._state.txn.deadlines.append(deadline_prefix(due_ms, kind) + keyspace.id + key)

    def _remember(self, purged: list[bytes]) -> None:
        if not purged:
            return
        for register in purged:
            self.horizon.raise_to(register)
        puts = self._state.txn.puts
        puts.append((Family.META, META_PURGED_HLC, dumps(self.horizon.hlc)))
        for origin in {register_dot(register)[0] for register in purged}:
            puts.append((Family.META, purged_key(origin), dumps(self.horizon.seqs[origin])))

    def _remove(self, entries: list[bytes]) -> None:
        txn = self._state.txn
        self._swept_to = entries[-1] + b"\x00"
        if len(entries) >= _RANGE_ENTRIES:
            txn.ranges.append((Family.DEADLINES, entries[0], self._swept_to))
        else:
            txn.removed.extend((Family.DEADLINES, entry) for entry in entries)


def _collectable(record: Record) -> list[bytes]:
    """Return the registers that only hide older writes: all of a dead row's, the floor of a live one."""
    if record[VALUE] is None:
        return registers(record)
    floor = record[FLOOR]
    return [] if floor is None else [floor]


def _settled_ms(record: Record, collectable: list[bytes]) -> int:
    """Return the time from which on nothing about `collectable` changes by itself any more."""
    latest_ms = max(register_ms(register) for register in collectable)
    expiry = record[EXPIRY]
    if record[VALUE] is None and expiry is not None and expiry[1] is not None:
        return max(latest_ms, expiry[1])
    return latest_ms


def _only_floor(floor: bytes | None) -> Record:
    return MISSING if floor is None else (None, 0, None, None, None, floor)


def _without_floor(record: Record) -> Record:
    value, expires_at_ms, metadata, value_stamp, expiry, _ = record
    return (value, expires_at_ms, metadata, value_stamp, expiry, None)
