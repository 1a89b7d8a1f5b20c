"""The directions of imports, read from the sources: who may know whom, and one door a library.

`make lint` checks the same with import-linter, which also follows indirect imports; these tests need
nothing but the sources, look into functions as well, and cover libraries that have no contract.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kvd", "protocol", "storage", "replication")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

# The one door of each library: the packages or modules that may import it.
DOORS = {
    "hiredis": ("protocol.",),
    "httptools": ("protocol.",),
    "python_multipart": ("kvd.web.bodies",),
    "rocksdict": ("storage.engine_rocksdb",),
    "cbor2": ("storage.record", "replication.messages", "kvd.cli.cbor_sequence"),
    "click": ("kvd.cli.",),
    "cryptography": ("replication.certificates", "storage.sealing"),
    "google_crc32c": ("replication.frames",),
    "lupa": ("kvd.scripting.",),
    "trio": ("kvd.", "replication."),
    "structlog": ("kvd.", "replication."),
    "sortedcontainers": ("storage.engine_memory",),
}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=module_of)
def test_each_library_has_one_door(file: Path) -> None:
    module = module_of(file)
    for imported in imports_of(file):
        doors = DOORS.get(imported.partition(".")[0])
        if doors is not None:
            assert module.startswith(doors) or f"{module}." in doors, f"{module} imports {imported}"


# Which siblings a package may import; `kvd` may import all.
SIBLINGS = {"protocol": (), "storage": (), "replication": ("storage.changes",), "kvd": PACKAGES}


@pytest.mark.parametrize("file", SOURCES, ids=module_of)
def test_each_package_knows_only_the_siblings_that_it_may(file: Path) -> None:
    package = module_of(file).partition(".")[0]
    siblings = {name for name in imports_of(file) if name.partition(".")[0] in {*PACKAGES} - {package}}
    assert all(name.startswith(SIBLINGS[package]) for name in siblings), siblings


def test_every_module_says_what_it_is() -> None:
    silent = [
        module_of(file)
        for file in SOURCES
        if (tree := ast.parse(file.read_text(encoding="utf-8"))).body and ast.get_docstring(tree) is None
    ]
    assert silent == []
