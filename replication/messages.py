"""What peers say to each other: every message as a type."""

from __future__ import annotations

import enum
import io
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, TypeAlias

import attrs
import cbor2

from storage.changes import Run

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
    since_hlc: int = 0


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
    kinds: tuple[int, ...] = ()  # of changes that this node understands


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


@attrs.frozen
class Vector:
    """The spec's VEC: what a member covers. Of one boot, the greater number is the later one."""

    TYPE: ClassVar[int] = 20
    node: bytes  # whose vector; not always the sender's
    boot: bytes
    number: int
    is_full: bool  # else only the entries that changed since an earlier number on this link
    vector: Mapping[bytes, int]  # durable: a claim
    have: Mapping[bytes, int]  # applied, no claim; only the sender's own, empty when relayed
    floors: Mapping[bytes, int]
    horizon: int
    sealed_count: int = 0
    sealed_xor: bytes = bytes(16)
    head_hlc: int = 0  # greatest clock value applied
    ready: bool = True  # False: joining or rejoining; neither pushes nor serves


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
    buckets: bytes = b""  # pairs of bucket (2 bytes) ‖ hash (16 bytes), by bucket; a large one comes in parts
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
    stream = io.BytesIO(encoded)
    try:
        record = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if not isinstance(record, dict) or stream.read(1) or any(not isinstance(key, str) for key in record):
        raise ValueError("the record is not a map with text keys")
    return record
