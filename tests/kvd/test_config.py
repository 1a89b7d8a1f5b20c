"""Where settings come from: precedence, every error at once, and what each error says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.config import ConfigError, Flag, load, parse_flag
from kvd.setting_spec import BOOLEAN, BYTES, INTEGER, MIB, MODE, Setting, Value
from kvd.settings import SETTINGS, Settings

NUMBERS = [setting for setting in SETTINGS.values() if setting.kind in (INTEGER, BYTES)]


def problems_of(
    file: Path | None = None, environment: dict[str, str] | None = None, flags: tuple[Flag, ...] = ()
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, environment or {}, flags)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def written(directory: Path, text: str) -> Path:
    file = directory / "kvd.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_any_source_the_defaults_hold() -> None:
    assert load(None, {}, ()) == Settings()


# ---------------------------------------------------------------- precedence


def in_range(setting: Setting) -> st.SearchStrategy[int]:
    high = setting.high if setting.high is not None else 2**40
    return st.integers(min_value=setting.low, max_value=high)


@st.composite
def sources(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Draw values for a file, an environment and flags that overlap in any way."""
    chosen = draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=6, unique_by=id))
    layers: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({}, {}, {})
    for setting in chosen:
        for layer in layers:
            if draw(st.booleans()):
                layer[setting.name] = draw(in_range(setting))
    return layers


@given(sources())
def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path_factory: pytest.TempPathFactory, layers: tuple[dict[str, int], dict[str, int], dict[str, int]]
) -> None:
    in_file, in_environment, in_flags = layers
    # Nothing may contradict but one number: those that have to fit others are another test's matter.
    for layer in layers:
        for name in (
            "server.tls_port",
            "http.port",
            "http.tls_port",
            "peers.port",
            "peers.clock_hold_seconds",
            "peers.clock_max_offset_ms",
        ):
            layer.pop(name, None)
    lines = [f"{name} = {value}" for name, value in in_file.items()]  # dotted keys: sections of TOML
    file = written(tmp_path_factory.mktemp("config"), "\n".join(lines))
    environment = {SETTINGS[name].environment: str(value) for name, value in in_environment.items()}
    flags = [parse_flag(f"{name}={value}") for name, value in in_flags.items()]
    settings = load(file, environment, flags)
    for name, setting in SETTINGS.items():
        expected: Value = setting.default
        for layer in layers:
            expected = layer.get(name, expected)
        assert settings.value(name) == expected


def test_the_later_of_two_equal_flags_wins() -> None:
    flags = (Flag("--port", "server.port", "1"), parse_flag("server.port=2"))
    assert load(None, {}, flags).server.port == 2


def test_each_kind_can_be_given_in_the_environment() -> None:
    settings = load(
        None,
        {
            "KVD_SERVER__BIND": "127.0.0.1, ::1",
            "KVD_SERVER__PROTECTED_MODE": "no",
            "KVD_SERVER__UNIX_SOCKET_PERMISSIONS": "770",
            "KVD_SECURITY__REQUIREPASS": "hunter2",
            "KVD_SECURITY__USERS": "alice on >a; bob off",
            "KVD_STORAGE__CACHE_BYTES": "32mb",
            "KVD_STORAGE__DURABILITY": "ALWAYS",
        },
        (),
    )
    assert settings.server.bind == ("127.0.0.1", "::1")
    assert settings.server.protected_mode is False
    assert settings.server.unix_socket_permissions == 0o770
    assert settings.security.requirepass.reveal() == "hunter2"
    assert [user.reveal() for user in settings.security.users] == ["alice on >a", "bob off"]
    assert settings.storage.cache_bytes == 32 * MIB
    assert settings.storage.durability == "always"


def test_other_variables_with_our_prefix_are_left_alone() -> None:
    assert load(None, {"KVD_CONFIG": "x", "KVD_REQUIRE_REDIS": "1", "PATH": "y"}, ()) == Settings()


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("off", False), (" no ", False)]
)
def test_booleans_have_the_spellings_that_people_use(text: str, value: bool) -> None:
    assert BOOLEAN.from_text(text) is value


def test_file_modes_are_octal() -> None:
    assert MODE.from_text("0o660") == MODE.from_text("660") == 0o660
    with pytest.raises(ValueError, match="octal"):
        MODE.from_text("rw")


# ---------------------------------------------------------------- errors


