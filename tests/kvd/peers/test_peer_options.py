"""From settings to the replicator's constants."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvd.config import ConfigError, Flag, load
from kvd.housekeeping import store_options
from kvd.peering.options import peer_options
from kvd.settings import GROUPS_MAX, SETTINGS, Settings
from replication.messages import GROUPS_MAX as MESSAGE_GROUPS_MAX
from replication.options import Options

GIVEN = {"peers.port": 7379, "peers.secret_file": "s"}


def options(**changes: object) -> Options:
    named = {f"peers.{name}": value for name, value in changes.items()}
    return peer_options(Settings().replaced({**GIVEN, **named}), 7379)


def test_the_defaults_are_the_replicators_own() -> None:
    found, default = options(), Options()
    assert found.check() is None
    for name in ("max_offset", "hold", "purge_interval", "max_offline", "sync_interval", "verify_interval"):
        assert getattr(found, name) == getattr(default, name), name
    assert found.full_mesh_max == default.full_mesh_max
    assert (found.stale_writes, found.on_skew) == (default.stale_writes, default.on_skew)


@pytest.mark.parametrize("name", ["stale_writes", "clock_on_skew"])
def test_every_word_of_a_policy_is_one_of_the_replicators(name: str) -> None:
    for word in SETTINGS[f"peers.{name}"].kind.words:
        assert options(**{name: word}).check() is None


def test_a_node_is_reached_where_it_says() -> None:
    assert options(advertise=("node1:7379", "[::1]:7379")).addresses == ("node1:7379", "[::1]:7379")


def test_a_node_that_is_bound_to_one_address_is_reached_there() -> None:
    assert options(bind="127.0.0.1").addresses == ("127.0.0.1:7379",)
    assert options(bind="::1").addresses == ("[::1]:7379",)


def test_a_node_that_listens_everywhere_names_its_way_to_the_others_first() -> None:
    addresses = options(join=("127.0.0.1:7380",)).addresses
    assert addresses[0] == "127.0.0.1:7379"
    assert all(address.endswith(":7379") for address in addresses)


def test_a_node_that_cannot_be_reached_names_nothing() -> None:
    found = options(dialable=False, join=("127.0.0.1:7380",))
    assert found.addresses == ()
    assert not found.dialable


def test_groups_are_those_of_the_settings() -> None:
    assert options(groups=(3, 1)).groups == (3, 1)
    assert store_options(Settings().replaced({"peers.groups": (3, 1)})).groups == {1, 3}
    assert GROUPS_MAX == MESSAGE_GROUPS_MAX


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ((0,), "0 is no group"),
        ((65536,), "65536 is no group"),
        ((7, 7), "twice"),
        (tuple(range(1, 66)), "at most 64"),
    ],
)
def test_groups_that_make_no_sense_are_refused(groups: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        options(groups=groups)


def test_groups_are_read_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text("[peers]\ngroups = [1, 2]\n")
    assert load(file, {}, []).peers.groups == (1, 2)
    assert load(file, {"KVD_PEERS__GROUPS": "3, 4"}, []).peers.groups == (3, 4)
    assert load(file, {}, [Flag("--peer-groups", "peers.groups", "5")]).peers.groups == (5,)
    for wrong in ('["1"]', "7", "[true]"):
        file.write_text(f"[peers]\ngroups = {wrong}\n")
        with pytest.raises(ConfigError):
            load(file, {}, [])
    with pytest.raises(ConfigError):
        load(None, {"KVD_PEERS__GROUPS": "one"}, [])
