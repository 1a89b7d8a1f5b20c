"""kill -9 under concurrent writers while keys change, and while a plain store becomes an encrypted one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from storage.keyring import format_keyring, load_keyring, new_keyring, rotated, without, without_plain
from tests.crash.test_kill import await_writes
from tests.crash.workloads import all_workloads, settle_all, writing
from tests.servers import ROOT, RunningServer, kvd_server, wait_until

ROUNDS = 5
FILLED = 20_000


def write_keys(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def verify(directory: Path, keys: Path) -> None:
    command = [sys.executable, "-m", "kvd", "verify", "--data-dir", str(directory / "data")]
    command += ["--encryption-key-file", str(keys)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def in_use(server: RunningServer) -> list[str]:
    with server.client(decode_responses=True) as client:
        found = client.info("storage")
    return str(found["encryption_keys_in_use"]).split(",") if found["encryption_walk"] == "idle" else []


def test_kills_in_the_middle_of_a_change_of_keys_lose_nothing(tmp_path: Path) -> None:
    rng = random.Random(1)
    workloads = all_workloads()
    keys = tmp_path / "keys"
    flag = ("--encryption-key-file", str(keys))
    write_keys(keys, format_keyring(new_keyring(plain=True)))
    with kvd_server(tmp_path) as server, server.client() as client:  # the first change is from plain
        for start in range(0, FILLED, 1000):
            client.mset({f"filled:{number}": f"value {number}" for number in range(start, start + 1000)})
    for _ in range(ROUNDS):
        with kvd_server(tmp_path, *flag) as server:
            settle_all(server, workloads)
            with writing(server, workloads):
                await_writes(workloads, rng.randrange(1, 500), server)
                write_keys(keys, format_keyring(rotated(load_keyring(keys))))
                server.process.send_signal(signal.SIGHUP)
                await_writes(workloads, rng.randrange(1, 1500), server)
                server.kill()
        verify(tmp_path, keys)
    with kvd_server(tmp_path, *flag) as server:
        settle_all(server, workloads)
        last = load_keyring(keys).keys[0]
        wait_until(lambda: in_use(server) == [last.name], "the walk ends", seconds=120)
        assert server.stop() == 0
    keyring = load_keyring(keys)
    for old in keyring.keys[1:]:
        keyring = without(keyring, old.id)
    write_keys(keys, format_keyring(without_plain(keyring)))
    verify(tmp_path, keys)
    with kvd_server(tmp_path, *flag) as server, server.client() as client:
        settle_all(server, workloads)
        found = client.mget([f"filled:{number}" for number in range(FILLED)])
        assert found == [b"value %d" % number for number in range(FILLED)]
