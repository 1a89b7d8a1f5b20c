"""Logging in, saying hello and starting over.

The conversation itself is compared with redis-server in test_sessions_against_redis.
"""

from __future__ import annotations

import attrs
import pytest

from kvd.setting_spec import Secret
from kvd.settings import Settings
from tests.kvd.harness import Client, InProcessServer, encode, error


def with_password(password: str) -> InProcessServer:
    settings = Settings()
    security = attrs.evolve(settings.security, requirepass=Secret(password))
    return InProcessServer(attrs.evolve(settings, security=security))


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


def test_hello_tells_what_clients_look_at(server: InProcessServer) -> None:
    client = Client(server)
    assert client.send("HELLO", 3, "SETNAME", "me") == {
        b"server": b"redis",
        b"version": b"7.2.5",
        b"proto": 3,
        b"id": client.session.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }
    assert client.session.name == b"me"
    assert client.send("HELLO")[b"proto"] == 3
    client.send("HELLO", 2)
    assert client.send("HELLO")[4:6] == [b"proto", 2]


@pytest.mark.parametrize(
    "options",
    [("SETNAME", "a b"), ("SETNAME", "a\n"), ("SETNAME", "ä"), ("FOO",), ("AUTH", "default", "x", "BAR")],
)
def test_a_hello_that_is_refused_changes_nothing(server: InProcessServer, options: tuple[str, ...]) -> None:
    client = Client(server)
    client.send("CLIENT", "SETNAME", "before")
    assert error(client.send("HELLO", 3, *options)).startswith("ERR ")
    assert client.session.name == b"before"
    assert client.session.proto == 2


def test_a_password_is_asked_for_before_anything_else() -> None:
    server = with_password("secret")
    client = Client(server)
    for request in (
        ("GET", "k"),
        ("PING",),
        ("SUBSCRIBE", "ch"),
        ("MULTI",),
        ("CLIENT", "ID"),
        ("ACL", "WHOAMI"),
    ):
        assert error(client.send(*request)) == "NOAUTH Authentication required."
    assert error(client.send("HELLO", 3)).startswith("NOAUTH HELLO must be called")
    assert client.session.proto == 2
    assert not client.session.plain
    assert client.send("AUTH", "secret") == b"OK"
    assert client.session.plain
    assert client.send("ACL", "WHOAMI") == b"default"


def test_hello_logs_in_and_chooses_the_protocol_at_once() -> None:
    server = with_password("secret")
    client = Client(server)
    assert error(client.send("HELLO", 3, "AUTH", "default", "wrong")).startswith("WRONGPASS")
    assert client.session.user is None
    assert client.send("HELLO", 3, "AUTH", "default", "secret", "SETNAME", "me")[b"proto"] == 3
    assert client.session.name == b"me"


def test_a_wrong_password_leaves_the_user_as_it_was() -> None:
    server = with_password("secret")
    client = Client(server)
    client.send("AUTH", "secret")
    assert error(client.send("AUTH", "wrong")) == (
        "WRONGPASS invalid username-password pair or user is disabled."
    )
    assert client.send("ACL", "WHOAMI") == b"default"
    assert server.stats.acl_denied_auth == 1


def test_the_password_can_be_changed_while_clients_are_there() -> None:
    server = with_password("secret")
    client = Client(server)
    client.send("AUTH", "secret")
    assert client.send("CONFIG", "SET", "requirepass", "other") == b"OK"
    assert client.send("GET", "k") is None
    assert error(Client(server).send("AUTH", "secret")).startswith("WRONGPASS")
    assert Client(server).send("AUTH", "other") == b"OK"
    client.send("CONFIG", "SET", "requirepass", "")
    assert Client(server).send("GET", "k") is None


@pytest.mark.parametrize(
    "request_", [("CONFIG", "SET", "requirepass", ""), ("ACL", "SETUSER", "default", "nopass")]
)
def test_who_waits_for_a_password_that_is_taken_away_needs_none(request_: tuple[str, ...]) -> None:
    server = with_password("secret")
    admin, waiting = Client(server), Client(server)
    admin.send("AUTH", "secret")
    assert error(waiting.send("GET", "k")).startswith("NOAUTH")
    assert admin.send("CONFIG", "SET", "requirepass", "other") == b"OK"
    assert error(waiting.send("GET", "k")).startswith("NOAUTH")
    assert admin.send(*request_) == b"OK"
    assert waiting.send("GET", "k") is None
    assert waiting.send("ACL", "WHOAMI") == b"default"


def test_auth_with_one_argument_needs_a_password_to_compare_with(server: InProcessServer) -> None:
    client = Client(server)
    assert error(client.send("AUTH", "x")).startswith("ERR AUTH <password> called without any password")
    assert client.send("AUTH", "default", "anything") == b"OK"
    client.send("ACL", "SETUSER", "default", "off")
    assert error(client.send("AUTH", "x")).startswith("ERR AUTH <password> called without any password")


def test_reset_starts_over(server: InProcessServer) -> None:
    client = Client(server)
    client.send("HELLO", 3, "SETNAME", "me")
    client.raw(encode("SELECT", 5), encode("CLIENT", "TRACKING", "ON"), encode("WATCH", "k"))
    client.raw(encode("CLIENT", "NO-EVICT", "ON"), encode("CLIENT", "NO-TOUCH", "ON"), encode("MULTI"))
    assert client.send("RESET") == b"RESET"
    session = client.session
    assert (session.proto, session.name, session.keyspace.index) == (2, b"", 0)
    assert session.transaction is None
    assert session.tracking is None
    assert not session.watched
    assert not session.no_evict
    assert not session.no_touch
    assert session.plain


def test_reset_of_a_user_who_logged_in_asks_for_the_password_again() -> None:
    server = with_password("secret")
    client = Client(server)
    client.send("AUTH", "secret")
    client.send("RESET")
    assert error(client.send("GET", "k")) == "NOAUTH Authentication required."


def test_quit_answers_and_then_closes_without_running_the_rest(server: InProcessServer) -> None:
    client = Client(server)
    assert client.raw(encode("QUIT"), encode("SET", "k", "1")) == b"+OK\r\n"
    assert client.session.closing
    assert Client(server).send("GET", "k") is None


def test_select_stays_within_the_databases_of_the_settings() -> None:
    settings = Settings()
    server = InProcessServer(attrs.evolve(settings, compat=attrs.evolve(settings.compat, databases=2)))
    client = Client(server)
    assert client.send("SELECT", 1) == b"OK"
    assert error(client.send("SELECT", 2)) == "ERR DB index is out of range"
    assert client.session.keyspace.index == 1
