"""What a change costs between nodes: to encode, and to decode with all checks; and the bytes around it.

Run by hand: ``python tests/bench/bench_peer_frames.py``. The best of several rounds. Recorded on a
2-core x86_64 virtual machine, Python 3.11; us a change in a run of 100, one core:

    ==========================  ======  ======  ================
    values                      encode  decode  bytes on top of it
    ==========================  ======  ======  ================
    100 bytes, new keys         1.1     0.8     18
    100 bytes, overwritten      1.4     1.0     46
    1 KiB, overwritten          1.5     1.2     47
    a run of one, overwritten   5.9     9.6     84
    ==========================  ======  ======  ================

"On top" is without the namespace (16 bytes), key and value, and with the frame.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from typing import Final

from replication.frames import FrameReader, encode
from replication.messages import Push
from storage.changes import Change, Run

ROUNDS: Final = 7
CHANGES_A_ROUND: Final = 50_000
HLC: Final = 1_700_000_000_000 << 16
PLACE: Final = b"n" * 16


def best(function: Callable[[], object], changes: int) -> float:
    """Return the least time of `function` over `changes`, in microseconds."""
    number = max(1, CHANGES_A_ROUND // changes)
    rounds = timeit.repeat(function, timer=time.process_time, number=number, repeat=ROUNDS)
    return min(rounds) / number / changes * 1e6


def measure(title: str, count: int, value_bytes: int, *, overwritten: bool) -> None:
    changes = [
        Change(seq, HLC + seq, 0, PLACE + b"key:%08d" % seq, bytes(value_bytes))
        for seq in range(1001, 1001 + count)
    ]
    if overwritten:
        changes = [change._replace(prev_hlc=HLC, prev_origin=PLACE) for change in changes]
    push = Push(Run(PLACE, 1000, 1000 + count, changes))
    frame = encode(push)
    reader = FrameReader(is_authenticated=True)
    assert list(reader.feed(frame)) == [push]
    on_top = len(frame) / count - value_bytes - 16 - 12
    encoding = best(lambda: encode(push), count)
    decoding = best(lambda: list(reader.feed(frame)), count)
    print(
        f"{title:27} encode {encoding:5.2f}  decode {decoding:5.2f} us a change, {on_top:4.0f} bytes on top"
    )


def main() -> None:
    measure("100 bytes, new keys", 100, 100, overwritten=False)
    measure("100 bytes, overwritten", 100, 100, overwritten=True)
    measure("1 KiB, overwritten", 100, 1024, overwritten=True)
    measure("a run of one, overwritten", 1, 1024, overwritten=True)


if __name__ == "__main__":
    main()
