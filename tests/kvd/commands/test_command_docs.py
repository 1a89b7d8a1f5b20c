"""COMMAND and its subcommands, and the grammar that they, HELP and the reference share."""

from __future__ import annotations

import pytest

from kvd.command_info import docs, info
from kvd.commands.spec import Arg, CommandSpec, Flag, KeyCount, KeyRange
from kvd.grammar import syntax
from protocol.replies import Set
from tests.kvd.harness import Client, InProcessServer, encode, error


@pytest.fixture
def client() -> Client:
    return Client(InProcessServer())


def spec(**declaration: object) -> CommandSpec:
    fixed = {"name": "X", "arity": -1, "summary": "Do.", "group": "g", "since": "1.0.0", "complexity": "O(1)"}
    return CommandSpec(**(fixed | declaration))  # type: ignore[arg-type]


def test_bare_command_and_info_without_names_describe_everything(client: Client) -> None:
    everything = client.send("COMMAND")
    assert len(everything) == client.send("COMMAND", "COUNT") == len(client.server.table.specs)
    assert client.send("COMMAND", "INFO") == everything
    assert {len(entry) for entry in everything} == {10}


def test_info_of_what_is_unknown_is_null(client: Client) -> None:
    known, unknown, child = client.send("COMMAND", "INFO", "GET", "nope", "Config|Set")
    assert (known[0], unknown, child[0]) == (b"get", None, b"config|set")


def test_docs_leave_out_what_is_unknown(client: Client) -> None:
    client.send("HELLO", 3)
    assert client.send("COMMAND", "DOCS", "get", "nope").keys() == {b"get"}
    assert client.send("COMMAND", "DOCS").keys() == {name.lower() for name in client.server.table.specs}


def test_what_is_said_of_all_commands_is_kept_for_each_protocol(client: Client) -> None:
    flat = client.raw(encode("COMMAND", "DOCS"))
    assert flat.startswith(b"*")
    client.send("HELLO", 3)
    first = client.raw(encode("COMMAND", "DOCS"))
    assert first.startswith(b"%")
    assert client.raw(encode("COMMAND", "DOCS")) == first
    assert client.raw(encode("MULTI"), encode("COMMAND", "DOCS"), encode("EXEC")).endswith(first)
    counted = client.send("EVAL", "return #redis.call('COMMAND')", 0)
    assert counted == client.send("COMMAND", "COUNT")


def test_docs_of_a_container_hold_those_of_its_subcommands(client: Client) -> None:
    client.send("HELLO", 3)
    found = client.send("COMMAND", "DOCS", "slowlog")[b"slowlog"][b"subcommands"]
    assert found.keys() == {b"slowlog|get", b"slowlog|len", b"slowlog|reset", b"slowlog|help"}


def test_names_can_be_listed_by_category_and_pattern(client: Client) -> None:
    assert set(client.send("COMMAND", "LIST")) == {name.lower() for name in client.server.table.specs}
    transactions = client.send("COMMAND", "LIST", "FILTERBY", "ACLCAT", "Transaction")
    assert set(transactions) == {b"multi", b"exec", b"discard", b"watch", b"unwatch"}
    matching = client.send("COMMAND", "LIST", "FILTERBY", "PATTERN", "CONFIG|*set*")
    assert set(matching) == {b"config|set", b"config|resetstat"}


def test_keys_are_found_wherever_they_stand(client: Client) -> None:
    assert client.send("COMMAND", "GETKEYS", "BITOP", "AND", "dest", "a", "b") == [b"dest", b"a", b"b"]
    assert client.send("COMMAND", "GETKEYS", "EVAL", "script", 2, "a", "b", "argument") == [b"a", b"b"]
    assert client.send("COMMAND", "GETKEYS", "EVAL", "script", 0, "argument") == []


def test_what_is_done_to_keys_depends_on_options(client: Client) -> None:
    assert client.send("COMMAND", "GETKEYSANDFLAGS", "SET", "key", "value") == [[b"key", [b"OW", b"update"]]]
    assert client.send("COMMAND", "GETKEYSANDFLAGS", "SET", "key", "value", "GET") == [
        [b"key", [b"RW", b"access", b"update"]]
    ]


