"""Servers that tests and benchmarks run against: kvd and redis-server as processes of their own.

Both give the same `RunningServer`, so a test that has been held against redis-server runs against kvd
unchanged. Ports are free ones, data lies in a directory of the caller, and leaving the context manager
ends the process whatever happened inside.

    with kvd_server(tmp_path, durability="always") as server:
        server.client().set("a", "1")
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import redis

ROOT: Final = Path(__file__).resolve().parent.parent
Durability = Literal["always", "everysec", "no"]
# What redis-py returns depends on the command and on its options; its own types do not say more.
Client: TypeAlias = Any

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
_CLOCK_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 30.0) -> None:
    """Poll until `condition()` is true; fail the test when it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.01)


class RunningServer:
    """A server process that answers PING on 127.0.0.1:`port`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log_file: Path) -> None:
        self.name = name
        self.process = process
        self.host = "127.0.0.1"
        self.port = port
        self.log_file = log_file

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}"

    def client(self, **options: Any) -> Client:
        """Return a new redis-py client; the caller closes it, or lets it go with the test."""
        return redis.Redis(self.host, self.port, **options)

    def connect(self, *, timeout: float | None = 60.0, receive_buffer: int | None = None) -> socket.socket:
        """Return a plain TCP connection, for what no client library would send.

        `receive_buffer` bounds what the kernel takes in for a client that does not read.
        """
        sock = socket.socket()
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(timeout)
            sock.connect((self.host, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process so far, user and system, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_A_SECOND

    def waited_seconds(self) -> float:
        """Return for how long the main thread could have run so far and had no processor.

        Of a latency that was measured on a machine with other work, so much is not the server's.
        Source: Linux, Documentation/scheduler/sched-stats.
        """
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def resident_bytes(self) -> int:
        """Return the resident set size of the process now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def peak_bytes(self) -> int:
        """Return the largest resident set size since the start, or since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def forget_peak(self) -> None:
        """Begin anew with `peak_bytes`. Source: proc(5), /proc/PID/clear_refs."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """End the process with SIGTERM, with SIGKILL after `seconds`; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()

    def log_tail(self) -> str:
        """Return the end of what the server wrote, for the message of a failed test."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def kvd_server(
    directory: Path, *options: str, durability: Durability = "everysec", prefix: Sequence[str] = ()
) -> Iterator[RunningServer]:
    """Run `kvd serve` with its data in `directory`/data; `options` are further command line flags.

    `prefix` stands before the command (``prlimit --fsize=...``).
    """
    with launch_kvd(directory, *options, durability=durability, prefix=prefix) as process:
        yield _kvd_ready(process, directory)


@contextlib.contextmanager
def launch_kvd(
    directory: Path, *options: str, durability: Durability = "everysec", prefix: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `kvd serve` and do not wait for it: for starts that are meant to fail."""
    _ports_file(directory).unlink(missing_ok=True)
    command = [
        *prefix,
        *(sys.executable, "-m", "kvd", "serve"),
        *("--data-dir", str(directory / "data")),
        *("--bind", "127.0.0.1", "--port", "0", "--http-port", "0"),
        *("--ports-file", str(_ports_file(directory))),
        *("--durability", durability, *options),
    ]
    with _process(command, directory / "kvd.log", cwd=ROOT) as process:
        yield process


def _kvd_ready(process: subprocess.Popen[bytes], directory: Path) -> RunningServer:
    log_file = directory / "kvd.log"

    def port() -> int | None:
        _check_alive(process, log_file)
        # The file appears whole: the daemon renames it into place.
        ports_file = _ports_file(directory)
        return int(json.loads(ports_file.read_text())["resp"]) if ports_file.exists() else None

    wait_until(port, "kvd opens its port", seconds=START_SECONDS)
    server = RunningServer("kvd", process, port() or 0, log_file)
    _wait_for_ping(server)
    return server


def _ports_file(directory: Path) -> Path:
    return directory / "ports.json"


_REDIS_APPENDONLY: Final[dict[Durability, str]] = {"always": "yes", "everysec": "yes", "no": "no"}


@contextlib.contextmanager
def redis_server(directory: Path, *options: str, durability: Durability = "no") -> Iterator[RunningServer]:
    """Run redis-server with its data in `directory`; durability "no" means no AOF, never RDB files."""
    for _ in range(20):
        port = _free_port()
        command = [
            *(redis_executable(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)),
            *("--save", "", "--appendonly", _REDIS_APPENDONLY[durability], "--appendfsync", durability),
            *options,
        ]
        with _process(command, directory / "redis.log", cwd=directory) as process:
            server = RunningServer("redis", process, port, directory / "redis.log")
            try:
                _wait_for_ping(server)
            except _Ended as error:
                # redis-server takes no port 0; between choosing and binding, another may take ours.
                if "Address already in use" in str(error):
                    continue
                raise
            yield server
            return
    raise AssertionError("no free port for redis-server in twenty attempts")


@contextlib.contextmanager
def target_server(directory: Path, *options: str) -> Iterator[RunningServer]:
    """Run kvd, or redis-server under ``KVD_TEST_TARGET=redis``: what fails there too is the test's mistake.

    `options` are kvd's; redis-server gets none.
    """
    if os.environ.get("KVD_TEST_TARGET") == "redis":
        with redis_server(directory) as server:
            yield server
    else:
        with kvd_server(directory, *options) as server:
            yield server


def redis_executable(name: str = "redis-server") -> str:
    """Return the path of a program of Redis; raise FileNotFoundError if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed; on Debian: apt install redis-server redis-tools")
    return path


class _Ended(AssertionError):
    """The server ended before it was ready; the text is what it wrote."""


@contextlib.contextmanager
def _process(command: Sequence[str], log_file: Path, *, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log_file.open("wb") as log,
        subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _check_alive(process: subprocess.Popen[bytes], log_file: Path) -> None:
    status = process.poll()
    if status is not None:
        raise _Ended(f"the server ended with status {status}:\n{log_file.read_text(errors='replace')}")


def _wait_for_ping(server: RunningServer) -> None:
    def answers() -> bool:
        _check_alive(server.process, server.log_file)
        try:
            with server.connect(timeout=START_SECONDS) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith(b"+PONG")  # until then redis-server says -LOADING
        except ConnectionRefusedError:
            return False

    wait_until(answers, f"{server.name} answers PING", seconds=START_SECONDS)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
