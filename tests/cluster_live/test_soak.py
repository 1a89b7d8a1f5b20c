"""Five daemons and minutes of anything that may happen, by chance: `make soak`.

The seed is printed; KVD_SOAK_SEED repeats the same faults, though not the same interleaving. KVD_SOAK_SECONDS and
KVD_SOAK_STOPPED_SECONDS say how long it takes, and for how long a process is stopped.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster_live.harness import Certificates, Cluster, Node, eventually
from tests.cluster_live.load import Load

SECONDS = float(os.environ.get("KVD_SOAK_SECONDS", "240"))
STOPPED_SECONDS = float(os.environ.get("KVD_SOAK_STOPPED_SECONDS", "150"))
# Marks of deletion are purged after seconds, so that whatever depends on their age happens all the time.
PURGING = ("--set", "storage.gc_min_age_seconds=5", "--set", "peers.purge_interval_seconds=1")


class Chaos:
    """Does harm and undoes it, one or two things at a time. A majority of the nodes stays up."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.down: list[Node] = []
        self.frozen: list[Node] = []

    def step(self) -> str:
        """Do one thing and return what it was."""
        action = self.rng.choice(
            [
                self.kill,
                self.stop,
                self.start,
                self.start,
                self.freeze,
                self.thaw,
                self.cut,
                self.heal,
                self.heal,
                self.shake,
            ]
        )
        action()
        return action.__name__

    def _victim(self) -> Node | None:
        up = [node for node in self.cluster.nodes if node not in self.down and node not in self.frozen]
        return self.rng.choice(up) if len(up) > 3 else None

    def kill(self) -> None:
        self._end(Node.kill)

    def stop(self) -> None:
        self._end(Node.stop)

    def _end(self, how: Callable[[Node], object]) -> None:
        victim = self._victim()
        if victim is not None:
            how(victim)
            self.down.append(victim)

    def start(self) -> None:
        if self.down:
            self.cluster.start(self.down.pop(0), wait=False)

    def freeze(self) -> None:
        victim = self._victim()
        if victim is not None:
            victim.freeze()
            self.frozen.append(victim)

    def thaw(self) -> None:
        if self.frozen:
            self.frozen.pop(0).thaw()

    def cut(self) -> None:
        nodes = list(self.cluster.nodes)
        self.rng.shuffle(nodes)
        size = self.rng.randrange(1, len(nodes))
        self.cluster.cut(nodes[:size], nodes[size:])

    def heal(self) -> None:
        self.cluster.heal()

    def shake(self) -> None:
        """End every connection of this moment."""
        for node in self.cluster.nodes:
            node.proxy.cut_all()

    def end(self) -> None:
        """Undo everything."""
        self.cluster.heal()
        while self.frozen:
            self.thaw()
        while self.down:
            self.start()
        for node in self.cluster.nodes:
            node.wait_writable(60)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_five_nodes_survive_anything_and_agree(tmp_path: Path) -> None:
    seed = int(os.environ.get("KVD_SOAK_SEED", "0")) or random.randrange(10**9)
    print("KVD_SOAK_SEED =", seed)
    rng = random.Random(seed)
    with Cluster(tmp_path, 5, *PURGING) as cluster:
        chaos = Chaos(cluster, rng)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with Load(cluster.nodes, writers=2, pause=0.005, patience=300.0) as load:
                for _ in range(rng.randrange(5, 20)):
                    print(chaos.step())
                    time.sleep(rng.random() * 3)
                chaos.end()
            load.check(cluster, seconds=120)
            print(f"equal, {load.acknowledged_count} writes acknowledged")
            for node in cluster.nodes:
                with node.client() as client:
                    client.flushall() if node is cluster[0] else None
            cluster.wait_equal(seconds=120)
        for node in cluster.nodes:
            status = node.status()
            assert status["divergences"] == 0
            with node.client() as client:
                assert client.info("stats")["unexpected_error_replies"] == 0


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_process_that_is_stopped_for_minutes_comes_back(tmp_path: Path) -> None:
    """The others write and read as usual, one of them crashes meanwhile; all members show certificates."""
    with Cluster(tmp_path, 5, *PURGING, trust=Certificates) as cluster:
        *others, crashing, stopped = cluster.nodes
        stopped_id = stopped.id
        with Load(cluster.nodes, pause=0.01, patience=2 * STOPPED_SECONDS) as load:
            time.sleep(1)
            stopped.freeze()
            thaws_at = time.monotonic() + STOPPED_SECONDS
            eventually(lambda: _state(others[0], stopped_id) == "unreachable", "it is missed", seconds=60)
            crashing.kill()
            cluster.start(crashing)
            acknowledged = [writer.acknowledged_count for writer in load.of(*others, crashing)]
            time.sleep(max(0.0, thaws_at - time.monotonic()))
            for writer, before in zip(load.of(*others, crashing), acknowledged, strict=True):
                assert writer.acknowledged_count > before + STOPPED_SECONDS
            for writer in load.of(*others):
                assert writer.slowest_seconds < 1.0
                assert not writer.failed_count
            stopped.thaw()
            stopped.wait_writable()
            eventually(lambda: _state(others[0], stopped_id) == "alive", "it is back", seconds=60)
            time.sleep(1)
        load.check(cluster, seconds=120)
        assert not load.of(stopped)[0].failed_count
        assert all(node.status()["divergences"] == 0 for node in cluster.nodes)


def _state(node: Node, member_id: str) -> str:
    return next(str(member["state"]) for member in node.status()["members"] if member["id"] == member_id)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_node_is_restored_from_old_copies_again_and_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        copies: list[Path] = []
        rng = random.Random(1)
        for turn in range(12):
            node = cluster[turn % 3]
            node.stop()
            copies.append(tmp_path / f"copy{turn}")
            shutil.copytree(node.data_dir, copies[-1])
            usable = [copy for number, copy in enumerate(copies) if number % 3 == turn % 3]
            if rng.random() < 0.6:
                node.erase()
                shutil.copytree(rng.choice(usable), node.data_dir)
            cluster.start(node)
            with Load(cluster.nodes) as load:
                time.sleep(1)
            load.check(cluster, seconds=120)
