"""Keyspace events on their way from the commands to the subscribers.

Handlers report what they did (`Keyspace.notify`) while the tick runs; subscribers hear of it after the
tick's commit, so that nobody is told of what did not get to disk. The setting `notify-keyspace-events`
chooses what is reported at all (`kvd.notify`).

Expired keys are reported by the sweep. They invalidate client-side caches as well, whether or not the
setting asks for events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvd.notify import EXPIRED, messages, parse_kinds

if TYPE_CHECKING:
    from kvd.server import Server
    from storage.store import Keyspace


class Notifications:
    """What the tick has to tell once it is committed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._kinds = 0
        self.pending = False  # whether `deliver` has anything to do
        self._messages: list[tuple[bytes, bytes]] = []
        self._expired: list[bytes] = []
        server.store.on_event = self.report
        server.store.on_expired = self._on_expired
        self.configure()

    def configure(self) -> None:
        """Take the choice of events from the settings that are in force now."""
        self._kinds = parse_kinds(self._server.settings.events.notify_keyspace_events)
        self._server.store.notifying = self._kinds != 0

    def report(self, keyspace: Keyspace, event: bytes, key: bytes, kind: int) -> None:
        """Take an event of the running tick."""
        pubsub = self._server.pubsub
        if pubsub.channels or pubsub.patterns:
            self._messages.extend(messages(self._kinds, kind, event, key, _database(keyspace)))
            self.pending = True

    def _on_expired(self, keyspace: Keyspace, key: bytes) -> None:
        self._server.stats.expired_keys += 1
        web = self._server.web
        if web is not None and web.feeds.active:
            web.feeds.expired(keyspace, key)
        if self._kinds & EXPIRED:
            self.report(keyspace, b"expired", key, EXPIRED)
        if self._server.tracking.active:
            self._expired.append(key)
            self.pending = True

    def deliver(self) -> None:
        """Publish what was reported. After the commit only."""
        self.pending = False
        reported, self._messages = self._messages, []
        for channel, message in reported:
            self._server.pubsub.publish(channel, message)
        expired, self._expired = self._expired, []
        if expired:
            self._server.tracking.expired(expired)

    def discard(self) -> None:
        """Forget what was reported of a tick whose commit failed."""
        self.pending = False
        self._messages.clear()
        self._expired.clear()


def _database(keyspace: Keyspace) -> bytes:
    """Return how channels name a keyspace: its number, or its id in 32 hex digits."""
    if keyspace.index is not None:
        return b"%d" % keyspace.index
    return keyspace.id.hex().encode()
