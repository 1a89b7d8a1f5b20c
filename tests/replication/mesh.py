"""A cluster of membership machines in memory: virtual time, messages with delays, links that break.

Everything but the data: what belongs to the store is a dictionary, and records of the cluster reach all nodes
that can be reached, at once. One heap of events drives all nodes, so a seed decides everything.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, cast

import attrs
import pytest
import structlog

from replication.clock import ClockGate
from replication.core import Core, Identity, Link
from replication.frames import encode
from replication.membership import Membership
from replication.messages import (
    Bye,
    Hello,
    MemberRecord,
    Members,
    Message,
    Ping,
    PingRequest,
    PingResult,
    Pong,
    Reject,
    State,
)
from replication.options import Options
from replication.roster import Roster
from replication.topology import Topology
from storage.changes import Replica, Stamp, VersionVector

WALL_START_MS = 1_760_000_000_000
CLUSTER = b"c" * 16
SILENT: Any = cast(Any, structlog.make_filtering_bound_logger(logging.CRITICAL))(None, [], {})
FRAME_OVERHEAD = 60  # TLS, TCP and IP, a frame alone in its packet


class SystemRecords:
    """The part of a Replica that these machines use."""

    def __init__(self, node: bytes) -> None:
        self.node_id = node
        self.hlc = 0
        self.system: dict[bytes, tuple[bytes, Stamp]] = {}
        self.local: dict[str, bytes] = {}
        self.seq = 0
        self.vector_: dict[bytes, int] = {}
        self.on_put: Callable[[bytes, bytes, Stamp], None] = lambda name, value, stamp: None

    def observe(self, hlc: int) -> None:
        self.hlc = max(self.hlc, hlc)

    def put_system(self, name: bytes, value: bytes) -> None:
        self.seq += 1
        self.hlc += 1
        stamp = Stamp(self.hlc, self.node_id, self.seq)
        self.take(name, value, stamp)
        self.on_put(name, value, stamp)

    def take(self, name: bytes, value: bytes, stamp: Stamp) -> None:
        if name not in self.system or self.system[name][1] < stamp:
            self.system[name] = (value, stamp)
        self.vector_[stamp.origin] = max(self.vector_.get(stamp.origin, 0), stamp.seq)
        self.observe(stamp.hlc)

    def get_system(self, name: bytes) -> tuple[bytes, Stamp] | None:
        return self.system.get(name)

    def list_system(self, prefix: bytes) -> list[tuple[bytes, bytes, Stamp]]:
        return [(name, *self.system[name]) for name in sorted(self.system) if name.startswith(prefix)]

    def durable(self) -> VersionVector:
        return VersionVector(self.vector_)

    def get_local(self, name: str) -> bytes | None:
        return self.local.get(name)

    def put_local(self, name: str, value: bytes | None) -> None:
        self.local.pop(name, None)
        if value is not None:
            self.local[name] = value


class MeshLink(Link):
    """One end of a connection; what is sent goes into the mesh's heap at once."""

    def __init__(self, mesh: Mesh, owner: MeshNode, peer: Hello, *, outgoing: bool, number: int) -> None:
        super().__init__(peer, outgoing=outgoing, number=number, encode=encode)
        self.mesh = mesh
        self.owner = owner
        self.core = owner.core  # of the process run that it belongs to
        self.other: MeshLink | None = None
        self.is_up = False  # announced to the machines
        self.arrives_at = 0.0

    @property
    def is_here(self) -> bool:
        """Tell whether the process that holds this end still runs."""
        return self.owner.is_running and self.owner.core is self.core

    def send(self, message: Message) -> None:
        if self.is_open and self.other is not None:
            self.mesh.carry(self, message)

    def close(self, reason: str) -> None:
        if self.is_open:
            self.outbox.closing = reason
            self.mesh.end(self, after=self.arrives_at)

    def drop(self, reason: str) -> None:
        if self.dropped is None:
            self.outbox.dropped = reason
            self.mesh.end(self, after=self.mesh.now)


