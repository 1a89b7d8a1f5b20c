"""CONFIG: parameters of Redis and settings of kvd, changed together or not at all, and written back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kvd.config import load
from kvd.config_rewrite import RewriteError, rewrite, with_value
from kvd.fixed_parameters import FIXED
from kvd.parameters import PARAMETERS, find
from kvd.settings import SETTINGS, Settings
from tests.kvd.harness import Client, InProcessServer, error
from tests.kvd.redis_wire import ask
from tests.servers import RunningServer


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Client:
    return Client(server)


def shown(client: Client, *patterns: str) -> dict[str, str]:
    flat = [each.decode() for each in client.send("CONFIG", "GET", *patterns)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


# --- GET


def test_every_parameter_shows_a_value(client: Client) -> None:
    everything = shown(client, "*")
    assert everything.keys() == PARAMETERS.keys()
    assert everything["maxclients"] == "10000"
    assert everything["protected-mode"] == "yes"
    assert everything["appendfsync"] == "everysec"
    assert everything["bind"] == "127.0.0.1 -::1"
    assert everything["unixsocketperm"] == "700"
    assert everything["storage.value_bytes_max"] == str(25 * 1024 * 1024)


def test_every_setting_is_a_parameter() -> None:
    for setting in SETTINGS.values():
        assert find(setting.name) is not None
        for name in setting.parameters:
            assert name in PARAMETERS


def test_patterns_and_names_can_be_mixed(client: Client) -> None:
    found = shown(client, "slowlog-*", "MaxMemory", "server.maxclients", "nothing")
    assert found.keys() == {"slowlog-log-slower-than", "slowlog-max-len", "MaxMemory", "server.maxclients"}


def test_what_tools_read_before_they_start_is_there(client: Client) -> None:
    assert shown(client, "save", "appendonly") == {"save": "", "appendonly": "yes"}
    assert shown(client, "maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert shown(client, "databases") == {"databases": "16"}


def test_a_password_is_not_shown(client: Client) -> None:
    assert shown(client, "requirepass") == {"requirepass": ""}
    client.send("CONFIG", "SET", "requirepass", "secret")
    client.send("AUTH", "secret")
    assert shown(client, "requirepass") == {"requirepass": "(redacted)"}


def test_the_data_directory_is_shown_whole(client: Client) -> None:
    assert Path(shown(client, "dir")["dir"]).is_absolute()


# --- SET


def test_a_change_is_in_force_at_once(server: InProcessServer, client: Client) -> None:
    assert client.send("CONFIG", "SET", "timeout", 60, "maxclients", 5) == b"OK"
    assert server.settings.server.idle_timeout_seconds == 60
    assert server.settings.server.maxclients == 5


def test_nothing_changes_if_one_of_several_is_wrong(server: InProcessServer, client: Client) -> None:
    before = server.settings
    reply = client.send("CONFIG", "SET", "timeout", 60, "slowlog-max-len", "many")
    assert "possibly related to argument 'slowlog-max-len'" in error(reply)
    assert server.settings is before


def test_sizes_may_be_written_with_units(server: InProcessServer, client: Client) -> None:
    client.send("CONFIG", "SET", "client-query-buffer-limit", "2mb", "storage.cache_bytes", "3 MiB")
    assert server.settings.clients.query_buffer_bytes_max == 2 << 20
    assert server.settings.storage.cache_bytes == 3 << 20


def test_limits_of_records_reach_the_store(client: Client) -> None:
    client.send("CONFIG", "SET", "storage.key_bytes_max", 3)
    assert client.send("SET", "abc", 1) == b"OK"
    assert "storage.key_bytes_max" in error(client.send("SET", "abcd", 1))


def test_durability_reaches_the_store(server: InProcessServer, client: Client) -> None:
    client.send("CONFIG", "SET", "appendfsync", "always")
    assert server.store.durability == "always"


def test_a_password_is_needed_from_now_on(server: InProcessServer, client: Client) -> None:
    client.send("CONFIG", "SET", "requirepass", "secret")
    stranger = Client(server)
    assert error(stranger.send("GET", "key")).startswith("NOAUTH")
    assert stranger.send("AUTH", "secret") == b"OK"
    client.send("CONFIG", "SET", "requirepass", "")
    assert Client(server).send("GET", "key") is None


def test_keyspace_events_begin_and_end(server: InProcessServer, client: Client) -> None:
    listener = Client(server)
    listener.send("SUBSCRIBE", "__keyevent@0__:set")
    client.send("CONFIG", "SET", "notify-keyspace-events", "E$")
    client.send("SET", "key", 1)
    assert listener.next() == [b"message", b"__keyevent@0__:set", b"key"]
    client.send("CONFIG", "SET", "notify-keyspace-events", "")
    client.send("SET", "key", 2)
    assert listener.next() is False


def test_the_log_level_has_redis_s_words(server: InProcessServer, client: Client) -> None:
    for word, level in (
        ("warning", "warning"),
        ("verbose", "info"),
        ("nothing", "error"),
        ("notice", "info"),
    ):
        assert client.send("CONFIG", "SET", "loglevel", word) == b"OK"
        assert server.settings.log.level == level
    assert shown(client, "loglevel") == {"loglevel": "notice"}


def test_what_cannot_be_otherwise_is_refused_with_the_reason(client: Client) -> None:
    assert client.send("CONFIG", "SET", "maxmemory", 0) == b"OK"
    assert "kvd evicts nothing" in error(client.send("CONFIG", "SET", "maxmemory", "100mb"))
    assert client.send("CONFIG", "SET", "save", "") == b"OK"
    assert "BGSAVE" in error(client.send("CONFIG", "SET", "save", "900 1"))


def test_tls_protocols_follow_from_the_least_version() -> None:
    for least, protocols in (("1.2", "TLSv1.2 TLSv1.3"), ("1.3", "TLSv1.3")):
        client = Client(InProcessServer(changed(server__tls_min_version=least)))
        assert shown(client, "tls-protocols") == {"tls-protocols": protocols}
        assert client.send("CONFIG", "SET", "tls-protocols", protocols) == b"OK"
        assert "tls_min_version" in error(client.send("CONFIG", "SET", "tls-protocols", "TLSv1.1"))


def test_a_fixed_parameter_may_be_set_to_what_it_is(client: Client) -> None:
    for name, (answer, reason) in FIXED.items():
        assert client.send("CONFIG", "SET", name, answer) == b"OK"
        assert error(client.send("CONFIG", "SET", name, "77")).endswith(reason)
        assert shown(client, name) == {name: answer}


@pytest.mark.needs_redis
def test_every_parameter_of_redis_is_known(client: Client, redis_server: RunningServer) -> None:
    with redis_server.connect() as sock:
        flat = ask(sock, "CONFIG", "GET", "*")
    names = {name.decode() for name in flat[::2]}
    assert len(names) > 150
    assert names <= shown(client, "*").keys()


def test_what_needs_a_restart_is_refused(client: Client) -> None:
    assert error(client.send("CONFIG", "SET", "port", 1)).endswith("can't set immutable config")
    assert error(client.send("CONFIG", "SET", "server.bind", "::1")).endswith("can't set immutable config")


def test_resetstat_counts_from_zero_again(server: InProcessServer, client: Client) -> None:
    client.send("GET", "key")
    client.send("FOO")
    client.send("CONFIG", "RESETSTAT")
    assert server.stats.errors == 0
    # RESETSTAT itself is booked when it returns.
    assert {spec.name for spec in server.table.everything() if spec.stats.calls} == {"CONFIG|RESETSTAT"}


# --- REWRITE

FILE = """\
# our server

