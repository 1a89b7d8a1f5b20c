"""What single clients see over minutes: latencies of a mixed load at a fixed rate, P=1.

    python -m tests.bench.latency                          ten minutes against kvd (everysec)
    python -m tests.bench.latency --minutes 1 --server redis

Fifty connections send one request at a time. Requests are due at a fixed rate, and a latency counts
from the moment a request was due, not from when a connection was free to send it: a pause of the
server is felt by everything that should have happened during it (the "coordinated omission" that a
closed loop hides). The generator runs on the same machine in Python, so its own time is part of every
figure; what it adds is measured first, against a loop-back echo, and printed.

The mix: 70 % GET, 20 % SET, 4 % SET with expiry, 3 % INCR, 3 % DEL, uniform over 100,000 keys.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import random
import select
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench.load import VALUE_BYTES, fill, note
from tests.servers import Durability, kvd_server, redis_server

KEYS: Final = 100_000
CONNECTIONS: Final = 50
RATE_PER_SECOND: Final = 10_000
GENERATOR_MINUTES: Final = 5 / 60  # how long its own share is measured
TARGET_P999_MS: Final = 10.0

Request = Callable[[], bytes]


class Histogram:
    """Latencies in buckets: 32 steps in each power of two, so at most 3.2 % wide, in bounded memory."""

    _GROWTH_BITS: Final = 5

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.highest_ns = 0

    def add(self, nanoseconds: int) -> None:
        shift = max(0, nanoseconds.bit_length() - self._GROWTH_BITS - 1)
        bucket = (shift << (self._GROWTH_BITS + 1)) + (nanoseconds >> shift)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.highest_ns = max(self.highest_ns, nanoseconds)

    def add_felt(self, took_ns: int, interval_seconds: float) -> None:
        """Add a latency, and those of the requests that should have been sent meanwhile: they all would have waited."""
        interval_ns = int(interval_seconds * 1e9)
        for left_ns in range(took_ns, 0, -interval_ns):
            self.add(left_ns)

    def merge(self, other: Histogram) -> None:
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.highest_ns = max(self.highest_ns, other.highest_ns)

    def percentile_ms(self, percent: float) -> float:
        """Return the latency that `percent` of the requests did not exceed, to the width of a bucket."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return self._upper_ns(bucket) / 1e6
        return self.highest_ns / 1e6

    def _upper_ns(self, bucket: int) -> int:
        shift, step = bucket >> (self._GROWTH_BITS + 1), bucket & ((2 << self._GROWTH_BITS) - 1)
        return min(((step + 1) << shift) - 1, self.highest_ns)


def mixed_requests(seed: int = 1) -> Request:
    """Return a source of requests of the mix; the same seed gives the same requests."""
    rng = random.Random(seed)
    value = b"x" * VALUE_BYTES
    get = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n"
    set_ = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%%012d\r\n$%d\r\n%s\r\n" % (VALUE_BYTES, value)
    set_ex = b"*5\r\n$3\r\nSET\r\n$16\r\nttl:%%012d\r\n$%d\r\n%s\r\n$2\r\nEX\r\n$2\r\n60\r\n" % (
        VALUE_BYTES,
        value,
    )
    incr = b"*2\r\n$4\r\nINCR\r\n$16\r\nnum:%012d\r\n"
    delete = b"*2\r\n$3\r\nDEL\r\n$16\r\nkey:%012d\r\n"
    templates = [get] * 70 + [set_] * 20 + [set_ex] * 4 + [incr] * 3 + [delete] * 3
    uniform, keys = rng.random, KEYS

    def request() -> bytes:
        return templates[int(uniform() * 100)] % int(uniform() * keys)

    return request


