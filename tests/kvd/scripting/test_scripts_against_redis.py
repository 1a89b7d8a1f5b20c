"""The same scripts on kvd and on redis-server, every byte of the replies compared, RESP2 and RESP3.

`snippets/*.txt` holds scripts one by one, with lines of three dashes between them; random scripts and random
values come on top. Where redis-server 7.0 and Redis 7.2 differ nothing is compared.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.kvd.harness import Client, InProcessServer, encode
from tests.kvd.redis_wire import ask, ask_raw
from tests.servers import RunningServer

pytestmark = pytest.mark.needs_redis

SNIPPETS = sorted(Path(__file__).with_name("snippets").glob("*.txt"))


def read(path: Path) -> list[bytes]:
    return [text.strip("\n").encode() for text in path.read_text(encoding="utf-8").split("\n---\n")]


class Pair:
    """kvd and redis-server side by side, both empty."""

    def __init__(self, redis: socket.socket, proto: int) -> None:
        self._redis = redis
        self._client = Client(InProcessServer())
        self.ask("HELLO", proto)
        self.ask("FLUSHALL")

    def ask(self, *request: object) -> tuple[bytes, bytes]:
        """Return what kvd and what redis-server answer."""
        return self._client.raw(encode(*request)), ask_raw(self._redis, *request)

    def same(self, *request: object) -> None:
        ours, theirs = self.ask(*request)
        assert ours == theirs, request


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def pair(request: pytest.FixtureRequest, redis_server: RunningServer) -> Iterator[Pair]:
    # A session of its own and a new Lua state: random numbers start from the seed.
    with redis_server.connect() as connection:
        ask(connection, "SCRIPT", "FLUSH")
        yield Pair(connection, request.param)


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.stem)
def test_snippets(pair: Pair, path: Path) -> None:
    scripts = read(path)
    assert len(scripts) > 5
    for script in scripts:
        pair.same("EVAL", script, 0)


def test_random_numbers_have_the_same_sequence(pair: Pair) -> None:
    pair.same("EVAL", "math.randomseed(ARGV[1])", 0, 4711)
    for script in (
        "return {tostring(math.random()), math.random(10), math.random(5, 9), tostring(math.random())}",
        "return {tostring(math.random()), math.random(2^31 - 1), math.random(-100, 100)}",
        "math.randomseed(-5) return {tostring(math.random()), math.random(1000000)}",
        "math.randomseed(2^40 + 0.5) return {tostring(math.random()), math.random(1000000)}",
        "return tostring(math.random())",
    ):
        pair.same("EVAL", script, 0)


# --- values on their way through

_strings = st.binary(max_size=20)
_numbers = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e15, 1e16, 1e17, 2.0**53, 0.1, 1e300, 1e-300, 2.0**63, -(2.0**63)]),
)


def lua_string(value: bytes) -> bytes:
    return b'"' + b"".join(b"\\%03d" % byte for byte in value) + b'"'


def lua_number(value: float) -> bytes:
    return (f"{value:d}" if isinstance(value, int) else repr(value)).encode()


_scalars = st.one_of(
    _strings.map(lua_string),
    _numbers.map(lua_number),
    st.sampled_from([b"true", b"false", b"nil", b"cjson.null", b"print_nothing"]).map(
        lambda word: b"function() end" if word == b"print_nothing" else word
    ),
)


# Redis 7.0 writes 17 digits of a double, 7.2 the fewest that will do: these need no more than they have.
_short_doubles = st.integers(-(2**40), 2**40).map(lambda eighths: lua_number(eighths / 8))


def _tables(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    lists = st.lists(items, max_size=4).map(lambda parts: b"{" + b",".join(parts) + b"}")
    fields = st.sampled_from([b"ok", b"err", b"map", b"set", b"other"])
    special = st.tuples(fields, items).map(lambda pair: b"{%b=%b}" % pair)
    doubles = st.one_of(_short_doubles, _strings.map(lua_string)).map(lambda text: b"{double=%b}" % text)
    big = st.integers().map(lambda digits: b"{big_number='%d'}" % digits)
    verbatim = st.tuples(items, items).map(lambda pair: b"{verbatim_string={string=%b,format=%b}}" % pair)
    maps = st.tuples(_strings.map(lua_string), items).map(lambda pair: b"{map={[%b]=%b}}" % pair)
    return st.one_of(lists, special, doubles, big, verbatim, maps)


_values = st.recursive(_scalars, _tables, max_leaves=8)
_quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_quick
@given(value=_values, setresp=st.sampled_from([b"", b"redis.setresp(3) "]))
@example(value=b"{1,2,nil,4}", setresp=b"")
@example(value=b"{err='My Err'}", setresp=b"")
@example(value=b"{ok=1}", setresp=b"")
@example(value=b"{double=-0.0}", setresp=b"")
def test_any_value_is_returned_alike(pair: Pair, value: bytes, setresp: bytes) -> None:
    pair.same("EVAL", setresp + b"return " + value, 0)


@_quick
@given(number=_numbers)
def test_any_number_is_passed_to_commands_alike(pair: Pair, number: float) -> None:
    pair.same("EVAL", b"return redis.call('ECHO', " + lua_number(number) + b")", 0)


_arguments = st.sampled_from(
    [
        b"'a'",
        b"'b'",
        b"'1'",
        b"1",
        b"-1",
        b"2.5",
        b"'x'",
        b"'NX'",
        b"'EX'",
        b"'GET'",
        b"'100'",
        b"''",
        b"nil",
        b"{}",
    ]
)
_commands = st.sampled_from(
    "GET SET SETNX GETSET GETDEL INCR INCRBY DECRBY INCRBYFLOAT APPEND STRLEN GETRANGE SETRANGE DEL EXISTS TYPE TTL "
    "EXPIRE PERSIST MGET MSET RENAME COPY SETBIT GETBIT PING ECHO NOSUCH EVAL MULTI SUBSCRIBE KEYS".split()
)
_calls = st.tuples(st.sampled_from(["call", "pcall"]), _commands, st.lists(_arguments, max_size=4))


def _statement(call: tuple[str, str, list[bytes]]) -> bytes:
    function, command, arguments = call
    words = b", ".join([b"'%b'" % command.encode(), *arguments])
    return b"redis.%b(%b)" % (function.encode(), words)


@_quick
@given(
    calls=st.lists(_calls, min_size=1, max_size=5),
    form=st.sampled_from(
        [
            b"return {%b}",
            b"local r = {} for i, f in ipairs{%b} do r[i] = type(f) == 'table' and f.err or f end return r",
            b"redis.setresp(3) return {%b}",
            b"return {pcall(function() return %b end)}",
        ]
    ),
)
def test_any_commands_do_and_answer_alike(
    pair: Pair, calls: list[tuple[str, str, list[bytes]]], form: bytes
) -> None:
    pair.same("FLUSHALL")
    script = form % b", ".join(map(_statement, calls))
    pair.same("EVAL", script, 0)
    pair.same("MGET", "a", "b", "1", "x", "")
    pair.same("TTL", "a")


# --- the libraries

_json = st.recursive(
    st.one_of(_scalars, st.sampled_from([b"cjson.null", b"{}"])),
    lambda items: st.one_of(
        st.lists(items, max_size=4).map(lambda parts: b"{" + b",".join(parts) + b"}"),
        st.tuples(_strings.map(lua_string), items).map(lambda pair: b"{[%b]=%b}" % pair),
    ),
    max_leaves=8,
)


@_quick
@given(value=_json, packed=st.sampled_from([b"cjson.encode", b"cmsgpack.pack"]))
def test_any_value_is_packed_alike(pair: Pair, value: bytes, packed: bytes) -> None:
    pair.same("EVAL", b"return " + packed + b"(" + value + b")", 0)


_json_pieces = st.sampled_from(
    [
        *b'{ } [ ] , : " "a" "b\\n" "\\u00e9" "\\ud83d\\ude00" \\ \\u 1 -1 1.5e3 01 0x1f 1e - + nan inf true fals null '.split(),
        b" ",
        b"\n",
        b"\x00",
        b"\xff",
    ]
)


@_quick
@given(text=st.lists(_json_pieces, max_size=8).map(b"".join))
def test_any_text_is_read_as_json_alike(pair: Pair, text: bytes) -> None:
    script = (
        "local ok, v = pcall(function() return cjson.decode(ARGV[1]) end) return ok and cjson.encode(v) or v"
    )
    pair.same("EVAL", "cjson.encode_invalid_numbers('null') " + script, 0, text)


@_quick
@given(data=st.binary(max_size=12))
def test_any_bytes_are_read_as_messagepack_alike(pair: Pair, data: bytes) -> None:
    pair.same("EVAL", "return {pcall(function() return cmsgpack.unpack(ARGV[1]) end)}", 0, data)


_formats = st.lists(
    st.sampled_from(b"> < ! !2 !4 !8 x b B h H l L i I i1 i3 i8 I5 I8 I16 T f d s c c0 c3 z".split()),
    max_size=5,
).map(b" ".join)


@_quick
@given(format=_formats, data=st.binary(max_size=24), first=st.integers(0, 4))
def test_any_format_is_unpacked_alike(pair: Pair, format: bytes, data: bytes, first: int) -> None:
    pair.same("EVAL", "return {pcall(function() return struct.size(ARGV[1]) end)}", 0, format)
    script = (
        "local r = {pcall(function() return struct.unpack(ARGV[1], ARGV[2], ARGV[3]) end)}"
        " for i, v in ipairs(r) do r[i] = tostring(v) end return r"
    )
    pair.same("EVAL", script, 0, format, data, first)


@_quick
@given(
    format=_formats,
    values=st.lists(st.one_of(_strings.map(lua_string), _numbers.map(lua_number)), max_size=5),
)
def test_any_values_are_packed_by_struct_alike(pair: Pair, format: bytes, values: list[bytes]) -> None:
    arguments = b", ".join([lua_string(format), *values])
    pair.same("EVAL", b"return struct.pack(" + arguments + b")", 0)


@_quick
@given(
    name=st.sampled_from(b"tobit tohex bnot band bor bxor lshift rshift arshift rol ror bswap".split()),
    numbers=st.lists(
        st.one_of(st.integers(-(2**33), 2**33), st.floats(-1e9, 1e9), st.integers(-40, 40)).map(lua_number),
        max_size=3,
    ),
)
def test_any_bits_are_worked_on_alike(pair: Pair, name: bytes, numbers: list[bytes]) -> None:
    pair.same("EVAL", b"return bit." + name + b"(" + b", ".join(numbers) + b")", 0)
