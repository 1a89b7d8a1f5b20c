"""A TCP proxy in front of one node: passes bytes, or does not, or slowly, by who has opened the connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from tests.cluster_live.harness import Cluster, Node

_CHUNK: Final = 64 * 1024


@attrs.define(eq=False)
class _Connection:
    sender: Node | None
    near: socket.socket  # to who has opened it
    far: socket.socket  # to the node

    def close(self) -> None:
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):  # whoever reads from it closes it
                sock.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Listens on a port of its own for as long as the test runs, whether or not its node does."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self._cluster = cluster
        self._node = node
        self._blocked: set[int] = set()  # numbers of nodes
        self._connections: list[_Connection] = []
        self._lock = threading.Lock()
        self.forwarded_bytes = 0  # both ways, of connections that are over, too
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._serving: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def block(self, other: Node) -> None:
        """End all connections from `other`, and let it make none."""
        with self._lock:
            self._blocked.add(other.number)
            ended = [one for one in self._connections if one.sender is other]
        for connection in ended:
            connection.close()

    def unblock(self) -> None:
        with self._lock:
            self._blocked.clear()

    def cut_all(self) -> None:
        """End all connections of this moment."""
        with self._lock:
            ended = list(self._connections)
        for connection in ended:
            connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone does not wake who accepts
        self._listener.close()
        self._accepting.join()
        with self._lock:
            serving = list(self._serving)
        self.cut_all()
        for thread in serving:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                near, (_, port) = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(near, port))
            with self._lock:
                self._serving = [one for one in self._serving if one.is_alive()]
                self._serving.append(thread)
            thread.start()

    def _serve(self, near: socket.socket, port: int) -> None:
        with near:
            sender = self._cluster.sender(port)
            with self._lock:
                is_blocked = sender is not None and sender.number in self._blocked
            if is_blocked:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._node.peer_port), timeout=5)
            except OSError:
                return
            with far:
                self._pass(_Connection(sender, near, far))

    def _pass(self, connection: _Connection) -> None:
        """Pass bytes both ways until one side is closed."""
        for sock in (connection.near, connection.far):
            sock.settimeout(None)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.append(connection)
        back = threading.Thread(
            target=self._pump, args=(connection, connection.far, connection.near, connection.sender)
        )
        back.start()
        self._pump(connection, connection.near, connection.far, self._node)
        back.join()
        with self._lock:
            self._connections.remove(connection)

    def _pump(
        self, connection: _Connection, source: socket.socket, target: socket.socket, reader: Node | None
    ) -> None:
        """Pass bytes one way until either end is closed, as slowly as `reader` takes them."""
        try:
            while data := source.recv(_CHUNK if reader is None or not reader.bytes_a_second else 1024):
                limit = None if reader is None else reader.bytes_a_second
                if limit:
                    time.sleep(len(data) / limit)
                target.sendall(data)
                with self._lock:
                    self.forwarded_bytes += len(data)
        except OSError:
            pass
        connection.close()
