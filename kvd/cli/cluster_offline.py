"""`kvd cluster init` and `kvd cluster token`: the credentials by which nodes know each other.

Neither talks to a daemon. A cluster begins with its credential, and whoever is given one can join it.

    mode     made by init                        for one more node, by token
    secret   FILE: one line, the same everywhere  that line
    mtls     DIR/ca.key, DIR/ca.pem, DIR/NAME.pem  DIR/NAME.pem, a key and certificates of its own

Nothing is ever overwritten, and every file can be read by its owner alone.
"""

from __future__ import annotations

import datetime as dt
import json
import platform
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kvd.cli.errors import EXIT_FAILED, describe
from kvd.cli.options import json_option

if TYPE_CHECKING:
    from replication.certificates import Bundle, Issuer

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_CA_KEY: Final = "ca.key"
_CA_CERTIFICATE: Final = "ca.pem"
_NODE_DAYS: Final = 730


def _days_option(function: FunctionT) -> FunctionT:
    return click.option(
        "--days",
        type=click.IntRange(1, 20 * 365),
        default=_NODE_DAYS,
        show_default=True,
        help="With certificates: for how long the node's is valid.",
    )(function)


@click.command(
    epilog="""\b
A cluster with a shared secret, the simple way:
  kvd cluster init /etc/kvd/cluster.secret
  kvd serve --peer-port 7379 --cluster-secret-file /etc/kvd/cluster.secret
  (copy the file to the second machine, then there)
  kvd serve --peer-port 7379 --cluster-secret-file /etc/kvd/cluster.secret --join first:7379

\b
A cluster with certificates, where each node can be told from the others:
  kvd cluster init --mtls ./authority --node node-1
  kvd serve --peer-port 7379 --peer-cert ./authority/node-1.pem
  kvd cluster token --ca ./authority --node node-2
"""
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--mtls",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Make an authority for certificates in this directory, and the first node's certificate.",
)
@click.option(
    "--node", metavar="NAME", help="With --mtls: name of the first node.  [default: the host's name]"
)
@_days_option
@json_option
def init(file: Path | None, directory: Path | None, node: str | None, days: int, as_json: bool) -> None:
    """Make the credential of a new cluster: a secret in FILE, or certificates with --mtls.

    Nothing else makes a cluster: the first node is started with the credential and without --join.
    """
    if (file is None) == (directory is None):
        raise click.UsageError("give either a FILE for a shared secret, or --mtls DIR for certificates")
    with _failing_clearly():
        if directory is not None:
            _init_certificates(directory, node or _host_name(), days, as_json=as_json)
        elif file is not None:
            if node is not None:
                raise click.UsageError("--node is for certificates; a shared secret names no node")
            _init_secret(file, as_json=as_json)


def _init_secret(file: Path, *, as_json: bool) -> None:
    from replication.proofs import load_secrets, new_secret_line, write_new  # noqa: PLC0415 -- only needed here

    write_new(file, f"{new_secret_line()}\n".encode())
    _tell(
        as_json,
        {"mode": "secret", "cluster": load_secrets(file).cluster.hex(), "file": str(file)},
        f"made {file}, the secret of a new cluster; every node needs a copy that others cannot read",
        f"start the first node:  kvd serve --peer-port 7379 --cluster-secret-file {file}",
        "start further ones:    the same, with --join FIRST-NODE:7379",
    )


def _tell(as_json: bool, facts: dict[str, str | None], *lines: str) -> None:
    """Print what was made: for programs, or in words."""
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines))


def _init_certificates(directory: Path, name: str, days: int, *, as_json: bool) -> None:
    from replication.certificates import check_name, new_issuer  # noqa: PLC0415 -- only needed here
    from replication.proofs import CLUSTER_ID_BYTES, write_new  # noqa: PLC0415

    check_name(name)
    issuer = new_issuer(secrets.token_bytes(CLUSTER_ID_BYTES), now=dt.datetime.now(dt.UTC))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_new(directory / _CA_KEY, issuer.own.key_pem)
    write_new(directory / _CA_CERTIFICATE, issuer.own.certificate_pem)
    bundle = _issue(issuer, name, None, days)
    file = directory / f"{name}.pem"
    write_new(file, bundle.to_pem())
    _tell(
        as_json,
        {**_facts(bundle, file), "authority_key": str(directory / _CA_KEY)},
        f"made {directory / _CA_KEY}, which can make members: keep it away from the nodes",
        f"made {file}, for the node {name}, valid until {_until(bundle)}",
        f"start the first node:  kvd serve --peer-port 7379 --peer-cert {file}",
        f"for each further one:  kvd cluster token --ca {directory} --node NAME",
    )


