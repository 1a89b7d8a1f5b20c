"""Digests of all durable cells, to find out whether two nodes with equal vectors hold the same.

Every cell falls into one of 65,536 buckets by a checksum of its place, kind and sub. A bucket's value is the
XOR of a hash of each of its cells. Counted are values of keys without an expiry, and members: what no
clock and no purge will change. A deletion may be purged here and not yet there, and an expired value
dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from zlib import crc32

from storage.cells import Numbered, runs_of
from storage.changes import Change, Kind, Run, Stamp
from storage.feed import SnapshotFeed
from storage.record import dumps

_HASH_BYTES = 16
_BUCKET_MASK = 0xFFFF
_UNCOUNTED = frozenset({Kind.EXPIRY, Kind.FLOOR, Kind.NAMESPACE_FLOOR})


def digest(feed: SnapshotFeed, origins: Sequence[bytes]) -> Iterator[Mapping[int, int] | None]:
    """Yield None slice by slice, and at last the buckets that are not zero, in no order."""
    buckets: dict[int, int] = {}
    for _, found in feed.slices(b""):
        for number, change in _durable(found, origins):
            bucket = _bucket_of(change)
            buckets[bucket] = buckets.get(bucket, 0) ^ _hash_of(origins[number], change)
        yield None
    yield {bucket: value for bucket, value in buckets.items() if value}


def bucket(
    feed: SnapshotFeed, origins: Sequence[bytes], numbers: Sequence[int]
) -> Iterator[list[Run] | None]:
    """Yield None slice by slice, and at last the changes of these buckets, with a hash as their content.

    A value that was dropped keeps None: that others have it is no difference, it is wanted back (see `expiry`).
    """
    wanted = frozenset(numbers)
    changes: list[Numbered] = []
    for _, found in feed.slices(b""):
        changes += (
            (number, change._replace(content=_name_of(change), metadata=None))
            for number, change in _durable(found, origins)
            if _bucket_of(change) in wanted
        )
        yield None
    yield runs_of(changes, origins)


def _name_of(change: Change) -> bytes | None:
    is_dropped = change.kind == Kind.VALUE and change.content is None
    return None if is_dropped else content_hash(change)


def content_hash(change: Change) -> bytes:
    """Return a hash of content and metadata."""
    return blake2b(dumps([change.content, change.metadata]), digest_size=_HASH_BYTES).digest()


def _durable(found: Sequence[Numbered], origins: Sequence[bytes]) -> Iterator[Numbered]:
    """Yield those that count. The changes of one key stand side by side, its value first."""
    for index, (number, change) in enumerate(found):
        if change.kind in _UNCOUNTED:
            continue
        if change.kind == Kind.VALUE and index + 1 < len(found):
            following = found[index + 1]
            expiry = following[1]
            if (
                expiry.kind == Kind.EXPIRY
                and expiry.place == change.place
                and expiry.content is not None
                and _stamp(following, origins) >= _stamp((number, change), origins)
            ):
                continue
        yield number, change


def _stamp(found: Numbered, origins: Sequence[bytes]) -> Stamp:
    number, change = found
    return Stamp(change.hlc, origins[number], change.seq)


def _bucket_of(change: Change) -> int:
    return crc32(change.sub, crc32(change.kind.to_bytes(2, "big"), crc32(change.place))) & _BUCKET_MASK


def _hash_of(origin: bytes, change: Change) -> int:
    content, metadata = change.content, change.metadata
    cell = dumps(
        [change.place, int(change.kind), change.sub, change.hlc, origin, change.seq, content, metadata]
    )
    return int.from_bytes(blake2b(cell, digest_size=_HASH_BYTES).digest(), "big")
