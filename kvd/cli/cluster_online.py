"""`kvd cluster` verbs that ask a running daemon, and `reseed`, which works on a data directory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kvd.cli.client import DEFAULT_URL, CommandFailed, connect
from kvd.cli.errors import EXIT_FAILED, describe
from kvd.cli.options import encryption_key_option, json_option, load_keys
from storage.errors import StorageError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_ID_DIGITS: Final = 8
_VERIFY_SECONDS: Final = 600.0
_LEAVE_SECONDS: Final = 60.0


def _asks(function: FunctionT) -> FunctionT:
    """Add --url and --json."""
    return click.option(
        "--url",
        envvar="KVD_URL",
        default=DEFAULT_URL,
        show_default=True,
        metavar="URL",
        help="The daemon to ask: redis://[user:password@]host:port, rediss:// or unix:///path. Also from KVD_URL.",
    )(json_option(function))


def _ask(url: str, *arguments: str, seconds: float = 30.0) -> Any:
    """Return the daemon's answer; print what went wrong and exit otherwise."""
    try:
        with connect(url) as client:
            return _plain(client.ask(*arguments, seconds=seconds))
    except CommandFailed as error:
        click.echo(f"kvd: {error}", err=True)
        sys.exit(EXIT_FAILED)


def _plain(reply: Any) -> Any:
    """Return a reply with texts for bytes: nothing in these answers is anything else."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if isinstance(reply, dict):
        return {_plain(key): _plain(value) for key, value in reply.items()}
    if isinstance(reply, list):
        return [_plain(item) for item in reply]
    return reply


def _print_json(answer: Any) -> None:
    click.echo(json.dumps(answer, indent=2))


# ---------------------------------------------------------------- looking


@click.command()
@_asks
def members(url: str, as_json: bool) -> None:
    """List the members of the cluster, as one of them sees them."""
    answer = _ask(url, "KV.MEMBERS")
    if as_json:
        _print_json(answer)
    elif answer:
        _print_members(answer)
    else:
        click.echo("a single node, without peers")


_COLUMNS: Final = ("id", "state", "link", "address", "zone", "rtt", "clock", "lag", "queue", "remarks")


def _print_members(rows: list[dict[str, Any]]) -> None:
    lines = [_COLUMNS, *(_line(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    remarks = [
        text
        for text, holds in (
            ("this node", row["self"]),
            ("slow: gets no pushes until it has caught up", row["behind"]),
            ("garbage collection waits for it", row["blocks_gc"]),
            (f"carries {_numbers(row['groups'])}", row["groups"]),
        )
        if holds
    ]
    return (
        row["id"][:_ID_DIGITS],
        row["state"],
        "-" if row["self"] else ("up" if row["linked"] else "down"),
        row["addresses"][0] if row["addresses"] else "-",
        row["zone"] or "-",
        "-" if row["rtt_us"] is None else f"{row['rtt_us'] / 1000:.1f} ms",
        "-" if row["clock_offset_ms"] is None else f"{row['clock_offset_ms']:+d} ms",
        "-" if row["self"] else _lag(row),
        "-" if row["self"] else _size(row["queue_bytes"]),
        ", ".join(remarks),
    )


def _numbers(groups: list[int]) -> str:
    """Return some groups in words."""
    return f"group{'s' if len(groups) > 1 else ''} {', '.join(map(str, groups))}"


def _lag(row: dict[str, Any]) -> str:
    return f"{row['lag_dots']} writes, {row['lag_ms'] / 1000:.1f} s" if row["lag_dots"] else "none"


def _size(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.0f} KiB"


@click.command()
@_asks
def status(url: str, as_json: bool) -> None:
    """Show how a node stands in its cluster: joining and how far, ready, and what hinders it."""
    answer = _ask(url, "KV.CLUSTER", "STATUS")
    if as_json:
        _print_json(answer)
        return
    click.echo(f"cluster    {answer['cluster']}")
    click.echo(f"node       {answer['node']}")
    click.echo(f"standing   {answer['standing']}{_progress(answer['bootstrap'])}")
    if answer["standing"] == "joining" and not any(row["linked"] for row in answer["members"]):
        click.echo("links      none yet: see peers.join, the credential, and the log of this node")
    click.echo(
        f"writes     {'accepted' if answer['writable'] else answer['refusal'] or 'refused by the store'}"
    )
    click.echo(f"clock      {_clock(answer)}")
    click.echo(
        f"conflicts  {answer['conflicts']} since the start, {answer['divergences']} divergences mended"
    )
    waits = ", ".join(node[:_ID_DIGITS] for node in answer["gc_blocked_by"])
    click.echo(f"deletions  {f'kept until {waits} answer' if waits else 'collected'}")
    if answer["held_origins"]:
        click.echo(
            f"held       {answer['held_origins']} origins whose stamps are far ahead: they go on by themselves, or set "
            "that node's clock and void them with `kvd cluster cut`"
        )
    for one in answer["catching_up"]:
        where = f", group {one['group']}" if one["group"] else ""
        click.echo(f"catches up from {one['from'][:_ID_DIGITS]}{where}{_progress(one, 'of what was missed')}")
    for group in answer["groups"]:
        click.echo(f"group {group['group']:<5}{_group(group)}")
    click.echo()
    _print_members(answer["members"])


def _group(group: dict[str, Any]) -> str:
    waits = ", ".join(node[:_ID_DIGITS] for node in group["gc_blocked_by"])
    deletions = f", deletions kept until {waits} answer" if waits else ""
    return (
        f"{group['standing']}{_progress(group['bootstrap'])}, {group['members']} other members carry it, "
        f"{group['linked']} linked{deletions}"
    )


def _progress(bootstrap: dict[str, Any] | None, what: str = "of the records copied") -> str:
    if bootstrap is None:
        return ""
    megabytes = bootstrap["bytes"] / 1e6
    seconds = (bootstrap["elapsed_ms"] or 0) / 1000
    rate = f", {megabytes / seconds:.0f} MB/s" if seconds > 1 else ""
    eta = "" if bootstrap["eta_ms"] is None else f", about {bootstrap['eta_ms'] / 1000:.0f} s to go"
    return f", {bootstrap['percent']:.1f} % {what} ({megabytes:.0f} MB{rate}{eta})"


def _clock(answer: dict[str, Any]) -> str:
    if answer["clock_offset_ms"] is None:
        return "compared with fewer than two others"
    where = f"{answer['clock_offset_ms']:+d} ms from the others"
    return where if answer["clock_ok"] else f"wrong: {where}"


# ---------------------------------------------------------------- changing


@click.command()
@_asks
@click.confirmation_option("--yes", prompt="The node leaves for good and stops. Go on?")
def leave(url: str, as_json: bool) -> None:
    """Let a node leave its cluster for good, and stop it.

    It waits until another member has everything that was written on it. To come back it needs an empty
    data directory.
    """
    handed_over = bool(_ask(url, "KV.CLUSTER", "LEAVE", seconds=_LEAVE_SECONDS))
    if as_json:
        _print_json({"left": True, "handed_over": handed_over})
    elif handed_over:
        click.echo("left; another member has all that was written here")
    else:
        click.echo(
            "left, but nobody has confirmed all that was written here: keep the data directory", err=True
        )
    sys.exit(0 if handed_over else EXIT_FAILED)


@click.command()
@click.argument("node")
@_asks
@click.confirmation_option("--yes", prompt="A removed node cannot come back with its data. Go on?")
def remove(url: str, node: str, as_json: bool) -> None:
    """Remove a member that will not come back. NODE is its id, or the first digits of it."""
    _ask(url, "KV.CLUSTER", "REMOVE", node)
    if as_json:
        _print_json({"removed": node})
    else:
        click.echo("removed; whatever it holds that no other member has is lost to the cluster")


@click.command()
@_asks
@click.confirmation_option(
    "--yes", prompt="What waits here is void for ever. Is that node's clock right again?"
)
def cut(url: str, as_json: bool) -> None:
    """Void what a node wrote while its clock was far ahead, and what most members hold back.

    Ask a node that holds it (`kvd cluster status` tells). The node that wrote it keeps the values as dead letters,
    catches up with the others, and writes the values anew with its clock as it is then.
    """
    rows = _ask(url, "KV.CLUSTER", "CUT")
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        click.echo(f"origin {row['origin'][:_ID_DIGITS]} counts up to its write {row['upto']}")
    if not rows:
        click.echo(_why_nothing_is_cut(_ask(url, "KV.CLUSTER", "STATUS")), err=True)
        sys.exit(EXIT_FAILED)


def _why_nothing_is_cut(status: dict[str, Any]) -> str:
    if status["held_origins"]:
        return (
            "nothing is void: what this node holds back is not held by a majority of the members, as far as it knows. "
            "Try again when more of them are linked"
        )
    return (
        "nothing is void: this node holds nothing back. Ask one that does: "
        "`kvd cluster status --url URL` has a line `held` there"
    )


@click.command()
@click.argument("node", required=False)
@_asks
def verify(url: str, node: str | None, as_json: bool) -> None:
    """Compare all records of a node that its peers carry too with theirs, or with those of the one called NODE.

    Exit codes: 0 all equal, 1 differences were found (and mended), or one could not be compared.
    """
    rows = _ask(url, "KV.CLUSTER", "VERIFY", *([node] if node else []), seconds=_VERIFY_SECONDS)
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            others = [group for group in row["groups"] if group]
            where = f", with {_numbers(others)}" if others else ""
            click.echo(f"{row['id'][:_ID_DIGITS]}  {_outcome(row)}{where}")
        if not rows:
            click.echo("no peer is linked", err=True)
    sys.exit(0 if rows and all(row["equal"] == 1 for row in rows) else EXIT_FAILED)


def _outcome(row: dict[str, Any]) -> str:
    if row["equal"] is None:
        return "not compared: the two never had the same writes at the same moment; try again under less load"
    if row["equal"]:
        return "equal"
    return f"{row['differences']} differences found and mended; see the log, and the disks"


# ---------------------------------------------------------------- offline


@click.command(
    epilog="""\b
