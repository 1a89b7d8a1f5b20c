"""What is derived from the tables is current, and what is written by hand refers to what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kvd.commands.spec import Arg, CommandSpec
from kvd.commands.table import CommandTable
from kvd.config import load
from kvd.grammar import syntax
from kvd.settings import SECTIONS, SETTINGS, Settings
from tools.generate_docs import GENERATED, ROOT

MANUAL = ROOT / "conf" / "kvd.toml"


@pytest.mark.parametrize("path", GENERATED)
def test_generated_file_is_current(path: str) -> None:
    current = (ROOT / path).read_text(encoding="utf-8")
    assert current == GENERATED[path](), f"{path} is out of date: run `make docs`"


def test_the_manual_holds_every_setting_with_its_default() -> None:
    document = tomllib.loads(MANUAL.read_text(encoding="utf-8"))
    assert [f"{section}.{field}" for section in document for field in document[section]] == list(SETTINGS)
    assert list(document) == list(SECTIONS)
    assert load(MANUAL, {}, ()) == Settings()


def test_every_command_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    headings = set(re.findall("^### (.*)$", text, re.MULTILINE))
    expected = set()
    for spec in CommandTable.standard().specs.values():
        expected |= {spec.name, *(child.name.replace("|", " ") for child in spec.subcommands.values())}
    assert headings == expected


HAND_WRITTEN = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("file", HAND_WRITTEN, ids=lambda file: file.name)
def test_links_between_documents_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_the_readme_makes_no_namespace_twice() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    titles = re.findall(r'(?:KV\.NS CREATE |"title":"|kvd namespace create )(\w+)', text)
    assert titles
    assert len(titles) == len(set(titles))


def test_documents_name_settings_that_exist() -> None:
    names = "|".join(SECTIONS)
    for file in HAND_WRITTEN:
        for name in re.findall(rf"`((?:{names})\.[a-z_]+)`", file.read_text(encoding="utf-8")):
            assert name in SETTINGS or (ROOT / "kvd" / f"{name.partition('.')[2]}.py").exists(), (
                f"{file.name} speaks of {name}"
            )


# ---------------------------------------------------------------- syntax


def command(*arguments: Arg) -> CommandSpec:
    return CommandSpec("X", 1, summary="", group="string", since="1.0.0", complexity="", arguments=arguments)


TOKEN = "pure-token"
NX = Arg("nx", TOKEN, token="NX")
XX = Arg("xx", TOKEN, token="XX")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "X"),
        ((Arg("key", "key"),), "X key"),
        ((Arg("key", "key", multiple=True),), "X key [key ...]"),
        ((Arg("seconds", "integer", token="EX", optional=True),), "X [EX seconds]"),
        ((Arg("condition", "oneof", optional=True, arguments=(NX, XX)),), "X [NX | XX]"),
        ((Arg("condition", "oneof", arguments=(NX, XX)),), "X <NX | XX>"),
        (
            (Arg("condition", "oneof", arguments=(NX, Arg("id", token="ID", optional=True))),),
            "X <NX | ID id>",
        ),
        (
            (Arg("c", "oneof", optional=True, multiple=True, arguments=(NX, XX)),),
            "X [<NX | XX> [<NX | XX> ...]]",
        ),
        ((Arg("id", token="ID", multiple=True, optional=True),), "X [ID id [id ...]]"),
        ((Arg("get", token="GET", multiple=True, multiple_token=True),), "X GET get [GET get ...]"),
        (
            (Arg("data", "block", multiple=True, arguments=(Arg("key", "key"), Arg("value"))),),
            "X key value [key value ...]",
        ),
        ((Arg("sep", token="", optional=True),), 'X ["" sep]'),
    ],
)
def test_syntax_is_written_as_people_read_it(arguments: tuple[Arg, ...], line: str) -> None:
    assert syntax(command(*arguments)) == line
