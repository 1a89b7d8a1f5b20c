"""EVAL and its family: what scripts may do, what is refused, and how they end."""

from __future__ import annotations

import hashlib
from typing import Any

import hiredis
import pytest
import structlog
import structlog.testing

from kvd.scripting.cache import EVAL_SCRIPTS_MAX
from kvd.scripting.engine import BUSY, NO_SCRIPT, NOT_BUSY, UNKILLABLE
from kvd.session import Session
from kvd.settings import ScriptingSettings, Settings
from storage.errors import NoSpace
from tests.kvd.harness import Client, InProcessServer, encode, error
from tests.kvd.scripting.conftest import ScriptClient


def sha1(script: str) -> str:
    return hashlib.sha1(script.encode()).hexdigest()


# --- the cache


def test_a_script_is_found_by_its_digest_once_it_ran(client: ScriptClient) -> None:
    script = "return {KEYS, ARGV}"
    assert error(client.send("EVALSHA", sha1(script), 0)) == NO_SCRIPT
    assert client.run(script, ("k",), "a", "b") == [[b"k"], [b"a", b"b"]]
    assert client.send("EVALSHA", sha1(script), 1, "k", "a") == [[b"k"], [b"a"]]
    assert client.send("EVALSHA", sha1(script).upper(), 0) == [[], []]
    assert client.send("EVALSHA_RO", sha1(script), 0) == [[], []]


def test_script_load_exists_and_flush(client: ScriptClient) -> None:
    digest = client.send("SCRIPT", "LOAD", "return 1")
    assert digest.decode() == sha1("return 1")
    assert client.send("SCRIPT", "EXISTS", digest, "0" * 40, digest.upper()) == [1, 0, 1]
    for mode in ([], ["ASYNC"], ["sync"]):
        client.send("SCRIPT", "LOAD", "return 1")
        assert client.send("SCRIPT", "FLUSH", *mode) == b"OK"
        assert client.send("SCRIPT", "EXISTS", digest) == [0]
    assert "only support SYNC|ASYNC" in error(client.send("SCRIPT", "FLUSH", "LATER"))
    assert client.run("return 1") == 1


def test_a_script_that_does_not_compile_is_not_cached(client: ScriptClient) -> None:
    text = "ERR Error compiling script (new function): user_script:1: '=' expected near 'b'"
    assert error(client.run("a b")) == text
    assert error(client.send("SCRIPT", "LOAD", "a b")) == text
    assert client.send("SCRIPT", "EXISTS", sha1("a b")) == [0]


def test_scripts_of_eval_are_dropped_and_loaded_ones_stay(client: ScriptClient) -> None:
    loaded = client.send("SCRIPT", "LOAD", "return 'loaded'")
    for number in range(EVAL_SCRIPTS_MAX + 1):
        assert client.run(f"return {number}") == number
    assert client.send("SCRIPT", "EXISTS", loaded, sha1("return 0"), sha1("return 1")) == [1, 0, 1]
    assert client.run("return 0") == 0


def test_many_scripts_take_bounded_memory() -> None:
    server = InProcessServer(Settings(scripting=ScriptingSettings(memory_bytes_max=4 << 20)))
    client = ScriptClient(server)
    for number in range(300):
        assert client.run(f"return {number} --" + "x" * 5_000) == number
    assert server.scripts.cached_bytes <= 512 << 10
    refusal: Any = None
    for number in range(300):
        refusal = client.send("SCRIPT", "LOAD", f"return {number} --" + "y" * 5_000)
        if isinstance(refusal, hiredis.ReplyError):
            break
    assert "script cache is full" in error(refusal)
    assert client.run("return 1") == 1
    assert "larger than a script may be" in client.fails("--" + "x" * (1 << 20))


def test_script_help_lists_the_subcommands(client: ScriptClient) -> None:
    lines = client.send("SCRIPT", "HELP")
    assert lines[0].startswith(b"SCRIPT <subcommand>")
    assert b"KILL" in lines


