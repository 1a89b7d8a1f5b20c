"""How much `make test` draws and runs, and how much more the soak does."""

from __future__ import annotations

import os
from typing import Final

# `make soak` sets it: ten times as many examples for each property.
_TIMES: Final = int(os.environ.get("KVD_EXAMPLES", "1"))


def examples(count: int) -> int:
    """Return how many examples of a property are drawn, for `count` in `make test`."""
    return count * _TIMES
