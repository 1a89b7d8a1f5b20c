"""The README's way from one node to three, command by command, and a node that has run alone before."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.cluster_live.harness import Client, eventually, free_port
from tests.servers import ROOT, kvd_server

_PORT = re.compile(r"\b[678]3[78]\d\b")


def shown_commands(document: str) -> list[str]:
    """Return the commands of the section's first block of code."""
    text = (ROOT / document).read_text(encoding="utf-8")
    section = text.partition("## From one node to three")[2]
    block = re.search(r"((?:^    kvd .*\n)+)", section, re.MULTILINE)
    assert block is not None
    return [line.strip() for line in block[1].splitlines()]


def with_free_ports(commands: list[str]) -> tuple[list[str], dict[str, int]]:
    """Replace the ports, which may be taken on this machine."""
    # The first node's are the defaults, which are not written down.
    commands = [line.replace(" n1 ", " n1 --port 6379 --http-port 8379 ") for line in commands]
    found = sorted(set(_PORT.findall(" ".join(commands))))
    ports = {port: free_port() for port in found}
    return [_PORT.sub(lambda match: str(ports[match[0]]), line) for line in commands], ports


@contextlib.contextmanager
def running(commands: list[str], directory: Path) -> Iterator[None]:
    """Run `kvd ...` commands: those that serve stay, the others end before the next."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with contextlib.ExitStack() as stack:
        for number, line in enumerate(commands):
            arguments = [sys.executable, "-m", *shlex.split(line)]
            if " serve " not in line:
                subprocess.run(arguments, cwd=directory, env=environment, check=True, timeout=60)
                continue
            log = stack.enter_context((directory / f"{number}.log").open("wb"))
            process = subprocess.Popen(arguments, cwd=directory, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def test_the_readme_and_the_manual_show_the_same() -> None:
    assert shown_commands("README.md") == shown_commands("docs/replication.md")


def test_three_commands_lead_from_one_node_to_three(tmp_path: Path) -> None:
    commands, ports = with_free_ports(shown_commands("README.md"))
    with running(commands, tmp_path):
        clients: list[Client] = [
            redis.Redis(port=ports[port], decode_responses=True) for port in ("6379", "6380", "6381")
        ]
        first, second, third = clients
        eventually(lambda: first.set("greeting", "hello"), "the first takes writes", seconds=60)
        for client in (second, third):
            eventually(lambda one=client: one.get("greeting") == "hello", "it arrives", seconds=60)
        eventually(lambda: third.set("greeting", "and back"), "the third takes writes")
        eventually(lambda: first.get("greeting") == "and back", "it arrives")
        eventually(lambda: len(second.execute_command("KV.MEMBERS")) == 3, "all know each other")
        for client in clients:
            client.close()


def test_a_node_that_ran_alone_brings_its_records(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        server.client().mset({"before": "1", "other": "2"})
        server.client().delete("other")
        server.stop()
    data_dir = tmp_path / "data"
    commands, ports = with_free_ports(shown_commands("README.md")[:3])
    commands[1] = commands[1].replace("--data-dir n1", f"--data-dir {data_dir}")
    with running(commands, tmp_path), redis.Redis(port=ports["6380"], decode_responses=True) as second:
        eventually(lambda: second.get("before") == "1", "the second has it", seconds=60)
        assert second.exists("other") == 0


def test_data_that_no_member_knows_cannot_join(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        server.client().set("mine", "1")
        server.stop()
    commands, _ = with_free_ports(shown_commands("README.md")[:3])
    commands[2] = commands[2].replace("--data-dir n2", f"--data-dir {tmp_path / 'data'}")
    with running(commands[:2], tmp_path):
        arguments = [sys.executable, "-m", *shlex.split(commands[2])]
        refused = subprocess.run(
            arguments,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert refused.returncode == 1
    assert "join with an empty one" in refused.stderr
    assert "Traceback" not in refused.stderr
