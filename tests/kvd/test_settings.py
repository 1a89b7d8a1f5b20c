"""The settings table: each declaration is complete and its defaults obey it."""

from __future__ import annotations

import re
import tomllib

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd.setting_spec import BYTES, KIB, MIB, SECRETS, TEXT, Secret, Setting
from kvd.settings import SECTIONS, SETTINGS, Settings, StorageSettings, contradictions

every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


@every_setting
def test_every_setting_is_explained_and_its_default_is_in_range(setting: Setting) -> None:
    assert setting.doc.endswith(".")
    assert setting.problem(setting.default) is None
    assert Settings().value(setting.name) == setting.default


@every_setting
def test_every_default_survives_toml(setting: Setting) -> None:
    document = tomllib.loads(f"value = {setting.kind.to_toml(setting.default)}")
    assert setting.kind.from_toml(document["value"]) == setting.default


@every_setting
def test_a_number_of_something_has_its_unit_or_its_bound_in_the_name(setting: Setting) -> None:
    if setting.kind is BYTES:
        assert "bytes" in setting.field.split("_")
    if re.search("timeout|interval|threshold|age", setting.field) and isinstance(setting.default, int):
        assert setting.field.endswith(("_seconds", "_ms", "_us"))


def test_every_redis_parameter_belongs_to_one_setting_or_to_one_group() -> None:
    owners: dict[str, set[str]] = {}
    for setting in SETTINGS.values():
        for parameter in setting.parameters:
            owners.setdefault(parameter, set()).add(setting.name)
    shared = {parameter: names for parameter, names in owners.items() if len(names) > 1}
    assert set(shared) == {"client-output-buffer-limit"}
    assert len(shared["client-output-buffer-limit"]) == 9


def test_sections_of_the_class_and_of_the_table_agree() -> None:
    assert [field.name for field in attrs.fields(Settings)] == list(SECTIONS)


def test_replacing_values_changes_only_those() -> None:
    before = Settings()
    after = before.replaced({"server.maxclients": 5, "storage.durability": "always"})
    assert after.server.maxclients == 5
    assert after.storage.durability == "always"
    assert after.clients is before.clients
    assert before.server.maxclients == 10_000


def test_a_value_out_of_range_cannot_be_built() -> None:
    with pytest.raises(ValueError, match=r"key_bytes_max: .* is out of range; use 1 to"):
        StorageSettings(key_bytes_max=64 * KIB + 1)
    with pytest.raises(ValueError, match="maxclients"):
        Settings().replaced({"server.maxclients": 0})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"server.tls_port": 0}, {"server.tls_cert_file", "server.tls_key_file"}),
        ({"server.tls_auth_clients": "optional"}, {"server.tls_ca_file"}),
        (
            {"server.tls_port": 6379, "server.tls_cert_file": "a", "server.tls_key_file": "b"},
            {"server.tls_port"},
        ),
        ({"security.acl_file": "users.acl", "security.users": (Secret("bob on"),)}, {"security.users"}),
        ({"peers.port": 7379}, {"peers.port"}),
        ({"peers.port": 7379, "peers.secret_file": "s"}, set()),
        ({"peers.port": 6379, "peers.secret_file": "s"}, {"peers.port"}),
        ({"peers.port": 0, "peers.secret_file": "s", "peers.ca_file": "ca"}, {"peers.secret_file"}),
        ({"peers.port": 0, "peers.ca_file": "ca"}, {"peers.cert_file"}),
        ({"peers.join": ("a:1",), "peers.advertise": ("b:1",)}, {"peers.join", "peers.advertise"}),
        (
            {"peers.port": 0, "peers.secret_file": "s", "peers.dialable": False, "peers.advertise": ("b:1",)},
            {"peers.advertise", "peers.join"},
        ),
        (
            {"peers.port": 0, "peers.secret_file": "s", "peers.clock_hold_seconds": 9},
            {"peers.clock_hold_seconds"},
        ),
        ({}, set()),
    ],
)
def test_contradictions_name_the_setting_to_mend(changes: dict[str, object], named: set[str]) -> None:
    assert {name for name, _ in contradictions(Settings().replaced(changes))} == named


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1k", 1000),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("2 mb", 2 * MIB),
        ("2M", 2_000_000),
        ("3 GiB", 3 * 1024 * MIB),
        ("7b", 7),
    ],
)
def test_sizes_are_read_as_redis_reads_them(text: str, size: int) -> None:
    assert BYTES.from_text(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1", "1.5 MiB", "1 TiB", "12 34", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        BYTES.from_text(text)


@given(st.integers(min_value=0, max_value=2**62))
def test_every_size_survives_toml(size: int) -> None:
    assert BYTES.from_toml(tomllib.loads(f"v = {BYTES.to_toml(size)}")["v"]) == size


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_survives_toml(text: str) -> None:
    assert TEXT.from_toml(tomllib.loads(f"v = {TEXT.to_toml(text)}")["v"]) == text


def test_a_secret_is_never_shown() -> None:
    settings = Settings().replaced(
        {"security.requirepass": Secret("hunter2"), "security.users": (Secret("bob on >hunter2"),)}
    )
    assert "hunter2" not in repr(settings)
    for name in ("security.requirepass", "security.users"):
        assert "hunter2" not in SETTINGS[name].show(settings.value(name))
    assert settings.security.requirepass.reveal() == "hunter2"
    assert SECRETS.to_toml(settings.security.users) == '["bob on >hunter2"]'


def test_secrets_compare_by_their_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret()
