"""Taking over changes one by one is the merge of rows: any order, any duplicates, broken promises too."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.changes import Change, Kind, Run
from storage.layout import database_id
from storage.merge import merge_all
from storage.record import MISSING, Record, build, erase_below
from storage.version import pack_full_register
from tests.storage.replicas import NOW_MS, Node, contents, entropy_of

ORIGINS = [b"\x09" * 16, b"\x01" * 16, b"\x05" * 16]
PLACE = database_id(0) + b"k"
ORIGIN = st.sampled_from(ORIGINS)

# Few stamps, so that equal clocks and two contents under one stamp come up.
FIELDS = {
    "seq": st.integers(1, 2),
    "hlc": st.integers(1, 3),
    "place": st.just(PLACE),
    "prev_hlc": st.sampled_from([0, 1]),
    "prev_origin": st.none() | ORIGIN,
    "sub": st.just(b""),
    "group_end": st.just(0),
}
VALUES = st.builds(
    Change,
    kind=st.just(Kind.VALUE),
    content=st.none() | st.sampled_from([b"", b"a", b"b"]),
    metadata=st.just(None),
    **FIELDS,
) | st.builds(
    Change,
    kind=st.just(Kind.VALUE),
    content=st.sampled_from([b"a", b"b"]),
    metadata=st.sampled_from([None, b"{}"]),
    **FIELDS,
)
EXPIRIES = st.builds(
    Change,
    kind=st.just(Kind.EXPIRY),
    metadata=st.none(),
    content=st.sampled_from([None, NOW_MS + 5, NOW_MS + 6]),
    **FIELDS,
)
FLOORS = st.builds(Change, kind=st.just(Kind.FLOOR), content=st.none(), metadata=st.none(), **FIELDS)
WRITES = st.tuples(ORIGIN, VALUES | EXPIRIES | FLOORS)


def row_of(origin: bytes, change: Change, numbers: dict[bytes, int], origins: Sequence[bytes]) -> Record:
    """Return a row that holds this one register."""
    prev = numbers[change.prev_origin or origin] if change.prev_hlc else 0
    register = pack_full_register(change.hlc, numbers[origin], change.seq, change.prev_hlc, prev)
    if change.kind == Kind.VALUE:
        return build(change.content, change.metadata, (register, None, None), origins)
    if change.kind == Kind.EXPIRY:
        return build(None, None, (None, (register, change.content), None), origins)  # type: ignore[arg-type]
    return (None, 0, None, None, None, register)


def applied(node: Node, writes: Sequence[tuple[bytes, Change]]) -> Record:
    for origin, change in writes:
        node.replica.merge(Run(origin, 0, 0, [change]))
    return node.store.keyspace(0).peek(b"k")


@settings(max_examples=150, deadline=None)
@given(st.lists(WRITES, min_size=1, max_size=3))
def test_applying_in_any_order_is_the_merge_of_rows(writes: list[tuple[bytes, Change]]) -> None:
    found = []
    for order in itertools.permutations(writes):
        node = Node(b"n")
        record = applied(node, order)
        origins = node.store.state.origins
        numbers = {origin: number for number, origin in enumerate(origins)}
        numbers |= {origin: len(origins) for origin in ORIGINS if origin not in numbers}
        expected = merge_all([row_of(*write, numbers, origins) for write in order], origins)
        assert record == expected
        assert applied(node, order) == expected  # again
        node.store.commit()
        found.append(contents(node.store))
    assert all(one == found[0] for one in found)


@settings(max_examples=60, deadline=None)
@given(st.lists(WRITES, min_size=1, max_size=5), st.integers(0, 5), st.integers(0, 5))
def test_ticks_and_failures_in_between_change_nothing(
    writes: list[tuple[bytes, Change]], first: int, second: int
) -> None:
    node, other = Node(b"n"), Node(b"o")
    other.entropy = entropy_of(b"o")
    for index, write in enumerate(writes):
        applied(node, [write])
        applied(other, [write])
        if index == first:
            other.store.commit()
        if index == second:
            other.store.poison("a test")
            try:
                other.store.commit()
            except Exception:  # noqa: BLE001 - whatever it is, the tick is undone
                for again in writes[: index + 1]:
                    applied(other, [again])
    node.store.commit()
    other.store.commit()
    assert contents(node.store) == contents(other.store)


@given(WRITES)
def test_a_single_write_is_its_own_merge(write: tuple[bytes, Change]) -> None:
    origin, change = write
    origins = [bytes(16), *ORIGINS]
    numbers = {origin: number for number, origin in enumerate(origins)}
    record = row_of(origin, change, numbers, origins)
    assert merge_all([record, record], origins) == record
    if record[5] is not None:
        assert erase_below(record, record[5], origins) != MISSING
