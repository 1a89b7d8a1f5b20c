"""Client-side caching: who may have cached which key, and telling them when it changes.

A client that turned tracking on is told of every change of a key that it may hold a copy of. Two ways to
know which those are:

* by default the daemon remembers the keys that a client has read, in one bounded table (key -> session
  ids). A key is told of once and then forgotten, until it is read again;
* in broadcast mode it remembers nothing but the prefixes that the client named, and tells of every key
  that starts with one of them, in one message a prefix and tick.

Invalidations are sent after the commit of the change, so behind the writer's own replies of that tick. Keys
are those that clients see: the same name in two databases is one key here, which can only tell too much.

Source: Redis 7.2 documentation, "Client-side caching in Redis"; `CLIENT TRACKING`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from kvd.commands.spec import CommandSpec, Flag, Request
from kvd.prefix_index import PrefixIndex
from protocol.encode import encoder
from protocol.replies import Push

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.session import Session
    from storage.store import Keyspace

# Where a RESP2 connection hears of invalidations: as messages, on this channel.
INVALIDATION_CHANNEL: Final = b"__redis__:invalidate"

# Readers per key on average before the table counts as full: those that have gone leave their ids behind.
_READERS_PER_KEY: Final = 4

_ENCODERS: Final = {2: encoder(2), 3: encoder(3)}

# A key, who wrote it and does not want to hear of it, and the change's number in the tick.
_Change: TypeAlias = "tuple[bytes | None, TrackingState | None, int]"
# The number of a change that nobody can have read yet.
_BEHIND_ALL: Final = sys.maxsize


@attrs.define(eq=False)
class TrackingState:
    """How one session is tracked. `caching` is what CLIENT CACHING said about the next command."""

    session: Session
    broadcast: bool = False
    opt_in: bool = False
    opt_out: bool = False
    no_loop: bool = False
    redirect: int = 0  # id of the session that is told instead, 0 for none
    prefixes: tuple[bytes, ...] = ()
    caching: bool = False
    broken_redirect: bool = False

    @property
    def remembers(self) -> bool:
        """Tell whether the keys that the running command reads are to be remembered."""
        if self.broadcast:
            return False
        if self.opt_in:
            return self.caching
        return not (self.opt_out and self.caching)

    def command_ended(self, session: Session, name: str) -> None:
        """End what CLIENT CACHING said: it is about one command or transaction of the client itself, run or refused."""
        if session is self.session and session.transaction is None and not name.startswith("CLIENT|"):
            self.caching = False


class Tracking:
    """The table of keys read, the prefixes of broadcast mode, and the messages to both."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sessions: dict[int, TrackingState] = {}
        # One reader is an int, not a set: most keys have one, and the collector need not look at it.
        self._readers: dict[bytes, int | set[int]] = {}
        self._reader_count = 0
        self._prefixes: PrefixIndex[dict[int, TrackingState]] = PrefixIndex()
        # Which of this tick's changes were made by a session that does not want to hear of its own.
        self._writers: dict[int, TrackingState] = {}
        # How many changes the tick had when a session became a reader of a key, 0 if it was one before, and when it
        # read it last. No more entries than readers.
        self._reads: dict[tuple[TrackingState, bytes], tuple[int, int]] = {}

    @property
    def active(self) -> bool:
        """Tell whether anybody wants to hear of changes."""
        return bool(self._sessions)

    @property
    def key_count(self) -> int:
        return len(self._readers)

    @property
    def reader_count(self) -> int:
        return self._reader_count

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    # --- who is tracked

    def enable(self, state: TrackingState) -> None:
        """Track a session as `state` says, in place of what it asked for before."""
        self._leave(state.session)
        self._sessions[state.session.id] = state
        for prefix in state.prefixes:
            states = self._prefixes.get(prefix)
            if states is None:
                self._prefixes.put(prefix, {state.session.id: state})
            else:
                states[state.session.id] = state
        state.session.tracking = state
        state.session.refresh()

    def disable(self, session: Session) -> None:
        """Stop tracking a session, if it is tracked. Its ids in the table are dropped as keys change."""
        if session.id not in self._sessions:
            return
        self._leave(session)
        session.tracking = None
        session.refresh()
        if not self._sessions:
            self._forget_keys()

    def _leave(self, session: Session) -> None:
        state = self._sessions.pop(session.id, None)
        if state is None:
            return
        for prefix in state.prefixes:
            states = self._prefixes.get(prefix)
            assert states is not None
            del states[session.id]
            if not states:
                self._prefixes.delete(prefix)

    def forget(self, session: Session) -> None:
        """Stop tracking a session that is gone. Those that redirected to it are told at the next change."""
        self.disable(session)

    def _forget_keys(self) -> None:
        self._readers.clear()
        self._reader_count = 0
        self._reads.clear()

    # --- what they read and write

    def executed(
        self,
        session: Session,
        state: TrackingState,
        spec: CommandSpec,
        request: Request,
        changes_before: int,
    ) -> None:
        """Take note of a command that a tracked session, or its script, has run.

        `changes_before` is how many changes the tick had before it. A script runs in a session of its own,
        with the state of its caller.
        """
        if Flag.READONLY in spec.flags and Flag.PUBSUB not in spec.flags and state.remembers:
            keys = spec.key_arguments(request)
            if changes_before:
                self._note_reads(state, keys, changes_before)
            self._remember(keys, state.session.id)
        if state.no_loop:
            for position in range(changes_before, self._server.store.change_count):
                self._writers[position] = state
        state.command_ended(session, spec.name)

    def _note_reads(self, state: TrackingState, keys: Iterable[bytes], position: int) -> None:
        """Note that `position` changes of the tick are in what a session has read.

        It needs not hear of them, unless it has read the key before: what it keeps may come from another command.
        """
        for key in keys:
            noted = self._reads.get((state, key))
            if noted is None:
                noted = (0 if self._is_reader(key, state.session.id) else position, position)
            self._reads[state, key] = (noted[0], position)

    def _is_reader(self, key: bytes, session_id: int) -> bool:
        known = self._readers.get(key)
        return session_id in known if isinstance(known, set) else known == session_id

    def _remember(self, keys: Iterable[bytes], session_id: int) -> None:
        readers = self._readers
        longest = self._server.store.limits.key_bytes_max
        for key in keys:
            known = readers.get(key)
            if known is None:
                if len(key) > longest:
                    continue  # there is no such key and there will be none
                readers[key] = session_id
                self._reader_count += 1
            elif isinstance(known, set):
                self._reader_count += session_id not in known
                known.add(session_id)
            elif known != session_id:
                readers[key] = {known, session_id}
                self._reader_count += 1
        self._limit()

    def _limit(self) -> None:
        """Invalidate the keys that were read first, as many as are above the limit."""
        limit = self._server.settings.events.tracking_table_max_keys
        if not limit:
            return
        while len(self._readers) > limit or self._reader_count > limit * _READERS_PER_KEY:
            self._tell_readers(next(iter(self._readers)), None, _BEHIND_ALL)

    # --- telling them

    def invalidate(self, changes: Iterable[tuple[int, Keyspace, bytes | None]]) -> None:
        """Tell of changes that are committed, as `Store.changes` gives them."""
        writers, self._writers = self._writers, {}
        self._tell_changes((key, writers.get(number), number) for number, _, key in changes)
        self._reads.clear()

    def expired(self, keys: Iterable[bytes]) -> None:
        """Tell of keys that the sweep has removed."""
        self._tell_changes((key, None, _BEHIND_ALL) for key in keys)

    def applied(self, keys: Iterable[bytes | None]) -> None:
        """Tell of keys that other nodes have changed, committed here; None stands for all keys."""
        self._tell_changes((key, None, _BEHIND_ALL) for key in keys)

    def _tell_changes(self, changes: Iterable[_Change]) -> None:
        broadcasts: dict[bytes, dict[bytes, TrackingState | None]] = {}
        flushed = False
        for key, writer, number in changes:
            if key is None:
                flushed = True
                continue
            if key in self._readers:
                self._tell_readers(key, writer, number)
            for prefix, _ in self._prefixes.matching(key):
                broadcasts.setdefault(prefix, {})[key] = writer
        for prefix, keys in broadcasts.items():
            self._broadcast(prefix, keys)
        if flushed:
            self._tell_all()

    def discard(self) -> None:
        """Forget about the changes of a tick whose commit failed."""
        self._writers.clear()
        self._reads.clear()

    def _tell_readers(self, key: bytes, writer: TrackingState | None, number: int) -> None:
        """Tell those that have read `key` before its change, and forget them."""
        known = self._readers.pop(key)
        ids = known if isinstance(known, set) else (known,)
        self._reader_count -= len(ids)
        encoded: dict[int, bytes] = {}
        for session_id in ids:
            state = self._sessions.get(session_id)
            if state is None:
                continue
            became_reader, last_read = self._reads.get((state, key), (0, 0))
            # A writer that does not want to hear of it knows what it did; what it read since is what counts.
            if (last_read if state is writer else became_reader) > number:
                self._remember((key,), session_id)
                continue
            self._reads.pop((state, key), None)
            if not state.broadcast and state is not writer:
                self._tell(state, [key], encoded)

    def _broadcast(self, prefix: bytes, keys: dict[bytes, TrackingState | None]) -> None:
        encoded: dict[int, bytes] = {}
        whole = list(keys)
        for state in list((self._prefixes.get(prefix) or {}).values()):
            if not state.no_loop:
                self._tell(state, whole, encoded)
                continue
            others = [key for key, writer in keys.items() if writer is not state]
            if others:
                self._tell(state, others, {})

    def _tell_all(self) -> None:
        """Tell everybody that all they have cached is void."""
        self._forget_keys()
        encoded: dict[int, bytes] = {}
        for state in list(self._sessions.values()):
            self._tell(state, None, encoded)

    def _tell(self, state: TrackingState, keys: list[bytes] | None, encoded: dict[int, bytes]) -> None:
        """Send one invalidation; `encoded` keeps it for further receivers, by protocol version."""
        target = state.session
        if state.redirect:
            redirected = self._server.sessions.get(state.redirect)
            if redirected is None:
                self._break_redirect(state)
                return
            target = redirected
        if target.proto == 2 and not (state.redirect and target.subscription_count):
            return  # RESP2 has no pushes but messages to a subscriber
        data = encoded.get(target.proto)
        if data is None:
            data = encoded[target.proto] = _ENCODERS[target.proto](_invalidation(target.proto, keys))
        target.push_encoded(data)
        target.on_output(target)

    def _break_redirect(self, state: TrackingState) -> None:
        """Tell a session that those invalidations have nowhere to go."""
        state.broken_redirect = True
        if state.session.proto == 3:
            state.session.push(Push((b"tracking-redir-broken", state.redirect)))


def _invalidation(proto: int, keys: list[bytes] | None) -> Push:
    if proto == 3:
        return Push((b"invalidate", keys))
    return Push((b"message", INVALIDATION_CHANNEL, keys))
