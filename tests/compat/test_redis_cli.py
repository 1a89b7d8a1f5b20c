"""redis-cli and redis-benchmark as users run them, interactive start included."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import RunningServer, redis_executable

pytestmark = pytest.mark.needs_redis

RUN_SECONDS = 60
# Colours and cursor movements. Source: ECMA-48, control sequences.
ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def run_cli(server: RunningServer, *arguments: str, text: str | None = None) -> str:
    """Run redis-cli to its end and return what it printed."""
    done = subprocess.run(
        [redis_executable("redis-cli"), "-p", str(server.port), *arguments],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


class Terminal:
    """A program on a pseudo-terminal: what it shows, and a keyboard."""

    def __init__(self, program: subprocess.Popen[bytes], master: int) -> None:
        self._program = program
        self._master = master
        self._shown = ""

    def press(self, keys: str) -> None:
        """Press keys at a new prompt: what comes before it would be read without line editing."""
        # Each key draws the line again after a carriage return; a new prompt stands at a line's start.
        self.expect(r"(?:\A|\n)127\.0\.0\.1:\d+(\[\d\])?(\(TX\))?> ")
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        self.press(line + "\r")

    def expect(self, pattern: str) -> None:
        """Read until the screen matches `pattern`, and leave there what comes after it."""
        deadline = time.monotonic() + RUN_SECONDS
        while (match := re.search(pattern, self._shown, re.DOTALL)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} did not appear in {self._shown!r}"
            ready, _, _ = select.select([self._master], [], [], 1.0)
            if ready:
                self._shown = ESCAPE_SEQUENCE.sub("", self._shown + os.read(self._master, 65536).decode())
        self._shown = self._shown[match.end() :]

    def wait(self) -> int:
        return self._program.wait(RUN_SECONDS)


@contextmanager
def interactive_cli(server: RunningServer, *options: str, home: Path) -> Iterator[Terminal]:
    """Run redis-cli on a terminal of 40 lines and 160 columns; `home` keeps its history file."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    command = [redis_executable("redis-cli"), "-p", str(server.port), *options]
    environment = {**os.environ, "TERM": "xterm", "HOME": str(home)}
    try:
        with subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        ) as program:
            try:
                yield Terminal(program, master)
            finally:
                program.kill()
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("options", [(), ("-3",), ("-n", "5")], ids=["RESP2", "RESP3", "database 5"])
def test_interactive_start_loads_the_documentation(
    server: RunningServer, options: tuple[str, ...], tmp_path: Path
) -> None:
    with interactive_cli(server, *options, home=tmp_path) as screen:
        screen.enter("set greeting hello")
        screen.expect(r"\nOK\r\n")
        screen.enter("help getdel")
        screen.expect(r"GETDEL key.*since: 6\.2\.0.*group: string")
        screen.enter("help @transactions")
        screen.expect(r"WATCH key")
        screen.enter("get greeting")
        screen.expect(r'\n"hello"\r\n')
        screen.enter("exit")
        assert screen.wait() == 0


def test_interactive_hints_show_the_arguments(server: RunningServer, tmp_path: Path) -> None:
    with interactive_cli(server, home=tmp_path) as screen:
        screen.press("getrange ")
        screen.expect(r"key start end")


def test_transaction_in_an_interactive_session(server: RunningServer, tmp_path: Path) -> None:
    with interactive_cli(server, home=tmp_path) as screen:
        screen.enter("multi")
        screen.enter("incr counter")
        screen.expect(r"QUEUED")
        screen.enter("exec")
        screen.expect(r"1\) \(integer\) 1")


def test_commands_from_standard_input_go_on_after_errors(server: RunningServer) -> None:
    out = run_cli(server, text="set a 1\nincr a\nnosuchcommand\nget a\n")
    lines = out.splitlines()
    assert [lines[0], lines[1], lines[-1]] == ["OK", "2", "2"]
    assert lines[2].startswith("ERR unknown command 'nosuchcommand'")


