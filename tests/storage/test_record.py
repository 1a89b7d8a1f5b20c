"""Rows: canonical, equal to what cbor2 makes, and never a crash."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import RecordError
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
    decode,
    encode,
    erase_below,
    loads,
    registers,
)
from storage.version import NO_PREV, pack_register

ORIGINS = [bytes(16), b"\x01" * 16, b"\x02" * 16]
REGISTERS = st.builds(
    pack_register,
    st.integers(0, 2**64 - 1),
    st.integers(1, 2),
    st.integers(1, 2**64 - 1),
    st.binary(min_size=12, max_size=12),
)
VALUES = st.binary(max_size=300) | st.sampled_from([23, 24, 255, 256, 4095, 4096, 65535, 65536]).map(bytes)
EXPIRIES = st.tuples(REGISTERS, st.none() | st.integers(0, NEVER - 1))


@st.composite
def records(draw: st.DrawFn) -> Record:
    value = draw(st.none() | VALUES)
    stamp = draw(REGISTERS if value is not None else st.none() | REGISTERS)
    metadata = None if value is None else draw(st.none() | st.binary(max_size=1024))
    expiry = draw(st.none() | EXPIRIES)
    floor = draw(st.none() | REGISTERS)
    if stamp is None and expiry is None:
        floor = draw(REGISTERS)
    return build(value, metadata, (stamp, expiry, floor), ORIGINS)


def general_form(record: Record) -> list[Any]:
    expiry = record[EXPIRY] or (None, None)
    return [0, record[VALUE_STAMP], record[VALUE], record[METADATA], *expiry, record[FLOOR]]


def shortest_form(record: Record) -> list[Any]:
    """Say the rule of the forms once more, in the simplest way."""
    if record[VALUE] is None or record[METADATA] is not None or record[FLOOR] is not None:
        return general_form(record)
    if record[EXPIRY] is not None:
        return [record[VALUE_STAMP], record[VALUE], *record[EXPIRY]]
    return [record[VALUE_STAMP], record[VALUE]]


@given(records())
def test_a_row_is_what_cbor2_makes_of_the_shortest_form(record: Record) -> None:
    assert encode(record) == cbor2.dumps(shortest_form(record))


@given(records())
def test_decoding_undoes_encoding(record: Record) -> None:
    assert decode(encode(record), ORIGINS) == record


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(row: bytes) -> None:
    try:
        record = decode(row, ORIGINS)
    except RecordError:
        return
    assert registers(record)


@given(records(), st.data())
def test_a_damaged_row_is_decoded_or_refused(record: Record, data: st.DataObject) -> None:
    row = bytearray(encode(record))
    row[data.draw(st.integers(0, len(row) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(row)))
    for damaged in (bytes(row), bytes(row[:cut])):
        try:
            decode(damaged, ORIGINS)
        except RecordError:
            continue


REGISTER = pack_register(1, 1, 1, NO_PREV)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], "not enough"),
        ([REGISTER], "not enough"),
        ([1, REGISTER, b"v", None, None, None, None], "type 1 is unknown"),
        ([REGISTER[:-1], b"v"], "32 bytes"),
        (["text", b"v"], "32 bytes"),
        ([REGISTER, "text"], "byte string"),
        ([None, b"v"], "no register"),
        ([0, None, b"v", None, REGISTER, None, None], "stamp"),
        ([0, REGISTER, None, b"{}", None, None, None], "beside a value"),
        ([0, REGISTER, b"v", "{}", None, None, None], "metadata"),
        ([0, REGISTER, b"v", None, None, 5, None], "expiry"),
        ([REGISTER, b"v", REGISTER, -1], "expiry"),
        ([REGISTER, b"v", REGISTER, NEVER], "expiry"),
        ([REGISTER, b"v", REGISTER, 1.5], "expiry"),
        ([0, None, None, None, None, None, None], "no register"),
        ("ab", "32 bytes"),
        (7, "object"),
        ({REGISTER: b"v"}, "not enough|unpack"),
    ],
)
def test_a_row_of_the_wrong_shape_is_refused_with_a_reason(items: Any, reason: str) -> None:
    with pytest.raises(RecordError, match=reason) as caught:
        decode(cbor2.dumps(items), ORIGINS)
    assert "delete the key or restore it from a backup" in str(caught.value)


def register(hlc: int, origin: int = 1, seq: int = 1) -> bytes:
    return pack_register(hlc, origin, seq, NO_PREV)


@pytest.mark.parametrize(
    ("value_stamp", "expiry_stamp", "counts"),
    [
        (register(5), register(6), True),
        (register(6), register(5), False),
        (register(5, seq=1), register(5, seq=2), True),
        (register(5, seq=2), register(5, seq=1), False),
        (register(5, origin=1), register(5, origin=2), True),
        (register(5, origin=2), register(5, origin=1), False),
    ],
)
def test_an_expiry_counts_if_it_is_not_older_than_the_value(
    value_stamp: bytes, expiry_stamp: bytes, counts: bool
) -> None:
    record = build(b"v", None, (value_stamp, (expiry_stamp, 777), None), ORIGINS)
    assert record[EXPIRES_AT] == (777 if counts else NEVER)


def test_equal_clocks_are_decided_by_the_bytes_of_the_origins_not_by_their_numbers() -> None:
    swapped = [bytes(16), b"\x02" * 16, b"\x01" * 16]
    record = build(b"v", None, (register(5, origin=1), (register(5, origin=2), 777), None), swapped)
    assert record[EXPIRES_AT] == NEVER


def test_an_expiry_that_was_taken_away_is_kept_as_a_register() -> None:
    record = build(b"v", None, (register(5), (register(6), None), None), ORIGINS)
    assert record[EXPIRES_AT] == NEVER
    assert decode(encode(record), ORIGINS) == record


@given(records(), REGISTERS)
def test_erasing_leaves_exactly_what_is_not_older(record: Record, floor: bytes) -> None:
    erased = erase_below(record, floor, ORIGINS)
    left = [r for r in registers(record) if not (r[:20] < floor[:20])]
    assert registers(erased) == left
    assert erased is MISSING or left
    assert erase_below(erased, floor, ORIGINS) == erased
    assert erased[VALUE] is None or erased[:3] == record[:3] or record[EXPIRY] is not None


def test_what_follows_a_cbor_item_is_refused() -> None:
    with pytest.raises(RecordError, match="after its end"):
        loads(cbor2.dumps(1) + b"\x00")
    assert loads(cbor2.dumps([1, b"x"])) == [1, b"x"]
