"""The simulated network: streams in memory between named hosts, with everything that wires do.

A stream never loses, repeats or reorders bytes; it delays them, stops, or ends in the middle, as TCP does.
What can be arranged, by the ordered pair of hosts (a `Path`) or by the host:

    delay, bandwidth     of each path; arrival times are rounded up to `GRAIN`, so that what comes about
                         together wakes its reader once. A path is not kept busy by what a connection that has
                         ended had still to send, and one that becomes faster is faster for what is under way
    blocked              one-way partition: what is sent waits until it is lifted, and so does the room in the
                         sender's window for what came through the other way
    cut                  connections break after a drawn number of bytes, or at once
    stalled              a host neither reads nor writes
    reading              bytes a second that a host takes out of each of its streams
    down                 connections are refused (killed), or lead nowhere (without power)

Nothing here draws chance but `Path.rng`, one generator for each path, so that one connection more or less
does not change what others see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil, inf
from random import Random
from typing import Final

import attrs
import trio

from replication.errors import ConnectFailed
from replication.transport import Fingerprints, Handler

GRAIN: Final = 0.001
WINDOW_BYTES: Final = 128 * 1024
SPLIT_SHARE: Final = 0.15  # of what is sent that arrives in two parts
CONNECT_TIMEOUT: Final = 3.0

Observer = Callable[[float, str, str, bytes], None]


@attrs.define(eq=False)
class Path:
    """One direction between two hosts."""

    source: str
    target: str
    rng: Random
    delay: float = 0.002
    jitter: float = 0.003
    spikes: float = 0.0  # share of sendings that take ten times as long
    bandwidth: float = inf
    blocked: bool = False
    cut_share: float = 0.0  # of new connections that break after at most `cut_bytes`
    cut_bytes: int = 0
    busy_until: float = 0.0
    bytes: int = 0

    def transit(self) -> float:
        """Draw how long something takes from one end to the other, without its length."""
        drawn = self.delay + self.jitter * self.rng.random()
        return drawn * 10 if self.spikes and self.rng.random() < self.spikes else drawn


class Pipe:
    """One direction of a connection."""

    __slots__ = (
        "_reader",
        "_writer",
        "broken",
        "chunks",
        "corrupts",
        "cut_after",
        "deaf_from",
        "ended_at",
        "last_arrival",
        "network",
        "path",
        "read_at",
        "reverse",
        "waiting_bytes",
    )

    def __init__(self, network: SimNetwork, path: Path) -> None:
        self.network = network
        self.path = path
        self.reverse: Pipe = self
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.waiting_bytes = 0  # sent and not yet known to be read: what fills the window
        self.last_arrival = 0.0
        self.ended_at: float | None = None
        self.broken = False
        self.deaf_from: float | None = None  # since when nobody reads it any more
        self.cut_after: int | None = None
        self.corrupts = False
        self.read_at = 0.0  # when a slow reader may read again
        self._reader: trio.CancelScope | None = None
        self._writer: trio.CancelScope | None = None

    # --- the writer's end

    def put(self, data: bytes) -> None:
        self.waiting_bytes += len(data)
        self.path.bytes += len(data)
        if self.path.blocked:
            self.chunks.append((inf, data))
            return
        if len(data) > 64 and self.path.rng.random() < SPLIT_SHARE:
            size = self.path.rng.randrange(1, len(data))
            self.chunks.append((self._arrival(size), data[:size]))
            data = data[size:]
        self.chunks.append((self._arrival(len(data)), data))
        self.wake_reader()

    def _arrival(self, size: int) -> float:
        path = self.path
        now = trio.current_time()
        sent = now
        if path.bandwidth != inf:
            path.busy_until = sent = max(now, path.busy_until) + size / path.bandwidth
        arrival = max(sent + path.transit(), self.last_arrival)
        self.last_arrival = arrival = ceil(arrival / GRAIN) * GRAIN
        return arrival

    async def wait_for_room(self) -> None:
        with trio.CancelScope() as scope:
            self._writer = scope
            await trio.sleep_forever()
        self._writer = None

    def end(self) -> None:
        if self.ended_at is None:
            self.ended_at = inf if self.path.blocked else self._arrival(0)
            self.wake_reader()

    def breaks(self) -> None:
        self.broken = True
        self._drop_rest()
        self.wake_reader()
        self.wake_writer()

    def goes_deaf(self) -> None:
        """The reader has closed: what is sent from now on comes to nothing."""
        self.deaf_from = trio.current_time() + self.path.delay + self.reverse.path.delay
        self._drop_rest()
        self.waiting_bytes = 0
        self.wake_reader()
        self.wake_writer()

    def _drop_rest(self) -> None:
        """Send nothing of what is still to be sent."""
        self.chunks.clear()
        self.network.relieve(self.path)

    def repace(self) -> None:
        """Let what is under way go on at the speed that the path has now."""
        now = self.last_arrival = trio.current_time()
        self.chunks = deque(
            (self._arrival(len(data)) if now < at < inf else at, data) for at, data in self.chunks
        )
        if self.ended_at is not None and now < self.ended_at < inf:
            self.ended_at = self._arrival(0)
        self.wake_reader()

    def unblocked(self) -> None:
        """Send what had to wait."""
        self.chunks = deque((self._arrival(len(data)) if at == inf else at, data) for at, data in self.chunks)
        if self.ended_at == inf:
            self.ended_at = self._arrival(0)
        self.wake_reader()
        self.reverse.wake_writer()

    # --- the reader's end

    def due(self) -> float:
        """Return when there is something to read: bytes, the end, or the breaking."""
        if self.broken:
            return 0.0
        if self.path.target in self.network.stalled:
            return inf
        if self.chunks:
            return max(self.chunks[0][0], self.read_at)
        return inf if self.ended_at is None else self.ended_at

    async def wait_for_data(self) -> None:
        with trio.CancelScope(deadline=self.due()) as scope:
            self._reader = scope
            await trio.sleep_forever()
        self._reader = None

    def take(self, bytes_max: int) -> bytes:
        now = trio.current_time()
        rate = self.network.reading.get(self.path.target)
        if rate is not None:
            bytes_max = min(bytes_max, max(1, int(rate / 10)))
        found: list[bytes] = []
        size = 0
        while self.chunks and self.chunks[0][0] <= now and size < bytes_max:
            at, data = self.chunks.popleft()
            if size + len(data) > bytes_max:
                self.chunks.appendleft((at, data[bytes_max - size :]))
                data = data[: bytes_max - size]
            found.append(data)
            size += len(data)
        if rate is not None:
            self.read_at = now + size / rate
        if self.cut_after is not None:
            self.cut_after -= size
        self.waiting_bytes -= size
        if self._writer is not None and self.has_room:
            self.wake_writer()
        data = b"".join(found)
        if self.corrupts and data:
            self.corrupts = False
            position = self.path.rng.randrange(len(data))
            data = (
                data[:position]
                + bytes([data[position] ^ 1 << self.path.rng.randrange(8)])
                + data[position + 1 :]
            )
        return data

    @property
    def has_room(self) -> bool:
        return (
            self.waiting_bytes < WINDOW_BYTES
            and not self.reverse.path.blocked
            and self.path.source not in self.network.stalled
        )

    def wake_reader(self) -> None:
        if self._reader is not None:
            due = self.due()
            self._reader.deadline = min(self._reader.deadline, due)

    def wake_writer(self) -> None:
        if self._writer is not None:
            self._writer.cancel()


class SimStream:
    """One end of a connection: a `PeerStream`."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, address: str) -> None:
        self._in = incoming
        self._out = outgoing
        self._address = address
        self._closed = False
        self.connection: Connection | None = None

    @property
    def fingerprints(self) -> Fingerprints:
        return Fingerprints()

    @property
    def remote_address(self) -> str:
        return self._address

    @property
    def peer_node(self) -> bytes | None:
        return None

    def report(self, *, is_authenticated: bool) -> None:
        """Take no note of it: strangers are a matter of other tests."""

    async def send_all(self, data: bytes) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        out = self._out
        if out.broken:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError
        if out.deaf_from is not None:
            # The other end has closed. That is told by what it sends back, and after what it has sent before.
            if not self._in.chunks and trio.current_time() > out.deaf_from:
                await trio.lowlevel.checkpoint()
                raise trio.BrokenResourceError
            return
        out.put(bytes(data))
        while out.waiting_bytes > WINDOW_BYTES or not out.has_room:
            await out.wait_for_room()
            if self._closed:
                raise trio.ClosedResourceError
            if out.broken:
                raise trio.BrokenResourceError
            if out.waiting_bytes < WINDOW_BYTES or out.deaf_from is not None:
                break

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        pipe = self._in
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if pipe.broken:
                await trio.lowlevel.checkpoint()
                raise trio.BrokenResourceError
            if pipe.due() <= trio.current_time():
                break
            await pipe.wait_for_data()
        if not pipe.chunks:
            return b""
        data = pipe.take(max_bytes or 65536)
        observe = pipe.network.observe
        if observe is not None:
            observe(trio.current_time(), pipe.path.source, pipe.path.target, data)
        if pipe.cut_after is not None and pipe.cut_after <= 0 and self.connection is not None:
            self.connection.cut()
        return data

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._out.end()
            self._in.goes_deaf()
            if self.connection is not None:
                self.connection.closed()
        await trio.lowlevel.checkpoint()


