"""What peers say to each other: every message as a type, and its bytes.

A message's body is the CBOR array ``[type, {number of the field: value}]``; a frame around it has the
length and a checksum (`frames`). Fields that hold their default are left out. A run is the array
``[origin, after, upto, [change, ...]]``, a change the array of its fields without the trailing defaults.

Room to grow, without a new version: a receiver passes over fields whose number it does not know, and
over messages whose type it does not know, unless that is 128 or more (it must be understood, or the
connection ends). The table at the end of the file is the wire contract: numbers are never used again.

Reading is strict, for the peer may be broken or hostile: definite lengths only, nesting of at most 8, no
tags at all (some of CBOR's cost unbounded time), no key twice, exact types, ranges and sizes, relations
between fields, nothing after the end. Whatever is wrong raises `RemoteProtocolError`. A frame's size
bounds what reading it may allocate: a length that is claimed is not believed.

What is checked is the form. Whether a change's content makes sense for its kind is left to the store,
which keeps and relays also what it does not understand.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, TypeAlias

import attrs
import cbor2

from replication import shapes
from replication.errors import RemoteProtocolError
from replication.shapes import (
    COUNT,
    CURSOR,
    DOT_SEQ,
    FLAG,
    HLC,
    ID,
    MS,
    PLACE,
    RUN,
    RUNS,
    SEQ,
    VECTOR,
    Shape,
    enumeration,
    number,
    octets,
    several,
    text,
)
from storage.changes import GROUP_MAX, Run, VersionVector

PROTOCOL_VERSION: Final = 1
OLDEST_VERSION: Final = 1  # the oldest that this node still speaks


class State(enum.IntEnum):
    """What members hold of a member. Of one incarnation, the greater number wins."""

    ALIVE = 0
    SUSPECT = 1
    UNREACHABLE = 2
    LEFT = 3
    REMOVED = 4


class Refusal(enum.IntEnum):
    """Why a connection is refused (`Reject.code`)."""

    WRONG_CLUSTER = 1
    AUTH = 2
    VERSION = 3
    REMOVED = 4
    STALE = 5
    DUPLICATE_NODE = 6
    BUSY = 7
    CLOCK = 8
    LIMIT = 9
    CLOSING = 10


class SyncFailure(enum.IntEnum):
    """Why a sync session ends without granting anything (`SyncFail.code`)."""

    BUSY = 1
    NEED_FULL = 2
    HELD = 3
    CANCEL = 4
    IO = 5
    NEED_SYNC = 6  # answer to a PULL: what it wants is no longer at hand as runs
    DONE = 7  # from the asker, no failure: it has all, the server may let its snapshot go
    GIVEN_UP = 8  # from the asker


@attrs.frozen
class MemberRecord:
    """What is gossiped of one member. The greatest (incarnation, state) wins; LEFT and REMOVED beat all."""

    node: bytes
    incarnation: int
    state: State
    boot: bytes
    addresses: tuple[str, ...] = ()  # "host:port"
    dialable: bool = True
    zone: str = ""
    software: str = ""
    since_hlc: int = 0  # when this boot began
    accuser: bytes = b""  # SUSPECT: who could not reach it; each one is an independent confirmation


@attrs.frozen
class Hello:
    TYPE: ClassVar[int] = 1
    version: int
    cluster: bytes
    node: bytes
    boot: bytes
    nonce: bytes  # 32 bytes
    wall_ms: int
    hlc: int
    incarnation: int = 0
    dialable: bool = True
    addresses: tuple[str, ...] = ()
    zone: str = ""
    software: str = ""
    joining: bool = False  # holds nothing yet and wants a full sync
    # Of changes that this node understands. Nobody reads it yet: so far all nodes write the same kinds. A new kind may
    # be written only once every member has said that it knows it, and nodes of today have to have said so by then.
    kinds: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()  # of namespaces that this node carries, beside the common one


@attrs.frozen
class Auth:
    TYPE: ClassVar[int] = 2
    proof: bytes  # 32 bytes


@attrs.frozen
class Welcome:
    TYPE: ClassVar[int] = 3
    your_address: str
    members: tuple[MemberRecord, ...] = ()


@attrs.frozen
class Reject:
    TYPE: ClassVar[int] = 4
    code: int
    text: str
    retry_ms: int = 0


@attrs.frozen
class Bye:
    TYPE: ClassVar[int] = 5
    reason: str


@attrs.frozen
class Ping:
    TYPE: ClassVar[int] = 10
    number: int
    wall_ms: int
    hlc: int


@attrs.frozen
class Pong:
    TYPE: ClassVar[int] = 11
    number: int
    wall_received_ms: int
    wall_sent_ms: int
    hlc: int
    health: int = 0


@attrs.frozen
class PingRequest:
    TYPE: ClassVar[int] = 12
    number: int
    target: bytes


@attrs.frozen
class PingResult:
    TYPE: ClassVar[int] = 13
    number: int
    is_alive: bool
    rtt_us: int = 0


@attrs.frozen
class Members:
    TYPE: ClassVar[int] = 14
    members: tuple[MemberRecord, ...]
    is_full: bool = False  # all that the sender knows; the receiver answers with what it knows better
    wants_reply: bool = False


_NO_CUTS: Final = VersionVector()


@attrs.frozen
class Vector:
    """The spec's VEC: what a member covers. Of one boot, the greater number is the later one.

    Number 0 claims nothing: it asks the peer to pass on all of a vector again, for the sender lacks what it added to.
    """

    TYPE: ClassVar[int] = 20
    node: bytes  # whose vector; not always the sender's
    boot: bytes
    number: int
    is_full: bool  # else only the entries that changed since an earlier number on this link, or since `base`
    vector: Mapping[bytes, int]  # durable: a claim
    have: Mapping[bytes, int]  # applied, no claim; only the sender's own, empty when relayed
    floors: Mapping[bytes, int]
    horizon: int
    sealed_count: int = 0
    sealed_xor: bytes = bytes(16)
    head_hlc: int = 0  # greatest clock value applied
    ready: bool = True  # False: joining or rejoining; neither pushes nor serves
    settled_hlc: int = 0  # a claim: all that the node ever writes up to this clock value is in `vector`
    base: int = 0  # of one that is passed on and not full: it adds to what had this number, or a later one
    carriers: tuple[bytes, ...] = ()  # of the group, as far as the node knew then; not of the common one
    # Origins that wait at the node, because their clock is far ahead.
    held: tuple[bytes, ...] = ()
    cuts: Mapping[bytes, int] = _NO_CUTS  # all that the node knows, each with the first void sequence


@attrs.frozen
class Push:
    TYPE: ClassVar[int] = 21
    run: Run
    more: bool = False  # a further part of the same run follows: same origin, after and upto
    wants_ack: bool = False  # somebody waits: claim it soon


@attrs.frozen
class Pull:
    TYPE: ClassVar[int] = 22
    origin: bytes
    after: int
    upto: int


@attrs.frozen
class LinkMode:
    """Asks the receiver to relay others' runs on this link at once (eager), or not to (lazy)."""

    TYPE: ClassVar[int] = 23
    eager: bool


