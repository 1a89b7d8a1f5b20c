"""The invariants of the specification (section 14), as far as an observer of everything can judge them.

What holds at every moment is looked at by `Watch.look`, which the driver calls at intervals and around every
crash, and in part by `Watch.begin` at every commit; what holds only once everything has come to rest by `check_rest`.

    I1   equal vectors, nothing half synced: equal registers, but for marks that one side has purged
    I2   at rest every register is the merge of all writes that the vector covers
    I3   whatever a vector covers is held, or something greater is, or it was allowed to be purged
    I4   a vector never shrinks within a boot, and after a restart is what was safe before
    I5   one dot, one content                                       (`history`)
    I6   once every member durably covers a deletion, nobody whole holds anything older again
    I7   a write is newer than all that its host held of that key   (`history.note`, by `Watch.note`)
    I8   nobody knows more of a member than what its disk would keep
    I9   the keys of overlapping transactions belong to one of them (`workloads`)
    I11  queues and buffers stay within their bounds
    I12  within a bound after the healing all vectors are equal     (`wait_for_rest`)
    I14  held origins, peers left behind, dead letters and repaired divergences are counted in the metrics
    I15  no cell beneath what was purged of the same key            (follows from I2, I3 and I6)

I10 (others are not slowed down) and the rest of I14 (conflicts, refused writes, who blocks the purging, payloads that
nobody can decode) need to know what is being played: scenarios of their own look at them. I13 is about counters, which
do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import trio

from storage.changes import Kind, VersionVector, group_of
from storage.layout import NAMESPACE_BYTES
from storage.verify import Verifier
from tests.cluster.history import Expected, Stamp, Violation, Write
from tests.cluster.world import Host, Registers, World

NOTHING = Registers(None, (None, None), None, None, None)


@attrs.define(eq=False)
class Watch:
    """What has to be remembered between two looks."""

    world: World
    stable_floors: dict[bytes, Stamp] = attrs.field(factory=dict)
    looks: int = 0
    letters: dict[str, int] = attrs.field(factory=dict)  # dead letters of hosts when they last started

    def begin(self) -> None:
        """Look at each host's vector after each of its commits, and at what that covers if a sync has granted something.

        In the commits, since a task that wakes up to look would change the order of the others.
        """
        self.world.after_tick.append(self._look_at_commit)
        self.world.patches.append(self._note_letters)

    def _note_letters(self, host: Host) -> None:
        """Take note of a new process: its counters begin at zero."""
        self.letters[host.name] = len(host.dead_letters)

    def _look_at_commit(self, host: Host, rows: Mapping[bytes, object]) -> None:
        check_monotone(host)
        if host.was_synced:
            host.was_synced = False
            check_coverage(self.world, host, host.registers())

    def look(self) -> None:
        """Check what holds at every moment."""
        self.looks += 1
        up = self.world.up()
        states = {host.name: host.registers() for host in up}
        for host in up:
            check_monotone(host)
            host.note_claims()
            check_coverage(self.world, host, states[host.name])
            check_bounds(host)
            check_explained(host, len(host.dead_letters) - self.letters.get(host.name, 0))
            self._check_stable(host, states[host.name])
        for group in self.world.groups():
            self._compare(group, states)
            self._note_stable(group)

    def _compare(self, group: int, states: Mapping[str, Mapping[bytes, Registers]]) -> None:
        """I1, for those that cover the same of a group."""
        hosts = self.world.carriers(group)
        for index, host in enumerate(hosts):
            for other in hosts[index + 1 :]:
                if host.replicas[group].vector() == other.replicas[group].vector():
                    check_equal(self.world, group, (host, other), (states[host.name], states[other.name]))
                    break  # equal ones beyond it are compared with `other`

    def _note_stable(self, group: int) -> None:
        """Remember which deletions every disk of the cluster has that carries their group."""
        hosts = [
            host
            for host in self.world.hosts.values()
            if host.name not in self.world.gone and group in host.groups
        ]
        if not hosts or not all(host.is_up and group in host.replicas for host in hosts):
            return
        common = hosts[0].replicas[group].durable()
        for host in hosts[1:]:
            common = common.common(host.replicas[group].durable())
        for place, kinds in self.world.history.places.items():
            if group_of(place) != group:
                continue
            for write in reversed(kinds.get(Kind.FLOOR, ())):
                if common[write.stamp[1]] >= write.stamp[2]:
                    self.stable_floors[place] = max(write.stamp, self.stable_floors.get(place, write.stamp))
                    break

    def _check_stable(self, host: Host, state: Mapping[bytes, Registers]) -> None:
        if not host.is_whole or host.rolled_back or host.name in self.world.gone:
            return
        vector = host.vector
        has_past = any(one.rolled_back for one in self.world.hosts.values())
        for place, floor in self.stable_floors.items():
            if has_past and vector[floor[1]] < floor[2]:
                continue  # it has joined by a member that was restored, and both have yet to meet one who knows
            held = state.get(place)
            if held is not None and held.value is not None and held.value < floor:
                raise Violation(
                    f"I6: {host.name} holds {place!r} of {held.value}, deleted everywhere at {floor}"
                )


def check_monotone(host: Host) -> None:
    vector = host.vector
    if not vector.covers(host.seen_vector):
        raise Violation(f"I4: the vector of {host.name} has shrunk: {host.seen_vector} -> {vector}")
    host.seen_vector = vector


def check_coverage(world: World, host: Host, state: Mapping[bytes, Registers]) -> None:
    """I3: what the vector covers is held, or dominated, or was purged."""
    vector = host.vector
    now_ms = world.latest_ms()
    flushes = host.namespace_floors()
    for place in world.history.places:
        expected = world.history.expected(place, vector)
        held = state.get(place, NOTHING)
        flush = flushes.get(place[:NAMESPACE_BYTES])
        if flush is not None and (held.floor is None or held.floor < flush):
            held = attrs.evolve(held, floor=flush)
        _check_place(world, host, place, expected, held, now_ms)


def _check_place(
    world: World, host: Host, place: bytes, expected: Expected, held: Registers, now_ms: int
) -> None:
    value, expiry, floor, _ = expected
    if value is not None and (held.value is None or held.value < value.stamp):
        killed = held.floor is not None and held.floor > value.stamp
        is_gone = _may_be_gone(expected, now_ms) or _is_deleted_by_removed(world, host, value)
        if not killed and not is_gone and not _was_cut(world, value):
            raise Violation(f"I3: {host.name} covers {value} and holds {held}")
    # An expiry beneath its value says nothing, and may have been purged with an earlier value.
    counts = expiry is not None and (value is None or expiry.stamp > value.stamp)
    if counts and expiry is not None and (held.expiry is None or held.expiry < expiry.stamp):
        killed = held.floor is not None and held.floor > expiry.stamp
        is_gone = value is None or _may_be_gone(expected, now_ms)
        if not killed and not is_gone and not _was_cut(world, expiry):
            raise Violation(f"I3: {host.name} covers {expiry} and holds {held}")
    if value is not None or floor is None or _was_cut(world, floor):
        return
    if held.value is not None and held.value < floor.stamp and not _was_forgotten(world, place, held):
        raise Violation(f"I3: {host.name} covers the deletion {floor} and holds {held}")


def _was_cut(world: World, write: Write) -> bool:
    """Tell whether its host voided writes, which may have replaced this one, or have let it expire, and it was purged.

    Then it may be nowhere; a deletion is made anew.
    """
    return world.hosts[write.host].was_cut


def _was_forgotten(world: World, place: bytes, held: Registers) -> bool:
    """Tell whether a value is dead by a deletion whose host had not seen it, and gave way when the mark was purged."""
    if held.value is None:
        return False
    _, origin, seq = held.value
    deletions = world.history.places[place].get(Kind.FLOOR, ())
    return any(
        write.stamp > held.value
        and (seen := world.hosts[write.host].gave_way) is not None
        and seen[origin] < seq
        for write in deletions
    )


def _may_be_gone(expected: Expected, now_ms: int) -> bool:
    """Tell whether an expired value may have been purged, with its marks."""
    due = expected.expires_at_ms
    return due is not None and due <= now_ms


def _is_deleted_by_removed(world: World, host: Host, value: Write) -> bool:
    """Tell whether a member that was removed has deleted a value, which half a sync may have brought, and it was purged."""
    deletions = world.history.places[value.place].get(Kind.FLOOR, ())
    # Of the store, which has it even before the host exchanges the group.
    horizon = host.store.sweeper.horizon.hlc_of(group_of(value.place))
    return any(
        write.host in world.expelled and value.stamp < write.stamp and write.stamp[0] <= horizon
        for write in deletions
    )


def check_equal(
    world: World, group: int, hosts: tuple[Host, Host], states: tuple[Mapping[bytes, Registers], ...]
) -> None:
    """I1: equal vectors of a group mean equal registers."""
    one, other = hosts
    left, right = states
    is_partial = one.replicas[group].is_partial() or other.replicas[group].is_partial()
    if is_partial and not world.counts.get("partial at rest"):
        return
    now_ms = world.latest_ms()
    for place in dict.fromkeys([*left, *right]):
        if group_of(place) != group:
            continue
        mine, theirs = left.get(place, NOTHING), right.get(place, NOTHING)
        if mine == theirs or _differ_by_purge(mine, theirs, now_ms):
            continue
        horizon = max(one.replicas[group].horizon(), other.replicas[group].horizon())
        if not (_has_purged(horizon, mine, theirs) or _has_purged(horizon, theirs, mine)):
            raise Violation(
                f"I1: {one.name} and {other.name} cover the same and differ in {place!r}: {mine} and {theirs}"
            )


def _differ_by_purge(mine: Registers, theirs: Registers, now_ms: int) -> bool:
    """Tell whether one side has only dropped what no reader sees."""
    if _is_dead(mine, now_ms) and _is_dead(theirs, now_ms):
        return (
            True  # a late undoing of a stale write may even have put an older mark where a newer was purged
        )
    live = mine.value == theirs.value and _expiry_of(mine) == _expiry_of(theirs)
    same = mine.content == theirs.content or None in {mine.content[0], theirs.content[0]}
    return live and same and (mine.floor == theirs.floor or None in {mine.floor, theirs.floor})


def _has_purged(horizon: int, held: Registers, full: Registers) -> bool:
    """Tell whether a host holds all that is in `full`, but for a floor beneath the value that it has purged.

    The undoing of a stale write has put an older floor in its place since then.
    """
    if (
        held.floor is None
        or full.floor is None
        or full.value is None
        or attrs.evolve(held, floor=full.floor) != full
    ):
        return False
    return held.floor < full.floor < full.value and full.floor[0] <= horizon


def _expiry_of(held: Registers) -> tuple[Stamp, int | None] | None:
    """Return the expiry of a value; one beneath it says nothing."""
    if held.expiry is None or held.value is None or held.expiry < held.value:
        return None
    return held.expiry, held.expires_at_ms


def _is_dead(held: Registers, now_ms: int) -> bool:
    if held.value is None or held.content[0] is None:
        return True
    return (
        held.expiry is not None
        and held.expires_at_ms is not None
        and held.expiry >= held.value
        and held.expires_at_ms <= now_ms
    )


def check_bounds(host: Host) -> None:
    """I11."""
    options = host.options
    replicator = host.node.replicator
    slack = 512 * 1024  # one frame more than the bound, of each kind
    for link in replicator.core.links.values():
        bound = max(options.queue_bytes_max, 4 * options.sync_credit_bytes) + slack
        if link.data_bytes > bound:
            raise Violation(f"I11: {host.name} queues {link.data_bytes} bytes for a peer")
    for exchange in replicator.exchanges.values():
        for parked in exchange.dissemination._parked.values():
            if parked.changes > options.parked_changes_max + 2048:
                raise Violation(f"I11: {host.name} has parked {parked.changes} changes")
        if len(exchange.syncs.asking) > options.sync_asking_max + 1:
            raise Violation(f"I11: {host.name} asks for {len(exchange.syncs.asking)} syncs")


def check_explained(host: Host, letters: int) -> None:
    """I14, of the process that runs, which has kept so many dead letters."""
    replicator = host.node.replicator
    exchanges = replicator.exchanges.values()
    counters = replicator.core.counters
    held = sum(len(exchange.dissemination.held) for exchange in exchanges)
    behind = any(flow.behind for exchange in exchanges for flow in exchange.dissemination.flows.values())
    stale, voided = counters.get("stale_writes_total", 0), counters.get("voided_total", 0)
    if counters.get("origins_held_total", 0) < held:
        raise Violation(f"I14: {host.name} holds {held} origins, and has counted fewer")
    if behind and not counters.get("link_behind_total"):
        raise Violation(f"I14: {host.name} has left a peer behind, and has not counted it")
    if not stale <= letters <= stale + voided:
        raise Violation(f"I14: {host.name} keeps {letters} dead letters, counted are {stale} and {voided}")


# --- around crashes


async def cut_power(world: World, host: Host) -> None:
    """Cut a host's power and look at what its disk has kept."""
    host.note_claims()
    claimed = host.durable
    boot = host.node.replicator.core.identity.boot
    node = host.member
    await host.stop(silently=world.rng.random() < 0.5)
    host.disk.cut_power(host.rng)
    _check_claims(world, host, node, boot, claimed)


