"""A cluster of real daemons on loopback: TLS between them, RocksDB under each, redis-py in front.

    with Cluster(tmp_path, 3) as cluster:
        cluster[0].client().set("a", "1")
        cluster.wait_equal()

They know each other by a shared secret, or by certificates: `Cluster(tmp_path, 3, trust=Certificates)`.
Each node stands behind a proxy of the test's own (`proxy`), at whose address the others reach it, so that links can be
cut, healed and slowed down, each way and pair by pair.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import redis

from tests.cluster_live.proxy import Proxy
from tests.servers import ROOT, START_SECONDS, wait_until

Client = Any
STOP_SECONDS: Final = 20.0
_CLOCK_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def make_secret(path: Path) -> Path:
    """Write the secret of a new cluster, as `kvd cluster init` does."""
    from replication.proofs import new_secret_line

    path.write_text(new_secret_line() + "\n")
    path.chmod(0o600)
    return path


class Trust(Protocol):
    """How the nodes of a cluster know each other."""

    def options(self, name: str) -> list[str]:
        """Return the flags of the node `name`."""
        ...


class SharedSecret:
    """One secret for all nodes."""

    def __init__(self, directory: Path) -> None:
        self._file = make_secret(directory / "cluster.secret")

    def options(self, name: str) -> list[str]:
        return ["--cluster-secret-file", str(self._file)]


class Certificates:
    """A certificate for each node, as `kvd cluster init --mtls` and `kvd cluster token` make them."""

    def __init__(self, directory: Path) -> None:
        from replication.certificates import new_issuer
        from replication.proofs import CLUSTER_ID_BYTES

        self._directory = directory
        self._issuer = new_issuer(secrets.token_bytes(CLUSTER_ID_BYTES), now=dt.datetime.now(dt.UTC))

    def options(self, name: str) -> list[str]:
        from replication.proofs import write_new

        file = self._directory / f"{name}.pem"
        if not file.exists():
            write_new(file, self._issuer.issue(name, now=dt.datetime.now(dt.UTC)).to_pem())
        return ["--peer-cert", str(file)]


class Node:
    """One daemon: started, stopped, killed and started again under the same address."""

    def __init__(self, cluster: Cluster, number: int, directory: Path) -> None:
        self.cluster = cluster
        self.trust = cluster.trust
        self.number = number
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data_dir = directory / "data"
        self.log_file = directory / "kvd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.peer_port = 0
        self.proxy = Proxy(cluster, self)
        self.bytes_a_second: int | None = None  # what it is given to read of each connection; None: all
        self.options: list[str] = []
        self.prefix: list[str] = []  # before the command: prlimit and the like
        self.environment: dict[str, str] = {}
        self.program: list[str] = ["-m", "kvd"]

    def __repr__(self) -> str:
        return f"<Node {self.number}>"

    @property
    def address(self) -> str:
        """Return where the others reach this node: its proxy."""
        return f"127.0.0.1:{self.proxy.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start the daemon; `wait` until it takes writes."""
        assert self.process is None
        ports_file = self.directory / "ports.json"
        ports_file.unlink(missing_ok=True)
        command = [
            *self.prefix,
            *(sys.executable, *self.program, "serve", "--data-dir", str(self.data_dir), "--http-port", "-1"),
            *("--bind", "127.0.0.1", "--port", str(self.port), "--ports-file", str(ports_file)),
            *(
                "--set",
                "peers.bind=127.0.0.1",
                "--peer-port",
                str(self.peer_port),
                "--advertise",
                self.address,
            ),
            *self.trust.options(self.directory.name),
            *self.cluster.options,
            *self.options,
        ]
        for other in self.cluster.joined_by(self):
            command += ["--join", other.address]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        wait_until(lambda: self._has_ports(ports_file), f"{self} opens its ports", seconds=START_SECONDS)
        ports = json.loads(ports_file.read_text())
        self.port, self.peer_port = ports["resp"], ports["peer"]
        if wait:
            self.wait_writable()

    def _has_ports(self, ports_file: Path) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self} ended:\n{self.log_tail()}"
        return ports_file.exists()

    def wait_writable(self, seconds: float = 30.0) -> None:
        wait_until(self._is_writable, f"{self} takes writes", seconds=seconds)

    def _is_writable(self) -> bool:
        return bool(self.status()["writable"] == 1)

    def client(self, **options: Any) -> Client:
        """Return a new client that gives texts for bytes."""
        return redis.Redis("127.0.0.1", self.port, decode_responses=True, **options)

    def status(self) -> dict[str, Any]:
        """Return the answer of KV.CLUSTER STATUS."""
        with self.client(protocol=3, socket_timeout=30) as client:
            found: dict[str, Any] = client.execute_command("KV.CLUSTER", "STATUS")
            return found

    @property
    def id(self) -> str:
        return str(self.status()["node"])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def metrics(self) -> dict[str, Any]:
        """Return the section Peers of INFO."""
        with self.client() as client:
            found: dict[str, Any] = client.info("peers")
            return found

    # --- harm

    def stop(self) -> int:
        """End the daemon in order; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process = None
        return status

    def kill(self) -> None:
        """Kill the daemon as a crash of the process would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def erase(self) -> None:
        """Delete the data directory of a node that does not run."""
        assert self.process is None
        shutil.rmtree(self.data_dir)

    # --- looking

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_A_SECOND

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096

    def owns_local_port(self, port: int) -> bool:
        """Tell whether a connection from 127.0.0.1:`port` is this process's."""
        process = self.process
        inode = _inode_of(port)
        if process is None or inode is None:
            return False
        wanted = f"socket:[{inode}]"
        try:
            return any(_link(entry) == wanted for entry in Path(f"/proc/{process.pid}/fd").iterdir())
        except OSError:
            return False

    def has_logged(self, text: str) -> bool:
        return text in self.log_file.read_text(errors="replace")

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def _inode_of(port: int) -> str | None:
    """Return the inode of the socket with this local port. Source: proc(5), /proc/net/tcp."""
    local = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == local and fields[3] == "01":
            return fields[9]
    return None


