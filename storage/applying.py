"""Taking over what other nodes wrote: each change is merged into its row by its stamp.

The rule is that of `merge`, register by register: the greatest stamp wins, what is older than a deletion of
its key or a flush of its namespace is dead. Here one register at a time is merged into a row of the tick
under way, and the books are kept: counts, deadlines, which dots the change log must name, which are dead,
who lost without having been seen, and what clients are to be told.

A change that makes no sense to this version is kept as it is in the members family, like one of a
kind that is not known: it is handed on, and a later version may understand it.

The loop over a run is as hot as `Keyspace.put` and as flat: the common case is a small value over one of the
same key, or a new key. Figures: tests/bench/bench_replica.py.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from storage.changes import Change, Conflict, Kind, Run, group_of, has_numbers
from storage.errors import RecordError
from storage.expiry import Sweeper, is_bodyless
from storage.incoming import Taken
from storage.indexing import places_since
from storage.keyspace import Keyspace
from storage.layout import (
    NAMESPACE_BYTES,
    SYSTEM,
    after_prefix,
    member_suffix,
    place_prefix,
)
from storage.members import Member
from storage.merge import content_rank, expiry_outranks, member_outranks, value_outranks
from storage.record import (
    EXPIRES_AT,
    EXPIRY,
    FLOOR,
    METADATA,
    MISSING,
    NEVER,
    VALUE,
    VALUE_STAMP,
    Record,
    build,
    erase_below,
)
from storage.registry import Keyspaces
from storage.state import State
from storage.version import (
    HLC_MAX,
    PREV_BYTES,
    STAMP_BYTES,
    is_newer,
    pack_full_register,
    register_dot,
    register_hlc,
)

_PREFETCH_CHANGES_MIN: Final = 8
_KIND_MAX: Final = 0xFFFF
_FLOORS: Final = frozenset({Kind.FLOOR, Kind.NAMESPACE_FLOOR})


class Applier:
    """Merges runs into the tick under way."""

    def __init__(self, state: State, keyspaces: Keyspaces, sweeper: Sweeper) -> None:
        self._state = state
        self._txn = state.txn
        self._ledger = state.ledger
        self._origins = state.origins
        self._keyspaces = keyspaces
        self._sweeper = sweeper
        self._handlers = {
            Kind.VALUE: self._merge_value,
            Kind.EXPIRY: self._merge_expiry,
            Kind.FLOOR: self._merge_floor,
            Kind.NAMESPACE_FLOOR: self._merge_namespace_floor,
        }

    def merge(self, run: Run, number: int, after: int) -> int:  # noqa: PLR0912, PLR0915 - see above
        """Merge the changes of `run` beyond `after`; return how many won. `number` is its origin's."""
        # Hot: see the module's text.
        txn = self._txn
        incoming = txn.accept()
        taken = incoming.take(number)
        places = taken.places
        rows, replaced = txn.rows, txn.replaced
        merged: list[bytes] = []
        shown: list[bytes] = []
        pack = pack_full_register
        cache = self._state.cache
        number_of, obtain = self._ledger.number_of, self._keyspaces.obtain
        group = self._ledger.groups[number]
        namespace, keyspace, hot, floor, is_shown, is_plain = b"", None, None, b"", False, False
        won = top = 0
        self._prefetch(run.changes)
        for change in run.changes:
            seq, hlc, kind, place, content, metadata, sub, prev_hlc, prev_origin, group_end = change
            if seq <= after:
                continue
            if group_end:
                taken.groups[seq] = group_end
            if (
                kind == 0
                and type(content) is bytes
                and metadata is None
                and not sub
                and len(place) >= NAMESPACE_BYTES
            ):
                if keyspace is None or not place.startswith(namespace):
                    namespace = place[:NAMESPACE_BYTES]
                    if shown and keyspace is not None:
                        incoming.applied.append((keyspace, tuple(shown), Kind.VALUE))
                        shown = []
                    if group_of(namespace) != group:
                        incoming.undecodable += 1
                        keyspace = None
                        continue
                    keyspace = obtain(namespace)
                    hot = keyspace.hot
                    floor = keyspace.floor or b""
                    is_shown = _is_shown(keyspace)
                    is_plain = namespace != SYSTEM and not keyspace.history
                key = place[NAMESPACE_BYTES:]
                old = hot.young.get(key) or keyspace.peek_readable(key)  # type: ignore[union-attr]
                old_value, _, old_metadata, old_stamp, old_expiry, old_floor = old
                if is_plain and old_expiry is None and old_floor is None and old_metadata is None:
                    prev_number = 0
                    if prev_hlc:
                        prev_number = number if prev_origin is None else number_of(prev_origin, prev_hlc)
                    try:
                        register = pack(hlc, number, seq, prev_hlc, prev_number)
                    except struct.error:
                        incoming.undecodable += 1
                        continue
                    if hlc > top:  # noqa: PLR1730 - twice as fast
                        top = hlc
                    record = (content, NEVER, None, register, None, None)
                    clock = hlc.to_bytes(8, "big")  # greater than a register: greater than its clock value
                    if old_value is not None and old_stamp is not None:
                        if clock > old_stamp and clock > floor:
                            if not old_stamp.startswith(register[STAMP_BYTES:]):
                                self._note_loss(keyspace, place, Kind.VALUE, register, old_stamp)
                            rows[place] = record
                            replaced.append(old_stamp)
                            hot.young[key] = record  # type: ignore[union-attr]
                            cache.young_bytes += len(content) - len(old_value)
                            places[seq] = place
                            merged.append(place)
                            if is_shown:
                                shown.append(key)
                            won += 1
                            continue
                    elif old is MISSING and clock > floor:
                        keyspace.install(key, old, record)
                        places[seq] = place
                        merged.append(place)
                        if is_shown:
                            shown.append(key)
                        won += 1
                        continue
            if shown and keyspace is not None:
                incoming.applied.append((keyspace, tuple(shown), Kind.VALUE))
                shown = []
            won += self._merge_change(change, number, taken)
            if top < hlc <= HLC_MAX:
                top = hlc
            rows, keyspace = txn.rows, None  # a flush makes new ones
        if shown and keyspace is not None:
            incoming.applied.append((keyspace, tuple(shown), Kind.VALUE))
        if merged:
            txn.others.append((len(txn.places), tuple(merged)))
        taken.hlc = max(taken.hlc, top)
        txn.hlc = max(txn.hlc, top)
        return won

    def remove(self, number: int, change: Change) -> bool:
        """Remove the register that carries the change's dot, without a trace; True if there is one."""
        dot = (number, change.seq)
        if change.kind == Kind.NAMESPACE_FLOOR:
            flushed = self._keyspaces.obtain(change.place)
            if flushed.floor is None or register_dot(flushed.floor) != dot:
                return False
            flushed.lift_flush()
            return True
        if change.kind not in self._handlers:
            row_key = place_prefix(change.place) + member_suffix(change.kind, change.sub)
            member = self._state.members.get(row_key)
            if member is None or register_dot(member[0]) != dot:
                return False
            self._state.members.remove(row_key, member)
            return True
        keyspace = self._keyspaces.obtain(change.place[:NAMESPACE_BYTES])
        key = change.place[NAMESPACE_BYTES:]
        try:
            old = keyspace.peek(key)
        except RecordError:
            return False
        value, metadata = old[VALUE], old[METADATA]
        stamp, expiry, floor = old[VALUE_STAMP], old[EXPIRY], old[FLOOR]
        if change.kind == Kind.VALUE and stamp is not None and register_dot(stamp) == dot:
            value = metadata = stamp = None
        elif change.kind == Kind.EXPIRY and expiry is not None and register_dot(expiry[0]) == dot:
            expiry = None
        elif change.kind == Kind.FLOOR and floor is not None and register_dot(floor) == dot:
            floor = None
        else:
            return False
        if stamp is None and expiry is None and floor is None:
            record = MISSING
        else:
            record = build(value, metadata, (stamp, expiry, floor), self._origins)
        keyspace.install(key, old, record)
        self._show(keyspace, key, old, record, Kind.FLOOR)
        return True

    def wants_body(self, run: Run, after: int) -> list[Change]:
        """Return those changes beyond `after` that would win and whose content is a size."""
        if not has_numbers(run.changes):
            return []
        found: list[Change] = []
        number = self._ledger.find(run.origin)
        for change in run.changes:
            sized = type(change.content) is int and change.kind not in {Kind.EXPIRY, *_FLOORS}
            if sized and change.seq > after and self._would_win(change, run.origin, number):
                found.append(change)
        return found

    def restore(self, place: bytes, stamp: bytes, value: bytes, metadata: bytes | None) -> bool:
        """Give a dropped value back; True if the record still carries that stamp."""
        keyspace = self._keyspaces.obtain(place[:NAMESPACE_BYTES])
        key = place[NAMESPACE_BYTES:]
        try:
            old = keyspace.peek(key)
        except RecordError:
            return False
        register = old[VALUE_STAMP]
        if register is None or register[:STAMP_BYTES] != stamp:
            return False
        if old[VALUE] is None:
            record = build(value, metadata, (register, old[EXPIRY], old[FLOOR]), self._origins)
            keyspace.install(key, old, record)
            self._show(keyspace, key, old, record, Kind.VALUE)
        return True

    # One change.

    def _merge_change(self, change: Change, number: int, taken: Taken) -> bool:
        """Merge one change; tell whether it has won."""
        incoming = self._txn.accept()
        try:
            register = self._register(change, number)
        except (struct.error, TypeError):
            incoming.undecodable += 1
            return False
        if not len(change.place) >= NAMESPACE_BYTES or group_of(change.place) != self._ledger.groups[number]:
            incoming.undecodable += 1
            return False
        handler = self._handlers.get(change.kind)  # type: ignore[call-overload]
        if handler is not None and not _makes_sense(change):
            incoming.undecodable += 1
            handler = None
        if handler is None:
            return self._merge_member(change, register, taken)
        carried, won = handler(change, register)
        if carried:
            taken.places[change.seq] = [change.place] if change.kind == Kind.NAMESPACE_FLOOR else change.place
        return bool(won)

    def _register(self, change: Change, number: int) -> bytes:
        prev_number = 0
        if change.prev_hlc:
            prev_origin = change.prev_origin
            if prev_origin is None:
                prev_number = number
            else:
                prev_number = self._ledger.number_of(prev_origin, change.prev_hlc)
        return pack_full_register(change.hlc, number, change.seq, change.prev_hlc, prev_number)

    # Each returns whether the row carries the dot now, and whether it did not before.

    def _merge_value(self, change: Change, register: bytes) -> tuple[bool, bool]:
        keyspace, key, old = self._open(change.place)
        if self._is_dead(keyspace, old, register):
            return False, False
        content, metadata = change.content, change.metadata
        stamp = old[VALUE_STAMP]
        if stamp is not None and stamp[:STAMP_BYTES] == register[:STAMP_BYTES]:
            self._settle_value(keyspace, key, old, register, change)
            return True, False
        if stamp is not None:
            if is_newer(stamp, register, self._origins):
                self._note_loss(keyspace, change.place, Kind.VALUE, stamp, register)
                return False, False
            if old[EXPIRES_AT] > self._txn.now_ms:
                self._note_loss(keyspace, change.place, Kind.VALUE, register, stamp)
        if type(content) is int:
            raise ValueError("a change was to be applied before its value was fetched")
        record = build(content, metadata, (register, old[EXPIRY], old[FLOOR]), self._origins)
        self._install(keyspace, key, old, record, Kind.VALUE)
        return True, True

    def _settle_value(
        self, keyspace: Keyspace, key: bytes, old: Record, register: bytes, change: Change
    ) -> None:
        """Decide between the stored value and one with the same stamp: they should be the same."""
        content, metadata = change.content, change.metadata
        if type(content) is not bytes:
            return  # dropped there, or not asked for because it is here
        record = build(content, metadata, (register, old[EXPIRY], old[FLOOR]), self._origins)
        if old[VALUE] is None:
            # Dropped here, after it had expired: it may have been extended since.
            if record[EXPIRES_AT] > self._txn.now_ms:
                self._install(keyspace, key, old, record, Kind.VALUE)
            return
        if record == old:
            return
        self._txn.accept().forks += 1
        if value_outranks(record, old, self._origins):
            self._install(keyspace, key, old, record, Kind.VALUE)

    def _merge_expiry(self, change: Change, register: bytes) -> tuple[bool, bool]:
        keyspace, key, old = self._open(change.place)
        if self._is_dead(keyspace, old, register):
            return False, False
        due = change.content
        assert due is None or isinstance(due, int)
        won = True
        expiry = old[EXPIRY]
        if expiry is not None:
            if expiry[0][:STAMP_BYTES] == register[:STAMP_BYTES]:
                if expiry == (register, due):
                    return True, False
                self._txn.accept().forks += 1
                won = False
                if not expiry_outranks((register, due), expiry, self._origins):
                    return True, False
            elif is_newer(expiry[0], register, self._origins):
                self._note_loss(keyspace, change.place, Kind.EXPIRY, expiry[0], register)
                return False, False
            elif old[EXPIRES_AT] > self._txn.now_ms:
                self._note_loss(keyspace, change.place, Kind.EXPIRY, register, expiry[0])
        parts = (old[VALUE_STAMP], (register, due), old[FLOOR])
        record = build(old[VALUE], old[METADATA], parts, self._origins)
        self._install(keyspace, key, old, record, Kind.EXPIRY)
        return True, won

    def _merge_floor(self, change: Change, register: bytes) -> tuple[bool, bool]:
        keyspace, key, old = self._open(change.place)
        floor = old[FLOOR]
        is_fork = floor is not None and floor[:STAMP_BYTES] == register[:STAMP_BYTES]
        if is_fork:
            if floor == register:
                return True, False
            self._txn.accept().forks += 1
            if content_rank((floor,), self._origins) >= content_rank((register,), self._origins):
                return True, False
        if self._is_dead(keyspace, old, register):
            return False, False
        parts = (old[VALUE_STAMP], old[EXPIRY], register)
        record = build(old[VALUE], old[METADATA], parts, self._origins)
        record = erase_below(record, register, self._origins)
        self._install(keyspace, key, old, record, Kind.FLOOR)
        self._state.members.erase_below(change.place, register)
        if keyspace is self._keyspaces.system and record[VALUE] is None:
            deleted = self._keyspaces.by_id(key)
            if deleted is not None and deleted.is_local:
                deleted.flush()  # what is not replicated is deleted by each node for itself
        return True, not is_fork

    def _merge_namespace_floor(self, change: Change, register: bytes) -> tuple[bool, bool]:
        keyspace = self._keyspaces.obtain(change.place)
        floor = keyspace.floor
        if floor is not None:
            if floor[:STAMP_BYTES] == register[:STAMP_BYTES]:
                return True, False
            if is_newer(floor, register, self._origins):
                return False, False
        members = self._newer_members(change.place, register)
        count = keyspace.count
        keyspace.flush_below(register, self._newer_keys(change.place, register))
        for row_key, member in members:
            self._state.members.put(row_key, member)
        self._txn.others.append((len(self._txn.places), [change.place]))
        if keyspace is self._keyspaces.system:
            self._keyspaces.accept_flush()
        if count and _is_shown(keyspace):
            self._txn.accept().applied.append((keyspace, None, Kind.NAMESPACE_FLOOR))
        return True, True

    def _newer_keys(self, namespace: bytes, floor: bytes) -> list[bytes]:
        """Return the keys of a namespace of which something may be newer than its flush."""
        hlc = register_hlc(floor)
        committed = places_since(self._state.engine, self._ledger, namespace, hlc)
        row_keys = {place: None for place in committed if isinstance(place, bytes)}
        row_keys.update((key, None) for key in self._txn.rows if key.startswith(namespace))
        return [key[NAMESPACE_BYTES:] for key in row_keys]

    def _newer_members(self, namespace: bytes, floor: bytes) -> list[tuple[bytes, Member]]:
        if not self._state.members.may_have(namespace):
            return []
        rows = self._state.members.rows(namespace, after_prefix(namespace))
        return [(key, member) for key, member in rows if is_newer(member[0], floor, self._origins)]

    def _merge_member(self, change: Change, register: bytes, taken: Taken) -> bool:
        """Keep what is not understood."""
        place, kind = change.place, change.kind
        if not 0 <= kind <= _KIND_MAX:
            self._txn.accept().undecodable += 1
            return False
        suffix = member_suffix(kind, change.sub)
        row_key = place_prefix(place) + suffix
        member = (register, change.content, change.metadata)
        carried, won = self._put_member(row_key, place, kind, member)
        if carried:
            taken.places[change.seq] = [place, suffix]
        return won

    def _put_member(self, row_key: bytes, place: bytes, kind: int, member: Member) -> tuple[bool, bool]:
        members, register = self._state.members, member[0]
        keyspace, _, record = self._open(place)
        if self._is_dead(keyspace, record, register):
            return False, False
        old = members.get(row_key)
        if old is not None:
            if old[0][:STAMP_BYTES] == register[:STAMP_BYTES]:
                if old != member and type(member[1]) is not int:
                    self._txn.accept().forks += 1
                    if member_outranks(member, old, self._origins):
                        members.put(row_key, member)
                return True, False
            if is_newer(old[0], register, self._origins):
                self._note_loss(keyspace, place, kind, old[0], register)
                return False, False
            self._note_loss(keyspace, place, kind, register, old[0])
            self._txn.replaced.append(old[0])
        members.put(row_key, member)
        return True, True

    # What they share.

    def _open(self, place: bytes) -> tuple[Keyspace, bytes, Record]:
        keyspace = self._keyspaces.obtain(place[:NAMESPACE_BYTES])
        key = place[NAMESPACE_BYTES:]
        return keyspace, key, keyspace.peek_readable(key)

    def _is_dead(self, keyspace: Keyspace, record: Record, register: bytes) -> bool:
        """Tell whether a deletion or a flush is newer."""
        for floor in (record[FLOOR], keyspace.floor):
            if floor is not None and is_newer(floor, register, self._origins):
                return True
        return False

    def _install(self, keyspace: Keyspace, key: bytes, old: Record, record: Record, kind: Kind) -> None:
        keyspace.install(key, old, record)
        place = keyspace.id + key
        self._show(keyspace, key, old, record, kind)
        if record[VALUE] is None and record[VALUE_STAMP] is not None:
            self._txn.accept().headers[place] = None
        if keyspace is self._keyspaces.system:
            self._keyspaces.accept(key)

    def _show(self, keyspace: Keyspace, key: bytes, old: Record, record: Record, kind: Kind) -> None:
        """Let clients be told of the change."""
        self._txn.others.append((len(self._txn.places), keyspace.id + key))
        if not _is_shown(keyspace):
            return
        now_ms = self._txn.now_ms
        was_live, is_live = old[EXPIRES_AT] > now_ms, record[EXPIRES_AT] > now_ms
        applied = self._txn.accept().applied
        if was_live and not is_live:
            applied.append((keyspace, key, Kind.FLOOR))
        elif is_live and (kind is Kind.VALUE or old[EXPIRES_AT] != record[EXPIRES_AT]):
            applied.append((keyspace, key, kind))

    def finish(self) -> None:
        """Take note of values that the changes merged in this tick make wanted back."""
        incoming = self._txn.incoming
        if incoming is None or not incoming.headers:
            return
        headers, incoming.headers = incoming.headers, {}
        now_ms = self._txn.now_ms
        for place in headers:
            keyspace = self._keyspaces.obtain(place[:NAMESPACE_BYTES])
            record = keyspace.peek_readable(place[NAMESPACE_BYTES:])
            if is_bodyless(record, now_ms, self._origins):
                self._sweeper.want(place, record)

    def _note_loss(self, keyspace: Keyspace, place: bytes, kind: int, winner: bytes, loser: bytes) -> None:
        """Count a conflict if the winner's writer had not seen the loser."""
        if not _is_unseen(winner, loser, self._origins):
            return
        conflict = None
        if keyspace.policy.conflict_log:
            stamp = self._ledger.stamp
            conflict = Conflict(self._txn.now_ms, place, kind, stamp(winner), stamp(loser))
        self._txn.accept().lost[loser[:STAMP_BYTES]] = (kind, conflict)

    def _would_win(self, change: Change, origin: bytes, number: int) -> bool:
        """Tell whether the change is newer than what is stored and than what deletes it."""
        if len(change.place) < NAMESPACE_BYTES:
            return False
        keyspace, _, record = self._open(change.place)
        if change.kind == Kind.VALUE:
            current = record[VALUE_STAMP]
        else:
            row_key = place_prefix(change.place) + member_suffix(change.kind, change.sub)
            member = self._state.members.get(row_key)
            current = None if member is None else member[0]
        stamp = (change.hlc, origin, change.seq)
        return all(
            self._ledger.stamp(register) < stamp
            for register in (current, record[FLOOR], keyspace.floor)
            if register is not None
        )

    def _prefetch(self, changes: Sequence[Change]) -> None:
        """Load the rows of a larger run with one look-up, if the first is not cached."""
        if len(changes) < _PREFETCH_CHANGES_MIN or len(changes[0].place) < NAMESPACE_BYTES:
            return
        namespace = changes[0].place[:NAMESPACE_BYTES]
        keyspace = self._keyspaces.obtain(namespace)
        if keyspace.cached(changes[0].place[NAMESPACE_BYTES:]) is None:
            keyspace.prefetch(
                [change.place[NAMESPACE_BYTES:] for change in changes if change.place.startswith(namespace)]
            )


def _is_shown(keyspace: Keyspace) -> bool:
    """Tell whether clients can see the keyspace."""
    return keyspace.index is not None or keyspace.title is not None


def _makes_sense(change: Change) -> bool:
    """Tell whether a change of a kind that is understood has what belongs to it."""
    kind, content, metadata = change.kind, change.content, change.metadata
    if change.sub:
        return False
    if kind == Kind.VALUE:
        if content is None:
            return metadata is None
        return type(content) in {bytes, int} and (metadata is None or type(metadata) is bytes)
    if metadata is not None:
        return False
    if kind == Kind.EXPIRY:
        return content is None or (type(content) is int and 0 <= content < NEVER)
    return content is None and (kind == Kind.FLOOR or len(change.place) == NAMESPACE_BYTES)


def _is_unseen(winner: bytes, loser: bytes, origins: list[bytes]) -> bool:
    """Tell whether what the winner replaced is older than the loser. Both are registers."""
    prev, stamp = winner[STAMP_BYTES:], loser[:PREV_BYTES]
    if prev[:8] != stamp[:8]:
        return prev[:8] < stamp[:8]
    number, loser_number = int.from_bytes(prev[8:], "big"), int.from_bytes(stamp[8:], "big")
    return origins[number] < origins[loser_number]
