"""What goes wrong: events of the network, of processes, disks and clocks; and `heal`, which ends all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

import attrs
import trio

from replication.node import StoreFailed
from replication.rejoin import Standing
from tests.cluster.checkers import check_survived, cut_power, kill
from tests.cluster.disk import Disk
from tests.cluster.plan import Event, kind
from tests.cluster.world import GROUP, Host, World


def start(world: World, host: Host) -> None:
    """Start a host's process unless it runs, or never will again."""
    if host.is_up or host.name in world.gone:
        return
    world.network.recover(host.name)
    advise(world, host)
    member = host.member
    if host.start():
        check_survived(world, host)
        if member and member != host.member:  # what was put back was from before it was this member
            world.to_remove[member] = None


def advise(world: World, host: Host) -> None:
    """Give a host addresses to join by, as an operator does, if nobody lives at those that it has.

    Unless one of the living has its address: then they find it, in a full mesh. In a partial view that takes two minutes.
    """
    living = [other for other in world.hosts.values() if other is not host and other.name not in world.gone]
    addresses = [other.address for other in living]
    is_lost = bool(host.options.join) and not any(address in addresses for address in host.options.join)
    is_found = len(world.hosts) <= host.options.full_mesh_max and any(
        host.address in other.options.join for other in living
    )
    if is_lost and not is_found:
        host.options = attrs.evolve(host.options, join=tuple(addresses))


# --- the network


@kind("block")
def block(world: World, source: str, target: str) -> None:
    world.network.block(source, target)


@kind("unblock")
def unblock(world: World, source: str, target: str) -> None:
    world.network.unblock(source, target)


@kind("cut")
def cut(world: World, one: str, other: str) -> None:
    world.network.cut(one, other)


@kind("flaky")
def flaky(world: World, source: str, target: str, share: float, size: int) -> None:
    """Let new connections break after at most `size` bytes."""
    path = world.network.path(source, target)
    path.cut_share, path.cut_bytes = share, size


@kind("slow")
def slow(world: World, source: str, target: str, delay: float, bandwidth: float) -> None:
    path = world.network.path(source, target)
    path.delay = path.jitter = delay
    path.bandwidth = bandwidth
    world.network.repace(path)


@kind("corrupt")
def corrupt(world: World, source: str, target: str) -> None:
    """Flip a bit of what is read next: the frame that it is in ends the connection."""
    world.network.corrupt(source, target)


@kind("read-slowly")
def read_slowly(world: World, name: str, rate: float) -> None:
    """Let a host take no more than so many bytes a second out of each connection; 0: as much as there is."""
    world.network.read_at_most(name, rate or None)


@kind("redial")
def redial(world: World, source: str, target: str) -> None:
    """Open a connection beside the one that is there."""
    host = world.hosts[source]
    if host.is_up:
        host.node._dial_soon(world.hosts[target].address, None)


# --- processes


@kind("stall")
def stall(world: World, name: str) -> None:
    world.hosts[name].is_stalled = True
    world.network.stall(name)


@kind("resume")
def resume(world: World, name: str) -> None:
    world.hosts[name].is_stalled = False
    world.network.resume(name)


@kind("kill")
async def kill_process(world: World, name: str) -> None:
    host = world.hosts[name]
    if host.is_up:
        await kill(world, host)


@kind("power")
async def power(world: World, name: str) -> None:
    host = world.hosts[name]
    if host.is_up:
        await cut_power(world, host)


@kind("blackout")
async def blackout(world: World) -> None:
    """Cut the power of all at the same moment."""
    for host in world.up():
        await cut_power(world, host)


@kind("start")
def start_process(world: World, name: str) -> None:
    start(world, world.hosts[name])


# --- disks


@kind("full")
def full(world: World, name: str, is_full: bool) -> None:
    world.hosts[name].disk.is_full = is_full


@kind("failing")
def failing(world: World, name: str, count: int, ghosts: bool) -> None:
    world.hosts[name].disk.fail(count, ghosts=ghosts)


@kind("sync")
def sync(world: World, name: str, seconds: float, fails: bool) -> None:
    disk = world.hosts[name].disk
    disk.sync_seconds, disk.sync_fails = seconds, fails


@kind("backup")
def backup(world: World, name: str) -> None:
    """Take a copy of a host's data directory."""
    world.images[name] = world.hosts[name].disk.image()


