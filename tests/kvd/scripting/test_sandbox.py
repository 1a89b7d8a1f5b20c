"""What scripts must not reach, change or break.

A way out of the sandbox is a way into the daemon's process, so each attempt here is one that has worked
somewhere: against Redis, against Lua 5.1, or against lupa.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.kvd.harness import InProcessServer
from tests.kvd.scripting.conftest import ScriptClient
from tests.servers import ROOT

READONLY = "Attempt to modify a readonly table"

ABSENT = """
    debug dofile getfenv io loadfile lupa module newproxy package print python require setfenv
    python_builtins
""".split()


@pytest.mark.parametrize("name", ABSENT)
def test_name_is_not_there(client: ScriptClient, name: str) -> None:
    problem = f"Script attempted to access nonexistent global variable '{name}'"
    assert client.fails(f"return {name}") == f"ERR user_script:1: {problem}"
    assert client.run(f"return rawget(_G, '{name}')") is None


@pytest.mark.parametrize("name", "exit execute getenv remove rename tmpname setlocale date time".split())
def test_os_has_nothing_but_a_clock(client: ScriptClient, name: str) -> None:
    assert client.run(f"return os.{name}") is None
    assert client.run("return type(os.clock())") == b"number"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("x = 1", f"ERR user_script:1: {READONLY}"),
        ("_G.x = 1", f"ERR user_script:1: {READONLY}"),
        ("function f() end", f"ERR user_script:1: {READONLY}"),
        ("KEYS = {}", f"ERR user_script:1: {READONLY}"),
        ("redis.call = nil", f"ERR user_script:1: {READONLY}"),
        ("string.format = nil", f"ERR user_script:1: {READONLY}"),
        ("cjson.null = nil", f"ERR user_script:1: {READONLY}"),
        ("getmetatable('').__index = nil", f"ERR user_script:1: {READONLY}"),
        ("getmetatable('').__add = function() end", f"ERR user_script:1: {READONLY}"),
        ("getmetatable('').__index.format = nil", f"ERR user_script:1: {READONLY}"),
        ("rawset(_G, 'x', 1)", f"ERR {READONLY}"),
        ("rawset(string, 'x', 1)", f"ERR {READONLY}"),
        ("rawset(getmetatable(''), 'x', 1)", f"ERR {READONLY}"),
        ("setmetatable(_G, {})", f"ERR {READONLY}"),
        ("setmetatable(_G, nil)", f"ERR {READONLY}"),
        ("setmetatable(redis, {})", f"ERR {READONLY}"),
        ("table.insert(table, 1)", f"ERR {READONLY}"),
        ("table.insert(_G, 1, 2)", f"ERR {READONLY}"),
    ],
)
def test_globals_and_libraries_are_readonly(client: ScriptClient, script: str, text: str) -> None:
    assert client.fails(script) == text
    assert client.run("return redis.call('ECHO', ('%d'):format(1))") == b"1"


HARMLESS_CHANGES = [
    "table.sort(_G) table.remove(string) return 'done'",
    (
        "for _, library in pairs({redis, string, table, math, os, coroutine, cjson, cmsgpack, struct, bit, _G}) do"
        "  if getmetatable(library) ~= nil then return 'a metatable' end"
        "  if #library ~= 0 then return 'a list' end"
        "  local iterate, state = pairs(library)"
        "  if state ~= library then return 'the hidden table' end"
        "  local before = rawget(library, 1)"
        "  pcall(rawset, library, 1, 'x') pcall(table.insert, library, 'x')"
        "  pcall(function() library[1] = 'x' end)"
        "  if rawget(library, 1) ~= before then return 'changed' end"
        " end return 'done'"
    ),
    (
        "local names = {} for name in pairs(redis) do names[#names + 1] = name end"
        " for name in next, redis do names[#names + 1] = name end"
        " return #names > 40 and 'done'"
    ),
]


@pytest.mark.parametrize("script", HARMLESS_CHANGES)
def test_the_hidden_tables_stay_hidden(client: ScriptClient, script: str) -> None:
    assert client.run(script) == b"done"


def test_nothing_is_left_for_the_next_script(client: ScriptClient) -> None:
    client.run("cjson.encode_max_depth(2) cjson.encode_number_precision(3) return redis.setresp(3)", ("key",))
    assert client.run("return cjson.encode({{{1/3}}})") == b"[[[0.33333333333333]]]"
    assert client.run("return tostring(redis.call('GET', 'nothing'))") == b"false"
    assert client.run("return {#KEYS, #ARGV}") == [0, 0]


BYTECODE = "string.dump(function() return 1 end)"


@pytest.mark.parametrize(
    "script",
    [
        f"return tostring(loadstring({BYTECODE}))",
        f"local code = {BYTECODE} return tostring((load(function() local c = code code = nil return c end)))",
        (
            f"local code, n = {BYTECODE}, 0"
            " return tostring((load(function() n = n + 1 return n <= #code and code:sub(n, n) or nil end)))"
        ),
        "return tostring(loadstring('\\27Lua'))",
    ],
)
def test_bytecode_is_never_loaded(client: ScriptClient, script: str) -> None:
    assert client.run(script) == b"nil"


def test_a_script_that_is_bytecode_is_refused(client: ScriptClient) -> None:
    dumped = client.run("return string.dump(function() return 1 end)")
    assert "Error compiling script" in client.fails(dumped)
    assert "Error compiling script" in client.fails(b"#!lua\n" + dumped)


def test_loaded_text_gets_the_same_globals(client: ScriptClient) -> None:
    assert client.run("return loadstring('return KEYS[1]')()", ("a",)) == b"a"
    assert READONLY in client.fails("return loadstring('x = 1')()")
    assert client.run("return loadstring('return _G')() == _G") == 1
    assert client.run("return coroutine.wrap(function() return loadstring('return _G')() == _G end)()") == 1


def test_errors_carry_no_python_object(client: ScriptClient) -> None:
    for call in (
        "redis.call('NOSUCH')",
        "redis.call({})",
        "redis.call(function() end)",
        "redis.call(cjson.null)",
        "redis.call(coroutine.create(function() end))",
        "redis.call(('x'):rep(1000), {})",
        "redis.sha1hex({}, 1)",
        "redis.log(1e9, 'x')",
        "redis.setresp('x')",
        "redis.set_repl({})",
        "redis.acl_check_cmd({})",
        "cjson.decode(redis)",
        "cmsgpack.unpack(redis)",
        "struct.pack(redis)",
        "bit.band(redis)",
    ):
        script = f"local ok, kind = xpcall(function() return {call} end, type) return {{tostring(ok), kind}}"
        assert client.run(script) in ([b"false", b"table"], [b"false", b"string"]), call


def test_every_value_in_reach_is_plain_lua(client: ScriptClient) -> None:
    """Walk everything that can be reached from the globals, through tables and metatables."""
    script = """
        local seen, kinds = {}, {}
        local function visit(value, path)
            if seen[value] then return end
            local kind = type(value)
            if kind == 'userdata' and value ~= cjson.null then kinds[#kinds + 1] = path end
            if kind ~= 'table' then return end
            seen[value] = true
            for key, item in pairs(value) do
                visit(key, path) visit(item, path .. '.' .. tostring(key))
            end
            local metatable = getmetatable(value)
            if type(metatable) == 'table' then visit(metatable, path .. '#') end
        end
        visit(_G, '_G') visit(getmetatable(''), 'string#')
        return kinds
    """
    assert client.run(script) == []
    assert client.run("return tostring(getmetatable(cjson.null))") == b"false"
    for expression in ("cjson.null.x", "cjson.null()", "cjson.null + 1", "#cjson.null"):
        assert "attempt to" in client.fails(f"return {expression}")


CALLS_THAT_ONCE_CRASHED = {
    "patterns recurse on the C stack": "return string.find(('a'):rep(2^20), ('.?'):rep(2^20))",
    "gsub, gmatch and match do too": "local p = ('a?'):rep(2^18) local s = ('a'):rep(2^18)"
    " return {pcall(string.gsub, s, p, ''), pcall(string.match, s, p), pcall(string.gmatch, s, p)}",
    "unpack overflows an int": "return {pcall(unpack, {}, 0, 2147483647), pcall(unpack, {}, -2147483648, 2147483647),"
    " pcall(unpack, {}, -1e300, 1e300), pcall(unpack, {}, 0/0, 0/0), pcall(unpack, {}, 1, 2^53)}",
    "coroutines in coroutines": "local function f() return coroutine.wrap(f)() end return {pcall(f)}",
    "pcall in gsub in coroutines": "local function f(n) return coroutine.wrap(function()"
    " return (('a'):gsub('a', function() return pcall(f, n + 1) end)) end)() end return {pcall(f, 1)}",
    "gsub in gsub": "local function f() return (('a'):gsub('a', f)) end return {pcall(f)}",
    "sort in sort": "local function f() table.sort({2, 1}, f) end return {pcall(f)}",
    "metamethods in metamethods": "local t t = setmetatable({}, {__index = function(_, k) return t[k] end})"
    " return {pcall(function() return t.x end)}",
    "tostring in tostring": "local t t = setmetatable({}, {__tostring = function() return tostring(t) end})"
    " return {pcall(tostring, t)}",
    "deep recursion": "local function f(n) return 1 + f(n + 1) end return {pcall(f, 1)}",
    "parser recursion": "return tostring(loadstring('return ' .. ('('):rep(1e5) .. '1' .. (')'):rep(1e5)))",
    "parser recursion 2": "return tostring(loadstring(('if x then '):rep(1e5)))",
    "variadic functions overflow the stack": "local n = {} for i = 1, 190 do n[i] = 'p' .. i end"
    " local f = loadstring('local f f = function(' .. table.concat(n, ',') .. ', ...) return f() + 1 end return f')"
    " if f then return {pcall(f())} end return 'refused'",
    "variadic functions within bounds": "local f f = function(a, b, c, ...) return f() + 1 end"
    " for i = 1, 100 do coroutine.resume(coroutine.create(f)) end return 1",
    "invalid order function": "local t = {} for i = 1, 100 do t[i] = i end"
    " return {pcall(table.sort, t, function() return true end)}",
    "format": "return {pcall(string.format, '%99999d', 1), pcall(string.format, ('%'):rep(1000), 1),"
    " #string.format('%99.99f', 1e308), pcall(string.format, '%q', ('\\0'):rep(1000))}",
    "the chunk's name is collected while parsing": "local function reader() collectgarbage() return nil end"
    " return tostring(load(reader)) .. tostring(load(reader, ('x'):rep(1000) .. '\\0y'))",
    "nesting of a reply": "local t = {} t[1] = t return t",
    "nesting of maps as keys": "local t = {} for i = 1, 200 do t = {map = {[t] = t}} end return t",
    "nesting in json": "cjson.encode_max_depth(2^31 - 1) cjson.decode_max_depth(2^31 - 1)"
    " local t = {} t[1] = t return {pcall(cjson.encode, t), pcall(cjson.decode, ('['):rep(1e5))}",
    "nesting in messagepack": "local t = {} t[1] = t return {cmsgpack.pack(t), pcall(cmsgpack.unpack, ('\\145'):rep(1e5))}",
    "sizes in struct": "return {pcall(struct.pack, 'I2147483647', 1), pcall(struct.unpack, 'c2147483647', 'x'),"
    " pcall(struct.size, ('c2147483647'):rep(100)), pcall(struct.unpack, 'I2', 'ab', 2^53), pcall(struct.pack, '!0i', 1)}",
    "lengths in messagepack": "return {pcall(cmsgpack.unpack, '\\221\\255\\255\\255\\255'),"
    " pcall(cmsgpack.unpack, '\\219\\255\\255\\255\\255x'), pcall(cmsgpack.unpack, '\\223\\255\\255\\255\\255')}",
    "hexadecimal digits": "return {bit.tohex(1, -2147483648), bit.tohex(1, 2147483647), bit.tohex(1, 0)}",
    "many results": "local t = {} for i = 1, 9000 do t[i] = 1 end"
    " return {pcall(unpack, t), pcall(cmsgpack.unpack, cmsgpack.pack(unpack(t, 1, 7500))), pcall(string.byte, ('x'):rep(1e5), 1, -1)}",
    "empty strings many times": "return ('').rep('', 2^53) .. string.rep('', 1/0)",
    "inserting far away": "return {pcall(table.insert, {1}, -2^31, 1), pcall(table.insert, {1}, 2^31, 1),"
    " pcall(table.insert, {1}, 0/0, 1), pcall(table.insert, {1}, 2^53, 1)}",
    "a table as its own metatable": "local t = {} setmetatable(t, t) t.__index = t return {pcall(function() return t.x end)}",
    "yielding from everywhere": "return {pcall(coroutine.yield), pcall(table.sort, {2, 1}, coroutine.yield),"
    " pcall(string.gsub, 'a', 'a', coroutine.yield), pcall(load, coroutine.yield)}",
    "resuming oneself": "local co co = coroutine.create(function() return coroutine.resume(co) end)"
    " return {coroutine.resume(co)}",
    "an error in an error handler": "return {xpcall(error, function() error('x') end)}",
    "no handler": "return {pcall(xpcall), pcall(xpcall, error), pcall(xpcall, error, 1)}",
    "collecting in a hook's coroutine": "for i = 1, 2000 do coroutine.wrap(function() collectgarbage('step') end)() end return 1",
}

_RUN_ALL = """
import sys
from kvd.settings import ScriptingSettings, Settings
from tests.kvd.harness import Client, InProcessServer
from tests.kvd.scripting.test_sandbox import CALLS_THAT_ONCE_CRASHED
server = InProcessServer(Settings(scripting=ScriptingSettings(memory_bytes_max=16 << 20)))
client = Client(server)
for name, script in CALLS_THAT_ONCE_CRASHED.items():
    print(name, flush=True)
    client.send("EVAL", script, 0)
    assert client.send("EVAL", "return 1", 0) == 1
    assert server.stats.unexpected_errors == 0
print("all")
"""


def test_no_script_crashes_the_process() -> None:
    """In a process of its own: what fails here would take the tests with it. Its last word tells which."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN_ALL], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all"), done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "local t = {} while true do t[#t + 1] = {} end",
        "local s = 'x' while true do s = s .. s end",
        "return ('x'):rep(2^30)",
        "local t = {} while true do t[#t + 1] = coroutine.create(function() end) end",
        "local t = {} for i = 1, 2^31 do t[i] = i end",
        "return {pcall(string.rep, 'x', 2^30), ('y'):rep(2^30)}",
        "local s = ('x'):rep(2^20) local t = {} for i = 1, 100 do t[i] = s end return table.concat(t)",
    ],
)
def test_memory_ends_with_a_clear_error(client: ScriptClient, script: str) -> None:
    assert "needs more than the 67108864 bytes of memory" in client.fails(script)
    assert client.run("return 1") == 1


