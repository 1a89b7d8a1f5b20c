"""What a request costs to read and a reply to encode, in microseconds of one core.

Run by hand: ``python tests/bench/bench_protocol.py``. The best of several rounds, since everything
else on the machine only adds. Recorded on a 2-core x86_64 virtual machine, Python 3.11:

    =============================  =====  =====
    us a request                   GET    SET (64-byte value)
    =============================  =====  =====
    P=1                            0.41   0.56
    P=2                            1.08   1.23
    P=16                           0.28   0.35
    P=64                           0.21   0.28
    P=1024                         0.21   0.29
    in pieces of 64 KiB                   0.32
    in pieces of 1,448 bytes              0.91
    value that hiredis may not see        1.04
    the exact reader alone         1.8    2.3
    =============================  =====  =====
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from functools import partial

from protocol.encode import encode2, encode3
from protocol.multibulk import Limits, MultibulkReader
from protocol.replies import OK, Reply
from protocol.requests import RequestReader

ROUNDS = 7
REQUESTS_A_ROUND = 20_000


def request(*arguments: bytes) -> bytes:
    return b"*%d\r\n%b" % (
        len(arguments),
        b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments),
    )


GET = request(b"GET", b"key:000000012345")
SET = request(b"SET", b"key:000000012345", b"x" * 64)
SET_JSON = request(b"SET", b"key:000000012345", b'{"a": 1, "q": "x=1&y=(2+3)"}'.ljust(64))
SET_BINARY = request(b"SET", b"key:000000012345", b"a\r\n*1\r\n$4\r\nPING\r\n".ljust(64))
SET_4K = request(b"SET", b"key:000000012345", b"x" * 4096)
MSET_100 = request(b"MSET", *(b"key:%09d" % number for number in range(200)))


def best(function: Callable[[], object], requests: int) -> float:
    """Return the least time of `function` over `requests`, in microseconds."""
    number = max(1, REQUESTS_A_ROUND // requests)
    rounds = timeit.repeat(function, timer=time.process_time, number=number, repeat=ROUNDS)
    return min(rounds) / number / requests * 1e6


def measure_reader(title: str, one: bytes, depth: int) -> None:
    data = one * depth
    feed = RequestReader().feed
    assert len(feed(data)) == depth
    print(f"read    {title:12} P={depth:<4} {best(lambda: feed(data), depth):7.3f} us a request")


def measure_exact(title: str, one: bytes, depth: int) -> None:
    reader = MultibulkReader(Limits(), authenticated=True)
    data = one * depth

    def read() -> None:
        reader.feed(data)
        while reader.next() is not None:
            pass

    print(f"exact   {title:12} P={depth:<4} {best(read, depth):7.3f} us a request")


def measure_cut(title: str, one: bytes, piece_bytes: int) -> None:
    """A long pipeline that arrives in pieces which end anywhere."""
    data = one * 2000
    pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
    reader = RequestReader()

    def read() -> None:
        for piece in pieces:
            reader.feed(piece)

    print(f"read    {title:12} in pieces of {piece_bytes:<6} {best(read, 2000):7.3f} us a request")


def measure_encoder(title: str, reply: Reply) -> None:
    for name, encode in (("RESP2", encode2), ("RESP3", encode3)):
        print(f"encode  {title:12} {name} {best(partial(encode, reply), 1):7.3f} us")


def main() -> None:
    for depth in (1, 2, 4, 16, 64, 256, 1024):
        measure_reader("GET", GET, depth)
        measure_reader("SET", SET, depth)
    for title, one in (("SET JSON", SET_JSON), ("SET binary", SET_BINARY), ("SET 4 KiB", SET_4K)):
        for depth in (1, 16):
            measure_reader(title, one, depth)
    measure_reader("MSET of 100", MSET_100, 1)
    measure_reader("inline PING", b"PING\r\n", 1)
    measure_exact("GET", GET, 16)
    measure_exact("SET", SET, 16)
    for piece_bytes in (1448, 16384, 65536):
        measure_cut("SET", SET, piece_bytes)
    for title, reply in (
        ("OK", OK),
        ("null", None),
        ("integer", 1),
        ("64 bytes", b"x" * 64),
        ("10 bulks", [b"x" * 16] * 10),
        ("map of 10", dict.fromkeys(map(b"%d".__mod__, range(10)), b"x" * 16)),
    ):
        measure_encoder(title, reply)


if __name__ == "__main__":
    main()
