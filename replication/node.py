"""The Trio driver of one node's replicator: connections, timers, and the border to the store's ticks.

    run ⊃ listener ⊃ a task for each connection ⊃ reader, writer
        ⊃ dials
        ⊃ the timer
        ⊃ syncs of the engine

Everything that may touch records runs inside `Host.transact`, a tick of the store of its own; what it caused to be
sent leaves after that tick's commit. A connection's errors end at the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from random import Random
from typing import Final, Protocol, TypeVar

import trio

from replication import messages as m
from replication.core import Identity, Link
from replication.errors import RemoteProtocolError, ReplicationError
from replication.exchange import Exchange
from replication.frames import FrameReader, encode
from replication.handshake import Authenticator, Handshake
from replication.options import Options
from replication.rejoin import Standing
from replication.replicator import Replicator
from replication.topology import Network as AddressRange
from replication.transport import Network, PeerStream
from replication.verification import Outcome
from storage.changes import COMMON_GROUP, Change, Replica, Stamp

Result = TypeVar("Result")

AUTHENTICATION_SECONDS: Final = 5.0
_DIAL_SECONDS: Final = 10.0
# So many addresses of one name may fail to answer, then the rest has to wait for the next attempt.
_SILENT_MAX: Final = 4
_CLOSE_SECONDS: Final = 2.0
_RECEIVE_BYTES: Final = 256 * 1024
_SEND_BYTES: Final = 64 * 1024
_LEAVE_SECONDS: Final = 10.0
_STORE_REST_SECONDS: Final = 0.5
# So many troubles are remembered that were told of.
_TROUBLES_MAX: Final = 1000
# How a connection ends that was cut.
_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class StoreFailed(Exception):
    """A tick could not be committed: nothing of it happened."""


class Host(Protocol):
    """What a node needs of the process it runs in."""

    @property
    def replica(self) -> Replica: ...

    def transact(self, work: Callable[[], Result]) -> Result:
        """Run `work` as a tick of the store and commit it. Raise `StoreFailed` if the commit failed."""
        ...

    def rotate(self) -> None:
        """Stamp later writes with fresh origins. Called between ticks."""
        ...

    async def sync(self) -> None:
        """Make all that is committed safe from a power cut, in a thread. Raise `StoreFailed` if that failed."""
        ...

    def wall_ms(self) -> int: ...

    def publish(self, message: m.Publish) -> None:
        """Give a message from another node to the local subscribers."""
        ...

    def dead_letter(self, stale: list[tuple[Stamp, Change]]) -> None:
        """Keep writes that are about to be undone where an operator finds them; durable on return."""
        ...

    def stood(self, standing: Standing) -> None:
        """Take note of what this node is in its cluster."""
        ...


class PeerNode:
    """One node among its peers: the replicator, driven by Trio."""

    def __init__(
        self,
        host: Host,
        network: Network,
        authenticator: Authenticator,
        options: Options,
        *,
        cluster: bytes,
        rng: Random,
        entropy: Callable[[int], bytes],
        software: str = "",
        allowed: Sequence[AddressRange] = (),
        store_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        """`store_errors`: what reading raises while the store cannot even be read; it passes."""
        self.host = host
        self._store_errors: tuple[type[Exception], ...] = (StoreFailed, *store_errors)
        self._network = network
        self._authenticator = authenticator
        identity = Identity(cluster, host.replica.node_id, entropy(16))
        self.replicator = Replicator(
            identity,
            options,
            host.replica,
            rng=rng,
            wall_ms=host.wall_ms,
            entropy=entropy,
            software=software,
            allowed=allowed,
        )
        self._options = options
        self.address = ""  # at which it listens
        self._entropy = entropy
        self._dialing: set[str] = set()
        self._troubles: set[tuple[str, str]] = set()  # addresses, and why attempts at them came to nothing
        self._timer = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._rotate_why: str | None = None
        self._standing: Standing | None = None  # as the host knows it
        self._claims_wanted = False
        self._unlinking = trio.lowlevel.ParkingLot()  # who waits for links to end
        self._syncing: list[Callable[[], None]] = []
        self._sync_runs = False
        self._scopes: dict[int, trio.CancelScope] = {}  # by link number
        core = self.replicator.core
        core.dial = self._dial_soon
        core.make_durable = self._make_durable
        core.rotate_soon = self._rotate_soon
        core.claim_soon = self._claim_soon
        core.hurry = self._hurry
        self.replicator.on_publish = host.publish
        self.replicator.rejoin.dead_letter = host.dead_letter

    # --- life

    def open(self, *, founds: bool) -> None:
        """Find out what this node is in its cluster; before `run`. Raise what `Replicator.open` raises."""
        now = trio.current_time()
        self._in_tick(partial(self.replicator.open, now, founds=founds))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Talk to peers until cancelled. `started` once the listener is open."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self.address = await nursery.start(self._network.listen, self._accept)
                nursery.start_soon(self._keep_time)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self.replicator.close()

    async def leave(self) -> bool:
        """Leave the cluster for good; True if another member has all that was written here.

        The groups that not all carry are handed over first: the record of the departure may take another way than they
        do, and who has it does not wait for this node any more. What nobody took within ten seconds is still on this
        node's disk.
        """
        self._in_tick(lambda: self.replicator.rejoin.enter(Standing.LEAVING))
        await self._hand_over(self.replicator.others())
        self._in_tick(self.replicator.roster.leave)
        await self._hand_over([self.replicator.common])
        covered = self.replicator.is_handed_over()
        for link in list(self.replicator.core.links.values()):
            link.send(m.Bye("leaving"))
            link.close("leaving")
        return covered

    async def _hand_over(self, exchanges: Sequence[Exchange]) -> None:
        """Wait until other members have all of these groups, or time is over."""
        with trio.move_on_after(_LEAVE_SECONDS):
            while not all(exchange.is_handed_over() for exchange in exchanges):
                self._claim_soon()
                await trio.sleep(self._options.vector_interval)

    async def stop(self) -> None:
        """Send what is fresh and say goodbye; `run` is to be cancelled afterwards."""
        self.replicator.flush()
        for link in list(self.replicator.core.links.values()):
            link.send(m.Bye("stopping"))
            link.close("this node stops")
        with trio.move_on_after(_CLOSE_SECONDS):
            while self._scopes:
                await self._unlinking.park()

    # --- the border to the store

    def _in_tick(self, work: Callable[[], Result]) -> Result:
        """Run `work` as a tick, and what it staged after the commit."""
        try:
            result = self.host.transact(work)
            self.replicator.after_commit()
        except self._store_errors as error:
            self.replicator.after_failure()
            raise error if isinstance(error, StoreFailed) else StoreFailed(str(error)) from error
        finally:
            self._tell_standing()
        if self.replicator.deferred:
            self._timer.set()
        return result

    def _tell_standing(self) -> None:
        """Let the host know at once whether clients may still write."""
        standing = self.replicator.rejoin.standing
        if standing != self._standing:
            self._standing = standing
            self.host.stood(standing)

    def committed(self) -> None:
        """Take note that a tick of clients has been committed. Called by the host after every such tick."""
        if self.replicator.committed(trio.current_time()):
            self._timer.set()

    def ask_for_claims(self) -> None:
        """Have the others say soon what they have of what is committed after this tick: somebody waits."""
        self._claims_wanted = True
        self._timer.set()

    def verify(self, node: bytes, then: Callable[[Outcome], None], *, group: int = COMMON_GROUP) -> None:
        """Compare a group that is carried here with a member as soon as both cover the same; `then` is told the outcome."""
        exchange = self.replicator.exchanges[group]
        exchange.core.now = trio.current_time()
        exchange.verification.verify(node, then)
        self._timer.set()

    def _rotate_soon(self, why: str) -> None:
        self._rotate_why = why
        self._timer.set()

    def _make_durable(self, then: Callable[[], None]) -> None:
        """Sync the engine and call `then` in a tick; calls that meet share one sync."""
        self._syncing.append(then)
        if not self._sync_runs and self._nursery is not None:
            self._sync_runs = True
            self._nursery.start_soon(self._sync)

    async def _sync(self) -> None:
        try:
            while self._syncing:
                waiting, self._syncing = self._syncing, []
                try:
                    await self.host.sync()
                except StoreFailed as error:
                    self.replicator.core.log.error("sync for peers failed", error=str(error))
                    continue
                self._try_in_tick(partial(_call_all, waiting))
        finally:
            self._sync_runs = False

    def _claim_soon(self) -> None:
        self._make_durable(self.replicator.tell_all)

    def _try_in_tick(self, work: Callable[[], None]) -> None:
        """Run `work` as a tick; a failed commit is logged, and whoever lost by it tries again."""
        try:
            self._in_tick(work)
        except StoreFailed as error:
            self.replicator.core.log.error("the store takes nothing from peers", error=str(error))

    # --- time

    async def _keep_time(self) -> None:
        """Call the replicator whenever it is due."""
        while True:
            due = self._tick()
            if due <= trio.current_time():
                # Trio looks after the first for who has become ready, and runs them before the second ends: a client whose
                # request came during this turn does not wait for the next one.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                continue
            with trio.move_on_at(due):
                await self._timer.wait()
            self._timer = trio.Event()

    def _tick(self) -> float:
        now = trio.current_time()
        if self._rotate_why is not None:
            self.replicator.core.log.warning("origins rotate", why=self._rotate_why)
            self._rotate_why = None
            self.host.rotate()
        if self._claims_wanted:
            self._claims_wanted = False
            self.replicator.ask_for_claims()
        try:
            due = self.replicator.tick(now)
            if self.replicator.needs_tick_of_store(now):
                self._try_in_tick(partial(self.replicator.tick_in_store, now))
                due = min(due, now + 0.5)
            self.replicator.after_commit()
        except self._store_errors as error:
            self.replicator.core.log.error("the store cannot be read", error=str(error))
            return now + _STORE_REST_SECONDS
        return due

    def _hurry(self) -> None:
        self._timer.set()

    # --- connections

    def _dial_soon(self, address: str, node: bytes | None) -> None:
        if self._nursery is None:
            return
        if address in self._dialing:  # its last connection is not closed entirely
            self.replicator.on_dial_failed(address, node, trio.current_time())
            return
        self._dialing.add(address)
        self._nursery.start_soon(self._dial, address, node)

    async def _dial(self, address: str, node: bytes | None) -> None:
        """Connect to an address, or to one of those that a name to join stands for; serve the link to its end."""
        reached = False
        try:
            give_up_at = trio.current_time() + _DIAL_SECONDS
            targets = [address] if node is not None else await self._resolve(address)
            seconds = _DIAL_SECONDS / max(1, min(len(targets), _SILENT_MAX))
            for target in targets:
                seconds_left = give_up_at - trio.current_time()
                if reached or seconds_left <= 0:
                    break
                reached = await self._try(target, min(seconds, seconds_left))
        finally:
            self._dialing.discard(address)
            if not reached:
                self.replicator.on_dial_failed(address, node, trio.current_time())

    async def _resolve(self, address: str) -> list[str]:
        """Return which addresses of one to join are to be tried, in this order."""
        try:
            found = await self._network.resolve(address)
        except ReplicationError as error:
            self._tell_trouble(address, error)
            return []
        return self.replicator.topology.to_try(address, found)

    async def _try(self, address: str, seconds: float) -> bool:
        """Connect to an address and serve the link to its end; False if there was none, or it broke."""
        try:
            with trio.fail_after(seconds):
                stream = await self._network.dial(address)
            return await self._serve(stream, outgoing=True, address=address)
        except (OSError, ReplicationError, trio.TooSlowError, trio.BrokenResourceError) as error:
            self._tell_trouble(address, error)
            return False

    def _tell_trouble(self, address: str, error: Exception) -> None:
        """Log why there is no connection; at a level that is seen when it is news, for it is tried again and again."""
        log, trouble = self.replicator.core.log, (address, str(error))
        tell = log.debug if trouble in self._troubles else log.warning
        tell("no connection", address=address, error=trouble[1])
        if len(self._troubles) >= _TROUBLES_MAX:
            self._troubles.clear()
        self._troubles.add(trouble)

    async def _accept(self, stream: PeerStream) -> None:
        """Serve a connection that a peer has opened."""
        await self._serve(stream, outgoing=False, address=stream.remote_address)

    async def _serve(self, stream: PeerStream, *, outgoing: bool, address: str) -> bool:
        """Authenticate a connection and serve it to its end; False if it never became a link."""
        log = self.replicator.core.log.bind(address=address)
        async with aclosing(stream):
            try:
                reader = FrameReader()
                with trio.move_on_after(AUTHENTICATION_SECONDS) as scope:
                    hello = await self._authenticate(stream, reader, outgoing=outgoing, address=address)
                if scope.cancelled_caught or hello is None:
                    log.debug("connection not authenticated", timeout=scope.cancelled_caught)
                    return False
                self._troubles = {trouble for trouble in self._troubles if trouble[0] != address}
                return await self._serve_link(stream, reader, hello, outgoing=outgoing)
            except RemoteProtocolError as error:
                self.replicator.core.count("protocol_errors_total")
                log.warning("peer broke the protocol", error=str(error))
            except _LOST as error:
                if outgoing:
                    self._tell_trouble(address, error)
                else:
                    log.debug("connection lost", error=str(error))
            except self._store_errors as error:
                log.error("no link while the store fails", error=str(error))
        return False

    async def _authenticate(
        self, stream: PeerStream, reader: FrameReader, *, outgoing: bool, address: str
    ) -> m.Hello | None:
        """Shake hands; return the peer's hello, or None if either side refuses."""
        handshake = Handshake(
            self.replicator.hello(self._entropy(32)),
            self._authenticator,
            stream,
            outgoing=outgoing,
            admit=self.replicator.admit,
        )
        await _send(stream, handshake.start())
        await _converse(stream, reader, handshake)
        stream.report(is_authenticated=handshake.is_authenticated)
        if handshake.is_self and outgoing:
            self.replicator.topology.on_self(address)
        if handshake.rejected is not None:
            self._note_rejected(handshake.rejected)
        return handshake.peer

    def _note_rejected(self, reject: m.Reject) -> None:
        self.replicator.core.log.warning("peer refuses", code=int(reject.code), text=reject.text)
        self._try_in_tick(partial(self.replicator.on_rejected, reject, trio.current_time()))

    async def _serve_link(
        self, stream: PeerStream, reader: FrameReader, hello: m.Hello, *, outgoing: bool
    ) -> bool:
        now = trio.current_time()
        link: Link | None = self._in_tick(
            partial(self.replicator.link_up, hello, outgoing=outgoing, now=now, encode=encode)
        )
        if link is None:
            return True
        self.replicator.core.log.info("linked", peer=link.node.hex()[:8], outgoing=outgoing)
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._scopes[link.number] = nursery.cancel_scope
                nursery.start_soon(self._write, stream, link, nursery.cancel_scope)
                try:
                    await self._read(stream, reader, link)
                except (RemoteProtocolError, *_LOST) as error:
                    failure = error  # raised again outside, since a nursery would wrap it
                nursery.cancel_scope.cancel()
        finally:
            del self._scopes[link.number]
            self._unlinking.unpark_all()
            reason = link.dropped or link.closing or "connection lost"
            self.replicator.core.log.info("link down", peer=link.node.hex()[:8], reason=reason)
            self._try_in_tick(partial(self.replicator.link_down, link, trio.current_time()))
        if failure is not None:
            raise failure
        return True

    async def _read(self, stream: PeerStream, reader: FrameReader, link: Link) -> None:
        """Take in what the peer sends, as much as has come at a time in one tick of the store."""
        while True:
            messages = list(reader.feed(b""))
            if messages:
                self._handle(link, messages)
            data = await stream.receive_some(_RECEIVE_BYTES)
            if not data:
                return
            link.received_bytes += len(data)
            messages = list(reader.feed(data))
            if messages:
                self._handle(link, messages)
            if link.dropped is not None:
                return

    def _handle(self, link: Link, messages: list[m.Message]) -> None:
        try:
            self._in_tick(partial(self.replicator.on_messages, link, messages, trio.current_time()))
        except StoreFailed as error:
            self.replicator.core.log.error("the store takes nothing from peers", error=str(error))

    async def _write(self, stream: PeerStream, link: Link, scope: trio.CancelScope) -> None:
        """Send what the link's queues hold, in their order."""
        woken = trio.Event()

        def wake() -> None:
            woken.set()
            if link.dropped is not None:
                scope.cancel()

        link.outbox.wake = wake
        with suppress(*_LOST):  # the reader finds out as well
            while link.dropped is None:
                data = link.outbox.take(_SEND_BYTES)
                if data:
                    await stream.send_all(data)
                    continue
                if link.closing is not None:
                    break
                await woken.wait()
                woken = trio.Event()
        scope.cancel()


def _call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()


async def _converse(stream: PeerStream, reader: FrameReader, handshake: Handshake) -> None:
    """Exchange the messages of a handshake until it is over, or the peer has gone.

    All that has arrived is handled before anything is sent: a refusal that is there already must not be hidden by
    a send that fails.
    """
    while not handshake.is_over:
        data = await stream.receive_some(16 * 1024)
        replies: list[m.Message] = []
        for message in reader.feed(data):
            replies += handshake.on_message(message)
            if handshake.is_authenticated:
                reader.authenticated()
            if _is_over(handshake):
                break
        await _send(stream, replies)
        if not data:
            return


def _is_over(handshake: Handshake) -> bool:
    return handshake.is_over


async def _send(stream: PeerStream, messages: list[m.Message]) -> None:
    frames = b"".join(encode(message) for message in messages)
    if frames:
        await stream.send_all(frames)
