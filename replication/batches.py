"""What the server of a sync sends, cut to batches, each read in turns that clients can wait for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication.dissemination import change_bytes, run_bytes
from replication.messages import SyncBatch, SyncRequest
from storage.changes import END_OF_PLACES, Change, ChangeFeed, Run

# In one batch, which is read in a turn or two: clients wait meanwhile, and small records cost as much as larger ones. A full
# sync reads them side by side, at half the cost.
_BATCH_CHANGES_MAX: Final = 64
_FULL_BATCH_CHANGES: Final = 128
# Of a full sync, in one turn: they are full but where most rows are not for the asker.
_SLICES_AT_ONCE: Final = 2
# Runs or slices that are read without a batch. Where most was superseded, or is not for the asker, many have nothing.
_READS_MAX: Final = 64


def incremental_batches(feed: ChangeFeed, request: SyncRequest, bytes_max: int) -> Iterator[SyncBatch | None]:
    """Yield the batches, and None after each run that was read and has completed none.

    After `_READS_MAX` of these comes what there is, be it nothing: the asker sees that it goes on.
    """
    runs: list[Run] = []
    size = count = reads = 0
    for whole in feed.runs_after(request.vector):
        reads += 1
        for run in _cut(whole, bytes_max):
            more = run_bytes(run)
            if runs and (size + more > bytes_max or count + len(run.changes) > _BATCH_CHANGES_MAX):
                yield SyncBatch(request.number, tuple(runs))
                runs, size, count, reads = [], 0, 0, 0
            runs.append(run)
            size += more
            count += len(run.changes)
        if reads >= _READS_MAX:
            yield SyncBatch(request.number, tuple(runs))
            runs, size, count, reads = [], 0, 0, 0
        elif reads:
            yield None
    if runs:
        yield SyncBatch(request.number, tuple(runs))


def full_batches(feed: ChangeFeed, request: SyncRequest, bytes_max: int) -> Iterator[SyncBatch | None]:
    """Yield the batches, as `incremental_batches` does."""
    start = request.cursor
    runs: list[Run] = []
    size = count = slices = 0
    following = start
    for following, slice_runs in feed.runs_by_place(start):
        runs.extend(slice_runs)
        size += sum(run_bytes(run) for run in slice_runs)
        count += sum(len(run.changes) for run in slice_runs)
        slices += 1
        if size >= bytes_max or count >= _FULL_BATCH_CHANGES or slices >= _READS_MAX:
            yield SyncBatch(request.number, tuple(runs), following, start)
            runs, size, count, slices, start = [], 0, 0, 0, following
        elif slices % _SLICES_AT_ONCE == 0:
            yield None
    if start < END_OF_PLACES:
        yield SyncBatch(request.number, tuple(runs), END_OF_PLACES, start)


def _cut(run: Run, bytes_max: int) -> Iterator[Run]:
    """Cut a run to what fits into a batch: the feed keeps groups together, and a group may be large."""
    changes: list[Change] = []
    size, after = 0, run.after
    for change in run.changes:
        more = change_bytes(change)
        if changes and (size + more > bytes_max or len(changes) >= _BATCH_CHANGES_MAX):
            yield run._replace(after=after, upto=changes[-1].seq, changes=changes)
            changes, size, after = [], 0, changes[-1].seq
        changes.append(change)
        size += more
    if changes:
        yield run._replace(after=after, changes=changes)
