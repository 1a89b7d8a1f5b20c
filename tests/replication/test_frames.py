"""Frames: messages out of a stream that is cut anywhere, damaged, or never ends."""

from __future__ import annotations

import contextlib
import itertools
import tracemalloc
from collections.abc import Iterable
from struct import pack
from typing import Final

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication import messages as m
from replication.errors import LocalProtocolError, RemoteProtocolError
from replication.frames import (
    FRAME_BYTES_MAX,
    HEAD_BYTES,
    MESSAGE_BYTES_MAX,
    UNAUTHENTICATED_BYTES_MAX,
    FrameReader,
    encode,
)
from replication.shapes import SEQ_MAX, VECTOR_ENTRIES_MAX
from storage.changes import Change, Run, VersionVector
from tests.replication.strategies import any_message

ID: Final = b"0123456789abcdef"
HELLO: Final = m.Hello(1, ID, ID, ID, b"n" * 32, 1, 2)
AUTH: Final = m.Auth(b"p" * 32)
PING: Final = m.Ping(1, 2, 3)
LARGE: Final = m.BodyData(ID, 1, 0, 2**29, b"x" * (256 * 1024))
MIB: Final = 1024 * 1024


def reader() -> FrameReader:
    return FrameReader(is_authenticated=True)


def framed(body: bytes) -> bytes:
    """Return a frame with a right checksum around anything."""
    return pack(">II", len(body), google_crc32c.value(body)) + body