class MeshNode:
    """The machines of one node, composed as the daemon does it."""

    def __init__(self, mesh: Mesh, number: int, options: Options, *, boot: int = 0) -> None:
        self.mesh = mesh
        self.number = number
        self.address = f"10.0.{number // 256}.{number % 256}:6380"
        self.skew_ms = 0
        self.states: list[tuple[float, bytes, State]] = []
        self.is_running = True
        self.stalled_until = 0.0
        self.inbox: list[Callable[[], None]] = []
        self.records = SystemRecords(node_id(number))
        self.records.on_put = lambda name, value, stamp: mesh.replicate(self, name, value, stamp)
        self.options = options
        self.boot_number = boot
        self.start()

    def start(self) -> None:
        """Begin a process run."""
        boot = self.number.to_bytes(8, "big") + self.boot_number.to_bytes(8, "big")
        self.core = Core(
            Identity(CLUSTER, node_id(self.number), boot),
            self.options,
            cast(Replica, self.records),
            rng=Random(self.mesh.rng.getrandbits(64)),
            wall_ms=lambda: self.wall_ms,
            entropy=self.mesh.rng.randbytes,
        )
        self.core.log = SILENT
        self.core.dial = self.dial
        self.core.hurry = self.hurry
        self.is_hurried = False
        self.core.now = self.mesh.now
        self.roster = Roster(self.core)
        self.clock = ClockGate(self.core, self.roster)
        self.membership = Membership(self.core, self.roster, self.clock)
        self.topology = Topology(self.core, self.roster, self.membership)
        self.roster.liveness = self.membership
        self.membership.on_state_changed = lambda record, before: self.states.append(
            (self.mesh.now, record.node, record.state)
        )
        self.dialling: dict[str, None] = {}
        self.dials: list[tuple[float, str]] = []
        self.is_running = True
        self.tick_at = -1.0
        self.mesh.at(self.mesh.now, self.tick)

    @property
    def id(self) -> bytes:
        return node_id(self.number)

    @property
    def wall_ms(self) -> int:
        return WALL_START_MS + int(self.mesh.now * 1000) + self.skew_ms

    @property
    def links(self) -> list[MeshLink]:
        return cast(list[MeshLink], list(self.core.links.values()))

    def hello(self) -> Hello:
        own = self.membership.own
        return Hello(
            version=1,
            cluster=CLUSTER,
            node=self.id,
            boot=own.boot,
            nonce=bytes(32),
            wall_ms=self.wall_ms,
            hlc=self.records.hlc,
            incarnation=own.incarnation,
            dialable=own.dialable,
            addresses=own.addresses,
            zone=own.zone,
        )

    def dial(self, address: str, node: bytes | None) -> None:
        self.dials.append((self.mesh.now, address))
        if address not in self.dialling:
            self.dialling[address] = None
            self.mesh.connect(self, address, node)

    def input(self, handle: Callable[[], None]) -> None:
        """Give the machines something to do, unless the process stands still: then later."""
        if self.mesh.now < self.stalled_until:
            self.inbox.append(handle)
            return
        self.core.now = self.mesh.now
        handle()
        if self.is_hurried:
            self.tick()

    def hurry(self) -> None:
        self.is_hurried = True

    def stall(self, seconds: float) -> None:
        self.stalled_until = self.mesh.now + seconds
        self.mesh.at(self.stalled_until, self._resume)

    def _resume(self) -> None:
        waiting, self.inbox = self.inbox, []
        for handle in waiting:
            self.input(handle)
        self.tick()

    def tick(self) -> None:
        if not self.is_running or self.mesh.now < self.stalled_until:
            return
        now = self.core.now = self.mesh.now
        self.is_hurried = False
        at = min(machine.tick(now) for machine in (self.roster, self.clock, self.membership, self.topology))
        if self.is_hurried:
            self.is_hurried = False
            at = min(at, now + 1e-6)
        assert at > now - 1e-9, "a machine wants to be called in the past"
        if not self.mesh.now < self.tick_at <= at:
            self.tick_at = at
            self.mesh.at(at, self._tick_if_due)

    def _tick_if_due(self) -> None:
        if self.mesh.now >= self.tick_at:
            self.tick()

    def receive(self, link: MeshLink, message: Message) -> None:
        membership, now = self.membership, self.mesh.now
        handlers: dict[type[Any], Callable[[Any, Any, float], None]] = {
            Ping: membership.on_ping,
            Pong: membership.on_pong,
            PingRequest: membership.on_ping_request,
            PingResult: membership.on_ping_result,
            Members: membership.on_members,
            Bye: membership.on_bye,
        }
        if isinstance(message, Bye):
            self.topology.on_bye(link, message, now)
        if not isinstance(message, Reject):
            handlers[type(message)](link, message, now)

    def on_up(self, link: MeshLink) -> None:
        existing = cast(MeshLink | None, self.core.links.get(link.node))
        if existing is not None:
            survivor = self.topology.choose(existing, link)
            if survivor is existing:
                link.drop("there is another link")
                return
            del self.core.links[link.node]
            self.down(existing)
            existing.drop("another link has replaced it")
        link.is_up = True
        self.core.links[link.node] = link
        for machine in (self.clock, self.membership, self.topology):
            machine.on_link_up(link, self.mesh.now)

    def down(self, link: MeshLink) -> None:
        if not link.is_up:
            return
        link.is_up = False
        if self.core.links.get(link.node) is link:
            del self.core.links[link.node]
        if link.dropped is None and link.closing is None:
            link.outbox.dropped = "it broke"
        for machine in (self.clock, self.membership, self.topology):
            machine.on_link_down(link, self.mesh.now)

    def state_of(self, other: MeshNode) -> State | None:
        return self.membership.state(other.id)


