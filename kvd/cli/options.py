"""The flags that say where settings come from, shared by the verbs that need settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import click

from kvd.cli.errors import fail_config
from kvd.config import ConfigError, Flag, load, parse_flag
from kvd.settings import SETTINGS, Settings
from storage.keyring import Keyring, load_keyring

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# Flags of their own for the settings that are given most often.
_SHORTCUTS: Final = {
    "--data-dir": ("storage.data_dir", "DIR", "Directory of the database."),
    "--bind": ("server.bind", "ADDR", "Addresses to listen on, with commas between them."),
    "--port": ("server.port", "N", "TCP port; 0 takes a free one."),
    "--unix-socket": ("server.unix_socket", "PATH", "Unix socket to listen on as well."),
    "--http-port": ("http.port", "N", "TCP port for HTTP; 0 takes a free one, -1 opens none."),
    "--durability": ("storage.durability", "WORD", "When writes reach the disk: always, everysec or no."),
    "--encryption-key-file": (
        "storage.encryption_key_file",
        "FILE",
        "Keys to encrypt the data with, from `kvd encryption-key new`.",
    ),
    "--peer-port": ("peers.port", "N", "TCP port for other nodes; 0 takes a free one."),
    "--join": ("peers.join", "HOST:PORT", "A node of the cluster to join; may be given many times."),
    "--advertise": ("peers.advertise", "HOST:PORT", "How other nodes reach this one."),
    "--peer-groups": ("peers.groups", "N,N", "Groups of namespaces that this node carries."),
    "--cluster-secret-file": ("peers.secret_file", "FILE", "Secret that all nodes hold."),
    "--peer-cert": ("peers.cert_file", "FILE", "Certificate of this node, from `kvd cluster init`."),
    "--peer-key": ("peers.key_file", "FILE", "Private key of the certificate."),
    "--peer-ca": ("peers.ca_file", "FILE", "The cluster's authority."),
}
# Those that may be given several times; together they make the list.
_REPEATED: Final = frozenset({"--join", "--advertise"})

Shortcut: TypeAlias = str | tuple[str, ...] | None


def settings_options(function: FunctionT) -> FunctionT:
    """Add --config, --set and the shortcuts; the function gets them as keyword arguments."""
    function = click.option(
        "--set",
        "assignments",
        metavar="SECTION.KEY=VALUE",
        multiple=True,
        help="Set any setting; may be given many times. See docs/configuration.md.",
    )(function)
    for flag, (name, metavar, text) in reversed(_SHORTCUTS.items()):
        shown = SETTINGS[name].show(SETTINGS[name].default)
        function = click.option(
            flag, metavar=metavar, multiple=flag in _REPEATED, help=f"{text}  [default: {shown}]"
        )(function)
    return click.option(
        "--config",
        "file",
        envvar="KVD_CONFIG",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings in TOML, such as conf/kvd.toml. Also from KVD_CONFIG.",
    )(function)


def json_option(function: FunctionT) -> FunctionT:
    """Add --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, for programs.")(
        function
    )


def encryption_key_option(function: FunctionT) -> FunctionT:
    """Add --encryption-key-file to a verb that opens a database without a daemon; see `load_keys`."""
    return click.option(
        "--encryption-key-file",
        envvar=SETTINGS["storage.encryption_key_file"].environment,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="The keys, if the database is encrypted. Also from KVD_STORAGE__ENCRYPTION_KEY_FILE.",
    )(function)


def load_keys(file: Path | None) -> Keyring | None:
    """Return the keys of what `encryption_key_option` has given. Raises `KeyFileError`."""
    return None if file is None else load_keyring(file)


def load_settings(
    file: Path | None, assignments: tuple[str, ...], shortcuts: Mapping[str, Shortcut]
) -> Settings:
    """Return the settings of this command line; print every problem and exit if there is one."""
    flags = [
        Flag(flag, name, given if isinstance(given, str) else ",".join(given))
        for flag, (name, _, _) in _SHORTCUTS.items()
        if (given := shortcuts.get(flag.removeprefix("--").replace("-", "_")))
        or isinstance(given, str)  # an empty text is a value, no occurrence of a flag is none
    ]
    for assignment in assignments:
        try:
            flags.append(parse_flag(assignment))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--set") from error
    try:
        return load(file, os.environ, flags)
    except ConfigError as error:
        fail_config(error)