@attrs.frozen
class Sealed:
    """The sealed origins with their last sequences; sent when the digests in Vector differ."""

    TYPE: ClassVar[int] = 24
    origins: Mapping[bytes, int]
    wants_reply: bool = False


@attrs.frozen
class SyncRequest:
    TYPE: ClassVar[int] = 30
    number: int
    full: bool
    vector: Mapping[bytes, int]
    floors: Mapping[bytes, int]
    horizon: int
    cursor: bytes = b""  # full: the place to start at
    credit: int = 1 << 20  # bytes that may be sent before the first Credit


@attrs.frozen
class SyncBatch:
    TYPE: ClassVar[int] = 31
    number: int
    runs: tuple[Run, ...]
    cursor: bytes = b""  # full: the place at which the next batch starts
    start: bytes = b""  # full: the place at which this one starts


@attrs.frozen
class SyncEnd:
    TYPE: ClassVar[int] = 32
    number: int
    vector: Mapping[bytes, int]
    floors: Mapping[bytes, int]
    horizon: int
    count: int  # changes sent in this session


@attrs.frozen
class SyncFail:
    TYPE: ClassVar[int] = 33
    number: int  # 0: no session, the answer to a Pull
    code: int
    retry_ms: int = 0


@attrs.frozen
class SyncStart:
    """Opens the server's answer: the vector that the session will end with, and how much there is."""

    TYPE: ClassVar[int] = 35
    number: int
    vector: Mapping[bytes, int]
    floors: Mapping[bytes, int]
    horizon: int
    total: int = 0  # estimate of changes to come; 0: unknown


@attrs.frozen
class Credit:
    TYPE: ClassVar[int] = 34
    number: int
    bytes: int


