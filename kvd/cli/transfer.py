"""`kvd export` and `kvd import`: namespaces as JSON lines or CBOR, with metadata and expiry; strings from a Redis.

    {"namespace":{"id":"…","title":"shop"}}                       what follows belongs to it
    {"key":"a","value":"text","expiration":2000000000,"metadata":{…}}
    {"complete":true,"count":1}                                   its end; a file without it broke off

The lines between are the daemon's own (`/kvd/v1/namespaces/{id}/export`), and entries of a bulk put. As CBOR, each
line becomes a data item of a sequence (`cbor_sequence`).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import click

from kvd.cli import cbor_sequence
from kvd.cli.bulk import resumable, start_option
from kvd.cli.client import CommandFailed, connect
from kvd.cli.entries import Item, Source, Writer, name_of, wrong_entry
from kvd.cli.entry_text import key_as_text, value_as_text
from kvd.cli.progress import Progress
from kvd.cli.redis_source import NAMES_MAX, RedisSource, RedisString
from kvd.cli.rest import Rest, Space
from kvd.cli.rest_options import asks_rest, print_json

_COMPLETE: Final = b'{"complete":true'
_NAMES_SHOWN: Final = 5
# What becomes of a line of the daemon's.
_ENCODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "jsonl": lambda line: line,
    "cbor": cbor_sequence.from_line,
}

_namespace = click.option(
    *("-n", "--namespace", "--namespace-id"),
    "namespace",
    envvar="KVD_NAMESPACE",
    metavar="NAME",
    help="Title or id of a namespace, or db0, db1 … for a numbered database. Also from KVD_NAMESPACE.",
)


# ---------------------------------------------------------------- export


@click.command(
    epilog="""\b
Examples:
  kvd export -n shop shop.jsonl
  kvd export --all | zstd > everything.jsonl.zst
  kvd export -n shop --prefix cart: -
  kvd export -n pictures pictures.cbor              a CBOR sequence: values as they are, not in base64

\b
Not a snapshot: each key is as it is when its turn comes. For that, and for Redis' other features, there is
the backup of the database.
"""
)
@click.argument("file", default="-", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@_namespace
@click.option("--all", "is_all", is_flag=True, help="Every namespace, and every numbered database with keys.")
@click.option("--prefix", default="", metavar="TEXT", help="Only keys that begin so.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "cbor"]),
    help="JSON lines, or a CBOR sequence. Without it, cbor if FILE is called so.",
)
@asks_rest
def export(
    rest: Rest,
    file: Path,
    namespace: str | None,
    is_all: bool,
    prefix: str,
    form: str | None,
    as_json: bool,
) -> None:
    """Write keys with values, metadata and expiry to FILE, or to the standard output."""
    encode = _ENCODERS[form or ("cbor" if file.suffix in cbor_sequence.SUFFIXES else "jsonl")]
    if is_all == (namespace is not None):
        raise click.UsageError("give either --namespace or --all")
    spaces = _all_carried(rest) if namespace is None else [rest.find_space(namespace)]
    with _output(file) as out:
        counts = {space.title: _export(rest, space, prefix, out, encode) for space in spaces}
    if str(file) == "-":
        return
    if as_json:
        print_json({"exported": counts})
    else:
        click.echo(f"{sum(counts.values()):,} keys of {len(counts)} namespaces are in {file}")


def _all_carried(rest: Rest) -> list[Space]:
    """Return all namespaces whose keys this node has, and name the others: they have to be asked for elsewhere."""
    spaces = rest.spaces()
    elsewhere = ", ".join(repr(space.title) for space in spaces if not space.is_carried)
    if elsewhere:
        click.echo(f"left out, as this node does not carry their groups: {elsewhere}", err=True)
    return [space for space in spaces if space.is_carried]


@contextlib.contextmanager
def _output(file: Path) -> Iterator[BinaryIO]:
    """Open a file that has its name only when it is whole."""
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as out:
            yield out
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _export(rest: Rest, space: Space, prefix: str, out: BinaryIO, encode: Callable[[bytes], bytes]) -> int:
    """Write a namespace; return the number of its keys."""
    head = {"namespace": {"id": space.id, "title": space.title}}
    out.write(encode(json.dumps(head, ensure_ascii=False).encode() + b"\n"))
    bar = Progress(f"keys of {space.title}", 0)
    count = 0
    for line in rest.lines(f"/kvd/v1/namespaces/{space.id}/export", query={"prefix": prefix or None}):
        out.write(encode(line))
        if line.startswith(_COMPLETE):
            bar.clear()
            return count
        count += 1
        bar.show(0, count)
    raise CommandFailed(f"the export of {space.title!r} broke off after {count:,} keys")


# ---------------------------------------------------------------- import


@click.command(
    name="import",
    epilog="""\b
