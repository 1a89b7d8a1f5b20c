"""Namespaces with a history, for tests."""

from __future__ import annotations

from typing import Any

from storage.engine import Family
from storage.policy import HISTORY_MAX, Policy
from storage.record import VALUE
from storage.store import Keyspace, Store, StoreOptions
from tests.storage.conftest import NOW_MS
from tests.storage.engines import EngineRig
from tests.storage.helpers import keys_of

HOUR_MS = 3_600_000


def remembering(store: Store, versions: int = 3, **policy: Any) -> Keyspace:
    """Make a namespace with a history."""
    return store.keyspaces.create("past", Policy(history=versions, **policy))


def reopened(
    rig: EngineRig, now_ms: int = NOW_MS, options: StoreOptions | None = None
) -> tuple[Store, Keyspace]:
    store = Store(rig.open(), options, now_ms=now_ms)
    keyspace = store.keyspaces.find("past")
    assert keyspace is not None
    return store, keyspace


def past(keyspace: Keyspace, key: bytes = b"k", count: int = HISTORY_MAX) -> list[bytes | None]:
    """Return the values of the past versions, newest first."""
    return [version.record[VALUE] for version in keyspace.versions(key, count)]


def row_count(store: Store) -> int:
    return len(keys_of(store.engine, Family.HISTORY))


def change(store: Store, keyspace: Keyspace, versions: int) -> None:
    """Let the namespace keep so many versions from now on, and commit."""
    store.keyspaces.change(keyspace.id, value_bytes_max=None, conflict_log=True, history=versions)
    store.commit()


def tick(store: Store, ms: int) -> None:
    """Begin a tick `ms` later."""
    store.begin(store.now_ms + ms)
