"""`kvd key`: read and write single keys."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from kvd.cli.client import CommandFailed
from kvd.cli.rest import Refused, Rest, Space, details_path, value_path
from kvd.cli.rest_options import asks_rest, confirm, in_namespace, print_json, print_stored
from kvd.cli.verbs import Verbs


@click.group(
    cls=Verbs,
    epilog="""\b
Examples:
  kvd key put -n shop greeting hello --ttl 3600 --metadata '{"lang":"en"}'
  kvd key put -n shop logo --path logo.png
  kvd key get -n shop logo > copy.png
  kvd key list -n shop --prefix cart: --long
  kvd key delete -n shop greeting
""",
)
def key() -> None:
    """Read and write single keys."""


@key.command(
    epilog="""\b
Examples:
  kvd key put -n shop greeting hello --ttl 3600
  date | kvd key put -n shop today
  kvd key put -n shop logo --path logo.png --metadata '{"type":"image/png"}'
"""
)
@click.argument("name", metavar="KEY")
@click.argument("value", required=False)
@click.option(
    "--path",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Take the value from this file.",
)
@click.option("--ttl", type=click.IntRange(min=1), metavar="SECONDS", help="Let it expire after so long.")
@click.option(
    "--expiration", type=click.IntRange(min=1), metavar="SECONDS", help="Let it expire then, in UNIX time."
)
@click.option("--metadata", metavar="JSON", help="JSON beside the value, up to 1,024 bytes.")
@in_namespace
@asks_rest
def put(
    rest: Rest,
    name: str,
    value: str | None,
    file: Path | None,
    ttl: int | None,
    expiration: int | None,
    metadata: str | None,
    namespace: str,
    as_json: bool,
) -> None:
    """Write VALUE, a file, or what stands in the standard input. What is not given is cleared."""
    if value is not None and file is not None:
        raise click.UsageError("give either VALUE or --path, not both")
    if metadata is not None:
        _check_json(metadata)
    content = _content(value, file)
    space = rest.find_space(namespace)
    rest.put(space, os.fsencode(name), content, metadata=metadata, expiration=expiration, ttl=ttl)
    if as_json:
        print_json({"name": name, "size": len(content)})


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"is no JSON: {error}", param_hint="--metadata") from None


def _content(value: str | None, file: Path | None) -> bytes:
    if value is not None:
        return os.fsencode(value)
    return file.read_bytes() if file is not None else sys.stdin.buffer.read()


@key.command(
    epilog="""\b
Examples:
  kvd key get -n shop greeting
  kvd key get -n shop logo --output logo.png
  kvd key get -n shop greeting --json       with metadata, expiry and where it was written
"""
)
@click.argument("name", metavar="KEY")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the value there."
)
@in_namespace
@asks_rest
def get(rest: Rest, name: str, output: Path | None, namespace: str, as_json: bool) -> None:
    """Print a value, byte for byte."""
    space, raw = rest.find_space(namespace), os.fsencode(name)
    try:
        if as_json:
            print_json(rest.ask("GET", details_path(space, raw))["result"])
            return
        value = rest.read("GET", value_path(space, raw))
    except Refused as refused:
        if refused.status == 404:
            raise CommandFailed(f"there is no key {name!r} in {space.title!r}") from None
        raise
    if output is not None:
        output.write_bytes(value)
    else:
        sys.stdout.buffer.write(value)


@key.command(
    name="list",
    epilog="""\b
Examples:
  kvd key list -n shop --prefix cart:
  kvd key list -n shop --long --limit 20
  kvd key list -n shop --json               as wrangler prints it; good for `kvd bulk delete`
""",
)
@click.option("--prefix", default="", metavar="TEXT", help="Only keys that begin so.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
@click.option("--long", "is_long", is_flag=True, help="With size, expiry (UNIX time) and metadata.")
@in_namespace
@asks_rest
def list_(rest: Rest, prefix: str, limit: int | None, is_long: bool, namespace: str, as_json: bool) -> None:
    """List keys in the order of their bytes."""
    rows = rest.rows(rest.find_space(namespace), prefix, limit)
    if as_json:
        kept = ("name", "expiration", "metadata")
        print_json([{field: row[field] for field in kept if field in row} for row in rows])
        return
    for row in rows:
        print_stored(_long(row) if is_long else row["name"])


def _long(row: dict[str, Any]) -> str:
    metadata = json.dumps(row["metadata"], ensure_ascii=False) if "metadata" in row else ""
    return f"{row['size']:>10}  {row.get('expiration', '-')!s:>10}  {row['name']}  {metadata}".rstrip()


@key.command(
    epilog="""\b
Examples:
  kvd key delete -n shop greeting logo
  kvd key delete -n shop --prefix cart: --yes
"""
)
@click.argument("names", metavar="[KEY]...", nargs=-1)
@click.option("--prefix", metavar="TEXT", help="Delete every key that begins so.")
@click.option("-y", "--yes", "is_sure", is_flag=True, help="With --prefix: do not ask.")
@in_namespace
@asks_rest
def delete(
    rest: Rest, names: tuple[str, ...], prefix: str | None, is_sure: bool, namespace: str, as_json: bool
) -> None:
    """Delete keys. One that is not there is no error."""
    if bool(names) == bool(prefix):
        raise click.UsageError("give either KEYs or --prefix")
    space = rest.find_space(namespace)
    if prefix:
        count = _delete_prefix(rest, space, prefix, is_sure)
    else:
        for name in names:
            rest.ask("DELETE", value_path(space, os.fsencode(name)))
        count = len(names)
    if as_json:
        print_json({"deleted": count})
    elif prefix:
        click.echo(f"deleted {count:,} keys")


def _delete_prefix(rest: Rest, space: Space, prefix: str, is_sure: bool) -> int:
    confirm(f"Delete every key under {prefix!r} in {space.title!r}?", is_sure=is_sure)
    path = f"/kvd/v1/namespaces/{space.id}/keys"
    return int(rest.ask("DELETE", path, query={"prefix": prefix})["result"]["deleted"])
