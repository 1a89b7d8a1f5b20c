"""Entries of bulk files and exports: where they come from, and how they are written to a daemon.

A file is a JSON array, as wrangler's are, or JSON lines, which are read one by one and may be of any length, or a
CBOR sequence (`cbor_sequence`), which is told by its first byte. An entry is ``{"key" or "key_base64", "value"[, "base64": true][, "expiration"][, "expiration_ttl"][, "metadata"]}``.

Most go in batches through the bulk endpoint of REST v4, each batch whole or not at all. What that cannot take (numbered
databases, keys that are no UTF-8, too long for it, or ".", ".." or empty) goes alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final, NoReturn

import attrs

from kvd.cli import cbor_sequence
from kvd.cli.client import CommandFailed
from kvd.cli.rest import Refused, Rest, Space
from kvd.json_text import as_utf8

BATCH_ENTRIES: Final = 1000
BATCH_BYTES: Final = 8 << 20
_KEY_BYTES_MAX: Final = 512  # of REST v4
_KEYS_REFUSED: Final = (b"", b".", b"..")  # by REST v4
_ABOUT_ENTRY: Final = (400, 413, 414)  # the statuses of HTTP that say so of what was sent
_NAME_SHOWN: Final = 80
_match_refusal: Final = re.compile(r"entry (\d+):? (.*)", re.DOTALL).match


@attrs.frozen
class Item:
    """One entry of a source: its number from 1, how far the source was read, and what it holds."""

    number: int
    position: int
    content: Any


class Source:
    """A file of entries. `total` is in the unit of the positions; 0 if it is not known."""

    def __init__(self, file: BinaryIO) -> None:
        first = _first_byte(file)
        self.total = _size(file)
        if first == b"[":
            array = _load_array(first + file.read())
            self.total = len(array)
            self._items = _array_items(array)
        elif cbor_sequence.is_start(first):
            self._items = _sequence_items(first, file)
        else:
            self._items = _line_items(first, file)

    def __iter__(self) -> Iterator[Item]:
        return self._items


def _array_items(array: list[Any]) -> Iterator[Item]:
    for number, content in enumerate(array, 1):
        yield Item(number, number, content)


def _sequence_items(first: bytes, file: BinaryIO) -> Iterator[Item]:
    for number, (position, content) in enumerate(cbor_sequence.items(first, file), 1):
        yield Item(number, position, content)


def _line_items(first: bytes, file: BinaryIO) -> Iterator[Item]:
    position = number = 0
    for raw in file:
        text, first = first + raw, b""
        position += len(text)
        if text.strip():
            number += 1
            yield Item(number, position, _load_line(number, text))


def _first_byte(file: BinaryIO) -> bytes:
    while (byte := file.read(1)) and byte in b" \t\r\n":
        pass
    return byte


def _size(file: BinaryIO) -> int:
    if not file.seekable():
        return 0
    here = file.tell()
    size = file.seek(0, 2)
    file.seek(here)
    return size


def _load_array(text: bytes) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"the file is no valid JSON: {error}") from None
    assert isinstance(found, list), "it begins with a bracket"
    return found


def _load_line(number: int, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"entry {number} is no valid JSON: {error}") from None


# --- writing


@attrs.frozen
class _Single:
    """An entry that goes alone."""

    key: bytes
    value: bytes
    metadata: str | None
    expiration: int | None
    ttl: int | None


def wrong_entry(item: Item, text: str) -> CommandFailed:
    name = name_of(item)
    return CommandFailed(f"entry {item.number}{f' ({name!r})' if name is not None else ''}: {text}")


def numbered(refused: Refused, items: Sequence[Item]) -> CommandFailed:
    """Return what the daemon says of one of several entries, under the number and the name that it has in the file."""
    match = _match_refusal(str(refused))
    return refused if match is None else wrong_entry(items[int(match[1])], match[2])


def goes_alone(key: bytes) -> bool:
    """Tell whether REST v4 knows no such key, so that it cannot go in a batch."""
    return len(key) > _KEY_BYTES_MAX or key in _KEYS_REFUSED


def name_of(item: Item) -> str | None:
    """Return what an entry calls its key, cut if it is long; None if it has none."""
    content = item.content
    name = content.get("key", content.get("key_base64")) if isinstance(content, dict) else None
    if not isinstance(name, str):
        return None
    return name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}…"


def _json(value: Any) -> bytes:
    return as_utf8(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _refuse(item: Item, text: str) -> NoReturn:
    raise wrong_entry(item, text)


class Writer:
    """Writes entries to a namespace. `done` is the number of the last that is certainly written.

    `refuse` hears of an entry that the daemon does not take, and why. Unless it raises, all goes on without that.
    """

    def __init__(self, rest: Rest, refuse: Callable[[Item, str], None] = _refuse) -> None:
        self._rest = rest
        self._refuse = refuse
        self._space: Space | None = None
        self._batch: list[tuple[Item, bytes]] = []
        self._bytes = 0
        self.done = 0
        self.count = 0

    def into(self, space: Space) -> None:
        """Write what follows to another namespace."""
        self.flush()
        self._space = space

    def add(self, item: Item) -> None:
        """Take an entry. Raise `CommandFailed` that names the entry which was wrong."""
        assert self._space is not None, "a namespace comes first"
        single = _single(item, self._space)
        if single is not None:
            self.flush()
            self._put(item, single)
            return
        text = _json(item.content)
        if self._batch and self._bytes + len(text) > BATCH_BYTES:
            self.flush()
        self._batch.append((item, text))
        self._bytes += len(text)
        if len(self._batch) >= BATCH_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._batch or self._space is None:
            return
        done = self._batch[-1][0].number
        while self._batch:
            try:
                self._rest.bulk(self._space, "PUT", "bulk", [text for _, text in self._batch])
                break
            except Refused as refused:
                self._leave_out(refused)
        self.done = done
        self.count += len(self._batch)
        self._batch.clear()
        self._bytes = 0

    def _leave_out(self, refused: Refused) -> None:
        """Take the entry out of the batch that the whole was refused for. Raise what was refused if it is none."""
        match = _match_refusal(str(refused))
        is_alone = len(self._batch) == 1 and refused.status in _ABOUT_ENTRY
        index, text = (int(match[1]), match[2]) if match else (0, str(refused))
        if not (match or is_alone) or index >= len(self._batch):
            raise refused from None
        self._refuse(self._batch[index][0], text)
        del self._batch[index]

    def _put(self, item: Item, single: _Single) -> None:
        assert self._space is not None, "checked by who calls"
        try:
            self._rest.put(
                *(self._space, single.key, single.value),
                metadata=single.metadata,
                expiration=single.expiration,
                ttl=single.ttl,
            )
            self.count += 1
        except Refused as refused:
            if refused.status not in _ABOUT_ENTRY:
                raise
            self._refuse(item, str(refused))
        self.done = item.number


def _single(item: Item, space: Space) -> _Single | None:
    """Return the entry if the bulk endpoint cannot take it. What is malformed is left to the daemon to name."""
    content = item.content
    if not isinstance(content, dict) or not isinstance(content.get("value"), str):
        return None if not space.is_database else _refuse(item, "it is no object with a key and a value")
    try:
        key = base64.b64decode(content["key_base64"]) if "key_base64" in content else content["key"].encode()
        is_strange = "key_base64" in content or goes_alone(key)
        if not (space.is_database or is_strange):
            return None
        text = content["value"]
        value = base64.b64decode(text, validate=True) if content.get("base64") is True else text.encode()
    except (LookupError, AttributeError, TypeError, UnicodeEncodeError, binascii.Error):
        return None if not space.is_database else _refuse(item, "its key or its value cannot be read")
    metadata = content.get("metadata")
    shown = None if metadata is None else _json(metadata).decode()
    return _Single(key, value, shown, content.get("expiration"), content.get("expiration_ttl"))
