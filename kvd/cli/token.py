"""`kvd token`: make, list and revoke API tokens, of a running daemon or of its database while it is down."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kvd.cli.client import CommandFailed
from kvd.cli.errors import EXIT_FAILED, describe, fail
from kvd.cli.options import encryption_key_option, load_keys
from kvd.cli.rest_options import client_options, open_rest, print_stored
from kvd.cli.verbs import Verbs
from storage.errors import StorageError

if TYPE_CHECKING:
    from storage.store import Store

Result = TypeVar("Result")

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RIGHTS: Final = ("read", "write", "admin")


class _Lifetime(click.ParamType[int]):
    name = "lifetime"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no lifetime; write 90d, 12h, 30m or 600s", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Work on this database instead, which no daemon uses: for when every admin token is lost.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Verbs)
def token() -> None:
    """Make, list and revoke API tokens for HTTP.

    As long as there is none, HTTP answers clients on its own machine only, and these may do everything.
    """


@token.command(
    epilog="""\b
Examples:
  kvd token create --name ops --right admin > ops.token
  kvd token create --name site --right read --namespace 0f2ac74b498b48028cb68387c421e279
  kvd token create --name ci --right write --expires 90d --token-file ops.token
"""
)
@client_options
@_data_dir
@encryption_key_option
@_as_json
@click.option("--name", default="", metavar="TEXT", help="What it is for; shown in lists and the log.")
@click.option(
    "--right", type=click.Choice(_RIGHTS), default="read", show_default=True, help="What it may do."
)
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="NS", help="Only there; may be given many times."
)
@click.option("--expires", type=_Lifetime(), metavar="TIME", help="How long it is good for: 90d, 12h, 30m.")
def create(
    url: str,
    token_file: Path | None,
    data_dir: Path | None,
    encryption_key_file: Path | None,
    as_json: bool,
    name: str,
    right: str,
    namespaces: tuple[str, ...],
    expires: int | None,
) -> None:
    """Make a token and print it. It cannot be shown again."""
    if data_dir is None:
        body = {
            "name": name,
            "right": right,
            "namespaces": list(namespaces) or None,
            "expires_in_seconds": expires,
        }
        made = _ask(url, token_file, "POST", "/api/tokens", body)
    else:
        made = _offline(
            data_dir, encryption_key_file, lambda store: _make(store, name, right, namespaces, expires)
        )
    click.echo(json.dumps(made) if as_json else made["token"])


@token.command("list")
@client_options
@_data_dir
@encryption_key_option
@_as_json
def list_(
    url: str,
    token_file: Path | None,
    data_dir: Path | None,
    encryption_key_file: Path | None,
    as_json: bool,
) -> None:
    """List the tokens; their secrets are not kept anywhere."""
    found = (
        _ask(url, token_file, "GET", "/api/tokens")
        if data_dir is None
        else _offline(data_dir, encryption_key_file, _list)
    )
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        where = ", ".join(one["namespaces"]) if one["namespaces"] is not None else "all namespaces"
        print_stored(
            f"{one['id']}  {one['right']:5}  {_expiry(one['expires_ms']):20}  {one['name'] or '-'}  ({where})"
        )


@token.command()
@client_options
@_data_dir
@encryption_key_option
@click.argument("token_id", metavar="ID")
def revoke(
    url: str,
    token_file: Path | None,
    data_dir: Path | None,
    encryption_key_file: Path | None,
    token_id: str,
) -> None:
    """End a token at once, by its ID: the digits after "kvd_"."""
    if not re.fullmatch(r"[0-9a-f]{12}", token_id):
        raise click.BadParameter("an ID is 12 hexadecimal digits; see kvd token list", param_hint="ID")
    if data_dir is None:
        _ask(url, token_file, "DELETE", f"/api/tokens/{token_id}")
    elif not _offline(data_dir, encryption_key_file, lambda store: _tokens(store).revoke(token_id)):
        _give_up("there is no such token")
    click.echo(f"revoked {token_id}")


def _ask(url: str, token_file: Path | None, method: str, path: str, body: Any = None) -> Any:
    """Return the daemon's answer; print what went wrong and exit otherwise."""
    try:
        with contextlib.closing(open_rest(url, token_file)) as rest:
            return rest.ask_json(method, path, body)
    except (CommandFailed, OSError) as error:
        _give_up(describe(error))


def _give_up(text: str) -> Any:
    click.echo(f"kvd: {text}", err=True)
    sys.exit(EXIT_FAILED)


def _expiry(expires_ms: int | None) -> str:
    if expires_ms is None:
        return "does not expire"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(expires_ms / 1000))


# --- a database without a daemon


def _offline(data_dir: Path, key_file: Path | None, work: Callable[[Store], Result]) -> Result:
    """Run `work` on the database, and commit what it wrote."""
    # Imported here: the other verbs need no database.
    from storage.store import Store, StoreOptions  # noqa: PLC0415

    try:
        store = Store.open(data_dir, StoreOptions(keyring=load_keys(key_file)))
        try:
            result = work(store)
            store.commit()
            store.sync()
            return result
        finally:
            store.close()
    except (StorageError, OSError) as error:
        fail(error)


def _tokens(store: Store) -> Any:
    from kvd.web.tokens import Tokens  # noqa: PLC0415 -- see above

    return Tokens(store)


def _make(
    store: Store, name: str, right: str, namespaces: tuple[str, ...], expires: int | None
) -> dict[str, Any]:
    from kvd.web.api_tokens import describe  # noqa: PLC0415 -- see above

    found = [store.keyspaces.find(each) for each in namespaces]
    if None in found:
        _give_up(f"there is no namespace {namespaces[found.index(None)]!r}")
    ids = frozenset(keyspace.id for keyspace in found if keyspace is not None) if namespaces else None
    expires_ms = None if expires is None else store.now_ms + expires * 1000
    made, text = _tokens(store).create(name, _RIGHTS.index(right), ids, expires_ms)
    return {**describe(made), "token": text}


def _list(store: Store) -> list[dict[str, Any]]:
    from kvd.web.api_tokens import describe  # noqa: PLC0415 -- see above

    return [describe(one) for one in _tokens(store).list()]
