"""What the scripting tests share: a server, and a client that evaluates scripts on it."""

from __future__ import annotations

import re
from typing import Any

import hiredis
import pytest

from tests.kvd.harness import Client, InProcessServer


class ScriptClient(Client):
    """A client with short words for scripts."""

    def run(self, script: str | bytes, keys: tuple[object, ...] = (), *arguments: object) -> Any:
        """EVAL a script and return its reply."""
        return self.send("EVAL", script, len(keys), *keys, *arguments)

    def fails(self, script: str | bytes, keys: tuple[object, ...] = (), *arguments: object) -> str:
        """EVAL a script that must fail, and return the error's text up to the script's digest."""
        reply = self.run(script, keys, *arguments)
        assert isinstance(reply, hiredis.ReplyError), reply
        return re.split(" script: [0-9a-f]{40}", str(reply))[0]


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> ScriptClient:
    return ScriptClient(server)
