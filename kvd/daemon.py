"""The composition root: builds the parts, opens the nurseries, and stops everything in order.

    daemon ⊃ hub, TLS listener ⊃ TLS connections
           ⊃ peers ⊃ their listener, links and timers
           ⊃ timers (sync, sweep, housekeeping)
           ⊃ what commands spawn (checkpoints, long walks, waits)

The order of the start: store, server, sockets, peers, tasks, ports file. The order of the stop is in
`_stop`, which reads as a checklist.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import structlog
import trio

from kvd import encryption, housekeeping, process, watchdog
from kvd.hub import Hub
from kvd.listeners import Door, PlainListener, RespDoor, TlsListener, open_tcp, open_unix
from kvd.peering.peers import Peers
from kvd.peering.start import open_peers
from kvd.poller import open_poller
from kvd.sampler import sample_periodically
from kvd.server import Server
from kvd.settings import HttpSettings, ServerSettings, Settings
from kvd.web.door import HttpDoor
from kvd.web.front import Front
from kvd.web.router import find_route
from storage.store import Store

log = structlog.get_logger()

# How long clients may take to read the last of their replies once the daemon stops.
_STOP_SECONDS: Final = 5.0
# Young objects between two collections. A request makes and frees a few containers, so the default of
# 700 would collect all the time for nothing; what lives long is frozen, see `_tune_collector`. Of 50,000 records
# that reads bring into the cache a collection would take 20 ms.
_YOUNG_OBJECTS: Final = 10_000


async def serve(
    settings: Settings, *, ports_file: Path | None = None, config_file: Path | None = None
) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    `ports_file` gets ``{"resp": port, ...}`` once every socket is open, written atomically.
    Raises StorageError or OSError if it cannot start, with nothing left open.
    """
    settings = _with_room_for_clients(settings)
    with contextlib.ExitStack() as resources:
        store = housekeeping.open_store(settings)
        resources.callback(store.close)
        server = Server(settings, store)
        server.config_file = config_file
        hub = Hub(server, open_poller())
        resources.callback(hub.close)
        http = open_front(server)
        listeners = _open_plain(settings, server, hub, http, resources)
        tls = _open_tls(settings, server, hub, http, resources)
        peers = open_peers(settings, server, hub)
        _tune_collector(store)

        def announce() -> None:
            ports = _ports(listeners, tls, peers)
            if ports_file is not None:
                _write_ports(ports_file, ports)
            _announce(server, ports)

        await _run(server, hub, tls, announce)
        store.sync()
    log.info("stopped")


def _with_room_for_clients(settings: Settings) -> Settings:
    """Let in no more clients than the limit of open files allows: the engine needs some, too."""
    wanted = settings.server.maxclients
    room = process.room_for_clients(wanted)
    if room == wanted:
        return settings
    log.warning("the limit of open files allows for fewer clients", maxclients=wanted, allowed=room)
    return settings.replaced({"server.maxclients": room})


def open_front(server: Server) -> HttpDoor:
    """Make what HTTP clients share, and return their door."""
    server.web = Front(server, find_route)
    return HttpDoor(server, server.web)


def _open_plain(
    settings: Settings, server: Server, hub: Hub, http: HttpDoor, resources: contextlib.ExitStack
) -> list[PlainListener]:
    ports: tuple[tuple[ServerSettings | HttpSettings, str, Door], ...] = (
        (settings.server, "server.port", RespDoor(server)),
        (settings.http, "http.port", http),
    )
    listeners = []
    for section, name, door in ports:
        for sock in _open_sockets(settings, section, name, resources):
            listener = PlainListener(sock, server, door)
            hub.add_listener(listener)
            listeners.append(listener)
    return listeners


def _open_sockets(
    settings: Settings, section: ServerSettings | HttpSettings, name: str, resources: contextlib.ExitStack
) -> list[socket.socket]:
    """Open the TCP port, which the setting `name` gives, and the unix socket of one protocol."""
    sockets = open_tcp(settings.server, section.port, name) if section.port >= 0 else []
    for sock in sockets:
        resources.callback(sock.close)
    path = section.unix_socket
    if path:
        sock = open_unix(path, section.unix_socket_permissions, settings.server.tcp_backlog)
        resources.callback(Path(path).unlink, missing_ok=True)
        resources.callback(sock.close)
        sockets.append(sock)
    return sockets


