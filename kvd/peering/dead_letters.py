"""Dead letters: writes that are undone because the cluster has gone on without them (`replication.rejoin`).

One JSON object a line, appended to ``dead-letters.jsonl`` in the data directory and on the disk before the
write is undone. Bytes are given as text where they are UTF-8, else in base64 under ``<name>_base64``. An
operator reads them, or feeds them to a program that writes what is still wanted.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from kvd.durable_files import sync_directory
from storage.changes import Change, Stamp

FILE: Final = "dead-letters.jsonl"
_NAMESPACE_BYTES: Final = 16
_DATABASES: Final = 16

# Fetches a value that is too large for its change, by (origin, seq, place).
ReadBody = Callable[[bytes, int, bytes], bytes | None]


def keep(path: Path, stale: Iterable[tuple[Stamp, Change]], read_body: ReadBody, *, now_ms: int) -> None:
    """Append writes to the file and get them onto the disk. Raises OSError, then the caller must not undo them."""
    lines = [
        json.dumps(_described(stamp, change, read_body, now_ms), separators=(",", ":"), ensure_ascii=False)
        for stamp, change in stale
    ]
    is_new = not path.exists()
    with path.open("a", encoding="utf-8") as file:
        if is_new:
            path.chmod(0o600)
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def _described(stamp: Stamp, change: Change, read_body: ReadBody, now_ms: int) -> dict[str, Any]:
    content = change.content
    if isinstance(content, int):
        content = read_body(stamp.origin, stamp.seq, change.place)
    namespace, key = change.place[:_NAMESPACE_BYTES], change.place[_NAMESPACE_BYTES:]
    return {
        "undone_at_ms": now_ms,
        "written_at_ms": stamp.hlc >> 16,
        "stamp": {"hlc": stamp.hlc, "origin": stamp.origin.hex(), "seq": stamp.seq},
        **_name(namespace),
        **_bytes("key", key),
        **_bytes("value", content),
        **_bytes("metadata", change.metadata),
    }


def _name(namespace: bytes) -> dict[str, Any]:
    number = int.from_bytes(namespace, "big")
    return {"database": number} if number < _DATABASES else {"namespace": namespace.hex()}


def _bytes(name: str, value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode("ascii")}