def test_a_script_may_survive_its_own_lack_of_memory(client: ScriptClient) -> None:
    script = "local ok, problem = pcall(string.rep, 'x', 2^30) return {tostring(ok), problem}"
    assert client.run(script) == [b"false", b"not enough memory"]


def test_a_string_named_often_is_not_multiplied(client: ScriptClient) -> None:
    big = "local s = ('x'):rep(2^20) local t = {} for i = 1, 1000 do t[i] = s end "
    assert "reply is larger" in client.fails(big + "return t")
    assert "arguments of a command are larger" in client.fails(big + "return redis.call('DEL', unpack(t))")


def test_garbage_of_one_script_does_not_fail_the_next(server: InProcessServer, client: ScriptClient) -> None:
    for _ in range(20):
        client.run("local t = {} for i = 1, 300000 do t[i] = i end return 1")
    assert server.scripts.used_bytes < 32 << 20


def test_large_texts_that_are_not_kept_are_collected_in_time(client: ScriptClient) -> None:
    client.run("local t = {} for i = 1, 3e5 do t[i] = {} end return 1")  # a collection has much to go through
    assert client.run("local s = ('x'):rep(5e6) for i = 1, 300 do local longer = s .. i end return 1") == 1


def test_the_collector_cannot_be_stopped(client: ScriptClient) -> None:
    script = "collectgarbage('stop') collectgarbage('setpause', 1e9) collectgarbage('setstepmul', 0) return 1"
    assert client.run(script) == 1
    assert client.run("for i = 1, 200000 do local t = {{}, {}, {}, {}, {}, {}} end return 1") == 1


