"""The slow log: the last commands that took longer than a threshold, as SLOWLOG GET shows them.

Bounded in every direction: the number of entries is a setting, an entry keeps the first
`ARGUMENTS_MAX` arguments and of each the first `ARGUMENT_BYTES_MAX` bytes, and says how much it
left out. What must stay secret (`kvd.redaction`) is left out as well.

Source: Redis 7.2 SLOWLOG; the bounds and the words for what is left out are the same.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from kvd.commands.spec import Request
from kvd.redaction import redacted

if TYPE_CHECKING:
    from kvd.server import Server
    from kvd.session import Session

ARGUMENTS_MAX: Final = 32
ARGUMENT_BYTES_MAX: Final = 128

# No command takes as long (292 years): the threshold of a slow log that is switched off.
_NEVER_NS: Final = 2**63

# Plain commands are timed a run at a time (`kvd.session`), and a run of several is entered by its average.
# That is good enough to find a disk that hangs, not to see what took a tenth of this.
_TIMED_IN_RUNS_NS: Final = 1_000_000


@attrs.frozen
class SlowEntry:
    """One slow command. `id` only grows; it is not reused after SLOWLOG RESET."""

    id: int
    at_seconds: int
    microseconds: int
    arguments: list[bytes]
    address: bytes
    client_name: bytes


class Slowlog:
    """The entries, the newest first. `threshold_ns` is what dispatch compares each call with."""

    def __init__(self, server: Server) -> None:
        self.entries: deque[SlowEntry] = deque()
        self.threshold_ns = _NEVER_NS
        self._server = server
        self._next_id = 0
        self.configure()

    def configure(self) -> None:
        """Take threshold and length from the settings that are in force now."""
        log = self._server.settings.log
        slower_than_us = log.slowlog_log_slower_than_us
        self.threshold_ns = slower_than_us * 1000 if slower_than_us >= 0 else _NEVER_NS
        kept = list(self.entries)[: log.slowlog_max_len]
        self.entries = deque(kept, maxlen=log.slowlog_max_len)

    @property
    def wants_every_command(self) -> bool:
        """Tell whether the threshold is so low that commands must be timed one by one."""
        return self.threshold_ns < _TIMED_IN_RUNS_NS

    def add(self, session: Session, request: Request, elapsed_ns: int) -> None:
        """Enter a command that took `elapsed_ns`; the oldest entry makes room for it."""
        entry = SlowEntry(
            id=self._next_id,
            at_seconds=self._server.store.now_ms // 1000,
            microseconds=elapsed_ns // 1000,
            arguments=_shortened(redacted(request)),
            address=session.endpoint.address.encode(),
            client_name=session.name,
        )
        self._next_id += 1
        self.entries.appendleft(entry)

    def reset(self) -> None:
        """Forget all entries."""
        self.entries.clear()


def _shortened(request: Request) -> list[bytes]:
    if len(request) <= ARGUMENTS_MAX:
        return [_shortened_argument(argument) for argument in request]
    kept = ARGUMENTS_MAX - 1
    more = b"... (%d more arguments)" % (len(request) - kept)
    return [*(_shortened_argument(argument) for argument in request[:kept]), more]


def _shortened_argument(argument: bytes) -> bytes:
    excess = len(argument) - ARGUMENT_BYTES_MAX
    if excess <= 0:
        return argument
    return argument[:ARGUMENT_BYTES_MAX] + b"... (%d more bytes)" % excess
