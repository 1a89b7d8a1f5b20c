"""What members claim to cover: telling one's own vector, and remembering everybody's.

A vector is a claim: it only ever states what a power cut cannot take any more (R5.3). Beside it goes `have`,
what is applied but perhaps not yet safe; it claims nothing and lets a peer see what it lacks a second earlier.
A link begins with everything, then carries what has changed, every 200 ms at most and only if something
has. In a partial view the vectors of members that are not linked are passed on now and then, a few at a time,
except to whom they have come from: what is new in them since the last time, and the whole to who has nothing that it
could be added to.

With the vector goes `settled_hlc`: the node will never write anything more with a clock value up to that. For what
it wrote is in the vector, and its clock value is kept on disk, so not even a restart with a wrong wall clock takes
it back. That moves on with time, also while nobody writes.

In a group that not all nodes carry, the vector also names the carriers that the node knows: whoever counts on it for
garbage collection must know these as well. In the common group the vector itself shows that, for it covers the records
of the members.

Origins that will never write again and that every member covers to the same end are *sealed* (R1.5): a full
vector gives their number and the XOR of their hashes instead of listing them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Final

import attrs

from replication.core import Core, Link
from replication.messages import HELD_MAX, Sealed, Vector
from replication.shapes import VECTOR_ENTRIES_MAX
from storage.changes import VersionVector

if TYPE_CHECKING:
    from replication.dissemination import Dissemination

_SETTLED: Final = "settled_hlc"
# Vectors passed on in one interval: the largest take a third of a millisecond each to encode.
_RELAYED_AT_ONCE: Final = 4
# A message's number, without these bits, tells how often its member has claimed less than before.
_ERA_BITS: Final = 32
CLOSED: Final = b"closed:"  # + origin: the name of the record that says that it writes no more


@attrs.define(eq=False)
class Known:
    """What one member has claimed last."""

    node: bytes
    boot: bytes
    number: int
    vector: VersionVector
    floors: VersionVector
    horizon: int
    ready: bool
    head_hlc: int = 0
    at: float = 0.0
    is_complete: bool = True  # False: its sealed origins are still to come
    settled_hlc: int = 0
    former: VersionVector | None = None  # what its boot before had claimed, until it is compared
    carriers: tuple[bytes, ...] = ()  # that it knew
    held: tuple[bytes, ...] = ()  # origins that wait there
    have: VersionVector = attrs.field(factory=VersionVector)  # what it held when its link came up, no claim
    cuts: VersionVector = attrs.field(factory=VersionVector)  # that it knew: the first void sequences

    @property
    def version(self) -> tuple[bytes, int]:
        """Return what tells this claim from others of the member: (boot, number)."""
        return self.boot, self.number

    def follows(self, before: Known) -> bool:
        """Tell whether adding to `before` gives this claim: the member has never claimed less in between."""
        is_same_era = self.boot == before.boot and self.number >> _ERA_BITS == before.number >> _ERA_BITS
        return is_same_era and self.vector.covers(before.vector)


_NOTHING: Final = Known(b"", b"", 0, VersionVector(), VersionVector(), 0, ready=False)


@attrs.frozen
class _Purge:
    """What was purged by some moment, and the vector of that moment."""

    floors: VersionVector = attrs.field(factory=VersionVector)
    horizon: int = 0
    vector: VersionVector = attrs.field(factory=VersionVector)


@attrs.define(eq=False)
class _Sent:
    """What a link's peer has been told."""

    link: Link
    durable_number: int = 0
    have_number: int = 0
    floors: VersionVector = attrs.field(factory=VersionVector)
    horizon: int = 0
    ready: bool = False
    settled_hlc: int = 0
    carriers: tuple[bytes, ...] = ()
    held: tuple[bytes, ...] = ()
    cuts: VersionVector = attrs.field(factory=VersionVector)
    relayed: dict[bytes, tuple[bytes, int]] = attrs.field(factory=dict)  # node -> (boot, number)


