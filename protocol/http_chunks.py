"""The chunked transfer coding, decoded strictly.

    size (1 to 8 hex digits) [; extension] CRLF   data CRLF   …   0 CRLF   trailer lines   CRLF

Whoever reads a size differently than the proxy before us takes part of one client's body for the next
request; so a size is hex digits alone (no sign, no blank, no ``0x``), every line ends with CRLF, and the CRLF
after the data has to be there. Extensions and trailers are passed over and bounded.
Source: RFC 9112 §7.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from protocol.http_errors import HttpError

# A size line with its extensions; nobody is known to send any.
SIZE_LINE_BYTES_MAX: Final = 256
TRAILER_BYTES_MAX: Final = 8192

# The size, then nothing or an extension of visible characters and blanks.
_match_size: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~]*)?").fullmatch
_match_trailer: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*").fullmatch

_BAD: Final = "Invalid chunk"


class ChunkDecoder:
    """Decodes one body. `done` once the last line of the trailer has been read."""

    __slots__ = ("_line", "_remaining", "_step", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self.done = False
        self._step: Callable[[bytes, int, Callable[[bytes], None]], int] = self._read_size
        self._line = b""  # the part of a line that came with an earlier piece
        self._remaining = 0  # of the chunk's data
        self._trailer_bytes = 0

    def feed(self, data: bytes, start: int, write: Callable[[bytes], None]) -> int:
        """Hand the body's bytes in `data` from `start` on to `write`; return where reading ended.

        That is the end of `data` unless `done`. Raise `HttpError`.
        """
        position = start
        while position < len(data) and not self.done:
            position = self._step(data, position, write)
        return position

    def _take_line(self, data: bytes, start: int, limit: int) -> tuple[bytes | None, int]:
        """Return a whole line without its CRLF, or None while it is incomplete, and the position after it."""
        end = data.find(b"\n", start)
        part = data[start:] if end < 0 else data[start : end + 1]
        if len(self._line) + len(part) > limit:
            raise HttpError(400, _BAD)
        self._line += part
        if end < 0:
            return None, len(data)
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n"):
            raise HttpError(400, _BAD)
        return line[:-2], end + 1

    def _read_size(self, data: bytes, start: int, write: Callable[[bytes], None]) -> int:
        line, position = self._take_line(data, start, SIZE_LINE_BYTES_MAX)
        if line is None:
            return position
        match = _match_size(line)
        if match is None:
            raise HttpError(400, _BAD)
        self._remaining = int(match[1], 16)
        self._step = self._read_data if self._remaining else self._read_trailer
        return position

    def _read_data(self, data: bytes, start: int, write: Callable[[bytes], None]) -> int:
        end = min(start + self._remaining, len(data))
        write(data if start == 0 and end == len(data) else data[start:end])
        self._remaining -= end - start
        if not self._remaining:
            self._step = self._read_data_end
        return end

    def _read_data_end(self, data: bytes, start: int, write: Callable[[bytes], None]) -> int:
        line, position = self._take_line(data, start, 2)
        if line is not None:
            self._step = self._read_size
        return position

    def _read_trailer(self, data: bytes, start: int, write: Callable[[bytes], None]) -> int:
        line, position = self._take_line(data, start, TRAILER_BYTES_MAX)
        if line is None:
            return position
        self._trailer_bytes += len(line) + 2
        if not line:
            self.done = True
        elif self._trailer_bytes > TRAILER_BYTES_MAX or _match_trailer(line) is None:
            raise HttpError(400, "Invalid trailer")
        return position