@attrs.frozen
class BodyGet:
    TYPE: ClassVar[int] = 40
    origin: bytes
    seq: int
    place: bytes
    offset: int
    session: int = 0  # of a sync: read from its snapshot


@attrs.frozen
class BodyData:
    TYPE: ClassVar[int] = 41
    origin: bytes
    seq: int
    offset: int
    total: int
    data: bytes


@attrs.frozen
class BodyMiss:
    TYPE: ClassVar[int] = 42
    origin: bytes
    seq: int


@attrs.frozen
class DigestRequest:
    TYPE: ClassVar[int] = 50
    number: int
    vector: Mapping[bytes, int]


@attrs.frozen
class Digest:
    """Answer to DigestRequest; `buckets` is empty and `is_comparable` False when the vectors differ."""

    TYPE: ClassVar[int] = 51
    number: int
    is_comparable: bool
    buckets: bytes = (
        b""  # pairs of bucket (2 bytes) ‖ hash (16 bytes), in any order; a large one comes in parts
    )
    more: bool = False


@attrs.frozen
class BucketRequest:
    TYPE: ClassVar[int] = 52
    number: int
    buckets: tuple[int, ...]


@attrs.frozen
class Bucket:
    """Answer to BucketRequest: headers of what is in the buckets, contents left out."""

    TYPE: ClassVar[int] = 55
    number: int
    runs: tuple[Run, ...]
    more: bool = False


@attrs.frozen
class CellsRequest:
    TYPE: ClassVar[int] = 53
    number: int
    places: tuple[bytes, ...]


@attrs.frozen
class Cells:
    TYPE: ClassVar[int] = 54
    number: int
    runs: tuple[Run, ...]


@attrs.frozen
class Publish:
    """A message to the subscribers of other nodes; best effort, never repeated."""

    TYPE: ClassVar[int] = 60
    node: bytes  # where it was published
    boot: bytes
    number: int
    channel: bytes
    payload: bytes
    sharded: bool = False


@attrs.frozen
class GroupOpen:
    """The sender speaks of this group on this link from now on; it does once both sides have said so."""

    TYPE: ClassVar[int] = 61


@attrs.frozen
class Grouped:
    """A message about a group that not all nodes carry; all others are about the common one, or the nodes."""

    TYPE: ClassVar[int] = 62
    group: int
    message: Message | None  # None: of a type that is unknown


Message: TypeAlias = (
    Hello
    | Auth
    | Welcome
    | Reject
    | Bye
    | Ping
    | Pong
    | PingRequest
    | PingResult
    | Members
    | Vector
    | Push
    | Pull
    | LinkMode
    | Sealed
    | SyncRequest
    | SyncStart
    | SyncBatch
    | SyncEnd
    | SyncFail
    | Credit
    | BodyGet
    | BodyData
    | BodyMiss
    | DigestRequest
    | Digest
    | BucketRequest
    | Bucket
    | CellsRequest
    | Cells
    | Publish
    | GroupOpen
    | Grouped
)

Runs: TypeAlias = Sequence[Run]


RECORD_BYTES_MAX: Final = 64 * 1024  # of one of the cluster's own records


def encode_record(record: Mapping[str, object]) -> bytes:
    """Encode one of the cluster's own records: text keys; numbers, text, bytes, booleans, null and lists of these."""
    return cbor2.dumps(dict(record), canonical=True)


def decode_record(encoded: bytes) -> dict[str, object]:
    """Decode what `encode_record` gave. Raise ValueError on anything else, whoever wrote it."""
    if len(encoded) > RECORD_BYTES_MAX:
        raise ValueError("the record is too large")
    try:
        record = _load(encoded)
    except RemoteProtocolError as error:
        raise ValueError(str(error)) from error
    if not isinstance(record, dict) or any(not isinstance(key, str) for key in record):
        raise ValueError("the record is not a map with text keys")
    return record


# ---------------------------------------------------------------- limits

NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
ADDRESSES_MAX: Final = 16
ADDRESS_CHARS_MAX: Final = 300  # a DNS name has up to 253
NAME_CHARS_MAX: Final = 64  # a zone, a version of the software
TEXT_CHARS_MAX: Final = 500
KINDS_MAX: Final = 256
HELD_MAX: Final = 64
GROUPS_MAX: Final = 64  # that one node carries
MEMBERS_MAX: Final = 4096
PIECE_BYTES_MAX: Final = 256 * 1024  # of a body
BODY_BYTES_MAX: Final = 512 * 1024 * 1024  # the largest value that a node may be set to accept
PLACES_MAX: Final = 4096
DIGEST_BYTES_MAX: Final = 1_000_000
DIGEST_ENTRY_BYTES: Final = 2 + 16
CHANNEL_BYTES_MAX: Final = 64 * 1024
PUBLISH_BYTES_MAX: Final = 768 * 1024
DEPTH_MAX: Final = 8
MAPS_MAX: Final = 2 * MEMBERS_MAX  # in a message: an empty one takes one byte there and a hundred here
MUST_UNDERSTAND_FROM: Final = 128

