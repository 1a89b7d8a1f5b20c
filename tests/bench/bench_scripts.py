"""What scripts cost, from the bytes of the request to the bytes of the reply: microseconds a run.

    python -m tests.bench.bench_scripts

In process, over the memory engine, a tick a run with its commit left out. The column "calls" is how many
commands the script runs; beyond them a run costs about what "return 1" does.
"""

from __future__ import annotations

import time

from tests.kvd.harness import Client, InProcessServer, encode

_RUNS = 2000
_ROUNDS = 15

LOCK_RELEASE = """
    local holder = redis.call('get', KEYS[1])
    if not holder or holder ~= ARGV[1] then return 0 end
    redis.call('del', KEYS[1])
    return 1
"""
LOCK_CYCLE = "redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', 30000)" + LOCK_RELEASE
LIMITER_HIT = """
    local amount = tonumber(ARGV[2])
    local current = redis.call('incrby', KEYS[1], amount)
    if tonumber(current) == amount then redis.call('expire', KEYS[1], ARGV[1]) end
    return current
"""
JSON_CYCLE = "return cjson.encode(cjson.decode(ARGV[1]))"
DOCUMENT = '{"user":{"id":4711,"name":"somebody","roles":["a","b"]},"seen":[1,2,3],"ok":true}'

CASES = (
    ("return 1", 0, "return 1", ()),
    ("GET", 1, "return redis.call('get', KEYS[1])", ("key",)),
    ("SET", 1, "return redis.call('set', KEYS[1], ARGV[1])", ("key", "value")),
    ("MGET of ten", 1, "return redis.call('mget', unpack(KEYS))", ("key",) * 10),
    ("lock release, not the holder", 1, LOCK_RELEASE, ("lock", "token")),
    ("lock acquire and release", 3, LOCK_CYCLE, ("lock", "token")),
    ("limiter hit", 1, LIMITER_HIT, ("hits", "60", "1")),
    ("JSON there and back, 80 bytes", 0, JSON_CYCLE, (DOCUMENT,)),
)


def _key_count(name: str, words: tuple[str, ...]) -> int:
    if name.startswith("MGET"):
        return len(words)
    return 0 if name.startswith("JSON") else min(1, len(words))


def _measure(server: InProcessServer, client: Client, request: bytes) -> float:
    """Return microseconds a run, the median of the rounds."""
    session = client.session
    rounds = []
    for _ in range(_ROUNDS):
        server.store.begin(server.clock.now_ms)
        started = time.perf_counter_ns()
        for _ in range(_RUNS):
            session.receive(request)
            session.take_output()
        rounds.append((time.perf_counter_ns() - started) / _RUNS / 1000)
        server.store.commit()
    return sorted(rounds)[_ROUNDS // 2]


def main() -> None:
    server = InProcessServer()
    client = Client(server)
    client.send("SET", "key", "x" * 64)
    plain = _measure(server, client, encode("GET", "key"))
    print(f"{'GET without a script, for comparison':<40} {'calls':>5} {plain:>7.2f} us")
    for name, calls, script, words in CASES:
        digest = client.send("SCRIPT", "LOAD", script)
        request = encode("EVALSHA", digest, _key_count(name, words), *words)
        print(f"{name:<40} {calls:>5} {_measure(server, client, request):>7.2f} us")


if __name__ == "__main__":
    main()
