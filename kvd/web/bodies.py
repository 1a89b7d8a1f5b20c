"""Where the bodies of requests go, piece by piece, while they are received.

Which of these a request gets is decided at its head. None holds more than its limit; what is beyond is
counted and dropped, because a client that is answered in the middle of its body sees a broken connection
instead of the answer. `DRAIN_BYTES_MAX` ends even that.
"""

from __future__ import annotations

import io
import logging
from typing import Any, Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from kvd import json_text
from kvd.web.errors import Refused
from protocol.http_errors import HttpError

# The parser warns of each malformed form. Without a handler that would go to standard error, around the daemon's log.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())

# What a refused body may be at most before the connection is closed on it.
DRAIN_BYTES_MAX: Final = 1 << 30
# Metadata in a form; what is stored has a lower limit, which the answer names.
_METADATA_BYTES_MAX: Final = 64 << 10
_BOUNDARY_BYTES_MAX: Final = 70  # Source: RFC 2046 §5.1.1
# Parts of a form beyond this make no sense for a value with metadata.
_PARTS_MAX: Final = 16


class Body:
    """The base: counts, and drops everything."""

    def __init__(self) -> None:
        self.size = 0

    @property
    def held_bytes(self) -> int:
        """How much of it is in memory, about."""
        return 0

    @property
    def is_behind(self) -> bool:
        """Whether something of it was received that is not read yet, and `go_on` is to be called."""
        return False

    def go_on(self) -> None:
        """Read on for a slice."""

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > DRAIN_BYTES_MAX:
            raise HttpError(413, "Payload Too Large")
        self._take(data)

    def close(self) -> None:
        """Let go of what refers back to this; nothing more will be asked."""

    def _take(self, data: bytes) -> None:
        """Do nothing with it: the request is refused, or wants no body."""


class BytesBody(Body):
    """A body that is wanted as it is. Held once: the buffer becomes the value without a copy."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._buffer = io.BytesIO()

    def _take(self, data: bytes) -> None:
        if self.size <= self.limit:
            self._buffer.write(data)
        else:
            self._buffer = io.BytesIO()

    @property
    def held_bytes(self) -> int:
        return self._buffer.tell()

    def content(self) -> bytes:
        """Return the body. Ask `size` first whether it is within the limit."""
        assert self.size <= self.limit
        return self._buffer.getvalue()

    def json(self) -> Any:
        """Return the body's JSON value. Raise `Refused`."""
        if self.size > self.limit:
            raise Refused(413, f"the body is larger than {self.limit} bytes")
        try:
            return json_text.load(self._buffer.getvalue())
        except ValueError:
            raise Refused(400, "the body is not valid JSON") from None


class FormBody(Body):
    """multipart/form-data with the parts ``value`` and ``metadata``; other parts are passed over."""

    def __init__(self, content_type: bytes, value_bytes_max: int) -> None:
        super().__init__()
        self.refusal: Refused | None = None
        self._limits = {b"value": value_bytes_max, b"metadata": _METADATA_BYTES_MAX}
        self._sizes: dict[bytes, int] = {}
        self._parts: dict[bytes, io.BytesIO] = {}
        self._field = b""
        self._header = b""
        self._content = b""
        self._part: bytes | None = None
        self._part_count = 0
        self._is_complete = False
        self._parser = self._open(content_type)

    def _open(self, content_type: bytes) -> MultipartParser | None:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary or len(boundary) > _BOUNDARY_BYTES_MAX:
            self.refusal = Refused(400, "the form has no valid boundary")
            return None
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_part_data": self._take_content,
                "on_end": self._end,
            },
        )

    def close(self) -> None:
        self._parser = None

    @property
    def held_bytes(self) -> int:
        return sum(part.tell() for part in self._parts.values())

    def value(self) -> tuple[bytes, int]:
        """Return the part ``value`` and its size, which tells whether it was too large to be kept."""
        part = self._finished().get(b"value")
        if part is None:
            raise Refused(400, "the form has no part called value")
        return part.getvalue(), self._sizes[b"value"]

    def metadata(self) -> bytes | None:
        """Return the part ``metadata``, None without one. One that is far too large is cut."""
        part = self._finished().get(b"metadata")
        return None if part is None else part.getvalue()

    def _finished(self) -> dict[bytes, io.BytesIO]:
        if self.refusal is None and not self._is_complete:
            self.refusal = Refused(400, "the form is incomplete")
        if self.refusal is not None:
            raise self.refusal
        return self._parts

    def _take(self, data: bytes) -> None:
        if self._parser is None or self._is_complete:
            return
        try:
            self._parser.write(data)
        except FormParserError:
            self._fail("the form is malformed")

    def _fail(self, text: str) -> None:
        self.refusal = self.refusal or Refused(400, text)
        self._parser = None
        self._parts.clear()

    # Called by the parser.

    def _begin_part(self) -> None:
        self._part = None
        self._content = b""
        self._part_count += 1
        if self._part_count > _PARTS_MAX:
            raise FormParserError("too many parts")

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            name = parse_options_header(self._header)[1].get(b"name", b"")
            if name in self._limits and name not in self._parts:
                self._part = name
                self._parts[name] = io.BytesIO()
                self._sizes[name] = 0
        self._field = self._header = b""

    def _take_content(self, data: bytes, start: int, end: int) -> None:
        name = self._part
        if name is None:
            return
        self._sizes[name] += end - start
        if self._sizes[name] <= self._limits[name]:
            self._parts[name].write(data if start == 0 and end == len(data) else data[start:end])
        elif name == b"value":
            self._parts[name] = io.BytesIO()

    def _end(self) -> None:
        self._is_complete = True
