"""A data directory that becomes the first of a new cluster."""

from __future__ import annotations

from pathlib import Path

from kvd.peering.reseed import reseed
from storage.replica import StoreReplica
from storage.store import Store, StoreOptions

_MEMBERSHIP = ("cluster_id", "member_state", "voided")


def test_a_data_directory_forgets_its_cluster_in_every_group(tmp_path: Path) -> None:
    """What is kept of one group would say that the data is another cluster's, and send the operator here again."""
    store = Store.open(tmp_path, StoreOptions())
    common = StoreReplica(store)
    for replica in (common, common.of_group(3)):
        for name in (*_MEMBERSHIP, "settled_hlc"):
            replica.put_local(name, b"x")
    common.put_system(b"carries:" + common.node_id, b"x")
    store.commit()
    store.close()
    assert reseed(tmp_path) == 1
    store = Store.open(tmp_path, StoreOptions())
    common = StoreReplica(store)
    for replica in (common, common.of_group(3)):
        assert [replica.get_local(name) for name in _MEMBERSHIP] == [None, None, None]
        assert replica.get_local("settled_hlc") == b"x"
    store.close()
