"""The way back of a node whose clock was far ahead, once what it wrote has been cut.

    a cut is heard of ──▶ the clock is right, the peers know of the cut ──▶ one tick:
        what is void goes; live values are kept as dead letters
        the clock is lowered below the hold of others
        own values are written anew with it, own expiries and deletions made anew
        nothing is covered any more, for what was replaced is gone ──▶ REJOINING, a full sync ──▶ READY

All of that is one tick, so whatever happens to this node: readers find again what they saw, and not what that had replaced.
The clock can be lowered only if nothing stays that has a greater stamp, or this node's next write of that key would lose against
its own past. So with what was cut goes all else that this node has stamped too far ahead since, which nobody can have
taken yet: it is cut as well, on its own account. What a peer has is no greater than its clock value; so if that is not ahead, only
what no such peer has is looked at. A node whose own clock is behind sees all peers ahead, and lowers nothing.

A node that gives way to another history (`parting`) does that first: only what it covers tells what has died there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Final

from replication.core import Core
from replication.rejoin import Settled, Standing
from replication.sync import is_below
from replication.writers import RUN
from storage.changes import CLUSTER_NAMESPACE, COMMON_GROUP, Kind, Lane, VersionVector, Voided

if TYPE_CHECKING:
    from replication.clock import ClockGate
    from replication.cuts import Cuts
    from replication.exchange import Exchange
    from replication.vectors import Known

# The local setting of a node that catches up after a cut: what it was before, one of these two.
VOIDED: Final = "voided"
_WHOLE: Final = b"whole"
_BEHIND: Final = b"behind"
# Records of the cluster that a node writes by itself whenever what they tell has changed.
_OWN_RUNS: Final = CLUSTER_NAMESPACE + RUN

Limits = dict[bytes, int]  # by origin, up to where it counts


class Voiding:
    """Voids on this node what was cut, over all its groups."""

    def __init__(self, core: Core, cuts: Cuts, clock: ClockGate, exchanges: Mapping[int, Exchange]) -> None:
        self._core = core
        self._cuts = cuts
        self._clock = clock
        self._exchanges = exchanges
        self._to_record: Limits = {}

    # --- when

    def is_due(self, now: float) -> bool:
        """Tell whether `tick` has something to do."""
        is_wanted = self._to_record or self.is_pending() or self._may_write_down()
        return bool(is_wanted) and self._is_clock_right(now) and not self._is_parting()

    def is_pending(self) -> bool:
        """Tell whether this node holds what is void, or stamps too far ahead: what it wrote now would be void, too."""
        return self._is_ahead() or bool(self._find_void())

    def _may_write_down(self) -> bool:
        """Tell whether this node may record cuts that it has only heard of: who told of them may have lost its records."""
        is_ready = self._exchanges[COMMON_GROUP].rejoin.standing == Standing.READY
        return is_ready and bool(self._cuts.unwritten()) and not self.is_pending()

    def _is_ahead(self) -> bool:
        """Tell whether others would hold what this node writes next."""
        return self._core.replica.hlc > self._hlc_max()

    def _find_void(self) -> Limits:
        """Return the origins of which this node holds what has been voided."""
        found: Limits = {}
        for exchange in self._exchanges.values():
            replica = exchange.core.replica
            for origin, upto in self._cuts.of_group(exchange.group).items():
                if replica.covered(origin) > upto or replica.uncovered()[origin] > upto:
                    found[origin] = upto
        return found

    def _is_clock_right(self, now: float) -> bool:
        is_member = self._exchanges[COMMON_GROUP].rejoin.standing != Standing.REMOVED
        return is_member and self._clock.refusal(now, self._core.wall_ms()) is None

    def _is_parting(self) -> bool:
        """Tell whether this node needs what it covers, to tell what has died here."""
        return any(exchange.rejoin.parting.is_under_way() for exchange in self._exchanges.values())

    def tick(self) -> bool:
        """Go on with what is due; tell whether it has. Inside a tick of the store, and nothing else may be done in it."""
        if self._to_record:
            self._record()
            return True
        if self._may_write_down():
            self._to_record.update(self._cuts.unwritten())
            self._record()
            return True
        void = self._find_void()
        return self._void(void) if void else self._lower_clock()

    def _lower_clock(self) -> bool:
        """Lower a clock value that nothing was stamped with: that needs no operator."""
        exchanges = self._exchanges.values()
        hlc_max = self._hlc_max()
        if any(exchange.core.replica.ahead(hlc_max) for exchange in exchanges):
            return False
        if not self._is_borne_out() or (self._is_alone() and self._holds_others()):
            return False
        promised = max(exchange.vectors.promised_hlc for exchange in exchanges)
        latest = max(promised, *(self._latest_left(exchange, {}) for exchange in exchanges))
        if latest > hlc_max:
            return False
        self._core.replica.lower_clock(hlc_max, max(latest, self._heads()))
        return True

    def _is_borne_out(self) -> bool:
        """Tell whether some peer's clock value shows that this node's is ahead, and not its clock behind; or none can."""
        return self._is_alone() or bool(self._right(self._exchanges[COMMON_GROUP]))

    def _is_alone(self) -> bool:
        return self._exchanges[COMMON_GROUP].participants.remaining() == [self._core.identity.node]

    def _holds_others(self) -> bool:
        """Tell whether there are others' writes, of members that are gone: to look through all would stop the clients."""
        replica = self._core.replica
        own = replica.own_origins()
        return any(origin not in own for origin in replica.vector())

    def _right(self, exchange: Exchange) -> list[Known]:
        """Return the claims of linked peers whose clock values are not ahead: nothing in them is."""
        hlc_max = self._hlc_max()
        return [one for one in _linked(exchange) if one.head_hlc <= hlc_max]

    def _record(self) -> None:
        """Cut what this node has voided on its own account, now that its stamps are right again."""
        to_record, self._to_record = self._to_record, {}
        for origin, upto in to_record.items():
            self._cuts.record(origin, upto)

    # --- what

    def _void(self, void: Limits) -> bool:
        is_ahead = self._is_ahead()
        if not all(map(self._is_known, void)) or (is_ahead and not self._is_borne_out()):
            return False
        exchanges = list(self._exchanges.values())
        limits = {exchange.group: self._limits(exchange, void) for exchange in exchanges}
        latest = max(self._latest_left(one, limits[one.group]) for one in exchanges) if is_ahead else 0
        if latest > self._hlc_max():
            return False
        if any(_has_origin_in_use(exchange) for exchange in exchanges):
            self._core.rotate_soon("its writes were voided")
            return False
        voided = {one: self._cut(one, limits[one.group]) for one in exchanges if limits[one.group]}
        if is_ahead:
            for exchange in exchanges:
                exchange.vectors.take_back_promise()
            self._core.replica.lower_clock(self._hlc_max(), max(latest, self._heads()))
        for exchange, found in voided.items():
            _write_anew(exchange, found)
        own = {
            origin: upto for found in limits.values() for origin, upto in found.items() if origin not in void
        }
        self._to_record.update(own)
        return True

    def _is_known(self, origin: bytes) -> bool:
        """Tell whether all members know of a cut: of one that only nodes know which rejoin, the others would never hear."""
        common = self._exchanges[COMMON_GROUP]
        others = [node for node in common.participants.remaining() if node != self._core.identity.node]
        known = [common.vectors.known.get(node) for node in others]
        return all(one is not None and origin in one.cuts for one in known)

    def _limits(self, exchange: Exchange, void: Limits) -> Limits:
        """Return up to where a group's origins count: those that were cut, and own ones that are too far ahead."""
        replica, elsewhere = exchange.core.replica, _merged(_linked(exchange))
        ahead = {
            origin: max(upto, elsewhere[origin]) for origin, upto in replica.ahead(self._hlc_max()).items()
        }
        beyond = {
            origin: upto
            for origin, upto in ahead.items()
            if max(replica.covered(origin), replica.uncovered()[origin]) > upto
        }
        cut = self._cuts.of_group(exchange.group)
        return beyond | {origin: upto for origin, upto in void.items() if origin in cut}

    def _latest_left(self, exchange: Exchange, limits: Limits) -> int:
        """Return the greatest clock value of what stays, but for what peers have that are not ahead. Costs as much as that is."""
        feed = exchange.core.replica.feed()
        try:
            return max(
                (
                    change.hlc
                    for run in feed.runs_after(_merged(self._right(exchange)))
                    for change in run.changes
                    if change.seq <= limits.get(run.origin, change.seq)
                ),
                default=0,
            )
        finally:
            feed.close()

    def _hlc_max(self) -> int:
        """Return the greatest clock value that others take."""
        return (self._core.wall_ms() + int(self._core.options.hold * 1000)) << 16

    def _heads(self) -> int:
        """Return the greatest clock value of peers whose clocks are not ahead, too."""
        known = [one for exchange in self._exchanges.values() for one in exchange.vectors.known.values()]
        return max((one.head_hlc for one in known if one.head_hlc <= self._hlc_max()), default=0)

    def _cut(self, exchange: Exchange, limits: Limits) -> list[Voided]:
        """Void what is beyond limits; return what readers saw of it that this node had written."""
        replica = exchange.core.replica
        if replica.get_local(VOIDED) is None:
            replica.put_local(VOIDED, _WHOLE if _has_been_awaited(exchange) else _BEHIND)
        voided = replica.cut(limits)
        exchange.core.log.warning("what an origin wrote was voided", origins=len(limits), values=len(voided))
        self._core.count("voided_total", len(voided))
        letters = [(one.stamp, one.change) for one in voided if _is_letter(one)]
        if letters:
            exchange.rejoin.dead_letter(letters)
        exchange.syncs.start_over()
        exchange.rejoin.enter(Standing.REJOINING)
        exchange.claim_anew()
        own = replica.own_origins()
        return [
            one for one in voided if one.stamp.origin in own and not one.change.place.startswith(_OWN_RUNS)
        ]

    # --- afterwards

    def cover_own(self, exchange: Exchange) -> Settled:
        """Take this node's earlier writes for covered again: what nobody else has of them is here. In a tick.

        Return what is to be settled of what the others have not got, now that this node has caught up. All have waited for a
        node that was whole when it was cut: nothing of it is stale.
        """
        was = exchange.core.replica.get_local(VOIDED)
        own, ends = exchange.core.replica.own_origins(), exchange.core.replica.uncovered()
        self._cover(exchange, {origin: ends[origin] for origin in own if ends[origin]})
        return {None: Settled.ALL, _WHOLE: Settled.NOTHING}.get(was, Settled.STRANGE)

    def cover_all(self, exchange: Exchange) -> None:
        """Take all that is here, or was purged here, for covered again: there is nobody to catch up from. In a tick."""
        replica = exchange.core.replica
        self._cover(exchange, replica.uncovered().merged(replica.floors()))

    def _cover(self, exchange: Exchange, vector: Mapping[bytes, int]) -> None:
        replica = exchange.core.replica
        if replica.get_local(VOIDED) is None:
            return
        replica.cover(vector, {}, 0)
        replica.put_local(VOIDED, None)
        exchange.close_origins_soon()