def _facts(bundle: Bundle, file: Path) -> dict[str, str | None]:
    """Return what there is to say about a node's certificate, but for its key."""
    return {
        "mode": "mtls",
        "cluster": bundle.cluster.hex(),
        "node": bundle.name,
        "node_id": None if bundle.node is None else bundle.node.hex(),
        "file": str(file),
        "valid_until": _until(bundle),
    }


@click.command(
    epilog="""\b
Examples:
  kvd cluster token --secret-file /etc/kvd/cluster.secret
  kvd cluster token --ca ./authority --node node-2
  kvd cluster token --ca ./authority --node node-2 --output new.pem    renew: move it over the old file

\b
A running node takes a changed file by itself.
"""
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Print the line that the new node's secret file needs.",
)
@click.option(
    "--ca",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Make a certificate with the authority in this directory.",
)
@click.option("--node", metavar="NAME", help="With --ca: name of the new node.")
@click.option(
    "--node-id",
    metavar="HEX",
    help="With --ca: the one node id, of 32 digits, that the certificate is good for (see `kvd cluster members`). "
    "A node that begins anew with an empty data directory has another id, and needs another certificate then.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --ca: where to write it.  [default: DIR/NAME.pem]",
)
@_days_option
@json_option
def token(
    secret_file: Path | None,
    directory: Path | None,
    node: str | None,
    node_id: str | None,
    output: Path | None,
    days: int,
    as_json: bool,
) -> None:
    """Make the credential with which one more node can join.

    With a shared secret that is the line which all nodes have; it is printed, and should reach the new
    node in a way that nobody else can see. With certificates it is a file of the node's own.
    """
    if (secret_file is None) == (directory is None):
        raise click.UsageError("give either --secret-file FILE, or --ca DIR with --node NAME")
    with _failing_clearly():
        if directory is not None:
            if node is None:
                raise click.UsageError("--ca needs --node NAME, the name of the new node")
            _make_certificate(directory, node, _parse_node_id(node_id), output, days, as_json=as_json)
        elif secret_file is not None:
            if node is not None or node_id is not None or output is not None:
                raise click.UsageError("--node, --node-id and --output are for certificates (--ca)")
            _print_secret(secret_file, as_json=as_json)


def _print_secret(file: Path, *, as_json: bool) -> None:
    from replication.proofs import load_secrets, secret_line  # noqa: PLC0415 -- only needed here

    found = load_secrets(file)
    line = secret_line(found.cluster, found.secrets[0])
    _tell(as_json, {"mode": "secret", "cluster": found.cluster.hex(), "line": line}, line)


def _make_certificate(
    directory: Path, name: str, node: bytes | None, output: Path | None, days: int, *, as_json: bool
) -> None:
    from replication.certificates import check_name, load_issuer  # noqa: PLC0415 -- only needed here
    from replication.proofs import write_new  # noqa: PLC0415

    check_name(name)
    issuer = load_issuer(directory / _CA_KEY, directory / _CA_CERTIFICATE)
    bundle = _issue(issuer, name, node, days)
    file = output or directory / f"{name}.pem"
    write_new(file, bundle.to_pem())
    _tell(
        as_json,
        _facts(bundle, file),
        f"made {file}, for the node {name}, valid until {_until(bundle)}; move it there, nobody else needs it",
        f"start the node:  kvd serve --peer-port 7379 --peer-cert {file.name} --join FIRST-NODE:7379",
    )


def _issue(issuer: Issuer, name: str, node: bytes | None, days: int) -> Bundle:
    return issuer.issue(name, now=dt.datetime.now(dt.UTC), node=node, days=days)


def _until(bundle: Bundle) -> str:
    return f"{dt.datetime.fromtimestamp(bundle.expires_at, dt.UTC):%Y-%m-%d}"


def _parse_node_id(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        node = bytes.fromhex(text)
    except ValueError:
        node = b""
    if len(node) != 16:
        raise click.BadParameter("is not 32 hexadecimal digits", param_hint="--node-id")
    return node


def _host_name() -> str:
    """Return the first part of the machine's name."""
    return platform.node().partition(".")[0] or "node-1"


@contextmanager
def _failing_clearly() -> Iterator[None]:
    from replication.errors import CredentialError  # noqa: PLC0415 -- only needed here

    try:
        yield
    except (CredentialError, OSError) as error:
        click.echo(f"kvd: {describe(error)}", err=True)
        sys.exit(EXIT_FAILED)


def add_to(group: click.Group) -> None:
    """Give the group `kvd cluster` the verbs of this module."""
    group.add_command(init)
    group.add_command(token)
