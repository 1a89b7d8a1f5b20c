"""What is left after a kill and after a power cut."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.engine_memory import MemoryEngine
from storage.store import Store, StoreOptions
from tests.storage.conftest import NOW_MS
from tests.storage.helpers import findings, value_of

# Each tick writes one number under three keys, one of them with an expiry, deletes one and tells when that
# is committed.
WRITER = """
import sys, time
from storage.store import Store
store = Store.open(sys.argv[1])
keyspace = store.keyspace(0)
number = int(sys.argv[2])
while True:
    number += 1
    store.begin(time.time_ns() // 1_000_000)
    text = b"%d" % number
    with store.atomic():
        for key in (b"first", b"second", b"key %d" % (number % 50)):
            keyspace.put(key, text)
        keyspace.put(b"third", text, store.now_ms + 60_000)
        keyspace.delete(b"key %d" % (number % 7))
    if number % 20 == 0:
        keyspace.flush()
        keyspace.put(b"first", text)
        keyspace.put(b"second", text)
        keyspace.put(b"third", text)
    store.commit()
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_and_leaves_nothing_half(tmp_path: Path) -> None:
    acknowledged = 0
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(acknowledged)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        ticks = random.randrange(50, 300)
        for line in writer.stdout:
            acknowledged = int(line)
            ticks -= 1
            if ticks == 0:
                writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        store = Store.open(tmp_path)
        keyspace = store.keyspace(0)
        values = {value_of(keyspace, key) for key in (b"first", b"second", b"third")}
        assert len(values) == 1
        (value,) = values
        assert value is not None
        assert int(value) >= acknowledged
        acknowledged = int(value)
        assert findings(store) == []
        store.close()


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_a_power_cut_takes_only_what_may_be_taken(durability: str) -> None:
    for keep in range(6):
        engine = MemoryEngine()
        store = Store(engine, StoreOptions(durability=durability), now_ms=NOW_MS)
        for number in range(10):
            with store.atomic():
                store.keyspace(0).put(b"a", b"%d" % number)
                store.keyspace(1).put(b"b", b"%d" % number)
            store.commit()
            if number == 5:
                store.sync()
        engine.crash(keep)
        again = Store(engine, now_ms=NOW_MS)
        wanted = 9 if durability == "always" else min(5 + keep, 9)
        assert value_of(again.keyspace(0), b"a") == value_of(again.keyspace(1), b"b") == b"%d" % wanted
        assert findings(again) == []