class Cluster:
    """Some nodes; the first one founds the cluster and the others join it."""

    def __init__(
        self,
        directory: Path,
        count: int,
        *options: str,
        durability: str = "everysec",
        start: bool = True,
        trust: Callable[[Path], Trust] = SharedSecret,
    ) -> None:
        self.directory = directory
        self.trust = trust(directory)
        self.options = ["--durability", durability, *options]
        self.nodes = [Node(self, number, directory / f"n{number}") for number in range(count)]
        self._started: list[Node] = []
        if start:
            for node in self.nodes:
                self.start(node)
            self.wait_linked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            if error is not None and node.log_file.exists():
                print(f"--- {node}\n{node.log_tail()}")
            node.kill()
            node.proxy.close()

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.process is not None]

    def start(self, node: Node, *, wait: bool = True) -> None:
        if node not in self._started:
            self._started.append(node)
        node.start(wait=wait)

    def add(self, *options: str) -> Node:
        """Start one more node, which joins the others."""
        node = Node(self, len(self.nodes), self.directory / f"n{len(self.nodes)}")
        node.options += options
        self.nodes.append(node)
        self.start(node)
        return node

    def joined_by(self, node: Node) -> list[Node]:
        """Return whom a node is told to join: those that were started before it, and for the first nobody."""
        before = self._started[: self._started.index(node)] if node in self._started else []
        return before[:2]

    # --- links

    def sender(self, port: int) -> Node | None:
        """Return the node that has opened a connection from this local port."""
        return next((node for node in self.nodes if node.owns_local_port(port)), None)

    def cut(self, left: Iterable[Node], right: Iterable[Node]) -> None:
        """Cut all links between two groups, and let no new ones come up."""
        right = list(right)
        for one in left:
            for other in right:
                one.proxy.block(other)
                other.proxy.block(one)

    def heal(self) -> None:
        for node in self.nodes:
            node.proxy.unblock()

    # --- waiting

    def wait_linked(self, nodes: Sequence[Node] | None = None, *, seconds: float = 30.0) -> None:
        """Wait until each of the running nodes is linked with all others of them."""
        wanted = self.running if nodes is None else list(nodes)

        def are_linked() -> bool:
            return all(_linked_count(node) >= len(wanted) - 1 for node in wanted)

        wait_until(are_linked, "all are linked", seconds=seconds)

    def wait_equal(self, nodes: Sequence[Node] | None = None, *, seconds: float = 60.0) -> None:
        """Wait until the running nodes have the same writes, then compare their records by digests and one by one."""
        chosen = self.running if nodes is None else list(nodes)

        def have_the_same() -> bool:
            found = [node.status() for node in chosen]
            return (
                len({one["dots"] for one in found}) == 1
                and all(one["durable_dots"] == one["dots"] for one in found)
                and not any(one["half_synced"] or one["bootstrap"] for one in found)
                and all(
                    member["lag_dots"] == 0 for one in found for member in one["members"] if member["linked"]
                )
            )

        wait_until(have_the_same, "all have the same writes", seconds=seconds)
        dumps = [dump(node) for node in chosen]
        for node, found in zip(chosen[1:], dumps[1:], strict=True):
            different = [key for key in {*found, *dumps[0]} if found.get(key) != dumps[0].get(key)]
            assert not different, f"{node} differs from {chosen[0]} in {sorted(different)[:10]}"
        if len(chosen) > 1:
            self.wait_linked(chosen)
            self.verify(chosen[0])

    def verify(self, node: Node) -> None:
        """Compare a node with all its peers by `kvd cluster verify`."""
        command = [
            sys.executable,
            "-m",
            "kvd",
            "cluster",
            "verify",
            "--json",
            "--url",
            f"redis://127.0.0.1:{node.port}",
        ]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, f"{result.stdout}{result.stderr}"


def _linked_count(node: Node) -> int:
    return sum(member["linked"] for member in node.status()["members"])


def dump(node: Node) -> dict[str, tuple[str | None, int]]:
    """Return every key of database 0 with its value and expiry."""
    with node.client() as client:
        found: dict[str, tuple[str | None, int]] = {}
        keys = list(client.scan_iter(count=1000))
        for start in range(0, len(keys), 1000):
            part = keys[start : start + 1000]
            pipeline = client.pipeline(transaction=False)
            for key in part:
                pipeline.get(key)
                pipeline.pexpiretime(key)
            replies = pipeline.execute()
            found.update({key: (replies[2 * i], replies[2 * i + 1]) for i, key in enumerate(part)})
        return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def eventually(condition: Any, what: str, *, seconds: float = 10.0) -> None:
    """Wait until `condition()` holds; failures of the client meanwhile count as not yet."""

    def holds() -> bool:
        try:
            return bool(condition())
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
            return False

    wait_until(holds, what, seconds=seconds)


def measure(work: Any) -> float:
    """Return the seconds that `work()` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
