"""Rows of the members family: registers below a key that this version carries and does not understand.

A hash field or a counter part of a later version, or a kind that is not known at all, is one row: its
register, its payload as it came, its metadata if it has any. The greatest stamp wins; deletions of the key
and flushes of the namespace erase what is older. Readers of keys never look here.

Most namespaces have no such row; whether one may have is found out once, with one look-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from storage.engine import Engine, Family
from storage.errors import RecordError
from storage.layout import NAMESPACE_BYTES, after_prefix, parse_member, place_prefix
from storage.record import dumps, loads
from storage.transaction import Transaction
from storage.version import REGISTER_BYTES, is_newer

# What a row holds: its register, the payload, the metadata or None.
Member: TypeAlias = tuple[bytes, Any, Any]


def encode_member(member: Member) -> bytes:
    register, payload, metadata = member
    return dumps([register, payload] if metadata is None else [register, payload, metadata])


def decode_member(row: bytes) -> Member:
    """Return the member of a row. Raise `RecordError` if it is none."""
    items = loads(row)
    if type(items) is not list or len(items) not in {2, 3}:
        raise RecordError("a member is not an array of two or three")
    register, payload, metadata = items if len(items) == 3 else (*items, None)
    if type(register) is not bytes or len(register) != REGISTER_BYTES:
        raise RecordError("a register is not 32 bytes")
    return register, payload, metadata


class Members:
    """The members of one store, as the tick under way sees them."""

    def __init__(self, engine: Engine, txn: Transaction, origins: list[bytes]) -> None:
        self._engine = engine
        self._txn = txn
        self._origins = origins
        self.present: dict[bytes, bool] = {}  # by namespace: whether there may be rows, if that is known

    def may_have(self, namespace: bytes) -> bool:
        """Tell whether the namespace may have members."""
        present = self.present.get(namespace)
        if present is None:
            rows = self._engine.iterate(Family.MEMBERS, namespace, after_prefix(namespace))
            present = self.present[namespace] = next(rows, None) is not None
        return present

    def get(self, row_key: bytes) -> Member | None:
        """Return what is stored; None if nothing that can be read."""
        if row_key in self._txn.members:
            row = self._txn.members[row_key]
        else:
            row = self._engine.get(Family.MEMBERS, row_key)
        try:
            return None if row is None else decode_member(row)
        except RecordError:
            return None

    def put(self, row_key: bytes, member: Member) -> None:
        """Store a member in the tick under way."""
        self.present[row_key[:NAMESPACE_BYTES]] = True
        self._txn.members[row_key] = encode_member(member)

    def remove(self, row_key: bytes, member: Member) -> None:
        """Remove a member in the tick under way."""
        self._txn.members[row_key] = None
        self._txn.replaced.append(member[0])

    def rows(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Member]]:
        """Yield the members whose row keys lie in start <= key < end, in order."""
        pending = self._txn.members
        stored = dict(self._engine.iterate(Family.MEMBERS, start, end))
        keys = [key for key in pending if start <= key and (end is None or key < end)]
        for row_key in sorted({**stored, **dict.fromkeys(keys)}):
            member = self.get(row_key)
            if member is not None:
                yield row_key, member

    def of(self, place: bytes) -> Iterator[tuple[bytes, Member]]:
        """Yield the members of one key."""
        if self.may_have(place[:NAMESPACE_BYTES]):
            prefix = place_prefix(place)
            yield from self.rows(prefix, after_prefix(prefix))

    def erase_below(self, place: bytes, floor: bytes) -> None:
        """Remove the members of a key that are older than its deletion."""
        for row_key, member in list(self.of(place)):
            if is_newer(floor, member[0], self._origins):
                self.remove(row_key, member)

    def erase_all(self, namespace: bytes) -> None:
        """Remove all members of a namespace. Constant time."""
        if not self.may_have(namespace):
            return
        txn = self._txn
        txn.members = {key: row for key, row in txn.members.items() if not key.startswith(namespace)}
        end = after_prefix(namespace)
        assert end is not None
        txn.ranges.append((Family.MEMBERS, namespace, end))


def parse_place(row_key: bytes) -> tuple[bytes, int, bytes]:
    """Return (place, kind, sub) of a member's row key. Raise `RecordError` if it is none."""
    try:
        return parse_member(row_key)
    except ValueError as error:
        raise RecordError("the key of a member makes no sense") from error
