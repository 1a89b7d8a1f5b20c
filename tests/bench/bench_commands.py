"""What the handlers of common commands cost, without sockets and without parsing: microseconds a call.

    python -m tests.bench.bench_commands

Runs over the memory engine with a commit after every 16 requests, as in a tick with a short pipeline. The
column "store" is the bare call of the keyspace that the command comes down to, where there is one: what is
beyond it is the handler's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kvd.commands.spec import Request
from kvd.commands.table import CommandTable
from storage.engine_memory import MemoryEngine
from storage.store import Keyspace, Store

_KEYS = 1000
_ROUNDS = 40
_TICK = 16
_VALUE = b"x" * 64


def _requests(*pattern: bytes) -> list[Request]:
    """Return one request a key; a piece that ends in ``:`` gets the key's number."""
    return [
        [piece + b"%06d" % number if piece.endswith(b":") else piece for piece in pattern]
        for number in range(_KEYS)
    ]


def _measure(
    store: Store, keyspace: Keyspace, requests: list[Request], call: Callable[[Keyspace, Request], object]
) -> float:
    """Return microseconds a request, the median of the rounds, commits left out."""
    rounds = []
    for _ in range(_ROUNDS):
        elapsed = 0
        for start in range(0, len(requests), _TICK):
            batch = requests[start : start + _TICK]
            store.begin(time.time_ns() // 1_000_000)
            started = time.perf_counter_ns()
            for request in batch:
                call(keyspace, request)
            elapsed += time.perf_counter_ns() - started
            store.commit()
        rounds.append(elapsed / len(requests) / 1000)
    return sorted(rounds)[_ROUNDS // 2]


def main() -> None:
    store = Store(MemoryEngine())
    keyspace = store.keyspace(0)
    table = CommandTable.standard()
    for request in _requests(b"SET", b"key:", _VALUE):
        keyspace.put(request[1], request[2])
    for request in _requests(b"SET", b"count:", b"1"):
        keyspace.put(request[1], request[2])
    store.commit()
    cases: list[tuple[tuple[bytes, ...], Callable[[Keyspace, Request], object] | None]] = [
        ((b"GET", b"key:"), lambda where, request: where.get(request[1])),
        ((b"GET", b"missing:"), lambda where, request: where.get(request[1])),
        ((b"EXISTS", b"key:"), lambda where, request: where.get(request[1])),
        ((b"TTL", b"key:"), lambda where, request: where.get(request[1])),
        ((b"SET", b"key:", _VALUE), lambda where, request: where.put(request[1], request[2])),
        ((b"SET", b"brief:", _VALUE, b"EX", b"100"), None),
        ((b"SETEX", b"brief:", b"100", _VALUE), None),
        ((b"SET", b"lock:", _VALUE, b"NX", b"PX", b"30000"), None),
        ((b"EXPIRE", b"brief:", b"100"), None),
        ((b"INCR", b"count:"), None),
        ((b"INCRBYFLOAT", b"float:", b"0.1"), None),
        ((b"MGET", *[b"key:"] * 10), None),
        ((b"MSET", *[b"key:", _VALUE] * 10), None),
        ((b"DEL", b"key:"), None),
    ]
    print(f"{'command':<40} {'us':>7} {'store':>7}")
    for pattern, bare in cases:
        requests = _requests(*pattern)
        handler = table.find(requests[0]).data_handler
        assert handler is not None
        whole = _measure(store, keyspace, requests, handler)
        part = "" if bare is None else f"{_measure(store, keyspace, requests, bare):7.2f}"
        print(f"{b' '.join(piece[:12] for piece in pattern)[:40].decode():<40} {whole:7.2f} {part}")


if __name__ == "__main__":
    main()
