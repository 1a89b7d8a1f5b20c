"""Other nodes' dots in the change log: chunks with holes, written with the rows that carry the dots.

Own dots are consecutive, one chunk a tick. What comes from elsewhere has holes, because what is dead is not
sent and what has lost is not stored; a hole is a blank place, a wide one ends the chunk. The chunks of an
origin never overlap, so that one seek finds where to go on.

Nearly always a dot lies beyond all that the log holds of its origin, because dots are applied in order. It
may not after an unfinished sync, which merges dots without covering what is before them; in a full sync, which
brings them in the order of their places; and when a damaged record is mended. Then the older chunks that
the new ones would overlap, and only those, are read, and what they name is written again together with the new
dots. Such chunks are kept short: each may be written again for every dot that it comes to hold.

A damaged chunk names nothing, to whoever reads it, and stays for `kvd verify` to tell of, unless new dots may lie where it
does: then it goes, and `kvd verify` tells of the rows whose dots the log lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from storage.changelog import DEAD, Chunk, decode_chunk, encode_chunk
from storage.engine import Batch, Engine, Family
from storage.errors import RecordError
from storage.incoming import Incoming, Place, Taken
from storage.layout import NAMESPACE_BYTES, change_key, parse_change_key
from storage.ledger import Ledger
from storage.transaction import Transaction
from storage.version import hlc_at

_HOLE_MAX: Final = 32
_CHUNK_DOTS_MAX: Final = 1024
_MENDED_DOTS_MAX: Final = 128
_NOTHING: Final = Chunk(0, [], [])

# How far the clocks of two nodes may differ, generously; see `places_since`.
_DISORDER: Final = hlc_at(5_000)


def overlaps(incoming: Incoming, ledger: Ledger) -> bool:
    """Tell whether a dot may not lie beyond all that the log holds of its origin."""
    if incoming.mends:
        return True
    return any(
        min(taken.places) <= ledger.uncovered(number)
        for number, taken in incoming.taken.items()
        if ledger.uncovered(number) and taken.places
    )


def add_chunks(batch: Batch, engine: Engine, incoming: Incoming, ledger: Ledger, hlc: int) -> None:
    """Add to the batch chunks that name the tick's dots; `hlc` is the clock."""
    for number, taken in incoming.taken.items():
        if not taken.places:
            continue
        uncovered = ledger.uncovered(number)
        if incoming.mends or (uncovered and uncovered >= min(taken.places)):
            last_hlc = 0
            for segment in _segments(engine, number, sorted(taken.places)):
                part, told_hlc = _joined(batch, segment, taken)
                # Later chunks are there already: the clock may be beyond what they tell, the dots are not. What the
                # chunk before tells was the clock, perhaps.
                last_hlc = max(last_hlc, taken.hlc, told_hlc, _hlc_before(engine, number, min(part.places)))
                _add_taken(batch, number, part, last_hlc, _MENDED_DOTS_MAX)
        else:
            _add_taken(batch, number, taken, hlc, _CHUNK_DOTS_MAX)


class _Segment:
    """New dots that are close to each other, and the chunks that they lie in: no other chunk lies in between."""

    __slots__ = ("chunks", "end", "seqs")

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.chunks: dict[bytes, tuple[int, Chunk]] = {}  # first seq and chunk, by key
        self.end = 0  # where the last of both ends


def _segments(engine: Engine, number: int, seqs: list[int]) -> Iterator[_Segment]:
    """Yield the segments of new dots, ascending. Costs a seek for each group of neighbouring dots."""
    segment = _Segment()
    for cluster in _clusters(seqs):
        found = list(_overlapped(engine, number, cluster[0], cluster[-1]))
        begin = min(cluster[0], found[0][1]) if found else cluster[0]
        if segment.seqs and begin > segment.end:
            yield segment
            segment = _Segment()
        segment.seqs += cluster
        segment.end = max(segment.end, cluster[-1])
        for key, first_seq, chunk in found:
            segment.chunks[key] = (first_seq, chunk)
            segment.end = max(segment.end, first_seq + len(chunk.places) - 1)
    yield segment


