"""`kvd bulk`: many keys from a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, cast

import click

from kvd.cli.client import CommandFailed
from kvd.cli.entries import BATCH_ENTRIES, Item, Source, Writer, goes_alone, numbered, wrong_entry
from kvd.cli.progress import Progress
from kvd.cli.rest import Refused, Rest, Space, value_path
from kvd.cli.rest_options import asks_rest, confirm, in_namespace, print_json
from kvd.cli.verbs import Verbs

_GET_KEYS_MAX: Final = 100


@click.group(
    cls=Verbs,
    epilog="""\b
Examples:
  kvd bulk put -n shop data.json
  kvd bulk get -n shop keys.json
  kvd key list -n shop --prefix old: --json | kvd bulk delete -n shop - --yes
""",
)
def bulk() -> None:
    """Read, write and delete many keys from a file (`-`: the standard input)."""


def start_option(function: Any) -> Any:
    return click.option(
        "--start",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Leave out the first N entries: a run that broke off says how many were done.",
    )(function)


@contextlib.contextmanager
def resumable(done: Any, start: int) -> Iterator[None]:
    """Say how to go on when what is inside breaks off; `done()` is the number of entries that are done."""
    try:
        yield
    except (CommandFailed, KeyboardInterrupt) as error:
        text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        count = max(done(), start)
        mend = f"\n  the first {count:,} entries are done; go on with --start {count}" if count else ""
        raise CommandFailed(f"{text}{mend}") from None


@bulk.command(
    epilog="""\b
Examples:
  kvd bulk put -n shop data.json
  kvd bulk put -n shop data.jsonl --start 12000     go on where a run broke off

\b
FILE is a JSON array as wrangler's, or JSON lines, of
  {"key": "a", "value": "text", "expiration_ttl": 3600, "metadata": {...}}
  {"key": "b", "value": "AAEC", "base64": true, "expiration": 2000000000}
"""
)
@click.argument("file", type=click.File("rb"))
@start_option
@in_namespace
@asks_rest
def put(rest: Rest, file: BinaryIO, start: int, namespace: str, as_json: bool) -> None:
    """Write the entries of FILE. A wrong one is named, and stops it."""
    writer = Writer(rest)
    writer.into(rest.find_space(namespace))
    source = Source(file)
    bar = Progress("keys", source.total)
    with resumable(lambda: writer.done, start):
        for item in source:
            if item.number > start:
                writer.add(item)
                bar.show(item.position, writer.count)
        writer.flush()
    bar.clear()
    _report(writer.count, "written", as_json)


def _report(count: int, word: str, as_json: bool) -> None:
    if as_json:
        print_json({word: count})
    else:
        click.echo(f"{count:,} keys {word}")


@bulk.command(
    epilog="""\b
Examples:
  echo '["a", "b"]' | kvd bulk get -n shop -
  kvd bulk get -n shop keys.json --metadata

\b
Values are printed as text; for those that are none, see `kvd export`.
"""
)
@click.argument("file", type=click.File("rb"))
@click.option("--metadata", "with_metadata", is_flag=True, help="With metadata and expiry.")
@in_namespace
@asks_rest
def get(rest: Rest, file: BinaryIO, with_metadata: bool, namespace: str, as_json: bool) -> None:
    """Print the values of the keys in FILE as one JSON object; null for those that are not there."""
    space = _named(rest, namespace)
    found: dict[str, Any] = {}
    for batch in _batches(Source(file), _GET_KEYS_MAX):
        wanted = {"keys": [_name_of(item) for item in batch], "type": "text", "withMetadata": with_metadata}
        found |= rest.ask_json("POST", f"{space.v4}/bulk/get", wanted)["values"]
    print_json(found)


@bulk.command(
    epilog="""\b
Examples:
  kvd bulk delete -n shop keys.json --yes

\b
FILE is a JSON array or JSON lines of keys: "a", or {"name": "a"} as `kvd key list --json` gives them.
"""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-y", "--yes", "is_sure", is_flag=True, help="Do not ask. Needed when FILE is the standard input."
)
@start_option
@in_namespace
@asks_rest
def delete(rest: Rest, file: str, is_sure: bool, start: int, namespace: str, as_json: bool) -> None:
    """Delete the keys that FILE names."""
    space = rest.find_space(namespace)
    if file == "-" and not is_sure:
        raise click.UsageError("with the standard input, --yes is needed")
    confirm(f"Delete the keys in {file} from {space.title!r}?", is_sure=is_sure)
    with click.open_file(file, "rb") as opened:
        count = _delete_all(rest, space, Source(cast(BinaryIO, opened)), start)
    _report(count, "deleted", as_json)


def _delete_all(rest: Rest, space: Space, source: Source, start: int) -> int:
    """Delete what a source names; return how many keys that are."""
    bar = Progress("keys", source.total)
    done = start
    with resumable(lambda: done, start):
        for batch in _batches((item for item in source if item.number > start), BATCH_ENTRIES):
            _delete(rest, space, batch)
            done = batch[-1].number
            bar.show(batch[-1].position, done - start)
    bar.clear()
    return done - start


def _delete(rest: Rest, space: Space, batch: list[Item]) -> None:
    together: list[tuple[Item, bytes]] = []
    for item in batch:
        name = _name_of(item)
        key = name.encode("utf-8", "replace")
        if space.is_database or goes_alone(key):
            rest.ask("DELETE", value_path(space, key))
        else:
            text = json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass")
            together.append((item, text))
    if not together:
        return
    try:
        rest.bulk(space, "POST", "bulk/delete", [text for _, text in together])
    except Refused as refused:
        raise numbered(refused, [item for item, _ in together]) from None


def _batches(items: Any, size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _name_of(item: Item) -> str:
    content = item.content
    name = content.get("name", content.get("key")) if isinstance(content, dict) else content
    if not isinstance(name, str):
        raise wrong_entry(item, "it is no key")
    return name


def _named(rest: Rest, namespace: str) -> Space:
    space = rest.find_space(namespace)
    if space.is_database:
        raise Refused(400, "this works on namespaces; for a numbered database, see `kvd export`")
    return space