def test_all_errors_of_all_sources_come_at_once(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        port = 3
        [servr]
        x = 1
        [server]
        port = "6379"
        maxclient = 4
        tcp_backlog = 0
        [storage]
        durability = "sometimes"
        """,
    )
    environment = {"KVD_SERVER__PROT": "3", "KVD_STORAGE__CACHE_BYTES": "lots"}
    flags = (
        Flag("--port", "server.port", "x"),
        parse_flag("appendfsync=no"),
        parse_flag("server.tls_auth_clients=yes"),
    )
    assert problems_of(file, environment, flags) == [
        f"{file}: port: there is no such setting outside a section; did you mean server.port?",
        f"{file}: servr: there is no such section; did you mean [server]?",
        f"{file}: server.port: write a whole number without quotes, not '6379'",
        f"{file}: server.maxclient: there is no such setting; did you mean server.maxclients?",
        f"{file}: server.tcp_backlog: 0 is out of range; use 1 to 65535",
        f"{file}: storage.durability: 'sometimes' is not one of always, everysec, no",
        "KVD_SERVER__PROT: there is no such setting; did you mean KVD_SERVER__PORT?",
        "KVD_STORAGE__CACHE_BYTES: 'lots' is not a size; write bytes as a number, or with KiB, MiB or GiB",
        "--port: 'x' is not a whole number",
        "--set appendfsync: there is no such setting; did you mean storage.durability?",
        'server.tls_ca_file: is needed to check client certificates, or set tls_auth_clients = "no"',
    ]


@pytest.mark.parametrize(
    "way_in", ["server.port=0", "http.port=0", "server.unix_socket=/s", "http.unix_socket=/s"]
)
def test_one_way_in_is_enough(way_in: str) -> None:
    load(None, {}, [parse_flag(text) for text in ("server.port=-1", "http.port=-1", way_in)])


@pytest.mark.parametrize("given", [("server.port=-1", "http.port=-1"), ("server.bind=",)])
def test_a_daemon_that_nobody_could_reach_is_refused(given: tuple[str, ...]) -> None:
    (problem,) = problems_of(flags=tuple(parse_flag(text) for text in given))
    assert problem.endswith("leaves no way in; open a port, with an address in server.bind, or a unix socket")


@pytest.mark.parametrize("name", ["server.port", "server.tls_port", "http.port", "http.tls_port"])
def test_peers_need_a_port_of_their_own(name: str) -> None:
    texts = (
        f"{name}=7379",
        "peers.port=7379",
        "peers.secret_file=f",
        "server.tls_cert_file=f",
        "server.tls_key_file=f",
    )
    (problem,) = problems_of(flags=tuple(parse_flag(text) for text in texts))
    assert problem == "--set peers.port: is a port for clients already; peers need one of their own"


def test_a_wrong_value_is_an_error_even_where_a_flag_overrides_it(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nport = 70000\n")
    assert problems_of(file, {}, (parse_flag("server.port=1"),)) == [
        f"{file}: server.port: 70000 is out of range; use -1 to 65535"
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("server = 3", "server: is a section; write it as [server]"),
        (
            "nonsense = 3",
            "nonsense: there is no such setting outside a section; docs/configuration.md lists all",
        ),
        ("[zzz]\nx = 1", "zzz: there is no such section; use one of server, security"),
        ("[server]\nbind = '127.0.0.1'", "server.bind: write a list in brackets, not '127.0.0.1'"),
        ("[server]\nbind = ['here']", "server.bind: 'here' is not an IP address; write"),
        ("[server]\nbind = [1]", "server.bind: write a text in quotes, not 1"),
        ("[server]\nprotected_mode = 'yes'", "server.protected_mode: write true or false, not 'yes'"),
        ("[server]\nport = true", "server.port: write a whole number without quotes, not True"),
        ("[server]\ntls_min_version = 1.2", "server.tls_min_version: 1.2 is not one of 1.2, 1.3"),
        ("[storage]\ncache_bytes = 1", 'storage.cache_bytes: 1 is out of range; use "1 MiB" to "1024 GiB"'),
        ("[compat]\nredis_version = '7'", "compat.redis_version: '7' is not a version; write three numbers"),
        ("[events]\nnotify_keyspace_events = 'KQ'", "events.notify_keyspace_events: unknown event class 'Q'"),
        ("[server\n", "is not TOML: Expected ']'"),
    ],
)
def test_an_error_in_the_file_says_where_and_what_would_be_right(
    tmp_path: Path, text: str, sentence: str
) -> None:
    file = written(tmp_path, text)
    (problem,) = problems_of(file)
    assert problem.startswith(f"{file}: {sentence}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    assert problems_of(file) == [
        f"{file}: cannot be read: No such file or directory; check the path given with --config"
    ]


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_bytes(b"[server]\n\xff")
    assert problems_of(file) == [f"{file}: is not UTF-8 text: byte 9 is wrong"]


@pytest.mark.parametrize(
    "text",
    ["[security]\nrequirepass = 8715309", "[security]\nusers = 8715309", "[security]\nusers = [8715309]"],
)
def test_a_wrong_secret_is_not_repeated(tmp_path: Path, text: str) -> None:
    (problem,) = problems_of(written(tmp_path, text))
    assert "8715309" not in problem


def test_a_flag_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no value; write section\.key=value"):
        parse_flag("server.port")


def test_a_value_may_hold_an_equals_sign() -> None:
    assert load(None, {}, (parse_flag("security.requirepass=a=b"),)).security.requirepass.reveal() == "a=b"
