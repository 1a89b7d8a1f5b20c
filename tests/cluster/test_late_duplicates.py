"""A write that comes once more, by a slow way, when its deletion is not even a memory any more.

    writer ─────▶ fast ─────▶ host        what is new comes to `host` by both ways
       └──────▶ slow ── queue ──▶┘        on this one it waits behind much else, and claims overtake it

What comes first is taken, with the deletion that follows it. Then `slow` claims the deletion, too: control goes before
data. So `host` purges the mark, and the write arrives again, long before the copy of its deletion. Nothing on the disk
speaks against that but the vector: what it covers is dropped, whatever its stamp.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from tests.cluster.scenario import counter, delete, end, form, is_seen, look, part, play, put, seeds
from tests.cluster.world import Host, World

BANDWIDTH = 20_000.0
FILLING = b"." * 40_000  # a value that still travels in its change


def fill(host: Host, count: int) -> None:
    """Write what takes its time on the slow way: three or four of these fill a connection's window."""
    for number in range(count):
        assert put(host, f"filling{number}", FILLING)


@seeds()
def test_what_comes_again_after_its_deletion_was_purged_stays_dead(seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        hosts = writer, slow, host, fast = await form(
            world,
            4,
            full_mesh_max=3,
            degree=3,  # a partial view, but at first of links with all: the ring is what the cut leaves of them
            degree_low=3,
            degree_high=3,
            probe_interval=40.0,
            probe_timeout=30.0,
            queue_bytes_max=1 << 20,
            queue_age_max=60.0,
            ihave_timeout=60.0,
            sync_interval=1e6,
            verify_interval=1e6,
            sync_timeout=60.0,
        )
        part(world, [writer], [host])
        part(world, [slow], [fast])
        world.network.cut(writer.name, host.name)
        world.network.cut(slow.name, fast.name)
        await trio.sleep(5)
        look(world)
        world.network.path(slow.name, host.name).bandwidth = BANDWIDTH
        fill(slow, 12)
        assert put(writer, "k", "v")
        assert await world.wait_until(lambda: is_seen(hosts, "k", b"v"), 2, step=0.01)
        fill(slow, 12)
        assert delete(writer, "k")
        place = host.place + b"k"
        assert await world.wait_until(lambda: place not in host.registers(), 60, step=0.05)
        before = counter(host, "push_duplicate_total")
        for _ in range(40):
            await trio.sleep(1)
            look(world)
        # The last that come by the slow way are the write, what was put in between, and the deletion.
        assert counter(host, "push_duplicate_total") > before + 2, "the copy was too fast"
        await end(world)

    play("late", story, seeds, gc_min_age=0.1)
