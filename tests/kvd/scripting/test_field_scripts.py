"""The kinds of script that locks, rate limiters and caches of the field run, in our own words.

Each is run in random order with random arguments on kvd and on redis-server. Only remaining times may differ,
by as much as the two servers' clocks move apart while a test asks them in turn.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kvd.harness import Client, InProcessServer, encode
from tests.kvd.redis_wire import ask
from tests.servers import RunningServer

pytestmark = pytest.mark.needs_redis

_CLOCK_MS = 2_000

LOCK_RELEASE = """
    local holder = redis.call('get', KEYS[1])
    if not holder or holder ~= ARGV[1] then
        return 0
    end
    redis.call('del', KEYS[1])
    return 1
"""

LOCK_EXTEND = """
    local holder = redis.call('get', KEYS[1])
    if not holder or holder ~= ARGV[1] then return 0 end
    local left = redis.call('pttl', KEYS[1])
    if not left then left = 0 end
    local wanted = tonumber(ARGV[2])
    if ARGV[3] == '0' then wanted = wanted + left end
    redis.call('pexpire', KEYS[1], wanted)
    return 1
"""

LOCK_REACQUIRE = """
    local holder = redis.call('get', KEYS[1])
    if not holder or holder ~= ARGV[1] then return 0 end
    redis.call('pexpire', KEYS[1], ARGV[2])
    return 1
"""

MANY_LOCKS_ACQUIRE = """
    for _, key in ipairs(KEYS) do
        if redis.call('exists', key) == 1 then return 0 end
    end
    for _, key in ipairs(KEYS) do redis.call('set', key, ARGV[1], 'PX', ARGV[2]) end
    return #KEYS
"""

MANY_LOCKS_RELEASE = """
    local count = 0
    for _, key in ipairs(KEYS) do
        if redis.call('get', key) == ARGV[1] then
            redis.pcall('del', key)
            count = count + 1
        end
    end
    return count
"""

UNLOCK_IN_ONE_LINE = (
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"
)

FIXED_WINDOW = """
    local amount = tonumber(ARGV[2])
    local current = redis.call('incrby', KEYS[1], amount)
    if tonumber(current) == amount then redis.call('expire', KEYS[1], ARGV[1]) end
    return current
"""

SLIDING_WINDOW = """
    local limit, expiry, amount = tonumber(ARGV[1]), tonumber(ARGV[2]) * 1000, tonumber(ARGV[3])
    local left = redis.call('pttl', KEYS[1])
    if left > 0 and left < expiry then
        redis.call('rename', KEYS[1], KEYS[2])
        redis.call('set', KEYS[1], 0, 'PX', left + expiry)
    end
    local before = tonumber(redis.call('get', KEYS[2]) or '0')
    local now = tonumber(redis.call('get', KEYS[1]) or '0')
    if math.floor(before / 2) + now + amount > limit then return false end
    redis.call('incrby', KEYS[1], amount)
    if now == 0 then redis.call('pexpire', KEYS[1], expiry * 2) end
    return true
"""

CONSUME_POINTS = """
    redis.call('set', KEYS[1], 0, 'EX', ARGV[2], 'NX')
    local consumed = redis.call('incrby', KEYS[1], ARGV[1])
    local left = redis.call('pttl', KEYS[1])
    if left == -1 then
        redis.call('expire', KEYS[1], ARGV[2])
        left = 1000 * ARGV[2]
    end
    return {consumed, left}
"""

HIT_COUNTER = """
    local left = redis.call('PTTL', KEYS[1])
    if left <= 0 then
        redis.call('SET', KEYS[1], 1, 'PX', tonumber(ARGV[2]))
        return {1, tonumber(ARGV[2])}
    end
    local hits = redis.call('INCR', KEYS[1])
    if ARGV[1] == '1' then redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2])) end
    return {hits, left}
"""

COUNT_IF_THERE = """
    if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('INCRBY', KEYS[1], ARGV[1]) else return false end
"""

COUNT_WITH_EXPIRY = """
    local value = redis.call('INCRBY', KEYS[1], ARGV[1])
    if value == tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
    return value
