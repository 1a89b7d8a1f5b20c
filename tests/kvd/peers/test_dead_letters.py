"""Dead letters: everything about the write is in the file, and the file is there before the write is undone."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from kvd.peering import dead_letters
from storage.changes import Change, Kind, Stamp

PLACE = bytes(15) + b"\x03" + b"key"
STAMP = Stamp(1_700_000_000_000 << 16, b"o" * 16, 7)


def keep(path: Path, *changes: Change, body: bytes | None = None) -> list[dict[str, object]]:
    stale = [(STAMP, change) for change in changes]
    dead_letters.keep(path, stale, lambda origin, seq, place: body, now_ms=1_700_000_100_000)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_letter_says_what_was_written_where_and_when(tmp_path: Path) -> None:
    [letter] = keep(tmp_path / "letters", Change(7, STAMP.hlc, Kind.VALUE, PLACE, b"value", b'{"a":1}'))
    assert letter == {
        "undone_at_ms": 1_700_000_100_000,
        "written_at_ms": 1_700_000_000_000,
        "stamp": {"hlc": STAMP.hlc, "origin": "6f" * 16, "seq": 7},
        "database": 3,
        "key": "key",
        "value": "value",
        "metadata": '{"a":1}',
    }


def test_bytes_that_are_no_text_are_given_in_base64(tmp_path: Path) -> None:
    namespace = b"\xaa" * 16
    [letter] = keep(tmp_path / "letters", Change(7, STAMP.hlc, Kind.VALUE, namespace + b"\xff", b"\x00\xfe"))
    assert (letter["namespace"], letter["key_base64"], letter["value_base64"]) == ("aa" * 16, "/w==", "AP4=")
    assert letter["metadata"] is None


def test_a_large_value_is_fetched(tmp_path: Path) -> None:
    [letter] = keep(
        tmp_path / "letters", Change(7, STAMP.hlc, Kind.VALUE, PLACE, 100_000), body=b"x" * 100_000
    )
    assert letter["value"] == "x" * 100_000


def test_letters_are_appended_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    path = tmp_path / "letters"
    keep(path, Change(7, STAMP.hlc, Kind.VALUE, PLACE, b"first"))
    found = keep(path, Change(8, STAMP.hlc, Kind.VALUE, PLACE, b"second\n"))
    assert [letter["value"] for letter in found] == ["first", "second\n"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        keep(tmp_path / "missing" / "letters", Change(7, STAMP.hlc, Kind.VALUE, PLACE, b"value"))
