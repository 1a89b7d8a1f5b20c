"""What the machines of one node share: who the node is, its links, its store, time and chance.

Nothing here waits or sends. A machine puts messages into the queues of a `Link`; the driver (`node`)
takes them out in the order that `Outbox.take` gives: control before data before bulk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from copy import copy
from random import Random
from typing import Any, Final

import attrs
import structlog

from replication.errors import LocalProtocolError
from replication.messages import Grouped, Hello, Message
from replication.options import Options
from storage.changes import Replica


@attrs.frozen
class Identity:
    """Who a node is: 16 bytes each, see `Hello`."""

    cluster: bytes
    node: bytes
    boot: bytes


def _nothing() -> None:
    """Stand in for a callback that the driver sets."""


# Control messages of one link that may wait; more means that the peer does not read.
CONTROL_BYTES_MAX: Final = 16 * 1024 * 1024


class Outbox:
    """What waits to be sent on one connection, in the order of importance: control, data, bulk."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] = _nothing
        self.closing: str | None = None  # why it is to be closed once the queues are empty
        self.dropped: str | None = None  # why it is to be closed at once
        self._control: deque[bytes] = deque()
        self._data: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self.control_bytes = 0
        self.data_bytes = 0
        self.data_sent = 0  # bytes of data taken to be sent so far
        self.bulk_bytes = 0
        self.sent_bytes = 0

    def put_control(self, frame: bytes) -> None:
        self._control.append(frame)
        self.control_bytes += len(frame)
        if self.control_bytes > CONTROL_BYTES_MAX:
            self.drop("it does not read")
        self.wake()

    def put_data(self, frame: bytes) -> None:
        self._data.append(frame)
        self.data_bytes += len(frame)
        self.wake()

    def put_bulk(self, frame: bytes) -> None:
        self._bulk.append(frame)
        self.bulk_bytes += len(frame)
        self.wake()

    def clear_data(self) -> None:
        self._data.clear()
        self.data_bytes = 0

    def close(self, reason: str) -> None:
        if self.closing is None:
            self.closing = reason
            self.wake()

    def drop(self, reason: str) -> None:
        if self.dropped is None:
            self.dropped = reason
            self._control.clear()
            self.clear_data()
            self._bulk.clear()
            self.wake()

    def take(self, bytes_max: int) -> bytes:
        """Return the next frames to be sent, about `bytes_max` of them at most; b"" if none waits."""
        frames: list[bytes] = []
        size = 0
        while size < bytes_max:
            frame = self._next()
            if frame is None:
                break
            frames.append(frame)
            size += len(frame)
        self.sent_bytes += size
        return b"".join(frames)

    def _next(self) -> bytes | None:
        if self._control:
            frame = self._control.popleft()
            self.control_bytes -= len(frame)
            return frame
        if self._data:
            frame = self._data.popleft()
            self.data_bytes -= len(frame)
            self.data_sent += len(frame)
            return frame
        if self._bulk:
            frame = self._bulk.popleft()
            self.bulk_bytes -= len(frame)
            return frame
        return None