"""

CLEAR_PREFIX = """
    local keys = redis.call('keys', KEYS[1] .. '*')
    local gone = 0
    for first = 1, #keys, 5000 do
        gone = gone + redis.call('del', unpack(keys, first, math.min(first + 4999, #keys)))
    end
    return gone
"""

SESSION_MERGE = """
    local stored = redis.call('GET', KEYS[1])
    local session = stored and cjson.decode(stored) or {visits = 0}
    session.visits = session.visits + 1
    session.last = ARGV[1]
    redis.call('SETEX', KEYS[1], 600, cjson.encode(session))
    return {session.visits, session.last, cmsgpack.unpack(cmsgpack.pack(session.visits))}
"""

_keys = st.sampled_from([b"lock:1", b"lock:2", b"hits:1", b"hits:2"])
_tokens = st.sampled_from([b"token-1", b"token-2"])
_ms = st.integers(5_000, 1_000_000)
_amount = st.integers(1, 5)
_flag = st.sampled_from([b"0", b"1"])
_two_keys = st.lists(_keys, min_size=2, max_size=2, unique=True)
_one_key = _keys.map(lambda key: [key])


def _runs(script: str, keys: Any, *arguments: Any) -> Any:
    return st.tuples(st.just(script), keys, st.tuples(*arguments))


_steps = st.one_of(
    _runs(LOCK_RELEASE, _one_key, _tokens),
    _runs(LOCK_EXTEND, _one_key, _tokens, _ms, _flag),
    _runs(LOCK_REACQUIRE, _one_key, _tokens, _ms),
    _runs(MANY_LOCKS_ACQUIRE, _two_keys, _tokens, _ms),
    _runs(MANY_LOCKS_RELEASE, _two_keys, _tokens),
    _runs(UNLOCK_IN_ONE_LINE, _one_key, _tokens),
    _runs(FIXED_WINDOW, _one_key, st.integers(5, 1000), _amount),
    _runs(SLIDING_WINDOW, _two_keys, st.integers(1, 20), st.integers(5, 1000), _amount),
    _runs(CONSUME_POINTS, _one_key, _amount, st.integers(5, 1000)),
    _runs(HIT_COUNTER, _one_key, _flag, _ms),
    _runs(COUNT_IF_THERE, _one_key, _amount),
    _runs(COUNT_WITH_EXPIRY, _one_key, _amount, _ms),
    _runs(CLEAR_PREFIX, st.sampled_from([[b"lock:"], [b"hits:1"]])),
    _runs(SESSION_MERGE, st.just([b"session"]), st.sampled_from([b"now", b'"quoted" / \xc3\xa9'])),
)


def alike(ours: Any, theirs: Any) -> bool:
    """Compare replies; numbers that may be remaining times may be apart a little."""
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, int) and isinstance(theirs, int) and min(ours, theirs) > _CLOCK_MS:
        return abs(ours - theirs) <= _CLOCK_MS
    return bool(ours == theirs) or (isinstance(ours, Exception) and str(ours) == str(theirs))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_steps, min_size=1, max_size=25))
def test_scripts_of_the_field_do_the_same_as_on_redis(redis_server: RunningServer, steps: list[Any]) -> None:
    server = InProcessServer()
    client = Client(server)
    with redis_server.connect() as connection:
        ask(connection, "FLUSHALL")
        for script, keys, arguments in steps:
            digest = hashlib.sha1(script.encode()).hexdigest()
            request = ("EVALSHA", digest, len(keys), *keys, *arguments)
            theirs = ask(connection, *request)
            if str(theirs).startswith("NOSCRIPT"):
                ask(connection, "SCRIPT", "LOAD", script)
                theirs = ask(connection, *request)
            ours = client.send(*request)
            if str(ours).startswith("NOSCRIPT"):
                assert client.send("SCRIPT", "LOAD", script) == digest.encode()
                ours = client.send(*request)
            assert alike(ours, theirs), (request, ours, theirs)
        for key in (b"lock:1", b"lock:2", b"hits:1", b"hits:2", b"session"):
            for question in ("GET", "PTTL"):
                ours, theirs = client.send(question, key), ask(connection, question, key)
                assert alike(ours, theirs), (question, key, ours, theirs)


def test_a_pipeline_of_hits_counts_each() -> None:
    """What a limiter under load sends: the same EVALSHA many times in one read."""
    client = Client(InProcessServer())
    digest = client.send("SCRIPT", "LOAD", FIXED_WINDOW)
    request = encode("EVALSHA", digest, 1, "hits", "60", "1")
    assert client.raw(*[request] * 50) == b"".join(b":%d\r\n" % number for number in range(1, 51))
