"""Counters of HTTP: requests by interface, method and status, and how long they took."""

from __future__ import annotations

from typing import Final

# Bucket i counts what took less than 2**i nanoseconds, as those of commands do.
_BUCKETS: Final = 48
_KNOWN: Final = ("binding", b"GET", 200)
_KNOWN_BUCKET: Final = 11  # a microsecond or two, as `make bench-http` finds
_METHODS: Final = frozenset((b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH"))


class Traffic:
    """Totals since the start. Plain numbers, written by one thread."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, bytes, int], int] = {}
        self.nanoseconds: dict[str, int] = {}
        self.histogram = [0] * _BUCKETS
        self.malformed = 0
        self.known = 0  # GETs of the binding protocol that were answered by `hot`; their time is not taken

    def totals(self) -> dict[tuple[str, bytes, int], int]:
        """Return the requests by interface, method and status."""
        totals = dict(self.requests)
        if self.known:
            totals[_KNOWN] = totals.get(_KNOWN, 0) + self.known
        return totals

    def durations(self) -> list[int]:
        """Return how many requests took so long, by bucket; those whose time is not taken among them."""
        found = list(self.histogram)
        found[_KNOWN_BUCKET] += self.known
        return found

    def count(self, kind: str, method: bytes, status: int, elapsed_ns: int) -> None:
        """Count one request. What the client may choose freely (its method) is put into few classes."""
        entry = (kind, method if method in _METHODS else b"other", status)
        self.requests[entry] = self.requests.get(entry, 0) + 1
        self.nanoseconds[kind] = self.nanoseconds.get(kind, 0) + elapsed_ns
        self.histogram[elapsed_ns.bit_length()] += 1
