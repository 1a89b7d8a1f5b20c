"""What a client may decide on a node that catches up: it may wait for just this."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from replication.rejoin import Standing
from storage.replica import StoreReplica
from storage.store import Store, StoreOptions
from tests.cluster_live.harness import Cluster, eventually


def _let_catch_up(data_dir: Path) -> None:
    """Make a data directory one that was away for too long."""
    store = Store.open(data_dir, StoreOptions())
    StoreReplica(store).put_local("member_state", Standing.REJOINING.encode())
    store.commit()
    store.close()


def test_who_waits_for_a_dead_member_can_cut_and_remove_but_not_write(tmp_path: Path) -> None:
    with Cluster(tmp_path, 2) as cluster:
        node, dead = cluster.nodes
        node.client().set("a", "1")
        cluster.wait_equal()
        dead_id = dead.id
        for one in cluster.nodes:
            one.stop()
        _let_catch_up(node.data_dir)
        node.start(wait=False)
        eventually(lambda: node.status()["standing"] == "rejoining", "it catches up")
        client = node.client()
        with pytest.raises(redis.BusyLoadingError, match="catches up"):
            client.set("a", "2")
        assert client.execute_command("KV.CLUSTER", "CUT") == []
        assert client.execute_command("KV.CLUSTER", "REMOVE", dead_id[:12]) == "OK"
        eventually(lambda: node.status()["standing"] == "ready", "nobody else is left", seconds=60)
        assert client.set("a", "2")
