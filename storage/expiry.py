"""Expiry and purging: taking away what no reader can see any more.

Expiry is a function of the record alone, so nothing here is needed for reads to be right. The sweep
gives back the room and keeps the counts true. It walks the deadlines that have come due; the row
decides what happens (see `layout` for why an entry may be early or stale):

* an expired row loses its value. While other members may hold older versions of it, its registers
  stay as a header, as a tombstone does; a node that is alone removes the row at once;
* a floor (tombstone) or header that is older than `gc_min_age_ms`, and that every member holds, is
  purged. What was purged is remembered as the greatest sequence per origin and the greatest clock
  value, in the same batch: a stamp at or below that can only come from a disk that was rolled back;
* a header goes only once this node has seen all that any member wrote up to the expiry: one that was cut off
  may have extended it (`Purging.settled_hlc`; an extension never has a greater clock value than the expiry that it
  extends, see `Keyspace.expire`). The clock value remembered is then that of the expiry;
* a header whose expiry was extended by a node that did not see it expire (a *bodyless* record) is kept
  as long as there are members: one may have its value, and it is wanted back (`Sweeper.wanted`);
* deletions in the reserved namespaces are kept as long as there are members: they are few, and a
  member must not come back.

What is not replicated is nobody else's: it is treated as on a node that is alone, and not remembered. Each group of
namespaces has members and a horizon of its own.

Expiring is not a write: it takes no dot, and other nodes come to the same by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from storage.changes import COMMON_GROUP, Purging
from storage.engine import Family
from storage.errors import RecordError
from storage.keyspace import purgeable_ms
from storage.layout import (
    BODYLESS_PREFIX,
    CLUSTER,
    EXPIRY_KIND,
    NAMESPACE_BYTES,
    PURGE_KIND,
    SYSTEM,
    deadline_prefix,
    due_before,
    parse_deadline,
    purged_hlc_key,
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
from storage.version import HLC_MAX, STAMP_BYTES, hlc_at, is_newer, register_dot, register_hlc

if TYPE_CHECKING:
    from storage.keyspace import Keyspace
    from storage.registry import Keyspaces

# From this many entries on, one range is cheaper to delete and to skip than single keys.
_RANGE_ENTRIES = 64


class Alone:
    """What a node without members knows about them."""

    alone = True

    settled_hlc = HLC_MAX

    def covers(self, origin: bytes, seq: int) -> bool:
        return True


class Apart:
    """What a member knows about the others while it does not talk with them: nothing, so that it purges nothing."""

    alone = False

    settled_hlc = 0

    def covers(self, origin: bytes, seq: int) -> bool:
        return False


_APART: Final = Apart()


class Horizon:
    """The greatest stamps ever purged: a sequence for each origin number, and a clock value for each group."""

    def __init__(self, seqs: dict[int, int], hlcs: dict[int, int]) -> None:
        self.seqs = seqs
        self.hlcs = hlcs

    def hlc_of(self, group: int) -> int:
        return self.hlcs.get(group, 0)

    def copy(self) -> Horizon:
        return Horizon(dict(self.seqs), dict(self.hlcs))


class Sweeper:
    """Turns due deadlines into pending changes, a slice at a time. The store commits them."""

    def __init__(
        self, state: State, keyspaces: Keyspaces, horizon: Horizon, bodyless: dict[bytes, bytes]
    ) -> None:
        self._state = state
        self._keyspaces = keyspaces
        self._position = b""  # no deadline lies before it, so the range of those removed is not walked again
        self._swept_to = b""
        self.horizon = horizon
        self._horizon_before: Horizon | None = None  # if the tick has raised it
        self.wanted = bodyless  # the stamp of each value that is wanted back, by row key
        # By group, the clock value of the latest expiry whose header was purged in the slice under way.
        self._expired_hlcs: dict[int, int] = {}
        self._unwanted: list[bytes] = []  # row keys that have a meta row of this and need it no more
        self.purging: Purging = Alone()  # of the group that all nodes carry
        self.purging_of: dict[int, Purging] = {}  # of the other groups
        self.expired: list[tuple[Keyspace, bytes]] = []
        self.purged_count = 0  # keys of which what only hid older writes was removed, since the start
        self._purged_now = 0  # in the tick under way

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
        self._expired_hlcs = {}
        for entry in entries:
            self._handle(entry, purged)
        self._remember(purged)
        self._remove(entries)
        unwanted, self._unwanted = self._unwanted, []
        txn.removed.extend((Family.META, BODYLESS_PREFIX + row_key) for row_key in unwanted)
        return len(entries)

    def committed(self, added: list[bytes]) -> None:
        """Take note of a commit that put the deadlines `added`."""
        if self._swept_to:
            self._position = self._swept_to
            self._swept_to = b""
        self._horizon_before = None
        self.purged_count += self._purged_now
        self._purged_now = 0
        if added:
            self._position = min(self._position, *added)

    def reverted(self) -> None:
        if self._horizon_before is not None:
            self.horizon, self._horizon_before = self._horizon_before, None
        self._swept_to = b""
        self._purged_now = 0
        self.expired = []

    def _prefetch(self, entries: list[bytes]) -> None:
        """Load the rows of `entries` with one look-up for each keyspace."""
        wanted: dict[bytes, list[bytes]] = {}
        for entry in entries:
            row_key = parse_deadline(entry)[2]
            wanted.setdefault(row_key[:NAMESPACE_BYTES], []).append(row_key[NAMESPACE_BYTES:])
        for namespace, keys in wanted.items():
            self._keyspaces.obtain(namespace).prefetch(keys)

    def _handle(self, entry: bytes, purged: list[bytes]) -> None:
        _, kind, row_key = parse_deadline(entry)
        keyspace = self._keyspaces.obtain(row_key[:NAMESPACE_BYTES])
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
        if self._is_alone(keyspace):
            purged.extend(register for register in registers(record) if register is not floor)
            keyspace.rewrite(key, _only_floor(floor))
        else:
            keyspace.rewrite(key, (None, 0, None, record[VALUE_STAMP], record[EXPIRY], floor))
            self._postpone(self._state.purge_due(record[EXPIRES_AT]), PURGE_KIND, keyspace, key)

    def _purge(self, keyspace: Keyspace, key: bytes, record: Record, purged: list[bytes]) -> None:
        collectable = _collectable(record)
        if not collectable:
            return  # written back and purged since
        now_ms = self._state.txn.now_ms
        if not self._is_alone(keyspace) and is_bodyless(record, now_ms, self._state.origins):
            self.want(keyspace.id + key, record)
            self._postpone(self._state.purge_due(now_ms), PURGE_KIND, keyspace, key)
            return
        due_ms = self._state.purge_due(purgeable_ms(record))
        if due_ms > now_ms:
            self._postpone(due_ms, PURGE_KIND, keyspace, key)
        elif not self._is_collectable(keyspace, record, collectable):
            self._postpone(self._state.purge_due(now_ms), PURGE_KIND, keyspace, key)
        else:
            purged.extend(collectable)
            self._purged_now += 1
            if not self._is_alone(keyspace):
                hlcs, group = self._expired_hlcs, keyspace.group
                hlcs[group] = max(hlcs.get(group, 0), _expired_hlc(record))
            keyspace.rewrite(key, MISSING if record[VALUE] is None else _without_floor(record))

    def _is_alone(self, keyspace: Keyspace) -> bool:
        return self._purging(keyspace.group).alone or keyspace.is_local

    def _purging(self, group: int) -> Purging:
        """Return what is known of a group's members; nothing, if nobody speaks with them yet."""
        if group == COMMON_GROUP or isinstance(self.purging, Alone):
            return self.purging
        return self.purging_of.get(group, _APART)

    def _is_collectable(self, keyspace: Keyspace, record: Record, collectable: list[bytes]) -> bool:
        if self._is_alone(keyspace):
            return True
        purging = self._purging(keyspace.group)
        if keyspace.id in {SYSTEM, CLUSTER} or _expired_hlc(record) > purging.settled_hlc:
            return False
        origins, covers = self._state.origins, purging.covers
        dots = [register_dot(register) for register in collectable]
        return all(covers(origins[number], seq) for number, seq in dots)

    def _postpone(self, due_ms: int, kind: int, keyspace: Keyspace, key: bytes) -> None:
        self._state.txn.deadlines.append(deadline_prefix(due_ms, kind) + keyspace.id + key)

    def _remember(self, purged: list[bytes]) -> None:
        """Keep what was purged. A dot that is not covered here is no floor: nobody can be asked to cover it."""
        ledger = self._state.ledger
        hlcs = self._expired_hlcs
        covered: dict[int, dict[int, int]] = {group: {} for group in hlcs}
        for register in purged:
            number, seq = register_dot(register)
            if ledger.is_local(number):
                continue
            group = ledger.groups[number]
            hlcs[group] = max(hlcs.get(group, 0), register_hlc(register))
            seqs = covered.setdefault(group, {})
            if seq <= ledger.covered(number):
                seqs[number] = max(seq, seqs.get(number, 0))
        for group, seqs in covered.items():
            self.raise_horizon(group, seqs, hlcs[group])

    def raise_horizon(self, group: int, seqs: dict[int, int], hlc: int) -> None:
        """Take note in the tick of what was purged of a group, here or elsewhere.

        That is up to a seq by origin number, and up to a clock value.
        """
        if not seqs and hlc <= self.horizon.hlc_of(group):
            return
        if self._horizon_before is None:
            self._horizon_before = self.horizon.copy()
        horizon = self.horizon
        horizon.hlcs[group] = max(horizon.hlc_of(group), hlc)
        puts = self._state.txn.puts
        puts.append((Family.META, purged_hlc_key(group), dumps(horizon.hlcs[group])))
        for number, seq in seqs.items():
            horizon.seqs[number] = max(horizon.seqs.get(number, 0), seq)
            puts.append((Family.META, purged_key(number), dumps(horizon.seqs[number])))

    def lower_horizon(self, ends: dict[int, int], hlc: int) -> None:
        """Take note in the tick that nothing counts as purged beyond a seq by origin number, nor beyond a clock value."""
        horizon = self.horizon
        if self._horizon_before is None:
            self._horizon_before = horizon.copy()
        puts = self._state.txn.puts
        for number, seq in ends.items():
            if horizon.seqs.get(number, 0) > seq:
                horizon.seqs[number] = seq
                puts.append((Family.META, purged_key(number), dumps(seq)))
        for group in horizon.hlcs:
            self._lower_hlc(group, hlc)

    def forget_horizon(self, group: int) -> None:
        """Take note in the tick that nothing of a group counts as purged."""
        groups = self._state.ledger.groups
        self.lower_horizon({number: 0 for number in self.horizon.seqs if groups[number] == group}, HLC_MAX)
        self._lower_hlc(group, 0)

    def _lower_hlc(self, group: int, hlc: int) -> None:
        if self.horizon.hlc_of(group) > hlc:
            self.horizon.hlcs[group] = hlc
            self._state.txn.puts.append((Family.META, purged_hlc_key(group), dumps(hlc)))

    def want(self, row_key: bytes, record: Record) -> None:
        """Take note in the tick that the value of a record is wanted back."""
        register = record[VALUE_STAMP]
        assert register is not None
        stamp = register[:STAMP_BYTES]
        if self.wanted.get(row_key) != stamp:
            self.wanted[row_key] = stamp
            self._unwanted = [other for other in self._unwanted if other != row_key]
            self._state.txn.puts.append((Family.META, BODYLESS_PREFIX + row_key, stamp))

    def unwant(self, row_key: bytes) -> None:
        """Take note that a value is not wanted back any more. Its meta row goes with the next sweep."""
        if self.wanted.pop(row_key, None) is not None:
            self._unwanted.append(row_key)

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


def _expired_hlc(record: Record) -> int:
    """Return the greatest clock value that an extension of the header's expiry may have; 0 if it is no header."""
    expiry = record[EXPIRY]
    if record[VALUE] is not None or record[VALUE_STAMP] is None or expiry is None or expiry[1] is None:
        return 0
    return hlc_at(expiry[1] + 1) - 1


def is_bodyless(record: Record, now_ms: int, origins: Sequence[bytes]) -> bool:
    """Tell whether the record would be live if its value had not been dropped."""
    stamp, expiry = record[VALUE_STAMP], record[EXPIRY]
    if record[VALUE] is not None or stamp is None:
        return False
    if expiry is None or expiry[1] is None or is_newer(stamp, expiry[0], origins):
        return True
    return expiry[1] > now_ms


def _only_floor(floor: bytes | None) -> Record:
    return MISSING if floor is None else (None, 0, None, None, None, floor)


def _without_floor(record: Record) -> Record:
    value, expires_at_ms, metadata, value_stamp, expiry, _ = record
    return (value, expires_at_ms, metadata, value_stamp, expiry, None)