def test_a_command_without_keys_is_told_apart_from_none(client: Client) -> None:
    assert error(client.send("COMMAND", "GETKEYS", "PING", "x")) == "ERR The command has no key arguments"
    assert error(client.send("COMMAND", "GETKEYS", "NOPE", "x")) == "ERR Invalid command specified"


# --- the forms of a declaration


@pytest.mark.parametrize(
    ("keys", "positions"),
    [
        ((), [0, 0, 0]),
        ((KeyRange(1),), [1, 1, 1]),
        ((KeyRange(1, -1, 2),), [1, -1, 2]),
        ((KeyRange(2), KeyRange(3, -1)), [2, -1, 1]),
        ((KeyRange(1), KeyRange(2)), [1, 2, 1]),
        ((KeyCount(2, 3),), [0, 0, 0]),
    ],
)
def test_positions_for_clients_that_know_no_key_specs(
    keys: tuple[KeyRange | KeyCount, ...], positions: list[int]
) -> None:
    assert info(spec(keys=keys))[3:6] == positions


def test_counted_keys_have_a_key_spec() -> None:
    (key_spec,) = info(spec(keys=(KeyCount(2, 3),)))[8]
    assert key_spec[b"begin_search"][b"spec"] == {b"index": 2}
    assert key_spec[b"find_keys"] == {
        b"type": b"keynum",
        b"spec": {b"keynumidx": 0, b"firstkey": 1, b"keystep": 1},
    }


def test_flags_of_our_own_are_not_shown() -> None:
    shown = info(spec(flags=Flag.PLAIN | Flag.MAY_WRITE | Flag.FAST | Flag.SENTINEL))[2]
    assert [flag.text for flag in shown] == [b"fast"]


def test_docs_say_only_what_there_is_to_say() -> None:
    assert docs(spec(complexity="")).keys() == {b"summary", b"since", b"group"}
    deprecated = docs(spec(deprecated_since="2.0.0", replaced_by="`Y`", is_system=True))
    assert [flag.text for flag in deprecated[b"doc_flags"]] == [b"deprecated", b"syscmd"]
    assert (deprecated[b"deprecated_since"], deprecated[b"replaced_by"]) == (b"2.0.0", b"`Y`")


def test_keys_of_the_grammar_point_at_their_key_specs() -> None:
    two = spec(keys=(KeyRange(1), KeyRange(2)), arguments=(Arg("source", "key"), Arg("destination", "key")))
    assert [each[b"key_spec_index"] for each in docs(two)[b"arguments"]] == [0, 1]
    one = spec(keys=(KeyRange(1, 2),), arguments=(Arg("key1", "key"), Arg("key2", "key")))
    assert [each[b"key_spec_index"] for each in docs(one)[b"arguments"]] == [0, 0]


def test_flags_of_arguments_are_a_set() -> None:
    (argument,) = docs(spec(arguments=(Arg("x", optional=True, multiple=True, token="T"),)))[b"arguments"]
    assert isinstance(argument[b"flags"], Set)
    assert [flag.text for flag in argument[b"flags"]] == [b"optional", b"multiple"]
    assert argument[b"token"] == b"T"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("GET", "GET key"),
        ("MGET", "MGET key [key ...]"),
        ("INFO", "INFO [section [section ...]]"),
        ("CLIENT|PAUSE", "CLIENT PAUSE timeout [WRITE | ALL]"),
        (
            "CLIENT|LIST",
            "CLIENT LIST [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
        ),
        ("CONFIG|SET", "CONFIG SET parameter value [parameter value ...]"),
        ("REPLICAOF", "REPLICAOF <host port | NO ONE>"),
        ("LOLWUT", "LOLWUT [VERSION version]"),
        (
            "SET",
            (
                "SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | "
                "EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]"
            ),
        ),
    ],
)
def test_grammar_is_written_as_redis_writes_it(client: Client, name: str, line: str) -> None:
    found = client.server.table.named(name.encode())
    assert found is not None
    assert syntax(found) == line
