"""The clients and libraries of Node.js: each ``node/*.test.mjs`` is one program against the server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import RunningServer

PROGRAMS = Path(__file__).parent / "node"

pytestmark = pytest.mark.needs_node


@pytest.mark.parametrize(
    "program", sorted(PROGRAMS.glob("*.test.mjs")), ids=lambda program: program.name.split(".")[0]
)
def test_node_program(server: RunningServer, program: Path) -> None:
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, "--test", "--test-timeout=60000", str(program)],
        cwd=PROGRAMS,
        env={**os.environ, "KVD_COMPAT_URL": server.url, "NODE_OPTIONS": "--no-warnings"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