Restoring a whole cluster from one copy:
  kvd cluster init --help                       make a credential, and with it a new cluster
  kvd cluster reseed --data-dir /var/lib/kvd    on one node, with the copy in place
  kvd serve --peer-port 7379 ...                start it without --join
  kvd serve --peer-port 7379 --join ...         start the others with empty data directories
"""
)
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Directory of the database; no daemon may use it.",
)
@encryption_key_option
@json_option
def reseed(data_dir: Path, encryption_key_file: Path | None, as_json: bool) -> None:
    """Make a data directory the first of a new cluster, with all its records.

    It forgets to which cluster it belonged and who was in it, and gets a new node id. For a restored backup that
    is to be the truth everywhere: members that still have newer data are then in another cluster.
    """
    # Imported here: `kvd --help` should not have to load the database.
    from kvd.peering.reseed import reseed as reseed_data  # noqa: PLC0415

    try:
        records = reseed_data(data_dir, load_keys(encryption_key_file))
    except (StorageError, OSError) as error:
        click.echo(f"kvd: {describe(error)}", err=True)
        sys.exit(EXIT_FAILED)
    if as_json:
        _print_json({"reseeded": str(data_dir), "records_deleted": records})
        return
    click.echo(f"{records} records about the old cluster's members deleted; start this node without --join")


def add_to(group: click.Group) -> None:
    """Give the group `kvd cluster` the verbs of this module."""
    for command in (members, status, leave, remove, cut, verify, reseed):
        group.add_command(command)
