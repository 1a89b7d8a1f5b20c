"""SCAN cursors: numbers for clients, positions in the key order for us.

A client carries a SCAN on with an unsigned integer, while our position is a key of any length. The
table keeps, for each scan under way, where its last two pages ended:

    cursor = tag (32 random bits, never 0) << 20 | page (1, 2, 3 ...)

* A scan keeps its tag from page to page, so it takes one entry however long it is.
* The page before the last stays known: a client that lost an answer may ask for it again.
* The tag is random, so a number that a client made up or kept from an earlier process, and one whose
  entry is gone, is recognised as unknown instead of continuing somewhere else.
* The table holds `SCANS_MAX` scans. The one that was used longest ago makes room for a new one.
* Cursors stay below 2**52: some clients read them into floating-point numbers.

Where the idea comes from: Apache Kvrocks, which also maps numbers to positions in a bounded table.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Final

# A client library rarely has more than one scan under way per connection, and connections are limited
# to ten thousand by default. An entry weighs about 300 bytes and twice a key.
SCANS_MAX: Final = 16_384

_PAGE_BITS: Final = 20
_PAGES_MAX: Final = (1 << _PAGE_BITS) - 1
_TAG_BITS: Final = 32


class UnknownCursor(Exception):
    """The cursor was never given out, belongs to another keyspace, or has made room for newer ones."""


class _Scan:
    """One scan under way: `position` is where page `page` ended, `previous` where the one before did."""

    __slots__ = ("keyspace_id", "page", "position", "previous")

    def __init__(self, keyspace_id: bytes, position: bytes) -> None:
        self.keyspace_id = keyspace_id
        self.page = 1
        self.position = position
        self.previous: bytes | None = None


class CursorTable:
    """Positions of the scans under way, by cursor. Every operation is O(1)."""

    def __init__(self, scans_max: int = SCANS_MAX) -> None:
        self._scans: OrderedDict[int, _Scan] = OrderedDict()
        self._scans_max = scans_max

    def __len__(self) -> int:
        return len(self._scans)

    def position(self, cursor: int, keyspace_id: bytes) -> bytes:
        """Return where the page that ended with `cursor` ended. Raise `UnknownCursor`."""
        tag, page = cursor >> _PAGE_BITS, cursor & _PAGES_MAX
        scan = self._scans.get(tag)
        if scan is None or scan.keyspace_id != keyspace_id:
            raise UnknownCursor
        self._scans.move_to_end(tag)
        if page == scan.page:
            return scan.position
        if page == scan.page - 1 and scan.previous is not None:
            return scan.previous
        raise UnknownCursor

    def advance(self, cursor: int, keyspace_id: bytes, position: bytes) -> int:
        """Return the cursor for `position`, where the page that began at `cursor` ended.

        `cursor` is 0 for the first page of a scan, else one that `position` has just accepted.
        """
        tag, page = cursor >> _PAGE_BITS, cursor & _PAGES_MAX
        scan = self._scans.get(tag)
        if scan is None or page == _PAGES_MAX:
            return self._begin(keyspace_id, position) << _PAGE_BITS | 1
        if page == scan.page:
            scan.previous = scan.position
            scan.position = position
            scan.page += 1
        else:
            # A page asked for again: both answers lead to the earlier end, so that neither skips a key.
            scan.position = min(scan.position, position)
        return tag << _PAGE_BITS | scan.page

    def finish(self, cursor: int) -> None:
        """Let an ended scan be the first to make room; until then its last page may be asked for again."""
        tag = cursor >> _PAGE_BITS
        if tag in self._scans:
            self._scans.move_to_end(tag, last=False)

    def _begin(self, keyspace_id: bytes, position: bytes) -> int:
        tag = 0
        while tag == 0 or tag in self._scans:
            tag = secrets.randbits(_TAG_BITS)
        self._scans[tag] = _Scan(keyspace_id, position)
        if len(self._scans) > self._scans_max:
            self._scans.popitem(last=False)
        return tag