def _write_anew(exchange: Exchange, voided: list[Voided]) -> None:
    """Write with the clock as it is now what readers saw. What was one transaction is one again."""
    for _, together in groupby(sorted(voided, key=_hlc), key=_hlc):
        exchange.core.replica.write_anew(list(together))


def _has_been_awaited(exchange: Exchange) -> bool:
    """Tell whether this node has seen all that others have purged: it does not come back from the past, found out or not."""
    replica, known = exchange.core.replica, exchange.vectors.known
    held = replica.vector().merged(replica.uncovered())
    others = [node for node in exchange.participants.remaining() if node != exchange.core.identity.node]
    return exchange.rejoin.standing.is_whole and all(
        node in known and not is_below(held, known[node].floors) for node in others
    )


def _has_origin_in_use(exchange: Exchange) -> bool:
    replica = exchange.core.replica
    return any(replica.origin(lane) is not None for lane in (Lane.SMALL, Lane.BULK))


def _linked(exchange: Exchange) -> list[Known]:
    known = exchange.vectors.known
    return [known[node] for node in exchange.core.links if node in known]


def _merged(claims: Iterable[Known]) -> VersionVector:
    """Return what members have, all together."""
    found = VersionVector()
    for one in claims:
        found = found.merged(one.vector)
    return found


def _is_letter(voided: Voided) -> bool:
    return voided.change.kind == Kind.VALUE and not voided.change.place.startswith(CLUSTER_NAMESPACE)


def _hlc(voided: Voided) -> int:
    return voided.stamp.hlc