def test_there_is_no_debugger(client: ScriptClient) -> None:
    assert client.send("SCRIPT", "DEBUG", "no") == b"OK"
    assert "no debugger" in error(client.send("SCRIPT", "DEBUG", "YES"))
    assert error(client.send("SCRIPT", "DEBUG", "x")) == "ERR Use SCRIPT DEBUG YES/SYNC/NO"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("return 1",), "ERR wrong number of arguments for 'eval' command"),
        (("return 1", "x"), "ERR value is not an integer or out of range"),
        (("return 1", "-1"), "ERR Number of keys can't be negative"),
        (("return 1", "1"), "ERR Number of keys can't be greater than number of args"),
        (("return 1", "2", "a"), "ERR Number of keys can't be greater than number of args"),
    ],
)
def test_the_number_of_keys_is_checked(client: ScriptClient, arguments: tuple[str, ...], text: str) -> None:
    assert error(client.send("EVAL", *arguments)) == text


def test_many_keys_and_arguments(client: ScriptClient) -> None:
    keys = [b"k%d" % number for number in range(20_000)]
    assert client.run("return {#KEYS, #ARGV, KEYS[20000], ARGV[1]}", tuple(keys), "x", "y") == [
        20_000,
        2,
        b"k19999",
        b"x",
    ]


# --- commands


def test_a_script_starts_in_the_callers_database_and_leaves_it_there(client: ScriptClient) -> None:
    client.send("SELECT", 3)
    client.run("redis.call('SET', 'a', 'three') redis.call('SELECT', 5) redis.call('SET', 'a', 'five')")
    assert client.send("GET", "a") == b"three"
    client.send("SELECT", 5)
    assert client.send("GET", "a") == b"five"


def test_a_script_acts_in_the_callers_namespace(client: ScriptClient) -> None:
    client.send("KV.NS", "CREATE", "named")
    client.send("KV.NS", "USE", "named")
    client.run("redis.call('SET', 'a', '1')")
    assert client.send("GET", "a") == b"1"
    client.send("SELECT", 0)
    assert client.send("GET", "a") is None


def test_writes_before_an_error_stay(client: ScriptClient) -> None:
    assert client.fails("redis.call('SET', 'a', '1') error('stop')") == "ERR user_script:1: stop"
    assert client.send("GET", "a") == b"1"


def test_a_script_is_one_group_in_the_change_log(server: InProcessServer, client: ScriptClient) -> None:
    """One stamp for all: the writes of a script cannot be told apart by time."""
    client.run("for i = 1, 3 do redis.call('SET', 'k' .. i, i) end")
    clocks = {server.store.keyspace(0).version(b"k%d" % number) for number in (1, 2, 3)}
    assert None not in clocks
    stamps = {token[:8] for token in clocks if token is not None}
    assert len(stamps) == 1


def test_writes_of_a_script_are_undone_together_when_the_commit_fails(
    server: InProcessServer, client: ScriptClient
) -> None:
    client.send("SET", "a", "before")
    server.engine.fail_next(NoSpace("the disk is full"))
    reply = client.run("redis.call('SET', 'a', 'after') redis.call('SET', 'b', 'after') return 'done'")
    assert error(reply).startswith("MISCONF")
    assert client.send("MGET", "a", "b") == [b"before", None]


def test_a_script_in_a_transaction(client: ScriptClient) -> None:
    client.send("MULTI")
    client.send("SET", "a", "1")
    client.send("EVAL", "return redis.call('INCR', KEYS[1])", 1, "a")
    client.send("EVAL", "error('x')", 0)
    reply = client.send("EXEC")
    assert reply[:2] == [b"OK", 2]
    assert "user_script:1: x" in error(reply[2])


REFUSED = [
    "MULTI",
    "EXEC",
    "WATCH a",
    "SUBSCRIBE a",
    "PSUBSCRIBE a",
    "EVAL x 0",
    "EVALSHA x 0",
    "SCRIPT KILL",
    "SCRIPT LOAD x",
    "AUTH x",
    "HELLO",
    "RESET",
    "CLIENT ID",
    "CLIENT PAUSE 100",
    "CONFIG GET x",
    "SHUTDOWN",
    "MONITOR",
    "DEBUG SLEEP 0",
    "SAVE",
    "WAIT 0 0",
    "ACL WHOAMI",
]


@pytest.mark.parametrize("request_", REFUSED)
def test_commands_that_scripts_may_not_call(client: ScriptClient, request_: str) -> None:
    words = ", ".join(f"'{word}'" for word in request_.split())
    assert client.fails(f"redis.call({words})") == "ERR This Redis command is not allowed from script"


