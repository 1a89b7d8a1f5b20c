"""Pages of keys, in the order of their bytes.

A cursor is opaque text that holds the last key of the page before: keys added or deleted meanwhile do no
harm, the same cursor gives the same page, and it costs the daemon nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from kvd.commands import walks
from kvd.commands.kv import decode_cursor, encode_cursor
from kvd.web.errors import Refused
from kvd.web.jobs import Job, Steps
from protocol.replies import ErrorReply
from storage.record import METADATA, Record

if TYPE_CHECKING:
    from kvd.web.exchange import Exchange
    from protocol.http_responses import Response
    from storage.store import Keyspace

# So many rows are looked at for one page, however few of them are live or wanted: some ten milliseconds.
ROWS_MAX: Final = 4096
# So many at a time: each may hold a value of any size, and with fewer the look-ups cost more than the rows.
ROWS: Final = 32

Row = tuple[bytes, Record]
Filter = Callable[[bytes, Record], bool]


@attrs.frozen
class Page:
    """Keys, as they are shown, and the cursor for what follows; empty at the end."""

    rows: list[bytes]
    cursor: str


@attrs.frozen
class Form:
    """How an interface shows a key with its record, and a page of them."""

    row: Callable[[bytes, Record], bytes]
    page: Callable[[Page], Response]


def list_keys(
    exchange: Exchange,
    keyspace: Keyspace | None,
    prefix: bytes,
    limit: int,
    form: Form,
    wanted: Filter | None = None,
) -> Job:
    """Answer with up to `limit` live keys that who asks may read, behind the cursor that the request gives.

    Fewer, and a cursor all the same, if `ROWS_MAX` rows were looked at. A page that takes long is made in slices,
    as KV.LIST is (`kvd.commands.walks`).
    """
    after = parse_cursor(exchange.parameter("cursor") or "")
    wanted = _wanted_and_readable(wanted, exchange.access.key_filter())
    return Job("list", _steps(keyspace, prefix, after, limit, form, wanted))


def _steps(
    keyspace: Keyspace | None,
    prefix: bytes,
    after: bytes | None,
    limit: int,
    form: Form,
    wanted: Filter | None,
) -> Steps:
    rows: list[bytes] = []
    if keyspace is None:
        return form.page(Page(rows, ""))
    last = b""
    left = ROWS_MAX
    count = min(limit + 1, ROWS)
    deadline = walks.slice_end()
    while True:
        found, after = keyspace.scan(prefix, after, count)
        for key, record in found:
            if wanted is not None and not wanted(key, record):
                continue
            if len(rows) == limit:
                return form.page(Page(rows, encode_cursor(last).decode()))
            rows.append(form.row(key, record))
            last = key
        left -= count
        if after is None or not left:
            return form.page(Page(rows, encode_cursor(after).decode()))
        count = min(left, ROWS)
        if walks.is_past(deadline):
            yield b""
            keyspace.check_open()  # it may have closed meanwhile: what is still here is not all
            deadline = walks.slice_end()


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
