"""What the tests of the request readers share: how to write a stream, and how to read one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from protocol.errors import ProtocolError
from protocol.multibulk import Limits, MultibulkReader, Request
from protocol.requests import RequestReader


class Outcome(NamedTuple):
    """All that a reader made of a stream."""

    requests: list[Request]
    error: str | None
    pending_bytes: int | None  # None after an error, when nobody asks any more


def request(*arguments: bytes) -> bytes:
    """Return a request as clients send it."""
    return b"*%d\r\n%b" % (
        len(arguments),
        b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments),
    )


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return `data` in pieces, cut at `places`."""
    edges = [0, *sorted(place for place in places if place <= len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def one_by_one(data: bytes) -> list[bytes]:
    """Return `data` in pieces of one byte."""
    return [data[index : index + 1] for index in range(len(data))]


def read_exactly(
    pieces: Sequence[bytes], *, authenticated: bool = True, limits: Limits | None = None
) -> Outcome:
    """Read a stream with the exact reader."""
    reader = MultibulkReader(limits or Limits(), authenticated=authenticated)
    requests: list[Request] = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (found := reader.next()) is not None:
                requests.append(found)
        except ProtocolError as error:
            return Outcome(requests, error.text, None)
    return Outcome(requests, None, reader.pending_bytes)


def read(pieces: Sequence[bytes], *, authenticated: bool = True, limits: Limits | None = None) -> Outcome:
    """Read a stream with the reader that sessions use, as they use it."""
    reader = RequestReader(limits, authenticated=authenticated)
    requests: list[Request] = []
    for piece in pieces:
        requests += reader.feed(piece)
        while reader.held:
            requests += reader.feed(b"")
    if reader.error is not None:
        return Outcome(requests, reader.error.text, None)
    return Outcome(requests, None, reader.pending_bytes)
