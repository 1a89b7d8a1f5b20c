"""How long a suspicion lasts, and how far a node trusts its own judgement."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.health import Health
from replication.options import Options
from replication.suspicion import CONFIRMATIONS_WANTED, Suspicion, shortest_wait

OPTIONS = Options()


def test_an_unconfirmed_suspicion_lasts_six_times_as_long_as_a_confirmed_one() -> None:
    suspicion = Suspicion(b"a", 100.0, OPTIONS, count=10)
    assert suspicion.deadline == 100.0 + 6 * 4.0
    assert suspicion.confirm(b"b")
    assert suspicion.confirm(b"c")
    assert suspicion.deadline == 100.0 + 4.0


def test_one_accuser_counts_once() -> None:
    suspicion = Suspicion(b"a", 0.0, OPTIONS, count=10)
    assert not suspicion.confirm(b"a")
    assert suspicion.confirm(b"b")
    assert not suspicion.confirm(b"b")


def test_of_two_members_none_can_confirm_so_the_short_wait_holds_from_the_start() -> None:
    assert Suspicion(b"a", 0.0, OPTIONS, count=2).deadline == 4.0


def test_the_wait_grows_with_the_logarithm_of_the_members() -> None:
    assert [shortest_wait(OPTIONS, count) for count in (1, 10, 100, 1000)] == [4.0, 4.0, 8.0, 12.0]


def test_a_delay_of_this_node_delays_the_end() -> None:
    suspicion = Suspicion(b"a", 0.0, OPTIONS, count=2)
    suspicion.delay(40.0)
    assert suspicion.deadline == 44.0


@given(st.integers(2, 1000), st.lists(st.binary(min_size=1, max_size=1), max_size=10))
def test_confirmations_only_ever_shorten_the_wait_and_only_so_far(count: int, accusers: list[bytes]) -> None:
    suspicion = Suspicion(b"first", 0.0, OPTIONS, count)
    before = suspicion.deadline
    effective = 0
    for accuser in accusers:
        effective += suspicion.confirm(accuser)
        assert shortest_wait(OPTIONS, count) <= suspicion.deadline <= before
        before = suspicion.deadline
    assert effective <= CONFIRMATIONS_WANTED


@given(st.lists(st.integers(-1, 12)))
def test_health_stays_in_its_bounds(steps: list[int]) -> None:
    health = Health(8)
    for step in steps:
        if step < 0:
            health.improve()
        else:
            health.worsen(step)
        assert 0 <= health.score <= 8
        assert health.multiplier == 1 + health.score
