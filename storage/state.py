"""What the parts of one store share: the engine, the tick's transaction, the cache, the limits."""

from __future__ import annotations

import attrs

from storage.cache import Cache
from storage.engine import Engine
from storage.transaction import Transaction

_MINUTE_MS = 60_000


@attrs.define
class Limits:
    """The longest key, value and metadata accepted. May be changed while the store runs."""

    key_bytes_max: int = 2048
    value_bytes_max: int = 25 * 1024 * 1024
    metadata_bytes_max: int = 1024
    title_bytes_max: int = 512


@attrs.define(eq=False)
class State:
    """Shared by `Store`, `Keyspace`, `Keyspaces` and `Sweeper`; nobody else sees it."""

    engine: Engine
    txn: Transaction
    cache: Cache
    limits: Limits
    gc_min_age_ms: int
    origins: list[bytes]  # 16 bytes by origin number; number 0 is nobody's

    def purge_due(self, written_ms: int) -> int:
        """Return when a deletion written at `written_ms` may be purged, rounded up to a minute.

        Rounded, so that a key which is deleted again and again has one entry a minute, not one each time.
        """
        return ((written_ms + self.gc_min_age_ms) // _MINUTE_MS + 1) * _MINUTE_MS
