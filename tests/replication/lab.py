"""Replicators joined by wires in one thread, under a clock that the test turns.

Every message goes through its bytes. A wire can be cut, and can drop or hold what a test names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

import attrs

from replication.core import Identity, Link
from replication.frames import FrameReader, encode
from replication.messages import Message
from replication.options import Options
from replication.rejoin import Standing
from replication.replicator import Replicator
from tests.replication.model_replica import ModelReplica

CLUSTER = b"c" * 16
NAMESPACE = bytes(16)
M = TypeVar("M")

FAST = Options(
    purge_interval=1.0,
    settle_interval=1.5,
    sync_interval=1e9,
    verify_interval=1e9,
    start_gate=0.5,
    members_interval=30.0,
)


def place(key: str) -> bytes:
    return NAMESPACE + key.encode()


@attrs.define(eq=False)
class Node:
    """One replicator over its model of a store."""

    name: str
    replica: ModelReplica
    replicator: Replicator
    due: float = 0.0
    durables: list[Callable[[], None]] = attrs.field(factory=list)
    rotations: list[str] = attrs.field(factory=list)
    dead_letters: list[Any] = attrs.field(factory=list)
    published: list[Any] = attrs.field(factory=list)

    @property
    def id(self) -> bytes:
        return self.replica.node_id

    def put(self, key: str, value: bytes | str) -> None:
        self.replica.put(place(key), value.encode() if isinstance(value, str) else value)
        self.replicator.committed(self.replicator.core.now)
        self.due = 0.0

    def delete(self, key: str) -> None:
        self.replica.delete(place(key))
        self.replicator.committed(self.replicator.core.now)
        self.due = 0.0

    def get(self, key: str) -> bytes | None:
        return self.replica.value(place(key))


@attrs.define(eq=False)
class Wire:
    """Both ends of one connection."""

    ends: tuple[tuple[Node, Link], tuple[Node, Link]]
    readers: tuple[FrameReader, FrameReader]
    drops: Callable[[Node, Message], bool] = lambda sender, message: False
    carried: list[tuple[str, Message]] = attrs.field(factory=list)
    is_cut: bool = False


class Lab:
    """Nodes, wires and the clock."""

    def __init__(self, *names: str, options: Options = FAST, seed: int = 1) -> None:
        self.now = 1000.0
        self.wires: list[Wire] = []
        self.random = Random(seed)
        self.nodes: dict[str, Node] = {}
        self.options = options
        for name in names:
            self.add(name)

    def add(self, name: str, *, founds: bool | None = None, options: Options | None = None) -> Node:
        """Start a node; the first one founds the cluster, the others join it."""
        replica = ModelReplica(name.encode().ljust(16, b"\0"), now_ms=self.wall_ms)
        return self.start(name, replica, founds=not self.nodes if founds is None else founds, options=options)

    def start(
        self, name: str, replica: ModelReplica, *, founds: bool, options: Options | None = None
    ) -> Node:
        identity = Identity(CLUSTER, replica.node_id, self.random.randbytes(16))
        replicator = Replicator(
            identity,
            options or self.options,
            replica,
            rng=Random(name),
            wall_ms=self.wall_ms,
            entropy=self.random.randbytes,
        )
        node = Node(name, replica, replicator)
        core = replicator.core
        core.dial = lambda address, peer: None
        core.make_durable = node.durables.append
        core.claim_soon = lambda: node.durables.append(replicator.vectors.tell_all)
        core.rotate_soon = node.rotations.append
        replicator.rejoin.dead_letter = node.dead_letters.extend
        replicator.on_publish = node.published.append
        replicator.open(self.now, founds=founds)
        replicator.after_commit()
        self.nodes[name] = node
        return node

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.now * 1000)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    # --- wires

    def link(self, left: str, right: str) -> Wire:
        """Connect two nodes, as the driver does after a handshake."""
        ends = []
        for name, other, outgoing in ((left, right, True), (right, left, False)):
            node, peer = self.nodes[name], self.nodes[other]
            hello = peer.replicator.hello(bytes(32))
            assert node.replicator.admit(hello) is None
            link = node.replicator.link_up(hello, outgoing=outgoing, now=self.now, encode=encode)
            assert link is not None
            ends.append((node, link))
        wire = Wire(
            (ends[0], ends[1]), (FrameReader(is_authenticated=True), FrameReader(is_authenticated=True))
        )
        self.wires.append(wire)
        for node, _ in ends:
            node.replicator.after_commit()
        return wire

    def link_all(self) -> None:
        names = list(self.nodes)
        for index, left in enumerate(names):
            for right in names[index + 1 :]:
                self.link(left, right)

    def cut(self, wire: Wire) -> None:
        wire.is_cut = True
        self.wires.remove(wire)
        for node, link in wire.ends:
            node.replicator.link_down(link, self.now)
            node.replicator.after_commit()

    def wire(self, left: str, right: str) -> Wire:
        names = {left, right}
        return next(one for one in self.wires if {node.name for node, _ in one.ends} == names)

    def step(self) -> bool:
        """Carry what waits on all wires, once; tell whether there was anything."""
        busy = False
        for wire in list(self.wires):
            for index in (0, 1):
                busy = self._carry(wire, index) or busy
        for node in self.nodes.values():
            durables, node.durables[:] = list(node.durables), []
            for then in durables:
                node.replicator.core.now = self.now
                then()
                node.replicator.after_commit()
                busy = True
        return busy

    def _carry(self, wire: Wire, index: int) -> bool:
        (sender, outgoing), (receiver, incoming) = wire.ends[index], wire.ends[1 - index]
        if wire.is_cut:
            return False
        data = outgoing.outbox.take(1 << 20)
        if outgoing.dropped or (outgoing.closing and not data):
            self.cut(wire)
            return True
        if not data:
            return False
        messages: list[Message] = []
        for message in wire.readers[index].feed(data):
            wire.carried.append((sender.name, message))
            if not wire.drops(sender, message):
                messages.append(message)
        receiver.replicator.on_messages(incoming, messages, self.now)
        receiver.replicator.after_commit()
        receiver.due = 0.0
        return True

    def run(self, seconds: float, resolution: float = 0.01) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            while self.step():
                pass
            for node in self.nodes.values():
                if node.due <= self.now:
                    node.due = node.replicator.tick(self.now)
                    if node.replicator.needs_tick_of_store(self.now):
                        node.replicator.tick_in_store(self.now)
                    node.replicator.after_commit()
            while self.step():
                pass
            self.now += resolution

    def messages(self, left: str, right: str, kind: type[M]) -> list[M]:
        """Return the messages of a type that `left` has sent to `right` on their present wire."""
        wire = self.wire(left, right)
        return [message for sender, message in wire.carried if sender == left and isinstance(message, kind)]


def ready(lab: Lab) -> Lab:
    """Link all nodes and let them become whole members."""
    lab.link_all()
    lab.run(1.0)
    assert all(node.replicator.rejoin.standing == Standing.READY for node in lab.nodes.values())
    return lab


def contents(node: Node) -> dict[Any, Any]:
    """Return the cells that a node holds, without those of the cluster itself."""
    return {cell: stamp for cell, (stamp, _) in node.replica.cells.items() if cell[0].startswith(NAMESPACE)}


def is_equal(nodes: Sequence[Node]) -> bool:
    return all(
        node.replica.vector() == nodes[0].replica.vector() and contents(node) == contents(nodes[0])
        for node in nodes
    )