class Vectors:
    """Tells this node's vector to its peers, and keeps those of all members."""

    def __init__(self, core: Core, dissemination: Dissemination) -> None:
        self._core = core
        self._dissemination = dissemination
        self.known: dict[bytes, Known] = {}
        self._sent: dict[bytes, _Sent] = {}
        self._number = 0
        self._durable = core.replica.durable()
        self._durable_changes: OrderedDict[bytes, int] = OrderedDict()
        self._durable_number = 1
        self._purge = _Purge()  # the latest whose vector is durable: the one that is told
        self._purge_ahead: _Purge | None = None  # one that is not yet
        self.settled_hlc = 0  # see above; the latest that is durable
        self._settled_ahead: tuple[int, VersionVector] | None = (
            None  # one that is not yet, and the vector of its time
        )
        self._next = 0.0
        self._next_relay: float | None = None  # when the next round of passing on begins
        self._relaying: list[bytes] = []  # members whose vectors are still to be passed on in this round
        self._passed_on: dict[bytes, Known] = {}  # what all peers of that time were told last of each member
        self._peer_sealed: dict[bytes, Mapping[bytes, int]] = {}
        self.sealed: dict[bytes, int] = {}
        self.ready = False  # whether this node may push and serve
        self.relays_vectors = False  # in a partial view
        self.carriers: Callable[[], tuple[bytes, ...]] = tuple  # those that this node knows
        self.cuts: Callable[[], VersionVector] = VersionVector  # those that this node knows
        self.on_cuts: Callable[[VersionVector], None] = _ignore_cuts  # a member has told those that it knows
        self.on_known: Callable[[Link, Known], None] = _ignore  # a peer's own vector has come
        self.is_current: Callable[[bytes, bytes], bool] = _is_any  # whether a member's boot is its latest
        self.on_rollback: Callable[[bytes], None] = _ignore_rollback

    # --- telling

    def on_link_up(self, link: Link) -> None:
        """Tell a new peer everything."""
        replica = self._core.replica
        self._notice_durable()
        self._notice_purge()
        sent = _Sent(link, self._durable_number, self._dissemination.advances)
        self._sent[link.node] = sent
        sealed = self._claimed_sealed()
        have = replica.vector().merged(replica.uncovered())
        self._send(sent, self._durable.without(sealed), have.without(sealed), sealed=sealed)

    def on_link_down(self, link: Link) -> None:
        sent = self._sent.get(link.node)
        if sent is not None and sent.link is link:
            del self._sent[link.node]

    def claim_less(self) -> None:
        """Take note that this node covers less than it has claimed. Its links are to begin again.

        What waits for a vector of before would do so for ever.
        """
        self._purge_ahead = self._settled_ahead = None
        self._number = ((self._number >> _ERA_BITS) + 1) << _ERA_BITS

    def _claimed_sealed(self) -> dict[bytes, int]:
        """Return the sealed origins that this node covers: all, but for a while after it has claimed less."""
        durable = self._core.replica.durable()
        return {origin: seq for origin, seq in self.sealed.items() if durable[origin] == seq}

    def _send(
        self,
        sent: _Sent,
        vector: Mapping[bytes, int],
        have: Mapping[bytes, int],
        *,
        sealed: Mapping[bytes, int] | None = None,
    ) -> None:
        """Tell a peer what has changed; with `sealed`, all there is but for that."""
        full = sealed is not None
        replica = self._core.replica
        identity = self._core.identity
        floors = self._purge.floors
        changed = {origin: seq for origin, seq in floors.items() if full or sent.floors[origin] != seq}
        sent.floors, sent.horizon, sent.ready = floors, self._purge.horizon, self.ready
        sent.settled_hlc = self.settled_hlc
        carriers = self.carriers()
        news = carriers if full or carriers != sent.carriers else ()
        sent.carriers = carriers
        sent.held = self._held()
        sent.cuts, before = self.cuts(), VersionVector() if full else sent.cuts
        self._number += 1
        count, xor = seal_digest(sealed or {})
        sent.link.send(
            Vector(
                node=identity.node,
                boot=identity.boot,
                number=self._number,
                is_full=full,
                vector=vector,
                have=have,
                floors=changed,
                horizon=sent.horizon,
                sealed_count=count,
                sealed_xor=xor,
                head_hlc=replica.hlc,
                ready=self.ready,
                settled_hlc=self.settled_hlc,
                carriers=news,
                held=sent.held,
                cuts=sent.cuts if sent.cuts != before else {},
            )
        )

    def _held(self) -> tuple[bytes, ...]:
        return tuple(islice(self._dissemination.held, HELD_MAX))

    def _notice_durable(self) -> None:
        """Find out which entries of the durable vector have grown."""
        durable = self._core.replica.durable()
        if durable is self._durable:
            return
        before, self._durable = self._durable, durable
        self._durable_number += 1
        for origin, seq in durable.items():
            if before[origin] != seq:
                self._durable_changes[origin] = self._durable_number
                self._durable_changes.move_to_end(origin)

    def _notice_purge(self) -> None:
        """Take up what was purged, once the vector that it rests on is durable, so that both are told together.

        A floor or a horizon is a claim. A peer that heard of it before the vector would miss its own writes in what this
        node covers, and would take them for stale.
        """
        if self._purge_ahead is None:
            replica = self._core.replica
            floors, horizon = replica.floors(), replica.horizon()
            if (floors, horizon) != (self._purge.floors, self._purge.horizon):
                self._purge_ahead = _Purge(floors, horizon, replica.vector())
        if self._purge_ahead is not None and self._durable.covers(self._purge_ahead.vector):
            self._purge, self._purge_ahead = self._purge_ahead, None

    # --- settling

    def settle(self) -> int:
        """Promise to write nothing more up to the present clock value, and keep that. Inside a tick; return the value.

        `settling` is to be called once the tick is committed.
        """
        replica = self._core.replica
        replica.put_local(_SETTLED, replica.hlc.to_bytes(8, "big"))
        return replica.hlc

    def settling(self, hlc: int) -> None:
        """Take note that the promise is committed: it is told once it is durable, with all that was written before."""
        if self._settled_ahead is None:
            self._settled_ahead = (hlc, self._core.replica.vector())

    def settled(self) -> None:
        """Take note that what is committed has been made durable."""
        if self._settled_ahead is not None and self._core.replica.durable().covers(self._settled_ahead[1]):
            self.settled_hlc, self._settled_ahead = self._settled_ahead[0], None
            self.tell_all()

    @property
    def promised_hlc(self) -> int:
        """Return the clock value up to which this node has promised to write nothing more, told or about to be told."""
        return self.settled_hlc if self._settled_ahead is None else self._settled_ahead[0]

    def take_back_promise(self) -> None:
        """Promise nothing any more: what was promised rests on a clock that was wrong. Inside a tick."""
        self._core.replica.put_local(_SETTLED, None)
        self.settled_hlc, self._settled_ahead = 0, None

    def recall(self) -> None:
        """Go on from what an earlier run has promised. Before the first write."""
        kept = self._core.replica.get_local(_SETTLED)
        if kept is not None:
            self._core.replica.observe(int.from_bytes(kept, "big"))

    def tell_all(self) -> None:
        """Tell every peer what has changed, now."""
        self._notice_durable()
        self._notice_purge()
        for sent in self._sent.values():
            self._tell(sent)

    def _tell(self, sent: _Sent) -> None:
        claims = _since(self._durable_changes, sent.durable_number, self._durable)
        vector = self._core.replica.vector()
        have = _since(self._dissemination.touched, sent.have_number, vector)
        sent.durable_number = self._durable_number
        sent.have_number = self._dissemination.advances
        flow = self._dissemination.flows.get(sent.link.node)
        if flow is not None:  # what the peer has told of itself is no news to it
            have = {origin: seq for origin, seq in have.items() if flow.have.get(origin, 0) < seq}
        purge = self._purge
        told = (sent.horizon, sent.ready, sent.floors, sent.settled_hlc, sent.held, sent.cuts)
        current = (purge.horizon, self.ready, purge.floors, self.settled_hlc, self._held(), self.cuts())
        if claims or have or told != current:
            self._send(sent, claims, have)

    def tick(self, now: float) -> float:
        """Tell what has changed, at most once an interval."""
        interval = self._core.options.vector_interval
        if now >= self._next:
            self._next = now + interval
            self.tell_all()
            if self.relays_vectors:
                self._relay(now)
        return self._next

    def _relay(self, now: float) -> None:
        """Go on with the round in which the vectors of all members are passed on, or begin the next."""
        interval = max(self._core.options.relay_vectors_interval, len(self.known) * 0.5)
        if self._next_relay is None:
            self._next_relay = now + interval * self._core.rng.random()
        if now >= self._next_relay:
            self._next_relay = now + interval
            self._relaying = list(self.known)
        passed_on, self._relaying = self._relaying[:_RELAYED_AT_ONCE], self._relaying[_RELAYED_AT_ONCE:]
        for node in passed_on:
            known = self.known.get(node)
            if known is not None and known.is_complete:
                self._pass_on(known)

    def _pass_on(self, known: Known) -> None:
        """Tell all peers what they have not got of a member's claim: what is new since the last round, else all.

        A peer that has heard of a later number from another than what all were told in the last round can add, too.
        """
        last = self._passed_on.get(known.node, _NOTHING)
        self._passed_on[known.node] = known
        can_add = known.follows(last)
        frames: dict[int, bytes] = {}  # by their base: encoded once for all
        for sent in self._sent.values():
            boot, number = sent.relayed.get(known.node, (b"", 0))
            if known.node == sent.link.node or (boot, number) == known.version:
                continue
            sent.relayed[known.node] = known.version
            before = last if can_add and boot == known.boot and number >= last.number else _NOTHING
            if not frames.get(before.number):
                frames[before.number] = sent.link.framed(_addition_to(before, known))
            sent.link.send_control_frame(frames[before.number])

    def _note_lacking(self, link: Link, node: bytes) -> None:
        """Take note that a peer could not add to what it has of a member: the next round tells it all."""
        sent = self._sent.get(link.node)
        if sent is not None and sent.link is link:
            sent.relayed.pop(node, None)

    def _note_told(self, link: Link, known: Known) -> None:
        """Take note that a peer has passed on just what is known here."""
        sent = self._sent.get(link.node)
        if sent is not None and sent.link is link and link.node != known.node:
            sent.relayed[known.node] = known.version

    # --- hearing

    def on_vector(self, link: Link, message: Vector) -> None:
        """Take a claim in: the peer's own, or one that it passes on."""
        if message.node == self._core.identity.node:
            return
        if not message.number:
            self._note_lacking(link, message.node)
            return
        known = self.known.get(message.node)
        if known is not None and known.boot == message.boot and message.number <= known.number:
            if message.number == known.number:
                self._note_told(link, known)
            return
        is_own = message.node == link.node
        if not is_own and (
            message.node in self._core.links or not self.is_current(message.node, message.boot)
        ):
            return  # known at first hand, or of an earlier run
        if not is_own and not message.is_full and not _adds_to(known, message):
            link.send(_question_about(message))
            return
        known = self._taken(known, message)
        if max(len(known.vector), len(known.floors)) > VECTOR_ENTRIES_MAX:
            link.drop(f"a vector of more than {VECTOR_ENTRIES_MAX} origins")
            return
        self.known[message.node] = known
        self._note_told(link, known)
        if message.cuts:
            self.on_cuts(known.cuts)
        if is_own and message.is_full and message.sealed_count:
            self._fill_sealed(link, known, message)
        self._check_rollback(known)
        if is_own:
            self.on_known(link, known)
            if message.have:
                self._dissemination.on_have(link, message.have)

    def _taken(self, known: Known | None, message: Vector) -> Known:
        """Return what is known of a member after its message."""
        taken = Known(
            node=message.node,
            boot=message.boot,
            number=message.number,
            vector=VersionVector(message.vector),
            floors=VersionVector(message.floors),
            horizon=message.horizon,
            ready=message.ready,
            head_hlc=message.head_hlc,
            at=self._core.now,
            is_complete=not message.sealed_count,
            settled_hlc=message.settled_hlc,
            carriers=message.carriers,
            held=message.held,
            have=VersionVector(message.have),
            cuts=VersionVector(message.cuts),
        )
        if message.is_full:
            taken.vector = taken.vector.sharing(self._durable)
            taken.floors = taken.floors.sharing(self._purge.floors)
        if known is None:
            return taken
        taken.former = known.former
        taken.carriers = message.carriers or known.carriers
        if not message.is_full:
            taken.vector = self._added(known.vector, taken.vector)
            taken.floors = known.floors.merged(taken.floors)
            taken.is_complete = known.is_complete
            taken.have = known.have
            taken.cuts = taken.cuts or known.cuts
        elif known.boot != message.boot:
            taken.former = known.vector
        return taken

    def _added(self, vector: VersionVector, news: VersionVector) -> VersionVector:
        merged = vector.merged(news)
        return merged if len(merged) == len(vector) else merged.sharing(self._durable)

    def _check_rollback(self, known: Known) -> None:
        """See whether a member's new boot has all that the one before claimed, once all of it is told."""
        if known.former is None or not known.is_complete:
            return
        former, known.former = known.former, None
        if not known.vector.covers(former):
            self._core.log.warning("a member has come back with less than it had", peer=known.node.hex()[:8])
            self._core.count("rollbacks_total")
            self.on_rollback(known.node)

    def _fill_sealed(self, link: Link, known: Known, message: Vector) -> None:
        """Add the sealed origins that a full vector left out, if they are the ones known here."""
        digest = (message.sealed_count, message.sealed_xor)
        for sealed in (self.sealed, self._peer_sealed.get(link.node, {})):
            if seal_digest(sealed) == digest:
                known.vector = known.vector.merged(sealed)
                known.is_complete = True
                return
        link.send(Sealed({}, wants_reply=True))

    def on_sealed(self, link: Link, message: Sealed) -> None:
        """Answer with this node's sealed origins, or take the peer's."""
        if message.wants_reply:
            link.send(Sealed(self._claimed_sealed()))
            return
        known = self.known.get(link.node)
        if known is None or known.boot != link.boot or known.is_complete:
            return
        self._peer_sealed[link.node] = message.origins
        known.vector = known.vector.merged(message.origins)
        known.is_complete = True
        self._check_rollback(known)
        self.on_known(link, known)

    def forget(self, node: bytes) -> None:
        """Forget a member that is gone for good."""
        self.known.pop(node, None)
        self._passed_on.pop(node, None)
        self._peer_sealed.pop(node, None)

    # --- questions

    def holding(self, origin: bytes) -> list[bytes]:
        """Return the members, other than this node, at which an origin waits as far as is known."""
        return [node for node, known in self.known.items() if origin in known.held]


