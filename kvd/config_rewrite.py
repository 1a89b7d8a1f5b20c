"""CONFIG REWRITE: put settings that were changed at run time into the TOML file, and leave the rest of it alone.

The file belongs to a person: comments, order and blank lines stay. A setting that has a line gets a new
value in place; one that has none is added at the end of its section, and a section that is missing at
the end of the file. The new text is parsed before it takes the old one's place, by a rename, so the
daemon never leaves a file behind that it could not start with.

Only settings changed by CONFIG SET are written: what came from flags or the environment stays there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kvd.durable_files import replace_file
from kvd.setting_spec import Setting
from kvd.settings import SETTINGS, Settings

_HEADER: Final = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]\s*(#.*)?")


class RewriteError(Exception):
    """The file cannot be rewritten; it is as it was. The message says why."""


def rewrite(file: Path, settings: Settings, changed: Iterable[str]) -> None:
    """Write the values of the settings named in `changed` into `file`. Raises `RewriteError`."""
    try:
        before = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RewriteError(f"cannot read {file}: {error}") from error
    after = before
    for name in sorted(changed):
        after = with_value(after, SETTINGS[name], settings)
    _check(before, after, settings, changed)
    try:
        replace_file(file, after.encode(), mode=0o600)
    except UnicodeEncodeError as error:
        raise RewriteError("a value that was set is not UTF-8, which the file has to be") from error
    except OSError as error:
        raise RewriteError(f"cannot write {file}: {error}") from error


def with_value(text: str, setting: Setting, settings: Settings) -> str:
    """Return the file's text with one setting's value as it is now."""
    line = f"{setting.field} = {setting.kind.to_toml(settings.value(setting.name))}"
    lines = text.splitlines()
    start, end = _section(lines, setting.section)
    if start is None:
        separator = ["", f"[{setting.section}]"] if lines else [f"[{setting.section}]"]
        return _joined([*lines, *separator, line])
    found = _assignment(lines, start, end, setting.field)
    if found is None:
        end = _last_used(lines, start, end)
        return _joined([*lines[:end], line, *lines[end:]])
    first, last = found
    return _joined([*lines[:first], line + _comment(lines[last]), *lines[last + 1 :]])


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _section(lines: list[str], section: str) -> tuple[int | None, int]:
    """Return the first line after a section's header, None if there is no such header, and its end."""
    start: int | None = None
    for index, line in enumerate(lines):
        header = _HEADER.fullmatch(line)
        if header is None:
            continue
        if start is not None:
            return start, index
        if header[1] == section:
            start = index + 1
    return start, len(lines)


def _assignment(lines: list[str], start: int, end: int, field: str) -> tuple[int, int] | None:
    """Return the first and last line of a field's assignment; a list may go over several."""
    pattern = re.compile(rf"\s*{re.escape(field)}\s*=")
    for first in range(start, end):
        if not pattern.match(lines[first]):
            continue
        for last in range(first, end):
            if _is_toml("\n".join(lines[first : last + 1])):
                return first, last
    return None


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _comment(line: str) -> str:
    """Return the comment behind a value, with the blanks before it; empty if there is none."""
    for match in re.finditer(r"\s*#", line):
        # A number sign inside a text is no comment: what stands before it would be no whole value.
        if _is_toml(line[: match.start()]):
            return line[match.start() :]
    return ""


def _last_used(lines: list[str], start: int, end: int) -> int:
    """Return where a section's text ends, blank lines before the next header left out."""
    while end > start and not lines[end - 1].strip():
        end -= 1
    return end


def _check(before: str, after: str, settings: Settings, changed: Iterable[str]) -> None:
    """Read the new text back. Raises `RewriteError` if it does not say what it should."""
    try:
        expected, document = tomllib.loads(before), tomllib.loads(after)
        for name in changed:
            setting = SETTINGS[name]
            written = document[setting.section].pop(setting.field)
            if setting.kind.from_toml(written) != settings.value(name):
                raise ValueError(f"{name} would be read as another value")
            expected.setdefault(setting.section, {}).pop(setting.field, None)
    except (ValueError, KeyError) as error:
        raise RewriteError(f"the file is written in a way that cannot be changed safely: {error}") from error
    if document != expected:
        raise RewriteError(
            "the file is written in a way that cannot be changed without touching other settings"
        )
