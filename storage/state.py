"""What the parts of one store share: the engine, the tick's transaction, the cache, the origins, the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from storage.cache import Cache
from storage.changes import INLINE_BYTES_MAX
from storage.engine import Engine
from storage.transaction import Transaction

if TYPE_CHECKING:
    from storage.history import History
    from storage.ledger import Ledger
    from storage.members import Members

_MINUTE_MS = 60_000


def _derive_plain_bytes(limits: Limits, _: Any, value_bytes_max: int) -> int:
    limits.plain_bytes_max = min(value_bytes_max, INLINE_BYTES_MAX)
    return value_bytes_max


@attrs.define
class Limits:
    """The longest key, value and metadata accepted. May be changed while the store runs."""

    key_bytes_max: int = 2048
    value_bytes_max: int = attrs.field(default=25 * 1024 * 1024, on_setattr=_derive_plain_bytes)
    metadata_bytes_max: int = 1024
    title_bytes_max: int = 512
    # The longest value that needs no further thought: it is accepted, and it travels in its change.
    plain_bytes_max: int = attrs.field(init=False, default=INLINE_BYTES_MAX, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.plain_bytes_max = min(self.value_bytes_max, INLINE_BYTES_MAX)


class NarrowedLimits:
    """The limits of a keyspace with a policy: the store's, as they are at the time, and its own."""

    def __init__(self, limits: Limits, value_bytes_max: int | None, *, plain: bool) -> None:
        self._limits = limits
        self._own_value_bytes_max = value_bytes_max
        self._plain = plain  # whether small values need no further thought

    @property
    def key_bytes_max(self) -> int:
        return self._limits.key_bytes_max

    @property
    def value_bytes_max(self) -> int:
        general = self._limits.value_bytes_max
        return general if self._own_value_bytes_max is None else min(general, self._own_value_bytes_max)

    @property
    def metadata_bytes_max(self) -> int:
        return self._limits.metadata_bytes_max

    @property
    def plain_bytes_max(self) -> int:
        return min(self.value_bytes_max, INLINE_BYTES_MAX) if self._plain else -1


@attrs.define(eq=False)
class State:
    """Shared by the parts of one `Store`; nobody else sees it."""

    engine: Engine
    txn: Transaction
    cache: Cache
    limits: Limits
    gc_min_age_ms: int
    ledger: Ledger
    members: Members
    history: History
    origins: list[bytes]  # 16 bytes by origin number; number 0 is nobody's

    def purge_due(self, written_ms: int) -> int:
        """Return when a deletion written at `written_ms` may be purged, rounded up to a minute.

        Rounded, so that a key which is deleted again and again has one entry a minute, not one each time.
        """
        return ((written_ms + self.gc_min_age_ms) // _MINUTE_MS + 1) * _MINUTE_MS