# ---------------------------------------------------------------- the table


class _Field(NamedTuple):
    key: int
    name: str
    shape: Shape
    default: Any  # NOTHING: it is always there


_Class: TypeAlias = type[Any]
_Table: TypeAlias = Mapping[int, tuple[str, Shape]]


def _fields(cls: _Class, table: _Table) -> tuple[_Field, ...]:
    defaults = {field.name: field.default for field in attrs.fields(cls)}
    assert sorted(defaults) == sorted(name for name, _ in table.values()), cls
    return tuple(_Field(key, name, shape, defaults[name]) for key, (name, shape) in table.items())


def _write_fields(fields: tuple[_Field, ...], message: Any) -> dict[int, Any]:
    written: dict[int, Any] = {}
    for key, name, (_, write), default in fields:
        value = getattr(message, name)
        if default is attrs.NOTHING or value != default:
            written[key] = value if write is None else write(value)
    return written


def _read_fields(cls: _Class, fields: tuple[_Field, ...], value: Any) -> Any:
    found = dict(shapes.entries(value))
    for key in found:
        if type(key) is not int:  # True and 1.0 would be found as 1
            raise RemoteProtocolError("has a key that is not a number")
    read: dict[str, Any] = {}
    for key, name, shape, default in fields:
        if key in found:
            try:
                read[name] = shape.read(found[key])
            except RemoteProtocolError as error:
                raise RemoteProtocolError(f"{name} {error}") from None
        elif default is attrs.NOTHING:
            raise RemoteProtocolError(f"{name} is missing")
    return cls(**read)


def _structure(cls: _Class, table: _Table) -> Shape:
    """Return the shape of a `cls` inside a message: a map like the message's own."""
    fields = _fields(cls, table)
    return Shape(lambda value: _read_fields(cls, fields, value), lambda value: _write_fields(fields, value))


_ADDRESSES: Final = several(text(ADDRESS_CHARS_MAX), ADDRESSES_MAX)
_NAME: Final = text(NAME_CHARS_MAX)
_TEXT: Final = text(TEXT_CHARS_MAX)
_CODE: Final = number(0, 65535)

_MEMBER: Final = _structure(
    MemberRecord,
    {
        1: ("node", ID),
        2: ("incarnation", COUNT),
        3: ("state", enumeration(State)),
        4: ("boot", ID),
        5: ("addresses", _ADDRESSES),
        6: ("dialable", FLAG),
        7: ("zone", _NAME),
        8: ("software", _NAME),
        9: ("since_hlc", HLC),
        10: ("accuser", octets(0, 16)),
    },
)
_MEMBERS: Final = several(_MEMBER, MEMBERS_MAX)


def _written(message: Message) -> tuple[int, dict[int, Any]]:
    cls = type(message)
    return cls.TYPE, _write_fields(_FIELDS[cls], message)


def _split(items: Any) -> tuple[int, Any]:
    if type(items) is not tuple or len(items) != 2 or type(items[0]) is not int or items[0] < 0:
        raise RemoteProtocolError("the body is not a message")
    return items


def _read_message(kind: int, fields: Any) -> Message | None:
    cls = _CLASSES.get(kind)
    if cls is None:
        if kind >= MUST_UNDERSTAND_FROM:
            raise RemoteProtocolError(f"a message of type {kind} must be understood, and is not")
        return None
    try:
        message: Message = _read_fields(cls, _FIELDS[cls], fields)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{cls.__name__}: {error}") from None
    check = _CHECKS.get(cls)
    wrong = check(message) if check is not None else None
    if wrong is not None:
        raise RemoteProtocolError(f"{cls.__name__}: {wrong}")
    return message


