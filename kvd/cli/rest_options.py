"""The flags of verbs that ask a daemon over HTTP, and how these verbs fail."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kvd.cli.client import CommandFailed
from kvd.cli.errors import EXIT_FAILED, describe
from kvd.cli.rest import Rest

# Those of ASCII and of Latin-1, which some terminals obey as well.
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DEFAULT_URL: Final = "http://127.0.0.1:8379"

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def client_options(function: FunctionT) -> FunctionT:
    """Add --url and --token-file; a token on the command line could be seen by others."""
    function = click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        help="File with an API token; KVD_TOKEN holds one as well.",
    )(function)
    return click.option(
        "--url",
        envvar="KVD_HTTP_URL",
        default=_DEFAULT_URL,
        show_default=True,
        metavar="URL",
        help="HTTP address of the daemon: http://[user:password@]host:port. Also from KVD_HTTP_URL.",
    )(function)


def open_rest(url: str, token_file: Path | None) -> Rest:
    """Return a client with the token that was given."""
    token = os.environ.get("KVD_TOKEN", "") if token_file is None else token_file.read_text()
    return Rest(url, token.strip())


def asks_rest(function: Callable[..., None]) -> Callable[..., None]:
    """Add --url, --token-file and --json; the function gets a `Rest` first, and `as_json`."""

    @functools.wraps(function)
    def run(url: str, token_file: Path | None, **arguments: Any) -> None:
        try:
            with contextlib.closing(open_rest(url, token_file)) as rest:
                function(rest, **arguments)
        except (CommandFailed, OSError) as error:
            click.echo(f"kvd: {describe(error)}", err=True)
            sys.exit(EXIT_FAILED)

    return client_options(
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(run)
    )


def in_namespace(function: FunctionT) -> FunctionT:
    """Add --namespace, which must be given."""
    return click.option(
        *("-n", "--namespace", "--namespace-id"),
        "namespace",
        required=True,
        envvar="KVD_NAMESPACE",
        metavar="NAME",
        help="Title or id of the namespace, or db0, db1 … for a numbered database. Also from KVD_NAMESPACE.",
    )(function)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_stored(line: str) -> None:
    """Print a line with what clients have stored. On a terminal it cannot act: control characters are shown escaped."""
    # With `color`, which makes none: programs get the line as it is, without it click takes out what looks like colours.
    click.echo(_CONTROLS.sub(_escaped, line) if _is_terminal() else line, color=True)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _escaped(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask before what cannot be undone. Ends the program if the answer is no."""
    if not is_sure:
        click.confirm(question, abort=True, err=True)