async def kill(world: World, host: Host) -> None:
    """End a host's process: all that was committed is still there."""
    committed = host.vector
    await host.stop()
    host.disk.kill_process(host.rng)
    host.world.tell(f"{host.name} killed")
    world.kept[host.name] = committed


def _check_claims(world: World, host: Host, node: bytes, boot: bytes, claimed: VersionVector) -> None:
    """I8: what others know of the host, and what it thought safe, has survived."""
    world.kept[host.name] = claimed
    if host.was_cut:
        return  # its peers may not know yet what is void
    for other in world.up():
        for exchange in other.node.replicator.exchanges.values():
            known = exchange.vectors.known.get(node)
            if known is not None and known.boot == boot and not claimed.covers(known.vector):
                raise Violation(f"I8: {other.name} knows {known.vector} of {host.name}, safe was {claimed}")


def check_survived(world: World, host: Host) -> None:
    """I4, I8: after a restart the vector covers what was safe before it."""
    kept = world.kept.pop(host.name, None)
    if kept is not None and not host.vector.covers(kept):
        raise Violation(f"I8: {host.name} has come back with {host.vector}, safe was {kept}")


# --- at rest


async def wait_for_rest(world: World, seconds: float) -> None:
    """I12: all vectors become equal within `seconds`, and nobody waits for a value any more."""
    started = trio.current_time()
    if not await world.wait_until(world.is_at_rest, seconds):
        if world.is_converged():
            # What a disk that is lost had sent half of a sync of is held, uncovered, for ever. So is a header whose
            # value is nowhere any more.
            world.count("partial at rest")
            return
        lines = [f"I12: no convergence within {seconds} s", *map(_describe, world.hosts.values())]
        raise Violation("\n".join(lines))
    world.counts["rest_ms"] = int((trio.current_time() - started) * 1000)


