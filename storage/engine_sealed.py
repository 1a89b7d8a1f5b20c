"""An engine whose values are encrypted before they reach the one below, and decrypted when they come back.

    store, replica, verifier ── plain rows ──▶ SealedEngine ── sealed rows ──▶ RocksDB: log, tables, blobs, copies

Sealed are the values of records, members and past versions: whatever clients gave, with the registers that go with
it. Not sealed are keys, and the families that only name keys (the change log, deadlines) or count (meta). Above
this module nothing knows of encryption: digests, replication and the cache work on what they always did, so that
nodes with different keys, or none, hold equal cells. Without keys the store uses the engine itself, and pays nothing.

*Keys in use.* The meta row "keys" names every key that a row may be sealed with, and says so before the first row
is. Opening needs all of them, and compares each with its check value; what does not fit is refused before
anything is written. Nobody vouches for the row itself, so values that are not sealed are read only if the keyring,
which lies elsewhere, says so too. A key leaves the row when `resealing` has found no value that needs it.

A value that does not open is given out as `Unopened`, and whoever decodes it gets the error: so one bad row stops no
walk, no scan, and no start.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from storage.engine import Batch, Engine, Family, Reader, Snapshot
from storage.errors import DamagedFiles, KeyMissing, PlainValues, RecordError, WrongKey
from storage.keyring import ID_BYTES, Keyring
from storage.layout import META_KEYS, META_RESEALED
from storage.record import dumps, loads
from storage.sealing import CHECK_BYTES, Sealer, key_check

# What is sealed, in the order in which `resealing` walks it.
SEALED: Final = (Family.RECORDS, Family.MEMBERS, Family.HISTORY)

# The check value of each key in use, by its id; None stands for values that are not sealed.
KeysInUse = Mapping[bytes | None, bytes]


def protect(
    engine: Engine, keyring: Keyring | None, *, entropy: Callable[[int], bytes] = os.urandom
) -> Engine:
    """Return the engine to be used with these keys: itself, if nothing is sealed and nothing shall be.

    Raise `EncryptionError` before anything is written. Writes one row, synced, if the key that is written
    with is not in use yet.
    """
    if keyring is None:
        return reading(engine, None)
    in_use = {} if _never_written(engine) else keys_in_use(engine)
    sealed = SealedEngine(engine, keyring, in_use, entropy=entropy)
    sealed.use_current()
    return sealed


def reading(engine: Engine, keyring: Keyring | None) -> Engine:
    """Return the engine to be read with these keys. Raise `EncryptionError`."""
    in_use = keys_in_use(engine)
    if keyring is not None:
        return SealedEngine(engine, keyring, in_use)
    check_keys(engine.path, in_use, None)
    return engine


def keys_in_use(engine: Engine) -> KeysInUse:
    """Return what the values of an engine may be sealed with. Raise `DamagedFiles` if that cannot be told."""
    stored = engine.get(Family.META, META_KEYS)
    if stored is None:
        return {None: b""}
    try:
        found = dict(loads(stored))  # it may hold anything
    except (RecordError, TypeError, ValueError) as error:
        raise DamagedFiles(engine.path, f"the row of the keys in use: {error}") from error
    if not found or not all(_is_entry(key_id, check) for key_id, check in found.items()):
        raise DamagedFiles(engine.path, "the row of the keys in use makes no sense")
    return found


def _never_written(engine: Engine) -> bool:
    """Tell whether there never was a value: not even the change log's last chunk, which stays for ever."""
    if engine.get(Family.META, META_KEYS) is not None:
        return False
    return not any(next(engine.keys(family), None) for family in (Family.CHANGES, *SEALED))


def _is_entry(key_id: object, check: object) -> bool:
    if key_id is None:
        return True
    has_id = type(key_id) is bytes and len(key_id) == ID_BYTES
    return has_id and type(check) is bytes and len(check) == CHECK_BYTES


def check_keys(path: str, in_use: KeysInUse, keyring: Keyring | None) -> None:
    """Raise `KeyMissing`, `WrongKey` or `PlainValues` unless the keyring opens everything that is there."""
    needed = {key_id: check for key_id, check in in_use.items() if key_id is not None}
    found = {key_id: None if keyring is None else keyring.get(key_id) for key_id in needed}
    missing = [key_id.hex() for key_id, key in found.items() if key is None]
    if missing:
        raise KeyMissing(path, missing)
    for key_id, key in found.items():
        if key is not None and not hmac.compare_digest(key_check(key), needed[key_id]):
            raise WrongKey(path, key.name)
    if keyring is not None and None in in_use and not keyring.plain:
        raise PlainValues(path)


class SealedBatch:
    """A batch of the engine below that is given sealed values."""

    __slots__ = ("_sealers", "delete", "delete_range", "inner")

    def __init__(self, inner: Batch, sealers: Mapping[Family, Sealer]) -> None:
        self.inner = inner
        self._sealers = sealers
        self.delete = inner.delete
        self.delete_range = inner.delete_range

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        # Nearly all that comes here are chunks, deadlines and counts.
        sealer = self._sealers.get(family)
        self.inner.put(family, key, value if sealer is None else sealer.seal(key, value))

    def put_all(self, family: Family, items: Iterable[tuple[bytes, bytes]]) -> None:
        sealer = self._sealers.get(family)
        self.inner.put_all(family, items if sealer is None else sealer.seal_all(items))