def test_no_allowed_command_suspends_or_breaks_a_script(
    server: InProcessServer, client: ScriptClient
) -> None:
    """Every command of the table, with what arguments its arity asks for, from a script."""
    for spec in server.table.everything():
        if spec.is_container:
            continue
        words = spec.name.split("|")
        words += ["1"] * (abs(spec.arity) - len(words))
        client.run("return {pcall(redis.call, unpack(ARGV))}", (), *words)
        assert server.stats.unexpected_errors == 0, spec.name
        assert client.run("return 1") == 1, spec.name


def test_read_only_scripts_do_not_write(client: ScriptClient) -> None:
    refusal = "ERR Write commands are not allowed from read-only scripts."
    for command in ("'SET', 'a', '1'", "'PUBLISH', 'a', '1'"):
        script = f"return redis.call({command})"
        reply = client.send("EVAL_RO", script, 0)
        assert error(reply).startswith(refusal)
        assert client.fails("#!lua flags=no-writes\n" + script) == refusal
    assert client.send("EVAL_RO", "return redis.call('GET', 'a')", 0) is None
    assert client.send("GET", "a") is None


def test_a_script_flagged_as_writing_is_not_for_eval_ro(client: ScriptClient) -> None:
    reply = client.send("EVAL_RO", "#!lua\nreturn 1", 0)
    assert error(reply) == "ERR Can not execute a script with write flag using *_ro command."
    assert client.send("EVAL_RO", "#!lua flags=no-writes\nreturn 1", 0) == 1


def test_scripts_do_not_write_while_the_disk_is_full(server: InProcessServer, client: ScriptClient) -> None:
    server.store.writable = NoSpace("the disk is full")
    server.refresh_plain()
    assert client.fails("return redis.call('SET', 'a', '1')").startswith("MISCONF")
    assert client.run("return tostring(redis.call('GET', 'a'))") == b"false"
    assert error(client.run("#!lua\nreturn 1")).startswith("MISCONF")
    assert client.run("#!lua flags=no-writes\nreturn 1") == 1


def test_a_script_has_the_permissions_of_its_caller(server: InProcessServer) -> None:
    admin = ScriptClient(server)
    admin.send("ACL", "SETUSER", "limited", "on", "nopass", "~mine:*", "+@scripting", "+get", "+set", "&own")
    client = ScriptClient(server)
    assert client.send("AUTH", "limited", "x") == b"OK"
    assert client.run("return redis.call('SET', KEYS[1], '1')", ("mine:a",)) == b"OK"
    denied = "ERR ACL failure in script: "
    assert client.fails("return redis.call('DEL', 'mine:a')") == (
        denied + "User limited has no permissions to run the 'del' command"
    )
    assert client.fails("return redis.call('GET', 'other')") == denied + "No permissions to access a key"
    assert client.run("return redis.pcall('GET', 'other').err").startswith(denied.encode())
    assert "NOPERM" in error(client.run("return 1", ("other",)))
    may = "return {tostring(redis.acl_check_cmd('GET', ARGV[1])), tostring(redis.acl_check_cmd('DEL', ARGV[1]))}"
    assert client.run(may, (), "mine:a") == [b"true", b"false"]
    assert client.run(may, (), "other") == [b"false", b"false"]
    assert admin.run("return redis.call('DEL', 'mine:a')") == 1
    entries = admin.send("ACL", "LOG")  # the newest first: the refused EVAL
    assert [b"lua" in entry for entry in entries[:3]] == [False, True, True]


def test_reads_of_a_script_are_tracked_for_its_caller(server: InProcessServer) -> None:
    reader, writer = ScriptClient(server), Client(server)
    reader.send("HELLO", 3)
    reader.send("CLIENT", "TRACKING", "ON")
    reader.run("return redis.call('GET', KEYS[1])", ("a",))
    writer.send("SET", "a", "1")
    assert reader.next() == [b"invalidate", [b"a"]]


def test_monitors_see_the_script_and_its_commands(server: InProcessServer, client: ScriptClient) -> None:
    monitor = Client(server)
    monitor.send("MONITOR")
    client.run("return redis.call('GET', 'a')")
    lines = [monitor.next(), monitor.next()]
    assert b'"EVAL"' in lines[0]
    assert b'[0 lua] "GET" "a"' in lines[1]


def test_a_commands_error_is_counted_once(server: InProcessServer, client: ScriptClient) -> None:
    client.send("SET", "a", "x")
    before = server.stats.errors
    client.fails("return redis.call('INCR', 'a')")
    assert server.stats.errors == before + 1
    client.fails("error('own')")
    assert server.stats.errors == before + 2
    client.fails("return redis.pcall('INCR', 'a')")
    assert server.stats.errors == before + 3
    assert [server.table.specs[name].stats.failed for name in (b"INCR", b"EVAL")] == [2, 3]


