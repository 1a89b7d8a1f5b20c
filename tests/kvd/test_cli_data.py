"""The verbs about data, against a running daemon: namespaces, keys, bulk files, export and import."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest
from click.testing import CliRunner, Result

from kvd.cli.client import Client, CommandFailed
from kvd.cli.entries import Source
from kvd.cli.main import main
from kvd.cli.progress import line
from tests.servers import RunningServer, kvd_server


class Cli:
    """Runs `kvd` with the address of a daemon in the environment."""

    def __init__(self, server: RunningServer, url: str) -> None:
        self.server = server
        self.url = url

    def run(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> Result:
        environment = {"KVD_HTTP_URL": self.url, **environment}
        return CliRunner(env=environment).invoke(main, arguments, input=stdin)

    def ok(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Return what a run that goes well prints."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str, stdin: bytes | None = None) -> object:
        return json.loads(self.ok(*arguments, "--json", stdin=stdin))

    def fails(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Return what a run that fails says."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 1, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.stderr


@pytest.fixture(scope="module")
def daemon_cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    directory = tmp_path_factory.mktemp("cli")
    with kvd_server(directory) as server:
        port = json.loads((directory / "ports.json").read_text())["http"]
        yield Cli(server, f"http://127.0.0.1:{port}")


@pytest.fixture
def cli(daemon_cli: Cli) -> Iterator[Cli]:
    """A daemon with one namespace, shop."""
    daemon_cli.ok("namespace", "create", "shop")
    yield daemon_cli
    for each in daemon_cli.json("namespace", "list"):  # type: ignore[attr-defined]
        if not each["is_database"]:
            daemon_cli.ok("namespace", "delete", each["id"], "--yes")
    with daemon_cli.server.client() as client:
        client.flushall()


def rows(cli: Cli, namespace: str = "shop") -> list[dict[str, object]]:
    found = cli.json("key", "list", "-n", namespace)
    assert isinstance(found, list)
    return found


# ---------------------------------------------------------------- namespaces and keys


def test_namespaces_are_made_listed_renamed_and_deleted(cli: Cli) -> None:
    made = cli.ok("namespace", "create", "carts").strip()
    assert "a namespace with this" in cli.fails("namespace", "create", "carts")
    cli.ok("namespace", "rename", "carts", "baskets")
    assert f"{made}             0  baskets" in cli.ok("namespace", "list")
    assert cli.run("namespace", "delete", "baskets", stdin=b"n\n").exit_code == 1
    cli.ok("namespace", "delete", made, "--yes")
    assert "there is no namespace 'baskets'" in cli.fails("namespace", "delete", "baskets", "--yes")
    assert "neither renamed nor deleted" in cli.fails("namespace", "delete", "db0", "--yes")


def test_a_key_keeps_value_metadata_and_expiry(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"\x00\xff\r\n--x")
    metadata = '{"name":"żółw"}'
    cli.ok("key", "put", "-n", "shop", "a/b ż", "--path", str(file), "--ttl", "600", "--metadata", metadata)
    assert cli.run("key", "get", "-n", "shop", "a/b ż").stdout_bytes == b"\x00\xff\r\n--x"
    (row,) = rows(cli)
    assert (row["name"], row["metadata"]) == ("a/b ż", {"name": "żółw"})
    assert abs(float(str(row["expiration"])) - time.time() - 600) < 30
    assert '{"name": "żółw"}' in cli.ok("key", "list", "-n", "shop", "--long")
    cli.ok("key", "put", "-n", "shop", "a/b ż", stdin=b"piped")
    assert cli.ok("key", "get", "-n", "shop", "a/b ż") == "piped"
    assert rows(cli) == [{"name": "a/b ż"}], "what is not given is cleared"
    cli.ok("key", "delete", "-n", "shop", "a/b ż", "never there")
    assert "there is no key" in cli.fails("key", "get", "-n", "shop", "a/b ż")


def test_a_key_of_a_numbered_database_is_that_of_redis_clients(cli: Cli) -> None:
    with cli.server.client() as client:
        client.set("from-redis", "1")
        cli.ok("key", "put", "-n", "db0", "from-cli", "2")
        assert client.get("from-cli") == b"2"
        assert cli.ok("key", "list", "-n", "db0") == "from-cli\nfrom-redis\n"


def test_keys_are_listed_over_pages_and_deleted_by_prefix(cli: Cli) -> None:
    entries = [{"key": f"k{number:04}", "value": ""} for number in range(2100)]
    cli.ok("bulk", "put", "-n", "shop", "-", stdin=json.dumps(entries).encode())
    assert len(cli.ok("key", "list", "-n", "shop").splitlines()) == 2100
    assert len(cli.ok("key", "list", "-n", "shop", "--limit", "1500").splitlines()) == 1500
    assert cli.ok("key", "delete", "-n", "shop", "--prefix", "k1", "--yes") == "deleted 1,000 keys\n"
    assert len(rows(cli)) == 1100


def test_a_bulk_delete_takes_every_key_that_a_bulk_put_takes(cli: Cli) -> None:
    names = ["", "..", "k" * 600, "plain"]
    entries = [{"key": name, "value": "v"} for name in names]
    for space in ("shop", "db0"):
        cli.ok("bulk", "put", "-n", space, "-", stdin=json.dumps(entries).encode())
        assert cli.ok("bulk", "delete", "-n", space, "-", "--yes", stdin=json.dumps(names).encode()) == (
            "4 keys deleted\n"
        )
        assert rows(cli, space) == []


def test_a_key_that_cannot_be_deleted_goes_by_its_number_in_the_file(cli: Cli) -> None:
    names = json.dumps(["first", "..", "half of a pair: \ud800"]).encode()
    said = cli.fails("bulk", "delete", "-n", "shop", "-", "--yes", stdin=names)
    assert said.startswith("kvd: entry 3: ")


def test_a_daemon_with_a_password_is_asked_by_a_user_and_gets_its_first_token_so(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server, server.client() as client:
        client.config_set("requirepass", "ge:h@eim")
        port = json.loads((tmp_path / "ports.json").read_text())["http"]
        cli = Cli(server, f"http://127.0.0.1:{port}")
        assert "have a user and a password in KVD_HTTP_URL" in cli.fails("namespace", "create", "shop")
        user = f"http://default:ge%3Ah%40eim@127.0.0.1:{port}"
        cli.ok("namespace", "create", "shop", "--url", user)
        token = cli.ok("token", "create", "--right", "admin", "--url", user.replace("default", "")).strip()
        assert cli.run("key", "list", "-n", "shop", KVD_TOKEN=token).exit_code == 0
        assert "eim" not in cli.fails("namespace", "list", "--url", user.replace("eim", "eimnis"))
        assert "eim" not in cli.fails("namespace", "list", "--url", user.replace(str(port), "1"))


def test_what_is_stored_cannot_act_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a\x1b[2J\nb\x9b1m ż"
    cli.ok("bulk", "put", "-n", "shop", "-", stdin=json.dumps([{"key": name, "value": ""}]).encode())
    cli.ok("namespace", "rename", "shop", "sh\x1bop")
    assert cli.ok("key", "list", "-n", "sh\x1bop") == f"{name}\n", "programs get it as it is"
    monkeypatch.setattr("kvd.cli.rest_options._is_terminal", lambda: True)
    assert cli.ok("key", "list", "-n", "sh\x1bop") == "a\\x1b[2J\\nb\\x9b1m ż\n"
    assert cli.ok("namespace", "list").endswith("  sh\\x1bop\n")


def test_errors_say_what_to_do(cli: Cli, tmp_path: Path) -> None:
    assert "is the daemon running there?" in cli.fails("namespace", "list", "--url", "http://127.0.0.1:1")
    assert "write http://host:port" in cli.fails("namespace", "list", "--url", "redis://x")
    said = cli.fails("namespace", "list", "--url", cli.server.url.replace("redis", "http"))
    assert said.endswith("what answers there does not speak HTTP; is that http.port?\n")
    said = cli.fails("namespace", "list", "--url", cli.url.replace("http", "https"))
    assert "no TLS can be spoken there (" in said
    said = cli.fails("import", "-n", "nowhere", "-", stdin=b"")
    assert "`kvd namespace list` shows them, `create` makes one" in said
    assert "is no JSON" in cli.run("key", "put", "-n", "shop", "a", "b", "--metadata", "{").stderr
    assert "at least 60" in cli.fails("key", "put", "-n", "shop", "a", "b", "--ttl", "5")
    assert "--namespace" in cli.run("key", "list").stderr


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    with kvd_server(tmp_path) as server:
        port = json.loads((tmp_path / "ports.json").read_text())["http"]
        cli = Cli(server, f"http://127.0.0.1:{port}")
        token = cli.ok("token", "create", "--right", "admin").strip()
        assert "KVD_TOKEN" in cli.fails("namespace", "list")
        (tmp_path / "token").write_text(f"{token}\n")
        cli.ok("namespace", "create", "shop", "--token-file", str(tmp_path / "token"))
        assert "shop" in cli.run("namespace", "list", KVD_TOKEN=token).output


# ---------------------------------------------------------------- bulk


@pytest.mark.parametrize("is_array", [True, False], ids=["array", "lines"])
def test_bulk_put_takes_arrays_and_lines(cli: Cli, tmp_path: Path, is_array: bool) -> None:
    entries = [
        {"key": "text", "value": "ż", "metadata": {"a": 1}},
        {"key": "raw", "value": "AP8=", "base64": True, "expiration_ttl": 600},
    ]
    text = json.dumps(entries) if is_array else "\n\n".join(map(json.dumps, entries))
    file = tmp_path / "data"
    file.write_text(text)
    assert cli.ok("bulk", "put", "-n", "shop", str(file)) == "2 keys written\n"
    assert cli.run("key", "get", "-n", "shop", "raw").stdout_bytes == b"\x00\xff"
    assert rows(cli)[1] == {"name": "text", "metadata": {"a": 1}}


def test_a_wrong_entry_is_named_and_the_run_goes_on_behind_what_is_done(cli: Cli, tmp_path: Path) -> None:
    entries: list[dict[str, str]] = [{"key": f"k{number:04}", "value": "v"} for number in range(2500)]
    entries[2016]["metadata"] = "x" * 2000
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, entries)))
    said = cli.fails("bulk", "put", "-n", "shop", str(file))
    assert "entry 2017 ('k2016'): Metadata length of 2002 exceeds limit of 1024." in said
    assert "the first 2,000 entries are done; go on with --start 2000" in said
    del entries[2016]["metadata"]
    file.write_text("\n".join(map(json.dumps, entries)))
    assert cli.ok("bulk", "put", "-n", "shop", str(file), "--start", "2000") == "500 keys written\n"
    assert len(rows(cli)) == 2500


def test_files_that_are_no_entries_are_refused(cli: Cli) -> None:
    assert "no valid JSON" in cli.fails("bulk", "put", "-n", "shop", "-", stdin=b"[{")
    assert "entry 1 is no valid JSON" in cli.fails("bulk", "put", "-n", "shop", "-", stdin=b"key value")
    assert "entry 1: it is not an object" in cli.fails("bulk", "put", "-n", "shop", "-", stdin=b"[1]")
    assert "entry 1" in cli.fails("bulk", "put", "-n", "db0", "-", stdin=b'[{"key":1,"value":"a"}]')
    assert cli.ok("bulk", "put", "-n", "shop", "-", stdin=b"") == "0 keys written\n"


def test_bulk_get_and_delete_take_what_a_list_gives(cli: Cli) -> None:
    entries = [{"key": f"k{number:03}", "value": str(number)} for number in range(150)]
    cli.ok("bulk", "put", "-n", "shop", "-", stdin=json.dumps(entries).encode())
    listed = cli.ok("key", "list", "-n", "shop", "--json").encode()
    found = json.loads(cli.ok("bulk", "get", "-n", "shop", "-", stdin=listed))
    assert (len(found), found["k149"]) == (150, "149")
    assert json.loads(cli.ok("bulk", "get", "-n", "shop", "-", stdin=b'["none"]')) == {"none": None}
    assert cli.run("bulk", "delete", "-n", "shop", "-", stdin=listed).exit_code == 2
    assert cli.ok("bulk", "delete", "-n", "shop", "-", "--yes", stdin=listed) == "150 keys deleted\n"
    assert rows(cli) == []


def test_lines_are_read_one_by_one() -> None:
    items = list(Source(io.BytesIO(b'\n {"key":"a"}\n{"key":"b"}')))
    assert [item.number for item in items] == [1, 2]
    with pytest.raises(CommandFailed, match="entry 2 is no valid JSON"):
        list(Source(io.BytesIO(b"{}\n{")))


def test_the_bar_shows_rate_and_time_left() -> None:
    assert (
        line("keys", 25, 100, 1000, 10.0)
        == "[#######---------------------]  25%  1,000 keys  100/s  0:30 left"
    )
    assert line("keys", 5, 0, 5, 1.0) == "5 keys  5/s"


# ---------------------------------------------------------------- export and import


@pytest.mark.parametrize("name", ["all.jsonl", "all.cbor"])
def test_an_export_comes_back_whole_in_another_daemon(cli: Cli, tmp_path: Path, name: str) -> None:
    moment = int(time.time()) + 5000
    cli.ok(
        "key", "put", "-n", "shop", "a", "text", "--expiration", str(moment), "--metadata", '{"x":[1,"ż"]}'
    )
    cli.ok("key", "put", "-n", "shop", "empty", "")
    cli.ok("namespace", "create", "other")
    cli.ok("key", "put", "-n", "other", "b", stdin=b"\x00\xff")
    with cli.server.client() as client:
        client.set(b"\xff\x00raw", b"\xfe")
        client.set("long" * 200, "1", ex=1000)
    file = tmp_path / name
    assert cli.ok("export", "--all", str(file)) == f"5 keys of 3 namespaces are in {file}\n"
    (tmp_path / "second").mkdir()
    with kvd_server(tmp_path / "second") as server:
        port = json.loads((tmp_path / "second" / "ports.json").read_text())["http"]
        second = Cli(server, f"http://127.0.0.1:{port}")
        assert second.ok("import", str(file)) == "5 keys imported\n"
        assert rows(second)[0] == {"name": "a", "expiration": moment, "metadata": {"x": [1, "ż"]}}
        assert second.ok("key", "get", "-n", "shop", "empty") == ""
        assert second.run("key", "get", "-n", "other", "b").stdout_bytes == b"\x00\xff"
        with server.client() as client:
            assert client.get(b"\xff\x00raw") == b"\xfe"
            assert 900 < client.ttl("long" * 200) <= 1000


def namespace_id(cli: Cli, title: str) -> str:
    spaces = cli.json("namespace", "list")
    assert isinstance(spaces, list)
    return next(str(each["id"]) for each in spaces if each["title"] == title)


def sequence(*items: object) -> bytes:
    return b"".join(cbor2.dumps(item) for item in items)


def test_metadata_that_is_no_utf8_comes_back_from_json_and_is_refused_by_cbor(
    cli: Cli, tmp_path: Path
) -> None:
    half = r'{"a":"\ud800","é":"\ud83d\ude00"}'
    for key in (b"one", b"\xff"):
        with cli.server.client() as client:
            namespace = namespace_id(cli, "shop")
            client.execute_command("KV.NS", "USE", namespace)
            client.execute_command("KV.PUT", key, "x", "META", half)
    file = tmp_path / "shop.jsonl"
    cli.ok("export", "-n", "shop", str(file))
    cli.ok("namespace", "create", "copy")
    cli.ok("import", "-n", "copy", str(file))
    exported = [json.loads(line) for line in cli.ok("export", "-n", "copy").splitlines()]
    assert [entry["metadata"] for entry in exported[1:3]] == [json.loads(half)] * 2
    said = cli.fails("export", "-n", "shop", "--format", "cbor", str(tmp_path / "x"))
    assert "the metadata of b'one' cannot be said in CBOR" in said


def test_a_cbor_sequence_holds_values_as_they_are(cli: Cli, tmp_path: Path) -> None:
    value = bytes(range(256)) * 100
    cli.ok("key", "put", "-n", "shop", "picture", stdin=value)
    cli.ok("key", "put", "-n", "shop", "text", "żółw", "--metadata", '{"n":[1,null,1.5]}')
    file = tmp_path / "shop.bin"
    cli.ok("export", "-n", "shop", "--format", "cbor", str(file))
    data = file.read_bytes()
    assert value in data
    stream, found = io.BytesIO(data), []
    while stream.tell() < len(data):
        found.append(cbor2.load(stream))
    assert found[0]["namespace"]["title"] == "shop"
    assert found[1:] == [
        {"key": b"picture", "value": value},
        {"key": b"text", "value": "żółw".encode(), "metadata": {"n": [1, None, 1.5]}},
        {"complete": True, "count": 2},
    ]
    cli.ok("key", "delete", "-n", "shop", "picture")
    assert cli.ok("import", "-", stdin=data) == "2 keys imported\n"
    assert cli.run("key", "get", "-n", "shop", "picture").stdout_bytes == value


def test_a_cbor_sequence_may_be_written_by_anybody(cli: Cli) -> None:
    """Text for bytes, indefinite lengths, the tag that describes itself."""
    entries = (
        cbor2.dumps(cbor2.CBORTag(55799, {"key": "a", "value": "1"})),
        b"\xbf\x63key\x5f\x41b\x41c\xff\x65value\x40\xff",
        cbor2.dumps({"key": b"d", "value": b"\xff", "expiration_ttl": 600, "metadata": ["x"]}),
    )
    assert cli.ok("bulk", "put", "-n", "shop", "-", stdin=b"".join(entries)) == "3 keys written\n"
    assert [row["name"] for row in rows(cli)] == ["a", "bc", "d"]
    assert rows(cli)[2]["metadata"] == ["x"]
    assert cli.run("key", "get", "-n", "shop", "d").stdout_bytes == b"\xff"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sequence({"key": b"a", "value": b"v"}, {"key": b"b", "value": b"v"})[:-1], "in the middle of entry 2"),
        (sequence({"key": b"a", "value": b"v"}) + b"\xff", "entry 2 is no valid CBOR"),
        (sequence({"key": b"a", "value": b"v", "metadata": {"k": b"bytes"}}), "entry 1: what it has as 'metadata'"),
        (sequence({"key": b"a", "value": b"v", "expiration": float("nan")}), "entry 1: what it has as 'expiration'"),
        (sequence({"key": b"a"}), "entry 1 ('a'): its value is not a string"),
        (sequence([b"a"]), "entry 1: it is no map"),
        (b"\x9f" * 5000, "entry 1 is no valid CBOR"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_cbor_sequence_is_named(cli: Cli, data: bytes, message: str) -> None:
    assert message in cli.fails("bulk", "put", "-n", "shop", "-", stdin=data)


def test_a_cbor_import_goes_on_where_it_broke_off(cli: Cli) -> None:
    good = [{"key": b"k%04d" % number, "value": b"v"} for number in range(1500)]
    said = cli.fails("bulk", "put", "-n", "shop", "-", stdin=sequence(*good) + b"\xa1")
    assert "the first 1,000 entries are done; go on with --start 1000" in said
    assert (
        cli.ok("bulk", "put", "-n", "shop", "--start", "1000", "-", stdin=sequence(*good))
        == "500 keys written\n"
    )
    assert len(rows(cli)) == 1500


def test_an_import_leaves_out_what_has_expired_and_notices_a_cut_file(cli: Cli) -> None:
    head = b'{"namespace":{"title":"made"}}\n'
    entries = head + b'{"key":"old","value":"","expiration":1}\n{"key":"new","value":""}\n'
    assert "broke off" in cli.fails("import", "-", stdin=entries)
    whole = entries + b'{"complete":true,"count":2}\n'
    assert cli.ok("import", "-", stdin=whole).splitlines()[0] == "1 keys imported"
    assert rows(cli, "made") == [{"name": "new"}]
    assert "give --namespace" in cli.fails("import", "-", stdin=b'{"key":"a","value":""}')
    assert cli.ok("import", "-n", "shop", "-", stdin=b'{"key":"a","value":""}') == "1 keys imported\n"


def test_an_export_that_fails_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    cli.fails("export", "-n", "missing", str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_redis
def test_strings_of_a_redis_are_imported(cli: Cli, redis_server: RunningServer) -> None:
    with redis_server.client() as client:
        client.flushall()
        client.mset({f"k{number}": str(number) for number in range(1000)})
        client.set(b"\xff", b"\xfe", ex=5000)
        due_ms = client.pexpiretime(b"\xff")
        client.set("soon", "", ex=5)
        client.rpush("a list", "1")
        said = cli.ok("import", "-n", "db1", "--from", redis_server.url)
        assert said.splitlines() == [
            "1,001 keys imported",
            "1 left out: they live no longer than 60 s (--min-ttl)",
            "left out, as they are no strings: 1 of type list ('a list')",
        ]
        client.flushall()
    with cli.server.client(db=1) as client:
        assert client.get("k999") == b"999"
        assert client.get(b"\xff") == b"\xfe"
        imported_ms = client.pexpiretime(b"\xff")
        assert imported_ms % 1000 == 0, "an entry has whole seconds, never fewer than were left"
        assert due_ms <= imported_ms < due_ms + 60_000


@pytest.mark.needs_redis
def test_an_import_from_a_redis_goes_on_where_it_broke_off(
    cli: Cli, redis_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ("import", "-n", "shop", "--from", redis_server.url)
    scans = 0
    ask = Client.ask

    def failing(self: Client, *arguments: bytes | str, seconds: float = 30.0) -> object:
        nonlocal scans
        scans += arguments[0] == "SCAN"
        if scans == 20:
            raise CommandFailed("the connection was lost")
        return ask(self, *arguments, seconds=seconds)

    with redis_server.client() as client:
        client.flushall()
        client.mset({f"k{number}": str(number) for number in range(5000)})
        client.rpush("a list", "1")
        with monkeypatch.context() as patched:
            patched.setattr(Client, "ask", failing)
            said = cli.fails(*source)
        written = len(rows(cli))
        assert f"{written:,} keys are imported; go on with --cursor " in said
        assert 0 < written < 5000
        told = said.rpartition(" ")[2].strip()
        again = int(cli.ok(*source, "--cursor", told).split()[0].replace(",", ""))
        client.flushall()
    assert len(rows(cli)) == 5000
    assert again < 5000
    assert cli.run(*source, "--start", "3").exit_code == 2
    assert cli.run("import", "-", "--cursor", "3", stdin=b"").exit_code == 2


@pytest.mark.needs_redis
@pytest.mark.parametrize("space", ["shop", "db1"])
def test_keys_of_a_redis_that_cannot_be_kept_stop_nothing(
    cli: Cli, redis_server: RunningServer, space: str
) -> None:
    with redis_server.client() as client:
        client.flushall()
        client.mset({f"k{number}": str(number) for number in range(1000)} | {"": "x", ".": "x", "..": "x"})
        client.mset({"K" * 3000: "x", "large": b"x" * (25 * 1024 * 1024 + 1)})
        told = cli.json("import", "-n", space, "--from", redis_server.url)
        said = cli.ok("import", "-n", space, "--from", redis_server.url)
        client.flushall()
    assert isinstance(told, dict)
    assert told["imported"] == len(rows(cli, space)) == 1003
    assert {each["key"] for each in told["refusals"]} == {"large", "K" * 80 + "…"}
    assert told["refused"] == 2
    assert "2 left out: they cannot be kept here (" in said


def test_keys_that_workers_kv_does_not_know_come_back(cli: Cli, tmp_path: Path) -> None:
    names = [b"", b".", b"..", b"a"]
    with cli.server.client() as client:
        client.mset(dict.fromkeys(names, b"x"))
    for name in ("db0.jsonl", "db0.cbor"):
        file = tmp_path / name
        cli.ok("export", "-n", "db0", str(file))
        for space in ("db2", "shop"):
            cli.ok("import", "-n", space, str(file))
            assert [row["name"] for row in rows(cli, space)] == ["", ".", "..", "a"]
            assert cli.ok("key", "get", "-n", space, "") == "x"
            cli.ok("key", "delete", "-n", space, "")
            assert len(rows(cli, space)) == 3


def test_a_redis_that_is_not_there_is_named(cli: Cli) -> None:
    assert "is the daemon running" in cli.fails("import", "-n", "shop", "--from", "redis://127.0.0.1:1/0")
    assert "is no number" in cli.fails("import", "-n", "shop", "--from", "redis://127.0.0.1:1/x")


@pytest.mark.parametrize(
    "verb",
    [
        ["namespace"],
        ["key"],
        ["bulk"],
        ["export"],
        ["import"],
        ["key", "put"],
        ["key", "get"],
        ["bulk", "put"],
    ],
)
def test_help_shows_examples(verb: list[str]) -> None:
    output = CliRunner().invoke(main, [*verb, "--help"]).output
    assert "Examples:\n  " in output


def test_namespaces_of_groups_that_a_node_does_not_carry_are_named_and_left_out(tmp_path: Path) -> None:
    with kvd_server(tmp_path, "--peer-groups", "7") as server, server.client() as client:
        client.execute_command("KV.NS", "CREATE", "ours", "REPLICATE", "GROUP", "7")
        client.execute_command("KV.NS", "CREATE", "shop")
    with kvd_server(tmp_path) as server:  # a node of its own may give a group up
        cli = Cli(server, f"http://127.0.0.1:{json.loads((tmp_path / 'ports.json').read_text())['http']}")
        listed = {line.split()[-1]: line for line in cli.ok("namespace", "list").splitlines()}
        assert "not carried  ours" in listed["7)"]
        assert "not carried" not in listed["shop"]
        result = cli.run("export", "--all", str(tmp_path / "all.jsonl"))
        assert result.exit_code == 0, result.output
        assert "left out, as this node does not carry their groups: 'ours'" in result.stderr
        assert "does not carry group 7" in cli.fails("export", "-n", "ours", str(tmp_path / "ours.jsonl"))
    with kvd_server(tmp_path, "--peer-groups", "7") as server, server.client() as client:
        client.execute_command("KV.NS", "USE", "ours")  # nothing is lost by it
