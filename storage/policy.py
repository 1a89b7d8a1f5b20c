"""What a named namespace may ask for. It is the metadata of the namespace's record in the registry, a JSON text."""

from __future__ import annotations

import json
from typing import Final

import attrs

HISTORY_MAX: Final = 100  # versions of a key; each may be as long as a value may


@attrs.frozen
class Policy:
    """One namespace's wishes."""

    replicate: str = "all"  # all | none; chosen once, when the namespace is made
    value_bytes_max: int | None = None  # beside the store's own limit
    conflict_log: bool = True  # whether lost writes are remembered
    history: int = 0  # how many past versions of a key each node keeps for itself (`history`)

    def encode(self) -> bytes | None:
        """Return the policy as a text; None for the default."""
        if self == DEFAULT_POLICY:
            return None
        return json.dumps(attrs.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, text: bytes | None) -> Policy:
        """Return the policy that a text asks for; what makes no sense asks for the default."""
        try:
            found = json.loads(text or b"{}")
        except ValueError:
            return cls()
        if not isinstance(found, dict):
            return cls()
        size = found.get("value_bytes_max")
        versions = found.get("history")
        return cls(
            replicate="none" if found.get("replicate") == "none" else "all",
            value_bytes_max=size if type(size) is int and size > 0 else None,
            conflict_log=found.get("conflict_log") is not False,
            history=min(versions, HISTORY_MAX) if type(versions) is int and versions > 0 else 0,
        )


DEFAULT_POLICY: Final = Policy()
