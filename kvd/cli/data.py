"""`kvd verify` examines a database that no daemon uses."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import click

from kvd.cli.errors import EXIT_FAILED, EXIT_USAGE, describe
from kvd.cli.options import encryption_key_option, load_keys, load_settings
from kvd.durable_files import check_directory
from storage.errors import Corrupt, StorageError

_COUNTED: Final = {
    "keys": "keys",
    "dead_rows": "marks of what was deleted or has expired",
    "versions": "past versions",
    "namespaces": "named namespaces",
    "deadlines": "deadlines",
    "chunks": "chunks of the change log",
}


@click.command(
    epilog="""\b
Examples:
  kvd verify --data-dir /var/lib/kvd
  kvd verify --data-dir ./data && echo sound
  kvd verify --data-dir ./data --encryption-key-file /etc/kvd/keys
  kvd verify --config /etc/kvd/kvd.toml       the directory and the keys that it names

\b
Exit codes: 0 sound, 1 something is wrong, 2 not examined (in use, missing, wrong key, written by a newer kvd).
"""
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory of the database.",
)
@encryption_key_option
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings of the daemon, to take from them what is not given here.",
)
def verify(data_dir: Path | None, encryption_key_file: Path | None, file: Path | None) -> None:
    """Check that every record decodes and that counts, deadlines and change log agree with the records.

    Prints one line for each thing that is wrong, with the place, and changes nothing. Reads
    everything once, so it takes as long as reading the directory. The daemon must not be running.
    """
    if file is not None:
        storage = load_settings(file, (), {}).storage
        data_dir = data_dir or Path(storage.data_dir)
        if storage.encryption_key_file:
            encryption_key_file = encryption_key_file or Path(storage.encryption_key_file)
    if data_dir is None:
        raise click.UsageError("give --data-dir, or a --config that names it")
    try:
        findings_count = _verify(data_dir, encryption_key_file)
    except Corrupt as error:  # so damaged that it cannot be opened, or not be read to the end
        click.echo(str(error))
        sys.exit(EXIT_FAILED)
    except (StorageError, OSError) as error:
        click.echo(f"kvd: {describe(error)}", err=True)
        sys.exit(EXIT_USAGE)
    sys.exit(EXIT_FAILED if findings_count else 0)


def _verify(data_dir: Path, key_file: Path | None) -> int:
    """Print findings and summary; return the number of findings."""
    # Imported here: `kvd --help` should not have to load the database.
    from storage.verify import open_verifier  # noqa: PLC0415

    keyring = load_keys(key_file)
    if data_dir.exists():
        check_directory(data_dir)
    with open_verifier(data_dir, now_ms=time.time_ns() // 1_000_000, keyring=keyring) as verifier:
        for finding in verifier.run():
            click.echo(str(finding))
    summary = verifier.summary
    counts = ", ".join(f"{getattr(summary, field)} {words}" for field, words in _COUNTED.items())
    click.echo(f"{counts}: {f'{summary.findings} findings' if summary.findings else 'sound'}")
    return summary.findings
