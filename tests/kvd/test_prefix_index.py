"""Prefixes: what the index finds is what trying every prefix finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvd.prefix_index import PrefixIndex

_WORDS = st.text("ab:", max_size=6).map(str.encode)


@given(prefixes=st.lists(_WORDS), removed=st.lists(_WORDS), subject=_WORDS)
def test_the_index_finds_what_trying_every_prefix_finds(
    prefixes: list[bytes], removed: list[bytes], subject: bytes
) -> None:
    index: PrefixIndex[bytes] = PrefixIndex()
    model = {}
    for prefix in prefixes:
        index.put(prefix, prefix + b"!")
        model[prefix] = prefix + b"!"
    for prefix in removed:
        if prefix in model:
            index.delete(prefix)
            del model[prefix]
    expected = {(prefix, value) for prefix, value in model.items() if subject.startswith(prefix)}
    assert set(index.matching(subject)) == expected
    assert bool(index) == bool(model)
    assert all(index.get(prefix) == model.get(prefix) for prefix in prefixes)
