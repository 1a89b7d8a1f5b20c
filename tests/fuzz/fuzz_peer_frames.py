"""Coverage-guided search for bytes of a peer that do more than be refused.

    python tests/fuzz/fuzz_peer_frames.py -max_total_time=600
    python tests/fuzz/fuzz_peer_frames.py -max_total_time=600 corpus   # and keep what was found in that directory
    python tests/fuzz/fuzz_peer_frames.py crash-0123...        # one input again

Needs atheris (``pip install atheris``). Every option is libFuzzer's. An input is the body of a message;
its last bytes choose whether the peer has authenticated and where the stream is cut. The frame around
it is made here, with the right checksum, so that the search is not stopped at that door. Found are: any
exception but `RemoteProtocolError`, a message that is not equal to itself after another round, an
allocation of more than 64 MB for at most 8 KB of input, and an input that takes a second.
"""

from __future__ import annotations

import itertools
import struct
import sys
import tempfile
from pathlib import Path
from typing import Final

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
import google_crc32c

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

with atheris.instrument_imports(include=["replication.messages", "replication.shapes", "replication.frames"]):
    from replication import messages as m
    from replication.frames import FrameReader

from replication.errors import RemoteProtocolError
from storage.changes import Change, Run

OPTIONS: Final = ["-max_len=8192", "-malloc_limit_mb=64", "-timeout=1"]
TAIL_BYTES: Final = 4  # one for what the peer may send, three places to cut at

_ID: Final = b"0123456789abcdef"
_RUN: Final = Run(
    _ID,
    3,
    9,
    [
        Change(4, 5, 0, _ID + b"key", b"value"),
        Change(5, 5, 0, _ID + b"key", 70_000, b"{}", b"", 1, _ID, 6),
        Change(6, 5, 2, _ID + b"key"),
        Change(9, 5, 999, _ID, b"opaque", None, b"sub"),
    ],
)
_MEMBER: Final = m.MemberRecord(_ID, 1, m.State.SUSPECT, _ID, ("host:1",), True, "zone", "1.0", 5, _ID)

SEEDS: Final[list[m.Message]] = [
    m.Hello(1, _ID, _ID, _ID, _ID * 2, 1, 2, 3, False, ("host:1",), "zone", "1.0", True, (0, 1), (7,)),
    m.Auth(_ID * 2),
    m.Welcome("host:1", (_MEMBER,)),
    m.Reject(1, "no", 5),
    m.Bye("enough"),
    m.Ping(1, 2, 3),
    m.Pong(1, 2, 3, 4, 5),
    m.Members((_MEMBER, _MEMBER), True, True),
    m.Vector(_ID, _ID, 1, True, {_ID: 5}, {_ID: 6}, {}, 7, 1, _ID, 8, False, 9, 0, (_ID,), (_ID,), {_ID: 6}),
    m.Push(_RUN, True, True),
    m.SyncBatch(1, (_RUN, Run(_ID, 0, 0, _RUN.changes)), b"cursor", b"start"),
    m.SyncRequest(1, True, {_ID: 5}, {_ID: 4}, 3, b"cursor"),
    m.BodyData(_ID, 1, 0, 5, b"piece"),
    m.Digest(1, True, b"x" * 36, True),
    m.BucketRequest(1, (1, 2, 65535)),
    m.CellsRequest(1, (_ID, _ID + b"key")),
    m.Publish(_ID, _ID, 1, b"channel", b"payload", True),
    m.Grouped(7, m.GroupOpen()),
    m.Grouped(7, m.Push(_RUN)),
]


def check(data: bytes) -> None:
    """Fail if the message in `data` does anything but be read as itself, or be refused."""
    if len(data) < TAIL_BYTES:
        return
    body, tail = data[:-TAIL_BYTES], data[-TAIL_BYTES:]
    reader = FrameReader(is_authenticated=tail[0] % 2 == 0)
    frame = struct.pack(">II", len(body), google_crc32c.value(body)) + body
    try:
        for message in [found for piece in _cut(frame, tail[1:]) for found in reader.feed(piece)]:
            if _is_known(message) and m.decode_body(m.encode_body(message)) != message:
                raise AssertionError(f"{body.hex()}: {message!r} does not survive its bytes")
    except RemoteProtocolError:
        pass


def _is_known(message: m.Message) -> bool:
    """Tell whether a message can be written: what is of an unknown type in a group is read as None."""
    inner: m.Message | None = message
    while isinstance(inner, m.Grouped):
        inner = inner.message
    return inner is not None


def _cut(frame: bytes, places: bytes) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place < len(frame)), len(frame)]
    return [frame[start:end] for start, end in itertools.pairwise(edges)]


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            Path(corpus, str(number)).write_bytes(m.encode_body(seed) + bytes(TAIL_BYTES))
        inputs = [argument for argument in sys.argv[1:] if Path(argument).is_file()]
        atheris.Setup([sys.argv[0], *OPTIONS, *sys.argv[1:], *([] if inputs else [corpus])], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
