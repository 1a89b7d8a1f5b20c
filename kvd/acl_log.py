"""What was refused lately: the entries of ACL LOG.

Refusals of the same thing to the same user within a minute are one entry with a count, so that a client
which tries again and again does not push everything else out. Source: Redis 7.2 ACL LOG.
"""

from __future__ import annotations

from typing import Final

import attrs

from protocol.replies import Reply

_SAME_ENTRY_MS: Final = 60_000
# How many of the newest entries are looked at for one to count up.
_RECENT_ENTRIES: Final = 10
# How much of a key, a channel or a name is kept: who is refused may send any.
_SHOWN_BYTES: Final = 1024


def _shortened(value: bytes) -> bytes:
    return value[:_SHOWN_BYTES]


@attrs.frozen
class Refusal:
    """What was refused, and to whom. `reason` and `context` are words of ACL LOG."""

    reason: str  # command, key, channel, auth
    context: str  # toplevel, multi, lua
    object: bytes = attrs.field(converter=_shortened)
    username: bytes = attrs.field(converter=_shortened)


@attrs.define
class _Entry:
    id: int
    refusal: Refusal
    created_at_ms: int
    updated_at_ms: int
    client_info: bytes
    count: int = 1


class AclLog:
    """The newest entries first."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._next_id = 0

    def add(self, refusal: Refusal, client_info: bytes, *, now_ms: int, max_len: int) -> None:
        """Enter a refusal; the oldest entries beyond `max_len` go."""
        entry = self._similar(refusal, now_ms)
        if entry is None:
            entry = _Entry(self._next_id, refusal, now_ms, now_ms, client_info)
            self._next_id += 1
        else:
            self._entries.remove(entry)
            entry.count += 1
            entry.updated_at_ms = now_ms
            entry.client_info = client_info
        self._entries.insert(0, entry)
        del self._entries[max_len:]

    def _similar(self, refusal: Refusal, now_ms: int) -> _Entry | None:
        for entry in self._entries[:_RECENT_ENTRIES]:
            if entry.refusal == refusal and now_ms - entry.updated_at_ms <= _SAME_ENTRY_MS:
                return entry
        return None

    def reset(self) -> None:
        """Forget all entries."""
        self._entries.clear()

    def newest(self, count: int, *, now_ms: int) -> list[Reply]:
        """Return up to `count` entries as ACL LOG shows them."""
        return [_shown(entry, now_ms) for entry in self._entries[:count]]


def _shown(entry: _Entry, now_ms: int) -> Reply:
    refusal = entry.refusal
    return {
        b"count": entry.count,
        b"reason": refusal.reason.encode(),
        b"context": refusal.context.encode(),
        b"object": refusal.object,
        b"username": refusal.username,
        b"age-seconds": (now_ms - entry.updated_at_ms) / 1000,
        b"client-info": entry.client_info,
        b"entry-id": entry.id,
        b"timestamp-created": entry.created_at_ms,
        b"timestamp-last-updated": entry.updated_at_ms,
    }
