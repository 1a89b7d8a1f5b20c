"""Requests that take long: a generator does one slice in each tick, and others have their turn between them.

A handler returns a `Job` instead of a `Response`. Each `yield` gives bytes to be sent (or none) and ends the
slice; what it wrote is committed before anything is sent. What the generator returns is the answer; None if
it has sent the whole answer itself. A job whose client does not read what was sent is not continued until
it does; one whose client has gone is closed; one whose client would not be admitted any more ends with that refusal.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from protocol.http_responses import LAST_CHUNK, Response, chunk, stream_head

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.web.exchange import Exchange

Steps: TypeAlias = Generator[bytes, None, Response | None]

ItemT = TypeVar("ItemT")

# What one slice may take when nobody else is served: long enough to be worth a commit.
SLICE_NANOSECONDS: Final = 1_000_000
# So many bytes it writes or sends at most, or one item if that is larger.
SLICE_BYTES: Final = 256 << 10
# The same when others are served in the same ticks: with its commit about as long as thirty of them take, so that
# they wait twice as long at worst. `make bench-http` measures it.
SHARED_SLICE_NANOSECONDS: Final = 100_000
SHARED_SLICE_BYTES: Final = 32 << 10
# Others that were served so long ago are still there: they have been answered, and are about to ask again.
_SHARED_NANOSECONDS: Final = 10_000_000


class Job:
    """A request whose answer takes many ticks."""

    __slots__ = ("name", "started_ns", "steps", "wrote_head")

    def __init__(self, name: str, steps: Steps, *, writes_head: bool = False) -> None:
        self.name = name
        self.steps = steps
        self.started_ns = time.perf_counter_ns()
        self.wrote_head = writes_head  # so that a failure can only be told by closing


class Pace:
    """Says how long slices may be, by whether the hub serves others as well. One for the daemon."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._shared_until_ns = 0

    def limits(self, now_ns: int) -> tuple[int, int]:
        """Return how many nanoseconds a slice that begins now may take, and how many bytes."""
        hub = self._server.hub
        if hub is not None and hub.served_count > 1:
            self._shared_until_ns = now_ns + _SHARED_NANOSECONDS
        if now_ns < self._shared_until_ns:
            return SHARED_SLICE_NANOSECONDS, SHARED_SLICE_BYTES
        return SLICE_NANOSECONDS, SLICE_BYTES


class Slice:
    """Says when a slice has done enough."""

    __slots__ = ("_bytes_left", "_ends_ns", "_pace")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.renew()

    def renew(self) -> None:
        now_ns = time.perf_counter_ns()
        nanoseconds, self._bytes_left = self._pace.limits(now_ns)
        self._ends_ns = now_ns + nanoseconds

    def is_full(self, size: int) -> bool:
        """Count `size` bytes; True once the slice is over."""
        self._bytes_left -= size
        return self._bytes_left <= 0 or time.perf_counter_ns() > self._ends_ns


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
