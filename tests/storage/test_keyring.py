from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.errors import KeyFileError
from storage.keyring import (
    KEY_BYTES,
    disused,
    format_keyring,
    load_keyring,
    new_keyring,
    parse_keyring,
    rotated,
    without,
    without_plain,
)
from tests.storage.replicas import entropy_of

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def refusal(content: str) -> str:
    with pytest.raises(KeyFileError) as caught:
        parse_keyring(content.encode(), source="/keys")
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_what_is_written_is_read_again() -> None:
    keyring = rotated(rotated(new_keyring()))
    again = parse_keyring(format_keyring(keyring), source="")
    assert again == keyring
    assert again.current == keyring.keys[0].id
    plain = parse_keyring(format_keyring(disused(keyring)), source="")
    assert plain.keys == keyring.keys
    assert plain.current is None
    assert plain.plain


def test_plain_among_the_keys_lets_plain_values_be_read() -> None:
    keyring = new_keyring(plain=True)
    again = parse_keyring(format_keyring(rotated(keyring)), source="")
    assert again.plain
    assert again.current == again.keys[0].id
    assert not parse_keyring(format_keyring(without_plain(again)), source="").plain
    with pytest.raises(ValueError, match="not among the keys"):
        without_plain(without_plain(again))
    with pytest.raises(ValueError, match="make a key first"):
        without_plain(disused(again))
    back = rotated(disused(again))
    assert back.plain
    assert back.current is not None


def test_a_file_by_hand_may_have_comments_and_empty_lines() -> None:
    found = parse_keyring(f"# ours\n\n  00c0ffee  {KEY}   # made by hand\n".encode(), source="")
    assert found.current == bytes.fromhex("00c0ffee")
    assert found.keys[0].secret == bytes(range(KEY_BYTES))
    assert found.keys[0].comment == "made by hand"


def test_a_new_key_comes_first_and_has_an_id_of_its_own() -> None:
    ids = iter([b"aaaa", b"aaaa", b"bbbb"])

    def entropy(size: int) -> bytes:
        return next(ids) if size == 4 else bytes(size)

    keyring = rotated(new_keyring(entropy=entropy), entropy=entropy)
    assert [key.id for key in keyring.keys] == [b"bbbb", b"aaaa"]
    assert keyring.current == b"bbbb"


def test_a_key_that_is_not_written_with_can_be_removed() -> None:
    keyring = rotated(new_keyring())
    new, old = keyring.keys
    assert without(keyring, old.id).keys == (new,)
    with pytest.raises(ValueError, match="make another one first"):
        without(keyring, new.id)
    with pytest.raises(ValueError, match="no key 00000000"):
        without(keyring, bytes(4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no key"),
        ("plain\n", "holds no key"),
        ("# nothing\n", "holds no key"),
        (f"00c0ffee {KEY}\n00c0ffee {KEY}\n", "the id 00c0ffee twice"),
        (f"plain\n00c0ffee {KEY}\nplain\n", "no sense in line 3"),
        (f"00c0ffee {KEY}\nplain\nplain\n", "no sense in line 3"),
        (f"00C0FFEE {KEY}\n", "no sense in line 1"),
        (f"c0ffee {KEY}\n", "no sense in line 1"),
        (f"{KEY}\n", "no sense in line 1"),
        (f"00c0ffee {KEY[:-5]}=\n", "no sense in line 1"),
        (f"00c0ffee {KEY} {KEY}\n", "no sense in line 1"),
    ],
)
def test_what_makes_no_sense_is_refused_without_being_shown(content: str, words: str) -> None:
    assert words in refusal(content)


def test_a_key_is_not_shown() -> None:
    keyring = new_keyring(entropy=entropy_of(b"x"))
    assert repr(keyring.keys[0].secret) not in repr(keyring)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(format_keyring(new_keyring()))
    for mode in (0o644, 0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600"):
            load_keyring(path)
    path.chmod(0o400)
    assert len(load_keyring(path).keys) == 1


def test_a_file_of_root_may_be_shared_with_the_daemons_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(format_keyring(new_keyring()))
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for mode in (0o644, 0o660, 0o450, 0o604):
        path.chmod(mode)
        with pytest.raises(KeyFileError, match="chmod 600"):
            load_keyring(path)
    path.chmod(0o440)
    if owner == 0:
        assert len(load_keyring(path).keys) == 1
    else:
        with pytest.raises(KeyFileError, match="chmod 600"):
            load_keyring(path)


def test_a_file_that_is_not_there_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"does not exist.*kvd encryption-key new"):
        load_keyring(tmp_path / "nowhere")
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_keyring(tmp_path)
    large = tmp_path / "large"
    large.write_bytes(b"#" * 100_000)
    large.chmod(0o600)
    with pytest.raises(KeyFileError, match="larger than"):
        load_keyring(large)
