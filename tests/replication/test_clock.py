"""The clock gate: offsets, the hold, the start, and jumps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.clock import SAMPLE_AGE_MAX, ClockGate, Sample, median
from replication.options import Options
from tests.replication.mesh import WALL_START_MS, Mesh, MeshNode, hello_of, link_to, node_id

LATER = 1.0  # between two judgements


def lone(*, members: int = 1, **changes: Any) -> MeshNode:
    """Return a node that knows others, and is linked with none."""
    mesh = Mesh()
    node = mesh.add(join=(), **changes)
    for number in range(1, members):
        node.roster.admit(node_id(number), mesh.now)
    return node


def measure(node: MeshNode, number: int, offset_ms: int, *, rtt: float = 0.01) -> None:
    """Let a peer answer a ping whose clock is `offset_ms` ahead of the node's."""
    middle = node.wall_ms + offset_ms + int(rtt * 500)
    node.mesh.now += LATER
    node.clock.on_round_trip(
        node_id(number),
        sent_ms=node.wall_ms - int(LATER * 1000),
        received_ms=middle,
        replied_ms=middle,
        rtt=rtt,
        now=node.mesh.now,
    )


def refusal(node: MeshNode) -> str | None:
    return node.clock.refusal(node.mesh.now, node.wall_ms)


def test_a_node_whose_clock_differs_from_two_peers_refuses_writes() -> None:
    node = lone()
    measure(node, 1, 10_000)
    assert refusal(node) is None  # one peer cannot tell who is wrong
    measure(node, 2, 10_000)
    assert not node.clock.clock_ok
    text = refusal(node)
    assert text is not None
    assert text.startswith("CLOCKSKEW this node's clock is 10.0 s behind")


def test_one_wrong_peer_of_two_does_not_close_the_gate() -> None:
    node = lone()
    measure(node, 1, 10_000)
    measure(node, 2, 3)
    assert node.clock.clock_ok
    assert refusal(node) is None


def test_the_gate_opens_again_well_below_the_limit_only() -> None:
    node = lone()
    for offset in (1500, 900):
        for number in (1, 2, 3):
            for _ in range(5):
                measure(node, number, offset)
        assert not node.clock.clock_ok
    for number in (1, 2, 3):
        for _ in range(5):
            measure(node, number, 300)
    assert node.clock.clock_ok


def test_a_few_of_many_members_must_differ_by_more() -> None:
    few, many = lone(members=3), lone(members=8)
    for node in (few, many):
        measure(node, 1, 1500)
        measure(node, 2, 1500)
    assert not few.clock.clock_ok
    assert many.clock.clock_ok
    measure(many, 2, 2500)
    measure(many, 3, 2500)
    measure(many, 1, 2500)
    assert not many.clock.clock_ok


def test_it_takes_more_than_half_of_all_clocks_to_close_a_gate() -> None:
    node = lone()
    for number, offset in enumerate((10_000, 10_000, 0), 1):
        measure(node, number, offset)
    assert node.clock.clock_ok
    measure(node, 4, 10_000)
    assert not node.clock.clock_ok


def test_a_slow_round_trip_is_no_proof() -> None:
    node = lone()
    for number in (1, 2, 3):
        measure(node, number, 1500, rtt=2.0)
    assert node.clock.clock_ok


def test_a_policy_of_warn_lets_writes_through() -> None:
    node = lone(on_skew="warn")
    measure(node, 1, 10_000)
    measure(node, 2, 10_000)
    assert not node.clock.clock_ok
    assert refusal(node) is None


def test_old_measurements_are_forgotten() -> None:
    node = lone()
    measure(node, 1, 10_000)
    measure(node, 2, 10_000)
    node.mesh.now += SAMPLE_AGE_MAX + 1
    node.clock.tick(node.mesh.now)
    assert node.clock.clock_ok
    assert node.clock.median is None


def test_what_is_too_far_ahead_waits_until_the_clock_is_there() -> None:
    node = lone()
    wall_ms = node.wall_ms
    assert node.clock.held_seconds((wall_ms + 60_000) << 16, wall_ms) == 0
    assert node.clock.held_seconds((wall_ms + 90_000) << 16, wall_ms) == pytest.approx(30.0)
    assert node.clock.held_seconds((wall_ms - 90_000) << 16, wall_ms) == 0


def test_a_clock_value_beyond_the_hold_is_not_adopted() -> None:
    node = lone()
    before = node.records.hlc
    node.clock.observe((node.wall_ms + 86_400_000) << 16)
    assert node.records.hlc == before
    near = (node.wall_ms + 500) << 16
    node.clock.observe(near)
    assert node.records.hlc == near


# --- the start


def test_a_node_alone_writes_at_once() -> None:
    assert refusal(lone()) is None


def test_a_node_that_knows_others_waits_for_one_of_them() -> None:
    node = lone(members=3)
    node.clock.tick(node.mesh.now)
    text = refusal(node)
    assert text is not None
    assert text.startswith("LOADING ")
    hlc = (node.wall_ms + 700) << 16
    link_to(node, 1, hlc=hlc)
    assert refusal(node) is None
    assert node.records.hlc >= hlc


def test_if_nobody_answers_it_writes_unless_its_clock_is_behind_its_disk() -> None:
    node = lone(members=3)
    node.clock.tick(node.mesh.now)
    node.records.hlc = (node.wall_ms + 3_600_000) << 16
    node.mesh.now += 6
    text = refusal(node)
    assert text is not None
    assert text.startswith("CLOCKSKEW no other member answers")
    node.skew_ms = 3_600_001
    assert refusal(node) is None


