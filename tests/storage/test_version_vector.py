"""Version vectors: what they say, and that what is equal is kept once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.changes import VersionVector

ORIGINS = [bytes([number]) * 16 for number in range(5)]
VECTORS = st.dictionaries(st.sampled_from(ORIGINS), st.integers(0, 4)).map(VersionVector)


@given(VECTORS, VECTORS)
def test_merging_and_what_is_common_are_pointwise(left: VersionVector, right: VersionVector) -> None:
    for origin in ORIGINS:
        assert left.merged(right)[origin] == max(left[origin], right[origin])
        assert left.common(right)[origin] == min(left[origin], right[origin])
        assert left.beyond(right)[origin] == (left[origin] if left[origin] > right[origin] else 0)
    assert (left.merged(right) is left) == left.covers(right)
    assert right.merged(left.beyond(right)) == left.merged(right)


@given(VECTORS, VECTORS)
def test_sharing_changes_nothing_but_the_objects(left: VersionVector, right: VersionVector) -> None:
    copy = VersionVector({bytes(bytearray(origin)): seq for origin, seq in left.items()})
    shared = copy.sharing(right)
    assert shared == left
    assert (shared is right) == (left == right)
    objects = {origin: origin for origin in right}
    assert all(origin is objects[origin] for origin in shared if origin in objects)
