"""Rows turned into changes: what a stored register says, in the terms of `changes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from storage.changes import INLINE_BYTES_MAX, Change, Kind, Run
from storage.layout import NAMESPACE_BYTES
from storage.members import Member
from storage.record import EXPIRY, FLOOR, METADATA, VALUE, VALUE_STAMP, Record
from storage.version import unpack_full_register

# Plain numbers, as they come from other nodes.
_VALUE: Final = int(Kind.VALUE)
_EXPIRY: Final = int(Kind.EXPIRY)
_FLOOR: Final = int(Kind.FLOOR)
_NAMESPACE_FLOOR: Final = int(Kind.NAMESPACE_FLOOR)

# A change with the number of its origin.
Numbered = tuple[int, Change]


def make_change(
    register: bytes,
    kind: int,
    place: bytes,
    origins: Sequence[bytes],
    *,
    content: Any = None,
    metadata: bytes | None = None,
    sub: bytes = b"",
    group_end: int = 0,
) -> Numbered:
    """Return the change that wrote a register."""
    hlc, number, seq, prev_hlc, prev_number = unpack_full_register(register)
    prev_origin = None if prev_number in {0, number} else origins[prev_number]
    return number, Change(seq, hlc, kind, place, content, metadata, sub, prev_hlc, prev_origin, group_end)


def shown_value(value: Any) -> Any:
    """Return a value as a change carries it: its size if it is large."""
    if type(value) is bytes and len(value) > INLINE_BYTES_MAX:
        return len(value)
    return value


def changes_of(place: bytes, record: Record, origins: Sequence[bytes]) -> Iterator[Numbered]:
    """Yield the changes of all registers of a row."""
    stamp, expiry, floor = record[VALUE_STAMP], record[EXPIRY], record[FLOOR]
    if stamp is not None:
        value = shown_value(record[VALUE])
        yield make_change(stamp, _VALUE, place, origins, content=value, metadata=record[METADATA])
    if expiry is not None:
        yield make_change(expiry[0], _EXPIRY, place, origins, content=expiry[1])
    if floor is not None:
        yield make_change(floor, _FLOOR, place, origins)


def change_with(
    dot: bytes, place: bytes, record: Record, origins: Sequence[bytes], group_end: int
) -> Numbered | None:
    """Return the change of the register that carries `dot` (12 bytes); None if none does."""
    stamp, expiry, floor = record[VALUE_STAMP], record[EXPIRY], record[FLOOR]
    if stamp is not None and stamp[8:20] == dot:
        value, metadata = shown_value(record[VALUE]), record[METADATA]
        return make_change(
            stamp, _VALUE, place, origins, content=value, metadata=metadata, group_end=group_end
        )
    if expiry is not None and expiry[0][8:20] == dot:
        return make_change(expiry[0], _EXPIRY, place, origins, content=expiry[1], group_end=group_end)
    if floor is not None and floor[8:20] == dot:
        return make_change(floor, _FLOOR, place, origins, group_end=group_end)
    return None


def member_change(
    place: bytes, kind: int, sub: bytes, member: Member, origins: Sequence[bytes], group_end: int = 0
) -> Numbered:
    """Return the change of a member."""
    register, payload, metadata = member
    content = shown_value(payload)
    return make_change(
        register, kind, place, origins, content=content, metadata=metadata, sub=sub, group_end=group_end
    )


def floor_change(namespace: bytes, register: bytes, origins: Sequence[bytes], group_end: int = 0) -> Numbered:
    """Return the change of a namespace's flush."""
    return make_change(register, _NAMESPACE_FLOOR, namespace[:NAMESPACE_BYTES], origins, group_end=group_end)


def runs_of(changes: Sequence[Numbered], origins: Sequence[bytes]) -> list[Run]:
    """Return the changes as runs without coverage, one an origin, by number."""
    found: dict[int, list[Change]] = {}
    for number, change in changes:
        found.setdefault(number, []).append(change)
    return [
        Run(origins[number], 0, 0, sorted(found[number], key=lambda change: change.seq))
        for number in sorted(found)
    ]