def test_value_from_standard_input(server: RunningServer) -> None:
    assert run_cli(server, "-x", "set", "long", text="x" * 100_000) == "OK\n"
    assert run_cli(server, "strlen", "long") == "100000\n"


def test_resp3_maps_are_shown_as_maps(server: RunningServer) -> None:
    assert "1# " in run_cli(server, "-3", "--no-raw", "config", "get", "maxclients")


def test_script_file_runs_with_keys_and_arguments(server: RunningServer, tmp_path: Path) -> None:
    script = tmp_path / "add.lua"
    script.write_text("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert run_cli(server, "--eval", str(script), "total", ",", "5") == "5\n"


def test_scan_lists_what_matches(server: RunningServer) -> None:
    with server.client() as client:
        client.mset({f"user:{number}": "x" for number in range(500)})
        client.set("other", "x")
    assert len(run_cli(server, "--scan").splitlines()) == 501
    assert len(run_cli(server, "--scan", "--pattern", "user:1*").splitlines()) == 111


@pytest.mark.parametrize("option", ["--bigkeys", "--memkeys"])
def test_key_statistics_find_the_largest(server: RunningServer, option: str) -> None:
    with server.client() as client:
        client.mset({f"small:{number}": "x" for number in range(200)})
        client.set("large", "x" * 10_000)
    out = run_cli(server, option)
    assert "Sampled 201 keys" in out
    assert re.search(r"Biggest string found .*large.* has \d{5} bytes", out)


def test_stat_prints_lines(server: RunningServer) -> None:
    command = [redis_executable("redis-cli"), "-p", str(server.port), "--stat", "-i", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            lines = [program.stdout.readline().split() for _ in range(5)]
        finally:
            program.kill()
    assert lines[1][:2] == ["keys", "mem"]
    for line in lines[2:]:
        keys, memory, clients, blocked, requests = line[:5]
        assert (keys, blocked) == ("0", "0")
        assert re.fullmatch(r"[\d.]+[BKMG]", memory)
        assert int(clients) >= 1
        assert int(requests) >= 1


def test_latency_counts_round_trips(server: RunningServer) -> None:
    lowest, highest, average, samples = run_cli(server, "--raw", "--latency", "-i", "0.3").split()
    assert float(lowest) <= float(average) <= float(highest)
    assert int(samples) > 5


def test_pipe_takes_a_million_commands(server: RunningServer, tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    with commands.open("wb") as file:
        for start in range(0, 1_000_000, 10_000):
            file.writelines(
                b"*3\r\n$3\r\nSET\r\n$9\r\nkey%06d\r\n$8\r\n%08d\r\n" % (number, number)
                for number in range(start, start + 10_000)
            )
    with commands.open("rb") as file:
        done = subprocess.run(
            [redis_executable("redis-cli"), "-p", str(server.port), "--pipe"],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
    assert "errors: 0, replies: 1000000" in done.stdout
    assert run_cli(server, "dbsize") == "1000000\n"
    assert run_cli(server, "get", "key999999") == "00999999\n"


@pytest.mark.parametrize(
    "options", [(), ("-P", "16"), ("-3",), ("-c", "1"), ("--threads", "2")], ids=" ".join
)
def test_benchmark_runs_its_tests(server: RunningServer, options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [
            *(redis_executable("redis-benchmark"), "-p", str(server.port), "--csv"),
            *("-n", "2000", "-r", "100", "-d", "64"),
            *("-t", "ping_inline,ping_mbulk,set,get,incr,mset", *options),
        ],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=True,
    )
    assert "WARNING" not in done.stderr
    names = re.findall(r'^"([^"]+)","[\d.]+"', done.stdout, re.MULTILINE)
    assert [name.split()[0] for name in names] == ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET"]


def test_benchmark_runs_a_script(server: RunningServer) -> None:
    done = subprocess.run(
        [
            *(redis_executable("redis-benchmark"), "-p", str(server.port), "-n", "500", "-q"),
            *("eval", "return redis.call('incr', KEYS[1])", "1", "counter"),
        ],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=True,
    )
    assert "requests per second" in done.stdout
    assert run_cli(server, "get", "counter") == "500\n"
