"""A full disk: writes get an error, reads go on, and service returns by itself once there is space.

Two disks: a small file system of its own (needs the right to mount), and a limit on the size of a file,
which every user may set, and which meets the same code from another side.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import redis

from tests.crash.test_kill import verify
from tests.servers import Client, RunningServer, kvd_server, wait_until

DISK_BYTES = 384 << 20
VALUE_BYTES = 50_000
# More than any disk here takes.
WRITES_MAX = 40_000


@attrs.frozen
class Disk:
    """A directory for the data, and how to fill and to free what it lies on."""

    directory: Path
    fill: Callable[[RunningServer], None]
    free: Callable[[RunningServer], None]


def allocated(fd: int, place: int, size: int) -> bool:
    """Make a file longer on its disk, or return that there is no space."""
    try:
        os.posix_fallocate(fd, place, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
    ballast = tmp_path / "ballast"

    def fill(server: RunningServer) -> None:
        size = 0
        with ballast.open("wb") as file:
            for step in (1 << 20, 1 << 12):  # the server may take of it meanwhile
                while allocated(file.fileno(), size, step):
                    size += step

    try:
        yield Disk(tmp_path, fill, lambda _: ballast.unlink())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def limited_files(tmp_path: Path) -> Disk:
    def limit(server: RunningServer, size: int) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return Disk(
        tmp_path, lambda server: limit(server, 64 << 10), lambda server: limit(server, resource.RLIM_INFINITY)
    )


@pytest.fixture(params=["small_disk", "limited_files"])
def disk(request: pytest.FixtureRequest) -> Disk:
    disk: Disk = request.getfixturevalue(request.param)
    return disk


def write_until_refused(client: Client, stored: dict[str, str]) -> str:
    """Write new keys until the first error; return its text, and in `stored` what was acknowledged."""
    for number in range(WRITES_MAX):
        key, value = f"full:{number}", f"{number:08}" * (VALUE_BYTES // 8)
        try:
            client.set(key, value)
        except redis.ResponseError as error:
            return str(error)
        stored[key] = value
    raise AssertionError("the disk never filled")


def assert_stored(client: Client, stored: dict[str, str]) -> None:
    for key, value in stored.items():
        assert client.get(key) == value


def takes_writes(client: Client) -> bool:
    try:
        return bool(client.set("probe", "x"))
    except redis.ResponseError:
        return False


def test_full_disk_refuses_writes_and_recovers_by_itself(disk: Disk) -> None:
    stored: dict[str, str] = {}
    with kvd_server(disk.directory) as server:
        with server.client(decode_responses=True) as client:
            client.set("before", "x")
            client.set("counter", 7)
            disk.fill(server)
            refusal = write_until_refused(client, stored)
            assert refusal.startswith("MISCONF")
            assert client.get("before") == "x"
            assert client.dbsize() == len(stored) + 2
            with pytest.raises(redis.ResponseError):
                client.pipeline().incr("counter").set("before", "half").execute()
            assert client.mget("before", "counter") == ["x", "7"]
            assert_stored(client, stored)

            disk.free(server)
            wait_until(lambda: takes_writes(client), "writes are taken again", seconds=60)
            assert client.incr("counter") == 8
            assert_stored(client, stored)
        assert server.stop() == 0
    verify(disk.directory)
    with kvd_server(disk.directory) as server, server.client(decode_responses=True) as client:
        assert client.mget("before", "counter") == ["x", "8"]
        assert_stored(client, stored)


def test_kill_on_a_full_disk_loses_nothing_acknowledged(disk: Disk) -> None:
    stored: dict[str, str] = {}
    with kvd_server(disk.directory) as server:
        with server.client(decode_responses=True) as client:
            disk.fill(server)
            write_until_refused(client, stored)
        disk.free(server)
        server.kill()
    with kvd_server(disk.directory) as server, server.client(decode_responses=True) as client:
        assert client.dbsize() == len(stored)
        assert_stored(client, stored)
    verify(disk.directory)
