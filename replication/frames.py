"""Frames: how messages lie in a stream of bytes. Sans-IO.

    4 bytes   length of the body, big-endian; the highest bit is set if the message goes on in the next frame
    4 bytes   CRC-32C of the body, big-endian
    body      one message (`messages`), or a part of it

A message is longer than a frame only if it holds a version vector of very many origins (`LONG`): after years of restarts
a cluster has tens of thousands. Its frames follow each other without another message between them.

TLS guards against people; the checksum guards against what TLS cannot see: memory that flips a bit
before the encryption or after it, and our own mistakes. Checksums run in C, at about 20 GB/s.

A peer that has not proved who it is may send HELLO and AUTH and the two messages that end a
connection, and nothing above 16 KiB. That is decided by the first bytes, before anything is parsed. After
`FrameReader.authenticated` every message is legal, up to 1 MiB. The reader therefore hands out one
message at a time: what came in the same packet behind an AUTH is read by the rules that hold then.

An error is final: after it nobody knows where the next frame starts, and a reader that failed goes on failing.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NoReturn

import google_crc32c

from replication.errors import LocalProtocolError, RemoteProtocolError
from replication.messages import (
    Auth,
    Bye,
    DigestRequest,
    Grouped,
    Hello,
    Message,
    Reject,
    Sealed,
    SyncEnd,
    SyncRequest,
    SyncStart,
    Vector,
    decode_body,
    encode_body,
)

HEAD_BYTES: Final = 8
# Of a frame's body.
FRAME_BYTES_MAX: Final = 1024 * 1024
UNAUTHENTICATED_BYTES_MAX: Final = 16 * 1024
# Messages that may be longer than a frame, and how long.
LONG: Final = (Vector, Sealed, SyncRequest, SyncStart, SyncEnd, DigestRequest)
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
_GOES_ON: Final = 1 << 31

_HEAD: Final = Struct(">II")
_checksum: Final = google_crc32c.value

# How the bodies start that a stranger may send: an array of two, and a small number.
_STRANGERS: Final = tuple(bytes((0x82, cls.TYPE)) for cls in (Hello, Auth, Reject, Bye))


def encode(message: Message) -> bytes:
    """Return the frame that carries `message`, or its frames. Raise `LocalProtocolError` if it is too large."""
    body = encode_body(message)
    if len(body) <= FRAME_BYTES_MAX:
        return _HEAD.pack(len(body), _checksum(body)) + body
    bytes_max = MESSAGE_BYTES_MAX if _may_be_long(message) else FRAME_BYTES_MAX
    if len(body) > bytes_max:
        raise LocalProtocolError(f"a {type(message).__name__} of {len(body)} bytes exceeds {bytes_max}")
    return b"".join(_cut(body))


def _may_be_long(message: Message) -> bool:
    return isinstance(message.message if isinstance(message, Grouped) else message, LONG)


def _cut(body: bytes) -> Iterator[bytes]:
    """Yield the frames of a message that is too long for one."""
    for start in range(0, len(body), FRAME_BYTES_MAX):
        part = body[start : start + FRAME_BYTES_MAX]
        goes_on = _GOES_ON if start + len(part) < len(body) else 0
        yield _HEAD.pack(len(part) | goes_on, _checksum(part)) + part


class FrameReader:
    """The messages in what one peer sends. Holds one message and what was fed behind it at most."""

    def __init__(self, *, is_authenticated: bool = False) -> None:
        self._buffer = bytearray()
        self._parts = bytearray()  # of a message that goes on
        self._is_authenticated = is_authenticated
        self._failure: str | None = None
        self.frames_count = 0
        self.unknown_count = 0  # messages of unknown types, passed over

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer) + len(self._parts)

    def authenticated(self) -> None:
        """Accept every message from the next one on."""
        self._is_authenticated = True

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what was received, cut at any place; return an iterator over the messages that are complete.

        Each step reads one frame. What was not iterated is found by the next call. Raise
        `RemoteProtocolError`, from the iteration, at the first frame that is wrong.
        """
        self._buffer += data
        return self._messages()

    def _messages(self) -> Iterator[Message]:
        while (body := self._next_body()) is not None:
            is_long = len(body) > FRAME_BYTES_MAX
            try:
                message = decode_body(body)
            except RemoteProtocolError as error:
                self._fail(str(error))
            if is_long and message is not None and not _may_be_long(message):
                self._fail(f"a {type(message).__name__} of {len(body)} bytes exceeds {FRAME_BYTES_MAX}")
            if message is None:
                self.unknown_count += 1
            else:
                yield message

    def _next_body(self) -> bytes | None:
        """Take the next message's body out of the buffer; None if it has not arrived in full."""
        while (frame := self._next_frame()) is not None:
            body, goes_on = frame
            if not goes_on and not self._parts:
                return body
            self._parts += body
            if len(self._parts) > MESSAGE_BYTES_MAX:
                self._fail(f"a message exceeds {MESSAGE_BYTES_MAX} bytes")
            if not goes_on:
                whole = bytes(self._parts)
                self._parts.clear()
                return whole
        return None

    def _next_frame(self) -> tuple[bytes, bool] | None:
        """Take the next frame's body out of the buffer, and whether the message goes on behind it."""
        if self._failure is not None:
            raise RemoteProtocolError(self._failure)
        buffer = self._buffer
        if len(buffer) < HEAD_BYTES:
            return None
        size, checksum = _HEAD.unpack_from(buffer)
        goes_on = self._is_authenticated and size >= _GOES_ON
        if goes_on:
            size -= _GOES_ON
        self._check_head(size)
        if goes_on and size != FRAME_BYTES_MAX:
            self._fail(f"a message goes on after a frame of {size} bytes")
        end = HEAD_BYTES + size
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            body = bytes(view[HEAD_BYTES:end])
        del buffer[:end]
        if _checksum(body) != checksum:
            self._fail("the checksum of a frame is wrong")
        self.frames_count += 1
        return body, goes_on

    def _check_head(self, size: int) -> None:
        """Judge a frame before its body is waited for."""
        if self._is_authenticated:
            if size > FRAME_BYTES_MAX:
                self._fail(f"a frame of {size} bytes exceeds {FRAME_BYTES_MAX}")
            return
        if size > UNAUTHENTICATED_BYTES_MAX:
            self._fail(f"a frame of {size} bytes, before authentication, exceeds {UNAUTHENTICATED_BYTES_MAX}")
        start = bytes(self._buffer[HEAD_BYTES : HEAD_BYTES + 2])
        if len(start) == 2 and start not in _STRANGERS:
            self._fail("a message that needs authentication came before it")

    def _fail(self, reason: str) -> NoReturn:
        self._failure = reason
        self._buffer.clear()
        self._parts.clear()
        raise RemoteProtocolError(reason)
