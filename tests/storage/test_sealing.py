from __future__ import annotations

from typing import cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from storage import sealing
from storage.engine import Unopened
from storage.errors import RecordError, Unopenable
from storage.keyring import Key, Keyring, disused
from storage.record import decode
from storage.sealing import OVERHEAD_BYTES, Sealer, key_check, key_id_of

FIRST = Key(b"aaaa", bytes(range(32)))
SECOND = Key(b"bbbb", bytes(range(1, 33)))
ONE = Keyring((FIRST,), FIRST.id)
BOTH = Keyring((SECOND, FIRST), SECOND.id)
PLACE = bytes(16) + b"key"


def reason(found: bytes) -> str:
    assert isinstance(found, Unopened)
    with pytest.raises(Unopenable) as caught:
        decode(found, [])
    assert caught.value.place[:16] == bytes(16)
    return str(caught.value)


@given(place=st.binary(max_size=60), value=st.binary(max_size=9000))
def test_what_was_sealed_opens_at_its_place(place: bytes, value: bytes) -> None:
    stored = Sealer(b"records", ONE).seal(place, value)
    assert len(stored) == len(value) + OVERHEAD_BYTES
    assert key_id_of(stored) == FIRST.id
    assert Sealer(b"records", BOTH).open(place, stored) == value  # another process, more keys


def test_the_layout_is_what_the_text_says() -> None:
    stored = Sealer(b"records", ONE, entropy=lambda size: b"s" * size).seal_all(
        [(PLACE, b"zero"), (PLACE, b"one")]
    )[1][1]
    assert stored[:25] == b"\xfe" + b"aaaa" + b"s" * 16 + b"\x00\x00\x00\x01"
    subkey = HKDF(algorithm=SHA256(), length=32, salt=b"s" * 16, info=b"kvd value 1 records").derive(
        FIRST.secret
    )
    assert AESGCM(subkey).decrypt(bytes(8) + b"\x00\x00\x00\x01", stored[25:], PLACE) == b"one"


@given(data=st.data(), value=st.binary(max_size=100))
def test_no_bit_of_what_is_stored_can_be_changed(data: st.DataObject, value: bytes) -> None:
    sealer = Sealer(b"records", ONE)
    stored = bytearray(sealer.seal(PLACE, value))
    bit = data.draw(st.integers(0, 8 * len(stored) - 1))
    stored[bit // 8] ^= 1 << bit % 8
    assert "b'key' of namespace 0000" in reason(sealer.open(PLACE, bytes(stored)))


@given(data=st.data())
def test_nothing_of_what_is_stored_can_be_missing(data: st.DataObject) -> None:
    sealer = Sealer(b"records", ONE)
    stored = sealer.seal(PLACE, b"value")
    reason(sealer.open(PLACE, stored[: data.draw(st.integers(0, len(stored) - 1))]))
    reason(sealer.open(PLACE, stored + b"\x00"))


def test_a_value_opens_at_no_other_place_and_for_no_other_purpose() -> None:
    stored = Sealer(b"records", ONE).seal(PLACE, b"value")
    assert "changed or moved" in reason(Sealer(b"records", ONE).open(PLACE + b"2", stored))
    assert "changed or moved" in reason(Sealer(b"members", ONE).open(PLACE, stored))


def test_another_key_of_the_same_id_does_not_open_it() -> None:
    stored = Sealer(b"records", ONE).seal(PLACE, b"value")
    other = Keyring((Key(FIRST.id, SECOND.secret),), FIRST.id)
    assert "does not open with its key 61616161" in reason(Sealer(b"records", other).open(PLACE, stored))
    assert key_check(FIRST) != key_check(other.keys[0])


def test_a_key_that_is_not_there_is_named() -> None:
    stored = Sealer(b"records", BOTH).seal(PLACE, b"value")
    assert "the key 62626262, which is not there" in reason(Sealer(b"records", ONE).open(PLACE, stored))


def test_plain_values_pass_only_where_they_are_expected() -> None:
    sealer = Sealer(b"records", ONE)
    assert "is not encrypted" in reason(sealer.open(PLACE, b"\x82plain"))
    assert "is not encrypted" in reason(sealer.open(PLACE, b""))
    sealer.allow_plain = True
    assert sealer.open(PLACE, b"\x82plain") == b"\x82plain"


def test_the_first_key_seals_and_all_open() -> None:
    sealer = Sealer(b"records", ONE)
    before = sealer.seal(PLACE, b"value")
    sealer.adopt(BOTH)
    after = sealer.seal(PLACE, b"value")
    assert (key_id_of(before), key_id_of(after)) == (FIRST.id, SECOND.id)
    assert sealer.open(PLACE, before) == sealer.open(PLACE, after) == b"value"
    sealer.adopt(disused(BOTH))
    assert sealer.seal(PLACE, b"\x82") == b"\x82"
    assert key_id_of(b"\x82") is None
    assert sealer.open(PLACE, before) == b"value"


def test_no_nonce_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_NUMBERS", 7)
    sealer = Sealer(b"records", ONE)
    seen: set[bytes] = set()
    for count in (1, 5, 20, 7, 3):
        if count == 7:
            sealer.adopt(BOTH)
        seen.update(stored[:25] for _, stored in sealer.seal_all([(PLACE, b"value")] * count))
    assert len(seen) == 36  # key, salt and number are the nonce's whole world
    assert {stored[21:25] for stored in seen} == {bytes(3) + bytes([number]) for number in range(7)}


def test_a_number_is_spent_even_if_the_batch_breaks() -> None:
    sealer = Sealer(b"records", ONE)
    with pytest.raises(TypeError):
        sealer.seal_all([(PLACE, b"one"), (PLACE, cast(bytes, "no bytes"))])
    assert sealer.seal(PLACE, b"two")[21:25] == b"\x00\x00\x00\x02"


def test_many_subkeys_are_derived_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_SUBKEYS_MAX", 4)
    stored = [Sealer(b"records", ONE).seal(PLACE, b"%d" % number) for number in range(20)]
    reader = Sealer(b"records", ONE)
    for _ in range(2):
        assert [reader.open(PLACE, each) for each in stored] == [b"%d" % number for number in range(20)]


def test_the_error_of_a_long_key_is_short() -> None:
    error = reason(Sealer(b"records", ONE).open(bytes(16) + b"k" * 5000, b"\x82"))
    assert len(error) < 600
    assert issubclass(Unopenable, RecordError)
