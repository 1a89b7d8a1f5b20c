"""From a TOML file, the environment and command-line flags to `Settings`, or to every error at once.

Flags win over the environment, the environment over the file, the file over the defaults. All
sources are read to the end before anything is decided, so a user who made three mistakes in three
places reads about three mistakes. A wrong value is an error even where a stronger source overrides
it: it would come into force the day that source is gone.

Each problem names its source and says what would be right; unknown names come with the nearest
known one. Secret values are never repeated in a problem.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from kvd.setting_spec import Setting, Value
from kvd.settings import SECTIONS, SETTINGS, Settings, contradictions

ENVIRONMENT_PREFIX: Final = "KVD_"


@attrs.frozen
class Problem:
    """One mistake: where it stands (a file, a variable, a flag), and a sentence with the mend."""

    source: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds every reason."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@attrs.frozen
class Flag:
    """One command-line flag that sets a setting: as the user wrote it, and what it means."""

    source: str  # "--port", or "--set" for the general form
    name: str
    text: str


# What one source says: the source's words for a setting, its name, and its value.
_Given: TypeAlias = "tuple[str, Setting, Value]"


def load(file: Path | None, environment: Mapping[str, str], flags: Iterable[Flag]) -> Settings:
    """Return the settings that all sources give together.

    Raises ConfigError with every problem found in any of them.
    """
    values: dict[str, Value] = {}
    sources: dict[str, str] = {}
    problems: list[Problem] = []
    # From the weakest to the strongest: a later source overwrites an earlier one.
    for found in (*_from_file(file), *_from_environment(environment), *_from_flags(flags)):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        source, setting, value = found
        wrong = setting.problem(value)
        if wrong is not None:
            problems.append(Problem(source, wrong))
            continue
        values[setting.name] = value
        sources[setting.name] = source
    settings = Settings().replaced(values)
    problems += [Problem(sources.get(name, name), sentence) for name, sentence in contradictions(settings)]
    if problems:
        raise ConfigError(problems)
    return settings


def parse_flag(text: str) -> Flag:
    """Read the argument of ``--set``. Raises ValueError with a sentence when it has no ``=``."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} has no value; write section.key=value, such as server.port=6380")
    return Flag("--set", name.strip(), value)


# ---------------------------------------------------------------- file


def _from_file(file: Path | None) -> Iterator[_Given | Problem]:
    if file is None:
        return
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        yield Problem(str(file), f"cannot be read: {error.strerror}; check the path given with --config")
    except UnicodeDecodeError as error:
        yield Problem(str(file), f"is not UTF-8 text: byte {error.start} is wrong")
    except tomllib.TOMLDecodeError as error:
        yield Problem(str(file), f"is not TOML: {error}")
    else:
        yield from _from_document(str(file), document)


def _from_document(file: str, document: dict[str, Any]) -> Iterator[_Given | Problem]:
    for section, fields in document.items():
        if section not in SECTIONS:
            yield Problem(f"{file}: {section}", _unknown_section(section, fields))
        elif not isinstance(fields, dict):
            yield Problem(f"{file}: {section}", f"is a section; write it as [{section}]")
        else:
            for field, value in fields.items():
                yield _from_toml(f"{file}: {section}.{field}", f"{section}.{field}", value)


def _from_toml(source: str, name: str, value: object) -> _Given | Problem:
    setting = SETTINGS.get(name)
    if setting is None:
        return Problem(source, _unknown(name))
    try:
        return source, setting, setting.kind.from_toml(value)
    except ValueError as error:
        return Problem(source, str(error))


# ---------------------------------------------------------------- environment and flags


def _from_environment(environment: Mapping[str, str]) -> Iterator[_Given | Problem]:
    """Read the variables called KVD_SECTION__KEY; others with our prefix are not settings."""
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
            continue
        section, _, field = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        name = f"{section}.{field}"
        setting = SETTINGS.get(name)
        if setting is None:
            nearest = _nearest(name)
            hint = f"; did you mean {SETTINGS[nearest].environment}?" if nearest else _SEE_DOCS
            yield Problem(variable, f"there is no such setting{hint}")
        else:
            yield _from_text(variable, setting, text)


def _from_flags(flags: Iterable[Flag]) -> Iterator[_Given | Problem]:
    for flag in flags:
        setting = SETTINGS.get(flag.name)
        source = f"--set {flag.name}" if flag.source == "--set" else flag.source
        if setting is None:
            yield Problem(source, _unknown(flag.name))
        else:
            yield _from_text(source, setting, flag.text)


def _from_text(source: str, setting: Setting, text: str) -> _Given | Problem:
    try:
        return source, setting, setting.kind.from_text(text)
    except ValueError as error:
        return Problem(source, str(error))


# ---------------------------------------------------------------- unknown names

_SEE_DOCS: Final = "; docs/configuration.md lists all"


def _nearest(name: str) -> str | None:
    """Return the known setting that is spelled most like `name`, or whose field is."""
    found = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.75)
    if found:
        return found[0]
    by_field = {setting.field: setting.name for setting in SETTINGS.values()}
    by_field |= {parameter: setting.name for setting in SETTINGS.values() for parameter in setting.parameters}
    fields = difflib.get_close_matches(name.rpartition(".")[2], by_field, n=1, cutoff=0.75)
    return by_field[fields[0]] if fields else None


def _unknown(name: str) -> str:
    nearest = _nearest(name)
    return "there is no such setting" + (f"; did you mean {nearest}?" if nearest else _SEE_DOCS)


def _unknown_section(section: str, fields: object) -> str:
    if not isinstance(fields, dict):
        nearest = _nearest(section)
        return "there is no such setting outside a section" + (
            f"; did you mean {nearest}?" if nearest else _SEE_DOCS
        )
    found = difflib.get_close_matches(section, SECTIONS, n=1)
    return "there is no such section" + (
        f"; did you mean [{found[0]}]?" if found else f"; use one of {', '.join(SECTIONS)}"
    )