@kind("restore")
async def restore(world: World, name: str) -> None:
    """Stop a host and put the copy back."""
    host = world.hosts[name]
    image = world.images.get(name)
    if image is None:
        return
    await host.stop()
    host.disk.put_back(image)
    host.rolled_back = True
    world.kept.pop(name, None)


@kind("wipe")
async def wipe(world: World, name: str) -> None:
    """Stop a host and delete its data directory; an operator removes the member that it was."""
    host = world.hosts[name]
    if not host.is_up or len(world.up()) < 3:
        return
    world.to_remove[host.member] = None
    await host.stop()
    host.disk = Disk(name)
    host.rolled_back = True
    world.kept.pop(name, None)
    world.images.pop(name, None)


# --- clocks


@kind("clock")
def step_clock(world: World, name: str, offset_ms: float) -> None:
    world.latest_ms()
    world.hosts[name].clock.offset_ms += offset_ms


@kind("keep-cutting")
def keep_cutting(world: World) -> None:
    """Let an operator look after held origins from now on."""
    world.nursery.start_soon(_keep_cutting, world)


async def _keep_cutting(world: World) -> None:
    while True:
        for host in world.up():
            cut_held(world, host.name)
        _remove_again(world)
        await trio.sleep(3.0)


def _remove_again(world: World) -> None:
    """Remove those that left for good, where that is not known any more: the record of it may have been voided."""
    gone = [world.hosts[name].member for name in world.gone]
    for node in [*gone, *world.removed]:
        for host in world.up():
            may_remove = host.standing in {Standing.READY, Standing.REJOINING}
            if may_remove and host.node.replicator.roster.is_member(node):
                host.remove_member(node)


@kind("cut-held")
def cut_held(world: World, name: str) -> None:
    """Void what a host holds, as an operator does: on one that is whole, if there is one."""
    host = world.hosts[name]
    if not host.is_up or host.standing not in {Standing.READY, Standing.REJOINING}:
        return
    held = _held(host)
    if host.standing == Standing.REJOINING:
        others = [
            origin for other in world.up() if other.standing == Standing.READY for origin in _held(other)
        ]
        held = [origin for origin in held if origin not in others]
    with contextlib.suppress(StoreFailed):
        for origin in held:
            host.node._in_tick(partial(host.node.replicator.cut, origin))


def _held(host: Host) -> list[bytes]:
    exchanges = host.node.replicator.exchanges.values()
    return [origin for exchange in exchanges for origin in exchange.dissemination.held]


@kind("drift")
def drift(world: World, name: str, rate: float) -> None:
    """Change a clock's rate, without a step."""
    world.hosts[name].clock.set_drift(rate, world.now())


# --- members


@kind("join")
def join(world: World, name: str) -> None:
    """Let a new host join."""
    if name not in world.hosts:
        known = tuple(host.address for host in world.hosts.values() if host.name not in world.gone)[:2]
        world.add(name, join=known)
        world.hosts[name].start()


@kind("carry")
async def carry(world: World, name: str) -> None:
    """Let a host carry the group from now on: it is started anew with another setting."""
    host = world.hosts.get(name)
    if host is None or host.name in world.gone or GROUP in host.options.groups:
        return
    was_up = host.is_up
    if was_up:
        await kill(world, host)
    host.options = attrs.evolve(host.options, groups=(GROUP,))
    host.began_in_past = any(one.rolled_back for one in world.hosts.values())
    if was_up:
        start(world, host)


@kind("leave")
def leave(world: World, name: str) -> None:
    """Let a host hand over and leave for good."""
    host = world.hosts[name]
    if host.is_whole and sum(one.is_whole for one in world.up()) >= 3:
        world.gone[name] = None
        world.nursery.start_soon(leave_for_good, world, host)


async def leave_for_good(world: World, host: Host) -> None:
    """Let a host leave and take it away, whatever comes of that; an operator removes the member if not all was handed over.

    Its disk may have been full, or its links cut: then it is a member for the others as before. It could come back with what
    it alone has, so whoever begins to carry a group of which that is all there is waits for it, and rightly.
    """
    node = host.node
    try:
        host.has_handed_over = await node.leave()
    except StoreFailed:
        host.has_handed_over = False
    if host.node is not node:
        return  # it was started again
    await host.stop()
    if not host.has_handed_over:
        world.to_remove[host.member] = None
        remove(world)