[server]
port = 6380  # not the usual one
bind = [
    "127.0.0.1",
    "::1",
]

[log]
level = "info"
# slowlog_max_len = 128

[storage]
data_dir = "/srv/kvd # data"
"""


def changed(**values: object) -> Settings:
    return Settings().replaced({name.replace("__", "."): value for name, value in values.items()})


def written(text: str, name: str, settings: Settings) -> str:
    return with_value(text, SETTINGS[name], settings)


def test_a_value_is_replaced_in_place_and_its_comment_stays() -> None:
    text = written(FILE, "server.port", changed(server__port=7000))
    assert "port = 7000  # not the usual one\n" in text
    assert text.replace("port = 7000", "port = 6380") == FILE


def test_a_list_over_several_lines_becomes_one() -> None:
    text = written(FILE, "server.bind", changed(server__bind=("0.0.0.0",)))
    assert tomllib.loads(text)["server"]["bind"] == ["0.0.0.0"]
    assert "# our server" in text


def test_a_new_value_stands_at_the_end_of_its_section() -> None:
    text = written(FILE, "log.slowlog_max_len", changed(log__slowlog_max_len=7))
    assert "# slowlog_max_len = 128\nslowlog_max_len = 7\n\n[storage]" in text


def test_a_new_section_stands_at_the_end_of_the_file() -> None:
    text = written(FILE, "events.tracking_table_max_keys", changed(events__tracking_table_max_keys=7))
    assert text.endswith("\n\n[events]\ntracking_table_max_keys = 7\n")


def test_an_empty_file_becomes_a_whole_one() -> None:
    assert written("", "server.port", changed(server__port=7000)) == "[server]\nport = 7000\n"


def test_a_number_sign_inside_a_text_is_no_comment() -> None:
    text = written(FILE, "storage.data_dir", changed(storage__data_dir="elsewhere"))
    assert text.endswith('data_dir = "elsewhere"\n')


def test_a_file_that_cannot_be_changed_safely_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    text = "log = { slowlog_max_len = 128 }\n"
    file.write_text(text)
    with pytest.raises(RewriteError):
        rewrite(file, changed(log__slowlog_max_len=7), ["log.slowlog_max_len"])
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_section_inside_a_text_is_not_mistaken_for_one(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text('[storage]\ndata_dir = """\n[log]\n"""\n')
    with pytest.raises(RewriteError):
        rewrite(file, changed(log__slowlog_max_len=7), ["log.slowlog_max_len"])


def test_rewriting_writes_what_config_set_changed(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text(FILE)
    file.chmod(0o640)
    server = InProcessServer(load(file, {"KVD_LOG__SLOWLOG_MAX_LEN": "9"}, []))
    server.config_file = file
    client = Client(server)
    assert client.send("CONFIG", "SET", "loglevel", "warning", "requirepass", 'a"b\\c') == b"OK"
    client.send("AUTH", 'a"b\\c')
    assert client.send("CONFIG", "REWRITE") == b"OK"
    assert load(file, {}, []) == server.settings.replaced({"log.slowlog_max_len": 128})
    assert file.stat().st_mode & 0o777 == 0o640


def test_without_a_file_there_is_nothing_to_rewrite(client: Client) -> None:
    assert error(client.send("CONFIG", "REWRITE")) == "ERR The server is running without a config file"


def test_a_value_that_is_not_utf_8_holds_and_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text(FILE)
    server = InProcessServer(load(file, {}, []))
    server.config_file = file
    client = Client(server)
    assert client.send("CONFIG", "SET", "requirepass", b"p\xe4ss") == b"OK"
    assert Client(server).send("AUTH", b"p\xe4ss") == b"OK"
    assert error(Client(server).send("AUTH", "pass")).startswith("WRONGPASS")
    assert "is not UTF-8" in error(client.send("CONFIG", "REWRITE"))
    assert file.read_text() == FILE


def test_a_file_that_is_gone_is_an_error(tmp_path: Path, server: InProcessServer, client: Client) -> None:
    server.config_file = tmp_path / "gone.toml"
    client.send("CONFIG", "SET", "timeout", 5)
    assert error(client.send("CONFIG", "REWRITE")).startswith("ERR Rewriting config file: cannot read")
