"""What the daemon does by the clock: syncing, sweeping, watching over limits and the disk.

Each function here is a Trio task for the daemon's lifetime. Whatever touches records runs as a tick of
its own between the hub's ticks (`Hub.exclusively`), in slices that clients do not notice.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from kvd import encryption, logs
from kvd.durable_files import check_directory
from storage.errors import StorageError
from storage.store import Limits, Store, StoreOptions

if TYPE_CHECKING:
    from kvd.hub import Hub
    from kvd.listeners import TlsListener
    from kvd.server import Server
    from kvd.settings import Settings

log = structlog.get_logger()

_SYNC_SECONDS: Final = 1.0
_WATCH_SECONDS: Final = 1.0


def open_store(settings: Settings) -> Store:
    """Open the store in ``storage.data_dir``. Raises StorageError or OSError with what the operator can do."""
    options = attrs.evolve(store_options(settings), keyring=encryption.load_keys(settings))
    directory = Path(settings.storage.data_dir)
    if not directory.exists():
        directory.mkdir(parents=True, exist_ok=True)
    check_directory(directory)
    return Store.open(settings.storage.data_dir, options)


def store_options(settings: Settings) -> StoreOptions:
    """Translate the settings that the store needs."""
    storage = settings.storage
    return StoreOptions(
        durability=storage.durability,
        cache_bytes=storage.cache_bytes,
        block_cache_bytes=storage.block_cache_bytes,
        gc_min_age_ms=storage.gc_min_age_seconds * 1000,
        limits=Limits(
            key_bytes_max=storage.key_bytes_max,
            value_bytes_max=storage.value_bytes_max,
            metadata_bytes_max=storage.metadata_bytes_max,
        ),
        groups=frozenset(settings.peers.groups),
    )


async def sync_every_second(server: Server) -> None:
    """Under ``everysec``: get what was committed onto the disk once a second, in a thread."""
    store = server.store
    synced = 0
    while True:
        await trio.sleep(_SYNC_SECONDS)
        commits = store.commits
        if server.settings.storage.durability != "everysec" or commits == synced:
            continue
        try:
            await trio.to_thread.run_sync(store.sync)
            synced = commits
        except StorageError as error:
            log.error("sync failed, the last second's writes may not be on the disk", error=str(error))
            store.writable = error  # until the engine has recovered
            server.refresh_plain()


async def sweep(server: Server, hub: Hub) -> None:
    """Remove expired records and old marks of deletion, a slice at a time.

    While more are due than a slice takes, the next comes sooner: a fourth of the time goes to the sweep.
    """
    pause_seconds = 0.0
    while True:
        await trio.sleep(pause_seconds)
        storage = server.settings.storage
        pause_seconds = storage.sweep_interval_ms / 1000
        if server.store.writable is None and server.sweeping:
            started = trio.current_time()
            if _sweep_slice(server, hub, storage.sweep_rows_max):
                pause_seconds = min(pause_seconds, 3 * (trio.current_time() - started))


def _sweep_slice(server: Server, hub: Hub, rows: int) -> bool:
    """Sweep one slice; tell whether it was full."""
    started = time.perf_counter()
    try:
        return hub.exclusively(lambda: server.store.sweep(rows)) >= rows
    except StorageError as error:
        log.error("sweep failed, it is tried again", error=str(error))
        server.refresh_plain()
        return False
    finally:
        server.stats.sweep_seconds += time.perf_counter() - started


async def watch(server: Server, hub: Hub) -> None:
    """Once a second: idle and stalled clients, and whether a full disk has space again."""
    while True:
        await trio.sleep(_WATCH_SECONDS)
        idle_seconds = server.settings.server.idle_timeout_seconds
        if idle_seconds:
            hub.close_idle(idle_seconds)
        hub.close_stalled()
        hub.close_departed()
        if server.store.writable is not None:
            await _try_to_recover(server)


async def _try_to_recover(server: Server) -> None:
    """Probe the disk, in a thread: an ill one lets its callers wait."""
    if await trio.to_thread.run_sync(server.store.probe):
        log.info("the disk takes writes again")
        server.refresh_plain()


def reopen(server: Server, tls: list[TlsListener]) -> None:
    """Open log files, certificates and encryption keys again (SIGHUP): they may have been replaced on disk."""
    logs.reopen()
    log.info("opening log, TLS and key files anew")
    encryption.reload_if_any(server)
    for listener in tls:
        try:
            listener.reload()
        except OSError as error:
            log.error("TLS files not reloaded, the old ones stay in use", error=str(error))
