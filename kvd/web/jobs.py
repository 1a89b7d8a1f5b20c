"""Requests that take long: a generator does one slice in each tick, and others have their turn between them.

A handler returns a `Job` instead of a `Response`. Each `yield` gives bytes to be sent (or none) and ends the
slice; what it wrote is committed before anything is sent. What the generator returns is the answer; None if
it has sent the whole answer itself. A job whose client does not read what was sent is not continued until
it does; one whose client has gone is closed.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from protocol.http_responses import LAST_CHUNK, Response, chunk, stream_head

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange

Steps: TypeAlias = Generator[bytes, None, Response | None]

ItemT = TypeVar("ItemT")

# What one slice may take: short enough for the others, long enough to be worth a commit.
SLICE_NANOSECONDS: Final = 1_000_000
# So many bytes a slice writes or sends at most, or one item if that is larger.
SLICE_BYTES: Final = 256 << 10


class Job:
    """A request whose answer takes many ticks."""

    __slots__ = ("name", "started_ns", "steps", "wrote_head")

    def __init__(self, name: str, steps: Steps, *, writes_head: bool = False) -> None:
        self.name = name
        self.steps = steps
        self.started_ns = time.perf_counter_ns()
        self.wrote_head = writes_head  # so that a failure can only be told by closing


class Slice:
    """Says when a slice has done enough."""

    __slots__ = ("_bytes", "_ends_ns")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._bytes = 0
        self._ends_ns = time.perf_counter_ns() + SLICE_NANOSECONDS

    def is_full(self, size: int) -> bool:
        """Count `size` bytes; True once the slice is over."""
        self._bytes += size
        return self._bytes >= SLICE_BYTES or time.perf_counter_ns() > self._ends_ns


def streamed(exchange: Exchange, headers: bytes, parts: Iterable[bytes]) -> Steps:
    """Return the steps that send `parts` (empty ones end a slice only) as a chunked body."""
    yield stream_head(exchange.front.date, headers, keep_alive=exchange.request.keep_alive)
    if exchange.is_head:
        return None
    for part in parts:
        yield chunk(part) if part else b""
    yield LAST_CHUNK
    return None


def sliced(items: Sequence[ItemT]) -> Iterable[Sequence[ItemT]]:
    """Cut a sequence into pieces of a hundred: small enough for a clock reading each."""
    return (items[start : start + 100] for start in range(0, len(items), 100))
