"""Which node writes under which origin, by the records of their runs."""

from __future__ import annotations

from typing import Any

import pytest

from replication import messages as m
from replication.writers import RUN
from storage.changes import Lane
from tests.replication.lab import Lab, Node, ready
from tests.replication.model_replica import ModelReplica

BULK, SMALL_OF_GROUP, BULK_OF_GROUP = (
    b"b" * 16,
    b"\xf5grp\x00\x07" + b"s" * 10,
    b"\xf5grp\x00\x07" + b"b" * 10,
)


class OfGroup(ModelReplica):
    """The store of a node as one that has written in a further group."""

    def origin(self, lane: Lane) -> bytes | None:
        return SMALL_OF_GROUP if lane is Lane.SMALL else None


@pytest.fixture
def two() -> Lab:
    return ready(Lab("a", "b"))


def tell(node: Node, record: bytes) -> None:
    node.replica.put_system(RUN + node.id, record)
    node.put("key", "1")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"bulk": BULK}, {BULK}),  # as a node without further groups says it, of this version or before
        ({"others": [SMALL_OF_GROUP, BULK_OF_GROUP]}, {SMALL_OF_GROUP, BULK_OF_GROUP}),
        ({"bulk": BULK, "others": [SMALL_OF_GROUP]}, {BULK, SMALL_OF_GROUP}),
        ({"bulk": BULK, "others": 7}, {BULK}),
        ({"bulk": 7, "others": [7, SMALL_OF_GROUP]}, {SMALL_OF_GROUP}),
    ],
)
def test_a_record_names_the_origins_of_all_groups(
    two: Lab, fields: dict[str, Any], named: set[bytes]
) -> None:
    tell(two["a"], m.encode_record(fields))
    two.run(1.0)
    writer_of = two["b"].replicator.writers.writer_of
    found = {origin for origin in (BULK, SMALL_OF_GROUP, BULK_OF_GROUP) if writer_of(origin) == two["a"].id}
    assert found == named


def test_a_record_that_cannot_be_read_names_none(two: Lab) -> None:
    tell(two["a"], b"\xff")
    two.run(1.0)
    assert two["b"].replicator.writers.writer_of(BULK) is None


def test_a_node_tells_of_what_it_has_written_in_further_groups(two: Lab) -> None:
    a, b = two["a"], two["b"]
    a.put("key", "1")
    two.run(1.0)
    own = a.replica.origin(Lane.SMALL)
    assert own is not None
    assert b.replicator.writers.writer_of(own) == a.id
    a.replicator.writers.others = lambda: [OfGroup(a.id)]
    assert a.replicator.writers.is_due()
    two.run(1.0)
    assert not a.replicator.writers.is_due()
    for node in (a, b):
        assert node.replicator.writers.writer_of(SMALL_OF_GROUP) == a.id