def test_a_reply_that_does_not_fit_is_an_error_of_the_script(client: ScriptClient) -> None:
    client.send("SET", "big", b"x" * (20 << 20))
    assert client.run("return #redis.call('GET', 'big')") == 20 << 20
    problem: Any = client.fails(
        "local t = {} for i = 1, 9 do t[i] = redis.call('GET', 'big') .. i end return 1"
    )
    assert "memory" in problem
    assert client.run("return 1") == 1


_NEAR_THE_LIMIT = """
local keep, made, size = {}, 0, tonumber(ARGV[1])
local function fill()
    for _ = 1, math.random(20) do made = made + 1 keep[made] = ('x'):rep(size) .. made end
end
local actions = {
    function() return redis.call('GET', 'small') end,
    function() return redis.call('GET', 'big') end,
    function() return redis.call('MGET', 'small', 'big', 'small') end,
    function() return redis.call('KEYS', '*') end,
    function() return redis.call({}) end,
    function() return redis.call('SET', 'z', ('v'):rep(1000)) end,
    function() return redis.call('NOSUCH' .. made) end,
    function() return redis.call('COMMAND', 'DOCS', 'GET') end,
    function() return redis.call('MGET', unpack(keep, 1, math.min(#keep, 300))) end,
    function() return redis.call('ECHO', 1.5) end,
    function() return redis.setresp(2 + math.random(0, 1)) end,
    function() return redis.sha1hex('abc' .. made) end,
    function() return redis.acl_check_cmd('GET', 'small') end,
    function() return cjson.decode(cjson.encode({1, 2, {a = 'b'}})) end,
    function() return cmsgpack.pack({1.1, 2, {a = 0.1}}) end,
    function() return struct.unpack('d', struct.pack('dddd', 1, 2, 3, 4)) end,
    function() return bit.band(made, 255) end,
    function() return coroutine.wrap(function() return redis.call('GET', 'small') end)() end,
    function() local function f(n) return n == 0 and redis.call('GET', 'big') or 1 + f(n - 1) end return f(100) end,
    function() return loadstring('return function(a, ...) return 1 end')() end,
}
for _ = 1, tonumber(ARGV[2]) do
    pcall(fill)
    for _ = 1, 5 do pcall(actions[math.random(#actions)]) end
end
return keep
"""

_RUN_NEAR_THE_LIMIT = """
from kvd.settings import ScriptingSettings, Settings
from tests.kvd.harness import Client, InProcessServer
from tests.kvd.scripting.test_sandbox import _NEAR_THE_LIMIT
server = InProcessServer(Settings(scripting=ScriptingSettings(memory_bytes_max=1 << 20)))
client = Client(server)
client.send("SET", "small", "x")
client.send("SET", "big", b"x" * 300_000)
for size in (1, 10, 30, 100, 1000, 5000) * 10:
    client.send("EVAL", _NEAR_THE_LIMIT, 0, size, 200)
    assert client.send("EVAL", "return 1", 0) == 1
    assert server.stats.unexpected_errors == 0
print("all")
"""


def test_an_allocation_may_fail_anywhere() -> None:
    """A jump out of the binding with the GIL in hand would hang the process: this one, not the tests'."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN_NEAR_THE_LIMIT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr
