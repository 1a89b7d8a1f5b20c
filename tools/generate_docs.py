"""Write the files that are derived from the tables: `make docs`.

    conf/kvd.toml            the manual of settings, in comments, with every default in place
    conf/grafana-dashboard.json the dashboard, from the table in `tools.grafana`
    docs/configuration.md    the same as a reference
    docs/commands.md         every command with its syntax

A test holds the files equal to what this module would write.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kvd.commands.spec import CommandSpec
from kvd.commands.table import CommandTable
from kvd.grammar import syntax
from kvd.setting_spec import Setting
from kvd.settings import SECTIONS, SETTINGS
from tools.grafana import dashboard

ROOT: Final = Path(__file__).resolve().parent.parent

_UNITS: Final = {"seconds": "seconds", "ms": "milliseconds", "us": "microseconds", "bytes": "bytes"}

_MANUAL_HEAD: Final = """\
# kvd's settings: all of them, with their defaults.
#
# A flag of `kvd serve` wins over the environment, the environment over this file, this file over the
# defaults. Any setting can be given as a flag, --set server.port=6380, and in the environment,
# KVD_SERVER__PORT=6380. `kvd check-config --config FILE` reports every mistake at once.
#
# Sizes are bytes, or a text with KiB, MiB or GiB. "At run time" means that CONFIG SET changes it in a
# running daemon, under this name.
"""

_REFERENCE_HEAD: Final = """\
# Configuration

Generated from `kvd/settings.py` by `make docs`.

A flag of `kvd serve` wins over the environment, the environment over the file given with `--config`,
the file over the defaults. `conf/kvd.toml` is a complete file to start from. Each setting has four
spellings:

| where | spelling |
| --- | --- |
| file (TOML) | `port = 6380` under `[server]` |
| environment | `KVD_SERVER__PORT=6380` |
| flag | `--set server.port=6380` |
| client | `CONFIG SET`, where the setting can change at run time |

Sizes are bytes, or a text with `KiB`, `MiB` or `GiB` (Redis's `kb`, `mb` and `gb` mean the same).
`kvd check-config` prints the settings in force, or every mistake at once.
"""

_COMMANDS_HEAD: Final = """\
# Commands

Generated from the command table by `make docs`. Every command works in each of the sixteen databases
and in named namespaces. What differs from Redis is in [differences.md](differences.md).
"""

_GROUPS: Final = {
    "string": "Strings",
    "bitmap": "Bitmaps",
    "generic": "Keys",
    "kv": "Metadata and namespaces",
    "transactions": "Transactions",
    "scripting": "Scripting",
    "pubsub": "Publish and subscribe",
    "connection": "Connection",
    "server": "Server",
    "peers": "Peers",
    "cluster": "Cluster",
}


# ---------------------------------------------------------------- settings


def manual() -> str:
    """Return the text of conf/kvd.toml."""
    lines = [_MANUAL_HEAD.rstrip()]
    for section, section_class in SECTIONS.items():
        lines += ["", "", f"[{section}]", *_comment(_prose(section_class))]
        for setting in _settings_of(section):
            lines += ["", *_comment(setting.doc), *_comment(" ".join(_manual_facts(setting)))]
            lines.append(f"{setting.field} = {setting.show(setting.default)}")
    return "\n".join(lines) + "\n"


def configuration_reference() -> str:
    """Return the text of docs/configuration.md."""
    lines = [_REFERENCE_HEAD.rstrip()]
    for section, section_class in SECTIONS.items():
        lines += ["", f"## {section}", "", *textwrap.wrap(_prose(section_class), 100)]
        for setting in _settings_of(section):
            lines += ["", f"### {setting.name}", "", *textwrap.wrap(setting.doc, 100), ""]
            lines += [f"- {fact}" for fact in _reference_facts(setting)]
    return "\n".join(lines) + "\n"


def _settings_of(section: str) -> list[Setting]:
    return [setting for setting in SETTINGS.values() if setting.section == section]


def _prose(section_class: type) -> str:
    return " ".join((inspect.getdoc(section_class) or "").split())


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _unit(setting: Setting) -> str:
    words = setting.field.split("_")
    return next((_UNITS[word] for word in reversed(words) if word in _UNITS), "")


def _parameters(setting: Setting) -> tuple[str, ...]:
    """Return what CONFIG calls a setting: Redis's names, or its own where Redis has no such thing."""
    return setting.parameters or (setting.name,)


def _manual_facts(setting: Setting) -> list[str]:
    facts = [f"Unit: {_unit(setting)}."] if _unit(setting) else []
    if setting.range:
        facts.append(f"Range: {setting.range}." if not setting.kind.words else f"One of: {setting.range}.")
    if setting.runtime:
        facts.append(f"At run time: {_parameters(setting)[0]}.")
    return facts


def _reference_facts(setting: Setting) -> list[str]:
    facts = [f"default: `{setting.show(setting.default)}` ({setting.kind.title})"]
    if setting.range:
        facts.append(f"allowed: {setting.range}")
    if _unit(setting):
        facts.append(f"unit: {_unit(setting)}")
    facts.append(f"environment: `{setting.environment}`")
    names = " and ".join(f"`{name}`" for name in _parameters(setting))
    change = "can be changed at run time" if setting.runtime else "read only"
    facts.append(f"CONFIG parameter: {names}, {change}")
    return facts


# ---------------------------------------------------------------- commands


def commands_reference() -> str:
    """Return the text of docs/commands.md."""
    specs = sorted(CommandTable.standard().specs.values(), key=lambda spec: spec.name)
    by_group = {group: [spec for spec in specs if spec.group == group] for group in _GROUPS}
    strays = sorted({spec.group for spec in specs} - set(_GROUPS))
    assert not strays, f"groups without a title: {strays}"
    lines = [_COMMANDS_HEAD.rstrip(), ""]
    for group, members in by_group.items():
        anchor = _GROUPS[group].lower().replace(" ", "-")
        names = " ".join(f"`{spec.name}`" for spec in members)
        lines.append(f"- [{_GROUPS[group]}](#{anchor}): {names}")
    for group, members in by_group.items():
        lines += ["", f"## {_GROUPS[group]}"]
        for spec in members:
            lines += _command(spec)
    return "\n".join(lines) + "\n"


def _command(spec: CommandSpec) -> list[str]:
    lines = ["", f"### {spec.name.replace('|', ' ')}", ""]
    if not spec.subcommands or spec.data_handler is not None or spec.session_handler is not None:
        lines += [f"    {syntax(spec)}", ""]
    cost = f" Cost: {spec.complexity}" if spec.complexity else ""
    lines += [spec.summary, "", f"Since {spec.since}.{cost}"]
    if spec.deprecated_since:
        instead = f"; use {spec.replaced_by.strip('`')}" if spec.replaced_by else ""
        lines += ["", f"Deprecated since {spec.deprecated_since}{instead}."]
    for name in sorted(spec.subcommands):
        lines += _command(spec.subcommands[name])
    return lines


# ---------------------------------------------------------------- files

GENERATED: Final[dict[str, Callable[[], str]]] = {
    "conf/kvd.toml": manual,
    "conf/grafana-dashboard.json": dashboard,
    "docs/configuration.md": configuration_reference,
    "docs/commands.md": commands_reference,
}


def main() -> None:
    for path, generate in GENERATED.items():
        (ROOT / path).write_text(generate(), encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
