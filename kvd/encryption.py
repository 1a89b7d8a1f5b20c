"""Encryption at rest in the running daemon: reading the keys, changing them, and the walk after a change.

What is encrypted and how is told in `storage.sealing` and `storage.engine_sealed`; what an operator does, in
docs/encryption.md. Here is what needs the clock: the walk that encrypts everything anew goes on in slices
between the hub's ticks, a fourth of the time at most, and ends with a compaction in a thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from kvd.peering import dead_letters
from storage.errors import StorageError
from storage.keyring import Keyring, load_keyring
from storage.resealing import Phase, Resealer

if TYPE_CHECKING:
    from kvd.hub import Hub
    from kvd.server import Server
    from kvd.settings import Settings
    from storage.store import Store

log = structlog.get_logger()

_SLICE_ROWS: Final = 128  # about a millisecond
_IDLE_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 60.0  # after a compaction that failed
_TELL_SECONDS: Final = 30.0
_PLAIN: Final = "plain"


def load_keys(settings: Settings) -> Keyring | None:
    """Return the keys that the settings name, or None. Raises `KeyFileError`."""
    file = settings.storage.encryption_key_file
    return load_keyring(Path(file)) if file else None


def reload(server: Server) -> None:
    """Take over what the key file holds now. Raises StorageError, then the keys before stay in force."""
    keyring = load_keys(server.settings)
    if keyring is None or server.store.keyring is None:
        return
    before = server.store.keyring.current
    try:
        server.store.adopt_keys(keyring)
    finally:
        server.refresh_plain()  # a disk that does not take the new key takes no writes
    if keyring.current != before:
        log.info(
            "encrypting with another key from now on", key=name_of(keyring.current), before=name_of(before)
        )


def reload_if_any(server: Server) -> None:
    """Do the same, and log what is wrong: nobody waits for an answer."""
    try:
        reload(server)
    except StorageError as error:
        log.error("encryption keys not reloaded, the old ones stay in use", error=str(error))


def name_of(key_id: bytes | None) -> str:
    return _PLAIN if key_id is None else key_id.hex()


def fields(store: Store) -> dict[str, Any]:
    """Return what INFO tells of encryption."""
    walk, keyring = store.resealer, store.keyring
    if walk is None or keyring is None:
        return {"encryption": "off"}
    return {
        "encryption": "on" if keyring.current is not None else "ending",
        "encryption_key": name_of(keyring.current),
        "encryption_keys_in_use": ",".join(name_of(key_id) for key_id in store.keys_in_use),
        "encryption_walk": str(walk.phase),
        "encryption_walk_percent": _percent(store, walk),
    }


def _percent(store: Store, walk: Resealer) -> int:
    """Return how far the walk has come, in whole percent, as far as the counts of the keyspaces tell."""
    if walk.phase is not Phase.WALKING:
        return 100
    rows = sum(keyspace.count + keyspace.headers for keyspace in store.keyspaces)
    return min(99, 100 * walk.examined // max(rows, 1))


# --- the walk


async def reseal(server: Server, hub: Hub) -> None:
    """Whenever keys have changed: encrypt everything with the current one, then let go of the others."""
    walk = server.store.resealer
    if walk is None:
        return
    told = _Told()
    while True:
        told.look(server.store, walk)
        if walk.phase is Phase.WALKING and server.store.writable is None:
            await trio.sleep(_reseal_slice(server, hub))
        elif walk.phase is Phase.COMPACTING and server.store.writable is None:
            await trio.sleep(await _compact(server, walk))
        else:
            await trio.sleep(_IDLE_SECONDS)


def _reseal_slice(server: Server, hub: Hub) -> float:
    """Do a slice; return how long to pause."""
    started = trio.current_time()
    try:
        hub.exclusively(lambda: server.store.reseal(_SLICE_ROWS))
    except StorageError as error:
        log.error("records not encrypted anew, it is tried again", error=str(error))
        server.refresh_plain()
        return _IDLE_SECONDS
    return 3 * (trio.current_time() - started)


async def _compact(server: Server, walk: Resealer) -> float:
    """Remove what was there before from the disk and let go of the other keys; return how long to pause."""
    keyring = server.store.keyring
    assert keyring is not None
    letters = Path(server.settings.storage.data_dir) / dead_letters.FILE

    def work() -> None:
        walk.compact()
        dead_letters.reseal(letters, keyring)

    try:
        # Closing the store ends it, so a daemon that stops need not wait for it here.
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        if server.store.keyring is keyring:
            walk.finish()
    except (StorageError, OSError) as error:
        log.error("the disk may still hold what was not encrypted, it is tried again", error=str(error))
        return _AGAIN_SECONDS
    return 0.0


class _Told:
    """Says in the log how the walk goes: where it begins and ends, and now and then between."""

    def __init__(self) -> None:
        self._phase = Phase.IDLE
        self._at = 0.0

    def look(self, store: Store, walk: Resealer) -> None:
        before, self._phase = self._phase, walk.phase
        now = trio.current_time()
        if walk.phase is before and (walk.phase is not Phase.WALKING or now - self._at < _TELL_SECONDS):
            return
        self._at = now
        keyring = store.keyring
        assert keyring is not None
        key = name_of(keyring.current)
        if walk.phase is Phase.WALKING:
            percent = _percent(store, walk)
            log.info(
                "encrypting all records with the current key", key=key, rows=walk.examined, percent=percent
            )
        elif walk.phase is Phase.COMPACTING:
            log.info(
                "all records have the current key; what they were is being removed from the disk", key=key
            )
        elif walk.phase is Phase.BLOCKED:
            log.error(
                "some records do not decrypt, so no key can go; delete or restore them, then reload the keys",
                count=walk.unopened_count,
                records=[f"{place[16:]!r} of namespace {place[:16].hex()}" for place in walk.unopened],
            )
        else:
            log.info("everything on the disk has the current key, others are not needed any more", key=key)