@pytest.mark.parametrize("script", ["return {err = 'MY own'}", "return redis.error_reply('MY own')"])
def test_an_error_that_a_script_returns_is_counted_by_its_word(
    server: InProcessServer, client: ScriptClient, script: str
) -> None:
    assert client.fails(script) == "MY own"
    info = client.send("INFO", "errorstats", "commandstats")
    assert b"errorstat_MY:count=1" in info
    assert server.table.specs[b"EVAL"].stats.failed == 1


def test_long_argument_lists_go_over_whole(client: ScriptClient) -> None:
    script = "local t = {} for i = 1, 7000 do t[i] = 'k' .. i end return #redis.call('MGET', unpack(t))"
    assert client.run(script) == 7000
    client.run(
        "local t = {} for i = 1, 100 do t[2*i-1] = 'k' .. i t[2*i] = i end redis.call('MSET', unpack(t))"
    )
    assert client.send("MGET", "k1", "k32", "k33", "k64", "k100") == [b"1", b"32", b"33", b"64", b"100"]
    client.run(
        "local t = {'k1'} for i = 2, 40 do t[i] = 'k' .. i end t[41] = {}"
        " redis.pcall('DEL', unpack(t)) return redis.call('DEL', 'k100')"
    )
    assert client.send("MGET", "k1", "k40", "k100") == [b"1", b"40", None]


# --- time


class Hub:
    """Stands for the hub while a script runs long: each look lets another client send a request."""

    def __init__(self, client: Client, *requests: tuple[object, ...]) -> None:
        self.client = client
        self.requests = list(requests)
        self.replies: list[Any] = []

    def pump(self, caller: Session, *, was_clean: bool) -> None:
        if self.requests:
            self.client.session.receive(encode(*self.requests.pop(0)))
            self.replies.append(self.client.next())


@pytest.fixture
def impatient() -> InProcessServer:
    """A server whose scripts are late after a millisecond."""
    return InProcessServer(Settings(scripting=ScriptingSettings(time_limit_ms=1)))


def late(server: InProcessServer, script: str, *requests: tuple[object, ...]) -> tuple[Any, list[Any]]:
    """Run a script that takes too long, with another client's requests meanwhile; return all replies."""
    hub = Hub(Client(server), *requests)
    server.hub = hub  # type: ignore[assignment]
    reply = ScriptClient(server).run(script)
    server.hub = None
    return reply, hub.replies


ENDLESS = [
    "while true do end",
    "while true do pcall(function() while true do end end) end",
    "while true do pcall(error, 'x') end",
    "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "xpcall(function() while true do end end, function() while true do end end) while true do end",
    "local f = coroutine.wrap(function() while true do end end) f()",
    "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "while true do pcall(coroutine.wrap(function() while true do pcall(error) end end)) end",
    "while true do coroutine.wrap(function() end)() end",
    "local function f(n) while true do coroutine.wrap(function() if n < 5 then f(n + 1) end end)() end end f(1)",
    "while true do redis.call('GET', 'a') end",
    "while true do redis.pcall('NOSUCH') end",
    "while true do pcall(redis.call, 'NOSUCH') end",
    "while true do loadstring('return 1') end",
    "while true do collectgarbage() end",
    "for _ in function() return 1 end do end",
    "string.gsub(('x'):rep(1000), 'x', function() while true do end end)",
    "table.sort({1, 2, 3}, function() while true do end end)",
    (
        "setmetatable({}, {__index = function() while true do end end}).x = nil"
        " return setmetatable({}, {__index = function() while true do end end}).x"
    ),
    "while true do cjson.decode(cjson.encode({1, 2, {a = 1}})) end",
    "while true do local t = {} for i = 1, 100 do t[i] = i end table.sort(t) end",
    "load(function() while true do end end)",
    "repeat until false",
    "local function f() return f() end f()",
    "redis.setresp(3) while true do pcall(redis.call, 'GET') end",
]


