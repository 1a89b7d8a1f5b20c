"""Entries as a CBOR sequence: what an export in JSON lines says, in half of the bytes where values are binary.

    {"namespace": {"id": "…", "title": "shop"}}
    {"key": h'61', "value": h'00ff', "expiration": 2000000000, "metadata": {…}}
    {"complete": true, "count": 1}

One data item follows the other with nothing between them. Keys and values are byte strings, whatever they hold; text
strings are taken as their UTF-8. Everything else has to be what JSON can say.

Source: RFC 8742 (CBOR sequences), RFC 8949.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, cast

import cbor2

from kvd.cli.client import CommandFailed
from kvd.cli.entry_text import key_as_text, value_as_text

SUFFIXES: Final = (".cbor", ".cborseq")

# Maps, and whatever else an entry may be, begin with such a byte; no JSON text does.
_LEAST_FIRST_BYTE: Final = 0x80
# A tag that may stand before the first item and says "this is CBOR", nothing else. Source: RFC 8949 §3.4.6
_SELF_DESCRIBED: Final = b"\xd9\xd9\xf7"


def is_start(first: bytes) -> bool:
    """Tell from its first byte whether a file is a CBOR sequence rather than JSON."""
    return bool(first) and first[0] >= _LEAST_FIRST_BYTE


def from_line(line: bytes) -> bytes:
    """Return a line of an export as a data item. Raise `CommandFailed` if there is none that could be read again."""
    content = json.loads(line)
    if "value" in content:
        key = content.pop("key_base64", None)
        content["key"] = content["key"].encode() if key is None else base64.b64decode(key)
        value, is_base64 = content["value"], content.pop("base64", False)
        content["value"] = base64.b64decode(value) if is_base64 else value.encode()
        _check_metadata(content)
    return cbor2.dumps(content)


def _check_metadata(content: dict[str, Any]) -> None:
    """Refuse what JSON can say and CBOR cannot: half of a surrogate pair, and numbers that are too large for a float."""
    try:
        json.dumps(content.get("metadata"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise CommandFailed(
            f"the metadata of {content['key']!r} cannot be said in CBOR; export as JSON lines (--format jsonl)"
        ) from None


def items(first: bytes, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (where it ends, content as in JSON) of each item. `first` was read from the file already."""
    if first == _SELF_DESCRIBED[:1]:
        first += file.read(2)
    stream = _Stream(first.removeprefix(_SELF_DESCRIBED), file)
    decoder = cbor2.CBORDecoder(cast(BinaryIO, stream))
    number = 0
    while not stream.is_at_end():
        number += 1
        try:
            content = decoder.decode()
        except cbor2.CBORDecodeEOF:
            raise CommandFailed(f"the file ends in the middle of entry {number}") from None
        except (cbor2.CBORDecodeError, ValueError) as error:
            raise CommandFailed(f"entry {number} is no valid CBOR: {error}") from None
        yield stream.position, _as_json(number, content)


class _Stream:
    """A file that one can look ahead in by a byte, seekable or not. The decoder reads no more than an item."""

    def __init__(self, first: bytes, file: BinaryIO) -> None:
        self._ahead = first
        self._file = file
        self.position = 0

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return True

    def read(self, size: int) -> bytes:
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        data += self._file.read(size - len(data))
        self.position += len(data)
        return data

    def is_at_end(self) -> bool:
        self._ahead = self._ahead or self._file.read(1)
        return not self._ahead


def _as_json(number: int, content: Any) -> dict[str, Any]:
    """Return an item in the form that a line of JSON would have given."""
    if not isinstance(content, dict):
        raise CommandFailed(f"entry {number}: it is no map")
    entry: dict[str, Any] = {}
    for name, value in content.items():
        if name == "key" and isinstance(value, bytes):
            entry |= key_as_text(value)
        elif name == "value" and isinstance(value, bytes):
            entry |= value_as_text(value)
        else:
            entry[name] = _plain(number, name, value)
    return entry


def _plain(number: int, name: Any, value: Any) -> Any:
    """Return what can be said in JSON; refuse dates, byte strings in metadata, and the like."""
    try:
        json.dumps({name: value}, allow_nan=False)
    except (TypeError, ValueError):
        raise CommandFailed(f"entry {number}: what it has as {name!r} cannot be said in JSON") from None
    return value