def _clusters(seqs: list[int]) -> Iterator[list[int]]:
    start = 0
    for index in range(1, len(seqs) + 1):
        if index == len(seqs) or seqs[index] - seqs[index - 1] > _HOLE_MAX:
            yield seqs[start:index]
            start = index


def _joined(batch: Batch, segment: _Segment, taken: Taken) -> tuple[Taken, int]:
    """Return the segment's new dots with those of its chunks, which are removed, and the greatest clock value told."""
    part = Taken()
    hlc = 0
    for key, (first_seq, chunk) in segment.chunks.items():
        batch.delete(Family.CHANGES, key)
        hlc = max(hlc, chunk.last_hlc)
        for seq, place in enumerate(chunk.places, first_seq):
            if place:
                part.places[seq] = place
        for index, count in chunk.groups:
            for seq in range(first_seq + index, first_seq + index + count):
                part.groups[seq] = first_seq + index + count - 1
    for seq in segment.seqs:
        part.places[seq] = taken.places[seq]
        if seq in taken.groups:
            part.groups[seq] = taken.groups[seq]
    return part, hlc


def _overlapped(engine: Engine, number: int, first: int, last: int) -> Iterator[tuple[bytes, int, Chunk]]:
    """Yield key, first sequence and chunk of what may overlap some dots; what is damaged may, up to the next one."""
    holder = _chunk_before(engine, number, first + 1)
    start = change_key(number, 0) if holder is None else holder[0]
    for key, value in engine.iterate(Family.CHANGES, start, change_key(number, last + 1)):
        first_seq, chunk = parse_change_key(key)[1], _read(value)
        if chunk is None:
            yield key, first_seq, _NOTHING
        elif first_seq + len(chunk.places) > first:
            yield key, first_seq, chunk


def _hlc_before(engine: Engine, number: int, seq: int) -> int:
    """Return the clock value that the last chunk before a sequence tells."""
    before = _chunk_before(engine, number, seq)
    return 0 if before is None else before[1].last_hlc


def _chunk_before(engine: Engine, number: int, seq: int) -> tuple[bytes, Chunk] | None:
    """Return the last chunk of an origin that begins before a sequence, with its key."""
    rows = engine.iterate(Family.CHANGES, change_key(number, 0), change_key(number, seq), reverse=True)
    return next(_readable(rows), None)


def _readable(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, Chunk]]:
    for key, value in rows:
        chunk = _read(value)
        if chunk is not None:
            yield key, chunk


def _read(value: bytes) -> Chunk | None:
    """Return the chunk of a row's value; None if it is damaged."""
    with suppress(RecordError):
        return decode_chunk(value)
    return None


def _add_taken(batch: Batch, number: int, taken: Taken, last_hlc: int, dots_max: int) -> None:
    places = taken.places
    seqs = list(places)
    if len(seqs) <= dots_max and seqs == list(range(seqs[0], seqs[0] + len(seqs))):
        _add_chunk(batch, number, seqs, taken, last_hlc)  # the common case
        return
    if seqs != sorted(seqs):
        seqs.sort()
    start = 0
    for index in range(1, len(seqs) + 1):
        if (
            index == len(seqs)
            or seqs[index] - seqs[index - 1] > _HOLE_MAX
            or (index - start >= dots_max and seqs[index - 1] not in taken.groups)
        ):
            _add_chunk(batch, number, seqs[start:index], taken, last_hlc)
            start = index


def _add_chunk(batch: Batch, number: int, seqs: list[int], taken: Taken, last_hlc: int) -> None:
    first, last = seqs[0], seqs[-1]
    places: list[Place] = list(map(taken.places.__getitem__, seqs))
    if last - first >= len(seqs):
        named = places
        places = [DEAD] * (last - first + 1)
        for seq, place in zip(seqs, named, strict=True):
            places[seq - first] = place
    groups = _groups(seqs, taken.groups, last) if taken.groups else []
    batch.put(Family.CHANGES, change_key(number, first), encode_chunk(last_hlc, places, groups))


