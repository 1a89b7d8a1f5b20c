"""kill -9 under concurrent writers, again and again on the same data, and the two orderly ends."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from tests.crash.workloads import Workload, acknowledged, all_workloads, settle_all, writing
from tests.servers import ROOT, Durability, RunningServer, kvd_server, wait_until

ROUNDS = 3
SOAK_ROUNDS = 50


def verify(directory: Path) -> None:
    """Assert that `kvd verify` finds nothing wrong in the data below `directory`."""
    command = [sys.executable, "-m", "kvd", "verify", "--data-dir", str(directory / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def await_writes(workloads: Sequence[Workload], count: int, server: RunningServer) -> None:
    """Wait until `count` more writes are acknowledged."""
    goal = acknowledged(workloads) + count
    wait_until(
        lambda: acknowledged(workloads) >= goal or server.process.poll() is not None,
        f"{count} more writes are acknowledged",
        seconds=120,
    )
    assert server.process.poll() is None, server.log_tail()


def kill_again_and_again(directory: Path, durability: Durability, rounds: int) -> None:
    rng = random.Random(f"{durability} {rounds}")
    workloads = all_workloads()
    for _ in range(rounds):
        with kvd_server(directory, durability=durability) as server:
            settle_all(server, workloads)
            with writing(server, workloads):
                await_writes(workloads, rng.randrange(1, 3000), server)
                server.kill()
        verify(directory)
    with kvd_server(directory, durability=durability) as server:
        settle_all(server, workloads)
        assert server.stop() == 0
    verify(directory)


@pytest.mark.parametrize("durability", get_args(Durability))
def test_kill_loses_nothing_acknowledged(tmp_path: Path, durability: Durability) -> None:
    kill_again_and_again(tmp_path, durability, ROUNDS)


@pytest.mark.soak
@pytest.mark.parametrize("durability", get_args(Durability))
def test_fifty_kills_lose_nothing_acknowledged(tmp_path: Path, durability: Durability) -> None:
    kill_again_and_again(tmp_path, durability, SOAK_ROUNDS)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_orderly_end_under_load_loses_nothing(tmp_path: Path, sent: signal.Signals) -> None:
    workloads = all_workloads()
    with kvd_server(tmp_path) as server, writing(server, workloads):
        await_writes(workloads, 500, server)
        server.process.send_signal(sent)
        assert server.process.wait(30) == 0, server.log_tail()
    verify(tmp_path)
    with kvd_server(tmp_path) as server:
        settle_all(server, workloads)


def test_second_signal_ends_at_once_what_the_first_cannot(tmp_path: Path) -> None:
    soon = ("--set", "scripting.time_limit_ms=50")
    with kvd_server(tmp_path, *soon) as server, server.connect() as stuck:
        stuck.sendall(b"EVAL 'while true do end' 0\r\n")
        with server.connect() as other:

            def busy() -> bool:
                other.sendall(b"PING\r\n")
                return other.recv(1024).startswith(b"-BUSY")

            wait_until(busy, "the script is busy")
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) != 0
    verify(tmp_path)


def test_start_is_refused_while_another_process_has_the_data(tmp_path: Path) -> None:
    with kvd_server(tmp_path):
        ports = ("--port", "0", "--http-port", "0")
        command = [sys.executable, "-m", "kvd", "serve", *ports, "--data-dir", str(tmp_path / "data")]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "in use by another process" in second.stderr
