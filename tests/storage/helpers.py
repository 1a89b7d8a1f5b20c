"""Short ways to look into a store, for tests."""

from __future__ import annotations

from storage.engine import Engine, Family
from storage.record import EXPIRY, FLOOR, VALUE, VALUE_STAMP
from storage.store import Keyspace, Store
from storage.verify import Verifier


def value_of(keyspace: Keyspace, key: bytes) -> bytes | None:
    """Return the live value of `key`."""
    record = keyspace.get(key)
    value: bytes | None = None if record is None else record[VALUE]
    return value


def stamp_of(keyspace: Keyspace, key: bytes) -> bytes:
    """Return the value register of `key`, which must have one."""
    register = keyspace.peek(key)[VALUE_STAMP]
    assert register is not None
    return register


def expiry_of(keyspace: Keyspace, key: bytes) -> tuple[bytes, int | None]:
    """Return the raw expiry register of `key`, which must have one."""
    expiry = keyspace.peek(key)[EXPIRY]
    assert expiry is not None
    return expiry


def floor_of(keyspace: Keyspace, key: bytes) -> bytes:
    """Return the floor of `key`, which must have one."""
    floor = keyspace.peek(key)[FLOOR]
    assert floor is not None
    return floor


def raw_put(engine: Engine, family: Family, key: bytes, value: bytes) -> None:
    """Write behind the store's back."""
    batch = engine.batch()
    batch.put(family, key, value)
    engine.write(batch, sync=False)


def raw_delete(engine: Engine, family: Family, key: bytes) -> None:
    """Delete behind the store's back."""
    batch = engine.batch()
    batch.delete(family, key)
    engine.write(batch, sync=False)


def keys_of(engine: Engine, family: Family) -> list[bytes]:
    """Return all keys of a family."""
    return [key for key, _ in engine.iterate(family)]


def findings(store: Store, *, now_ms: int = 2**45, pass_rows: int = 10) -> list[str]:
    """Return what verification finds in what the store has committed."""
    return [str(finding) for finding in Verifier(store.engine, now_ms=now_ms, pass_rows=pass_rows).run()]