def _describe(host: Host) -> str:
    if not host.is_up:
        return f"  {host.name} is down"
    replicator = host.node.replicator
    return (
        f"  {host.name} {[str(one.rejoin.standing) for one in replicator.exchanges.values()]} "
        f"partial={host.is_partial} links={len(replicator.core.links)} {host.vector} durable={host.durable}"
    )


def check_rest(world: World, *, divergences: int = 0) -> None:
    """I2 and the rest, once all vectors are equal and so many differences at equal vectors were mended."""
    up = world.up()
    states = {host.name: host.registers() for host in up}
    for host in up:
        if host.is_partial:
            check_coverage(world, host, states[host.name])
        else:
            check_winners(world, host, host.vector, states[host.name])
        check_own_writes_survive(world, host, host.vector)
        findings = list(Verifier(host.disk, now_ms=host.wall_ms() + 3_600_000).run())
        if findings:
            raise Violation(f"{host.name}: {'; '.join(str(finding) for finding in findings)}")
    found = {host.name: host.node.replicator.core.counters.get("divergence_total", 0) for host in up}
    if sum(found.values()) != divergences:
        raise Violation(f"I1, I14: divergences were found: {found}, expected were {divergences}")
    for group in world.groups():
        carriers = world.carriers(group)
        for other in carriers[1:]:
            check_equal(world, group, (carriers[0], other), (states[carriers[0].name], states[other.name]))
        check_digests(group, carriers)