class Link:
    """One authenticated connection with a peer, as the machines see it. Dies with its connection.

    The machines of a further group have a `Link` of their own over the same connection (`of_group`): what they send
    says that it is about that group.
    """

    def __init__(
        self,
        peer: Hello,
        *,
        outgoing: bool,
        number: int,
        encode: Callable[[Message], bytes],
        outbox: Outbox | None = None,
    ) -> None:
        self.peer = peer
        self.node = peer.node
        self.boot = peer.boot
        self.outgoing = outgoing
        self.number = number  # grows with each link of this node
        self.encode = encode
        self.outbox = Outbox() if outbox is None else outbox
        self.received_bytes = 0

    def __repr__(self) -> str:
        return f"<Link {self.number} {'to' if self.outgoing else 'from'} {self.node.hex()[:8]}>"

    def of_group(self, group: int) -> Link:
        """Return this connection for the machines of a group that not all nodes carry."""
        return Link(
            self.peer,
            outgoing=self.outgoing,
            number=self.number,
            encode=lambda message: self.encode(Grouped(group, message)),
            outbox=self.outbox,
        )

    @property
    def is_open(self) -> bool:
        return self.outbox.closing is None and self.outbox.dropped is None

    @property
    def closing(self) -> str | None:
        """Why the connection is to be closed once everything queued is sent."""
        return self.outbox.closing

    @property
    def dropped(self) -> str | None:
        """Why the connection is to be closed at once."""
        return self.outbox.dropped

    @property
    def data_bytes(self) -> int:
        """The bytes of data that wait, of all groups."""
        return self.outbox.data_bytes

    @property
    def data_sent(self) -> int:
        return self.outbox.data_sent

    @property
    def bulk_bytes(self) -> int:
        return self.outbox.bulk_bytes

    @property
    def queued_bytes(self) -> int:
        """All bytes that wait."""
        outbox = self.outbox
        return outbox.control_bytes + outbox.data_bytes + outbox.bulk_bytes

    def send(self, message: Message) -> None:
        """Queue a control message."""
        self.outbox.put_control(self.framed(message))

    def send_data(self, message: Message) -> int:
        """Queue a data message; return its bytes. Whoever calls it bounds what waits (`data_bytes`)."""
        frame = self.framed(message)
        self.outbox.put_data(frame)
        return len(frame)

    def send_frame(self, frame: bytes) -> None:
        """Queue a frame of data that was encoded already, for several links at once."""
        self.outbox.put_data(frame)

    def send_control_frame(self, frame: bytes) -> None:
        """Queue a control message that was encoded already, for several links at once."""
        self.outbox.put_control(frame)

    def send_bulk(self, message: Message) -> None:
        """Queue a piece of a body."""
        self.outbox.put_bulk(self.framed(message))

    def framed(self, message: Message) -> bytes:
        """Encode a message. One that no frame can hold ends the link and nothing else: then it is empty."""
        try:
            return self.encode(message)
        except LocalProtocolError as error:
            self.drop(str(error))
            return b""

    def clear_data(self) -> None:
        """Forget the data that waits, of all groups."""
        self.outbox.clear_data()

    def close(self, reason: str) -> None:
        """Close the connection once everything queued is sent."""
        self.outbox.close(reason)

    def drop(self, reason: str) -> None:
        """Close the connection now."""
        self.outbox.drop(reason)


class Histogram:
    """How often a duration in seconds fell between powers of two of a millisecond."""

    def __init__(self) -> None:
        self._counts = [0] * 24
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[min(int(max(seconds, 0.0) * 1000).bit_length(), 23)] += 1
        self.sum += max(seconds, 0.0)

    def buckets(self) -> list[tuple[float, int]]:
        """Return (upper bound in seconds, count) of every bucket; the last has no bound."""
        bounds = [*(2**exponent / 1000 for exponent in range(23)), float("inf")]
        return list(zip(bounds, self._counts, strict=True))


class Core:
    """Shared by the machines of one node; made by `Replicator`."""

    def __init__(
        self,
        identity: Identity,
        options: Options,
        replica: Replica,
        *,
        rng: Random,
        wall_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
        software: str = "",
    ) -> None:
        self.identity = identity
        self.options = options
        self.replica = replica
        self.rng = rng
        self.wall_ms = wall_ms
        self.entropy = entropy
        self.software = software
        self.links: dict[bytes, Link] = {}  # by the peer's node id, at most one each
        self.log = structlog.get_logger().bind(node=identity.node.hex()[:8])
        self.counters: dict[str, float] = {}
        self.propagation = Histogram()  # from a write's stamp to its being applied here, by pushes
        self.dial: Callable[[str, bytes | None], None] = _no_driver  # (address, node id if known)
        self.make_durable: Callable[[Callable[[], None]], None] = _no_driver  # then call back, in a tick
        self.rotate_soon: Callable[[str], None] = _no_driver  # why: fresh origins after this tick
        self.claim_soon: Callable[[], None] = _no_driver  # make durable and tell all peers
        self.on_data_cleared: Callable[[Link], None] = _no_driver  # frames of all its groups are lost
        self.hurry: Callable[[], None] = _nothing  # an input has made something due before the next tick
        self.now = 0.0  # of the input that is being handled

    def of_group(self, group: int) -> Core:
        """Return what the machines of a further group share: the same node, with links and records of their own.

        To be called when the driver has set its callbacks.
        """
        other = copy(self)
        other.replica = self.replica.of_group(group)
        other.links = {}
        other.log = self.log.bind(group=group)
        return other

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter of the metrics."""
        self.counters[name] = self.counters.get(name, 0) + amount

    def broadcast(self, message: Message) -> None:
        """Send a control message on every link."""
        for link in self.links.values():
            link.send(message)


def _no_driver(*args: Any) -> Any:
    raise RuntimeError("no driver has been set")
