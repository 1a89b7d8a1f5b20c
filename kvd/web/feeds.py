"""Change streams: server-sent events for what changes in a namespace, or under a prefix of it.

    id: <etag>
    event: put | delete | expire | flush
    data: {"key":"…","etag":"…","expiration":…}

An event tells that a key has changed, not to what: who wants the value reads it, and several changes in one
tick are one event. It comes after the commit, and for writes of other nodes as well as for those of this one. A
client that does not read is closed when its connection's limit for subscribers is reached; it then reads
anew what it needs: a stream has no memory of what was before it.

A stream lasts, so each event and each sign of life asks again whether its client may listen: its token may
have been revoked or have expired, its user have changed, or what was open to everybody be protected now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kvd import json_text
from kvd.web.access import READ
from kvd.web.listing import shown_name
from kvd.web.records import etag, expiry_of
from protocol.http_responses import chunk, stream_head
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.web.exchange import Exchange
    from storage.changes import Kind
    from storage.store import Keyspace

_HEADERS: Final = b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
# Sent now and then, so that what stands between notices that the stream lives.
_COMMENT: Final = b":\n\n"
PING_SECONDS: Final = 15.0


class Feed:
    """One client's stream."""

    def __init__(self, exchange: Exchange, keyspace: Keyspace, prefix: bytes) -> None:
        self._exchange = exchange
        self._feeds = exchange.front.feeds
        self._prefix = prefix
        self._is_over = False
        self.keyspace = keyspace

    def begin(self) -> bytes:
        """Register, and return the head of the answer."""
        self._feeds.add(self)
        head = stream_head(self._exchange.front.date, _HEADERS, keep_alive=self._exchange.request.keep_alive)
        return head + chunk(_COMMENT)

    def tell(self, key: bytes | None, event: bytes) -> None:
        """Send the event of a key (None: of all keys) if it concerns the client, which may read it."""
        if (key is None or key.startswith(self._prefix)) and self._goes_on() and self._shows(key):
            self._exchange.session.push(event)

    def ping(self) -> None:
        """Give a sign of life."""
        if self._goes_on():
            self._exchange.session.push(chunk(_COMMENT))

    def _shows(self, key: bytes | None) -> bool:
        readable = self._exchange.access.key_filter()  # anew: it is a long time, and rules change
        return key is None or readable is None or readable(key)

    def _goes_on(self) -> bool:
        """Tell whether the client may still listen. If not, that was the end."""
        if not self._is_over and not self._may_listen():
            self.close("may not listen any more")
        return not self._is_over

    def _may_listen(self) -> bool:
        exchange = self._exchange
        try:
            if not exchange.front.gatekeeper.still_admits(exchange):
                return False
        except StorageError:  # who it is cannot be found out
            return False
        return exchange.access.permits(READ, self.keyspace)

    def close(self, reason: str) -> None:
        self._exchange.session.abort(reason)

    def end(self) -> None:
        self._is_over = True
        self._feeds.remove(self)


class Feeds:
    """All streams of the daemon. `active` tells whether anybody listens, so that nothing is done for nobody."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._feeds: set[Feed] = set()
        self.active = False

    def __len__(self) -> int:
        return len(self._feeds)

    def add(self, feed: Feed) -> None:
        self._feeds.add(feed)
        self.active = True

    def remove(self, feed: Feed) -> None:
        self._feeds.discard(feed)
        self.active = bool(self._feeds)

    def committed(
        self,
        changes: Sequence[tuple[int, Keyspace, bytes | None]],
        applied: Sequence[tuple[Keyspace, bytes | None, Kind]],
    ) -> None:
        """Tell of changes that were committed: clients' (`Store.changes`) and other nodes' (`Store.applied`).

        A key of None stands for all keys of the keyspace.
        """
        listening: dict[Keyspace, list[Feed]] = {}
        for feed in list(self._feeds):
            if feed.keyspace.gone:
                feed.close("namespace deleted")
            else:
                listening.setdefault(feed.keyspace, []).append(feed)
        told: set[tuple[Keyspace, bytes | None]] = set()
        written = [*((keyspace, key) for _, keyspace, key in changes), *(one[:2] for one in applied)]
        for change in written:
            keyspace, key = change
            if keyspace in listening and change not in told:
                told.add(change)
                _tell(listening[keyspace], key, _event(keyspace, key))

    def expired(self, keyspace: Keyspace, key: bytes) -> None:
        """Tell that the sweep has removed a key."""
        event = _encode(b"expire", {"key": shown_name(key)})
        _tell([feed for feed in self._feeds if feed.keyspace is keyspace], key, event)

    def ping(self) -> None:
        """Give a sign of life, in a tick."""
        for feed in list(self._feeds):
            feed.ping()


def _tell(feeds: list[Feed], key: bytes | None, event: bytes) -> None:
    for feed in feeds:
        feed.tell(key, event)


def _event(keyspace: Keyspace, key: bytes | None) -> bytes:
    if key is None:
        return _encode(b"flush", {})
    record = keyspace.get(key)
    name = shown_name(key)
    if record is None:
        return _encode(b"delete", {"key": name})
    tag = etag(keyspace, record).decode()
    fields: dict[str, str | int] = {"key": name, "etag": tag}
    expiration = expiry_of(record)
    if expiration is not None:
        fields["expiration"] = expiration
    return _encode(b"put", fields, tag.strip('"').encode())


def _encode(event: bytes, fields: dict[str, str | int], tag: bytes = b"") -> bytes:
    identity = b"id: %b\n" % tag if tag else b""
    return chunk(b"%bevent: %b\ndata: %b\n\n" % (identity, event, json_text.dump(fields)))