def _groups(seqs: list[int], ends: dict[int, int], last: int) -> list[tuple[int, int]]:
    """Return (index of the first place, count) of the groups that have two dots or more in the chunk."""
    firsts: dict[int, int] = {}
    for seq in seqs:
        if seq in ends:
            firsts.setdefault(ends[seq], seq)
    pairs = [(first - seqs[0], min(end, last) - first + 1) for end, first in firsts.items()]
    return [(index, count) for index, count in pairs if count > 1]


def truncate(engine: Engine, txn: Transaction, number: int, upto: int) -> None:
    """Let the log of an origin end, in the tick, at a sequence."""
    last = _chunk_before(engine, number, upto + 1)
    if last is not None:
        first_seq, chunk = parse_change_key(last[0])[1], last[1]
        count = upto - first_seq + 1
        if count < len(chunk.places):
            groups = [(index, min(size, count - index)) for index, size in chunk.groups if index < count]
            kept = [(index, size) for index, size in groups if size > 1]
            encoded = encode_chunk(chunk.last_hlc, chunk.places[:count], kept)
            txn.puts.append((Family.CHANGES, last[0], encoded))
    txn.ranges.append((Family.CHANGES, change_key(number, upto + 1), change_key(number + 1, 0)))


def last_before(engine: Engine, number: int, hlc: int) -> int | None:
    """Return the last sequence before an origin's log goes beyond a clock value; None if it does not."""
    found: int | None = None
    rows = engine.iterate(Family.CHANGES, change_key(number, 0), change_key(number + 1, 0), reverse=True)
    for key, chunk in _readable(rows):
        if chunk.last_hlc <= hlc:
            break
        found = parse_change_key(key)[1] - 1
    return found


def lower_ends(engine: Engine, txn: Transaction, hlc_max: int, hlc: int) -> int:
    """Let no log tell a clock value beyond `hlc_max`, in the tick; return the greatest that one tells, `hlc` at least.

    What is beyond gets that value: it was this node's clock at the time. What follows it is raised, so that no log
    goes back. Reads the whole log twice.
    """
    lowered = hlc
    for _, chunk in _pending_chunks(engine, txn):
        if lowered < chunk.last_hlc <= hlc_max:
            lowered = chunk.last_hlc
    number, last = 0, 0
    for key, chunk in _pending_chunks(engine, txn):
        before = last if parse_change_key(key)[0] == number else 0
        number, last = parse_change_key(key)[0], max(before, min(chunk.last_hlc, lowered))
        if last != chunk.last_hlc:
            txn.puts.append((Family.CHANGES, key, encode_chunk(last, chunk.places, chunk.groups)))
    return lowered


def _pending_chunks(engine: Engine, txn: Transaction) -> Iterator[tuple[bytes, Chunk]]:
    """Yield the chunks of all logs as they are after the tick."""
    pending = {key: value for family, key, value in txn.puts if family is Family.CHANGES}
    removed = [(start, end) for family, start, end in txn.ranges if family is Family.CHANGES]
    rows = ((key, pending.get(key, value)) for key, value in engine.iterate(Family.CHANGES))
    for key, chunk in _readable(rows):
        if not any(start <= key < end for start, end in removed):
            yield key, chunk


def places_since(engine: Engine, ledger: Ledger, namespace: bytes, hlc: int) -> list[Place]:
    """Return the committed places in a namespace of all dots with a clock value of `hlc` or more, and of others.

    The log of each origin is read from its end back to the first chunk that is older. In an own origin no dot before
    a chunk has a greater clock value than the chunk tells. In another one it may, by as much as two nodes' clocks
    differ, if its dots were merged out of order.
    """
    found: dict[bytes, Place] = {}
    for number, lane in enumerate(ledger.lanes):
        oldest = hlc if lane in {0, 1, 2} else hlc - _DISORDER
        rows = engine.iterate(Family.CHANGES, change_key(number, 0), change_key(number + 1, 0), reverse=True)
        for _, chunk in _readable(rows):
            if chunk.last_hlc < oldest:
                break
            for place in chunk.places:
                row_key = place[0] if isinstance(place, list) else place or b""
                if row_key[:NAMESPACE_BYTES] == namespace and place != [namespace]:
                    found[row_key + (b"\x00" + place[1] if isinstance(place, list) else b"")] = place
    return list(found.values())