@kind("die")
async def die(world: World, name: str) -> None:
    """Let a host burn down; an operator removes the member."""
    host = world.hosts[name]
    if not host.is_up or len(world.up()) < 3:
        return
    world.to_remove[host.member] = None
    await host.stop(silently=True)
    world.gone[name] = None
    world.kept.pop(name, None)


@kind("expel")
def expel(world: World, name: str, member: str) -> None:
    """Remove a member though it may live."""
    host, other = world.hosts[name], world.hosts[member]
    may_expel = host.is_whole and other.is_whole and sum(one.is_whole for one in world.up()) >= 3
    if may_expel and host.remove_member(other.member):
        world.expelled[member] = None


@kind("perish")
async def perish(world: World, name: str) -> None:
    """Take a host away for good that was removed before."""
    if name in world.expelled:
        world.gone[name] = None
        world.kept.pop(name, None)
        await world.hosts[name].stop()


@kind("remove")
def remove(world: World) -> None:
    """Remove, as an operator does, the members that are known to be dead.

    By any that is whole in the common group: another group may wait for just this.
    """
    for node in list(world.to_remove):
        for host in world.up():
            may_remove = {Standing.READY, Standing.LEAVING, Standing.REJOINING}
            if not host.is_stalled and host.standing in may_remove and host.remove_member(node):
                world.removed[node] = None
                del world.to_remove[node]
                break


@kind("heal")
def heal(world: World) -> None:
    """End every fault, and start whoever may still come back."""
    network = world.network
    for path in list(network._paths.values()):
        world.default_path(path)
        path.cut_share = 0.0
        network.repace(path)
        network.unblock(path.source, path.target)
    for host in world.hosts.values():
        network.read_at_most(host.name, None)
        host.disk.is_full = host.disk.sync_fails = False
        host.disk.fail(0, ghosts=False)
        host.disk.sync_seconds = 0.004
        world.latest_ms()
        host.clock.offset_ms = 0.0
        host.clock.drift = 0.0
        if host.is_stalled:
            resume(world, host.name)
        start(world, host)
    for name in world.expelled:
        if name not in world.gone:
            world.gone[name] = None
            world.nursery.start_soon(world.hosts[name].stop)
    # The record of it may have burnt down with the host that wrote it.
    world.to_remove |= world.removed | {world.hosts[name].member: None for name in world.expelled}
    remove(world)


# --- drawing

Draw = list[Event]


def draw_partition(rng: Random, names: list[str], end: float) -> Draw:
    """Part the hosts in two for a while, both ways or one way."""
    shuffled = rng.sample(names, len(names))
    size = rng.randrange(1, len(names))
    at, until = _span(rng, end, 1.0, 12.0)
    pairs = [(one, other) for one in shuffled[:size] for other in shuffled[size:]]
    if rng.random() < 0.6:
        pairs += [(other, one) for one, other in pairs]
    return [
        *(Event(at, "block", pair) for pair in pairs),
        *(Event(until, "unblock", pair) for pair in pairs),
    ]


def draw_one_link(rng: Random, names: list[str], end: float) -> Draw:
    pair = tuple(rng.sample(names, 2))
    at, until = _span(rng, end, 1.0, 15.0)
    pairs = [pair, pair[::-1]] if rng.random() < 0.5 else [pair]
    return [*(Event(at, "block", one) for one in pairs), *(Event(until, "unblock", one) for one in pairs)]


def draw_cuts(rng: Random, names: list[str], end: float) -> Draw:
    return [
        Event(rng.uniform(0, end), "cut", tuple(rng.sample(names, 2))) for _ in range(rng.randrange(1, 6))
    ]


def draw_flaky(rng: Random, names: list[str], end: float) -> Draw:
    found = []
    at, until = _span(rng, end, 3.0, 15.0)
    for _ in range(rng.randrange(1, 4)):
        one, other = rng.sample(names, 2)
        share, size = rng.choice((0.5, 1.0)), rng.choice((300, 3000, 20000))
        found += [
            Event(at, "flaky", (one, other, share, size)),
            Event(at, "cut", (one, other)),
            Event(until, "flaky", (one, other, 0.0, 0)),
        ]
    return found


