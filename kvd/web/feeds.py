"""Change streams: server-sent events for what changes in a namespace, or under a prefix of it.

    id: <etag>
    event: put | delete | expire | flush
    data: {"key":"…","etag":"…","expiration":…}

An event tells that a key has changed, not to what: who wants the value reads it, and several changes in one
tick are one event. It comes after the commit, and for writes of other nodes as well as for those of this one. A
client that does not read is closed when its connection's limit for subscribers is reached; it then reads
anew what it needs: a stream has no memory of what was before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kvd import json_text
from kvd.web.listing import shown_name
from kvd.web.records import etag, expiry_of
from protocol.http_responses import chunk, stream_head

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
        self.keyspace = keyspace

    def begin(self) -> bytes:
        """Register, and return the head of the answer."""
        self._feeds.add(self)
        head = stream_head(self._exchange.front.date, _HEADERS, keep_alive=self._exchange.request.keep_alive)
        return head + chunk(_COMMENT)

    def tells_of(self, key: bytes) -> bool:
        """Tell whether a change of a key concerns the client, which may read it."""
        if not key.startswith(self._prefix):
            return False
        readable = self._exchange.access.key_filter()  # anew: it is a long time, and rules change
        return readable is None or readable(key)

    def send(self, event: bytes) -> None:
        self._exchange.session.push(event)

    def close(self) -> None:
        """End a stream whose namespace is gone."""
        self._exchange.session.abort("namespace deleted")

    def end(self) -> None:
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
                feed.close()
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
        for feed in list(self._feeds):
            feed.send(chunk(_COMMENT))


def _tell(feeds: list[Feed], key: bytes | None, event: bytes) -> None:
    for feed in feeds:
        if key is None or feed.tells_of(key):
            feed.send(event)


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
