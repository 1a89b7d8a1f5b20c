"""Groups of namespaces in simulated clusters: who gets what, who may be first, what may be purged, who may go."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
import trio

from replication.node import StoreFailed
from replication.rejoin import Standing
from storage.changes import Lane, VersionVector, group_of
from tests.cluster import faults
from tests.cluster.checkers import cut_power, kill
from tests.cluster.network import Path
from tests.cluster.scenario import delete, end, join, links, part, play, put, seeds, value, watch, write_for
from tests.cluster.world import GROUP, Host, World, template


async def form_grouped(world: World, size: int, carriers: Sequence[str], *, waits: bool = True) -> list[Host]:
    """Start a cluster that was formed before; some of its hosts carry the group from now on."""
    hosts = world.resume(template(size), carriers=carriers)
    watch(world)
    assert await world.wait_until(lambda: world.is_formed(size), 20) or not waits
    return hosts


def standing(host: Host) -> Standing | None:
    exchange = host.node.replicator.exchanges.get(GROUP)
    return None if exchange is None else exchange.rejoin.standing


def vector(host: Host) -> VersionVector:
    return host.node.replicator.exchanges[GROUP].core.replica.vector()


def grouped_places(host: Host) -> list[bytes]:
    return [place for place in host.registers() if group_of(place) == GROUP]


def refuses(host: Host) -> bool:
    return host.node.replicator.refusal_in(GROUP) is not None


@seeds(quick=2)
def test_what_is_in_a_group_is_on_its_carriers_and_nowhere_else(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form_grouped(world, 4, ("n0", "n1", "n2"))
        await write_for(world, hosts[:3], 4, 20)
        await write_for(world, hosts[3:], 1, 20)
        await end(world)
        assert vector(hosts[0]) == vector(hosts[1]) == vector(hosts[2]) != VersionVector()
        assert grouped_places(hosts[0])
        assert not grouped_places(hosts[3])
        assert GROUP not in hosts[3].replicas
        assert not hosts[3].store._ledger.vector(GROUP)

    play("group placed", story, seeds)


@seeds(quick=2)
def test_a_member_that_begins_to_carry_gets_all_and_waits_for_it(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form_grouped(world, 3, ("n0",))
        await write_for(world, hosts[:1], 3, 30)
        assert put(hosts[0], "kept", "x")
        await world.wait_until(world.is_converged, 20)
        late = hosts[2]
        await faults.carry(world, "n2")
        assert refuses(late)
        assert not put(late, "early", "x"), "it takes writes before it has caught up"
        assert await world.wait_until(lambda: standing(late) == Standing.READY, 30)
        assert value(late, "kept") == b"x"
        assert put(late, "late", "y")
        await end(world)
        assert value(hosts[0], "late") == b"y"

    play("group carried later", story, seeds)


@seeds(quick=2)
def test_of_two_that_carry_a_group_first_at_once_one_begins(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        firsts: list[str] = []

        def note(host: Host, rows: object) -> None:
            if standing(host) == Standing.READY and host.name not in firsts:
                firsts.append(host.name)

        world.after_tick.append(note)
        hosts = await form_grouped(world, 3, ("n0", "n1"), waits=False)
        assert await world.wait_until(
            lambda: {standing(hosts[0]), standing(hosts[1])} == {Standing.READY}, 60
        )
        assert len(firsts) == 2
        await write_for(world, hosts[:2], 2, 20)
        await end(world)

    play("group founded twice", story, seeds)


@seeds(quick=2)
def test_nobody_is_first_without_a_majority(seeds: Sequence[int]) -> None:
    """Two halves would each begin, and each purge what the other has never heard of."""

    async def story(world: World) -> None:
        hosts = world.resume(template(3))
        watch(world)
        assert await world.wait_until(lambda: world.is_formed(3), 20)
        part(world, hosts[:1], hosts[1:])
        await faults.carry(world, "n0")
        await faults.carry(world, "n1")
        assert await world.wait_until(lambda: standing(hosts[1]) == Standing.READY, 30)
        await write_for(world, hosts[1:2], 5, 20, deletes=0.5)
        assert standing(hosts[0]) in {None, Standing.JOINING}
        assert not put(hosts[0], "alone", "x")
        join(world, hosts[:1], hosts[1:])
        assert await world.wait_until(lambda: standing(hosts[0]) == Standing.READY, 30)
        await end(world)
        assert not hosts[0].dead_letters
        assert not hosts[1].dead_letters

    play("group founded in a partition", story, seeds)


@seeds(quick=2)
def test_a_carrier_from_the_past_does_not_purge_as_if_it_were_alone(seeds: Sequence[int]) -> None:
    """An old backup does not know that another has begun to carry: what it purges the other would lack for ever."""

    async def story(world: World) -> None:
        hosts = await form_grouped(world, 3, ("n0",))
        await write_for(world, hosts[:1], 2, 20)
        await world.wait_until(world.is_converged, 20)
        faults.backup(world, "n0")
        await faults.carry(world, "n2")
        assert await world.wait_until(lambda: standing(hosts[2]) == Standing.READY, 30)
        await write_for(world, [hosts[2]], 2, 20)
        await faults.restore(world, "n0")
        part(world, hosts[:1], hosts[1:])
        faults.start(world, hosts[0])
        await trio.sleep(3)
        await write_for(world, [hosts[0], hosts[2]], 12, 20, deletes=0.5)
        assert not hosts[0].node.replicator.exchanges[GROUP].core.replica.floors()
        has_purged = bool(hosts[2].node.replicator.exchanges[GROUP].core.replica.floors())
        await end(world)
        assert not hosts[2].dead_letters
        # If n2 had purged, n0 lacks deletions that are forgotten, and what it wrote meanwhile is kept aside.
        assert has_purged or not hosts[0].dead_letters

    play("group from the past", story, seeds)


@seeds(quick=2)
def test_two_that_were_first_in_halves_that_grew_apart_purge_nothing_of_each_other(
    seeds: Sequence[int],
) -> None:
    """A majority of a half that let others in need not meet that of the other half; and claims passed on may be old."""

    async def story(world: World) -> None:
        hosts = world.resume(template(3))
        watch(world)
        world.options = attrs.evolve(world.options, full_mesh_max=2)
        for host in hosts:
            host.node.replicator.core.options = host.options = attrs.evolve(host.options, full_mesh_max=2)
        assert await world.wait_until(lambda: world.is_formed(3), 20)
        await trio.sleep(8)  # until the claims of all were passed on
        part(world, [hosts[0], hosts[2]], hosts[1:2])
        await faults.carry(world, "n0")
        assert await world.wait_until(lambda: standing(hosts[0]) == Standing.READY, 30)
        for name in ("n3", "n4"):
            faults.join(world, name)
            part(world, [hosts[0], hosts[2]], [world.hosts[name]])
        late = world.hosts["n3"]
        assert await world.wait_until(lambda: late.is_whole and world.hosts["n4"].is_whole, 30)
        await faults.carry(world, "n3")
        assert await world.wait_until(lambda: standing(late) == Standing.READY, 30)
        await write_for(world, [hosts[0], late], 12, 20, deletes=0.5)
        for host in (hosts[0], late):
            assert not host.node.replicator.exchanges[GROUP].core.replica.floors()
        join(world, [hosts[0], hosts[2]], [hosts[1], late, world.hosts["n4"]])
        await end(world)
        assert vector(hosts[0]) == vector(late)
        assert await world.wait_until(
            lambda: bool(hosts[0].node.replicator.exchanges[GROUP].core.replica.floors()), 60
        ), "nothing is purged any more"

    play("group founded in halves", story, seeds)


@seeds(quick=2)
def test_a_carrier_that_broke_down_while_it_left_can_go_on(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form_grouped(world, 4, ("n0", "n2"))
        part(world, hosts[:1], hosts[2:3])
        await write_for(world, hosts[:1], 1, 20)
        assert put(hosts[0], "last", "word")
        faults.leave(world, "n0")
        await trio.sleep(2)
        await kill(world, hosts[0])
        del world.gone["n0"]
        faults.start(world, hosts[0])
        await trio.sleep(1)
        assert standing(hosts[0]) == Standing.READY, "it does not even exchange the group"
        join(world, hosts[:1], hosts[2:3])
        world.gone["n0"] = None
        await faults.leave_for_good(world, hosts[0])
        assert hosts[0].has_handed_over
        await end(world)
        assert value(hosts[2], "last") == b"word"

    play("group left at the second try", story, seeds)


@seeds(quick=2)
def test_a_carrier_hands_a_group_over_before_it_is_known_to_leave(seeds: Sequence[int]) -> None:
    """Its departure travels by nodes that do not carry the group, too."""

    async def story(world: World) -> None:
        hosts = await form_grouped(world, 4, ("n0", "n2"))
        await write_for(world, [hosts[0], hosts[2]], 2, 20)
        part(world, hosts[:1], hosts[2:3])
        await write_for(world, [hosts[0], hosts[2]], 3, 20, deletes=0.5)
        faults.leave(world, "n0")
        await trio.sleep(4)
        join(world, hosts[:1], hosts[2:3])
        assert await world.wait_until(lambda: hosts[0].has_handed_over is not None, 30)
        assert hosts[0].has_handed_over
        await end(world)
        assert not hosts[0].dead_letters
        assert await world.wait_until(
            lambda: hosts[2].node.replicator.exchanges[GROUP].participants.members() == [hosts[2].member],
            30,
        )

    play("group handed over", story, seeds)


@seeds(quick=2)
def test_a_group_begins_anew_once_its_only_carrier_is_removed_that_could_not_leave(
    seeds: Sequence[int],
) -> None:
    """Not before: as long as it is a member, it may come back with all that is in the group."""

    async def story(world: World) -> None:
        hosts = await form_grouped(world, 3, ("n0",))
        await write_for(world, hosts[:1], 2, 20)
        part(world, hosts[:1], hosts[1:])
        hosts[0].disk.is_full = True
        await faults.carry(world, "n1")
        await trio.sleep(10)
        assert standing(hosts[1]) == Standing.JOINING
        world.gone["n0"] = None
        await faults.leave_for_good(world, hosts[0])
        assert not hosts[0].has_handed_over
        assert await world.wait_until(lambda: standing(hosts[1]) == Standing.READY, 20)
        assert put(hosts[1], "k", "v")
        await end(world)

    play("group begun anew", story, seeds)


@seeds(quick=2)
def test_a_group_purges_while_a_member_that_does_not_carry_it_is_away(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form_grouped(world, 3, ("n0", "n1"))
        assert put(hosts[0], "k", "v")
        await world.wait_until(world.is_converged, 20)
        await kill(world, hosts[2])
        assert delete(hosts[0], "k")
        exchange = hosts[0].node.replicator.exchanges[GROUP]
        assert await world.wait_until(lambda: bool(exchange.core.replica.floors()), 60), "nothing is purged"
        assert not exchange.stability.blocked_by
        await kill(world, hosts[1])
        assert put(hosts[0], "l", "v")
        assert delete(hosts[0], "l")
        before = exchange.core.replica.floors()
        await trio.sleep(20)
        assert exchange.core.replica.floors() == before, "a carrier that is away was not waited for"
        faults.start(world, hosts[1])
        faults.start(world, hosts[2])
        await end(world)

    play("group purged", story, seeds)


@seeds(quick=1)
def test_who_names_carriers_that_nobody_knows_is_named_for_what_waits(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form_grouped(world, 3, ("n0", "n1"))
        assert put(hosts[0], "k", "v")
        await world.wait_until(world.is_converged, 20)
        exchange = hosts[0].node.replicator.exchanges[GROUP]
        exchange.vectors.known[hosts[1].member].carriers += (bytes(16),)
        assert delete(hosts[0], "k")
        assert await world.wait_until(lambda: exchange.stability.blocked_by == [hosts[1].member], 30), (
            "nobody is told why nothing is purged"
        )
        origin = exchange.core.replica.origin(Lane.SMALL)
        assert origin is not None
        assert not exchange.stability.covers(origin, exchange.core.replica.vector()[origin])

    play("group of unknown carriers", story, seeds)


@seeds(quick=1)
def test_a_group_is_exchanged_in_a_partial_view(seeds: Sequence[int]) -> None:
    """Who carries a group is linked for its sake, for nobody else passes on what is in it."""

    async def story(world: World) -> None:
        world.options = attrs.evolve(world.options, full_mesh_max=5, degree=3, degree_low=2, degree_high=4)
        hosts = world.found(10)
        for host in hosts[::3]:
            host.options = attrs.evolve(host.options, groups=(GROUP,))
        for host in hosts[::3]:
            await kill(world, host)
            faults.start(world, host)
        carriers = hosts[::3]
        assert await world.wait_until(lambda: all(host.is_whole for host in hosts), 240, step=1.0)
        watch(world)
        for number in range(40):
            put(carriers[number % 4], f"k{number % 8}", f"v{number}")
            await trio.sleep(0.1)
        await end(world, diameter=3)
        assert len({vector(host) for host in carriers}) == 1
        for host in carriers:
            assert len(host.node.replicator.exchanges[GROUP].core.links) == 3
        assert any(len(host.node.replicator.core.links) < 9 for host in hosts)

    play("group in a partial view", story, seeds)


@seeds(quick=1)
def test_a_failed_commit_leaves_no_half_opened_group(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = await form_grouped(world, 3, ())
        host = hosts[1]
        await kill(world, host)
        host.options = attrs.evolve(host.options, groups=(GROUP,))
        host.start()
        assert await world.wait_until(lambda: standing(host) is not None, 20, step=0.05)
        replicator = host.node.replicator
        del replicator.exchanges[GROUP]
        host.disk.fail(1, ghosts=False)

        def work() -> None:
            replicator._open_groups()
            host.replica.put_local("something", b"to commit")

        with pytest.raises(StoreFailed):
            host.node._in_tick(work)
        assert GROUP not in replicator.exchanges
        assert await world.wait_until(lambda: standing(host) == Standing.READY, 60)
        await write_for(world, [host], 1, 10)
        await end(world)

    play("group half opened", story, seeds)


@seeds(quick=2)
@pytest.mark.parametrize("breaks", [False, True], ids=["goes-on", "breaks"])
def test_what_was_under_way_on_a_slow_path_holds_up_nothing_for_longer_than_that(
    seeds: Sequence[int], breaks: bool
) -> None:
    """Not once the path is fast again, nor a link that is opened anew. Two carriers have no other way."""

    def shape(path: Path) -> None:
        path.delay, path.jitter, path.bandwidth = 0.002, 0.003, 1e9

    async def story(world: World) -> None:
        world.default_path = shape
        hosts = await form_grouped(world, 3, ("n0", "n2"))
        faults.slow(world, "n0", "n2", 0.05, 2_000.0)
        assert put(hosts[0], "large", bytes(150_000))
        assert await world.wait_until(
            lambda: world.network.path("n0", "n2").busy_until > world.now() + 60, 20
        )
        if breaks:
            await cut_power(world, hosts[0])
            faults.start(world, hosts[0])
            assert await world.wait_until(lambda: hosts[2].member in links(hosts[0]), 10)
        await end(world)
        assert vector(hosts[0]) == vector(hosts[2])

    play(f"group over a slow path {breaks}", story, seeds)
