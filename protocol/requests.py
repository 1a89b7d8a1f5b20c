"""A client's stream of bytes to requests: the fast readers in front, the exact one behind them.

Four readers, which agree on every stream that more than one of them would take:

    ======================  ======================================  ================================
    reader                  takes                                   us a request: GET, SET
    ======================  ======================================  ================================
    `lines.read_one`        one short request, whole                0.4, 0.6
    `pipelines`             many whole requests (hiredis)           0.2, 0.3
    `lines.read_lines`      whole requests without line breaks      0.35, 0.5 (if not alike 0.7, 0.8)
    `multibulk`             everything, byte by byte if need be     1.8, 2.3
    ======================  ======================================  ================================

The fast ones start at the start of a request only. Where they stop, the exact one takes the rest
of what was fed, and it gives way again after a request that lies across two feeds. So no reader
comes back to the same bytes but to those of one request at the end of a piece, and time is linear
whatever a client sends.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import ProtocolError, UnauthenticatedLimitError
from protocol.lines import read_lines, read_one
from protocol.multibulk import Limits, MultibulkReader, Request
from protocol.pipelines import PIPELINE_BYTES_MAX, PipelineReader

# So few bytes are one request more often than many.
_ONE_BYTES_MAX: Final = 256

# Where no argument starts between these places, arguments are large: then the exact reader is the
# fastest, since it does not look at their bytes.
_LARGE_FROM: Final = 256
_LARGE_TO: Final = 1024

# One for all clients: it holds nothing between two calls.
_pipelines: Final = PipelineReader()


class RequestReader:
    """Reads one client's stream. After a protocol error it is poisoned: `error` is set for good.

    While `authenticated` is false, requests have to be small. But one of several requests that came
    together may authenticate: then a request that is too large before and legal after stays
    unread, and `held` is true. After executing those before it, set `authenticated` accordingly
    and call ``feed(b"")``, which reads it or sets `error`.
    """

    __slots__ = ("_exact", "error", "held", "is_empty")

    def __init__(self, limits: Limits | None = None, *, authenticated: bool = True) -> None:
        self._exact = MultibulkReader(limits or Limits(), authenticated=authenticated)
        self.is_empty = True  # nothing is pending, held or wrong: the next byte starts a request
        self.error: ProtocolError | None = None
        self.held = False

    @property
    def limits(self) -> Limits:
        """The limits on requests; shared by all readers that were given the same object."""
        return self._exact.limits

    @property
    def authenticated(self) -> bool:
        """Whether requests of any legal size are read."""
        return self._exact.authenticated

    @authenticated.setter
    def authenticated(self, value: bool) -> None:
        self._exact.authenticated = value

    @property
    def pending_bytes(self) -> int:
        """Bytes received that belong to no request returned so far."""
        return self._exact.pending_bytes

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that `data` completes, in order.

        After a protocol error those before it are returned, `error` is set, and later calls return
        nothing.
        """
        if not self.is_empty:
            return self._feed_more(data)
        if len(data) <= _ONE_BYTES_MAX:
            request = read_one(data)
            if request is not None:
                return [request]
        return self._read(data, [])

    def _feed_more(self, data: bytes) -> list[Request]:
        """Go on inside of a request, or with what was held; or stay poisoned."""
        if self.error is not None:
            return []
        self._exact.feed(data)
        if not self._exact.authenticated:
            return self._drain([])
        requests = self._drain([], count_max=1)
        if not requests or self.error is not None:
            return requests
        return self._read(self._exact.take_rest(), requests)

    def _read(self, data: bytes, requests: list[Request]) -> list[Request]:
        """Return `requests` and those in `data`, which begins at the start of a request."""
        size = len(data)
        taken = 0
        if self._exact.authenticated and _suits_fast_readers(data):
            if not requests and size <= PIPELINE_BYTES_MAX and data.endswith(b"\r\n"):
                # The usual pipeline, without the loop of `_read_pieces`: 10% of the time at P=16.
                batch = _pipelines.read(data)
                if batch is not None:
                    self.is_empty = True
                    return batch
                requests, taken = read_lines(data)
            else:
                taken = _read_pieces(data, requests)
        if taken == size:
            self.is_empty = True
            return requests
        self._exact.feed(data[taken:])
        return self._drain(requests)

    def _drain(self, requests: list[Request], count_max: int = -1) -> list[Request]:
        """Add what the exact reader has, at most `count_max` if that is not negative."""
        self.held = False
        try:
            while len(requests) != count_max:
                request = self._exact.next()
                if request is None:
                    break
                requests.append(request)
        except UnauthenticatedLimitError as error:
            if requests:
                self.held = True
            else:
                self.error = error
        except ProtocolError as error:
            self.error = error
        if self.error is not None:  # the frames that it came through know this reader
            self.error.__traceback__ = self.error.__context__ = self.error.__cause__ = None
        self.is_empty = not self._exact.pending_bytes and self.error is None
        return requests


def _suits_fast_readers(data: bytes) -> bool:
    """Tell whether `data` begins with an array, and not one of large arguments."""
    if data[:1] != b"*":
        return False
    return len(data) < _LARGE_TO or data.find(b"$", _LARGE_FROM, _LARGE_TO) >= 0


def _read_pieces(data: bytes, requests: list[Request]) -> int:
    """Add what the fast readers take from the front of `data`; return how many bytes that was."""
    taken = 0
    while taken < len(data):
        piece = data[taken : taken + PIPELINE_BYTES_MAX]
        size = _whole_bytes(piece, is_last=taken + len(piece) == len(data))
        batch = _pipelines.read(piece[:size]) if size else None
        if batch is None:
            batch, size = read_lines(piece)
            if not batch:
                break
        requests += batch
        taken += size
    return taken


def _whole_bytes(piece: bytes, *, is_last: bool) -> int:
    """Guess how many bytes of `piece` are whole requests. A wrong guess costs time only."""
    if is_last and piece.endswith(b"\r\n"):
        return len(piece)
    cut = piece.rfind(b"\r\n*")
    return cut + 2 if cut >= 0 else 0