def draw_slow(rng: Random, names: list[str], end: float) -> Draw:
    one, other = rng.sample(names, 2)
    at, until = _span(rng, end, 2.0, 15.0)
    delay, bandwidth = rng.choice((0.05, 0.3, 1.0)), rng.choice((2_000.0, 20_000.0, 1e9))
    return [
        Event(at, "slow", (one, other, delay, bandwidth)),
        Event(until, "slow", (one, other, 0.002, 1e9)),
    ]


def draw_slow_reader(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 2.0, 15.0)
    return [Event(at, "read-slowly", (name, 1024.0)), Event(until, "read-slowly", (name, 0.0))]


def draw_corruption(rng: Random, names: list[str], end: float) -> Draw:
    return [
        Event(rng.uniform(0, end), "corrupt", tuple(rng.sample(names, 2))) for _ in range(rng.randrange(1, 6))
    ]


def draw_redials(rng: Random, names: list[str], end: float) -> Draw:
    return [
        Event(rng.uniform(0, end), "redial", tuple(rng.sample(names, 2))) for _ in range(rng.randrange(1, 6))
    ]


def draw_stall(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 0.5, 12.0)
    return [Event(at, "stall", (name,)), Event(until, "resume", (name,))]


def draw_kill(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 0.01, 8.0)
    return [Event(at, "kill", (name,)), Event(until, "start", (name,))]


def draw_power(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 0.01, 10.0)
    return [Event(at, "power", (name,)), Event(until, "start", (name,))]


def draw_blackout(rng: Random, names: list[str], end: float) -> Draw:
    at, until = _span(rng, end, 0.1, 3.0)
    return [
        Event(at, "blackout"),
        *(Event(until + rng.uniform(0, 2), "start", (name,)) for name in names),
    ]


def draw_full(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 0.5, 10.0)
    return [Event(at, "full", (name, True)), Event(until, "full", (name, False))]