def test_once_open_the_start_gate_stays_open() -> None:
    node = lone(members=3)
    node.clock.tick(node.mesh.now)
    node.mesh.now += 6
    assert node.clock.may_write(node.mesh.now, node.wall_ms)
    node.records.hlc = (node.wall_ms + 50) << 16  # of an own write
    assert node.clock.may_write(node.mesh.now, node.wall_ms)


@pytest.mark.parametrize("members", [1, 3])
def test_a_clock_behind_the_software_itself_never_stamps(members: int) -> None:
    node = lone(members=members, built_at_ms=WALL_START_MS)
    node.skew_ms = -WALL_START_MS
    node.clock.tick(node.mesh.now)
    node.mesh.now += 60
    link_to(node, 1)
    text = refusal(node)
    assert text is not None
    assert text.startswith("CLOCKSKEW ")


# --- jumps


def test_a_jump_is_reported_and_moves_what_was_measured() -> None:
    node = lone()
    jumps: list[float] = []
    node.clock.on_jump = jumps.append
    node.clock.tick(node.mesh.now)
    for number in (1, 2):
        measure(node, number, 0)
    node.skew_ms = 10_000
    node.clock.tick(node.mesh.now)
    assert jumps == [pytest.approx(10.0)]
    assert not node.clock.clock_ok
    assert node.clock.offset(node_id(1)) == pytest.approx(-10.0, abs=0.01)


def test_what_is_measured_after_a_jump_is_not_moved_when_it_is_noticed() -> None:
    node = lone()
    node.clock.tick(node.mesh.now)
    measure(node, 1, 0)
    node.skew_ms -= 86_400_000
    measure(node, 2, 0)
    measure(node, 3, 0)
    node.clock.tick(node.mesh.now)
    assert [node.clock.offset(node_id(number)) for number in (2, 3)] == [pytest.approx(0.0, abs=0.1)] * 2
    assert refusal(node) is None


def test_a_ping_during_which_the_clock_jumps_measures_nothing() -> None:
    node = lone()
    sent_ms = node.wall_ms
    node.skew_ms -= 86_400_000
    node.clock.on_round_trip(
        node_id(1), sent_ms=sent_ms, received_ms=sent_ms, replied_ms=sent_ms, rtt=0.01, now=node.mesh.now
    )
    assert node.clock.offset(node_id(1)) is None


def test_a_slow_drift_is_no_jump() -> None:
    node = lone()
    jumps: list[float] = []
    node.clock.on_jump = jumps.append
    for _ in range(100):
        node.mesh.now += 1
        node.skew_ms += 400
        node.clock.tick(node.mesh.now)
    assert jumps == []


# --- in a cluster


def gates(mesh: Mesh) -> list[bool]:
    return [node.clock.clock_ok for node in mesh.nodes]


def test_only_the_node_whose_clock_is_wrong_refuses_writes() -> None:
    mesh = Mesh()
    for _ in range(3):
        mesh.add()
    mesh.nodes[2].skew_ms = 10_000
    mesh.run(40)
    assert gates(mesh) == [True, True, False]


def test_clocks_that_drift_within_the_limit_close_no_gate() -> None:
    mesh = Mesh()
    for number in range(5):
        mesh.add()
        mesh.nodes[number].skew_ms = (-900, -450, 0, 450, 900)[number]
    mesh.run(60)
    assert gates(mesh) == [True] * 5


def test_a_node_of_1970_is_found_out_by_its_peers() -> None:
    mesh = Mesh()
    for _ in range(3):
        mesh.add(options=Options(built_at_ms=WALL_START_MS))
    mesh.nodes[1].skew_ms = -WALL_START_MS
    mesh.run(40)
    assert gates(mesh) == [True, False, True]
    assert refusal(mesh.nodes[1]) is not None
    assert refusal(mesh.nodes[0]) is None


samples = st.lists(
    st.builds(Sample, st.floats(-100, 100), st.floats(0, 1), st.just(0.0)), min_size=1, max_size=9
)


@given(samples)
def test_the_median_has_no_more_samples_above_it_than_below_it(found: list[Sample]) -> None:
    middle = median(found)
    above = sum(sample.offset > middle.offset for sample in found)
    below = sum(sample.offset < middle.offset for sample in found)
    assert 2 * above <= len(found)
    assert 2 * below <= len(found)


@given(samples)
def test_the_median_treats_fast_and_slow_alike(found: list[Sample]) -> None:
    mirrored = [Sample(-sample.offset, sample.uncertainty, sample.at) for sample in found]
    assert abs(median(mirrored).offset) == abs(median(found).offset)


@given(st.integers(-10_000_000, 10_000_000), st.integers(0, 65535))
def test_the_hold_is_what_is_left_beyond_its_limit(ahead_ms: int, counter: int) -> None:
    gate: ClockGate = lone().clock
    hlc = (WALL_START_MS + ahead_ms) << 16 | counter
    assert gate.held_seconds(hlc, WALL_START_MS) == pytest.approx(max(0.0, ahead_ms / 1000 - 60))


def test_a_greeting_carries_the_measured_round_trip_to_the_gate() -> None:
    mesh = Mesh()
    for _ in range(2):
        mesh.add()
    mesh.nodes[1].skew_ms = 250
    mesh.run(5)
    assert mesh.nodes[0].clock.offset(mesh.nodes[1].id) == pytest.approx(0.25, abs=0.005)
    assert hello_of(1).wall_ms == WALL_START_MS
