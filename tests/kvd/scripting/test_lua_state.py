"""The Lua state by itself: what passes its border, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from lupa import lua51  # type: ignore[import-untyped]

from kvd.commands.spec import Request
from kvd.scripting.bytecode import without_outer_tail_calls
from kvd.scripting.lua_state import NOT_RUN, CompileError, LuaState, OutOfMemory, ScriptFailure
from protocol.replies import ErrorReply, Reply, Simple


class EchoHost:
    """Answers each command with what `answer` says."""

    def __init__(self) -> None:
        self.answer: Any = b"reply"
        self.must_end = False
        self.requests: list[Request] = []

    def command(self, request: Request) -> Reply:
        self.requests.append(request)
        if isinstance(self.answer, BaseException) and not isinstance(self.answer, ErrorReply):
            raise self.answer
        return self.answer

    def may_run(self, request: Request) -> bool | ErrorReply:
        return bool(self.command(request))

    def set_protocol(self, proto: int) -> None:
        pass

    def look(self) -> bool:
        return self.must_end

    def log(self, level: int, text: bytes) -> None:
        raise RuntimeError("the log is broken")


@pytest.fixture
def host() -> EchoHost:
    return EchoHost()


@pytest.fixture
def state(host: EchoHost) -> LuaState:
    return LuaState(host, memory_bytes_max=8 << 20, version="7.2.5")


def run(state: LuaState, code: bytes, *arguments: bytes) -> Reply | ScriptFailure:
    state.install(b"script", code)
    return state.run(b"script", [], list(arguments))


@pytest.mark.parametrize("size", [0, 1, 1000, 64 << 10, (64 << 10) + 1, 1 << 20, 4 << 20])
def test_replies_of_any_size_arrive_whole(state: LuaState, host: EchoHost, size: int) -> None:
    host.answer = b"x" * size
    assert run(state, b"return #redis.call('GET')") == size


def test_a_reply_that_cannot_fit_is_an_error(state: LuaState, host: EchoHost) -> None:
    host.answer = b"x" * (9 << 20)
    outcome = run(state, b"return redis.call('GET')")
    assert isinstance(outcome, ScriptFailure)
    assert b"does not fit into the memory" in outcome.text
    host.answer = [b"x" * 1000] * 9000
    assert isinstance(run(state, b"return #redis.call('MGET')"), ScriptFailure)
    assert run(state, b"return redis.pcall('MGET').err ~= nil") == 1


def test_arguments_arrive_as_they_were_written(state: LuaState, host: EchoHost) -> None:
    run(state, b"redis.call('a\\0b', 1, 2.5, 1e17, '')")
    assert host.requests == [[b"a\0b", b"1", b"2.5", b"1e+17", b""]]


def test_an_exception_of_the_host_comes_out_of_run_and_not_into_lua(state: LuaState, host: EchoHost) -> None:
    host.answer = KeyError("secret")
    with pytest.raises(KeyError, match="secret"):
        run(state, b"local ok, problem = pcall(redis.call, 'GET') return {tostring(ok), tostring(problem)}")
    host.answer = b"fine"
    assert run(state, b"return redis.call('GET')") == b"fine"
    with pytest.raises(RuntimeError, match="broken"):
        run(state, b"pcall(redis.log, redis.LOG_WARNING, 'x') return 1")


def test_a_script_that_must_end_before_a_command_ends_uncatchably(state: LuaState, host: EchoHost) -> None:
    host.answer, host.must_end = NOT_RUN, True
    outcome = run(state, b"while true do pcall(redis.call, 'GET') end")
    assert isinstance(outcome, ScriptFailure)
    assert b"Script killed by user" in outcome.text
    host.answer, host.must_end = b"fine", False
    assert run(state, b"for i = 1, 10000 do end return redis.call('GET')") == b"fine"


def test_statuses_and_errors_are_tables(state: LuaState, host: EchoHost) -> None:
    host.answer = Simple(b"OK")
    assert run(state, b"return redis.call('SET').ok") == b"OK"
    host.answer = ErrorReply("WRONGTYPE no")
    assert run(state, b"return redis.pcall('GET').err") == b"WRONGTYPE no"
    outcome = run(state, b"\nredis.call('GET')")
    assert outcome == ScriptFailure(b"WRONGTYPE no", True, b"@user_script", 2)


def test_compile_errors_have_their_line(state: LuaState) -> None:
    with pytest.raises(CompileError, match=r"user_script:2: '=' expected near 'b'"):
        state.install(b"script", b"\na b")


def test_a_script_may_need_its_memory_again_and_again(state: LuaState) -> None:
    for _ in range(5):
        with pytest.raises(OutOfMemory):
            run(state, b"return ('x'):rep(2^30)")
        state.collect()
        assert run(state, b"return #('x'):rep(2^21)") == 1 << 21


def test_a_removed_script_is_freed(state: LuaState) -> None:
    state.install(b"script", b"return '" + b"x" * (1 << 20) + b"'")
    assert state.collect() > 1 << 20
    state.remove(b"script")
    assert state.collect() < 1 << 20


def test_attributes_of_a_python_object_cannot_be_read(state: LuaState) -> None:
    """None reaches a script; this is what it would find if one did."""
    lua = state._lua
    read = lua.eval(b"function(object, name) return object[name] end")
    write = lua.eval(b"function(object, name) object[name] = 1 end")
    for victim in (object(), {b"key": b"secret"}, [b"secret"], ValueError("x")):
        for name in (b"__class__", b"__init__", b"args", b"key", 0):
            with pytest.raises(AttributeError, match="scripts cannot look"):
                read(victim, name)
            with pytest.raises(AttributeError, match="scripts cannot look"):
                write(victim, name)


def test_the_original_globals_are_empty(state: LuaState) -> None:
    assert list(state._lua.globals().keys()) == []


def test_a_closed_state_is_freed() -> None:
    """Without help from the collector, which is rarely asked in the daemon."""
    import weakref

    host = EchoHost()
    state = LuaState(host, memory_bytes_max=1 << 20, version="7.2.5")
    gone = weakref.ref(state)
    state.close()
    del state
    assert gone() is None


# --- the change to compiled scripts


def tail_calls(lua: Any, code: bytes) -> tuple[bytes, bytes]:
    dumped = lua.eval(b"function(code) return string.dump(loadstring(code, '@user_script')) end")(code)
    return dumped, without_outer_tail_calls(dumped)


def test_tail_calls_of_the_outermost_function_become_calls() -> None:
    lua = lua51.LuaRuntime(encoding=None)
    code = b"if ... then return select(2, 'a', 'b', ...) end return (function() return select('#') end)()"
    before, after = tail_calls(lua, code)
    assert before != after
    assert len(before) == len(after)
    load = lua.eval(b"function(code, ...) return loadstring(code)(...) end")
    assert load(after, b"c") == load(before, b"c") == (b"b", b"c")
    assert load(after) == load(before) == 0


def test_inner_functions_keep_their_tail_calls() -> None:
    lua = lua51.LuaRuntime(encoding=None)
    code = b"local function count(n) if n == 0 then return 'done' end return count(n - 1) end local r = count(1e6) return r"
    before, after = tail_calls(lua, code)
    assert before == after
    assert lua.eval(b"function(code) return loadstring(code)() end")(after) == b"done"


def test_large_table_constructors_are_not_mistaken_for_tail_calls() -> None:
    """Their number of the block, 29 among them, stands as data in the code once it is large enough."""
    lua = lua51.LuaRuntime(encoding=None)
    code = b"local t = {" + b"1," * (50 * 700) + b"} return #t"
    before, after = tail_calls(lua, code)
    assert before == after


def test_code_of_another_layout_is_left_as_it_is() -> None:
    foreign = b"\x1bLua\x51\x00\x00\x04\x04\x04\x08\x00" + b"\x1d" * 100
    assert without_outer_tail_calls(foreign) == foreign
