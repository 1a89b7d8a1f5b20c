"""How long slices are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from kvd.web.jobs import SHARED_SLICE_BYTES, SLICE_BYTES, Pace, Slice

MS = 1_000_000


def pace(served_count: int) -> tuple[Pace, Any]:
    hub = SimpleNamespace(served_count=served_count)
    return Pace(cast(Any, SimpleNamespace(hub=hub))), hub


def test_slices_are_brief_while_others_are_served_and_a_moment_longer() -> None:
    shared, hub = pace(2)
    brief = shared.limits(0)
    hub.served_count = 1
    assert shared.limits(9 * MS) == brief
    alone = shared.limits(11 * MS)
    assert alone[0] > brief[0]
    assert alone[1] > brief[1]
    hub.served_count = 33
    assert shared.limits(12 * MS) == brief


def test_a_slice_is_over_after_so_many_bytes() -> None:
    for served_count, size in ((1, SLICE_BYTES), (2, SHARED_SLICE_BYTES)):
        part = Slice(pace(served_count)[0])
        assert part.is_full(size)
        part.renew()
        assert part.is_full(size + 1)


def test_a_slice_is_over_after_its_time() -> None:
    part = Slice(pace(2)[0])
    while not part.is_full(0):
        pass
