"""The load notices what it is there to notice: writes that are lost, and such as come back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster_live.harness import Cluster
from tests.cluster_live.load import Load, Shared, Stamp

WRITES = Shared([((5, 0), "first"), ((7, 1), "last"), ((7, 0), "middle")], ["unsure"])
DELETED = Shared([((5, 0), "first"), ((7, 1), None)])


@pytest.mark.parametrize(("value", "stamp"), [("last", (7, 1)), ("unsure", (8, 0))])
def test_the_last_write_may_be_there_or_a_later_one_without_an_answer(value: str, stamp: Stamp) -> None:
    WRITES.check("key", value, stamp)


@pytest.mark.parametrize(
    ("value", "stamp"),
    [
        (None, None),
        ("middle", (7, 0)),
        ("first", (9, 0)),
        ("never written", (9, 0)),
        ("unsure", (6, 0)),
        ("last", (6, 0)),
    ],
)
def test_anything_else_is_a_lost_write(value: str | None, stamp: Stamp | None) -> None:
    with pytest.raises(AssertionError, match="acknowledged last"):
        WRITES.check("key", value, stamp)


def test_what_was_deleted_last_is_not_there() -> None:
    DELETED.check("key", None, None)
    with pytest.raises(AssertionError, match="acknowledged last"):
        DELETED.check("key", "first", (5, 0))


def test_of_two_writes_at_the_same_moment_either_may_win() -> None:
    both = Shared([((5, 0), "one"), ((5, 0), None)])
    both.check("key", "one", (5, 0))
    both.check("key", None, None)


def test_a_write_that_a_real_daemon_loses_is_noticed(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster, cluster[0].client() as client:
        with Load(cluster.nodes) as load:
            time.sleep(0.5)
        load.check(cluster)
        kept = next(key for key in client.scan_iter("shared:*"))
        before = client.getset(kept, "from nowhere")
        with pytest.raises(AssertionError, match=f"{kept} is from nowhere"):
            load.check(cluster)
        client.set(kept, before)
        load.check(cluster)
        client.delete(kept)
        with pytest.raises(AssertionError, match=f"{kept} is None"):
            load.check(cluster)
