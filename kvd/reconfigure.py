"""What a running daemon does when settings change (CONFIG SET).

Most parts read `Server.settings` whenever they need a setting; this table names those that keep what
they derived from one, and how they take it anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kvd import logs
from kvd.housekeeping import store_options

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.setting_spec import Value
    from kvd.settings import Settings


def change_settings(server: Server, values: dict[str, Value]) -> list[str]:
    """Put settings into force, given by name; return the names of those that are different now.

    Raises ValueError, then nothing has changed.
    """
    before = server.settings
    after = before.replaced(values)
    changed = [name for name in values if after.value(name) != before.value(name)]
    server.settings = after
    server.changed_settings.update(changed)
    for action in dict.fromkeys(_ACTIONS[name] for name in changed if name in _ACTIONS):
        action(server, after)
    return changed


def _slowlog(server: Server, settings: Settings) -> None:
    server.slowlog.configure()
    server.refresh_plain()


def _latency(server: Server, settings: Settings) -> None:
    server.latency.configure()


def _log(server: Server, settings: Settings) -> None:
    logs.configure(settings.log)


def _events(server: Server, settings: Settings) -> None:
    server.notifications.configure()


def _password(server: Server, settings: Settings) -> None:
    server.acl.set_default_password(settings.security.requirepass.reveal())
    server.acl.apply_to_sessions(server)


def _store(server: Server, settings: Settings) -> None:
    server.store.configure(store_options(settings))


def _request_limits(server: Server, settings: Settings) -> None:
    server.request_limits.bulk_bytes_max = settings.clients.bulk_bytes_max


_ACTIONS: Final[dict[str, Callable[[Server, Settings], None]]] = {
    "clients.bulk_bytes_max": _request_limits,
    "log.slowlog_log_slower_than_us": _slowlog,
    "log.slowlog_max_len": _slowlog,
    "log.latency_monitor_threshold_ms": _latency,
    "log.level": _log,
    "events.notify_keyspace_events": _events,
    "security.requirepass": _password,
    "storage.durability": _store,
    "storage.cache_bytes": _store,
    "storage.key_bytes_max": _store,
    "storage.value_bytes_max": _store,
    "storage.metadata_bytes_max": _store,
    "storage.gc_min_age_seconds": _store,
}