_TABLES: Final[Mapping[_Class, _Table]] = {
    Hello: {
        1: ("version", number(0, 65535)),
        2: ("cluster", ID),
        3: ("node", ID),
        4: ("boot", ID),
        5: ("nonce", octets(NONCE_BYTES, NONCE_BYTES)),
        6: ("wall_ms", MS),
        7: ("hlc", HLC),
        8: ("incarnation", COUNT),
        9: ("dialable", FLAG),
        10: ("addresses", _ADDRESSES),
        11: ("zone", _NAME),
        12: ("software", _NAME),
        13: ("joining", FLAG),
        14: ("kinds", several(number(0, 65535), KINDS_MAX)),
        15: ("groups", several(number(1, GROUP_MAX), GROUPS_MAX)),
    },
    Auth: {1: ("proof", octets(PROOF_BYTES, PROOF_BYTES))},
    Welcome: {1: ("your_address", text(ADDRESS_CHARS_MAX)), 2: ("members", _MEMBERS)},
    Reject: {1: ("code", _CODE), 2: ("text", _TEXT), 3: ("retry_ms", MS)},
    Bye: {1: ("reason", _TEXT)},
    Ping: {1: ("number", COUNT), 2: ("wall_ms", MS), 3: ("hlc", HLC)},
    Pong: {
        1: ("number", COUNT),
        2: ("wall_received_ms", MS),
        3: ("wall_sent_ms", MS),
        4: ("hlc", HLC),
        5: ("health", number(0, 255)),
    },
    PingRequest: {1: ("number", COUNT), 2: ("target", ID)},
    PingResult: {1: ("number", COUNT), 2: ("is_alive", FLAG), 3: ("rtt_us", COUNT)},
    Members: {1: ("members", _MEMBERS), 2: ("is_full", FLAG), 3: ("wants_reply", FLAG)},
    Vector: {
        1: ("node", ID),
        2: ("boot", ID),
        3: ("number", COUNT),
        4: ("is_full", FLAG),
        5: ("vector", VECTOR),
        6: ("have", VECTOR),
        7: ("floors", VECTOR),
        8: ("horizon", HLC),
        9: ("sealed_count", COUNT),
        10: ("sealed_xor", ID),
        11: ("head_hlc", HLC),
        12: ("ready", FLAG),
        13: ("settled_hlc", HLC),
        14: ("base", COUNT),
        15: ("carriers", several(ID, MEMBERS_MAX)),
        16: ("held", several(ID, HELD_MAX)),
        17: ("cuts", VECTOR),
    },
    Push: {1: ("run", RUN), 2: ("more", FLAG), 3: ("wants_ack", FLAG)},
    Pull: {1: ("origin", ID), 2: ("after", SEQ), 3: ("upto", DOT_SEQ)},
    LinkMode: {1: ("eager", FLAG)},
    Sealed: {1: ("origins", VECTOR), 2: ("wants_reply", FLAG)},
    SyncRequest: {
        1: ("number", COUNT),
        2: ("full", FLAG),
        3: ("vector", VECTOR),
        4: ("floors", VECTOR),
        5: ("horizon", HLC),
        6: ("cursor", CURSOR),
        7: ("credit", COUNT),
    },
    SyncBatch: {1: ("number", COUNT), 2: ("runs", RUNS), 3: ("cursor", CURSOR), 4: ("start", CURSOR)},
    SyncEnd: {
        1: ("number", COUNT),
        2: ("vector", VECTOR),
        3: ("floors", VECTOR),
        4: ("horizon", HLC),
        5: ("count", COUNT),
    },
    SyncFail: {1: ("number", COUNT), 2: ("code", _CODE), 3: ("retry_ms", MS)},
    SyncStart: {
        1: ("number", COUNT),
        2: ("vector", VECTOR),
        3: ("floors", VECTOR),
        4: ("horizon", HLC),
        5: ("total", COUNT),
    },
    Credit: {1: ("number", COUNT), 2: ("bytes", COUNT)},
    BodyGet: {
        1: ("origin", ID),
        2: ("seq", DOT_SEQ),
        3: ("place", PLACE),
        4: ("offset", number(0, BODY_BYTES_MAX)),
        5: ("session", COUNT),
    },
    BodyData: {
        1: ("origin", ID),
        2: ("seq", DOT_SEQ),
        3: ("offset", number(0, BODY_BYTES_MAX)),
        4: ("total", number(0, BODY_BYTES_MAX)),
        5: ("data", octets(0, PIECE_BYTES_MAX)),
    },
    BodyMiss: {1: ("origin", ID), 2: ("seq", DOT_SEQ)},
    DigestRequest: {1: ("number", COUNT), 2: ("vector", VECTOR)},
    Digest: {
        1: ("number", COUNT),
        2: ("is_comparable", FLAG),
        3: ("buckets", octets(0, DIGEST_BYTES_MAX)),
        4: ("more", FLAG),
    },
    BucketRequest: {1: ("number", COUNT), 2: ("buckets", several(number(0, 65535), 65536))},
    Bucket: {1: ("number", COUNT), 2: ("runs", RUNS), 3: ("more", FLAG)},
    CellsRequest: {1: ("number", COUNT), 2: ("places", several(PLACE, PLACES_MAX))},
    Cells: {1: ("number", COUNT), 2: ("runs", RUNS)},
    Publish: {
        1: ("node", ID),
        2: ("boot", ID),
        3: ("number", COUNT),
        4: ("channel", octets(0, CHANNEL_BYTES_MAX)),
        5: ("payload", octets(0, PUBLISH_BYTES_MAX)),
        6: ("sharded", FLAG),
    },
    GroupOpen: {},
    Grouped: {
        1: ("group", number(1, GROUP_MAX)),
        2: ("message", Shape(lambda value: _read_message(*_split(value)), _written)),
    },
}

