"""CONFIG's view of the settings: parameters under Redis's names, with their values as text.

Three kinds of parameter:

* one that is a setting (`kvd.settings`); its declaration gives the names, and whether it may change in
  a running daemon. A setting that Redis does not have is called by its own name, ``section.field``;
* one that combines settings or spells them differently, written out below;
* one of Redis's that has a fixed answer here, see `kvd.fixed_parameters`. Setting it to what it is already is
  accepted, anything else is refused with the reason.

Source: Redis 7.2 CONFIG GET and SET: names, spelling of values, sentences for wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from kvd.fixed_parameters import FIXED
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


# Words in the order in which Redis names them, where it is not ours.
_REDIS_WORDS: Final = {"storage.durability": ("everysec", "always", "no")}


def _wrong_text(setting: Setting) -> str:
    if words := _REDIS_WORDS.get(setting.name, setting.kind.words):
        return f"argument(s) must be one of the following: {', '.join(words)}"
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


def _show_tls_protocols(settings: Settings) -> str:
    return "TLSv1.3" if settings.server.tls_min_version == "1.3" else "TLSv1.2 TLSv1.3"


def _parse_tls_protocols(text: str, settings: Settings) -> dict[str, Value]:
    if text == _show_tls_protocols(settings):
        return {}
    raise ValueError("it follows from server.tls_min_version, which needs a restart")


_SPELT: Final = (
    Parameter("client-output-buffer-limit", _show_output_limits, _parse_output_limits),
    Parameter("loglevel", _show_level, _parse_level),
    Parameter("notify-keyspace-events", _show_events, _parse_events),
    Parameter("tls-protocols", _show_tls_protocols, _parse_tls_protocols),
)


# --- parameters with a fixed answer


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
    for name, (answer, reason) in FIXED.items():
        yield _fixed(name, answer, reason)


PARAMETERS: Final = {each.name: each for each in sorted(_all_parameters(), key=lambda each: each.name)}

# A setting that has a Redis name is understood under its own name as well, but not listed twice.
_OWN_NAMES: Final = {setting.name: _of_setting(setting.name, setting) for setting in SETTINGS.values()}


def find(name: str) -> Parameter | None:
    """Return the parameter called `name`, in any case, or None."""
    return PARAMETERS.get(name.lower()) or _OWN_NAMES.get(name.lower())