class Generator:
    """Fifty connections and one clock; the hot loop of the benchmark, hence plain."""

    def __init__(self, address: tuple[str, int], request: Request, rate_per_second: int) -> None:
        self._request = request
        self._interval_ns = 1_000_000_000 // rate_per_second
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        for _ in range(CONNECTIONS):
            sock = socket.create_connection(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            self._poll.register(sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._poll.close()

    def run(self, seconds: float) -> Histogram:
        """Send for so long and return the latencies. What is under way at the end is waited for."""
        histogram = Histogram()
        idle = deque(self._sockets)
        due_of: dict[int, int] = {}
        clock = time.perf_counter_ns
        due = clock()
        end = due + int(seconds * 1e9)
        while due < end or due_of:
            now = clock()
            while idle and due <= now and due < end:
                fd = idle.popleft()
                due_of[fd] = due
                self._sockets[fd].send(self._request())
                due += self._interval_ns
            for fd, _ in self._poll.poll(self._wait_seconds(due, now) if idle and due < end else 1.0):
                reply = self._sockets[fd].recv(4096)
                if not reply.endswith(b"\r\n"):
                    raise RuntimeError(f"the server sent {reply!r}")
                if reply.startswith(b"-"):
                    raise RuntimeError(f"the server refuses: {reply!r}")
                histogram.add(clock() - due_of.pop(fd))
                idle.append(fd)
        return histogram

    @staticmethod
    def _wait_seconds(due: int, now: int) -> float:
        # epoll waits in whole milliseconds and rounds up; below one it is asked again at once.
        return max(0, (due - now) // 1_000_000) / 1e3


@contextlib.contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    """Answer every request with +OK from a thread of this process, for the generator's own share."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def serve() -> None:
        with select.epoll() as poll, contextlib.ExitStack() as stack:
            sockets = {listener.fileno(): listener}
            poll.register(listener.fileno(), select.EPOLLIN)
            while not stopping.is_set():
                for fd, _ in poll.poll(0.2):
                    if fd == listener.fileno():
                        sock = stack.enter_context(listener.accept()[0])
                        sockets[sock.fileno()] = sock
                        poll.register(sock.fileno(), select.EPOLLIN)
                    elif sockets[fd].recv(65536):
                        sockets[fd].send(b"+OK\r\n")
                    else:
                        poll.unregister(fd)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        stopping.set()
        thread.join()
        listener.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with echo_server() as address:
        _print("generator", _measure(address, options.rate, min(GENERATOR_MINUTES, options.minutes)))
    start = kvd_server if options.server == "kvd" else redis_server
    with (
        tempfile.TemporaryDirectory(prefix="kvd-bench-") as directory,
        start(Path(directory), durability=options.durability) as server,
    ):
        fill(server, KEYS)
        before = server.cpu_seconds()
        histogram = _measure((server.host, server.port), options.rate, options.minutes)
        cpu_us = (server.cpu_seconds() - before) * 1e6 / histogram.count
    _print(f"{options.server} ({options.durability})", histogram)
    print(f"CPU time of the server: {cpu_us:.1f} us a request")
    reached = histogram.percentile_ms(99.9) < TARGET_P999_MS
    print(f"target p99.9 under {TARGET_P999_MS:g} ms: {'reached' if reached else 'NOT reached'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=RATE_PER_SECOND, help="requests a second")
    parser.add_argument("--server", choices=["kvd", "redis"], default="kvd")
    durabilities: tuple[Durability, ...] = ("always", "everysec", "no")
    parser.add_argument("--durability", choices=durabilities, default="everysec")
    return parser


def _measure(address: tuple[str, int], rate: int, minutes: float) -> Histogram:
    """Run in parts of a minute, each of which is noted with its own figures."""
    total = Histogram()
    generator = Generator(address, mixed_requests(), rate)
    gc.disable()  # the generator makes no cycles; its collections would look like the server's pauses
    try:
        left = minutes * 60
        while left > 0:
            part = generator.run(min(60.0, left))
            left -= 60.0
            total.merge(part)
            note(_figures(part))
    finally:
        gc.enable()
        generator.close()
    return total


def _figures(histogram: Histogram) -> str:
    shown = "  ".join(
        f"p{percent:g} {histogram.percentile_ms(percent):.3f}" for percent in (50, 90, 99, 99.9, 99.99)
    )
    return f"{histogram.count:,} requests, ms: {shown}  max {histogram.highest_ns / 1e6:.3f}"


def _print(name: str, histogram: Histogram) -> None:
    print(f"{name}: {_figures(histogram)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
