"""Asking a real server over a plain socket, with hiredis and nothing else in between."""

from __future__ import annotations

import socket
from typing import Any

import hiredis

from tests.kvd.harness import encode

_INCOMPLETE = object()


def ask(sock: socket.socket, *arguments: object) -> Any:
    """Send one request and return its reply, as hiredis decodes it."""
    sock.sendall(encode(*arguments))
    reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
    while (reply := reader.gets()) is _INCOMPLETE:
        data = sock.recv(1 << 16)
        assert data, "the server closed the connection"
        reader.feed(data)
    return reply


def ask_raw(sock: socket.socket, *arguments: object) -> bytes:
    """Send one request and return the bytes of its reply. No push may be on its way."""
    sock.sendall(encode(*arguments))
    reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
    data = b""
    while reader.gets() is _INCOMPLETE:
        received = sock.recv(1 << 16)
        assert received, "the server closed the connection"
        data += received
        reader.feed(received)
    return data