class Mesh:
    """The nodes, the network between them, and the heap of what is to come."""

    def __init__(self, seed: int = 0, *, latency: tuple[float, float] = (0.0005, 0.002)) -> None:
        self.rng = Random(seed)
        self.now = 1000.0
        self.latency = latency
        self.nodes: list[MeshNode] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._numbers = 0
        self.blocked: dict[tuple[int, int], None] = {}  # (from, to): nothing arrives
        self.sent_bytes: dict[int, int] | None = None
        self.received_bytes: dict[int, int] = {}

    # --- building

    def add(self, *, admit: bool = True, options: Options | None = None, **changes: Any) -> MeshNode:
        number = len(self.nodes)
        options = options or Options()
        address = f"10.0.{number // 256}.{number % 256}:6380"
        changes.setdefault("addresses", (address,))
        changes.setdefault("join", ("10.0.0.0:6380",) if number else ())
        node = MeshNode(self, number, attrs.evolve(options, **changes))
        if self.nodes:
            node.records.system.update(self.nodes[0].records.system)
        self.nodes.append(node)
        if admit:
            node.core.now = self.now
            node.roster.admit(node.id, self.now)
        return node

    def at(self, time: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, event))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            time, _, event = heapq.heappop(self._heap)
            self.now = max(self.now, time)
            event()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, limit: float, step: float = 0.25) -> float:
        """Run until the condition holds; return how long that took. Fail after `limit` seconds."""
        start = self.now
        while not condition():
            if self.now - start > limit:
                pytest.fail(f"not after {limit} s")
            self.run(step)
        return self.now - start

    # --- the network

    def delay(self) -> float:
        low, high = self.latency
        return low + (high - low) * self.rng.random()

    def is_cut(self, a: MeshNode, b: MeshNode) -> bool:
        return (a.number, b.number) in self.blocked

    def cut(self, a: MeshNode, b: MeshNode, *, one_way: bool = False) -> None:
        """Let nothing pass any more; established connections stay, as they do in life."""
        self.blocked[a.number, b.number] = None
        if not one_way:
            self.blocked[b.number, a.number] = None

    def heal(self) -> None:
        self.blocked.clear()

    def connect(self, source: MeshNode, address: str, node: bytes | None) -> None:
        target = next((other for other in self.nodes if other.address == address), None)
        reachable = target is not None and target.options.dialable and target is not source
        cut = target is not None and (self.is_cut(source, target) or self.is_cut(target, source))
        timeout = 3.0 if cut else 4 * self.delay()
        boots = (source.boot_number, None if target is None else target.boot_number)

        def finish() -> None:
            if not source.is_running or source.boot_number != boots[0]:
                return
            source.dialling.pop(address, None)
            alive = target is not None and target.is_running and target.boot_number == boots[1]
            stalled = target is not None and self.now < target.stalled_until
            if target is None or not reachable or not alive or cut or stalled or _refuses(target, source):
                source.input(lambda: _dial_failed(source, address, node))
            else:
                self._link(source, target)

        self.at(self.now + timeout, finish)

    def _link(self, source: MeshNode, target: MeshNode) -> None:
        self._numbers += 1
        out = MeshLink(self, source, target.hello(), outgoing=True, number=2 * self._numbers)
        back = MeshLink(self, target, source.hello(), outgoing=False, number=2 * self._numbers + 1)
        out.other, back.other = back, out
        source.input(lambda: source.on_up(out))
        self.at(self.now + self.delay(), lambda: self._up(back))

    def _up(self, link: MeshLink) -> None:
        if link.is_here and link.is_open:
            link.owner.input(lambda: link.owner.on_up(link) if link.is_open else None)

    def carry(self, link: MeshLink, message: Message) -> None:
        other = link.other
        assert other is not None
        if self.is_cut(link.owner, other.owner):
            return
        link.arrives_at = max(self.now + self.delay(), link.arrives_at)  # a stream keeps the order
        size = 100
        if self.sent_bytes is not None:
            size = len(encode(message)) + FRAME_OVERHEAD
            self.sent_bytes[link.owner.number] = self.sent_bytes.get(link.owner.number, 0) + size
            number = other.owner.number
            self.received_bytes[number] = self.received_bytes.get(number, 0) + size
        self.at(link.arrives_at, lambda: self._arrive(other, message, size))

    def _arrive(self, link: MeshLink, message: Message, size: int) -> None:
        node = link.owner

        def handle() -> None:
            link.received_bytes += size
            if link.is_open and link.is_up:
                node.receive(link, message)
            elif link.is_open:
                # The first messages may come before this end is up.
                self.at(self.now + 0.001, lambda: self._arrive(link, message, 0))

        if link.is_here:
            node.input(handle)

    def end(self, link: MeshLink, *, after: float) -> None:
        """One side has closed: it is down there now, and at the other end as soon as that hears of it."""
        owner = link.owner
        self.at(self.now, lambda: owner.input(lambda: owner.down(link)) if link.is_here else None)
        other = link.other
        if other is not None and not self.is_cut(owner, other.owner):
            self.at(max(after, self.now) + self.delay(), lambda: self._break(other))

    def _break(self, link: MeshLink) -> None:
        node = link.owner
        if link.is_here and link.dropped is None:
            node.input(lambda: node.down(link))

    # --- processes

    def kill(self, node: MeshNode, *, silent: bool = False) -> None:
        """End a process; `silent`: with its machine, so that nobody is told that connections are gone."""
        node.is_running = False
        for link in node.links:
            link.outbox.dropped = "killed"
            if link.other is not None and not silent:
                other = link.other
                self.at(self.now + self.delay(), lambda other=other: self._break(other))  # type: ignore[misc]

    def clone(self, node: MeshNode) -> MeshNode:
        """Start a process with a copy of the node's data directory, on another machine."""
        other = self.add(admit=False)
        other.is_running = False
        other.number, other.boot_number = node.number, node.boot_number + 100
        other.records = node.records
        other.start()
        return other

    def restart(self, node: MeshNode) -> None:
        if node.is_running:
            self.kill(node)
        node.boot_number += 1
        node.start()

    def replicate(self, source: MeshNode, name: bytes, value: bytes, stamp: Stamp) -> None:
        for node in self.nodes:
            if node is not source and not self.is_cut(source, node):
                node.records.take(name, value, stamp)
                node.roster.changed()

    # --- looking

    def running(self) -> list[MeshNode]:
        return [node for node in self.nodes if node.is_running]

    def agrees(self) -> bool:
        """Tell whether all running nodes hold all others that run alive, and nobody else."""
        running = self.running()
        return all(
            node is other or (node.state_of(other) == State.ALIVE) == other.is_running
            for node in running
            for other in self.nodes
        )

    def events(self, state: State) -> Iterator[tuple[float, MeshNode, bytes]]:
        for node in self.nodes:
            for time, other, new in node.states:
                if new == state:
                    yield time, node, other


