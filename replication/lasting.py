"""Something that counts only once it has been so for long."""

from __future__ import annotations


class Lasting:
    """Whether something has been so for long."""

    def __init__(self) -> None:
        self._since: float | None = None

    def lasts(self, is_so: bool, now: float, seconds: float) -> bool:
        """Take note whether it is so; tell whether it was at each of these calls for more than `seconds`."""
        if not is_so:
            self._since = None
        elif self._since is None:
            self._since = now
        return self._since is not None and now - self._since > seconds
