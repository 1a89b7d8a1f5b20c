"""The walk that seals every value with the current key: after a rotation, and when encryption is switched on or off.

It goes through the sealed families once, a slice at a time, and writes what is not sealed with the current key
again in its place: the same value, no dot, no new stamp, nothing that a reader or another node could see. What is
written meanwhile has the current key already. Each slice stores its position in its own batch, so a later
process goes on from there.

Rows are then all as they should be, but the disk still holds what they were, in files that RocksDB has not
compacted yet, and, when encryption was switched on, that is plain text. So the last step is to compact everything,
in a thread (`Engine.compact`). Only then do the other keys leave the row of the keys in use, and
may leave the key file.

A value that does not open stays as it is, and so do all keys in use: nobody can tell whether it would open with
another one. The walk then ends *blocked*, and begins anew with the next start or change of keys.
"""

from __future__ import annotations

import enum
from typing import Final

from storage.engine import Batch, Family, Unopened
from storage.engine_sealed import SEALED, SealedEngine
from storage.errors import RecordError
from storage.layout import META_RESEALED
from storage.record import dumps, loads
from storage.sealing import key_id_of

_SLICE_BYTES_MAX: Final = 1024 * 1024
_UNOPENED_SHOWN: Final = 16


class Phase(enum.StrEnum):
    IDLE = "idle"  # everything is as the current key wants it
    WALKING = "walking"
    COMPACTING = "compacting"  # every value is; what was there before is to be removed from the disk
    BLOCKED = "blocked"  # there are values that do not open


class Resealer:
    """The walk over one engine. `slice` and `finish` run between two ticks, `compact` in any thread."""

    def __init__(self, engine: SealedEngine) -> None:
        self._engine = engine
        self.restart()

    def restart(self) -> None:
        """Begin the walk, or go on where an earlier process was. To be called when the keys have changed."""
        engine = self._engine
        self.examined = 0  # rows, since the walk began
        self.resealed = 0  # rows that were written again, by this process
        self.unopened_count = 0
        self.unopened: list[bytes] = []  # row keys of values that do not open, the first few
        self._key = engine.current  # the id of what the walk seals with
        self._family = 0  # index in `SEALED`
        self._position = b""
        self.phase = Phase.IDLE
        if set(engine.in_use) != {engine.current}:
            self.phase = Phase.WALKING
            self._resume()

    def slice(self, rows_max: int) -> bool:
        """Examine up to `rows_max` rows, or about 1 MiB of them; tell whether there are more.

        One batch; on an error nothing of it was written, and the next call begins where this one did.
        """
        if self.phase is not Phase.WALKING:
            return False
        family = SEALED[self._family]
        batch = self._engine.inner.batch()
        examined, resealed, unopened, following = self._collect(batch, family, rows_max)
        if not (unopened or self.unopened_count):  # else a later process could not tell of them
            position = self._position if following is None else following
            progress = [self._key, str(family), position, self.examined + examined]
            batch.put(Family.META, META_RESEALED, dumps(progress))
        self._engine.inner.write(batch, sync=False)
        self.examined += examined
        self.resealed += resealed
        self.unopened_count += len(unopened)
        self.unopened = (self.unopened + unopened)[:_UNOPENED_SHOWN]
        self._go_on(following)
        return self.phase is Phase.WALKING

    def stats(self) -> dict[str, int]:
        """Return figures for INFO and metrics."""
        return {
            "encryption_walk_rows": self.examined,
            "encryption_walk_idle": int(self.phase is Phase.IDLE),
            "encryption_unopened": self.unopened_count,
        }

    def compact(self) -> None:
        """Remove from the disk what the values were before. May take minutes; may be called from any thread."""
        self._engine.compact()

    def finish(self) -> bool:
        """Let go of the other keys after `compact`; False if the keys have changed since the walk began.

        Costs one fsync.
        """
        if self.phase is not Phase.COMPACTING:
            return False
        self._engine.retire_others()
        self.phase = Phase.IDLE
        return True

    def _collect(
        self, batch: Batch, family: Family, rows_max: int
    ) -> tuple[int, int, list[bytes], bytes | None]:
        """Add to the batch what is to be written again.

        Return how many rows were examined and are written, the keys of those that do not open, and where the
        next slice begins; None: at the end of the family.
        """
        sealer = self._engine.sealer(family)
        examined = resealed = size = 0
        unopened: list[bytes] = []
        for key, stored in self._engine.inner.iterate(family, self._position):
            if examined >= rows_max or size >= _SLICE_BYTES_MAX:
                return examined, resealed, unopened, key
            examined += 1
            size += len(key) + len(stored)
            if key_id_of(stored) == self._key:
                continue
            value = sealer.open(key, stored)
            if isinstance(value, Unopened):
                unopened.append(key)
            else:
                batch.put(family, key, sealer.seal(key, value))
                resealed += 1
        return examined, resealed, unopened, None

    def _go_on(self, following: bytes | None) -> None:
        if following is not None:
            self._position = following
        elif self._family + 1 < len(SEALED):
            self._family += 1
            self._position = b""
        else:
            self.phase = Phase.BLOCKED if self.unopened_count else Phase.COMPACTING

    def _resume(self) -> None:
        stored = self._engine.get(Family.META, META_RESEALED)
        if stored is None:
            return
        try:
            key_id, family, position, examined = loads(stored)
            index = SEALED.index(family)
        except (RecordError, TypeError, ValueError):
            return  # it only saves work
        if key_id == self._key and type(position) is bytes and type(examined) is int:
            self._family, self._position, self.examined = index, position, examined
