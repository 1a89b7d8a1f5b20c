"""Real server processes for tests: `kvd serve`, and redis-server as the reference.

Both are waited for by what they say on their output when they are ready, never by sleeping. A
thread drains that output for as long as the process lives, so a talkative server cannot block on
a full pipe.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
_LINES_KEPT: Final = 2000


class Output:
    """The lines that a process prints, read by a thread; the newest are kept for error messages."""

    def __init__(self, stream: IO[str], is_ready: Callable[[str], bool]) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        self.ready_line: str | None = None
        self.settled = threading.Event()  # ready, or the process has closed its output
        self._stream = stream
        self._is_ready = is_ready
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        for line in self._stream:
            self.lines.append(line.rstrip("\n"))
            if self.ready_line is None and self._is_ready(line):
                self.ready_line = line
                self.settled.set()
        self.settled.set()

    def join(self) -> None:
        """Wait until the process's last line is read. The process must have ended."""
        self._thread.join(STOP_SECONDS)
        self._stream.close()

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Daemon:
    """One `kvd serve` on free ports. `stop` ends it cleanly, `kill` as a crash would."""

    def __init__(self, data_dir: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.arguments = arguments
        self.environment = environment or {}
        self.ports: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        """Start the process and wait until it takes clients."""
        data_dir = ["--data-dir", str(self.data_dir)]
        command = [sys.executable, "-m", "kvd", "serve", *data_dir, "--set", "log.format=json"]
        ports_file = self.data_dir.with_name(self.data_dir.name + ".ports.json")
        ports_file.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                *command,
                "--port",
                "0",
                "--bind",
                "127.0.0.1",
                "--ports-file",
                str(ports_file),
                *self.arguments,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
        )
        assert self.process.stderr is not None
        self.output = Output(self.process.stderr, _says_ready)
        self.output.settled.wait(READY_SECONDS)
        if self.output.ready_line is None:
            self.kill()
            raise AssertionError(f"kvd did not start:\n{self.output}")
        self.ports = json.loads(ports_file.read_text())

    @property
    def port(self) -> int:
        return self.ports["resp"]

    @property
    def pid(self) -> int:
        return self.process.pid

    def events(self) -> list[dict[str, Any]]:
        """Return what the daemon has logged so far."""
        return [json.loads(line) for line in list(self.output.lines) if line.startswith("{")]

    def stop(self) -> int:
        """Stop as an operator does and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._wait()

    def kill(self) -> int:
        """Kill without warning, as the out-of-memory killer would, and return the exit code."""
        self.process.kill()
        return self._wait()

    def restart(self) -> None:
        """Start again over the same data directory. The process must have ended."""
        assert self.process.poll() is not None
        self.start()

    def _wait(self) -> int:
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"kvd did not stop:\n{self.output}") from None
        self.output.join()
        return code


def _says_ready(line: str) -> bool:
    return '"ready for clients"' in line


class RedisServer:
    """One redis-server without persistence on a free port."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.port = free_port()
        self.unix_socket = directory / "redis.sock"
        self.process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(directory),
                "--unixsocket",
                str(self.unix_socket),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.output = Output(self.process.stdout, lambda line: "eady to accept connections" in line)
        self.output.settled.wait(READY_SECONDS)
        if self.output.ready_line is None:
            self.stop()
            raise AssertionError(f"redis-server did not start:\n{self.output}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.output.join()


def free_port() -> int:
    """Return a port that nobody listens on right now.

    For redis-server, which cannot be told to take a free one; kvd can, and is.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_redis() -> bool:
    """Tell whether the reference server and its tools are installed."""
    return all(shutil.which(program) for program in ("redis-server", "redis-cli", "redis-benchmark"))
