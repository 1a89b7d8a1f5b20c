"""Many requests at once, read by hiredis under guard.

`hiredis.Reader` is the fastest parser there is for Python, and it is a client's: made for replies
of a trusted server. It allocates for every element that an array announces, nests, knows fourteen
types, and takes the two bytes behind a bulk string for granted. So it is shown only bytes in which
nothing of that can do harm, and believed only when what it returns can have come from requests.

Before: the bytes are few, end with a line break, and

* hold no byte of ``% ~ > | + ( =``: no type exists that allocates ahead, or that returns bytes
  without being a bulk string. They may not even stand inside of arguments, since where an argument
  ends is not known yet.
* hold no ``*`` followed by four digits: an array of at most 999 elements costs 8 KB, and hiredis
  nests no deeper than 1,024.

After: let N be the number of items returned. All of them are true, and joining each one's elements
as bytes raises nothing: so each is an array, not empty, and all its elements are bulk strings (a
null, an integer, a nested array, a line of text are none). Nothing is left in the buffer, and N is
the number of ``*`` in all the bytes, less those inside of arguments: so no array is still open,
whose start hiredis may have consumed without a trace; and nothing else is, because a last line
break completes it or leaves it in the buffer. Then both readers have read the same lengths at the
same places, and the result is that of `protocol.multibulk`. Otherwise the bytes are to be read again
by another reader; hiredis forgets them.
"""

from __future__ import annotations

import re
from typing import Final

import hiredis

from protocol.multibulk import Request

# What hiredis is given at once. It moves what is left to the front of its buffer after each
# kilobyte, so the time for n bytes grows with n * n; below this size the guard's own cost shows.
# Between 8 and 32 KiB no difference was measured, and less is safer.
PIPELINE_BYTES_MAX: Final = 8192

# Types that hiredis knows and that no request has. As numbers, because a byte is found faster by
# its number than as a byte string of length one.
_MAP, _SET, _PUSH, _ATTRIBUTE = b"%~>|"
_STATUS, _BIG_NUMBER, _VERBATIM = b"+(="

_find_large_array: Final = re.compile(rb"\*[0-9]{4}").search
_join: Final = b"".join

# hiredis returns it when it needs more bytes. An empty list, because a list is compared with a
# list of another length faster than with any other object.
_NO_MORE: Final[list[bytes]] = []


class PipelineReader:
    """A hiredis reader that is empty between two calls, so that any number of clients share one.

    Not for several threads at once.
    """

    __slots__ = ("_feed", "_gets", "_has_data")

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._feed = reader.feed
        self._gets = reader.gets
        self._has_data = reader.has_data

    def read(self, data: bytes) -> list[Request] | None:
        """Return the requests that `data`, which ends with a line break, is made of.

        None if it is not made of requests alone, or cannot be told to be by the rules above. At
        most `PIPELINE_BYTES_MAX` bytes.
        """
        if (
            _MAP in data
            or _SET in data
            or _PUSH in data
            or _ATTRIBUTE in data
            or _STATUS in data
            or _BIG_NUMBER in data
            or _VERBATIM in data
            or _find_large_array(data) is not None
        ):
            return None
        star_count = len(data) - len(data.replace(b"*", b""))  # faster than data.count(b"*")
        requests = None
        try:
            requests = self._read_guarded(data, star_count)
        finally:  # whatever happened, also an interrupt: nothing of this client may reach the next
            if requests is None:
                self._renew()
        return requests

    def _read_guarded(self, data: bytes, star_count: int) -> list[Request] | None:
        self._feed(data)
        try:
            requests: list[Request] = list(iter(self._gets, _NO_MORE))
            joined = list(map(_join, requests))
        except (hiredis.ProtocolError, TypeError):
            return None
        if len(requests) != star_count:
            star_count -= _join(joined).count(b"*")
        if len(requests) != star_count or not all(requests) or self._has_data():
            return None
        return requests
