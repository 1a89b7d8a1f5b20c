"""What the log and the status tell of a sync that takes long."""

from __future__ import annotations

from typing import Any, Final

import attrs
from structlog.testing import capture_logs

from replication.rejoin import Standing
from tests.replication.lab import FAST, Lab, is_equal, ready

KEYS: Final = 40
# A thousand bytes a key, so that a sync takes some twenty seconds.
SLOW: Final = attrs.evolve(FAST, sync_rate_max=2000, sync_batch_bytes=2000, sync_timeout=60.0)


def write(lab: Lab, name: str) -> None:
    for number in range(KEYS):
        lab[name].put(f"{chr(0x21 + 2 * number)}", bytes(1000))


def told(lines: list[Any], *, full: bool) -> list[Any]:
    """Return the lines about progress, after having compared what they tell with what a reader expects."""
    found = [line for line in lines if line["event"] == "sync goes on"]
    assert all(line["full"] is full and line["peer"] == b"a".ljust(4, b"\0").hex() for line in found)
    for amount in ("percent", "changes", "bytes"):
        amounts = [line[amount] for line in found]
        assert amounts == sorted(set(amounts))
    assert all(0 < line["percent"] < 100 for line in found)
    return found


def test_the_log_tells_how_far_a_node_is_that_joins() -> None:
    lab = Lab("a", options=SLOW)
    write(lab, "a")
    lab.add("b")
    lab.link_all()
    with capture_logs() as lines:
        lab.run(16.0)
    assert lab["b"].replicator.rejoin.standing is Standing.JOINING
    assert len(told(lines, full=True)) == 3  # five seconds apart


def test_the_log_tells_how_far_a_node_is_that_catches_up() -> None:
    lab = ready(Lab("a", "b", options=SLOW))
    lab.cut(lab.wire("a", "b"))
    write(lab, "a")
    lab.link("a", "b")
    syncs = lab["b"].replicator.syncs
    with capture_logs() as lines:
        lab.run(10.5)
        (progress,) = syncs.progress()
        assert progress.node == lab["a"].id
        assert 0.4 < progress.fraction < 0.7  # as much as has come of what will
        assert abs(progress.fraction - progress.changes / KEYS) < 0.1
        lab.run(20.0)
    assert is_equal([lab["a"], lab["b"]])
    assert syncs.progress() == []
    assert len(told(lines, full=False)) in {3, 4}
    assert next(line["bytes"] for line in lines if line["event"] == "synced") > 40_000


def test_the_log_says_nothing_of_a_short_sync() -> None:
    lab = ready(Lab("a", "b"))
    lab.cut(lab.wire("a", "b"))
    write(lab, "a")
    lab.link("a", "b")
    with capture_logs() as lines:
        lab.run(20.0)
    assert is_equal([lab["a"], lab["b"]])
    assert told(lines, full=False) == []


def test_what_was_overwritten_meanwhile_counts_as_passed() -> None:
    lab = ready(Lab("a", "b", options=SLOW))
    lab.cut(lab.wire("a", "b"))
    for _ in range(10):
        write(lab, "a")
    lab.link("a", "b")
    lab.run(15.0)
    (progress,) = lab["b"].replicator.syncs.progress()
    assert progress.fraction > 0.9  # nine of ten dots are gone, and lie before those that are left