Examples:
  kvd import shop.jsonl                             into the namespaces that the file names
  kvd import -n copy shop.jsonl                     all into one
  kvd import -n shop --from redis://10.0.0.5:6379/0 the strings of a running Redis
  kvd import -n shop --from redis://10.0.0.5:6379/0 --cursor 1536     go on where a run broke off

\b
A password for Redis is better given in a variable: --from "$REDIS_URL".
""",
)
@click.argument("file", required=False, type=click.File("rb"))
@_namespace
@click.option(
    "--from",
    "source_url",
    metavar="URL",
    help="Take strings from a Redis: redis://[user:password@]host:port/db.",
)
@click.option(
    "--min-ttl",
    default=60,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Leave out what expires within so long: the daemon takes nothing shorter than its http.min_ttl_seconds.",
)
@start_option
@click.option(
    "--cursor",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="With --from: go on with this cursor of SCAN, which a run that broke off has told.",
)
@asks_rest
def import_(
    rest: Rest,
    file: BinaryIO | None,
    namespace: str | None,
    source_url: str | None,
    min_ttl: int,
    start: int,
    cursor: int,
    as_json: bool,
) -> None:
    """Read what `kvd export` has written, or any entries of a bulk put; or strings from a Redis.

    Namespaces that the file names are made if they are missing; that of --namespace has to be there. Doing it
    twice does no harm.
    """
    if (file is None) == (source_url is None):
        raise click.UsageError("give either a FILE or --from URL")
    if source_url is not None:
        if namespace is None:
            raise click.UsageError("--from needs --namespace, where the keys go")
        if start:
            raise click.UsageError("--start is for files; an import from Redis goes on with --cursor")
        refusals = _Refusals()
        taker = _Taker(rest, namespace, min_ttl, Writer(rest, refusals.note))
        others, names = _import_redis(taker, source_url, cursor)
        _report(taker, refusals, others, names, as_json)
    elif file is not None:
        if cursor:
            raise click.UsageError(
                "--cursor is for an import from Redis; one from a file goes on with --start"
            )
        taker = _Taker(rest, namespace, min_ttl, Writer(rest))
        _import_file(taker, file, start)
        _report(taker, _Refusals(), {}, [], as_json)


class _Taker:
    """Takes entries and headers, and leaves out what has expired."""

    def __init__(self, rest: Rest, namespace: str | None, min_ttl: int, writer: Writer) -> None:
        self._rest = rest
        self.min_ttl = min_ttl
        self._is_fixed = namespace is not None
        self._has_space = False
        self.writer = writer
        self.expired_count = 0
        self.is_complete = True
        if namespace is not None:
            self._into(rest.find_space(namespace))

    def _into(self, space: Space) -> None:
        self.writer.into(space)
        self._has_space = True

    def take(self, item: Item, *, is_skipped: bool = False) -> None:
        """Take a line. Of those that are skipped, only what says where the next belong."""
        content = item.content
        if isinstance(content, dict) and "namespace" in content and "value" not in content:
            self.is_complete = False
            if not self._is_fixed:
                self._into(self._space_of(item))
        elif isinstance(content, dict) and content.get("complete") is True:
            self.is_complete = True
        elif not is_skipped:
            self._take_entry(item)

    def _take_entry(self, item: Item) -> None:
        if not self._has_space:
            raise wrong_entry(item, "no line before it names a namespace; give --namespace")
        expiration = item.content.get("expiration") if isinstance(item.content, dict) else None
        if isinstance(expiration, int) and expiration < time.time() + self.min_ttl:
            self.expired_count += 1
            return
        self.writer.add(item)

    def _space_of(self, item: Item) -> Space:
        named = item.content["namespace"]
        if not isinstance(named, dict) or not isinstance(named.get("title"), str):
            raise wrong_entry(item, "its namespace has no title")
        name = str(named.get("id", ""))
        if name.startswith("db") and name[2:].isdecimal():
            return self._rest.find_space(name)
        title = named["title"]
        known = {space.title: space for space in self._rest.spaces() if not space.is_database}
        return known.get(title) or self._rest.create_space(title)


class _Refusals:
    """Counts entries that the daemon does not take, and keeps the first: a Redis has keys that nobody can copy."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[str, str]] = []  # key and reason

    def note(self, item: Item, reason: str) -> None:
        self.count += 1
        if len(self.first) < NAMES_MAX:
            self.first.append((name_of(item) or "", reason))