class _Opening:
    """Reads of a `Reader` whose values are opened."""

    def __init__(self, reader: Reader, sealers: Mapping[Family, Sealer]) -> None:
        self._reader = reader
        self._sealers = sealers
        self._open_record = sealers[Family.RECORDS].open

    def get(self, family: Family, key: bytes) -> bytes | None:
        # Hot: once for every read that misses the cache.
        stored = self._reader.get(family, key)
        if stored is None:
            return None
        if family is Family.RECORDS:
            return self._open_record(key, stored)
        sealer = self._sealers.get(family)
        return stored if sealer is None else sealer.open(key, stored)

    def multi_get(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        stored = self._reader.multi_get(family, keys)
        sealer = self._sealers.get(family)
        if sealer is None:
            return stored
        open_value = sealer.open
        return [
            None if value is None else open_value(key, value) for key, value in zip(keys, stored, strict=True)
        ]

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        rows = self._reader.iterate(family, start, end, reverse=reverse)
        sealer = self._sealers.get(family)
        return rows if sealer is None else _opened(rows, sealer)


def _opened(rows: Iterator[tuple[bytes, bytes]], sealer: Sealer) -> Iterator[tuple[bytes, bytes]]:
    open_value = sealer.open
    for key, stored in rows:
        yield key, open_value(key, stored)


class SealedSnapshot(_Opening):
    """A snapshot of the engine below, opened."""

    def __init__(self, snapshot: Snapshot, sealers: Mapping[Family, Sealer]) -> None:
        super().__init__(snapshot, sealers)
        self.close = snapshot.close


class SealedEngine(_Opening):
    """The engine `inner` with sealed values."""

    def __init__(
        self,
        inner: Engine,
        keyring: Keyring,
        in_use: KeysInUse,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        check_keys(inner.path, in_use, keyring)
        self.inner = inner
        self.keys = inner.keys
        self.keyring = keyring
        self.in_use = in_use
        sealers = {
            family: Sealer(str(family).encode(), keyring, allow_plain=None in in_use, entropy=entropy)
            for family in SEALED
        }
        super().__init__(inner, sealers)
        self.sync = inner.sync
        self.recover = inner.recover
        self.checkpoint = inner.checkpoint
        self.compact = inner.compact
        self.stats = inner.stats
        self.close = inner.close

    @property
    def path(self) -> str:
        return self.inner.path

    @property
    def current(self) -> bytes | None:
        """The id of the key that is written with; None: what is written is not sealed."""
        return self.keyring.current

    def reader(self) -> SealedEngine:
        """Return an engine over the same data that has seen nothing of it yet. Raise `EncryptionError`."""
        return SealedEngine(self.inner, self.keyring, keys_in_use(self.inner))

    def unlisted(self) -> list[bytes]:
        """Return the ids of keys that values were seen to be sealed with and that are not among those in use."""
        seen = set().union(*(sealer.keys_seen for sealer in self._sealers.values()))
        return sorted(seen.difference(self.in_use))

    def sealer(self, family: Family) -> Sealer:
        return self._sealers[family]

    def batch(self) -> Batch:
        return SealedBatch(self.inner.batch(), self._sealers)

    def write(self, batch: Batch, *, sync: bool) -> None:
        assert isinstance(batch, SealedBatch)
        self.inner.write(batch.inner, sync=sync)

    def snapshot(self) -> Snapshot:
        return SealedSnapshot(self.inner.snapshot(), self._sealers)

    def adopt(self, keyring: Keyring) -> None:
        """Go on with other keys; nothing may be pending. Costs one fsync if the first is new.

        Raise `EncryptionError` if what is there needs others; then all is as before.
        """
        check_keys(self.path, self.in_use, keyring)
        before, self.keyring = self.keyring, keyring
        try:
            self.use_current()
        except BaseException:
            self.keyring = before
            raise
        for sealer in self._sealers.values():
            sealer.adopt(keyring)

    def retire_others(self) -> None:
        """Take note, synced, that nothing on the disk needs any other key than the current one."""
        self._put_in_use({self.current: self.in_use[self.current]})

    def use_current(self) -> None:
        """Name the current key among those in use, synced, before anything is sealed with it."""
        current = self.current
        if current in self.in_use:
            return
        key = None if current is None else self.keyring.get(current)
        check = b"" if key is None else key_check(key)
        self._put_in_use({**self.in_use, current: check})

    def _put_in_use(self, in_use: KeysInUse) -> None:
        batch = self.inner.batch()
        batch.delete(Family.META, META_RESEALED)  # it told of other keys
        batch.put(Family.META, META_KEYS, dumps([[key_id, check] for key_id, check in in_use.items()]))
        self.inner.write(batch, sync=True)
        self.in_use = in_use
        for sealer in self._sealers.values():
            sealer.allow_plain = None in in_use