@pytest.mark.parametrize("script", ENDLESS)
def test_script_kill_ends_what_never_ends(impatient: InProcessServer, script: str) -> None:
    reply, others = late(impatient, script, ("GET", "a"), ("SCRIPT", "KILL"))
    assert error(others[0]) == BUSY
    assert others[1] == b"OK"
    assert "ERR Script killed by user with SCRIPT KILL..." in error(reply)
    assert impatient.scripts.running is None
    assert Client(impatient).send("GET", "a") is None
    assert ScriptClient(impatient).run("return 1") == 1


def test_a_killed_script_does_nothing_more(impatient: InProcessServer) -> None:
    script = "pcall(function() while true do end end) redis.call('SET', 'a', '1')"
    reply, _ = late(impatient, script, ("SCRIPT", "KILL"))
    assert "Script killed" in error(reply)
    assert Client(impatient).send("GET", "a") is None


def test_a_script_that_has_written_is_not_killed(impatient: InProcessServer) -> None:
    script = (
        "redis.call('SET', 'a', '1') local t = os.clock() while os.clock() < t + 0.1 do end return 'done'"
    )
    reply, others = late(impatient, script, ("SCRIPT", "KILL"), ("SCRIPT", "KILL"))
    assert [error(each) for each in others] == [UNKILLABLE, UNKILLABLE]
    assert reply == b"done"
    assert Client(impatient).send("GET", "a") == b"1"


def test_what_the_others_may_do_meanwhile(impatient: InProcessServer) -> None:
    script = "local t = os.clock() while os.clock() < t + 0.2 do end return 'done'"
    requests = (
        ("PING",),
        ("SET", "a", "1"),
        ("EVAL", "return 1", 0),
        ("SCRIPT", "FLUSH"),
        ("AUTH", "x"),
        ("MULTI",),
    )
    reply, others = late(impatient, script, *requests)
    assert reply == b"done"
    texts = [str(each) for each in others]
    assert texts[:4] == [BUSY] * 4
    assert "AUTH" in texts[4]
    assert others[5] == b"OK"


def test_a_limit_of_zero_is_no_limit() -> None:
    server = InProcessServer(Settings(scripting=ScriptingSettings(time_limit_ms=0)))
    script = "local t = os.clock() while os.clock() < t + 0.05 do end return 'done'"
    reply, others = late(server, script, ("SCRIPT", "KILL"))
    assert (reply, others) == (b"done", [])


def test_the_fast_path_is_closed_while_a_script_is_late(impatient: InProcessServer) -> None:
    """GET of a session without special state does not go through the dispatcher, which says BUSY."""
    plain = Client(impatient)
    assert plain.session.plain
    hub = Hub(plain, ("GET", "a"), ("SCRIPT", "KILL"))
    impatient.hub = hub  # type: ignore[assignment]
    ScriptClient(impatient).run("while true do end")
    assert error(hub.replies[0]) == BUSY
    assert plain.session.plain


def test_nothing_to_kill(client: ScriptClient) -> None:
    assert error(client.send("SCRIPT", "KILL")) == NOT_BUSY


def test_abandoning_ends_a_script_that_has_written_and_undoes_it(impatient: InProcessServer) -> None:
    class Stopping(Hub):
        def pump(self, caller: Session, *, was_clean: bool) -> None:
            impatient.scripts.abandon()

    impatient.hub = Stopping(Client(impatient))  # type: ignore[assignment]
    reply = ScriptClient(impatient).run("redis.call('SET', 'a', '1') while true do end")
    impatient.hub = None
    assert isinstance(reply, hiredis.ReplyError)
    assert Client(impatient).send("GET", "a") is None


def test_a_bug_in_a_host_function_ends_the_script_and_is_told(
    server: InProcessServer, client: ScriptClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.run("return 1")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("kvd.scripting.host.ScriptHost.log", broken)
    reply = client.run("pcall(redis.log, 1, 'x') redis.call('SET', 'a', '1') return 'done'")
    assert "internal error" in error(reply)
    assert client.send("GET", "a") is None
    assert server.stats.unexpected_errors == 1
    assert client.run("return 1") == 1


def test_redis_log_writes_to_the_daemons_log(client: ScriptClient, monkeypatch: pytest.MonkeyPatch) -> None:
    written = structlog.testing.CapturingLogger()
    monkeypatch.setattr("kvd.scripting.host.log", written)
    client.run("redis.log(redis.LOG_WARNING, 'hello', 'world', 1.5, {}, nil)")
    (call,) = written.calls
    assert call.method_name == "warning"
    assert "hello world 1.5" in str(call)
