"""`kvd encryption-key` makes and changes the file with the keys that a database is encrypted with.

Every verb replaces the file as a whole and gets it onto the disk before it ends: a key that was lost after the daemon
has written with it would be worse than a file that was not changed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import attrs
import click

from kvd.cli.errors import EXIT_FAILED, fail
from kvd.cli.options import encryption_key_option, load_keys
from kvd.cli.verbs import Verbs
from kvd.durable_files import replace_file
from storage.errors import StorageError
from storage.keyring import (
    Keyring,
    disused,
    format_keyring,
    load_keyring,
    new_keyring,
    rotated,
    without,
    without_plain,
)

_MODE: Final = 0o600
_RELOAD: Final = "then reload it: kill -HUP, or KV.ENCRYPTION RELOAD"

_file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))


@click.group("encryption-key", cls=Verbs)
def encryption_key() -> None:
    """Make and change the keys that values and metadata are encrypted with on the disk.

    Keep a copy of the file somewhere else: without it nobody can read the data, nor its backups.
    """


@encryption_key.command(
    epilog="""\b
Example:
  kvd encryption-key new /etc/kvd/keys
  kvd serve --encryption-key-file /etc/kvd/keys
"""
)
@_file
@click.option(
    "--plain", is_flag=True, help="For a database that holds values already, which are not encrypted."
)
def new(file: Path, *, plain: bool) -> None:
    """Make a file with one new key, which only its owner may read."""
    try:
        if file.exists():
            _give_up(f"{file} exists already and is not overwritten; `rotate` gives it another key")
        file.parent.mkdir(parents=True, exist_ok=True)
        keyring = new_keyring(plain=plain)
        replace_file(file, format_keyring(keyring), mode=_MODE)
    except OSError as error:
        fail(error)
    click.echo(f"{file}: key {keyring.keys[0].name}; keep a copy where the data is not")


@encryption_key.command(
    epilog="""\b
Changing the key of a running daemon:
  kvd encryption-key rotate /etc/kvd/keys      a new key in front of the old one
  redis-cli KV.ENCRYPTION RELOAD               write with it, and encrypt everything anew
  redis-cli KV.ENCRYPTION STATUS               until walk is idle and only the new key is in use
  kvd encryption-key remove /etc/kvd/keys ID   the old one
  redis-cli KV.ENCRYPTION RELOAD
"""
)
@_file
def rotate(file: Path) -> None:
    """Put a new key in front: what is written from then on is encrypted with it."""
    keyring = _change(file, rotated)
    click.echo(f"{file}: writes with the new key {keyring.keys[0].name}; {_RELOAD}")


@encryption_key.command()
@_file
@click.argument("key_id", metavar="ID")
def remove(file: Path, key_id: str) -> None:
    """Remove a key that nothing is encrypted with any more, or "plain" once everything is encrypted.

    The daemon refuses a file without a key that it needs; KV.ENCRYPTION STATUS tells which it needs. Old backups
    may need it as well.
    """
    if key_id == "plain":
        _change(file, without_plain)
    elif re.fullmatch(r"[0-9a-f]{8}", key_id):
        _change(file, lambda keyring: without(keyring, bytes.fromhex(key_id)))
    else:
        raise click.BadParameter(
            "an ID is 8 hexadecimal digits, or plain; see kvd encryption-key list", param_hint="ID"
        )
    click.echo(f"{file}: without {key_id}; {_RELOAD}")


@encryption_key.command()
@_file
def plain(file: Path) -> None:
    """Let values be read that are not encrypted, so that a database becomes encrypted that has some.

    Remove it with `remove FILE plain` as soon as KV.ENCRYPTION STATUS tells that it is not in use any more: until
    then, whoever can write to the disk can put such values there.
    """
    _change(file, lambda keyring: attrs.evolve(keyring, plain=True))
    click.echo(f"{file}: reads values that are not encrypted; {_RELOAD}")


@encryption_key.command()
@_file
def disuse(file: Path) -> None:
    """Write without encryption from now on; the keys stay, for what is encrypted still.

    Once KV.ENCRYPTION STATUS tells that only "plain" is in use, the setting can be taken away.
    """
    _change(file, disused)
    click.echo(f"{file}: writes without encryption; {_RELOAD}")


@encryption_key.command("list")
@_file
def list_(file: Path) -> None:
    """List the keys by their ids, the one that is written with first; never the keys themselves."""
    try:
        keyring = load_keyring(file)
    except (StorageError, OSError) as error:
        fail(error)
    if keyring.current is None:
        click.echo("plain     writes and reads  without encryption")
    for key in keyring.keys:
        use = "writes and reads" if key.id == keyring.current else "reads"
        click.echo(f"{key.name}  {use:16}  {key.comment}".rstrip())
    if keyring.plain and keyring.current is not None:
        click.echo("plain     reads")


@click.command("dead-letters")
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Directory of the database; the daemon may use it.",
)
@encryption_key_option
def dead_letters(data_dir: Path, encryption_key_file: Path | None) -> None:
    """Print the writes that were undone when this node came back from too long ago, one JSON object a line."""
    # Imported here: the other verbs need nothing of replication.
    from kvd.peering.dead_letters import FILE, LetterError, read  # noqa: PLC0415

    try:
        for letter in read(data_dir / FILE, load_keys(encryption_key_file)):
            click.echo(json.dumps(letter, ensure_ascii=False))
    except FileNotFoundError:
        return  # there never was one
    except LetterError as error:
        _give_up(str(error))
    except (StorageError, OSError) as error:
        fail(error)


def _change(file: Path, change: Callable[[Keyring], Keyring]) -> Keyring:
    """Write what `change` makes of the file, and return it; exit with a sentence if that cannot be."""
    try:
        keyring = change(load_keyring(file))
        replace_file(file, format_keyring(keyring), mode=_MODE)
    except ValueError as error:
        _give_up(f"{file}: {error}")
    except (StorageError, OSError) as error:
        fail(error)
    return keyring


def _give_up(text: str) -> NoReturn:
    click.echo(f"kvd: {text}", err=True)
    sys.exit(EXIT_FAILED)
