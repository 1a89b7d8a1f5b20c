"""The exchange of one group's records between the members that carry it.

    messages in ──▶ dissemination         fresh writes
                    sync, bodies          catching up
                    vectors, stability    who covers what, what may be purged
                    rejoin, verification
    messages out ◀── the queues of each `Link`

Everything that is about records is here, once for each group that the node carries: a vector, purge floors, a
standing. What is about nodes is in `replicator`, once: who is a member, who is alive, links, clocks.

The links of a further group than the common one are up when both ends have said so (`GroupOpen`), which each does as soon
as it carries the group itself and has the other's record that it does (`carriers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from replication import messages as m
from replication.asking import Walk
from replication.bodies import Bodies
from replication.carriers import Participants
from replication.clock import ClockGate
from replication.core import Core, Link
from replication.cuts import Cuts
from replication.dissemination import Dissemination
from replication.dropped import DroppedValues
from replication.rejoin import Rejoin, Standing
from replication.stability import Stability
from replication.sync import Syncs, is_below
from replication.vectors import Known, Vectors
from replication.verification import Verification
from replication.voiding import Voiding
from storage.changes import Lane, Run, group_of

# How soon claims that are not true any more are dropped if the sync before has failed.
_CLAIM_ANEW_SECONDS: Final = 1.0
_COPIED: Final = "a peer has more of this node's own writes than this node"


class Exchange:
    """The machines of one group, put together."""

    def __init__(
        self,
        core: Core,
        participants: Participants,
        clock: ClockGate,
        cuts: Cuts,
        voiding: Voiding,
        *,
        staged: list[Callable[[], None]],
        deferred: list[Callable[[], None]],
    ) -> None:
        """`staged` is done after the commit of the tick under way, `deferred` in the next tick of the store."""
        self.core = core
        self.participants = participants
        self.clock = clock
        self._cuts = cuts
        self.voiding = voiding
        self._staged = staged
        self._deferred = deferred
        self.bodies = Bodies(core)
        self.dissemination = Dissemination(
            core, clock, self.bodies, want_sync=self._want_sync, after_commit=staged.append
        )
        self.syncs = Syncs(core, clock, self.bodies, after_commit=staged.append)
        self.vectors = Vectors(core, self.dissemination)
        self.stability = Stability(core, participants, self.vectors)
        self.rejoin = Rejoin(core, participants, self.vectors, self.syncs)
        self.verification = Verification(core, clock, self.bodies, after_commit=staged.append)
        self.dropped = DroppedValues(core, self.bodies)
        self._settle_at = 0.0
        self._claim_anew_at: float | None = None  # when to try next; None: all claims are true
        self.is_partial_view: Callable[[], bool] = _is_never  # whether not all that carry it are to be linked
        self.boot_of: Callable[[bytes], bytes | None] = _unknown  # a member's latest boot
        self.on_standing: Callable[[Standing], None] = _ignore
        self.handlers: dict[type, Callable[[Link, Any], None]] = {
            m.Vector: self.vectors.on_vector,
            m.Sealed: self.vectors.on_sealed,
            m.Push: self._on_push,
            m.Pull: self.dissemination.on_pull,
            m.LinkMode: self.dissemination.on_link_mode,
            m.SyncRequest: self.syncs.on_request,
            m.SyncStart: self.syncs.on_start,
            m.SyncBatch: self._on_batch,
            m.SyncEnd: self.syncs.on_end,
            m.SyncFail: self.syncs.on_fail,
            m.Credit: self.syncs.on_credit,
            m.BodyGet: self.bodies.on_get,
            m.BodyData: self.bodies.on_data,
            m.BodyMiss: self.bodies.on_miss,
            m.DigestRequest: self.verification.on_digest_request,
            m.Digest: self.verification.on_digest,
            m.BucketRequest: self.verification.on_bucket_request,
            m.Bucket: self.verification.on_bucket,
            m.CellsRequest: self.verification.on_cells_request,
            m.Cells: self._on_cells,
        }
        self._wire()

    def _wire(self) -> None:
        self.syncs.is_usable = self._is_usable
        self.syncs.on_served = self.dissemination.caught_up
        self.syncs.on_covered = self._on_covered
        self.syncs.on_need_full = self._on_need_full
        self.stability.awaits_since = self.syncs.awaits_since
        self.syncs.is_void = self._cuts.voids
        self.syncs.on_ahead = self.dissemination.must_hold
        self.dissemination.limit = self.bodies.limit = self._cuts.limit
        self.vectors.on_known = self._on_known
        self.vectors.on_rollback = self._on_rollback
        self.vectors.is_current = self._is_current
        self.rejoin.on_change = self._on_standing
        self.rejoin.parting.on_given_way = self._on_given_way
        self.rejoin.on_begin = lambda: self.voiding.cover_all(self)

    @property
    def group(self) -> int:
        return self.core.replica.group

    @property
    def is_catching_up(self) -> bool:
        """Whether the records of the group are not all here yet."""
        return self.rejoin.standing.is_catching_up

    # --- the start

    def open(self, *, founds: bool) -> None:
        """Find out what this node is in the group. Inside a tick, before the first link.

        `founds`: there is nobody to join.
        """
        self.core.replica.set_purging(self.stability)
        self.vectors.recall()
        self.rejoin.open(founds=founds)

    def begin(self) -> None:
        """Be what `open` has found. Inside the same tick, when the members are known."""
        if self.rejoin.standing == Standing.READY:
            self.stability.close_origins()
        self.rejoin.begin()

    # --- links

    def link_up(self, link: Link, now: float) -> None:
        self.core.now = now
        self.core.links[link.node] = link
        self.dissemination.on_link_up(link, eager=self.is_partial_view())
        self._staged.append(lambda: self.vectors.on_link_up(link))

    def link_down(self, link: Link, now: float) -> None:
        """Forget a link, with all that was under way on it. Inside a tick."""
        self.core.now = now
        del self.core.links[link.node]
        self.dissemination.on_link_down(link)
        self.bodies.on_link_down(link)
        self.syncs.on_link_down(link)
        self.verification.on_link_down(link)
        self.vectors.on_link_down(link)

    def data_cleared(self, node: bytes) -> None:
        """Take note that frames of data to a peer were dropped: of syncs and digests as well as of pushes.

        They may have been another group's. So the peer is told to sync: it may find nothing missing, and this node pushes to
        it again only after one.
        """
        link = self.core.links.get(node)
        if link is not None:
            self.dissemination.fallen_behind(link)
            self.syncs.drop_serving(link)
            self.verification.drop_answers(link)
            link.send(m.SyncFail(0, m.SyncFailure.NEED_SYNC))

    def _is_usable(self, link: Link) -> bool:
        """Tell whether a peer may serve this node: it is whole, not from a past that was purged here, and holds nothing void.

        And a full sync from it can end: otherwise that would begin again and again.
        """
        known = self.vectors.known.get(link.node)
        return (
            known is not None
            and known.boot == link.boot
            and known.ready
            and not is_below(known.vector, self.core.replica.floors())
            and not self._cuts.is_beyond(known.vector)
            and (not self.is_catching_up or self.rejoin.parting.is_enough(known.vector))
        )

    def _on_known(self, link: Link, known: Known) -> None:
        """A peer has told its vector: see whether the two may push to each other, and who lacks what."""
        if not known.is_complete:
            return
        if self._is_absurd(known):
            self.dissemination.set_ready(link, ready=False)
            return
        replica = self.core.replica
        self.rejoin.on_peer_horizon(known)
        standing = self.rejoin.standing
        whole = standing.is_whole and known.ready
        ready = whole and self._is_usable(link) and not is_below(replica.vector(), known.floors)
        flow = self.dissemination.flows.get(link.node)
        was_ready = flow is not None and flow.ready
        self.dissemination.set_ready(link, ready=ready)
        if standing == Standing.READY and known.ready and self._lacks_purged(known):
            self.rejoin.on_need_full(link)
        elif ready and not was_ready:
            self.syncs.want(link)  # on connect
        self._check_clone(known)

    def _on_need_full(self, link: Link) -> None:
        """A peer says that this node lacks what was purged: believe it if that still holds.

        The request may have been old when it came: this node has covered more since, others know that and have
        purged. Then the next request will do.
        """
        known = self.vectors.known.get(link.node)
        if known is not None and self._lacks_purged(known):
            self.rejoin.on_need_full(link)

    def _lacks_purged(self, known: Known) -> bool:
        """Tell whether a peer has purged what this node does not cover, with what the tick under way has granted."""
        covered = self.core.replica.covered
        return any(covered(origin) < seq for origin, seq in known.floors.items())

    def _is_absurd(self, known: Known) -> bool:
        """Tell whether a peer claims to have purged what it does not cover, or what is still to be written.

        Following such a claim would take this node out of service, or move its clock for good.
        """
        ahead = self.clock.held_seconds(known.horizon, self.core.wall_ms())
        return ahead > 0 or is_below(known.vector, known.floors)

    def _check_clone(self, known: Known) -> None:
        """Rotate if a peer has more of this node's own writes than this node has made (R1.3 a)."""
        replica = self.core.replica
        for lane in (Lane.SMALL, Lane.BULK):
            origin = replica.origin(lane)
            if origin is not None and known.vector[origin] > replica.covered(origin):
                self.core.rotate_soon(_COPIED)

    def _is_current(self, node: bytes, boot: bytes) -> bool:
        """Tell whether a vector that is passed on is worth to be kept: a member's, and of its latest boot if known."""
        latest = self.boot_of(node)
        return self.participants.is_member(node) and (latest is None or latest == boot)

    def _on_rollback(self, node: bytes) -> None:
        self.stability.reset()

    def _want_sync(self, link: Link) -> None:
        self.syncs.want(link)

    def _on_covered(self, raised: list[bytes], ended: Walk | None) -> None:
        """A sync session is about to grant what it has brought; a full one has ended a walk. Inside its tick."""
        if ended is not None:
            self.rejoin.on_covered(ended, self.voiding.cover_own(self))
        self.dissemination.unpark_all()
        self._staged.append(lambda: self._after_covered(raised))

    def _after_covered(self, raised: list[bytes]) -> None:
        for origin in raised:
            self.dissemination.advanced(origin)
        self.vectors.tell_all()
        self._deferred.append(self._reconsider)

    def _reconsider(self) -> None:
        """Look again at what each peer may do: this node's own vector or standing has changed. Inside a tick."""
        for link in list(self.core.links.values()):
            known = self.vectors.known.get(link.node)
            if known is not None and known.boot == link.boot:
                self._on_known(link, known)

    def _on_standing(self, standing: Standing) -> None:
        self.stability.may_purge = self.verification.enabled = standing.is_whole
        self.on_standing(standing)
        self._deferred.append(self._reconsider)
        self._staged.append(self.vectors.tell_all)

    def _on_given_way(self) -> None:
        """Nothing counts as purged here any more. What a walk has shown before was not looked at for what has died here."""
        self.syncs.start_over()
        self.claim_anew()

    # --- messages

    def _on_push(self, link: Link, push: m.Push) -> None:
        is_question = not push.run.upto  # for claims; then the origin is nobody's
        if is_question or not self._is_astray(link, push.run):
            self.dissemination.on_push(link, push)

    def _on_batch(self, link: Link, batch: m.SyncBatch) -> None:
        if not any(self._is_astray(link, run) or self._is_of_copy(link, run) for run in batch.runs):
            self.syncs.on_batch(link, batch)

    def _is_astray(self, link: Link, run: Run) -> bool:
        """Tell whether a run is another group's. That ends the link: nothing that its peer claims can be counted on."""
        if group_of(run.origin) == self.group:
            return False
        link.drop("a run of another group")
        return True

    def _is_of_copy(self, link: Link, run: Run) -> bool:
        """Tell whether a run has more of this node's own writes than this node. That ends the link, until the origins rotate.

        The store cannot give an origin up in a tick that writes under it, and the tick may have done so already.
        """
        replica = self.core.replica
        if run.origin not in {replica.origin(Lane.SMALL), replica.origin(Lane.BULK)}:
            return False
        last = max((change.seq for change in run.changes), default=run.upto)
        if max(last, run.upto) <= replica.covered(run.origin):
            return False
        self.core.rotate_soon(_COPIED)
        link.drop(_COPIED)
        return True

    def _on_cells(self, link: Link, cells: m.Cells) -> None:
        """Take values in that were asked for: by a verification, or by number 0 for those that lost their body."""
        if any(self._is_astray(link, run) or self._is_of_copy(link, run) for run in cells.runs):
            return
        if cells.number:
            self.verification.on_cells(link, cells)
        else:
            self.dropped.on_cells(link, cells)

    # --- time

    def tick(self, now: float) -> float:
        """Do what is due, outside a tick of the store; return when to be called again."""
        self.core.now = now
        self.vectors.relays_vectors = self.is_partial_view()
        if self._claim_anew_at is not None and now >= self._claim_anew_at:
            self._claim_anew_at = now + _CLAIM_ANEW_SECONDS  # in case that the sync fails
            self.core.make_durable(self._drop_links)
        dues = (
            self.dissemination.tick(now),
            self.syncs.tick(now),
            self.vectors.tick(now),
            self.stability.tick(now),
            self.verification.tick(now),
            self.bodies.tick(now),
            self.dropped.tick(now),
        )
        return min(dues)

    def needs_tick_of_store(self, now: float) -> bool:
        """Tell whether `tick_in_store` has something to do."""
        return bool(
            self.dissemination.held
            or self.bodies.stalled(now)
            or self.is_catching_up
            or self._may_settle(now)
        )

    def tick_in_store(self, now: float) -> None:
        """Do what may write. Inside a tick of the store."""
        self.core.now = now
        self.dissemination.release_held()
        if self._may_settle(now):
            self._settle(now)
        self.syncs.tick_in_store(now)
        self.bodies.tick_in_store(now)
        self.rejoin.tick(now)

    def close_origins_soon(self) -> None:
        """Say that earlier origins write no more, once they are covered again."""
        self._deferred.append(self.stability.close_origins)

    def claim_anew(self) -> None:
        """Begin all links again, once the tick is durable: what this node has claimed on them is more than it covers now.

        Until then nobody syncs from this node, which seems to hold what is void.
        """
        self._staged.append(self._claim_anew_soon)

    def _claim_anew_soon(self) -> None:
        self._claim_anew_at = self.core.now
        self.core.hurry()

    def _drop_links(self) -> None:
        if self._claim_anew_at is None:
            return
        self._claim_anew_at = None
        self.vectors.claim_less()
        for link in list(self.core.links.values()):
            link.drop("what this node covers has been voided")

    def _may_settle(self, now: float) -> bool:
        """Tell whether it is time to settle the clock value, and somebody hears of it; not with a clock that is wrong."""
        return (
            now >= self._settle_at
            and bool(self.core.links)
            and self.rejoin.standing.is_whole
            and self.clock.may_promise(now, self.core.wall_ms())
        )

    def _settle(self, now: float) -> None:
        """Promise to write nothing more up to the present clock value. It also syncs the disk now and then."""
        self._settle_at = now + self.core.options.settle_interval
        self.core.replica.observe(self.core.wall_ms() << 16)
        hlc = self.vectors.settle()
        self._staged.append(lambda: self.vectors.settling(hlc))
        self._staged.append(lambda: self.core.make_durable(self.vectors.settled))

    # --- questions

    def claims(self, node: bytes, vector: Mapping[bytes, int]) -> bool:
        """Tell whether a member claims to cover `vector`."""
        known = self.vectors.known.get(node)
        return known is not None and known.vector.covers(vector)

    def is_handed_over(self) -> bool:
        """Tell whether another member has all that is here."""
        vector, own = self.core.replica.vector(), self.core.identity.node
        return any(self.claims(node, vector) for node in self.participants.members() if node != own)

    def close(self) -> None:
        """Give back all snapshots."""
        self.syncs.close()
        self.verification.close()


def _is_never() -> bool:
    return False


def _unknown(node: bytes) -> bytes | None:
    return None


def _ignore(standing: Standing) -> None:
    """Stand in for a callback that the replicator sets."""
