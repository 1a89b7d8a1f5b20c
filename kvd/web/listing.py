"""Pages of keys, in the order of their bytes.

A cursor is opaque text that holds the last key of the page before: keys added or deleted meanwhile do no
harm, the same cursor gives the same page, and it costs the daemon nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from kvd.commands.kv import decode_cursor, encode_cursor
from kvd.web.errors import Refused
from protocol.replies import ErrorReply
from storage.record import METADATA, Record

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from storage.store import Keyspace

# So many rows are looked at for one page, however few of them are live or wanted: about ten milliseconds.
ROWS_MAX: Final = 4096
# So many at a time where most are not for the page.
_MORE_ROWS: Final = ROWS_MAX // 4

Row = tuple[bytes, Record]
Filter = Callable[[bytes, Record], bool]


@attrs.frozen
class Page:
    """Keys with their records, and the cursor for what follows; empty at the end."""

    rows: list[Row]
    cursor: str


def read_page(
    exchange: Exchange, keyspace: Keyspace | None, prefix: bytes, limit: int, wanted: Filter | None = None
) -> Page:
    """Return up to `limit` live keys that who asks may read, behind the cursor that the request gives.

    Fewer, and a cursor all the same, if `ROWS_MAX` rows were looked at.
    """
    after = parse_cursor(exchange.parameter("cursor") or "")
    wanted = _wanted_and_readable(wanted, exchange.access.key_filter())
    rows: list[Row] = []
    if keyspace is None:
        return Page(rows, "")
    examined = 0
    count = limit + 1 if wanted is None else _MORE_ROWS
    while True:
        found, after = keyspace.scan(prefix, after, count)
        examined += count
        count = _MORE_ROWS
        rows += found if wanted is None else [row for row in found if wanted(*row)]
        if len(rows) > limit:
            del rows[limit:]
            return Page(rows, encode_cursor(rows[-1][0]).decode())
        if after is None:
            return Page(rows, "")
        if examined >= ROWS_MAX:
            return Page(rows, encode_cursor(after).decode())


def _wanted_and_readable(wanted: Filter | None, readable: Callable[[bytes], bool] | None) -> Filter | None:
    if readable is None:
        return wanted
    if wanted is None:
        return lambda key, _: readable(key)
    return lambda key, record: readable(key) and wanted(key, record)


def parse_cursor(cursor: str) -> bytes | None:
    """Return the key that a page starts behind, None for the first page. Raise `Refused`."""
    try:
        return decode_cursor(cursor.encode("utf-8", "replace"))
    except ErrorReply:
        raise Refused(400, "Invalid cursor") from None


def shown_name(key: bytes) -> str:
    """Return a key as text. Keys of Redis clients need not be UTF-8; what is not is shown as U+FFFD."""
    return key.decode("utf-8", "replace")


def metadata_of(record: Record) -> bytes | None:
    return record[METADATA]
