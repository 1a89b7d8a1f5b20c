"""`kvd encryption-key`, and the offline verbs on an encrypted database."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvd.cli.main import main
from kvd.peering import dead_letters
from storage.changes import Change, Kind, Stamp
from storage.engine import Family
from storage.keyring import load_keyring
from storage.layout import database_id
from storage.store import Store, StoreOptions
from tests.storage.helpers import raw_put, value_of
from tests.storage.test_resealing import inner_of


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, arguments)


def ok(*arguments: str, **environment: str) -> str:
    result = run(*arguments, **environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: str, code: int = 1, **environment: str) -> str:
    result = run(*arguments, **environment)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1 or code == 2
    return result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "keys"
    ok("encryption-key", "new", str(path))
    return path


@pytest.fixture
def data(tmp_path: Path, file: Path) -> Path:
    """An encrypted database with one record."""
    path = tmp_path / "data"
    store = Store.open(path, StoreOptions(keyring=load_keyring(file)))
    store.keyspace(0).put(b"k", b"value")
    store.commit()
    store.close()
    return path


def test_a_new_file_is_its_owners_only_and_never_overwritten(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    assert "exists already" in fails("encryption-key", "new", str(file))
    assert file.read_bytes() == before


def test_the_keys_themselves_are_never_shown(file: Path) -> None:
    ok("encryption-key", "rotate", str(file))
    keyring = load_keyring(file)
    shown = ok("encryption-key", "list", str(file))
    new, old = keyring.keys
    lines = shown.splitlines()
    assert lines[0].startswith(f"{new.name}  writes and reads  made 20")
    assert lines[1].startswith(f"{old.name}  reads ")
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            assert line.split()[1] not in shown


def test_a_key_can_be_removed_once_there_is_another(file: Path) -> None:
    [first] = load_keyring(file).keys
    assert "make another one first" in fails("encryption-key", "remove", str(file), first.name)
    ok("encryption-key", "rotate", str(file))
    assert "no key 00000000" in fails("encryption-key", "remove", str(file), "00000000")
    ok("encryption-key", "remove", str(file), first.name)
    assert first.name not in ok("encryption-key", "list", str(file))
    assert "8 hexadecimal digits" in run("encryption-key", "remove", str(file), "nonsense").stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_encryption_can_be_ended(file: Path) -> None:
    ok("encryption-key", "disuse", str(file))
    assert ok("encryption-key", "list", str(file)).startswith("plain     writes and reads  without")
    assert load_keyring(file).current is None
    ok("encryption-key", "rotate", str(file))
    assert load_keyring(file).current is not None


def test_plain_values_are_accepted_by_a_word_of_their_own(file: Path, tmp_path: Path) -> None:
    ok("encryption-key", "plain", str(file))
    assert ok("encryption-key", "list", str(file)).endswith("\nplain     reads\n")
    ok("encryption-key", "remove", str(file), "plain")
    assert not load_keyring(file).plain
    assert "plain is not among the keys" in fails("encryption-key", "remove", str(file), "plain")
    ok("encryption-key", "new", str(tmp_path / "other"), "--plain")
    assert load_keyring(tmp_path / "other").plain


@pytest.mark.parametrize("verb", ["rotate", "list", "disuse", "plain"])
def test_a_file_that_cannot_be_used_is_left_alone(verb: str, tmp_path: Path, file: Path) -> None:
    assert "does not exist" in fails("encryption-key", verb, str(tmp_path / "nowhere"))
    file.chmod(0o644)
    before = file.read_bytes()
    assert "may be used by others" in fails("encryption-key", verb, str(file))
    assert file.read_bytes() == before


def test_verify_needs_the_keys(data: Path, file: Path, tmp_path: Path) -> None:
    assert "encrypted with the key" in fails("verify", "--data-dir", str(data), code=2)
    assert "sound" in ok("verify", "--data-dir", str(data), "--encryption-key-file", str(file))
    assert "sound" in ok("verify", "--data-dir", str(data), KVD_STORAGE__ENCRYPTION_KEY_FILE=str(file))
    config = tmp_path / "kvd.toml"
    config.write_text(f'[storage]\ndata_dir = "{data}"\nencryption_key_file = "{file}"\n')
    assert "sound" in ok("verify", "--config", str(config))
    other = tmp_path / "other"
    ok("encryption-key", "new", str(other))
    words = ("verify", "--data-dir", str(data), "--encryption-key-file", str(other))
    assert "Nothing was changed" in fails(*words, code=2)
    file.chmod(0o644)
    assert "chmod 600" in fails("verify", "--config", str(config), code=2)
    assert "give --data-dir" in run("verify").stderr


def test_check_config_looks_at_the_keys(file: Path) -> None:
    words = ("check-config", "--encryption-key-file", str(file))
    assert f'encryption_key_file = "{file}"' in ok(*words)
    file.chmod(0o666)
    assert "storage.encryption_key_file: the encryption key file" in fails(*words, code=2)


def test_verify_shows_what_does_not_open(data: Path, file: Path) -> None:
    store = Store.open(data, StoreOptions(keyring=load_keyring(file)))
    inner = inner_of(store)
    place = database_id(0) + b"k"
    stored = inner.get(Family.RECORDS, place)
    assert stored is not None
    raw_put(inner, Family.RECORDS, place, stored[:-1] + bytes([stored[-1] ^ 128]))
    store.close()
    result = run("verify", "--data-dir", str(data), "--encryption-key-file", str(file))
    assert result.exit_code == 1
    assert "record b'k' of namespace" in result.stdout
    assert "changed or moved" in result.stdout


def test_tokens_are_made_offline_with_the_keys(data: Path, file: Path) -> None:
    words = ("token", "create", "--data-dir", str(data), "--right", "admin")
    assert "encrypted with the key" in fails(*words)
    assert ok(*words, "--encryption-key-file", str(file)).startswith("kvd_")
    listed = ok("token", "list", "--data-dir", str(data), KVD_STORAGE__ENCRYPTION_KEY_FILE=str(file))
    assert "admin" in listed


def test_a_cluster_begins_anew_with_the_keys(data: Path, file: Path) -> None:
    assert "encrypted with the key" in fails("cluster", "reseed", "--data-dir", str(data))
    ok("cluster", "reseed", "--data-dir", str(data), "--encryption-key-file", str(file))
    store = Store.open(data, StoreOptions(keyring=load_keyring(file)))
    assert value_of(store.keyspace(0), b"k") == b"value"
    store.close()


def test_dead_letters_are_printed_with_the_keys(data: Path, file: Path) -> None:
    words = ("dead-letters", "--data-dir", str(data))
    assert ok(*words) == ""
    change = Change(7, 1 << 16, Kind.VALUE, database_id(0) + b"k", b"lost")
    stale = [(Stamp(1 << 16, b"o" * 16, 7), change)]
    dead_letters.keep(data / dead_letters.FILE, stale, lambda *_: None, now_ms=1, keyring=load_keyring(file))
    assert json.loads(ok(*words, "--encryption-key-file", str(file)))["value"] == "lost"
    assert "give the file with the keys" in fails(*words)
