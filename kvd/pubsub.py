"""Channels and their subscribers.

Three kinds of subscriptions: to a channel, to a pattern of channels, and to a shard channel (which is an
ordinary channel with a name space of its own here: kvd has no shards). A message is encoded once for each
protocol version, however many receive it, and goes out with its receivers' other output of the tick.

A message is not data: it reaches who is connected now, and nobody else, as in Redis. It therefore does not
wait for a commit; what must not be told before its commit are keyspace events (`kvd.notifications`).

Costs: SUBSCRIBE and UNSUBSCRIBE O(1) a name. PUBLISH O(receivers + different lengths of the patterns'
literal prefixes + patterns that share such a prefix with the channel).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from kvd.glob import Glob
from kvd.prefix_index import PrefixIndex
from protocol.encode import encoder
from protocol.replies import Push

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.session import Session

# In the order of subscription, which is the order of delivery.
Subscribers: TypeAlias = "dict[Session, None]"

_ENCODERS: Final = {2: encoder(2), 3: encoder(3)}


@attrs.define
class _Pattern:
    glob: Glob
    subscribers: Subscribers = attrs.field(factory=dict)


class PubSub:
    """Who listens to what. The names a session listens to are kept in the session as well."""

    def __init__(self, server: Server) -> None:
        self.channels: dict[bytes, Subscribers] = {}
        self.shard_channels: dict[bytes, Subscribers] = {}
        self.patterns: dict[bytes, _Pattern] = {}
        self._patterns_by_prefix: PrefixIndex[dict[bytes, _Pattern]] = PrefixIndex()
        self._server = server

    # --- subscribing

    def subscribe(self, session: Session, channel: bytes) -> None:
        """Let `session` hear `channel`; once is as good as twice."""
        _join(session, session.channels, self.channels, channel)

    def unsubscribe(self, session: Session, channel: bytes) -> None:
        _leave(session, session.channels, self.channels, channel)

    def subscribe_shard(self, session: Session, channel: bytes) -> None:
        _join(session, session.shard_channels, self.shard_channels, channel)

    def unsubscribe_shard(self, session: Session, channel: bytes) -> None:
        _leave(session, session.shard_channels, self.shard_channels, channel)

    def subscribe_pattern(self, session: Session, pattern: bytes) -> None:
        """Let `session` hear every channel that matches. Raise ValueError for a pattern that is too long."""
        if pattern in session.patterns:
            return
        known = self.patterns.get(pattern) or self._add_pattern(pattern)
        known.subscribers[session] = None
        session.patterns.add(pattern)
        session.subscribed_bytes += subscription_bytes(pattern)

    def _add_pattern(self, pattern: bytes) -> _Pattern:
        added = _Pattern(Glob(pattern))
        self.patterns[pattern] = added
        same_prefix = self._patterns_by_prefix.get(added.glob.prefix)
        if same_prefix is None:
            self._patterns_by_prefix.put(added.glob.prefix, {pattern: added})
        else:
            same_prefix[pattern] = added
        return added

    def unsubscribe_pattern(self, session: Session, pattern: bytes) -> None:
        if pattern not in session.patterns:
            return
        session.patterns.discard(pattern)
        session.subscribed_bytes -= subscription_bytes(pattern)
        known = self.patterns[pattern]
        del known.subscribers[session]
        if not known.subscribers:
            self._remove_pattern(known)

    def _remove_pattern(self, known: _Pattern) -> None:
        del self.patterns[known.glob.pattern]
        prefix = known.glob.prefix
        same_prefix = self._patterns_by_prefix.get(prefix)
        assert same_prefix is not None
        del same_prefix[known.glob.pattern]
        if not same_prefix:
            self._patterns_by_prefix.delete(prefix)

    def forget(self, session: Session) -> None:
        """End all subscriptions of a session that is gone or reset. Nothing is sent."""
        for channel in list(session.channels):
            self.unsubscribe(session, channel)
        for channel in list(session.shard_channels):
            self.unsubscribe_shard(session, channel)
        for pattern in list(session.patterns):
            self.unsubscribe_pattern(session, pattern)

    # --- publishing

    def publish(self, channel: bytes, message: bytes, sender: Session | None = None) -> int:
        """Send `message` to all that hear `channel` and return how many times it was sent.

        A session with two subscriptions that match gets it twice. The sender hears its own message
        after the reply to its command. Source: Redis 7.2 PUBLISH.
        """
        count = 0
        subscribers = self.channels.get(channel)
        if subscribers:
            count += _send(subscribers, Push((b"message", channel, message)), sender)
        for known in self._matching(channel):
            push = Push((b"pmessage", known.glob.pattern, channel, message))
            count += _send(known.subscribers, push, sender)
        return count

    def publish_shard(self, channel: bytes, message: bytes, sender: Session | None = None) -> int:
        """Send `message` to all that hear the shard channel and return how many they are."""
        subscribers = self.shard_channels.get(channel)
        return _send(subscribers, Push((b"smessage", channel, message)), sender) if subscribers else 0

    def _matching(self, channel: bytes) -> Iterator[_Pattern]:
        for _, same_prefix in self._patterns_by_prefix.matching(channel):
            for known in same_prefix.values():
                if known.glob.matches(channel):
                    yield known


def subscription_bytes(name: bytes) -> int:
    """Return what one subscription is reckoned to take: its name twice at worst, and table entries."""
    return 2 * len(name) + 256


def _join(session: Session, names: set[bytes], channels: dict[bytes, Subscribers], channel: bytes) -> None:
    if channel in names:
        return
    names.add(channel)
    session.subscribed_bytes += subscription_bytes(channel)
    channels.setdefault(channel, {})[session] = None


def _leave(session: Session, names: set[bytes], channels: dict[bytes, Subscribers], channel: bytes) -> None:
    if channel not in names:
        return
    names.discard(channel)
    session.subscribed_bytes -= subscription_bytes(channel)
    subscribers = channels[channel]
    del subscribers[session]
    if not subscribers:
        del channels[channel]


def _send(subscribers: Subscribers, push: Push, sender: Session | None) -> int:
    encoded: dict[int, bytes] = {}
    for session in subscribers:
        data = encoded.get(session.proto)
        if data is None:
            data = encoded[session.proto] = _ENCODERS[session.proto](push)
        if session is sender:
            session.push_after_reply(data)
        else:
            session.hear(data)
    return len(subscribers)
