"""`kvd verify` examines a database that no daemon uses."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import click

from kvd.cli.errors import EXIT_FAILED, EXIT_USAGE, describe
from storage.errors import Corrupt, StorageError

_COUNTED: Final = {
    "keys": "keys",
    "dead_rows": "marks of what was deleted or has expired",
    "namespaces": "named namespaces",
    "deadlines": "deadlines",
    "chunks": "chunks of the change log",
}


@click.command(
    epilog="""\b
Examples:
  kvd verify --data-dir /var/lib/kvd
  kvd verify --data-dir ./data && echo sound

\b
Exit codes: 0 sound, 1 something is wrong, 2 not examined (in use, missing, written by a newer kvd).
"""
)
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory of the database.",
)
def verify(data_dir: Path) -> None:
    """Check that every record decodes and that counts, deadlines and change log agree with the records.

    Prints one line for each thing that is wrong, with the place, and changes nothing. Reads
    everything once, so it takes as long as reading the directory. The daemon must not be running.
    """
    try:
        findings_count = _verify(data_dir)
    except Corrupt as error:  # so damaged that it cannot be opened, or not be read to the end
        click.echo(str(error))
        sys.exit(EXIT_FAILED)
    except (StorageError, OSError) as error:
        click.echo(f"kvd: {describe(error)}", err=True)
        sys.exit(EXIT_USAGE)
    sys.exit(EXIT_FAILED if findings_count else 0)


def _verify(data_dir: Path) -> int:
    """Print findings and summary; return the number of findings."""
    # Imported here: `kvd --help` should not have to load the database.
    from storage.verify import open_verifier  # noqa: PLC0415

    with open_verifier(data_dir, now_ms=time.time_ns() // 1_000_000) as verifier:
        for finding in verifier.run():
            click.echo(str(finding))
    summary = verifier.summary
    counts = ", ".join(f"{getattr(summary, field)} {words}" for field, words in _COUNTED.items())
    click.echo(f"{counts}: {f'{summary.findings} findings' if summary.findings else 'sound'}")
    return summary.findings
