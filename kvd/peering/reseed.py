"""Make a data directory the first of a new cluster: all its records, nothing of its old membership."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from kvd.peering import users
from storage.keyring import Keyring
from storage.replica import StoreReplica
from storage.store import Store, StoreOptions

# What replication keeps in the data directory, the first three for each group.
_LOCAL: Final = ("cluster_id", "member_state", "voided", "absences", "members")


def reseed(data_dir: Path, keyring: Keyring | None = None) -> int:
    """Forget the cluster; return how many records about its members were deleted. Raises StorageError.

    Shared users stay: they are about clients, not about members.
    """
    store = Store.open(data_dir, StoreOptions(keyring=keyring))
    try:
        replica = StoreReplica(store)
        store.begin(time.time_ns() // 1_000_000)
        names = [name for name, _, _ in replica.list_system(b"") if not name.startswith(users.PREFIX)]
        for name in names:
            store.keyspaces.cluster.delete(name)
        for setting in store.local_names():
            if setting.rpartition(":")[2] in _LOCAL:
                replica.put_local(setting, None)
        replica.renew_node()
        store.commit()
        store.sync()
        return len(names)
    finally:
        store.close()
