"""workerd as a process, with Workers whose KV is the daemon."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.servers import RunningServer, wait_until

HERE = Path(__file__).parent
MODULES = HERE.parent / "node" / "node_modules"
WORKERD = MODULES / ".bin" / "workerd"
COMPATIBILITY_DATE = "2025-06-01"


@attrs.frozen
class Binding:
    """A KV binding: its name in the Worker, and what the runtime says to the daemon with each request."""

    name: str
    address: str
    headers: tuple[tuple[str, str], ...] = ()
    style: str = "host"

    @property
    def service(self) -> str:
        return f"kv-{self.name.lower()}"

    def external(self) -> str:
        injected = ", ".join(f'( name = "{name}", value = "{value}" )' for name, value in self.headers)
        http = f"http = ( style = {self.style}, injectRequestHeaders = [ {injected} ] )"
        return f'( name = "{self.service}", external = ( address = "{self.address}", {http} ) )'


@attrs.frozen
class Worker:
    """A Worker that listens on a port of this machine."""

    port: int

    def get(self, path: str = "/") -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def ask(self, call: str, *args: Any, binding: str = "CACHE") -> Any:
        """Return what the call in the Worker resolved to; an error is raised as `KvError`."""
        body = json.dumps({"binding": binding, "call": call, "args": args}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())
        if "error" in found:
            raise KvError(found["error"])
        return found["result"]


class KvError(Exception):
    """What the Worker's call threw: name and message."""


def ports(server: RunningServer) -> dict[str, int]:
    found: dict[str, int] = json.loads((server.log_file.parent / "ports.json").read_text())
    return found


@contextlib.contextmanager
def worker(
    directory: Path, bindings: Sequence[Binding], *, script: str | Path = "worker.mjs"
) -> Iterator[Worker]:
    """Run workerd with one Worker; a relative `script` lies beside this module."""
    port = free_port()
    source = HERE / script
    code = (
        f'modules = [ ( name = "worker", esModule = embed "{source.name}" ) ]'
        if source.suffix == ".mjs"
        else f'serviceWorkerScript = embed "{source.name}"'
    )
    (directory / source.name).write_text(source.read_text())
    named = ", ".join(f'( name = "{one.name}", kvNamespace = "{one.service}" )' for one in bindings)
    services = ",\n    ".join(one.external() for one in bindings)
    config = directory / "config.capnp"
    config.write_text(
        f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    ( name = "main", worker = ( {code}, compatibilityDate = "{COMPATIBILITY_DATE}", bindings = [ {named} ] ) ),
    {services}
  ],
  sockets = [ ( name = "http", address = "127.0.0.1:{port}", http = (), service = "main" ) ]
);
"""
    )
    with listening([WORKERD, "serve", config], port, directory / "workerd.log"):
        yield Worker(port)


@contextlib.contextmanager
def listening(
    command: Sequence[str | Path], port: int, log_file: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run what listens on `port`, beside its log; end it with SIGTERM, and what it has left behind with SIGKILL."""
    with (
        log_file.open("wb") as log,
        subprocess.Popen(
            command,
            cwd=log_file.parent,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_until(lambda: _listens(process, port, log_file), f"{Path(command[0]).name} opens its port")
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _listens(process: subprocess.Popen[bytes], port: int, log_file: Path) -> bool:
    assert process.poll() is None, log_file.read_text()
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        time.sleep(0.05)
        return False
    return True


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
