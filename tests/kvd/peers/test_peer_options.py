"""From settings to the replicator's constants."""

from __future__ import annotations

import pytest

from kvd.peering.options import peer_options
from kvd.settings import SETTINGS, Settings
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