def _import_file(taker: _Taker, file: BinaryIO, start: int) -> None:
    source = Source(file)
    bar = Progress("keys", source.total)
    with resumable(lambda: taker.writer.done, start):
        for item in source:
            taker.take(item, is_skipped=item.number <= start)
            bar.show(item.position, taker.writer.count)
        taker.writer.flush()
        if not taker.is_complete:
            raise CommandFailed("the file ends in the middle of a namespace: its export broke off")
    bar.clear()


def _import_redis(taker: _Taker, url: str, cursor: int) -> tuple[dict[str, int], list[str]]:
    """Copy the strings; return what was left out, by type, and some names of it."""
    path = urlsplit(url).path.strip("/")
    if not (path.isdecimal() or not path):
        raise CommandFailed(f"{path!r} is no number of a database; write redis://host:port/0")
    with connect(url, resp3=False) as client:
        source = RedisSource(client, int(path or 0), cursor)
        bar = Progress("keys", source.total)
        with _resumable_walk(source, taker.writer):
            for number, found in enumerate(source, 1):
                taker.take(Item(number, number, _entry(found)))
                source.forget(taker.writer.done)
                bar.show(number, taker.writer.count)
            taker.writer.flush()
        bar.clear()
    return source.others, source.names


@contextlib.contextmanager
def _resumable_walk(source: RedisSource, writer: Writer) -> Iterator[None]:
    """Say how to go on when what is inside breaks off."""
    try:
        yield
    except (CommandFailed, KeyboardInterrupt) as error:
        text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        source.forget(writer.done)
        cursor = source.safe_cursor
        mend = f"\n  {writer.count:,} keys are imported; go on with --cursor {cursor}" if cursor else ""
        raise CommandFailed(f"{text}{mend}") from None


def _entry(found: RedisString) -> dict[str, Any]:
    entry = key_as_text(found.key) | value_as_text(found.value)
    if found.expires_at_ms is not None:
        entry["expiration"] = -(-found.expires_at_ms // 1000)
    return entry


def _report(
    taker: _Taker, refusals: _Refusals, others: dict[str, int], names: list[str], as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "imported": taker.writer.count,
                "expired": taker.expired_count,
                "refused": refusals.count,
                "refusals": [{"key": key, "reason": reason} for key, reason in refusals.first],
                "left_out": others,
                "names": names,
            }
        )
        return
    click.echo(f"{taker.writer.count:,} keys imported")
    if taker.expired_count:
        click.echo(
            f"{taker.expired_count:,} left out: they live no longer than {taker.min_ttl} s (--min-ttl)"
        )
    if refusals.count:
        shown = "; ".join(f"{key!r}: {reason}" for key, reason in refusals.first[:_NAMES_SHOWN])
        more = "; …" if refusals.count > _NAMES_SHOWN else ""
        click.echo(f"{refusals.count:,} left out: they cannot be kept here ({shown}{more})")
    if others:
        kinds = ", ".join(f"{count:,} of type {kind}" for kind, count in sorted(others.items()))
        shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN])
        more = ", …" if sum(others.values()) > min(len(names), _NAMES_SHOWN, NAMES_MAX) else ""
        click.echo(f"left out, as they are no strings: {kinds} ({shown}{more})")
