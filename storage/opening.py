"""What a store has to know before it takes the first write, read from the meta family.

Everything here is proportional to the number of origins and namespaces, never to that of records.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from storage.changelog import decode_chunk
from storage.engine import Engine, Family
from storage.errors import DamagedFiles, NewerFormat, RecordError
from storage.expiry import Horizon
from storage.layout import (
    COUNT_PREFIX,
    FLOOR_PREFIX,
    FORMAT,
    META_FORMAT,
    META_NODE,
    META_PURGED_HLC,
    ORIGIN_PREFIX,
    PURGED_PREFIX,
    after_prefix,
    change_key,
    number_of,
)
from storage.record import dumps, loads
from storage.version import ORIGIN_BYTES

_NODE_BYTES = 16
NOBODY = bytes(ORIGIN_BYTES)
_GAP_MAX = 1_000_000  # a number takes a failed commit; more in a row than this is damage


@attrs.frozen
class Found:
    """What the meta rows and the ends of the change log tell."""

    node_id: bytes
    origins: list[bytes]  # by number; number 0 is nobody's
    hlc: int  # the greatest clock value on disk
    horizon: Horizon


def prepare(engine: Engine, entropy: Callable[[int], bytes]) -> None:
    """Check the format, or write it into an empty engine."""
    stored = engine.get(Family.META, META_FORMAT)
    if stored is not None:
        check_format(engine.path, stored)
        return
    if next(engine.iterate(Family.RECORDS), None) is not None:
        raise DamagedFiles(engine.path, "there are records but no format row")
    batch = engine.batch()
    batch.put(Family.META, META_FORMAT, dumps(FORMAT))
    batch.put(Family.META, META_NODE, entropy(_NODE_BYTES))
    engine.write(batch, sync=True)


def check_format(path: str, stored: bytes) -> None:
    """Raise `NewerFormat` for a format that this version does not know, `DamagedFiles` for none."""
    try:
        found = loads(stored)
    except RecordError as error:
        raise DamagedFiles(path, "the format row cannot be read") from error
    if type(found) is not int or found < 1:
        raise DamagedFiles(path, "the format row is not a number")
    if found > FORMAT:
        raise NewerFormat(path, found, FORMAT)


def read_found(engine: Engine) -> Found:
    """Read node id, origins, clock and purge horizon. Raise `DamagedFiles` if they make no sense."""
    try:
        origins = _read_origins(engine)
        horizon = _read_horizon(engine)
        last = [_last_hlc(engine, number) for number in range(1, len(origins))]
    except (RecordError, TypeError, ValueError) as error:
        raise DamagedFiles(engine.path, f"a meta row cannot be read: {error}") from error
    node_id = engine.get(Family.META, META_NODE)
    if node_id is None or len(node_id) != _NODE_BYTES:
        raise DamagedFiles(engine.path, "the node id is missing")
    return Found(node_id, origins, max([horizon.hlc, *last]), horizon)


def read_count(engine: Engine, namespace: bytes) -> tuple[int, int] | None:
    """Return a keyspace's (keys, keys with an expiry); None if it was never written to."""
    stored = engine.get(Family.META, COUNT_PREFIX + namespace)
    if stored is None:
        return None
    try:
        count, expires = loads(stored)
    except (RecordError, TypeError, ValueError) as error:
        raise DamagedFiles(engine.path, f"the counts of keyspace {namespace.hex()}: {error}") from error
    return count, expires


def read_floor(engine: Engine, namespace: bytes) -> bytes | None:
    """Return the register of a keyspace's last flush."""
    return engine.get(Family.META, FLOOR_PREFIX + namespace)


def _read_origins(engine: Engine) -> list[bytes]:
    """Return the origins' ids by number. The number of an origin whose only commit failed stays nobody's."""
    origins = [NOBODY]
    for key, value in engine.iterate(Family.META, ORIGIN_PREFIX, after_prefix(ORIGIN_PREFIX)):
        origin_id, _ = loads(value)
        number = number_of(key)
        if type(origin_id) is not bytes or len(origin_id) != ORIGIN_BYTES:
            raise RecordError(f"the id of origin number {number} is not {ORIGIN_BYTES} bytes")
        if number - len(origins) > _GAP_MAX:
            raise RecordError(f"origin number {number} is out of order")
        origins.extend([NOBODY] * (number - len(origins)))
        origins.append(origin_id)
    return origins


def _read_horizon(engine: Engine) -> Horizon:
    rows = engine.iterate(Family.META, PURGED_PREFIX, after_prefix(PURGED_PREFIX))
    seqs = {number_of(key): loads(value) for key, value in rows}
    stored = engine.get(Family.META, META_PURGED_HLC)
    return Horizon(seqs, 0 if stored is None else loads(stored))


def _last_hlc(engine: Engine, number: int) -> int:
    """Return the clock value of the origin's last chunk; 0 if it has none any more."""
    rows = engine.iterate(Family.CHANGES, change_key(number, 0), change_key(number + 1, 0), reverse=True)
    last = next(rows, None)
    return 0 if last is None else decode_chunk(last[1]).last_hlc
