"""`kvd namespace`: make, list, rename and delete namespaces."""

from __future__ import annotations

import click

from kvd.cli.client import CommandFailed
from kvd.cli.rest import Rest, Space
from kvd.cli.rest_options import asks_rest, confirm, print_json, print_stored
from kvd.cli.verbs import Verbs


@click.group(
    cls=Verbs,
    epilog="""\b
Examples:
  kvd namespace create shop
  kvd namespace list
  kvd namespace rename shop store
  kvd namespace delete store --yes
""",
)
def namespace() -> None:
    """Make and look after namespaces."""


@namespace.command()
@click.argument("title")
@asks_rest
def create(rest: Rest, title: str, as_json: bool) -> None:
    """Make a namespace, and print its id."""
    made = rest.create_space(title)
    if as_json:
        print_json({"id": made.id, "title": made.title})
    else:
        click.echo(made.id)


@namespace.command(name="list")
@asks_rest
def list_(rest: Rest, as_json: bool) -> None:
    """List namespaces and the numbered databases that hold keys: id, number of keys, title."""
    found = rest.ask("GET", "/api/namespaces")["result"]
    if as_json:
        print_json(found)
        return
    for each in found:
        keys = f"{each['keys']:,}" if each["is_carried"] else "not carried"
        group = f"  (group {each['group']})" if each["group"] else ""
        print_stored(f"{each['id']:32}  {keys:>12}  {each['title']}{group}")


@namespace.command()
@click.argument("name")
@click.argument("title")
@asks_rest
def rename(rest: Rest, name: str, title: str, as_json: bool) -> None:
    """Give the namespace NAME (a title or an id) another TITLE."""
    space = _named(rest, name)
    renamed = rest.ask_json("PUT", space.v4, {"title": title})
    if as_json:
        print_json(renamed)
    else:
        click.echo(f"renamed {space.title!r} to {renamed['title']!r}")


@namespace.command()
@click.argument("name")
@click.option("-y", "--yes", "is_sure", is_flag=True, help="Do not ask.")
@asks_rest
def delete(rest: Rest, name: str, is_sure: bool, as_json: bool) -> None:
    """Delete the namespace NAME (a title or an id) with all its keys, on every node."""
    space = _named(rest, name)
    confirm(f"Delete the namespace {space.title!r} with all its keys?", is_sure=is_sure)
    rest.ask("DELETE", space.v4)
    if as_json:
        print_json({"id": space.id, "title": space.title})
    else:
        click.echo(f"deleted {space.title!r}")


def _named(rest: Rest, name: str) -> Space:
    space = rest.find_space(name)
    if space.is_database:
        raise CommandFailed("a numbered database can be neither renamed nor deleted")
    return space
