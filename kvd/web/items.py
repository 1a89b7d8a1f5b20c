"""A JSON array of many items, read while it is received.

A bulk request has up to 10,000 pairs in up to 100 MB. Reading that text at once would stop everybody for a
second, and would hold it several times. So the array is cut into its items as the bytes come in, each is
read and taken at once, and only what was made of it is kept. Cutting needs no more than the
nesting depth, and to know what is inside of a string.

Even the piece that is received in one tick holds hundreds of small pairs, which take milliseconds. So reading
it is cut into slices as well: the body *is behind* until `go_on` was called often enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kvd import json_text
from kvd.web.bodies import Body
from kvd.web.errors import Refused
from kvd.web.jobs import Slice

if TYPE_CHECKING:
    from kvd.web.jobs import Pace

_find_structure: Final = re.compile(rb'["\[\]{},]').search
# The inside of a string up to its end, or to that of the piece. Possessive, so it never goes back.
_match_inside: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL).match
_BLANKS: Final = b" \t\r\n"

# Deeper than any metadata; Python itself gives up at about a thousand.
DEPTH_MAX: Final = 200


class ItemsBody(Body):
    """Calls `accept(number, item)` for each item of an array. The first refusal ends that, and is kept."""

    def __init__(self, pace: Pace, limit: int, count_max: int, accept: Callable[[int, Any], None]) -> None:
        super().__init__()
        self.refusal: Refused | None = None
        self.count = 0
        self._limit = limit
        self._count_max = count_max
        self._accept = accept
        self._depth = 0  # 1 is inside of the array, between two items or in a plain one
        self._in_string = False
        self._is_escaped = False  # the last piece ended with a backslash
        self._is_over = False
        self._item: list[bytes] = []  # pieces of the item that is not complete
        self._pace = pace
        self._unread: list[bytes] = []  # what the last slice has left over; it begins with an item

    def close(self) -> None:
        self.refusal = None  # its traceback knows frames that know this

    @property
    def held_bytes(self) -> int:
        return 0 if self.refusal is not None else self.size

    @property
    def is_behind(self) -> bool:
        return bool(self._unread)

    def go_on(self) -> None:
        """Read on for a slice in what was received."""
        data = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread = []
        self._read(data)

    def finish(self) -> None:
        """Raise `Refused` unless the whole array was read and accepted. Not while it is behind."""
        assert not self._unread
        if self.refusal is None and not self._is_over:
            self.refusal = _malformed()
        if self.refusal is not None:
            raise self.refusal

    def _take(self, data: bytes) -> None:
        if self.refusal is not None:
            return
        if self._unread:
            self._unread.append(data)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        try:
            if self.size > self._limit:
                raise Refused(413, f"the body is larger than {self._limit} bytes")
            self._cut(data)
        except Refused as refused:
            self.refusal = refused
            self._item = []
            self._unread = []

    def _cut(self, data: bytes) -> None:
        """Cut a piece into items, and take these, until a slice is over. What is left then is `_unread`."""
        part = Slice(self._pace)
        start = position = 0  # of the item in this piece; of what is looked at next
        count = self.count
        size = len(data)
        if not self._depth:
            start = position = self._skip_blanks(data, 0)
            if position == size:
                return
            if self._is_over or data[position] != 0x5B:  # [
                raise _malformed()
            self._depth = 1
            start = position = position + 1
        while position < size:
            if self._in_string:
                position = self._pass_string(data, position)
                continue
            match = _find_structure(data, position)
            if match is None:
                break
            position = match.end()
            start = self._on_structure(data, match[0], start, position)
            if self._is_over:
                if self._skip_blanks(data, position) != size:
                    raise _malformed()
                return
            if self.count != count:
                if part.is_full(0) and position < size:
                    self._unread = [data[position:]]
                    return
                count = self.count
        self._item.append(data[start:] if start else data)

    def _pass_string(self, data: bytes, position: int) -> int:
        """Return where a string ends, behind its quote, or the end of the piece."""
        if self._is_escaped:
            self._is_escaped = False
            position += 1
        match = _match_inside(data, position)
        assert match is not None, "it matches nothing, too"
        end = match.end()
        if end == len(data):
            return end
        if data[end] == 0x22:
            self._in_string = False
        else:
            self._is_escaped = True  # a backslash at the end of the piece
        return end + 1

    def _on_structure(self, data: bytes, token: bytes, start: int, position: int) -> int:
        """Take a structural character that ends at `position`; return where the item starts."""
        if token == b'"':
            self._in_string = True
        elif token in {b"[", b"{"}:
            self._depth += 1
            if self._depth > DEPTH_MAX:
                raise Refused(400, f"the body is nested deeper than {DEPTH_MAX}")
        elif token == b",":
            if self._depth == 1:
                self._end_item(data[start : position - 1], is_last=False)
                return position
        else:
            self._depth -= 1
            if self._depth == 0:
                if token != b"]":
                    raise _malformed()
                self._end_item(data[start : position - 1], is_last=True)
                self._is_over = True
                return position
        return start

    def _end_item(self, part: bytes, *, is_last: bool) -> None:
        text = b"".join((*self._item, part)) if self._item else part
        self._item = []
        if is_last and not self.count and not text.strip(_BLANKS):
            return  # an empty array
        if self.count >= self._count_max:
            raise Refused(400, f"more than {self._count_max} entries in one request")
        try:
            item = json_text.load(text)
        except ValueError:
            raise Refused(400, f"entry {self.count} is not valid JSON") from None
        self._accept(self.count, item)
        self.count += 1

    @staticmethod
    def _skip_blanks(data: bytes, position: int) -> int:
        while position < len(data) and data[position] in _BLANKS:
            position += 1
        return position


def _malformed() -> Refused:
    return Refused(400, "the body is not a JSON array")
