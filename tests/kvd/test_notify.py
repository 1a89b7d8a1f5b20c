"""Keyspace events: the setting's letters and the messages they select."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvd import notify
from tests.servers import RunningServer

_letters = st.text("gklshzxetdnmKEA$", max_size=8).map(lambda text: text.replace("k", "K"))


@pytest.mark.needs_redis
@settings(max_examples=60, deadline=None)
@given(letters=_letters)
def test_letters_come_back_as_redis_gives_them(redis_server: RunningServer, letters: str) -> None:
    """But for ``n`` beside ``A``, which Redis takes and then does not show."""
    with redis_server.client(decode_responses=True) as redis:
        redis.config_set("notify-keyspace-events", letters)
        shown = redis.config_get("notify-keyspace-events")["notify-keyspace-events"]
        redis.config_set("notify-keyspace-events", "")
    own = notify.format_kinds(notify.parse_kinds(letters))
    assert own.replace("An", "A") == shown


@given(letters=_letters)
def test_what_is_written_is_read_back(letters: str) -> None:
    kinds = notify.parse_kinds(letters)
    assert notify.parse_kinds(notify.format_kinds(kinds)) == kinds


def test_an_unknown_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="'q'"):
        notify.parse_kinds("Kq")


@pytest.mark.parametrize(
    ("setting", "channels"),
    [
        ("KE$", [b"__keyspace@3__:key", b"__keyevent@3__:set"]),
        ("K$", [b"__keyspace@3__:key"]),
        ("EA", [b"__keyevent@3__:set"]),
        ("KEg", []),
        ("$", []),
        ("", []),
    ],
)
def test_a_setting_selects_kinds_and_channels(setting: str, channels: list[bytes]) -> None:
    found = list(notify.messages(notify.parse_kinds(setting), notify.STRING, b"set", b"key", b"3"))
    assert [channel for channel, _ in found] == channels
    assert all(message == (b"set" if b"keyspace" in channel else b"key") for channel, message in found)


def test_all_kinds_leave_out_misses_and_new_keys() -> None:
    assert not notify.ALL & (notify.KEYMISS | notify.NEW | notify.KEYSPACE | notify.KEYEVENT)
