"""What a namespace may ask for, as text and as behaviour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ValueTooLong
from storage.policy import DEFAULT_POLICY, HISTORY_MAX, Policy
from storage.store import Store
from tests.storage.engines import EngineRig
from tests.storage.helpers import findings, value_of

POLICIES = st.builds(
    Policy,
    replicate=st.sampled_from(["all", "none"]),
    value_bytes_max=st.none() | st.integers(1, 2**40),
    conflict_log=st.booleans(),
    history=st.integers(0, HISTORY_MAX),
)


@given(POLICIES)
def test_a_policy_comes_back_from_its_text(policy: Policy) -> None:
    assert Policy.decode(policy.encode()) == policy


def test_the_default_needs_no_text() -> None:
    assert DEFAULT_POLICY.encode() is None
    assert Policy.decode(None) == DEFAULT_POLICY


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"7",
        b"[]",
        b"not json",
        b"\xff",
        b'{"replicate":"some"}',
        b'{"replicate":["none"]}',
        b'{"value_bytes_max":-1}',
        b'{"value_bytes_max":true}',
        b'{"value_bytes_max":"1"}',
        b'{"conflict_log":0}',
        b'{"history":-1}',
        b'{"history":true}',
        b'{"history":"5"}',
        b'{"history":2.5}',
        b'{"unknown":1}',
    ],
)
def test_what_makes_no_sense_asks_for_nothing(text: bytes) -> None:
    assert Policy.decode(text) == DEFAULT_POLICY


def test_a_text_without_a_history_asks_for_none_and_one_with_too_many_for_as_many_as_there_may_be() -> None:
    assert Policy.decode(b'{"replicate":"none","value_bytes_max":null,"conflict_log":true}').history == 0
    assert Policy.decode(b'{"history":1000000}').history == HISTORY_MAX


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_text_is_an_error(text: bytes) -> None:
    Policy.decode(text)


@pytest.mark.parametrize("replicate", ["all", "none"])
def test_a_namespace_has_a_limit_of_its_own(store: Store, rig: EngineRig, replicate: str) -> None:
    small = store.keyspaces.create("small", Policy(replicate, value_bytes_max=4))
    store.keyspace(0).put(b"k", b"12345")
    small.put(b"k", b"1234")
    small.put(b"t", b"1234", store.now_ms + 1000)
    for write in (small.put, small.update):
        for key in (b"k", b"t", b"new"):
            with pytest.raises(ValueTooLong):
                write(key, b"12345")
    store.limits.value_bytes_max = 3
    with pytest.raises(ValueTooLong):
        small.put(b"k", b"1234")
    store.limits.value_bytes_max = 100
    small.put(b"k", b"4321")
    store.commit()
    assert findings(store) == []
    store.close()
    again = Store(rig.open())
    found = again.keyspaces.find("small")
    assert found is not None
    assert value_of(found, b"k") == b"4321"
    with pytest.raises(ValueTooLong):
        found.put(b"k", b"12345")
    again.close()


def test_a_policy_may_change_and_where_the_records_go_may_not(store: Store, rig: EngineRig) -> None:
    made = store.keyspaces.create("here", Policy("none", value_bytes_max=4))
    store.keyspaces.change(made.id, value_bytes_max=6, conflict_log=False, history=0)
    store.keyspaces.change(made.id, value_bytes_max=6, conflict_log=False, history=0)
    store.keyspaces.rename(made.id, "there")
    assert made.policy == Policy("none", value_bytes_max=6, conflict_log=False)
    made.put(b"k", b"123456")
    store.commit()
    store.keyspaces.change(made.id, value_bytes_max=None, conflict_log=True, history=0)
    store.poison("a test")
    with pytest.raises(Exception, match="a test"):
        store.commit()
    assert made.policy == Policy("none", value_bytes_max=6, conflict_log=False)
    with pytest.raises(ValueTooLong):
        made.put(b"k", b"1234567")
    store.close()
    again = Store(rig.open())
    found = again.keyspaces.find("there")
    assert found is not None
    assert found.policy == Policy("none", value_bytes_max=6, conflict_log=False)
    assert found.is_local
    again.close()
