"""Encryption at rest in a real daemon: what the files hold, keys that change, keys that are wrong, damaged records."""

from __future__ import annotations

import http.client
import json
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from kvd.cli.main import main
from kvd.peering import dead_letters
from storage.changes import Change, Kind, Stamp
from storage.engine import Family
from storage.engine_rocksdb import RocksEngine
from storage.keyring import format_keyring, load_keyring, new_keyring, rotated, without, without_plain
from storage.layout import database_id
from tests.servers import RunningServer, kvd_server, launch_kvd, wait_until
from tests.storage.helpers import raw_put
from tests.storage.test_engine_sealed import files_with

SECRET = b"a secret that nobody may read"
NOTE = b'{"note":"known to few"}'
LARGE = SECRET * 40_000  # more than a mebibyte
TITLE = "the title of a secret project"
SECRETS = (SECRET, NOTE, TITLE.encode())


class Keys:
    """A key file, and the flag that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(format_keyring(new_keyring()))

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)
        self.path.chmod(0o600)

    @property
    def flag(self) -> tuple[str, str]:
        return ("--encryption-key-file", str(self.path))

    @property
    def ids(self) -> list[str]:
        return [key.name for key in load_keyring(self.path).keys]

    def rotate(self) -> None:
        self.write(format_keyring(rotated(load_keyring(self.path))))

    def accept_plain(self) -> None:
        self.write(self.path.read_bytes() + b"plain\n")

    def refuse_plain(self) -> None:
        self.write(format_keyring(without_plain(load_keyring(self.path))))

    def remove(self, key_id: str) -> None:
        self.write(format_keyring(without(load_keyring(self.path), bytes.fromhex(key_id))))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def fill(server: RunningServer) -> None:
    """Write secrets in every way in which clients can."""
    with server.client() as client:
        client.set("plain", SECRET)
        client.set("large", LARGE)
        client.append("appended", SECRET)
        client.execute_command("KV.PUT", "noted", "value", "META", NOTE)
        client.set("expiring", SECRET, ex=1000)
        client.eval("redis.call('set', KEYS[1], ARGV[1])", 1, "scripted", SECRET)
        with client.pipeline(transaction=True) as pipe:
            pipe.set("transacted", SECRET).set("transacted 2", SECRET).execute()
        client.set("deleted", SECRET)
        client.delete("deleted")
        namespace = client.execute_command("KV.NS", "CREATE", TITLE).decode()
        client.acl_setuser("alice", enabled=True, passwords=["+" + SECRET.decode()])
    ports = json.loads((server.log_file.parent / "ports.json").read_text())
    connection = http.client.HTTPConnection("127.0.0.1", ports["http"], timeout=60)
    path = "/client/v4/accounts/kvd/storage/kv/namespaces/" + namespace + "/values/web"
    boundary = "xxxx"
    body = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary.encode(), name, part)
        for name, part in ((b"value", SECRET), (b"metadata", NOTE))
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection.request("PUT", path, body + b"--xxxx--\r\n", headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    connection.close()


def check(server: RunningServer) -> None:
    """Look at everything that `fill` has written."""
    with server.client() as client:
        for key in ("plain", "appended", "expiring", "scripted", "transacted", "transacted 2"):
            assert client.get(key) == SECRET, key
        assert client.get("large") == LARGE
        assert client.execute_command("KV.GET", "noted") == [b"value", NOTE]
        assert client.get("deleted") is None
        assert web_of(server) == [SECRET, NOTE]


def web_of(server: RunningServer) -> Any:
    """Return value and metadata of what was written over HTTP."""
    with server.client(single_connection_client=True) as client:
        client.execute_command("KV.NS", "USE", TITLE)
        return client.execute_command("KV.GET", "web")


def status(server: RunningServer) -> dict[str, str]:
    with server.client(decode_responses=True) as client:
        info = client.info("storage")
    return {name: str(value) for name, value in info.items() if name.startswith("encryption")}


def reload(server: RunningServer) -> None:
    with server.client() as client:
        assert client.execute_command("KV.ENCRYPTION", "RELOAD") == b"OK"


def wait_for_keys(server: RunningServer, *ids: str) -> None:
    """Wait until the walk is done and these are the keys in use."""

    def done() -> bool:
        found = status(server)
        return found["encryption_walk"] == "idle" and found["encryption_keys_in_use"] == ",".join(ids)

    wait_until(done, f"the keys in use are {ids}: {status(server)}", seconds=60)


def refused(home: Path, *options: str) -> str:
    """Return what a start says that fails, which must be one line."""
    with launch_kvd(home, *options) as process:
        assert process.wait(60) == 1
    lines = [line for line in (home / "kvd.log").read_text().splitlines() if line.startswith("kvd: ")]
    assert len(lines) == 1, lines
    return lines[0]


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_nothing_that_clients_wrote_is_in_the_files(home: Path, keys: Keys) -> None:
    with kvd_server(home, *keys.flag) as server:
        fill(server)
        assert files_with(home, *SECRETS) == [], "while it is in the log"
        assert files_with(home, b"transacted 2"), "keys are readable"
        with server.client() as client:
            client.save()
        assert files_with(home, *SECRETS) == [], "in tables and checkpoints"
        check(server)
        assert status(server) == {
            "encryption": "on",
            "encryption_key": keys.ids[0],
            "encryption_keys_in_use": keys.ids[0],
            "encryption_walk": "idle",
            "encryption_walk_percent": "100",
        }
    assert files_with(home, *SECRETS) == [], "after the stop"
    with kvd_server(home, *keys.flag) as server:
        check(server)


def test_without_keys_it_is_and_info_says_so(home: Path) -> None:
    with kvd_server(home) as server:
        fill(server)
        assert status(server) == {"encryption": "off"}
        with server.client() as client, pytest.raises(redis.ResponseError, match="encryption is off"):
            client.execute_command("KV.ENCRYPTION", "RELOAD")
    assert files_with(home, SECRET)
    assert files_with(home, NOTE)


def test_keys_change_without_a_restart(home: Path, keys: Keys) -> None:
    [first] = keys.ids
    with kvd_server(home, *keys.flag) as server:
        fill(server)
        keys.rotate()
        second = keys.ids[0]
        reload(server)
        with server.client() as client:
            client.set("later", SECRET)
            found = client.execute_command("KV.ENCRYPTION", "STATUS")
        assert found[b"key"] == second.encode()
        assert set(found) == {b"encryption", b"key", b"keys_in_use", b"walk", b"walk_percent"}
        wait_for_keys(server, second)
        check(server)
        keys.remove(first)
        reload(server)
        check(server)
    with kvd_server(home, *keys.flag) as server:
        check(server)


def test_sighup_reloads_the_keys(home: Path, keys: Keys) -> None:
    with kvd_server(home, *keys.flag) as server:
        fill(server)
        keys.rotate()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: status(server)["encryption_key"] == keys.ids[0], "the key changes")
        wait_for_keys(server, keys.ids[0])
        good = keys.path.read_bytes()
        keys.write(b"garbage\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "encryption keys not reloaded" in server.log_file.read_text(), "it is logged")
        check(server)
        last = server.log_file.read_text().splitlines()[-1]
        assert "not reloaded" in last, "nothing claims the contrary afterwards"
        keys.write(good)


def test_a_key_that_is_needed_cannot_be_taken_away(home: Path, keys: Keys) -> None:
    with kvd_server(home, *keys.flag) as server:
        fill(server)
        before = keys.path.read_bytes()
        other = new_keyring()
        keys.write(format_keyring(other))
        with server.client() as client, pytest.raises(redis.ResponseError, match="Nothing was changed"):
            client.execute_command("KV.ENCRYPTION", "RELOAD")
        keys.path.chmod(0o640)
        with server.client() as client, pytest.raises(redis.ResponseError, match="chmod 600"):
            client.execute_command("KV.ENCRYPTION", "RELOAD")
        check(server)
        with server.client() as client:
            client.set("after", "all")
    keys.write(before)
    with kvd_server(home, *keys.flag) as server:
        check(server)


def test_a_wrong_key_is_told_in_one_line_and_changes_nothing(home: Path, keys: Keys, tmp_path: Path) -> None:
    with kvd_server(home, *keys.flag) as server:
        fill(server)
    good = keys.path.read_bytes()
    engine = RocksEngine(home / "data", create=False)
    before = {family: list(engine.iterate(family)) for family in Family}
    engine.close()
    assert f"encrypted with the key {keys.ids[0]}" in refused(home)
    other = Keys(tmp_path / "others")
    assert f"encrypted with the key {keys.ids[0]}" in refused(home, *other.flag)
    keys.write(re.sub(rb"(?m)^([0-9a-f]{8}) \S+", rb"\1 " + b"A" * 43 + b"=", good))
    assert "is not the one that the data" in refused(home, *keys.flag)
    keys.write(good)
    keys.path.chmod(0o644)
    assert "may be used by others" in refused(home, *keys.flag)
    assert "does not exist" in refused(home, "--encryption-key-file", str(tmp_path / "nowhere"))
    keys.path.chmod(0o600)
    engine = RocksEngine(home / "data", create=False)
    assert {family: list(engine.iterate(family)) for family in Family} == before
    engine.close()
    with kvd_server(home, *keys.flag) as server:
        check(server)


def test_an_existing_store_is_encrypted_and_decrypted_again(home: Path, keys: Keys) -> None:
    with kvd_server(home) as server:
        fill(server)
    assert files_with(home, SECRET)
    assert "is not encrypted, or not all of it" in refused(home, *keys.flag)
    keys.accept_plain()
    with kvd_server(home, *keys.flag) as server:
        wait_for_keys(server, keys.ids[0])
        assert files_with(home, *SECRETS) == []
        keys.refuse_plain()
        reload(server)
        check(server)
    assert "encrypted with the key" in refused(home)
    keys.write(b"plain\n" + keys.path.read_bytes())
    with kvd_server(home, *keys.flag) as server:
        wait_for_keys(server, "plain")
        check(server)
    with kvd_server(home) as server:
        check(server)
        assert status(server) == {"encryption": "off"}


def test_a_checkpoint_is_restored_with_the_keys(home: Path, keys: Keys, tmp_path: Path) -> None:
    with kvd_server(home, *keys.flag) as server:
        fill(server)
        with server.client() as client:
            client.save()
            client.set("plain", "later")
    [checkpoint] = (home / "data" / "checkpoints").iterdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    checkpoint.rename(elsewhere / "data")
    assert "encrypted with the key" in refused(elsewhere)
    with kvd_server(elsewhere, *keys.flag) as server:
        check(server)


def test_a_damaged_record_is_told_and_stops_nothing_else(home: Path, keys: Keys) -> None:
    with kvd_server(home, *keys.flag) as server:
        fill(server)
    engine = RocksEngine(home / "data", create=False)
    place = database_id(0) + b"plain"
    stored = engine.get(Family.RECORDS, place)
    assert stored is not None
    raw_put(engine, Family.RECORDS, place, stored[:-20] + bytes([stored[-20] ^ 4]) + stored[-19:])
    engine.close()
    with kvd_server(home, *keys.flag) as server, server.client() as client:
        with pytest.raises(redis.ResponseError, match=f"b'plain' of namespace .* key {keys.ids[0]}"):
            client.get("plain")
        assert web_of(server) == [SECRET, NOTE]
        assert b"large" in set(client.scan_iter())
        assert client.dbsize() >= 8
        client.set("other", "value")
        keys.rotate()
        reload(server)
        wait_until(lambda: status(server)["encryption_walk"] == "blocked", "the walk is blocked")
        wait_until(lambda: "b'plain' of namespace" in server.log_file.read_text(), "the log names the record")
        assert len(status(server)["encryption_keys_in_use"].split(",")) == 2
        client.delete("plain")
        client.set("plain", SECRET)
        reload(server)
        wait_for_keys(server, keys.ids[0])
        check(server)


@pytest.fixture
def pair(tmp_path: Path, keys: Keys) -> Iterator[tuple[RunningServer, RunningServer]]:
    """An encrypted node, and one of its cluster that is not."""
    secret = tmp_path / "cluster.secret"
    homes = [tmp_path / "one", tmp_path / "two"]
    for each in homes:
        each.mkdir()
    made = CliRunner().invoke(main, ["cluster", "init", str(secret)])
    assert made.exit_code == 0, made.output
    peer = ("--set", "peers.bind=127.0.0.1", "--peer-port", "0", "--cluster-secret-file", str(secret))
    with kvd_server(homes[0], *keys.flag, *peer) as one:
        port = json.loads((homes[0] / "ports.json").read_text())["peer"]
        with kvd_server(homes[1], *peer, "--join", f"127.0.0.1:{port}") as two:
            yield one, two


def test_what_comes_from_other_nodes_is_encrypted_too(
    pair: tuple[RunningServer, RunningServer], tmp_path: Path
) -> None:
    one, two = pair
    with one.client() as here, two.client() as there:
        wait_until(lambda: writable(there), "the second node may write")
        fill(two)
        wait_until(lambda: here.get("plain") == SECRET and here.get("large") == LARGE, "all has come")
        check(one)
        here.set("from one", SECRET)
        wait_until(lambda: there.get("from one") == SECRET, "and the other way")
        here.save()
    assert files_with(tmp_path / "one", *SECRETS) == []
    assert files_with(tmp_path / "two", SECRET)


def writable(client: Any) -> bool:
    try:
        return bool(client.set("try", "1"))
    except redis.ResponseError:
        return False


# --- dead letters

PLACE = database_id(3) + b"key"


def letters(path: Path, *values: bytes, keys: Keys | None) -> Sequence[dict[str, Any]]:
    keyring = None if keys is None else load_keyring(keys.path)
    stale = [
        (Stamp(1_700_000_000_000 << 16, b"o" * 16, seq), Change(seq, 1, Kind.VALUE, PLACE, value, NOTE))
        for seq, value in enumerate(values, 1)
    ]
    dead_letters.keep(path, stale, lambda *_: None, now_ms=1_700_000_100_000, keyring=keyring)
    return list(dead_letters.read(path, keyring))


def test_dead_letters_are_encrypted_and_can_be_read(tmp_path: Path, keys: Keys) -> None:
    plain = letters(tmp_path / "plain", SECRET, b"\xff\xfe", keys=None)
    path = tmp_path / "dead-letters.jsonl"
    assert letters(path, SECRET, b"\xff\xfe", keys=keys) == plain
    content = path.read_bytes()
    assert b'"key":"key"' in content
    for secret in (SECRET, NOTE, b"known to few", b"//4="):
        assert secret not in content
    with pytest.raises(dead_letters.LetterError, match="give the file with the keys"):
        list(dead_letters.read(path))


def test_a_dead_letter_cannot_be_changed_or_moved(tmp_path: Path, keys: Keys) -> None:
    path = tmp_path / "letters"
    letters(path, b"first", b"second", keys=keys)
    one, two = (json.loads(line) for line in path.read_text().splitlines())
    for change in ({**one, "sealed": two["sealed"]}, {**one, "key": "other"}, {**one, "database": 4}):
        path.write_text(json.dumps(change) + "\n")
        with pytest.raises(dead_letters.LetterError, match=f"with its key {keys.ids[0]}"):
            list(dead_letters.read(path, load_keyring(keys.path)))


def test_dead_letters_follow_a_change_of_keys(home: Path, keys: Keys) -> None:
    data = home / "data"
    data.mkdir()
    path = data / dead_letters.FILE
    [letter] = letters(path, SECRET, keys=None)
    [first] = keys.ids
    with kvd_server(home) as server, server.client() as client:
        client.set("k", "v")
    keys.accept_plain()
    with kvd_server(home, *keys.flag) as server:
        wait_for_keys(server, first)
        assert files_with(home, SECRET, NOTE) == []
        assert list(dead_letters.read(path, load_keyring(keys.path))) == [letter]
        keys.rotate()
        reload(server)
        wait_for_keys(server, keys.ids[0])
        keys.remove(first)
        assert list(dead_letters.read(path, load_keyring(keys.path))) == [letter]


def test_a_letter_that_does_not_open_stays_as_it_is(tmp_path: Path, keys: Keys) -> None:
    path = tmp_path / "letters"
    letters(path, b"first", keys=keys)
    before = path.read_bytes()
    path.write_bytes(before + b"no JSON\n")
    dead_letters.reseal(path, new_keyring())
    assert path.read_bytes() == before + b"no JSON\n"
    dead_letters.reseal(tmp_path / "nowhere", new_keyring())
