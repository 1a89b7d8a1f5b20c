"""Replacing files: what is there after success, and after failure at any step."""

from __future__ import annotations

import errno
import os
import types
from pathlib import Path

import pytest

from kvd.durable_files import check_directory, replace_file


def test_a_new_file_gets_the_mode_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "file"
    replace_file(file, b"content", mode=0o640)
    assert file.read_bytes() == b"content"
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(0o604)
    replace_file(file, b"new", mode=0o600)
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"new", mode=0o600)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(("flags", "expected"), [(os.ST_RDONLY, errno.EROFS), (0, errno.EACCES)])
def test_a_directory_without_the_right_to_write_says_whether_anybody_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, expected: int
) -> None:
    check_directory(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: types.SimpleNamespace(f_flag=flags))
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        check_directory(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (expected, str(tmp_path))
