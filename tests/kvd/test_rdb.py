"""DUMP payloads: exchanged with redis-server, and hostile ones."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvd import rdb
from kvd.crc64 import _checksum, crc64
from tests.kvd.harness import Client, InProcessServer
from tests.servers import RunningServer

_values = st.one_of(
    st.binary(max_size=100),
    st.integers(-(1 << 70), 1 << 70).map(b"%d".__mod__),
    st.sampled_from(
        [b"007", b"-0", b"+5", b" 5", b"x" * 63, b"x" * 64, b"x" * 16383, b"x" * 16384, b"ab" * 70_000]
    ),
)


def _sealed(body: bytes, version: int = rdb.VERSION) -> bytes:
    body += version.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


def test_the_checksum_is_the_published_one() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert crc64(b"") == 0


@pytest.mark.parametrize("size", [*range(250, 262), 511, 512, 513, 1000, 4095, 4096, 4097, 65_541])
def test_folding_does_not_change_the_checksum(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert crc64(data) == _checksum(data)
    assert crc64(bytes(size)) == 0
    assert crc64(bytes(size) + b"x") == _checksum(b"x")


@given(value=_values)
def test_what_is_dumped_is_loaded(value: bytes) -> None:
    assert rdb.load_string(rdb.dump_string(value), len(value) + 20) == value


@pytest.mark.needs_redis
@settings(max_examples=100, deadline=None)
@given(value=_values)
def test_payloads_are_understood_both_ways(redis_server: RunningServer, value: bytes) -> None:
    with redis_server.client() as redis:
        redis.flushdb()
        redis.set("a", value)
        assert rdb.load_string(redis.dump("a"), 1 << 20) == value  # compressed, if it is long and regular
        redis.restore("b", 0, rdb.dump_string(value))
        assert redis.get("b") == value


@pytest.mark.needs_redis
def test_a_key_moves_to_redis_and_back(redis_server: RunningServer) -> None:
    ours = Client(InProcessServer())
    with redis_server.client() as redis:
        redis.flushdb()
        for number, value in enumerate((b"", b"12345", b"-3", b"x" * 20_000, bytes(range(256)))):
            key = f"key:{number}"
            ours.send("SET", key, value)
            redis.restore(key, 0, ours.send("DUMP", key))
            assert redis.get(key) == value
            assert ours.send("RESTORE", key, 0, redis.dump(key), "REPLACE") == b"OK"
            assert ours.send("GET", key) == value


def test_the_version_is_that_of_the_oldest_servers_that_are_met() -> None:
    assert rdb.dump_string(b"value")[-10:-8] == b"\x09\x00"  # Redis 5; 7.0 reads up to 10, 7.2 up to 11


@given(value=st.binary(max_size=200), position=st.integers(0, 400), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(value: bytes, position: int, bit: int) -> None:
    payload = bytearray(rdb.dump_string(value))
    payload[position % len(payload)] ^= 1 << bit
    with pytest.raises(rdb.BadFooter):
        rdb.load_string(bytes(payload), 1 << 20)


def test_later_versions_are_refused_and_the_next_one_is_read() -> None:
    body = rdb.dump_string(b"value")[:-10]
    assert rdb.load_string(_sealed(body, 12), 100) == b"value"
    with pytest.raises(rdb.BadFooter):
        rdb.load_string(_sealed(body, 13), 100)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x63\x01x",
        b"\x00\x05four",
        b"\x00\x03more!",
        b"\x00\xc0",
        b"\x00\xc2\x00\x00",
        b"\x00\xc4\x00",
        b"\x00\x40",
        b"\x00\x82\x00\x00\x00\x01x",
        b"\x00\x80\xff\xff\xff\xff",
        b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\xc3\x02\x05\x00a",  # shorter than it says
        b"\x00\xc3\x03\x01\x01ab",  # longer than it says
        b"\x00\xc3\x02\x05\x20\x00",  # a copy of what was never there
        b"\x00\xc3\x01\x05\x20",  # a copy that is cut off
        b"\x00\xc3\x01\x05\xe0",
        b"\x00\xc3\x02\x05\x1fa",  # a literal that is cut off
        b"\x00\xc3\x01\x80\x7f\xff\xff\xff\x00",  # a terabyte from one byte
    ],
)
def test_malformed_values_are_refused_without_allocating_what_they_claim(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(rdb.BadPayload):
            rdb.load_string(_sealed(body), 1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(body=st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(body: bytes) -> None:
    try:
        value = rdb.load_string(_sealed(b"\x00" + body), 1 << 16)
    except rdb.BadPayload:
        return
    assert len(value) <= 1 << 16


def test_copies_may_overlap_what_they_write() -> None:
    compressed = b"\x00a" + b"\xe0\x0a\x00"  # "a", then 19 bytes from one byte before
    body = b"\x00\xc3" + bytes((len(compressed), 20)) + compressed
    assert rdb.load_string(_sealed(body), 100) == b"a" * 20


def test_strings_longer_than_allowed_are_refused() -> None:
    with pytest.raises(rdb.BadPayload):
        rdb.load_string(rdb.dump_string(b"x" * 101), 100)


@pytest.mark.parametrize(
    ("type_number", "name"), [(1, "list"), (4, "hash"), (17, "sorted set"), (21, "stream")]
)
def test_other_types_are_refused_by_name(type_number: int, name: str) -> None:
    with pytest.raises(rdb.UnsupportedType, match=name):
        rdb.load_string(_sealed(bytes((type_number, 0))), 100)


@pytest.mark.parametrize("payload", [b"", b"short", rdb.dump_string(b"x")[:-1]])
def test_payloads_without_their_footer_are_refused(payload: bytes) -> None:
    with pytest.raises(rdb.BadFooter):
        rdb.load_string(payload, 100)
