"""Coverage-guided search for a stream on which the request readers differ, or fail.

    python tests/fuzz/fuzz_requests.py -max_total_time=600
    python tests/fuzz/fuzz_requests.py -max_total_time=600 corpus   # and keep what was found in that directory
    python tests/fuzz/fuzz_requests.py crash-0123...        # one input again

Needs atheris (``pip install atheris``). Every option is libFuzzer's. An input is a stream of bytes;
its last bytes choose where the stream is cut, whether the client has authenticated, and whether
the readers work with small pieces. Found are: two readers that disagree, any exception, an
allocation of more than 64 MB for at most 8 KB of input, and an input that takes a second.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final
from unittest import mock

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

with atheris.instrument_imports(include=["protocol"]):
    from protocol import requests as readers

from tests.protocol.streams import cut, one_by_one, read, read_exactly, request

OPTIONS: Final = ["-max_len=8192", "-malloc_limit_mb=64", "-timeout=1"]
CUTS_MAX: Final = 4

SEEDS: Final = [
    request(b"PING"),
    request(b"GET", b"key") * 20,
    request(b"SET", b"key", b"value") * 4 + request(b"GET", b"key"),
    request(b"SET", b"key", b"*1\r\n$1\r\na\r\n"),
    request(b"SET", b"key", b"=%~>|+("),
    request(b"SET", b"key", b"=%~>|+(") * 9,
    request(b"MGET", *[b"k"] * 40),
    b"SET 'a\\'b' \"c\\x41\\n\"\r\n",
    b"*0\r\n\r\n*-1\r\n",
    b"*1\r\n*1\r\n$1\r\na\r\n",
    b"*2\r\n:1\r\n_\r\n",
    b"$0\r\n\r\n*2\r\n$1\r\na\r\n",
    b"*1\r\n$1\r\naXX*2\r\n$3\r\nGET\r\n",
    b"*11\r\n$16385\r\n",
    b"*2147483647\r\n$2147483647\r\n",
]

_SMALL_PIECES: Final = {"PIPELINE_BYTES_MAX": 64, "_ONE_BYTES_MAX": 24, "_LARGE_FROM": 48, "_LARGE_TO": 80}


def check(data: bytes) -> None:
    """Fail if the readers differ on the stream in `data`."""
    provider = atheris.FuzzedDataProvider(data)  # takes numbers from the end
    authenticated = provider.ConsumeBool()
    thresholds = _SMALL_PIECES if provider.ConsumeBool() else {}
    places = [provider.ConsumeIntInRange(0, 255) for _ in range(provider.ConsumeIntInRange(0, CUTS_MAX))]
    stream = provider.ConsumeBytes(provider.remaining_bytes())
    with mock.patch.dict(vars(readers), thresholds):
        found = read(cut(stream, places), authenticated=authenticated)
    expected = read_exactly(one_by_one(stream), authenticated=authenticated)
    if found != expected:
        raise AssertionError(f"{stream!r} cut at {places}: {found}, expected {expected}")


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            Path(corpus, str(number)).write_bytes(seed + b"\x00\x00\x00")
        inputs = [argument for argument in sys.argv[1:] if Path(argument).is_file()]
        atheris.Setup([sys.argv[0], *OPTIONS, *sys.argv[1:], *([] if inputs else [corpus])], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