def draw_failing(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at = rng.uniform(0, end)
    found = [Event(at, "failing", (name, rng.randrange(1, 4), rng.random() < 0.5))]
    if rng.random() < 0.5:
        found += [Event(at + 0.05, "kill", (name,)), Event(at + 0.3, "start", (name,))]
    return found


def draw_sync(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 2.0, 20.0)
    seconds, fails = rng.choice(((0.3, False), (2.0, False), (0.01, True)))
    return [Event(at, "sync", (name, seconds, fails)), Event(until, "sync", (name, 0.004, False))]


def draw_restore(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    taken, at = sorted((rng.uniform(0, end), rng.uniform(0, end)))
    return [
        Event(taken, "backup", (name,)),
        Event(at, "restore", (name,)),
        Event(at + rng.uniform(0.01, 4), "start", (name,)),
    ]


def draw_past(rng: Random, names: list[str], end: float) -> Draw:
    """Restore a host that is alone then, with a clock that is behind, and let it write before it finds the others.

    What it writes has been deleted meanwhile, by a clock that is right and so by a greater stamp, in keys of its own:
    nothing else is written over it.
    """
    name = rng.choice(names)
    others = [other for other in names if other != name]
    behind = rng.choice((2.5, 4.0, 6.0))
    taken = rng.uniform(0, end / 2)
    at = taken + behind + rng.uniform(0.1, 3)  # so that the clock is not behind what is stored
    until = at + rng.uniform(2.5, 5)
    found = [
        Event(taken, "backup", (name,)),
        Event(at, "restore", (name,)),
        Event(at + 0.01, "clock", (name, -1000 * behind)),
        Event(at + 0.02, "start", (name,)),
        Event(until - 0.01, "clock", (name, 1000 * behind)),
        *_parted(name, others, at, until),
    ]
    for number in range(4):
        key = f"p{number}"
        found.append(Event(rng.uniform(0, at - 0.5), "set", (rng.choice(others), key, f"p{number}.{at:.3f}")))
        found.append(Event(rng.uniform(at - 0.5, at), "del", (rng.choice(others), key)))
        found.append(Event(rng.uniform(at + 1.1, at + 2.0), "set", (name, key, f"past{number}.{at:.3f}")))
    return found


def draw_expelled(rng: Random, names: list[str], end: float) -> Draw:
    """Remove a member that lives: the one who removes it cannot hear it, and who can hear it does not know yet.

        other ──✕── expelled ──▶ bridge ──▶ other      all that `expelled` writes goes over `bridge`
        other ──✕──▶ bridge                             the removal does not, for a while

    Meanwhile keys that `expelled` has just written, and the bridge has not heard of yet, are deleted.
    """
    expelled, other, bridge = rng.sample(names, 3)
    at = rng.uniform(0, end)
    held, removed = at + rng.uniform(5, 8), at + rng.uniform(8.1, 8.5)
    told = removed + rng.uniform(1, 3)
    found = [
        *_parted(expelled, [name for name in names if name not in {bridge, expelled}], at, told + 1),
        *(
            Event(at + 0.2 * number, "set", (expelled, f"y{number % 3}", f"y{number}.{at:.3f}"))
            for number in range(25)
        ),
        Event(held, "block", (expelled, bridge)),
        Event(removed, "block", (other, bridge)),
        Event(removed + 0.01, "expel", (other, expelled)),
        Event(removed + rng.uniform(0.5, told - removed - 0.1), "unblock", (expelled, bridge)),
        Event(told, "unblock", (other, bridge)),
        Event(told + 1, "perish", (expelled,)),
    ]
    for number in range(4):
        key = f"q{number}"
        found.append(Event(rng.uniform(at, held), "set", (other, key, f"q{number}.{at:.3f}")))
        found.append(
            Event(rng.uniform(held, removed - 0.1), "set", (expelled, key, f"expelled{number}.{at:.3f}"))
        )
        found.append(Event(removed - rng.uniform(0, 0.1), "del", (other, key)))
    return found


def draw_halfway(rng: Random, names: list[str], end: float) -> Draw:
    """Break a sync half-way, and let a third host sync from the one that has half of it.

    The middle covers what it had before, but what it holds of that has partly been replaced by what it does not
    cover yet; the last lacks both.
    """
    server, middle, last = rng.sample(names, 3)
    at = rng.uniform(0, end)
    again, broken = at + 2.5, at + 2.5 + rng.uniform(0.3, 2.5)
    met = broken + rng.uniform(0.1, 0.5)
    until = met + rng.uniform(2, 4)
    found = [
        *_parted(last, [name for name in names if name not in {last, middle}], at, until),
        *_parted(last, [middle], at, met),
        *_parted(middle, [name for name in names if name not in {last, middle}], at + 1.2, again),
        Event(again, "slow", (server, middle, 0.05, 2_000.0)),
        Event(again, "cut", (server, middle)),
        *_parted(middle, [name for name in names if name not in {last, middle}], broken, until),
        Event(broken, "cut", (server, middle)),
        Event(met, "cut", (middle, last)),
        Event(until, "slow", (server, middle, 0.002, 1e9)),
    ]
    for number in range(12):
        key = f"h{number}"
        found.append(Event(at + rng.uniform(0.1, 1.0), "set", (server, key, f"h{number}.{at:.3f}", 100)))
        found.append(Event(at + rng.uniform(1.3, 2.3), "set", (server, key, f"again{number}.{at:.3f}", 100)))
    return found


def draw_overtaken(rng: Random, names: list[str], end: float) -> Draw:
    """Let a third host write over what a long sync has still to send; the asker does not hear it directly."""
    asker, server, *writers = rng.sample(names, len(names))
    at = rng.uniform(0, end)
    again, until = at + 1.5, at + rng.uniform(6, 8)
    found = [
        *_parted(asker, [server], at, again),
        *_parted(asker, writers, at, until),
        Event(again, "slow", (server, asker, 0.1, 2_000.0)),
        Event(again, "cut", (server, asker)),
        Event(until, "slow", (server, asker, 0.002, 1e9)),
    ]
    for number in range(16):
        key = f"o{number}"
        before, after = at + rng.uniform(0.1, 1.4), again + rng.uniform(0.1, 3.0)
        found.append(Event(before, "set", (rng.choice(writers), key, f"o{number}.{at:.3f}", 100)))
        found.append(Event(after, "set", (rng.choice(writers), key, f"over{number}.{at:.3f}", 100)))
    return found


def _parted(name: str, others: list[str], at: float, until: float) -> Draw:
    """Cut a host off from some others for a while."""
    pairs = [pair for other in others for pair in ((name, other), (other, name))]
    return [event for pair in pairs for event in (Event(at, "block", pair), Event(until, "unblock", pair))]


def draw_wipe(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 0.1, 5.0)
    return [
        Event(at, "wipe", (name,)),
        Event(until, "start", (name,)),
        Event(until + rng.uniform(0, 5), "remove"),
    ]


def draw_clock(rng: Random, names: list[str], end: float) -> Draw:
    name = rng.choice(names)
    at, until = _span(rng, end, 1.0, 10.0)
    step = rng.choice((-3_600_000, -4_000, -600, 300, 1_500, 5_000))
    return [Event(at, "clock", (name, step)), Event(until, "clock", (name, -step))]


def draw_ahead(rng: Random, names: list[str], end: float) -> Draw:
    """Let a host that is cut off write with a clock that is far ahead; later it is right again, and what waits is cut."""
    name = rng.choice(names)
    others = [other for other in names if other != name]
    at, until = _span(rng, end, 2.0, 5.0)
    ahead = rng.choice((10_000.0, 60_000.0, 3_600_000.0))
    right, cut = sorted((until + rng.uniform(0.5, 4.0), until + rng.uniform(0.5, 4.0)))
    found = [
        Event(at - 0.01, "kill", (name,)),
        Event(at, "clock", (name, ahead)),
        Event(at, "start", (name,)),
        Event(right, "clock", (name, -ahead)),
        Event(cut, "cut-held", (rng.choice(others),)),
        Event(cut + 1.0, "keep-cutting"),
        *_parted(name, others, at - 0.02, until),
    ]
    for number in range(8):
        key = f"h{number % 4}"
        written = rng.uniform(at + 1.1, until)
        kind_name, value = rng.choice((("set", (f"ahead{number}.{at:.3f}",)), ("del", ())))
        found.append(Event(written, kind_name, (name, key, *value)))
        found.append(Event(rng.uniform(at - 3, cut), "set", (rng.choice(others), key, f"h{number}.{at:.3f}")))
    return found


def draw_drift(rng: Random, names: list[str], end: float) -> Draw:
    return [Event(0.0, "drift", (name, rng.uniform(-0.003, 0.003))) for name in names]


def draw_join(rng: Random, names: list[str], end: float) -> Draw:
    return [Event(rng.uniform(0, end), "join", (f"j{index}",)) for index in range(rng.randrange(1, 3))]


def draw_leave(rng: Random, names: list[str], end: float) -> Draw:
    return [Event(rng.uniform(0, end), "leave", (rng.choice(names),))]


def draw_die(rng: Random, names: list[str], end: float) -> Draw:
    at = rng.uniform(0, end)
    return [Event(at, "die", (rng.choice(names),)), Event(at + rng.uniform(0.5, 10), "remove")]


def _span(rng: Random, end: float, shortest: float, longest: float) -> tuple[float, float]:
    at = rng.uniform(0, end)
    return at, at + rng.uniform(shortest, longest)


# How a fault is drawn, and how many of its kind a run that has the kind gets at most.
Fault = tuple[Callable[[Random, list[str], float], Draw], int]
FAULTS: Final[dict[str, Fault]] = {
    "partition": (draw_partition, 3),
    "link": (draw_one_link, 4),
    "cuts": (draw_cuts, 3),
    "flaky": (draw_flaky, 2),
    "slow": (draw_slow, 3),
    "redials": (draw_redials, 2),
    "stall": (draw_stall, 3),
    "kill": (draw_kill, 4),
    "power": (draw_power, 4),
    "blackout": (draw_blackout, 1),
    "full": (draw_full, 2),
    "failing": (draw_failing, 3),
    "sync": (draw_sync, 2),
    "restore": (draw_restore, 2),
    "past": (draw_past, 1),
    "wipe": (draw_wipe, 1),
    "clock": (draw_clock, 2),
    "drift": (draw_drift, 1),
    "join": (draw_join, 1),
    "leave": (draw_leave, 1),
    "die": (draw_die, 1),
    "expelled": (draw_expelled, 1),
    "halfway": (draw_halfway, 2),
    "overtaken": (draw_overtaken, 2),
    "ahead": (draw_ahead, 1),
}

# What the seeds of the wider range draw from.
WIDER_FAULTS: Final[dict[str, Fault]] = {
    **FAULTS,
    "slow-reader": (draw_slow_reader, 3),
    "corruption": (draw_corruption, 3),
}
