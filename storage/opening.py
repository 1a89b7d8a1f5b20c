"""What a store has to know before it takes the first write, read from meta rows and ends of the change log.

Everything here is proportional to the number of origins and namespaces, never to that of records.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import attrs

from storage.changelog import DEAD, decode_chunk
from storage.changes import Lane
from storage.engine import Engine, Family
from storage.errors import DamagedFiles, NewerFormat, RecordError
from storage.expiry import Horizon
from storage.layout import (
    BODYLESS_PREFIX,
    COUNT_PREFIX,
    COVERED_PREFIX,
    FLOOR_PREFIX,
    FORMAT,
    META_FORMAT,
    META_NODE,
    META_PURGED_HLC,
    ORIGIN_PREFIX,
    PURGED_PREFIX,
    after_prefix,
    change_key,
    group_of_purged_hlc,
    number_of,
    parse_change_key,
)
from storage.record import dumps, loads
from storage.version import ORIGIN_BYTES

NODE_BYTES = 16
_BODYLESS_MAX = 4096
FOREIGN = 255  # stands for the lane of another node's origin
NOBODY = bytes(ORIGIN_BYTES)
_GAP_MAX = 1_000_000  # a number takes a failed commit; more in a row than this is damage


@attrs.frozen
class Found:
    """What the meta rows and the ends of the change log tell. Origins are given by their number."""

    node_id: bytes
    origins: list[bytes]  # number 0 is nobody's
    lanes: list[int]
    covered: dict[int, int]  # without origins of the local lane
    ended: dict[int, int]  # of `covered`: own origins without a row that tells so
    uncovered: dict[int, int]  # the greatest seq merged beyond what is covered
    hlc: int  # the greatest clock value on disk
    horizon: Horizon


@attrs.frozen
class _End:
    """The end of an origin's part of the change log."""

    seq: int = 0  # of its last place
    live_seq: int = 0  # of the last one that is not blank
    hlc: int = 0


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
    batch.put(Family.META, META_NODE, entropy(NODE_BYTES))
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
        origins, lanes = _read_origins(engine)
        horizon = _read_horizon(engine)
        stored = _read_numbers(engine, COVERED_PREFIX)
        ends = [_read_end(engine, number) for number in range(len(origins))]
    except (RecordError, TypeError, ValueError) as error:
        raise DamagedFiles(engine.path, f"a meta row cannot be read: {error}") from error
    node_id = engine.get(Family.META, META_NODE)
    if node_id is None or len(node_id) != NODE_BYTES:
        raise DamagedFiles(engine.path, "the node id is missing")
    own = [number for number, lane in enumerate(lanes) if lane in {Lane.SMALL, Lane.BULK}]
    ended = {number: ends[number].seq for number in own if number not in stored}
    covered = stored | ended
    uncovered = {
        number: end.live_seq
        for number, end in enumerate(ends)
        if lanes[number] != Lane.LOCAL and end.live_seq > covered.get(number, 0)
    }
    hlc = max(0, *horizon.hlcs.values(), *(end.hlc for end in ends))
    return Found(node_id, origins, lanes, covered, ended, uncovered, hlc, horizon)


def read_count(engine: Engine, namespace: bytes) -> tuple[int, int, int, int] | None:
    """Return a keyspace's counts (see `layout`); None if it was never written to."""
    stored = engine.get(Family.META, COUNT_PREFIX + namespace)
    if stored is None:
        return None
    try:
        count, expires, floors, headers = loads(stored)
    except (RecordError, TypeError, ValueError) as error:
        raise DamagedFiles(engine.path, f"the counts of keyspace {namespace.hex()}: {error}") from error
    return count, expires, floors, headers


def read_bodyless(engine: Engine) -> dict[bytes, bytes]:
    """Return the stamps of values that are wanted back, by row key."""
    rows = engine.iterate(Family.META, BODYLESS_PREFIX, after_prefix(BODYLESS_PREFIX))
    return {key[len(BODYLESS_PREFIX) :]: stamp for key, stamp in islice(rows, _BODYLESS_MAX)}


def read_floor(engine: Engine, namespace: bytes) -> bytes | None:
    """Return the register of a keyspace's last flush."""
    return engine.get(Family.META, FLOOR_PREFIX + namespace)


def _read_origins(engine: Engine) -> tuple[list[bytes], list[int]]:
    """Return the origins' ids and lanes by number. The number of one whose only commit failed stays nobody's."""
    origins, lanes = [NOBODY], [FOREIGN]
    for key, value in engine.iterate(Family.META, ORIGIN_PREFIX, after_prefix(ORIGIN_PREFIX)):
        origin_id, _, lane = loads(value)
        number = number_of(key)
        if type(origin_id) is not bytes or len(origin_id) != ORIGIN_BYTES or type(lane) is not int:
            raise RecordError(f"origin number {number} has no id of {ORIGIN_BYTES} bytes and a lane")
        gap = number - len(origins)
        if gap > _GAP_MAX:
            raise RecordError(f"origin number {number} is out of order")
        origins.extend([NOBODY] * gap)
        lanes.extend([FOREIGN] * gap)
        origins.append(origin_id)
        lanes.append(lane)
    return origins, lanes


def _read_numbers(engine: Engine, prefix: bytes) -> dict[int, int]:
    """Return the values of meta rows that end with an origin number."""
    return {
        number_of(key): loads(value)
        for key, value in engine.iterate(Family.META, prefix, after_prefix(prefix))
    }


def _read_horizon(engine: Engine) -> Horizon:
    rows = engine.iterate(Family.META, META_PURGED_HLC, after_prefix(META_PURGED_HLC))
    hlcs = {group_of_purged_hlc(key): loads(stored) for key, stored in rows}
    return Horizon(_read_numbers(engine, PURGED_PREFIX), hlcs)


def _read_end(engine: Engine, number: int) -> _End:
    """Return the end of the origin's last chunk."""
    rows = engine.iterate(Family.CHANGES, change_key(number, 0), change_key(number + 1, 0), reverse=True)
    last = next(rows, None)
    if last is None:
        return _End()
    first_seq = parse_change_key(last[0])[1]
    chunk = decode_chunk(last[1])
    live = [index for index, place in enumerate(chunk.places) if place != DEAD]
    live_seq = first_seq + live[-1] if live else 0
    return _End(first_seq + len(chunk.places) - 1, live_seq, chunk.last_hlc)