_FIELDS: Final = {cls: _fields(cls, table) for cls, table in _TABLES.items()}
_CLASSES: Final[Mapping[int, _Class]] = {cls.TYPE: cls for cls in _TABLES}
assert len(_CLASSES) == len(_TABLES)


def _wrong_push(push: Push) -> str | None:
    # One that covers nothing is a question for claims.
    return None if push.run.after < push.run.upto or push.wants_ack else "run covers nothing"


def _wrong_pull(pull: Pull) -> str | None:
    return None if pull.after < pull.upto else "asks for nothing"


def _wrong_piece(piece: BodyData) -> str | None:
    return None if piece.offset + len(piece.data) <= piece.total else "data goes beyond the total"


def _wrong_digest(digest: Digest) -> str | None:
    return "buckets end in the middle of one" if len(digest.buckets) % DIGEST_ENTRY_BYTES else None


# What no single field can show.
_CHECKS: Final[Mapping[_Class, Callable[[Any], str | None]]] = {
    Push: _wrong_push,
    Pull: _wrong_pull,
    BodyData: _wrong_piece,
    Digest: _wrong_digest,
}

# ---------------------------------------------------------------- bytes


def encode_body(message: Message) -> bytes:
    """Return the body of the frame that carries `message`; its size is for `frames` to check."""
    return cbor2.dumps(_written(message))


def decode_body(body: bytes) -> Message | None:
    """Return the message in `body`; None if its type is unknown and may be passed over.

    Raise `RemoteProtocolError` on anything else. The time is linear in the size, the memory too.
    """
    return _read_message(*_split(_load(body, immutable=True)))


class _MapCounter:
    """Sees every map that is decoded, and ends that when there are too many."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, value: Any, immutable: object) -> Any:
        self._count += 1
        if self._count > MAPS_MAX:
            raise ValueError(f"it has more than {MAPS_MAX} maps")
        return value


def _refuse_tag(value: object, immutable: object) -> NoReturn:
    raise ValueError("tags are not allowed")


# Every tag that cbor2 has a decoder for; the others go to the tag hook.
_TAGS: Final = (
    0,
    1,
    2,
    3,
    4,
    5,
    25,
    28,
    29,
    30,
    35,
    36,
    37,
    52,
    54,
    100,
    256,
    258,
    260,
    261,
    1004,
    43000,
    55799,
)
_TAG_DECODERS: Final = dict.fromkeys(_TAGS, _refuse_tag)


def _load(encoded: bytes, *, immutable: bool = False) -> Any:
    """Return the one value in `encoded`, without tags, with containers that can be changed or not."""
    stream = io.BytesIO(encoded)
    decoder = cbor2.CBORDecoder(
        stream,
        tag_hook=_refuse_tag,
        object_hook=_MapCounter(),
        semantic_decoders=_TAG_DECODERS,
        read_size=max(1, len(encoded)),
        max_depth=DEPTH_MAX,
        allow_indefinite=False,
        allow_duplicate_keys=False,
    )
    try:
        value = decoder.decode(immutable=immutable)
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError) as error:
        reason = error.__cause__ or error
        raise RemoteProtocolError(f"it is not CBOR as it must be: {reason}"[:TEXT_CHARS_MAX]) from None
    if stream.tell() != len(encoded):
        raise RemoteProtocolError("there are bytes after its end")
    return value
