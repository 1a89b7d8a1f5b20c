"""Dead letters: writes that are undone because the cluster has gone on without them (`replication.rejoin`).

One JSON object a line, appended to ``dead-letters.jsonl`` in the data directory and on the disk before the
write is undone. Bytes are given as text where they are UTF-8, else in base64 under ``<name>_base64``. An
operator reads them, or feeds them to a program that writes what is still wanted.

Where values are encrypted on the disk, they are here, too: ``sealed`` stands in the place of value and metadata, the
base64 of their JSON object sealed for the letter's place (`storage.sealing`). `kvd dead-letters` opens them, and
`reseal` gives all letters the current key.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from kvd.durable_files import replace_file, sync_directory
from storage.changes import Change, Stamp
from storage.engine import Unopened
from storage.keyring import Keyring
from storage.sealing import Sealer, key_id_of

FILE: Final = "dead-letters.jsonl"
_NAMESPACE_BYTES: Final = 16
_DATABASES: Final = 16
_SEALED: Final = "sealed"
_SECRET: Final = ("value", "metadata")  # what the names of the parts that are sealed begin with

_lock: Final = threading.Lock()  # `reseal` runs in a thread

# Fetches a value that is too large for its change, by (origin, seq, place).
ReadBody = Callable[[bytes, int, bytes], bytes | None]


class LetterError(ValueError):
    """A line of the file cannot be read; the text says why."""


def keep(
    path: Path,
    stale: Iterable[tuple[Stamp, Change]],
    read_body: ReadBody,
    *,
    now_ms: int,
    keyring: Keyring | None = None,
) -> None:
    """Append writes to the file and get them onto the disk. Raises OSError, then the caller must not undo them."""
    sealer = _sealer(keyring)
    lines = [_line(_sealed(_described(stamp, change, read_body, now_ms), sealer)) for stamp, change in stale]
    with _lock:
        is_new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            if is_new:
                path.chmod(0o600)
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_directory(path.parent)


def read(path: Path, keyring: Keyring | None = None) -> Iterator[dict[str, Any]]:
    """Yield the letters of the file, opened. Raises OSError or `LetterError`."""
    sealer = _sealer(keyring)
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield _opened(_parsed(line), sealer)


def reseal(path: Path, keyring: Keyring) -> None:
    """Write the file anew with the current key; one that is not there needs nothing.

    A letter that does not open stays as it is. May be called from any thread. Raises OSError.
    """
    with _lock:
        if not path.exists():
            return
        sealer = _sealer(keyring)
        with path.open(encoding="utf-8") as file:
            lines = [_resealed(line, sealer) for line in file]
        replace_file(path, "".join(lines).encode(), mode=0o600)


def _resealed(line: str, sealer: Sealer | None) -> str:
    try:
        return _line(_sealed(_opened(_parsed(line), sealer), sealer))
    except LetterError:
        return line


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


# --- encryption


def _sealer(keyring: Keyring | None) -> Sealer | None:
    return None if keyring is None else Sealer(b"dead letters", keyring)


def _sealed(letter: dict[str, Any], sealer: Sealer | None) -> dict[str, Any]:
    """Return the letter as it is stored."""
    if sealer is None or sealer.current is None:
        return letter
    secret = {name: part for name, part in letter.items() if name.startswith(_SECRET)}
    shown = {name: part for name, part in letter.items() if name not in secret}
    stored = sealer.seal(_place(shown), _line(secret).encode())
    return {**shown, _SEALED: base64.b64encode(stored).decode("ascii")}


def _opened(letter: dict[str, Any], sealer: Sealer | None) -> dict[str, Any]:
    """Return the letter of what is stored. Raise `LetterError` if it does not open."""
    if _SEALED not in letter:
        return letter
    if sealer is None:
        raise LetterError("the letters are encrypted; give the file with the keys")
    shown = {name: part for name, part in letter.items() if name != _SEALED}
    stored = base64.b64decode(letter[_SEALED])
    text = sealer.open(_place(shown), stored)
    if isinstance(text, Unopened):
        key = (key_id_of(stored) or b"").hex()
        raise LetterError(
            f"a letter does not open with its key {key}: that is missing, or the letter was changed"
        )
    return {**shown, **json.loads(text)}


def _place(shown: dict[str, Any]) -> bytes:
    """Return what a letter's secret part is bound to: all of the rest."""
    return _line(shown).encode()


def _line(letter: dict[str, Any]) -> str:
    return json.dumps(letter, separators=(",", ":"), ensure_ascii=False) + "\n"


def _parsed(line: str) -> dict[str, Any]:
    try:
        letter = json.loads(line)
    except ValueError as error:
        raise LetterError(f"a line of the dead letters is no JSON: {error}") from error
    if not isinstance(letter, dict):
        raise LetterError("a line of the dead letters is no object")
    return letter


# --- how things are written


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