class LoneLink(Link):
    """A link without another end, for tests of one machine: keeps what is sent."""

    def __init__(self, peer: Hello, *, outgoing: bool = True, number: int = 1) -> None:
        super().__init__(peer, outgoing=outgoing, number=number, encode=encode)
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def members(self) -> list[Any]:
        """Return all member records sent so far."""
        return [record for message in self.sent if isinstance(message, Members) for record in message.members]


def hello_of(number: int, **changes: Any) -> Hello:
    """Return what a node that is not in the mesh might say."""
    hello = Hello(
        version=1,
        cluster=CLUSTER,
        node=node_id(number),
        boot=number.to_bytes(16, "big"),
        nonce=bytes(32),
        wall_ms=WALL_START_MS,
        hlc=WALL_START_MS << 16,
        incarnation=WALL_START_MS,
        addresses=(f"10.0.{number // 256}.{number % 256}:6380",),
    )
    return attrs.evolve(hello, **changes)


def record_of(number: int, **changes: Any) -> MemberRecord:
    """Return the record of a node that is not in the mesh."""
    hello = hello_of(number)
    record = MemberRecord(
        node=hello.node,
        incarnation=hello.incarnation,
        state=State.ALIVE,
        boot=hello.boot,
        addresses=hello.addresses,
        since_hlc=hello.hlc,
    )
    return attrs.evolve(record, **changes)


