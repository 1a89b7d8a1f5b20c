"""Open: what a node that has caught up at two servers, one of them behind, says that it has purged up to."""

from __future__ import annotations

import attrs

from replication import messages as m
from replication.rejoin import Standing
from tests.replication.lab import FAST, Lab, ready
from tests.replication.test_breaks import standing
from tests.replication.test_past import kept_back, purge


def test_what_a_member_wrote_is_not_undone_by_who_catches_up_from_a_node_that_had_two_servers() -> None:
    options = attrs.evolve(FAST, sync_credit_bytes=2000, sync_batch_bytes=2000)
    lab = ready(Lab("a", "b", "c", "w", options=options))
    for number in range(20):
        lab["a"].put(f"fill{number:02}", "x" * 1000)
    lab["a"].put("gone", "1")
    lab.run(1.0)
    for pair in ("aw", "bc", "ab", "cw"):
        lab.cut(lab.wire(*pair))
    lab["w"].put("key", "1")
    lab.run(0.3)
    lab.cut(lab.wire("b", "w"))  # what "b" has is a backup from now on
    lab.cut(lab.wire("a", "c"))
    lab.link("a", "w")
    lab.run(1.0)
    assert lab["a"].get("key") == b"1"
    lab.cut(lab.wire("a", "w"))
    to_c = lab.link("a", "c")
    kept_back(to_c, "a", m.SyncStart, m.SyncBatch, m.SyncEnd)
    kept_back(to_c, "c", m.Pull)
    lab.run(0.3)
    purge(lab, "gone")  # "c" has the deletion; "key", which is older, has not come to it yet
    assert lab["c"].get("gone") is None
    assert lab["c"].get("key") is None
    lab.cut(to_c)
    new = lab.add("n")
    from_a = lab.link("a", "n")
    from_a.drops = lambda sender, message: isinstance(message, m.Credit)
    lab.run(0.5)
    lab.cut(from_a)
    from_c = lab.link("c", "n")
    lab.run(5.0)
    assert standing(new) == Standing.READY
    lab.cut(from_c)
    lab.link("n", "b")
    lab.run(5.0)
    assert standing(lab["b"]) == Standing.READY
    assert lab["b"].get("key") == b"1"