def check_winners(world: World, host: Host, vector: VersionVector, state: Mapping[bytes, Registers]) -> None:
    """I2: every register is the greatest of all writes that the vector covers."""
    now_ms = world.latest_ms()
    for place in world.history.places:
        expected = world.history.expected(place, vector)
        held = state.get(place, NOTHING)
        due = expected.expires_at_ms
        is_dead = expected.value is None or (due is not None and due <= now_ms)
        if is_dead:
            is_known = _is_by_stamps(held, expected) or _was_forgotten(world, place, held)
            if not _is_dead(held, now_ms) and not is_known:
                raise Violation(f"I2: {host.name} holds {held} of {place!r}, expected was {expected}")
            continue
        assert expected.value is not None
        if _was_cut(world, expected.value):
            continue  # what it had replaced by writes that were voided may be nowhere
        if _is_deleted_by_removed(world, host, expected.value) and held == NOTHING:
            continue
        if held.value != expected.value.stamp:
            raise Violation(f"I2: {host.name} holds {held} of {place!r}, expected was {expected}")
        if held.content[0] is None and due is None and not expected.expiry:
            raise Violation(f"I2: {host.name} holds no body of {place!r}, expected was {expected}")
        if held.content[0] is not None and held.content != expected.value.content:
            raise Violation(f"I2: {host.name} holds {held} of {place!r}, expected was {expected}")
        wanted = expected.expiry
        if wanted is not None and wanted.stamp > expected.value.stamp and held.expiry != wanted.stamp:
            raise Violation(f"I2: {host.name} holds expiry {held} of {place!r}, expected was {expected}")
    for place in state:
        if place not in world.history.places:
            raise Violation(f"I2: {host.name} holds {place!r}, which nobody wrote")


def _is_by_stamps(held: Registers, expected: Expected) -> bool:
    """Tell whether a value and an expiry from beyond its end, about another one, have met: they go by their stamps."""
    value, expiry = expected.value, expected.expiry
    return (
        value is not None and expiry is not None and (held.value, held.expiry) == (value.stamp, expiry.stamp)
    )


def check_own_writes_survive(world: World, host: Host, vector: VersionVector) -> None:
    """Nothing is lost that an undamaged disk was ever known to keep."""
    if not host.rolled_back and not vector.covers(host.claimed):
        raise Violation(f"I2: {host.name} once kept {host.claimed}; at rest all cover {vector}")


def check_digests(group: int, carriers: list[Host]) -> None:
    """The store's own digests of a group agree."""
    found = []
    for host in carriers:
        replica = host.replicas[group]
        feed = replica.feed()
        slices = list(replica.digest(feed))
        feed.close()
        found.append((host.name, dict(slices[-1] or {})))
    for name, digest in found[1:]:
        if digest != found[0][1]:
            raise Violation(f"I1: the digests of {found[0][0]} and {name} differ")
