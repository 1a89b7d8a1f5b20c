"""CONFIG's view of the settings: parameters under Redis's names, with their values as text.

Three kinds of parameter:

* one that is a setting (`kvd.settings`); its declaration gives the names, and whether it may change in
  a running daemon. A setting that Redis does not have is called by its own name, ``section.field``;
* one that combines settings or spells them differently, written out below;
* one of Redis's that has a fixed answer here, because what it governs does not exist or cannot be
  otherwise. Setting it to what it is already is accepted, anything else is refused with the reason.

Source: Redis 7.2 CONFIG GET and SET: names, spelling of values, sentences for wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from kvd.notify import format_kinds, parse_kinds
from kvd.redaction import REDACTED
from kvd.setting_spec import BOOLEAN, BYTES, INTEGER, INTEGERS, LIST, MODE, Setting, Value
from kvd.settings import SETTINGS, Settings

_INTEGER_MAX: Final = 2**63 - 1


@attrs.frozen
class Parameter:
    """One parameter. `parse` returns the settings that a text stands for, by name.

    `parse` raises ValueError with what follows "CONFIG SET failed (...) - ".
    """

    name: str
    show: Callable[[Settings], str]
    parse: Callable[[str, Settings], dict[str, Value]]
    runtime: bool = True


# --- settings


def _of_setting(name: str, setting: Setting) -> Parameter:
    def show(settings: Settings) -> str:
        return _show(setting, settings.value(setting.name))

    def parse(text: str, settings: Settings) -> dict[str, Value]:
        return {setting.name: _parse(setting, text)}

    return Parameter(name, show, parse, setting.runtime)


def _show(setting: Setting, value: Value) -> str:
    if setting.kind.is_secret:
        return REDACTED.decode() if value else ""
    if setting.kind is BOOLEAN:
        return "yes" if value else "no"
    if setting.kind is MODE:
        return f"{value:o}"
    if setting.kind is LIST or setting.kind is INTEGERS:
        return " ".join(map(str, value))
    if setting.name in {"server.port", "server.tls_port"}:
        return str(max(value, 0))  # Redis writes "no port" as 0
    if setting.name == "storage.data_dir":
        return str(Path(value).absolute())
    return str(value)


def _parse(setting: Setting, text: str) -> Value:
    try:
        value = setting.kind.from_text(text)
    except ValueError:
        raise ValueError(_wrong_text(setting)) from None
    if setting.problem(value) is None:
        return value
    if setting.low is not None and isinstance(value, int):
        high = _INTEGER_MAX if setting.high is None else setting.high
        raise ValueError(f"argument must be between {setting.low} and {high} inclusive")
    raise ValueError(setting.problem(value))


def _wrong_text(setting: Setting) -> str:
    if setting.kind.words:
        return f"argument(s) must be one of the following: {', '.join(setting.kind.words)}"
    return {
        BOOLEAN.title: "argument must be 'yes' or 'no'",
        BYTES.title: "argument must be a memory value",
        INTEGER.title: "argument couldn't be parsed into an integer",
    }.get(setting.kind.title, f"argument must be a {setting.kind.title}")


# --- parameters that spell settings differently

# In Redis's order. It says "slave" for replicas, and takes both words.
_CLASSES: Final = {"normal": "normal", "slave": "replica", "pubsub": "pubsub"}
_CLASS_WORDS: Final = {**_CLASSES, "replica": "replica"}
_LIMITS: Final = ("hard_bytes", "soft_bytes", "soft_seconds")


def _limit_setting(client_class: str, limit: str) -> Setting:
    return SETTINGS[f"clients.output_{client_class}_{limit}"]


def _show_output_limits(settings: Settings) -> str:
    words: list[str] = []
    for word, client_class in _CLASSES.items():
        words.append(word)
        words += [str(settings.value(_limit_setting(client_class, limit).name)) for limit in _LIMITS]
    return " ".join(words)


def _parse_output_limits(text: str, settings: Settings) -> dict[str, Value]:
    """Read ``class hard soft seconds``, once or several times; classes left out stay as they are."""
    words = text.split()
    if not words or len(words) % 4:
        raise ValueError("Wrong number of arguments in buffer limit configuration.")
    values: dict[str, Value] = {}
    for start in range(0, len(words), 4):
        client_class = _CLASS_WORDS.get(words[start].lower())
        if client_class is None:
            raise ValueError("Invalid client class specified in buffer limit configuration.")
        for limit, word in zip(_LIMITS, words[start + 1 : start + 4], strict=True):
            setting = _limit_setting(client_class, limit)
            try:
                values[setting.name] = _parse(setting, word)
            except ValueError:
                raise ValueError(
                    "Error in hard, soft or soft_seconds setting in buffer limit configuration."
                ) from None
    return values


_LEVEL_WORDS: Final = {"debug": "debug", "info": "notice", "warning": "warning", "error": "nothing"}
_LEVELS: Final = {word: level for level, word in _LEVEL_WORDS.items()} | {"verbose": "info"}


def _show_level(settings: Settings) -> str:
    return _LEVEL_WORDS[settings.log.level]


def _parse_level(text: str, settings: Settings) -> dict[str, Value]:
    level = _LEVELS.get(text.lower())
    if level is None:
        raise ValueError("argument(s) must be one of the following: debug, verbose, notice, warning, nothing")
    return {"log.level": level}


def _show_events(settings: Settings) -> str:
    return format_kinds(parse_kinds(settings.events.notify_keyspace_events))


def _parse_events(text: str, settings: Settings) -> dict[str, Value]:
    try:
        kinds = parse_kinds(text)
    except ValueError:
        raise ValueError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.") from None
    return {"events.notify_keyspace_events": format_kinds(kinds)}


_SPELT: Final = (
    Parameter("client-output-buffer-limit", _show_output_limits, _parse_output_limits),
    Parameter("loglevel", _show_level, _parse_level),
    Parameter("notify-keyspace-events", _show_events, _parse_events),
)


# --- parameters with a fixed answer

_NO_EVICTION: Final = "kvd evicts nothing: data is on disk, memory is bounded by storage.cache_bytes"
_NO_SNAPSHOTS: Final = (
    "kvd writes every change at once: there is nothing to save from time to time, see BGSAVE"
)
_NO_LOG_FILE: Final = "kvd logs every change in its store; how safely is appendfsync"
_NO_REPLICAS: Final = "kvd has no masters and replicas"
_NO_CLUSTER: Final = "kvd is no Redis Cluster"
_NO_DAEMON: Final = "kvd stays in the foreground; a service manager runs it"
_ALWAYS: Final = "kvd always does so"
_NEVER: Final = "kvd never does so"

# name -> (answer, why it cannot be another)
_FIXED: Final = {
    "acl-pubsub-default": ("resetchannels", _ALWAYS),
    "activedefrag": ("no", _NEVER),
    "aof-use-rdb-preamble": ("no", _NO_LOG_FILE),
    "appendonly": ("yes", _NO_LOG_FILE),
    "auto-aof-rewrite-min-size": ("0", _NO_LOG_FILE),
    "auto-aof-rewrite-percentage": ("0", _NO_LOG_FILE),
    "cluster-enabled": ("no", _NO_CLUSTER),
    "daemonize": ("no", _NO_DAEMON),
    "dbfilename": ("", _NO_SNAPSHOTS),
    "enable-debug-command": ("local", "DEBUG is for connections from this machine, always"),
    "enable-module-command": ("no", "kvd loads no modules"),
    "enable-protected-configs": ("no", _NEVER),
    "hz": ("10", "the daemon's timers have their own settings, see storage.sweep_interval_ms"),
    "io-threads": ("1", "kvd serves all clients in one thread"),
    "io-threads-do-reads": ("no", "kvd serves all clients in one thread"),
    "latency-tracking": ("yes", _ALWAYS),
    "latency-tracking-info-percentiles": ("50 99 99.9", "INFO latencystats shows these"),
    "lazyfree-lazy-eviction": ("yes", _ALWAYS),
    "lazyfree-lazy-expire": ("yes", _ALWAYS),
    "lazyfree-lazy-server-del": ("yes", _ALWAYS),
    "lazyfree-lazy-user-del": ("yes", _ALWAYS),
    "lazyfree-lazy-user-flush": ("yes", _ALWAYS),
    "masterauth": ("", _NO_REPLICAS),
    "masteruser": ("", _NO_REPLICAS),
    "maxmemory": ("0", _NO_EVICTION),
    "maxmemory-clients": ("0", "clients are bounded one by one, see client-output-buffer-limit"),
    "maxmemory-policy": ("noeviction", _NO_EVICTION),
    "maxmemory-samples": ("5", _NO_EVICTION),
    "min-replicas-to-write": ("0", _NO_REPLICAS),
    "min-slaves-to-write": ("0", _NO_REPLICAS),
    "no-appendfsync-on-rewrite": ("no", _NO_LOG_FILE),
    "pidfile": ("", _NO_DAEMON),
    "rdbchecksum": ("yes", "DUMP always has a checksum, and RESTORE checks it"),
    "replica-read-only": ("yes", _NO_REPLICAS),
    "replica-serve-stale-data": ("yes", _NO_REPLICAS),
    "replicaof": ("", _NO_REPLICAS),
    "save": ("", _NO_SNAPSHOTS),
    "slaveof": ("", _NO_REPLICAS),
    "stop-writes-on-bgsave-error": ("no", _NO_SNAPSHOTS),
    "supervised": ("no", _NO_DAEMON),
    "syslog-enabled": ("no", "kvd logs to standard error or to a file, see log.file"),
    "tls-cluster": ("no", _NO_CLUSTER),
    "tls-replication": ("no", _NO_REPLICAS),
}


def _fixed(name: str, answer: str, reason: str) -> Parameter:
    def show(settings: Settings) -> str:
        return answer

    def parse(text: str, settings: Settings) -> dict[str, Value]:
        if text.strip().lower() == answer:
            return {}
        raise ValueError(reason)

    return Parameter(name, show, parse)


# --- all of them


def _all_parameters() -> Iterator[Parameter]:
    yield from _SPELT
    spelt = {parameter.name for parameter in _SPELT}
    for setting in SETTINGS.values():
        for name in setting.parameters or (setting.name,):
            if name not in spelt:
                yield _of_setting(name, setting)
    for name, (answer, reason) in _FIXED.items():
        yield _fixed(name, answer, reason)


PARAMETERS: Final = {each.name: each for each in sorted(_all_parameters(), key=lambda each: each.name)}

# A setting that has a Redis name is understood under its own name as well, but not listed twice.
_OWN_NAMES: Final = {setting.name: _of_setting(setting.name, setting) for setting in SETTINGS.values()}


def find(name: str) -> Parameter | None:
    """Return the parameter called `name`, in any case, or None."""
    return PARAMETERS.get(name.lower()) or _OWN_NAMES.get(name.lower())
