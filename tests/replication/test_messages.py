"""Messages and their bytes: what goes out comes back, and nothing else comes in."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any, Final

import attrs
import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replication import messages as m
from replication.errors import RemoteProtocolError
from replication.frames import FRAME_BYTES_MAX
from replication.messages import decode_body, decode_record, encode_body, encode_record
from replication.shapes import HLC_MAX, SEQ_MAX, change_bytes_max
from storage.changes import INLINE_BYTES_MAX, Change, Run, VersionVector
from tests.replication.strategies import BY_TYPE, any_message, changes

ID: Final = b"0123456789abcdef"
PLACE: Final = b"n" * 16 + b"key"
MIB: Final = 1024 * 1024
PING: Final = m.Ping(1, 2, 3)


def body(kind: int, fields: Any) -> bytes:
    """Return the body of a message that need not be legal."""
    return cbor2.dumps([kind, fields])


def push(*change_fields: Any, after: int = 0, upto: int = 9) -> bytes:
    return body(21, {1: [ID, after, upto, list(change_fields)]})


def altered(message: m.Message, key: int, value: Any) -> bytes:
    """Return the body of `message` with one field replaced."""
    kind, fields = cbor2.loads(encode_body(message))
    return body(kind, {**fields, key: value})


def refused(encoded: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_body(encoded)
    return str(caught.value)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("cls", list(BY_TYPE), ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_every_message_survives_its_bytes(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(BY_TYPE[cls])
    assert decode_body(encode_body(message)) == message


def test_the_strategies_know_every_message() -> None:
    assert set(BY_TYPE) == set(m.Message.__args__)


def test_no_two_messages_share_a_type() -> None:
    types = [cls.TYPE for cls in BY_TYPE]
    assert len(set(types)) == len(types)


def test_decoded_changes_are_changes() -> None:
    message = decode_body(push([1, 2, 0, PLACE, b"value"]))
    assert isinstance(message, m.Push)
    assert message.run.changes == [Change(1, 2, 0, PLACE, b"value")]
    assert type(message.run.changes[0]) is Change


def test_a_decoded_vector_answers_for_unknown_origins() -> None:
    message = decode_body(encode_body(m.Sealed({ID: 7})))
    assert isinstance(message, m.Sealed)
    assert isinstance(message.origins, VersionVector)
    assert message.origins[b"x" * 16] == 0


def test_what_holds_its_default_is_left_out() -> None:
    _, fields = cbor2.loads(encode_body(m.Pong(1, 2, 3, 4)))
    assert fields == {1: 1, 2: 2, 3: 3, 4: 4}


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (Change(1, 2, 2, PLACE), 4),
        (Change(1, 2, 0, PLACE, b""), 5),
        (Change(1, 2, 0, PLACE, b"v", b"{}"), 6),
        (Change(1, 2, 3, PLACE, b"v", None, b"sub"), 7),
        (Change(1, 2, 0, PLACE, b"v", None, b"", 1), 8),
        (Change(1, 2, 0, PLACE, None, None, b"", 0, ID), 9),
        (Change(1, 2, 0, PLACE, None, None, b"", 0, None, 1), 10),
    ],
)
def test_a_change_is_as_short_as_it_can_be(change: Change, size: int) -> None:
    encoded = encode_body(m.Push(Run(ID, 0, 1, [change])))
    _, fields = cbor2.loads(encoded)
    assert len(fields[1][3][0]) == size
    assert decode_body(encoded) == m.Push(Run(ID, 0, 1, [change]))


@given(st.data())
def test_the_estimate_of_a_changes_size_is_never_too_small(data: st.DataObject) -> None:
    change = data.draw(changes(data.draw(st.integers(1, SEQ_MAX))))
    empty = len(encode_body(m.SyncBatch(1, (Run(ID, 0, 0, []),))))
    taken = len(encode_body(m.SyncBatch(1, (Run(ID, 0, 0, [change]),)))) - empty
    assert taken <= change_bytes_max(change) <= taken + 90


def test_a_value_costs_less_than_a_hundred_bytes_on_top_of_itself() -> None:
    change = Change(
        2**40, 2**63, 0, b"n" * 16 + b"k" * 20, b"v" * 1024, None, b"", 2**63 - 1, ID, group_end=2**40
    )
    run = Run(ID, 2**40 - 1, 2**40, [change])
    assert len(encode_body(m.Push(run))) - 1024 - 20 < 130  # with the run's own head, and a transaction
    assert len(encode_body(m.Push(run._replace(changes=[change._replace(group_end=0)])))) - 1024 - 20 < 120
    plain = [Change(2**40 + i, 2**63, 0, b"n" * 16 + b"k" * 20, b"v" * 1024) for i in range(10)]
    size = len(encode_body(m.Push(Run(ID, 2**40 - 1, 2**40 + 10, plain))))
    assert size / 10 - 1024 - 20 < 50


# ---------------------------------------------------------------- room to grow


def test_an_unknown_message_is_passed_over() -> None:
    assert decode_body(body(127, {1: "whatever"})) is None
    assert decode_body(body(99, None)) is None


def test_an_unknown_message_that_must_be_understood_is_refused() -> None:
    assert "128" in refused(body(128, {}))


def test_unknown_fields_are_passed_over() -> None:
    assert decode_body(altered(PING, 200, [1, {"a": None}])) == PING


def test_unknown_fields_of_a_member_are_passed_over() -> None:
    record = m.MemberRecord(ID, 1, m.State.ALIVE, ID)
    kind, fields = cbor2.loads(encode_body(m.Members((record,))))
    fields[1][0][77] = "later"
    assert decode_body(body(kind, fields)) == m.Members((record,))


def test_an_unknown_kind_of_change_is_carried() -> None:
    change = Change(3, 4, 999, PLACE, b"opaque", None, b"sub")
    assert decode_body(encode_body(m.Push(Run(ID, 0, 9, [change])))) == m.Push(Run(ID, 0, 9, [change]))


# ---------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x00",
        b"\xf6",
        b"\x80",
        b"\x81\x0a",
        b"\x83\x0a\xa0\x00",
        body(-1, {}),
        body(True, {}),
        body("10", {}),  # type: ignore[arg-type]
        body(2**64 - 1, {}),
        body(10, []),
        body(10, None),
        body(10, "text"),
        body(10, b"bytes"),
        encode_body(PING) + b"\x00",
        encode_body(PING)[:-1],
        b"\x9f\x0a\xa0\xff",  # indefinite lengths
        b"\x82\x0a\xbf\x01\x01\x02\x02\x03\x03\xff",
        b"\x82\x05\xa1\x01\x7f\x61a\xff",
        b"\x82\x0a\xa4\x01\x01\x02\x02\x03\x03\x03\x03",  # a key twice
        b"\x82\x0a\xa4\x01\x01\x02\x02\x03\x03\xf5\x03",  # True is 1
        b"\x82\x0a\xa3\x01\x01\x02\x02\xf9\x42\x00\x03",  # 3.0 is 3
        b"\x82\x0a\xa3\x01\x01\x02\x02\x61\x33\x03",
        b"\x82\x05\xa1\x01\x62\xff\xff",  # no UTF-8
    ],
)
def test_what_is_no_message_is_refused(encoded: bytes) -> None:
    refused(encoded)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_field_is_refused(missing: int) -> None:
    fields = {key: key for key in (1, 2, 3) if key != missing}
    assert "missing" in refused(body(10, fields))


@pytest.mark.parametrize("value", [-1, 2**63, True, 1.0, "1", b"1", None, [], {}])
def test_a_count_is_an_integer_in_its_range(value: Any) -> None:
    assert "number" in refused(altered(PING, 1, value))


@pytest.mark.parametrize("value", [b"x" * 15, b"x" * 17, b"", "x" * 16, 5, None])
def test_an_id_has_sixteen_bytes(value: Any) -> None:
    refused(altered(m.PingRequest(1, ID), 2, value))


@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_a_flag_is_true_or_false(value: Any) -> None:
    refused(altered(m.LinkMode(eager=True), 1, value))


@pytest.mark.parametrize("state", [-1, 5, True, "0", None])
def test_a_state_is_one_of_those_known(state: Any) -> None:
    fields = {1: ID, 2: 1, 3: state, 4: ID}
    refused(body(14, {1: [fields]}))


@pytest.mark.parametrize(
    "vector",
    [
        {b"short": 1},
        {ID: -1},
        {ID: 2**63},
        {ID: True},
        {ID: None},
        {1: 1},
        {"0123456789abcdef": 1},
        [],
        None,
        {i.to_bytes(16, "big"): 1 for i in range(100_001)},
    ],
)
def test_a_vector_maps_origins_to_sequences(vector: Any) -> None:
    refused(altered(m.DigestRequest(1, {}), 2, vector))


def test_numbers_at_the_ends_of_their_ranges_are_accepted() -> None:
    for message in (
        m.Ping(SEQ_MAX, 0, HLC_MAX),
        m.Pull(ID, SEQ_MAX - 1, SEQ_MAX),
        m.Push(Run(ID, SEQ_MAX - 1, SEQ_MAX, [Change(SEQ_MAX, HLC_MAX, 65535, PLACE, SEQ_MAX)])),
    ):
        assert decode_body(encode_body(message)) == message


@pytest.mark.parametrize("bounds", [(5, 5), (6, 5), (-1, 5), (0, 2**63), (0, True), (None, 5), (0, 0)])
def test_a_pushed_run_covers_something(bounds: tuple[Any, Any]) -> None:
    refused(body(21, {1: [ID, *bounds, []]}))


def test_a_push_that_asks_for_claims_may_cover_nothing() -> None:
    question = m.Push(Run(ID, 5, 5, []), wants_ack=True)
    assert decode_body(encode_body(question)) == question
    refused(body(21, {1: [ID, 5, 5, [[5, 1, 0, PLACE]]], 3: True}))


@pytest.mark.parametrize("bounds", [(5, 5), (6, 5)])
def test_a_pull_asks_for_something(bounds: tuple[int, int]) -> None:
    refused(encode_body(m.Pull(ID, *bounds)))


@pytest.mark.parametrize("run", [None, [], [ID, 0, 5], [ID, 0, 5, {}], [ID, 0, 5, [], 0], [b"x", 0, 5, []]])
def test_a_run_has_four_parts(run: Any) -> None:
    refused(body(21, {1: run}))


GOOD: Final = (5, 7, 0, PLACE, b"v", b"{}", b"sub", 3, ID, 6)


def test_the_good_change_of_these_tests_is_good() -> None:
    assert decode_body(push(GOOD)) is not None


WRONG: Final[list[tuple[Any, ...]]] = [  # for each field of a change
    (0, 10, -1, 2**63, True, 5.0, None, b"5"),
    (-1, True, 7.0, None, "7"),
    (-1, 65536, True, None),
    (b"n" * 15, b"n" * 65553, "n" * 20, None, 1),
    (b"v" * (INLINE_BYTES_MAX + 1), -1, 2**63, "v", True, [], 1.5),
    (b"m" * 65537, "{}", 1, False),
    (b"s" * 65537, None, "sub", 1),
    (-1, None, True, b"3"),
    (b"", b"x" * 15, b"x" * 17, 0, "x" * 16),
    (4, -1, 2**63, None, True, b""),
]


@pytest.mark.parametrize(
    ("index", "value"), [(index, value) for index, values in enumerate(WRONG) for value in values]
)
def test_a_change_with_one_wrong_field_is_refused(index: int, value: Any) -> None:
    change = list(GOOD)
    change[index] = value
    refused(push(change))


@pytest.mark.parametrize("change", [[], [1, 2, 0], [*GOOD, 0], {}, b"12345", 5, None, "abcde"])
def test_a_change_of_a_wrong_shape_is_refused(change: Any) -> None:
    refused(push(change))


@pytest.mark.parametrize("seqs", [(2, 1), (3, 3), (0, 1), (4,), (1, 2, 5)])
def test_changes_ascend_within_their_run(seqs: tuple[int, ...]) -> None:
    encoded = body(21, {1: [ID, 0, 3, [[seq, 1, 0, PLACE] for seq in seqs]]})
    refused(encoded)
    refused(body(31, {1: 1, 2: [[ID, 0, 3, [[seq, 1, 0, PLACE] for seq in seqs]]]}))


def test_a_run_of_a_walk_by_place_has_any_order() -> None:
    batch = m.SyncBatch(1, (Run(ID, 0, 0, [Change(9, 1, 0, PLACE), Change(2, 1, 0, PLACE)]),))
    assert decode_body(encode_body(batch)) == batch


@pytest.mark.parametrize(
    "message",
    [
        m.Auth(b"x" * 31),
        m.BodyData(ID, 1, 5, 5, b"beyond"),
        m.BodyData(ID, 1, 0, 2**30, b"x" * (256 * 1024 + 1)),
        m.BodyGet(ID, 0, PLACE, 0),
        m.Digest(1, True, b"x" * 17),
        m.BucketRequest(1, (65536,)),
        m.CellsRequest(1, (PLACE,) * 5000),
        m.Members((m.MemberRecord(ID, 0, m.State.ALIVE, ID),) * 4097),
        m.Publish(ID, ID, 1, b"c" * 65537, b""),
        m.SyncRequest(1, True, {}, {}, 0, b"c" * 65553),
    ],
    ids=lambda message: type(message).__name__,
)
def test_sizes_and_counts_have_limits(message: m.Message) -> None:
    assert type(message).__name__ in refused(encode_body(message))


def test_texts_are_cut_so_that_the_peer_accepts_them() -> None:
    assert decode_body(encode_body(m.Bye("x" * 5000))) == m.Bye("x" * 500)


def test_a_text_without_utf8_is_sent_with_marks() -> None:
    assert decode_body(encode_body(m.Bye("a\udcffb"))) == m.Bye("a?b")


# ---------------------------------------------------------------- CBOR at its worst

TAGS: Final = [*range(70_000), 2**31, 2**32, 2**64 - 1]
TAGGED: Final = [b"\x01", b"\x41a", b"\x61a", b"\x82\x01\x02", b"\xa1\x01\x02", b"\x80"]


def tag_head(tag: int) -> bytes:
    """Return the CBOR head of a tag."""
    for size, initial in ((1, 0xD8), (2, 0xD9), (4, 0xDA)):
        if tag < 1 << 8 * size:
            return bytes((initial,)) + tag.to_bytes(size, "big")
    return b"\xdb" + tag.to_bytes(8, "big")


@pytest.mark.parametrize("inner", TAGGED, ids=lambda inner: inner.hex())
def test_no_tag_is_ever_interpreted(inner: bytes) -> None:
    """Also in a field that nobody looks at. A tag that a later cbor2 learns shows here."""
    for tag in TAGS:
        with pytest.raises(RemoteProtocolError, match="tags are not allowed"):
            decode_body(b"\x82\x0a\xa1\x18\xc8" + tag_head(tag) + inner)


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x82\x0a\xa1\x01\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",  # 2 to the 2**63rd
        b"\x82\x0a\xa1\x01\xc4\x82\x1a\x7f\xff\xff\xff\x01",  # 10 to the 2**31st
        b"\x82\x0a\xa1\x01\xd8\x23\x78\x20" + b"(a+)+" * 6 + b"$ ",  # a regular expression
        b"\x82\x0a\xd8\x1c\xa1\x01\xd8\x1d\x00",  # a map that contains itself
        b"\x9b" + b"\xff" * 8,
        b"\x82\x0a\xbb\x7f" + b"\xff" * 7,
        b"\x82\x0a\xa1\x01\x5b\x00\x00\x00\x7f" + b"\xff" * 4,
        b"\x82\x15\xa1\x01\x84\x50" + ID + b"\x00\x01\x9a\x7f\xff\xff\xff",
        b"\x81" * 100_000,
        b"\xa1\x01" * 100_000,
        b"\x82\x0a\xa1\x18\xc8" + b"\x81" * 7 + b"\x00",  # one level too deep
    ],
    ids=range(11),
)
def test_claims_cost_nothing(encoded: bytes) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    try:
        refused(encoded)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 2


def test_the_greatest_depth_is_accepted() -> None:
    assert decode_body(b"\x82\x0a\xa4\x01\x01\x02\x02\x03\x03\x18\xc8" + b"\x81" * 6 + b"\x00") == m.Ping(
        1, 2, 3
    )


@pytest.mark.parametrize(
    "filler",
    [
        b"\xa0",
        b"\xa1\x00\x00",
        b"\x81\x80",
        b"\x40",
        b"\x60",
        b"\x1b" + b"\x7f" * 8,
        b"\xfb" + b"\x01" * 8,
        b"\xf7",
    ],
    ids=lambda filler: filler.hex(),
)
def test_a_full_frame_of_small_items_has_bounded_cost(filler: bytes) -> None:
    count = (FRAME_BYTES_MAX - 32) // len(filler)
    encoded = b"\x82\x0a\xa1\x18\xc8\x9a" + count.to_bytes(4, "big") + filler * count
    tracemalloc.start()
    started = time.perf_counter()
    try:
        refused(encoded)
        assert tracemalloc.get_traced_memory()[1] < 128 * MIB
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 20


@given(st.binary(max_size=200))
@example(b"\x82\x0a\xa3\x01\x01\x02\x02\x03\x03")
def test_random_bytes_are_a_message_or_refused(encoded: bytes) -> None:
    decode_or_refuse(encoded)


@given(any_message, st.data())
def test_damaged_messages_are_a_message_or_refused(message: m.Message, data: st.DataObject) -> None:
    encoded = bytearray(encode_body(message))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(encoded)))
    decode_or_refuse(bytes(encoded))
    decode_or_refuse(bytes(encoded[start:]))
    decode_or_refuse(bytes(encoded[:start]))


cbor_values: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.integers(-5, 20) | st.text(max_size=3), inner)
    ),
    max_leaves=20,
)


@given(st.sampled_from(list(BY_TYPE)), st.dictionaries(st.integers(0, 14), cbor_values, max_size=14))
def test_absurd_fields_are_a_message_or_refused(cls: type[Any], fields: dict[int, Any]) -> None:
    decode_or_refuse(body(cls.TYPE, fields))


@given(any_message.filter(lambda message: bool(attrs.fields(type(message)))), st.data(), cbor_values)
def test_a_message_with_one_absurd_field_is_a_message_or_refused(
    message: m.Message, data: st.DataObject, value: Any
) -> None:
    decode_or_refuse(altered(message, data.draw(st.integers(1, len(attrs.fields(type(message))))), value))


def decode_or_refuse(encoded: bytes) -> None:
    """What is read must be equal to itself after another round: nothing half-valid comes in."""
    try:
        message = decode_body(encoded)
    except RemoteProtocolError:
        return
    if message is not None:
        assert decode_body(encode_body(message)) == message


# ---------------------------------------------------------------- the cluster's own records


def test_a_record_survives_its_bytes() -> None:
    record = {"node": ID, "at": 5, "names": ["a", "b"], "flag": True, "nothing": None}
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize(
    "encoded",
    [b"", b"\x01", b"\xa1\x01\x02", b"\xa0\x00", b"\xbf\xff", b"\xa1\x61a\xc1\x00", b"\xa0" + bytes(65536)],
)
def test_what_is_no_record_is_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_record(encoded)
