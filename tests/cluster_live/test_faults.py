"""Three daemons and what may happen to them: they converge, and nothing acknowledged is lost.

Each test ends with the same questions: are all nodes equal, by their digests and record by record, and is the last
acknowledged write of every key there, unless a later one has replaced it? Those that take longest, or ask again what
others ask, are for `make soak`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from kvd.peering import dead_letters
from replication.proofs import load_secrets, new_secret_line, secret_line
from tests.cluster_live.harness import (
    Certificates,
    Cluster,
    Node,
    SharedSecret,
    Trust,
    eventually,
    make_secret,
    measure,
)
from tests.cluster_live.load import Load
from tests.servers import ROOT, wait_until

SHIFTED = Path(__file__).with_name("shifted.py")


@pytest.mark.parametrize("trust", [pytest.param(SharedSecret, marks=pytest.mark.soak), Certificates])
def test_a_killed_node_comes_back_and_has_missed_nothing(
    tmp_path: Path, trust: Callable[[Path], Trust]
) -> None:
    with Cluster(tmp_path, 3, trust=trust) as cluster:
        with Load(cluster.nodes) as load:
            time.sleep(0.5)
            for node in cluster.nodes:
                node.kill()
                time.sleep(0.3)
                cluster.start(node)
        load.check(cluster)
        assert load.acknowledged_count > 200


@pytest.mark.soak
def test_all_nodes_are_killed_at_once(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        with Load(cluster.nodes) as load:
            time.sleep(0.7)
            for node in cluster.nodes:
                node.kill()
            for node in cluster.nodes:
                cluster.start(node, wait=False)
            for node in cluster.nodes:
                node.wait_writable()
            time.sleep(0.5)
        load.check(cluster)


def test_a_stopped_process_keeps_nobody_waiting(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        *others, stopped = cluster.nodes
        with Load(cluster.nodes) as load:
            time.sleep(0.3)
            stopped.freeze()
            time.sleep(3)
            for writer in load.of(*others):
                assert writer.slowest_seconds < 1.0
            stopped.thaw()
            time.sleep(0.5)
        load.check(cluster)
        assert not any(writer.failed_count for writer in load.writers)


def test_both_sides_of_a_cut_go_on_and_agree_afterwards(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        with Load(cluster.nodes) as load:
            time.sleep(0.3)
            cluster.cut(cluster.nodes[:1], cluster.nodes[1:])
            before = load.acknowledged_count
            time.sleep(1.5)
            assert load.acknowledged_count > before + 100
            assert not any(writer.failed_count for writer in load.writers)
            cluster.heal()
            cluster.wait_linked()
        load.check(cluster)
        assert any(node.status()["conflicts"] for node in cluster.nodes)


@pytest.mark.soak
def test_links_that_break_again_and_again_lose_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        with Load(cluster.nodes) as load:
            for _ in range(10):
                for node in cluster.nodes:
                    node.proxy.cut_all()
                time.sleep(0.2)
        load.check(cluster)
        assert not any(writer.failed_count for writer in load.writers)


@pytest.mark.soak
def test_two_nodes_that_see_each_other_only_through_the_third(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        cluster.cut(cluster.nodes[:1], cluster.nodes[1:2])
        with Load(cluster.nodes) as load:
            time.sleep(1)
        cluster[0].client().set("far", "1")
        eventually(lambda: cluster[1].client().get("far") == "1", "it arrives by a detour", seconds=30)
        cluster.heal()
        load.check(cluster)


def test_a_node_without_its_data_joins_anew_under_the_same_address(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        with Load(cluster.nodes) as load:
            time.sleep(0.5)
        cluster.wait_equal()
        old_id = cluster[2].id
        cluster[2].stop()
        cluster[2].erase()
        cluster.start(cluster[2])
        new_id = cluster[2].id
        assert new_id != old_id
        states = {member["id"]: member for member in cluster[0].status()["members"]}
        assert states[new_id]["linked"] == 1
        assert states[old_id]["state"] != "removed"
        cluster[0].client().execute_command("KV.CLUSTER", "REMOVE", old_id[:12])
        eventually(lambda: old_id not in cluster[1].status()["gc_blocked_by"], "nobody waits for it")
        load.check(cluster)


def test_a_node_restored_from_an_old_copy_brings_nothing_back(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        client = cluster[0].client()
        client.mset({f"key:{number}": "old" for number in range(300)})
        cluster.wait_equal()
        node = cluster[2]
        node.stop()
        shutil.copytree(node.data_dir, tmp_path / "copy")
        cluster.start(node)
        client.delete(*(f"key:{number}" for number in range(0, 300, 2)))
        node.client().mset({f"key:{number}": "new" for number in range(1, 300, 2)})
        node.client().set("after the copy", "1")
        cluster.wait_equal()
        node.stop()
        node.erase()
        shutil.copytree(tmp_path / "copy", node.data_dir)
        cluster.start(node)
        cluster.wait_equal()
        with node.client() as restored:
            assert restored.mget("key:0", "key:1", "after the copy") == [None, "new", "1"]
            restored.set("a new origin", "1")
            assert restored.execute_command("KV.WAITALL", 5000) == [2, 2]
        cluster.wait_equal()


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[None]:
    """Let `directory` be a file system of its own; skip the test where that is not allowed."""
    directory.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(file: Path) -> None:
    """Take all the space that is left on the disk of `file`."""
    with file.open("wb") as ballast:
        size = 0
        for step in (1 << 20, 1 << 12):
            while True:
                try:
                    os.posix_fallocate(ballast.fileno(), size, step)
                except OSError:
                    break
                size += step


@pytest.mark.soak
def test_a_full_disk_stops_one_node_and_no_other(tmp_path: Path) -> None:
    with small_disk(tmp_path / "n2", 384 << 20), Cluster(tmp_path, 3) as cluster:
        full = cluster[2]
        with Load(cluster.nodes[:2]) as load:
            full.client().set("before", "1")
            fill(tmp_path / "n2" / "ballast")
            eventually(lambda: full.status()["writable"] == 0, "its disk is full", seconds=30)
            with pytest.raises(redis.ResponseError, match="MISCONF"):
                full.client().set("refused", "1")
            stood = full.status()["dots"]
            time.sleep(2)
            assert full.client().get("before") == "1"
            assert full.status()["dots"] <= stood + 100  # what was in the log's last block
            for writer in load.writers:
                assert writer.slowest_seconds < 1.0
                assert writer.failed_count == 0
            (tmp_path / "n2" / "ballast").unlink()
            full.wait_writable()
        load.check(cluster)


def with_clock(node: Node, tmp_path: Path, seconds: float) -> Path:
    """Let a node that does not run yet have a clock that can be set by the file that is returned."""
    clock = tmp_path / "clock"
    clock.write_text(str(seconds))
    node.program = [str(SHIFTED)]
    node.environment = {"KVD_TEST_CLOCK": str(clock), "PYTHONPATH": str(ROOT)}
    return clock


def test_a_node_whose_clock_is_wrong_refuses_writes_until_it_is_right(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        cluster.wait_equal()
        node = cluster[2]
        node.stop()
        clock = with_clock(node, tmp_path, 10.0)
        cluster.start(node, wait=False)
        with node.client() as wrong, cluster[0].client() as right:
            eventually(lambda: _is_refused(wrong), "the wrong clock is noticed", seconds=20)
            right.set("key", "right")
            eventually(lambda: wrong.get("key") == "right", "it still hears of the others")
            clock.write_text("0")
            node.wait_writable()
            wrong.set("key", "again")
            eventually(lambda: right.get("key") == "again", "and is heard of")
        cluster.wait_equal()


def test_what_was_written_with_a_clock_far_ahead_is_cut_and_written_anew(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        fast, others = cluster[2], cluster.nodes[:2]
        fast.client().mset({"both": "before", "gone": "before"})
        cluster.wait_equal()
        for node in cluster.nodes:
            node.stop()
        clock = with_clock(fast, tmp_path, 86_400.0)
        cluster.start(fast, wait=False)
        fast.wait_writable()
        with fast.client() as client:
            client.set("tomorrow", "x", ex=1_000_000)
            client.set("large", "l" * 100_000)
            client.set("both", "after")
            client.delete("gone")
        for node in others:
            cluster.start(node)
        eventually(lambda: all(node.status()["held_origins"] >= 2 for node in others), "its origins are held")
        with others[0].client() as client:
            client.set("today", "y")
            assert client.mget("tomorrow", "large", "both", "gone") == [None, None, "before", "before"]
            clock.write_text("0")
            cut: list[dict[str, Any]] = []

            def are_cut() -> bool:
                cut.extend(client.execute_command("KV.CLUSTER", "CUT"))
                return len(cut) == 2

            eventually(are_cut, "a majority is known to hold them, and they are cut")
            assert {row["upto"] for row in cut} == {0}
            eventually(
                lambda: client.mget("tomorrow", "large") == ["x", "l" * 100_000], "they are written anew"
            )
            eventually(lambda: client.get("gone") is None, "what was deleted is deleted")
            assert client.mget("both", "gone", "today") == ["after", None, "y"]
        fast.wait_writable()
        cluster.wait_equal()
        assert all(node.status()["held_origins"] == 0 for node in cluster.nodes)
        assert len((fast.data_dir / dead_letters.FILE).read_text().splitlines()) == 3
        fast.client().set("now", "z")
        eventually(lambda: others[0].client().get("now") == "z", "it is heard of again")
        fast.stop()
        cluster.start(fast)
        cluster.wait_equal()


def _is_refused(client: redis.Redis) -> bool:
    try:
        client.set("probe", "1")
    except redis.ResponseError as error:
        return str(error).startswith("CLOCKSKEW")
    return False


@pytest.mark.soak
def test_a_node_that_leaves_hands_over_and_stops(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        leaving = cluster[1]
        leaving.client().set("last words", "1")
        assert leaving.client(socket_timeout=60).execute_command("KV.CLUSTER", "LEAVE") == 1
        assert leaving.process is not None
        assert leaving.process.wait(20) == 0
        leaving.process = None
        assert cluster[0].client().get("last words") == "1"
        eventually(lambda: cluster[2].client().execute_command("KV.WAITALL", 1000) == [1, 1], "two are left")
        cluster.wait_equal()


@pytest.mark.soak
def test_a_removed_node_reaches_nobody(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        cluster.wait_equal()
        removed = cluster[2]
        removed_id = removed.id
        cluster[0].client().execute_command("KV.CLUSTER", "REMOVE", removed_id)
        eventually(lambda: removed.status()["standing"] == "removed", "it is told")
        eventually(lambda: removed.status()["writable"] == 0, "it refuses writes")
        with pytest.raises(redis.ReadOnlyError):
            removed.client().set("key", "1")
        cluster.wait_equal(cluster.nodes[:2])


def check_outside(stranger: Node) -> None:
    """Check that a node is no member and has got nothing."""
    assert stranger.status()["standing"] == "joining"
    with pytest.raises(redis.BusyLoadingError):
        stranger.client(retry=None).get("key")


def test_who_has_another_secret_or_is_of_another_cluster_is_not_let_in(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        cluster[0].client().set("key", "1")
        own = load_secrets(tmp_path / "cluster.secret")
        wrong = {
            "do not hold the same cluster secret": secret_line(own.cluster, bytes(32)),
            "this node belongs to another cluster": new_secret_line(),
        }
        for number, (how, line) in enumerate(wrong.items(), 1):
            stranger = Node(cluster, number, tmp_path / f"n{number}")
            cluster.nodes.append(stranger)
            stranger.trust = SharedSecret(stranger.directory)
            (stranger.directory / "cluster.secret").write_text(line + "\n")
            cluster.start(stranger, wait=False)
            wait_until(partial(stranger.has_logged, how), "it is told")
            check_outside(stranger)
        assert len(cluster[0].status()["members"]) == 1


def test_who_has_a_certificate_of_another_authority_is_told(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1, trust=Certificates) as cluster:
        stranger = Node(cluster, 1, tmp_path / "n1")
        cluster.nodes.append(stranger)
        stranger.trust = Certificates(stranger.directory)
        cluster.start(stranger, wait=False)
        how = partial(stranger.has_logged, "not made by this cluster's authority")
        wait_until(how, "it is told why there is no connection")
        time.sleep(3.0)  # it tries again
        lines = [json.loads(line) for line in stranger.log_file.read_text().splitlines()]
        errors = [line["error"] for line in lines if line["event"] == "no connection"]
        assert len(errors) == len(set(errors))
        check_outside(stranger)
        assert len(cluster[0].status()["members"]) == 1


@pytest.mark.soak
@pytest.mark.parametrize("trust", [SharedSecret, Certificates])
def test_strangers_are_not_let_in(tmp_path: Path, trust: Callable[[Path], Trust]) -> None:
    with Cluster(tmp_path, 2, trust=trust) as cluster:
        stranger = Node(cluster, 7, tmp_path / "n7")
        cluster.nodes.append(stranger)
        stranger.trust = trust(stranger.directory)
        cluster.start(stranger, wait=False)
        for noise in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 40, b"*1\r\n$4\r\nPING\r\n", b""):
            with socket.create_connection(("127.0.0.1", cluster[0].peer_port), timeout=5) as sock:
                sock.sendall(noise)
        time.sleep(1.5)
        check_outside(stranger)
        for node in cluster.nodes[:2]:
            found = node.status()["members"]
            assert len(found) == 2
        cluster.wait_equal(cluster.nodes[:2])
        stranger.kill()


@pytest.mark.soak
def test_a_node_joins_while_others_write(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2) as cluster:
        pipeline = cluster[0].client().pipeline(transaction=False)
        for number in range(20_000):
            pipeline.set(f"key:{number}", "x" * 100)
        pipeline.execute()
        with Load(cluster.nodes) as load:
            cluster.add()
            time.sleep(0.3)
        load.check(cluster)
        assert cluster[2].client().dbsize() >= 20_000


@pytest.mark.soak
def test_a_slow_reader_delays_nobody(tmp_path: Path) -> None:
    with Cluster(tmp_path, 3) as cluster:
        slow = cluster[2]
        slow.bytes_a_second = 2048
        with Load(cluster.nodes[:2]) as load:
            time.sleep(3)
            took = measure(lambda: cluster[0].client().execute_command("WAIT", 1, 5000))
            assert took < 1.0
        for writer in load.writers:
            assert writer.slowest_seconds < 1.0
        slow.bytes_a_second = None
        load.check(cluster)


@pytest.mark.soak
def test_the_data_of_another_cluster_is_refused_with_the_mend(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        node = cluster[0]
        node.stop()
        make_secret(tmp_path / "cluster.secret")  # another one
        with pytest.raises(AssertionError, match="kvd cluster reseed"):
            cluster.start(node)
        node.process = None


@pytest.mark.soak
def test_a_backup_becomes_a_new_cluster(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2) as cluster:
        cluster[0].client().set("kept", "1")
        cluster.wait_equal()
        old_id = cluster[0].id
        for node in cluster.nodes:
            node.stop()
        make_secret(tmp_path / "cluster.secret")
        command = ["-m", "kvd", "cluster", "reseed", "--data-dir", str(cluster[0].data_dir)]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, timeout=60)
        cluster[1].erase()
        for node in cluster.nodes:
            cluster.start(node)
        assert cluster[0].id != old_id
        wait_until(lambda: len(cluster[0].status()["members"]) == 2, "the two are the only members")
        assert cluster[1].client().get("kept") == "1"
        cluster.wait_equal()
