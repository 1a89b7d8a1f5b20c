"""Replies as they stand on the wire: cutting a stream into frames, and the connections that give them.

A *frame* is one whole reply or push, as bytes. Comparing frames compares every byte a client would see.
"""

from __future__ import annotations

import socket
from typing import Protocol

from tests.kvd.harness import Client, InProcessServer, encode

_LINES = b"+-:,#_("
_BULKS = b"$=!"
_ELEMENTS_PER_COUNT = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}


def frame_end(data: bytes, start: int = 0) -> int | None:
    """Return where the frame that begins at `start` ends; None if it is not whole yet."""
    at = start
    missing = 1
    while missing:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        kind = data[at]
        following = line_end + 2
        missing -= 1
        if kind in _BULKS:
            length = int(data[at + 1 : line_end])
            following += length + 2 if length >= 0 else 0
            if following > len(data):
                return None
        elif kind not in _LINES:
            missing += max(int(data[at + 1 : line_end]), 0) * _ELEMENTS_PER_COUNT[kind]
        at = following
    return at


def elements(frame: bytes) -> list[bytes]:
    """Return the frames inside an array, set, map or push."""
    assert frame[0] in _ELEMENTS_PER_COUNT, frame
    found = []
    at = frame.index(b"\r\n") + 2
    while at < len(frame):
        end = frame_end(frame, at)
        assert end is not None
        found.append(frame[at:end])
        at = end
    return found


def is_message(frame: bytes) -> bool:
    """Tell whether a frame is a message or an invalidation, not the answer to a request."""
    kinds = (b"$7\r\nmessage", b"$8\r\npmessage", b"$8\r\nsmessage", b"$10\r\ninvalidate")
    return frame[:1] in {b"*", b">"} and frame[frame.index(b"\r\n") + 2 :].startswith(kinds)


class Connection(Protocol):
    """One client's connection to one of the servers under comparison."""

    def send(self, request: list[bytes]) -> None:
        """Send one request."""

    def next_frame(self) -> bytes:
        """Return the next frame; wait for it."""

    def has_ended(self) -> bool:
        """Tell whether the server has said its last word; wait for it."""

    def close(self) -> None:
        """Close the connection."""


class SocketConnection:
    """A connection over TCP, to redis-server or a kvd daemon."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""

    def send(self, request: list[bytes]) -> None:
        self._sock.sendall(encode(*request))

    def next_frame(self) -> bytes:
        while True:
            end = frame_end(self._buffer)
            if end is not None:
                frame, self._buffer = self._buffer[:end], self._buffer[end:]
                return frame
            data = self._sock.recv(1 << 16)
            assert data, "the server has closed the connection"
            self._buffer += data

    def has_ended(self) -> bool:
        return not (self._buffer or self._sock.recv(1))

    def close(self) -> None:
        self._sock.close()


class InProcessConnection:
    """A session of a server in this process."""

    def __init__(self, server: InProcessServer) -> None:
        self._client = Client(server)
        self._buffer = b""

    def send(self, request: list[bytes]) -> None:
        self._buffer += self._client.raw(encode(*request))

    def next_frame(self) -> bytes:
        end = frame_end(self._buffer)
        if end is None:
            self._buffer += self._client.session.take_output()
            end = frame_end(self._buffer)
        assert end is not None, f"no whole reply: {self._buffer!r}"
        frame, self._buffer = self._buffer[:end], self._buffer[end:]
        return frame

    def has_ended(self) -> bool:
        return not self._buffer and self._client.session.closing

    def close(self) -> None:
        self._client.close()
