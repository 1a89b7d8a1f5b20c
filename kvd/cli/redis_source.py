"""The strings of a running Redis, walked by SCAN. Keys that others write meanwhile may be missed, as SCAN does.

Each batch costs two round trips: SCAN, then TYPE, PTTL and GET of its keys. Other types than strings are
counted, and the first of them kept by name.

A cursor of SCAN is all that a walk needs to go on, with another connection and hours later: Redis keeps nothing for it, and
promises what it does of a walk at one go. Source: Redis documentation, SCAN, "Scan guarantees".
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import attrs

from kvd.cli.client import Client
from protocol.replies import ErrorReply

_COUNT: Final = 200
NAMES_MAX: Final = 20


@attrs.frozen
class RedisString:
    """A key with its value, and when it expires in UNIX time, in milliseconds."""

    key: bytes
    value: bytes
    expires_at_ms: int | None


class RedisSource:
    """The strings of one database from a cursor on. What was left out is in `others` (by type) and `names`."""

    def __init__(self, client: Client, database: int, cursor: int = 0) -> None:
        self._client = client
        self._cursor = cursor
        self._count = 0  # of strings that were given
        self._batches: deque[tuple[int, int]] = deque()  # how many were given before a cursor was used
        if database:
            client.ask("SELECT", str(database))
        self.total = int(client.ask("DBSIZE"))
        self.others: dict[str, int] = {}
        self.names: list[str] = []

    def forget(self, done: int) -> None:
        """Note that the first `done` strings are written, and need not be given again."""
        while len(self._batches) > 1 and self._batches[1][0] <= done:
            self._batches.popleft()

    @property
    def safe_cursor(self) -> int:
        """The cursor from which on all comes that is not written yet; 0 is the beginning."""
        return self._batches[0][1] if self._batches else self._cursor

    def __iter__(self) -> Iterator[RedisString]:
        seen = set[bytes]()
        while True:
            self._note_batch()
            found, keys = self._client.ask("SCAN", str(self._cursor), "COUNT", str(_COUNT))
            self._cursor = int(found)
            # SCAN may return a key again; within a batch that is easily known, and later it does no harm.
            fresh = [key for key in dict.fromkeys(keys) if key not in seen]
            yield from self._read(fresh)
            seen = set(keys)
            if not self._cursor:
                return

    def _note_batch(self) -> None:
        if self._batches and self._batches[-1][0] == self._count:
            self._batches.pop()  # it gave nothing
        self._batches.append((self._count, self._cursor))

    def _read(self, keys: list[bytes]) -> Iterator[RedisString]:
        requests = [(command, key) for key in keys for command in (b"TYPE", b"PTTL", b"GET")]
        replies = iter(self._client.ask_many(requests))
        now_ms = time.time_ns() // 1_000_000
        for key in keys:
            kind, ttl_ms, value = next(replies), next(replies), next(replies)
            if isinstance(value, bytes):
                self._count += 1
                yield RedisString(key, value, now_ms + ttl_ms if ttl_ms >= 0 else None)
            elif value is not None:
                self._leave_out(key, kind)

    def _leave_out(self, key: bytes, kind: Any) -> None:
        word = "unreadable" if isinstance(kind, ErrorReply) else _text(kind)
        self.others[word] = self.others.get(word, 0) + 1
        if len(self.names) < NAMES_MAX:
            self.names.append(key.decode("utf-8", "backslashreplace"))


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
