"""The `kvd` command: a group of verbs."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import click

import kvd
from kvd.cli.bulk import bulk
from kvd.cli.cluster import cluster
from kvd.cli.data import verify
from kvd.cli.encryption import dead_letters, encryption_key
from kvd.cli.keys import key
from kvd.cli.namespaces import namespace
from kvd.cli.serve import check_config, serve
from kvd.cli.token import token
from kvd.cli.transfer import export, import_
from kvd.cli.verbs import Verbs


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  kvd serve --config conf/kvd.toml     run the daemon
  kvd check-config --config my.toml    find mistakes in a configuration
  kvd verify --data-dir ./data         examine a database that no daemon uses
  kvd key put -n shop greeting hello   write a key of a namespace, over HTTP
  kvd export --all everything.jsonl    every key with metadata and expiry
""",
)
@click.version_option(kvd.__version__, prog_name="kvd", message="%(prog)s %(version)s")
def main() -> None:
    """A durable key-value daemon that speaks the Redis protocol."""


@click.command()
def version() -> None:
    """Print the version of kvd and of what it is built on."""
    click.echo(f"kvd {kvd.__version__}")
    click.echo(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for distribution in ("trio", "hiredis", "rocksdict", "lupa"):
        click.echo(f"{distribution} {version_of(distribution)}")


main.add_command(serve)
main.add_command(check_config)
main.add_command(verify)
main.add_command(cluster)
main.add_command(token)
main.add_command(encryption_key)
main.add_command(dead_letters)
for verb in (namespace, key, bulk, export, import_):
    main.add_command(verb)
main.add_command(version)
