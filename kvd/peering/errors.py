"""What keeps a node from starting among its peers."""

from __future__ import annotations


class CannotJoin(Exception):
    """The node cannot be what the settings want; the text says what the operator can do."""
