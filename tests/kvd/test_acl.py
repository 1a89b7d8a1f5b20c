"""Access control at work: sessions, the log, and the file of a running server.

What users may do is tested in test_acl_users, the texts are compared with redis-server in
test_sessions_against_redis.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from kvd.config import ConfigError
from kvd.peering.users import SharedUsers
from kvd.setting_spec import Secret
from kvd.settings import SecuritySettings, Settings
from storage.errors import NoSpace
from storage.replica import StoreReplica
from tests.kvd.harness import Client, InProcessServer, encode, error


def secured(**security: object) -> InProcessServer:
    settings = Settings()
    return InProcessServer(attrs.evolve(settings, security=SecuritySettings(**security)))  # type: ignore[arg-type]


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


def logged_in(server: InProcessServer, name: str, *rules: str) -> Client:
    assert Client(server).send("ACL", "SETUSER", name, "on", "nopass", *rules) == b"OK"
    client = Client(server)
    assert client.send("AUTH", name, "") == b"OK"
    return client


# ---------------------------------------------------------------- sessions


def test_a_change_holds_for_the_next_request(server: InProcessServer) -> None:
    admin = Client(server)
    bob = logged_in(server, "bob", "+get", "~*")
    assert bob.send("GET", "k") is None
    admin.send("ACL", "SETUSER", "bob", "-get")
    assert error(bob.send("GET", "k")) == "NOPERM User bob has no permissions to run the 'get' command"


def test_what_needs_no_check_takes_the_fast_path_and_nothing_else(server: InProcessServer) -> None:
    admin = Client(server)
    bob = logged_in(server, "bob", "+@all", "~*", "&*")
    assert bob.session.plain is server.table.plain
    admin.send("ACL", "SETUSER", "bob", "-set")
    assert set(bob.session.plain) == {name for name in server.table.plain if name.upper() != b"SET"}
    assert error(bob.send("SET", "k", "1")).startswith("NOPERM")
    admin.send("ACL", "SETUSER", "bob", "resetkeys", "~a*")
    assert not bob.session.plain
    admin.send("ACL", "SETUSER", "bob", "(~* &* +get)")
    assert set(bob.session.plain) == {b"GET", b"get", b"Get"}
    admin.send("ACL", "SETUSER", "default", "-flushall")
    assert b"FLUSHALL" not in admin.session.plain


def test_a_part_of_the_fast_path_closes_with_the_whole(server: InProcessServer) -> None:
    bob = logged_in(server, "bob", "~*", "&*", "+get", "+set")
    assert {b"GET", b"SET"} <= set(bob.session.plain)
    server.table.allow_plain(reads=True, writes=False)
    assert b"GET" in bob.session.plain
    assert b"SET" not in bob.session.plain
    monitor = Client(server)
    monitor.send("MONITOR")
    assert not bob.session.plain
    monitor.close()
    assert {b"GET", b"SET"} <= set(bob.session.plain)


def test_a_user_that_is_off_goes_on_but_cannot_log_in(server: InProcessServer) -> None:
    bob = logged_in(server, "bob", "+get", "~*")
    Client(server).send("ACL", "SETUSER", "bob", "off")
    assert bob.send("GET", "k") is None
    assert error(Client(server).send("AUTH", "bob", "")).startswith("WRONGPASS")


def test_sessions_of_a_deleted_user_are_closed(server: InProcessServer) -> None:
    bob = logged_in(server, "bob", "+get", "~*")
    other = logged_in(server, "other", "+get", "~*")
    assert Client(server).send("ACL", "DELUSER", "bob", "nobody") == 1
    assert bob.session.closing
    assert bob.session.user is None
    assert not other.session.closing


def test_a_user_may_delete_itself_and_gets_the_answer(server: InProcessServer) -> None:
    bob = logged_in(server, "bob", "+@all", "~*", "&*")
    assert bob.send("ACL", "DELUSER", "bob") == 1
    assert bob.session.closing


def test_subscribers_to_what_is_no_longer_theirs_are_closed(server: InProcessServer) -> None:
    listeners = [logged_in(server, "bob", "+@all", "&news:*", "&sport") for _ in range(4)]
    listeners[0].send("SUBSCRIBE", "news:1")
    listeners[1].send("PSUBSCRIBE", "news:*")
    listeners[2].send("SSUBSCRIBE", "news:1")
    listeners[3].send("SUBSCRIBE", "sport")
    admin = Client(server)
    admin.send("ACL", "SETUSER", "bob", "+get", "&more")
    assert not any(client.session.closing for client in listeners)
    admin.send("ACL", "SETUSER", "bob", "resetchannels", "&sport")
    assert [client.session.closing for client in listeners] == [True, True, True, False]


def test_all_rules_are_applied_or_none(server: InProcessServer) -> None:
    client = Client(server)
    client.send("ACL", "SETUSER", "bob", "+get")
    before = client.send("ACL", "LIST")
    assert "Unknown command" in error(client.send("ACL", "SETUSER", "bob", "+set", "+nosuch"))
    assert "Unknown command" in error(client.send("ACL", "SETUSER", "new", "+set", "+nosuch"))
    assert client.send("ACL", "LIST") == before


def test_plain_commands_are_checked_in_the_middle_of_a_pipeline(server: InProcessServer) -> None:
    client = Client(server)
    replies = client.raw(
        encode("SET", "k", "1"), encode("ACL", "SETUSER", "default", "-set"), encode("SET", "k", "2")
    )
    assert replies == (b"+OK\r\n+OK\r\n-NOPERM User default has no permissions to run the 'set' command\r\n")


# ---------------------------------------------------------------- the log


def test_a_wrong_password_is_entered_with_the_command_that_brought_it(server: InProcessServer) -> None:
    admin = Client(server)
    admin.send("HELLO", 3)
    for request in (("AUTH", "eve", "x"), ("auth", "eve", "x"), ("HELLO", 2, "AUTH", "eve", "x")):
        Client(server).send(*request)
    entries = admin.send("ACL", "LOG")
    assert [(entry[b"object"], entry[b"count"]) for entry in entries] == [
        (b"HELLO", 1),
        (b"auth", 1),
        (b"AUTH", 1),
    ]


def test_refusals_are_entered_with_what_why_and_who(server: InProcessServer) -> None:
    admin = Client(server)
    admin.send("HELLO", 3)
    bob = logged_in(server, "bob", "+@all", "-set", "~a*", "&c*")
    bob.send("SET", "a", "1")
    server.clock.advance(1500)
    bob.send("GET", "b")
    bob.send("PUBLISH", "d", "x")
    bob.raw(encode("MULTI"), encode("GET", "b"))
    bob.send("DISCARD")
    bob.send("AUTH", "eve", "x")
    auth, multi, channel, key, command = admin.send("ACL", "LOG")
    assert [entry[b"reason"] for entry in (auth, multi, channel, key, command)] == [
        b"auth",
        b"key",
        b"channel",
        b"key",
        b"command",
    ]
    assert [entry[b"context"] for entry in (multi, key)] == [b"multi", b"toplevel"]
    assert [entry[b"object"] for entry in (auth, channel, key, command)] == [b"AUTH", b"d", b"b", b"set"]
    assert [entry[b"username"] for entry in (auth, key)] == [b"eve", b"bob"]
    assert command[b"age-seconds"] == 1.5
    assert command[b"entry-id"] == 0
    assert command[b"timestamp-created"] == command[b"timestamp-last-updated"] == server.clock.now_ms - 1500
    assert b"user=bob" in key[b"client-info"]
    stats = server.stats
    denied = (stats.acl_denied_cmd, stats.acl_denied_key, stats.acl_denied_channel, stats.acl_denied_auth)
    assert denied == (1, 2, 1, 1)


def test_a_refusal_inside_a_script_is_entered_as_such(server: InProcessServer) -> None:
    bob = logged_in(server, "bob", "+@all", "-set", "~*")
    assert "no permissions" in error(bob.send("EVAL", "return redis.call('set', 'k', 1)", 0)).lower()
    (entry,) = Client(server).send("ACL", "LOG")
    assert entry[2:10] == [b"reason", b"command", b"context", b"lua", b"object", b"set", b"username", b"bob"]


def test_a_refusal_inside_a_script_shows_the_client_that_runs_it(server: InProcessServer) -> None:
    bob = logged_in(server, "bob", "+@all", "-set", "~*")
    bob.send("CLIENT", "SETNAME", "worker")
    bob.send("EVAL", "return redis.pcall('set', 'k', 1)", 0)
    server.clock.advance(60_000)
    other = logged_in(server, "eve", "+@all", "-set", "~*")
    other.send("CLIENT", "SETINFO", "LIB-NAME", "lib")
    other.send("EVAL", "return redis.pcall('set', 'k', 1)", 0)
    eve, first = Client(server).send("ACL", "LOG")
    for client, entry, info in ((bob, first, b" name=worker "), (other, eve, b" lib-name=lib ")):
        shown = entry[entry.index(b"client-info") + 1]
        assert info in shown
        assert b"id=%d " % client.session.id in shown
        assert b" age=0 " in shown
        assert b" cmd=eval " in shown


def test_the_same_refusal_within_a_minute_is_counted_up(server: InProcessServer) -> None:
    admin = Client(server)
    bob = logged_in(server, "bob", "+get")
    for _ in range(3):
        bob.send("GET", "b")
        server.clock.advance(10_000)
    bob.send("GET", "other")
    entries = admin.send("ACL", "LOG")
    assert [dict(zip(entry[::2], entry[1::2], strict=True))[b"count"] for entry in entries] == [1, 3]
    server.clock.advance(61_000)
    bob.send("GET", "b")
    assert len(admin.send("ACL", "LOG")) == 3
    assert len(admin.send("ACL", "LOG", 1)) == 1
    assert admin.send("ACL", "LOG", "RESET") == b"OK"
    assert admin.send("ACL", "LOG") == []


def test_the_log_is_bounded() -> None:
    server = secured(acl_log_max_len=5)
    bob = logged_in(server, "bob", "+get")
    for number in range(20):
        bob.send("GET", f"k{number}")
    entries = Client(server).send("ACL", "LOG", 100)
    assert [entry[7] for entry in entries] == [b"k19", b"k18", b"k17", b"k16", b"k15"]
    nothing = secured(acl_log_max_len=0)
    logged_in(nothing, "bob").send("GET", "k")
    assert Client(nothing).send("ACL", "LOG") == []


def test_no_entry_of_the_log_is_large(server: InProcessServer) -> None:
    bob = logged_in(server, "bob", "+get")
    bob.send("GET", b"k" * 1_000_000)
    bob.send("AUTH", b"n" * 1_000_000, "wrong")
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in Client(server).send("ACL", "LOG")]
    assert [len(entries[0][b"username"]), len(entries[1][b"object"])] == [1024, 1024]


# ---------------------------------------------------------------- where users come from


def test_users_of_the_settings() -> None:
    server = secured(users=(Secret("bob on >pw ~a* +get"), Secret("default on >other +@all ~* &*")))
    client = Client(server)
    assert error(client.send("GET", "a")) == "NOAUTH Authentication required."
    assert client.send("AUTH", "bob", "pw") == b"OK"
    assert client.send("GET", "a") is None
    assert client.send("AUTH", "other") == b"OK"


def test_mistakes_in_the_users_of_the_settings_are_all_told() -> None:
    with pytest.raises(ConfigError) as raised:
        secured(users=(Secret("bob +nosuch"), Secret("al on"), Secret("al on")))
    assert len(raised.value.problems) == 2


def test_an_acl_file_is_loaded_saved_and_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    path.write_text("user bob on nopass ~* -@all +get\nuser old on nopass -@all\n")
    server = secured(acl_file=str(path), requirepass=Secret("secret"))
    admin = Client(server)
    assert admin.send("AUTH", "secret") == b"OK"  # the file does not name the default user
    bob, old = Client(server), Client(server)
    assert bob.send("AUTH", "bob", "") == b"OK"
    assert old.send("AUTH", "old", "") == b"OK"
    assert error(bob.send("SET", "k", "1")).startswith("NOPERM")

    admin.send("ACL", "SETUSER", "new", "on", ">pw")
    assert admin.send("ACL", "SAVE") == b"OK"
    assert path.read_text().splitlines() == [line.decode() for line in admin.send("ACL", "LIST")]

    path.write_text("user bob on nopass ~* -@all +get +set\n")
    assert admin.send("ACL", "LOAD") == b"OK"
    assert admin.send("ACL", "USERS") == [b"bob", b"default"]
    assert bob.send("SET", "k", "1") == b"OK"
    assert old.session.closing
    assert error(Client(server).send("GET", "k")) == "NOAUTH Authentication required."


def test_a_bad_acl_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    path.write_text("user bob on nopass ~* -@all +get\n")
    server = secured(acl_file=str(path))
    admin = Client(server)
    before = admin.send("ACL", "LIST")
    path.write_text("user bob on +nosuch\nuser al on\n")
    text = error(admin.send("ACL", "LOAD"))
    assert text.startswith(f"ERR {path}:1: ")
    assert text.endswith("no change to the previously active ACL rules was performed")
    assert admin.send("ACL", "LIST") == before
    path.unlink()
    assert "opening file" in error(admin.send("ACL", "LOAD"))


def test_a_save_that_fails_is_told(tmp_path: Path) -> None:
    path = tmp_path / "there" / "users.acl"
    path.parent.mkdir()
    path.write_text("")
    server = secured(acl_file=str(path))
    path.unlink()
    path.parent.rmdir()
    text = error(Client(server).send("ACL", "SAVE"))
    assert text.startswith("ERR There was an error trying to save the ACLs")


def test_without_a_file_there_is_nothing_to_load_or_save(server: InProcessServer) -> None:
    for verb in ("LOAD", "SAVE"):
        assert "not configured to use an ACL file" in error(Client(server).send("ACL", verb))


# ---------------------------------------------------------------- asking


def test_every_command_of_a_category_is_listed(server: InProcessServer) -> None:
    client = Client(server)
    transaction = client.send("ACL", "CAT", "transaction")
    assert sorted(transaction) == [b"discard", b"exec", b"multi", b"unwatch", b"watch"]
    listed = {name for category in client.send("ACL", "CAT") for name in client.send("ACL", "CAT", category)}
    assert {spec.name.lower().encode() for spec in server.table.everything()} == listed


def test_generated_passwords_have_the_wanted_length_and_differ(server: InProcessServer) -> None:
    client = Client(server)
    assert len(client.send("ACL", "GENPASS")) == 64
    for bits, digits in ((1, 1), (4, 1), (5, 2), (128, 32), (4096, 1024)):
        assert len(client.send("ACL", "GENPASS", bits)) == digits
    assert client.send("ACL", "GENPASS") != client.send("ACL", "GENPASS")


def test_dryrun_asks_and_does_not_run(server: InProcessServer) -> None:
    client = Client(server)
    client.send("ACL", "SETUSER", "bob", "+set", "~a")
    assert client.send("ACL", "DRYRUN", "bob", "SET", "a", "1") == b"OK"
    assert client.send("GET", "a") is None
    assert client.send("ACL", "DRYRUN", "bob", "SET", "b\xff".encode("latin-1"), "1") == (
        b"User bob has no permissions to access the 'b\xff' key"
    )
    assert client.send("ACL", "LOG") == []


# ---------------------------------------------------------------- users that nodes share


@pytest.mark.parametrize("request_", [("ACL", "SETUSER", "bob", "on"), ("ACL", "DELUSER", "bob")], ids=str)
def test_a_shared_change_that_does_not_get_to_disk_is_not_acknowledged(
    server: InProcessServer, request_: tuple[str, ...]
) -> None:
    shared = attrs.evolve(server.settings.peers, replicate_acl_users=True)
    server.settings = attrs.evolve(server.settings, peers=shared)
    admin = Client(server)
    admin.send("ACL", "SETUSER", "bob")
    users = SharedUsers(server, StoreReplica(server.store))
    server.peers = cast(Any, SimpleNamespace(users=users))
    server.engine.fail_next(NoSpace("memory"))
    assert error(admin.send(*request_)).startswith("MISCONF")
    assert server.store.keyspaces.cluster.get(b"acl:bob") is None
