"""Decoded hot records, bounded in bytes; a hit costs one dict look-up.

Two generations for each keyspace. What is read or written goes into *young*; when the young ones
together hold half of the bound, young becomes *old*, and what was old is let go. A record found in
old moves to young. So nothing is reordered on a hit, and what was not used while half the bound went
by is forgotten: an approximation of LRU without its bookkeeping (Source: the two-space idea of
"2Q", Johnson and Shasha 1994, without its queues).

Letting a million records go at once would be a pause that clients see, so discarded dicts are
emptied in slices, `maintain` by `maintain`, at twice the rate at which records come in; together
with what is being discarded the cache stays within its bound. The dict objects are used again:
they are made once, before `gc.freeze`, so that the collector never walks them (see `track`).

A generation only turns in `maintain`, which the store calls between ticks. Within a tick nothing
leaves, so a written record is found in young until it is committed.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from storage.record import MISSING, Record

Generation: TypeAlias = dict[bytes, Record]

# What an entry costs beside the bytes of key, value and metadata: the headers of two byte strings (33
# each), the tuple (56 + 6 * 8), the dict's entry and its share of the table (24 / 0.5 + 8), and the allocator's
# rounding. tests/storage/test_cache.py holds the estimate near to what tracemalloc measures.
_ENTRY_BYTES: Final = 210
_MISSING_BYTES: Final = 80
_REGISTER_BYTES: Final = 70
_METADATA_BYTES: Final = 36
_EXPIRY_BYTES: Final = _REGISTER_BYTES + 72 + 64  # with a tuple of two and two integers
_SLICE_ENTRIES: Final = 256
_NOT_COUNTED: Final = -2


def cost(key: bytes, record: Record) -> int:
    """Estimate the bytes of memory that one entry takes."""
    return len(key) + weight(record)


def weight(record: Record) -> int:
    """Estimate what an entry takes beside the bytes of its key."""
    if record is MISSING:
        return _MISSING_BYTES
    value, _, metadata, stamp, expiry, floor = record
    total = _ENTRY_BYTES if value is None else _ENTRY_BYTES + len(value)
    if stamp is not None:
        total += _REGISTER_BYTES
    if metadata is not None:
        total += _METADATA_BYTES + len(metadata)
    if expiry is not None:
        total += _EXPIRY_BYTES
    if floor is not None:
        total += _REGISTER_BYTES
    return total


class Hot:
    """One keyspace's two generations. The keyspace reads and writes `young` directly."""

    __slots__ = ("old", "young")

    def __init__(self, young: Generation, old: Generation) -> None:
        self.young = young
        self.old = old


class Cache:
    """The bound over all keyspaces, and the turning of generations.

    `turns` counts the turns. The entries of a generation that was dropped are in the books until they are
    let go of: in those of young or old, by the turn in which they were young.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.young_bytes = 0  # kept up to date by the keyspaces
        self.loads = 0  # look-ups that had to ask the engine
        self.turns = 0
        self._old_bytes = 0
        self._retired: list[tuple[Generation, int]] = []  # with the turn in which it was young
        self._retired_entries = 0
        self._retired_entry_bytes = _ENTRY_BYTES
        self._seen_bytes = 0
        self._spare: list[Generation] = []
        self._hots: dict[Hot, None] = {}  # in order, so that nothing depends on where an object lies

    def open(self) -> Hot:
        """Return an empty pair of generations, counted against the bound."""
        hot = Hot(self._take(), self._take())
        self._hots[hot] = None
        return hot

    def drop(self, hot: Hot) -> None:
        """Forget all of `hot`'s records, in constant time. It may be used on."""
        self._retire(hot.young, self.turns)
        self._retire(hot.old, self.turns - 1)
        hot.young = self._take()
        hot.old = self._take()

    def close(self, hot: Hot) -> None:
        """Forget `hot` for good."""
        self.drop(hot)
        self._hots.pop(hot, None)

    def promote(self, hot: Hot, key: bytes) -> Record | None:
        """Move the entry of `key` from old to young, if it is there, and return it."""
        record = hot.old.pop(key, None)
        if record is not None:
            entry_bytes = cost(key, record)
            self._old_bytes -= entry_bytes
            self.young_bytes += entry_bytes
            hot.young[key] = record
        return record

    def forget(self, hot: Hot, key: bytes) -> None:
        """Drop one entry."""
        record = hot.young.pop(key, None)
        if record is not None:
            self.young_bytes -= cost(key, record)
        record = hot.old.pop(key, None)
        if record is not None:
            self._old_bytes -= cost(key, record)

    def maintain(self) -> None:
        """Turn the generations if it is time, and let go of a slice of what was discarded."""
        added = self.young_bytes - self._seen_bytes
        if self.young_bytes * 2 > self.bytes_max:
            self._turn()
            if self._old_bytes > self.bytes_max:
                self._turn()  # one tick has brought in more than the cache may hold
        self._seen_bytes = self.young_bytes
        if self._retired:
            self._discard(_SLICE_ENTRIES + 2 * max(added, 0) // self._retired_entry_bytes)

    @property
    def discarded_entries(self) -> int:
        """How many entries are discarded and not yet let go of."""
        return self._retired_entries

    def track(self) -> None:
        """Make the collector see every dict of the cache, so that `gc.freeze` can hide it for good.

        An empty dict is invisible to the collector and becomes visible with its first tracked value,
        after any freeze: then each full collection would walk all records. One that was visible when
        it was frozen stays out of sight.
        """
        for hot in self._hots:
            self._spare.append({})
            for generation in (hot.young, hot.old):
                _track(generation)
        for generation in self._spare:
            _track(generation)

    def stats(self) -> dict[str, int]:
        return {
            "cache_bytes": self.young_bytes + self._old_bytes,
            "cache_entries": sum(len(hot.young) + len(hot.old) for hot in self._hots),
            "cache_loads": self.loads,
        }

    def _turn(self) -> None:
        for hot in self._hots:
            if not hot.young and not hot.old:
                continue
            self._retire(hot.old, _NOT_COUNTED)
            hot.old = hot.young
            hot.young = self._take()
        if self._old_bytes and self._retired_entries:
            self._retired_entry_bytes = max(self._old_bytes // self._retired_entries, 1)
        self._old_bytes = self.young_bytes
        self.young_bytes = 0
        self.turns += 1

    def _take(self) -> Generation:
        return self._spare.pop() if self._spare else {}

    def _retire(self, generation: Generation, turn: int) -> None:
        if generation:
            self._retired.append((generation, turn))
            self._retired_entries += len(generation)
        else:
            self._spare.append(generation)

    def _discard(self, entries: int) -> None:
        """Let go of at most `entries` discarded records."""
        while self._retired and entries > 0:
            generation, turn = self._retired[-1]
            count = min(entries, len(generation))
            pop = generation.popitem
            if turn < self.turns - 1:
                for _ in range(count):
                    pop()
            else:
                self._uncount(sum(cost(*pop()) for _ in range(count)), turn)
            entries -= count
            self._retired_entries -= count
            if not generation:
                generation.clear()  # gives the table back; popitem alone keeps it
                self._spare.append(generation)
                self._retired.pop()

    def _uncount(self, entry_bytes: int, turn: int) -> None:
        """Take entries out of the books that were young in `turn`."""
        if turn == self.turns:
            self.young_bytes -= entry_bytes
            self._seen_bytes -= entry_bytes
        else:
            self._old_bytes -= entry_bytes


def _track(generation: Generation) -> None:
    marker = b"\x00tracked"
    generation[marker] = []  # type: ignore[assignment]
    del generation[marker]
