"""Which of many prefixes does a byte string start with: the look-up behind patterns and broadcasts.

Prefixes are kept by their length. A look-up slices its subject once for each length that occurs, so it
costs O(different lengths), not O(prefixes): ten thousand subscribers to ``user:<id>:*`` cost the publisher
a handful of dict look-ups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class PrefixIndex(Generic[ValueT]):
    """A mapping from prefixes to values, asked with whole strings."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[bytes, ValueT]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_length)

    def get(self, prefix: bytes) -> ValueT | None:
        """Return the value of exactly this prefix."""
        return self._by_length.get(len(prefix), {}).get(prefix)

    def put(self, prefix: bytes, value: ValueT) -> None:
        self._by_length.setdefault(len(prefix), {})[prefix] = value

    def delete(self, prefix: bytes) -> None:
        """Forget a prefix that is there."""
        same_length = self._by_length[len(prefix)]
        del same_length[prefix]
        if not same_length:
            del self._by_length[len(prefix)]

    def matching(self, subject: bytes) -> Iterator[tuple[bytes, ValueT]]:
        """Yield every prefix that `subject` starts with, the empty one included, with its value."""
        for length, same_length in self._by_length.items():
            prefix = subject[:length]
            if prefix in same_length:
                yield prefix, same_length[prefix]
