"""Readiness of many sockets, as one object that Trio can wait for.

On Linux an epoll object does it: polling costs one system call whatever the number of sockets, and
Trio waits for the epoll's own descriptor. Elsewhere the standard library's best selector stands in;
one without a descriptor (Windows) is waited for in a thread. Correct everywhere, fast on Linux.
"""

from __future__ import annotations

import select
import selectors
import sys
from collections.abc import Iterable
from typing import Final, Protocol

import trio

READ: Final = 1
WRITE: Final = 4
# Any other bit in an event (error, urgent data, the other side has closed) is to be treated as READ: what recv says
# tells what it is.

# With READ, where the platform has it: tell once of what came, not in each poll for as long as it is there, and tell
# whether the other side has closed, or has sent urgent data (a recv ends there). Linux would else look at each socket a
# second time, in the poll after it was read. Whoever registers with it has to go on by himself: until a recv returned
# less than it might have, and where he was told of more than input, until one finds nothing or the end.
ONCE: Final = select.EPOLLET | select.EPOLLRDHUP | select.EPOLLPRI if sys.platform == "linux" else 0

# Where a thread has to wait, it looks up this often to see whether the hub was stopped.
_THREAD_WAIT_SECONDS: Final = 0.05


class Poller(Protocol):
    """Readiness, level-triggered unless with `ONCE`. Events come as ``(fd, mask)``. A mask of 0 waits for nothing."""

    def register(self, fd: int, mask: int) -> None: ...
    def modify(self, fd: int, mask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...

    def poll(self, timeout_seconds: float = 0) -> list[tuple[int, int]]:
        """Return what is ready now, or becomes so within the timeout."""

    async def wait(self) -> None:
        """Return when something may be ready. A Trio checkpoint."""

    def close(self) -> None: ...


def open_poller() -> Poller:
    """Return the best poller of this platform."""
    if sys.platform == "linux":
        return EpollPoller()
    else:  # noqa: RET505 -- so that the type checker leaves out what is not for its platform
        return SelectorPoller()


def departed(fds: Iterable[int]) -> list[int]:
    """Return those of some sockets whose other side sends no more, whatever is still to be read from them.

    None where the platform cannot tell.
    """
    if sys.platform != "linux":
        return []
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLRDHUP)
    return [fd for fd, _ in poll.poll(0)]


class EpollPoller:
    """Linux epoll. Its event bits for reading and writing are `READ` and `WRITE`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register = self._epoll.register
        self.modify = self._epoll.modify
        self.unregister = self._epoll.unregister
        self._fd = self._epoll.fileno()

    def poll(self, timeout_seconds: float = 0) -> list[tuple[int, int]]:
        return self._epoll.poll(timeout_seconds)

    async def wait(self) -> None:
        await trio.lowlevel.wait_readable(self._fd)

    def close(self) -> None:
        self._epoll.close()


class SelectorPoller:
    """Any `selectors.DefaultSelector`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        self._selector.register(fd, _selector_mask(mask))

    def modify(self, fd: int, mask: int) -> None:
        # Who waits for nothing is taken out: `selectors` has no empty mask.
        self.unregister(fd)
        if mask:
            self.register(fd, mask)

    def unregister(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def poll(self, timeout_seconds: float = 0) -> list[tuple[int, int]]:
        ready = self._selector.select(timeout_seconds)
        return [(key.fd, _event_mask(mask)) for key, mask in ready]

    async def wait(self) -> None:
        fileno = getattr(self._selector, "fileno", None)
        if fileno is not None:
            await trio.lowlevel.wait_readable(fileno())
        else:
            await trio.to_thread.run_sync(self._selector.select, _THREAD_WAIT_SECONDS)

    def close(self) -> None:
        self._selector.close()


def _selector_mask(mask: int) -> int:
    reads = selectors.EVENT_READ if mask & READ else 0
    return reads | (selectors.EVENT_WRITE if mask & WRITE else 0)


def _event_mask(mask: int) -> int:
    return (READ if mask & selectors.EVENT_READ else 0) | (WRITE if mask & selectors.EVENT_WRITE else 0)
