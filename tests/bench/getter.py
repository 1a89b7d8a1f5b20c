"""A client in a process of its own that asks one node for values, a hundred times a second.

In the process that also generates the load it would wait for that, and the wait would be taken for the node's. So it would
if it had to wait for a processor, which a client on a machine of its own has to itself: it has real-time priority, if it may.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import time
from multiprocessing.connection import Connection
from typing import Final, cast

from tests.bench.latency import Histogram
from tests.bench.load import note

ASKED: Final = tuple(f"asked:{index}" for index in range(1000))
_GET_SECONDS: Final = 0.01


class Getter:
    """Asks until closed. The keys of `ASKED` are there."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_ask, args=(port, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.take()  # it is up

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def take(self) -> Histogram:
        """Return what was measured since the last time."""
        self._pipe.send(True)
        return cast("Histogram", self._pipe.recv())

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _ask(port: int, pipe: Connection) -> None:
    """Ask until the other end of the pipe is closed; whatever comes from there is answered with what was measured."""
    _never_wait_for_a_processor()
    rng, found = random.Random(4), Histogram()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        while True:
            if pipe.poll():
                try:
                    pipe.recv()
                except EOFError:
                    return
                pipe.send(found)
                found = Histogram()
            time.sleep(_GET_SECONDS)
            started = time.perf_counter_ns()
            sock.sendall(b"GET %s\r\n" % rng.choice(ASKED).encode())
            sock.recv(1024)
            found.add_felt(time.perf_counter_ns() - started, _GET_SECONDS)


def _never_wait_for_a_processor() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        note("the client may not have real-time priority: it may wait for a processor, not the node")
