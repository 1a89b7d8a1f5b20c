"""Subscribing, publishing, and looking at who subscribes.

Each name of a SUBSCRIBE or UNSUBSCRIBE is confirmed by a message of its own; the command itself has no
reply beyond those. Inside a transaction the last confirmation takes the place of the reply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from kvd.commands.arguments import parse_glob
from kvd.commands.help import help_command, subcommand_error
from kvd.commands.spec import Arg, Flag, KeyRange, Request, container, session_command
from kvd.pubsub import Subscribers, subscription_bytes
from kvd.session import Session
from protocol.replies import NO_REPLY, ErrorReply, Push, Reply

_SUBSCRIBER: Final = Flag.PUBSUB | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE | Flag.SENTINEL
_SHARD_SUBSCRIBER: Final = Flag.PUBSUB | Flag.NOSCRIPT | Flag.LOADING | Flag.STALE
_PUBLISHER: Final = Flag.PUBSUB | Flag.LOADING | Flag.STALE | Flag.FAST | Flag.MAY_REPLICATE
_OBSERVER: Final = Flag.PUBSUB | Flag.LOADING | Flag.STALE
_SHARD_CHANNELS: Final = (KeyRange(1, -1, access=("not_key",)),)

# What one session may subscribe to, by `kvd.pubsub.subscription_bytes`: half a million short names.
SUBSCRIBED_BYTES_MAX: Final = 256 << 20

# What one receiver costs beside the message itself, in time as if it were bytes: some 5,000 a tick.
_MESSAGE_OVERHEAD_BYTES: Final = 200

_Change: TypeAlias = "Callable[[Session, bytes], None]"
_Count: TypeAlias = "Callable[[Session], int]"


# --- subscribing


def _count(session: Session) -> int:
    return len(session.channels) + len(session.patterns)


def _shard_count(session: Session) -> int:
    return len(session.shard_channels)


def _join(session: Session, request: Request, kind: bytes, change: _Change, count: _Count) -> Reply:
    wanted = session.subscribed_bytes + sum(map(subscription_bytes, request[1:]))
    if wanted > SUBSCRIBED_BYTES_MAX:
        raise ErrorReply("ERR too many subscriptions for one connection")
    return _change(session, request[1:], kind, change, count)


def _leave(
    session: Session, request: Request, kind: bytes, all_names: set[bytes], change: _Change, count: _Count
) -> Reply:
    names = request[1:] or sorted(all_names)
    if not names:
        return _confirm(session, [Push((kind, None, count(session)))])
    return _change(session, names, kind, change, count)


def _change(session: Session, names: list[bytes], kind: bytes, change: _Change, count: _Count) -> Reply:
    confirmations = []
    for name in names:
        change(session, name)
        confirmations.append(Push((kind, name, count(session))))
    session.refresh()
    return _confirm(session, confirmations)


def _confirm(session: Session, confirmations: list[Push]) -> Reply:
    """Send the confirmations, which CLIENT REPLY OFF does not silence."""
    transaction = session.transaction
    last = confirmations.pop() if transaction is not None and transaction.executing else NO_REPLY
    for confirmation in confirmations:
        session.push_after_reply(session.encode(confirmation))
    return last


def _literal_channels(request: Request) -> list[tuple[bytes, bool]]:
    return [(channel, False) for channel in request[1:]]


def _pattern_channels(request: Request) -> list[tuple[bytes, bool]]:
    return [(pattern, True) for pattern in request[1:]]


def _published_channel(request: Request) -> list[tuple[bytes, bool]]:
    return [(request[1], False)]


@session_command(
    "SUBSCRIBE",
    arity=-2,
    flags=_SUBSCRIBER,
    channels=_literal_channels,
    group="pubsub",
    since="2.0.0",
    complexity="O(N) where N is the number of channels to subscribe to.",
    summary="Receive the messages on these channels.",
    arguments=(Arg("channel", multiple=True),),
)
def subscribe(session: Session, request: Request) -> Reply:
    return _join(session, request, b"subscribe", session.server.pubsub.subscribe, _count)


@session_command(
    "UNSUBSCRIBE",
    arity=-1,
    flags=_SUBSCRIBER,
    group="pubsub",
    since="2.0.0",
    complexity="O(N) where N is the number of clients already subscribed to a channel.",
    summary="Receive no more messages on these channels, or on any channel.",
    arguments=(Arg("channel", optional=True, multiple=True),),
)
def unsubscribe(session: Session, request: Request) -> Reply:
    change = session.server.pubsub.unsubscribe
    return _leave(session, request, b"unsubscribe", session.channels, change, _count)


@session_command(
    "PSUBSCRIBE",
    arity=-2,
    flags=_SUBSCRIBER,
    channels=_pattern_channels,
    group="pubsub",
    since="2.0.0",
    complexity="O(N) where N is the number of patterns the client is already subscribed to.",
    summary="Receive the messages on channels whose names match these patterns.",
    arguments=(Arg("pattern", "block", multiple=True, arguments=(Arg("pattern", "pattern"),)),),
)
def psubscribe(session: Session, request: Request) -> Reply:
    for pattern in request[1:]:
        parse_glob(pattern)  # so that all are known to be possible before the first is subscribed to
    return _join(session, request, b"psubscribe", session.server.pubsub.subscribe_pattern, _count)


@session_command(
    "PUNSUBSCRIBE",
    arity=-1,
    flags=_SUBSCRIBER,
    group="pubsub",
    since="2.0.0",
    complexity="O(N+M) where N is the number of patterns the client is already subscribed and M is the "
    "number of total patterns subscribed in the system (by any client).",
    summary="Receive no more messages by these patterns, or by any pattern.",
    arguments=(Arg("pattern", "pattern", optional=True, multiple=True),),
)
def punsubscribe(session: Session, request: Request) -> Reply:
    change = session.server.pubsub.unsubscribe_pattern
    return _leave(session, request, b"punsubscribe", session.patterns, change, _count)


@session_command(
    "SSUBSCRIBE",
    arity=-2,
    flags=_SHARD_SUBSCRIBER,
    keys=_SHARD_CHANNELS,
    channels=_literal_channels,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of shard channels to subscribe to.",
    summary="Receive the messages on these shard channels.",
    arguments=(Arg("shardchannel", multiple=True),),
)
def ssubscribe(session: Session, request: Request) -> Reply:
    if not session.may_suspend:
        raise ErrorReply("ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client")
    change = session.server.pubsub.subscribe_shard
    return _join(session, request, b"ssubscribe", change, _shard_count)


@session_command(
    "SUNSUBSCRIBE",
    arity=-1,
    flags=_SHARD_SUBSCRIBER,
    keys=_SHARD_CHANNELS,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of clients already subscribed to a shard channel.",
    summary="Receive no more messages on these shard channels, or on any shard channel.",
    arguments=(Arg("shardchannel", optional=True, multiple=True),),
)
def sunsubscribe(session: Session, request: Request) -> Reply:
    change = session.server.pubsub.unsubscribe_shard
    return _leave(session, request, b"sunsubscribe", session.shard_channels, change, _shard_count)


# --- publishing


def _charge(session: Session, receivers: int, message: bytes) -> None:
    """Let a pipeline of messages to thousands of receivers take several ticks."""
    session.charge(receivers * (len(message) + _MESSAGE_OVERHEAD_BYTES))


def _spread(session: Session, request: Request, *, sharded: bool) -> None:
    """Let subscribers of other nodes hear the message, too."""
    peers = session.server.peers
    if peers is not None:
        peers.spread(request[1], request[2], sharded=sharded)


@session_command(
    "PUBLISH",
    arity=3,
    flags=_PUBLISHER | Flag.SENTINEL,
    channels=_published_channel,
    group="pubsub",
    since="2.0.0",
    complexity="O(N+M) where N is the number of clients subscribed to the receiving channel and M is the "
    "total number of subscribed patterns (by any client).",
    summary="Send a message to all who listen to a channel.",
    arguments=(Arg("channel"), Arg("message")),
)
def publish(session: Session, request: Request) -> Reply:
    receivers = session.server.pubsub.publish(request[1], request[2], session)
    _charge(session, receivers, request[2])
    _spread(session, request, sharded=False)
    return receivers


@session_command(
    "SPUBLISH",
    arity=3,
    flags=_PUBLISHER,
    keys=(KeyRange(1, access=("not_key",)),),
    channels=_published_channel,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of clients subscribed to the receiving shard channel.",
    summary="Send a message to all who listen to a shard channel.",
    arguments=(Arg("shardchannel"), Arg("message")),
)
def spublish(session: Session, request: Request) -> Reply:
    receivers = session.server.pubsub.publish_shard(request[1], request[2], session)
    _charge(session, receivers, request[2])
    _spread(session, request, sharded=True)
    return receivers


# --- looking


pubsub = container(
    "PUBSUB",
    arity=-2,
    group="pubsub",
    since="2.8.0",
    complexity="Depends on subcommand.",
    summary="Look at channels and their subscribers.",
)


def _named(channels: dict[bytes, Subscribers], request: Request) -> Reply:
    if len(request) > 3:
        raise subcommand_error(request)
    if len(request) == 2:
        return list(channels)
    glob = parse_glob(request[2])
    return [channel for channel in channels if glob.matches(channel)]


def _counted(channels: dict[bytes, Subscribers], request: Request) -> Reply:
    # A flat array in both protocols, as Redis sends it.
    counts: list[Reply] = []
    for channel in request[2:]:
        counts += (channel, len(channels.get(channel, ())))
    return counts


@session_command(
    "PUBSUB|CHANNELS",
    arity=-2,
    flags=_OBSERVER,
    group="pubsub",
    since="2.8.0",
    complexity="O(N) where N is the number of active channels, and assuming constant time pattern "
    "matching (relatively short channels and patterns)",
    summary="Return the channels that have subscribers.",
    arguments=(Arg("pattern", "pattern", optional=True),),
)
def pubsub_channels(session: Session, request: Request) -> Reply:
    return _named(session.server.pubsub.channels, request)


@session_command(
    "PUBSUB|NUMSUB",
    arity=-2,
    flags=_OBSERVER,
    group="pubsub",
    since="2.8.0",
    complexity="O(N) for the NUMSUB subcommand, where N is the number of requested channels",
    summary="Return how many subscribers each channel has.",
    arguments=(Arg("channel", optional=True, multiple=True),),
)
def pubsub_numsub(session: Session, request: Request) -> Reply:
    return _counted(session.server.pubsub.channels, request)


@session_command(
    "PUBSUB|NUMPAT",
    arity=2,
    flags=_OBSERVER,
    group="pubsub",
    since="2.8.0",
    complexity="O(1)",
    summary="Return how many different patterns are subscribed to.",
)
def pubsub_numpat(session: Session, request: Request) -> Reply:
    return len(session.server.pubsub.patterns)


@session_command(
    "PUBSUB|SHARDCHANNELS",
    arity=-2,
    flags=_OBSERVER,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of active shard channels, and assuming constant time pattern "
    "matching (relatively short shard channels).",
    summary="Return the shard channels that have subscribers.",
    arguments=(Arg("pattern", "pattern", optional=True),),
)
def pubsub_shardchannels(session: Session, request: Request) -> Reply:
    return _named(session.server.pubsub.shard_channels, request)


@session_command(
    "PUBSUB|SHARDNUMSUB",
    arity=-2,
    flags=_OBSERVER,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) for the SHARDNUMSUB subcommand, where N is the number of requested shard channels",
    summary="Return how many subscribers each shard channel has.",
    arguments=(Arg("shardchannel", optional=True, multiple=True),),
)
def pubsub_shardnumsub(session: Session, request: Request) -> Reply:
    return _counted(session.server.pubsub.shard_channels, request)


pubsub_help = help_command("PUBSUB", group="pubsub", since="6.2.0")


COMMANDS = (
    subscribe,
    unsubscribe,
    psubscribe,
    punsubscribe,
    ssubscribe,
    sunsubscribe,
    publish,
    spublish,
    pubsub,
    pubsub_channels,
    pubsub_numsub,
    pubsub_numpat,
    pubsub_shardchannels,
    pubsub_shardnumsub,
    pubsub_help,
)
