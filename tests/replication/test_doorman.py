"""Who may begin a handshake, and who has to wait."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from replication.doorman import (
    DELAY_MAX_SECONDS,
    DELAY_MIN_SECONDS,
    FREE_FAILURES,
    RECORDS_MAX,
    Doorman,
    delay_after,
)

HOST: Final = "192.0.2.1"


def fail(doorman: Doorman, host: str, now: float, times: int = 1) -> None:
    for _ in range(times):
        assert doorman.enter(host, now)
        doorman.leave(host, now, failed=True)


def test_some_failures_are_free() -> None:
    doorman = Doorman()
    fail(doorman, HOST, 0.0, FREE_FAILURES)
    assert doorman.enter(HOST, 0.0)


def test_more_failures_cost_more_time() -> None:
    doorman = Doorman()
    fail(doorman, HOST, 0.0, FREE_FAILURES + 1)
    assert not doorman.enter(HOST, DELAY_MIN_SECONDS - 0.01)
    fail(doorman, HOST, DELAY_MIN_SECONDS)
    assert not doorman.enter(HOST, 3 * DELAY_MIN_SECONDS - 0.01)
    assert doorman.enter(HOST, 3 * DELAY_MIN_SECONDS)
    assert doorman.refused_count == 2


def test_the_delay_grows_to_a_bound() -> None:
    delays = [delay_after(count) for count in range(60)]
    assert delays == sorted(delays)
    assert delays[FREE_FAILURES] == 0
    assert delays[FREE_FAILURES + 1] == DELAY_MIN_SECONDS
    assert delays[-1] == delay_after(10**6) == DELAY_MAX_SECONDS


def test_a_success_clears_the_record() -> None:
    doorman = Doorman()
    fail(doorman, HOST, 0.0, FREE_FAILURES)
    assert doorman.enter(HOST, 0.0)
    doorman.leave(HOST, 0.0, failed=False)
    fail(doorman, HOST, 0.0, FREE_FAILURES)
    assert doorman.enter(HOST, 0.0)


def test_one_address_does_not_delay_another() -> None:
    doorman = Doorman()
    fail(doorman, HOST, 0.0, FREE_FAILURES + 1)
    assert doorman.enter("192.0.2.2", 0.0)


def test_an_ipv6_network_is_one_address() -> None:
    doorman = Doorman(per_address_max=1)
    assert doorman.enter("2001:db8::1", 0.0)
    assert not doorman.enter("2001:db8::ffff:2", 0.0)
    assert doorman.enter("2001:db8:0:1::1", 0.0)
    assert doorman.enter("fe80::1%eth0", 0.0)


def test_half_open_connections_are_bounded() -> None:
    doorman = Doorman(half_open_max=3, per_address_max=2)
    assert doorman.enter(HOST, 0.0)
    assert doorman.enter(HOST, 0.0)
    assert not doorman.enter(HOST, 0.0)
    assert doorman.enter("192.0.2.2", 0.0)
    assert not doorman.enter("192.0.2.3", 0.0)
    doorman.leave(HOST, 0.0, failed=False)
    assert doorman.enter("192.0.2.3", 0.0)
    assert doorman.half_open_count == 3


def test_what_is_remembered_is_bounded() -> None:
    doorman = Doorman()
    assert doorman.enter("inside", 0.0)
    for number in range(2 * RECORDS_MAX):
        fail(doorman, f"host-{number}", 0.0)
    assert len(doorman._records) <= RECORDS_MAX
    doorman.leave("inside", 0.0, failed=False)  # whoever is inside is not forgotten


def test_old_failures_are_forgotten() -> None:
    doorman = Doorman()
    for number in range(100):
        fail(doorman, f"host-{number}", 0.0)
    for number in range(100):
        fail(doorman, "other", 1000.0 * (number + 1))
    assert len(doorman._records) <= 2


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.floats(0, 10)), max_size=60))
def test_counts_return_to_nothing(visits: list[tuple[str, bool, float]]) -> None:
    doorman = Doorman(half_open_max=4, per_address_max=2)
    inside: list[str] = []
    now = 0.0
    for host, failed, seconds in visits:
        now += seconds
        if inside and failed:
            doorman.leave(inside.pop(0), now, failed=failed)
        if doorman.enter(host, now):
            inside.append(host)
        assert doorman.half_open_count == len(inside) <= 4
        assert max([0, *(inside.count(name) for name in "abc")]) <= 2
    for host in inside:
        doorman.leave(host, now, failed=False)
    assert doorman.half_open_count == 0