def link_to(node: MeshNode, number: int, *, outgoing: bool = True, **changes: Any) -> LoneLink:
    """Bring a link with a node that is not in the mesh up."""
    link = LoneLink(hello_of(number, **changes), outgoing=outgoing, number=1000 + number)
    node.core.now = node.mesh.now
    node.core.links[link.node] = link
    for machine in (node.clock, node.membership, node.topology):
        machine.on_link_up(link, node.mesh.now)
    return link


def unlink(node: MeshNode, link: LoneLink, *, reason: str = "it broke") -> None:
    """Let a link break."""
    link.outbox.dropped = reason
    del node.core.links[link.node]
    for machine in (node.clock, node.membership, node.topology):
        machine.on_link_down(link, node.mesh.now)


def node_id(number: int) -> bytes:
    """Return ids whose order is not that of the numbers."""
    return Random(number).randbytes(12) + number.to_bytes(4, "big")


def _refuses(target: MeshNode, source: MeshNode) -> bool:
    return target.roster.is_removed(source.id)


def _dial_failed(source: MeshNode, address: str, node: bytes | None) -> None:
    source.membership.on_dial_failed(node, source.mesh.now)
    source.topology.on_dial_failed(address, node, source.mesh.now)


def vectors_of(mesh: Mesh) -> Mapping[bytes, VersionVector]:
    return {node.id: node.records.durable() for node in mesh.nodes}
