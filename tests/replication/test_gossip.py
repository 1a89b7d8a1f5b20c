"""News about members cross each link once at most, and a bounded number of links."""

from __future__ import annotations

from random import Random

import attrs
from hypothesis import given
from hypothesis import strategies as st

from replication.gossip import FANOUT, Gossip, retransmits
from replication.messages import State
from tests.replication.mesh import LoneLink, hello_of, record_of


def links_of(count: int) -> list[LoneLink]:
    return [LoneLink(hello_of(100 + number), number=number) for number in range(count)]


def flush_all(gossip: Gossip, links: list[LoneLink]) -> None:
    for _ in range(100):
        gossip.flush(links)


def test_a_few_links_are_all_told_and_each_of_them_once() -> None:
    gossip, links = Gossip(Random(1)), links_of(7)
    gossip.put(record_of(1), count=8)
    flush_all(gossip, links)
    assert [link.members() for link in links] == [[record_of(1)]] * 7
    assert len(gossip) == 0


def test_of_many_links_some_are_told() -> None:
    gossip, links = Gossip(Random(1)), links_of(60)
    gossip.put(record_of(1), count=60)
    flush_all(gossip, links)
    assert sum(len(link.members()) for link in links) == retransmits(60) == 8
    assert max(len(link.members()) for link in links) == 1


def test_a_flush_uses_a_few_links() -> None:
    gossip, links = Gossip(Random(1)), links_of(60)
    gossip.put(record_of(1), count=60)
    gossip.flush(links)
    assert sum(len(link.sent) for link in links) == FANOUT


def test_neither_the_source_nor_the_member_itself_is_told() -> None:
    gossip, links = Gossip(Random(1)), links_of(3)
    gossip.put(record_of(100), count=4, told=[links[1].node])
    flush_all(gossip, links)
    assert [len(link.members()) for link in links] == [0, 0, 1]


def test_a_later_record_replaces_the_earlier_one() -> None:
    gossip, links = Gossip(Random(1)), links_of(1)
    gossip.put(record_of(1), count=2)
    later = record_of(1, incarnation=record_of(1).incarnation + 1)
    gossip.put(later, count=2)
    flush_all(gossip, links)
    assert links[0].members() == [later]


def test_accusations_by_different_members_travel_side_by_side() -> None:
    gossip, links = Gossip(Random(1)), links_of(1)
    accusations = [record_of(1, state=State.SUSPECT, accuser=bytes([n]) * 16) for n in range(3)]
    for accusation in accusations:
        gossip.put(accusation, count=5)
    flush_all(gossip, links)
    assert links[0].members() == accusations


def test_an_accusation_of_a_later_incarnation_replaces_those_of_earlier_ones() -> None:
    gossip, links = Gossip(Random(1)), links_of(1)
    gossip.put(record_of(1, state=State.SUSPECT, accuser=b"a" * 16), count=5)
    later = record_of(1, state=State.SUSPECT, accuser=b"b" * 16, incarnation=record_of(1).incarnation + 1)
    gossip.put(later, count=5)
    flush_all(gossip, links)
    assert links[0].members() == [later]


def test_many_news_are_cut_into_messages() -> None:
    gossip, links = Gossip(Random(1)), links_of(1)
    for number in range(200):
        gossip.put(record_of(number + 200), count=200)
    gossip.flush(links)
    assert len(links[0].members()) < 100
    flush_all(gossip, links)
    assert len(links[0].members()) == 200


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 2), st.integers(0, 3))))
def test_the_queue_is_bounded_by_members_and_accusers(news: list[tuple[int, int, int, int]]) -> None:
    gossip = Gossip(Random(1))
    for number, incarnation, state, accuser in news:
        record = record_of(number, incarnation=incarnation, state=State(state))
        if state == State.SUSPECT:
            record = attrs.evolve(record, accuser=bytes([accuser]) * 16)
        gossip.put(record, count=6)
    assert len(gossip) <= 6 * 4