def _open_tls(
    settings: Settings, server: Server, hub: Hub, http: HttpDoor, resources: contextlib.ExitStack
) -> list[TlsListener]:
    ports: tuple[tuple[int, str, Door], ...] = (
        (settings.server.tls_port, "server.tls_port", RespDoor(server)),
        (settings.http.tls_port, "http.tls_port", http),
    )
    listeners = []
    for port, name, door in ports:
        if port >= 0:
            sockets = open_tcp(settings.server, port, name)
            for sock in sockets:
                resources.callback(sock.close)
            listeners.append(TlsListener(hub, server, sockets, door))
    return listeners


def _ports(listeners: list[PlainListener], tls: list[TlsListener], peers: Peers | None) -> dict[str, int]:
    """Return the ports that are open, by what is spoken there."""
    ports: dict[str, int] = {}
    for plain in listeners:
        if plain.port:
            ports.setdefault(plain.door.protocol, plain.port)
    ports |= {f"{encrypted.door.protocol}_tls": encrypted.port for encrypted in tls}
    if peers is not None and peers.port:
        ports["peer"] = peers.port
    return ports


def _write_ports(path: Path, ports: dict[str, int]) -> None:
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(json.dumps(ports))
        new.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the ports file {path}: {error.strerror}") from error


def _announce(server: Server, ports: dict[str, int]) -> None:
    settings = server.settings
    log.info(
        "ready for clients",
        port=ports.get("resp"),
        tls_port=ports.get("resp_tls"),
        http_port=ports.get("http"),
        unix_socket=settings.server.unix_socket or None,
        peer_port=ports.get("peer"),
        data_dir=settings.storage.data_dir,
        durability=settings.storage.durability,
        encryption=encryption.fields(server.store)["encryption"],
        pid=os.getpid(),
    )


def _tune_collector(store: Store) -> None:
    """Keep the cyclic garbage collector from ever walking the record cache.

    A full collection looks at every container; a dict of a million records would stop all clients for
    tens of milliseconds. What exists now (code, the cache's dicts, the tables) is frozen for good, and
    records are plain tuples of atoms, which the collector lets go of by itself.
    """
    store.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 100)


async def _run(server: Server, hub: Hub, tls: list[TlsListener], announce: Callable[[], None]) -> None:
    stopping = trio.Event()
    server.stop = stopping.set
    with _stopping_by_signal(stopping):
        async with trio.open_nursery() as nursery:
            server.spawn = spawner(server, nursery)
            nursery.start_soon(hub.run)
            nursery.start_soon(housekeeping.sync_every_second, server)
            nursery.start_soon(housekeeping.sweep, server, hub)
            nursery.start_soon(housekeeping.watch, server, hub)
            nursery.start_soon(encryption.reseal, server, hub)
            nursery.start_soon(sample_periodically, server)
            nursery.start_soon(watchdog.watch, server)
            for listener in tls:
                nursery.start_soon(listener.run)
            if server.web is not None:
                nursery.start_soon(server.web.watch)
            if server.peers is not None:
                await nursery.start(server.peers.run)
            await nursery.start(_reopen_by_signal, server, tls)
            announce()
            await stopping.wait()
            await _stop(hub, tls, server.peers)
            nursery.cancel_scope.cancel()


def spawner(server: Server, nursery: trio.Nursery) -> Callable[..., None]:
    """Return `Server.spawn`: a task whose failure is logged and ends nothing but itself."""

    async def run(function: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await function(*args)
        except Exception:
            log.exception("background task failed", task=getattr(function, "__name__", repr(function)))
        finally:
            server.spawned -= 1

    def spawn(function: Callable[..., Awaitable[None]], *args: object) -> None:
        server.spawned += 1
        nursery.start_soon(run, function, *args, name=function)

    return spawn


async def _stop(hub: Hub, tls: list[TlsListener], peers: Peers | None) -> None:
    """Stop in order. Every tick is whole by now: this task runs between two of them."""
    log.info("stopping")
    for listener in tls:
        listener.stop_accepting()
    with trio.move_on_after(_STOP_SECONDS):
        await hub.drain()
    if peers is not None:
        await peers.stop()  # what the last clients wrote goes out first


@contextlib.contextmanager
def _stopping_by_signal(stopping: trio.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the daemon in order, a second one at once.

    By a handler and not by a task: a script that does not end keeps every task from its turn.
    """
    token = trio.lowlevel.current_trio_token()
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        token.run_sync_soon(stop, number)

    def stop(number: int) -> None:
        log.info("signal received", signal=signal.Signals(number).name)
        stopping.set()

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _reopen_by_signal(
    server: Server,
    tls: list[TlsListener],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Reopen by SIGHUP what can be."""
    if sys.platform == "win32":
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            housekeeping.reopen(server, tls)