def seal_digest(sealed: Mapping[bytes, int]) -> tuple[int, bytes]:
    """Return number and XOR of the hashes of sealed origins, in whatever order they are."""
    total = 0
    for origin, seq in sealed.items():
        total ^= int.from_bytes(sha256(origin + seq.to_bytes(8, "big")).digest()[:16], "big")
    return len(sealed), total.to_bytes(16, "big")


def _addition_to(before: Known, known: Known) -> Vector:
    """Return the message that tells of a member's claim: what `before` lacks of it."""
    return Vector(
        node=known.node,
        boot=known.boot,
        number=known.number,
        is_full=before is _NOTHING,
        vector=known.vector.beyond(before.vector),
        have={},
        floors=known.floors.beyond(before.floors),
        horizon=known.horizon,
        head_hlc=known.head_hlc,
        ready=known.ready,
        settled_hlc=known.settled_hlc,
        held=known.held,
        base=before.number,
        carriers=known.carriers if known.carriers != before.carriers else (),
        cuts=known.cuts if known.cuts != before.cuts else {},
    )


def _question_about(message: Vector) -> Vector:
    """Return the answer to a message that adds to what is not here; the next round brings it all."""
    return Vector(message.node, message.boot, 0, is_full=False, vector={}, have={}, floors={}, horizon=0)


def _since(changes: OrderedDict[bytes, int], number: int, vector: VersionVector) -> dict[bytes, int]:
    """Return the entries of `vector` that changed after `number`. Costs as many steps as there are."""
    found: dict[bytes, int] = {}
    for origin in reversed(changes):
        if changes[origin] <= number:
            break
        found[origin] = vector[origin]
    return found


def _adds_to(known: Known | None, message: Vector) -> bool:
    """Tell whether what a message adds to is here."""
    return known is not None and known.boot == message.boot and known.number >= message.base


def _ignore(link: Link, known: Known) -> None:
    """Stand in for a callback that the replicator sets."""


def _ignore_rollback(node: bytes) -> None:
    """Stand in for a callback that the replicator sets."""


def _ignore_cuts(cuts: VersionVector) -> None:
    """Stand in for a callback that the replicator sets."""


def _is_any(node: bytes, boot: bytes) -> bool:
    return True
