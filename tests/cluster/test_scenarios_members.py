"""Who belongs to the cluster, and for how long. Absence, removal, leaving, secrets, versions, many nodes (F11, F24, F27-F29, F33-F35).

The numbers are those of the specification (section 16); durations are the scaled ones of `world`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from replication.messages import State
from replication.rejoin import Standing
from storage.changes import Change, Lane, Run
from tests.cluster import faults
from tests.cluster.checkers import kill
from tests.cluster.scenario import (
    PRODUCTION,
    counter,
    delete,
    end,
    form,
    is_seen,
    join,
    links,
    look,
    part,
    play,
    put,
    seeds,
    tombstones,
    value,
    watch,
    write_for,
)
from tests.cluster.world import Host, World


@seeds()
def test_who_has_left_has_handed_over_everything(seeds: Sequence[int]) -> None:
    """Also what its disk had not synced yet when it was told to leave."""

    async def story(world: World) -> None:
        hosts = await form(world, 3)
        await write_for(world, hosts, 2, 10)
        leaver = hosts[0]
        assert put(leaver, "last", "word")
        faults.leave(world, "n0")
        assert await world.wait_until(lambda: not leaver.is_up, 15)
        assert leaver.has_handed_over
        assert await world.wait_until(lambda: is_seen(hosts[1:], "last", b"word"), 5)
        for host in hosts[1:]:
            departure = host.node.replicator.roster.departure(leaver.member)
            assert departure is not None
            assert departure.state == "left"
        await end(world)

    play("leaving", story, seeds)


@seeds(quick=1)
def test_f11_away_longer_than_allowed(seeds: Sequence[int]) -> None:
    """A member that was removed meanwhile does not come back with its data; its unsent writes reach nobody.

    It needs an empty data directory, so nothing is undone and there are no dead letters: the writes are in the old one.
    """

    async def story(world: World) -> None:
        hosts = await form(world, 4, max_offline=12.0)
        late = hosts[3]
        await write_for(world, hosts, 3, 10)
        part(world, [late], hosts[:3])
        await trio.sleep(2)
        for number in range(3):
            assert put(late, f"late{number}", "unsent")
        await write_for(world, hosts[:3], 5, 10, deletes=0.9)
        assert await world.wait_until(lambda: hosts[0].node.replicator.roster.is_removed(late.member), 120), (
            "the absent member was not removed"
        )
        await write_for(world, hosts[:3], 12, 10, deletes=0.9)
        assert any(host.replica.floors() for host in hosts[:3]), "nothing was purged"
        join(world, [late], hosts[:3])
        assert await world.wait_until(lambda: late.node.replicator.rejoin.standing == Standing.REMOVED, 30), (
            late.node.replicator.rejoin.standing
        )
        await trio.sleep(5)
        for number in range(3):
            assert is_seen(hosts[:3], f"late{number}", None)
            assert value(late, f"late{number}") == b"unsent"
        assert not any(host.dead_letters for host in hosts)
        look(world)
        await late.stop()
        world.gone[late.name] = None
        await end(world)

    play("F11", story, seeds)


def is_ready(host: Host) -> bool:
    return host.standing == Standing.READY


@seeds(quick=1)
def test_who_has_purged_alone_gives_way_and_nothing_deleted_comes_back(seeds: Sequence[int]) -> None:
    """All whom an old copy knows have been replaced: it is told that they are gone, and purges by itself until it meets the others."""

    async def story(world: World) -> None:
        hosts = await form(world, 3)
        victim, others = hosts[0], hosts[1:]
        for key in ("here", "there", "newer"):
            assert put(hosts[1], key, "before the copy")
        await write_for(world, hosts, 2, 10, deletes=0.5)
        assert await world.wait_until(world.is_converged, 20)
        faults.backup(world, victim.name)
        former = [host.member for host in others]
        for host in others:
            await faults.wipe(world, host.name)
            faults.start(world, host)
            assert await world.wait_until(partial(is_ready, host), 20)
            faults.remove(world)
        assert delete(others[0], "there")
        await write_for(world, hosts, 5, 10, deletes=0.8)
        assert await world.wait_until(lambda: all(host.replica.floors() for host in others), 30)
        await faults.restore(world, victim.name)
        part(world, [victim], others)
        faults.start(world, victim)
        for node in former:
            assert victim.remove_member(node)
        assert await world.wait_until(lambda: victim.may_write_to(0), 10)
        for key in ("here", "newer"):
            assert delete(victim, key)
        await trio.sleep(0.1)
        assert put(others[0], "newer", "than the deletion")
        for group in ([victim], others):
            await write_for(world, group, 5, 10, deletes=0.8)
        assert await world.wait_until(lambda: bool(victim.replica.floors()), 30)
        join(world, [victim], others)
        await end(world)
        assert counter(victim, "given_way_total") == 1
        assert is_seen(hosts, "here", None)
        assert is_seen(hosts, "there", None)
        assert is_seen(hosts, "newer", b"than the deletion")

    play("parted", story, seeds)


@seeds(quick=1)
def test_f11_stale_writes_become_dead_letters(seeds: Sequence[int]) -> None:
    """A restored member writes alone, then finds that the others have purged: those writes are kept apart."""

    async def story(world: World) -> None:
        hosts = await form(world, 3)
        victim = hosts[1]
        await write_for(world, hosts, 3, 10, deletes=0.5)
        assert await world.wait_until(world.is_converged, 20)
        faults.backup(world, "n1")
        await write_for(world, hosts, 20, 10, deletes=0.6)
        assert await world.wait_until(lambda: any(host.replica.floors() for host in hosts), 30), (
            "nothing was purged"
        )
        await faults.restore(world, "n1")
        part(world, [victim], [hosts[0], hosts[2]])
        faults.start(world, victim)
        await trio.sleep(3)
        for number in range(3):
            assert put(victim, f"stale{number}", "unsent"), victim.node.replicator.refusal(world.now())
        await trio.sleep(2)
        join(world, [victim], [hosts[0], hosts[2]])
        await end(world)
        letters = sorted(change.place[16:] for _, change in victim.dead_letters)
        assert letters == [b"stale0", b"stale1", b"stale2"]
        assert counter(victim, "stale_writes_total") == 3
        assert not any(host.dead_letters for host in (hosts[0], hosts[2]))
        assert all(value(host, "stale1") is None for host in hosts)

    play("F11b", story, seeds)


@seeds(quick=1)
def test_f24_stalled_loop_doubts_itself(seeds: Sequence[int]) -> None:
    """For 40 s. The watchdog, which is a thread, has tests of its own."""

    async def story(world: World) -> None:
        hosts = await form(world, 5)
        sleeper = hosts[4]
        changes: list[str] = []

        def watch_states(host: Host) -> None:
            def note(record: Any, previous: State | None) -> None:
                if record.node != sleeper.member and record.state in {State.SUSPECT, State.UNREACHABLE}:
                    changes.append(f"{host.name} {record.state.name} at {world.now():.2f}")

            host.node.replicator.membership.on_state_changed = note

        for host in hosts:
            watch_states(host)
        faults.stall(world, sleeper.name)
        await write_for(world, hosts[:4], 40, 3)
        faults.resume(world, sleeper.name)
        await trio.sleep(0.3)
        assert sleeper.node.replicator.membership.health.score > 0, "it does not doubt itself"
        await write_for(world, hosts, 10, 5)
        assert not changes, changes
        await end(world)

    play("F24", story, seeds)


@seeds(quick=1)
def test_deletions_are_purged_in_a_partial_view_too(seeds: Sequence[int]) -> None:
    """What members claim reaches also those that are not linked with them."""

    async def story(world: World) -> None:
        world.options = attrs.evolve(world.options, full_mesh_max=5, degree=3, degree_low=2, degree_high=4)
        watch(world)
        hosts = world.found(8)
        assert await world.wait_until(lambda: all(host.is_whole for host in hosts), 120, step=1.0)
        # Links above `degree_high` are let go only beyond a slack, so a few hosts may keep theirs with all.
        assert await world.wait_until(lambda: sum(len(links(host)) < 7 for host in hosts) >= 5, 120, step=1.0)
        await write_for(world, hosts, 3, 20, deletes=0.5)
        for key in range(8):
            delete(hosts[key], f"k{key}")
        await end(world, diameter=3)
        assert await world.wait_until(lambda: not tombstones(hosts), 120, step=1.0), "nothing is purged"
        await end(world, diameter=3)

    play("partial view", story, seeds)


@seeds(quick=1)
def test_f27_removed_while_alive(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form(world, 4)
        outcast, others = hosts[3], hosts[:3]
        await write_for(world, hosts, 2, 10)
        assert await world.wait_until(world.is_converged, 20)
        assert hosts[0].remove_member(outcast.member)
        assert await world.wait_until(lambda: outcast.node.replicator.rejoin.standing == Standing.REMOVED, 20)
        assert not put(outcast, "late", "x")
        await write_for(world, others, 3, 10, deletes=0.8)
        await kill(world, outcast)
        faults.start(world, outcast)
        await trio.sleep(10)
        assert not put(outcast, "late", "x")
        assert all(value(host, "late") is None for host in others)
        assert await world.wait_until(lambda: not tombstones(others), 30), "purging does not go on"
        await outcast.stop()
        world.gone[outcast.name] = None
        await end(world)

    play("F27", story, seeds)


@seeds()
def test_a_sync_from_before_a_deletion_brings_nothing_back_of_who_was_removed(seeds: Sequence[int]) -> None:
    """Half a sync has brought `held` what nobody covers; `asker` hears of the deletion first, and then of the value."""

    async def story(world: World) -> None:
        hosts = asker, held, other, outcast = await form(
            world, 4, history_bytes_max=0, sync_batch_bytes=300, sync_credit_bytes=900
        )
        large = b"." * 16_384  # each is a batch of its own
        assert put(outcast, "first", "v")
        assert await world.wait_until(lambda: is_seen(hosts, "first", b"v"), 20)
        part(world, [asker, other], [held, outcast])
        part(world, [held], [outcast])
        world.network.cut(outcast.name, held.name)
        origin = outcast.replica.origin(Lane.SMALL)
        assert origin is not None
        known = outcast.replica.covered(origin)
        for number in range(20):
            assert put(outcast, f"before{number}", large)
        assert put(outcast, "k", "v")
        for number in range(20):
            assert put(outcast, f"after{number}", large)
        world.network.path(outcast.name, held.name).bandwidth = 100_000.0
        join(world, [held], [outcast])
        assert await world.wait_until(lambda: value(held, "k") == b"v", 30, step=0.01)
        part(world, [held], [outcast])
        world.network.cut(outcast.name, held.name)
        assert held.replica.covered(origin) <= known, "the sync was too fast"

        world.network.path(held.name, asker.name).bandwidth = 10_000.0
        world.network.cut(asker.name, held.name)
        join(world, [asker], [held])
        syncs = asker.node.replicator.common.syncs

        def of_held() -> list[int]:
            return [
                number
                for number, session in syncs.asking.items()
                if session.link.node == held.member and session.server is not None
            ]

        assert await world.wait_until(lambda: bool(of_held()), 30, step=0.01)
        [number], began = of_held(), trio.current_time()
        assert delete(held, "k")
        assert held.remove_member(outcast.member)
        await outcast.stop(silently=True)
        world.gone[outcast.name] = None
        join(world, [other], [asker, held])
        assert await world.wait_until(lambda: number not in syncs.asking, 300)
        assert trio.current_time() - began > 30, "the sync was given up, or too fast: nothing could be purged"
        look(world)
        await end(world, leaves_half=True)
        assert not any(value(host, "k") for host in hosts[:3])

    play("from before", story, seeds)


@seeds(quick=1)
def test_f28_two_clusters_that_know_each_others_addresses(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        everybody = tuple(f"{name}:1" for name in ("a0", "a1", "a2", "b0", "b1", "b2"))
        watch(world)
        hosts = [world.add(name.rstrip(":1")[:2], join=everybody) for name in everybody]
        for host in hosts:
            host.cluster = bytes([ord(host.name[0])]) * 16
            host.start(founds=host.name.endswith("0"))
        assert await world.wait_until(lambda: all(host.is_whole for host in hosts), 60)
        assert put(hosts[0], "k", "a")
        assert put(hosts[3], "k", "b")
        await trio.sleep(30)
        for mine, theirs in ((hosts[:3], hosts[3:]), (hosts[3:], hosts[:3])):
            strangers = {host.member for host in theirs}
            for host in mine:
                replicator = host.node.replicator
                assert not strangers & {record.node for record in replicator.membership.records()}
                assert not strangers & set(replicator.roster.members())
                assert value(host, "k") == mine[0].name[:1].encode()
        for mine, theirs in ((hosts[:3], hosts[3:]), (hosts[3:], hosts[:3])):
            for host in theirs:
                await host.stop()
            for host in mine:
                if not host.is_up:
                    faults.start(world, host)
            assert await world.wait_until(lambda: world.is_formed(3), 20)
            await end(world, heals=False)  # that would start the others

    play("F28", story, seeds)


@seeds(quick=1)
def test_f29_secret_rotated_node_by_node(seeds: Sequence[int]) -> None:
    """A node accepts a list of secrets and proves with the first: add the new one, put it first, drop the old."""

    async def story(world: World) -> None:
        from replication.proofs import KeyedAuthenticator

        old, new = bytes(32), b"\x01" * 32
        keys: dict[str, Sequence[bytes]] = {}
        world.authenticator = lambda host: _Rotating(keys, host.name, KeyedAuthenticator)
        for name in ("n0", "n1", "n2"):
            keys[name] = (old,)
        hosts = await form(world, 3)
        for step in ((old, new), (new, old), (new,)):
            for host in hosts:
                keys[host.name] = step
                for other in hosts:
                    if other is not host:
                        faults.cut(world, host.name, other.name)
                await write_for(world, hosts, 1.5, 8)
                assert await world.wait_until(lambda: world.is_formed(3), world.options.redial_max + 1.5), (
                    f"refused after {step}"
                )
        await end(world)

    play("F29", story, seeds)


class _Rotating:
    def __init__(self, keys: dict[str, Sequence[bytes]], name: str, make: Any) -> None:
        self._keys, self._name, self._make = keys, name, make

    def prove(self, role: Any, transcript: Any) -> bytes:
        proof: bytes = self._make(self._keys[self._name]).prove(role, transcript)
        return proof

    def verify(self, role: Any, transcript: Any, proof: bytes) -> bool:
        return bool(self._make(self._keys[self._name]).verify(role, transcript, proof))


@seeds()
def test_f33_change_of_a_later_kind(seeds: Sequence[int]) -> None:
    """Nodes that do not know it relay and keep it whole, so a node that does has it on its own disk once it is upgraded."""

    async def story(world: World) -> None:
        hosts = await form(world, 3)
        part(world, hosts[:1], hosts[2:])
        origin = b"a later version!"
        now_hlc = hosts[0].wall_ms() << 16
        changes = [
            Change(
                seq=seq, hlc=now_hlc + seq, kind=70, place=bytes(16) + b"odd", content=b"?", sub=b"%d" % seq
            )
            for seq in (1, 2, 3)
        ]
        run = Run(origin, 0, 3, changes)
        hosts[0].node._in_tick(lambda: hosts[0].replica.apply(run))
        assert put(hosts[0], "odd", "even")
        # Nobody has pushed it, so a sync brings it to the second host, from where it is passed on.
        asker = hosts[1].node.replicator
        asker.syncs.want(asker.core.links[hosts[0].member])
        assert await world.wait_until(lambda: all(host.vector[origin] == 3 for host in hosts), 30)
        part(world, hosts[2:], hosts[1:2])
        await kill(world, hosts[2])
        faults.start(world, hosts[2])
        await trio.sleep(3)
        assert not counter(hosts[2], "sync_started_total")
        for host in hosts:
            found = [
                change for run in host.replica.changes_at([bytes(16) + b"odd"]) for change in run.changes
            ]
            kept = [(one.seq, one.hlc, one.sub, one.content) for one in found if one.kind == 70]
            assert sorted(kept) == [(one.seq, one.hlc, one.sub, one.content) for one in changes]
            assert value(host, "odd") == b"even"
        await end(world)

    play("F33", story, seeds)


@seeds(quick=1)
def test_f34_many_restarts_leave_few_open_origins(seeds: Sequence[int]) -> None:
    """30 restarts of 3 nodes; the specification says 300 of 5."""

    async def story(world: World) -> None:
        hosts = await form(world, 3)
        for number in range(30):
            host = hosts[number % 3]
            assert put(host, f"k{number % 4}", f"v{number}"), host.node.replicator.refusal(world.now())
            await trio.sleep(0.5)
            await kill(world, host)
            await trio.sleep(0.2)
            faults.start(world, host)
            assert await world.wait_until(lambda: world.is_formed(3), 10)
            await trio.sleep(1.5)
        await end(world)
        await trio.sleep(10)
        for host in hosts:
            entries = host.vector
            sealed = host.node.replicator.vectors.sealed
            assert len(sealed) >= 15, "few origins are sealed"
            assert len(entries) - len(sealed) <= 4 * 3, (len(entries), len(sealed))
        await end(world)

    play("F34", story, seeds)


@pytest.mark.soak
def test_f35_five_hundred_nodes() -> None:
    """500 nodes that lose connections while there are 10 writes a second for two minutes, with one seed.

    The specification says 50 a second for ten minutes; that is hours of CPU.
    """

    async def story(world: World) -> None:
        from tests.bench.bench_sim import Propagation, form_large

        watch(world)
        hosts = await form_large(world, 500)
        propagation = Propagation(world, hosts)
        for _ in range(24):
            await propagation.write_for(5, rate=10)
            for connection in list(world.network.connections):
                if world.rng.random() < 0.01 / 12:
                    connection.cut()
        assert propagation.percentile(0.99) <= 1.0
        await end(world, diameter=4)

    play("F35", story, range(1), options=PRODUCTION)
