"""The same writes make the same bytes, whatever hashes are seeded with: the simulator counts on it."""

from __future__ import annotations

import os
import subprocess
import sys

_SCRIPT = """
from hashlib import sha256
from storage.changes import VersionVector
from tests.storage.replicas import NOW_MS, Members, Node

nodes = [Node(b"a"), Node(b"b"), Node(b"c")]
for step in range(120):
    node = nodes[step % 3]
    node.store.begin(NOW_MS + step * 2_000)
    key = b"%d" % (step * 7 % 11)
    node.put(key, b"v%d" % step, NOW_MS + step * 2_000 + 50_000 if step % 4 == 0 else 2**63 - 1)
    if step % 9 == 0:
        node.store.keyspace(step % 4).flush()
    if step % 13 == 0:
        node.store.keyspaces.create("space %d" % step).put(key, b"x")
    if step % 5 == 0:
        node.store.keyspace(0).delete(b"%d" % (step % 11))
    runs = node.commit()
    other = nodes[(step + 1) % 3]
    other.store.begin(NOW_MS + step * 2_000)
    if step % 6 < 3:
        other.receive(runs)
    else:
        other.sync_from(node)
    if step % 20 == 0:
        for each in nodes:
            each.replica.set_purging(Members(hold=True))
            each.store.sweep(100)
shown = sha256()
for node in nodes:
    for family, rows in node.engine.image().items():
        shown.update(repr((family, sorted(rows.items()))).encode())
    feed = node.replica.feed()
    shown.update(repr(list(feed.runs_after(VersionVector()))).encode())
    shown.update(repr(list(feed.runs_by_place(b""))).encode())
    shown.update(repr((list(feed.vector().items()), list(node.replica.own_origins()))).encode())
    shown.update(repr([operations for operations in node.engine.tail]).encode())
print(shown.hexdigest())
"""


def test_nothing_depends_on_the_order_of_hashes() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    assert len(found[0].strip()) == 64