def pieces(stream: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def refused(reader: FrameReader, data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        list(reader.feed(data))
    return str(caught.value)


def test_the_layout_of_a_frame() -> None:
    frame = encode(PING)
    body = m.encode_body(PING)
    assert frame == len(body).to_bytes(4, "big") + google_crc32c.value(body).to_bytes(4, "big") + body
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert google_crc32c.implementation == "c"


@given(st.lists(any_message, max_size=5), st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_cut_at_any_places_are_the_same_messages(messages: list[m.Message], places: list[int]) -> None:
    stream = b"".join(encode(message) for message in messages)
    machine = reader()
    found = [message for piece in pieces(stream, places) for message in machine.feed(piece)]
    assert found == messages
    assert machine.buffered_bytes == 0
    assert machine.frames_count == len(messages)


def test_one_byte_at_a_time() -> None:
    machine = reader()
    stream = encode(HELLO) + encode(PING)
    found = [message for byte in stream for message in machine.feed(bytes((byte,)))]
    assert found == [HELLO, PING]


def test_unknown_messages_are_counted_and_passed_over() -> None:
    machine = reader()
    assert list(machine.feed(framed(b"\x82\x18\x7f\xa0") + encode(PING))) == [PING]
    assert machine.unknown_count == 1


@pytest.mark.parametrize("place", range(len(encode(PING))))
def test_a_flipped_bit_anywhere_is_found(place: int) -> None:
    """In the length it may look like a frame that has not arrived yet; then no message comes out."""
    for bit in range(8):
        damaged = bytearray(encode(PING))
        damaged[place] ^= 1 << bit
        try:
            found = list(reader().feed(bytes(damaged)))
        except RemoteProtocolError:
            continue
        assert found == []


@given(any_message, st.data())
def test_damaged_frames_are_refused_or_incomplete(message: m.Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RemoteProtocolError):
        assert list(reader().feed(bytes(damaged))) == []


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused_or_incomplete(data: bytes, is_authenticated: bool) -> None:
    with contextlib.suppress(RemoteProtocolError):
        list(FrameReader(is_authenticated=is_authenticated).feed(data))


def test_a_reader_that_failed_goes_on_failing() -> None:
    machine = reader()
    reason = refused(machine, framed(b"\x00"))
    assert refused(machine, encode(PING)) == reason
    assert refused(machine, b"") == reason


def test_messages_before_a_bad_frame_come_out() -> None:
    messages = reader().feed(encode(PING) + framed(b"\x00"))
    assert next(messages) == PING
    with pytest.raises(RemoteProtocolError):
        next(messages)


def vector_of(count: int) -> VersionVector:
    """Return entries that take as many bytes as they can."""
    return VersionVector({number.to_bytes(16, "big"): SEQ_MAX - number for number in range(count)})


def test_a_vector_of_very_many_origins_travels_in_several_frames() -> None:
    entries = vector_of(VECTOR_ENTRIES_MAX)
    vector = m.Vector(bytes(16), bytes(16), 1, True, entries, entries, entries, 1)
    stream = encode(vector) + encode(PING)
    machine = reader()
    found = [message for piece in pieces(stream, [1, FRAME_BYTES_MAX + 3]) for message in machine.feed(piece)]
    assert found == [vector, PING]
    assert machine.frames_count == 1 + -(-len(encode(vector)) // (FRAME_BYTES_MAX + 8))
    assert machine.buffered_bytes == 0
    too_many = m.SyncRequest(1, False, vector_of(VECTOR_ENTRIES_MAX + 1), {}, 0, b"", 0)
    assert "entries" in refused(reader(), encode(too_many))


def test_only_what_holds_vectors_may_be_longer_than_a_frame() -> None:
    long = m.BodyData(ID, 1, 0, FRAME_BYTES_MAX, bytes(FRAME_BYTES_MAX))
    with pytest.raises(LocalProtocolError):
        encode(long)
    body = b"\x82\x0a\xa4\x01\x01\x02\x02\x03\x03\x18\xc8\x5a" + FRAME_BYTES_MAX.to_bytes(4, "big")
    body += bytes(FRAME_BYTES_MAX)
    parts = [body[:FRAME_BYTES_MAX], body[FRAME_BYTES_MAX:]]
    heads = [
        pack(">II", 2**31 + FRAME_BYTES_MAX, google_crc32c.value(parts[0])),
        pack(">II", len(parts[1]), google_crc32c.value(parts[1])),
    ]
    stream = heads[0] + parts[0] + heads[1] + parts[1]
    assert "a Ping of" in refused(reader(), stream)


def test_a_message_without_end_is_refused() -> None:
    part = bytes(FRAME_BYTES_MAX)
    frame = pack(">II", 2**31 + FRAME_BYTES_MAX, google_crc32c.value(part)) + part
    machine = reader()
    for _ in range(MESSAGE_BYTES_MAX // FRAME_BYTES_MAX):
        assert list(machine.feed(frame)) == []
    assert "exceeds" in refused(machine, frame)
    assert "goes on" in refused(reader(), pack(">II", 2**31, 0))


@pytest.mark.parametrize("size", [FRAME_BYTES_MAX + 1, 2**31 - 1, 2**32 - 1])
def test_an_oversized_frame_is_refused_by_its_head(size: int) -> None:
    assert "exceeds" in refused(reader(), pack(">II", size, 0))


def test_a_frame_of_the_greatest_size_is_read() -> None:
    filler = b"\x82\x0a\xa4\x01\x01\x02\x02\x03\x03\x18\xc8\x5a"
    body = filler + (FRAME_BYTES_MAX - len(filler) - 4).to_bytes(4, "big")
    body += bytes(FRAME_BYTES_MAX - len(body))
    assert list(reader().feed(framed(body))) == [PING]


def test_a_message_beyond_a_frame_is_not_sent() -> None:
    changes = [Change(seq, 1, 0, ID, b"v" * 60_000) for seq in range(1, 20)]
    with pytest.raises(LocalProtocolError, match="Push of 1140"):
        encode(m.Push(Run(ID, 0, 20, changes)))


def test_memory_is_one_frame_and_what_was_fed() -> None:
    tracemalloc.start()
    try:
        machine = reader()
        head = pack(">II", FRAME_BYTES_MAX, 0)
        list(machine.feed(head))
        for _ in range(15):
            assert list(machine.feed(bytes(65536))) == []
        assert machine.buffered_bytes == HEAD_BYTES + 15 * 65536
        refused(machine, bytes(65536))
        assert machine.buffered_bytes == 0
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- before authentication


def test_strangers_may_say_hello_and_prove_themselves() -> None:
    messages: list[m.Message] = [HELLO, AUTH, m.Reject(1, "no"), m.Bye("enough")]
    assert list(FrameReader().feed(b"".join(encode(message) for message in messages))) == messages


@given(any_message)
def test_strangers_may_say_nothing_else(message: m.Message) -> None:
    if isinstance(message, m.Hello | m.Auth | m.Reject | m.Bye):
        return
    assert "authentication" in refused(FrameReader(), encode(message))


def test_what_a_stranger_may_not_say_is_refused_before_it_is_there() -> None:
    assert "authentication" in refused(FrameReader(), encode(PING)[: HEAD_BYTES + 2])
    assert list(FrameReader().feed(encode(PING)[: HEAD_BYTES + 1])) == []


def test_a_stranger_is_held_to_small_frames() -> None:
    head = pack(">II", UNAUTHENTICATED_BYTES_MAX + 1, 0)
    assert "before authentication" in refused(FrameReader(), head)
    assert list(reader().feed(head)) == []


def test_the_limits_change_between_two_frames_of_one_packet() -> None:
    machine = FrameReader()
    found: list[m.Message] = []
    for message in machine.feed(encode(HELLO) + encode(AUTH) + encode(LARGE) + encode(PING)):
        found.append(message)
        if isinstance(message, m.Auth):
            machine.authenticated()
    assert found == [HELLO, AUTH, LARGE, PING]


def test_messages_that_were_not_taken_are_there_the_next_time() -> None:
    machine = reader()
    assert next(machine.feed(encode(PING) + encode(HELLO))) == PING
    assert list(machine.feed(b"")) == [HELLO]