class Connection:
    """Both ends of a connection."""

    def __init__(self, network: SimNetwork, source: str, target: str) -> None:
        self.network = network
        self.hosts = (source, target)
        self._ports = network.next_port()
        there, back = Pipe(network, network.path(source, target)), Pipe(network, network.path(target, source))
        there.reverse, back.reverse = back, there
        self.pipes = (there, back)
        self.dialer = SimStream(back, there, f"{target}:1")
        self.listener = SimStream(there, back, f"{source}:{self._ports}")
        self.dialer.connection = self.listener.connection = self
        self._closed_ends = 0
        network.connections[self] = None
        for pipe in self.pipes:
            path = pipe.path
            if path.cut_share and path.rng.random() < path.cut_share:
                pipe.cut_after = path.rng.randrange(1, path.cut_bytes)

    def cut(self) -> None:
        """Break it for both ends."""
        for pipe in self.pipes:
            pipe.breaks()
        self.network.connections.pop(self, None)

    def closed(self) -> None:
        self._closed_ends += 1
        if self._closed_ends == 2:
            self.network.connections.pop(self, None)


@attrs.define(eq=False)
class _Listener:
    handler: Handler
    nursery: trio.Nursery


class SimNetwork:
    """All hosts and what lies between them."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._ports = 0
        self._paths: dict[tuple[str, str], Path] = {}
        self._listeners: dict[str, _Listener] = {}
        self.connections: dict[Connection, None] = {}
        self.stalled: dict[str, None] = {}
        self.reading: dict[str, float] = {}
        self.dark: dict[str, None] = {}  # without power: nobody answers
        self.unlisted: dict[
            str, None
        ] = {}  # behind address translation: nobody can open a connection to them
        self.refused = 0  # dials to those
        self.shape: Callable[[Path], None] = _leave
        self.observe: Observer | None = None
        self.dials = 0

    def next_port(self) -> int:
        self._ports += 1
        return self._ports

    def path(self, source: str, target: str) -> Path:
        path = self._paths.get((source, target))
        if path is None:
            path = Path(source, target, Random(f"{self._seed} {source} {target}"))
            self.shape(path)
            self._paths[source, target] = path
        return path

    def endpoint(self, host: str) -> Endpoint:
        """Return the network as `host` sees it."""
        return Endpoint(self, host)

    # --- faults

    def block(self, source: str, target: str) -> None:
        self.path(source, target).blocked = True

    def unblock(self, source: str, target: str) -> None:
        path = self.path(source, target)
        if path.blocked:
            path.blocked = False
            for pipe in self._pipes_on(path):
                pipe.unblocked()

    def relieve(self, path: Path) -> None:
        """Let a path be free if nothing is under way on it any more."""
        now = trio.current_time()
        if path.busy_until > now and not any(
            now < at < inf for pipe in self._pipes_on(path) for at, _ in pipe.chunks
        ):
            path.busy_until = now

    def repace(self, path: Path) -> None:
        """Let what is under way on a path go on at the speed that it has now."""
        now = trio.current_time()
        if path.busy_until > now + GRAIN:
            path.busy_until = now
            for pipe in self._pipes_on(path):
                pipe.repace()

    def cut(self, one: str, other: str) -> None:
        """Break every connection between two hosts."""
        for connection in list(self.connections):
            if set(connection.hosts) == {one, other}:
                connection.cut()

    def corrupt(self, source: str, target: str) -> None:
        """Change a byte of what is next read from connections between two hosts."""
        for connection in self.connections:
            for pipe in connection.pipes:
                if (pipe.path.source, pipe.path.target) == (source, target):
                    pipe.corrupts = True

    def read_at_most(self, host: str, rate: float | None) -> None:
        """Let a host take no more than so many bytes a second out of each of its streams; None: without a bound."""
        if rate is None:
            self.reading.pop(host, None)
        else:
            self.reading[host] = rate

    def stall(self, host: str) -> None:
        """Let a host neither read nor write."""
        self.stalled[host] = None
        for pipe in self._pipes_of(host):
            if pipe._reader is not None:
                pipe._reader.deadline = pipe.due()

    def resume(self, host: str) -> None:
        self.stalled.pop(host, None)
        for pipe in self._pipes_of(host):
            pipe.wake_reader()
            pipe.wake_writer()

    def fail(self, host: str, *, silently: bool) -> None:
        """Take a host off: its connections break now, or when it is back (`silently`)."""
        if silently:
            self.dark[host] = None
            for pipe in self._pipes_of(host):
                pipe.path  # noqa: B018 - what is under way stays so
        else:
            self._break(host)

    def recover(self, host: str) -> None:
        """Bring a host back: whoever still speaks with its past is told."""
        self.dark.pop(host, None)
        self._break(host)

    def _break(self, host: str) -> None:
        for connection in list(self.connections):
            if host in connection.hosts:
                connection.cut()

    def _pipes_on(self, path: Path) -> list[Pipe]:
        return [pipe for connection in self.connections for pipe in connection.pipes if pipe.path is path]

    def _pipes_of(self, host: str) -> list[Pipe]:
        return [
            pipe for connection in self.connections for pipe in connection.pipes if host in connection.hosts
        ]


class Endpoint:
    """Implements `replication.transport.Network` for one host."""

    def __init__(self, network: SimNetwork, host: str) -> None:
        self._network = network
        self.host = host

    async def dial(self, address: str) -> SimStream:
        network = self._network
        target = address.rpartition(":")[0]
        there, back = network.path(self.host, target), network.path(target, self.host)
        network.dials += 1
        if target in network.dark or there.blocked or back.blocked:
            await trio.sleep(CONNECT_TIMEOUT)
            raise ConnectFailed(f"{address}: timed out")
        await trio.sleep(there.transit() + back.transit())
        if target in network.unlisted:
            network.refused += 1
            raise ConnectFailed(f"{address}: refused")
        listener = network._listeners.get(target)
        if listener is None:
            raise ConnectFailed(f"{address}: refused")
        connection = Connection(network, self.host, target)
        listener.nursery.start_soon(listener.handler, connection.listener)
        return connection.dialer

    async def listen(
        self,
        handler: Handler,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with trio.open_nursery() as nursery:
            listener = self._network._listeners[self.host] = _Listener(handler, nursery)
            task_status.started(f"{self.host}:1")
            try:
                await trio.sleep_forever()
            finally:
                if self._network._listeners.get(self.host) is listener:
                    del self._network._listeners[self.host]

    async def resolve(self, address: str) -> list[str]:
        return [address]


def _leave(path: Path) -> None:
    """Leave a path as it is."""
