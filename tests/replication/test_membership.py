"""The table of members and how it follows what is seen and heard: one node, its peers played by the test."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.frames import encode
from replication.membership import (
    ADDRESS_CHARS_MAX,
    EXCESS,
    MEMBERS_MAX,
    OUTBID_MAX,
    compare,
)
from replication.messages import (
    Bye,
    MemberRecord,
    Members,
    Message,
    Ping,
    PingRequest,
    PingResult,
    Pong,
    State,
)
from tests.replication.mesh import (
    WALL_START_MS,
    LoneLink,
    Mesh,
    MeshNode,
    hello_of,
    link_to,
    node_id,
    record_of,
    unlink,
)
from tests.replication.strategies import member_records

NOW_INCARNATION = record_of(1).incarnation


def lone(**changes: Any) -> MeshNode:
    """Return a node whose peers the test plays; dials go nowhere."""
    node = Mesh().add(join=(), **changes)
    node.core.dial = lambda address, peer: node.dials.append((node.mesh.now, address))
    return node


def hear(node: MeshNode, link: LoneLink, *records: MemberRecord, **flags: bool) -> None:
    node.core.now = node.mesh.now
    link.received_bytes += 100
    node.membership.on_members(link, Members(tuple(records), **flags), node.mesh.now)


def run(node: MeshNode, seconds: float, *, answers: bool = True) -> None:
    """Let time pass; the peers answer pings, or nobody does."""
    end = node.mesh.now + seconds
    while node.mesh.now < end:
        node.core.now = node.mesh.now
        at = min(machine.tick(node.mesh.now) for machine in (node.membership, node.topology))
        if answers:
            for link in list(node.core.links.values()):
                assert isinstance(link, LoneLink)
                answer(node, link)
        node.mesh.now = min(max(at, node.mesh.now + 0.01), end)


def answer(node: MeshNode, link: LoneLink) -> None:
    for message in sent(link, Ping):
        link.sent.remove(message)
        link.received_bytes += 100
        node.membership.on_pong(link, pong(node, message), node.mesh.now)


def pong(node: MeshNode, ping: Ping) -> Pong:
    return Pong(ping.number, node.wall_ms, node.wall_ms, 0)


def sent(link: LoneLink, kind: type[Any]) -> list[Any]:
    return [message for message in link.sent if isinstance(message, kind)]


def state(node: MeshNode, number: int) -> State | None:
    return node.membership.state(node_id(number))


def suspect(number: int, accuser: int = 99, **changes: Any) -> MemberRecord:
    return record_of(number, state=State.SUSPECT, accuser=node_id(accuser), **changes)


# --- what is heard


def test_a_peer_is_known_as_soon_as_its_link_is_up() -> None:
    node = lone()
    link_to(node, 1)
    assert state(node, 1) == State.ALIVE


def test_whoever_opened_the_link_sends_the_whole_table() -> None:
    node = lone()
    hear(node, link_to(node, 1), record_of(2))
    opened, accepted = link_to(node, 3, outgoing=True), link_to(node, 4, outgoing=False)
    table = sent(opened, Members)[0]
    assert (table.is_full, table.wants_reply) == (True, True)
    assert {record.node for record in table.members} == {node.id, *map(node_id, (1, 2, 3))}
    assert not sent(accepted, Members)


def test_a_whole_table_is_answered_with_what_is_known_better() -> None:
    node = lone()
    link = link_to(node, 1)
    later = record_of(2, incarnation=NOW_INCARNATION + 5)
    hear(node, link, later, record_of(3))
    link.sent.clear()
    hear(node, link, record_of(1), record_of(2), is_full=True, wants_reply=True)
    reply = sent(link, Members)[0]
    assert not reply.wants_reply
    assert {record.node: record.incarnation for record in reply.members} == {
        node.id: node.membership.incarnation,
        node_id(2): NOW_INCARNATION + 5,
        node_id(3): NOW_INCARNATION,
    }


def test_what_is_known_equally_is_not_answered() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2))
    link.sent.clear()
    hear(node, link, record_of(1), record_of(2), node.membership.own, is_full=True, wants_reply=True)
    assert not sent(link, Members)


def test_a_greater_incarnation_beats_any_state() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2))
    hear(node, link, record_of(2, state=State.UNREACHABLE))
    assert state(node, 2) == State.UNREACHABLE
    hear(node, link, record_of(2, incarnation=NOW_INCARNATION + 1))
    assert state(node, 2) == State.ALIVE


def test_within_an_incarnation_the_worse_state_wins() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2), suspect(2))
    assert state(node, 2) == State.SUSPECT
    hear(node, link, record_of(2))
    assert state(node, 2) == State.SUSPECT


def test_a_stranger_is_not_taken_in_as_dead() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2, state=State.UNREACHABLE), suspect(3))
    assert (state(node, 2), state(node, 3)) == (None, None)
    node.roster.admit(node_id(2), 0.0)
    hear(node, link, record_of(2, state=State.UNREACHABLE))
    assert state(node, 2) == State.UNREACHABLE


def test_whoever_hears_alive_too_late_sends_the_accusation_back() -> None:
    node = lone()
    link = link_to(node, 1)
    held = suspect(2, incarnation=NOW_INCARNATION + 3)
    hear(node, link, record_of(2), held)
    other = link_to(node, 3)
    other.sent.clear()
    hear(node, other, record_of(2))
    assert other.members() == [held]


def test_a_peer_is_told_what_it_is_accused_of_when_it_connects() -> None:
    node = lone()
    link = link_to(node, 1)
    held = record_of(2, state=State.UNREACHABLE, incarnation=NOW_INCARNATION + 3)
    hear(node, link, record_of(2), held)
    for outgoing in (True, False):
        back = link_to(node, 2, outgoing=outgoing)
        assert held in back.members()


def test_accusations_are_passed_to_the_accused_at_once() -> None:
    node = lone()
    link, accused = link_to(node, 1), link_to(node, 2)
    accused.sent.clear()
    hear(node, link, suspect(2))
    assert accused.members() == [suspect(2)]


def test_gossip_of_departures_is_left_to_the_roster() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2))
    for departed in (State.LEFT, State.REMOVED):
        hear(node, link, record_of(2, state=departed, incarnation=NOW_INCARNATION + 9))
        assert state(node, 2) == State.ALIVE


@pytest.mark.parametrize("kind", ["left", "removed"])
def test_departures_are_for_good(kind: Any) -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2))
    node.roster.admit(node_id(2), 0.0)
    node.roster._depart(node_id(2), kind)
    node.membership.tick(node.mesh.now)
    departed = State.LEFT if kind == "left" else State.REMOVED
    assert state(node, 2) == departed
    hear(node, link, record_of(2, incarnation=NOW_INCARNATION + 1000))
    assert state(node, 2) == departed
    link.sent.clear()
    hear(node, link, is_full=True, wants_reply=True)
    assert node_id(2) not in {record.node for record in link.members()}


# --- this node's own record


def test_an_accusation_is_refuted_by_a_greater_incarnation() -> None:
    node = lone()
    link = link_to(node, 1)
    accusation = attrs.evolve(node.membership.own, state=State.SUSPECT, accuser=node_id(1))
    link.sent.clear()
    hear(node, link, accusation)
    run(node, 0.1)
    assert node.membership.own in link.members()
    assert node.membership.incarnation == accusation.incarnation + 1


def test_an_old_accusation_is_answered_and_not_refuted() -> None:
    node = lone()
    link = link_to(node, 1)
    before = node.membership.incarnation
    hear(node, link, attrs.evolve(node.membership.own, state=State.SUSPECT, incarnation=before - 1))
    assert node.membership.incarnation == before
    assert link.members()[-1] == node.membership.own


def test_a_restarted_node_is_greater_than_what_is_said_of_its_earlier_boot() -> None:
    node = lone()
    first = node.membership.own
    node.mesh.now += 0.5
    node.boot_number += 1
    node.start()
    assert compare(node.membership.own, attrs.evolve(first, state=State.UNREACHABLE)) > 0


def test_a_node_whose_clock_went_back_outbids_its_earlier_boot() -> None:
    node = lone()
    first = node.membership.own
    node.skew_ms = -3_600_000
    node.records.hlc = 0
    node.boot_number += 1
    node.start()
    link = link_to(node, 1)
    hear(node, link, attrs.evolve(first, state=State.UNREACHABLE))
    assert compare(node.membership.own, attrs.evolve(first, state=State.UNREACHABLE)) > 0
    assert node.membership.duplicate is None


def test_refutations_are_not_sent_more_often_than_they_matter() -> None:
    node = lone()
    link = link_to(node, 1)
    for _ in range(100):
        hear(node, link, attrs.evolve(node.membership.own, state=State.SUSPECT))
        run(node, 0.01)
    assert node.core.counters["refutations_total"] <= 4
    run(node, 1)
    assert node.core.counters["refutations_total"] <= 5


# --- a node that runs twice


def twin(node: MeshNode, above: int, *, since: int) -> MemberRecord:
    return attrs.evolve(
        node.membership.own, boot=b"t" * 16, incarnation=node.membership.incarnation + above, since_hlc=since
    )


@pytest.mark.parametrize(("since", "refuses"), [(0, True), (2**63, False)])
def test_a_foreign_boot_that_keeps_outbidding_is_a_living_twin(since: int, refuses: bool) -> None:
    node = lone()
    link = link_to(node, 1)
    found: list[MemberRecord] = []
    node.membership.on_duplicate = found.append
    for _ in range(OUTBID_MAX):
        assert node.membership.refusal() is None
        hear(node, link, twin(node, 0, since=since))
        run(node, 1)
    assert len(found) == 1
    assert node.membership.duplicate_node
    text = node.membership.refusal()
    assert (text is not None) == refuses


def test_what_is_left_of_dead_boots_is_no_twin() -> None:
    node = lone()
    link = link_to(node, 1)
    dead = twin(node, 50, since=0)
    for _ in range(20):
        hear(node, link, dead, attrs.evolve(dead, state=State.UNREACHABLE))
        run(node, 1)
    assert not node.membership.duplicate_node


def test_a_direct_meeting_with_the_own_id_is_proof() -> None:
    node = lone()
    own = hello_of(0, boot=node.core.identity.boot)
    node.membership.on_own_id(own)
    assert not node.membership.duplicate_node
    node.membership.on_own_id(attrs.evolve(own, boot=b"t" * 16))
    assert node.membership.duplicate_node


def test_a_boot_that_answers_after_it_was_replaced_gives_a_twin_away() -> None:
    node = lone()
    for boot in (b"1" * 16, b"2" * 16):
        unlink(node, link_to(node, 1, boot=boot))
    assert not node.membership.duplicates
    link = link_to(node, 1, boot=b"1" * 16)
    assert not node.membership.duplicates  # it may be a late arrival
    answer(node, link)
    assert list(node.membership.duplicates) == [node_id(1)]


def test_restarts_do_not_look_like_twins() -> None:
    node = lone()
    for boot in range(30):
        link = link_to(node, 1, boot=bytes([boot]) * 16, incarnation=NOW_INCARNATION + boot)
        answer(node, link)
        unlink(node, link)
    assert not node.membership.duplicate_node


# --- probes


def test_a_silent_peer_is_suspected_after_others_were_asked() -> None:
    node = lone()
    silent = link_to(node, 1)
    others = [link_to(node, number) for number in range(2, 7)]
    answer(node, silent)
    end = node.mesh.now + 10
    while state(node, 1) == State.ALIVE and node.mesh.now < end:
        run(node, 0.02, answers=False)
        for link in others:
            answer(node, link)
    assert state(node, 1) == State.SUSPECT
    asked = [request for link in others for request in sent(link, PingRequest)]
    assert len(asked) == 3
    assert {request.target for request in asked} == {node_id(1)}
    record = node.membership.get(node_id(1))
    assert record is not None
    assert record.accuser == node.id


def test_a_relays_word_that_it_lives_is_enough() -> None:
    node = lone()
    link_to(node, 1)
    other = link_to(node, 2)
    for _ in range(1000):
        run(node, 0.02, answers=False)
        answer(node, other)
        for request in sent(other, PingRequest):
            other.sent.remove(request)
            node.membership.on_ping_result(other, PingResult(request.number, True, 700), node.mesh.now)
        if node_id(1) not in node.core.links:
            break
    assert state(node, 1) == State.ALIVE


def test_any_traffic_counts_as_an_answer() -> None:
    node = lone()
    link = link_to(node, 1)
    for _ in range(300):
        link.received_bytes += 1
        run(node, 0.1, answers=False)
    assert state(node, 1) == State.ALIVE
    assert link.is_open


def test_a_link_that_stays_silent_is_dropped() -> None:
    node = lone()
    link = link_to(node, 1)
    run(node, 8, answers=False)
    assert link.is_open
    run(node, 30, answers=False)
    assert link.dropped == "it is silent"


def test_a_broken_link_is_a_reason_to_look_at_once() -> None:
    node = lone()
    link, other = link_to(node, 1, dialable=False), link_to(node, 2)
    run(node, 3)
    unlink(node, link)
    assert [request.target for request in sent(other, PingRequest)] == [node_id(1)]


def test_a_link_that_was_closed_as_one_too_many_is_none() -> None:
    node = lone()
    link, other = link_to(node, 1, dialable=False), link_to(node, 2)
    run(node, 3)
    node.membership.prober.probe(node_id(1), node.mesh.now)
    node.membership.on_bye(link, Bye(EXCESS), node.mesh.now)
    unlink(node, link)
    run(node, 3)
    assert not sent(other, PingRequest)
    assert state(node, 1) == State.ALIVE


def test_a_peer_that_said_goodbye_is_looked_for() -> None:
    node = lone()
    link, other = link_to(node, 1, dialable=False), link_to(node, 2)
    run(node, 3)
    node.membership.on_bye(link, Bye("it stops"), node.mesh.now)
    link.close("the peer says goodbye: it stops")
    unlink(node, link)
    assert [request.target for request in sent(other, PingRequest)] == [node_id(1)]


def test_a_relay_asks_and_tells() -> None:
    node = lone()
    asker, target = link_to(node, 1), link_to(node, 2)
    target.sent.clear()
    node.membership.on_ping_request(asker, PingRequest(77, node_id(2)), node.mesh.now)
    node.mesh.now += 0.05
    answer(node, target)
    assert sent(asker, PingResult) == [PingResult(77, is_alive=True, rtt_us=50_000)]


def test_a_relay_says_when_it_failed_before_its_asker_gives_up() -> None:
    node = lone()
    asker = link_to(node, 1)
    link_to(node, 2)
    node.membership.on_ping_request(asker, PingRequest(77, node_id(2)), node.mesh.now)
    run(node, 0.45, answers=False)
    assert sent(asker, PingResult) == [PingResult(77, is_alive=False)]


def test_a_relay_that_cannot_even_dial_says_so_at_once() -> None:
    node = lone()
    asker = link_to(node, 1)
    node.membership.on_ping_request(asker, PingRequest(77, node_id(9)), node.mesh.now)
    assert sent(asker, PingResult) == [PingResult(77, is_alive=False)]


def test_a_relay_dials_if_it_has_no_link() -> None:
    node = lone()
    asker = link_to(node, 1)
    hear(node, asker, record_of(2))
    node.membership.on_ping_request(asker, PingRequest(77, node_id(2)), node.mesh.now)
    assert not sent(asker, PingResult)
    link_to(node, 2)
    assert sent(asker, PingResult)[0].is_alive


def test_requests_of_a_peer_are_bounded() -> None:
    node = lone()
    asker = link_to(node, 1)
    link_to(node, 2)
    for number in range(5000):
        node.membership.on_ping_request(asker, PingRequest(number, node_id(2)), node.mesh.now)
    assert len(node.membership.prober._probes) <= 256


def test_round_trips_are_averaged() -> None:
    node = lone()
    link = link_to(node, 1)
    assert node.membership.rtt(node_id(1)) is None
    node.mesh.now += 0.1
    answer(node, link)
    assert node.membership.rtt(node_id(1)) == pytest.approx(0.1)
    node.membership.prober._begin(node_id(1), node.mesh.now, accuses=False)
    node.mesh.now += 0.2
    answer(node, link)
    assert node.membership.rtt(node_id(1)) == pytest.approx(0.125)


def test_late_ticks_make_a_node_doubt_itself_and_wait() -> None:
    node = lone()
    link = link_to(node, 1)
    run(node, 3)
    link.sent.clear()
    hear(node, link_to(node, 2), suspect(1))
    before = node.membership._suspicions[node_id(1)].deadline
    node.mesh.now += 40
    node.membership.tick(node.mesh.now)
    assert node.membership.health.score == 8
    assert state(node, 1) == State.SUSPECT
    assert node.membership._suspicions[node_id(1)].deadline == pytest.approx(before + 39, abs=1.5)


def test_a_late_answer_is_not_judged_before_the_delay_is_known() -> None:
    node = lone()
    link = link_to(node, 1)
    run(node, 3)
    node.mesh.now += 40
    node.core.now = node.mesh.now
    hear(node, link)
    node.membership.tick(node.mesh.now)
    assert state(node, 1) == State.ALIVE
    assert node.membership.health.score == 8
    run(node, 15)
    assert node.membership.health.score < 8


# --- suspicion


def test_a_suspect_that_does_not_refute_becomes_unreachable() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2, dialable=False), suspect(2, dialable=False))
    run(node, 20)
    assert state(node, 2) == State.SUSPECT
    run(node, 5)
    assert state(node, 2) == State.UNREACHABLE


def test_confirmations_shorten_the_wait() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, *[record_of(number) for number in range(2, 8)])
    hear(node, link, suspect(2, 3), suspect(2, 4), suspect(2, 5))
    run(node, 4.5)
    assert state(node, 2) == State.UNREACHABLE


def test_confirmations_are_passed_on() -> None:
    node = lone()
    link, other = link_to(node, 1), link_to(node, 9)
    hear(node, link, *[record_of(number) for number in range(2, 8)])
    hear(node, link, suspect(2, 3), suspect(2, 4))
    run(node, 1)
    accusers = {record.accuser for record in other.members() if record.node == node_id(2)}
    assert {node_id(3), node_id(4)} <= accusers


def test_a_refutation_ends_the_suspicion() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2), suspect(2))
    hear(node, link, record_of(2, incarnation=NOW_INCARNATION + 1, dialable=False))
    run(node, 60)
    assert state(node, 2) == State.ALIVE


def test_a_member_that_nobody_watches_is_missed_after_some_heartbeats() -> None:
    node = lone()
    link = link_to(node, 1)
    node.roster.admit(node_id(2), 0.0)
    hear(node, link, record_of(2, dialable=False))
    run(node, 850)
    assert state(node, 2) == State.ALIVE
    run(node, 150)
    assert state(node, 2) == State.UNREACHABLE


def test_a_heartbeat_is_enough_to_be_known_alive() -> None:
    node = lone()
    link = link_to(node, 1)
    for beat in range(4):
        hear(node, link, record_of(2, dialable=False, incarnation=NOW_INCARNATION + beat))
        run(node, 500)
    assert state(node, 2) == State.ALIVE


def test_a_node_gives_heartbeats() -> None:
    node = lone()
    link_to(node, 1)
    before = node.membership.incarnation
    run(node, 1000)
    assert 2 <= node.membership.incarnation - before <= 4


# --- bounds


def test_the_table_is_bounded() -> None:
    node = lone()
    link = link_to(node, 1)
    for number in range(2, 1500):
        hear(node, link, record_of(number))
    assert len(node.membership.records()) == MEMBERS_MAX - 1
    assert node.core.counters["members_refused_total"] > 0
    assert len(node.membership._gossip) <= MEMBERS_MAX


def test_dead_strangers_make_room() -> None:
    node = lone()
    link = link_to(node, 1)
    for number in range(2, MEMBERS_MAX):
        hear(node, link, record_of(number))
    hear(node, link, record_of(5, state=State.UNREACHABLE), record_of(2000))
    assert state(node, 5) is None
    assert state(node, 2000) == State.ALIVE


def test_dead_strangers_are_forgotten_in_time_and_members_are_not() -> None:
    node = lone()
    link = link_to(node, 1)
    node.roster.admit(node_id(2), 0.0)
    hear(node, link, record_of(2), record_of(3))
    hear(node, link, *[record_of(number, state=State.UNREACHABLE) for number in (2, 3)])
    run(node, 700)
    assert (state(node, 2), state(node, 3)) == (State.UNREACHABLE, None)


def test_the_greatest_table_fits_into_a_frame() -> None:
    node = lone()
    link = link_to(node, 1)
    for number in range(2, MEMBERS_MAX):
        long = ("a" * 250, "b" * 250)
        hear(node, link, record_of(number, addresses=long, zone="z" * 64, software="s" * 64))
    assert len(node.membership.records()) == MEMBERS_MAX - 1
    encode(Members(node.membership._all(), is_full=True, wants_reply=True))


def test_too_many_addresses_are_cut_or_refused() -> None:
    many = tuple("x" * 100 for _ in range(10))
    node = lone(addresses=many)
    assert sum(map(len, node.membership.own.addresses)) <= ADDRESS_CHARS_MAX
    link = link_to(node, 1, addresses=many)
    assert state(node, 1) == State.ALIVE
    hear(node, link, record_of(2, addresses=many))
    assert state(node, 2) is None


def test_absurd_incarnations_are_passed_over() -> None:
    node = lone()
    link = link_to(node, 1)
    hear(node, link, record_of(2, incarnation=2**62))
    assert state(node, 2) is None
    hear(node, link, attrs.evolve(node.membership.own, incarnation=2**62, state=State.SUSPECT))
    assert node.membership.incarnation < 2**60


# --- kept over a restart


def test_addresses_are_kept_over_a_restart() -> None:
    node = lone()
    hear(node, link_to(node, 1), record_of(2), record_of(3, dialable=False), record_of(4, addresses=()))
    again = lone()
    again.membership.restore(node.membership.export())
    assert again.membership.hints() == {node_id(n): record_of(n).addresses for n in (1, 2)}
    link_to(again, 1)
    assert list(again.membership.hints()) == [node_id(2)]


def test_a_great_table_is_kept_in_part() -> None:
    node = lone()
    link = link_to(node, 1)
    for number in range(2, MEMBERS_MAX):
        hear(node, link, record_of(number, addresses=("a" * 200, "b" * 200)))
    again = lone()
    again.membership.restore(node.membership.export())
    assert len(again.membership.hints()) > 100


@given(st.binary(max_size=60))
def test_what_was_kept_may_be_anything(stored: bytes) -> None:
    lone().membership.restore(stored)


# --- laws


@st.composite
def news(draw: st.DrawFn) -> list[MemberRecord]:
    record = st.builds(
        record_of,
        st.integers(2, 4),
        incarnation=st.integers(NOW_INCARNATION, NOW_INCARNATION + 3),
        state=st.sampled_from([State.ALIVE, State.SUSPECT, State.UNREACHABLE]),
        boot=st.sampled_from([b"1" * 16, b"2" * 16]),
        accuser=st.just(b""),
    )
    return draw(st.lists(record, min_size=1, max_size=12))


@given(news(), st.randoms(use_true_random=False))
def test_the_table_does_not_depend_on_the_order_of_what_is_heard(
    records: list[MemberRecord], rng: Random
) -> None:
    tables = []
    for _ in range(2):
        node = lone()
        for number in (2, 3, 4):
            node.roster.admit(node_id(number), 0.0)
        link = link_to(node, 1)
        for record in records:
            hear(node, link, record)
        tables.append({record.node: record for record in node.membership.records()})
        records = records * 2
        rng.shuffle(records)
    assert tables[0] == tables[1]


@given(member_records, member_records, member_records)
def test_records_are_ordered_totally(a: MemberRecord, b: MemberRecord, c: MemberRecord) -> None:
    assert compare(a, b) == -compare(b, a)
    if compare(a, b) >= 0 and compare(b, c) >= 0:
        assert compare(a, c) >= 0


numbers = st.integers(0, 6)
any_input = st.one_of(
    st.tuples(st.just("up"), numbers, st.booleans()),
    st.tuples(st.just("down"), numbers, st.booleans()),
    st.tuples(st.just("time"), st.floats(0, 20), st.booleans()),
    st.tuples(
        st.just("message"),
        numbers,
        st.one_of(
            st.lists(member_records, max_size=3).map(lambda records: Members(tuple(records))),
            st.builds(Ping, numbers, st.just(WALL_START_MS), numbers),
            st.builds(Pong, numbers, st.just(WALL_START_MS), st.just(WALL_START_MS), numbers),
            st.builds(PingRequest, numbers, numbers.map(node_id)),
            st.builds(PingResult, numbers, st.booleans()),
            st.builds(Bye, st.sampled_from(["", EXCESS])),
            st.builds(suspect, numbers).map(
                lambda record: Members((record,), is_full=True, wants_reply=True)
            ),
        ),
    ),
    st.tuples(st.just("failed"), numbers, st.booleans()),
)


@given(st.lists(any_input, max_size=40))
def test_no_input_breaks_a_machine(inputs: list[tuple[str, Any, Any]]) -> None:
    node = lone()
    for kind, value, extra in inputs:
        now = node.core.now = node.mesh.now
        number = value if isinstance(value, int) else 0
        link: Any = node.core.links.get(node_id(number))
        if kind == "time":
            run(node, value, answers=extra)
        elif kind == "up" and link is None and number:
            link_to(node, number, outgoing=extra)
        elif kind == "failed":
            node.topology.on_dial_failed("10.0.0.1:1", node_id(number) if extra else None, now)
            node.membership.on_dial_failed(node_id(number), now)
        elif kind == "down" and link is not None:
            unlink(node, link)
        elif kind == "message" and link is not None:
            receive(node, link, extra)
        assert len(node.membership.prober._probes) <= 256
        assert node.membership.state(node.id) is None
        for record in node.membership.records():
            assert (record.state == State.SUSPECT) == (record.node in node.membership._suspicions)


def receive(node: MeshNode, link: Any, message: Message) -> None:
    link.received_bytes += 50
    node.receive(link, message)
