"""Who may begin a handshake: bounds on connections that have not authenticated. Sans-IO.

A stranger costs a TLS handshake, a task and a file. So only so many may be in that state at once, few of
them from one address, and an address from which attempts have failed has to wait, longer each time. A
success clears its record: behind one address may be many nodes, one of them misconfigured. The address is
the host, for IPv6 its network of 64 bits, since whoever has one of those has all of it.

What is remembered is bounded: failures that are over are forgotten first, then the oldest.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import attrs

HALF_OPEN_MAX: Final = 128  # of all addresses; a cluster of a thousand that restarts comes in portions
HALF_OPEN_PER_ADDRESS_MAX: Final = 16
FREE_FAILURES: Final = 4  # without a delay: a connection may also break by itself
DELAY_MIN_SECONDS: Final = 0.5
DELAY_MAX_SECONDS: Final = 30.0
RECORDS_MAX: Final = 4096


@attrs.define
class _Record:
    half_open_count: int = 0
    failures_count: int = 0
    closed_until: float = 0.0


class Doorman:
    """Counts connections from their start until it is known whether they authenticate."""

    def __init__(
        self, *, half_open_max: int = HALF_OPEN_MAX, per_address_max: int = HALF_OPEN_PER_ADDRESS_MAX
    ) -> None:
        self._half_open_max = half_open_max
        self._per_address_max = per_address_max
        self._records: dict[str, _Record] = {}  # the one that changed last is last
        self.half_open_count = 0
        self.refused_count = 0

    def enter(self, host: str, now: float) -> bool:
        """Tell whether a connection from `host` may begin; then `leave` must follow."""
        place = _place_of(host)
        record = self._records.get(place) or _Record()
        if (
            self.half_open_count >= self._half_open_max
            or record.half_open_count >= self._per_address_max
            or now < record.closed_until
        ):
            self.refused_count += 1
            return False
        record.half_open_count += 1
        self.half_open_count += 1
        self._put(place, record)
        return True

    def leave(self, host: str, now: float, *, failed: bool) -> None:
        """Take note that a connection has authenticated, or that it never will."""
        place = _place_of(host)
        record = self._records[place]
        record.half_open_count -= 1
        self.half_open_count -= 1
        if failed:
            record.failures_count += 1
            record.closed_until = now + delay_after(record.failures_count)
        else:
            record.failures_count = 0
            record.closed_until = 0.0
        self._put(place, record)
        self._forget(now)

    def _put(self, place: str, record: _Record) -> None:
        self._records.pop(place, None)
        self._records[place] = record

    def _forget(self, now: float) -> None:
        """Drop a record that says nothing, and the oldest ones while there are too many."""
        for place in list(self._records)[:2]:  # two for each that can have come: it keeps up
            record = self._records[place]
            if not record.half_open_count and now >= record.closed_until + DELAY_MAX_SECONDS:
                del self._records[place]
        while len(self._records) > RECORDS_MAX:
            closed = (place for place, record in self._records.items() if not record.half_open_count)
            del self._records[next(closed)]


def delay_after(failures_count: int) -> float:
    """Return for how many seconds an address is kept out after so many failures in a row."""
    beyond = failures_count - FREE_FAILURES
    if beyond <= 0:
        return 0.0
    return min(DELAY_MIN_SECONDS * 2.0 ** min(beyond - 1, 30), DELAY_MAX_SECONDS)


def _place_of(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
