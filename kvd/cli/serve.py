"""`kvd serve` runs the daemon; `kvd check-config` reads what it would run with."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import click
import structlog
import trio

from kvd import logs
from kvd.cli.errors import describe, fail, fail_config
from kvd.cli.options import Shortcut, load_keys, load_settings, settings_options
from kvd.config import ConfigError, Problem
from kvd.peering.errors import CannotJoin
from kvd.settings import SECTIONS, SETTINGS, LogSettings, Settings
from replication.errors import CredentialError
from storage.errors import StorageError

log = structlog.get_logger()


@click.command(
    epilog="""\b
Examples:
  kvd serve
  kvd serve --config conf/kvd.toml --data-dir /var/lib/kvd
  kvd serve --port 0 --ports-file ports.json
  kvd serve --durability always --set server.maxclients=20000
  kvd serve --peer-port 7379 --cluster-secret-file cluster.secret
  kvd serve --peer-port 7379 --cluster-secret-file cluster.secret --join node1:7379
"""
)
@settings_options
@click.option(
    "--ports-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help='Write the real ports there as JSON once all are open: {"resp": 6379}.',
)
def serve(
    file: Path | None, assignments: tuple[str, ...], ports_file: Path | None, **shortcuts: Shortcut
) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Settings come from the flags here, then from the environment (KVD_SERVER__PORT=6380), then from
    the file given with --config, then from the defaults.
    """
    _outlive_hangups()
    settings = load_settings(file, assignments, shortcuts)
    _open_log(settings)
    try:
        _run(settings, ports_file, file)
    except ConfigError as error:  # the users in it, which need the command table
        fail_config(error)
    except (StorageError, OSError, CannotJoin, ExceptionGroup) as error:
        log.debug("the daemon ended", exc_info=True)
        fail(error)


def _outlive_hangups() -> None:
    """Ignore SIGHUP until the daemon takes it: what it would read anew is being read now."""
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _open_log(settings: Settings) -> None:
    """Let the log begin, or exit: there is no other place yet where more could be told."""
    try:
        logs.configure(settings.log)
    except OSError as error:
        fail(OSError(error.errno, f"cannot open the log file {settings.log.file}: {error.strerror}"))


def _run(settings: Settings, ports_file: Path | None, config_file: Path | None) -> None:
    # Imported here: the other verbs need neither the database nor the script engine.
    from kvd.daemon import serve as serve_daemon  # noqa: PLC0415

    rewritable = config_file.resolve() if config_file is not None else None
    trio.run(partial(serve_daemon, settings, ports_file=ports_file, config_file=rewritable))


@click.command(
    "check-config",
    epilog="""\b
Examples:
  kvd check-config --config /etc/kvd/kvd.toml
  KVD_SERVER__PORT=6380 kvd check-config
""",
)
@settings_options
def check_config(file: Path | None, assignments: tuple[str, ...], **shortcuts: Shortcut) -> None:
    """Read the settings as serve would, and print those in force as TOML.

    Prints every problem and exits with 2 if there is one. Secrets are not shown.
    """
    settings = load_settings(file, assignments, shortcuts)
    logs.configure(LogSettings())  # what is read may warn, and standard output is for the settings
    problems = [problem for look in _LOOKS for problem in look(settings)]
    if problems:
        fail_config(ConfigError(problems))
    for section in SECTIONS:
        click.echo(f"[{section}]")
        for setting in SETTINGS.values():
            if setting.section == section:
                click.echo(f"{setting.field} = {setting.show(settings.value(setting.name))}")
        click.echo()


# What is wrong with the files that settings name.


def _look_at_users(settings: Settings) -> Iterator[Problem]:
    # Imported here: only users need to know the commands.
    from kvd.acl import Acl  # noqa: PLC0415
    from kvd.commands.table import CommandTable  # noqa: PLC0415

    try:
        Acl(settings, CommandTable.standard())
    except ConfigError as error:
        yield from error.problems


def _look_at_keys(settings: Settings) -> Iterator[Problem]:
    name = "storage.encryption_key_file"
    try:
        load_keys(Path(settings.value(name)) if settings.value(name) else None)
    except StorageError as error:
        yield Problem(name, str(error))


def _look_at_tls(settings: Settings) -> Iterator[Problem]:
    if max(settings.server.tls_port, settings.http.tls_port) < 0:
        return
    # Imported here: only the listeners need the parts of a session.
    from kvd.listeners import tls_context  # noqa: PLC0415

    try:
        tls_context(settings.server)
    except OSError as error:
        yield Problem("TLS", describe(error))


def _look_at_credential(settings: Settings) -> Iterator[Problem]:
    if settings.peers.port < 0:
        return
    # Imported here: only a node among others needs replication.
    from kvd.peering.start import read_credentials  # noqa: PLC0415

    try:
        read_credentials(settings.peers)
    except CredentialError as error:
        yield Problem("peers.secret_file" if settings.peers.secret_file else "peers.cert_file", str(error))


_LOOKS: Final = (_look_at_users, _look_at_keys, _look_at_tls, _look_at_credential)
